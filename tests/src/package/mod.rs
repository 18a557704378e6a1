//! The Debian package on a machine: installed, configured, run, upgraded under traffic, removed, purged.
//!
//! The machine is a copy of this one's files in which nothing that is changed lasts, in a network
//! namespace of the harness. `systemctl` is a stand-in that runs what the unit says.

mod leftovers;
mod machine;
mod scene;
mod systemctl;

pub use scene::run;

//! The end-to-end harness: network namespaces as hosts, real sockets, captures, and the real enforcer.
//!
//! Read in the order in which a test uses it: [`topology`] makes [`host`]s, [`enforcer`] starts the daemon on
//! them with a [`config`] and the keys of a [`keys`] fixture, [`tcp`], [`bulk`], [`interactive`], [`both`],
//! [`udp`] and [`load`] send traffic, [`wire`] loses and disorders it on the way, [`raw`] and [`mod@frame`] forge it,
//! [`recorded`] plays it again, [`handmade`] has keys besides, [`capture`] and [`stats`] see what was on the wire and in
//! the stacks, [`accounting`] compares the two with the drop counters.
//! [`scenario`] and [`onlooked`] have the arrangements most tests share, and [`mod@twin`] makes the pair of tests that every
//! enforcement claim needs. [`mod@bench`] measures instead of testing, [`mod@package`] installs the Debian package, [`mod@soak`]
//! runs for hours.
//!
//! Everything here needs root. Missing privilege or a missing tool is an error that names it, never a skip.

pub mod accounting;
pub mod bench;
pub mod both;
pub mod bulk;
pub mod calls;
pub mod capture;
pub mod config;
pub mod custom;
pub mod enforcer;
pub mod flood;
pub mod frame;
pub mod fuzz;
pub mod handmade;
pub mod host;
pub mod interactive;
pub mod intruder;
pub mod keys;
pub mod load;
pub mod mounted;
pub mod names;
pub mod need;
pub mod onlooked;
pub mod package;
pub mod pins;
pub mod pods;
pub mod policy;
pub mod program;
pub mod raw;
pub mod recorded;
pub mod saved_syn;
pub mod scenario;
pub mod simulate;
pub mod soak;
pub mod stats;
pub mod stranger;
pub mod tcp;
pub mod topology;
pub mod twin;
pub mod udp;
pub mod wire;

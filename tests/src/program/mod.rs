//! The program tests' harness: a frame in; a frame out, a TC action and the counters that moved.
//!
//! [`kernel`] loads the embedded object once a process and runs its programs with `BPF_PROG_TEST_RUN`, attached to
//! nothing; [`world`] fills the maps as the daemon would for one workload with one peer; [`segment`] and [`packet`]
//! build frames with checksums of their own; [`table`] runs rows of cases for both families.

// Whatever goes wrong here fails the test at hand; a section on each function would say the same.
#![allow(clippy::missing_panics_doc)]

pub mod kernel;
pub mod mac;
pub mod packet;
pub mod random;
pub mod segment;
pub mod table;
pub mod world;

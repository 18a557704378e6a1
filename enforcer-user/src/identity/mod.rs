//! Identities, and the credentials that carry them.

pub mod claims;

pub use claims::{Identity, NameError, Namespace};

//! Who may connect to whom: Cedar policies on identities, and network rules for what has none.
//!
//! `files -> parse -> validate -> index -> decide`. A loaded policy never changes; a reload makes
//! a new one, or an error and nothing else.

mod error;
mod index;
mod names;
mod parse;
mod protocol;
mod request;
mod rule;
mod schema;
mod set;
mod source;

pub use error::{PolicyError, PolicyErrors};
pub use names::nearest;
pub use protocol::{Protocol, ProtocolError};
pub use request::Request;
pub use rule::{Effect, Rule};
pub use set::{Decision, PolicySet, RuleFailure};
pub use source::{SourceFile, read_sources};

#[cfg(test)]
mod tests;

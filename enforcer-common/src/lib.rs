//! What the kernel programs and the daemon share: the map ABI, the wire format, the handshake's
//! MACs and the pure logic of the datapath. Everything here runs in the kernel and on the host.

#![cfg_attr(not(test), no_std)]
// In the kernel every call costs a frame of a 512-byte stack, and helpers must vanish in callers.
#![allow(clippy::inline_always)]
// Widths are those of packet fields, checked before the cast; a checked cast would add a branch
// that the verifier has to walk.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

pub mod abi;
pub mod crypto;
pub mod datapath;
pub mod wire;

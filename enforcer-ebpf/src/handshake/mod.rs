//! The handshake's SYN and SYN-ACK (docs/PROTOCOL.md): `client` sends S1 and receives S2, `server`
//! receives S1 and sends S2, `again` knows what comes again behind the proof, `options` reads what
//! carries them, `room` makes room for it. What both halves share is here.

mod again;
mod client;
mod options;
mod room;
mod server;

pub use client::{answered, open};
pub use options::{MALFORMED, OURS, WRONG, judge_hello, scan_loaded, scan_options};
pub use server::{accept, answer};

use enforcer_common::abi::{
    AttemptValue, CredentialValue, DropReason, Handle, PeerKey, PeerValue, role,
};

use crate::{
    maps::{CREDENTIALS, PEERS},
    scratch::Scratch,
    workload,
};

/// Go on with the next step.
const CONTINUE: u32 = 1 << 18;

/// Whether the workload's own S1 waits for an answer.
#[inline(always)]
fn calls(a: &AttemptValue) -> bool {
    a.role == role::BOTH || a.role == role::CLIENT && a.answered == 0
}

#[inline(always)]
pub fn find_peer(local: Handle, remote: Handle) -> Option<&'static PeerValue> {
    // SAFETY: read only; the daemon replaces a value whole and never reuses a live handle.
    unsafe { PEERS.get(&PeerKey { local, remote }) }
}

/// The handle is known: credential whole and not expired.
#[inline(always)]
pub fn check_peer(s: &mut Scratch, peer: &PeerValue, length: u32) -> Result<(), DropReason> {
    s.peer = peer.identity;
    if peer.deadline_ns <= s.now_ns && !cfg!(feature = "mutate-expiry") {
        return Err(DropReason::Expired);
    }
    if length != u32::from(peer.length) && !cfg!(feature = "mutate-credential-length") {
        return Err(DropReason::CredentialLength);
    }
    Ok(())
}

#[inline(always)]
pub fn current_credential(s: &Scratch) -> Result<(Handle, &'static CredentialValue), DropReason> {
    let handle = workload::find(s)?.value.credential;
    let credential = credential(&handle)?;
    if credential.deadline_ns <= s.now_ns {
        return Err(DropReason::NoCredential);
    }
    Ok((handle, credential))
}

/// A credential of a workload here, expired or not.
#[inline(always)]
fn credential(handle: &Handle) -> Result<&'static CredentialValue, DropReason> {
    // SAFETY: read only; credentials are never changed in place, only removed long after their last use.
    unsafe { CREDENTIALS.get(handle) }.ok_or(DropReason::NoCredential)
}

/// A result as a subprogram's number.
#[inline(always)]
fn number(result: Result<(), DropReason>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// A subprogram's number as a result.
#[inline(always)]
pub fn check(number: u32) -> Result<(), DropReason> {
    if number == 0 {
        return Ok(());
    }
    Err(DropReason::from_number(number as u16).unwrap_or(DropReason::Internal))
}

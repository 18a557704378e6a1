//! What becomes of a packet.

use aya_ebpf::bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC};
use enforcer_common::abi::DropReason;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Goes on, to programs behind ours too.
    Pass,
    /// Dropped, and counted under the reason.
    Drop(DropReason),
    /// `bpf_redirect` was called: it goes elsewhere.
    Redirect,
}

const PASS: u32 = 0;
const REDIRECT: u32 = 1 << 16;

impl Outcome {
    /// A number, since a subprogram returns one register.
    #[inline(always)]
    pub fn to_number(self) -> u32 {
        match self {
            Self::Pass => PASS,
            Self::Drop(reason) => reason as u32,
            Self::Redirect => REDIRECT,
        }
    }

    /// The TC action of a number of [`Self::to_number`]; whatever is not known drops.
    #[inline(always)]
    pub fn action(number: u32) -> i32 {
        match number {
            PASS => TC_ACT_UNSPEC,
            REDIRECT => TC_ACT_REDIRECT,
            _ => TC_ACT_SHOT,
        }
    }

    /// The drop reason's number, if it is a drop.
    #[inline(always)]
    pub fn reason(number: u32) -> Option<u16> {
        if number == PASS || number == REDIRECT { None } else { Some(number as u16) }
    }
}

impl From<Result<(), DropReason>> for Outcome {
    #[inline(always)]
    fn from(result: Result<(), DropReason>) -> Self {
        match result {
            Ok(()) => Self::Pass,
            Err(reason) => Self::Drop(reason),
        }
    }
}

//! A first contact before the first: what a verification and a decision touch for the first time
//! (code, tables, caches of the policy language) is paid for at the start, not by a peer.

use std::sync::Arc;

use super::Engine;
use super::clock::Now;
use super::jobs::{Job, Work};
use crate::policy::{Action, Protocol, Request};

impl Engine {
    /// A job that verifies a credential of this node as if a peer had sent it, after the policy
    /// decided about it. Nothing follows from either; the job's result has no taker.
    pub fn rehearse(&mut self, now: Now) -> Option<Job> {
        let workload = self.workloads.iter().next()?;
        let local = workload.credentials.iter().find_map(|own| own.secret.clone())?;

        if let Some(policy) = &self.policy {
            let own = workload.identity();
            let _ = policy.decide(&Request {
                action: Action::Accept,
                caller: own,
                callee: own,
                port: 0,
                protocol: Protocol::TCP,
                unix_seconds: i64::try_from(now.unix_seconds()).unwrap_or(i64::MAX),
            });
        }
        let (verifier, credential) = (Arc::clone(&self.verifier), local.bytes().to_vec());
        let work = Work::Verify { verifier, credential, local, now };
        Some(Job { id: self.jobs.unlisted(), work })
    }
}

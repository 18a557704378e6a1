//! What happens a few times in a run: the policy changes, somebody is revoked, the node's certificate is renewed.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use enforcer_user::engine::Input;
use enforcer_user::identity::{Revocations, Verifier};
use enforcer_user::policy::{Policy, SourceFile};

use super::cluster::Cluster;
use super::course::{Course, FIRST_PORT};
use super::heap::{self, counted};
use super::node::kind;

impl Course<'_> {
    /// What happens a few times in a run, at the beginning of a minute.
    pub(super) fn special(&mut self, minute: u32) -> Result<()> {
        let at = |part: u32, of: u32| minute == (self.options.minutes * part / of).max(1);
        let (third, two_thirds) = (at(1, 3), at(2, 3));
        let (half, later) = (at(1, 2), at(3, 5));
        if third || two_thirds {
            self.set_policy()?;
        }
        if half {
            self.revoke()?;
        }
        if later {
            let issuer = Arc::new(self.authorities.issuer(self.number, self.unix())?);
            let now = self.now();
            self.node.tell(kind::TRUST, now, || Ok(Input::SetIssuer(issuer)))?;
        }
        Ok(())
    }

    /// Puts a policy in force in which one rule differs from the one before.
    pub(super) fn set_policy(&mut self) -> Result<()> {
        let file = SourceFile::new("cluster.cedar", rules(self.cluster, self.revision));
        self.revision += 1;
        let before = self.node.engine().policy().cloned();
        let held = heap::held();
        let policy = self.node.spend(kind::LOADS, || {
            let files = std::slice::from_ref(&file);
            counted(|| {
                Policy::from_sources_after(before.as_deref(), files, Vec::new()).map(Arc::new)
            })
        })??;
        if self.policy_bytes.is_none() {
            self.policy_bytes = heap::held().zip(held).map(|(after, before)| after - before);
        }
        let live = counted(|| self.node.flows.live());
        let now = self.now();
        self.node.tell(kind::POLICY, now, || Ok(Input::SetPolicy { policy, live }))
    }

    /// Revokes what one of the others shows.
    fn revoke(&mut self) -> Result<()> {
        let unix = self.unix();
        let mut revocations = Revocations::default();
        if let Some(remote) = self.remotes.first_mut() {
            let (_, bytes) = remote.show(&mut self.authorities, unix)?;
            revocations.credentials.insert(blake3::hash(bytes).into());
        }
        let trust = self.authorities.trust()?.revoking(revocations)?;
        let now = self.now();
        self.node.tell(kind::TRUST, now, || Ok(Input::SetVerifier(Arc::new(Verifier::new(trust)))))
    }
}

/// One rule for each service and each that it calls. Revisions differ in one rule.
fn rules(cluster: &Cluster, revision: u32) -> String {
    let mut text = String::new();
    let pairs = (0..).zip(cluster.dependencies()).flat_map(|(caller, callees)| {
        callees.iter().enumerate().map(move |(n, callee)| (caller, n, *callee))
    });
    for (number, (caller, n, callee)) in (0_u32..).zip(pairs) {
        let (caller, port): (u16, u16) = (caller, FIRST_PORT + callee);
        let more = if number == revision { " && context.protocol == \"tcp\"" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "@id(\"svc{caller}-{n}\") permit(principal in Namespace::\"/acme/svc{caller}\", action, \
             resource in Namespace::\"/acme/svc{callee}\") \
             when {{ principal.labels.tier == \"prod\" && context.port == {port}{more} }};"
        );
    }
    text
}

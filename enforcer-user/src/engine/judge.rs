//! One question to the policy, and its answer as the kernel's verdict.

use enforcer_common::abi::{VerdictValue, direction, obligation, verdict_action, workload_flags};

use super::Engine;
use super::clock::Now;
use super::io::{Denial, Question};
use super::peers::{identity_of, lease_limit};
use super::workloads::Workload;
use crate::explain::as_request;
use crate::identity::Identity;
use crate::policy::{Decision, Explanation, Obligations, Policy, Request, Rule, UNENCRYPTED};

/// How long a denial is cached, in seconds: a label or a clock may be set right at the peer.
pub const DENIED_SECONDS: u64 = 10;

/// An answer of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// One of [`verdict_action`].
    pub action: u8,
    /// Number of the rule that decided, from 1; 0 for none.
    pub rule: u32,
    /// Whether another port may have another answer.
    pub port_matters: bool,
    /// The second (Unix time) up to which it holds.
    pub valid_until: Option<u64>,
    /// What to log of a denial.
    pub denial: Option<Denial>,
    /// Any of [`obligation`].
    pub obligations: u8,
}

impl Judged {
    /// Whether packets pass.
    pub fn passes(&self) -> bool {
        self.action != verdict_action::DENY
    }

    /// The boot time up to which it holds, if nobody sets the wall clock.
    pub fn ends_ns(&self, now: Now) -> u64 {
        self.valid_until.map_or(u64::MAX, |at| now.boot_deadline(at))
    }

    /// The question that this answers: for all ports where none matters.
    pub fn answered(&self, asked: Question) -> Question {
        if self.port_matters { asked } else { asked.any_port() }
    }
}

/// How long an answer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// Up to the end of the credentials: a peer that was verified.
    Credentials,
    /// Beyond the peer's credential, within its node's certificate: flows that live on.
    Lease,
}

impl Engine {
    /// Asks the policy; none if the peer or the workload is not known.
    pub(super) fn judge(
        &self,
        policy: Option<&Policy>,
        asked: &Question,
        unix_seconds: u64,
    ) -> Option<Judged> {
        let workload = self.workloads.get(asked.workload)?;
        let peer = identity_of(self.peers.known(asked.peer)?);
        let own = workload.identity();
        let inbound = asked.direction == direction::INGRESS;
        let Some(policy) = policy else { return Some(no_policy()) };
        let decision = policy.decide(&request(own, peer, asked, unix_seconds));
        let observed = workload.value.flags & workload_flags::OBSERVE != 0;
        let against = if decision.allow { would_deny(&decision) } else { Some(because(&decision)) };
        let observed = observed || decision.allow;
        let denial = against.map(|because| Denial {
            asked: *asked,
            peer_identity: peer.clone(),
            workload: own.spiffe_id(),
            peer: peer.spiffe_id(),
            port: asked.port,
            direction: if inbound { "ingress" } else { "egress" },
            observed,
            because,
        });
        Some(Judged {
            action: match (&denial, observed) {
                (None, _) => verdict_action::ALLOW,
                (Some(_), true) => verdict_action::WOULD_DENY,
                (Some(_), false) => verdict_action::DENY,
            },
            // What overrides the rules is none of them.
            rule: match (decision.overridden, decision.rules.first()) {
                (None, Some(rule)) => rule_number(rule),
                _ => 0,
            },
            // Of whoever learns every port is to be known.
            port_matters: decision.port_matters || workload.spec.learns,
            valid_until: decision.valid_until.map(|at| u64::try_from(at).unwrap_or_default()),
            denial,
            obligations: carried(decision.obligations(), observed),
        })
    }

    /// Why the policy in force decides as it does, at this node's end.
    #[must_use]
    pub fn explain(&self, asked: &Question, peer: &Identity, now: Now) -> Option<Explanation> {
        let own = self.workloads.get(asked.workload)?.identity();
        Some(self.policy()?.explain(&request(own, peer, asked, now.unix_seconds())))
    }

    /// What the policy in force says against a connection; none if it says nothing.
    #[must_use]
    pub fn denial(&self, asked: &Question, now: Now) -> Option<Denial> {
        self.judge(self.policy.as_deref(), asked, now.unix_seconds())?.denial
    }

    /// The verdict for the kernel.
    pub(super) fn verdict(
        &self,
        asked: &Question,
        judged: &Judged,
        term: Term,
        now: Now,
    ) -> VerdictValue {
        let end = if judged.passes() {
            self.credentials_end(asked, term, now)
        } else {
            now.after(DENIED_SECONDS)
        };
        VerdictValue {
            deadline_ns: end.min(judged.ends_ns(now)),
            rule: judged.rule,
            action: judged.action,
            obligations: judged.obligations,
            zero: [0; 2],
        }
    }

    /// The earlier end of both sides' word, in boot time.
    fn credentials_end(&self, asked: &Question, term: Term, now: Now) -> u64 {
        let own = self.workloads.get(asked.workload).and_then(newest_end).unwrap_or(now.boot_ns);
        let Some(known) = self.peers.known(asked.peer) else { return now.boot_ns };
        let ends = known.latest.ends;
        let peer = match term {
            Term::Credentials => ends.credential_ns,
            Term::Lease => {
                let lease = now.after(self.settings.credential.lifetime_seconds);
                // By both clocks: a certificate that was verified by a wrong one is not leased on
                // for as long as that one was wrong.
                let by_wall = now.boot_deadline(lease_limit(&known.latest));
                ends.credential_ns.max(lease.min(ends.node_ns).min(by_wall))
            }
        };
        own.min(peer)
    }
}

/// The question in the policy's words.
fn request<'a>(own: &'a Identity, peer: &'a Identity, asked: &Question, unix: u64) -> Request<'a> {
    as_request(own, peer, asked, i64::try_from(unix).unwrap_or(i64::MAX))
}

fn newest_end(workload: &Workload) -> Option<u64> {
    workload.credentials.iter().map(|own| own.deadline_ns).max()
}

/// Without a policy nothing is allowed, in observe mode neither.
fn no_policy() -> Judged {
    Judged {
        action: verdict_action::DENY,
        rule: 0,
        port_matters: false,
        valid_until: None,
        denial: None,
        obligations: 0,
    }
}

/// Obligations as the kernel's verdict carries them. Where denials are only observed, nothing is asked for that the
/// programs would deny.
fn carried(obligations: Obligations, observed: bool) -> u8 {
    let log = if obligations.log { obligation::LOG } else { 0 };
    let encrypt = if obligations.encrypt && !observed { obligation::ENCRYPT } else { 0 };
    log | encrypt
}

/// The place of a rule among all, from 1.
fn rule_number(rule: &Rule) -> u32 {
    u32::try_from(rule.number() + 1).unwrap_or_default()
}

/// What would deny, if what is only observed or staged were enforced.
fn would_deny(decision: &Decision<'_>) -> Option<String> {
    if decision.overridden.is_some() {
        return None;
    }
    if !decision.observed.is_empty() {
        let rules: Vec<String> = decision.observed.iter().map(ToString::to_string).collect();
        return Some(rules.join("; "));
    }
    let staged = decision.staged.as_ref()?;
    Some(format!("staged policy: {}", because(staged)))
}

fn because(decision: &Decision<'_>) -> String {
    if let Some(refused) = &decision.refused {
        return refused.clone();
    }
    if let Some(by) = decision.overridden {
        return by.to_string();
    }
    if decision.rules.is_empty() {
        return "no rule permits it".to_owned();
    }
    let texts: Vec<String> = decision
        .rules
        .iter()
        .map(|rule| {
            let failed = decision.failures.iter().find(|failure| std::ptr::eq(failure.rule, *rule));
            match failed {
                Some(failure) => format!("{rule} could not be evaluated: {}", failure.message),
                None if rule.obligations().encrypt => format!("{rule}{UNENCRYPTED}"),
                None => rule.to_string(),
            }
        })
        .collect();
    texts.join("; ")
}

//! What the daemon's mind costs by itself: decisions, verifications and policy changes among 10,000 rules
//! and 10,000 identities. In this process, without kernel and threads; times are processor time of the
//! thread, so that other work on the machine does not count.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use enforcer_common::abi::{FlowKey, Handle, direction, mapped};
use enforcer_common::wire::checksum::transport;
use enforcer_common::wire::option::HandshakeOption;
use enforcer_user::engine::{
    Engine, HeldFrame, Input, Mesh, Now, Output, SECOND_NS, Settings, WorkloadSpec,
};
use enforcer_user::heap;
use enforcer_user::identity::{
    Authority, Identity, Issuer, Limits, NodeRequest, SigningKey, Trust, Verifier,
};
use enforcer_user::policy::{Action, Policy, Protocol, Request, SourceFile};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::figures::{Spread, percentile_99};
use super::options::Options;
use super::process;

/// Rules of one namespace.
const RULES_A_TEAM: usize = 10;
const TRUST_DOMAIN: &str = "example.org";
const UNIX: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const LIMITS: Limits = Limits { lifetime_seconds: 3600, max_bytes: 1120 };
/// Addresses for documentation (RFC 5737).
const LOCAL: [u8; 4] = [192, 0, 2, 1];
const REMOTE: [u8; 4] = [198, 51, 100, 2];
const PORT: u16 = 80;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Costs {
    /// Rules of the policy.
    pub rules: usize,
    /// Identities that were met.
    pub identities: usize,
    /// A decision about two identities that were not asked about before, microseconds.
    pub decide_p50_us: f64,
    /// As before, the 99th percentile.
    pub decide_p99_us: f64,
    /// The same where the heads of all rules are alike.
    pub decide_alike_p99_us: f64,
    /// The first verification, a node's certificate included, microseconds.
    pub first_verification_us: f64,
    /// A held segment of a new identity whose node is known, up to its re-injection: verification, X25519
    /// and decision, microseconds.
    pub meet_p50_us: f64,
    /// Of those, so many a second and core.
    pub met_per_second: f64,
    /// Reading and checking the policy, milliseconds.
    pub policy_load_ms: f64,
    /// The same after one of its rules has changed, behind the one before, milliseconds.
    pub policy_reload_ms: f64,
    /// Judging everything anew, milliseconds.
    pub policy_change_ms: f64,
    /// What the process grew by for each identity, bytes.
    pub identity_bytes: f64,
}

/// Measures it.
pub fn measure(options: &Options) -> Result<Costs> {
    let count = if options.is_quick() { 500 } else { 10_000 };
    let by_team =
        rules(count, |rule| format!("in Namespace::\"/acme/team{}\"", rule / RULES_A_TEAM));
    let started = processor_time()?;
    let policy = load(by_team.clone())?;
    let policy_load_ms = millis(processor_time()?.saturating_sub(started));
    let policy_reload_ms = reload(&policy, &by_team, count / 2)?;
    let decisions = decisions(&policy, count)?;
    let alike = load(rules(count, |_| "in Namespace::\"/acme\"".to_owned()))?;
    let alike = self::decisions(&alike, count.min(2_000))?;
    let met = meet(Arc::new(policy), count)?;
    Ok(Costs {
        rules: count,
        identities: count,
        decide_p50_us: Spread::of(decisions.clone()).median,
        decide_p99_us: percentile_99(decisions),
        decide_alike_p99_us: percentile_99(alike),
        policy_load_ms,
        policy_reload_ms,
        ..met
    })
}

fn rules(count: usize, head: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |mut text, rule| {
        let (head, port) = (head(rule), port(rule));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "@id(\"rule{rule}\") permit(principal {head}, action, resource {head}) \
             when {{ principal.labels.tier == \"front\" && context.port == {port} }};"
        );
        text
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder of 60,000 fits")]
fn port(rule: usize) -> u16 {
    1 + (rule % 60_000) as u16
}

fn load(text: String) -> Result<Policy> {
    Ok(Policy::from_sources(&[SourceFile::new("bench.cedar", text)], Vec::new())?)
}

/// Milliseconds that a change of one rule takes to be read and checked.
fn reload(policy: &Policy, text: &str, rule: usize) -> Result<f64> {
    let port = format!("context.port == {} }}", port(rule));
    let changed = text.replacen(&port, "context.port == 60001 }", 1);
    ensure!(changed != text, "no rule of the policy has changed");
    let files = [SourceFile::new("bench.cedar", changed)];
    let started = processor_time()?;
    black_box(Policy::from_sources_after(Some(policy), &files, Vec::new())?);
    Ok(millis(processor_time()?.saturating_sub(started)))
}

/// Microseconds of decisions, each about two identities of its own.
fn decisions(policy: &Policy, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for rule in (0..count).map(|n| n * 7919 % count) {
        let caller = caller(rule)?;
        let callee = workload(rule, "db", "back")?;
        let request = Request {
            action: Action::Connect,
            caller: &caller,
            callee: &callee,
            port: port(rule),
            protocol: Protocol::TCP,
            unix_seconds: i64::try_from(UNIX)?,
        };
        let before = processor_time()?;
        let decision = black_box(policy.decide(black_box(&request)));
        times.push(micros(processor_time()?.saturating_sub(before)));
        ensure!(decision.allow, "rule {rule} of {count} did not permit");
    }
    Ok(times)
}

/// First contacts of `count` identities of one node with one workload, and a policy change then.
fn meet(policy: Arc<Policy>, count: usize) -> Result<Costs> {
    let (ours, theirs, trust) = nodes()?;
    let room = 2 * count;
    let settings =
        Settings { peers: room, verdicts: room, credential: LIMITS, mesh: Mesh::default() };
    let mut engine = Engine::new(settings, Arc::new(ours), Arc::new(Verifier::new(trust)));
    let spec = WorkloadSpec {
        identity: workload(1, "shop", "back")?,
        flags: 0,
        adopt_until_ns: 0,
        learns: false,
    };
    let installed = engine.handle(Input::AddWorkload(spec), now(0)).into_iter().find_map(
        |output| match output {
            Output::InstallWorkload(id, value) => Some((id, value.credential)),
            _ => None,
        },
    );
    let local = installed.context("the workload was not installed")?;
    let change = |policy| Input::SetPolicy { policy, live: Vec::new() };
    drop(engine.handle(change(Arc::clone(&policy)), now(0)));
    let mut times = Vec::with_capacity(count);
    // What was freed before must not be taken for room that an identity needs not.
    heap::trim();
    let resident = process::own_resident_kib()?;
    for peer in 0..count {
        let credential = theirs.issue(&caller(peer)?, UNIX, LIMITS)?;
        times.push(micros(first_contact(&mut engine, held(local, credential.bytes())?)?));
    }
    heap::trim();
    let grown = process::own_resident_kib()?.saturating_sub(resident);
    let started = processor_time()?;
    black_box(engine.handle(change(policy), now(1)));
    let policy_change_ms = millis(processor_time()?.saturating_sub(started));
    let first_verification_us = times.remove(0);
    let total: f64 = times.iter().sum();
    Ok(Costs {
        rules: 0,
        identities: 0,
        decide_p50_us: f64::NAN,
        decide_p99_us: f64::NAN,
        decide_alike_p99_us: f64::NAN,
        first_verification_us,
        met_per_second: 1e6 * as_f64(times.len()) / total,
        meet_p50_us: Spread::of(times).median,
        policy_load_ms: f64::NAN,
        policy_reload_ms: f64::NAN,
        policy_change_ms,
        identity_bytes: 1024.0 * as_f64(usize::try_from(grown)?) / as_f64(count),
    })
}

/// From the held segment to its re-injection; an error if it does not come to that.
fn first_contact(engine: &mut Engine, held: HeldFrame) -> Result<Duration> {
    let started = processor_time()?;
    let outputs = engine.handle(Input::Held(held), now(0));
    let job = outputs.into_iter().find_map(|output| match output {
        Output::Verify(job) => Some(job),
        _ => None,
    });
    let result = job.context("a first contact made no job")?.run();
    let outputs = engine.handle(Input::Verified(result), now(0));
    let took = processor_time()?.saturating_sub(started);
    let kinds = |wanted: fn(&Output) -> bool| outputs.iter().any(wanted);
    ensure!(
        kinds(|output| matches!(output, Output::InstallPeer(..)))
            && kinds(|output| matches!(output, Output::InstallVerdict(..)))
            && kinds(|output| matches!(output, Output::Reinject { .. })),
        "a first contact did not end in peer, verdict and re-injection: {outputs:?}"
    );
    Ok(took)
}

fn nodes() -> Result<(Issuer, Issuer, Trust)> {
    let authority = Authority::init(TRUST_DOMAIN, UNIX - DAY, 30 * DAY)?;
    let node = |name: &str| {
        let key = SigningKey::generate()?;
        let request = NodeRequest::new(name, &key)?;
        let certificate = authority.issue_node(&request, &["/acme".parse()?], UNIX, DAY)?;
        anyhow::Ok(Issuer::node(key, certificate)?)
    };
    let trust = Trust::pki(TRUST_DOMAIN, vec![authority.certificate().clone()])?;
    Ok((node("ours")?, node("theirs")?, trust))
}

fn caller(rule: usize) -> Result<Identity> {
    workload(rule, &format!("web{rule}"), "front")
}

fn workload(rule: usize, name: &str, tier: &str) -> Result<Identity> {
    let namespace = format!("/acme/team{}/prod", rule / RULES_A_TEAM).parse()?;
    let labels = [("tier", tier), ("env", "prod")];
    let labels: BTreeMap<String, String> =
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Ok(Identity::new(TRUST_DOMAIN, namespace, name, labels)?)
}

/// S1 with this credential, as the kernel hands it over.
fn held((workload, local_handle): (u16, Handle), credential: &[u8]) -> Result<HeldFrame> {
    let key = FlowKey {
        workload,
        protocol: 6,
        zero: 0,
        local_port: PORT,
        remote_port: 40_000,
        local: mapped(LOCAL),
        remote: mapped(REMOTE),
    };
    Ok(HeldFrame {
        ifindex: 3,
        host_side: true,
        time_ns: now(0).boot_ns,
        key,
        local_handle,
        peer: 0,
        port: PORT,
        direction: direction::INGRESS,
        transport_offset: 34,
        frame: frame(credential)?,
    })
}

fn frame(credential: &[u8]) -> Result<Vec<u8>> {
    let handle: Handle =
        blake3::hash(credential).as_bytes().first_chunk().copied().unwrap_or_default();
    let option = HandshakeOption::hello(handle, [9; 8]);
    let mut tcp = Vec::new();
    tcp.extend(40_000_u16.to_be_bytes());
    tcp.extend(PORT.to_be_bytes());
    // A sequence of its own, so that none looks like one that was put back before.
    tcp.extend(handle.first_chunk::<4>().copied().unwrap_or_default());
    tcp.extend([0, 0, 0, 0, 10 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(option.head);
    tcp.extend(option.body);
    tcp.extend(credential);
    let sum = transport(&REMOTE, &LOCAL, 6, &tcp);
    tcp.get_mut(16..18).context("a TCP header has a checksum")?.copy_from_slice(&sum);
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(20 + tcp.len())?.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(REMOTE);
    frame.extend(LOCAL);
    frame.extend(tcp);
    Ok(frame)
}

fn now(seconds: u64) -> Now {
    Now { boot_ns: (1000 + seconds) * SECOND_NS, unix_ns: (UNIX + seconds) * SECOND_NS }
}

/// Time this thread has run.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

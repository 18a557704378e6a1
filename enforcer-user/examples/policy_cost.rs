//! Prints what loading, changing one policy and deciding cost at 100, 1,000 and 10,000 policies.
//!
//! Times are this thread's processor time, so that a busy machine does not change them much.
//!
//! `cargo run --release -p enforcer-user --example policy_cost`

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::time::Duration;

use enforcer_user::identity::Identity;
use enforcer_user::policy::{Action, Policy, Protocol, Request, SourceFile};
use nix::time::{ClockId, clock_gettime};

/// Policies of one namespace in the set with a namespace for every team.
const POLICIES_A_TEAM: usize = 10;
const DECISIONS: usize = 2000;
/// The longest that one row is measured for.
const ROW_LIMIT: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "policies | heads      | load ms | changed ms | RSS KiB | decide us p50 |    p99 | first"
    );
    for policies in [100, 1000, 10_000] {
        measure(policies, "namespaces", |n| {
            format!("in Namespace::\"/acme/team{}\"", n / POLICIES_A_TEAM)
        })?;
        measure(policies, "all alike", |_| "in Namespace::\"/acme\"".to_owned())?;
    }
    Ok(())
}

fn measure(
    policies: usize,
    heads: &str,
    head: impl Fn(usize) -> String,
) -> Result<(), Box<dyn Error>> {
    let text = (0..policies).fold(String::new(), |mut text, n| {
        let head = head(n);
        let port = 1 + n % 60_000;
        let _ = writeln!(
            text,
            "@id(\"rule{n}\") permit(principal {head}, action, resource {head}) \
             when {{ principal.labels.tier == \"front\" && context.port == {port} }};"
        );
        text
    });
    let resident_before = resident_kib()?;
    let started = processor_time()?;
    let policy = Policy::from_sources(&[SourceFile::new("cost.cedar", text.clone())], Vec::new())?;
    let load = processor_time()?.saturating_sub(started);
    let resident = resident_kib()?.saturating_sub(resident_before);
    let middle = format!("context.port == {} }}", 1 + policies / 2 % 60_000);
    let changed = text.replacen(&middle, &middle.replace(" }", " && true }"), 1);
    let files = [SourceFile::new("cost.cedar", changed)];
    let started = processor_time()?;
    let changed = Policy::from_sources_after(Some(&policy), black_box(&files), Vec::new())?;
    let change = processor_time()?.saturating_sub(started);
    if changed.generation() == policy.generation() {
        return Err("the change changed nothing".into());
    }
    drop(changed);
    let mut times = decide_times(&policy, policies)?;
    let first = times[0];
    times.sort_unstable();
    println!(
        "{policies:8} | {heads:10} | {:7.0} | {:10.1} | {resident:7} | {:13.1} | {:6.1} | {:5.1}",
        load.as_secs_f64() * 1e3,
        change.as_secs_f64() * 1e3,
        micros(times[times.len() / 2]),
        micros(times[times.len() * 99 / 100]),
        micros(first),
    );
    Ok(())
}

/// Callers and callees of ever other teams; each finds the policy of its team and port.
fn decide_times(policy: &Policy, policies: usize) -> Result<Vec<Duration>, Box<dyn Error>> {
    let started = processor_time()?;
    let mut times = Vec::with_capacity(DECISIONS);
    for n in (0..DECISIONS).map(|n| n * 7919 % policies) {
        let team = n / POLICIES_A_TEAM;
        let caller = workload(team, "web", &[("tier", "front"), ("env", "prod")])?;
        let callee = workload(team, "db", &[("tier", "back"), ("env", "prod")])?;
        let request = Request {
            action: Action::Connect,
            caller: &caller,
            callee: &callee,
            port: u16::try_from(1 + n % 60_000)?,
            protocol: Protocol::TCP,
            unix_seconds: 1_772_447_420,
        };
        let before = processor_time()?;
        let decision = black_box(policy.decide(black_box(&request)));
        let after = processor_time()?;
        times.push(after.saturating_sub(before));
        if !decision.allow {
            return Err(format!("rule {n} of {policies} did not permit").into());
        }
        if after.saturating_sub(started) > ROW_LIMIT {
            break;
        }
    }
    Ok(times)
}

fn workload(team: usize, name: &str, labels: &[(&str, &str)]) -> Result<Identity, Box<dyn Error>> {
    let namespace = format!("/acme/team{team}/prod").parse()?;
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Ok(Identity::new("example.org", namespace, name, labels)?)
}

/// Time this thread has run.
fn processor_time() -> Result<Duration, Box<dyn Error>> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Resident memory of this process (proc(5), `VmRSS`).
fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let field = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(field.ok_or("no VmRSS in /proc/self/status")?.parse()?)
}

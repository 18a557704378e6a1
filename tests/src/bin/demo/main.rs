//! The beer of the day: a server, an approved client and one without the right identity, first without
//! enforcement, then with it. Exits with an error when anything differs from what should be.

mod show;
mod visit;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::{Config, Workload};
use enforcer_tests::enforcer::{Counters, Enforcer};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::keys::Keys;
use enforcer_tests::policy;
use enforcer_tests::tcp::{SILENCE, Server, Service, dial};
use enforcer_tests::topology::ThreeHosts;

use show::{heading, micros};
use visit::Bar;

/// Where the server sends one line and closes.
const PORT: u16 = 80;
/// Where the server keeps connections open.
const TAB_PORT: u16 = 81;
const BEER: &str = "Beer of the day: a dry stout, 4.2 %";
const BAR: &str = "/acme/prod";
const STREET: &str = "/acme/street";
/// Connects whose median is shown as latency.
const CONNECTS: usize = 101;

fn main() -> ExitCode {
    match demo() {
        Ok(()) => {
            println!("\nEverything was as it should be.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nNot as it should be: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let net = ThreeHosts::new()?;
    let bar = Bar::open(&net, Server::start(&net.server, PORT, &Service::Line(BEER.to_owned()))?);
    let _tabs = Server::start(&net.server, TAB_PORT, &Service::Echo)?;
    show::stage(&net);

    heading("Without enforcement: whoever reaches the port is served");
    bar.serves("client", &net.client)?;
    bar.serves("other", &net.other)?;
    let native = connect_latency(&net)?;

    heading("With enforcement: the server serves whom its policy permits");
    let rule = policy::allow(&client(), &server());
    println!("  policy: {rule}\n");
    let keys = Keys::pki()?;
    let at_server = enforce(&net.server, &keys, BAR, server(), &rule)?;
    bar.ignores("other", &net.other, "it has no identity")?;
    let at_client = enforce(&net.client, &keys, BAR, client(), &rule)?;
    // Its own policy would let it call anything: what stops it is the server's.
    let at_other = enforce(&net.other, &keys, STREET, other(), policy::ALLOW_ALL)?;
    bar.ignores("other", &net.other, "its identity is not permitted")?;
    let cold = bar.serves("client", &net.client)?;
    bar.serves("client", &net.client)?;
    let mut tab = Interactive::open(&net.client, net.server.at(Family::V4, TAB_PORT))?;

    show::tables("client", &at_client, &server().spiffe_id())?;
    show::tables("server", &at_server, &client().spiffe_id())?;
    show::maps(&at_server)?;
    show::drops("server", &at_server, &["peer_without_identity", "policy_denied"])?;

    heading("Connect latency of the client");
    let warm = warm_latency(&net, [&at_client, &at_server])?;
    println!("  {:<34} {:>9}   median of {CONNECTS}", "without enforcement", micros(native));
    println!(
        "  {:<34} {:>9}   median of {CONNECTS}",
        "warm: the identities are known",
        micros(warm)
    );
    println!(
        "  {:<34} {:>9}   the first connect",
        "cold: both ends verify credentials",
        micros(cold)
    );
    println!("  Of the warm connects, no segment went to userspace on either host.");
    tab.exchange().context("the connection that was open all the time")?;
    drop(at_other);
    Ok(())
}

fn server() -> Workload {
    Workload::own(BAR, "server")
}

fn client() -> Workload {
    Workload::own(BAR, "client")
}

fn other() -> Workload {
    Workload::own(STREET, "other")
}

/// Starts the enforcer of a host. Its node's certificate is for one namespace.
fn enforce(
    host: &Host,
    keys: &Keys,
    namespace: &str,
    workload: Workload,
    policy: &str,
) -> Result<Enforcer> {
    let node = keys.node(host.label(), namespace)?;
    Enforcer::start(host, &Config::new(node, workload, policy))
}

fn connect_latency(net: &ThreeHosts) -> Result<Duration> {
    let to = net.server.at(Family::V4, PORT);
    let mut latencies = Vec::with_capacity(CONNECTS);
    for _ in 0..CONNECTS {
        let dialled = dial(&net.client, to, SILENCE)?;
        latencies.push(dialled.latency);
        let beer = std::io::read_to_string(dialled.stream()?).context("the line breaks off")?;
        ensure!(beer.trim_end() == BEER, "the client got {beer:?}, expected {BEER:?}");
    }
    latencies.sort_unstable();
    Ok(latencies[CONNECTS / 2])
}

/// The latency between identities that are known: the kernel alone decides.
fn warm_latency(net: &ThreeHosts, ends: [&Enforcer; 2]) -> Result<Duration> {
    let before = [ends[0].counters()?, ends[1].counters()?];
    let latency = connect_latency(net)?;
    for (end, before) in ends.iter().zip(&before) {
        let change = end.counters()?.since(before);
        ensure!(handed_over(&change) == 0, "segments went to userspace: {change:?}");
    }
    Ok(latency)
}

fn handed_over(change: &Counters) -> u64 {
    change.drop("held") + change.event("cold_segments")
}

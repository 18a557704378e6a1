//! The beer of the day: a server, an approved client and one without the right identity, first without
//! enforcement, then with it. Exits with an error when anything differs from what should be.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::{Config, Workload};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::keys::Keys;
use enforcer_tests::need;
use enforcer_tests::policy;
use enforcer_tests::tcp::{Outcome, SILENCE, Server, Service, dial};
use enforcer_tests::topology::ThreeHosts;

const PORT: u16 = 80;
const BEER: &str = "Beer of the day: a dry stout, 4.2 %";
const BAR: &str = "/acme/prod";
const STREET: &str = "/acme/street";
/// Connects whose median is shown as warm latency.
const WARM_CONNECTS: usize = 21;

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
    let _server = Server::start(&net.server, PORT, &Service::Line(BEER.to_owned()))?;
    print_stage(&net);

    heading("Without enforcement");
    visit("client", &net.client, &net)?.expect_beer()?;
    visit("other", &net.other, &net)?.expect_beer()?;

    heading("With enforcement");
    let keys = Keys::pki()?;
    let enforcers = enforce(&net, &keys)?;
    let cold = visit("client", &net.client, &net)?;
    cold.expect_beer()?;
    let warm = warm_latency(&net)?;
    visit("other", &net.other, &net)?.expect_nothing()?;
    println!(
        "\n  connect latency of the client: cold {}, warm {}",
        micros(cold.latency),
        micros(warm)
    );

    show(&enforcers)
}

/// The three enforced hosts.
struct Enforcers {
    server: Enforcer,
    client: Enforcer,
    _other: Enforcer,
}

fn enforce(net: &ThreeHosts, keys: &Keys) -> Result<Enforcers> {
    let (server, client) = (Workload::own(BAR, "server"), Workload::own(BAR, "client"));
    let other = Workload::own(STREET, "other");
    let rule = policy::allow(&client, &server);
    println!("  policy: {rule}\n");
    let start = |host: &Host, namespace: &str, workload: Workload, policy: &str| {
        let node = keys.node(host.label(), namespace)?;
        Enforcer::start(host, &Config::new(node, workload, policy))
    };
    Ok(Enforcers {
        server: start(&net.server, BAR, server, &rule)?,
        client: start(&net.client, BAR, client, &rule)?,
        // Its own node would let it call anything: what stops it is the server's side.
        _other: start(&net.other, STREET, other, policy::ALLOW_ALL)?,
    })
}

/// What a client got.
struct Visit {
    who: &'static str,
    beer: Option<String>,
    latency: Duration,
}

fn visit(who: &'static str, from: &Host, net: &ThreeHosts) -> Result<Visit> {
    let dialled = dial(from, net.server.at(Family::V4, PORT), SILENCE)?;
    let latency = dialled.latency;
    let (beer, said) = match dialled.outcome {
        Outcome::Connected(stream) => {
            let beer = std::io::read_to_string(stream).context("the line breaks off")?;
            (Some(beer.trim_end().to_owned()), format!("connected in {}", micros(latency)))
        }
        Outcome::TimedOut => (None, format!("heard nothing for {latency:.1?}")),
        Outcome::Refused | Outcome::Rejected(_) => {
            (None, format!("refused in {}", micros(latency)))
        }
    };
    let got = beer.as_deref().unwrap_or("no beer");
    println!("  {who:<8} {said:<28} {got}");
    Ok(Visit { who, beer, latency })
}

impl Visit {
    fn expect_beer(&self) -> Result<()> {
        let beer = self.beer.as_deref();
        ensure!(beer == Some(BEER), "{} got {beer:?}, expected {BEER:?}", self.who);
        Ok(())
    }

    fn expect_nothing(&self) -> Result<()> {
        ensure!(self.beer.is_none(), "{} got {:?}, expected nothing", self.who, self.beer);
        Ok(())
    }
}

fn warm_latency(net: &ThreeHosts) -> Result<Duration> {
    let to = net.server.at(Family::V4, PORT);
    let mut latencies = Vec::with_capacity(WARM_CONNECTS);
    for _ in 0..WARM_CONNECTS {
        let dialled = dial(&net.client, to, SILENCE)?;
        latencies.push(dialled.latency);
        dialled.stream().context("a connect between known identities")?;
    }
    latencies.sort_unstable();
    Ok(latencies[WARM_CONNECTS / 2])
}

fn show(enforcers: &Enforcers) -> Result<()> {
    for (side, enforcer) in [("client", &enforcers.client), ("server", &enforcers.server)] {
        for table in ["flows", "identities"] {
            heading(&format!("enforcer {table}, on the {side}"));
            let text = enforcer.cli(&[table])?;
            ensure!(
                text.contains("server") || text.contains("client"),
                "an empty table of {table}"
            );
            println!("{}", indented(&text));
        }
    }
    for map in ["FLOWS4", "VERDICTS"] {
        let pin = enforcers.server.pins().join(map);
        heading(&format!("bpftool map dump pinned {}", pin.display()));
        let dump = need::run(
            Command::new(need::tool("bpftool")?).args(["map", "dump", "pinned"]).arg(&pin),
        )?;
        ensure!(dump.contains("\"key\""), "map {map} has no entry, or no named fields: {dump}");
        println!("{}", indented(&shortened(&dump)));
    }
    Ok(())
}

fn print_stage(net: &ThreeHosts) {
    println!("The beer of the day\n");
    for (host, role) in [
        (&net.server, "answers every connection with a beer"),
        (&net.client, "spiffe://example.org/acme/prod/client, approved"),
        (&net.other, "spiffe://example.org/acme/street/other, not approved"),
    ] {
        println!("  {:<8} {:<12} {role}", host.label(), host.address(Family::V4));
    }
}

fn heading(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.chars().count()));
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect::<Vec<_>>().concat()
}

/// The first entries of a map: enough to see its fields.
fn shortened(dump: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = dump.lines().collect();
    let mut text = lines[..lines.len().min(LINES)].join("\n");
    if lines.len() > LINES {
        text.push_str("\n...");
    }
    text
}

fn micros(time: Duration) -> String {
    format!("{} us", time.as_micros())
}

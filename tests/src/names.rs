//! A name server, and the C library's resolver that asks it.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::NamedTempFile;

use crate::host::{Family, Host};
use crate::need;

/// How long a name server may take to begin.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// A name that every name server here knows.
const READY: &str = "ready.test";

/// dnsmasq, which serves the addresses of its host.
#[derive(Debug)]
pub struct NameServer {
    child: Child,
}

impl NameServer {
    /// Starts one on a host with these arguments of dnsmasq, such as
    /// `--host-record=api.example.com,192.0.2.2,60`, and waits until it answers.
    pub fn start(host: &Host, records: &[&str]) -> Result<Self> {
        let mut command = host.command(need::tool("dnsmasq")?);
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="]);
        command.args(["--no-resolv", "--no-hosts", "--user=root", "--group=root"]);
        command.args([&format!("--host-record={READY},192.0.2.99"), "--log-facility=-"]);
        command.args(records).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { child: command.spawn().context("dnsmasq does not start")? };
        let resolver = Resolver::new(host, host.address(Family::V4))?;
        let begun = Instant::now();
        while resolver.resolve(READY)?.is_empty() {
            ensure!(server.child.try_wait()?.is_none(), "dnsmasq ended");
            ensure!(begun.elapsed() < STARTS_WITHIN, "dnsmasq does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How programs of a host resolve names.
#[derive(Debug)]
pub struct Resolver<'a> {
    host: &'a Host,
    configuration: NamedTempFile,
}

impl<'a> Resolver<'a> {
    /// One that asks this name server, for two seconds and twice.
    pub fn new(host: &'a Host, server: IpAddr) -> Result<Self> {
        let mut configuration = NamedTempFile::new()?;
        writeln!(configuration, "nameserver {server}\noptions timeout:2 attempts:2")?;
        Ok(Self { host, configuration })
    }

    /// Asks the C library for the addresses of a host, each family alone; none if it has none, or nobody answers.
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for database in ["ahostsv4", "ahostsv6"] {
            found.extend(self.ask(database, name)?);
        }
        Ok(found)
    }

    /// As [`Self::resolve`], for one family.
    pub fn resolve_family(&self, family: Family, name: &str) -> Result<Vec<IpAddr>> {
        self.ask(if family == Family::V4 { "ahostsv4" } else { "ahostsv6" }, name)
    }

    /// In a mount namespace of its own, where the file of the resolver is this one's.
    fn ask(&self, database: &str, name: &str) -> Result<Vec<IpAddr>> {
        const SCRIPT: &str = "mount --bind \"$1\" /etc/resolv.conf && exec \"$2\" \"$3\" \"$4\"";
        let mut command: Command = self.host.command("unshare");
        command.args(["-m", "sh", "-c", SCRIPT, "sh"]).arg(self.configuration.path());
        command.arg(need::tool("getent")?).args([database, name]);
        let output = command.output().context("unshare")?;
        match output.status.code() {
            Some(0) => addresses(&String::from_utf8(output.stdout)?),
            // getent(1): the name was not found.
            Some(2) => Ok(Vec::new()),
            _ => bail!("getent: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }
}

/// The first word of each line of a stream socket; mapped addresses are what an IPv4 host has for the other family.
fn addresses(text: &str) -> Result<Vec<IpAddr>> {
    let lines = text.lines().filter(|line| line.contains("STREAM"));
    let first = lines.filter_map(|line| line.split_whitespace().next());
    let all: Vec<IpAddr> = first.map(str::parse).collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter(|address| address.to_canonical() == *address).collect())
}

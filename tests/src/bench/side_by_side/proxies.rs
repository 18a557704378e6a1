//! A pair of proxies (HAProxy), one on each host, which speak mutual TLS with each other: the client speaks to the one of
//! its own host, and the other to the server.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::companion::{Companion, folder, program};
use crate::bench::stage::FIRST_PORT;
use crate::host::{Family, Host};
use crate::need;
use crate::tcp::{Outcome, PATIENCE, dial};
use crate::topology::TwoHosts;

/// Ports of servers that the proxies serve, from the first on.
const PORTS: u16 = 200;
/// From a server's port to that of the proxy before it.
const AWAY: u16 = 1000;

/// Starts both.
pub(in crate::bench) fn stand(net: &TwoHosts) -> Result<Vec<Companion>> {
    let keys = folder()?;
    make_keys(keys.path())?;
    let far = net.server.address(Family::V4);
    let at = |name: &str| keys.path().join(name).display().to_string();
    let verified = |who: &str| format!("crt {} ca-file {} verify required", at(who), at("ca.crt"));
    let last = FIRST_PORT + PORTS - 1;
    let near = [
        format!("bind 127.0.0.1:{FIRST_PORT}-{last}"),
        format!("server far {far}:+{AWAY} ssl {}", verified("client.pem")),
    ];
    let (first, last) = (FIRST_PORT + AWAY, last + AWAY);
    let remote = [
        format!("bind {far}:{first}-{last} ssl {}", verified("server.pem")),
        format!("server near 127.0.0.1:-{AWAY}"),
    ];
    let server = start(&net.server, &remote, (far, first))?;
    let client = start(&net.client, &near, ("127.0.0.1".parse()?, FIRST_PORT))?;
    // Both have read their keys by now, and the folder goes.
    Ok(vec![client, server])
}

fn start(host: &Host, lines: &[String; 2], listens: (std::net::IpAddr, u16)) -> Result<Companion> {
    let folder = folder()?;
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, configuration(lines))?;
    let mut command = host.command(program("haproxy", "haproxy")?);
    command.arg("-db").arg("-f").arg(&file);
    Companion::start("haproxy", &mut command, folder)?.wait(|| {
        let outcome = dial(host, listens.into(), PATIENCE)?.outcome;
        Ok(matches!(outcome, Outcome::Connected(_)))
    })
}

fn configuration(lines: &[String; 2]) -> String {
    let [bind, server] = lines;
    format!(
        "global\n    maxconn 4096\ndefaults\n    mode tcp\n    timeout connect 10s\n    \
         timeout client 1m\n    timeout server 1m\nlisten pair\n    {bind}\n    {server}\n"
    )
}

/// An authority and a certificate of each proxy, P-256.
fn make_keys(folder: &Path) -> Result<()> {
    let openssl = program("openssl", "openssl")?;
    for name in ["ca", "client", "server"] {
        let mut command = Command::new(&openssl);
        command.current_dir(folder);
        command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
        command.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &format!("/CN={name}")]);
        command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
        if name != "ca" {
            command.args(["-CA", "ca.crt", "-CAkey", "ca.key"]);
            command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        }
        need::run(&mut command)?;
        let read = |end: &str| fs::read_to_string(folder.join(format!("{name}.{end}")));
        let pem = read("crt").context("no certificate")? + &read("key").context("no key")?;
        fs::write(folder.join(format!("{name}.pem")), pem)?;
    }
    Ok(())
}

//! A tunnel of WireGuard between both hosts, spoken in userspace (`boringtun-cli`).

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use x25519_dalek::{PublicKey, StaticSecret};

use super::companion::{Companion, folder};
use crate::host::{Family, Host};
use crate::topology::TwoHosts;

/// Both ends inside the tunnel.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(in crate::bench) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Port of the tunnel itself.
const PORT: u16 = 51_820;
/// What fits into the packets of a link of 1500, as wg-quick has it.
const MTU: u16 = 1420;
/// Names the program; as installed by `cargo xtask bench`.
const VARIABLE: &str = "BORINGTUN_BIN";
/// Where its sockets are.
const SOCKETS: &str = "/var/run/wireguard";

/// Starts both ends.
pub(in crate::bench) fn stand(net: &TwoHosts) -> Result<Vec<Companion>> {
    let secrets = [secret()?, secret()?];
    let hosts =
        [(&net.client, CLIENT, &net.server, SERVER), (&net.server, SERVER, &net.client, CLIENT)];
    let mut companions = Vec::new();
    for (end, (host, inside, far, far_inside)) in hosts.into_iter().enumerate() {
        // Sockets have the interfaces' names, and their folder is that of all namespaces.
        let interface = format!("wg{}-{end}", std::process::id() % 1_000_000);
        companions.push(start(host, &interface)?);
        let (own, other) = (&secrets[end], &secrets[1 - end]);
        let peer =
            Peer { key: PublicKey::from(other), at: far.at(Family::V4, PORT), inside: far_inside };
        configure(&interface, own, &peer)?;
        host.ip(&format!("addr add {inside}/30 dev {interface}"))?;
        host.ip(&format!("link set {interface} mtu {MTU} up"))?;
    }
    Ok(companions)
}

/// The far end.
struct Peer {
    key: PublicKey,
    at: SocketAddr,
    inside: Ipv4Addr,
}

fn start(host: &Host, interface: &str) -> Result<Companion> {
    let program = std::env::var_os(VARIABLE).map(PathBuf::from);
    let program = program.filter(|file| file.is_file()).with_context(|| {
        format!(
            "there is no boringtun-cli here; {VARIABLE} names one (`cargo install boringtun-cli`)"
        )
    })?;
    let mut command = host.command(program);
    command.args(["--foreground", "--disable-drop-privileges", interface]);
    let socket = socket(interface);
    let companion = Companion::start("boringtun-cli", &mut command, folder()?)?;
    companion.leaving(&socket).wait(|| Ok(socket.exists()))
}

fn socket(interface: &str) -> PathBuf {
    Path::new(SOCKETS).join(format!("{interface}.sock"))
}

/// Tells one end its key and its peer (WireGuard's cross-platform userspace interface).
fn configure(interface: &str, own: &StaticSecret, peer: &Peer) -> Result<()> {
    let Peer { key, at, inside } = peer;
    let (own, key) = (hex(own.as_bytes()), hex(key.as_bytes()));
    let text = format!(
        "set=1\nprivate_key={own}\nlisten_port={PORT}\npublic_key={key}\nendpoint={at}\n\
         allowed_ip={inside}/32\n\n"
    );
    let mut stream = UnixStream::connect(socket(interface)).context("the tunnel's socket")?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.trim() == "errno=0", "the tunnel refuses its configuration: {answer}");
    Ok(())
}

fn secret() -> Result<StaticSecret> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(StaticSecret::from(bytes))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_in_two_digits_a_byte() {
        assert_eq!(hex(&[0, 0x0a, 0xf0, 0xff]), "000af0ff");
    }
}

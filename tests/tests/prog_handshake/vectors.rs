//! Test vectors of the MACs, for second implementations: `tests/vectors/mac.json`, made here, and those of the one
//! handshake in `handshake.json`. The programs must agree with all of them.
//!
//! `ENFORCER_WRITE_VECTORS=1` writes the file anew after a deliberate change of the protocol.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use enforcer_common::abi::{
    AttemptValue, VerdictValue, direction, flow_flags, role, verdict_action,
};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::mac::{Covered, LABEL, words};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{EPOCH, Family, LOCAL_ISN, Side, World};
use serde_json::{Value, json};

const WRITTEN: &str = include_str!("../../vectors/mac.json");
const HANDSHAKE: &str = include_str!("../../vectors/handshake.json");

struct Vector {
    pair_key: [u8; 32],
    covered: Covered,
}

/// Addresses of both families, the lowest and the highest port, and bytes whose order shows.
fn vectors() -> Vec<Vector> {
    let ports = [
        ("2001:db8:51::9", 443),
        ("::ffff:198.51.100.9", 8080),
        ("2001:db8:51::a", 1),
        ("::ffff:192.0.2.255", 65535),
    ];
    let vector = |(number, (address, port)): (u8, (&str, u16))| {
        let byte = |at: usize| u8::try_from(at).expect("a short array");
        let counted = |start: u8| std::array::from_fn(|at| start.wrapping_add(byte(at)));
        Vector {
            pair_key: std::array::from_fn(|at| (number << 6).wrapping_add(byte(at))),
            covered: Covered {
                handles: [counted(number | 0x10), counted(number | 0x80)],
                nonces: [counted(number | 0xf8), counted(number | 0x40)],
                address: address.parse::<Ipv6Addr>().expect("an address").octets(),
                port,
            },
        }
    };
    (0..).zip(ports).map(vector).collect()
}

impl Vector {
    fn macs(&self) -> [[u8; 16]; 2] {
        self.covered.macs(LABEL, &self.pair_key)
    }

    fn json(&self) -> Value {
        let [mac_b, mac_a] = self.macs();
        json!({
            "pair_key": hex(&self.pair_key),
            "handle_a": hex(&self.covered.handles[0]),
            "handle_b": hex(&self.covered.handles[1]),
            "nonce_a": hex(&self.covered.nonces[0]),
            "nonce_b": hex(&self.covered.nonces[1]),
            "address_b": hex(&self.covered.address),
            "port_b": self.covered.port,
            "mac_b": hex(&mac_b),
            "mac_a": hex(&mac_a),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string");
        text
    })
}

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    let text = value.as_str().expect("hexadecimal digits");
    assert_eq!(text.len(), 2 * N);
    std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("digits"))
}

fn read(value: &Value) -> Vector {
    let port = value["port_b"].as_u64().and_then(|port| u16::try_from(port).ok());
    Vector {
        pair_key: bytes(&value["pair_key"]),
        covered: Covered {
            handles: [bytes(&value["handle_a"]), bytes(&value["handle_b"])],
            nonces: [bytes(&value["nonce_a"]), bytes(&value["nonce_b"])],
            address: bytes(&value["address_b"]),
            port: port.expect("a port"),
        },
    }
}

#[test]
fn vectors_are_what_blake3_makes() {
    let made = json!({
        "description": "MACs of S2 (mac_b) and S3 (mac_a). Bytes in hexadecimal, in the order in which they travel; \
            an IPv4 address in mapped form.",
        "macs": vectors().iter().map(Vector::json).collect::<Vec<_>>(),
    });
    if std::env::var_os("ENFORCER_WRITE_VECTORS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/mac.json");
        let text = serde_json::to_string_pretty(&made).expect("JSON") + "\n";
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let written: Value = serde_json::from_str(WRITTEN).expect("JSON");
    assert_eq!(written, made, "the protocol has changed");
}

#[test]
fn the_programs_make_the_vectors() {
    let written: Value = serde_json::from_str(WRITTEN).expect("JSON");
    let macs = written["macs"].as_array().expect("a list");
    assert_eq!(macs.len(), vectors().len());
    for value in macs {
        programs_make(&read(value), bytes(&value["mac_b"]), bytes(&value["mac_a"]));
    }
}

#[test]
fn the_programs_make_the_handshake() {
    let mut value: Value = serde_json::from_str(HANDSHAKE).expect("JSON");
    let prefix: [u8; 34] = bytes(&value["s2_prefix"]);
    value["address_b"] = hex(&prefix[16..32]).into();
    value["port_b"] = u16::from_be_bytes([prefix[32], prefix[33]]).into();
    programs_make(&read(&value), bytes(&value["mac_b"]), bytes(&value["mac_a"]));
}

/// The client's program refuses another `mac_B`, accepts this one, and stamps `mac_A`.
fn programs_make(vector: &Vector, mac_b: [u8; 16], mac_a: [u8; 16]) {
    assert_eq!(vector.macs(), [mac_b, mac_a]);
    let mut w = dialled(vector);
    let payload = |mac: [u8; 16], w: &World| {
        let port = vector.covered.port.to_be_bytes();
        [&mac[..], &vector.covered.address, &port, &w.theirs.bytes].concat()
    };
    let s2 = w.syn_ack_in().hello(w.theirs.handle, vector.covered.nonces[1]);
    let mut wrong = mac_b;
    wrong[15] ^= 0x80;
    let forged = s2.clone().payload(&payload(wrong, &w)).frame();
    compare(&w.run(Hook::To, &forged), Action::Drop, None, &["bad_mac"]).unwrap();
    let right = s2.payload(&payload(mac_b, &w)).frame();
    let syn_ack = w.syn_ack_in().frame();
    let seen = w.run(Hook::To, &right);
    compare(&seen, Action::Pass, Some(&syn_ack), &["s2_accepted"]).unwrap();
    let (ack, s3) = (w.ack_out().frame(), w.ack_out().proof(mac_a).frame());
    compare(&w.run(Hook::From, &ack), Action::Pass, Some(&s3), &["proof_sent"]).unwrap();
}

/// A client that has sent S1 to the vector's server with the vector's handle and nonce.
fn dialled(vector: &Vector) -> World {
    let (address, port) =
        (Ipv6Addr::from(vector.covered.address).to_canonical(), vector.covered.port);
    let family = if matches!(address, IpAddr::V4(_)) { Family::V4 } else { Family::V6 };
    let mut w = World::new(family, Side::Client);
    (w.remote.address, w.remote.port) = (address, port);
    [w.own.handle, w.theirs.handle] = vector.covered.handles;
    w.set_peer(|peer| peer.as_initiator = words(&vector.pair_key));
    let mut verdict = World::verdict_key(direction::EGRESS, EPOCH);
    verdict.port = port;
    let (action, deadline_ns) = (verdict_action::ALLOW, w.later());
    w.kernel.put(
        "VERDICTS",
        verdict,
        VerdictValue { deadline_ns, rule: 1, action, obligations: 0, zero: [0; 2] },
    );
    let attempt = AttemptValue {
        created_ns: w.now_ns,
        deadline_ns,
        local_handle: w.own.handle,
        local_nonce: vector.covered.nonces[0],
        local_isn: LOCAL_ISN,
        port,
        role: role::CLIENT,
        flags: flow_flags::INITIATOR,
        ..AttemptValue::default()
    };
    let key = w.key();
    w.kernel.put("ATTEMPTS", key, attempt);
    w
}

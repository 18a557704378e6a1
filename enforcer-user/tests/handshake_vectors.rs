//! `tests/vectors/handshake.json`: options, prefix and MACs of one handshake, for second implementations. The kernel's
//! code and the `blake3` crate must both give what is written there.
//!
//! `ENFORCER_WRITE_VECTORS=1 cargo test -p enforcer-user --test handshake_vectors` writes it anew after a deliberate
//! change of the protocol.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use enforcer_common::abi::mapped;
use enforcer_common::crypto::{MacInput, Transcript, mac_bytes, mac_input, macs};
use enforcer_common::wire::option::HandshakeOption;
use serde_json::{Value, json};

const NONCE_A: [u8; 8] = [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7];
const NONCE_B: [u8; 8] = [0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7];
const ADDRESS_B: [u8; 4] = [192, 0, 2, 10];
const PORT_B: u16 = 8080;

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "vectors", name].iter().collect()
}

fn read(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path(name)).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn array(value: &Value) -> [u8; 32] {
    let text = value.as_str().unwrap();
    std::array::from_fn(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
}

fn handle(hash: &Value) -> [u8; 8] {
    *array(hash).first_chunk().unwrap()
}

/// The MACs by the kernel's code, from its prepared block.
fn kernels(key: &[u8; 32], input: &MacInput) -> [[u8; 16]; 2] {
    let made = macs(&std::array::from_fn(|n| u32::from_le_bytes(key.as_chunks().0[n])), input);
    [mac_bytes(made.answer), mac_bytes(made.proof)]
}

fn option(option: HandshakeOption) -> String {
    hex(&[&option.head[..], &option.body].concat())
}

#[test]
fn options_and_macs_are_those_of_the_vectors() {
    let pair = read("pair_key.json");
    let key = array(&pair["pki"]["web_initiates"]);
    let (handle_a, handle_b) = (handle(&pair["pki"]["web_hash"]), handle(&pair["pki"]["db_hash"]));
    let transcript = Transcript { handle_a, handle_b, nonce_a: NONCE_A, nonce_b: NONCE_B };
    let mut input = MacInput { block: [0; 16] };
    mac_input(&mut input, &transcript, &mapped(ADDRESS_B), PORT_B);
    let [mac_b, mac_a] = kernels(&key, &input);

    // By the `blake3` crate, from the bytes that docs/PROTOCOL.md names.
    let (address, port) = (mapped(ADDRESS_B), PORT_B.to_be_bytes());
    let label = b"ENM\x02".as_slice();
    let input = [label, &handle_a, &handle_b, &NONCE_A, &NONCE_B, &address, &port].concat();
    assert_eq!([mac_b, mac_a].concat(), blake3::keyed_hash(&key, &input).as_bytes());

    let made = json!({
        "description": "A handshake of the credentials in credential_pki.json: web (A) calls db (B) at 192.0.2.10, port 8080. Byte strings are hexadecimal.",
        "pair_key": hex(&key),
        "handle_a": hex(&handle_a),
        "handle_b": hex(&handle_b),
        "nonce_a": hex(&NONCE_A),
        "nonce_b": hex(&NONCE_B),
        "mac_input": hex(&input),
        "mac_b": hex(&mac_b),
        "mac_a": hex(&mac_a),
        "s1_option": option(HandshakeOption::hello(handle_a, NONCE_A)),
        "s2_option": option(HandshakeOption::hello(handle_b, NONCE_B)),
        "s2_prefix": hex(&[&mac_b[..], &address, &port].concat()),
        "s3_option": option(HandshakeOption::proof(mac_a)),
    });
    if std::env::var_os("ENFORCER_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&made).unwrap() + "\n";
        fs::write(path("handshake.json"), text).unwrap();
    }
    assert_eq!(read("handshake.json"), made, "the protocol has changed");
}

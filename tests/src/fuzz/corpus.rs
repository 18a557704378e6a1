//! The committed inputs of the targets: frames, credentials, records and files as the real encoders
//! make them. `ENFORCER_WRITE_VECTORS=1` writes them anew to `tests/fuzz/corpus`.

use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

use super::pki::PKI;
use crate::program::packet::{End, arp, icmp, ip, udp, unreachable};
use crate::program::segment::{ACK, FIN, LATER_OPTIONS, PSH, RST, SYN, SYN_OPTIONS, Segment};

const WRITE_VARIABLE: &str = "ENFORCER_WRITE_VECTORS";
const VECTORS: [(&str, &str); 3] = [
    ("pki", include_str!("../../vectors/credential_pki.json")),
    ("psk", include_str!("../../vectors/credential_psk.json")),
    ("refused", include_str!("../../vectors/refused.json")),
];
const CONFIG: &str = include_str!("../../../docs/examples/enforcer.toml");

/// What is offered in a SYN and may be taken out: MPTCP, a Fast Open cookie.
const OFFERS: [u8; 16] = [30, 4, 1, 0, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];

/// One target's inputs, each with its name.
type Seeds = Vec<(String, Vec<u8>)>;
/// A target.
type Run = fn(&[u8]);

fn targets() -> [(&'static str, Run, Seeds); 14] {
    [
        ("armor", super::armor::run, armor()),
        ("certificate", super::certificate::run, certificates()),
        ("config", super::config::run, configs()),
        ("control", super::control::run, requests()),
        ("credential", super::credential::run, credentials()),
        ("datapath", super::datapath::run, cases()),
        ("envelope", super::envelope::run, envelopes()),
        ("frame", super::frame::run, frames()),
        ("memory", super::memory::run, memories()),
        ("names", super::names::run, messages()),
        ("network_rule", super::network_rule::run, network_rules()),
        ("option", super::option::run, options()),
        ("policy", super::policy::run, policies()),
        ("record", super::record::run, records()),
    ]
}

#[test]
fn every_target_holds_for_its_committed_inputs() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, run, seeds) in targets() {
        assert!(seeds.len() >= 5, "{target} has {} inputs", seeds.len());
        for (name, bytes) in seeds {
            if std::env::var_os(WRITE_VARIABLE).is_some() {
                let folder = corpus.join(target);
                std::fs::create_dir_all(&folder).expect("the folder can be made");
                std::fs::write(folder.join(&name), &bytes).expect("the input can be written");
            }
            eprintln!("{target} {name}");
            run(&bytes);
        }
    }
}

fn ends(v6: bool) -> [End; 2] {
    let end = |last: u8, port, address| End { mac: [2, 0, 0, 0, 0, last], address, port };
    let address = |v4: [u8; 4], v6_address: [u16; 8]| {
        if v6 { IpAddr::from(v6_address) } else { IpAddr::from(v4) }
    };
    [
        end(1, 40_001, address([192, 0, 2, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])),
        end(9, 8080, address([198, 51, 100, 9], [0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 9])),
    ]
}

fn frames() -> Seeds {
    let mut seeds = Vec::new();
    for v6 in [false, true] {
        let family = if v6 { "v6" } else { "v4" };
        for (name, frame) in frames_between(ends(v6)) {
            seeds.push((format!("{name}_{family}"), frame));
        }
    }
    let [from, to] = ends(false);
    let syn = Segment::new(from, to, SYN, 7, 0).options(&SYN_OPTIONS);
    let routed = Segment { ip_options: vec![131, 7, 4, 192, 0, 2, 9, 0], ..syn.clone() };
    let quiet = Segment { ip_options: vec![1, 1, 148, 4, 0, 0, 0, 0], ..syn };
    seeds.push(("source_route".to_owned(), routed.frame()));
    seeds.push(("router_alert".to_owned(), quiet.frame()));
    seeds.push(("arp".to_owned(), arp(&from, ([2, 0, 0, 0, 0, 1], [192, 0, 2, 1].into()), 1)));
    seeds
}

/// What a connection and its neighbours send.
fn frames_between([from, to]: [End; 2]) -> Vec<(&'static str, Vec<u8>)> {
    let segment =
        |flags, sequence, acknowledgement| Segment::new(from, to, flags, sequence, acknowledgement);
    let credential = PKI.node.bytes();
    let prefix = [&[5; 16][..], &to.mapped(), &to.port.to_be_bytes(), credential].concat();
    let syn = segment(SYN, 7, 0).options(&SYN_OPTIONS);
    let later = segment(ACK, 8, 9).options(&LATER_OPTIONS);
    vec![
        ("syn", syn.frame()),
        ("syn_offers", syn.clone().options(&[&SYN_OPTIONS[..], &OFFERS].concat()).frame()),
        ("s1", syn.clone().hello([1; 8], [2; 8]).payload(credential).frame()),
        ("s2", syn.clone().flags(SYN | ACK).hello([1; 8], [2; 8]).payload(&prefix).frame()),
        ("s3", later.clone().proof([3; 16]).frame()),
        ("data", later.clone().flags(ACK | PSH).payload(b"a pint").frame()),
        ("fin", later.clone().flags(ACK | FIN).frame()),
        ("rst", segment(RST, 8, 0).frame()),
        ("udp", udp(&from, &to, b"a question")),
        ("icmp", icmp(&from, &to, if from.address.is_ipv4() { 8 } else { 128 }, 0, b"ping")),
        ("unreachable", unreachable(&from, &to, &syn.frame())),
        ("neighbour", icmp(&from, &to, 135, 0, &[0; 24])),
        ("gre", ip(&from, &to, 47, &[0; 12])),
    ]
}

/// Frames with the way they go, and segments made of numbers.
fn cases() -> Seeds {
    let mut seeds = Vec::new();
    for v6 in [0, 1] {
        for hook in [0, 1] {
            let [local, remote] = ends(v6 == 1);
            let between = if hook == 0 { [local, remote] } else { [remote, local] };
            for (name, frame) in frames_between(between) {
                // Family, client, hook, no flow, no rule, the frame as it is, no change, no padding.
                let way = [v6, 0, hook, 0, 0, 0, 0, 0];
                seeds.push((format!("{name}_{v6}{hook}"), [&way[..], &frame].concat()));
            }
        }
    }
    for (v6, hook, set) in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 2), (1, 0, 3)] {
        // Family, client, hook, a flow without flags, of datagrams, numbers of no matter, UDP, where its source was
        // found; no rule, a datagram, no change, no padding.
        let way = [&[v6, 0, hook, 1, 0, 5][..], &[0; 16], &[2, set, 0, 2, 0, 0]];
        seeds.push((format!("datagram_{v6}{hook}{set}"), [&way.concat()[..], b"data"].concat()));
    }
    // Family, client, arriving, an open flow that the far side and then the workload closed, all numbers but one 0; no
    // rule, an acknowledgement.
    let last = [&[0, 0, 1, 1, 0xa0, 0][..], &[0; 14], &[0x28, 2, 0, 0, 0xfc, 0, 0, 0x61]];
    seeds.push(("last_acknowledgement".to_owned(), last.concat()));
    for number in 0..16_u8 {
        let mut bytes = vec![0; 96];
        blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut bytes);
        // With a flow, as a segment.
        bytes[3] |= 1;
        seeds.push((format!("segment_{number}"), bytes));
    }
    seeds
}

fn options() -> Seeds {
    let join = [30, 12, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let ours = [&[253, 20, 0x45, 0x4e][..], &[6; 16]].concat();
    let lists: [(&str, Vec<u8>); 10] = [
        ("none", Vec::new()),
        ("syn", SYN_OPTIONS.to_vec()),
        ("later", LATER_OPTIONS.to_vec()),
        ("ours", [&SYN_OPTIONS[..], &ours].concat()),
        ("ours_first", [&ours[..], &SYN_OPTIONS].concat()),
        ("twice", ours.repeat(2)),
        ("join", join.to_vec()),
        ("offers", [&SYN_OPTIONS[..], &OFFERS].concat()),
        ("short", vec![253, 4, 0x45, 0x4e]),
        ("sack", vec![1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]),
    ];
    let seed = |(name, list): (&str, Vec<u8>)| (name.to_owned(), [&[9; 16][..], &list].concat());
    lists.into_iter().map(seed).collect()
}

/// Every byte string of the test vectors that is a credential, certificate or request.
fn envelopes() -> Seeds {
    let mut seeds = Vec::new();
    for (file, text) in VECTORS {
        let value = serde_json::from_str(text).expect("vectors are JSON");
        collect(&value, file, &mut seeds);
    }
    seeds
}

fn collect(value: &Value, name: &str, seeds: &mut Seeds) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                collect(field, &format!("{name}_{}", key.replace(' ', "_")), seeds);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                collect(item, &format!("{name}_{number}"), seeds);
            }
        }
        Value::String(text) => {
            // COSE_Sign1 or COSE_Mac0.
            if let Some(bytes) = hex(text).filter(|bytes| matches!(bytes[..], [0xd1 | 0xd2, ..])) {
                seeds.push((name.to_owned(), bytes));
            }
        }
        _ => {}
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| u8::try_from(c.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn credentials() -> Seeds {
    let mut seeds = envelopes();
    for (number, name) in ["shop", "web", "a.b-c_d", ".."].into_iter().enumerate() {
        // Nearly honest claims: see `credential::nearly_honest`.
        let mut bytes = vec![0, u8::try_from(number).expect("few"), 0];
        bytes.push(u8::try_from(name.len()).expect("short"));
        bytes.extend(name.as_bytes());
        bytes.extend([0, 40, 6, 0]);
        bytes.extend([9; 48]);
        seeds.push((format!("signed_{number}"), bytes));
    }
    seeds
}

fn certificates() -> Seeds {
    let mut seeds: Seeds =
        [("authority", PKI.authority.certificate().bytes()), ("node", PKI.node.bytes())]
            .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
            .into();
    let is_request =
        |(name, _): &(String, Vec<u8>)| name.contains("request") || name.contains("certificate");
    seeds.extend(envelopes().into_iter().filter(is_request));
    for name in ["n", "node-1", "edge.example"] {
        let length = u8::try_from(name.len()).expect("short");
        let request =
            [&[7; 32][..], &[length], name.as_bytes(), &[0, 3, 1, 1, 5], b"/acme", &[0, 1]];
        seeds.push((format!("request_{name}"), request.concat()));
        let times = [super::pki::NOW, super::pki::NOW + 1000].map(u64::to_be_bytes).concat();
        let certificate = [&[7; 32][..], &times, &[length], name.as_bytes(), &[0, 50, 1]];
        seeds.push((format!("authority_{name}"), certificate.concat()));
    }
    seeds
}

fn armor() -> Seeds {
    use enforcer_user::identity::armor::{Label, encode};
    let text = |label, bytes: &[u8]| encode(label, bytes).into_bytes();
    let node = text(Label::NodeCertificate, PKI.node.bytes());
    vec![
        ("node".to_owned(), node.clone()),
        (
            "authority".to_owned(),
            text(Label::AuthorityCertificate, PKI.authority.certificate().bytes()),
        ),
        ("request".to_owned(), text(Label::NodeRequest, b"some bytes")),
        ("empty".to_owned(), text(Label::NodeRequest, b"")),
        ("twice".to_owned(), node.repeat(2)),
        ("cut".to_owned(), node[..node.len() / 2].to_vec()),
        ("digits".to_owned(), b"00112233445566778899aabbccddeeff".repeat(2)),
    ]
}

fn memories() -> Seeds {
    use enforcer_user::daemon::memory::{HEAD, encode};
    let record = |bytes: &[u8]| encode(bytes).expect("a credential's length");
    let node = record(PKI.node.bytes());
    let long = record(&[7; 1200]);
    [
        ("head", Vec::new()),
        ("one", node.clone()),
        ("two", [&node[..], &record(b"x")].concat()),
        ("too_long", [&long[..], &node].concat()),
        ("half", node[..node.len() - 9].to_vec()),
        ("nothing", record(b"").repeat(3)),
    ]
    .map(|(name, records)| (name.to_owned(), [HEAD, &records].concat()))
    .into()
}

/// As name servers send them: names compressed (RFC 1035 4.1.4), an option of EDNS behind.
fn messages() -> Seeds {
    const HEAD: [u8; 12] = [7, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 1];
    const API: &[u8] = b"\x03api\x07example\x03com\0";
    const OPTION: [u8; 11] = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
    let answer = |kind: u8, records: u8, data: &[u8]| {
        let mut message = HEAD.to_vec();
        message[7] = records;
        [&message[..], API, &[0, kind, 0, 1], data, &OPTION].concat()
    };
    let v4: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
    let v6 =
        [&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16, 0x20, 1, 0x0d, 0xb8][..], &[7; 12]].concat();
    // An alias to `edge` in front of the compressed rest, and its address.
    let alias = [
        &[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 7][..],
        b"\x04edge\xc0\x10",
        &[0xc0, 45, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 2],
    ]
    .concat();
    let circle: &[u8] = &[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 2, 0xc0, 12];
    let mut question = answer(1, 0, &[]);
    question[2..4].copy_from_slice(&[1, 0]);
    let mut refused = answer(1, 1, v4);
    refused[3] |= 5;
    [
        ("question", question),
        ("v4", answer(1, 1, v4)),
        ("v6", answer(28, 1, &v6)),
        ("two", answer(1, 2, &v4.repeat(2))),
        ("alias", answer(1, 2, &alias)),
        ("circle", answer(1, 1, circle)),
        ("refused", refused),
        ("cut", answer(1, 2, v4)),
    ]
    .map(|(name, message)| (name.to_owned(), message))
    .into()
}

fn records() -> Seeds {
    let mut seeds: Seeds = Vec::new();
    for (name, frame) in frames_between(ends(false)) {
        let mut record = 1_u32.to_ne_bytes().to_vec();
        record.resize(70, 3);
        record.extend(u16::try_from(frame.len()).expect("a frame's length").to_ne_bytes());
        record.resize(80, 0);
        record.extend(frame);
        seeds.push((format!("held_{name}"), record));
    }
    for number in 0..4 {
        let mut record = 2_u32.to_ne_bytes().to_vec();
        record.resize(72, number);
        seeds.push((format!("rejected_{number}"), record));
    }
    // One that was called, one that called, and one that says neither.
    for from_workload in 0..3 {
        let mut record = 5_u32.to_ne_bytes().to_vec();
        record.resize(18, 7);
        record.extend([17, 0]);
        record.resize(56, 9);
        record.resize(66, 0);
        record.push(from_workload);
        record.resize(72, 0);
        seeds.push((format!("opened_{from_workload}"), record));
    }
    seeds
}

fn texts<const N: usize>(texts: [(&str, &str); N]) -> Seeds {
    texts.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into()
}

fn configs() -> Seeds {
    let psk =
        "trust_domain = \"example.org\"\n[identity]\nmode = \"psk\"\npsk_file = \"psk.key\"\n";
    let workload = "[[workload]]\nname = \"shop\"\nnamespace = \"/acme\"\ninterface = \"eth0\"\n";
    let rule = "[[network_rule]]\nname = \"dns\"\ndirection = \"egress\"\ncidr = [\"192.0.2.53/32\"]\n\
                protocol = \"udp\"\nports = [53]\n";
    texts([
        ("example", CONFIG),
        ("psk", psk),
        ("workload", &[psk, workload].concat()),
        ("rule", &[psk, workload, rule].concat()),
        ("byte_order_mark", &["\u{feff}", psk].concat()),
        (
            "labels",
            &[psk, workload, "labels = { tier = \"front\" }\nmode = \"observe\"\n"].concat(),
        ),
        ("unknown", "trust_domian = \"example.org\"\n"),
        ("not_toml", "trust_domain = \n"),
        ("wrong_types", "trust_domain = 1\ninstance = [\"a\"]\n[limits]\nflows = -1\n"),
    ])
}

fn network_rules() -> Seeds {
    let rule = |name: &str, rest: &str| format!("[[network_rule]]\nname = \"{name}\"\n{rest}\n");
    let dns = rule(
        "dns",
        "direction = \"egress\"\ncidr = [\"192.0.2.0/24\"]\nprotocol = \"udp\"\nports = [53]",
    );
    let ssh = rule(
        "ssh",
        "direction = \"ingress\"\ncidr = [\"0.0.0.0/0\", \"::/0\"]\nprotocol = \"tcp\"\nports = [\"22\", \"8000-8010\"]",
    );
    let ping =
        rule("ping", "direction = \"ingress\"\ncidr = [\"198.51.100.0/25\"]\nprotocol = \"icmp\"");
    let any = rule(
        "any",
        "namespace = \"/acme\"\nworkload = \"shop\"\ndirection = \"egress\"\ncidr = [\"2001:db8::/32\"]\nprotocol = \"any\"",
    );
    texts([
        ("dns", &dns),
        ("ssh", &ssh),
        ("ping", &ping),
        ("any", &any),
        ("all", &[&dns[..], &ssh, &ping, &any].concat()),
        ("same_name", &dns.repeat(2)),
    ])
}

fn policies() -> Seeds {
    texts([
        ("permit", "permit (principal, action, resource);"),
        ("nothing", ""),
        (
            "labels",
            "@id(\"front-to-back\")\npermit (principal, action, resource)\n\
             when { principal.labels.tier == \"front\" && resource.labels.tier == \"back\" };",
        ),
        (
            "namespace",
            "permit (principal in Namespace::\"/acme/prod\", action, resource in Namespace::\"/acme/prod\");",
        ),
        (
            "workload",
            "forbid (principal, action, resource == Workload::\"spiffe://example.org/acme/prod/shop\")\n\
             unless { context.port == 443 };",
        ),
        (
            "time",
            "permit (principal, action, resource) when { context.time > datetime(\"2023-01-01\") };",
        ),
        (
            "active",
            "@active(\"Mon-Fri 08:00-12:00,13:00-17:30 Europe/Berlin; Sat UTC\") permit (principal, action, resource);",
        ),
        (
            "bounds",
            "@bounds(\"/acme/shop\") permit (principal, action == Action::\"accept\", resource);",
        ),
        ("template", "permit (principal == ?principal, action, resource);"),
        ("cut", "permit (principal, action"),
    ])
}

fn requests() -> Seeds {
    let explain = "{\"from\":\"web\",\"to\":\"spiffe://example.org/acme/shop\",\"port\":443}";
    let post = format!(
        "POST /v1/explain HTTP/1.1\r\nHost: enforcer\r\nContent-Length: {}\r\n\r\n{explain}",
        explain.len()
    );
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: enforcer\r\n\r\n");
    texts([
        ("status", &get("/v1/status")),
        ("flows", &get("/v1/flows?limit=10&workload=web")),
        ("bad_query", &get("/v1/flows?limit=0")),
        ("metrics", &get("/metrics")),
        ("unknown", &get("/v2/status")),
        ("two", &[get("/v1/counters"), get("/v1/identities")].concat()),
        ("explain", &post),
        ("question", explain),
        ("reload", "POST /v1/reload HTTP/1.0\r\n\r\n"),
        (
            "chunked",
            "POST /v1/explain HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ),
        ("put", "PUT /v1/policy/acme/a.cedar HTTP/1.0\r\nContent-Length: 9\r\n\r\npermit();"),
        ("remove", "DELETE /v1/policy/acme/../a.cedar HTTP/1.0\r\n\r\n"),
        ("not_http", "\u{16}\u{3}\u{1}"),
    ])
}

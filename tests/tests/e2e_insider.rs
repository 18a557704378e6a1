//! Those who have something real in their hands: a workload with root in its own namespace and its neighbour's
//! credential, a node with a certificate and no shame, a peer that speaks another mode or version.

use std::net::SocketAddr;
use std::time::Duration;

use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use enforcer_tests::capture::{Capture, Direction, Flags, Segment};
use enforcer_tests::config::{Config, Workload};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::frame::{self, Link};
use enforcer_tests::handmade::{Call, Speaker};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::keys::{Keys, NodeFiles};
use enforcer_tests::policy;
use enforcer_tests::program::mac::LABEL;
use enforcer_tests::raw::Forged;
use enforcer_tests::scenario::{NAMESPACE, PORT, server};
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, OneNode, ThreeHosts, configure, link, near};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;

/// How long what was sent by hand has to arrive.
const GRACE: Duration = Duration::from_millis(300);

/// A node with two workloads, of which `b` may call the server and `a` is in the hands of an attacker, and a server with
/// an enforcer of its own on the same network.
struct Neighbours {
    net: OneNode,
    server: Host,
    node: Option<Enforcer>,
    listener: Server,
    _server_side: Enforcer,
}

impl Neighbours {
    /// Without enforcement, it is the node that has none: the server's is always there.
    fn new(enforcement: Enforcement) -> Self {
        let net = OneNode::new().unwrap();
        let host = Host::new("server").unwrap();
        link(&host, INTERFACE, &net.node, "to-server").unwrap();
        net.node.ip("link set to-server master br0").unwrap();
        net.node.ip("link set to-server up").unwrap();
        configure(&host, INTERFACE, near(3)).unwrap();
        let keys = Keys::pki().unwrap();
        let [a, b] = [(&net.a, OneNode::TO_A), (&net.b, OneNode::TO_B)].map(|(host, port)| {
            let addresses = Family::BOTH.map(|family| host.address(family).to_string());
            Workload::behind(NAMESPACE, host.label(), port, &addresses)
        });
        let rules = policy::allow(&b, &server());
        let mut config = Config::new(keys.node("node", NAMESPACE).unwrap(), a, &rules);
        config.workloads.push(b);
        let of_server = keys.node("server-node", NAMESPACE).unwrap();
        let server_side =
            Enforcer::start(&host, &Config::new(of_server, server(), &rules)).unwrap();
        let node = Enforcer::start(&net.node, &config).unwrap();
        let listener = Server::start(&host, PORT, &Service::Echo).unwrap();
        let mut neighbours =
            Self { net, server: host, node: Some(node), listener, _server_side: server_side };
        // Both ends know each other, so that only what is under test is refused.
        assert_eq!(neighbours.dial(&neighbours.net.b), Got::Connection);
        assert_eq!(neighbours.dial(&neighbours.net.a), Got::Silence, "nobody permits it");
        if enforcement == Enforcement::Absent {
            // What leaves b from now on has no identity; its handshakes are from before.
            neighbours.end_enforcement();
        }
        neighbours
    }

    fn end_enforcement(&mut self) {
        let mut node = self.node.take().unwrap();
        node.terminate().unwrap();
        node.detach().unwrap();
    }

    fn to(&self) -> SocketAddr {
        self.server.at(Family::V4, PORT)
    }

    fn dial(&self, from: &Host) -> Got {
        dial(from, self.to(), SILENCE).unwrap().got()
    }

    /// How often the node dropped something for a reason.
    fn dropped(&self, reason: &str) -> u64 {
        self.node.as_ref().unwrap().counters().unwrap().drop(reason)
    }
}

/// The S1 and the proof of a call of `b`, as they were on the wire at the server.
fn captured(scene: &Neighbours) -> [Segment; 2] {
    let capture = Capture::start(&scene.server, INTERFACE).unwrap();
    drop(dial(&scene.net.b, scene.to(), PATIENCE).unwrap().stream().unwrap());
    [Flags::SYN, Flags::ACK].map(|flags| {
        let carries = |s: &Segment| s.flags == flags && s.identity().is_some();
        capture.wait_for("a stamped segment", PATIENCE, carries).unwrap()
    })
}

twin!(a_neighbours_credential_is_of_no_use_to_a_workload, stolen, enforced: false, Absent: true);

/// Whether the server answers to a call that a workload makes of its neighbour's captured handshake.
fn stolen(enforcement: Enforcement) -> bool {
    let mut scene = Neighbours::new(Enforcement::Enforced);
    let [s1, proof] = captured(&scene);
    if enforcement == Enforcement::Absent {
        scene.end_enforcement();
    }
    let (a, b) = (&scene.net.a, &scene.net.b);
    a.drop_arriving_tcp().unwrap();
    b.drop_arriving_tcp().unwrap();
    let own_link = Link::between(a, &scene.server).unwrap();
    let links = [own_link.clone(), own_link.in_the_name_of(b).unwrap()];
    let capture = Capture::start(&scene.server, INTERFACE).unwrap();
    let sources = [a.at(Family::V4, 42_000), b.at(Family::V4, 42_001)];
    for source in sources {
        for of in [&s1, &proof] {
            let stamped = Forged { source, ..Forged::replay(of) };
            // In another place of the header it is no less forged.
            let moved = Forged { options: Vec::new(), ..stamped.clone() }
                .identity(of.identity().unwrap())
                .option(3, &[7]);
            for link in &links {
                for segment in [&stamped, &moved] {
                    link.send(&[], &frame::packet(segment).unwrap()).unwrap();
                }
            }
        }
    }
    std::thread::sleep(GRACE);
    let segments = capture.segments().unwrap();
    if enforcement == Enforcement::Enforced {
        let arrived = segments.iter().find(|s| s.direction == Direction::In);
        assert!(arrived.is_none(), "left the node: {arrived:#?}");
        // Ahead of whose address it is.
        assert_eq!(scene.dropped("forged_option"), 16);
    }
    segments.iter().any(|s| s.direction == Direction::Out && s.flags == Flags::SYN_ACK)
}

/// Without the option, as data of a SYN of its own: the enforcer takes it out and stamps who it really is.
#[test]
fn a_credential_carried_as_data_is_taken_out_and_the_workload_named_as_itself() {
    let scene = Neighbours::new(Enforcement::Enforced);
    let [s1, _] = captured(&scene);
    let capture = Capture::start(&scene.server, INTERFACE).unwrap();
    let source = scene.net.a.at(Family::V4, 42_002);
    Forged::syn(source, scene.to()).payload(&s1.payload).send(&scene.net.a).unwrap();
    let left = capture.wait_for("the SYN", PATIENCE, |s| s.source == source).unwrap();
    assert_ne!(left.identity().unwrap()[..8], s1.identity().unwrap()[..8]);
    assert_ne!(left.payload, s1.payload);
    std::thread::sleep(GRACE);
    capture.assert_silent_towards(source.ip()).unwrap();
}

twin!(a_workload_that_knows_the_numbers_of_its_neighbours_connection_is_not_heard, injected,
    enforced: false, Absent: true);

/// Whether data that `a` sends in the name of `b`, with the right numbers, reaches the server.
fn injected(enforcement: Enforcement) -> bool {
    let mut scene = Neighbours::new(Enforcement::Enforced);
    scene.net.b.sysctl("ipv4/tcp_timestamps", "0").unwrap();
    let capture = Capture::start(&scene.server, INTERFACE).unwrap();
    let mut stream = Interactive::open(&scene.net.b, scene.to()).unwrap();
    let from = stream.local().unwrap();
    let segments = capture.segments().unwrap();
    let last = segments.into_iter().rfind(|s| s.source == from && s.payload_length > 0).unwrap();
    if enforcement == Enforcement::Absent {
        scene.end_enforcement();
    }
    let sequence = last.sequence.wrapping_add(u32::try_from(last.payload_length).unwrap());
    let segment = Forged { sequence, ..Forged::replay(&last) }.payload(b"injected");
    let own = Link::between(&scene.net.a, &scene.server).unwrap();
    let packet = frame::packet(&segment).unwrap();
    own.send(&[], &packet).unwrap();
    own.in_the_name_of(&scene.net.b).unwrap().send(&[], &packet).unwrap();
    std::thread::sleep(GRACE);
    let segments = capture.segments().unwrap();
    let heard = segments.iter().any(|s| s.direction == Direction::Out && s.payload == b"injected");
    if enforcement == Enforcement::Enforced {
        stream.exchange().unwrap();
        assert!(scene.dropped("spoofed_source") >= 2);
        assert!(scene.listener.accepted() > 0);
    }
    heard
}

/// A server that permits everybody with an identity, and somebody who speaks by hand.
struct Stranger {
    net: ThreeHosts,
    daemon: Enforcer,
    listener: Server,
    keys: Keys,
}

impl Stranger {
    fn new(keys: Keys) -> Self {
        let net = ThreeHosts::new().unwrap();
        let of_server = keys.node("server-node", NAMESPACE).unwrap();
        let config = Config::new(of_server, server(), policy::ALLOW_ALL);
        let daemon = Enforcer::start(&net.server, &config).unwrap();
        let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
        net.other.drop_arriving_tcp().unwrap();
        Self { net, daemon, listener, keys }
    }

    fn speaker(&self, node: &str, namespace: &str) -> Speaker {
        Speaker::new(&self.keys.node(node, namespace).unwrap()).unwrap()
    }

    fn call(&self, port: u16) -> Call {
        Call::new(self.net.other.at(Family::V4, port), self.net.server.at(Family::V4, PORT))
    }

    /// Whether the server says anything to a call with a credential.
    fn answers(&self, port: u16, credential: &[u8]) -> bool {
        let capture = Capture::start(&self.net.server, INTERFACE).unwrap();
        let call = self.call(port);
        call.hello(credential).send(&self.net.other).unwrap();
        let answered = call.answer(&capture).is_ok();
        if !answered {
            let said = capture.segments().unwrap();
            let to_it = said.iter().find(|s| s.destination == call.source);
            assert!(to_it.is_none(), "said something else: {to_it:#?}");
        }
        answered
    }

    /// Whether a call of a workload that the speaker issues for is opened by a proof under a label.
    fn opens(&self, speaker: &Speaker, id: &str, port: u16, label: [u8; 4]) -> bool {
        let capture = Capture::start(&self.net.server, INTERFACE).unwrap();
        let before = self.listener.accepted();
        let credential = speaker.issue(id).unwrap();
        let call = self.call(port);
        call.hello(credential.bytes()).send(&self.net.other).unwrap();
        let s2 = call.answer(&capture).unwrap();
        let proof = speaker.proof(&call, &credential, &s2, label).unwrap();
        proof.send(&self.net.other).unwrap();
        std::thread::sleep(GRACE);
        self.listener.accepted() > before
    }

    fn event(&self, name: &str) -> u64 {
        self.daemon.counters().unwrap().event(name)
    }
}

#[test]
fn a_node_that_signs_outside_its_namespaces_hears_nothing() {
    let scene = Stranger::new(Keys::pki().unwrap());
    let dishonest = scene.speaker("dishonest-node", "/acme/shop");
    // Above, beside, below by its letters alone, and the server's own.
    let outside = ["/acme/till", "/acme", "/acme/shopping", "/acme/prod", "/other/acme/shop"];
    for (n, namespace) in (0..).zip(outside) {
        let credential =
            dishonest.sign_anyway(&format!("spiffe://example.org{namespace}/client")).unwrap();
        assert!(!scene.answers(43_000 + n, &credential), "{namespace} is heard");
        assert_eq!(scene.event("credential_refused_namespace_outside"), u64::from(n) + 1);
    }
    let foreign = dishonest.sign_anyway("spiffe://example.net/acme/shop/client").unwrap();
    assert!(!scene.answers(43_100, &foreign));
    assert_eq!(scene.event("credential_refused_trust_domain"), 1);
    // The twin: signed the same way, for its own namespace and below, it is heard.
    for (n, namespace) in (0..).zip(["/acme/shop", "/acme/shop/berlin"]) {
        let id = format!("spiffe://example.org{namespace}/client");
        assert!(scene.answers(43_200 + n, &dishonest.sign_anyway(&id).unwrap()), "{namespace}");
        assert!(scene.opens(&dishonest, &id, 43_300 + n, LABEL));
    }
}

#[test]
fn a_proof_of_another_version_or_purpose_opens_nothing() {
    for keys in [Keys::pki().unwrap(), Keys::psk().unwrap()] {
        let scene = Stranger::new(keys);
        let speaker = scene.speaker("client-node", NAMESPACE);
        let id = format!("spiffe://example.org{NAMESPACE}/client");
        let labels = [*b"ENM\x00", *b"ENM\x01", *b"ENM\x03", *b"ENM\xff", *b"EN3\x01", [0; 4]];
        for (n, label) in (0..).zip(labels) {
            assert!(!scene.opens(&speaker, &id, 44_000 + n, label), "{label:?} opens a connection");
            assert_eq!(scene.daemon.counters().unwrap().drop("bad_mac"), u64::from(n) + 1);
        }
        // The twin: under its own label it does.
        assert!(scene.opens(&speaker, &id, 44_100, LABEL));
    }
}

#[test]
fn a_credential_sealed_for_another_version_or_purpose_hears_nothing() {
    let scene = Stranger::new(Keys::pki().unwrap());
    let node = scene.keys.node("client-node", NAMESPACE).unwrap();
    let honest = Speaker::new(&node).unwrap();
    let whole = honest.sign_anyway(&format!("spiffe://example.org{NAMESPACE}/client")).unwrap();
    let NodeFiles::Pki { key, .. } = &node.files else { panic!("expected a node's key") };
    let key = SigningKey::from_pkcs8_pem(&std::fs::read_to_string(key).unwrap()).unwrap();
    let contexts =
        ["enforcer 0 credential pki", "enforcer 2 credential pki", "enforcer 1 node request"];
    for (n, context) in (0..).zip(contexts) {
        assert!(!scene.answers(45_000 + n, &resealed(&whole, &key, context)), "{context} is heard");
        assert_eq!(scene.event("credential_refused_bad_signature"), u64::from(n) + 1);
    }
    // The twin: sealed again under its own context, it is the same credential and is heard.
    let again = resealed(&whole, &key, "enforcer 1 credential pki");
    assert_eq!(again, whole);
    assert!(scene.answers(45_100, &again));
}

/// The credential with a signature of the same key under another external_aad (RFC 9052 4.4): a CBOR array of the text
/// `Signature1`, the protected header, the aad and the claims, the latter three as byte strings.
fn resealed(credential: &[u8], key: &SigningKey, context: &str) -> Vec<u8> {
    use enforcer_user::identity::envelope::{Kind, open};
    let opened = open(Kind::CredentialPki, credential).unwrap();
    let sealed = opened.envelope.to_be_sealed();
    let own = b"enforcer 1 credential pki";
    let at = sealed.windows(own.len()).position(|bytes| bytes == own).unwrap();
    // The head of a byte string of 24 to 255 bytes has two bytes, of fewer one.
    let head = |length: usize| match u8::try_from(length).unwrap() {
        short @ 0..24 => vec![0x40 + short],
        long => vec![0x58, long],
    };
    let aad = [&head(context.len())[..], context.as_bytes()].concat();
    let message = [&sealed[..at - head(own.len()).len()], &aad, &sealed[at + own.len()..]].concat();
    let signature = key.sign(&message).to_bytes();
    [&opened.envelope.encode(&signature)[..], &credential[opened.len..]].concat()
}

#[test]
fn a_credential_of_the_other_mode_hears_nothing_and_is_named() {
    let (pki, psk) = (Keys::pki().unwrap(), Keys::psk().unwrap());
    let id = format!("spiffe://example.org{NAMESPACE}/client");
    let credentials = [&pki, &psk].map(|keys| {
        let speaker = Speaker::new(&keys.node("client-node", NAMESPACE).unwrap()).unwrap();
        speaker.issue(&id).unwrap().bytes().to_vec()
    });
    for (own, keys) in [pki, psk].into_iter().enumerate() {
        let scene = Stranger::new(keys);
        assert!(!scene.answers(46_000, &credentials[1 - own]));
        assert_eq!(scene.event("credential_refused_wrong_mode"), 1);
        // The first byte says the mode: the own credential with that of the other mode.
        let mut turned = credentials[own].clone();
        turned[0] = credentials[1 - own][0];
        assert!(!scene.answers(46_001, &turned));
        assert_eq!(scene.event("credential_refused_wrong_mode"), 2);
        // The twin: unchanged it is heard.
        assert!(scene.answers(46_002, &credentials[own]));
    }
}

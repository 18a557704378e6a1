//! Handshakes that somebody recorded and plays again: whole, late, mirrored, spliced from two, cut.

use std::net::SocketAddr;
use std::time::Duration;

use enforcer_tests::capture::{Capture, Direction, EXID, Flags, IDENTITY_KIND, Segment};
use enforcer_tests::handmade::{Call, PREFIX, Speaker};
use enforcer_tests::host::Family;
use enforcer_tests::raw::Forged;
use enforcer_tests::recorded::{Heard, Recorded};
use enforcer_tests::scenario::{Contact, Daemons, NAMESPACE, PORT, Setup, contact};
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{Dial, Got, PATIENCE, SILENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, Routed, ThreeHosts};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;

/// The port of the client whose handshake is recorded.
const RECORDED: u16 = 40_000;
/// The first port of hellos that were spliced.
const SPLICED: u16 = 31_000;
const TEN_MINUTES: i64 = 600;
/// A life of credentials short enough to wait for.
const SHORT_LIFE_SECONDS: u64 = 15;
/// How long a forged segment has to be believed.
const GRACE: Duration = Duration::from_millis(60);

/// A client whose handshake with the server was recorded, and somebody who has the recording.
struct Scene {
    daemons: Daemons,
    listener: Server,
    recorded: Recorded,
    net: ThreeHosts,
}

impl Scene {
    fn new(enforcement: Enforcement, family: Family) -> Self {
        Self::with(enforcement, family, 3600)
    }

    /// With credentials of the client that live so long.
    fn with(enforcement: Enforcement, family: Family, lifetime_seconds: u64) -> Self {
        let net = ThreeHosts::new().unwrap();
        let mut setup = Setup::pki().unwrap();
        setup.client.credential_lifetime_seconds = lifetime_seconds;
        let daemons = setup.start(&net.client, &net.server, enforcement).unwrap();
        let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
        let to = net.server.at(family, PORT);
        let recorded = Recorded::of(&net.client, RECORDED, &net.server, to).unwrap();
        // Whatever is said to them now, their own stacks do not answer.
        net.client.drop_arriving_tcp().unwrap();
        net.other.drop_arriving_tcp().unwrap();
        Self { daemons, listener, recorded, net }
    }

    fn enforced() -> Self {
        Self::new(Enforcement::Enforced, Family::V4)
    }

    /// Plays the recording in the name of `source`.
    fn play(&self, source: SocketAddr) -> Outcome {
        let before = self.listener.accepted();
        let heard = self.recorded.play(&self.net.other, source, &self.net.server).unwrap();
        Outcome { heard, connected: self.listener.accepted() > before }
    }
}

/// What came of a handshake that was played again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    heard: Heard,
    connected: bool,
}

impl Outcome {
    /// The callee's credential and nothing more.
    const CREDENTIAL: Self = Self { heard: Heard::Answer, connected: false };
    const NOTHING: Self = Self { heard: Heard::Nothing, connected: false };
    const CONNECTION: Self = Self { heard: Heard::More, connected: true };
}

twin!(a_handshake_played_again_from_another_address, from_another_v4,
    enforced: Outcome::CREDENTIAL, Absent: Outcome::CONNECTION);
twin!(a_handshake_played_again_from_another_address_over_ipv6, from_another_v6,
    enforced: Outcome::CREDENTIAL, Absent: Outcome::CONNECTION);
twin!(a_handshake_played_again_from_its_own_address_and_port, from_its_own,
    enforced: Outcome::CREDENTIAL, Absent: Outcome::CONNECTION);
twin!(a_handshake_played_again_from_its_own_address_and_another_port, from_its_own_address,
    enforced: Outcome::CREDENTIAL, Absent: Outcome::CONNECTION);

fn from_another_v4(enforcement: Enforcement) -> Outcome {
    from_another(enforcement, Family::V4)
}

fn from_another_v6(enforcement: Enforcement) -> Outcome {
    from_another(enforcement, Family::V6)
}

fn from_another(enforcement: Enforcement, family: Family) -> Outcome {
    let scene = Scene::new(enforcement, family);
    scene.play(scene.net.other.at(family, RECORDED))
}

fn from_its_own(enforcement: Enforcement) -> Outcome {
    let scene = Scene::new(enforcement, Family::V4);
    scene.play(scene.recorded.s1.source)
}

fn from_its_own_address(enforcement: Enforcement) -> Outcome {
    let scene = Scene::new(enforcement, Family::V4);
    scene.play(scene.net.client.at(Family::V4, RECORDED + 1))
}

/// Minutes later by the server's clock, which is all that the answer depends on: nonces and attempts know no wall clock.
#[test]
fn a_handshake_played_again_after_minutes_gets_no_more_than_at_once() {
    let mut scene = Scene::enforced();
    scene.daemons.server().unwrap().shift_clock(TEN_MINUTES).unwrap();
    std::thread::sleep(SILENCE);
    assert_eq!(scene.play(scene.net.other.at(Family::V4, RECORDED)), Outcome::CREDENTIAL);
}

#[test]
fn a_handshake_played_again_after_its_credential_ended_hears_nothing() {
    let mut scene = Scene::with(Enforcement::Enforced, Family::V4, SHORT_LIFE_SECONDS);
    // The twin: before that, it is answered.
    assert_eq!(scene.play(scene.net.other.at(Family::V4, RECORDED)), Outcome::CREDENTIAL);
    std::thread::sleep(Duration::from_secs(SHORT_LIFE_SECONDS + 1));
    assert_eq!(scene.play(scene.net.other.at(Family::V4, RECORDED + 1)), Outcome::NOTHING);
    let counters = scene.daemons.server().unwrap().counters().unwrap();
    let named = counters.drop("expired") + counters.event("credential_refused_expired");
    assert!(named > 0, "{counters:?}");
}

#[test]
fn a_handshake_played_again_to_a_daemon_that_was_started_anew_opens_nothing() {
    let mut scene = Scene::enforced();
    for (n, orderly) in [(1, true), (2, false)] {
        let daemon = scene.daemons.server().unwrap();
        if orderly { daemon.terminate() } else { daemon.kill() }.unwrap();
        daemon.launch().unwrap();
        let outcome = scene.play(scene.net.other.at(Family::V4, RECORDED + n));
        assert_eq!(outcome, Outcome::CREDENTIAL);
    }
}

/// What a man in the middle holds back and what he makes of it.
struct Middle {
    net: Routed,
    daemons: Daemons,
    listener: Server,
    /// An earlier handshake of the same two.
    earlier: Recorded,
}

impl Middle {
    fn new() -> Self {
        let net = Routed::new().unwrap();
        let daemons =
            Setup::pki().unwrap().start(&net.client, &net.server, Enforcement::Enforced).unwrap();
        let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
        let to = net.server.at(Family::V4, PORT);
        let earlier = Recorded::of(&net.client, RECORDED, &net.server, to).unwrap();
        Self { net, daemons, listener, earlier }
    }

    /// Holds back what a rule matches; everything else is forwarded.
    fn holds_back(&self, matching: &str) {
        self.net
            .router
            .nft(&format!(
                "add table inet held; \
                 add chain inet held forward {{ type filter hook forward priority 0; }}; \
                 add rule inet held forward {matching} drop"
            ))
            .unwrap();
    }

    fn call(&self) -> std::thread::JoinHandle<Dial> {
        let (host, to) = (self.net.client.clone(), self.net.server.at(Family::V4, PORT));
        std::thread::spawn(move || dial(&host, to, PATIENCE).unwrap())
    }
}

/// A segment with other options than the one it was made of: the body of ours, another way.
fn with_option(of: &Segment, data: &[u8]) -> Forged {
    Forged { options: Vec::new(), ..Forged::replay(of) }.option(IDENTITY_KIND, data)
}

fn with_body(of: &Segment, body: &[u8]) -> Forged {
    with_option(of, &[&EXID[..], body].concat())
}

fn with_payload(of: &Segment, payload: &[u8]) -> Forged {
    Forged::replay(of).payload(payload)
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// SYN-ACKs that are not the callee's answer to this call, although most of their bytes are.
fn false_answers(s1: &Segment, s2: &Segment, earlier: &Recorded) -> Vec<(String, Forged)> {
    let credential = &s2.payload[PREFIX..];
    let old_prefix = &earlier.s2.payload[..PREFIX];
    let (body, old_body) = (s2.identity().unwrap(), earlier.s2.identity().unwrap());
    let caller = s1.identity().unwrap();
    let mut answers = vec![
        (
            "the caller's own option and credential",
            Forged {
                options: s1.option_bytes.clone(),
                payload: s1.payload.clone(),
                ..Forged::replay(s2)
            },
        ),
        (
            "an earlier answer",
            Forged {
                options: earlier.s2.option_bytes.clone(),
                payload: earlier.s2.payload.clone(),
                ..Forged::replay(s2)
            },
        ),
        ("the MAC of an earlier answer", with_payload(s2, &[old_prefix, credential].concat())),
        ("the nonce of an earlier answer", with_body(s2, old_body)),
        ("the caller's nonce", with_body(s2, &[&body[..8], &caller[8..]].concat())),
        ("the caller's handle", with_body(s2, &[&caller[..8], &body[8..]].concat())),
        ("a MAC changed in a bit", with_payload(s2, &flipped(&s2.payload, 3))),
        ("another address", with_payload(s2, &flipped(&s2.payload, 31))),
        ("another port", with_payload(s2, &flipped(&s2.payload, 33))),
        ("a longer option", with_option(s2, &[&EXID[..], body, &[0, 0]].concat())),
        ("a shorter option", with_option(s2, &[&EXID[..], &body[..14]].concat())),
        ("ours twice", with_body(s2, body).identity(body)),
    ]
    .into_iter()
    .map(|(what, answer)| (what.to_owned(), answer))
    .collect::<Vec<_>>();
    let whole = s2.payload.len();
    for length in [0, 1, 15, 16, 33, 34, 35, 34 + credential.len() / 2, whole - 1] {
        answers.push((format!("cut to {length}"), with_payload(s2, &s2.payload[..length])));
    }
    answers.push(("longer".into(), with_payload(s2, &[&s2.payload[..], &[0]].concat())));
    answers
}

#[test]
fn answers_that_were_mirrored_spliced_or_cut_on_the_way_are_not_believed() {
    let mut middle = Middle::new();
    middle.holds_back("ip saddr 198.51.100.2 tcp flags syn,ack / syn,ack");
    let (near, far) = (
        Capture::start(&middle.net.router, Routed::NEAR).unwrap(),
        Capture::start(&middle.net.router, Routed::FAR).unwrap(),
    );
    let calling = middle.call();
    let s1 = near.wait_for("S1", PATIENCE, |s| s.flags == Flags::SYN).unwrap();
    let s2 = far.wait_for("S2", PATIENCE, |s| s.flags == Flags::SYN_ACK).unwrap();
    for (what, answer) in false_answers(&s1, &s2, &middle.earlier) {
        answer.send(&middle.net.router).unwrap();
        std::thread::sleep(GRACE);
        let said = near.segments().unwrap();
        let believed = said.iter().any(|s| s.source == s1.source && s.flags.has(Flags::ACK));
        assert!(!believed, "the caller believed: {what}");
    }
    let drops = middle.daemons.client().unwrap().counters().unwrap();
    for reason in ["bad_mac", "credential_length", "wrong_version"] {
        assert!(drops.drop(reason) > 0, "no {reason}: {drops:?}");
    }
    assert!(!calling.is_finished(), "the call ended with one of them");
    // The twin: unchanged, by the same way, it is believed.
    Forged::replay(&s2).send(&middle.net.router).unwrap();
    assert_eq!(calling.join().unwrap().got(), Got::Connection);
}

/// The MAC of an answer covers the handle of its credential and not its bytes: those are held by the checksum that is
/// left when the verified credential is taken away. So the stack is what refuses another one of the same length, and
/// the answer itself is taken behind it as if nothing had been.
#[test]
fn an_answer_with_another_credential_of_its_length_is_refused_by_the_stack_and_costs_nothing() {
    let middle = Middle::new();
    middle.holds_back("ip saddr 198.51.100.2 tcp flags syn,ack / syn,ack");
    let (near, far) = (
        Capture::start(&middle.net.router, Routed::NEAR).unwrap(),
        Capture::start(&middle.net.router, Routed::FAR).unwrap(),
    );
    let before = Stats::read(&middle.net.client).unwrap();
    let calling = middle.call();
    let s2 = far.wait_for("S2", PATIENCE, |s| s.flags == Flags::SYN_ACK).unwrap();
    let swapped = with_payload(&s2, &flipped(&s2.payload, s2.payload.len() - 1));
    swapped.send(&middle.net.router).unwrap();
    std::thread::sleep(GRACE);
    let after = Stats::read(&middle.net.client).unwrap();
    assert_eq!(after.checksum_errors_since(&before).unwrap(), 1, "the stack did not see it");
    let said = near.segments().unwrap();
    assert!(said.iter().all(|s| s.source != s2.destination || s.flags == Flags::SYN), "{said:#?}");
    assert!(!calling.is_finished(), "the call ended with it");
    // Those of the callee's stack are held back still.
    Forged::replay(&s2).send(&middle.net.router).unwrap();
    assert_eq!(calling.join().unwrap().got(), Got::Connection);
}

/// First ACKs that do not prove this call, although most of their bytes come from one that does.
fn false_proofs(s2: &Segment, s3: &Segment, earlier: &Recorded) -> Vec<(&'static str, Forged)> {
    let mac = s3.identity().unwrap();
    let bare = Forged { options: Vec::new(), ..Forged::replay(s3) };
    vec![
        ("none", bare.clone()),
        ("that of an earlier call", with_body(s3, earlier.s3.identity().unwrap())),
        ("the callee's own MAC", with_body(s3, &s2.payload[..16])),
        ("the callee's own option", with_body(s3, s2.identity().unwrap())),
        ("changed in a bit", with_body(s3, &flipped(mac, 15))),
        ("cut to 15 bytes", with_option(s3, &[&EXID[..], &mac[..15]].concat())),
        ("cut to 8 bytes", with_option(s3, &[&EXID[..], &mac[..8]].concat())),
        ("cut to none", with_option(s3, &EXID)),
        ("half of two", with_body(s3, &[&mac[..8], &earlier.s3.identity().unwrap()[8..]].concat())),
        ("with data", Forged::replay(s3).payload(b"x")),
        ("with FIN", Forged { flags: Flags(Flags::ACK.0 | Flags::FIN.0), ..Forged::replay(s3) }),
        (
            "with another sequence",
            Forged { sequence: s3.sequence.wrapping_add(1), ..Forged::replay(s3) },
        ),
        (
            "with another acknowledgement",
            Forged { acknowledgement: s3.acknowledgement.wrapping_sub(1), ..Forged::replay(s3) },
        ),
        ("behind data without it", bare.payload(b"data ahead of its proof")),
    ]
}

#[test]
fn proofs_that_were_mirrored_spliced_or_cut_on_the_way_open_nothing() {
    let mut middle = Middle::new();
    let before = middle.listener.accepted();
    // All pure ACKs of the client, the repeated ones too.
    middle.holds_back("ip daddr 198.51.100.2 tcp flags ack / syn,ack,fin,rst,psh");
    let (near, far) = (
        Capture::start(&middle.net.router, Routed::NEAR).unwrap(),
        Capture::start(&middle.net.router, Routed::FAR).unwrap(),
    );
    let calling = middle.call();
    let s3 = near.wait_for("S3", PATIENCE, |s| s.flags == Flags::ACK).unwrap();
    let s2 = far.wait_for("S2", PATIENCE, |s| s.flags == Flags::SYN_ACK).unwrap();
    for (what, proof) in false_proofs(&s2, &s3, &middle.earlier) {
        proof.send(&middle.net.router).unwrap();
        std::thread::sleep(GRACE);
        assert_eq!(middle.listener.accepted(), before, "the callee believed: {what}");
    }
    let drops = middle.daemons.server().unwrap().counters().unwrap();
    for reason in ["bad_mac", "awaiting_proof", "proof_with_data", "wrong_version"] {
        assert!(drops.drop(reason) > 0, "no {reason}: {drops:?}");
    }
    // The twin: unchanged, by the same way, it opens the connection.
    Forged::replay(&s3).send(&middle.net.router).unwrap();
    let opened = || middle.listener.accepted() > before;
    let mut tries = 0..100;
    assert!(tries.any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        opened()
    }));
    assert_eq!(calling.join().unwrap().got(), Got::Connection);
}

/// Hellos with parts of two: sent by a host without an enforcer, which holds two nodes' keys.
#[test]
fn hellos_spliced_of_two_or_cut_anywhere_hear_nothing() {
    let net = ThreeHosts::new().unwrap();
    let mut setup = Setup::pki().unwrap();
    let other_node = setup.keys.node("other-node", NAMESPACE).unwrap();
    let speakers = [&setup.client.keys, &other_node].map(|keys| Speaker::new(keys).unwrap());
    setup.server.policy = enforcer_tests::policy::ALLOW_ALL.into();
    let mut daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    net.other.drop_arriving_tcp().unwrap();
    let [one, two] = [0, 1].map(|n: usize| {
        let id = format!("spiffe://example.org{NAMESPACE}/caller-{n}");
        speakers[n].issue(&id).unwrap().bytes().to_vec()
    });
    assert!(is_answered(&net, 30_000, |call| call.hello(&one)), "the first is not answered");
    assert!(is_answered(&net, 30_001, |call| call.hello(&two)), "the second is not answered");
    let handle = |of: &[u8]| enforcer_tests::handmade::handle(of);
    let mut payloads = vec![
        [&one[..one.len() / 2], &two[one.len() / 2..]].concat(),
        // A credential with the certificate of another node.
        [&one[..credential_length(&one)], &two[credential_length(&two)..]].concat(),
        [&one[..], &two[..]].concat(),
        one[..credential_length(&one)].to_vec(),
        one[credential_length(&one)..].to_vec(),
    ];
    payloads.extend((0..one.len()).step_by(one.len() / 12).map(|length| one[..length].to_vec()));
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    for (n, payload) in payloads.iter().enumerate() {
        // Under its own handle, under that of the whole, under that of the other.
        for (m, handle) in [handle(payload), handle(&one), handle(&two)].into_iter().enumerate() {
            let port = SPLICED + u16::try_from(3 * n + m).unwrap();
            let call = Call::new(net.other.at(Family::V4, port), net.server.at(Family::V4, PORT));
            call.hello_as(handle, payload).send(&net.other).unwrap();
        }
    }
    std::thread::sleep(SILENCE);
    // Those above that were answered hear their SYN-ACK again.
    let said = capture.segments().unwrap();
    let said =
        said.iter().find(|s| s.direction == Direction::Out && s.destination.port() >= SPLICED);
    assert!(said.is_none(), "{said:#?}");
    assert_eq!(listener.accepted(), 0);
    let counters = daemons.server().unwrap().counters().unwrap();
    for event in ["credential_refused_bad_signature", "credential_refused_malformed"] {
        assert!(counters.event(event) > 0, "no {event}: {counters:?}");
    }
    // The twin behind it: all that was refused bars nobody.
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);
}

/// The bytes of the credential proper, without the node's certificate: the second COSE_Sign1 (tag 18) begins there.
fn credential_length(of: &[u8]) -> usize {
    let opened = enforcer_user::identity::envelope::open(
        enforcer_user::identity::envelope::Kind::CredentialPki,
        of,
    );
    opened.unwrap().len
}

fn is_answered(net: &ThreeHosts, port: u16, hello: impl Fn(&Call) -> Forged) -> bool {
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let call = Call::new(net.other.at(Family::V4, port), net.server.at(Family::V4, PORT));
    hello(&call).send(&net.other).unwrap();
    call.answer(&capture).is_ok()
}

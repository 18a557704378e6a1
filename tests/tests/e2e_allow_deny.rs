//! Who may connect, and who hears nothing: two hosts, a daemon on each, real sockets.

use enforcer_tests::accounting::Account;
use enforcer_tests::capture::{Capture, Direction, Flags, Segment};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::policy::{self, DENY_ALL};
use enforcer_tests::raw::Forged;
use enforcer_tests::saved_syn::SynListener;
use enforcer_tests::scenario::{Contact, PORT, Setup, client, contact, server};
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial, read_line};
use enforcer_tests::topology::{INTERFACE, TwoHosts};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;

const BEER: &str = "a dry stout";

#[test]
fn a_permitted_client_reads_its_line_over_ipv4_with_a_shared_key() {
    permitted(Setup::psk().unwrap(), Family::V4);
}

#[test]
fn a_permitted_client_reads_its_line_over_ipv6_with_a_shared_key() {
    permitted(Setup::psk().unwrap(), Family::V6);
}

#[test]
fn a_permitted_client_reads_its_line_over_ipv4_with_certificates() {
    permitted(Setup::pki().unwrap(), Family::V4);
}

#[test]
fn a_permitted_client_reads_its_line_over_ipv6_with_certificates() {
    permitted(Setup::pki().unwrap(), Family::V6);
}

/// Twice: the first contact goes through the daemons, the second is decided in the kernel alone.
fn permitted(setup: Setup, family: Family) {
    let mut pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let server = Server::start(&pair.net.server, PORT, &Service::Line(BEER.into())).unwrap();
    let to = pair.net.server.at(family, PORT);
    assert_eq!(read_line(&pair.net.client, to, PATIENCE).unwrap(), BEER);
    let cold = pair.daemons.server().unwrap().counters().unwrap().event("cold_segments");
    assert!(cold > 0, "the first contact must have been verified by the daemon");
    assert_eq!(read_line(&pair.net.client, to, PATIENCE).unwrap(), BEER);
    let counters = pair.daemons.server().unwrap().counters().unwrap();
    assert_eq!(counters.event("cold_segments"), cold, "the second needs no daemon");
    assert_eq!(counters.event("proof_accepted"), 2);
    assert_eq!(server.accepted(), 2);
}

#[test]
fn the_first_contact_costs_no_retransmission() {
    let pair = Setup::pki().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let _server = Server::start(&pair.net.server, PORT, &Service::Line(BEER.into())).unwrap();
    let before = [&pair.net.client, &pair.net.server].map(|host| Stats::read(host).unwrap());
    read_line(&pair.net.client, pair.net.server.at(Family::V4, PORT), PATIENCE).unwrap();
    let after = [&pair.net.client, &pair.net.server].map(|host| Stats::read(host).unwrap());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.retransmissions_since(before).unwrap(), 0);
        assert_eq!(after.checksum_errors_since(before).unwrap(), 0);
    }
}

#[test]
fn the_handshake_carries_identity_in_all_three_segments_and_nowhere_else() {
    let pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let _server = Server::start(&pair.net.server, PORT, &Service::Line(BEER.into())).unwrap();
    let capture = Capture::start(&pair.net.client, INTERFACE).unwrap();
    read_line(&pair.net.client, pair.net.server.at(Family::V4, PORT), PATIENCE).unwrap();
    let segments = capture.segments().unwrap();
    let identified = |flags: Flags, direction: Direction| {
        segments
            .iter()
            .filter(|s| s.flags == flags && s.direction == direction)
            .all(|s| s.identity().is_some() && (s.flags == Flags::ACK || s.payload_length > 32))
    };
    assert!(identified(Flags::SYN, Direction::Out), "{segments:#?}");
    assert!(identified(Flags::SYN_ACK, Direction::In), "{segments:#?}");
    let proofs: Vec<_> =
        segments.iter().filter(|s| s.identity().is_some() && !s.flags.has(Flags::SYN)).collect();
    assert!(!proofs.is_empty(), "{segments:#?}");
    assert!(proofs.iter().all(|s| s.flags == Flags::ACK && s.payload_length == 0), "{proofs:#?}");
}

#[test]
fn the_servers_stack_sees_the_syn_that_the_clients_stack_sent() {
    for family in Family::BOTH {
        let [plain, enforced] = [Enforcement::Absent, Enforcement::Enforced].map(|enforcement| {
            let pair = Setup::psk().unwrap().start_pair(enforcement).unwrap();
            let listener = SynListener::start(&pair.net.server, PORT).unwrap();
            dial(&pair.net.client, pair.net.server.at(family, PORT), PATIENCE).unwrap();
            listener.accept().unwrap()
        });
        let shape = |syn: &Segment| {
            let kinds: Vec<u8> = syn.options.iter().map(|option| option.kind).collect();
            (kinds, syn.flags, syn.payload_length, syn.window)
        };
        assert_eq!(shape(&enforced), shape(&plain));
    }
}

twin!(a_caller_whose_own_policy_denies_is_refused_over_ipv4, egress_denied_v4,
    enforced: Contact::REFUSED, Absent: Contact::MADE);
twin!(a_caller_whose_own_policy_denies_is_refused_over_ipv6, egress_denied_v6,
    enforced: Contact::REFUSED, Absent: Contact::MADE);
twin!(a_caller_denied_by_its_own_policy_connects_while_observed, egress_denied_v4,
    enforced: Contact::REFUSED, Observed: Contact::MADE);

fn egress_denied_v4(enforcement: Enforcement) -> Contact {
    contact_under(enforcement, Setup::psk().unwrap().client_policy(DENY_ALL), Family::V4, PORT)
}

fn egress_denied_v6(enforcement: Enforcement) -> Contact {
    contact_under(enforcement, Setup::psk().unwrap().client_policy(DENY_ALL), Family::V6, PORT)
}

twin!(a_caller_whom_the_callee_denies_hears_nothing_over_ipv4, ingress_denied_v4,
    enforced: Contact::SILENT, Absent: Contact::MADE);
twin!(a_caller_whom_the_callee_denies_hears_nothing_over_ipv6, ingress_denied_v6,
    enforced: Contact::SILENT, Absent: Contact::MADE);
twin!(a_caller_whom_the_callee_denies_connects_while_observed, ingress_denied_v4,
    enforced: Contact::SILENT, Observed: Contact::MADE);

fn ingress_denied_v4(enforcement: Enforcement) -> Contact {
    contact_under(enforcement, Setup::psk().unwrap().server_policy(DENY_ALL), Family::V4, PORT)
}

fn ingress_denied_v6(enforcement: Enforcement) -> Contact {
    contact_under(enforcement, Setup::psk().unwrap().server_policy(DENY_ALL), Family::V6, PORT)
}

twin!(a_port_that_no_rule_names_is_denied, other_port,
    enforced: Contact::SILENT, Absent: Contact::MADE);

fn other_port(enforcement: Enforcement) -> Contact {
    let rule = policy::allow_port(&client(), &server(), PORT);
    let setup = Setup::psk().unwrap().server_policy(&rule);
    contact_under(enforcement, setup, Family::V4, PORT + 1)
}

#[test]
fn a_port_that_a_rule_names_is_open() {
    let rule = policy::allow_port(&client(), &server(), PORT);
    let setup = Setup::psk().unwrap().server_policy(&rule).client_policy(&rule);
    assert_eq!(contact_under(Enforcement::Enforced, setup, Family::V4, PORT), Contact::MADE);
}

fn contact_under(enforcement: Enforcement, setup: Setup, family: Family, port: u16) -> Contact {
    let pair = setup.start_pair(enforcement).unwrap();
    let server = Server::start(&pair.net.server, port, &Service::Line(BEER.into())).unwrap();
    contact(&pair.net.client, pair.net.server.at(family, port), &server).unwrap()
}

twin!(permission_to_call_is_not_permission_to_be_called, called_back,
    enforced: false, Absent: true);

/// The client may call the server; the server calls the client.
fn called_back(enforcement: Enforcement) -> bool {
    let pair = Setup::psk().unwrap().start_pair(enforcement).unwrap();
    let listener = Server::start(&pair.net.client, PORT, &Service::Line(BEER.into())).unwrap();
    let to = pair.net.client.at(Family::V4, PORT);
    contact(&pair.net.server, to, &listener).unwrap().is_made()
}

#[test]
fn both_may_call_when_both_are_permitted() {
    let both =
        [policy::allow(&client(), &server()), policy::allow(&server(), &client())].join("\n");
    let setup = Setup::psk().unwrap().client_policy(&both).server_policy(&both);
    let pair = setup.start_pair(Enforcement::Enforced).unwrap();
    for (caller, callee) in
        [(&pair.net.client, &pair.net.server), (&pair.net.server, &pair.net.client)]
    {
        let listener = Server::start(callee, PORT, &Service::Line(BEER.into())).unwrap();
        for family in Family::BOTH {
            assert_eq!(contact(caller, callee.at(family, PORT), &listener).unwrap(), Contact::MADE);
        }
    }
}

/// What a client without any enforcer gets from a server, and what the server's interface sent to it.
#[derive(Debug, PartialEq, Eq)]
struct Stranger {
    contact: Contact,
    server_was_silent: bool,
}

twin!(a_client_without_an_enforcer_gets_nothing_at_all_over_ipv4, stranger_v4,
    enforced: Stranger { contact: Contact::SILENT, server_was_silent: true },
    Absent: Stranger { contact: Contact::MADE, server_was_silent: false });
twin!(a_client_without_an_enforcer_gets_nothing_at_all_over_ipv6, stranger_v6,
    enforced: Stranger { contact: Contact::SILENT, server_was_silent: true },
    Absent: Stranger { contact: Contact::MADE, server_was_silent: false });

fn stranger_v4(enforcement: Enforcement) -> Stranger {
    stranger(enforcement, Family::V4)
}

fn stranger_v6(enforcement: Enforcement) -> Stranger {
    stranger(enforcement, Family::V6)
}

fn stranger(enforcement: Enforcement, family: Family) -> Stranger {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let _enforcer = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&net.server, &setup.server).unwrap());
    let server = Server::start(&net.server, PORT, &Service::Line(BEER.into())).unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let contact = contact(&net.client, net.server.at(family, PORT), &server).unwrap();
    let silence = capture.assert_silent_towards(net.client.address(family));
    Stranger { contact, server_was_silent: silence.is_ok() }
}

twin!(a_closed_port_is_not_told_from_an_open_one_by_a_stranger, closed_port,
    enforced: Got::Silence, Absent: Got::Refusal);

fn closed_port(enforcement: Enforcement) -> Got {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let _enforcer = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&net.server, &setup.server).unwrap());
    dial(&net.client, net.server.at(Family::V4, PORT), SILENCE).unwrap().got()
}

twin!(a_garbage_credential_gets_nothing_at_all, garbage, enforced: true, Absent: false);

/// Sends SYNs with the handshake's option and junk for a credential; tells whether the server stayed silent.
fn garbage(enforcement: Enforcement) -> bool {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let _enforcer = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&net.server, &setup.server).unwrap());
    let server = Server::start(&net.server, PORT, &Service::Line(BEER.into())).unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    for family in Family::BOTH {
        for (index, junk) in [&[][..], b"junk", &[0xA5; 400], &[0xA5; 1100]].iter().enumerate() {
            let port = 4000 + u16::try_from(index).unwrap();
            let handle = *blake3::hash(junk).as_bytes();
            Forged::syn(net.client.at(family, port), net.server.at(family, PORT))
                .identity(&handle[..16])
                .payload(junk)
                .send(&net.client)
                .unwrap();
        }
    }
    std::thread::sleep(SILENCE);
    assert_eq!(server.accepted(), 0);
    Family::BOTH
        .iter()
        .all(|family| capture.assert_silent_towards(net.client.address(*family)).is_ok())
}

#[test]
fn every_packet_of_permitted_connections_is_accounted_for() {
    let pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let _server = Server::start(&pair.net.server, PORT, &Service::Line(BEER.into())).unwrap();
    let books = pair.open_books().unwrap();
    for family in Family::BOTH {
        let line = read_line(&pair.net.client, pair.net.server.at(family, PORT), PATIENCE).unwrap();
        assert_eq!(line, BEER);
    }
    for account in pair.close_books(&books).unwrap() {
        account.verify().unwrap();
        // The first contact was held at both ends.
        account.without("held").verify().unwrap_err();
    }
}

#[test]
fn every_packet_of_connections_that_the_callee_denies_is_accounted_for() {
    let setup = Setup::psk().unwrap().server_policy(DENY_ALL);
    let [_, server] = accounts_of_contact(setup, Contact::SILENT);
    assert!(server.drops.contains_key("policy_denied"), "{server}");
    server.without("policy_denied").verify().unwrap_err();
}

#[test]
fn every_packet_of_connections_that_the_caller_denies_is_accounted_for() {
    let setup = Setup::psk().unwrap().client_policy(DENY_ALL);
    let [client, _] = accounts_of_contact(setup, Contact::REFUSED);
    assert!(client.drops.contains_key("policy_denied"), "{client}");
    client.without("policy_denied").verify().unwrap_err();
}

/// The verified accounts of both ends, after one contact in each family that ended as told.
fn accounts_of_contact(setup: Setup, expected: Contact) -> [Account; 2] {
    let pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let server = Server::start(&pair.net.server, PORT, &Service::Line(BEER.into())).unwrap();
    let books = pair.open_books().unwrap();
    for family in Family::BOTH {
        let to = pair.net.server.at(family, PORT);
        assert_eq!(contact(&pair.net.client, to, &server).unwrap(), expected);
    }
    let accounts = pair.close_books(&books).unwrap();
    for account in &accounts {
        account.verify().unwrap();
    }
    accounts
}

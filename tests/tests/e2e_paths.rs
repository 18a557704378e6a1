//! What lies between: address translation, relays, routers that lose packets, and bridges inside one host.

use std::time::Duration;

use enforcer_tests::bulk::upload;
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::load::Load;
use enforcer_tests::policy::{self, DENY_ALL};
use enforcer_tests::scenario::{self, Contact, PORT, Setup, contact};
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial};
use enforcer_tests::topology::{OneNode, Routed, ThreeHosts};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;

const PUBLISHED: u16 = 80;

/// What a stack that loses one segment in twenty may need: a connection in some thousands loses the same segment four
/// times, and hears nothing for seven seconds.
const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn a_permitted_client_connects_through_a_router() {
    through_router(|_| Ok(()));
}

#[test]
fn a_permitted_client_connects_from_behind_masquerade() {
    through_router(Routed::masquerade);
}

fn through_router(prepare: impl Fn(&Routed) -> anyhow::Result<()>) {
    let net = Routed::new().unwrap();
    prepare(&net).unwrap();
    let setup = Setup::pki().unwrap();
    let _daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        let to = net.server.at(family, PORT);
        assert_eq!(contact(&net.client, to, &server).unwrap(), Contact::MADE);
    }
}

twin!(a_denied_client_behind_masquerade_hears_nothing, masqueraded_and_denied,
    enforced: Contact::SILENT, Absent: Contact::MADE);

fn masqueraded_and_denied(enforcement: Enforcement) -> Contact {
    let net = Routed::new().unwrap();
    net.masquerade().unwrap();
    let setup = Setup::psk().unwrap().server_policy(DENY_ALL);
    let _daemons = setup.start(&net.client, &net.server, enforcement).unwrap();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    contact(&net.client, net.server.at(Family::V4, PORT), &server).unwrap()
}

#[test]
fn a_published_port_is_reached_when_declared_a_virtual_address() {
    let (net, setup) = published();
    let mut setup = setup;
    setup.client.virtual_addresses = vec!["192.0.2.254/32".into(), "2001:db8::fe/128".into()];
    let _daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        let to = net.router.at(family, PUBLISHED);
        assert_eq!(contact(&net.client, to, &server).unwrap(), Contact::MADE);
    }
}

#[test]
fn the_policy_judges_the_servers_port_and_not_the_published_one() {
    let (net, mut setup) = published();
    setup.client.virtual_addresses = vec!["192.0.2.254/32".into()];
    let (client, server) = (scenario::client(), scenario::server());
    let setup = setup.client_policy(&policy::allow_port(&client, &server, PORT));
    let _daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.router.at(Family::V4, PUBLISHED);
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);
}

twin!(a_published_port_is_not_reached_when_not_declared, undeclared,
    enforced: false, Absent: true);

fn undeclared(enforcement: Enforcement) -> bool {
    let (net, setup) = published();
    let _daemons = setup.start(&net.client, &net.server, enforcement).unwrap();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    contact(&net.client, net.router.at(Family::V4, PUBLISHED), &server).unwrap().is_made()
}

fn published() -> (Routed, Setup) {
    let net = Routed::new().unwrap();
    net.publish(PUBLISHED, PORT).unwrap();
    (net, Setup::psk().unwrap())
}

twin!(a_relay_that_the_client_dials_does_not_get_it_through_to_a_third, relayed,
    enforced: false, Absent: true);

/// The client is made to dial `other`, which passes everything on to the server under its own address. The
/// client may call the server, and the server may be called by the client.
fn relayed(enforcement: Enforcement) -> bool {
    let net = ThreeHosts::new().unwrap();
    relay(&net.other, &net.server);
    let setup = Setup::psk().unwrap();
    let mut daemons = setup.start(&net.client, &net.server, enforcement).unwrap();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let made = contact(&net.client, net.other.at(Family::V4, PORT), &server).unwrap().is_made();
    if enforcement == Enforcement::Enforced {
        assert!(daemons.client().unwrap().counters().unwrap().drop("relayed") > 0);
        let direct = net.server.at(Family::V4, PORT);
        assert_eq!(contact(&net.client, direct, &server).unwrap(), Contact::MADE);
    }
    made
}

fn relay(by: &Host, to: &Host) {
    by.sysctl("ipv4/ip_forward", "1").unwrap();
    by.nft(&format!(
        "add table inet relay; \
         add chain inet relay pre {{ type nat hook prerouting priority -100; }}; \
         add chain inet relay post {{ type nat hook postrouting priority 100; }}; \
         add rule inet relay pre tcp dport {PORT} meta nfproto ipv4 dnat ip to {}; \
         add rule inet relay post masquerade",
        to.at(Family::V4, PORT)
    ))
    .unwrap();
}

#[test]
fn a_lost_proof_is_sent_again_ahead_of_the_data() {
    let net = Routed::new().unwrap();
    // 80 bytes hold exactly one bare proof (20 IP, 20 TCP, 12 time stamps, 20 identity).
    router_drops(
        &net,
        "tcp flags & (syn|ack|psh) == ack ip daddr 198.51.100.2 quota until 80 bytes",
    );
    let setup = Setup::psk().unwrap();
    let mut daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let _server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    Interactive::open(&net.client, net.server.at(Family::V4, PORT)).unwrap();
    assert!(daemons.client().unwrap().counters().unwrap().event("proof_cloned") > 0);
}

#[test]
fn connections_survive_a_lossy_path() {
    let net = Routed::new().unwrap();
    router_drops(&net, "numgen random mod 100 < 5");
    let setup = Setup::psk().unwrap();
    let _daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let _rate = Server::start_threads(&net.server, PORT, &Service::OneByte, 8).unwrap();
    let _digest = Server::start(&net.server, PORT + 1, &Service::Digest).unwrap();
    let load = Load::connections(net.server.at(Family::V4, PORT), 100).clients(8).patient(MINUTE);
    let report = load.run(&net.client).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
    upload(&net.client, net.server.at(Family::V4, PORT + 1), 1 << 18).unwrap();
}

fn router_drops(net: &Routed, matching: &str) {
    net.router
        .nft(&format!(
            "add table inet lossy; \
             add chain inet lossy forward {{ type filter hook forward priority 0; }}; \
             add rule inet lossy forward {matching} drop"
        ))
        .unwrap();
}

#[test]
fn two_workloads_of_one_host_connect_when_permitted() {
    let (net, _node) = one_node(Enforcement::Enforced, policy::ALLOW_ALL);
    let server = Server::start(&net.b, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        let to = net.b.at(family, PORT);
        assert_eq!(contact(&net.a, to, &server).unwrap(), Contact::MADE);
        Interactive::open(&net.a, to).unwrap();
    }
}

#[test]
fn two_workloads_of_one_host_move_bulk_unchanged() {
    let (net, _node) = one_node(Enforcement::Enforced, policy::ALLOW_ALL);
    let _server = Server::start(&net.b, PORT, &Service::Digest).unwrap();
    upload(&net.a, net.b.at(Family::V4, PORT), 8 << 20).unwrap();
}

twin!(two_workloads_of_one_host_are_kept_apart_when_denied, one_host_denied,
    enforced: false, Absent: true);

fn one_host_denied(enforcement: Enforcement) -> bool {
    let (net, _node) = one_node(enforcement, DENY_ALL);
    let server = Server::start(&net.b, PORT, &Service::Echo).unwrap();
    contact(&net.a, net.b.at(Family::V4, PORT), &server).unwrap().is_made()
}

twin!(a_workload_cannot_use_its_neighbours_address, spoofed, enforced: Got::Silence, Absent: Got::Connection);

/// Workload `a` takes a second address that is not its own, and calls `b` from there.
fn spoofed(enforcement: Enforcement) -> Got {
    let (net, _node) = one_node(enforcement, policy::ALLOW_ALL);
    let _server = Server::start(&net.b, PORT, &Service::Echo).unwrap();
    net.a.ip("addr add 192.0.2.77/24 dev eth0").unwrap();
    net.a.ip("route add 192.0.2.2/32 dev eth0 src 192.0.2.77").unwrap();
    dial(&net.a, net.b.at(Family::V4, PORT), SILENCE).unwrap().got()
}

fn one_node(enforcement: Enforcement, policy: &str) -> (OneNode, Option<Enforcer>) {
    let net = OneNode::new().unwrap();
    let config = scenario::one_node(&net, policy).unwrap();
    let enforced = enforcement == Enforcement::Enforced;
    let node = enforced.then(|| Enforcer::start(&net.node, &config).unwrap());
    (net, node)
}

#[test]
fn one_node_is_left_as_it_was_after_detach() {
    let (net, node) = one_node(Enforcement::Enforced, DENY_ALL);
    let server = Server::start(&net.b, PORT, &Service::Echo).unwrap();
    let to = net.b.at(Family::V4, PORT);
    assert!(!contact(&net.a, to, &server).unwrap().is_made());
    let mut node = node.unwrap();
    node.terminate().unwrap();
    node.detach().unwrap();
    assert!(!node.pins().exists(), "{} is still there", node.pins().display());
    assert_eq!(dial(&net.a, to, PATIENCE).unwrap().got(), Got::Connection);
}

//! What stands between enforced hosts and takes part: balancers, translators of either address, strict connection
//! tracking, and a proxy of the handshake, which ends it.

use std::net::IpAddr;

use enforcer_tests::capture::{Capture, Direction};
use enforcer_tests::config::Config;
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::{Addresses, Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::keys::Keys;
use enforcer_tests::policy;
use enforcer_tests::scenario::{self, NAMESPACE, PORT, Setup};
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial, read_line};
use enforcer_tests::topology::{INTERFACE, Routed, configure, far, link};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;

const PUBLISHED: u16 = 80;
const CALLS: usize = 4;

/// A client, two servers behind a router in networks of their own, and a daemon on each but the router.
struct Balanced {
    client: Host,
    router: Host,
    backends: [Host; 2],
    _daemons: Vec<Enforcer>,
}

/// `203.0.113.2`, `2001:db8:3::2`, and the router's end of that network.
fn third(last: u8) -> Addresses {
    Addresses {
        v4: std::net::Ipv4Addr::new(203, 0, 113, last),
        v6: std::net::Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, u16::from(last)),
    }
}

impl Balanced {
    fn new() -> Self {
        let Routed { client, router, server } = Routed::new().unwrap();
        let other = Host::new("other").unwrap();
        link(&other, INTERFACE, &router, "third").unwrap();
        configure(&router, "third", third(254)).unwrap();
        configure(&other, INTERFACE, third(2)).unwrap();
        other.ip(&format!("route add default via {}", third(254).v4)).unwrap();
        other.ip(&format!("-6 route add default via {}", third(254).v6)).unwrap();
        let keys = Keys::pki().unwrap();
        let policy = policy::allow(&scenario::client(), &scenario::server());
        let node =
            |name, workload| Config::new(keys.node(name, NAMESPACE).unwrap(), workload, &policy);
        let calling = node("client-node", scenario::client())
            .virtual_address("192.0.2.254/32")
            .virtual_address("2001:db8::fe/128");
        let daemons = vec![
            Enforcer::start(&client, &calling).unwrap(),
            Enforcer::start(&server, &node("server-node", scenario::server())).unwrap(),
            Enforcer::start(&other, &node("other-node", scenario::server())).unwrap(),
        ];
        Self { client, router, backends: [server, other], _daemons: daemons }
    }

    /// Publishes both backends, in turn, as [`PUBLISHED`] of the router.
    fn balance(&self) {
        let (one, other) = (far(2), third(2));
        self.router
            .nft(&format!(
                "add table inet arriving; \
                 add chain inet arriving pre {{ type nat hook prerouting priority -100; }}; \
                 add rule inet arriving pre iifname {near} tcp dport {PUBLISHED} meta nfproto ipv4 \
                   dnat ip to numgen inc mod 2 map {{ 0 : {one4}, 1 : {other4} }}:{PORT}; \
                 add rule inet arriving pre iifname {near} tcp dport {PUBLISHED} meta nfproto ipv6 \
                   dnat ip6 to numgen inc mod 2 map {{ 0 : {one6}, 1 : {other6} }}:{PORT}",
                near = Routed::NEAR,
                one4 = one.v4,
                other4 = other.v4,
                one6 = one.v6,
                other6 = other.v6,
            ))
            .unwrap();
    }

    /// Lets the router call in its own name.
    fn masquerade(&self) {
        self.router
            .nft(&format!(
                "add table inet leaving; \
                 add chain inet leaving post {{ type nat hook postrouting priority 100; }}; \
                 add rule inet leaving post oifname != {} masquerade",
                Routed::NEAR
            ))
            .unwrap();
    }

    /// Calls the published port, in each family as often as there are turns; every backend must have answered.
    fn call(&self) {
        let servers: Vec<Server> = self
            .backends
            .iter()
            .map(|host| {
                let service = Service::Line(host.label().to_owned());
                Server::start(host, PORT, &service).unwrap()
            })
            .collect();
        for family in Family::BOTH {
            for _ in 0..CALLS {
                let to = self.router.at(family, PUBLISHED);
                let line = read_line(&self.client, to, PATIENCE).unwrap();
                let known = self.backends.iter().any(|host| host.label() == line);
                assert!(known, "answered by {line:?}");
            }
        }
        for server in &servers {
            assert_eq!(server.accepted(), CALLS as u64, "each backend has its turn");
        }
    }
}

#[test]
fn a_balancer_with_two_backends_is_passed() {
    let net = Balanced::new();
    net.balance();
    net.call();
}

#[test]
fn a_balancer_that_also_hides_the_caller_is_passed() {
    let net = Balanced::new();
    net.balance();
    net.masquerade();
    let capture = Capture::start(&net.backends[0], INTERFACE).unwrap();
    net.call();
    let callers: Vec<IpAddr> = capture
        .segments()
        .unwrap()
        .into_iter()
        .filter(|s| s.direction == Direction::In)
        .map(|s| s.source.ip())
        .collect();
    let hidden = [IpAddr::V4(far(254).v4), IpAddr::V6(far(254).v6)];
    assert!(callers.iter().all(|caller| hidden.contains(caller)), "{callers:?}");
}

/// Connection tracking that takes up no connection in its middle and believes no segment outside its window, and a
/// firewall that lets nothing else pass.
#[test]
fn strict_connection_tracking_on_the_way_is_passed() {
    let net = Routed::new().unwrap();
    net.router.sysctl("netfilter/nf_conntrack_tcp_loose", "0").unwrap();
    net.router.sysctl("netfilter/nf_conntrack_tcp_be_liberal", "0").unwrap();
    net.router
        .nft(
            "add table inet strict; \
             add chain inet strict forward { type filter hook forward priority 0; policy drop; }; \
             add rule inet strict forward ct state invalid counter drop; \
             add rule inet strict forward ct state new tcp flags & (fin|syn|rst|ack) == syn accept; \
             add rule inet strict forward ct state established,related accept",
        )
        .unwrap();
    let setup = Setup::pki().unwrap();
    let _daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let _echo = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let _first = Server::start(&net.server, PORT + 1, &Service::Line("ale".into())).unwrap();
    let _digest = Server::start(&net.server, PORT + 2, &Service::Digest).unwrap();
    for family in Family::BOTH {
        let at = |port| net.server.at(family, port);
        for _ in 0..2 {
            Interactive::open(&net.client, at(PORT)).unwrap();
            let line = read_line(&net.client, at(PORT + 1), PATIENCE).unwrap();
            assert_eq!(line, "ale");
            enforcer_tests::bulk::upload(&net.client, at(PORT + 2), 1 << 20).unwrap();
        }
    }
    let mut list = net.router.command("nft");
    let rules =
        enforcer_tests::need::run(list.args(["list", "chain", "inet", "strict", "forward"]));
    let rules = rules.unwrap();
    assert!(rules.contains("invalid counter packets 0 "), "segments were out of state: {rules}");
}

twin!(a_proxy_of_the_handshake_is_noticed, proxied, enforced: Got::Refusal, Absent: Got::Connection);

/// A router that answers SYNs itself, with a cookie, and calls the server once the caller has proven to be there. It
/// cannot pass on what the handshake carries.
fn proxied(enforcement: Enforcement) -> Got {
    let net = Routed::new().unwrap();
    net.router.sysctl("netfilter/nf_conntrack_tcp_loose", "0").unwrap();
    net.router
        .nft(
            "add table inet proxy; \
             add chain inet proxy raw { type filter hook prerouting priority raw; }; \
             add rule inet proxy raw tcp flags syn notrack; \
             add chain inet proxy forward { type filter hook forward priority 0; }; \
             add rule inet proxy forward ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm; \
             add rule inet proxy forward ct state invalid drop",
        )
        .unwrap();
    let setup = Setup::psk().unwrap();
    let mut daemons = setup.start(&net.client, &net.server, enforcement).unwrap();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let got = dial(&net.client, net.server.at(Family::V4, PORT), SILENCE).unwrap().got();
    if enforcement == Enforcement::Enforced {
        assert_eq!(server.accepted(), 0);
        let counters = daemons.client().unwrap().counters().unwrap();
        assert!(counters.drop("peer_without_identity") > 0, "another reason: {counters:?}");
    }
    got
}

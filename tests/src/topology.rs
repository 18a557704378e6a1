//! Networks of hosts, all in documentation ranges (RFC 5737, RFC 3849), ready when their constructor returns.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use crate::host::{Addresses, Family, Host};

/// The interface that carries a host's address in every topology.
pub const INTERFACE: &str = "eth0";

/// The networks that test configurations declare as mesh: all documentation ranges.
pub const MESH_NETWORKS: [&str; 4] =
    ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"];

/// Addresses `192.0.2.<last>` and `2001:db8::<last>`.
#[must_use]
pub fn near(last: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(192, 0, 2, last),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)),
    }
}

/// Addresses `198.51.100.<last>` and `2001:db8:2::<last>`, behind the router of [`Routed`].
#[must_use]
pub fn far(last: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(198, 51, 100, last),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, u16::from(last)),
    }
}

/// Two hosts on the two ends of one veth.
#[derive(Debug)]
pub struct TwoHosts {
    /// `192.0.2.1`, `2001:db8::1`.
    pub client: Host,
    /// `192.0.2.2`, `2001:db8::2`.
    pub server: Host,
}

impl TwoHosts {
    /// Makes both and waits until they reach each other.
    pub fn new() -> Result<Self> {
        let client = Host::new("client")?;
        let server = Host::new("server")?;
        link(&client, INTERFACE, &server, INTERFACE)?;
        configure(&client, INTERFACE, near(1))?;
        configure(&server, INTERFACE, near(2))?;
        reachable(&client, &server)?;
        Ok(Self { client, server })
    }
}

/// Three hosts on a bridge that lives in a fourth namespace.
#[derive(Debug)]
pub struct ThreeHosts {
    /// `192.0.2.1`, `2001:db8::1`.
    pub client: Host,
    /// `192.0.2.2`, `2001:db8::2`.
    pub server: Host,
    /// `192.0.2.3`, `2001:db8::3`.
    pub other: Host,
    /// Holds bridge `br0` with ports `client`, `server` and `other`; no addresses.
    pub switch: Host,
}

impl ThreeHosts {
    /// Makes all and waits until the client and the other reach the server.
    pub fn new() -> Result<Self> {
        let switch = Host::new("switch")?;
        bridge(&switch)?;
        let client = attached(&switch, "client", near(1))?;
        let server = attached(&switch, "server", near(2))?;
        let other = attached(&switch, "other", near(3))?;
        reachable(&client, &server)?;
        reachable(&other, &server)?;
        Ok(Self { client, server, other, switch })
    }
}

/// A client and a server in different networks, with a forwarding router between them.
#[derive(Debug)]
pub struct Routed {
    /// `192.0.2.1`, `2001:db8::1`.
    pub client: Host,
    /// `near` and `far` interfaces, `.254` in both networks; its address is the near one.
    pub router: Host,
    /// `198.51.100.2`, `2001:db8:2::2`.
    pub server: Host,
}

impl Routed {
    /// The router's interface towards the client.
    pub const NEAR: &str = "near";
    /// The router's interface towards the server.
    pub const FAR: &str = "far";

    /// Makes all and waits until the client reaches the server.
    pub fn new() -> Result<Self> {
        let client = Host::new("client")?;
        let router = Host::new("router")?;
        let server = Host::new("server")?;
        link(&client, INTERFACE, &router, Self::NEAR)?;
        link(&server, INTERFACE, &router, Self::FAR)?;
        configure(&router, Self::NEAR, near(254))?;
        configure(&router, Self::FAR, far(254))?;
        configure(&client, INTERFACE, near(1))?;
        configure(&server, INTERFACE, far(2))?;
        for (host, gateway) in [(&client, near(254)), (&server, far(254))] {
            host.ip(&format!("route add default via {}", gateway.v4))?;
            host.ip(&format!("-6 route add default via {}", gateway.v6))?;
        }
        router.sysctl("ipv4/ip_forward", "1")?;
        router.sysctl("ipv6/conf/all/forwarding", "1")?;
        reachable(&client, &server)?;
        Ok(Self { client, router, server })
    }

    /// Rewrites the source of everything that leaves towards the server to the router's own address.
    pub fn masquerade(&self) -> Result<()> {
        self.router.nft(&format!(
            "add table inet leaving; \
             add chain inet leaving post {{ type nat hook postrouting priority 100; }}; \
             add rule inet leaving post oifname {} masquerade",
            Self::FAR
        ))
    }

    /// Publishes `port` of the server as `published` of the router's near address, in both families.
    pub fn publish(&self, published: u16, port: u16) -> Result<()> {
        let (v4, v6) = (far(2).v4, far(2).v6);
        self.router.nft(&format!(
            "add table inet arriving; \
             add chain inet arriving pre {{ type nat hook prerouting priority -100; }}; \
             add rule inet arriving pre iifname {near} tcp dport {published} meta nfproto ipv4 dnat ip to {v4}:{port}; \
             add rule inet arriving pre iifname {near} tcp dport {published} meta nfproto ipv6 dnat ip6 to [{v6}]:{port}",
            near = Self::NEAR
        ))
    }
}

/// One host with two workloads, each a namespace behind a veth whose host side is a port of a bridge.
#[derive(Debug)]
pub struct OneNode {
    /// Holds bridge `br0` (`.254`) and the host sides `to-a` and `to-b`; the enforcer runs here.
    pub node: Host,
    /// The first workload, `.1`.
    pub a: Host,
    /// The second workload, `.2`.
    pub b: Host,
}

impl OneNode {
    /// The host side of the first workload's veth.
    pub const TO_A: &str = "to-a";
    /// The host side of the second workload's veth.
    pub const TO_B: &str = "to-b";

    /// Makes all and waits until the workloads reach each other.
    pub fn new() -> Result<Self> {
        let node = Host::new("node")?;
        bridge(&node)?;
        configure(&node, "br0", near(254))?;
        let a = Host::new("a")?;
        let b = Host::new("b")?;
        for (host, port, addresses) in [(&a, Self::TO_A, near(1)), (&b, Self::TO_B, near(2))] {
            link(host, INTERFACE, &node, port)?;
            enslave(&node, port)?;
            configure(host, INTERFACE, addresses)?;
        }
        reachable(&a, &b)?;
        Ok(Self { node, a, b })
    }
}

/// Joins two hosts by a veth; both ends stay down until configured.
pub fn link(left: &Host, left_interface: &str, right: &Host, right_interface: &str) -> Result<()> {
    left.ip(&format!(
        "link add {left_interface} type veth peer name {right_interface} netns {}",
        right.name()
    ))
    .map(drop)
}

/// Gives an interface its addresses (without duplicate address detection, so that they work at once), takes it
/// up and notes the addresses on the host.
pub fn configure(host: &Host, interface: &str, addresses: Addresses) -> Result<()> {
    // No housekeeping packets in the middle of a test.
    for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")] {
        host.sysctl(&format!("ipv6/conf/{interface}/{key}"), value)?;
    }
    host.ip(&format!("addr add {}/24 dev {interface}", addresses.v4))?;
    host.ip(&format!("-6 addr add {}/64 dev {interface} nodad", addresses.v6))?;
    host.ip(&format!("link set {interface} up"))?;
    host.note_addresses(addresses);
    Ok(())
}

pub(crate) fn bridge(host: &Host) -> Result<()> {
    host.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
    host.ip("link set br0 up").map(drop)
}

pub(crate) fn enslave(host: &Host, port: &str) -> Result<()> {
    host.ip(&format!("link set {port} master br0"))?;
    host.ip(&format!("link set {port} up")).map(drop)
}

fn attached(switch: &Host, label: &str, addresses: Addresses) -> Result<Host> {
    let host = Host::new(label)?;
    link(&host, INTERFACE, switch, label)?;
    enslave(switch, label)?;
    configure(&host, INTERFACE, addresses)?;
    Ok(host)
}

/// Waits until a connection to a closed port is answered, in both families: links, bridge ports and neighbour
/// entries are then all up.
pub(crate) fn reachable(from: &Host, to: &Host) -> Result<()> {
    use crate::tcp::{Outcome, dial};
    const CLOSED_PORT: u16 = 9;
    for family in Family::BOTH {
        let mut tries = 0..50;
        let answered = tries.any(|_| {
            let short = std::time::Duration::from_millis(200);
            dial(from, to.at(family, CLOSED_PORT), short)
                .is_ok_and(|dialled| matches!(dialled.outcome, Outcome::Refused))
        });
        ensure!(
            answered,
            "host {} does not reach {} over {family:?}: check bridge and routes of this topology",
            from.label(),
            to.label()
        );
    }
    Ok(())
}

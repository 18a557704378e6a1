//! ARP and neighbour discovery: a workload speaks only for itself.

use std::net::{IpAddr, Ipv4Addr};

use enforcer_tests::program::kernel::Hook;
use enforcer_tests::program::packet::{End, arp, icmp};
use enforcer_tests::program::table::{check_families, drops, passes};
use enforcer_tests::program::world::{Family, Side, World};

fn v4(end: &End) -> Ipv4Addr {
    match end.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is not IPv4"),
    }
}

#[test]
fn a_workload_answers_arp_only_for_itself() {
    let rows = [
        passes("asking", |w| arp(&w.local, (w.local.mac, v4(&w.local)), 1), &[]),
        passes("answering", |w| arp(&w.local, (w.local.mac, v4(&w.local)), 2), &[]),
        passes("a probe", |w| arp(&w.local, (w.local.mac, Ipv4Addr::UNSPECIFIED), 1), &[]),
        drops(
            "another's address",
            |w| arp(&w.local, (w.local.mac, v4(&w.remote)), 2),
            &["spoofed_source"],
        ),
        drops(
            "another's link address inside",
            |w| arp(&w.local, (w.remote.mac, v4(&w.local)), 2),
            &["spoofed_source"],
        ),
        drops(
            "another's link address outside",
            |w| arp(&w.remote, (w.local.mac, v4(&w.local)), 2),
            &["spoofed_source"],
        ),
        drops(
            "cut short",
            |w| arp(&w.local, (w.local.mac, v4(&w.local)), 2)[..30].to_vec(),
            &["truncated"],
        ),
    ];
    check_families(&[Family::V4], Side::Client, Hook::From, &rows);
    let row = passes("from others", |w| arp(&w.remote, (w.remote.mac, v4(&w.remote)), 2), &[]);
    check_families(&[Family::V4], Side::Client, Hook::To, &[row]);
}

/// A neighbour advertisement or solicitation from the workload; `target` is what it speaks of.
fn neighbour(w: &World, kind: u8, target: &End) -> Vec<u8> {
    icmp(&w.local, &w.remote, kind, 0, &target.octets())
}

#[test]
fn a_workload_advertises_only_itself() {
    let rows = [
        passes("a solicitation", |w| neighbour(w, 135, &w.remote), &[]),
        passes("a router solicitation", |w| neighbour(w, 133, &w.remote), &[]),
        passes("its own address", |w| neighbour(w, 136, &w.local), &[]),
        drops("another's address", |w| neighbour(w, 136, &w.remote), &["spoofed_source"]),
        drops("a router advertisement", |w| neighbour(w, 134, &w.local), &["spoofed_source"]),
        drops("a redirect", |w| neighbour(w, 137, &w.local), &["spoofed_source"]),
        drops(
            "from another address",
            |w| {
                w.local.address = w.remote.address;
                neighbour(w, 135, &w.remote)
            },
            &["spoofed_source"],
        ),
        drops("without target", |w| icmp(&w.local, &w.remote, 136, 0, &[]), &["truncated"]),
    ];
    check_families(&[Family::V6], Side::Client, Hook::From, &rows);
    let row = passes("from others", |w| icmp(&w.remote, &w.local, 136, 0, &w.remote.octets()), &[]);
    check_families(&[Family::V6], Side::Client, Hook::To, &[row]);
}

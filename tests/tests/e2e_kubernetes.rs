//! Cases of the corpus, enforced: who reaches whom between nine pods on two nodes is what the policies mean.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use enforcer_tests::host::{Family, Host};
use enforcer_tests::pods::{Pods, Wanted};
use enforcer_tests::tcp::{Got, PATIENCE, Server, Service, dial};
use enforcer_tests::udp::{self, Responder};

#[path = "../kubernetes/corpus.rs"]
mod corpus;

use corpus::{CLUSTER_POLICIES, Case, Expected, NETWORK_POLICIES, cases, manifests};

/// The names of the corpus's namespaces and pods.
const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const NAMES: [&str; 3] = ["a", "b", "c"];
/// The last bytes of the pods' addresses, as the corpus has them.
const ADDRESSES: [u8; 9] = [17, 18, 19, 33, 34, 35, 49, 50, 51];
/// Who must not be answered would be sooner: two retransmissions are waited for.
const SILENCE: Duration = Duration::from_millis(3500);

#[test]
fn cases_of_network_policies_are_enforced() {
    enforce(
        NETWORK_POLICIES,
        &[
            "default deny of ingress and egress",
            "podSelector and namespaceSelector",
            "one port from one namespace",
            "egress to a named port",
            "the client's side denies what the server allows",
            "egress rules without policyTypes isolate both ways",
            "only UDP",
            "a range of ports",
            "a block of addresses with an exception",
            "NotIn also finds what has no such label",
        ],
    );
}

#[test]
fn the_ancestors_cases_are_enforced() {
    enforce(
        NETWORK_POLICIES,
        &[
            "ancestors: the values of one expression are one clause",
            "ancestors: a rule with from and without ports counts",
            "ancestors: a namespaceSelector keeps its ports",
            "ancestors: an empty podSelector is the own namespace, not everybody",
        ],
    );
}

#[test]
fn cases_of_cluster_network_policies_are_enforced() {
    enforce(
        CLUSTER_POLICIES,
        &[
            "the first rule that matches decides",
            "admin acceptance overrules a NetworkPolicy",
            "admin denial overrules a NetworkPolicy",
            "what passes is left to a NetworkPolicy",
            "a baseline holds where no NetworkPolicy is",
            "egress with ports and a range",
            "networks also find pods",
        ],
    );
}

fn enforce(text: &str, names: &[&str]) {
    let all = cases(text);
    let named = |name: &&str| {
        let found = all.iter().find(|case| case.name == *name);
        found.unwrap_or_else(|| panic!("the corpus has no case {name:?}"))
    };
    let chosen: Vec<&Case> = names.iter().map(named).collect();
    let pods = Pods::start(&wanted(), &manifests(&[])).unwrap();
    let _servers: Vec<_> = pods.pods.iter().map(|pod| serve(&pod.host, &chosen)).collect();
    let mut wrong = Vec::new();
    for case in chosen {
        pods.change(&manifests(&case.policies)).unwrap();
        for expected in &case.expected {
            let found = differences(&pods, expected);
            wrong.extend(found.into_iter().map(|pair| format!("{}: {pair}", case.name)));
        }
    }
    assert!(wrong.is_empty(), "{} pairs:\n{}", wrong.len(), wrong.join("\n"));
}

/// Servers of both protocols at every port that the cases ask for.
fn serve(host: &Host, cases: &[&Case]) -> Vec<(Server, Responder)> {
    let asked = cases.iter().flat_map(|case| &case.expected);
    let ports: BTreeSet<u16> = asked.map(|expected| port(expected).0).collect();
    let start = |port| {
        let server = Server::start(host, port, &Service::Echo).unwrap();
        (server, Responder::start(host, port).unwrap())
    };
    ports.into_iter().map(start).collect()
}

/// Number and protocol.
fn port(expected: &Expected) -> (u16, &str) {
    let (number, protocol) = expected.port.split_once('/').expect("a port such as 80/TCP");
    (number.parse().unwrap(), protocol)
}

/// Every pair that is not as expected. All ask at the same time.
fn differences(pods: &Pods, expected: &Expected) -> Vec<String> {
    let (number, protocol) = port(expected);
    assert!(["TCP", "UDP"].contains(&protocol), "{protocol} is not asked for");
    let (is_tcp, count) = (protocol == "TCP", pods.pods.len());
    let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
    thread::scope(|scope| {
        let asked: Vec<_> = pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| {
                let (from, to) = (&pods.pods[from], &pods.pods[to]);
                scope.spawn(move || {
                    let at = to.host.at(Family::V4, number);
                    let allows = expected.allows(&from.name, &to.name);
                    let patience = if allows { PATIENCE } else { SILENCE };
                    let reaches = if is_tcp {
                        dial(&from.host, at, patience).unwrap().got() == Got::Connection
                    } else {
                        udp::ask(&from.host, at, patience).unwrap().is_some()
                    };
                    (reaches != allows).then(|| {
                        let word = if reaches { "reaches" } else { "does not reach" };
                        format!("{} {word} {} at {}", from.name, to.name, expected.port)
                    })
                })
            })
            .collect();
        asked.into_iter().filter_map(|asked| asked.join().unwrap()).collect()
    })
}

fn wanted() -> Vec<Wanted<'static>> {
    let pods = NAMESPACES.into_iter().flat_map(|namespace| NAMES.map(|name| (namespace, name)));
    pods.zip(ADDRESSES)
        .map(|((namespace, name), address)| Wanted {
            namespace,
            name,
            labels: [("pod".to_owned(), name.to_owned())].into(),
            address,
        })
        .collect()
}

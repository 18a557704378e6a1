//! What is enforced of the corpus is what the policies mean: at both ends, by identity and by address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::{collection, prop_oneof};
use yaml_serde::Value;

use super::tests::cluster;
use super::tests::corpus::{CLUSTER_POLICIES, NETWORK_POLICIES, cases};
use super::*;
use crate::identity::{Identity, Namespace};
use crate::policy::{Action, Direction, Policy, Request, SourceFile};

/// Noon of a day.
const NOW: i64 = 1_790_000_000;
/// Where the pods of the corpus are.
const MESH: &str = "192.0.2.0/24";
/// Who is outside: inside and outside of blocks that the corpus names.
const OUTSIDE: [&str; 6] =
    ["203.0.113.1", "198.51.100.7", "198.51.100.200", "10.1.2.3", "10.255.0.1", "2001:db8::1"];

fn policy_of(cluster: Cluster, above: &str) -> Policy {
    let above: Namespace = above.parse().unwrap();
    let enforced = Enforced::new(cluster, &above, vec![MESH.parse().unwrap()]).unwrap();
    let file = enforced.cedar();
    let policy = Policy::from_sources(std::slice::from_ref(&file), Vec::new())
        .unwrap_or_else(|errors| panic!("{errors}\n{}", file.text));
    assert_eq!(policy.set().left_to_cedar(), 0, "{}", file.text);
    policy.with_kubernetes(enforced.into())
}

fn identity(pod: &Pod, above: &str) -> Identity {
    let above = above.trim_end_matches('/');
    let namespace = format!("{above}/{}", pod.namespace).parse().unwrap();
    Identity::new("example.org", namespace, &pod.name, pod.labels.clone()).unwrap()
}

fn allows(
    policy: &Policy,
    caller: &Identity,
    callee: &Identity,
    port: u16,
    action: Action,
) -> bool {
    let protocol = "tcp".parse().unwrap();
    let request = Request { action, caller, callee, port, protocol, unix_seconds: NOW };
    policy.decide(&request).allow
}

/// Whether both ends decide for all pods of `cluster` as its judge does.
fn check_identities(name: &str, cluster: Cluster, again: &Cluster, above: &str) {
    let policy = policy_of(cluster, above);
    let judge = Judge::new(again);
    let peers: Vec<Peer<'_>> = judge.peers().collect();
    for (from, to) in (0..peers.len()).flat_map(|from| (0..peers.len()).map(move |to| (from, to))) {
        let (Peer::Pod(caller), Peer::Pod(callee)) = (peers[from], peers[to]) else { continue };
        let (caller, callee) = (identity(caller, above), identity(callee, above));
        for port in [80, 81, 82, 7981] {
            let decision = judge.decide(from, to, format!("{port}/TCP").parse().unwrap()).unwrap();
            for (action, said) in
                [(Action::Connect, &decision.egress), (Action::Accept, &decision.ingress)]
            {
                assert_eq!(
                    allows(&policy, &caller, &callee, port, action),
                    said.is_allowed(),
                    "{name}: {caller} to {callee} at {port}, {action:?}: {said}"
                );
            }
        }
    }
}

/// Whether what is without identity is let through as the judge says: UDP and SCTP of pods, everything of others.
fn check_networks(name: &str, cluster: Cluster, mut again: Cluster) {
    let policy = policy_of(cluster, "/");
    for (number, address) in OUTSIDE.iter().enumerate() {
        again.add_host(format!("out-{number}={address}").parse().unwrap()).unwrap();
    }
    let judge = Judge::new(&again);
    let peers: Vec<Peer<'_>> = judge.peers().collect();
    for own in 0..peers.len() {
        let Peer::Pod(pod) = peers[own] else { continue };
        let workload = identity(pod, "/");
        for far in (0..peers.len()).filter(|far| *far != own) {
            let (address, is_pod): (IpAddr, bool) = match peers[far] {
                Peer::Pod(pod) => (pod.addresses[0], true),
                Peer::Host(host) => (host.address, false),
                Peer::Network { .. } => unreachable!("no peer of a cluster"),
            };
            // The pods of the corpus have no such address: no pair of them can be asked.
            let is_asked = address.is_ipv4();
            for port in ["80/TCP", "81/TCP", "80/UDP", "81/UDP", "5000/UDP", "80/SCTP"] {
                let port: Port = port.parse().unwrap();
                if !is_asked || (is_pod && port.protocol == Protocol::Tcp) {
                    continue;
                }
                let out = judge.decide(own, far, port).unwrap().egress;
                let into = judge.decide(far, own, port).unwrap().ingress;
                for (direction, said) in [(Direction::Egress, out), (Direction::Ingress, into)] {
                    let protocol = port.protocol.to_string().to_lowercase().parse().unwrap();
                    let found = policy.networks_match(
                        &workload,
                        direction,
                        (address, &[]),
                        protocol,
                        port.number,
                    );
                    assert_eq!(
                        found.is_some(),
                        said.is_allowed(),
                        "{name}: {direction:?} of {} with {} at {port}: {said}, found {found:?}",
                        peers[own],
                        peers[far]
                    );
                }
            }
        }
    }
}

fn each_case(check: impl Fn(&str, Cluster, Cluster)) {
    for case in [NETWORK_POLICIES, CLUSTER_POLICIES].into_iter().flat_map(cases) {
        let read = || cluster(&case.policies).unwrap();
        if read().wide_policies.iter().any(|policy| format!("{policy:?}").contains("Names(")) {
            Enforced::new(read(), &Namespace::root(), Vec::new()).unwrap_err();
            continue;
        }
        check(&case.name, read(), read());
    }
}

#[test]
fn between_pods_the_corpus_is_enforced_as_it_is_meant() {
    each_case(|name, cluster, again| check_identities(name, cluster, &again, "/"));
}

#[test]
fn below_a_namespace_it_is_the_same() {
    each_case(|name, cluster, again| check_identities(name, cluster, &again, "/k8s/east"));
}

#[test]
fn without_identity_the_corpus_is_enforced_as_it_is_meant() {
    each_case(check_networks);
}

#[test]
fn in_the_mesh_no_plain_connection_is_let_through() {
    let policy = policy_of(cluster(&[]).unwrap(), "/");
    let pod = Identity::from_spiffe_id("spiffe://example.org/x/a", BTreeMap::default()).unwrap();
    let asked = |direction, address: &str, protocol: &str| {
        let (address, protocol) = (address.parse().unwrap(), protocol.parse().unwrap());
        policy.networks_match(&pod, direction, (address, &[]), protocol, 0)
    };
    for direction in [Direction::Egress, Direction::Ingress] {
        assert_eq!(asked(direction, "192.0.2.200", "tcp"), None);
        assert_eq!(asked(direction, "192.0.2.200", "udp"), Some("no NetworkPolicy"));
        assert_eq!(asked(direction, "198.51.100.1", "tcp"), Some("no NetworkPolicy"));
        assert_eq!(asked(direction, "2001:db8::1", "47"), Some("no NetworkPolicy"));
    }
    let stranger =
        Identity::from_spiffe_id("spiffe://example.org/w/a", BTreeMap::default()).unwrap();
    assert!(policy.network_table(&stranger).unwrap().prefixes().is_empty());
}

#[test]
fn a_namespace_without_a_manifest_is_nobodys() {
    let policy = policy_of(cluster(&[]).unwrap(), "/");
    let of = |id: &str| Identity::from_spiffe_id(id, BTreeMap::default()).unwrap();
    let (known, stranger) = (of("spiffe://example.org/x/a"), of("spiffe://example.org/w/a"));
    assert!(allows(&policy, &known, &of("spiffe://example.org/y/b"), 80, Action::Accept));
    for action in [Action::Connect, Action::Accept] {
        assert!(!allows(&policy, &known, &stranger, 80, action));
        assert!(!allows(&policy, &stranger, &known, 80, action));
        assert!(!allows(&policy, &stranger, &stranger, 80, action));
    }
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: w}}\n---\n";
    let pod = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: w}}, status: {{podIP: 192.0.2.1}}}}\n---\n"
        )
    };
    let nodes = "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: p}, spec: \
                 {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}]}]}}";
    for (text, fault) in [
        (pod("a"), "namespaces w have no manifest"),
        (String::new(), "no namespace is in the manifests"),
        ([namespace, &pod("a"), &pod("b")].concat(), "two pods have the address 192.0.2.1"),
        ([namespace, nodes].concat(), "ClusterNetworkPolicy p: selects nodes, and no Node"),
    ] {
        let read = Cluster::parse(Path::new("test.yaml"), &text).unwrap();
        let error = Enforced::new(read, &Namespace::root(), Vec::new()).unwrap_err().to_string();
        assert!(error.contains(fault), "{error}");
    }
}

/// Policies of the whole cluster that are for everybody.
fn wide(rules: &str) -> Cluster {
    let text = format!(
        "{{metadata: {{name: p}}, spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {rules}}}}}"
    );
    cluster(&[yaml_serde::from_str(&text).unwrap()]).unwrap()
}

#[test]
fn an_empty_selector_means_pods_and_nobody_else() {
    let of = |id: &str| Identity::from_spiffe_id(id, BTreeMap::default()).unwrap();
    let (pod, stranger) = (of("spiffe://example.org/x/a"), of("spiffe://example.org/infra/a"));
    let below = of("spiffe://example.org/x/sub/a");
    let all = "ingress: [{action: ACTION, from: [{namespaces: {}}]}], egress: [{action: ACTION, to: [{namespaces: {}}]}]";
    let accepts = policy_of(wide(&all.replace("ACTION", "Accept")), "/");
    for action in [Action::Connect, Action::Accept] {
        for (from, to) in
            [(&pod, &stranger), (&stranger, &pod), (&stranger, &stranger), (&below, &pod)]
        {
            assert!(!allows(&accepts, from, to, 80, action), "{from} to {to}, {action:?}");
        }
    }
    // What is for others is theirs to say, whatever is denied to pods.
    let denies =
        Enforced::new(wide(&all.replace("ACTION", "Deny")), &Namespace::root(), Vec::new());
    let own = SourceFile::new("own", "permit (principal, action, resource);");
    let both = Policy::from_sources(&[denies.unwrap().cedar(), own], Vec::new()).unwrap();
    assert!(allows(&both, &pod, &stranger, 80, Action::Connect));
    assert!(!allows(&both, &pod, &of("spiffe://example.org/y/b"), 80, Action::Connect));
}

#[test]
fn who_may_be_a_pod_is_denied_what_it_would_be_denied() {
    let rules = "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]";
    let policy = policy_of(wide(rules), "/");
    let pod = Identity::from_spiffe_id("spiffe://example.org/x/a", BTreeMap::default()).unwrap();
    let asks = |address: &str| {
        let protocol = "udp".parse().unwrap();
        policy.networks_match(
            &pod,
            Direction::Ingress,
            (address.parse().unwrap(), &[]),
            protocol,
            80,
        )
    };
    assert!(asks("192.0.2.33").is_none(), "a pod of y");
    assert!(asks("192.0.2.17").is_some(), "a pod of x");
    assert!(asks("192.0.2.200").is_none(), "nobody knows whose it is");
    assert!(asks("198.51.100.1").is_some(), "outside of the mesh there are no pods");
}

/// A namespace with pods of two addresses each, and a policy.
fn dual(policy: &str) -> Cluster {
    let pod = |name: &str, last: u8, more: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x, labels: {{pod: {name}}}}}{more}, \
             status: {{podIP: 192.0.2.{last}, podIPs: [{{ip: 192.0.2.{last}}}, {{ip: 'fd00::{last}'}}]}}}}\n"
        )
    };
    let text = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: x}}}}\n{}{}{}---\n{policy}\n",
        pod("a", 1, ""),
        pod("b", 2, ""),
        pod("host", 3, ", spec: {hostNetwork: true}")
    );
    Cluster::parse(Path::new("test.yaml"), &text).unwrap()
}

#[test]
fn each_address_of_a_pod_is_judged_by_itself() {
    let policy = "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: p}, spec: \
                  {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: \
                  ['fd00::/8']}]}]}}";
    let policy = policy_of(dual(policy), "/");
    let pod = Identity::from_spiffe_id("spiffe://example.org/x/a", BTreeMap::default()).unwrap();
    let asks = |address: &str| {
        let protocol = "udp".parse().unwrap();
        policy.networks_match(
            &pod,
            Direction::Egress,
            (address.parse().unwrap(), &[]),
            protocol,
            80,
        )
    };
    assert!(asks("192.0.2.2").is_some());
    assert!(asks("fd00::2").is_none());
    assert!(asks("fd00::77").is_none());
}

#[test]
fn a_block_lets_in_who_is_in_it_by_every_address() {
    let policy = |block: &str| {
        let text = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: x}}, spec: \
             {{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: '{block}'}}}}]}}]}}}}"
        );
        policy_of(dual(&text), "/")
    };
    let of = |name: &str| {
        let labels = [("pod".to_owned(), name.to_owned())].into();
        Identity::from_spiffe_id(&format!("spiffe://example.org/x/{name}"), labels).unwrap()
    };
    assert!(!allows(&policy("fd00::/64"), &of("a"), &of("b"), 80, Action::Accept));
    assert!(!allows(&policy("192.0.2.0/24"), &of("a"), &of("b"), 80, Action::Accept));
}

#[test]
fn a_pod_with_its_nodes_network_is_nobody_that_selectors_mean() {
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: \
                  {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}}";
    let policy = policy_of(dual(policy), "/");
    let of = |name: &str| {
        Identity::from_spiffe_id(&format!("spiffe://example.org/x/{name}"), BTreeMap::default())
            .unwrap()
    };
    assert!(allows(&policy, &of("a"), &of("b"), 80, Action::Accept));
    assert!(!allows(&policy, &of("host"), &of("b"), 80, Action::Accept));
    assert!(!allows(&policy, &of("host"), &of("b"), 80, Action::Connect));
    assert!(policy.network_table(&of("host")).unwrap().prefixes().is_empty());
}

#[test]
fn thousands_of_namespaces_are_read() {
    let namespace =
        |n: usize| format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: n{n}}}}}\n");
    let text: String = (0..1500).map(namespace).collect();
    let cluster = Cluster::parse(Path::new("test.yaml"), &text).unwrap();
    let enforced = Enforced::new(cluster, &Namespace::root(), Vec::new()).unwrap();
    assert!(enforced.cedar().text.len() < 5 << 20, "{} bytes", enforced.cedar().text.len());
    let of = |id: &str| Identity::from_spiffe_id(id, BTreeMap::default()).unwrap();
    let policy = Policy::from_sources(&[enforced.cedar()], Vec::new()).unwrap();
    assert_eq!(policy.set().left_to_cedar(), 0);
    let (first, last) = (of("spiffe://example.org/n0/a"), of("spiffe://example.org/n1499/b"));
    assert!(allows(&policy, &first, &last, 80, Action::Connect));
    assert!(!allows(&policy, &of("spiffe://example.org/n1500/a"), &last, 80, Action::Accept));
}

#[test]
fn more_rules_than_are_read_are_refused() {
    let rules = |action: &str| {
        (0..25)
            .map(|n| {
                format!(
                    "{{action: {action}, from: [{{pods: {{podSelector: {{matchLabels: {{l{n}: '{}'}}}}}}}}]}}",
                    "v".repeat(60)
                )
            })
            .collect::<Vec<_>>()
            .join(", ")
    };
    let policies: Vec<Value> = (0..60)
        .map(|n| {
            let action = if n % 2 == 0 { "Pass" } else { "Deny" };
            let text = format!(
                "{{metadata: {{name: p{n}}}, spec: {{tier: Admin, priority: {n}, subject: {{namespaces: {{}}}}, ingress: \
                 [{}]}}}}",
                rules(action)
            );
            yaml_serde::from_str(&text).unwrap()
        })
        .collect();
    let read = cluster(&policies).unwrap();
    let error = Enforced::new(read, &Namespace::root(), Vec::new()).unwrap_err().to_string();
    assert!(error.contains("become more than 8 MiB of rules"), "{error}");
}

fn selector() -> impl Strategy<Value = &'static str> {
    select(vec![
        "{}",
        "{matchLabels: {pod: a}}",
        "{matchExpressions: [{key: pod, operator: In, values: [a, b]}]}",
        "{matchExpressions: [{key: pod, operator: NotIn, values: [a]}]}",
        "{matchExpressions: [{key: pod, operator: Exists}]}",
        "{matchExpressions: [{key: other, operator: DoesNotExist}]}",
        "{matchExpressions: [{key: other, operator: NotIn, values: [a]}]}",
    ])
}

fn namespaces() -> impl Strategy<Value = &'static str> {
    select(vec![
        "{}",
        "{matchLabels: {ns: x}}",
        "{matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}",
        "{matchExpressions: [{key: none, operator: Exists}]}",
    ])
}

fn network_policy() -> impl Strategy<Value = String> {
    let peer = prop_oneof![
        selector().prop_map(|pods| format!("{{podSelector: {pods}}}")),
        namespaces().prop_map(|all| format!("{{namespaceSelector: {all}}}")),
        (namespaces(), selector())
            .prop_map(|(all, pods)| format!("{{namespaceSelector: {all}, podSelector: {pods}}}")),
        select(vec![
            "{ipBlock: {cidr: 192.0.2.32/28}}",
            "{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.16/30]}}",
            "{ipBlock: {cidr: 0.0.0.0/0, except: [198.51.100.0/25, 10.0.0.0/8]}}",
        ])
        .prop_map(str::to_owned),
    ];
    let port = select(vec![
        "{port: 80}",
        "{port: 79, endPort: 81}",
        "{port: serve-81-tcp}",
        "{protocol: UDP}",
        "{protocol: UDP, port: 80}",
        "{}",
    ]);
    let rule = (collection::vec(peer, 0..3), collection::vec(port, 0..3));
    let rules = || collection::vec(rule.clone(), 0..3);
    let types = select(vec!["[]", "[Ingress]", "[Egress]", "[Ingress, Egress]"]);
    (select(vec!["x", "y"]), selector(), types, rules(), rules()).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            let rules = |side: &str, rules: Vec<(Vec<String>, Vec<&str>)>| {
                let rule = |(peers, ports): &(Vec<String>, Vec<&str>)| {
                    format!("{{{side}: [{}], ports: [{}]}}", peers.join(", "), ports.join(", "))
                };
                rules.iter().map(rule).collect::<Vec<_>>().join(", ")
            };
            let (ingress, egress) = (rules("from", ingress), rules("to", egress));
            format!(
                "{{metadata: {{name: NAME, namespace: {namespace}}}, spec: {{podSelector: {pods}, policyTypes: {types}, \
                 ingress: [{ingress}], egress: [{egress}]}}}}"
            )
        },
    )
}

fn cluster_policy() -> impl Strategy<Value = String> {
    let of = || {
        prop_oneof![
            namespaces().prop_map(|all| format!("{{namespaces: {all}}}")),
            (namespaces(), selector()).prop_map(|(all, pods)| {
                format!("{{pods: {{namespaceSelector: {all}, podSelector: {pods}}}}}")
            }),
        ]
    };
    let networks = select(vec!["192.0.2.16/28", "0.0.0.0/0", "198.51.100.0/24"]);
    let to = prop_oneof![of(), networks.prop_map(|net| format!("{{networks: [{net}]}}"))];
    let ports = select(vec![
        "",
        ", protocols: [{tcp: {destinationPort: {number: 80}}}]",
        ", protocols: [{udp: {destinationPort: {range: {start: 79, end: 81}}}}]",
    ]);
    let action = || select(vec!["Accept", "Deny", "Pass"]);
    let rule = |side: &'static str, peer: BoxedStrategy<String>| {
        let rule = (action(), collection::vec(peer, 1..3), ports.clone());
        let text = rule.prop_map(move |(action, peers, ports)| {
            format!("{{action: {action}, {side}: [{}]{ports}}}", peers.join(", "))
        });
        collection::vec(text, 0..4).prop_map(|rules| rules.join(", "))
    };
    let (ingress, egress) = (rule("from", of().boxed()), rule("to", to.boxed()));
    (select(vec!["Admin", "Baseline"]), 0..3, of(), ingress, egress).prop_map(
        |(tier, priority, subject, ingress, egress)| {
            format!(
                "{{metadata: {{name: NAME}}, spec: {{tier: {tier}, priority: {priority}, subject: {subject}, ingress: \
                 [{ingress}], egress: [{egress}]}}}}"
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_the_policies_both_ends_enforce_what_they_mean(
        own in collection::vec(network_policy(), 0..4),
        wide in collection::vec(cluster_policy(), 0..4),
    ) {
        let named = own.iter().chain(&wide).enumerate();
        let texts: Vec<String> =
            named.map(|(n, text)| text.replacen("NAME", &format!("p{n}"), 1)).collect();
        let policies: Vec<Value> =
            texts.iter().map(|text| yaml_serde::from_str(text).unwrap()).collect();
        let read = || cluster(&policies).unwrap();
        let all = texts.join("\n");
        check_identities(&all, read(), &read(), "/");
        check_networks(&all, read(), read());
    }
}

/// Names and values that a text of Cedar must not be able to end.
#[test]
fn what_manifests_say_stays_within_its_quotes() {
    let policies = "[{metadata: {name: p}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{name: \
                    '\") permit (principal, action, resource); //', action: Deny, from: [{namespaces: {}}]}, {name: \
                    '\") permit (principal, action, resource); //', action: Accept, from: [{namespaces: {}}]}]}}]";
    let policies: Vec<Value> = yaml_serde::from_str(policies).unwrap();
    let read = || cluster(&policies).unwrap();
    check_identities("quotes", read(), &read(), "/");
}

#[test]
fn equal_manifests_make_equal_generations() {
    let generation = |above| policy_of(cluster(&[]).unwrap(), above).generation();
    assert_eq!(generation("/"), generation("/"));
    assert_ne!(generation("/"), generation("/k8s"));
    let file = SourceFile::new("a", "");
    let without = Policy::from_sources(&[file], Vec::new()).unwrap().generation();
    assert_ne!(generation("/"), without);
}

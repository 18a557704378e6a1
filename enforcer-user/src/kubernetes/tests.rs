//! The corpus of `tests/kubernetes`, and what is refused.

use std::collections::BTreeSet;
use std::path::Path;

use yaml_serde::Value;

use super::*;

#[path = "../../../tests/kubernetes/corpus.rs"]
pub(super) mod corpus;

use corpus::{CLUSTER_POLICIES, NETWORK_POLICIES, cases, manifests};

/// The cluster of the corpus with these policies.
pub(super) fn cluster(policies: &[Value]) -> Result<Cluster, ManifestError> {
    Cluster::parse(Path::new("test.yaml"), &manifests(policies))
}

fn reaches(cluster: &Cluster, port: Port) -> BTreeSet<(String, String)> {
    let judge = Judge::new(cluster);
    let peers: Vec<String> = judge.peers().map(|peer| peer.to_string()).collect();
    let pairs = (0..peers.len()).flat_map(|from| (0..peers.len()).map(move |to| (from, to)));
    pairs
        .filter(|(from, to)| judge.decide(*from, *to, port).unwrap().is_allowed())
        .map(|(from, to)| (peers[from].clone(), peers[to].clone()))
        .collect()
}

fn hold(text: &str, least: usize) {
    let cases = cases(text);
    assert!(cases.len() >= least, "{} cases", cases.len());
    for case in cases {
        let cluster = cluster(&case.policies).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let names: Vec<String> = cluster.peers().iter().map(ToString::to_string).collect();
        for expected in &case.expected {
            let reaches = reaches(&cluster, expected.port.parse().unwrap());
            for from in &names {
                for to in &names {
                    assert_eq!(
                        reaches.contains(&(from.clone(), to.clone())),
                        expected.allows(from, to),
                        "{}, {}: {from} to {to}",
                        case.name,
                        expected.port
                    );
                }
            }
        }
    }
}

#[test]
fn network_policies_mean_what_they_mean_upstream() {
    hold(NETWORK_POLICIES, 45);
}

#[test]
fn cluster_network_policies_mean_what_they_mean_upstream() {
    hold(CLUSTER_POLICIES, 15);
}

/// Reads the cluster and `policy`, a NetworkPolicy's spec in namespace x.
fn refused(spec: &str) -> String {
    let policy = format!("{{metadata: {{name: p, namespace: x}}, spec: {spec}}}");
    cluster(&[yaml_serde::from_str(&policy).unwrap()]).expect_err(spec).to_string()
}

#[test]
fn what_cannot_be_honoured_of_a_network_policy_is_refused() {
    for (spec, fault) in [
        ("{podSelector: {}, tier2: x}", "unknown field `tier2`"),
        ("{podSelector: {}, policyTypes: [Both]}", "unknown variant `Both`"),
        ("{podSelector: {}, ingress: [{to: []}]}", "unknown field `to`"),
        ("{podSelector: {}, ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]: no peer"),
        ("{podSelector: {}, ingress: [{from: [null]}]}", "spec.ingress[0].from[0]: no peer"),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}, podSelector: {}}]}]}",
            "ipBlock stands with a selector",
        ),
        ("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 192.0.2.0}}]}]}", "expected a network"),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24, except: [198.51.100.0/25]}}]}]}",
            "no strict part",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/24]}}]}]}",
            "no strict part",
        ),
        ("{podSelector: {}, ingress: [{ports: [{port: 0}]}]}", "port 0: expected 1 to 65535"),
        ("{podSelector: {}, ingress: [{ports: [{port: 65536}]}]}", "port 65536"),
        ("{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}", "endPort 79 is less"),
        (
            "{podSelector: {}, ingress: [{ports: [{port: web, endPort: 80}]}]}",
            "endPort stands with",
        ),
        ("{podSelector: {}, ingress: [{ports: [{endPort: 80}]}]}", "endPort without port"),
        ("{podSelector: {}, ingress: [{ports: [{port: Web}]}]}", "port name \"Web\""),
        ("{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}", "unknown variant `ICMP`"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "expected at least one of values",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "expected no values",
        ),
        ("{podSelector: {matchExpressions: [{key: a, operator: Gt, values: [b]}]}}", "`Gt`"),
        ("{podSelector: {matchLabels: {a b: c}}}", "label key \"a b\""),
        ("{podSelector: {matchLabels: {a: 1}}}", "invalid type: integer"),
    ] {
        let error = refused(spec);
        assert!(error.contains(fault), "{spec}: {error}");
        assert!(error.contains("NetworkPolicy x/p"), "{spec}: {error}");
    }
}

#[test]
fn what_cannot_be_honoured_of_a_cluster_network_policy_is_refused() {
    let with =
        |rest: &str| format!("{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {rest}}}");
    let egress = |rule: &str| with(&format!("egress: [{rule}]"));
    for (spec, fault) in [
        ("{tier: Admin, priority: 1001, subject: {namespaces: {}}}".to_owned(), "1001: expected 0"),
        ("{tier: Other, priority: 1, subject: {namespaces: {}}}".to_owned(), "variant `Other`"),
        ("{tier: Admin, priority: 1, subject: {}}".to_owned(), "one of namespaces and pods"),
        (with("ingress: [{action: Allow, from: [{namespaces: {}}]}]"), "variant `Allow`"),
        (with("ingress: [{action: Deny, from: []}]"), "from: 0 entries"),
        (with("ingress: [{action: Deny, from: [{networks: [192.0.2.0/24]}]}]"), "field `networks`"),
        (egress("{action: Deny, to: [{domainNames: [a.example]}]}"), "expected Accept"),
        (egress("{action: Accept, to: [{domainNames: [example]}]}"), "a DNS name of two parts"),
        (
            egress(
                "{action: Accept, to: [{networks: [192.0.2.0/24]}], protocols: [{destinationNamedPort: web}]}",
            ),
            "which name no ports",
        ),
        (
            egress("{action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {}}]}"),
            "missing field `destinationPort`",
        ),
        (
            egress(
                "{action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9, end: \
                 9}}}}]}",
            ),
            "is not less",
        ),
        (
            egress("{action: Accept, to: [{namespaces: {}, pods: {podSelector: {}}}]}"),
            "expected one of",
        ),
    ] {
        let policy = format!("{{metadata: {{name: p}}, spec: {spec}}}");
        let read = cluster(&[yaml_serde::from_str(&policy).unwrap()]);
        let error = read.expect_err(&spec).to_string();
        assert!(error.contains(fault), "{spec}: {error}");
        assert!(error.contains("ClusterNetworkPolicy p"), "{spec}: {error}");
    }
}

fn parse(text: &str) -> Result<Cluster, ManifestError> {
    Cluster::parse(Path::new("test.yaml"), text)
}

#[test]
fn objects_that_would_change_the_answer_are_not_passed_over() {
    for (text, fault) in [
        ("{apiVersion: extensions/v1beta1, kind: NetworkPolicy}", "is not understood"),
        (
            "{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy}",
            "not understood",
        ),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy}", "is not understood"),
        ("{kind: Pod}", "no apiVersion and kind"),
        ("a: [", "did not find expected node content"),
        ("{apiVersion: v1, kind: Namespace, metadata: {}}", "metadata.name is missing"),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Namespace, metadata: \
             {name: a}}",
            "test.yaml, document 2, Namespace a: stands here a second time",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIP: 1.2.3}}",
            "status.podIP: \"1.2.3\"",
        ),
        ("a: 1\na: 2", "duplicate entry"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(fault), "{text}: {error}");
    }
    let cluster =
        parse("{apiVersion: v1, kind: Service, metadata: {name: s, namespace: n}}").unwrap();
    assert!(cluster.notes()[0].contains("Service n/s: not read"));
}

#[test]
fn lists_are_read_and_their_items_take_the_lists_kind() {
    let list =
        "{apiVersion: v1, kind: PodList, items: [{metadata: {name: a}}, {metadata: {name: b}}]}";
    let any =
        "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]}";
    for (text, pods) in [(list, 2), (any, 1)] {
        assert_eq!(parse(text).unwrap().peers().len(), pods, "{text}");
    }
    let bad = "{apiVersion: v1, kind: List, items: [{metadata: {name: a}}]}";
    assert!(parse(bad).unwrap_err().to_string().contains("no apiVersion"));
}

#[test]
fn hosts_outside_are_found_by_address_and_by_name() {
    let policies = "{metadata: {name: p}, spec: {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {ns: \
                    x}}}, egress: [{action: Accept, to: [{domainNames: ['*.example.com']}]}, {action: Accept, to: \
                    [{networks: [198.51.100.0/25]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}}";
    let mut cluster = cluster(&[yaml_serde::from_str(policies).unwrap()]).unwrap();
    for host in ["www.example.com=203.0.113.1", "example.com=203.0.113.2", "near=198.51.100.1"] {
        cluster.add_host(host.parse().unwrap()).unwrap();
    }
    assert!(cluster.add_host("near=198.51.100.2".parse().unwrap()).is_err());
    let reaches = reaches(&cluster, "80".parse().unwrap());
    let is = |from: &str, to: &str| reaches.contains(&(from.to_owned(), to.to_owned()));
    assert!(is("x/a", "www.example.com") && is("x/a", "near"));
    assert!(!is("x/a", "example.com") && !is("x/a", "y/a"));
    assert!(is("example.com", "x/a") && is("y/a", "example.com"));
}

#[test]
fn pods_with_their_nodes_network_are_found_by_address_alone() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: x, labels: {app: web}}
status: {podIP: 192.0.2.1}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: x, labels: {app: web}}
spec: {hostNetwork: true}
status: {podIP: 198.51.100.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {}}]}]
";
    let port = "80".parse().unwrap();
    let by_selector = reaches(&parse(text).unwrap(), port);
    assert!(!by_selector.contains(&("x/agent".to_owned(), "x/web".to_owned())));
    assert!(by_selector.contains(&("x/web".to_owned(), "x/agent".to_owned())));
    let by_address = text.replace("{podSelector: {}}", "{ipBlock: {cidr: 198.51.100.0/24}}");
    let by_address = reaches(&parse(&by_address).unwrap(), port);
    assert!(by_address.contains(&("x/agent".to_owned(), "x/web".to_owned())));
}

#[test]
fn every_decision_says_why() {
    let text = "[{metadata: {name: p, namespace: x}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}}]";
    let policies: Vec<Value> = yaml_serde::from_str(text).unwrap();
    let cluster = cluster(&policies).unwrap();
    let judge = Judge::new(&cluster);
    let at = |name: &str| judge.peers().position(|peer| peer.to_string() == name).unwrap();
    let why = |from, to| judge.decide(at(from), at(to), "80".parse().unwrap()).unwrap().ingress;
    assert_eq!(why("x/a", "x/b"), Because::Allowed("x/p".to_owned()));
    assert_eq!(why("y/a", "x/b"), Because::NoneAllows(vec!["x/p".to_owned()]));
    assert_eq!(why("x/a", "y/b"), Because::NoPolicy);
    assert_eq!(why("x/a", "x/a"), Because::Itself);
}

//! Tests of the configuration: what a file means, and the exact words of every refusal.

use std::path::Path;
use std::time::Duration;

use super::*;

const MINIMAL: &str = r#"
trust_domain = "example.org"
[identity]
mode = "psk"
psk_file = "psk.key"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("e.toml"), Path::new("/etc/enforcer"))
}

/// The faults of a text, one a line.
fn faults(text: &str) -> String {
    match parse(text) {
        Err(error @ ConfigError::Faults(_)) => error.to_string(),
        other => panic!("expected faults, got {other:?}"),
    }
}

/// The faults of a minimal configuration with `more` behind it; its first line has number 6.
fn faults_with(more: &str) -> String {
    faults(&format!("{MINIMAL}{more}"))
}

#[test]
fn a_minimal_file_has_the_documented_defaults() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.instance, "default");
    assert_eq!(config.pin_dir(), Path::new("/sys/fs/bpf/enforcer/default"));
    assert_eq!(config.control_socket(), Path::new("/run/enforcer/default/control.sock"));
    assert_eq!(config.identity.trust, TrustConfig::Psk { file: "/etc/enforcer/psk.key".into() });
    assert_eq!(config.identity.credential_lifetime, Duration::from_hours(1));
    assert_eq!(config.identity.credential_max_bytes, 1024);
    assert_eq!(config.mesh.networks.len(), 6);
    assert!(config.mesh.virtual_addresses.is_empty());
    assert!(config.policy.sources.files.is_empty());
    assert!(config.policy.deny_reset);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.metrics.listen, None);
    assert_eq!(config.log.level, "info");
    assert_eq!(config.log.denials_per_second, 10);
}

#[test]
fn the_example_parses_and_shows_every_key() {
    let text = include_str!("../../../docs/examples/enforcer.toml");
    let file = Path::new("docs/examples/enforcer.toml");
    let config = Config::parse(text, file, Path::new("/etc/enforcer")).unwrap();
    assert_eq!(config.workloads.len(), 2);
    assert_eq!(config.network_rules.len(), 2);
    // A commented-out key must be known too: an example that names a wrong one would mislead.
    let shown: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ").filter(|rest| is_setting(rest)) {
            Some(setting) => format!("{setting}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    assert!(shown.contains("\nmac = ") && shown.contains("\nlisten = "), "{shown}");
    let Err(error) = Config::parse(&shown, file, Path::new("/etc/enforcer")) else {
        panic!("psk_file beside mode = \"pki\" must be refused");
    };
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    assert!(error.to_string().contains("identity.psk_file"), "{error}");
}

/// Whether a line reads `key = value` with a key of our form.
fn is_setting(line: &str) -> bool {
    line.split_once(" = ")
        .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

#[test]
fn every_section_is_read() {
    let text = r#"
instance = "a-1"
trust_domain = "example.org"
bpf_root = "/sys/fs/bpf/e"
run_dir = "run"
[identity]
mode = "pki"
authority = ["old.cert", "/etc/new.cert"]
node_certificate = "node.cert"
node_key = "node.key"
credential_lifetime_seconds = 600
credential_max_bytes = 900
[mesh]
networks = ["10.1.0.0/16", "fd00::/8"]
virtual_addresses = ["10.96.0.0/12"]
[policy]
files = ["policy", "more.cedar"]
tree = "tree"
owners = ["owners.cedar"]
staged = ["/next.cedar"]
deny_reset = false
[[network_rule]]
name = "dns"
namespace = "/acme"
workload = "web"
direction = "egress"
cidr = ["198.51.100.53/32"]
protocol = "udp"
ports = ["53", 5353, "8000-8010"]
[[network_rule]]
name = "ping"
direction = "ingress"
cidr = ["::/0"]
protocol = 58
[[workload]]
name = "web"
namespace = "/acme/shop"
labels = { tier = "front" }
interface = "veth1"
side = "host"
addresses = ["10.1.0.7", "fd00::7"]
mac = "02:00:00:00:00:0a"
mode = "observe"
existing = "adopt"
[limits]
flows = 2048
cold_per_second = 100
[metrics]
listen = "[::1]:9464"
[log]
level = "warn,enforcer_user=debug"
denials_per_second = 0
"#;
    let config = parse(text).unwrap();
    assert_eq!(config.instance_run_dir(), Path::new("/etc/enforcer/run/a-1"));
    let TrustConfig::Pki { authorities, .. } = &config.identity.trust else { panic!("not pki") };
    assert_eq!(authorities[..], [Path::new("/etc/enforcer/old.cert"), Path::new("/etc/new.cert")]);
    assert_eq!(config.policy.sources.files[0], Path::new("/etc/enforcer/policy"));
    let (sources, staged) = (&config.policy.sources, config.policy.staged.as_ref().unwrap());
    assert_eq!(sources.tree.as_deref(), Some(Path::new("/etc/enforcer/tree")));
    assert_eq!(sources.owners, [Path::new("/etc/enforcer/owners.cedar")]);
    assert_eq!((&staged.files[0], &staged.tree), (&"/next.cedar".into(), &None));
    assert!(staged.owners.is_empty(), "they speak of a tree");
    let dns = &config.network_rules[0];
    assert_eq!(dns.ports, [53..=53, 5353..=5353, 8000..=8010]);
    assert_eq!((dns.protocol, dns.workload.as_deref()), (Some(17), Some("web")));
    assert_eq!(config.network_rules[1].protocol, Some(58));
    let web = &config.workloads[0];
    assert_eq!(web.identity.spiffe_id(), "spiffe://example.org/acme/shop/web");
    assert_eq!(web.identity.labels()["tier"], "front");
    assert_eq!((web.side, web.mode, web.existing), (Side::Host, Mode::Observe, Existing::Adopt));
    assert_eq!(web.mac, Some([2, 0, 0, 0, 0, 10]));
    assert_eq!(config.limits.flows, 2048);
    assert_eq!(config.metrics.listen.unwrap().port(), 9464);
}

#[test]
fn every_fault_of_a_file_is_told_at_once_in_the_order_of_lines() {
    let text = r#"
instance = "Default"
bpf_rot = "/sys/fs/bpf"
[identity]
mode = "pki"
node_key = 7
[limits]
flows = 12
"#;
    let expected = r#"e.toml:1: trust_domain is missing: expected the SPIFFE trust domain, such as "example.org"
e.toml:2: instance = "Default": expected 1 to 32 lower-case letters, digits or '-'
e.toml:3: unknown key "bpf_rot": did you mean "bpf_root"?
e.toml:4: identity.authority is missing: expected the file that `enforcer ca init` made, or a list of them
e.toml:4: identity.node_certificate is missing: expected the file that `enforcer ca issue-node` made
e.toml:6: identity.node_key = 7: expected a string in quotes
e.toml:8: limits.flows = 12: expected a whole number from 1024 to 4194304"#;
    assert_eq!(faults(text), expected);
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    let told = faults("trust_domain = \"example.org\"\n[identity\nmode = 1\n");
    assert!(told.starts_with("e.toml:2: not TOML: "), "{told}");
    let told = faults("a = 1\na = 2\n");
    assert!(told.starts_with("e.toml:2: not TOML: duplicate key"), "{told}");
}

#[test]
fn unknown_keys_name_the_nearest_or_all() {
    let cases = [
        ("[mesh]\nnetwork = []", r#"unknown key "network" in [mesh]: did you mean "networks"?"#),
        ("[log]\nlevle = \"info\"", r#"unknown key "levle" in [log]: did you mean "level"?"#),
        ("[metrics]\nzzz = 1", r#"unknown key "zzz" in [metrics]: known keys are listen"#),
    ];
    for (more, expected) in cases {
        assert_eq!(faults_with(more), format!("e.toml:7: {expected}"));
    }
    let told = faults_with("[limit]\nflows = 2048\n");
    assert_eq!(told, "e.toml:6: unknown key \"limit\": did you mean \"limits\"?");
}

#[test]
fn what_a_workload_runs_is_part_of_who_it_is() {
    const WEB: &str = "[[workload]]\nname = \"web\"\nnamespace = \"/a\"\ninterface = \"eth0\"\n";
    let digest = format!("sha256:{}", "0a".repeat(32));
    let runs = format!("image = \"shop:1\"\nexecutable = \"{digest}\"\nuser = \"1000\"\n");
    let config = parse(&format!("{MINIMAL}{WEB}{runs}")).unwrap();
    let known = config.workloads[0].identity.description();
    let expected = [("executable", digest.as_str()), ("image", "shop:1"), ("user", "1000")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(known, expected.into());
    for (line, refused) in [
        ("image = \"\"", "workload.image = \"\": expected an image's name"),
        ("executable = \"0a0a\"", "workload.executable = \"0a0a\": expected sha256: or blake3:"),
        ("user = 1000", "workload.user = 1000: expected a string in quotes"),
        ("user = \"a b\"", "workload.user = \"a b\": expected a user's name or number"),
    ] {
        let told = faults_with(&format!("{WEB}{line}\n"));
        assert!(told.contains(refused), "{told}");
    }
}

#[test]
fn on_a_node_with_labels_its_workloads_are_known_with_them() {
    let zone = [("zone".to_owned(), "north".to_owned())].into();
    let web = "[[workload]]\nname = \"web\"\nnamespace = \"/a\"\ninterface = \"eth0\"\n";
    let config = parse(&format!("{MINIMAL}{web}")).unwrap().on_node(&zone);
    assert_eq!((&config.node_labels, config.workloads[0].identity.node_labels()), (&zone, &zone));
}

#[test]
fn identity_refusals() {
    let psk = "trust_domain = \"example.org\"\n[identity]\nmode = \"psk\"\npsk_file = \"k\"\n";
    let cases = [
        (
            "authority = \"ca\"",
            r#"identity.authority = "ca": expected no such key beside mode = "psk""#,
        ),
        (
            "credential_lifetime_seconds = 7200",
            "identity.credential_lifetime_seconds = 7200: expected a whole number from 4 to 3600",
        ),
        (
            "credential_max_bytes = 1_200",
            "identity.credential_max_bytes = 1_200: expected a whole number from 256 to 1120",
        ),
        (
            "credential_max_bytes = -1",
            "identity.credential_max_bytes = -1: expected a whole number from 256 to 1120",
        ),
    ];
    for (more, expected) in cases {
        assert_eq!(faults(&format!("{psk}{more}")), format!("e.toml:5: {expected}"));
    }
    let told = faults("trust_domain = \"a\"\n[identity]\nmode = \"psk2\"\npsk_file = \"k\"");
    assert_eq!(told, r#"e.toml:3: identity.mode = "psk2": expected "pki" or "psk""#);
    assert_eq!(
        faults("trust_domain = \"a\"\nidentity = 3"),
        "e.toml:2: identity = 3: expected a table, as in [identity]\n\
         e.toml:2: identity.mode is missing: expected \"pki\" or \"psk\""
    );
}

#[test]
fn mesh_and_setting_refusals() {
    let cases = [
        (
            "[mesh]\nnetworks = [\"10.0.0.1/8\"]",
            r#"mesh.networks = "10.0.0.1/8": expected 10.0.0.0/8 (the bits behind the prefix must be zero)"#,
        ),
        (
            "[mesh]\nnetworks = [\"10.0.0.0/8\", \"10.1.0.0/16\"]",
            r#"mesh.networks = "10.1.0.0/16": expected no overlap with 10.0.0.0/8, which is listed before it"#,
        ),
        (
            "[mesh]\nnetworks = \"10.0.0.0/8\"",
            r#"mesh.networks = "10.0.0.0/8": expected a list in [ ]"#,
        ),
        (
            "[mesh]\nvirtual_addresses = [\"ten\"]",
            r#"mesh.virtual_addresses = "ten": expected a network such as "10.0.0.0/8" or "2001:db8::/32""#,
        ),
        (
            "[metrics]\nlisten = \"localhost\"",
            r#"metrics.listen = "localhost": expected an address and port such as "127.0.0.1:9464""#,
        ),
        (
            "[log]\nlevel = \"lou=d=er\"",
            r#"log.level = "lou=d=er": expected a filter such as "info" or "warn,enforcer_user=debug""#,
        ),
        ("[policy]\ndeny_reset = 1", "policy.deny_reset = 1: expected true or false"),
        ("[policy]\nfiles = [\"\"]", "policy.files = \"\": expected a path"),
    ];
    for (more, expected) in cases {
        assert_eq!(faults_with(more), format!("e.toml:7: {expected}"));
    }
}

#[test]
fn a_run_folder_whose_socket_path_would_not_fit_is_refused() {
    let long = "x".repeat(100);
    let told = faults(&MINIMAL.replacen('\n', &format!("run_dir = \"/{long}\"\n"), 1));
    assert!(told.contains("the control socket's path would have 122 bytes"), "{told}");
}

/// A workload that is whole but for `lines`; they start in line 10.
fn workload_faults(lines: &str) -> String {
    faults_with(&format!(
        "[[workload]]\nname = \"web\"\nnamespace = \"/a\"\ninterface = \"eth0\"\n{lines}"
    ))
}

#[test]
fn workload_refusals() {
    let cases = [
        ("side = \"guest\"", r#"workload.side = "guest": expected "own" or "host""#),
        (
            "mac = \"02:00:00:00:00:01\"",
            r#"workload.mac = "02:00:00:00:00:01": expected no such key with side = "own": the interface has its own"#,
        ),
        ("guard = 1", "workload.guard = 1: expected true or false"),
        (
            "addresses = [\"10.0.0.0/8\"]",
            r#"workload.addresses = "10.0.0.0/8": expected an address without a prefix, such as "10.0.0.7""#,
        ),
        (
            "addresses = [\"224.0.0.1\"]",
            r#"workload.addresses = "224.0.0.1": expected a unicast address of its own family"#,
        ),
        (
            "addresses = [\"::ffff:192.0.2.1\"]",
            r#"workload.addresses = "::ffff:192.0.2.1": expected a unicast address of its own family"#,
        ),
        (
            "addresses = [\"10.0.0.7\", \"10.0.0.7\"]",
            r#"workload.addresses = "10.0.0.7": expected an address that no other workload has; line 10 has the same"#,
        ),
        (
            "mode = \"sleep\"",
            r#"workload.mode = "sleep": expected "enforce" or "observe" or "learn""#,
        ),
        ("existing = true", r#"workload.existing = true: expected "reset" or "adopt""#),
        ("labels = { tier = 3 }", "workload.labels = 3: expected a string in quotes"),
        (
            "labels = { \"a b\" = \"x\" }",
            r#"workload.labels = { "a b" = "x" }: expected other labels: label key "a b": expected 1 to 255 letters, digits, '.', '-', '_' or '/'"#,
        ),
        ("nam = 1", r#"unknown key "nam" in [workload]: did you mean "name"?"#),
    ];
    for (lines, expected) in cases {
        assert_eq!(workload_faults(lines), format!("e.toml:10: {expected}"));
    }
}

#[test]
fn a_required_key_under_a_misspelt_name_is_told_of() {
    let told = faults_with("[[workload]]\nname = \"a\"\nnamespace = \"/\"\ninterfce = \"eth0\"\n");
    assert_eq!(
        told,
        "e.toml:6: workload.interface is missing: expected the name of a network interface\n\
         e.toml:9: unknown key \"interfce\" in [workload]: did you mean \"interface\"?"
    );
}

#[test]
fn a_host_side_workload_needs_its_addresses() {
    assert_eq!(
        workload_faults("side = \"host\""),
        "e.toml:6: workload.addresses is missing: expected the workload's addresses: \
         with side = \"host\" they are not on the interface"
    );
    assert_eq!(
        workload_faults("side = \"host\"\naddresses = []"),
        "e.toml:11: workload.addresses = []: expected the workload's addresses (side = \"host\")"
    );
    for mac in ["02:00:00:00:00", "03:00:00:00:00:01", "00:00:00:00:00:00", "2:0:0:0:0:1"] {
        let told = workload_faults(&format!(
            "side = \"host\"\naddresses = [\"10.0.0.7\"]\nmac = \"{mac}\""
        ));
        assert_eq!(
            told,
            format!(
                "e.toml:12: workload.mac = \"{mac}\": expected a unicast MAC such as \"02:00:00:00:00:01\""
            )
        );
    }
}

#[test]
fn a_guard_is_for_the_workloads_own_end() {
    let parse = |lines: &str| workload_faults(&format!("guard = true\n{lines}"));
    assert_eq!(
        parse("side = \"host\"\naddresses = [\"10.0.0.7\"]"),
        "e.toml:10: workload.guard = true: expected no such key with side = \"host\": it is for a host's own \
         network card"
    );
}

#[test]
fn a_mode_is_that_of_the_nearest_namespace_unless_the_workload_has_its_own() {
    let mode = |namespace: &str, mode: &str| {
        format!("[[mode]]\nnamespace = \"{namespace}\"\nmode = \"{mode}\"\n")
    };
    let workload = |namespace: &str, more: &str| {
        let name = namespace.replace('/', "-");
        format!(
            "[[workload]]\nname = \"w{name}\"\nnamespace = \"{namespace}\"\ninterface = \"i{name}\"\n{more}\n"
        )
    };
    let modes = [mode("/a/b", "learn"), mode("/a", "observe")].concat();
    let workloads = [
        workload("/a", ""),
        workload("/a/b/c", ""),
        workload("/ab", ""),
        workload("/a/x", "mode = \"enforce\""),
    ];
    let config = parse(&[MINIMAL, &modes, &workloads.concat()].concat()).unwrap();
    let found: Vec<Mode> = config.workloads.iter().map(|one| one.mode).collect();
    assert_eq!(found, [Mode::Observe, Mode::Learn, Mode::Enforce, Mode::Enforce]);
    let told = faults_with(&[mode("/a", "observe"), mode("/a", "enforce")].concat());
    assert!(told.contains("expected a namespace that no other [[mode]] has"), "{told}");
}

#[test]
fn a_name_is_of_its_namespace() {
    let text = format!(
        "{MINIMAL}\n[[workload]]\nname = \"web\"\nnamespace = \"/a\"\ninterface = \"eth0\"\n\
         [[workload]]\nname = \"web\"\nnamespace = \"/b\"\ninterface = \"eth1\"\n\
         [[network_rule]]\nname = \"r\"\nnamespace = \"/b\"\nworkload = \"web\"\ndirection = \"egress\"\n\
         cidr = [\"192.0.2.0/24\"]\nprotocol = \"tcp\"\n"
    );
    let config = parse(&text).unwrap();
    let paths: Vec<String> = config.workloads.iter().map(|one| one.identity.path()).collect();
    assert_eq!(paths, ["/a/web", "/b/web"]);
    let told = faults(&text.replace("\"/b\"\ninterface", "\"/c\"\ninterface"));
    assert!(told.contains("lives in /a and /c"), "{told}");
}

#[test]
fn two_workloads_share_neither_name_nor_interface_nor_address() {
    let told = workload_faults(
        "addresses = [\"10.0.0.7\"]\n[[workload]]\nname = \"web\"\nnamespace = \"/a\"\ninterface = \"eth0\"\n\
         addresses = [\"10.0.0.7\"]\n",
    );
    assert_eq!(
        told,
        "e.toml:12: workload.name = \"web\": expected a name that no other workload of its namespace has; line 7 has the same\n\
         e.toml:14: workload.interface = \"eth0\": expected an interface that no other workload has; line 9 has the same\n\
         e.toml:15: workload.addresses = \"10.0.0.7\": expected an address that no other workload has; line 10 has the same"
    );
}

#[test]
fn names_of_interfaces_and_workloads() {
    let one = |name: &str, interface: &str| {
        faults_with(&format!(
            "[[workload]]\nname = \"{name}\"\nnamespace = \"a\"\ninterface = \"{interface}\"\n"
        ))
    };
    let told = one("we b", "interface-with-a-long-name");
    assert_eq!(
        told,
        "e.toml:7: workload.name = \"we b\": expected 1 to 255 letters, digits, '.', '-' or '_'\n\
         e.toml:8: workload.namespace = \"a\": expected an absolute path of letters, digits, '.', '-' and '_' such as \"/acme/prod\"\n\
         e.toml:9: workload.interface = \"interface-with-a-long-name\": expected the name of a network interface, 1 to 15 bytes"
    );
}

/// A rule that is whole but for `lines`; they start in line 14. Line 6 starts a workload in /a/b.
fn rule_faults(lines: &str) -> String {
    faults_with(&format!(
        "[[workload]]\nname = \"web\"\nnamespace = \"/a/b\"\ninterface = \"eth0\"\n\
         [[network_rule]]\nname = \"r\"\ndirection = \"egress\"\ncidr = [\"0.0.0.0/0\"]\n{lines}"
    ))
}

#[test]
fn network_rule_refusals() {
    let cases = [
        (
            "protocol = \"tpc\"",
            r#"network_rule.protocol = "tpc": expected tcp, udp, icmp, icmpv6, sctp, any or a protocol number"#,
        ),
        ("protocol = 256", "network_rule.protocol = 256: expected a whole number from 1 to 255"),
        (
            "protocol = \"icmp\"\nports = [\"1\"]",
            r#"network_rule.ports = ["1"]: expected no ports: only tcp, udp and sctp have them"#,
        ),
        (
            "protocol = \"any\"\nports = [\"1\"]",
            r#"network_rule.ports = ["1"]: expected no ports: only tcp, udp and sctp have them"#,
        ),
        (
            "protocol = \"tcp\"\nports = []",
            "network_rule.ports = []: expected at least one port; leave the key out to mean every port",
        ),
        (
            "protocol = \"tcp\"\nports = [\"0\"]",
            r#"network_rule.ports = "0": expected a port or range such as "53" or "8000-8010", from 1 to 65535"#,
        ),
        (
            "protocol = \"tcp\"\nports = [\"9-8\"]",
            r#"network_rule.ports = "9-8": expected a port or range such as "53" or "8000-8010", from 1 to 65535"#,
        ),
        (
            "protocol = \"tcp\"\nports = [\"80-90\", 85]",
            "network_rule.ports = 85: expected no overlap with 80-90, which is listed before it",
        ),
        (
            "protocol = \"tcp\"\nworkload = \"wbe\"",
            r#"network_rule.workload = "wbe": expected the name of a [[workload]] of this file"#,
        ),
        (
            "protocol = \"tcp\"\nnamespace = \"/a/bc\"\nworkload = \"web\"",
            r#"network_rule.workload = "web": expected a workload in or below /a/bc; "web" lives in /a/b"#,
        ),
    ];
    for (lines, expected) in cases {
        let line = 13 + lines.lines().count();
        assert_eq!(rule_faults(lines), format!("e.toml:{line}: {expected}"));
    }
}

#[test]
fn a_rule_without_networks_never_means_everywhere() {
    let rule = "[[network_rule]]\nname = \"r\"\ndirection = \"egress\"\nprotocol = \"tcp\"\n";
    assert_eq!(
        faults_with(rule),
        "e.toml:6: network_rule.cidr is missing: expected the networks of the other end, such as [\"198.51.100.53/32\"], or hosts"
    );
    assert_eq!(
        faults_with(&format!("{rule}cidr = []")),
        "e.toml:10: network_rule.cidr = []: expected at least one network; everywhere is \"0.0.0.0/0\""
    );
    let told = faults_with(&format!("{rule}cidr = [\"10.0.0.0/8\"]\n{rule}cidr = [\"::/0\"]"));
    assert_eq!(
        told,
        "e.toml:12: network_rule.name = \"r\": expected a name that no other rule has; line 7 has the same"
    );
}

#[test]
fn hosts_stand_instead_of_networks_or_beside_them() {
    let rule = |lines: &str| {
        format!(
            "[[network_rule]]\nname = \"r\"\ndirection = \"egress\"\nprotocol = \"tcp\"\n{lines}"
        )
    };
    for (lines, networks) in [
        ("hosts = [\"API.example.com.\", \"*.example.net\"]", 0),
        ("cidr = [\"192.0.2.0/24\"]\nhosts = [\"api.example.com\"]", 1),
    ] {
        let config = parse(&format!("{MINIMAL}{}", rule(lines))).unwrap();
        let read = &config.network_rules[0];
        assert_eq!(read.cidr.len(), networks);
        assert_eq!(read.hosts[0].to_string(), "api.example.com");
    }
    let expected =
        "expected a host's name such as api.example.com, or *.example.com for all below it";
    for (lines, told) in [
        (
            "hosts = []",
            "expected at least one host; leave the key out to mean networks only".to_owned(),
        ),
        ("hosts = [\"a b\"]", expected.to_owned()),
        ("hosts = [\"192.0.2.1\"]", expected.to_owned()),
    ] {
        let faults = faults_with(&rule(lines));
        assert!(faults.ends_with(&told) && !faults.contains("missing"), "{faults}");
    }
    let ingress = rule("hosts = [\"api.example.com\"]").replace("egress", "ingress");
    let faults = faults_with(&ingress);
    assert!(
        faults.ends_with("expected no hosts: who calls is told by its address, use cidr"),
        "{faults}"
    );
}

#[test]
fn a_file_that_is_missing_or_too_long_is_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    let told = Config::load(&missing).unwrap_err().to_string();
    assert!(told.starts_with(&format!("configuration {}: ", missing.display())), "{told}");
    let long = dir.path().join("long.toml");
    std::fs::write(&long, "#".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1)).unwrap();
    let told = Config::load(&long).unwrap_err().to_string();
    assert!(told.ends_with("expected at most 1048576"), "{told}");
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("e.toml");
    std::fs::write(&file, MINIMAL).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.identity.trust, TrustConfig::Psk { file: dir.path().join("psk.key") });
}

//! The command line without a daemon: configurations are checked, keys are made, paths are probed.

use std::process::Command;

use enforcer_tests::config::{Config, Mode, NetworkRule, Workload};
use enforcer_tests::enforcer::{Enforcer, binary, command};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::keys::Keys;
use enforcer_tests::need;
use enforcer_tests::policy;
use enforcer_tests::scenario::{NAMESPACE, PORT, Setup, client, server};
use enforcer_tests::tcp::{Server, Service};
use enforcer_tests::topology::Routed;
use serde_json::Value;

#[test]
fn a_configuration_of_every_kind_is_accepted() {
    let host = Host::new("check").unwrap();
    for keys in [Keys::psk().unwrap(), Keys::pki().unwrap()] {
        let node = keys.node("node", NAMESPACE).unwrap();
        let behind = Workload::behind(NAMESPACE, "behind", "veth0", &["192.0.2.9".into()])
            .label("tier", "a");
        let mut config = Config::new(node, client(), &policy::allow_port(&client(), &server(), 80))
            .rule(NetworkRule::egress("dns", "udp", "198.51.100.53/32", 53))
            .rule(NetworkRule::ingress("probe", "tcp", "2001:db8::/64", PORT))
            .virtual_address("203.0.113.0/24");
        config.workloads.push(behind);
        config.limits.insert("flows".into(), 1024);
        let enforcer = Enforcer::prepare(&host, &config).unwrap();
        enforcer.cli(&["check-config", "--file-only"]).unwrap();
    }
}

#[test]
fn a_policy_with_an_unknown_word_is_refused_with_its_place() {
    let host = Host::new("check").unwrap();
    let setup = Setup::psk().unwrap();
    let text = "permit(principal, action, resource)\nwhen { principal.spifeid == \"x\" };";
    let enforcer = Enforcer::prepare(&host, &setup.client_policy(text).client).unwrap();
    let error = format!("{:#}", enforcer.cli(&["check-config"]).unwrap_err());
    assert!(error.contains("main.cedar:2") && error.contains("spifeid"), "{error}");
}

#[test]
fn an_unknown_key_in_the_configuration_is_named_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("enforcer.toml");
    std::fs::write(&file, "instance = \"a\"\ntrust_domian = \"example.org\"\n").unwrap();
    let error = need::run(command(&["check-config", "--config"]).unwrap().arg(&file)).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("trust_domian") && text.contains("trust_domain"), "{text}");
    assert!(text.contains(":2") || text.contains("line 2"), "{text}");
}

#[test]
fn a_made_shared_key_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("psk.key");
    let mut generate = command(&["psk", "generate", "--out"]).unwrap();
    need::run(generate.arg(&file)).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.trim().len(), 64);
    assert!(text.trim().bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[test]
fn an_open_path_is_found_usable() {
    let (code, report) = probe(|_| {});
    assert_eq!((code, &report["usable"]), (Some(0), &Value::Bool(true)), "{report}");
}

#[test]
fn a_path_that_drops_data_in_a_syn_is_found_out() {
    let rule = "tcp flags & (syn|ack) == syn meta length > 120 drop";
    let (code, report) = probe(|net| router_rule(net, rule));
    assert_eq!((code, &report["usable"]), (Some(1), &Value::Bool(false)), "{report}");
}

/// Probes a server behind a router after something was done to it.
fn probe(prepare: impl Fn(&Routed)) -> (Option<i32>, Value) {
    let net = Routed::new().unwrap();
    prepare(&net);
    let _server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let mut command: Command = net.client.command(binary().unwrap());
    let to = net.server.at(Family::V4, PORT).to_string();
    let output = command.args(["probe", &to, "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}; the probe said: {said}"));
    (output.status.code(), report)
}

fn router_rule(net: &Routed, rule: &str) {
    net.router
        .nft(&format!(
            "add table inet strange; \
             add chain inet strange forward {{ type filter hook forward priority 0; }}; \
             add rule inet strange forward {rule}"
        ))
        .unwrap();
}

#[test]
fn manifests_say_who_reaches_whom_and_a_word_that_is_none_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, policy) = (folder.path().join("cluster.yaml"), folder.path().join("policy.yml"));
    std::fs::write(&cluster, include_str!("../kubernetes/cluster.yaml")).unwrap();
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  \
                podSelector: {}\n  policyTypes: [Ingress]\n";
    std::fs::write(&policy, text).unwrap();
    let matrix = || {
        let mut matrix =
            command(&["policy", "matrix", "--port", "80/TCP", "--format", "json"]).unwrap();
        need::run(matrix.args(["--host", "outside=203.0.113.1", "-f"]).arg(folder.path()))
    };
    let report: Value = serde_json::from_str(&matrix().unwrap()).unwrap();
    let cell = |from: &str, to: &str| {
        let cell = &report["80/TCP"][from][to];
        ["allowed", "ingress", "egress"].map(|field| cell[field].as_bool().unwrap())
    };
    assert_eq!(cell("y/a", "x/a"), [false, false, true]);
    assert_eq!(cell("outside", "x/a"), [false, false, true]);
    assert_eq!(cell("x/a", "y/a"), [true, true, true]);
    assert_eq!(cell("x/a", "x/a"), [true, true, true]);
    std::fs::write(&policy, text.replace("policyTypes", "policyType")).unwrap();
    let error = format!("{:#}", matrix().unwrap_err());
    assert!(error.contains("policy.yml, document 1, NetworkPolicy x/p"), "{error}");
    assert!(error.contains("policyType") && error.contains("line 6"), "{error}");
}

/// Two nodes, whose policies are asked each for its own end.
#[test]
fn expectations_are_held_against_configurations_and_a_change_is_told() {
    let hosts = [Host::new("near").unwrap(), Host::new("far").unwrap()];
    let keys = Keys::psk().unwrap();
    let config = |own: Workload, policy: &str| {
        Config::new(keys.node("node", NAMESPACE).unwrap(), own, policy)
    };
    let prepare = |host: &Host, own: Workload, policy: &str| {
        Enforcer::prepare(host, &config(own, policy)).unwrap()
    };
    let allow = policy::allow_port(&client(), &server(), 80);
    let near = prepare(&hosts[0], Workload::own(NAMESPACE, "client"), &allow);
    let far = prepare(&hosts[1], Workload::own(NAMESPACE, "server"), &allow);
    let open = prepare(&hosts[1], Workload::own(NAMESPACE, "server"), policy::ALLOW_ALL);
    let name = |enforcer: &Enforcer| enforcer.config_file().display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("expected.yaml");
    let expect = |deny: &str| {
        let text = format!(
            "files: [{}, {}]\nallow: [{{from: {NAMESPACE}/client, to: {NAMESPACE}/server, port: 80}}]\ndeny: [{deny}]\n",
            name(&near),
            name(&far)
        );
        std::fs::write(&file, text).unwrap();
        need::run(command(&["policy", "test"]).unwrap().arg(&file))
    };
    let held = expect("{from: '*', to: '*', port: [81, 443]}").unwrap();
    assert!(held.contains("5 as expected, 0 not"), "{held}");
    let failed = format!("{:#}", expect("{from: '*', to: '*', port: 80}").unwrap_err());
    assert!(failed.contains("/client reaches") && failed.contains("permitted by"), "{failed}");
    let unknown = format!("{:#}", expect("{from: a, to: '*', port: 80}").unwrap_err());
    assert!(unknown.contains("\"a\" is nobody"), "{unknown}");
    let mut diff = command(&["policy", "diff", "--port", "81/TCP", "--exit-code"]).unwrap();
    let output = diff.args([name(&far), name(&open)]).args(["-f", &name(&near)]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let changes: Vec<&str> = told.lines().filter(|line| !line.starts_with(' ')).collect();
    // Only to itself: the client's own node still refuses.
    let server = format!("{NAMESPACE}/server");
    assert_eq!(changes, [format!("+ {server} to {server} at 81/TCP")]);
    // Who is observed refuses nothing.
    let observed = config(Workload::own(NAMESPACE, "client"), &allow).mode(Mode::Observe);
    let observed = Enforcer::prepare(&hosts[0], &observed).unwrap();
    let mut diff = command(&["policy", "diff", "--port", "81/TCP"]).unwrap();
    let output = diff.args([name(&near), name(&observed)]).args(["-f", &name(&open)]).output();
    let told = String::from_utf8(output.unwrap().stdout).unwrap();
    let client = format!("{NAMESPACE}/client");
    assert!(told.contains(&format!("+ {client} to {server} at 81/TCP")), "{told}");
    assert!(told.contains("only observed, so it passes"), "{told}");
}

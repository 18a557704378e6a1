//! Commands that work on files: configuration, authority, keys, policies.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Ran, run_in};

/// A folder to work in.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder with a pre-shared key and a configuration of one workload on `lo`, which every network
    /// namespace has; `more` is put behind it.
    fn with_psk(more: &str) -> Self {
        let folder = Self::new();
        folder.run(&["psk", "generate", "--out", "psk.key"]).good();
        folder.write_config("mode = \"psk\"\npsk_file = \"psk.key\"\n", more);
        folder
    }

    fn write_config(&self, identity: &str, more: &str) {
        let text = format!(
            "trust_domain = \"example.org\"\nrun_dir = \"run\"\n[identity]\n{identity}\
             [[workload]]\nname = \"web\"\nnamespace = \"/acme\"\ninterface = \"lo\"\n{more}"
        );
        self.write("e.toml", &text);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run_in(self.0.path(), arguments)
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    /// `ca init`, `ca request` and `ca issue-node` for a namespace.
    fn make_node(&self, namespace: &str) {
        self.run(&["ca", "init", "--dir", "ca", "--trust-domain", "example.org"]).good();
        self.run(&["ca", "request", "--name", "n1", "--key", "n.key", "--out", "n.req"]).good();
        let issue = ["ca", "issue-node", "--dir", "ca", "--request", "n.req", "--out", "n.cert"];
        let said = self.run(&[&issue[..], &["--namespace", namespace]].concat()).good();
        let expected = format!("n.cert: node \"n1\" may sign for {namespace} in example.org\n");
        assert_eq!(said, expected);
    }
}

const CHECK: [&str; 3] = ["check-config", "--config", "e.toml"];
const PKI: &str = "mode = \"pki\"\nauthority = \"ca/ca.cert\"\nnode_certificate = \"n.cert\"\nnode_key = \"n.key\"\n";

#[test]
fn a_good_configuration_is_called_good() {
    let folder = Folder::with_psk("");
    assert_eq!(
        folder.run(&CHECK).good(),
        "e.toml: good (instance \"default\", mode psk, 1 workloads, 0 network rules, 0 identity rules)\n"
    );
}

#[test]
fn every_fault_of_a_configuration_is_printed() {
    let folder = Folder::with_psk("");
    folder.write("e.toml", "instance = \"A\"\n[identity]\nmode = \"psk\"\npsk_fil = \"k\"\n");
    let told = folder.run(&CHECK).refused();
    let expected = "e.toml:1: instance = \"A\": expected 1 to 32 lower-case letters, digits or '-'\n\
        e.toml:1: trust_domain is missing: expected the SPIFFE trust domain, such as \"example.org\"\n\
        e.toml:2: identity.psk_file is missing: expected the file that `enforcer psk generate` made\n\
        e.toml:4: unknown key \"psk_fil\" in [identity]: did you mean \"psk_file\"?";
    assert_eq!(told.lines().collect::<std::collections::BTreeSet<_>>(), expected.lines().collect());
}

#[test]
fn what_a_configuration_names_is_checked_too() {
    let folder = Folder::with_psk("[policy]\nfiles = [\"p.cedar\"]\n");
    let told = folder.run(&CHECK).refused();
    assert!(told.contains("p.cedar"), "{told}");
    folder.write("p.cedar", "permit(principal, action, resource) when { principal.x == 1 };\n");
    let told = folder.run(&CHECK).refused();
    assert!(told.contains("p.cedar:1") || told.contains("p.cedar: 1"), "{told}");
    folder.write("p.cedar", "permit(principal, action, resource);\n");
    assert!(folder.run(&CHECK).good().contains("1 identity rules"));

    fs::set_permissions(folder.path("psk.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let told = folder.run(&CHECK).refused();
    assert!(told.contains("psk.key"), "{told}");
    // A machine without the keys can still check the file itself.
    folder.run(&[&CHECK[..], &["--file-only"]].concat()).good();
}

#[test]
fn a_missing_interface_is_named_with_the_next_step() {
    let folder = Folder::with_psk("");
    let text = fs::read_to_string(folder.path("e.toml")).unwrap().replace("\"lo\"", "\"nosuch0\"");
    folder.write("e.toml", &text);
    assert_eq!(
        folder.run(&CHECK).refused(),
        "workload \"web\": interface nosuch0 not found in this network namespace; `ip -br link` lists \
         those that are, --file-only leaves this out"
    );
}

#[test]
fn labels_that_do_not_fit_are_named_before_the_daemon_starts() {
    let label = "x".repeat(250);
    let labels: Vec<String> = (0..5).map(|n| format!("l{n} = \"{label}\"")).collect();
    let folder = Folder::with_psk(&format!("labels = {{ {} }}\n", labels.join(", ")));
    let told = folder.run(&CHECK).refused();
    assert!(told.contains("spiffe://example.org/acme/web") && told.contains("l0="), "{told}");
}

#[test]
fn an_authority_a_request_and_a_certificate_make_a_node() {
    let folder = Folder::new();
    folder.make_node("/acme");
    assert_eq!(
        [folder.mode("ca"), folder.mode("ca/ca.key"), folder.mode("n.key")],
        [0o700, 0o600, 0o600]
    );
    folder.write_config(PKI, "");
    assert!(folder.run(&CHECK).good().contains("mode pki"));
    let again = ["ca", "request", "--name", "n1", "--key", "n.key", "--out", "n.req"];
    assert!(folder.run(&again).good().starts_with("n.key: the key that was there\n"));
}

#[test]
fn labels_of_a_node_are_its_authoritys_word_and_read_by_policies() {
    let folder = Folder::new();
    folder.make_node("/acme");
    let issue = |labels: &[&str]| {
        let issue = ["ca", "issue-node", "--dir", "ca", "--request", "n.req", "--out", "n2.cert"];
        folder.run(&[&issue[..], &["--namespace", "/acme"], labels].concat())
    };
    let told = issue(&["--label", "zone=north", "--label", "rack=7"]).good();
    assert_eq!(
        told,
        "n2.cert: node \"n1\" may sign for /acme in example.org, rack=7, zone=north\n"
    );
    let renewed = issue(&["--label", "zone=south"]);
    assert!(renewed.err.contains("had the label rack=7, this one has not"), "{}", renewed.err);
    assert!(!renewed.err.contains("zone"), "{}", renewed.err);
    issue(&["--label", "zone=north", "--label", "rack=7"]).good();
    fs::rename(folder.path("n2.cert"), folder.path("n.cert")).unwrap();
    assert!(issue(&["--label", "a b=c"]).refused().contains("label key \"a b\""));
    assert!(issue(&["--label", "zone"]).err.contains("expected KEY=VALUE"));
    let twice = issue(&["--label", "zone=north", "--label", "zone=south"]).refused();
    assert!(twice.contains("--label zone=south: zone=north stands before it"), "{twice}");

    let rule = "permit(principal, action, resource)
        when { principal.node.zone == resource.node.zone && resource.user == \"1000\" };";
    folder.write("p.cedar", rule);
    folder.write_config(PKI, "user = \"1000\"\n[policy]\nfiles = [\"p.cedar\"]\n");
    folder.run(&CHECK).good();
    let explain = |attributes: &[&str]| {
        let ask = ["explain", "--config", "e.toml", "--to", "web", "--port", "80", "--from"];
        let from = ["spiffe://example.org/acme/other"];
        folder.run(&[&ask[..], &from[..], attributes].concat())
    };
    explain(&["--from-attribute", "node.zone=north"]).good();
    let told = explain(&["--from-attribute", "node.zone=south"]);
    assert_eq!(told.code, 3, "{}{}", told.out, told.err);
    assert!(told.out.contains("principal.node.zone is \"south\""), "{}", told.out);
    assert!(explain(&[]).out.contains("principal.node.zone is missing"));
    assert!(explain(&["--from-attribute", "colour=red"]).refused().contains("expected image,"));
}

#[test]
fn a_node_signs_for_its_namespaces_only() {
    let folder = Folder::new();
    folder.make_node("/acm");
    folder.write_config(PKI, "");
    let told = folder.run(&CHECK).refused();
    assert!(told.contains("spiffe://example.org/acme/web") && told.contains("/acm only"), "{told}");
}

#[test]
fn another_authoritys_node_is_not_believed() {
    let (folder, other) = (Folder::new(), Folder::new());
    folder.make_node("/");
    other.make_node("/");
    fs::copy(other.path("ca/ca.cert"), folder.path("ca/ca.cert")).unwrap();
    folder.write_config(PKI, "");
    let told = folder.run(&CHECK).refused();
    assert!(told.starts_with("identity.node_certificate: "), "{told}");
}

#[test]
fn no_key_is_overwritten() {
    let folder = Folder::new();
    folder.make_node("/");
    folder.run(&["psk", "generate", "--out", "psk.key"]).good();
    assert_eq!(folder.mode("psk.key"), 0o600);
    let read = |name: &str| fs::read(folder.path(name)).unwrap();
    let before = [read("ca/ca.key"), read("psk.key")];
    folder.run(&["ca", "init", "--dir", "ca", "--trust-domain", "example.org"]).refused();
    let told = folder.run(&["psk", "generate", "--out", "psk.key"]).refused();
    assert!(told.contains("psk.key"), "{told}");
    assert_eq!([read("ca/ca.key"), read("psk.key")], before);
}

#[test]
fn explain_reads_the_policy_itself_when_no_daemon_runs() {
    let folder = Folder::with_psk("[policy]\nfiles = [\"p.cedar\"]\n");
    let rule = "@id(\"back-only\")\npermit(principal, action, resource)\n\
                when { principal.labels.tier == \"back\" && context.port == 80 };\n";
    folder.write("p.cedar", rule);
    let ask = |more: &[&str]| {
        let api = "spiffe://example.org/acme/api";
        let arguments = ["explain", "--config", "e.toml", "--from", api, "--to", "web"];
        folder.run(&[&arguments[..], more].concat())
    };
    let allowed = ask(&["--port", "80", "--from-label", "tier=back"]).good();
    assert!(allowed.starts_with("allow: ") && allowed.contains("back-only"), "{allowed}");
    for more in [&["--port", "81", "--from-label", "tier=back"][..], &["--port", "80"]] {
        let denied = ask(more);
        assert_eq!(denied.code, 3, "{}{}", denied.out, denied.err);
        assert!(denied.out.contains("back-only"), "the nearest rule is named: {}", denied.out);
    }
    let told = folder
        .run(&["explain", "--config", "e.toml", "--from", "wbe", "--to", "web", "--port", "1"])
        .refused();
    let expected = "from \"wbe\": neither a SPIFFE ID nor a workload here; workloads here are web";
    assert_eq!(told, expected);
}

#[test]
fn run_refuses_what_check_config_refuses() {
    let folder = Folder::with_psk("unknown = 1\n");
    let told = folder.run(&["run", "--config", "e.toml"]).refused();
    assert!(told.contains("unknown key \"unknown\" in [workload]"), "{told}");
    let told = folder.run(&["run", "--config", "none.toml"]).refused();
    assert!(told.starts_with("configuration none.toml: "), "{told}");
    assert!(
        !Path::new(&folder.path("run")).exists(),
        "nothing may be made before the file is good"
    );
}

//! A list of what is revoked, changed under a running daemon: connections of who is on it end at once, and new ones
//! are refused with the reason named.

use std::fs;
use std::path::PathBuf;

use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::keys::NodeFiles;
use enforcer_tests::scenario::{Contact, NAMESPACE, PORT, Setup, contact};
use enforcer_tests::tcp::{End, PATIENCE, Server, Service};
use enforcer_tests::topology::TwoHosts;
use serde_json::Value;
use tempfile::TempDir;

/// A server that has an empty list, and a client.
struct Scene {
    server: Enforcer,
    _client: Enforcer,
    /// The file of the client's node certificate.
    certificate: PathBuf,
    echo: Server,
    net: TwoHosts,
    folder: TempDir,
}

impl Scene {
    fn start() -> Self {
        let net = TwoHosts::new().unwrap();
        let folder = TempDir::with_prefix("enftest-").unwrap();
        let mut setup = Setup::pki().unwrap();
        let NodeFiles::Pki { certificate, .. } = setup.client.keys.files.clone() else {
            unreachable!("a set-up with certificates")
        };
        setup.server.revocations = Some(folder.path().join("revoked.toml"));
        fs::write(folder.path().join("revoked.toml"), "").unwrap();
        Self {
            server: Enforcer::start(&net.server, &setup.server).unwrap(),
            _client: Enforcer::start(&net.client, &setup.client).unwrap(),
            certificate,
            echo: Server::start(&net.server, PORT, &Service::Echo).unwrap(),
            net,
            folder,
        }
    }

    /// Replaces the list in one rename.
    fn revoke(&self, list: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, list).unwrap();
        fs::rename(new, self.folder.path().join("revoked.toml")).unwrap();
    }

    fn open(&self) -> Interactive {
        let to = self.net.server.at(Family::V4, PORT);
        Interactive::open(&self.net.client, to).unwrap()
    }

    fn contact(&self) -> Contact {
        contact(&self.net.client, self.net.server.at(Family::V4, PORT), &self.echo).unwrap()
    }

    /// A call gets through again, within some tries: the files are read a moment after they changed.
    fn is_let_in(&self) -> bool {
        (0..10).any(|_| self.contact() == Contact::MADE)
    }
}

#[test]
fn who_is_revoked_loses_connections_at_once_and_gets_no_new_ones() {
    let scene = Scene::start();
    let handle = |scene: &Scene| {
        let known: Value = scene.server.ask(&["identities"]).unwrap();
        known[0]["handle"].as_str().unwrap().to_owned()
    };
    for (times, kind) in (1..).zip(["credential", "node", "namespace"]) {
        let mut stream = scene.open();
        stream.exchange().unwrap();
        let (list, reason) = match kind {
            "credential" => (format!("credentials = [{:?}]", handle(&scene)), "its credential"),
            "node" => {
                (format!("node_certificates = [{:?}]", scene.certificate), "its node's certificate")
            }
            _ => (format!("namespaces = [{NAMESPACE:?}]"), "its namespace"),
        };
        scene.revoke(&list);
        assert_eq!(stream.wait_end(PATIENCE).unwrap(), End::Reset, "{kind}");
        assert!(scene.echo.wait_ends(times, PATIENCE).unwrap().contains(&End::Reset), "{kind}");
        assert_eq!(scene.contact(), Contact::SILENT, "{kind}");
        assert!(scene.server.counters().unwrap().event("credential_refused_revoked") > 0);
        let log = scene.server.log();
        assert!(log.contains(&format!("is revoked by {reason}")), "{kind}: {log}");
        // The twin: the same caller is let in when it is taken off the list.
        scene.revoke("");
        assert!(scene.is_let_in(), "{kind}");
    }
}

#[test]
fn a_malformed_list_is_told_and_the_one_before_it_holds() {
    let scene = Scene::start();
    let mut stream = scene.open();
    let told = |status: &Value| status["problems"].to_string().contains("revoked.toml:1");
    scene.revoke("namespaces = [\"acme\"]");
    scene.server.wait_status(told).unwrap();
    stream.exchange().unwrap();
    scene.revoke(&format!("namespaces = [{NAMESPACE:?}]"));
    assert_eq!(stream.wait_end(PATIENCE).unwrap(), End::Reset);
    scene.revoke("namespaces = [");
    scene.server.wait_status(told).unwrap();
    assert_eq!(scene.contact(), Contact::SILENT);
    fs::remove_file(scene.folder.path().join("revoked.toml")).unwrap();
    let missing = |status: &Value| status["problems"].to_string().contains("No such file");
    scene.server.wait_status(missing).unwrap();
    assert_eq!(scene.contact(), Contact::SILENT);
}

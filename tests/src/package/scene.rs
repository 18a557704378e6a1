//! What happens to the machine, step by step, and what must hold at each.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::leftovers;
use super::machine::{Machine, own_mounts};
use crate::capture::Capture;
use crate::config::Place;
use crate::enforcer::Enforcer;
use crate::host::Family;
use crate::interactive::Interactive;
use crate::intruder::Intruder;
use crate::keys::NodeFiles;
use crate::load::{Load, prepare_client};
use crate::scenario::{Contact, PORT, Setup, contact};
use crate::tcp::{Got, SILENCE, Server, Service, dial};
use crate::topology::{INTERFACE, ThreeHosts};

const CONFIG: &str = "etc/enforcer/enforcer.toml";
const KEY: &str = "etc/enforcer/psk.key";
const POLICY: &str = "etc/enforcer/policy/shop.cedar";
const TREE: &str = "etc/enforcer/tree";
/// A file of the policy tree.
const OF_THE_TREE: &str = "etc/enforcer/tree/other.cedar";
/// Exchanges before and behind the upgrade.
const EXCHANGES: u64 = 50;
/// How long a load may last at most.
const LONG: Duration = Duration::from_mins(10);

/// What happens, and what must hold behind it.
type Step = fn(&Scene) -> Result<()>;

/// Takes two versions of the package through the life of an installation. Prints each step that holds, and returns how
/// many there were; the first that does not hold is the error.
pub fn run(old: &Path, new: &Path) -> Result<u32> {
    own_mounts()?;
    let scene = Scene::new(old, new)?;
    let steps: [(&str, Step); 5] = [
        ("installed, it does not start before there is a configuration", Scene::install),
        ("configured and started, it enforces", Scene::configure),
        ("an upgrade under load resets nothing and lets nobody in", Scene::upgrade),
        ("removed, it enforces nothing and leaves what was configured", Scene::remove),
        ("purged, it leaves nothing but what the administrator wrote", Scene::purge),
    ];
    let mut held = 0;
    for (name, step) in steps {
        step(&scene).with_context(|| {
            format!("{name}: does not hold; the daemon's log:\n{}", scene.tail())
        })?;
        println!("package: {name} ... ok");
        held += 1;
    }
    Ok(held)
}

/// A machine with the package serves, a client with an enforcer calls, and so does somebody without one.
struct Scene {
    // Ended before the hosts go.
    _client: Enforcer,
    machine: Machine,
    setup: Setup,
    echo: Server,
    _bytes: Server,
    net: ThreeHosts,
    packages: [String; 2],
    /// What differed from this machine before anything was installed.
    before: BTreeSet<PathBuf>,
}

impl Scene {
    fn new(old: &Path, new: &Path) -> Result<Self> {
        let net = ThreeHosts::new()?;
        let setup = Setup::psk()?;
        let machine = Machine::new(&net.server)?;
        prepare_client(&net.client)?;
        let packages = [machine.take(old)?, machine.take(new)?];
        Ok(Self {
            _client: Enforcer::start(&net.client, &setup.client)?,
            echo: Server::start(&net.server, PORT, &Service::Echo)?,
            _bytes: Server::start(&net.server, PORT + 1, &Service::OneByte)?,
            before: leftovers::list(&machine.changed())?,
            machine,
            setup,
            net,
            packages,
        })
    }

    fn install(&self) -> Result<()> {
        let said = self.machine.run(&["dpkg", "--install", &self.packages[0]])?;
        ensure!(said.contains("not started, since there is no"), "it does not say why: {said}");
        ensure!(self.machine.daemon().is_none(), "it runs without a configuration");
        let file = |path: &str| self.machine.root().join(path);
        for path in [
            "usr/bin/enforcer",
            "lib/systemd/system/enforcer.service",
            "etc/enforcer/enforcer.example.toml",
            "usr/share/man/man1/enforcer-run.1.gz",
            "usr/share/bash-completion/completions/enforcer",
            "usr/share/doc/enforcer/OPERATIONS.md",
            "usr/share/doc/enforcer/THIRD-PARTY.gz",
        ] {
            ensure!(file(path).is_file(), "/{path} is not there");
        }
        self.machine.run(&["dpkg", "--verify", "enforcer"])?;
        self.machine.run(&["enforcer", "--version"])?;
        ensure!(self.stranger()? == Got::Connection, "something enforces already");
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        let root = self.machine.root();
        let mut config = self.setup.server.clone();
        let NodeFiles::Psk { psk_file } = &mut config.keys.files else {
            anyhow::bail!("the setup has no pre-shared key");
        };
        fs::copy(&*psk_file, root.join(KEY))?;
        fs::set_permissions(root.join(KEY), fs::Permissions::from_mode(0o600))?;
        *psk_file = Path::new("/").join(KEY);
        let place = Place {
            instance: "default".to_owned(),
            bpf_root: "/sys/fs/bpf/enforcer".into(),
            run_dir: "/run/enforcer".into(),
            state_dir: "/var/lib/enforcer".into(),
            policy: "/etc/enforcer/policy".into(),
            tree: Path::new("/").join(TREE),
            owners: "/etc/enforcer/owners.cedar".into(),
            staged: "/etc/enforcer/staged.cedar".into(),
            manifests: "/etc/enforcer/manifests.yaml".into(),
        };
        fs::create_dir(root.join(TREE))?;
        fs::write(root.join(OF_THE_TREE), "// Nothing yet.\n")?;
        fs::write(root.join(POLICY), &config.policy)?;
        fs::write(root.join(CONFIG), config.to_toml(&place)?)?;
        self.machine.run(&["systemctl", "enable", "--now", "enforcer.service"])?;
        ensure!(contact(&self.net.client, self.to(PORT), &self.echo)? == Contact::MADE, "no call");
        ensure!(self.stranger()? == Got::Silence, "a caller without an identity is answered");
        Ok(())
    }

    fn upgrade(&self) -> Result<()> {
        let heard = Capture::start(&self.net.other, INTERFACE)?;
        let intruder = Intruder::start(&self.net.other, self.to(PORT));
        let talk = Talk::start(Interactive::open(&self.net.client, self.to(PORT))?);
        let load = Load::connections(self.to(PORT + 1), 0).clients(2).lasting(LONG);
        let load = load.start(&self.net.client)?;
        load.wait_completed(EXCHANGES, LONG)?;
        let pid = self.machine.daemon().context("the daemon does not run")?;

        self.machine.run(&["dpkg", "--install", &self.packages[1]])?;
        let new = self.machine.daemon().context("no daemon runs behind the upgrade")?;
        ensure!(new != pid, "the upgrade did not restart the daemon");

        load.wait_completed(load.completed() + EXCHANGES, LONG)?;
        let report = load.stop()?;
        ensure!(report.failed == 0, "{} calls failed: {:?}", report.failed, report.first_failure);
        let exchanges = talk.stop()?;
        ensure!(exchanges > EXCHANGES, "the open connection was used {exchanges} times only");
        intruder.hears_nothing()?;
        drop(intruder);
        let server = self.net.server.address(Family::V4);
        let answered =
            |packet: &crate::capture::Packet| packet.source == server && packet.tcp.is_some();
        ensure!(!heard.packets()?.iter().any(answered), "a stranger was sent a segment");
        println!(
            "package: {} calls and {exchanges} exchanges while the upgrade ran",
            report.completed
        );
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        let said = self.machine.run(&["dpkg", "--remove", "enforcer"])?;
        ensure!(said.contains("not enforced any more"), "it does not say what it means: {said}");
        ensure!(self.machine.daemon().is_none(), "the daemon still runs");
        ensure!(self.stranger()? == Got::Connection, "something still enforces");
        let root = self.machine.root();
        for kept in [CONFIG, KEY, POLICY, OF_THE_TREE, "etc/enforcer/enforcer.example.toml"] {
            ensure!(root.join(kept).is_file(), "/{kept} is gone");
        }
        let links = self.machine.run(&["ip", "-brief", "link"])?;
        ensure!(!links.contains("enf-"), "an interface of the daemon is left: {links}");
        Ok(())
    }

    fn purge(&self) -> Result<()> {
        self.machine.run(&["dpkg", "--purge", "enforcer"])?;
        let written = [CONFIG, KEY, POLICY, OF_THE_TREE].map(PathBuf::from);
        let after = leftovers::list(&self.machine.changed())?;
        let left: Vec<&PathBuf> = after
            .difference(&self.before)
            .filter(|path| !written.iter().any(|file| file.starts_with(path)))
            .filter(|path| !self.is_of_this_machine(path))
            .collect();
        ensure!(left.is_empty(), "left: {left:?}");
        for volatile in ["run/enforcer", "sys/fs/bpf/enforcer", "var/lib/enforcer"] {
            ensure!(!self.machine.root().join(volatile).exists(), "/{volatile} is left");
        }
        Ok(())
    }

    /// A folder that is only in the upper layer because something below it was changed meanwhile.
    fn is_of_this_machine(&self, path: &Path) -> bool {
        let lower = Path::new("/").join(path);
        lower.is_dir() && self.machine.root().join(path).is_dir()
    }

    fn stranger(&self) -> Result<Got> {
        Ok(dial(&self.net.other, self.to(PORT), SILENCE)?.got())
    }

    fn to(&self, port: u16) -> std::net::SocketAddr {
        self.net.server.at(Family::V4, port)
    }

    fn tail(&self) -> String {
        let log = self.machine.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// An open connection that is used all the time.
struct Talk {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Talk {
    fn start(mut stream: Interactive) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut exchanges = 0;
            while !stopped.load(Ordering::Acquire) {
                stream.exchange().context("the open connection broke")?;
                exchanges += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(exchanges)
        });
        Self { stop, thread }
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

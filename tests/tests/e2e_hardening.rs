//! What the daemon takes from itself, and that everything works without it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use caps::{CapSet, Capability};
use enforcer_tests::config::Config;
use enforcer_tests::enforcer::{Enforcer, Reload, binary};
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::need;
use enforcer_tests::policy;
use enforcer_tests::scenario::{Contact, PORT, Setup, contact};
use enforcer_tests::tcp::{PATIENCE, Server, Service};
use enforcer_tests::topology::{INTERFACE, TwoHosts};
use enforcer_user::sandbox::NEEDED;
use serde_json::Value;

/// Somebody without any rights, on every Debian.
const NOBODY: u32 = 65_534;
const NOBODYS_GROUP: &str = "nogroup";

/// Short enough to see a rotation.
const SHORT_LIFE_SECONDS: u64 = 8;

/// The unit that is delivered.
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/enforcer.service");
/// The most that `systemd-analyze security` may give it, in tenths; docs/OPERATIONS.md says what it is made of.
const MAX_EXPOSURE: &str = "26";

#[test]
fn every_thread_keeps_three_capabilities_and_a_filter() {
    let (_net, enforcer) = server_daemon(|_| {});
    let needed = NEEDED.iter().map(Capability::bitmask).fold(0, |all, one| all | one);
    let mask = format!("{needed:016x}");
    let none = "0".repeat(16);
    let threads = threads(&enforcer);
    assert!(threads.len() > 2, "expected the event loop's threads, found {}", threads.len());
    for thread in threads {
        let field = |name| field(&thread, name);
        assert_eq!(
            [field("CapPrm"), field("CapEff"), field("CapBnd"), field("CapInh"), field("CapAmb")],
            [&*mask, &*mask, &*mask, &*none, &*none],
            "{thread}"
        );
        assert_eq!([field("NoNewPrivs"), field("Seccomp")], ["1", "2"], "{thread}");
    }
}

#[test]
fn the_whole_story_passes_with_nothing_but_what_is_needed() {
    let net = TwoHosts::new().unwrap();
    let mut setup = Setup::pki().unwrap();
    setup.client.credential_lifetime_seconds = SHORT_LIFE_SECONDS;
    setup.server.credential_lifetime_seconds = SHORT_LIFE_SECONDS;
    let mut client = needing(&net, true, &setup.client);
    let mut server = needing(&net, false, &setup.server);
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);
    let mut stream = Interactive::open(&net.client, to).unwrap();

    server.change_policy(policy::DENY_ALL, Reload::FileChange).unwrap();
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::SILENT);
    assert!(stream.wait_end(PATIENCE).is_ok(), "a denied stream was not cut");
    server.change_policy(policy::ALLOW_ALL, Reload::Signal).unwrap();
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);

    // Credentials are issued anew, and paired, by both.
    std::thread::sleep(Duration::from_secs(SHORT_LIFE_SECONDS + 1));
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);

    // The next daemon adopts what is pinned.
    let mut stream = Interactive::open(&net.client, to).unwrap();
    server.kill().unwrap();
    server.launch().unwrap();
    client.terminate().unwrap();
    client.launch().unwrap();
    stream.exchange().unwrap();
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);
}

#[test]
fn an_interface_that_comes_back_is_attached_to_with_what_is_left() {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let enforcer = needing(&net, false, &setup.server);
    net.server.ip(&format!("link set {INTERFACE} down")).unwrap();
    net.server.ip(&format!("link set {INTERFACE} name away")).unwrap();
    let waits = |status: &Value| status["waiting"].as_array().is_some_and(|w| !w.is_empty());
    enforcer.wait_status(waits).unwrap();
    net.server.ip(&format!("link set away name {INTERFACE}")).unwrap();
    net.server.ip(&format!("link set {INTERFACE} up")).unwrap();
    enforcer.wait_status(|status| !waits(status) && status["ready"] == true).unwrap();
}

#[test]
fn the_daemon_does_not_start_without_what_it_needs_and_names_it() {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    for missing in NEEDED {
        let kept: Vec<Capability> = NEEDED.into_iter().filter(|one| *one != missing).collect();
        let mut enforcer = Enforcer::prepare(&net.server, &setup.server).unwrap();
        enforcer.bound_capabilities(&kept);
        let error = format!("{:#}", enforcer.launch().unwrap_err());
        assert!(error.contains(&format!("{missing} missing")), "{error}");
    }
}

#[test]
fn the_filter_can_log_only_or_be_off() {
    for (mode, expected) in [("log", "2"), ("off", "0")] {
        let (_net, enforcer) = server_daemon(|config| config.seccomp = Some(mode));
        for thread in threads(&enforcer) {
            assert_eq!(field(&thread, "Seccomp"), expected, "{mode}: {thread}");
        }
        assert!(enforcer.log().contains("hardening.seccomp"), "{}", enforcer.log());
    }
}

#[test]
fn keys_reach_no_core_dump_and_no_other_process_of_the_same_user() {
    let (_net, enforcer) = server_daemon(|_| {});
    let pid = enforcer.pid().unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The twin: the same reader may look into another process of root's that has no more rights.
    let mut twin = Sleeper::start(&NEEDED);
    assert!(memory_is_readable(twin.pid()), "the reader can read nobody's memory");
    assert!(!memory_is_readable(pid), "the daemon's memory is open to its user's other processes");
    twin.end();
}

#[test]
fn nobody_but_its_owner_reaches_the_control_socket() {
    let (_net, enforcer) = server_daemon(|_| {});
    let socket = enforcer.socket();
    let folder = socket.parent().unwrap();
    assert_eq!((mode(&socket), mode(folder)), (0o600, 0o700));
    open_way(&socket);
    assert!(!ask(&socket, "GET", "/v1/status", NOBODY, NOBODY).starts_with("200"));
    assert!(ask(&socket, "GET", "/v1/status", 0, 0).starts_with("200"));
}

#[test]
fn the_control_group_reads_and_changes_nothing() {
    let (_net, enforcer) = server_daemon(|config| config.control_group = Some(NOBODYS_GROUP));
    let socket = enforcer.socket();
    let folder = socket.parent().unwrap();
    assert_eq!((mode(&socket), mode(folder)), (0o660, 0o750));
    let group = fs::metadata(&socket).unwrap().gid();
    assert_eq!(fs::metadata(folder).unwrap().gid(), group);
    open_way(&socket);
    assert!(ask(&socket, "GET", "/v1/status", NOBODY, group).starts_with("200"));
    assert!(ask(&socket, "GET", "/metrics", NOBODY, group).starts_with("200"));
    let refused = ask(&socket, "POST", "/v1/reload", NOBODY, group);
    assert!(refused.starts_with("403"), "{refused}");
    assert!(refused.contains(&format!("uid {NOBODY}")), "{refused}");
    assert!(ask(&socket, "POST", "/v1/reload", 0, 0).starts_with("200"));
    assert!(!ask(&socket, "GET", "/v1/status", NOBODY, NOBODY - 1).starts_with("200"));
    let log = enforcer.log();
    let noted =
        |text: &str, who: &str| log.lines().any(|line| line.contains(text) && line.contains(who));
    assert!(noted("/v1/reload refused", &format!("uid {NOBODY}")), "{log}");
    assert!(noted("control: /v1/reload", "uid 0"), "{log}");
}

#[test]
fn a_control_group_that_is_not_there_is_named() {
    let net = TwoHosts::new().unwrap();
    let mut config = Setup::psk().unwrap().server;
    config.control_group = Some("no-such-group");
    let error = format!("{:#}", Enforcer::start(&net.server, &config).unwrap_err());
    assert!(error.contains("no-such-group") && error.contains("groupadd"), "{error}");
}

#[test]
fn the_unit_is_well_formed_and_closed() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("enforcer.service");
    let installed = fs::read_to_string(UNIT).unwrap();
    assert!(installed.contains("/usr/bin/enforcer run"), "{installed}");
    let here = installed.replace("/usr/bin/enforcer", &binary().unwrap().display().to_string());
    fs::write(&unit, here).unwrap();
    let analyze = need::tool("systemd-analyze").unwrap();
    let output = Command::new(&analyze).args(["--man=no", "verify"]).arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("enforcer.service"), "{said}");
    let threshold = format!("--threshold={MAX_EXPOSURE}");
    let words = ["security", "--offline=true", "--no-pager", &threshold];
    need::run(Command::new(&analyze).args(words).arg(&unit)).unwrap();
}

#[test]
fn the_unit_leaves_exactly_what_is_needed() {
    let unit = fs::read_to_string(UNIT).unwrap();
    let bounding = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let mut listed: Vec<&str> = bounding.unwrap().split_whitespace().collect();
    listed.sort_unstable();
    let mut needed = NEEDED.map(|one| one.to_string());
    needed.sort_unstable();
    assert_eq!(listed, needed);
}

/// A daemon on a host of its own, configured like a server.
fn server_daemon(change: impl FnOnce(&mut Config)) -> (TwoHosts, Enforcer) {
    let net = TwoHosts::new().unwrap();
    let mut config = Setup::psk().unwrap().server;
    change(&mut config);
    let enforcer = Enforcer::start(&net.server, &config).unwrap();
    (net, enforcer)
}

/// A daemon that never has more than it needs, from its first instruction on.
fn needing(net: &TwoHosts, of_client: bool, config: &Config) -> Enforcer {
    let host = if of_client { &net.client } else { &net.server };
    let mut enforcer = Enforcer::prepare(host, config).unwrap();
    enforcer.bound_capabilities(&NEEDED);
    enforcer.launch().unwrap();
    enforcer
}

/// What the kernel says of each thread.
fn threads(enforcer: &Enforcer) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", enforcer.pid().unwrap())).unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find(|line| line.split(':').next() == Some(name));
    line.and_then(|line| line.split_once(':'))
        .unwrap_or_else(|| panic!("no {name}: {status}"))
        .1
        .trim()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Lets everybody search the folders of the test above the daemon's own.
fn open_way(socket: &Path) {
    let own = socket.parent().unwrap();
    for folder in own.ancestors().skip(1).take(2) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
    }
}

/// Status and text of an answer to another user; `000` if there is none.
fn ask(socket: &Path, method: &str, route: &str, uid: u32, gid: u32) -> String {
    let url = format!("http://localhost{route}");
    let output = Command::new(need::tool("curl").unwrap())
        .args(["-s", "-X", method, "-w", "\n%{http_code}", "--unix-socket"])
        .arg(socket)
        .arg(url)
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", "000"));
    format!("{code} {body}")
}

/// Whether root with the daemon's capabilities, and no others, may read a process's memory.
fn memory_is_readable(pid: u32) -> bool {
    let path = PathBuf::from(format!("/proc/{pid}/mem"));
    let look = move || {
        let kept = NEEDED.into_iter().collect();
        caps::set(None, CapSet::Effective, &kept).unwrap();
        fs::File::open(path).is_ok()
    };
    std::thread::spawn(look).join().unwrap()
}

/// A process of root's with these capabilities; ended by its id.
struct Sleeper(Child);

impl Sleeper {
    fn start(capabilities: &[Capability]) -> Self {
        let mut command = Command::new("sleep");
        command.arg("60");
        enforcer_tests::enforcer::bound(&mut command, capabilities);
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

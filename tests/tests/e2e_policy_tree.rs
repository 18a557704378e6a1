//! Policies by namespace and by the hour: each end by its own files, changed over the control socket, closed on time.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use enforcer_tests::enforcer::{Enforcer, Reload, binary};
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::policy::{ALLOW_ALL, DENY_ALL};
use enforcer_tests::scenario::{
    CUT_BY_DAEMON, Contact, NAMESPACE, PORT, Pair, Setup, client, contact,
};
use enforcer_tests::tcp::{End, PATIENCE, Server, Service};
use enforcer_tests::twin::Enforcement;

/// The port whose rule stays.
const KEPT: u16 = PORT;
/// The port whose rule goes.
const CUT: u16 = PORT + 1;
/// Somebody without any rights, on every Debian.
const NOBODY: u32 = 65_534;
const NOBODYS_GROUP: &str = "nogroup";

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 3600;

#[test]
fn each_end_asks_for_its_own_action() {
    for (connect, accept, made) in [(true, true, true), (true, false, false), (false, true, false)]
    {
        let rule = |action: &str, there: bool| {
            if there {
                format!("permit(principal, action == Action::\"{action}\", resource);")
            } else {
                String::new()
            }
        };
        // Whatever the other end's action is permitted for helps neither.
        let callers = [rule("connect", connect), rule("accept", true)].concat();
        let callees = [rule("accept", accept), rule("connect", true)].concat();
        let setup = Setup::psk().unwrap().client_policy(&callers).server_policy(&callees);
        let pair = setup.start_pair(Enforcement::Enforced).unwrap();
        let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
        let to = pair.net.server.at(Family::V4, PORT);
        let got = contact(&pair.net.client, to, &listener).unwrap();
        assert_eq!(got.is_made(), made, "connect {connect}, accept {accept}: {got:?}");
    }
}

#[test]
fn a_file_of_the_tree_is_enforced_when_it_comes_and_cut_when_it_goes() {
    let mut pair = started(DENY_ALL);
    let kept = Server::start(&pair.net.server, KEPT, &Service::Echo).unwrap();
    let cut = Server::start(&pair.net.server, CUT, &Service::Echo).unwrap();
    let at = |port| pair.net.server.at(Family::V4, port);
    let (at_kept, at_cut) = (at(KEPT), at(CUT));
    assert!(!contact(&pair.net.client, at_kept, &kept).unwrap().is_made());

    let server = pair.daemons.server().unwrap();
    for port in [KEPT, CUT] {
        let text =
            format!("permit(principal, action, resource) when {{ context.port == {port} }};");
        let told = server.put_policy(&format!("{NAMESPACE}/{port}.cedar"), &text).unwrap();
        assert!(told.starts_with("policy changed"), "{told}");
    }
    let listed = server.cli(&["policy", "list"]).unwrap();
    assert!(listed.contains(NAMESPACE), "{listed}");
    assert_eq!(contact(&pair.net.client, at_cut, &cut).unwrap(), Contact::MADE);
    let mut stays = Interactive::open(&pair.net.client, at_kept).unwrap();
    let mut goes = Interactive::open(&pair.net.client, at_cut).unwrap();

    let server = pair.daemons.server().unwrap();
    server.cli(&["policy", "remove", &format!("{NAMESPACE}/{CUT}.cedar")]).unwrap();
    assert_eq!(goes.wait_end(PATIENCE).unwrap(), End::Reset);
    stays.exchange().unwrap();
    assert!(!contact(&pair.net.client, at_cut, &cut).unwrap().is_made());
}

#[test]
fn what_is_above_overrules_and_bounds_what_is_below() {
    let mut pair = started(DENY_ALL);
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let made = |pair: &Pair| contact(&pair.net.client, to, &listener).unwrap().is_made();
    let put = |pair: &mut Pair, path: &str, text: &str| {
        pair.daemons.server().unwrap().put_policy(path, text).unwrap();
    };
    put(&mut pair, &format!("{NAMESPACE}/own.cedar"), ALLOW_ALL);
    assert!(made(&pair));
    let bound = |port: u16| {
        format!(
            "@bounds(\"{NAMESPACE}\") permit(principal, action, resource) when {{ context.port == {port} }};"
        )
    };
    put(&mut pair, "/acme/bounds.cedar", &bound(PORT + 1));
    assert!(!made(&pair));
    let caller = client().spiffe_id();
    let (_, why) = pair.daemons.server().unwrap().explain(&caller, "server", PORT).unwrap();
    assert!(
        why["text"].as_str().unwrap().contains("goes beyond the bounds that /acme sets"),
        "{why}"
    );
    put(&mut pair, "/acme/bounds.cedar", &bound(PORT));
    assert!(made(&pair));
    put(&mut pair, "/above.cedar", "forbid(principal, action, resource);");
    assert!(!made(&pair));
}

#[test]
fn a_file_that_does_not_load_is_not_written_and_nothing_changes() {
    let mut pair = started(ALLOW_ALL);
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let mut stays =
        Interactive::open(&pair.net.client, pair.net.server.at(Family::V4, PORT)).unwrap();
    let server = pair.daemons.server().unwrap();
    let epoch = server.status().unwrap().epoch;
    for (path, text, found) in [
        ("/acme/a.cedar", "permit(principal, action);", "/acme/a.cedar:1"),
        (
            "/acme/a.cedar",
            "permit(principal in Namespace::\"/x\", action == Action::\"connect\", resource);",
            "never applies",
        ),
        (
            "/acme/a.cedar",
            "@encrypt forbid(principal, action, resource);",
            "@encrypt belongs to a permit",
        ),
        (
            "/acme/a.cedar",
            "@active(\"Mon-Fri 08:00-12:00 Europe/Berln\") permit(principal, action, resource);",
            "Europe/Berlin",
        ),
    ] {
        let refused = server.put_policy(path, text).unwrap_err().to_string();
        assert!(refused.contains(found), "{text}: {refused}");
    }
    assert_eq!(server.status().unwrap().epoch, epoch);
    assert!(!server.tree().join("acme").exists());
    stays.exchange().unwrap();
    drop(listener);
}

#[test]
fn others_write_only_where_they_own() {
    let mut setup = Setup::psk().unwrap().server_policy(DENY_ALL);
    setup.server.control_group = Some(NOBODYS_GROUP);
    let rule = "permit(principal == User::\"nobody\", action == Action::\"write\", resource in Namespace::\"/acme/prod\");";
    setup.server.owners = Some(rule.to_owned());
    let mut pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let server = pair.daemons.server().unwrap();
    let put = |path: &str| as_nobody(server, &["put", path], ALLOW_ALL);

    let refused = put("/acme/a.cedar");
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("user nobody (uid 65534) may not write in /acme"), "{told}");
    let done = put(&format!("{NAMESPACE}/a.cedar"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(server.log().contains("uid 65534"), "who changed it stands in the log");

    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::MADE);

    // Files that they put there themselves count by the same rule.
    let server = pair.daemons.server().unwrap();
    let file = server.tree().join("stray.cedar");
    fs::write(&file, ALLOW_ALL).unwrap();
    chown(&file, Some(NOBODY), None).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = server.cli(&["reload"]).unwrap_err().to_string();
    assert!(
        refused.contains("stray.cedar: user nobody (uid 65534) may not write in /,"),
        "{refused}"
    );
    fs::rename(&file, server.tree().join("acme/prod/mine.cedar")).unwrap();
    server.cli(&["reload"]).unwrap();

    // What is linked into their folder is not theirs to use.
    let link = server.tree().join("acme/prod/link.cedar");
    symlink("../../../policy/main.cedar", &link).unwrap();
    let refused = server.cli(&["reload"]).unwrap_err().to_string();
    assert!(refused.contains("link.cedar: is a symbolic link"), "{refused}");
    fs::remove_file(&link).unwrap();
    server.cli(&["reload"]).unwrap();
}

#[test]
fn a_window_that_closes_cuts_its_flows_on_time_and_opens_again() {
    // By the daemons' clocks, which are set so that the window closes some seconds after the start.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let close = now - now % MINUTE + 2 * MINUTE;
    let time = |at: u64| format!("{:02}:{:02}", at % DAY / 3600, at % 3600 / MINUTE);
    let window = format!("daily {}-{} UTC", time(close + MINUTE), time(close));
    let timed = format!(
        "@active(\"{window}\") permit(principal, action, resource) when {{ context.port == {CUT} }};"
    );
    let always = format!("permit(principal, action, resource) when {{ context.port == {KEPT} }};");
    let mut pair = started(&[timed, always].concat());
    let shift = |pair: &mut Pair, to: u64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let off = to.cast_signed() - now.cast_signed();
        pair.daemons.client().unwrap().shift_clock(off).unwrap();
        pair.daemons.server().unwrap().shift_clock(off).unwrap();
    };
    let kept = Server::start(&pair.net.server, KEPT, &Service::Echo).unwrap();
    let cut = Server::start(&pair.net.server, CUT, &Service::Echo).unwrap();
    let mut stays =
        Interactive::open(&pair.net.client, pair.net.server.at(Family::V4, KEPT)).unwrap();
    let mut goes =
        Interactive::open(&pair.net.client, pair.net.server.at(Family::V4, CUT)).unwrap();

    shift(&mut pair, close - 8);
    std::thread::sleep(Duration::from_secs(3));
    goes.exchange().unwrap();
    assert_eq!(goes.wait_end(Duration::from_secs(10)).unwrap(), End::Reset);
    stays.exchange().unwrap();
    let to = pair.net.server.at(Family::V4, CUT);
    assert!(!contact(&pair.net.client, to, &cut).unwrap().is_made());

    shift(&mut pair, close + MINUTE + 2);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(contact(&pair.net.client, to, &cut).unwrap(), Contact::MADE);
    stays.exchange().unwrap();
    drop(kept);
}

#[test]
fn an_override_opens_what_is_forbidden_ends_alone_and_survives_a_restart() {
    let mut pair = started(DENY_ALL);
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let server = pair.daemons.server().unwrap();
    server.put_policy("/shut.cedar", "forbid(principal, action, resource);").unwrap();
    assert!(!contact(&pair.net.client, to, &listener).unwrap().is_made());

    let (caller, port) = (client().spiffe_id(), PORT.to_string());
    let server = pair.daemons.server().unwrap();
    let words = ["policy", "override", "allow", "--from", &caller, "--to", NAMESPACE];
    let rest = ["--port", &port, "--for", "15s", "--reason", "the pager rang"];
    let told = server.cli(&[&words[..], &rest].concat()).unwrap();
    assert!(told.contains("by uid 0: the pager rang"), "{told}");
    assert!(server.cli(&["status"]).unwrap().contains("the pager rang"));
    let mut stream = Interactive::open(&pair.net.client, to).unwrap();
    let server = pair.daemons.server().unwrap();
    server.kill().unwrap();
    server.launch().unwrap();
    stream.exchange().unwrap();
    let (_, why) = server.explain(&caller, "server", PORT).unwrap();
    let text = why["text"].as_str().unwrap();
    assert!(why["allow"] == true && text.contains("override 1 allows"), "{why}");

    assert_eq!(stream.wait_end(Duration::from_secs(20)).unwrap(), End::Reset);
    assert!(!contact(&pair.net.client, to, &listener).unwrap().is_made());
    let server = pair.daemons.server().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(!server.cli(&["status"]).unwrap().contains("the pager rang"));
    assert!(server.log().contains("override 1 has ended"), "its end stands in the log");
}

#[test]
fn an_override_that_denies_cuts_at_once_and_can_be_taken_back() {
    let mut pair = started(ALLOW_ALL);
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let mut stream = Interactive::open(&pair.net.client, to).unwrap();
    let server = pair.daemons.server().unwrap();
    let words = ["policy", "override", "deny", "--from", "*", "--to", "/acme"];
    server.cli(&[&words[..], &["--for", "1h", "--reason", "breach"]].concat()).unwrap();
    assert_eq!(stream.wait_end(PATIENCE).unwrap(), End::Reset);
    assert!(!contact(&pair.net.client, to, &listener).unwrap().is_made());
    // A policy that is loaded anew meanwhile does not lift it.
    pair.daemons.server().unwrap().put_policy("/open.cedar", ALLOW_ALL).unwrap();
    assert!(!contact(&pair.net.client, to, &listener).unwrap().is_made());
    pair.daemons.server().unwrap().cli(&["policy", "overrides", "--end", "1"]).unwrap();
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::MADE);
}

#[test]
fn what_only_observes_or_is_staged_is_told_and_passes() {
    let observing = format!(
        "{ALLOW_ALL}\n@id(\"soon\") @mode(\"observe\")\nforbid(principal, action, resource) when {{ context.port == {CUT} }};"
    );
    let mut setup = Setup::psk().unwrap().client_policy(ALLOW_ALL).server_policy(&observing);
    setup.client.staged = Some(DENY_ALL.to_owned());
    let mut pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let kept = Server::start(&pair.net.server, KEPT, &Service::Echo).unwrap();
    let cut = Server::start(&pair.net.server, CUT, &Service::Echo).unwrap();
    let at = |port| pair.net.server.at(Family::V4, port);
    let (at_kept, at_cut) = (at(KEPT), at(CUT));
    for (to, server) in [(at_kept, &kept), (at_cut, &cut)] {
        assert_eq!(contact(&pair.net.client, to, server).unwrap(), Contact::MADE);
    }
    let list =
        |enforcer: &Enforcer| enforcer.ask::<serde_json::Value>(&["policy", "observed"]).unwrap();
    let observed = list(pair.daemons.server().unwrap());
    assert_eq!(observed.as_array().unwrap().len(), 1, "{observed}");
    assert_eq!((&observed[0]["port"], &observed[0]["action"]), (&CUT.into(), &"accept".into()));
    assert!(observed[0]["because"].as_str().unwrap().starts_with("soon"), "{observed}");
    assert_eq!(observed[0]["from"], client().spiffe_id());
    let staged = list(pair.daemons.client().unwrap());
    assert_eq!(staged[0]["because"], "staged policy: no rule permits it", "{staged}");
    for enforcer in
        [pair.daemons.client().unwrap().counters(), pair.daemons.server().unwrap().counters()]
    {
        assert!(enforcer.unwrap().event("would_deny") > 0);
    }

    // Once it is enforced, it bites.
    let enforced = observing.replace("@mode(\"observe\")", "");
    pair.daemons.server().unwrap().change_policy(&enforced, Reload::Signal).unwrap();
    assert!(!contact(&pair.net.client, at_cut, &cut).unwrap().is_made());
    assert_eq!(contact(&pair.net.client, at_kept, &kept).unwrap(), Contact::MADE);
}

/// Runs a command of `enforcer policy` as somebody without rights, with `text` on its standard input.
fn as_nobody(server: &Enforcer, words: &[&str], text: &str) -> Output {
    use std::io::Write as _;
    // What the test made is its own; whoever asks needs a way to the socket.
    for folder in server.socket().ancestors().skip(2).take(2) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
    }
    let socket = server.socket();
    let mut child = Command::new(binary().unwrap())
        .arg("policy")
        .args(words)
        .arg("-")
        .arg("--socket")
        .arg(socket)
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn started(policy: &str) -> Pair {
    // What is closed is the server's end.
    let callers = if policy == DENY_ALL { ALLOW_ALL } else { policy };
    let setup = Setup::psk().unwrap().client_policy(callers).server_policy(policy);
    setup.start_pair(Enforcement::Enforced).unwrap().without_books(CUT_BY_DAEMON)
}

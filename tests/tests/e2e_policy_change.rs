//! The policy changes while traffic flows: exactly what is denied is cut, at both ends, and nothing else.

use std::time::Duration;

use enforcer_tests::enforcer::{Enforcer, Reload};
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::load::{Load, prepare_client};
use enforcer_tests::policy::{self, ALLOW_ALL, DENY_ALL};
use enforcer_tests::scenario::{
    CUT_BY_DAEMON, Contact, PORT, Pair, Setup, client, contact, server,
};
use enforcer_tests::tcp::{End, PATIENCE, Server, Service};
use enforcer_tests::twin::Enforcement;

/// The port whose rule stays.
const KEPT: u16 = PORT;
/// The port whose rule goes.
const CUT: u16 = PORT + 1;
const STREAMS: usize = 8;

#[test]
fn a_rule_taken_away_by_signal_cuts_exactly_its_flows_under_load() {
    cut_under_load(Reload::Signal, |pair| pair.daemons.server().unwrap());
}

#[test]
fn a_rule_taken_away_by_a_changed_file_cuts_exactly_its_flows_under_load() {
    cut_under_load(Reload::FileChange, |pair| pair.daemons.server().unwrap());
}

#[test]
fn a_rule_taken_away_at_the_caller_cuts_exactly_its_flows_under_load() {
    cut_under_load(Reload::Signal, |pair| pair.daemons.client().unwrap());
}

/// Idle streams to two ports and a load of new connections to one of them, while one end's policy loses its
/// rule for the other.
fn cut_under_load(how: Reload, whose: impl Fn(&mut Pair) -> &mut Enforcer) {
    let both = [rule(KEPT), rule(CUT)].join("\n");
    let mut pair = started(&both);
    prepare_client(&pair.net.client).unwrap();
    let kept_server = Server::start(&pair.net.server, KEPT, &Service::Echo).unwrap();
    let cut_server = Server::start(&pair.net.server, CUT, &Service::Echo).unwrap();
    let mut kept = streams(&pair, KEPT);
    let mut cut = streams(&pair, CUT);
    let load = Load::connections(pair.net.server.at(Family::V4, KEPT), 0).clients(2);
    let running = load.lasting(Duration::from_mins(1)).start(&pair.net.client).unwrap();
    running.wait_completed(50, PATIENCE).unwrap();

    whose(&mut pair).change_policy(&rule(KEPT), how).unwrap();
    for stream in &mut cut {
        assert_eq!(stream.wait_end(PATIENCE).unwrap(), End::Reset);
    }
    assert_eq!(cut_server.wait_ends(STREAMS, PATIENCE).unwrap(), [End::Reset; STREAMS]);

    running.wait_completed(running.completed() + 50, PATIENCE).unwrap();
    let report = running.stop().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
    for stream in &mut kept {
        stream.exchange().unwrap();
    }
    assert!(!kept_server.ends().contains(&End::Reset));
    let to = pair.net.server.at(Family::V4, CUT);
    assert!(!contact(&pair.net.client, to, &cut_server).unwrap().is_made());
}

#[test]
fn a_policy_that_says_the_same_cuts_nothing() {
    let mut pair = started(&rule(KEPT));
    let _server = Server::start(&pair.net.server, KEPT, &Service::Echo).unwrap();
    let mut open = streams(&pair, KEPT);
    for text in [ALLOW_ALL.to_owned(), rule(KEPT)] {
        pair.daemons.server().unwrap().change_policy(&text, Reload::Signal).unwrap();
        for stream in &mut open {
            stream.exchange().unwrap();
        }
    }
}

#[test]
fn a_rule_that_comes_opens_what_was_denied() {
    let mut pair = started(&rule(KEPT));
    let listener = Server::start(&pair.net.server, CUT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, CUT);
    assert!(!contact(&pair.net.client, to, &listener).unwrap().is_made());
    pair.daemons.client().unwrap().change_policy(ALLOW_ALL, Reload::Signal).unwrap();
    pair.daemons.server().unwrap().change_policy(ALLOW_ALL, Reload::Signal).unwrap();
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::MADE);
}

#[test]
fn a_forbid_overrules_a_permit_when_it_comes() {
    let mut pair = started(&rule(KEPT));
    let echo = Server::start(&pair.net.server, KEPT, &Service::Echo).unwrap();
    let mut open = streams(&pair, KEPT);
    let forbidden =
        format!("{}\nforbid(principal in Namespace::\"/acme\", action, resource);", rule(KEPT));
    pair.daemons.server().unwrap().change_policy(&forbidden, Reload::Signal).unwrap();
    for stream in &mut open {
        assert_eq!(stream.wait_end(PATIENCE).unwrap(), End::Reset);
    }
    assert_eq!(echo.wait_ends(STREAMS, PATIENCE).unwrap(), [End::Reset; STREAMS]);
}

#[test]
fn a_policy_that_does_not_parse_leaves_the_old_one_in_force() {
    let mut pair = started(&rule(KEPT));
    let listener = Server::start(&pair.net.server, KEPT, &Service::Echo).unwrap();
    let mut open = streams(&pair, KEPT);
    let enforcer = pair.daemons.server().unwrap();
    let before = enforcer.status().unwrap().epoch;
    enforcer.write_policy("permit(principal, action, resource) when { principal.laebls").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(enforcer.status().unwrap().epoch, before);
    for stream in &mut open {
        stream.exchange().unwrap();
    }
    let (kept, cut) = (pair.net.server.at(Family::V4, KEPT), pair.net.server.at(Family::V4, CUT));
    assert_eq!(contact(&pair.net.client, kept, &listener).unwrap(), Contact::MADE);
    let other = Server::start(&pair.net.server, CUT, &Service::Echo).unwrap();
    assert!(!contact(&pair.net.client, cut, &other).unwrap().is_made());
}

#[test]
fn bulk_in_flight_is_cut_when_its_rule_goes() {
    let mut pair = started(&rule(KEPT));
    let source = Server::start(&pair.net.server, KEPT, &Service::Source(u64::MAX)).unwrap();
    let to = pair.net.server.at(Family::V4, KEPT);
    let reader = pair.net.client.spawn(move || {
        let stream = enforcer_tests::tcp::dial_here(to, PATIENCE)?.stream()?;
        let end = std::io::copy(&mut &stream, &mut std::io::sink());
        Ok(end.expect_err("the stream has no end of its own").kind())
    });
    std::thread::sleep(Duration::from_millis(500));
    pair.daemons.server().unwrap().change_policy(DENY_ALL, Reload::Signal).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(source.wait_ends(1, PATIENCE).unwrap(), [End::Reset]);
}

fn rule(port: u16) -> String {
    policy::allow_port(&client(), &server(), port)
}

fn started(policy: &str) -> Pair {
    let setup = Setup::psk().unwrap().client_policy(policy).server_policy(policy);
    setup.start_pair(Enforcement::Enforced).unwrap().without_books(CUT_BY_DAEMON)
}

fn streams(pair: &Pair, port: u16) -> Vec<Interactive> {
    let to = pair.net.server.at(Family::V4, port);
    (0..STREAMS).map(|_| Interactive::open(&pair.net.client, to).unwrap()).collect()
}

//! A host that boots: its enforcer runs before its interface is up, while a stranger calls without a pause. In the
//! guests of `cargo xtask test vm` these tests run first, on a machine that has attached nothing yet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use enforcer_tests::capture::{Capture, Direction, Flags, Packet, Segment};
use enforcer_tests::config::Config;
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::raw::Forged;
use enforcer_tests::scenario::{Contact, PORT, Setup, contact};
use enforcer_tests::tcp::{PATIENCE, Server, Service};
use enforcer_tests::topology::{INTERFACE, configure, link, near};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;

/// Calls of the stranger that must have arrived at the interface once it is up.
const CALLS: usize = 50;
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(5);
/// The port of the first call; each has another.
const FIRST_PORT: u16 = 2000;
/// The host's, locally administered.
const HARDWARE_ADDRESS: &str = "02:00:00:00:00:02";

twin!(a_stranger_who_calls_all_through_the_boot_hears_nothing, stranger_v4,
    enforced: Heard::Nothing, Absent: Heard::Answers);
twin!(a_stranger_who_calls_all_through_the_boot_hears_nothing_over_ipv6, stranger_v6,
    enforced: Heard::Nothing, Absent: Heard::Answers);

/// What the stranger's side of the wire shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Answers,
}

fn stranger_v4(enforcement: Enforcement) -> Heard {
    stranger(enforcement, Family::V4)
}

fn stranger_v6(enforcement: Enforcement) -> Heard {
    stranger(enforcement, Family::V6)
}

fn stranger(enforcement: Enforcement, family: Family) -> Heard {
    let net = Booting::new();
    let capture = Capture::start(&net.outside, INTERFACE).unwrap();
    let caller = Caller::start(&net.outside, family);
    let setup = Setup::psk().unwrap();
    let _enforcer = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&net.host, &before_addresses(setup.server)).unwrap());
    let server = Server::start(&net.host, PORT, &Service::Echo).unwrap();
    net.bring_up();
    wait_for_calls(&net.host);
    caller.stop();
    assert_eq!(server.accepted(), 0, "the stranger ends no handshake");
    let address = near(2).of(family);
    let heard = |packet: &Packet| packet.source == address && !packet.is_neighbour_discovery();
    if capture.packets().unwrap().iter().any(heard) { Heard::Answers } else { Heard::Nothing }
}

/// With the addresses that the workload will have: an enforcer that must find them on the interface waits for them, and
/// what waits for the enforcer must not be the network.
fn before_addresses(mut config: Config) -> Config {
    let addresses = Family::BOTH.map(|family| near(2).of(family).to_string());
    config.workloads = config.workloads.into_iter().map(|w| w.addresses(&addresses)).collect();
    config
}

/// Waits until as many calls as wanted have arrived at the interface that is up now.
fn wait_for_calls(host: &Host) {
    let arriving = Capture::start(host, INTERFACE).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let is_call = |s: &Segment| s.direction == Direction::In && s.flags == Flags::SYN;
    while arriving.segments().unwrap().iter().filter(|s| is_call(s)).count() < CALLS {
        assert!(Instant::now() < deadline, "the stranger's calls do not arrive");
    }
}

#[test]
fn a_host_whose_interface_comes_up_behind_its_enforcer_is_reached_by_those_permitted() {
    let net = Booting::new();
    let mut setup = Setup::pki().unwrap();
    setup.server = before_addresses(setup.server);
    let _daemons = setup.start(&net.outside, &net.host, Enforcement::Enforced).unwrap();
    let server = Server::start(&net.host, PORT, &Service::Echo).unwrap();
    net.bring_up();
    for family in Family::BOTH {
        let to = net.host.at(family, PORT);
        assert_eq!(contact(&net.outside, to, &server).unwrap(), Contact::MADE);
    }
}

/// What a boot finds when the enforcer is started: a network that lives, and a host whose interface is there but down
/// and without addresses.
struct Booting {
    outside: Host,
    host: Host,
    /// The bridge between both: what is outside has a carrier whatever the host does.
    _switch: Host,
}

impl Booting {
    fn new() -> Self {
        let [outside, host, switch] =
            ["outside", "host", "switch"].map(|label| Host::new(label).unwrap());
        switch.ip("link add br0 type bridge stp_state 0 mcast_snooping 0").unwrap();
        switch.ip("link set br0 up").unwrap();
        for end in [&outside, &host] {
            link(end, INTERFACE, &switch, end.label()).unwrap();
            switch.ip(&format!("link set {} master br0", end.label())).unwrap();
            switch.ip(&format!("link set {} up", end.label())).unwrap();
        }
        host.ip(&format!("link set {INTERFACE} address {HARDWARE_ADDRESS}")).unwrap();
        configure(&outside, INTERFACE, near(1)).unwrap();
        // Known for good: the first frame of the stranger arrives at once, and not behind an answer to who has the
        // address.
        for family in Family::BOTH {
            let to = near(2).of(family);
            let entry = format!("{to} lladdr {HARDWARE_ADDRESS} dev {INTERFACE} nud permanent");
            outside.ip(&format!("neigh add {entry}")).unwrap();
        }
        Self { outside, host, _switch: switch }
    }

    fn bring_up(&self) {
        configure(&self.host, INTERFACE, near(2)).unwrap();
    }
}

/// Somebody without an enforcer who calls the host all the time, whether it is there or not.
struct Caller {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Caller {
    fn start(outside: &Host, family: Family) -> Self {
        let (host, stop) = (outside.clone(), Arc::new(AtomicBool::new(false)));
        let of_thread = Arc::clone(&stop);
        let call = move || {
            let to = SocketAddr::new(near(2).of(family), PORT);
            for port in (FIRST_PORT..=u16::MAX).cycle() {
                if of_thread.load(Ordering::Acquire) {
                    break;
                }
                Forged::syn(host.at(family, port), to).send(&host)?;
                thread::sleep(PAUSE);
            }
            Ok(())
        };
        Self { stop, thread: thread::spawn(call) }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the caller does not panic").expect("its calls are sent");
    }
}

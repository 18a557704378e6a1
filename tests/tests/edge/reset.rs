//! A flow that was cut is reset at both ends, whichever end of the veth the workload has.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use enforcer_common::abi::FlowKey;
use enforcer_user::datapath::{Datapath, Mechanism, boot_ns};
use enforcer_user::engine::Sweep;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use crate::place::{BEHIND_VETH, PATIENCE, WORKLOAD, config, ip, isolated, start_by};

/// Where the far end listens.
const PORT: u16 = 80;

#[test]
fn a_cut_ipv4_flow_is_reset_at_both_ends() {
    a_cut_flow_is_reset_at_both_ends("192.0.2.2", WORKLOAD);
}

#[test]
fn a_cut_ipv6_flow_is_reset_at_both_ends() {
    a_cut_flow_is_reset_at_both_ends("2001:db8::2", WORKLOAD);
}

#[test]
fn a_cut_ipv4_flow_of_a_workload_behind_a_veth_is_reset_at_both_ends() {
    a_cut_flow_is_reset_at_both_ends("192.0.2.2", BEHIND_VETH);
}

#[test]
fn a_cut_ipv6_flow_of_a_workload_behind_a_veth_is_reset_at_both_ends() {
    a_cut_flow_is_reset_at_both_ends("2001:db8::2", BEHIND_VETH);
}

fn a_cut_flow_is_reset_at_both_ends(far: &'static str, workload: &'static str) {
    isolated(|root, _| {
        let config = config(root, workload);
        let mut connection = connect_before_enforcement(far.parse().unwrap());
        let (mut datapath, _events) = start_by(&config, Mechanism::probe(), u64::MAX);
        connection.be_adopted();
        let key = adopted_flow(&datapath, workload == BEHIND_VETH);

        datapath.cut(&Sweep { flows: vec![key], ..Sweep::default() }).unwrap();
        let swept = datapath.sweep(boot_ns()).unwrap();
        assert_eq!((swept.cut, swept.failed), (1, 0), "{swept:?}");
        let (here, there) = connection.ends();
        let counters = datapath.maps.counters.sums().unwrap();
        assert!(is_reset(&here), "the client's end: {here:?}, counters {counters:?}");
        assert!(is_reset(&there), "the server's end: {there:?}, counters {counters:?}");

        assert!(datapath.maps.flow(&key).unwrap().is_some(), "kept until its resets have passed");
        datapath.sweep(boot_ns() + 1_000_000_000).unwrap();
        assert_eq!(datapath.maps.flow(&key).unwrap(), None);
        assert!(!datapath.is_sweeping());
    });
}

fn adopted_flow(datapath: &Datapath, workload_serves: bool) -> FlowKey {
    let live = datapath.live_flows().unwrap();
    let server = |key: &FlowKey| if workload_serves { key.local_port } else { key.remote_port };
    let flow = live.iter().find(|flow| server(&flow.key) == PORT);
    flow.unwrap_or_else(|| panic!("the connection was not adopted: {live:?}")).key
}

fn is_reset(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// A connection between `near` here and `far` in a namespace of its own, open before it is enforced.
struct Connection {
    here: TcpStream,
    there: mpsc::Receiver<io::Result<usize>>,
    go: mpsc::Sender<()>,
    peer: thread::JoinHandle<()>,
}

impl Connection {
    /// Sends a byte each way, which shows the datapath both directions.
    fn be_adopted(&mut self) {
        self.go.send(()).unwrap();
        self.here.write_all(b"c").unwrap();
        self.here.read_exact(&mut [0]).unwrap();
    }

    /// What each end reads next.
    fn ends(mut self) -> (io::Result<usize>, io::Result<usize>) {
        self.here.set_read_timeout(Some(PATIENCE)).unwrap();
        let here = self.here.read(&mut [0]);
        let there = self.there.recv_timeout(PATIENCE).unwrap();
        self.peer.join().unwrap();
        (here, there)
    }
}

fn connect_before_enforcement(far: IpAddr) -> Connection {
    let (told, thread_id) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let (listens, ready) = mpsc::channel();
    let (said, there) = mpsc::channel();
    let peer = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        told.send(gettid()).unwrap();
        may_go.recv().unwrap();
        ip("address add 192.0.2.2/24 dev far");
        ip("address add 2001:db8::2/64 dev far nodad");
        ip("link set far up");
        let listener = TcpListener::bind(SocketAddr::new(far, PORT)).unwrap();
        listens.send(()).unwrap();
        said.send(serve(&listener, &may_go)).unwrap();
    });
    ip("link add near type veth peer name far");
    ip(&format!("link set far netns {}", thread_id.recv().unwrap()));
    ip("address add 192.0.2.1/24 dev near");
    ip("address add 2001:db8::1/64 dev near nodad");
    ip("link set near up");
    go.send(()).unwrap();
    ready.recv().unwrap();
    let mut here = connect(SocketAddr::new(far, PORT));
    here.write_all(b"a").unwrap();
    here.read_exact(&mut [0]).unwrap();
    Connection { here, there, go, peer }
}

/// Answers a byte, another when it may, and returns what comes then.
fn serve(listener: &TcpListener, may_go: &mpsc::Receiver<()>) -> io::Result<usize> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(b"b").unwrap();
    may_go.recv().unwrap();
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(b"d").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read(&mut byte)
}

/// IPv6 may need a moment before the new address answers.
fn connect(to: SocketAddr) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > end => panic!("{to}: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

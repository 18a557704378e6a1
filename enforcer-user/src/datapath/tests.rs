//! The edge against the running kernel: each test in its own network and mount namespace, with the
//! embedded object. They need root: `cargo test -p enforcer-user --lib datapath -- --ignored`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use enforcer_common::abi::{
    ABI_VERSION, Config as KernelConfig, NonceState, VerdictKey, VerdictValue, WORKLOAD_NAME_BYTES,
    WorkloadValue, flow_state, verdict_action,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tokio::runtime::Runtime;

use super::attach::Hook;
use super::load::{read_single, write_single};
use super::*;

/// How long anything may take that should happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test in namespaces of its own, with a folder for a bpf file system.
fn isolated(test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    thread::scope(|scope| {
        let run = move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            ip("link set lo up");
            test(path);
        };
        let result = scope.spawn(run).join();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

const WORKLOAD: &str = r#"
[[workload]]
name = "web"
namespace = "/acme"
interface = "near"
"#;

/// The workload is what has the other end of `near`.
const BEHIND_VETH: &str = r#"
[[workload]]
name = "web"
namespace = "/acme"
interface = "near"
side = "host"
addresses = ["192.0.2.2", "2001:db8::2"]
"#;

fn config(root: &Path, more: &str) -> Config {
    let text = format!(
        "instance = \"t\"\nbpf_root = \"{}\"\ntrust_domain = \"example.org\"\n[identity]\nmode = \
         \"psk\"\npsk_file = \"psk.key\"\n{more}",
        root.join("bpf").display()
    );
    Config::parse(&text, Path::new("test.toml"), root).unwrap()
}

/// A veth pair `near` and `far`, both up, with addresses of both families.
fn pair() {
    ip("link add near type veth peer name far");
    for (name, host) in [("near", 1), ("far", 2)] {
        ip(&format!("address add 192.0.2.{host}/24 dev {name}"));
        ip(&format!("address add 2001:db8::{host}/64 dev {name} nodad"));
        ip(&format!("link set {name} up"));
    }
}

fn workload_value(adopt: bool) -> WorkloadValue {
    WorkloadValue {
        identity: 1,
        credential: [0; 8],
        adopt_until_ns: if adopt { u64::MAX } else { 0 },
        rule_sets: [0; 2],
        flags: 0,
        zero: 0,
        name: [0; WORKLOAD_NAME_BYTES],
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Starts the datapath of `config` and attaches its first workload.
fn start(config: &Config, adopt: bool) -> (Datapath, Events) {
    let (mut datapath, events) = Datapath::open(config).unwrap();
    datapath.maps.workloads.insert(&1, &workload_value(adopt)).unwrap();
    datapath.add_workload(1, &config.workloads[0]).unwrap();
    datapath.finish_start().unwrap();
    (datapath, events)
}

fn health(datapath: &Datapath) -> Health {
    datapath.watch().unwrap().remove(0).1
}

fn program_ids(hook: Hook) -> Vec<u32> {
    let (_, chain) = aya::programs::SchedClassifier::query_tcx("near", hook.tc()).unwrap();
    chain.iter().map(aya::programs::ProgramInfo::id).collect()
}

#[test]
#[ignore = "needs root"]
fn a_restart_adopts_maps_and_epoch_and_draws_a_new_nonce_secret() {
    isolated(|root| {
        let (config, runtime) = (config(root, ""), runtime());
        let _guard = runtime.enter();
        let key = VerdictKey { peer: 9, epoch: 5, workload: 1, port: 80, ..VerdictKey::default() };
        let value = VerdictValue { action: verdict_action::ALLOW, ..VerdictValue::default() };
        let folder = config.pin_dir();
        let nonces = |held: &Datapath| read_single::<NonceState>(&held.folder, "NONCES").unwrap();

        let (mut first, events) = Datapath::open(&config).unwrap();
        assert!(first.adopted().unwrap().is_none());
        assert_eq!(first.maps.config().unwrap().abi_version, ABI_VERSION);
        first.maps.verdicts.insert(&key, &value).unwrap();
        first.maps.flip_epoch(5).unwrap();
        let before = nonces(&first);
        assert_ne!(before.secret, [0; 8]);
        assert!(
            matches!(Datapath::open(&config), Err(DatapathError::Busy(busy)) if busy == folder)
        );
        drop((first, events));

        let (second, _events) = Datapath::open(&config).unwrap();
        let adopted = second.adopted().unwrap().unwrap();
        assert_eq!(adopted.epoch, 5);
        assert_eq!(adopted.verdicts, [(key, value)]);
        let after = nonces(&second);
        assert_ne!(after.secret, before.secret);
        assert!(after.counter > before.counter);
    });
}

#[test]
#[ignore = "needs root"]
fn maps_of_another_version_or_size_are_refused_by_name() {
    isolated(|root| {
        let runtime = runtime();
        let _guard = runtime.enter();
        let ordinary = config(root, "");
        drop(Datapath::open(&ordinary).unwrap());
        let refusal = |config: &Config| Datapath::open(config).unwrap_err().to_string();

        let smaller = refusal(&config(root, "[limits]\nflows = 2048\n"));
        assert!(smaller.contains("map FLOWS") && smaller.contains("expects 2048"), "{smaller}");
        assert!(smaller.contains("enforcer detach"), "{smaller}");

        let folder = Folder::open(&ordinary.pin_dir()).unwrap();
        let mut pinned: KernelConfig = read_single(&folder, "CONFIG").unwrap();
        pinned.abi_version = 77;
        write_single(&folder, "CONFIG", pinned).unwrap();
        drop(folder);
        let older = refusal(&ordinary);
        assert!(older.contains("map CONFIG") && older.contains("77"), "{older}");
    });
}

#[test]
#[ignore = "needs root"]
fn what_a_start_left_that_died_is_made_anew() {
    isolated(|root| {
        let (config, runtime) = (config(root, ""), runtime());
        let _guard = runtime.enter();
        drop(Datapath::open(&config).unwrap());
        let folder = Folder::open(&config.pin_dir()).unwrap();
        folder.remove("CONFIG").unwrap();
        drop(folder);
        let (datapath, _events) = Datapath::open(&config).unwrap();
        assert!(datapath.adopted().unwrap().is_none());
    });
}

#[test]
#[ignore = "needs root"]
fn a_restart_swaps_the_programs_and_detach_leaves_nothing() {
    isolated(|root| {
        let (config, runtime) = (config(root, WORKLOAD), runtime());
        let _guard = runtime.enter();
        pair();
        let (first, events) = start(&config, false);
        assert_eq!(first.mechanism(), Mechanism::Tcx);
        assert_eq!(health(&first), Health::InPlace);
        let old = [program_ids(Hook::Ingress), program_ids(Hook::Egress)].concat();
        assert_eq!(old.len(), 2);
        assert!(detach(&config).unwrap_err().to_string().contains("another process"));
        drop((first, events));
        let left = [program_ids(Hook::Ingress), program_ids(Hook::Egress)].concat();
        assert_eq!(left, old, "the programs stay while no daemon runs");

        let (second, events) = start(&config, false);
        assert_eq!(health(&second), Health::InPlace);
        let new = [program_ids(Hook::Ingress), program_ids(Hook::Egress)].concat();
        assert_eq!(new.len(), 2);
        assert!(new.iter().all(|id| !old.contains(id)), "{old:?} {new:?}");
        drop((second, events));

        let report = detach(&config).unwrap();
        assert_eq!(report.removed.iter().filter(|line| line.starts_with("link")).count(), 2);
        assert!(program_ids(Hook::Ingress).is_empty() && program_ids(Hook::Egress).is_empty());
        assert!(!config.pin_dir().exists());
        assert!(detach(&config).unwrap().removed.is_empty());
    });
}

#[test]
#[ignore = "needs root"]
fn what_no_workload_claims_any_more_is_taken_off() {
    isolated(|root| {
        let runtime = runtime();
        let _guard = runtime.enter();
        pair();
        drop(start(&config(root, WORKLOAD), false));
        let (mut datapath, _events) = Datapath::open(&config(root, "")).unwrap();
        assert_eq!(program_ids(Hook::Egress).len(), 1);
        let removed = datapath.finish_start().unwrap();
        assert_eq!(removed.len(), 2, "{removed:?}");
        assert!(program_ids(Hook::Egress).is_empty());
        assert!(datapath.maps.interfaces.entries().unwrap().is_empty());
    });
}

#[test]
#[ignore = "needs root"]
fn the_watchdog_tells_what_happened_to_the_programs() {
    isolated(|root| {
        let (config, runtime) = (config(root, WORKLOAD), runtime());
        let _guard = runtime.enter();
        pair();
        let (mut datapath, _events) = start(&config, false);
        let facts = interface::inspect("near").unwrap();
        let program = "reinject";
        Mechanism::Tcx
            .attach_for_life(&mut datapath.loaded, program, &facts, Hook::Egress)
            .unwrap();
        let by = program.to_owned();
        assert_eq!(health(&datapath), Health::Displaced { program: "from_workload", by });

        let again = datapath.add_workload(1, &config.workloads[0]);
        assert!(matches!(again, Err(DatapathError::Displaced { .. })), "not ready: {again:?}");

        datapath.folder.remove(&format!("link_{}_to", facts.ifindex)).unwrap();
        datapath.loaded.program(program).unwrap().unload().unwrap();
        assert_eq!(health(&datapath), Health::Detached { program: "to_workload" });

        ip("link delete near");
        assert_eq!(health(&datapath), Health::InterfaceGone);
        pair();
        let recreated = interface::inspect("near").unwrap().ifindex;
        assert_eq!(health(&datapath), Health::InterfaceRecreated { ifindex: recreated });
    });
}

#[test]
#[ignore = "needs root"]
fn filters_of_a_clsact_qdisc_do_the_same_on_older_kernels() {
    isolated(|root| {
        let (config, runtime) = (config(root, ""), runtime());
        let _guard = runtime.enter();
        pair();
        let facts = interface::inspect("near").unwrap();
        let (mut datapath, events) = Datapath::open(&config).unwrap();
        let attach = |datapath: &mut Datapath| {
            let Datapath { folder, loaded, .. } = datapath;
            Mechanism::Clsact.attach(folder, loaded, &facts, false).unwrap()
        };
        let attachment = attach(&mut datapath);
        assert_eq!(attachment.check_first().unwrap(), Health::InPlace);
        drop((datapath, events));
        assert_eq!(attachment.check_first().unwrap(), Health::InPlace, "they stay");

        let (mut datapath, events) = Datapath::open(&config).unwrap();
        let swapped = attach(&mut datapath);
        assert_eq!(swapped.check_first().unwrap(), Health::InPlace);
        assert_eq!(netlink::filters(facts.ifindex, netlink::EGRESS_PARENT).unwrap().len(), 1);
        drop((datapath, events));

        detach(&config).unwrap();
        assert_eq!(swapped.check_first().unwrap(), Health::Detached { program: "from_workload" });
        assert!(!netlink::has_clsact(facts.ifindex).unwrap());
    });
}

#[test]
#[ignore = "needs root"]
fn unfit_interfaces_are_refused_by_name() {
    isolated(|_| {
        pair();
        ip("link add slave link near type macvlan");
        let error = interface::inspect("slave").unwrap_err().to_string();
        assert!(error.contains("slave") && error.contains("macvlan"), "{error}");
        assert_eq!(interface::inspect("near").unwrap().kind.as_deref(), Some("veth"));
        let found = interface::addresses("near").unwrap();
        assert!(found.contains(&address("192.0.2.1".parse().unwrap())), "{found:?}");
        assert!(found.contains(&address("2001:db8::1".parse().unwrap())), "{found:?}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_refused_packet_reaches_the_log_and_the_counters() {
    isolated(|root| {
        let (config, runtime) = (config(root, WORKLOAD), runtime());
        let _guard = runtime.enter();
        pair();
        let (datapath, mut events) = start(&config, false);
        let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::BindToDevice,
            &"near".into(),
        )
        .unwrap();
        ip("neighbor add 192.0.2.9 lladdr 02:00:00:00:00:09 dev near");
        // The hook's refusal may be reported to the sender.
        let _ = socket.send_to(b"x", "192.0.2.9:53");
        let seen = runtime.block_on(async {
            loop {
                let next = tokio::time::timeout(PATIENCE, events.rejected.recv()).await;
                let record = next.expect("a sampled drop").unwrap();
                if record.key.protocol == 17 && record.key.remote_port == 53 {
                    return record;
                }
            }
        });
        assert_eq!((seen.from_workload, seen.key.workload), (1, 1));
        let counters = datapath.maps.counters().unwrap();
        assert!(counters.get(&(1, seen.reason)).is_some_and(|count| *count > 0), "{counters:?}");
    });
}

fn tuple(v6: bool, remote_port: u16) -> FlowKey {
    let host = |last: u8| if v6 { [last; 16] } else { address([192, 0, 2, last].into()) };
    let (local, remote) = (host(1), host(2));
    FlowKey { workload: 1, protocol: 6, zero: 0, local_port: 9, remote_port, local, remote }
}

#[test]
#[ignore = "needs root"]
fn a_walk_sees_every_flow_once_and_only_what_is_over_goes() {
    isolated(|root| {
        let (config, runtime) = (config(root, ""), runtime());
        let _guard = runtime.enter();
        let (mut datapath, _events) = Datapath::open(&config).unwrap();
        let now = boot_ns();
        let live = FlowValue {
            peer: 7,
            deadline_ns: u64::MAX,
            seen_ns: now,
            state: flow_state::ESTABLISHED,
            flags: flow_flags::INITIATOR,
            port: 80,
            ..FlowValue::default()
        };
        let over = FlowValue { state: flow_state::RESET, seen_ns: 0, ..live };
        let expired = FlowValue { deadline_ns: 1, ..live };
        let renewed = FlowValue { peer: 8, ..expired };
        let kinds = [live, over, expired, renewed];
        for port in 0..4000 {
            let value = kinds[usize::from(port) % 4];
            datapath.maps.insert_flow(&tuple(port % 3 == 0, port), &value).unwrap();
        }
        let verdict = VerdictKey {
            peer: 8,
            epoch: 0,
            workload: 1,
            port: 0,
            protocol: 6,
            direction: direction::EGRESS,
            zero: [0; 6],
        };
        let action = verdict_action::ALLOW;
        let answer = VerdictValue { deadline_ns: u64::MAX, action, ..VerdictValue::default() };
        datapath.maps.verdicts.insert(&verdict, &answer).unwrap();
        let mut ports: Vec<u16> = Vec::new();
        datapath.maps.for_each_flow(|key, _| ports.push(key.remote_port)).unwrap();
        ports.sort_unstable();
        assert_eq!(ports, (0..4000).collect::<Vec<_>>());

        let mut garbage = 0;
        let mut cut = 0;
        for _ in 0..8 {
            let swept = datapath.sweep(now).unwrap();
            garbage += swept.garbage;
            cut += swept.cut;
        }
        assert_eq!((garbage, cut), (1000, 1000));
        datapath.sweep(now + 1_000_000_000).unwrap();
        let mut left: Vec<u16> = Vec::new();
        datapath.maps.for_each_flow(|key, _| left.push(key.remote_port)).unwrap();
        left.sort_unstable();
        let stays = (0..4000u16).filter(|port| matches!(port % 4, 0 | 3));
        assert_eq!(left, stays.collect::<Vec<_>>());
    });
}

/// A connection between `near` here and `far` in a namespace of its own, open before it is enforced.
struct Connection {
    here: TcpStream,
    there: mpsc::Receiver<std::io::Result<usize>>,
    say: mpsc::Sender<()>,
    peer: thread::JoinHandle<()>,
}

fn connect_before_enforcement(far: IpAddr) -> Connection {
    let (thread_id_sender, thread_id) = mpsc::channel();
    let (go_sender, go) = mpsc::channel::<()>();
    let (ready_sender, ready) = mpsc::channel();
    let (said, there) = mpsc::channel();
    let peer = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        thread_id_sender.send(gettid()).unwrap();
        go.recv().unwrap();
        ip("address add 192.0.2.2/24 dev far");
        ip("address add 2001:db8::2/64 dev far nodad");
        ip("link set far up");
        let listener = TcpListener::bind(SocketAddr::new(far, 80)).unwrap();
        ready_sender.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(b"b").unwrap();
        // Data that shows the datapath both directions.
        go.recv().unwrap();
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(b"d").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        said.send(stream.read(&mut byte)).unwrap();
    });
    ip("link add near type veth peer name far");
    ip(&format!("link set far netns {}", thread_id.recv().unwrap()));
    ip("address add 192.0.2.1/24 dev near");
    ip("address add 2001:db8::1/64 dev near nodad");
    ip("link set near up");
    go_sender.send(()).unwrap();
    ready.recv().unwrap();
    let mut here = connect(SocketAddr::new(far, 80));
    here.write_all(b"a").unwrap();
    here.read_exact(&mut [0]).unwrap();
    Connection { here, there, say: go_sender, peer }
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

fn is_reset(result: &std::io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn a_cut_flow_is_reset_at_both_ends(far: &'static str, workload: &'static str) {
    isolated(|root| {
        let (config, runtime) = (config(root, workload), runtime());
        let _guard = runtime.enter();
        let mut connection = connect_before_enforcement(far.parse().unwrap());
        let (mut datapath, _events) = start(&config, true);

        connection.say.send(()).unwrap();
        connection.here.write_all(b"c").unwrap();
        connection.here.read_exact(&mut [0]).unwrap();
        let live = datapath.live_flows().unwrap();
        let host_side = workload == BEHIND_VETH;
        let server = |key: &FlowKey| if host_side { key.local_port } else { key.remote_port };
        let flow = live.iter().find(|flow| server(&flow.key) == 80);
        let key = flow.unwrap_or_else(|| panic!("the connection was not adopted: {live:?}")).key;

        datapath.cut(&Sweep { flows: vec![key], ..Sweep::default() }).unwrap();
        let swept = datapath.sweep(boot_ns()).unwrap();
        assert_eq!((swept.cut, swept.failed), (1, 0), "{swept:?}");
        connection.here.set_read_timeout(Some(PATIENCE)).unwrap();
        let here = connection.here.read(&mut [0]);
        let there = connection.there.recv_timeout(PATIENCE).unwrap();
        let counters = datapath.maps.counters().unwrap();
        assert!(is_reset(&here), "the client's end: {here:?}, counters {counters:?}");
        assert!(is_reset(&there), "the server's end: {there:?}, counters {counters:?}");
        connection.peer.join().unwrap();

        assert!(datapath.maps.flow(&key).unwrap().is_some(), "kept until its resets have passed");
        datapath.sweep(boot_ns() + 1_000_000_000).unwrap();
        assert_eq!(datapath.maps.flow(&key).unwrap(), None);
        assert!(!datapath.is_sweeping());
    });
}

#[test]
#[ignore = "needs root"]
fn a_cut_ipv4_flow_is_reset_at_both_ends() {
    a_cut_flow_is_reset_at_both_ends("192.0.2.2", WORKLOAD);
}

#[test]
#[ignore = "needs root"]
fn a_cut_ipv6_flow_is_reset_at_both_ends() {
    a_cut_flow_is_reset_at_both_ends("2001:db8::2", WORKLOAD);
}

#[test]
#[ignore = "needs root"]
fn a_cut_ipv4_flow_of_a_workload_behind_a_veth_is_reset_at_both_ends() {
    a_cut_flow_is_reset_at_both_ends("192.0.2.2", BEHIND_VETH);
}

#[test]
#[ignore = "needs root"]
fn a_cut_ipv6_flow_of_a_workload_behind_a_veth_is_reset_at_both_ends() {
    a_cut_flow_is_reset_at_both_ends("2001:db8::2", BEHIND_VETH);
}

//! Where a test runs: namespaces, a veth pair, a configuration, and the datapath started with it.

use std::net::Ipv6Addr;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use enforcer_common::abi::{
    FlowKey, FlowKey4, FlowKey6, FlowValue, INTERFACE_SLOTS, InterfaceSlot, WORKLOAD_NAME_BYTES,
    WorkloadValue,
};
use enforcer_tests::need;
use enforcer_tests::need::kernel_version;
use enforcer_user::config::Config;
use enforcer_user::datapath::{Datapath, DatapathError, Events, Health, Mechanism};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::{Builder, Runtime};

/// How long anything may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The number of the one workload.
pub const WORKLOAD_ID: u16 = 1;

/// The workload is what has `near`.
pub const WORKLOAD: &str = r#"
[[workload]]
name = "web"
namespace = "/acme"
interface = "near"
"#;

/// The workload is what has the other end of `near`.
pub const BEHIND_VETH: &str = r#"
[[workload]]
name = "web"
namespace = "/acme"
interface = "near"
side = "host"
addresses = ["192.0.2.2", "2001:db8::2"]
"#;

/// Runs a test in namespaces of its own, with a folder for a bpf file system and inside a runtime. Fails without
/// root.
pub fn isolated(test: impl FnOnce(&Path, &Runtime) + Send) {
    need::environment().unwrap_or_else(|missing| panic!("{missing:#}"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        ip("link set lo up");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        test(path, &runtime);
    };
    let ended = thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|panic| resume_unwind(panic));
}

pub fn ip(arguments: &str) {
    need::run(Command::new("ip").args(arguments.split(' '))).unwrap();
}

/// A veth pair `near` and `far`, both up, with addresses of both families.
pub fn pair() {
    ip("link add near type veth peer name far");
    for (name, host) in [("near", 1), ("far", 2)] {
        ip(&format!("address add 192.0.2.{host}/24 dev {name}"));
        ip(&format!("address add 2001:db8::{host}/64 dev {name} nodad"));
        ip(&format!("link set {name} up"));
    }
}

pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// The configuration of an instance that pins below `root`, with `more` tables.
pub fn config(root: &Path, more: &str) -> Config {
    let text = format!(
        "instance = \"t\"\nbpf_root = \"{}\"\ntrust_domain = \"example.org\"\n[identity]\nmode = \
         \"psk\"\npsk_file = \"psk.key\"\n{more}",
        root.join("bpf").display()
    );
    Config::parse(&text, Path::new("test.toml"), root).unwrap()
}

/// The mechanisms that this kernel has by its version, the one that is to be used first.
pub fn mechanisms() -> &'static [Mechanism] {
    // Linux 6.6, commit e420bed02507.
    if kernel_version() >= (6, 6) {
        &[Mechanism::Tcx, Mechanism::Clsact]
    } else {
        &[Mechanism::Clsact]
    }
}

/// The mechanism that is to be used on this kernel.
pub fn own_mechanism() -> Mechanism {
    mechanisms()[0]
}

/// As [`tried_when_free`], where it must succeed.
pub fn when_free<T, E: Into<anyhow::Error>>(attempt: impl Fn() -> Result<T, E>) -> T {
    tried_when_free(attempt).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Does what needs an instance that another datapath has held until now. A process that another test starts meanwhile
/// has all our descriptors, the instance's lock among them, until it runs its program.
pub fn tried_when_free<T, E: Into<anyhow::Error>>(
    attempt: impl Fn() -> Result<T, E>,
) -> anyhow::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        let error: anyhow::Error = match attempt() {
            Ok(done) => return Ok(done),
            Err(error) => error.into(),
        };
        let is_held = matches!(error.downcast_ref(), Some(DatapathError::Busy(_)));
        if !is_held || Instant::now() >= end {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts the datapath of `config` and attaches its first workload, which begins with nothing to adopt.
pub fn start(config: &Config) -> (Datapath, Events) {
    start_by(config, Mechanism::probe(), 0)
}

/// The same by one mechanism. Connections older than the attachment are adopted until `adopt_until_ns`.
pub fn start_by(config: &Config, by: Mechanism, adopt_until_ns: u64) -> (Datapath, Events) {
    let (mut datapath, events) = when_free(|| Datapath::open_by(config, by));
    let value = workload_value(adopt_until_ns);
    datapath.maps.insert_workload(WORKLOAD_ID, &value).unwrap();
    datapath.add_workload(WORKLOAD_ID, &config.workloads[0]).unwrap();
    datapath.finish_start().unwrap();
    (datapath, events)
}

/// The workload, as far as a program must know it. Connections older than the attachment are adopted until
/// `adopt_until_ns`.
pub fn workload_value(adopt_until_ns: u64) -> WorkloadValue {
    WorkloadValue {
        identity: 1,
        credential: [0; 8],
        adopt_until_ns,
        rule_sets: [0; 2],
        flags: 0,
        address_set: 0,
        name: [0; WORKLOAD_NAME_BYTES],
    }
}

/// What the watchdog says of the workload.
pub fn health(datapath: &Datapath) -> Health {
    datapath.watch().unwrap().remove(0).1
}

/// Reads the only value of a pinned map.
pub fn read_single<V: Pod>(config: &Config, name: &str) -> V {
    Array::try_from(pinned(config, name)).unwrap().get(&0, 0).unwrap()
}

/// The slot that an interface has, or shares.
pub fn read_slot(config: &Config, ifindex: u32) -> InterfaceSlot {
    let slots = Array::try_from(pinned(config, "SLOTS")).unwrap();
    slots.get(&(ifindex & (INTERFACE_SLOTS - 1)), 0).unwrap()
}

/// Writes the only value of a pinned map.
pub fn write_single<V: Pod>(config: &Config, name: &str, value: V) {
    Array::try_from(pinned(config, name)).unwrap().set(0, value, 0).unwrap();
}

/// Writes flows, as only the programs do; those of IPv4 are between mapped addresses.
pub fn write_flows(config: &Config, flows: &[(FlowKey, FlowValue)]) {
    let (v4, v6) = (pinned(config, "FLOWS4"), pinned(config, "FLOWS6"));
    let mut flows4: HashMap<_, FlowKey4, FlowValue> = v4.try_into().unwrap();
    let mut flows6: HashMap<_, FlowKey6, FlowValue> = v6.try_into().unwrap();
    for (key, flow) in flows {
        if Ipv6Addr::from(key.local).to_ipv4_mapped().is_some() {
            flows4.insert(key.to_v4(), flow, 0).unwrap();
        } else {
            flows6.insert(key, flow, 0).unwrap();
        }
    }
}

fn pinned(config: &Config, name: &str) -> Map {
    let data = MapData::from_pin(config.pin_dir().join(name)).unwrap();
    Map::from_map_data(data).unwrap()
}

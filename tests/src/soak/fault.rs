//! What goes wrong, one thing after the other.

use std::time::Duration;

use anyhow::Result;
use enforcer_user::control::protocol::StatusReport;

use super::nodes::Change;
use super::scene::Scene;
use super::weather::Trouble;
use crate::topology::INTERFACE;

/// How long the wire is bad.
const SPELL: Duration = Duration::from_secs(3);
/// How long the link is down.
const OUTAGE: Duration = Duration::from_millis(1500);
/// How long the disk is full.
const FULL: Duration = Duration::from_secs(2);
/// The longest time without a daemon, in milliseconds.
const LONGEST_ABSENCE_MS: u64 = 3000;

/// A fault. Daemons are 0, the caller's, and 1, the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to a daemon, and another start a while later.
    Kill(usize),
    /// SIGTERM and another start.
    Restart(usize),
    /// Another policy file of the same meaning.
    Reload(usize),
    /// Another certificate for a daemon's node.
    Certificate(usize, Change),
    /// No room for what the server's daemon remembers.
    FullDisk,
    /// The wire loses, repeats or delays segments, of a thousand this many.
    Wire(Trouble, u32),
    /// The caller's interface goes down and comes up.
    LinkDown,
}

/// Of any minute.
const CALM: [Fault; 13] = [
    Fault::Kill(0),
    Fault::Kill(1),
    Fault::Restart(0),
    Fault::Restart(1),
    Fault::Reload(0),
    Fault::Reload(1),
    Fault::Certificate(0, Change::Renewal),
    Fault::Certificate(1, Change::Renewal),
    Fault::Certificate(0, Change::Key),
    Fault::Certificate(1, Change::Key),
    Fault::Certificate(0, Change::Authority),
    Fault::Certificate(1, Change::Authority),
    Fault::FullDisk,
];
/// Of rough minutes only.
const ROUGH: [Fault; 4] = [
    Fault::Wire(Trouble::Lost, 10),
    Fault::Wire(Trouble::Repeated, 50),
    Fault::Wire(Trouble::Late, 50),
    Fault::LinkDown,
];

impl Fault {
    /// A random one.
    pub fn choose(random: &mut fastrand::Rng, calm: bool) -> Self {
        let faults = if calm { CALM.to_vec() } else { [&CALM[..], &ROUGH].concat() };
        faults[random.usize(..faults.len())]
    }

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill(0) => "kill caller's",
            Self::Kill(_) => "kill server's",
            Self::Restart(0) => "restart caller's",
            Self::Restart(_) => "restart server's",
            Self::Reload(0) => "reload caller's",
            Self::Reload(_) => "reload server's",
            Self::Certificate(0, change) => change.names()[0],
            Self::Certificate(_, change) => change.names()[1],
            Self::FullDisk => "full disk",
            Self::Wire(Trouble::Lost, _) => "loss",
            Self::Wire(Trouble::Repeated, _) => "repetition",
            Self::Wire(Trouble::Late, _) => "delay",
            Self::LinkDown => "link down",
        }
    }

    /// Lets it happen, and waits until it is over.
    pub fn happen(self, scene: &mut Scene, random: &mut fastrand::Rng) -> Result<()> {
        match self {
            Self::Kill(which) => {
                let daemon = &mut scene.daemons[which];
                daemon.kill()?;
                std::thread::sleep(Duration::from_millis(random.u64(..LONGEST_ABSENCE_MS)));
                daemon.launch()
            }
            Self::Restart(which) => {
                scene.daemons[which].terminate()?;
                scene.daemons[which].launch()
            }
            Self::Reload(which) => {
                let text = Scene::policy(random.u64(..));
                scene.daemons[which].write_policy(&text)?;
                scene.daemons[which].reload()
            }
            Self::Certificate(which, change) => {
                let Scene { daemons, nodes, .. } = scene;
                nodes.replace(which, change, &daemons[which], &daemons[1 - which])
            }
            Self::FullDisk => full_disk(scene),
            Self::Wire(trouble, permille) => {
                scene.weather.set(trouble, permille);
                std::thread::sleep(SPELL);
                scene.weather.set(trouble, 0);
                Ok(())
            }
            Self::LinkDown => link_down(scene),
        }
    }
}

/// Until the daemon has written what it must remember: killed before, it would have to reset its connections.
fn full_disk(scene: &Scene) -> Result<()> {
    scene.disk.fill()?;
    std::thread::sleep(FULL);
    scene.disk.make_room()?;
    scene.daemons[1].wait_status(|status| {
        serde_json::from_value::<StatusReport>(status.clone()).is_ok_and(|s| s.problems.is_empty())
    })
}

fn link_down(scene: &Scene) -> Result<()> {
    scene.weather.link_down();
    scene.caller.ip(&format!("link set {INTERFACE} down"))?;
    std::thread::sleep(OUTAGE);
    scene.caller.ip(&format!("link set {INTERFACE} up"))?;
    scene.weather.link_up();
    Ok(())
}

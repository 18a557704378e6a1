//! NFQUEUE: the kernel asks a program in userspace, which accepts whatever it is asked.

use anyhow::{Context, Result};
use nfq::{Queue, Verdict};

use super::companion::{Companion, folder, program};
use crate::host::Host;
use crate::need;
use crate::topology::TwoHosts;

/// The queue of each host.
const QUEUE: u16 = 0;
/// Bytes of a packet that the program is shown: headers.
const SHOWN: u16 = 128;
/// Packets that may wait for a verdict.
const WAITING_MAX: u32 = 8192;

/// What is asked of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Queued {
    /// New connections, once on each host: as the client's leave and as the server's arrive.
    New,
    /// Every packet, in and out.
    All,
}

/// Puts programs and rules in place. The rules are those of iptables, as not every kernel has the nftables expression.
pub(in crate::bench) fn stand(net: &TwoHosts, queued: Queued) -> Result<Vec<Companion>> {
    let hosts = [(&net.client, "OUTPUT"), (&net.server, "INPUT")];
    let mut companions = Vec::new();
    for (host, new_at) in hosts {
        companions.push(start(host)?);
        match queued {
            Queued::New => ask(host, new_at, &["-m", "conntrack", "--ctstate", "NEW"])?,
            Queued::All => {
                ["INPUT", "OUTPUT"].iter().try_for_each(|chain| ask(host, chain, &[]))?;
            }
        }
    }
    Ok(companions)
}

fn ask(host: &Host, chain: &str, of: &[&str]) -> Result<()> {
    let mut command = host.command(program("iptables-legacy", "iptables")?);
    command.args(["-A", chain, "-p", "tcp"]).args(of).args(["-j", "NFQUEUE", "--queue-num"]);
    need::run(command.arg(QUEUE.to_string())).map(drop)
}

/// This very program, started anew in the host's namespace.
fn start(host: &Host) -> Result<Companion> {
    let (folder, own) = (folder()?, std::env::current_exe()?);
    let mut command = host.command(own);
    let bound = folder.path().join("bound");
    command.arg("--accept-queue").arg(&bound);
    Companion::start("the program behind the queue", &mut command, folder)?
        .wait(|| Ok(bound.exists()))
}

/// Accepts what is queued, until it is killed; makes the file when it begins.
pub fn accept_all(bound: &std::path::Path) -> Result<()> {
    let mut queue = Queue::open().context("no queue (NETFILTER_NETLINK_QUEUE)")?;
    queue.bind(QUEUE).context("the queue cannot be bound")?;
    queue.set_copy_range(QUEUE, SHOWN)?;
    queue.set_queue_max_len(QUEUE, WAITING_MAX)?;
    // Otherwise the kernel cuts large segments into packets before it asks.
    queue.set_recv_gso(QUEUE, true)?;
    std::fs::write(bound, "")?;
    loop {
        let mut message = queue.recv().context("nothing can be received")?;
        message.set_verdict(Verdict::Accept);
        queue.verdict(message).context("no verdict can be given")?;
    }
}

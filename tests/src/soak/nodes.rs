//! The nodes' certificates, and how they are replaced while everything runs: by another for the same key, with another
//! key, by that of another authority.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_user::control::protocol::{IdentityReport, StatusReport, WorkloadReport};

use crate::enforcer::Enforcer;
use crate::keys::{NodeFiles, NodeKey, NodeKeys, Pki};

/// How long a daemon may take to sign credentials by another certificate.
const TAKEN_OVER: Duration = Duration::from_mins(1);
/// How long the other daemon may take to meet a new credential, under load.
const VERIFIED: Duration = Duration::from_mins(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Every certificate counts for another number of days behind these, so that it is told apart by its end.
const DAYS: u32 = 30;
/// How many numbers of days there are before they begin anew.
const LIFETIMES: u32 = 300;

/// How a node's certificate is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Another for the same key, by the authority of the one before.
    Renewal,
    /// Another key too.
    Key,
    /// One of the other authority.
    Authority,
}

impl Change {
    /// Its names in reports: of the caller's, of the server's.
    pub const fn names(self) -> [&'static str; 2] {
        match self {
            Self::Renewal => ["certificate caller's", "certificate server's"],
            Self::Key => ["certificate and key caller's", "certificate and key server's"],
            Self::Authority => ["other authority caller's", "other authority server's"],
        }
    }
}

/// The nodes of daemons, in their order, and the two authorities that all of them trust.
#[derive(Debug)]
pub struct Nodes {
    authorities: [Pki; 2],
    all: Vec<Node>,
    /// Certificates that were replaced.
    replaced: u32,
}

#[derive(Debug)]
struct Node {
    name: String,
    namespace: String,
    keys: NodeKeys,
    /// Which authority signed its certificate.
    authority: usize,
}

impl Nodes {
    /// Makes the authorities.
    pub fn new() -> Result<Self> {
        Ok(Self { authorities: [Pki::init()?, Pki::init()?], all: Vec::new(), replaced: 0 })
    }

    /// Makes another node.
    pub fn add(&mut self, name: &str, namespace: &str) -> Result<NodeKeys> {
        let mut keys = self.authorities[0].node(name, namespace)?;
        if let NodeFiles::Pki { authorities, .. } = &mut keys.files {
            authorities.push(self.authorities[1].authority());
        }
        let (name, namespace) = (name.to_owned(), namespace.to_owned());
        self.all.push(Node { name, namespace, keys: keys.clone(), authority: 0 });
        Ok(keys)
    }

    /// Replaces the certificate of a daemon's node, and waits until its workload's credential is signed by it and `other`,
    /// which traffic reaches, has verified that.
    pub fn replace(
        &mut self,
        which: usize,
        change: Change,
        daemon: &Enforcer,
        other: &Enforcer,
    ) -> Result<()> {
        let before = Signed::by(daemon)?;
        self.put(which, change)?;
        wait(TAKEN_OVER, "a daemon signs by its new certificate", || {
            let now = Signed::by(daemon)?;
            let taken_over = now.problems.is_empty() && now.end != before.end;
            Ok(taken_over && now.credential != before.credential)
        })?;
        wait(VERIFIED, "the other end has verified the new credential", || {
            // The credential of now: it is renewed meanwhile.
            let credential = Signed::by(daemon)?.credential;
            let known: Vec<IdentityReport> = other.ask(&["identities"])?;
            Ok(known.iter().any(|peer| Some(&peer.handle) == credential.as_ref()))
        })
    }

    fn put(&mut self, which: usize, change: Change) -> Result<()> {
        let node = self.all.get_mut(which).with_context(|| format!("no node {which}"))?;
        if change == Change::Authority {
            node.authority = 1 - node.authority;
        }
        self.replaced += 1;
        let key = if change == Change::Key { NodeKey::Fresh } else { NodeKey::Kept };
        let days = DAYS + self.replaced % LIFETIMES;
        let about = (node.name.as_str(), node.namespace.as_str());
        self.authorities[node.authority].replace(&node.keys, about, key, days)
    }
}

fn wait(limit: Duration, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        ensure!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// By what a daemon signs.
struct Signed {
    /// When its certificate ends.
    end: Option<u64>,
    /// The handle of its only workload's credential.
    credential: Option<String>,
    problems: Vec<String>,
}

impl Signed {
    fn by(daemon: &Enforcer) -> Result<Self> {
        let status: StatusReport = daemon.ask(&["status"])?;
        let mut workloads: Vec<WorkloadReport> = daemon.ask(&["workloads"])?;
        let credential = workloads.pop().and_then(|workload| workload.credential_handle);
        let end = status.node_certificate_expires_unix;
        Ok(Self { end, credential, problems: status.problems })
    }
}

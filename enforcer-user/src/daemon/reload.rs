//! Configuration, policy and trust loaded anew: read off the event loop, put in force on it.
//!
//! What is refused changes nothing: the policy before it holds, and the status says why.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::backend::Reply;
use super::clock::now;
use super::core::Core;
use super::files;
use super::start::mesh;
use super::tree::{self, Written};
use crate::config::Config;
use crate::control::protocol::{PolicyChange, ReloadReport};
use crate::control::{Answer, BackendError};
use crate::engine::{Done, Input};
use crate::identity::{Issuer, Trust, Verifier};
use crate::materials;
use crate::policy::Policy;

/// Reloads asked for by the control socket that wait for one under way.
const MAX_WAITING: usize = 64;
/// Changes of the policy tree that wait.
const MAX_WANTED: usize = 8;

/// Who asked for a reload.
type Asked = Vec<Reply<ReloadReport>>;

/// What was read.
#[derive(Debug)]
pub(super) struct Loaded {
    /// What the files below were named by.
    config: Arc<Config>,
    /// What of the configuration waits for a start, or why the configuration was refused.
    restart: Result<Vec<String>, String>,
    policy: Result<Policy, String>,
    trust: Result<Option<NewTrust>, String>,
    /// What was written for it.
    written: Option<Written>,
}

impl Loaded {
    /// Reading the files panicked: what holds goes on to hold, and the next reload is not held up.
    fn panicked(config: Arc<Config>) -> Self {
        let problem = "reading it panicked, which is a defect; the log says where".to_owned();
        let refused = || Err(problem.clone());
        Self {
            config,
            restart: refused(),
            policy: Err(problem.clone()),
            trust: Err(problem.clone()),
            written: None,
        }
    }
}

/// Trust that differs from what is in use.
#[derive(Debug)]
struct NewTrust {
    trust: Trust,
    /// What this node signs with from now on, or why it keeps what it has: whom it believes changes all the same.
    issuer: Result<Issuer, String>,
    files: Fingerprint,
}

/// Hash of the files that trust comes from; it never leaves the process.
type Fingerprint = [u8; 32];

/// The state of reloading.
#[derive(Debug)]
pub(super) struct Reloading {
    /// Files changed.
    pub(super) changes: mpsc::Receiver<()>,
    /// What was read, or why nothing was.
    pub(super) loaded: mpsc::Receiver<Result<Loaded, BackendError>>,
    sender: mpsc::Sender<Result<Loaded, BackendError>>,
    running: bool,
    /// Changes of the policy tree that wait for what is under way.
    wanted: VecDeque<(PolicyChange, Reply<ReloadReport>)>,
    /// One more is wanted: something changed while files were read.
    again: bool,
    asked: Asked,
    next_asked: Asked,
    files: Fingerprint,
}

impl Reloading {
    /// Begins to watch. Must be called within a tokio runtime.
    pub(super) fn start(config: &Config) -> Self {
        let (sender, loaded) = mpsc::channel(1);
        Self {
            changes: files::watch(config),
            loaded,
            sender,
            running: false,
            wanted: VecDeque::new(),
            again: false,
            asked: Vec::new(),
            next_asked: Vec::new(),
            files: fingerprint(config),
        }
    }
}

impl Core {
    /// Begins to load, or notes that it must be done once more.
    pub(super) fn reload(&mut self, reply: Option<Reply<ReloadReport>>) {
        let state = &mut self.reloading;
        if state.running {
            state.again = true;
            if state.next_asked.len() < MAX_WAITING {
                state.next_asked.extend(reply);
            } else if let Some(reply) = reply {
                let full = "too many reloads wait; try again".to_owned();
                // Who asked may be gone.
                let _ = reply.send(Err(BackendError::Unavailable(full)));
            }
            return;
        }
        state.running = true;
        state.asked.extend(reply);
        let (config, sender, files) = (Arc::clone(&self.config), state.sender.clone(), state.files);
        let policy = self.engine.policy().cloned();
        tokio::task::spawn_blocking(move || {
            let loaded = catch_unwind(AssertUnwindSafe(|| load(&config, files, policy.as_deref())));
            // Nobody receives when the daemon stops.
            let _ = sender.blocking_send(Ok(loaded.unwrap_or_else(|_| Loaded::panicked(config))));
        });
    }

    /// Begins to change a file of the policy tree and to load what is then there, one change after the other.
    pub(super) fn change_policy(&mut self, change: PolicyChange, reply: Reply<ReloadReport>) {
        let state = &mut self.reloading;
        if state.running {
            if state.wanted.len() < MAX_WANTED {
                state.wanted.push_back((change, reply));
            } else {
                let full = "too many changes wait; try again".to_owned();
                // Who asked may be gone.
                let _ = reply.send(Err(BackendError::Unavailable(full)));
            }
            return;
        }
        state.running = true;
        state.asked.push(reply);
        let (config, sender, files) = (Arc::clone(&self.config), state.sender.clone(), state.files);
        let policy = self.engine.policy().cloned();
        tokio::task::spawn_blocking(move || {
            let change = || {
                let (policy, written) = tree::write(&config, policy.as_deref(), &change)?;
                let loaded = load(&config, files, Some(&policy));
                if loaded
                    .policy
                    .as_ref()
                    .is_ok_and(|found| found.generation() != policy.generation())
                {
                    written.undo();
                    let text = "the policy was changed by somebody else at the same time; look and try again";
                    return Err(BackendError::Unavailable(text.to_owned()));
                }
                Ok(Loaded { written: Some(written), ..loaded })
            };
            let loaded = catch_unwind(AssertUnwindSafe(change));
            // Nobody receives when the daemon stops.
            let _ = sender.blocking_send(loaded.unwrap_or_else(|_| Ok(Loaded::panicked(config))));
        });
    }

    /// Puts in force what was read, and goes on to what waits.
    pub(super) fn on_loaded(&mut self, loaded: Result<Loaded, BackendError>) {
        self.reloading.running = false;
        let asked = std::mem::take(&mut self.reloading.asked);
        match loaded {
            Ok(loaded) => self.enforce(loaded, asked),
            Err(refused) => answer_all(asked, &Err(refused)),
        }
        crate::heap::trim();
        // First what may take away rights and trust, then what was asked for; who gave up waiting gets nothing changed.
        if std::mem::take(&mut self.reloading.again) {
            self.reloading.asked = std::mem::take(&mut self.reloading.next_asked);
            self.reload(None);
            return;
        }
        while let Some((change, reply)) = self.reloading.wanted.pop_front() {
            if !reply.is_closed() {
                self.change_policy(change, reply);
                return;
            }
        }
    }

    fn enforce(&mut self, loaded: Loaded, asked: Asked) {
        let written = loaded.written;
        // A configuration is taken over whole: with a policy that does not load, nothing of it is.
        if loaded.policy.is_ok() || loaded.config == self.config {
            self.set_trust(loaded.trust);
        }
        let answer = loaded.policy.and_then(|policy| self.set_config(&loaded.config, &policy));
        self.tell_restart(loaded.restart);
        match &answer {
            Ok(report) if report.changed => {
                self.problems.remove("policy");
                tracing::info!(epoch = report.epoch, cut = report.flows_cut, "policy in force");
            }
            Ok(_) => drop(self.problems.remove("policy")),
            Err(problem) => {
                tracing::error!("{problem}");
                if let Some(written) = written {
                    // What is in force is what was there before; so is what the next start reads.
                    written.undo();
                } else {
                    self.problems.insert("policy", problem.clone());
                }
            }
        }
        answer_all(asked, &answer.map_err(BackendError::BadRequest));
    }

    /// Puts a configuration in force with its policy: the mesh and the rules in one step, then the
    /// workloads. If the policy is refused, all of it is.
    fn set_config(
        &mut self,
        config: &Arc<Config>,
        policy: &Policy,
    ) -> Result<ReloadReport, String> {
        let policy = self.overrides.over(policy)?;
        let before = Arc::clone(&self.config);
        let forced = before.mesh != config.mesh;
        if forced {
            self.tell(Input::SetMesh(mesh(config)));
        }
        let answer = self.set_policy(Arc::new(policy), forced);
        if answer.is_err() && forced {
            self.tell(Input::SetMesh(mesh(&before)));
        }
        let answer = answer?;
        self.config = Arc::clone(config);
        self.change_workloads(&before);
        if before != *config {
            // Other files may have to be watched, and may have changed before they were.
            self.reloading.changes = files::watch(config);
            self.reloading.again = true;
            tracing::info!(file = %config.file.display(), "configuration in force");
        }
        Ok(answer)
    }

    /// Says what of the configuration waits for a start, once, and keeps it in the status.
    fn tell_restart(&mut self, restart: Result<Vec<String>, String>) {
        let problem = match restart {
            Ok(fields) if fields.is_empty() => {
                self.problems.remove("configuration");
                return;
            }
            Ok(fields) => format!("{} changed: restart to apply", fields.join(", ")),
            Err(problem) => format!("{problem}; the one before it holds"),
        };
        if self.problems.get("configuration") != Some(&problem) {
            tracing::warn!("configuration: {problem}");
        }
        self.problems.insert("configuration", problem);
    }

    pub(super) fn set_policy(
        &mut self,
        policy: Arc<Policy>,
        forced: bool,
    ) -> Result<ReloadReport, String> {
        let current = self.engine.policy().map(|policy| policy.generation());
        let changed = forced || current != Some(policy.generation());
        let cut = self.engine.counters().done(Done::FlowsCut);
        let rejudged = self.engine.status().verdicts as u64;
        if changed {
            let live = self.datapath.live_flows().map_err(|error| error.to_string())?;
            let failures = self.engine.counters().done(Done::PolicyFailures);
            let done = self.handle(Input::SetPolicy { policy, live });
            done.map_err(|error| format!("{error:#}"))?;
            if self.engine.counters().done(Done::PolicyFailures) > failures {
                let problem = self.problems.remove("engine");
                return Err(problem.unwrap_or_else(|| "the policy was refused".to_owned()));
            }
            self.judge_late_flows();
        }
        let status = self.engine.status();
        Ok(ReloadReport {
            changed,
            epoch: status.epoch.into(),
            policy_generation: status.policy_generation,
            rejudged: if changed { rejudged } else { 0 },
            flows_cut: self.engine.counters().done(Done::FlowsCut) - cut,
        })
    }

    /// Flows that were opened between the look at the flow tables and the flip.
    fn judge_late_flows(&mut self) {
        match self.questions_in_use(Some(self.engine.status().epoch)) {
            Ok(questions) => self.tell(Input::Unjudged(questions)),
            Err(error) => self.log.failure(&error),
        }
    }

    fn set_trust(&mut self, trust: Result<Option<NewTrust>, String>) {
        match trust {
            Ok(None) => drop(self.problems.remove("trust")),
            Ok(Some(NewTrust { trust, issuer, files })) => {
                self.tell(Input::SetVerifier(Arc::new(Verifier::new(trust))));
                match issuer {
                    Ok(issuer) => {
                        self.problems.remove("trust");
                        self.reloading.files = files;
                        self.tell(Input::SetIssuer(Arc::new(issuer)));
                        tracing::info!("keys and certificates loaded anew");
                    }
                    // The files do not count as loaded, so that the next reload tells it again.
                    Err(problem) => {
                        self.note_trust(format!(
                            "{problem}; it signs with the one before, revocations are in force"
                        ));
                    }
                }
            }
            Err(problem) => self.note_trust(format!("{problem}; those before hold")),
        }
    }

    fn note_trust(&mut self, problem: String) {
        tracing::error!("keys and certificates: {problem}");
        self.problems.insert("trust", problem);
    }
}

fn answer_all(asked: Asked, answer: &Answer<ReloadReport>) {
    for reply in asked {
        // Who asked may be gone.
        let _ = reply.send(answer.clone());
    }
}

/// `earlier` is the policy in force: what it says in the same words is not checked again.
fn load(running: &Arc<Config>, used: Fingerprint, earlier: Option<&Policy>) -> Loaded {
    let (config, restart) = match Config::load(&running.file) {
        Ok(new) => {
            let new = new.on_node(&running.node_labels);
            let taken = running.taking_over(&new);
            let restart = taken.needs_restart(&new);
            (if taken == **running { Arc::clone(running) } else { Arc::new(taken) }, Ok(restart))
        }
        Err(error) => (Arc::clone(running), Err(error.to_string())),
    };
    let files = fingerprint(&config);
    let trust = if files == used {
        Ok(None)
    } else {
        materials::load_trust(&config, now().unix_seconds()).map_err(|error| error.to_string()).map(
            |(trust, issuer)| {
                let issuer = check_node(&config, &issuer).map(|()| issuer);
                Some(NewTrust { trust, issuer, files })
            },
        )
    };
    let policy = materials::load_policy_after(earlier, &config).map_err(|error| error.to_string());
    Loaded { config, restart, policy, trust, written: None }
}

/// Its node's labels are part of each workload's identity, which stays what it is while the daemon runs.
fn check_node(config: &Config, issuer: &Issuer) -> Result<(), String> {
    let (before, after) = (&config.node_labels, issuer.node_labels());
    if before == after {
        return Ok(());
    }
    Err(format!(
        "identity.node_certificate: the node's labels were {before:?} and are {after:?}: restart the daemon"
    ))
}

/// A file that cannot be read counts as empty here; loading it tells why.
fn fingerprint(config: &Config) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    for file in config.identity.files() {
        let bytes = zeroize::Zeroizing::new(std::fs::read(file).unwrap_or_default());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    }
    hasher.finalize().into()
}

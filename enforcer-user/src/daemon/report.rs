//! Answers of the control socket, from the engine's state and the kernel's maps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use enforcer_common::abi::{
    ABI_VERSION, Address, DropReason, Event, FlowKey, FlowValue, direction, flow_flags, flow_state,
};

use super::attach::{Problem, Unit};
use super::backend::Request;
use super::clock::now;
use super::core::Core;
use crate::config::TrustConfig;
use crate::control::protocol::{
    AttachMethod, AttachReport, CountersReport, ExplainReport, ExplainRequest, FlowQuery,
    FlowReport, FlowsReport, HostReport, IdentityReport, ObservedReport, PolicyFileReport,
    StatusReport, WorkloadReport,
};
use crate::control::{Answer, BackendError};
use crate::datapath::{DatapathError, GuardMode, Mechanism, live_flow};
use crate::engine::{HostRecord, LiveFlow, Question, SECOND_NS, ip_address};
use crate::explain::{Known, as_request, explain, explained};
use crate::identity::Identity;
use crate::learn::MAX_ADDRESSES;
use crate::policy::{Action, Direction, Policy, Protocol};

impl Core {
    /// Answers a question of the control socket. Who asked may be gone by then.
    pub(super) fn on_request(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Workloads(reply) => drop(reply.send(Ok(self.workloads()))),
            Request::Flows(query, reply) => drop(reply.send(self.flows(&query))),
            Request::Hosts(reply) => drop(reply.send(Ok(self.host_reports()))),
            Request::Identities(reply) => drop(reply.send(Ok(self.identities()))),
            Request::Counters(reply) => drop(reply.send(self.counters())),
            Request::Explain(request, reply) => drop(reply.send(self.explain(&request))),
            Request::Reload(reply) => self.reload(Some(reply)),
            Request::PolicyFiles(reply) => drop(reply.send(self.policy_files())),
            Request::Observed(reply) => drop(reply.send(Ok(self.denials(true)))),
            Request::Denied(reply) => drop(reply.send(Ok(self.denials(false)))),
            Request::Learned(reply) => drop(reply.send(Ok(self.engine.learned_report()))),
            Request::ForgetLearned(reply) => drop(reply.send(Ok(self.forget_learned()))),
            Request::Overrides(reply) => drop(reply.send(Ok(self.overrides.list().to_vec()))),
            Request::Override(uid, request, reply) => {
                drop(reply.send(self.override_policy(uid, request)));
            }
            Request::EndOverride(uid, number, reply) => {
                drop(reply.send(self.end_override(uid, number)));
            }
            Request::ChangePolicy(change, reply) => self.change_policy(change, reply),
        }
    }

    /// Why not everything is enforced; empty when it is.
    pub(super) fn reasons_not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for unit in &self.units {
            let (name, interface) = (self.name_of(unit), &unit.workload.interface);
            match &unit.problem {
                None | Some(Problem::NoInterface(_)) => {}
                Some(problem) => {
                    let problem = problem.text();
                    reasons.push(format!("workload {name:?} on {interface}: {problem}"));
                }
            }
        }
        let now = now();
        for workload in self.engine.workloads(now) {
            if workload.credential.is_none() {
                let name = self.engine.name_of(&workload.identity);
                reasons.push(format!("workload {name:?}: no credential"));
            }
        }
        if self.engine.policy().is_none() {
            reasons.push("no policy is loaded".to_owned());
        }
        reasons
    }

    /// Workloads whose interface is not there: nothing can pass, and they are attached when it comes.
    pub(super) fn waiting(&self) -> Vec<String> {
        let waits = |unit: &&Unit| matches!(unit.problem, Some(Problem::NoInterface(_)));
        self.units
            .iter()
            .filter(waits)
            .map(|unit| {
                let (name, interface) = (self.name_of(unit), &unit.workload.interface);
                format!("workload {name:?} for its interface {interface}")
            })
            .collect()
    }

    /// Questions for whose answers live flows stand, each once: of all flows, or of those that were
    /// not judged under the epoch.
    pub(super) fn questions_in_use(
        &self,
        unjudged_under: Option<u32>,
    ) -> Result<Vec<Question>, DatapathError> {
        let mut questions = HashSet::new();
        self.datapath.maps.for_each_flow(|key, value| {
            let wanted = unjudged_under.is_none_or(|epoch| value.epoch != epoch);
            if wanted && value.peer != 0 && value.state != flow_state::CUT {
                questions.insert(live_flow(key, value).question());
            }
        })?;
        Ok(questions.into_iter().collect())
    }

    /// Far ends of flows that network rules allow to workloads whose rules name hosts.
    pub(super) fn hosts_in_use(&self) -> Result<Vec<(u16, IpAddr)>, DatapathError> {
        let asking = self.engine.asking_names();
        let mut used = HashSet::new();
        if asking.is_empty() {
            return Ok(Vec::new());
        }
        self.datapath.maps.for_each_flow(|key, value| {
            if value.peer == 0 && asking.contains(&key.workload) {
                used.insert((key.workload, ip_address(&key.remote)));
            }
        })?;
        Ok(used.into_iter().collect())
    }

    /// Flows without identity of workloads that learn, one of each far end and port. Who opened what is older than the
    /// attachment is not known.
    pub(super) fn plain_in_use(&self) -> Result<Vec<LiveFlow>, DatapathError> {
        let learning = self.engine.learning();
        let mut used = HashMap::new();
        if learning.is_empty() {
            return Ok(Vec::new());
        }
        self.datapath.maps.for_each_flow(|key, value| {
            let is_known = value.flags & flow_flags::ADOPTED == 0 && value.state != flow_state::CUT;
            if value.peer == 0 && is_known && learning.contains(&key.workload) {
                let flow = live_flow(key, value);
                let alike = (key.workload, flow.far(), flow.service());
                // More is not remembered.
                if used.len() < MAX_ADDRESSES || used.contains_key(&alike) {
                    used.insert(alike, flow);
                }
            }
        })?;
        Ok(used.into_values().collect())
    }

    fn status(&self) -> Answer<StatusReport> {
        let status = self.engine.status();
        let mut flows = 0;
        self.datapath.maps.for_each_flow(|_, _| flows += 1).map_err(|error| internal(&error))?;
        let mut attempts = 0;
        let maps = &self.datapath.maps;
        let counted = [&maps.attempts, &maps.crowd]
            .into_iter()
            .try_for_each(|table| table.for_each(|_, _| attempts += 1));
        counted.map_err(|error| internal(&error))?;
        let reasons_not_ready = self.reasons_not_ready();
        let pki = matches!(self.config.identity.trust, TrustConfig::Pki { .. });
        let policy = self.engine.policy();
        Ok(StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            instance: self.config.instance.clone(),
            mode: if pki { "pki" } else { "psk" }.to_owned(),
            trust_domain: self.config.trust_domain.clone(),
            pid: std::process::id(),
            ready: reasons_not_ready.is_empty(),
            reasons_not_ready,
            waiting: self.waiting(),
            problems: self.problems(),
            uptime_seconds: self.started.elapsed().as_secs(),
            kernel: self.kernel.clone(),
            attach: self.units.iter().map(|unit| self.attachment(unit)).collect(),
            epoch: status.epoch.into(),
            policy_generation: status.policy_generation,
            overrides: self.overrides.list().iter().map(ToString::to_string).collect(),
            policies: policy.map_or(0, |policy| policy.set().rules().len() as u64),
            network_rules: policy.map_or(0, |policy| policy.network_rules().len() as u64),
            workloads: status.workloads as u64,
            flows,
            attempts,
            peers: status.peers as u64,
            verdicts: status.verdicts as u64,
            node_certificate_expires_unix: self.engine.node_certificate_end(),
        })
    }

    fn attachment(&self, unit: &Unit) -> AttachReport {
        AttachReport {
            workload: self.name_of(unit),
            interface: unit.workload.interface.clone(),
            mode: unit.workload.mode.as_str().to_owned(),
            method: self.mechanism(unit.id).map(method),
            guard: unit
                .workload
                .guard
                .then(|| self.guard_mode(unit.id).map_or("missing", GuardMode::as_str).to_owned()),
        }
    }

    /// What does not work, though nothing that is enforced hangs on it.
    fn problems(&self) -> Vec<String> {
        let areas = self.problems.iter().map(|(area, text)| format!("{area}: {text}"));
        let guards = self.units.iter().filter_map(|unit| {
            let name = self.name_of(unit);
            unit.unguarded.as_ref().map(|text| format!("guard of {name}: {text}"))
        });
        areas.chain(guards).collect()
    }

    fn workloads(&self) -> Vec<WorkloadReport> {
        let views = self.engine.workloads(now());
        self.units
            .iter()
            .map(|unit| {
                let view = views.iter().find(|view| view.id == unit.id);
                let credential = view.and_then(|view| view.credential);
                let identity = &unit.workload.identity;
                WorkloadReport {
                    name: identity.name().to_owned(),
                    id: unit.id.into(),
                    spiffe_id: identity.spiffe_id(),
                    labels: identity.labels().clone(),
                    attributes: identity.description(),
                    interface: unit.workload.interface.clone(),
                    side: unit.workload.side.as_str().to_owned(),
                    addresses: self.addresses(unit.id),
                    mode: unit.workload.mode.as_str().to_owned(),
                    credential_handle: credential.map(|(handle, _)| hex(&handle)),
                    credential_expires_unix: credential.map(|(_, end)| end),
                    attached: self.mechanism(unit.id).map(method),
                }
            })
            .collect()
    }

    /// The addresses that the kernel lets a workload use.
    fn addresses(&self, id: u16) -> Vec<String> {
        let mut addresses = Vec::new();
        let read = self.datapath.maps.addresses.for_each(|key, _| {
            if key.workload == id {
                addresses.push(ip_address(&key.address));
            }
        });
        if let Err(error) = read {
            tracing::warn!(%error, "addresses not read");
        }
        addresses.sort_unstable();
        addresses.iter().map(ToString::to_string).collect()
    }

    fn flows(&self, query: &FlowQuery) -> Answer<FlowsReport> {
        let wanted = match &query.workload {
            None => None,
            Some(name) => Some(self.engine.workload_id(name).ok_or_else(|| self.unknown(name))?),
        };
        let mut found: Vec<(FlowKey, FlowValue)> = Vec::new();
        let mut total = 0;
        let visited = self.datapath.maps.for_each_flow(|key, value| {
            if wanted.is_none_or(|id| id == key.workload) {
                total += 1;
                if found.len() < query.limit {
                    found.push((*key, *value));
                }
            }
        });
        visited.map_err(|error| internal(&error))?;
        let now_ns = now().boot_ns;
        let flows = found.iter().map(|(key, value)| self.flow(key, value, now_ns)).collect();
        Ok(FlowsReport { flows, total })
    }

    /// What its workload is called here.
    fn name_of(&self, unit: &Unit) -> String {
        self.engine.name_of(&unit.workload.identity)
    }

    fn unknown(&self, name: &str) -> BackendError {
        let names: Vec<String> = self.units.iter().map(|unit| self.name_of(unit)).collect();
        BackendError::BadRequest(format!(
            "no workload, or more than one, is named {name:?}; those here are {}",
            names.join(", ")
        ))
    }

    #[cfg_attr(
        feature = "abi-next",
        expect(clippy::useless_conversion, reason = "that layout counts packets in 64 bits")
    )]
    fn flow(&self, key: &FlowKey, value: &FlowValue, now_ns: u64) -> FlowReport {
        let live = live_flow(key, value);
        let egress = live.direction == direction::EGRESS;
        let peer = || {
            let known = self.engine.identity(value.peer).map(Identity::spiffe_id);
            known.unwrap_or_else(|| format!("unknown identity {:016x}", value.peer))
        };
        let workload = self.engine.workload_identity(key.workload);
        FlowReport {
            workload: workload
                .map_or_else(|| key.workload.to_string(), |id| self.engine.name_of(id)),
            direction: if egress { "egress" } else { "ingress" }.to_owned(),
            protocol: Protocol::from_number(key.protocol).to_string(),
            local: endpoint(&key.local, key.local_port),
            remote: endpoint(&key.remote, key.remote_port),
            peer: (value.peer != 0).then(peer),
            state: state_name(value.state).to_owned(),
            epoch: value.epoch.into(),
            packets: u64::from(value.packets_in) + u64::from(value.packets_out),
            bytes: value.bytes_in.saturating_add(value.bytes_out),
            idle_seconds: now_ns.saturating_sub(value.seen_ns) / SECOND_NS,
        }
    }

    fn host_reports(&self) -> Vec<HostReport> {
        let report = |HostRecord { workload, host, address, until }| HostReport {
            workload,
            host,
            address: address.to_string(),
            expires_unix: until,
        };
        let mut all: Vec<HostReport> = self.engine.hosts(now()).map(report).collect();
        all.sort_unstable_by(|a, b| (&a.workload, &a.host).cmp(&(&b.workload, &b.host)));
        all
    }

    fn identities(&self) -> Vec<IdentityReport> {
        self.engine
            .identities(now())
            .into_iter()
            .map(|view| {
                let workload = view.workload.and_then(|id| self.engine.workload_identity(id));
                IdentityReport {
                    handle: hex(&view.handle),
                    spiffe_id: view.identity.as_ref().map(Identity::spiffe_id).unwrap_or_default(),
                    attributes: view
                        .identity
                        .as_ref()
                        .map(Identity::description)
                        .unwrap_or_default(),
                    labels: view.identity.map(|one| one.labels().clone()).unwrap_or_default(),
                    workload: workload.map(|one| self.engine.name_of(one)).unwrap_or_default(),
                    expires_unix: view.expires_unix,
                }
            })
            .collect()
    }

    /// The kernel's counters by their names, and the engine's beside them.
    fn counters(&self) -> Answer<CountersReport> {
        let mut report = CountersReport::default();
        for reason in DropReason::ALL {
            report.drops.insert(reason.name().to_owned(), 0);
        }
        for event in Event::ALL {
            report.events.insert(event.name().to_owned(), 0);
        }
        let counters = self.datapath.maps.counters.sums().map_err(|error| internal(&error))?;
        for ((workload, number), value) in counters {
            let name = if let Some(reason) = DropReason::from_number(number) {
                add(&mut report.drops, reason.name(), value);
                reason.name()
            } else if let Some(event) = Event::from_number(number) {
                add(&mut report.events, event.name(), value);
                event.name()
            } else {
                continue;
            };
            if let Some(identity) = self.engine.workload_identity(workload) {
                let own = report.per_workload.entry(self.engine.name_of(identity)).or_default();
                add(own, name, value);
            }
        }
        report.events.extend(self.engine.counters().all());
        let lost = &self.events.counters;
        let ordering = std::sync::atomic::Ordering::Relaxed;
        let rings = [("overflowed", &lost.overflowed), ("malformed", &lost.malformed)];
        for (name, counter) in rings {
            report.events.insert(format!("ring_records_{name}"), counter.load(ordering));
        }
        report.events.insert("verifications_panicked".to_owned(), self.pool.panics());
        report.events.insert("programs_detached_by_others".to_owned(), self.detached);
        report.events.insert("programs_displaced_by_others".to_owned(), self.displaced);
        Ok(report)
    }

    fn policy(&self) -> Answer<&Policy> {
        let unavailable = || BackendError::Unavailable("no policy is loaded".to_owned());
        self.engine.policy().map(|policy| &**policy).ok_or_else(unavailable)
    }

    /// What was denied, or what would have been and passed.
    fn denials(&self, observed: bool) -> Vec<ObservedReport> {
        let all = self.engine.denials().list().into_iter();
        let wanted = all.filter(|(denial, _)| denial.observed == observed);
        wanted
            .map(|(denial, seen)| {
                let (own, peer) = (denial.workload.clone(), denial.peer.clone());
                let (from, to, action) = match denial.direction {
                    "egress" => (own, peer, Action::Connect),
                    _ => (peer, own, Action::Accept),
                };
                let (port, because) = (denial.port, denial.because.clone());
                let (first_unix, last_unix, times) = (seen.first, seen.last, seen.times);
                let action = action.to_string();
                let number = seen.number;
                ObservedReport {
                    number,
                    from,
                    to,
                    port,
                    action,
                    because,
                    first_unix,
                    last_unix,
                    times,
                }
            })
            .collect()
    }

    /// The files with rules, in the order in which they were read.
    fn policy_files(&self) -> Answer<Vec<PolicyFileReport>> {
        let mut files: Vec<PolicyFileReport> = Vec::new();
        for rule in self.policy()?.set().rules() {
            match files.last_mut().filter(|last| last.file == rule.file()) {
                Some(last) => last.rules += 1,
                None => files.push(PolicyFileReport {
                    file: rule.file().to_owned(),
                    namespace: rule.scope().to_string(),
                    rules: 1,
                }),
            }
        }
        Ok(files)
    }

    fn explain(&self, request: &ExplainRequest) -> Answer<ExplainReport> {
        let policy = self.policy()?;
        let workloads: Vec<&Identity> =
            self.units.iter().map(|unit| &unit.workload.identity).collect();
        let peers: Vec<&Identity> = self.engine.known_peers().collect();
        let known = Known { workloads: &workloads, peers: &peers };
        let unix_seconds = i64::try_from(now().unix_seconds()).unwrap_or(i64::MAX);
        if let Some(number) = request.denial {
            return self.explain_denial(policy, number);
        }
        if let Some(flow) = &request.flow {
            return self.explain_flow(policy, flow, unix_seconds);
        }
        explain(policy, request, known, unix_seconds)
            .map_err(|error| BackendError::BadRequest(error.to_string()))
    }

    fn explain_denial(&self, policy: &Policy, number: u64) -> Answer<ExplainReport> {
        let unknown = || {
            BackendError::BadRequest(format!(
                "denial {number} is not remembered; `enforcer policy denied` and `enforcer policy observed` list those that \
                 are"
            ))
        };
        let (denial, seen) = self.engine.denials().numbered(number).ok_or_else(unknown)?;
        let own = self.engine.workload_identity(denial.asked.workload).ok_or_else(unknown)?;
        let at = i64::try_from(seen.last).unwrap_or(i64::MAX);
        let asked = as_request(own, &denial.peer_identity, &denial.asked, at);
        let mut report = explained(policy, &asked);
        let head = format!(
            "denial {number}: {} times, last at {} (Unix time): {}\nby the policy in force now, at that time:\n",
            seen.times, seen.last, denial.because
        );
        report.text.insert_str(0, &head);
        Ok(report)
    }

    fn explain_flow(&self, policy: &Policy, flow: &str, unix: i64) -> Answer<ExplainReport> {
        let bad = |text: String| BackendError::BadRequest(text);
        let (local, remote) = flow.split_once(',').ok_or_else(|| {
            bad(format!("flow {flow:?}: expected LOCAL,REMOTE as `enforcer flows` shows them"))
        })?;
        let mut found = None;
        let visited = self.datapath.maps.for_each_flow(|key, value| {
            if endpoint(&key.local, key.local_port) == local
                && endpoint(&key.remote, key.remote_port) == remote
            {
                found = Some((*key, *value));
            }
        });
        visited.map_err(|error| internal(&error))?;
        let (key, value) = found.ok_or_else(|| {
            bad(format!("flow {flow:?}: there is none; `enforcer flows` shows those that live"))
        })?;
        let shown = self.flow(&key, &value, now().boot_ns);
        let live = live_flow(&key, &value);
        let own = self.engine.workload_identity(key.workload);
        let own = own.ok_or_else(|| bad(format!("flow {flow:?}: its workload is gone")))?;
        let head = format!("flow {local} {remote}: {}, {}\n", shown.direction, shown.state);
        if let Some(peer) = self.engine.identity(value.peer).filter(|_| value.peer != 0) {
            let mut report = explained(policy, &as_request(own, peer, &live.question(), unix));
            report.text.insert_str(0, &head);
            return Ok(report);
        }
        let egress = live.direction == direction::EGRESS;
        let way = if egress { Direction::Egress } else { Direction::Ingress };
        let (address, protocol) = (ip_address(&key.remote), Protocol::from_number(key.protocol));
        let hosts = self.engine.hosts_at(own, address);
        let rule = policy.networks_match(own, way, (address, &hosts), protocol, live.port);
        let text = match rule {
            Some(rule) => {
                format!("{head}its peer has no identity; network rule {rule:?} lets it pass")
            }
            None => format!(
                "{head}its peer has no identity, and no network rule lets it pass: it is older than the rules"
            ),
        };
        let from = if egress { own.spiffe_id() } else { address.to_string() };
        let to = if egress { address.to_string() } else { own.spiffe_id() };
        Ok(ExplainReport { allow: rule.is_some(), text, from, to, ..ExplainReport::default() })
    }
}

fn add(counters: &mut BTreeMap<String, u64>, name: &str, value: u64) {
    *counters.entry(name.to_owned()).or_default() += value;
}

fn internal(error: &DatapathError) -> BackendError {
    BackendError::Internal(error.to_string())
}

fn method(mechanism: Mechanism) -> AttachMethod {
    match mechanism {
        Mechanism::Tcx => AttachMethod::Tcx,
        Mechanism::Clsact => AttachMethod::Clsact,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn endpoint(address: &Address, port: u16) -> String {
    match (ip_address(address), port) {
        (address, 0) => address.to_string(),
        (address, port) => std::net::SocketAddr::new(address, port).to_string(),
    }
}

fn state_name(state: u8) -> &'static str {
    match state {
        flow_state::UNCONFIRMED => "unconfirmed",
        flow_state::ESTABLISHED => "established",
        flow_state::CLOSING => "closing",
        flow_state::RESET => "reset",
        flow_state::CUT => "cut",
        flow_state::DATAGRAM => "datagram",
        _ => "unknown",
    }
}

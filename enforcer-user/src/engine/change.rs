//! A policy change: everything that is cached or alive is judged anew beside the old verdicts,
//! then one store puts the new epoch in force, then the old one is cleared away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use enforcer_common::abi::{
    FlowKey, NetworkKey, VerdictKey, WorkloadValue, flow_flags, workload_flags,
};

use super::Engine;
use super::clock::Now;
use super::counters::Done;
use super::io::{Denial, LiveFlow, Network, Output, Question, Sweep};
use super::judge::{Judged, Term};
use super::networks::{NO_RULES, Networks, ip_address, mesh};
use super::verdicts::{Verdict, Verdicts};
use crate::policy::Policy;

/// What a failed change goes back to.
#[derive(Debug)]
pub(super) struct Previous {
    epoch: u32,
    policy: Option<Arc<Policy>>,
    verdicts: Verdicts,
    networks: Networks,
    rule_sets: HashMap<u16, [u32; 2]>,
}

/// A change that is computed and not yet made.
struct Staged {
    epoch: u32,
    verdicts: Verdicts,
    networks: Networks,
    prefixes: Vec<Network>,
    rule_sets: HashMap<u16, u32>,
    cut: Vec<FlowKey>,
    /// What would be denied of what is cached or alive.
    observed: Vec<Denial>,
}

impl Engine {
    pub(super) fn on_set_policy(
        &mut self,
        policy: &Arc<Policy>,
        live: &[LiveFlow],
        now: Now,
        out: &mut Vec<Output>,
    ) {
        match self.stage(policy, live, now) {
            Ok(staged) => {
                for denial in &staged.observed {
                    self.denials.note(denial, now);
                }
                self.change(policy, staged, out);
            }
            Err(problem) => {
                self.counters.add(Done::PolicyFailures, 1);
                out.push(Output::Problem(problem));
            }
        }
    }

    pub(super) fn on_change_failed(&mut self, out: &mut Vec<Output>) {
        let Some(previous) = self.previous.take() else { return };
        self.counters.add(Done::PolicyFailures, 1);
        let written: Vec<VerdictKey> =
            self.verdicts.iter().map(|(asked, _)| asked.key(self.epoch)).collect();
        let prefixes = std::mem::take(&mut self.installed[parity(self.epoch)]);
        self.policy_generation -= 1;
        self.epoch = previous.epoch;
        self.policy = previous.policy;
        self.verdicts = previous.verdicts;
        self.networks = previous.networks;
        for (id, rule_sets) in previous.rule_sets {
            if let Some(workload) = self.workloads.get_mut(id) {
                workload.value.rule_sets = rule_sets;
                let rule_set = rule_sets[parity(self.epoch)];
                set_asks_names(&mut workload.value, self.networks.name_hosts(rule_set));
            }
            self.write_workload(id, out);
        }
        out.extend(written.into_iter().map(Output::RemoveVerdict));
        out.push(Output::RemoveNetworks(prefixes.into_iter().collect()));
    }

    fn stage(&self, policy: &Policy, live: &[LiveFlow], now: Now) -> Result<Staged, String> {
        let epoch = self.epoch.wrapping_add(1);
        let mut networks = Networks::new(epoch);
        let mut prefixes = mesh(&self.settings.mesh, epoch);
        let mut rule_sets = HashMap::new();
        for workload in self.workloads.iter() {
            let (rule_set, fresh) = networks
                .rule_set(policy, workload.id, workload.identity())
                .map_err(|e| e.to_string())?;
            rule_sets.insert(workload.id, rule_set);
            prefixes.extend(fresh);
            // Behind the others: they stand in their place.
            prefixes.extend(self.host_networks(&networks, workload, rule_set));
        }
        let mut answers = self.judge_cached(policy, now);
        let cut = self.judge_flows(policy, live, &mut answers, (&networks, &rule_sets), now);
        let mut verdicts = self.verdicts.emptied();
        // Those of live flows come last, so that a full table keeps them.
        let alive: HashSet<Question> = live.iter().map(LiveFlow::question).collect();
        let mut order: Vec<(&Question, &Judged)> =
            answers.iter().filter_map(|(asked, judged)| Some((asked, judged.as_ref()?))).collect();
        order.sort_unstable_by_key(|(asked, _)| (alive.contains(asked), **asked));
        for (asked, judged) in order {
            self.stage_verdict(*asked, judged, alive.contains(asked), &mut verdicts, now);
        }
        let observed = answers.into_values().filter_map(|judged| judged?.denial);
        let observed = observed.filter(|denial| denial.observed).collect();
        Ok(Staged { epoch, verdicts, networks, prefixes, rule_sets, cut, observed })
    }

    /// Every cached verdict that still holds, judged under the new policy.
    fn judge_cached(&self, policy: &Policy, now: Now) -> HashMap<Question, Option<Judged>> {
        self.verdicts
            .iter()
            .filter(|(_, verdict)| verdict.value.deadline_ns > now.boot_ns)
            .map(|(asked, _)| (*asked, self.judge(Some(policy), asked, now.unix_seconds())))
            .collect()
    }

    /// Judges what live flows stand on; returns those that lost it.
    fn judge_flows(
        &self,
        policy: &Policy,
        live: &[LiveFlow],
        answers: &mut HashMap<Question, Option<Judged>>,
        (networks, rule_sets): (&Networks, &HashMap<u16, u32>),
        now: Now,
    ) -> Vec<FlowKey> {
        let mut cut = Vec::new();
        for flow in live {
            let closed = flow_flags::FIN_OUT | flow_flags::FIN_IN;
            let passes = if flow.flags & flow_flags::ADOPTED != 0 || flow.flags & closed == closed {
                // Taken over unjudged, or over: a late segment is asked about by the kernel.
                true
            } else if flow.peer == 0 {
                let rule_set = rule_sets.get(&flow.key.workload).copied();
                let workload = self.workloads.get(flow.key.workload);
                let observed =
                    workload.is_some_and(|w| w.value.flags & workload_flags::OBSERVE != 0);
                let path = workload.map(|one| one.identity().path()).unwrap_or_default();
                let hosts = self.hosts.at(&path, ip_address(&flow.key.remote));
                observed
                    || networks.allow(
                        rule_set.unwrap_or(NO_RULES),
                        flow.far(),
                        flow.service(),
                        hosts,
                    )
            } else {
                let asked = flow.question();
                let judged = answers
                    .entry(asked)
                    .or_insert_with(|| self.judge(Some(policy), &asked, now.unix_seconds()));
                judged.as_ref().is_some_and(Judged::passes)
            };
            if !passes {
                cut.push(flow.key);
            }
        }
        cut
    }

    fn stage_verdict(
        &self,
        asked: Question,
        judged: &Judged,
        alive: bool,
        verdicts: &mut Verdicts,
        now: Now,
    ) {
        // What was said for every port says nothing of any, once ports matter.
        if asked.port == 0 && judged.port_matters {
            return;
        }
        let answered = judged.answered(asked);
        let old = self.verdicts.peek(&asked).or_else(|| self.verdicts.peek(&asked.any_port()));
        let used_ns = if alive { now.boot_ns } else { old.map_or(0, |verdict| verdict.used_ns) };
        let mut value = self.verdict(&answered, judged, Term::Credentials, now);
        if judged.passes() && (alive || old.is_some_and(Verdict::passes)) {
            // A lease that was granted is not taken back by a change that still allows it.
            let leased = self.verdict(&answered, judged, Term::Lease, now).deadline_ns;
            let granted = old.map_or(0, |verdict| verdict.value.deadline_ns);
            value.deadline_ns = value.deadline_ns.max(leased.min(granted.max(now.after(60))));
        }
        if value.deadline_ns > now.boot_ns {
            verdicts.insert(answered, Verdict { value, installed_ns: now.boot_ns, used_ns });
        }
    }

    fn change(&mut self, policy: &Arc<Policy>, staged: Staged, out: &mut Vec<Output>) {
        let Staged { epoch, verdicts, networks, prefixes, rule_sets, cut, observed: _ } = staged;
        let before = self.epoch;
        let (now_parity, old_parity) = (parity(epoch), parity(before));
        out.extend(verdicts.iter().map(|(q, v)| Output::InstallVerdict(q.key(epoch), v.value)));
        // What an aborted change or an earlier daemon left under this parity must not mix in.
        let stale = std::mem::take(&mut self.installed[now_parity]);
        out.push(Output::RemoveNetworks(stale.into_iter().collect()));
        self.installed[now_parity] = prefixes.iter().map(|(bits, key, _)| (*bits, *key)).collect();
        out.push(Output::InstallNetworks(prefixes));
        let mut kept = HashMap::new();
        for (id, rule_set) in rule_sets {
            if let Some(value) = self.workloads.get_mut(id).map(|workload| &mut workload.value) {
                kept.insert(id, value.rule_sets);
                value.rule_sets[now_parity] = rule_set;
                set_asks_names(value, networks.name_hosts(rule_set));
            }
            self.write_workload(id, out);
        }
        out.push(Output::FlipEpoch(epoch));
        let old_keys = self.verdicts.iter().map(|(asked, _)| asked.key(before));
        out.extend(old_keys.map(Output::RemoveVerdict));
        let old: Vec<(u32, NetworkKey)> = self.installed[old_parity].iter().copied().collect();
        out.push(Output::RemoveNetworks(old));
        self.counters.add(Done::FlowsCut, cut.len());
        self.counters.add(Done::PolicyChanges, 1);
        if !cut.is_empty() {
            out.push(Output::SweepFlows(Sweep { flows: cut, ..Sweep::default() }));
        }
        self.policy_generation += 1;
        self.previous = Some(Previous {
            epoch: before,
            policy: self.policy.replace(Arc::clone(policy)),
            verdicts: std::mem::replace(&mut self.verdicts, verdicts),
            networks: std::mem::replace(&mut self.networks, networks),
            rule_sets: kept,
        });
        self.epoch = epoch;
    }

    /// Flows that were opened while the change was computed: they drop what they get until the kernel
    /// knows an answer. Those that the new policy denies are cut.
    pub(super) fn on_unjudged(
        &mut self,
        questions: Vec<Question>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let policy = self.policy.clone();
        let mut sweep = Sweep::default();
        let unjudged = questions.into_iter().filter(|asked| !self.has_answer(asked, now));
        for asked in unjudged.collect::<Vec<_>>() {
            let judged = self.judge(policy.as_deref(), &asked, now.unix_seconds());
            match judged.filter(Judged::passes) {
                Some(judged) => {
                    let value = self.verdict(&asked, &judged, Term::Credentials, now);
                    self.install_verdict(judged.answered(asked), value, now, out);
                }
                None => drop(sweep.questions.insert(asked)),
            }
        }
        if !sweep.is_empty() {
            self.counters.add(Done::FlowsCut, sweep.questions.len());
            out.push(Output::SweepFlows(sweep));
        }
    }

    /// The change was made: nothing goes back any more.
    pub(super) fn settle(&mut self) {
        if let Some(previous) = self.previous.take() {
            self.installed[parity(previous.epoch)].clear();
        }
    }

    /// The rule set of a workload that is added under the policy in force.
    pub(super) fn rule_set_for(&mut self, id: u16, out: &mut Vec<Output>) -> Option<u32> {
        let policy = self.policy.clone()?;
        let workload = self.workloads.get(id)?;
        match self.networks.rule_set(&policy, id, workload.identity()) {
            Ok((rule_set, mut fresh)) => {
                fresh.extend(self.host_networks(&self.networks, workload, rule_set));
                let keys = fresh.iter().map(|(bits, key, _)| (*bits, *key));
                self.installed[parity(self.epoch)].extend(keys);
                out.push(Output::InstallNetworks(fresh));
                Some(rule_set)
            }
            Err(error) => {
                out.push(Output::Problem(error.to_string()));
                None
            }
        }
    }
}

/// Notes for the kernel whether rules of a workload name hosts.
pub(super) fn set_asks_names(value: &mut WorkloadValue, asks: bool) {
    let without = value.flags & !workload_flags::ASKS_NAMES;
    value.flags = if asks { without | workload_flags::ASKS_NAMES } else { without };
}

/// Which of the two sets of networks an epoch uses.
pub(super) fn parity(epoch: u32) -> usize {
    usize::from(epoch & 1 == 1)
}

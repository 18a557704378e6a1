//! Questions to name servers that are not answered yet: what nobody asked for is not believed.

use std::collections::{HashMap, VecDeque};

use enforcer_common::abi::FlowKey;

use super::clock::{Now, SECOND_NS};

/// How long an answer is waited for, in nanoseconds; resolvers give up before.
const PATIENCE_NS: u64 = 30 * SECOND_NS;
/// The most questions of one workload; a further one displaces the oldest.
const MAX_OF_ONE: usize = 1024;

/// What tells a question from another: its flow, and the number that the resolver gave it.
type Key = (FlowKey, u16);

/// Of one workload.
#[derive(Debug, Default)]
struct Pending {
    /// The host asked for, and since when (boot time, nanoseconds).
    asked: HashMap<Key, (Box<str>, u64)>,
    /// In their order; some are answered.
    order: VecDeque<(Key, u64)>,
}

/// By workload.
#[derive(Debug, Default)]
pub struct Questions(HashMap<u16, Pending>);

impl Questions {
    /// Notes a question.
    pub fn ask(&mut self, key: FlowKey, id: u16, host: &str, now: Now) {
        let pending = self.0.entry(key.workload).or_default();
        pending.forget(now);
        pending.asked.insert((key, id), (host.into(), now.boot_ns));
        pending.order.push_back(((key, id), now.boot_ns));
    }

    /// Whether the host was asked for in this question; it is answered now.
    pub fn answer(&mut self, key: FlowKey, id: u16, host: &str, now: Now) -> bool {
        let Some(pending) = self.0.get_mut(&key.workload) else { return false };
        let found = pending.asked.get(&(key, id));
        let is_asked = found.is_some_and(|(asked, since_ns)| {
            **asked == *host && now.boot_ns.saturating_sub(*since_ns) < PATIENCE_NS
        });
        if is_asked {
            pending.asked.remove(&(key, id));
        }
        is_asked
    }

    /// Forgets a workload.
    pub fn forget(&mut self, workload: u16) {
        self.0.remove(&workload);
    }
}

impl Pending {
    /// Makes room for one more.
    fn forget(&mut self, now: Now) {
        while let Some((key, since_ns)) = self.order.front() {
            let is_over = now.boot_ns.saturating_sub(*since_ns) >= PATIENCE_NS;
            if !is_over && self.order.len() < MAX_OF_ONE {
                return;
            }
            // The same question may have been asked again since.
            if self.asked.get(key).is_some_and(|(_, last_ns)| last_ns == since_ns) {
                self.asked.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { boot_ns: seconds * SECOND_NS, unix_ns: 0 }
    }

    fn flow(workload: u16, local_port: u16) -> FlowKey {
        FlowKey { workload, local_port, ..FlowKey::default() }
    }

    #[test]
    fn only_what_was_asked_in_this_flow_is_answered_and_once() {
        let mut questions = Questions::default();
        questions.ask(flow(1, 1), 7, "a.example", at(1));
        for (key, id, host) in [
            (flow(1, 1), 8, "a.example"),
            (flow(1, 2), 7, "a.example"),
            (flow(2, 1), 7, "a.example"),
            (flow(1, 1), 7, "b.example"),
        ] {
            assert!(!questions.answer(key, id, host, at(1)));
        }
        assert!(questions.answer(flow(1, 1), 7, "a.example", at(2)));
        assert!(!questions.answer(flow(1, 1), 7, "a.example", at(2)));
    }

    #[test]
    fn a_question_that_is_asked_again_is_waited_for_anew() {
        let mut questions = Questions::default();
        questions.ask(flow(1, 1), 7, "a.example", at(1));
        questions.ask(flow(1, 1), 7, "a.example", at(20));
        questions.ask(flow(1, 1), 8, "b.example", at(32));
        assert!(questions.answer(flow(1, 1), 7, "a.example", at(49)));
        assert!(!questions.answer(flow(1, 1), 8, "b.example", at(62)));
    }

    #[test]
    fn a_workload_that_asks_without_end_displaces_its_own_questions() {
        let mut questions = Questions::default();
        questions.ask(flow(2, 1), 0, "a.example", at(1));
        for id in 0..u16::try_from(3 * MAX_OF_ONE).unwrap() {
            questions.ask(flow(1, 1), id, "a.example", at(1));
            assert!(questions.0[&1].order.len() <= MAX_OF_ONE);
        }
        assert!(questions.0[&1].asked.len() <= MAX_OF_ONE);
        assert!(!questions.answer(flow(1, 1), 0, "a.example", at(1)));
        assert!(questions.answer(flow(1, 1), 3 * 1024 - 1, "a.example", at(1)));
        assert!(questions.answer(flow(2, 1), 0, "a.example", at(1)));
    }
}

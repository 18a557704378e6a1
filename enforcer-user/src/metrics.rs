//! The counters in Prometheus' text format (exposition format 0.0.4).

use std::fmt::{self, Write as _};

use crate::control::protocol::{CountersReport, StatusReport};

/// The format's media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every metric of this enforcer. Series are in the order of their labels, so that two texts compare.
#[must_use]
pub fn prometheus(status: &StatusReport, counters: &CountersReport) -> String {
    let mut page = Page(String::new());
    page.build(status);
    page.state(status);
    page.counters(counters);
    page.0
}

struct Page(String);

impl Page {
    fn build(&mut self, status: &StatusReport) {
        self.head(
            "enforcer_build_info",
            "gauge",
            "Version, map layout, kernel and mode; always 1.",
        );
        let abi = status.abi.to_string();
        let labels = [
            ("version", status.version.as_str()),
            ("abi", &abi),
            ("kernel", &status.kernel),
            ("mode", &status.mode),
            ("instance", &status.instance),
        ];
        self.sample("enforcer_build_info", &labels, 1);
    }

    fn state(&mut self, status: &StatusReport) {
        let gauges = [
            ("enforcer_ready", "Whether every workload is enforced.", u64::from(status.ready)),
            ("enforcer_uptime_seconds", "Since the daemon started.", status.uptime_seconds),
            ("enforcer_epoch", "The policy epoch in force.", status.epoch),
            ("enforcer_policies", "Identity rules loaded.", status.policies),
            ("enforcer_network_rules", "Network rules loaded.", status.network_rules),
            ("enforcer_workloads", "Workloads of this node.", status.workloads),
            ("enforcer_flows", "Entries of the flow tables.", status.flows),
            ("enforcer_attempts", "Half-open handshakes.", status.attempts),
            ("enforcer_peers", "Pairs whose key is known.", status.peers),
            ("enforcer_verdicts", "Cached policy answers.", status.verdicts),
        ];
        for (name, help, value) in gauges {
            self.head(name, "gauge", help);
            self.sample(name, &[], value);
        }
        self.head("enforcer_policy_loads_total", "counter", "How often the policy was loaded.");
        self.sample("enforcer_policy_loads_total", &[], status.policy_generation);
        if let Some(expires) = status.node_certificate_expires_unix {
            let name = "enforcer_node_certificate_expires_timestamp_seconds";
            self.head(name, "gauge", "When the node certificate ends.");
            self.sample(name, &[], expires);
        }
    }

    fn counters(&mut self, counters: &CountersReport) {
        self.head("enforcer_drops_total", "counter", "Segments dropped, by reason.");
        for (reason, value) in &counters.drops {
            self.sample("enforcer_drops_total", &[("reason", reason)], *value);
        }
        self.head("enforcer_events_total", "counter", "What happened, by event.");
        for (event, value) in &counters.events {
            self.sample("enforcer_events_total", &[("event", event)], *value);
        }
        let name = "enforcer_workload_events_total";
        self.head(name, "counter", "What happened to a workload, by event.");
        for (workload, events) in &counters.per_workload {
            for (event, value) in events {
                self.sample(name, &[("workload", workload), ("event", event)], *value);
            }
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            self.line(format_args!("{open}{label}=\"{}\"", Escaped(text)));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.line(format_args!(" {value}\n"));
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

/// A label's value with backslash, quote and line feed escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_its_head_once_and_labels_are_escaped() {
        let status = StatusReport {
            version: "1.0".into(),
            kernel: "6.1 \"x\"\\y\n".into(),
            mode: "pki".into(),
            ready: true,
            flows: 3,
            ..Default::default()
        };
        let counters = CountersReport {
            drops: [("bad_mac".into(), 2), ("no_room".into(), 0)].into(),
            events: [("cold".into(), 5)].into(),
            per_workload: [("web".into(), [("drops".into(), 1)].into())].into(),
        };
        let text = prometheus(&status, &counters);
        for line in [
            r#"enforcer_build_info{version="1.0",abi="0",kernel="6.1 \"x\"\\y\n",mode="pki",instance=""} 1"#,
            "enforcer_ready 1",
            "enforcer_flows 3",
            r#"enforcer_drops_total{reason="bad_mac"} 2"#,
            r#"enforcer_drops_total{reason="no_room"} 0"#,
            r#"enforcer_events_total{event="cold"} 5"#,
            r#"enforcer_workload_events_total{workload="web",event="drops"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
        let families: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let mut unique = families.clone();
        unique.dedup();
        assert_eq!(families, unique);
        assert!(text.ends_with('\n'));
    }
}

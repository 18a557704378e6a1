//! The counters of a namespace's own stack: /proc/net/snmp, netstat and snmp6.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::host::Host;

/// A reading of all counters of one namespace, by names such as `Tcp.InCsumErrors`, `TcpExt.TCPTimeouts` and
/// `Ip6InReceives`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats(BTreeMap<String, i64>);

impl Stats {
    /// Reads the counters of a host.
    pub fn read(host: &Host) -> Result<Self> {
        // Of the thread: /proc/net is the namespace of the process's first thread.
        let file = |name: &str| {
            let path = format!("/proc/thread-self/net/{name}");
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (snmp, netstat, snmp6) =
            host.run(|| Ok((file("snmp")?, file("netstat")?, file("snmp6")?)))?;
        let mut values = BTreeMap::new();
        paired_lines(&snmp, &mut values);
        paired_lines(&netstat, &mut values);
        for line in snmp6.lines() {
            if let Some((name, value)) = line.split_once(char::is_whitespace)
                && let Ok(value) = value.trim().parse()
            {
                values.insert(name.to_owned(), value);
            }
        }
        Ok(Self(values))
    }

    /// One counter; a name the kernel does not have is an error.
    pub fn value(&self, name: &str) -> Result<i64> {
        self.0.get(name).copied().with_context(|| format!("the kernel has no counter {name}"))
    }

    /// How much one counter rose since an earlier reading.
    pub fn since(&self, earlier: &Self, name: &str) -> Result<i64> {
        Ok(self.value(name)? - earlier.value(name)?)
    }

    /// Segments that arrived with a wrong TCP checksum since an earlier reading.
    pub fn checksum_errors_since(&self, earlier: &Self) -> Result<i64> {
        self.since(earlier, "Tcp.InCsumErrors")
    }

    /// TCP segments sent again since an earlier reading.
    pub fn retransmissions_since(&self, earlier: &Self) -> Result<i64> {
        self.since(earlier, "Tcp.RetransSegs")
    }

    /// IP packets of both families that the stack received.
    pub fn ip_received(&self) -> Result<i64> {
        Ok(self.value("Ip.InReceives")? + self.value("Ip6InReceives")?)
    }

    /// IP packets of both families that the stack sent.
    pub fn ip_sent(&self) -> Result<i64> {
        Ok(self.value("Ip.OutRequests")? + self.value("Ip6OutRequests")?)
    }
}

/// Lines come in pairs, `Tcp: name name` and `Tcp: value value`.
fn paired_lines(text: &str, values: &mut BTreeMap<String, i64>) {
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks_exact(2) {
        let Some((group, names)) = pair[0].split_once(':') else { continue };
        let numbers = pair[1].split_whitespace().skip(1);
        for (name, number) in names.split_whitespace().zip(numbers) {
            if let Ok(number) = number.parse() {
                values.insert(format!("{group}.{name}"), number);
            }
        }
    }
}

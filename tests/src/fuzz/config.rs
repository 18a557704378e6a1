//! The configuration file.

use std::path::Path;

use enforcer_user::config::{Config, ConfigError};

/// `data` is the file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse(text) {
        Ok(config) => accepted(text, &config),
        Err(ConfigError::Faults(faults)) => {
            assert!(!faults.0.is_empty());
            let lines = text.split('\n').count();
            for fault in &faults.0 {
                assert!((1..=lines).contains(&fault.line), "{fault}, of {lines} lines");
                assert!(!fault.what.is_empty());
            }
        }
        Err(other) => panic!("a text was refused as a file: {other}"),
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("enforcer.toml"), Path::new("/etc/enforcer"))
}

fn accepted(text: &str, config: &Config) {
    // A byte order mark is one only where the file begins.
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text);
    let again = parse(&format!("# a comment says nothing\n{lines}\n")).expect("as before");
    assert_eq!(&again, config);
    assert!(config.control_socket().as_os_str().len() <= 107);
    assert!(config.pin_dir().starts_with(&config.bpf_root));
    let mut names: Vec<_> = config.network_rules.iter().map(|rule| &rule.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), config.network_rules.len(), "two network rules of one name");
    for workload in &config.workloads {
        assert_eq!(workload.identity.trust_domain(), config.trust_domain);
    }
    for rule in &config.network_rules {
        assert!(!rule.cidr.is_empty());
        assert!(rule.ports.iter().all(|range| 0 < *range.start() && range.start() <= range.end()));
    }
}

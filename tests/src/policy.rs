//! Policy texts of the tests, in Cedar.

use crate::config::Workload;

/// Permits nothing: the default decides.
pub const DENY_ALL: &str = "";

/// Permits everything that has an identity.
pub const ALLOW_ALL: &str = "permit(principal, action, resource);";

/// Permits one workload to call another on any port.
#[must_use]
pub fn allow(from: &Workload, to: &Workload) -> String {
    format!(
        r#"permit(principal == Workload::"{}", action, resource == Workload::"{}");"#,
        from.spiffe_id(),
        to.spiffe_id()
    )
}

/// Permits one workload to call another on one port.
#[must_use]
pub fn allow_port(from: &Workload, to: &Workload, port: u16) -> String {
    let permit = allow(from, to);
    format!("{} when {{ context.port == {port} }};", permit.trim_end_matches(';'))
}

/// Permits callers in a namespace or below to call workloads in another or below.
#[must_use]
pub fn allow_namespace(from: &str, to: &str) -> String {
    format!(r#"permit(principal in Namespace::"{from}", action, resource in Namespace::"{to}");"#)
}

/// Permits callers whose label has this value to call anything.
#[must_use]
pub fn allow_label(key: &str, value: &str) -> String {
    format!(
        r#"permit(principal, action, resource) when {{ principal.labels.{key} == "{value}" }};"#
    )
}

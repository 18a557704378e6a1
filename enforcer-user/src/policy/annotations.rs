//! What stands in front of a rule: `@id`, `@reason`, `@active` and what it obliges to.

use cedar_policy::{Effect, Policy};

use super::active::Active;
use super::names::nearest;
use crate::identity::{NameError, Namespace};

/// The most bytes of an `@id` or a `@reason`, which appear in log lines.
pub const MAX_ANNOTATION_BYTES: usize = 256;

const KNOWN: [&str; 7] = ["active", "bounds", "encrypt", "id", "log", "mode", "reason"];

/// What the annotations of a rule say, besides its name and reason.
#[derive(Debug, Clone, Default)]
pub(super) struct Annotations {
    /// When the rule is in force; none for always.
    pub active: Option<Active>,
    /// The namespace whose files may permit no more than this rule and those like it; none for an ordinary rule.
    pub bounds: Option<Namespace>,
    /// Whether it only tells what it would deny.
    pub observes: bool,
    /// What it asks for beside its answer.
    pub obligations: Obligations,
}

/// What a permit obliges to; of several that hold, to all that any of them says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Obligations {
    /// Each connection is logged (`@log`).
    pub log: bool,
    /// The connection is encrypted (`@encrypt`).
    pub encrypt: bool,
}

impl Obligations {
    /// What either says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { log: self.log || other.log, encrypt: self.encrypt || other.encrypt }
    }
}

/// What is wrong with an annotation, and the next step.
pub(super) type Problem = (String, Option<String>);

impl Annotations {
    /// Reads them; what is wrong with any of them is told, and that one left out.
    pub fn of(policy: &Policy) -> (Self, Vec<Problem>) {
        let (mut found, mut problems) = (Self::default(), Vec::new());
        for (key, value) in policy.annotations() {
            let read = match key {
                "id" | "reason" => printable(key, value),
                "active" => Active::parse(value).map(|active| found.active = Some(active)).map_err(
                    |error| (format!("@active: {error}"), error.near.as_deref().map(did_you_mean)),
                ),
                "bounds" => bounds(policy, value).map(|of| found.bounds = Some(of)),
                "mode" => mode(policy, value).map(|observes| found.observes = observes),
                "log" => obligation(policy, key, value).map(|()| found.obligations.log = true),
                "encrypt" => {
                    obligation(policy, key, value).map(|()| found.obligations.encrypt = true)
                }
                _ => Err(unknown(key)),
            };
            problems.extend(read.err());
        }
        (found, problems)
    }
}

fn bounds(policy: &Policy, value: &str) -> Result<Namespace, Problem> {
    if policy.effect() == Effect::Forbid {
        let help = "a forbid holds for every namespace below anyway; leave @bounds out".to_owned();
        return Err(("@bounds belongs to a permit".to_owned(), Some(help)));
    }
    let form = |error: NameError| (format!("@bounds({value:?}): {error}"), None);
    value.parse().map_err(form)
}

fn obligation(policy: &Policy, key: &str, value: &str) -> Result<(), Problem> {
    if !value.is_empty() {
        return Err((format!("@{key}({value:?}): it stands alone"), Some(format!("write @{key}"))));
    }
    match (policy.effect(), policy.annotation("bounds")) {
        (Effect::Forbid, _) => {
            let help = if key == "log" { "denials are logged anyway" } else { "forbid closes" };
            Err((format!("@{key} belongs to a permit"), Some(format!("{help}; leave @{key} out"))))
        }
        (_, Some(_)) => {
            let help = format!("put @{key} on the permits within");
            Err((format!("@{key} on bounds obliges nobody"), Some(help)))
        }
        _ => Ok(()),
    }
}

fn mode(policy: &Policy, value: &str) -> Result<bool, Problem> {
    match (value, policy.effect()) {
        ("enforce", _) => Ok(false),
        ("observe", Effect::Forbid) => Ok(true),
        ("observe", Effect::Permit) => {
            let help = "a permit that is not enforced permits nothing; `staged` in [policy] tries a policy without one";
            Err(("@mode(\"observe\") belongs to a forbid".to_owned(), Some(help.to_owned())))
        }
        _ => Err((format!("@mode({value:?}): expected \"enforce\" or \"observe\""), None)),
    }
}

fn printable(key: &str, value: &str) -> Result<(), Problem> {
    if value.len() <= MAX_ANNOTATION_BYTES && !value.chars().any(char::is_control) {
        return Ok(());
    }
    let message = format!(
        "@{key} has {} bytes or a control character; at most {MAX_ANNOTATION_BYTES} printable bytes are allowed",
        value.len()
    );
    Err((message, None))
}

fn unknown(key: &str) -> Problem {
    let near = nearest(key, KNOWN).map(did_you_mean);
    let help = near.unwrap_or_else(|| {
        "@id, @reason, @active, @bounds, @encrypt, @log and @mode are known".to_owned()
    });
    (format!("annotation @{key} has no meaning here"), Some(help))
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

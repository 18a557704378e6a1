//! `[hardening]` and `[control]`: what the daemon takes from itself, and who may ask it.

use super::reader::{Read, Section, Value};

/// What happens to a system call that the daemon has no use for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// It fails, or ends the daemon where only an attacker would make it.
    #[default]
    Enforce,
    /// It is made, and noted in the kernel's log: to find out what is missing.
    Log,
    /// There is no filter.
    Off,
}

impl Seccomp {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Log => "log",
            Self::Off => "off",
        }
    }
}

/// What the daemon takes from itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HardeningConfig {
    /// The filter of system calls.
    pub seccomp: Seccomp,
}

/// Who may ask the daemon beside its own user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlConfig {
    /// A group whose members may read from the control socket, but change nothing.
    pub group: Option<String>,
}

pub(super) fn hardening(mut section: Section<'_>) -> HardeningConfig {
    let seccomp = section.or("seccomp", Seccomp::default(), seccomp);
    section.finish();
    HardeningConfig { seccomp }
}

pub(super) fn control(mut section: Section<'_>) -> ControlConfig {
    let group = section.optional("group", group);
    section.finish();
    ControlConfig { group }
}

fn seccomp(value: &Value<'_>) -> Read<Seccomp> {
    match value.text()? {
        "enforce" => Ok(Seccomp::Enforce),
        "log" => Ok(Seccomp::Log),
        "off" => Ok(Seccomp::Off),
        _ => value.refuse("\"enforce\", \"log\" or \"off\""),
    }
}

/// The form of useradd(8): it keeps control characters out of errors and logs.
fn group(value: &Value<'_>) -> Read<String> {
    let name = value.text()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 32 || !name.chars().all(allowed) {
        return value.refuse("the name of a group: 1 to 32 letters, digits, '-', '_' or '.'");
    }
    Ok(name.to_owned())
}

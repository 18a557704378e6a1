//! A filter of system calls (seccomp(2)): what the daemon does not need is not there for who takes it
//! over.
//!
//! Two filters, of which the stricter answer counts. The first knows calls that only an attacker would
//! make here, running another program foremost: they kill the process. Enforcement goes on without it,
//! and whoever supervises it starts it anew. The second allows what the daemon has been seen to need in
//! the end-to-end tests, with the arguments that matter; everything else fails with `EPERM`. That is
//! an error in the log and not a dead daemon: an unforeseen call of another C library must not take
//! first contacts down.

mod allowed;
mod forbidden;

use std::collections::BTreeMap;

use anyhow::Context as _;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use crate::config::Seccomp;

/// System calls by number, each with the arguments it may have; no rule means any.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filters for all threads, for good.
pub(super) fn install(mode: Seccomp) -> anyhow::Result<()> {
    let (killed, unknown, unavailable) = match mode {
        Seccomp::Off => {
            tracing::warn!("hardening.seccomp is off: system calls are not filtered");
            return Ok(());
        }
        Seccomp::Log => {
            tracing::warn!("hardening.seccomp only logs: `journalctl -k --grep type=1326` shows");
            (SeccompAction::Log, SeccompAction::Log, SeccompAction::Log)
        }
        Seccomp::Enforce => {
            let (unknown, unavailable) = (number(libc::EPERM), number(libc::ENOSYS));
            (
                SeccompAction::KillProcess,
                SeccompAction::Errno(unknown),
                SeccompAction::Errno(unavailable),
            )
        }
    };
    apply(&listed(forbidden::rules(), killed)?)?;
    apply(&listed(forbidden::unavailable(), unavailable)?)?;
    let allowed = allowed::rules().context("the filter of system calls is malformed")?;
    apply(&program(allowed, unknown, SeccompAction::Allow)?)
}

fn number(error: i32) -> u32 {
    error.unsigned_abs()
}

fn listed(rules: Rules, action: SeccompAction) -> anyhow::Result<BpfProgram> {
    program(rules, SeccompAction::Allow, action)
}

fn program(
    rules: Rules,
    other: SeccompAction,
    listed: SeccompAction,
) -> anyhow::Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)
        .context("there is no filter for this processor; set hardening.seccomp = \"off\"")?;
    SeccompFilter::new(rules, other, listed, architecture)
        .and_then(BpfProgram::try_from)
        .context("the filter of system calls cannot be made")
}

fn apply(program: &BpfProgram) -> anyhow::Result<()> {
    apply_filter_all_threads(program).context("the filter of system calls cannot be installed")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, ExitStatus};

    use super::*;

    /// Set in the process that a test starts of itself, which is the one to be filtered; says what it tries.
    const CHILD: &str = "ENFORCER_SECCOMP_TEST_CHILD";

    /// How a process ends that tries this under the filters.
    fn ended(attempt: &str) -> ExitStatus {
        let name = "sandbox::seccomp::tests::what_an_attacker_tries_is_answered_as_documented";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name]).env(CHILD, attempt).output().unwrap().status
    }

    #[test]
    fn what_an_attacker_tries_is_answered_as_documented() {
        if let Ok(attempt) = std::env::var(CHILD) {
            install(Seccomp::Enforce).unwrap();
            return attempted(&attempt);
        }
        assert!(ended("nothing").success());
        for fatal in ["execute", "trace", "become"] {
            assert_eq!(ended(fatal).signal(), Some(libc::SIGSYS), "{fatal}");
        }
        for refused in ["link", "packets", "code", "others"] {
            assert!(ended(refused).success(), "{refused}");
        }
    }

    fn attempted(attempt: &str) {
        use nix::errno::Errno;
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        match attempt {
            // What the daemon does all the time.
            "nothing" => {
                let text = std::thread::spawn(|| std::fs::read_to_string("/proc/self/status"));
                assert!(text.join().unwrap().unwrap().contains("Seccomp:\t2"));
            }
            "execute" => drop(nix::unistd::execv(c"/bin/true", &[c"true"])),
            // SAFETY: the request takes no further argument and touches no memory.
            "trace" => drop(unsafe { libc::ptrace(libc::PTRACE_TRACEME) }),
            "become" => drop(nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534))),
            "link" => {
                let made = nix::unistd::symlinkat("a", nix::fcntl::AT_FDCWD, "/proc/b");
                assert_eq!(made, Err(Errno::EPERM));
            }
            "packets" => {
                let family = AddressFamily::Packet;
                let made = socket(family, SockType::Raw, SockFlag::empty(), None);
                assert_eq!(made.map(drop), Err(Errno::EPERM));
            }
            "code" => {
                let (code, flags) =
                    (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                // SAFETY: memory at a place of the kernel's choice, which nothing refers to.
                let made = unsafe { libc::mmap(std::ptr::null_mut(), 4096, code, flags, -1, 0) };
                assert_eq!((made, Errno::last()), (libc::MAP_FAILED, Errno::EPERM));
            }
            "others" => {
                let found = aya::programs::loaded_programs().next().unwrap();
                assert!(found.is_err(), "programs of others can be listed");
            }
            other => panic!("no attempt {other:?}"),
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_forbidden() {
        let allowed = allowed::rules().unwrap();
        assert!(allowed.len() > 60, "{}", allowed.len());
        for call in forbidden::rules().keys() {
            assert!(!allowed.contains_key(call), "system call {call} is in both lists");
        }
        // Allowed, so that the answer of the filter that knows them counts.
        assert!(forbidden::unavailable().keys().all(|call| allowed.contains_key(call)));
    }

    #[test]
    fn every_filter_compiles() {
        let allowed = allowed::rules().unwrap();
        assert!(program(allowed, SeccompAction::Errno(1), SeccompAction::Allow).is_ok());
        assert!(listed(forbidden::rules(), SeccompAction::KillProcess).is_ok());
        assert!(listed(forbidden::unavailable(), SeccompAction::Errno(38)).is_ok());
    }
}

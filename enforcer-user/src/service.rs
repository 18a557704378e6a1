//! What the service manager is told (sd_notify(3)). Without `NOTIFY_SOCKET` nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;

/// Every workload is enforced.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The policy is being loaded anew; [`ready`] must follow.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Type=notify-reload wants the time in the same message.
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

/// The daemon stops; the datapath goes on.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// How often [`alive`] must be called: half of what the service manager allows; `None` if it does not watch.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The daemon is alive and its loops turn.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager was not reached over NOTIFY_SOCKET");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// Set in the process that this test starts of itself: NOTIFY_SOCKET is the environment's, and a test
    /// must not change its own.
    const CHILD: &str = "ENFORCER_SERVICE_TEST_CHILD";

    #[test]
    fn the_service_manager_hears_every_state() {
        if std::env::var_os(CHILD).is_some() {
            ready("2 workloads");
            reloading();
            alive();
            status("busy");
            stopping();
            assert_eq!(watchdog_interval(), Some(Duration::from_secs(15)));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service::tests::the_service_manager_hears_every_state"])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "30000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        socket.set_nonblocking(true).unwrap();
        let hear = || {
            let mut buffer = [0; 256];
            let bytes = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..bytes].to_vec()).unwrap()
        };
        assert_eq!(hear(), "READY=1\nSTATUS=2 workloads\n");
        let reload = hear();
        assert!(reload.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reload}");
        assert_eq!([hear(), hear(), hear()], ["WATCHDOG=1\n", "STATUS=busy\n", "STOPPING=1\n"]);
    }
}

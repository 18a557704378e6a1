//! Orders that only a debug build of the daemon obeys (`enforcer_user::fault`): its death at a point, another clock, no
//! ticks.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_user::fault::KillPoint;
use nix::sys::signal::Signal;

use super::{Enforcer, READY};

impl Enforcer {
    /// Orders the daemon's death at a point, reached for the nth time from now on.
    pub fn kill_at(&self, point: KillPoint, nth: u32) -> Result<()> {
        self.order_fault("kill", &format!("{} {nth}", point.name()))
    }

    /// Takes back every order to die.
    pub fn kill_no_more(&self) -> Result<()> {
        self.order_fault("kill", "")
    }

    /// Sets the daemon's wall clock off by some seconds.
    pub fn shift_clock(&self, seconds: i64) -> Result<()> {
        self.order_fault("clock", &seconds.to_string())
    }

    /// From now on, what is wrong with attachments must be noticed without the tick that looks at all of them.
    pub fn hold_ticks(&self) -> Result<()> {
        self.order_fault("no_ticks", "")
    }

    /// Lets the tick look again.
    pub fn release_ticks(&self) -> Result<()> {
        fs::remove_file(self.fault_folder().join("no_ticks")).context("no tick is held")
    }

    /// In one rename: the daemon looks at any time.
    fn order_fault(&self, name: &str, text: &str) -> Result<()> {
        let folder = self.fault_folder();
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("new"), text)?;
        fs::rename(folder.join("new"), folder.join(name)).context("the fault is not ordered")
    }

    /// Waits until SIGKILL has ended the daemon; any other end is an error.
    pub fn wait_killed(&mut self) -> Result<()> {
        let child = self.process.as_mut().context("no daemon runs")?;
        let deadline = Instant::now() + READY;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            ensure!(
                Instant::now() < deadline,
                "the daemon lives on after {READY:?}; its log:\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        self.process = None;
        ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "the daemon ended with {status}; its log:\n{}",
            self.log_tail()
        );
        Ok(())
    }
}

//! A long-lived connection that is used now and then, as a person at a terminal does.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::host::Host;
use crate::tcp::{End, PATIENCE, dial};

/// A long-lived connection to a [`crate::tcp::Service::Echo`], used now and then.
#[derive(Debug)]
pub struct Interactive {
    stream: TcpStream,
    exchanges: u64,
}

impl Interactive {
    /// Connects and makes one exchange.
    pub fn open(host: &Host, to: SocketAddr) -> Result<Self> {
        let mut interactive = Self { stream: dial(host, to, PATIENCE)?.stream()?, exchanges: 0 };
        interactive.exchange()?;
        Ok(interactive)
    }

    /// Writes eight bytes that were never written before and waits for exactly them to come back.
    pub fn exchange(&mut self) -> Result<Duration> {
        self.exchanges += 1;
        let start = Instant::now();
        self.stream.write_all(&self.exchanges.to_be_bytes()).context("writing")?;
        let mut answer = [0; 8];
        self.stream.read_exact(&mut answer).context("waiting for the echo")?;
        ensure!(answer == self.exchanges.to_be_bytes(), "the echo is not what was written");
        Ok(start.elapsed())
    }

    /// Waits, without writing, for the connection to end. Returns how.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<End> {
        self.stream.set_read_timeout(Some(timeout))?;
        match self.stream.read(&mut [0; 8]) {
            Ok(0) => Ok(End::Closed),
            Ok(n) => bail!("{n} bytes arrived that were not asked for"),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset => Ok(End::Reset),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    bail!("the connection is still open after {timeout:?}")
                }
                kind => Ok(End::Failed(kind)),
            },
        }
    }

    /// The local address and port.
    pub fn local(&self) -> Result<SocketAddr> {
        self.stream.local_addr().context("the stream has no local address")
    }
}

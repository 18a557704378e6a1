//! Both ends of a connection in one hand: who closes when, and what the other end hears of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::custom::{Custom, Protocol};
use crate::host::{Family, Host};
use crate::tcp::PATIENCE;

const TICK: Duration = Duration::from_millis(5);

/// Listens at a port of a host, for both families.
pub fn listen(host: &Host, port: u16) -> Result<TcpListener> {
    host.run(|| Ok(TcpListener::bind(("::", port))?))
}

/// Both ends of a new connection from a port of the caller's choice: the caller's, the listener's.
pub fn connect(
    from: &Host,
    port: u16,
    to: SocketAddr,
    listener: &TcpListener,
) -> Result<[TcpStream; 2]> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let near = Custom::new(from, family, Protocol::Tcp)?.bound_to(port)?.connect(to)?;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok([near, far])
}

/// A line in each direction.
pub fn exchange(near: &mut TcpStream, far: &mut TcpStream) -> Result<()> {
    pass(near, far, b"a pint").context("to the server")?;
    pass(far, near, b"cheers").context("to the client")
}

/// Text from one end to the other.
pub fn pass(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> Result<()> {
    from.write_all(text)?;
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard)?;
    ensure!(heard == text, "heard {heard:?}");
    Ok(())
}

/// Closes with a reset.
pub fn abort(stream: TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    drop(stream);
    Ok(())
}

/// Waits until an end hears that it was reset.
pub fn wait_reset(stream: &mut TcpStream) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // Where the direction towards this end is closed already, only its error tells.
    loop {
        if let Some(error) = stream.take_error()? {
            return expect_reset(&error);
        }
        match stream.read(&mut [0]) {
            Err(error) => return expect_reset(&error),
            Ok(count) => ensure!(count == 0, "data instead of a reset"),
        }
        ensure!(Instant::now() < deadline, "no reset was heard");
        std::thread::sleep(TICK);
    }
}

fn expect_reset(error: &std::io::Error) -> Result<()> {
    let is_reset = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    ensure!(is_reset, "not a reset: {error}");
    Ok(())
}

/// Waits until a host has a connection in a state, as `ss` names it, or until it has none.
pub fn wait_state(host: &Host, state: &str, present: bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while has_state(host, state)? != present {
        let now = if present { "nothing is" } else { "something still is" };
        ensure!(Instant::now() < deadline, "host {}: {now} in state {state}", host.label());
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Whether a host has a connection in a state.
pub fn has_state(host: &Host, state: &str) -> Result<bool> {
    let mut list = host.command("ss");
    let found = crate::need::run(list.args(["-Htn", "state", state]))?;
    Ok(!found.trim().is_empty())
}

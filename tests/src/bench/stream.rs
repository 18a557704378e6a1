//! Throughput: streams from client to server, as fast as they go.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::stage::Stage;
use crate::host::Host;
use crate::tcp::PATIENCE;

/// Bytes of one write and one read.
const CHUNK: usize = 128 * 1024;

/// Streams to one port of a stage for a time. Returns what arrived, Gbit/s.
#[expect(clippy::cast_precision_loss, reason = "byte counts stay below 2^52")]
pub fn measure(stage: &Stage, port: u16, streams: usize, time: Duration) -> Result<f64> {
    let any = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port);
    let listener = stage.net.server.run(|| TcpListener::bind(any).context("cannot listen"))?;
    let sinks = std::thread::spawn(move || accept_all(&listener, streams));
    let start = Instant::now();
    let sources: Vec<_> =
        (0..streams).map(|_| source(&stage.net.client, stage.at(port), start + time)).collect();
    for source in sources {
        join(source).with_context(|| format!("a stream when {}", stage.setting.name()))?;
    }
    let bytes = join(sinks)?;
    Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9)
}

/// Takes the streams and reads them to their ends; returns the bytes of all.
fn accept_all(listener: &TcpListener, streams: usize) -> Result<u64> {
    let mut sinks = Vec::with_capacity(streams);
    for _ in 0..streams {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        sinks.push(std::thread::spawn(move || drain(stream)));
    }
    sinks.into_iter().map(join).sum()
}

fn drain(mut stream: TcpStream) -> Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(bytes),
            n => bytes += n as u64,
        }
    }
}

fn source(host: &Host, to: SocketAddr, end: Instant) -> JoinHandle<Result<()>> {
    host.spawn(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("connecting")?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let chunk = vec![0; CHUNK];
        while Instant::now() < end {
            stream.write_all(&chunk).context("sending")?;
        }
        stream.shutdown(Shutdown::Write).context("ending")
    })
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

//! Bulk streams whose every byte is known: sent one way or the other, and compared by hash.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::tcp::{PATIENCE, dial};

const CHUNK: usize = 64 * 1024;

/// Sends `bytes` of [`pattern`] to a [`crate::tcp::Service::Digest`] and fails unless what arrived is what was sent.
pub fn upload(host: &Host, to: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = dial(host, to, PATIENCE)?.stream()?;
    let sent = write_pattern(&mut stream, bytes).context("sending")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; blake3::OUT_LEN];
    stream.read_exact(&mut answer).context("waiting for the digest")?;
    ensure!(sent == answer, "{bytes} bytes to {to} arrived changed");
    Ok(())
}

/// The same at a few megabytes a second: a stream that stays open and leaves captures their time.
pub fn upload_slowly(host: &Host, to: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = Slow(dial(host, to, PATIENCE)?.stream()?);
    let sent = write_pattern(&mut stream, bytes).context("sending")?;
    stream.0.shutdown(Shutdown::Write)?;
    let mut answer = [0; blake3::OUT_LEN];
    stream.0.read_exact(&mut answer).context("waiting for the digest")?;
    ensure!(sent == answer, "{bytes} bytes to {to} arrived changed");
    Ok(())
}

/// As [`download`], as slow as [`upload_slowly`].
pub fn download_slowly(host: &Host, to: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = Slow(dial(host, to, PATIENCE)?.stream()?);
    compare(&mut stream, to, bytes)
}

/// Rests before every chunk.
struct Slow(TcpStream);

const REST: Duration = Duration::from_millis(10);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::thread::sleep(REST);
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Read for Slow {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(REST);
        self.0.read(bytes)
    }
}

/// Reads the stream of a [`crate::tcp::Service::Source`] and fails unless it is `bytes` of [`pattern`].
pub fn download(host: &Host, to: SocketAddr, bytes: u64) -> Result<()> {
    compare(&mut dial(host, to, PATIENCE)?.stream()?, to, bytes)
}

fn compare(stream: &mut impl Read, to: SocketAddr, bytes: u64) -> Result<()> {
    let (hash, length) = hash_to_end(stream).context("receiving")?;
    ensure!(length == bytes, "{length} of {bytes} bytes arrived from {to}");
    ensure!(
        hash == write_pattern(&mut io::sink(), bytes)?,
        "{bytes} bytes from {to} arrived changed"
    );
    Ok(())
}

/// Byte `offset` of the bulk stream: a multiplicative hash of the position, so that shifted, repeated or
/// swapped segments change the digest.
#[must_use]
pub fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).to_be_bytes()[7]
}

/// Writes the first `bytes` of the bulk stream; returns their hash.
pub(crate) fn write_pattern(out: &mut impl Write, bytes: u64) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut sent = 0;
    while sent < bytes {
        let until = bytes.min(sent + CHUNK as u64);
        chunk.clear();
        chunk.extend((sent..until).map(pattern));
        hasher.update(&chunk);
        out.write_all(&chunk)?;
        sent = until;
    }
    Ok(hasher.finalize())
}

/// Reads to the end of a stream; returns hash and length of what came.
pub(crate) fn hash_to_end(stream: &mut impl Read) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut length = 0;
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok((hasher.finalize(), length)),
            n => {
                hasher.update(&chunk[..n]);
                length += n as u64;
            }
        }
    }
}

//! Opening the control socket: one daemon an instance, and nobody gets in but its own user, and the
//! members of a group if there is one.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Group};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

use super::SOCKET_NAME;

/// The lock's file name inside the instance's run folder; it holds the daemon's process id.
const LOCK_NAME: &str = "daemon.lock";

/// Why the control socket could not be opened.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another daemon runs on this instance.
    #[error(
        "instance folder {}: an enforcer already runs on it (pid {pid}); stop it, or give this one \
         another `instance`", dir.display()
    )]
    Taken {
        /// The instance's run folder.
        dir: PathBuf,
        /// The process id of the other one, or `unknown`.
        pid: String,
    },
    /// A path that should be the socket is something else.
    #[error("{}: not a socket; expected the control socket or nothing, remove it first", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// There is no group of this name.
    #[error("control.group {0:?}: no such group; `groupadd {0}` makes it")]
    NoGroup(String),
    /// A step failed.
    #[error("cannot {step} {}: {source}; the control socket needs root and a writable run_dir", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening control socket and the lock that makes its daemon the only one. Dropping it removes the
/// socket and frees the lock.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    // Held for the life of the daemon; the kernel frees it when the process ends, however it ends.
    _lock: Flock<File>,
}

impl ControlSocket {
    /// Makes `dir` if need be, takes the lock, removes a socket that a dead daemon left, and listens.
    /// Folder and socket are for their owner (modes 0700 and 0600), and with a `group` for its members
    /// too (0750 and 0660). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`SocketError::Taken`] when another daemon holds the instance; otherwise what failed, on what.
    pub async fn bind(dir: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let group = group.map(find_group).transpose()?;
        make_dir(dir)?;
        let lock = lock(dir)?;
        let path = dir.join(SOCKET_NAME);
        clear_stale(dir, &path).await?;
        let listener = UnixListener::bind(&path).map_err(io_error("listen on", &path))?;
        // The folder is 0700 still, so nobody can connect before the mode is narrowed.
        restrict(&path, 0o600)?;
        if let Some(group) = group {
            open_to(group, &path, 0o660)?;
            open_to(group, dir, 0o750)?;
        }
        Ok(Self { listener, path, _lock: lock })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "control socket not removed");
        }
    }
}

/// The folders above are made searchable, and no more: what each instance's folder lets in is its own
/// affair.
fn make_dir(dir: &Path) -> Result<(), SocketError> {
    if let Some(above) = dir.parent().filter(|above| !above.exists()) {
        let made = DirBuilder::new().recursive(true).mode(0o711).create(above);
        made.map_err(io_error("make the folder", above))?;
        // The umask may have narrowed it.
        restrict(above, 0o711)?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io_error("make the folder", dir))?;
    // It may have been there before with a wider mode.
    restrict(dir, 0o700)
}

/// The number of a group.
///
/// # Errors
/// [`SocketError::NoGroup`].
pub fn find_group(name: &str) -> Result<Gid, SocketError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(SocketError::NoGroup(name.to_owned())),
    }
}

fn open_to(group: Gid, path: &Path, mode: u32) -> Result<(), SocketError> {
    std::os::unix::fs::chown(path, None, Some(group.as_raw()))
        .map_err(io_error("give to the control group", path))?;
    restrict(path, mode)
}

fn restrict(path: &Path, mode: u32) -> Result<(), SocketError> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(io_error("restrict the mode of", path))
}

fn lock(dir: &Path) -> Result<Flock<File>, SocketError> {
    let path = dir.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(io_error("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // It says to people who holds the lock; where there is no room for it, the lock holds as well.
            if let Err(error) = write_pid(&mut lock) {
                tracing::warn!(file = %path.display(), %error, "process id not written");
            }
            Ok(lock)
        }
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            Err(SocketError::Taken { dir: dir.to_owned(), pid: read_pid(file) })
        }
        Err((_, errno)) => Err(io_error("lock", &path)(errno.into())),
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: File) -> String {
    let mut text = String::new();
    let read = file.take(16).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => pid.to_string(),
        _ => "unknown".to_owned(),
    }
}

/// With the lock held a socket found here is a dead daemon's, unless somebody removed the lock's file
/// under a live one: that one still answers, and is left alone.
async fn clear_stale(dir: &Path, path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt as _;
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("look at", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    if let Ok(stream) = UnixStream::connect(path).await {
        let pid = stream.peer_cred().ok().and_then(|cred| cred.pid());
        let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
        return Err(SocketError::Taken { dir: dir.to_owned(), pid });
    }
    std::fs::remove_file(path).map_err(io_error("remove the stale socket", path))
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError + use<> {
    let path = path.to_owned();
    move |source| SocketError::Io { step, path, source }
}

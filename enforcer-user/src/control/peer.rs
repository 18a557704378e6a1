//! Who asks: the credentials that the kernel keeps of a Unix socket's other end (unix(7),
//! `SO_PEERCRED`). They are those of the moment of its connect and cannot be forged.

use std::fmt;
use std::io;

use tokio::net::UnixStream;

/// The process at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    uid: u32,
    gid: u32,
    /// None for a process of another pid namespace.
    pid: Option<i32>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let found = stream.peer_cred()?;
        Ok(Self { uid: found.uid(), gid: found.gid(), pid: found.pid() })
    }

    /// Its user.
    pub(super) fn uid(self) -> u32 {
        self.uid
    }

    /// Whether it may change what is enforced: root, and the daemon's own user. The socket's mode lets
    /// the control group in to read.
    pub(super) fn may_change(self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)?;
        match self.pid {
            Some(pid) => write!(f, " pid {pid}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_says_who_is_there() {
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = Peer::of(&near).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!((peer.uid, peer.pid), (nix::unistd::geteuid().as_raw(), Some(own)));
        assert!(peer.may_change());
    }

    #[test]
    fn others_may_not_change_anything() {
        let own = nix::unistd::geteuid().as_raw();
        let other = Peer { uid: own + 65_534, gid: 0, pid: None };
        assert!(!other.may_change(), "membership in root's group is not root");
        assert!(Peer { uid: 0, gid: 100, pid: Some(1) }.may_change());
        assert_eq!(other.to_string(), format!("uid {} gid 0", own + 65_534));
    }
}

//! Listening sockets: when to accept, how many at once, and when to pause.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
pub use sdk::host::ListenerId;
use sdk::host::OwnerId;

use crate::driver::Watch;
use crate::socket;

/// Connections accepted from one listener in one turn, at most; the rest follow on the next turn.
pub(crate) const ACCEPTS_PER_TURN: usize = 16;

/// Listeners at once; beyond it [`ListenError::TooMany`].
pub(crate) const LISTENERS_MAX: usize = 256;

/// Rest after the system or our table had no room for a connection. It stays in the listen queue meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// Why an address cannot be listened on.
#[derive(Debug)]
pub enum ListenError {
    /// Somebody listens there already.
    InUse(SocketAddr),
    /// The address is none of this machine's.
    NotAvailable(SocketAddr),
    /// The port needs a privilege.
    Denied(SocketAddr),
    /// The reactor has as many listeners as it may have.
    TooMany,
    /// Another refusal of the operating system.
    System(SocketAddr, std::io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(addr) => write!(f, "{addr} is in use"),
            Self::NotAvailable(addr) => write!(f, "{addr} is no address of this machine"),
            Self::Denied(addr) => write!(f, "listening on {addr} is not permitted"),
            Self::TooMany => f.write_str("the reactor has as many listeners as it may have"),
            Self::System(addr, _) => write!(f, "cannot listen on {addr}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(_, source) => Some(source),
            Self::InUse(_) | Self::NotAvailable(_) | Self::Denied(_) | Self::TooMany => None,
        }
    }
}

impl ListenError {
    pub(crate) fn new(addr: SocketAddr, errno: Errno) -> Self {
        match errno {
            Errno::ADDRINUSE => Self::InUse(addr),
            Errno::ADDRNOTAVAIL => Self::NotAvailable(addr),
            Errno::ACCESS | Errno::PERM => Self::Denied(addr),
            other => Self::System(addr, other.into()),
        }
    }
}

/// One listening socket.
pub(crate) struct Listener {
    pub(crate) id: ListenerId,
    /// Who lent it; none for the engine's own.
    pub(crate) owner: Option<OwnerId>,
    pub(crate) fd: OwnedFd,
    pub(crate) watch: Watch,
    /// Connections may be waiting.
    pub(crate) ready: bool,
    /// Not before this.
    pub(crate) paused_until: Option<Instant>,
}

/// All listeners of a reactor.
#[derive(Default)]
pub(crate) struct Listeners {
    pub(crate) list: Vec<Listener>,
    /// Number of the next one.
    pub(crate) next: u32,
}

/// What came out of one attempt.
pub(crate) enum Attempt {
    /// A connection: socket, our end and the peer's, if they are IP addresses.
    Stream(OwnedFd, Option<(SocketAddr, SocketAddr)>),
    /// That one is gone; try the next.
    Skip,
    /// None is waiting.
    Empty,
    /// There is no room for it.
    NoRoom(Errno),
}

impl Listener {
    pub(crate) fn accept(&mut self) -> Attempt {
        match socket::accept(self.fd.as_fd()) {
            Ok((fd, ends)) => Attempt::Stream(fd, ends),
            Err(Errno::AGAIN) => Attempt::Empty,
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                Attempt::NoRoom(errno)
            }
            // accept(2): errors of a connection that died in the queue are passed on here.
            Err(_) => Attempt::Skip,
        }
    }

    /// Whether to try to accept at `now`.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.ready && self.paused_until.is_none_or(|until| now >= until)
    }

    pub(crate) fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + PAUSE);
    }
}

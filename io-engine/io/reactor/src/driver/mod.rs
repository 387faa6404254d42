//! The two ways of talking to the kernel, behind one set of calls.
//!
//! A driver arms one-shot readiness watches, starts file requests, and sleeps. It knows neither streams nor operations: what
//! it reports are the tokens and numbers it was given.

mod epoll;
mod pool;
mod uring;

use std::fmt;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{DriverChoice, Limits, ReactorError};
use crate::files::Request;
use crate::mailbox::Bell;
use crate::stats::ReactorStats;

pub(crate) use epoll::Epoll;
pub(crate) use uring::{TaskRun, Uring, probe_ring};

/// Which driver runs a reactor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriverKind {
    /// io_uring.
    Uring,
    /// epoll and a pool of threads.
    Epoll,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        })
    }
}

/// What a watch or request belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Nobody wants to know.
    Nobody,
    /// A stream's slot and the low bits of its generation.
    Stream(u32, u32),
    /// A listener's number.
    Listener(u32),
    /// The bell.
    Bell,
    /// A file operation's index.
    File(u32),
}

/// A [`Source`] and a direction as one number for the kernel to keep: kind in the top 3 bits, direction in the next,
/// then 28 bits of generation, then 32 bits of index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token(pub(crate) u64);

/// Bits of a generation that fit into a token. A watch would have to outlive 2^28 tenants of its slot to be mistaken.
pub(crate) const GENERATION_MASK: u32 = (1 << 28) - 1;

const WRITE_BIT: u64 = 1 << 60;

/// What is watched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Token {
    pub(crate) fn new(source: Source, direction: Direction) -> Self {
        let (kind, generation, index) = match source {
            Source::Nobody => (0u64, 0, 0),
            Source::Stream(slot, generation) => (1, generation & GENERATION_MASK, slot),
            Source::Listener(id) => (2, 0, id),
            Source::Bell => (3, 0, 0),
            Source::File(index) => (4, 0, index),
        };
        let write = match direction {
            Direction::Read => 0,
            Direction::Write => WRITE_BIT,
        };
        Self(kind << 61 | write | u64::from(generation) << 32 | u64::from(index))
    }

    pub(crate) fn source(self) -> Source {
        let index = (self.0 & 0xffff_ffff) as u32;
        match self.0 >> 61 {
            1 => Source::Stream(index, (self.0 >> 32) as u32 & GENERATION_MASK),
            2 => Source::Listener(index),
            3 => Source::Bell,
            4 => Source::File(index),
            _ => Source::Nobody,
        }
    }

    pub(crate) fn direction(self) -> Direction {
        if self.0 & WRITE_BIT == 0 {
            Direction::Read
        } else {
            Direction::Write
        }
    }
}

/// What a driver knows about one watched descriptor; kept by its owner.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Watch {
    /// Readability will be reported.
    pub(crate) read: bool,
    /// Writability will be reported.
    pub(crate) write: bool,
    /// The descriptor is in the epoll set.
    pub(crate) registered: bool,
}

/// A fired watch (`result` has no meaning) or an answered request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) token: Token,
    pub(crate) result: i32,
}

/// The driver of one reactor.
pub(crate) enum Driver {
    Uring(Box<Uring>),
    Epoll(Box<Epoll>),
}

/// Calls `$call` on whichever driver it is.
macro_rules! either {
    ($driver:expr, $it:ident => $call:expr) => {
        match $driver {
            Driver::Uring($it) => $call,
            Driver::Epoll($it) => $call,
        }
    };
}

impl Driver {
    /// Sets up the driver `choice` asks for; `Auto` falls back to epoll and logs why.
    pub(crate) fn new(
        choice: DriverChoice,
        limits: &Limits,
        bell: &Arc<Bell>,
        stats: &Arc<ReactorStats>,
    ) -> Result<Self, ReactorError> {
        let epoll = || {
            let epoll = Epoll::new(limits, bell.clone(), stats.clone());
            epoll
                .map(|e| Self::Epoll(Box::new(e)))
                .map_err(ReactorError::Epoll)
        };
        let uring = || Uring::new(limits, stats.clone()).map(|u| Self::Uring(Box::new(u)));
        match choice {
            DriverChoice::Epoll => epoll(),
            DriverChoice::Uring => uring().map_err(ReactorError::Uring),
            DriverChoice::Auto => uring().or_else(|error| {
                tracing::info!(%error, "io_uring is not usable, running on epoll");
                epoll()
            }),
        }
    }

    pub(crate) fn kind(&self) -> DriverKind {
        match self {
            Self::Uring(_) => DriverKind::Uring,
            Self::Epoll(_) => DriverKind::Epoll,
        }
    }

    /// Arms a one-shot watch: exactly one completion with this token follows when the descriptor is, or becomes,
    /// readable (writable, closed, failed). Does nothing if the watch is armed.
    #[inline]
    pub(crate) fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        source: Source,
        direction: Direction,
        watch: &mut Watch,
    ) -> rustix::io::Result<()> {
        either!(self, it => it.watch(fd, source, direction, watch))
    }

    /// Notes that a watch has fired.
    pub(crate) fn note_fired(
        &mut self,
        fd: BorrowedFd<'_>,
        source: Source,
        direction: Direction,
        watch: &mut Watch,
    ) {
        either!(self, it => it.note_fired(fd, source, direction, watch));
    }

    /// Forgets a descriptor that is about to be closed or given away.
    pub(crate) fn unwatch(&mut self, fd: BorrowedFd<'_>, source: Source, watch: &mut Watch) {
        either!(self, it => it.unwatch(fd, source, watch));
    }

    /// Starts a file request; its completion has the token of [`Source::File`]`(index)`. `false` when the kernel takes
    /// no more for the moment.
    ///
    /// The memory behind `request` must stay valid, and untouched by anybody else, until that completion; `fd` must stay
    /// open until then. [`crate::files::Files`] keeps both.
    #[inline]
    pub(crate) fn start(&mut self, index: u32, fd: RawFd, request: Request) -> bool {
        either!(self, it => it.start(index, fd, request))
    }

    /// Hands the kernel what is queued and collects what is done, without waiting. Meant to be called in a tight loop.
    #[inline]
    pub(crate) fn poll(&mut self, out: &mut Vec<Completion>) {
        either!(self, it => it.poll(out));
    }

    /// Whether started requests wait for the next call to be handed to the kernel.
    pub(crate) fn holds_requests(&self) -> bool {
        match self {
            Self::Uring(uring) => uring.holds_requests(),
            Self::Epoll(_) => false,
        }
    }

    /// Whether a file request has completed that [`Driver::sleep`] would not see by itself; asked after
    /// [`Bell::announce_sleep`].
    pub(crate) fn has_news(&self) -> bool {
        match self {
            Self::Uring(_) => false,
            Self::Epoll(epoll) => epoll.has_news(),
        }
    }

    /// Waits until something completes, a watch fires, or `timeout` has passed; may return early with nothing.
    pub(crate) fn sleep(&mut self, timeout: Option<Duration>, out: &mut Vec<Completion>) {
        either!(self, it => it.sleep(timeout, out));
    }

    /// Cancels every request that can be cancelled; completions follow.
    pub(crate) fn cancel_all(&mut self) {
        either!(self, it => it.cancel_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_say_what_they_were_made_of() {
        let sources = [
            Source::Nobody,
            Source::Stream(u32::MAX, GENERATION_MASK),
            Source::Stream(0, 1),
            Source::Listener(7),
            Source::Bell,
            Source::File(32_767),
        ];
        for source in sources {
            for direction in [Direction::Read, Direction::Write] {
                let token = Token::new(source, direction);
                assert_eq!((token.source(), token.direction()), (source, direction));
            }
        }
    }
}

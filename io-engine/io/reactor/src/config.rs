//! What a reactor is told at start, and why it may refuse.

use std::fmt;
use std::io;
use std::time::Duration;

use buffers::ArenaError;

/// Which kernel interface moves files and sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DriverChoice {
    /// io_uring where it works, else epoll; the choice is logged and reported.
    #[default]
    Auto,
    /// io_uring or no start.
    Uring,
    /// epoll and a pool of threads.
    Epoll,
}

/// Sizes of a reactor's tables. All memory for them is taken at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Streams open at once, 1 to 65 536. Beyond it connections wait in the listen queue and attaching is refused.
    pub streams: u32,
    /// Files lent at once, 1 to 65 535. Beyond it lending is refused.
    pub files: u32,
    /// File operations in flight, 1 to 32 768. Beyond it operations are handed back.
    pub file_ops: u32,
    /// Threads of the epoll driver for file operations, 1 to 64; io_uring needs none.
    pub file_threads: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 4096,
            files: 1024,
            file_ops: 4096,
            file_threads: 4,
        }
    }
}

/// Options set on every accepted and attached TCP socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// Congestion control by its kernel name (`cubic`, `reno`, …); `None` keeps the system's default.
    pub congestion: Option<String>,
    /// How long sent data may stay unacknowledged before the connection fails (`TCP_USER_TIMEOUT`); zero keeps the
    /// system's default. It frees the queues of a host that died without a word.
    pub user_timeout: Duration,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            congestion: None,
            user_timeout: Duration::from_secs(30),
        }
    }
}

/// How a reactor is built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReactorConfig {
    /// CPU to pin the calling thread to; `None` lets it float.
    pub cpu: Option<usize>,
    /// Kernel interface.
    pub driver: DriverChoice,
    /// Size of the buffer arena in bytes, rounded up to 1 MiB.
    pub arena_bytes: usize,
    /// Messages that may wait; beyond it senders are refused. 1 to 65 536.
    pub mailbox: usize,
    /// Longest spin after the last send in µs; 0 never spins for a host.
    pub spin_us_max: u32,
    /// Longest spin for a file operation in flight in µs; 0 never spins for a file.
    pub spin_file_us_max: u32,
    /// Table sizes.
    pub limits: Limits,
    /// Options of TCP sockets.
    pub sockets: SocketOptions,
    /// File operations in flight for longer are counted as overdue. What follows from it is the caller's business.
    pub overdue_after: Duration,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self {
            cpu: None,
            driver: DriverChoice::Auto,
            arena_bytes: 64 << 20,
            mailbox: 1024,
            spin_us_max: 100,
            spin_file_us_max: 0,
            limits: Limits::default(),
            sockets: SocketOptions::default(),
            overdue_after: Duration::from_secs(10),
        }
    }
}

impl ReactorConfig {
    /// # Errors
    /// [`ReactorError::Config`] with the name of the first field that is out of range.
    pub(crate) fn check(&self) -> Result<(), ReactorError> {
        let limits = &self.limits;
        let fields: [(&'static str, u64, u64); 5] = [
            ("limits.streams", limits.streams.into(), 65_536),
            ("limits.files", limits.files.into(), 65_535),
            ("limits.file_ops", limits.file_ops.into(), 32_768),
            ("limits.file_threads", limits.file_threads.into(), 64),
            ("mailbox", self.mailbox as u64, 65_536),
        ];
        for (name, value, max) in fields {
            if value == 0 || value > max {
                return Err(ReactorError::Config(name));
            }
        }
        Ok(())
    }
}

/// Why a reactor could not start.
#[derive(Debug)]
pub enum ReactorError {
    /// The named field is out of its range.
    Config(&'static str),
    /// There is no arena.
    Arena(ArenaError),
    /// The thread cannot be pinned to this CPU.
    Pin(usize, io::Error),
    /// io_uring was demanded and does not work here.
    Uring(io::Error),
    /// The epoll driver could not be set up.
    Epoll(io::Error),
    /// The wake-up descriptor could not be made or watched.
    Wake(io::Error),
}

impl fmt::Display for ReactorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(field) => write!(f, "reactor setting {field} is out of range"),
            Self::Arena(_) => f.write_str("reactor has no arena"),
            Self::Pin(cpu, _) => write!(f, "cannot pin the reactor to CPU {cpu}"),
            Self::Uring(source) if source.kind() == io::ErrorKind::OutOfMemory => f.write_str(
                "the kernel has no memory for io_uring; raise the limit of locked memory (LimitMEMLOCK=, ulimit -l), or use \
                 the driver epoll or auto",
            ),
            Self::Uring(_) => f.write_str("io_uring is not usable; use the driver epoll or auto"),
            Self::Epoll(_) => f.write_str("cannot set up the epoll driver"),
            Self::Wake(_) => f.write_str("cannot set up the wake-up descriptor"),
        }
    }
}

impl std::error::Error for ReactorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(_) => None,
            Self::Arena(source) => Some(source),
            Self::Pin(_, source)
            | Self::Uring(source)
            | Self::Epoll(source)
            | Self::Wake(source) => Some(source),
        }
    }
}

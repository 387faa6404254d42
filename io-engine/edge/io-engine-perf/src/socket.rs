//! TCP sockets as the load generator wants them: nonblocking, no delay, congestion control and CPU by choice.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_tcp_congestion;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// Connects to the first of `addresses` that answers within `timeout` each.
///
/// # Errors
/// That of the last address tried, or `NotFound` if there is none.
pub fn connect(
    addresses: &[SocketAddr],
    congestion: Option<&str>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(address, timeout) {
            Ok(stream) => {
                prepare(&stream, congestion)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sets up a connected socket.
///
/// # Errors
/// Those of the socket options; an unknown congestion control is `NotFound`.
pub fn prepare(stream: &TcpStream, congestion: Option<&str>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    if let Some(name) = congestion {
        set_tcp_congestion(stream, name)?;
    }
    Ok(())
}

/// A nonblocking listener, whose accepted sockets inherit `congestion`.
///
/// # Errors
/// Those of bind and the socket options.
pub fn listen(address: SocketAddr, congestion: Option<&str>) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    if let Some(name) = congestion {
        set_tcp_congestion(&listener, name)?;
    }
    Ok(listener)
}

/// CPU numbers are below this.
pub const CPUS_MAX: usize = rustix::thread::CpuSet::MAX_CPU;

/// CPUs the calling thread may run on, ascending; none if that cannot be told.
pub fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CPUS_MAX).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Whether the kernel gives this user the congestion control `name`; found out by asking for it.
///
/// # Errors
/// Why not: `NotFound` where there is none of that name, `PermissionDenied` where this user may not choose it.
pub fn try_congestion(name: &str) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketType, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    Ok(set_tcp_congestion(&socket, name)?)
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// Those of `sched_setaffinity`; `InvalidInput` for a CPU there is none of.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= CPUS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)?;
    Ok(())
}

/// Sleeps until one of `readable` can be read, one of `writable` written, or `timeout` is over.
///
/// # Errors
/// Those of `poll`, but for interruption.
pub fn wait<'a>(
    readable: impl Iterator<Item = &'a dyn AsFdDyn>,
    writable: impl Iterator<Item = &'a dyn AsFdDyn>,
    timeout: Duration,
) -> io::Result<()> {
    let mut fds: Vec<_> = readable
        .map(|fd| PollFd::from_borrowed_fd(fd.fd(), PollFlags::IN))
        .chain(writable.map(|fd| PollFd::from_borrowed_fd(fd.fd(), PollFlags::OUT)))
        .collect();
    let timeout = Timespec {
        tv_sec: timeout.as_secs().min(3600) as i64,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Something with a descriptor, as an object.
pub trait AsFdDyn {
    /// The descriptor.
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

/// CPU time this process has used, user and system, in nanoseconds.
pub fn process_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

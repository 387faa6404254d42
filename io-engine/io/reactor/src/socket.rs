//! Sockets: options, receiving, sending, accepting. All calls are nonblocking.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags,
    SocketType, sockopt,
};

use crate::config::SocketOptions;
use crate::log_limit::LogLimit;

/// Idle time before the first keep-alive probe, time between probes, and probes before the connection fails: a silent
/// dead host is noticed within a minute even when nothing is being sent to it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Receives into `bufs` in order.
#[inline]
pub(crate) fn recv(fd: BorrowedFd<'_>, bufs: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
    loop {
        // One buffer is the common case, and `recv` spares the kernel copying a message header in and out.
        let result = match &mut *bufs {
            [one] => rustix::net::recv(fd, &mut **one, RecvFlags::DONTWAIT).map(|(n, _)| n),
            many => {
                let mut control = RecvAncillaryBuffer::default();
                rustix::net::recvmsg(fd, many, &mut control, RecvFlags::DONTWAIT).map(|m| m.bytes)
            }
        };
        match result {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Sends from `bufs` in order. A peer that is gone is an error, not a signal.
#[inline]
pub(crate) fn send(fd: BorrowedFd<'_>, bufs: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        let result = match bufs {
            [one] => rustix::net::send(fd, one, flags),
            many => rustix::net::sendmsg(fd, many, &mut SendAncillaryBuffer::default(), flags),
        };
        match result {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Ends the sending side. One whose peer is gone already has no such side, and learns it by receiving.
pub(crate) fn end(fd: BorrowedFd<'_>) {
    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
}

/// Sets what `options` asks for and what a storage connection always wants. A socket that is not TCP keeps its own
/// ways; a refused option is logged, because a connection without it still works.
pub(crate) fn configure(
    fd: BorrowedFd<'_>,
    options: &SocketOptions,
    log: &mut LogLimit,
    now: Instant,
) {
    if !matches!(
        sockopt::socket_domain(fd),
        Ok(AddressFamily::INET | AddressFamily::INET6)
    ) {
        return;
    }
    let mut told = |what: &'static str, result: rustix::io::Result<()>| {
        if let Err(error) = result
            && log.admit(now, what)
        {
            tracing::warn!(option = what, %error, "socket option refused");
        }
    };
    // Responses are gathered into one send; waiting for more would only add delay.
    told("TCP_NODELAY", sockopt::set_tcp_nodelay(fd, true));
    told("SO_KEEPALIVE", sockopt::set_socket_keepalive(fd, true));
    told(
        "TCP_KEEPIDLE",
        sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE),
    );
    told(
        "TCP_KEEPINTVL",
        sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL),
    );
    told(
        "TCP_KEEPCNT",
        sockopt::set_tcp_keepcnt(fd, KEEPALIVE_PROBES),
    );
    let timeout_ms = u32::try_from(options.user_timeout.as_millis()).unwrap_or(u32::MAX);
    if timeout_ms != 0 {
        told(
            "TCP_USER_TIMEOUT",
            sockopt::set_tcp_user_timeout(fd, timeout_ms),
        );
    }
    if let Some(name) = &options.congestion {
        told("TCP_CONGESTION", sockopt::set_tcp_congestion(fd, name));
    }
}

/// A listening socket at `addr` and the address it got (the port, if 0 was asked for).
pub(crate) fn listen(addr: SocketAddr, backlog: u32) -> rustix::io::Result<(OwnedFd, SocketAddr)> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if addr.is_ipv6() {
        // `[::]` serves both families whatever the system's default is.
        sockopt::set_ipv6_v6only(&fd, !addr.ip().is_unspecified())?;
    }
    rustix::net::bind(&fd, &addr)?;
    rustix::net::listen(&fd, i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let local = local_addr(fd.as_fd())?;
    Ok((fd, local))
}

/// Our end of a connection and the peer's.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// Accepts one connection: the socket, and its ends if they are IP addresses.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> rustix::io::Result<(OwnedFd, Option<Ends>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (stream, peer) = rustix::net::acceptfrom_with(fd, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let ends = peer.zip(local_addr(stream.as_fd()).ok());
    Ok((
        stream,
        ends.map(|(peer, local)| (plain(local), plain(peer))),
    ))
}

fn local_addr(fd: BorrowedFd<'_>) -> rustix::io::Result<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(fd)?).map_err(|_| Errno::AFNOSUPPORT)
}

/// An IPv4 peer of a dual-stack listener, in its own family.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

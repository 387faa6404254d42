//! A listener that hands out a bounded number of connections, for servers of the control side.
//!
//! Decides: how many connections there are at a time, in all and from one address, and how long one may stay without saying
//! what it wants. One too many is closed as it is accepted. Does not know a protocol.
//!
//! Invariant: a connection has its place until it is dropped.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use engine::peers::counted_as;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// One refused connection in this time is worth a line in the log.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What a [`BoundedListener`] allows.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub total: usize,
    /// Connections at a time from one address.
    pub per_address: usize,
    /// Time a connection has to send `first_bytes`; then it fails with [`io::ErrorKind::TimedOut`].
    pub patience: Duration,
    /// Bytes after which a connection may stay as long as it likes; [`usize::MAX`] makes `patience` its whole life.
    pub first_bytes: usize,
}

/// See the module documentation.
#[derive(Debug)]
pub struct BoundedListener {
    listener: TcpListener,
    limits: ConnectionLimits,
    places: Arc<Mutex<Places>>,
    warned: Option<Instant>,
}

/// Connections that are open.
#[derive(Debug, Default)]
struct Places {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// One connection's place.
#[derive(Debug)]
struct Place {
    places: Arc<Mutex<Places>>,
    address: IpAddr,
}

/// A connection of a [`BoundedListener`].
#[derive(Debug)]
pub struct BoundedStream {
    stream: TcpStream,
    /// Bytes that end `deadline`.
    awaited_bytes: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    // Nothing here panics with the lock held.
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    fn take(
        places: &Arc<Mutex<Places>>,
        address: IpAddr,
        limits: ConnectionLimits,
    ) -> Option<Self> {
        let mut locked = lock(places);
        let of_address = locked.by_address.get(&address).copied().unwrap_or_default();
        if locked.total >= limits.total || of_address >= limits.per_address {
            return None;
        }
        locked.total += 1;
        locked.by_address.insert(address, of_address + 1);
        Some(Self {
            places: Arc::clone(places),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut locked = lock(&self.places);
        locked.total -= 1;
        if let Some(count) = locked.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                locked.by_address.remove(&self.address);
            }
        }
    }
}

impl BoundedListener {
    /// Accepts from `listener`.
    pub fn new(listener: TcpListener, limits: ConnectionLimits) -> Self {
        Self {
            listener,
            limits,
            places: Arc::default(),
            warned: None,
        }
    }

    /// The next connection there is a place for, and where it comes from.
    ///
    /// # Errors
    /// What accepting fails with, for instance for want of descriptors; to be called again after a while.
    pub fn poll_accept(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(BoundedStream, SocketAddr)>> {
        loop {
            let (stream, peer) = ready!(self.listener.poll_accept(context))?;
            let address = counted_as(peer.ip());
            let Some(place) = Place::take(&self.places, address, self.limits) else {
                self.warn(peer);
                continue;
            };
            // A connection that cannot be set up so still works.
            let _ = stream.set_nodelay(true);
            let stream = BoundedStream {
                stream,
                awaited_bytes: self.limits.first_bytes,
                deadline: Some(Box::pin(tokio::time::sleep(self.limits.patience))),
                _place: place,
            };
            return Poll::Ready(Ok((stream, peer)));
        }
    }

    /// The address listened on.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn warn(&mut self, peer: SocketAddr) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            let ConnectionLimits {
                total, per_address, ..
            } = self.limits;
            tracing::warn!(%peer, total, per_address, "too many connections, closing some as they come");
        }
    }
}

impl tokio_stream::Stream for BoundedListener {
    type Item = io::Result<BoundedStream>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<BoundedStream>>> {
        self.poll_accept(context)
            .map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}

impl BoundedStream {
    /// Fails once the connection has had its time.
    fn check_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(context)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        let received = buf.filled().len() - before;
        self.awaited_bytes = self.awaited_bytes.saturating_sub(received);
        if self.awaited_bytes == 0 {
            self.deadline = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_deadline(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_deadline(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for BoundedStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests;

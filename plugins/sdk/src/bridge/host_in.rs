//! A reactor behind a table, as the plugin's code sees it.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use abi::*;

use super::clock::Clock;
use super::convert::{NO_BUF, file_op_in, file_op_out};
use super::engine_in::Engine;
use crate::buf::Buf;
use crate::host::{
    FileId, FileOp, Host, HostError, ListenerId, OwnerId, StreamError, StreamId, Wake, Waker,
};

/// `EOPNOTSUPP`: what a host answers that lacks an operation.
const EOPNOTSUPP: i32 = 95;

/// The host lent for one call.
pub(super) struct RemoteHost<'a> {
    raw: &'a IoeHost,
    table: &'a IoeHostTable,
    clock: &'a Clock,
    /// The time, once it was asked for: it is the same throughout a call.
    now: Cell<Option<Instant>>,
    engine: Option<&'a Arc<Engine>>,
}

impl<'a> RemoteHost<'a> {
    /// The host behind `raw`.
    ///
    /// # Safety
    /// `raw` is what the engine lends for a call, which lasts as long as `'a`.
    #[inline]
    pub(super) unsafe fn new(
        raw: *const IoeHost,
        clock: &'a Clock,
        engine: Option<&'a Arc<Engine>>,
    ) -> Self {
        // SAFETY: the caller's; the engine's table is as large as ours or larger (checked when the plugin was entered).
        unsafe {
            Self {
                raw: &*raw,
                table: &*(*raw).table,
                clock,
                now: Cell::new(None),
                engine,
            }
        }
    }

    /// Sets the timer of the object being called.
    #[inline]
    pub(super) fn set_timer(&mut self, at: Option<Instant>) {
        if let Some(timer_set) = self.table.timer_set {
            // SAFETY: the host is lent for this call.
            unsafe {
                timer_set(
                    self.raw.context,
                    at.map_or(IOE_NEVER, |at| self.clock.to_ns(at)),
                )
            }
        }
    }
}

fn adopted<T>(status: i32, value: T) -> Result<T, HostError> {
    match status {
        IOE_OK => Ok(value),
        IOE_TOO_MANY => Err(HostError::TooMany),
        _ => Err(HostError::System(EOPNOTSUPP)),
    }
}

fn moved(answer: i64, os_error: i32) -> Result<usize, StreamError> {
    match usize::try_from(answer) {
        Ok(moved) => Ok(moved),
        Err(_) if answer == -i64::from(IOE_WOULD_BLOCK) => Err(StreamError::WouldBlock),
        Err(_) if answer == -i64::from(IOE_CLOSED) => Err(StreamError::Closed),
        Err(_) => Err(StreamError::Failed(os_error)),
    }
}

// In every block below the host is lent for the call (`RemoteHost::new`), and arguments are as the contract says.
impl Host for RemoteHost<'_> {
    fn now(&self) -> Instant {
        if let Some(now) = self.now.get() {
            return now;
        }
        let now = match self.table.now_ns {
            None => Instant::now(),
            Some(now_ns) => {
                // SAFETY: see above.
                let ns = unsafe { now_ns(self.raw.context) };
                self.clock.to_instant(ns)
            }
        };
        self.now.set(Some(now));
        now
    }

    fn alloc(&mut self, len: usize) -> Option<Buf> {
        let (alloc, len) = (self.table.alloc?, u32::try_from(len).ok()?);
        let mut raw = NO_BUF;
        // SAFETY: see above.
        match unsafe { alloc(self.raw.context, len, &mut raw) } {
            // SAFETY: the host gave the buffer away.
            IOE_OK => unsafe { Buf::from_abi(raw) },
            _ => None,
        }
    }

    fn adopt_file(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<FileId, HostError> {
        let Some(file_adopt) = self.table.file_adopt else {
            return Err(HostError::System(EOPNOTSUPP));
        };
        let mut file = 0;
        // SAFETY: see above; the descriptor is the host's whatever the answer.
        let status = unsafe { file_adopt(self.raw.context, fd.into_raw_fd(), owner.0, &mut file) };
        adopted(status, FileId(file))
    }

    fn close_file(&mut self, file: FileId) {
        if let Some(file_close) = self.table.file_close {
            // SAFETY: see above.
            unsafe { file_close(self.raw.context, file.0) }
        }
    }

    fn submit_file(&mut self, file: FileId, user: u64, op: FileOp) -> Result<(), FileOp> {
        let Some(file_submit) = self.table.file_submit else {
            return Err(op);
        };
        let raw = file_op_out(op);
        // SAFETY: see above; the buffer is the host's with `IOE_OK`.
        if unsafe { file_submit(self.raw.context, file.0, user, &raw) } == IOE_OK {
            return Ok(());
        }
        // SAFETY: refused, so the buffer is ours still.
        Err(unsafe { file_op_in(&raw) }.expect("an operation of our own making"))
    }

    fn recv(
        &mut self,
        stream: StreamId,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<usize, StreamError> {
        let Some(stream_recv) = self.table.stream_recv else {
            return Err(StreamError::Closed);
        };
        let (count, mut os_error) = (u32::try_from(bufs.len()).unwrap_or(u32::MAX), 0);
        // `IoSliceMut` is laid out as `struct iovec`, and so is `IoeIoVec`.
        let pieces = bufs.as_mut_ptr().cast_const().cast();
        // SAFETY: see above.
        let answer =
            unsafe { stream_recv(self.raw.context, stream.0, pieces, count, &mut os_error) };
        moved(answer, os_error)
    }

    fn send(&mut self, stream: StreamId, bufs: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        let Some(stream_send) = self.table.stream_send else {
            return Err(StreamError::Closed);
        };
        let (count, mut os_error) = (u32::try_from(bufs.len()).unwrap_or(u32::MAX), 0);
        let pieces = bufs.as_ptr().cast();
        // SAFETY: see above; `IoSlice` is laid out as `IoeIoVec`, and the host only reads.
        let answer =
            unsafe { stream_send(self.raw.context, stream.0, pieces, count, &mut os_error) };
        moved(answer, os_error)
    }

    fn pause_stream(&mut self, stream: StreamId, paused: bool) {
        if let Some(stream_pause) = self.table.stream_pause {
            // SAFETY: see above.
            unsafe { stream_pause(self.raw.context, stream.0, u32::from(paused)) }
        }
    }

    fn end_stream(&mut self, stream: StreamId) {
        if let Some(stream_end) = self.table.stream_end {
            // SAFETY: see above.
            unsafe { stream_end(self.raw.context, stream.0) }
        }
    }

    fn close_stream(&mut self, stream: StreamId) {
        if let Some(stream_close) = self.table.stream_close {
            // SAFETY: see above.
            unsafe { stream_close(self.raw.context, stream.0) }
        }
    }

    fn detach_stream(&mut self, stream: StreamId) -> Option<OwnedFd> {
        let stream_detach = self.table.stream_detach?;
        // SAFETY: see above.
        let fd = unsafe { stream_detach(self.raw.context, stream.0) };
        // SAFETY: the host gave the descriptor away.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn attach_stream(&mut self, fd: OwnedFd) -> Result<StreamId, HostError> {
        let Some(stream_attach) = self.table.stream_attach else {
            return Err(HostError::System(EOPNOTSUPP));
        };
        let mut stream = 0;
        // SAFETY: see above; the descriptor is the host's whatever the answer.
        let status = unsafe { stream_attach(self.raw.context, fd.into_raw_fd(), 0, &mut stream) };
        adopted(status, StreamId(stream))
    }

    fn adopt_listener(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<ListenerId, HostError> {
        let Some(listener_adopt) = self.table.listener_adopt else {
            return Err(HostError::System(EOPNOTSUPP));
        };
        let mut listener = 0;
        // SAFETY: see above; the descriptor is the host's whatever the answer.
        let status =
            unsafe { listener_adopt(self.raw.context, fd.into_raw_fd(), owner.0, &mut listener) };
        adopted(status, ListenerId(listener))
    }

    fn close_listener(&mut self, listener: ListenerId) {
        if let Some(listener_close) = self.table.listener_close {
            // SAFETY: see above.
            unsafe { listener_close(self.raw.context, listener.0) }
        }
    }

    fn waker(&mut self, owner: OwnerId) -> Option<Waker> {
        let (remote, engine) = (self.table.remote?, self.engine?);
        // SAFETY: see above.
        let remote = unsafe { remote(self.raw.context, owner.0) };
        (remote != 0).then(|| {
            Waker::new(Arc::new(RemoteWake {
                engine: engine.clone(),
                remote,
            }))
        })
    }
}

/// An object of ours on the engine's reactor, called for from any thread.
struct RemoteWake {
    engine: Arc<Engine>,
    remote: u64,
}

impl Wake for RemoteWake {
    fn wake(&self) {
        self.engine.wake(self.remote);
    }
}

//! A reactor as a table, for the length of one call into a plugin.

use std::ffi::c_void;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Instant;

use abi::*;

use super::clock::Clock;
use super::convert::{file_op_in, file_op_out};
use super::queue_in::Inbox;
use crate::buf::Buf;
use crate::host::{FileId, Host, HostError, ListenerId, OwnerId, StreamError, StreamId};

/// What a plugin's call to its host is about: the reactor, and the object being called.
pub(super) struct Frame<'a> {
    pub(super) host: &'a mut dyn Host,
    pub(super) clock: &'a Clock,
    /// Where the object's timer is kept.
    pub(super) timer: &'a mut Option<Instant>,
    /// Where a queue's completions go; other objects have none.
    pub(super) inbox: Option<&'a mut Inbox>,
}

impl Frame<'_> {
    /// Calls into the plugin with this frame as its host.
    #[inline]
    pub(super) fn lend<R>(mut self, call: impl FnOnce(*const IoeHost) -> R) -> R {
        let host = IoeHost {
            table: &HOST_TABLE,
            context: (&raw mut self).cast(),
        };
        call(&host)
    }
}

static HOST_TABLE: IoeHostTable = IoeHostTable {
    size: size_of::<IoeHostTable>() as u32,
    version: IOE_ABI_VERSION,
    now_ns: Some(now_ns),
    alloc: Some(alloc),
    complete: Some(complete),
    file_adopt: Some(file_adopt),
    file_close: Some(file_close),
    file_submit: Some(file_submit),
    stream_recv: Some(stream_recv),
    stream_send: Some(stream_send),
    stream_pause: Some(stream_pause),
    stream_end: Some(stream_end),
    stream_close: Some(stream_close),
    stream_detach: Some(stream_detach),
    stream_attach: Some(stream_attach),
    listener_adopt: Some(listener_adopt),
    listener_close: Some(listener_close),
    timer_set: Some(timer_set),
    remote: Some(remote),
};

/// The frame behind a context.
///
/// # Safety
/// `context` is that of a host lent by [`Frame::lend`], whose call has not returned; the plugin passes it on the same
/// thread and from one call at a time.
#[inline]
unsafe fn frame<'a>(context: *mut c_void) -> &'a mut Frame<'a> {
    // SAFETY: the caller's.
    unsafe { &mut *context.cast::<Frame<'a>>() }
}

// Each function below is called by a plugin with the context it was lent and arguments as the contract says: that is
// what their blocks rely on.

unsafe extern "C" fn now_ns(context: *mut c_void) -> u64 {
    // SAFETY: lent by `Frame::lend`.
    let frame = unsafe { frame(context) };
    frame.clock.to_ns(frame.host.now())
}

unsafe extern "C" fn alloc(context: *mut c_void, len: u32, buf: *mut IoeBuf) -> i32 {
    // SAFETY: lent by `Frame::lend`.
    let frame = unsafe { frame(context) };
    match frame.host.alloc(len as usize) {
        Some(got) => {
            // SAFETY: the plugin passes room for one buffer.
            unsafe { buf.write(got.into_abi()) };
            IOE_OK
        }
        None => IOE_BUSY,
    }
}

unsafe extern "C" fn complete(context: *mut c_void, done: *const IoeDone) {
    // SAFETY: lent by `Frame::lend`; the plugin passes an end of its own.
    let (frame, done) = unsafe { (frame(context), &*done) };
    if let Some(inbox) = frame.inbox.as_deref_mut() {
        // SAFETY: the plugin gives buffer and segments away with the end.
        unsafe { inbox.take(done) };
    }
}

/// The descriptor a plugin gives away.
///
/// # Safety
/// `fd` is an open descriptor the caller owns, or negative.
unsafe fn owned(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the caller's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn host_error(error: HostError) -> i32 {
    match error {
        HostError::TooMany => IOE_TOO_MANY,
        HostError::System(_) => IOE_SYSTEM,
    }
}

unsafe extern "C" fn file_adopt(context: *mut c_void, fd: i32, owner: u32, file: *mut u32) -> i32 {
    // SAFETY: lent by `Frame::lend`; the plugin gives the descriptor away.
    let (frame, fd) = unsafe { (frame(context), owned(fd)) };
    let Some(fd) = fd else { return IOE_INVALID };
    match frame.host.adopt_file(fd, OwnerId(owner)) {
        Ok(id) => {
            // SAFETY: the plugin passes room for one number.
            unsafe { file.write(id.0) };
            IOE_OK
        }
        Err(error) => host_error(error),
    }
}

unsafe extern "C" fn file_close(context: *mut c_void, file: u32) {
    // SAFETY: lent by `Frame::lend`.
    unsafe { frame(context) }.host.close_file(FileId(file));
}

unsafe extern "C" fn file_submit(
    context: *mut c_void,
    file: u32,
    user: u64,
    op: *const IoeFileOp,
) -> i32 {
    // SAFETY: lent by `Frame::lend`; the plugin passes an operation of its own.
    let (frame, raw) = unsafe { (frame(context), &*op) };
    // SAFETY: the plugin gives the buffer away unless the answer is an error.
    let Some(op) = (unsafe { file_op_in(raw) }) else {
        return IOE_INVALID;
    };
    match frame.host.submit_file(FileId(file), user, op) {
        Ok(()) => IOE_OK,
        Err(refused) => {
            // The buffer stays the plugin's: taken apart here, never released.
            let _ = file_op_out(refused);
            IOE_BUSY
        }
    }
}

fn stream_result(result: Result<usize, StreamError>, os_error: *mut i32) -> i64 {
    match result {
        Ok(moved) => moved as i64,
        Err(StreamError::WouldBlock) => -i64::from(IOE_WOULD_BLOCK),
        Err(StreamError::Closed) => -i64::from(IOE_CLOSED),
        Err(StreamError::Failed(number)) => {
            if !os_error.is_null() {
                // SAFETY: the plugin passes room for one number, or null.
                unsafe { os_error.write(number) };
            }
            -i64::from(IOE_SYSTEM)
        }
    }
}

unsafe extern "C" fn stream_recv(
    context: *mut c_void,
    stream: u64,
    pieces: *const IoeIoVec,
    count: u32,
    os_error: *mut i32,
) -> i64 {
    // SAFETY: lent by `Frame::lend`.
    let frame = unsafe { frame(context) };
    let bufs: &mut [IoSliceMut<'_>] = match count {
        0 => &mut [],
        // SAFETY: `IoSliceMut` is laid out as `struct iovec`, and so is `IoeIoVec`; the plugin passes `count` pieces of
        // memory that are its own to write for the call.
        _ => unsafe { std::slice::from_raw_parts_mut(pieces.cast_mut().cast(), count as usize) },
    };
    stream_result(frame.host.recv(StreamId(stream), bufs), os_error)
}

unsafe extern "C" fn stream_send(
    context: *mut c_void,
    stream: u64,
    pieces: *const IoeIoVec,
    count: u32,
    os_error: *mut i32,
) -> i64 {
    // SAFETY: lent by `Frame::lend`.
    let frame = unsafe { frame(context) };
    let bufs: &[IoSlice<'_>] = match count {
        0 => &[],
        // SAFETY: as for `stream_recv`, for reading.
        _ => unsafe { std::slice::from_raw_parts(pieces.cast(), count as usize) },
    };
    stream_result(frame.host.send(StreamId(stream), bufs), os_error)
}

unsafe extern "C" fn stream_pause(context: *mut c_void, stream: u64, paused: u32) {
    // SAFETY: lent by `Frame::lend`.
    let frame = unsafe { frame(context) };
    frame.host.pause_stream(StreamId(stream), paused != 0);
}

unsafe extern "C" fn stream_end(context: *mut c_void, stream: u64) {
    // SAFETY: lent by `Frame::lend`.
    unsafe { frame(context) }.host.end_stream(StreamId(stream));
}

unsafe extern "C" fn stream_close(context: *mut c_void, stream: u64) {
    // SAFETY: lent by `Frame::lend`.
    unsafe { frame(context) }
        .host
        .close_stream(StreamId(stream));
}

unsafe extern "C" fn stream_detach(context: *mut c_void, stream: u64) -> i32 {
    // SAFETY: lent by `Frame::lend`.
    let fd = unsafe { frame(context) }
        .host
        .detach_stream(StreamId(stream));
    fd.map_or(-1, IntoRawFd::into_raw_fd)
}

unsafe extern "C" fn stream_attach(
    context: *mut c_void,
    fd: i32,
    owner: u32,
    stream: *mut u64,
) -> i32 {
    let _ = owner;
    // SAFETY: lent by `Frame::lend`; the plugin gives the descriptor away.
    let (frame, fd) = unsafe { (frame(context), owned(fd)) };
    let Some(fd) = fd else { return IOE_INVALID };
    match frame.host.attach_stream(fd) {
        Ok(id) => {
            // SAFETY: the plugin passes room for one number.
            unsafe { stream.write(id.0) };
            IOE_OK
        }
        Err(error) => host_error(error),
    }
}

unsafe extern "C" fn listener_adopt(
    context: *mut c_void,
    fd: i32,
    owner: u32,
    listener: *mut u32,
) -> i32 {
    // SAFETY: lent by `Frame::lend`; the plugin gives the descriptor away.
    let (frame, fd) = unsafe { (frame(context), owned(fd)) };
    let Some(fd) = fd else { return IOE_INVALID };
    match frame.host.adopt_listener(fd, OwnerId(owner)) {
        Ok(id) => {
            // SAFETY: the plugin passes room for one number.
            unsafe { listener.write(id.0) };
            IOE_OK
        }
        Err(error) => host_error(error),
    }
}

unsafe extern "C" fn listener_close(context: *mut c_void, listener: u32) {
    // SAFETY: lent by `Frame::lend`.
    unsafe { frame(context) }
        .host
        .close_listener(ListenerId(listener));
}

unsafe extern "C" fn timer_set(context: *mut c_void, at_ns: u64) {
    // SAFETY: lent by `Frame::lend`.
    let frame = unsafe { frame(context) };
    *frame.timer = (at_ns != IOE_NEVER).then(|| frame.clock.to_instant(at_ns));
}

unsafe extern "C" fn remote(context: *mut c_void, owner: u32) -> u64 {
    // SAFETY: lent by `Frame::lend`.
    let frame = unsafe { frame(context) };
    match frame.host.waker(OwnerId(owner)) {
        Some(waker) => frame
            .inbox
            .as_deref_mut()
            .map_or(0, |inbox| inbox.remote(waker)),
        None => 0,
    }
}

/// A buffer that stays with whoever has it.
pub(super) fn keep(buf: Buf) {
    let _ = buf.into_abi();
}

//! Values as they cross: sizes, capabilities, operations and their ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr;

use abi::*;
use units::{BlockRange, BlockSize, Blocks};

use crate::block::{Capabilities, Extent, Geometry, IoError, IoResult, Op, Support};
use crate::buf::{Buf, Payload, Segment, Segments, apart};
use crate::host::{FileDone, FileError, FileOp};

/// No buffer.
pub(super) const NO_BUF: IoeBuf = IoeBuf {
    data: ptr::null_mut(),
    len: 0,
    capacity: 0,
    owner: ptr::null_mut(),
    release: None,
};

/// An end to be filled in.
pub(super) const NO_DONE: IoeDone = IoeDone {
    size: size_of::<IoeDone>() as u32,
    status: IOE_OK,
    tag: 0,
    detail: IoeRange { start: 0, count: 0 },
    buf: NO_BUF,
    segments: ptr::null(),
    segment_count: 0,
    reserved: 0,
};

/// Segments of one answer, at most: 1 MiB in blocks.
const SEGMENTS_MAX: u32 = 2048;

#[inline]
pub(super) fn range_out(range: BlockRange) -> IoeRange {
    IoeRange {
        start: range.start.0,
        count: range.count.0,
    }
}

#[inline]
pub(super) fn range_in(range: IoeRange) -> BlockRange {
    BlockRange::new(range.start, range.count)
}

pub(super) fn geometry_out(geometry: Geometry) -> IoeGeometry {
    IoeGeometry {
        block_size: geometry.block_size.bytes(),
        reserved: 0,
        blocks: geometry.blocks.0,
    }
}

pub(super) fn geometry_in(raw: IoeGeometry) -> Option<Geometry> {
    Some(Geometry {
        block_size: BlockSize::from_bytes(raw.block_size)?,
        blocks: Blocks(raw.blocks),
    })
}

fn support_out(support: Support) -> u32 {
    match support {
        Support::None => IOE_SUPPORT_NONE,
        Support::Emulated => IOE_SUPPORT_EMULATED,
        Support::Native => IOE_SUPPORT_NATIVE,
    }
}

/// What is unknown counts as nothing.
fn support_in(raw: u32) -> Support {
    match raw {
        IOE_SUPPORT_NATIVE => Support::Native,
        IOE_SUPPORT_EMULATED => Support::Emulated,
        _ => Support::None,
    }
}

pub(super) fn capabilities_out(capabilities: Capabilities) -> IoeCapabilities {
    let flag = |set, flag| if set { flag } else { 0 };
    IoeCapabilities {
        size: size_of::<IoeCapabilities>() as u32,
        write_zeroes: support_out(capabilities.write_zeroes),
        discard: support_out(capabilities.discard),
        flags: flag(capabilities.volatile_cache, IOE_CAP_VOLATILE_CACHE)
            | flag(capabilities.lends_reads, IOE_CAP_LENDS_READS),
        atomic_blocks: capabilities.atomic_blocks,
        direct: match capabilities.direct {
            None => IOE_DIRECT_NA,
            Some(false) => IOE_DIRECT_NO,
            Some(true) => IOE_DIRECT_YES,
        },
    }
}

pub(super) fn capabilities_in(raw: IoeCapabilities) -> Capabilities {
    Capabilities {
        write_zeroes: support_in(raw.write_zeroes),
        discard: support_in(raw.discard),
        volatile_cache: raw.flags & IOE_CAP_VOLATILE_CACHE != 0,
        lends_reads: raw.flags & IOE_CAP_LENDS_READS != 0,
        atomic_blocks: raw.atomic_blocks.max(1),
        direct: match raw.direct {
            IOE_DIRECT_NO => Some(false),
            IOE_DIRECT_YES => Some(true),
            _ => None,
        },
    }
}

#[inline]
pub(super) fn op_out(op: Op, tag: u64) -> IoeOp {
    let whole = BlockRange::new(0, 0);
    let fua = |fua| if fua { IOE_OP_FUA } else { 0 };
    let (kind, flags, range, buf) = match op {
        Op::Read { range, buf } => (IOE_OP_READ, 0, range, buf),
        Op::Write { range, buf, fua: f } => (IOE_OP_WRITE, fua(f), range, Some(buf)),
        Op::WriteZeroes {
            range,
            deallocate,
            fua: f,
        } => {
            let flags = fua(f) | if deallocate { IOE_OP_DEALLOCATE } else { 0 };
            (IOE_OP_WRITE_ZEROES, flags, range, None)
        }
        Op::Discard { range } => (IOE_OP_DISCARD, 0, range, None),
        Op::Flush => (IOE_OP_FLUSH, 0, whole, None),
    };
    IoeOp {
        size: size_of::<IoeOp>() as u32,
        kind,
        flags,
        reserved: 0,
        tag,
        range: range_out(range),
        buf: buf.map_or(NO_BUF, Buf::into_abi),
    }
}

/// The operation; an unknown one is `IOE_NOT_SUPPORTED`, a write without a buffer `IOE_INVALID`.
///
/// # Safety
/// The caller owns the buffer of `raw`, which is used up.
#[inline]
pub(super) unsafe fn op_in(raw: &IoeOp) -> Result<Op, i32> {
    // SAFETY: the caller's.
    let buf = unsafe { Buf::from_abi(raw.buf) };
    let range = range_in(raw.range);
    let fua = raw.flags & IOE_OP_FUA != 0;
    match (raw.kind, buf) {
        (IOE_OP_READ, buf) => Ok(Op::Read { range, buf }),
        (IOE_OP_WRITE, Some(buf)) => Ok(Op::Write { range, buf, fua }),
        (IOE_OP_WRITE, None) => Err(IOE_INVALID),
        (IOE_OP_WRITE_ZEROES, _) => Ok(Op::WriteZeroes {
            range,
            deallocate: raw.flags & IOE_OP_DEALLOCATE != 0,
            fua,
        }),
        (IOE_OP_DISCARD, _) => Ok(Op::Discard { range }),
        (IOE_OP_FLUSH, _) => Ok(Op::Flush),
        _ => Err(IOE_NOT_SUPPORTED),
    }
}

fn error_out(error: IoError) -> (i32, IoeRange) {
    let none = IoeRange { start: 0, count: 0 };
    match error {
        IoError::OutOfRange => (IOE_OUT_OF_RANGE, none),
        IoError::NoSpace => (IOE_NO_SPACE, none),
        IoError::Medium(range) => (IOE_MEDIUM, range_out(range)),
        IoError::Gone => (IOE_GONE, none),
        IoError::Timeout => (IOE_TIMEOUT, none),
        IoError::NotSupported => (IOE_NOT_SUPPORTED, none),
        IoError::Busy => (IOE_BUSY, none),
        IoError::CompareFailed(at) => (
            IOE_COMPARE_FAILED,
            IoeRange {
                start: at,
                count: 0,
            },
        ),
        IoError::Aborted => (IOE_ABORTED, none),
    }
}

/// The error a status stands for; what is none for an operation is `None`.
pub(super) fn error_in(status: i32, detail: IoeRange) -> Option<IoError> {
    Some(match status {
        IOE_OUT_OF_RANGE => IoError::OutOfRange,
        IOE_NO_SPACE => IoError::NoSpace,
        IOE_MEDIUM => IoError::Medium(range_in(detail)),
        IOE_GONE | IOE_PANICKED => IoError::Gone,
        IOE_TIMEOUT => IoError::Timeout,
        IOE_NOT_SUPPORTED => IoError::NotSupported,
        IOE_BUSY => IoError::Busy,
        IOE_COMPARE_FAILED => IoError::CompareFailed(detail.start),
        IOE_ABORTED => IoError::Aborted,
        _ => return None,
    })
}

/// Writes how an operation ended into `done`, which came without buffer, segments and detail. The array of lent segments
/// lies in `array`.
#[inline]
pub(super) fn end_out(done: &mut IoeDone, result: IoResult, array: &mut Segments) {
    match result {
        Ok(None) => {}
        Ok(Some(Payload::Buf(buf))) => done.buf = buf.into_abi(),
        Ok(Some(Payload::Lent(segments))) => {
            *array = segments;
            (done.segments, done.segment_count) = apart(array);
        }
        Err(error) => (done.status, done.detail) = error_out(error),
    }
}

/// The end of an operation. Lent segments are appended to `lent`; their pointer is set by [`point`].
#[inline]
pub(super) fn done_out(tag: u64, result: IoResult, lent: &mut Vec<IoeSegment>) -> IoeDone {
    let mut done = IoeDone { tag, ..NO_DONE };
    match result {
        Ok(None) => {}
        Ok(Some(Payload::Buf(buf))) => done.buf = buf.into_abi(),
        Ok(Some(Payload::Lent(segments))) => {
            done.segment_count = segments.len() as u32;
            lent.extend(segments.into_iter().map(Segment::into_abi));
        }
        Err(error) => (done.status, done.detail) = error_out(error),
    }
    done
}

/// Points the ends at their segments, which lie in `lent` in the same order.
#[inline]
pub(super) fn point(dones: &mut [IoeDone], lent: &[IoeSegment]) {
    let mut at = 0;
    for done in dones.iter_mut().filter(|done| done.segment_count > 0) {
        done.segments = lent[at..].as_ptr();
        at += done.segment_count as usize;
    }
}

/// The payload of an end; an error if its segments are not in order. Buffer and segments are used up.
///
/// # Safety
/// The caller owns `buf` and the segments, and the array is valid.
#[inline]
pub(super) unsafe fn payload_in(
    buf: &IoeBuf,
    segments: *const IoeSegment,
    count: u32,
) -> Result<Option<Payload>, BadSegments> {
    // SAFETY: the caller's.
    let buf = unsafe { Buf::from_abi(*buf) };
    if count == 0 {
        return Ok(buf.map(Payload::Buf));
    }
    if buf.is_some() || segments.is_null() || count > SEGMENTS_MAX {
        return Err(BadSegments);
    }
    // SAFETY: the caller's: the array is valid for this call.
    let raw = unsafe { std::slice::from_raw_parts(segments, count as usize) };
    let mut lent = Segments::new();
    for segment in raw {
        // SAFETY: the caller's.
        let segment = unsafe { Segment::from_abi(*segment) };
        lent.push(segment.ok_or(BadSegments)?);
    }
    Ok(Some(Payload::Lent(lent)))
}

/// Segments beside a buffer, too many, or without what lets go of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadSegments;

pub(super) fn file_op_out(op: FileOp) -> IoeFileOp {
    let mut raw = IoeFileOp {
        size: size_of::<IoeFileOp>() as u32,
        kind: IOE_FILE_SYNC,
        flags: 0,
        moved: 0,
        offset: 0,
        len: 0,
        buf: NO_BUF,
    };
    match op {
        FileOp::Read {
            offset,
            buf,
            filled,
        } => {
            (raw.kind, raw.offset, raw.moved) = (IOE_FILE_READ, offset, filled);
            raw.buf = buf.into_abi();
        }
        FileOp::Write {
            offset,
            buf,
            written,
            durable,
        } => {
            (raw.kind, raw.offset, raw.moved) = (IOE_FILE_WRITE, offset, written);
            raw.flags = if durable { IOE_FILE_DURABLE } else { 0 };
            raw.buf = buf.into_abi();
        }
        FileOp::Sync => {}
        FileOp::PunchHole { offset, len } => {
            (raw.kind, raw.offset, raw.len) = (IOE_FILE_PUNCH_HOLE, offset, len);
        }
        FileOp::ZeroRange { offset, len } => {
            (raw.kind, raw.offset, raw.len) = (IOE_FILE_ZERO_RANGE, offset, len);
        }
    }
    raw
}

/// The operation; `None` for an unknown one and for one that lacks its buffer or says it has moved more than it holds.
///
/// # Safety
/// The caller owns the buffer of `raw`, which is used up only with `Some`.
pub(super) unsafe fn file_op_in(raw: &IoeFileOp) -> Option<FileOp> {
    let (offset, len) = (raw.offset, raw.len);
    match raw.kind {
        IOE_FILE_READ | IOE_FILE_WRITE if raw.moved > raw.buf.len => None,
        IOE_FILE_READ => Some(FileOp::Read {
            offset,
            // SAFETY: the caller's.
            buf: unsafe { Buf::from_abi(raw.buf) }?,
            filled: raw.moved,
        }),
        IOE_FILE_WRITE => Some(FileOp::Write {
            offset,
            // SAFETY: the caller's.
            buf: unsafe { Buf::from_abi(raw.buf) }?,
            written: raw.moved,
            durable: raw.flags & IOE_FILE_DURABLE != 0,
        }),
        IOE_FILE_SYNC => Some(FileOp::Sync),
        IOE_FILE_PUNCH_HOLE => Some(FileOp::PunchHole { offset, len }),
        IOE_FILE_ZERO_RANGE => Some(FileOp::ZeroRange { offset, len }),
        _ => None,
    }
}

pub(super) fn file_done_out(done: FileDone) -> IoeFileDone {
    let (status, moved, os_error) = match done.result {
        Ok(moved) => (IOE_OK, moved, 0),
        Err(FileError::Medium) => (IOE_MEDIUM, 0, 0),
        Err(FileError::NoSpace) => (IOE_NO_SPACE, 0, 0),
        Err(FileError::Gone) => (IOE_GONE, 0, 0),
        Err(FileError::NotSupported) => (IOE_NOT_SUPPORTED, 0, 0),
        Err(FileError::Cancelled) => (IOE_ABORTED, 0, 0),
        Err(FileError::Other(number)) => (IOE_SYSTEM, 0, number),
    };
    IoeFileDone {
        size: size_of::<IoeFileDone>() as u32,
        status,
        user: done.user,
        moved,
        os_error,
        op: file_op_out(done.op),
    }
}

/// # Safety
/// The caller owns the buffer of `raw`, which is used up.
pub(super) unsafe fn file_done_in(raw: &IoeFileDone) -> Option<FileDone> {
    // SAFETY: the caller's.
    let op = unsafe { file_op_in(&raw.op) }?;
    let result = match raw.status {
        IOE_OK => Ok(raw.moved),
        IOE_MEDIUM => Err(FileError::Medium),
        IOE_NO_SPACE => Err(FileError::NoSpace),
        IOE_GONE => Err(FileError::Gone),
        IOE_NOT_SUPPORTED => Err(FileError::NotSupported),
        IOE_ABORTED => Err(FileError::Cancelled),
        _ => Err(FileError::Other(raw.os_error)),
    };
    Some(FileDone {
        user: raw.user,
        result,
        op,
    })
}

pub(super) fn extent_out(extent: &Extent) -> IoeExtent {
    let allocated = if extent.allocated {
        IOE_EXTENT_ALLOCATED
    } else {
        0
    };
    IoeExtent {
        blocks: extent.blocks.0,
        flags: allocated | if extent.zero { IOE_EXTENT_ZERO } else { 0 },
        reserved: 0,
    }
}

pub(super) fn extent_in(raw: &IoeExtent) -> Extent {
    Extent {
        blocks: Blocks(raw.blocks),
        allocated: raw.flags & IOE_EXTENT_ALLOCATED != 0,
        zero: raw.flags & IOE_EXTENT_ZERO != 0,
    }
}

pub(super) fn address_out(address: Option<SocketAddr>) -> IoeAddress {
    let mut raw = IoeAddress {
        family: IOE_ADDRESS_NONE,
        port: 0,
        bytes: [0; 16],
        scope: 0,
        reserved: 0,
    };
    let Some(address) = address else { return raw };
    raw.port = u32::from(address.port());
    match address {
        SocketAddr::V4(v4) => {
            raw.family = IOE_ADDRESS_V4;
            raw.bytes[..4].copy_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            raw.family = IOE_ADDRESS_V6;
            raw.bytes = v6.ip().octets();
            raw.scope = v6.scope_id();
        }
    }
    raw
}

pub(super) fn address_in(raw: &IoeAddress) -> Option<SocketAddr> {
    let port = u16::try_from(raw.port).ok()?;
    match raw.family {
        IOE_ADDRESS_V4 => {
            let [a, b, c, d, ..] = raw.bytes;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port))
        }
        IOE_ADDRESS_V6 => {
            let ip = Ipv6Addr::from(raw.bytes);
            Some(SocketAddrV6::new(ip, port, 0, raw.scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back() {
        for text in ["127.0.0.1:10809", "[::1]:8420", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(address_in(&address_out(Some(address))), Some(address));
        }
        assert_eq!(address_in(&address_out(None)), None);
    }

    #[test]
    fn an_unknown_operation_is_not_supported_and_its_buffer_goes_back() {
        let mut raw = op_out(
            Op::Write {
                range: BlockRange::new(1, 8),
                buf: Buf::from_heap(4096),
                fua: true,
            },
            7,
        );
        raw.kind = 99;
        // SAFETY: `raw` owns the buffer it was made with.
        assert!(matches!(unsafe { op_in(&raw) }, Err(IOE_NOT_SUPPORTED)));
    }
}

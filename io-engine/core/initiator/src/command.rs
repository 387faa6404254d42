//! Submission queue entries of I/O and admin commands a host uses, with the data they move.
//!
//! PSDT and SGL are set by the transport (`nvme_tcp::Host::submit_command`), so entries carry none.

use nvme_spec::io::{BlockCommand, DatasetManagement, FUSED_FIRST, FUSED_SECOND};
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::reservation::ReservationCommand;
use nvme_spec::{Sgl, Sqe};

/// Most blocks one Read, Write, Compare or Write Zeroes moves (NVM Command Set 1.0c §3.2: NLB is 16 bit, 0's based).
pub const BLOCKS_MAX: u32 = 1 << 16;

fn block(opcode: u8, cid: u16, nsid: u32, slba: u64, blocks: u32) -> Sqe {
    assert!((1..=BLOCKS_MAX).contains(&blocks), "{blocks} blocks");
    let command = BlockCommand {
        slba,
        blocks,
        ..BlockCommand::default()
    };
    command.emit(opcode, cid, nsid, Sgl::transport(0))
}

/// Read of `blocks` blocks, 1 to 65536, at `slba`.
#[inline]
pub fn read(cid: u16, nsid: u32, slba: u64, blocks: u32) -> Sqe {
    block(nvm::READ, cid, nsid, slba, blocks)
}

/// Write of `blocks` blocks, 1 to 65536, at `slba`; with `fua` it is durable when it completes.
#[inline]
pub fn write(cid: u16, nsid: u32, slba: u64, blocks: u32, fua: bool) -> Sqe {
    let command = BlockCommand {
        slba,
        blocks,
        fua,
        ..BlockCommand::default()
    };
    assert!((1..=BLOCKS_MAX).contains(&blocks), "{blocks} blocks");
    command.emit(nvm::WRITE, cid, nsid, Sgl::transport(0))
}

/// Compare of `blocks` blocks, 1 to 65536, at `slba` with the data sent.
pub fn compare(cid: u16, nsid: u32, slba: u64, blocks: u32) -> Sqe {
    block(nvm::COMPARE, cid, nsid, slba, blocks)
}

/// Write Zeroes over `blocks` blocks, 1 to 65536, at `slba`; with `deallocate` the space may be given back.
pub fn write_zeroes(cid: u16, nsid: u32, slba: u64, blocks: u32, deallocate: bool) -> Sqe {
    let command = BlockCommand {
        slba,
        blocks,
        deallocate,
        ..BlockCommand::default()
    };
    assert!((1..=BLOCKS_MAX).contains(&blocks), "{blocks} blocks");
    command.emit(nvm::WRITE_ZEROES, cid, nsid, Sgl::transport(0))
}

/// Flush: everything written to `nsid` before is durable when it completes.
pub fn flush(cid: u16, nsid: u32) -> Sqe {
    Sqe::new(nvm::FLUSH, cid, nsid)
}

/// Dataset Management that deallocates the `ranges` ranges, 1 to 256, sent as data.
pub fn deallocate(cid: u16, nsid: u32, ranges: u32) -> Sqe {
    assert!((1..=256).contains(&ranges), "{ranges} ranges");
    let command = DatasetManagement {
        ranges,
        deallocate: true,
    };
    command.emit(cid, nsid, Sgl::transport(0))
}

/// The fused pair compare-and-write of `blocks` blocks at `slba` (NVM Command Set 1.0c §2.1.3). Both are to be queued
/// one directly after the other.
pub fn fused_compare_write(cids: (u16, u16), nsid: u32, slba: u64, blocks: u32) -> (Sqe, Sqe) {
    let mut first = compare(cids.0, nsid, slba, blocks);
    let mut second = write(cids.1, nsid, slba, blocks, false);
    first.0[1] |= FUSED_FIRST;
    second.0[1] |= FUSED_SECOND;
    (first, second)
}

/// Reservation Register; 16 bytes of keys follow as data ([`nvme_spec::reservation::Keys`]).
pub fn reservation_register(cid: u16, nsid: u32, command: ReservationCommand) -> Sqe {
    reservation(nvm::RESERVATION_REGISTER, cid, nsid, command)
}

/// Reservation Acquire; 16 bytes of keys follow as data.
pub fn reservation_acquire(cid: u16, nsid: u32, command: ReservationCommand) -> Sqe {
    reservation(nvm::RESERVATION_ACQUIRE, cid, nsid, command)
}

/// Reservation Release; 8 bytes of key follow as data.
pub fn reservation_release(cid: u16, nsid: u32, command: ReservationCommand) -> Sqe {
    reservation(nvm::RESERVATION_RELEASE, cid, nsid, command)
}

fn reservation(opcode: u8, cid: u16, nsid: u32, command: ReservationCommand) -> Sqe {
    let mut sqe = Sqe::new(opcode, cid, nsid);
    sqe.set_dword(10, command.emit());
    sqe
}

/// Reservation Report of `bytes` bytes, a multiple of 4, with 128-bit host identifiers where `extended`
/// (Base 2.0c §7.4).
pub fn reservation_report(cid: u16, nsid: u32, bytes: u32, extended: bool) -> Sqe {
    assert!(bytes >= 4 && bytes.is_multiple_of(4), "{bytes} bytes");
    let mut sqe = Sqe::new(nvm::RESERVATION_REPORT, cid, nsid);
    let numd_zb = bytes / 4 - 1;
    sqe.set_dword(10, numd_zb);
    sqe.set_dword(11, u32::from(extended));
    sqe
}

/// Set Features of feature `fid` to `value` (dword 11); without data, not saved.
pub fn set_feature(cid: u16, nsid: u32, fid: u8, value: u32) -> Sqe {
    let mut sqe = Sqe::new(admin::SET_FEATURES, cid, nsid);
    sqe.set_dword(10, u32::from(fid));
    sqe.set_dword(11, value);
    sqe
}

/// Get Features of feature `fid`, value `select` (0 current, 1 default, 2 saved, 3 capabilities).
pub fn feature(cid: u16, nsid: u32, fid: u8, select: u8) -> Sqe {
    let mut sqe = Sqe::new(admin::GET_FEATURES, cid, nsid);
    sqe.set_dword(10, u32::from(fid) | u32::from(select & 7) << 8);
    sqe
}

/// Keep Alive.
pub fn keep_alive(cid: u16) -> Sqe {
    Sqe::new(admin::KEEP_ALIVE, cid, 0)
}

/// Asynchronous Event Request.
pub fn async_event_request(cid: u16) -> Sqe {
    Sqe::new(admin::ASYNC_EVENT_REQUEST, cid, 0)
}

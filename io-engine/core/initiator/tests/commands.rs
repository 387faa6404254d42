//! Entries of the command builders, field by field.

use nvme_initiator::command;
use nvme_spec::io::BlockCommand;
use nvme_spec::opcode::nvm;

#[test]
fn block_commands_carry_address_and_length() {
    // NVM Command Set 1.0c §3.2: SLBA in dwords 10 and 11, NLB 0's based in dword 12.
    let sqe = command::read(3, 7, 0x1_0000_0002, 8);
    assert_eq!((sqe.opcode(), sqe.cid(), sqe.nsid()), (nvm::READ, 3, 7));
    assert_eq!((sqe.dword(10), sqe.dword(11), sqe.dword(12)), (2, 1, 7));
    let sqe = command::write(3, 7, 9, 65536, true);
    let parsed = BlockCommand::parse(&sqe);
    assert_eq!((parsed.slba, parsed.blocks, parsed.fua), (9, 65536, true));
    let sqe = command::write_zeroes(1, 1, 0, 1, true);
    assert!(BlockCommand::parse(&sqe).deallocate);
}

#[test]
fn a_fused_pair_is_marked_first_and_second() {
    // NVM Command Set 1.0c §2.1.3.
    let (first, second) = command::fused_compare_write((1, 2), 1, 5, 1);
    assert_eq!((first.opcode(), first.fused()), (nvm::COMPARE, 1));
    assert_eq!((second.opcode(), second.fused()), (nvm::WRITE, 2));
    assert_eq!(first.qword(10), second.qword(10));
    assert_eq!((first.cid(), second.cid()), (1, 2));
}

#[test]
fn reservation_report_counts_dwords_from_zero() {
    // Base 2.0c §7.4: NUMD is 0's based, EDS is bit 0 of dword 11.
    let sqe = command::reservation_report(0, 1, 4096, true);
    assert_eq!((sqe.dword(10), sqe.dword(11)), (1023, 1));
}

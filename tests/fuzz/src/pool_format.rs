//! Every parser of `pool-format` on a block of arbitrary bytes, with the checks that stand before it made right, as a hostile image has them.
//!
//! Oracle: no panic; what is emitted again parses to the same value.

use pool_format::{
    Bitmap, Claim, Envelope, Geometry, IntegrityPage, JournalBlock, JournalHeader, Label, Node,
    NodePtr, Root, plain_crc,
};

const UUID: [u8; 16] = [0xAB; 16];
const BLOCK: usize = 4096;
const ENVELOPE: usize = 32;

/// Runs one input: the first byte chooses the structure, the others are what the block begins with.
pub fn run(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let mut block = vec![0; BLOCK];
    let len = rest.len().min(BLOCK);
    block[..len].copy_from_slice(&rest[..len]);
    if *kind == 255 {
        return claim(&mut block);
    }
    match kind % 8 {
        0 => label(&mut block),
        1 => root(&mut block),
        2 => journal(&mut block),
        3 => node(&mut block),
        4 => table(&mut block, true),
        5 => table(&mut block, false),
        6 => bitmap(&mut block),
        _ => integrity(&mut block),
    }
}

/// Writes magic, place and check of an envelope; answers the check.
fn seal(block: &mut [u8], magic: &[u8; 4], place: u64) -> u32 {
    block[4..8].copy_from_slice(magic);
    block[8..16].copy_from_slice(&place.to_le_bytes());
    let said = u32_at(block, 24) as usize;
    let length = if (ENVELOPE..=BLOCK).contains(&said) {
        said
    } else {
        BLOCK
    };
    block[24..28].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = plain_crc(&[&UUID[..], &block[4..length]].concat());
    block[..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from(u32_at(block, at)) | u64::from(u32_at(block, at + 4)) << 32
}

fn label(block: &mut [u8]) {
    block[..8].copy_from_slice(b"IOE-POOL");
    let crc = plain_crc(&block[12..]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    if let Ok(label) = Label::parse(block) {
        assert_eq!(Label::parse(&label.emit(block[50])).as_ref(), Ok(&label));
    }
}

fn claim(block: &mut [u8]) {
    seal(block, b"CLM1", 1);
    if let Ok(claim) = Claim::parse(block, &UUID) {
        assert_eq!(Claim::parse(&claim.emit(&UUID), &UUID), Ok(claim));
    }
}

fn root(block: &mut [u8]) {
    let slot = u64_at(block, 16) % 2;
    seal(block, b"ROT1", slot);
    if let Ok(root) = Root::parse(block, &UUID, slot, &Geometry::TINY) {
        let again = Root::parse(&root.emit(&UUID), &UUID, root.slot(), &Geometry::TINY);
        assert_eq!(again.as_ref(), Ok(&root));
    }
}

fn journal(block: &mut [u8]) {
    let ring = 48;
    let place = u64_at(block, 16) % u64::from(ring);
    seal(block, b"JRN1", place);
    let header = JournalHeader::parse(block, &UUID, place).map(|(header, _, _)| header);
    let Ok(parsed) = JournalBlock::parse(block, &UUID, place) else {
        return;
    };
    assert_eq!(header, Ok(parsed.header));
    let mut records = Vec::new();
    for record in &parsed.records {
        record.emit(&mut records);
    }
    // Gaps of the input are gone: what is left fits where it came from.
    assert!(records.len() <= BLOCK - pool_format::RECORDS_AT);
    let count = parsed.records.len() as u16;
    let (bytes, _) = parsed.header.emit(&UUID, ring, &records, count);
    let again = JournalBlock::parse(&bytes, &UUID, parsed.header.sequence % u64::from(ring));
    assert_eq!(again.map(|again| again.records), Ok(parsed.records));
}

fn node(block: &mut [u8]) {
    let address = 77;
    let crc = seal(block, b"NOD1", address);
    let mut pointer = NodePtr {
        address,
        birth: u64_at(block, 48),
        crc,
        height: block[32].wrapping_add(1),
    };
    if let Ok(node) = Node::parse(block, &UUID, &pointer) {
        let (bytes, crc) = node.emit(&UUID, address, u64_at(block, 16));
        pointer.crc = crc;
        assert_eq!(Node::parse(&bytes, &UUID, &pointer).as_ref(), Ok(&node));
    }
}

fn table(block: &mut [u8], is_slabs: bool) {
    let position = 5;
    let crc = seal(block, b"TAB1", u64::from(position));
    if is_slabs {
        if let Ok(records) = pool_format::parse_slab_page(block, &UUID, position, crc) {
            let (bytes, crc) = pool_format::emit_slab_page(&records, &UUID, (position, 1));
            let again = pool_format::parse_slab_page(&bytes, &UUID, position, crc);
            assert_eq!(again.as_ref(), Ok(&records));
        }
    } else if let Ok(records) = pool_format::parse_object_page(block, &UUID, position, crc) {
        let (bytes, crc) = pool_format::emit_object_page(&records, &UUID, (position, 1));
        let again = pool_format::parse_object_page(&bytes, &UUID, position, crc);
        assert_eq!(again.as_ref(), Ok(&records));
    }
}

fn bitmap(block: &mut [u8]) {
    let slab = 3;
    let generation = u32_at(block, 32);
    let crc = seal(block, b"BMP1", u64::from(slab));
    let blocks = Geometry::TINY.slab_blocks;
    if let Ok(bitmap) = Bitmap::parse(block, &UUID, (slab, generation, crc), blocks) {
        let (bytes, crc) = bitmap.emit(&UUID, slab, generation, 9);
        let again = Bitmap::parse(&bytes, &UUID, (slab, generation, crc), blocks);
        let again = again.expect("what was emitted");
        let set = |bitmap: &Bitmap| (0..blocks).filter(|b| bitmap.is_set(*b)).count();
        assert_eq!(set(&again), set(&bitmap));
        assert_eq!(again.count(), bitmap.count());
    }
    let _ = Envelope::open(block, &UUID, pool_format::BITMAP, None);
}

fn integrity(block: &mut [u8]) {
    block[4..8].copy_from_slice(b"INT1");
    let address = 14;
    let seed = plain_crc(&[&UUID[..], &14_u64.to_le_bytes()[..], &block[4..]].concat());
    block[..4].copy_from_slice(&seed.to_le_bytes());
    let (generation, blocks) = (u32_at(block, 8), Geometry::TINY.region_blocks);
    let page = IntegrityPage::parse(block, &UUID, address, generation, blocks);
    let page = page.expect("every value of a page means something");
    let again = page.emit(&UUID, address);
    assert_eq!(
        IntegrityPage::parse(&again, &UUID, address, generation, blocks).as_ref(),
        Ok(&page)
    );
}

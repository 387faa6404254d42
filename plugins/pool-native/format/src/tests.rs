//! Every structure survives emit and parse, and no other bytes pass for it.

use super::*;

const POOL: Uuid = [7; 16];

fn label() -> Label {
    Label {
        pool: POOL,
        disk: [9; 16],
        index: 3,
        atomic_unit: 512,
        features: Features::default(),
        disk_blocks: 4096,
        geometry: Geometry::TINY,
        sequence: 5,
        created_s: 1_700_000_000,
        name: "tank".to_owned(),
    }
}

fn object(id: u64) -> ObjectRecord {
    ObjectRecord {
        id,
        kind: ObjectKind::Replica,
        state: ObjectState::Live,
        block_shift: 12,
        is_thick: true,
        home: 1,
        uuid: [1; 16],
        map: 4,
        base: 2,
        dead: 5,
        size: 1000,
        reserved: 12,
        previous: 2,
        previous_epoch: 8,
        epoch: 0,
        map_root: Some(NodePtr {
            address: 70,
            birth: 3,
            crc: 9,
            height: 2,
        }),
        dead_root: None,
        mapped: 17,
        created_s: 5,
        name: "vol-1".to_owned(),
        attributes: b"txn=1".to_vec(),
    }
}

fn slab() -> SlabRecord {
    SlabRecord {
        kind: SlabKind::Meta,
        bitmap_version: 1,
        disk: 1,
        chunk: 17,
        twin: 18,
        generation: 4,
        bitmap_crc: 77,
        free: 60,
    }
}

fn moved() -> MovedOut {
    MovedOut {
        key: 8,
        address: 640,
        birth: 1,
        len: 3,
        class: MovedClass::Dead,
    }
}

fn records() -> Vec<Record> {
    vec![
        Record::Map {
            map: 1,
            block: 2,
            address: 3,
            birth: 4,
            crcs: vec![5, 6, 7],
            moved: vec![moved()],
        },
        Record::Unmap {
            map: 1,
            block: 2,
            count: 3,
            moved: vec![moved(), moved()],
        },
        Record::Open {
            region: 12,
            generation: 1,
        },
        Record::Seal { region: 12 },
        Record::Slab {
            slab: 3,
            record: slab(),
        },
        Record::Object(Box::new(object(2))),
        Record::Snapshot {
            origin: 1,
            map: 9,
            dead: 10,
            epoch: 4,
            snapshot: Box::new(object(3)),
        },
        Record::Resize {
            object: 1,
            size: 2,
            reserved: 3,
        },
        Record::State {
            object: 1,
            state: Some(ObjectState::Deleting),
        },
        Record::State {
            object: 1,
            state: None,
        },
        Record::Void(vec![VoidEntry {
            sequence: 1,
            record: 2,
            first: 3,
            count: 4,
        }]),
        Record::Dead {
            from: 1,
            to: 0,
            address: 3,
            count: 4,
            birth: 5,
            class: MovedClass::Free,
        },
    ]
}

/// Flips every bit of the first `length` bytes: none may parse.
fn no_flip_passes(bytes: &[u8], length: usize, parses: impl Fn(&[u8]) -> bool) {
    assert!(parses(bytes));
    let mut copy = bytes.to_vec();
    for bit in 0..length * 8 {
        copy[bit / 8] ^= 1 << (bit % 8);
        // Bytes 28 to 32 of an envelope are reserved but covered by the check all the same.
        assert!(!parses(&copy), "bit {bit} is not covered");
        copy[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_label_comes_back() {
    let block = label().emit(0);
    assert_eq!(Label::parse(&block), Ok(label()));
    no_flip_passes(&block, 200, |bytes| Label::parse(bytes).is_ok());
}

#[test]
fn a_label_of_the_future_is_refused_by_name() {
    let mut newer = label();
    newer.features.incompatible = 2;
    assert_eq!(Label::parse(&newer.emit(0)), Err(Malformed::Features(2)));
    let mut newer = label();
    newer.features.compatible = 2;
    assert!(Label::parse(&newer.emit(0)).is_ok());
}

fn root() -> Root {
    Root {
        checkpoint: 7,
        journal_start: 100,
        journal_chain: 3,
        era: 2,
        epoch: 9,
        object_next: 4,
        map_next: 8,
        journal_disks: [0, 1],
        root_disks: [0, 1],
        disks: vec![
            DiskEntry {
                uuid: [1; 16],
                blocks: 1024,
                state: DiskState::InService,
            },
            DiskEntry {
                uuid: [2; 16],
                blocks: 2048,
                state: DiskState::Leaving,
            },
        ],
        slabs: 30,
        table_slabs: vec![TableSlab {
            disk: [0, 1],
            chunk: [0, 0],
            slab: 0,
        }],
        slab_pages: vec![DirectoryEntry {
            position: 1,
            crc: 2,
        }],
        object_pages: vec![DirectoryEntry {
            position: 3,
            crc: 4,
        }],
        open_regions: vec![5, 6],
    }
}

#[test]
fn a_root_comes_back() {
    let block = root().emit(&POOL);
    assert_eq!(Root::parse(&block, &POOL, 1, &Geometry::TINY), Ok(root()));
    assert_eq!(
        Root::parse(&block, &POOL, 0, &Geometry::TINY),
        Err(Malformed::Place)
    );
    assert_eq!(
        Root::parse(&block, &[8; 16], 1, &Geometry::TINY),
        Err(Malformed::Crc)
    );
    let length = root().emitted_len();
    no_flip_passes(&block, length, |bytes| {
        Root::parse(bytes, &POOL, 1, &Geometry::TINY).is_ok()
    });
}

#[test]
fn table_pages_come_back_and_only_where_they_belong() {
    let (page, crc) = emit_slab_page(&[slab(); SLABS_PER_PAGE], &POOL, (5, 7));
    assert_eq!(page.len(), BLOCK);
    assert_eq!(
        parse_slab_page(&page, &POOL, 5, crc),
        Ok(vec![slab(); SLABS_PER_PAGE])
    );
    assert_eq!(parse_slab_page(&page, &POOL, 6, crc), Err(Malformed::Place));
    assert_eq!(
        parse_slab_page(&page, &POOL, 5, crc ^ 1),
        Err(Malformed::Crc)
    );
    let objects: Vec<_> = (1..=OBJECTS_PER_PAGE as u64).map(object).collect();
    let (page, crc) = emit_object_page(&objects, &POOL, (2, 7));
    assert_eq!(page.len(), BLOCK);
    assert_eq!(parse_object_page(&page, &POOL, 2, crc), Ok(objects));
    assert!(parse_slab_page(&page, &POOL, 2, crc).is_err());
}

#[test]
fn full_nodes_come_back() {
    let leaf = Node {
        map: 3,
        birth: 4,
        level: 0,
        body: NodeBody::Leaf(
            (0..LEAF_MAX as u64)
                .map(|i| Extent {
                    key: i * 10,
                    len: 10,
                    address: i * 64,
                    birth: i,
                })
                .collect(),
        ),
    };
    let (block, crc) = leaf.emit(&POOL, 130, 2);
    assert_eq!(block.len(), BLOCK);
    let pointer = NodePtr {
        address: 130,
        birth: 4,
        crc,
        height: 1,
    };
    assert_eq!(Node::parse(&block, &POOL, &pointer), Ok(leaf));
    let higher = NodePtr {
        height: 2,
        ..pointer
    };
    assert_eq!(
        Node::parse(&block, &POOL, &higher),
        Err(Malformed::Value("node level"))
    );
    let inner = Node {
        map: 3,
        birth: 4,
        level: 1,
        body: NodeBody::Inner(
            (0..INNER_MAX as u64)
                .map(|i| Inner {
                    key: i,
                    child: NodePtr {
                        address: i,
                        birth: 1,
                        crc: 2,
                        height: 1,
                    },
                })
                .collect(),
        ),
    };
    let (block, crc) = inner.emit(&POOL, 131, 2);
    let pointer = NodePtr {
        address: 131,
        birth: 4,
        crc,
        height: 2,
    };
    assert_eq!(Node::parse(&block, &POOL, &pointer), Ok(inner));
}

#[test]
fn extents_out_of_order_are_refused() {
    let extent = |key| Extent {
        key,
        len: 2,
        address: 9,
        birth: 0,
    };
    let node = Node {
        map: 1,
        birth: 0,
        level: 0,
        body: NodeBody::Leaf(vec![extent(4), extent(5)]),
    };
    let (block, crc) = node.emit(&POOL, 1, 1);
    let pointer = NodePtr {
        address: 1,
        birth: 0,
        crc,
        height: 1,
    };
    assert_eq!(
        Node::parse(&block, &POOL, &pointer),
        Err(Malformed::Value("extent"))
    );
}

#[test]
fn bitmaps_and_integrity_pages_come_back() {
    let mut bitmap = Bitmap::new(4096);
    bitmap.set(0, true);
    bitmap.set(4095, true);
    assert_eq!(bitmap.count(), 2);
    let (block, crc) = bitmap.emit(&POOL, 3, 4, 9);
    assert_eq!(Bitmap::parse(&block, &POOL, (3, 4, crc), 4096), Ok(bitmap));
    assert_eq!(
        Bitmap::parse(&block, &POOL, (3, 5, crc), 4096),
        Err(Malformed::Place)
    );
    let mut page = IntegrityPage::new(4, 1020);
    page.crcs[1019] = 5;
    let block = page.emit(&POOL, 1020);
    assert_eq!(block.len(), BLOCK);
    assert_eq!(IntegrityPage::parse(&block, &POOL, 1020, 4, 1020), Ok(page));
    assert_eq!(
        IntegrityPage::parse(&block, &POOL, 1021, 4, 1020),
        Err(Malformed::Crc)
    );
    assert_eq!(
        IntegrityPage::parse(&block, &POOL, 1020, 5, 1020),
        Err(Malformed::Place)
    );
}

#[test]
fn every_record_comes_back() {
    let header = JournalHeader {
        sequence: 100,
        era: 2,
        chain: 3,
        mark: 99,
        checkpoint: 7,
    };
    let mut bytes = Vec::new();
    for record in records() {
        record.emit(&mut bytes);
    }
    let (block, crc) = header.emit(&POOL, 48, &bytes, records().len() as u16);
    let parsed = JournalBlock::parse(&block, &POOL, 4);
    assert_eq!(
        parsed,
        Ok(JournalBlock {
            header,
            crc,
            records: records()
        })
    );
    assert_eq!(JournalBlock::parse(&block, &POOL, 5), Err(Malformed::Place));
}

#[test]
fn the_largest_map_record_fits_a_block() {
    let record = Record::Map {
        map: 1,
        block: 0,
        address: 0,
        birth: 0,
        crcs: vec![1; MAP_BLOCKS_MAX],
        moved: vec![moved(); MAP_BLOCKS_MAX],
    };
    let mut bytes = Vec::new();
    record.emit(&mut bytes);
    assert!(bytes.len() <= BLOCK - RECORDS_AT);
}

#[test]
fn a_slab_is_used_up_exactly() {
    for geometry in [Geometry::DEFAULT, Geometry::TINY] {
        assert_eq!(geometry.check(), Ok(()));
        let mut data = 0;
        for offset in 0..geometry.slab_blocks {
            let address = geometry.address(3, offset);
            if let Some((region, index)) = geometry.region_of(address) {
                assert_eq!(geometry.region_start(region) + u64::from(index), address);
                assert!(geometry.region_page(region) > address);
                data += 1;
            }
        }
        assert_eq!(data, geometry.data_blocks());
        assert!(geometry.bitmap(1, 1) < geometry.slab_blocks);
        let end = geometry.chunk(geometry.chunks(4096 * 64));
        assert!(end <= geometry.root_slot(4096 * 64, Area::Back, 0));
    }
}

#[test]
fn moving_a_block_changes_its_check() {
    let plain = plain_crc(&[0; BLOCK]);
    let mut seen = std::collections::BTreeSet::new();
    for address in 0..10_000 {
        seen.insert(stored_crc(plain, address, 1));
    }
    assert!(seen.len() > 9_990, "checks differ by address");
    assert_ne!(stored_crc(plain, 5, 1), stored_crc(plain, 5, 2));
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let mut state = 1_u64;
    for _ in 0..2000 {
        let mut bytes: Vec<u8> = (0..BLOCK)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        let mut reader = bytes::Reader::new(&bytes, 0);
        bytes::Reader::new(&[], 0)
            .u8()
            .expect_err("nothing to read");
        while Record::parse(&mut reader).is_ok() {}
        for code in 1..=12 {
            bytes[0] = code;
            bytes[2] = 0;
            bytes[3] = 4;
            let _ = Record::parse(&mut bytes::Reader::new(&bytes, 0));
        }
        assert!(Label::parse(&bytes).is_err());
        assert!(Root::parse(&bytes, &POOL, 0, &Geometry::TINY).is_err());
    }
}

#[test]
fn a_claim_survives_and_is_found_in_its_place_only() {
    let claim = Claim {
        host: [3; 16],
        boot: [4; 16],
        pid: 77,
        counter: 12,
        time_s: 1_700_000_001,
    };
    let mut bytes = claim.emit(&POOL);
    assert_eq!(bytes.len(), BLOCK);
    assert_eq!(Claim::parse(&bytes, &POOL), Ok(claim));
    assert_eq!(Claim::parse(&bytes, &[8; 16]), Err(Malformed::Crc));
    bytes[40] ^= 1;
    assert_eq!(Claim::parse(&bytes, &POOL), Err(Malformed::Crc));
    assert_eq!(Claim::parse(&[], &POOL), Err(Malformed::Length));
}

//! `pool dump`: what is on the disks, for people who have to find out.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use pool_format::{
    Area, CLAIM_BLOCK, Claim, DiskState, JournalBlock, Label, ObjectRecord, Record, Root, SlabKind,
    parse_slab_page,
};

use crate::Outcome;
use crate::disks::Disks;
use crate::driver::Driver;

pub(crate) fn run(paths: &[PathBuf], out: &mut dyn Write) -> io::Result<Outcome> {
    let disks = match Disks::open(paths, false) {
        Ok(disks) => disks,
        Err(what) => {
            writeln!(out, "not opened: {what}")?;
            return Ok(Outcome::NotOpened);
        }
    };
    let mut roots = Vec::new();
    let mut labels = BTreeMap::new();
    for (position, disk) in disks.all.iter().enumerate() {
        writeln!(out, "disk {}: {} blocks", disk.path.display(), disk.blocks)?;
        for block in [0, disk.blocks.saturating_sub(1)] {
            let bytes = disks.read(position, block, 1).unwrap_or_default();
            match Label::parse(&bytes) {
                Ok(label) => {
                    print_label(&label, block, out)?;
                    if block == 0 {
                        print_claim(&disks, position, &label, out)?;
                    }
                    roots.extend(print_roots(&disks, position, &label, out)?);
                    labels.insert(position, label);
                }
                Err(error) => writeln!(out, "  label at {block}: {error}")?,
            }
        }
    }
    let Some(root) = roots.into_iter().max_by_key(|root: &Root| root.checkpoint) else {
        writeln!(out, "no valid root")?;
        return Ok(Outcome::NotOpened);
    };
    print_root(&root, out)?;
    print_slabs(&disks, &labels, &root, out)?;
    print_journal(&disks, &labels, &root, out)?;
    match Driver::open(&disks) {
        Ok(driver) => {
            for object in driver.pool.objects() {
                print_object(object, out)?;
            }
            Ok(Outcome::Clean)
        }
        Err(error) => {
            writeln!(out, "the pool does not open: {error}")?;
            Ok(Outcome::FaultsLeft)
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print_label(label: &Label, block: u64, out: &mut dyn Write) -> io::Result<()> {
    let geometry = &label.geometry;
    writeln!(
        out,
        "  label at {block}: pool {} \"{}\", disk {} number {}, sequence {}, {} blocks, atomic unit {}, slab {} region {} root {} journal {}",
        hex(&label.pool),
        label.name,
        hex(&label.disk),
        label.index,
        label.sequence,
        label.disk_blocks,
        label.atomic_unit,
        geometry.slab_blocks,
        geometry.region_blocks,
        geometry.root_blocks,
        geometry.journal_blocks
    )
}

fn print_claim(
    disks: &Disks,
    position: usize,
    label: &Label,
    out: &mut dyn Write,
) -> io::Result<()> {
    let bytes = disks.read(position, CLAIM_BLOCK, 1).unwrap_or_default();
    match Claim::parse(&bytes, &label.pool) {
        Ok(claim) if claim.pid == 0 => writeln!(
            out,
            "  claim: given back by host {}, beat {}, at {} s",
            hex(&claim.host),
            claim.counter,
            claim.time_s
        ),
        Ok(claim) => writeln!(
            out,
            "  claim: process {} on host {}, boot {}, beat {}, at {} s",
            claim.pid,
            hex(&claim.host),
            hex(&claim.boot),
            claim.counter,
            claim.time_s
        ),
        Err(error) => writeln!(out, "  claim: {error}"),
    }
}

fn print_roots(
    disks: &Disks,
    position: usize,
    label: &Label,
    out: &mut dyn Write,
) -> io::Result<Vec<Root>> {
    let mut found = Vec::new();
    for area in [Area::Front, Area::Back] {
        for slot in 0..2 {
            let block = label.geometry.root_slot(label.disk_blocks, area, slot);
            let bytes = disks
                .read(position, block, label.geometry.root_blocks)
                .unwrap_or_default();
            match Root::parse(&bytes, &label.pool, slot, &label.geometry) {
                Ok(root) => {
                    writeln!(out, "  root at {block}: checkpoint {}", root.checkpoint)?;
                    found.push(root);
                }
                Err(error) => writeln!(out, "  root at {block}: {error}")?,
            }
        }
    }
    Ok(found)
}

fn print_root(root: &Root, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "newest root: checkpoint {}, epoch {}, era {}, journal from {}, {} slabs, {} table slabs, next object {}, next map {}",
        root.checkpoint,
        root.epoch,
        root.era,
        root.journal_start,
        root.slabs,
        root.table_slabs.len(),
        root.object_next,
        root.map_next
    )?;
    for (index, disk) in root.disks.iter().enumerate() {
        let uuid = hex(&disk.uuid);
        writeln!(
            out,
            "  disk {index}: {uuid}, {} blocks, {:?}",
            disk.blocks, disk.state
        )?;
    }
    writeln!(
        out,
        "  metadata on disks {:?}, journal on disks {:?}, open regions {:?}",
        root.root_disks, root.journal_disks, root.open_regions
    )
}

/// Position of a disk of the pool, and its label.
fn find<'a>(
    labels: &'a BTreeMap<usize, Label>,
    root: &Root,
    disk: u16,
) -> Option<(usize, &'a Label)> {
    let uuid = root.disks.get(usize::from(disk))?.uuid;
    let mut all = labels.iter();
    all.find(|(_, label)| label.disk == uuid)
        .map(|(position, label)| (*position, label))
}

fn print_slabs(
    disks: &Disks,
    labels: &BTreeMap<usize, Label>,
    root: &Root,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut counts: BTreeMap<(u16, SlabKind), (u64, u64)> = BTreeMap::new();
    for page in &root.slab_pages {
        let records = (0..2).find_map(|copy| {
            let (_, label) = labels.iter().next()?;
            let blocks = label.geometry.slab_blocks;
            let slab = root.table_slabs.get((page.position / blocks) as usize)?;
            let (position, label) = find(labels, root, slab.disk[copy])?;
            let block = label.geometry.chunk(slab.chunk[copy]) + u64::from(page.position % blocks);
            let bytes = disks.read(position, block, 1).ok()?;
            parse_slab_page(&bytes, &label.pool, page.position, page.crc).ok()
        });
        match records {
            Some(records) => {
                for record in records {
                    let count = counts.entry((record.disk, record.kind)).or_default();
                    *count = (count.0 + 1, count.1 + u64::from(record.free));
                }
            }
            None => writeln!(out, "table page {}: no good copy", page.position)?,
        }
    }
    for (disk, entry) in root.disks.iter().enumerate() {
        let here = counts.iter().filter(|((on, kind), _)| {
            usize::from(*on) == disk && !matches!(kind, SlabKind::Free | SlabKind::Leaving)
        });
        let slabs: u64 = here.map(|(_, (slabs, _))| slabs).sum();
        if entry.state == DiskState::Leaving {
            writeln!(out, "disk {disk} is leaving: {slabs} slabs left to move")?;
        }
    }
    for ((disk, kind), (slabs, free)) in counts {
        writeln!(
            out,
            "slabs on disk {disk}: {slabs} {kind:?}, {free} blocks free in them"
        )?;
    }
    Ok(())
}

fn print_journal(
    disks: &Disks,
    labels: &BTreeMap<usize, Label>,
    root: &Root,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (mut sequence, mut chain) = (root.journal_start, root.journal_chain);
    loop {
        let block = (0..2).find_map(|copy| {
            let (position, label) = find(labels, root, root.journal_disks[copy])?;
            let place = sequence % u64::from(label.geometry.journal_blocks);
            let at = label.geometry.journal(copy as u64) + place;
            let bytes = disks.read(position, at, 1).ok()?;
            let block = JournalBlock::parse(&bytes, &label.pool, place).ok()?;
            (block.header.sequence == sequence && block.header.chain == chain).then_some(block)
        });
        let Some(block) = block else { break };
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for record in &block.records {
            *kinds.entry(kind(record)).or_default() += 1;
        }
        writeln!(
            out,
            "journal {sequence}: era {}, mark {}, {kinds:?}",
            block.header.era, block.header.mark
        )?;
        (sequence, chain) = (sequence + 1, block.crc);
    }
    writeln!(out, "journal ends before {sequence}")
}

fn kind(record: &Record) -> &'static str {
    match record {
        Record::Map { .. } => "map",
        Record::Unmap { .. } => "unmap",
        Record::Open { .. } => "open",
        Record::Seal { .. } => "seal",
        Record::Slab { .. } => "slab",
        Record::Object(_) => "object",
        Record::Snapshot { .. } => "snapshot",
        Record::Resize { .. } => "resize",
        Record::State { .. } => "state",
        Record::Void(_) => "void",
        Record::Dead { .. } => "dead",
    }
}

fn print_object(object: &ObjectRecord, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "object {}: {:?} \"{}\" {}, {:?}, {} blocks, {} mapped, {}{} reserved, home disk {}, after object {} epoch {}, own epoch {}",
        object.id,
        object.kind,
        object.name,
        hex(&object.uuid),
        object.state,
        object.size,
        object.mapped,
        if object.is_thick { "thick, " } else { "" },
        object.reserved,
        object.home,
        object.previous,
        object.previous_epoch,
        object.epoch
    )
}

//! `pool check`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use pool_core::{Answer, CheckReport, Fault, HostOp, PoolError, check};
use pool_format::{ObjectRecord, ObjectState};

use crate::arguments::Check;
use crate::disks::Disks;
use crate::driver::Driver;
use crate::{Outcome, export};

pub(crate) fn run(wanted: &Check, out: &mut dyn Write) -> io::Result<Outcome> {
    let mut disks = match Disks::open(&wanted.disks, wanted.repairs) {
        Ok(disks) => disks,
        Err(what) => {
            writeln!(out, "not opened: {what}")?;
            return Ok(Outcome::NotOpened);
        }
    };
    let report = match check(&mut disks) {
        Ok(report) => report,
        Err(error) => {
            writeln!(out, "not opened: {error}")?;
            return Ok(Outcome::NotOpened);
        }
    };
    writeln!(
        out,
        "pool of {} disks given, {} replicas and snapshots, {} blocks in use",
        wanted.disks.len(),
        report.objects,
        report.reachable
    )?;
    for fault in &report.faults {
        writeln!(out, "fault: {}", named(fault, &disks))?;
    }
    let mut left = report.clone();
    if wanted.repairs && !report.is_clean() {
        left = repair(&mut disks, &report, out)?;
    }
    let mut is_clean = left.is_clean();
    match Driver::open(&disks) {
        Ok(mut driver) => {
            if !wanted.is_quick {
                is_clean &= verify(&mut driver, out)?;
            }
            if let Some(directory) = &wanted.export {
                is_clean &= export::run(&mut driver, directory, out)?;
            }
        }
        Err(error) => {
            writeln!(out, "fault: the pool does not open: {error}")?;
            is_clean = false;
        }
    }
    let outcome = match (is_clean, report.is_clean()) {
        (true, true) => Outcome::Clean,
        (true, false) => Outcome::Repaired,
        (false, _) => Outcome::FaultsLeft,
    };
    let verdict = match outcome {
        Outcome::Clean => "clean",
        Outcome::Repaired => "repaired",
        Outcome::FaultsLeft if wanted.repairs => {
            "faults left that cannot be repaired from what is there"
        }
        Outcome::FaultsLeft | Outcome::NotOpened | Outcome::Usage => "faults found",
    };
    writeln!(out, "{verdict}")?;
    Ok(outcome)
}

/// A fault with the path of the disk, where it is a disk's.
fn named(fault: &Fault, disks: &Disks) -> String {
    match fault {
        Fault::Label { disk, .. } => match disks.all.get(*disk) {
            Some(place) => format!("{fault} ({})", place.path.display()),
            None => fault.to_string(),
        },
        _ => fault.to_string(),
    }
}

/// Puts right what can be; answers what is left.
fn repair(disks: &mut Disks, report: &CheckReport, out: &mut dyn Write) -> io::Result<CheckReport> {
    let is_stopping =
        |fault: &Fault| matches!(fault, Fault::MissingDisk(_) | Fault::JournalLost { .. });
    if report.faults.iter().any(is_stopping) {
        writeln!(
            out,
            "not repaired: a repair needs all disks and the whole journal"
        )?;
        return Ok(report.clone());
    }
    disks.apply(&report.fixes)?;
    // Opening writes what an opening pool writes anyway; the checkpoint carries rebuilt bitmaps.
    if !report.rebuilt.is_empty() {
        let settled = Driver::open_rebuilt(disks, report.rebuilt.clone())
            .and_then(|mut driver| driver.settle());
        if let Err(error) = settled {
            writeln!(out, "the repair stops: {error}")?;
        }
    }
    let left = match check(disks) {
        Ok(left) => left,
        Err(error) => {
            writeln!(out, "after the repair: {error}")?;
            return Ok(report.clone());
        }
    };
    for fault in &report.faults {
        if left.faults.contains(fault) {
            writeln!(out, "not repaired: {fault}")?;
        } else {
            writeln!(out, "repaired: {fault}")?;
        }
    }
    let is_new = |fault: &&Fault| !report.faults.contains(fault);
    for fault in left.faults.iter().filter(is_new) {
        writeln!(out, "fault: {}", named(fault, disks))?;
    }
    Ok(left)
}

/// Compares all data with its checks; answers whether all of it holds.
fn verify(driver: &mut Driver<'_>, out: &mut dyn Write) -> io::Result<bool> {
    let mut bad = BTreeSet::new();
    let (mut verified, mut unverified) = (0_u64, 0_u64);
    let mut from = 0;
    loop {
        match driver.call(HostOp::Scrub { from }) {
            Ok(Answer::Scrubbed(found)) => {
                verified += u64::from(found.verified);
                unverified += u64::from(found.unverified);
                bad.extend(found.bad);
                from = found.next;
                if found.region.is_none() {
                    break;
                }
            }
            Ok(_) => break,
            Err(error) => {
                writeln!(out, "fault: data cannot be compared: {error}")?;
                return Ok(false);
            }
        }
    }
    writeln!(
        out,
        "data: {verified} blocks hold what their checks say, {unverified} have none"
    )?;
    let (owners, errors) = owners(driver, &bad);
    for address in &bad {
        match owners.get(address) {
            Some(names) => writeln!(out, "rot: block at {address}: {}", names.join(", "))?,
            None => writeln!(
                out,
                "rot: block at {address}: no longer used by anything live"
            )?,
        }
    }
    for error in &errors {
        writeln!(out, "fault: {error}")?;
    }
    Ok(bad.is_empty() && errors.is_empty())
}

/// Who uses these addresses, for people; and the objects whose maps cannot be read.
fn owners(
    driver: &mut Driver<'_>,
    bad: &BTreeSet<u64>,
) -> (BTreeMap<u64, Vec<String>>, Vec<String>) {
    let mut owners: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut errors = Vec::new();
    let objects: Vec<ObjectRecord> = driver.pool.objects().cloned().collect();
    let live = objects
        .iter()
        .filter(|object| object.state == ObjectState::Live);
    for object in live {
        let mut block = 0;
        while block < object.size {
            let op = HostOp::Extent {
                object: object.id,
                block,
            };
            match driver.call(op) {
                Ok(Answer::Extent { len, address }) => {
                    let first = address.unwrap_or(u64::MAX - len);
                    for found in bad.range(first..first + len) {
                        let at = block + (found - first);
                        let name = format!("{} (object {}) block {at}", object.name, object.id);
                        owners.entry(*found).or_default().push(name);
                    }
                    block += len;
                }
                Err(error @ PoolError::MapUnreadable) => {
                    errors.push(format!(
                        "{} (object {}): {error} from block {block} on",
                        object.name, object.id
                    ));
                    break;
                }
                Ok(_) | Err(_) => break,
            }
        }
    }
    (owners, errors)
}

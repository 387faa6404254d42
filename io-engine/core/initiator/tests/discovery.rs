//! Discovery logs of every length, changing and malformed ones (Base 2.0c §5.16.1.23).

use nvme_initiator::limits::{DISCOVERY_RECORDS_MAX, DISCOVERY_RETRIES_MAX};
use nvme_initiator::{DiscoveryError, DiscoveryReader};
use nvme_spec::discovery::{ADRFAM_IPV4, DiscoveryEntry, DiscoveryHeader, SUBTYPE_NVM};

fn log(generation: u64, records: u64) -> Vec<u8> {
    let header = DiscoveryHeader {
        generation,
        records,
        record_format: 0,
    };
    let mut raw = header.emit().to_vec();
    for index in 0..records {
        let nqn = format!("nqn.2019-05.io.openebs:{index}");
        let entry = DiscoveryEntry::tcp(ADRFAM_IPV4, SUBTYPE_NVM, &nqn, "127.0.0.1", "8420");
        raw.extend(entry.emit());
    }
    raw
}

/// Reads with `source` giving the log at each command.
fn read(mut source: impl FnMut() -> Vec<u8>) -> Result<(u64, usize), DiscoveryError> {
    let mut reader = DiscoveryReader::new();
    while let Some(command) = reader.poll_command() {
        assert!(command.bytes <= 4096);
        let log = source();
        let from = log.len().min(command.offset as usize);
        let to = log.len().min(from + command.bytes as usize);
        reader.handle_data(&log[from..to])?;
    }
    let (generation, entries) = reader.into_entries();
    for (index, entry) in entries.iter().enumerate() {
        let nqn = format!("nqn.2019-05.io.openebs:{index}");
        assert_eq!(entry.subnqn(), Some(nqn.as_str()));
    }
    Ok((generation, entries.len()))
}

#[test]
fn logs_of_every_length_are_read() {
    for records in [0, 1, 3, 4, 5, 8, 100] {
        let outcome = read(|| log(7, records));
        assert_eq!(outcome, Ok((7, records as usize)));
    }
}

#[test]
fn a_log_that_changes_is_read_again() {
    let mut asked = 0;
    let outcome = read(|| {
        asked += 1;
        if asked < 3 { log(1, 5) } else { log(2, 9) }
    });
    assert_eq!(outcome, Ok((2, 9)));
}

#[test]
fn a_log_that_never_stands_still_is_an_error() {
    let mut generation = 0;
    let outcome = read(|| {
        generation += 1;
        log(generation, 0)
    });
    assert_eq!(outcome, Err(DiscoveryError::NeverStable));
    assert!(generation >= u64::from(DISCOVERY_RETRIES_MAX));
}

#[test]
fn malformed_logs_are_errors() {
    let short = read(|| log(1, 5)[..2048].to_vec());
    assert_eq!(short, Err(DiscoveryError::PieceShort));
    let empty = read(Vec::new);
    assert_eq!(empty, Err(DiscoveryError::PieceShort));
    let many = DISCOVERY_RECORDS_MAX + 1;
    let header = DiscoveryHeader {
        generation: 1,
        records: many,
        record_format: 0,
    };
    let outcome = read(|| header.emit().to_vec());
    assert_eq!(outcome, Err(DiscoveryError::TooManyRecords(many)));
    let header = DiscoveryHeader {
        record_format: 3,
        ..header
    };
    let outcome = read(|| header.emit().to_vec());
    assert_eq!(outcome, Err(DiscoveryError::FormatUnknown(3)));
}

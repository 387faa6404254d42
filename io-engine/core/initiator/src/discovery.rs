//! Reads a discovery log page in pieces, consistently (Base 2.0c §5.16.1.23).
//!
//! Header, entries, header again: if the generation changed in between, everything is read again.

use crate::limits::{DISCOVERY_PIECE_LEN, DISCOVERY_RECORDS_MAX, DISCOVERY_RETRIES_MAX};
use nvme_spec::discovery::{DiscoveryEntry, DiscoveryHeader};
use nvme_spec::log::{DISCOVERY, GetLogPage};

/// Why a discovery log could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiscoveryError {
    /// A piece is shorter than asked for.
    PieceShort,
    /// More entries than this reader takes.
    TooManyRecords(u64),
    /// Record format other than 0.
    FormatUnknown(u16),
    /// The log kept changing while it was read.
    NeverStable,
}

impl core::fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::PieceShort => f.write_str("discovery log is shorter than it says"),
            Self::TooManyRecords(records) => write!(f, "discovery log has {records} entries"),
            Self::FormatUnknown(format) => write!(f, "discovery log has format {format}"),
            Self::NeverStable => f.write_str("discovery log kept changing"),
        }
    }
}

impl core::error::Error for DiscoveryError {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    Header,
    Entries { piece_len: u64 },
    HeaderAgain,
    Done,
}

/// One reading of a discovery log. Ask [`Self::poll_command`], send it, give the data to [`Self::handle_data`], until
/// there is no command.
#[derive(Debug)]
pub struct DiscoveryReader {
    reading: Reading,
    header: DiscoveryHeader,
    entries: Vec<DiscoveryEntry>,
    retries: u32,
}

impl Default for DiscoveryReader {
    fn default() -> Self {
        Self::new()
    }
}

impl DiscoveryReader {
    /// A reader that has read nothing.
    pub fn new() -> Self {
        Self {
            reading: Reading::Header,
            header: DiscoveryHeader::default(),
            entries: Vec::new(),
            retries: 0,
        }
    }

    /// The next Get Log Page to send, its data length being `bytes`; `None` when the log is complete.
    pub fn poll_command(&self) -> Option<GetLogPage> {
        let (offset, bytes) = match self.reading {
            Reading::Header | Reading::HeaderAgain => (0, DiscoveryHeader::LEN as u64),
            Reading::Entries { piece_len } => {
                let read = self.entries.len() as u64 + 1;
                (read * DiscoveryEntry::LEN as u64, piece_len)
            }
            Reading::Done => return None,
        };
        Some(GetLogPage {
            lid: DISCOVERY,
            bytes,
            offset,
            ..GetLogPage::default()
        })
    }

    /// Takes the data of the last command.
    ///
    /// # Errors
    /// [`DiscoveryError`]; the reader is of no further use.
    pub fn handle_data(&mut self, data: &[u8]) -> Result<(), DiscoveryError> {
        match self.reading {
            Reading::Header => {
                self.header = header(data)?;
                self.entries.clear();
                self.next_piece();
            }
            Reading::Entries { piece_len } => {
                let data = data
                    .get(..piece_len as usize)
                    .ok_or(DiscoveryError::PieceShort)?;
                for raw in data.as_chunks::<{ DiscoveryEntry::LEN }>().0 {
                    self.entries.push(DiscoveryEntry::parse(raw));
                }
                self.next_piece();
            }
            Reading::HeaderAgain => {
                if header(data)?.generation == self.header.generation {
                    self.reading = Reading::Done;
                    return Ok(());
                }
                self.retries += 1;
                if self.retries > DISCOVERY_RETRIES_MAX {
                    return Err(DiscoveryError::NeverStable);
                }
                self.reading = Reading::Header;
            }
            Reading::Done => {}
        }
        Ok(())
    }

    /// Generation of the log and its entries, once there is no further command.
    pub fn into_entries(self) -> (u64, Vec<DiscoveryEntry>) {
        (self.header.generation, self.entries)
    }

    fn next_piece(&mut self) {
        let left = self.header.records - self.entries.len() as u64;
        self.reading = if left == 0 {
            Reading::HeaderAgain
        } else {
            let piece_len = (left * DiscoveryEntry::LEN as u64).min(DISCOVERY_PIECE_LEN);
            Reading::Entries { piece_len }
        };
    }
}

fn header(data: &[u8]) -> Result<DiscoveryHeader, DiscoveryError> {
    let header = DiscoveryHeader::parse(data.first_chunk().ok_or(DiscoveryError::PieceShort)?);
    if header.record_format != 0 {
        return Err(DiscoveryError::FormatUnknown(header.record_format));
    }
    if header.records > DISCOVERY_RECORDS_MAX {
        return Err(DiscoveryError::TooManyRecords(header.records));
    }
    Ok(header)
}

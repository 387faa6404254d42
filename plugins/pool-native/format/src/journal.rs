//! Blocks of the journal (`docs/disk-format.md` §4.8).

use crate::bytes::{Put, Reader};
use crate::check::ENVELOPE;
use crate::record::Record;
use crate::{BLOCK, Envelope, JOURNAL, Malformed, Uuid};

/// Where records begin; a block has room for `BLOCK - RECORDS_AT` bytes of them.
pub const RECORDS_AT: usize = 64;

/// What a journal block says besides its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalHeader {
    /// Sequence number.
    pub sequence: u64,
    /// Era of the writer.
    pub era: u32,
    /// CRC of the block before.
    pub chain: u32,
    /// Newest block the writer knew to be durable.
    pub mark: u64,
    /// Newest checkpoint whose root the writer knew to be durable.
    pub checkpoint: u64,
}

/// A valid journal block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalBlock {
    /// Its header.
    pub header: JournalHeader,
    /// Its own CRC, which the next block carries.
    pub crc: u32,
    /// Its records.
    pub records: Vec<Record>,
}

impl JournalHeader {
    /// The block to write, with `count` records already emitted as `records`, and its CRC.
    ///
    /// # Panics
    /// When the records do not fit a block.
    pub fn emit(&self, uuid: &Uuid, ring: u32, records: &[u8], count: u16) -> (Vec<u8>, u32) {
        assert!(records.len() <= BLOCK - RECORDS_AT, "records fit a block");
        let mut out = vec![0; ENVELOPE];
        out.put_u32(self.era);
        out.put_u32(self.chain);
        out.put_u64(self.mark);
        out.put_u64(self.checkpoint);
        out.put_u16(count);
        out.resize(RECORDS_AT, 0);
        out.put(records);
        let place = self.sequence % u64::from(ring);
        let crc = Envelope::seal(&mut out, uuid, JOURNAL, place, self.sequence);
        (out, crc)
    }

    /// Parses only the header of the block at ring position `place`.
    ///
    /// # Errors
    /// As [`Envelope::open`].
    pub fn parse(
        bytes: &[u8],
        uuid: &Uuid,
        place: u64,
    ) -> Result<(Self, Envelope, u16), Malformed> {
        let envelope = Envelope::open(bytes, uuid, JOURNAL, Some(place))?;
        if envelope.length > BLOCK {
            return Err(Malformed::Length);
        }
        let mut r = Reader::new(&bytes[..envelope.length], ENVELOPE);
        let (era, chain, mark, checkpoint) = (r.u32()?, r.u32()?, r.u64()?, r.u64()?);
        let count = r.u16()?;
        let header = Self {
            sequence: envelope.generation,
            era,
            chain,
            mark,
            checkpoint,
        };
        Ok((header, envelope, count))
    }
}

impl JournalBlock {
    /// Parses the block at ring position `place`.
    ///
    /// # Errors
    /// As [`Envelope::open`]; `Value` for a record this code does not know.
    pub fn parse(bytes: &[u8], uuid: &Uuid, place: u64) -> Result<Self, Malformed> {
        let (header, envelope, count) = JournalHeader::parse(bytes, uuid, place)?;
        let mut r = Reader::new(&bytes[..envelope.length], RECORDS_AT);
        let mut records = Vec::new();
        for _ in 0..count {
            records.push(Record::parse(&mut r)?);
        }
        Ok(Self {
            header,
            crc: envelope.crc,
            records,
        })
    }
}

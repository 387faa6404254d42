//! The claim of a disk: which engine holds it (`docs/disk-format.md` §4.2).

use crate::bytes::{Put, Reader};
use crate::check::{CLAIM, ENVELOPE};
use crate::{BLOCK, Envelope, Malformed, Uuid};

/// Block of a disk that the claim lies in.
pub const CLAIM_BLOCK: u64 = 1;

/// Who holds a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The host.
    pub host: Uuid,
    /// Its present life: another after each start of the machine.
    pub boot: Uuid,
    /// The process; 0 when the disk was given back.
    pub pid: u32,
    /// Raised with each heartbeat.
    pub counter: u64,
    /// When it was written, in seconds since 1970.
    pub time_s: u64,
}

impl Claim {
    /// The block to write.
    pub fn emit(&self, uuid: &Uuid) -> Vec<u8> {
        let mut out = vec![0; ENVELOPE];
        out.put(&self.host);
        out.put(&self.boot);
        out.put_u32(self.pid);
        out.put_u32(0);
        out.put_u64(self.counter);
        out.put_u64(self.time_s);
        Envelope::seal(&mut out, uuid, CLAIM, CLAIM_BLOCK, self.counter);
        out.resize(BLOCK, 0);
        out
    }

    /// Parses the block.
    ///
    /// # Errors
    /// As [`Envelope::open`].
    pub fn parse(bytes: &[u8], uuid: &Uuid) -> Result<Self, Malformed> {
        let envelope = Envelope::open(bytes, uuid, CLAIM, Some(CLAIM_BLOCK))?;
        let mut r = Reader::new(&bytes[..envelope.length], ENVELOPE);
        let (host, boot, pid) = (r.uuid()?, r.uuid()?, r.u32()?);
        r.skip(4)?;
        let (counter, time_s) = (r.u64()?, r.u64()?);
        Ok(Self {
            host,
            boot,
            pid,
            counter,
            time_s,
        })
    }
}

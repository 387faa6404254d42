//! Data a controller asked the host for: one R2T outstanding per command, data in order.
//!
//! One R2T at a time obeys every MAXR2T a host can announce. Each asks for at most MAXH2CDATA bytes, because hosts
//! exist that answer an R2T by one H2CData PDU of its whole length.

use crate::fault::{Fault, FaultKind};
use crate::stall::Oldest;
use nvme_tcp_pdu::{DataHeader, FatalStatus, Flags};

/// The adaptor's name for one fetch and its buffer: a dense index below
/// [`ControllerConfig::commands_max`](crate::ControllerConfig), also sent as TTAG.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FetchTag(pub u16);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    #[default]
    Free,
    Active,
    /// Cancelled while an R2T was outstanding; what still arrives is dropped.
    Cancelled,
}

/// One slot of the table of fetches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fetch {
    mode: Mode,
    cid: u16,
    data_ok: bool,
    /// Bytes of the whole fetch.
    len: u32,
    /// Next byte expected, from the start of the command's data.
    next: u32,
    /// End of the outstanding R2T; equal to `next` when none is outstanding.
    end: u32,
    /// Bytes all R2Ts had asked for when the outstanding one was the last.
    due: u64,
}

/// What the arrival of data completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// The R2T is not filled.
    Partial,
    /// The R2T is filled, the fetch needs another.
    AnotherR2t,
    /// All bytes are there.
    Done { data_ok: bool },
    /// The last bytes of a cancelled fetch are gone.
    Drained,
}

impl Fetch {
    pub(crate) fn is_free(&self) -> bool {
        self.mode == Mode::Free
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.mode == Mode::Cancelled
    }

    pub(crate) fn start(cid: u16, len: u32) -> Self {
        Self {
            mode: Mode::Active,
            cid,
            data_ok: true,
            len,
            next: 0,
            end: 0,
            due: 0,
        }
    }

    /// Bytes the outstanding R2T still misses.
    pub(crate) fn missing(&self) -> u32 {
        self.end - self.next
    }

    /// The outstanding R2T, if its data is wanted. `placed` bytes of a PDU that is not complete belong to it.
    pub(crate) fn outstanding(&self, placed: u32) -> Option<Oldest> {
        (self.mode == Mode::Active && self.next < self.end).then(|| Oldest {
            due: self.due,
            missing: u64::from(self.missing().saturating_sub(placed)),
        })
    }

    /// Stops the fetch; whether it is free at once.
    pub(crate) fn cancel(&mut self) -> bool {
        if self.next == self.end {
            self.mode = Mode::Free;
            return true;
        }
        self.mode = Mode::Cancelled;
        false
    }

    /// Opens the next R2T of at most `limit` bytes: command, offset and length. `asked` is what all R2Ts asked for so far.
    pub(crate) fn open_r2t(&mut self, limit: u32, asked: &mut u64) -> (u16, u32, u32) {
        let len = (self.len - self.next).min(limit);
        self.end = self.next + len;
        *asked += u64::from(len);
        self.due = *asked;
        (self.cid, self.next, len)
    }

    /// Checks an H2CData header with `data_len` bytes of data against the outstanding R2T.
    #[inline]
    pub(crate) fn check(
        &self,
        header: &DataHeader,
        flags: Flags,
        data_len: u32,
        limit: u32,
    ) -> Result<(), Fault> {
        // TCP Transport 1.0c §3.6.2.8: TTAG and CCCID are those of the R2T, data follows in order, LAST_PDU ends it.
        if self.is_free() || self.next == self.end {
            return Err(Fault::field(FaultKind::UnknownTransferTag, 10));
        }
        if header.cccid != self.cid {
            return Err(Fault::field(FaultKind::UnknownCommand, 8));
        }
        if header.datal != data_len {
            return Err(Fault::field(FaultKind::DataLength, 16));
        }
        if data_len > limit {
            let status = FatalStatus::LimitExceeded;
            return Err(Fault::new(FaultKind::DataLength, status, 0));
        }
        if header.datao != self.next {
            return Err(Fault::field(FaultKind::DataOutOfOrder, 12));
        }
        if data_len > self.end - self.next {
            let status = FatalStatus::DataOutOfRange;
            return Err(Fault::new(FaultKind::DataOutOfRange, status, 0));
        }
        if flags.has(Flags::LAST) != (data_len == self.end - self.next) {
            return Err(Fault::field(FaultKind::LastFlag, 1));
        }
        Ok(())
    }

    /// Takes in the data of one PDU that passed [`Self::check`].
    #[inline]
    pub(crate) fn advance(&mut self, len: u32, data_ok: bool) -> Progress {
        self.next += len;
        self.data_ok &= data_ok;
        if self.next < self.end {
            return Progress::Partial;
        }
        match self.mode {
            Mode::Cancelled | Mode::Free => {
                self.mode = Mode::Free;
                Progress::Drained
            }
            Mode::Active if self.end < self.len => Progress::AnotherR2t,
            Mode::Active => {
                self.mode = Mode::Free;
                Progress::Done {
                    data_ok: self.data_ok,
                }
            }
        }
    }
}

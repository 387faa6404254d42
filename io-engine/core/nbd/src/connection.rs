//! A connection from the greeting to its end.
//!
//! Decides the phase the stream is in and what may be received in it. Options are [`crate::handshake`]'s, requests
//! [`crate::serving`]'s.

use std::time::{Duration, Instant};

use nbd_wire::{ClientFlags, Greeting, HandshakeFlags, OptionHeader, OptionKind, ReplyKind};

use crate::exports::{ExportId, Exports};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::handshake::{Choice, Handshake, Outcome, refuse};
use crate::limits::{
    OPTION_LEN_MAX, OPTION_SKIP_MAX, PAYLOAD_LEN_MAX, PROGRESS_TIMEOUT, REQUESTS_MAX, TX_BYTES_HIGH,
};
use crate::pending::{Io, Slot};
use crate::serving::{Data, Serving, Span};
use crate::transmit::{Chunks, DataToken, Transmit};

/// How a connection is run.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionConfig {
    /// Largest payload moved in one piece in bytes; a power of 2 from 4096 to 32 MiB. Told to clients as the maximum.
    pub transfer_bytes_max: u32,
    /// Requests in flight, 1 to [`REQUESTS_MAX`].
    pub requests_max: usize,
    /// Time until an export is chosen.
    pub handshake_timeout: Duration,
}

impl ConnectionConfig {
    /// The same within the ranges.
    fn clamped(self) -> Self {
        let transfer = self.transfer_bytes_max.clamp(4096, PAYLOAD_LEN_MAX);
        Self {
            transfer_bytes_max: 1 << transfer.ilog2(),
            requests_max: self.requests_max.clamp(1, REQUESTS_MAX),
            ..self
        }
    }
}

/// What a connection needs from its adaptor next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// At least this many contiguous bytes (at most [`OPTION_LEN_MAX`] + 16); more are welcome.
    Header(usize),
    /// Payload of a write.
    Payload {
        /// Whose.
        slot: Slot,
        /// Offset of the next byte in its buffer, which is `offset + len` long.
        offset: u32,
        /// Bytes outstanding, at least 1; fewer may be given at a time.
        len: u32,
    },
    /// Receive nothing until something was answered or sent, or the connection was moved.
    Stopped,
    /// Receive nothing any more; close once [`Connection::is_over`].
    Ended,
}

/// What became of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Bytes taken; 0 when [`Connection::want`] names more than there were.
    pub taken: usize,
    /// What they led to.
    pub event: Option<Event>,
}

/// What the adaptor has to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The client chose this export, which is here: requests follow.
    Entered(ExportId),
    /// The client chose this export, which is elsewhere: bring the connection there and call
    /// [`Connection::handle_arrived`].
    Away(ExportId),
}

#[derive(Debug)]
enum Phase {
    /// Before the client's flags.
    Flags,
    /// Before an option. `need` bytes are known to belong to it.
    Options { need: usize },
    /// In an option's data nobody looks at.
    SkipOption(u32),
    /// The chosen export is elsewhere.
    Away(Choice),
    /// Requests.
    Serving,
    /// The client said goodbye.
    Ending,
}

/// See the crate documentation.
#[derive(Debug)]
pub struct Connection {
    config: ConnectionConfig,
    phase: Phase,
    handshake: Handshake,
    serving: Option<Serving>,
    tx: Transmit,
    handshake_deadline: Instant,
    /// When the client last moved a byte we waited for.
    quiet_since: Instant,
}

impl Connection {
    /// A connection just accepted; the greeting is queued. Values of `config` outside their ranges are brought inside.
    pub fn new(config: ConnectionConfig, now: Instant) -> Self {
        let config = config.clamped();
        let mut tx = Transmit::default();
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        tx.push(&Greeting { flags }.to_bytes());
        Self {
            config,
            phase: Phase::Flags,
            handshake: Handshake::default(),
            serving: None,
            tx,
            handshake_deadline: now + config.handshake_timeout,
            quiet_since: now,
        }
    }

    /// What is to be received next.
    #[inline]
    pub fn want(&self) -> Want {
        let congested = self.tx.bytes_queued() >= TX_BYTES_HIGH;
        match (&self.phase, &self.serving) {
            (Phase::Serving, Some(serving)) => serving.want(self.tx.bytes_queued()),
            (Phase::Flags, _) => Want::Header(ClientFlags::LEN),
            (Phase::Options { .. }, _) if congested => Want::Stopped,
            (Phase::Options { need }, _) => Want::Header(*need),
            (Phase::SkipOption(_), _) => Want::Header(1),
            (Phase::Away(_), _) => Want::Stopped,
            (Phase::Ending, _) | (Phase::Serving, None) => Want::Ended,
        }
    }

    /// Takes received bytes, of the handshake or of requests.
    ///
    /// # Errors
    /// Why the connection is over; close it at once.
    #[inline]
    pub fn handle_header(
        &mut self,
        now: Instant,
        bytes: &[u8],
        exports: &Exports,
    ) -> Result<Step, Fault> {
        if let (Phase::Serving, Some(serving)) = (&self.phase, &mut self.serving) {
            if self.tx.is_empty() {
                self.quiet_since = now;
            }
            let (taken, ends) = serving.handle_bytes(bytes, &mut self.tx)?;
            if ends {
                self.phase = Phase::Ending;
            }
            return Ok(Step { taken, event: None });
        }
        self.handle_handshake(now, bytes, exports)
    }

    fn handle_handshake(
        &mut self,
        now: Instant,
        bytes: &[u8],
        exports: &Exports,
    ) -> Result<Step, Fault> {
        let nothing = Step {
            taken: 0,
            event: None,
        };
        let took = |taken| Step { taken, event: None };
        match self.phase {
            Phase::Flags => {
                let Ok(flags) = ClientFlags::parse(bytes) else {
                    return Ok(nothing);
                };
                // §Client flags: unknown ones end the connection.
                if !flags.is_within(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES) {
                    return Err(Fault::UnknownClientFlags);
                }
                self.handshake.no_zeroes = flags.has(ClientFlags::NO_ZEROES);
                self.phase = Phase::Options {
                    need: OptionHeader::LEN,
                };
                Ok(took(ClientFlags::LEN))
            }
            Phase::SkipOption(left) => {
                let taken = bytes.len().min(left as usize);
                self.phase = match left - taken as u32 {
                    0 => Phase::Options {
                        need: OptionHeader::LEN,
                    },
                    left => Phase::SkipOption(left),
                };
                Ok(took(taken))
            }
            Phase::Options { .. } => self.handle_option(now, bytes, exports),
            Phase::Away(_) | Phase::Serving | Phase::Ending => Ok(nothing),
        }
    }

    fn handle_option(
        &mut self,
        now: Instant,
        bytes: &[u8],
        exports: &Exports,
    ) -> Result<Step, Fault> {
        if bytes.len() < OptionHeader::LEN {
            return Ok(Step {
                taken: 0,
                event: None,
            });
        }
        let header = OptionHeader::parse(bytes).map_err(|_| Fault::BadMagic)?;
        if header.len as usize > OPTION_LEN_MAX {
            return self.skip_option(header);
        }
        let end = OptionHeader::LEN + header.len as usize;
        let Some(data) = bytes.get(OptionHeader::LEN..end) else {
            self.phase = Phase::Options { need: end };
            return Ok(Step {
                taken: 0,
                event: None,
            });
        };
        self.phase = Phase::Options {
            need: OptionHeader::LEN,
        };
        let payload_max = self.config.transfer_bytes_max;
        let (option, tx) = (header.option, &mut self.tx);
        let event = match self
            .handshake
            .handle_option(option, data, exports, payload_max, tx)
        {
            Outcome::Answered => None,
            Outcome::Aborted => {
                self.phase = Phase::Ending;
                None
            }
            Outcome::Chosen(choice) => self.enter(now, choice, exports)?,
        };
        Ok(Step { taken: end, event })
    }

    fn skip_option(&mut self, header: OptionHeader) -> Result<Step, Fault> {
        if header.len > OPTION_SKIP_MAX {
            return Err(Fault::OptionTooLong);
        }
        if header.option == OptionKind::ExportName {
            return Err(Fault::UnknownExport);
        }
        let text = "option data is too long";
        refuse(&mut self.tx, header.option, ReplyKind::ErrTooBig, text);
        self.phase = Phase::SkipOption(header.len);
        Ok(Step {
            taken: OptionHeader::LEN,
            event: None,
        })
    }

    /// Ends the handshake with `choice`, if its export is here.
    fn enter(
        &mut self,
        now: Instant,
        choice: Choice,
        exports: &Exports,
    ) -> Result<Option<Event>, Fault> {
        if let Some(export) = Handshake::find(&choice, exports).filter(|export| !export.is_here) {
            let event = Event::Away(export.id);
            self.phase = Phase::Away(choice);
            return Ok(Some(event));
        }
        let config = self.config;
        let payload_max = config.transfer_bytes_max;
        let entered = self
            .handshake
            .enter(&choice, exports, payload_max, &mut self.tx)?;
        let Some(chosen) = entered else {
            self.phase = Phase::Options {
                need: OptionHeader::LEN,
            };
            return Ok(None);
        };
        self.quiet_since = now;
        self.phase = Phase::Serving;
        self.serving = Some(Serving::new(chosen, payload_max, config.requests_max));
        Ok(Some(Event::Entered(chosen.id)))
    }

    /// The connection was brought to where the chosen export was said to be; `exports` are those of that place.
    ///
    /// # Errors
    /// [`Fault::UnknownExport`] when it is gone meanwhile and the client cannot be told.
    pub fn handle_arrived(
        &mut self,
        now: Instant,
        exports: &Exports,
    ) -> Result<Option<Event>, Fault> {
        match std::mem::replace(&mut self.phase, Phase::Ending) {
            Phase::Away(choice) => self.enter(now, choice, exports),
            other => {
                self.phase = other;
                Ok(None)
            }
        }
    }

    /// Whether it waits to be brought elsewhere.
    pub fn is_away(&self) -> bool {
        matches!(self.phase, Phase::Away(_))
    }

    /// The export requests go to.
    pub fn export(&self) -> Option<ExportId> {
        self.serving.as_ref().map(|serving| serving.chosen.id)
    }

    /// `len` bytes arrived where [`Want::Payload`] said, at most as many as it said.
    #[inline]
    pub fn handle_payload(&mut self, now: Instant, len: usize) {
        self.quiet_since = now;
        if let Some(serving) = &mut self.serving {
            serving.handle_payload(len);
        }
    }

    /// The client was kept waiting by us until `now`, and is not to blame for it.
    pub fn note_resumed(&mut self, now: Instant) {
        self.quiet_since = now;
    }

    /// The next I/O to be done.
    #[inline]
    pub fn poll_io(&mut self) -> Option<Io> {
        self.serving.as_mut()?.poll_io()
    }

    /// A read ended with `data`. `false` if the data is not needed; otherwise it is sent, and kept until
    /// [`Connection::handle_sent`] releases it.
    #[inline]
    pub fn handle_data(&mut self, now: Instant, slot: Slot, data: Data) -> bool {
        self.begin_sending(now);
        match &mut self.serving {
            Some(serving) => serving.handle_data(slot, data, &mut self.tx),
            None => false,
        }
    }

    /// An I/O ended without data, or failed.
    #[inline]
    pub fn handle_done(&mut self, now: Instant, slot: Slot, result: Result<(), Failure>) {
        self.begin_sending(now);
        if let Some(serving) = &mut self.serving {
            serving.handle_done(slot, result, &mut self.tx);
        }
    }

    /// What a range holds, from its start; spans behind the range are cut off.
    pub fn handle_extents(&mut self, now: Instant, slot: Slot, spans: impl Iterator<Item = Span>) {
        self.begin_sending(now);
        if let Some(serving) = &mut self.serving {
            serving.handle_extents(slot, spans, &mut self.tx);
        }
    }

    /// The clock of a client that does not read starts with the first byte it could read.
    fn begin_sending(&mut self, now: Instant) {
        if self.tx.is_empty() {
            self.quiet_since = now;
        }
    }

    /// The chosen export has this size in bytes from here on; requests are checked against it.
    pub fn set_size(&mut self, bytes: u64) {
        if let Some(serving) = &mut self.serving {
            serving.set_size(bytes);
        }
    }

    /// Whether there is something to send.
    #[inline]
    pub fn has_transmit(&self) -> bool {
        !self.tx.is_empty()
    }

    /// What is to be sent, in order.
    #[inline]
    pub fn transmit(&self) -> Chunks<'_> {
        self.tx.chunks()
    }

    /// The first `sent` bytes of [`Connection::transmit`] are sent; `released` is told of data that is free.
    ///
    /// # Panics
    /// When more bytes are reported than were queued.
    #[inline]
    pub fn handle_sent(&mut self, now: Instant, sent: usize, mut released: impl FnMut(DataToken)) {
        self.quiet_since = now;
        let serving = &mut self.serving;
        self.tx.handle_sent(sent, |token, len| {
            if let Some(serving) = serving {
                serving.handle_released(len);
            }
            released(token);
        });
    }

    /// Whether the client has said goodbye, everything is answered, and the answers are sent.
    pub fn is_over(&self) -> bool {
        let idle = self.serving.as_ref().is_none_or(Serving::is_idle);
        matches!(self.phase, Phase::Ending) && idle && self.tx.is_empty()
    }

    /// When [`Connection::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.serving.is_none() {
            return Some(self.handshake_deadline);
        }
        let waits = !self.tx.is_empty() || matches!(self.want(), Want::Payload { .. });
        waits.then(|| self.quiet_since + PROGRESS_TIMEOUT)
    }

    /// Looks at the deadlines.
    ///
    /// # Errors
    /// [`Fault::HandshakeTimeout`] or [`Fault::Stalled`] for one that has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Fault> {
        match self.poll_timeout() {
            Some(deadline) if deadline <= now => Err(if self.serving.is_none() {
                Fault::HandshakeTimeout
            } else {
                Fault::Stalled
            }),
            _ => Ok(()),
        }
    }
}

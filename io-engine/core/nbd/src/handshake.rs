//! Option haggling: what each option does and how it is answered.
//!
//! Every option but `NBD_OPT_EXPORT_NAME` is answered, known or not (§Fixed newstyle negotiation). State is what the
//! client has negotiated so far.

use nbd_wire::{
    BASE_ALLOCATION, ExportChoice, ExportInfo, ExportReply, Info, InfoKind, Malformed, MetaContext,
    MetaQueries, OptionKind, OptionReply, ReplyKind, ServerEntry, TransmissionFlags,
};

use crate::exports::{Export, Exports};
use crate::fault::Fault;
use crate::request::Chosen;
use crate::serving::STATUS_CONTEXT;
use crate::transmit::Transmit;

/// What the client has negotiated.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    /// Left out after `NBD_OPT_EXPORT_NAME`.
    pub(crate) no_zeroes: bool,
    structured: bool,
    /// The export `base:allocation` was chosen for, by the name the client used.
    status_of: Option<Vec<u8>>,
}

/// A client's choice of an export.
#[derive(Debug)]
pub(crate) struct Choice {
    option: OptionKind,
    name: Vec<u8>,
    wants_name: bool,
    wants_description: bool,
}

/// What came of an option.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was answered; the next may come.
    Answered,
    /// The client wants this export from here on; not answered yet.
    Chosen(Choice),
    /// The client ends the session.
    Aborted,
}

impl Handshake {
    /// Handles one option with its data.
    pub(crate) fn handle_option(
        &mut self,
        option: OptionKind,
        data: &[u8],
        exports: &Exports,
        payload_max: u32,
        tx: &mut Transmit,
    ) -> Outcome {
        match option {
            OptionKind::ExportName => {
                return Outcome::Chosen(Choice {
                    option,
                    name: data.to_vec(),
                    wants_name: false,
                    wants_description: false,
                });
            }
            OptionKind::Abort => {
                reply(tx, option, ReplyKind::Ack);
                return Outcome::Aborted;
            }
            OptionKind::Go | OptionKind::Info => match ExportChoice::parse(data) {
                Err(error) => refuse_malformed(tx, option, error),
                Ok(choice) => {
                    let choice = Choice {
                        option,
                        name: choice.name.to_vec(),
                        wants_name: choice.infos.contains(InfoKind::Name),
                        wants_description: choice.infos.contains(InfoKind::Description),
                    };
                    match exports.find(&choice.name) {
                        None => refuse(tx, option, ReplyKind::ErrUnknown, "no such export"),
                        Some(_) if option == OptionKind::Go => return Outcome::Chosen(choice),
                        Some(export) => self.tell(export, &choice, payload_max, tx),
                    }
                }
            },
            OptionKind::List if !data.is_empty() => refuse_data(tx, option),
            OptionKind::List => list(exports, tx),
            OptionKind::StructuredReply if !data.is_empty() => refuse_data(tx, option),
            OptionKind::StructuredReply => {
                self.structured = true;
                reply(tx, option, ReplyKind::Ack);
            }
            OptionKind::ListMetaContext | OptionKind::SetMetaContext => {
                self.contexts(option, data, exports, tx);
            }
            OptionKind::StartTls if !data.is_empty() => refuse_data(tx, option),
            // §NOTLS mode.
            OptionKind::StartTls => refuse(tx, option, ReplyKind::ErrUnsup, "there is no TLS here"),
            OptionKind::ExtendedHeaders | OptionKind::Unknown(_) => {
                refuse(tx, option, ReplyKind::ErrUnsup, "option is not supported");
            }
        }
        Outcome::Answered
    }

    /// Answers a client's choice, by which the handshake ends; `None` if it goes on without an export.
    ///
    /// # Errors
    /// [`Fault::UnknownExport`] when the option has no other way to be refused.
    pub(crate) fn enter(
        &self,
        choice: &Choice,
        exports: &Exports,
        payload_max: u32,
        tx: &mut Transmit,
    ) -> Result<Option<Chosen>, Fault> {
        let Some(export) = exports.find(&choice.name) else {
            if choice.option == OptionKind::ExportName {
                return Err(Fault::UnknownExport);
            }
            refuse(tx, choice.option, ReplyKind::ErrUnknown, "no such export");
            return Ok(None);
        };
        if choice.option == OptionKind::ExportName {
            let answer = ExportReply {
                size: export.bytes(),
                flags: self.flags(export),
            };
            tx.push(&answer.to_bytes());
            if !self.no_zeroes {
                tx.push(&[0; ExportReply::ZEROES]);
            }
        } else {
            self.tell(export, choice, payload_max, tx);
        }
        // §Option types, NBD_OPT_SET_META_CONTEXT: it holds for the export of that name alone.
        let status = self.structured && self.status_of.as_ref() == Some(&choice.name);
        Ok(Some(Chosen::new(export, self.structured, status)))
    }

    /// The export a choice means.
    pub(crate) fn find<'a>(choice: &Choice, exports: &'a Exports) -> Option<&'a Export> {
        exports.find(&choice.name)
    }

    fn flags(&self, export: &Export) -> TransmissionFlags {
        export.flags(self.structured)
    }

    /// Answers `NBD_OPT_INFO` or `NBD_OPT_GO` with facts. Sizes are told unasked: clients that know them keep to them.
    fn tell(&self, export: &Export, choice: &Choice, payload_max: u32, tx: &mut Transmit) {
        let mut info = |info: Info<'_>| {
            let header = OptionReply {
                option: choice.option,
                kind: ReplyKind::Info,
                len: info.len(),
            };
            tx.push(&header.to_bytes());
            tx.write(|out| info.emit(out));
        };
        info(Info::Export(ExportInfo {
            size: export.bytes(),
            flags: self.flags(export),
        }));
        info(Info::BlockSize(export.block_sizes(payload_max)));
        if choice.wants_name {
            info(Info::Name(export.name.as_bytes()));
        }
        if choice.wants_description && !export.description.is_empty() {
            info(Info::Description(export.description.as_bytes()));
        }
        reply(tx, choice.option, ReplyKind::Ack);
    }

    /// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
    fn contexts(&mut self, option: OptionKind, data: &[u8], exports: &Exports, tx: &mut Transmit) {
        let sets = option == OptionKind::SetMetaContext;
        if sets {
            // Replaces what was chosen, also when it fails.
            self.status_of = None;
        }
        if !self.structured {
            let text = "structured replies come first";
            return refuse(tx, option, ReplyKind::ErrInvalid, text);
        }
        let asked = match MetaQueries::parse(data) {
            Ok(asked) => asked,
            Err(error) => return refuse_malformed(tx, option, error),
        };
        if exports.find(asked.name).is_none() {
            return refuse(tx, option, ReplyKind::ErrUnknown, "no such export");
        }
        let queries = &asked.queries;
        let named = queries
            .iter()
            .any(|query| query == BASE_ALLOCATION.as_bytes());
        let found = if sets {
            named
        } else {
            // §The `base:` metadata namespace: a wildcard when listing.
            named || queries.is_empty() || queries.iter().any(|query| query == b"base:")
        };
        if found {
            let context = MetaContext {
                id: if sets { STATUS_CONTEXT } else { 0 },
                name: BASE_ALLOCATION.as_bytes(),
            };
            let header = OptionReply {
                option,
                kind: ReplyKind::MetaContext,
                len: 4 + context.name.len() as u32,
            };
            tx.push(&header.to_bytes());
            tx.write(|out| context.emit(out));
        }
        if sets && found {
            self.status_of = Some(asked.name.to_vec());
        }
        reply(tx, option, ReplyKind::Ack);
    }
}

fn list(exports: &Exports, tx: &mut Transmit) {
    for export in exports.iter() {
        let entry = ServerEntry {
            name: export.name.as_bytes(),
            description: export.description.as_bytes(),
        };
        let header = OptionReply {
            option: OptionKind::List,
            kind: ReplyKind::Server,
            len: entry.len(),
        };
        tx.push(&header.to_bytes());
        tx.write(|out| entry.emit(out));
    }
    reply(tx, OptionKind::List, ReplyKind::Ack);
}

fn reply(tx: &mut Transmit, option: OptionKind, kind: ReplyKind) {
    let header = OptionReply {
        option,
        kind,
        len: 0,
    };
    tx.push(&header.to_bytes());
}

/// Refuses an option with a text for the client's user.
pub(crate) fn refuse(tx: &mut Transmit, option: OptionKind, kind: ReplyKind, text: &str) {
    let header = OptionReply {
        option,
        kind,
        len: text.len() as u32,
    };
    tx.push(&header.to_bytes());
    tx.push(text.as_bytes());
}

fn refuse_data(tx: &mut Transmit, option: OptionKind) {
    refuse(tx, option, ReplyKind::ErrInvalid, "option takes no data");
}

fn refuse_malformed(tx: &mut Transmit, option: OptionKind, error: Malformed) {
    let text = match error {
        Malformed::StringTooLong => "a string is longer than 4096 bytes",
        Malformed::TooShort | Malformed::TooLong | Malformed::BadMagic | Malformed::BadValue => {
            "option data is malformed"
        }
    };
    refuse(tx, option, ReplyKind::ErrInvalid, text);
}

//! Upstream's fault injections: `inject://<device name>?op=..&method=..` as rules of this device.
//!
//! Decides: which rule says what such a URI says. Upstream's words that name a layer (`domain`) are understood and make no
//! difference, because there is one layer here. An NVMe status becomes the device error for which the target answers
//! that status; a status no device error stands for is refused. `docs/device-fault.md` has the table.

use std::fmt;

use sdk::uri::{DeviceUri, UriError};

use crate::rule::{
    ErrorKind, Fault, OpKind, Ops, Rot, Rule, RuleError, Stage, range_of, set_window,
};

/// How such a URI begins.
const SCHEME: &str = "inject://";

/// A rule and the device it is meant for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Injection {
    /// The device named, without a leading slash.
    pub(crate) device: String,
    /// The rule.
    pub(crate) rule: Rule,
}

/// Why a URI is no injection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum InjectError {
    /// The URI or one of its parameters.
    Uri(UriError),
    /// A value the rules do not take.
    Rule(RuleError),
    /// No device error stands for the NVMe status.
    Status(String),
}

impl fmt::Display for InjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(error) => error.fmt(f),
            Self::Rule(error) => error.fmt(f),
            Self::Status(method) => write!(
                f,
                "method '{method}': no device error stands for that status; see docs/device-fault.md for those that do"
            ),
        }
    }
}

impl std::error::Error for InjectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Uri(error) => Some(error),
            Self::Rule(error) => Some(error),
            Self::Status(_) => None,
        }
    }
}

impl From<UriError> for InjectError {
    fn from(error: UriError) -> Self {
        Self::Uri(error)
    }
}

/// Whether `text` is meant as an injection.
pub(crate) fn is_injection(text: &str) -> bool {
    text.starts_with(SCHEME)
}

/// The injection a URI describes.
///
/// # Errors
/// Any [`InjectError`].
pub(crate) fn parse(text: &str) -> Result<Injection, InjectError> {
    let mut uri = DeviceUri::parse(text)?;
    let device = format!("{}{}", uri.authority(), uri.path());
    let device = device.trim_start_matches('/').to_owned();
    if device.is_empty() {
        return Err(InjectError::Uri(UriError::Malformed {
            uri: text.to_owned(),
            reason: "names no device; write inject://NAME?op=r&method=status",
        }));
    }
    if let Some(value) = uri.take("domain")
        && !["child", "block", "bdev_io"].contains(&value.as_str())
    {
        return Err(uri.bad("domain", value, "child, block or bdev_io").into());
    }
    let ops = match uri.take("op").as_deref() {
        None | Some("rw") => Ops::of(&[OpKind::Read, OpKind::Write]),
        Some("r") => Ops::of(&[OpKind::Read]),
        Some("w") => Ops::of(&[OpKind::Write]),
        Some(other) => return Err(uri.bad("op", other.to_owned(), "r, w or rw").into()),
    };
    let stage = match uri.take("stage").as_deref() {
        None | Some("submit") => Stage::Submit,
        Some("compl") => Stage::Complete,
        Some(other) => return Err(uri.bad("stage", other.to_owned(), "submit or compl").into()),
    };
    let fault = match uri.take("method") {
        None => fault("status", stage, &uri)?,
        Some(method) => fault(&method, stage, &uri)?,
    };
    let mut rule = Rule::new(fault);
    rule.ops = ops;
    let from_ms = uri.take_number("begin_at")?.unwrap_or(0);
    let until_ms = uri.take_number("end_at")?;
    set_window(&mut rule, from_ms, until_ms, "end_at").map_err(InjectError::Rule)?;
    let start = uri.take_number("offset")?;
    let blocks = uri.take_number("num_blk")?;
    if blocks == Some(0) {
        return Err(uri.bad("num_blk", "0".to_owned(), "at least 1").into());
    }
    rule.range = range_of(start, blocks);
    rule.count = uri.take_number("retries")?;
    if rule.count == Some(0) {
        return Err(uri.bad("retries", "0".to_owned(), "at least 1").into());
    }
    rule.inject = Some(text.to_owned());
    uri.finish()?;
    Ok(Injection { device, rule })
}

fn fault(method: &str, stage: Stage, uri: &DeviceUri) -> Result<Fault, InjectError> {
    const EXPECTED: &str = "status, data, status-nvme-SCT-SC (hexadecimal), status-lvol-nospace, \
         status-submit-read, status-submit-write or status-admin";
    let kind = match method {
        "data" => return Ok(Fault::Rot(Rot::All)),
        // Upstream's generic error is NVMe Data Transfer Error: the data did not get across.
        "status" => ErrorKind::Medium,
        "status-lvol-nospace" => ErrorKind::NoSpace,
        // The device below did not take the operation.
        "status-submit-read" | "status-submit-write" => ErrorKind::Gone,
        // The device below did not answer an admin command.
        "status-admin" => ErrorKind::Timeout,
        _ => {
            let codes = method
                .strip_prefix("status-nvme-")
                .and_then(|codes| codes.split_once('-'))
                .and_then(|(sct, sc)| Some((hex(sct)?, hex(sc)?)));
            let (sct, sc) = codes.ok_or_else(|| uri.bad("method", method.to_owned(), EXPECTED))?;
            error_of_status(sct, sc).ok_or_else(|| InjectError::Status(method.to_owned()))?
        }
    };
    Ok(Fault::Error { kind, stage })
}

fn hex(text: &str) -> Option<u8> {
    let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
}

/// The device error for an NVMe status: NVMe Base 2.0c §3.3.3.2.1 (status field).
fn error_of_status(sct: u8, sc: u8) -> Option<ErrorKind> {
    Some(match (sct, sc) {
        // Generic: Invalid Command Opcode, Data Transfer Error, Internal Error.
        (0, 0x01) => ErrorKind::NotSupported,
        (0, 0x04) => ErrorKind::Medium,
        (0, 0x06) => ErrorKind::Timeout,
        // Generic: Command Abort Requested, Command Aborted due to SQ Deletion.
        (0, 0x07 | 0x08) => ErrorKind::Aborted,
        // Generic: Command Interrupted, LBA Out of Range, Capacity Exceeded, Namespace Not Ready.
        (0, 0x21 | 0x82) => ErrorKind::Busy,
        (0, 0x80) => ErrorKind::OutOfRange,
        (0, 0x81) => ErrorKind::NoSpace,
        // Media and data integrity: Write Fault, Unrecovered Read Error, the three end-to-end checks.
        (2, 0x80..=0x84) => ErrorKind::Medium,
        // Media and data integrity: Compare Failure.
        (2, 0x85) => ErrorKind::CompareFailed,
        // Path related: internal, ANA and controller or host path errors.
        (3, 0x00..=0x03 | 0x60 | 0x70 | 0x71) => ErrorKind::Gone,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;

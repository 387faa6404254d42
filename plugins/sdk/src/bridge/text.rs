//! Texts and refusals as they cross.

use abi::{
    IOE_FAIL_IN_USE, IOE_FAIL_NO_ROOM, IOE_FAIL_NOT_FOUND, IOE_FAIL_SYSTEM, IOE_FAIL_UNSUITABLE,
    IOE_FAIL_URI_MALFORMED, IOE_FAIL_URI_SCHEME, IOE_FAIL_URI_UNKNOWN, IOE_FAIL_URI_VALUE, IOE_OK,
    IOE_PANICKED, IOE_REFUSED, IoeFailure, IoeStr, IoeText,
};

use crate::block::OpenError;
use crate::uri::UriError;

/// Room for a name, a product or one text of a refusal, in bytes; what is longer is cut off.
const TEXT_BYTES: usize = 1024;

/// Lends text for a call.
#[inline]
pub(super) fn lend(text: &str) -> IoeStr {
    lend_bytes(text.as_bytes())
}

/// Lends bytes for a call. Empty ones have an address as well, which tells them from none.
#[inline]
pub(super) fn lend_bytes(bytes: &[u8]) -> IoeStr {
    IoeStr {
        data: bytes.as_ptr(),
        len: bytes.len(),
    }
}

/// The bytes lent.
///
/// # Safety
/// `text` is what a caller of the contract lends: valid for `'a`.
#[inline]
pub(super) unsafe fn bytes<'a>(text: IoeStr) -> &'a [u8] {
    if text.data.is_null() || text.len == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(text.data, text.len) }
}

/// The text lent; what is not UTF-8 is none.
///
/// # Safety
/// As [`bytes`].
pub(super) unsafe fn text<'a>(text: IoeStr) -> &'a str {
    // SAFETY: the caller's.
    std::str::from_utf8(unsafe { bytes(text) }).unwrap_or_default()
}

/// Writes bytes into room, as far as it goes; `false` if it did not hold all.
///
/// # Safety
/// `room` is null or what a caller of the contract lends.
pub(super) unsafe fn fill(room: *mut IoeText, bytes: &[u8]) -> bool {
    // SAFETY: the caller's.
    let Some(room) = (unsafe { room.as_mut() }) else {
        return bytes.is_empty();
    };
    room.len = 0;
    if room.data.is_null() {
        return bytes.is_empty();
    }
    let len = bytes.len().min(room.capacity as usize);
    // SAFETY: there is room for `capacity` bytes, and the source is another piece of memory.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), room.data, len) };
    room.len = len as u32;
    len == bytes.len()
}

/// As [`fill`] for text, cut at a whole character.
///
/// # Safety
/// As [`fill`].
pub(super) unsafe fn fill_text(room: *mut IoeText, text: &str) {
    // SAFETY: the caller's.
    let capacity = unsafe { room.as_ref() }.map_or(0, |room| room.capacity as usize);
    let mut end = text.len().min(capacity);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // SAFETY: the caller's.
    unsafe { fill(room, &text.as_bytes()[..end]) };
}

/// Room on this side.
pub(super) struct Room<'a> {
    bytes: &'a mut [u8],
    raw: IoeText,
}

impl<'a> Room<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        let raw = IoeText {
            data: bytes.as_mut_ptr(),
            capacity: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            len: 0,
        };
        Self { bytes, raw }
    }

    pub(super) fn raw(&mut self) -> &mut IoeText {
        &mut self.raw
    }

    /// What was written, as far as it can have been.
    pub(super) fn written(&self) -> &[u8] {
        let len = (self.raw.len as usize).min(self.bytes.len());
        &self.bytes[..len]
    }

    /// What the other side says it has to write.
    pub(super) fn asked(&self) -> usize {
        self.raw.len as usize
    }
}

/// A text the other side writes; empty when it panicked.
pub(super) fn ask(call: impl FnOnce(*mut IoeText) -> i32) -> String {
    let mut bytes = [0; TEXT_BYTES];
    let mut room = Room::new(&mut bytes);
    match call(room.raw()) {
        IOE_OK => String::from_utf8_lossy(room.written()).into_owned(),
        _ => String::new(),
    }
}

/// A call that may be refused: its answer, or the refusal in words. `name` is whose call it is.
pub(super) fn refusable(
    name: &str,
    call: impl FnOnce(*mut IoeFailure) -> i32,
) -> Result<(), OpenError> {
    let mut bytes = [0u8; 4 * TEXT_BYTES];
    let mut parts = bytes.chunks_exact_mut(TEXT_BYTES);
    let mut rooms = [(); 4].map(|()| Room::new(parts.next().unwrap_or_default()));
    let mut failure = IoeFailure {
        size: size_of::<IoeFailure>() as u32,
        kind: 0,
        os_error: 0,
        reserved: 0,
        texts: std::array::from_fn(|at| *rooms[at].raw()),
    };
    let status = call(&mut failure);
    for (room, raw) in rooms.iter_mut().zip(&failure.texts) {
        room.raw.len = raw.len;
    }
    let texts: [String; 4] =
        std::array::from_fn(|at| String::from_utf8_lossy(rooms[at].written()).into_owned());
    match status {
        IOE_OK => Ok(()),
        IOE_REFUSED => Err(refusal(&failure, texts)),
        IOE_PANICKED => Err(OpenError::Unsuitable {
            what: name.to_owned(),
            reason: "the plugin panicked; its log line says where".to_owned(),
        }),
        other => Err(OpenError::Unsuitable {
            what: name.to_owned(),
            reason: format!("the plugin answered status {other}, which is none for this call"),
        }),
    }
}

fn refusal(failure: &IoeFailure, [a, b, c, d]: [String; 4]) -> OpenError {
    match failure.kind {
        IOE_FAIL_NOT_FOUND => OpenError::NotFound(a),
        IOE_FAIL_IN_USE => OpenError::InUse { what: a, holder: b },
        IOE_FAIL_NO_ROOM => OpenError::NoRoom { what: a, reason: b },
        IOE_FAIL_SYSTEM => OpenError::System {
            what: a,
            source: std::io::Error::from_raw_os_error(failure.os_error),
        },
        IOE_FAIL_URI_MALFORMED => OpenError::Uri(UriError::Foreign {
            text: format!("device URI '{a}': {b}"),
        }),
        IOE_FAIL_URI_SCHEME => OpenError::Uri(UriError::UnknownScheme {
            scheme: a,
            known: b,
        }),
        IOE_FAIL_URI_UNKNOWN => OpenError::Uri(UriError::UnknownParameter { uri: a, name: b }),
        IOE_FAIL_URI_VALUE => OpenError::Uri(UriError::Foreign {
            text: format!("device URI '{a}': parameter '{b}' is '{c}', must be {d}"),
        }),
        _ => OpenError::Unsuitable { what: a, reason: b },
    }
}

/// Puts a refusal into the caller's room.
///
/// # Safety
/// `failure` is null or what a caller of the contract lends.
pub(super) unsafe fn refuse(failure: *mut IoeFailure, error: &OpenError) -> i32 {
    let words = match error {
        OpenError::System { source, .. } => source.to_string(),
        _ => String::new(),
    };
    let (kind, os_error, texts): (u32, i32, [&str; 4]) = match error {
        OpenError::NotFound(what) => (IOE_FAIL_NOT_FOUND, 0, [what, "", "", ""]),
        OpenError::InUse { what, holder } => (IOE_FAIL_IN_USE, 0, [what, holder, "", ""]),
        OpenError::Unsuitable { what, reason } => (IOE_FAIL_UNSUITABLE, 0, [what, reason, "", ""]),
        OpenError::NoRoom { what, reason } => (IOE_FAIL_NO_ROOM, 0, [what, reason, "", ""]),
        OpenError::System { what, source } => match source.raw_os_error() {
            Some(number) => (IOE_FAIL_SYSTEM, number, [what, "", "", ""]),
            None => (IOE_FAIL_UNSUITABLE, 0, [what, &words, "", ""]),
        },
        OpenError::Uri(UriError::Malformed { uri, reason }) => {
            (IOE_FAIL_URI_MALFORMED, 0, [uri, reason, "", ""])
        }
        OpenError::Uri(UriError::UnknownScheme { scheme, known }) => {
            (IOE_FAIL_URI_SCHEME, 0, [scheme, known, "", ""])
        }
        OpenError::Uri(UriError::UnknownParameter { uri, name }) => {
            (IOE_FAIL_URI_UNKNOWN, 0, [uri, name, "", ""])
        }
        OpenError::Uri(UriError::BadParameter {
            uri,
            name,
            value,
            expected,
        }) => (IOE_FAIL_URI_VALUE, 0, [uri, name, value, expected]),
        OpenError::Uri(UriError::Foreign { text }) => {
            // "device URI 'x': why", of which the first part is put on again by the receiver.
            let rest = text.strip_prefix("device URI '").unwrap_or(text);
            let (uri, reason) = rest.split_once("': ").unwrap_or(("", rest));
            (IOE_FAIL_URI_MALFORMED, 0, [uri, reason, "", ""])
        }
    };
    // SAFETY: the caller's.
    if let Some(failure) = unsafe { failure.as_mut() } {
        failure.kind = kind;
        failure.os_error = os_error;
        for (room, text) in failure.texts.iter_mut().zip(texts) {
            // SAFETY: the caller lends room for four texts.
            unsafe { fill_text(room, text) };
        }
    }
    IOE_REFUSED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cross(error: &OpenError) -> String {
        // SAFETY: `refusable` lends a failure for the call.
        let refused = refusable("test", |failure| unsafe { refuse(failure, error) });
        refused.expect_err("a refusal").to_string()
    }

    #[test]
    fn a_refusal_reads_the_same_on_the_other_side() {
        let uri = || "malloc:///m".to_owned();
        let errors = [
            OpenError::NotFound("/dev/x".to_owned()),
            OpenError::InUse {
                what: "/dev/x".to_owned(),
                holder: "mkfs (pid 7)".to_owned(),
            },
            OpenError::Unsuitable {
                what: "/dev/x".to_owned(),
                reason: "is a tape".to_owned(),
            },
            OpenError::NoRoom {
                what: "malloc:///m".to_owned(),
                reason: "needs 8 MiB, and 4 MiB are left".to_owned(),
            },
            OpenError::System {
                what: "open /dev/x".to_owned(),
                source: std::io::Error::from_raw_os_error(13),
            },
            OpenError::Uri(UriError::UnknownParameter {
                uri: uri(),
                name: "size".to_owned(),
            }),
            OpenError::Uri(UriError::BadParameter {
                uri: uri(),
                name: "size_mb",
                value: "x".to_owned(),
                expected: "a plain decimal number",
            }),
            OpenError::Uri(UriError::Malformed {
                uri: uri(),
                reason: "has no name",
            }),
            OpenError::Uri(UriError::Foreign {
                text: "device URI 'a': no".to_owned(),
            }),
        ];
        for error in errors {
            assert_eq!(cross(&error), error.to_string());
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_character() {
        let long = "ä".repeat(TEXT_BYTES);
        let crossed = cross(&OpenError::NotFound(long));
        assert!(crossed.starts_with('ä') && crossed.contains("ä: not found"));
    }
}

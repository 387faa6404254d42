//! Device URIs: `scheme://authority/path?key=value&flag`.
//!
//! A driver takes the parameters it knows; [`DeviceUri::finish`] refuses what is left, by name, so that a misspelt
//! parameter never has no effect silently.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::text::{is_printable, printable};

/// Longest URI accepted, in bytes.
pub const URI_LEN_MAX: usize = 4096;

/// Why a URI was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UriError {
    /// Not of the form `scheme://…`.
    Malformed {
        /// The URI.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No driver serves the scheme.
    UnknownScheme {
        /// The scheme.
        scheme: String,
        /// Schemes there are, comma separated.
        known: String,
    },
    /// The driver does not know a parameter.
    UnknownParameter {
        /// The URI without its query.
        uri: String,
        /// The parameter.
        name: String,
    },
    /// A parameter's value is not acceptable.
    BadParameter {
        /// The URI without its query.
        uri: String,
        /// The parameter.
        name: &'static str,
        /// The value given.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// What a driver of another build said.
    Foreign {
        /// Its words.
        text: String,
    },
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { uri, reason } => write!(f, "device URI '{uri}': {reason}"),
            Self::UnknownScheme { scheme, known } => {
                write!(
                    f,
                    "device URI scheme '{scheme}' is unknown; use one of: {known}"
                )
            }
            Self::UnknownParameter { uri, name } => {
                write!(
                    f,
                    "device URI '{uri}': parameter '{name}' is unknown; remove it"
                )
            }
            Self::BadParameter {
                uri,
                name,
                value,
                expected,
            } => {
                write!(
                    f,
                    "device URI '{uri}': parameter '{name}' is '{value}', must be {expected}"
                )
            }
            Self::Foreign { text } => f.write_str(text),
        }
    }
}

impl std::error::Error for UriError {}

/// A parsed device URI whose parameters are taken one by one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceUri {
    text: String,
    scheme: String,
    authority: String,
    path: String,
    parameters: Vec<(String, String)>,
}

impl DeviceUri {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`UriError::Malformed`] for text that is too long, has no `scheme://`, is not UTF-8 once percent-decoded, holds a
    /// character that does not print ([`is_printable`]) before or after, or names a parameter twice.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let malformed = |reason| UriError::Malformed {
            uri: printable(&text.chars().take(200).collect::<String>()),
            reason,
        };
        if text.len() > URI_LEN_MAX {
            return Err(malformed("is longer than 4096 bytes"));
        }
        let prints = |text: &str| match text.chars().all(is_printable) {
            true => Ok(()),
            false => Err(malformed(
                "contains a character that does not print; use a name without it",
            )),
        };
        prints(text)?;
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            malformed("has no scheme; write e.g. aio:///path or malloc:///name?size_mb=64")
        })?;
        let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.')
            });
        if !scheme_ok {
            return Err(malformed(
                "has a scheme with characters other than a-z, 0-9, '+', '-', '.'",
            ));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
        let decode = |part: &str| {
            let decoded = percent_decode_str(part)
                .decode_utf8()
                .map_err(|_| malformed("is not UTF-8 once decoded"))?;
            prints(&decoded)?;
            Ok(decoded.into_owned())
        };
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(malformed("names a parameter twice"));
            }
            parameters.push((name, decode(value)?));
        }
        Ok(Self {
            text: text.to_owned(),
            scheme: scheme.to_owned(),
            authority: decode(authority)?,
            path: decode(path)?,
            parameters,
        })
    }

    /// The whole URI as given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The part before `://`.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Host and port, empty for local devices.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path with its leading `/`, decoded.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes a parameter's value; a flag without `=` has the empty value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self
            .parameters
            .iter()
            .position(|(known, _)| known == name)?;
        Some(self.parameters.swap_remove(at).1)
    }

    /// Takes a flag: present without a value, or with a boolean one.
    ///
    /// # Errors
    /// [`UriError::BadParameter`] for any other value.
    pub fn take_flag(&mut self, name: &'static str) -> Result<bool, UriError> {
        match self.take(name) {
            None => Ok(false),
            Some(value) => match value.as_str() {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(self.bad(name, value, "given without a value, or true or false")),
            },
        }
    }

    /// Takes an unsigned number.
    ///
    /// # Errors
    /// [`UriError::BadParameter`] if it is not a plain decimal number that fits.
    pub fn take_number(&mut self, name: &'static str) -> Result<Option<u64>, UriError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(self.bad(name, value, "a plain decimal number")),
            },
        }
    }

    /// Takes `uuid`, with or without hyphens.
    ///
    /// # Errors
    /// [`UriError::BadParameter`] if it is not 32 hexadecimal digits, or is all zero.
    pub fn take_uuid(&mut self) -> Result<Option<[u8; 16]>, UriError> {
        let Some(value) = self.take("uuid") else {
            return Ok(None);
        };
        let digits: Vec<u8> = value.bytes().filter(|b| *b != b'-').collect();
        let mut uuid = [0u8; 16];
        let parsed = digits.len() == 32
            && digits.iter().all(u8::is_ascii_hexdigit)
            && uuid.iter_mut().zip(digits.chunks(2)).all(|(byte, pair)| {
                let text = std::str::from_utf8(pair).unwrap_or("");
                u8::from_str_radix(text, 16)
                    .map(|value| *byte = value)
                    .is_ok()
            });
        if !parsed || uuid == [0; 16] {
            return Err(self.bad(
                "uuid",
                value,
                "a uuid like 3fa85f64-5717-4562-b3fc-2c963f66afa6, not all zero",
            ));
        }
        Ok(Some(uuid))
    }

    /// An error about a parameter of this URI.
    pub fn bad(&self, name: &'static str, value: String, expected: &'static str) -> UriError {
        UriError::BadParameter {
            uri: self.place(),
            name,
            value,
            expected,
        }
    }

    /// Refuses parameters nobody took.
    ///
    /// # Errors
    /// [`UriError::UnknownParameter`] naming the first.
    pub fn finish(self) -> Result<(), UriError> {
        match self.parameters.first() {
            None => Ok(()),
            Some((name, _)) => Err(UriError::UnknownParameter {
                uri: self.place(),
                name: name.clone(),
            }),
        }
    }

    fn place(&self) -> String {
        self.text.split('?').next().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_and_decoded() {
        let mut uri = DeviceUri::parse("aio:///tmp/my%20disk?blk_size=4096&rescan").unwrap();
        assert_eq!(
            (uri.scheme(), uri.authority(), uri.path()),
            ("aio", "", "/tmp/my disk")
        );
        assert_eq!(uri.take_number("blk_size").unwrap(), Some(4096));
        assert!(uri.take_flag("rescan").unwrap());
        uri.finish().unwrap();
    }

    #[test]
    fn a_parameter_nobody_takes_is_refused_by_name() {
        let uri = DeviceUri::parse("malloc:///m?size_mb=64&blocksize=512").unwrap();
        let mut taken = uri.clone();
        taken.take("size_mb");
        let error = taken.finish().unwrap_err().to_string();
        assert_eq!(
            error,
            "device URI 'malloc:///m': parameter 'blocksize' is unknown; remove it"
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            "",
            "aio",
            "Aio:///x",
            "aio:///%ff",
            "aio:///a%00b",
            "aio:///a%0ab",
            "malloc:///m?uuid=%1b",
            "malloc:///m\u{202e}gpj",
            "malloc:///m%e2%80%8b",
            "aio:///x\r",
            "m:///x?a=1&a=2",
            "://x",
        ] {
            assert!(DeviceUri::parse(text).is_err(), "{text}");
        }
        assert!(DeviceUri::parse(&format!("aio:///{}", "x".repeat(URI_LEN_MAX))).is_err());
    }

    #[test]
    fn uuids_are_checked() {
        let uuid = |text: &str| {
            DeviceUri::parse(&format!("aio:///x?uuid={text}"))
                .unwrap()
                .take_uuid()
        };
        assert_eq!(
            uuid("000102030405060708090a0b0c0d0e0f").unwrap().unwrap()[15],
            15
        );
        assert!(
            uuid("00010203-0405-0607-0809-0a0b0c0d0e0f")
                .unwrap()
                .is_some()
        );
        assert!(uuid("00000000-0000-0000-0000-000000000000").is_err());
        assert!(uuid("xyz").is_err());
        assert!(uuid("+0+1+2+3+4+5+6+7+8+9+a+b+c+d+e+f").is_err());
    }
}

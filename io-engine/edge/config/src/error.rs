//! The one line a refused configuration prints.

use std::fmt;

/// What kind of fault was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigErrorKind {
    /// The file could not be read.
    Unreadable,
    /// The file is not TOML.
    Syntax,
    /// A key the tree does not have.
    UnknownKey,
    /// A value that is not acceptable, in the file, a flag or the environment.
    BadValue,
    /// An address that cannot be listened on.
    AddressInUse,
}

/// A refused configuration: prints as one line that names the place, the key and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    kind: ConfigErrorKind,
    place: String,
    key: String,
    problem: String,
}

impl ConfigError {
    /// An error at `place` (a file with its line, or the command line) about `key`; `problem` ends with the fix.
    pub fn new(
        kind: ConfigErrorKind,
        place: impl Into<String>,
        key: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            place: without_controls(&place.into()),
            key: without_controls(&key.into()),
            problem: one_line(&problem.into()),
        }
    }

    /// An error about the value of a flag.
    pub fn flag(flag: &str, problem: impl Into<String>) -> Self {
        Self::new(ConfigErrorKind::BadValue, "command line", flag, problem)
    }

    /// The kind.
    pub fn kind(&self) -> ConfigErrorKind {
        self.kind
    }
}

/// `text` with single spaces for white space.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    without_controls(&words.join(" "))
}

/// `text` with escapes for what would move a terminal's cursor: a file quotes whatever it likes.
fn without_controls(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}

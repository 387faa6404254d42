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
        let one_line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            kind,
            place: place.into(),
            key: key.into(),
            problem: one_line(problem.into()),
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

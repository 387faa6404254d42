//! Why a plugin is refused: one line, with what the plugin has and what this engine takes.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A refusal of one file or linked-in plugin.
#[derive(Debug)]
pub struct Refusal {
    /// The file, or the name of a linked-in plugin.
    pub what: PathBuf,
    /// Why.
    pub why: Why,
}

/// Why a plugin is refused. The plugin's side first, this engine's second.
#[derive(Debug)]
#[non_exhaustive]
pub enum Why {
    /// The file cannot be read.
    Unreadable(std::io::Error),
    /// It is no regular file.
    NotAFile,
    /// It does not begin like an ELF file.
    NotElf,
    /// It is ELF, but of another word size or byte order.
    Class {
        /// What it is.
        found: &'static str,
    },
    /// It is for another processor.
    Machine {
        /// The number of its processor.
        found: u16,
        /// Ours.
        wanted: u16,
    },
    /// It is no shared object.
    NotShared {
        /// `e_type`.
        found: u16,
    },
    /// It ends before something its headers speak of.
    Truncated {
        /// Bytes it must have.
        wanted: u64,
        /// Bytes it has.
        found: u64,
    },
    /// It carries no descriptor.
    NoDescriptor,
    /// Its descriptor cannot be understood.
    BadDescriptor {
        /// What is wrong.
        reason: String,
    },
    /// It was built against another major version.
    Major {
        /// Its major version.
        found: u16,
        /// Its minor version.
        found_minor: u16,
    },
    /// It cannot do without something newer than this engine.
    NeedsMinor {
        /// The minor version it needs.
        found: u16,
    },
    /// A panic in it would end the process.
    PanicAbort,
    /// A table is not what it is here.
    Table {
        /// Which.
        table: String,
        /// Size and hash it was built with.
        found: (u32, u64),
        /// Size and hash here.
        wanted: (u32, u64),
    },
    /// Its root module describes the tables otherwise (feature `layout`).
    Layout {
        /// What differs, on one line.
        report: String,
    },
    /// It has what another plugin has already.
    Taken {
        /// `scheme 'x'`, `transport 'x'`, `protocol 'x'` or `kind of pool 'x'`.
        what: String,
        /// The plugin that has it.
        by: String,
    },
    /// The child in which it was tried died.
    Crashed {
        /// How: a signal or an exit status.
        how: String,
    },
    /// The child in which it was tried did not finish.
    TooSlow {
        /// How long it was given.
        deadline: Duration,
    },
    /// The child could not be started or heard.
    NotTried(std::io::Error),
    /// There is no plugin of this name.
    Unknown,
    /// It is to have a reactor of its own, and brings more than devices.
    NotIsolated,
    /// It is linked into the engine.
    BuiltIn,
    /// The system's loader or the plugin's entry refused.
    Load {
        /// Its words.
        reason: String,
    },
}

fn machine(number: u16) -> String {
    match number {
        3 => "x86 (32 bit)".to_owned(),
        40 => "ARM (32 bit)".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("number {other}"),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {} refused: {}", self.what.display(), self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Self::NotAFile => {
                f.write_str("it is not a regular file; a plugin is a shared object (.so)")
            }
            Self::NotElf => {
                f.write_str("it is not an ELF file; this engine loads shared objects (.so) only")
            }
            Self::Class { found } => {
                write!(
                    f,
                    "it is {found}; this engine is ELF, 64 bit, little-endian"
                )
            }
            Self::Machine { found, wanted } => {
                let (theirs, ours) = (machine(*found), machine(*wanted));
                write!(f, "it is for {theirs}; this engine runs on {ours}")
            }
            Self::NotShared { found } => write!(
                f,
                "it is ELF of type {found}; this engine loads shared objects (type 3)"
            ),
            Self::Truncated { wanted, found } => write!(
                f,
                "it is cut off: its headers speak of {wanted} bytes, it has {found}"
            ),
            Self::NoDescriptor
            | Self::BadDescriptor { .. }
            | Self::Major { .. }
            | Self::NeedsMinor { .. }
            | Self::PanicAbort
            | Self::Table { .. }
            | Self::Layout { .. } => self.fmt_contract(f),
            Self::Taken { what, by } => {
                write!(
                    f,
                    "it brings {what}, which plugin '{by}' has; unload one of them"
                )
            }
            Self::Crashed { how } => write!(
                f,
                "it crashed a child process that tried to load it ({how}); it was not loaded here"
            ),
            Self::TooSlow { deadline } => write!(
                f,
                "loading it took a child process longer than {} s; it was not loaded here",
                deadline.as_secs_f32()
            ),
            Self::NotTried(error) => {
                write!(f, "it could not be tried in a child process: {error}")
            }
            Self::Unknown => f.write_str("there is no plugin of this name; see plugin list"),
            Self::BuiltIn => {
                f.write_str("it is linked into the engine; only loaded ones can be unloaded")
            }
            Self::NotIsolated => f.write_str(
                "it brings more than devices, and only devices can have a reactor of their own; take it out of plugins.isolate",
            ),
            Self::Load { reason } => f.write_str(reason),
        }
    }
}

impl Why {
    /// What the descriptor says, beside what this engine has.
    fn fmt_contract(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = format!("{}.{}", abi::IOE_ABI_MAJOR, abi::IOE_ABI_MINOR);
        match self {
            Self::BadDescriptor { reason } => {
                write!(f, "its descriptor is not one of ABI {ours}: {reason}")
            }
            Self::Major { found, found_minor } => write!(
                f,
                "it is built for ABI {found}.{found_minor}; this engine has ABI {ours}, and major versions must be equal"
            ),
            Self::NeedsMinor { found } => write!(
                f,
                "it needs ABI {}.{found} or newer; this engine has ABI {ours}",
                abi::IOE_ABI_MAJOR
            ),
            Self::PanicAbort => f.write_str(
                "it is built with panic=abort, so that a panic in it would end the engine; build it with panic=unwind",
            ),
            Self::Table {
                table,
                found,
                wanted,
            } => write!(
                f,
                "its table '{table}' has {} bytes and hash {:016x}; here it has {} bytes and hash {:016x}",
                found.0, found.1, wanted.0, wanted.1
            ),
            Self::Layout { report } => write!(
                f,
                "its tables are laid out otherwise than this engine's, though their hashes agree; build both with one compiler: {report}"
            ),
            _ => write!(
                f,
                "it has no descriptor (ELF note '{}'); this engine loads plugins built for its ABI {ours}",
                abi::IOE_NOTE_SECTION
            ),
        }
    }
}

impl std::error::Error for Refusal {}

//! The tree of the configuration file: every key optional, unknown keys refused.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{ConfigError, ConfigErrorKind};
use crate::limits::{
    ArenaMib, Connections, DeadlineS, FILE_BYTES_MAX, GRPC_PORT, KeepAliveS, LoadTimeoutS,
    NVMF_PORT, PerHost, ProgressS, QueueDepth, Queues, RamDisksMib, SlowMs, SpinUs,
};
use crate::listen::Listen;
use crate::place::{Source, key_near, line_after};
use crate::values::{
    Advertise, Congestion, CpuList, Driver, ExportAddress, InCapsuleBytes, LogFormat, NodeName,
    TransferKib,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileTree {
    pub(crate) node_name: Option<NodeName>,
    pub(crate) state_dir: Option<PathBuf>,
    #[serde(default)]
    pub(crate) reactors: ReactorsFile,
    #[serde(default)]
    pub(crate) memory: MemoryFile,
    #[serde(default)]
    pub(crate) nvmf: NvmfFile,
    #[serde(default)]
    pub(crate) nbd: NbdFile,
    #[serde(default)]
    pub(crate) grpc: GrpcFile,
    #[serde(default)]
    pub(crate) metrics: MetricsFile,
    #[serde(default)]
    pub(crate) log: LogFile,
    #[serde(default)]
    pub(crate) io: IoFile,
    #[serde(default)]
    pub(crate) plugins: PluginsFile,
    #[serde(default)]
    pub(crate) device: Vec<DeclaredDevice>,
    /// The file, and where in it each key stands.
    #[serde(skip)]
    pub(crate) source: Source,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReactorsFile {
    pub(crate) cpus: Option<CpuList>,
    pub(crate) driver: Option<Driver>,
    pub(crate) spin_us_max: Option<SpinUs>,
    pub(crate) spin_file_us_max: Option<SpinUs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemoryFile {
    pub(crate) arena_mib: Option<ArenaMib>,
    pub(crate) ram_disks_mib_max: Option<RamDisksMib>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NvmfFile {
    pub(crate) listen: Option<Vec<Listen<NVMF_PORT>>>,
    pub(crate) advertise: Option<Advertise>,
    pub(crate) connections_max: Option<Connections>,
    pub(crate) host_connections_max: Option<PerHost>,
    pub(crate) address_connections_max: Option<PerHost>,
    pub(crate) host_controllers_max: Option<PerHost>,
    pub(crate) queues_max: Option<Queues>,
    pub(crate) queue_depth_max: Option<QueueDepth>,
    pub(crate) in_capsule_bytes: Option<InCapsuleBytes>,
    pub(crate) transfer_kib_max: Option<TransferKib>,
    pub(crate) keep_alive_s_min: Option<KeepAliveS>,
    pub(crate) keep_alive_s_max: Option<KeepAliveS>,
    pub(crate) progress_timeout_s: Option<ProgressS>,
    pub(crate) tcp_congestion: Option<Congestion>,
    pub(crate) header_digest: Option<bool>,
    pub(crate) data_digest: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcFile {
    pub(crate) listen: Option<Listen<GRPC_PORT>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NbdFile {
    pub(crate) listen: Option<Vec<ExportAddress>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricsFile {
    pub(crate) listen: Option<Listen<9502>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogFile {
    pub(crate) format: Option<LogFormat>,
    pub(crate) level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PluginsFile {
    pub(crate) built_in: Option<bool>,
    pub(crate) files: Option<Vec<PathBuf>>,
    pub(crate) directories: Option<Vec<PathBuf>>,
    pub(crate) isolate: Option<Vec<String>>,
    pub(crate) load_timeout_s: Option<LoadTimeoutS>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IoFile {
    pub(crate) slow_io_ms: Option<SlowMs>,
    pub(crate) device_deadline_s: Option<DeadlineS>,
}

/// A device the configuration wants to exist (`[[device]]`): created, and shared if asked for, at every start unless
/// it exists already.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredDevice {
    /// Device URI.
    pub uri: String,
    /// Export it over NVMe/TCP.
    #[serde(default)]
    pub share: bool,
    /// Hosts may not change its blocks.
    #[serde(default)]
    pub read_only: bool,
    /// Host NQNs that may connect; empty = any.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
}

/// Reads the text of the file at `path`.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    let place = match path.as_os_str().is_empty() {
        true => "command line: --config".to_owned(),
        false => path.display().to_string(),
    };
    let unreadable = |place: &str, problem: String| {
        let fix = "give a readable file with --config FILE, or leave the flag out";
        let kind = ConfigErrorKind::Unreadable;
        ConfigError::new(kind, place, "", format!("{problem}; {fix}"))
    };
    let bytes = read_regular(path).map_err(|problem| unreadable(&place, problem))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let place = format!("{place}:{}", line_after(before));
        let problem = "is not UTF-8 text; save the file as UTF-8";
        ConfigError::new(ConfigErrorKind::Syntax, place, "", problem)
    })
}

/// Contents of a regular file of bounded size: anything else (a FIFO, a terminal, `/dev/zero`) might never end.
fn read_regular(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot be read ({})", plain(&error));
    let facts = std::fs::metadata(path).map_err(failed)?;
    if facts.is_dir() {
        return Err("is a directory".to_owned());
    }
    if !facts.is_file() {
        return Err("is not a regular file".to_owned());
    }
    if facts.len() > FILE_BYTES_MAX {
        let most = FILE_BYTES_MAX >> 20;
        return Err(format!(
            "has {} bytes, more than the {most} MiB of a configuration file",
            facts.len()
        ));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

/// The operating system's words without its error number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Parses `text`, the contents of the file at `path`.
pub(crate) fn parse(path: &Path, text: &str) -> Result<FileTree, ConfigError> {
    let tree = deserialize(&path.display().to_string(), text)?;
    Ok(FileTree {
        source: Source::file(path, text),
        ..tree
    })
}

fn deserialize(place: &str, text: &str) -> Result<FileTree, ConfigError> {
    let document =
        toml::Deserializer::parse(text).map_err(|error| not_toml(place, text, &error))?;
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let place = at(place, text, &inner);
        let message = inner.message();
        match message
            .strip_prefix("unknown field `")
            .and_then(|rest| rest.split_once('`'))
        {
            Some((name, rest)) => {
                let known = rest.split_once("expected ").map_or("", |(_, known)| known);
                let known = known.trim_start_matches("one of ").replace('`', "");
                // The path ends in the table or in the unknown key itself, depending on where it stands.
                let table = path
                    .strip_suffix(name)
                    .unwrap_or(&path)
                    .trim_end_matches('.');
                let key = if table.is_empty() {
                    name.to_owned()
                } else {
                    format!("{table}.{name}")
                };
                let problem = format!("unknown key; the keys here are {known}");
                ConfigError::new(ConfigErrorKind::UnknownKey, place, key, problem)
            }
            None => {
                let problem = in_toml_words(message, &path);
                ConfigError::new(ConfigErrorKind::BadValue, place, path, problem)
            }
        }
    })
}

/// The error of a text that is not TOML: names the key at fault where one can be told.
fn not_toml(place: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let start = span.start.min(text.len());
    let near = key_near(text, start);
    let (key, problem) = if error.message() == "duplicate key" {
        let name = text.get(span).unwrap_or_default();
        let name = name.trim_matches(['"', '\'']);
        let table = near.map_or(String::new(), |near| match near.path.rfind(['.', '[']) {
            // A table that is there twice is found itself, a value that is there twice by its neighbour.
            _ if near.is_table && near.start < start => near.path,
            Some(end) => near.path[..end].to_owned(),
            None => String::new(),
        });
        let key = match table.is_empty() {
            true => name.to_owned(),
            false => format!("{table}.{name}"),
        };
        (key, "is there twice; remove one".to_owned())
    } else {
        let line = |position: usize| line_after(&text.as_bytes()[..position]);
        let key = near.filter(|near| line(near.start) == line(start));
        let problem = format!("{}; see https://toml.io for the syntax", error.message());
        (key.map_or(String::new(), |near| near.path), problem)
    };
    ConfigError::new(
        ConfigErrorKind::Syntax,
        at(place, text, error),
        key,
        problem,
    )
}

/// What the deserialiser says, in the words of the file format, with what to write.
fn in_toml_words(message: &str, path: &str) -> String {
    let message = message
        .replace("invalid type: map", "this is a table")
        .replace("invalid type: ", "this is the ")
        // Its words for a number that does not fit 64 bits.
        .replace("` as i128", "`")
        .replace("` as u128", "`")
        .replace(
            "integer number overflowed",
            "the number is out of range; give a smaller one",
        )
        .replace("expected a string", "expected text in quotes")
        .replace(
            "expected a sequence",
            "expected a list, e.g. [\"a\", \"b\"]",
        )
        .replace("expected a boolean", "expected true or false");
    match message.strip_prefix("missing field `") {
        Some(rest) => format!("has no {}; add it", rest.trim_end_matches('`')),
        None if path == "device" => format!("{message}; each device is a section [[device]]"),
        None => message,
    }
}

/// `place` with the line of `error`.
fn at(place: &str, text: &str, error: &toml::de::Error) -> String {
    match error.span() {
        Some(span) => {
            let before = &text.as_bytes()[..span.start.min(text.len())];
            format!("{place}:{}", line_after(before))
        }
        None => place.to_owned(),
    }
}

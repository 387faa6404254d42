//! Values that are not plain numbers: drivers, log formats, CPU lists, sizes with a shape.
//!
//! Each parses from text with an error that says what to write, so that a flag and a file are refused alike.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::bounded::Whole;
use crate::limits;

/// Deserialises anything that parses from text.
macro_rules! from_text {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// How reactors wait and do file I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// io_uring where the kernel has it and it is not forbidden, else epoll.
    #[default]
    Auto,
    /// io_uring; the start fails where it cannot be used.
    Uring,
    /// epoll and a pool of threads for file I/O.
    Epoll,
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            _ => Err(format!(
                "'{text}' is not a driver; use auto, uring or epoll"
            )),
        }
    }
}
from_text!(Driver);

/// Layout of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogStyle {
    /// For people, one line an event.
    #[default]
    Human,
    /// For people, shorter.
    Compact,
    /// One JSON object an event.
    Json,
}

/// How log lines look: upstream's `-F`, a comma list of style, colour, date and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFormat {
    /// Layout.
    pub style: LogStyle,
    /// ANSI colours; `None` colours when standard error is a terminal.
    pub color: Option<bool>,
    /// Print date and time.
    pub date: bool,
    /// Print the node name.
    pub host: bool,
}

impl Default for LogFormat {
    fn default() -> Self {
        Self {
            style: LogStyle::Human,
            color: None,
            date: true,
            host: false,
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut format = Self::default();
        // Words that answer the same question, each with the one that answered it.
        let mut answered: [(&[&str], Option<&str>); 4] = [
            (&["default", "human", "compact", "json"], None),
            (&["color", "nocolor"], None),
            (&["date", "nodate"], None),
            (&["host", "nohost"], None),
        ];
        for word in text.split(',').map(str::trim) {
            let answer = answered.iter_mut().find(|(words, _)| words.contains(&word));
            let Some((_, answer)) = answer else {
                return Err(format!(
                    "'{word}' is not a log format; use human, compact or json, with color, nocolor, date, \
                     nodate, host or nohost, separated by commas"
                ));
            };
            if let Some(other) = answer.replace(word).filter(|other| *other != word) {
                return Err(format!(
                    "'{text}' says both {other} and {word}; leave one out"
                ));
            }
            match word {
                "compact" => format.style = LogStyle::Compact,
                "json" => format.style = LogStyle::Json,
                "color" => format.color = Some(true),
                "nocolor" => format.color = Some(false),
                "nodate" => format.date = false,
                "host" => format.host = true,
                // What is left are the defaults.
                _ => {}
            }
        }
        Ok(format)
    }
}
from_text!(LogFormat);

/// Where a server of another protocol listens: `tcp://ADDRESS:PORT` or `unix:///PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportAddress(String);

impl ExportAddress {
    /// The socket `name` in `dir`.
    pub(crate) fn socket_in(dir: &Path, name: &str) -> Self {
        Self(format!("unix://{}", dir.join(name).display()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExportAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_tcp = |rest: &str| rest.parse::<SocketAddr>().is_ok();
        let is_unix = |rest: &str| rest.len() > 1 && rest.starts_with('/');
        let is_address = text.strip_prefix("tcp://").is_some_and(is_tcp)
            || text.strip_prefix("unix://").is_some_and(is_unix);
        match is_address {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "'{text}' is not where one can listen; write tcp://ADDRESS:PORT or unix:///PATH"
            )),
        }
    }
}

from_text!(ExportAddress);

/// An address told to hosts: one they can connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advertise(pub(crate) IpAddr);

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "give one of this machine, e.g. 10.0.0.7, or leave it out";
        let ip: IpAddr = text
            .parse()
            .map_err(|_| format!("'{text}' is not an IP address; {example}"))?;
        let plain = ip.to_canonical();
        let is_broadcast = matches!(plain, IpAddr::V4(ip) if ip.is_broadcast());
        if plain.is_unspecified() || plain.is_multicast() || is_broadcast {
            return Err(format!(
                "{text} is not an address hosts can connect to; {example}"
            ));
        }
        Ok(Self(ip))
    }
}
from_text!(Advertise);

/// CPUs, ascending, each once, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<u32>);

impl CpuList {
    /// The CPUs of `cpus`; `None` if there are none or more than [`limits::REACTORS_MAX`].
    pub fn new(mut cpus: Vec<u32>) -> Option<Self> {
        cpus.sort_unstable();
        cpus.dedup();
        (!cpus.is_empty() && cpus.len() <= limits::REACTORS_MAX).then_some(Self(cpus))
    }

    /// The CPUs, ascending.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// Parses a hexadecimal mask (`0x3`), lowest bit CPU 0.
    ///
    /// # Errors
    /// Says what to write.
    pub fn from_mask(text: &str) -> Result<Self, String> {
        let digits = text
            .strip_prefix("0x")
            .or_else(|| text.strip_prefix("0X"))
            .unwrap_or(text);
        u128::from_str_radix(digits, 16)
            .ok()
            .and_then(|mask| Self::new((0..128).filter(|cpu| mask >> cpu & 1 == 1).collect()))
            .ok_or_else(|| format!("'{text}' is not a CPU mask; write e.g. 0x3 for CPUs 0 and 1"))
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a CPU list; write e.g. 1,2,10-20");
        let mut cpus: Vec<u32> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.trim().parse().map_err(|_| bad())?;
            let last: u32 = last.trim().parse().map_err(|_| bad())?;
            if first > last {
                return Err(format!("'{part}' runs backwards; write {last}-{first}"));
            }
            // Bounded before it is expanded: a range is text an operator may mistype.
            if last >= limits::CPUS_MAX {
                let most = limits::CPUS_MAX - 1;
                return Err(format!(
                    "there is no CPU {last}; CPUs are numbered from 0 to at most {most}"
                ));
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        cpus.dedup();
        let count = cpus.len();
        let most = limits::REACTORS_MAX;
        Self::new(cpus).ok_or_else(|| {
            format!("'{text}' names {count} CPUs; name 1 to {most}, one for each reactor")
        })
    }
}
from_text!(CpuList);

/// Bytes of data a command capsule may carry: 16-byte units (NVMe-oF IOCCSZ), 512 to 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InCapsuleBytes(u32);

/// KiB of the largest transfer: a power of two (NVMe Base 2.0c MDTS), 4 KiB to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferKib(u32);

impl InCapsuleBytes {
    /// The default.
    pub const DEFAULT: Self = Self(limits::IN_CAPSULE_BYTES);

    /// Bytes.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TransferKib {
    /// The default.
    pub const DEFAULT: Self = Self(limits::TRANSFER_KIB);

    /// KiB.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Bytes.
    pub fn bytes(self) -> u32 {
        self.0 * 1024
    }
}

impl<'de> Deserialize<'de> for InCapsuleBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let range = limits::IN_CAPSULE_BYTES_MIN..=limits::IN_CAPSULE_BYTES_MAX;
        let wanted = format!("a multiple of 16 from {} to {}", range.start(), range.end());
        let number = Whole::deserialize(deserializer, &wanted)?;
        match number.value {
            Some(bytes) if range.contains(&bytes) && bytes % 16 == 0 => Ok(Self(bytes as u32)),
            _ => Err(not_acceptable(&number, &wanted)),
        }
    }
}

impl<'de> Deserialize<'de> for TransferKib {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let range = limits::TRANSFER_KIB_MIN..=limits::TRANSFER_KIB_MAX;
        let wanted = format!("a power of two from {} to {}", range.start(), range.end());
        let number = Whole::deserialize(deserializer, &wanted)?;
        match number.value {
            Some(kib) if range.contains(&kib) && kib.is_power_of_two() => Ok(Self(kib as u32)),
            _ => Err(not_acceptable(&number, &wanted)),
        }
    }
}

fn not_acceptable<E: Error>(number: &Whole, wanted: &str) -> E {
    E::custom(format!("{number} is not acceptable; give {wanted}"))
}

/// Name of a TCP congestion control algorithm (`cubic`, `reno`, ..), as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Congestion(String);

impl Congestion {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Congestion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = !text.is_empty()
            && text.len() <= limits::CONGESTION_NAME_LEN_MAX
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        fits.then(|| Self(text.to_owned())).ok_or_else(|| {
            format!(
                "'{text}' is not a congestion control algorithm; see /proc/sys/net/ipv4/tcp_available_congestion_control"
            )
        })
    }
}
from_text!(Congestion);

/// Node name: what the control plane and metrics call this engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(String);

impl NodeName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = !text.is_empty()
            && text.len() <= limits::NODE_NAME_LEN_MAX
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        fits.then(|| Self(text.to_owned())).ok_or_else(|| {
            format!(
                "'{text}' is not a node name; use letters, digits, '-', '_' and '.', at most {} characters",
                limits::NODE_NAME_LEN_MAX
            )
        })
    }
}
from_text!(NodeName);

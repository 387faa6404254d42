//! Addresses to listen on, and the choice of one by interface (upstream's `-T`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Where a setting came from; error lines name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default of the key.
    Default(&'static str),
    /// A command line flag.
    Flag(&'static str),
    /// An environment variable.
    Variable(&'static str),
    /// A key of the configuration file.
    File(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default(key) => write!(f, "{key} (default)"),
            Origin::Flag(name) | Origin::Variable(name) | Origin::File(name) => f.write_str(name),
        }
    }
}

/// A socket address; text without a port takes `DEFAULT_PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen<const DEFAULT_PORT: u16>(pub SocketAddr);

impl<const DEFAULT_PORT: u16> FromStr for Listen<DEFAULT_PORT> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
            .unwrap_or(text);
        match bare.parse::<IpAddr>() {
            Ok(ip) => Ok(Self(SocketAddr::new(ip, DEFAULT_PORT))),
            Err(_) => Err(format!(
                "'{text}' is not ADDR:PORT; write an IP address and a port, e.g. 0.0.0.0:{DEFAULT_PORT} or \
                 [::]:{DEFAULT_PORT}"
            )),
        }
    }
}

impl<'de, const DEFAULT_PORT: u16> Deserialize<'de> for Listen<DEFAULT_PORT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An address of a network interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Interface name.
    pub name: String,
    /// Hardware address, lower case with colons; empty where there is none.
    pub mac: String,
    /// Address.
    pub ip: IpAddr,
}

/// Picks the address `selector` names: `name:eth0`, `mac:..`, `ip:..`, `subnet:a.b.c.d/n`, or a bare interface name.
///
/// IPv4 addresses win over IPv6 ones, then the first listed.
///
/// # Errors
/// Says what there is to choose from.
pub fn select_interface(selector: &str, all: &[InterfaceAddress]) -> Result<IpAddr, String> {
    let (kind, value) = selector.split_once(':').unwrap_or(("name", selector));
    let matches: Box<dyn Fn(&InterfaceAddress) -> bool> = match kind {
        "name" => Box::new(|a| a.name == value),
        "mac" => {
            let mac = value.to_ascii_lowercase();
            Box::new(move |a| a.mac == mac)
        }
        "ip" => {
            let ip: IpAddr = value
                .parse()
                .map_err(|_| format!("'{value}' is not an IP address"))?;
            Box::new(move |a| a.ip == ip)
        }
        "subnet" => {
            let subnet = Subnet::from_str(value)?;
            Box::new(move |a| subnet.contains(a.ip))
        }
        _ => {
            return Err(format!(
                "'{selector}' is not an interface; write name:eth0, mac:.., ip:.., subnet:10.0.0.0/8 or a bare name"
            ));
        }
    };
    let mut found: Vec<IpAddr> = all.iter().filter(|a| matches(a)).map(|a| a.ip).collect();
    found.sort_by_key(|ip| ip.is_ipv6());
    found.first().copied().ok_or_else(|| {
        let known: Vec<String> = all
            .iter()
            .map(|a| format!("{} ({})", a.name, a.ip))
            .collect();
        format!(
            "no interface matches '{selector}'; there are: {}",
            known.join(", ")
        )
    })
}

struct Subnet {
    network: IpAddr,
    bits: u32,
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a subnet; write e.g. 10.1.0.0/16");
        let (network, bits) = text.split_once('/').ok_or_else(bad)?;
        let network: IpAddr = network.parse().map_err(|_| bad())?;
        let bits: u32 = bits.parse().map_err(|_| bad())?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        (bits <= most)
            .then_some(Self { network, bits })
            .ok_or_else(bad)
    }
}

impl Subnet {
    fn contains(&self, ip: IpAddr) -> bool {
        let (network, ip, width) = match (self.network, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (u128::from(a.to_bits()), u128::from(b.to_bits()), 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        // A shift by the whole width would overflow; a /0 contains everything of its family.
        self.bits == 0 || (network ^ ip) >> (width - self.bits) == 0
    }
}

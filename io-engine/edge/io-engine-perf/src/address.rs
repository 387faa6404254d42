//! Where a subsystem is, and who asks for it.

use nvme_spec::nqn::{DISCOVERY_NQN, NQN_LEN_MAX};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// Port of I/O controllers where the URI names none.
pub const PORT_DEFAULT: u16 = 8420;

/// A subsystem at an address: `nvmf+tcp://host[:port]/nqn`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Subsystem NQN.
    pub nqn: String,
}

/// What a URI lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetError {
    /// It does not start with `nvmf+tcp://`.
    Scheme,
    /// No host.
    Host,
    /// The port is not a number from 1 to 65535.
    Port,
    /// No NQN, or one longer than 223 bytes.
    Nqn,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "expected nvmf+tcp://host:port/nqn",
            Self::Host => "no host in the address",
            Self::Port => "port is not a number from 1 to 65535",
            Self::Nqn => "no NQN after the address, or longer than 223 bytes",
        })
    }
}

impl std::error::Error for TargetError {}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let rest = ["nvmf+tcp://", "nvmf://"]
            .iter()
            .find_map(|scheme| uri.strip_prefix(scheme))
            .ok_or(TargetError::Scheme)?;
        let (authority, nqn) = rest.split_once('/').unwrap_or((rest, DISCOVERY_NQN));
        if nqn.is_empty() || nqn.len() > NQN_LEN_MAX {
            return Err(TargetError::Nqn);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(TargetError::Host)?;
                (host, port.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return Err(TargetError::Host);
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => Some(PORT_DEFAULT),
        };
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or(TargetError::Port)?,
            nqn: nqn.to_owned(),
        })
    }
}

impl Target {
    /// The subsystem `nqn` at `address`.
    pub fn at(address: SocketAddr, nqn: &str) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
            nqn: nqn.to_owned(),
        }
    }

    /// Every address the host name has.
    ///
    /// # Errors
    /// Those of name resolution.
    pub fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }
}

/// Host NQN and host identifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostIdentity {
    /// NQN of the host.
    pub nqn: String,
    /// Host identifier; reservations belong to it.
    pub id: [u8; 16],
}

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

impl HostIdentity {
    /// A host nobody has seen before.
    ///
    /// # Errors
    /// If the kernel gives no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut id = [0; 16];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        // RFC 4122: version 4, variant 1.
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        Ok(Self {
            nqn: format!("{UUID_PREFIX}{}", uuid_text(&id)),
            id,
        })
    }

    /// The host `nqn`, with the UUID in it as identifier, or one derived from the whole name.
    pub fn named(nqn: &str) -> Self {
        let id = nqn.rsplit(':').next().and_then(parse_uuid);
        let id = id.unwrap_or_else(|| {
            let mut id = [0; 16];
            for (round, word) in id.chunks_exact_mut(4).enumerate() {
                let salted = [&[round as u8], nqn.as_bytes()].concat();
                word.copy_from_slice(&nvme_tcp::crc32c(&salted).to_be_bytes());
            }
            id
        });
        Self {
            nqn: nqn.to_owned(),
            id,
        }
    }
}

/// Reads a UUID with or without dashes.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// A UUID as text, with dashes.
pub fn uuid_text(id: &[u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(*id));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Bytes from `4096`, `4KiB`, `128k`, `1MiB`, `2GiB` and the like, all powers of 1024.
///
/// # Errors
/// A message naming what is accepted.
pub fn parse_len(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("unknown unit '{unit}', use KiB, MiB, GiB or TiB")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a size such as 4KiB".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "size does not fit 64 bits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_host_port_and_subsystem() {
        let target: Target = "nvmf+tcp://[::1]:4420/nqn.2019-05.io.openebs:a"
            .parse()
            .expect("a URI");
        assert_eq!((target.host.as_str(), target.port), ("::1", 4420));
        assert_eq!(target.nqn, "nqn.2019-05.io.openebs:a");
        let target: Target = "nvmf://node-1/nqn.x:y".parse().expect("a URI");
        assert_eq!((target.host.as_str(), target.port), ("node-1", 8420));
        for (uri, error) in [
            ("tcp://a/b", TargetError::Scheme),
            ("nvmf://:1/b", TargetError::Host),
            ("nvmf://a:0/b", TargetError::Port),
            ("nvmf://a:70000/b", TargetError::Port),
            ("nvmf://a:1/", TargetError::Nqn),
        ] {
            assert_eq!(uri.parse::<Target>(), Err(error), "{uri}");
        }
    }

    #[test]
    fn host_identifiers_come_from_the_name() {
        let host = HostIdentity::random().expect("random bytes");
        assert_eq!(HostIdentity::named(&host.nqn), host);
        let named = HostIdentity::named("nqn.host:a");
        assert_ne!(named.id, HostIdentity::named("nqn.host:b").id);
        assert_eq!(named, HostIdentity::named("nqn.host:a"));
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_len("4KiB"), Ok(4096));
        assert_eq!(parse_len("128k"), Ok(131_072));
        assert_eq!(parse_len("512"), Ok(512));
        assert!(parse_len("4KB").is_err());
        assert!(parse_len("99999999999TiB").is_err());
    }
}

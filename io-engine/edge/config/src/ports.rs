//! Two servers of this engine on one port: told from the settings, where both keys can be named.

use std::net::{IpAddr, SocketAddr};

use crate::error::ConfigError;
use crate::listen::Origin;
use crate::place::Source;
use crate::values::ExportAddress;
use crate::{ListenAddress, Nbd};

/// Checks the addresses of gRPC, metrics, NVMe/TCP and NBD against each other.
pub(crate) fn check(
    grpc: &ListenAddress,
    metrics: Option<&ListenAddress>,
    nvmf: &[ListenAddress],
    nbd: &Nbd,
    source: &Source,
) -> Result<(), ConfigError> {
    let nbd: Vec<ListenAddress> = nbd.listen.iter().filter_map(socket_of).collect();
    let servers: [&[ListenAddress]; 4] = [
        nvmf,
        std::slice::from_ref(grpc),
        metrics.map_or(&[], std::slice::from_ref),
        &nbd,
    ];
    for (index, one) in nbd.iter().enumerate() {
        if nbd[..index]
            .iter()
            .any(|other| overlap(one.address, other.address))
        {
            let problem = format!("{} is named twice; remove one", one.address);
            return Err(source.bad_value(&one.origin, problem));
        }
    }
    for (index, server) in servers.iter().enumerate() {
        for other in servers[index + 1..].iter().copied().flatten() {
            if let Some(one) = server
                .iter()
                .find(|one| overlap(one.address, other.address))
            {
                return Err(refusal(one, other, source));
            }
        }
    }
    Ok(())
}

/// The address of a server of another protocol; its default is a socket in the file system, which has none.
fn socket_of(listen: &ExportAddress) -> Option<ListenAddress> {
    let address = listen.as_str().strip_prefix("tcp://")?.parse().ok()?;
    let origin = Origin::File("nbd.listen");
    Some(ListenAddress { address, origin })
}

/// At the place of the one that was chosen, where the other is a default.
fn refusal(one: &ListenAddress, other: &ListenAddress, source: &Source) -> ConfigError {
    let (wrong, right) = match one.origin {
        Origin::Default(_) => (other, one),
        Origin::Flag(_) | Origin::Variable(_) | Origin::File(_) => (one, other),
    };
    let problem = format!(
        "{} takes the port of {} ({}); give one of them another port",
        wrong.address, right.origin, right.address
    );
    source.bad_value(&wrong.origin, problem)
}

/// Whether the system refuses the second of two listeners. Port 0 is a free one; `[::]` listens on IPv4 too.
pub(crate) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_all = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() != 0 && one.port() == other.port() && (a == b || is_all(a, b) || is_all(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_one_port_is_bound_twice() {
        let overlaps = |a: &str, b: &str| overlap(a.parse().unwrap(), b.parse().unwrap());
        for (a, b) in [
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("0.0.0.0:9", "127.0.0.1:9"),
            ("[::]:9", "127.0.0.1:9"),
            ("0.0.0.0:9", "[::]:9"),
            ("[::]:9", "[::1]:9"),
        ] {
            assert!(overlaps(a, b) && overlaps(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("127.0.0.1:9", "127.0.0.1:8"),
            ("127.0.0.1:9", "127.0.0.2:9"),
            ("0.0.0.0:9", "[::1]:9"),
            ("[::]:0", "[::]:0"),
        ] {
            assert!(!overlaps(a, b) && !overlaps(b, a), "{a} {b}");
        }
    }
}

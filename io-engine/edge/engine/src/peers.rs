//! Whom a peer's address counts for, where connections are bounded by address.

use std::net::{IpAddr, Ipv6Addr};

/// What is counted for a peer at `ip`: an IPv4 address by itself, an IPv6 address with its /64, because whoever has one has the
/// 2^64 addresses of its network (RFC 4291 §2.5.1).
pub fn counted_as(ip: IpAddr) -> IpAddr {
    const NETWORK: u128 = !(u64::MAX as u128);
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        // Nobody but this machine.
        IpAddr::V6(ip) if ip.is_loopback() => IpAddr::V6(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & NETWORK)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_peer_counts_for_its_network_and_an_ipv4_one_for_itself() {
        let of = |ip: &str| counted_as(ip.parse().unwrap()).to_string();
        assert_eq!(of("10.1.2.3"), "10.1.2.3");
        assert_eq!(of("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2:ffff::"), "2001:db8:1:2::");
        assert_ne!(of("2001:db8:1:3::1"), "2001:db8:1:2::");
        assert_eq!(of("::1"), "::1");
    }
}

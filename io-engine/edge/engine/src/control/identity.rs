//! Names hosts know us by: NQNs, serial numbers, NGUIDs.
//!
//! What it decides: how they follow from a device's name and uuid (as in the system we must be able to replace, so that
//! a host sees the same disk after the engine was exchanged), and which NQNs are acceptable. What it does not: who may
//! use them.

use std::fmt::Write;

use sdk::text::{is_printable, printable};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::dataplane::{Problem, ProblemKind};

/// What the NQN of a shared device starts with; the device's name follows.
pub const NQN_PREFIX: &str = "nqn.2019-05.io.openebs:";
/// Longest NQN in bytes, without its terminating zero (NVMe Base 2.0c §4.5: 223 bytes at most).
pub const NQN_LEN_MAX: usize = 223;

/// NQN of the subsystem that exports the device `name`.
pub fn nqn_of(name: &str) -> String {
    format!("{NQN_PREFIX}{name}")
}

/// Serial number of the subsystem that exports a device: `DCS` and 17 hexadecimal digits of the SHA-256 of its uuid.
pub fn serial_of(uuid: Uuid) -> String {
    let mut serial = String::from("DCS");
    for byte in Sha256::digest(uuid.as_bytes()).iter().take(9) {
        // Writing into a string cannot fail.
        let _ = write!(serial, "{byte:02x}");
    }
    serial.truncate(20);
    serial
}

/// Checks an NQN: `nqn.yyyy-mm.` reverse domain, a colon, a name (NVMe Base 2.0c §4.5).
///
/// # Errors
/// `InvalidArgument`, naming `what` the NQN was for.
pub fn validate_nqn(what: &str, nqn: &str) -> Result<(), Problem> {
    let refuse = |why: &str| {
        let shown: String = nqn.chars().take(NQN_LEN_MAX).collect();
        let shown = printable(&shown);
        Err(Problem::new(
            ProblemKind::InvalidArgument,
            format!("{what} '{shown}' {why}"),
        ))
    };
    if nqn.len() > NQN_LEN_MAX {
        return refuse("is longer than 223 bytes; use a shorter name");
    }
    if nqn.chars().any(|c| c.is_whitespace() || !is_printable(c)) {
        return refuse("contains white space or characters that do not print; remove them");
    }
    let date_and_domain = nqn
        .strip_prefix("nqn.")
        .and_then(|rest| rest.split_once(':'));
    let well_formed = date_and_domain.is_some_and(|(authority, name)| {
        let digits =
            |text: Option<&str>| text.is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit()));
        digits(authority.get(0..4))
            && authority.get(4..5) == Some("-")
            && digits(authority.get(5..7))
            && authority.get(7..8) == Some(".")
            && authority.len() > 8
            && !name.is_empty()
    });
    if well_formed {
        Ok(())
    } else {
        refuse("is not an NQN; write e.g. nqn.2014-08.org.nvmexpress:uuid:<uuid>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_stable_and_fit_the_field() {
        let serial = serial_of(Uuid::from_u128(0x3fa85f64_5717_4562_b3fc_2c963f66afa6));
        assert_eq!(serial.len(), 20);
        assert!(serial.starts_with("DCS"));
        assert!(serial[3..].bytes().all(|b| b.is_ascii_hexdigit()));
        // SHA-256 of sixteen zero bytes starts 374708fff7719dd5979ec875d56cd228 (independent: `sha256sum`).
        assert_eq!(serial_of(Uuid::nil()), "DCS374708fff7719dd59");
    }

    // NVMe Base 2.0c §4.5
    #[test]
    fn nqns_are_checked() {
        let fits = format!("nqn.2019-05.io.openebs:{}", "x".repeat(200));
        let long = format!("nqn.2019-05.io.openebs:{}", "x".repeat(201));
        for good in [
            "nqn.2019-05.io.openebs:m0",
            "nqn.2019-05.io.openebs:/dev/sdb",
            "nqn.2014-08.org.nvmexpress:uuid:3fa85f64-5717-4562-b3fc-2c963f66afa6",
            &fits,
        ] {
            assert!(validate_nqn("host", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "nqn.",
            "iqn.2019-05.io:x",
            "nqn.2019-05.io.openebs",
            "nqn.2019-05.io:",
            "nqn.19-05.io:x",
            "nqn.2019-05.a:b c",
            "nqn.2019-05.a:b\u{7}",
            "nqn.2019-05.a:b\u{202e}c",
            &long,
        ] {
            let problem = validate_nqn("host", bad).unwrap_err();
            assert_eq!(problem.kind(), ProblemKind::InvalidArgument, "{bad}");
        }
    }
}

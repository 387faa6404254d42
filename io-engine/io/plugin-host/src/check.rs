//! Whether a plugin with this descriptor can be loaded by this engine.
//!
//! The rule (`docs/plugin-abi.md` §11): majors are equal; the plugin needs no newer minor than ours; it unwinds; and each
//! of its tables has ours as ancestor or descendant. Tables only grow at their end within a major, so two minors agree
//! exactly when their common beginning does: equal minors have equal stamps, others equal *base* stamps.

use abi::{
    IOE_ABI_MAJOR, IOE_ABI_MINOR, IOE_FLAG_PANIC_ABORT, IOE_STAMPS, IOE_TABLE_DEVICE,
    IOE_TABLE_DRIVER, IOE_TABLE_ENGINE, IOE_TABLE_EXPORT, IOE_TABLE_EXPORT_DRIVER,
    IOE_TABLE_EXPORT_SERVER, IOE_TABLE_FABRIC, IOE_TABLE_FABRIC_DRIVER, IOE_TABLE_HOST,
    IOE_TABLE_PLUGIN, IOE_TABLE_POOL, IOE_TABLE_POOL_DRIVER, IOE_TABLE_QUEUE, IoeStamp,
};

use crate::elf::Descriptor;
use crate::refusal::Why;

/// Checks a descriptor against this engine.
///
/// # Errors
/// The first [`Why`] that applies.
pub fn check(descriptor: &Descriptor) -> Result<(), Why> {
    if descriptor.abi_major != IOE_ABI_MAJOR {
        return Err(Why::Major {
            found: descriptor.abi_major,
            found_minor: descriptor.abi_minor,
        });
    }
    if descriptor.needs_minor > IOE_ABI_MINOR {
        return Err(Why::NeedsMinor {
            found: descriptor.needs_minor,
        });
    }
    if descriptor.flags & IOE_FLAG_PANIC_ABORT != 0 {
        return Err(Why::PanicAbort);
    }
    for wanted in &IOE_STAMPS {
        let found = descriptor
            .stamps
            .iter()
            .find(|stamp| stamp.table == wanted.table);
        let Some(found) = found else {
            return Err(table(wanted, (0, 0), (wanted.size, wanted.hash)));
        };
        if descriptor.abi_minor == IOE_ABI_MINOR {
            if (found.size, found.hash) != (wanted.size, wanted.hash) {
                return Err(table(
                    wanted,
                    (found.size, found.hash),
                    (wanted.size, wanted.hash),
                ));
            }
            continue;
        }
        let is_newer = descriptor.abi_minor > IOE_ABI_MINOR;
        let grew_right = match is_newer {
            true => found.size >= wanted.size,
            false => found.size <= wanted.size,
        };
        let base = (wanted.base_size, wanted.base_hash);
        if (found.base_size, found.base_hash) != base || !grew_right {
            return Err(table(wanted, (found.base_size, found.base_hash), base));
        }
    }
    Ok(())
}

fn table(wanted: &IoeStamp, found: (u32, u64), here: (u32, u64)) -> Why {
    Why::Table {
        table: name(wanted.table).to_owned(),
        found,
        wanted: here,
    }
}

fn name(table: u32) -> &'static str {
    match table {
        IOE_TABLE_PLUGIN => "plugin",
        IOE_TABLE_ENGINE => "engine",
        IOE_TABLE_HOST => "host",
        IOE_TABLE_DRIVER => "driver",
        IOE_TABLE_DEVICE => "device",
        IOE_TABLE_QUEUE => "queue",
        IOE_TABLE_FABRIC_DRIVER => "fabric-driver",
        IOE_TABLE_FABRIC => "fabric",
        IOE_TABLE_EXPORT_DRIVER => "export-driver",
        IOE_TABLE_EXPORT_SERVER => "export-server",
        IOE_TABLE_EXPORT => "export",
        IOE_TABLE_POOL_DRIVER => "pool-driver",
        IOE_TABLE_POOL => "pool",
        _ => "of another version",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Descriptor {
        Descriptor {
            abi_major: IOE_ABI_MAJOR,
            abi_minor: IOE_ABI_MINOR,
            needs_minor: 0,
            kinds: abi::IOE_KIND_DEVICE,
            flags: 0,
            name: "test".to_owned(),
            version: "1".to_owned(),
            vendor: "tests".to_owned(),
            serves: String::new(),
            stamps: IOE_STAMPS.to_vec(),
        }
    }

    fn refused(change: impl FnOnce(&mut Descriptor)) -> String {
        let mut descriptor = ours();
        change(&mut descriptor);
        check(&descriptor).expect_err("a refusal").to_string()
    }

    #[test]
    fn our_own_tables_are_taken() {
        check(&ours()).unwrap();
    }

    #[test]
    fn a_refusal_names_both_sides() {
        assert_eq!(
            refused(|d| d.abi_major = 2),
            "it is built for ABI 2.1; this engine has ABI 1.1, and major versions must be equal"
        );
        assert_eq!(
            refused(|d| (d.abi_minor, d.needs_minor) = (7, 7)),
            "it needs ABI 1.7 or newer; this engine has ABI 1.1"
        );
        assert!(refused(|d| d.flags = IOE_FLAG_PANIC_ABORT).contains("panic=abort"));
        let size = refused(|d| d.stamps[5].size -= 8);
        assert!(
            size.starts_with("its table 'queue' has 88 bytes and hash"),
            "{size}"
        );
        assert!(size.contains("here it has 96 bytes"), "{size}");
        assert!(refused(|d| d.stamps[2].hash ^= 1).starts_with("its table 'host' has"));
        assert!(refused(|d| d.stamps.truncate(0)).starts_with("its table 'plugin' has 0"));
    }

    #[test]
    fn a_newer_minor_that_needs_nothing_new_is_taken_if_it_grew_at_the_end() {
        let newer = |change: &dyn Fn(&mut IoeStamp)| {
            let mut descriptor = ours();
            descriptor.abi_minor = IOE_ABI_MINOR + 1;
            change(&mut descriptor.stamps[5]);
            check(&descriptor)
        };
        newer(&|stamp| (stamp.size, stamp.hash) = (stamp.size + 8, 1)).unwrap();
        assert!(newer(&|stamp| stamp.size -= 8).is_err());
        assert!(newer(&|stamp| stamp.base_hash ^= 1).is_err());
    }
}

//! A plugin that is linked in, driven through its tables: it conforms as it does without them.

mod support;

use std::sync::Arc;

use conformance::{Options, run_device};
use plugin_host::{MemoryFigures, MemoryLimits};
use sdk::block::{DeviceDriver, OpenError};
use support::ByHost;
use units::Blocks;

fn driver() -> Box<dyn DeviceDriver> {
    Box::new(ByHost::with(&device_mem::PLUGIN, &["malloc", "null"]))
}

#[test]
fn a_ram_disk_conforms_through_its_tables() {
    for size in [512, 4096] {
        let make = || (driver(), format!("malloc:///m?size_mb=8&blk_size={size}"));
        let options = Options {
            resize: Some(Box::new(|_, geometry| Some(geometry.blocks))),
            bad_uris: [
                "malloc:///",
                "malloc:///m?size_mb=0",
                "malloc:///m?size_mb=8&uuid=1",
                "malloc:///m?size_mb=-1",
                "malloc://host/m?size_mb=8",
            ]
            .map(str::to_owned)
            .to_vec(),
            aliases: Box::new(|_| vec!["malloc:///m?num_blocks=1".to_owned()]),
            ..Options::default()
        };
        run_device(&make, &options);
    }
}

#[test]
fn a_null_disk_conforms_through_its_tables() {
    let make = || (driver(), "null:///m?size_mb=8".to_owned());
    let options = Options {
        discards_data: true,
        ..Options::default()
    };
    run_device(&make, &options);
}

#[test]
fn a_plugin_is_listed_with_what_it_serves_and_not_taken_twice() {
    let by_host = ByHost::with(&device_mem::PLUGIN, &["malloc", "null"]);
    let listed = by_host.host.plugins();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, "device-mem");
    assert_eq!(listed[0].schemes, ["malloc", "null"]);
    assert_eq!(listed[0].faults, 0);
    let refusal = by_host.host.add(&device_mem::PLUGIN).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "plugin device-mem refused: it brings scheme 'malloc', which plugin 'device-mem' has; unload one of them"
    );
    let unknown = by_host
        .host
        .open_device("nvmf://x/y")
        .err()
        .map(|error| error.to_string());
    assert_eq!(
        unknown.as_deref(),
        Some("device URI scheme 'nvmf' is unknown; use one of: malloc, null")
    );
}

#[test]
fn ram_disks_together_stay_within_the_memory_they_are_given() {
    let host = ByHost::with(&device_mem::PLUGIN, &["malloc", "null"]).host;
    host.limit_memory(MemoryLimits {
        bytes_max: 24 << 20,
        key: "memory.ram_disks_mib_max",
        total: 1 << 30,
        own: 0,
        read: Arc::new(|| {
            Some(MemoryFigures {
                available: 1 << 30,
                used: 0,
            })
        }),
    });
    let open = |name: &str, mib: u64| host.open_device(&format!("malloc:///{name}?size_mb={mib}"));
    let blocks = |mib: u64| Some(Blocks(mib << 11));
    let mut first = open("a", 16).unwrap();
    let refused = open("b", 16).err().unwrap();
    assert!(matches!(refused, OpenError::NoRoom { .. }), "{refused}");
    assert!(
        refused.to_string().starts_with(
            "malloc:///b: needs 16 MiB, and 8 MiB are left of the 24 MiB that memory.ram_disks_mib_max gives RAM disks;"
        ),
        "{refused}"
    );
    // What was refused holds neither memory nor its name.
    let second = open("b", 8).unwrap();
    let refused = first.resize(blocks(17)).unwrap_err();
    assert!(matches!(refused, OpenError::NoRoom { .. }), "{refused}");
    assert_eq!(first.geometry().blocks, Blocks(16 << 11));
    drop(second);
    first.resize(blocks(24)).unwrap();
    first.resize(blocks(4)).unwrap();
    let third = open("c", 20).unwrap();
    // A null disk keeps nothing.
    host.open_device("null:///n?size_mb=1024").unwrap();
    drop((first, third));
    open("d", 24).unwrap();
}

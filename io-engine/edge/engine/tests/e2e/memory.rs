//! RAM disks against the memory there is.

use std::sync::Arc;

use engine::control::dataplane::{DataPlane, ProblemKind};
use engine::plane::linked;
use plugin_host::{MemoryFigures, MemoryLimits};

use crate::support::{Rig, config, pattern};

/// A rig whose RAM disks may have `mib` MiB together.
fn rig(mib: u64) -> Rig {
    let plugins = linked(None, None);
    plugins.limit_memory(MemoryLimits {
        bytes_max: mib << 20,
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
    Rig::with_plugins(config(), Arc::default(), &plugins)
}

#[test]
fn a_ram_disk_that_does_not_fit_is_neither_created_nor_grown_and_others_go_on() {
    let mut rig = rig(24);
    let nqn = rig.serve("d", &["malloc:///a?size_mb=16"]);
    let mut client = rig.connect(&nqn);
    let refusal = |rig: &Rig, uri: &str| {
        let refused = rig.runtime.block_on(rig.plane.open_device(uri));
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ProblemKind::ResourceExhausted, "{refused}");
        refused.to_string()
    };
    let line = refusal(&rig, "malloc:///b?size_mb=9");
    assert!(
        line.contains("malloc:///b: needs 9 MiB, and 8 MiB are left of the 24 MiB"),
        "{line}"
    );
    // What another device stands on counts as well.
    let line = refusal(&rig, "fault:///f?device=malloc:///b?size_mb=9");
    assert!(line.contains("needs 9 MiB"), "{line}");
    let device = rig.handle("malloc:///a?size_mb=16");
    let resize = |rig: &Rig, mib: u64| {
        let resized = rig.plane.resize_device(device, Some(mib << 11));
        rig.runtime.block_on(resized)
    };
    let refused = resize(&rig, 25).unwrap_err();
    assert_eq!(refused.kind(), ProblemKind::ResourceExhausted, "{refused}");
    client.write(1, 32_760, &pattern(1, 4096)).unwrap();
    assert!(client.read(1, 32_760, 8).unwrap() == pattern(1, 4096));

    let nested = rig.open("fault:///f?device=malloc:///b?size_mb=8");
    refusal(&rig, "malloc:///c?size_mb=1");
    let closed = rig.plane.close_device(nested);
    rig.runtime.block_on(closed).unwrap();
    assert_eq!(resize(&rig, 24).unwrap(), 24 << 11);
    assert_eq!(resize(&rig, 16).unwrap(), 16 << 11);
    rig.open("malloc:///c?size_mb=8");
    // Opened again, it is as large as before, and needs no more.
    let again = rig.plane.reopen_device(device, "malloc:///a?size_mb=16");
    rig.runtime.block_on(again).unwrap();
}

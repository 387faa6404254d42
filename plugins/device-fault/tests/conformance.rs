//! The device suite on fault devices whose rules do no harm: none, delays, and writes that are lost only if the power goes.

#[expect(dead_code, reason = "each test file uses a part of the bench")]
mod support;

use std::cell::Cell;
use std::fs::File;
use std::sync::Arc;

use conformance::services::TestServices;
use conformance::{Options, run_device};
use sdk::block::DeviceDriver;
use sdk::services::Services;

use support::{Slab, SlabDriver};

fn fault() -> Box<dyn DeviceDriver> {
    device_fault::drivers().remove(0)
}

fn bad_uris() -> Vec<String> {
    [
        "/f",
        "/?device=malloc:///q?size_mb=8",
        "host/f?device=malloc:///q?size_mb=8",
        "/f?device=",
        "/f?device=nowhere:///m",
        "/f?device=malloc:///q?size_mb=8&overlay_mb=0",
        "/f?device=malloc:///q?size_mb=8&overlay_mb=1025",
        "/f?device=malloc:///q?size_mb=8&seed=-1",
        "/f?device=malloc:///q?size_mb=8&rules=explode",
        "/f?device=malloc:///q?size_mb=8&rules=error;delay",
        "/f?device=malloc:///q?size_mb=8&rules=inject://other",
    ]
    .map(|rest| format!("fault://{}", rest.replacen("/f", "/bad", 1)))
    .to_vec()
}

fn ram() -> Box<dyn Fn() -> Arc<dyn Services>> {
    Box::new(|| TestServices::new(device_mem::drivers()))
}

const HARMLESS: [&str; 6] = [
    "",
    "&rules=delay,us=200,jitter_us=300",
    "&rules=delay,us=200,jitter_us=300,stage=complete,probability=0.5",
    "&rules=lose",
    "&rules=lose,probability=0.3;delay,us=50,jitter_us=500,op=write%2Bread",
    "&rules=error,kind=busy,count=1,skip=1000000000;stuck,from_ms=100000000",
];

#[test]
fn over_a_ram_disk_it_conforms() {
    for (number, rules) in HARMLESS.into_iter().enumerate() {
        let size = if number % 2 == 0 { 512 } else { 4096 };
        let make = || {
            let below = format!("malloc:///m?size_mb=8%26blk_size={size}");
            (fault(), format!("fault:///f?device={below}{rules}"))
        };
        let options = Options {
            resize: Some(Box::new(|_, geometry| Some(geometry.blocks))),
            bad_uris: bad_uris(),
            services: ram(),
            ..Options::default()
        };
        run_device(&make, &options);
    }
}

#[test]
fn over_a_device_that_answers_late_it_conforms() {
    for rules in [HARMLESS[0], HARMLESS[2], HARMLESS[4]] {
        let make = || (fault(), format!("fault:///f?device=slab:///s{rules}"));
        let options = Options {
            services: Box::new(|| {
                let slab = Slab::new().pending();
                TestServices::new(vec![Box::new(SlabDriver(slab))])
            }),
            ..Options::default()
        };
        run_device(&make, &options);
    }
}

#[test]
fn over_files_it_conforms() {
    let directory = tempfile::tempdir().expect("a directory");
    let count = Cell::new(0);
    for rules in [HARMLESS[0], HARMLESS[4]] {
        let make = || {
            count.set(count.get() + 1);
            let path = directory.path().join(format!("disk{}", count.get()));
            let file = File::create_new(&path).expect("a new file");
            file.set_len(8 << 20).expect("room");
            let path = path.display();
            (fault(), format!("fault:///f?device=aio://{path}{rules}"))
        };
        let options = Options {
            services: Box::new(|| TestServices::new(device_uring::drivers())),
            ..Options::default()
        };
        run_device(&make, &options);
    }
}

#[test]
fn over_another_fault_device_it_conforms() {
    let make = || {
        let inner = "fault:///g?device=malloc:///m%253Fsize_mb=8%26rules=lose,probability=0.5";
        (
            fault(),
            format!("fault:///f?device={inner}&rules=delay,us=10,stage=complete;lose,op=write"),
        )
    };
    let options = Options {
        services: Box::new(|| {
            let mut drivers = device_mem::drivers();
            drivers.push(fault());
            TestServices::new(drivers)
        }),
        ..Options::default()
    };
    run_device(&make, &options);
}

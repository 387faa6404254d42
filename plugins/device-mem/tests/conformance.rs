//! The device suite on `malloc` and `null`, with both block sizes.

use conformance::{Options, run_device};
use sdk::block::DeviceDriver;

fn driver(scheme: &str) -> Box<dyn DeviceDriver> {
    let mut drivers = device_mem::drivers().into_iter();
    drivers
        .find(|driver| driver.schemes().contains(&scheme))
        .expect("a driver")
}

fn bad(scheme: &str) -> Vec<String> {
    [
        "/",
        "/m",
        "/m?size_mb=0",
        "/m?num_blocks=0",
        "/m?size_mb=8&num_blocks=8",
        "/m?size_mb=8&blk_size=1024",
        "/m?size_mb=8&blk_size=0",
        "/m?size_mb=8&uuid=1",
        "/m?size_mb=18446744073709551615",
        "/m?num_blocks=18446744073709551615",
        "/m?size_mb=-1",
        "/m?size_mb=1048577",
        "host/m?size_mb=8",
    ]
    .map(|rest| format!("{scheme}://{rest}"))
    .to_vec()
}

#[test]
fn a_ram_disk_conforms() {
    for size in [512, 4096] {
        let make = || {
            (
                driver("malloc"),
                format!("malloc:///m?size_mb=8&blk_size={size}"),
            )
        };
        let options = Options {
            resize: Some(Box::new(|_, geometry| Some(geometry.blocks))),
            bad_uris: bad("malloc"),
            aliases: Box::new(|_| vec!["malloc:///m?num_blocks=1".to_owned()]),
            ..Options::default()
        };
        run_device(&make, &options);
    }
}

#[test]
fn a_null_disk_conforms() {
    for size in [512, 4096] {
        let make = || {
            (
                driver("null"),
                format!("null:///m?size_mb=8&blk_size={size}"),
            )
        };
        let options = Options {
            discards_data: true,
            bad_uris: bad("null"),
            ..Options::default()
        };
        run_device(&make, &options);
    }
}

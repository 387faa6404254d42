//! The suite every block device passes: [`run_device`].

use std::sync::Arc;

use sdk::block::{DeviceDriver, Geometry, IoError, IoResult, Op, OpenError, Support};
use sdk::buf::Payload;
use sdk::services::Services;
use sdk::uri::{DeviceUri, UriError};
use units::{BlockRange, Blocks};

use crate::host::{Driven, TestHost};
use crate::model;
use crate::random::Random;
use crate::rig::{Rig, open, open_queue};
use crate::services::TestServices;

/// A way to change the size of the device a URI names: does what has to be done outside to bring about the given size,
/// and returns what [`sdk::block::Device::resize`] is to be called with.
pub type Resize = Box<dyn Fn(&str, Geometry) -> Option<Blocks>>;

/// Other names of the thing a URI names.
pub type Aliases = Box<dyn Fn(&str) -> Vec<String>>;

/// What a device is, as far as the suite has to know.
pub struct Options {
    /// Whether it forgets what is written (`null`); contents are then not compared.
    pub discards_data: bool,
    /// How its size is changed, if it can be.
    pub resize: Option<Resize>,
    /// Other URIs that name the same thing as the one under test, to be refused while it is open.
    pub aliases: Aliases,
    /// URIs with bad values, each to be refused with an error about its URI.
    pub bad_uris: Vec<String>,
    /// Seed of the random part; without one a fixed seed is used.
    pub seed: Option<u64>,
    /// What drives the queue.
    pub host: Box<dyn Fn() -> Box<dyn Driven>>,
    /// What the driver opens devices with.
    pub services: Box<dyn Fn() -> Arc<dyn Services>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            discards_data: false,
            resize: None,
            aliases: Box::new(|_| Vec::new()),
            bad_uris: Vec::new(),
            seed: None,
            host: Box::new(|| Box::new(TestHost::new())),
            services: Box::new(|| TestServices::new(Vec::new())),
        }
    }
}

/// Runs every check on devices from `make`, which gives a driver and the URI of a fresh device of at least 4 MiB each
/// time it is called.
///
/// # Panics
/// When a check fails; the message says which operation, and the seed where there is one.
pub fn run_device(make: &dyn Fn() -> (Box<dyn DeviceDriver>, String), options: &Options) {
    let rig = || {
        let (driver, uri) = make();
        Rig::new(driver, uri, (options.host)(), (options.services)())
    };
    geometry_is_sane(rig());
    never_written_blocks_can_be_read(rig());
    if !options.discards_data {
        every_size_and_alignment_reads_back(rig());
        overlapping_writes_in_order_leave_the_last(rig());
        zeroed_blocks_read_as_zeroes(rig());
        data_survives_the_queue(rig());
        let seed = options.seed.unwrap_or(0x10e9);
        model::random_operations_match_the_model(rig(), seed);
    }
    flush_and_durable_writes_complete(rig());
    discard_is_answered_and_the_blocks_stay_usable(rig());
    ranges_off_the_device_are_refused(rig());
    lent_bytes_do_not_change(rig());
    a_deep_queue_completes_each_once(rig());
    a_second_open_is_refused(rig(), &options.aliases);
    a_closed_device_opens_again(rig());
    unknown_parameters_are_refused_by_name(rig());
    bad_uris_are_refused(rig(), &options.bad_uris);
    if let Some(resize) = &options.resize {
        size_changes_are_followed(rig(), resize, options.discards_data);
    }
}

/// As [`run_device`], with the failure as text.
///
/// # Errors
/// What the check that failed said.
pub fn try_device(
    make: &dyn Fn() -> (Box<dyn DeviceDriver>, String),
    options: &Options,
) -> Result<(), String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let run = std::panic::AssertUnwindSafe(|| run_device(make, options));
    let outcome = std::panic::catch_unwind(run);
    std::panic::set_hook(hook);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("a check failed without a word").to_owned()
    })
}

/// Contents that differ from block to block and from round to round.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let words = (0..len.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes());
    words.take(len).collect()
}

fn geometry_is_sane(rig: Rig) {
    let geometry = rig.geometry;
    assert!(geometry.bytes() >= 4 << 20, "the suite needs 4 MiB");
    assert!(rig.capabilities.atomic_blocks >= 1, "a block is atomic");
    assert!(!rig.device.name().is_empty() && !rig.device.product_name().is_empty());
    assert_eq!(rig.device.uuid(), None, "no uuid was given");
    rig.finish();
}

fn never_written_blocks_can_be_read(mut rig: Rig) {
    let last = rig.geometry.blocks.0 - 1;
    for range in [BlockRange::new(0, 1), BlockRange::new(last, 1)] {
        rig.read(range);
    }
    rig.finish();
}

fn every_size_and_alignment_reads_back(mut rig: Rig) {
    let max = (1u64 << 20) >> rig.geometry.block_size.shift();
    let sizes = [1, 2, 3, 7, 8, 31, 32, 33, 64, max - 1, max];
    for (round, count) in sizes.into_iter().filter(|count| *count <= max).enumerate() {
        for start in [0, 1, 5, 31, 63, rig.geometry.blocks.0 - count] {
            let range = BlockRange::new(start, count);
            let bytes = pattern(round as u64 * 1000 + start, rig.bytes(count));
            rig.write(range, &bytes);
            assert!(rig.read(range) == bytes, "{range} does not read back");
        }
    }
    rig.finish();
}

fn overlapping_writes_in_order_leave_the_last(mut rig: Rig) {
    let mut expected = pattern(0, rig.bytes(16));
    rig.write(BlockRange::new(0, 16), &expected);
    for (round, start) in [3u64, 0, 7, 5, 12, 1].into_iter().enumerate() {
        let bytes = pattern(100 + round as u64, rig.bytes(4));
        rig.write(BlockRange::new(start, 4), &bytes);
        let at = rig.bytes(start);
        expected[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    assert!(rig.read(BlockRange::new(0, 16)) == expected);
    rig.finish();
}

fn zeroed_blocks_read_as_zeroes(mut rig: Rig) {
    if rig.capabilities.write_zeroes == Support::None {
        rig.finish();
        return;
    }
    let blocks = (1u64 << 20) >> rig.geometry.block_size.shift();
    for (deallocate, fua) in [(false, false), (true, false), (false, true), (true, true)] {
        let bytes = pattern(7, rig.bytes(blocks));
        rig.write(BlockRange::new(0, blocks), &bytes);
        for range in [BlockRange::new(3, 1), BlockRange::new(17, blocks - 40)] {
            let result = rig.run(Op::WriteZeroes {
                range,
                deallocate,
                fua,
            });
            // A device may find out only on trying; it must then say so, and the data stay.
            if matches!(result, Err(IoError::NotSupported)) {
                assert!(rig.read(BlockRange::new(0, blocks)) == bytes);
                rig.finish();
                return;
            }
            assert!(matches!(result, Ok(None)), "zero {range}: {result:?}");
            assert!(rig.read(range).iter().all(|byte| *byte == 0), "{range}");
        }
        let after = BlockRange::new(4, 13);
        assert!(
            rig.read(after) == bytes[rig.bytes(4)..rig.bytes(17)],
            "between"
        );
    }
    rig.finish();
}

fn data_survives_the_queue(mut rig: Rig) {
    let range = BlockRange::new(9, 40);
    let bytes = pattern(3, rig.bytes(40));
    rig.write(range, &bytes);
    assert!(matches!(rig.run(Op::Flush), Ok(None)));
    rig.queue.close(rig.host.host());
    // The old queue goes before the new one is made: a device may have just one.
    rig.queue = Box::new(crate::closed::ClosedQueue);
    rig.queue = open_queue(&mut *rig.device, &mut *rig.host);
    assert!(rig.read(range) == bytes);
    rig.finish();
}

fn flush_and_durable_writes_complete(mut rig: Rig) {
    for fua in [true, false] {
        let bytes = pattern(1, rig.bytes(8));
        let range = BlockRange::new(0, 8);
        let buf = rig.buf(&bytes);
        let result = rig.run(Op::Write { range, buf, fua });
        assert!(matches!(result, Ok(None)), "{result:?}");
        let result = rig.run(Op::Flush);
        assert!(matches!(result, Ok(None)), "{result:?}");
    }
    rig.finish();
}

fn discard_is_answered_and_the_blocks_stay_usable(mut rig: Rig) {
    let range = BlockRange::new(1, 600);
    let kept = BlockRange::new(601, 4);
    let before = rig.read(kept);
    let result = rig.run(Op::Discard { range });
    let fine = matches!(result, Ok(None) | Err(IoError::NotSupported));
    assert!(fine, "discard: {result:?}");
    assert!(rig.read(kept) == before, "a discard went past its range");
    rig.read(range);
    let bytes = pattern(5, rig.bytes(600));
    rig.write(range, &bytes);
    rig.finish();
}

fn ranges_off_the_device_are_refused(mut rig: Rig) {
    let blocks = rig.geometry.blocks.0;
    check_off(&mut rig, blocks);
    // The engine may learn of a smaller size before the device's own files do.
    let smaller = Geometry {
        blocks: Blocks(blocks / 2),
        ..rig.geometry
    };
    rig.queue.set_geometry(smaller);
    check_off(&mut rig, blocks / 2);
    rig.finish();
}

fn check_off(rig: &mut Rig, blocks: u64) {
    let off = [
        BlockRange::new(blocks, 1),
        BlockRange::new(blocks - 1, 2),
        BlockRange::new(u64::MAX, 1),
        BlockRange::new(u64::MAX - 1, 1),
    ];
    for range in off {
        let len = rig.bytes(range.count.0);
        let ops = [
            Op::Read {
                range,
                buf: Some(rig.blank(len)),
            },
            Op::Write {
                range,
                buf: rig.blank(len),
                fua: false,
            },
            Op::WriteZeroes {
                range,
                deallocate: true,
                fua: false,
            },
            Op::Discard { range },
        ];
        for op in ops {
            let what = format!("{op:?}");
            let result = rig.run(op);
            assert!(
                matches!(result, Err(IoError::OutOfRange)),
                "{what} on {blocks} blocks: {result:?}"
            );
        }
    }
    let len = rig.bytes(1);
    rig.write(BlockRange::new(blocks - 1, 1), &vec![1; len]);
}

fn lent_bytes_do_not_change(mut rig: Rig) {
    if !rig.capabilities.lends_reads {
        rig.finish();
        return;
    }
    let range = BlockRange::new(0, 512);
    let old = pattern(11, rig.bytes(512));
    rig.write(range, &old);
    let lent = match rig.run(Op::Read { range, buf: None }) {
        Ok(Some(payload @ Payload::Lent(_))) => payload,
        other => panic!("a device that lends reads answered {other:?}"),
    };
    let seen: Vec<u8> = lent.pieces().flatten().copied().collect();
    let new = pattern(12, rig.bytes(512));
    rig.write(BlockRange::new(3, 7), &new[..rig.bytes(7)]);
    rig.write(range, &new);
    rig.run(Op::WriteZeroes {
        range: BlockRange::new(100, 50),
        deallocate: false,
        fua: false,
    })
    .expect("zeroes");
    rig.run(Op::Discard { range }).expect("discard");
    let still: Vec<u8> = lent.pieces().flatten().copied().collect();
    assert!(still == seen, "lent bytes changed");
    drop(lent);
    rig.finish();
}

fn a_deep_queue_completes_each_once(mut rig: Rig) {
    const DEPTH: u64 = 200;
    let mut pending = 0;
    let mut busy = 0;
    let mut count = |result: IoResult| match result {
        Ok(_) => {}
        Err(IoError::Busy) => busy += 1,
        Err(error) => panic!("{error}"),
    };
    for number in 0..DEPTH {
        let range = BlockRange::new(number * 2, 2);
        let bytes = pattern(number, rig.bytes(2));
        let buf = rig.buf(&bytes);
        let op = match number % 4 {
            0 => Op::Flush,
            1 => Op::Read {
                range,
                buf: Some(buf),
            },
            _ => Op::Write {
                range,
                buf,
                fua: number % 8 == 3,
            },
        };
        match rig.start(op) {
            Ok(result) => count(result),
            Err(_) => pending += 1,
        }
    }
    for _ in 0..pending {
        count(rig.wait().1);
    }
    assert!(busy < DEPTH, "a queue takes at least one operation");
    rig.finish();
}

fn a_second_open_is_refused(rig: Rig, aliases: &Aliases) {
    let mut uris = aliases(&rig.uri);
    uris.push(rig.uri.clone());
    for uri in uris {
        let parsed = DeviceUri::parse(&uri).expect("a URI");
        match rig.driver.open_with(parsed, &rig.services) {
            Err(OpenError::InUse { holder, .. }) => {
                let pid = std::process::id().to_string();
                assert!(holder.contains(&pid), "the holder is not named: {holder}");
            }
            Err(error) => panic!("{uri}: refused, but as {error}"),
            Ok(_) => panic!("{uri}: opened twice"),
        }
    }
    rig.finish();
}

fn a_closed_device_opens_again(rig: Rig) {
    let uri = rig.uri.clone();
    let Rig {
        driver,
        services,
        device,
        mut queue,
        mut host,
        ..
    } = rig;
    queue.close(host.host());
    drop(queue);
    drop(device);
    drop(host);
    drop(open(&*driver, &uri, &services));
}

fn unknown_parameters_are_refused_by_name(rig: Rig) {
    let joint = if rig.uri.contains('?') { '&' } else { '?' };
    let uri = format!("{}{joint}no_such_parameter=1", rig.uri);
    let parsed = DeviceUri::parse(&uri).expect("a URI");
    match rig.driver.open_with(parsed, &rig.services) {
        Err(OpenError::Uri(UriError::UnknownParameter { name, .. })) => {
            assert_eq!(name, "no_such_parameter");
        }
        Err(error) => panic!("{uri}: refused, but as {error}"),
        Ok(_) => panic!("{uri}: opened"),
    }
}

fn bad_uris_are_refused(rig: Rig, bad: &[String]) {
    for uri in bad {
        let parsed = DeviceUri::parse(uri).expect("a URI");
        let checked = rig.driver.check(parsed.clone());
        match rig.driver.open_with(parsed, &rig.services) {
            Err(OpenError::Uri(error)) if checked.is_err() => {
                assert_eq!(checked, Err(error), "{uri}: checking and opening it differ");
            }
            refused if checked.is_err() => {
                let opened = refused.map(|_| "opened").map_err(|error| error.to_string());
                panic!("{uri}: not a good URI ({checked:?}), but opening it is {opened:?}");
            }
            Err(OpenError::Uri(_) | OpenError::Unsuitable { .. } | OpenError::NotFound(_)) => {}
            Err(error) => panic!("{uri}: refused, but as {error}"),
            Ok(_) => panic!("{uri}: opened"),
        }
    }
    rig.finish();
}

fn size_changes_are_followed(mut rig: Rig, resize: &Resize, discards_data: bool) {
    let old = rig.geometry;
    let keep = BlockRange::new(0, 64);
    let kept = pattern(21, rig.bytes(64));
    rig.write(keep, &kept);
    let tail = BlockRange::new(old.blocks.0 - 64, 64);
    let written = pattern(22, rig.bytes(64));
    rig.write(tail, &written);
    let half = old.blocks.0 / 2 + 8;
    for blocks in [half, old.blocks.0, old.blocks.0 * 2] {
        let wanted = Geometry {
            blocks: Blocks(blocks),
            ..old
        };
        let asked = resize(&rig.uri, wanted);
        let geometry = rig
            .device
            .resize(asked)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(geometry, wanted);
        assert_eq!(rig.device.geometry(), wanted);
        rig.queue.set_geometry(geometry);
        if blocks == old.blocks.0 {
            let grown = rig.read(tail);
            assert!(grown.iter().all(|byte| *byte == 0), "old data came back");
        }
        check_off(&mut rig, blocks);
        if !discards_data {
            assert!(rig.read(keep) == kept, "resizing lost data");
        }
    }
    rig.finish();
}

//! The beginning: a plugin's entry and descriptor on its side, what it brought on the engine's.

use std::sync::Arc;

use abi::*;

use super::device_in::RemoteDriver;
use super::device_out::DriverCell;
use super::engine_in::Engine;
use super::engine_out::EngineContext;
use super::export_in::RemoteExportDriver;
use super::export_out::ExportDriverCell;
use super::fabric_in::RemoteFabricDriver;
use super::fabric_out::FabricDriverCell;
use super::guard::{Faults, Image};
use super::pool_in::RemotePoolDriver;
use super::pool_out::PoolDriverCell;
use super::queue_in::Origin;
use super::watch::Watch;
use crate::block::DeviceDriver;
use crate::export::ExportDriver;
use crate::fabric::FabricDriver;
use crate::plugin::Plugin;
use crate::pool::PoolDriver;
use crate::services::Services;

/// Entries of one kind a plugin may bring.
const ENTRIES_MAX: u32 = 64;

/// A table that says how large it is.
pub(super) trait Table: Copy {
    /// All fields absent.
    const ABSENT: Self;
    /// What the table says.
    fn stated(&self) -> u32;
}

macro_rules! table {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl Table for $name {
            const ABSENT: Self = Self { size: 0, version: 0, $($field: None),* };

            fn stated(&self) -> u32 {
                self.size
            }
        }
    )*};
}

table! {
    IoeEngineTable {
        now_ns, log, count, load, store, open_device, wake, complete_from_any_thread, memory_take, memory_give,
    }
    IoeDriverTable { schemes, open, check }
    IoeDeviceTable {
        name, product, geometry, capabilities, uuid, queue_open, resize, command, warning, close,
    }
    IoeQueueTable {
        start, submit, poll, file_done, timer, wake, turn, extents, set_geometry, close, drop,
    }
    IoeFabricDriverTable { name, open, parcel_drop }
    IoeFabricTable {
        accepted, readable, writable, timer, events, fetch, respond, forget, flush, sent, close, detach,
        attach, connections, drop,
    }
    IoeExportDriverTable { protocol, open, parcel_drop }
    IoeExportServerTable { uri, seat_open, close }
    IoePoolDriverTable { name, create, import }
    IoePoolTable {
        usage, volume, volume_create, volume_destroy, volume_resize, volume_open, snapshot, clone, grow,
        check, close,
    }
    IoeExportTable {
        start, add_volume, remove_volume, set_geometry, accepted, readable, writable, io_done,
        extents_done, timer, event, flush, detach, attach, connections, close, drop,
    }
}

/// Smallest table there can be: size, version, one function.
const TABLE_BYTES_MIN: usize = 16;
/// Largest size believed: far above any there will be.
const TABLE_BYTES_MAX: usize = 4096;

/// Copies a table of whatever minor version: fields it does not have are absent, fields not known here are left out.
///
/// # Safety
/// `table` is null or points to a table of its stated size.
pub(super) unsafe fn table_in<T: Table>(table: *const T) -> Option<T> {
    // SAFETY: the caller's: size and version are there in any table.
    let stated = unsafe { table.cast::<u32>().as_ref()? };
    let stated = *stated as usize;
    if !(TABLE_BYTES_MIN..=TABLE_BYTES_MAX).contains(&stated) || !stated.is_multiple_of(8) {
        return None;
    }
    let mut copy = T::ABSENT;
    let len = stated.min(size_of::<T>());
    // SAFETY: `len` bytes are there by the table's own word; every field is a number or a nullable function, so that any
    // prefix of whole fields is a valid table.
    unsafe {
        std::ptr::copy_nonoverlapping(table.cast::<u8>(), (&raw mut copy).cast::<u8>(), len);
    }
    debug_assert_eq!(copy.stated() as usize, stated);
    Some(copy)
}

/// The descriptor of a plugin, as a note for its file. For [`export_plugin!`](crate::export_plugin).
pub const fn note(plugin: &Plugin, flags: u32) -> IoeNote {
    let empty = IoeStamp {
        table: 0,
        size: 0,
        hash: 0,
        base_size: 0,
        reserved: 0,
        base_hash: 0,
    };
    let mut stamps = [empty; IOE_STAMPS_MAX];
    let mut at = 0;
    while at < IOE_STAMPS.len() {
        stamps[at] = IOE_STAMPS[at];
        at += 1;
    }
    IoeNote {
        name_size: IOE_NOTE_NAME.len() as u32,
        descriptor_size: size_of::<IoeDescriptor>() as u32,
        kind: IOE_NOTE_TYPE,
        name: padded(IOE_NOTE_NAME),
        descriptor: IoeDescriptor {
            magic: IOE_MAGIC,
            size: size_of::<IoeDescriptor>() as u32,
            abi_major: IOE_ABI_MAJOR,
            abi_minor: IOE_ABI_MINOR,
            needs_minor: 0,
            stamp_count: IOE_STAMPS.len() as u16,
            kinds: plugin.kinds(),
            flags,
            reserved: 0,
            name: padded(plugin.name),
            version: padded(plugin.version),
            vendor: padded(plugin.vendor),
            serves: padded(plugin.serves),
            stamps,
        },
    }
}

const fn padded<const N: usize>(text: &str) -> [u8; N] {
    let (mut bytes, text) = ([0; N], text.as_bytes());
    assert!(
        text.len() <= N,
        "a text of the plugin is too long for its descriptor"
    );
    let mut at = 0;
    while at < text.len() {
        bytes[at] = text[at];
        at += 1;
    }
    bytes
}

/// What stands behind a plugin's entry: makes its objects and lists them in `out`. For
/// [`export_plugin!`](crate::export_plugin) and for plugins that are linked in.
///
/// # Safety
/// `engine` and `out` are what the engine passes to a plugin's entry.
pub unsafe fn enter(engine: *const IoeEngine, out: *mut IoePlugin, plugin: &Plugin) -> i32 {
    // SAFETY: the caller's.
    let Some(engine) = (unsafe { Engine::new(engine) }) else {
        return IOE_INVALID;
    };
    let engine = Arc::new(engine);
    let services: Arc<dyn Services> = engine.clone();
    let image = Arc::new(Image {
        services,
        clock: engine.clock,
    });
    // SAFETY: the caller's.
    let Some(out) = (unsafe { out.as_mut() }) else {
        return IOE_INVALID;
    };
    if (out.size as usize) < size_of::<IoePlugin>() {
        return IOE_INVALID;
    }
    image.status("entry", || {
        let share = || (image.clone(), engine.clone());
        let drivers = made(plugin.devices, |driver| {
            let (image, engine) = share();
            DriverCell::hand_out(driver, image, engine)
        });
        let fabrics = made(plugin.fabrics, |driver| {
            let (image, engine) = share();
            FabricDriverCell::hand_out(driver, image, engine)
        });
        let exports = made(plugin.exports, |driver| {
            let (image, engine) = share();
            ExportDriverCell::hand_out(driver, image, engine)
        });
        let pools = made(plugin.pools, |driver| {
            let (image, engine) = share();
            PoolDriverCell::hand_out(driver, image, engine)
        });
        out.version = IOE_ABI_VERSION;
        (out.drivers, out.driver_count) = (drivers.as_ptr(), drivers.len() as u32);
        (out.fabrics, out.fabric_count) = (fabrics.as_ptr(), fabrics.len() as u32);
        (out.exports, out.export_count) = (exports.as_ptr(), exports.len() as u32);
        (out.pools, out.pool_count) = (pools.as_ptr(), pools.len() as u32);
        IOE_OK
    })
}

/// The objects of one kind, listed as long as the process.
fn made<T, R>(make: Option<fn() -> Vec<T>>, hand_out: impl FnMut(T) -> R) -> &'static [R] {
    let objects = make.map(|make| make()).unwrap_or_default();
    let list: Vec<R> = objects.into_iter().map(hand_out).collect();
    Box::leak(list.into_boxed_slice())
}

/// What a plugin brought, as objects of this crate's traits.
#[derive(Default)]
pub struct Brought {
    /// Device drivers.
    pub drivers: Vec<Box<dyn DeviceDriver>>,
    /// Transports.
    pub fabrics: Vec<Box<dyn FabricDriver>>,
    /// Protocols.
    pub exports: Vec<Box<dyn ExportDriver>>,
    /// Kinds of pool.
    pub pools: Vec<Box<dyn PoolDriver>>,
}

/// A plugin after its entry.
pub struct Imported {
    /// What it brought.
    pub brought: Brought,
    /// What it has broken since.
    pub faults: Arc<Faults>,
    /// Its objects on reactors, to find a call that blocks.
    pub watch: Arc<Watch>,
}

/// Calls a plugin's entry and takes in what it brings. `name` stands in log lines.
///
/// # Errors
/// A sentence: the entry refused or panicked, or what it brought is not what the contract asks for.
///
/// # Safety
/// `entry` is the entry of a plugin built against this major version of the contract, and was not called before.
pub unsafe fn import(
    name: &str,
    entry: IoeEntry,
    context: &'static EngineContext,
) -> Result<Imported, String> {
    // SAFETY: the caller's; the engine stays as long as the process.
    take_in(name, context, false, |engine, out| unsafe {
        entry(engine, out)
    })
}

/// As [`import`] for a plugin that is linked in, through the same tables.
///
/// # Errors
/// As [`import`].
pub fn import_linked(
    plugin: &'static Plugin,
    context: &'static EngineContext,
) -> Result<Imported, String> {
    // SAFETY: engine and room are those `take_in` makes for an entry.
    take_in(plugin.name, context, false, |engine, out| unsafe {
        enter(engine, out, plugin)
    })
}

/// As [`import_linked`] for a plugin that is part of this program. It comes in by the same tables, but what it has on
/// reactors is taken out from behind them: two conversions that undo each other, and a guard against panics of code that is
/// the program's own, would cost a tenth of a small I/O. A panic there is the program's.
///
/// # Errors
/// As [`import`].
pub fn import_own(
    plugin: &'static Plugin,
    context: &'static EngineContext,
) -> Result<Imported, String> {
    // SAFETY: engine and room are those `take_in` makes for an entry.
    take_in(plugin.name, context, true, |engine, out| unsafe {
        enter(engine, out, plugin)
    })
}

fn take_in(
    name: &str,
    context: &'static EngineContext,
    is_own: bool,
    entry: impl FnOnce(*const IoeEngine, *mut IoePlugin) -> i32,
) -> Result<Imported, String> {
    let engine: &'static IoeEngine = Box::leak(Box::new(context.raw()));
    let mut raw = IoePlugin {
        size: size_of::<IoePlugin>() as u32,
        version: 0,
        drivers: std::ptr::null(),
        driver_count: 0,
        fabric_count: 0,
        fabrics: std::ptr::null(),
        exports: std::ptr::null(),
        export_count: 0,
        pool_count: 0,
        pools: std::ptr::null(),
    };
    match entry(engine, &mut raw) {
        IOE_OK => {}
        IOE_PANICKED => return Err("its entry panicked".to_owned()),
        status => return Err(format!("its entry answered status {status}")),
    }
    let faults = Arc::new(Faults::default());
    let watch = Arc::new(Watch::default());
    let origin = || Origin {
        name: name.into(),
        clock: context.clock(),
        faults: faults.clone(),
        services: Some(context.services().clone()),
        remotes: Some(context.remotes().clone()),
        watch: watch.clone(),
        is_own,
    };
    let mut brought = Brought::default();
    // SAFETY: the plugin's lists are valid as long as the process, and so is what they hold.
    unsafe {
        for raw in list(raw.drivers, raw.driver_count)? {
            let driver = RemoteDriver::new(raw, context, origin())?;
            brought.drivers.push(Box::new(driver));
        }
        for raw in list(raw.fabrics, raw.fabric_count)? {
            let driver = RemoteFabricDriver::new(raw, context, origin())?;
            brought.fabrics.push(Box::new(driver));
        }
        for raw in list(raw.exports, raw.export_count)? {
            let driver = RemoteExportDriver::new(raw, context, origin())?;
            brought.exports.push(Box::new(driver));
        }
        for raw in list(raw.pools, raw.pool_count)? {
            let driver = RemotePoolDriver::new(raw, context, origin())?;
            brought.pools.push(Box::new(driver));
        }
    }
    Ok(Imported {
        brought,
        faults,
        watch,
    })
}

/// # Safety
/// `first` is null or the first of `count` entries, valid as long as the process.
unsafe fn list<T>(first: *const T, count: u32) -> Result<&'static [T], String> {
    if count == 0 {
        return Ok(&[]);
    }
    if first.is_null() || count > ENTRIES_MAX {
        return Err(format!(
            "a list of {count} entries, where 0 to {ENTRIES_MAX} are possible"
        ));
    }
    // SAFETY: the caller's.
    Ok(unsafe { std::slice::from_raw_parts(first, count as usize) })
}

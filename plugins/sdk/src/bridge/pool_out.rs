//! Kinds of pool and pools handed out as tables.

use std::ffi::c_void;
use std::sync::Arc;

use abi::*;

use super::device_out::DeviceCell;
use super::engine_in::Engine;
use super::guard::Image;
use super::text::{fill_text, refuse, text};
use crate::block::OpenError;
use crate::pool::{Identity, NewVolume, Pool, PoolDriver, PoolSpec, VolumeKind};
use crate::services::Services;

/// What stands behind the table of a kind of pool.
pub(super) struct PoolDriverCell {
    driver: Box<dyn PoolDriver>,
    image: Arc<Image>,
    engine: Arc<Engine>,
}

impl PoolDriverCell {
    /// Hands a kind of pool out, for as long as the process.
    pub(super) fn hand_out(
        driver: Box<dyn PoolDriver>,
        image: Arc<Image>,
        engine: Arc<Engine>,
    ) -> IoePoolDriver {
        let cell = Box::leak(Box::new(Self {
            driver,
            image,
            engine,
        }));
        IoePoolDriver {
            table: &DRIVER_TABLE,
            context: std::ptr::from_mut(cell).cast(),
        }
    }
}

static DRIVER_TABLE: IoePoolDriverTable = IoePoolDriverTable {
    size: size_of::<IoePoolDriverTable>() as u32,
    version: IOE_ABI_VERSION,
    name: Some(name),
    create: Some(create),
    import: Some(import),
};

// Each function below is called by the owner of the table with the context it was given and arguments as the contract
// says: that is what their blocks rely on.

/// # Safety
/// `driver` is that of [`PoolDriverCell::hand_out`].
unsafe fn driver_cell<'a>(driver: *mut c_void) -> &'a PoolDriverCell {
    // SAFETY: leaked, never written.
    unsafe { &*driver.cast::<PoolDriverCell>() }
}

unsafe extern "C" fn name(driver: *mut c_void, room: *mut IoeText) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { driver_cell(driver) };
    cell.image.status("name", || {
        // SAFETY: room lent for the call.
        unsafe { fill_text(room, cell.driver.name()) };
        IOE_OK
    })
}

/// # Safety
/// `spec` is what a caller of the contract lends.
unsafe fn spec_in(spec: *const IoePoolSpec) -> PoolSpec {
    // SAFETY: the caller's.
    let raw = unsafe { &*spec };
    let disks: &[IoeStr] = match raw.disk_count {
        0 => &[],
        // SAFETY: the caller's: there are that many.
        count => unsafe { std::slice::from_raw_parts(raw.disks, count as usize) },
    };
    // SAFETY: texts lent for the call.
    let owned = |lent: &IoeStr| unsafe { text(*lent) }.to_owned();
    PoolSpec {
        name: owned(&raw.name),
        uuid: (raw.uuid != [0; 16]).then_some(raw.uuid),
        disks: disks.iter().map(owned).collect(),
        cluster_bytes: (raw.cluster_bytes != 0).then_some(raw.cluster_bytes),
    }
}

/// How a kind of pool makes one.
type Make = fn(&dyn PoolDriver, &PoolSpec, &Arc<dyn Services>) -> Result<Box<dyn Pool>, OpenError>;

/// # Safety
/// The arguments are those of a call of the owner.
unsafe fn make(
    what: &str,
    make: Make,
    driver: *mut c_void,
    spec: *const IoePoolSpec,
    pool: *mut IoePool,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with a spec lent for it.
    let (cell, spec) = unsafe { (driver_cell(driver), spec_in(spec)) };
    cell.image.status(what, || {
        let services: Arc<dyn Services> = cell.engine.clone();
        match make(&*cell.driver, &spec, &services) {
            Ok(made) => {
                let handed = PoolCell::hand_out(made, cell.image.clone(), cell.engine.clone());
                // SAFETY: room for a pool, lent for the call.
                unsafe { pool.write(handed) };
                IOE_OK
            }
            // SAFETY: room lent for the call.
            Err(error) => unsafe { refuse(failure, &error) },
        }
    })
}

unsafe extern "C" fn create(
    driver: *mut c_void,
    _engine: *const IoeEngine,
    spec: *const IoePoolSpec,
    pool: *mut IoePool,
    failure: *mut IoeFailure,
) -> i32 {
    let by: Make = |driver, spec, services| driver.create(spec, services);
    // SAFETY: the owner's arguments, passed on.
    unsafe { make("create", by, driver, spec, pool, failure) }
}

unsafe extern "C" fn import(
    driver: *mut c_void,
    _engine: *const IoeEngine,
    spec: *const IoePoolSpec,
    pool: *mut IoePool,
    failure: *mut IoeFailure,
) -> i32 {
    let by: Make = |driver, spec, services| driver.import(spec, services);
    // SAFETY: the owner's arguments, passed on.
    unsafe { make("import", by, driver, spec, pool, failure) }
}

/// What stands behind a pool's table.
struct PoolCell {
    /// None after a panic: what panicked is kept where it is and not touched.
    pool: Option<Box<dyn Pool>>,
    image: Arc<Image>,
    engine: Arc<Engine>,
}

impl PoolCell {
    fn hand_out(pool: Box<dyn Pool>, image: Arc<Image>, engine: Arc<Engine>) -> IoePool {
        let cell = Box::new(Self {
            pool: Some(pool),
            image,
            engine,
        });
        IoePool {
            table: &POOL_TABLE,
            context: Box::into_raw(cell).cast(),
        }
    }

    fn enter(&mut self, what: &str, code: impl FnOnce(&mut dyn Pool) -> i32) -> i32 {
        let Some(pool) = &mut self.pool else {
            return IOE_PANICKED;
        };
        let status = self.image.guard(what, || code(&mut **pool));
        status.unwrap_or_else(|| {
            std::mem::forget(self.pool.take());
            IOE_PANICKED
        })
    }

    /// As [`PoolCell::enter`] for a call that may be refused, with room for the refusal.
    fn try_enter(
        &mut self,
        what: &str,
        failure: *mut IoeFailure,
        code: impl FnOnce(&mut dyn Pool) -> Result<(), OpenError>,
    ) -> i32 {
        self.enter(what, |pool| match code(pool) {
            Ok(()) => IOE_OK,
            // SAFETY: room the owner lends for the call.
            Err(error) => unsafe { refuse(failure, &error) },
        })
    }
}

static POOL_TABLE: IoePoolTable = IoePoolTable {
    size: size_of::<IoePoolTable>() as u32,
    version: IOE_ABI_VERSION,
    usage: Some(usage),
    volume: Some(volume),
    volume_create: Some(volume_create),
    volume_destroy: Some(volume_destroy),
    volume_resize: Some(volume_resize),
    volume_open: Some(volume_open),
    snapshot: Some(snapshot),
    clone: Some(clone),
    grow: Some(grow),
    check: Some(check),
    close: Some(close),
};

/// # Safety
/// `pool` is that of [`PoolCell::hand_out`], not yet closed, called by one thread at a time.
unsafe fn cell<'a>(pool: *mut c_void) -> &'a mut PoolCell {
    // SAFETY: the caller's.
    unsafe { &mut *pool.cast::<PoolCell>() }
}

/// # Safety
/// `uuid` points to 16 bytes lent for the call.
unsafe fn identity(uuid: *const u8) -> Identity {
    // SAFETY: the caller's.
    unsafe { uuid.cast::<Identity>().read_unaligned() }
}

unsafe extern "C" fn usage(
    pool: *mut c_void,
    room: *mut IoePoolUsage,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(pool) }.try_enter("usage", failure, |pool| {
        let found = pool.usage()?;
        let raw = IoePoolUsage {
            size: size_of::<IoePoolUsage>() as u32,
            disk_count: found.disks,
            capacity_bytes: found.capacity_bytes,
            used_bytes: found.used_bytes,
            committed_bytes: found.committed_bytes,
            cluster_bytes: found.cluster_bytes,
            volume_count: found.volumes,
        };
        // SAFETY: room lent for the call.
        unsafe { room.write(raw) };
        Ok(())
    })
}

unsafe extern "C" fn volume(pool: *mut c_void, index: u64, room: *mut IoePoolVolume) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(pool) }.enter("volume", |pool| {
        let Some(found) = pool.volume(index) else {
            return IOE_GONE;
        };
        let (kind, parent) = match found.kind {
            VolumeKind::Volume => (0, [0; 16]),
            VolumeKind::Snapshot { of } => (IOE_POOL_SNAPSHOT, of),
            VolumeKind::Clone { of } => (IOE_POOL_CLONE, of),
        };
        // SAFETY: room lent for the call, with room for a name in it.
        let room = unsafe { &mut *room };
        room.flags = kind | if found.is_thin { IOE_POOL_THIN } else { 0 };
        (room.uuid, room.parent) = (found.uuid, parent);
        (room.bytes, room.used_bytes) = (found.bytes, found.used_bytes);
        // SAFETY: as above.
        unsafe { fill_text(&mut room.name, &found.name) };
        IOE_OK
    })
}

unsafe extern "C" fn volume_create(
    pool: *mut c_void,
    uuid: *const u8,
    name: IoeStr,
    bytes: u64,
    flags: u32,
    failure: *mut IoeFailure,
) -> i32 {
    // A flag of a later version asks for something this pool would not do.
    if flags & !IOE_POOL_THIN != 0 {
        return IOE_NOT_SUPPORTED;
    }
    // SAFETY: the owner's call, with identity and text lent for it.
    let (cell, uuid, name) = unsafe { (cell(pool), identity(uuid), text(name)) };
    let is_thin = flags & IOE_POOL_THIN != 0;
    cell.try_enter("create_volume", failure, |pool| {
        pool.create_volume(&NewVolume {
            uuid,
            name,
            bytes,
            is_thin,
        })
    })
}

unsafe extern "C" fn volume_destroy(
    pool: *mut c_void,
    uuid: *const u8,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with an identity lent for it.
    let (cell, uuid) = unsafe { (cell(pool), identity(uuid)) };
    cell.try_enter("destroy_volume", failure, |pool| pool.destroy_volume(&uuid))
}

unsafe extern "C" fn volume_resize(
    pool: *mut c_void,
    uuid: *const u8,
    bytes: u64,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with an identity lent for it.
    let (cell, uuid) = unsafe { (cell(pool), identity(uuid)) };
    cell.try_enter("resize_volume", failure, |pool| {
        pool.resize_volume(&uuid, bytes)
    })
}

unsafe extern "C" fn volume_open(
    pool: *mut c_void,
    uuid: *const u8,
    device: *mut IoeDevice,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with an identity lent for it.
    let (cell, uuid) = unsafe { (cell(pool), identity(uuid)) };
    let (image, engine) = (cell.image.clone(), cell.engine.clone());
    cell.try_enter("open_volume", failure, |pool| {
        let opened = pool.open_volume(&uuid)?;
        // SAFETY: room for a device, lent for the call.
        unsafe { device.write(DeviceCell::hand_out(opened, image, Some(engine))) };
        Ok(())
    })
}

unsafe extern "C" fn snapshot(
    pool: *mut c_void,
    of: *const u8,
    uuid: *const u8,
    name: IoeStr,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with identities and text lent for it.
    let (cell, of, uuid, name) = unsafe { (cell(pool), identity(of), identity(uuid), text(name)) };
    cell.try_enter("snapshot", failure, |pool| pool.snapshot(&of, &uuid, name))
}

unsafe extern "C" fn clone(
    pool: *mut c_void,
    of: *const u8,
    uuid: *const u8,
    name: IoeStr,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with identities and text lent for it.
    let (cell, of, uuid, name) = unsafe { (cell(pool), identity(of), identity(uuid), text(name)) };
    cell.try_enter("clone_snapshot", failure, |pool| {
        pool.clone_snapshot(&of, &uuid, name)
    })
}

unsafe extern "C" fn grow(pool: *mut c_void, disk: IoeStr, failure: *mut IoeFailure) -> i32 {
    // SAFETY: the owner's call, with text lent for it.
    let (cell, disk) = unsafe { (cell(pool), text(disk)) };
    let disk = (!disk.is_empty()).then_some(disk);
    cell.try_enter("grow", failure, |pool| pool.grow(disk))
}

unsafe extern "C" fn check(
    pool: *mut c_void,
    report: *mut IoeText,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(pool) }.enter("check", |pool| match pool.check() {
        Ok(findings) => {
            // SAFETY: room lent for the call.
            unsafe { fill_text(report, &findings.join("\n")) };
            match findings.is_empty() {
                true => IOE_OK,
                false => IOE_MEDIUM,
            }
        }
        // SAFETY: room lent for the call.
        Err(error) => unsafe { refuse(failure, &error) },
    })
}

unsafe extern "C" fn close(pool: *mut c_void, destroy: u32, failure: *mut IoeFailure) -> i32 {
    // SAFETY: the owner's last call.
    let mut cell = unsafe { Box::from_raw(pool.cast::<PoolCell>()) };
    let Some(pool) = cell.pool.take() else {
        return IOE_PANICKED;
    };
    cell.image.status("close of a pool", || {
        match pool.close(destroy != 0) {
            Ok(()) => IOE_OK,
            // SAFETY: room lent for the call.
            Err(error) => unsafe { refuse(failure, &error) },
        }
    })
}

//! Kinds of pool and pools behind tables.

use std::ffi::c_void;
use std::sync::Arc;

use abi::*;

use super::device_in::RemoteDevice;
use super::engine_out::EngineContext;
use super::queue_in::Origin;
use super::root::table_in;
use super::text::{Room, ask, lend, refusable};
use crate::block::{Device, OpenError};
use crate::pool::{
    Identity, NewVolume, Pool, PoolDriver, PoolSpec, PoolUsage, VolumeInfo, VolumeKind,
};
use crate::services::Services;

/// Longest report of a check, in bytes.
const REPORT_BYTES: usize = 64 << 10;
/// Longest name of a volume, in bytes; what is longer is cut off.
const NAME_BYTES: usize = 1024;

/// How a table makes a pool.
type Make = unsafe extern "C" fn(
    *mut c_void,
    *const IoeEngine,
    *const IoePoolSpec,
    *mut IoePool,
    *mut IoeFailure,
) -> i32;

/// A kind of pool behind a table. Lives as long as the process.
pub(super) struct RemotePoolDriver {
    context: *mut c_void,
    create: Make,
    import: Make,
    name: &'static str,
    engine: IoeEngine,
    origin: Origin,
}

// SAFETY: any thread may call a kind of pool, also at the same time (contract of `IoePoolDriverTable`); the rest is read
// only.
unsafe impl Send for RemotePoolDriver {}
// SAFETY: as above.
unsafe impl Sync for RemotePoolDriver {}

impl RemotePoolDriver {
    /// The kind of pool behind `raw`; the error says what is missing.
    ///
    /// # Safety
    /// `raw` is what a plugin's entry brought.
    pub(super) unsafe fn new(
        raw: &IoePoolDriver,
        context: &'static EngineContext,
        origin: Origin,
    ) -> Result<Self, String> {
        // SAFETY: the caller's; a table says how large it is.
        let table = unsafe { table_in(raw.table) }.ok_or("a kind of pool without a table")?;
        let name = table.name.ok_or("a kind of pool without `name`")?;
        // SAFETY: room lent for the call.
        let name = ask(|room| unsafe { name(raw.context, room) });
        if name.is_empty() {
            return Err("a kind of pool without a name".to_owned());
        }
        Ok(Self {
            context: raw.context,
            create: table.create.ok_or("a kind of pool without `create`")?,
            import: table.import.ok_or("a kind of pool without `import`")?,
            name: Box::leak(name.into_boxed_str()),
            engine: context.raw(),
            origin,
        })
    }

    fn make(&self, make: Make, spec: &PoolSpec) -> Result<Box<dyn Pool>, OpenError> {
        let disks: Vec<IoeStr> = spec.disks.iter().map(|disk| lend(disk)).collect();
        let raw_spec = IoePoolSpec {
            size: size_of::<IoePoolSpec>() as u32,
            disk_count: u32::try_from(disks.len()).unwrap_or(u32::MAX),
            disks: disks.as_ptr(),
            name: lend(&spec.name),
            uuid: spec.uuid.unwrap_or_default(),
            cluster_bytes: spec.cluster_bytes.unwrap_or_default(),
        };
        let mut raw = IoePool {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable(&spec.name, |failure| {
            // SAFETY: spec, engine and room lent for the call.
            unsafe { make(self.context, &self.engine, &raw_spec, &mut raw, failure) }
        })?;
        // SAFETY: the plugin gave the pool away; a table says how large it is.
        let calls = unsafe { table_in(raw.table) }.and_then(Calls::of);
        match calls {
            Some(calls) => Ok(Box::new(RemotePool {
                context: raw.context,
                calls,
                name: spec.name.clone(),
                origin: self.origin.clone(),
                is_open: true,
            })),
            None => Err(OpenError::Unsuitable {
                what: format!("a pool of plugin '{}'", self.origin.name),
                reason: "its table lacks a function every pool has".to_owned(),
            }),
        }
    }
}

impl PoolDriver for RemotePoolDriver {
    fn name(&self) -> &'static str {
        self.name
    }

    fn create(
        &self,
        spec: &PoolSpec,
        _services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Pool>, OpenError> {
        self.make(self.create, spec)
    }

    fn import(
        &self,
        spec: &PoolSpec,
        _services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Pool>, OpenError> {
        self.make(self.import, spec)
    }
}

/// Declares the functions of a pool, all of which must be there.
macro_rules! calls {
    ($($field:ident: fn($($argument:ty),*);)*) => {
        #[derive(Clone, Copy)]
        struct Calls {
            $($field: unsafe extern "C" fn(*mut c_void, $($argument),*) -> i32,)*
        }

        impl Calls {
            fn of(table: IoePoolTable) -> Option<Self> {
                Some(Self { $($field: table.$field?,)* })
            }
        }
    };
}

calls! {
    usage: fn(*mut IoePoolUsage, *mut IoeFailure);
    volume: fn(u64, *mut IoePoolVolume);
    volume_create: fn(*const u8, IoeStr, u64, u32, *mut IoeFailure);
    volume_destroy: fn(*const u8, *mut IoeFailure);
    volume_resize: fn(*const u8, u64, *mut IoeFailure);
    volume_open: fn(*const u8, *mut IoeDevice, *mut IoeFailure);
    snapshot: fn(*const u8, *const u8, IoeStr, *mut IoeFailure);
    clone: fn(*const u8, *const u8, IoeStr, *mut IoeFailure);
    grow: fn(IoeStr, *mut IoeFailure);
    check: fn(*mut IoeText, *mut IoeFailure);
    close: fn(u32, *mut IoeFailure);
}

/// A pool behind a table.
struct RemotePool {
    context: *mut c_void,
    calls: Calls,
    name: String,
    origin: Origin,
    is_open: bool,
}

// SAFETY: a pool may be called by any thread, one at a time (contract of `IoePoolTable`); every method takes it exclusively.
unsafe impl Send for RemotePool {}

impl Pool for RemotePool {
    fn usage(&mut self) -> Result<PoolUsage, OpenError> {
        let mut raw = IoePoolUsage {
            size: size_of::<IoePoolUsage>() as u32,
            disk_count: 0,
            capacity_bytes: 0,
            used_bytes: 0,
            committed_bytes: 0,
            cluster_bytes: 0,
            volume_count: 0,
        };
        refusable(&self.name, |failure| {
            // SAFETY: room lent for the call.
            unsafe { (self.calls.usage)(self.context, &mut raw, failure) }
        })?;
        Ok(PoolUsage {
            disks: raw.disk_count,
            capacity_bytes: raw.capacity_bytes,
            used_bytes: raw.used_bytes,
            committed_bytes: raw.committed_bytes,
            cluster_bytes: raw.cluster_bytes,
            volumes: raw.volume_count,
        })
    }

    fn volume(&mut self, index: u64) -> Option<VolumeInfo> {
        let mut bytes = [0; NAME_BYTES];
        let mut name = Room::new(&mut bytes);
        let mut raw = IoePoolVolume {
            size: size_of::<IoePoolVolume>() as u32,
            flags: 0,
            uuid: [0; 16],
            parent: [0; 16],
            bytes: 0,
            used_bytes: 0,
            name: *name.raw(),
        };
        // SAFETY: room lent for the call.
        let status = unsafe { (self.calls.volume)(self.context, index, &mut raw) };
        if status != IOE_OK {
            return None;
        }
        name.raw().len = raw.name.len;
        let of = raw.parent;
        let kind = match raw.flags & (IOE_POOL_SNAPSHOT | IOE_POOL_CLONE) {
            0 => VolumeKind::Volume,
            IOE_POOL_SNAPSHOT => VolumeKind::Snapshot { of },
            IOE_POOL_CLONE => VolumeKind::Clone { of },
            _ => {
                self.origin
                    .bad_answer("a volume that is a snapshot and a clone");
                return None;
            }
        };
        Some(VolumeInfo {
            uuid: raw.uuid,
            name: String::from_utf8_lossy(name.written()).into_owned(),
            kind,
            is_thin: raw.flags & IOE_POOL_THIN != 0,
            bytes: raw.bytes,
            used_bytes: raw.used_bytes,
        })
    }

    fn create_volume(&mut self, volume: &NewVolume<'_>) -> Result<(), OpenError> {
        let flags = if volume.is_thin { IOE_POOL_THIN } else { 0 };
        refusable(volume.name, |failure| {
            let (uuid, name) = (volume.uuid.as_ptr(), lend(volume.name));
            // SAFETY: identity, text and room lent for the call.
            unsafe {
                (self.calls.volume_create)(self.context, uuid, name, volume.bytes, flags, failure)
            }
        })
    }

    fn destroy_volume(&mut self, uuid: &Identity) -> Result<(), OpenError> {
        refusable(&self.name, |failure| {
            // SAFETY: identity and room lent for the call.
            unsafe { (self.calls.volume_destroy)(self.context, uuid.as_ptr(), failure) }
        })
    }

    fn resize_volume(&mut self, uuid: &Identity, bytes: u64) -> Result<(), OpenError> {
        refusable(&self.name, |failure| {
            // SAFETY: identity and room lent for the call.
            unsafe { (self.calls.volume_resize)(self.context, uuid.as_ptr(), bytes, failure) }
        })
    }

    fn open_volume(&mut self, uuid: &Identity) -> Result<Box<dyn Device>, OpenError> {
        let mut raw = IoeDevice {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable(&self.name, |failure| {
            // SAFETY: identity and room lent for the call.
            unsafe { (self.calls.volume_open)(self.context, uuid.as_ptr(), &mut raw, failure) }
        })?;
        // SAFETY: the plugin gave the device away.
        unsafe { RemoteDevice::take_in(raw, self.origin.clone()) }
    }

    fn snapshot(&mut self, of: &Identity, uuid: &Identity, name: &str) -> Result<(), OpenError> {
        refusable(name, |failure| {
            let (of, uuid, name) = (of.as_ptr(), uuid.as_ptr(), lend(name));
            // SAFETY: identities, text and room lent for the call.
            unsafe { (self.calls.snapshot)(self.context, of, uuid, name, failure) }
        })
    }

    fn clone_snapshot(
        &mut self,
        of: &Identity,
        uuid: &Identity,
        name: &str,
    ) -> Result<(), OpenError> {
        refusable(name, |failure| {
            let (of, uuid, name) = (of.as_ptr(), uuid.as_ptr(), lend(name));
            // SAFETY: identities, text and room lent for the call.
            unsafe { (self.calls.clone)(self.context, of, uuid, name, failure) }
        })
    }

    fn grow(&mut self, disk: Option<&str>) -> Result<(), OpenError> {
        refusable(&self.name, |failure| {
            // SAFETY: text and room lent for the call.
            unsafe { (self.calls.grow)(self.context, lend(disk.unwrap_or_default()), failure) }
        })
    }

    fn check(&mut self) -> Result<Vec<String>, OpenError> {
        let mut bytes = vec![0; REPORT_BYTES];
        let mut report = Room::new(&mut bytes);
        let mut has_findings = false;
        refusable(&self.name, |failure| {
            // SAFETY: room lent for the call.
            match unsafe { (self.calls.check)(self.context, report.raw(), failure) } {
                IOE_MEDIUM => {
                    has_findings = true;
                    IOE_OK
                }
                status => status,
            }
        })?;
        let text = String::from_utf8_lossy(report.written()).into_owned();
        Ok(match has_findings {
            true if text.is_empty() => vec!["it is damaged, and does not say where".to_owned()],
            true => text.lines().map(str::to_owned).collect(),
            false => Vec::new(),
        })
    }

    fn close(mut self: Box<Self>, destroy: bool) -> Result<(), OpenError> {
        self.is_open = false;
        refusable(&self.name, |failure| {
            // SAFETY: room lent for the call, which is the last.
            unsafe { (self.calls.close)(self.context, u32::from(destroy), failure) }
        })
    }
}

impl Drop for RemotePool {
    fn drop(&mut self) {
        if self.is_open {
            // Nobody is there to be told why it does not close.
            let _ = refusable(&self.name, |failure| {
                // SAFETY: room lent for the call, which is the last.
                unsafe { (self.calls.close)(self.context, 0, failure) }
            });
        }
    }
}

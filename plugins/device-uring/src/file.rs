//! The driver and the control side of a device: a claimed file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Stat, stat};
use rustix::io::Errno;
use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoError, OpenError, Queue, QueueSeed, Support,
};
use sdk::host::{Host, HostError, OwnerId};
use sdk::services::{Level, Services};
use sdk::uri::{DeviceUri, UriError};
use units::Blocks;

use crate::claim::{Kind, claim, unsuitable};
use crate::params::Params;
use crate::probe;
use crate::queue::{FileQueue, QueueConfig};

/// Serves `aio` and `uring`, which differ in name only: the reactor decides how files are driven.
pub(crate) struct FileDriver;

impl DeviceDriver for FileDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["aio", "uring"]
    }

    fn check(&self, uri: DeviceUri) -> Result<(), UriError> {
        Params::take(uri).map(drop)
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        open(uri, State::default())
    }

    fn open_with(
        &self,
        uri: DeviceUri,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Device>, OpenError> {
        let services = Some(services.clone());
        open(
            uri,
            State {
                services,
                ..State::default()
            },
        )
    }
}

fn open(uri: DeviceUri, state: State) -> Result<Box<dyn Device>, OpenError> {
    let product_name = match uri.scheme() {
        "aio" => "AIO disk",
        _ => "URING bdev",
    };
    let params = Params::take(uri)?;
    let claimed = claim(&params.path, &state)?;
    if probe::is_read_only(&claimed) {
        let reason = "is read-only; make it writable with blockdev --setrw";
        return Err(unsuitable(&params.path, reason));
    }
    let geometry = probe::geometry(&params.path, &claimed, params.block_size)?;
    let direct = match probe::check_direct(&claimed, geometry.block_size) {
        Ok(()) => true,
        Err(reason) => {
            let path = &params.path;
            state.log(
                Level::Warn,
                &format!("{path}: served without O_DIRECT: {reason}"),
            );
            if claimed.direct {
                probe::clear_direct(&params.path, &claimed.file)?;
            }
            false
        }
    };
    let (write_zeroes, discard) = probe::clearing(&claimed, geometry);
    Ok(Box::new(FileDisk {
        path: params.path,
        product_name,
        identity: identity(claimed.kind, &claimed.stat),
        file: claimed.file,
        _backing: claimed.backing,
        kind: claimed.kind,
        geometry,
        uuid: params.uuid,
        capabilities: Capabilities {
            write_zeroes,
            discard,
            volatile_cache: true,
            lends_reads: false,
            atomic_blocks: 1,
            direct: Some(direct),
        },
        state: Arc::new(state),
    }))
}

/// What a device and its queue share.
#[derive(Default)]
pub(crate) struct State {
    /// Written data was lost; set once, never cleared, and outlives the queue.
    lost: AtomicBool,
    queue_open: AtomicBool,
    /// The log tells of [`Device::warning`] already.
    warned: AtomicBool,
    /// Where its log lines go; nowhere for a device opened without an engine.
    services: Option<Arc<dyn Services>>,
}

impl State {
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn log(&self, level: Level, line: &str) {
        if let Some(services) = &self.services {
            services.log(level, line);
        }
    }

    pub(crate) fn set_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}

struct FileDisk {
    path: String,
    product_name: &'static str,
    /// Of what is open, to see whether the path still names it.
    identity: (u64, u64),
    file: File,
    /// The claim on what a loop device stands on.
    _backing: Option<File>,
    kind: Kind,
    geometry: Geometry,
    uuid: Option<[u8; 16]>,
    capabilities: Capabilities,
    state: Arc<State>,
}

impl Device for FileDisk {
    fn name(&self) -> &str {
        &self.path
    }

    fn product_name(&self) -> &'static str {
        self.product_name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        self.uuid
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        let duplicate = || {
            self.file.try_clone().map_err(|source| OpenError::System {
                what: format!("duplicate the descriptor of {}", self.path),
                source,
            })
        };
        let descriptor = duplicate()?;
        let disk = match self.kind {
            Kind::File => None,
            Kind::BlockDevice => Some(duplicate()?),
        };
        // The kernel reports a failed write-back once per open file, to whichever sync asks first. With one queue, and
        // one sync at a time in it, that is never the wrong one.
        if self.state.queue_open.swap(true, Ordering::AcqRel) {
            return Err(unsuitable(&self.path, "has one queue, and it is open"));
        }
        self.warning();
        Ok(Box::new(FileSeed {
            descriptor,
            config: QueueConfig {
                path: self.path.clone(),
                kind: self.kind,
                disk,
                geometry: self.geometry,
                direct: self.capabilities.direct == Some(true),
                zeroes: self.capabilities.write_zeroes != Support::None,
                holes: self.capabilities.discard != Support::None,
            },
            place: QueuePlace(self.state.clone()),
        }))
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        if blocks.is_some() {
            let reason = "its size is the file's; change that, then rescan";
            return Err(unsuitable(&self.path, reason));
        }
        if let Some(reason) = self.loss_of_name() {
            return Err(unsuitable(&self.path, reason));
        }
        self.geometry = probe::new_geometry(&self.path, &self.file, self.kind, self.geometry)?;
        self.warning();
        Ok(self.geometry)
    }

    /// A file without a name goes on working until it is closed, and is gone then. The path is not looked at: that may wait
    /// for a file system that hangs.
    fn warning(&self) -> Option<String> {
        if !self.is_deleted() {
            self.state.warned.store(false, Ordering::Relaxed);
            return None;
        }
        let warning = format!(
            "its file was deleted and its data is lost when the engine stops; {}",
            self.way_back()
        );
        if !self.state.warned.swap(true, Ordering::Relaxed) {
            self.state.log(Level::Warn, &warning);
        }
        Some(warning)
    }
}

impl FileDisk {
    fn is_deleted(&self) -> bool {
        let facts = rustix::fs::fstat(&self.file);
        self.kind == Kind::File && facts.is_ok_and(|facts| facts.st_nlink == 0)
    }

    /// Why the path does not name what is open, with the way out; `None` if it does, or cannot be looked at. Hosts go on with
    /// what is open: another content in its place would be a disk that changed under their file systems.
    fn loss_of_name(&self) -> Option<String> {
        let (is_deleted, stays) = (
            self.is_deleted(),
            "the device goes on with the file that is open",
        );
        let there = match stat(&self.path) {
            Ok(facts) if identity(self.kind, &facts) == self.identity => return None,
            Ok(_) if is_deleted => "its file was deleted, and another is in its place",
            Ok(_) => "another file is at its path, and its own was moved",
            Err(Errno::NOENT | Errno::NOTDIR) if is_deleted => "its file was deleted",
            Err(Errno::NOENT | Errno::NOTDIR) => "its file was moved away",
            Err(_) => return None,
        };
        Some(format!(
            "{there}; {stays}. To keep that, {}; to serve what is at the path, destroy the device and create it again",
            self.way_back()
        ))
    }

    fn way_back(&self) -> String {
        let (pid, descriptor) = (std::process::id(), self.file.as_raw_fd());
        let path = &self.path;
        format!("disconnect its hosts and copy /proc/{pid}/fd/{descriptor} back to {path}")
    }
}

/// Tells two files, or two disks, apart. The node of a disk may be made anew and is still the same disk.
fn identity(kind: Kind, facts: &Stat) -> (u64, u64) {
    match kind {
        Kind::File => (facts.st_dev, facts.st_ino),
        Kind::BlockDevice => (facts.st_rdev, 0),
    }
}

/// The right to be the device's queue.
pub(crate) struct QueuePlace(Arc<State>);

impl QueuePlace {
    pub(crate) fn state(&self) -> &State {
        &self.0
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.queue_open.store(false, Ordering::Release);
    }
}

struct FileSeed {
    descriptor: File,
    config: QueueConfig,
    place: QueuePlace,
}

impl QueueSeed for FileSeed {
    fn open(
        self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Queue>, IoError> {
        let file = host
            .adopt_file(self.descriptor.into(), owner)
            .map_err(|error| match error {
                HostError::TooMany => IoError::Busy,
                HostError::System(_) => IoError::Gone,
            })?;
        Ok(Box::new(FileQueue::new(file, self.config, self.place)))
    }
}

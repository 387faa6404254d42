//! Plugins on a reactor of their own (`plugins.isolate`): a call that blocks there holds up nobody else.
//!
//! Decides: where the queues of such a plugin live (one thread a plugin, whatever reactors its devices serve), how operations
//! and their ends cross between the two, and what becomes of buffers that do not come back. Does not decide: deadlines nor
//! what follows when one passes (`block`), nor which call is told to block (`sdk::bridge`).
//!
//! Invariants:
//! - The reactor a device serves never waits for the plugin's: it sends operations to a bounded mailbox and takes ends out of a
//!   channel that has room for every operation that may be in flight.
//! - A buffer lent to the plugin is its reactor's again only when the plugin has let go of it; one that does not come back stays out
//!   of use.
//! - A device is closed after its queues, and not at all while one is blocked.
//!
//! Binding text: `docs/plugin-abi.md` §9, ADR 0005.

mod loan;
mod queue;
mod seat;
mod tenant;

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reactor::{DriverChoice, Limits, ReactorConfig};
use sdk::block::{Capabilities, Device, DeviceDriver, Geometry, OpenError, QueueSeed};
use sdk::services::Services;
use sdk::uri::{DeviceUri, UriError};
use units::Blocks;

use queue::IsolatedSeed;
pub(crate) use seat::Seat;

/// Memory of an isolated plugin's reactor for what the plugin allocates by itself; what engine and plugin exchange is the
/// engine's.
const ARENA_BYTES: usize = 8 << 20;
/// Operations on their way to an isolated plugin; one more is answered Busy.
const MAILBOX: usize = 4096;
/// Operations in flight on one queue of an isolated plugin; one more is answered Busy.
pub(crate) const QUEUE_SLOTS: usize = 1024;
/// Longest wait for an isolated plugin's reactor to open a queue: a second more than it takes to be told that it blocks.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// Longest wait for queues to be closed before their device is left as it is.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Which plugins get a reactor of their own, and what it is like.
#[derive(Clone, Debug)]
pub struct Isolation {
    /// Names of plugins, loaded or not.
    pub plugins: BTreeSet<String>,
    /// How each of their reactors is built.
    pub reactor: ReactorConfig,
}

impl Isolation {
    /// These plugins, on small reactors that float and never spin, with the kernel interface `driver`. File operations in
    /// flight for `overdue_after` are counted as overdue.
    pub fn new(plugins: BTreeSet<String>, driver: DriverChoice, overdue_after: Duration) -> Self {
        Self {
            plugins,
            reactor: ReactorConfig {
                driver,
                arena_bytes: ARENA_BYTES,
                mailbox: MAILBOX,
                spin_us_max: 0,
                limits: Limits {
                    streams: 64,
                    ..Limits::default()
                },
                overdue_after,
                ..ReactorConfig::default()
            },
        }
    }
}

/// A driver whose devices' queues live on the plugin's reactor.
pub(crate) struct IsolatedDriver {
    driver: Arc<dyn DeviceDriver>,
    seat: Arc<Seat>,
}

impl IsolatedDriver {
    pub(crate) fn new(driver: Arc<dyn DeviceDriver>, seat: Arc<Seat>) -> Self {
        Self { driver, seat }
    }

    fn isolate(&self, device: Box<dyn Device>) -> Box<dyn Device> {
        Box::new(IsolatedDevice {
            device: Some(device),
            seat: self.seat.clone(),
            queues: Arc::default(),
        })
    }
}

impl DeviceDriver for IsolatedDriver {
    fn schemes(&self) -> &'static [&'static str] {
        self.driver.schemes()
    }

    fn check(&self, uri: DeviceUri) -> Result<(), UriError> {
        self.driver.check(uri)
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        self.driver.open(uri).map(|device| self.isolate(device))
    }

    fn open_with(
        &self,
        uri: DeviceUri,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Device>, OpenError> {
        let device = self.driver.open_with(uri, services)?;
        Ok(self.isolate(device))
    }
}

/// The queues of a device, and the device itself once its owner let go of it before they were closed.
#[derive(Default)]
struct Queues {
    state: Mutex<QueuesState>,
    fewer: Condvar,
}

#[derive(Default)]
struct QueuesState {
    /// Queues there are on the plugin's reactor.
    open: usize,
    /// Those of them that somebody has; the others are being closed.
    wanted: usize,
    /// To be closed after the last of them.
    device: Option<Box<dyn Device>>,
}

impl QueuesState {
    fn is_closing(&self) -> bool {
        self.wanted < self.open
    }
}

impl Queues {
    fn state(&self) -> MutexGuard<'_, QueuesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>) -> Tenancy {
        self.state().open += 1;
        Tenancy(self.clone())
    }

    /// Waits until those that are being closed are closed, or for [`CLOSE_MAX`].
    fn wait(&self) -> MutexGuard<'_, QueuesState> {
        let deadline = Instant::now() + CLOSE_MAX;
        let mut state = self.state();
        while state.is_closing() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.fewer.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

/// One queue of a device on the plugin's reactor, as long as it lives there.
struct Tenancy(Arc<Queues>);

impl Drop for Tenancy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        let device = match state.open {
            0 => state.device.take(),
            _ => None,
        };
        drop(state);
        self.0.fewer.notify_all();
        if let Some(device) = device {
            // Closing may block, and this is a reactor. Without a thread for it the device stays as it is.
            let closing = std::thread::Builder::new().name("iso-close".to_owned());
            drop(closing.spawn(move || drop(device)));
        }
    }
}

struct IsolatedDevice {
    /// There until dropped.
    device: Option<Box<dyn Device>>,
    seat: Arc<Seat>,
    queues: Arc<Queues>,
}

impl IsolatedDevice {
    fn device(&self) -> &dyn Device {
        self.device
            .as_deref()
            .expect("a device is there until dropped")
    }

    fn device_mut(&mut self) -> &mut dyn Device {
        self.device
            .as_deref_mut()
            .expect("a device is there until dropped")
    }
}

impl Device for IsolatedDevice {
    fn name(&self) -> &str {
        self.device().name()
    }

    fn product_name(&self) -> &str {
        self.device().product_name()
    }

    fn geometry(&self) -> Geometry {
        self.device().geometry()
    }

    /// Nothing is lent across threads: reads come with a buffer.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            lends_reads: false,
            ..self.device().capabilities()
        }
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        self.device().uuid()
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        // A device may have room for no more queues than it has, those about to be closed included.
        drop(self.queues.wait());
        let seed = self.device_mut().open_queue()?;
        let tenancy = self.queues.enter();
        let seat = self.seat.clone();
        match seat.open(seed, tenancy, OPEN_MAX) {
            Ok(place) => Ok(Box::new(IsolatedSeed { seat, place })),
            Err(reason) => Err(OpenError::Unsuitable {
                what: self.name().to_owned(),
                reason,
            }),
        }
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        self.device_mut().resize(blocks)
    }

    fn handle_command(&mut self, command: &str) -> Result<String, OpenError> {
        self.device_mut().handle_command(command)
    }

    fn warning(&self) -> Option<String> {
        self.device().warning()
    }
}

impl Drop for IsolatedDevice {
    fn drop(&mut self) {
        let Some(device) = self.device.take() else {
            return;
        };
        let mut state = self.queues.wait();
        if state.open == 0 {
            drop(state);
            drop(device);
            return;
        }
        if state.is_closing() {
            let (plugin, device) = (self.seat.plugin(), device.name());
            tracing::error!(
                plugin,
                device,
                "a queue of the device does not close: a call into the plugin blocks, or operations in it never ended; the \
                 device is closed when it does"
            );
        }
        // A device is closed after its queues: one that is still in use may not go away under the plugin.
        state.device = Some(device);
    }
}

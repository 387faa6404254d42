//! The reactor of an isolated plugin: a thread on which the queues of its devices live.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reactor::{Event, Handle, Reactor, ReactorConfig};
use sdk::block::{Geometry, IoError, QueueSeed};
use sdk::host::{Host, OwnerId, Waker};

use super::queue::{End, Lent};
use super::tenant::{Home, Tenant};
use super::{Queues, Tenancy};

/// Longest name of a thread the system shows.
const THREAD_NAME_LEN_MAX: usize = 15;

/// What the reactors of devices send, an operation each.
pub(super) enum Message {
    Submit {
        place: u32,
        slot: u32,
        op: Lent,
    },
    /// There are orders.
    Look,
}

/// What is rare and may not be refused. Taken before the messages that were sent after it.
pub(super) enum Order {
    Open {
        seed: Box<dyn QueueSeed>,
        tenancy: Tenancy,
        answer: SyncSender<Result<Place, IoError>>,
    },
    Attach {
        place: u32,
        ends: SyncSender<End>,
        waker: Option<Waker>,
    },
    Geometry {
        place: u32,
        geometry: Geometry,
    },
    Close {
        place: u32,
    },
    /// Nobody has the seat any more.
    End,
}

/// Orders that wait; as many as there are calls of the control path under way, and places to be closed.
#[derive(Default)]
struct Orders {
    list: Mutex<Vec<Order>>,
    any: AtomicBool,
}

impl Orders {
    fn list(&self) -> MutexGuard<'_, Vec<Order>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Order> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut list = self.list();
        self.any.store(false, Ordering::Release);
        mem::take(&mut *list)
    }
}

/// The way to a seat's thread.
#[derive(Clone)]
struct Line {
    handle: Handle<Message>,
    orders: Arc<Orders>,
}

impl Line {
    fn order(&self, order: Order) {
        let mut list = self.orders.list();
        list.push(order);
        self.orders.any.store(true, Ordering::Release);
        drop(list);
        // A mailbox that is full has woken the thread, which looks for orders in every turn.
        let _ = self.handle.send(Message::Look);
    }
}

/// A queue's place on a seat; given back when dropped.
pub(super) struct Place {
    number: u32,
    line: Line,
    queues: Arc<Queues>,
}

impl Place {
    fn new(number: u32, line: Line, queues: Arc<Queues>) -> Self {
        queues.state().wanted += 1;
        Self {
            number,
            line,
            queues,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queues.state().wanted -= 1;
        self.line.order(Order::Close { place: self.number });
    }
}

/// An isolated plugin's reactor, from other threads. Its thread ends with it, once every operation has ended.
pub(crate) struct Seat {
    line: Line,
    plugin: String,
}

impl Seat {
    /// Starts the thread.
    ///
    /// # Errors
    /// A sentence: why there is no thread, or no reactor on it.
    pub(crate) fn start(plugin: &str, config: &ReactorConfig) -> Result<Arc<Self>, String> {
        let config = config.clone();
        let (answer, answered) = channel();
        let orders = Arc::new(Orders::default());
        let (theirs, name) = (orders.clone(), plugin.to_owned());
        let run = move || match Reactor::new(config) {
            Ok((reactor, handle)) => {
                let line = Line {
                    handle: handle.clone(),
                    orders: theirs,
                };
                if answer.send(Ok(handle)).is_ok() {
                    let _told = ToldWhenItPanics(name);
                    Bench::new(reactor, line).run();
                }
            }
            // Nobody waiting means the load was given up.
            Err(error) => drop(answer.send(Err(told(&error)))),
        };
        let mut thread_name = format!("iso-{plugin}");
        while thread_name.len() > THREAD_NAME_LEN_MAX {
            thread_name.pop();
        }
        let thread = std::thread::Builder::new().name(thread_name);
        let started = thread.spawn(run).map(drop);
        started.map_err(|error| format!("the thread of its reactor does not start: {error}"))?;
        let handle = answered
            .recv()
            .map_err(|_| "its reactor ended while starting".to_owned())??;
        Ok(Arc::new(Self {
            line: Line { handle, orders },
            plugin: plugin.to_owned(),
        }))
    }

    /// The plugin whose reactor this is.
    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Opens a queue there. Waits at most `longest`.
    ///
    /// # Errors
    /// A sentence: what the queue answers, or that the plugin blocks its reactor.
    pub(super) fn open(
        &self,
        seed: Box<dyn QueueSeed>,
        tenancy: Tenancy,
        longest: Duration,
    ) -> Result<Place, String> {
        if self.line.handle.is_gone() {
            let plugin = &self.plugin;
            return Err(format!(
                "the reactor of plugin '{plugin}' has ended; see the engine's log"
            ));
        }
        // A place that is answered too late is given back with the channel.
        let (answer, answered) = sync_channel(1);
        self.order(Order::Open {
            seed,
            tenancy,
            answer,
        });
        match answered.recv_timeout(longest) {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(error)) => Err(format!("its queue does not open: {error}")),
            Err(_) => Err(format!(
                "the reactor of plugin '{}' does not answer: a call into the plugin blocks it",
                self.plugin
            )),
        }
    }

    pub(super) fn order(&self, order: Order) {
        self.line.order(order);
    }

    /// Sends an operation.
    ///
    /// # Errors
    /// `Busy` while its mailbox is full, `Gone` when its thread has ended.
    pub(super) fn submit(&self, place: u32, slot: u32, op: Lent) -> Result<(), IoError> {
        let handle = &self.line.handle;
        let sent = handle.send(Message::Submit { place, slot, op });
        sent.map_err(|_| match handle.is_gone() {
            true => IoError::Gone,
            false => IoError::Busy,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.order(Order::End);
    }
}

fn told(error: &reactor::ReactorError) -> String {
    let source = std::error::Error::source(error);
    let source = source.map(|source| format!(": {source}"));
    let source = source.unwrap_or_default();
    format!("its reactor does not start: {error}{source}")
}

/// Says so when the thread ends by a panic that no guard caught: the plugin's devices answer `Gone` from then on.
struct ToldWhenItPanics(String);

impl Drop for ToldWhenItPanics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let plugin = self.0.as_str();
            tracing::error!(
                plugin,
                "the plugin's reactor panicked; its devices are gone"
            );
        }
    }
}

/// The thread's own side.
struct Bench {
    reactor: Reactor<Message>,
    line: Line,
    places: Vec<Option<Tenant>>,
    is_ending: bool,
}

impl Bench {
    fn new(reactor: Reactor<Message>, line: Line) -> Self {
        Self {
            reactor,
            line,
            places: Vec::new(),
            is_ending: false,
        }
    }

    fn run(mut self) {
        let mut events = Vec::new();
        let mut is_busy = false;
        while !self.is_ending || self.places.iter().any(Option::is_some) {
            let until = match is_busy {
                true => Some(self.reactor.now()),
                false => self.next_timeout(),
            };
            self.reactor.turn(until, &mut events);
            for event in events.drain(..) {
                self.handle_event(event);
            }
            self.take_orders();
            is_busy = self.tend();
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let tenants = self.places.iter().flatten();
        tenants.filter_map(|one| one.queue.poll_timeout()).min()
    }

    fn handle_event(&mut self, event: Event<Message>) {
        match event {
            Event::Message(Message::Submit { place, slot, op }) => {
                self.take_orders();
                if let Some(Some(tenant)) = self.places.get_mut(place as usize) {
                    tenant.submit(&mut self.reactor, slot, op);
                }
            }
            Event::Message(Message::Look) => self.take_orders(),
            Event::FileDone { owner, done } => {
                if let Some(Some(tenant)) = self.places.get_mut(owner.0 as usize) {
                    tenant.queue.handle_file_done(&mut self.reactor, done);
                }
            }
            Event::Wake(owner) => {
                if let Some(Some(tenant)) = self.places.get_mut(owner.0 as usize) {
                    tenant.queue.handle_wake(&mut self.reactor);
                }
            }
            // Queues have neither: a device reaches its medium through files.
            Event::Accepted { .. }
            | Event::Arrived { .. }
            | Event::Readable(_)
            | Event::Writable(_) => {}
        }
    }

    fn take_orders(&mut self) {
        for order in self.line.orders.take() {
            match order {
                Order::Open {
                    seed,
                    tenancy,
                    answer,
                } => {
                    // A caller that gave up drops the place, which gives it back.
                    let _ = answer.send(self.open(seed, tenancy));
                }
                Order::Attach { place, ends, waker } => {
                    if let Some(Some(tenant)) = self.places.get_mut(place as usize) {
                        tenant.home = Some(Home { ends, waker });
                    }
                }
                Order::Geometry { place, geometry } => {
                    if let Some(Some(tenant)) = self.places.get_mut(place as usize) {
                        tenant.queue.set_geometry(geometry);
                    }
                }
                Order::Close { place } => {
                    if let Some(Some(tenant)) = self.places.get_mut(place as usize) {
                        (tenant.is_closing, tenant.home) = (true, None);
                    }
                }
                Order::End => self.is_ending = true,
            }
        }
    }

    fn open(&mut self, seed: Box<dyn QueueSeed>, tenancy: Tenancy) -> Result<Place, IoError> {
        let free = self.places.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        let queue = seed.open(&mut self.reactor, OwnerId(at as u32))?;
        let queues = tenancy.0.clone();
        self.places[at] = Some(Tenant::new(queue, tenancy));
        Ok(Place::new(at as u32, self.line.clone(), queues))
    }

    /// Has every queue do what is due, sends its ends home, and closes those that are left. Tells whether one is busy.
    fn tend(&mut self) -> bool {
        let mut is_busy = false;
        for place in &mut self.places {
            let Some(tenant) = place else { continue };
            is_busy |= tenant.tend(&mut self.reactor);
            if tenant.is_over() {
                tenant.queue.close(&mut self.reactor);
                *place = None;
            }
        }
        is_busy
    }
}

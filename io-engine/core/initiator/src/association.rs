//! What an association is asked to be, what it goes through, and what it tells: the values around [`crate::Initiator`].

use nvme_spec::event::AsyncEvent;
use nvme_spec::identify::{NamespaceDescriptors, Page};
use nvme_spec::register::Cap;
use nvme_spec::{Cqe, Sqe};
use std::time::Duration;

/// What an association is to be.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    /// NQN of this host.
    pub hostnqn: String,
    /// Identifier of this host, the same for all its associations.
    pub host_id: [u8; 16],
    /// NQN of the subsystem.
    pub subnqn: String,
    /// Keep alive timeout; zero for none. Keep Alive is sent at half of it.
    pub keep_alive: Duration,
    /// I/O queues wanted; 0 for a discovery controller or administration only.
    pub io_queues: u16,
    /// Entries per I/O queue wanted, 2 to 65536; the controller's maximum lowers it.
    pub queue_entries: u32,
    /// Whether to ask for submission queue flow control to be off.
    pub sq_flow_control_disabled: bool,
    /// Whether to keep one Asynchronous Event Request posted.
    pub async_events: bool,
    /// Time every admin command and Connect may take, Asynchronous Event Request excepted.
    pub command_timeout: Duration,
}

impl InitiatorConfig {
    /// An association of `hostnqn` with `subnqn`: one I/O queue of 128 entries, keep alive 10 s, timeout 30 s.
    pub fn new(hostnqn: &str, host_id: [u8; 16], subnqn: &str) -> Self {
        Self {
            hostnqn: hostnqn.to_owned(),
            host_id,
            subnqn: subnqn.to_owned(),
            keep_alive: Duration::from_secs(10),
            io_queues: 1,
            queue_entries: 128,
            sq_flow_control_disabled: true,
            async_events: true,
            command_timeout: Duration::from_secs(30),
        }
    }
}

/// Where the bring-up is; also the name of what failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The admin queue's transport is to be opened.
    OpenAdmin,
    /// Connect of the admin queue.
    ConnectAdmin,
    /// Property Get CAP.
    ReadCapabilities,
    /// Property Get VS.
    ReadVersion,
    /// Property Set CC.
    Enable,
    /// Property Get CSTS until ready.
    AwaitReady,
    /// Identify controller.
    IdentifyController,
    /// Set Features number of queues.
    SetQueueCount,
    /// Connect of the I/O queues.
    ConnectIo,
    /// Identify active namespace list.
    ListNamespaces,
    /// Identify namespace.
    IdentifyNamespace,
    /// Identify namespace descriptors.
    DescribeNamespace,
    /// Up.
    Ready,
    /// Over.
    Failed,
}

impl Step {
    /// What is done in this step, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAdmin => "open admin queue",
            Self::ConnectAdmin => "connect admin queue",
            Self::ReadCapabilities => "read capabilities",
            Self::ReadVersion => "read version",
            Self::Enable => "enable controller",
            Self::AwaitReady => "wait for controller",
            Self::IdentifyController => "identify controller",
            Self::SetQueueCount => "set number of queues",
            Self::ConnectIo => "connect I/O queue",
            Self::ListNamespaces => "list namespaces",
            Self::IdentifyNamespace => "identify namespace",
            Self::DescribeNamespace => "describe namespace",
            Self::Ready => "admin command",
            Self::Failed => "closed association",
        }
    }
}

/// Data of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// None.
    None,
    /// These bytes to the controller.
    Out(Vec<u8>),
    /// So many bytes from the controller.
    In(u32),
}

/// A command to put on a queue. PSDT and SGL are left to the transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Which queue, 0 the admin queue.
    pub qid: u16,
    /// The entry; its command identifier is unique on the queue.
    pub sqe: Sqe,
    /// Its data.
    pub data: Transfer,
}

/// What the adaptor or its user has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A transport connection for this queue is to be opened; [`Initiator::handle_queue_open`] answers.
    OpenQueue(u16),
    /// Everything is up: [`Initiator::controller`] and [`Initiator::namespaces`] are complete.
    Ready,
    /// A command of [`Initiator::submit_admin`] completed.
    AdminDone {
        /// The user's name for it.
        token: u32,
        /// Its completion.
        cqe: Cqe,
        /// The data received.
        data: Vec<u8>,
    },
    /// The controller reported an asynchronous event.
    AsyncEvent(AsyncEvent),
}

/// What bring-up learned about the controller.
#[derive(Clone, Debug)]
pub struct ControllerInfo {
    /// Controller id.
    pub cntlid: u16,
    /// Version register.
    pub version: u32,
    /// Capabilities register.
    pub cap: Cap,
    /// Identify controller page.
    pub identify: Box<Page>,
    /// I/O queues granted.
    pub io_queues: u16,
    /// Entries per I/O queue.
    pub queue_entries: u32,
    /// Data bytes an I/O command capsule may carry.
    pub in_capsule_max: u32,
    /// Most bytes of one command; `None` for no limit.
    pub transfer_max: Option<u64>,
}

/// What bring-up learned about a namespace.
#[derive(Clone, Debug)]
pub struct NamespaceInfo {
    /// Namespace id.
    pub nsid: u32,
    /// Blocks.
    pub blocks: u64,
    /// Bytes per block, a power of two.
    pub block_len: u32,
    /// Identify namespace page.
    pub identify: Box<Page>,
    /// Identification descriptors.
    pub descriptors: NamespaceDescriptors,
}

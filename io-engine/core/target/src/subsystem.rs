//! A subsystem and its namespaces, as the data path and the admin commands see them.

use nvme_spec::{ascii_padded, nqn};
use units::BlockSize;

use crate::config::{
    AllowedHosts, ConfigError, NamespaceCapabilities, NamespaceConfig, SubsystemConfig,
};
use crate::reservation::Reservations;
use crate::{DeviceKey, events, limits};

/// Whether a subsystem serves namespaces or answers discovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Namespaces and I/O queues.
    Nvm,
    /// The discovery subsystem.
    Discovery,
}

#[derive(Debug)]
pub(crate) struct Subsystem {
    pub(crate) kind: Kind,
    pub(crate) nqn: String,
    pub(crate) serial: [u8; 20],
    pub(crate) model: [u8; 40],
    pub(crate) hosts: AllowedHosts,
    pub(crate) ana: bool,
    pub(crate) cntlids: Cntlids,
    /// Indices into the controller table.
    pub(crate) controllers: Vec<u32>,
    /// By namespace id minus one.
    pub(crate) namespaces: Vec<Option<Namespace>>,
}

/// Controller ids of a subsystem, given out in turn so that one just freed is not reused at once.
#[derive(Debug)]
pub(crate) struct Cntlids {
    pub(crate) min: u16,
    pub(crate) max: u16,
    pub(crate) next: u16,
}

#[derive(Debug)]
pub(crate) struct Namespace {
    /// Differs between any two namespaces that ever existed in this target.
    pub(crate) epoch: u64,
    /// Changes with every change of who may access the namespace; unique over the target.
    pub(crate) access_epoch: u64,
    pub(crate) device: DeviceKey,
    pub(crate) shift: u32,
    pub(crate) blocks: u64,
    pub(crate) block_size: BlockSize,
    pub(crate) capabilities: NamespaceCapabilities,
    pub(crate) read_only: bool,
    pub(crate) nguid: [u8; 16],
    pub(crate) uuid: [u8; 16],
    pub(crate) eui64: [u8; 8],
    pub(crate) reservations: Reservations,
}

/// Highest controller id a subsystem may give out (Base 2.0c §3.1.1: FFF0h to FFFFh are reserved).
pub(crate) const CNTLID_MAX: u16 = 0xffef;

impl Subsystem {
    /// The discovery subsystem.
    pub(crate) fn discovery(model: &str, first_cntlid: u16) -> Self {
        Self {
            kind: Kind::Discovery,
            nqn: String::from(nqn::DISCOVERY_NQN),
            serial: ascii_padded("DISCOVERY"),
            model: ascii_padded(model),
            hosts: AllowedHosts::Any,
            ana: false,
            cntlids: Cntlids {
                min: 1,
                max: CNTLID_MAX,
                next: first_cntlid.clamp(1, CNTLID_MAX),
            },
            controllers: Vec::new(),
            namespaces: Vec::new(),
        }
    }

    /// A subsystem as configured, without namespaces.
    pub(crate) fn new(config: SubsystemConfig, default_model: &str) -> Result<Self, ConfigError> {
        let nqn_ok = nqn::nqn_text(&nqn::nqn_field(&config.nqn)) == Some(config.nqn.as_str());
        if !nqn_ok || config.nqn == nqn::DISCOVERY_NQN {
            return Err(ConfigError::NqnInvalid);
        }
        let model = config.model.as_deref().unwrap_or(default_model);
        if !is_printable(&config.serial, 20) || !is_printable(model, 40) {
            return Err(ConfigError::TextInvalid);
        }
        let (min, max) = (config.cntlid_min, config.cntlid_max);
        if min == 0 || min > max || max > CNTLID_MAX {
            return Err(ConfigError::CntlidRangeInvalid);
        }
        check_hosts(&config.hosts)?;
        Ok(Self {
            kind: Kind::Nvm,
            serial: ascii_padded(&config.serial),
            model: ascii_padded(model),
            nqn: config.nqn,
            hosts: config.hosts,
            ana: config.ana,
            cntlids: Cntlids {
                min,
                max,
                next: min,
            },
            controllers: Vec::new(),
            namespaces: Vec::new(),
        })
    }

    /// Notices its controllers can send (OAES).
    pub(crate) fn notices(&self) -> u32 {
        match (self.kind, self.ana) {
            (Kind::Discovery, _) => events::DISCOVERY_EVENTS,
            (Kind::Nvm, true) => events::NVM_ANA_EVENTS,
            (Kind::Nvm, false) => events::NVM_EVENTS,
        }
    }

    #[inline]
    pub(crate) fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.namespaces.get(nsid.wrapping_sub(1) as usize)?.as_ref()
    }

    pub(crate) fn namespace_mut(&mut self, nsid: u32) -> Option<&mut Namespace> {
        self.namespaces
            .get_mut(nsid.wrapping_sub(1) as usize)?
            .as_mut()
    }

    /// Active namespaces with their ids, in increasing order.
    pub(crate) fn active(&self) -> impl Iterator<Item = (u32, &Namespace)> {
        (1u32..)
            .zip(&self.namespaces)
            .filter_map(|(nsid, namespace)| Some((nsid, namespace.as_ref()?)))
    }

    /// What every namespace can do; with none, everything.
    pub(crate) fn common_capabilities(&self) -> NamespaceCapabilities {
        let mut common = NamespaceCapabilities {
            atomic_blocks: u32::MAX,
            ..NamespaceCapabilities::FULL
        };
        for (_, namespace) in self.active() {
            let own = &namespace.capabilities;
            common.write_zeroes &= own.write_zeroes;
            common.discard &= own.discard;
            common.compare &= own.compare;
            common.volatile_cache |= own.volatile_cache;
            common.atomic_blocks = common.atomic_blocks.min(own.atomic_blocks.max(1));
        }
        if common.atomic_blocks == u32::MAX {
            common.atomic_blocks = 1;
        }
        common
    }

    /// Adds a checked namespace.
    pub(crate) fn insert(
        &mut self,
        config: NamespaceConfig,
        epoch: u64,
    ) -> Result<(), ConfigError> {
        let nsid = config.nsid;
        if nsid == 0 || nsid > limits::NAMESPACES_MAX {
            return Err(ConfigError::NsidInvalid);
        }
        check_size(config.blocks.0, config.block_size)?;
        let at = nsid as usize - 1;
        if self.namespaces.get(at).is_some_and(Option::is_some) {
            return Err(ConfigError::NsidExists);
        }
        if self.namespaces.len() <= at {
            self.namespaces.resize_with(at + 1, || None);
        }
        self.namespaces[at] = Some(Namespace {
            epoch,
            access_epoch: epoch,
            device: config.device,
            shift: config.block_size.shift(),
            blocks: config.blocks.0,
            block_size: config.block_size,
            capabilities: config.capabilities,
            read_only: config.read_only,
            nguid: config.nguid,
            uuid: config.uuid,
            eui64: config.eui64,
            reservations: Reservations::restore(config.reservations.as_ref()),
        });
        Ok(())
    }
}

/// Whether a namespace of that size can be served.
pub(crate) fn check_size(blocks: u64, size: BlockSize) -> Result<(), ConfigError> {
    if blocks == 0 || blocks > u64::MAX >> size.shift() {
        return Err(ConfigError::SizeInvalid);
    }
    Ok(())
}

pub(crate) fn check_hosts(hosts: &AllowedHosts) -> Result<(), ConfigError> {
    match hosts {
        AllowedHosts::Any => Ok(()),
        AllowedHosts::Only(list) if list.len() > limits::ALLOWED_HOSTS_MAX => {
            Err(ConfigError::HostsTooMany)
        }
        AllowedHosts::Only(_) => Ok(()),
    }
}

/// Whether `text` fits an ASCII field of `len` bytes (Base 2.0c §1.8).
pub(crate) fn is_printable(text: &str, len: usize) -> bool {
    text.len() <= len && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

impl Cntlids {
    /// The next id that is not `in_use`, or `None` when all are.
    pub(crate) fn first_free(&mut self, in_use: impl Fn(u16) -> bool) -> Option<u16> {
        let span = u32::from(self.max - self.min) + 1;
        for _ in 0..span {
            let cntlid = self.next;
            self.next = if cntlid == self.max {
                self.min
            } else {
                cntlid + 1
            };
            if !in_use(cntlid) {
                return Some(cntlid);
            }
        }
        None
    }
}

//! Identify (Base 2.0c §5.17): what a host learns about controller and namespaces.

use nvme_spec::identify::{
    self as page, IdentifyCommand, IdentifyController, IdentifyNamespace, IndependentNamespace,
    LbaFormat, NamespaceDescriptors, NvmControllerLimits, PAGE_LEN, Page, PowerState, cns,
};
use nvme_spec::io::NSID_ALL;
use nvme_spec::nqn::nqn_field;
use nvme_spec::register::VERSION_2_0;
use nvme_spec::{Sqe, Status, ascii_padded};

use crate::TargetConfig;
use crate::controller::Controller;
use crate::limits;
use crate::output::ReplyData;
use crate::subsystem::{Kind, Namespace, Subsystem};
use crate::target::Target;

/// The only ANA group, which all namespaces are in.
pub(crate) const ANA_GROUP: u32 = 1;
/// CSI of the NVM command set, the only one.
const CSI_NVM: u8 = 0;
/// RESCAP: persistence and all six types, and IEKEY as of 1.3 and later.
const RESCAP: u8 = 0xff;
/// NMIC: the namespace may be attached to several controllers.
const NMIC_SHARED: u8 = 1;

impl Target {
    pub(crate) fn identify(&mut self, q: u32, sqe: &Sqe) {
        let made = Self::check_reply_buffer(sqe, PAGE_LEN as u64)
            .and_then(|()| self.identify_page(q, sqe));
        match made {
            Ok(page) => {
                let data = ReplyData::Bytes(Box::from(&page[..]));
                self.answer(q, sqe.cid(), Status::SUCCESS, 0, data);
            }
            Err(status) => self.refuse(q, sqe, status),
        }
    }

    fn identify_page(&self, q: u32, sqe: &Sqe) -> Result<Page, Status> {
        let command = IdentifyCommand::parse(sqe);
        let nsid = sqe.nsid();
        let controller = &self.controllers[self.qpairs[q].controller];
        let subsystem = &self.subsystems[controller.subsystem];
        if subsystem.kind == Kind::Discovery {
            // Base 2.0c §3.1.2.3.2: a discovery controller identifies itself and nothing else.
            return if command.cns == cns::CONTROLLER {
                Ok(identify_discovery(&self.config, subsystem, controller).emit())
            } else {
                Err(Status::INVALID_FIELD.dnr())
            };
        }
        let by_csi = matches!(
            command.cns,
            cns::CSI_NAMESPACE | cns::CSI_CONTROLLER | cns::CSI_ACTIVE_NAMESPACES
        );
        if by_csi && command.csi != CSI_NVM {
            return Err(Status::INVALID_FIELD.dnr());
        }
        match command.cns {
            cns::CONTROLLER => Ok(identify_controller(&self.config, subsystem, controller).emit()),
            cns::NAMESPACE if nsid == NSID_ALL => Ok(identify_all(subsystem).emit()),
            cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => Ok(active(subsystem, nsid)?
                .map_or([0; PAGE_LEN], |namespace| {
                    identify_namespace(subsystem, namespace).emit()
                })),
            cns::ACTIVE_NAMESPACES | cns::CSI_ACTIVE_NAMESPACES | cns::ALLOCATED_NAMESPACES => {
                // §5.17.2.2: FFFFFFFEh and above are no starting points.
                if nsid >= NSID_ALL - 1 {
                    return Err(Status::INVALID_NAMESPACE.dnr());
                }
                let above = subsystem.active().map(|(id, _)| id).filter(|id| *id > nsid);
                Ok(page::namespace_list(above))
            }
            cns::NAMESPACE_DESCRIPTORS => {
                let namespace = active(subsystem, nsid)?.ok_or(Status::INVALID_NAMESPACE.dnr())?;
                let ids = NamespaceDescriptors {
                    eui64: namespace.eui64,
                    nguid: namespace.nguid,
                    uuid: namespace.uuid,
                    csi: CSI_NVM,
                };
                Ok(ids.emit())
            }
            // No field of the NVM command set's own namespace page applies without protection information.
            cns::CSI_NAMESPACE => active(subsystem, nsid).map(|_| [0; PAGE_LEN]),
            cns::CSI_CONTROLLER => Ok(NvmControllerLimits::default().emit()),
            cns::INDEPENDENT_NAMESPACE => Ok(active(subsystem, nsid)?
                .map_or([0; PAGE_LEN], |namespace| {
                    independent_namespace(subsystem, namespace).emit()
                })),
            cns::NAMESPACE_CONTROLLERS => {
                active(subsystem, nsid)?.ok_or(Status::INVALID_NAMESPACE.dnr())?;
                Ok(self.controller_list(subsystem, command.cntid))
            }
            cns::CONTROLLERS => Ok(self.controller_list(subsystem, command.cntid)),
            cns::IO_COMMAND_SETS => Ok(page::io_command_sets()),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    fn controller_list(&self, subsystem: &Subsystem, from: u16) -> Page {
        let mut ids: Vec<u16> = subsystem
            .controllers
            .iter()
            .map(|index| self.controllers[*index].cntlid)
            .filter(|cntlid| *cntlid >= from)
            .collect();
        ids.sort_unstable();
        page::controller_list(ids.into_iter())
    }
}

/// The namespace `nsid`: `Ok(None)` when the id is valid but inactive (an all-zero page, §5.17.2.1), an error when no
/// namespace can have it.
fn active(subsystem: &Subsystem, nsid: u32) -> Result<Option<&Namespace>, Status> {
    if nsid == 0 || nsid > limits::NAMESPACES_MAX {
        return Err(Status::INVALID_NAMESPACE.dnr());
    }
    Ok(subsystem.namespace(nsid))
}

/// What controllers of either kind have in common.
fn common(
    config: &TargetConfig,
    subsystem: &Subsystem,
    controller: &Controller,
) -> IdentifyController {
    IdentifyController {
        sn: subsystem.serial,
        mn: subsystem.model,
        fr: ascii_padded(&config.firmware),
        mdts: (config.mdts_bytes / limits::MDTS_BYTES_MIN).trailing_zeros() as u8,
        cntlid: controller.cntlid,
        ver: VERSION_2_0,
        abort_commands_max: limits::ABORTS_MAX as u16,
        async_event_requests_max: limits::AERS_MAX as u16,
        error_log_entries: limits::ERROR_LOG_ENTRIES as u16,
        kas_100ms: (limits::KEEP_ALIVE_GRANULARITY_MS / 100) as u16,
        sgls: SGLS,
        maxcmd: config.queue_depth,
        subnqn: nqn_field(&subsystem.nqn),
        ..IdentifyController::zeroed()
    }
}

/// SGL support: bit 0 SGLs without alignment requirement, 2 keyed descriptors absent, 20 offset in the address field, 21
/// transport data block descriptor.
const SGLS: u32 = 1 | 1 << 20 | 1 << 21;
/// CTRATT bits: 0 128-bit host identifiers, 6 traffic based keep alive.
const CTRATT: u32 = 1 | 1 << 6;
/// LPA bits: 1 effects page, 2 extended data in Get Log Page (offset), 5 supported pages and effects of them.
const LPA: u8 = 1 << 1 | 1 << 2 | 1 << 5;
/// FRMW: one slot, read only.
const FRMW: u8 = 1 | 1 << 1;
/// Warning and critical temperature thresholds, kelvin: 70 and 80 °C.
const WCTEMP_K: u16 = 343;
const CCTEMP_K: u16 = 353;

fn identify_controller(
    config: &TargetConfig,
    subsystem: &Subsystem,
    controller: &Controller,
) -> IdentifyController {
    let capabilities = subsystem.common_capabilities();
    let oncs = u16::from(capabilities.compare)
        | u16::from(capabilities.discard) << 2
        | u16::from(capabilities.write_zeroes) << 3
        | 1 << 5;
    // VWC bits 2:1 = 11b: Flush of FFFFFFFFh flushes all namespaces.
    let vwc = u8::from(capabilities.volatile_cache) | 0b110;
    IdentifyController {
        // CMIC: several ports, several controllers, ANA.
        cmic: 0b11 | u8::from(subsystem.ana) << 3,
        oaes: subsystem.notices(),
        ctratt: CTRATT,
        cntrltype: 1,
        crdt_100ms: config.crdt_100ms,
        frmw: FRMW,
        lpa: LPA,
        wctemp: WCTEMP_K,
        cctemp: CCTEMP_K,
        // ANACAP: optimized and change states are reported; group ids do not change while attached.
        anacap: if subsystem.ana { 0b100_0001 } else { 0 },
        anatt: if subsystem.ana { ANA_TRANSITION_S } else { 0 },
        anagrpmax: if subsystem.ana { ANA_GROUP } else { 0 },
        nanagrpid: if subsystem.ana { ANA_GROUP } else { 0 },
        sqes: 0x66,
        cqes: 0x44,
        nn: limits::NAMESPACES_MAX,
        mnan: limits::NAMESPACES_MAX,
        oncs,
        fuses: u16::from(capabilities.compare),
        vwc,
        atomic_blocks: capabilities.atomic_blocks,
        atomic_blocks_power_fail: capabilities.atomic_blocks,
        atomic_compare_blocks: capabilities.atomic_blocks,
        ioccsz_16b: (64 + config.in_capsule_bytes) / 16,
        iorcsz_16b: 1,
        // One descriptor: the data block itself.
        msdbd: 1,
        ofcs: 1,
        power_state_0: PowerState {
            max_power_10mw: 2500,
        },
        ..common(config, subsystem, controller)
    }
}

/// Longest time a group may be in the change state, seconds.
const ANA_TRANSITION_S: u8 = 10;

fn identify_discovery(
    config: &TargetConfig,
    subsystem: &Subsystem,
    controller: &Controller,
) -> IdentifyController {
    IdentifyController {
        oaes: subsystem.notices(),
        ctratt: CTRATT,
        cntrltype: 2,
        // Extended data in Get Log Page: the page is read in pieces.
        lpa: 1 << 2,
        ioccsz_16b: 4,
        iorcsz_16b: 1,
        msdbd: 1,
        ..common(config, subsystem, controller)
    }
}

fn identify_namespace(subsystem: &Subsystem, namespace: &Namespace) -> IdentifyNamespace {
    let capabilities = &namespace.capabilities;
    let atomic = capabilities.atomic_blocks.max(1);
    let preferred = capabilities.preferred_blocks.max(1);
    IdentifyNamespace {
        nsze: namespace.blocks,
        ncap: namespace.blocks,
        nuse: namespace.blocks,
        // Atomicity fields are this namespace's own; preferred granularities where there are any.
        nsfeat: 1 << 1 | u8::from(capabilities.preferred_blocks > 0) << 4,
        formats: 1,
        flbas: 0,
        nmic: NMIC_SHARED,
        rescap: RESCAP,
        // Deallocated blocks read as zeroes; Write Zeroes may deallocate.
        dlfeat: u8::from(capabilities.discard_zeroes)
            | u8::from(capabilities.write_zeroes && capabilities.discard) << 3,
        atomic_blocks: atomic,
        atomic_blocks_power_fail: atomic,
        atomic_compare_blocks: atomic,
        nvmcap: u128::from(namespace.blocks) << namespace.shift,
        preferred_write_granularity: preferred,
        preferred_write_alignment: preferred,
        preferred_deallocate_granularity: preferred,
        preferred_deallocate_alignment: preferred,
        optimal_write_size: preferred,
        anagrpid: ana_group(subsystem),
        nsattr: nsattr(namespace),
        nguid: namespace.nguid,
        eui64: namespace.eui64,
        format_0: LbaFormat {
            metadata_bytes: 0,
            block_shift: namespace.block_size.shift() as u8,
            relative_performance: 0,
        },
        ..IdentifyNamespace::default()
    }
}

/// NSID FFFFFFFFh (§5.17.2.1): what all namespaces have in common; sizes are 0.
fn identify_all(subsystem: &Subsystem) -> IdentifyNamespace {
    let shift = subsystem
        .active()
        .next()
        .map_or(12, |(_, namespace)| namespace.block_size.shift());
    IdentifyNamespace {
        formats: 1,
        nmic: NMIC_SHARED,
        rescap: RESCAP,
        format_0: LbaFormat {
            metadata_bytes: 0,
            block_shift: shift as u8,
            relative_performance: 0,
        },
        ..IdentifyNamespace::default()
    }
}

fn independent_namespace(subsystem: &Subsystem, namespace: &Namespace) -> IndependentNamespace {
    IndependentNamespace {
        // Bit 5: without a volatile cache of its own, whatever VWC says.
        nsfeat: u8::from(!namespace.capabilities.volatile_cache) << 5,
        nmic: NMIC_SHARED,
        rescap: RESCAP,
        anagrpid: ana_group(subsystem),
        nsattr: nsattr(namespace),
        ready: true,
    }
}

/// NSATTR (NVM Command Set 1.0c §4.1.5.1): bit 0, write protected.
fn nsattr(namespace: &Namespace) -> u8 {
    u8::from(namespace.read_only)
}

fn ana_group(subsystem: &Subsystem) -> u32 {
    if subsystem.ana { ANA_GROUP } else { 0 }
}

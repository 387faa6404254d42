//! Get Log Page (Base 2.0c §5.16).

use std::time::Instant;

use nvme_spec::io::NSID_ALL;
use nvme_spec::log::{
    self, AnaGroup, AnaHeader, AnaState, EFFECT_CONTENT, EFFECT_SUPPORTED, ErrorLogEntry,
    GetLogPage, HealthLog, ReservationNotification, SCOPE_CONTROLLER, SCOPE_NAMESPACE,
};
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::{Sqe, Status, ascii_padded, feature};

use crate::identify::ANA_GROUP;
use crate::limits;
use crate::output::ReplyData;
use crate::qpair::IoStats;
use crate::subsystem::Kind;
use crate::target::Target;

const NVM_PAGES: [u8; 10] = [
    log::SUPPORTED,
    log::ERROR,
    log::HEALTH,
    log::FIRMWARE,
    log::CHANGED_NAMESPACES,
    log::EFFECTS,
    log::ANA,
    log::FEATURE_EFFECTS,
    log::MI_EFFECTS,
    log::RESERVATION_NOTIFICATION,
];
const DISCOVERY_PAGES: [u8; 3] = [log::SUPPORTED, log::ERROR, log::DISCOVERY];

/// Composite temperature reported: 25 °C, since there is no sensor.
const TEMPERATURE_K: u16 = 298;

impl Target {
    pub(crate) fn get_log_page(&mut self, now: Instant, q: u32, sqe: &Sqe) {
        let command = GetLogPage::parse(sqe);
        if let Err(status) = Self::check_reply_buffer(sqe, command.bytes) {
            return self.refuse(q, sqe, status);
        }
        match self.log_page(now, q, sqe, &command) {
            Ok(page) => {
                let index = self.qpairs[q].controller;
                self.reply_slice(q, sqe, &page, command.offset, command.bytes);
                if !command.rae && self.controllers.get(index).is_some() {
                    self.log_page_read(index, command.lid);
                }
            }
            Err(status) => self.refuse(q, sqe, status),
        }
    }

    /// Answers with `bytes` of `page` from `offset` on; past its end there are zeroes (§5.16.1: content is undefined there),
    /// bounded by what one command may transfer.
    pub(crate) fn reply_slice(&mut self, q: u32, sqe: &Sqe, page: &[u8], offset: u64, bytes: u64) {
        if bytes > u64::from(self.config.mdts_bytes) {
            return self.refuse(q, sqe, Status::INVALID_FIELD.dnr());
        }
        // §5.16.1: an offset past the end of the page is an invalid field.
        let Some(tail) = usize::try_from(offset).ok().and_then(|at| page.get(at..)) else {
            return self.refuse(q, sqe, Status::INVALID_FIELD.dnr());
        };
        if self.reply_bytes + bytes as usize > limits::REPLY_BYTES_MAX {
            return self.refuse(q, sqe, Status::COMMAND_INTERRUPTED.with_crd(1));
        }
        let mut out = vec![0; bytes as usize];
        let len = tail.len().min(out.len());
        out[..len].copy_from_slice(&tail[..len]);
        let data = ReplyData::Bytes(out.into_boxed_slice());
        self.answer(q, sqe.cid(), Status::SUCCESS, 0, data);
    }

    /// The page read without "retain asynchronous event" (§5.2): its event is over, and what it listed is told.
    fn log_page_read(&mut self, index: u32, lid: u8) {
        let events = &mut self.controllers[index].events;
        events.clear(lid);
        if lid == log::CHANGED_NAMESPACES {
            events.changed_namespaces.clear();
        }
        if lid == log::RESERVATION_NOTIFICATION {
            events.notifications.pop_front();
            if !events.notifications.is_empty() {
                events.raise(nvme_spec::event::AsyncEvent::RESERVATION_LOG_AVAILABLE);
            }
        }
        self.report_events(index);
    }

    fn log_page(
        &self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        command: &GetLogPage,
    ) -> Result<Vec<u8>, Status> {
        let controller = &self.controllers[self.qpairs[q].controller];
        let supported: &[u8] = match controller.kind {
            Kind::Nvm => &NVM_PAGES,
            Kind::Discovery => &DISCOVERY_PAGES,
        };
        let has_ana = self.subsystems[controller.subsystem].ana;
        if !supported.contains(&command.lid) || command.lid == log::ANA && !has_ana {
            return Err(Status::INVALID_LOG_PAGE.dnr());
        }
        // No page here has an index to start at (§5.16.1.1, IOS); offsets are dword aligned.
        if command.offset_is_index || !command.offset.is_multiple_of(4) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        Ok(match command.lid {
            log::SUPPORTED => {
                let listed: Vec<u8> = supported
                    .iter()
                    .copied()
                    .filter(|lid| *lid != log::ANA || has_ana)
                    .collect();
                log::supported_log_pages(&listed).to_vec()
            }
            log::ERROR => {
                let mut page: Vec<u8> = controller
                    .errors
                    .iter()
                    .flat_map(ErrorLogEntry::emit)
                    .collect();
                page.resize(limits::ERROR_LOG_ENTRIES * ErrorLogEntry::LEN, 0);
                page
            }
            log::HEALTH => {
                // The health of the controller is that of all its namespaces; one alone is not kept (LPA bit 0 is 0).
                if sqe.nsid() != 0 && sqe.nsid() != NSID_ALL {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                self.health(now, q).emit().to_vec()
            }
            log::FIRMWARE => log::firmware_slots(ascii_padded(&self.config.firmware)).to_vec(),
            log::CHANGED_NAMESPACES => nvme_spec::identify::namespace_list(
                controller.events.changed_namespaces.iter().copied(),
            )
            .to_vec(),
            log::EFFECTS => self.effects(controller.subsystem),
            log::ANA => self.ana_page(controller.subsystem, command.lsp),
            // No management interface commands over this controller.
            log::MI_EFFECTS => vec![0; 4096],
            log::FEATURE_EFFECTS => log::feature_effects(&FEATURE_SCOPES).to_vec(),
            log::RESERVATION_NOTIFICATION => {
                let waiting = &controller.events.notifications;
                let mut first = waiting.front().copied().unwrap_or_default();
                first.available = u8::try_from(waiting.len().saturating_sub(1)).unwrap_or(u8::MAX);
                ReservationNotification::emit(&first).to_vec()
            }
            _ => self.discovery_page(
                q,
                command.offset,
                command.offset.saturating_add(command.bytes),
            ),
        })
    }

    fn health(&self, now: Instant, q: u32) -> HealthLog {
        let controller = &self.controllers[self.qpairs[q].controller];
        let mut stats: IoStats = controller.stats;
        for queue in controller.qpairs() {
            stats.add(&self.qpairs[queue].stats);
        }
        let uptime = now.saturating_duration_since(self.started);
        // Thousands of 512-byte units, rounded up (§5.16.1.3).
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000));
        HealthLog {
            temperature_k: TEMPERATURE_K,
            spare_percent: 100,
            data_units_read: units(stats.bytes_read),
            data_units_written: units(stats.bytes_written),
            host_reads: u128::from(stats.reads),
            host_writes: u128::from(stats.writes),
            power_cycles: 1,
            power_on_hours: u128::from(uptime.as_secs() / 3600),
            media_errors: u128::from(stats.media_errors),
            error_log_entries: u128::from(controller.errors.count),
            ..HealthLog::default()
        }
    }

    fn effects(&self, subsystem: u32) -> Vec<u8> {
        let capabilities = self.subsystems[subsystem].common_capabilities();
        let plain = [
            admin::GET_LOG_PAGE,
            admin::IDENTIFY,
            admin::ABORT,
            admin::SET_FEATURES,
            admin::GET_FEATURES,
            admin::ASYNC_EVENT_REQUEST,
            admin::KEEP_ALIVE,
        ]
        .map(|opcode| (opcode, EFFECT_SUPPORTED | SCOPE_CONTROLLER));
        // No scope is reported for I/O commands: Linux warns of any effect but these two (Base 2.0c §5.16.1.6).
        let supported = EFFECT_SUPPORTED;
        let content = supported | EFFECT_CONTENT;
        let mut io = vec![
            (nvm::FLUSH, supported),
            (nvm::WRITE, content),
            (nvm::READ, supported),
            (nvm::RESERVATION_REGISTER, supported),
            (nvm::RESERVATION_REPORT, supported),
            (nvm::RESERVATION_ACQUIRE, supported),
            (nvm::RESERVATION_RELEASE, supported),
        ];
        if capabilities.compare {
            io.push((nvm::COMPARE, supported));
        }
        if capabilities.write_zeroes {
            io.push((nvm::WRITE_ZEROES, content));
        }
        if capabilities.discard {
            io.push((nvm::DATASET_MANAGEMENT, content));
        }
        log::command_effects(&plain, &io).to_vec()
    }

    /// One group, optimized, holding every namespace (§8.1). The change count stays 0: nothing ever changes.
    fn ana_page(&self, subsystem: u32, lsp: u8) -> Vec<u8> {
        let groups_only = lsp & AnaHeader::LSP_GROUPS_ONLY != 0;
        let nsids: Vec<u32> = self.subsystems[subsystem]
            .active()
            .map(|(nsid, _)| nsid)
            .filter(|_| !groups_only)
            .collect();
        let header = AnaHeader {
            change_count: 0,
            groups: 1,
        };
        let group = AnaGroup {
            group: ANA_GROUP,
            namespaces: nsids.len() as u32,
            change_count: 0,
            state: AnaState::Optimized as u8,
        };
        let mut page = Vec::with_capacity(AnaHeader::LEN + AnaGroup::LEN + 4 * nsids.len());
        page.extend_from_slice(&header.emit());
        page.extend_from_slice(&group.emit());
        for nsid in nsids {
            page.extend_from_slice(&nsid.to_le_bytes());
        }
        page
    }
}

const FEATURE_SCOPES: [(u8, u32); 13] = [
    (feature::ARBITRATION, EFFECT_SUPPORTED | SCOPE_CONTROLLER),
    (
        feature::POWER_MANAGEMENT,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (
        feature::TEMPERATURE_THRESHOLD,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (feature::ERROR_RECOVERY, EFFECT_SUPPORTED | SCOPE_NAMESPACE),
    (
        feature::VOLATILE_WRITE_CACHE,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (
        feature::NUMBER_OF_QUEUES,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (
        feature::WRITE_ATOMICITY,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (
        feature::ASYNC_EVENT_CONFIG,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (
        feature::KEEP_ALIVE_TIMER,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (
        feature::HOST_BEHAVIOR_SUPPORT,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (
        feature::HOST_IDENTIFIER,
        EFFECT_SUPPORTED | SCOPE_CONTROLLER,
    ),
    (
        feature::RESERVATION_NOTIFICATION_MASK,
        EFFECT_SUPPORTED | SCOPE_NAMESPACE,
    ),
    (
        feature::RESERVATION_PERSISTENCE,
        EFFECT_SUPPORTED | SCOPE_NAMESPACE,
    ),
];

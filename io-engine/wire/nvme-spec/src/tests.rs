//! `parse(emit(v)) == v` for every structure, with values in every field, and the offsets the standard draws.

use std::vec::Vec;

use crate::discovery::{ADRFAM_IPV6, DiscoveryEntry, DiscoveryHeader, SUBTYPE_NVM};
use crate::event::AsyncEvent;
use crate::fabrics::{
    ConnectCommand, ConnectData, ConnectResult, InvalidParameter, PropertyCommand,
};
use crate::feature::QueueCounts;
use crate::identify::{
    IdentifyCommand, IdentifyController, IdentifyNamespace, IndependentNamespace, LbaFormat,
    NamespaceDescriptors, NvmControllerLimits, PowerState, controller_list, namespace_list,
    parse_namespace_list,
};
use crate::io::{BlockCommand, DatasetManagement, DsmRange};
use crate::log::{
    AnaGroup, AnaHeader, ErrorLogEntry, GetLogPage, HealthLog, ReservationNotification,
};
use crate::register::{Cap, Cc, Csts};
use crate::reservation::{Keys, RegisteredController, ReservationCommand, StatusHeader};
use crate::{Cqe, Sgl, Status, ascii_padded, ascii_trimmed, nqn, opcode, register};

#[test]
fn connect_crosses_the_wire_unchanged() {
    // Base 2.0c §6.3.
    let command = ConnectCommand {
        recfmt: 0,
        qid: 3,
        queue_entries: 128,
        sq_flow_control_disabled: true,
        kato_ms: 15_000,
    };
    let sqe = command.emit(7, Sgl::in_capsule(0, 1024));
    assert_eq!(ConnectCommand::parse(&sqe), command);
    assert_eq!(
        (sqe.opcode(), sqe.fctype(), sqe.cid(), sqe.psdt()),
        (0x7f, 1, 7, 1)
    );
    // SQSIZE is 0's based.
    assert_eq!(sqe.0[44..46], [127, 0]);

    let data = ConnectData::new([9; 16], 0xffff, "nqn.a:sub", "nqn.a:host");
    let raw = data.emit();
    assert_eq!(ConnectData::parse(&raw), data);
    assert_eq!(&raw[256..265], b"nqn.a:sub");
    assert_eq!(data.subnqn(), Some("nqn.a:sub"));
    assert_eq!(data.hostnqn(), Some("nqn.a:host"));
}

#[test]
fn an_invalid_parameter_names_its_place() {
    // Base 2.0c figure 387.
    for place in [
        InvalidParameter::Command(ConnectCommand::SQSIZE_OFFSET),
        InvalidParameter::Data(ConnectData::HOSTNQN_OFFSET),
    ] {
        assert_eq!(InvalidParameter::parse(place.result()), place);
    }
    assert_eq!(InvalidParameter::Data(256).result(), 0x1_0100);
    let done = ConnectResult {
        cntlid: 17,
        auth_required: false,
    };
    assert_eq!(ConnectResult::parse(done.result()), done);
}

#[test]
fn a_name_field_must_end_and_be_text() {
    // Base 2.0c §4.5: 223 bytes at most, NUL terminated.
    let longest: std::string::String = core::iter::repeat_n('x', 223).collect();
    assert_eq!(
        nqn::nqn_text(&nqn::nqn_field(&longest)),
        Some(longest.as_str())
    );
    assert_eq!(nqn::nqn_text(&[b'x'; 256]), None);
    assert_eq!(nqn::nqn_text(&[0; 256]), None);
    let mut control = nqn::nqn_field("nqn.a:b");
    control[2] = 7;
    assert_eq!(nqn::nqn_text(&control), None);
    let mut not_text = nqn::nqn_field("nqn.a:b");
    not_text[2] = 0xff;
    assert_eq!(nqn::nqn_text(&not_text), None);
}

#[test]
fn properties_cross_the_wire_unchanged() {
    // Base 2.0c §6.5, §6.6, §3.1.3.
    let set = PropertyCommand::set(1, register::CC, 4, u64::from(Cc::enable(6).0));
    let parsed = PropertyCommand::parse(&set);
    assert_eq!(
        (parsed.offset, parsed.width, parsed.value),
        (0x14, Some(4), 0x46_0061)
    );
    assert_eq!(
        PropertyCommand::parse(&PropertyCommand::get(1, register::CAP, 8)).width,
        Some(8)
    );
    let cap = Cap {
        queue_entries_max: 128,
        ready_timeout_500ms: 10,
        nvm_command_set: true,
        io_command_sets: true,
        admin_only: false,
        ready_with_media: true,
    };
    assert_eq!(Cap::parse(cap.emit()), cap);
    assert_eq!(cap.emit() & 0xffff, 127);
    let cc = Cc::enable(6).with_shn(1);
    assert_eq!(
        (
            cc.is_enabled(),
            cc.css(),
            cc.shn(),
            cc.iosqes(),
            cc.iocqes()
        ),
        (true, 6, 1, 6, 4)
    );
    let csts = Csts::new(true, false, 2);
    assert_eq!(
        (csts.is_ready(), csts.is_fatal(), csts.shst()),
        (true, false, 2)
    );
}

#[test]
fn identify_structures_cross_the_wire_unchanged() {
    // Base 2.0c figure 275.
    let controller = IdentifyController {
        vid: 1,
        ssvid: 2,
        sn: ascii_padded("DCS1"),
        mn: ascii_padded("model"),
        fr: ascii_padded("0.1.0"),
        rab: 3,
        ieee: [4, 5, 6],
        cmic: 0xb,
        mdts: 8,
        cntlid: 0x1234,
        ver: register::VERSION_2_0,
        oaes: 0x100,
        ctratt: 1,
        cntrltype: 1,
        crdt_100ms: [30, 1, 2],
        oacs: 7,
        abort_commands_max: 4,
        async_event_requests_max: 4,
        frmw: 3,
        lpa: 6,
        error_log_entries: 64,
        wctemp: 343,
        cctemp: 353,
        kas_100ms: 1,
        anatt: 10,
        anacap: 0x41,
        anagrpmax: 1,
        nanagrpid: 1,
        sqes: 0x66,
        cqes: 0x44,
        maxcmd: 128,
        nn: 1024,
        oncs: 0x2d,
        fuses: 1,
        vwc: 7,
        atomic_blocks: 8,
        atomic_blocks_power_fail: 4,
        atomic_compare_blocks: 2,
        sgls: 0x10_0005,
        mnan: 1024,
        subnqn: nqn::nqn_field("nqn.a:b"),
        ioccsz_16b: 516,
        iorcsz_16b: 1,
        icdoff_16b: 0,
        fcatt: 0,
        msdbd: 1,
        ofcs: 1,
        power_state_0: PowerState {
            max_power_10mw: 2500,
        },
    };
    let page = controller.emit();
    assert_eq!(IdentifyController::parse(&page), controller);
    assert_eq!(page[258], 3, "ACL is 0's based");
    assert_eq!(controller.data_bytes_max(), Some(1 << 20));
    assert_eq!(controller.in_capsule_bytes(), 8192);

    // NVM Command Set 1.0c figure 97.
    let namespace = IdentifyNamespace {
        nsze: 100,
        ncap: 99,
        nuse: 98,
        nsfeat: 0x13,
        formats: 1,
        flbas: 0,
        nmic: 1,
        rescap: 0xff,
        dlfeat: 9,
        atomic_blocks: 8,
        atomic_blocks_power_fail: 7,
        atomic_compare_blocks: 6,
        noiob: 256,
        nvmcap: 1 << 70,
        preferred_write_granularity: 8,
        preferred_write_alignment: 9,
        preferred_deallocate_granularity: 10,
        preferred_deallocate_alignment: 11,
        optimal_write_size: 12,
        anagrpid: 1,
        nsattr: 1,
        nguid: [7; 16],
        eui64: [8; 8],
        format_0: LbaFormat {
            metadata_bytes: 0,
            block_shift: 12,
            relative_performance: 1,
        },
    };
    let page = namespace.emit();
    assert_eq!(IdentifyNamespace::parse(&page), namespace);
    assert_eq!(IdentifyNamespace::format_in_use(&page), namespace.format_0);
    assert_eq!((page[34], page[64]), (7, 7), "NAWUN and NPWG are 0's based");

    let independent = IndependentNamespace {
        nsfeat: 8,
        nmic: 1,
        rescap: 0xff,
        anagrpid: 1,
        nsattr: 0,
        ready: true,
    };
    assert_eq!(
        IndependentNamespace::parse(&independent.emit()),
        independent
    );
    let limits = NvmControllerLimits {
        vsl: 1,
        wzsl: 2,
        wusl: 3,
        dmrl: 4,
        dmrsl: 5,
        dmsl: 6,
    };
    assert_eq!(NvmControllerLimits::parse(&limits.emit()), limits);
    let command = IdentifyCommand {
        cns: 0x13,
        cntid: 5,
        csi: 2,
    };
    assert_eq!(IdentifyCommand::parse(&command.emit(1, 2)), command);
}

#[test]
fn lists_and_descriptors_cross_the_wire_unchanged() {
    // Base 2.0c §4.4, §5.17.2.3.
    let page = namespace_list([1, 5, 9].into_iter());
    assert_eq!(
        parse_namespace_list(&page).collect::<Vec<_>>(),
        std::vec![1, 5, 9]
    );
    assert_eq!(
        parse_namespace_list(&namespace_list(1..=5000)).count(),
        1024
    );
    let page = controller_list([3, 4].into_iter());
    assert_eq!(page[..6], [2, 0, 3, 0, 4, 0]);
    assert_eq!(controller_list(1..=5000)[..2], 2047u16.to_le_bytes());

    let ids = NamespaceDescriptors {
        eui64: [1; 8],
        nguid: [2; 16],
        uuid: [3; 16],
        csi: 0,
    };
    assert_eq!(NamespaceDescriptors::parse(&ids.emit()), ids);
    let mut hostile = [0xff; 4096];
    hostile[0] = 9;
    NamespaceDescriptors::parse(&hostile);
}

#[test]
fn log_pages_cross_the_wire_unchanged() {
    // Base 2.0c §5.16.
    let command = GetLogPage {
        lid: 0x70,
        lsp: 1,
        rae: true,
        bytes: 1 << 20,
        offset: 1 << 33,
        offset_is_index: false,
        csi: 0,
    };
    assert_eq!(GetLogPage::parse(&command.emit(1, 0)), command);
    let entry = ErrorLogEntry {
        error_count: 9,
        sqid: 1,
        cid: 2,
        status: Status::INVALID_FIELD.dnr(),
        parameter_location: 0xffff,
        lba: 5,
        nsid: 1,
        trtype: 3,
    };
    assert_eq!(ErrorLogEntry::parse(&entry.emit()), entry);
    let health = HealthLog {
        critical_warning: 1,
        temperature_k: 300,
        spare_percent: 100,
        spare_threshold_percent: 10,
        used_percent: 1,
        data_units_read: 2,
        data_units_written: 3,
        host_reads: 4,
        host_writes: 5,
        power_cycles: 6,
        power_on_hours: 7,
        media_errors: 8,
        error_log_entries: 9,
    };
    assert_eq!(HealthLog::parse(&health.emit()), health);
    let header = AnaHeader {
        change_count: 3,
        groups: 1,
    };
    assert_eq!(AnaHeader::parse(&header.emit()), header);
    let group = AnaGroup {
        group: 1,
        namespaces: 2,
        change_count: 3,
        state: 0xf,
    };
    assert_eq!(AnaGroup::parse(&group.emit()), group);
    let notification = ReservationNotification {
        count: 1,
        kind: 3,
        available: 2,
        nsid: 4,
    };
    assert_eq!(
        ReservationNotification::parse(&notification.emit()),
        notification
    );
}

#[test]
fn discovery_crosses_the_wire_unchanged() {
    // Base 2.0c figures 263, 264.
    let header = DiscoveryHeader {
        generation: 4,
        records: 2,
        record_format: 0,
    };
    assert_eq!(DiscoveryHeader::parse(&header.emit()), header);
    let entry = DiscoveryEntry {
        portid: 1,
        cntlid: 2,
        eflags: 3,
        sectype: 2,
        ..DiscoveryEntry::tcp(ADRFAM_IPV6, SUBTYPE_NVM, "nqn.a:b", "2001:db8::1", "8420")
    };
    let parsed = DiscoveryEntry::parse(&entry.emit());
    assert_eq!(parsed, entry);
    assert_eq!(
        (parsed.subnqn(), parsed.traddr(), parsed.trsvcid()),
        (Some("nqn.a:b"), Some("2001:db8::1"), Some("8420"))
    );
    assert_eq!(ascii_trimmed(&[0xff, b' ']), None);
}

#[test]
fn io_commands_cross_the_wire_unchanged() {
    // NVM Command Set 1.0c §3.2.
    let command = BlockCommand {
        slba: 1 << 40,
        blocks: 65536,
        fua: true,
        limited_retry: true,
        prinfo: 0xf,
        deallocate: true,
        storage_tag_check: true,
        directive: 2,
    };
    let sqe = command.emit(opcode::nvm::WRITE, 1, 2, Sgl::transport(4096));
    assert_eq!(BlockCommand::parse(&sqe), command);
    assert_eq!(sqe.dword(12) & 0xffff, 0xffff);
    let dsm = DatasetManagement {
        ranges: 256,
        deallocate: true,
    };
    assert_eq!(
        DatasetManagement::parse(&dsm.emit(1, 1, Sgl::transport(4096))),
        dsm
    );
    let range = DsmRange {
        attributes: 1,
        blocks: 2,
        slba: 3,
    };
    assert_eq!(DsmRange::parse(&range.emit()), range);
    let cqe = Cqe {
        result: 1 << 40,
        sqhd: 2,
        sqid: 0,
        cid: 3,
        status: Status::RESERVATION_CONFLICT.dnr(),
    };
    assert_eq!(Cqe::from_bytes(&cqe.to_bytes()), cqe);
}

#[test]
fn reservation_structures_cross_the_wire_unchanged() {
    // Base 2.0c §7.2 to §7.5.
    let command = ReservationCommand {
        action: 2,
        ignore_existing_key: true,
        rtype: 6,
        cptpl: 3,
    };
    let mut sqe = crate::Sqe::new(opcode::nvm::RESERVATION_REGISTER, 1, 1);
    sqe.set_dword(10, command.emit());
    assert_eq!(ReservationCommand::parse(&sqe), command);
    let keys = Keys {
        current: 1,
        other: 2,
    };
    assert_eq!(Keys::parse(&keys.emit()), Some(keys));
    assert_eq!(
        Keys::parse(&keys.emit()[..8]),
        Some(Keys { other: 0, ..keys })
    );
    assert_eq!(Keys::parse(&[0; 7]), None);
    let header = StatusHeader {
        generation: 1,
        rtype: 2,
        registered: 3,
        ptpl: true,
    };
    assert_eq!(StatusHeader::parse(&header.emit()), header);
    let mut entry = RegisteredController {
        cntlid: 1,
        holder: true,
        host_id: [0; 16],
        key: 2,
    };
    entry.host_id[..8].copy_from_slice(&[5; 8]);
    assert_eq!(RegisteredController::parse(&entry.emit()), entry);
    entry.host_id = [6; 16];
    assert_eq!(
        RegisteredController::parse_extended(&entry.emit_extended()),
        entry
    );
}

#[test]
fn events_and_queue_counts_cross_the_wire_unchanged() {
    // Base 2.0c §5.2, §5.27.1.5.
    for event in [
        AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED,
        AsyncEvent::ANA_CHANGED,
        AsyncEvent::DISCOVERY_CHANGED,
        AsyncEvent::RESERVATION_LOG_AVAILABLE,
    ] {
        assert_eq!(AsyncEvent::parse(event.result()), event);
    }
    assert_eq!(AsyncEvent::DISCOVERY_CHANGED.result(), 0x70_f002);
    let counts = QueueCounts {
        submission: 32,
        completion: 16,
    };
    assert_eq!(QueueCounts::parse(counts.emit()), counts);
}

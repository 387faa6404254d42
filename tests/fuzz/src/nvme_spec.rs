//! Every parser of `nvme-spec` on arbitrary bytes.
//!
//! Oracle: no panic; what is emitted again parses to the same value.

use nvme_spec::discovery::{DiscoveryEntry, DiscoveryHeader};
use nvme_spec::event::AsyncEvent;
use nvme_spec::fabrics::{
    ConnectCommand, ConnectData, ConnectResult, InvalidParameter, PropertyCommand,
    disconnect_recfmt,
};
use nvme_spec::feature::{FeatureCommand, QueueCounts};
use nvme_spec::identify::{
    self, IdentifyCommand, IdentifyController, IdentifyNamespace, IndependentNamespace,
    NamespaceDescriptors, NvmControllerLimits,
};
use nvme_spec::io::{BlockCommand, DatasetManagement, DsmRange};
use nvme_spec::log::{
    AnaGroup, AnaHeader, AnaState, ErrorLogEntry, GetLogPage, HealthLog, ReservationNotification,
};
use nvme_spec::register::{Cap, Cc, Csts};
use nvme_spec::reservation::{Keys, RegisteredController, ReservationCommand, StatusHeader};
use nvme_spec::{Cqe, Sqe};

/// The first `N` bytes of `data`, zeroes where it is shorter.
fn padded<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let len = data.len().min(N);
    out[..len].copy_from_slice(&data[..len]);
    out
}

macro_rules! round_trip {
    ($data:expr, $($kind:ty: $parse:ident / $emit:ident),+ $(,)?) => {
        $({
            let value = <$kind>::$parse(&padded($data));
            let raw = value.$emit();
            assert_eq!(<$kind>::$parse(&raw), value, stringify!($kind));
        })+
    };
}

fn commands(sqe: &Sqe) {
    let connect = ConnectCommand::parse(sqe);
    assert_eq!(ConnectCommand::parse(&connect.emit(1, sqe.sgl())), connect);
    let block = BlockCommand::parse(sqe);
    assert_eq!(
        BlockCommand::parse(&block.emit(sqe.opcode(), 1, sqe.nsid(), sqe.sgl())),
        block
    );
    let dsm = DatasetManagement::parse(sqe);
    assert_eq!(
        DatasetManagement::parse(&dsm.emit(1, sqe.nsid(), sqe.sgl())),
        dsm
    );
    let log = GetLogPage::parse(sqe);
    assert_eq!(GetLogPage::parse(&log.emit(1, sqe.nsid())), log);
    let identify = IdentifyCommand::parse(sqe);
    assert_eq!(
        IdentifyCommand::parse(&identify.emit(1, sqe.nsid())),
        identify
    );
    let reservation = ReservationCommand::parse(sqe);
    let mut again = *sqe;
    again.set_dword(10, reservation.emit());
    assert_eq!(ReservationCommand::parse(&again), reservation);
    PropertyCommand::parse(sqe);
    FeatureCommand::parse(sqe);
    disconnect_recfmt(sqe);
    let counts = QueueCounts::parse(sqe.dword(11));
    assert_eq!(counts.emit(), sqe.dword(11));
    let _ = format!("{sqe:?}");
}

/// Runs one input.
///
/// # Panics
/// When the oracle is broken.
pub fn run(data: &[u8]) {
    commands(&Sqe(padded(data)));
    round_trip!(
        data,
        ConnectData: parse / emit,
        IdentifyController: parse / emit,
        IndependentNamespace: parse / emit,
        NvmControllerLimits: parse / emit,
        NamespaceDescriptors: parse / emit,
        DiscoveryHeader: parse / emit,
        DiscoveryEntry: parse / emit,
        DsmRange: parse / emit,
        ErrorLogEntry: parse / emit,
        HealthLog: parse / emit,
        AnaHeader: parse / emit,
        AnaGroup: parse / emit,
        ReservationNotification: parse / emit,
        StatusHeader: parse / emit,
        RegisteredController: parse_extended / emit_extended,
        RegisteredController: parse / emit,
        Cqe: from_bytes / to_bytes,
    );
    let page = padded(data);
    let namespace = IdentifyNamespace::parse(&page);
    let again = IdentifyNamespace::parse(&namespace.emit());
    // The count of formats saturates; all else comes back.
    assert_eq!(again.nsze, namespace.nsze);
    assert_eq!(again.format_0, namespace.format_0);
    IdentifyNamespace::format_in_use(&page);
    assert!(identify::parse_namespace_list(&page).count() <= 1024);
    let controller = IdentifyController::parse(&page);
    let _ = (
        controller.subnqn(),
        controller.data_bytes_max(),
        controller.in_capsule_bytes(),
    );
    let connect = ConnectData::parse(&padded(data));
    let _ = (connect.subnqn(), connect.hostnqn());
    let entry = DiscoveryEntry::parse(&padded(data));
    let _ = (entry.subnqn(), entry.traddr(), entry.trsvcid());
    let word = u64::from_le_bytes(padded(data));
    assert_eq!(Cap::parse(Cap::parse(word).emit()), Cap::parse(word));
    assert_eq!(
        ConnectResult::parse(ConnectResult::parse(word).result()),
        ConnectResult::parse(word)
    );
    assert_eq!(
        InvalidParameter::parse(InvalidParameter::parse(word).result()),
        InvalidParameter::parse(word)
    );
    assert_eq!(
        AsyncEvent::parse(AsyncEvent::parse(word).result()),
        AsyncEvent::parse(word)
    );
    let (cc, csts) = (Cc(word as u32), Csts(word as u32));
    let _ = (
        cc.css(),
        cc.shn(),
        cc.with_shn(3),
        csts.shst(),
        AnaState::from_code(word as u8),
    );
    if let Some(keys) = Keys::parse(data) {
        assert_eq!(Keys::parse(&keys.emit()), Some(keys));
    }
}

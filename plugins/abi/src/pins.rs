//! Sizes, offsets and hashes of the contract. Generated from the other files by `tests/generated`; a change here is a
//! change of the contract.

use core::mem::offset_of;

use crate::*;

/// Number of the stamp of [`IoePlugin`].
pub const IOE_TABLE_PLUGIN: u32 = 1;
/// Number of the stamp of [`IoeEngineTable`].
pub const IOE_TABLE_ENGINE: u32 = 2;
/// Number of the stamp of [`IoeHostTable`].
pub const IOE_TABLE_HOST: u32 = 3;
/// Number of the stamp of [`IoeDriverTable`].
pub const IOE_TABLE_DRIVER: u32 = 4;
/// Number of the stamp of [`IoeDeviceTable`].
pub const IOE_TABLE_DEVICE: u32 = 5;
/// Number of the stamp of [`IoeQueueTable`].
pub const IOE_TABLE_QUEUE: u32 = 6;
/// Number of the stamp of [`IoeFabricDriverTable`].
pub const IOE_TABLE_FABRIC_DRIVER: u32 = 7;
/// Number of the stamp of [`IoeFabricTable`].
pub const IOE_TABLE_FABRIC: u32 = 8;
/// Number of the stamp of [`IoeExportDriverTable`].
pub const IOE_TABLE_EXPORT_DRIVER: u32 = 9;
/// Number of the stamp of [`IoeExportServerTable`].
pub const IOE_TABLE_EXPORT_SERVER: u32 = 10;
/// Number of the stamp of [`IoeExportTable`].
pub const IOE_TABLE_EXPORT: u32 = 11;
/// Number of the stamp of [`IoePoolDriverTable`].
pub const IOE_TABLE_POOL_DRIVER: u32 = 12;
/// Number of the stamp of [`IoePoolTable`].
pub const IOE_TABLE_POOL: u32 = 13;

/// What the tables look like, for the descriptor.
pub const IOE_STAMPS: [IoeStamp; 13] = [
    IoeStamp {
        table: 1,
        size: 56,
        hash: 0x2ab4_478a_7796_985d,
        base_size: 56,
        reserved: 0,
        base_hash: 0x2ab4_478a_7796_985d,
    },
    IoeStamp {
        table: 2,
        size: 88,
        hash: 0x5e9e_4bc8_caa1_0f5e,
        base_size: 72,
        reserved: 0,
        base_hash: 0x742b_6d18_4e1f_fa3a,
    },
    IoeStamp {
        table: 3,
        size: 144,
        hash: 0x6285_aa7f_7f35_b3cf,
        base_size: 144,
        reserved: 0,
        base_hash: 0x6285_aa7f_7f35_b3cf,
    },
    IoeStamp {
        table: 4,
        size: 32,
        hash: 0xe4b6_9a69_40e3_2ab8,
        base_size: 32,
        reserved: 0,
        base_hash: 0xe4b6_9a69_40e3_2ab8,
    },
    IoeStamp {
        table: 5,
        size: 88,
        hash: 0x3226_4b27_1030_4720,
        base_size: 88,
        reserved: 0,
        base_hash: 0x3226_4b27_1030_4720,
    },
    IoeStamp {
        table: 6,
        size: 96,
        hash: 0x84ef_5aeb_8b5c_8f52,
        base_size: 96,
        reserved: 0,
        base_hash: 0x84ef_5aeb_8b5c_8f52,
    },
    IoeStamp {
        table: 7,
        size: 32,
        hash: 0x8a34_67af_024f_b848,
        base_size: 32,
        reserved: 0,
        base_hash: 0x8a34_67af_024f_b848,
    },
    IoeStamp {
        table: 8,
        size: 128,
        hash: 0x790c_d2b7_fe22_cf78,
        base_size: 128,
        reserved: 0,
        base_hash: 0x790c_d2b7_fe22_cf78,
    },
    IoeStamp {
        table: 9,
        size: 32,
        hash: 0x54e9_6919_900c_82ec,
        base_size: 32,
        reserved: 0,
        base_hash: 0x54e9_6919_900c_82ec,
    },
    IoeStamp {
        table: 10,
        size: 32,
        hash: 0x7b35_b048_a516_782e,
        base_size: 32,
        reserved: 0,
        base_hash: 0x7b35_b048_a516_782e,
    },
    IoeStamp {
        table: 11,
        size: 144,
        hash: 0x0ba8_832f_a5de_0d8c,
        base_size: 144,
        reserved: 0,
        base_hash: 0x0ba8_832f_a5de_0d8c,
    },
    IoeStamp {
        table: 12,
        size: 32,
        hash: 0xf184_6d15_6d02_c385,
        base_size: 32,
        reserved: 0,
        base_hash: 0xf184_6d15_6d02_c385,
    },
    IoeStamp {
        table: 13,
        size: 96,
        hash: 0x68c7_3548_e136_3bfc,
        base_size: 96,
        reserved: 0,
        base_hash: 0x68c7_3548_e136_3bfc,
    },
];

const _: () = assert!(size_of::<IoeStamp>() == 32);
const _: () = assert!(offset_of!(IoeStamp, table) == 0);
const _: () = assert!(offset_of!(IoeStamp, size) == 4);
const _: () = assert!(offset_of!(IoeStamp, hash) == 8);
const _: () = assert!(offset_of!(IoeStamp, base_size) == 16);
const _: () = assert!(offset_of!(IoeStamp, reserved) == 20);
const _: () = assert!(offset_of!(IoeStamp, base_hash) == 24);
const _: () = assert!(size_of::<IoeDescriptor>() == 1056);
const _: () = assert!(offset_of!(IoeDescriptor, magic) == 0);
const _: () = assert!(offset_of!(IoeDescriptor, size) == 8);
const _: () = assert!(offset_of!(IoeDescriptor, abi_major) == 12);
const _: () = assert!(offset_of!(IoeDescriptor, abi_minor) == 14);
const _: () = assert!(offset_of!(IoeDescriptor, needs_minor) == 16);
const _: () = assert!(offset_of!(IoeDescriptor, stamp_count) == 18);
const _: () = assert!(offset_of!(IoeDescriptor, kinds) == 20);
const _: () = assert!(offset_of!(IoeDescriptor, flags) == 24);
const _: () = assert!(offset_of!(IoeDescriptor, reserved) == 28);
const _: () = assert!(offset_of!(IoeDescriptor, name) == 32);
const _: () = assert!(offset_of!(IoeDescriptor, version) == 64);
const _: () = assert!(offset_of!(IoeDescriptor, vendor) == 96);
const _: () = assert!(offset_of!(IoeDescriptor, serves) == 160);
const _: () = assert!(offset_of!(IoeDescriptor, stamps) == 288);
const _: () = assert!(size_of::<IoeNote>() == 1080);
const _: () = assert!(offset_of!(IoeNote, name_size) == 0);
const _: () = assert!(offset_of!(IoeNote, descriptor_size) == 4);
const _: () = assert!(offset_of!(IoeNote, kind) == 8);
const _: () = assert!(offset_of!(IoeNote, name) == 12);
const _: () = assert!(offset_of!(IoeNote, descriptor) == 24);
const _: () = assert!(size_of::<IoeDriver>() == 16);
const _: () = assert!(offset_of!(IoeDriver, table) == 0);
const _: () = assert!(offset_of!(IoeDriver, context) == 8);
const _: () = assert!(size_of::<IoeDriverTable>() == 32);
const _: () = assert!(offset_of!(IoeDriverTable, size) == 0);
const _: () = assert!(offset_of!(IoeDriverTable, version) == 4);
const _: () = assert!(offset_of!(IoeDriverTable, schemes) == 8);
const _: () = assert!(offset_of!(IoeDriverTable, open) == 16);
const _: () = assert!(offset_of!(IoeDriverTable, check) == 24);
const _: () = assert!(size_of::<IoeDevice>() == 16);
const _: () = assert!(offset_of!(IoeDevice, table) == 0);
const _: () = assert!(offset_of!(IoeDevice, context) == 8);
const _: () = assert!(size_of::<IoeDeviceTable>() == 88);
const _: () = assert!(offset_of!(IoeDeviceTable, size) == 0);
const _: () = assert!(offset_of!(IoeDeviceTable, version) == 4);
const _: () = assert!(offset_of!(IoeDeviceTable, name) == 8);
const _: () = assert!(offset_of!(IoeDeviceTable, product) == 16);
const _: () = assert!(offset_of!(IoeDeviceTable, geometry) == 24);
const _: () = assert!(offset_of!(IoeDeviceTable, capabilities) == 32);
const _: () = assert!(offset_of!(IoeDeviceTable, uuid) == 40);
const _: () = assert!(offset_of!(IoeDeviceTable, queue_open) == 48);
const _: () = assert!(offset_of!(IoeDeviceTable, resize) == 56);
const _: () = assert!(offset_of!(IoeDeviceTable, command) == 64);
const _: () = assert!(offset_of!(IoeDeviceTable, warning) == 72);
const _: () = assert!(offset_of!(IoeDeviceTable, close) == 80);
const _: () = assert!(size_of::<IoeQueue>() == 16);
const _: () = assert!(offset_of!(IoeQueue, table) == 0);
const _: () = assert!(offset_of!(IoeQueue, context) == 8);
const _: () = assert!(size_of::<IoeQueueTable>() == 96);
const _: () = assert!(offset_of!(IoeQueueTable, size) == 0);
const _: () = assert!(offset_of!(IoeQueueTable, version) == 4);
const _: () = assert!(offset_of!(IoeQueueTable, start) == 8);
const _: () = assert!(offset_of!(IoeQueueTable, submit) == 16);
const _: () = assert!(offset_of!(IoeQueueTable, poll) == 24);
const _: () = assert!(offset_of!(IoeQueueTable, file_done) == 32);
const _: () = assert!(offset_of!(IoeQueueTable, timer) == 40);
const _: () = assert!(offset_of!(IoeQueueTable, wake) == 48);
const _: () = assert!(offset_of!(IoeQueueTable, turn) == 56);
const _: () = assert!(offset_of!(IoeQueueTable, extents) == 64);
const _: () = assert!(offset_of!(IoeQueueTable, set_geometry) == 72);
const _: () = assert!(offset_of!(IoeQueueTable, close) == 80);
const _: () = assert!(offset_of!(IoeQueueTable, drop) == 88);
const _: () = assert!(size_of::<IoeExportDriver>() == 16);
const _: () = assert!(offset_of!(IoeExportDriver, table) == 0);
const _: () = assert!(offset_of!(IoeExportDriver, context) == 8);
const _: () = assert!(size_of::<IoeExportDriverTable>() == 32);
const _: () = assert!(offset_of!(IoeExportDriverTable, size) == 0);
const _: () = assert!(offset_of!(IoeExportDriverTable, version) == 4);
const _: () = assert!(offset_of!(IoeExportDriverTable, protocol) == 8);
const _: () = assert!(offset_of!(IoeExportDriverTable, open) == 16);
const _: () = assert!(offset_of!(IoeExportDriverTable, parcel_drop) == 24);
const _: () = assert!(size_of::<IoeExportSettings>() == 32);
const _: () = assert!(offset_of!(IoeExportSettings, size) == 0);
const _: () = assert!(offset_of!(IoeExportSettings, listen_count) == 4);
const _: () = assert!(offset_of!(IoeExportSettings, listen) == 8);
const _: () = assert!(offset_of!(IoeExportSettings, connections_max) == 16);
const _: () = assert!(offset_of!(IoeExportSettings, transfer_bytes_max) == 20);
const _: () = assert!(offset_of!(IoeExportSettings, requests_max) == 24);
const _: () = assert!(offset_of!(IoeExportSettings, handshake_timeout_ms) == 28);
const _: () = assert!(size_of::<IoeExportServer>() == 16);
const _: () = assert!(offset_of!(IoeExportServer, table) == 0);
const _: () = assert!(offset_of!(IoeExportServer, context) == 8);
const _: () = assert!(size_of::<IoeExportServerTable>() == 32);
const _: () = assert!(offset_of!(IoeExportServerTable, size) == 0);
const _: () = assert!(offset_of!(IoeExportServerTable, version) == 4);
const _: () = assert!(offset_of!(IoeExportServerTable, uri) == 8);
const _: () = assert!(offset_of!(IoeExportServerTable, seat_open) == 16);
const _: () = assert!(offset_of!(IoeExportServerTable, close) == 24);
const _: () = assert!(size_of::<IoeExport>() == 16);
const _: () = assert!(offset_of!(IoeExport, table) == 0);
const _: () = assert!(offset_of!(IoeExport, context) == 8);
const _: () = assert!(size_of::<IoeVolume>() == 88);
const _: () = assert!(offset_of!(IoeVolume, size) == 0);
const _: () = assert!(offset_of!(IoeVolume, flags) == 4);
const _: () = assert!(offset_of!(IoeVolume, id) == 8);
const _: () = assert!(offset_of!(IoeVolume, name) == 16);
const _: () = assert!(offset_of!(IoeVolume, description) == 32);
const _: () = assert!(offset_of!(IoeVolume, geometry) == 48);
const _: () = assert!(offset_of!(IoeVolume, capabilities) == 64);
const _: () = assert!(size_of::<IoeExportEvent>() == 144);
const _: () = assert!(offset_of!(IoeExportEvent, size) == 0);
const _: () = assert!(offset_of!(IoeExportEvent, kind) == 4);
const _: () = assert!(offset_of!(IoeExportEvent, conn) == 8);
const _: () = assert!(offset_of!(IoeExportEvent, volume) == 16);
const _: () = assert!(offset_of!(IoeExportEvent, op) == 24);
const _: () = assert!(offset_of!(IoeExportEvent, peer) == 96);
const _: () = assert!(offset_of!(IoeExportEvent, reason) == 128);
const _: () = assert!(size_of::<IoeExportTable>() == 144);
const _: () = assert!(offset_of!(IoeExportTable, size) == 0);
const _: () = assert!(offset_of!(IoeExportTable, version) == 4);
const _: () = assert!(offset_of!(IoeExportTable, start) == 8);
const _: () = assert!(offset_of!(IoeExportTable, add_volume) == 16);
const _: () = assert!(offset_of!(IoeExportTable, remove_volume) == 24);
const _: () = assert!(offset_of!(IoeExportTable, set_geometry) == 32);
const _: () = assert!(offset_of!(IoeExportTable, accepted) == 40);
const _: () = assert!(offset_of!(IoeExportTable, readable) == 48);
const _: () = assert!(offset_of!(IoeExportTable, writable) == 56);
const _: () = assert!(offset_of!(IoeExportTable, io_done) == 64);
const _: () = assert!(offset_of!(IoeExportTable, extents_done) == 72);
const _: () = assert!(offset_of!(IoeExportTable, timer) == 80);
const _: () = assert!(offset_of!(IoeExportTable, event) == 88);
const _: () = assert!(offset_of!(IoeExportTable, flush) == 96);
const _: () = assert!(offset_of!(IoeExportTable, detach) == 104);
const _: () = assert!(offset_of!(IoeExportTable, attach) == 112);
const _: () = assert!(offset_of!(IoeExportTable, connections) == 120);
const _: () = assert!(offset_of!(IoeExportTable, close) == 128);
const _: () = assert!(offset_of!(IoeExportTable, drop) == 136);
const _: () = assert!(size_of::<IoeFabricDriver>() == 16);
const _: () = assert!(offset_of!(IoeFabricDriver, table) == 0);
const _: () = assert!(offset_of!(IoeFabricDriver, context) == 8);
const _: () = assert!(size_of::<IoeFabricDriverTable>() == 32);
const _: () = assert!(offset_of!(IoeFabricDriverTable, size) == 0);
const _: () = assert!(offset_of!(IoeFabricDriverTable, version) == 4);
const _: () = assert!(offset_of!(IoeFabricDriverTable, name) == 8);
const _: () = assert!(offset_of!(IoeFabricDriverTable, open) == 16);
const _: () = assert!(offset_of!(IoeFabricDriverTable, parcel_drop) == 24);
const _: () = assert!(size_of::<IoeFabricSettings>() == 32);
const _: () = assert!(offset_of!(IoeFabricSettings, size) == 0);
const _: () = assert!(offset_of!(IoeFabricSettings, flags) == 4);
const _: () = assert!(offset_of!(IoeFabricSettings, connections_max) == 8);
const _: () = assert!(offset_of!(IoeFabricSettings, in_capsule_bytes) == 12);
const _: () = assert!(offset_of!(IoeFabricSettings, transfer_bytes_max) == 16);
const _: () = assert!(offset_of!(IoeFabricSettings, queue_depth) == 20);
const _: () = assert!(offset_of!(IoeFabricSettings, handshake_timeout_ms) == 24);
const _: () = assert!(offset_of!(IoeFabricSettings, progress_timeout_ms) == 28);
const _: () = assert!(size_of::<IoeFabric>() == 16);
const _: () = assert!(offset_of!(IoeFabric, table) == 0);
const _: () = assert!(offset_of!(IoeFabric, context) == 8);
const _: () = assert!(size_of::<IoeFabricEvent>() == 208);
const _: () = assert!(offset_of!(IoeFabricEvent, size) == 0);
const _: () = assert!(offset_of!(IoeFabricEvent, kind) == 4);
const _: () = assert!(offset_of!(IoeFabricEvent, flags) == 8);
const _: () = assert!(offset_of!(IoeFabricEvent, reserved) == 12);
const _: () = assert!(offset_of!(IoeFabricEvent, conn) == 16);
const _: () = assert!(offset_of!(IoeFabricEvent, token) == 24);
const _: () = assert!(offset_of!(IoeFabricEvent, sqe) == 32);
const _: () = assert!(offset_of!(IoeFabricEvent, data) == 96);
const _: () = assert!(offset_of!(IoeFabricEvent, local) == 128);
const _: () = assert!(offset_of!(IoeFabricEvent, peer) == 160);
const _: () = assert!(offset_of!(IoeFabricEvent, reason) == 192);
const _: () = assert!(size_of::<IoeFabricAnswer>() == 72);
const _: () = assert!(offset_of!(IoeFabricAnswer, size) == 0);
const _: () = assert!(offset_of!(IoeFabricAnswer, flags) == 4);
const _: () = assert!(offset_of!(IoeFabricAnswer, cqe) == 8);
const _: () = assert!(offset_of!(IoeFabricAnswer, data) == 24);
const _: () = assert!(offset_of!(IoeFabricAnswer, segments) == 56);
const _: () = assert!(offset_of!(IoeFabricAnswer, segment_count) == 64);
const _: () = assert!(offset_of!(IoeFabricAnswer, reserved) == 68);
const _: () = assert!(size_of::<IoeAttached>() == 72);
const _: () = assert!(offset_of!(IoeAttached, conn) == 0);
const _: () = assert!(offset_of!(IoeAttached, local) == 8);
const _: () = assert!(offset_of!(IoeAttached, peer) == 40);
const _: () = assert!(size_of::<IoeFabricTable>() == 128);
const _: () = assert!(offset_of!(IoeFabricTable, size) == 0);
const _: () = assert!(offset_of!(IoeFabricTable, version) == 4);
const _: () = assert!(offset_of!(IoeFabricTable, accepted) == 8);
const _: () = assert!(offset_of!(IoeFabricTable, readable) == 16);
const _: () = assert!(offset_of!(IoeFabricTable, writable) == 24);
const _: () = assert!(offset_of!(IoeFabricTable, timer) == 32);
const _: () = assert!(offset_of!(IoeFabricTable, events) == 40);
const _: () = assert!(offset_of!(IoeFabricTable, fetch) == 48);
const _: () = assert!(offset_of!(IoeFabricTable, respond) == 56);
const _: () = assert!(offset_of!(IoeFabricTable, forget) == 64);
const _: () = assert!(offset_of!(IoeFabricTable, flush) == 72);
const _: () = assert!(offset_of!(IoeFabricTable, sent) == 80);
const _: () = assert!(offset_of!(IoeFabricTable, close) == 88);
const _: () = assert!(offset_of!(IoeFabricTable, detach) == 96);
const _: () = assert!(offset_of!(IoeFabricTable, attach) == 104);
const _: () = assert!(offset_of!(IoeFabricTable, connections) == 112);
const _: () = assert!(offset_of!(IoeFabricTable, drop) == 120);
const _: () = assert!(size_of::<IoeEngine>() == 16);
const _: () = assert!(offset_of!(IoeEngine, table) == 0);
const _: () = assert!(offset_of!(IoeEngine, context) == 8);
const _: () = assert!(size_of::<IoeEngineTable>() == 88);
const _: () = assert!(offset_of!(IoeEngineTable, size) == 0);
const _: () = assert!(offset_of!(IoeEngineTable, version) == 4);
const _: () = assert!(offset_of!(IoeEngineTable, now_ns) == 8);
const _: () = assert!(offset_of!(IoeEngineTable, log) == 16);
const _: () = assert!(offset_of!(IoeEngineTable, count) == 24);
const _: () = assert!(offset_of!(IoeEngineTable, load) == 32);
const _: () = assert!(offset_of!(IoeEngineTable, store) == 40);
const _: () = assert!(offset_of!(IoeEngineTable, open_device) == 48);
const _: () = assert!(offset_of!(IoeEngineTable, wake) == 56);
const _: () = assert!(offset_of!(IoeEngineTable, complete_from_any_thread) == 64);
const _: () = assert!(offset_of!(IoeEngineTable, memory_take) == 72);
const _: () = assert!(offset_of!(IoeEngineTable, memory_give) == 80);
const _: () = assert!(size_of::<IoeHost>() == 16);
const _: () = assert!(offset_of!(IoeHost, table) == 0);
const _: () = assert!(offset_of!(IoeHost, context) == 8);
const _: () = assert!(size_of::<IoeHostTable>() == 144);
const _: () = assert!(offset_of!(IoeHostTable, size) == 0);
const _: () = assert!(offset_of!(IoeHostTable, version) == 4);
const _: () = assert!(offset_of!(IoeHostTable, now_ns) == 8);
const _: () = assert!(offset_of!(IoeHostTable, alloc) == 16);
const _: () = assert!(offset_of!(IoeHostTable, complete) == 24);
const _: () = assert!(offset_of!(IoeHostTable, file_adopt) == 32);
const _: () = assert!(offset_of!(IoeHostTable, file_close) == 40);
const _: () = assert!(offset_of!(IoeHostTable, file_submit) == 48);
const _: () = assert!(offset_of!(IoeHostTable, stream_recv) == 56);
const _: () = assert!(offset_of!(IoeHostTable, stream_send) == 64);
const _: () = assert!(offset_of!(IoeHostTable, stream_pause) == 72);
const _: () = assert!(offset_of!(IoeHostTable, stream_end) == 80);
const _: () = assert!(offset_of!(IoeHostTable, stream_close) == 88);
const _: () = assert!(offset_of!(IoeHostTable, stream_detach) == 96);
const _: () = assert!(offset_of!(IoeHostTable, stream_attach) == 104);
const _: () = assert!(offset_of!(IoeHostTable, listener_adopt) == 112);
const _: () = assert!(offset_of!(IoeHostTable, listener_close) == 120);
const _: () = assert!(offset_of!(IoeHostTable, timer_set) == 128);
const _: () = assert!(offset_of!(IoeHostTable, remote) == 136);
const _: () = assert!(size_of::<IoePoolDriver>() == 16);
const _: () = assert!(offset_of!(IoePoolDriver, table) == 0);
const _: () = assert!(offset_of!(IoePoolDriver, context) == 8);
const _: () = assert!(size_of::<IoePoolSpec>() == 56);
const _: () = assert!(offset_of!(IoePoolSpec, size) == 0);
const _: () = assert!(offset_of!(IoePoolSpec, disk_count) == 4);
const _: () = assert!(offset_of!(IoePoolSpec, disks) == 8);
const _: () = assert!(offset_of!(IoePoolSpec, name) == 16);
const _: () = assert!(offset_of!(IoePoolSpec, uuid) == 32);
const _: () = assert!(offset_of!(IoePoolSpec, cluster_bytes) == 48);
const _: () = assert!(size_of::<IoePoolDriverTable>() == 32);
const _: () = assert!(offset_of!(IoePoolDriverTable, size) == 0);
const _: () = assert!(offset_of!(IoePoolDriverTable, version) == 4);
const _: () = assert!(offset_of!(IoePoolDriverTable, name) == 8);
const _: () = assert!(offset_of!(IoePoolDriverTable, create) == 16);
const _: () = assert!(offset_of!(IoePoolDriverTable, import) == 24);
const _: () = assert!(size_of::<IoePool>() == 16);
const _: () = assert!(offset_of!(IoePool, table) == 0);
const _: () = assert!(offset_of!(IoePool, context) == 8);
const _: () = assert!(size_of::<IoePoolUsage>() == 48);
const _: () = assert!(offset_of!(IoePoolUsage, size) == 0);
const _: () = assert!(offset_of!(IoePoolUsage, disk_count) == 4);
const _: () = assert!(offset_of!(IoePoolUsage, capacity_bytes) == 8);
const _: () = assert!(offset_of!(IoePoolUsage, used_bytes) == 16);
const _: () = assert!(offset_of!(IoePoolUsage, committed_bytes) == 24);
const _: () = assert!(offset_of!(IoePoolUsage, cluster_bytes) == 32);
const _: () = assert!(offset_of!(IoePoolUsage, volume_count) == 40);
const _: () = assert!(size_of::<IoePoolVolume>() == 72);
const _: () = assert!(offset_of!(IoePoolVolume, size) == 0);
const _: () = assert!(offset_of!(IoePoolVolume, flags) == 4);
const _: () = assert!(offset_of!(IoePoolVolume, uuid) == 8);
const _: () = assert!(offset_of!(IoePoolVolume, parent) == 24);
const _: () = assert!(offset_of!(IoePoolVolume, bytes) == 40);
const _: () = assert!(offset_of!(IoePoolVolume, used_bytes) == 48);
const _: () = assert!(offset_of!(IoePoolVolume, name) == 56);
const _: () = assert!(size_of::<IoePoolTable>() == 96);
const _: () = assert!(offset_of!(IoePoolTable, size) == 0);
const _: () = assert!(offset_of!(IoePoolTable, version) == 4);
const _: () = assert!(offset_of!(IoePoolTable, usage) == 8);
const _: () = assert!(offset_of!(IoePoolTable, volume) == 16);
const _: () = assert!(offset_of!(IoePoolTable, volume_create) == 24);
const _: () = assert!(offset_of!(IoePoolTable, volume_destroy) == 32);
const _: () = assert!(offset_of!(IoePoolTable, volume_resize) == 40);
const _: () = assert!(offset_of!(IoePoolTable, volume_open) == 48);
const _: () = assert!(offset_of!(IoePoolTable, snapshot) == 56);
const _: () = assert!(offset_of!(IoePoolTable, clone) == 64);
const _: () = assert!(offset_of!(IoePoolTable, grow) == 72);
const _: () = assert!(offset_of!(IoePoolTable, check) == 80);
const _: () = assert!(offset_of!(IoePoolTable, close) == 88);
const _: () = assert!(size_of::<IoePlugin>() == 56);
const _: () = assert!(offset_of!(IoePlugin, size) == 0);
const _: () = assert!(offset_of!(IoePlugin, version) == 4);
const _: () = assert!(offset_of!(IoePlugin, drivers) == 8);
const _: () = assert!(offset_of!(IoePlugin, driver_count) == 16);
const _: () = assert!(offset_of!(IoePlugin, fabric_count) == 20);
const _: () = assert!(offset_of!(IoePlugin, fabrics) == 24);
const _: () = assert!(offset_of!(IoePlugin, exports) == 32);
const _: () = assert!(offset_of!(IoePlugin, export_count) == 40);
const _: () = assert!(offset_of!(IoePlugin, pool_count) == 44);
const _: () = assert!(offset_of!(IoePlugin, pools) == 48);
const _: () = assert!(size_of::<IoeStr>() == 16);
const _: () = assert!(offset_of!(IoeStr, data) == 0);
const _: () = assert!(offset_of!(IoeStr, len) == 8);
const _: () = assert!(size_of::<IoeText>() == 16);
const _: () = assert!(offset_of!(IoeText, data) == 0);
const _: () = assert!(offset_of!(IoeText, capacity) == 8);
const _: () = assert!(offset_of!(IoeText, len) == 12);
const _: () = assert!(size_of::<IoeBuf>() == 32);
const _: () = assert!(offset_of!(IoeBuf, data) == 0);
const _: () = assert!(offset_of!(IoeBuf, len) == 8);
const _: () = assert!(offset_of!(IoeBuf, capacity) == 12);
const _: () = assert!(offset_of!(IoeBuf, owner) == 16);
const _: () = assert!(offset_of!(IoeBuf, release) == 24);
const _: () = assert!(size_of::<IoeSegmentOps>() == 16);
const _: () = assert!(offset_of!(IoeSegmentOps, retain) == 0);
const _: () = assert!(offset_of!(IoeSegmentOps, release) == 8);
const _: () = assert!(size_of::<IoeSegment>() == 32);
const _: () = assert!(offset_of!(IoeSegment, data) == 0);
const _: () = assert!(offset_of!(IoeSegment, len) == 8);
const _: () = assert!(offset_of!(IoeSegment, reserved) == 12);
const _: () = assert!(offset_of!(IoeSegment, owner) == 16);
const _: () = assert!(offset_of!(IoeSegment, ops) == 24);
const _: () = assert!(size_of::<IoeRange>() == 16);
const _: () = assert!(offset_of!(IoeRange, start) == 0);
const _: () = assert!(offset_of!(IoeRange, count) == 8);
const _: () = assert!(size_of::<IoeGeometry>() == 16);
const _: () = assert!(offset_of!(IoeGeometry, block_size) == 0);
const _: () = assert!(offset_of!(IoeGeometry, reserved) == 4);
const _: () = assert!(offset_of!(IoeGeometry, blocks) == 8);
const _: () = assert!(size_of::<IoeCapabilities>() == 24);
const _: () = assert!(offset_of!(IoeCapabilities, size) == 0);
const _: () = assert!(offset_of!(IoeCapabilities, write_zeroes) == 4);
const _: () = assert!(offset_of!(IoeCapabilities, discard) == 8);
const _: () = assert!(offset_of!(IoeCapabilities, flags) == 12);
const _: () = assert!(offset_of!(IoeCapabilities, atomic_blocks) == 16);
const _: () = assert!(offset_of!(IoeCapabilities, direct) == 20);
const _: () = assert!(size_of::<IoeOp>() == 72);
const _: () = assert!(offset_of!(IoeOp, size) == 0);
const _: () = assert!(offset_of!(IoeOp, kind) == 4);
const _: () = assert!(offset_of!(IoeOp, flags) == 8);
const _: () = assert!(offset_of!(IoeOp, reserved) == 12);
const _: () = assert!(offset_of!(IoeOp, tag) == 16);
const _: () = assert!(offset_of!(IoeOp, range) == 24);
const _: () = assert!(offset_of!(IoeOp, buf) == 40);
const _: () = assert!(size_of::<IoeDone>() == 80);
const _: () = assert!(offset_of!(IoeDone, size) == 0);
const _: () = assert!(offset_of!(IoeDone, status) == 4);
const _: () = assert!(offset_of!(IoeDone, tag) == 8);
const _: () = assert!(offset_of!(IoeDone, detail) == 16);
const _: () = assert!(offset_of!(IoeDone, buf) == 32);
const _: () = assert!(offset_of!(IoeDone, segments) == 64);
const _: () = assert!(offset_of!(IoeDone, segment_count) == 72);
const _: () = assert!(offset_of!(IoeDone, reserved) == 76);
const _: () = assert!(size_of::<IoeFileOp>() == 64);
const _: () = assert!(offset_of!(IoeFileOp, size) == 0);
const _: () = assert!(offset_of!(IoeFileOp, kind) == 4);
const _: () = assert!(offset_of!(IoeFileOp, flags) == 8);
const _: () = assert!(offset_of!(IoeFileOp, moved) == 12);
const _: () = assert!(offset_of!(IoeFileOp, offset) == 16);
const _: () = assert!(offset_of!(IoeFileOp, len) == 24);
const _: () = assert!(offset_of!(IoeFileOp, buf) == 32);
const _: () = assert!(size_of::<IoeFileDone>() == 88);
const _: () = assert!(offset_of!(IoeFileDone, size) == 0);
const _: () = assert!(offset_of!(IoeFileDone, status) == 4);
const _: () = assert!(offset_of!(IoeFileDone, user) == 8);
const _: () = assert!(offset_of!(IoeFileDone, moved) == 16);
const _: () = assert!(offset_of!(IoeFileDone, os_error) == 20);
const _: () = assert!(offset_of!(IoeFileDone, op) == 24);
const _: () = assert!(size_of::<IoeFailure>() == 80);
const _: () = assert!(offset_of!(IoeFailure, size) == 0);
const _: () = assert!(offset_of!(IoeFailure, kind) == 4);
const _: () = assert!(offset_of!(IoeFailure, os_error) == 8);
const _: () = assert!(offset_of!(IoeFailure, reserved) == 12);
const _: () = assert!(offset_of!(IoeFailure, texts) == 16);
const _: () = assert!(size_of::<IoeAddress>() == 32);
const _: () = assert!(offset_of!(IoeAddress, family) == 0);
const _: () = assert!(offset_of!(IoeAddress, port) == 4);
const _: () = assert!(offset_of!(IoeAddress, bytes) == 8);
const _: () = assert!(offset_of!(IoeAddress, scope) == 24);
const _: () = assert!(offset_of!(IoeAddress, reserved) == 28);
const _: () = assert!(size_of::<IoeIoVec>() == 16);
const _: () = assert!(offset_of!(IoeIoVec, data) == 0);
const _: () = assert!(offset_of!(IoeIoVec, len) == 8);
const _: () = assert!(size_of::<IoeExtent>() == 16);
const _: () = assert!(offset_of!(IoeExtent, blocks) == 0);
const _: () = assert!(offset_of!(IoeExtent, flags) == 8);
const _: () = assert!(offset_of!(IoeExtent, reserved) == 12);

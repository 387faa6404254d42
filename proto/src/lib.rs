//! Generated code of the gRPC contracts: `mayastor.v1`, wire-compatible with OpenEBS Mayastor, and `io_engine.v1`, ours.
//!
//! What it decides: the messages, from the `.proto` files beside it. What it does not: any behaviour; there is no logic
//! here. Messages serialise (serde) under the field names of the `.proto` files; enumerations as their numbers.

/// Descriptors of every file, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Messages and services of OpenEBS Mayastor.
pub mod mayastor {
    /// Version 1.
    #[expect(
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("mayastor.v1");
    }
}

/// Messages and services of our own.
pub mod io_engine {
    /// Version 1.
    #[expect(
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("io_engine.v1");
    }
}

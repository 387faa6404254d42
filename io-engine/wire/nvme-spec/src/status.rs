//! Status field of a completion (NVMe Base 2.0c §3.3.3.2.1, figures 92 to 97).

/// The 15-bit status field without the phase bit: code 7:0, type 10:8, retry delay 12:11, more 13, do not retry 14.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u16);

impl Status {
    /// The command completed without error.
    pub const SUCCESS: Self = Self(0);

    /// A status of type `sct` and code `sc`.
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self((sct as u16 & 7) << 8 | sc as u16)
    }

    /// The same status with Do Not Retry set: the host gains nothing by sending the command again.
    pub const fn dnr(self) -> Self {
        Self(self.0 | 1 << 14)
    }

    /// The same status naming command retry delay `index` (CRDT1 to CRDT3), 0 for none.
    pub const fn with_crd(self, index: u8) -> Self {
        Self(self.0 & !(3 << 11) | (index as u16 & 3) << 11)
    }

    /// Command retry delay index, 0 to 3.
    pub const fn crd(self) -> u8 {
        (self.0 >> 11) as u8 & 3
    }

    /// Status code.
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Status code type.
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }

    /// Whether Do Not Retry is set.
    pub const fn is_dnr(self) -> bool {
        self.0 & 1 << 14 != 0
    }

    /// Whether the command succeeded (type and code 0).
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }
}

impl core::fmt::Debug for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Status({:x}/{:02x}", self.sct(), self.sc())?;
        if self.is_dnr() {
            f.write_str(" dnr")?;
        }
        f.write_str(")")
    }
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:x}/{:02x}", self.sct(), self.sc())
    }
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $sct:literal / $sc:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self::new($sct, $sc);)*
        }
    };
}

statuses! {
    /// Generic: opcode not supported.
    INVALID_OPCODE = 0x0 / 0x01;
    /// Generic: a field holds a reserved or unsupported value.
    INVALID_FIELD = 0x0 / 0x02;
    /// Generic: command id in use.
    COMMAND_ID_CONFLICT = 0x0 / 0x03;
    /// Generic: transfer failed.
    DATA_TRANSFER_ERROR = 0x0 / 0x04;
    /// Generic: internal error.
    INTERNAL_ERROR = 0x0 / 0x06;
    /// Generic: aborted on the host's request.
    ABORT_REQUESTED = 0x0 / 0x07;
    /// Generic: aborted because its queue is deleted.
    ABORTED_SQ_DELETION = 0x0 / 0x08;
    /// Generic: aborted because the other half of the fused pair failed.
    ABORTED_FAILED_FUSED = 0x0 / 0x09;
    /// Generic: aborted because the other half of the fused pair is missing.
    ABORTED_MISSING_FUSED = 0x0 / 0x0a;
    /// Generic: no such namespace, or wrong format.
    INVALID_NAMESPACE = 0x0 / 0x0b;
    /// Generic: command out of sequence.
    COMMAND_SEQUENCE_ERROR = 0x0 / 0x0c;
    /// Generic: SGL segment descriptor not valid.
    INVALID_SGL_SEGMENT = 0x0 / 0x0d;
    /// Generic: data SGL length not valid.
    DATA_SGL_LENGTH_INVALID = 0x0 / 0x0f;
    /// Generic: SGL descriptor type not valid.
    SGL_TYPE_INVALID = 0x0 / 0x11;
    /// Generic: SGL offset not valid.
    SGL_OFFSET_INVALID = 0x0 / 0x16;
    /// Generic: size of an atomic operation exceeded.
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x0 / 0x14;
    /// Generic: host identifier of inconsistent format.
    HOST_ID_INCONSISTENT_FORMAT = 0x0 / 0x18;
    /// Generic: keep alive timer expired.
    KEEP_ALIVE_EXPIRED = 0x0 / 0x19;
    /// Generic: keep alive timeout value not valid.
    KEEP_ALIVE_TIMEOUT_INVALID = 0x0 / 0x1a;
    /// Generic: aborted because of preempt and abort.
    ABORTED_PREEMPT = 0x0 / 0x1b;
    /// Generic: namespace write protected.
    NAMESPACE_WRITE_PROTECTED = 0x0 / 0x20;
    /// Generic: interrupted by the controller, the host may try again.
    COMMAND_INTERRUPTED = 0x0 / 0x21;
    /// Generic: SGL data block granularity not valid.
    SGL_GRANULARITY_INVALID = 0x0 / 0x1e;
    /// Generic: transient transport error.
    TRANSIENT_TRANSPORT_ERROR = 0x0 / 0x22;
    /// Command specific: I/O command set not supported.
    COMMAND_SET_NOT_SUPPORTED = 0x1 / 0x29;
    /// NVM: LBA out of range.
    LBA_OUT_OF_RANGE = 0x0 / 0x80;
    /// NVM: capacity exceeded.
    CAPACITY_EXCEEDED = 0x0 / 0x81;
    /// NVM: namespace not ready.
    NAMESPACE_NOT_READY = 0x0 / 0x82;
    /// NVM: reservation conflict.
    RESERVATION_CONFLICT = 0x0 / 0x83;
    /// Command specific: abort command limit exceeded.
    ABORT_LIMIT_EXCEEDED = 0x1 / 0x03;
    /// Command specific: asynchronous event request limit exceeded.
    AER_LIMIT_EXCEEDED = 0x1 / 0x05;
    /// Command specific: log page not supported.
    INVALID_LOG_PAGE = 0x1 / 0x09;
    /// Command specific: feature identifier not saveable.
    FEATURE_NOT_SAVEABLE = 0x1 / 0x0d;
    /// Command specific: feature not changeable.
    FEATURE_NOT_CHANGEABLE = 0x1 / 0x0e;
    /// Command specific: feature not namespace specific.
    FEATURE_NOT_NS_SPECIFIC = 0x1 / 0x0f;
    /// Command specific, fabrics: connect with an unknown record format.
    CONNECT_INCOMPATIBLE_FORMAT = 0x1 / 0x80;
    /// Command specific, fabrics: controller busy.
    CONNECT_CONTROLLER_BUSY = 0x1 / 0x81;
    /// Command specific, fabrics: connect with an invalid parameter.
    CONNECT_INVALID_PARAMETERS = 0x1 / 0x82;
    /// Command specific, fabrics: restart discovery.
    CONNECT_RESTART_DISCOVERY = 0x1 / 0x83;
    /// Command specific, fabrics: host not allowed.
    CONNECT_INVALID_HOST = 0x1 / 0x84;
    /// Command specific, fabrics: queue type not valid for the controller.
    INVALID_QUEUE_TYPE = 0x1 / 0x85;
    /// Command specific, fabrics: discover again.
    DISCOVER_RESTART = 0x1 / 0x90;
    /// Command specific, fabrics: authentication required.
    AUTH_REQUIRED = 0x1 / 0x91;
    /// Command specific, NVM: conflicting attributes.
    CONFLICTING_ATTRIBUTES = 0x1 / 0x80;
    /// Command specific, NVM: size limit exceeded.
    COMMAND_SIZE_LIMIT_EXCEEDED = 0x1 / 0x83;
    /// Command specific, NVM: write to a read-only range.
    WRITE_TO_READ_ONLY = 0x1 / 0x82;
    /// Media: write fault.
    WRITE_FAULT = 0x2 / 0x80;
    /// Media: unrecovered read error.
    UNRECOVERED_READ_ERROR = 0x2 / 0x81;
    /// Media: compare failure.
    COMPARE_FAILURE = 0x2 / 0x85;
    /// Path: internal path error.
    INTERNAL_PATH_ERROR = 0x3 / 0x00;
    /// Path: asymmetric access persistent loss.
    ANA_PERSISTENT_LOSS = 0x3 / 0x01;
    /// Path: asymmetric access inaccessible.
    ANA_INACCESSIBLE = 0x3 / 0x02;
    /// Path: asymmetric access transition.
    ANA_TRANSITION = 0x3 / 0x03;
    /// Path: host aborted the command.
    HOST_ABORTED = 0x3 / 0x71;
}

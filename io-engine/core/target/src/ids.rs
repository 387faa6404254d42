//! Handles: typed, generation-checked where the thing they name comes and goes.

/// One queue pair, that is one transport connection, of one [`crate::Target`].
///
/// Reused slots get a new generation, so a handle kept past its connection names nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QpairId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl QpairId {
    /// Slot in a dense table: below [`crate::TargetConfig::qpairs_max`], reused after the connection is gone.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// One command in flight of one [`crate::Target`].
///
/// From the first output (or return value) that names it to the [`crate::Output::Respond`] or
/// [`crate::Output::Release`] that ends it is taken, [`CmdId::index`] belongs to this command alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CmdId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl CmdId {
    /// Slot in a dense table: below [`crate::TargetConfig::commands_max`].
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// Distinguishes successive uses of one slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// One subsystem of one [`crate::Target`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubsystemId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The engine's name for the device behind a namespace; the target only hands it back in [`crate::Output::Io`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceKey(pub u32);

/// One request to make a reservation state durable; answered with [`crate::Target::handle_persisted`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PersistToken(pub(crate) u64);

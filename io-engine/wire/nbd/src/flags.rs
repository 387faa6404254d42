//! The flag fields, as sets that keep bits nobody has defined yet.

use core::ops::BitOr;

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident($word:ty) { $($(#[$flag_doc:meta])* $flag:ident = $bit:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct $name(pub $word);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: Self = Self(1 << $bit);)*
            /// No flag.
            pub const NONE: Self = Self(0);

            /// Whether all flags of `other` are set.
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether nothing but flags of `other` is set.
            pub const fn is_within(self, other: Self) -> bool {
                self.0 & !other.0 == 0
            }

            /// This set, with `other` if `condition` holds.
            pub const fn with_if(self, condition: bool, other: Self) -> Self {
                if condition { Self(self.0 | other.0) } else { self }
            }
        }

        impl BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}

flags! {
    /// What the server offers before anything was said (§Handshake flags).
    HandshakeFlags(u16) {
        /// Options other than the export's name are answered.
        FIXED_NEWSTYLE = 0;
        /// The zeroes after the answer to `NBD_OPT_EXPORT_NAME` can be left out.
        NO_ZEROES = 1;
    }
}

flags! {
    /// What the client takes of the offer (§Client flags).
    ClientFlags(u32) {
        /// The client knows that options are answered.
        FIXED_NEWSTYLE = 0;
        /// The client does not want the zeroes.
        NO_ZEROES = 1;
    }
}

flags! {
    /// What an export can do (§Transmission flags).
    TransmissionFlags(u16) {
        /// Always set.
        HAS_FLAGS = 0;
        /// Writes are refused.
        READ_ONLY = 1;
        /// Flush is understood.
        SEND_FLUSH = 2;
        /// The FUA flag is understood.
        SEND_FUA = 3;
        /// The medium rotates.
        ROTATIONAL = 4;
        /// Trim is understood.
        SEND_TRIM = 5;
        /// Write zeroes is understood.
        SEND_WRITE_ZEROES = 6;
        /// Reads can be asked for in one piece.
        SEND_DF = 7;
        /// A flush on one connection covers writes on all.
        CAN_MULTI_CONN = 8;
        /// Clients may change the size (extension).
        SEND_RESIZE = 9;
        /// Cache is understood.
        SEND_CACHE = 10;
        /// Zeroes can be asked for on condition that they are fast.
        SEND_FAST_ZERO = 11;
    }
}

flags! {
    /// Flags of a request (§Command flags).
    CommandFlags(u16) {
        /// Durable before it is answered.
        FUA = 0;
        /// Zeroes that keep their space.
        NO_HOLE = 1;
        /// A read answered in one piece.
        DF = 2;
        /// One extent of block status.
        REQ_ONE = 3;
        /// Zeroes that are faster than writing, or none.
        FAST_ZERO = 4;
    }
}

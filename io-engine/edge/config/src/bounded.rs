//! Whole numbers with a range, refused outside of it wherever they come from.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

/// A whole number from `MIN` to `MAX`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u32);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// Smallest value.
    pub const MIN: u64 = MIN;
    /// Largest value.
    pub const MAX: u64 = MAX;

    /// A default, checked by the compiler when used in a constant.
    ///
    /// # Panics
    /// If `value` is out of range.
    pub const fn new_const(value: u32) -> Self {
        assert!(MAX <= u32::MAX as u64 && value as u64 >= MIN && value as u64 <= MAX);
        Self(value)
    }

    /// The value if it is in range.
    pub fn new(value: u64) -> Option<Self> {
        let value = u32::try_from(value).ok()?;
        (MIN..=MAX)
            .contains(&u64::from(value))
            .then_some(Self(value))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Bounded<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| format!("'{text}' is not acceptable; give a number from {MIN} to {MAX}"))
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Number<MIN, MAX> {
            type Value = Bounded<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number from {MIN} to {MAX}")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                let bounded = u64::try_from(value).ok().and_then(Bounded::new);
                bounded.ok_or_else(|| {
                    E::custom(format!(
                        "{value} is out of range; give a number from {MIN} to {MAX}"
                    ))
                })
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                Bounded::new(value).ok_or_else(|| {
                    E::custom(format!(
                        "{value} is out of range; give a number from {MIN} to {MAX}"
                    ))
                })
            }
        }
        deserializer.deserialize_u32(Number)
    }
}

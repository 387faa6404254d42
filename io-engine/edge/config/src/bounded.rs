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
        let wanted = format!("a number from {MIN} to {MAX}");
        let number = Whole::deserialize(deserializer, &wanted)?;
        let bounded = number.value.and_then(Self::new);
        bounded.ok_or_else(|| D::Error::custom(format!("{number} is out of range; give {wanted}")))
    }
}

/// A whole number of a file, however large: one that no type of ours holds is out of range, not of another type.
pub(crate) struct Whole {
    /// The number, if it is one of ours.
    pub(crate) value: Option<u64>,
    text: String,
}

impl Whole {
    /// Reads a number; anything else is refused as not being `wanted`.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
        wanted: &str,
    ) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(WholeVisitor(wanted))
    }
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

struct WholeVisitor<'a>(&'a str);

impl Visitor<'_> for WholeVisitor<'_> {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Whole, E> {
        self.visit_i128(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Whole, E> {
        self.visit_i128(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Whole, E> {
        Ok(Whole {
            value: u64::try_from(value).ok(),
            text: value.to_string(),
        })
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Whole, E> {
        Ok(Whole {
            value: u64::try_from(value).ok(),
            text: value.to_string(),
        })
    }
}

//! The one integer type for money, and its exact conversions.
//!
//! `1 micro = 1/1,000,000` of the currency's major unit; `1 stripe402 unit = 100 micros`; one US cent is 10,000 micros.
//! There are no operators and no `From<i64>`: an amount enters with its unit named and every sum is checked.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::as_conversions,
    clippy::unwrap_used
)]

use std::fmt;
use std::num::NonZeroI64;
use std::str::FromStr;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

/// Micros in one stripe402 unit.
pub const MICROS_PER_UNIT: NonZeroI64 = NonZeroI64::new(100).expect("100 is not zero");
/// Micros in one major unit (one dollar, one yen).
pub const MICROS_PER_MAJOR: NonZeroI64 = NonZeroI64::new(1_000_000).expect("not zero");

/// An amount of money, zero or more, in millionths of the currency's major unit.
///
/// Bounded by [`Micros::MAX`], so that every amount is exact as a JSON number in any language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(i64);

/// An amount on the stripe402 wire: 1/10,000 of the currency's major unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Units(i64);

/// Why a text or a number is not an amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The text is not a plain decimal number such as `0.05`.
    #[error("is not a decimal number such as \"0.05\"")]
    NotDecimal,
    /// Amounts are never below zero.
    #[error("is below zero")]
    Negative,
    /// More than six decimal places cannot be represented.
    #[error("is finer than one millionth of the currency's major unit")]
    TooFine,
    /// Above [`Micros::MAX`].
    #[error("is larger than 9000000000")]
    TooLarge,
}

impl Micros {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount: nine thousand million major units, below 2^53.
    pub const MAX: Self = Self(9_000_000_000_000_000);

    /// An amount from a number that is known to be in micros. `None` below zero or above [`Micros::MAX`].
    #[must_use]
    pub const fn new(micros: i64) -> Option<Self> {
        if micros >= 0 && micros <= Self::MAX.0 { Some(Self(micros)) } else { None }
    }

    /// The number of micros.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Whether this is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, or `None` above [`Micros::MAX`].
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::new)
    }

    /// The difference, or `None` below zero.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).and_then(Self::new)
    }

    /// The difference, or nothing when `other` is larger.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        self.checked_sub(other).unwrap_or(Self::ZERO)
    }

    /// Whole stripe402 units, rounded down: what a balance shows.
    #[must_use]
    pub fn to_units_floor(self) -> Units {
        Units(self.0.div_euclid(MICROS_PER_UNIT.get()))
    }

    /// Whole stripe402 units, rounded up: what a price advertises. `None` only above [`Micros::MAX`].
    #[must_use]
    pub fn to_units_ceil(self) -> Units {
        let floor = self.to_units_floor();
        if self.0.rem_euclid(MICROS_PER_UNIT.get()) == 0 { floor } else { Units(floor.0.saturating_add(1)) }
    }

    /// Parses a decimal amount of major units such as `"0.05"`. Nothing is rounded: what does not fit is refused.
    ///
    /// # Errors
    /// [`MoneyError`] says why the text is not an amount.
    pub fn parse_major(text: &str) -> Result<Self, MoneyError> {
        let plain = !text.is_empty()
            && text.len() <= 32
            && text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-')
            && text.bytes().any(|b| b.is_ascii_digit());
        if !plain {
            return Err(MoneyError::NotDecimal);
        }
        let decimal = Decimal::from_str(text).map_err(|_| MoneyError::NotDecimal)?;
        if decimal.is_sign_negative() && !decimal.is_zero() {
            return Err(MoneyError::Negative);
        }
        let micros =
            decimal.checked_mul(Decimal::from(MICROS_PER_MAJOR.get())).ok_or(MoneyError::TooLarge)?;
        if !micros.fract().is_zero() {
            return Err(MoneyError::TooFine);
        }
        micros.to_i64().and_then(Self::new).ok_or(MoneyError::TooLarge)
    }

    /// The amount as a decimal of major units with at least two places: `0.05`, `5.00`, `0.000125`. For what is parsed again and does
    /// not say its currency. What is written with a currency has as many places as that has:
    /// [`Currency::decimal`](super::Currency::decimal), [`Currency::text`](super::Currency::text).
    #[must_use]
    pub fn to_major_string(self) -> String {
        self.decimal(2)
    }

    /// The amount as a decimal of major units with at least so many places, and more where it is finer: `5`, `0.5`, `1.500`.
    /// For people: [`Currency::decimal`](super::Currency::decimal) knows how many a currency has.
    #[must_use]
    pub(super) fn decimal(self, least: usize) -> String {
        decimal(self.0.unsigned_abs(), least)
    }
}

/// Micros as a decimal of major units with at least so many places. Sums may be larger than one amount can be.
pub(super) fn decimal(micros: u64, least: usize) -> String {
    let major = MICROS_PER_MAJOR.get().unsigned_abs();
    let whole = micros.checked_div(major).unwrap_or(0);
    let fraction = format!("{:06}", micros.checked_rem(major).unwrap_or(0));
    match fraction.trim_end_matches('0').len().max(least) {
        0 => whole.to_string(),
        kept => format!("{whole}.{}", fraction.get(..kept).unwrap_or(&fraction)),
    }
}

/// A plain decimal with at least two places, for handlers of applications that embed the paywall. Nothing in here writes an amount
/// so: [`Currency::text`](super::Currency::text) knows how many places a currency has.
impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_major_string())
    }
}

impl Units {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Units from a wire number. `None` below zero or beyond what [`Micros`] can hold.
    #[must_use]
    pub fn new(units: i64) -> Option<Self> {
        units.checked_mul(MICROS_PER_UNIT.get()).and_then(Micros::new).map(|_| Self(units))
    }

    /// The number of units, as on the wire.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The same amount in micros, exactly.
    #[must_use]
    pub fn to_micros(self) -> Micros {
        Micros(self.0.saturating_mul(MICROS_PER_UNIT.get()))
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;

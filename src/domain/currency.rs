//! The currencies we accept, with ISO 4217 exponents and Stripe's bounds for one charge.
//!
//! An allow-list, not a guess: a currency outside this table is refused at boot. Minimums are those Stripe publishes for
//! a charge in the settlement currency; where Stripe publishes none, the equivalent of about half a US dollar is used.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::as_conversions,
    clippy::unwrap_used
)]

use std::fmt;
use std::str::FromStr;

use super::money::Micros;

/// Stripe refuses amounts of more than eight digits of minor units.
/// <https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts>
pub const MAX_MINOR: i64 = 99_999_999;

/// A row of the table.
#[derive(Debug)]
struct Row {
    code: &'static str,
    /// Digits after the decimal point of Stripe's minor unit: 2 for cents, 0 for yen, 3 for fils.
    exponent: u32,
    /// Charges must be a multiple of this many minor units: 10 for three-decimal currencies, 100 for ISK and UGX.
    multiple_of: i64,
    /// The smallest charge, in minor units.
    min_minor: i64,
}

const fn row(code: &'static str, exponent: u32, multiple_of: i64, min_minor: i64) -> Row {
    Row { code, exponent, multiple_of, min_minor }
}

const TABLE: &[Row] = &[
    row("usd", 2, 1, 50),
    row("eur", 2, 1, 50),
    row("gbp", 2, 1, 30),
    row("aud", 2, 1, 50),
    row("cad", 2, 1, 50),
    row("chf", 2, 1, 50),
    row("nzd", 2, 1, 50),
    row("sgd", 2, 1, 50),
    row("brl", 2, 1, 50),
    row("inr", 2, 1, 50),
    row("mxn", 2, 1, 1_000),
    row("hkd", 2, 1, 400),
    row("dkk", 2, 1, 250),
    row("nok", 2, 1, 300),
    row("sek", 2, 1, 300),
    row("pln", 2, 1, 200),
    row("aed", 2, 1, 200),
    row("czk", 2, 1, 1_500),
    row("huf", 2, 1, 17_500),
    row("myr", 2, 1, 200),
    row("ron", 2, 1, 200),
    row("thb", 2, 1, 1_000),
    row("isk", 2, 100, 7_500),
    row("ugx", 2, 100, 200_000),
    row("jpy", 0, 1, 50),
    row("krw", 0, 1, 700),
    row("clp", 0, 1, 500),
    row("vnd", 0, 1, 13_000),
    row("xaf", 0, 1, 320),
    row("xof", 0, 1, 320),
    row("bif", 0, 1, 1_500),
    row("djf", 0, 1, 100),
    row("gnf", 0, 1, 4_500),
    row("kmf", 0, 1, 250),
    row("mga", 0, 1, 2_500),
    row("pyg", 0, 1, 4_000),
    row("rwf", 0, 1, 750),
    row("vuv", 0, 1, 65),
    row("xpf", 0, 1, 60),
    row("bhd", 3, 10, 200),
    row("jod", 3, 10, 360),
    row("kwd", 3, 10, 160),
    row("omr", 3, 10, 200),
    row("tnd", 3, 10, 1_600),
];

/// A currency of the table. Shown, stored and compared as its lower-case ISO 4217 code.
#[derive(Clone, Copy)]
pub struct Currency(&'static Row);

/// Micros of the currency with this code as people write them, without sign and currency: for sums, which may be larger than one
/// amount can be, and for what comes from a database or from another server.
#[must_use]
pub fn decimal_in(micros: u64, code: &str) -> String {
    let decimals = code.to_ascii_lowercase().parse::<Currency>().map_or(2, Currency::decimals);
    super::money::decimal(micros, decimals)
}

/// Stripe's minor units as people write them, with the currency: for what comes from Stripe.
#[must_use]
pub fn minor_text(minor: i64, code: &str) -> String {
    let known = code.parse::<Currency>().ok();
    let known =
        known.and_then(|currency| currency.minor_to_micros(minor).map(|amount| currency.text(amount)));
    known.unwrap_or_else(|| format!("{minor} of the smallest unit of {code}"))
}

/// The text is not a currency that we accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a currency that is supported here, such as \"usd\", \"eur\" or \"jpy\"")]
pub struct UnknownCurrency;

impl Currency {
    /// US dollars.
    pub const USD: Self = Self(&TABLE[0]);

    /// The lower-case ISO 4217 code.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code
    }

    /// How many decimals people write, as ISO 4217 has it. Stripe's minor unit differs for three currencies: it has hundredths of
    /// kronur and of Ugandan shillings, which do not exist, and none of the ariary.
    #[must_use]
    pub fn decimals(self) -> usize {
        match (self.0.code, self.0.exponent) {
            ("isk" | "ugx", _) => 0,
            ("mga", _) => 2,
            (_, 0) => 0,
            (_, 3) => 3,
            _ => 2,
        }
    }

    /// An amount as people write it, without the currency: `5.00`, `500`, `1.500`. Finer amounts have as many places as they need.
    #[must_use]
    pub fn decimal(self, amount: Micros) -> String {
        amount.decimal(self.decimals())
    }

    /// An amount as people write it: `5.00 USD`, `500 JPY`, `1.500 KWD`.
    #[must_use]
    pub fn text(self, amount: Micros) -> String {
        format!("{} {}", self.decimal(amount), self.code().to_ascii_uppercase())
    }

    /// All accepted currencies.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(Self)
    }

    /// Micros in one of Stripe's minor units.
    fn micros_per_minor(self) -> i64 {
        match self.0.exponent {
            0 => 1_000_000,
            2 => 10_000,
            _ => 1_000,
        }
    }

    /// The smallest single charge.
    #[must_use]
    pub fn min_charge(self) -> Micros {
        self.minor_to_micros(self.0.min_minor).unwrap_or(Micros::ZERO)
    }

    /// The largest single charge.
    #[must_use]
    pub fn max_charge(self) -> Micros {
        self.minor_to_micros(MAX_MINOR).unwrap_or(Micros::MAX)
    }

    /// The step between amounts that can be charged.
    #[must_use]
    pub fn charge_step(self) -> Micros {
        self.minor_to_micros(self.0.multiple_of).unwrap_or(Micros::ZERO)
    }

    /// Stripe's minor units, or `None` when the amount is not a whole, chargeable number of them. Nothing is rounded.
    #[must_use]
    pub fn micros_to_minor(self, amount: Micros) -> Option<i64> {
        let step = self.charge_step().get();
        if amount.get().checked_rem(step)? != 0 {
            return None;
        }
        amount.get().checked_div(self.micros_per_minor())
    }

    /// The amount that Stripe's minor units stand for, or `None` below zero or out of range.
    #[must_use]
    pub fn minor_to_micros(self, minor: i64) -> Option<Micros> {
        minor.checked_mul(self.micros_per_minor()).and_then(Micros::new)
    }

    /// The smallest chargeable amount that is not below `amount`. `None` out of range.
    #[must_use]
    pub fn round_up_to_chargeable(self, amount: Micros) -> Option<Micros> {
        let step = self.charge_step().get();
        let missing = match amount.get().checked_rem(step)? {
            0 => 0,
            over => step.checked_sub(over)?,
        };
        amount.get().checked_add(missing).and_then(Micros::new)
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(text: &str) -> Result<Self, UnknownCurrency> {
        TABLE.iter().find(|row| row.code == text).map(Self).ok_or(UnknownCurrency)
    }
}

impl PartialEq for Currency {
    fn eq(&self, other: &Self) -> bool {
        self.0.code == other.0.code
    }
}

impl Eq for Currency {}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.code)
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.code)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn currency(code: &str) -> Currency {
        code.parse().unwrap()
    }

    #[test]
    fn amounts_convert_exactly_or_not_at_all() {
        for (code, major, minor) in [
            ("usd", "5.00", Some(500)),
            ("usd", "0.005", None),
            ("jpy", "500", Some(500)),
            ("jpy", "500.5", None),
            ("kwd", "1.230", Some(1230)),
            ("kwd", "1.234", None),
            ("isk", "75", Some(7500)),
            ("isk", "75.50", None),
        ] {
            let amount = Micros::parse_major(major).unwrap();
            assert_eq!(currency(code).micros_to_minor(amount), minor, "{major} {code}");
        }
    }

    #[test]
    fn people_read_as_many_decimals_as_the_currency_has() {
        for (code, amount, text) in [
            ("usd", "5", "5.00 USD"),
            ("usd", "0.000125", "0.000125 USD"),
            ("jpy", "500", "500 JPY"),
            ("jpy", "0", "0 JPY"),
            ("jpy", "0.5", "0.5 JPY"),
            ("kwd", "1.5", "1.500 KWD"),
            ("kwd", "0.0005", "0.0005 KWD"),
            ("huf", "175", "175.00 HUF"),
            // What Stripe charges in hundredths, people do not write in hundredths, and the other way round.
            ("isk", "75", "75 ISK"),
            ("ugx", "2000", "2000 UGX"),
            ("mga", "2500", "2500.00 MGA"),
        ] {
            assert_eq!(currency(code).text(Micros::parse_major(amount).unwrap()), text);
        }
    }

    #[test]
    fn what_stripe_says_is_written_with_the_decimals_of_its_currency() {
        for (minor, code, text) in [
            (500, "usd", "5.00 USD"),
            (500, "jpy", "500 JPY"),
            (1_500, "kwd", "1.500 KWD"),
            (7_500, "isk", "75 ISK"),
            (-1, "usd", "-1 of the smallest unit of usd"),
            (7, "xyz", "7 of the smallest unit of xyz"),
        ] {
            assert_eq!(minor_text(minor, code), text);
        }
    }

    #[test]
    fn codes_are_lower_case_and_listed_once() {
        assert!("USD".parse::<Currency>().is_err());
        assert!("xyz".parse::<Currency>().is_err());
        let mut codes: Vec<_> = Currency::all().map(Currency::code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Currency::all().count());
    }

    #[test]
    fn every_minimum_can_be_charged() {
        for currency in Currency::all() {
            assert!(currency.micros_to_minor(currency.min_charge()).is_some(), "{currency}");
            assert!(currency.min_charge() < currency.max_charge(), "{currency}");
        }
    }

    proptest! {
        #[test]
        fn rounding_up_reaches_the_next_chargeable_amount(index in 0..TABLE.len(), micros in 0i64..1_000_000_000_000) {
            let currency = Currency(&TABLE[index]);
            let amount = Micros::new(micros).unwrap();
            let up = currency.round_up_to_chargeable(amount).unwrap();
            prop_assert!(up >= amount);
            prop_assert!(up.checked_sub(amount).unwrap() < currency.charge_step());
            let minor = currency.micros_to_minor(up).unwrap();
            prop_assert_eq!(currency.minor_to_micros(minor), Some(up));
        }
    }
}

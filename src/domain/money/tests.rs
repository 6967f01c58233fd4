#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use proptest::prelude::*;

use super::*;

#[test]
fn decimal_texts_become_micros_or_a_named_refusal() {
    for (text, expected) in [
        ("0.05", Ok(50_000)),
        ("5", Ok(5_000_000)),
        ("5.00", Ok(5_000_000)),
        ("0.000001", Ok(1)),
        ("0", Ok(0)),
        ("-0", Ok(0)),
        ("9000000000", Ok(9_000_000_000_000_000)),
        ("9000000000.000001", Err(MoneyError::TooLarge)),
        ("0.0000001", Err(MoneyError::TooFine)),
        ("-1", Err(MoneyError::Negative)),
        ("", Err(MoneyError::NotDecimal)),
        (".", Err(MoneyError::NotDecimal)),
        ("1e3", Err(MoneyError::NotDecimal)),
        ("1_000", Err(MoneyError::NotDecimal)),
        ("$1", Err(MoneyError::NotDecimal)),
        ("NaN", Err(MoneyError::NotDecimal)),
        ("99999999999999999999999999999999999", Err(MoneyError::NotDecimal)),
        ("9999999999999999999999999", Err(MoneyError::TooLarge)),
    ] {
        assert_eq!(Micros::parse_major(text).map(Micros::get), expected, "{text:?}");
    }
}

#[test]
fn amounts_are_shown_with_two_places_or_as_many_as_they_need() {
    for (micros, shown) in [(0, "0.00"), (50_000, "0.05"), (5_000_000, "5.00"), (125, "0.000125")] {
        assert_eq!(Micros::new(micros).unwrap().to_string(), shown);
    }
}

#[test]
fn five_hundred_units_are_five_cents() {
    // The reference's documentation says fifty: R16.
    let five_cents = Micros::parse_major("0.05").unwrap();
    assert_eq!(five_cents.to_units_floor(), Units::new(500).unwrap());
}

proptest! {
    #[test]
    fn parsing_undoes_showing(micros in 0..=Micros::MAX.get()) {
        let amount = Micros::new(micros).unwrap();
        prop_assert_eq!(Micros::parse_major(&amount.to_major_string()), Ok(amount));
    }

    #[test]
    fn unit_rounding_brackets_the_amount(micros in 0..=Micros::MAX.get()) {
        let amount = Micros::new(micros).unwrap();
        let (down, up) = (amount.to_units_floor().get(), amount.to_units_ceil().get());
        prop_assert!(down * 100 <= micros && micros <= up * 100);
        prop_assert!(up - down <= 1);
        prop_assert_eq!(up == down, micros % 100 == 0);
    }

    #[test]
    fn sums_never_leave_the_range(a in 0..=Micros::MAX.get(), b in 0..=Micros::MAX.get()) {
        let (x, y) = (Micros::new(a).unwrap(), Micros::new(b).unwrap());
        prop_assert_eq!(x.checked_add(y).map(Micros::get), Some(a + b).filter(|s| *s <= Micros::MAX.get()));
        prop_assert_eq!(x.checked_sub(y).map(Micros::get), Some(a - b).filter(|d| *d >= 0));
    }

    #[test]
    fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,40}") {
        let _ = Micros::parse_major(&text);
    }

    #[test]
    fn any_wire_number_is_units_or_refused(n in any::<i64>()) {
        prop_assert_eq!(Units::new(n).is_some(), (0..=Micros::MAX.get() / 100).contains(&n));
    }
}

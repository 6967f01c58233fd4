//! `[top_up]`: what may be charged.

use super::*;

#[test]
fn top_up_rules() {
    for (lines, path, words) in [
        ("minimum = '0.49'", "top_up.minimum", "write \"0.50\" or more"),
        ("minimum = '5.001'", "top_up.minimum", "multiple of \"0.01\""),
        ("minimum = '5.00001'", "top_up.minimum", "four decimal places"),
        ("minimum = 5", "top_up.minimum", "not in quotes"),
        ("maximum = '1000000.00'", "top_up.maximum", "write \"999999.99\" or less"),
        ("maximum = '4.00'", "top_up.maximum", "below the minimum"),
        ("max_balance = '499.99'", "top_up.max_balance", "write \"500.00\" or more"),
        (
            "minimum = '5.00'\noptions = [{amount = '6.00'}]",
            "top_up.options[0].amount",
            "equal top_up.minimum, 5.00",
        ),
        ("options = [{amount = '6.00'}, {amount = '6.00'}]", "top_up.options[1].amount", "larger than"),
        (
            "options = [{amount = '6.00'}, {amount = '501.00'}]",
            "top_up.options[1].amount",
            "above top_up.maximum",
        ),
        (
            "options = [{amount = '6.00', bonus = '4500.01'}]",
            "top_up.max_balance",
            "write \"5000.01\" or more",
        ),
        (
            "options = [{amount = '6.00', bonus = '0.00005'}]",
            "top_up.options[0].bonus",
            "four decimal places",
        ),
        ("options = [{amount = '6.00', bonus = '-1'}]", "top_up.options[0].bonus", "below zero"),
        ("options = [{bonus = '1'}]", "top_up.options[0].amount", "is required"),
        ("options = [{amount = '6.00', label = \"a\\nb\"}]", "top_up.options[0].label", "one line"),
        ("options = [{amount = '6.00', boni = '1'}]", "top_up.options[0].boni", "did you mean bonus?"),
        ("options = ['5.00']", "top_up.options[0]", "[[top_up.options]]"),
        ("options = '5.00'", "top_up.options", "[[top_up.options]]"),
    ] {
        refused(&format!("[top_up]\n{lines}"), path, words);
    }
}

#[test]
fn whoever_has_a_little_less_than_a_price_can_top_up() {
    let priced = |lines: &str, price: &str| {
        format!(
            "[top_up]\n{lines}\n[[routes]]\npath = '/a'\nprice = '0.01'\n[[routes]]\npath = '/b'\nprice = '{price}'\n"
        )
    };
    let tight = "minimum = '5.00'\nmaximum = '5.00'\nmax_balance = '5.00'";
    refused(&priced(tight, "0.05"), "top_up.max_balance", "write \"5.05\" or more");
    loaded(&priced("minimum = '5.00'\nmaximum = '5.00'\nmax_balance = '5.05'", "0.05"));
    // 19.995 of 20.00: the smallest charge that helps is 5.00, and its bonus comes on top.
    let packs = "maximum = '20.00'\nmax_balance = '25.00'\noptions = [{amount = '5.00', bonus = '1.00'}]";
    refused(&priced(packs, "20.00"), "top_up.max_balance", "write \"26.00\" or more");
    // Larger bonuses for smaller packs would leave holes among the amounts.
    let shrinking = "options = [{amount = '6.00', bonus = '1.00'}, {amount = '7.00', bonus = '0.50'}]";
    refused(&format!("[top_up]\n{shrinking}"), "top_up.options[1].bonus", "gets no less");
}

#[test]
fn amounts_follow_the_currency() {
    for (currency, minimum, words) in [
        ("jpy", "50.5", "multiple of \"1\""),
        ("jpy", "49", "write \"50\" or more"),
        ("kwd", "1.001", "multiple of \"0.010\""),
        ("isk", "80.50", "multiple of \"1\""),
    ] {
        refused(&format!("currency = '{currency}'\ntop_up.minimum = '{minimum}'"), "top_up.minimum", words);
    }
}

#[test]
fn the_minimum_and_the_first_option_are_one() {
    let from_options =
        loaded("[[top_up.options]]\namount = '10.00'\n[[top_up.options]]\namount = '20'\nbonus = '1'");
    let top_up = from_options.config.top_up;
    assert_eq!(top_up.minimum.to_major_string(), "10.00");
    assert_eq!(top_up.options[1].label, "20.00 USD + 1.00 bonus");
    assert_eq!(top_up.options[1].bonus.to_major_string(), "1.00");

    let none = loaded("top_up.options = []").config.top_up;
    assert_eq!((none.options.len(), none.minimum.to_major_string()), (1, "5.00".to_owned()));

    let from_minimum = loaded("top_up.minimum = '7.00'").config.top_up;
    assert_eq!(from_minimum.options.len(), 1);
    assert_eq!(from_minimum.options[0].amount, from_minimum.minimum);
    assert_eq!(from_minimum.minimum.to_major_string(), "7.00");
}

#[test]
fn what_is_accepted_can_be_charged_and_sent() {
    use proptest::prelude::*;
    proptest!(|(cents in 0u32..1_000, tail in 0u32..200)| {
        let text = format!("{}.{:02}{tail}", cents / 100, cents % 100);
        if let Ok(Loaded { config, .. }) = load_with(&format!("top_up.minimum = '{text}'"), &[]) {
            let minimum = config.top_up.minimum;
            prop_assert!(config.currency.micros_to_minor(minimum).is_some());
            prop_assert_eq!(minimum.to_units_floor().to_micros(), minimum);
            prop_assert!(minimum >= config.currency.min_charge());
        }
    });
}

//! The table of decisions about money.

use super::*;
use crate::agent::testing::{header_of, key, offer_json, pending};

fn offer(price: i64, min_top_up: i64, code: &str) -> Offer {
    let json = offer_json();
    let mut offer = Offer::from_header(&header_of(&json)).expect("valid");
    offer.price = Units::new(price).expect("units");
    offer.min_top_up = Units::new(min_top_up).expect("units");
    offer.code = code.to_owned();
    offer
}

fn account(client: Option<&str>, charged: i64, pending: Option<Pending>) -> Account {
    let mut account = Account { client_key: client.map(key), pending, ..Account::default() };
    if charged > 0 {
        account.charged.insert("usd".to_owned(), Units::new(charged).expect("units"));
    }
    account
}

fn budget(max_top_up: Option<&str>) -> Budget {
    let max_top_up = max_top_up.map(|text| Micros::parse_major(text).expect("amount"));
    Budget { max_top_up, ..Budget::default() }
}

/// A short name for what was decided.
fn name(decision: &Decision) -> &'static str {
    match decision {
        Decision::Spend(_) => "spend",
        Decision::Card(CardPlan { resume: Some(_), .. }) => "resume",
        Decision::Card(CardPlan { client: Some(_), .. }) => "card for client",
        Decision::Card(_) => "card",
        Decision::Refuse(Refusal::Price { .. }) => "price",
        Decision::Refuse(Refusal::TopUpTotal { .. }) => "total",
        Decision::Refuse(Refusal::SecondPack { .. }) => "second",
        Decision::Refuse(Refusal::LargePack { .. }) => "large",
        Decision::Refuse(Refusal::MayChargeTwice { .. }) => "twice",
        Decision::Refuse(Refusal::OtherCurrency { .. }) => "currency",
        Decision::Refuse(Refusal::NoCard { .. }) => "no card",
        Decision::Refuse(Refusal::Server { .. }) => "server",
    }
}

#[test]
fn the_table_of_decisions() {
    let none = || account(None, 0, None);
    let known = |charged| account(Some("pck_a"), charged, None);
    let waiting = |maybe_spent| account(None, 0, Some(pending(50_000, maybe_spent)));
    let presented = key("pck_a");
    let sent = Some(&presented);
    let table = [
        ("a first purchase", offer(500, 50_000, ""), none(), None, None, true, "card"),
        ("no card at hand", offer(500, 50_000, ""), none(), None, None, false, "no card"),
        ("exactly the price limit", offer(1_000, 50_000, ""), none(), None, None, true, "card"),
        ("one unit above it", offer(1_001, 50_000, ""), none(), None, None, true, "price"),
        ("the limit binds the balance, too", offer(1_001, 1, ""), known(1), None, None, true, "price"),
        ("exactly the default pack", offer(500, 200_000, ""), none(), None, None, true, "card"),
        ("a larger pack", offer(500, 200_001, ""), none(), None, None, true, "large"),
        ("which a flag allows", offer(500, 200_100, ""), none(), None, Some("20.01"), true, "card"),
        ("a known key goes first", offer(500, 50_000, ""), known(50_000), None, None, true, "spend"),
        (
            "a spent one",
            offer(500, 50_000, "insufficient_credits"),
            known(50_000),
            sent,
            None,
            true,
            "second",
        ),
        (
            "a second pack that is allowed",
            offer(500, 50_000, "insufficient_credits"),
            known(50_000),
            sent,
            Some("10"),
            true,
            "card for client",
        ),
        (
            "a second pack above the total",
            offer(500, 50_000, "insufficient_credits"),
            known(50_000),
            sent,
            Some("9.99"),
            true,
            "total",
        ),
        ("a key nobody knows", offer(500, 50_000, "unknown_client"), known(0), sent, None, true, "card"),
        (
            "a price above maxAmount",
            offer(500, 50_000, "price_above_max"),
            known(0),
            sent,
            None,
            true,
            "server",
        ),
        ("an unknown outcome needs no card", offer(500, 50_000, ""), waiting(0), None, None, false, "resume"),
        ("credit left in any case", offer(500, 50_000, ""), waiting(49_500), None, None, false, "resume"),
        ("credit that may be gone", offer(500, 50_000, ""), waiting(49_501), None, None, true, "twice"),
        (
            "two charges are allowed",
            offer(500, 50_000, ""),
            waiting(49_501),
            None,
            Some("10"),
            false,
            "resume",
        ),
        (
            "one charge is allowed",
            offer(500, 50_000, ""),
            waiting(49_501),
            None,
            Some("9.99"),
            false,
            "twice",
        ),
    ];
    for (what, offer, account, presented, max_top_up, has_card, expected) in table {
        let decision = decide(&offer, &account, presented, &budget(max_top_up), has_card);
        assert_eq!(name(&decision), expected, "{what}: {decision:?}");
    }
}

#[test]
fn a_second_currency_does_not_escape_the_limits() {
    let mut account = account(None, 0, None);
    account.charged.insert("eur".to_owned(), Units::new(1).expect("units"));
    let decision = decide(&offer(500, 50_000, ""), &account, None, &budget(Some("100")), true);
    assert_eq!(name(&decision), "currency");
    account.charged.clear();
    let mut waiting = pending(50_000, 0);
    waiting.currency = "eur".parse().expect("currency");
    account.pending = Some(waiting);
    let decision = decide(&offer(500, 50_000, ""), &account, None, &budget(Some("100")), true);
    assert_eq!(name(&decision), "currency");
}

#[test]
fn every_limit_names_the_flag_that_lifts_it() {
    let decision = decide(&offer(2_500, 50_000, ""), &account(None, 0, None), None, &budget(None), true);
    let Decision::Refuse(refusal) = decision else { panic!("refused") };
    assert!(refusal.to_string().contains("--max-price 0.25 allows it"), "{refusal}");
    assert_eq!(refusal.flag(), Some("--max-price"));
    let spent = offer(500, 50_000, "insufficient_credits");
    let client = key("pck_a");
    let decision = decide(&spent, &account(Some("pck_a"), 50_000, None), Some(&client), &budget(None), true);
    let Decision::Refuse(refusal) = decision else { panic!("refused") };
    assert!(refusal.to_string().contains("--max-top-up 10.00 allows it"), "{refusal}");
}

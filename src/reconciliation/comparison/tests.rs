//! Each kind of difference, made in facts that agree, is named, and nothing else is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::charges::FEE_GRACE;
use super::*;
use crate::reconciliation::facts::{
    Charged, DisputeMoved, Moved, RefundRow, RefundStatus, Refunded, TopUpRow,
};

fn moved(id: &str, fee: i64) -> Moved {
    Moved { id: id.to_owned(), fee, currency: "usd".to_owned(), created: 1_000 }
}

fn charged(number: i64) -> Charged {
    Charged {
        payment_intent: format!("pi_{number}"),
        charge: Some(format!("ch_{number}")),
        top_up: format!("t{number}"),
        client: Some(format!("c{number}")),
        amount: 500,
        currency: "usd".to_owned(),
        movement: Some(moved(&format!("txn_{number}"), 45)),
    }
}

fn row(number: i64) -> TopUpRow {
    TopUpRow {
        client: Some(number),
        client_public: Some(format!("c{number}")),
        currency: "usd".to_owned(),
        amount: 5_000_000,
        state: "succeeded".to_owned(),
        payment_intent: Some(format!("pi_{number}")),
        charge: Some(format!("ch_{number}")),
    }
}

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn posted(client: i64) -> Posted {
    Posted { client: Some(client), currency: "usd".to_owned(), ..Posted::default() }
}

fn refunded(number: i64, amount: i64, status: RefundStatus) -> Refunded {
    Refunded {
        id: format!("re_{number}"),
        payment_intent: format!("pi_{number}"),
        ours: Some(format!("r{number}")),
        amount,
        currency: "usd".to_owned(),
        status,
    }
}

fn disputed(id: &str, is_reinstated: bool, fee: i64) -> DisputeMoved {
    DisputeMoved {
        dispute: "dp_3".to_owned(),
        payment_intent: "pi_3".to_owned(),
        amount: 500,
        currency: "usd".to_owned(),
        is_reinstated,
        movement: moved(id, fee),
    }
}

/// Three charges; a failed refund of the first, a refund of the second, a dispute of the third that was won.
fn agreeing() -> Facts {
    let mut facts = Facts { now: 1_000 + FEE_GRACE, ..Facts::default() };
    let books = &mut facts.books;
    for number in 1..=3 {
        facts.stripe.charges.push(charged(number));
        books.top_ups.insert(format!("t{number}"), row(number));
        books
            .posted
            .insert(source(&format!("topup:t{number}")), Posted { clearing: 5_000_000, ..posted(number) });
        let fee = Posted { fees: 450_000, clearing: -450_000, ..posted(number) };
        books.posted.insert(source(&format!("fee:txn_{number}")), fee);
    }
    for (number, amount, status, state) in
        [(1, 100, RefundStatus::Failed, "failed"), (2, 200, RefundStatus::Succeeded, "succeeded")]
    {
        facts.stripe.refunds.push(refunded(number, amount, status));
        let micros = amount * 10_000;
        let row = RefundRow {
            top_up: format!("t{number}"),
            amount: micros,
            state: state.to_owned(),
            stripe_refund: Some(format!("re_{number}")),
        };
        books.refunds.insert(format!("r{number}"), row);
        let taken = Posted { pending: -i128::from(micros), ..posted(number) };
        books.posted.insert(source(&format!("refund:r{number}")), taken);
    }
    books.posted.insert(source("refund-return:r1"), Posted { pending: 1_000_000, ..posted(1) });
    let paid = Posted { pending: 2_000_000, clearing: -2_000_000, ..posted(2) };
    books.posted.insert(source("refund-paid:r2"), paid);
    facts.stripe.disputes = vec![disputed("txn_d", false, 1_500), disputed("txn_e", true, 0)];
    books.posted.insert(source("dispute:txn_d"), Posted { clearing: -5_000_000, ..posted(3) });
    let fee = Posted { dispute: 15_000_000, clearing: -15_000_000, ..posted(3) };
    books.posted.insert(source("dispute-fee:txn_d"), fee);
    books.posted.insert(source("reinstatement:txn_e"), Posted { clearing: 5_000_000, ..posted(3) });
    facts
}

fn kinds(facts: &Facts) -> Vec<Kind> {
    compare(facts).differences.iter().map(|difference| difference.kind).collect()
}

type Plant = (Kind, fn(&mut Facts));

fn top_up<'a>(facts: &'a mut Facts, id: &str) -> &'a mut TopUpRow {
    facts.books.top_ups.get_mut(id).unwrap()
}

fn refund<'a>(facts: &'a mut Facts, id: &str) -> &'a mut RefundRow {
    facts.books.refunds.get_mut(id).unwrap()
}

fn entries<'a>(facts: &'a mut Facts, source: &str) -> &'a mut Posted {
    facts.books.posted.get_mut(&source.parse().unwrap()).unwrap()
}

fn forget(facts: &mut Facts, source: &str) {
    facts.books.posted.remove(&source.parse().unwrap()).unwrap();
}

/// Takes a charge out of Stripe's facts, with what it cost.
fn not_at_stripe(facts: &mut Facts) {
    facts.stripe.charges.remove(0);
    forget(facts, "fee:txn_1");
    facts.stripe.refunds.remove(0);
    facts.books.refunds.remove("r1");
    forget(facts, "refund:r1");
    forget(facts, "refund-return:r1");
}

const PLANTS: &[Plant] = &[
    (Kind::ChargeMissing, |facts| facts.stripe.charges.push(charged(4))),
    (Kind::ChargeOfFailed, |facts| {
        facts.stripe.charges.push(charged(4));
        facts.books.top_ups.insert("t4".into(), TopUpRow { state: "failed".into(), ..row(4) });
    }),
    (Kind::ChargeOfOpen, |facts| {
        facts.stripe.charges.push(charged(4));
        facts.books.top_ups.insert("t4".into(), TopUpRow { state: "confirming".into(), ..row(4) });
    }),
    (Kind::ChargedTwice, |facts| facts.stripe.charges.push(Charged { top_up: "t1".into(), ..charged(4) })),
    (Kind::IntentDiffers, |facts| {
        not_at_stripe(facts);
        facts.stripe.charges.push(Charged { payment_intent: "pi_9".into(), movement: None, ..charged(1) });
    }),
    (Kind::TopUpAmountDiffers, |facts| top_up(facts, "t1").amount += 10_000),
    (Kind::TopUpCurrencyDiffers, |facts| {
        facts.stripe.charges[2].currency = "eur".into();
    }),
    (Kind::TopUpWithoutEntries, |facts| forget(facts, "topup:t1")),
    (Kind::TopUpEntriesDiffer, |facts| entries(facts, "topup:t1").clearing += 1),
    (Kind::TopUpEntriesOfOther, |facts| entries(facts, "topup:t1").client = Some(2)),
    (Kind::ClientDiffers, |facts| facts.stripe.charges[0].client = Some("c2".into())),
    (Kind::ChargeIdDiffers, |facts| top_up(facts, "t1").charge = Some("ch_9".into())),
    (Kind::TopUpNotCharged, |facts| {
        not_at_stripe(facts);
        facts.stripe.not_charged.insert("pi_1".into());
    }),
    (Kind::TopUpUnknownAtStripe, |facts| {
        not_at_stripe(facts);
        facts.stripe.unknown.insert("pi_1".into());
    }),
    (Kind::EntriesOfUnsuccessful, |facts| {
        facts.books.top_ups.insert("t4".into(), TopUpRow { state: "failed".into(), ..row(4) });
        facts.books.posted.insert(source("topup:t4"), Posted { clearing: 5_000_000, ..posted(4) });
    }),
    (Kind::EntryWithoutTopUp, |facts| {
        facts.books.posted.insert(source("topup:t9"), Posted { clearing: 5_000_000, ..posted(1) });
    }),
    (Kind::FeeNotBooked, |facts| forget(facts, "fee:txn_1")),
    (Kind::FeeDiffers, |facts| entries(facts, "fee:txn_1").fees += 10_000),
    (Kind::FeeUnknownAtStripe, |facts| {
        facts.books.posted.insert(source("fee:txn_9"), Posted { fees: 1, ..posted(1) });
    }),
    (Kind::RefundUnknownHere, |facts| {
        facts.stripe.refunds.push(Refunded {
            id: "re_9".into(),
            ours: None,
            ..refunded(1, 50, RefundStatus::Succeeded)
        });
    }),
    (Kind::RefundUnknownAtStripe, |facts| drop(facts.stripe.refunds.pop())),
    (Kind::RefundNotAsked, |facts| {
        let row =
            RefundRow { top_up: "t1".into(), amount: 1, state: "requested".into(), stripe_refund: None };
        facts.books.refunds.insert("r9".into(), row);
    }),
    (Kind::RefundAmountDiffers, |facts| refund(facts, "r2").amount += 10_000),
    (Kind::RefundOfOtherTopUp, |facts| refund(facts, "r2").top_up = "t3".into()),
    (Kind::RefundOpenHere, |facts| {
        refund(facts, "r2").state = "pending".into();
        forget(facts, "refund-paid:r2");
    }),
    (Kind::RefundPendingAtStripe, |facts| facts.stripe.refunds[1].status = RefundStatus::Pending),
    (Kind::RefundFailedAtStripe, |facts| facts.stripe.refunds[1].status = RefundStatus::Failed),
    (Kind::RefundFailedHere, |facts| facts.stripe.refunds[0].status = RefundStatus::Succeeded),
    (Kind::RefundWithoutEntries, |facts| {
        forget(facts, "refund:r2");
        forget(facts, "refund-paid:r2");
    }),
    (Kind::RefundEntriesDiffer, |facts| entries(facts, "refund:r2").pending -= 1),
    (Kind::RefundNotPaidOut, |facts| forget(facts, "refund-paid:r2")),
    (Kind::RefundNotReturned, |facts| forget(facts, "refund-return:r1")),
    (Kind::RefundReturnedWrongly, |facts| {
        facts.books.posted.insert(source("refund-return:r2"), Posted { clearing: 2_000_000, ..posted(2) });
    }),
    (Kind::EntryWithoutRefund, |facts| {
        facts.books.posted.insert(source("refund:r9"), Posted { pending: -1, ..posted(1) });
        facts.books.posted.insert(source("refund-paid:r9"), Posted { clearing: -1, ..posted(1) });
    }),
    (Kind::DisputeNotBooked, |facts| {
        forget(facts, "dispute:txn_d");
    }),
    (Kind::DisputeAmountDiffers, |facts| entries(facts, "dispute:txn_d").clearing -= 10_000),
    (Kind::DisputeOfOtherClient, |facts| entries(facts, "dispute:txn_d").client = Some(1)),
    (Kind::DisputeUnknownAtStripe, |facts| {
        facts.books.posted.insert(source("dispute:txn_9"), Posted { clearing: -1, ..posted(1) });
    }),
    (Kind::ReinstatementNotBooked, |facts| forget(facts, "reinstatement:txn_e")),
    (Kind::ReinstatementAmountDiffers, |facts| entries(facts, "reinstatement:txn_e").clearing += 10_000),
    (Kind::ReinstatementUnknownAtStripe, |facts| {
        facts.books.posted.insert(source("reinstatement:txn_9"), Posted { clearing: 1, ..posted(1) });
    }),
    (Kind::DisputeFeeNotBooked, |facts| forget(facts, "dispute-fee:txn_d")),
    (Kind::DisputeFeeDiffers, |facts| entries(facts, "dispute-fee:txn_d").dispute += 10_000),
    (Kind::DisputeFeeUnknownAtStripe, |facts| {
        facts.books.posted.insert(source("dispute-fee:txn_9"), Posted { dispute: 1, ..posted(1) });
    }),
    (Kind::ClearingDiffers, |facts| {
        facts.books.posted.insert(source("adjustment:1"), Posted { clearing: 1, ..posted(1) });
    }),
];

#[test]
fn both_sides_agree_when_nothing_differs() {
    assert_eq!(kinds(&agreeing()), []);
    assert_eq!(kinds(&Facts::default()), []);
}

#[test]
fn every_kind_of_difference_is_named_and_nothing_else() {
    for (kind, plant) in PLANTS {
        let mut facts = agreeing();
        plant(&mut facts);
        assert_eq!(kinds(&facts), [*kind], "{}", kind.code());
    }
    for kind in Kind::ALL {
        assert!(PLANTS.iter().any(|(planted, _)| planted == kind), "{} is planted by no test", kind.code());
    }
}

/// Who has followed the remedy must not read it again.
#[test]
fn a_charge_nobody_was_credited_for_is_named_until_it_is_given_back() {
    let of_nobody = [Kind::ChargeMissing, Kind::ChargeOfFailed, Kind::ChargedTwice];
    for (kind, plant) in PLANTS {
        let mut facts = agreeing();
        plant(&mut facts);
        let expected: &[&str] = if of_nobody.contains(kind) { &["pi_4"] } else { &[] };
        assert_eq!(charges_nobody_was_credited_for(&facts), expected, "{}", kind.code());
        facts.stripe.given_back.insert("pi_4".into());
        facts.stripe.refunds.push(Refunded { ours: None, ..refunded(4, 500, RefundStatus::Succeeded) });
        let left = if *kind == Kind::ChargeOfOpen { vec![*kind] } else { Vec::new() };
        if of_nobody.contains(kind) || *kind == Kind::ChargeOfOpen {
            assert_eq!(kinds(&facts), left, "{}", kind.code());
        }
    }
}

#[test]
fn codes_are_different_words() {
    let codes: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.code()).collect();
    assert_eq!(codes.len(), Kind::ALL.len());
}

#[test]
fn a_fee_has_a_day_to_be_booked() {
    let mut facts = agreeing();
    forget(&mut facts, "fee:txn_1");
    facts.now -= 1;
    let found = compare(&facts);
    assert_eq!((found.differences.len(), found.fees_not_booked_yet), (0, 1));
}

#[test]
fn a_fee_in_another_currency_is_not_ours() {
    let mut facts = agreeing();
    facts.stripe.charges[0].movement.as_mut().unwrap().currency = "eur".into();
    forget(&mut facts, "fee:txn_1");
    assert_eq!(kinds(&facts), []);
}

#[test]
fn a_difference_tells_both_sides_and_what_to_do() {
    let mut facts = agreeing();
    top_up(&mut facts, "t1").amount = 4_000_000;
    let found = compare(&facts).differences.remove(0).to_string();
    assert_eq!(
        found,
        "topup_amount_differs pi_1 t1: Stripe 5.00 usd; books 4.00 usd. A person must decide which is right, and correct the other."
    );
}

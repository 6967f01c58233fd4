//! Tables: each rule about money by an example. The model beside it tries what nobody thought of.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

mod model;

use super::*;

fn m(n: i64) -> Micros {
    Micros::new(n).unwrap()
}

fn eur() -> Currency {
    "eur".parse().unwrap()
}

fn wallet(paid: i64, bonus: i64, debt: i64) -> ClientState {
    ClientState { paid: m(paid), bonus: m(bonus), debt: m(debt), ..ClientState::new(Currency::USD) }
}

/// A batch in which client 1 has this state, and nobody else exists.
fn batch(state: ClientState) -> Batch {
    let mut batch = Batch::starting_at(1);
    batch.clients.insert(1, state);
    batch
}

/// The batch after this one: what was appended is now recorded.
fn next_batch(before: Batch) -> Batch {
    let mut next = Batch::starting_at(before.next_entry().unwrap());
    next.clients = before.clients;
    next.recorded = before.recorded;
    next.recorded.extend(before.entries.into_iter().map(|entry| (entry.source.clone(), entry)));
    next
}

/// As it is stored.
fn stored(text: &str) -> Source {
    text.parse().unwrap()
}

fn source(kind: &str, id: &str) -> Source {
    stored(&format!("{kind}:{id}"))
}

fn capture(request: &str, price: i64) -> Command {
    Command::Capture(Capture {
        client: 1,
        source: source("usage", request),
        price: m(price),
        route: 5,
        price_list: 6,
        upstream_status: 201,
        held: false,
        key: Some(3),
    })
}

fn top_up(id: &str, amount: i64, bonus: i64) -> TopUp {
    TopUp {
        client: 1,
        source: source("topup", id),
        amount: m(amount),
        bonus: m(bonus),
        currency: Currency::USD,
    }
}

fn clawback(id: &str, amount: i64) -> Clawback {
    Clawback {
        client: 1,
        source: source("refund", id),
        amount: m(amount),
        to: Account::RefundPending,
        forfeits: Micros::ZERO,
        within: Within::Debt,
    }
}

fn reverse(capture: &str) -> Command {
    Command::Reverse(Reverse { capture: stored(capture), client: None })
}

fn hold(request: &str, amount: i64) -> Hold {
    Hold { client: 1, source: source("hold", request), amount: m(amount), key: Some(3) }
}

/// A capture that ends the hold of the same request.
fn settle(request: &str, price: i64) -> Capture {
    let Command::Capture(capture) = capture(request, price) else { unreachable!() };
    Capture { held: true, ..capture }
}

fn release(request: &str) -> Release {
    Release { client: 1, hold: source("hold", request) }
}

/// The end of a hold with what its request came to.
fn came_to(request: &str, amount: i64) -> Settle {
    Settle {
        client: 1,
        hold: source("hold", request),
        amount: m(amount),
        route: 5,
        price_list: 6,
        upstream_status: 201,
        key: Some(3),
    }
}

/// Paid, bonus and debt of client 1.
fn balances(batch: &Batch) -> (i64, i64, i64) {
    let state = batch.clients[&1];
    (state.paid.get(), state.bonus.get(), state.debt.get())
}

/// Debit, credit and amount of each entry.
fn moves(batch: &Batch) -> Vec<(Account, Account, i64)> {
    batch.entries.iter().map(|e| (e.debit, e.credit, e.amount.get())).collect()
}

#[track_caller]
fn posted(outcome: &Outcome) -> (EntryId, bool) {
    match outcome {
        Outcome::Posted { entry, repeated, .. } => (*entry, *repeated),
        Outcome::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

/// Refused, and not the least trace of it.
#[track_caller]
fn refuses(batch: &mut Batch, command: &Command, because: Refusal) {
    let before = (batch.clients.clone(), batch.entries.clone(), batch.changed.clone(), batch.next_entry());
    let known = batch.posted.clone();
    assert_eq!(batch.apply(command), Outcome::Refused(because));
    let after = (batch.clients.clone(), batch.entries.clone(), batch.changed.clone(), batch.next_entry());
    assert_eq!(before, after);
    assert_eq!(known, batch.posted);
}

use Account::{ClientBonus, ClientDebt, ClientPaid, Holds, Promotion, RefundPending, Revenue};

const CLEARING: Account = Account::Clearing(Rail::Stripe);
const FEES: Account = Account::Fees(Rail::Stripe);
const DISPUTE: Account = Account::Dispute(Rail::Stripe);

#[test]
fn a_capture_takes_paid_credit_first_then_bonus() {
    for (name, before, price, after, expected) in [
        ("paid is enough", (100, 50), 60, (40, 50), vec![(ClientPaid, Revenue, 60)]),
        ("all of paid", (100, 50), 100, (0, 50), vec![(ClientPaid, Revenue, 100)]),
        (
            "paid, then bonus",
            (100, 50),
            101,
            (0, 49),
            vec![(ClientPaid, Revenue, 100), (ClientBonus, Revenue, 1)],
        ),
        (
            "exactly everything",
            (100, 50),
            150,
            (0, 0),
            vec![(ClientPaid, Revenue, 100), (ClientBonus, Revenue, 50)],
        ),
        ("bonus alone", (0, 50), 50, (0, 0), vec![(ClientBonus, Revenue, 50)]),
    ] {
        let mut batch = batch(wallet(before.0, before.1, 0));
        posted(&batch.apply(&capture("a", price)));
        assert_eq!(balances(&batch), (after.0, after.1, 0), "{name}");
        assert_eq!(moves(&batch), expected, "{name}");
    }
}

#[test]
fn an_entry_says_everything_about_its_use() {
    let mut batch = batch(ClientState { sequence: 7, last_entry: Some(33), ..wallet(10, 5, 0) });
    batch = Batch { clients: batch.clients, ..Batch::starting_at(40) };
    assert_eq!(posted(&batch.apply(&capture("a", 12))), (40, false));
    let [first, second] = &batch.entries[..] else { panic!("two entries") };
    assert_eq!(
        (first.id, first.source.to_string().as_str(), first.sequence, first.previous),
        (40, "usage:a", 8, Some(33))
    );
    assert_eq!(
        (second.id, second.source.to_string().as_str(), second.sequence, second.previous),
        (41, "usage:a/2", 9, Some(40))
    );
    assert_eq!((first.paid_after, first.bonus_after), (m(0), m(5)));
    assert_eq!((second.paid_after, second.bonus_after), (m(0), m(3)));
    for entry in [first, second] {
        assert_eq!(
            (entry.route, entry.price_list, entry.upstream_status, entry.key),
            (Some(5), Some(6), Some(201), Some(3))
        );
        assert_eq!((entry.client, entry.currency), (1, Currency::USD));
    }
    assert_eq!((batch.next_entry().unwrap(), batch.clients[&1].last_entry), (42, Some(41)));
}

#[test]
fn what_is_refused_changes_nothing() {
    let eur = TopUp { currency: eur(), ..top_up("a", 5, 0) };
    let nobody = TopUp { client: 2, ..top_up("a", 5, 0) };
    let max = Micros::MAX.get();
    for (state, command, because) in [
        (wallet(100, 50, 0), capture("a", 151), Refusal::InsufficientCredits),
        (wallet(0, 0, 0), capture("a", 1), Refusal::InsufficientCredits),
        (wallet(100, 50, 1), capture("a", 1), Refusal::ClientFrozen),
        (ClientState { frozen: true, ..wallet(100, 0, 0) }, capture("a", 1), Refusal::ClientFrozen),
        (wallet(100, 0, 0), capture("a", 0), Refusal::OutOfRange),
        (wallet(100, 0, 0), Command::TopUp(eur), Refusal::CurrencyMismatch),
        (wallet(100, 0, 0), Command::TopUp(nobody), Refusal::UnknownClient),
        (wallet(100, 0, 0), Command::TopUp(top_up("a", 0, 0)), Refusal::OutOfRange),
        (wallet(max, 0, 0), Command::TopUp(top_up("a", 1, 0)), Refusal::OutOfRange),
        (wallet(max, 0, 1), Command::TopUp(top_up("a", 2, 0)), Refusal::OutOfRange),
        // The second of its entries does not fit: the first must not stay.
        (wallet(0, max, 0), Command::TopUp(top_up("a", 1, 1)), Refusal::OutOfRange),
        (wallet(0, 0, max), Command::Clawback(clawback("a", 1)), Refusal::OutOfRange),
        (wallet(5, 5, max), Command::Clawback(clawback("a", 6)), Refusal::OutOfRange),
        (
            wallet(5, 5, 0),
            Command::Clawback(Clawback { client: 9, ..clawback("a", 1) }),
            Refusal::UnknownClient,
        ),
        (wallet(5, 5, 0), Command::Clawback(clawback("a", 0)), Refusal::OutOfRange),
        (wallet(5, 5, 0), reverse("usage:a"), Refusal::NothingToReverse),
    ] {
        refuses(&mut batch(state), &command, because);
    }
}

#[test]
fn a_top_up_repays_debt_first() {
    for (name, debt, amount, bonus, after, expected) in [
        ("no debt", 0, 100, 0, (100, 0, 0), vec![(CLEARING, ClientPaid, 100)]),
        (
            "with bonus",
            0,
            100,
            20,
            (100, 20, 0),
            vec![(CLEARING, ClientPaid, 100), (Promotion, ClientBonus, 20)],
        ),
        ("less than the debt", 70, 30, 0, (0, 0, 40), vec![(CLEARING, ClientDebt, 30)]),
        ("exactly the debt", 70, 70, 0, (0, 0, 0), vec![(CLEARING, ClientDebt, 70)]),
        (
            "more than the debt",
            70,
            100,
            20,
            (30, 20, 0),
            vec![(CLEARING, ClientDebt, 70), (CLEARING, ClientPaid, 30), (Promotion, ClientBonus, 20)],
        ),
    ] {
        let mut batch = batch(wallet(0, 0, debt));
        posted(&batch.apply(&Command::TopUp(top_up("a", amount, bonus))));
        assert_eq!(balances(&batch), after, "{name}");
        assert_eq!(moves(&batch), expected, "{name}");
        assert_eq!(batch.clients[&1].is_frozen(), after.2 > 0, "{name}");
    }
}

#[test]
fn a_clawback_takes_paid_credit_and_the_rest_becomes_debt() {
    for (before, amount, after, expected) in [
        ((100, 50, 0), 60, (40, 50, 0), vec![(ClientPaid, RefundPending, 60)]),
        (
            (100, 50, 0),
            120,
            (0, 50, 20),
            vec![(ClientPaid, RefundPending, 100), (ClientDebt, RefundPending, 20)],
        ),
        (
            (100, 50, 3),
            170,
            (0, 50, 73),
            vec![(ClientPaid, RefundPending, 100), (ClientDebt, RefundPending, 70)],
        ),
        ((0, 0, 0), 9, (0, 0, 9), vec![(ClientDebt, RefundPending, 9)]),
    ] {
        let mut batch = batch(wallet(before.0, before.1, before.2));
        posted(&batch.apply(&Command::Clawback(clawback("a", amount))));
        assert_eq!(balances(&batch), after);
        assert_eq!(moves(&batch), expected);
        assert_eq!(batch.clients[&1].spendable().is_zero(), after.2 > 0 || after.0 + after.1 == 0);
    }
}

#[test]
fn a_clawback_forfeits_the_bonus_that_is_left_of_it() {
    for (before, amount, forfeits, after, expected) in [
        (
            (100, 50, 0),
            60,
            20,
            (40, 30, 0),
            vec![(ClientPaid, RefundPending, 60), (ClientBonus, Promotion, 20)],
        ),
        (
            (100, 15, 0),
            60,
            20,
            (40, 0, 0),
            vec![(ClientPaid, RefundPending, 60), (ClientBonus, Promotion, 15)],
        ),
        ((100, 0, 0), 60, 20, (40, 0, 0), vec![(ClientPaid, RefundPending, 60)]),
        (
            (10, 50, 0),
            60,
            20,
            (0, 30, 50),
            vec![
                (ClientPaid, RefundPending, 10),
                (ClientDebt, RefundPending, 50),
                (ClientBonus, Promotion, 20),
            ],
        ),
    ] {
        let command = Command::Clawback(Clawback { forfeits: m(forfeits), ..clawback("a", amount) });
        let mut batch = batch(wallet(before.0, before.1, before.2));
        let first = posted(&batch.apply(&command)).0;
        assert_eq!(balances(&batch), after);
        assert_eq!(moves(&batch), expected);
        // Once, whatever bonus there is by now.
        posted(&batch.apply(&Command::TopUp(top_up("t", 5, 500))));
        for across_batches in [false, true] {
            if across_batches {
                batch = next_batch(batch);
            }
            assert_eq!(posted(&batch.apply(&command)), (first, true));
            let less = Clawback { forfeits: m(14), ..clawback("a", amount) };
            if expected.iter().any(|(_, to, _)| *to == Promotion) {
                refuses(&mut batch, &Command::Clawback(less), Refusal::SourceConflict);
            }
        }
    }
}

/// What a person decides takes nothing that was spent, owed, or set aside for a running request.
#[test]
fn a_clawback_within_the_credit_takes_what_is_paid_and_not_set_aside() {
    let within = |amount, forfeits, reserved| {
        let within = Within::Credit { reserved: m(reserved) };
        Command::Clawback(Clawback { within, forfeits: m(forfeits), ..clawback("a", amount) })
    };
    for (before, amount, forfeits, reserved, outcome) in [
        ((100, 50, 0), 100, 0, 0, Ok((0, 50, 0))),
        ((100, 50, 0), 100, 0, 50, Ok((0, 50, 0))),
        ((100, 50, 0), 100, 0, 51, Err(Refusal::ReservationsInFlight)),
        ((100, 50, 0), 100, 20, 30, Ok((0, 30, 0))),
        ((100, 50, 0), 100, 20, 31, Err(Refusal::ReservationsInFlight)),
        ((100, 10, 0), 100, 20, 0, Ok((0, 0, 0))),
        ((100, 10, 0), 90, 20, 10, Ok((10, 0, 0))),
        ((100, 10, 0), 90, 20, 11, Err(Refusal::ReservationsInFlight)),
        ((100, 50, 0), 101, 0, 0, Err(Refusal::InsufficientCredits)),
        ((100, 50, 1), 1, 0, 0, Err(Refusal::InsufficientCredits)),
        ((0, 50, 0), 1, 0, 0, Err(Refusal::InsufficientCredits)),
        ((100, 50, 0), 0, 0, 0, Err(Refusal::OutOfRange)),
        ((100, 50, 0), 0, 20, 0, Err(Refusal::OutOfRange)),
    ] {
        let mut batch = batch(wallet(before.0, before.1, before.2));
        match outcome {
            Ok(after) => {
                posted(&batch.apply(&within(amount, forfeits, reserved)));
                assert_eq!(balances(&batch), after);
                // What was done is answered again, whatever has been set aside since.
                assert!(posted(&batch.apply(&within(amount, forfeits, 9999))).1);
            }
            Err(because) => refuses(&mut batch, &within(amount, forfeits, reserved), because),
        }
    }
    // A freeze does not keep the operator from it.
    let mut frozen = batch(ClientState { frozen: true, ..wallet(100, 0, 0) });
    posted(&frozen.apply(&within(100, 0, 0)));
}

fn pay_out(id: &str) -> PayOut {
    PayOut { client: 1, refund: source("refund", id) }
}

/// The whole of a refund comes back.
fn returned(id: &str) -> Reinstate {
    Reinstate { client: 1, source: source("refund-return", id), of: source("refund", id), amount: None }
}

fn fee(id: &str, amount: i64, is_returned: bool) -> Fee {
    Fee { client: 1, source: source("fee", id), amount: m(amount), account: FEES, is_returned }
}

#[test]
fn a_refund_leaves_once_and_for_its_whole_amount() {
    for across_batches in [false, true] {
        let mut batch = batch(wallet(50, 20, 0));
        batch.clients.insert(2, wallet(50, 0, 0));
        refuses(&mut batch, &Command::PayOut(pay_out("a")), Refusal::NothingToReverse);
        posted(&batch.apply(&Command::Clawback(Clawback { forfeits: m(5), ..clawback("a", 70) })));
        let before = (balances(&batch), batch.entries.len());
        if across_batches {
            batch = next_batch(batch);
        }
        let of_another = PayOut { client: 2, ..pay_out("a") };
        refuses(&mut batch, &Command::PayOut(of_another), Refusal::SourceConflict);
        let first = posted(&batch.apply(&Command::PayOut(pay_out("a"))));
        assert_eq!(posted(&batch.apply(&Command::PayOut(pay_out("a")))), (first.0, true));
        assert_eq!(balances(&batch), before.0);
        let made = if across_batches { 0 } else { before.1 };
        assert_eq!(moves(&batch)[made..], [(RefundPending, CLEARING, 70)]);
        assert_eq!(batch.entries[made].source, "refund-paid:a");
    }
}

#[test]
fn a_refund_that_has_come_back_does_not_leave_any_more() {
    for across_batches in [false, true] {
        let mut batch = batch(wallet(50, 0, 0));
        posted(&batch.apply(&Command::Clawback(clawback("a", 20))));
        posted(&batch.apply(&Command::Reinstate(returned("a"))));
        if across_batches {
            batch = next_batch(batch);
        }
        refuses(&mut batch, &Command::PayOut(pay_out("a")), Refusal::SourceConflict);
    }
    // What Stripe has taken itself is not on its way.
    let mut batch = batch(wallet(50, 0, 0));
    posted(&batch.apply(&Command::Clawback(Clawback { to: CLEARING, ..clawback("a", 20) })));
    refuses(&mut batch, &Command::PayOut(pay_out("a")), Refusal::NothingToReverse);
}

#[test]
fn what_comes_back_repays_debt_first_and_brings_the_forfeited_bonus() {
    for across_batches in [false, true] {
        for (left, from) in [(false, RefundPending), (true, CLEARING)] {
            let mut batch = batch(wallet(50, 20, 0));
            posted(&batch.apply(&Command::Clawback(Clawback { forfeits: m(5), ..clawback("a", 70) })));
            assert_eq!(balances(&batch), (0, 15, 20));
            if left {
                posted(&batch.apply(&Command::PayOut(pay_out("a"))));
            }
            if across_batches {
                batch = next_batch(batch);
            }
            let made = batch.entries.len();
            let first = posted(&batch.apply(&Command::Reinstate(returned("a")))).0;
            assert_eq!(balances(&batch), (50, 20, 0));
            let back = [(from, ClientDebt, 20), (from, ClientPaid, 50), (Promotion, ClientBonus, 5)];
            assert_eq!(moves(&batch)[made..], back);
            assert_eq!(posted(&batch.apply(&Command::Reinstate(returned("a")))), (first, true));
        }
    }
    // Debt of another origin is repaid as well.
    let mut batch = batch(wallet(50, 0, 0));
    posted(&batch.apply(&Command::Clawback(clawback("a", 40))));
    posted(&batch.apply(&Command::Clawback(clawback("b", 40))));
    posted(&batch.apply(&Command::Reinstate(returned("a"))));
    assert_eq!(balances(&batch), (10, 0, 0));
}

#[test]
fn a_part_comes_back_without_bonus_and_never_more_than_was_taken() {
    for across_batches in [false, true] {
        let mut batch = batch(wallet(50, 20, 0));
        batch.clients.insert(2, wallet(50, 0, 0));
        posted(&batch.apply(&Command::Clawback(Clawback { forfeits: m(5), ..clawback("a", 40) })));
        if across_batches {
            batch = next_batch(batch);
        }
        let part = |amount| Reinstate {
            source: stored("reinstatement:x"),
            amount: Some(m(amount)),
            ..returned("a")
        };
        for (command, because) in [
            (part(41), Refusal::SourceConflict),
            (part(0), Refusal::OutOfRange),
            (Reinstate { of: stored("refund:b"), ..part(1) }, Refusal::NothingToReverse),
            (Reinstate { client: 2, ..part(1) }, Refusal::SourceConflict),
            (Reinstate { client: 9, ..part(1) }, Refusal::SourceConflict),
        ] {
            refuses(&mut batch, &Command::Reinstate(command), because);
        }
        posted(&batch.apply(&Command::Reinstate(part(30))));
        assert_eq!(balances(&batch), (40, 15, 0));
        refuses(&mut batch, &Command::Reinstate(part(29)), Refusal::SourceConflict);
    }
}

#[test]
fn fees_touch_no_balance() {
    let mut batch = batch(wallet(0, 0, 7));
    let first = posted(&batch.apply(&Command::Fee(fee("a", 3, false))));
    posted(&batch.apply(&Command::Fee(Fee { account: DISPUTE, ..fee("b", 15, false) })));
    posted(&batch.apply(&Command::Fee(Fee { account: DISPUTE, ..fee("c", 15, true) })));
    assert_eq!(balances(&batch), (0, 0, 7));
    let expected = [(FEES, CLEARING, 3), (DISPUTE, CLEARING, 15), (CLEARING, DISPUTE, 15)];
    assert_eq!(moves(&batch), expected);
    assert_eq!(posted(&batch.apply(&Command::Fee(fee("a", 3, false)))), (first.0, true));
    for (other, because) in [
        (fee("a", 4, false), Refusal::SourceConflict),
        (Fee { account: DISPUTE, ..fee("a", 3, false) }, Refusal::SourceConflict),
        (Fee { client: 2, ..fee("a", 3, false) }, Refusal::SourceConflict),
        (Fee { client: 9, ..fee("d", 3, false) }, Refusal::UnknownClient),
        (fee("d", 0, false), Refusal::OutOfRange),
    ] {
        refuses(&mut batch, &Command::Fee(other), because);
    }
}

/// Stripe's events come in any order, and a client pays in when it likes: the balances are the same.
#[test]
fn taking_giving_back_and_paying_in_commute() {
    let take = |id: &str, amount, forfeits| {
        Command::Clawback(Clawback { forfeits: m(forfeits), ..clawback(id, amount) })
    };
    let commands = [take("a", 60, 6), take("b", 40, 4), Command::TopUp(top_up("t", 30, 0)), take("c", 25, 0)];
    let mut ends = HashSet::new();
    for first in 0..4 {
        for second in (0..4).filter(|n| *n != first) {
            for third in (0..4).filter(|n| ![first, second].contains(n)) {
                let last = 6 - first - second - third;
                let mut batch = batch(wallet(55, 20, 0));
                for n in [first, second, third, last] {
                    posted(&batch.apply(&commands[n]));
                    if n == 1 {
                        posted(&batch.apply(&Command::Reinstate(returned("b"))));
                    }
                }
                ends.insert(balances(&batch));
            }
        }
    }
    assert_eq!(ends, HashSet::from([(0, 14, 0)]));
}

#[test]
fn a_frozen_client_still_gets_money_back_and_pays_in() {
    let mut batch = batch(wallet(100, 0, 0));
    posted(&batch.apply(&capture("a", 10)));
    batch.clients.get_mut(&1).unwrap().frozen = true;
    posted(&batch.apply(&reverse("usage:a")));
    posted(&batch.apply(&Command::TopUp(top_up("a", 5, 0))));
    posted(&batch.apply(&Command::Clawback(clawback("a", 1))));
    assert_eq!(balances(&batch), (104, 0, 0));
    refuses(&mut batch, &capture("b", 1), Refusal::ClientFrozen);
}

#[test]
fn a_reversal_restores_the_same_split_whatever_happened_since() {
    let mut batch = batch(wallet(30, 50, 0));
    posted(&batch.apply(&capture("a", 45)));
    posted(&batch.apply(&Command::TopUp(top_up("t", 1000, 0))));
    let before = balances(&batch);
    assert_eq!(before, (1000, 35, 0));
    posted(&batch.apply(&reverse("usage:a")));
    assert_eq!(balances(&batch), (1030, 50, 0));
    assert_eq!(moves(&batch)[3..], [(Revenue, ClientPaid, 30), (Revenue, ClientBonus, 15)]);
    assert_eq!(batch.entries[3].source, "reversal:a");
    assert_eq!(batch.entries[4].source, "reversal:a/2");
    assert_eq!(batch.entries[3].route, None);
}

#[test]
fn a_reversal_that_does_not_fit_any_more_changes_nothing() {
    let mut batch = batch(wallet(30, 10, 0));
    posted(&batch.apply(&capture("a", 40)));
    posted(&batch.apply(&Command::TopUp(top_up("t", 5, Micros::MAX.get()))));
    refuses(&mut batch, &reverse("usage:a"), Refusal::OutOfRange);
}

#[test]
fn only_captures_can_be_reversed() {
    let mut first = batch(wallet(100, 0, 0));
    posted(&first.apply(&capture("a", 10)));
    posted(&first.apply(&reverse("usage:a")));
    posted(&first.apply(&Command::TopUp(top_up("t", 5, 5))));
    posted(&first.apply(&Command::Clawback(clawback("c", 5))));
    for source in ["reversal:a", "topup:t", "refund:c", "usage:b"] {
        refuses(&mut first, &reverse(source), Refusal::NothingToReverse);
    }
    let mut second = next_batch(first);
    for source in ["reversal:a", "topup:t", "refund:c", "usage:b"] {
        refuses(&mut second, &reverse(source), Refusal::NothingToReverse);
    }
}

/// The commands of the next two tests, each with its split over several entries.
fn one_of_each() -> [Command; 4] {
    [
        Command::TopUp(top_up("t", 100, 20)),
        capture("a", 110),
        reverse("usage:a"),
        Command::Clawback(clawback("c", 125)),
    ]
}

#[test]
fn the_same_command_again_is_the_recorded_outcome_and_adds_nothing() {
    for across_batches in [false, true] {
        let mut batch = batch(wallet(0, 0, 0));
        let firsts: Vec<_> = one_of_each().iter().map(|command| posted(&batch.apply(command))).collect();
        assert_eq!(balances(&batch), (0, 20, 25));
        let entries = batch.entries.len();
        if across_batches {
            batch = next_batch(batch);
        }
        let added_before = batch.entries.len();
        for (command, (entry, repeated)) in one_of_each().iter().zip(firsts) {
            assert!(!repeated);
            for _ in 0..2 {
                let outcome = batch.apply(command);
                assert_eq!(posted(&outcome), (entry, true));
                let Outcome::Posted { client, state, .. } = outcome else { unreachable!() };
                assert_eq!((client, state), (1, batch.clients[&1]));
            }
        }
        assert_eq!(batch.entries.len(), added_before);
        assert_eq!(batch.next_entry().unwrap(), i64::try_from(entries).unwrap() + 1);
        assert_eq!(batch.changed.is_empty(), across_batches);
    }
}

#[test]
fn the_same_source_with_other_content_conflicts() {
    let Command::Capture(used) = capture("a", 110) else { unreachable!() };
    let others = [
        Command::Capture(Capture { price: m(109), ..used.clone() }),
        Command::Capture(Capture { price: m(100), ..used.clone() }),
        Command::Capture(Capture { price: m(10), ..used.clone() }),
        Command::Capture(Capture { client: 2, ..used.clone() }),
        Command::Capture(Capture { client: 77, ..used }),
        Command::TopUp(top_up("t", 101, 20)),
        Command::TopUp(top_up("t", 120, 20)),
        Command::TopUp(top_up("t", 100, 21)),
        Command::TopUp(top_up("t", 100, 0)),
        Command::TopUp(TopUp { client: 2, ..top_up("t", 100, 20) }),
        Command::TopUp(TopUp { currency: eur(), ..top_up("t", 100, 20) }),
        Command::Clawback(clawback("c", 124)),
        Command::Clawback(clawback("c", 5)),
        Command::Clawback(Clawback { client: 2, ..clawback("c", 125) }),
        Command::Clawback(Clawback { to: Account::Dispute(Rail::Stripe), ..clawback("c", 125) }),
        Command::Clawback(Clawback { source: stored("topup:t"), ..clawback("c", 100) }),
        Command::TopUp(TopUp { source: stored("usage:a"), ..top_up("t", 110, 0) }),
    ];
    for across_batches in [false, true] {
        let mut batch = batch(wallet(0, 0, 0));
        batch.clients.insert(2, wallet(1000, 0, 0));
        for command in one_of_each() {
            posted(&batch.apply(&command));
        }
        if across_batches {
            batch = next_batch(batch);
        }
        for other in &others {
            refuses(&mut batch, other, Refusal::SourceConflict);
        }
    }
}

#[test]
fn refused_and_posted_commands_of_one_batch_do_not_disturb_each_other() {
    let mut batch = batch(wallet(10, 0, 0));
    batch.clients.insert(2, wallet(10, 0, 0));
    let outcomes: Vec<bool> = [7, 7, 3, 1]
        .iter()
        .enumerate()
        .map(|(n, price)| matches!(batch.apply(&capture(&n.to_string(), *price)), Outcome::Posted { .. }))
        .collect();
    assert_eq!(outcomes, [true, false, true, false]);
    assert_eq!(batch.entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(batch.changed, HashSet::from([1]));
    // A refused source is free: it was never recorded.
    posted(&batch.apply(&Command::TopUp(top_up("t", 7, 0))));
    posted(&batch.apply(&capture("1", 7)));
}

#[test]
fn a_counter_at_its_end_is_refused() {
    let full = ClientState { sequence: i64::MAX, ..wallet(100, 0, 0) };
    refuses(&mut batch(full), &capture("a", 1), Refusal::OutOfRange);
    let mut last = batch(ClientState { sequence: i64::MAX - 1, ..wallet(1, 1, 0) });
    refuses(&mut last, &capture("a", 2), Refusal::OutOfRange);
    posted(&last.apply(&capture("a", 1)));
}

#[test]
fn spendable_is_nothing_in_debt_and_never_overflows() {
    assert_eq!(wallet(3, 4, 0).spendable(), m(7));
    assert_eq!(wallet(3, 4, 1).spendable(), Micros::ZERO);
    assert_eq!(ClientState { frozen: true, ..wallet(3, 4, 0) }.spendable(), Micros::ZERO);
    assert_eq!(wallet(Micros::MAX.get(), 1, 0).credit(), Micros::MAX);
}

#[test]
fn a_hold_takes_paid_credit_first_then_bonus() {
    for (before, amount, after, expected) in [
        ((100, 50), 60, (40, 50), vec![(ClientPaid, Holds, 60)]),
        ((100, 50), 100, (0, 50), vec![(ClientPaid, Holds, 100)]),
        ((100, 50), 101, (0, 49), vec![(ClientPaid, Holds, 100), (ClientBonus, Holds, 1)]),
        ((100, 50), 150, (0, 0), vec![(ClientPaid, Holds, 100), (ClientBonus, Holds, 50)]),
        ((0, 50), 50, (0, 0), vec![(ClientBonus, Holds, 50)]),
    ] {
        let mut batch = batch(wallet(before.0, before.1, 0));
        posted(&batch.apply(&Command::Hold(hold("a", amount))));
        assert_eq!(balances(&batch), (after.0, after.1, 0));
        assert_eq!(moves(&batch), expected);
        // It is no use yet.
        assert_eq!((batch.entries[0].route, batch.entries[0].upstream_status), (None, None));
        assert!(batch.entries.iter().all(|entry| entry.key == Some(3)));
    }
    for (state, amount, because) in [
        (wallet(100, 50, 0), 151, Refusal::InsufficientCredits),
        (wallet(100, 50, 1), 1, Refusal::ClientFrozen),
        (ClientState { frozen: true, ..wallet(100, 0, 0) }, 1, Refusal::ClientFrozen),
        (wallet(100, 0, 0), 0, Refusal::OutOfRange),
    ] {
        refuses(&mut batch(state), &Command::Hold(hold("a", amount)), because);
    }
    let of_nobody = Hold { client: 9, ..hold("a", 1) };
    refuses(&mut batch(wallet(1, 0, 0)), &Command::Hold(of_nobody), Refusal::UnknownClient);
}

#[test]
fn a_hold_that_is_settled_becomes_revenue_and_nothing_else_moves() {
    for across_batches in [false, true] {
        let mut batch = batch(wallet(100, 50, 0));
        posted(&batch.apply(&Command::Hold(hold("a", 120))));
        // What comes in between is not touched by it.
        posted(&batch.apply(&Command::TopUp(top_up("t", 1000, 0))));
        if across_batches {
            batch = next_batch(batch);
        }
        let before = (batch.entries.len(), balances(&batch));
        assert_eq!(before.1, (1000, 30, 0));
        posted(&batch.apply(&Command::Capture(settle("a", 120))));
        assert_eq!(balances(&batch), before.1);
        assert_eq!(moves(&batch)[before.0..], [(Holds, Revenue, 100), (Holds, Revenue, 20)]);
        for entry in &batch.entries[before.0..] {
            assert_eq!(
                (entry.route, entry.price_list, entry.upstream_status, entry.key),
                (Some(5), Some(6), Some(201), Some(3))
            );
            assert_eq!((entry.paid_after, entry.bonus_after), (m(1000), m(30)));
        }
    }
}

#[test]
fn a_release_gives_back_to_where_the_hold_had_taken_it_from() {
    for across_batches in [false, true] {
        let mut batch = batch(wallet(30, 50, 0));
        posted(&batch.apply(&Command::Hold(hold("a", 45))));
        // Debt that came up meanwhile is not repaid by it, and freezes nothing of it.
        posted(&batch.apply(&Command::Clawback(clawback("c", 5))));
        assert_eq!(balances(&batch), (0, 35, 5));
        if across_batches {
            batch = next_batch(batch);
        }
        let before = batch.entries.len();
        posted(&batch.apply(&Command::Release(release("a"))));
        assert_eq!(balances(&batch), (30, 50, 5));
        assert_eq!(moves(&batch)[before..], [(Holds, ClientPaid, 30), (Holds, ClientBonus, 15)]);
        assert!(batch.entries[before..].iter().all(|entry| entry.key.is_none()), "nobody spends");
        assert_eq!(batch.entries[before].source, "release:a");
        assert_eq!(batch.entries[before + 1].source, "release:a/2");
    }
}

#[test]
fn a_hold_ends_once() {
    for across_batches in [false, true] {
        for settled in [false, true] {
            let (settle, release) = (Command::Capture(settle("a", 120)), Command::Release(release("a")));
            let (end, other) = if settled { (settle, release) } else { (release, settle) };
            let mut batch = batch(wallet(100, 50, 0));
            let held = posted(&batch.apply(&Command::Hold(hold("a", 120)))).0;
            let ended = posted(&batch.apply(&end)).0;
            let (after, entries) = (balances(&batch), batch.next_entry());
            if across_batches {
                batch = next_batch(batch);
            }
            refuses(&mut batch, &other, Refusal::NoHold);
            // What was done is answered again, as often as it is asked.
            for _ in 0..2 {
                assert_eq!(posted(&batch.apply(&end)), (ended, true));
                assert_eq!(posted(&batch.apply(&Command::Hold(hold("a", 120)))), (held, true));
            }
            assert_eq!((balances(&batch), batch.next_entry()), (after, entries));
        }
    }
}

#[test]
fn what_was_never_held_is_neither_settled_nor_released() {
    let mut batch = batch(wallet(100, 50, 0));
    posted(&batch.apply(&capture("used", 1)));
    posted(&batch.apply(&Command::TopUp(top_up("t", 5, 5))));
    posted(&batch.apply(&Command::Hold(hold("other", 5))));
    refuses(&mut batch, &Command::Capture(settle("a", 1)), Refusal::NoHold);
    for source in ["hold:a", "usage:used", "topup:t"] {
        let release = Release { client: 1, hold: stored(source) };
        refuses(&mut batch, &Command::Release(release), Refusal::NoHold);
    }
}

#[test]
fn a_hold_is_settled_for_its_own_client_and_amount_alone() {
    for across_batches in [false, true] {
        let mut batch = batch(wallet(100, 50, 0));
        batch.clients.insert(2, wallet(1000, 0, 0));
        posted(&batch.apply(&Command::Hold(hold("a", 120))));
        if across_batches {
            batch = next_batch(batch);
        }
        for other in [
            Command::Capture(settle("a", 119)),
            Command::Capture(settle("a", 121)),
            Command::Capture(settle("a", 100)),
            Command::Capture(settle("a", 20)),
            Command::Capture(Capture { client: 2, ..settle("a", 120) }),
            Command::Capture(Capture { client: 77, ..settle("a", 120) }),
            Command::Release(Release { client: 2, ..release("a") }),
            Command::Hold(hold("a", 119)),
            Command::Hold(Hold { client: 2, ..hold("a", 120) }),
        ] {
            refuses(&mut batch, &other, Refusal::SourceConflict);
        }
        posted(&batch.apply(&Command::Capture(settle("a", 120))));
        refuses(&mut batch, &Command::Capture(settle("a", 119)), Refusal::SourceConflict);
        assert_eq!(balances(&batch), (0, 30, 0));
    }
}

#[test]
fn what_a_frozen_client_holds_is_still_settled_and_released() {
    let mut batch = batch(wallet(100, 0, 0));
    for request in ["a", "b", "c"] {
        posted(&batch.apply(&Command::Hold(hold(request, 10))));
    }
    batch.clients.get_mut(&1).unwrap().frozen = true;
    posted(&batch.apply(&Command::Capture(settle("a", 10))));
    posted(&batch.apply(&Command::Release(release("b"))));
    refuses(&mut batch, &Command::Hold(hold("d", 1)), Refusal::ClientFrozen);
    // In debt as well.
    batch.clients.get_mut(&1).unwrap().frozen = false;
    posted(&batch.apply(&Command::Clawback(clawback("x", 100))));
    refuses(&mut batch, &Command::Hold(hold("d", 1)), Refusal::ClientFrozen);
    posted(&batch.apply(&Command::Capture(settle("c", 10))));
    assert_eq!(balances(&batch), (0, 0, 20));
}

#[test]
fn the_reversal_of_a_settled_hold_gives_back_to_paid_and_bonus_as_they_were() {
    for across_batches in [false, true] {
        // In the order of the hold's legs, and when there is but one of the two.
        for (paid, bonus, back) in [
            (30, 50, vec![(Revenue, ClientPaid, 30), (Revenue, ClientBonus, 15)]),
            (100, 50, vec![(Revenue, ClientPaid, 45)]),
            (0, 50, vec![(Revenue, ClientBonus, 45)]),
        ] {
            let mut batch = batch(wallet(paid, bonus, 0));
            posted(&batch.apply(&Command::Hold(hold("a", 45))));
            posted(&batch.apply(&Command::TopUp(top_up("t", 1000, 0))));
            posted(&batch.apply(&Command::Capture(settle("a", 45))));
            if across_batches {
                batch = next_batch(batch);
            }
            let before = batch.entries.len();
            let first = posted(&batch.apply(&reverse("usage:a"))).0;
            assert_eq!(balances(&batch), (paid + 1000, bonus, 0));
            assert_eq!(moves(&batch)[before..], back);
            assert_eq!(posted(&batch.apply(&reverse("usage:a"))), (first, true));
            // The hold has ended all the same.
            refuses(&mut batch, &Command::Release(release("a")), Refusal::NoHold);
            assert_eq!(batch.entries[before].source, "reversal:a");
        }
    }
}

#[test]
fn a_hold_itself_cannot_be_reversed() {
    let mut batch = batch(wallet(100, 0, 0));
    posted(&batch.apply(&Command::Hold(hold("a", 10))));
    refuses(&mut batch, &reverse("hold:a"), Refusal::NothingToReverse);
    refuses(&mut batch, &reverse("usage:a"), Refusal::NothingToReverse);
    posted(&batch.apply(&Command::Release(release("a"))));
    refuses(&mut batch, &reverse("release:a"), Refusal::NothingToReverse);
}

#[test]
fn a_release_that_does_not_fit_any_more_changes_nothing() {
    let mut batch = batch(wallet(30, 10, 0));
    posted(&batch.apply(&Command::Hold(hold("a", 40))));
    posted(&batch.apply(&Command::TopUp(top_up("t", 5, Micros::MAX.get()))));
    refuses(&mut batch, &Command::Release(release("a")), Refusal::OutOfRange);
}

#[test]
fn a_settled_hold_charges_paid_credit_first_and_gives_the_rest_of_each_back() {
    for across_batches in [false, true] {
        for (before, amount, after, expected) in [
            (
                (100, 50),
                1,
                (99, 50),
                vec![(Holds, Revenue, 1), (Holds, ClientPaid, 99), (Holds, ClientBonus, 20)],
            ),
            (
                (100, 50),
                99,
                (1, 50),
                vec![(Holds, Revenue, 99), (Holds, ClientPaid, 1), (Holds, ClientBonus, 20)],
            ),
            ((100, 50), 100, (0, 50), vec![(Holds, Revenue, 100), (Holds, ClientBonus, 20)]),
            (
                (100, 50),
                101,
                (0, 49),
                vec![(Holds, Revenue, 100), (Holds, Revenue, 1), (Holds, ClientBonus, 19)],
            ),
            ((100, 50), 120, (0, 30), vec![(Holds, Revenue, 100), (Holds, Revenue, 20)]),
            ((200, 50), 30, (170, 50), vec![(Holds, Revenue, 30), (Holds, ClientPaid, 90)]),
            ((0, 150), 30, (0, 120), vec![(Holds, Revenue, 30), (Holds, ClientBonus, 90)]),
            ((100, 50), 0, (100, 50), vec![(Holds, ClientPaid, 100), (Holds, ClientBonus, 20)]),
        ] {
            let mut batch = batch(wallet(before.0, before.1, 0));
            posted(&batch.apply(&Command::Hold(hold("a", 120))));
            // What comes in between is not touched by it.
            posted(&batch.apply(&Command::TopUp(top_up("t", 1000, 0))));
            if across_batches {
                batch = next_batch(batch);
            }
            let made = batch.entries.len();
            let settled = posted(&batch.apply(&Command::Settle(came_to("a", amount)))).0;
            assert_eq!(balances(&batch), (after.0 + 1000, after.1, 0), "{amount}");
            assert_eq!(moves(&batch)[made..], expected, "{amount}");
            for entry in &batch.entries[made..] {
                let told = (entry.route, entry.price_list, entry.upstream_status, entry.key);
                match entry.source.kind() {
                    SourceKind::Usage => assert_eq!(told, (Some(5), Some(6), Some(201), Some(3))),
                    _ => assert_eq!(told, (None, None, None, None)),
                }
            }
            let first_back = expected.iter().position(|(_, credit, _)| *credit != Revenue);
            if let Some(first_back) = first_back {
                assert_eq!(batch.entries[made + first_back].source, "release:a");
            }
            // The same again adds nothing; anything else is refused.
            for _ in 0..2 {
                assert_eq!(posted(&batch.apply(&Command::Settle(came_to("a", amount)))), (settled, true));
            }
            let (other, conflict) = match amount {
                0 => (3, Refusal::NoHold),
                _ => (amount - 1, Refusal::SourceConflict),
            };
            if other > 0 {
                refuses(&mut batch, &Command::Settle(came_to("a", other)), conflict);
            }
            if amount > 0 {
                refuses(&mut batch, &Command::Release(release("a")), Refusal::NoHold);
                refuses(&mut batch, &Command::Settle(came_to("a", 0)), Refusal::NoHold);
                // A cut answer gives back what was charged, to where it was taken from.
                posted(&batch.apply(&reverse("usage:a")));
                assert_eq!(balances(&batch), (before.0 + 1000, before.1, 0), "{amount}");
                refuses(&mut batch, &Command::Release(release("a")), Refusal::NoHold);
            } else {
                assert!(posted(&batch.apply(&Command::Release(release("a")))).1);
            }
        }
    }
}

#[test]
fn a_hold_is_settled_for_its_own_client_and_for_no_more_than_it_holds() {
    for across_batches in [false, true] {
        let mut batch = batch(wallet(100, 50, 0));
        batch.clients.insert(2, wallet(1000, 0, 0));
        posted(&batch.apply(&Command::Hold(hold("a", 120))));
        posted(&batch.apply(&capture("plain", 5)));
        if across_batches {
            batch = next_batch(batch);
        }
        for (settle, because) in [
            (came_to("a", 121), Refusal::ExceedsHold),
            (came_to("a", Micros::MAX.get()), Refusal::ExceedsHold),
            (Settle { client: 2, ..came_to("a", 10) }, Refusal::SourceConflict),
            (Settle { client: 77, ..came_to("a", 10) }, Refusal::SourceConflict),
            (Settle { client: 2, ..came_to("a", 0) }, Refusal::SourceConflict),
            (came_to("b", 1), Refusal::NoHold),
            (came_to("b", 0), Refusal::NoHold),
            // Charged at once, it is no end of a hold.
            (came_to("plain", 5), Refusal::SourceConflict),
            (came_to("plain", 4), Refusal::SourceConflict),
            (Settle { hold: stored("usage:plain"), ..came_to("plain", 5) }, Refusal::SourceConflict),
        ] {
            refuses(&mut batch, &Command::Settle(settle), because);
        }
        posted(&batch.apply(&Command::Release(release("a"))));
        refuses(&mut batch, &Command::Settle(came_to("a", 10)), Refusal::NoHold);
        assert_eq!(balances(&batch), (100, 45, 0));
    }
}

#[test]
fn a_settle_that_does_not_fit_any_more_changes_nothing() {
    let mut batch = batch(wallet(30, 10, 0));
    posted(&batch.apply(&Command::Hold(hold("a", 40))));
    posted(&batch.apply(&Command::TopUp(top_up("t", 5, Micros::MAX.get()))));
    // What is charged fits, what goes back does not: neither may stay.
    refuses(&mut batch, &Command::Settle(came_to("a", 35)), Refusal::OutOfRange);
    posted(&batch.apply(&Command::Settle(came_to("a", 40))));
}

#[test]
fn what_a_frozen_client_holds_is_settled_for_less() {
    let mut batch = batch(wallet(100, 0, 0));
    posted(&batch.apply(&Command::Hold(hold("a", 50))));
    batch.clients.get_mut(&1).unwrap().frozen = true;
    posted(&batch.apply(&Command::Settle(came_to("a", 20))));
    assert_eq!(balances(&batch), (80, 0, 0));
}

/// The shell takes a block of ids beforehand. Too few must not leave half a command in the books.
#[test]
fn a_batch_that_runs_out_of_ids_refuses_and_changes_nothing() {
    let mut batch = Batch::within(7..10);
    batch.clients.insert(1, wallet(100, 50, 0));
    assert_eq!(posted(&batch.apply(&capture("a", 110))), (7, false));
    assert_eq!(batch.next_entry(), Some(9));
    // It would need two, and there is one.
    let two = Batch { clients: HashMap::from([(1, wallet(5, 50, 0))]), ..Batch::within(3..4) };
    refuses(&mut { two }, &capture("b", 10), Refusal::OutOfRange);
    assert_eq!(posted(&batch.apply(&Command::Hold(hold("b", 10)))), (9, false));
    assert_eq!(batch.next_entry(), None);
    for command in [capture("c", 1), reverse("usage:a"), Command::Capture(settle("b", 10))] {
        refuses(&mut batch, &command, Refusal::OutOfRange);
    }
    // What adds nothing needs none.
    assert_eq!(posted(&batch.apply(&capture("a", 110))), (7, true));
    let chain: Vec<_> = batch.entries.iter().map(|entry| (entry.id, entry.previous)).collect();
    assert_eq!(chain, [(7, None), (8, Some(7)), (9, Some(8))]);
    assert_eq!(batch.clients[&1].last_entry, Some(9));
}

/// The shell looks up what commands recall, and takes as many ids as they may need.
#[test]
fn commands_recall_every_source_that_decides_them() {
    for (command, repeated, expected) in [
        (capture("a", 1), false, vec![]),
        (capture("a", 1), true, vec!["usage:a"]),
        (Command::Capture(settle("a", 1)), false, vec!["usage:a", "release:a", "hold:a"]),
        (Command::Capture(settle("a", 1)), true, vec!["usage:a", "release:a", "hold:a"]),
        (Command::Hold(hold("a", 1)), false, vec![]),
        (Command::Hold(hold("a", 1)), true, vec!["hold:a"]),
        (Command::Release(release("a")), false, vec!["hold:a", "release:a", "usage:a"]),
        (Command::Settle(came_to("a", 1)), false, vec!["usage:a", "release:a", "hold:a"]),
        (Command::Settle(came_to("a", 0)), false, vec!["usage:a", "release:a", "hold:a"]),
        (reverse("usage:a"), false, vec!["usage:a", "reversal:a", "hold:a"]),
        (Command::TopUp(top_up("a", 1, 0)), false, vec!["topup:a"]),
        (Command::Clawback(clawback("a", 1)), false, vec!["refund:a"]),
        (Command::PayOut(pay_out("a")), false, vec!["refund-paid:a", "refund:a", "refund-return:a"]),
        (Command::Reinstate(returned("a")), false, vec!["refund-return:a", "refund:a", "refund-paid:a"]),
        (Command::Fee(fee("a", 1, false)), false, vec!["fee:a"]),
    ] {
        assert_eq!(command.recalls(repeated), expected, "{command:?}");
    }
}

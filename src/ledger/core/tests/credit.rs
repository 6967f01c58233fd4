//! Top-ups, what is taken back and comes back again, and fees.

use super::*;

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

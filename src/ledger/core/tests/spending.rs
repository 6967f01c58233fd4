//! Captures, holds, and what is given back.

use super::*;

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
fn spendable_is_nothing_in_debt_and_never_overflows() {
    assert_eq!(wallet(3, 4, 0).spendable(), m(7));
    assert_eq!(wallet(3, 4, 1).spendable(), Micros::ZERO);
    assert_eq!(ClientState { frozen: true, ..wallet(3, 4, 0) }.spendable(), Micros::ZERO);
    assert_eq!(wallet(Micros::MAX.get(), 1, 0).credit(), Micros::MAX);
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

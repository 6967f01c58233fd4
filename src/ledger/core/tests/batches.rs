//! What holds for every command: what is refused leaves no trace, and what comes twice is done once.

use super::*;

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

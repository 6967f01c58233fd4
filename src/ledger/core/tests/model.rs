//! Random commands against a model that was written from the design, not from the code: plain maps of plain integers.
//!
//! `PROPTEST_CASES=10000 cargo test --lib ledger::core` tries for longer.

mod books;
mod expectation;
mod steps;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use self::books::Books;
use self::expectation::{Expected, Model};
use self::steps::steps;
use super::eur;
use crate::domain::{Currency, Micros};
use crate::ledger::account::{Account, Rail};
use crate::ledger::core::*;
use crate::ledger::source::{EntrySource, Source, SourceKind};

const MAX: i64 = Micros::MAX.get();
/// Clients 1 and 2 pay in dollars, 3 in euros, 4 is frozen by an operator; 9 does not exist.
const CLIENTS: [ClientId; 5] = [1, 2, 3, 4, 9];

#[derive(Debug, Clone)]
enum Step {
    Do(Command),
    NextBatch,
}

type Seen = BTreeMap<String, u32>;

/// Plays the steps and compares after each; counts what happened.
fn play(steps: &[Step], seen: &mut Seen) {
    let (mut books, mut model) = Books::open();
    let mut batch = books.begin(steps);
    for (index, step) in steps.iter().enumerate() {
        let Step::Do(command) = step else {
            books.commit(batch);
            books.check(&model);
            batch = books.begin(&steps[index + 1..]);
            continue;
        };
        let entries = batch.entries.len();
        let debt = model.wallets.values().map(|wallet| i128::from(wallet.debt)).sum::<i128>();
        let in_books = batch.recorded.contains_key(&command.source().entry(0));
        let expected = model.expect(command);
        let outcome = batch.apply(command);
        let added = batch.entries.len() - entries;
        let what = match &outcome {
            Outcome::Refused(refusal) => {
                assert_eq!(expected, Expected::Refused(*refusal), "{command:?}");
                assert_eq!(added, 0);
                format!("{refusal:?}")
            }
            Outcome::Posted { entry, client, state, repeated } => {
                let wanted = if *repeated { Expected::Repeated } else { Expected::Added };
                assert_eq!(expected, wanted, "{command:?}");
                assert_eq!(added > 0, !repeated);
                assert!(added <= command.max_legs());
                assert_eq!(*state, batch.clients[client]);
                assert!(*repeated || batch.entries[entries].id == *entry);
                match (repeated, in_books) {
                    (true, true) => "repeated, from the books".to_owned(),
                    (true, false) => "repeated, in one batch".to_owned(),
                    (false, _) => format!("{added} entries"),
                }
            }
        };
        let kind = match command {
            Command::Capture(c) if c.held => "settle",
            Command::Capture(_) => "capture",
            Command::Hold(_) => "hold",
            Command::Release(_) => "release",
            Command::Settle(s) if s.amount.is_zero() => "for nothing",
            Command::Settle(_) => "for less",
            Command::TopUp(_) => "top-up",
            Command::Reverse(_) => "reverse",
            Command::Clawback(Clawback { within: Within::Credit { .. }, .. }) => "refund",
            Command::Clawback(_) => "clawback",
            Command::PayOut(_) => "payout",
            Command::Reinstate(Reinstate { amount: Some(_), .. }) => "part back",
            Command::Reinstate(_) => "back",
            Command::Fee(_) => "fee",
            Command::Adjust(Adjust { gift: Gift::Credit, .. }) => "gift",
            Command::Adjust(_) => "write-off",
        };
        *seen.entry(format!("{kind}: {what}")).or_default() += 1;
        let settled = |entry: &Entry| {
            entry.source == command.source().entry(0) && entry.source.kind() == SourceKind::Reversal
        };
        let of_a_hold = match command {
            Command::Reverse(r) => batch.find(&r.capture).is_some_and(|entry| entry.debit == Account::Holds),
            _ => false,
        };
        if of_a_hold && batch.entries[entries..].iter().any(settled) {
            *seen.entry("reverse: of a settled hold".to_owned()).or_default() += 1;
        }
        if let (Command::Reinstate(r), Outcome::Posted { repeated: false, .. }) = (command, &outcome)
            && batch.find(&r.of.sibling(SourceKind::RefundPaid)).is_some()
        {
            *seen.entry("back: of what had left".to_owned()).or_default() += 1;
        }
        let now = model.wallets.values().map(|wallet| i128::from(wallet.debt)).sum::<i128>();
        let moved = if now > debt { "debt made" } else { "debt repaid" };
        *seen.entry(moved.to_owned()).or_default() += u32::from(now != debt);
    }
    books.commit(batch);
    books.check(&model);
}

proptest! {
    #[test]
    fn random_commands_leave_the_books_as_the_model_says(steps in steps()) {
        play(&steps, &mut Seen::new());
    }
}

#[test]
fn the_random_commands_reach_every_case() {
    let mut runner = TestRunner::deterministic();
    let mut seen = Seen::new();
    let mut played = 0;
    for _ in 0..1_000 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        played += steps.len();
        play(&steps, &mut seen);
    }
    assert!(played > 40_000, "{played} steps");
    for case in [
        "capture: 1 entries",
        "capture: 2 entries",
        "capture: InsufficientCredits",
        "capture: ClientFrozen",
        "capture: UnknownClient",
        "capture: SourceConflict",
        "capture: OutOfRange",
        "capture: repeated, in one batch",
        "capture: repeated, from the books",
        "top-up: 1 entries",
        "top-up: 2 entries",
        "top-up: 3 entries",
        "top-up: CurrencyMismatch",
        "top-up: UnknownClient",
        "top-up: SourceConflict",
        "top-up: OutOfRange",
        "top-up: repeated, in one batch",
        "top-up: repeated, from the books",
        "reverse: 1 entries",
        "reverse: 2 entries",
        "reverse: NothingToReverse",
        "reverse: OutOfRange",
        "reverse: repeated, in one batch",
        "reverse: repeated, from the books",
        "clawback: 1 entries",
        "clawback: 2 entries",
        "clawback: 3 entries",
        "clawback: UnknownClient",
        "clawback: SourceConflict",
        "clawback: OutOfRange",
        "clawback: repeated, in one batch",
        "clawback: repeated, from the books",
        "refund: 1 entries",
        "refund: 2 entries",
        "refund: InsufficientCredits",
        "refund: ReservationsInFlight",
        "refund: UnknownClient",
        "refund: SourceConflict",
        "refund: repeated, in one batch",
        "refund: repeated, from the books",
        "payout: 1 entries",
        "payout: NothingToReverse",
        "payout: SourceConflict",
        "payout: repeated, in one batch",
        "payout: repeated, from the books",
        "back: 1 entries",
        "back: 2 entries",
        "back: 3 entries",
        "back: NothingToReverse",
        "back: SourceConflict",
        "back: repeated, in one batch",
        "back: repeated, from the books",
        "back: of what had left",
        "part back: 1 entries",
        "part back: 2 entries",
        "part back: NothingToReverse",
        "part back: SourceConflict",
        "part back: repeated, in one batch",
        "part back: repeated, from the books",
        "gift: 1 entries",
        "gift: UnknownClient",
        "gift: SourceConflict",
        "gift: repeated, in one batch",
        "write-off: 1 entries",
        "write-off: ExceedsDebt",
        "write-off: SourceConflict",
        "fee: 1 entries",
        "fee: UnknownClient",
        "fee: SourceConflict",
        "fee: repeated, in one batch",
        "fee: repeated, from the books",
        "hold: 1 entries",
        "hold: 2 entries",
        "hold: InsufficientCredits",
        "hold: ClientFrozen",
        "hold: UnknownClient",
        "hold: SourceConflict",
        "hold: OutOfRange",
        "hold: repeated, in one batch",
        "hold: repeated, from the books",
        "settle: 1 entries",
        "settle: 2 entries",
        "settle: NoHold",
        "settle: SourceConflict",
        "settle: repeated, in one batch",
        "settle: repeated, from the books",
        "release: 1 entries",
        "release: 2 entries",
        "release: NoHold",
        "release: SourceConflict",
        "release: repeated, in one batch",
        "release: repeated, from the books",
        "for less: 1 entries",
        "for less: 2 entries",
        "for less: 3 entries",
        "for less: NoHold",
        "for less: SourceConflict",
        "for less: ExceedsHold",
        "for less: repeated, in one batch",
        "for less: repeated, from the books",
        "for nothing: 1 entries",
        "for nothing: NoHold",
        "reverse: of a settled hold",
        "debt made",
        "debt repaid",
    ] {
        assert!(seen.get(case).is_some_and(|times| *times >= 20), "{case} is too rare: {seen:#?}");
    }
}

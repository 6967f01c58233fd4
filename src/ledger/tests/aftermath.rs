//! What becomes of a charge, in every order in which Stripe's events can arrive: one final state.

use std::collections::BTreeMap;

use super::*;
use crate::db::query;
use crate::ledger::adjustments::NewAdjustment;
use crate::ledger::aftermath::{
    Change, ChargeFacts, DisputeFacts, DisputeMovement, Movement, RefundFacts, RefundStatus, WarningFacts,
};
use crate::ledger::core::Gift;

/// What happens to one charge at Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Succeeded,
    /// 40 of the 100.
    Part,
    /// The 60 that are left; on their way until the dispute is closed.
    Rest,
    /// The first refund had succeeded, and comes back.
    PartFailed,
    Warned,
    Opened,
    Withdrawn,
    Reinstated,
    Won,
    Lost,
}

/// A charge of 100 with 20 on top, and the order in which things really happened.
struct Story {
    name: &'static str,
    events: [Event; 7],
    /// Paid, bonus, debt and status in the end, by hand.
    ends: &'static str,
    /// Of the 5,040 orders, each so many-th.
    step: usize,
    /// While events arrive, a held request is settled, a served one given back, and the client pays in again.
    busy: bool,
    /// After each event an operator writes off what is owed.
    let_off: bool,
}

use Event::{Lost, Opened, Part, PartFailed, Reinstated, Rest, Succeeded, Warned, Withdrawn, Won};

/// 45 of the 100 are spent right after the charge.
const STORIES: [Story; 7] = [
    Story {
        name: "a dispute that is won",
        events: [Succeeded, Part, Rest, Opened, Withdrawn, Reinstated, Won],
        // 100 - 45 - 100 - 50 + 50
        ends: "paid 0 bonus 0 debt 45 active",
        step: 13,
        busy: false,
        let_off: false,
    },
    Story {
        name: "a dispute that is lost, with refunds before and after it, and a fraud warning",
        events: [Succeeded, Part, Warned, Opened, Withdrawn, Rest, Lost],
        // 100 - 45 - 100 - 50
        ends: "paid 0 bonus 0 debt 95 frozen",
        step: 15,
        busy: false,
        let_off: false,
    },
    Story {
        name: "a refund that fails after it has succeeded",
        events: [Succeeded, Part, Opened, Withdrawn, PartFailed, Rest, Lost],
        // 100 - 45 - 60 - 50, and 20 - 12
        ends: "paid 0 bonus 8 debt 55 frozen",
        step: 15,
        busy: false,
        let_off: false,
    },
    Story {
        name: "a dispute that is won before the money is back, and a refund that fails",
        events: [Succeeded, Opened, Withdrawn, Part, Won, Reinstated, PartFailed],
        // 100 - 45 - 50 + 50
        ends: "paid 55 bonus 20 debt 0 active",
        step: 15,
        busy: false,
        let_off: false,
    },
    Story {
        name: "a client who goes on meanwhile",
        events: [Succeeded, Part, Opened, Withdrawn, Rest, Reinstated, Won],
        // 100 - 45 - 10 - 100 - 50 + 50 + 30
        ends: "paid 0 bonus 0 debt 25 active",
        step: 31,
        busy: true,
        let_off: false,
    },
    Story {
        name: "a dispute that is won, of a client who is let off whatever is owed",
        events: [Succeeded, Part, Rest, Opened, Withdrawn, Reinstated, Won],
        // Nothing is owed, and what was spent and refunded all the same is all that the seller has given.
        ends: "paid 0 bonus 0 debt 0 active",
        step: 15,
        busy: false,
        let_off: true,
    },
    Story {
        name: "a refund that fails, of a client who is let off whatever is owed",
        events: [Succeeded, Opened, Withdrawn, Part, Won, Reinstated, PartFailed],
        // 100 - 45, as if nothing had been let off: everything has come back.
        ends: "paid 55 bonus 20 debt 0 active",
        step: 15,
        busy: false,
        let_off: true,
    },
];

/// Everything that Stripe knows when this much has happened.
fn facts(top_up: TopUpId, happened: &[Event]) -> ChargeFacts {
    let has = |event| happened.contains(&event);
    let mut facts = nothing_yet(top_up);
    for event in happened {
        match event {
            Part => facts.refunds.push(RefundFacts {
                failure: has(PartFailed).then(|| "lost_or_stolen_card".to_owned()),
                ..refund_of(
                    "part",
                    top_up,
                    40,
                    if has(PartFailed) { RefundStatus::Failed } else { RefundStatus::Succeeded },
                )
            }),
            Rest => {
                let over = has(Won) || has(Lost);
                let status = if over { RefundStatus::Succeeded } else { RefundStatus::Pending };
                facts.refunds.push(refund_of("rest", top_up, 60, status));
            }
            Warned => facts.warnings.push(WarningFacts {
                id: format!("issfr_{top_up}"),
                kind: "made_with_stolen_card".to_owned(),
                created: 5,
            }),
            Opened => {
                let status = match (has(Won), has(Lost), has(Withdrawn)) {
                    (true, _, _) => "won",
                    (_, true, _) => "lost",
                    (_, _, true) => "under_review",
                    _ => "needs_response",
                };
                facts.disputes.push(dispute_of("one", top_up, 50, status));
            }
            Withdrawn => facts.disputes[0].movements.push(moved("out", top_up, 50, false)),
            Reinstated => facts.disputes[0].movements.push(moved("in", top_up, 50, true)),
            Succeeded | PartFailed | Won | Lost => {}
        }
    }
    facts
}

pub(super) fn nothing_yet(top_up: TopUpId) -> ChargeFacts {
    ChargeFacts {
        top_up,
        charge: format!("ch_{top_up}"),
        fingerprint: None,
        fee: Some(Movement { id: format!("txn_charge_{top_up}"), amount: m(3) }),
        refunds: Vec::new(),
        disputes: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(super) fn refund_of(name: &str, top_up: TopUpId, amount: i64, status: RefundStatus) -> RefundFacts {
    RefundFacts {
        id: format!("re_{name}_{top_up}"),
        ours: None,
        asked: None,
        amount: m(amount),
        status,
        failure: None,
    }
}

pub(super) fn dispute_of(name: &str, top_up: TopUpId, amount: i64, status: &str) -> DisputeFacts {
    DisputeFacts {
        id: format!("du_{name}_{top_up}"),
        amount: m(amount),
        status: status.to_owned(),
        reason: "fraudulent".to_owned(),
        due_by: Some(9),
        created: 7,
        movements: Vec::new(),
    }
}

/// A dispute costs 15, which come back if it is won.
pub(super) fn moved(name: &str, top_up: TopUpId, amount: i64, is_reinstated: bool) -> DisputeMovement {
    DisputeMovement {
        id: format!("txn_{name}_{top_up}"),
        amount: m(amount),
        is_reinstated,
        fee: m(15),
        fee_is_returned: is_reinstated,
    }
}

/// All orders of seven things, in the order of a dictionary.
fn orders() -> Vec<[usize; 7]> {
    let mut order = [0, 1, 2, 3, 4, 5, 6];
    let mut all = vec![order];
    while let Some(pivot) = (0..6).rev().find(|at| order[*at] < order[at + 1]) {
        let next = (pivot + 1..7).rev().find(|at| order[*at] > order[pivot]).unwrap();
        order.swap(pivot, next);
        order[pivot + 1..].reverse();
        all.push(order);
    }
    assert_eq!(all.len(), 5_040);
    all
}

/// Lets the events of one charge arrive in this order. Whoever is told of an event reads what Stripe knows by then: the
/// state right after it, or any later one. Answers the client.
async fn tell(books: &Books, story: &Story, number: usize, order: [usize; 7]) -> (ClientId, TopUpId) {
    let top_up = books.charged(None, "usd", 100, 20).await;
    let mut random = u64::try_from(number).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut read = |event: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let later = usize::try_from(random >> 33).unwrap() % (7 - event);
        // Every other charge: nothing that is newer than the event.
        facts(top_up, &story.events[..=event + if number.is_multiple_of(2) { 0 } else { later }])
    };
    // Each comes; one comes twice in a row; and what was sent first comes once more in the end, as it was read then.
    let mut told: Vec<(usize, ChargeFacts)> = order.iter().map(|event| (*event, read(*event))).collect();
    let twice = number % 7;
    told.insert(twice, told[twice].clone());
    told.push((1, facts(top_up, &story.events[..=1])));
    let (mut client, mut waiting) = (None, Vec::new());
    let (held, mut running) = (RequestId::new(), None);
    for (place, (event, facts)) in told.into_iter().enumerate() {
        if event == 0 && client.is_none() {
            let charged = books.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.client;
            client = Some(charged);
            if story.busy {
                let reservation = books.ledger.reserve(charged, m(10)).await.unwrap();
                running = Some(books.ledger.hold(held, reservation, None).await.unwrap().1);
            }
            books.serve(charged, 45).await;
            for facts in std::mem::take(&mut waiting) {
                books.ledger.change(Change::Align(facts)).await.unwrap();
            }
        }
        match books.ledger.change(Change::Align(facts.clone())).await {
            Ok((changed, _)) => assert_eq!(Some(changed), client),
            Err(error) => {
                assert_eq!((error, client), (LedgerError::Refused(Refusal::NotCharged), None));
                waiting.push(facts);
            }
        }
        if let (true, Some(client)) = (story.let_off, client) {
            books.let_off(client).await;
        }
        if let (5.., Some(client), Some(reservation)) = (place, client, running.take_if(|_| place >= 5)) {
            let settled = Capture { held: true, ..capture(client, held, 10) };
            books.ledger.capture(settled, reservation).await.unwrap();
            let again = books.charged(Some(client), "usd", 30, 0).await;
            books.ledger.record_top_up(charge_of(again), None).await.unwrap();
        }
    }
    (client.unwrap(), top_up)
}

/// Everything that is stored about each client and its first charge, without what makes them different.
async fn stored(books: &Books, top_ups: &BTreeMap<ClientId, TopUpId>) -> BTreeMap<ClientId, Vec<String>> {
    const ROWS: [&str; 6] = [
        "SELECT id, 'paid ' || paid || ' bonus ' || bonus || ' debt ' || debt || ' ' || status FROM clients",
        "SELECT client, 'charge ' || charge || ' ' || state FROM top_ups WHERE charge IS NOT NULL",
        "SELECT client, 'refund ' || stripe_refund || ' ' || amount || ' ' || bonus || ' ' || origin || ' ' || state || ' ' || \
         COALESCE(failure, '-') FROM refunds ORDER BY stripe_refund",
        "SELECT client, 'dispute ' || id || ' ' || charge || ' ' || amount || ' ' || status || ' ' || reason || ' ' || due_by || \
         ' ' || created_at FROM disputes ORDER BY id",
        "SELECT client, 'warning ' || id || ' ' || type || ' ' || created_at FROM fraud_warnings ORDER BY id",
        "SELECT client, 'freeze ' || cause || ' ' || CASE WHEN lifted_at IS NULL THEN 'holds' ELSE lifted_by END \
         FROM freezes ORDER BY cause",
    ];
    let mut connection = books.database.connect().await;
    let mut told: BTreeMap<ClientId, Vec<String>> = BTreeMap::new();
    for sql in ROWS {
        for row in query(sql).fetch_all(&mut connection).await.unwrap() {
            let (client, text): (ClientId, String) = (row.try_get(0).unwrap(), row.try_get(1).unwrap());
            let Some(top_up) = top_ups.get(&client) else { continue };
            told.entry(client).or_default().push(text.replace(&top_up.to_string(), "X"));
        }
    }
    let mut sums: BTreeMap<(ClientId, i64), i64> = BTreeMap::new();
    let entries = query("SELECT client, debit, credit, amount FROM entries");
    for row in entries.fetch_all(&mut connection).await.unwrap() {
        let (client, debit, credit, amount): (ClientId, i64, i64, i64) = (
            row.try_get(0).unwrap(),
            row.try_get(1).unwrap(),
            row.try_get(2).unwrap(),
            row.try_get(3).unwrap(),
        );
        *sums.entry((client, debit)).or_default() += amount;
        *sums.entry((client, credit)).or_default() -= amount;
    }
    for ((client, account), sum) in
        sums.into_iter().filter(|(of, sum)| *sum != 0 && top_ups.contains_key(&of.0))
    {
        told.entry(client).or_default().push(format!("account {account}: {sum}"));
    }
    connection.close().await.unwrap();
    told
}

/// The first story in all 5,040 orders, the others in a part of them; on PostgreSQL, where each commit costs more, in fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_any_order_and_twice_leave_one_final_state() {
    let books = Books::open().await;
    books.do_not_wait_for_the_disk().await;
    // In a SOAK run every order, of every story. Steps are odd, because every other charge is read late.
    let is_soak = std::env::var_os("SOAK").is_some();
    let less = if books.is_postgres() { 15 } else { 1 };
    let orders = orders();
    for story in &STORIES {
        let mut top_ups = BTreeMap::new();
        let step = if is_soak { 1 } else { story.step * less };
        let told: Vec<_> = orders.iter().copied().enumerate().step_by(step).collect();
        for some in told.chunks(64) {
            books.ledger.renew_lease().await.unwrap();
            let some = some.iter().map(|(number, order)| tell(&books, story, *number, *order));
            top_ups.extend(join_all(some).await);
        }
        let mut ends: BTreeMap<Vec<String>, ClientId> = BTreeMap::new();
        for (client, end) in stored(&books, &top_ups).await {
            ends.entry(end).or_insert(client);
        }
        assert_eq!(ends.len(), 1, "{}: {ends:#?}", story.name);
        let (end, client) = ends.pop_first().unwrap();
        assert_eq!(end[0], story.ends, "{}: {end:#?}", story.name);
        // What the seller has given is what the client would owe.
        let given = end.iter().find_map(|line| line.strip_prefix("account 10: "));
        let expected = if story.let_off && !story.ends.starts_with("paid 55") { Some("45") } else { None };
        assert_eq!(given, expected, "{}: {end:#?}", story.name);
        // What was taken is nowhere but with the card, at Stripe, and in the debt.
        assert!(!end.iter().any(|line| line.starts_with("account 7:")), "{}: {end:#?}", story.name);
        let state = books.ledger.state(client).await.unwrap().unwrap();
        assert_eq!(state.frozen, story.ends.ends_with("frozen"), "{}", story.name);
    }
    books.assert_clean().await;
}

impl Books {
    pub(super) async fn align(&self, facts: ChargeFacts) -> ClientState {
        self.ledger.change(Change::Align(facts)).await.unwrap().1
    }

    /// A client with 100 and 20 on top, and the charge.
    pub(super) async fn buyer(&self) -> (ClientId, TopUpId) {
        let top_up = self.charged(None, "usd", 100, 20).await;
        let client = self.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.client;
        (client, top_up)
    }

    /// Writes off what a client owes, if it owes something.
    async fn let_off(&self, client: ClientId) {
        let id = uuid::Uuid::now_v7().to_string();
        let new = NewAdjustment {
            request_key: id.clone(),
            id,
            client,
            gift: Gift::Forgiveness,
            amount: None,
            reason: "a gesture".to_owned(),
            operator: "ada".to_owned(),
            max_a_day: Micros::ZERO,
        };
        match self.ledger.change(Change::Adjust(new)).await {
            Ok((_, state)) => assert!(state.debt.is_zero()),
            Err(error) => assert_eq!(error, LedgerError::Refused(Refusal::ExceedsDebt)),
        }
    }
}

#[tokio::test]
async fn an_inquiry_that_becomes_a_dispute_takes_the_money_once() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let facts = |status: &str, movements: &[(&str, bool)]| ChargeFacts {
        disputes: vec![DisputeFacts {
            movements: movements.iter().map(|(name, back)| moved(name, top_up, 40, *back)).collect(),
            ..dispute_of("one", top_up, 40, status)
        }],
        ..nothing_yet(top_up)
    };
    books.align(facts("warning_needs_response", &[])).await;
    assert_eq!(books.balances(client).await, (100, 20, 0));
    let out = facts("needs_response", &[("out", false)]);
    for _ in 0..2 {
        books.align(out.clone()).await;
        assert_eq!(books.balances(client).await, (60, 20, 0));
    }
    // Back, and taken again, and back.
    let all = [("out", false), ("in", true), ("out2", false), ("in2", true)];
    for (so_far, paid) in [(2, 100), (3, 60), (1, 60), (4, 100), (3, 100), (4, 100)] {
        books.align(facts("under_review", &all[..so_far])).await;
        assert_eq!(books.balances(client).await, (paid, 20, 0), "{so_far}");
    }
    // Out of nothing there is nothing to give back, and nothing else of such facts is noted.
    let entries = books.entries().await;
    let odd = ChargeFacts { fee: None, ..facts("won", &[("in9", true)]) };
    books.ledger.change(Change::Align(odd)).await.unwrap_err();
    assert_eq!(books.entries().await, entries);
    assert!(!books.may_spend(client).await);
    books.serve_after(client).await;
    books.assert_clean().await;
}

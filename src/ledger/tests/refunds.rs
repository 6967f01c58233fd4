//! Refunds: those that operators ask for, those that are made elsewhere, and requests that run meanwhile. Never more goes out
//! than came in, and what running requests have set aside stays theirs.

use std::sync::Mutex;

use super::aftermath::{nothing_yet, refund_of};
use super::*;
use crate::domain::RefundId;
use crate::ledger::aftermath::{Change, ChargeFacts, NewRefund, RefundFacts, RefundOrigin, RefundStatus};

fn wanted(top_up: TopUpId, amount: Option<i64>) -> NewRefund {
    NewRefund {
        id: RefundId::new(),
        top_up,
        amount: amount.map(m),
        origin: RefundOrigin::Operator,
        reason: None,
        operator: Some("ada".to_owned()),
        request_key: None,
    }
}

fn keyed(top_up: TopUpId, amount: Option<i64>, key: &str) -> NewRefund {
    NewRefund { request_key: Some(key.to_owned()), ..wanted(top_up, amount) }
}

fn of_ours(id: RefundId, top_up: TopUpId, amount: i64, status: RefundStatus) -> ChargeFacts {
    let refund = RefundFacts { ours: Some(id), ..refund_of(&id.to_string(), top_up, amount, status) };
    ChargeFacts { refunds: vec![refund], ..nothing_yet(top_up) }
}

impl Books {
    async fn refund(&self, new: NewRefund) -> Result<(), Refusal> {
        match self.ledger.request_refund(new).await {
            Ok(_) => Ok(()),
            Err(LedgerError::Refused(refusal)) => Err(refusal),
            Err(other) => panic!("{other}"),
        }
    }

    async fn fail(&self, refund: RefundId) -> Result<(ClientId, ClientState), LedgerError> {
        self.ledger.change(Change::FailRefund { refund, failure: "charge_already_refunded".to_owned() }).await
    }

    async fn align_with(&self, facts: ChargeFacts) {
        self.ledger.change(Change::Align(facts)).await.unwrap();
    }

    /// State and amount of each refund, in the order of their making.
    async fn refunds(&self) -> Vec<String> {
        let all: String = self
            .ask("SELECT COALESCE(string_agg(told, ', '), '') FROM (SELECT state || ' ' || amount || ' ' || bonus AS told FROM refunds ORDER BY id) AS r")
            .await;
        all.split(", ").map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_refund_of_everything_in_parts_takes_exactly_the_bonus() {
    let books = Books::open().await;
    let top_up = books.charged(None, "usd", 100, 7).await;
    let client = books.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.client;
    for (amount, after) in [(33, (67, 5, 0)), (33, (34, 3, 0)), (1, (33, 3, 0))] {
        books.refund(wanted(top_up, Some(amount))).await.unwrap();
        assert_eq!(books.balances(client).await, after);
    }
    assert_eq!(books.refund(wanted(top_up, Some(34))).await, Err(Refusal::ExceedsCharge));
    books.refund(wanted(top_up, None)).await.unwrap();
    assert_eq!(books.balances(client).await, (0, 0, 0));
    assert_eq!(books.refund(wanted(top_up, None)).await, Err(Refusal::ExceedsCharge));
    assert_eq!(books.refund(wanted(TopUpId::new(), None)).await, Err(Refusal::NotCharged));
    assert_eq!(
        books.refunds().await,
        ["requested 33 2", "requested 33 2", "requested 1 0", "requested 33 3"]
    );
    books.assert_clean().await;
}

#[tokio::test]
async fn an_operator_refunds_what_is_paid_and_unspent_alone() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    books.serve(client, 30).await;
    assert_eq!(books.refund(wanted(top_up, None)).await, Err(Refusal::InsufficientCredits));
    assert_eq!(books.refund(wanted(top_up, Some(71))).await, Err(Refusal::InsufficientCredits));
    // Of 70 and 20, a request has 15: of the 75 that are left, a refund of 63 would need 12 more for its bonus.
    let running = books.ledger.reserve(client, m(15)).await.unwrap();
    assert_eq!(books.refund(wanted(top_up, Some(65))).await, Err(Refusal::ReservationsInFlight));
    books.refund(wanted(top_up, Some(60))).await.unwrap();
    assert_eq!(books.balances(client).await, (10, 8, 0));
    books.ledger.capture(capture(client, RequestId::new(), 15), running).await.unwrap();
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    // A fraud warning asks nobody: what has been spent is owed.
    let warned = NewRefund { origin: RefundOrigin::FraudWarning, ..wanted(top_up, None) };
    books.refund(warned).await.unwrap();
    assert_eq!(books.balances(client).await, (0, 0, 40));
    assert!(books.ledger.state(client).await.unwrap().unwrap().is_frozen());
    books.assert_clean().await;
}

/// The bonus that goes with it is set aside as well.
#[tokio::test]
async fn a_frozen_client_is_refunded_but_not_what_a_request_has_set_aside() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let running = books.ledger.reserve(client, m(30)).await.unwrap();
    books.ledger.change(Change::Freeze { client }).await.unwrap();
    assert_eq!(books.refund(wanted(top_up, None)).await, Err(Refusal::ReservationsInFlight));
    drop(running);
    books.refund(wanted(top_up, None)).await.unwrap();
    assert_eq!(books.balances(client).await, (0, 0, 0));
    books.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_refunds_once() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let (_, other) = books.buyer().await;
    // A double click, twenty times at once: with all of the credit, so that there would be none for a second.
    let all = join_all((0..20).map(|_| {
        let ledger = books.ledger.clone();
        tokio::spawn(async move { ledger.request_refund(keyed(top_up, Some(100), "k")).await })
    }));
    for done in all.await {
        assert_eq!(done.unwrap().unwrap().0, client);
    }
    books.refund(keyed(top_up, Some(100), "k")).await.unwrap();
    books.refund(keyed(top_up, None, "k")).await.unwrap();
    assert_eq!(books.refunds().await, ["requested 100 20"]);
    assert_eq!(books.balances(client).await, (0, 0, 0));
    // The key is of that refund and no other.
    assert_eq!(books.refund(keyed(top_up, Some(1), "k")).await, Err(Refusal::SourceConflict));
    assert_eq!(books.refund(keyed(other, None, "k")).await, Err(Refusal::SourceConflict));
    // What was refused is not remembered.
    assert_eq!(books.refund(keyed(other, Some(101), "l")).await, Err(Refusal::ExceedsCharge));
    books.refund(keyed(other, Some(99), "l")).await.unwrap();
    let same = wanted(other, Some(1));
    for _ in 0..2 {
        books.refund(same.clone()).await.unwrap();
    }
    assert_eq!(books.ask::<i64>("SELECT COUNT(*) FROM refunds").await, 3);
    books.assert_clean().await;
}

#[tokio::test]
async fn a_refund_that_stripe_refuses_gives_its_credit_back_once() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let new = wanted(top_up, Some(50));
    books.refund(new.clone()).await.unwrap();
    assert_eq!(books.balances(client).await, (50, 10, 0));
    for _ in 0..2 {
        books.fail(new.id).await.unwrap();
        assert_eq!(books.balances(client).await, (100, 20, 0));
    }
    let unknown = books.fail(RefundId::new()).await.unwrap_err();
    assert_eq!(unknown, LedgerError::Refused(Refusal::NothingToReverse));
    // The charge can be refunded as if nothing had been.
    books.refund(wanted(top_up, None)).await.unwrap();
    assert_eq!(books.refunds().await, ["failed 50 10", "requested 100 20"]);
    books.assert_clean().await;
}

/// An answer got lost, the request was repeated, and Stripe said "already refunded": the refund is there all the same.
#[tokio::test]
async fn a_refund_that_stripe_has_made_is_not_given_back_because_a_repeat_was_refused() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    for status in [RefundStatus::Pending, RefundStatus::Succeeded] {
        let new = wanted(top_up, Some(20));
        books.refund(new.clone()).await.unwrap();
        let before = books.balances(client).await;
        // Seen first.
        books.align_with(of_ours(new.id, top_up, 20, status)).await;
        books.fail(new.id).await.unwrap();
        assert_eq!(books.balances(client).await, before);
    }
    assert_eq!(books.refunds().await, ["pending 20 4", "succeeded 20 4"]);
    // Given back first, seen later.
    let new = wanted(top_up, Some(20));
    books.refund(new.clone()).await.unwrap();
    books.fail(new.id).await.unwrap();
    assert_eq!(books.balances(client).await, (60, 12, 0));
    for _ in 0..2 {
        books.align_with(of_ours(new.id, top_up, 20, RefundStatus::Succeeded)).await;
        assert_eq!(books.balances(client).await, (40, 8, 0));
    }
    books.assert_clean().await;
}

#[tokio::test]
async fn a_refund_of_ours_is_known_again_and_goes_the_way_that_stripe_says() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let new = wanted(top_up, Some(50));
    books.refund(new.clone()).await.unwrap();
    let say = |status| of_ours(new.id, top_up, 50, status);
    let late = [RefundStatus::Succeeded, RefundStatus::Pending, RefundStatus::Succeeded];
    for status in [RefundStatus::Pending].into_iter().chain(late) {
        books.align_with(say(status)).await;
        assert_eq!(books.balances(client).await, (50, 10, 0));
    }
    assert_eq!(books.refunds().await, ["succeeded 50 10"]);
    for status in [RefundStatus::Failed].into_iter().chain(late) {
        books.align_with(say(status)).await;
        assert_eq!(books.balances(client).await, (100, 20, 0));
    }
    assert_eq!(books.refunds().await, ["failed 50 10"]);
    // Another amount under the same name is nothing that Stripe says.
    let refused =
        books.ledger.change(Change::Align(of_ours(new.id, top_up, 51, RefundStatus::Pending))).await;
    assert_eq!(refused.unwrap_err(), LedgerError::Refused(Refusal::SourceConflict));
    books.assert_clean().await;
}

/// Everything of a lost row that Stripe has kept for us.
fn lost(id: RefundId, key: &str, top_up: TopUpId, amount: i64) -> ChargeFacts {
    let refund = RefundFacts {
        ours: Some(id),
        asked: Some((RefundOrigin::Operator, key.to_owned())),
        ..refund_of(&id.to_string(), top_up, amount, RefundStatus::Succeeded)
    };
    ChargeFacts { refunds: vec![refund], ..nothing_yet(top_up) }
}

#[tokio::test]
async fn a_refund_whose_row_is_lost_is_again_what_it_was_and_its_key_refunds_once() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let new = keyed(top_up, Some(25), "k");
    let rows =
        "SELECT string_agg(id || ' ' || origin || ' ' || COALESCE(request_key, '-'), ', ') FROM refunds";
    for _ in 0..2 {
        books.align_with(lost(new.id, "k", top_up, 25)).await;
        assert_eq!(books.balances(client).await, (75, 15, 0));
    }
    assert_eq!(books.ask::<String>(rows).await, format!("{} operator k", new.id));
    // Asked for again: it is there.
    books.refund(NewRefund { id: RefundId::new(), ..new.clone() }).await.unwrap();
    assert_eq!(books.balances(client).await, (75, 15, 0));
    let other = NewRefund { id: RefundId::new(), amount: Some(m(26)), ..new };
    assert_eq!(books.refund(other).await, Err(Refusal::SourceConflict));
    books.assert_clean().await;
}

#[tokio::test]
async fn a_lost_refund_whose_key_or_id_is_taken_by_now_is_booked_all_the_same() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    // The key has refunded again since the database was put back.
    books.refund(keyed(top_up, Some(10), "k")).await.unwrap();
    books.align_with(lost(RefundId::new(), "k", top_up, 25)).await;
    assert_eq!(books.balances(client).await, (65, 13, 0));
    let keys = "SELECT COUNT(*) FROM refunds WHERE request_key = 'k'";
    assert_eq!(books.ask::<i64>(keys).await, 1);
    // Somebody has copied our metadata to a refund of another charge.
    let (other, second) = books.buyer().await;
    let copied = RefundId::new();
    books.align_with(lost(copied, "c", top_up, 5)).await;
    books.align_with(lost(copied, "c", second, 5)).await;
    assert_eq!(books.balances(other).await, (95, 19, 0));
    assert_eq!(books.ask::<i64>("SELECT COUNT(*) FROM refunds").await, 4);
    books.assert_clean().await;
}

// ---- all at once --------------------------------------------------------------------------------------------------

/// What Stripe has refunded of one charge: never more than that.
#[derive(Debug)]
struct Card {
    left: i64,
    refunds: Vec<RefundFacts>,
}

impl Card {
    /// Everything that Stripe knows, once another refund was made, if there is something left for it.
    fn refund(&mut self, top_up: TopUpId, ours: Option<RefundId>, amount: i64) -> Option<ChargeFacts> {
        self.left = self.left.checked_sub(amount).filter(|left| *left >= 0)?;
        let status = if amount % 2 == 0 { RefundStatus::Succeeded } else { RefundStatus::Pending };
        let name = self.refunds.len().to_string();
        self.refunds.push(RefundFacts { ours, ..refund_of(&name, top_up, amount, status) });
        Some(self.facts(top_up))
    }

    fn facts(&self, top_up: TopUpId) -> ChargeFacts {
        ChargeFacts { refunds: self.refunds.clone(), ..nothing_yet(top_up) }
    }
}

/// Operators, people at Stripe's dashboard and callers, all with one charge of 100 and 20 on top. Answers whether somebody
/// owes something in the end.
async fn round(books: Arc<Books>, number: i64) -> bool {
    let (client, top_up) = books.buyer().await;
    let at_stripe = number % 2 == 1;
    let card = Arc::new(Mutex::new(Card { left: 100, refunds: Vec::new() }));
    let mut tasks = Vec::new();
    for n in 0..4 {
        let books = Arc::clone(&books);
        tasks.push(tokio::spawn(async move {
            let price = 7 + (number * 5 + n * 11) % 30;
            let Ok(reservation) = books.ledger.reserve(client, m(price)).await else { return };
            // The API works.
            for _ in 0..(number + n) % 5 {
                tokio::task::yield_now().await;
            }
            match books.ledger.capture(capture(client, RequestId::new(), price), reservation).await {
                Ok(posted) => books.ledger.delivered(posted.entry),
                // What was set aside is there, unless Stripe has taken it.
                Err(error) => assert!(at_stripe, "round {number}: {error}"),
            }
        }));
    }
    for n in 0..3 {
        let (books, card) = (Arc::clone(&books), Arc::clone(&card));
        tasks.push(tokio::spawn(async move {
            let amount = 10 + (number * 3 + n * 17) % 60;
            if at_stripe && n == 0 {
                let made = card.lock().unwrap().refund(top_up, None, amount);
                books.align_with(made.unwrap()).await;
                return;
            }
            let new = wanted(top_up, Some(amount));
            if books.refund(new.clone()).await.is_err() {
                return;
            }
            let made = card.lock().unwrap().refund(top_up, Some(new.id), amount);
            match made {
                Some(facts) => books.align_with(facts).await,
                None => drop(books.fail(new.id).await.unwrap()),
            }
        }));
    }
    for done in join_all(tasks).await {
        done.unwrap();
    }
    let facts = card.lock().unwrap().facts(top_up);
    let at_card: i64 = facts.refunds.iter().map(|refund| refund.amount.get()).sum();
    books.align_with(facts).await;
    let out = format!(
        "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM refunds WHERE top_up = '{top_up}' AND state <> 'failed'"
    );
    let out: i64 = books.ask(out).await;
    assert_eq!(out, at_card, "round {number}");
    let used = format!(
        "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM entries WHERE client = {client} AND credit = 8"
    );
    let used: i64 = books.ask(used).await;
    let forfeited = format!(
        "SELECT CAST(COALESCE(SUM(CASE credit WHEN 9 THEN amount ELSE -amount END), 0) AS BIGINT) FROM entries \
         WHERE client = {client} AND (credit = 9 OR debit = 9) AND source NOT LIKE 'topup:%'"
    );
    let forfeited: i64 = books.ask(forfeited).await;
    let (paid, bonus, debt) = books.balances(client).await;
    assert_eq!(paid + bonus - debt, 120 - used - out - forfeited, "round {number}");
    assert!(out <= 100 && (0..=20).contains(&forfeited), "round {number}: {out}, {forfeited}");
    assert!(debt == 0 || at_stripe, "round {number}: only what Stripe has done can be owed");
    debt > 0
}

/// A thousand rounds; on PostgreSQL, where each commit costs more, fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_and_requests_at_once_never_take_more_than_there_is() {
    let books = Arc::new(Books::open().await);
    books.do_not_wait_for_the_disk().await;
    let rounds: Vec<i64> = (0..if books.is_postgres() { 100 } else { 1_000 }).collect();
    let mut owing = 0;
    for some in rounds.chunks(4) {
        for owes in join_all(some.iter().map(|number| round(Arc::clone(&books), *number))).await {
            owing += i32::from(owes);
        }
    }
    assert!(owing > 0, "nothing was ever owed: the rounds are too tame");
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    assert_eq!(books.replays(), 0);
    books.assert_clean().await;
}

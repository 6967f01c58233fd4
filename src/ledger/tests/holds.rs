//! Credit that is held durably for a running request: its row is there exactly between the hold and its end.

use super::*;
use crate::ledger::verify::Verification;

/// A settled hold is a capture like any other.
fn settling(client: ClientId, request: RequestId, price: i64) -> Capture {
    Capture { held: true, ..capture(client, request, price) }
}

/// What a request came to that held more.
fn came_to(client: ClientId, request: RequestId, amount: i64) -> Settle {
    Settle {
        client,
        hold: Source::new(SourceKind::Hold, request),
        amount: m(amount),
        route: 1,
        price_list: 1,
        upstream_status: 200,
        key: None,
    }
}

impl Books {
    /// Reserves and holds. What comes back is the place among the client's running requests.
    async fn hold(&self, client: ClientId, amount: i64) -> (RequestId, Reservation) {
        let request = RequestId::new();
        let reservation = self.ledger.reserve(client, m(amount)).await.unwrap();
        let (posted, running) = self.ledger.hold(request, reservation, None).await.unwrap();
        assert!(!posted.repeated && posted.client == client);
        (request, running)
    }

    /// Requests that have a row, with what it says.
    async fn held(&self) -> i64 {
        self.ask("SELECT COUNT(*) FROM holds").await
    }
}

#[tokio::test]
async fn a_hold_is_settled_by_its_capture() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    let (request, running) = books.hold(client, 120).await;
    assert_eq!(books.balances(client).await, (0, 30, 0));
    // The amount is in the hold now, and no longer set aside in memory on top of it.
    assert_eq!((running.amount(), books.ledger.total_reserved()), (Micros::ZERO, Micros::ZERO));
    let row = format!(
        "SELECT COUNT(*) FROM holds WHERE request = '{request}' AND client = {client} AND amount = 120"
    );
    assert_eq!((books.ask::<i64>(row).await, books.held().await), (1, 1));
    let report = books.verified().await;
    assert_eq!((report.found, report.open_holds), (0, 1), "{:?}", report.findings);

    let posted = books.ledger.capture(settling(client, request, 120), running).await.unwrap();
    assert_eq!(books.undelivered().await, [posted.entry]);
    books.ledger.delivered(posted.entry);
    assert_eq!(books.balances(client).await, (0, 30, 0));
    assert_eq!(books.held().await, 0);
    let late = books.ledger.release(request, client).await.unwrap_err();
    assert_eq!(late, LedgerError::Refused(Refusal::NoHold));
    books.assert_clean().await;
    // A cut answer gives back what the hold had taken, from where it had taken it.
    books.ledger.reverse(request).await.unwrap();
    assert_eq!(books.balances(client).await, (100, 50, 0));
    books.assert_clean().await;
}

#[tokio::test]
async fn a_hold_is_released_once() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    let (request, running) = books.hold(client, 120).await;
    let released = books.ledger.release(request, client).await.unwrap();
    assert!(!released.repeated);
    assert_eq!((books.balances(client).await, books.held().await), ((100, 50, 0), 0));
    let again = books.ledger.release(request, client).await.unwrap();
    assert_eq!((again.entry, again.repeated), (released.entry, true));
    // The capture of a hold that has ended is refused, and nobody is charged.
    let late = books.ledger.capture(settling(client, request, 120), running).await.unwrap_err();
    assert_eq!(late, LedgerError::Refused(Refusal::NoHold));
    assert_eq!((books.balances(client).await, books.held().await), ((100, 50, 0), 0));
    assert_eq!((books.undelivered().await, books.ledger.total_reserved()), (vec![], Micros::ZERO));
    books.assert_clean().await;
}

#[tokio::test]
async fn what_is_held_cannot_be_spent_twice() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let (first, running) = books.hold(client, 80).await;
    assert!(matches!(
        books.ledger.reserve(client, m(30)).await,
        Err(ReserveError::NotReserved(NotReserved::Insufficient(_)))
    ));
    books.serve(client, 20).await;
    books.ledger.release(first, client).await.unwrap();
    drop(running);
    let nobody = books.ledger.release(RequestId::new(), client).await.unwrap_err();
    assert_eq!(nobody, LedgerError::Refused(Refusal::NoHold));
    books.serve(client, 80).await;
    assert_eq!(books.balances(client).await, (0, 0, 0));
    books.assert_clean().await;
}

#[tokio::test]
async fn hold_and_end_in_one_batch_leave_no_row() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    let request = RequestId::new();
    let reservation = books.ledger.reserve(client, m(120)).await.unwrap();
    let (held, released) =
        tokio::join!(books.ledger.hold(request, reservation, None), books.ledger.release(request, client));
    assert!(!held.unwrap().0.repeated && !released.unwrap().repeated);
    assert_eq!((books.balances(client).await, books.held().await), ((100, 50, 0), 0));
    assert_eq!(books.replays(), 0);
    books.assert_clean().await;
}

/// A request whose hold was not answered because the database was away: it is not charged, and its release finds out whether
/// there is something to give back.
#[tokio::test]
async fn a_hold_of_unknown_outcome_is_released() {
    let books = Books::open_impatient().await;
    let client = books.client(100, 50).await;
    assert_eq!(books.balances(client).await, (100, 50, 0));
    let request = RequestId::new();
    let reservation = books.ledger.reserve(client, m(120)).await.unwrap();
    let lock = books.lock().await;
    let unknown = books.ledger.hold(request, reservation, None).await.unwrap_err();
    assert!(matches!(unknown, LedgerError::Unavailable(_)));
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    let not_yet = books.ledger.release(request, client).await.unwrap_err();
    assert!(matches!(not_yet, LedgerError::Unavailable(_)));
    books.unlock(lock).await;
    // It never got there.
    let released = books.ledger.release(request, client).await.unwrap_err();
    assert_eq!(released, LedgerError::Refused(Refusal::NoHold));
    assert_eq!(books.held().await, 0);
    books.assert_clean().await;
}

/// As after a commit that was reported as failed: the hold is in the books, and neither the writer nor the memory knows.
#[tokio::test]
async fn a_hold_that_took_place_unnoticed_is_found_and_released() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    assert_eq!(books.balances(client).await, (100, 0, 0));
    let request = RequestId::new();
    let next = books.database.each("2", "nextval('entry_ids')");
    books
        .run(format!(
            "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, previous, paid_after, \
             bonus_after, debt_after) \
             SELECT {next}, 1, 'hold:{request}', 1, {}, 60, 'usd', {client}, 2, last_entry, 40, 0, 0 FROM clients WHERE id = {client}; \
             UPDATE clients SET paid = 40, sequence = 2, last_entry = (SELECT MAX(id) FROM entries) WHERE id = {client}; \
             INSERT INTO holds (request, client, amount, node, created_at) VALUES ('{request}', {client}, 60, 'n', 1)",
            account::Account::Holds.number()
        ))
        .await;
    // A guilty neighbour makes SQLite's writer forget what it believed.
    books.replay_something().await;
    let released = books.ledger.release(request, client).await.unwrap();
    assert!(!released.repeated);
    assert_eq!((books.balances(client).await, books.held().await), ((100, 0, 0), 0));
    books.assert_clean().await;
}

impl Books {
    async fn replay_something(&self) {
        let other = self.client(100, 0).await;
        let guilty = Capture { route: 999, ..capture(other, RequestId::new(), 10) };
        let reservation = self.ledger.reserve(other, m(10)).await.unwrap();
        self.ledger.capture(guilty, reservation).await.unwrap_err();
    }
}

#[tokio::test]
async fn the_hold_of_a_guilty_neighbour_is_taken_once() {
    let books = Books::open().await;
    let client = books.client(1_000, 0).await;
    let (first, running) = books.hold(client, 50).await;
    let (new, ended) = (RequestId::new(), books.hold(client, 30).await);
    let reservation = books.ledger.reserve(client, m(70)).await.unwrap();
    let guilty = Capture { route: 999, ..capture(client, RequestId::new(), 10) };
    let guilty_reservation = books.ledger.reserve(client, m(10)).await.unwrap();
    let (held, settled, released, failed) = tokio::join!(
        books.ledger.hold(new, reservation, None),
        books.ledger.capture(settling(client, first, 50), running),
        books.ledger.release(ended.0, client),
        books.ledger.capture(guilty, guilty_reservation),
    );
    assert!(!held.unwrap().0.repeated && !settled.unwrap().repeated && !released.unwrap().repeated);
    assert!(matches!(failed, Err(LedgerError::Unavailable(_))));
    assert_eq!(books.replays(), 1);
    assert_eq!((books.held().await, books.balances(client).await), (1, (880, 0, 0)));
    books.assert_clean().await;
}

/// What a node leaves when it ends is released by the next, once.
#[tokio::test]
async fn holds_of_a_node_that_has_ended_are_released_at_the_next_start() {
    for killed in [false, true] {
        let books = Books::open().await;
        let client = books.client(100, 50).await;
        let (settled, running) = books.hold(client, 20).await;
        let posted = books.ledger.capture(settling(client, settled, 20), running).await.unwrap();
        books.ledger.delivered(posted.entry);
        let (_, forgotten) = books.hold(client, 110).await;
        drop(forgotten);
        assert_eq!((books.balances(client).await, books.held().await), ((0, 20, 0), 1));
        // The row of undelivered captures is rewritten by one more commit.
        books.serve(client, 5).await;
        books.serve(client, 5).await;
        let mut books = if killed { books.kill_and_reopen().await } else { books.reopen().await };
        assert_eq!(books.held().await, 0);
        // Whoever is killed gives back the last two as well.
        assert_eq!(books.balances(client).await, (80, if killed { 50 } else { 40 }, 0));
        for _ in 0..2 {
            let entries = books.entries().await;
            books = books.reopen().await;
            assert_eq!((books.entries().await, books.held().await), (entries, 0));
        }
        books.assert_clean().await;
    }
}

/// A capture whose row of the hold is missing must not be charged: somebody has changed the table behind our back.
#[tokio::test]
async fn a_hold_without_its_row_is_not_settled() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let (request, running) = books.hold(client, 60).await;
    books.run("DELETE FROM holds").await;
    let refused = books.ledger.capture(settling(client, request, 60), running).await.unwrap_err();
    assert!(matches!(refused, LedgerError::Unavailable(_)));
    assert_eq!(books.balances(client).await, (40, 0, 0));
    assert_eq!(books.undelivered().await, [] as [EntryId; 0]);
    let report = books.verified().await;
    assert_eq!((report.found, books.entries().await), (1, 2), "{:?}", report.findings);
}

#[tokio::test]
async fn verify_finds_holds_that_are_missing_surplus_or_of_another_amount() {
    let books = Books::open().await;
    let client = books.client(1_000, 0).await;
    let other = books.client(1_000, 0).await;
    let (request, _running) = books.hold(client, 60).await;
    let says = |report: &Verification, what: &str| {
        assert_eq!(report.found, 1, "{:?}", report.findings);
        assert!(report.findings[0].contains(what), "{:?}", report.findings);
    };
    let row = format!("hold {request}: its row is not what the books hold for it");
    for (damage, repair) in [
        ("amount = 61".to_owned(), "amount = 60".to_owned()),
        (format!("client = {other}"), format!("client = {client}")),
    ] {
        books.run(format!("UPDATE holds SET {damage}")).await;
        says(&books.verified().await, &row);
        books.run(format!("UPDATE holds SET {repair}")).await;
    }
    let insert = |request: &str| {
        format!(
            "INSERT INTO holds (request, client, amount, node, created_at) VALUES ('{request}', {client}, 60, 'n', 1)"
        )
    };
    books.run(insert("surplus")).await;
    says(&books.verified().await, "hold surplus: its row is not what the books hold for it");
    books.run("DELETE FROM holds WHERE request = 'surplus'").await;
    books.assert_clean().await;
    books.run("DELETE FROM holds").await;
    says(
        &books.verified().await,
        &format!("hold {request}: the books hold something for it, but it has no row"),
    );
    books.run(insert(&request.to_string())).await;
    books.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_holds_at_once_leave_every_client_with_what_it_did_not_use() {
    let books = Arc::new(Books::open().await);
    let clients = [books.client(5_000, 500).await, books.client(300, 900).await];
    let spent = Arc::new(AtomicI64::new(0));
    let tasks = (0..60).map(|n: i64| {
        let (books, spent) = (Arc::clone(&books), Arc::clone(&spent));
        tokio::spawn(async move {
            let client = clients[usize::try_from(n % 2).unwrap()];
            let amount = 1 + n % 13;
            let (request, running) = books.hold(client, amount).await;
            match n % 4 {
                2 => {
                    let less = amount / 2;
                    let settle = came_to(client, request, less);
                    let posted = books.ledger.settle_held(settle, running).await.unwrap();
                    books.ledger.delivered(posted.entry);
                    spent.fetch_add(less, Ordering::SeqCst);
                }
                0 => drop(books.ledger.release(request, client).await.unwrap()),
                1 => {
                    let both = tokio::join!(
                        books.ledger.capture(settling(client, request, amount), running),
                        books.ledger.release(request, client)
                    );
                    // One of the two came first, and the other is told so.
                    match both {
                        (Ok(posted), Err(LedgerError::Refused(Refusal::NoHold))) => {
                            books.ledger.delivered(posted.entry);
                            spent.fetch_add(amount, Ordering::SeqCst);
                        }
                        (Err(LedgerError::Refused(Refusal::NoHold)), Ok(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
                _ => {
                    let posted =
                        books.ledger.capture(settling(client, request, amount), running).await.unwrap();
                    books.ledger.delivered(posted.entry);
                    spent.fetch_add(amount, Ordering::SeqCst);
                }
            }
        })
    });
    for done in join_all(tasks).await {
        done.unwrap();
    }
    let mut left = 0;
    for client in clients {
        let (paid, bonus, _) = books.balances(client).await;
        left += paid + bonus;
    }
    assert_eq!(left, 6_700 - spent.load(Ordering::SeqCst));
    assert_eq!((books.held().await, books.ledger.total_reserved()), (0, Micros::ZERO));
    books.assert_clean().await;
}

/// Charges and holds name the key that spent, in one statement and in a batch of many; what nobody spends names none.
#[tokio::test]
async fn entries_name_the_key_that_spent() {
    let books = Books::open().await;
    let mut keys = Vec::new();
    for _ in 0..3 {
        let client = books.client(100, 50).await;
        let number: i64 = books.ask(format!("SELECT number FROM client_keys WHERE client = {client}")).await;
        keys.push((client, number));
    }
    let charges = keys.iter().map(async |(client, number)| {
        let reservation = books.ledger.reserve(*client, m(110)).await.unwrap();
        let capture = Capture { key: Some(*number), ..capture(*client, RequestId::new(), 110) };
        books.ledger.capture(capture, reservation).await.unwrap();
    });
    futures_util::future::join_all(charges).await;
    // Alone, after the node has taken a block of ids.
    let (client, number) = keys[0];
    for (key, price) in [(Some(number), 1), (None, 2)] {
        let reservation = books.ledger.reserve(client, m(price)).await.unwrap();
        let capture = Capture { key, ..capture(client, RequestId::new(), price) };
        books.ledger.capture(capture, reservation).await.unwrap();
    }
    let (client, number) = keys[1];
    let held = RequestId::new();
    let reservation = books.ledger.reserve(client, m(5)).await.unwrap();
    drop(books.ledger.hold(held, reservation, Some(number)).await.unwrap());
    books.ledger.release(held, client).await.unwrap();
    for (client, number) in keys {
        let named = format!(
            "SELECT COUNT(*) FROM entries WHERE client = {client} AND key = {number} AND source LIKE 'usage:%'"
        );
        let expected = if client == 1 { 3 } else { 2 };
        assert_eq!(books.ask::<i64>(named).await, expected, "{client}");
    }
    for (what, count) in [
        ("key IS NOT NULL AND source NOT LIKE 'usage:%' AND source NOT LIKE 'hold:%'", 0),
        ("key IS NULL AND source LIKE 'hold:%'", 0),
        ("key IS NULL AND source LIKE 'usage:%'", 1),
        ("key IS NULL AND source LIKE 'release:%'", 1),
    ] {
        assert_eq!(
            books.ask::<i64>(format!("SELECT COUNT(*) FROM entries WHERE {what}")).await,
            count,
            "{what}"
        );
    }
    books.assert_clean().await;
}

#[tokio::test]
async fn a_hold_is_settled_for_less_than_it_holds() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    let (request, running) = books.hold(client, 120).await;
    let posted = books.ledger.settle_held(came_to(client, request, 110), running).await.unwrap();
    assert_eq!((posted.repeated, posted.state.credit()), (false, m(40)));
    assert_eq!((books.balances(client).await, books.held().await), ((0, 40, 0), 0));
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    // Until its answer is delivered it is noted, like every charge.
    assert_eq!(books.undelivered().await, [posted.entry]);
    assert!(books.ledger.is_charged(request).await.unwrap());
    books.assert_clean().await;
    let late = books.ledger.release(request, client).await.unwrap_err();
    assert_eq!(late, LedgerError::Refused(Refusal::NoHold));
    let sql = format!(
        "SELECT CAST(SUM(amount) AS BIGINT) FROM entries WHERE source IN ('usage:{request}', 'usage:{request}/2')"
    );
    assert_eq!(books.ask::<i64>(sql).await, 110);
    books.ledger.reverse(request).await.unwrap();
    assert_eq!(books.balances(client).await, (100, 50, 0));
    books.assert_clean().await;
}

#[tokio::test]
async fn a_hold_that_came_to_nothing_is_released_and_none_is_settled_for_more() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    let (request, running) = books.hold(client, 120).await;
    let above = books.ledger.settle_held(came_to(client, request, 121), running).await.unwrap_err();
    assert_eq!(above, LedgerError::Refused(Refusal::ExceedsHold));
    // It is still there, and so is its row.
    assert_eq!((books.balances(client).await, books.held().await), ((0, 30, 0), 1));
    let running = books.ledger.reserve(client, m(1)).await.unwrap();
    let nothing = books.ledger.settle_held(came_to(client, request, 0), running).await.unwrap();
    assert!(!nothing.repeated);
    assert_eq!((books.balances(client).await, books.held().await), ((100, 50, 0), 0));
    assert!(books.undelivered().await.is_empty() && !books.ledger.is_charged(request).await.unwrap());
    let again = books.ledger.release(request, client).await.unwrap();
    assert_eq!((again.entry, again.repeated), (nothing.entry, true));
    let running = books.ledger.reserve(client, m(1)).await.unwrap();
    let late = books.ledger.settle_held(came_to(client, request, 10), running).await.unwrap_err();
    assert_eq!(late, LedgerError::Refused(Refusal::NoHold));
    books.assert_clean().await;
}

/// In one batch, and again after it.
#[tokio::test]
async fn a_settle_that_comes_twice_is_charged_once() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let (request, running) = books.hold(client, 80).await;
    let second = books.ledger.reserve(client, m(1)).await.unwrap();
    let settle = || came_to(client, request, 30);
    let (first, second) =
        tokio::join!(books.ledger.settle_held(settle(), running), books.ledger.settle_held(settle(), second));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.entry, first.repeated, second.repeated), (second.entry, false, true));
    let third = books.ledger.reserve(client, m(1)).await.unwrap();
    let other = books.ledger.settle_held(came_to(client, request, 31), third).await.unwrap_err();
    assert_eq!(other, LedgerError::Refused(Refusal::SourceConflict));
    assert_eq!((books.balances(client).await, books.held().await), ((70, 0, 0), 0));
    books.assert_clean().await;
}

/// What was settled and not delivered for certain when the process ended is given back; nothing else of the hold is left.
#[tokio::test]
async fn a_settled_hold_that_was_not_delivered_is_given_back_at_the_next_start() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    let (request, running) = books.hold(client, 120).await;
    books.ledger.settle_held(came_to(client, request, 30), running).await.unwrap();
    let books = books.reopen().await;
    assert_eq!((books.balances(client).await, books.held().await), ((100, 50, 0), 0));
    assert!(books.ledger.is_charged(request).await.unwrap());
    books.assert_clean().await;
}

#[tokio::test]
async fn what_was_not_given_back_to_where_it_was_taken_from_is_found() {
    for (back, charged) in [(vec![(2, 60)], 0), (vec![(1, 40)], 20)] {
        let books = Books::open().await;
        let client = books.client(40, 30).await;
        let (request, _running) = books.hold(client, 60).await;
        let (mut paid, mut bonus) = (0, 10);
        let mut add = async |source: String, credit: i64, amount: i64| {
            match credit {
                1 => paid += amount,
                2 => bonus += amount,
                _ => {}
            }
            books
                .run(format!(
                    "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, previous, paid_after, \
                     bonus_after, debt_after) SELECT last_entry + 1, 1, '{source}', 4, {credit}, {amount}, 'usd', id, sequence + 1, \
                     last_entry, {paid}, {bonus}, 0 FROM clients WHERE id = {client}; \
                     UPDATE clients SET paid = {paid}, bonus = {bonus}, sequence = sequence + 1, last_entry = last_entry + 1 \
                     WHERE id = {client}"
                ))
                .await;
        };
        if charged > 0 {
            add(format!("usage:{request}"), 8, charged).await;
        }
        for (credit, amount) in back {
            add(format!("release:{request}"), credit, amount).await;
        }
        books.run("DELETE FROM holds").await;
        let report = books.verified().await;
        let expected = format!("hold {request}: it was not given back to the credit it was taken from");
        assert_eq!((report.found, report.findings), (1, vec![expected]));
    }
}

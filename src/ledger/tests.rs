//! The ledger on a real database: recording, charging, giving back, and many at once. `Books` decides which database it is.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

mod aftermath;
mod at_once;
pub(in crate::ledger) mod books;
mod failures;
mod freezes;
mod holds;
mod outages;
mod refunds;
mod restart;
mod two_nodes;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use futures_util::future::join_all;

use self::books::{Books, capture, charge_of, m};
use super::*;
use crate::domain::TopUpId;

#[tokio::test]
async fn a_recorded_top_up_makes_client_owner_key_and_binding() {
    let books = Books::open().await;
    let top_up = books.charged(None, "usd", 1000, 200).await;
    let (posted, reservation) = books.ledger.record_top_up(charge_of(top_up), Some(m(700))).await.unwrap();
    assert!(!posted.repeated);
    assert_eq!(books.balances(posted.client).await, (1000, 200, 0));
    assert_eq!(reservation.unwrap().unwrap().amount(), m(700));
    let client = posted.client;
    let linked: i64 = books
        .ask(format!(
            "SELECT COUNT(*) FROM top_ups AS t JOIN client_keys AS k ON k.id = t.key AND k.hash = t.key_hash \
             JOIN payment_method_bindings AS b ON b.key = k.id AND b.client = t.client \
             JOIN clients AS c ON c.id = t.client AND c.stripe_customer = 'cus_1' \
             WHERE t.client = {client} AND k.client = {client} AND k.scope = 'owner' AND t.state = 'succeeded'"
        ))
        .await;
    assert_eq!(linked, 1);
    books.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recording_a_top_up_many_times_credits_once() {
    let books = Books::open().await;
    let sequential = books.charged(None, "usd", 1000, 0).await;
    let first = books.ledger.record_top_up(charge_of(sequential), None).await.unwrap().0;
    let second = books.ledger.record_top_up(charge_of(sequential), None).await.unwrap().0;
    assert_eq!(
        (first.entry, first.client, false, true),
        (second.entry, second.client, first.repeated, second.repeated)
    );

    let concurrent = books.charged(None, "usd", 500, 50).await;
    let all = join_all((0..20).map(|_| {
        let ledger = books.ledger.clone();
        tokio::spawn(async move { ledger.record_top_up(charge_of(concurrent), Some(m(300))).await.unwrap() })
    }))
    .await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().filter(|(posted, _)| !posted.repeated).count(), 1);
    // 300 of 550 can be set aside once only.
    assert_eq!(all.iter().filter(|(_, reserved)| matches!(reserved, Some(Ok(_)))).count(), 1);
    assert_eq!(books.balances(all[0].0.client).await, (500, 50, 0));
    assert_eq!(books.ask::<i64>("SELECT COUNT(*) FROM clients").await, 2);
    assert_eq!(books.ask::<i64>("SELECT COUNT(*) FROM client_keys").await, 2);
    assert_eq!(books.entries().await, 3);
    books.assert_clean().await;
}

#[tokio::test]
async fn two_charges_of_a_new_client_make_one_client_with_the_key_and_card_of_the_first() {
    let books = Books::open().await;
    for at_once in [false, true] {
        let [one, other] = books.two_of_a_new_client(1000, 200).await;
        let record = |top_up| books.ledger.record_top_up(charge_of(top_up), None);
        let recorded = match at_once {
            true => tokio::join!(record(one), record(other)),
            false => (record(one).await, record(other).await),
        };
        let (first, second) = (recorded.0.unwrap().0, recorded.1.unwrap().0);
        assert_eq!(first.client, second.client);
        assert!(!first.repeated && !second.repeated);
        assert_eq!(books.balances(first.client).await, (1200, 0, 0));
        for table in ["client_keys", "payment_method_bindings"] {
            let sql = format!("SELECT COUNT(*) FROM {table} WHERE client = {}", first.client);
            assert_eq!(books.ask::<i64>(sql).await, 1, "{table}");
        }
        // Once more: both are there.
        assert!(record(one).await.unwrap().0.repeated && record(other).await.unwrap().0.repeated);
    }
    assert_eq!(books.ask::<i64>("SELECT COUNT(*) FROM clients").await, 2);
    assert_eq!(books.replays(), 0);
    books.assert_clean().await;
}

#[tokio::test]
async fn another_payment_intent_for_the_same_top_up_credits_nothing() {
    let books = Books::open().await;
    for recorded_before in [false, true] {
        let top_up = books.charged(None, "usd", 1000, 0).await;
        if recorded_before {
            books.ledger.record_top_up(charge_of(top_up), None).await.unwrap();
        }
        let (clients, entries) =
            (books.ask::<i64>("SELECT COUNT(*) FROM clients").await, books.entries().await);
        let other = SucceededCharge { payment_intent: "pi_other".to_owned(), ..charge_of(top_up) };
        let refused = books.ledger.record_top_up(other, None).await.unwrap_err();
        assert!(matches!(refused, LedgerError::Unavailable(_)), "{refused:?}");
        assert_eq!(books.ask::<i64>("SELECT COUNT(*) FROM clients").await, clients);
        assert_eq!(books.entries().await, entries);
    }
    books.assert_clean().await;
}

#[tokio::test]
async fn an_unknown_top_up_is_refused() {
    let books = Books::open().await;
    let refused = books.ledger.record_top_up(charge_of(TopUpId::new()), None).await.unwrap_err();
    assert_eq!(refused, LedgerError::Refused(Refusal::UnknownClient));
    assert_eq!(books.entries().await, 0);
}

#[tokio::test]
async fn a_charge_that_cannot_be_credited_stays_to_be_recorded() {
    let books = Books::open().await;
    let rich = books.client(Micros::MAX.get(), 0).await;
    let other = books.client(100, 0).await;
    for (client, currency, amount, refusal) in
        [(rich, "usd", 1, Refusal::OutOfRange), (other, "eur", 5, Refusal::CurrencyMismatch)]
    {
        let top_up = books.charged(Some(client), currency, amount, 0).await;
        let fine = books.charged(None, "usd", 77, 0).await;
        // Alone, and in one batch with another that can.
        let alone = books.ledger.record_top_up(charge_of(top_up), None).await.unwrap_err();
        assert_eq!(alone, LedgerError::Refused(refusal));
        let both = tokio::join!(
            books.ledger.record_top_up(charge_of(top_up), None),
            books.ledger.record_top_up(charge_of(fine), None)
        );
        assert_eq!(both.0.unwrap_err(), LedgerError::Refused(refusal));
        assert!(!both.1.unwrap().0.repeated);
        assert_eq!(
            books.ask::<String>(format!("SELECT state FROM top_ups WHERE id = '{top_up}'")).await,
            "confirming"
        );
        books.assert_clean().await;
    }
}

#[tokio::test]
async fn capture_and_reversal_move_the_same_credit() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    let request = books.serve(client, 120).await;
    assert_eq!(books.balances(client).await, (0, 30, 0));
    let reversed = books.ledger.reverse(request).await.unwrap();
    assert_eq!((reversed.client, reversed.repeated), (client, false));
    assert_eq!(books.balances(client).await, (100, 50, 0));
    let again = books.ledger.reverse(request).await.unwrap();
    assert_eq!((again.entry, again.repeated), (reversed.entry, true));
    let unknown = books.ledger.reverse(RequestId::new()).await.unwrap_err();
    assert_eq!(unknown, LedgerError::Refused(Refusal::NothingToReverse));
    assert_eq!(books.balances(client).await, (100, 50, 0));
    assert_eq!(books.entries().await, 6);
    books.assert_clean().await;
}

#[tokio::test]
async fn capture_and_reversal_in_one_batch() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    let request = RequestId::new();
    let reservation = books.ledger.reserve(client, m(120)).await.unwrap();
    let (captured, reversed) = tokio::join!(
        books.ledger.capture(capture(client, request, 120), reservation),
        books.ledger.reverse(request)
    );
    assert!(!captured.unwrap().repeated && !reversed.unwrap().repeated);
    assert_eq!(books.balances(client).await, (100, 50, 0));
    books.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_at_once_with_credit_for_a_hundred() {
    for round in 0..20 {
        let books = Books::open().await;
        let client = books.client(800, 200).await;
        let (charged, refused) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
        let tasks = (0..500).map(|_| {
            let (ledger, charged, refused) =
                (books.ledger.clone(), Arc::clone(&charged), Arc::clone(&refused));
            tokio::spawn(async move {
                loop {
                    match ledger.reserve(client, m(10)).await {
                        Ok(reservation) => {
                            let posted = ledger
                                .capture(capture(client, RequestId::new(), 10), reservation)
                                .await
                                .unwrap();
                            ledger.delivered(posted.entry);
                            charged.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                        Err(ReserveError::NotReserved(NotReserved::InFlight(_))) => {
                            tokio::task::yield_now().await
                        }
                        Err(ReserveError::NotReserved(NotReserved::Insufficient(_))) => {
                            refused.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        });
        for done in join_all(tasks).await {
            done.unwrap();
        }
        let counted = (charged.load(Ordering::SeqCst), refused.load(Ordering::SeqCst));
        assert_eq!(counted, (100, 400), "round {round}");
        assert_eq!(books.balances(client).await, (0, 0, 0));
        assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
        let usages = "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%' AND source NOT LIKE '%/%'";
        assert_eq!(books.ask::<i64>(usages).await, 100);
        books.assert_clean().await;
    }
}

#[tokio::test]
async fn a_dropped_reservation_and_a_refused_capture_free_the_credit() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let reservation = books.ledger.reserve(client, m(80)).await.unwrap();
    assert!(matches!(
        books.ledger.reserve(client, m(80)).await,
        Err(ReserveError::NotReserved(NotReserved::InFlight(_)))
    ));
    drop(reservation);
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    let reservation = books.ledger.reserve(client, m(80)).await.unwrap();
    // The price turned out higher than what was set aside, and than the balance.
    let refused =
        books.ledger.capture(capture(client, RequestId::new(), 101), reservation).await.unwrap_err();
    assert_eq!(refused, LedgerError::Refused(Refusal::InsufficientCredits));
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    books.serve(client, 100).await;
    assert_eq!(books.balances(client).await, (0, 0, 0));
}

/// A request that is captured leaves the sum of balance and reservations in one step. Otherwise somebody else's request
/// would be told to wait although there is credit for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_capture_and_its_reservation_counted_twice() {
    let books = Books::open().await;
    for _ in 0..10 {
        let client = books.client(1000, 0).await;
        let mut captures = Vec::new();
        for _ in 0..50 {
            let reservation = books.ledger.reserve(client, m(10)).await.unwrap();
            captures.push(books.ledger.capture(capture(client, RequestId::new(), 10), reservation));
        }
        let running = Arc::new(AtomicBool::new(true));
        let (watched, reservations) = (Arc::clone(&running), Arc::clone(&books.ledger.reservations));
        let watching = std::thread::spawn(move || {
            let mut refused = 0;
            while watched.load(Ordering::Relaxed) {
                refused += u32::from(reservations.reserve(client, m(500)).is_err());
            }
            refused
        });
        for captured in join_all(captures).await {
            captured.unwrap();
        }
        running.store(false, Ordering::Relaxed);
        assert_eq!(watching.join().unwrap(), 0, "500 were free all the time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_database_agree_after_random_work() {
    let books = Books::open().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(books.client(2_000, 500).await);
    }
    let books = Arc::new(books);
    let tasks = (0..8u64).map(|seed| {
        let (books, clients) = (Arc::clone(&books), clients.clone());
        tokio::spawn(async move {
            let mut random = seed * 77 + 1;
            for _ in 0..60 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let pick = random >> 33;
                let client = clients[usize::try_from(pick % 3).unwrap()];
                let price = i64::try_from(pick % 40).unwrap() + 1;
                let reserved = books.ledger.reserve(client, m(price)).await;
                match (pick % 7, reserved) {
                    (0, _) => {
                        let top_up = TopUpId::new();
                        // No such row: refused, and no harm to the batch that carries it.
                        books.ledger.record_top_up(charge_of(top_up), None).await.unwrap_err();
                    }
                    (1, _) => books.run("UPDATE clients SET stripe_customer = 'cus_2' WHERE id = 1").await,
                    (2, Ok(reservation)) => drop(reservation),
                    (_, Ok(reservation)) => {
                        let request = RequestId::new();
                        let posted =
                            books.ledger.capture(capture(client, request, price), reservation).await.unwrap();
                        if pick % 5 == 0 {
                            books.ledger.reverse(request).await.unwrap();
                        }
                        books.ledger.delivered(posted.entry);
                    }
                    (_, Err(_)) => {}
                }
            }
        })
    });
    for done in join_all(tasks).await {
        done.unwrap();
    }
    for client in clients {
        let (paid, bonus, debt) = books.balances(client).await;
        assert!(paid + bonus < 2_500 && debt == 0, "something was spent");
    }
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    assert!(books.entries().await > 100);
    books.assert_clean().await;
}

#[tokio::test]
async fn entries_are_append_only_and_columns_are_checked() {
    let books = Books::open().await;
    let client = books.client(100, 50).await;
    books.serve(client, 120).await;
    let entry = "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, route, price_list) VALUES";
    let client_row =
        "INSERT INTO clients (public_id, currency, paid, bonus, debt, sequence, status, created_at) VALUES";
    let top_up = "UPDATE top_ups SET";
    let one_byte = books.database.bytes(&[0]);
    let mut all_bad = vec![
        "UPDATE entries SET amount = 1 WHERE id = (SELECT MIN(id) FROM entries)".to_owned(),
        "UPDATE entries SET at = at".to_owned(),
        "DELETE FROM entries WHERE id = (SELECT MAX(id) FROM entries)".to_owned(),
        "DELETE FROM entries".to_owned(),
        format!("{entry} (99, 1, 'x', 1, 8, 0, 'usd', 1, NULL, NULL)"),
        format!("{entry} (99, 1, 'x', 1, 8, -1, 'usd', 1, NULL, NULL)"),
        format!("{entry} (99, 1, 'x', 1, 8, 9000000000000001, 'usd', 1, NULL, NULL)"),
        format!("{entry} (99, 1, 'x', 1, 8, 'many', 'usd', 1, NULL, NULL)"),
        format!("{entry} (99, 1, NULL, 1, 8, 1, 'usd', 1, NULL, NULL)"),
        format!("{entry} (1, 1, 'x', 1, 8, 1, 'usd', 1, NULL, NULL)"),
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
         SELECT 99, at, source, 1, 8, 1, 'usd' FROM entries"
            .to_owned(),
        "UPDATE clients SET paid = -1".to_owned(),
        "UPDATE clients SET bonus = -1".to_owned(),
        "UPDATE clients SET debt = -1".to_owned(),
        "UPDATE clients SET paid = 9000000000000001".to_owned(),
        "UPDATE clients SET sequence = -1".to_owned(),
        "UPDATE clients SET status = 'odd'".to_owned(),
        "DELETE FROM clients".to_owned(),
        format!("{client_row} ('p', 'usd', NULL, 0, 0, 0, 'active', 1)"),
        format!("{client_row} ('p', 'usd', 'a', 0, 0, 0, 'active', 1)"),
        format!("{top_up} client = NULL"),
        format!("{top_up} payment_intent = NULL"),
        format!("{top_up} state = 'paid'"),
        format!("{top_up} amount = 0"),
        format!("{top_up} bonus = -1"),
        format!("{top_up} key_hash = {one_byte}"),
        format!("UPDATE client_keys SET hash = {one_byte}"),
        "UPDATE client_keys SET scope = 'all'".to_owned(),
    ];
    if books.is_postgres() {
        all_bad.extend([
            "TRUNCATE entries".to_owned(),
            "TRUNCATE entries, clients CASCADE".to_owned(),
            "INSERT INTO entries SELECT * FROM entries ON CONFLICT (id) DO UPDATE SET amount = 7".to_owned(),
            "MERGE INTO entries AS e USING (SELECT 1 AS id) AS v ON e.id = v.id WHEN MATCHED THEN DELETE"
                .to_owned(),
        ]);
    } else {
        all_bad.extend([
            "REPLACE INTO entries SELECT id, at, source, debit, credit, 7, currency, client, sequence, previous, paid_after, \
             bonus_after, debt_after, route, price_list, upstream_status, key FROM entries WHERE id = 1"
                .to_owned(),
            "INSERT INTO entries (at, source, debit, credit, amount, currency) SELECT at, source, 1, 8, 1, 'usd' FROM entries"
                .to_owned(),
            // PostgreSQL rounds a constant; what the ledger sends it are integers by their type.
            format!("{entry} (99, 1, 'x', 1, 8, 1.5, 'usd', 1, NULL, NULL)"),
            // On PostgreSQL entries have no foreign keys, and `verify` looks.
            format!("{entry} (99, 1, 'x', 1, 8, 1, 'usd', 77, NULL, NULL)"),
            format!("{entry} (99, 1, 'x', 1, 8, 1, 'usd', 1, 77, NULL)"),
            format!("{entry} (99, 1, 'x', 1, 8, 1, 'usd', 1, NULL, 77)"),
        ]);
    }
    for bad in all_bad {
        let refused = books.try_run(bad.clone()).await;
        let Err(DbError::Sql(sqlx::Error::Database(error))) = &refused else {
            panic!("{bad}: {refused:?}");
        };
        // Not because the sentence is wrong: a constraint, the trigger (23001), or a text that is no number.
        let code = error.code().unwrap_or_default();
        assert!(!books.is_postgres() || code.starts_with("23") || code == "22P02", "{bad}: {error}");
    }
    assert_eq!(books.entries().await, 4);
    books.assert_clean().await;
}

#[tokio::test]
async fn one_unfinished_top_up_per_client() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let open = books.charged(Some(client), "usd", 5, 0).await;
    let second = books
        .try_run(format!(
            "INSERT INTO top_ups SELECT 'other', client, key, key_hash, key_secret, pm_hash, fingerprint, request_key, \
             currency, amount, bonus, 'created', failure, stripe_customer, NULL, 1, 1, NULL, NULL, 0, NULL, NULL FROM top_ups WHERE id = '{open}'"
        ))
        .await;
    let Err(DbError::Sql(error)) = second else { panic!("there are two") };
    assert!(error.as_database_error().unwrap().is_unique_violation(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_writes_go_on_between_the_batches() {
    let books = Arc::new(Books::open().await);
    let client = books.client(1_000, 0).await;
    books.run("CREATE TABLE notes (n INTEGER)").await;
    let tasks = (0..100).map(|n| {
        let books = Arc::clone(&books);
        tokio::spawn(async move {
            if n % 2 == 0 {
                books.serve(client, 10).await;
            } else {
                books.run(format!("INSERT INTO notes VALUES ({n})")).await;
                // One that fails is rolled back and disturbs nobody.
                books.try_run("INSERT INTO notes VALUES (1); SELECT nothing").await.unwrap_err();
            }
        })
    });
    for done in join_all(tasks).await {
        done.unwrap();
    }
    assert_eq!(books.ask::<i64>("SELECT COUNT(*) FROM notes").await, 50);
    assert_eq!(books.balances(client).await, (500, 0, 0));
    assert_eq!(books.replays(), 0);
    books.assert_clean().await;
}

/// The first to come with a wallet after a start come together, too, and reading connections are few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_readers_of_one_wallet_read_it_once_or_twice() {
    let books = Books::open().await;
    let top_up = books.charged(None, "usd", 1000, 0).await;
    let client = books.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.client;
    let books = Books::open_in(books.close().await, "node").await;
    let all = join_all((0..500).map(|_| {
        let ledger = books.ledger.clone();
        tokio::spawn(async move { ledger.reserve(client, m(10)).await })
    }));
    let all: Vec<_> = all.await.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().filter(|reserved| reserved.is_ok()).count(), 100);
    let begun = books.ledger.reads.begun();
    // Whoever comes before the first read has ended waits for the next: so many as there are threads, at most.
    assert!((1..=3).contains(&begun), "{begun} reads");
    drop(all);
    books.assert_clean().await;
}

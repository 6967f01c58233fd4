//! What was captured but not delivered is given back at the next start, once, and nothing else is.

use futures_util::FutureExt as _;

use super::*;

#[tokio::test]
async fn undelivered_captures_are_given_back_at_the_next_start() {
    for killed in [false, true] {
        let books = Books::open().await;
        let client = books.client(100, 50).await;
        let (first, posted) = books.charge(client, 30).await.unwrap();
        books.charge(client, 90).await.unwrap();
        assert_eq!(books.undelivered().await.len(), 2);
        assert_eq!(posted.client, client);
        let mut books = if killed { books.kill_and_reopen().await } else { books.reopen().await };
        assert_eq!(books.reversed_at_start(), 2);
        assert_eq!(books.balances(client).await, (100, 50, 0));
        // Two captures with three entries, and as many back.
        assert_eq!(books.entries().await, 8);
        assert!(books.ledger.reverse(first).await.unwrap().repeated);
        books.assert_clean().await;
        for _ in 0..2 {
            let again = books.reopen().await;
            assert_eq!(again.reversed_at_start(), 0);
            assert_eq!(again.balances(client).await, (100, 50, 0));
            assert_eq!(again.entries().await, 8);
            books = again;
        }
    }
}

#[tokio::test]
async fn another_node_name_gives_back_too_and_only_once() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    books.charge(client, 30).await.unwrap();
    let mut books = books.reopen_as("second").await;
    assert_eq!(books.reversed_at_start(), 1);
    for node in ["node", "second", "third"] {
        books = books.reopen_as(node).await;
        assert_eq!((books.reversed_at_start(), books.balances(client).await), (0, (100, 0, 0)));
    }
    books.assert_clean().await;
}

#[tokio::test]
async fn delivered_captures_stay() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    books.serve(client, 30).await;
    let books = books.reopen().await;
    assert_eq!(books.reversed_at_start(), 0);
    assert_eq!(books.balances(client).await, (70, 0, 0));
    assert!(books.undelivered().await.is_empty());

    // Delivered ones stay also when others of the same batches do not.
    let (_, kept) = books.charge(client, 5).await.unwrap();
    books.charge(client, 7).await.unwrap();
    books.ledger.delivered(kept.entry);
    let books = books.reopen().await;
    assert_eq!(books.reversed_at_start(), 1);
    assert_eq!(books.balances(client).await, (65, 0, 0));
    books.assert_clean().await;
}

#[tokio::test]
async fn a_killed_process_gives_back_the_last_delivered_batch_at_most() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    for price in [1, 2, 4, 8] {
        books.serve(client, price).await;
    }
    let books = books.kill_and_reopen().await;
    // The row that the last commit wrote has the capture before it, whose last bytes may have been on their way, and its own.
    assert_eq!(books.reversed_at_start(), 2);
    assert_eq!(books.balances(client).await, (97, 0, 0));
}

/// Commands that capture nothing write no row; what was delivered meanwhile must leave it all the same.
#[tokio::test]
async fn deliveries_are_not_forgotten_over_commands_that_capture_nothing() {
    for refused in [false, true] {
        let books = Books::open().await;
        let client = books.client(100, 0).await;
        books.serve(client, 30).await;
        for _ in 0..3 {
            if refused {
                books.ledger.reverse(RequestId::new()).await.unwrap_err();
            } else {
                books.client(1, 0).await;
            }
        }
        let books = books.reopen().await;
        assert_eq!(books.reversed_at_start(), 0);
        assert_eq!(books.balances(client).await, (70, 0, 0));
    }
}

/// The money task was dropped before the writer had an answer, which only the end of the process does: the commit stands,
/// but nothing can have been delivered, so it is given back at the next start.
#[tokio::test]
async fn a_capture_that_nobody_hears_of_is_given_back_at_the_next_start() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let reservation = books.ledger.reserve(client, m(30)).await.unwrap();
    // One poll hands the command over; the writer has not run yet when the future is dropped.
    let left = books.ledger.capture(capture(client, RequestId::new(), 30), reservation).now_or_never();
    assert!(left.is_none());
    books.serve(client, 1).await;
    assert_eq!(books.balances(client).await, (69, 0, 0));
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    let books = books.reopen().await;
    assert_eq!(books.reversed_at_start(), 1);
    assert_eq!(books.balances(client).await, (99, 0, 0));
    books.assert_clean().await;
}

/// The writer had answered, and the handler's future was dropped before it saw that: undelivered, so given back.
#[tokio::test]
async fn a_caller_who_left_after_the_answer_gets_it_back() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let reservation = books.ledger.reserve(client, m(30)).await.unwrap();
    let mut unread = Box::pin(books.ledger.capture(capture(client, RequestId::new(), 30), reservation));
    assert!((&mut unread).now_or_never().is_none());
    books.serve(client, 1).await;
    drop(unread);
    let books = books.reopen().await;
    assert_eq!(books.reversed_at_start(), 1);
    assert_eq!(books.balances(client).await, (99, 0, 0));
}

#[tokio::test]
async fn what_cannot_be_given_back_does_not_keep_the_ledger_closed() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let (request, posted) = books.charge(client, 30).await.unwrap();
    books.ledger.delivered(posted.entry);
    books.ledger.reverse(request).await.unwrap();
    let first: i64 = books.ask("SELECT MIN(id) FROM entries").await;
    // A row as a crash between a reversal's commit and the next capture leaves it: already reversed, a top-up, no entry.
    books.run(format!("INSERT INTO undelivered VALUES ('old', '[{}, {first}, 77]')", posted.entry)).await;
    // On PostgreSQL a node that has died, too.
    books.run("INSERT INTO nodes (id, started_at, lease_until, sweep_until) VALUES ('old', 1, 0, 0)").await;
    let books = books.reopen().await;
    assert_eq!(books.reversed_at_start(), 0);
    assert_eq!(books.balances(client).await, (100, 0, 0));
    books.assert_clean().await;
}

#[tokio::test]
async fn an_ended_writer_says_closed() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let first = books.ledger.reserve(client, m(10)).await.unwrap();
    let second = books.ledger.reserve(client, m(10)).await.unwrap();
    let top_up = books.charged(None, "usd", 1, 0).await;
    let mut waiting = Box::pin(books.ledger.capture(capture(client, RequestId::new(), 10), first));
    assert!((&mut waiting).now_or_never().is_none());
    books.task.abort();
    assert_eq!(waiting.await.unwrap_err(), LedgerError::Closed);
    let captured = books.ledger.capture(capture(client, RequestId::new(), 10), second).await;
    assert_eq!(captured.unwrap_err(), LedgerError::Closed);
    assert_eq!(books.ledger.record_top_up(charge_of(top_up), None).await.unwrap_err(), LedgerError::Closed);
    assert_eq!(books.ledger.reverse(RequestId::new()).await.unwrap_err(), LedgerError::Closed);
    // On PostgreSQL other writes have a connection of their own.
    let written = books.try_run("SELECT 1").await;
    assert!(if books.is_postgres() { written.is_ok() } else { matches!(written, Err(DbError::Closed)) });
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
}

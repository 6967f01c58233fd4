//! Requests with an `Idempotency-Key`: claimed by one, kept with their capture or not at all.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

use std::sync::Arc;

use futures_util::future::join_all;

use super::super::tests::books::{Books, capture, m};
use super::super::{Capture, ClientId, LedgerError, Posted, Refusal};
use super::*;
use crate::domain::Micros;

const HOUR: i64 = 3_600_000_000;

fn hash(text: &str) -> SecretHash {
    SecretHash::of(text)
}

fn new_key(scope: &str, request: RequestId) -> NewKey {
    NewKey { scope: hash(scope), fingerprint: hash("body"), request, keep: HOUR }
}

fn answer(scope: &str, request: RequestId, body: Option<&'static str>) -> StoredAnswer {
    StoredAnswer {
        scope: hash(scope),
        request,
        status: 201,
        headers: vec![
            ("content-type".to_owned(), b"text/plain".to_vec()),
            ("x-a".to_owned(), "é\"\\".as_bytes().to_vec()),
            ("x-any".to_owned(), (0x80..=0xFF).chain([b'\t', b' ', b'~']).collect()),
        ],
        body: body.map(|body| Bytes::from_static(body.as_bytes())),
        request_headers: Some(hash("headers")),
    }
}

fn too_large(repeats: i64) -> KeyState {
    KeyState::TooLarge { repeats, request_headers: Some(hash("headers")) }
}

impl Books {
    async fn claim(&self, scope: &str, request: RequestId) -> bool {
        claim(&self.db, self.ledger.node().to_owned(), new_key(scope, request)).await.unwrap()
    }

    async fn state(&self, scope: &str) -> Option<KeyState> {
        find(&self.db, hash(scope)).await.unwrap().map(|row| row.state)
    }

    /// Captures and stores in one transaction.
    async fn keep(&self, client: ClientId, price: i64, kept: StoredAnswer) -> Result<Posted, LedgerError> {
        let reservation = self.ledger.reserve(client, m(price)).await.unwrap();
        let request = kept.request;
        self.ledger.capture_and_store(capture(client, request, price), reservation, Some(kept)).await
    }
}

#[tokio::test]
async fn a_key_belongs_to_one_request_until_that_lets_it_go() {
    let books = Books::open().await;
    let (first, second) = (RequestId::new(), RequestId::new());
    assert_eq!(books.state("k").await, None);
    assert!(books.claim("k", first).await);
    assert!(!books.claim("k", second).await);
    assert!(!books.claim("k", first).await, "not even for the same request");
    assert!(books.claim("other", second).await, "another key is another");
    let row = find(&books.db, hash("k")).await.unwrap().unwrap();
    assert_eq!(
        (row.scope, row.fingerprint, row.request, row.state),
        (hash("k"), hash("body"), first, KeyState::Running)
    );
    // By whoever has it, and nobody else.
    let_go(&books.db, hash("k"), second).await.unwrap();
    interrupt(&books.db, hash("k"), second).await.unwrap();
    // Nor is it taken from one who lives, or given back before it was charged.
    assert!(!take_over(&books.db, hash("k"), first).await.unwrap());
    assert!(!interrupt_orphan(&books.db, hash("k"), first).await.unwrap());
    assert!(!free_given_back(&books.db, hash("k"), first).await.unwrap());
    assert_eq!(books.state("k").await, Some(KeyState::Running));
    let_go(&books.db, hash("k"), first).await.unwrap();
    assert_eq!(books.state("k").await, None);
    assert!(books.claim("k", RequestId::new()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_claims_at_once_one_succeeds() {
    let books = Arc::new(Books::open().await);
    for round in 0..10 {
        let claims = (0..20).map(|_| {
            let books = Arc::clone(&books);
            tokio::spawn(async move { books.claim(&format!("k{round}"), RequestId::new()).await })
        });
        let succeeded = join_all(claims).await.into_iter().filter(|done| *done.as_ref().unwrap()).count();
        assert_eq!(succeeded, 1);
    }
}

#[test]
fn headers_of_the_versions_before_are_read() {
    let kept = from_text("[[\"content-type\",\"text/plain\"],[\"x-a\",\"\\\"b\\\\\"]]");
    let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    assert_eq!(kept, Some(vec![header("content-type", b"text/plain"), header("x-a", b"\"b\\")]));
    assert_eq!(from_text("[[\"x-a\",\"\u{20ac}\"]]"), None, "no byte");
}

#[tokio::test]
async fn an_answer_is_kept_with_its_capture_and_found_again() {
    let books = Books::open().await;
    let client = books.client(1_000, 0).await;
    let request = RequestId::new();
    assert!(books.claim("k", request).await);
    books.keep(client, 30, answer("k", request, Some("bought"))).await.unwrap();
    let kept = KeyState::Kept {
        status: 201,
        headers: answer("k", request, None).headers,
        body: Bytes::from_static(b"bought"),
    };
    assert_eq!(books.state("k").await, Some(kept.clone()));
    assert!(find(&books.db, hash("x")).await.unwrap().is_none());
    // It can be fetched again, so it is not given back when its node ends.
    assert!(books.undelivered().await.is_empty());
    assert!(!books.claim("k", RequestId::new()).await);
    let_go(&books.db, hash("k"), request).await.unwrap();
    assert_eq!(books.state("k").await, Some(kept.clone()), "what was charged is not let go");
    let books = books.kill_and_reopen().await;
    assert_eq!((books.reversed_at_start(), books.balances(client).await), (0, (970, 0, 0)));
    for changed in [
        take_over(&books.db, hash("k"), request).await,
        interrupt_orphan(&books.db, hash("k"), request).await,
        free_given_back(&books.db, hash("k"), request).await,
    ] {
        assert!(!changed.unwrap());
    }
    assert_eq!(books.state("k").await, Some(kept));
    books.assert_clean().await;
}

#[tokio::test]
async fn what_may_have_been_done_keeps_its_key() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let request = RequestId::new();
    assert!(books.claim("k", request).await);
    interrupt(&books.db, hash("k"), request).await.unwrap();
    assert_eq!(books.state("k").await, Some(KeyState::Interrupted));
    // By nobody any more: the one who had it neither frees it nor charges under it.
    let_go(&books.db, hash("k"), request).await.unwrap();
    assert!(!take_over(&books.db, hash("k"), request).await.unwrap());
    assert!(!books.claim("k", RequestId::new()).await);
    let late = books.keep(client, 30, answer("k", request, Some("late"))).await;
    assert!(matches!(late, Err(LedgerError::Unavailable(_))), "{late:?}");
    let books = books.kill_and_reopen().await;
    assert_eq!(books.state("k").await, Some(KeyState::Interrupted));
    assert_eq!(books.balances(client).await, (100, 0, 0));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_fetched_again_a_few_times() {
    let books = Books::open().await;
    let client = books.client(1_000, 0).await;
    let request = RequestId::new();
    assert!(books.claim("k", request).await);
    assert!(!count_repeat(&books.db, hash("k"), request, 2).await.unwrap(), "it is still running");
    let posted = books.keep(client, 30, answer("k", request, None)).await.unwrap();
    assert_eq!(books.undelivered().await, [posted.entry], "it cannot be fetched from here");
    assert_eq!(books.state("k").await, Some(KeyState::Delivering), "it may still be given back");
    books.ledger.delivered(posted.entry);
    for _ in 0..2 {
        books.charge(client, 1).await.unwrap(); // writes down who is undelivered, one commit late
    }
    assert_eq!(books.state("k").await, Some(too_large(0)));
    for repeats in 1..=2 {
        assert!(count_repeat(&books.db, hash("k"), request, 2).await.unwrap());
        assert_eq!(books.state("k").await, Some(too_large(repeats)));
    }
    assert!(!count_repeat(&books.db, hash("k"), request, 2).await.unwrap());
    assert!(!count_repeat(&books.db, hash("k"), RequestId::new(), 9).await.unwrap());
    books.ledger.reverse(request).await.unwrap();
    assert_eq!(books.state("k").await, Some(KeyState::GivenBack));
    assert!(!free_given_back(&books.db, hash("k"), RequestId::new()).await.unwrap());
    assert!(free_given_back(&books.db, hash("k"), request).await.unwrap());
    assert!(!free_given_back(&books.db, hash("k"), request).await.unwrap());
    assert_eq!(books.state("k").await, None);
}

#[tokio::test]
async fn what_is_not_charged_is_not_kept() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    // The price turned out higher than the balance.
    let request = RequestId::new();
    assert!(books.claim("k", request).await);
    let reservation = books.ledger.reserve(client, m(80)).await.unwrap();
    let kept = Some(answer("k", request, Some("never")));
    let refused = books.ledger.capture_and_store(capture(client, request, 101), reservation, kept).await;
    assert_eq!(refused.unwrap_err(), LedgerError::Refused(Refusal::InsufficientCredits));
    assert_eq!(books.state("k").await, Some(KeyState::Running));
    // The capture was guilty, and the whole batch was rolled back; its neighbour is kept all the same.
    let (guilty, fine) = (RequestId::new(), RequestId::new());
    assert!(books.claim("guilty", guilty).await && books.claim("fine", fine).await);
    let first = books.ledger.reserve(client, m(10)).await.unwrap();
    let wrong = Capture { route: 999, ..capture(client, guilty, 10) };
    let both = tokio::join!(
        books.ledger.capture_and_store(wrong, first, Some(answer("guilty", guilty, Some("never")))),
        books.keep(client, 10, answer("fine", fine, Some("bought"))),
    );
    assert!(matches!(both.0, Err(LedgerError::Unavailable(_))));
    assert!(!both.1.unwrap().repeated);
    assert_eq!(books.state("guilty").await, Some(KeyState::Running));
    assert!(matches!(books.state("fine").await, Some(KeyState::Kept { .. })));
    assert_eq!((books.replays(), books.balances(client).await), (1, (90, 0, 0)));
    books.assert_clean().await;
}

#[tokio::test]
async fn a_key_that_another_request_has_taken_over_refuses_the_capture() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let (late, new, bystander) = (RequestId::new(), RequestId::new(), RequestId::new());
    assert!(books.claim("k", late).await && books.claim("mine", bystander).await);
    // Its node seemed to be dead, and somebody has taken the key over and uses it.
    books.run("DELETE FROM idempotency_keys WHERE request = '".to_owned() + &late.to_string() + "'").await;
    assert!(books.claim("k", new).await);
    let both = tokio::join!(
        books.keep(client, 30, answer("k", late, Some("late"))),
        books.keep(client, 5, answer("mine", bystander, Some("mine"))),
    );
    assert!(matches!(both.0, Err(LedgerError::Unavailable(_))), "{both:?}");
    assert!(both.1.is_ok());
    assert_eq!((books.balances(client).await, books.ledger.total_reserved()), ((95, 0, 0), Micros::ZERO));
    assert_eq!(books.state("k").await, Some(KeyState::Running));
    // The new one is charged and kept as if nothing had been.
    books.keep(client, 30, answer("k", new, Some("new"))).await.unwrap();
    assert!(matches!(books.state("k").await, Some(KeyState::Kept { body, .. }) if body == "new"));
    // A key that is gone altogether refuses as well, and one that has been charged already.
    assert!(matches!(
        books.keep(client, 1, answer("gone", late, None)).await,
        Err(LedgerError::Unavailable(_))
    ));
    let again = StoredAnswer { request: RequestId::new(), ..answer("k", new, None) };
    assert!(matches!(books.keep(client, 1, again).await, Err(LedgerError::Unavailable(_))));
    assert_eq!(books.balances(client).await, (65, 0, 0));
    books.assert_clean().await;
}

#[tokio::test]
async fn a_repeated_capture_leaves_the_answer_as_it_was() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let request = RequestId::new();
    assert!(books.claim("k", request).await);
    let first = books.keep(client, 30, answer("k", request, Some("first"))).await.unwrap();
    let second = books.keep(client, 30, answer("k", request, Some("second"))).await.unwrap();
    assert_eq!((first.entry, second.repeated), (second.entry, true));
    assert!(matches!(books.state("k").await, Some(KeyState::Kept { body, .. }) if body == "first"));
    assert_eq!(books.balances(client).await, (70, 0, 0));
}

#[tokio::test]
async fn what_a_node_that_ended_was_doing_can_be_taken_over_once() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let (retried, broken_off) = (RequestId::new(), RequestId::new());
    assert!(books.claim("retried", retried).await && books.claim("broken off", broken_off).await);
    let books = books.reopen_as("second").await;
    for scope in ["retried", "broken off"] {
        assert_eq!(books.state(scope).await, Some(KeyState::Orphaned), "{scope}");
        assert!(!books.claim(scope, RequestId::new()).await, "only whoever takes it over gets it");
        assert!(!take_over(&books.db, hash(scope), RequestId::new()).await.unwrap());
        assert!(!interrupt_orphan(&books.db, hash(scope), RequestId::new()).await.unwrap());
    }
    assert!(take_over(&books.db, hash("retried"), retried).await.unwrap());
    assert!(!take_over(&books.db, hash("retried"), retried).await.unwrap());
    let new = RequestId::new();
    assert!(books.claim("retried", new).await);
    assert!(interrupt_orphan(&books.db, hash("broken off"), broken_off).await.unwrap());
    assert!(!interrupt_orphan(&books.db, hash("broken off"), broken_off).await.unwrap());
    assert_eq!(books.state("broken off").await, Some(KeyState::Interrupted));
    // Whoever only slept is too late.
    for (scope, request) in [("retried", retried), ("broken off", broken_off)] {
        let late = books.keep(client, 30, answer(scope, request, Some("late"))).await;
        assert!(matches!(late, Err(LedgerError::Unavailable(_))), "{late:?}");
    }
    books.keep(client, 30, answer("retried", new, Some("new"))).await.unwrap();
    assert_eq!(books.balances(client).await, (70, 0, 0));
    books.assert_clean().await;
}

#[tokio::test]
async fn keys_expire_and_are_swept_in_portions() {
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let request = RequestId::new();
    assert!(books.claim("k", request).await);
    books.keep(client, 10, answer("k", request, Some("old"))).await.unwrap();
    assert!(books.claim("lives", RequestId::new()).await);
    assert_eq!(delete_expired(&books.db).await.unwrap(), 0);
    books.run("UPDATE idempotency_keys SET expires_at = 5 WHERE state = 'charged'").await;
    assert_eq!(books.state("k").await, None);
    // Whoever comes before the sweep finds it free.
    let second = RequestId::new();
    assert!(books.claim("k", second).await);
    assert_eq!(find(&books.db, hash("k")).await.unwrap().unwrap().request, second);
    let expired = NewKey { keep: -1, ..new_key("gone", RequestId::new()) };
    assert!(claim(&books.db, "dead".to_owned(), expired).await.unwrap());
    assert_eq!(books.state("gone").await, None);
    // What still runs does not expire, and is not swept.
    let running = NewKey { keep: -1, ..new_key("late", RequestId::new()) };
    assert!(claim(&books.db, books.ledger.node().to_owned(), running).await.unwrap());
    assert_eq!(books.state("late").await, Some(KeyState::Running));
    assert!(!books.claim("late", RequestId::new()).await);
    // As many as there may be at once, and then some.
    let bytes = books.database.each("randomblob(32)", "sha256(i::text::bytea)");
    books
        .run(format!(
            "INSERT INTO idempotency_keys (scope, fingerprint, request, node, state, created_at, expires_at) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100) \
             SELECT {bytes}, {bytes}, 'r' || i, 'n', 'running', 1, i FROM n"
        ))
        .await;
    assert_eq!(delete_expired(&books.db).await.unwrap(), 1_000);
    assert_eq!(delete_expired(&books.db).await.unwrap(), 101);
    assert_eq!(delete_expired(&books.db).await.unwrap(), 0);
    for scope in ["k", "lives", "late"] {
        assert_eq!(books.state(scope).await, Some(KeyState::Running));
    }
}

//! When an attempt is repeated, with what, and when not.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::super::client::ResponseMeta;
use super::super::retry::RetryPolicy;
use super::super::{NewCustomer, RefusalKind, StripeFailure, UnknownReason};
use super::double::{Double, Reply};
use super::{error, intent, later, new_intent, pm, stripe, top_up, unknown};

fn fine() -> Reply {
    Reply::ok(intent("succeeded").to_string())
}

fn busy() -> Reply {
    Reply::status(500, error(&json!({"type": "api_error"})))
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_for_again_under_the_same_key() {
    let in_use = json!({"type": "invalid_request_error", "code": "idempotency_key_in_use"});
    let replies = [
        Reply::Drop,
        busy(),
        Reply::status(502, "<html>"),
        Reply::ok("{\"id\":"),
        Reply::status(409, error(&in_use)),
        Reply::status(429, error(&json!({"type": "invalid_request_error"}))).with("retry-after", "0"),
        fine().with("idempotent-replayed", "true"),
    ];
    let attempts = replies.len();
    let double = Double::start(replies).await;
    let facts = stripe(&double).create_payment_intent(new_intent(), later()).await.expect("created");
    assert!(facts.replayed);
    let seen = double.seen();
    assert_eq!(seen.len(), attempts);
    for again in &seen {
        assert_eq!(again.header("idempotency-key"), Some("k.create"));
        assert_eq!(again.body, seen[0].body);
    }
}

#[tokio::test]
async fn a_lookup_is_repeated_too() {
    let double = Double::start([busy(), fine()]).await;
    stripe(&double).retrieve_payment_intent("pi_1", later()).await.expect("found");
    assert_eq!(double.seen().len(), 2);
}

#[tokio::test]
async fn a_definitive_answer_is_not_repeated() {
    for fields in [
        (402, json!({"type": "card_error", "code": "card_declined"})),
        (400, json!({"type": "invalid_request_error"})),
    ] {
        let double = Double::start([busy(), Reply::status(fields.0, error(&fields.1)), fine()]).await;
        let failure = stripe(&double).confirm_payment_intent("pi_1", "k", &pm(), later()).await;
        assert_ne!(failure.expect_err("a failure").class(), "unknown");
        assert_eq!(double.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_refusal_that_says_nothing_about_an_earlier_attempt_leaves_it_unknown() {
    for (status, fields) in [
        (401, json!({"type": "invalid_request_error", "message": "Invalid API Key provided"})),
        (400, json!({"type": "idempotency_error"})),
    ] {
        let refused = Reply::status(status, error(&fields));
        let double = Double::start([Reply::Drop, refused.clone()]).await;
        let failure = stripe(&double).confirm_payment_intent("pi_1", "k", &pm(), later()).await;
        assert_eq!(failure, Err(unknown(UnknownReason::ConnectionLost)));

        let double = Double::start([refused]).await;
        match stripe(&double).confirm_payment_intent("pi_1", "k", &pm(), later()).await {
            Err(StripeFailure::Refused(refusal)) => assert_ne!(refusal.kind, RefusalKind::Other),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn stripe_may_forbid_another_attempt() {
    for header in ["stripe-should-retry: false", "idempotent-replayed: true", "retry-after: 3600"] {
        let (name, value) = header.split_once(": ").expect("a header");
        let double = Double::always(busy().with(name, value)).await;
        let failure = stripe(&double).confirm_payment_intent("pi_1", "k", &pm(), later()).await;
        assert_eq!(failure, Err(unknown(UnknownReason::Status(500))), "{header}");
        assert_eq!(double.seen().len(), 1, "{header}");
    }
}

/// It will not become readable: once more, in case something on the way has damaged it, and no more.
#[tokio::test]
async fn an_answer_that_cannot_be_read_is_asked_for_once_more() {
    for unreadable in ["{\"id\":", "<html>", "", "{}"] {
        let double = Double::always(Reply::ok(unreadable)).await;
        let looked = stripe(&double).retrieve_payment_intent("pi_1", later()).await;
        assert_eq!(looked.map(drop), Err(unknown(UnknownReason::Unreadable(200))), "{unreadable}");
        assert_eq!(double.seen().len(), 2, "{unreadable}");
        let charged = stripe(&double).create_payment_intent(new_intent(), later()).await;
        assert_eq!(charged.map(drop), Err(unknown(UnknownReason::Unreadable(200))), "{unreadable}");
        assert_eq!(double.seen().len(), 4, "{unreadable}");
    }
    // Whatever else happens in between: what is unreadable is counted by itself.
    let replies = [Reply::ok("{"), busy(), busy(), Reply::ok("{"), fine()];
    let double = Double::start(replies).await;
    stripe(&double).retrieve_payment_intent("pi_1", later()).await.map(drop).expect_err("twice unreadable");
    assert_eq!(double.seen().len(), 4);
    // A page of a proxy is no answer of Stripe's, and goes away.
    let proxy = || Reply::status(502, "<html>");
    let double = Double::start([proxy(), proxy(), proxy(), fine()]).await;
    stripe(&double).retrieve_payment_intent("pi_1", later()).await.map(drop).expect("found");
}

/// However long a whole list may take: a page that does not come for a while (40 seconds; here less) does not come.
#[tokio::test]
async fn a_list_of_a_stripe_that_does_not_answer_is_given_up_after_one_page() {
    let double = Double::always(Reply::Silence).await;
    let stripe = stripe(&double);
    let deadline = Instant::now() + Duration::from_secs(10);
    let (moved, intents) = tokio::join!(
        stripe.balance_transactions_between(1, 2, deadline, &|_| {}),
        stripe.list_payment_intents_created_between(1, 2, deadline),
    );
    assert_eq!(moved.map(drop).map_err(|failure| failure.class()), Err("unknown"));
    assert_eq!(intents.map(drop).map_err(|failure| failure.class()), Err("unknown"));
    assert!(Instant::now() < deadline - Duration::from_secs(5));
    assert_eq!(RetryPolicy::default().page, Duration::from_secs(40));
}

#[tokio::test]
async fn the_last_failure_is_returned_at_the_deadline() {
    let double = Double::always(busy().with("stripe-should-retry", "true")).await;
    let deadline = Instant::now() + Duration::from_secs(1);
    let new = NewCustomer { idempotency_key: "k.customer", top_up_id: top_up(), client: None };
    let failure = stripe(&double).create_customer(new, deadline).await;
    assert_eq!(failure.expect_err("a failure").class(), "unknown");
    assert!(double.seen().len() > 1);
    assert!(Instant::now() < deadline + Duration::from_secs(10));
}

#[tokio::test]
async fn nothing_is_sent_after_the_deadline() {
    let double = Double::always(fine()).await;
    let failure = stripe(&double).confirm_payment_intent("pi_1", "k", &pm(), Instant::now()).await;
    assert_eq!(failure, Err(unknown(UnknownReason::Timeout)));
    assert!(double.seen().is_empty());
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is logged of three attempts that fail.
async fn logged() -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let foreign = json!({
        "type": "invalid_request_error", "message": "No such PaymentMethod: 'pm_1Secret'", "param": "payment_method",
    });
    let replies = [
        Reply::Drop,
        busy().with("request-id", "req_1"),
        Reply::status(400, error(&foreign)).with("request-id", "req_2"),
    ];
    let double = Double::start(replies).await;
    let failure = stripe(&double).confirm_payment_intent("pi_1", "the-key", &pm(), later()).await;
    assert_eq!(failure.expect_err("a failure").class(), "refused");
    drop(guard);
    let bytes = log.0.lock().expect("not poisoned").clone();
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn each_failed_attempt_is_logged_without_secrets() {
    let failures = |text: &str| text.lines().filter(|line| line.contains("a call to Stripe failed")).count();
    let mut text = logged().await;
    // Which levels anybody listens to is known to the whole process, and other tests change that at the same time.
    for _ in 0..4 {
        if failures(&text) == 3 {
            break;
        }
        text = logged().await;
    }
    let lines: Vec<_> = text.lines().filter(|line| line.contains("a call to Stripe failed")).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines.iter().all(|line| line.contains("WARN") && line.contains("/v1/payment_intents/:id/confirm"))
    );
    assert!(lines[0].contains("the connection broke"), "{text}");
    assert!(lines[1].contains("req_1") && lines[1].contains("class=\"unknown\""), "{text}");
    assert!(lines[2].contains("req_2") && lines[2].contains("InvalidPaymentMethod"), "{text}");
    for secret in ["pm_1Secret", "topsecret", "the-key"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn waits_double_up_to_four_seconds() {
    let policy = RetryPolicy::default();
    let millis = |failures, jitter| policy.wait(failures, None, jitter).map(|wait| wait.as_millis());
    for (failures, least, most) in
        [(1, 125, 250), (2, 250, 500), (3, 500, 1000), (4, 1000, 2000), (5, 2000, 4000), (6, 2000, 4000)]
    {
        assert_eq!((millis(failures, 0), millis(failures, u8::MAX)), (Some(least), Some(most)), "{failures}");
    }
    assert_eq!(millis(u32::MAX, u8::MAX), Some(4000));
}

#[test]
fn retry_after_is_a_minimum() {
    let meta = |retry_after, should_retry, replayed| ResponseMeta {
        status: 429,
        request_id: None,
        replayed,
        should_retry,
        retry_after,
    };
    let wait = |meta: &ResponseMeta| RetryPolicy::default().wait(1, Some(meta), u8::MAX);
    let seconds = Duration::from_secs;
    assert_eq!(wait(&meta(Some(seconds(7)), None, false)), Some(seconds(7)));
    assert_eq!(wait(&meta(Some(seconds(0)), Some(true), false)), Some(Duration::from_millis(250)));
    assert_eq!(wait(&meta(Some(seconds(7)), Some(false), false)), None);
    assert_eq!(wait(&meta(None, Some(true), true)), None);
}

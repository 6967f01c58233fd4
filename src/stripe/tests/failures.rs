//! What each kind of bad answer means.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{
    Decline, DeclineKind, PaymentIntentStatus, RefusalKind, Stripe, StripeFailure, UnknownReason,
};
use super::double::{Double, Reply};
use super::{TOP_UP, config, confirm_once, error, intent, later, never_again, pm, stripe, unknown};

async fn failure_after(reply: Reply) -> StripeFailure {
    let double = Double::always(reply).await;
    let failure = confirm_once(&double).await.expect_err("a failure");
    assert_eq!(double.seen().len(), 1);
    failure
}

async fn decline_after(fields: Value) -> Decline {
    match failure_after(Reply::status(402, error(&fields)).with("request-id", "req_9")).await {
        StripeFailure::Declined(decline) => *decline,
        other => panic!("{other:?}"),
    }
}

/// As Stripe words it; what is missing in one mode may be there in the other one of the same account.
#[tokio::test]
async fn what_is_missing_may_be_of_the_other_mode() {
    let missing = |message: &str| {
        let fields = json!({"type": "invalid_request_error", "code": "resource_missing", "message": message, "param": "intent"});
        Reply::status(404, error(&fields))
    };
    for (message, is_there) in [
        ("No such payment_intent: 'pi_1'", false),
        (
            "No such payment_intent: 'pi_1'; a similar object exists in test mode, but a live mode key was used to make this request.",
            true,
        ),
    ] {
        let double = Double::always(missing(message)).await;
        let failure = stripe(&double).retrieve_payment_intent("pi_1", later()).await.expect_err("missing");
        assert_eq!((failure.is_missing(), failure.is_of_other_mode()), (true, is_there), "{message}");
    }
}

#[tokio::test]
async fn a_decline_is_definitive_and_shows_the_intent() {
    let decline = decline_after(json!({
        "type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds",
        "advice_code": "try_again_later", "message": "Your card has insufficient funds.", "charge": "ch_1",
        "payment_intent": intent("requires_payment_method"), "payment_method": {"unreadable": true},
    }))
    .await;
    assert_eq!(decline.kind, DeclineKind::Generic);
    assert_eq!(decline.stripe_code.as_deref(), Some("card_declined"));
    assert_eq!(decline.decline_code.as_deref(), Some("insufficient_funds"));
    assert_eq!(decline.request_id.as_deref(), Some("req_9"));
    let nested = decline.payment_intent.expect("nested");
    assert_eq!(nested.status, PaymentIntentStatus::RequiresPaymentMethod);
    assert_eq!(nested.top_up_id.as_deref(), Some(TOP_UP));
}

#[tokio::test]
async fn a_decline_with_an_unreadable_intent_is_still_a_decline() {
    let decline = decline_after(json!({
        "type": "card_error", "code": "card_declined", "payment_intent": {"id": "pi_1"},
    }))
    .await;
    assert_eq!((decline.kind, decline.payment_intent), (DeclineKind::Generic, None));
}

#[tokio::test]
async fn three_d_secure_is_told_apart() {
    for (code, decline_code) in [
        ("authentication_required", None),
        ("card_declined", Some("authentication_required")),
        ("card_declined", Some("authentication_not_handled")),
        ("payment_intent_authentication_failure", None),
    ] {
        let fields = json!({"type": "card_error", "code": code, "decline_code": decline_code});
        let decline = decline_after(fields).await;
        assert_eq!(decline.kind, DeclineKind::AuthenticationRequired, "{code} {decline_code:?}");
    }
}

#[tokio::test]
async fn answers_that_tell_nothing_are_unknown() {
    let readable = || error(&json!({"type": "api_error", "message": "x"}));
    let in_use = |kind: &str| error(&json!({"type": kind, "code": "idempotency_key_in_use"}));
    let mut truncated = intent("succeeded").to_string();
    truncated.truncate(truncated.len() / 2);
    let incomplete = json!({"id": "pi_1", "object": "payment_intent", "status": "succeeded"}).to_string();
    let mut other = intent("succeeded");
    other["id"] = json!("pi_2");
    let mut strange = intent("succeeded");
    strange["id"] = json!("../customers");
    let html = "<html>Bad gateway</html>";
    for (reply, reason) in [
        (Reply::status(409, in_use("idempotency_error")), UnknownReason::KeyInUse),
        (Reply::status(409, in_use("invalid_request_error")), UnknownReason::KeyInUse),
        (Reply::status(400, in_use("invalid_request_error")), UnknownReason::KeyInUse),
        (Reply::status(409, readable()), UnknownReason::Status(409)),
        (Reply::status(424, readable()), UnknownReason::Status(424)),
        (Reply::status(429, readable()), UnknownReason::Status(429)),
        (Reply::status(500, readable()), UnknownReason::Status(500)),
        (Reply::status(502, html), UnknownReason::Status(502)),
        (Reply::status(503, ""), UnknownReason::Status(503)),
        (Reply::status(302, "").with("location", "https://evil.example/"), UnknownReason::Status(302)),
        (Reply::status(400, html), UnknownReason::Unreadable(400)),
        (Reply::status(402, "{\"error\":{}}"), UnknownReason::Unreadable(402)),
        (Reply::status(402, "{\"error\":{\"type\":\"card_er"), UnknownReason::Unreadable(402)),
        (Reply::ok(truncated), UnknownReason::Unreadable(200)),
        (Reply::ok(incomplete), UnknownReason::Unreadable(200)),
        (Reply::ok(""), UnknownReason::Unreadable(200)),
        (Reply::status(201, html), UnknownReason::Unreadable(201)),
        (Reply::ok(" ".repeat(1024 * 1024 + 1)), UnknownReason::Unreadable(200)),
        (Reply::ok(other.to_string()), UnknownReason::OtherObject),
        (Reply::ok(strange.to_string()), UnknownReason::Unreadable(200)),
        (Reply::HalfAnswer(200, intent("succeeded").to_string()), UnknownReason::ConnectionLost),
        (Reply::Drop, UnknownReason::ConnectionLost),
    ] {
        let shown = format!("{reply:?}");
        assert_eq!(failure_after(reply).await, unknown(reason), "{}", shown.get(..80).unwrap_or(&shown));
    }
}

#[tokio::test]
async fn an_unknown_outcome_names_the_request() {
    for reply in [Reply::ok("{}"), Reply::status(500, "{}")] {
        let failure = failure_after(reply.with("request-id", "req_7")).await;
        assert_eq!((failure.class(), failure.request_id()), ("unknown", Some("req_7")));
    }
}

#[tokio::test]
async fn silence_times_out_before_and_during_the_body() {
    for (reply, request_id) in [(Reply::Silence, None), (Reply::HeadOnly, Some("req_head".to_owned()))] {
        let double = Double::always(reply).await;
        let mut config = config(&double.base);
        config.timeout = Duration::from_millis(500);
        let stripe = Stripe::with_policy(&config, never_again()).expect("valid settings");
        let failure = stripe.confirm_payment_intent("pi_1", "k", &pm(), later()).await;
        let expected = StripeFailure::Unknown { reason: UnknownReason::Timeout, request_id };
        assert_eq!(failure, Err(expected));
        assert_eq!(double.seen().len(), 1);
    }
}

#[tokio::test]
async fn the_deadline_ends_an_attempt_that_may_take_longer() {
    let double = Double::always(Reply::Silence).await;
    let deadline = Instant::now() + Duration::from_millis(200);
    let failure = stripe(&double).confirm_payment_intent("pi_1", "k", &pm(), deadline).await;
    assert_eq!(failure, Err(unknown(UnknownReason::Timeout)));
    assert!(Instant::now() < deadline + Duration::from_secs(10), "the configured timeout is 20 s");
}

#[tokio::test]
async fn nobody_listening_is_no_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let stripe = Stripe::with_policy(&config(&base), never_again()).expect("valid settings");
    let failure = stripe.retrieve_payment_intent("pi_1", later()).await;
    assert_eq!(failure, Err(unknown(UnknownReason::NoConnection)));
}

#[tokio::test]
async fn refusals_are_sorted() {
    use RefusalKind::{Authentication, IdempotencyMismatch, InvalidPaymentMethod, Other};
    let used = "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, \
                shared with a connected account without Customer attachment, or was detached from a Customer. It may \
                not be used again.";
    let missing =
        json!({"type": "invalid_request_error", "code": "resource_missing", "param": "payment_method"});
    for (status, fields, kind) in [
        (
            400,
            json!({"type": "idempotency_error", "message": "Keys for idempotent requests"}),
            IdempotencyMismatch,
        ),
        (400, missing.clone(), InvalidPaymentMethod),
        (404, missing, InvalidPaymentMethod),
        (400, json!({"type": "invalid_request_error", "message": used}), InvalidPaymentMethod),
        (
            400,
            json!({"type": "invalid_request_error", "code": "payment_method_unexpected_state"}),
            InvalidPaymentMethod,
        ),
        (401, json!({"type": "invalid_request_error", "message": "Invalid API Key"}), Authentication),
        (403, json!({"type": "invalid_request_error", "param": "payment_method"}), Authentication),
        (404, json!({"type": "invalid_request_error", "code": "resource_missing", "param": "intent"}), Other),
        (400, json!({"type": "invalid_request_error", "code": "parameter_unknown", "param": "x"}), Other),
        (402, json!({"type": "invalid_request_error"}), Other),
    ] {
        match failure_after(Reply::status(status, error(&fields))).await {
            StripeFailure::Refused(refusal) => {
                assert_eq!((refusal.status, refusal.kind), (Some(status), kind), "{fields}");
            }
            other => panic!("{fields}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_payment_method_that_stripe_does_not_find_is_invalid() {
    let body = error(&json!({"type": "invalid_request_error", "code": "resource_missing"}));
    let double = Double::always(Reply::status(404, body)).await;
    match stripe(&double).retrieve_payment_method(&pm(), later()).await {
        Err(StripeFailure::Refused(refusal)) => assert_eq!(refusal.kind, RefusalKind::InvalidPaymentMethod),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refusal_shows_no_secret() {
    let message = "No such PaymentMethod: 'pm_1Secret'; key sk_test_topsecret, card 4242424242424242";
    let body = error(&json!({"type": "invalid_request_error", "message": message, "param": "pm_1Secret"}));
    let failure = failure_after(Reply::status(400, body)).await;
    for shown in [format!("{failure:?}"), failure.to_string()] {
        for secret in ["pm_1Secret", "topsecret", "4242"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    assert!(failure.to_string().contains("No such PaymentMethod"));
}

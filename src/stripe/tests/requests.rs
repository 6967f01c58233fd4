//! What goes over the wire, and what is read of the answers.

use serde_json::json;
use stripe_client_core::{RequestBuilder, RequestStrategy, StripeMethod};
use stripe_shared::PaymentIntent;

use super::super::calls::Endpoint;
use super::super::client::{StripeSetupError, Transport};
use super::super::{NewCustomer, PaymentIntentStatus, RefusalKind, Stripe, StripeFailure, UnknownReason};
use super::double::{Double, Reply};
use super::{CLIENT, TOP_UP, client, config, intent, later, new_intent, pm, stripe, top_up, unknown};
use crate::config::Secret;

fn decoded(form: &str) -> String {
    percent_encoding::percent_decode_str(&form.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn customer() -> String {
    json!({
        "id": "cus_1", "object": "customer", "created": 1, "livemode": false,
        "invoice_settings": {}, "metadata": {}, "email": null, "description": null, "shipping": null,
    })
    .to_string()
}

fn method(kind: &str, id: &str) -> String {
    let billing = json!({"address": null, "email": null, "name": null, "phone": null});
    let mut method = json!({
        "id": id, "object": "payment_method", "created": 1, "livemode": false, "metadata": {}, "type": kind,
        "billing_details": billing, "customer": "cus_1",
    });
    if kind == "card" {
        method["card"] = json!({
            "brand": "visa", "country": "US", "exp_month": 12, "exp_year": 2034, "fingerprint": "fp1",
            "funding": "credit", "last4": "4242", "checks": null, "wallet": null, "networks": null,
            "three_d_secure_usage": {"supported": true}, "display_brand": "visa", "generated_from": null,
        });
    }
    method.to_string()
}

#[tokio::test]
async fn every_post_carries_key_version_and_form() {
    let ok = || Reply::ok(intent("requires_confirmation").to_string());
    let double = Double::start([Reply::ok(customer()), ok(), ok(), ok()]).await;
    let stripe = stripe(&double);
    let new = NewCustomer { idempotency_key: "k.customer", top_up_id: top_up(), client: Some(client()) };
    assert_eq!(stripe.create_customer(new, later()).await.expect("created"), "cus_1");
    stripe.create_payment_intent(new_intent(), later()).await.expect("created");
    stripe.confirm_payment_intent("pi_1", "k.confirm", &pm(), later()).await.expect("confirmed");
    stripe.cancel_payment_intent("pi_1", "k.cancel", later()).await.expect("cancelled");

    let expected = [
        (
            "POST /v1/customers",
            "k.customer",
            format!("metadata[prepaid402_client]={CLIENT}&metadata[prepaid402_top_up]={TOP_UP}"),
        ),
        (
            "POST /v1/payment_intents",
            "k.create",
            format!(
                "amount=500&automatic_payment_methods[allow_redirects]=never&automatic_payment_methods[enabled]=true\
                 &currency=usd&customer=cus_1&description=API credit&metadata[prepaid402_client]={CLIENT}\
                 &metadata[prepaid402_top_up]={TOP_UP}&statement_descriptor_suffix=CREDITS"
            ),
        ),
        (
            "POST /v1/payment_intents/pi_1/confirm",
            "k.confirm",
            "error_on_requires_action=true&payment_method=pm_1Secret&setup_future_usage=off_session"
                .to_owned(),
        ),
        ("POST /v1/payment_intents/pi_1/cancel", "k.cancel", String::new()),
    ];
    let seen = double.seen();
    assert_eq!(seen.len(), expected.len());
    for (seen, (line, key, form)) in seen.iter().zip(&expected) {
        assert_eq!(&seen.line, line);
        assert_eq!(decoded(&seen.body), *form);
        assert_eq!(seen.header("idempotency-key"), Some(*key));
        assert_eq!(seen.header("stripe-version"), Some("2026-09-30.endive"));
        assert_eq!(seen.header("authorization"), Some("Bearer sk_test_topsecret"));
        assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
    }
}

#[tokio::test]
async fn optional_fields_stay_away_and_the_version_can_be_set() {
    let double = Double::start([Reply::ok(intent("requires_payment_method").to_string())]).await;
    let mut config = config(&format!("{}/", double.base));
    config.api_version = Some("2026-04-22.preview".to_owned());
    let stripe = Stripe::new(&config).expect("valid settings");
    let mut new = new_intent();
    (new.client, new.statement_descriptor_suffix, new.description) = (None, None, None);
    stripe.create_payment_intent(new, later()).await.expect("created");
    let seen = double.seen();
    assert_eq!(
        decoded(&seen[0].body),
        format!(
            "amount=500&automatic_payment_methods[allow_redirects]=never&automatic_payment_methods[enabled]=true\
             &currency=usd&customer=cus_1&metadata[prepaid402_top_up]={TOP_UP}"
        )
    );
    assert_eq!(seen[0].header("stripe-version"), Some("2026-04-22.preview"));
}

#[tokio::test]
async fn a_payment_intent_is_read() {
    let answer = Reply::ok(intent("succeeded").to_string())
        .with("request-id", "req_1")
        .with("idempotent-replayed", "true");
    let double = Double::start([answer, Reply::ok(intent("some_future_status").to_string())]).await;
    let stripe = stripe(&double);
    let facts = stripe.retrieve_payment_intent("pi_1", later()).await.expect("found");
    assert_eq!(facts.id, "pi_1");
    assert_eq!(facts.status, PaymentIntentStatus::Succeeded);
    assert_eq!((facts.amount_minor, facts.amount_received_minor), (500, 500));
    assert_eq!((facts.currency.as_str(), facts.livemode), ("usd", false));
    assert_eq!((facts.customer.as_deref(), facts.top_up_id.as_deref()), (Some("cus_1"), Some(TOP_UP)));
    assert_eq!(facts.payment_method, Some(pm()));
    assert_eq!((facts.created, facts.replayed), (1_790_000_000, true));
    assert_eq!(facts.request_id.as_deref(), Some("req_1"));
    assert!(!format!("{facts:?}").contains("Secret"), "{facts:?}");

    let facts = stripe.retrieve_payment_intent("pi_1", later()).await.expect("found");
    assert_eq!(facts.status, PaymentIntentStatus::Other("some_future_status".to_owned()));
    assert!(!facts.replayed);
    let seen = double.seen();
    assert_eq!(seen[0].line, "GET /v1/payment_intents/pi_1");
    assert_eq!(seen[0].header("idempotency-key"), None);
}

#[tokio::test]
async fn a_payment_method_is_read_under_the_id_that_stripe_returned() {
    let replies = [Reply::ok(method("card", "pm_1Real")), Reply::ok(method("us_bank_account", "pm_2"))];
    let double = Double::start(replies).await;
    let stripe = stripe(&double);
    let facts = stripe.retrieve_payment_method(&pm(), later()).await.expect("found");
    assert_eq!(facts.id.expose(), "pm_1Real");
    assert_eq!((facts.fingerprint.as_deref(), facts.customer.as_deref()), (Some("fp1"), Some("cus_1")));
    assert!(facts.is_card);
    let facts = stripe.retrieve_payment_method(&pm(), later()).await.expect("found");
    assert!(!facts.is_card);
    assert_eq!(facts.fingerprint, None);
    assert_eq!(double.seen()[0].line, "GET /v1/payment_methods/pm_1Secret");
}

#[tokio::test]
async fn a_list_is_read_to_its_end() {
    let page = |id: &str, has_more: bool| {
        let mut intent = intent("succeeded");
        intent["id"] = json!(id);
        let list =
            json!({"object": "list", "url": "/v1/payment_intents", "has_more": has_more, "data": [intent]});
        Reply::ok(list.to_string())
    };
    let double = Double::start([page("pi_2", true), page("pi_1", false)]).await;
    let found = stripe(&double).list_payment_intents_created_between(10, 20, later()).await.expect("read");
    assert_eq!(found.iter().map(|intent| intent.id.as_str()).collect::<Vec<_>>(), ["pi_2", "pi_1"]);
    let lines: Vec<_> = double.seen().iter().map(|seen| decoded(&seen.line)).collect();
    assert_eq!(lines[0], "GET /v1/payment_intents?created[gte]=10&created[lte]=20&limit=50");
    assert_eq!(
        lines[1],
        "GET /v1/payment_intents?created[gte]=10&created[lte]=20&limit=50&starting_after=pi_2"
    );
}

#[tokio::test]
async fn a_list_that_cannot_be_read_to_its_end_is_no_list() {
    let empty = json!({"object": "list", "url": "/v1/payment_intents", "has_more": true, "data": []});
    let double = Double::always(Reply::ok(empty.to_string())).await;
    let result = stripe(&double).list_payment_intents_created_between(10, 20, later()).await;
    assert_eq!(result, Err(unknown(UnknownReason::Unreadable(200))));

    // Every page says that there is more.
    let mut endless = empty;
    endless["data"] = json!([intent("succeeded")]);
    let double = Double::always(Reply::ok(endless.to_string())).await;
    let result = stripe(&double).list_payment_intents_created_between(10, 20, later()).await;
    assert_eq!(result, Err(unknown(UnknownReason::TooMany)));
    assert_eq!(double.seen().len(), 200);
}

#[tokio::test]
async fn connections_are_kept() {
    let double = Double::always(Reply::ok(intent("succeeded").to_string())).await;
    let stripe = stripe(&double);
    for _ in 0..50 {
        stripe.clone().retrieve_payment_intent("pi_1", later()).await.expect("found");
    }
    assert_eq!(double.seen().len(), 50);
    assert!(double.connections() <= 3, "{} connections", double.connections());
}

/// Sends a raw request through the client below the typed calls.
async fn send(
    double: &Double,
    method: StripeMethod,
    strategy: Option<RequestStrategy>,
) -> Result<PaymentIntent, StripeFailure> {
    let transport = Transport::new(&config(&double.base)).expect("valid settings");
    let attempt = transport.one_attempt(Endpoint::CreatePaymentIntent, later());
    let mut request = RequestBuilder::new(method, "/payment_intents").customize::<PaymentIntent>();
    if let Some(strategy) = strategy {
        request = request.request_strategy(strategy);
    }
    request.send(&attempt).await
}

#[tokio::test]
async fn a_post_without_a_key_or_with_a_foreign_retry_is_not_sent() {
    let double = Double::always(Reply::ok(intent("succeeded").to_string())).await;
    for strategy in [
        None,
        Some(RequestStrategy::Once),
        Some(RequestStrategy::Retry(3)),
        Some(RequestStrategy::ExponentialBackoff(3)),
    ] {
        match send(&double, StripeMethod::Post, strategy).await {
            Err(StripeFailure::Refused(refusal)) => {
                assert_eq!((refusal.status, refusal.kind), (None, RefusalKind::Other));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(double.seen().is_empty());
    assert!(send(&double, StripeMethod::Get, None).await.is_ok());
}

#[tokio::test]
async fn malformed_ids_and_keys_are_not_sent() {
    let double = Double::always(Reply::ok(intent("succeeded").to_string())).await;
    let stripe = stripe(&double);
    let long = "k".repeat(256);
    for (pi, key) in [
        ("", "k"),
        ("pi_", "k"),
        ("pi_1/../../customers", "k"),
        ("pi_1?expand=x", "k"),
        ("pi_1", ""),
        ("pi_1", long.as_str()),
        ("pi_1", "line\nbreak"),
    ] {
        match stripe.cancel_payment_intent(pi, key, later()).await {
            Err(StripeFailure::Refused(refusal)) => assert_eq!(refusal.status, None, "{pi:?} {key:?}"),
            other => panic!("{pi:?} {key:?}: {other:?}"),
        }
    }
    assert!(double.seen().is_empty());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for base in ["", "api.stripe.com", "ftp://api.stripe.com", "http://", "https://api.stripe.com?x=1", "a b"]
    {
        assert_eq!(Stripe::new(&config(base)).err(), Some(StripeSetupError::ApiBase), "{base:?}");
    }
    let mut bad = config("https://api.stripe.com");
    bad.secret_key = Secret::new("sk_\n".to_owned());
    assert_eq!(Stripe::new(&bad).err(), Some(StripeSetupError::SecretKey));
    let mut bad = config("https://api.stripe.com");
    bad.api_version = Some("\u{7f}".to_owned());
    assert_eq!(Stripe::new(&bad).err(), Some(StripeSetupError::ApiVersion));
}

#[test]
fn the_secret_key_does_not_show_itself() {
    let stripe = Stripe::new(&config("https://api.stripe.com")).expect("valid settings");
    assert!(!format!("{stripe:?}").contains("topsecret"));
}

#[test]
fn calls_can_be_spawned() {
    fn spawnable<T: Send>(_: T) {}
    let stripe = Stripe::new(&config("https://api.stripe.com")).expect("valid settings");
    let pm = pm();
    spawnable(stripe.retrieve_payment_method(&pm, later()));
    spawnable(stripe.create_payment_intent(new_intent(), later()));
    spawnable(stripe.confirm_payment_intent("pi_1", "k", &pm, later()));
    spawnable(stripe.list_payment_intents_created_between(0, 1, later()));
}

#[tokio::test]
async fn events_are_listed_page_by_page_and_kept_as_they_are() {
    let page = |ids: &[&str], has_more: bool| {
        // Of a version that nobody knows yet.
        let event = |id: &&str| json!({"id": id, "type": "charge.dispute.created", "created": 5_000_000_000_i64, "new": [1.5, null]});
        let data: Vec<_> = ids.iter().map(event).collect();
        Reply::ok(
            json!({"object": "list", "url": "/v1/events", "data": data, "has_more": has_more}).to_string(),
        )
    };
    let double =
        Double::start([page(&["evt_2", "evt_1"], true), page(&["evt_0"], false), page(&[], true)]).await;
    let stripe = stripe(&double);
    let types = ["charge.dispute.created", "refund.created"];
    let first = stripe.list_events_since(100, &types, None, later()).await.expect("a page");
    assert_eq!((first.events.len(), first.next.as_deref()), (2, Some("evt_1")));
    assert_eq!(
        first.events[1],
        json!({"id": "evt_1", "type": "charge.dispute.created", "created": 5_000_000_000_i64, "new": [1.5, null]})
    );
    let second = stripe.list_events_since(100, &types, first.next.as_deref(), later()).await.expect("a page");
    assert_eq!((second.events.len(), second.next), (1, None));
    let query = "created[gte]=100&limit=50&types[0]=charge.dispute.created&types[1]=refund.created";
    let asked: Vec<String> = double.seen().iter().map(|seen| decoded(&seen.line)).collect();
    assert_eq!(
        asked,
        [format!("GET /v1/events?{query}"), format!("GET /v1/events?{query}&starting_after=evt_1")]
    );

    // More is promised, and nothing says where it goes on: not the end of the list.
    let stuck = stripe.list_events_since(100, &types, None, later()).await;
    assert!(matches!(stuck, Err(StripeFailure::Unknown { .. })), "{stuck:?}");
    let refused = stripe.list_events_since(100, &types, Some("evt_1&limit=1"), later()).await;
    assert!(refused.is_err());
}

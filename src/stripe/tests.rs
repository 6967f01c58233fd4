//! The calls and their failures, against a server that answers as scripted.

mod double;
mod failures;
mod requests;
mod retries;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::retry::RetryPolicy;
use super::{NewPaymentIntent, Stripe, StripeFailure, UnknownReason};
use crate::config::{Secret, StripeConfig};
use crate::domain::{ClientPublicId, PaymentMethodId, TopUpId};
use double::Double;

const TOP_UP: &str = "0197a9a4-0000-7000-8000-000000000001";
const CLIENT: &str = "0197a9a4-0000-7000-8000-000000000002";
/// Long enough for a loaded machine; only tests of silence wait for it, with a shorter one.
const TIMEOUT: Duration = Duration::from_secs(20);

fn config(base: &str) -> StripeConfig {
    StripeConfig {
        secret_key: Secret::new("sk_test_topsecret".to_owned()),
        publishable_key: "pk_test_1".to_owned(),
        api_base: base.to_owned(),
        api_version: None,
        timeout: TIMEOUT,
        statement_descriptor_suffix: None,
    }
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(2),
        page: Duration::from_secs(1),
    }
}

/// No wait of this policy ends before a deadline of the tests.
fn never_again() -> RetryPolicy {
    let hour = Duration::from_secs(3600);
    RetryPolicy { first: hour, longest: hour, page: hour }
}

fn stripe(double: &Double) -> Stripe {
    Stripe::with_policy(&config(&double.base), policy()).expect("valid settings")
}

fn later() -> Instant {
    Instant::now() + TIMEOUT
}

fn pm() -> PaymentMethodId {
    PaymentMethodId::parse("pm_1Secret").expect("valid")
}

fn top_up() -> TopUpId {
    TopUpId::parse(TOP_UP).expect("valid")
}

fn client() -> ClientPublicId {
    ClientPublicId::parse(CLIENT).expect("valid")
}

/// Sends a confirmation with one attempt.
async fn confirm_once(double: &Double) -> Result<super::PaymentIntentFacts, StripeFailure> {
    let stripe = Stripe::with_policy(&config(&double.base), never_again()).expect("valid settings");
    stripe.confirm_payment_intent("pi_1", "k.confirm", &pm(), later()).await
}

fn intent(status: &str) -> Value {
    json!({
        "id": "pi_1", "object": "payment_intent", "amount": 500, "amount_capturable": 0, "amount_received": 500,
        "capture_method": "automatic_async", "client_secret": "pi_1_secret_2", "confirmation_method": "automatic",
        "created": 1_790_000_000, "currency": "usd", "customer": "cus_1", "livemode": false,
        "metadata": {"prepaid402_top_up": TOP_UP}, "payment_method": "pm_1Secret",
        "payment_method_types": ["card"], "status": status,
    })
}

fn error(fields: &Value) -> String {
    json!({ "error": fields }).to_string()
}

fn new_intent() -> NewPaymentIntent<'static> {
    NewPaymentIntent {
        idempotency_key: "k.create",
        amount_minor: 500,
        currency: "usd",
        customer: "cus_1",
        top_up_id: top_up(),
        client: Some(client()),
        recovery: None,
        statement_descriptor_suffix: Some("CREDITS"),
        description: Some("API credit"),
    }
}

fn unknown(reason: UnknownReason) -> StripeFailure {
    StripeFailure::Unknown { reason, request_id: None }
}

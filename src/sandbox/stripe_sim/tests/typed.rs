//! Every object must be one that Stripe's typed client reads: a missing required field means an unknown outcome there.

use miniserde::json::from_str;
use stripe_shared::{
    BalanceTransaction, Charge, Customer, DeletedCustomer, Dispute, DisputeStatus, Error, Event,
    PaymentIntent, PaymentIntentStatus, PaymentMethod, Refund, SetupAttempt, SetupIntent, SetupIntentStatus,
};
use stripe_types::{List, SearchList};

use super::*;

fn read<T: miniserde::Deserialize>(what: &str, body: &str) -> T {
    from_str(body).unwrap_or_else(|_| panic!("{what} is not complete: {body}"))
}

#[tokio::test]
async fn every_object_is_complete() {
    let stripe = Stripe::new().await;
    let method = stripe.get("/v1/payment_methods/pm_card_visa").await;
    let method: PaymentMethod = read("payment method", &method.body);
    assert_eq!(method.card.unwrap().last4, "4242");
    let customer: Customer =
        read("customer", &stripe.post("/v1/customers", "email=a%40b.example").await.body);
    assert_eq!(customer.email.as_deref(), Some("a@b.example"));

    let paid = stripe.post("/v1/payment_intents", &confirm(method.id.as_str())).await;
    let intent: PaymentIntent = read("paid intent", &paid.body);
    assert_eq!((intent.status, intent.amount_received), (PaymentIntentStatus::Succeeded, 500));
    let latest = intent.latest_charge.unwrap();
    let charge = latest.as_object().unwrap();
    let transaction = charge.balance_transaction.as_ref().unwrap().as_object().unwrap();
    assert_eq!((transaction.fee, transaction.net), (45, 455));

    let charge: Charge =
        read("charge", &stripe.get(&format!("/v1/charges/{}", charge.id.as_str())).await.body);
    let path = format!("/v1/balance_transactions/{}", transaction.id.as_str());
    let _: BalanceTransaction = read("balance transaction", &stripe.get(&path).await.body);
    let body = format!("charge={}&amount=200&reason=requested_by_customer", charge.id.as_str());
    let refund: Refund = read("refund", &stripe.post("/v1/refunds", &body).await.body);
    assert_eq!(refund.amount, 200);
    let _: List<Refund> = read("refunds", &stripe.get("/v1/refunds").await.body);
    let _: List<PaymentIntent> = read("intents", &stripe.get("/v1/payment_intents?limit=1").await.body);
    let _: List<Charge> = read("charges", &stripe.get("/v1/charges").await.body);
    let _: List<BalanceTransaction> =
        read("transactions", &stripe.get("/v1/balance_transactions").await.body);
    let _: List<Customer> = read("customers", &stripe.get("/v1/customers").await.body);
}

#[tokio::test]
async fn every_state_of_an_intent_is_complete() {
    let stripe = Stripe::new().await;
    let waiting = CONFIRM.replace("&error_on_requires_action=true", "");
    for (body, status) in [
        ("amount=500&currency=usd".to_owned(), PaymentIntentStatus::RequiresPaymentMethod),
        (
            "amount=500&currency=usd&payment_method=pm_card_visa".to_owned(),
            PaymentIntentStatus::RequiresConfirmation,
        ),
        (
            format!("{waiting}&payment_method=pm_card_threeDSecure2Required"),
            PaymentIntentStatus::RequiresAction,
        ),
        (format!("{waiting}&payment_method=pm_card_processing"), PaymentIntentStatus::Processing),
        (format!("{waiting}&payment_method=pm_card_visa"), PaymentIntentStatus::Succeeded),
    ] {
        let intent: PaymentIntent = read("intent", &stripe.post("/v1/payment_intents", &body).await.body);
        assert_eq!(intent.status, status);
        if intent.status == PaymentIntentStatus::RequiresPaymentMethod {
            let path = format!("/v1/payment_intents/{}/cancel", intent.id.as_str());
            let canceled: PaymentIntent =
                read("canceled intent", &stripe.post(&path, "cancellation_reason=abandoned").await.body);
            assert_eq!(canceled.status, PaymentIntentStatus::Canceled);
        }
    }
}

#[tokio::test]
async fn a_decline_carries_the_intent() {
    let stripe = Stripe::new().await;
    let method = stripe.card("4000000000009995").await;
    let declined = stripe.post("/v1/payment_intents", &confirm(&method)).await;
    assert_eq!(declined.status, 402);
    let error: Error = read("error", &declined.body);
    let error = error.error;
    assert_eq!(error.code.as_ref().map(|code| code.as_str()), Some("card_declined"));
    assert_eq!(error.decline_code.as_deref(), Some("insufficient_funds"));
    assert!(error.charge.as_deref().unwrap().starts_with("ch_"));
    let intent = error.payment_intent.unwrap();
    assert_eq!(intent.status, PaymentIntentStatus::RequiresPaymentMethod);
    assert_eq!(intent.last_payment_error.unwrap().payment_method.unwrap().id.as_str(), method);
    assert!(intent.payment_method.is_none());
}

#[tokio::test]
async fn what_follows_a_charge_is_complete() {
    let stripe = Stripe::new().await;
    for (method, status) in [
        ("pm_card_createDispute", DisputeStatus::NeedsResponse),
        ("pm_card_createDisputeInquiry", DisputeStatus::WarningNeedsResponse),
    ] {
        let intent = stripe.paid(method).await;
        let path = format!("/v1/disputes?payment_intent={intent}");
        let disputes: List<Dispute> = read("disputes", &stripe.get(&path).await.body);
        let id = disputes.data[0].id.as_str().to_owned();
        let dispute: Dispute = read("dispute", &stripe.get(&format!("/v1/disputes/{id}")).await.body);
        assert_eq!((dispute.amount, dispute.status), (500, status));
        assert!(dispute.payment_method_details.unwrap().card.is_some());
    }
    for method in ["pm_card_pendingRefund", "pm_card_refundFail"] {
        let intent = stripe.paid(method).await;
        let refund = stripe.post("/v1/refunds", &format!("payment_intent={intent}")).await;
        let refund: Refund = read("refund", &refund.body);
        stripe.control("/_sim/clock", &json!({ "advance_seconds": 60 })).await;
        let path = format!("/v1/refunds/{}", refund.id.as_str());
        let later: Refund = read("refund", &stripe.get(&path).await.body);
        assert_ne!(later.status, refund.status);
    }
    let _: List<BalanceTransaction> =
        read("transactions", &stripe.get("/v1/balance_transactions?limit=100").await.body);
    let events: List<Event> = read("events", &stripe.get("/v1/events?limit=100").await.body);
    assert!(events.data.len() > 10);
    let path = format!("/v1/events/{}", events.data[0].id.as_str());
    let _: Event = read("event", &stripe.get(&path).await.body);
}

#[tokio::test]
async fn every_state_of_a_setup_is_complete() {
    let stripe = Stripe::new().await;
    let now = "confirm=true&automatic_payment_methods[enabled]=true&automatic_payment_methods[allow_redirects]=never\
        &expand[0]=latest_attempt&expand[1]=payment_method&payment_method";
    for (body, status, attempt) in [
        (String::new(), SetupIntentStatus::RequiresPaymentMethod, None),
        ("payment_method=pm_card_visa".to_owned(), SetupIntentStatus::RequiresConfirmation, None),
        (
            format!("{now}=pm_card_authenticationRequired"),
            SetupIntentStatus::RequiresAction,
            Some("requires_action"),
        ),
        (format!("{now}=pm_card_processing"), SetupIntentStatus::Processing, Some("processing")),
        (format!("{now}=pm_card_visa"), SetupIntentStatus::Succeeded, Some("succeeded")),
    ] {
        let reply = stripe.post("/v1/setup_intents", &body).await;
        let setup: SetupIntent = read("setup intent", &reply.body);
        assert_eq!(setup.status, status);
        let made = setup.latest_attempt.as_ref().map(|made| made.as_object().unwrap());
        assert_eq!(made.map(|made| made.status.as_str()), attempt);
        if status == SetupIntentStatus::Succeeded {
            let card = made.unwrap().payment_method_details.card.as_ref().unwrap();
            assert_eq!(card.checks.as_ref().unwrap().cvc_check.as_deref(), Some("pass"));
            assert!(setup.payment_method.unwrap().as_object().is_some());
        }
        if status == SetupIntentStatus::RequiresAction {
            let id = setup.id.as_str();
            stripe
                .control(&format!("/_sim/setup_intents/{id}/finish"), &json!({ "outcome": "failed" }))
                .await;
            let failed: SetupIntent =
                read("failed setup", &stripe.get(&format!("/v1/setup_intents/{id}")).await.body);
            assert!(failed.last_setup_error.is_some());
            let path = format!("/v1/setup_attempts?setup_intent={id}");
            let attempts: List<SetupAttempt> = read("attempts", &stripe.get(&path).await.body);
            assert!(attempts.data[0].setup_error.is_some());
            let path = format!("/v1/setup_intents/{id}/cancel");
            let canceled: SetupIntent = read("canceled setup", &stripe.post(&path, "").await.body);
            assert_eq!(canceled.status, SetupIntentStatus::Canceled);
        }
    }
    let declined = stripe.post("/v1/setup_intents", &format!("{now}=pm_card_visa_chargeDeclined")).await;
    let error: Error = read("error", &declined.body);
    assert_eq!(error.error.setup_intent.unwrap().status, SetupIntentStatus::RequiresPaymentMethod);
    let setups: List<SetupIntent> = read("setups", &stripe.get("/v1/setup_intents").await.body);
    assert_eq!(setups.data.len(), 6);
    let _: List<Event> = read("events", &stripe.get("/v1/events").await.body);
}

#[tokio::test]
async fn customers_that_were_found_and_deleted_are_complete() {
    let stripe = Stripe::new().await;
    let id = stripe.customer().await;
    stripe.control("/_sim/search/catch-up", &json!({})).await;
    let path = "/v1/customers/search?query=metadata['a']:'b'";
    let found: SearchList<Customer> = read("found customers", &stripe.get(path).await.body);
    assert_eq!((found.data.len(), found.data[0].id.as_str()), (1, id.as_str()));
    let path = format!("/v1/customers/{id}");
    let changed: Customer = read("changed customer", &stripe.post(&path, "name=A").await.body);
    assert_eq!(changed.name.as_deref(), Some("A"));
    stripe.send("DELETE", &path, "", &[("authorization", &bearer(SANDBOX_SECRET_KEY))]).await.unwrap();
    let deleted: DeletedCustomer = read("deleted customer", &stripe.get(&path).await.body);
    assert_eq!(deleted.id.as_str(), id);
}

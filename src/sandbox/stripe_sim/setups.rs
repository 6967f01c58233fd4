//! SetupIntents and their attempts: what is kept of them, and Stripe's complete objects out of that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::books::Books;
use super::issuer::CvcCheck;
use super::objects::{Failure, IntentStatus};
use super::render;

/// A card that is being made ready for later payments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SetupIntent {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) client_secret: String,
    pub(super) status: IntentStatus,
    pub(super) customer: Option<String>,
    pub(super) payment_method: Option<String>,
    pub(super) latest_attempt: Option<String>,
    pub(super) last_failure: Option<Failure>,
    /// `on_session` or `off_session`.
    pub(super) usage: String,
    /// `allow_redirects`, when automatic payment methods are on.
    pub(super) automatic: Option<String>,
    pub(super) description: Option<String>,
    pub(super) return_url: Option<String>,
    pub(super) cancellation_reason: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One confirmation of a SetupIntent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SetupAttempt {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) setup_intent: String,
    pub(super) payment_method: String,
    pub(super) customer: Option<String>,
    pub(super) usage: String,
    pub(super) status: AttemptStatus,
    pub(super) failure: Option<Failure>,
    /// What the bank said of the CVC in this attempt; nothing when it was not asked or not shown one.
    pub(super) cvc_check: Option<CvcCheck>,
    /// How the cardholder's authentication ended, when there was one.
    pub(super) authenticated: Option<bool>,
}

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AttemptStatus {
    /// The cardholder has to authenticate.
    RequiresAction,
    /// The outcome comes later.
    Processing,
    /// The card is ready.
    Succeeded,
    /// It is not.
    Failed,
    /// Left, for another attempt or for good.
    Abandoned,
}

impl AttemptStatus {
    /// Whether nothing more happens to it.
    pub(super) fn is_over(self) -> bool {
        !matches!(self, Self::RequiresAction | Self::Processing)
    }
}

/// A SetupIntent.
pub(super) fn setup_intent(books: &Books, row: &SetupIntent) -> Value {
    let waits = row.status == IntentStatus::RequiresAction;
    json!({
        "id": row.id,
        "object": "setup_intent",
        "application": null,
        "automatic_payment_methods": render::automatic(row.automatic.as_deref()),
        "cancellation_reason": row.cancellation_reason,
        "client_secret": row.client_secret,
        "created": row.created,
        "customer": row.customer,
        "description": row.description,
        "excluded_payment_method_types": null,
        "flow_directions": null,
        "last_setup_error": row.last_failure.as_ref().map(|failure| render::failure(books, failure)),
        "latest_attempt": row.latest_attempt,
        "livemode": false,
        "mandate": null,
        "metadata": row.metadata,
        "next_action": waits.then(|| render::next_action(row.return_url.as_deref())),
        "on_behalf_of": null,
        "payment_method": row.payment_method,
        "payment_method_configuration_details": null,
        "payment_method_options": {
            "card": { "mandate_options": null, "network": null, "request_three_d_secure": "automatic" },
        },
        "payment_method_types": ["card"],
        "single_use_mandate": null,
        "status": row.status.word(),
        "usage": row.usage,
    })
}

/// A SetupAttempt.
pub(super) fn setup_attempt(books: &Books, row: &SetupAttempt) -> Value {
    let card = books.methods.get(&row.payment_method).map(|method| {
        let card = &method.card;
        json!({
            "brand": card.brand,
            "checks": render::checks(row.cvc_check),
            "country": card.country,
            "exp_month": card.exp_month,
            "exp_year": card.exp_year,
            "fingerprint": card.fingerprint,
            "funding": card.funding,
            "last4": card.last4,
            "network": card.brand,
            "three_d_secure": row.authenticated.map(three_d_secure),
            "wallet": null,
        })
    });
    json!({
        "id": row.id,
        "object": "setup_attempt",
        "application": null,
        "created": row.created,
        "customer": row.customer,
        "flow_directions": null,
        "livemode": false,
        "on_behalf_of": null,
        "payment_method": row.payment_method,
        "payment_method_details": { "card": card, "type": "card" },
        "setup_error": row.failure.as_ref().map(|failure| render::failure(books, failure)),
        "setup_intent": row.setup_intent,
        "status": row.status,
        "usage": row.usage,
    })
}

fn three_d_secure(authenticated: bool) -> Value {
    json!({
        "authentication_flow": "challenge",
        "electronic_commerce_indicator": authenticated.then_some("05"),
        "result": if authenticated { "authenticated" } else { "failed" },
        "result_reason": (!authenticated).then_some("rejected"),
        "transaction_id": null,
        "version": "2.2.0",
    })
}

//! What the simulator keeps: Stripe's objects, reduced to what its behaviour depends on. `render` makes them complete.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cards::Behaviour;

/// Somebody who pays.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Customer {
    pub(super) id: String,
    /// Unix seconds, as every `created` here.
    pub(super) created: i64,
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
    pub(super) phone: Option<String>,
    pub(super) description: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// What is kept of a card: never its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Card {
    pub(super) brand: String,
    pub(super) funding: String,
    pub(super) country: String,
    pub(super) last4: String,
    pub(super) exp_month: i64,
    pub(super) exp_year: i64,
    pub(super) cvc_given: bool,
    pub(super) fingerprint: String,
    pub(super) behaviour: Behaviour,
}

/// A tokenised card.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PaymentMethod {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) card: Card,
    pub(super) customer: Option<String>,
    /// Used without a customer, or detached: never usable again.
    pub(super) consumed: bool,
    pub(super) billing: Billing,
    pub(super) allow_redisplay: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Billing details.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Billing {
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
    pub(super) phone: Option<String>,
    pub(super) address: BTreeMap<String, String>,
}

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum IntentStatus {
    /// No usable PaymentMethod: new, or the last attempt failed.
    RequiresPaymentMethod,
    /// Waits to be confirmed.
    RequiresConfirmation,
    /// The cardholder has to authenticate.
    RequiresAction,
    /// The outcome comes later.
    Processing,
    /// Paid.
    Succeeded,
    /// Never to be paid.
    Canceled,
}

impl IntentStatus {
    /// Stripe's word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::RequiresConfirmation => "requires_confirmation",
            Self::RequiresAction => "requires_action",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

/// Why the last attempt failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) decline_code: Option<String>,
    pub(super) advice_code: Option<String>,
    pub(super) message: String,
    pub(super) charge: Option<String>,
    pub(super) payment_method: String,
}

/// A payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PaymentIntent {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) client_secret: String,
    /// In the currency's smallest unit, as every amount here.
    pub(super) amount: i64,
    pub(super) amount_received: i64,
    pub(super) currency: String,
    pub(super) status: IntentStatus,
    pub(super) customer: Option<String>,
    pub(super) payment_method: Option<String>,
    pub(super) latest_charge: Option<String>,
    pub(super) last_failure: Option<Failure>,
    pub(super) setup_future_usage: Option<String>,
    /// `allow_redirects`, when automatic payment methods are on.
    pub(super) automatic: Option<String>,
    pub(super) capture_method: String,
    pub(super) confirmation_method: String,
    pub(super) description: Option<String>,
    pub(super) statement_descriptor_suffix: Option<String>,
    pub(super) receipt_email: Option<String>,
    pub(super) transfer_group: Option<String>,
    pub(super) return_url: Option<String>,
    /// Set while the cardholder's authentication, or the slow outcome, belongs to an off-session attempt.
    pub(super) off_session: bool,
    pub(super) canceled_at: Option<i64>,
    pub(super) cancellation_reason: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One attempt to move money.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Charge {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) payment_intent: String,
    pub(super) payment_method: String,
    pub(super) customer: Option<String>,
    pub(super) amount: i64,
    pub(super) amount_refunded: i64,
    pub(super) currency: String,
    pub(super) state: ChargeState,
    pub(super) failure: Option<Failure>,
    pub(super) balance_transaction: Option<String>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChargeState {
    /// Not yet known.
    Pending,
    /// Money moved.
    Succeeded,
    /// It did not.
    Failed,
}

/// Money given back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Refund {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) charge: String,
    pub(super) payment_intent: String,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) reason: Option<String>,
    pub(super) balance_transaction: String,
    pub(super) metadata: BTreeMap<String, String>,
}

/// A change of the account's balance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BalanceTransaction {
    pub(super) id: String,
    pub(super) created: i64,
    /// Positive for a charge, negative for a refund.
    pub(super) amount: i64,
    pub(super) fee: i64,
    pub(super) currency: String,
    /// The charge or refund.
    pub(super) source: String,
}

/// What an idempotency key answers from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedAnswer {
    pub(super) key: String,
    pub(super) created: i64,
    /// MAC of method, path and parameters.
    pub(super) request: String,
    pub(super) request_id: String,
    pub(super) status: u16,
    pub(super) body: String,
}

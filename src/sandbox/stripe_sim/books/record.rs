//! What the journal keeps: one record a change.

use serde::{Deserialize, Serialize};

use crate::sandbox::stripe_sim::events::Event;
use crate::sandbox::stripe_sim::objects::{
    BalanceTransaction, Charge, Customer, Dispute, FraudWarning, PaymentIntent, PaymentMethod, Refund,
    SavedAnswer,
};
use crate::sandbox::stripe_sim::setups::{SetupAttempt, SetupIntent};
use crate::sandbox::stripe_sim::webhooks::WebhookEndpoint;

/// One change of the books. A request's changes are one line of the journal, so all of them happen or none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub(in crate::sandbox::stripe_sim) enum Record {
    /// The books' own secret: fingerprints and request MACs come from it.
    Account(Account),
    /// The clock was moved.
    Clock {
        /// Seconds ahead of the system's clock.
        offset_seconds: i64,
    },
    /// A settings change.
    Settings(Settings),
    /// New or changed.
    Customer(Customer),
    /// New or changed.
    PaymentMethod(Box<PaymentMethod>),
    /// New or changed.
    PaymentIntent(Box<PaymentIntent>),
    /// New or changed.
    SetupIntent(Box<SetupIntent>),
    /// New or changed.
    SetupAttempt(Box<SetupAttempt>),
    /// New or changed.
    Charge(Charge),
    /// New or changed.
    Refund(Refund),
    /// New.
    BalanceTransaction(BalanceTransaction),
    /// New or changed.
    Dispute(Box<Dispute>),
    /// New.
    FraudWarning(FraudWarning),
    /// Something happened. Every endpoint that listens for it gets it from here.
    Event(Box<Event>),
    /// New or changed.
    WebhookEndpoint(WebhookEndpoint),
    /// Removed, with what it waited for.
    NoWebhookEndpoint {
        /// Its id.
        id: String,
    },
    /// An endpoint has taken an event, or it is too old to be tried again.
    Delivered {
        /// The endpoint's id.
        endpoint: String,
        /// The event's id.
        event: String,
    },
    /// What an idempotency key answers.
    Saved(SavedAnswer),
}

/// The account's secret.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::sandbox::stripe_sim) struct Account {
    pub(super) secret: [u8; 32],
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Account(..)")
    }
}

/// What can be switched while the simulator runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sandbox::stripe_sim) struct Settings {
    /// Whether a publishable key may turn a card number into a PaymentMethod (Stripe: off unless switched on).
    pub(in crate::sandbox::stripe_sim) publishable_key_tokenisation: bool,
    /// Whether a charge's balance transaction comes only later, with `charge.updated`.
    #[serde(default)]
    pub(in crate::sandbox::stripe_sim) late_balance_transactions: bool,
}

impl Settings {
    /// The settings of new books.
    pub(in crate::sandbox::stripe_sim) fn new(publishable_key_tokenisation: bool) -> Self {
        Self { publishable_key_tokenisation, late_balance_transactions: false }
    }
}

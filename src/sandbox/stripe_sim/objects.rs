//! What the simulator keeps: Stripe's objects, reduced to what its behaviour depends on. `render` makes them complete.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cards::{Behaviour, Decline};
use super::issuer::{CvcCheck, TypedCvc};

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
    /// For good: nothing can be charged for it, but it can be looked at.
    #[serde(default)]
    pub(super) deleted: bool,
    /// The last change, in Unix seconds: the search learns of it later. Absent in books from before there was a search.
    #[serde(default)]
    pub(super) changed: i64,
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
    /// The bank has taken the card, so that the CVC is gone.
    #[serde(default)]
    pub(super) cvc_used: bool,
    /// What the bank said of it last.
    #[serde(default)]
    pub(super) cvc_check: Option<CvcCheck>,
    /// The cardholder has agreed to payments without them.
    #[serde(default)]
    pub(super) set_up: bool,
    /// In memory only, and until the bank has taken the card.
    #[serde(skip)]
    pub(super) cvc: TypedCvc,
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

    /// Whether it can still be confirmed, or canceled.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::RequiresPaymentMethod | Self::RequiresConfirmation | Self::RequiresAction)
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

impl Failure {
    /// A refusal of that PaymentMethod, without a charge.
    pub(super) fn of(decline: Decline, payment_method: &str) -> Self {
        Self {
            code: decline.code.to_owned(),
            decline_code: decline.decline_code.map(str::to_owned),
            advice_code: decline.advice_code.map(str::to_owned),
            message: decline.message.to_owned(),
            charge: None,
            payment_method: payment_method.to_owned(),
        }
    }
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
    /// When the balance transaction comes, if it comes later; Unix seconds.
    #[serde(default)]
    pub(super) settles_at: Option<i64>,
    /// Whether a dispute, an inquiry included, was ever opened.
    #[serde(default)]
    pub(super) disputed: bool,
    /// What disputes have taken and not given back.
    #[serde(default)]
    pub(super) amount_withdrawn: i64,
    /// What the bank said of the CVC.
    #[serde(default)]
    pub(super) cvc_check: Option<CvcCheck>,
}

impl Charge {
    /// What can still be refunded.
    pub(super) fn refundable(&self) -> i64 {
        self.amount.saturating_sub(self.amount_refunded).saturating_sub(self.amount_withdrawn).max(0)
    }
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
    #[serde(default)]
    pub(super) status: RefundStatus,
    /// What the card's bank will say, and when.
    #[serde(default)]
    pub(super) settles: Option<Settles>,
    /// The money that came back because the refund failed.
    #[serde(default)]
    pub(super) failure_balance_transaction: Option<String>,
}

/// Where a refund stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RefundStatus {
    /// On its way.
    Pending,
    /// Given back, as far as anybody knows: a bank can still send it back.
    #[default]
    Succeeded,
    /// Sent back.
    Failed,
}

impl RefundStatus {
    /// Stripe's word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// An outcome that comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settles {
    /// Unix seconds.
    pub(super) at: i64,
    pub(super) succeeds: bool,
}

/// A cardholder's objection to a charge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Dispute {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) charge: String,
    pub(super) payment_intent: String,
    pub(super) amount: i64,
    pub(super) currency: String,
    /// Stripe's word.
    pub(super) reason: String,
    pub(super) status: DisputeStatus,
    /// The bank only asks; no money moves.
    pub(super) inquiry: bool,
    /// Unix seconds: evidence is taken until then.
    pub(super) due_by: i64,
    /// The withdrawal and the reversal, as far as they have happened.
    pub(super) balance_transactions: Vec<String>,
    pub(super) funds: Funds,
}

/// Where a dispute stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DisputeStatus {
    /// An inquiry that waits for an answer.
    WarningNeedsResponse,
    /// An inquiry that came to nothing.
    WarningClosed,
    /// Waits for evidence.
    NeedsResponse,
    /// The seller keeps the money.
    Won,
    /// The cardholder keeps the money.
    Lost,
}

impl DisputeStatus {
    /// Stripe's word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::WarningNeedsResponse => "warning_needs_response",
            Self::WarningClosed => "warning_closed",
            Self::NeedsResponse => "needs_response",
            Self::Won => "won",
            Self::Lost => "lost",
        }
    }

    /// Whether nothing more is decided.
    pub(super) fn is_closed(self) -> bool {
        matches!(self, Self::WarningClosed | Self::Won | Self::Lost)
    }
}

/// Where the money of a dispute is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Funds {
    /// Not touched yet.
    Untouched,
    /// Taken.
    Withdrawn,
    /// Taken and given back.
    Reinstated,
}

/// The issuer's word that a charge may be fraud.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FraudWarning {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) charge: String,
    pub(super) payment_intent: String,
    /// Stripe's word.
    pub(super) fraud_type: String,
}

/// A change of the account's balance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BalanceTransaction {
    pub(super) id: String,
    pub(super) created: i64,
    /// Positive for money that comes, negative for money that goes.
    pub(super) amount: i64,
    pub(super) fee: i64,
    pub(super) currency: String,
    /// The charge, refund or dispute.
    pub(super) source: String,
    /// Absent in books from before there were disputes.
    #[serde(default)]
    kind: Option<BalanceKind>,
}

impl BalanceTransaction {
    /// A change, without its id and time.
    pub(super) fn new(
        id: String,
        created: i64,
        kind: BalanceKind,
        (amount, fee): (i64, i64),
        currency: &str,
        source: &str,
    ) -> Self {
        let (currency, source) = (currency.to_owned(), source.to_owned());
        Self { id, created, amount, fee, currency, source, kind: Some(kind) }
    }

    /// What happened.
    pub(super) fn kind(&self) -> BalanceKind {
        self.kind.unwrap_or(if self.amount < 0 { BalanceKind::Refund } else { BalanceKind::Charge })
    }
}

/// Why the balance changed. <https://docs.stripe.com/reports/reporting-categories>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BalanceKind {
    /// A charge succeeded.
    Charge,
    /// A refund was made.
    Refund,
    /// A refund came back.
    RefundFailure,
    /// A dispute took money.
    Dispute,
    /// A dispute gave it back.
    DisputeReversal,
}

impl BalanceKind {
    /// `type`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Refund => "refund",
            Self::RefundFailure => "refund_failure",
            Self::Dispute | Self::DisputeReversal => "adjustment",
        }
    }

    /// `reporting_category`.
    pub(super) fn category(self) -> &'static str {
        match self {
            Self::Dispute => "dispute",
            Self::DisputeReversal => "dispute_reversal",
            other => other.word(),
        }
    }
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

//! What Stripe knows about one charge at one moment.

use crate::domain::{Micros, RefundId, TopUpId};

/// Everything that Stripe knows about one charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeFacts {
    /// Ours.
    pub top_up: TopUpId,
    /// `ch_…`.
    pub charge: String,
    /// The card's, for a row that does not know it: one that was made again.
    pub fingerprint: Option<String>,
    /// What Stripe keeps of it, once that is known and of the client's currency.
    pub fee: Option<Movement>,
    /// In the order of their making.
    pub refunds: Vec<RefundFacts>,
    /// In the order of their making.
    pub disputes: Vec<DisputeFacts>,
    /// Early fraud warnings.
    pub warnings: Vec<WarningFacts>,
}

/// A balance transaction, `txn_…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Stripe's id.
    pub id: String,
    /// How much.
    pub amount: Micros,
}

/// A refund as Stripe knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundFacts {
    /// `re_…`.
    pub id: String,
    /// Ours, from the metadata; `None` when it was made elsewhere.
    pub ours: Option<RefundId>,
    /// Who wanted it, and the key of the request as a row holds it, from the metadata. Only for a row that is lost.
    pub asked: Option<(RefundOrigin, String)>,
    /// How much.
    pub amount: Micros,
    /// Where it stands.
    pub status: RefundStatus,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Where a refund stands at Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundStatus {
    /// On its way.
    Pending,
    /// It has left. It may still come back.
    Succeeded,
    /// It came back, or never left.
    Failed,
}

/// Who wanted a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundOrigin {
    /// A person, through this program: at most what the client has not spent.
    Operator,
    /// This program, because of an early fraud warning: what has been spent is owed.
    FraudWarning,
}

impl RefundOrigin {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::FraudWarning => "fraud_warning",
        }
    }
}

/// A dispute as Stripe knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeFacts {
    /// Stripe's id.
    pub id: String,
    /// How much of the charge.
    pub amount: Micros,
    /// Stripe's word.
    pub status: String,
    /// Stripe's word.
    pub reason: String,
    /// Unix seconds: evidence is taken until then.
    pub due_by: Option<i64>,
    /// Unix seconds.
    pub created: i64,
    /// In the order of their making.
    pub movements: Vec<DisputeMovement>,
}

/// Money that a dispute has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeMovement {
    /// Stripe's id, `txn_…`.
    pub id: String,
    /// How much.
    pub amount: Micros,
    /// Whether it came back.
    pub is_reinstated: bool,
    /// What Stripe charged for it.
    pub fee: Micros,
    /// That fee came back.
    pub fee_is_returned: bool,
}

impl DisputeFacts {
    /// The seller has kept the money, or it was never taken: no reason to freeze the client any longer.
    pub(super) fn is_won(&self) -> bool {
        matches!(self.status.as_str(), "won" | "warning_closed" | "prevented")
    }
}

/// An early fraud warning as Stripe knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarningFacts {
    /// `issfr_…`.
    pub id: String,
    /// Stripe's word.
    pub kind: String,
    /// Unix seconds.
    pub created: i64,
}

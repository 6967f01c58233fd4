//! Both sides: what Stripe has, and what the books say.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::Source;

/// Both sides.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Unix seconds.
    pub now: i64,
    /// What Stripe has.
    pub stripe: StripeSide,
    /// What the books say.
    pub books: BooksSide,
}

/// What Stripe has that is ours.
#[derive(Debug, Clone, Default)]
pub struct StripeSide {
    /// PaymentIntents that were charged.
    pub charges: Vec<Charged>,
    /// Each once.
    pub refunds: Vec<Refunded>,
    /// Each movement once.
    pub disputes: Vec<DisputeMoved>,
    /// PaymentIntents that were asked for by id, and exist, but were not charged.
    pub not_charged: BTreeSet<String>,
    /// PaymentIntents that were asked for by id, and that Stripe does not have.
    pub unknown: BTreeSet<String>,
    /// Of the [charges that nobody was credited for](super::comparison::charges_nobody_was_credited_for): those that have been given back.
    pub given_back: BTreeSet<String>,
}

/// A charged PaymentIntent.
#[derive(Debug, Clone)]
pub struct Charged {
    /// `pi_…`.
    pub payment_intent: String,
    /// `ch_…`, where it is known.
    pub charge: Option<String>,
    /// From the metadata, or found by the PaymentIntent.
    pub top_up: String,
    /// The client's public id, from the metadata.
    pub client: Option<String>,
    /// In minor units.
    pub amount: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// What it has moved, where it is known.
    pub movement: Option<Moved>,
}

/// Of a balance transaction.
#[derive(Debug, Clone)]
pub struct Moved {
    /// `txn_…`.
    pub id: String,
    /// In minor units of the settlement currency.
    pub fee: i64,
    /// The settlement currency.
    pub currency: String,
    /// Unix seconds.
    pub created: i64,
}

/// Where a refund stands at Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundStatus {
    /// On its way.
    Pending,
    /// It has left.
    Succeeded,
    /// It came back, or never left.
    Failed,
}

/// A refund at Stripe.
#[derive(Debug, Clone)]
pub struct Refunded {
    /// `re_…`.
    pub id: String,
    /// `pi_…`.
    pub payment_intent: String,
    /// Our refund, from the metadata.
    pub ours: Option<String>,
    /// In minor units.
    pub amount: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Where it stands.
    pub status: RefundStatus,
}

/// Money that a dispute has taken or given back.
#[derive(Debug, Clone)]
pub struct DisputeMoved {
    /// Stripe's id of the dispute.
    pub dispute: String,
    /// `pi_…`.
    pub payment_intent: String,
    /// In minor units of `currency`, above zero.
    pub amount: i64,
    /// Of the amount.
    pub currency: String,
    /// Whether it came back.
    pub is_reinstated: bool,
    /// The balance transaction.
    pub movement: Moved,
}

/// What the books say.
#[derive(Debug, Clone, Default)]
pub struct BooksSide {
    /// By id.
    pub top_ups: BTreeMap<String, TopUpRow>,
    /// By id.
    pub refunds: BTreeMap<String, RefundRow>,
    /// Entries by their source, all entries of one command together.
    pub posted: BTreeMap<Source, Posted>,
    /// Entries whose source is none that this program knows, by its text.
    pub unknown: BTreeMap<String, Posted>,
}

/// A row of `top_ups`.
#[derive(Debug, Clone)]
pub struct TopUpRow {
    /// Its number.
    pub client: Option<i64>,
    /// Its public id.
    pub client_public: Option<String>,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// In micros.
    pub amount: i64,
    /// Our word.
    pub state: String,
    /// `pi_…`.
    pub payment_intent: Option<String>,
    /// `ch_…`, once known.
    pub charge: Option<String>,
}

/// A row of `refunds`.
#[derive(Debug, Clone)]
pub struct RefundRow {
    /// Ours.
    pub top_up: String,
    /// In micros.
    pub amount: i64,
    /// Our word.
    pub state: String,
    /// `re_…`, once known.
    pub stripe_refund: Option<String>,
}

/// What the entries of one source move, in micros: debits minus credits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Posted {
    /// Whose.
    pub client: Option<i64>,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Of `stripe_clearing`.
    pub clearing: i128,
    /// Of `refund_pending`.
    pub pending: i128,
    /// Of `stripe_fees`.
    pub fees: i128,
    /// Of `dispute`.
    pub dispute: i128,
}

impl RefundStatus {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

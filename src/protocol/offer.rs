//! What a seller offers to whoever has not paid, in no protocol's words.

use crate::domain::{Currency, Micros};
use crate::pricing::QuoteDigest;

/// An offer. The URL and the request's number are not in it: they are the answer's, see [`Filling`](super::Filling).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What is sold, for people.
    pub description: Option<String>,
    /// Media type of the answer.
    pub mime_type: Option<String>,
    /// Of every amount.
    pub currency: Currency,
    /// The most that the request costs; nothing where credit alone is sold.
    pub price: Micros,
    /// What a challenge can be bound to. `None` where credit alone is sold.
    pub quote: Option<QuoteDigest>,
    /// The seller's Stripe publishable key.
    pub publishable_key: String,
    /// What may be charged. `None`: nothing would be accepted, so nothing is offered.
    pub top_up: Option<TopUp>,
    /// What the wallet of whoever asks holds; only for whoever has shown its key.
    pub balance: Option<Micros>,
    /// What keeps that wallet from spending it.
    pub standing: Option<Standing>,
}

/// What may be charged for a wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUp {
    /// The smallest, which is charged when no amount is named.
    pub least: Micros,
    /// The largest.
    pub most: Micros,
    /// On offer, in ascending order; the first is `least`.
    pub packs: Vec<Pack>,
}

/// Charge `amount`, receive `credits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// Charged.
    pub amount: Micros,
    /// Credited.
    pub credits: Micros,
    /// For people.
    pub label: String,
}

/// Why a wallet cannot spend all that it holds: it is frozen, by decision or by a debt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What of it can be spent.
    pub spendable: Micros,
    /// What it owes; nothing when it is frozen by decision alone.
    pub debt: Micros,
}

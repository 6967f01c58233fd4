//! What became of a payment, in no protocol's words: the note with every answer once a wallet is known.

use super::offer::Standing;
use crate::domain::{ClientKey, Micros, TopUpId};

/// See the module. A default one says that nothing was paid and that nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// The request was paid for and is served; or the credit was bought.
    pub success: bool,
    /// The key of the wallet, to be used from now on. `None`: there is none that could be told.
    pub client_key: Option<ClientKey>,
    /// What the wallet holds now. `None`: it was not looked at, and no number is better than a wrong one.
    pub balance: Option<Micros>,
    /// What keeps the wallet from spending it.
    pub standing: Option<Standing>,
    /// What this request cost; nothing for one that was charged before.
    pub charged: Option<Micros>,
    /// The ledger's entry of that.
    pub entry: Option<i64>,
    /// What this request has charged to a card.
    pub card: Option<CardPayment>,
    /// Why it is not paid for.
    pub failure: Option<Failure>,
    /// An earlier request with the same `Idempotency-Key` has paid for the answer.
    pub is_replay: bool,
    /// What else its payer should know, in a sentence.
    pub notice: Option<&'static str>,
}

/// A charge to a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardPayment {
    /// Our id.
    pub top_up: TopUpId,
    /// Stripe's; `None` while there is none.
    pub payment_intent: Option<String>,
    /// How much.
    pub amount: Micros,
}

/// Why a request is not paid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
}

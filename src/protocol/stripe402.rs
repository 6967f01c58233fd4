//! The stripe402 protocol, version 1: wire shapes and their header encoding.
//!
//! Amounts are stripe402 units (1/10,000 of the currency's major unit). Fields that the public protocol does not have are
//! additive: its unmodified clients ignore them. Clients of other protocols read the same `payment-required` header: for them it
//! is an x402 envelope whose ways to pay they skip.

mod credential;
mod dialect;
mod envelope;
mod header_form;

pub use credential::{MAX_PAYMENT_BYTES, PayloadError, decode_payment, single_payment_header};
pub use dialect::{DIALECT, LeftOut, left_out, standing_members};
pub use envelope::{decode_payment_required, decode_payment_response, encode};
pub use header_form::{MAX_OFFER_BYTES, shorter_url};

use std::fmt;

use serde::{Deserialize, Serialize};

/// The only protocol version there is.
pub const VERSION: u32 = 1;
/// The version of x402 whose envelope an offer is, too: without it, x402 clients fail on the header instead of skipping the offer.
pub const X402_VERSION: u32 = 2;
/// Server to client, on 402: base64 of a [`PaymentRequired`].
pub const PAYMENT_REQUIRED: &str = "payment-required";
/// Client to server: base64 of a [`PaymentPayload`].
pub const PAYMENT: &str = "payment";
/// Server to client, on paid answers: base64 of a [`PaymentResponse`].
pub const PAYMENT_RESPONSE: &str = "payment-response";

/// What a payer agrees to by sending a card: it stays with the seller's Stripe account, and no charge is ever begun by the seller.
pub const SAVED_CARD: &str = "kept for top-ups you ask for; never charged otherwise";

/// The offer that comes with a 402, in the header and as the body. `W`: a way to pay; who reads it may know the own ones alone, and
/// who writes it adds other protocols' ([`WayToPay`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequired<W = Requirement> {
    /// Always [`VERSION`].
    pub stripe402_version: u32,
    /// Always [`X402_VERSION`]; 0 in offers of other servers. Additive.
    #[serde(default)]
    pub x402_version: u32,
    /// What is sold.
    pub resource: Resource,
    /// Ways to pay; clients look at the first.
    pub accepts: Vec<W>,
    /// Absent on a first challenge; otherwise the stable code, such as `insufficient_credits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Packs on offer; the first equals `minTopUp`. Additive.
    #[serde(default)]
    pub top_up_options: Vec<TopUpOption>,
    /// A sentence an agent can act on. Additive.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Stable code of this answer. Additive.
    #[serde(default)]
    pub code: String,
    /// Whether repeating the same request can help. Additive.
    #[serde(default)]
    pub retryable: bool,
    /// `agent`, `human` or `seller`. Additive.
    #[serde(default)]
    pub who_acts: String,
    /// Names this request in the seller's logs. Additive.
    #[serde(default)]
    pub request_id: String,
    /// Units that the wallet holds, only when a valid clientId was presented. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<i64>,
    /// Whether all of it can be spent. Additive.
    #[serde(flatten)]
    pub standing: Standing,
    /// What happens to the card after it was charged, in a sentence: see [`SAVED_CARD`]. Additive.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub saved_card: String,
}

/// Why a wallet cannot spend all that it holds; nothing of it is there when it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Units that can be spent, only when the wallet is frozen: by decision or by a debt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spendable: Option<i64>,
    /// Whether the wallet is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<bool>,
    /// Units that the wallet owes, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debt: Option<i64>,
}

/// What is sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Where it is: an absolute URL, without the query.
    pub url: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Media type of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
}

/// One way to pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Always `stripe`.
    pub scheme: String,
    /// `stripe:` and the currency: what x402 clients look at first, and skip. Additive.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Price of this request in units, rounded up.
    pub amount: i64,
    /// Smallest charge that lets this request through, in units.
    pub min_top_up: i64,
    /// The seller's Stripe publishable key.
    pub publishable_key: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The exact price as a decimal of major units. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Largest charge that is accepted now, in units. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_top_up: Option<i64>,
}

/// A way to pay, this protocol's or another's whose clients read the same envelope.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum WayToPay {
    /// By card, into a wallet.
    Stripe(Requirement),
    /// As another protocol writes it.
    Other(serde_json::Value),
}

/// A pack: charge `amount`, receive `credits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopUpOption {
    /// Charged, in units.
    pub amount: i64,
    /// Credited, in units; a bonus makes it larger than `amount`.
    pub credits: i64,
    /// For people; not in a header that is short of room.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// What the caller presents. Decode received ones with the strict decoder, never with serde alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentPayload {
    /// Always [`VERSION`].
    pub stripe402_version: u32,
    /// A card tokenised by Stripe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_method_id: Option<String>,
    /// The bearer key of a wallet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// What to charge, in units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_up_amount: Option<i64>,
    /// Refuse when the price is above this many units. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_amount: Option<i64>,
    /// Pay into a new wallet, although the card has founded one already. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_wallet: Option<bool>,
}

/// What became of a payment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct PaymentResponse {
    /// Whether this request was paid for and served.
    pub success: bool,
    /// Stripe's PaymentIntent, when this request charged a card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charge_id: Option<String>,
    /// Balance after this request, in units, rounded down. While the wallet is frozen, `spendable` says what of it can be spent.
    /// Absent where the wallet was not looked at: no number is better than a wrong one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits_remaining: Option<i64>,
    /// The wallet's bearer key; empty when there is none.
    pub client_id: String,
    /// A sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// What this request cost, in units, rounded up. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits_charged: Option<i64>,
    /// The top-up that this request made. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<String>,
    /// The ledger entry of this request's usage. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_id: Option<String>,
    /// What was charged to the card, in units. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_up_amount: Option<i64>,
    /// The answer was paid for by an earlier request with the same `Idempotency-Key`. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent_replay: Option<bool>,
    /// What else its payer should know, in a sentence. Additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// Whether all of the balance can be spent. Additive.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Both ids are credentials, so only their presence is shown.
impl fmt::Debug for PaymentPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaymentPayload")
            .field("stripe402_version", &self.stripe402_version)
            .field("payment_method_id", &self.payment_method_id.as_ref().map(|_| "redacted"))
            .field("client_id", &self.client_id.as_ref().map(|_| "redacted"))
            .field("top_up_amount", &self.top_up_amount)
            .field("max_amount", &self.max_amount)
            .field("new_wallet", &self.new_wallet)
            .finish()
    }
}

/// The `clientId` is a credential and is left out.
impl fmt::Debug for PaymentResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaymentResponse")
            .field("success", &self.success)
            .field("charge_id", &self.charge_id)
            .field("credits_remaining", &self.credits_remaining)
            .field("error", &self.error)
            .field("error_code", &self.error_code)
            .field("credits_charged", &self.credits_charged)
            .field("payment_id", &self.payment_id)
            .field("entry_id", &self.entry_id)
            .field("top_up_amount", &self.top_up_amount)
            .field("idempotent_replay", &self.idempotent_replay)
            .field("notice", &self.notice)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

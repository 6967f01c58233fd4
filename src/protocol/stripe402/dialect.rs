//! stripe402 between its wire and the neutral types: what is read from `payment`, written into `payment-required` and
//! `payment-response`, and said in bodies.

use serde_json::{Map, Value, json};

use super::{
    MAX_OFFER_BYTES, PAYMENT, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PayloadError, PaymentRequired,
    PaymentResponse, Requirement, Resource, SAVED_CARD, Standing, TopUpOption, VERSION, WayToPay,
    X402_VERSION, decode_payment, encode, shorter_url, single_payment_header,
};
use crate::pricing::Quote;
use crate::protocol::Credential;
use crate::protocol::challenge::{Challenge, Envelope};
use crate::protocol::dialect::{Claim, Dialect, Offered, Presented, Told, Unreadable, Verifying, When};
use crate::protocol::offer::{self, Offer, TopUp};
use crate::protocol::receipt::Receipt;
use crate::protocol::refusal::Refusal;
use crate::protocol::template::{Filling, Piece, Template};

/// See the module.
pub static DIALECT: Dialect = Dialect {
    name: "stripe402",
    claims: &[Claim { name: PAYMENT, when: When::Always }],
    meta: &[],
    answers: &[
        Claim { name: PAYMENT_REQUIRED, when: When::Always },
        Claim { name: PAYMENT_RESPONSE, when: When::Always },
    ],
    read,
    verify,
    ways_to_pay: |_| Vec::new(),
    challenge,
    receipt,
    members,
    attempt,
};

fn read(presented: &Presented<'_>) -> Result<Credential, Unreadable> {
    let values = presented.headers.iter().map(|(_, value)| *value);
    let header = single_payment_header(values)?.ok_or(PayloadError::Missing)?;
    Ok(decode_payment(header)?)
}

impl From<PayloadError> for Unreadable {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::RawCardData => Self::RawCardData,
            other => Self::Invalid(other.to_string()),
        }
    }
}

/// A clientId and a card token are bearer credentials: they answer no challenge.
fn verify(_: &Credential, _: &Quote, _: &Verifying<'_>) -> Result<(), Unreadable> {
    Ok(())
}

/// Stand for the URL and the request's number; no setting can hold them, because settings have no control characters.
const URL: &str = "\u{7f}url\u{7f}";
const ID: &str = "\u{7f}id\u{7f}";

fn challenge(offered: &Offered<'_>) -> Challenge {
    let wire = wire_offer(offered);
    let envelope = Envelope {
        name: PAYMENT_REQUIRED,
        whole: template(&wire),
        short: template(&wire.shortened()),
        max_bytes: MAX_OFFER_BYTES,
        shorter_url,
    };
    Challenge { lines: Vec::new(), envelope: Some(envelope) }
}

fn wire_offer(offered: &Offered<'_>) -> PaymentRequired<WayToPay> {
    let Offered { offer, refusal, others, .. } = offered;
    let top_up = offer.top_up.as_ref().filter(|_| refusal.payable);
    let own = top_up.map(|top_up| WayToPay::Stripe(requirement(offer, top_up)));
    let others = others.iter().filter(|_| refusal.payable).cloned().map(WayToPay::Other);
    PaymentRequired {
        stripe402_version: VERSION,
        x402_version: X402_VERSION,
        resource: Resource {
            url: URL.to_owned(),
            description: offer.description.clone(),
            mime_type: offer.mime_type.clone(),
        },
        accepts: own.into_iter().chain(others).collect(),
        error: (!refusal.is_first).then(|| refusal.code.to_owned()),
        top_up_options: top_up.map(options).unwrap_or_default(),
        message: refusal.message.clone(),
        code: refusal.code.to_owned(),
        retryable: refusal.retryable,
        who_acts: refusal.who_acts.to_owned(),
        request_id: ID.to_owned(),
        balance: offer.balance.map(|balance| balance.to_units_floor().get()),
        standing: standing(offer.standing),
        saved_card: SAVED_CARD.to_owned(),
    }
}

fn requirement(offer: &Offer, top_up: &TopUp) -> Requirement {
    Requirement {
        scheme: "stripe".to_owned(),
        network: format!("stripe:{}", offer.currency.code()),
        currency: offer.currency.code().to_owned(),
        amount: offer.price.to_units_ceil().get(),
        min_top_up: top_up.least.to_units_ceil().get(),
        publishable_key: offer.publishable_key.clone(),
        description: offer.description.clone(),
        price: Some(offer.currency.decimal(offer.price)),
        max_top_up: Some(top_up.most.to_units_floor().get()),
    }
}

fn options(top_up: &TopUp) -> Vec<TopUpOption> {
    let option = |pack: &offer::Pack| TopUpOption {
        amount: pack.amount.to_units_ceil().get(),
        credits: pack.credits.to_units_floor().get(),
        label: pack.label.clone(),
    };
    top_up.packs.iter().map(option).collect()
}

fn standing(standing: Option<offer::Standing>) -> Standing {
    Standing {
        spendable: standing.map(|standing| standing.spendable.to_units_floor().get()),
        frozen: standing.map(|_| true),
        debt: standing.and_then(|standing| owed(&standing)),
    }
}

/// What the header of an offer leaves out that a header cannot hold whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// Top-up options that there are.
    pub options: usize,
    /// Of these in the header.
    pub kept: usize,
    /// Whether the description is cut.
    pub is_description_cut: bool,
}

/// What the header leaves out of this offer at this URL. `None`: nothing.
#[must_use]
pub fn left_out(offered: &Offered<'_>, filling: &Filling<'_>) -> Option<LeftOut> {
    let (challenge, whole) = (challenge(offered), wire_offer(offered));
    if challenge.fits(filling) {
        return None;
    }
    let short = whole.shortened();
    let description = |way: &WayToPay| match way {
        WayToPay::Stripe(requirement) => requirement.description.clone(),
        WayToPay::Other(_) => None,
    };
    Some(LeftOut {
        options: whole.top_up_options.len(),
        kept: short.top_up_options.len(),
        is_description_cut: short
            .accepts
            .iter()
            .zip(&whole.accepts)
            .any(|(short, whole)| description(short) != description(whole)),
    })
}

/// What a wallet owes, in units, rounded up. `None`: nothing.
fn owed(standing: &offer::Standing) -> Option<i64> {
    (!standing.debt.is_zero()).then(|| standing.debt.to_units_ceil().get())
}

/// The offer as JSON, without its URL and its request's number.
fn template(offer: &PaymentRequired<WayToPay>) -> Template {
    let json = serde_json::to_string(offer).expect("an offer is representable as JSON");
    let (before, rest) = json.split_once(URL).expect("an offer names its URL");
    let (between, after) = rest.split_once(ID).expect("an offer names its request after its URL");
    let text = |text: &str| Piece::Text(text.to_owned());
    Template::new(vec![text(before), Piece::Url, text(between), Piece::RequestId, text(after)])
}

fn receipt(receipt: &Receipt) -> Vec<(&'static str, String)> {
    vec![(PAYMENT_RESPONSE, encode(&wire_receipt(receipt)))]
}

fn wire_receipt(receipt: &Receipt) -> PaymentResponse {
    let card = receipt.card.as_ref();
    PaymentResponse {
        success: receipt.success,
        charge_id: card.and_then(|card| card.payment_intent.clone()),
        credits_remaining: receipt.balance.map(|balance| balance.to_units_floor().get()),
        client_id: receipt.client_key.as_ref().map_or_else(String::new, |key| key.expose().to_owned()),
        error: receipt.failure.as_ref().map(|failure| failure.message.clone()),
        error_code: receipt.failure.as_ref().map(|failure| failure.code.to_owned()),
        credits_charged: receipt.charged.map(|charged| charged.to_units_ceil().get()),
        payment_id: card.map(|card| card.top_up.to_string()),
        entry_id: receipt.entry.map(|entry| entry.to_string()),
        top_up_amount: card.map(|card| card.amount.to_units_floor().get()),
        idempotent_replay: receipt.is_replay.then_some(true),
        notice: receipt.notice.map(str::to_owned),
        standing: standing(receipt.standing),
    }
}

/// In a body, besides its header: programs that do not read the header must not lose what was paid for.
fn members(receipt: &Receipt, told: Told) -> Map<String, Value> {
    let mut members = Map::new();
    let wallet = receipt.client_key.as_ref().map(|key| key.expose());
    if let (Some(card), Some(wallet)) = (&receipt.card, wallet) {
        members.insert("clientId".into(), json!(wallet));
        members.insert("topUpAmount".into(), json!(card.amount.to_units_floor().get()));
        members.extend(credits_remaining(receipt));
        if let Some(standing) = &receipt.standing {
            members.insert("frozen".into(), json!(true));
            members.insert("spendable".into(), json!(standing.spendable.to_units_floor().get()));
        }
    }
    match told {
        Told::NotCharged => members.extend(credits_remaining(receipt)),
        Told::Refused | Told::Pending => members.extend(standing_members(receipt)),
    }
    if let (Told::Pending, Some(wallet)) = (told, wallet) {
        members.insert("clientId".into(), json!(wallet));
    }
    members
}

/// What the wallet holds, where that is known.
fn credits_remaining(receipt: &Receipt) -> Option<(String, Value)> {
    let balance = receipt.balance?;
    Some(("creditsRemaining".to_owned(), json!(balance.to_units_floor().get())))
}

/// What a body says of a wallet that cannot spend what it holds.
#[must_use]
pub fn standing_members(receipt: &Receipt) -> Map<String, Value> {
    let mut told = Map::new();
    if let Some(standing) = &receipt.standing {
        told.insert("frozen".into(), json!(true));
        told.extend(
            receipt.balance.map(|balance| ("balance".to_owned(), json!(balance.to_units_floor().get()))),
        );
        told.insert("spendable".into(), json!(standing.spendable.to_units_floor().get()));
        told.extend(owed(standing).map(|debt| ("debt".to_owned(), json!(debt))));
    }
    told
}

/// The reference's error shape, with the fields that every refusal has.
fn attempt(refusal: &Refusal, receipt: Option<&Receipt>, request_id: &str) -> Option<String> {
    let wallet = receipt.and_then(|receipt| receipt.client_key.as_ref());
    let mut body = Map::from_iter([
        ("success".to_owned(), json!(false)),
        ("clientId".to_owned(), json!(wallet.map_or("", |key| key.expose()))),
        ("error".to_owned(), json!(refusal.message)),
        ("errorCode".to_owned(), json!(refusal.code)),
        ("code".to_owned(), json!(refusal.code)),
        ("message".to_owned(), json!(refusal.message)),
        ("retryable".to_owned(), json!(refusal.retryable)),
        ("whoActs".to_owned(), json!(refusal.who_acts)),
        ("requestId".to_owned(), json!(request_id)),
    ]);
    match receipt {
        Some(receipt) => {
            body.extend(credits_remaining(receipt));
            body.extend(standing_members(receipt));
        }
        // Who presented no wallet has none.
        None => {
            body.insert("creditsRemaining".to_owned(), json!(0));
        }
    }
    Some(Value::Object(body).to_string())
}

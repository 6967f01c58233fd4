//! Answers about payment: the 402 with its offer, and the receipt that goes with every answer once a wallet is known. HTTP is the
//! carrier here: what is said, and in which headers, the protocols know.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VARY};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::problem;
use super::spoken;
use crate::domain::{Micros, RequestId};
use crate::ledger::ClientState;
use crate::paywall::offer::{Offers, Resource, now, standing, with_standing};
use crate::paywall::{Answer, Captured, CardCharge, Refusal, Refused, Repayer, Uncharged, Wallet};
use crate::protocol::{CardPayment, Challenge, Dialect, Failure, Filling, Receipt, Told, Written};
use crate::top_up::store::TopUpRow;

/// A receipt, and the protocol in which its payer speaks.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) dialect: &'static Dialect,
    pub(crate) receipt: Receipt,
}

impl Note {
    /// Writes it into the head of an answer.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in (self.dialect.receipt)(&self.receipt) {
            headers.insert(HeaderName::from_static(name), header_value(value));
        }
    }

    /// What a problem's body says of the payment.
    pub(crate) fn members(&self, told: Told) -> Map<String, Value> {
        (self.dialect.members)(&self.receipt, told)
    }

    /// The same, for whoever holds a wallet: without one there is nothing to keep.
    pub(crate) fn write_if_a_wallet_is_named(&self, headers: &mut HeaderMap) {
        if self.receipt.client_key.is_some() {
            self.write(headers);
        }
    }
}

/// What protocols write are header values.
fn header_value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What whoever sent an unknown clientId beside a card is told.
const UNKNOWN_CLIENT_LEFT_OUT: &str = "The clientId that was sent is unknown here and was left out: the card was taken as if it had come alone. Forget that clientId; use the one in payment-response, if there is one.";

/// The code of an answer of the API that costs nothing.
pub(crate) const NOT_CHARGED: &str = "not_charged";

/// The answer to a request that presents nothing. The same as [`refused`] writes for
/// [`Refusal::PaymentRequired`].
pub(crate) fn challenge(challenge: &Challenge, url: &str, request: RequestId) -> HttpResponse {
    let id = request.to_string();
    let written = challenge.filled(&Filling::new(url, &id, now()));
    payment_required(written, Refusal::PaymentRequired.answer())
}

fn payment_required(written: Written, answer: Answer) -> HttpResponse {
    let mut builder = HttpResponse::build(StatusCode::PAYMENT_REQUIRED);
    builder
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((VARY, spoken::vary()));
    for (name, value) in written.headers {
        builder.append_header((HeaderName::from_static(name), header_value(value)));
    }
    let mut response = builder.body(written.body);
    problem::tell_of_repeating(response.headers_mut(), answer);
    response
}

/// The receipt of a request that was charged.
pub(crate) fn receipt(dialect: &'static Dialect, captured: &Captured) -> Note {
    let receipt = Receipt {
        success: true,
        charged: Some(captured.price),
        entry: Some(captured.posted.entry),
        ..account(&captured.wallet, Some(&captured.posted.state), captured.charged.as_ref())
    };
    Note { dialect, receipt }
}

/// The receipt of a top-up that was bought in advance.
pub(crate) fn topped_up(row: &TopUpRow, wallet: &Wallet, state: Option<&ClientState>) -> Receipt {
    let card = CardPayment { top_up: row.id, payment_intent: row.payment_intent.clone(), amount: row.amount };
    Receipt { success: true, card: Some(card), ..account(wallet, state, None) }
}

/// The receipt of a request that an earlier one with the same `Idempotency-Key` has paid for.
pub(crate) fn replay(dialect: &'static Dialect, payer: &Repayer) -> Note {
    let receipt = Receipt {
        success: true,
        charged: Some(Micros::ZERO),
        is_replay: true,
        ..account(&payer.wallet, payer.state.as_ref(), None)
    };
    Note { dialect, receipt }
}

/// The note with an answer that was fetched once more.
pub(crate) fn fetched_again(
    dialect: &'static Dialect,
    payer: &Repayer,
    status: u16,
    is_charged: bool,
) -> Note {
    if is_charged {
        return replay(dialect, payer);
    }
    let message = format!("The API answered {status}, which is not charged; the first answer was.");
    failed_replay(dialect, payer, NOT_CHARGED, &message)
}

/// The note that the upstream has failed when the answer of a charged request was to be fetched once more.
pub(crate) fn failed_replay(
    dialect: &'static Dialect,
    payer: &Repayer,
    code: &'static str,
    message: &str,
) -> Note {
    let receipt =
        Receipt { is_replay: true, ..failure(&payer.wallet, payer.state.as_ref(), None, (code, message)) };
    Note { dialect, receipt }
}

/// The note that a request was let go.
pub(crate) fn not_charged(
    dialect: &'static Dialect,
    ended: &Uncharged,
    code: &'static str,
    message: &str,
) -> Note {
    let receipt = failure(&ended.wallet, ended.state.as_ref(), ended.charged.as_ref(), (code, message));
    Note { dialect, receipt }
}

/// The receipt of a request that was not charged, for a caller whose wallet is known.
fn failure(
    wallet: &Wallet,
    state: Option<&ClientState>,
    charged: Option<&CardCharge>,
    (code, message): (&'static str, &str),
) -> Receipt {
    Receipt {
        failure: Some(Failure { code, message: with_card_charge(message, charged, state) }),
        charged: Some(Micros::ZERO),
        ..account(wallet, state, charged)
    }
}

fn account(wallet: &Wallet, state: Option<&ClientState>, charged: Option<&CardCharge>) -> Receipt {
    Receipt {
        client_key: wallet.key.clone(),
        // Whoever has not been looked at must not read that the wallet is empty.
        balance: state.map(ClientState::credit),
        standing: state.and_then(standing),
        notice: wallet.is_instead_of_unknown.then_some(UNKNOWN_CLIENT_LEFT_OUT),
        card: charged.map(|charge| CardPayment {
            top_up: charge.top_up,
            payment_intent: Some(charge.payment_intent.clone()),
            amount: charge.amount,
        }),
        ..Receipt::default()
    }
}

/// Whether the body of this 402 is the offer itself, as for a challenge, or the outcome of a payment attempt.
fn is_challenge(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::PaymentRequired
            | Refusal::InsufficientCredits
            | Refusal::UnknownClient
            | Refusal::PriceAboveMax
    )
}

/// The answer to a request that is refused for a reason of payment, in the protocol in which it was presented.
pub(crate) fn refused(
    offers: &Offers,
    resource: Resource<'_>,
    (dialect, refused): (&'static Dialect, &Refused),
    request: RequestId,
) -> HttpResponse {
    let answer = refused.refusal.answer();
    let state = refused.state.as_ref();
    let mut message = refused.refusal.message_for(state);
    if refused.left_out_unknown_client {
        message.push(' ');
        message.push_str(UNKNOWN_CLIENT_LEFT_OUT);
    }
    let note = outcome_of(refused, &message).map(|receipt| Note { dialect, receipt });
    let message = with_card_charge(&message, refused.charged.as_ref(), state);
    let mut response = if answer.status == 402 {
        let mut told = refused.refusal.told(state);
        // Whose card was charged is not asked to pay once more.
        told.payable &= refused.charged.is_none();
        let id = request.to_string();
        let mut written = offers.write(resource, &told, state, &id);
        if !is_challenge(&refused.refusal) {
            let receipt = note.as_ref().map(|note| &note.receipt);
            told.message = message;
            written.body = (dialect.attempt)(&told, receipt, &id).unwrap_or(written.body);
        }
        payment_required(written, answer)
    } else {
        let mut extra = extra(refused);
        let told = match refused.refusal {
            Refusal::TopUpPending(_) => Told::Pending,
            _ => Told::Refused,
        };
        extra.extend(note.as_ref().map(|note| note.members(told)).into_iter().flatten());
        problem::response(answer, Some(&message), request, extra)
    };
    if let Some(note) = note {
        note.write_if_a_wallet_is_named(response.headers_mut());
    }
    response
}

/// "Nothing was charged" is about the request; a card that was charged all the same is named, with what its payer has for it and
/// how to use it. A frozen wallet is told to be frozen.
fn with_card_charge(message: &str, charged: Option<&CardCharge>, state: Option<&ClientState>) -> String {
    let Some(charge) = charged else {
        return with_standing(message, state);
    };
    let amount = charge.currency.text(charge.amount);
    if state.is_some_and(ClientState::is_frozen) {
        return with_standing(&format!("{message} The card was charged {amount} for a top-up."), state);
    }
    let holds = state.map_or_else(String::new, |state| {
        format!(" The wallet holds {}.", state.currency.text(state.credit()))
    });
    format!(
        "{message} The card was charged {amount} for a top-up, which is credit now.{holds} To use it, repeat the request with \
         the clientId that payment-response names instead of the card."
    )
}

fn outcome_of(refused: &Refused, message: &str) -> Option<Receipt> {
    let code = refused.refusal.answer().code;
    if let Some(wallet) = &refused.wallet {
        let (state, charged) = (refused.state.as_ref(), refused.charged.as_ref());
        return Some(failure(wallet, state, charged, (code, message)));
    }
    refused.promised.as_ref().map(|key| Receipt {
        client_key: Some(key.clone()),
        // The wallet comes to life with its credit.
        balance: Some(Micros::ZERO),
        failure: Some(Failure { code, message: message.to_owned() }),
        ..Receipt::default()
    })
}

fn extra(refused: &Refused) -> Map<String, Value> {
    let mut extra = Map::new();
    match &refused.refusal {
        Refusal::TopUpPending(id) => {
            extra.insert("topUpId".into(), json!(id.to_string()));
        }
        Refusal::CaptureFailed | Refusal::CaptureUnknown | Refusal::CaptureUnknownKept => {
            extra.insert("upstreamExecuted".into(), json!(true));
        }
        Refusal::IdempotencyAnswerLost => {
            extra.insert("upstreamExecuted".into(), json!(true));
            extra.insert("requestCharged".into(), json!(true));
        }
        Refusal::IdempotencyOutcomeUnknown => {
            extra.insert("requestCharged".into(), json!(false));
        }
        _ => {}
    }
    extra
}

/// A problem in the place of an answer, for a caller whose payment was opened.
pub(crate) fn not_charged_problem(problem: problem::Problem, note: &Note, id: RequestId) -> HttpResponse {
    let mut extra = note.members(Told::NotCharged);
    extra.insert("requestCharged".into(), json!(false));
    let failure = note.receipt.failure.as_ref().map(|failure| failure.message.as_str());
    let mut response = problem::response(problem.answer(), failure, id, extra);
    note.write_if_a_wallet_is_named(response.headers_mut());
    response
}

/// What is sold where the request itself sells nothing: credit alone.
pub(crate) fn credit<'a>(origin: &'a str, path: &'a str) -> Resource<'a> {
    Resource { origin, path, description: Some("Prepaid credit"), mime_type: None, quote: None }
}

#[cfg(test)]
mod tests;

//! Answers about payment: the 402 with its offer, and the `payment-response` that goes with every answer once a wallet is
//! known.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, VARY};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::problem;
use crate::domain::{Micros, RequestId};
use crate::ledger::ClientState;
use crate::paywall::offer::{Challenge, Offers, Sale, header_of, json_of, owed, standing_of, with_standing};
use crate::paywall::{Answer, Captured, CardCharge, Refusal, Refused, Repayer, Uncharged, Wallet};
use crate::protocol::stripe402::{
    PAYMENT_REQUIRED, PAYMENT_RESPONSE, PaymentRequired, PaymentResponse, encode,
};
use crate::top_up::store::TopUpRow;

/// `payment-response`
pub(crate) const PAYMENT_RESPONSE_NAME: HeaderName = HeaderName::from_static(PAYMENT_RESPONSE);
const PAYMENT_REQUIRED_NAME: HeaderName = HeaderName::from_static(PAYMENT_REQUIRED);

/// Base64 is always a header value.
pub(crate) fn header_value(encoded: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(encoded)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What whoever sent an unknown clientId beside a card is told.
const UNKNOWN_CLIENT_LEFT_OUT: &str = "The clientId that was sent is unknown here and was left out: the card was taken as if it had come alone. Forget that clientId; use the one in payment-response, if there is one.";

/// The code of an answer of the API that costs nothing.
pub(crate) const NOT_CHARGED: &str = "not_charged";

/// The answer to a request that presents nothing. The same as [`refused`] writes for [`Refused::challenge`].
pub(crate) fn challenge(challenge: &Challenge, sale: Sale<'_>, request: RequestId) -> HttpResponse {
    let (body, header) = challenge.written(sale, &request.to_string());
    payment_required(header, body, Refusal::PaymentRequired.answer())
}

fn payment_required(offer: String, body: String, answer: Answer) -> HttpResponse {
    let mut response = HttpResponse::build(StatusCode::PAYMENT_REQUIRED)
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((VARY, "payment"))
        .insert_header((PAYMENT_REQUIRED_NAME, header_value(offer)))
        .body(body);
    problem::tell_of_repeating(response.headers_mut(), answer);
    response
}

/// The receipt of a request that was charged.
pub(crate) fn receipt(captured: &Captured) -> PaymentResponse {
    PaymentResponse {
        success: true,
        credits_charged: Some(captured.price.to_units_ceil().get()),
        entry_id: Some(captured.posted.entry.to_string()),
        ..account(&captured.wallet, Some(&captured.posted.state), captured.charged.as_ref())
    }
}

/// The note with a top-up that was bought in advance.
pub(crate) fn topped_up(row: &TopUpRow, wallet: &Wallet, state: Option<&ClientState>) -> PaymentResponse {
    PaymentResponse {
        success: true,
        charge_id: row.payment_intent.clone(),
        payment_id: Some(row.id.to_string()),
        top_up_amount: Some(row.amount.to_units_floor().get()),
        ..account(wallet, state, None)
    }
}

/// The receipt of a request that an earlier one with the same `Idempotency-Key` has paid for.
pub(crate) fn replay(payer: &Repayer) -> PaymentResponse {
    PaymentResponse {
        success: true,
        credits_charged: Some(0),
        idempotent_replay: Some(true),
        ..account(&payer.wallet, payer.state.as_ref(), None)
    }
}

/// The note with an answer that was fetched once more.
pub(crate) fn fetched_again(payer: &Repayer, status: u16, is_charged: bool) -> PaymentResponse {
    if is_charged {
        return replay(payer);
    }
    let message = format!("The API answered {status}, which is not charged; the first answer was.");
    failed_replay(payer, NOT_CHARGED, &message)
}

/// The note that the upstream has failed when the answer of a charged request was to be fetched once more.
pub(crate) fn failed_replay(payer: &Repayer, code: &str, message: &str) -> PaymentResponse {
    PaymentResponse {
        idempotent_replay: Some(true),
        ..failure(&payer.wallet, payer.state.as_ref(), None, code, message)
    }
}

/// The note that a request was let go.
pub(crate) fn not_charged(ended: &Uncharged, code: &str, message: &str) -> PaymentResponse {
    failure(&ended.wallet, ended.state.as_ref(), ended.charged.as_ref(), code, message)
}

/// The note that a request was not charged, for a caller whose wallet is known.
fn failure(
    wallet: &Wallet,
    state: Option<&ClientState>,
    charged: Option<&CardCharge>,
    code: &str,
    message: &str,
) -> PaymentResponse {
    PaymentResponse {
        error: Some(with_card_charge(message, charged, state)),
        error_code: Some(code.to_owned()),
        credits_charged: Some(0),
        ..account(wallet, state, charged)
    }
}

fn account(wallet: &Wallet, state: Option<&ClientState>, charged: Option<&CardCharge>) -> PaymentResponse {
    PaymentResponse {
        success: false,
        charge_id: charged.map(|charge| charge.payment_intent.clone()),
        // Whoever has not been looked at must not read that the wallet is empty.
        credits_remaining: state.map(|state| state.credit().to_units_floor().get()),
        standing: standing_of(state),
        client_id: wallet.key.as_ref().map_or_else(String::new, |key| key.expose().to_owned()),
        notice: wallet.is_instead_of_unknown.then(|| UNKNOWN_CLIENT_LEFT_OUT.to_owned()),
        payment_id: charged.map(|charge| charge.top_up.to_string()),
        top_up_amount: charged.map(|charge| charge.amount.to_units_floor().get()),
        ..PaymentResponse::default()
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

/// The answer to a request that is refused for a reason of payment.
pub(crate) fn refused(
    offers: &Offers,
    sale: Sale<'_>,
    refused: &Refused,
    request: RequestId,
) -> HttpResponse {
    let answer = refused.refusal.answer();
    let mut message = refused.refusal.message_for(refused.state.as_ref());
    if refused.left_out_unknown_client {
        message.push(' ');
        message.push_str(UNKNOWN_CLIENT_LEFT_OUT);
    }
    let outcome = outcome_of(refused, &message);
    let message = with_card_charge(&message, refused.charged.as_ref(), refused.state.as_ref());
    let mut response = if answer.status == 402 {
        let offer = offers.write(sale, &refused.refusal, refused.state.as_ref(), &request.to_string());
        let whole = json_of(&offer);
        let header = header_of(&offer, &whole);
        let body = if is_challenge(&refused.refusal) {
            whole
        } else {
            attempt_body(&offer, outcome.as_ref(), &message, refused.state.as_ref())
        };
        payment_required(header, body, answer)
    } else {
        let mut extra = extra(refused);
        extra.extend(outcome.as_ref().map(charged_card).into_iter().flatten());
        extra.extend(refused.state.as_ref().map(standing).into_iter().flatten());
        if let (Refusal::TopUpPending(_), Some(outcome)) = (&refused.refusal, &outcome) {
            extra.extend(named_wallet(outcome));
        }
        problem::response(answer, Some(&message), request, extra)
    };
    if let Some(outcome) = outcome.filter(|outcome| !outcome.client_id.is_empty()) {
        response.headers_mut().insert(PAYMENT_RESPONSE_NAME, header_value(encode(&outcome)));
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

/// What a body says of a wallet that cannot spend what it holds.
pub(crate) fn standing(state: &ClientState) -> Map<String, Value> {
    let mut told = Map::new();
    if state.is_frozen() {
        told.insert("frozen".into(), json!(true));
        told.insert("balance".into(), json!(state.credit().to_units_floor().get()));
        told.insert("spendable".into(), json!(state.spendable().to_units_floor().get()));
        if let Some(debt) = owed(state) {
            told.insert("debt".into(), json!(debt));
        }
    }
    told
}

/// The clientId in a body, where its header has it: programs that do not read the header must not lose the wallet.
fn named_wallet(note: &PaymentResponse) -> Option<(String, Value)> {
    (!note.client_id.is_empty()).then(|| ("clientId".to_owned(), json!(note.client_id)))
}

/// What the wallet holds, where that is known.
pub(crate) fn credits_remaining(note: &PaymentResponse) -> Option<(String, Value)> {
    note.credits_remaining.map(|units| ("creditsRemaining".to_owned(), json!(units)))
}

/// What a problem's body tells whoever's card was charged by a request that was not served.
pub(crate) fn charged_card(note: &PaymentResponse) -> Map<String, Value> {
    let mut told = Map::new();
    if note.charge_id.is_some() && !note.client_id.is_empty() {
        told.insert("clientId".into(), json!(note.client_id));
        told.insert("topUpAmount".into(), json!(note.top_up_amount));
        told.extend(credits_remaining(note));
        if note.standing.frozen == Some(true) {
            told.insert("frozen".into(), json!(true));
            told.insert("spendable".into(), json!(note.standing.spendable));
        }
    }
    told
}

fn outcome_of(refused: &Refused, message: &str) -> Option<PaymentResponse> {
    let code = refused.refusal.answer().code;
    if let Some(wallet) = &refused.wallet {
        return Some(failure(wallet, refused.state.as_ref(), refused.charged.as_ref(), code, message));
    }
    refused.promised.as_ref().map(|key| PaymentResponse {
        client_id: key.expose().to_owned(),
        // The wallet comes to life with its credit.
        credits_remaining: Some(0),
        error: Some(message.to_owned()),
        error_code: Some(code.to_owned()),
        ..PaymentResponse::default()
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

/// The reference's error shape, with the fields that every refusal has.
fn attempt_body(
    offer: &PaymentRequired,
    outcome: Option<&PaymentResponse>,
    message: &str,
    state: Option<&ClientState>,
) -> String {
    let mut body = json!({
        "success": false,
        "clientId": outcome.map_or("", |outcome| outcome.client_id.as_str()),
        "error": message,
        "errorCode": offer.code,
        "code": offer.code,
        "message": message,
        "retryable": offer.retryable,
        "whoActs": offer.who_acts,
        "requestId": offer.request_id,
    });
    if let Value::Object(members) = &mut body {
        // Who presented no wallet has none.
        let nobody = PaymentResponse { credits_remaining: Some(0), ..PaymentResponse::default() };
        members.extend(credits_remaining(outcome.unwrap_or(&nobody)));
        members.extend(state.map(standing).into_iter().flatten());
    }
    body.to_string()
}

/// An offer for credit alone, where nothing is sold by the request itself.
pub(crate) fn credit_sale<'a>(origin: &'a str, path: &'a str) -> Sale<'a> {
    Sale { origin, path, description: Some("Prepaid credit"), mime_type: None, price: Micros::ZERO }
}

#[cfg(test)]
mod tests;

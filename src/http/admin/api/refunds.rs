//! Refunds.

use actix_web::{Error, HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::refused::Refused;
use super::{Desk, InFlight, MAX_BODY, MAX_REASON, answer, moment, present};
use crate::db::DbError;
use crate::domain::{Micros, TopUpId};
use crate::http::admin::basic::Operator;
use crate::http::repeat_key;
use crate::ledger::LedgerError;
use crate::ledger::read;
use crate::payments::refunds::{Refund, RefundError, RefundRequest};
use crate::protocol::{card_number, strict_json};

pub(super) fn refund_json(refund: &Refund) -> Value {
    json!({
        "id": refund.id,
        "topUp": refund.top_up,
        "amount": refund.currency.decimal(refund.amount),
        "currency": refund.currency.code(),
        "bonusForfeited": refund.currency.decimal(refund.bonus),
        "origin": refund.origin,
        "state": refund.state,
        "stripeRefund": refund.stripe_refund,
        "reason": refund.reason,
        "operator": refund.operator,
        "failure": refund.failure,
        "createdAt": moment(refund.created_at),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RefundBody {
    top_up: String,
    #[serde(default, deserialize_with = "present")]
    amount: Option<String>,
    #[serde(default, deserialize_with = "present")]
    reason: Option<String>,
}

/// One refund that is asked for: its top-up, amount, reason and key.
fn read_refund(request: &HttpRequest, body: &[u8], operator: String) -> Result<RefundRequest, Refused> {
    let key = repeat_key::required(request.headers()).ok_or(Refused::Invalid(
        "One Idempotency-Key header of 1 to 255 visible characters is needed: the same key refunds once.",
    ))?;
    let text = std::str::from_utf8(body).map_err(|_| Refused::Invalid("The body is not UTF-8."))?;
    if card_number::hides_card_number(text) {
        return Err(Refused::RawCardData);
    }
    const SHAPE: &str = "The body is {\"topUp\": \"id\", \"amount\": \"5.00\", \"reason\": \"for people\"}; without an amount, all that is left is refunded; the reason may be left out.";
    let json = strict_json::parse(body, strict_json::Limits::bytes(MAX_BODY))
        .map_err(|_| Refused::Invalid(SHAPE))?;
    // As it is read, which may differ from how it is written: "\u0034" is a digit.
    if json.has_text(card_number::hides_card_number) {
        return Err(Refused::RawCardData);
    }
    let body: RefundBody = serde_json::from_slice(body).map_err(|_| Refused::Invalid(SHAPE))?;
    let top_up = TopUpId::parse(&body.top_up).ok_or(Refused::Refund(RefundError::NoSuchTopUp))?;
    let amount = match body.amount {
        None => None,
        Some(text) => Some(
            Micros::parse_major(&text)
                .ok()
                .filter(|amount| !amount.is_zero())
                .ok_or(Refused::Invalid("amount is a decimal above zero in quotes, such as \"5.00\"."))?,
        ),
    };
    let is_long = |text: &String| text.chars().count() > MAX_REASON || text.chars().any(char::is_control);
    if body.reason.as_ref().is_some_and(is_long) {
        return Err(Refused::Invalid("reason has at most 500 characters, none of them a control character."));
    }
    // Apart from the keys that the gateway itself makes.
    let request_key = format!("operator:{key}");
    Ok(RefundRequest { top_up, amount, reason: body.reason, operator, request_key })
}

/// `POST /admin/api/refunds`.
pub(super) async fn request_refund(
    request: HttpRequest,
    desk: web::Data<Desk>,
    operator: web::ReqData<Operator>,
    body: Result<web::Bytes, Error>,
) -> HttpResponse {
    answer(refund_now(&request, &desk, operator.into_inner(), body).await.map(|made| refund_json(&made)))
}

async fn refund_now(
    request: &HttpRequest,
    desk: &Desk,
    Operator(operator): Operator,
    body: Result<web::Bytes, Error>,
) -> Result<Refund, Refused> {
    let body = body.map_err(|_| Refused::Invalid("The body is too large, or was cut off."))?;
    let wanted = read_refund(request, &body, operator)?;
    // Two at once would fight for the same credit, and one of them would be told that there is too little.
    let in_flight = InFlight::begin(&desk.in_flight, &wanted.request_key).ok_or(Refused::InFlight)?;
    let refunds = desk.refunds.clone();
    let work = desk.tasks.spawn(async move {
        let _in_flight = in_flight;
        let (operator, top_up) = (wanted.operator.clone(), wanted.top_up);
        let made = refunds.request(wanted).await;
        match &made {
            Ok(made) => tracing::info!(
                operator,
                refund.id = made.id,
                top_up.id = made.top_up,
                refund.amount = made.currency.text(made.amount),
                refund.state = made.state,
                refund.stripe = made.stripe_refund,
                "an operator asked for a refund"
            ),
            Err(error) => {
                tracing::warn!(operator, top_up.id = %top_up, %error, "an operator asked for a refund in vain");
            }
        }
        made
    });
    let made = work.await.unwrap_or_else(|error| Err(LedgerError::Unavailable(error.to_string()).into()));
    let made = made.map_err(Refused::Refund)?;
    match made.state.as_str() {
        "pending" | "succeeded" => Ok(made),
        "failed" => Err(Refused::RefundFailed(Box::new(made))),
        // Its credit is taken; what Stripe says is not known, and whatever else it might say is not known either.
        _ => Err(Refused::RefundUnknown(Box::new(made))),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefundsQuery {
    top_up: String,
}

/// `GET /admin/api/refunds?topUp=…`.
pub(super) async fn list_refunds(
    desk: web::Data<Desk>,
    wanted: Result<web::Query<RefundsQuery>, Error>,
) -> HttpResponse {
    answer(refunds_of(&desk, wanted).await)
}

async fn refunds_of(desk: &Desk, wanted: Result<web::Query<RefundsQuery>, Error>) -> Result<Value, Refused> {
    let wanted = wanted.map_err(|_| Refused::Invalid("Say of which top-up: ?topUp=ID."))?;
    let id = TopUpId::parse(&wanted.top_up).ok_or(Refused::NotFound)?;
    let known = read::top_up_by_id(desk.db.reader(), &id.to_string()).await?;
    known.ok_or(Refused::NotFound)?;
    let refunds = desk.refunds.of_top_up(id).await.map_err(|error: DbError| {
        tracing::error!(%error, "refunds could not be read");
        Refused::Busy
    })?;
    Ok(json!({ "refunds": refunds.iter().map(refund_json).collect::<Vec<_>>() }))
}

//! What operators give.

use actix_web::{Error, HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::refused::Refused;
use super::{Desk, InFlight, MAX_BODY, MAX_REASON, answer, moment, present};
use crate::domain::{Micros, decimal_in};
use crate::http::admin::basic::Operator;
use crate::http::repeat_key;
use crate::ledger::LedgerError;
use crate::ledger::adjustments::{self, Adjustment, NewAdjustment};
use crate::ledger::aftermath::Change;
use crate::ledger::core::Gift;
use crate::ledger::read::{self, ClientRow};
use crate::ledger::request_key::stored_key;
use crate::protocol::{card_number, strict_json};

fn adjustment_json(made: &Adjustment) -> Value {
    json!({
        "id": made.id,
        "kind": made.kind,
        "amount": decimal_in(made.amount.unsigned_abs(), &made.currency),
        "currency": made.currency,
        "reason": made.reason,
        "operator": made.operator,
        "createdAt": moment(made.created_at),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AdjustmentBody {
    #[serde(default, deserialize_with = "present")]
    credit: Option<String>,
    #[serde(default, deserialize_with = "present")]
    write_off_debt: Option<String>,
    reason: String,
}

/// What is given, how much (`None`: the whole debt), why, and the request's key.
fn read_adjustment(
    request: &HttpRequest,
    body: &[u8],
) -> Result<(Gift, Option<Micros>, String, String), Refused> {
    let key = repeat_key::required(request.headers()).ok_or(Refused::Invalid(
        "One Idempotency-Key header of 1 to 255 visible characters is needed: the same key adjusts once.",
    ))?;
    let text = std::str::from_utf8(body).map_err(|_| Refused::Invalid("The body is not UTF-8."))?;
    if card_number::hides_card_number(text) {
        return Err(Refused::RawCardData);
    }
    const SHAPE: &str = "The body is {\"credit\": \"5.00\", \"reason\": \"for people\"}, or {\"writeOffDebt\": \"5.00\", \"reason\": \"for people\"}, where \"all\" stands for the whole debt.";
    let json = strict_json::parse(body, strict_json::Limits::bytes(MAX_BODY))
        .map_err(|_| Refused::Invalid(SHAPE))?;
    if json.has_text(card_number::hides_card_number) {
        return Err(Refused::RawCardData);
    }
    let body: AdjustmentBody = serde_json::from_slice(body).map_err(|_| Refused::Invalid(SHAPE))?;
    let (gift, amount) = match (body.credit, body.write_off_debt) {
        (Some(amount), None) => (Gift::Credit, Some(amount)),
        (None, Some(amount)) => (Gift::Forgiveness, Some(amount).filter(|amount| amount != "all")),
        (Some(_), Some(_)) | (None, None) => return Err(Refused::Invalid(SHAPE)),
    };
    let above_zero = |text: String| Micros::parse_major(&text).ok().filter(|amount| !amount.is_zero());
    let amount = match amount {
        None => None,
        Some(text) => Some(
            above_zero(text)
                .ok_or(Refused::Invalid("The amount is a decimal above zero in quotes, such as \"5.00\"."))?,
        ),
    };
    let reason = body.reason.trim().to_owned();
    if reason.is_empty() || reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(Refused::Invalid(
            "reason says why, in 1 to 500 characters, none of them a control character.",
        ));
    }
    Ok((gift, amount, reason, format!("adjustment:{key}")))
}

/// `POST /admin/api/clients/{public_id}/adjustments`.
pub(super) async fn adjust(
    request: HttpRequest,
    path: web::Path<String>,
    desk: web::Data<Desk>,
    operator: web::ReqData<Operator>,
    body: Result<web::Bytes, Error>,
) -> HttpResponse {
    answer(adjust_now(&request, &desk, &path, operator.into_inner(), body).await)
}

async fn adjust_now(
    request: &HttpRequest,
    desk: &Desk,
    public_id: &str,
    Operator(operator): Operator,
    body: Result<web::Bytes, Error>,
) -> Result<Value, Refused> {
    let body = body.map_err(|_| Refused::Invalid("The body is too large, or was cut off."))?;
    let (gift, amount, reason, key) = read_adjustment(request, &body)?;
    let client: ClientRow =
        read::client_by_public_id(desk.db.reader(), public_id).await?.ok_or(Refused::NotFound)?;
    let in_flight = InFlight::begin(&desk.in_flight, &key).ok_or(Refused::InFlight)?;
    let request_key = stored_key(&key);
    let new = NewAdjustment {
        id: uuid::Uuid::now_v7().to_string(),
        client: client.id,
        gift,
        amount,
        reason,
        operator: operator.clone(),
        request_key: request_key.clone(),
        max_a_day: desk.max_adjustments_a_day,
    };
    let (ledger, public_id) = (desk.ledger.clone(), client.public_id.clone());
    let work = desk.tasks.spawn(async move {
        let _in_flight = in_flight;
        let changed = ledger.change(Change::Adjust(new)).await;
        match &changed {
            Ok((_, state)) => tracing::info!(
                operator,
                client.id = public_id,
                client.bonus = state.currency.text(state.bonus),
                client.debt = state.currency.text(state.debt),
                "an operator adjusted a wallet"
            ),
            Err(error) => {
                tracing::warn!(operator, client.id = public_id, %error, "an operator could not adjust a wallet");
            }
        }
        changed
    });
    let changed = work.await.unwrap_or_else(|error| Err(LedgerError::Unavailable(error.to_string())));
    let (_, state) = changed.map_err(Refused::Adjustment)?;
    // Committed by now: what is stored is what was made, by this request or by the first with its key.
    let made = adjustments::by_key(desk.db.reader(), &request_key).await?.ok_or(Refused::Busy)?;
    let mut body = adjustment_json(&made);
    if let Value::Object(members) = &mut body {
        members.insert("client".into(), json!(client.public_id));
        members.insert("balance".into(), json!(state.currency.decimal(state.credit())));
        members.insert("debt".into(), json!(state.currency.decimal(state.debt)));
        members.insert("frozen".into(), json!(state.is_frozen()));
    }
    Ok(body)
}

/// `GET /admin/api/clients/{public_id}/adjustments`: the newest first.
pub(super) async fn list_adjustments(path: web::Path<String>, desk: web::Data<Desk>) -> HttpResponse {
    let load = async {
        let client: ClientRow =
            read::client_by_public_id(desk.db.reader(), &path).await?.ok_or(Refused::NotFound)?;
        let made = adjustments::of_client(desk.db.reader(), client.id, i64::from(read::MAX_ROWS)).await?;
        Ok(json!({ "adjustments": made.iter().map(adjustment_json).collect::<Vec<_>>() }))
    };
    answer(load.await)
}

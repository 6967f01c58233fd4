//! What an operator may do, for programs: refunds, freezing, and what answers a dispute. JSON; refusals are RFC 9457 problems.
//!
//! Every request carries name and password (`basic`); there are no cookies. What is asked for goes on when whoever asked has
//! gone, and is told to the log with the operator's name.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::web::{self, ServiceConfig};
use actix_web::{Error, HttpRequest, HttpResponse};
use chrono::{DateTime, SecondsFormat};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::basic::Operator;
use super::pages::UNKNOWN_HOST;
use crate::db::{Db, DbError};
use crate::domain::{Micros, RequestId, TopUpId, decimal_in};
use crate::http::{problem, repeat_key};
use crate::ledger::adjustments::{self, Adjustment, NewAdjustment};
use crate::ledger::aftermath::Change;
use crate::ledger::core::Gift;
use crate::ledger::read::{self, ClientRow};
use crate::ledger::request_key::stored_key;
use crate::ledger::{Ledger, LedgerError, Refusal};
use crate::money_work::MoneyWork;
use crate::payments::evidence;
use crate::payments::refunds::{Refund, RefundError, RefundRequest, Refunds};
use crate::paywall::{Answer, WhoActs};
use crate::protocol::{card_number, strict_json};

/// The largest body, in bytes; the actual ones are a tenth of it.
const MAX_BODY: usize = 4 * 1024;
/// The longest reason, in characters.
const MAX_REASON: usize = 500;

/// What the operator's door needs. One for the whole process.
#[derive(Debug)]
pub struct Desk {
    db: Db,
    ledger: Ledger,
    refunds: Refunds,
    tasks: MoneyWork,
    /// The most credit that operators may give in a day.
    max_adjustments_a_day: Micros,
    /// Keys of refunds and adjustments that are being asked for at this moment.
    in_flight: Arc<Mutex<HashSet<String>>>,
}

impl Desk {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        db: Db,
        ledger: Ledger,
        refunds: Refunds,
        tasks: MoneyWork,
        max_adjustments_a_day: Micros,
    ) -> Self {
        Self { db, ledger, refunds, tasks, max_adjustments_a_day, in_flight: Arc::default() }
    }
}

/// A key that is in flight until this is dropped.
struct InFlight {
    keys: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl InFlight {
    /// `None`: it is in flight already.
    fn begin(keys: &Arc<Mutex<HashSet<String>>>, key: &str) -> Option<Self> {
        let is_new = keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        is_new.then(|| Self { keys: Arc::clone(keys), key: key.to_owned() })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Registers what is below `/admin/api`.
pub(super) fn configure(cfg: &mut ServiceConfig) {
    cfg.service(
        web::resource("/refunds").route(web::post().to(request_refund)).route(web::get().to(list_refunds)),
    )
    .service(
        web::resource("/clients/{public_id}/adjustments")
            .route(web::post().to(adjust))
            .route(web::get().to(list_adjustments)),
    )
    .route("/clients/{public_id}/freeze", web::post().to(freeze))
    .route("/clients/{public_id}/unfreeze", web::post().to(unfreeze))
    .route("/disputes/{id}", web::get().to(dispute))
    .default_service(web::to(|| async { refuse(Refused::NotFound) }));
}

/// Why nothing is done.
#[derive(Debug)]
pub(super) enum Refused {
    Unauthorized,
    Browser,
    /// By a name that the listener does not answer to.
    UnknownHost,
    /// Seconds to wait.
    TooManyAttempts(i64),
    /// Nothing was done.
    Busy,
    NotFound,
    Invalid(&'static str),
    RawCardData,
    InFlight,
    Refund(RefundError),
    /// Stripe refused it, or it came back.
    RefundFailed(Box<Refund>),
    /// It is not known whether Stripe has made it.
    RefundUnknown(Box<Refund>),
    Ledger(LedgerError),
    /// Of an adjustment.
    Adjustment(LedgerError),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(%error, "the operator's request could not be answered");
        Self::Busy
    }
}

impl Refused {
    /// The table of answers.
    fn answer(&self) -> Answer {
        use WhoActs::{Agent, Human, Seller};
        let row = |status, code, retryable, who_acts, retry_after, message| Answer {
            status,
            code,
            retryable,
            who_acts,
            message,
            retry_after,
        };
        let refused = |status, code, message| row(status, code, false, Human, None, message);
        let unknown = row(
            503,
            "refund_unknown",
            true,
            Agent,
            Some(5),
            "It is not known yet whether there is a refund. Repeat the request with the same Idempotency-Key: it refunds once.",
        );
        match self {
            Self::Unauthorized => refused(
                401,
                "unauthorized",
                "Send name and password of an admin user as HTTP Basic authentication.",
            ),
            Self::Browser => refused(403, "browser_refused", "This door is for programs, not for browsers."),
            Self::UnknownHost => refused(421, "unknown_host", UNKNOWN_HOST),
            Self::TooManyAttempts(seconds) => row(
                429,
                "too_many_attempts",
                true,
                Human,
                Some(u32::try_from(*seconds).unwrap_or(60)),
                "Too many attempts with this name or from this address. Nothing was done.",
            ),
            Self::Busy | Self::Ledger(LedgerError::Unavailable(_) | LedgerError::Closed) => row(
                503,
                "busy",
                true,
                Seller,
                Some(5),
                "The gateway or its database is busy. Repeat the same request shortly: doing it twice does no harm.",
            ),
            Self::NotFound => refused(404, "not_found", "There is no such thing."),
            Self::Invalid(message) => refused(400, "invalid_request", message),
            Self::RawCardData => refused(
                400,
                "raw_card_data_rejected",
                "A card number must never be sent here. Nothing was done or stored.",
            ),
            Self::InFlight => row(
                409,
                "idempotency_in_flight",
                true,
                Agent,
                Some(1),
                "The same is being asked for at this moment. Repeat this to learn what became of it.",
            ),
            Self::RefundUnknown(_) => unknown,
            Self::RefundFailed(_) => refused(
                409,
                "refund_failed",
                "The refund has failed, and its credit is back in the wallet. A new attempt needs a new Idempotency-Key.",
            ),
            Self::Adjustment(LedgerError::Unavailable(_) | LedgerError::Closed) => row(
                503,
                "busy",
                true,
                Seller,
                Some(5),
                "It is not known yet whether the wallet was adjusted. Repeat the request with the same Idempotency-Key: it adjusts once.",
            ),
            Self::Adjustment(LedgerError::Refused(Refusal::SourceConflict)) => refused(
                422,
                "idempotency_mismatch",
                "This Idempotency-Key was used for another client, amount or reason. Nothing was adjusted now.",
            ),
            Self::Adjustment(LedgerError::Refused(refusal)) => refusal_answer(*refusal),
            Self::Refund(RefundError::NoSuchTopUp) => {
                refused(404, "not_charged", "There is no such top-up, or its card was not charged.")
            }
            Self::Refund(RefundError::FormerAccount) => refused(
                409,
                "former_stripe_account",
                "This was charged in a former Stripe account: refund it in that account's dashboard. Nothing was refunded here.",
            ),
            Self::Refund(RefundError::UnprovenAccount) => row(
                503,
                "stripe_account_unproven",
                true,
                Seller,
                Some(5),
                "It is not proven that the secret key is of the Stripe account that was charged, so nothing was refunded. The log says why.",
            ),
            Self::Refund(RefundError::NotPayable) => refused(
                422,
                "amount_not_payable",
                "The amount is not a whole number of the currency's smallest coin.",
            ),
            Self::Refund(RefundError::Ledger(LedgerError::Refused(refusal)))
            | Self::Ledger(LedgerError::Refused(refusal)) => refusal_answer(*refusal),
            Self::Refund(RefundError::Db(_) | RefundError::Ledger(_)) => unknown,
        }
    }
}

fn refusal_answer(refusal: Refusal) -> Answer {
    let row = |status, code, message| Answer {
        status,
        code,
        retryable: false,
        who_acts: WhoActs::Human,
        message,
        retry_after: None,
    };
    match refusal {
        Refusal::InsufficientCredits => row(
            409,
            "insufficient_credits",
            "The client has spent more than would be left: only what is unspent can be refunded.",
        ),
        Refusal::ReservationsInFlight => Answer {
            retryable: true,
            retry_after: Some(2),
            ..row(
                409,
                "reservations_in_flight",
                "Running requests of this client have set the credit aside. Repeat this when they have ended.",
            )
        },
        Refusal::ExceedsCharge => row(409, "exceeds_charge", "That is more than is left of the charge."),
        Refusal::ExceedsDebt => {
            row(409, "exceeds_debt", "That is more than the client owes. Nothing was written off.")
        }
        Refusal::DailyLimit => row(
            409,
            "daily_limit",
            "Operators have given as much credit in the last 24 hours as adjustments.max_a_day allows, or this would be more. Nothing was given.",
        ),
        Refusal::NotCharged => {
            row(404, "not_charged", "There is no such top-up, or its card was not charged.")
        }
        Refusal::SourceConflict => row(
            422,
            "idempotency_mismatch",
            "This Idempotency-Key was used for another top-up or amount, or for all that was left. Nothing was refunded now.",
        ),
        Refusal::ClientFrozen => row(
            409,
            "client_frozen",
            "The client is frozen or in debt, and has nothing that can be refunded.",
        ),
        Refusal::UnknownClient => row(404, "not_found", "There is no such client."),
        Refusal::CurrencyMismatch => {
            row(409, "currency_mismatch", "The amount is of another currency than the client's.")
        }
        Refusal::OutOfRange => row(409, "out_of_range", "A balance would leave the range of amounts."),
        Refusal::NothingToReverse | Refusal::NoHold | Refusal::ExceedsHold => {
            row(409, "nothing_to_reverse", "There is nothing that could be given back.")
        }
    }
}

/// The answer to what is not done.
pub(super) fn refuse(refused: Refused) -> HttpResponse {
    let mut extra = Map::new();
    match &refused {
        Refused::RefundUnknown(made) | Refused::RefundFailed(made) => {
            extra.insert("refund".into(), refund_json(made));
        }
        Refused::Refund(RefundError::Ledger(error)) | Refused::Ledger(error) | Refused::Adjustment(error) => {
            tracing::warn!(%error, "an operator's request is refused");
        }
        Refused::Refund(error) => tracing::warn!(%error, "an operator's refund is refused"),
        _ => {}
    }
    problem::response(refused.answer(), None, RequestId::new(), extra)
}

fn answer(body: Result<Value, Refused>) -> HttpResponse {
    match body {
        Ok(body) => HttpResponse::Ok().content_type("application/json").body(body.to_string()),
        Err(refused) => refuse(refused),
    }
}

/// `2026-01-31T12:00:00Z`; empty for what no calendar has.
fn moment(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
        .unwrap_or_default()
}

fn refund_json(refund: &Refund) -> Value {
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

/// What is left out is not there; null is an error, because a program that has forgotten an amount must not refund all.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
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
async fn request_refund(
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
struct RefundsQuery {
    top_up: String,
}

/// `GET /admin/api/refunds?topUp=…`.
async fn list_refunds(
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

/// `POST /admin/api/clients/{public_id}/freeze`.
async fn freeze(
    path: web::Path<String>,
    desk: web::Data<Desk>,
    operator: web::ReqData<Operator>,
) -> HttpResponse {
    answer(change_client(&desk, &path, operator.into_inner(), |client, _| Change::Freeze { client }).await)
}

/// `POST /admin/api/clients/{public_id}/unfreeze`: whatever had frozen it.
async fn unfreeze(
    path: web::Path<String>,
    desk: web::Data<Desk>,
    operator: web::ReqData<Operator>,
) -> HttpResponse {
    let lifted = |client, by| Change::Unfreeze { client, by };
    answer(change_client(&desk, &path, operator.into_inner(), lifted).await)
}

async fn change_client(
    desk: &Desk,
    public_id: &str,
    Operator(operator): Operator,
    change: impl FnOnce(i64, String) -> Change,
) -> Result<Value, Refused> {
    let client: ClientRow =
        read::client_by_public_id(desk.db.reader(), public_id).await?.ok_or(Refused::NotFound)?;
    let change = change(client.id, operator.clone());
    let (ledger, public_id) = (desk.ledger.clone(), client.public_id.clone());
    let work = desk.tasks.spawn(async move {
        let changed = ledger.change(change).await;
        match &changed {
            Ok((_, state)) => tracing::info!(
                operator,
                client.id = public_id,
                client.frozen = state.frozen,
                "an operator changed who may spend"
            ),
            Err(error) => {
                tracing::warn!(operator, client.id = public_id, %error, "an operator could not change who may spend");
            }
        }
        changed
    });
    let changed = work.await.unwrap_or_else(|error| Err(LedgerError::Unavailable(error.to_string())));
    let (_, state) = changed.map_err(Refused::Ledger)?;
    Ok(json!({
        "client": client.public_id,
        "status": if state.frozen { "frozen" } else { "active" },
        "currency": state.currency.code(),
        "debt": state.currency.decimal(state.debt),
    }))
}

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
async fn adjust(
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
async fn list_adjustments(path: web::Path<String>, desk: web::Data<Desk>) -> HttpResponse {
    let load = async {
        let client: ClientRow =
            read::client_by_public_id(desk.db.reader(), &path).await?.ok_or(Refused::NotFound)?;
        let made = adjustments::of_client(desk.db.reader(), client.id, i64::from(read::MAX_ROWS)).await?;
        Ok(json!({ "adjustments": made.iter().map(adjustment_json).collect::<Vec<_>>() }))
    };
    answer(load.await)
}

/// `GET /admin/api/disputes/{id}`.
async fn dispute(path: web::Path<String>, desk: web::Data<Desk>) -> HttpResponse {
    let found = evidence::gather(desk.db.reader().into(), &path).await;
    answer(found.map_err(Refused::from).and_then(|found| found.map(|e| e.json()).ok_or(Refused::NotFound)))
}

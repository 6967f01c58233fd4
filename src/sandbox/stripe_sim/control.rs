//! `/_sim/`: looking at the books, and telling the simulator what to do. Not Stripe's.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::books::{Books, Record};
use super::endpoints;
use super::error::Refusal;
use super::faults::Fault;
use super::objects::{BalanceKind, PaymentIntent};
use super::render;
use super::server::Sim;
use super::setups::SetupIntent;

mod money;
mod switches;
mod webhooks;

/// The furthest the clock moves at once: a hundred years.
const MAX_ADVANCE: i64 = 100 * 366 * 86_400;

/// The URLs below `/_sim`.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/health", web::get().to(health))
        .route("/books", web::get().to(books))
        .route("/requests", web::get().to(requests))
        .route("/faults", web::get().to(faults))
        .route("/faults", web::post().to(add_faults))
        .route("/faults", web::delete().to(clear_faults))
        .route("/release", web::post().to(release))
        .route("/clock", web::post().to(clock))
        .route("/settings", web::post().to(settings))
        .configure(money::routes)
        .configure(switches::routes)
        .configure(webhooks::routes);
}

fn answer(status: StatusCode, body: &Value) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header(("X-Prepaid402-Sandbox", "simulated Stripe"))
        .insert_header(("Cache-Control", "no-store"))
        .json(body)
}

fn ok(body: &Value) -> HttpResponse {
    answer(StatusCode::OK, body)
}

fn refused(message: impl std::fmt::Display) -> HttpResponse {
    answer(StatusCode::BAD_REQUEST, &json!({ "error": { "message": message.to_string() } }))
}

/// Changes the books, and answers once that is on disk.
async fn change(sim: &Sim, work: impl FnOnce(&mut Books) -> Result<Value, Refusal>) -> HttpResponse {
    let (result, line) = {
        let mut state = sim.state();
        let result = work(&mut state.books);
        (result, sim.enqueue(&mut state))
    };
    let result = match sim.commit(line).await {
        Ok(()) => result,
        Err(error) => Err(error),
    };
    match result {
        Ok(value) => ok(&value),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &Refusal) -> HttpResponse {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer(status, &error.body())
}

async fn health() -> HttpResponse {
    ok(&json!({ "status": "ok", "sandbox": true, "what": "simulated Stripe of prepaid402" }))
}

/// The money of one currency, in its smallest unit.
#[derive(Debug, Default, Serialize)]
struct Totals {
    charged: i64,
    /// Less refunds that failed.
    refunded: i64,
    /// What disputes have taken and not given back.
    disputed: i64,
    fees: i64,
    /// What was charged, less refunds, disputes and fees.
    net: i64,
    intents: BTreeMap<&'static str, u64>,
}

async fn books(sim: web::Data<Sim>) -> HttpResponse {
    let (body, line) = {
        let mut state = sim.state();
        (books_of(&state.books), sim.enqueue(&mut state))
    };
    match sim.commit(line).await {
        Ok(()) => ok(&body),
        Err(error) => refusal(&error),
    }
}

fn books_of(books: &Books) -> Value {
    let mut totals: BTreeMap<&str, Totals> = BTreeMap::new();
    // The balance transactions are the money; the rest only says what it was for.
    for row in books.balance.oldest_first() {
        let total = totals.entry(&row.currency).or_default();
        match row.kind() {
            BalanceKind::Charge => total.charged = total.charged.saturating_add(row.amount),
            BalanceKind::Refund | BalanceKind::RefundFailure => {
                total.refunded = total.refunded.saturating_sub(row.amount);
            }
            BalanceKind::Dispute | BalanceKind::DisputeReversal => {
                total.disputed = total.disputed.saturating_sub(row.amount);
            }
        }
        total.fees = total.fees.saturating_add(row.fee);
        total.net = total.net.saturating_add(row.amount).saturating_sub(row.fee);
    }
    for row in books.intents.oldest_first() {
        let count = totals.entry(&row.currency).or_default().intents.entry(row.status.word()).or_default();
        *count = count.saturating_add(1);
    }
    let intents: Vec<Value> = books.intents.oldest_first().map(|row| intent(books, row)).collect();
    let setups: Vec<Value> = books.setups.oldest_first().map(|row| setup(books, row)).collect();
    let refunds: Vec<Value> = books
        .refunds
        .oldest_first()
        .map(|row| {
            json!({
                "id": row.id, "charge": row.charge, "payment_intent": row.payment_intent, "amount": row.amount,
                "currency": row.currency, "reason": row.reason, "metadata": row.metadata, "created": row.created,
                "status": row.status.word(),
            })
        })
        .collect();
    let disputes: Vec<Value> = books
        .disputes
        .oldest_first()
        .map(|row| {
            json!({
                "id": row.id, "charge": row.charge, "payment_intent": row.payment_intent, "amount": row.amount,
                "currency": row.currency, "reason": row.reason, "status": row.status.word(), "funds": row.funds,
                "created": row.created,
            })
        })
        .collect();
    let warnings: Vec<Value> =
        books.warnings.oldest_first().map(|row| render::fraud_warning(books, row)).collect();
    json!({
        "sandbox": true,
        "now": books.now(),
        "settings": books.settings,
        "totals": totals,
        "customers": books.customers.oldest_first().filter(|row| !row.deleted).count(),
        "payment_intents": intents,
        "setup_intents": setups,
        "refunds": refunds,
        "disputes": disputes,
        "fraud_warnings": warnings,
    })
}

/// A PaymentIntent without what could be used: no client secret, no PaymentMethod id.
fn intent(books: &Books, row: &PaymentIntent) -> Value {
    let charge = row.latest_charge.as_deref().and_then(|id| books.charges.get(id));
    let method = charge.map(|charge| &charge.payment_method).or(row.payment_method.as_ref());
    let fingerprint = method.and_then(|id| books.methods.get(id)).map(|method| &method.card.fingerprint);
    json!({
        "id": row.id,
        "status": row.status.word(),
        "amount": row.amount,
        "amount_received": row.amount_received,
        "amount_refunded": charge.map_or(0, |charge| charge.amount_refunded),
        "currency": row.currency,
        "metadata": row.metadata,
        "customer": row.customer,
        "fingerprint": fingerprint,
        "created": row.created,
    })
}

/// A SetupIntent without what could be used.
fn setup(books: &Books, row: &SetupIntent) -> Value {
    let attempt = row.latest_attempt.as_deref().and_then(|id| books.attempts.get(id));
    let method = attempt.map(|attempt| &attempt.payment_method).or(row.payment_method.as_ref());
    let fingerprint = method.and_then(|id| books.methods.get(id)).map(|method| &method.card.fingerprint);
    json!({
        "id": row.id,
        "status": row.status.word(),
        "usage": row.usage,
        "metadata": row.metadata,
        "customer": row.customer,
        "fingerprint": fingerprint,
        "cvc_check": attempt.and_then(|attempt| attempt.cvc_check),
        "created": row.created,
    })
}

async fn requests(sim: web::Data<Sim>) -> HttpResponse {
    let held = sim.held();
    let state = sim.state();
    ok(&json!({ "counts": state.log.counts(), "held": held, "requests": state.log.last() }))
}

async fn faults(sim: web::Data<Sim>) -> HttpResponse {
    ok(&json!({ "faults": sim.state().faults.remaining() }))
}

/// One instruction or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Value>),
    One(Value),
}

async fn add_faults(sim: web::Data<Sim>, body: web::Bytes) -> HttpResponse {
    let instructions = match serde_json::from_slice(&body) {
        Ok(OneOrMany::Many(faults)) => faults,
        Ok(OneOrMany::One(fault)) => vec![fault],
        Err(error) => return refused(error),
    };
    let faults: Result<Vec<Fault>, _> = instructions.into_iter().map(serde_json::from_value).collect();
    match faults {
        Err(error) => refused(error),
        Ok(faults) => {
            let mut state = sim.state();
            match state.faults.add(faults) {
                Ok(()) => ok(&json!({ "faults": state.faults.remaining() })),
                Err(error) => refused(error),
            }
        }
    }
}

async fn clear_faults(sim: web::Data<Sim>) -> HttpResponse {
    sim.state().faults.clear();
    ok(&json!({ "faults": [] }))
}

async fn release(sim: web::Data<Sim>) -> HttpResponse {
    ok(&json!({ "released": sim.release() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clock {
    advance_seconds: i64,
}

async fn clock(sim: web::Data<Sim>, body: web::Bytes) -> HttpResponse {
    let seconds = match serde_json::from_slice(&body) {
        Ok(Clock { advance_seconds }) if (0..=MAX_ADVANCE).contains(&advance_seconds) => advance_seconds,
        Ok(_) => {
            return refused(
                "\"advance_seconds\" must be from 0 to a hundred years: the clock only goes forward",
            );
        }
        Err(error) => return refused(error),
    };
    change(&sim, |books| {
        books.advance(seconds);
        endpoints::later::bring(books)?;
        Ok(json!({ "now": books.now() }))
    })
    .await
}

/// What is not named stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSettings {
    publishable_key_tokenisation: Option<bool>,
    late_balance_transactions: Option<bool>,
}

async fn settings(sim: web::Data<Sim>, body: web::Bytes) -> HttpResponse {
    let new: NewSettings = match serde_json::from_slice(&body) {
        Ok(new) => new,
        Err(error) => return refused(error),
    };
    change(&sim, |books| {
        let mut settings = books.settings;
        let NewSettings { publishable_key_tokenisation, late_balance_transactions } = new;
        settings.publishable_key_tokenisation =
            publishable_key_tokenisation.unwrap_or(settings.publishable_key_tokenisation);
        settings.late_balance_transactions =
            late_balance_transactions.unwrap_or(settings.late_balance_transactions);
        books.put(Record::Settings(settings));
        Ok(json!(settings))
    })
    .await
}

//! `/_sim/`: what people and banks do to money: refunds from the dashboard, disputes, fraud warnings, slow outcomes.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::endpoints::disputes::{self, Opening};
use super::super::endpoints::{self, fraud_warnings, refunds, setup_intents};
use super::super::objects::DisputeStatus;
use super::super::render;
use super::super::server::Sim;
use super::{change, refused};

/// The URLs.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/payment_intents/{id}/finish", web::post().to(finish_intent))
        .route("/setup_intents/{id}/finish", web::post().to(finish_setup))
        .route("/payment_intents/{id}/settle", web::post().to(settle))
        .route("/payment_intents/{id}/dispute", web::post().to(dispute))
        .route("/payment_intents/{id}/fraud_warning", web::post().to(fraud_warning))
        .route("/refunds", web::post().to(refund))
        .route("/refunds/{id}/finish", web::post().to(finish_refund))
        .route("/disputes/{id}/withdraw", web::post().to(withdraw))
        .route("/disputes/{id}/reinstate", web::post().to(reinstate))
        .route("/disputes/{id}/close", web::post().to(close));
}

/// Reads a body; an empty one is an empty object.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finish {
    outcome: Outcome,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Succeeded,
    Failed,
}

async fn finish_intent(sim: web::Data<Sim>, id: web::Path<String>, body: web::Bytes) -> HttpResponse {
    let Finish { outcome } = match read(&body) {
        Ok(finish) => finish,
        Err(error) => return refused(error),
    };
    change(&sim, |books| endpoints::finish(books, &id, outcome == Outcome::Succeeded)).await
}

async fn finish_setup(sim: web::Data<Sim>, id: web::Path<String>, body: web::Bytes) -> HttpResponse {
    let Finish { outcome } = match read(&body) {
        Ok(finish) => finish,
        Err(error) => return refused(error),
    };
    change(&sim, |books| setup_intents::finish(books, &id, outcome == Outcome::Succeeded)).await
}

async fn settle(sim: web::Data<Sim>, id: web::Path<String>) -> HttpResponse {
    change(&sim, |books| {
        let charge = endpoints::paid_charge(books, &id)?;
        Ok(render::charge(books, &charge))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refund {
    payment_intent: String,
    amount: Option<i64>,
    reason: Option<String>,
}

async fn refund(sim: web::Data<Sim>, body: web::Bytes) -> HttpResponse {
    const REASONS: [&str; 3] = ["duplicate", "fraudulent", "requested_by_customer"];
    let Refund { payment_intent, amount, reason } = match read(&body) {
        Ok(refund) => refund,
        Err(error) => return refused(error),
    };
    if amount.is_some_and(|amount| amount < 1) {
        return refused("\"amount\" must be 1 or more");
    }
    if reason.as_ref().is_some_and(|reason| !REASONS.contains(&reason.as_str())) {
        return refused(format!("\"reason\" must be one of {}", REASONS.join(", ")));
    }
    change(&sim, |books| {
        let charge = endpoints::paid_charge(books, &payment_intent)?;
        refunds::make(books, charge, amount, reason, BTreeMap::new()).map(|refund| render::refund(&refund))
    })
    .await
}

async fn finish_refund(sim: web::Data<Sim>, id: web::Path<String>, body: web::Bytes) -> HttpResponse {
    let Finish { outcome } = match read(&body) {
        Ok(finish) => finish,
        Err(error) => return refused(error),
    };
    change(&sim, |books| refunds::finish(books, &id, outcome == Outcome::Succeeded)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dispute {
    amount: Option<i64>,
    reason: Option<String>,
    #[serde(default)]
    inquiry: bool,
    /// Whether the funds are taken at once; an inquiry takes none.
    withdraw: Option<bool>,
}

async fn dispute(sim: web::Data<Sim>, id: web::Path<String>, body: web::Bytes) -> HttpResponse {
    let Dispute { amount, reason, inquiry, withdraw } = match read(&body) {
        Ok(dispute) => dispute,
        Err(error) => return refused(error),
    };
    let opening = match (inquiry, withdraw) {
        (true, Some(true)) => {
            return refused("an inquiry withdraws nothing; /_sim/disputes/{id}/withdraw escalates it");
        }
        (true, _) => Opening::Inquiry,
        (false, Some(false)) => Opening::Announced,
        (false, _) => Opening::Withdrawn,
    };
    change(&sim, |books| {
        let charge = endpoints::paid_charge(books, &id)?;
        disputes::open(books, &charge.id, amount, reason.as_deref().unwrap_or("fraudulent"), opening)
    })
    .await
}

async fn withdraw(sim: web::Data<Sim>, id: web::Path<String>) -> HttpResponse {
    change(&sim, |books| disputes::withdraw(books, &id)).await
}

async fn reinstate(sim: web::Data<Sim>, id: web::Path<String>) -> HttpResponse {
    change(&sim, |books| disputes::reinstate(books, &id)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    status: String,
    reinstate: Option<bool>,
}

async fn close(sim: web::Data<Sim>, id: web::Path<String>, body: web::Bytes) -> HttpResponse {
    let Close { status, reinstate } = match read(&body) {
        Ok(close) => close,
        Err(error) => return refused(error),
    };
    let status = match status.as_str() {
        "won" => DisputeStatus::Won,
        "lost" => DisputeStatus::Lost,
        "warning_closed" => DisputeStatus::WarningClosed,
        _ => return refused("\"status\" must be won, lost or warning_closed"),
    };
    change(&sim, |books| disputes::close(books, &id, status, reinstate.unwrap_or(true))).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Warning {
    fraud_type: Option<String>,
}

async fn fraud_warning(sim: web::Data<Sim>, id: web::Path<String>, body: web::Bytes) -> HttpResponse {
    let Warning { fraud_type } = match read(&body) {
        Ok(warning) => warning,
        Err(error) => return refused(error),
    };
    change(&sim, |books| {
        let charge = endpoints::paid_charge(books, &id)?;
        fraud_warnings::warn(books, &charge.id, fraud_type.as_deref().unwrap_or("misc"))
    })
    .await
}

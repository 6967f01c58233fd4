//! What an operator may do, for programs: refunds, freezing, and what answers a dispute. JSON; refusals are RFC 9457 problems.
//!
//! Every request carries name and password (`basic`); there are no cookies. What is asked for goes on when whoever asked has
//! gone, and is told to the log with the operator's name.

mod adjustments;
mod freezes;
mod refunds;
mod refused;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::HttpResponse;
use actix_web::web::{self, ServiceConfig};
use chrono::{DateTime, SecondsFormat};
use serde::Deserialize as _;
use serde_json::Value;

use self::adjustments::{adjust, list_adjustments};
use self::freezes::{freeze, unfreeze};
use self::refunds::{list_refunds, request_refund};
pub(super) use self::refused::{Refused, refuse};
use crate::db::Db;
use crate::domain::Micros;
use crate::ledger::Ledger;
use crate::money_work::MoneyWork;
use crate::payments::evidence;
use crate::payments::refunds::Refunds;

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

/// What is left out is not there; null is an error, because a program that has forgotten an amount must not refund all.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// `GET /admin/api/disputes/{id}`.
async fn dispute(path: web::Path<String>, desk: web::Data<Desk>) -> HttpResponse {
    let found = evidence::gather(desk.db.reader().into(), &path).await;
    answer(found.map_err(Refused::from).and_then(|found| found.map(|e| e.json()).ok_or(Refused::NotFound)))
}

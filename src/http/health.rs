//! Whether the process lives, whether it can serve, and what it counted. On the admin listener only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::{HttpResponse, web};

use super::callers::Callers;
use super::metrics::{Metrics, Readings};
use super::reversals::Reversals;
use crate::db::{Db, Trouble, now_micros};
use crate::ledger::Ledger;
use crate::payments::{Inbox, ParkedEvents};
use crate::proxy::reachability::{ReachState, Reachability};
use crate::reconciliation::Watch;
use crate::sparing_log::sparingly;
use crate::top_up::{Standing, TopUps};

/// What is known of the upstream is asked again when it is older, at the next look.
const UPSTREAM_EVERY: Duration = Duration::from_secs(10);

/// What health and metrics look at.
#[derive(Debug, Clone)]
pub struct Operations {
    pub(crate) db: Db,
    pub(crate) ledger: Ledger,
    pub(crate) top_ups: TopUps,
    pub(crate) inbox: Inbox,
    pub(crate) books: Watch,
    pub(crate) reversals: Reversals,
    pub(crate) callers: Callers,
    /// `None`: handlers are sold.
    pub(crate) upstream: Option<Reachability>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) closing: Arc<AtomicBool>,
}

/// The process answers.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n")
}

/// The database takes writes and the process is not shutting down. The body tells the upstream's state as well, and a proxy in front that is not heard, which do not
/// decide: a node less would not bring the upstream back.
pub async fn readyz(operations: web::Data<Operations>) -> HttpResponse {
    if operations.closing.load(Ordering::Relaxed) {
        return HttpResponse::ServiceUnavailable().body("shutting down\n");
    }
    let condition = operations.db.condition();
    // Shows at once what no payer has met yet. A database that is away for a moment is no reason to stop the sale.
    if condition.is_fine()
        && let Err(error) = operations.db.takes_a_write().await
        && condition.is_fine()
    {
        sparingly!(error, %error, "not ready: the database cannot be written to");
        return HttpResponse::ServiceUnavailable().body("the database does not take writes\n");
    }
    match condition.trouble() {
        None => {
            let upstream = operations.upstream.as_ref().map_or_else(String::new, upstream_line);
            let proxy = operations.callers.finding().map_or_else(String::new, proxy_line);
            HttpResponse::Ok()
                .content_type("text/plain; charset=utf-8")
                .body(format!("ready\n{upstream}{proxy}"))
        }
        Some(Trouble::Refuses(why)) => {
            sparingly!(error, why, "not ready: the database does not take writes");
            HttpResponse::ServiceUnavailable().body("the database does not take writes\n")
        }
        Some(Trouble::Another(why)) => {
            sparingly!(error, why, "not ready: the database is not the one that was opened");
            HttpResponse::ServiceUnavailable().body("the database is not the one that was opened\n")
        }
    }
}

/// What begins the line about a proxy in front that is not heard.
pub(crate) const PROXY: &str = "proxy: ";

fn proxy_line(finding: &str) -> String {
    format!("{PROXY}{finding}\n")
}

/// What is known of the upstream. What is old is asked again, for the next time.
fn upstream_line(upstream: &Reachability) -> String {
    upstream.refresh(UPSTREAM_EVERY);
    match upstream.state() {
        ReachState::Unknown => "upstream: not asked yet\n".to_owned(),
        ReachState::Reachable => "upstream: reachable\n".to_owned(),
        ReachState::Unreachable(time) => {
            format!("upstream: cannot be reached since {} s\n", time.as_secs())
        }
    }
}

/// Prometheus' text.
pub async fn metrics(operations: web::Data<Operations>) -> HttpResponse {
    use std::sync::atomic::Ordering::Relaxed;
    let (open, oldest) = operations.top_ups.open_attempts().await.unwrap_or((-1, None));
    let unknown = ParkedEvents { count: -1, oldest: None, unknown_objects: -1 };
    let parked = operations.inbox.parked().await.unwrap_or(unknown);
    let (events_fetched, event_polls_failed) = operations.inbox.poll_counts();
    let age = |since: Option<i64>| since.map_or(0, |at| now_micros().saturating_sub(at) / 1_000_000);
    let counts = operations.ledger.counts();
    let (broken_answers_given_back, broken_answer_alarms) = operations.reversals.counts();
    let readings = Readings {
        open_top_ups: open,
        oldest_open_seconds: age(oldest),
        reserved_micros: operations.ledger.total_reserved().get(),
        batches: counts.batches.load(Relaxed),
        commands: counts.commands.load(Relaxed),
        replays: counts.replays.load(Relaxed),
        retries: counts.retries.load(Relaxed),
        reversed_at_start: counts.reversed_at_start.load(Relaxed),
        reversed_for_others: counts.reversed_for_others.load(Relaxed),
        new_payers_paused: operations.top_ups.shield().is_paused(),
        untrusted_forwards: operations.callers.unheard(),
        barred_attempts: operations.top_ups.shield().barred(),
        events_fetched,
        event_polls_failed,
        parked_events: parked.count,
        oldest_parked_seconds: age(parked.oldest),
        unknown_objects: parked.unknown_objects,
        stripe_account: match operations.top_ups.account().standing() {
            Standing::Unused | Standing::Proven => 1,
            Standing::Unproven => 0,
            Standing::Other => -1,
        },
        broken_answers_given_back,
        broken_answer_alarms,
        upstream_reachable: operations.upstream.as_ref().map_or(-1, |upstream| match upstream.state() {
            ReachState::Unknown => -1,
            ReachState::Reachable => 1,
            ReachState::Unreachable(_) => 0,
        }),
        book_differences: operations.books.differences(),
        database_writable: i64::from(operations.db.condition().is_fine()),
    };
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(operations.metrics.render(readings))
}

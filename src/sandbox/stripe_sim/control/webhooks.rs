//! `/_sim/`: where events are delivered, and when.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::books::{Books, Record};
use super::super::error::ApiError;
use super::super::server::{Sim, State};
use super::super::webhooks;
use super::money::read;
use super::{change, ok, refusal, refused};

/// How long running deliveries are waited for: longer than the longest.
const PATIENCE: Duration = Duration::from_secs(15);
/// Events in one instruction.
const MAX_EVENTS: usize = 1_000;

/// The URLs.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/webhook_endpoints", web::get().to(endpoints))
        .route("/webhook_endpoints", web::post().to(add))
        .route("/webhook_endpoints", web::delete().to(remove_all))
        .route("/webhook_endpoints/{id}", web::delete().to(remove))
        .route("/webhooks", web::get().to(overview))
        .route("/webhooks/hold", web::post().to(hold))
        .route("/webhooks/release", web::post().to(release))
        .route("/webhooks/deliver", web::post().to(deliver));
}

/// Without secrets.
fn listed(books: &Books) -> Vec<Value> {
    let row = |row: &webhooks::WebhookEndpoint| json!({ "id": row.id, "url": row.url, "types": row.types, "pending": row.pending });
    books.endpoints.iter().map(row).collect()
}

async fn endpoints(sim: web::Data<Sim>) -> HttpResponse {
    ok(&json!({ "webhook_endpoints": listed(&sim.state().books) }))
}

async fn overview(sim: web::Data<Sim>) -> HttpResponse {
    let state = sim.state();
    ok(&json!({
        "held": state.deliveries.held,
        "running": state.deliveries.running,
        "webhook_endpoints": listed(&state.books),
        "deliveries": state.deliveries.attempts(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    url: String,
    secrets: Vec<String>,
    #[serde(default)]
    types: Vec<String>,
}

async fn add(sim: web::Data<Sim>, body: web::Bytes) -> HttpResponse {
    let Add { url, secrets, types } = match read(&body) {
        Ok(add) => add,
        Err(error) => return refused(error),
    };
    let sim = sim.into_inner();
    let (id, line) = match webhooks::register(&sim, &url, secrets, types, false) {
        Ok(registered) => registered,
        Err(error) => return refused(error),
    };
    match sim.commit(line).await {
        Ok(()) => ok(&json!({ "id": id, "url": url })),
        Err(error) => refusal(&error),
    }
}

async fn remove_all(sim: web::Data<Sim>) -> HttpResponse {
    change(&sim, |books| {
        let ids: Vec<String> = books.endpoints.iter().map(|known| known.id.clone()).collect();
        for id in &ids {
            books.put(Record::NoWebhookEndpoint { id: id.clone() });
        }
        Ok(json!({ "deleted": ids }))
    })
    .await
}

async fn remove(sim: web::Data<Sim>, id: web::Path<String>) -> HttpResponse {
    change(&sim, |books| {
        if !books.endpoints.iter().any(|known| known.id == *id) {
            return Err(ApiError::missing("webhook endpoint", &id));
        }
        books.put(Record::NoWebhookEndpoint { id: id.clone() });
        Ok(json!({ "deleted": [*id] }))
    })
    .await
}

async fn hold(sim: web::Data<Sim>) -> HttpResponse {
    let mut changed = sim.changed();
    let idle = async {
        loop {
            changed.mark_unchanged();
            if let Some(body) = hold_now(&sim) {
                return body;
            }
            // The sender lives as long as the simulator.
            let _ = changed.changed().await;
        }
    };
    match tokio::time::timeout(PATIENCE, idle).await {
        Ok(body) => ok(&body),
        Err(_) => refused("a delivery does not end; events are held from now on"),
    }
}

/// Holds events, and says so once no delivery is running.
fn hold_now(sim: &Sim) -> Option<Value> {
    let mut state = sim.state();
    state.deliveries.held = true;
    (state.deliveries.running == 0).then(|| state_of(&state))
}

fn state_of(state: &State) -> Value {
    let pending: usize = state.books.endpoints.iter().map(|known| known.pending.len()).sum();
    json!({ "held": state.deliveries.held, "pending": pending })
}

async fn release(sim: web::Data<Sim>) -> HttpResponse {
    let body = {
        let mut state = sim.state();
        state.deliveries.held = false;
        state_of(&state)
    };
    sim.wake();
    ok(&body)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deliver {
    /// All that are pending, when it is absent.
    events: Option<Vec<String>>,
    #[serde(default)]
    twin: bool,
}

async fn deliver(sim: web::Data<Sim>, body: web::Bytes) -> HttpResponse {
    let Deliver { events, twin } = match read(&body) {
        Ok(deliver) => deliver,
        Err(error) => return refused(error),
    };
    let (parcels, line) = {
        let mut state = sim.state();
        let packed = pack(&mut state.books, events, twin);
        (packed, sim.enqueue(&mut state))
    };
    let parcels = match parcels {
        Ok(parcels) => parcels,
        Err(message) => return refused(message),
    };
    if let Err(error) = sim.commit(line).await {
        return refusal(&error);
    }
    let (mut statuses, mut deliveries) = (Vec::new(), Vec::new());
    for (twin_of, parcel) in parcels {
        let attempt = webhooks::deliver(&sim, parcel, false).await;
        statuses.push(json!(attempt.status));
        let mut row = json!(attempt);
        row["twin_of"] = json!(twin_of);
        deliveries.push(row);
    }
    ok(&json!({ "statuses": statuses, "deliveries": deliveries }))
}

type Packed = Vec<(Option<String>, webhooks::Parcel)>;

/// The events in the order asked for, each for every endpoint that listens for it. All exist, or nothing is delivered.
fn pack(books: &mut Books, events: Option<Vec<String>>, twin: bool) -> Result<Packed, String> {
    let ids = events.unwrap_or_else(|| {
        let waits = |id: &str| books.endpoints.iter().any(|known| known.awaits(id));
        books.events.oldest_first().map(|event| event.id.clone()).filter(|id| waits(id)).collect()
    });
    if ids.len() > MAX_EVENTS {
        return Err(format!("at most {MAX_EVENTS} events are delivered at once"));
    }
    if books.endpoints.is_empty() {
        return Err("there is no webhook endpoint".to_owned());
    }
    if let Some(id) = ids.iter().find(|id| books.events.get(id).is_none()) {
        return Err(format!("no such event: {}", id.chars().take(64).collect::<String>()));
    }
    let mut packed = Vec::new();
    for id in ids {
        let event = if twin { books.twin(&id) } else { books.events.get(&id).cloned() };
        let Some(event) = event else { continue };
        let twin_of = twin.then_some(id);
        packed.extend(webhooks::parcels(books, &event).into_iter().map(|parcel| (twin_of.clone(), parcel)));
    }
    Ok(packed)
}

//! Webhooks: events on their way to whoever listens. <https://docs.stripe.com/webhooks>
//!
//! Every endpoint has a task of its own that delivers one event after the other, and tries again later what was not
//! answered with 2xx. What an endpoint still waits for is in the books, so a restart loses nothing and repeats little.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::books::{Books, NoRandomness, Record};
use super::events::{Event, named};
use super::server::{Sim, State};

/// Endpoints that fit, as many as at Stripe.
const MAX_ENDPOINTS: usize = 16;
/// Secrets of one endpoint: one, or two while it is being rolled, and a few to spare.
const MAX_SECRETS: usize = 5;
/// How long an endpoint may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after the first failure; it doubles from then on.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Stripe gives up after three days.
const GIVES_UP_SECONDS: i64 = 3 * 24 * 60 * 60;
/// Attempts that are remembered.
const REMEMBERED: usize = 1_000;

/// Where events go.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct WebhookEndpoint {
    pub(super) id: String,
    pub(super) url: String,
    /// `whsec_…`; each of them signs.
    secrets: Vec<String>,
    /// Types of events; none: all.
    pub(super) types: Vec<String>,
    /// Whether whoever started the simulator named it. There is one of those at most.
    of_start: bool,
    /// Ids of events that it has not taken yet, oldest first.
    pub(super) pending: VecDeque<String>,
}

impl std::fmt::Debug for WebhookEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookEndpoint")
            .field("id", &self.id)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl WebhookEndpoint {
    /// Takes note of a new event.
    pub(super) fn offer(&mut self, event: &Event) {
        if !event.twin && self.wants(&event.kind) {
            self.pending.push_back(event.id.clone());
        }
    }

    /// The event is delivered, or gone.
    pub(super) fn forget(&mut self, event: &str) {
        if let Some(at) = self.pending.iter().position(|id| id == event) {
            self.pending.remove(at);
        }
    }

    /// Whether it has not taken that event yet.
    pub(super) fn awaits(&self, event: &str) -> bool {
        self.pending.iter().any(|id| id == event)
    }

    fn wants(&self, kind: &str) -> bool {
        self.types.is_empty() || named(&self.types, kind)
    }
}

/// Why an endpoint is refused.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Not a URL on this machine.
    #[error("a webhook's URL is http://, on a loopback address: {0} is not")]
    Url(String),
    /// No secret, or one that is none.
    #[error(
        "a webhook needs from one to five secrets that start with whsec_ and have at least 24 characters behind it"
    )]
    Secret,
    /// Too many endpoints.
    #[error("there are {MAX_ENDPOINTS} webhook endpoints already")]
    TooMany,
    /// The system gives no randomness.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// `http://`, on this machine only: the simulator must not be made to send requests into a network.
fn check_url(url: &str) -> Result<(), WebhookError> {
    let wrong = || WebhookError::Url(url.chars().take(200).collect());
    let parsed: hyper::Uri = url.parse().map_err(|_| wrong())?;
    let host = parsed.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let local = host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
    if parsed.scheme_str() != Some("http") || !local || url.len() > 2_000 {
        return Err(wrong());
    }
    Ok(())
}

fn check_secrets(secrets: &[String]) -> Result<(), WebhookError> {
    let good = |secret: &String| {
        secret.starts_with("whsec_")
            && (30..=255).contains(&secret.len())
            && secret.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if secrets.is_empty() || secrets.len() > MAX_SECRETS || !secrets.iter().all(good) {
        return Err(WebhookError::Secret);
    }
    Ok(())
}

/// Adds an endpoint, which gets the events that happen from now on. The one of the start takes the place of the one
/// before, and gets what that one was still waiting for.
fn add(
    books: &mut Books,
    url: &str,
    secrets: Vec<String>,
    types: Vec<String>,
    of_start: bool,
) -> Result<String, WebhookError> {
    check_url(url)?;
    check_secrets(&secrets)?;
    let before = books.endpoints.iter().find(|known| of_start && known.of_start);
    if before.is_none() && books.endpoints.len() >= MAX_ENDPOINTS {
        return Err(WebhookError::TooMany);
    }
    let (id, pending) = match before {
        Some(known) => (known.id.clone(), known.pending.clone()),
        None => (books.new_id("we_1", 23)?, VecDeque::new()),
    };
    let url = url.to_owned();
    let row = WebhookEndpoint { id: id.clone(), url, secrets, types, of_start, pending };
    books.put(Record::WebhookEndpoint(row));
    Ok(id)
}

/// Adds an endpoint, see [`add`], and starts to deliver to it. Returns its id and the line of the journal to wait for.
pub(super) fn register(
    sim: &Arc<Sim>,
    url: &str,
    secrets: Vec<String>,
    types: Vec<String>,
    of_start: bool,
) -> Result<(String, u64), WebhookError> {
    let mut state = sim.state();
    let before: Vec<String> = state.books.endpoints.iter().map(|known| known.id.clone()).collect();
    let id = add(&mut state.books, url, secrets, types, of_start)?;
    let line = sim.enqueue(&mut state);
    drop(state);
    if !before.contains(&id) {
        serve(sim, id.clone());
    }
    Ok((id, line))
}

/// `Stripe-Signature` of a body: one `v1` for each secret.
fn signature(secrets: &[String], at: i64, body: &str) -> String {
    let mut header = format!("t={at}");
    for secret in secrets {
        // HMAC takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { continue };
        mac.update(at.to_string().as_bytes());
        mac.update(b".");
        mac.update(body.as_bytes());
        let digest: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        header.push_str(",v1=");
        header.push_str(&digest);
    }
    header
}

/// What deliveries are doing. Not kept across a restart.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// Whether events are kept back.
    pub(super) held: bool,
    /// Deliveries in the background that have not been answered.
    pub(super) running: usize,
    retries: HashMap<(String, String), Retry>,
    attempts: VecDeque<Attempt>,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    failures: u32,
    at: Instant,
}

/// One delivery.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Attempt {
    pub(super) event: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) endpoint: String,
    /// `None`: there was no answer.
    pub(super) status: Option<u16>,
    /// Why there was none.
    pub(super) error: Option<String>,
}

impl Attempt {
    fn accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

impl Deliveries {
    /// The last deliveries, oldest first.
    pub(super) fn attempts(&self) -> &VecDeque<Attempt> {
        &self.attempts
    }
}

/// An event for one endpoint, ready to be sent.
pub(super) struct Parcel {
    endpoint: String,
    url: String,
    secrets: Vec<String>,
    event: String,
    kind: String,
    body: String,
}

impl Parcel {
    /// Packs an event.
    pub(super) fn of(books: &Books, endpoint: &WebhookEndpoint, event: &Event) -> Self {
        let others =
            books.endpoints.iter().filter(|known| known.id != endpoint.id && known.awaits(&event.id));
        Self {
            endpoint: endpoint.id.clone(),
            url: endpoint.url.clone(),
            secrets: endpoint.secrets.clone(),
            event: event.id.clone(),
            kind: event.kind.clone(),
            body: event.render(others.count().saturating_add(1)).to_string(),
        }
    }
}

/// Packs an event for every endpoint that listens for it.
pub(super) fn parcels(books: &Books, event: &Event) -> Vec<Parcel> {
    let listening = books.endpoints.iter().filter(|endpoint| endpoint.wants(&event.kind));
    listening.map(|endpoint| Parcel::of(books, endpoint, event)).collect()
}

/// Sends requests. The simulator's own client, because it shares no code with the gateway. Without a pool: an endpoint that is
/// restarted between two events must not see a stale connection.
pub(super) fn client() -> Client<HttpConnector, Full<bytes::Bytes>> {
    Client::builder(hyper_util::rt::TokioExecutor::new()).pool_max_idle_per_host(0).build_http()
}

async fn post(client: &Client<HttpConnector, Full<bytes::Bytes>>, parcel: &Parcel) -> Result<u16, String> {
    // The system's clock, not the simulator's: whoever checks the signature has no other.
    let header = signature(&parcel.secrets, chrono::Utc::now().timestamp(), &parcel.body);
    let request = hyper::Request::builder()
        .method("POST")
        .uri(&parcel.url)
        .header("content-type", "application/json; charset=utf-8")
        .header("user-agent", "Stripe/1.0 (simulated by prepaid402)")
        .header("stripe-signature", header)
        .body(Full::new(bytes::Bytes::from(parcel.body.clone())))
        .map_err(|error| error.to_string())?;
    match tokio::time::timeout(TIMEOUT, client.request(request)).await {
        Ok(Ok(response)) => Ok(response.status().as_u16()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} seconds", TIMEOUT.as_secs())),
    }
}

/// Delivers, and notes how it went.
pub(super) async fn deliver(sim: &Sim, parcel: Parcel, background: bool) -> Attempt {
    let answer = post(&sim.client, &parcel).await;
    let attempt = Attempt {
        event: parcel.event,
        kind: parcel.kind,
        endpoint: parcel.endpoint,
        status: answer.as_ref().ok().copied(),
        error: answer.err(),
    };
    let mut state = sim.state();
    note(&mut state, &attempt);
    if background {
        state.deliveries.running = state.deliveries.running.saturating_sub(1);
    }
    sim.enqueue(&mut state);
    drop(state);
    sim.wake();
    attempt
}

fn note(state: &mut State, attempt: &Attempt) {
    let key = (attempt.endpoint.clone(), attempt.event.clone());
    let waits = state.books.endpoints.iter().any(|known| known.id == key.0 && known.awaits(&key.1));
    if waits && attempt.accepted() {
        state.deliveries.retries.remove(&key);
        state.books.put(Record::Delivered { endpoint: key.0, event: key.1 });
    } else if waits {
        let failures = state.deliveries.retries.get(&key).map_or(0, |retry| retry.failures);
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(LONGEST_PAUSE);
        let retry = Retry { failures: failures.saturating_add(1), at: Instant::now() + pause };
        state.deliveries.retries.insert(key, retry);
    }
    let attempts = &mut state.deliveries.attempts;
    if attempts.len() >= REMEMBERED {
        attempts.pop_front();
    }
    attempts.push_back(attempt.clone());
}

enum Next {
    /// The endpoint is gone.
    End,
    /// Deliver this, once that line of the journal is on disk.
    Deliver(Parcel, u64),
    /// Nothing to do before this.
    Wait(Option<Instant>),
}

/// What an endpoint's task does next.
fn next(sim: &Sim, id: &str) -> Next {
    let mut state = sim.state();
    let State { books, deliveries, .. } = &mut *state;
    let Some(endpoint) = books.endpoints.iter().find(|known| known.id == id) else {
        deliveries.retries.retain(|key, _| key.0 != id);
        return Next::End;
    };
    if deliveries.held {
        return Next::Wait(None);
    }
    if endpoint.pending.is_empty() {
        deliveries.retries.retain(|key, _| key.0 != id);
    }
    let (now, clock) = (Instant::now(), books.now());
    let (mut stale, mut parcel, mut soonest) = (Vec::new(), None, None::<Instant>);
    for event in &endpoint.pending {
        let known = books.events.get(event);
        let Some(known) = known.filter(|known| clock.saturating_sub(known.created) < GIVES_UP_SECONDS) else {
            stale.push(event.clone());
            continue;
        };
        let retry = deliveries.retries.get(&(id.to_owned(), event.clone()));
        match retry.map(|retry| retry.at).filter(|at| *at > now) {
            Some(at) => soonest = Some(soonest.map_or(at, |soonest| soonest.min(at))),
            None => {
                parcel = Some(Parcel::of(books, endpoint, known));
                break;
            }
        }
    }
    for event in stale {
        deliveries.retries.remove(&(id.to_owned(), event.clone()));
        books.put(Record::Delivered { endpoint: id.to_owned(), event });
    }
    if parcel.is_some() {
        deliveries.running = deliveries.running.saturating_add(1);
    }
    let line = sim.enqueue(&mut state);
    match parcel {
        Some(parcel) => Next::Deliver(parcel, line),
        None => Next::Wait(soonest),
    }
}

/// Starts the task that delivers to an endpoint. It ends with the endpoint, or with the simulator.
pub(super) fn serve(sim: &Arc<Sim>, id: String) {
    let this = Arc::clone(sim);
    sim.runtime.spawn(async move {
        let mut changed = this.changed();
        loop {
            changed.mark_unchanged();
            let pause = match next(&this, &id) {
                Next::End => return,
                Next::Deliver(parcel, line) => {
                    let work = async {
                        // An event that is not on disk has not happened yet.
                        if this.commit(line).await.is_ok() {
                            deliver(&this, parcel, true).await;
                        } else {
                            std::future::pending::<()>().await;
                        }
                    };
                    tokio::select! {
                        () = this.stopping.cancelled() => return,
                        () = work => continue,
                    }
                }
                Next::Wait(pause) => pause,
            };
            let until = async {
                match pause {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = this.stopping.cancelled() => return,
                () = until => {}
                gone = changed.changed() => if gone.is_err() { return },
            }
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_webhook_stays_on_this_machine() {
        for (url, good) in [
            ("http://127.0.0.1:4402/webhooks/stripe", true),
            ("http://127.9.9.9/", true),
            ("http://localhost:1/x", true),
            ("http://[::1]:8080/x", true),
            ("https://127.0.0.1/", false),
            ("http://192.0.2.1/", false),
            ("http://127.0.0.1.example.com/", false),
            ("http://example.com@127.0.0.1/", true),
            ("http://127.0.0.1@example.com/", false),
            ("http://0.0.0.0/", false),
            ("/webhooks", false),
            ("", false),
        ] {
            assert_eq!(check_url(url).is_ok(), good, "{url}");
        }
    }

    #[test]
    fn secrets_must_be_secrets() {
        let check = |secrets: &[&str]| {
            check_secrets(&secrets.iter().map(|secret| (*secret).to_owned()).collect::<Vec<_>>()).is_ok()
        };
        assert!(
            check(&["whsec_0123456789abcdefghijklmn"])
                && check(&["whsec_0123456789abcdefghijklmn", "whsec_9876543210abcdefghijklmn"])
        );
        for wrong in
            [&[][..], &[""], &["whsec_"], &["sk_test_0123456789"], &["whsec_0123456789abcdefghijklmn", ""]]
        {
            assert!(!check(wrong), "{wrong:?}");
        }
        assert!(!check(&["whsec_0123456789abcdefghijklmn"; 6]));
    }

    #[test]
    fn signatures_are_those_of_the_documentation() {
        // printf '%s' '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_0123456789
        let header = signature(&["whsec_0123456789".to_owned()], 1_700_000_000, r#"{"id":"evt_1"}"#);
        assert_eq!(
            header,
            "t=1700000000,v1=2fec00e092924397533a441c5f5e840ea4c446fb846177802a25de63bbbdd1fe"
        );
    }
}

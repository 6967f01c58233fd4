//! `POST /webhooks/stripe`: Stripe tells what has happened. Verified, stored, acknowledged; applied afterwards.
//!
//! The signature is checked here rather than by async-stripe's crate: that one parses the event into its types, which refuse
//! real events (disputes of an older or newer API version), and takes an empty secret.

mod signature;

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use self::signature::{Refused, SignatureHeader, verify};
use super::callers::Callers;
use super::metrics::{Metrics, WebhookOutcome};
use super::problem::{self, Problem};
use crate::config::WebhooksConfig;
use crate::crowd::{Crowd, Holder};
use crate::db::now_micros;
use crate::domain::RequestId;
use crate::payments::{Event, Inbox};
use crate::proxy::pace::Patience;
use crate::proxy::upload::{UploadFault, read_whole};
use crate::sparing_log::sparingly;

/// The header that signs a request.
const SIGNATURE: &str = "stripe-signature";
/// Largest event. Stripe's are far smaller.
const MAX_BODY: u64 = 256 * 1024;
/// It must arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Storing may take so long before Stripe is told to come again.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the endpoint needs. Shared by all workers.
#[derive(Debug)]
pub struct Webhooks {
    pub(crate) config: WebhooksConfig,
    /// Whether this gateway moves real money: events of the other mode are not its own.
    pub(crate) is_live: bool,
    pub(crate) inbox: Inbox,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) callers: Callers,
}

/// The paths. What is not there, or not switched on, is nothing like the rest of the gateway's own.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/stripe").post(receive).default_service(web::to(other)))
        .default_service(web::to(other));
}

async fn other() -> HttpResponse {
    refuse(Problem::NotFound, RequestId::new())
}

fn refuse(problem: Problem, id: RequestId) -> HttpResponse {
    done(problem::plain(problem, id), id)
}

fn done(mut response: HttpResponse, id: RequestId) -> HttpResponse {
    super::finish(&mut response, id);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn receive(request: HttpRequest, payload: web::Payload, webhooks: web::Data<Webhooks>) -> HttpResponse {
    if webhooks.config.secrets.is_empty() {
        return other().await;
    }
    let id = RequestId::new();
    let (outcome, response) = webhooks.receive(&request, payload, id).await;
    webhooks.metrics.webhook(outcome);
    response
}

impl Webhooks {
    async fn receive(
        &self,
        request: &HttpRequest,
        payload: web::Payload,
        id: RequestId,
    ) -> (WebhookOutcome, HttpResponse) {
        // Whoever does not even have a signature need not be listened to.
        let Some(header) = signature_header(request) else {
            return (WebhookOutcome::BadSignature, refuse(Problem::WebhookSignature, id));
        };
        // Anybody can write one, so what is in memory is counted by network: Stripe's own has room whatever others send. What
        // has not come takes none.
        let caller = self.callers.address(request);
        let mut room = self.crowd.webhooks_bytes.none(Holder::network(caller));
        let body = match read_whole(payload, MAX_BODY, Patience::within(BODY_TIMEOUT), &mut room).await {
            Ok(body) => body,
            Err(UploadFault::NoRoom) => return (WebhookOutcome::Busy, refuse(Problem::Busy, id)),
            Err(fault) => return (WebhookOutcome::BadBody, refuse(fault.into(), id)),
        };
        let now = now_micros().div_euclid(1_000_000);
        match verify(&header, &body, &self.config.secrets, self.config.tolerance, now) {
            Ok(()) => {}
            Err(Refused::Signature) => {
                return (WebhookOutcome::BadSignature, refuse(Problem::WebhookSignature, id));
            }
            Err(Refused::Timestamp(seconds)) => {
                // The sender knows a secret, so this is no attack from outside: a repeated request, or a clock.
                tracing::warn!(
                    request.id = %id, seconds,
                    "a webhook is signed so many seconds away from this machine's clock; Stripe sends it again"
                );
                return (WebhookOutcome::BadTimestamp, refuse(Problem::WebhookTimestamp, id));
            }
        }
        let event = serde_json::from_slice(&body).ok().and_then(|json| Event::read(json, header.timestamp));
        let Some(event) = event else {
            tracing::error!(request.id = %id, bytes = body.len(), "a webhook is signed, and cannot be read");
            return (WebhookOutcome::Malformed, refuse(Problem::WebhookMalformed, id));
        };
        // A copy of what was refused or ignored is never kept.
        drop(body);
        self.keep(event, id).await
    }

    async fn keep(&self, event: Event, id: RequestId) -> (WebhookOutcome, HttpResponse) {
        let (name, kind, is_handled) = (event.id.clone(), event.kind.clone(), event.is_handled());
        if event.livemode.is_some_and(|live| live != self.is_live) {
            tracing::warn!(event.id = name, event.type = kind, "a webhook of Stripe's other mode (test or live) is ignored");
            return (WebhookOutcome::OtherMode, received(id));
        }
        if event.account.is_some() {
            tracing::warn!(event.id = name, event.type = kind, "a webhook about a connected account is ignored");
            return (WebhookOutcome::OtherAccount, received(id));
        }
        let stored = tokio::time::timeout(STORE_TIMEOUT, self.inbox.store(vec![event])).await;
        match stored {
            Ok(Ok(stored)) => {
                let is_new = stored.first().copied().unwrap_or_default();
                tracing::debug!(event.id = name, event.type = kind, is_new, "a webhook is stored");
                let outcome = match (is_new, is_handled) {
                    (false, _) => WebhookOutcome::Duplicate,
                    (true, true) => WebhookOutcome::Received,
                    (true, false) => WebhookOutcome::Ignored,
                };
                (outcome, received(id))
            }
            // Perhaps it is stored. Coming again does no harm.
            Ok(Err(error)) => {
                sparingly!(error, %error, request.id = %id, event.id = name, "a webhook could not be stored; Stripe sends it again");
                (WebhookOutcome::Unavailable, refuse(Problem::Unavailable, id))
            }
            Err(_) => {
                sparingly!(error, request.id = %id, event.id = name, "a webhook was not stored in time; Stripe sends it again");
                (WebhookOutcome::Unavailable, refuse(Problem::Unavailable, id))
            }
        }
    }
}

/// The one signature header of a request, if it has the form of one.
fn signature_header(request: &HttpRequest) -> Option<SignatureHeader> {
    let mut headers = request.headers().get_all(SIGNATURE);
    let header = headers.next()?;
    if headers.next().is_some() {
        return None;
    }
    SignatureHeader::parse(header.as_bytes())
}

fn received(id: RequestId) -> HttpResponse {
    done(HttpResponse::Ok().content_type("application/json").body("{\"received\":true}"), id)
}

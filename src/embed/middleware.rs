//! The actix face of the paywall: the same steps as the gateway's, with a handler where the upstream would be.
//!
//! Money work runs in tasks that a caller who hangs up cannot cancel, and so does the handler, on the worker that took the
//! request: what was done is charged.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use actix_web::body::{self, BoxBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::error::ErrorInternalServerError;
use actix_web::http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use actix_web::http::{Method, StatusCode};
use actix_web::{Error, HttpMessage as _, HttpResponse, ResponseError, web};
use tokio::sync::OwnedSemaphorePermit;

use super::body::{ReadBody, WatchedBody};
use super::paid::Paid;
use super::upload;
use super::{Inner, Numbers, Sold};
use crate::domain::{Micros, RequestId};
use crate::http::delivery::{Delivery, Upload};
use crate::http::framing;
use crate::http::gateway::{read_credential, replay};
use crate::http::kept_answer;
use crate::http::metrics::Outcome;
use crate::http::payment_answer::{self, NOT_CHARGED, PAYMENT_RESPONSE_NAME, header_value};
use crate::http::problem::{self, Problem};
use crate::http::repeat_headers;
use crate::http::repeat_key::{self, Unfit};
use crate::http::request_log;
use crate::http::{X_REQUEST_ID, caller_address, finish, preflight};
use crate::ledger::mailbox;
use crate::paywall::offer::{Challenge, Sale};
use crate::paywall::{
    Admitted, Answered, Captured, Opened, Purchase, Refusal, Refused, Repayer, RepeatKey, Usage, Wallet,
};
use crate::protocol::stripe402::{PaymentResponse, encode};
use crate::proxy::headers::{CACHING, matches_anything};

/// Headers of an answer that belong to one connection or one caller, and are not stored with it.
const NOT_STORED: [&str; 8] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "set-cookie",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// Sells what it wraps. Made by [`Embedded::price`](super::Embedded::price), for `wrap`.
#[derive(Debug, Clone)]
pub struct Price {
    inner: Arc<Inner>,
    price: Micros,
    description: Option<Arc<str>>,
    mime_type: Option<Arc<str>>,
    charges_redirects: bool,
    /// The answer to whoever presents nothing; made at the first such request.
    challenge: Arc<OnceLock<Challenge>>,
}

impl Price {
    pub(super) fn new(inner: Arc<Inner>, price: Micros) -> Self {
        let challenge = Arc::default();
        Self { inner, price, description: None, mime_type: None, charges_redirects: false, challenge }
    }

    /// What is sold, for people and agents, in the offer.
    #[must_use]
    pub fn description(mut self, description: &str) -> Self {
        self.description = Some(description.into());
        self.challenge = Arc::default();
        self
    }

    /// Media type of the answer, in the offer.
    #[must_use]
    pub fn mime_type(mut self, mime_type: &str) -> Self {
        self.mime_type = Some(mime_type.into());
        self.challenge = Arc::default();
        self
    }

    /// Charges answers with status 3xx, too: where a redirect, or "not modified", is what is sold.
    #[must_use]
    pub fn charge_redirects(mut self) -> Self {
        self.charges_redirects = true;
        self
    }

    fn charges(&self, status: StatusCode) -> bool {
        self.inner.charged_statuses.contains(status.as_u16())
            || (self.charges_redirects && status.is_redirection())
    }

    fn sale<'a>(&'a self, path: &'a str) -> Sale<'a> {
        Sale {
            path,
            description: self.description.as_deref(),
            mime_type: self.mime_type.as_deref(),
            price: self.price,
        }
    }
}

impl<S, B> Transform<S, ServiceRequest> for Price
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = PricedService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(PricedService { price: Rc::new(self.clone()), service: Rc::new(service) }))
    }
}

/// What [`Price`] makes of a service.
#[derive(Debug)]
pub struct PricedService<S> {
    price: Rc<Price>,
    service: Rc<S>,
}

impl<S, B> Service<ServiceRequest> for PricedService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>>>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let (price, service) = (Rc::clone(&self.price), Rc::clone(&self.service));
        Box::pin(async move {
            let (id, begun) = (RequestId::new(), Instant::now());
            let (answered, outcome) = Rc::clone(&price).sell(service, request, id).await;
            let mut answered = answered?;
            let version = answered.request().version();
            framing::fit_version(answered.response_mut(), version);
            let metrics = &price.inner.parts.metrics;
            metrics.answered(outcome, answered.response().status().as_u16(), begun.elapsed());
            finish(answered.response_mut(), id);
            if request_log::is_on() {
                let response = answered.response();
                let id = response.headers().get(X_REQUEST_ID);
                request_log::tell(answered.request(), response.status().as_u16(), id, begun);
            }
            Ok(answered)
        })
    }
}

type Answer = (Result<ServiceResponse<BoxBody>, Error>, Outcome);

impl Price {
    async fn sell<S, B>(self: Rc<Self>, service: Rc<S>, mut request: ServiceRequest, id: RequestId) -> Answer
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        if *request.method() == Method::OPTIONS {
            let answer = preflight(request.request());
            return (Ok(request.into_response(answer)), Outcome::Preflight);
        }
        let (opened, numbers) = match self.open(&mut request, id).await {
            Ok(opened) => opened,
            Err((answer, outcome)) => return (Ok(request.into_response(answer)), outcome),
        };
        if let Opened::Replayed(replayed) = &opened {
            let answer = replay(replayed, *request.method() == Method::HEAD);
            return (Ok(request.into_response(answer)), Outcome::Repeated);
        }
        let paid = self.paid(opened.wallet(), id, matches!(opened, Opened::Again(_)));
        request.extensions_mut().insert(paid);
        let upload = upload::watch(&mut request);
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        if is_safe && !self.charges(StatusCode::NOT_MODIFIED) {
            let tags = request.headers().get_all(IF_NONE_MATCH).map(HeaderValue::as_bytes);
            if matches_anything(tags) {
                request.headers_mut().remove(IF_NONE_MATCH);
            }
        }
        // Once for each of the server's workers, and on the runtime that serves.
        if let Some(handing_on) = mailbox::open_here() {
            actix_web::rt::spawn(handing_on);
        }
        // In a task of its own: a caller who hangs up once the work has begun does not get it for nothing.
        let work = actix_web::rt::spawn(async move {
            let answered = service.call(request).await.map(without_needless_body);
            match opened {
                Opened::Admitted(admitted) => self.settle(*admitted, answered, upload, id, numbers).await,
                Opened::Again(payer) => (self.again(answered, &payer), Outcome::Repeated),
                // Answered above.
                Opened::Replayed(_) => (answered, Outcome::Repeated),
            }
        });
        work.await.unwrap_or_else(|error| {
            // The handler has panicked; what was set aside for it is let go.
            tracing::error!(%error, request.id = %id, "a handler that is sold ended unexpectedly; nothing is charged");
            (Err(ErrorInternalServerError("the handler ended unexpectedly")), Outcome::UpstreamFailed)
        })
    }

    fn paid(&self, wallet: &Wallet, request: RequestId, is_repeat: bool) -> Paid {
        let currency = self.inner.parts.offers.currency();
        let client = Arc::clone(&wallet.record.client_public_id);
        Paid { client, price: self.price, currency, request, is_repeat }
    }

    fn refuse(&self, path: &str, refused: &Refused, id: RequestId) -> HttpResponse {
        payment_answer::refused(&self.inner.parts.offers, self.sale(path), refused, id)
    }

    /// Everything up to the handler. `Err`: the finished answer.
    async fn open(
        &self,
        request: &mut ServiceRequest,
        id: RequestId,
    ) -> Result<(Opened, Numbers), (HttpResponse, Outcome)> {
        let path = request.path().to_owned();
        let refuse = |refused: &Refused| self.refuse(&path, refused, id);
        let credential = match read_credential(request.request()) {
            Ok(Some(credential)) => credential,
            Ok(None) => {
                let offers = &self.inner.parts.offers;
                let challenge = self.challenge.get_or_init(|| offers.challenge(self.sale("")));
                return Err((payment_answer::challenge(challenge, &path, id), Outcome::Challenged));
            }
            Err(error) => return Err((refuse(&Refused::because(error.into())), Outcome::PaymentRefused)),
        };
        let parts = &self.inner.parts;
        if parts.closing.load(Ordering::Relaxed) {
            // The books are being closed: the handler must not work for a charge that cannot be made any more.
            return Err((refuse(&Refused::because(Refusal::Busy)), Outcome::Busy));
        }
        // Before the permit: whoever sends a body slowly must not keep others out.
        let repeat = self.repeat_key(request, &path).await.map_err(|unfit| match unfit {
            Unfit::Refusal(refusal) => (refuse(&Refused::because(refusal)), Outcome::PaymentRefused),
            Unfit::Problem(problem) => (problem::plain(problem, id), Outcome::Refused),
        })?;
        let Ok(permit) = Arc::clone(&parts.permits).try_acquire_owned() else {
            return Err((refuse(&Refused::because(Refusal::Busy)), Outcome::Busy));
        };
        let route = format!(
            "{} {}",
            request.method(),
            request.match_pattern().unwrap_or_else(|| "an unnamed handler".to_owned())
        );
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        let caller = caller_address(request.request(), &parts.trusted_proxies);
        let purchase = Purchase { request: id, price: self.price, credential, is_safe, repeat, caller };
        let sold = (route, self.price.get());
        if let Some(numbers) = self.inner.known_numbers(&sold)
            && let Some(admitted) = parts.paywall.open_at_once(&purchase)
        {
            return Ok((Opened::Admitted(Box::new(admitted)), numbers));
        }
        Box::pin(self.open_slowly(purchase, sold, permit))
            .await
            .map_err(|(refused, outcome)| (refuse(&refused), outcome))
    }

    /// In a task of its own: what a caller who hangs up must not cancel.
    async fn open_slowly(
        &self,
        purchase: Purchase,
        sold: Sold,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Opened, Numbers), (Refused, Outcome)> {
        let (inner, id) = (Arc::clone(&self.inner), purchase.request);
        let work = self.inner.parts.tasks.run(async move {
            let opened = inner.parts.paywall.open(&purchase).await?;
            // Only for those who pay: names come from outside, and each is written down for good.
            let numbers = match &opened {
                Opened::Admitted(_) => inner.numbers(sold).await.map_err(|error| {
                    tracing::error!(%error, "a route could not be given its number");
                    Refused::because(Refusal::Busy)
                })?,
                Opened::Again(_) | Opened::Replayed(_) => Numbers::default(),
            };
            // The handler runs in the server's own limits.
            drop(permit);
            Ok((opened, numbers))
        });
        match work.await {
            Ok(opened) => opened.map_err(|refused| (refused, Outcome::PaymentRefused)),
            Err(error) => {
                tracing::error!(%error, request.id = %id, "a paid request ended unexpectedly");
                Err((Refused::because(Refusal::Busy), Outcome::Busy))
            }
        }
    }

    /// The request's `Idempotency-Key`, for which its body is read whole, and put back for the handler.
    async fn repeat_key(&self, request: &mut ServiceRequest, path: &str) -> Result<Option<RepeatKey>, Unfit> {
        let Some(key) = repeat_key::presented(request.headers())?.cloned() else {
            return Ok(None);
        };
        let payload =
            request.extract::<web::Payload>().await.map_err(|_| Unfit::Problem(Problem::BodyBroken))?;
        let (limits, idempotency) = (&self.inner.limits, &self.inner.idempotency);
        let max_bytes = idempotency.max_body_bytes.min(limits.max_body_bytes);
        let places = &self.inner.parts.keyed_bodies;
        let (body, key) =
            repeat_key::read(&key, request.request(), path, payload, max_bytes, limits.body_timeout, places)
                .await?;
        request.set_payload(Payload::from(body));
        Ok(Some(key.with_headers(repeat_headers::digest_of_all(request.headers()))))
    }

    /// Charges what the handler answered, or lets the funds go.
    async fn settle(
        &self,
        admitted: Admitted,
        answered: Result<ServiceResponse<BoxBody>, Error>,
        upload: Upload,
        id: RequestId,
        (route, price_list): Numbers,
    ) -> Answer {
        let answered = match answered {
            Ok(answered) => answered,
            Err(error) => {
                let status = error.as_response_error().status_code();
                let note = Box::pin(self.let_go(admitted, status, route)).await;
                return (Err(WithNote { error, note }.into()), Outcome::NotCharged);
            }
        };
        let status = answered.status();
        if !self.charges(status) {
            let note = Box::pin(self.let_go(admitted, status, route)).await;
            return (Ok(with_note(answered, &note)), Outcome::NotCharged);
        }
        let (request, response) = answered.into_parts();
        let (response, body) = response.into_parts();
        let is_head = *request.method() == Method::HEAD;
        let body = if admitted.is_kept() {
            let max_bytes = self.inner.idempotency.max_answer_bytes;
            Box::pin(ReadBody::read(body, response.headers(), is_head, max_bytes)).await
        } else {
            Ok(ReadBody::unread(body))
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(%error, request.id = %id, "a handler's answer broke off before it was charged");
                let note = Box::pin(self.interrupted(admitted)).await;
                let answer = problem::plain(Problem::UpstreamFailed, id);
                let answered = ServiceResponse::new(request, answer);
                return (Ok(with_note(answered, &note)), Outcome::UpstreamFailed);
            }
        };
        let kept = admitted.is_kept().then(|| Answered {
            status: status.as_u16(),
            headers: stored_headers(response.headers())
                .chain(kept_answer::length_of_head(is_head, body.size))
                .collect(),
            body: body.is_whole.then(|| body.beginning.clone()),
        });
        let usage = Usage { request: id, route, price_list, upstream_status: status.as_u16() };
        match self.capture(admitted, usage, kept, upload).await {
            Ok((captured, delivery)) => {
                let receipt = payment_answer::receipt(&captured);
                let response = response.set_body(BoxBody::new(WatchedBody::new(body, is_head, delivery)));
                let answered = ServiceResponse::new(request, response);
                (Ok(with_note(answered, &receipt)), Outcome::Paid)
            }
            Err(refused) => {
                let answer = self.refuse(request.path(), &refused, id);
                (Ok(ServiceResponse::new(request, answer)), Outcome::PaymentRefused)
            }
        }
    }

    /// In a task of its own. When the caller has gone meanwhile, the delivery ends there: the request stays charged.
    async fn capture(
        &self,
        admitted: Admitted,
        usage: Usage,
        kept: Option<Answered>,
        upload: Upload,
    ) -> Result<(Captured, Delivery), Refused> {
        let inner = Arc::clone(&self.inner);
        let work = self.inner.parts.tasks.run(async move {
            let captured = inner.parts.paywall.capture(admitted, usage, kept).await?;
            let (reversals, closing) = (&inner.parts.reversals, &inner.parts.closing);
            let delivery = Delivery::new(reversals, closing, usage.request, &captured, upload);
            Ok((captured, delivery))
        });
        match work.await {
            Ok(captured) => captured,
            Err(error) => {
                tracing::error!(%error, request.id = %usage.request, "a capture ended unexpectedly; nothing is delivered");
                Err(Refused::because(Refusal::CaptureUnknown))
            }
        }
    }

    /// Charges nothing: that was done before.
    fn again(
        &self,
        answered: Result<ServiceResponse<BoxBody>, Error>,
        payer: &Repayer,
    ) -> Result<ServiceResponse<BoxBody>, Error> {
        let note =
            |status: StatusCode| payment_answer::fetched_again(payer, status.as_u16(), self.charges(status));
        match answered {
            Ok(answered) => {
                let note = note(answered.status());
                Ok(with_note(answered, &note))
            }
            Err(error) => {
                let note = note(error.as_response_error().status_code());
                Err(WithNote { error, note }.into())
            }
        }
    }

    async fn let_go(&self, admitted: Admitted, status: StatusCode, route: i64) -> PaymentResponse {
        if !self.charges_redirects {
            self.inner.tell_of_redirect(route, status.as_u16());
        }
        let uncharged = self.inner.parts.paywall.let_go(admitted, false).await;
        let message = format!("The answer {} is not charged.", status.as_u16());
        payment_answer::not_charged(&uncharged, NOT_CHARGED, &message)
    }

    /// The handler has worked, and its answer cannot be delivered.
    async fn interrupted(&self, admitted: Admitted) -> PaymentResponse {
        let uncharged = self.inner.parts.paywall.let_go(admitted, true).await;
        let message = "The answer broke off. Nothing is charged for it.";
        payment_answer::not_charged(&uncharged, NOT_CHARGED, message)
    }
}

/// A status that has no body goes out without the one that a handler has made: the server would send its bytes after the head,
/// where the caller looks for the next answer.
fn without_needless_body<B: MessageBody + 'static>(answered: ServiceResponse<B>) -> ServiceResponse<BoxBody> {
    if framing::is_bodiless(answered.status()) {
        return answered.map_body(|_, _| BoxBody::new(body::None::new()));
    }
    answered.map_into_boxed_body()
}

fn stored_headers(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    headers
        .iter()
        .filter(|(name, _)| !NOT_STORED.contains(&name.as_str()) && !CACHING.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .chain([
            ("cache-control".to_owned(), "private, no-store".to_owned()),
            ("vary".to_owned(), "payment".to_owned()),
        ])
}

/// Adds what became of the payment. It names the caller's wallet, so the answer belongs to one caller and to no cache.
fn note_in(headers: &mut HeaderMap, note: &PaymentResponse) {
    let caching: Vec<_> = headers.keys().filter(|name| CACHING.contains(&name.as_str())).cloned().collect();
    for name in caching {
        headers.remove(name);
    }
    headers.insert(PAYMENT_RESPONSE_NAME, header_value(encode(note)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.append(VARY, HeaderValue::from_static("payment"));
}

fn with_note(mut answered: ServiceResponse<BoxBody>, note: &PaymentResponse) -> ServiceResponse<BoxBody> {
    note_in(answered.headers_mut(), note);
    answered
}

/// A handler's error, with what became of the payment.
#[derive(Debug)]
struct WithNote {
    error: Error,
    note: PaymentResponse,
}

impl std::fmt::Display for WithNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for WithNote {
    fn status_code(&self) -> StatusCode {
        self.error.as_response_error().status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.error.error_response();
        note_in(response.headers_mut(), &self.note);
        response
    }
}

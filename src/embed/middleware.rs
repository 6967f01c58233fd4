//! The actix face of the paywall: the same steps as the gateway's, with a handler where the upstream would be.
//!
//! Money work runs in tasks that a caller who hangs up cannot cancel, and so does the handler, on the worker that took the
//! request: what was done is charged.

use std::collections::HashMap;
use std::future::{Future, Ready, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{self, BoxBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, IF_NONE_MATCH};
use actix_web::http::{Method, StatusCode, Version};
use actix_web::{Error, HttpMessage as _, HttpResponse, web};

use super::body::{HandedOut, ReadBody, WatchedBody};
use super::caught::{HandlersBody, Panicked, until_panic};
use super::departures::{self, OnItsWay};
use super::nesting::{Nesting, Priced};
use super::notes::{Failed, WithNote, stored_headers, with_note};
use super::paid::Paid;
use super::upload;
use super::{Inner, Sold};
use crate::crowd::Standing;
use crate::domain::{Micros, RequestId};
use crate::http::delivery::{Delivery, Upload};
use crate::http::framing;
use crate::http::gateway::replay;
use crate::http::kept_answer;
use crate::http::metrics::Outcome;
use crate::http::payment_answer::{self, NOT_CHARGED, Note, not_charged_problem};
use crate::http::problem::{self, Problem};
use crate::http::record_stream::{X_ACCEL_BUFFERING, is_stream_of_records, unbuffered};
use crate::http::repeat_headers;
use crate::http::repeat_key::{self, Unfit};
use crate::http::request_log;
use crate::http::spoken::{self, NotTaken};
use crate::http::who_asks::{self, Ask};
use crate::http::{finish, in_vain, preflight, target};
use crate::ledger::{ClientId, mailbox};
use crate::paywall::offer::Resource;
use crate::paywall::{
    Admitted, Answered, Captured, Opened, Purchase, Refusal, Refused, Repayer, RepeatKey, Wallet,
};
use crate::pricing::route_table::METHODS;
use crate::pricing::{Asked, PriceRule, Quote, StatusSet};
use crate::protocol::{Challenge, Dialect};
use crate::proxy::headers::matches_anything;
use crate::proxy::pace::Patience;

/// Sells what it wraps. Made by [`Embedded::price`](super::Embedded::price), for `wrap`.
#[derive(Debug, Clone)]
pub struct Price {
    inner: Arc<Inner>,
    rule: PriceRule,
    charged: Arc<StatusSet>,
    description: Option<Arc<str>>,
    mime_type: Option<Arc<str>>,
    body_timeout: Option<Duration>,
    /// The answers to whoever presents nothing, made at the first such request, by the names of handlers. There are as many as
    /// handlers have methods.
    challenges: Arc<Mutex<HashMap<String, Arc<Challenge>>>>,
    /// In words, for the log.
    text: Arc<str>,
    nesting: Arc<Nesting>,
}

impl Price {
    pub(super) fn new(inner: Arc<Inner>, price: Micros) -> Self {
        let text = inner.parts.offers.currency().text(price).into();
        Self {
            inner,
            rule: PriceRule::Fixed(price),
            charged: Arc::new(StatusSet::default_charged()),
            description: None,
            mime_type: None,
            body_timeout: None,
            challenges: Arc::default(),
            text,
            nesting: Arc::default(),
        }
    }

    /// What is sold, for people and agents, in the offer.
    #[must_use]
    pub fn description(mut self, description: &str) -> Self {
        self.description = Some(description.into());
        self.challenges = Arc::default();
        self
    }

    /// Media type of the answer, in the offer.
    #[must_use]
    pub fn mime_type(mut self, mime_type: &str) -> Self {
        self.mime_type = Some(mime_type.into());
        self.challenges = Arc::default();
        self
    }

    /// Charges answers with status 3xx, too: where a redirect, or "not modified", is what is sold.
    #[must_use]
    pub fn charge_redirects(mut self) -> Self {
        self.charged = Arc::new(self.charged.with_redirects());
        self
    }

    /// Instead of `limits.body_timeout`: how far behind a caller may be with a body.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = Some(timeout);
        self
    }

    fn patience(&self) -> Duration {
        self.body_timeout.unwrap_or(self.inner.limits.body_timeout)
    }

    fn resource<'a>(&'a self, origin: &'a str, path: &'a str, quote: &'a Quote) -> Resource<'a> {
        let (description, mime_type) = (self.description.as_deref(), self.mime_type.as_deref());
        Resource { origin, path, description, mime_type, quote: Some(quote) }
    }

    fn sold(&self, name: String) -> Arc<Sold> {
        self.inner.sold(name, self.rule, &self.charged)
    }

    /// The answer to whoever presents nothing.
    fn challenge(&self, request: &ServiceRequest, url: &str, id: RequestId) -> HttpResponse {
        let name = name_of(request);
        let challenges = || self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        let known = challenges().get(&name).cloned();
        let prepared = known.unwrap_or_else(|| {
            let quote = self.sold(name.clone()).listing.list_quote();
            let prepared = Arc::new(self.inner.parts.offers.challenge(self.resource("", "", &quote)));
            challenges().insert(name, Arc::clone(&prepared));
            prepared
        });
        payment_answer::challenge(&prepared, url, id)
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
            let (outer, begun) = (request.extensions().get::<Priced>().cloned(), Instant::now());
            let id = outer.as_ref().map_or_else(RequestId::new, |outer| outer.request);
            price.inner.parts.callers.watch(request.request());
            let asked =
                request_log::is_on().then(|| (request.method().clone(), request.uri().path().to_owned()));
            let handed_out = HandedOut::default();
            let (answered, outcome) = match outer {
                Some(outer) => {
                    outer.meets(&price.text, &request);
                    nested(request, id)
                }
                None => Rc::clone(&price).sell(service, request, id, Rc::clone(&handed_out)).await,
            };
            let answered = answered.map(|mut answered| {
                let version = answered.request().version();
                framing::fit_version(answered.response_mut(), version);
                framing::without_upgrade(&mut answered);
                finish(answered.response_mut(), id);
                answered
            });
            let status = match &answered {
                Ok(answered) => answered.status(),
                Err(error) => error.as_response_error().status_code(),
            };
            price.inner.parts.metrics.answered(outcome, status.as_u16(), begun.elapsed());
            if let Some((method, path)) = asked {
                request_log::tell((&method, &path), status.as_u16(), id, begun);
            }
            handed_out.set(true);
            answered
        })
    }
}

type Answer = (Result<ServiceResponse<BoxBody>, Error>, Outcome);

/// What a handler answers, or the error of middleware around it.
type Handled = Result<ServiceResponse<BoxBody>, (StatusCode, Error)>;

/// Who pays for what a handler does.
enum Payer {
    Now(Box<Admitted>),
    /// It was charged before.
    Before(Repayer),
}

/// A request whose handler runs.
struct Running {
    id: RequestId,
    version: Version,
    upload: Upload,
    handed_out: HandedOut,
    sold: Arc<Sold>,
    quote: Quote,
    /// In which the caller speaks.
    dialect: &'static Dialect,
}

/// What is opened for a request, and how its caller is answered.
struct Sale {
    opened: Opened,
    sold: Arc<Sold>,
    quote: Quote,
    dialect: &'static Dialect,
}

impl Price {
    async fn sell<S, B>(
        self: Rc<Self>,
        service: Rc<S>,
        mut request: ServiceRequest,
        id: RequestId,
        handed_out: HandedOut,
    ) -> Answer
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        if *request.method() == Method::OPTIONS {
            let answer = preflight(request.request());
            return (Ok(request.into_response(answer)), Outcome::Preflight);
        }
        if target::is_too_long(request.uri()) {
            let answer = problem::plain(Problem::TargetTooLong, id);
            return (Ok(request.into_response(answer)), Outcome::Refused);
        }
        if self.nesting.is_known(&request) {
            return nested(request, id);
        }
        let Sale { opened, sold, quote, dialect } = match self.open(&mut request, id).await {
            Ok(opened) => opened,
            Err((answer, outcome)) => return (Ok(request.into_response(answer)), outcome),
        };
        let paid = paid(&quote, opened.wallet(), id, matches!(opened, Opened::Again(_)));
        let payer = match opened {
            // From now on, whoever drops it leaves work behind that was perhaps done.
            Opened::Admitted(mut admitted) => {
                admitted.work_begins();
                Payer::Now(admitted)
            }
            Opened::Again(payer) => Payer::Before(payer),
            Opened::Replayed(replayed) => {
                let answer = replay(dialect, &replayed, *request.method() == Method::HEAD);
                return (Ok(request.into_response(answer)), Outcome::Repeated);
            }
        };
        request.extensions_mut().insert(paid);
        let (price, nesting) = (Arc::clone(&self.text), Arc::clone(&self.nesting));
        request.extensions_mut().insert(Priced { request: id, price, nesting });
        let upload = upload::watch(&mut request, self.inner.limits.max_body_bytes, self.patience());
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        if is_safe && !quote.charges(StatusCode::NOT_MODIFIED.as_u16()) {
            let tags = request.headers().get_all(IF_NONE_MATCH).map(HeaderValue::as_bytes);
            if matches_anything(tags) {
                request.headers_mut().remove(IF_NONE_MATCH);
            }
        }
        // Once for each of the server's workers, and on the runtime that serves.
        if let Some(handing_on) = mailbox::open_here() {
            actix_web::rt::spawn(handing_on);
        }
        if let Some(watching) = departures::watch_here() {
            actix_web::rt::spawn(watching);
        }
        let running = Running { id, version: request.version(), upload, handed_out, sold, quote, dialect };
        // In a task of its own: a caller who hangs up once the work has begun does not get it for nothing.
        let work = actix_web::rt::spawn(async move {
            let handled = until_panic(async move {
                let mut answered = service.call(request).await.map(without_needless_body);
                if let Ok(answered) = &mut answered {
                    let_through(answered.headers_mut());
                }
                answered.map_err(|error| (error.as_response_error().status_code(), error))
            });
            match (payer, handled.await) {
                (Payer::Now(admitted), Ok(handled)) => self.settle(*admitted, handled, running).await,
                (Payer::Before(payer), Ok(handled)) => {
                    (self.again(handled, &payer, &running), Outcome::Repeated)
                }
                (payer, Err(Panicked)) => (self.panicked(payer, id, dialect).await, Outcome::UpstreamFailed),
            }
        });
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, request.id = %id, "a request that is sold ended unexpectedly; nothing is charged");
            let failed = Failed { problem: Problem::HandlerFailed, note: None, request: id };
            (Err(failed.into()), Outcome::UpstreamFailed)
        })
    }

    fn refuse(
        &self,
        resource: Resource<'_>,
        refused: (&'static Dialect, &Refused),
        id: RequestId,
    ) -> HttpResponse {
        let mut answer = payment_answer::refused(&self.inner.parts.offers, resource, refused, id);
        in_vain::tell(self.inner.parts.db.condition(), answer.headers_mut());
        answer
    }

    /// Everything up to the handler. `Err`: the finished answer.
    async fn open(
        &self,
        request: &mut ServiceRequest,
        id: RequestId,
    ) -> Result<Sale, (HttpResponse, Outcome)> {
        let (origin, path) = (self.inner.parts.origin.of(request.request()), request.path().to_owned());
        let presented = spoken::read_credential(&self.inner.parts.offers.dialects, request.headers());
        let Some(presented) = presented.transpose() else {
            let url = [&*origin, &*path].concat();
            return Err((self.challenge(request, &url, id), Outcome::Challenged));
        };
        let sold = self.sold(name_of(request));
        let quote = sold.listing.list_quote();
        let resource = self.resource(&origin, &path, &quote);
        let mut credential = match presented {
            Ok(credential) => credential,
            Err(NotTaken::Refused(dialect, refusal)) => {
                let answer = self.refuse(resource, (dialect, &Refused::because(refusal)), id);
                return Err((answer, Outcome::PaymentRefused));
            }
            Err(NotTaken::Problem(problem)) => return Err((problem::plain(problem, id), Outcome::Refused)),
        };
        let dialect = credential.dialect;
        let refuse = |refused: &Refused| self.refuse(resource, (dialect, refused), id);
        let parts = &self.inner.parts;
        if parts.closing.load(Ordering::Relaxed) {
            // The books are being closed: the handler must not work for a charge that cannot be made any more.
            return Err((refuse(&Refused::because(Refusal::Busy)), Outcome::Busy));
        }
        if upload::is_too_large(request, &self.inner.limits) {
            return Err((problem::plain(Problem::BodyTooLarge, id), Outcome::Refused));
        }
        let unfit = |unfit| match unfit {
            Unfit::Refusal(refusal) => (refuse(&Refused::because(refusal)), Outcome::PaymentRefused),
            Unfit::Problem(problem) => (problem::plain(problem, id), Outcome::Refused),
        };
        let key = repeat_key::presented(request.headers()).map_err(unfit)?.cloned();
        let unverified = parts.offers.verify(&credential, &quote).err();
        // What is charged; what was offered is what a challenge is bound to.
        let quote = sold
            .listing
            .quote(Asked::default())
            .map_err(|why| (problem::unpriced(why, id), Outcome::Refused))?;
        let caller = parts.callers.address(request.request());
        // Who asks comes first: whoever is nobody, or sends a body slowly, must not keep others out.
        let mut wallet = match parts.paywall.recognise_at_once(&credential) {
            Some(wallet) => Some(wallet),
            None => Box::pin(who_asks::look_up(
                &parts.paywall,
                &parts.crowd,
                Ask { credential: &mut credential, caller, quote: &quote, is_repeat: key.is_some() },
            ))
            .await
            .map_err(|refused| (refuse(&refused), Outcome::of_refused(&refused)))?,
        };
        let client = wallet.as_ref().map(|wallet| wallet.record.client);
        let repeat = match &key {
            None => None,
            Some(key) => {
                // Its body may take long.
                wallet = None;
                Some(self.repeat_key(request, key, &path, (client, caller)).await.map_err(unfit)?)
            }
        };
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        let purchase = Purchase {
            request: id,
            quote: quote.clone(),
            credential,
            unverified,
            wallet,
            is_safe,
            repeat,
            caller,
        };
        if let Some(admitted) = parts.paywall.open_at_once(&purchase) {
            let opened = Opened::Admitted(Box::new(admitted));
            return Ok(Sale { opened, sold, quote, dialect });
        }
        // While it is opened; the handler runs in the server's own limits.
        let (kind, holder) = parts.crowd.who(client, caller);
        let Some(standing) = kind.enter(holder, false) else {
            return Err((refuse(&Refused::because(Refusal::Busy)), Outcome::Busy));
        };
        let opened = Box::pin(self.open_slowly(purchase, standing))
            .await
            .map_err(|(refused, outcome)| (refuse(&refused), outcome))?;
        Ok(Sale { opened, sold, quote, dialect })
    }

    /// In a task of its own: what a caller who hangs up must not cancel.
    async fn open_slowly(
        &self,
        purchase: Purchase,
        standing: Standing,
    ) -> Result<Opened, (Refused, Outcome)> {
        let (inner, id) = (Arc::clone(&self.inner), purchase.request);
        let work = self.inner.parts.tasks.run(async move {
            let opened = inner.parts.paywall.open(&purchase).await;
            drop(standing);
            opened
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
    async fn repeat_key(
        &self,
        request: &mut ServiceRequest,
        key: &HeaderValue,
        path: &str,
        (client, caller): (Option<ClientId>, Option<IpAddr>),
    ) -> Result<RepeatKey, Unfit> {
        let payload =
            request.extract::<web::Payload>().await.map_err(|_| Unfit::Problem(Problem::BodyBroken))?;
        let (limits, idempotency) = (&self.inner.limits, &self.inner.idempotency);
        let max_bytes = idempotency.max_body_bytes.min(limits.max_body_bytes);
        let patience = Patience::steady(self.patience());
        let mut room = self.inner.parts.crowd.bytes(client, caller);
        let (body, key) =
            repeat_key::read(key, request.request(), path, payload, max_bytes, patience, &mut room).await?;
        request.set_payload(Payload::from(body));
        Ok(key.with_headers(repeat_headers::digest_of_all(request.headers())))
    }

    /// Charges what the handler answered, or lets the funds go.
    async fn settle(&self, admitted: Admitted, handled: Handled, running: Running) -> Answer {
        let id = running.id;
        let status = status_of(&handled);
        let answered = match handled {
            Ok(answered) if running.quote.charges(status.as_u16()) => answered,
            handled => return Box::pin(self.not_charged(admitted, handled, status, &running)).await,
        };
        let (request, response) = answered.into_parts();
        let (response, body) = response.into_parts();
        let is_head = *request.method() == Method::HEAD;
        let body = if admitted.is_kept() {
            let max_bytes = self.inner.idempotency.max_answer_bytes;
            Box::pin(ReadBody::read(body, response.headers(), is_head, max_bytes)).await
        } else {
            ReadBody::unread(body)
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(%error, request.id = %id, "a handler's answer broke off before it was charged");
                let note = Box::pin(self.interrupted(admitted, running.dialect)).await;
                let answer = not_charged_problem(Problem::UpstreamFailed, &note, id);
                return (Ok(ServiceResponse::new(request, answer)), Outcome::UpstreamFailed);
            }
        };
        let kept = admitted.is_kept().then(|| Answered {
            status: status.as_u16(),
            headers: stored_headers(response.headers())
                .chain(kept_answer::length_of_head(is_head, body.size))
                .collect(),
            body: body.is_whole.then(|| body.beginning.clone()),
        });
        match self.capture(admitted, (id, status), kept, running.upload).await {
            Ok((captured, delivery)) => {
                let receipt = payment_answer::receipt(running.dialect, &captured);
                let body = WatchedBody::new(body, is_head, delivery, running.handed_out);
                let answered = ServiceResponse::new(request, response.set_body(BoxBody::new(body)));
                (Ok(with_note(answered, &receipt)), Outcome::Paid)
            }
            Err(refused) => {
                let origin = self.inner.parts.origin.of(&request);
                let resource = self.resource(&origin, request.path(), &running.quote);
                let answer = self.refuse(resource, (running.dialect, &refused), id);
                (Ok(ServiceResponse::new(request, answer)), Outcome::PaymentRefused)
            }
        }
    }

    /// An answer, or an error of middleware, that costs nothing. One to a body that is too large, too slow or cut says so, whatever
    /// the handler has made of it.
    async fn not_charged(
        &self,
        admitted: Admitted,
        handled: Handled,
        status: StatusCode,
        running: &Running,
    ) -> Answer {
        if let Some(problem) = running.upload.fault().map(Problem::from) {
            let note = self.failed(admitted, problem, running.dialect).await;
            let answer = not_charged_problem(problem, &note, running.id);
            let answered = match handled {
                Ok(answered) => Ok(answered.into_response(answer)),
                Err(_) => Err(Failed { problem, note: Some(note), request: running.id }.into()),
            };
            return (answered, Outcome::NotCharged);
        }
        let note = self.let_go(admitted, status, running).await;
        (noted(handled, note, running), Outcome::NotCharged)
    }

    /// The handler has panicked. What was set aside for it is let go, and it may have done something.
    async fn panicked(
        &self,
        payer: Payer,
        id: RequestId,
        dialect: &'static Dialect,
    ) -> Result<ServiceResponse<BoxBody>, Error> {
        tracing::error!(request.id = %id, "a handler that is sold has panicked; nothing is charged");
        let problem = Problem::HandlerFailed;
        let note = match payer {
            Payer::Now(admitted) => self.failed(*admitted, problem, dialect).await,
            Payer::Before(payer) => {
                let answer = problem.answer();
                payment_answer::failed_replay(dialect, &payer, answer.code, answer.message)
            }
        };
        Err(Failed { problem, note: Some(note), request: id }.into())
    }

    /// On the process's runtime: it goes on when this worker ends, and then there is nobody to deliver.
    async fn capture(
        &self,
        admitted: Admitted,
        (id, status): (RequestId, StatusCode),
        kept: Option<Answered>,
        upload: Upload,
    ) -> Result<(Captured, Option<Delivery>), Refused> {
        let inner = Arc::clone(&self.inner);
        let is_kept = kept.as_ref().is_some_and(|answered| answered.body.is_some());
        let work = self.inner.parts.tasks.run(async move {
            let captured = inner.parts.paywall.capture(admitted, status.as_u16(), kept).await?;
            let (reversals, closing) = (&inner.parts.reversals, &inner.parts.closing);
            let delivery = Delivery::new(reversals, closing, id, &captured, upload);
            Ok((captured, OnItsWay::new(delivery, is_kept)))
        });
        match work.await {
            Ok(captured) => captured.map(|(captured, delivery)| (captured, delivery.taken())),
            Err(error) => {
                tracing::error!(%error, request.id = %id, "a capture ended unexpectedly; nothing is delivered");
                Err(Refused::because(Refusal::CaptureUnknown))
            }
        }
    }

    /// Charges nothing: that was done before.
    fn again(
        &self,
        handled: Handled,
        payer: &Repayer,
        running: &Running,
    ) -> Result<ServiceResponse<BoxBody>, Error> {
        let status = status_of(&handled);
        let is_charged = running.quote.charges(status.as_u16());
        let note = payment_answer::fetched_again(running.dialect, payer, status.as_u16(), is_charged);
        noted(handled, note, running)
    }

    async fn let_go(&self, admitted: Admitted, status: StatusCode, running: &Running) -> Note {
        running.sold.tell_of_redirect(status.as_u16());
        let uncharged = self.inner.parts.paywall.let_go(admitted, false).await;
        let message = format!("The answer {} is not charged.", status.as_u16());
        payment_answer::not_charged(running.dialect, &uncharged, NOT_CHARGED, &message)
    }

    /// The handler has worked, and its answer cannot be delivered.
    async fn interrupted(&self, admitted: Admitted, dialect: &'static Dialect) -> Note {
        let uncharged = self.inner.parts.paywall.let_go(admitted, true).await;
        let message = "The answer broke off. Nothing is charged for it.";
        payment_answer::not_charged(dialect, &uncharged, NOT_CHARGED, message)
    }

    /// The handler has begun, and this is all there is of its answer.
    async fn failed(&self, admitted: Admitted, problem: Problem, dialect: &'static Dialect) -> Note {
        let uncharged = self.inner.parts.paywall.let_go(admitted, true).await;
        let answer = problem.answer();
        payment_answer::not_charged(dialect, &uncharged, answer.code, answer.message)
    }
}

/// What a handler is called in entries. Methods that nobody lists have one name: they come from outside, and names are kept.
fn name_of(request: &ServiceRequest) -> String {
    let pattern = request.match_pattern().unwrap_or_else(|| "an unnamed handler".to_owned());
    let method = METHODS.iter().find(|method| **method == request.method().as_str());
    format!("{} {pattern}", method.unwrap_or(&"OTHER"))
}

fn paid(quote: &Quote, wallet: &Wallet, request: RequestId, is_repeat: bool) -> Paid {
    let client = Arc::clone(&wallet.record.client_public_id);
    Paid { client, price: quote.most(), currency: quote.currency(), request, is_repeat }
}

/// A request that has met a price inside another.
fn nested(request: ServiceRequest, id: RequestId) -> Answer {
    (Ok(request.into_response(problem::plain(Problem::NestedPrices, id))), Outcome::Refused)
}

fn status_of(handled: &Handled) -> StatusCode {
    match handled {
        Ok(answered) => answered.status(),
        Err((status, _)) => *status,
    }
}

fn noted(handled: Handled, note: Note, running: &Running) -> Result<ServiceResponse<BoxBody>, Error> {
    match handled {
        Ok(answered) => Ok(with_note(answered, &note)),
        Err((_, error)) => {
            Err(WithNote { error, note, request: running.id, version: running.version }.into())
        }
    }
}

/// A status that has no body goes out without the one that a handler has made: the server would send its bytes after the head,
/// where the caller looks for the next answer.
fn without_needless_body<B: MessageBody + 'static>(answered: ServiceResponse<B>) -> ServiceResponse<BoxBody> {
    if framing::is_bodiless(answered.status()) {
        return answered.map_body(|_, needless| {
            drop(HandlersBody::new(needless.boxed()));
            BoxBody::new(body::None::new())
        });
    }
    answered.map_into_boxed_body()
}

/// Has proxies in front of the application pass a stream on as it comes.
fn let_through(headers: &mut HeaderMap) {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if is_stream_of_records(media_type) && !headers.contains_key(X_ACCEL_BUFFERING) {
        let (name, value) = unbuffered();
        headers.insert(name, value);
    }
}

//! The public door: every path that is not ours is looked up among the routes, priced, paid, passed on.
//!
//! ```text
//! target → canonical path → route → free:   upstream → stream
//!                                 → priced: no payment → 402
//!                                           payment → [open → upstream → capture] → stream
//! ```
//! The part in brackets runs in a task of its own: a caller who hangs up cannot cancel money work.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use actix_web::body::BodySize;
use actix_web::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use tokio_util::task::AbortOnDropHandle;

use super::callers::Callers;
use super::delivery::{Delivery, Upload};
use super::framing;
use super::gateway_body::GatewayBody;
use super::gateway_route::{GatewayRoute, Sold};
use super::in_vain;
use super::kept_answer::{self, Read};
use super::metrics::{Metrics, Outcome};
use super::origin::Origin;
use super::payment_answer::{self, NOT_CHARGED, Note, not_charged_problem};
use super::problem::{self, Problem};
use super::record_stream::{X_ACCEL_BUFFERING, is_stream_of_records, unbuffered};
use super::repeat_headers;
use super::repeat_key::{self, Unfit};
use super::request_log;
use super::reversals::Reversals;
use super::spoken::{self, NotTaken};
use super::target;
use super::who_asks::{self, Ask};
use crate::config::{IdempotencyConfig, IdleLimit};
use crate::crowd::{Crowd, Holder, Place, Standing};
use crate::db::Condition;
use crate::domain::{RequestId, SecretHash};
use crate::money_work::MoneyWork;
use crate::paywall::offer::Offers;
use crate::paywall::{
    Admitted, Answered, Captured, Opened, Paywall, Purchase, Refusal, Refused, RepeatKey, Replayed,
};
use crate::pricing::path::{CanonicalPath, canonicalise};
use crate::pricing::route_table::{Found, RouteTable};
use crate::pricing::{Asked, Quote};
use crate::protocol::Dialect;
use crate::proxy::headers::{
    ResponseContext, TrustedRequestHeaders, matches_anything, request_headers_for_upstream,
    response_headers_for_caller,
};
use crate::proxy::own_token::OwnToken;
use crate::proxy::pace::Patience;
use crate::proxy::upload::{self, UploadBody, UploadFault, UploadReport};
use crate::proxy::upstream::{Upstream, UpstreamCall, UpstreamError};

/// Stripe's word for the same thing, which clients know.
const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";

/// Longest id of a caller's own that is passed on.
const MAX_CALLERS_REQUEST_ID: usize = 128;

/// Everything that the public door needs. One per process, shared by all workers.
pub struct Gateway {
    pub(crate) routes: RouteTable<GatewayRoute>,
    pub(crate) upstream: Upstream,
    pub(crate) own_token: OwnToken,
    pub(crate) paywall: Paywall,
    pub(crate) offers: Offers,
    pub(crate) reversals: Reversals,
    pub(crate) tasks: MoneyWork,
    pub(crate) idempotency: IdempotencyConfig,
    pub(crate) callers: Callers,
    pub(crate) public_url: String,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) origin: Origin,
    pub(crate) closing: Arc<AtomicBool>,
    pub(crate) condition: Condition,
    pub(crate) metrics: Arc<Metrics>,
    /// Every answer says so.
    pub(crate) sandbox: bool,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("public_url", &self.public_url).finish_non_exhaustive()
    }
}

/// A priced request on its way into the money task.
struct PaidRequest {
    purchase: Purchase,
    sold: Arc<Sold>,
    /// How long an answer may be silent.
    idle: IdleLimit,
    call: UpstreamCall,
    report: UploadReport,
    /// Where its body is counted, if that is in memory.
    _room: Option<Place>,
}

/// An answer of the upstream, as far as it has been read.
struct Answer {
    head: hyper::http::response::Parts,
    body: AnswerBody,
}

enum AnswerBody {
    /// What was read already, and the rest.
    Stream(Bytes, Incoming),
    /// All of it was read.
    Whole(Bytes),
}

impl From<hyper::Response<Incoming>> for Answer {
    fn from(response: hyper::Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body: AnswerBody::Stream(Bytes::new(), body) }
    }
}

/// What comes out of the money task.
enum PaidOutcome {
    Refused(Refused),
    Failed(Problem, Note),
    NotCharged(Answer, Note),
    Served(Answer, Box<Captured>, Delivery),
    /// Charged before; the upstream has answered once more.
    Again(Answer, Note),
    /// Charged before; the answer was kept.
    Replayed(Box<Replayed>),
}

/// Answers any request that is not one of our own paths.
pub async fn serve(request: HttpRequest, payload: web::Payload, gateway: web::Data<Gateway>) -> HttpResponse {
    let id = RequestId::new();
    let begun = Instant::now();
    let gateway = gateway.into_inner();
    gateway.callers.watch(&request);
    let (mut response, outcome) = gateway.answer(&request, payload, id).await;
    gateway.metrics.answered(outcome, response.status().as_u16(), begun.elapsed());
    super::finish(&mut response, id);
    if gateway.sandbox {
        response
            .headers_mut()
            .insert(HeaderName::from_static("x-prepaid402-sandbox"), HeaderValue::from_static("SANDBOX"));
    }
    response
}

impl Gateway {
    async fn answer(
        self: &Arc<Self>,
        request: &HttpRequest,
        payload: web::Payload,
        id: RequestId,
    ) -> (HttpResponse, Outcome) {
        if *request.method() == Method::OPTIONS {
            return (super::preflight(request), Outcome::Preflight);
        }
        if let Some(problem) = target::unfit_to_pass_on(request) {
            return (problem::plain(problem, id), Outcome::Refused);
        }
        let path = match canonicalise(request.uri().path()) {
            Ok(path) => path,
            Err(error) => return (problem::plain(error.into(), id), Outcome::Refused),
        };
        let route = match self.routes.find(request.method().as_str(), &path) {
            Found::Route(route) => route,
            Found::NotConfigured { .. } => {
                return (self.not_configured(request, &path, id), Outcome::Refused);
            }
        };
        let route = &route.leads_to;
        match &route.sold {
            None => self.pass_free(request, payload, &path, route, id).await,
            Some(sold) => self.sell(request, payload, &path, (route, sold), id).await,
        }
    }

    fn not_configured(&self, request: &HttpRequest, path: &CanonicalPath, id: RequestId) -> HttpResponse {
        // Paths come from outside: at debug level only, and as a value, so that nobody fills the log with lines of theirs.
        tracing::debug!(
            request.id = %id,
            "no route for {} {path:?}; to sell it, add: [[routes]] methods = [\"{}\"] path = {path:?} price = \"0.01\"",
            request.method(), request.method(), path = request_log::shown_path(path.as_str()),
        );
        problem::plain(Problem::RouteNotConfigured, id)
    }

    async fn pass_free(
        self: &Arc<Self>,
        request: &HttpRequest,
        payload: web::Payload,
        path: &CanonicalPath,
        route: &GatewayRoute,
        id: RequestId,
    ) -> (HttpResponse, Outcome) {
        if spoken::presents_unspoken(&self.offers.dialects, request.headers()) {
            return (problem::plain(Problem::PaymentProtocolOff, id), Outcome::Refused);
        }
        let holder = Holder::network(self.callers.address(request));
        let Some(standing) = self.crowd.free.enter(holder, super::has_body(request)) else {
            return (problem::plain(Problem::Busy, id), Outcome::Busy);
        };
        let passed_on = self.upstream_call(request, Caller::Stream(payload), path, (route, None), id);
        let (call, report) = match passed_on {
            Ok(prepared) => prepared,
            Err(problem) => return (problem::plain(problem, id), Outcome::Refused),
        };
        // On the process's runtime, because the connection outlives this worker; a caller who hangs up ends the call.
        let (gateway, upload) = (Arc::clone(self), report.clone());
        let sending = self.tasks.spawn(async move {
            let sending = pin!(gateway.upstream.send(call));
            standing.during(upload.sent(), sending).await
        });
        let Ok((answered, standing)) = AbortOnDropHandle::new(sending).await else {
            tracing::error!(request.id = %id, "a free request ended unexpectedly");
            return (problem::plain(Problem::Busy, id), Outcome::Busy);
        };
        // A caller who reads slowly must not keep others out.
        let standing = standing.answered();
        match answered {
            Ok(response) => {
                (self.pass_on(request, route, response.into(), None, None, standing), Outcome::Free)
            }
            Err(error) => {
                let problem = fault_or(&report, error);
                (problem::plain(problem, id), Outcome::UpstreamFailed)
            }
        }
    }

    async fn sell(
        self: &Arc<Self>,
        request: &HttpRequest,
        payload: web::Payload,
        path: &CanonicalPath,
        (route, sold): (&GatewayRoute, &Arc<Sold>),
        id: RequestId,
    ) -> (HttpResponse, Outcome) {
        let origin = self.origin.of(request);
        let quote = sold.listing.list_quote();
        let resource = route.resource(&origin, path.as_str(), &quote);
        let refuse_in = |dialect: &'static Dialect, refused: &Refused| {
            let mut answer = payment_answer::refused(&self.offers, resource, (dialect, refused), id);
            in_vain::tell(&self.condition, answer.headers_mut());
            answer
        };
        let mut credential = match spoken::read_credential(&self.offers.dialects, request.headers()) {
            Ok(Some(credential)) => credential,
            Ok(None) => {
                return (
                    payment_answer::challenge(&sold.challenge, &resource.url(), id),
                    Outcome::Challenged,
                );
            }
            Err(NotTaken::Refused(dialect, refusal)) => {
                return (refuse_in(dialect, &Refused::because(refusal)), Outcome::PaymentRefused);
            }
            Err(NotTaken::Problem(problem)) => return (problem::plain(problem, id), Outcome::Refused),
        };
        let dialect = credential.dialect;
        let refuse = |refused: &Refused| refuse_in(dialect, refused);
        if matches!(super::announced(request), Ok(Some(length)) if length > route.max_body) {
            return (problem::plain(Problem::BodyTooLarge, id), Outcome::Refused);
        }
        let caller = self.callers.address(request);
        let unfit = |unfit| match unfit {
            Unfit::Refusal(Refusal::Busy) => (refuse(&Refused::because(Refusal::Busy)), Outcome::Busy),
            Unfit::Refusal(refusal) => (refuse(&Refused::because(refusal)), Outcome::PaymentRefused),
            Unfit::Problem(problem) => (problem::plain(problem, id), Outcome::Refused),
        };
        let key = match repeat_key::presented(request.headers()) {
            Ok(key) => key.cloned(),
            Err(why) => return unfit(why),
        };
        let unverified = self.offers.verify(&credential, &quote).err();
        // What is charged; what was offered is what a challenge is bound to.
        let quote = match sold.listing.quote(Asked::default()) {
            Ok(quote) => quote,
            Err(why) => return (problem::unpriced(why, id), Outcome::Refused),
        };
        // Who asks comes first: whoever is nobody, or sends a body slowly, must not keep others out.
        let mut wallet = match self.paywall.recognise_at_once(&credential) {
            Some(wallet) => Some(wallet),
            None => match Box::pin(who_asks::look_up(
                &self.paywall,
                &self.crowd,
                Ask { credential: &mut credential, caller, quote: &quote, is_repeat: key.is_some() },
            ))
            .await
            {
                Ok(wallet) => wallet,
                Err(refused) => return (refuse(&refused), Outcome::of_refused(&refused)),
            },
        };
        let client = wallet.as_ref().map(|wallet| wallet.record.client);
        let (payload, repeat, room) = match key {
            None => (Caller::Stream(payload), None, None),
            Some(key) => {
                let room = self.crowd.bytes(client, caller);
                match self.repeat_key(request, &key, payload, path, route, room).await {
                    Ok((body, repeat, room)) => (Caller::Whole(body), Some(repeat), Some(room)),
                    Err(why) => return unfit(why),
                }
            }
        };
        if room.is_some() {
            // Its body may have taken long.
            wallet = None;
        }
        let (kind, holder) = self.crowd.who(client, caller);
        let has_body = repeat.is_none() && super::has_body(request);
        let Some(standing) = kind.enter(holder, has_body) else {
            return (refuse(&Refused::because(Refusal::Busy)), Outcome::Busy);
        };
        let (call, report) = match self.upstream_call(request, payload, path, (route, Some(&quote)), id) {
            Ok(prepared) => prepared,
            Err(problem) => return (problem::plain(problem, id), Outcome::Refused),
        };
        let repeat = repeat.map(|key| key.with_headers(self.headers_digest(&call)));
        let is_head = *request.method() == Method::HEAD;
        let paid = PaidRequest {
            purchase: Purchase {
                request: id,
                quote,
                credential,
                unverified,
                wallet,
                is_safe: is_head || *request.method() == Method::GET,
                repeat,
                caller,
            },
            sold: Arc::clone(sold),
            idle: route.idle,
            call,
            report,
            _room: room,
        };
        let gateway = Arc::clone(self);
        // The place goes along, so that hanging up does not make room while the work goes on.
        let work = self.tasks.spawn(async move {
            let upload = paid.report.clone();
            let working = pin!(gateway.open_call_capture(paid));
            let (outcome, standing) = standing.during(upload.sent(), working).await;
            (outcome, standing.answered())
        });
        let Ok((outcome, standing)) = work.await else {
            tracing::error!(request.id = %id, "a paid request ended unexpectedly; nothing is delivered");
            return (refuse(&Refused::because(Refusal::CaptureUnknown)), Outcome::Busy);
        };
        match outcome {
            PaidOutcome::Refused(refused) => (refuse(&refused), Outcome::PaymentRefused),
            PaidOutcome::Failed(problem, note) => {
                (not_charged_problem(problem, &note, id), Outcome::UpstreamFailed)
            }
            PaidOutcome::NotCharged(answer, note) => {
                (self.pass_on(request, route, answer, Some(&note), None, standing), Outcome::NotCharged)
            }
            PaidOutcome::Served(answer, captured, delivery) => {
                let receipt = payment_answer::receipt(dialect, &captured);
                (
                    self.pass_on(request, route, answer, Some(&receipt), Some(delivery), standing),
                    Outcome::Paid,
                )
            }
            PaidOutcome::Again(answer, note) => {
                (self.pass_on(request, route, answer, Some(&note), None, standing), Outcome::Repeated)
            }
            PaidOutcome::Replayed(replayed) => (replay(dialect, &replayed, is_head), Outcome::Repeated),
        }
    }

    /// What the request's `Idempotency-Key` stands for, for which its body is read whole.
    async fn repeat_key(
        &self,
        request: &HttpRequest,
        key: &HeaderValue,
        payload: web::Payload,
        path: &CanonicalPath,
        route: &GatewayRoute,
        mut room: Place,
    ) -> Result<(Bytes, RepeatKey, Place), Unfit> {
        let max_bytes = route.max_body.min(self.idempotency.max_body_bytes);
        let patience = Patience::steady(route.body_timeout);
        let (body, key) =
            repeat_key::read(key, request, path.as_str(), payload, max_bytes, patience, &mut room).await?;
        Ok((body, key, room))
    }

    /// The money task. Nothing in it can be cancelled by the caller.
    async fn open_call_capture(&self, mut paid: PaidRequest) -> PaidOutcome {
        let opened = match self.paywall.open(&paid.purchase).await {
            Ok(Opened::Replayed(replayed)) => return PaidOutcome::Replayed(replayed),
            Ok(mut opened) => {
                if let Opened::Admitted(admitted) = &mut opened {
                    admitted.work_begins();
                }
                opened
            }
            Err(refused) => return PaidOutcome::Refused(refused),
        };
        if let Ok(value) = opened.wallet().record.client_public_id.parse() {
            paid.call.headers.insert("x-prepaid402-client", value);
        }
        let is_head = paid.call.method == hyper::Method::HEAD;
        let dialect = paid.purchase.credential.dialect;
        let answered = self.upstream.send(paid.call).await;
        match opened {
            Opened::Admitted(admitted) => {
                let Purchase { request, quote, is_safe, .. } = &paid.purchase;
                let (sold, report, idle) = (&*paid.sold, &paid.report, paid.idle);
                let charged = Charge {
                    request: *request,
                    quote,
                    dialect,
                    sold,
                    report,
                    idle,
                    is_head,
                    is_safe: *is_safe,
                };
                self.settle(*admitted, answered, charged).await
            }
            Opened::Again(payer) => match answered {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let is_charged = paid.purchase.quote.charges(status);
                    let note = payment_answer::fetched_again(dialect, &payer, status, is_charged);
                    PaidOutcome::Again(response.into(), note)
                }
                Err(error) => {
                    let problem = fault_or(&paid.report, error);
                    let answer = problem.answer();
                    let note = payment_answer::failed_replay(dialect, &payer, answer.code, answer.message);
                    PaidOutcome::Failed(problem, note)
                }
            },
            Opened::Replayed(replayed) => PaidOutcome::Replayed(replayed),
        }
    }

    /// Charges what the upstream answered, or lets the funds go.
    async fn settle(
        &self,
        admitted: Admitted,
        answered: Result<hyper::Response<Incoming>, UpstreamError>,
        charge: Charge<'_>,
    ) -> PaidOutcome {
        if let Ok(response) = &answered {
            self.own_token.notice(response.status().as_u16(), !self.upstream.headers.is_empty());
        }
        let problem = match answered {
            Ok(response) if charge.quote.charges(response.status().as_u16()) => {
                if !admitted.is_kept() {
                    return self.capture(admitted, response.into(), None, charge).await;
                }
                match Box::pin(self.read_to_keep(response, charge.idle, charge.is_head)).await {
                    Some((answer, kept)) => return self.capture(admitted, answer, Some(kept), charge).await,
                    None => Problem::UpstreamFailed,
                }
            }
            Ok(response) => {
                let status = response.status().as_u16();
                charge.sold.tell_of_redirect(status);
                let message = format!("The API answered {status}, which is not charged.");
                let uncharged = Box::pin(self.paywall.let_go(admitted, false)).await;
                let note = payment_answer::not_charged(charge.dialect, &uncharged, NOT_CHARGED, &message);
                return PaidOutcome::NotCharged(response.into(), note);
            }
            Err(error) => fault_or(charge.report, error),
        };
        let may_be_done = problem != Problem::UpstreamUnreachable;
        let uncharged = Box::pin(self.paywall.let_go(admitted, may_be_done)).await;
        let answer = problem.answer();
        let note = payment_answer::not_charged(charge.dialect, &uncharged, answer.code, answer.message);
        PaidOutcome::Failed(problem, note)
    }

    /// Reads an answer that is to be stored. `None`: the upstream cut it.
    async fn read_to_keep(
        &self,
        response: hyper::Response<Incoming>,
        idle: IdleLimit,
        is_head: bool,
    ) -> Option<(Answer, Answered)> {
        let (head, mut body) = response.into_parts();
        let max_bytes = self.idempotency.max_answer_bytes;
        let read = kept_answer::read(&head.headers, &mut body, max_bytes, idle).await;
        let (body, kept) = match read {
            Read::Whole(bytes) => (AnswerBody::Whole(bytes.clone()), Some(bytes)),
            Read::Beginning(bytes) => (AnswerBody::Stream(bytes, body), None),
            Read::Cut => return None,
        };
        let is_stream = is_stream_of_records(kept_answer::media_type_of(&head.headers));
        let mut headers: Vec<_> = self
            .headers_for_caller(&head, true, is_stream)
            .into_iter()
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect();
        headers.extend(kept_answer::length_of_head(is_head, framing::size_of_head(&head.headers)));
        let answered = Answered { status: head.status.as_u16(), headers, body: kept };
        Some((Answer { head, body }, answered))
    }

    async fn capture(
        &self,
        admitted: Admitted,
        answer: Answer,
        kept: Option<Answered>,
        charge: Charge<'_>,
    ) -> PaidOutcome {
        match self.paywall.capture(admitted, answer.head.status.as_u16(), kept).await {
            Ok(captured) => {
                let upload = Upload::Forwarded { report: charge.report.clone(), is_safe: charge.is_safe };
                let delivery =
                    Delivery::new(&self.reversals, &self.closing, charge.request, &captured, upload);
                PaidOutcome::Served(answer, Box::new(captured), delivery)
            }
            Err(refused) => PaidOutcome::Refused(refused),
        }
    }

    fn upstream_call(
        &self,
        request: &HttpRequest,
        caller: Caller,
        path: &CanonicalPath,
        (route, quote): (&GatewayRoute, Option<&Quote>),
        id: RequestId,
    ) -> Result<(UpstreamCall, UploadReport), Problem> {
        let (body, report) = match caller {
            Caller::Stream(payload) => {
                self.caller_body(request, payload, route.max_body, route.body_timeout)?
            }
            Caller::Whole(body) => (UploadBody::whole(body), UploadReport::default()),
        };
        let headers = request.headers();
        let is_empty = body.is_end_stream();
        let host = headers.get("host").and_then(|host| host.to_str().ok());
        let trusted = TrustedRequestHeaders {
            client: None,
            price: quote.map(|quote| quote.currency().decimal(quote.most())),
            currency: quote.map(|quote| quote.currency().code()),
            request_id: id.to_string(),
            caller_request_id: callers_request_id(request),
            forwarded_for: self
                .callers
                .address(request)
                .map_or_else(String::new, |address| address.to_string()),
            forwarded_proto: self.public_url.split("://").next().unwrap_or("http"),
            forwarded_host: self.forwarded_host(host),
        };
        let incoming = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let mut headers = request_headers_for_upstream(incoming, &trusted, &self.upstream.headers);
        if is_empty && names_length(request) {
            headers.insert(hyper::header::CONTENT_LENGTH, hyper::header::HeaderValue::from_static("0"));
        }
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        if is_safe && quote.is_some_and(|quote| !quote.charges(304)) {
            let tags = headers
                .get_all(hyper::header::IF_NONE_MATCH)
                .iter()
                .map(hyper::header::HeaderValue::as_bytes);
            if matches_anything(tags) {
                headers.remove(hyper::header::IF_NONE_MATCH);
            }
        }
        let call = UpstreamCall {
            method: hyper::Method::from_bytes(request.method().as_str().as_bytes())
                .map_err(|_| Problem::InvalidRequest)?,
            target: self
                .upstream
                .target(path.as_str(), request.uri().query())
                .ok_or(Problem::TargetTooLong)?,
            headers,
            host: host.and_then(|host| host.parse().ok()),
            body,
            upload: report.clone(),
            timeout: route.response_timeout,
        };
        Ok((call, report))
    }

    /// Of the caller's headers that the upstream is sent.
    fn headers_digest(&self, call: &UpstreamCall) -> SecretHash {
        let is_the_sellers = |name: &str| {
            self.upstream.headers.iter().any(|(injected, _)| injected.eq_ignore_ascii_case(name))
        };
        let headers = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let host = call.host.as_ref().filter(|_| self.upstream.preserves_host());
        repeat_headers::digest(
            headers.filter(|(name, _)| !is_the_sellers(name)),
            host.map(|host| host.as_bytes()),
        )
    }

    /// The host that callers see: what they send may be anything, and is believed only where the seller wants it passed on.
    fn forwarded_host<'a>(&'a self, host: Option<&'a str>) -> &'a str {
        match host.filter(|_| self.upstream.preserves_host()) {
            Some(host) => host,
            None => self.public_url.split_once("://").map_or("", |(_, host)| host),
        }
    }

    fn caller_body(
        &self,
        request: &HttpRequest,
        payload: web::Payload,
        max_bytes: u64,
        patience: Duration,
    ) -> Result<(UploadBody, UploadReport), Problem> {
        let length = super::announced(request)?;
        if length.is_some_and(|length| length > max_bytes) {
            return Err(Problem::BodyTooLarge);
        }
        if !super::has_body(request) {
            return Ok((UploadBody::empty(), UploadReport::default()));
        }
        let when_wanted = request.head().expect();
        Ok(upload::stream(payload, length, max_bytes, patience, when_wanted))
    }

    /// The answer's headers that are the caller's to see.
    fn headers_for_caller(
        &self,
        head: &hyper::http::response::Parts,
        paid: bool,
        is_stream: bool,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let context =
            ResponseContext { paid, upstream_base: self.upstream.base(), public_url: &self.public_url };
        let both = |(name, value): (hyper::header::HeaderName, hyper::header::HeaderValue)| {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        let is_to_flow = is_stream && !head.headers.contains_key(X_ACCEL_BUFFERING);
        response_headers_for_caller(&head.headers, &context)
            .into_iter()
            .filter_map(both)
            .chain(is_to_flow.then(unbuffered))
            .collect()
    }

    /// The upstream's answer, with our headers, streamed.
    fn pass_on(
        &self,
        request: &HttpRequest,
        route: &GatewayRoute,
        answer: Answer,
        note: Option<&Note>,
        delivery: Option<Delivery>,
        standing: Standing,
    ) -> HttpResponse {
        let Answer { head, body } = answer;
        let status = StatusCode::from_u16(head.status.as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut builder = HttpResponse::build(status);
        let is_stream = is_stream_of_records(kept_answer::media_type_of(&head.headers));
        for (name, value) in self.headers_for_caller(&head, note.is_some(), is_stream) {
            builder.append_header((name, value));
        }
        let is_head = *request.method() == Method::HEAD;
        let size = |decoded| framing::size_of(is_head, status, decoded, &head.headers);
        let mut response = builder.message_body(match body {
            AnswerBody::Stream(beginning, rest) => {
                // What is left is known; what was read already comes before it.
                let read = u64::try_from(beginning.len()).unwrap_or(u64::MAX);
                let size = size(rest.size_hint().exact().and_then(|left| left.checked_add(read)));
                GatewayBody::new(beginning, rest, size, route.idle, is_stream, delivery).standing(standing)
            }
            AnswerBody::Whole(bytes) => {
                let size = size(Some(u64::try_from(bytes.len()).unwrap_or(u64::MAX)));
                GatewayBody::whole(bytes, size, delivery)
            }
        });
        if let Ok(response) = &mut response {
            if let Some(note) = note {
                note.write(response.headers_mut());
            }
            framing::fit_version(response, request.version());
        }
        response.map_or_else(HttpResponse::from_error, HttpResponse::map_into_boxed_body)
    }
}

/// What a capture needs to know of its request.
#[derive(Clone, Copy)]
struct Charge<'a> {
    request: RequestId,
    quote: &'a Quote,
    dialect: &'static Dialect,
    sold: &'a Sold,
    report: &'a UploadReport,
    idle: IdleLimit,
    is_head: bool,
    is_safe: bool,
}

/// The caller's body: still to come, or read because of an `Idempotency-Key`.
enum Caller {
    Stream(web::Payload),
    Whole(Bytes),
}

impl From<UploadFault> for Problem {
    fn from(fault: UploadFault) -> Self {
        match fault {
            UploadFault::TooLarge => Self::BodyTooLarge,
            UploadFault::TooSlow => Self::BodyTooSlow,
            UploadFault::Broken => Self::BodyBroken,
            UploadFault::NoRoom => Self::Busy,
        }
    }
}

/// An answer that was charged before, as it was kept.
pub(crate) fn replay(dialect: &'static Dialect, replayed: &Replayed, is_head: bool) -> HttpResponse {
    let status = StatusCode::from_u16(replayed.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut builder = HttpResponse::build(status);
    let is_length = |name: &str| name == CONTENT_LENGTH.as_str();
    for (name, value) in replayed.headers.iter().filter(|(name, _)| !is_length(name)) {
        builder.append_header((name.as_str(), value.as_slice()));
    }
    builder.insert_header((IDEMPOTENT_REPLAYED, "true"));
    let size = match is_head {
        _ if framing::is_bodiless(status) => BodySize::None,
        true => {
            let length = replayed.headers.iter().find(|(name, _)| is_length(name));
            let length = length.and_then(|(_, length)| std::str::from_utf8(length).ok()?.parse().ok());
            length.map_or(BodySize::None, BodySize::Sized)
        }
        false => BodySize::Sized(u64::try_from(replayed.body.len()).unwrap_or(u64::MAX)),
    };
    let mut response = builder.body(GatewayBody::whole(replayed.body.clone(), size, None));
    payment_answer::replay(dialect, &replayed.payer).write(response.headers_mut());
    response
}

/// Whether the upstream is told that there is no body: by methods that have one otherwise, because some servers answer 411, and as
/// the caller says. RFC 9110, section 8.6.
fn names_length(request: &HttpRequest) -> bool {
    let headers = request.headers();
    matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        || headers.contains_key(CONTENT_LENGTH)
        || headers.contains_key(TRANSFER_ENCODING)
}

/// The caller's own `X-Request-Id`, if it is one that may stand in anybody's log.
fn callers_request_id(request: &HttpRequest) -> Option<String> {
    let mut ids = request.headers().get_all("x-request-id");
    let id = ids.next().filter(|_| ids.next().is_none())?.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(&byte);
    ((1..=MAX_CALLERS_REQUEST_ID).contains(&id.len()) && id.bytes().all(is_plain)).then(|| id.to_owned())
}

fn fault_or(report: &UploadReport, error: UpstreamError) -> Problem {
    match (report.fault(), error) {
        (Some(fault), _) => fault.into(),
        (None, UpstreamError::Unreachable) => Problem::UpstreamUnreachable,
        (None, UpstreamError::TimedOut) => Problem::UpstreamTimeout,
        (None, UpstreamError::Broken) => Problem::UpstreamFailed,
        (None, UpstreamError::Unreadable) => Problem::UpstreamUnreadable,
    }
}

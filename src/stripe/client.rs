//! One attempt of one call, under async-stripe's typed requests.
//!
//! async-stripe's own client opens a connection per call, hides the response headers, has no `Stripe-Version` to set, and
//! repeats a POST without an idempotency key when asked to retry.

use std::error::Error as _;
use std::fmt::Display;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use stripe_client_core::{
    ConfigOverride, CustomizedStripeRequest, RequestBuilder, RequestStrategy, StripeClient, StripeClientErr,
    StripeMethod,
};
use tokio::time::Instant;

use super::calls::Endpoint;
use super::failure::{StripeFailure, UnknownReason, classify};
use super::redact::short_ascii;
use crate::config::StripeConfig;
use crate::http_client::{Connections, HttpClient};
use crate::trust::Trust;

/// The largest answer that is read. A page of 50 PaymentIntents is about a quarter of it.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;
/// Unused connections kept open, and for how long.
const IDLE_CONNECTIONS: usize = 32;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

const STRIPE_VERSION: HeaderName = HeaderName::from_static("stripe-version");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A setting that no request can be built from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeSetupError {
    /// The secret key.
    #[error("the Stripe secret key has characters that no HTTP header can carry")]
    SecretKey,
    /// The API version.
    #[error("the Stripe API version has characters that no HTTP header can carry")]
    ApiVersion,
    /// The base URL.
    #[error("the Stripe API base is not an http or https origin such as https://api.stripe.com")]
    ApiBase,
}

/// The pool of connections and what every request carries.
#[derive(Debug)]
pub(super) struct Transport {
    http: HttpClient,
    base: String,
    /// Marked sensitive, so that its `Debug` does not show it.
    authorization: HeaderValue,
    version: HeaderValue,
    timeout: Duration,
}

/// What an answer said beside its body. Returned per call: a shared slot would mix concurrent calls up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResponseMeta {
    pub(super) status: u16,
    pub(super) request_id: Option<String>,
    pub(super) replayed: bool,
    pub(super) should_retry: Option<bool>,
    pub(super) retry_after: Option<Duration>,
}

/// Carries exactly one request, and keeps what its answer said beside the body.
pub(super) struct OneAttempt<'a> {
    transport: &'a Transport,
    endpoint: Endpoint,
    deadline: Instant,
    pub(super) meta: OnceLock<ResponseMeta>,
    pub(super) transport_error: OnceLock<String>,
}

impl Transport {
    pub(super) fn new(config: &StripeConfig) -> Result<Self, StripeSetupError> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", config.secret_key.expose()))
            .map_err(|_| StripeSetupError::SecretKey)?;
        authorization.set_sensitive(true);
        let version = match &config.api_version {
            Some(version) => HeaderValue::try_from(version).map_err(|_| StripeSetupError::ApiVersion)?,
            None => HeaderValue::try_from(stripe_shared::version::VERSION.as_str())
                .map_err(|_| StripeSetupError::ApiVersion)?,
        };
        let base = config.api_base.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().map_err(|_| StripeSetupError::ApiBase)?;
        let known_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        if !known_scheme || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return Err(StripeSetupError::ApiBase);
        }
        let connections = Connections {
            // The compiled-in roots alone.
            trust: &Trust::default(),
            connect_timeout: None,
            asks_the_silent: false,
            most_idle: IDLE_CONNECTIONS,
            idle_timeout: IDLE_TIMEOUT,
        };
        let http = connections.client();
        Ok(Self { http, base, authorization, version, timeout: config.timeout })
    }

    /// A client for one request; it gives up at the deadline or after the configured time, whichever is first.
    pub(super) fn one_attempt(&self, endpoint: Endpoint, deadline: Instant) -> OneAttempt<'_> {
        OneAttempt {
            transport: self,
            endpoint,
            deadline,
            meta: OnceLock::new(),
            transport_error: OnceLock::new(),
        }
    }

    /// Turns async-stripe's request into HTTP.
    fn request(
        &self,
        pieces: RequestBuilder,
        key: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, StripeFailure> {
        let RequestBuilder { query, body, path, method } = pieces;
        let mut uri = format!("{}/v1{path}", self.base);
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            uri.push('?');
            uri.push_str(&query);
        }
        let mut request = Request::builder()
            .method(match method {
                StripeMethod::Get => Method::GET,
                StripeMethod::Post => Method::POST,
                StripeMethod::Delete => Method::DELETE,
            })
            .uri(uri)
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::USER_AGENT, concat!("prepaid402/", env!("CARGO_PKG_VERSION")))
            .header(STRIPE_VERSION, self.version.clone());
        if let Some(key) = key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        let body = match body {
            Some(form) => {
                request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                Bytes::from(in_order(&form))
            }
            None => Bytes::new(),
        };
        request
            .body(Full::new(body))
            .map_err(|_| StripeFailure::not_sent("the request could not be expressed in HTTP"))
    }
}

/// The same form with its fields sorted: async-stripe writes metadata in the random order of a hash map, and a request
/// that is sent again after a restart should be the same request to the byte.
fn in_order(form: &str) -> String {
    let mut fields: Vec<&str> = form.split('&').collect();
    fields.sort_unstable();
    fields.join("&")
}

/// The idempotency key to send, or why the request must not be sent.
fn allowed_key(method: StripeMethod, over: &ConfigOverride) -> Result<Option<&str>, StripeFailure> {
    if over.account_id.is_some() {
        return Err(StripeFailure::not_sent("requests for another Stripe account are not supported"));
    }
    let key = match &over.request_strategy {
        None | Some(RequestStrategy::Once) => None,
        Some(RequestStrategy::Idempotent(key)) => Some(key.as_str()),
        // They would repeat a POST without a key; repeating is done above this client.
        Some(RequestStrategy::Retry(_) | RequestStrategy::ExponentialBackoff(_)) => {
            return Err(StripeFailure::not_sent("retry strategies of async-stripe are not allowed"));
        }
    };
    match (method, key) {
        (StripeMethod::Post, None) => {
            Err(StripeFailure::not_sent("a POST without an idempotency key is not allowed"))
        }
        _ => Ok(key),
    }
}

impl StripeClient for OneAttempt<'_> {
    type Err = StripeFailure;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, StripeFailure> {
        let (pieces, over) = request.into_pieces();
        let key = allowed_key(pieces.method, &over)?;
        let timeout = over.timeout.unwrap_or(self.transport.timeout);
        let request = self.transport.request(pieces, key)?;
        let until =
            Instant::now().checked_add(timeout).map_or(self.deadline, |until| until.min(self.deadline));
        match tokio::time::timeout_at(until, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(self.unknown(UnknownReason::Timeout)),
        }
    }
}

impl StripeClientErr for StripeFailure {
    /// async-stripe calls this for an answer of status 2xx that its types cannot hold: money may have moved.
    fn deserialize_err(_message: impl Display) -> Self {
        Self::Unknown { reason: UnknownReason::Unreadable(200), request_id: None }
    }
}

impl OneAttempt<'_> {
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Bytes, StripeFailure> {
        let response = self.transport.http.request(request).await.map_err(|error| {
            let reason =
                if error.is_connect() { UnknownReason::NoConnection } else { UnknownReason::ConnectionLost };
            self.transport_error.get_or_init(|| chain(&error));
            self.unknown(reason)
        })?;
        let meta = self.meta.get_or_init(|| ResponseMeta::read(&response));
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await;
        let body = body.map_err(|error| {
            self.transport_error.get_or_init(|| error.to_string());
            self.unknown(if error.is::<LengthLimitError>() {
                UnknownReason::Unreadable(meta.status)
            } else {
                UnknownReason::ConnectionLost
            })
        })?;
        let body = body.to_bytes();
        if (200..300).contains(&meta.status) { Ok(body) } else { Err(classify(self.endpoint, meta, &body)) }
    }

    fn unknown(&self, reason: UnknownReason) -> StripeFailure {
        StripeFailure::Unknown {
            reason,
            request_id: self.meta.get().and_then(|meta| meta.request_id.clone()),
        }
    }
}

impl ResponseMeta {
    fn read(response: &Response<Incoming>) -> Self {
        let headers = response.headers();
        Self {
            status: response.status().as_u16(),
            request_id: text(headers, "request-id").and_then(short_ascii),
            replayed: text(headers, "idempotent-replayed") == Some("true"),
            should_retry: match text(headers, "stripe-should-retry") {
                Some("true") => Some(true),
                Some("false") => Some(false),
                _ => None,
            },
            // Stripe sends seconds; the date form of RFC 9110 is ignored.
            retry_after: text(headers, "retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// An error with its causes: hyper's own text alone says little. None of them mentions a header or a path.
fn chain(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    for _ in 0..8 {
        let Some(error) = cause else { break };
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

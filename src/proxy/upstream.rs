//! The API that is sold: one pooled client, one fixed origin, no redirects followed, no bytes changed.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::reachability::Reachability;
use super::upload::{UploadBody, UploadReport};
use crate::config::{Secret, UpstreamConfig};

/// Idle connections are dropped after this: many servers close theirs after five seconds, and a request that meets the
/// closing would be answered 502.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// The upstream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, UploadBody>,
    base: String,
    authority: HeaderValue,
    preserve_host: bool,
    /// Set on every request, so that only the gateway can call the upstream.
    pub headers: Vec<(String, Secret)>,
    response_timeout: Duration,
    /// Between two pieces of a response body.
    pub idle_timeout: Duration,
    reachability: Reachability,
}

/// Why the upstream gave no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// No connection: refused, no such name, TLS.
    #[error("the API behind the gateway cannot be reached")]
    Unreachable,
    /// Connected, but no answer in time. It may have worked all the same.
    #[error("the API behind the gateway did not answer in time")]
    TimedOut,
    /// The connection broke before the answer's head was complete.
    #[error("the API behind the gateway broke off before it answered")]
    Broken,
}

/// The configured URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("upstream.url cannot be used")]
pub struct UpstreamSetupError;

impl Upstream {
    /// A client for the configured upstream.
    ///
    /// # Errors
    /// [`UpstreamSetupError`].
    pub fn new(config: &UpstreamConfig) -> Result<Self, UpstreamSetupError> {
        let uri: Uri = config.url.parse().map_err(|_| UpstreamSetupError)?;
        let authority = uri.authority().ok_or(UpstreamSetupError)?.as_str();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(config.connect_timeout));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let reachability = Reachability::new(connector.clone(), uri.clone(), config.connect_timeout);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(connector);
        Ok(Self {
            client,
            base: config.url.trim_end_matches('/').to_owned(),
            authority: HeaderValue::from_str(authority).map_err(|_| UpstreamSetupError)?,
            preserve_host: config.preserve_host,
            headers: config.headers.clone(),
            response_timeout: config.response_timeout,
            idle_timeout: config.idle_timeout,
            reachability,
        })
    }

    /// Whether it is told the caller's `Host`.
    #[must_use]
    pub fn preserves_host(&self) -> bool {
        self.preserve_host
    }

    /// The origin and base path, for rewriting `Location`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether it can be reached.
    #[must_use]
    pub fn reachability(&self) -> &Reachability {
        &self.reachability
    }

    /// Sends one request and waits for the answer's head. `path` is canonical, so the origin cannot change.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn send(&self, call: UpstreamCall) -> Result<Response<Incoming>, UpstreamError> {
        let target = match &call.query {
            Some(query) => format!("{}{}?{query}", self.base, call.path),
            None => format!("{}{}", self.base, call.path),
        };
        let uri: Uri = target.parse().map_err(|_| UpstreamError::Unreachable)?;
        if uri.authority().map(hyper::http::uri::Authority::as_str).map(str::as_bytes)
            != Some(self.authority.as_bytes())
        {
            return Err(UpstreamError::Unreachable);
        }
        let mut request = Request::new(call.body);
        *request.method_mut() = call.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = call.headers;
        let host = match call.host {
            Some(host) if self.preserve_host => host,
            _ => self.authority.clone(),
        };
        request.headers_mut().insert(HOST, host);
        let timeout = call.timeout.unwrap_or(self.response_timeout);
        let too_late = async {
            call.upload.sent().await;
            tokio::time::sleep(timeout).await;
        };
        let answered = tokio::select! {
            answered = self.client.request(request) => Ok(answered),
            () = too_late => Err(UpstreamError::TimedOut),
        };
        // A connection that broke may have been an old one, and says nothing of new ones.
        if matches!(&answered, Ok(Ok(_))) {
            self.reachability.reached();
        }
        match answered {
            // 101: nobody asked for another protocol, so what follows is no answer.
            Ok(Ok(response)) if response.status().is_informational() => {
                tracing::warn!(
                    status = response.status().as_u16(),
                    "the upstream switched protocols unasked"
                );
                Err(UpstreamError::Broken)
            }
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => {
                self.reachability.failed(&Chain(&error));
                Err(UpstreamError::Unreachable)
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "the upstream broke off");
                Err(UpstreamError::Broken)
            }
            Err(late) => Err(late),
        }
    }
}

/// An error with its causes.
pub(super) struct Chain<'a>(pub(super) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// One request to the upstream.
#[derive(Debug)]
pub struct UpstreamCall {
    /// As the caller's.
    pub method: Method,
    /// Canonical: the path that was priced.
    pub path: String,
    /// Passed on unchanged.
    pub query: Option<String>,
    /// Already filtered.
    pub headers: HeaderMap,
    /// The caller's `Host`, used only when the configuration says so.
    pub host: Option<HeaderValue>,
    /// The caller's body.
    pub body: UploadBody,
    /// How the caller's body is getting on: the time to the answer's head counts from its end.
    pub upload: UploadReport,
    /// Instead of the configured time to the answer's head.
    pub timeout: Option<Duration>,
}

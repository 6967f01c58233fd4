//! The API that is sold: one pooled client, one fixed origin, no redirects followed, no bytes changed.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connection::Connector;
use super::reachability::Reachability;
use super::upload::{UploadBody, UploadReport};
use crate::config::{Secret, UpstreamConfig};

/// Idle connections are dropped after this: many servers close theirs after five seconds, and a request that meets the
/// closing would be answered 502.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// The upstream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: Client<Connector, UploadBody>,
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
            .with_tls_config(config.trust.client_config())
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let connector = Connector(connector);
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

    /// Where a request goes. `path` is canonical, so the origin cannot change. `None`: it cannot be passed on, which is to be
    /// known before anybody pays for it.
    #[must_use]
    pub fn target(&self, path: &str, query: Option<&str>) -> Option<Uri> {
        let target = match query {
            Some(query) => format!("{}{path}?{query}", self.base),
            None => format!("{}{path}", self.base),
        };
        let uri: Uri = target.parse().ok()?;
        (uri.authority()?.as_str().as_bytes() == self.authority.as_bytes()).then_some(uri)
    }

    /// Sends one request and waits for the answer's head.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn send(&self, call: UpstreamCall) -> Result<Response<Incoming>, UpstreamError> {
        let begun = self.reachability.begin();
        let mut request = Request::new(call.body);
        *request.method_mut() = call.method;
        *request.uri_mut() = call.target;
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
            Ok(Ok(response)) if has_other_coding(response.headers()) => {
                tracing::warn!(
                    "the upstream has coded its answer for the connection in a way that nobody asked for"
                );
                Err(UpstreamError::Broken)
            }
            Ok(Ok(response)) => {
                call.upload.answered();
                Ok(response)
            }
            Ok(Err(error)) if error.is_connect() => {
                self.reachability.failed(begun, &Chain(&error));
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

/// Any transfer coding but `chunked` would be taken off by nobody, and its bytes sold as the answer. RFC 9112, section 6.1.
fn has_other_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some()
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
    /// Of [`Upstream::target`]: the path that was priced, and the query as it was.
    pub target: Uri,
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

//! The API that is sold: one pooled client, one fixed origin, no redirects followed, no bytes changed.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::{Client, Error};

use super::connection::Connector;
use super::reachability::Reachability;
use super::traffic::{Moment, Progress, progress};
use super::upload::{UploadBody, UploadReport};
use crate::config::{Secret, UpstreamConfig};
use crate::http_client::Connections;

/// Idle connections are dropped after this: many servers close theirs after five seconds, and a request that meets the
/// closing would be answered 502.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Most headers of an answer. Far more than any server sends on purpose; each costs memory before anything is known of it.
const MAX_HEADERS: usize = 256;

/// The upstream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: Client<Connector, UploadBody>,
    /// Connects anew for each request: for second tries, because what the pool still has may have ended, too.
    anew: Client<Connector, UploadBody>,
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
    /// What it answered is not HTTP, or its head is larger than is read.
    #[error("what the API behind the gateway answered cannot be read")]
    Unreadable,
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
        let connections = Connections {
            trust: &config.trust,
            connect_timeout: Some(config.connect_timeout),
            asks_the_silent: true,
            most_idle: usize::MAX,
            idle_timeout: POOL_IDLE,
        };
        let connector = Connector(connections.connector());
        let reachability = Reachability::new(connector.clone(), uri.clone(), config.connect_timeout);
        let mut pool = connections.pool();
        // A gateway may unfold what an old server has folded (RFC 9112, section 5.2).
        pool.http1_allow_obsolete_multiline_headers_in_responses(true).http1_max_headers(MAX_HEADERS);
        let anew = pool.clone().pool_max_idle_per_host(0).build(connector.clone());
        let client = pool.build(connector);
        Ok(Self {
            client,
            anew,
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
            answered = self.ask(request) => Ok(answered),
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
            Ok(Err((error, _))) if error.is_connect() => {
                self.reachability.failed(begun, &Chain(&error));
                Err(UpstreamError::Unreachable)
            }
            Ok(Err((error, progress))) => {
                tracing::warn!(error = %Chain(&error), "the upstream broke off");
                Err(match progress {
                    // As good as no connection: the upstream has certainly done nothing.
                    Progress::NotSent => UpstreamError::Unreachable,
                    _ if is_unreadable(&error) => UpstreamError::Unreadable,
                    _ => UpstreamError::Broken,
                })
            }
            Err(late) => Err(late),
        }
    }

    /// Sends it, and once more on a new connection if the one that the pool had was not there any more: what was certainly not sent,
    /// and what changes nothing. The failure says how far the request came.
    async fn ask(&self, request: Request<UploadBody>) -> Result<Response<Incoming>, (Error, Progress)> {
        let copy = copy_of(&request);
        let begun = Moment::now();
        match self.client.request(request).await {
            Ok(response) => Ok(response),
            // In a box: the way that most requests go does not carry room for a second one around.
            Err(error) => Box::pin(self.ask_again(copy, error, begun)).await,
        }
    }

    async fn ask_again(
        &self,
        copy: Option<Request<UploadBody>>,
        error: Error,
        begun: Moment,
    ) -> Result<Response<Incoming>, (Error, Progress)> {
        let came = progress(&error, begun);
        let is_safe = |copy: &Request<UploadBody>| matches!(*copy.method(), Method::GET | Method::HEAD);
        let again = copy.filter(|copy| match came {
            Progress::NotSent => !error.is_connect(),
            Progress::EndedUnanswered => is_safe(copy),
            Progress::Sent => false,
        });
        let Some(again) = again else { return Err((error, came)) };
        tracing::debug!(error = %Chain(&error), "a connection to the upstream had ended; the request is sent once more");
        let begun = Moment::now();
        self.anew.request(again).await.map_err(|error| {
            let came = progress(&error, begun);
            (error, came)
        })
    }
}

/// The request once more, if all of its body is at hand.
fn copy_of(request: &Request<UploadBody>) -> Option<Request<UploadBody>> {
    let mut copy = Request::new(request.body().copy()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

fn is_unreadable(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(hyper::Error::is_parse)
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

#[cfg(test)]
mod tests;

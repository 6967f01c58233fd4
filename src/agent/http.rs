//! HTTP as the agent needs it: one origin, no redirects, buffered requests, streamed answers.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::time::timeout;

use crate::http_client::{Connections, HttpClient};
use crate::protocol::stripe402::{PAYMENT, PAYMENT_RESPONSE, PaymentPayload, PaymentResponse};
use crate::trust::Trust;

use super::offer;

/// Establishing a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Unused connections are kept open for this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Scheme, host and port: what a key and a payment belong to. Written `https://api.example.com:443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// The text, always with a port.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a request goes. No `Display`: a query may hold secrets.
#[derive(Clone)]
pub struct Target {
    uri: Uri,
    origin: Origin,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.origin).finish()
    }
}

/// Why a URL is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not an absolute http or https URL.
    #[error("the URL must look like https://api.example.com/path")]
    Form,
    /// User and password in a URL end up in logs.
    #[error("the URL must not hold a user name or password; send them with -H 'Authorization: …'")]
    UserInfo,
    /// A key would travel in the clear.
    #[error(
        "http:// would send the wallet's key over the network in the clear; use https://, or --allow-insecure-http if you accept that"
    )]
    Insecure,
}

impl Target {
    /// Reads a URL. Plain http is for this machine only, unless `allow_insecure_http`.
    ///
    /// # Errors
    /// [`TargetError`] says what is wrong with it.
    pub fn parse(text: &str, allow_insecure_http: bool) -> Result<Self, TargetError> {
        let uri: Uri = text.parse().map_err(|_| TargetError::Form)?;
        let default_port = match uri.scheme_str() {
            Some("https") => 443,
            Some("http") => 80,
            _ => return Err(TargetError::Form),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(TargetError::Form)?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(TargetError::UserInfo);
        }
        if default_port == 80 && !allow_insecure_http && !is_loopback(host) {
            return Err(TargetError::Insecure);
        }
        let scheme = if default_port == 443 { "https" } else { "http" };
        let port = uri.port_u16().unwrap_or(default_port);
        let origin = Origin(format!("{scheme}://{}:{port}", host.to_ascii_lowercase()));
        Ok(Self { uri, origin })
    }

    /// What the wallet files it under.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.uri.host().is_some_and(is_loopback)
    }

    /// The URL itself, for the request line.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A request that can be sent again.
#[derive(Clone)]
pub struct Outgoing {
    /// Where to.
    pub target: Target,
    /// How.
    pub method: Method,
    /// Never a `payment` header: the agent adds that.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Bytes,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and body may hold secrets.
        f.debug_struct("Outgoing")
            .field("target", &self.target)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nothing reached the server.
    #[error("the server cannot be reached")]
    NotSent,
    /// The request may have arrived; the answer did not.
    #[error("the connection was lost before an answer came")]
    Lost,
    /// As [`SendError::Lost`], by the clock.
    #[error("the server did not answer in time")]
    TimedOut,
}

/// The head of an answer, and its body as it comes.
#[derive(Debug)]
pub struct Answer {
    /// As received.
    pub status: StatusCode,
    /// As received.
    pub headers: HeaderMap,
    /// The `payment-response` header, decoded.
    pub receipt: Option<PaymentResponse>,
    body: Body,
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`SendError`] when the body breaks off.
    pub async fn next(&mut self) -> Option<Result<Bytes, SendError>> {
        if !self.body.peeked.is_empty() {
            return Some(Ok(std::mem::take(&mut self.body.peeked)));
        }
        self.body.receive().await
    }

    /// The beginning of the body, up to about `limit` bytes. It stays part of the body.
    pub(super) async fn peek(&mut self, limit: usize) -> Bytes {
        let mut bytes = self.body.peeked.to_vec();
        while bytes.len() < limit {
            let Some(Ok(piece)) = self.body.receive().await else { break };
            bytes.extend_from_slice(&piece);
        }
        self.body.peeked = Bytes::from(bytes);
        self.body.peeked.clone()
    }
}

#[derive(Debug)]
struct Body {
    peeked: Bytes,
    rest: Incoming,
    idle: Duration,
}

impl Body {
    async fn receive(&mut self) -> Option<Result<Bytes, SendError>> {
        loop {
            match timeout(self.idle, self.rest.frame()).await {
                Err(_) => return Some(Err(SendError::TimedOut)),
                Ok(None) => return None,
                Ok(Some(Err(_))) => return Some(Err(SendError::Lost)),
                Ok(Some(Ok(frame))) => {
                    // Trailers are not passed on.
                    if let Ok(piece) = frame.into_data() {
                        return Some(Ok(piece));
                    }
                }
            }
        }
    }
}

/// The connection pool.
#[derive(Debug, Clone)]
pub struct Http {
    client: HttpClient,
    patience: Duration,
}

impl Http {
    /// A client that waits `patience` for the head of an answer, and between two pieces of its body, and believes what `trust`
    /// does.
    #[must_use]
    pub fn new(patience: Duration, trust: &Trust) -> Self {
        let connections = Connections {
            trust,
            connect_timeout: Some(CONNECT_TIMEOUT.min(patience)),
            asks_the_silent: false,
            most_idle: usize::MAX,
            idle_timeout: IDLE_TIMEOUT,
        };
        Self { client: connections.client(), patience }
    }

    /// Sends a request, with a payment or without. Redirects are answers like any other.
    ///
    /// # Errors
    /// [`SendError`] tells whether the server may have seen it.
    pub async fn send(
        &self,
        outgoing: &Outgoing,
        payment: Option<&PaymentPayload>,
    ) -> Result<Answer, SendError> {
        let mut request = Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = outgoing.target.uri().clone();
        *request.headers_mut() = outgoing.headers.clone();
        if !request.headers().contains_key(USER_AGENT) {
            let agent = HeaderValue::from_static(concat!("prepaid402/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().insert(USER_AGENT, agent);
        }
        request.headers_mut().remove(PAYMENT);
        if let Some(payment) = payment {
            let value = payment_header(payment).ok_or(SendError::NotSent)?;
            request.headers_mut().insert(PAYMENT, value);
        }
        self.exchange(request).await
    }

    pub(super) async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, SendError> {
        let response = match timeout(self.patience, self.client.request(request)).await {
            Err(_) => return Err(SendError::TimedOut),
            Ok(Err(error)) if error.is_connect() => return Err(SendError::NotSent),
            Ok(Err(_)) => return Err(SendError::Lost),
            Ok(Ok(response)) => response,
        };
        let (head, rest) = response.into_parts();
        let receipt =
            head.headers.get(PAYMENT_RESPONSE).and_then(|v| offer::receipt_from_header(v.as_bytes()));
        let body = Body { peeked: Bytes::new(), rest, idle: self.patience };
        Ok(Answer { status: head.status, headers: head.headers, receipt, body })
    }
}

fn payment_header(payment: &PaymentPayload) -> Option<HeaderValue> {
    let json = serde_json::to_vec(payment).ok()?;
    let mut value = HeaderValue::from_str(&STANDARD.encode(json)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (url, expected) in [
            ("https://API.example.com/x?y=1", "https://api.example.com:443"),
            ("https://api.example.com:8443", "https://api.example.com:8443"),
            ("http://127.0.0.1:8402/x", "http://127.0.0.1:8402"),
            ("http://[::1]/x", "http://[::1]:80"),
            ("http://localhost/x", "http://localhost:80"),
        ] {
            let target = Target::parse(url, false).expect(url);
            assert_eq!(target.origin().as_str(), expected);
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for (url, expected) in [
            ("/path", TargetError::Form),
            ("example.com/path", TargetError::Form),
            ("ftp://example.com/", TargetError::Form),
            ("https://user:secret@example.com/", TargetError::UserInfo),
            ("http://example.com/", TargetError::Insecure),
            ("http://127.0.0.1.example.com/", TargetError::Insecure),
            ("http://10.0.0.1/", TargetError::Insecure),
        ] {
            assert_eq!(Target::parse(url, false).expect_err(url), expected, "{url}");
        }
        assert!(Target::parse("http://10.0.0.1/", true).is_ok());
    }
}

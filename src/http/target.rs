//! The request target, in the same way at every door (RFC 9112, section 3.2), and what a gateway cannot pass on whatever it is.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{RequestHead, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HOST, HeaderValue, UPGRADE};
use actix_web::http::uri::PathAndQuery;
use actix_web::http::{Method, Uri};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest};

use super::problem::{self, Problem};
use crate::domain::RequestId;
use crate::pricing::path::PathError;

/// Most bytes of path and query. The servers and clients that we are made of read up to 65,534 bytes of a URL, and the upstream's
/// has its base path, too.
const MAX_TARGET_BYTES: usize = 64_000;

/// Whether it has more bytes than are read.
pub(crate) fn is_too_long(uri: &Uri) -> bool {
    uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET_BYTES)
}

/// Middleware of every door but the gateway's, which counts its refusals.
pub(crate) async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let problem = match request.uri() {
        _ if *request.method() == Method::OPTIONS => None,
        uri if uri.authority().is_some() => Some(Problem::InvalidRequest),
        uri => is_too_long(uri).then_some(Problem::TargetTooLong),
    };
    if let Some(problem) = problem {
        let id = RequestId::new();
        let mut answer = problem::plain(problem, id);
        super::finish(&mut answer, id);
        return Ok(request.into_response(answer));
    }
    next.call(request).await.map(ServiceResponse::map_into_boxed_body)
}

/// A target with scheme and host, as for a proxy, becomes one without; the host is the target's, whatever the header says (section
/// 3.2.2). What names another protocol, or user information (RFC 9110, section 4.2.4), stays, and is refused.
pub(crate) fn without_origin(head: &mut RequestHead) {
    let (Some(scheme), Some(authority)) = (head.uri.scheme_str(), head.uri.authority()) else { return };
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if !is_http || authority.as_str().contains('@') {
        return;
    }
    let Ok(host) = HeaderValue::from_str(authority.as_str()) else { return };
    // Without a path it is that of `/` (RFC 9110, section 4.2.3), also before a query.
    let written = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let slash = if written.starts_with('/') { "" } else { "/" };
    let Ok(target) = PathAndQuery::try_from([slash, written].concat()) else { return };
    head.headers.insert(HOST, host);
    head.uri = Uri::from(target);
}

/// Requests that a gateway must not pass on, whatever their path.
pub(crate) fn unfit_to_pass_on(request: &HttpRequest) -> Option<Problem> {
    if request.uri().authority().is_some() || request.uri().scheme().is_some() {
        return Some(Problem::InvalidRequest);
    }
    if is_too_long(request.uri()) {
        return Some(Problem::TargetTooLong);
    }
    // Any other protocol is an offer that may be ignored (RFC 9110, section 7.8); who asks for this one can do nothing else.
    let mut protocols =
        request.headers().get_all(UPGRADE).flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let is_web_socket = |protocol: &[u8]| {
        let name = protocol.split(|b| *b == b'/').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"websocket")
    };
    protocols.any(is_web_socket).then_some(Problem::UpgradeRefused)
}

impl From<PathError> for Problem {
    fn from(error: PathError) -> Self {
        match error {
            PathError::TooLong => Self::TargetTooLong,
            _ => Self::InvalidPath,
        }
    }
}

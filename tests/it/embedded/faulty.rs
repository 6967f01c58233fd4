//! Handlers, bodies and middleware that do what no program should.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::FromRequest;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;

use super::*;

/// What every panic says: it must not be in a log of ours.
pub const PAYLOAD: &str = "on purpose: a secret of the caller";

/// A body of this many bytes, that panics.
pub struct Faulty {
    kind: String,
    left: usize,
    size: usize,
}

impl Faulty {
    pub fn new(kind: &str, size: usize) -> Self {
        Self { kind: kind.to_owned(), left: size, size }
    }
}

impl MessageBody for Faulty {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        let size = u64::try_from(self.size).unwrap();
        match self.kind.as_str() {
            "panics-in-size" => panic!("{PAYLOAD}"),
            "panics-sized" => BodySize::Sized(size + 100),
            "panics-when-dropped" => BodySize::Sized(size),
            _ => BodySize::Stream,
        }
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, std::convert::Infallible>>> {
        let left = std::mem::take(&mut self.left);
        match (left, self.kind.starts_with("panics-when-dropped")) {
            (0, true) => Poll::Ready(None),
            (0, false) => panic!("{PAYLOAD}"),
            (left, _) => Poll::Ready(Some(Ok(Bytes::from(vec![b'x'; left])))),
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if self.kind.starts_with("panics-when-dropped") && !std::thread::panicking() {
            panic!("{PAYLOAD}");
        }
    }
}

/// Cannot be extracted.
pub struct Extracted;

impl FromRequest for Extracted {
    type Error = actix_web::Error;
    type Future = std::future::Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        request.app_data::<web::Data<Handlers>>().unwrap().calls.fetch_add(1, Ordering::SeqCst);
        panic!("{PAYLOAD}")
    }
}

pub async fn never_called(_: Extracted) -> &'static str {
    "never"
}

/// Middleware of the application's own: does what the header `x-mischief` says.
pub async fn mischief(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let how = request.headers().get("x-mischief").map(|how| how.to_str().unwrap().to_owned());
    let how = how.unwrap_or_default();
    match how.as_str() {
        "panics-before" => panic!("{PAYLOAD}"),
        "errs-before" => return Err(error::ErrorBadGateway("an error of middleware")),
        "gives-up" => {
            let patience = std::time::Duration::from_millis(50);
            let answered = tokio::time::timeout(patience, next.call(request)).await;
            let answered = answered.map_err(|_| error::ErrorGatewayTimeout("too late"))?;
            return answered.map(ServiceResponse::map_into_boxed_body);
        }
        _ => {}
    }
    let answered = next.call(request).await?.map_into_boxed_body();
    match how.as_str() {
        "panics" => panic!("{PAYLOAD}"),
        "errs" => Err(error::ErrorBadGateway("an error of middleware")),
        "replaces" => Ok(answered.into_response(HttpResponse::ServiceUnavailable().finish())),
        _ => Ok(answered),
    }
}

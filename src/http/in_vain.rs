//! What is said of repeating while the database is full, lost, or another one: only a person mends that, so programs that repeat by
//! themselves are told not to. `Retry-After` and `retryable` stay: it may be worth a try later.

use actix_web::Error;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use futures_util::future::{FutureExt as _, LocalBoxFuture};

use super::problem::SHOULD_RETRY;
use crate::db::Condition;

/// Corrects the headers of a refusal of ours that has to do with the database.
pub(crate) fn tell(condition: &Condition, headers: &mut HeaderMap) {
    if condition.waits_for_a_person()
        && let Some(said) = headers.get_mut(SHOULD_RETRY)
    {
        *said = HeaderValue::from_static("false");
    }
}

/// Middleware of doors where nothing is passed on, and everything needs the database.
pub(crate) fn told(
    condition: Condition,
) -> impl Fn(ServiceRequest, Next<BoxBody>) -> LocalBoxFuture<'static, Result<ServiceResponse, Error>> + Clone
{
    move |request, next| {
        let condition = condition.clone();
        async move {
            let mut answered = next.call(request).await?;
            tell(&condition, answered.headers_mut());
            Ok(answered)
        }
        .boxed_local()
    }
}

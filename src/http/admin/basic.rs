//! Who may use the API: a user of the admin pages who says name and password with every request.

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::api::{Refused, refuse};
use super::{AdminState, login, password, users};

/// The user who asks.
#[derive(Debug, Clone)]
pub(super) struct Operator(pub(super) String);

/// RFC 7617.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"prepaid402\", charset=\"UTF-8\"");

/// Middleware around the API. There are no cookies here; a browser, which sends a password that it remembers with other sites'
/// requests too, is refused before anything is looked at.
pub(super) async fn require_operator(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    match check(&request).await {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.call(request).await
        }
        Err(answer) => Ok(request.into_response(answer)),
    }
}

async fn check(request: &ServiceRequest) -> Result<Operator, HttpResponse> {
    if is_browser(request.headers()) {
        return Err(refuse(Refused::Browser));
    }
    let Some(state) = request.app_data::<web::Data<AdminState>>() else {
        return Err(HttpResponse::InternalServerError().finish());
    };
    let Some((name, given)) = presented(request.headers()) else {
        return Err(unauthorized());
    };
    let address = state.callers.address(request.request());
    if password::is_generated(&given) {
        return match login::is_right(state, &name, &given).await {
            Ok(true) => Ok(Operator(name)),
            Ok(false) => {
                tracing::debug!(?address, "wrong name or generated password for the admin API");
                Err(unauthorized())
            }
            Err(error) => Err(unread(&error)),
        };
    }
    // A turn first: then a program that asks much at once is not taken for one that guesses, since no more of its attempts
    // are open than there are turns.
    let Some(turn) = login::turn(state).await else {
        return Err(refuse(Refused::Busy));
    };
    if let Err(seconds) = state.throttle.attempt(&name, address, state.clock.now()) {
        tracing::warn!(?address, "too many attempts at the admin API");
        return Err(refuse(Refused::TooManyAttempts(seconds)));
    }
    match login::check(state, turn, name.clone(), given).await {
        Ok(login::Checked::Right { turn, .. }) => {
            state.throttle.succeeded(&name, address, state.clock.now());
            drop(turn);
            Ok(Operator(name))
        }
        Ok(login::Checked::Wrong) => {
            // Without the name: people type their password into that field.
            tracing::warn!(?address, "wrong name or password for the admin API");
            Err(unauthorized())
        }
        Err(error) => Err(unread(&error)),
    }
}

fn unread(error: &sqlx::Error) -> HttpResponse {
    tracing::error!(%error, "the admin users could not be read");
    refuse(Refused::Busy)
}

/// Every current browser sends one of these with what could change something.
fn is_browser(headers: &HeaderMap) -> bool {
    ["sec-fetch-site", "sec-fetch-mode", "origin"].iter().any(|name| headers.contains_key(*name))
}

/// Name and password, of one header of the right form.
fn presented(headers: &HeaderMap) -> Option<(String, String)> {
    let mut values = headers.get_all(header::AUTHORIZATION);
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(token.trim()).ok()?).ok()?;
    let (name, given) = text.split_once(':')?;
    let fits = name.len() <= users::MAX_NAME && given.len() <= password::MAX_BYTES;
    fits.then(|| (name.to_owned(), given.to_owned()))
}

fn unauthorized() -> HttpResponse {
    let mut answer = refuse(Refused::Unauthorized);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
    answer
}

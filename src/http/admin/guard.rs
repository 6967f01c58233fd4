//! Who may pass: a live session for every page, and for every change also proof that our own page asked for it.

use actix_web::body::BoxBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpResponse, web};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::sessions::{self, Found, Session, SessionToken};
use super::{AdminState, login, pages};

/// Whether a browser says that one of our own pages caused the request. Every current browser sends `Sec-Fetch-Site`
/// on HTTPS and loopback; elsewhere `Origin` has to name the host that the request came to. Neither: refused.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("sec-fetch-site");
    if let Some(site) = sites.next() {
        return site.as_bytes() == b"same-origin" && sites.next().is_none();
    }
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
        }
        _ => false,
    }
}

#[derive(Deserialize)]
struct CsrfField {
    csrf_token: String,
}

/// Whether a form carries the session's token.
fn has_token(form: &[u8], session: &Session) -> bool {
    let field =
        std::str::from_utf8(form).ok().and_then(|text| web::Query::<CsrfField>::from_query(text).ok());
    field.is_some_and(|field| field.csrf_token.as_bytes().ct_eq(session.csrf_token.as_bytes()).into())
}

/// The token in the request's cookie.
pub(super) fn token(request: &actix_web::HttpRequest, state: &AdminState) -> Option<SessionToken> {
    request.cookie(state.cookie_name()).and_then(|cookie| SessionToken::parse(cookie.value()))
}

/// Middleware around every page: passes requests with a live session, and puts the [`Session`] where handlers find it.
pub(super) async fn require_session(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    match check(&mut request).await {
        Ok(session) => {
            request.extensions_mut().insert(session);
            next.call(request).await
        }
        Err(answer) => Ok(request.into_response(answer)),
    }
}

async fn check(request: &mut ServiceRequest) -> Result<Session, HttpResponse> {
    let Some(state) = request.app_data::<web::Data<AdminState>>().cloned() else {
        return Err(HttpResponse::InternalServerError().finish());
    };
    let Some(token) = token(request.request(), &state) else {
        return Err(pages::see_other("/admin/login"));
    };
    let now = state.clock.now();
    let hash = token.hash();
    let session = match sessions::find(state.db.reader(), hash, now).await {
        Ok(Found::Live(session)) => session,
        Ok(Found::Nothing) => return Err(login::ended(&state)),
        Ok(Found::Expired) => {
            sessions::end(&state.db, hash).await.map_err(|error| pages::failed(&state, None, &error))?;
            return Err(login::ended(&state));
        }
        Err(error) => return Err(pages::failed(&state, None, &error)),
    };
    if !request.method().is_safe() {
        let refused = || pages::refused(&state, Some(&session));
        if !is_same_origin(request.headers()) {
            return Err(refused());
        }
        let form = request.extract::<web::Bytes>().await.map_err(|_| refused())?;
        if !has_token(&form, &session) {
            return Err(refused());
        }
        // The handler reads the form again.
        request.set_payload(Payload::Stream {
            payload: Box::pin(futures_util::stream::once(std::future::ready(Ok(form)))),
        });
    }
    sessions::touch(&state.db, &session, now)
        .await
        .map_err(|error| pages::failed(&state, Some(&session), &error))?;
    Ok(session)
}

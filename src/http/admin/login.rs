//! Logging in and out.

use std::time::Duration;

use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{Error, HttpRequest, HttpResponse, web};
use askama::Template;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::db::query;

use super::view::Chrome;
use super::{AdminState, guard, pages, password, sessions, users};

/// How long a login waits for its turn to compute a hash.
const HASH_WAIT: Duration = Duration::from_secs(5);

/// One answer for a wrong name and a wrong password.
const WRONG: &str = "The name or the password is not right.";

#[derive(Template)]
#[template(path = "admin/login.html")]
struct LoginPage<'a> {
    chrome: Chrome<'a>,
    error: Option<String>,
    name: &'a str,
}

/// The login form. Deliberately without `Debug`.
#[derive(Deserialize)]
pub(super) struct LoginForm {
    name: String,
    password: String,
}

fn form(state: &AdminState, status: StatusCode, error: Option<String>, name: &str) -> HttpResponse {
    pages::page(status, &LoginPage { chrome: Chrome::outside(state), error, name })
}

/// `GET /admin/login`.
pub(super) async fn show_form(state: web::Data<AdminState>) -> HttpResponse {
    form(&state, StatusCode::OK, None, "")
}

/// To the login form, without the cookie that no longer works.
pub(super) fn ended(state: &AdminState) -> HttpResponse {
    let mut answer = pages::see_other("/admin/login");
    set_cookie(&mut answer, state, None);
    answer
}

fn set_cookie(answer: &mut HttpResponse, state: &AdminState, token: Option<&str>) {
    let mut cookie = Cookie::build(state.cookie_name(), token.unwrap_or("").to_owned())
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(state.secure_cookies)
        .finish();
    if token.is_none() {
        cookie.set_max_age(actix_web::cookie::time::Duration::ZERO);
    }
    // Fails only for a cookie that is no header value; ours is base64url.
    if let Err(error) = answer.add_cookie(&cookie) {
        tracing::error!(%error, "the session cookie could not be set");
    }
}

fn later(state: &AdminState, status: StatusCode, seconds: i64, error: String, name: &str) -> HttpResponse {
    let mut answer = form(state, status, Some(error), name);
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    answer
}

/// `POST /admin/login`.
pub(super) async fn log_in(
    request: HttpRequest,
    state: web::Data<AdminState>,
    fields: Result<web::Form<LoginForm>, Error>,
) -> HttpResponse {
    if !guard::is_same_origin(request.headers()) {
        return pages::refused(&state, None);
    }
    let Ok(web::Form(fields)) = fields else {
        return form(&state, StatusCode::FORBIDDEN, Some(WRONG.to_owned()), "");
    };
    if fields.name.len() > users::MAX_NAME || fields.password.len() > password::MAX_BYTES {
        return form(&state, StatusCode::FORBIDDEN, Some(WRONG.to_owned()), "");
    }
    let address = state.callers.address(&request);
    // Before anything expensive, and counted before the outcome is known.
    if let Err(seconds) = state.throttle.attempt(&fields.name, address, state.clock.now()) {
        tracing::warn!(?address, "too many login attempts");
        let error = format!("Too many attempts. Please try again in {seconds} seconds.");
        return later(&state, StatusCode::TOO_MANY_REQUESTS, seconds, error, &fields.name);
    }
    let replaced = guard::token(&request, &state).map(|token| token.hash());
    let Some(turn) = turn(&state).await else {
        let error = "Many people are logging in. Please try again in a moment.".to_owned();
        return later(&state, StatusCode::SERVICE_UNAVAILABLE, 5, error, &fields.name);
    };
    match check(&state, turn, fields.name.clone(), fields.password).await {
        Ok(Checked::Right { user, password_hash, turn: _held }) => {
            let now = state.clock.now();
            match sessions::begin(&state.db, user, password_hash, replaced, now).await {
                Ok(Some(token)) => {
                    state.throttle.succeeded(&fields.name, address, state.clock.now());
                    tracing::info!(user = fields.name, ?address, "logged in to the admin pages");
                    let mut answer = pages::see_other("/admin");
                    set_cookie(&mut answer, &state, Some(token.expose()));
                    answer
                }
                Ok(None) => form(&state, StatusCode::FORBIDDEN, Some(WRONG.to_owned()), &fields.name),
                Err(error) => pages::failed(&state, None, &error),
            }
        }
        Ok(Checked::Wrong) => {
            // Without the name: people type their password into that field.
            tracing::warn!(?address, "wrong name or password for the admin pages");
            form(&state, StatusCode::FORBIDDEN, Some(WRONG.to_owned()), &fields.name)
        }
        Err(error) => pages::failed(&state, None, &error),
    }
}

pub(super) enum Checked {
    /// The turn ends when this is dropped, which should be after the throttle has heard of it: otherwise the next attempts
    /// of the same user are counted on top of this one.
    Right {
        user: i64,
        password_hash: String,
        turn: OwnedSemaphorePermit,
    },
    Wrong,
}

/// Waits for a turn to compute a hash. `None`: too many others wait.
pub(super) async fn turn(state: &AdminState) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(HASH_WAIT, state.hashes.clone().acquire_owned()).await.ok()?.ok()
}

/// The user of a name, and the hash of the password.
async fn known(state: &AdminState, name: &str) -> Result<Option<(i64, String)>, sqlx::Error> {
    let row = query("SELECT id, password_hash FROM admin_users WHERE name = $1")
        .bind(name.to_owned())
        .fetch_optional(state.db.reader())
        .await?;
    row.map(|row| Ok((row.try_get("id")?, row.try_get("password_hash")?))).transpose()
}

/// Whether a password that was made here is the name's: nobody guesses one, so nobody is slowed down, and nothing slow is computed.
pub(super) async fn is_right(state: &AdminState, name: &str, generated: &str) -> Result<bool, sqlx::Error> {
    let known = known(state, name).await?;
    Ok(known.is_some_and(|(_, phc)| password::verify(generated, &phc)))
}

/// Checks name and password with one hash computation either way.
pub(super) async fn check(
    state: &AdminState,
    turn: OwnedSemaphorePermit,
    name: String,
    given: String,
) -> Result<Checked, sqlx::Error> {
    let known = known(state, &name).await?;
    let phc = known.as_ref().map_or(password::DUMMY_HASH, |(_, phc)| phc).to_owned();
    // The turn is held by the work, not by the caller, who may be gone before it ends.
    let verified = tokio::task::spawn_blocking(move || (password::verify(&given, &phc), turn)).await;
    Ok(match (known, verified) {
        (Some((user, password_hash)), Ok((true, turn))) => Checked::Right { user, password_hash, turn },
        _ => Checked::Wrong,
    })
}

/// What the logout form says.
#[derive(Deserialize)]
pub(super) struct LogoutForm {
    everywhere: Option<String>,
}

/// `POST /admin/logout`, with `everywhere` on all of the user's devices.
pub(super) async fn log_out(
    state: web::Data<AdminState>,
    session: web::ReqData<sessions::Session>,
    fields: Result<web::Form<LogoutForm>, Error>,
) -> HttpResponse {
    let Ok(web::Form(fields)) = fields else {
        return pages::refused(&state, Some(&session));
    };
    let ending = if fields.everywhere.is_some() {
        sessions::end_all(&state.db, session.user).await
    } else {
        sessions::end(&state.db, session.hash).await
    };
    if let Err(error) = ending {
        return pages::failed(&state, Some(&session), &error);
    }
    let mut answer = ended(&state);
    answer.headers_mut().insert(
        header::HeaderName::from_static("clear-site-data"),
        header::HeaderValue::from_static("\"cookies\", \"storage\""),
    );
    answer
}

//! The admin pages: what the seller's finance and support people look at. Read-only. What changes something is in `api`, for
//! programs, behind `basic`.
//!
//! They have a listener of their own, on loopback by default. A page is answered only through `guard::require_session`,
//! which also stands in front of whatever is not found; outside it are the login form, the style sheet and the redirect
//! from `/`. There is no script, nothing from elsewhere, and every answer carries the headers of `headers`.

pub mod api;
mod basic;
mod guard;
mod headers;
mod hosts;
mod login;
mod pages;
mod password;
mod sessions;
#[cfg(test)]
mod tests;
mod throttle;
pub mod users;
mod view;

use std::fmt;
use std::sync::Arc;

use actix_web::Error;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, ServiceConfig};
use tokio::sync::Semaphore;

pub use password::PasswordError;

use crate::config::Config;
use crate::db::Db;
use crate::http::callers::Callers;
use hosts::Hosts;
use throttle::LoginThrottle;

/// Password hashes computed at the same time: 19 MiB each.
const HASHES: usize = 2;
/// The largest form is the login form: a password of 1 KiB, percent-encoded.
const MAX_FORM: usize = 8 * 1024;

/// The clock of sessions and delays, in Unix microseconds. Tests move it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// A clock that asks the given function.
    pub fn new(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> i64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(crate::db::now_micros)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What the admin pages need. One for the whole process: put it into one `web::Data` outside the app factory, or every
/// worker counts login attempts for itself.
#[derive(Debug)]
pub struct AdminState {
    /// Where everything is.
    pub db: Db,
    /// Says SANDBOX on every page.
    pub sandbox: bool,
    /// The pages are reached over HTTPS: the cookie is `Secure` and has the `__Host-` prefix. Otherwise plain HTTP on
    /// loopback.
    pub secure_cookies: bool,
    /// The gateway's origin, shown to people.
    pub public_url: String,
    /// By which names the listener answers.
    hosts: Hosts,
    /// Where whoever logs in comes from.
    callers: Callers,
    clock: Clock,
    throttle: LoginThrottle,
    hashes: Arc<Semaphore>,
}

impl AdminState {
    /// With the system's clock and no login attempts, for addresses and `localhost` alone, and behind no proxy.
    #[must_use]
    pub fn new(db: Db, sandbox: bool, secure_cookies: bool, public_url: String) -> Self {
        Self {
            db,
            sandbox,
            secure_cookies,
            public_url,
            hosts: Hosts::default(),
            callers: Callers::new(&[]),
            clock: Clock::default(),
            throttle: LoginThrottle::new(),
            hashes: Arc::new(Semaphore::new(HASHES)),
        }
    }

    /// Behind the proxies of the settings, and for the names in them.
    #[must_use]
    pub(crate) fn reached_by(mut self, config: &Config, callers: Callers) -> Self {
        self.hosts = Hosts::of(config);
        self.callers = callers;
        self
    }

    /// With another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// `__Host-` makes browsers insist on `Secure`, `Path=/` and no `Domain`; it needs HTTPS.
    fn cookie_name(&self) -> &'static str {
        if self.secure_cookies { "__Host-prepaid402-admin" } else { "prepaid402-admin" }
    }
}

/// Middleware around everything on the listener: whoever asks for it by a name that is not its own is not answered.
///
/// # Errors
/// Those of what it is around.
pub async fn require_known_host(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    hosts::require_known(request, next).await
}

/// Registers `/`, `/admin/…` and the answer to everything else. The app must have `web::Data<AdminState>`; routes of
/// others on the same listener (metrics, health) are registered before or after, but no other default service.
pub fn configure(cfg: &mut ServiceConfig) {
    let signed_in = web::scope("")
        .wrap(from_fn(guard::require_session))
        .route("", web::get().to(pages::overview))
        .route("/", web::get().to(pages::overview))
        .route("/clients", web::get().to(pages::clients))
        .route("/clients/{public_id}", web::get().to(pages::client))
        .route("/payments", web::get().to(pages::payments))
        .route("/logout", web::post().to(login::log_out))
        .default_service(web::to(pages::not_found));
    let admin = web::scope("/admin")
        .app_data(web::PayloadConfig::new(MAX_FORM))
        .app_data(web::FormConfig::default().limit(MAX_FORM))
        .wrap(from_fn(headers::add))
        .service(web::resource("/style.css").route(web::get().to(pages::style_sheet)))
        .service(
            web::resource("/login")
                .route(web::get().to(login::show_form))
                .route(web::post().to(login::log_in)),
        )
        .service(web::scope("/api").wrap(from_fn(basic::require_operator)).configure(api::configure))
        .service(signed_in);
    cfg.service(
        web::resource("/")
            .wrap(from_fn(headers::add))
            .route(web::get().to(|| async { pages::see_other("/admin") })),
    )
    .service(admin)
    .default_service(web::to(pages::outside));
}

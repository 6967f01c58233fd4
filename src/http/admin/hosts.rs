//! By which names the admin listener answers. A web site can have a name of its own point at this listener, and its pages would
//! then be of the same origin as ours in the browser of whoever looks at them (DNS rebinding). So a name is answered that the operator has
//! written down, and what is no name: an address cannot be pointed anywhere.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::Error;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap};
use actix_web::middleware::Next;
use actix_web::web;
use percent_encoding::percent_decode_str;

use super::api::{Refused, refuse};
use super::{AdminState, headers, pages};
use crate::config::{Config, host_of};

/// Programs of every kind ask for these, by service names that nobody writes down.
const FOR_PROGRAMS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// What browsers send and such programs do not. A page cannot leave `accept-language` out; the others show when they are there.
const MARKS_OF_BROWSERS: [&str; 6] =
    ["accept-language", "cookie", "origin", "referer", "sec-fetch-mode", "sec-fetch-site"];

/// The names, besides addresses and `localhost`.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    names: Vec<String>,
    /// Whether one that is not answered was told to the log.
    has_told: AtomicBool,
}

impl Hosts {
    /// Those of the settings.
    pub(super) fn of(config: &Config) -> Self {
        let public = config.admin_public_url.as_deref().and_then(|url| host_of(url.split_once("://")?.1));
        let names = config.admin_hosts.iter().cloned().chain(public);
        Self { names: names.collect(), has_told: AtomicBool::new(false) }
    }

    fn answers_to(&self, authority: &str) -> bool {
        host_of(authority).is_some_and(|host| {
            host == "localhost" || host.parse::<IpAddr>().is_ok() || self.names.contains(&host)
        })
    }

    /// Whether every name in the request is answered. None at all is: no browser leaves it out.
    fn know(&self, request: &ServiceRequest) -> bool {
        let target = request.uri().authority().map(|authority| authority.as_str());
        let mut hosts = request.headers().get_all(header::HOST).map(|host| host.to_str().unwrap_or_default());
        target.is_none_or(|target| self.answers_to(target)) && hosts.all(|host| self.answers_to(host))
    }

    fn tell(&self, request: &ServiceRequest) {
        let named = request.uri().host().or_else(|| request.headers().get(header::HOST)?.to_str().ok());
        let host: String = named.unwrap_or_default().chars().take(60).collect();
        if self.has_told.swap(true, Ordering::Relaxed) {
            tracing::debug!(?host, "the admin listener was asked under a name that it does not answer to");
        } else {
            tracing::warn!(
                ?host,
                "the admin listener was asked under a name that it does not answer to, because a web site could have its own name \
                 point here; if you reach it by this name, write it into admin_hosts"
            );
        }
    }
}

fn is_browser(headers: &HeaderMap) -> bool {
    MARKS_OF_BROWSERS.iter().any(|mark| headers.contains_key(*mark))
}

/// Middleware around the whole listener.
pub(super) async fn require_known(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let state = request.app_data::<web::Data<AdminState>>().cloned();
    let Some(state) = state.filter(|state| !state.hosts.know(&request)) else {
        return next.call(request).await;
    };
    // Routes are found by the decoded path.
    let path = percent_decode_str(request.path()).decode_utf8_lossy().into_owned();
    let is_for_programs = FOR_PROGRAMS.contains(&path.as_str());
    // Nothing else is here: whatever is asked for, the answer is the same empty page.
    let is_ours = path == "/" || path.starts_with("/admin");
    let is_held_to_them = is_ours || (is_for_programs && is_browser(request.headers()));
    if !is_held_to_them {
        return next.call(request).await;
    }
    let is_api = is_for_programs || path.starts_with("/admin/api");
    state.hosts.tell(&request);
    let mut answer = if is_api { refuse(Refused::UnknownHost) } else { pages::unknown_host(&state) };
    headers::set(answer.headers_mut(), Some(&state));
    Ok(request.into_response(answer))
}

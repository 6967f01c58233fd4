//! Where callers reach this server: the beginning of every absolute URL that we write.

use std::borrow::Cow;
use std::sync::Arc;

use actix_web::HttpRequest;

use super::callers::Callers;
use crate::config::{Config, origin_of};

/// What `public_url` says. Where nobody has set it, what the caller has asked, if that is a host; what other headers say is
/// believed only from a trusted proxy.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    public_url: Arc<str>,
    is_set: bool,
    callers: Callers,
}

impl Origin {
    pub(crate) fn new(config: &Config, callers: Callers) -> Self {
        Self { public_url: config.public_url.as_str().into(), is_set: config.public_url_is_set, callers }
    }

    /// Scheme and host, without a slash at the end.
    pub(crate) fn of(&self, request: &HttpRequest) -> Cow<'_, str> {
        let asked = if self.is_set { None } else { self.asked(request) };
        asked.map_or(Cow::Borrowed(&*self.public_url), Cow::Owned)
    }

    fn asked(&self, request: &HttpRequest) -> Option<String> {
        let mut hosts = request.headers().get_all("host");
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().ok()?,
            // HTTP/2 has it in the target.
            (None, None) => request.uri().authority()?.as_str(),
            _ => return None,
        };
        let is_https = request.app_config().secure() || self.came_by_https(request);
        origin_of(if is_https { "https" } else { "http" }, host)
    }

    /// Whether a trusted proxy says so.
    fn came_by_https(&self, request: &HttpRequest) -> bool {
        let is_trusted = request.peer_addr().is_some_and(|peer| self.callers.trust(peer.ip()));
        is_trusted && request.headers().get("x-forwarded-proto").is_some_and(|scheme| scheme == "https")
    }
}

//! Which path the sandbox's printed commands ask for: one that costs something and that the API has.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Uri};

use crate::agent::http::{Http, Outgoing, Target};
use crate::config::{Config, RouteConfig, UpstreamConfig};
use crate::domain::Micros;

/// What many APIs have, below a pattern that covers it.
const USUAL: [&str; 6] = ["", "openapi.json", "docs", "health", "status", "v1/models"];
/// Stands for what nobody but the seller knows.
const UNKNOWN: &str = "PATH";
/// An API on the same machine answers sooner.
const PATIENCE: Duration = Duration::from_secs(2);

/// A path for the first try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suggestion {
    pub(super) path: String,
    pub(super) price: Micros,
    /// Whether a part of the path stands for one that is not known.
    pub(super) is_open: bool,
}

/// Suggests a path. Of the demo API the routes are known; the seller's own is asked, by GET and without a payment.
pub(super) async fn suggest(config: &Config, is_demo: bool) -> Suggestion {
    let routes = || {
        let with_get = config.routes.iter().filter(|route| route.methods.contains("GET"));
        with_get.filter_map(|route| Some((route, route.charge.rule()?.most())))
    };
    // The dearest shows most: the demo's is the weather.
    let mut plain: Vec<_> = routes().filter(|(route, _)| !is_open(&route.pattern)).collect();
    plain.sort_by_key(|(_, price)| std::cmp::Reverse(price.get()));
    if is_demo && let Some((route, price)) = plain.first() {
        return Suggestion { path: route.pattern.clone(), price: *price, is_open: false };
    }
    let api = config.upstream.as_ref().map(Api::new);
    for (route, price) in &plain {
        if let Some(api) = &api
            && api.has(&route.pattern).await.is_some()
        {
            return Suggestion { path: route.pattern.clone(), price: *price, is_open: false };
        }
    }
    // What the seller has named is there, though perhaps not without a query or a header.
    if let Some((route, price)) = plain.first() {
        return Suggestion { path: route.pattern.clone(), price: *price, is_open: false };
    }
    for (route, price) in routes() {
        for path in usual(route, config) {
            if let Some(api) = &api
                && let Some(path) = api.has(&path).await
            {
                return Suggestion { path, price, is_open: false };
            }
        }
    }
    match routes().next() {
        Some((route, price)) => Suggestion { path: with_places(&route.pattern), price, is_open: true },
        None => Suggestion { path: "/".to_owned(), price: Micros::ZERO, is_open: false },
    }
}

fn is_open(pattern: &str) -> bool {
    pattern.contains(['*', '{'])
}

/// Usual paths that a pattern with a final `*` covers and no other route has.
fn usual(route: &RouteConfig, config: &Config) -> Vec<String> {
    let Some(prefix) = route.pattern.strip_suffix('*').filter(|prefix| !is_open(prefix)) else {
        return Vec::new();
    };
    let paths = USUAL.iter().map(|usual| format!("{prefix}{usual}"));
    paths.filter(|path| config.routes.iter().all(|other| other.pattern != *path)).collect()
}

/// A pattern with words in capitals where something is to be filled in.
fn with_places(pattern: &str) -> String {
    let segments = pattern.split('/').map(|segment| match segment.strip_prefix('{') {
        Some(name) => name.trim_end_matches('}').to_uppercase(),
        None => segment.replace('*', UNKNOWN),
    });
    segments.collect::<Vec<_>>().join("/")
}

/// The seller's API, asked directly.
struct Api<'a> {
    http: Http,
    config: &'a UpstreamConfig,
}

impl<'a> Api<'a> {
    fn new(config: &'a UpstreamConfig) -> Self {
        Self { http: Http::new(PATIENCE, &config.trust), config }
    }

    /// The path, if a GET of it is answered 2xx; or the path on the same API to which it redirects.
    async fn has(&self, path: &str) -> Option<String> {
        let (status, moved) = self.get(path).await?;
        if status.is_success() {
            return Some(path.to_owned());
        }
        let moved = moved.filter(|_| status.is_redirection())?;
        let (status, _) = self.get(&moved).await?;
        status.is_success().then_some(moved)
    }

    async fn get(&self, path: &str) -> Option<(hyper::StatusCode, Option<String>)> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.config.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.insert(name, HeaderValue::from_str(value.expose()).ok()?);
        }
        let target = Target::parse(&format!("{}{path}", self.config.url), true).ok()?;
        let outgoing = Outgoing { target, method: Method::GET, headers, body: bytes::Bytes::new() };
        let answer = self.http.send(&outgoing, None).await.ok()?;
        let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        Some((answer.status, location.and_then(|location| self.path_of(location))))
    }

    /// The path of a redirect that stays on this API.
    fn path_of(&self, location: &str) -> Option<String> {
        let rest = location.strip_prefix(&self.config.url).unwrap_or(location);
        let uri: Uri = rest.parse().ok()?;
        let stays = uri.authority().is_none() && rest.starts_with('/') && !rest.starts_with("//");
        stays.then(|| uri.path().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_be_filled_in_stands_out() {
        for (pattern, shown) in
            [("/*", "/PATH"), ("/v1/*", "/v1/PATH"), ("/items/{id}", "/items/ID"), ("/{a}/b/*", "/A/b/PATH")]
        {
            assert_eq!(with_places(pattern), shown);
        }
    }
}

//! Redirects of the upstream, as the caller must see them.

use hyper::header::HeaderValue;

use super::ResponseContext;

/// The location behind the public URL, when it points into the upstream; otherwise `None`, and it stays as it is.
///
/// Into the upstream points an absolute URL of its origin and base path (the origin compared without letter case and
/// default port), and, when there is a base path, an absolute path below it.
pub(super) fn for_caller(location: &HeaderValue, context: &ResponseContext<'_>) -> Option<HeaderValue> {
    let rewritten = rewritten(location.to_str().ok()?, context)?;
    HeaderValue::from_str(&rewritten).ok()
}

fn rewritten(location: &str, context: &ResponseContext<'_>) -> Option<String> {
    let (upstream_origin, base_path) = split_origin(context.upstream_base)?;
    let base_path = base_path.trim_end_matches('/');
    if let Some((origin, path)) = split_origin(location) {
        let inner = below(path, base_path).filter(|_| origin == upstream_origin)?;
        return Some(format!("{}{inner}", context.public_url.trim_end_matches('/')));
    }
    // `//host/x` is another origin.
    if base_path.is_empty() || location.starts_with("//") {
        return None;
    }
    let inner = below(location, base_path)?;
    // `//x` below the base would name a host.
    match inner.strip_prefix('/') {
        Some(rest) if rest.starts_with(['/', '\\']) => None,
        Some(_) => Some(inner.to_owned()),
        None => Some(format!("/{inner}")),
    }
}

/// What follows the base path, when the path is it or lies below it.
fn below<'a>(path: &'a str, base_path: &str) -> Option<&'a str> {
    path.strip_prefix(base_path).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

/// The origin in one form (lower case, no default port) and the rest, of an absolute `http` or `https` URL.
fn split_origin(url: &str) -> Option<(String, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(default_port).unwrap_or(&authority);
    Some((format!("{scheme}://{authority}"), path))
}

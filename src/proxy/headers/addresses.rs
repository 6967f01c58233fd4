//! Addresses in the upstream's answers, as the caller must see them: where the upstream is, is nobody's business, and nobody
//! outside could follow it.
//!
//! The upstream's own address becomes the public one wherever it stands in any header: as a whole (`Location`,
//! `Operation-Location`), among others (`Link`, `Refresh`, `WWW-Authenticate`), without a scheme (`//host/path`), with another one,
//! with its default port written or left out, in any case, with user information, which is left out. What is on the same machine
//! at another port is another server, and stays. Where the upstream has a base path, that is taken off, of paths without an
//! address, too, in the headers that are known to hold some.

use hyper::header::{HeaderName, HeaderValue};

use super::ResponseContext;

/// Headers that hold one address.
const REFERENCES: [&str; 8] = [
    "azure-asyncoperation",
    "content-location",
    "location",
    "odata-entityid",
    "operation-location",
    "sourcemap",
    "uri",
    "x-sourcemap",
];

/// The value for the caller. `None`: it stays as it is.
pub(super) fn for_caller(
    name: &HeaderName,
    value: &HeaderValue,
    context: &ResponseContext<'_>,
) -> Option<HeaderValue> {
    let bytes = value.as_bytes();
    let has_address = bytes.windows(2).any(|two| two == b"//");
    let has_paths = is_reference(name) || is_list(name);
    if !has_address && !has_paths {
        return None;
    }
    let (inner, base_path) = Address::of_url(context.upstream_base)?;
    let base_path = base_path.trim_end_matches('/').as_bytes();
    let public = context.public_url.trim_end_matches('/').as_bytes();
    let absolute = has_address.then(|| with_public_address(bytes, &inner, base_path, public)).flatten();
    let seen = absolute.as_deref().unwrap_or(bytes);
    let relative = if !has_paths || base_path.is_empty() {
        None
    } else if is_reference(name) {
        outside(seen, base_path)
    } else {
        each_path_outside(seen, base_path)
    };
    HeaderValue::from_bytes(&relative.or(absolute)?).ok()
}

fn is_reference(name: &HeaderName) -> bool {
    REFERENCES.binary_search(&name.as_str()).is_ok()
}

/// Headers with addresses among other things: `<path>; rel=next, <path>` and `5; url=path`.
fn is_list(name: &HeaderName) -> bool {
    matches!(name.as_str(), "link" | "refresh")
}

/// A host and a port, in one form.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    is_https: bool,
    host: Vec<u8>,
    port: u16,
}

impl Address {
    /// Of an absolute URL, with the rest.
    fn of_url(url: &str) -> Option<(Self, &str)> {
        let (scheme, rest) = url.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        Some((Self::parse(authority.as_bytes(), scheme.eq_ignore_ascii_case("https"))?, path))
    }

    fn parse(authority: &[u8], is_https: bool) -> Option<Self> {
        let after_user =
            authority.iter().rposition(|byte| *byte == b'@').map_or(0, |at| at.saturating_add(1));
        let host_and_port = authority.get(after_user..)?;
        let colon = host_and_port.iter().rposition(|byte| *byte == b':');
        let colon = colon.filter(|at| host_and_port.get(*at..).is_some_and(|rest| !rest.contains(&b']')));
        let (host, port) = host_and_port.split_at(colon.unwrap_or(host_and_port.len()));
        let port = match port.get(1..) {
            None | Some([]) => default_port(is_https),
            Some(digits) => std::str::from_utf8(digits).ok()?.parse().ok()?,
        };
        let host = host.strip_suffix(b".").unwrap_or(host).to_ascii_lowercase();
        Some(Self { is_https, host, port })
    }

    /// The same server: the same port, or the usual one of the other scheme where this one has its usual one.
    fn is(&self, other: &Self) -> bool {
        let has_usual_port = |address: &Self| address.port == default_port(address.is_https);
        self.host == other.host
            && (self.port == other.port || (has_usual_port(self) && has_usual_port(other)))
    }
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

/// What ends an authority: as in a URL, and what stands around one in a header.
fn ends_authority(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"/?#\\\"'<>,;)&|".contains(&byte)
}

/// What may stand before `//host`: the beginning of an address, not the middle of a path.
fn begins_address(before: Option<u8>) -> bool {
    before.is_none_or(|byte| byte.is_ascii_whitespace() || b"\"'<(=,;|".contains(&byte))
}

/// The value with the public address wherever it had the inner one. `None`: it had it nowhere.
fn with_public_address(value: &[u8], inner: &Address, base_path: &[u8], public: &[u8]) -> Option<Vec<u8>> {
    let mut written = Vec::with_capacity(value.len().saturating_add(public.len()));
    let mut rest = value;
    let mut is_changed = false;
    while let Some(slashes) = rest.windows(2).position(|two| two == b"//") {
        let (before, from) = rest.split_at(slashes);
        let after = from.get(2..).unwrap_or_default();
        let end = after.iter().position(|byte| ends_authority(*byte)).unwrap_or(after.len());
        let (authority, path) = after.split_at(end);
        let found = scheme_of(before, inner.is_https).filter(|(_, is_https)| {
            Address::parse(authority, *is_https).is_some_and(|found| found.is(inner))
        });
        let Some((without_scheme, _)) = found else {
            let kept = slashes.saturating_add(2);
            written.extend_from_slice(rest.get(..kept).unwrap_or(rest));
            rest = rest.get(kept..).unwrap_or_default();
            continue;
        };
        written.extend_from_slice(without_scheme);
        written.extend_from_slice(public);
        rest = below(path, base_path).unwrap_or(path);
        is_changed = true;
    }
    written.extend_from_slice(rest);
    is_changed.then_some(written)
}

/// What stands before the scheme, and whether that is `https`. Without one it is the upstream's.
fn scheme_of(before: &[u8], is_https: bool) -> Option<(&[u8], bool)> {
    for (scheme, is_https) in [(&b"http:"[..], false), (b"https:", true)] {
        let without = without_end(before, scheme);
        if let Some(without) = without.filter(|rest| !rest.last().is_some_and(u8::is_ascii_alphanumeric)) {
            return Some((without, is_https));
        }
    }
    begins_address(before.last().copied()).then_some((before, is_https))
}

/// The text without its end, which may be in any case.
fn without_end<'a>(text: &'a [u8], end: &[u8]) -> Option<&'a [u8]> {
    let (rest, found) = text.split_at(text.len().checked_sub(end.len())?);
    found.eq_ignore_ascii_case(end).then_some(rest)
}

/// What follows the base path, when the path is it or lies below it.
fn below<'a>(path: &'a [u8], base_path: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(base_path)?;
    rest.first().is_none_or(|byte| ends_authority(*byte)).then_some(rest)
}

/// A path without an address, as callers see it. `None`: it is not below the base path, or no path.
fn outside(path: &[u8], base_path: &[u8]) -> Option<Vec<u8>> {
    // `//host/x` is another address.
    let inner = below(path, base_path).filter(|_| !path.starts_with(b"//"))?;
    match inner.strip_prefix(b"/") {
        // `//x` below the base would name a host.
        Some([b'/' | b'\\', ..]) => None,
        Some(_) => Some(inner.to_vec()),
        None => Some([b"/", inner].concat()),
    }
}

/// The same of each path that begins in `<…>`, or after `url=`.
fn each_path_outside(value: &[u8], base_path: &[u8]) -> Option<Vec<u8>> {
    let mut written = Vec::with_capacity(value.len());
    let mut is_changed = false;
    let mut rest = value;
    while let Some((byte, after)) = rest.split_first() {
        written.push(*byte);
        rest = after;
        let begins = *byte == b'<' || (matches!(byte, b'=' | b'"' | b'\'') && follows_url(&written));
        if !begins {
            continue;
        }
        let end = rest.iter().position(|byte| b">\"' ,;".contains(byte)).unwrap_or(rest.len());
        let (path, behind) = rest.split_at(end);
        if let Some(path) = outside(path, base_path) {
            written.extend_from_slice(&path);
            rest = behind;
            is_changed = true;
        }
    }
    is_changed.then_some(written)
}

/// Whether `url=` has just been read, perhaps with a quotation mark.
fn follows_url(written: &[u8]) -> bool {
    let text = written.strip_suffix(b"\"").or_else(|| written.strip_suffix(b"'")).unwrap_or(written);
    let name = without_end(text.trim_ascii_end(), b"=").map(<[u8]>::trim_ascii_end);
    name.is_some_and(|name| without_end(name, b"url").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(base: &str, name: &'static str, value: &[u8]) -> String {
        let context =
            ResponseContext { paid: false, upstream_base: base, public_url: "https://api.example.com" };
        let value = HeaderValue::from_bytes(value).expect("a value");
        let seen = for_caller(&HeaderName::from_static(name), &value, &context).unwrap_or(value);
        seen.as_bytes().iter().copied().map(char::from).collect()
    }

    #[test]
    fn the_inner_address_is_seen_nowhere() {
        for (name, value, expected) in [
            ("location", "//10.0.0.5:8080/base/x", "https://api.example.com/x"),
            ("location", "http://user:word@10.0.0.5:8080/base/x", "https://api.example.com/x"),
            ("location", "https://10.0.0.5:8080/base/x", "https://api.example.com/x"),
            ("location", "http://10.0.0.5:8080/other", "https://api.example.com/other"),
            ("location", "http://10.0.0.5:8080", "https://api.example.com"),
            ("location", "http://10.0.0.5:8080/base/\u{e9}", "https://api.example.com/\u{c3}\u{a9}"),
            (
                "location",
                "https://login.example/?next=http://10.0.0.5:8080/base/x&a=b",
                "https://login.example/?next=https://api.example.com/x&a=b",
            ),
            ("operation-location", "HTTP://10.0.0.5:8080/base/jobs/1", "https://api.example.com/jobs/1"),
            ("operation-location", "/base/jobs/1", "/jobs/1"),
            ("azure-asyncoperation", "http://10.0.0.5:8080/base/jobs/1", "https://api.example.com/jobs/1"),
            ("refresh", "5; url=http://10.0.0.5:8080/base/x", "5; url=https://api.example.com/x"),
            ("refresh", "5;URL='//10.0.0.5:8080/base/x'", "5;URL='https://api.example.com/x'"),
            ("refresh", "5; url=/base/x?a", "5; url=/x?a"),
            ("refresh", "5; Url = \"/base/x\"", "5; Url = \"/x\""),
            (
                "link",
                "<http://10.0.0.5:8080/base/a?p=2>; rel=\"next\", <//10.0.0.5:8080/base/b>; rel=prev; anchor=\"http://10.0.0.5:8080/base\", </base/c>; rel=last, <https://cdn.example/d>; rel=preload",
                "<https://api.example.com/a?p=2>; rel=\"next\", <https://api.example.com/b>; rel=prev; anchor=\"https://api.example.com\", </c>; rel=last, <https://cdn.example/d>; rel=preload",
            ),
            (
                "www-authenticate",
                "Bearer realm=\"http://10.0.0.5:8080/base/token\",service=\"x\"",
                "Bearer realm=\"https://api.example.com/token\",service=\"x\"",
            ),
            ("x-next-page", "http://10.0.0.5:8080/base/x?page=2", "https://api.example.com/x?page=2"),
            ("x-note", "see http://10.0.0.5:8080/base, or not", "see https://api.example.com, or not"),
            // Not the upstream's.
            ("location", "http://10.0.0.5:9090/base/x", "http://10.0.0.5:9090/base/x"),
            ("location", "http://110.0.0.5:8080/base/x", "http://110.0.0.5:8080/base/x"),
            ("location", "ftp://10.0.0.5:8080/base/x", "ftp://10.0.0.5:8080/base/x"),
            (
                "location",
                "https://elsewhere.example//10.0.0.5:8080/x",
                "https://elsewhere.example//10.0.0.5:8080/x",
            ),
            ("x-note", "/base/x", "/base/x"),
            ("link", "</basement>; rel=next; title=\"/base/x\"", "</basement>; rel=next; title=\"/base/x\""),
        ] {
            assert_eq!(
                seen("http://10.0.0.5:8080/base", name, value.as_bytes()),
                expected,
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn a_host_has_one_form() {
        for (base, value, is_inner) in [
            ("http://up.internal", "http://UP.internal.:80/a", true),
            ("http://up.internal", "http://up.internal:/a", true),
            ("http://up.internal", "https://up.internal/a", true),
            ("https://up.internal", "http://up.internal/a", true),
            ("https://up.internal", "https://up.internal:80/a", false),
            ("http://up.internal", "http://up.internal:8080/a", false),
            ("http://[::1]:8080", "http://[::1]:8080/a", true),
            ("http://[::1]", "http://[::1]:80/a", true),
            ("http://[::1]", "http://[::2]/a", false),
        ] {
            let expected = if is_inner { "https://api.example.com/a" } else { value };
            assert_eq!(seen(base, "location", value.as_bytes()), expected, "{base}: {value}");
        }
    }
}

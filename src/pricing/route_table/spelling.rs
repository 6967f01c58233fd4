//! How other routers write parameters, so that a refused path can be written as it is written here.

/// Whether a segment is a parameter elsewhere (`:id`, `<id>`, `[id]`) and would be taken for a literal here.
pub(super) fn is_parameter_of_others(segment: &str) -> bool {
    let is_in = |open: char, close: char| segment.starts_with(open) && segment.ends_with(close);
    let colon = segment
        .strip_prefix(':')
        .is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'));
    colon || is_in('<', '>') || is_in('[', ']')
}

/// The path with every segment that another router would understand written as it is here. `None`: there is none.
///
/// Express, Rails: `:id`, `:id?`, `:rest*`; Flask, Rocket: `<id>`, `<int:id>`, `<path:rest>`, `<rest..>`; Next.js: `[id]`, `[...rest]`; FastAPI,
/// axum, Go, Spring: `{id:int}`, `{id?}`, `{rest:path}`, `{rest:.*}`, `{*rest}`, `{rest...}`; globs: `**`, `*` between slashes.
pub(super) fn of_others(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let last = segments.len().saturating_sub(1);
    let ours: Option<Vec<String>> =
        segments.iter().enumerate().map(|(at, segment)| one_of_others(segment, at == last)).collect();
    let meant = format!("/{}", ours?.join("/"));
    (meant != path).then_some(meant)
}

/// `None`: nobody knows what it means.
fn one_of_others(segment: &str, is_last: bool) -> Option<String> {
    let inside = |open, close| segment.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    let (name, is_rest) = if let Some(inner) = inside('{', '}') {
        in_brackets(inner, false)
    } else if let Some(inner) = inside('<', '>') {
        in_brackets(inner, true)
    } else if let Some(inner) = inside('[', ']') {
        let inner = inner.trim_matches(['[', ']']);
        (inner.trim_start_matches('.'), inner.starts_with("..."))
    } else if is_parameter_of_others(segment) {
        let named = &segment[1..];
        let end =
            named.find(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c))).unwrap_or(named.len());
        let (name, rest) = named.split_at(end);
        (name, rest.starts_with(['*', '+']) || rest.starts_with("(.*") || rest.starts_with("(.+"))
    } else if let Some(name) = segment.strip_prefix('*') {
        (name.trim_start_matches('*'), is_last)
    } else {
        return Some(segment.to_owned());
    };
    if is_rest {
        return is_last.then(|| "*".to_owned());
    }
    let word = |b: char| if b.is_ascii_alphanumeric() { b } else { '_' };
    let name: String = name.chars().map(word).collect();
    Some(if name.is_empty() { "{any}".to_owned() } else { format!("{{{name}}}") })
}

/// The name in `{…}` or `<…>`, and whether it stands for any rest.
fn in_brackets(inner: &str, has_converter_first: bool) -> (&str, bool) {
    let stars = inner.trim_start_matches('*');
    let dots = stars.trim_end_matches('.');
    let is_rest = stars.len() < inner.len() || dots.len() < stars.len();
    let named = dots.trim_end_matches('?');
    let (name, converter) = match named.split_once([':', '=']) {
        Some((converter, name)) if has_converter_first => (name, converter),
        Some((name, converter)) => (name, converter),
        None => (named, ""),
    };
    (name, is_rest || matches!(converter, "path" | ".*" | ".+" | "*" | "**"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_routers_write_is_understood() {
        for (theirs, ours) in [
            ("/items/:id", Some("/items/{id}")),
            ("/items/:id?", Some("/items/{id}")),
            ("/items/:id(\\d+)", Some("/items/{id}")),
            ("/:user-id/x", Some("/{user_id}/x")),
            ("/files/:rest*", Some("/files/*")),
            ("/files/:rest(.*)", Some("/files/*")),
            ("/:a/:b", Some("/{a}/{b}")),
            ("/items/<id>", Some("/items/{id}")),
            ("/items/<int:id>", Some("/items/{id}")),
            ("/files/<path:rest>", Some("/files/*")),
            ("/files/<rest..>", Some("/files/*")),
            ("/items/[id]", Some("/items/{id}")),
            ("/docs/[...slug]", Some("/docs/*")),
            ("/docs/[[...slug]]", Some("/docs/*")),
            ("/items/{id:int}", Some("/items/{id}")),
            ("/items/{id:[0-9]+}", Some("/items/{id}")),
            ("/items/{id?}", Some("/items/{id}")),
            ("/items/{item-id}", Some("/items/{item_id}")),
            ("/files/{rest:path}", Some("/files/*")),
            ("/files/{rest:.*}", Some("/files/*")),
            ("/files/{*rest}", Some("/files/*")),
            ("/files/{**rest}", Some("/files/*")),
            ("/files/{rest...}", Some("/files/*")),
            ("/files/**", Some("/files/*")),
            ("/files/*rest", Some("/files/*")),
            ("/a/*/b", Some("/a/{any}/b")),
            ("/a/{rest:path}/b", None),
            ("/items/{id}", None),
            ("/v1/items:batch", None),
            ("/$metadata", None),
            ("/plain", None),
        ] {
            assert_eq!(of_others(theirs).as_deref(), ours, "{theirs}");
        }
    }
}

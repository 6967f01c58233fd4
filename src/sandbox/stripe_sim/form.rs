//! Stripe's request encoding: `application/x-www-form-urlencoded` with `a[b]=c`, `a[0]=c` and `a[]=c`.

use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::percent_decode_str;

/// Pairs in one request; Stripe's own callers send a few dozen.
const MAX_PAIRS: usize = 500;
/// Brackets in one name.
const MAX_DEPTH: usize = 6;

/// A decoded request, by parameter name.
#[derive(Clone, Default)]
pub(super) struct Form(BTreeMap<String, Node>);

/// A parameter: a text, or parameters below it. Lists are parameters named 0, 1, 2 …
#[derive(Clone)]
pub(super) enum Node {
    /// A value.
    Text(String),
    /// Values in brackets below it.
    Nested(Form),
}

/// Shows names only: a value may be a card number.
impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a request cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormError {
    /// A percent sequence that is not UTF-8.
    #[error("The request contains text that is not valid UTF-8.")]
    NotUtf8,
    /// Brackets that do not match, or an empty name.
    #[error("A parameter name is malformed.")]
    BadName,
    /// The same name is a value and has values below it.
    #[error("A parameter is given both as a value and as a hash.")]
    Conflict,
    /// More than this server reads.
    #[error("The request has too many parameters, or nests them too deeply.")]
    TooLarge,
}

impl Form {
    /// Decodes a request body or a query string. Of repeated names the last one counts.
    pub(super) fn parse(text: &str) -> Result<Self, FormError> {
        let mut form = Self::default();
        for (index, pair) in text.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if index >= MAX_PAIRS {
                return Err(FormError::TooLarge);
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            form.insert(&path(&name)?, decode(value)?)?;
        }
        Ok(form)
    }

    /// Adds what another part of the request says, such as the body to the query string.
    pub(super) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    fn insert(&mut self, path: &[&str], value: String) -> Result<(), FormError> {
        let Some((first, rest)) = path.split_first() else { return Err(FormError::BadName) };
        // `a[]=x` appends: the next free index.
        let name = if first.is_empty() { self.0.len().to_string() } else { (*first).to_owned() };
        if rest.is_empty() {
            if let Some(Node::Nested(_)) = self.0.insert(name, Node::Text(value)) {
                return Err(FormError::Conflict);
            }
            return Ok(());
        }
        match self.0.entry(name).or_insert_with(|| Node::Nested(Self::default())) {
            Node::Nested(form) => form.insert(rest, value),
            Node::Text(_) => Err(FormError::Conflict),
        }
    }

    /// The parameter of that name.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.0.get(name)
    }

    /// Takes the parameter out.
    pub(super) fn remove(&mut self, name: &str) -> Option<Node> {
        self.0.remove(name)
    }

    /// The parameters in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// One text for equal requests, whatever the order of their parameters. Lengths keep different requests apart.
    pub(super) fn canonical(&self) -> String {
        let mut text = String::new();
        self.write_canonical(&mut text);
        text
    }

    fn write_canonical(&self, out: &mut String) {
        for (name, node) in &self.0 {
            out.push_str(&format!("{}:{name}", name.len()));
            match node {
                Node::Text(value) => out.push_str(&format!("={}:{value};", value.len())),
                Node::Nested(form) => {
                    out.push('{');
                    form.write_canonical(out);
                    out.push('}');
                }
            }
        }
    }
}

fn decode(text: &str) -> Result<String, FormError> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned()).map_err(|_| FormError::NotUtf8)
}

/// `a[b][]` → `a`, `b`, ``.
fn path(name: &str) -> Result<Vec<&str>, FormError> {
    let (first, mut rest) = match name.find('[') {
        Some(at) => name.split_at(at),
        None => (name, ""),
    };
    if first.is_empty() || first.contains(']') {
        return Err(FormError::BadName);
    }
    let mut path = vec![first];
    while !rest.is_empty() {
        let inner = rest.strip_prefix('[').ok_or(FormError::BadName)?;
        let (part, after) = inner.split_once(']').ok_or(FormError::BadName)?;
        if part.contains('[') {
            return Err(FormError::BadName);
        }
        path.push(part);
        if path.len() > MAX_DEPTH {
            return Err(FormError::TooLarge);
        }
        rest = after;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nested_names_lists_and_escapes_are_decoded() {
        for (text, canonical) in [
            ("", ""),
            ("amount=500&currency=usd", "6:amount=3:500;8:currency=3:usd;"),
            ("currency=usd&amount=500", "6:amount=3:500;8:currency=3:usd;"),
            (
                "expand[0]=latest_charge.balance_transaction",
                "6:expand{1:0=33:latest_charge.balance_transaction;}",
            ),
            ("a[]=x&a[]=y", "1:a{1:0=1:x;1:1=1:y;}"),
            ("metadata%5Btop+up%5D=a%26b%3D1", "8:metadata{6:top up=5:a&b=1;}"),
            ("a[b][c]=d&a[b][e]=f", "1:a{1:b{1:c=1:d;1:e=1:f;}}"),
            ("a=1&a=2", "1:a=1:2;"),
            ("flag", "4:flag=0:;"),
            ("name=%C3%A9", "4:name=2:é;"),
        ] {
            assert_eq!(Form::parse(text).unwrap().canonical(), canonical, "{text}");
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        for (text, error) in [
            ("a[b=1", FormError::BadName),
            ("[a]=1", FormError::BadName),
            ("a]=1", FormError::BadName),
            ("a[b]c=1", FormError::BadName),
            ("a[[b]]=1", FormError::BadName),
            ("=1", FormError::BadName),
            ("a=%FF", FormError::NotUtf8),
            ("a=1&a[b]=2", FormError::Conflict),
            ("a[b]=2&a=1", FormError::Conflict),
            ("a[b][c][d][e][f][g]=1", FormError::TooLarge),
        ] {
            assert_eq!(Form::parse(text).unwrap_err(), error, "{text}");
        }
        assert_eq!(Form::parse(&"a=1&".repeat(MAX_PAIRS + 1)).unwrap_err(), FormError::TooLarge);
    }

    #[test]
    fn debug_shows_no_values() {
        let form = Form::parse("card[number]=4242424242424242&type=card").unwrap();
        assert_eq!(format!("{form:?}"), r#"{"card", "type"}"#);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = Form::parse(&text);
        }

        #[test]
        fn values_survive_the_encoding(value in "\\PC{0,40}") {
            let encoded = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC).to_string();
            let form = Form::parse(&format!("a[b]={encoded}")).unwrap();
            prop_assert_eq!(form.canonical(), format!("1:a{{1:b={}:{value};}}", value.len()));
        }
    }
}

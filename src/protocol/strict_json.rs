//! Strict reading of JSON: what two readers could understand differently is refused.
//!
//! Duplicate keys are refused at every level, numbers are whole and fit an `i64`, nothing follows the value, and length and
//! depth are bounded. Errors name the rule, never the content. `serde_json` reads the text; these rules are our own, because its
//! `Value` keeps the last of two keys and takes floats.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

/// How much is read before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the text.
    pub max_bytes: usize,
    /// Arrays and objects within each other; at most 127 whatever is asked for.
    pub max_depth: usize,
}

impl Limits {
    /// That many bytes, and 32 levels.
    #[must_use]
    pub const fn bytes(max_bytes: usize) -> Self {
        Self { max_bytes, max_depth: 32 }
    }
}

/// A JSON value without fractions.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction and exponent.
    Integer(i64),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// Members by name; every name once.
    Object(BTreeMap<String, Value>),
}

impl Value {
    /// Whether any text in the value is of this kind; see [`Value::for_each_text`].
    pub fn has_text(&self, is_such: impl Fn(&str) -> bool) -> bool {
        let mut found = false;
        self.for_each_text(&mut |text| found |= is_such(text));
        found
    }

    /// Calls `look` with every text in the value: member names, strings, and integers as they are written.
    pub fn for_each_text(&self, look: &mut impl FnMut(&str)) {
        match self {
            Self::Null | Self::Bool(_) => {}
            Self::Integer(number) => look(&number.to_string()),
            Self::String(text) => look(text),
            Self::Array(items) => items.iter().for_each(|item| item.for_each_text(look)),
            Self::Object(members) => {
                for (name, value) in members {
                    look(name);
                    value.for_each_text(look);
                }
            }
        }
    }
}

/// Shows the kind only: the content may be a secret.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Bool(_) => "Bool(..)",
            Self::Integer(_) => "Integer(..)",
            Self::String(_) => "String(..)",
            Self::Array(_) => "Array(..)",
            Self::Object(_) => "Object(..)",
        })
    }
}

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StrictJsonError {
    /// More bytes than [`Limits::max_bytes`].
    #[error("is too long")]
    TooLong,
    /// More levels than [`Limits::max_depth`].
    #[error("is nested too deeply")]
    TooDeep,
    /// Not JSON, or not UTF-8.
    #[error("is not JSON")]
    Syntax,
    /// A member occurs twice in one object.
    #[error("has a member twice")]
    DuplicateKey,
    /// A number with a fraction or an exponent, negative zero, or one far beyond 64 bits.
    #[error("has a number that is not a whole number")]
    NotInteger,
    /// A whole number that does not fit an `i64`.
    #[error("has a number that is too large")]
    IntegerRange,
    /// Something follows the value.
    #[error("has something after the JSON value")]
    TrailingBytes,
}

/// Reads one JSON value.
///
/// # Errors
/// [`StrictJsonError`] names the first rule that the text breaks.
pub fn parse(bytes: &[u8], limits: Limits) -> Result<Value, StrictJsonError> {
    if bytes.len() > limits.max_bytes {
        return Err(StrictJsonError::TooLong);
    }
    let refusal = Cell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Element { levels_left: limits.max_depth, refusal: &refusal }
        .deserialize(&mut reader)
        .map_err(|_| refusal.take().unwrap_or(StrictJsonError::Syntax))?;
    reader.end().map_err(|_| StrictJsonError::TrailingBytes)?;
    Ok(value)
}

/// Builds one value; `refusal` carries our reason past serde's error type, which only knows texts.
#[derive(Clone, Copy)]
struct Element<'a> {
    levels_left: usize,
    refusal: &'a Cell<Option<StrictJsonError>>,
}

impl Element<'_> {
    fn refuse<E: serde::de::Error>(self, reason: StrictJsonError) -> E {
        self.refusal.set(Some(reason));
        E::custom(reason)
    }

    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.levels_left.checked_sub(1) {
            Some(levels_left) => Ok(Self { levels_left, ..self }),
            None => Err(self.refuse(StrictJsonError::TooDeep)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value).map(Value::Integer).map_err(|_| self.refuse(StrictJsonError::IntegerRange))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Value, E> {
        Err(self.refuse(StrictJsonError::NotInteger))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner::<A::Error>()?;
        let mut members = BTreeMap::new();
        while let Some(name) = entries.next_key::<String>()? {
            if members.contains_key(&name) {
                self.refusal.set(Some(StrictJsonError::DuplicateKey));
                return Err(A::Error::custom(StrictJsonError::DuplicateKey));
            }
            let value = entries.next_value_seed(inner)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits::bytes(4096);

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
        use StrictJsonError as E;
        let cases: [(&[u8], E); 21] = [
            (b"", E::Syntax),
            (b"  ", E::Syntax),
            (b"{", E::Syntax),
            (b"{'a':1}", E::Syntax),
            (b"{\"a\":1,}", E::Syntax),
            (b"NaN", E::Syntax),
            (b"\xef\xbb\xbf1", E::Syntax),
            (b"\"\xff\"", E::Syntax),
            (b"\"\\ud800\"", E::Syntax),
            (b"01", E::Syntax),
            (b"1 2", E::TrailingBytes),
            (b"{}x", E::TrailingBytes),
            (b"{\"a\":1,\"a\":1}", E::DuplicateKey),
            (b"{\"a\":1,\"\\u0061\":2}", E::DuplicateKey),
            (b"[{\"b\":{\"a\":1,\"a\":2}}]", E::DuplicateKey),
            (b"1.0", E::NotInteger),
            (b"1e2", E::NotInteger),
            (b"-0", E::NotInteger),
            (b"99999999999999999999", E::NotInteger),
            (b"9223372036854775808", E::IntegerRange),
            (b"1e999", E::Syntax),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text, LIMITS), Err(expected), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn length_and_depth_are_bounded_exactly() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(32).as_bytes(), LIMITS).is_ok());
        assert_eq!(parse(nested(33).as_bytes(), LIMITS), Err(StrictJsonError::TooDeep));
        let objects = format!("{}1{}", "{\"a\":".repeat(33), "}".repeat(33));
        assert_eq!(parse(objects.as_bytes(), LIMITS), Err(StrictJsonError::TooDeep));
        assert!(parse(b"[1]", Limits::bytes(3)).is_ok());
        assert_eq!(parse(b"[1]", Limits::bytes(2)), Err(StrictJsonError::TooLong));
        let bomb = "[".repeat(1_000_000);
        assert_eq!(parse(bomb.as_bytes(), Limits::bytes(usize::MAX)), Err(StrictJsonError::TooDeep));
    }

    #[test]
    fn debug_shows_no_content() {
        let value = parse(b"{\"clientId\":\"pck_secret\"}", LIMITS).expect("valid");
        assert!(!format!("{value:?}").contains("pck_"));
    }

    fn to_text(value: &Value) -> serde_json::Value {
        match value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Integer(i) => (*i).into(),
            Value::String(s) => s.clone().into(),
            Value::Array(items) => items.iter().map(to_text).collect::<Vec<_>>().into(),
            Value::Object(members) => {
                serde_json::Value::Object(members.iter().map(|(k, v)| (k.clone(), to_text(v))).collect())
            }
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Integer),
            any::<String>().prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_is_read_back(value in values()) {
            let text = to_text(&value).to_string();
            prop_assert!(parse(text.as_bytes(), Limits::bytes(usize::MAX)) == Ok(value));
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if parse(&bytes, LIMITS).is_ok() {
                // Stricter than, never different from, the ordinary reader.
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
            }
        }
    }
}

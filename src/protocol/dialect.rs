//! What a protocol is made of: one static value for each, and the set of those that are spoken.

use std::fmt;

use serde_json::{Map, Value};

use super::challenge::Challenge;
use super::credential::Credential;
use super::offer::Offer;
use super::receipt::Receipt;
use super::refusal::Refusal;
use super::template::SealKeys;
use crate::pricing::Quote;

/// A protocol. Functions of values, without I/O: a carrier (HTTP here) reads and writes for them.
pub struct Dialect {
    /// For people and logs.
    pub name: &'static str,
    /// The request headers that are its own.
    pub claims: &'static [Claim],
    /// Members of a message's `_meta` that are its own, for carriers of messages.
    pub meta: &'static [&'static str],
    /// The answer headers that are its own.
    pub answers: &'static [Claim],
    /// Reads what was presented.
    pub read: fn(&Presented<'_>) -> Result<Credential, Unreadable>,
    /// Whether the credential is good for this quote, as far as that can be seen without looking anything up.
    pub verify: fn(&Credential, &Quote, &Verifying<'_>) -> Result<(), Unreadable>,
    /// Its entries in an envelope that is another protocol's.
    pub ways_to_pay: fn(&Offer) -> Vec<Value>,
    /// What it says in a 402.
    pub challenge: fn(&Offered<'_>) -> Challenge,
    /// What it says of a payment, in headers.
    pub receipt: fn(&Receipt) -> Vec<(&'static str, String)>,
    /// What it says of a payment in the body of a refusal that asks for no payment.
    pub members: fn(&Receipt, Told) -> Map<String, Value>,
    /// The body of a 402 after an attempt to pay, for the request of this number. `None`: the challenge's.
    pub attempt: fn(&Refusal, Option<&Receipt>, &str) -> Option<String>,
}

/// A header that is a protocol's own.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// In lower case.
    pub name: &'static str,
    /// Which of its values. Names alone cannot tell a protocol's `Authorization` from the seller's own.
    pub when: When,
}

/// Which values of a header are a protocol's.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// All.
    Always,
    /// Those of this authentication scheme (RFC 9110, section 11.1), in any case, also where it is one of several in a list.
    Scheme(&'static str),
}

impl Claim {
    /// Whether the header is the protocol's. `name`: in lower case.
    #[must_use]
    pub fn covers(&self, name: &str, value: &[u8]) -> bool {
        self.name == name
            && match self.when {
                When::Always => true,
                When::Scheme(scheme) => elements(value).any(|element| begins_with_word(element, scheme)),
            }
    }

    /// Its name, if all values of that name are the protocol's, whoever sends them.
    #[must_use]
    pub fn whole_name(&self) -> Option<&'static str> {
        matches!(self.when, When::Always).then_some(self.name)
    }
}

/// What commas outside quotes divide.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |byte| {
        match *byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
        *byte == b',' && !is_quoted
    })
}

fn begins_with_word(element: &[u8], word: &str) -> bool {
    let element = element.trim_ascii_start();
    let (first, rest) = element.split_at_checked(word.len()).unwrap_or((element, b""));
    first.eq_ignore_ascii_case(word.as_bytes()) && rest.first().is_none_or(u8::is_ascii_whitespace)
}

/// What a caller has presented in one protocol's headers, and what came beside a message that has none. Credentials, so it is not
/// shown.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The protocol's headers, by lower-case name, in the order in which they came.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// `_meta` of a message inside the body, for carriers that have such.
    pub meta: Option<&'a Value>,
}

/// What a challenge is written from.
#[derive(Debug, Clone, Copy)]
pub struct Offered<'a> {
    /// What is offered.
    pub offer: &'a Offer,
    /// Why it is not served.
    pub refusal: &'a Refusal,
    /// What other protocols add to an envelope that they share.
    pub others: &'a [Value],
    /// What challenges are sealed with.
    pub seal_keys: &'a SealKeys,
}

/// What a credential is verified with.
#[derive(Debug, Clone, Copy)]
pub struct Verifying<'a> {
    /// Seconds since 1970.
    pub now: i64,
    /// What challenges are sealed with.
    pub seal_keys: &'a SealKeys,
}

/// In the body of which refusal something is said of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Of a request that was not let in.
    Refused,
    /// Of one whose charge has an unknown outcome: its body must name the wallet that the credit will be in.
    Pending,
    /// Of one that was let in and is not charged.
    NotCharged,
}

/// Why a credential cannot be used. Never repeats what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// A card number was sent.
    RawCardData,
    /// Anything else, in a sentence for whoever sent it.
    Invalid(String),
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Dialect {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Dialect {}

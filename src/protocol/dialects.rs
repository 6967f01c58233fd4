//! The protocols that are spoken, together: which of them a request pays in, and one 402 for all of them.

use serde_json::Value;

use super::challenge::Challenge;
use super::credential::Credential;
use super::dialect::{Claim, Dialect, Offered, Presented, Unreadable};
use super::offer::Offer;
use super::refusal::Refusal;
use super::stripe402;
use super::template::SealKeys;
use super::unspoken::{self, Unspoken};

/// What this gateway speaks, and what it knows of without speaking it. A protocol is one module and its line here.
pub static SPOKEN: Dialects = Dialects::new(&[&stripe402::DIALECT], &[&unspoken::X402, &unspoken::MPP]);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Dialects {
    spoken: &'static [&'static Dialect],
    unspoken: &'static [&'static Unspoken],
}

/// Why a request's credential is not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRead {
    /// It cannot be used; of which protocol.
    Unreadable(&'static Dialect, Unreadable),
    /// It is of a protocol that is not spoken here.
    Unspoken(&'static str),
    /// There are two, and whoever sent them may mean either.
    Several,
}

impl Dialects {
    /// In the order in which they are written.
    #[must_use]
    pub const fn new(spoken: &'static [&'static Dialect], unspoken: &'static [&'static Unspoken]) -> Self {
        Self { spoken, unspoken }
    }

    /// The one credential of a request. `get_all`: the values of a header, by its lower-case name. `meta`: `_meta` of a message
    /// inside the body, where there is one.
    ///
    /// # Errors
    /// [`NotRead`]; nothing may be passed on then.
    pub fn read<'a, V>(
        &self,
        get_all: impl Fn(&'static str) -> V,
        meta: Option<&Value>,
    ) -> Result<Option<Credential>, NotRead>
    where
        V: Iterator<Item = &'a [u8]>,
    {
        let lines = |claims: &'static [Claim]| {
            let covered = |claim: &'static Claim| {
                let values = get_all(claim.name).filter(|value| claim.covers(claim.name, value));
                values.map(|value| (claim.name, value))
            };
            claims.iter().flat_map(covered).collect::<Vec<(&str, &[u8])>>()
        };
        let in_meta = |dialect: &Dialect| {
            meta.is_some_and(|meta| dialect.meta.iter().any(|member| meta.get(member).is_some()))
        };
        let presented = self.spoken.iter().copied().filter_map(|dialect| {
            let headers = lines(dialect.claims);
            (!headers.is_empty() || in_meta(dialect)).then_some((dialect, headers))
        });
        let unspoken = self.unspoken(&get_all);
        let mut presented = presented;
        match (presented.next(), presented.next(), unspoken) {
            (None, _, None) => Ok(None),
            (None, _, Some(name)) => Err(NotRead::Unspoken(name)),
            (Some((dialect, headers)), None, None) => {
                let presented = Presented { headers: &headers, meta };
                let read = (dialect.read)(&presented);
                read.map(Some).map_err(|error| NotRead::Unreadable(dialect, error))
            }
            (Some(_), _, _) => Err(NotRead::Several),
        }
    }

    /// One 402 in every protocol that is spoken.
    #[must_use]
    pub fn challenge(&self, offer: &Offer, refusal: &Refusal, seal_keys: &SealKeys) -> Challenge {
        let others: Vec<Value> =
            self.spoken.iter().flat_map(|dialect| (dialect.ways_to_pay)(offer)).collect();
        let offered = Offered { offer, refusal, others: &others, seal_keys };
        let mut joined = Challenge::default();
        for dialect in self.spoken {
            joined.join((dialect.challenge)(&offered));
        }
        if !refusal.payable {
            // Whatever a protocol has written: programs pay as often as they are asked to.
            joined.lines.clear();
        }
        joined
    }

    /// Whether a request header is a payment in any protocol that is known here: no upstream may see it.
    #[must_use]
    pub fn claims(&self, name: &str, value: &[u8]) -> bool {
        self.all_claims().any(|claim| claim.covers(name, value))
    }

    /// The protocol, known here and not spoken, of which a request carries a credential. `get_all`: as for [`Dialects::read`].
    pub fn unspoken<'a, V>(&self, get_all: impl Fn(&'static str) -> V) -> Option<&'static str>
    where
        V: Iterator<Item = &'a [u8]>,
    {
        let presents = |claim: &Claim| get_all(claim.name).any(|value| claim.covers(claim.name, value));
        self.unspoken.iter().find(|other| other.claims.iter().any(presents)).map(|other| other.name)
    }

    /// Whether an answer header is any spoken protocol's: no upstream may write it.
    #[must_use]
    pub fn answers(&self, name: &str, value: &[u8]) -> bool {
        self.spoken.iter().flat_map(|dialect| dialect.answers).any(|own| own.covers(name, value))
    }

    /// Whether a header of this name belongs to a spoken protocol, whatever its value and whoever sends it. `Authorization` does not:
    /// it is the seller's own, too.
    #[must_use]
    pub fn owns(&self, name: &str) -> bool {
        let claims = self.spoken.iter().flat_map(|dialect| dialect.claims.iter().chain(dialect.answers));
        claims.filter_map(Claim::whole_name).any(|own| own == name)
    }

    /// Names of the request headers in which spoken protocols pay: what answers vary by, and what scripts may send.
    pub fn request_headers(&self) -> impl Iterator<Item = &'static str> {
        self.spoken.iter().flat_map(|dialect| dialect.claims).map(|claim| claim.name)
    }

    /// Names of the answer headers of spoken protocols: what scripts may read.
    pub fn answer_headers(&self) -> impl Iterator<Item = &'static str> {
        self.spoken.iter().flat_map(|dialect| dialect.answers).map(|claim| claim.name)
    }

    fn all_claims(&self) -> impl Iterator<Item = &'static Claim> {
        let spoken = self.spoken.iter().flat_map(|dialect| dialect.claims);
        spoken.chain(self.unspoken.iter().flat_map(|other| other.claims))
    }
}

#[cfg(test)]
mod tests;

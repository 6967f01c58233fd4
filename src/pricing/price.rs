//! Prices: the seller's rule for a route, and what it comes to for one request.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::unwrap_used
    )
)]

use std::fmt;

use crate::domain::Micros;

/// What one request on a route costs, as its seller has written it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteCharge {
    /// `free = true`, by an explicit word, never by absence.
    Free,
    /// For a price.
    Priced(PriceRule),
}

impl RouteCharge {
    /// A fixed price above zero.
    #[must_use]
    pub fn fixed(price: Micros) -> Self {
        Self::Priced(PriceRule::Fixed(price))
    }

    /// The rule, where there is one.
    #[must_use]
    pub fn rule(self) -> Option<PriceRule> {
        match self {
            Self::Free => None,
            Self::Priced(rule) => Some(rule),
        }
    }

    /// Whether a request here can cost more than any request there: what the dearer of two patterns is. Compares the most that a
    /// price can be, because a caller who finds a cheaper way in takes it for the dearest request.
    #[must_use]
    pub fn is_dearer_than(self, other: Self) -> bool {
        let most = |charge: Self| charge.rule().map_or(Micros::ZERO, PriceRule::most);
        most(self) > most(other)
    }
}

/// How a price is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceRule {
    /// The same for each request; above zero.
    Fixed(Micros),
    /// By what the request's body asks for.
    ByBody(BodyPrice),
    /// By what the answer comes to, which is known at its end.
    Metered {
        /// What one request costs at most.
        most: Micros,
        /// Who measures.
        meter: Meter,
    },
}

impl PriceRule {
    /// The most that a request can cost.
    #[must_use]
    pub fn most(self) -> Micros {
        match self {
            Self::Fixed(price) => price,
            Self::ByBody(BodyPrice { most, .. }) | Self::Metered { most, .. } => most,
        }
    }

    /// The price before anything is known of the request: what a challenge says. Nobody pays more.
    #[must_use]
    pub fn list_price(self) -> Price {
        match self {
            Self::Fixed(price) | Self::ByBody(BodyPrice { most: price, .. }) => Price::Exact(price),
            Self::Metered { most, meter } => Price::UpTo { most, meter },
        }
    }

    /// The price of a request with this body.
    ///
    /// # Errors
    /// [`Unpriced`]: nothing may be set aside or done.
    pub(super) fn price(self, body: Option<&[u8]>) -> Result<Price, Unpriced> {
        match self {
            Self::Fixed(price) => Ok(Price::Exact(price)),
            Self::Metered { most, meter } => Ok(Price::UpTo { most, meter }),
            Self::ByBody(BodyPrice { most, of, .. }) => {
                let price = of(body.ok_or(Unpriced::NoBody)?)?;
                // Whoever has agreed to the list price must not be charged more by a rule's mistake; and nothing is free by one.
                if price > most {
                    return Err(Unpriced::AboveMost);
                }
                if price.is_zero() {
                    return Err(Unpriced::Nothing);
                }
                Ok(Price::Exact(price))
            }
        }
    }
}

/// A price that the request's body decides.
#[derive(Clone, Copy)]
pub struct BodyPrice {
    /// Of the rule, for logs and for telling rules apart.
    pub name: &'static str,
    /// What one request costs at most.
    pub most: Micros,
    /// The price of a request with this body: above zero, at most `most`.
    pub of: fn(&[u8]) -> Result<Micros, Unpriced>,
}

/// Measures what an answer costs.
#[derive(Clone, Copy)]
pub struct Meter {
    /// Of the meter, for logs and for telling meters apart.
    pub name: &'static str,
    /// Begins to measure one answer.
    pub begin: fn() -> Box<dyn Measuring>,
}

/// One answer being measured.
pub trait Measuring: Send {
    /// The next piece of its body.
    fn piece(&mut self, bytes: &[u8]);

    /// What it has come to so far. What is above the quote's most is the seller's loss.
    fn price(&self) -> Micros;
}

/// What one request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Price {
    /// So much.
    Exact(Micros),
    /// What it comes to, which is known at the answer's end.
    UpTo {
        /// At most this, which is set aside.
        most: Micros,
        /// Who measures.
        meter: Meter,
    },
}

impl Price {
    /// What is set aside before the work begins: the most that can be charged.
    #[must_use]
    pub fn most(self) -> Micros {
        match self {
            Self::Exact(price) | Self::UpTo { most: price, .. } => price,
        }
    }
}

/// Why a request has no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unpriced {
    /// Its price depends on a body, and the body was not read.
    #[error("the price depends on the request's body, which was not read")]
    NoBody,
    /// The body is not what the route's rule can read. The words are for whoever sent it.
    #[error("{0}")]
    Unreadable(&'static str),
    /// The rule makes it more than its most.
    #[error("the request would cost more than its route may")]
    AboveMost,
    /// The rule makes it nothing.
    #[error("the request would cost nothing, and its route is not free")]
    Nothing,
}

/// Two rules are the same when their names and prices are: functions cannot be told apart.
impl PartialEq for BodyPrice {
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.most) == (other.name, other.most)
    }
}

impl Eq for BodyPrice {}

impl PartialEq for Meter {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Meter {}

impl fmt::Debug for BodyPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyPrice")
            .field("name", &self.name)
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("name", &self.name).finish_non_exhaustive()
    }
}

//! The quote for one request: what it costs and how that is booked, as one value from the route to the ledger's entry.

use std::sync::Arc;

use super::booking::Booking;
use super::listing::Listing;
use super::price::Price;
use crate::domain::{Currency, Micros, SecretHash};

/// What one request costs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Quote {
    pub(super) listing: Arc<Listing>,
    pub(super) price: Price,
}

/// Stands for everything a payer agrees to with a quote, so that a challenge can be bound to it: what is sold, the currency, the
/// price. Two quotes that differ in any of it differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuoteDigest(SecretHash);

impl QuoteDigest {
    /// As it was sent back. `None` unless it has 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        SecretHash::from_slice(bytes).map(Self)
    }

    /// To be sent: 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Quote {
    /// What is sold.
    #[must_use]
    pub fn listing(&self) -> &Arc<Listing> {
        &self.listing
    }

    /// What it costs.
    #[must_use]
    pub fn price(&self) -> Price {
        self.price
    }

    /// What is set aside, and the most that is charged.
    #[must_use]
    pub fn most(&self) -> Micros {
        self.price.most()
    }

    /// Of the price.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.listing.currency()
    }

    /// Whether an answer with this status is charged.
    #[must_use]
    pub fn charges(&self, status: u16) -> bool {
        self.listing.charged().contains(status)
    }

    /// By what an entry names the route and its prices. `None`: they have no numbers yet.
    #[must_use]
    pub fn booking(&self) -> Option<Booking> {
        self.listing.booking()
    }

    /// See [`QuoteDigest`].
    #[must_use]
    pub fn digest(&self) -> QuoteDigest {
        let (kind, meter) = match self.price {
            Price::Exact(_) => ("exact", ""),
            Price::UpTo { meter, .. } => ("up to", meter.name),
        };
        QuoteDigest(SecretHash::of_parts(&[
            b"quote",
            self.listing.name().as_bytes(),
            self.currency().code().as_bytes(),
            kind.as_bytes(),
            &self.most().get().to_le_bytes(),
            meter.as_bytes(),
        ]))
    }
}

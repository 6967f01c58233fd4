//! The quote for one request: what it costs and how that is booked, as one value from the route to the ledger's entry.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::booking::Booking;
use super::listing::Listing;
use super::price::Price;
use crate::domain::{Currency, Micros};

/// What one request costs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Quote {
    pub(super) listing: Arc<Listing>,
    pub(super) price: Price,
}

/// Stands for everything a payer agrees to with a quote, so that a challenge can be bound to it: what is sold, the currency, the
/// price. Two quotes that differ in any of it differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuoteDigest([u8; 32]);

impl QuoteDigest {
    /// As it was sent back.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
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
        let most = self.most().get().to_le_bytes();
        let parts = [
            self.listing.name().as_bytes(),
            self.currency().code().as_bytes(),
            kind.as_bytes(),
            &most,
            meter.as_bytes(),
        ];
        let mut hash = Sha256::new_with_prefix(b"quote");
        for part in parts {
            // Where one ends and the next begins matters.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        QuoteDigest(hash.finalize().into())
    }
}

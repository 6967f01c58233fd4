//! One line of a price list: what is sold, at what price, and which answers are charged.

use std::sync::{Arc, OnceLock};

use super::booking::Booking;
use super::charged::StatusSet;
use super::price::{PriceRule, Unpriced};
use super::quote::Quote;
use crate::domain::Currency;

/// What is sold at what price, before anybody has asked for it.
#[derive(Debug)]
pub struct Listing {
    name: String,
    rule: PriceRule,
    currency: Currency,
    charged: Arc<StatusSet>,
    booking: OnceLock<Booking>,
}

/// What is known of a request when its price is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// The whole body, if it was read.
    pub body: Option<&'a [u8]>,
}

impl Listing {
    /// `name`: for people, labels and entries, such as `GET /api/weather`.
    #[must_use]
    pub fn new(name: String, rule: PriceRule, currency: Currency, charged: Arc<StatusSet>) -> Self {
        Self { name, rule, currency, charged, booking: OnceLock::new() }
    }

    /// What entries call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its price is found.
    #[must_use]
    pub fn rule(&self) -> PriceRule {
        self.rule
    }

    /// Of its price.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// Which answers are charged.
    #[must_use]
    pub fn charged(&self) -> &Arc<StatusSet> {
        &self.charged
    }

    /// By what entries name it, once that is known.
    #[must_use]
    pub fn booking(&self) -> Option<Booking> {
        self.booking.get().copied()
    }

    /// Says by what entries name it. Numbers are given once and for all, so the first that is said stays.
    pub fn book(&self, booking: Booking) -> Booking {
        *self.booking.get_or_init(|| booking)
    }

    /// What it costs as far as that is known before anybody asks: nobody pays more. For challenges.
    #[must_use]
    pub fn list_quote(self: &Arc<Self>) -> Quote {
        Quote { listing: Arc::clone(self), price: self.rule.list_price() }
    }

    /// What this request costs.
    ///
    /// # Errors
    /// [`Unpriced`]: nothing may be set aside or done.
    pub fn quote(self: &Arc<Self>, asked: Asked<'_>) -> Result<Quote, Unpriced> {
        Ok(Quote { listing: Arc::clone(self), price: self.rule.price(asked.body)? })
    }
}

#[cfg(test)]
mod tests;

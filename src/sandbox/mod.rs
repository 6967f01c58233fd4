//! Stripe without Stripe, and an API to sell.

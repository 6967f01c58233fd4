//! Stripe without Stripe, and an API to sell.
//!
//! Nothing in here knows the gateway, and the gateway reaches it over HTTP only: the simulated Stripe keeps books of its
//! own, so that a test or a demonstration can compare two independent accounts of the same money.

pub mod demo_api;
pub mod stripe_sim;

/// The secret key that a simulated Stripe accepts unless told otherwise. Well known on purpose: it opens nothing real.
pub const SANDBOX_SECRET_KEY: &str = "sk_test_prepaid402_sandbox";
/// The publishable key that a simulated Stripe accepts unless told otherwise.
pub const SANDBOX_PUBLISHABLE_KEY: &str = "pk_test_prepaid402_sandbox";

//! Compares the books with Stripe, and changes nothing: `prepaid402 reconcile`, and every so often while the server runs.
//!
//! `both_sides.rs` reads what Stripe has (`at_stripe.rs`) and what the books say (`books.rs`) about a `window.rs` of time; what was
//! read are `facts.rs`. `comparison.rs` finds what differs, `difference.rs` names each kind of it and says what to do about it.
//! `watch.rs` does it all while the server runs.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::unwrap_used
    )
)]

pub mod both_sides;
pub mod comparison;
pub mod difference;
pub mod facts;
mod watch;
pub mod window;

pub use self::watch::Watch;

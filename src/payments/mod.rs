//! What becomes of payments after they succeeded: refunds, disputes, fraud warnings.
//!
//! Nobody believes what an event says. `charges.rs` reads from Stripe everything that has become of a charge and applies it in
//! one step, whoever noticed first: an event, an operator's refund, the reconciler. `refunds.rs` asks for refunds.
//! `comparison.rs` compares the books with what Stripe has, `difference.rs` names what can differ, `both_sides.rs` reads the two.
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
pub mod charges;
pub mod comparison;
pub mod difference;
pub mod refunds;

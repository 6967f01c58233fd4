//! What a request costs, and how that is booked: which route a path is for, the seller's prices, and the quote for one request.
//!
//! ```text
//! target → canonical path → route table → listing ─► list quote: what a challenge says
//!                                            └─ payer known, body read ─► quote ─► paywall ─► ledger entry
//! ```
//! A [`Quote`] is one value from the route to the entry: whatever names a price, asks whether an answer is charged or writes what
//! was sold reads it there.

mod booking;
mod charged;
mod listing;
pub mod path;
mod price;
mod quote;
pub mod route_table;

#[cfg(test)]
mod toys;

pub use self::booking::{Booking, ListNumber, RouteNumber};
pub use self::charged::StatusSet;
pub use self::listing::{Asked, Listing};
pub use self::price::{BodyPrice, Measuring, Meter, Price, PriceRule, RouteCharge, Unpriced};
pub use self::quote::{Quote, QuoteDigest};

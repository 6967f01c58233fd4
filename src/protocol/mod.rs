//! What payers and sellers say to each other: offer → challenge → credential → receipt, or refusal.
//!
//! [`Offer`], [`Credential`], [`Receipt`] and [`Refusal`] know no wire. Each protocol is one static [`Dialect`] in a module of its
//! own that knows nothing else: its headers, how it reads a credential, and what it says. [`Dialects`] are those that are spoken:
//! their answers are joined, so that one 402 serves every paying client. Carriers (HTTP) only read and write. No I/O, no decisions.

pub mod card_number;
mod challenge;
mod credential;
mod dialect;
mod dialects;
mod offer;
mod receipt;
mod refusal;
pub mod strict_json;
pub mod stripe402;
mod template;
mod unspoken;

#[cfg(test)]
mod toys;

pub use self::challenge::{Challenge, Envelope, Line, Written};
pub use self::credential::{Binding, Credential, Instrument};
pub use self::dialect::{Claim, Dialect, Offered, Presented, Told, Unreadable, Verifying, When};
pub use self::dialects::{Dialects, NotRead, SPOKEN};
pub use self::offer::{Offer, Pack, Standing, TopUp};
pub use self::receipt::{CardPayment, Failure, Receipt};
pub use self::refusal::Refusal;
pub use self::template::{Filling, Piece, Seal, SealKeys, Template};
pub use self::unspoken::Unspoken;

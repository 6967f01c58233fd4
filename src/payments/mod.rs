//! What becomes of payments after they were made: refunds, disputes, fraud warnings, and how they are heard of.
//!
//! ```text
//! webhook ──┐
//!           ├─► inbox: each event once, stored before it is acknowledged ─► applier: settles the top-up, or aligns the charge
//! poller ───┘                                                              └► cannot now: parked, tried again, never given up
//! ```
//! Nobody believes what an event says. It only tells where to look: events come twice, late, in any order, and in versions that
//! this program does not know. `charges.rs` reads from Stripe everything that has become of a charge and applies it in one step,
//! whoever noticed first: an event, an operator's refund, the reconciler. `refunds.rs` asks for refunds. `evidence.rs` gathers
//! what answers a dispute.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::unwrap_used
    )
)]

mod applier;
pub mod charges;
mod event;
pub mod evidence;
mod inbox;
mod parts;
mod poller;
pub mod refunds;

pub use self::applier::{Applied, Applier};
pub use self::event::{Event, HANDLED_TYPES};
pub use self::inbox::{Inbox, ParkedEvents, Taken};
pub use self::parts::PaymentParts;
pub use self::poller::{PollError, Poller};

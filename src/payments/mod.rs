//! What becomes of a charge after it was made, as Stripe tells it.
//!
//! ```text
//! webhook ──┐
//!           ├─► inbox: each event once, stored before it is acknowledged ─► applier: reads the object anew at Stripe, settles
//! poller ───┘                                                              └► cannot now: parked, tried again, never given up
//! ```
//! An event is never believed, it only says where to look: events come twice, late, in any order, and in versions that this
//! program does not know.
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
mod charges;
mod event;
mod inbox;
mod poller;

pub use self::applier::{Applied, Applier};
pub use self::charges::Charges;
pub use self::event::{Event, HANDLED_TYPES};
pub use self::inbox::{Inbox, ParkedEvents, Taken};
pub use self::poller::{PollError, Poller};

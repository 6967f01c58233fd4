//! Every rule about money, as an ordinary function: `apply(state, commands) → entries, new state, outcomes`.
//!
//! No I/O, no clock, no randomness: the same input gives the same books, so tables, a model and millions of random
//! commands can test it. The shell (`writer.rs`, `sqlite.rs`) reads the state, calls [`Batch::apply`] for each command and
//! writes the result in one transaction.
//!
//! In the order in which things happen: `commands.rs` (what is asked for), `state.rs` (the wallet that it concerns), `batch.rs`
//! (looks for what is in the books already, and hands the command on), `spending.rs` and `credit.rs` (the rules of each kind),
//! `entries.rs` (appends what they decide), `outcome.rs`.

mod batch;
mod commands;
mod credit;
mod entries;
mod outcome;
mod spending;
mod state;

pub use self::batch::Batch;
pub use self::commands::{
    Adjust, Capture, Clawback, Command, Fee, Gift, Hold, MAX_LEGS, PayOut, Reinstate, Release, Reverse,
    Settle, TopUp, Within,
};
pub use self::entries::Entry;
pub use self::outcome::{Outcome, Refusal};
pub use self::state::ClientState;

/// A client's number: integer, because the hot path joins on it.
pub type ClientId = i64;
/// A client key's number.
pub type KeyNumber = i64;
/// An entry's number. Those of one client ascend in the order of commits; where there is one writer, all do.
pub type EntryId = i64;

#[cfg(test)]
mod tests;

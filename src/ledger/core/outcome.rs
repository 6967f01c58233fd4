//! What became of a command.

use super::state::ClientState;
use super::{ClientId, EntryId};

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the books, now or already before (`repeated`).
    Posted {
        /// The first entry.
        entry: EntryId,
        /// Whose balance changed.
        client: ClientId,
        /// The balances now.
        state: ClientState,
        /// The same command had been posted before; nothing was added.
        repeated: bool,
    },
    /// It is not in the books.
    Refused(Refusal),
}

/// Why a command is not in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The credit does not cover it.
    #[error("the credit does not cover it")]
    InsufficientCredits,
    /// The client is frozen or in debt.
    #[error("the client is frozen")]
    ClientFrozen,
    /// The amount is of another currency than the client's.
    #[error("the amount is of another currency than the client's")]
    CurrencyMismatch,
    /// There is no such client.
    #[error("there is no such client")]
    UnknownClient,
    /// The source is taken by a command with other content.
    #[error("the source is taken by a command with other content")]
    SourceConflict,
    /// There is no such capture to reverse.
    #[error("there is no such capture")]
    NothingToReverse,
    /// There is no such hold, or it has ended.
    #[error("there is no such hold, or it has ended")]
    NoHold,
    /// The credit is there, but running requests have set it aside.
    #[error("running requests have set the credit aside")]
    ReservationsInFlight,
    /// More than is held.
    #[error("that is more than is held")]
    ExceedsHold,
    /// More than is left of the charge.
    #[error("that is more than is left of the charge")]
    ExceedsCharge,
    /// More than the client owes.
    #[error("that is more than the client owes")]
    ExceedsDebt,
    /// More credit than operators may give in a day.
    #[error("that is more credit than operators may give in a day")]
    DailyLimit,
    /// The top-up has not succeeded, or not yet.
    #[error("the top-up has not succeeded")]
    NotCharged,
    /// A balance would leave the range of amounts.
    #[error("a balance would leave the range of amounts")]
    OutOfRange,
}

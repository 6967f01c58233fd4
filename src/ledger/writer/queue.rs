//! What waits for the writer, and who waits for its outcome.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::domain::Micros;
use crate::ledger::LedgerError;
use crate::ledger::aftermath::Change;
use crate::ledger::answers::StoredAnswer;
use crate::ledger::core::{Capture, ClientId, ClientState, Command, EntryId, Hold, Release, Reverse, Settle};
use crate::ledger::mailbox::Recipient;
use crate::ledger::recording::SucceededCharge;
use crate::ledger::reservations::{NotReserved, Reservation, Reservations};

/// A command and who waits for its outcome.
#[derive(Debug)]
pub(in crate::ledger) enum Job {
    Capture {
        capture: Capture,
        reservation: Reservation,
        store: Option<StoredAnswer>,
        answer: Recipient<Answer>,
    },
    Hold {
        hold: Hold,
        reservation: Reservation,
        answer: oneshot::Sender<HoldAnswer>,
    },
    Release {
        release: Release,
        answer: oneshot::Sender<Answer>,
    },
    Settle {
        settle: Settle,
        /// Without its amount, which the hold has.
        running: Reservation,
        answer: Recipient<Answer>,
    },
    TopUp {
        charge: SucceededCharge,
        reserve: Option<Micros>,
        answer: oneshot::Sender<TopUpAnswer>,
    },
    Reverse {
        reverse: Reverse,
        answer: oneshot::Sender<Answer>,
    },
    /// In a transaction of its own: these are rare, and write rows of other tables.
    Change {
        change: Box<Change>,
        answer: oneshot::Sender<ChangeAnswer>,
    },
}

pub(in crate::ledger) type Answer = Result<Posted, LedgerError>;
/// The reservation comes back without its amount, which the hold has now; it still counts as a running request.
pub(in crate::ledger) type HoldAnswer = Result<(Posted, Reservation), LedgerError>;
pub(in crate::ledger) type TopUpAnswer =
    Result<(Posted, Option<Result<Reservation, NotReserved>>), LedgerError>;

pub(in crate::ledger) type ChangeAnswer = Result<(ClientId, ClientState), LedgerError>;

/// A change that is in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    /// The first entry.
    pub entry: EntryId,
    /// Whose balance changed.
    pub client: ClientId,
    /// The balances right after it.
    pub state: ClientState,
    /// It had been in the books before.
    pub repeated: bool,
}

/// Captures whose answer has not been delivered yet. The writer stores them with every commit of captures; delivery removes them.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Deliveries {
    finished: Mutex<Vec<EntryId>>,
}

impl Deliveries {
    pub(in crate::ledger) fn finish(&self, entry: EntryId) {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    pub(super) fn take(&self) -> Vec<EntryId> {
        std::mem::take(&mut self.finished.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the writer counts, for metrics.
#[derive(Debug, Default)]
pub struct WriterCounts {
    /// Transactions committed.
    pub batches: std::sync::atomic::AtomicU64,
    /// Of these, the ones that took one statement, where several nodes write.
    pub at_once: std::sync::atomic::AtomicU64,
    /// Commands in them.
    pub commands: std::sync::atomic::AtomicU64,
    /// Batches that were rolled back and replayed one by one.
    pub replays: std::sync::atomic::AtomicU64,
    /// Batches that were looked up and tried again: conflicts between nodes, or a server that went away.
    pub retries: std::sync::atomic::AtomicU64,
    /// Captures reversed at start because their answer may not have been delivered.
    pub reversed_at_start: std::sync::atomic::AtomicU64,
    /// The same for other nodes that have died.
    pub reversed_for_others: std::sync::atomic::AtomicU64,
}

/// What a batch is asked to do.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Command(Command),
    /// Becomes a command when the top-up's row has been read.
    Charge(SucceededCharge),
}

/// What the writer and the ledger's callers both look at.
pub(in crate::ledger) struct Shared {
    pub(in crate::ledger) reservations: Arc<Reservations>,
    pub(in crate::ledger) deliveries: Arc<Deliveries>,
    pub(in crate::ledger) counts: Arc<WriterCounts>,
}

impl Job {
    /// `None`: never in a batch.
    pub(super) fn asked(&self) -> Option<Asked> {
        Some(match self {
            Self::Capture { capture, .. } => Asked::Command(Command::Capture(capture.clone())),
            Self::Hold { hold, .. } => Asked::Command(Command::Hold(hold.clone())),
            Self::Release { release, .. } => Asked::Command(Command::Release(release.clone())),
            Self::Settle { settle, .. } => Asked::Command(Command::Settle(settle.clone())),
            Self::Reverse { reverse, .. } => Asked::Command(Command::Reverse(reverse.clone())),
            Self::TopUp { charge, .. } => Asked::Charge(charge.clone()),
            Self::Change { .. } => return None,
        })
    }

    pub(super) fn store(&self) -> Option<&StoredAnswer> {
        match self {
            Self::Capture { store, .. } => store.as_ref(),
            _ => None,
        }
    }

    pub(super) fn client(&self) -> Option<ClientId> {
        match self {
            Self::Capture { capture, .. } => Some(capture.client),
            Self::Hold { hold, .. } => Some(hold.client),
            Self::Release { release, .. } => Some(release.client),
            Self::Settle { settle, .. } => Some(settle.client),
            Self::Reverse { reverse, .. } => reverse.client,
            Self::TopUp { .. } | Self::Change { .. } => None,
        }
    }
}

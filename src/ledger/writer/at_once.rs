//! Where several nodes write: a batch of plain captures in one statement, decided from what this node remembers.
//!
//! The long way costs four trips to the server (begin, lock and read, append, commit). Most batches need none of what they
//! read: nobody else has touched those clients since this node's last commit. So the node decides from memory, and one
//! statement, which is a transaction of its own, writes the result on the condition that each client still has the sequence
//! that the decision began with. If one has not, nothing is written, and the batch takes the long way.
//!
//! Four things keep that as strict as the long way:
//! * every entry raises its client's sequence, and the statement locks the clients before it compares; freezing, which makes
//!   no entry, is compared too;
//! * ids come from the node's block only while they are above all that these clients have, so one client's ids ascend in the
//!   order of commits;
//! * the statement counts the rows that it has written, and undoes itself if they are not all;
//! * a statement whose outcome is unknown may still be on its way when its commands are looked up, holding no lock yet. The
//!   node therefore raises its fencing token first, which waits for a statement that runs and voids one that has not begun.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Writer;
use super::queue::Asked;
use super::transaction::Committed;
use crate::ledger::core::{Batch, ClientId, ClientState, Command, EntryId, Outcome};
use crate::ledger::fault::Fault;
use crate::ledger::storage::{self, Writing};

/// Batches that take the long way after several misses in a row, at most: nodes that serve the same wallets at the same time
/// find each other's traces in every batch.
const MOST_DETOURS: u32 = 63;

/// A block of ids is not used for longer, so that the ids of all nodes ascend in time but for this: lists of the newest entries
/// go by id.
const LONGEST_USE: Duration = Duration::from_secs(10);

/// What a batch may be decided from without asking the database.
#[derive(Debug)]
pub(super) struct AtOnce {
    /// What is left of this node's block of ids.
    ids: Range<EntryId>,
    /// When the block was taken.
    taken: Instant,
    /// The node's fencing token.
    fence: i64,
    /// It is in the database, so that statements with an older one are void.
    is_fenced: bool,
    /// Batches that are still to take the long way.
    detours: u32,
    /// How many there were after the last miss.
    last_detours: u32,
}

impl Default for AtOnce {
    fn default() -> Self {
        // The column's default stands for no token at all.
        Self { ids: 0..0, taken: Instant::now(), fence: 1, is_fenced: false, detours: 0, last_detours: 0 }
    }
}

impl AtOnce {
    /// See [`Writing::fence`].
    pub(super) fn fence(&self) -> i64 {
        self.fence
    }

    /// The outcome of a statement is unknown.
    pub(super) fn doubt(&mut self) {
        self.fence = self.fence.saturating_add(1);
        self.is_fenced = false;
        // After a failover the sequence may give them once more.
        self.ids = 0..0;
    }

    /// A block that has just been taken from the sequence, as far as it is not used.
    pub(super) fn take(&mut self, ids: Range<EntryId>) {
        if !ids.is_empty() {
            self.ids = ids;
            self.taken = Instant::now();
        }
    }

    fn miss(&mut self) {
        self.last_detours = self.last_detours.saturating_mul(2).saturating_add(1).min(MOST_DETOURS);
        self.detours = self.last_detours;
    }

    /// Whether the next batch is to try.
    fn may_try(&mut self) -> bool {
        let is_on_detour = self.detours > 0;
        self.detours = self.detours.saturating_sub(1);
        self.is_fenced && !is_on_detour && self.taken.elapsed() < LONGEST_USE
    }
}

/// A batch that is decided, with the sequences that its clients had before.
struct Decided {
    batch: Batch,
    outcomes: Vec<Outcome>,
    before: HashMap<ClientId, i64>,
}

impl Writer {
    /// Before anything is looked up: see the module's last point.
    pub(super) async fn raise_fence(&mut self) -> Result<(), sqlx::Error> {
        if self.is_shared() && !self.at_once.is_fenced {
            storage::fence(&mut self.connection, &self.node, self.at_once.fence).await?;
            self.at_once.is_fenced = true;
        }
        Ok(())
    }

    /// `None`: nothing has been written; the batch is to take the long way.
    pub(super) async fn commit_at_once(
        &mut self,
        asked: &[Asked],
        at: i64,
    ) -> Result<Option<Committed>, Fault> {
        if !self.at_once.may_try() {
            return Ok(None);
        }
        let Some(Decided { batch, outcomes, before }) = self.decide_from_memory(asked) else {
            return Ok(None);
        };
        // Never again, whatever becomes of the statement.
        self.at_once.ids.start = batch.next_entry().unwrap_or(self.at_once.ids.end);
        let mut changed: Vec<(ClientId, ClientState)> =
            batch.clients.iter().map(|(id, state)| (*id, *state)).collect();
        changed.sort_unstable_by_key(|(id, _)| *id);
        let sequences = changed.iter().filter_map(|(id, _)| before.get(id).copied()).collect();
        let captured: Vec<EntryId> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Posted { entry, .. } => Some(*entry),
                Outcome::Refused(_) => None,
            })
            .collect();
        let row = self.undelivered_row(&captured);
        let writing = Writing {
            at,
            entries: &batch.entries,
            clients: &changed,
            undelivered: Some((&self.node, &row)),
            fence: self.at_once.fence,
        };
        let written = storage::append_at_once(&mut self.connection, writing, sequences).await?;
        if written == 0 {
            self.at_once.miss();
            return Ok(None);
        }
        self.counts.at_once.fetch_add(1, Relaxed);
        self.at_once.last_detours = 0;
        self.row_is_stale = false;
        self.note_newest(&batch);
        self.remember(&batch.clients);
        Ok(Some(Committed { outcomes, states: batch.clients }))
    }

    /// Plain captures of clients that are known, all of which succeed. Anything else is decided under the locks.
    fn decide_from_memory(&self, asked: &[Asked]) -> Option<Decided> {
        let mut clients = HashMap::with_capacity(asked.len());
        for asked in asked {
            match asked {
                Asked::Command(Command::Capture(capture)) if !capture.held => {
                    clients.insert(capture.client, *self.cache.get(&capture.client)?);
                }
                _ => return None,
            }
        }
        // By now every way to learn a state has taken a newer block, too. Should one not, ids must ascend all the same.
        let newest = clients.values().filter_map(|state| state.last_entry).max();
        if newest.is_some_and(|newest| newest >= self.at_once.ids.start) {
            return None;
        }
        let before = clients.iter().map(|(id, state)| (*id, state.sequence)).collect();
        let mut batch = Batch::within(self.at_once.ids.clone());
        batch.clients = clients;
        let mut outcomes = Vec::with_capacity(asked.len());
        for asked in asked {
            let Asked::Command(command) = asked else { return None };
            match batch.apply(command) {
                outcome @ Outcome::Posted { .. } => outcomes.push(outcome),
                Outcome::Refused(_) => return None,
            }
        }
        Some(Decided { batch, outcomes, before })
    }
}

//! The commands of one transaction, one after the other on the same state.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::commands::Command;
use super::entries::Entry;
use super::outcome::{Outcome, Refusal};
use super::state::ClientState;
use super::{ClientId, EntryId};
use crate::domain::Micros;
use crate::ledger::account::Account;
use crate::ledger::source::{EntrySource, Source};

/// The state that one batch works on: what the shell read, then what the commands made of it.
#[derive(Debug, Default)]
pub struct Batch {
    /// The clients that the commands touch, as read under the lock. A missing one does not exist.
    pub clients: HashMap<ClientId, ClientState>,
    /// Entries already in the books under the sources that may repeat, and under the captures to reverse.
    pub recorded: HashMap<EntrySource, Entry>,
    /// Appended by the commands.
    pub entries: Vec<Entry>,
    /// Clients whose state changed.
    pub changed: HashSet<ClientId>,
    /// Ids for new entries.
    pub(super) ids: Ids,
    /// Sources posted in this batch, for commands that come twice in it.
    pub(super) posted: HashMap<EntrySource, usize>,
}

/// Where the ids of new entries come from.
#[derive(Debug)]
pub(super) enum Ids {
    /// One after the other: there is one writer.
    From(EntryId),
    /// From a block that is ours: several writers share a sequence.
    Within(Range<EntryId>),
}

impl Default for Ids {
    fn default() -> Self {
        Self::From(1)
    }
}

impl Ids {
    /// The n-th id from here, counted from nothing.
    pub(super) fn nth(&self, n: usize) -> Option<EntryId> {
        match self {
            Self::From(next) => next.checked_add(i64::try_from(n).ok()?),
            Self::Within(ids) => {
                let id = ids.start.checked_add(i64::try_from(n).ok()?)?;
                ids.contains(&id).then_some(id)
            }
        }
    }

    /// Uses up the next `n`.
    pub(super) fn advance(&mut self, n: usize) {
        let (Self::From(next) | Self::Within(Range { start: next, .. })) = self;
        *next = next.saturating_add(i64::try_from(n).unwrap_or(i64::MAX));
    }
}

impl Batch {
    /// An empty batch whose first entry will have this id.
    #[must_use]
    pub fn starting_at(next_entry: EntryId) -> Self {
        Self { ids: Ids::From(next_entry), ..Self::default() }
    }

    /// An empty batch whose entries get ids of this block, ascending.
    #[must_use]
    pub fn within(ids: Range<EntryId>) -> Self {
        Self { ids: Ids::Within(ids), ..Self::default() }
    }

    /// The id of the next entry, while there are ids left.
    #[must_use]
    pub fn next_entry(&self) -> Option<EntryId> {
        self.ids.nth(0)
    }

    /// What is left of the block that the batch was given ([`Batch::within`]).
    #[must_use]
    pub fn ids_left(&self) -> Range<EntryId> {
        match &self.ids {
            Ids::From(next) => *next..*next,
            Ids::Within(ids) => ids.clone(),
        }
    }

    /// Applies one command. A refused command changes nothing.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let result = match command {
            Command::Capture(capture) => self.capture(capture),
            Command::TopUp(top_up) => self.top_up(top_up),
            Command::Reverse(reverse) => self.reverse(reverse),
            Command::Clawback(clawback) => self.clawback(clawback),
            Command::Hold(hold) => self.hold(hold),
            Command::Release(release) => self.release(release),
            Command::Settle(settle) => self.settle(settle),
            Command::PayOut(pay_out) => self.pay_out(pay_out),
            Command::Reinstate(reinstate) => self.reinstate(reinstate),
            Command::Fee(fee) => self.fee(fee),
            Command::Adjust(adjust) => self.adjust(adjust),
        };
        result.unwrap_or_else(Outcome::Refused)
    }

    pub(super) fn client(&self, id: ClientId) -> Result<ClientState, Refusal> {
        self.clients.get(&id).copied().ok_or(Refusal::UnknownClient)
    }

    /// The first entry under a source, from the books or from this batch.
    pub(super) fn find(&self, source: &Source) -> Option<&Entry> {
        self.find_entry(&source.entry(0))
    }

    fn find_entry(&self, source: &EntrySource) -> Option<&Entry> {
        match self.posted.get(source) {
            Some(index) => self.entries.get(*index),
            None => self.recorded.get(source),
        }
    }

    /// All entries of one command, in the order of its legs.
    pub(super) fn legs_of(&self, source: &Source) -> Vec<Entry> {
        source.entries().map_while(|source| self.find_entry(&source).cloned()).collect()
    }

    /// The answer for a source that is in the books: the recorded outcome if the content is the same. `totals` are the
    /// accounts outside the client's wallet and what they move; how the wallet's side split depends on its state then.
    pub(super) fn repeat(
        &self,
        source: &Source,
        client: ClientId,
        totals: &[(Account, Micros)],
    ) -> Option<Result<Outcome, Refusal>> {
        let first = self.find(source)?;
        let legs = self.legs_of(source);
        let touches = |leg: &Entry, account: Account| leg.debit == account || leg.credit == account;
        let moved = |account: Account| {
            legs.iter()
                .filter(|leg| touches(leg, account))
                .try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount))
        };
        let same = first.client == client
            && totals.iter().all(|(account, total)| moved(*account) == Some(*total))
            && legs.iter().all(|leg| totals.iter().any(|(account, _)| touches(leg, *account)));
        if !same {
            return Some(Err(Refusal::SourceConflict));
        }
        let (entry, client) = (first.id, first.client);
        Some(self.client(client).map(|state| Outcome::Posted { entry, client, state, repeated: true }))
    }
}

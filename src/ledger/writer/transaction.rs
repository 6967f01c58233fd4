//! The transaction of one batch: read, apply, append, update, commit.

use std::collections::HashMap;
use std::time::Duration;

use super::doubts::is_noted;
use super::queue::Asked;
use super::{BATCH_TIMEOUT, SILENT, Writer};
use crate::db::now_micros;
use crate::ledger::answers::{self, StoredAnswer};
use crate::ledger::core::{
    Batch, ClientId, ClientState, Command, EntryId, Outcome, Refusal, Release, Reverse, Settle,
};
use crate::ledger::fault::Fault;
use crate::ledger::recording::{self, SucceededCharge};
use crate::ledger::source::Source;
use crate::ledger::storage::{self, HoldRow, Writing};

/// One committed batch: the outcomes in the order of its commands, and the states after all of them.
#[derive(Debug, Default)]
pub(super) struct Committed {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) states: HashMap<ClientId, ClientState>,
}

/// Clients whose balances the writer keeps between batches.
const KEPT_CLIENTS: usize = 131_072;

impl Writer {
    /// One transaction: read, apply, append, update, commit. Any error rolls everything back and empties the cache.
    pub(super) async fn commit(
        &mut self,
        asked: Vec<Asked>,
        stores: &[Option<&StoredAnswer>],
        repeated: bool,
    ) -> Result<Committed, Fault> {
        // The server ends statements and transactions that hang; this is for a network that says nothing. The connection
        // is thrown away then, so that cancelling leaves nothing behind.
        let timeout = if self.is_shared() { BATCH_TIMEOUT } else { Duration::MAX };
        let work = tokio::time::timeout(timeout, self.try_commit(asked, stores, repeated)).await;
        match work {
            Ok(Ok(committed)) => Ok(committed),
            Ok(Err(fault)) => {
                self.condition.note(fault.error());
                self.mend(fault.is_demoted()).await;
                Err(fault)
            }
            Err(_) => {
                self.condition.refuses(&SILENT);
                self.mend(true).await;
                Err(Fault::Away(sqlx::Error::Protocol(SILENT.into())))
            }
        }
    }

    async fn try_commit(
        &mut self,
        asked: Vec<Asked>,
        stores: &[Option<&StoredAnswer>],
        repeated: bool,
    ) -> Result<Committed, Fault> {
        let at = now_micros();
        let is_plain = !repeated && stores.iter().all(Option::is_none);
        if self.is_shared()
            && is_plain
            && let Some(committed) = self.commit_at_once(&asked, at).await?
        {
            return Ok(committed);
        }
        self.raise_fence().await?;
        self.connection.begin().await?;
        let is_charge: Vec<bool> = asked.iter().map(|asked| matches!(asked, Asked::Charge(_))).collect();
        let commands = self.prepare(asked, at).await?;
        let mut batch = self.read(&commands, repeated).await?;
        let outcomes: Vec<Outcome> = commands
            .iter()
            .map(|command| match command {
                Some(command) => batch.apply(command),
                None => Outcome::Refused(Refusal::UnknownClient),
            })
            .collect();

        let uncredited = |((is_charge, command), outcome): ((&bool, &Option<Command>), &Outcome)| {
            *is_charge && command.is_some() && matches!(outcome, Outcome::Refused(_))
        };
        if is_charge.iter().zip(&commands).zip(&outcomes).any(uncredited) {
            // Its row says "succeeded" already; without entries it must not stay so.
            self.connection.rollback().await?;
            return match &outcomes[..] {
                [_] => Ok(Committed { outcomes, states: batch.clients }),
                _ => Err(Fault::guilty("a succeeded charge cannot be credited")),
            };
        }

        let changed: Vec<(ClientId, ClientState)> =
            batch.changed.iter().filter_map(|id| Some((*id, *batch.clients.get(id)?))).collect();
        let captured = noted(&commands, &outcomes, stores);
        let row_written = !captured.is_empty();
        let row = if row_written { self.undelivered_row(&captured) } else { Vec::new() };
        let node = self.node.clone();
        let undelivered = row_written.then_some((node.as_str(), &row[..]));
        let fence = self.at_once.fence();
        self.append(Writing { at, entries: &batch.entries, clients: &changed, undelivered, fence }).await?;
        self.write_holds(&commands, &outcomes, at).await?;
        self.write_answers(&commands, &outcomes, stores).await?;
        self.connection.commit().await?;

        self.row_is_stale &= !row_written;
        self.keep_ids(&batch);
        self.remember(&batch.clients);
        Ok(Committed { outcomes, states: batch.clients })
    }

    /// Where the next batch goes on counting.
    pub(super) fn keep_ids(&mut self, batch: &Batch) {
        self.note_newest(batch);
        if self.is_shared() {
            self.at_once.take(batch.ids_left());
        } else {
            self.next_entry = batch.next_entry().unwrap_or(self.next_entry);
        }
    }

    /// For whoever looks whether the books are still these.
    pub(super) fn note_newest(&self, batch: &Batch) {
        if let Some(entry) = batch.entries.last() {
            self.condition.has_entry(entry.id);
        }
    }

    /// Keeps balances that have just been committed.
    pub(super) fn remember(&mut self, clients: &HashMap<ClientId, ClientState>) {
        if self.cache.len() > KEPT_CLIENTS {
            self.cache.clear();
        }
        self.cache.extend(clients.iter().map(|(id, state)| (*id, *state)));
    }

    /// Turns charges into commands: their rows are written, in the order of their ids, which is the order of locks.
    async fn prepare(&mut self, asked: Vec<Asked>, at: i64) -> Result<Vec<Option<Command>>, Fault> {
        let mut charges: Vec<(usize, SucceededCharge)> = Vec::new();
        let mut commands: Vec<Option<Command>> = Vec::with_capacity(asked.len());
        for asked in asked {
            match asked {
                Asked::Command(command) => commands.push(Some(command)),
                Asked::Charge(charge) => {
                    charges.push((commands.len(), charge));
                    commands.push(None);
                }
            }
        }
        charges.sort_by_key(|(_, charge)| charge.top_up.to_string());
        for (index, charge) in charges {
            let top_up = recording::prepare(&mut self.connection, &charge, at).await?;
            if let Some(command) = commands.get_mut(index) {
                *command = top_up.map(Command::TopUp);
            }
        }
        Ok(commands)
    }

    /// Reads what the commands need. First the clients are locked, then what is recorded is looked up: a transaction of ours
    /// whose outcome is unknown holds those locks until it has ended one way or the other.
    pub(super) async fn read(
        &mut self,
        commands: &[Option<Command>],
        repeated: bool,
    ) -> Result<Batch, Fault> {
        let known = commands.iter().flatten();
        let nameless: Vec<Source> = known
            .clone()
            .filter_map(|command| match command {
                Command::Reverse(Reverse { capture, client: None }) => Some(capture.clone()),
                _ => None,
            })
            .collect();
        let named = storage::load_recorded(&mut self.connection, &nameless).await?;
        let mut touched: Vec<ClientId> = known
            .clone()
            .filter_map(Command::client)
            .chain(named.values().map(|entry| entry.client))
            .collect();
        touched.sort_unstable();
        touched.dedup();
        let mut clients: HashMap<ClientId, ClientState> = HashMap::with_capacity(touched.len());
        if !self.is_shared() {
            clients.extend(touched.iter().filter_map(|id| Some((*id, *self.cache.get(id)?))));
            touched.retain(|id| !clients.contains_key(id));
        }
        let locked = storage::lock_clients(&mut self.connection, &touched).await?;
        clients.extend(locked.clients);
        let recall: Vec<Source> = known.flat_map(|command| command.recalls(repeated)).collect();
        let recorded = storage::load_recorded(&mut self.connection, &recall).await?;
        let ids = locked.entry_ids;
        let mut batch = ids.map_or_else(|| Batch::starting_at(self.next_entry), Batch::within);
        batch.clients = clients;
        batch.recorded = recorded;
        Ok(batch)
    }

    /// Rows of holds that were taken are added, those of holds that ended are removed.
    async fn write_holds(
        &mut self,
        commands: &[Option<Command>],
        outcomes: &[Outcome],
        at: i64,
    ) -> Result<(), Fault> {
        let (mut taken, mut ended) = (Vec::new(), Vec::new());
        for (command, outcome) in commands.iter().zip(outcomes) {
            match (command, outcome) {
                (Some(Command::Hold(hold)), Outcome::Posted { repeated: false, .. }) => taken.push(HoldRow {
                    request: hold.source.id().clone(),
                    client: hold.client,
                    amount: hold.amount,
                }),
                (Some(Command::Capture(capture)), Outcome::Posted { repeated: false, .. })
                    if capture.held =>
                {
                    ended.push(capture.source.id().clone());
                }
                (
                    Some(Command::Release(Release { hold, .. }) | Command::Settle(Settle { hold, .. })),
                    Outcome::Posted { repeated: false, .. },
                ) => ended.push(hold.id().clone()),
                _ => {}
            }
        }
        let added = storage::insert_holds(&mut self.connection, &self.node, at, &taken).await?;
        let removed = storage::delete_holds(&mut self.connection, &ended).await?;
        if (usize::try_from(added), usize::try_from(removed)) != (Ok(taken.len()), Ok(ended.len())) {
            return Err(Fault::guilty("a hold's row is missing"));
        }
        Ok(())
    }

    /// Stores answers with their captures.
    async fn write_answers(
        &mut self,
        commands: &[Option<Command>],
        outcomes: &[Outcome],
        stores: &[Option<&StoredAnswer>],
    ) -> Result<(), Fault> {
        for (outcome, store) in charges(commands, outcomes, stores) {
            if let (Some(answer), Outcome::Posted { repeated: false, .. }) = (store, outcome)
                && !answers::store(&mut self.connection, answer).await?
            {
                return Err(Fault::guilty("another request has taken over this Idempotency-Key"));
            }
        }
        Ok(())
    }

    /// Writes what a batch has made of the books. All of it, or it fails.
    pub(super) async fn append(&mut self, writing: Writing<'_>) -> Result<(), Fault> {
        let written = storage::append(&mut self.connection, writing).await?;
        if usize::try_from(written) != Ok(writing.rows()) {
            let rows = writing.rows();
            return Err(Fault::guilty(&format!(
                "{written} of {rows} rows were written: entries or a client's row are missing"
            )));
        }
        Ok(())
    }
}

/// What became of the commands of a batch that charge a request, and the answer that is stored with each.
fn charges<'a>(
    commands: &'a [Option<Command>],
    outcomes: &'a [Outcome],
    stores: &'a [Option<&'a StoredAnswer>],
) -> impl Iterator<Item = (&'a Outcome, Option<&'a StoredAnswer>)> {
    let with_outcomes = commands.iter().zip(outcomes).enumerate();
    with_outcomes.filter_map(|(index, (command, outcome))| match command {
        Some(Command::Capture(_)) => Some((outcome, stores.get(index).copied().flatten())),
        Some(Command::Settle(settle)) if settle.charges() => Some((outcome, None)),
        _ => None,
    })
}

/// The charges of a batch that are to be noted as undelivered.
fn noted(
    commands: &[Option<Command>],
    outcomes: &[Outcome],
    stores: &[Option<&StoredAnswer>],
) -> Vec<EntryId> {
    charges(commands, outcomes, stores)
        .filter_map(|(outcome, store)| match outcome {
            Outcome::Posted { entry, .. } if is_noted(store) => Some(*entry),
            _ => None,
        })
        .collect()
}

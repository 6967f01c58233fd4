//! A change in a transaction of its own: these are rare, touch other tables, and each concerns one top-up.

use std::time::Duration;

use super::{BATCH_TIMEOUT, SILENT, Writer};
use crate::db::now_micros;
use crate::ledger::aftermath::{self, Change, NewRefund, Prepared, RefundOrigin};
use crate::ledger::core::{ClientId, ClientState, Command, Outcome, Refusal};
use crate::ledger::fault::Fault;
use crate::ledger::reservations::Reservation;
use crate::ledger::storage::{self, Writing};

/// Whose balances a change has changed, what they are now, and what was set aside for it meanwhile.
type Changed = (ClientId, ClientState, Option<Reservation>);

impl Writer {
    /// A change in a transaction of its own, with the same care as [`Writer::commit`].
    pub(super) async fn commit_change(&mut self, change: &Change) -> Result<Result<Changed, Refusal>, Fault> {
        let timeout = if self.is_shared() { BATCH_TIMEOUT } else { Duration::MAX };
        let work = tokio::time::timeout(timeout, self.try_change(change)).await;
        match work {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(fault)) => {
                self.condition.note(fault.error());
                self.mend(fault.is_demoted()).await;
                self.learn_next_entry().await.map_err(Fault::from)?;
                Err(fault)
            }
            Err(_) => {
                self.condition.refuses(&SILENT);
                self.mend(true).await;
                Err(Fault::Away(sqlx::Error::Protocol(SILENT.into())))
            }
        }
    }

    async fn try_change(&mut self, change: &Change) -> Result<Result<Changed, Refusal>, Fault> {
        let at = now_micros();
        self.raise_fence().await?;
        self.connection.begin().await?;
        let prepared = aftermath::prepare(&mut self.connection, change, &self.reservations, at).await?;
        let (client, commands) = match prepared {
            Prepared::Commands(client, commands) => (client, commands),
            Prepared::Refused(refusal) => {
                self.connection.rollback().await?;
                return Ok(Err(refusal));
            }
        };
        // Its row may have been written just now.
        self.cache.remove(&client);
        let commands: Vec<Option<Command>> = commands.into_iter().map(Some).collect();
        let mut batch = self.read(&commands, true).await?;
        if commands.is_empty() {
            batch.clients.extend(storage::lock_clients(&mut self.connection, &[client]).await?.clients);
        }
        let before = batch.clients.get(&client).copied();
        for command in commands.iter().flatten() {
            if let Outcome::Refused(refusal) = batch.apply(command) {
                self.connection.rollback().await?;
                return Ok(Err(refusal));
            }
        }
        let Some(state) = batch.clients.get(&client).copied() else {
            self.connection.rollback().await?;
            return Ok(Err(Refusal::UnknownClient));
        };
        // Until the new balance is published, nobody else may set aside what this takes.
        let mut aside = None;
        if let (Change::RequestRefund(NewRefund { origin: RefundOrigin::Operator, .. }), Some(before)) =
            (change, before)
        {
            let taken = before.credit().saturating_sub(state.credit());
            // A refund that is in the books already takes nothing, and cannot be refused any more.
            if !taken.is_zero() {
                aside = self.reservations.set_aside(client, before, taken);
                if aside.is_none() {
                    self.connection.rollback().await?;
                    return Ok(Err(Refusal::ReservationsInFlight));
                }
            }
        }
        let changed: Vec<(ClientId, ClientState)> = batch.changed.iter().map(|id| (*id, state)).collect();
        let writing = Writing {
            at,
            entries: &batch.entries,
            clients: &changed,
            undelivered: None,
            fence: self.at_once.fence(),
        };
        self.append(writing).await?;
        self.connection.commit().await?;
        self.keep_ids(&batch);
        self.cache.insert(client, state);
        Ok(Ok((client, state, aside)))
    }
}

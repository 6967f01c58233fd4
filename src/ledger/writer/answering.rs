//! Telling everybody what became of their commands, once the batch is committed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Writer;
use super::doubts::is_noted;
use super::queue::{Job, Posted};
use super::transaction::Committed;
use crate::ledger::LedgerError;
use crate::ledger::core::Outcome;
use crate::ledger::mailbox::Round;
use crate::ledger::reservations::Reservations;

/// So many answers are given by a task of their own. Fewer are given sooner than another thread would have taken them up.
const WORTH_A_TASK: usize = 32;

impl Writer {
    /// Answers a batch while the next one is decided and committed already: many callers are woken by it.
    pub(super) async fn answer_all(&mut self, jobs: Vec<Job>, committed: Committed) {
        self.counts.batches.fetch_add(1, Relaxed);
        self.counts.commands.fetch_add(jobs.len().try_into().unwrap_or(u64::MAX), Relaxed);
        for (job, outcome) in jobs.iter().zip(&committed.outcomes) {
            let is_noted = match job {
                Job::Capture { store, .. } => is_noted(store.as_ref()),
                Job::Settle { settle, .. } => settle.charges(),
                _ => false,
            };
            if let (true, Outcome::Posted { entry, .. }) = (is_noted, outcome) {
                self.undelivered.insert(*entry);
            }
        }
        // The answers of one batch after those of the batch before.
        self.until_answered().await;
        let reservations = Arc::clone(&self.reservations);
        if jobs.len() < WORTH_A_TASK {
            answer(&reservations, jobs, committed);
        } else {
            self.answering = Some(tokio::spawn(async move { answer(&reservations, jobs, committed) }));
        }
    }

    /// Waits until what has been committed is published and everybody has been answered.
    pub(super) async fn until_answered(&mut self) {
        if let Some(answering) = self.answering.take()
            && let Err(error) = answering.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Publishes the new balances, ends the reservations, and answers.
fn answer(reservations: &Arc<Reservations>, jobs: Vec<Job>, committed: Committed) {
    let mut refused = Vec::new();
    let mut round = Round::new();
    for (job, outcome) in jobs.into_iter().zip(committed.outcomes) {
        let posted = match outcome {
            Outcome::Posted { entry, client, state, repeated } => {
                Ok(Posted { entry, client, state, repeated })
            }
            Outcome::Refused(refusal) => {
                refused.extend(job.client());
                Err(LedgerError::Refused(refusal))
            }
        };
        // Each state is published together with the end of its own reservation: the state after the whole batch
        // would count the others, whose reservations are still open, twice.
        // A caller who has gone is no reason to undo anything: the outcome stands.
        match job {
            Job::Capture { reservation, answer, .. } | Job::Settle { running: reservation, answer, .. } => {
                if let Ok(posted) = &posted {
                    reservation.settle(posted.state);
                }
                // Nobody there to hear it means that the process is ending: the capture stays noted as undelivered.
                round.add(answer, posted);
            }
            Job::TopUp { reserve, answer, .. } => {
                let answered = posted.map(|posted| {
                    reservations.publish(posted.client, posted.state);
                    let reservation = reserve
                        .map(|amount| reservations.publish_and_reserve(posted.client, posted.state, amount));
                    (posted, reservation)
                });
                let _ = answer.send(answered);
            }
            Job::Hold { reservation, answer, .. } => {
                let answered = posted.map(|posted| (posted, reservation.convert(posted.state)));
                let _ = answer.send(answered);
            }
            Job::Reverse { answer, .. } | Job::Release { answer, .. } => {
                if let Ok(posted) = &posted {
                    reservations.publish(posted.client, posted.state);
                }
                let _ = answer.send(posted);
            }
            // Never in a batch.
            Job::Change { .. } => {}
        }
    }
    // What was refused may mean that memory lags behind the database: another node has spent.
    for client in refused {
        if let Some(state) = committed.states.get(&client) {
            reservations.publish(client, *state);
        }
    }
}

//! Telling everybody what became of their commands, once the batch is committed.

use std::sync::Arc;

use super::{Committed, Job, Posted};
use crate::ledger::LedgerError;
use crate::ledger::core::Outcome;
use crate::ledger::mailbox::Round;
use crate::ledger::reservations::Reservations;

/// Publishes the new balances, ends the reservations, and answers.
pub(super) fn answer(reservations: &Arc<Reservations>, jobs: Vec<Job>, committed: Committed) {
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

//! What is not known yet: whether an answer was delivered, and whether a commit took place. It is noted, and settled while nothing
//! else is done.

use super::queue::{Asked, Job};
use super::transaction::Committed;
use super::{BATCH_TIMEOUT, SILENT, Writer};
use crate::ledger::LedgerError;
use crate::ledger::answers::StoredAnswer;
use crate::ledger::core::{Command, EntryId, Outcome, Reverse};
use crate::ledger::fault::Fault;
use crate::ledger::storage;
use crate::sparing_log::sparingly;

impl Writer {
    pub(super) fn is_behind(&self) -> bool {
        self.row_is_stale
            || !self.undelivered.is_empty()
            || !self.leaving.is_empty()
            || !self.doubtful.is_empty()
    }

    /// Changes whenever catching up gets on.
    pub(super) fn left_to_do(&self) -> (usize, usize, usize, bool) {
        (self.undelivered.len(), self.leaving.len(), self.doubtful.len(), self.row_is_stale)
    }

    /// Works off doubtful captures, and rewrites the undelivered row while nothing else does: only after them, because the row
    /// still notes them.
    pub(super) async fn catch_up(&mut self) {
        if self.condition.is_another() {
            // Its ids may be of other entries in this one.
            return;
        }
        self.settle_doubts().await;
        if !self.doubtful.is_empty() {
            return;
        }
        self.note_deliveries();
        if self.row_is_stale {
            match tokio::time::timeout(BATCH_TIMEOUT, self.write_undelivered()).await {
                Ok(Ok(written)) => self.row_is_stale = !written,
                Ok(Err(error)) => {
                    self.condition.note(&error);
                    sparingly!(error, %error, "the row of undelivered captures could not be written");
                    self.mend(false).await;
                }
                Err(_) => {
                    self.condition.refuses(&SILENT);
                    sparingly!(
                        error,
                        "the database did not answer when the row of undelivered captures was written"
                    );
                    self.mend(true).await;
                }
            }
        }
    }

    /// Fenced like everything: a late one must not bring an older list back.
    async fn write_undelivered(&mut self) -> Result<bool, sqlx::Error> {
        self.raise_fence().await?;
        let row = self.undelivered_row(&[]);
        storage::write_undelivered(&mut self.connection, &self.node, &row, self.at_once.fence()).await
    }

    pub(super) fn note_deliveries(&mut self) {
        self.row_is_stale |= !self.leaving.is_empty();
        self.leaving.clear();
        for entry in self.deliveries.take() {
            if self.undelivered.remove(&entry) {
                self.leaving.insert(entry);
            }
        }
    }

    pub(super) fn undelivered_row(&self, added: &[EntryId]) -> Vec<EntryId> {
        self.undelivered.iter().chain(&self.leaving).chain(added).copied().collect()
    }

    pub(super) async fn settle_doubts(&mut self) {
        self.until_answered().await;
        // After an outage the first try finds the connection cut, and the second has a new one.
        let mut may_try_again = self.is_shared();
        while let Some(capture) = self.doubtful.last().cloned() {
            match self.settle_doubt(&capture).await {
                Ok(committed) => {
                    for outcome in committed.outcomes {
                        if let Outcome::Posted { client, state, .. } = outcome {
                            self.reservations.publish(client, state);
                        }
                    }
                    self.doubtful.pop();
                    tracing::warn!(ledger.source = %capture.capture, "a capture of unknown outcome was settled: nobody is charged");
                }
                Err(Fault::OfOneCommand(error)) => {
                    tracing::error!(%error, ledger.source = %capture.capture, "a capture of unknown outcome cannot be settled; a person must look");
                    self.doubtful.pop();
                }
                Err(Fault::Away(_)) if may_try_again => may_try_again = false,
                Err(Fault::Again(error) | Fault::Away(error)) => {
                    sparingly!(error, %error, ledger.source = %capture.capture, "a capture of unknown outcome cannot be settled yet");
                    return;
                }
            }
        }
    }

    async fn settle_doubt(&mut self, capture: &Reverse) -> Result<Committed, Fault> {
        // The unknown commit may have taken place, and then has the id that would come next.
        self.learn_next_entry().await.map_err(Fault::from)?;
        self.commit(vec![Asked::Command(Command::Reverse(capture.clone()))], &[], true).await
    }

    /// The database did not take the command and could not be asked about it: nobody is told "charged" or "failed".
    pub(super) fn answer_error(&mut self, job: Job, error: &sqlx::Error) {
        sparingly!(error, %error, "a ledger command could not be committed");
        self.answer_with(job, &LedgerError::Unavailable(error.to_string()));
    }

    pub(super) fn answer_with(&mut self, job: Job, failed: &LedgerError) {
        let unknown = || failed.clone();
        match job {
            Job::Capture { capture, store, answer, .. } => {
                // An answer that is kept whole is charged if it is stored, and can be fetched; whoever asked finds out.
                if is_noted(store.as_ref()) {
                    let client = Some(capture.client);
                    self.doubtful.push(Reverse { capture: capture.source, client });
                }
                answer.answer(Err(unknown()));
            }
            Job::TopUp { answer, .. } => {
                let _ = answer.send(Err(unknown()));
            }
            Job::Settle { settle, answer, .. } => {
                if settle.charges() {
                    let client = Some(settle.client);
                    self.doubtful.push(Reverse { capture: settle.usage(), client });
                }
                answer.answer(Err(unknown()));
            }
            // Whoever asked for the hold releases it until that is certain.
            Job::Hold { answer, .. } => {
                let _ = answer.send(Err(unknown()));
            }
            Job::Release { answer, .. } => {
                let _ = answer.send(Err(unknown()));
            }
            Job::Reverse { reverse, answer } => {
                self.doubtful.push(reverse);
                let _ = answer.send(Err(unknown()));
            }
            Job::Change { answer, .. } => {
                let _ = answer.send(Err(unknown()));
            }
        }
    }
}

/// Whether a capture is given back when its answer may not have been delivered. An answer that is kept whole can be fetched
/// again under its `Idempotency-Key` instead.
pub(super) fn is_noted(store: Option<&StoredAnswer>) -> bool {
    store.is_none_or(|answer| answer.body.is_none())
}

//! One batch: committed patiently, replayed one by one if a command of it is guilty, and answered.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Writer;
use super::queue::{Asked, Job};
use super::transaction::Committed;
use crate::db::is_in_vain;
use crate::ledger::LedgerError;
use crate::ledger::answers::StoredAnswer;
use crate::ledger::fault::Fault;
use crate::sparing_log::sparingly;

/// Between two tries meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

impl Writer {
    pub(super) async fn serve(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        if self.condition.is_another() {
            // Nothing of what this process knows may be written into it.
            for job in jobs {
                self.answer_with(job, &LedgerError::Closed);
            }
            return;
        }
        if !self.doubtful.is_empty() {
            self.settle_doubts().await;
        }
        if !self.doubtful.is_empty() {
            // Another commit would rewrite the row that still notes them.
            let error = sqlx::Error::Protocol("an earlier outcome is not settled yet".into());
            for job in jobs {
                self.answer_error(job, &error);
            }
            return;
        }
        let is_change = |job: &Job| matches!(job, Job::Change { .. });
        let (changes, jobs) = match jobs.iter().any(is_change) {
            true => jobs.into_iter().partition(is_change),
            false => (Vec::new(), jobs),
        };
        if !jobs.is_empty() {
            self.serve_batch(jobs).await;
        }
        for job in changes {
            self.serve_change(job).await;
        }
    }

    async fn serve_batch(&mut self, jobs: Vec<Job>) {
        self.note_deliveries();
        match self.commit_patiently(&jobs, false).await {
            Ok(committed) => self.answer_all(jobs, committed).await,
            Err(Fault::OfOneCommand(error)) => {
                sparingly!(error, %error, commands = jobs.len(), "a batch failed; its commands are replayed one by one");
                self.counts.replays.fetch_add(1, Relaxed);
                let mut away = None;
                for job in jobs {
                    // Another commit would rewrite the row that notes the captures in doubt.
                    if let Some(error) = &away {
                        self.answer_error(job, error);
                        continue;
                    }
                    match self.replay(&job).await {
                        Ok(committed) => self.answer_all(vec![job], committed).await,
                        Err(Fault::OfOneCommand(error)) => self.answer_error(job, &error),
                        Err(Fault::Again(error) | Fault::Away(error)) => {
                            self.answer_error(job, &error);
                            away = Some(error);
                        }
                    }
                }
            }
            Err(Fault::Again(error) | Fault::Away(error)) => {
                // Asking again for each command would only make everybody wait.
                for job in jobs {
                    self.answer_error(job, &error);
                }
            }
        }
    }

    async fn serve_change(&mut self, job: Job) {
        let Job::Change { change, answer } = job else { return };
        self.until_answered().await;
        let begun = Instant::now();
        let done = loop {
            match self.commit_change(&change).await {
                Err(Fault::Again(error) | Fault::Away(error)) if self.tries_again(&error, begun) => {
                    sparingly!(warn, %error, "a change did not commit for certain; it is looked up and tried again");
                    self.counts.retries.fetch_add(1, Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                done => break done,
            }
        };
        let answered = match done {
            Ok(Ok((client, state, aside))) => {
                match aside {
                    Some(reservation) => reservation.settle(state),
                    None => self.reservations.publish(client, state),
                }
                Ok((client, state))
            }
            Ok(Err(refusal)) => Err(LedgerError::Refused(refusal)),
            Err(fault) => {
                let error = fault.into_error();
                sparingly!(error, %error, "a change of the ledger could not be committed");
                Err(LedgerError::Unavailable(error.to_string()))
            }
        };
        let _ = answer.send(answered);
    }

    async fn replay(&mut self, job: &Job) -> Result<Committed, Fault> {
        self.cache.clear();
        self.learn_next_entry().await.map_err(Fault::from)?;
        self.commit_patiently(std::slice::from_ref(job), true).await
    }

    /// Whether what has failed since then is tried again: where the server went away, or other nodes are in the way, and not where
    /// it says that there is no room.
    fn tries_again(&self, error: &sqlx::Error, begun: Instant) -> bool {
        self.is_shared()
            && begun.elapsed() < self.patience
            && !is_in_vain(error)
            && !self.condition.is_another()
    }

    /// Commits jobs. On a shared database, what other nodes or an outage of the server prevented is tried again for a while;
    /// from the second try on, everything is looked up first.
    async fn commit_patiently(&mut self, jobs: &[Job], repeated: bool) -> Result<Committed, Fault> {
        let begun = Instant::now();
        let mut repeated = repeated;
        loop {
            match self.commit_jobs(jobs, repeated).await {
                Err(Fault::Again(error) | Fault::Away(error)) if self.tries_again(&error, begun) => {
                    sparingly!(warn, %error, commands = jobs.len(), "a batch did not commit for certain; it is looked up and tried again");
                    self.counts.retries.fetch_add(1, Relaxed);
                    repeated = true;
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn commit_jobs(&mut self, jobs: &[Job], repeated: bool) -> Result<Committed, Fault> {
        let asked: Vec<Asked> = jobs.iter().filter_map(Job::asked).collect();
        let stores: Vec<Option<&StoredAnswer>> = jobs.iter().map(Job::store).collect();
        self.commit(asked, &stores, repeated).await
    }
}

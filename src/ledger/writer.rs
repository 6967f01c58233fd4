//! Group commit: one task owns the writing connection, takes every waiting command, and commits them in one transaction.
//!
//! While one batch commits, the next collects; there is no timer. Nobody is answered before the commit. What happens when a
//! batch fails depends on the fault (`fault.rs`): a guilty command fails alone; a conflict between nodes is tried again from
//! the start; a server that went away is waited for, and then every command is looked up before it is applied again, so that
//! a commit whose outcome was unknown is found instead of repeated. Where several nodes write, `writer/at_once.rs` spares most
//! batches the trips of a transaction.

mod answering;
mod at_once;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::at_once::AtOnce;
use super::aftermath::{self, Change, NewRefund, Prepared, RefundOrigin};
use super::answers::{self, StoredAnswer};
use super::core::{
    Batch, Capture, ClientId, ClientState, Command, EntryId, Hold, MAX_LEGS, Outcome, Refusal, Release,
    Reverse, Settle,
};
use super::fault::Fault;
use super::mailbox::Recipient;
use super::recording::{self, SucceededCharge};
use super::reservations::{NotReserved, Reservation, Reservations};
use super::source::Source;
use super::storage::{self, HoldRow, Writing};
use super::{LedgerError, sqlite};
use crate::config::DatabaseConfig;
use crate::db::{Condition, Connection, WriteEnd, WriteJob, is_in_vain, now_micros, query_scalar};
use crate::domain::Micros;
use crate::sparing_log::sparingly;

/// Commands in one transaction at most.
const MAX_BATCH: usize = 1024;
// A batch has one block of ids.
#[allow(clippy::as_conversions, reason = "a constant that fits")]
const _: () = assert!(MAX_BATCH * MAX_LEGS <= storage::ID_BLOCK as usize);
/// So many answers are given by a task of their own. Fewer are given sooner than another thread would have taken them up.
const WORTH_A_TASK: usize = 32;
/// Clients whose balances the writer keeps between batches.
const KEPT_CLIENTS: usize = 131_072;
/// After this long without commands, the row of undelivered captures is brought up to date.
const IDLE: Duration = Duration::from_secs(1);

/// How long callers wait for a shared database that has gone away, or for other nodes, before the outcome is called unknown.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
const SILENT: &str = "the database server does not answer";
/// Between two tries meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// A batch on a server that does not answer in this time is given up, with its connection.
const BATCH_TIMEOUT: Duration = Duration::from_secs(6);

/// A command and who waits for its outcome.
#[derive(Debug)]
pub(super) enum Job {
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

pub(super) type Answer = Result<Posted, LedgerError>;
/// The reservation comes back without its amount, which the hold has now; it still counts as a running request.
pub(super) type HoldAnswer = Result<(Posted, Reservation), LedgerError>;
pub(super) type TopUpAnswer = Result<(Posted, Option<Result<Reservation, NotReserved>>), LedgerError>;

pub(super) type ChangeAnswer = Result<(ClientId, ClientState), LedgerError>;

/// Whose balances a change has changed, what they are now, and what was set aside for it meanwhile.
type Changed = (ClientId, ClientState, Option<Reservation>);

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
pub(super) struct Deliveries {
    finished: Mutex<Vec<EntryId>>,
}

impl Deliveries {
    pub(super) fn finish(&self, entry: EntryId) {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    fn take(&self) -> Vec<EntryId> {
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

/// The state of the task.
pub(super) struct Writer {
    connection: Connection,
    /// To open the connection anew when it has become unusable.
    database: DatabaseConfig,
    node: String,
    /// [`PATIENCE`].
    patience: Duration,
    /// Told what commits meet.
    condition: Condition,
    reservations: Arc<Reservations>,
    deliveries: Arc<Deliveries>,
    counts: Arc<WriterCounts>,
    /// Balances as committed: the truth where nobody else changes them, a guess to be checked elsewhere. Emptied when anything
    /// fails.
    cache: HashMap<ClientId, ClientState>,
    /// Where others change them.
    at_once: AtOnce,
    /// The id of the next entry, where nobody else makes any.
    next_entry: EntryId,
    undelivered: HashSet<EntryId>,
    /// Finished before the last commit: kept in the row for one commit more, because the last bytes may still be on
    /// their way through the socket.
    leaving: HashSet<EntryId>,
    /// The stored row has captures that have left since: commands that capture nothing do not rewrite it.
    row_is_stale: bool,
    /// The task that answers the batch before.
    answering: Option<JoinHandle<()>>,
    /// Captures that nobody was answered for and whose commit could not be looked up: reversed as soon as possible.
    doubtful: Vec<Reverse>,
}

/// What a batch is asked to do.
#[derive(Debug, Clone)]
enum Asked {
    Command(Command),
    /// Becomes a command when the top-up's row has been read.
    Charge(SucceededCharge),
}

/// What the writer and the ledger's callers both look at.
pub(super) struct Shared {
    pub(super) reservations: Arc<Reservations>,
    pub(super) deliveries: Arc<Deliveries>,
    pub(super) counts: Arc<WriterCounts>,
}

/// One committed batch: the outcomes in the order of its commands, and the states after all of them.
#[derive(Debug, Default)]
struct Committed {
    outcomes: Vec<Outcome>,
    states: HashMap<ClientId, ClientState>,
}

impl Writer {
    pub(super) async fn new(
        connection: Connection,
        database: DatabaseConfig,
        node: String,
        patience: Duration,
        condition: Condition,
        Shared { reservations, deliveries, counts }: Shared,
    ) -> Result<Self, sqlx::Error> {
        let mut writer = Self {
            connection,
            database,
            node,
            patience,
            condition,
            reservations,
            deliveries,
            counts,
            cache: HashMap::new(),
            at_once: AtOnce::default(),
            next_entry: 1,
            undelivered: HashSet::new(),
            leaving: HashSet::new(),
            row_is_stale: false,
            answering: None,
            doubtful: Vec::new(),
        };
        writer.learn_next_entry().await?;
        let newest: Option<i64> =
            query_scalar("SELECT MAX(id) FROM entries").fetch_one(&mut writer.connection).await?;
        writer.condition.has_entry(newest.unwrap_or(0));
        if !writer.is_shared() {
            writer.end_what_the_last_run_left().await?;
        }
        Ok(writer)
    }

    fn is_shared(&self) -> bool {
        self.database.is_shared()
    }

    /// On a shared database, ids come from a sequence instead.
    async fn learn_next_entry(&mut self) -> Result<(), sqlx::Error> {
        if let Connection::Sqlite(connection) = &mut self.connection {
            self.next_entry = sqlite::next_entry(connection).await?;
        }
        Ok(())
    }

    /// At start, where no other process uses the database: what the last run captured and may not have delivered is given
    /// back, and what it held is released.
    async fn end_what_the_last_run_left(&mut self) -> Result<(), sqlx::Error> {
        let captures = storage::undelivered(&mut self.connection, None).await?;
        let holds = storage::open_holds(&mut self.connection, None).await?;
        let reversals =
            captures.into_iter().map(|(capture, client)| Command::Reverse(Reverse { capture, client }));
        let releases = holds.into_iter().map(|(hold, client)| Command::Release(Release { client, hold }));
        let asked: Vec<Asked> = reversals.chain(releases).map(Asked::Command).collect();
        let mut reversed = 0u64;
        for chunk in asked.chunks(MAX_BATCH) {
            let committed = self.commit(chunk.to_vec(), &[], true).await.map_err(Fault::into_error)?;
            for (asked, outcome) in chunk.iter().zip(committed.outcomes) {
                let fresh = matches!(outcome, Outcome::Posted { repeated: false, .. });
                let is_reversal = matches!(asked, Asked::Command(Command::Reverse(_)));
                reversed = reversed.saturating_add(u64::from(fresh && is_reversal));
            }
        }
        storage::write_undelivered(&mut self.connection, &self.node, &[], self.at_once.fence()).await?;
        storage::forget_other_nodes(&mut self.connection, &self.node).await?;
        self.counts.reversed_at_start.store(reversed, Relaxed);
        if reversed > 0 {
            tracing::warn!(
                captures.reversed = reversed,
                "the last run ended before these answers were delivered for certain; their captures were given back"
            );
        }
        Ok(())
    }

    /// Serves commands and other writes until every sender is gone, or `closing` says that no more are taken.
    pub(super) async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        writes: Option<mpsc::Receiver<WriteJob>>,
        other_writes: Option<JoinHandle<()>>,
        closing: CancellationToken,
    ) {
        let mut waiting = Vec::with_capacity(MAX_BATCH);
        let mut is_closing = false;
        let (mut jobs_open, mut writes_open) = (true, writes.is_some());
        let mut writes = writes.unwrap_or_else(|| mpsc::channel(1).1);
        let mut watched = other_writes.is_some();
        let mut other_writes = other_writes.unwrap_or_else(|| tokio::spawn(std::future::pending()));
        while jobs_open || writes_open {
            tokio::select! {
                taken = jobs.recv_many(&mut waiting, MAX_BATCH), if jobs_open => {
                    jobs_open = taken > 0;
                    self.serve(std::mem::take(&mut waiting)).await;
                    waiting.reserve(MAX_BATCH);
                }
                write = writes.recv(), if writes_open => match write {
                    Some(write) => {
                        if write(&mut self.connection).await == WriteEnd::Failed {
                            self.mend(false).await;
                        }
                    }
                    None => writes_open = false,
                },
                () = tokio::time::sleep(IDLE), if self.is_behind() => self.catch_up().await,
                ended = &mut other_writes, if watched && !is_closing => {
                    // In order when nobody can ask it for anything any more.
                    watched = false;
                    if let Err(error) = ended {
                        // Without it there is no lease.
                        tracing::error!(%error, "the task of the other writes has ended");
                        return;
                    }
                }
                // What was given before is still taken out.
                () = closing.cancelled(), if !is_closing => {
                    is_closing = true;
                    jobs.close();
                    writes.close();
                }
            }
        }
        while self.is_behind() {
            let before = self.left_to_do();
            self.catch_up().await;
            if before == self.left_to_do() {
                break;
            }
        }
        self.until_answered().await;
        if self.is_shared() {
            self.say_goodbye().await;
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the database did not close cleanly; it recovers at the next start");
        }
    }

    /// So that other nodes need not wait for the lease to run out.
    async fn say_goodbye(&mut self) {
        if let Err(error) = storage::end_lease(&mut self.connection, &self.node).await {
            tracing::warn!(%error, "the other nodes could not be told that this one ends; they notice by themselves");
        }
    }

    fn is_behind(&self) -> bool {
        self.row_is_stale
            || !self.undelivered.is_empty()
            || !self.leaving.is_empty()
            || !self.doubtful.is_empty()
    }

    /// Changes whenever catching up gets on.
    fn left_to_do(&self) -> (usize, usize, usize, bool) {
        (self.undelivered.len(), self.leaving.len(), self.doubtful.len(), self.row_is_stale)
    }

    /// Works off doubtful captures, and rewrites the undelivered row while nothing else does: only after them, because the row
    /// still notes them.
    async fn catch_up(&mut self) {
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

    fn note_deliveries(&mut self) {
        self.row_is_stale |= !self.leaving.is_empty();
        self.leaving.clear();
        for entry in self.deliveries.take() {
            if self.undelivered.remove(&entry) {
                self.leaving.insert(entry);
            }
        }
    }

    fn undelivered_row(&self, added: &[EntryId]) -> Vec<EntryId> {
        self.undelivered.iter().chain(&self.leaving).chain(added).copied().collect()
    }

    async fn settle_doubts(&mut self) {
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

    /// After a failure: a connection that does not end its transaction is opened anew. No cached state survives.
    async fn mend(&mut self, is_lost: bool) {
        self.cache.clear();
        self.at_once.doubt();
        self.connection.mend(&self.database, is_lost).await;
    }

    async fn serve(&mut self, jobs: Vec<Job>) {
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

    /// Answers a batch while the next one is decided and committed already: many callers are woken by it.
    async fn answer_all(&mut self, jobs: Vec<Job>, committed: Committed) {
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
            answering::answer(&reservations, jobs, committed);
        } else {
            self.answering =
                Some(tokio::spawn(async move { answering::answer(&reservations, jobs, committed) }));
        }
    }

    /// Waits until what has been committed is published and everybody has been answered.
    async fn until_answered(&mut self) {
        if let Some(answering) = self.answering.take()
            && let Err(error) = answering.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    /// The database did not take the command and could not be asked about it: nobody is told "charged" or "failed".
    fn answer_error(&mut self, job: Job, error: &sqlx::Error) {
        sparingly!(error, %error, "a ledger command could not be committed");
        self.answer_with(job, &LedgerError::Unavailable(error.to_string()));
    }

    fn answer_with(&mut self, job: Job, failed: &LedgerError) {
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

    async fn commit_jobs(&mut self, jobs: &[Job], repeated: bool) -> Result<Committed, Fault> {
        let asked: Vec<Asked> = jobs.iter().filter_map(Job::asked).collect();
        let stores: Vec<Option<&StoredAnswer>> = jobs.iter().map(Job::store).collect();
        self.commit(asked, &stores, repeated).await
    }

    /// One transaction: read, apply, append, update, commit. Any error rolls everything back and empties the cache.
    async fn commit(
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

    /// A change in a transaction of its own, with the same care as [`Writer::commit`].
    async fn commit_change(&mut self, change: &Change) -> Result<Result<Changed, Refusal>, Fault> {
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
    fn keep_ids(&mut self, batch: &Batch) {
        self.note_newest(batch);
        if self.is_shared() {
            self.at_once.take(batch.ids_left());
        } else {
            self.next_entry = batch.next_entry().unwrap_or(self.next_entry);
        }
    }

    /// For whoever looks whether the books are still these.
    fn note_newest(&self, batch: &Batch) {
        if let Some(entry) = batch.entries.last() {
            self.condition.has_entry(entry.id);
        }
    }

    /// Keeps balances that have just been committed.
    fn remember(&mut self, clients: &HashMap<ClientId, ClientState>) {
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
    async fn read(&mut self, commands: &[Option<Command>], repeated: bool) -> Result<Batch, Fault> {
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
    async fn append(&mut self, writing: Writing<'_>) -> Result<(), Fault> {
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

/// Whether a capture is given back when its answer may not have been delivered. An answer that is kept whole can be fetched
/// again under its `Idempotency-Key` instead.
fn is_noted(store: Option<&StoredAnswer>) -> bool {
    store.is_none_or(|answer| answer.body.is_none())
}

impl Job {
    /// `None`: never in a batch.
    fn asked(&self) -> Option<Asked> {
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

    fn store(&self) -> Option<&StoredAnswer> {
        match self {
            Self::Capture { store, .. } => store.as_ref(),
            _ => None,
        }
    }

    fn client(&self) -> Option<ClientId> {
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

//! Group commit: one task owns the writing connection, takes every waiting command, and commits them in one transaction.
//!
//! While one batch commits, the next collects; there is no timer. Nobody is answered before the commit. When a batch fails
//! it is rolled back and replayed command by command, each looked up first, so that only the guilty command fails and a
//! commit whose outcome was unknown is found again.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::core::{
    Batch, Capture, ClientId, ClientState, Command, EntryId, Outcome, Refusal, Reverse, reversal_source,
};
use super::recording::{self, SucceededCharge};
use super::reservations::{NotReserved, Reservation, Reservations};
use super::{LedgerError, sqlite};
use crate::db::{WriteJob, now_micros};
use crate::domain::Micros;

/// Commands in one transaction at most.
const MAX_BATCH: usize = 1024;
/// Clients whose balances the writer keeps between batches.
const KEPT_CLIENTS: usize = 131_072;
/// After this long without commands, the row of undelivered captures is brought up to date.
const IDLE: Duration = Duration::from_secs(1);

/// A command and who waits for its outcome.
#[derive(Debug)]
pub(super) enum Job {
    Capture { capture: Capture, reservation: Reservation, answer: oneshot::Sender<Answer> },
    TopUp { charge: SucceededCharge, reserve: Option<Micros>, answer: oneshot::Sender<TopUpAnswer> },
    Reverse { reverse: Reverse, answer: oneshot::Sender<Answer> },
}

pub(super) type Answer = Result<Posted, LedgerError>;
pub(super) type TopUpAnswer = Result<(Posted, Option<Result<Reservation, NotReserved>>), LedgerError>;

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

/// Captures whose answer has not been delivered yet. The writer stores them with every commit; delivery removes them.
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
    /// Commands in them.
    pub commands: std::sync::atomic::AtomicU64,
    /// Batches that were rolled back and replayed one by one.
    pub replays: std::sync::atomic::AtomicU64,
    /// Captures reversed at start because their answer may not have been delivered.
    pub reversed_at_start: std::sync::atomic::AtomicU64,
}

/// The state of the task.
pub(super) struct Writer {
    connection: SqliteConnection,
    /// To open the connection anew when it has become unusable.
    path: PathBuf,
    node: String,
    reservations: Arc<Reservations>,
    deliveries: Arc<Deliveries>,
    counts: Arc<WriterCounts>,
    /// Balances as committed. Emptied when anything fails.
    cache: HashMap<ClientId, ClientState>,
    next_entry: EntryId,
    undelivered: HashSet<EntryId>,
    /// Finished before the last commit: kept in the row for one commit more, because the last bytes may still be on
    /// their way through the socket.
    leaving: HashSet<EntryId>,
    /// The stored row has captures that have left since: commands that capture nothing do not rewrite it.
    row_is_stale: bool,
    /// Captures that nobody was answered for and whose commit could not be looked up: reversed as soon as possible.
    doubtful: Vec<String>,
}

/// The outcomes of one committed batch, in the order of its jobs.
type Committed = Vec<Outcome>;

impl Writer {
    pub(super) async fn new(
        connection: SqliteConnection,
        path: PathBuf,
        node: String,
        reservations: Arc<Reservations>,
        deliveries: Arc<Deliveries>,
        counts: Arc<WriterCounts>,
    ) -> Result<Self, sqlx::Error> {
        let mut writer = Self {
            connection,
            path,
            node,
            reservations,
            deliveries,
            counts,
            cache: HashMap::new(),
            next_entry: 1,
            undelivered: HashSet::new(),
            leaving: HashSet::new(),
            row_is_stale: false,
            doubtful: Vec::new(),
        };
        writer.next_entry = sqlite::next_entry(&mut writer.connection).await?;
        writer.reverse_undelivered().await?;
        Ok(writer)
    }

    /// At start: what the last run captured and may not have delivered is given back.
    async fn reverse_undelivered(&mut self) -> Result<(), sqlx::Error> {
        let sources = sqlite::undelivered_sources(&mut self.connection).await?;
        let commands: Vec<Command> =
            sources.iter().map(|capture| Command::Reverse(Reverse { capture: capture.clone() })).collect();
        let mut reversed = 0u64;
        for chunk in commands.chunks(MAX_BATCH) {
            let committed = self.commit(chunk, &[]).await?;
            for outcome in committed {
                let fresh = matches!(outcome, Outcome::Posted { repeated: false, .. });
                reversed = reversed.saturating_add(u64::from(fresh));
            }
        }
        sqlite::write_undelivered(&mut self.connection, &self.node, &[]).await?;
        self.counts.reversed_at_start.store(reversed, std::sync::atomic::Ordering::Relaxed);
        if reversed > 0 {
            tracing::warn!(
                captures.reversed = reversed,
                "the last run ended before these answers were delivered for certain; their captures were given back"
            );
        }
        Ok(())
    }

    /// Serves commands and other writes until every sender is gone.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>, mut writes: mpsc::Receiver<WriteJob>) {
        let mut waiting = Vec::with_capacity(MAX_BATCH);
        let (mut jobs_open, mut writes_open) = (true, true);
        while jobs_open || writes_open {
            tokio::select! {
                taken = jobs.recv_many(&mut waiting, MAX_BATCH), if jobs_open => {
                    jobs_open = taken > 0;
                    self.serve(std::mem::take(&mut waiting)).await;
                    waiting.reserve(MAX_BATCH);
                }
                write = writes.recv(), if writes_open => match write {
                    Some(write) => {
                        write(&mut self.connection).await;
                        self.mend().await;
                    }
                    None => writes_open = false,
                },
                () = tokio::time::sleep(IDLE), if self.is_behind() => self.catch_up().await,
            }
        }
        while self.is_behind() {
            let before = (self.undelivered.len(), self.leaving.len());
            self.catch_up().await;
            if before == (self.undelivered.len(), self.leaving.len()) {
                break;
            }
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the database did not close cleanly; it recovers at the next start");
        }
    }

    fn is_behind(&self) -> bool {
        self.row_is_stale
            || !self.undelivered.is_empty()
            || !self.leaving.is_empty()
            || !self.doubtful.is_empty()
    }

    /// Rewrites the undelivered row while nothing else does, and works off doubtful captures.
    async fn catch_up(&mut self) {
        self.note_deliveries();
        if self.row_is_stale {
            let row = self.undelivered_row(&[]);
            match sqlite::write_undelivered(&mut self.connection, &self.node, &row).await {
                Ok(()) => self.row_is_stale = false,
                Err(error) => {
                    tracing::error!(%error, "the row of undelivered captures could not be written")
                }
            }
        }
        self.settle_doubts().await;
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
        while let Some(capture) = self.doubtful.last().cloned() {
            match self.settle_doubt(&capture).await {
                Ok(committed) => {
                    for outcome in committed {
                        if let Outcome::Posted { client, state, .. } = outcome {
                            self.reservations.publish(client, state);
                        }
                    }
                    self.doubtful.pop();
                    tracing::warn!(ledger.source = %capture, "a capture of unknown outcome was settled: nobody is charged");
                }
                Err(error) if is_of_one_command(&error) => {
                    tracing::error!(%error, ledger.source = %capture, "a capture of unknown outcome cannot be settled; a person must look");
                    self.forget();
                    self.doubtful.pop();
                }
                Err(error) => {
                    tracing::error!(%error, ledger.source = %capture, "a capture of unknown outcome cannot be settled yet");
                    self.forget();
                    self.mend().await;
                    return;
                }
            }
        }
    }

    async fn settle_doubt(&mut self, capture: &str) -> Result<Committed, sqlx::Error> {
        // The unknown commit may have taken place, and then has the id that would come next.
        self.next_entry = sqlite::next_entry(&mut self.connection).await?;
        self.commit(&[Command::Reverse(Reverse { capture: capture.to_owned() })], &[]).await
    }

    /// After some errors, a full disk among them, SQLite has rolled back by itself; sqlx then counts a transaction that is
    /// no more, and every later BEGIN would fail. Such a connection is replaced.
    async fn mend(&mut self) {
        // Asking also lets a rollback that is still queued run.
        let answers = self.connection.ping().await.is_ok();
        if answers && !self.connection.is_in_transaction() {
            return;
        }
        self.forget();
        match crate::db::connect(&self.path).await {
            Ok(connection) => {
                tracing::warn!("the writing connection is opened anew after a failure");
                self.connection = connection;
            }
            Err(error) => tracing::error!(%error, "the writing connection cannot be opened anew yet"),
        }
    }

    /// No cached state survives a failure.
    fn forget(&mut self) {
        self.cache.clear();
    }

    async fn serve(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
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
        self.note_deliveries();
        match self.commit_jobs(&jobs).await {
            Ok(committed) => self.answer_all(jobs, committed),
            Err(error) if !is_of_one_command(&error) => {
                // The database is away, full or locked: asking it again for each command would only make everybody wait.
                for job in jobs {
                    self.answer_error(job, &error);
                }
            }
            Err(error) => {
                tracing::error!(%error, commands = jobs.len(), "a batch failed; its commands are replayed one by one");
                self.counts.replays.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                for job in jobs {
                    self.forget();
                    match self.replay(&job).await {
                        Ok(committed) => self.answer_all(vec![job], committed),
                        Err(error) => self.answer_error(job, &error),
                    }
                }
            }
        }
    }

    async fn replay(&mut self, job: &Job) -> Result<Committed, sqlx::Error> {
        self.next_entry = sqlite::next_entry(&mut self.connection).await?;
        self.commit_jobs(std::slice::from_ref(job)).await
    }

    fn answer_all(&mut self, jobs: Vec<Job>, committed: Committed) {
        use std::sync::atomic::Ordering::Relaxed;
        self.counts.batches.fetch_add(1, Relaxed);
        self.counts.commands.fetch_add(jobs.len().try_into().unwrap_or(u64::MAX), Relaxed);
        for (job, outcome) in jobs.into_iter().zip(committed) {
            let posted = match outcome {
                Outcome::Posted { entry, client, state, repeated } => {
                    Ok(Posted { entry, client, state, repeated })
                }
                Outcome::Refused(refusal) => Err(LedgerError::Refused(refusal)),
            };
            // Each state is published together with the end of its own reservation: the state after the whole batch
            // would count the others, whose reservations are still open, twice.
            // A caller who has gone is no reason to undo anything: the outcome stands.
            match job {
                Job::Capture { reservation, answer, .. } => {
                    if let Ok(posted) = &posted {
                        self.undelivered.insert(posted.entry);
                        reservation.settle(posted.state);
                    }
                    // Nobody there to hear it means that the process is ending: the capture stays noted as undelivered.
                    let _ = answer.send(posted);
                }
                Job::TopUp { reserve, answer, .. } => {
                    let answered = posted.map(|posted| {
                        self.reservations.publish(posted.client, posted.state);
                        let reservation = reserve.map(|amount| {
                            self.reservations.publish_and_reserve(posted.client, posted.state, amount)
                        });
                        (posted, reservation)
                    });
                    let _ = answer.send(answered);
                }
                Job::Reverse { answer, .. } => {
                    if let Ok(posted) = &posted {
                        self.reservations.publish(posted.client, posted.state);
                    }
                    let _ = answer.send(posted);
                }
            }
        }
    }

    /// The database did not take the command and could not be asked about it: nobody is told "charged" or "failed".
    fn answer_error(&mut self, job: Job, error: &sqlx::Error) {
        tracing::error!(%error, "a ledger command could not be committed");
        let unknown = || LedgerError::Unavailable(error.to_string());
        match job {
            Job::Capture { capture, answer, .. } => {
                self.doubtful.push(capture.source);
                let _ = answer.send(Err(unknown()));
            }
            Job::TopUp { answer, .. } => {
                let _ = answer.send(Err(unknown()));
            }
            Job::Reverse { reverse, answer } => {
                self.doubtful.push(reverse.capture);
                let _ = answer.send(Err(unknown()));
            }
        }
    }

    async fn commit_jobs(&mut self, jobs: &[Job]) -> Result<Committed, sqlx::Error> {
        let charges: Vec<(usize, SucceededCharge)> = jobs
            .iter()
            .enumerate()
            .filter_map(|(index, job)| match job {
                Job::TopUp { charge, .. } => Some((index, charge.clone())),
                _ => None,
            })
            .collect();
        let commands: Vec<Command> = jobs
            .iter()
            .map(|job| match job {
                Job::Capture { capture, .. } => Command::Capture(capture.clone()),
                Job::Reverse { reverse, .. } => Command::Reverse(reverse.clone()),
                // Replaced by the command that `recording::prepare` reads from the top-up's row.
                Job::TopUp { charge, .. } => {
                    Command::Reverse(Reverse { capture: format!("none:{}", charge.top_up) })
                }
            })
            .collect();
        self.commit(&commands, &charges).await
    }

    /// One transaction: read, apply, append, update, commit. Any error rolls everything back and empties the cache.
    async fn commit(
        &mut self,
        commands: &[Command],
        charges: &[(usize, SucceededCharge)],
    ) -> Result<Committed, sqlx::Error> {
        let result = self.try_commit(commands, charges).await;
        if result.is_err() {
            self.forget();
            self.mend().await;
        }
        result
    }

    async fn try_commit(
        &mut self,
        commands: &[Command],
        charges: &[(usize, SucceededCharge)],
    ) -> Result<Committed, sqlx::Error> {
        let at = now_micros();
        let row_before = self.undelivered_row(&[]);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut prepared = HashMap::new();
        for (index, charge) in charges {
            let command = recording::prepare(&mut transaction, charge, at).await?;
            prepared.insert(*index, command.map(Command::TopUp));
        }
        let command_at = |index: usize| match prepared.get(&index) {
            Some(command) => command.as_ref(),
            None => commands.get(index),
        };

        let mut batch = Batch::starting_at(self.next_entry);
        let all: Vec<Option<&Command>> = (0..commands.len()).map(command_at).collect();
        let recall = recallable_sources(&all, commands.len() == 1);
        batch.recorded = sqlite::load_recorded(&mut transaction, &recall).await?;
        let touched = touched_clients(&all, &batch);
        let missing: Vec<ClientId> =
            touched.iter().copied().filter(|id| !self.cache.contains_key(id)).collect();
        for (id, state) in sqlite::load_clients(&mut transaction, &missing).await? {
            batch.clients.insert(id, state);
        }
        for id in &touched {
            if let Some(state) = self.cache.get(id) {
                batch.clients.insert(*id, *state);
            }
        }

        let outcomes: Vec<Outcome> = all
            .iter()
            .map(|command| match command {
                Some(command) => batch.apply(command),
                None => Outcome::Refused(Refusal::UnknownClient),
            })
            .collect();

        let uncredited = |(index, _): &(usize, SucceededCharge)| {
            matches!(prepared.get(index), Some(Some(_)))
                && matches!(outcomes.get(*index), Some(Outcome::Refused(_)))
        };
        if charges.iter().any(uncredited) {
            // Its row says "succeeded" already; without entries it must not stay so.
            transaction.rollback().await?;
            return match &outcomes[..] {
                [_] => Ok(outcomes),
                _ => Err(sqlx::Error::Protocol("a succeeded charge cannot be credited".into())),
            };
        }

        let inserted = sqlite::insert_entries(&mut transaction, at, &batch.entries).await?;
        if usize::try_from(inserted) != Ok(batch.entries.len()) {
            return Err(sqlx::Error::Protocol(format!(
                "{inserted} of {} entries were inserted",
                batch.entries.len()
            )));
        }
        if !batch.changed.is_empty() {
            let changed = batch.changed.iter().filter_map(|id| Some((*id, *batch.clients.get(id)?)));
            let updated = sqlite::update_clients(&mut transaction, changed).await?;
            if usize::try_from(updated) != Ok(batch.changed.len()) {
                return Err(sqlx::Error::Protocol("a client's row is missing".into()));
            }
        }
        let captured: Vec<EntryId> = all
            .iter()
            .zip(&outcomes)
            .filter_map(|(command, outcome)| match (command, outcome) {
                (Some(Command::Capture(_)), Outcome::Posted { entry, .. }) => Some(*entry),
                _ => None,
            })
            .collect();
        let row_written = !captured.is_empty();
        if row_written {
            let row: Vec<EntryId> = row_before.into_iter().chain(captured).collect();
            sqlite::write_undelivered(&mut transaction, &self.node, &row).await?;
        }
        transaction.commit().await?;

        self.row_is_stale &= !row_written;
        self.next_entry = batch.next_entry;
        if self.cache.len() > KEPT_CLIENTS {
            self.cache.clear();
        }
        self.cache.extend(batch.clients.iter().map(|(id, state)| (*id, *state)));
        Ok(outcomes)
    }
}

/// Whether an error is the fault of one command, so that the others of its batch can succeed without it.
fn is_of_one_command(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database.kind() != sqlx::error::ErrorKind::Other,
        sqlx::Error::Protocol(_) | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// Sources to look up before applying. Captures are new by construction and guarded by the unique index, so they are
/// looked up only when replayed alone.
fn recallable_sources(commands: &[Option<&Command>], alone: bool) -> Vec<String> {
    let mut sources = Vec::new();
    for command in commands.iter().copied().flatten() {
        match command {
            Command::Capture(capture) if alone => sources.push(capture.source.clone()),
            Command::Capture(_) => {}
            Command::Reverse(reverse) => {
                sources.push(reverse.capture.clone());
                sources.push(reversal_source(&reverse.capture));
            }
            Command::TopUp(_) | Command::Clawback(_) => sources.push(command.source()),
        }
    }
    sources
}

fn touched_clients(commands: &[Option<&Command>], batch: &Batch) -> HashSet<ClientId> {
    commands
        .iter()
        .copied()
        .flatten()
        .filter_map(|command| match command {
            Command::Capture(capture) => Some(capture.client),
            Command::TopUp(top_up) => Some(top_up.client),
            Command::Clawback(clawback) => Some(clawback.client),
            Command::Reverse(reverse) => batch.recorded.get(&reverse.capture).map(|entry| entry.client),
        })
        .collect()
}

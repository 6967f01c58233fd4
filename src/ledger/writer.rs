//! Group commit: one task owns the writing connection, takes every waiting command, and commits them in one transaction.
//!
//! While one batch commits, the next collects; there is no timer. Nobody is answered before the commit. What happens when a
//! batch fails depends on the fault (`fault.rs`): a guilty command fails alone; a conflict between nodes is tried again from
//! the start; a server that went away is waited for, and then every command is looked up before it is applied again, so that
//! a commit whose outcome was unknown is found instead of repeated. Where several nodes write, `writer/at_once.rs` spares most
//! batches the trips of a transaction.
//!
//! In the order in which things happen: `queue.rs` (what is waiting, and for what), `serving.rs` (one batch, patiently),
//! `transaction.rs` (BEGIN to COMMIT; `changes.rs`: that of a change), `answering.rs`, and `doubts.rs`: what nobody knows yet.

mod answering;
mod at_once;
mod changes;
mod doubts;
mod queue;
mod serving;
mod transaction;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::at_once::AtOnce;
use self::queue::Asked;
pub(super) use self::queue::{Answer, Deliveries, Job, Shared};
pub use self::queue::{Posted, WriterCounts};
use super::core::{ClientId, ClientState, Command, EntryId, MAX_LEGS, Outcome, Release, Reverse};
use super::fault::Fault;
use super::reservations::Reservations;
use super::{sqlite, storage};
use crate::config::DatabaseConfig;
use crate::db::{Condition, Connection, WriteEnd, WriteJob, query_scalar};

/// Commands in one transaction at most.
const MAX_BATCH: usize = 1024;
// A batch has one block of ids.
#[allow(clippy::as_conversions, reason = "a constant that fits")]
const _: () = assert!(MAX_BATCH * MAX_LEGS <= storage::ID_BLOCK as usize);

/// After this long without commands, the row of undelivered captures is brought up to date.
const IDLE: Duration = Duration::from_secs(1);

/// How long callers wait for a shared database that has gone away, or for other nodes, before the outcome is called unknown.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
const SILENT: &str = "the database server does not answer";

/// A batch on a server that does not answer in this time is given up, with its connection.
const BATCH_TIMEOUT: Duration = Duration::from_secs(6);

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

    /// After a failure: a connection that does not end its transaction is opened anew. No cached state survives.
    async fn mend(&mut self, is_lost: bool) {
        self.cache.clear();
        self.at_once.doubt();
        self.connection.mend(&self.database, is_lost).await;
    }
}

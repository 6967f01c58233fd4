//! The only code that changes a balance: a pure core with a batching shell.
//!
//! ```text
//! reserve (memory) ─► capture ─┐
//!                     top-up ──┼─► writer: BEGIN · read · core::apply · append entries · update clients · COMMIT ─► answers
//!                    reverse ──┘
//! ```
//! `core.rs` has every rule and no I/O; `source.rs` says what entries stand for, and which accounts that may move. `writer.rs`
//! commits batches; `fault.rs` decides what a failed one means. `aftermath.rs` aligns what becomes of charges. `storage.rs`
//! reads and writes, with the bulk statements of `sqlite.rs` and `postgres.rs`: two databases, one ledger.
//! `reservations.rs` is what running requests of this node have set aside; holds set aside across nodes. `nodes.rs` finishes
//! what dead nodes left. `mailbox.rs` brings outcomes to the threads that wait for them. `answers.rs` keeps answers for
//! `Idempotency-Key`. `verify.rs` recomputes everything from the entries.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::unwrap_used
    )
)]

pub mod account;
pub mod adjustments;
pub mod aftermath;
pub mod answers;
pub mod core;
mod fault;
pub mod keys;
pub(crate) mod mailbox;
pub mod nodes;
mod postgres;
pub mod price_lists;
pub mod read;
pub mod recording;
pub mod repeat_key;
pub mod request_key;
pub mod reservations;
mod shared_reads;
pub mod source;
mod sqlite;
mod storage;
#[cfg(test)]
mod tests;
pub mod verify;
mod write_offs;
mod writer;

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::aftermath::{Change, NewRefund};
pub use self::answers::{KeptHeader, StoredAnswer};
pub use self::core::{Capture, ClientId, ClientState, EntryId, KeyNumber, Refusal, Settle};
use self::core::{Hold, Release, Reverse};
use self::mailbox::Recipient;
use self::nodes::Node;
pub use self::recording::SucceededCharge;
pub use self::reservations::{NotReserved, Reservation, Reservations};
use self::shared_reads::SharedReads;
pub use self::source::{Source, SourceKind};
pub(crate) use self::storage::undelivered_entries;
use self::writer::{Deliveries, Job, Shared, Writer};
pub use self::writer::{Posted, WriterCounts};
use crate::config::DatabaseConfig;
use crate::db::{Db, DbError, query_scalar};
use crate::domain::{Micros, RequestId};
use crate::sparing_log::sparingly;

/// Commands waiting for the writer; more make their callers wait.
const QUEUE: usize = 4096;
/// Between two tries while the database is away.
const RETRY_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Why a command has no outcome, or a bad one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The core refused it; nothing changed.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The database did not take it. Whether it is in the books is unknown until the database answers again.
    #[error("the ledger's database did not answer: {0}")]
    Unavailable(String),
    /// The process is shutting down, or the database is not the one that it opened.
    #[error("the ledger is closed")]
    Closed,
}

/// The handle that the rest of the program has. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    jobs: mpsc::Sender<Job>,
    db: Db,
    reservations: Arc<Reservations>,
    deliveries: Arc<Deliveries>,
    counts: Arc<WriterCounts>,
    node: Arc<Node>,
    closing: CancellationToken,
    /// Of clients' balances; the flag: also of those that are in memory.
    reads: SharedReads<(ClientId, bool), Result<(), Arc<DbError>>>,
}

impl Ledger {
    /// Opens the database, finishes what an earlier run left, and starts the writer. `node` names this process among those that
    /// share the database.
    ///
    /// # Errors
    /// [`DbError`] when the database cannot be used.
    pub async fn open(
        database: &DatabaseConfig,
        node: &str,
        max_running_per_client: u32,
    ) -> Result<(Self, Db, tokio::task::JoinHandle<()>), DbError> {
        Self::open_with_patience(database, node, max_running_per_client, writer::PATIENCE).await
    }

    /// The same; `patience` is how long commands wait for a shared database that has gone away.
    async fn open_with_patience(
        database: &DatabaseConfig,
        node: &str,
        max_running_per_client: u32,
        patience: std::time::Duration,
    ) -> Result<(Self, Db, tokio::task::JoinHandle<()>), DbError> {
        let (db, side) = crate::db::open(database).await?;
        let reservations = Reservations::new(max_running_per_client);
        let deliveries = Arc::new(Deliveries::default());
        let counts = Arc::new(WriterCounts::default());
        let writer = Writer::new(
            side.connection,
            database.clone(),
            node.to_owned(),
            patience,
            db.condition().clone(),
            Shared {
                reservations: Arc::clone(&reservations),
                deliveries: Arc::clone(&deliveries),
                counts: Arc::clone(&counts),
            },
        )
        .await?;
        let (jobs, receiver) = mpsc::channel(QUEUE);
        let closing = CancellationToken::new();
        let task = tokio::spawn(writer.run(receiver, side.writes, side.other_writes, closing.clone()));
        let node = Arc::new(Node::new(node.to_owned()));
        let reads = SharedReads::on_this_runtime();
        let ledger = Self { jobs, db: db.clone(), reservations, deliveries, counts, node, closing, reads };
        ledger.keep_alive().await?;
        Ok((ledger, db, task))
    }

    /// Ends the writer when it has committed what it was given; everything later is answered [`LedgerError::Closed`]. Without
    /// this it ends with the last handle.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// This process among those that share the database.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node.id
    }

    /// Whether other processes may spend the same credit: what memory says is then a guess that the database confirms.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.db.is_shared()
    }

    /// Sets the price aside. Reads the client first when it has not been here lately.
    ///
    /// # Errors
    /// [`ReserveError`].
    pub async fn reserve(&self, client: ClientId, price: Micros) -> Result<Reservation, ReserveError> {
        match self.reserve_at_once(client, price) {
            Err(NotReserved::Unknown) => {}
            // Another node may have topped this client up: nobody is told to pay because of what memory says.
            Err(NotReserved::Insufficient(_) | NotReserved::Frozen(_)) if self.is_shared() => {}
            other => return other.map_err(ReserveError::NotReserved),
        }
        self.learn(client, self.is_shared()).await?;
        self.reserve_at_once(client, price).map_err(ReserveError::NotReserved)
    }

    /// The same by what memory says, which may lag behind the database where nodes share it.
    ///
    /// # Errors
    /// [`NotReserved`].
    pub fn reserve_at_once(&self, client: ClientId, price: Micros) -> Result<Reservation, NotReserved> {
        self.reservations.reserve(client, price)
    }

    /// The posted balances of a client. `None`: there is no such client.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn state(&self, client: ClientId) -> Result<Option<ClientState>, DbError> {
        if let (Some(state), false) = (self.reservations.state(client), self.is_shared()) {
            return Ok(Some(state));
        }
        self.learn(client, self.is_shared()).await?;
        Ok(self.reservations.state(client))
    }

    /// Reads a client's balances from the database again, for when memory seems to lag behind it.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn refresh(&self, client: ClientId) -> Result<(), DbError> {
        self.learn(client, true).await
    }

    /// Reads a client, together with everybody else who asks for it now. `again`: also one that is in memory by then.
    async fn learn(&self, client: ClientId, again: bool) -> Result<(), DbError> {
        let read = || {
            let (db, reservations) = (self.db.clone(), Arc::clone(&self.reservations));
            async move {
                if !again && reservations.state(client).is_some() {
                    return Ok(());
                }
                let expected = reservations.expect(client);
                let found = storage::load_client(db.reader(), client).await;
                if let Some(state) = found.map_err(|error| Arc::new(DbError::from(error)))? {
                    reservations.learn(client, state, expected);
                }
                Ok(())
            }
        };
        let told = self.reads.read((client, again), read).await;
        told.unwrap_or_else(|| Err(Arc::new(DbError::Closed))).map_err(|error| DbError::Shared(error))
    }

    /// Charges a request to the credit that was reserved for it, durably: when this answers, it is on disk.
    /// The capture counts as undelivered until [`Ledger::delivered`].
    ///
    /// # Errors
    /// [`LedgerError`]; nothing may be delivered then.
    pub async fn capture(&self, capture: Capture, reservation: Reservation) -> Result<Posted, LedgerError> {
        self.capture_and_store(capture, reservation, None).await
    }

    /// The same, and the answer that was charged is stored in the same transaction. One that is kept whole does not count as
    /// undelivered: it can be fetched again.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing may be delivered then.
    pub async fn capture_and_store(
        &self,
        capture: Capture,
        reservation: Reservation,
        store: Option<StoredAnswer>,
    ) -> Result<Posted, LedgerError> {
        let job = |caller| {
            let answer = Recipient::new(caller, mailbox::here());
            Job::Capture { capture, reservation, store, answer }
        };
        self.ask(job).await
    }

    /// Turns a reservation, which a client key spends, into a hold that every node sees, durably. What comes back is the
    /// reservation without its amount; it still counts as a running request.
    ///
    /// # Errors
    /// [`LedgerError`]. When that says [`LedgerError::Unavailable`], the hold may be there: [`Ledger::release`] it.
    pub async fn hold(
        &self,
        request: RequestId,
        reservation: Reservation,
        key: Option<KeyNumber>,
    ) -> Result<(Posted, Reservation), LedgerError> {
        if self.is_shared() && !self.node.is_fresh() {
            // Others may be finishing what this node runs; it must renew its lease first.
            return Err(LedgerError::Unavailable("this node's lease is not certain".to_owned()));
        }
        let (client, amount) = (reservation.client(), reservation.amount());
        let hold = Hold { client, source: Source::new(SourceKind::Hold, request), amount, key };
        self.ask(|answer| Job::Hold { hold, reservation, answer }).await
    }

    /// Gives a held amount back, because its request was not charged. Idempotent; refused when there is no such hold, or it
    /// has ended.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn release(&self, request: RequestId, client: ClientId) -> Result<Posted, LedgerError> {
        self.release_held(Release { client, hold: Source::new(SourceKind::Hold, request) }).await
    }

    /// Ends the hold of a request with what it came to, which is known only now: so much is charged, and the rest goes back to the
    /// credit it was taken from, in one step, durably. Paid credit is charged first, then bonus. `running` is what
    /// [`Ledger::hold`] gave back.
    ///
    /// The amount is in micros, and at most what is held ([`Refusal::ExceedsHold`] above that). The charge counts as undelivered
    /// until [`Ledger::delivered`], like a capture, and [`Ledger::reverse`] gives it back. Nothing at all is a release. Idempotent
    /// by the request: the same amount again is the same outcome, another one is [`Refusal::SourceConflict`].
    ///
    /// # Errors
    /// [`LedgerError`]; nothing may be delivered then. When that says [`LedgerError::Unavailable`], the hold may still be there:
    /// [`Ledger::settle`], then [`Ledger::release`].
    pub async fn settle_held(&self, settle: Settle, running: Reservation) -> Result<Posted, LedgerError> {
        let job = |caller| {
            let answer = Recipient::new(caller, mailbox::here());
            Job::Settle { settle, running, answer }
        };
        self.ask(job).await
    }

    async fn release_held(&self, release: Release) -> Result<Posted, LedgerError> {
        self.ask(|answer| Job::Release { release, answer }).await
    }

    /// Records a succeeded charge as credit, and sets `reserve` aside for the request that paid. Idempotent.
    ///
    /// # Errors
    /// [`LedgerError`]; the charge then stays to be recorded.
    pub async fn record_top_up(
        &self,
        charge: SucceededCharge,
        reserve: Option<Micros>,
    ) -> Result<(Posted, Option<Result<Reservation, NotReserved>>), LedgerError> {
        self.ask(|answer| Job::TopUp { charge, reserve, answer }).await
    }

    /// Notes what has become of a charge, or who may spend. Idempotent. Answers the client's balances after it.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing changed when it was refused.
    pub async fn change(&self, change: Change) -> Result<(ClientId, ClientState), LedgerError> {
        self.ask(|answer| Job::Change { change: Box::new(change), answer }).await
    }

    /// Takes the credit of a refund that Stripe is about to be asked for. What running requests have set aside stays theirs.
    /// Idempotent by its id and its key.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing changed when it was refused.
    pub async fn request_refund(&self, new: NewRefund) -> Result<(ClientId, ClientState), LedgerError> {
        self.change(Change::RequestRefund(new)).await
    }

    /// Gives a captured request back. Idempotent.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn reverse(&self, request: RequestId) -> Result<Posted, LedgerError> {
        self.reverse_captured(Reverse { capture: Source::new(SourceKind::Usage, request), client: None })
            .await
    }

    /// The same, where it is known whose request it is.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn give_back(&self, request: RequestId, client: ClientId) -> Result<Posted, LedgerError> {
        self.reverse_captured(Reverse {
            capture: Source::new(SourceKind::Usage, request),
            client: Some(client),
        })
        .await
    }

    /// Waits until it is certain that a request whose capture has an unknown outcome is not charged: what the writer does
    /// about it is only asked for again here.
    pub async fn settle(&self, request: RequestId, client: ClientId) {
        while let Err(LedgerError::Unavailable(_)) = self.give_back(request, client).await {
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Waits until it is certain whether a request is charged, and changes nothing about that. A hold of it that has not been
    /// captured is released.
    pub async fn make_certain(&self, request: RequestId, client: ClientId) {
        // Under the client's lock, which an unknown commit holds until it has ended one way or the other.
        while let Err(LedgerError::Unavailable(error)) = self.release(request, client).await {
            sparingly!(warn, error, request.id = %request, "the outcome of a request is not certain yet");
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Whether a request is charged, given back or not.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn is_charged(&self, request: RequestId) -> Result<bool, DbError> {
        const IS_CHARGED: &str = "SELECT EXISTS (SELECT 1 FROM entries WHERE source = $1)";
        let source = Source::new(SourceKind::Usage, request).to_string();
        Ok(query_scalar(IS_CHARGED).bind(source).fetch_one(self.db.reader()).await?)
    }

    async fn reverse_captured(&self, reverse: Reverse) -> Result<Posted, LedgerError> {
        self.ask(|answer| Job::Reverse { reverse, answer }).await
    }

    /// Gives the writer a command, and waits for its outcome.
    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, LedgerError>>) -> Job,
    ) -> Result<T, LedgerError> {
        let (answer, outcome) = oneshot::channel();
        match self.jobs.try_send(job(answer)) {
            Ok(()) => {}
            // Waiting is the exception, and a job is large: its future lives elsewhere.
            Err(TrySendError::Full(job)) => {
                Box::pin(self.jobs.send(job)).await.map_err(|_| LedgerError::Closed)?;
            }
            Err(TrySendError::Closed(_)) => return Err(LedgerError::Closed),
        }
        outcome.await.map_err(|_| LedgerError::Closed)?
    }

    /// The answer of a captured request has been handed over, or its caller has gone: it is not given back any more.
    pub fn delivered(&self, entry: EntryId) {
        self.deliveries.finish(entry);
    }

    /// What the writer has done so far.
    #[must_use]
    pub fn counts(&self) -> &WriterCounts {
        &self.counts
    }

    /// Sum of what running requests have set aside.
    #[must_use]
    pub fn total_reserved(&self) -> Micros {
        self.reservations.total_reserved()
    }
}

/// Why nothing could be set aside.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The balance, or who else uses it.
    #[error("the credit cannot be reserved")]
    NotReserved(NotReserved),
    /// The balance could not be read.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for ReserveError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

//! A ledger on a real database file in a directory of its own.

use std::path::PathBuf;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::super::verify::{Verification, verify};
use super::super::*;
use crate::db::{self, now_micros};
use crate::domain::{KeyId, SecretHash, TopUpId};

/// Running requests of one client; no test but those about it reaches this.
const RUNNING: u32 = 10_000;

pub(in crate::ledger) struct Books {
    directory: TempDir,
    pub(in crate::ledger) ledger: Ledger,
    pub(in crate::ledger) db: Db,
    pub(in crate::ledger) task: JoinHandle<()>,
}

pub(in crate::ledger) fn m(n: i64) -> Micros {
    Micros::new(n).unwrap()
}

pub(in crate::ledger) fn capture(client: ClientId, request: RequestId, price: i64) -> Capture {
    Capture {
        client,
        source: usage_source(request),
        price: m(price),
        route: 1,
        price_list: 1,
        upstream_status: 200,
        held: false,
    }
}

pub(in crate::ledger) fn charge_of(top_up: TopUpId) -> SucceededCharge {
    SucceededCharge {
        top_up,
        payment_intent: format!("pi_{top_up}"),
        stripe_customer: Some("cus_1".to_owned()),
        payment_method: Some(SecretHash::of(&top_up.to_string())),
        key_shown_prefix: "pck_123456".to_owned(),
    }
}

impl Books {
    pub(in crate::ledger) async fn open() -> Self {
        let books = Self::open_in(tempfile::tempdir().unwrap(), "node").await;
        books
            .run("INSERT INTO routes VALUES (1, 'GET /'); INSERT INTO price_lists VALUES (1, 'd', '{}', 1)")
            .await;
        books
    }

    async fn open_in(directory: TempDir, node: &str) -> Self {
        let (ledger, db, task) = Ledger::open(&Self::file(&directory), node, RUNNING).await.unwrap();
        Self { directory, ledger, db, task }
    }

    fn file(directory: &TempDir) -> PathBuf {
        directory.path().join("ledger.db")
    }

    pub(in crate::ledger) fn path(&self) -> PathBuf {
        Self::file(&self.directory)
    }

    /// Ends as the program does: the last handle goes, the writer writes what it still has to.
    pub(in crate::ledger) async fn close(self) -> TempDir {
        let Self { directory, ledger, db, task } = self;
        drop(ledger);
        db.reader().close().await;
        drop(db);
        task.await.unwrap();
        directory
    }

    pub(in crate::ledger) async fn reopen(self) -> Self {
        self.reopen_as("node").await
    }

    pub(in crate::ledger) async fn reopen_as(self, node: &str) -> Self {
        Self::open_in(self.close().await, node).await
    }

    /// Ends as a killed process does: the writer does not get to say anything more.
    pub(in crate::ledger) async fn kill_and_reopen(self) -> Self {
        self.task.abort();
        let Self { directory, ledger, db, task } = self;
        assert!(task.await.unwrap_err().is_cancelled());
        db.reader().close().await;
        drop((ledger, db));
        Self::open_in(directory, "node").await
    }

    pub(in crate::ledger) async fn try_run(&self, sql: impl Into<String>) -> Result<(), DbError> {
        let sql = sql.into();
        self.db
            .write(move |connection: &mut SqliteConnection| {
                Box::pin(
                    async move { sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ()) },
                )
            })
            .await
    }

    pub(in crate::ledger) async fn run(&self, sql: impl Into<String>) {
        self.try_run(sql).await.unwrap();
    }

    /// The single value that a question has for an answer.
    pub(in crate::ledger) async fn ask<T>(&self, sql: impl Into<String>) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite> + Send + Unpin,
        (T,): for<'r> sqlx::FromRow<'r, SqliteRow>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.into())).fetch_one(self.db.reader()).await.unwrap()
    }

    pub(in crate::ledger) async fn entries(&self) -> i64 {
        self.ask("SELECT COUNT(*) FROM entries").await
    }

    /// A top-up that has been charged but not recorded. `client`: of a client that exists.
    pub(in crate::ledger) async fn charged(
        &self,
        client: Option<ClientId>,
        currency: &str,
        amount: i64,
        bonus: i64,
    ) -> TopUpId {
        let (id, key, at) = (TopUpId::new(), KeyId::new(), now_micros());
        let (client, key) = match client {
            Some(client) => (
                client.to_string(),
                self.ask(format!("SELECT id FROM client_keys WHERE client = {client}")).await,
            ),
            None => ("NULL".to_owned(), key.to_string()),
        };
        self.run(format!(
            "INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, \
             created_at, updated_at) \
             VALUES ('{id}', {client}, '{key}', randomblob(32), 1, '{currency}', {amount}, {bonus}, 'confirming', 'pi_{id}', {at}, {at})"
        ))
        .await;
        id
    }

    /// A new client with this credit.
    pub(in crate::ledger) async fn client(&self, amount: i64, bonus: i64) -> ClientId {
        let top_up = self.charged(None, "usd", amount, bonus).await;
        self.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.client
    }

    /// Reserves and captures; nothing is delivered yet.
    pub(in crate::ledger) async fn charge(
        &self,
        client: ClientId,
        price: i64,
    ) -> Result<(RequestId, Posted), LedgerError> {
        let request = RequestId::new();
        let reservation = self.ledger.reserve(client, m(price)).await.unwrap();
        let posted = self.ledger.capture(capture(client, request, price), reservation).await?;
        Ok((request, posted))
    }

    /// Charges and delivers.
    pub(in crate::ledger) async fn serve(&self, client: ClientId, price: i64) -> RequestId {
        let (request, posted) = self.charge(client, price).await.unwrap();
        self.ledger.delivered(posted.entry);
        request
    }

    /// Paid, bonus and debt, which the memory and the database must agree on.
    pub(in crate::ledger) async fn balances(&self, client: ClientId) -> (i64, i64, i64) {
        let known = self.ledger.state(client).await.unwrap().unwrap();
        let stored = sqlite::load_client(self.db.reader(), client).await.unwrap().unwrap();
        assert_eq!(known, stored, "client {client}: in memory and stored");
        (stored.paid.get(), stored.bonus.get(), stored.debt.get())
    }

    pub(in crate::ledger) async fn verified(&self) -> Verification {
        let mut connection = db::connect_read_only(&self.path()).await.unwrap();
        verify(&mut connection, |_| {}).await.unwrap()
    }

    pub(in crate::ledger) async fn assert_clean(&self) {
        let report = self.verified().await;
        assert!(report.is_clean(), "{:#?}", report.findings);
    }

    /// Another process keeps the database locked; the writer does not wait for it.
    pub(in crate::ledger) async fn lock(&self) -> SqliteConnection {
        self.run("PRAGMA busy_timeout = 0").await;
        let mut other = db::connect(&self.path()).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        other
    }

    /// Dropping the connection would end the lock some time later.
    pub(in crate::ledger) async fn unlock(&self, other: SqliteConnection) {
        sqlx::Connection::close(other).await.unwrap();
    }

    pub(in crate::ledger) fn reversed_at_start(&self) -> u64 {
        self.ledger.counts().reversed_at_start.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(in crate::ledger) fn replays(&self) -> u64 {
        self.ledger.counts().replays.load(std::sync::atomic::Ordering::Relaxed)
    }
}

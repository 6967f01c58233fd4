//! A ledger on a real database of its own: a SQLite file, or a PostgreSQL database when the tests run on that.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::super::verify::{Verification, verify};
use super::super::*;
use crate::db::testing::{TestDatabase, until};
use crate::db::{self, Connection, now_micros};
use crate::domain::ids::random_bytes;
use crate::domain::{KeyId, SecretHash, TopUpId};

/// Running requests of one client; no test but those about it reaches this.
const RUNNING: u32 = 10_000;

pub(in crate::ledger) struct Books {
    pub(in crate::ledger) database: TestDatabase,
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
        source: Source::new(SourceKind::Usage, request),
        price: m(price),
        route: 1,
        price_list: 1,
        upstream_status: 200,
        held: false,
        key: None,
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

/// What keeps the database from answering, until it is taken away again.
pub(in crate::ledger) enum Lock {
    /// Another process that has locked the file.
    File(Connection),
    /// The server lets nobody in.
    Server,
}

/// Stands in for the foreign keys that entries have on SQLite only: a command with a route that does not exist is guilty.
const ROUTES_EXIST: &str = "\
    CREATE FUNCTION no_such_route() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN RAISE EXCEPTION 'there is no route %', NEW.route; END $$; \
    CREATE TRIGGER routes_exist BEFORE INSERT ON entries FOR EACH ROW WHEN (NEW.route >= 999) \
    EXECUTE FUNCTION no_such_route();";

impl Books {
    pub(in crate::ledger) async fn open() -> Self {
        let books = Self::open_in(TestDatabase::new().await, "node").await;
        books.furnish().await;
        books
    }

    /// The same with a writer that waits for a database that has gone away for a moment only.
    pub(in crate::ledger) async fn open_impatient() -> Self {
        Self::open_patient(TestDatabase::new().await, Duration::from_millis(300)).await
    }

    /// The same with a database of the test's own, and a writer that waits so long for one that has gone away.
    pub(in crate::ledger) async fn open_patient(database: TestDatabase, patience: Duration) -> Self {
        let books = Self::open_with(database, "node", patience).await;
        books.furnish().await;
        books
    }

    async fn furnish(&self) {
        self.run("INSERT INTO routes VALUES (1, 'GET /'); INSERT INTO price_lists VALUES (1, 'd', '{}', 1)")
            .await;
        if self.is_postgres() {
            self.run(ROUTES_EXIST).await;
        }
    }

    pub(in crate::ledger) async fn open_in(database: TestDatabase, node: &str) -> Self {
        Self::open_with(database, node, writer::PATIENCE).await
    }

    /// On PostgreSQL a node's name is made anew at every start, and so it is here.
    async fn open_with(database: TestDatabase, node: &str, patience: Duration) -> Self {
        static STARTS: AtomicU32 = AtomicU32::new(0);
        let node = if database.is_postgres() {
            format!("{node}-{}", STARTS.fetch_add(1, Ordering::Relaxed))
        } else {
            node.to_owned()
        };
        let (ledger, db, task) =
            Ledger::open_with_patience(&database.config, &node, RUNNING, patience).await.unwrap();
        Self { database, ledger, db, task }
    }

    pub(in crate::ledger) fn is_postgres(&self) -> bool {
        self.database.is_postgres()
    }

    /// Ends as the program does: the last handle goes, the writer writes what it still has to.
    pub(in crate::ledger) async fn close(self) -> TestDatabase {
        let Self { database, ledger, db, task } = self;
        drop(ledger);
        db.reader().close().await;
        drop(db);
        task.await.unwrap();
        database
    }

    pub(in crate::ledger) async fn reopen(self) -> Self {
        self.reopen_as("node").await
    }

    pub(in crate::ledger) async fn reopen_as(self, node: &str) -> Self {
        Self::open_in(self.close().await, node).await
    }

    /// Another node on the same PostgreSQL database.
    pub(in crate::ledger) async fn another_node(&self) -> Self {
        Self::open_in(self.database.share(), "other").await
    }

    /// Ends as a killed process does: the writer does not get to say anything more, and its lease still runs.
    pub(in crate::ledger) async fn kill_silently(self) -> TestDatabase {
        self.task.abort();
        let Self { database, ledger, db, task } = self;
        assert!(task.await.unwrap_err().is_cancelled());
        db.reader().close().await;
        drop((ledger, db));
        database
    }

    /// The same; on PostgreSQL the lease runs out at once.
    pub(in crate::ledger) async fn kill(self) -> TestDatabase {
        let database = self.kill_silently().await;
        let mut connection = database.connect().await;
        connection.run("UPDATE nodes SET lease_until = 0".to_owned()).await.unwrap();
        connection.close().await.unwrap();
        database
    }

    pub(in crate::ledger) async fn kill_and_reopen(self) -> Self {
        Self::open_in(self.kill().await, "node").await
    }

    pub(in crate::ledger) async fn try_run(&self, sql: impl Into<String>) -> Result<(), DbError> {
        let sql = sql.into();
        self.db.write(move |connection| Box::pin(connection.run(sql))).await
    }

    pub(in crate::ledger) async fn run(&self, sql: impl Into<String>) {
        self.try_run(sql).await.unwrap();
    }

    /// The single value that a question has for an answer.
    pub(in crate::ledger) async fn ask<T>(&self, sql: impl Into<String>) -> T
    where
        T: for<'r> db::Read<'r>,
    {
        self.db.reader().ask(sql.into()).await
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
        let hash = self.database.bytes(&random_bytes::<32>());
        self.run(format!(
            "INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, \
             created_at, updated_at) \
             VALUES ('{id}', {client}, '{key}', {hash}, 1, '{currency}', {amount}, {bonus}, 'confirming', 'pi_{id}', {at}, {at})"
        ))
        .await;
        id
    }

    /// Two charges of a client that does not exist yet, under the same first key: as when an older copy of the database was put
    /// back after both.
    pub(in crate::ledger) async fn two_of_a_new_client(&self, one: i64, other: i64) -> [TopUpId; 2] {
        let both = [self.charged(None, "usd", one, 0).await, self.charged(None, "usd", other, 0).await];
        let [first, second] = &both;
        for column in ["key", "key_hash"] {
            let of_first = format!("(SELECT {column} FROM top_ups WHERE id = '{first}')");
            self.run(format!("UPDATE top_ups SET {column} = {of_first} WHERE id = '{second}'")).await;
        }
        both
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
        let stored = storage::load_client(self.db.reader(), client).await.unwrap().unwrap();
        assert_eq!(known, stored, "client {client}: in memory and stored");
        (stored.paid.get(), stored.bonus.get(), stored.debt.get())
    }

    pub(in crate::ledger) async fn verified(&self) -> Verification {
        let mut connection = db::connect_read_only(&self.database.config).await.unwrap();
        let report = verify(&mut connection, |_| {}).await.unwrap();
        connection.close().await.unwrap();
        report
    }

    pub(in crate::ledger) async fn assert_clean(&self) {
        let report = self.verified().await;
        assert!(report.is_clean(), "{:#?}", report.findings);
    }

    /// The database cannot be used: another process keeps the file locked, and the writer does not wait for it; or the
    /// server has cut every connection and lets nobody in, for longer than an impatient writer waits.
    pub(in crate::ledger) async fn lock(&self) -> Lock {
        if self.is_postgres() {
            self.database.take_away().await;
            return Lock::Server;
        }
        self.run("PRAGMA busy_timeout = 0").await;
        let mut other = self.database.connect().await;
        other.begin().await.unwrap();
        Lock::File(other)
    }

    /// Dropping the connection would end the lock some time later.
    pub(in crate::ledger) async fn unlock(&self, lock: Lock) {
        match lock {
            Lock::File(other) => other.close().await.unwrap(),
            Lock::Server => {
                self.database.give_back().await;
                // The connection for other writes learns that it was cut when it is used; the writer's own is not touched.
                until(async || self.try_run("SELECT 1").await.is_ok()).await;
            }
        }
    }

    /// Somebody else has taken the id that the writer's next entry would get.
    pub(in crate::ledger) async fn take_the_next_id(&self) {
        self.run(
            "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
             SELECT MAX(id) + 1, 1, 'fee:1', 6, 5, 3, 'usd' FROM entries",
        )
        .await;
    }

    /// The file can get no larger; the server says so of its own (53100, disk_full).
    pub(in crate::ledger) async fn fill_the_disk(&self) {
        if self.is_postgres() {
            self.run(
                "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$; \
                 CREATE TRIGGER disk_is_full BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION no_space()",
            )
            .await;
        } else {
            let pages: i64 = self.ask("PRAGMA page_count").await;
            self.run(format!("PRAGMA max_page_count = {pages}")).await;
        }
    }

    /// Ends [`Self::fill_the_disk`].
    pub(in crate::ledger) async fn empty_the_disk(&self) {
        self.run(
            self.database.each("PRAGMA max_page_count = 100000", "DROP TRIGGER disk_is_full ON entries"),
        )
        .await;
    }

    /// Captures that were given back because the node that made them ended.
    pub(in crate::ledger) fn reversed_at_start(&self) -> u64 {
        let counts = self.ledger.counts();
        let count = if self.is_postgres() { &counts.reversed_for_others } else { &counts.reversed_at_start };
        count.load(Ordering::Relaxed)
    }

    pub(in crate::ledger) fn replays(&self) -> u64 {
        self.ledger.counts().replays.load(Ordering::Relaxed)
    }

    /// For tests of many commits that are not about power cuts.
    pub(in crate::ledger) async fn do_not_wait_for_the_disk(&self) {
        if !self.is_postgres() {
            // The setting cannot be changed inside of a transaction.
            self.run("COMMIT; PRAGMA synchronous = OFF; BEGIN").await;
        }
    }

    /// The captures that the database notes as undelivered.
    pub(in crate::ledger) async fn undelivered(&self) -> Vec<EntryId> {
        let row: String = self.ask("SELECT COALESCE(MAX(entries), '[]') FROM undelivered").await;
        crate::ledger::undelivered_entries(&row).unwrap()
    }
}

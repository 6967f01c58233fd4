//! Each kind of damage, done to a copy of the same books, is found and named; undamaged books are clean.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

mod adjustments;
mod damages;
mod refunds;

use super::database::SQLITE_TRIGGERS;
use super::findings::MAX_FINDINGS;
use super::*;
use crate::db::testing::{TestDatabase, is_about_sqlite};
use crate::domain::Currency;
use crate::ledger::account::{Account, Rail};
use crate::ledger::core::{Batch, Clawback, Command, TopUp, Within};
use crate::ledger::tests::books::{Books, m};
use crate::ledger::{sqlite, storage};

/// Entries of the books below. `#4` in a test is the id of the fourth, `#14` the one after the last; on SQLite that is the
/// number itself.
///
/// | number | client | what |
/// |---|---|---|
/// | 1, 2 | 1 | top-up of 1000 and its bonus of 200 |
/// | 3 | 2 | top-up of 300 |
/// | 4 | 1 | usage of 600 |
/// | 5, 6 | 1 | usage of 500: 400 paid, 100 bonus |
/// | 7 | 2 | usage of 10 |
/// | 8, 9 | 1 | the reversal of 5, 6 |
/// | 10, 11 | 2 | a refund of 400: 290 paid, 110 debt |
/// | 12 | 2 | a top-up of 50, all for the debt |
/// | 13 | 1 | usage of 50 |
struct Original {
    database: TestDatabase,
    ids: Vec<i64>,
}

impl Original {
    /// Puts ids in the places of numbers.
    fn named(&self, text: &str) -> String {
        // From behind, so that `#1` is not taken for the beginning of `#13`.
        let numbers = (1..=self.ids.len()).rev();
        numbers.fold(text.to_owned(), |text, number| {
            text.replace(&format!("#{number}"), &self.ids[number - 1].to_string())
        })
    }
}

async fn original() -> Original {
    let books = Books::open().await;
    let first = books.client(1000, 200).await;
    let second = books.client(300, 0).await;
    books.serve(first, 600).await;
    let reversed = books.serve(first, 500).await;
    books.serve(second, 10).await;
    books.ledger.reverse(reversed).await.unwrap();
    books.charged(None, "usd", 5, 0).await;
    books.charged(None, "usd", 6, 0).await;
    books.run("UPDATE top_ups SET state = 'failed' WHERE amount = 6").await;
    let database = books.close().await;

    // A clawback without a dispute's row: the core and the statements are the same.
    let mut connection = database.connect().await;
    connection.begin().await.unwrap();
    let locked = storage::lock_clients(&mut connection, &[second]).await.unwrap();
    let mut batch = match (locked.entry_ids, &mut connection) {
        (None, Connection::Sqlite(file)) => Batch::starting_at(sqlite::next_entry(file).await.unwrap()),
        (ids, _) => Batch::within(ids.unwrap()),
    };
    batch.clients.extend(locked.clients);
    batch.apply(&Command::Clawback(Clawback {
        client: second,
        source: "dispute:1".parse().unwrap(),
        amount: m(400),
        to: Account::Clearing(Rail::Stripe),
        forfeits: m(0),
        within: Within::Debt,
    }));
    batch.apply(&Command::TopUp(TopUp {
        client: second,
        source: "topup:later".parse().unwrap(),
        amount: m(50),
        bonus: m(0),
        currency: Currency::USD,
    }));
    let states: Vec<_> = batch.clients.clone().into_iter().collect();
    let writing =
        storage::Writing { at: 1, entries: &batch.entries, clients: &states, undelivered: None, fence: 0 };
    storage::append(&mut connection, writing).await.unwrap();
    connection.commit().await.unwrap();
    let hash = database.bytes(&[0; 32]);
    run(
        &mut connection,
        format!(
            "INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, \
             created_at, updated_at) VALUES ('later', {second}, 'k', {hash}, 1, 'usd', 50, 0, 'succeeded', 'pi_later', 1, 1)"
        ),
    )
    .await;
    connection.close().await.unwrap();

    let books = Books::open_in(database, "node").await;
    books.serve(first, 50).await;
    let database = books.close().await;
    let mut connection = database.connect().await;
    let mut ids: Vec<i64> =
        query_scalar("SELECT id FROM entries ORDER BY id").fetch_all(&mut connection).await.unwrap();
    ids.push(ids[ids.len() - 1] + 1);
    assert_eq!((first, second, ids.len()), (1, 2, 14));
    connection.close().await.unwrap();
    Original { database, ids }
}

async fn run(connection: &mut Connection, sql: impl Into<String>) {
    connection.run(sql.into()).await.unwrap();
}

/// Damages a copy as somebody with the file, or a superuser, could, and puts everything that guards it back.
async fn damaged(original: &Original, sql: &str) -> TestDatabase {
    let copy = original.database.copy().await;
    let mut connection = copy.connect().await;
    let (before, after) = match &connection {
        Connection::Sqlite(_) => (
            "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; \
             DROP TRIGGER entries_are_never_updated; DROP TRIGGER entries_are_never_deleted"
                .to_owned(),
            SQLITE_TRIGGERS.join("; "),
        ),
        Connection::Postgres(_) => (
            // In this mode neither triggers nor foreign keys are looked at.
            "SET session_replication_role = replica; ALTER TABLE entries DROP CONSTRAINT entries_amount_check; \
             ALTER TABLE clients DROP CONSTRAINT clients_paid_check"
                .to_owned(),
            "SET session_replication_role = DEFAULT".to_owned(),
        ),
        Connection::Lost => unreachable!("it has just been opened"),
    };
    run(&mut connection, before).await;
    run(&mut connection, original.named(sql)).await;
    run(&mut connection, after).await;
    connection.close().await.unwrap();
    copy
}

/// Everything that is in the database, as one text.
async fn contents(database: &TestDatabase) -> Vec<u8> {
    if let crate::config::DatabaseConfig::Sqlite(path) = &database.config {
        return std::fs::read(path).unwrap();
    }
    let mut connection = database.connect().await;
    let tables: Vec<String> = query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut all = String::new();
    let Connection::Postgres(server) = &mut connection else { unreachable!() };
    for table in tables {
        // With the transaction that wrote each row.
        let rows = format!(
            "SELECT COALESCE(string_agg(t.xmin::text || t::text, ',' ORDER BY t::text), '') FROM {table} AS t"
        );
        all += &sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(rows))
            .fetch_one(server.as_mut())
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
    all.into_bytes()
}

/// What `verify` says, after making sure that it left the database alone.
async fn verified(database: &TestDatabase) -> Verification {
    let before = contents(database).await;
    // A connection that could write: not writing is up to `verify`.
    let mut connection = database.connect().await;
    let report = verify(&mut connection, |_| {}).await.unwrap();
    if let Connection::Sqlite(file) = &mut connection {
        let changes: i64 = sqlx::query_scalar("SELECT total_changes()").fetch_one(file).await.unwrap();
        assert_eq!(changes, 0);
    }
    connection.close().await.unwrap();
    assert!(before == contents(database).await, "verify changed the database");
    report
}

#[tokio::test]
async fn clean_books_are_clean_and_counted() {
    let original = original().await;
    let report = verified(&original.database).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!((report.entries, report.clients, report.top_ups, report.open_top_ups), (13, 2, 5, 1));
    let sum_of = |account| {
        report
            .trial_balance
            .iter()
            .find(|(currency, of, _)| currency == "usd" && *of == account)
            .map(|line| line.2)
    };
    assert_eq!(sum_of(Account::ClientPaid), Some(-350));
    assert_eq!(sum_of(Account::ClientBonus), Some(-200));
    assert_eq!(sum_of(Account::ClientDebt), Some(60));
    assert_eq!(sum_of(Account::Clearing(Rail::Stripe)), Some(950));
    assert_eq!(sum_of(Account::Promotion), Some(200));
    assert_eq!(sum_of(Account::Revenue), Some(-660));
    assert_eq!(sum_of(Account::RefundPending), None);
    assert_eq!(report.trial_balance.iter().map(|line| line.2).sum::<i128>(), 0);
}

#[tokio::test]
async fn an_empty_database_is_clean() {
    let books = Books::open().await;
    books.assert_clean().await;
}

#[tokio::test]
async fn a_key_without_a_number_is_found() {
    if is_about_sqlite("the server numbers keys by itself") {
        return;
    }
    let original = original().await;
    let damage = "UPDATE client_keys SET number = NULL WHERE client = 2";
    let report = verified(&damaged(&original, damage).await).await;
    let says = "client 2: one of its keys has no number";
    assert!(report.findings.iter().any(|finding| finding.contains(says)), "{:#?}", report.findings);
}

/// What somebody could do to the triggers of SQLite.
const SQLITE_TRIGGER_DAMAGES: &[&str] = &[
    "DROP TRIGGER entries_are_never_updated",
    "DROP TRIGGER entries_are_never_deleted",
    "DROP TRIGGER entries_are_never_updated; CREATE TRIGGER entries_are_never_updated BEFORE UPDATE ON entries BEGIN SELECT 1; END",
    "DROP TRIGGER entries_are_never_deleted; CREATE TRIGGER other BEFORE INSERT ON entries BEGIN SELECT 1; END",
    "DROP TRIGGER entries_are_never_deleted; CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries \
     WHEN OLD.id = 1 BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END",
];

/// The same for the trigger of PostgreSQL, and for its function.
const POSTGRES_TRIGGER_DAMAGES: &[&str] = &[
    "DROP TRIGGER entries_are_never_changed ON entries",
    "DROP FUNCTION entries_are_append_only() CASCADE",
    "ALTER TABLE entries DISABLE TRIGGER entries_are_never_changed",
    "ALTER TABLE entries DISABLE TRIGGER ALL",
    "ALTER TABLE entries ENABLE REPLICA TRIGGER entries_are_never_changed",
    "ALTER TRIGGER entries_are_never_changed ON entries RENAME TO other",
    // Without one of the three events.
    "CREATE OR REPLACE TRIGGER entries_are_never_changed BEFORE UPDATE OR DELETE ON entries \
     FOR EACH STATEMENT EXECUTE FUNCTION entries_are_append_only()",
    "CREATE OR REPLACE TRIGGER entries_are_never_changed BEFORE DELETE OR TRUNCATE ON entries \
     FOR EACH STATEMENT EXECUTE FUNCTION entries_are_append_only()",
    // For one column only, or never.
    "CREATE OR REPLACE TRIGGER entries_are_never_changed BEFORE UPDATE OF at OR DELETE OR TRUNCATE ON entries \
     FOR EACH STATEMENT EXECUTE FUNCTION entries_are_append_only()",
    "CREATE OR REPLACE TRIGGER entries_are_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON entries \
     FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION entries_are_append_only()",
    // A function of the same name that lets everything pass, in this schema or in another.
    "CREATE OR REPLACE FUNCTION entries_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    "CREATE SCHEMA elsewhere; CREATE FUNCTION elsewhere.entries_are_append_only() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN RETURN NULL; END $$; \
     CREATE OR REPLACE TRIGGER entries_are_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON entries \
     FOR EACH STATEMENT EXECUTE FUNCTION elsewhere.entries_are_append_only()",
];

#[tokio::test]
async fn missing_and_toothless_triggers_are_found() {
    let original = original().await;
    let damages =
        if original.database.is_postgres() { POSTGRES_TRIGGER_DAMAGES } else { SQLITE_TRIGGER_DAMAGES };
    for sql in damages {
        let database = original.database.copy().await;
        let mut connection = database.connect().await;
        run(&mut connection, *sql).await;
        connection.close().await.unwrap();
        let report = verified(&database).await;
        assert!(
            report.findings.iter().any(|finding| finding.contains("triggers")),
            "{sql}: {:?}",
            report.findings
        );
        assert_eq!(report.found, 1);
    }
}

#[tokio::test]
async fn only_so_many_findings_are_kept_but_all_are_counted() {
    let original = original().await;
    let many = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 299) \
        INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
        SELECT #14 + i, 1, 'x:' || i, 99, 5, 1, 'usd' FROM n";
    let report = verified(&damaged(&original, many).await).await;
    assert_eq!((report.found, report.findings.len()), (300, MAX_FINDINGS));
}

/// A server that goes on writing does not make the books look wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_are_clean_at_any_moment() {
    let books = std::sync::Arc::new(Books::open().await);
    let client = books.client(1_000_000, 0).await;
    let serving = std::sync::Arc::clone(&books);
    let served = tokio::spawn(async move {
        for _ in 0..200 {
            serving.serve(client, 10).await;
        }
    });
    let mut looked = 0;
    while !served.is_finished() {
        books.assert_clean().await;
        looked += 1;
    }
    served.await.unwrap();
    assert!(looked > 0);
}

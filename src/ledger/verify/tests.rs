//! Each kind of damage, done to a copy of the same books, is found and named; undamaged books are clean.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

use super::super::core::{Batch, Clawback, Command, TopUp, Within};
use super::super::tests::books::{Books, m};
use super::super::{sqlite, storage};
use super::*;
use crate::db::Connection;
use crate::db::testing::{TestDatabase, is_about_sqlite};
use crate::domain::Currency;

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

/// Name, what is done, and what the finding says.
const DAMAGES: &[(&str, &str, &str)] = &[
    ("amount raised", "UPDATE entries SET amount = 601 WHERE id = #4", "entry #4: its balances"),
    ("amount lowered", "UPDATE entries SET amount = 1 WHERE id = #7", "entry #7: its balances"),
    ("amount zero", "UPDATE entries SET amount = 0 WHERE id = #7", "entry #7: its amount"),
    ("amount negative", "UPDATE entries SET amount = -10 WHERE id = #7", "entry #7: its amount"),
    ("paid_after", "UPDATE entries SET paid_after = paid_after + 1 WHERE id = #4", "entry #4: its balances"),
    ("bonus_after", "UPDATE entries SET bonus_after = 0 WHERE id = #4", "entry #4: its balances"),
    ("debt_after", "UPDATE entries SET debt_after = 109 WHERE id = #11", "entry #11: its balances"),
    ("balances unknown", "UPDATE entries SET paid_after = NULL WHERE id = #13", "entry #13: its balances"),
    ("sequence", "UPDATE entries SET sequence = 9 WHERE id = #9", "entry #9: its balances or its number"),
    (
        "sequence unknown",
        "UPDATE entries SET sequence = NULL WHERE id = #3",
        "entry #3: its balances or its number",
    ),
    ("client paid", "UPDATE clients SET paid = paid + 1 WHERE id = 1", "client 1: its balances"),
    ("client bonus", "UPDATE clients SET bonus = 0 WHERE id = 1", "client 1: its balances"),
    ("client debt forgiven", "UPDATE clients SET debt = 0 WHERE id = 2", "client 2: its balances"),
    ("client sequence", "UPDATE clients SET sequence = 3 WHERE id = 2", "client 2: its balances"),
    ("client last entry", "UPDATE clients SET last_entry = #9 WHERE id = 1", "client 1: its balances"),
    ("client balance below zero", "UPDATE clients SET paid = -1 WHERE id = 2", "client 2: its balances"),
    (
        "clients swapped",
        "UPDATE clients SET id = 0 WHERE id = 1; UPDATE clients SET id = 1 WHERE id = 2; UPDATE clients SET id = 2 WHERE id = 0",
        "client 2: its balances",
    ),
    ("first entry gone", "DELETE FROM entries WHERE id = #1", "entry #2: entry #1 is missing"),
    ("middle entry gone", "DELETE FROM entries WHERE id = #7", "entry #8: entry #7 is missing"),
    ("last entry gone", "DELETE FROM entries WHERE id = #13", "client 1: its balances"),
    ("all entries gone", "DELETE FROM entries", "client 2: its balances"),
    (
        "entries cut out and patched over",
        "DELETE FROM entries WHERE id = #4; UPDATE entries SET previous = #2 WHERE id = #5",
        "entry #5: entry #4 is missing",
    ),
    (
        "previous swapped",
        "UPDATE entries SET previous = #4 + #5 - previous WHERE id IN (#5, #6)",
        "entry #5: the chain",
    ),
    ("previous gone", "UPDATE entries SET previous = NULL WHERE id = #13", "entry #13: the chain"),
    ("previous of another client", "UPDATE entries SET previous = #6 WHERE id = #7", "entry #7: the chain"),
    ("client of an entry", "UPDATE entries SET client = 2 WHERE id = #4", "entry #4: the chain"),
    ("nobody's entry", "UPDATE entries SET client = NULL WHERE id = #4", "entry #5: the chain"),
    ("nobody's last entry", "UPDATE entries SET client = NULL WHERE id = #13", "client 1: its balances"),
    (
        "usage of nobody's credit",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (#14, 1, 'usage:x', 1, 8, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    (
        "bonus for nobody",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (#14, 1, 'topup:x/2', 9, 2, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    (
        "nobody's debt forgiven",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (#14, 1, 'adjustment:x', 10, 3, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    (
        "usage of nobody's hold",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (#14, 1, 'usage:x', 4, 8, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    (
        "nobody's refund paid out",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
         VALUES (#14, 1, 'refund-paid:x', 7, 5, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    ("currency of an entry", "UPDATE entries SET currency = 'eur' WHERE id = #4", "entry #4: its currency"),
    ("currency of a client", "UPDATE clients SET currency = 'eur' WHERE id = 2", "entry #3: its currency"),
    (
        "usage twice under another source",
        "INSERT INTO entries SELECT #14, at, 'usage:copy', debit, credit, amount, currency, client, sequence, previous, \
         paid_after, bonus_after, debt_after, route, price_list, upstream_status, key FROM entries WHERE id = #13",
        "entry #14: the chain",
    ),
    (
        "credit to the wrong side",
        "UPDATE entries SET debit = credit, credit = debit WHERE id = #7",
        "entry #7: its balances",
    ),
    (
        "account that does not exist",
        "UPDATE entries SET credit = 99 WHERE id = #4",
        "entry #4: it names an account",
    ),
    (
        "same account",
        "UPDATE entries SET credit = debit WHERE id = #4",
        "entry #4: it debits and credits the same",
    ),
    (
        "kind that does not exist",
        "UPDATE entries SET source = 'usages:a' WHERE id = #4",
        "entry #4: the kind of its source is unknown",
    ),
    (
        "no kind",
        "UPDATE entries SET source = 'a' WHERE id = #4",
        "entry #4: the kind of its source is unknown",
    ),
    ("no id", "UPDATE entries SET source = 'usage:' WHERE id = #4", "entry #4: its source is malformed"),
    (
        "fourth entry",
        "UPDATE entries SET source = 'usage:a/4' WHERE id = #4",
        "entry #4: its source is malformed",
    ),
    (
        "usage as another kind",
        "UPDATE entries SET source = 'hold:a' WHERE id = #4",
        "entry #4: its accounts are not those of its kind",
    ),
    (
        "account without a row",
        "DELETE FROM ledger_accounts WHERE number = 8",
        "entry #4: it names an account that has no row",
    ),
    (
        "account without a row or an entry",
        "DELETE FROM ledger_accounts WHERE number = 12",
        "account 12: it has no row",
    ),
    (
        "account of another kind",
        "UPDATE ledger_accounts SET kind = 'revenues' WHERE number = 8",
        "account 8: its row is of",
    ),
    (
        "account of another rail",
        "UPDATE ledger_accounts SET instance = 'x' WHERE number = 5",
        "account 5: its row is of",
    ),
    (
        "account of nobody",
        "INSERT INTO ledger_accounts VALUES (99, 'x', '')",
        "account 99: this program does not know it",
    ),
    (
        "key of another client",
        "UPDATE entries SET key = (SELECT number FROM client_keys WHERE client = 2) WHERE id = #4",
        "entry #4: it names a key that is not its client's",
    ),
    (
        "key of nobody",
        "UPDATE entries SET key = 99 WHERE id = #4",
        "entry #4: it names a key that is not its client's",
    ),
    ("usage that is no revenue", "UPDATE entries SET credit = 12 WHERE id = #13", "entry #13: its accounts"),
    ("top-up out of nothing", "UPDATE entries SET debit = 10 WHERE id = #3", "entry #3: its accounts"),
    ("bonus as paid by Stripe", "UPDATE entries SET debit = 5 WHERE id = #2", "entry #2: its accounts"),
    (
        "reversal of another kind",
        "UPDATE entries SET debit = 9 WHERE id = #8",
        "its reversal gives back something else",
    ),
    (
        "top-up amount",
        "UPDATE top_ups SET amount = 999 WHERE amount = 1000",
        "its entries are not its amount, bonus and client",
    ),
    (
        "top-up bonus",
        "UPDATE top_ups SET bonus = 201 WHERE bonus = 200",
        "its entries are not its amount, bonus and client",
    ),
    (
        "top-up client",
        "UPDATE top_ups SET client = 1 WHERE id = 'later'",
        "top-up later: its entries are not",
    ),
    (
        "top-up currency",
        "UPDATE top_ups SET currency = 'eur' WHERE id = 'later'",
        "top-up later: its entries are not",
    ),
    (
        "top-up row gone",
        "DELETE FROM top_ups WHERE id = 'later'",
        "top-up later: it is in the books, but there is no such",
    ),
    (
        "top-up not succeeded",
        "UPDATE top_ups SET state = 'failed' WHERE id = 'later'",
        "top-up later: it is in the books, but did not",
    ),
    (
        "top-up open again",
        "UPDATE top_ups SET state = 'pending' WHERE id = 'later'",
        "top-up later: it is in the books, but did not",
    ),
    (
        "top-up without entries",
        "INSERT INTO top_ups SELECT 'never', client, key, key_hash, key_secret, pm_hash, fingerprint, request_key, currency, \
         amount, bonus, state, failure, stripe_customer, 'pi_never', 1, 1, NULL, NULL, 0, NULL, NULL FROM top_ups WHERE id = 'later'",
        "top-up never: it succeeded, but is not in the books",
    ),
    (
        "top-up under another source",
        "UPDATE entries SET source = 'topup:x' WHERE id = #12",
        "top-up x: it is in the books",
    ),
    (
        "frozen without a reason",
        "UPDATE clients SET status = 'frozen' WHERE id = 1",
        "client 1: whether it is frozen",
    ),
    (
        "thawed in spite of a reason",
        "INSERT INTO freezes (client, cause, created_at) VALUES (2, 'dispute:x', 1)",
        "client 2: whether it is frozen",
    ),
    (
        "a refund without entries",
        "INSERT INTO refunds (id, top_up, client, amount, bonus, origin, state, created_at, updated_at) \
         VALUES ('none', 'later', 2, 7, 0, 'operator', 'requested', 1, 1)",
        "refund none: it is requested",
    ),
    (
        "reversal of less",
        "UPDATE entries SET amount = 399, paid_after = 399 WHERE id = #8; UPDATE entries SET paid_after = 399 WHERE id = #9; \
         UPDATE entries SET paid_after = 349 WHERE id = #13; UPDATE clients SET paid = 349 WHERE id = 1",
        "its reversal gives back something else",
    ),
    (
        "reversal of a half",
        "UPDATE entries SET id = #14 WHERE id = #13; DELETE FROM entries WHERE id = #9; \
         INSERT INTO entries SELECT #9, 1, 'fee:1', 6, 5, 1, 'usd', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL; \
         INSERT INTO entries SELECT #13, 1, 'fee:2', 6, 5, 1, 'usd', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL; \
         UPDATE entries SET previous = #8, sequence = 7, bonus_after = 100 WHERE id = #14; \
         UPDATE clients SET bonus = 100, sequence = 7, last_entry = #14 WHERE id = 1",
        "its reversal gives back something else",
    ),
    (
        "reversal without capture",
        "UPDATE entries SET source = 'reversal:none' WHERE id = #9",
        "usage:none: its reversal gives back something else",
    ),
    ("client row gone", "DELETE FROM clients WHERE id = 2", "entry #3: its currency"),
    (
        "client row gone, references",
        "DELETE FROM clients WHERE id = 2",
        "a row of entries refers to a row of clients",
    ),
    ("route gone", "DELETE FROM routes", "a row of entries refers to a row of routes"),
    ("key of nobody", "UPDATE client_keys SET client = 77 WHERE client = 1", "a row of client_keys refers"),
    (
        "binding of nobody",
        "UPDATE payment_method_bindings SET client = 77 WHERE client = 1",
        "a row of payment_method_bindings refers to a row of clients",
    ),
    (
        "binding to no key",
        "UPDATE payment_method_bindings SET key = 'k' WHERE client = 1",
        "a row of payment_method_bindings refers to a row of client_keys",
    ),
    ("top-up of nobody", "UPDATE top_ups SET client = 77 WHERE id = 'later'", "a row of top_ups refers"),
    ("entry names no route", "UPDATE entries SET route = 77 WHERE id = #4", "entry #4: it names a route"),
    (
        "entry names no price list",
        "UPDATE entries SET price_list = 0 WHERE id = #4",
        "entry #4: it names a route",
    ),
];

/// What is found on PostgreSQL instead: ids have gaps there, and entries refer to others without foreign keys.
const ON_POSTGRES: &[(&str, &str)] = &[
    ("first entry gone", "entry #2: the chain"),
    ("middle entry gone", "entry #10: the chain"),
    ("entries cut out and patched over", "entry #5: its balances"),
    ("client row gone, references", "a row of client_keys refers to a row of clients"),
    ("route gone", "entry #4: it names a route"),
];

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

#[tokio::test]
async fn every_damage_is_found_and_named() {
    let original = original().await;
    let mut missed = Vec::new();
    for (name, sql, says) in DAMAGES {
        let instead = ON_POSTGRES.iter().find(|(of, _)| of == name && original.database.is_postgres());
        let says = original.named(instead.map_or(says, |(_, says)| says));
        let report = verified(&damaged(&original, sql).await).await;
        if !report.findings.iter().any(|finding| finding.contains(&says)) {
            missed.push(format!("{name}: {:#?}", report.findings));
        }
        assert_eq!(report.is_clean(), report.findings.is_empty());
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
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

// ---- refunds and disputes ------------------------------------------------------------------------------------------

/// A client with a top-up of 100 and 20 on top, and of that a refund in each state: 10 requested, 20 on its way, 30 that has
/// left, 5 that has come back, and 7 that had failed before it was known. And a dispute of 3 that was won.
async fn refunded() -> TestDatabase {
    use super::super::aftermath::{
        Change, ChargeFacts, DisputeFacts, DisputeMovement, Movement, NewRefund, RefundFacts, RefundOrigin,
        RefundStatus,
    };
    use super::super::tests::books::charge_of;
    use crate::domain::RefundId;

    let books = Books::open().await;
    books.client(1000, 0).await;
    let top_up = books.charged(None, "usd", 100, 20).await;
    books.ledger.record_top_up(charge_of(top_up), None).await.unwrap();
    let refund = |id: &str, amount, status| RefundFacts {
        id: id.to_owned(),
        ours: None,
        asked: None,
        amount: m(amount),
        status,
        failure: None,
    };
    let moved = |id: &str, is_reinstated| DisputeMovement {
        id: id.to_owned(),
        amount: m(3),
        is_reinstated,
        fee: m(15),
        fee_is_returned: is_reinstated,
    };
    let mut facts = ChargeFacts {
        top_up,
        charge: "ch_1".to_owned(),
        fingerprint: None,
        fee: Some(Movement { id: "txn_fee".to_owned(), amount: m(2) }),
        refunds: vec![
            refund("re_20", 20, RefundStatus::Pending),
            refund("re_30", 30, RefundStatus::Succeeded),
            refund("re_5", 5, RefundStatus::Succeeded),
            refund("re_7", 7, RefundStatus::Failed),
        ],
        disputes: vec![DisputeFacts {
            id: "du_1".to_owned(),
            amount: m(3),
            status: "won".to_owned(),
            reason: "general".to_owned(),
            due_by: None,
            created: 1,
            movements: vec![moved("txn_out", false), moved("txn_in", true)],
        }],
        warnings: Vec::new(),
    };
    books.ledger.change(Change::Align(facts.clone())).await.unwrap();
    facts.refunds[2].status = RefundStatus::Failed;
    books.ledger.change(Change::Align(facts)).await.unwrap();
    let requested = NewRefund {
        id: RefundId::new(),
        top_up,
        amount: Some(m(10)),
        origin: RefundOrigin::Operator,
        reason: None,
        operator: None,
        request_key: None,
    };
    books.ledger.request_refund(requested).await.unwrap();
    books.close().await
}

/// What is done, and what the finding says. `@20` is the refund of 20.
const REFUND_DAMAGES: &[(&str, &str)] = &[
    ("UPDATE refunds SET amount = 11 WHERE amount = 10", "refund @10: it is requested"),
    ("UPDATE refunds SET amount = 11 WHERE amount = 10", "the refunds on their way in usd"),
    ("UPDATE refunds SET amount = 29 WHERE amount = 30", "refund @30: it is succeeded"),
    ("UPDATE refunds SET amount = 4 WHERE amount = 5", "refund @5: it is failed"),
    ("UPDATE refunds SET bonus = 1 WHERE amount = 30", "refund @30: it is succeeded"),
    ("UPDATE refunds SET state = 'succeeded' WHERE amount = 20", "refund @20: it is succeeded"),
    ("UPDATE refunds SET state = 'failed' WHERE amount = 20", "refund @20: it is failed"),
    ("UPDATE refunds SET state = 'pending' WHERE amount = 30", "refund @30: it is pending"),
    ("UPDATE refunds SET state = 'failed' WHERE amount = 30", "refund @30: it is failed"),
    ("UPDATE refunds SET state = 'succeeded' WHERE amount = 5", "refund @5: it is succeeded"),
    ("UPDATE refunds SET state = 'succeeded' WHERE amount = 7", "refund @7: it is succeeded"),
    ("UPDATE refunds SET client = 1 WHERE amount = 30", "refund @30: it is succeeded"),
    ("UPDATE refunds SET client = 1 WHERE amount = 7", "refund @7: its client is not its top-up's"),
    ("DELETE FROM refunds WHERE amount = 30", "refund @30: it is in the books, but there is no such"),
    ("DELETE FROM refunds WHERE amount = 20", "the refunds on their way in usd"),
    ("UPDATE refunds SET amount = 80 WHERE amount = 30", "more was refunded than charged"),
    (
        "UPDATE entries SET source = 'refund-paid:x' WHERE source = 'refund-paid:@30'",
        "refund @30: it is succeeded",
    ),
    (
        "UPDATE entries SET source = 'refund-paid:@20' WHERE source = 'refund-paid:@30'",
        "refund @20: it is pending",
    ),
    ("UPDATE entries SET source = 'x:1' WHERE source = 'refund-return:@5/2'", "refund @5: it is failed"),
    (
        "UPDATE entries SET credit = 10 WHERE source = 'refund-paid:@30'",
        "its accounts are not those of its kind",
    ),
    ("UPDATE entries SET credit = 10 WHERE source = 'refund:@20'", "its accounts are not those of its kind"),
    ("UPDATE entries SET credit = 5 WHERE source = 'refund:@20/2'", "its accounts are not those of its kind"),
    (
        "UPDATE entries SET debit = 10 WHERE source = 'refund-return:@5'",
        "its accounts are not those of its kind",
    ),
    (
        "UPDATE entries SET credit = 7 WHERE source = 'dispute:txn_out'",
        "its accounts are not those of its kind",
    ),
    (
        "UPDATE entries SET debit = 7 WHERE source = 'reinstatement:txn_in'",
        "its accounts are not those of its kind",
    ),
    ("UPDATE entries SET debit = 11 WHERE source = 'fee:txn_fee'", "its accounts are not those of its kind"),
    (
        "UPDATE entries SET debit = 6 WHERE source = 'dispute-fee:txn_out'",
        "its accounts are not those of its kind",
    ),
    (
        "UPDATE entries SET source = 'x:1' WHERE source = 'dispute:txn_out'",
        "client 2: disputes have given back more",
    ),
    (
        "UPDATE entries SET amount = 4 WHERE source = 'reinstatement:txn_in'",
        "client 2: disputes have given back more",
    ),
    ("UPDATE freezes SET lifted_at = NULL", "client 2: whether it is frozen"),
    ("UPDATE refunds SET top_up = 'none' WHERE amount = 7", "a row of refunds refers to a row of top_ups"),
    ("UPDATE disputes SET top_up = 'none'", "a row of disputes refers to a row of top_ups"),
    ("UPDATE disputes SET client = 77", "a row of disputes refers to a row of clients"),
    ("UPDATE freezes SET client = 77", "a row of freezes refers to a row of clients"),
    (
        "INSERT INTO fraud_warnings VALUES ('issfr_1', 'none', 2, 'ch_1', 'misc', 1)",
        "a row of fraud_warnings refers to a row of top_ups",
    ),
];

#[tokio::test]
async fn every_damage_to_refunds_and_disputes_is_found_and_named() {
    let database = refunded().await;
    let report = verified(&database).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    let mut connection = database.connect().await;
    let mut names: Vec<(i64, String)> = Vec::new();
    for row in
        query("SELECT amount, id FROM refunds ORDER BY amount DESC").fetch_all(&mut connection).await.unwrap()
    {
        names.push((row.try_get(0).unwrap(), row.try_get(1).unwrap()));
    }
    connection.close().await.unwrap();
    let named = |text: &str| {
        names.iter().fold(text.to_owned(), |text, (amount, id)| text.replace(&format!("@{amount}"), id))
    };
    let original = Original { database, ids: Vec::new() };
    let mut missed = Vec::new();
    for (sql, says) in REFUND_DAMAGES {
        let report = verified(&damaged(&original, &named(sql)).await).await;
        if !report.findings.iter().any(|finding| finding.contains(&named(says))) {
            missed.push(format!("{sql}: {:#?}", report.findings));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

// ---- adjustments and holds -------------------------------------------------------------------------------------------

/// Client 1 had 100 and has spent 90 of it. A dispute takes the 100; of the 90 that are owed then, 40 are let off. The dispute is won,
/// so that the 40 are taken back. And 5 are given for nothing. Client 2 had 60 held by a request that was given back.
///
/// The held request's name comes with the books.
async fn adjusted() -> (TestDatabase, String) {
    use super::super::adjustments::NewAdjustment;
    use super::super::aftermath::{Change, ChargeFacts, DisputeFacts, DisputeMovement};
    use super::super::core::Gift;
    use super::super::tests::books::charge_of;
    use crate::domain::RequestId;

    let books = Books::open().await;
    let top_up = books.charged(None, "usd", 100, 0).await;
    let client = books.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.client;
    books.serve(client, 90).await;
    let moved = |id: &str, is_reinstated| DisputeMovement {
        id: id.to_owned(),
        amount: m(100),
        is_reinstated,
        fee: m(0),
        fee_is_returned: false,
    };
    let mut facts = ChargeFacts {
        top_up,
        charge: "ch_1".to_owned(),
        fingerprint: None,
        fee: None,
        refunds: Vec::new(),
        disputes: vec![DisputeFacts {
            id: "du_1".to_owned(),
            amount: m(100),
            status: "under_review".to_owned(),
            reason: "general".to_owned(),
            due_by: None,
            created: 1,
            movements: vec![moved("txn_out", false)],
        }],
        warnings: Vec::new(),
    };
    books.ledger.change(Change::Align(facts.clone())).await.unwrap();
    for (id, gift, amount) in [("let-off", Gift::Forgiveness, 40), ("given", Gift::Credit, 5)] {
        let new = NewAdjustment {
            id: id.to_owned(),
            client,
            gift,
            amount: Some(m(amount)),
            reason: "a gesture".to_owned(),
            operator: "ada".to_owned(),
            request_key: id.to_owned(),
            max_a_day: m(5),
        };
        books.ledger.change(Change::Adjust(new)).await.unwrap();
    }
    facts.disputes[0].status = "won".to_owned();
    facts.disputes[0].movements.push(moved("txn_in", true));
    books.ledger.change(Change::Align(facts)).await.unwrap();
    // 100 came back; 50 repaid what was still owed, and 40 were taken back.
    assert_eq!(books.balances(client).await, (10, 5, 0));

    let other = books.client(100, 0).await;
    let request = RequestId::new();
    let reservation = books.ledger.reserve(other, m(60)).await.unwrap();
    let (_, running) = books.ledger.hold(request, reservation, None).await.unwrap();
    books.ledger.release(request, other).await.unwrap();
    drop(running);
    assert_eq!((client, other), (1, 2));
    (books.close().await, request.to_string())
}

/// What is done, and what the finding says. `@held` is the request whose hold was given back.
const ADJUSTMENT_DAMAGES: &[(&str, &str)] = &[
    (
        "INSERT INTO adjustments (id, client, kind, amount, whole, reason, operator, request_key, created_at) \
         VALUES ('none', 1, 'credit', 7, 0, 'x', 'ada', 'none', 1)",
        "adjustment none: it is not in the books",
    ),
    (
        "UPDATE entries SET source = 'x:1' WHERE source = 'adjustment:given'",
        "adjustment given: it is not in the books",
    ),
    ("UPDATE adjustments SET amount = 6 WHERE id = 'given'", "adjustment given: its entry is not its client"),
    ("UPDATE adjustments SET client = 2 WHERE id = 'given'", "adjustment given: its entry is not its client"),
    (
        "UPDATE adjustments SET kind = 'write_off_debt' WHERE id = 'given'",
        "adjustment given: its entry is not its client",
    ),
    (
        "DELETE FROM adjustments WHERE id = 'given'",
        "adjustment given: it is in the books, but there is no such adjustment",
    ),
    (
        "DELETE FROM adjustments WHERE id = 'let-off'",
        "adjustment let-off: it was taken back, but there is no such adjustment",
    ),
    (
        "UPDATE adjustments SET amount = 39 WHERE id = 'let-off'",
        "adjustment let-off: more of it was taken back than was written off",
    ),
    // What was given can be spent, and is never taken back.
    (
        "UPDATE adjustments SET kind = 'credit' WHERE id = 'let-off'",
        "adjustment let-off: more of it was taken back than was written off",
    ),
    // A second part counts beside the first.
    (
        "UPDATE entries SET source = 'write-off-return:let-off.2' WHERE source = 'adjustment:given'",
        "adjustment let-off: more of it was taken back than was written off",
    ),
    (
        "UPDATE entries SET client = 1 WHERE source = 'release:@held'",
        "hold @held: it was taken from one client and ended with another",
    ),
];

#[tokio::test]
async fn every_damage_to_adjustments_and_holds_is_found_and_named() {
    let (database, held) = adjusted().await;
    let report = verified(&database).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    let original = Original { database, ids: Vec::new() };
    let mut missed = Vec::new();
    for (sql, says) in ADJUSTMENT_DAMAGES {
        let (sql, says) = (sql.replace("@held", &held), says.replace("@held", &held));
        let report = verified(&damaged(&original, &sql).await).await;
        if !report.findings.iter().any(|finding| finding.contains(&says)) {
            missed.push(format!("{sql}: {:#?}", report.findings));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

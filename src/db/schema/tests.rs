//! Old schemas are copied and brought up to date, newer ones are left alone.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::Secret;
use crate::db::testing::{TestDatabase, is_about_postgres, is_about_sqlite, on_server};
use crate::db::{connect, connect_read_only, run_writes_only};

/// A client with 70 left of 100, and one capture of 30 whose answer was not delivered, as version 2 wrote them.
const MONEY: &str = "\
    INSERT INTO routes VALUES (1, 'GET /'); INSERT INTO price_lists VALUES (1, 'd', '{}', 1);
    INSERT INTO clients (id, public_id, currency, paid, bonus, debt, sequence, last_entry, status, created_at)
    VALUES (1, 'p', 'usd', 70, 0, 0, 2, 2, 'active', 1);
    INSERT INTO client_keys VALUES ('k', 1, zeroblob(32), 'pck_', 1, 'owner', 1, NULL);
    INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, created_at, updated_at)
    VALUES ('t', 1, 'k', zeroblob(32), 1, 'usd', 100, 0, 'succeeded', 'pi_1', 1, 1);
    INSERT INTO entries VALUES (1, 1, 'topup:t', 5, 1, 100, 'usd', 1, 1, NULL, 100, 0, 0, NULL, NULL, NULL);
    INSERT INTO entries VALUES (2, 2, 'usage:u', 1, 8, 30, 'usd', 1, 2, 1, 70, 0, 0, 1, 1, 200);
    INSERT INTO undelivered VALUES ('node', '[2]');";

/// A SQLite file of schema 2 with money in it.
async fn old_file() -> (TestDatabase, PathBuf) {
    let database = TestDatabase::empty().await;
    let DatabaseConfig::Sqlite(path) = database.config.clone() else { panic!("this test is about files") };
    let mut connection = database.connect().await;
    let Connection::Sqlite(file) = &mut connection else { unreachable!() };
    migrator(&SQLITE[..2]).run(file).await.unwrap();
    connection.run(MONEY.to_owned()).await.unwrap();
    assert_eq!(version(&mut connection).await.unwrap(), 2);
    connection.close().await.unwrap();
    (database, path)
}

/// Everything in the books, as one text.
async fn books(connection: &mut Connection) -> String {
    let rows =
        query("SELECT id, source, amount, paid_after FROM entries ORDER BY id").fetch_all(connection).await;
    let mut all = String::new();
    for row in rows.unwrap() {
        let (id, source): (i64, String) = (row.try_get(0).unwrap(), row.try_get(1).unwrap());
        let (amount, after): (i64, i64) = (row.try_get(2).unwrap(), row.try_get(3).unwrap());
        all += &format!("{id} {source} {amount} {after}\n");
    }
    all
}

#[tokio::test]
async fn an_old_file_is_copied_before_its_schema_is_changed() {
    if is_about_sqlite("a PostgreSQL database is backed up by its own means, and its first schema is 3") {
        return;
    }
    let (database, path) = old_file().await;
    // What an attempt before this one left behind is no hindrance, and does not count.
    let expected = PathBuf::from(format!("{}.before-schema-{SCHEMA_VERSION}-of-2", path.display()));
    std::fs::write(&expected, "half a copy").unwrap();
    let mut connection = database.connect().await;
    let before = books(&mut connection).await;
    let migrated = migrate(&mut connection, &database.config).await.unwrap();
    assert_eq!(migrated, Migrated { from: 2, backup: Some(expected.clone()) });
    require_current(&mut connection).await.unwrap();
    assert_eq!(books(&mut connection).await, before);
    connection.close().await.unwrap();

    let mut copy = connect_read_only(&DatabaseConfig::Sqlite(expected.clone())).await.unwrap();
    assert_eq!((books(&mut copy).await, version(&mut copy).await.unwrap()), (before, 2));
    let holds = query("SELECT * FROM holds").fetch_all(&mut copy).await;
    assert!(holds.is_err(), "the copy is from before the migration");
    copy.close().await.unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&expected).unwrap().permissions().mode() & 0o777, 0o600);
    }

    // Once is enough.
    std::fs::remove_file(&expected).unwrap();
    let mut connection = database.connect().await;
    let again = migrate(&mut connection, &database.config).await.unwrap();
    assert_eq!(again, Migrated { from: SCHEMA_VERSION, backup: None });
    assert!(!expected.exists());
    connection.close().await.unwrap();

    // The books go on from there, and what the old program had not delivered is given back.
    let (ledger, db, writer) = crate::ledger::Ledger::open(&database.config, "new", 10).await.unwrap();
    assert_eq!(ledger.state(1).await.unwrap().unwrap().paid.get(), 100);
    drop((ledger, db));
    writer.await.unwrap();
    let mut connection = database.connect().await;
    let report = crate::ledger::verify::verify(&mut connection, |_| {}).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

/// On both databases: what the version before has written stays as it is, and its tables are the same for it.
#[tokio::test]
async fn the_money_of_the_version_before_is_kept() {
    let database = TestDatabase::empty().await;
    let mut connection = database.connect().await;
    match &mut connection {
        Connection::Sqlite(file) => migrator(&SQLITE[..SQLITE.len() - 1]).run(file).await.unwrap(),
        Connection::Postgres(server) => {
            let mut migrator = migrator(&POSTGRES[..POSTGRES.len() - 1]);
            migrator.dangerous_set_table_name(POSTGRES_VERSIONS);
            migrator.run(&mut *server).await.unwrap();
        }
        Connection::Lost => unreachable!(),
    }
    let (money, _) = MONEY.split_once("INSERT INTO undelivered").unwrap();
    connection.run(money.replace("zeroblob(32)", &database.bytes(&[0; 32]))).await.unwrap();
    let before = books(&mut connection).await;
    let migrated = migrate(&mut connection, &database.config).await.unwrap();
    assert!(migrated.from < SCHEMA_VERSION && migrated.from > 0, "{migrated:?}");
    assert_eq!(books(&mut connection).await, before);
    let turn: i64 =
        query_scalar("SELECT COUNT(*) FROM adjustments_turn").fetch_one(&mut connection).await.unwrap();
    assert_eq!(turn, 1);
    let report = crate::ledger::verify::verify(&mut connection, |_| {}).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    // A node of the version before goes on writing what it knows.
    let more = "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, previous, paid_after,
                    bonus_after, debt_after, route, price_list, upstream_status)
                VALUES (3, 3, 'usage:v', 1, 8, 30, 'usd', 1, 3, 2, 40, 0, 0, 1, 1, 200);
                UPDATE clients SET paid = 40, sequence = 3, last_entry = 3 WHERE id = 1";
    connection.run(more.to_owned()).await.unwrap();
    let report = crate::ledger::verify::verify(&mut connection, |_| {}).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    connection.close().await.unwrap();
}

/// What the released version (schema 5) writes in the tables that later versions change: a wallet with a charge, an attempt, an
/// event, and the gateway's id. `HASH` stands for 32 bytes.
const AS_RELEASED: [&str; 6] = [
    "INSERT INTO clients (id, public_id, currency, paid, bonus, debt, sequence, last_entry, status, stripe_customer, created_at) \
     VALUES (ID, 'pID', 'usd', 100, 0, 0, 1, ID, 'active', 'cus_ID', 1)",
    "INSERT INTO client_keys (id, client, hash, shown_prefix, secret_version, scope, created_at) \
     VALUES ('kID', ID, HASH, 'pck_', 1, 'owner', 1)",
    "INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, stripe_customer, payment_intent, \
     created_at, updated_at, node) VALUES ('tID', ID, 'kID', HASH, 1, 'usd', 100, 0, 'succeeded', 'cus_ID', 'pi_ID', 1, 1, NULL)",
    "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, paid_after, bonus_after, debt_after) \
     VALUES (ID, 1, 'topup:tID', 5, 1, 100, 'usd', ID, 1, 100, 0, 0)",
    "INSERT INTO stripe_events (id, type, object, created, body, state, why, tries, received_at, next_try_at) \
     VALUES ('evt_ID', 'charge.refunded', 'ch_ID', 1, '{}', 'parked', 'not now', 3, 1, 1)",
    "INSERT INTO installation (one, id, compared_until) VALUES (1, '0192f0c1-0000-7000-8000-00000000000ID', 1) \
     ON CONFLICT (one) DO NOTHING",
];

/// Debits less credits of each account, and what wallets hold, as one text.
async fn totals(connection: &mut Connection) -> String {
    const TOTALS: &str = "\
SELECT currency || ' ' || account || ' ' || CAST(SUM(amount) AS BIGINT) AS line FROM (
    SELECT currency, debit AS account, amount FROM entries UNION ALL SELECT currency, credit, -amount FROM entries) AS moved
GROUP BY currency, account
UNION ALL SELECT 'wallet ' || id || ' ' || paid || ' ' || bonus || ' ' || debt || ' ' || sequence FROM clients ORDER BY line";
    let lines: Vec<String> = query_scalar(TOTALS).fetch_all(connection).await.unwrap();
    lines.join("\n")
}

#[tokio::test]
async fn a_filled_database_of_the_released_version_is_brought_up_to_date_and_stays_usable_for_it() {
    let database = TestDatabase::empty().await;
    let mut connection = database.connect().await;
    match &mut connection {
        Connection::Sqlite(file) => migrator(&SQLITE[..5]).run(file).await.unwrap(),
        Connection::Postgres(server) => {
            let mut migrator = migrator(&POSTGRES[..3]);
            migrator.dangerous_set_table_name(POSTGRES_VERSIONS);
            migrator.set_locking(false);
            migrator.run(&mut *server).await.unwrap();
        }
        Connection::Lost => unreachable!(),
    }
    let as_released = |id: u8| {
        let hash = database.bytes(&[id; 32]);
        AS_RELEASED.map(|sql| sql.replace("HASH", &hash).replace("ID", &id.to_string())).join(";")
    };
    connection.run(as_released(1)).await.unwrap();
    connection.run(as_released(3)).await.unwrap();
    let before = totals(&mut connection).await;
    assert_eq!(before, "usd 1 -200\nusd 5 200\nwallet 1 100 0 0 1\nwallet 3 100 0 0 1");
    assert_eq!(migrate(&mut connection, &database.config).await.unwrap().from, 5);
    require_current(&mut connection).await.unwrap();
    assert_eq!(totals(&mut connection).await, before);
    let numbered = async |connection: &mut Connection| -> Vec<i64> {
        let numbers = query_scalar("SELECT number FROM client_keys ORDER BY number");
        numbers.fetch_all(connection).await.unwrap()
    };
    assert_eq!(numbered(&mut connection).await, [1, 2]);
    // A node of the version before goes on beside the new one.
    connection.run(as_released(2)).await.unwrap();
    assert_eq!(numbered(&mut connection).await, [1, 2, 3]);
    for (unknown, count) in [
        ("SELECT COUNT(*) FROM installation WHERE stripe_mode IS NULL", 1_i64),
        ("SELECT COUNT(*) FROM top_ups WHERE former_account = 0", 3),
        ("SELECT COUNT(*) FROM stripe_events WHERE missing_since IS NULL AND state = 'parked'", 3),
        ("SELECT COUNT(*) FROM entries WHERE key IS NULL", 3),
    ] {
        let found: i64 = query_scalar(unknown).fetch_one(&mut connection).await.unwrap();
        assert_eq!(found, count, "{unknown}");
    }
    let report = crate::ledger::verify::verify(&mut connection, |_| {}).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    connection.close().await.unwrap();
}

/// What `prepaid402 backup` of the version before has made is a database of that version.
#[tokio::test]
async fn a_backup_of_the_version_before_is_brought_up_to_date() {
    if is_about_sqlite("a PostgreSQL database is backed up by its own means") {
        return;
    }
    let (database, path) = old_file().await;
    let mut connection = database.connect().await;
    let Connection::Sqlite(file) = &mut connection else { unreachable!() };
    migrator(&SQLITE[..SQLITE.len() - 1]).run(file).await.unwrap();
    let before = (books(&mut connection).await, totals(&mut connection).await);
    let copy = PathBuf::from(format!("{}.backup", path.display()));
    copy_into(&mut connection, &copy).await.unwrap();
    connection.close().await.unwrap();
    let restored = DatabaseConfig::Sqlite(copy);
    let mut connection = connect(&restored).await.unwrap();
    assert_eq!(migrate(&mut connection, &restored).await.unwrap().from, SCHEMA_VERSION - 1);
    assert_eq!((books(&mut connection).await, totals(&mut connection).await), before);
    let report = crate::ledger::verify::verify(&mut connection, |_| {}).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    connection.close().await.unwrap();
}

/// On both databases: the table says what the program says, and a key gets a number whoever adds it.
#[tokio::test]
async fn accounts_and_keys_have_the_numbers_that_entries_use() {
    use crate::ledger::account::Account;
    let database = TestDatabase::new().await;
    let mut connection = database.connect().await;
    let rows = query("SELECT number, kind, instance FROM ledger_accounts ORDER BY number");
    let rows = rows.fetch_all(&mut connection).await.unwrap();
    let stored: Vec<(i64, String, String)> = rows
        .iter()
        .map(|row| (row.try_get(0).unwrap(), row.try_get(1).unwrap(), row.try_get(2).unwrap()))
        .collect();
    let known = Account::ALL
        .map(|account| (account.number(), account.kind().to_owned(), account.instance().to_owned()));
    assert_eq!(stored, known);
    for id in 1..4_u8 {
        let hash = database.bytes(&[id; 32]);
        connection
            .run(format!(
                "INSERT INTO clients (id, public_id, currency, paid, bonus, debt, sequence, status, created_at) \
                 VALUES ({id}, 'p{id}', 'usd', 0, 0, 0, 0, 'active', 1); \
                 INSERT INTO client_keys (id, client, hash, shown_prefix, secret_version, scope, created_at) \
                 VALUES ('k{id}', {id}, {hash}, 'pck_', 1, 'owner', 1)"
            ))
            .await
            .unwrap();
    }
    let numbers: Vec<i64> =
        query_scalar("SELECT number FROM client_keys ORDER BY id").fetch_all(&mut connection).await.unwrap();
    assert_eq!(numbers, [1, 2, 3]);
    let twice = "UPDATE client_keys SET number = 1 WHERE id = 'k2'".to_owned();
    assert!(connection.run(twice).await.is_err());
    connection.close().await.unwrap();
}

#[tokio::test]
async fn without_its_copy_a_file_is_not_changed() {
    if is_about_sqlite("a PostgreSQL database is backed up by its own means") {
        return;
    }
    let (database, path) = old_file().await;
    // A folder where the copy should be cannot be replaced.
    std::fs::create_dir(format!("{}.before-schema-{SCHEMA_VERSION}-of-2", path.display())).unwrap();
    let mut connection = database.connect().await;
    let refused = migrate(&mut connection, &database.config).await.unwrap_err();
    assert!(matches!(refused, DbError::Backup(_)), "{refused}");
    assert_eq!(version(&mut connection).await.unwrap(), 2);
    let tables = query("SELECT * FROM holds").fetch_all(&mut connection).await;
    assert!(tables.is_err(), "nothing was changed");
    drop(connection);
    assert!(matches!(run_writes_only(&database.config).await, Err(DbError::Backup(_))));
}

#[tokio::test]
async fn a_schema_of_a_newer_program_is_left_alone() {
    let database = TestDatabase::new().await;
    let mut connection = database.connect().await;
    let hash = database.bytes(&[0; 48]);
    connection
        .run(format!(
            "INSERT INTO {} (version, description, success, checksum, execution_time) \
             VALUES (99, 'later', {}, {hash}, 1)",
            database.each("_sqlx_migrations", "prepaid402_migrations"),
            database.each("1", "true")
        ))
        .await
        .unwrap();
    let found = |outcome: Result<(), DbError>| match outcome {
        Err(DbError::SchemaTooNew { found }) => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(require_current(&mut connection).await), 99);
    assert_eq!(found(migrate(&mut connection, &database.config).await.map(drop)), 99);
    assert_eq!(found(run_writes_only(&database.config).await.map(drop)), 99);
    let opened = crate::ledger::Ledger::open(&database.config, "node", 10).await;
    assert_eq!(found(opened.map(drop)), 99);
    connection.close().await.unwrap();
}

#[tokio::test]
async fn an_empty_database_is_no_ledger_yet() {
    let database = TestDatabase::empty().await;
    let mut connection = database.connect().await;
    let refused = require_current(&mut connection).await.unwrap_err();
    assert!(matches!(refused, DbError::SchemaTooOld { found: 0 }), "{refused}");
    assert!(refused.to_string().contains("prepaid402 migrate"), "{refused}");
    if database.is_postgres() {
        // Whoever only wants to serve does not change a shared database.
        let refused = run_writes_only(&database.config).await.unwrap_err();
        assert!(matches!(refused, DbError::SchemaTooOld { found: 0 }), "{refused}");
        assert_eq!(version(&mut connection).await.unwrap(), 0);
    }
    let migrated = migrate(&mut connection, &database.config).await.unwrap();
    assert_eq!(migrated, Migrated { from: 0, backup: None });
    require_current(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    run_writes_only(&database.config).await.unwrap();
}

#[tokio::test]
async fn two_nodes_that_migrate_at_once_both_succeed() {
    if is_about_postgres() {
        return;
    }
    for _ in 0..5 {
        let database = TestDatabase::empty().await;
        let (mut one, mut other) = (database.connect().await, database.connect().await);
        let both = tokio::join!(migrate(&mut one, &database.config), migrate(&mut other, &database.config));
        both.0.unwrap();
        both.1.unwrap();
        require_current(&mut one).await.unwrap();
    }
}

/// Settings under which an entry that was answered could be lost, or on which nothing can be written.
#[tokio::test]
async fn a_server_that_would_lose_or_refuse_entries_is_refused() {
    if is_about_postgres() {
        return;
    }
    let database = TestDatabase::new().await;
    let name = database.name();
    for (setting, words) in [
        ("synchronous_commit = off", "synchronous_commit is off"),
        ("default_transaction_read_only = on", "takes no writes"),
    ] {
        let key = setting.split_once(' ').unwrap().0;
        on_server(format!("ALTER DATABASE {name} SET {setting}")).await;
        for outcome in [
            connect(&database.config).await.map(drop),
            run_writes_only(&database.config).await.map(drop),
            crate::ledger::Ledger::open(&database.config, "node", 10).await.map(drop),
        ] {
            let Err(DbError::Setting(what)) = outcome else { panic!("{setting}: {outcome:?}") };
            assert!(what.contains(words), "{what}");
        }
        on_server(format!("ALTER DATABASE {name} RESET {key}")).await;
        connect(&database.config).await.unwrap().close().await.unwrap();
    }
    // Waiting for the own disk alone is durable.
    on_server(format!("ALTER DATABASE {name} SET synchronous_commit = local")).await;
    connect(&database.config).await.unwrap().close().await.unwrap();

    on_server(format!("CREATE DATABASE {name}_ascii ENCODING 'SQL_ASCII' TEMPLATE template0")).await;
    let DatabaseConfig::Postgres(url) = &database.config else { unreachable!() };
    let ascii = DatabaseConfig::Postgres(Secret::new(format!("{}_ascii", url.expose())));
    let refused = connect(&ascii).await.unwrap_err();
    assert!(matches!(&refused, DbError::Setting(what) if what.contains("UTF8")), "{refused}");
}

/// What a server says of its own must not tell a password, and what is not there is said in time.
#[tokio::test]
async fn a_server_that_is_not_there_is_said_without_its_password() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://user:hidden@127.0.0.1:{nobody}/d");
    let refused = connect(&DatabaseConfig::Postgres(Secret::new(url))).await.unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("hidden"), "{refused:?}");
}

/// `pg_restore --clean` takes away what the dump knows. What a later version has added stays.
#[tokio::test]
async fn a_dump_of_the_version_before_that_was_put_back_is_migrated_again() {
    if is_about_postgres() {
        return;
    }
    let database = TestDatabase::new().await;
    let mut connection = database.connect().await;
    let back = "ALTER TABLE client_keys DROP COLUMN number; ALTER TABLE entries DROP COLUMN key; \
                DELETE FROM prepaid402_migrations WHERE version = 8";
    connection.run(back.to_owned()).await.unwrap();
    migrate(&mut connection, &database.config).await.unwrap();
    let accounts: i64 =
        query_scalar("SELECT COUNT(*) FROM ledger_accounts").fetch_one(&mut connection).await.unwrap();
    assert_eq!(accounts, 12);
    connection.close().await.unwrap();
}

//! Durable deductions a second: the ledger's group commit beside one commit per request, in the same run.
//!
//! `cargo bench --bench ledger [-- SECONDS [DIRECTORY]]`. Every deduction is answered only after its fsync (SQLite: WAL,
//! synchronous=FULL; PostgreSQL: fsync and synchronous_commit are on). 1,000 accounts; callers wait for their answer before
//! they ask again. Compare the ratios: absolute figures depend on the disk.
//!
//! PostgreSQL is measured when its programs are there (then on a server of its own, on the same disk), or on the server that
//! `PREPAID402_BENCH_POSTGRES` names by a URL without a database's name.
#![allow(clippy::float_arithmetic, reason = "rates are printed, money is not computed here")]

#[path = "../tests/it/support/postgres.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the integration tests")]
mod postgres;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prepaid402::config::{DatabaseConfig, Secret};
use prepaid402::db::{Connection, query};
use prepaid402::domain::{ClientPublicId, Micros, RequestId};
use prepaid402::ledger::{Capture, Ledger, Source, SourceKind};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ACCOUNTS: i64 = 1_000;
const PRICE: i64 = 500;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let seconds = arguments.first().and_then(|a| a.parse().ok()).unwrap_or(5);
    let directory = arguments.get(1).map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(Duration::from_secs(seconds), &directory));
}

async fn run(duration: Duration, directory: &Path) {
    println!("{ACCOUNTS} accounts, {duration:?} a row, database in {}", directory.display());
    println!("{:<34} {:>8} {:>14} {:>10} {:>10}", "strategy", "callers", "deductions/s", "p50", "p99");
    let mut baseline = 0.0;
    for callers in [1, 64, 512] {
        let (_folder, database) = file(directory).await;
        let rate = group_commit("group commit, SQLite", &database, duration, callers).await;
        if callers == 512 {
            baseline = rate;
        }
    }
    let single = one_commit_per_request(duration, directory, 64).await;
    println!("group commit at 512 callers is {:.0} times one commit per request", baseline / single.max(1.0));

    let named = std::env::var("PREPAID402_BENCH_POSTGRES").ok();
    let own = if named.is_some() { None } else { postgres::Cluster::start() };
    let Some(server) = named.or_else(|| own.as_ref().map(postgres::Cluster::url)) else { return };
    let mut postgres_rate = 0.0;
    for callers in [1, 64, 512] {
        let url = postgres::new_database(server.trim_end_matches('/')).await;
        let database = DatabaseConfig::Postgres(Secret::new(url));
        furnish(&database).await;
        let rate = group_commit("group commit, PostgreSQL", &database, duration, callers).await;
        if callers == 512 {
            postgres_rate = rate;
        }
    }
    let url = postgres::new_database(server.trim_end_matches('/')).await;
    let bare = bare_statements(&url, duration, 512).await;
    println!("group commit at 512 callers is {:.2} times the bare statements", postgres_rate / bare.max(1.0));
    // Two nodes with half of the callers each.
    let url = postgres::new_database(server.trim_end_matches('/')).await;
    let database = DatabaseConfig::Postgres(Secret::new(url));
    furnish(&database).await;
    let name = "group commit, one of two nodes";
    let (one, other) = tokio::join!(
        group_commit(name, &database, duration, 256),
        group_commit(name, &database, duration, 256)
    );
    println!("{:<34} {:>8} {:>14.0}", "group commit, both nodes", 512, one + other);
}

/// A new file with the accounts.
async fn file(directory: &Path) -> (tempfile::TempDir, DatabaseConfig) {
    let folder = tempfile::tempdir_in(directory).expect("a folder for the database");
    let database = DatabaseConfig::Sqlite(folder.path().join("bench.db"));
    furnish(&database).await;
    (folder, database)
}

/// The schema and the accounts.
async fn furnish(database: &DatabaseConfig) {
    let mut connection = prepaid402::db::connect(database).await.expect("a database");
    prepaid402::db::migrate(&mut connection, database).await.expect("a schema");
    query("INSERT INTO routes (id, name) VALUES (1, 'GET /')").execute(&mut connection).await.expect("route");
    query("INSERT INTO price_lists (id, digest, prices, created_at) VALUES (1, 'x', '{}', 0)")
        .execute(&mut connection)
        .await
        .expect("price list");
    for id in 1..=ACCOUNTS {
        query(
            "INSERT INTO clients (id, public_id, currency, paid, bonus, debt, sequence, status, created_at) \
             VALUES ($1, $2, 'usd', 1000000000000, 0, 0, 0, 'active', 0)",
        )
        .bind(id)
        .bind(ClientPublicId::new().to_string())
        .execute(&mut connection)
        .await
        .expect("account");
    }
    connection.close().await.expect("closed");
}

async fn group_commit(name: &str, database: &DatabaseConfig, duration: Duration, callers: i64) -> f64 {
    static NODES: AtomicU64 = AtomicU64::new(0);
    let node = format!("bench-{}", NODES.fetch_add(1, Ordering::Relaxed));
    let (ledger, db, writer) = Ledger::open(database, &node, u32::MAX).await.expect("the ledger opens");
    let asked = ledger.clone();
    let rate = drive(name, duration, callers, move |client| {
        let ledger = asked.clone();
        async move {
            let price = Micros::new(PRICE).expect("a price");
            let reservation = ledger.reserve(client, price).await.expect("reserved");
            let capture = Capture {
                client,
                source: Source::new(SourceKind::Usage, RequestId::new()),
                price,
                route: 1,
                price_list: 1,
                upstream_status: 200,
                held: false,
                key: None,
            };
            let posted = ledger.capture(capture, reservation).await.expect("captured");
            ledger.delivered(posted.entry);
        }
    })
    .await;
    drop((ledger, db));
    writer.await.expect("the writer ends");
    rate
}

/// What the server can do without a ledger: lock, insert, update, commit, each batch, in two tables of few columns that hold
/// nothing but balances and amounts. No rules, no repeats, no reservations, nothing that a crash would need.
async fn bare_statements(url: &str, duration: Duration, callers: i64) -> f64 {
    let mut connection = PgConnection::connect(url).await.expect("connected");
    for statement in [
        "CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL) WITH (fillfactor = 70)",
        "CREATE TABLE lines (id BIGINT PRIMARY KEY, source TEXT COLLATE \"C\" NOT NULL UNIQUE, account BIGINT NOT NULL, \
         amount BIGINT NOT NULL, balance BIGINT NOT NULL)",
        "INSERT INTO accounts SELECT id, 1000000000000 FROM generate_series(1, 1000) AS id",
    ] {
        sqlx::query(statement).execute(&mut connection).await.expect("tables");
    }
    let (ask, asked) = tokio::sync::mpsc::channel(1024);
    let writer = tokio::spawn(write_bare_statements(connection, asked));
    let rate = drive("bare statements, PostgreSQL", duration, callers, move |account| {
        let (ask, source) = (ask.clone(), Source::new(SourceKind::Usage, RequestId::new()).to_string());
        async move {
            let (answer, answered) = tokio::sync::oneshot::channel();
            ask.send((account, source, answer)).await.expect("the writer runs");
            answered.await.expect("written");
        }
    })
    .await;
    writer.await.expect("the writer ends");
    rate
}

async fn write_bare_statements(
    mut connection: PgConnection,
    mut asked: tokio::sync::mpsc::Receiver<(i64, String, tokio::sync::oneshot::Sender<()>)>,
) {
    let mut next = 1;
    let mut batch = Vec::new();
    while asked.recv_many(&mut batch, 1024).await > 0 {
        let mut accounts: Vec<i64> = batch.iter().map(|(account, ..)| *account).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let mut transaction = connection.begin().await.expect("begun");
        let mut balances: BTreeMap<i64, i64> =
            sqlx::query_as("SELECT id, balance FROM accounts WHERE id = ANY($1) ORDER BY id FOR UPDATE")
                .bind(accounts)
                .fetch_all(&mut *transaction)
                .await
                .expect("locked")
                .into_iter()
                .collect();
        let mut lines = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (account, source, _) in &batch {
            let balance = balances.get_mut(account).expect("an account");
            *balance -= PRICE;
            lines.0.push(next);
            lines.1.push(source.as_str());
            lines.2.push(*account);
            lines.3.push(*balance);
            next += 1;
        }
        let (ids, after): (Vec<i64>, Vec<i64>) = balances.into_iter().unzip();
        sqlx::query(
            "WITH added AS (INSERT INTO lines SELECT l.id, l.source, l.account, $5, l.balance \
             FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) AS l (id, source, account, balance)) \
             UPDATE accounts SET balance = v.balance FROM unnest($6::bigint[], $7::bigint[]) AS v (id, balance) \
             WHERE accounts.id = v.id",
        )
        .bind(lines.0)
        .bind(lines.1)
        .bind(lines.2)
        .bind(lines.3)
        .bind(PRICE)
        .bind(ids)
        .bind(after)
        .execute(&mut *transaction)
        .await
        .expect("written");
        transaction.commit().await.expect("committed");
        for (.., answer) in batch.drain(..) {
            let _ = answer.send(());
        }
    }
}

async fn one_commit_per_request(duration: Duration, directory: &Path, callers: i64) -> f64 {
    let (_folder, database) = file(directory).await;
    let Connection::Sqlite(connection) = prepaid402::db::connect(&database).await.expect("connected") else {
        unreachable!("it is a file")
    };
    let connection = Arc::new(tokio::sync::Mutex::new(connection));
    drive("one commit per request, SQLite", duration, callers, move |client| {
        let connection = Arc::clone(&connection);
        async move {
            let mut connection = connection.lock().await;
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.expect("begun");
            sqlx::query("UPDATE clients SET paid = paid - $2 WHERE id = $1 AND paid >= $2")
                .bind(client)
                .bind(PRICE)
                .execute(&mut *transaction)
                .await
                .expect("updated");
            sqlx::query(
                "INSERT INTO entries (at, source, debit, credit, amount, currency, client) \
                 VALUES (0, $1, 1, 8, $2, 'usd', $3)",
            )
            .bind(Source::new(SourceKind::Usage, RequestId::new()).to_string())
            .bind(PRICE)
            .bind(client)
            .execute(&mut *transaction)
            .await
            .expect("inserted");
            transaction.commit().await.expect("committed");
        }
    })
    .await
}

/// Callers that ask again as soon as they are answered, each from account to account.
async fn drive<A, F>(name: &str, duration: Duration, callers: i64, ask: A) -> f64
where
    A: Fn(i64) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (ask, stop, done) = (ask.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut account = caller * 7919 % ACCOUNTS;
                while !stop.load(Ordering::Relaxed) {
                    account = (account + 97) % ACCOUNTS;
                    let begun = Instant::now();
                    ask(account + 1).await;
                    latencies.push(begun.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a caller"));
    }
    report(name, callers, done.load(Ordering::Relaxed), started, latencies)
}

fn report(name: &str, callers: i64, done: u64, started: Instant, mut latencies: Vec<Duration>) -> f64 {
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "printed")]
    let rate = done as f64 / started.elapsed().as_secs_f64();
    println!("{name:<34} {callers:>8} {rate:>14.0} {:>10.1?} {:>10.1?}", at(50), at(99));
    rate
}

//! Durable deductions a second: the ledger's group commit beside one commit per request, in the same run.
//!
//! `cargo bench --bench ledger [-- SECONDS [DIRECTORY]]`. Every deduction is answered only after its fsync (WAL,
//! synchronous=FULL). 1,000 accounts; callers wait for their answer before they ask again. Compare the ratios: absolute
//! figures depend on the disk.
//!
//! With `PREPAID402_BENCH_POSTGRES=postgres://…/DATABASE`, an empty database, the same is done there after SQLite.
#![allow(clippy::float_arithmetic, reason = "rates are printed, money is not computed here")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prepaid402::config::DatabaseConfig;
use prepaid402::db::{self, Connection, Sql, query, query_scalar};
use prepaid402::domain::{ClientPublicId, Micros, RequestId};
use prepaid402::ledger::{Capture, Ledger, usage_source};

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
    println!("{:<32} {:>8} {:>14} {:>10} {:>10}", "strategy", "callers", "deductions/s", "p50", "p99");
    let folder = tempfile::tempdir_in(directory).expect("a folder for the database");
    compare("SQLite", &DatabaseConfig::Sqlite(folder.path().join("bench.db")), duration).await;
    match std::env::var("PREPAID402_BENCH_POSTGRES") {
        Ok(url) => {
            let database = DatabaseConfig::parse(&url).expect("PREPAID402_BENCH_POSTGRES is a URL");
            compare("PostgreSQL", &database, duration).await;
        }
        Err(_) => println!("PostgreSQL is left out: PREPAID402_BENCH_POSTGRES names no empty database"),
    }
}

async fn compare(name: &str, database: &DatabaseConfig, duration: Duration) {
    prepare(database).await;
    let mut grouped = 0.0;
    for callers in [1, 64, 512] {
        grouped = group_commit(name, database, duration, callers).await;
    }
    let single = one_commit_per_request(name, database, duration, 64).await;
    println!(
        "{name}: group commit at 512 callers is {:.0} times one commit per request",
        grouped / single.max(1.0)
    );
}

async fn prepare(database: &DatabaseConfig) {
    let mut connection = db::connect_for_migration(database).await.expect("a database");
    db::migrate(&mut connection, database).await.expect("a schema");
    let found: i64 =
        query_scalar("SELECT COUNT(*) FROM clients").fetch_one(&mut connection).await.expect("a count");
    assert_eq!(found, 0, "the database must be empty");
    for row in [
        "INSERT INTO routes (id, name) VALUES (1, 'GET /')",
        "INSERT INTO price_lists (id, digest, prices, created_at) VALUES (1, 'x', '{}', 0)",
    ] {
        query(row).execute(&mut connection).await.expect("a name");
    }
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
    let node = RequestId::new().to_string();
    let (ledger, db, writer) = Ledger::open(database, &node, u32::MAX).await.expect("the ledger opens");
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (ledger, stop, done) = (ledger.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut account = caller * 7919 % ACCOUNTS;
                while !stop.load(Ordering::Relaxed) {
                    account = (account + 97) % ACCOUNTS;
                    let client = account + 1;
                    let begun = Instant::now();
                    let price = Micros::new(PRICE).expect("a price");
                    let reservation = ledger.reserve(client, price).await.expect("reserved");
                    let capture = Capture {
                        client,
                        source: usage_source(RequestId::new()),
                        price,
                        route: 1,
                        price_list: 1,
                        upstream_status: 200,
                        held: false,
                    };
                    let posted = ledger.capture(capture, reservation).await.expect("captured");
                    ledger.delivered(posted.entry);
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
    let rate =
        report(&format!("{name}: group commit"), callers, done.load(Ordering::Relaxed), started, latencies);
    drop((ledger, db));
    writer.await.expect("the writer ends");
    rate
}

/// SQLite has one writer; on PostgreSQL every caller has a connection of its own.
async fn one_commit_per_request(
    name: &str,
    database: &DatabaseConfig,
    duration: Duration,
    callers: i64,
) -> f64 {
    let count = if matches!(database, DatabaseConfig::Sqlite(_)) { 1 } else { callers };
    let mut connections = Vec::new();
    for _ in 0..count {
        let connection = db::connect(database).await.expect("connected");
        connections.push(Arc::new(tokio::sync::Mutex::new(connection)));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let connection = connections.iter().cycle().nth(usize::try_from(caller).unwrap_or(0));
            let connection = Arc::clone(connection.expect("a connection"));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let mut connection = connection.lock().await;
                    deduct(&mut connection, caller % ACCOUNTS + 1).await;
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
    report(
        &format!("{name}: one commit per request"),
        callers,
        done.load(Ordering::Relaxed),
        started,
        latencies,
    )
}

async fn deduct(connection: &mut Connection, client: i64) {
    query(Sql::each("BEGIN IMMEDIATE", "BEGIN")).execute(&mut *connection).await.expect("begun");
    query("UPDATE clients SET paid = paid - $2 WHERE id = $1 AND paid >= $2")
        .bind(client)
        .bind(PRICE)
        .execute(&mut *connection)
        .await
        .expect("updated");
    query(Sql::each(
        "INSERT INTO entries (at, source, debit, credit, amount, currency, client) \
         VALUES (0, $1, 1, 8, $2, 'usd', $3)",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client) \
         VALUES (nextval('entry_ids'), 0, $1, 1, 8, $2, 'usd', $3)",
    ))
    .bind(usage_source(RequestId::new()))
    .bind(PRICE)
    .bind(client)
    .execute(&mut *connection)
    .await
    .expect("inserted");
    query("COMMIT").execute(connection).await.expect("committed");
}

fn report(name: &str, callers: i64, done: u64, started: Instant, mut latencies: Vec<Duration>) -> f64 {
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "printed")]
    let rate = done as f64 / started.elapsed().as_secs_f64();
    println!("{name:<32} {callers:>8} {rate:>14.0} {:>10.1?} {:>10.1?}", at(50), at(99));
    rate
}

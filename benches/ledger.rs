//! Durable deductions a second: the ledger's group commit beside one commit per request, in the same run.
//!
//! `cargo bench --bench ledger [-- SECONDS [DIRECTORY]]`. Every deduction is answered only after its fsync (WAL,
//! synchronous=FULL). 1,000 accounts; callers wait for their answer before they ask again. Compare the ratios: absolute
//! figures depend on the disk.
#![allow(clippy::float_arithmetic, reason = "rates are printed, money is not computed here")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prepaid402::domain::{ClientPublicId, Micros, RequestId};
use prepaid402::ledger::{Capture, Ledger, usage_source};
use sqlx::Connection as _;

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
    println!("{:<28} {:>8} {:>14} {:>10} {:>10}", "strategy", "callers", "deductions/s", "p50", "p99");
    let mut baseline = 0.0;
    for callers in [1, 64, 512] {
        let rate = group_commit(duration, directory, callers).await;
        if callers == 512 {
            baseline = rate;
        }
    }
    let single = one_commit_per_request(duration, directory, 64).await;
    println!("group commit at 512 callers is {:.0} times one commit per request", baseline / single.max(1.0));
}

async fn prepare(directory: &Path) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(directory).expect("a folder for the database");
    let path = folder.path().join("bench.db");
    let mut connection = prepaid402::db::connect(&path).await.expect("a database");
    prepaid402::db::migrate(&mut connection).await.expect("a schema");
    sqlx::query("INSERT INTO routes (id, name) VALUES (1, 'GET /')")
        .execute(&mut connection)
        .await
        .expect("route");
    sqlx::query("INSERT INTO price_lists (id, digest, prices, created_at) VALUES (1, 'x', '{}', 0)")
        .execute(&mut connection)
        .await
        .expect("price list");
    for id in 1..=ACCOUNTS {
        sqlx::query(
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
    (folder, path)
}

async fn group_commit(duration: Duration, directory: &Path, callers: i64) -> f64 {
    let (_folder, path) = prepare(directory).await;
    let (ledger, db, writer) = Ledger::open(&path, "bench", u32::MAX).await.expect("the ledger opens");
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
    let rate = report("group commit (the ledger)", callers, done.load(Ordering::Relaxed), started, latencies);
    drop((ledger, db));
    writer.await.expect("the writer ends");
    rate
}

async fn one_commit_per_request(duration: Duration, directory: &Path, callers: i64) -> f64 {
    let (_folder, path) = prepare(directory).await;
    let connection =
        Arc::new(tokio::sync::Mutex::new(prepaid402::db::connect(&path).await.expect("connected")));
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (connection, stop, done) = (Arc::clone(&connection), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let mut connection = connection.lock().await;
                    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.expect("begun");
                    sqlx::query("UPDATE clients SET paid = paid - $2 WHERE id = $1 AND paid >= $2")
                        .bind(caller % ACCOUNTS + 1)
                        .bind(PRICE)
                        .execute(&mut *transaction)
                        .await
                        .expect("updated");
                    sqlx::query(
                        "INSERT INTO entries (at, source, debit, credit, amount, currency, client) \
                         VALUES (0, $1, 1, 8, $2, 'usd', $3)",
                    )
                    .bind(usage_source(RequestId::new()))
                    .bind(PRICE)
                    .bind(caller % ACCOUNTS + 1)
                    .execute(&mut *transaction)
                    .await
                    .expect("inserted");
                    transaction.commit().await.expect("committed");
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
    report("one commit per request", callers, done.load(Ordering::Relaxed), started, latencies)
}

fn report(name: &str, callers: i64, done: u64, started: Instant, mut latencies: Vec<Duration>) -> f64 {
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "printed")]
    let rate = done as f64 / started.elapsed().as_secs_f64();
    println!("{name:<28} {callers:>8} {rate:>14.0} {:>10.1?} {:>10.1?}", at(50), at(99));
    rate
}

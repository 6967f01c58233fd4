//! A disk without room: nothing more is sold, `/readyz` says so at once, and it is over by itself.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::process::Command;

use super::*;
use crate::support::program::is_installed;
use crate::support::{change, empty_disk, fill_disk, is_on_sqlite, number};

/// No file of the process grows beyond so many bytes; `None`: they may again.
async fn limit_files(sale: &Sale<'_>, most: Option<u64>) {
    let id = sale.process.id().to_string();
    let size = most.map_or_else(|| "unlimited:unlimited".to_owned(), |most| format!("{most}:unlimited"));
    let done =
        Command::new("prlimit").args(["--pid", &id, &format!("--fsize={size}")]).status().await.unwrap();
    assert!(done.success());
}

/// From now on there is hardly any room: by a limit of the system on the size of the process's files, or by a trigger that says what
/// PostgreSQL says.
async fn fill(sale: &Sale<'_>) {
    if sale.world.database.is_shared() {
        fill_disk(&sale.world.database).await;
        return;
    }
    let log = std::fs::metadata(format!("{}-wal", sale.world.file().display())).unwrap();
    limit_files(sale, Some(log.len() + 100_000)).await;
}

async fn empty(sale: &Sale<'_>) {
    if sale.world.database.is_shared() {
        empty_disk(&sale.world.database).await;
    } else {
        limit_files(sale, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_sale_and_room_lets_it_go_on() {
    let world = World::new().await;
    if !world.database.is_shared() && !is_installed("prlimit").await {
        return;
    }
    let sale = Sale::open(&world).await;
    let key = Pay::client(&sale.wallet);
    if !world.database.is_shared() {
        let kept = sale.pay("GET", "/api/joke", &key, Some("kept")).await;
        assert_eq!(kept.status, 200, "{}", kept.text());
    }
    fill(&sale).await;
    let mut served = i64::from(!world.database.is_shared());
    let last = loop {
        let answer = sale.spend().await;
        if answer.status != 200 {
            break answer;
        }
        served += 1;
        assert!(served < 400, "the disk never gets full");
    };
    // One request finds it out.
    assert_eq!((last.status, last.code().as_str()), (503, "capture_unknown"), "{}", last.text());
    let full = sale.readyz().await;
    assert_eq!((full.status, full.text().as_str()), (503, "the database does not take writes\n"));
    sale.sells_nothing(false).await;
    sale.shows_what_is_free().await;
    if !world.database.is_shared() {
        let (hits, again) = (world.upstream.hits(), sale.pay("GET", "/api/joke", &key, Some("kept")).await);
        assert_eq!((again.status, world.upstream.hits()), (200, hits), "{}", again.text());
    }
    let metrics = world.client.get(&format!("{}/metrics", sale.process.admin_url)).await.text();
    assert!(metrics.contains("prepaid402_database_writable 0\n"), "{metrics}");

    empty(&sale).await;
    sale.until_ready(200).await;
    let balance = LEFT - 100 * served;
    let answer = sale.spend().await;
    assert_eq!(
        (answer.status, answer.receipt().credits_remaining.unwrap()),
        (200, balance - 100),
        "{}",
        answer.text()
    );
    let card = world.tokenise(GOOD).await;
    let bought = sale.buy(&card, "in-vain").await;
    assert_eq!(bought.status, 201, "{}", bought.text());
    let left = "SELECT COUNT(*) FROM idempotency_keys WHERE node = 'write-test'";
    assert_eq!(number(&world.database, left).await, 0);
    sale.process.terminate().await;
    assert!(sale.process.wait().await.success());
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_a_full_disk_writes_few_lines_and_makes_the_api_work_no_more() {
    let world = World::new().await;
    if !world.database.is_shared() && !is_installed("prlimit").await {
        return;
    }
    let sale = Sale::open(&world).await;
    fill(&sale).await;
    while sale.spend().await.status == 200 {}
    let (begun, hits) = (Instant::now(), world.upstream.hits());
    let mut told = BTreeMap::new();
    for _ in 0..20 {
        let asked = (0..50).map(|_| sale.spend());
        for answer in futures_util::future::join_all(asked).await {
            *told.entry((answer.status, answer.code())).or_insert(0) += 1;
        }
    }
    assert_eq!(told, BTreeMap::from([((503, "busy".to_owned()), 1_000)]));
    assert_eq!(world.upstream.hits(), hits, "the API is not asked");
    let lines =
        sale.process.log().lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).count();
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(lines < 20 + 10 * seconds, "{lines} lines in {seconds} s:\n{}", sale.process.log());
    empty(&sale).await;
    sale.until_ready(200).await;
    assert_eq!(sale.spend().await.status, 200);
    drop(sale);
}

/// Callers whose requests run when it happens are told that nothing stays charged, and it is so.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_when_the_disk_gets_full_is_not_charged() {
    let world = World::new().await;
    if !world.database.is_shared() && !is_installed("prlimit").await {
        return;
    }
    let sale = Sale::open(&world).await;
    fill(&sale).await;
    let mut served = 0i64;
    for _ in 0..10 {
        let asked = (0..40).map(|_| sale.spend());
        for answer in futures_util::future::join_all(asked).await {
            match (answer.status, answer.code().as_str()) {
                (200, _) => served += 1,
                (503, "busy" | "capture_unknown") => {}
                other => panic!("{other:?}: {}", answer.text()),
            }
        }
    }
    assert_eq!(sale.readyz().await.status, 503, "400 requests of 0.01 fill the disk");
    empty(&sale).await;
    sale.until_ready(200).await;
    let answer = sale.spend().await;
    assert_eq!(
        (answer.status, answer.receipt().credits_remaining.unwrap()),
        (200, LEFT - 100 * (served + 1))
    );
    drop(sale);
    world.lapse_leases().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_says_when_it_takes_no_writes_stops_the_sale() {
    if is_on_sqlite("") {
        return;
    }
    for code in ["53100", "53200", "58030", "42501"] {
        let world = World::new().await;
        let sale = Sale::open(&world).await;
        let function = format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$"
        );
        change(&world.database, Box::leak(function.into_boxed_str()), &[]).await;
        let trigger =
            "CREATE TRIGGER refuses BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse()";
        change(&world.database, trigger, &[]).await;
        let first = sale.spend().await;
        assert_eq!(first.status, 503, "{code}: {}", first.text());
        assert_eq!(sale.readyz().await.status, 503, "{code}");
        // A server may have memory again in a moment.
        sale.sells_nothing(code == "53200").await;
        change(&world.database, "DROP TRIGGER refuses ON entries", &[]).await;
        sale.until_ready(200).await;
        assert_eq!(sale.spend().await.status, 200, "{code}");
    }
}

/// A read-only file system, or a directory that is gone, as far as a user without rights can make one.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_any_room_is_found_by_looking() {
    if !is_on_sqlite("the limit is on files") || !is_installed("prlimit").await {
        return;
    }
    let world = World::new().await;
    let sale = Sale::open(&world).await;
    // Nobody pays meanwhile: whoever looks after the gateway is the first to meet it.
    limit_files(&sale, Some(1)).await;
    let full = sale.readyz().await;
    assert_eq!((full.status, full.text().as_str()), (503, "the database does not take writes\n"));
    sale.sells_nothing(false).await;
    limit_files(&sale, None).await;
    sale.until_ready(200).await;
    assert_eq!(sale.spend().await.receipt().credits_remaining.unwrap(), LEFT - 100);
}

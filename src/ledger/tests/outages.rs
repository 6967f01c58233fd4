//! When PostgreSQL goes away, or somebody is in the way: whoever was told "charged" is charged once, whoever was told
//! "unknown" is not charged in the end.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::writer::PATIENCE;
use super::*;
use crate::config::{DatabaseConfig, Secret};
use crate::db::testing::{TestDatabase, is_about_postgres, until};
use crate::db::{Connection, query, query_scalar};

/// A wire to the server that can be cut so that the next answer is lost: what was asked has been done all the same.
struct Wire {
    /// Cuts so far.
    cuts: Arc<AtomicU32>,
    /// Nothing comes back any more, and nobody is told.
    silent: Arc<AtomicBool>,
}

impl Wire {
    /// The same database behind a wire.
    async fn to(database: &TestDatabase) -> (Self, TestDatabase) {
        let DatabaseConfig::Postgres(url) = &database.config else { panic!("a file has no wire") };
        let (before, rest) = url.expose().split_once('@').unwrap();
        let (server, name) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Self { cuts: Arc::default(), silent: Arc::default() };
        let (server, cuts, silent) = (server.to_owned(), Arc::clone(&wire.cuts), Arc::clone(&wire.silent));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&server).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                // Connections that are made from now on are not silent.
                let mute = Arc::clone(&silent);
                mute.store(false, Ordering::SeqCst);
                tokio::spawn(carry(near, far, Arc::clone(&cuts), mute));
            }
        });
        let mut behind = database.share();
        behind.config = DatabaseConfig::Postgres(Secret::new(format!("{before}@127.0.0.1:{port}/{name}")));
        (wire, behind)
    }

    fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

async fn carry(near: TcpStream, far: TcpStream, cuts: Arc<AtomicU32>, silent: Arc<AtomicBool>) {
    let whole = cuts.load(Ordering::SeqCst);
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let asking = async {
        let _ = tokio::io::copy(&mut near_in, &mut far_out).await;
        let _ = far_out.shutdown().await;
    };
    let answering = async {
        let mut piece = vec![0; 65_536];
        while let Ok(read @ 1..) = far_in.read(&mut piece).await {
            if cuts.load(Ordering::SeqCst) != whole {
                break;
            }
            if silent.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if near_out.write_all(&piece[..read]).await.is_err() {
                break;
            }
        }
        let _ = near_out.shutdown().await;
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
}

/// How the connections of a node are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    /// The server ends them, wherever they are.
    Terminated,
    /// The next answer does not arrive.
    AnswerLost,
}

/// What a caller has heard.
#[derive(Debug)]
enum Heard {
    Charged,
    Unknown,
    /// It was never charged, and what it held was released for certain.
    Released,
}

/// One request after the other until it is told to stop. `found_again` counts commands of which a first try had been
/// committed without anybody hearing of it.
async fn call(
    books: Arc<Books>,
    client: ClientId,
    held: bool,
    stop: Arc<AtomicBool>,
    found_again: Arc<AtomicU32>,
) -> Vec<(RequestId, i64, Heard)> {
    let mut all = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let request = RequestId::new();
        let price = 1 + i64::try_from(all.len() % 7).unwrap();
        let mut reservation = books.ledger.reserve(client, m(price)).await.unwrap();
        if held {
            match books.ledger.hold(request, reservation, None).await {
                Ok((_, running)) => reservation = running,
                Err(LedgerError::Unavailable(_)) => {
                    release(&books, request, client).await;
                    all.push((request, price, Heard::Released));
                    continue;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let charge = Capture { held, ..capture(client, request, price) };
        let heard = match books.ledger.capture(charge, reservation).await {
            Ok(posted) => {
                books.ledger.delivered(posted.entry);
                found_again.fetch_add(u32::from(posted.repeated), Ordering::SeqCst);
                Heard::Charged
            }
            Err(LedgerError::Unavailable(_)) => Heard::Unknown,
            Err(other) => panic!("{other}"),
        };
        if held && matches!(heard, Heard::Unknown) {
            release(&books, request, client).await;
        }
        all.push((request, price, heard));
    }
    all
}

/// Until it is certain.
async fn release(books: &Books, request: RequestId, client: ClientId) {
    loop {
        match books.ledger.release(request, client).await {
            Ok(_) | Err(LedgerError::Refused(Refusal::NoHold)) => return,
            Err(LedgerError::Unavailable(_)) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
}

async fn count(connection: &mut Connection, of: &'static str) -> i64 {
    query_scalar(of).fetch_one(connection).await.unwrap()
}

const COMMITTED: &str = "SELECT COUNT(*) FROM entries WHERE source NOT LIKE '%/%'";
const GIVEN_BACK: &str =
    "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%' AND source NOT LIKE '%/%'";

/// Loses the connections under load until enough commits took place whose answer was lost.
async fn lose(loss: Loss, patience: Duration) {
    let database = TestDatabase::new().await;
    let (wire, behind) = Wire::to(&database).await;
    let books = Arc::new(Books::open_patient(behind, patience).await);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = books.client(100_000_000, 0).await;
        assert_eq!(books.balances(client).await, (100_000_000, 0, 0));
        clients.push(client);
    }
    let (stop, found_again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let calls: Vec<_> = (0..12)
        .map(|n| {
            let (books, stop, found_again) =
                (Arc::clone(&books), Arc::clone(&stop), Arc::clone(&found_again));
            tokio::spawn(call(books, clients[n % 4], n % 3 == 0, stop, found_again))
        })
        .collect();

    let mut watching = database.connect().await;
    let own: i32 = query_scalar("SELECT pg_backend_pid()").fetch_one(&mut watching).await.unwrap();
    let mut random = 1u64;
    for losses in 1.. {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Some work is done between two losses, and then some more of no particular length.
        let before = count(&mut watching, COMMITTED).await;
        let enough = before + i64::try_from((random >> 33) % 20).unwrap();
        until(async || count(&mut watching, COMMITTED).await >= enough).await;
        for _ in 0..(random >> 40) % 200 {
            tokio::task::yield_now().await;
        }
        match loss {
            Loss::AnswerLost => wire.cut(),
            Loss::Terminated => {
                query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND application_name = 'prepaid402' AND pid <> $1",
                )
                .bind(own)
                .execute(&mut watching)
                .await
                .unwrap();
            }
        }
        // When answers are lost, commits must have taken place without anybody hearing of them: a patient writer finds them
        // again, one without patience has given them back.
        let enough = match (loss, patience.is_zero()) {
            (Loss::AnswerLost, true) => count(&mut watching, GIVEN_BACK).await >= 3,
            (Loss::AnswerLost, false) => found_again.load(Ordering::SeqCst) >= 3,
            (Loss::Terminated, _) => true,
        };
        if losses >= 40 && enough {
            break;
        }
        assert!(losses < 400, "no commit was ever unknown");
    }
    stop.store(true, Ordering::SeqCst);
    let mut heard = Vec::new();
    for (n, done) in join_all(calls).await.into_iter().enumerate() {
        heard.extend(done.unwrap().into_iter().map(|told| (clients[n % 4], told)));
    }
    // The last doubts are settled before the next command.
    for client in &clients {
        until(async || books.charge(*client, 1).await.is_ok()).await;
    }

    let retries = books.ledger.counts().retries.load(Ordering::Relaxed);
    assert!(patience.is_zero() || retries > 10, "{retries}");
    let unknown = heard.iter().filter(|(_, told)| matches!(told.2, Heard::Unknown)).count();
    assert_eq!(unknown > 0, patience.is_zero(), "{unknown}");
    let mut expected: std::collections::HashMap<ClientId, i64> =
        clients.iter().map(|id| (*id, 99_999_999)).collect();
    for (client, (request, price, heard)) in heard {
        let row = query(
            "SELECT (SELECT COUNT(*) FROM entries WHERE source = $1), (SELECT COUNT(*) FROM entries WHERE source = $2), \
             (SELECT COALESCE(CAST(SUM(amount) AS BIGINT), 0) FROM entries WHERE source = $1)",
        )
        .bind(format!("usage:{request}"))
        .bind(format!("reversal:{request}"))
        .fetch_one(&mut watching)
        .await
        .unwrap();
        let (charged, given_back): (i64, i64) = (row.try_get(0).unwrap(), row.try_get(1).unwrap());
        match heard {
            Heard::Charged => {
                assert_eq!((charged, given_back, row.try_get(2).unwrap()), (1, 0, price));
                *expected.get_mut(&client).unwrap() -= price;
            }
            Heard::Unknown => assert_eq!(charged, given_back),
            Heard::Released => assert_eq!(charged, 0),
        }
    }
    for (client, left) in expected {
        // The memory has heard of all of it, too.
        assert_eq!(books.balances(client).await, (left, 0, 0));
    }
    assert_eq!(count(&mut watching, "SELECT COUNT(*) FROM holds").await, 0);
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    books.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_moment_at_which_the_server_ends_a_connection_nobody_is_charged_wrongly() {
    if is_about_postgres() {
        return;
    }
    lose(Loss::Terminated, PATIENCE).await;
    lose(Loss::Terminated, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_is_found_again_or_given_back() {
    if is_about_postgres() {
        return;
    }
    lose(Loss::AnswerLost, PATIENCE).await;
    lose(Loss::AnswerLost, Duration::ZERO).await;
}

/// A commit took place and nobody heard of it; what the database notes of it stays until the doubt is settled, so that it is
/// given back also when this node dies in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubtful_capture_stays_noted_until_it_is_settled() {
    if is_about_postgres() {
        return;
    }
    let database = TestDatabase::new().await;
    let (wire, behind) = Wire::to(&database).await;
    let books = Arc::new(Books::open_patient(behind, Duration::ZERO).await);
    let client = books.client(100, 0).await;
    // Delivered since the last commit, so that the row of undelivered captures is due to be rewritten.
    books.serve(client, 1).await;
    // The COMMIT of a price of 30 waits for a table that another session has.
    books
        .run(
            "CREATE TABLE gate (n BIGINT); \
             CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN LOCK TABLE gate IN SHARE MODE; RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW WHEN (NEW.amount = 30 AND NEW.credit = 8) EXECUTE FUNCTION wait_at_the_gate()",
        )
        .await;
    let mut gate = database.connect().await;
    gate.begin().await.unwrap();
    gate.run("LOCK TABLE gate IN EXCLUSIVE MODE".to_owned()).await.unwrap();
    let charging = Arc::clone(&books);
    let charged = tokio::spawn(async move { charging.charge(client, 30).await });
    database.until_waiting(1).await;
    wire.cut();
    gate.commit().await.unwrap();
    assert!(matches!(charged.await.unwrap(), Err(LedgerError::Unavailable(_))));
    let mut lock = row_lock(&books, client).await;
    assert_eq!(books.entries().await, 3, "it took place");
    // The writer cannot settle it yet, and gets no further.
    database.until_waiting(1).await;
    assert_eq!(books.undelivered().await.len(), 2);
    let books = Arc::try_unwrap(books).ok().unwrap();
    books.kill().await;
    lock.rollback().await.unwrap();
    let books = Books::open_in(database, "next").await;
    // The delivered one, too: the last commit of a killed node may not have heard of it.
    assert_eq!((books.reversed_at_start(), books.balances(client).await), (2, (100, 0, 0)));
    books.assert_clean().await;
}

/// Another session that has a client's row.
pub(super) async fn row_lock(books: &Books, client: ClientId) -> Connection {
    let mut other = books.database.connect().await;
    other.begin().await.unwrap();
    other.run(format!("SELECT 1 FROM clients WHERE id = {client} FOR UPDATE")).await.unwrap();
    other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_waits_for_whoever_has_a_clients_row() {
    if is_about_postgres() {
        return;
    }
    let books = Arc::new(Books::open().await);
    let client = books.client(100, 0).await;
    let mut lock = row_lock(&books, client).await;
    let waiting = Arc::clone(&books);
    let served = tokio::spawn(async move { waiting.serve(client, 30).await });
    books.database.until_waiting(1).await;
    // The server ends the wait, as after statement_timeout: it is tried again.
    lock.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'".to_owned()).await.unwrap();
    until(async || books.ledger.counts().retries.load(Ordering::Relaxed) > 0).await;
    books.database.until_waiting(1).await;
    lock.run(format!("UPDATE clients SET stripe_customer = 'cus_2' WHERE id = {client}")).await.unwrap();
    lock.commit().await.unwrap();
    served.await.unwrap();
    assert_eq!((books.balances(client).await, books.replays()), ((70, 0, 0), 0));
    books.assert_clean().await;
}

/// Five seconds pass in this test: the server's own limit for locks.
#[tokio::test]
async fn a_row_that_is_never_let_go_is_an_unknown_outcome_that_charges_nobody() {
    if is_about_postgres() {
        return;
    }
    let impatient = async {
        let books = Books::open_patient(TestDatabase::new().await, Duration::ZERO).await;
        let (client, top_up) = (books.client(100, 0).await, books.charged(None, "usd", 50, 0).await);
        assert_eq!(books.balances(client).await, (100, 0, 0));
        let lock = row_lock(&books, client).await;
        let (captured, recorded) =
            tokio::join!(books.charge(client, 30), books.ledger.record_top_up(charge_of(top_up), None));
        assert!(matches!(captured, Err(LedgerError::Unavailable(_))));
        assert!(matches!(recorded, Err(LedgerError::Unavailable(_))), "it was in the same batch");
        assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
        lock.close().await.unwrap();
        assert_eq!(books.entries().await, 1);
        books.serve(client, 1).await;
        assert_eq!(books.balances(client).await, (99, 0, 0));
        assert!(!books.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.repeated);
        books.assert_clean().await;
    };
    let patient = async {
        let books = Arc::new(Books::open().await);
        let client = books.client(100, 0).await;
        let lock = row_lock(&books, client).await;
        let waiting = Arc::clone(&books);
        let served = tokio::spawn(async move { waiting.serve(client, 30).await });
        until(async || books.ledger.counts().retries.load(Ordering::Relaxed) > 0).await;
        lock.close().await.unwrap();
        served.await.unwrap();
        assert_eq!((books.balances(client).await, books.replays()), ((70, 0, 0), 0));
        books.assert_clean().await;
    };
    tokio::join!(impatient, patient);
}

/// Five seconds pass in this test, too: so long is a server waited for that says nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_is_given_up_with_its_connection() {
    if is_about_postgres() {
        return;
    }
    let database = TestDatabase::new().await;
    let (wire, behind) = Wire::to(&database).await;
    let books = Books::open_patient(behind, Duration::ZERO).await;
    let client = books.client(100, 0).await;
    assert_eq!(books.balances(client).await, (100, 0, 0));
    let reservation = books.ledger.reserve(client, m(30)).await.unwrap();
    wire.silent.store(true, Ordering::SeqCst);
    let request = RequestId::new();
    let lost = books.ledger.capture(capture(client, request, 30), reservation).await;
    assert!(matches!(lost, Err(LedgerError::Unavailable(_))));
    // The next command has a new connection, and finds out what has become of the first.
    until(async || books.charge(client, 1).await.is_ok()).await;
    let usage =
        format!("SELECT COUNT(*) FROM entries WHERE source IN ('usage:{request}', 'reversal:{request}')");
    let mut watching = database.connect().await;
    let Connection::Postgres(server) = &mut watching else { unreachable!() };
    let recorded: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(usage)).fetch_one(server.as_mut()).await.unwrap();
    assert_eq!(recorded % 2, 0);
    assert_eq!(books.balances(client).await, (99, 0, 0));
    books.assert_clean().await;
}

//! The real binary under load, killed with `kill -9` again and again: no cent is lost, made or charged twice, and
//! nothing is served unpaid. Simulated Stripe, the upstream and the callers' own notes survive every kill.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::callers::{Crowd, DEAR, Notes, OPEN, check_books, check_cards, settled};
use crate::support::dice::Dice;
use crate::support::effort::{Cases, rounds};
use crate::support::http::{Broken, Client};
use crate::support::process::Seat;
use crate::support::{GOOD_CARDS, Pay, ROUTES, World, is_on_sqlite, number, verify};

/// What kills must meet.
const WHILE_STARTING: &str = "killed while it started";
const WHILE_SERVING: &str = "killed after somebody was served";
const UNDELIVERED: &str = "killed before an answer was delivered";
const OPEN_CHARGE: &str = "killed while a charge was open";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_dash_nine_under_load_loses_nothing_and_charges_nothing_twice() {
    let mut dice = Dice::printed("crash");
    let world = Arc::new(World::with("", &format!("{ROUTES}{DEAR}")).await);
    let seat = Seat::new(&world, &mut dice);
    let notes = Arc::new(Mutex::new(Notes::default()));
    seat.start().await.kill().await;
    world.lapse_leases().await;
    let (begun, mut rounds) = (Instant::now(), rounds(12));
    let mut cases = Cases::new(&[WHILE_STARTING, WHILE_SERVING, UNDELIVERED, OPEN_CHARGE]);
    while let Some(cycle) = rounds.next_until_all(&cases) {
        let is_early = dice.one_in(8);
        cases.sometimes(WHILE_STARTING, is_early);
        if is_early {
            // Killed while it starts: whatever recovery it had begun must be begun again.
            let process = seat.spawn();
            tokio::time::sleep(dice.micros(80_000)).await;
            process.kill().await;
            world.lapse_leases().await;
        }
        let before = notes.lock().unwrap().served.len();
        one_life(&world, &seat, &notes, cycle, &mut dice).await;
        cases.sometimes(WHILE_SERVING, notes.lock().unwrap().served.len() > before);
        cases.sometimes(UNDELIVERED, number(&world.database, HAVE_UNDELIVERED).await > 0);
        cases.sometimes(OPEN_CHARGE, number(&world.database, OPEN).await > 0);
        // Damage stays, so that it is enough to look now and then.
        if cycle % 6 == 0 {
            let report = verify(&world.database).await;
            assert!(report.is_clean(), "cycle {cycle}: {:#?}", report.findings);
        }
    }
    println!("{cases:?}");
    let cycles = rounds.begun();
    let took = begun.elapsed();
    let process = seat.start().await;
    settled(&world, 1, || process.log()).await;
    println!("{cycles} kills in {took:?} ({:?} each)", took / u32::try_from(cycles).unwrap());
    let notes = Arc::into_inner(notes).unwrap().into_inner().unwrap();
    println!("answers: {:?}; broken: {}", notes.statuses, notes.broken);
    check_books(&world, &notes, cycles).await;
    check_cards(&world, &process.url, &notes).await;
    process.kill().await;
    world.assert_books_agree().await;
}

/// Starts the gateway, lets everybody ask, kills it at a random moment, and waits until everybody has noticed.
async fn one_life(world: &Arc<World>, seat: &Seat, notes: &Arc<Mutex<Notes>>, cycle: usize, dice: &mut Dice) {
    let process = seat.start().await;
    let crowd = Crowd::gather(world, notes, &process.url, cycle, dice);
    if dice.one_in(3) {
        // However slow the machine is, some lives get somewhere.
        let before = notes.lock().unwrap().served.len();
        until("somebody is served", || notes.lock().unwrap().served.len() > before).await;
    }
    // Not a wait for anything: the random moment of the kill.
    tokio::time::sleep(Duration::from_millis(5) + dice.micros(220_000)).await;
    process.kill().await;
    world.lapse_leases().await;
    crowd.dispersed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_data_refuses_to_start_and_says_why() {
    if !is_on_sqlite("a server may be shared, a file belongs to one process") {
        return;
    }
    let mut dice = Dice::printed("second process");
    let world = World::new().await;
    let first = Seat::new(&world, &mut dice).start().await;
    let second = Seat::new(&world, &mut dice);
    let refused = second.spawn();
    let log = second.log.clone();
    let status = refused.wait().await;
    assert_eq!(status.code(), Some(1));
    let said = std::fs::read_to_string(log).unwrap();
    let data = world.folder.path().join("data");
    assert!(said.contains("another prepaid402 process is using"), "{said}");
    assert!(said.contains(&data.display().to_string()), "it names the directory: {said}");
    // The lock goes with the process that held it, however that ends.
    first.kill().await;
    second.start().await.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polite_stop_lets_running_requests_finish_and_leaves_nothing_undelivered() {
    const WAITING: usize = 6;
    let mut dice = Dice::printed("polite stop");
    let world = Arc::new(World::with("", &format!("{ROUTES}{DEAR}")).await);
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let card = world.tokenise(GOOD_CARDS[0]).await;
    let header = Pay::card(&card).header();
    let weather = format!("{}/api/weather", process.url);
    let first = world.client.send("GET", &weather, &[("payment", &header)], None).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let notes = Arc::new(Mutex::new(Notes::default()));
    notes.lock().unwrap().clients.push(first.receipt().client_id);

    // Requests that are in the middle of their answer when the signal comes …
    let header = Pay::client(&first.receipt().client_id).header();
    let before = world.upstream.hits();
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let (url, header) = (format!("{}/up/stream/2", process.url), header.clone());
            tokio::spawn(async move { Client::new().send("GET", &url, &[("payment", &header)], None).await })
        })
        .collect();
    until("the slow requests are at the upstream", || world.upstream.hits() == before + WAITING).await;
    // … and load that goes on until nobody answers any more.
    let crowd = Crowd::gather(&world, &notes, &process.url, 0, &mut dice);
    until("there is load", || notes.lock().unwrap().served.len() > 20).await;
    process.terminate().await;
    crowd.dispersed().await;
    world.upstream.release(2 * WAITING);
    for answer in waiting {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "data: 0\n\ndata: 1\n\n"));
    }
    let log = process.log();
    assert!(process.wait().await.success(), "{log}");

    let notes = Arc::into_inner(notes).unwrap().into_inner().unwrap();
    println!("answers: {:?}; connections refused or closed: {}", notes.statuses, notes.broken);
    let complete = (notes.served.len() + 1 + WAITING) as i64;
    assert_eq!(number(&world.database, USAGE).await, complete, "every capture was answered");
    assert_eq!(number(&world.database, HAVE_UNDELIVERED).await, 0);
    assert_eq!(number(&world.database, OPEN).await, 0, "money work is finished, not left to the next start");
    world.assert_books_agree().await;
    seat.start().await.kill().await;
    let reversals = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";
    assert_eq!(number(&world.database, reversals).await, 0);
}

const HAVE_UNDELIVERED: &str = "SELECT COUNT(*) FROM undelivered WHERE entries <> '[]'";
const USAGE: &str = "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%' AND source NOT LIKE '%/%'";

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The connection to the upstream may have been opened for a request of another worker, which has nothing left to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polite_stop_does_not_cut_an_answer_whose_worker_is_not_the_first_to_finish() {
    let mut dice = Dice::printed("workers");
    let world = World::with("", &format!("{ROUTES}\n[[routes]]\npath = \"/free/*\"\nfree = true\n")).await;
    let seat = Seat::new(&world, &mut dice);
    for (others, slow) in [(1, "/up/stream/2"), (2, "/up/stream/2"), (1, "/free/stream/2")] {
        let process = seat.start().await;
        let card = world.tokenise(GOOD_CARDS[others]).await;
        let header = Pay::card(&card).header();
        let headers = [("payment", header.as_str())];
        for _ in 0..others {
            // A connection of its own, which the next worker in turn takes.
            let answer =
                Client::new().send("GET", &format!("{}/api/weather", process.url), &headers, None).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let hits = world.upstream.hits();
        let (url, header) = (format!("{}{slow}", process.url), header.clone());
        let mut answer =
            tokio::spawn(
                async move { Client::new().try_send("GET", &url, &[("payment", &header)], None).await },
            );
        until("the slow request is at the upstream", || world.upstream.hits() == hits + 1).await;
        process.terminate().await;
        // Idle workers end within a second; the answer must go on all the same. (The idle timeout is two seconds.)
        let early = tokio::time::timeout(Duration::from_millis(1600), &mut answer).await;
        assert!(early.is_err(), "{slow} after {others} others was cut by the stop: {early:?}");
        world.upstream.release(2);
        let answer = answer.await.unwrap().unwrap_or_else(|Broken| panic!("{slow} after {others}: cut"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "data: 0\n\ndata: 1\n\n"));
        let log = process.log();
        assert!(process.wait().await.success(), "{log}");
    }
    world.assert_books_agree().await;
}

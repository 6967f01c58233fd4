//! Which nodes are dead, and what becomes of what they leave.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

use std::sync::atomic::Ordering;

use super::super::tests::books::{Books, capture, m};
use super::super::{ClientId, EntryId};
use super::*;
use crate::db::testing::is_about_postgres;
use crate::domain::RequestId;

impl Books {
    /// As if this node had been here for longer than a lease lasts.
    fn grow_old(&self) {
        let since = Instant::now().checked_sub(LEASE).unwrap();
        *self.ledger.node.since.lock().unwrap() = Some(since);
    }

    /// A capture that is not delivered, and a hold that is not ended.
    async fn leave_something(&self, client: ClientId) -> EntryId {
        let (_, posted) = self.charge(client, 30).await.unwrap();
        let reservation = self.ledger.reserve(client, m(20)).await.unwrap();
        self.ledger.hold(RequestId::new(), reservation, None).await.unwrap();
        posted.entry
    }

    async fn set_lease(&self, node: &str, until: &str) {
        self.run(format!("UPDATE nodes SET lease_until = {until} WHERE id = '{node}'")).await;
    }

    async fn nodes(&self) -> i64 {
        self.ask("SELECT COUNT(*) FROM nodes").await
    }

    fn given_back(&self) -> u64 {
        self.ledger.counts().reversed_for_others.load(Ordering::Relaxed)
    }

    /// What another node has left unfinished: captures and holds.
    async fn left_by(&self, node: &str) -> (Vec<EntryId>, i64) {
        let row = format!("SELECT COALESCE(MAX(entries), '[]') FROM undelivered WHERE node = '{node}'");
        let entries = crate::ledger::undelivered_entries(&self.ask::<String>(row).await).unwrap();
        (entries, self.ask(format!("SELECT COUNT(*) FROM holds WHERE node = '{node}'")).await)
    }
}

#[tokio::test]
async fn a_node_has_a_row_while_it_runs_and_its_lease_is_renewed() {
    let books = Books::open().await;
    let node = books.ledger.node().to_owned();
    let lease = format!("SELECT lease_until FROM nodes WHERE id = '{node}'");
    let first: i64 = books.ask(lease.clone()).await;
    assert_eq!(books.ledger.keep_alive().await.unwrap(), 0);
    let second: i64 = books.ask(lease).await;
    assert!((second > first || !books.is_postgres()) && books.nodes().await == 1);
    // By the database's clock, which is this machine's here.
    let left = second - crate::db::now_micros();
    let (least, most) =
        if books.is_postgres() { (10, 16) } else { (FOREVER / 2_000_000, FOREVER / 1_000_000) };
    assert!((least * 1_000_000..=most * 1_000_000 * 2).contains(&left), "{left}");
}

#[tokio::test]
async fn a_node_whose_lease_runs_is_never_swept() {
    if is_about_postgres() {
        return;
    }
    let living = Books::open().await;
    let client = living.client(100, 0).await;
    let entry = living.leave_something(client).await;
    let other = living.another_node().await;
    other.grow_old();
    for _ in 0..3 {
        assert_eq!(other.ledger.keep_alive().await.unwrap(), 0);
    }
    assert_eq!(other.left_by(living.ledger.node()).await, (vec![entry], 1));
    assert_eq!(living.balances(client).await, (50, 0, 0));
    assert_eq!((other.given_back(), other.nodes().await), (0, 2));
}

#[tokio::test]
async fn a_node_that_said_goodbye_is_swept_by_the_next_that_looks() {
    if is_about_postgres() {
        return;
    }
    let leaving = Books::open().await;
    let client = leaving.client(100, 0).await;
    leaving.leave_something(client).await;
    // It need not have been here for long: a goodbye is no guess.
    let other = leaving.another_node().await;
    let node = leaving.ledger.node().to_owned();
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 0);
    leaving.close().await;
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 1);
    assert_eq!((other.left_by(&node).await, other.nodes().await), ((vec![], 0), 1));
    assert_eq!((other.given_back(), other.balances(client).await), (1, (100, 0, 0)));
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 0);
    other.assert_clean().await;
}

#[tokio::test]
async fn a_killed_node_is_swept_when_its_lease_has_run_out_and_all_had_time_to_come_back() {
    if is_about_postgres() {
        return;
    }
    let killed = Books::open().await;
    let client = killed.client(100, 0).await;
    let entry = killed.leave_something(client).await;
    let node = killed.ledger.node().to_owned();
    let other = killed.another_node().await;
    killed.kill_silently().await;
    other.grow_old();
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 0, "its lease still runs");
    // By the database's clock, a moment ago.
    other.set_lease(&node, "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 1").await;
    let young = other.another_node().await;
    assert_eq!(young.ledger.keep_alive().await.unwrap(), 0, "the others had no time to come back yet");
    assert_eq!(young.left_by(&node).await, (vec![entry], 1));
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 1);
    assert_eq!((other.left_by(&node).await, other.given_back()), ((vec![], 0), 1));
    assert_eq!(other.balances(client).await, (100, 0, 0));
    other.assert_clean().await;
}

/// After an outage of the database every lease has run out, also that of whoever looks first.
#[tokio::test]
async fn a_node_whose_own_lease_had_run_out_calls_nobody_dead() {
    if is_about_postgres() {
        return;
    }
    let (first, entry) = {
        let books = Books::open().await;
        let client = books.client(100, 0).await;
        let entry = books.leave_something(client).await;
        (books, entry)
    };
    let second = first.another_node().await;
    second.grow_old();
    second.run("UPDATE nodes SET lease_until = 1").await;
    assert_eq!(second.ledger.keep_alive().await.unwrap(), 0);
    assert_eq!(second.left_by(first.ledger.node()).await, (vec![entry], 1));
    assert_eq!(first.ledger.keep_alive().await.unwrap(), 0);
    // Both are back, and from now on the lease counts again.
    second.grow_old();
    assert_eq!(second.ledger.keep_alive().await.unwrap(), 0);
    first.set_lease(first.ledger.node(), "1").await;
    assert_eq!(second.ledger.keep_alive().await.unwrap(), 1);
}

/// A node that never wrote its own row, or whose row somebody has removed.
#[tokio::test]
async fn what_belongs_to_nobody_is_finished_too() {
    if is_about_postgres() {
        return;
    }
    let killed = Books::open().await;
    let client = killed.client(100, 0).await;
    killed.leave_something(client).await;
    let node = killed.ledger.node().to_owned();
    let other = killed.another_node().await;
    killed.kill_silently().await;
    other.run(format!("DELETE FROM nodes WHERE id = '{node}'")).await;
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 0);
    other.grow_old();
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 1);
    assert_eq!((other.left_by(&node).await, other.nodes().await), ((vec![], 0), 1));
    assert_eq!(other.balances(client).await, (100, 0, 0));
    other.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_sweep_at_once_give_back_once() {
    if is_about_postgres() {
        return;
    }
    let (first, mut client) = {
        let books = Books::open().await;
        let client = books.client(10_000, 0).await;
        (books, client)
    };
    let second = first.another_node().await;
    for round in 0..10 {
        let dying = first.another_node().await;
        if round % 3 == 0 {
            client = dying.client(10_000, 0).await;
        }
        let before = dying.balances(client).await;
        for _ in 0..3 {
            dying.leave_something(client).await;
        }
        let node = dying.ledger.node().to_owned();
        dying.close().await;
        let (given_back, entries) = (first.given_back() + second.given_back(), first.entries().await);
        let (one, other) = tokio::join!(first.ledger.keep_alive(), second.ledger.keep_alive());
        // One claims it; the other finds nothing to do, or does it after the first has finished.
        assert!(one.unwrap() + other.unwrap() >= 1, "round {round}");
        assert_eq!(first.given_back() + second.given_back() - given_back, 3, "round {round}");
        assert_eq!(first.entries().await - entries, 6, "three captures and three holds");
        assert_eq!(first.left_by(&node).await, (vec![], 0));
        assert_eq!((first.balances(client).await, second.balances(client).await), (before, before));
    }
    first.assert_clean().await;
}

#[tokio::test]
async fn whoever_sweeps_is_left_alone_and_followed_when_it_dies_as_well() {
    if is_about_postgres() {
        return;
    }
    let leaving = Books::open().await;
    let client = leaving.client(100, 0).await;
    leaving.leave_something(client).await;
    let node = leaving.ledger.node().to_owned();
    let other = leaving.another_node().await;
    leaving.close().await;
    // Somebody else has just begun with it.
    let soon = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 60000000";
    other.run(format!("UPDATE nodes SET sweep_until = {soon} WHERE id = '{node}'")).await;
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 0);
    assert_eq!(other.balances(client).await, (50, 0, 0));
    other.run(format!("UPDATE nodes SET sweep_until = 1 WHERE id = '{node}'")).await;
    assert_eq!(other.ledger.keep_alive().await.unwrap(), 1);
    assert_eq!(other.balances(client).await, (100, 0, 0));
}

/// A node was only asleep, and comes back while another one finishes what it left: what it does from then on is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_keeps_its_rows() {
    if is_about_postgres() {
        return;
    }
    let asleep = Books::open().await;
    let (client, awake_client) = (asleep.client(100, 0).await, asleep.client(100, 0).await);
    let entry = asleep.leave_something(client).await;
    let node = asleep.ledger.node().to_owned();
    let sweeper = asleep.another_node().await;
    sweeper.grow_old();
    asleep.set_lease(&node, "1").await;
    // The sweeper is stopped in the middle: it has to wait for the client's row.
    let mut lock = asleep.database.connect().await;
    lock.begin().await.unwrap();
    lock.run(format!("SELECT 1 FROM clients WHERE id = {client} FOR UPDATE")).await.unwrap();
    let ledger = sweeper.ledger.clone();
    let sweep = tokio::spawn(async move { ledger.keep_alive().await.unwrap() });
    asleep.database.until_waiting(1).await;
    asleep.ledger.keep_alive().await.unwrap();
    let (_, later) = asleep.charge(awake_client, 30).await.unwrap();
    lock.rollback().await.unwrap();
    sweep.await.unwrap();

    assert_eq!(
        sweeper.balances(client).await,
        (100, 0, 0),
        "what it left was given back: it errs for the client"
    );
    let alive = format!("SELECT lease_until > 1 FROM nodes WHERE id = '{node}'");
    assert!(sweeper.ask::<bool>(alive).await);
    let (mut left, holds) = sweeper.left_by(&node).await;
    left.sort_unstable();
    assert_eq!((left, holds), (vec![entry, later.entry], 0));
    sweeper.assert_clean().await;
    // Its newest capture is given back when it really dies, and the first sweep's claim has run out.
    asleep.kill().await;
    sweeper.run("UPDATE nodes SET sweep_until = 0").await;
    assert_eq!(sweeper.ledger.keep_alive().await.unwrap(), 1);
    assert_eq!(sweeper.balances(awake_client).await, (100, 0, 0));
    assert_eq!(sweeper.balances(client).await, (100, 0, 0));
    sweeper.assert_clean().await;
    lock.close().await.unwrap();
}

/// A capture that was swept away under a node that was asleep is not delivered for nothing: it has been given back already.
#[tokio::test]
async fn a_node_that_was_asleep_cannot_settle_a_hold_that_was_released() {
    if is_about_postgres() {
        return;
    }
    let asleep = Books::open().await;
    let client = asleep.client(100, 0).await;
    let request = RequestId::new();
    let reservation = asleep.ledger.reserve(client, m(60)).await.unwrap();
    let (_, running) = asleep.ledger.hold(request, reservation, None).await.unwrap();
    let sweeper = asleep.another_node().await;
    sweeper.grow_old();
    asleep.set_lease(asleep.ledger.node(), "1").await;
    assert_eq!(sweeper.ledger.keep_alive().await.unwrap(), 1);
    let settled = super::super::Capture { held: true, ..capture(client, request, 60) };
    let refused = asleep.ledger.capture(settled, running).await.unwrap_err();
    assert_eq!(refused, super::super::LedgerError::Refused(super::super::Refusal::NoHold));
    let less = super::super::Settle {
        client,
        hold: super::super::Source::new(super::super::SourceKind::Hold, request),
        amount: m(20),
        route: 1,
        price_list: 1,
        upstream_status: 200,
        key: None,
    };
    let running = asleep.ledger.reserve(client, m(1)).await.unwrap();
    let refused = asleep.ledger.settle_held(less, running).await.unwrap_err();
    assert_eq!(refused, super::super::LedgerError::Refused(super::super::Refusal::NoHold));
    assert_eq!(asleep.balances(client).await, (100, 0, 0));
    asleep.assert_clean().await;
}

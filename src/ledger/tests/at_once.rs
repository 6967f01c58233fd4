//! Batches that are decided from memory and written in one statement: as strict as under the locks.

use super::*;
use crate::db::Connection;
use crate::db::testing::is_about_postgres;
use crate::ledger::core::{Batch, Command};
use crate::ledger::storage::{self, Writing};

/// Entries whose id is not above that of the client's entry before it.
const FALLING: &str = "SELECT COUNT(*) FROM entries AS e JOIN entries AS before ON before.id = e.previous WHERE e.id <= before.id";

impl Books {
    /// Batches that were committed in one statement.
    fn at_once(&self) -> u64 {
        self.ledger.counts().at_once.load(Ordering::Relaxed)
    }

    /// A capture by a node that holds the fencing token 1, decided from the client's present state.
    async fn decided(&self, client: ClientId, price: i64) -> Decided {
        let state = self.ledger.state(client).await.unwrap().unwrap();
        let ids = 1_000_000 * client;
        let mut batch = Batch::within(ids..ids + 10);
        batch.clients.insert(client, state);
        batch.apply(&Command::Capture(capture(client, RequestId::new(), price)));
        Decided { batch, before: state.sequence }
    }
}

struct Decided {
    batch: Batch,
    before: i64,
}

impl Decided {
    /// Sends it, and tells how many rows were written.
    async fn send(&self, connection: &mut Connection, fence: i64) -> Result<u64, sqlx::Error> {
        let clients: Vec<_> = self.batch.clients.iter().map(|(id, state)| (*id, *state)).collect();
        let noted: Vec<_> = self.batch.entries.iter().map(|entry| entry.id).collect();
        let undelivered = Some(("late", &noted[..]));
        let writing = Writing { at: 1, entries: &self.batch.entries, clients: &clients, undelivered, fence };
        storage::append_at_once(connection, writing, vec![self.before]).await
    }
}

#[tokio::test]
async fn a_wallet_that_nobody_else_touches_is_charged_in_one_statement() {
    if is_about_postgres() {
        return;
    }
    let books = Books::open().await;
    let (client, other) = (books.client(100, 20).await, books.client(50, 0).await);
    for paid in [70, 40, 10] {
        books.serve(client, 30).await;
        assert_eq!(books.balances(client).await, (paid, 20, 0));
    }
    // Paid credit first, then bonus: two entries.
    books.serve(client, 15).await;
    assert_eq!((books.balances(client).await, books.at_once()), ((0, 15, 0), 4));
    let captures = [(client, 5), (other, 10), (client, 10), (other, 20)];
    let captures = captures.map(|(client, price)| capture(client, RequestId::new(), price)).to_vec();
    assert!(failures::captured_together(&books, captures).await.iter().all(Result::is_ok));
    assert_eq!((books.balances(client).await, books.balances(other).await), ((0, 0, 0), (20, 0, 0)));
    assert!(books.at_once() > 4, "{}", books.at_once());
    books.assert_clean().await;
}

/// One client's ids ascend, whichever node makes its entries, and no node believes its memory against the database.
#[tokio::test]
async fn what_another_node_has_changed_is_decided_under_the_locks() {
    if is_about_postgres() {
        return;
    }
    let one = Books::open().await;
    let other = one.another_node().await;
    let client = one.client(1_000, 0).await;
    one.serve(client, 10).await;
    assert_eq!(one.at_once(), 1);
    other.serve(client, 100).await;
    one.serve(client, 10).await;
    assert_eq!(one.at_once(), 1, "its memory was behind");
    // After a miss it does not try at once again; after that it does.
    one.serve(client, 10).await;
    assert_eq!(one.at_once(), 1);
    one.serve(client, 10).await;
    assert_eq!(one.at_once(), 2);
    for _ in 0..20 {
        other.serve(client, 1).await;
        one.serve(client, 1).await;
    }
    assert_eq!(one.ask::<i64>(FALLING).await, 0);
    // All that is left is spent elsewhere.
    other.serve(client, 820).await;
    let refused = one.charge(client, 10).await.unwrap_err();
    assert_eq!(refused, LedgerError::Refused(Refusal::InsufficientCredits));
    assert_eq!(one.balances(client).await, (0, 0, 0));
    one.assert_clean().await;
}

/// A node with a block of its own must not put a smaller id after a larger one.
#[tokio::test]
async fn a_block_that_is_behind_a_clients_newest_entry_is_not_used() {
    if is_about_postgres() {
        return;
    }
    let one = Books::open().await;
    let client = one.client(1_000, 0).await;
    let other = one.another_node().await;
    let elsewhere = other.client(1_000, 0).await;
    other.serve(client, 1).await; // with a block of the other's, which is the newer one
    // The first node reads the newest state under the locks, and goes on from there with a block of its own.
    for _ in 0..4 {
        one.serve(client, 1).await;
    }
    other.serve(elsewhere, 1).await;
    other.serve(client, 1).await;
    assert_eq!(one.ask::<i64>(FALLING).await, 0);
    one.assert_clean().await;
}

/// Freezing makes no entry, so the client's sequence does not tell.
#[tokio::test]
async fn a_wallet_that_was_frozen_elsewhere_pays_for_nothing() {
    if is_about_postgres() {
        return;
    }
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    books.serve(client, 10).await;
    books.run(format!("UPDATE clients SET status = 'frozen' WHERE id = {client}")).await;
    let refused = books.charge(client, 10).await.unwrap_err();
    assert_eq!((refused, books.at_once()), (LedgerError::Refused(Refusal::ClientFrozen), 1));
    books.run(format!("UPDATE clients SET status = 'active' WHERE id = {client}")).await;
    assert_eq!(books.ask::<i64>(format!("SELECT paid FROM clients WHERE id = {client}")).await, 90);
    books.assert_clean().await;
}

/// Sent before its node gave up waiting for it, carried out after the node has looked up what became of it.
#[tokio::test]
async fn a_statement_that_arrives_after_its_outcome_was_looked_up_does_nothing() {
    if is_about_postgres() {
        return;
    }
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let mut connection = books.database.connect().await;
    let decided = books.decided(client, 30).await;
    assert_eq!(decided.send(&mut connection, 1).await.unwrap(), 0, "no token was ever given");
    storage::fence(&mut connection, "late", 1).await.unwrap();
    storage::fence(&mut connection, "late", 2).await.unwrap();
    assert_eq!(decided.send(&mut connection, 1).await.unwrap(), 0);
    assert_eq!((books.entries().await, books.balances(client).await), (1, (100, 0, 0)));
    assert_eq!(books.ask::<String>("SELECT MAX(entries) FROM undelivered WHERE node = 'late'").await, "[]");
    // With the newest token: one entry, one client, one row of undelivered captures; but not a second time.
    assert_eq!(decided.send(&mut connection, 2).await.unwrap(), 3);
    assert_eq!(decided.send(&mut connection, 2).await.unwrap(), 0);
    assert_eq!(books.ask::<i64>(format!("SELECT paid FROM clients WHERE id = {client}")).await, 70);
    connection.close().await.unwrap();
    books.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_raised_while_a_statement_with_the_older_one_is_carried_out() {
    if is_about_postgres() {
        return;
    }
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    let (mut late, mut next) = (books.database.connect().await, books.database.connect().await);
    storage::fence(&mut late, "late", 1).await.unwrap();
    let decided = books.decided(client, 30).await;
    let mut lock = outages::row_lock(&books, client).await;
    let sent = tokio::spawn(async move { (decided.send(&mut late, 1).await, late) });
    books.database.until_waiting(1).await;
    let raised = tokio::spawn(async move { (storage::fence(&mut next, "late", 2).await, next) });
    books.database.until_waiting(2).await;
    lock.rollback().await.unwrap();
    let (written, late) = sent.await.unwrap();
    let (fenced, mut next) = raised.await.unwrap();
    assert_eq!(written.unwrap(), 3);
    fenced.unwrap();
    // So whoever holds the new token finds it in the books.
    let found = crate::db::query_scalar::<i64>("SELECT COUNT(*) FROM entries").fetch_one(&mut next).await;
    assert_eq!(found.unwrap(), 2);
    for connection in [late, next, lock] {
        connection.close().await.unwrap();
    }
    books.assert_clean().await;
}

/// What somebody else did to the row while the statement waited for it counts, as far as it matters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_waits_for_a_client_goes_by_what_it_finds_then() {
    if is_about_postgres() {
        return;
    }
    let books = Books::open().await;
    for (change, rows, paid) in [
        ("stripe_customer = 'cus_new'", 3, 70),
        ("status = 'frozen'", 0, 100),
        ("sequence = sequence + 1", 0, 100),
    ] {
        let client = books.client(100, 0).await;
        let mut late = books.database.connect().await;
        storage::fence(&mut late, "late", 1).await.unwrap();
        let decided = books.decided(client, 30).await;
        let mut lock = outages::row_lock(&books, client).await;
        let sent = tokio::spawn(async move { (decided.send(&mut late, 1).await, late) });
        books.database.until_waiting(1).await;
        lock.run(format!("UPDATE clients SET {change} WHERE id = {client}")).await.unwrap();
        lock.commit().await.unwrap();
        let (written, late) = sent.await.unwrap();
        assert_eq!(written.unwrap(), rows, "{change}");
        let now = format!("SELECT COUNT(*) FROM clients WHERE id = {client} AND paid = {paid}");
        assert_eq!(books.ask::<i64>(now).await, 1, "{change}");
        let customer = format!("SELECT stripe_customer FROM clients WHERE id = {client}");
        let expected = if rows == 3 { "cus_new" } else { "cus_1" };
        assert_eq!(books.ask::<String>(customer).await, expected, "{change}");
        // As they were, for the audit at the end.
        books.run(format!("UPDATE clients SET status = 'active', sequence = (SELECT MAX(sequence) FROM entries WHERE client = {client}) WHERE id = {client}")).await;
        late.close().await.unwrap();
        lock.close().await.unwrap();
    }
    books.assert_clean().await;
}

/// Three statements that a node gave up, carried out in the wrong order: none brings an older token or list back.
#[tokio::test]
async fn what_a_node_gave_up_does_not_undo_what_it_did_since() {
    if is_about_postgres() {
        return;
    }
    let books = Books::open().await;
    let mut connection = books.database.connect().await;
    for token in [1, 3, 2] {
        storage::fence(&mut connection, "late", token).await.unwrap();
    }
    assert!(storage::write_undelivered(&mut connection, "late", &[5, 6, 8], 3).await.unwrap());
    assert!(!storage::write_undelivered(&mut connection, "late", &[1], 2).await.unwrap());
    let row = "SELECT entries || fence FROM undelivered WHERE node = 'late'";
    assert_eq!(books.ask::<String>(row).await, "[[5,6],[8,8]]3");
    connection.close().await.unwrap();
}

/// Whatever the fault: what was sent before it is void before anything is looked up.
#[tokio::test]
async fn a_node_raises_its_token_after_every_fault() {
    if is_about_postgres() {
        return;
    }
    let books = Books::open().await;
    let client = books.client(100, 0).await;
    books.serve(client, 10).await;
    let token = "SELECT MAX(fence) FROM undelivered";
    let before: i64 = books.ask(token).await;
    let guilty = Capture { route: 999, ..capture(client, RequestId::new(), 10) };
    assert!(failures::captured_together(&books, vec![guilty]).await[0].is_err());
    books.serve(client, 10).await;
    assert!(books.ask::<i64>(token).await > before);
    assert_eq!(books.balances(client).await, (80, 0, 0));
    // And goes on in one statement with the new one.
    books.serve(client, 10).await;
    books.serve(client, 10).await;
    assert!(books.at_once() >= 2, "{}", books.at_once());
    books.assert_clean().await;
}

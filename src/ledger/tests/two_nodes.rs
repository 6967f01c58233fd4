//! Two nodes on one PostgreSQL database: the database decides, and no memory of either is believed against it.

use super::*;
use crate::db::testing::is_about_postgres;
use crate::ledger::aftermath::ChargeFacts;

/// Two nodes on one new database.
async fn two_nodes() -> [Arc<Books>; 2] {
    let first = Books::open().await;
    let second = first.another_node().await;
    [Arc::new(first), Arc::new(second)]
}

/// Spends until it is refused for good, and tells whether it was charged. A refusal of the database is one of the refusals
/// that a caller may hear.
async fn spend(books: &Books, client: ClientId, price: i64) -> bool {
    loop {
        match books.ledger.reserve(client, m(price)).await {
            Ok(reservation) => {
                match books.ledger.capture(capture(client, RequestId::new(), price), reservation).await {
                    Ok(posted) => {
                        books.ledger.delivered(posted.entry);
                        return true;
                    }
                    Err(LedgerError::Refused(Refusal::InsufficientCredits)) => return false,
                    Err(other) => panic!("{other}"),
                }
            }
            Err(ReserveError::NotReserved(NotReserved::InFlight(_))) => tokio::task::yield_now().await,
            Err(ReserveError::NotReserved(NotReserved::Insufficient(_))) => return false,
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_at_once_over_two_nodes_with_credit_for_a_hundred() {
    if is_about_postgres() {
        return;
    }
    let nodes = two_nodes().await;
    for round in 0..20 {
        let client = nodes[round % 2].client(800, 200).await;
        let tasks = (0..500).map(|n| {
            let books = Arc::clone(&nodes[n % 2]);
            tokio::spawn(async move { spend(&books, client, 10).await })
        });
        let charged = join_all(tasks).await.into_iter().filter(|done| *done.as_ref().unwrap()).count();
        assert_eq!(charged, 100, "round {round}");
        for books in &nodes {
            assert_eq!(books.balances(client).await, (0, 0, 0));
            assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
            assert_eq!(books.replays(), 0, "nobody's command was guilty");
        }
        let usages = format!(
            "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%' AND source NOT LIKE '%/%' AND client = {client}"
        );
        assert_eq!(nodes[0].ask::<i64>(usages).await, 100);
    }
    nodes[0].assert_clean().await;
}

#[tokio::test]
async fn what_one_node_credits_is_spendable_on_the_other_at_once() {
    if is_about_postgres() {
        return;
    }
    let [one, other] = two_nodes().await;
    let client = one.client(100, 0).await;
    // Both know the client, and then only one of them hears of each change.
    assert_eq!(other.balances(client).await, (100, 0, 0));
    one.serve(client, 100).await;
    assert!(!spend(&other, client, 1).await, "its memory still says 100");
    for (credited, spending) in [(&one, &other), (&other, &one)] {
        let top_up = credited.charged(Some(client), "usd", 50, 0).await;
        credited.ledger.record_top_up(charge_of(top_up), None).await.unwrap();
        assert!(spend(spending, client, 50).await);
        assert!(!spend(credited, client, 1).await);
        assert_eq!(credited.balances(client).await, spending.balances(client).await);
    }
    // What was refused has told the memory the truth.
    assert_eq!(one.ledger.reservations.state(client), other.ledger.reservations.state(client));
    one.assert_clean().await;
}

#[tokio::test]
async fn a_client_that_was_frozen_or_freed_elsewhere_is_so_here() {
    if is_about_postgres() {
        return;
    }
    let [one, other] = two_nodes().await;
    let client = one.client(100, 0).await;
    assert!(spend(&other, client, 10).await);
    one.run(format!("UPDATE clients SET status = 'frozen' WHERE id = {client}")).await;
    let reservation = other.ledger.reserve(client, m(10)).await.unwrap();
    let refused = other.ledger.capture(capture(client, RequestId::new(), 10), reservation).await;
    assert_eq!(refused.unwrap_err(), LedgerError::Refused(Refusal::ClientFrozen));
    let refused = other.ledger.reserve(client, m(10)).await;
    assert!(matches!(refused, Err(ReserveError::NotReserved(NotReserved::Frozen(_)))));
    one.run(format!("UPDATE clients SET status = 'active' WHERE id = {client}")).await;
    assert!(spend(&other, client, 10).await);
}

/// While another node is freezing a client, or letting it go, this one does not decide by the freezes of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_frozen_exactly_while_there_is_a_freeze_whichever_node_changes_it() {
    if is_about_postgres() {
        return;
    }
    let [one, other] = two_nodes().await;
    let disputed = |top_up, status: &str| ChargeFacts {
        disputes: vec![super::aftermath::dispute_of("one", top_up, 10, status)],
        ..super::aftermath::nothing_yet(top_up)
    };
    // What the other node has written before it commits: a freeze of its own, or that the only other one is lifted.
    for (theirs, theirs_status, is_frozen) in [
        (
            "INSERT INTO freezes (client, cause, created_at) VALUES ({client}, 'dispute:du_other', 1)",
            "frozen",
            true,
        ),
        (
            "UPDATE freezes SET lifted_at = 2, lifted_by = 'won' WHERE client = {client} AND cause = 'operator'",
            "frozen",
            false,
        ),
    ] {
        let (client, top_up) = one.buyer().await;
        assert!(one.align(disputed(top_up, "needs_response")).await.frozen);
        if !is_frozen {
            one.ledger.change(Change::Freeze { client }).await.unwrap();
        }
        let mut elsewhere = one.database.connect().await;
        elsewhere.begin().await.unwrap();
        elsewhere.run(format!("SELECT 1 FROM clients WHERE id = {client} FOR NO KEY UPDATE")).await.unwrap();
        elsewhere.run(theirs.replace("{client}", &client.to_string())).await.unwrap();
        elsewhere
            .run(format!("UPDATE clients SET status = '{theirs_status}' WHERE id = {client}"))
            .await
            .unwrap();
        let here = Arc::clone(&other);
        let won = disputed(top_up, "won");
        let aligned = tokio::spawn(async move { here.align(won).await });
        one.database.until_waiting(1).await;
        elsewhere.commit().await.unwrap();
        assert_eq!(aligned.await.unwrap().frozen, is_frozen, "{theirs}");
        one.assert_clean().await;
    }
    // And by chance: both nodes align charges of one client at once.
    for round in 0..30 {
        let (client, first) = one.buyer().await;
        let second = one.charged(Some(client), "usd", 50, 0).await;
        one.ledger.record_top_up(charge_of(second), None).await.unwrap();
        one.align(disputed(first, "needs_response")).await;
        let second_ends = if round % 2 == 0 { "needs_response" } else { "won" };
        if round % 2 == 1 {
            other.align(disputed(second, "needs_response")).await;
        }
        tokio::join!(one.align(disputed(first, "won")), other.align(disputed(second, second_ends)));
        one.assert_clean().await;
        other.assert_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_records_a_charge_of_the_same_new_client_and_both_are_credited() {
    if is_about_postgres() {
        return;
    }
    let nodes = two_nodes().await;
    for round in 0..20 {
        let [one, other] = nodes[0].two_of_a_new_client(500, 70).await;
        let record = |node: usize, top_up| {
            let ledger = nodes[node].ledger.clone();
            tokio::spawn(async move { ledger.record_top_up(charge_of(top_up), None).await.unwrap().0 })
        };
        let (first, second) = tokio::join!(record(0, one), record(1, other));
        let client = first.unwrap().client;
        assert_eq!(client, second.unwrap().client, "round {round}");
        for books in &nodes {
            assert_eq!(books.balances(client).await, (570, 0, 0), "round {round}");
        }
    }
    nodes[0].assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_nodes_record_the_same_charge_and_it_is_credited_once() {
    if is_about_postgres() {
        return;
    }
    let nodes = two_nodes().await;
    for round in 0..10 {
        let known = if round % 2 == 0 { None } else { Some(nodes[0].client(7, 0).await) };
        let top_up = nodes[0].charged(known, "usd", 500, 50).await;
        let all = join_all((0..10).map(|n| {
            let ledger = nodes[n % 2].ledger.clone();
            tokio::spawn(async move { ledger.record_top_up(charge_of(top_up), Some(m(400))).await.unwrap() })
        }))
        .await;
        let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
        assert_eq!(all.iter().filter(|(posted, _)| !posted.repeated).count(), 1, "round {round}");
        let client = all[0].0.client;
        assert!(all.iter().all(|(posted, _)| posted.client == client && posted.entry == all[0].0.entry));
        let expected = (500 + known.map_or(0, |_| 7), 50, 0);
        for books in &nodes {
            assert_eq!(books.balances(client).await, expected);
        }
        let keys = format!("SELECT COUNT(*) FROM client_keys WHERE client = {client}");
        assert_eq!(nodes[0].ask::<i64>(keys).await, 1);
        // Whoever comes second waits for the row, and need not find out by a failure.
        assert_eq!(nodes[0].replays() + nodes[1].replays(), 0);
    }
    nodes[0].assert_clean().await;
}

/// Two new payers with the same card token, on two nodes at once: the token leads to one of them, and both have their credit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_card_token_that_pays_on_both_nodes_leads_to_one_client() {
    if is_about_postgres() {
        return;
    }
    let nodes = two_nodes().await;
    for round in 0..10 {
        let token = Some(crate::domain::SecretHash::of(&format!("pm_{round}")));
        let all = join_all([0, 1].map(|n: usize| {
            let books = Arc::clone(&nodes[n]);
            tokio::spawn(async move {
                let top_up = books.charged(None, "usd", 100, 0).await;
                let charge = SucceededCharge { payment_method: token, ..charge_of(top_up) };
                books.ledger.record_top_up(charge, None).await.unwrap().0
            })
        }))
        .await;
        for posted in all {
            let posted = posted.unwrap();
            assert!(!posted.repeated);
            assert_eq!(nodes[0].balances(posted.client).await, (100, 0, 0));
        }
        let bindings: i64 = nodes[0].ask("SELECT COUNT(*) FROM payment_method_bindings").await;
        assert_eq!(bindings, round + 1);
    }
    nodes[0].assert_clean().await;
}

/// A batch that has one client's row and wants a second, which somebody has who wants the first: the server ends ours after a
/// second, and it is tried again.
#[tokio::test]
async fn a_deadlock_is_tried_again() {
    if is_about_postgres() {
        return;
    }
    let books = Books::open().await;
    let (first, second) = (books.client(100, 0).await, books.client(100, 0).await);
    assert_eq!(books.balances(first).await, (100, 0, 0));
    // The customer's id is kept by the first top-up that has one: that row is taken before the others.
    books.run(format!("UPDATE clients SET stripe_customer = NULL WHERE id = {second}")).await;
    let top_up = books.charged(Some(second), "usd", 50, 0).await;
    let mut other = books.database.connect().await;
    let locked = |client: ClientId| format!("SELECT 1 FROM clients WHERE id = {client} FOR UPDATE");
    other.begin().await.unwrap();
    other.run(locked(first)).await.unwrap();
    let crossing = async {
        books.database.until_waiting(1).await;
        other.run(locked(second)).await.unwrap();
        other.commit().await.unwrap();
    };
    let (captured, recorded, ()) =
        tokio::join!(books.charge(first, 30), books.ledger.record_top_up(charge_of(top_up), None), crossing);
    assert!(!captured.unwrap().1.repeated && !recorded.unwrap().0.repeated);
    assert_eq!((books.replays(), books.ledger.counts().retries.load(Ordering::Relaxed)), (0, 1));
    assert_eq!((books.balances(first).await, books.balances(second).await), ((70, 0, 0), (150, 0, 0)));
    books.assert_clean().await;
}

/// Batches of both nodes that touch the same clients in opposite order, and top-ups that write the clients' rows before the
/// locks are taken: whatever gets into whose way is tried again, and nobody hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_cross_each_other_never_end_in_an_error() {
    if is_about_postgres() {
        return;
    }
    let nodes = two_nodes().await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(nodes[0].client(100_000, 0).await);
    }
    // The customer's id is kept by the first top-up that has one, which is one more row lock.
    nodes[0].run("UPDATE clients SET stripe_customer = NULL").await;
    for _ in 0..6 {
        let mut calls = Vec::new();
        for (node, books) in nodes.iter().enumerate() {
            let ordered: Vec<_> =
                if node == 0 { clients.clone() } else { clients.iter().rev().copied().collect() };
            for client in ordered {
                let books = Arc::clone(books);
                calls.push(tokio::spawn(async move {
                    let request = RequestId::new();
                    let reservation = books.ledger.reserve(client, m(7)).await.unwrap();
                    let posted =
                        books.ledger.capture(capture(client, request, 7), reservation).await.unwrap();
                    books.ledger.delivered(posted.entry);
                    if client % 3 == 0 {
                        books.ledger.reverse(request).await.unwrap();
                    }
                    if client % 4 == 0 {
                        let open = books.try_charged(client, 3).await;
                        if let Ok(top_up) = open {
                            books.ledger.record_top_up(charge_of(top_up), None).await.unwrap();
                        }
                    }
                }));
            }
        }
        for done in join_all(calls).await {
            done.unwrap();
        }
    }
    for books in &nodes {
        assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
        for client in &clients {
            let (paid, ..) = books.balances(*client).await;
            let credited: i64 = books
                .ask(format!("SELECT COUNT(*) FROM top_ups WHERE client = {client} AND amount = 3 AND state = 'succeeded'"))
                .await;
            let spent = if client % 3 == 0 { 0 } else { 2 * 6 * 7 };
            assert_eq!(paid, 100_000 - spent + 3 * credited, "client {client}");
        }
    }
    nodes[0].assert_clean().await;
}

impl Books {
    /// A charge of this client, unless it has one that is not recorded yet.
    async fn try_charged(&self, client: ClientId, amount: i64) -> Result<TopUpId, DbError> {
        let id = TopUpId::new();
        let hash = self.database.bytes(&[1; 32]);
        self.try_run(format!(
            "INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, \
             created_at, updated_at) \
             VALUES ('{id}', {client}, 'k', {hash}, 1, 'usd', {amount}, 0, 'confirming', 'pi_{id}', 1, 1)"
        ))
        .await
        .map(|()| id)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captures_holds_and_reversals_on_both_nodes_add_up() {
    if is_about_postgres() {
        return;
    }
    let nodes = two_nodes().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(nodes[0].client(1_500, 500).await);
    }
    let spent: Vec<_> = (0..3).map(|_| Arc::new(AtomicI64::new(0))).collect();
    let tasks = (0..12u64).map(|seed| {
        let (books, clients, spent) =
            (Arc::clone(&nodes[usize::from(seed % 2 == 0)]), clients.clone(), spent.clone());
        let elsewhere = Arc::clone(&nodes[usize::from(seed % 2 == 1)]);
        tokio::spawn(async move {
            let mut random = seed * 77 + 1;
            for _ in 0..40 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let pick = random >> 33;
                let which = usize::try_from(pick % 3).unwrap();
                let (client, price) = (clients[which], i64::try_from(pick % 40).unwrap() + 1);
                let Ok(reservation) = books.ledger.reserve(client, m(price)).await else { continue };
                let request = RequestId::new();
                let held = pick % 2 == 0;
                let reservation = if held {
                    match books.ledger.hold(request, reservation, None).await {
                        Ok((_, running)) => running,
                        Err(LedgerError::Refused(Refusal::InsufficientCredits)) => continue,
                        Err(other) => panic!("{other}"),
                    }
                } else {
                    reservation
                };
                if held && pick % 5 == 0 {
                    // By whichever node.
                    elsewhere.ledger.release(request, client).await.unwrap();
                    continue;
                }
                let charge = Capture { held, ..capture(client, request, price) };
                match books.ledger.capture(charge, reservation).await {
                    Ok(posted) => books.ledger.delivered(posted.entry),
                    Err(LedgerError::Refused(Refusal::InsufficientCredits)) if !held => continue,
                    Err(other) => panic!("{other}"),
                }
                spent[which].fetch_add(price, Ordering::SeqCst);
                if pick % 7 == 0 {
                    let (one, other) =
                        tokio::join!(books.ledger.reverse(request), elsewhere.ledger.reverse(request));
                    assert!(one.unwrap().repeated != other.unwrap().repeated, "given back once");
                    spent[which].fetch_sub(price, Ordering::SeqCst);
                }
            }
        })
    });
    for done in join_all(tasks).await {
        done.unwrap();
    }
    for (client, spent) in clients.iter().zip(&spent) {
        for books in &nodes {
            let (paid, bonus, debt) = books.balances(*client).await;
            assert_eq!((paid + bonus, debt), (2_000 - spent.load(Ordering::SeqCst), 0));
        }
    }
    for books in &nodes {
        assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    }
    assert_eq!(nodes[0].ask::<i64>("SELECT COUNT(*) FROM holds").await, 0);
    nodes[0].assert_clean().await;
}

//! Damage to adjustments and holds.

use super::*;

/// Client 1 had 100 and has spent 90 of it. A dispute takes the 100; of the 90 that are owed then, 40 are let off. The dispute is won,
/// so that the 40 are taken back. And 5 are given for nothing. Client 2 had 60 held by a request that was given back.
///
/// The held request's name comes with the books.
async fn adjusted() -> (TestDatabase, String) {
    use crate::domain::RequestId;
    use crate::ledger::adjustments::NewAdjustment;
    use crate::ledger::aftermath::{Change, ChargeFacts, DisputeFacts, DisputeMovement};
    use crate::ledger::core::Gift;
    use crate::ledger::tests::books::charge_of;

    let books = Books::open().await;
    let top_up = books.charged(None, "usd", 100, 0).await;
    let client = books.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.client;
    books.serve(client, 90).await;
    let moved = |id: &str, is_reinstated| DisputeMovement {
        id: id.to_owned(),
        amount: m(100),
        is_reinstated,
        fee: m(0),
        fee_is_returned: false,
    };
    let mut facts = ChargeFacts {
        top_up,
        charge: "ch_1".to_owned(),
        fingerprint: None,
        fee: None,
        refunds: Vec::new(),
        disputes: vec![DisputeFacts {
            id: "du_1".to_owned(),
            amount: m(100),
            status: "under_review".to_owned(),
            reason: "general".to_owned(),
            due_by: None,
            created: 1,
            movements: vec![moved("txn_out", false)],
        }],
        warnings: Vec::new(),
    };
    books.ledger.change(Change::Align(facts.clone())).await.unwrap();
    for (id, gift, amount) in [("let-off", Gift::Forgiveness, 40), ("given", Gift::Credit, 5)] {
        let new = NewAdjustment {
            id: id.to_owned(),
            client,
            gift,
            amount: Some(m(amount)),
            reason: "a gesture".to_owned(),
            operator: "ada".to_owned(),
            request_key: id.to_owned(),
            max_a_day: m(5),
        };
        books.ledger.change(Change::Adjust(new)).await.unwrap();
    }
    facts.disputes[0].status = "won".to_owned();
    facts.disputes[0].movements.push(moved("txn_in", true));
    books.ledger.change(Change::Align(facts)).await.unwrap();
    // 100 came back; 50 repaid what was still owed, and 40 were taken back.
    assert_eq!(books.balances(client).await, (10, 5, 0));

    let other = books.client(100, 0).await;
    let request = RequestId::new();
    let reservation = books.ledger.reserve(other, m(60)).await.unwrap();
    let (_, running) = books.ledger.hold(request, reservation, None).await.unwrap();
    books.ledger.release(request, other).await.unwrap();
    drop(running);
    assert_eq!((client, other), (1, 2));
    (books.close().await, request.to_string())
}

/// What is done, and what the finding says. `@held` is the request whose hold was given back.
const ADJUSTMENT_DAMAGES: &[(&str, &str)] = &[
    (
        "INSERT INTO adjustments (id, client, kind, amount, whole, reason, operator, request_key, created_at) \
         VALUES ('none', 1, 'credit', 7, 0, 'x', 'ada', 'none', 1)",
        "adjustment none: it is not in the books",
    ),
    (
        "UPDATE entries SET source = 'x:1' WHERE source = 'adjustment:given'",
        "adjustment given: it is not in the books",
    ),
    ("UPDATE adjustments SET amount = 6 WHERE id = 'given'", "adjustment given: its entry is not its client"),
    ("UPDATE adjustments SET client = 2 WHERE id = 'given'", "adjustment given: its entry is not its client"),
    (
        "UPDATE adjustments SET kind = 'write_off_debt' WHERE id = 'given'",
        "adjustment given: its entry is not its client",
    ),
    (
        "DELETE FROM adjustments WHERE id = 'given'",
        "adjustment given: it is in the books, but there is no such adjustment",
    ),
    (
        "DELETE FROM adjustments WHERE id = 'let-off'",
        "adjustment let-off: it was taken back, but there is no such adjustment",
    ),
    (
        "UPDATE adjustments SET amount = 39 WHERE id = 'let-off'",
        "adjustment let-off: more of it was taken back than was written off",
    ),
    // What was given can be spent, and is never taken back.
    (
        "UPDATE adjustments SET kind = 'credit' WHERE id = 'let-off'",
        "adjustment let-off: more of it was taken back than was written off",
    ),
    // A second part counts beside the first.
    (
        "UPDATE entries SET source = 'write-off-return:let-off.2' WHERE source = 'adjustment:given'",
        "adjustment let-off: more of it was taken back than was written off",
    ),
    (
        "UPDATE entries SET client = 1 WHERE source = 'release:@held'",
        "hold @held: it was taken from one client and ended with another",
    ),
];

#[tokio::test]
async fn every_damage_to_adjustments_and_holds_is_found_and_named() {
    let (database, held) = adjusted().await;
    let report = verified(&database).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    let original = Original { database, ids: Vec::new() };
    let mut missed = Vec::new();
    for (sql, says) in ADJUSTMENT_DAMAGES {
        let (sql, says) = (sql.replace("@held", &held), says.replace("@held", &held));
        let report = verified(&damaged(&original, &sql).await).await;
        if !report.findings.iter().any(|finding| finding.contains(&says)) {
            missed.push(format!("{sql}: {:#?}", report.findings));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

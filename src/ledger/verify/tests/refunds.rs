//! Damage to refunds and disputes.

use super::*;

/// A client with a top-up of 100 and 20 on top, and of that a refund in each state: 10 requested, 20 on its way, 30 that has
/// left, 5 that has come back, and 7 that had failed before it was known. And a dispute of 3 that was won.
async fn refunded() -> TestDatabase {
    use crate::domain::RefundId;
    use crate::ledger::aftermath::{
        Change, ChargeFacts, DisputeFacts, DisputeMovement, Movement, NewRefund, RefundFacts, RefundOrigin,
        RefundStatus,
    };
    use crate::ledger::tests::books::charge_of;

    let books = Books::open().await;
    books.client(1000, 0).await;
    let top_up = books.charged(None, "usd", 100, 20).await;
    books.ledger.record_top_up(charge_of(top_up), None).await.unwrap();
    let refund = |id: &str, amount, status| RefundFacts {
        id: id.to_owned(),
        ours: None,
        asked: None,
        amount: m(amount),
        status,
        failure: None,
    };
    let moved = |id: &str, is_reinstated| DisputeMovement {
        id: id.to_owned(),
        amount: m(3),
        is_reinstated,
        fee: m(15),
        fee_is_returned: is_reinstated,
    };
    let mut facts = ChargeFacts {
        top_up,
        charge: "ch_1".to_owned(),
        fingerprint: None,
        fee: Some(Movement { id: "txn_fee".to_owned(), amount: m(2) }),
        refunds: vec![
            refund("re_20", 20, RefundStatus::Pending),
            refund("re_30", 30, RefundStatus::Succeeded),
            refund("re_5", 5, RefundStatus::Succeeded),
            refund("re_7", 7, RefundStatus::Failed),
        ],
        disputes: vec![DisputeFacts {
            id: "du_1".to_owned(),
            amount: m(3),
            status: "won".to_owned(),
            reason: "general".to_owned(),
            due_by: None,
            created: 1,
            movements: vec![moved("txn_out", false), moved("txn_in", true)],
        }],
        warnings: Vec::new(),
    };
    books.ledger.change(Change::Align(facts.clone())).await.unwrap();
    facts.refunds[2].status = RefundStatus::Failed;
    books.ledger.change(Change::Align(facts)).await.unwrap();
    let requested = NewRefund {
        id: RefundId::new(),
        top_up,
        amount: Some(m(10)),
        origin: RefundOrigin::Operator,
        reason: None,
        operator: None,
        request_key: None,
    };
    books.ledger.request_refund(requested).await.unwrap();
    books.close().await
}

/// What is done, and what the finding says. `@20` is the refund of 20.
const REFUND_DAMAGES: &[(&str, &str)] = &[
    ("UPDATE refunds SET amount = 11 WHERE amount = 10", "refund @10: it is requested"),
    ("UPDATE refunds SET amount = 11 WHERE amount = 10", "the refunds on their way in usd"),
    ("UPDATE refunds SET amount = 29 WHERE amount = 30", "refund @30: it is succeeded"),
    ("UPDATE refunds SET amount = 4 WHERE amount = 5", "refund @5: it is failed"),
    ("UPDATE refunds SET bonus = 1 WHERE amount = 30", "refund @30: it is succeeded"),
    ("UPDATE refunds SET state = 'succeeded' WHERE amount = 20", "refund @20: it is succeeded"),
    ("UPDATE refunds SET state = 'failed' WHERE amount = 20", "refund @20: it is failed"),
    ("UPDATE refunds SET state = 'pending' WHERE amount = 30", "refund @30: it is pending"),
    ("UPDATE refunds SET state = 'failed' WHERE amount = 30", "refund @30: it is failed"),
    ("UPDATE refunds SET state = 'succeeded' WHERE amount = 5", "refund @5: it is succeeded"),
    ("UPDATE refunds SET state = 'succeeded' WHERE amount = 7", "refund @7: it is succeeded"),
    ("UPDATE refunds SET client = 1 WHERE amount = 30", "refund @30: it is succeeded"),
    ("UPDATE refunds SET client = 1 WHERE amount = 7", "refund @7: its client is not its top-up's"),
    ("DELETE FROM refunds WHERE amount = 30", "refund @30: it is in the books, but there is no such"),
    ("DELETE FROM refunds WHERE amount = 20", "the refunds on their way in usd"),
    ("UPDATE refunds SET amount = 80 WHERE amount = 30", "more was refunded than charged"),
    (
        "UPDATE entries SET source = 'refund-paid:x' WHERE source = 'refund-paid:@30'",
        "refund @30: it is succeeded",
    ),
    (
        "UPDATE entries SET source = 'refund-paid:@20' WHERE source = 'refund-paid:@30'",
        "refund @20: it is pending",
    ),
    ("UPDATE entries SET source = 'x:1' WHERE source = 'refund-return:@5/2'", "refund @5: it is failed"),
    (
        "UPDATE entries SET credit = 10 WHERE source = 'refund-paid:@30'",
        "its accounts are not those of its kind",
    ),
    ("UPDATE entries SET credit = 10 WHERE source = 'refund:@20'", "its accounts are not those of its kind"),
    ("UPDATE entries SET credit = 5 WHERE source = 'refund:@20/2'", "its accounts are not those of its kind"),
    (
        "UPDATE entries SET debit = 10 WHERE source = 'refund-return:@5'",
        "its accounts are not those of its kind",
    ),
    (
        "UPDATE entries SET credit = 7 WHERE source = 'dispute:txn_out'",
        "its accounts are not those of its kind",
    ),
    (
        "UPDATE entries SET debit = 7 WHERE source = 'reinstatement:txn_in'",
        "its accounts are not those of its kind",
    ),
    ("UPDATE entries SET debit = 11 WHERE source = 'fee:txn_fee'", "its accounts are not those of its kind"),
    (
        "UPDATE entries SET debit = 6 WHERE source = 'dispute-fee:txn_out'",
        "its accounts are not those of its kind",
    ),
    (
        "UPDATE entries SET source = 'x:1' WHERE source = 'dispute:txn_out'",
        "client 2: disputes have given back more",
    ),
    (
        "UPDATE entries SET amount = 4 WHERE source = 'reinstatement:txn_in'",
        "client 2: disputes have given back more",
    ),
    ("UPDATE freezes SET lifted_at = NULL", "client 2: whether it is frozen"),
    ("UPDATE refunds SET top_up = 'none' WHERE amount = 7", "a row of refunds refers to a row of top_ups"),
    ("UPDATE disputes SET top_up = 'none'", "a row of disputes refers to a row of top_ups"),
    ("UPDATE disputes SET client = 77", "a row of disputes refers to a row of clients"),
    ("UPDATE freezes SET client = 77", "a row of freezes refers to a row of clients"),
    (
        "INSERT INTO fraud_warnings VALUES ('issfr_1', 'none', 2, 'ch_1', 'misc', 1)",
        "a row of fraud_warnings refers to a row of top_ups",
    ),
];

#[tokio::test]
async fn every_damage_to_refunds_and_disputes_is_found_and_named() {
    let database = refunded().await;
    let report = verified(&database).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    let mut connection = database.connect().await;
    let mut names: Vec<(i64, String)> = Vec::new();
    for row in
        query("SELECT amount, id FROM refunds ORDER BY amount DESC").fetch_all(&mut connection).await.unwrap()
    {
        names.push((row.try_get(0).unwrap(), row.try_get(1).unwrap()));
    }
    connection.close().await.unwrap();
    let named = |text: &str| {
        names.iter().fold(text.to_owned(), |text, (amount, id)| text.replace(&format!("@{amount}"), id))
    };
    let original = Original { database, ids: Vec::new() };
    let mut missed = Vec::new();
    for (sql, says) in REFUND_DAMAGES {
        let report = verified(&damaged(&original, &named(sql)).await).await;
        if !report.findings.iter().any(|finding| finding.contains(&named(says))) {
            missed.push(format!("{sql}: {:#?}", report.findings));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

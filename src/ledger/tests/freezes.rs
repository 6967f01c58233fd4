//! What freezes clients, and who may spend meanwhile.

use super::aftermath::{dispute_of, moved, nothing_yet};
use super::*;
use crate::ledger::aftermath::{Change, ChargeFacts, DisputeFacts, DisputeMovement, WarningFacts};

impl Books {
    async fn freeze(&self, client: ClientId) -> Result<(ClientId, ClientState), LedgerError> {
        self.ledger.change(Change::Freeze { client }).await
    }

    async fn unfreeze(&self, client: ClientId) -> Result<(ClientId, ClientState), LedgerError> {
        self.ledger.change(Change::Unfreeze { client, by: "ada".to_owned() }).await
    }

    pub(super) async fn may_spend(&self, client: ClientId) -> bool {
        match self.ledger.reserve(client, m(1)).await {
            Ok(_) => true,
            Err(ReserveError::NotReserved(NotReserved::Frozen(_))) => false,
            Err(other) => panic!("{other}"),
        }
    }

    /// The writer has not lost its way by something that failed.
    pub(super) async fn serve_after(&self, frozen: ClientId) {
        self.unfreeze(frozen).await.unwrap();
        self.serve(frozen, 1).await;
    }
}

#[tokio::test]
async fn an_operator_freezes_and_lets_go_again() {
    let books = Books::open().await;
    let (client, _) = books.buyer().await;
    let other = books.client(100, 0).await;
    for _ in 0..2 {
        // Again and again, and each time twice.
        assert!(books.freeze(client).await.unwrap().1.frozen);
        assert!(books.freeze(client).await.unwrap().1.frozen);
        assert!(!books.may_spend(client).await && books.may_spend(other).await);
        assert_eq!(books.balances(client).await, (100, 20, 0));
        assert!(!books.unfreeze(client).await.unwrap().1.frozen);
        assert!(!books.unfreeze(client).await.unwrap().1.frozen);
        assert!(books.may_spend(client).await);
    }
    let by: String = books.ask("SELECT lifted_by FROM freezes WHERE cause = 'operator'").await;
    assert_eq!(by, "ada");
    for nobody in [books.freeze(77).await, books.unfreeze(77).await] {
        assert!(nobody.is_err());
    }
    assert_eq!(books.ask::<i64>("SELECT COUNT(*) FROM freezes").await, 1);
    books.assert_clean().await;
}

/// What was held before is settled; what was only reserved in memory is refused, so that nothing is delivered to somebody who
/// may not spend any more, and nobody pays for it.
#[tokio::test]
async fn requests_that_run_when_their_client_is_frozen() {
    let books = Books::open().await;
    let (client, _) = books.buyer().await;
    let held = RequestId::new();
    let reservation = books.ledger.reserve(client, m(10)).await.unwrap();
    let (_, running) = books.ledger.hold(held, reservation, None).await.unwrap();
    let released = RequestId::new();
    let reservation = books.ledger.reserve(client, m(5)).await.unwrap();
    drop(books.ledger.hold(released, reservation, None).await.unwrap());
    let served = books.serve(client, 20).await;
    let reserved = books.ledger.reserve(client, m(30)).await.unwrap();

    books.freeze(client).await.unwrap();
    let refused = books.ledger.capture(capture(client, RequestId::new(), 30), reserved).await.unwrap_err();
    assert_eq!(refused, LedgerError::Refused(Refusal::ClientFrozen));
    assert_eq!(books.ledger.total_reserved(), Micros::ZERO);
    books.ledger.capture(Capture { held: true, ..capture(client, held, 10) }, running).await.unwrap();
    books.ledger.release(released, client).await.unwrap();
    assert_eq!(books.balances(client).await, (70, 20, 0));
    // What was served can be given back, and the client can pay in.
    books.ledger.reverse(served).await.unwrap();
    let again = books.charged(Some(client), "usd", 5, 0).await;
    let (posted, reserved) = books.ledger.record_top_up(charge_of(again), Some(m(1))).await.unwrap();
    assert!(posted.state.frozen && matches!(reserved, Some(Err(NotReserved::Frozen(_)))));
    assert_eq!(books.balances(client).await, (95, 20, 0));
    books.assert_clean().await;
}

#[tokio::test]
async fn a_freeze_outlives_the_process() {
    let books = Books::open().await;
    let (client, _) = books.buyer().await;
    books.freeze(client).await.unwrap();
    let books = books.kill_and_reopen().await;
    assert!(!books.may_spend(client).await);
    assert!(books.ledger.state(client).await.unwrap().unwrap().frozen);
    books.unfreeze(client).await.unwrap();
    let books = books.reopen().await;
    books.serve(client, 100).await;
    books.assert_clean().await;
}

#[tokio::test]
async fn whoever_is_frozen_for_two_reasons_is_let_go_when_both_are_over() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let disputes = |one: &str, two: &str| ChargeFacts {
        disputes: vec![dispute_of("one", top_up, 10, one), dispute_of("two", top_up, 10, two)],
        ..nothing_yet(top_up)
    };
    assert!(books.align(disputes("warning_needs_response", "needs_response")).await.frozen);
    assert!(books.align(disputes("warning_closed", "needs_response")).await.frozen);
    assert!(!books.may_spend(client).await);
    assert!(!books.align(disputes("warning_closed", "won")).await.frozen);
    // What was read before arrives after.
    assert!(!books.align(disputes("warning_needs_response", "needs_response")).await.frozen);
    assert!(books.may_spend(client).await);
    assert_eq!(books.balances(client).await, (100, 20, 0));
    books.assert_clean().await;
}

/// The bank may come back to an inquiry that it had closed. What was read before each step arrives late and changes nothing.
#[tokio::test]
async fn an_inquiry_that_was_closed_and_becomes_a_dispute_freezes_again() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let facts = |status: &str, movements: Vec<DisputeMovement>| ChargeFacts {
        disputes: vec![DisputeFacts { movements, ..dispute_of("one", top_up, 40, status) }],
        ..nothing_yet(top_up)
    };
    let taken = || vec![moved("one", top_up, 40, false)];
    assert!(books.align(facts("warning_needs_response", vec![])).await.frozen);
    assert!(!books.align(facts("warning_closed", vec![])).await.frozen);
    assert!(books.align(facts("needs_response", taken())).await.frozen);
    for late in ["warning_needs_response", "warning_under_review", "warning_closed"] {
        assert!(books.align(facts(late, vec![])).await.frozen, "{late}");
        assert!(!books.may_spend(client).await, "{late}");
    }
    let kept: String = books.ask("SELECT status FROM disputes".to_owned()).await;
    assert_eq!(kept, "needs_response");
    // An operator lets the client go meanwhile: the same dispute does not freeze again as it goes on.
    books.unfreeze(client).await.unwrap();
    assert!(!books.align(facts("under_review", taken())).await.frozen);
    assert_eq!(books.balances(client).await, (60, 20, 0));
    books.assert_clean().await;
}

/// An operator who lets a client go because a bank only asks has not been asked about the dispute.
#[tokio::test]
async fn an_inquiry_that_an_operator_has_cleared_and_that_becomes_a_dispute_freezes_again() {
    for ends in ["needs_response", "lost", "won"] {
        let books = Books::open().await;
        let (client, top_up) = books.buyer().await;
        let facts = |status: &str| ChargeFacts {
            disputes: vec![dispute_of("one", top_up, 40, status)],
            ..nothing_yet(top_up)
        };
        assert!(books.align(facts("warning_needs_response")).await.frozen);
        books.unfreeze(client).await.unwrap();
        assert!(!books.align(facts("warning_under_review")).await.frozen);
        assert_eq!(books.align(facts(ends)).await.frozen, ends != "won", "{ends}");
        books.assert_clean().await;
    }
}

#[tokio::test]
async fn what_an_operator_has_lifted_is_not_frozen_again_by_the_same_event() {
    let books = Books::open().await;
    let (client, top_up) = books.buyer().await;
    let warning = |id: &str| WarningFacts { id: id.to_owned(), kind: "misc".to_owned(), created: 1 };
    let facts = ChargeFacts {
        disputes: vec![dispute_of("one", top_up, 10, "needs_response")],
        warnings: vec![warning("issfr_1")],
        ..nothing_yet(top_up)
    };
    assert!(books.align(facts.clone()).await.frozen);
    books.unfreeze(client).await.unwrap();
    assert!(!books.align(facts.clone()).await.frozen);
    // Something new freezes anew.
    let more = ChargeFacts { warnings: vec![warning("issfr_1"), warning("issfr_2")], ..facts };
    assert!(books.align(more.clone()).await.frozen);
    // A dispute that is won lifts its own freeze alone.
    let won = ChargeFacts { disputes: vec![dispute_of("one", top_up, 10, "won")], ..more };
    assert!(books.align(won).await.frozen);
    books.assert_clean().await;
}

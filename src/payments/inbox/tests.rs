//! The inbox on a database, with appliers that do as the test says.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::db;
use crate::db::testing::{TestDatabase, until};

struct Stage {
    database: TestDatabase,
    db: Db,
    inbox: Inbox,
}

impl Stage {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let db = db::run_writes_only(&database.config).await.unwrap();
        let inbox = Inbox::new(db.clone(), MoneyWork::on_this_runtime());
        Self { database, db, inbox }
    }

    /// Another process, as far as the inbox can tell.
    fn other(&self) -> Inbox {
        Inbox::new(self.db.clone(), MoneyWork::on_this_runtime())
    }

    async fn run(&self, sql: &str) {
        let mut connection = self.database.connect().await;
        connection.run(sql.to_owned()).await.unwrap();
        connection.close().await.unwrap();
    }

    /// As if every wait were over.
    async fn later(&self) {
        self.run("UPDATE stripe_events SET next_try_at = 1 WHERE ended_at IS NULL").await;
    }

    async fn text(&self, sql: &str) -> String {
        self.db.reader().ask(sql.to_owned()).await
    }

    async fn number(&self, sql: &str) -> i64 {
        self.db.reader().ask(sql.to_owned()).await
    }

    /// Id, state and tries of each event, in the order of their ids.
    async fn states(&self) -> Vec<(String, String, i64)> {
        let sql = "SELECT id, state, tries FROM stripe_events ORDER BY id";
        let rows = query(sql).fetch_all(self.db.reader()).await.unwrap();
        let read = |row: &Row| (row.try_get(0).unwrap(), row.try_get(1).unwrap(), row.try_get(2).unwrap());
        rows.iter().map(read).collect()
    }
}

fn event(id: &str, kind: &str) -> Event {
    let json = json!({ "id": id, "type": kind, "created": 7, "data": { "object": { "id": "ch_1", "payment_intent": "pi_1" } } });
    Event::read(json, 0).unwrap()
}

fn handled(id: &str) -> Event {
    event(id, "charge.refunded")
}

#[tokio::test]
async fn an_event_is_stored_once_however_often_it_comes() {
    let stage = Stage::new().await;
    let stored = stage.inbox.store(vec![handled("evt_1"), handled("evt_2"), handled("evt_1")]).await.unwrap();
    assert_eq!(stored, [true, true, false]);
    let mut news = 0;
    for stored in
        futures_util::future::join_all((0..10).map(|_| stage.inbox.store(vec![handled("evt_3")]))).await
    {
        news += usize::from(stored.unwrap()[0]);
    }
    assert_eq!(news, 1);
    let applied = Mutex::new(Vec::new());
    let taken = stage
        .inbox
        .step_with(|event: Taken| {
            applied.lock().unwrap().push((event.id, event.kind, event.object, event.body["created"].clone()));
            async { Applied::Done }
        })
        .await;
    assert_eq!(taken.unwrap(), 3);
    let mut applied = applied.into_inner().unwrap();
    applied.sort_by(|left, right| left.0.cmp(&right.0));
    let expected = |id: &str| (id.to_owned(), "charge.refunded".to_owned(), "ch_1".to_owned(), json!(7));
    assert_eq!(applied, [expected("evt_1"), expected("evt_2"), expected("evt_3")]);
    // Late repetitions change nothing.
    assert_eq!(stage.inbox.store(vec![handled("evt_1")]).await.unwrap(), [false]);
    assert_eq!(stage.inbox.step_with(|_| async { Applied::Done }).await.unwrap(), 0);
    assert!(stage.states().await.iter().all(|(_, state, tries)| state == "applied" && *tries == 1));
}

#[tokio::test]
async fn a_type_that_is_not_handled_is_kept_and_has_ended() {
    let stage = Stage::new().await;
    stage.inbox.store(vec![event("evt_1", "invoice.paid")]).await.unwrap();
    assert_eq!(stage.inbox.step_with(|_| async { panic!("not to be applied") }).await.unwrap(), 0);
    assert_eq!(stage.text("SELECT state FROM stripe_events").await, "ignored");
    assert_eq!(stage.number("SELECT COUNT(*) FROM stripe_events WHERE ended_at IS NOT NULL").await, 1);
}

#[tokio::test]
async fn what_cannot_be_applied_is_parked_and_never_given_up() {
    let stage = Stage::new().await;
    stage.inbox.store(vec![handled("evt_1")]).await.unwrap();
    let park = || stage.inbox.step_with(|_| async { Applied::Park("Stripe is away\u{0}\n".to_owned()) });
    for tries in 1..=30 {
        assert_eq!(park().await.unwrap(), 1, "try {tries}");
        assert_eq!(park().await.unwrap(), 0, "not due again yet");
        stage.later().await;
        assert_eq!(stage.states().await, [("evt_1".to_owned(), "parked".to_owned(), tries)]);
        assert_eq!(stage.text("SELECT why FROM stripe_events").await, "Stripe is away");
        assert_eq!(stage.inbox.parked().await.unwrap().count, 1);
    }
    let parked = stage.inbox.parked().await.unwrap();
    let age = now_micros() - parked.oldest.unwrap();
    assert!((0..60 * SECOND).contains(&age), "{age}");
    // A panic is no end either.
    assert_eq!(stage.inbox.step_with(|_| async { panic!("on purpose") }).await.unwrap(), 1);
    stage.later().await;
    assert_eq!(stage.inbox.step_with(|_| async { Applied::Ignored("not ours") }).await.unwrap(), 1);
    assert_eq!(stage.states().await, [("evt_1".to_owned(), "ignored".to_owned(), 32)]);
    assert_eq!(stage.text("SELECT why FROM stripe_events").await, "not ours");
    assert_eq!(stage.inbox.parked().await.unwrap(), ParkedEvents::default());
}

#[test]
fn waits_grow_to_an_hour() {
    let waits: Vec<i64> = (1..=11).map(|tries| wait_after(tries) / SECOND).collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    for tries in [i64::MIN, -1, 0, 1] {
        assert_eq!(wait_after(tries), FIRST_WAIT_MICROS);
    }
    assert_eq!(wait_after(i64::MAX), LONGEST_WAIT_MICROS);
}

#[tokio::test]
async fn several_share_the_work_and_nobody_does_it_twice() {
    let stage = Stage::new().await;
    let events = (0..200).map(|n| handled(&format!("evt_{n:03}"))).collect();
    stage.inbox.store(events).await.unwrap();
    let applied = Arc::new(Mutex::new(Vec::new()));
    let inboxes = [stage.inbox.clone(), stage.other(), stage.other()];
    let working = inboxes.iter().map(|inbox| async {
        let mut taken = 0;
        loop {
            let applied = Arc::clone(&applied);
            let step = inbox.step_with(move |event: Taken| {
                applied.lock().unwrap().push(event.id);
                async { Applied::Done }
            });
            let count = step.await.unwrap();
            taken += count;
            if count == 0 && stage.number("SELECT COUNT(*) FROM stripe_events WHERE tries = 0").await == 0 {
                return taken;
            }
        }
    });
    let taken = futures_util::future::join_all(working).await;
    assert_eq!(taken.iter().sum::<usize>(), 200);
    let mut applied = applied.lock().unwrap().clone();
    applied.sort();
    applied.dedup();
    assert_eq!(applied.len(), 200);
    assert!(stage.states().await.iter().all(|(_, state, tries)| state == "applied" && *tries == 1));
}

#[tokio::test]
async fn what_a_dead_process_has_taken_is_due_again() {
    let stage = Stage::new().await;
    stage.inbox.store(vec![handled("evt_1")]).await.unwrap();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let inbox = stage.other();
    let dies = tokio::spawn(async move {
        inbox
            .step_with(|_| {
                begun.send(()).unwrap();
                std::future::pending()
            })
            .await
    });
    begins.recv().await.unwrap();
    dies.abort();
    let _ = dies.await;
    assert_eq!(stage.inbox.step_with(|_| async { Applied::Done }).await.unwrap(), 0, "it may live yet");
    let left = stage.number("SELECT next_try_at FROM stripe_events").await - now_micros();
    assert!((60 * SECOND..=CLAIM_MICROS).contains(&left), "{left}");
    stage.later().await;
    assert_eq!(stage.inbox.step_with(|_| async { Applied::Done }).await.unwrap(), 1);
    assert_eq!(stage.states().await, [("evt_1".to_owned(), "applied".to_owned(), 2)]);
}

#[tokio::test]
async fn who_waits_is_woken_by_an_event_also_by_one_that_came_before() {
    let stage = Stage::new().await;
    stage.inbox.store(vec![handled("evt_1")]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), stage.inbox.arrived()).await.unwrap();
    let inbox = stage.inbox.clone();
    let waiting = tokio::spawn(async move { inbox.arrived().await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    stage.inbox.store(vec![handled("evt_2")]).await.unwrap();
    until(async || waiting.is_finished()).await;
}

#[tokio::test]
async fn only_what_has_long_ended_is_removed() {
    let stage = Stage::new().await;
    let events = ["evt_1", "evt_2", "evt_3"].map(handled);
    stage.inbox.store(events.to_vec()).await.unwrap();
    let step = stage.inbox.step_with(|event: Taken| async move {
        if event.id == "evt_3" { Applied::Park("not yet".to_owned()) } else { Applied::Done }
    });
    step.await.unwrap();
    let day = 24 * 3_600 * SECOND;
    let ago = now_micros() - 39 * day;
    stage
        .run(&format!("UPDATE stripe_events SET received_at = {ago}, ended_at = {ago} WHERE id <> 'evt_3'"))
        .await;
    assert_eq!(stage.inbox.tidy().await.unwrap(), 0, "Stripe still lists them for 30 days");
    let ago = ago - 2 * day;
    stage.run(&format!("UPDATE stripe_events SET ended_at = {ago} WHERE id = 'evt_1'")).await;
    stage.run(&format!("UPDATE stripe_events SET received_at = {ago} WHERE id = 'evt_3'")).await;
    assert_eq!(stage.inbox.tidy().await.unwrap(), 1);
    let left: Vec<String> = stage.states().await.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(left, ["evt_2", "evt_3"]);
}

/// 72 hours of "no such object", without a break; and only where it is proven that the right account was asked.
#[tokio::test]
async fn what_stripe_does_not_have_ends_after_three_days_in_a_row() {
    let stage = Stage::new().await;
    stage.inbox.store(vec![handled("evt_1")]).await.unwrap();
    let missing = Applied::Missing { is_proven: true };
    let unproven = stage.inbox.step_with(|_| async { Applied::Missing { is_proven: false } }).await.unwrap();
    assert_eq!(unproven, 1);
    let begun = "SELECT COUNT(*) FROM stripe_events WHERE missing_since IS NOT NULL";
    assert_eq!(stage.number(begun).await, 0, "nobody who could know has said so yet");
    for (aged, applied, expected) in [
        (0, missing.clone(), "parked"),
        (71, missing.clone(), "parked"),
        // Stripe could not be asked: what it would have said, nobody knows.
        (2, Applied::Park("not now".to_owned()), "parked"),
        (200, missing.clone(), "parked"),
        // Another account would have said the same: it neither goes on nor begins.
        (73, Applied::Missing { is_proven: false }, "parked"),
        (0, missing.clone(), "parked"),
        (71, missing.clone(), "parked"),
        (2, missing, "ignored"),
    ] {
        let micros = aged * 3_600 * SECOND;
        stage.run(&format!("UPDATE stripe_events SET missing_since = missing_since - {micros}")).await;
        stage.later().await;
        let answer = applied.clone();
        let taken = stage.inbox.step_with(move |_| std::future::ready(answer.clone())).await.unwrap();
        assert_eq!(taken, 1, "{aged} {applied:?}");
        assert_eq!(stage.states().await[0].1, expected, "{aged} {applied:?}");
    }
}

/// A row of ours whose PaymentIntent was never stored is known by what Stripe's objects say about themselves.
#[tokio::test]
async fn what_names_a_row_of_ours_never_ends() {
    let stage = Stage::new().await;
    let hash = stage.database.bytes(&[7; 32]);
    let row = |id: &str, intent: &str, charge: &str| {
        format!(
            "INSERT INTO top_ups (id, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, charge, created_at, \
             updated_at) VALUES ('{id}', '{id}', {hash}, 1, 'usd', 5, 0, 'failed', {intent}, {charge}, 1, 1)"
        )
    };
    stage.run(&row("t-created", "NULL", "NULL")).await;
    stage.run(&row("t-charged", "'pi_known'", "'ch_known'")).await;
    let about = |id: &str, kind: &str, object: Value| {
        let json = json!({ "id": id, "type": kind, "created": 7, "data": { "object": object } });
        Event::read(json, 0).unwrap()
    };
    let ours = [
        about(
            "evt_by_top_up",
            "payment_intent.succeeded",
            json!({ "id": "pi_new", "metadata": { "prepaid402_top_up": "t-created" } }),
        ),
        about(
            "evt_charge_by_top_up",
            "charge.updated",
            json!({ "id": "ch_new", "payment_intent": "pi_new", "metadata": { "prepaid402_top_up": "t-created" } }),
        ),
        about("evt_by_charge", "charge.dispute.created", json!({ "id": "dp_new", "charge": "ch_known" })),
        about(
            "evt_by_expanded_charge",
            "refund.updated",
            json!({ "id": "re_new", "charge": { "id": "ch_known" } }),
        ),
        about("evt_by_intent", "refund.failed", json!({ "id": "re_other", "payment_intent": "pi_known" })),
    ];
    let foreign = [
        about(
            "evt_foreign",
            "payment_intent.succeeded",
            json!({ "id": "pi_foreign", "metadata": { "prepaid402_top_up": "t-elsewhere" } }),
        ),
        about(
            "evt_nameless",
            "charge.dispute.created",
            json!({ "id": "dp_foreign", "charge": null, "metadata": null }),
        ),
    ];
    stage.inbox.store(ours.into_iter().chain(foreign).collect()).await.unwrap();
    let look = async || {
        stage.later().await;
        stage.inbox.step_with(|_| async { Applied::Missing { is_proven: true } }).await.unwrap()
    };
    assert_eq!(look().await, 7);
    assert_eq!(stage.inbox.parked().await.unwrap().unknown_objects, 5);
    stage
        .run(&format!("UPDATE stripe_events SET missing_since = missing_since - {}", 73 * 3_600 * SECOND))
        .await;
    assert_eq!(look().await, 7);
    let ended: Vec<String> = stage
        .states()
        .await
        .into_iter()
        .filter(|(_, state, _)| state == "ignored")
        .map(|(id, ..)| id)
        .collect();
    assert_eq!(ended, ["evt_foreign", "evt_nameless"]);
    let parked = stage.inbox.parked().await.unwrap();
    assert_eq!((parked.count, parked.unknown_objects), (5, 5));
    // What was charged in a former account is not this one's to know.
    stage.run("UPDATE top_ups SET former_account = 1").await;
    stage
        .run(&format!("UPDATE stripe_events SET missing_since = missing_since - {}", 73 * 3_600 * SECOND))
        .await;
    assert_eq!(look().await, 5);
    assert_eq!(stage.inbox.parked().await.unwrap().count, 0);
}

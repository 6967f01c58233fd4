//! Background loops around one-step functions. A failing step is logged and tried again; it never stops the others.

use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::db::{DatabaseWatch, Db, DbError, now_micros};
use crate::ledger::nodes::RENEW_EVERY;
use crate::ledger::{Ledger, answers};
use crate::payments::charges::{Aligned, Charges};
use crate::payments::refunds::Refunds;
use crate::payments::{Applier, Inbox, Poller};
use crate::reconciliation::Watch;
use crate::top_up::{Account, TopUps};

/// Pauses between two steps. `true`: `stop` became true meanwhile.
async fn stopped_within(pause: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok()
}

/// Between two looks at whether the keys are those of the books, while they are not known to be.
const OURS_EVERY: Duration = Duration::from_secs(5);

/// Waits until the keys are known to be those of the books: another Stripe account knows nothing of what was charged in this one,
/// and its silence must not be taken for an answer. `true`: `stop` became true meanwhile.
async fn stopped_before_ours(account: &Account, stop: &mut watch::Receiver<bool>) -> bool {
    while !account.is_ours().await {
        if stopped_within(OURS_EVERY, stop).await {
            return true;
        }
    }
    false
}

/// Runs the reconciler's step at start and every so often, until `stop` becomes true.
pub async fn reconcile(top_ups: TopUps, every: Duration, mut stop: watch::Receiver<bool>) {
    loop {
        match top_ups.reconcile().await {
            Ok(0) => {}
            Ok(ended) => tracing::info!(top_ups.ended = ended, "open top-ups have been settled"),
            Err(error) => tracing::error!(%error, "the reconciler could not read open top-ups"),
        }
        if stopped_within(every, &mut stop).await {
            return;
        }
    }
}

/// Looks after refunds that have no end yet, at start and every so often, until `stop` becomes true. Apart from
/// [`reconcile`], because a refund may take long.
pub async fn look_after_refunds(
    refunds: Refunds,
    account: Account,
    every: Duration,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        if stopped_before_ours(&account, &mut stop).await {
            return;
        }
        // What was looked at is not due again for a while.
        loop {
            match refunds.step().await {
                Ok(0) => break,
                Ok(_) if *stop.borrow() => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "open refunds could not be read");
                    break;
                }
            }
        }
        if stopped_within(every, &mut stop).await {
            return;
        }
    }
}

/// Time between two looks for events that are due, when none arrives.
pub const EVENTS_EVERY: Duration = Duration::from_secs(5);

/// Applies Stripe's events: as soon as one arrives, and when a parked one is due again. Until `stop` becomes true.
pub async fn apply_events(inbox: Inbox, applier: Applier, account: Account, mut stop: watch::Receiver<bool>) {
    loop {
        if stopped_before_ours(&account, &mut stop).await {
            return;
        }
        loop {
            match inbox.step(&applier).await {
                Ok(0) => break,
                // There may be more.
                Ok(taken) => tracing::debug!(events.taken = taken, "events were taken"),
                Err(error) => {
                    tracing::error!(%error, "Stripe's events could not be worked on");
                    break;
                }
            }
            if *stop.borrow() {
                return;
            }
        }
        tokio::select! {
            () = inbox.arrived() => {}
            () = tokio::time::sleep(EVENTS_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Looks at Stripe's list of events at start and every so often, whether webhooks come or not, until `stop` becomes true.
pub async fn poll_events(poller: Poller, account: Account, every: Duration, mut stop: watch::Receiver<bool>) {
    loop {
        if stopped_before_ours(&account, &mut stop).await {
            return;
        }
        match poller.step().await {
            Ok(0) => {}
            Ok(new) => tracing::info!(events.new = new, "events were fetched that no webhook had brought"),
            Err(error) => tracing::error!(%error, "Stripe's events could not be fetched; nothing is skipped"),
        }
        if stopped_within(every, &mut stop).await {
            return;
        }
    }
}

/// Compares the books with Stripe every so often, first after that time, until `stop` becomes true.
pub async fn compare(watch: Watch, account: Account, every: Duration, mut stop: watch::Receiver<bool>) {
    loop {
        if stopped_within(every, &mut stop).await || stopped_before_ours(&account, &mut stop).await {
            return;
        }
        if let Err(error) = watch.look(now_micros().div_euclid(1_000_000)).await {
            tracing::warn!(%error, "the books could not be compared with Stripe");
        }
    }
}

/// Time between two passes over Stripe's list of charges, and between two tries when Stripe cannot be asked.
pub const ADOPT_EVERY: Duration = Duration::from_secs(3_600);
/// While something is left to do: at first, and at last.
const ADOPT_SOON: Duration = Duration::from_secs(5);
const ADOPT_AGAIN: Duration = Duration::from_secs(60);

/// Credits charges that the database knows nothing of, and books what has become of them, at start and every [`ADOPT_EVERY`],
/// until `stop` becomes true.
pub async fn adopt(top_ups: TopUps, charges: Charges, mut stop: watch::Receiver<bool>) {
    // Their events may have come, and been ignored, before their rows were there. A process that ends forgets this list, and
    // the next one finds them among those without a charge.
    let mut unaligned: Vec<String> = Vec::new();
    let mut forgotten_after = None;
    let mut soon = ADOPT_SOON;
    loop {
        if stopped_before_ours(top_ups.account(), &mut stop).await {
            return;
        }
        let align = |intent: &str| {
            let (aligning, intent) = (charges.align(intent), intent.to_owned());
            let aligned: Pin<Box<dyn Future<Output = bool> + Send>> =
                Box::pin(async move { is_aligned(&intent, &aligning.await) });
            aligned
        };
        for intent in std::mem::take(&mut unaligned) {
            if !align(&intent).await {
                unaligned.push(intent);
            }
        }
        let mut is_done = false;
        match top_ups.adopt(None, &align).await {
            Ok(adoption) => {
                if adoption.adopted > 0 {
                    tracing::warn!(
                        top_ups.adopted = adoption.adopted,
                        "charges that were missing from the database are credited again"
                    );
                }
                is_done = adoption.waiting == 0;
                unaligned.extend(adoption.unaligned);
            }
            Err(error) => tracing::warn!(%error, "Stripe's charges could not be compared with the database"),
        }
        loop {
            match charges.align_forgotten(forgotten_after).await {
                Ok(next) => forgotten_after = next,
                Err(error) => {
                    tracing::error!(%error, "top-ups without a charge could not be read");
                    break;
                }
            }
            if forgotten_after.is_none() || *stop.borrow() {
                break;
            }
        }
        let pause = match is_done && unaligned.is_empty() && forgotten_after.is_none() {
            true => {
                soon = ADOPT_SOON;
                ADOPT_EVERY
            }
            false => {
                let later = soon.saturating_mul(2).min(ADOPT_AGAIN);
                std::mem::replace(&mut soon, later)
            }
        };
        if stopped_within(pause, &mut stop).await {
            return;
        }
    }
}

fn is_aligned(intent: &str, aligned: &Aligned) -> bool {
    let obstacle = aligned.obstacle();
    if let Some(why) = obstacle {
        tracing::warn!(payment_intent = intent, why, "what has become of a charge is not booked yet");
    }
    obstacle.is_none()
}

/// Renews this node's lease every [`RENEW_EVERY`]. Runs until it is aborted, because the lease is needed to the end.
pub async fn renew(ledger: Ledger) {
    loop {
        if let Err(error) = ledger.renew_lease().await {
            tracing::error!(%error, "this node's lease could not be renewed");
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

/// Finishes what dead nodes left, and looks whether new payers are to be paused. Apart from [`renew`], because it may take long.
pub async fn sweep(ledger: Ledger, top_ups: TopUps) {
    let shield = top_ups.shield();
    loop {
        match ledger.sweep().await {
            Ok(0) => {}
            Ok(ended) => tracing::info!(nodes.ended = ended, "what dead nodes left is finished"),
            Err(error) => tracing::error!(%error, "what dead nodes left could not be looked at"),
        }
        if let Err(error) = shield.watch().await {
            tracing::error!(%error, "whether new payers are to be paused could not be looked at");
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

/// Asks Stripe once whether the key may do what the settings want, as soon as it is known that it is the right one.
pub async fn ask_for_permissions(top_ups: TopUps, account: Account, mut stop: watch::Receiver<bool>) {
    if !stopped_before_ours(&account, &mut stop).await {
        top_ups.ask_whether_cards_may_be_checked().await;
    }
}

/// Between two looks for what has expired.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// Old events are looked for with every so many of them: once an hour.
const LOOKS_TO_TIDY_EVENTS: u32 = 120;

/// Removes what has expired: `Idempotency-Key`s, attempts to pay, events. Apart from [`sweep`], because after a busy day it takes
/// long.
pub async fn tidy(db: Db, top_ups: TopUps, inbox: Inbox) {
    for look in (0..LOOKS_TO_TIDY_EVENTS).cycle() {
        remove_all("idempotency keys", || answers::delete_expired(&db)).await;
        remove_all("attempts to pay", || top_ups.shield().forget()).await;
        remove_all("checks of cards", || top_ups.forget_card_checks()).await;
        if look == 0 {
            remove_all("events", || inbox.tidy()).await;
        }
        tokio::time::sleep(TIDY_EVERY).await;
    }
}

/// Removes what has expired in steps, until nothing is left. After each step, whoever waits to write has as long as it took.
async fn remove_all<F>(what: &str, step: impl Fn() -> F)
where
    F: Future<Output = Result<u64, DbError>>,
{
    loop {
        let begun = Instant::now();
        match step().await {
            Ok(0) => return,
            Ok(_) => tokio::time::sleep(begun.elapsed()).await,
            Err(error) => {
                tracing::error!(%error, "expired {what} could not be removed");
                return;
            }
        }
    }
}

/// Looks whether the database takes writes and is still the same one. Runs until it is aborted.
pub(crate) async fn watch_database(watch: DatabaseWatch) {
    watch.run().await;
}

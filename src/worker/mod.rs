//! Background loops around one-step functions. A failing step is logged and tried again; it never stops the others.

use std::time::Duration;

use tokio::sync::watch;

use crate::db::Db;
use crate::ledger::nodes::RENEW_EVERY;
use crate::ledger::{Ledger, answers};
use crate::top_up::TopUps;

/// Time between two steps of the reconciler.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(10);

/// Runs the reconciler's step at start and every [`RECONCILE_EVERY`], until `stop` becomes true.
pub async fn reconcile(top_ups: TopUps, mut stop: watch::Receiver<bool>) {
    loop {
        match top_ups.reconcile().await {
            Ok(0) => {}
            Ok(ended) => tracing::info!(top_ups.ended = ended, "open top-ups have been settled"),
            Err(error) => tracing::error!(%error, "the reconciler could not read open top-ups"),
        }
        tokio::select! {
            () = tokio::time::sleep(RECONCILE_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Time between two passes over Stripe's list of charges, and between two tries when Stripe cannot be asked.
pub const ADOPT_EVERY: Duration = Duration::from_secs(3_600);
const ADOPT_AGAIN: Duration = Duration::from_secs(60);

/// Credits charges that the database knows nothing of, at start and every [`ADOPT_EVERY`], until `stop` becomes true.
pub async fn adopt(top_ups: TopUps, mut stop: watch::Receiver<bool>) {
    loop {
        let pause = match top_ups.adopt(None).await {
            Ok(adoption) => {
                if adoption.adopted > 0 {
                    tracing::warn!(
                        top_ups.adopted = adoption.adopted,
                        "charges that were missing from the database are credited again"
                    );
                }
                if adoption.waiting > 0 { ADOPT_AGAIN } else { ADOPT_EVERY }
            }
            Err(error) => {
                tracing::warn!(%error, "Stripe's charges could not be compared with the database");
                ADOPT_AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
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

/// Expired `Idempotency-Key`s are removed with every so many sweeps.
const SWEEPS_TO_TIDY: u32 = 10;

/// Finishes what dead nodes left, and removes expired `Idempotency-Key`s. Apart from [`renew`], because it may take long.
pub async fn sweep(ledger: Ledger, db: Db) {
    for sweep in (0..SWEEPS_TO_TIDY).cycle() {
        match ledger.sweep().await {
            Ok(0) => {}
            Ok(ended) => tracing::info!(nodes.ended = ended, "what dead nodes left is finished"),
            Err(error) => tracing::error!(%error, "what dead nodes left could not be looked at"),
        }
        if sweep == 0
            && let Err(error) = answers::delete_expired(&db).await
        {
            tracing::error!(%error, "expired idempotency keys could not be removed");
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

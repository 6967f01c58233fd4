//! Background loops around one-step functions. A failing step is logged and tried again; it never stops the others.

use std::time::Duration;

use tokio::sync::watch;

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

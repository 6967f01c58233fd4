//! The reconciler's step: every attempt whose outcome is open is asked after at Stripe until it is terminal.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::flights::FlightKey;
use super::store::{self, State, TopUpRow};
use super::{FailureReason, Landed, TopUpOutcome, TopUps, after};
use crate::db::{DbError, now_micros};
use crate::domain::TopUpId;
use crate::stripe::{PaymentIntentStatus, StripeFailure};

/// Attempts read at once.
const MAX_A_STEP: i64 = 100;
/// What one attempt may take of a step.
const DEADLINE: Duration = Duration::from_secs(15);
/// Between two looks at what another node is working on.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Stripe keeps idempotency keys for at least 24 hours; after this, intents are looked for in the list instead.
const KEY_LIFE_MICROS: i64 = 23 * 60 * 60 * 1_000_000;

impl TopUps {
    /// Looks once at every open attempt that nobody in this process is working on. Answers how many have ended.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn reconcile(&self) -> Result<usize, DbError> {
        let (mut seen, mut ended) = (HashSet::new(), 0usize);
        loop {
            let mut rows = store::open(&self.0.db, MAX_A_STEP, self.0.ledger.node()).await?;
            let is_full = i64::try_from(rows.len()) == Ok(MAX_A_STEP);
            // What was looked at comes last from then on.
            rows.retain(|row| seen.insert(row.id));
            let is_last = !is_full || rows.is_empty();
            for row in rows {
                let top_ups = self.clone();
                let work = self
                    .0
                    .tasks
                    .spawn(async move { top_ups.reconcile_one(&row, after(DEADLINE), false).await });
                if matches!(work.await, Ok(Landed::Credited | Landed::Failed(_))) {
                    ended = ended.saturating_add(1);
                }
            }
            if is_last {
                return Ok(ended);
            }
        }
    }

    /// Settles one open attempt now, for a caller who waits. Goes on when the caller has gone. [`Landed::Nothing`]: it was
    /// settled in the meantime.
    pub async fn settle_now(&self, row: &TopUpRow) -> Landed {
        let (top_ups, row) = (self.clone(), row.clone());
        let id = row.id;
        let work = self.0.tasks.spawn(async move {
            // Whoever is charging for this payer right now knows the outcome first.
            let client = row.client.map(FlightKey::Client);
            let keys: Vec<FlightKey> =
                client.into_iter().chain(row.pm_hash.map(FlightKey::PaymentMethod)).collect();
            if let Some(mut landing) = top_ups.0.flights.in_the_air(&keys) {
                let _ = landing.wait_for(Option::is_some).await;
            }
            top_ups.reconcile_one(&row, after(DEADLINE), true).await
        });
        work.await.unwrap_or(Landed::Pending(id))
    }

    /// Settles one open attempt, unless somebody in this process is working on it. When another node is: `waits` until that
    /// has ended, or lets it be.
    pub(super) async fn reconcile_one(&self, row: &TopUpRow, deadline: Instant, waits: bool) -> Landed {
        let Some(_claim) = self.0.flights.claim(row.id) else {
            // Somebody who only looks holds it too, after the end.
            return match store::by_id(&self.0.db, row.id).await {
                Ok(Some(row)) if !row.state.is_open() => Landed::Nothing,
                _ => Landed::Pending(row.id),
            };
        };
        loop {
            match store::claim(&self.0.db, row.id, self.0.ledger.node().to_owned()).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, top_up.id = %row.id, "an open top-up could not be looked at");
                    return Landed::Pending(row.id);
                }
            }
            match store::by_id(&self.0.db, row.id).await {
                Ok(Some(row)) if !row.state.is_open() => return Landed::Nothing,
                Ok(None) => return Landed::Nothing,
                Ok(Some(_)) if waits && Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
                Ok(Some(_)) | Err(_) => return Landed::Pending(row.id),
            }
        }
        let landed = self.ask_stripe(row, deadline).await;
        self.let_go(row.id).await;
        landed
    }

    /// Lets other nodes work on an attempt that this one has looked at. If that cannot be stored, this node goes on with it.
    pub(super) async fn let_go(&self, id: TopUpId) {
        if let Err(error) = store::let_go(&self.0.db, id, self.0.ledger.node().to_owned()).await {
            tracing::warn!(%error, top_up.id = %id, "a top-up could not be left to other nodes");
        }
    }

    async fn ask_stripe(&self, row: &TopUpRow, deadline: Instant) -> Landed {
        // Another account knows nothing of it, and would be asked to make it anew.
        if !self.0.account.is_ours().await {
            return Landed::Pending(row.id);
        }
        // Whoever had it before may have ended it, or got further.
        let row = match store::by_id(&self.0.db, row.id).await {
            Ok(Some(row)) if row.state.is_open() => row,
            Ok(_) => return Landed::Nothing,
            Err(_) => return Landed::Pending(row.id),
        };
        let outcome = match &row.payment_intent {
            Some(intent) => {
                let answer = self.0.stripe.retrieve_payment_intent(intent, deadline).await;
                match answer {
                    Ok(facts) => self.settle(&row, &facts, FailureReason::Abandoned, None, deadline).await,
                    Err(failure) => {
                        tracing::warn!(
                            top_up.id = %row.id, class = failure.class(), stripe.request = failure.request_id(),
                            "an open top-up could not be asked after"
                        );
                        TopUpOutcome::Pending(row.id)
                    }
                }
            }
            None => self.find_and_cancel(&row, deadline).await,
        };
        match outcome {
            TopUpOutcome::Recorded(_) => Landed::Credited,
            TopUpOutcome::Failed(reason) => Landed::Failed(reason),
            TopUpOutcome::Shared(landed) => landed,
            TopUpOutcome::Pending(_)
            | TopUpOutcome::Recognised
            | TopUpOutcome::Unchecked
            | TopUpOutcome::InProgress
            | TopUpOutcome::Barred(_)
            | TopUpOutcome::UpstreamUnreachable
            | TopUpOutcome::Unavailable => Landed::Pending(row.id),
        }
    }

    /// The row has no intent, so nothing was confirmed and nothing charged; an intent may exist all the same.
    async fn find_and_cancel(&self, row: &TopUpRow, deadline: Instant) -> TopUpOutcome {
        debug_assert_eq!(row.state, State::Created);
        let age = now_micros().saturating_sub(row.created_at);
        let intents = if age < KEY_LIFE_MICROS { self.same_intent(row, deadline).await } else { None };
        let intents = match intents {
            Some(found) => Ok(found),
            None => self.listed_intents(row, deadline).await,
        };
        let intents = match intents {
            Ok(intents) => intents,
            Err(failure) => {
                tracing::warn!(top_up.id = %row.id, class = failure.class(), "an unfinished top-up could not be tidied up");
                return TopUpOutcome::Pending(row.id);
            }
        };
        let Some((last, others)) = intents.split_last() else {
            return self.fail(row, FailureReason::Abandoned).await;
        };
        for intent in others {
            match self.cancelled(row, intent, deadline).await {
                Ok(facts) if facts.status == PaymentIntentStatus::Canceled => {}
                Ok(_) | Err(_) => return TopUpOutcome::Pending(row.id),
            }
        }
        let customer = row.stripe_customer.clone().unwrap_or_default();
        match self.0.account.set_confirming(row.id, customer, last.clone()).await {
            Ok(true) => {
                let answer = self.0.stripe.retrieve_payment_intent(last, deadline).await;
                match answer {
                    Ok(facts) => self.settle(row, &facts, FailureReason::Abandoned, None, deadline).await,
                    Err(_) => TopUpOutcome::Pending(row.id),
                }
            }
            Ok(false) | Err(_) => TopUpOutcome::Pending(row.id),
        }
    }

    /// Asks for the intent again under the same keys, which answers the one there is. `None`: the keys did not help.
    async fn same_intent(&self, row: &TopUpRow, deadline: Instant) -> Option<Vec<String>> {
        let own = match row.client {
            Some(client) => self.stripe_customer(client).await.ok()?,
            None => None,
        };
        let (_, intent) = self.make_intent(row, own, deadline).await.ok()?;
        Some(vec![intent])
    }

    /// Intents of the row's creation time that carry its id.
    async fn listed_intents(&self, row: &TopUpRow, deadline: Instant) -> Result<Vec<String>, StripeFailure> {
        let created = row.created_at.div_euclid(1_000_000);
        let listed = self
            .0
            .stripe
            .list_payment_intents_created_between(
                created.saturating_sub(300),
                created.saturating_add(3_600),
                deadline,
            )
            .await?;
        let id = row.id.to_string();
        Ok(listed
            .into_iter()
            .filter(|facts| facts.top_up_id.as_deref() == Some(id.as_str()))
            .map(|facts| facts.id)
            .collect())
    }
}

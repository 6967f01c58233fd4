//! Charges whose rows are lost: Stripe has made them, and an older copy of the database, put back from a backup, knows nothing
//! of them. They are found by their metadata and credited again, by the one path on which an outcome is recorded; and right after
//! it, what has been given back of them since, or disputed, is taken again.
//!
//! A row is older than its charge, so a charge of ours without a row has no other explanation. What has a row is left alone, and
//! so is what another gateway on the same Stripe account has charged.

use std::pin::Pin;
use std::time::Duration;

use super::store::{self, AdoptedTopUp};
use super::{TopUps, after, installation};
use crate::db::{DbError, now_micros};
use crate::domain::{ClientPublicId, TopUpId, minor_text};
use crate::stripe::{PaymentIntentStatus, RecoverablePayment, StripeFailure, UnknownReason};

/// Looked at again with every pass: clocks differ, and a charge may succeed some time after it was made. In seconds.
const OVERLAP: i64 = 3_600;
/// Stripe's clock may be ahead of ours by this many seconds.
const AHEAD: i64 = 300;
/// Charges of so many seconds are asked for at once; fewer where there are more than one list may hold.
const SPAN: i64 = 24 * 3_600;
/// What stays without credit is looked for this many seconds; from then on only when it is asked for.
const PATIENCE: i64 = 7 * 24 * 3_600;
/// To read one list.
const LIST_DEADLINE: Duration = Duration::from_secs(60);

/// Settles the top-up of a PaymentIntent and books what has become of its charge since. `false`: not all of it yet.
pub type Align<'a> = &'a (dyn Fn(&str) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync);

/// What a pass has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Charges of this gateway that succeeded, or are still being worked on.
    pub seen: usize,
    /// Those that had no row and have one now. They are credited, or the reconciler will credit them.
    pub adopted: usize,
    /// PaymentIntents of those for which not everything is booked yet.
    pub unaligned: Vec<String>,
    /// Those that have no row yet, because another attempt of the same payer is open: the next pass takes them.
    pub waiting: usize,
    /// Those without a row that a person must look at; why, the log says.
    pub left_out: usize,
}

/// Why a pass could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Stripe did not tell all.
    #[error("Stripe did not list its payments: {}", .0.class())]
    Stripe(StripeFailure),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What became of one charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    HasRow,
    Adopted,
    Waiting,
    LeftOut,
}

impl TopUps {
    /// Credits every charge of this gateway that has no row. Without `since` (Unix seconds, by Stripe's clock): those made since
    /// the last pass that was complete, and in the hour before it. Each is aligned at once. Idempotent.
    ///
    /// # Errors
    /// [`AdoptError`]; what was credited by then stays.
    pub async fn adopt(&self, since: Option<i64>, align: Align<'_>) -> Result<Adoption, AdoptError> {
        let usual = installation::compared_until(&self.0.db).await?.saturating_sub(OVERLAP);
        let began = now_micros().div_euclid(1_000_000);
        let from = since.unwrap_or(usual);
        let mut payments = self.list(from, began.saturating_add(AHEAD)).await?;
        // In the order in which they were made: the first of a new client makes the client.
        payments.sort_by(|one, other| {
            (one.facts.created, &one.facts.top_up_id).cmp(&(other.facts.created, &other.facts.top_up_id))
        });
        let mut adoption = Adoption::default();
        let mut complete_until = began;
        for payment in &payments {
            adoption.seen = adoption.seen.saturating_add(1);
            let counter = match self.adopt_one(payment).await? {
                Found::HasRow => continue,
                Found::Adopted => {
                    adoption.adopted = adoption.adopted.saturating_add(1);
                    // Before anything else: what was given back since must not be spent.
                    if !align(&payment.facts.id).await {
                        adoption.unaligned.push(payment.facts.id.clone());
                    }
                    continue;
                }
                Found::Waiting => &mut adoption.waiting,
                Found::LeftOut => &mut adoption.left_out,
            };
            *counter = counter.saturating_add(1);
            complete_until = complete_until.min(payment.facts.created);
        }
        // A pass that began later than the usual one has not seen what is between.
        if from <= usual {
            let until = complete_until.max(began.saturating_sub(PATIENCE));
            installation::set_compared_until(&self.0.db, until).await?;
        }
        Ok(adoption)
    }

    /// The charges of this gateway that were made from one second to another.
    async fn list(&self, from: i64, to: i64) -> Result<Vec<RecoverablePayment>, AdoptError> {
        let (mut found, mut foreign) = (Vec::new(), 0usize);
        let mut spans = Vec::new();
        let mut start = from;
        while start <= to {
            let end = start.saturating_add(SPAN).min(to);
            spans.push((start, end));
            start = end.saturating_add(1);
        }
        while let Some((start, end)) = spans.pop() {
            let stripe = &self.0.stripe;
            match stripe.list_recoverable(self.0.installation, start, end, after(LIST_DEADLINE)).await {
                Ok(listed) => {
                    foreign = foreign.saturating_add(listed.foreign);
                    found.extend(listed.ours.into_iter().filter(|payment| {
                        matches!(
                            payment.facts.status,
                            PaymentIntentStatus::Succeeded | PaymentIntentStatus::Processing
                        )
                    }));
                }
                Err(StripeFailure::Unknown { reason: UnknownReason::TooMany, .. }) if start < end => {
                    let middle = start.midpoint(end);
                    spans.push((start, middle));
                    spans.push((middle.saturating_add(1), end));
                }
                Err(failure) => return Err(AdoptError::Stripe(failure)),
            }
        }
        tracing::debug!(
            payments.ours = found.len(),
            payments.foreign = foreign,
            "Stripe's payments are listed"
        );
        Ok(found)
    }

    async fn adopt_one(&self, payment: &RecoverablePayment) -> Result<Found, DbError> {
        let Some(id) = payment.facts.top_up_id.as_deref().and_then(TopUpId::parse) else {
            return Ok(left_out(payment, "its metadata does not name a top-up"));
        };
        if store::is_known(&self.0.db, id, payment.facts.id.clone()).await? {
            return Ok(Found::HasRow);
        }
        let lost = match self.lost_row(id, payment).await? {
            Ok(lost) => lost,
            Err(why) => return Ok(left_out(payment, why)),
        };
        // The first charge of a new client makes the client, and its card alone leads back to it.
        if lost.client.is_none() && store::is_awaited(&self.0.db, lost.key).await? {
            return Ok(Found::Waiting);
        }
        if !self.insert_lost(id, lost).await? {
            // Made by another node in this moment, or the payer has an open attempt, which must end first.
            let known = store::is_known(&self.0.db, id, payment.facts.id.clone()).await?;
            return Ok(if known { Found::HasRow } else { Found::Waiting });
        }
        self.0.account.has_listed_ours();
        tracing::warn!(
            top_up.id = %id, payment_intent = payment.facts.id,
            stripe.amount = minor_text(payment.facts.amount_minor, &payment.facts.currency),
            "a charge that this database knew nothing of is credited again: the database is older than the charge"
        );
        Ok(Found::Adopted)
    }

    /// The row as it was, or why it cannot be made again.
    async fn lost_row(
        &self,
        id: TopUpId,
        payment: &RecoverablePayment,
    ) -> Result<Result<AdoptedTopUp, &'static str>, DbError> {
        let (facts, recovery) = (&payment.facts, &payment.recovery);
        if facts.livemode != self.0.is_live {
            return Ok(Err("it is of the other mode, live or test, than the keys"));
        }
        if facts.currency != self.0.currency.code() {
            return Ok(Err("it is in another currency than this gateway's"));
        }
        let Some(amount) = self.0.currency.minor_to_micros(facts.amount_minor).filter(|a| !a.is_zero())
        else {
            return Ok(Err("its amount cannot be credited"));
        };
        let client = store::client_by_public_id(&self.0.db, payment.client).await?;
        if client.is_none() && ClientPublicId::of_first_key(recovery.key) != payment.client {
            return Ok(Err(
                "its client is not known, and its client key is not the one that makes this client",
            ));
        }
        let derived = self.0.key_secret.again(recovery.key, recovery.key_secret).map(|key| key.hash());
        let stored = store::hash_of_key(&self.0.db, recovery.key).await?;
        let Some(key_hash) = stored.or(derived) else {
            return Ok(Err(
                "the key secret that its client key derives from is gone: put it back and start again",
            ));
        };
        let card = facts.payment_method.as_ref().filter(|card| !card.is_shared_test_name());
        Ok(Ok(AdoptedTopUp {
            id,
            client,
            key: recovery.key,
            key_secret: recovery.key_secret,
            key_hash,
            pm_hash: card.map(crate::domain::PaymentMethodId::hash),
            request_key: recovery.request_key,
            amount,
            bonus: recovery.bonus,
            currency: self.0.currency,
            stripe_customer: facts.customer.clone(),
            payment_intent: facts.id.clone(),
            created_at: facts.created.saturating_mul(1_000_000),
        }))
    }

    /// `false`: something with which it cannot be at the same time is there.
    async fn insert_lost(&self, id: TopUpId, lost: AdoptedTopUp) -> Result<bool, DbError> {
        let without_request_key = AdoptedTopUp { request_key: None, ..lost.clone() };
        match store::insert_adopted(&self.0.db, lost).await {
            Err(error) if store::is_unique_violation(&error) => {}
            other => return other.map(|()| true),
        }
        // The payer may have repeated its request in the meantime, and been charged again: both charges are credited.
        match store::insert_adopted(&self.0.db, without_request_key).await {
            Ok(()) => {
                tracing::error!(top_up.id = %id, "its Idempotency-Key has charged a second time since the database was put back");
                Ok(true)
            }
            Err(error) if store::is_unique_violation(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn left_out(payment: &RecoverablePayment, why: &'static str) -> Found {
    tracing::error!(
        payment_intent = payment.facts.id,
        stripe.amount = minor_text(payment.facts.amount_minor, &payment.facts.currency),
        why,
        "a charge that this database knows nothing of is not credited; a person must look"
    );
    Found::LeftOut
}

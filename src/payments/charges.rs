//! What has become of a charge, read from Stripe and applied: the one path, whoever noticed first.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::parts::PaymentParts;
use super::refunds::Refunds;
use crate::db::DbError;
use crate::domain::{Currency, Micros, RefundId, TopUpId};
use crate::ledger::aftermath::{
    Change, ChargeFacts, DisputeFacts, DisputeMovement, Movement, RefundFacts, RefundOrigin, RefundStatus,
    WarningFacts,
};
use crate::ledger::{LedgerError, Refusal};
use crate::stripe::{ChargeAftermath, StripeDispute, StripeFailure, StripeMovement, StripeRefund};
use crate::top_up::store::State;

/// What one look at a charge may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// Top-ups looked at in one pass of [`Charges::align_forgotten`].
pub const MAX_A_PASS: i64 = 50;

/// Aligns our books with Stripe's, charge by charge. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Charges(Arc<PaymentParts>);

/// What became of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aligned {
    /// The books say what Stripe said.
    Done,
    /// Not a charge of this gateway's, or nothing was charged.
    Nothing(&'static str),
    /// Stripe says for certain that there is no such object.
    Missing,
    /// It could not be applied; look again.
    NotYet(String),
}

impl Aligned {
    /// What stands in the way of the books being right, if something does.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        match self {
            Self::Done | Self::Nothing(_) => None,
            Self::Missing => Some("Stripe has no such object"),
            Self::NotYet(why) => Some(why),
        }
    }
}

fn not_read(failure: &StripeFailure) -> Aligned {
    match failure.is_missing() {
        true => Aligned::Missing,
        false => Aligned::NotYet(format!("Stripe could not be asked: {}", failure.class())),
    }
}

impl Charges {
    /// Made of the same parts as [`Refunds`].
    #[must_use]
    pub fn new(parts: Arc<PaymentParts>) -> Self {
        Self(parts)
    }

    /// Reads everything that Stripe knows about a PaymentIntent's charge and applies it. Idempotent. Goes on when whoever asked
    /// has gone.
    ///
    /// Boxed, because aligning may ask for a refund, which aligns.
    pub fn align(&self, payment_intent: &str) -> Pin<Box<dyn Future<Output = Aligned> + Send>> {
        let (charges, intent) = (self.clone(), payment_intent.to_owned());
        let tasks = self.0.tasks.clone();
        Box::pin(async move {
            let work = tasks.spawn(async move { charges.align_now(&intent).await });
            work.await.unwrap_or_else(|error| Aligned::NotYet(error.to_string()))
        })
    }

    /// Aligns succeeded top-ups of which nothing but the credit is booked yet, because this process or another one ended before
    /// it came to that: [`MAX_A_PASS`] of them, those after a certain one. Usually there are none, or some whose event is still
    /// on its way. Answers after which one to go on; `None`: these were the last.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn align_forgotten(&self, after: Option<TopUpId>) -> Result<Option<TopUpId>, DbError> {
        let forgotten = self.0.top_ups.without_charge(after, MAX_A_PASS).await?;
        for (_, intent) in &forgotten {
            if let Some(why) = self.align(intent).await.obstacle() {
                tracing::warn!(payment_intent = intent, why, "what has become of a charge is not booked yet");
            }
        }
        let is_full = i64::try_from(forgotten.len()) == Ok(MAX_A_PASS);
        Ok(forgotten.last().filter(|_| is_full).map(|(id, _)| *id))
    }

    /// The same, for any object that is about a charge: the charge, a refund, a dispute, an early fraud warning.
    pub async fn align_object(&self, object: &str) -> Aligned {
        match self.0.stripe.intent_of(object, crate::top_up::after(DEADLINE)).await {
            Ok(Some(intent)) => self.align(&intent).await,
            Ok(None) => Aligned::Nothing("it is about no PaymentIntent"),
            Err(failure) => not_read(&failure),
        }
    }

    async fn align_now(&self, intent: &str) -> Aligned {
        let is_of_former = match self.0.top_ups.is_of_former_account(intent).await {
            Ok(is_of_former) => is_of_former,
            Err(error) => return Aligned::NotYet(error.to_string()),
        };
        let deadline = crate::top_up::after(DEADLINE);
        let seen = match self.0.stripe.charge_aftermath(intent, deadline).await {
            Ok(seen) => seen,
            Err(failure) if is_of_former && failure.is_missing() => {
                return Aligned::Nothing("charged in a former Stripe account");
            }
            Err(failure) => return not_read(&failure),
        };
        // Whoever knows it is its account: somebody has come back to it, or had given it up by mistake.
        if is_of_former && let Err(error) = self.0.top_ups.take_back(intent).await {
            return Aligned::NotYet(error.to_string());
        }
        let Some(id) = seen.top_up_id.as_deref().and_then(TopUpId::parse) else {
            return Aligned::Nothing("not a top-up");
        };
        let row = match self.0.top_ups.find(id).await {
            Ok(Some(row)) => row,
            Ok(None) => return Aligned::Nothing("a top-up of another gateway"),
            Err(error) => return Aligned::NotYet(error.to_string()),
        };
        let is_anothers = row.payment_intent.as_deref().is_some_and(|known| known != intent);
        if row.state.is_open() && !is_anothers {
            let _ = self.0.top_ups.settle_now(&row).await;
        }
        let Some(charge) = seen.charge.as_ref().filter(|charge| charge.status == "succeeded") else {
            return Aligned::Nothing("nothing was charged");
        };
        if row.state == State::Failed || is_anothers {
            return astray(id, &seen);
        }
        let charge_id = charge.id.clone();
        let Some(facts) = facts(id, charge_id, &seen, row.currency) else {
            tracing::error!(top_up.id = %id, "Stripe tells amounts that make no sense; a person must look");
            return Aligned::NotYet("amounts of Stripe's make no sense".to_owned());
        };
        match self.0.ledger.change(Change::Align(facts)).await {
            Ok(_) => {}
            Err(LedgerError::Refused(Refusal::NotCharged)) => {
                return Aligned::NotYet("the top-up is not recorded yet".to_owned());
            }
            Err(error) => {
                tracing::error!(%error, top_up.id = %id, "what has become of a charge cannot be booked");
                return Aligned::NotYet(error.to_string());
            }
        }
        self.answer_warnings(id, &seen).await
    }

    /// A refund keeps the dispute away that a warning announces.
    async fn answer_warnings(&self, id: TopUpId, seen: &ChargeAftermath) -> Aligned {
        if !self.0.refund_on_fraud_warning || !seen.disputes.is_empty() {
            return Aligned::Done;
        }
        let refunds = Refunds::new(Arc::clone(&self.0));
        for warning in seen.warnings.iter().filter(|warning| warning.actionable) {
            match refunds.because_of_warning(id, &warning.id).await {
                Ok(()) => {}
                Err(LedgerError::Refused(Refusal::ExceedsCharge)) => {}
                Err(error) => return Aligned::NotYet(error.to_string()),
            }
        }
        Aligned::Done
    }
}

/// A charge that nobody was credited for, and nobody will be. It has ended when it has been given back; should that fail after
/// all, Stripe tells, and it is looked at again.
fn astray(id: TopUpId, seen: &ChargeAftermath) -> Aligned {
    let intent = seen.payment_intent.as_str();
    if seen.is_given_back() {
        tracing::info!(top_up.id = %id, payment_intent = intent, "what was charged astray has been given back");
        return Aligned::Done;
    }
    tracing::error!(
        top_up.id = %id, payment_intent = intent,
        "Stripe charged what is failed here, or was charged otherwise; nothing is credited, a person must look"
    );
    Aligned::NotYet(format!("{intent} was charged for top-up {id}, which does not know of it"))
}

/// Stripe's objects in our terms. `None`: an amount is out of range.
fn facts(top_up: TopUpId, charge: String, seen: &ChargeAftermath, currency: Currency) -> Option<ChargeFacts> {
    let stripe_charge = seen.charge.as_ref()?;
    let fee = stripe_charge.balance_transaction.as_ref();
    let fee = match fee.filter(|movement| movement.currency == currency.code()) {
        None => None,
        Some(movement) => {
            Some(Movement { id: movement.id.clone(), amount: currency.minor_to_micros(movement.fee)? })
        }
    };
    Some(ChargeFacts {
        top_up,
        charge,
        fingerprint: stripe_charge.fingerprint().map(str::to_owned),
        fee,
        refunds: seen.refunds.iter().map(|refund| refund_facts(refund, currency)).collect::<Option<_>>()?,
        disputes: seen
            .disputes
            .iter()
            .map(|dispute| dispute_facts(dispute, currency))
            .collect::<Option<_>>()?,
        warnings: seen
            .warnings
            .iter()
            .map(|warning| WarningFacts {
                id: warning.id.clone(),
                kind: warning.fraud_type.clone(),
                created: warning.created,
            })
            .collect(),
    })
}

fn refund_facts(refund: &StripeRefund, currency: Currency) -> Option<RefundFacts> {
    let status = match refund.status.as_deref() {
        Some("succeeded") => RefundStatus::Succeeded,
        _ if refund.has_failed() => RefundStatus::Failed,
        // What is not known to have ended is on its way.
        _ => RefundStatus::Pending,
    };
    let origin = match refund.reason.as_deref() {
        Some("fraudulent") => RefundOrigin::FraudWarning,
        _ => RefundOrigin::Operator,
    };
    Some(RefundFacts {
        asked: refund.request_key().map(|key| (origin, key.hex())),
        id: refund.id.clone(),
        ours: refund.ours().and_then(RefundId::parse),
        amount: currency.minor_to_micros(refund.amount)?,
        status,
        failure: refund.failure_reason.clone(),
    })
}

fn dispute_facts(dispute: &StripeDispute, currency: Currency) -> Option<DisputeFacts> {
    let amount = currency.minor_to_micros(dispute.amount)?;
    let mut transactions: Vec<&StripeMovement> = dispute.balance_transactions.iter().collect();
    // What was taken comes before what is given back, also within one second.
    transactions.sort_by(|a, b| (a.created, a.amount, &a.id).cmp(&(b.created, b.amount, &b.id)));
    let movements = transactions
        .into_iter()
        .filter(|movement| movement.amount != 0)
        .map(|movement| movement_facts(movement, amount, currency))
        .collect::<Option<_>>()?;
    Some(DisputeFacts {
        id: dispute.id.clone(),
        amount,
        status: dispute.status.clone(),
        reason: dispute.reason.clone(),
        due_by: dispute.evidence_details.as_ref().and_then(|details| details.due_by),
        created: dispute.created,
        movements,
    })
}

/// A movement in another currency than the client's is taken for the whole of the dispute, and its fee is left to the
/// settlement currency's books, which are not ours.
fn movement_facts(movement: &StripeMovement, whole: Micros, currency: Currency) -> Option<DisputeMovement> {
    let is_same = movement.currency == currency.code();
    let amount = if is_same { currency.minor_to_micros(movement.amount.checked_abs()?)? } else { whole };
    let fee = if is_same { currency.minor_to_micros(movement.fee.checked_abs()?)? } else { Micros::ZERO };
    Some(DisputeMovement {
        id: movement.id.clone(),
        amount,
        is_reinstated: movement.amount > 0,
        fee,
        fee_is_returned: movement.fee < 0,
    })
}

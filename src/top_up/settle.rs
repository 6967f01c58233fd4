//! What a PaymentIntent's state means for its top-up. The one path on which an outcome is recorded: the request, the
//! reconciler and Stripe's events all end here, in any order and as often as they like.

use tokio::time::Instant;

use super::store::{self, TopUpRow};
use super::{FailureReason, Recorded, TopUpOutcome, TopUps};
use crate::db::now_micros;
use crate::domain::{Micros, minor_text};
use crate::ledger::keys::KeyLookup;
use crate::ledger::{LedgerError, SucceededCharge};
use crate::stripe::{DeclineKind, PaymentIntentFacts, PaymentIntentStatus, RefusalKind, StripeFailure};

impl TopUps {
    /// What a confirmation, or a read of the intent, means.
    pub(super) async fn conclude(
        &self,
        row: &TopUpRow,
        intent: &str,
        answer: Result<PaymentIntentFacts, StripeFailure>,
        reserve: Option<Micros>,
        deadline: Instant,
    ) -> TopUpOutcome {
        match answer {
            Ok(facts) => self.settle(row, &facts, FailureReason::Abandoned, reserve, deadline).await,
            Err(StripeFailure::Unknown { reason, request_id }) => {
                tracing::warn!(
                    top_up.id = %row.id, ?reason, stripe.request = request_id,
                    "Stripe's answer is unknown; the top-up stays open"
                );
                TopUpOutcome::Pending(row.id)
            }
            Err(StripeFailure::Declined(decline)) => {
                tracing::info!(
                    top_up.id = %row.id, stripe.code = decline.stripe_code, stripe.decline = decline.decline_code,
                    "a card was declined"
                );
                let reason = match decline.kind {
                    DeclineKind::Generic => FailureReason::Declined,
                    DeclineKind::AuthenticationRequired => FailureReason::AuthenticationRequired,
                };
                self.cancel(row, intent, reason, reserve, deadline).await
            }
            Err(StripeFailure::Refused(refusal)) => {
                let reason = match refusal.kind {
                    RefusalKind::InvalidPaymentMethod => FailureReason::InvalidPaymentMethod,
                    RefusalKind::IdempotencyMismatch | RefusalKind::Authentication | RefusalKind::Other => {
                        tracing::error!(
                            top_up.id = %row.id, stripe.code = refusal.code, stripe.message = refusal.message,
                            stripe.request = refusal.request_id, "Stripe refuses the gateway's request"
                        );
                        FailureReason::Refused
                    }
                };
                self.cancel(row, intent, reason, reserve, deadline).await
            }
        }
    }

    /// Acts on the state of an intent. `otherwise` is the reason of failure if it turns out not to have charged.
    pub(super) async fn settle(
        &self,
        row: &TopUpRow,
        facts: &PaymentIntentFacts,
        otherwise: FailureReason,
        reserve: Option<Micros>,
        deadline: Instant,
    ) -> TopUpOutcome {
        match &facts.status {
            PaymentIntentStatus::Succeeded => self.record(row, facts, reserve).await,
            PaymentIntentStatus::Canceled => self.fail(row, otherwise).await,
            PaymentIntentStatus::Processing => self.keep_open(row).await,
            PaymentIntentStatus::RequiresPaymentMethod
            | PaymentIntentStatus::RequiresConfirmation
            | PaymentIntentStatus::RequiresCapture => {
                self.cancel(row, &facts.id, otherwise, reserve, deadline).await
            }
            PaymentIntentStatus::RequiresAction => {
                self.cancel(row, &facts.id, FailureReason::AuthenticationRequired, reserve, deadline).await
            }
            PaymentIntentStatus::Other(status) => {
                tracing::error!(top_up.id = %row.id, stripe.status = status, "a PaymentIntent has a state unknown here");
                self.keep_open(row).await
            }
        }
    }

    /// Cancels what did not succeed, so that it never can, before the row is called failed. Stripe decides a race: if the
    /// intent turns out to have succeeded, it is recorded.
    async fn cancel(
        &self,
        row: &TopUpRow,
        intent: &str,
        reason: FailureReason,
        reserve: Option<Micros>,
        deadline: Instant,
    ) -> TopUpOutcome {
        match self.cancelled(row, intent, deadline).await {
            Ok(facts) if facts.status == PaymentIntentStatus::Canceled => self.fail(row, reason).await,
            Ok(facts) if facts.status == PaymentIntentStatus::Succeeded => {
                self.record(row, &facts, reserve).await
            }
            Ok(_) => self.keep_open(row).await,
            Err(failure) => {
                // A decline is final although the intent lives on: only a confirmation of ours could charge it, and none
                // follows. The row stays open until the reconciler has cancelled it.
                tracing::warn!(top_up.id = %row.id, class = failure.class(), "an intent could not be cancelled yet");
                match reason {
                    FailureReason::Declined | FailureReason::AuthenticationRequired => {
                        if let Err(error) = store::note_decline(&self.0.db, row.id, reason.code()).await {
                            tracing::error!(%error, top_up.id = %row.id, "a decline could not be noted");
                        }
                        TopUpOutcome::Failed(reason)
                    }
                    _ => TopUpOutcome::Pending(row.id),
                }
            }
        }
    }

    /// The intent after it was asked to be cancelled; what it is then, the caller must look at.
    ///
    /// Every try has a key of its own: cancelling twice is harmless, and Stripe may remember a 500 under a key for a day.
    pub(super) async fn cancelled(
        &self,
        row: &TopUpRow,
        intent: &str,
        deadline: Instant,
    ) -> Result<PaymentIntentFacts, StripeFailure> {
        let key = format!("{}.cancel.{}", row.id, now_micros());
        match self.0.stripe.cancel_payment_intent(intent, &key, deadline).await {
            Err(StripeFailure::Refused(_)) => self.0.stripe.retrieve_payment_intent(intent, deadline).await,
            answer => answer,
        }
    }

    async fn keep_open(&self, row: &TopUpRow) -> TopUpOutcome {
        if let Err(error) = store::set_pending(&self.0.db, row.id).await {
            tracing::error!(%error, top_up.id = %row.id, "an open top-up could not be marked as pending");
        }
        TopUpOutcome::Pending(row.id)
    }

    /// Turns a succeeded charge into credit. Idempotent; from here on only "recorded" or "pending" is true.
    async fn record(
        &self,
        row: &TopUpRow,
        facts: &PaymentIntentFacts,
        reserve: Option<Micros>,
    ) -> TopUpOutcome {
        if !self.belongs_together(row, facts) {
            return self.keep_open(row).await;
        }
        let Some(key) = self.key_of(row).await else {
            return TopUpOutcome::Pending(row.id);
        };
        let charge = SucceededCharge {
            top_up: row.id,
            payment_intent: facts.id.clone(),
            stripe_customer: facts.customer.clone(),
            payment_method: facts.payment_method.as_ref().map(crate::domain::PaymentMethodId::hash),
            key_shown_prefix: key,
        };
        let (posted, reservation) = match self.0.ledger.record_top_up(charge, reserve).await {
            Ok(recorded) => recorded,
            Err(error) => {
                match &error {
                    LedgerError::Refused(refusal) => {
                        tracing::error!(top_up.id = %row.id, %refusal, "a succeeded charge was refused by the ledger");
                    }
                    LedgerError::Unavailable(_) | LedgerError::Closed => {
                        tracing::error!(top_up.id = %row.id, %error, "a succeeded charge could not be recorded yet");
                    }
                }
                return TopUpOutcome::Pending(row.id);
            }
        };
        tracing::info!(
            top_up.id = %row.id, amount = row.currency.text(row.amount), repeated = posted.repeated,
            "a top-up is recorded"
        );
        match self.0.keys.look_up(row.key_hash).await {
            Ok(KeyLookup::Known(key)) => TopUpOutcome::Recorded(Box::new(Recorded {
                top_up: row.id,
                payment_intent: facts.id.clone(),
                amount: row.amount,
                posted,
                reservation,
                key,
            })),
            // The credit is there; whoever asks again finds it.
            Ok(_) | Err(_) => TopUpOutcome::Pending(row.id),
        }
    }

    /// What people will see of the key. A key whose secret is gone has no prefix to show; the credit matters more.
    async fn key_of(&self, row: &TopUpRow) -> Option<String> {
        match self.promised_key(row) {
            Some(key) => Some(key.shown_prefix().to_owned()),
            None if row.client.is_some() => Some(String::new()),
            None => {
                tracing::error!(
                    top_up.id = %row.id,
                    "the key secret that this top-up's client key derives from is gone; restore it, or nobody can spend the credit"
                );
                Some(String::new())
            }
        }
    }

    /// Whether Stripe's object is the charge that this row asked for. A mismatch credits nothing and calls for a person.
    fn belongs_together(&self, row: &TopUpRow, facts: &PaymentIntentFacts) -> bool {
        let same = is_the_charge_of(row, facts, self.0.is_live);
        if !same {
            tracing::error!(
                top_up.id = %row.id, payment_intent = facts.id,
                stripe.amount = minor_text(facts.amount_minor, &facts.currency),
                stripe.received = minor_text(facts.amount_received_minor, &facts.currency),
                stripe.livemode = facts.livemode,
                "a PaymentIntent is not what this top-up asked for; nothing is credited, a person must look"
            );
        }
        same
    }
}

/// The id, the amount, the currency, and the mode of the keys: a test charge is no money, and a live one is not play money.
fn is_the_charge_of(row: &TopUpRow, facts: &PaymentIntentFacts, is_live: bool) -> bool {
    let expected = row.currency.micros_to_minor(row.amount);
    facts.top_up_id.as_deref() == Some(row.id.to_string().as_str())
        && Some(facts.amount_minor) == expected
        && Some(facts.amount_received_minor) == expected
        && facts.currency == row.currency.code()
        && facts.livemode == is_live
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::domain::{Currency, KeyId, SecretHash, TopUpId};
    use crate::top_up::store::State;

    fn row() -> TopUpRow {
        TopUpRow {
            id: TopUpId::new(),
            client: None,
            key: KeyId::new(),
            key_secret: 1,
            key_hash: SecretHash::of("key"),
            amount: Micros::new(5_000_000).unwrap(),
            bonus: Micros::ZERO,
            currency: Currency::USD,
            state: State::Confirming,
            failure: None,
            stripe_customer: None,
            payment_intent: Some("pi_1".to_owned()),
            created_at: 0,
            pm_hash: None,
            request_key: None,
            client_public_id: None,
            is_of_former_account: false,
        }
    }

    fn facts(row: &TopUpRow, livemode: bool) -> PaymentIntentFacts {
        PaymentIntentFacts {
            id: "pi_1".to_owned(),
            status: PaymentIntentStatus::Succeeded,
            amount_minor: 500,
            amount_received_minor: 500,
            currency: "usd".to_owned(),
            customer: None,
            payment_method: None,
            top_up_id: Some(row.id.to_string()),
            installation: None,
            livemode,
            created: 0,
            replayed: false,
            request_id: None,
        }
    }

    #[test]
    fn a_charge_of_the_other_mode_is_never_credited() {
        let row = row();
        for (of_charge, of_keys) in [(false, false), (true, true), (false, true), (true, false)] {
            let same = is_the_charge_of(&row, &facts(&row, of_charge), of_keys);
            assert_eq!(same, of_charge == of_keys, "charge {of_charge}, keys {of_keys}");
        }
    }

    #[test]
    fn a_charge_of_something_else_is_never_credited() {
        let row = row();
        let right = facts(&row, false);
        assert!(is_the_charge_of(&row, &right, false));
        for wrong in [
            PaymentIntentFacts { top_up_id: None, ..right.clone() },
            PaymentIntentFacts { top_up_id: Some(TopUpId::new().to_string()), ..right.clone() },
            PaymentIntentFacts { amount_minor: 501, ..right.clone() },
            PaymentIntentFacts { amount_received_minor: 499, ..right.clone() },
            PaymentIntentFacts { currency: "eur".to_owned(), ..right.clone() },
        ] {
            assert!(!is_the_charge_of(&row, &wrong, false), "{wrong:?}");
        }
    }
}

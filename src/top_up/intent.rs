//! What Stripe says of its own accord about a PaymentIntent: which of our attempts it is, if any, and what becomes of it.

use std::time::Duration;

use super::store::{self, State, TopUpRow};
use super::{Landed, TopUps, after};
use crate::db::DbError;
use crate::domain::TopUpId;
use crate::sparing_log::sparingly;
use crate::stripe::{PaymentIntentStatus, StripeFailure};

/// One read of the intent.
const DEADLINE: Duration = Duration::from_secs(15);

/// What [`TopUps::settle_intent`] has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntentSettled {
    /// No attempt of this database.
    NotOurs,
    /// The attempt has ended.
    Ended,
    /// Its outcome is open; the reconciler goes on.
    Open(TopUpId),
    /// The intent has taken money, and has it still, and the attempt does not know it as its own: a person must look.
    Astray(TopUpId),
}

/// Why an intent could not be looked at now.
#[derive(Debug, thiserror::Error)]
pub enum IntentUnknown {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Stripe.
    #[error("Stripe could not be asked about the PaymentIntent ({})", .0.class())]
    Stripe(StripeFailure),
}

impl TopUps {
    /// Settles the attempt that a PaymentIntent belongs to, on the one path on which outcomes are recorded.
    ///
    /// Nothing that the message said is believed: the attempt is found by the intent's id in its row, or by `named` (the
    /// metadata, when the id is not stored yet) once Stripe has confirmed it; the intent is read from Stripe.
    ///
    /// # Errors
    /// [`IntentUnknown`]; nothing is known then.
    pub async fn settle_intent(
        &self,
        intent: &str,
        named: Option<&str>,
    ) -> Result<IntentSettled, IntentUnknown> {
        let row = match store::by_payment_intent(&self.0.db, intent.to_owned()).await? {
            Some(row) => row,
            None => match self.named(intent, named).await? {
                Some(row) => row,
                None => return Ok(IntentSettled::NotOurs),
            },
        };
        // It can only be asked after where it was made.
        if row.is_of_former_account {
            return Ok(IntentSettled::NotOurs);
        }
        if row.state == State::Succeeded && row.payment_intent.as_deref() == Some(intent) {
            return Ok(IntentSettled::Ended);
        }
        if !row.state.is_open() || row.payment_intent.as_deref().is_some_and(|own| own != intent) {
            return self.after_the_end(&row, intent).await;
        }
        match self.settle_now(&row).await {
            Landed::Credited | Landed::Failed(_) => Ok(IntentSettled::Ended),
            // Settled in the meantime, or by somebody who knew first: the row tells.
            Landed::Nothing | Landed::Unchecked | Landed::Pending(_) | Landed::Unavailable => {
                match store::by_id(&self.0.db, row.id).await? {
                    Some(row) if row.state.is_open() => Ok(IntentSettled::Open(row.id)),
                    Some(_) => Ok(IntentSettled::Ended),
                    // It was given up before anything was confirmed.
                    None => Ok(IntentSettled::NotOurs),
                }
            }
        }
    }

    /// The attempt that the intent's metadata names, if Stripe says that it does.
    async fn named(&self, intent: &str, named: Option<&str>) -> Result<Option<TopUpRow>, IntentUnknown> {
        let Some(id) = named.and_then(TopUpId::parse) else {
            return Ok(None);
        };
        let Some(row) = store::by_id(&self.0.db, id).await? else {
            // As common as a second installation at the same Stripe account, or as rare as a database that was put back.
            sparingly!(warn, top_up.id = %id, payment_intent = intent, "Stripe tells of a top-up that is not in the books");
            return Ok(None);
        };
        let facts = self.0.stripe.retrieve_payment_intent(intent, after(DEADLINE)).await;
        let facts = facts.map_err(IntentUnknown::Stripe)?;
        Ok(Some(row).filter(|row| facts.top_up_id.as_deref() == Some(row.id.to_string().as_str())))
    }

    /// An attempt that has ended without this intent must not have been charged by it, or the charge must have been given back.
    async fn after_the_end(&self, row: &TopUpRow, intent: &str) -> Result<IntentSettled, IntentUnknown> {
        let facts = self.0.stripe.retrieve_payment_intent(intent, after(DEADLINE)).await;
        let facts = facts.map_err(IntentUnknown::Stripe)?;
        if facts.status == PaymentIntentStatus::Succeeded || facts.amount_received_minor != 0 {
            let seen = self.0.stripe.charge_aftermath(intent, after(DEADLINE)).await;
            if seen.map_err(IntentUnknown::Stripe)?.is_given_back() {
                tracing::info!(top_up.id = %row.id, payment_intent = intent, "what it took astray has been given back");
                return Ok(IntentSettled::Ended);
            }
            tracing::error!(
                top_up.id = %row.id, payment_intent = intent, top_up.state = row.state.word(),
                "a PaymentIntent has taken money that its top-up does not know of; nothing is credited, a person must look"
            );
            return Ok(IntentSettled::Astray(row.id));
        }
        Ok(IntentSettled::Ended)
    }
}

//! One attempt to charge a card: board or wait, make the row, prepare at Stripe, confirm.

use tokio::time::Instant;

use super::flights::{Flight, FlightKey, Seat};
use super::known_card::{KnownCard, WAIT_FOR_OTHERS};
use super::store::{self, CardOfAttempt, CardRefused, Inserted, NewTopUp, TopUpRow};
use super::{DEADLINE, FailureReason, Landed, Payer, Repeat, TopUpOutcome, TopUpRequest, TopUps, after};
use crate::db::{DbError, query_scalar};
use crate::domain::{PaymentMethodId, SecretHash, TopUpId};
use crate::ledger::ClientId;
use crate::shield::{Attempt, Barred};
use crate::sparing_log::sparingly;
use crate::stripe::{NewCustomer, NewPaymentIntent, Recovery, RefusalKind, StripeFailure};

impl TopUps {
    pub(super) async fn charge_or_wait(&self, id: TopUpId, request: TopUpRequest) -> TopUpOutcome {
        let identifying = !request.payment_method.is_shared_test_name();
        let pm_hash = identifying.then(|| request.payment_method.hash());
        let client = request.payer.key().map(|key| key.client);
        let keys: Vec<FlightKey> =
            client.map(FlightKey::Client).into_iter().chain(pm_hash.map(FlightKey::PaymentMethod)).collect();
        match self.0.flights.board(keys, pm_hash) {
            Seat::Pilot(flight) => self.fly(id, request, flight).await,
            Seat::Passenger { mut landing, same_card } => {
                let landed = landing.wait_for(Option::is_some).await.ok().and_then(|landed| *landed);
                match landed.unwrap_or(Landed::Nothing) {
                    Landed::Unavailable => TopUpOutcome::Unavailable,
                    Landed::Unchecked => TopUpOutcome::Unchecked,
                    // Another card's refusal says nothing about this one, nor does a refusal of this card for another payer.
                    Landed::Failed(reason) if !same_card || reason == FailureReason::OfOtherClient => {
                        TopUpOutcome::Shared(Landed::Nothing)
                    }
                    landed => TopUpOutcome::Shared(landed),
                }
            }
            Seat::Full => TopUpOutcome::InProgress,
        }
    }

    async fn fly(&self, id: TopUpId, request: TopUpRequest, flight: Flight) -> TopUpOutcome {
        let outcome = self.attempt(id, request).await.unwrap_or_else(|error| {
            sparingly!(error, %error, "the database failed before a card was charged");
            TopUpOutcome::Unavailable
        });
        flight.land(match &outcome {
            TopUpOutcome::Recorded(_) | TopUpOutcome::Recognised => Landed::Credited,
            TopUpOutcome::Unchecked => Landed::Unchecked,
            TopUpOutcome::Shared(landed) => *landed,
            TopUpOutcome::Failed(reason) => Landed::Failed(*reason),
            TopUpOutcome::Pending(id) => Landed::Pending(*id),
            TopUpOutcome::Unavailable => Landed::Unavailable,
            TopUpOutcome::Barred(Barred::DeadToken) => Landed::Failed(FailureReason::Declined),
            TopUpOutcome::Barred(Barred::SuspectCard) => Landed::Failed(FailureReason::SuspectCard),
            TopUpOutcome::InProgress | TopUpOutcome::Barred(_) | TopUpOutcome::UpstreamUnreachable => {
                Landed::Nothing
            }
        });
        outcome
    }

    /// Errors only before anything was confirmed at Stripe.
    async fn attempt(&self, id: TopUpId, request: TopUpRequest) -> Result<TopUpOutcome, DbError> {
        // What a card pays could not be written down.
        if !self.0.db.condition().is_fine() {
            return Ok(TopUpOutcome::Unavailable);
        }
        let shared_name = request.payment_method.is_shared_test_name();
        let pm_hash = (!shared_name).then(|| request.payment_method.hash());
        let client = request.payer.key().map(|key| key.client);
        let attempt = Attempt::new(id, client, pm_hash, request.caller);
        self.0.shield.notice(request.caller, client, pm_hash);
        if let Err(barred) = self.0.shield.glance(&attempt).await? {
            return Ok(self.barred(barred));
        }
        if let Some(upstream) = &request.upstream
            && !upstream.can_be_reached().await
        {
            // An attempt of this payer that is open is settled all the same: its card may have been charged.
            return match store::open_of_payer(&self.0.db, client, pm_hash).await? {
                Some(_) => self.wait_for_open_attempt(client, pm_hash).await,
                None => Ok(TopUpOutcome::UpstreamUnreachable),
            };
        }
        // Whose keys these are must be known before anything is made with them.
        if !self.0.account.is_ours().await {
            return Ok(TopUpOutcome::Unavailable);
        }
        let Some(_claim) = self.0.flights.claim(id) else {
            return Ok(TopUpOutcome::Unavailable);
        };
        let (key, key_secret, key_hash) = match request.payer.key() {
            Some(key) => (key.id, key.secret_version, key.hash),
            None => {
                let (id, version, key) = self.0.key_secret.issue();
                (id, version, key.hash())
            }
        };
        let new = NewTopUp {
            id,
            client,
            key,
            key_secret,
            key_hash,
            pm_hash,
            presents_key: matches!(request.payer, Payer::Client(_)),
            request_key: request.request_key,
            order: request.repeat.as_ref().and_then(Repeat::order),
            only_if_short_of: request.reserve,
            amount: request.amount,
            bonus: self.0.amounts.bonus_for(request.amount),
            currency: self.0.currency,
            node: self.0.ledger.node().to_owned(),
        };
        match store::insert(&self.0.db, new, self.0.shield.limits(), attempt).await {
            Ok(Inserted::Made) => {}
            Ok(Inserted::Barred(barred)) => return Ok(self.barred(barred)),
            // Another attempt of this payer was recorded in this moment: the balance is looked at again.
            Ok(Inserted::Needless) => {
                if let Some(client) = client {
                    self.0.ledger.refresh(client).await?;
                }
                return Ok(TopUpOutcome::Shared(Landed::Credited));
            }
            Err(error) if store::is_unique_violation(&error) => {
                return self.wait_for_open_attempt(client, pm_hash).await;
            }
            Err(error) => return Err(error),
        }
        let Some(row) = store::by_id(&self.0.db, id).await? else {
            return Ok(TopUpOutcome::Unavailable);
        };
        let outcome = self.charge_row(&row, &request).await;
        self.let_go(id).await;
        Ok(outcome)
    }

    /// The payer has an attempt whose outcome is open: settle it now if nobody else does; otherwise wait for whoever does.
    async fn wait_for_open_attempt(
        &self,
        client: Option<ClientId>,
        pm_hash: Option<SecretHash>,
    ) -> Result<TopUpOutcome, DbError> {
        let Some(open) = store::open_of_payer(&self.0.db, client, pm_hash).await? else {
            // It ended in this moment.
            return Ok(TopUpOutcome::Shared(Landed::Nothing));
        };
        let landed = match self.reconcile_one(&open, after(DEADLINE), true).await {
            // That attempt was somebody's before: no reason to refuse a payer who is here now.
            Landed::Failed(_) => Landed::Nothing,
            landed => landed,
        };
        Ok(TopUpOutcome::Shared(landed))
    }

    /// Everything between the row and its outcome. Database errors are turned into outcomes here, because from the
    /// confirmation on an error must not look like "nothing happened".
    async fn charge_row(&self, row: &TopUpRow, request: &TopUpRequest) -> TopUpOutcome {
        let deadline = after(DEADLINE);
        let intent = match self.prepare_intent(row, request, deadline).await {
            Ok(intent) => intent,
            Err(stopped) => return stopped,
        };
        let confirm_key = format!("{}.confirm", row.id);
        let confirmed = self
            .0
            .stripe
            .confirm_payment_intent(&intent, &confirm_key, &request.payment_method, deadline)
            .await;
        self.conclude(row, &intent, confirmed, request.reserve, deadline).await
    }

    /// Reads the card, makes the customer and the PaymentIntent, and stores its id. Nothing can be charged before this
    /// has answered.
    async fn prepare_intent(
        &self,
        row: &TopUpRow,
        request: &TopUpRequest,
        deadline: Instant,
    ) -> Result<String, TopUpOutcome> {
        let card = match self.0.stripe.retrieve_payment_method(&request.payment_method, deadline).await {
            Ok(card) => card,
            Err(failure) => return Err(self.stopped_before_intent(row, &failure).await),
        };
        let own_customer = match request.payer.key() {
            Some(key) => self.stripe_customer(key.client).await,
            // Stripe keeps a token with the customer of an attempt that failed late; that customer is this payer's.
            None => {
                store::customer_of_failed(&self.0.db, &request.payment_method, card.customer.clone()).await
            }
        };
        let own_customer = own_customer.map_err(|error| self.unavailable(&error))?;
        if !card.is_card {
            return Err(self.fail(row, FailureReason::InvalidPaymentMethod).await);
        }
        if card.customer.is_some() && card.customer != own_customer {
            if matches!(request.payer, Payer::New) && self.is_bound(&request.payment_method).await? {
                // An earlier attempt of this very token was recorded since it was seen to lead to nobody.
                let _ = self.fail(row, FailureReason::Abandoned).await;
                return Err(TopUpOutcome::Shared(Landed::Credited));
            }
            return Err(self.fail(row, FailureReason::OfOtherClient).await);
        }
        if let Some(fingerprint) = card.fingerprint {
            let is_attached = card.customer.is_some();
            self.admit_card(row, request, fingerprint, is_attached, deadline).await?;
        }
        match self.make_intent(row, own_customer, deadline).await {
            Ok((customer, intent)) => {
                match self.0.account.set_confirming(row.id, customer, intent.clone()).await {
                    Ok(true) => Ok(intent),
                    Ok(false) => Err(TopUpOutcome::Pending(row.id)),
                    Err(error) => Err(self.unavailable(&error)),
                }
            }
            Err((Step::Customer, failure)) => Err(self.stopped_before_intent(row, &failure).await),
            Err((Step::Intent, failure)) => Err(match failure {
                // The row stays: the reconciler finds the intent, if there is one, and cancels it.
                StripeFailure::Unknown { .. } => TopUpOutcome::Pending(row.id),
                StripeFailure::Declined(_) | StripeFailure::Refused(_) => {
                    self.stopped_before_intent(row, &failure).await
                }
            }),
        }
    }

    /// Whether the card may be charged for this attempt; it may lead to a wallet that it has founded instead.
    async fn admit_card(
        &self,
        row: &TopUpRow,
        request: &TopUpRequest,
        fingerprint: String,
        is_attached: bool,
        deadline: Instant,
    ) -> Result<(), TopUpOutcome> {
        let patience = after(WAIT_FOR_OTHERS).min(deadline);
        loop {
            // A token that belongs to a customer by an attempt of its own that failed late can only be charged.
            let known = match is_attached {
                true => None,
                false => self.known_card(row, request, &fingerprint, deadline).await,
            };
            let has_wallet = match known {
                None => FailureReason::CardHasWallet,
                Some(KnownCard::Unsaid) => FailureReason::CardNotConfirmed,
                Some(KnownCard::Ended(outcome)) => return Err(outcome),
            };
            let card = CardOfAttempt {
                fingerprint: fingerprint.clone(),
                client: request.payer.key().map(|key| key.client),
                limits: self.0.shield.limits(),
                pays_once: self.looks_at_card(request),
                repeat: request.repeat.clone(),
            };
            match store::set_card(&self.0.db, row.id, card).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(CardRefused::HasWallet)) => return Err(self.fail(row, has_wallet).await),
                Ok(Err(CardRefused::Barred(barred))) => {
                    let reason = match barred {
                        Barred::SuspectCard => FailureReason::SuspectCard,
                        _ => FailureReason::TooManyAttempts,
                    };
                    let _ = self.fail(row, reason).await;
                    return Err(self.barred(barred));
                }
                // The same card is being charged at this moment: when that has ended, it may have a wallet.
                Err(error) if store::is_unique_violation(&error) && self.looks_at_card(request) => {
                    let is_asked = has_wallet == FailureReason::CardNotConfirmed;
                    if is_asked || !self.wait_for_card(row, &fingerprint, patience).await {
                        return Err(self.fail(row, has_wallet).await);
                    }
                }
                Err(error) if store::is_unique_violation(&error) => {
                    let _ = self.fail(row, FailureReason::Abandoned).await;
                    return Err(TopUpOutcome::InProgress);
                }
                Err(error) => return Err(self.unavailable(&error)),
            }
        }
    }

    async fn is_bound(&self, card: &PaymentMethodId) -> Result<bool, TopUpOutcome> {
        if card.is_shared_test_name() {
            return Ok(false);
        }
        let bound = self.0.keys.bound_to(card.hash()).await;
        bound.map(|bound| bound.is_some()).map_err(|error| self.unavailable(&error.into()))
    }

    /// The customer and the unconfirmed PaymentIntent of a row; the same ones when asked again. A customer that Stripe does not
    /// have any more is made anew.
    pub(super) async fn make_intent(
        &self,
        row: &TopUpRow,
        own_customer: Option<String>,
        deadline: Instant,
    ) -> Result<(String, String), (Step, StripeFailure)> {
        let mut key = format!("{}.create", row.id);
        if let Some(customer) = own_customer {
            match self.intent_for(row, &customer, &key, deadline).await {
                Err(failure) if failure.lacks_customer() => {
                    tracing::warn!(
                        top_up.id = %row.id, stripe.customer = customer,
                        "Stripe has this customer no more; a new one is made. Cards of the old one cannot be charged"
                    );
                    self.remember_customer(row, Some(customer), None).await;
                    // Stripe may remember the refusal under the first key.
                    key.push_str(".anew");
                }
                answer => {
                    let intent = answer.map_err(|failure| (Step::Intent, failure))?;
                    return Ok((customer, intent));
                }
            }
        }
        let customer_key = format!("{}.customer", row.id);
        let new = NewCustomer { idempotency_key: &customer_key, top_up_id: row.id, client: None };
        let customer = self
            .0
            .stripe
            .create_customer(new, deadline)
            .await
            .map_err(|failure| (Step::Customer, failure))?;
        // Before the card can be attached to it by an attempt that fails: a wallet's own card must not look like somebody else's.
        self.remember_customer(row, None, Some(customer.clone())).await;
        let intent = self
            .intent_for(row, &customer, &key, deadline)
            .await
            .map_err(|failure| (Step::Intent, failure))?;
        Ok((customer, intent))
    }

    /// The unconfirmed PaymentIntent of a row.
    async fn intent_for(
        &self,
        row: &TopUpRow,
        customer: &str,
        key: &str,
        deadline: Instant,
    ) -> Result<String, StripeFailure> {
        let new = NewPaymentIntent {
            idempotency_key: key,
            amount_minor: row.currency.micros_to_minor(row.amount).unwrap_or(0),
            currency: row.currency.code(),
            customer,
            top_up_id: row.id,
            client: Some(row.public_id()),
            // From the row alone: asked again under the same key, it must be the same request.
            recovery: Some(Recovery {
                installation: self.0.installation,
                key: row.key,
                key_secret: row.key_secret,
                bonus: row.bonus,
                request_key: row.request_key,
            }),
            statement_descriptor_suffix: self.0.statement_descriptor_suffix.as_deref(),
            description: Some("Prepaid API credit"),
        };
        Ok(self.0.stripe.create_payment_intent(new, deadline).await?.id)
    }

    /// Notes which customer a wallet has, if it is the one that is expected. If that cannot be stored, the next attempt finds out
    /// again.
    async fn remember_customer(&self, row: &TopUpRow, was: Option<String>, is: Option<String>) {
        let Some(client) = row.client else { return };
        if let Err(error) = store::set_customer(&self.0.db, client, was, is).await {
            tracing::warn!(%error, top_up.id = %row.id, "a wallet's customer could not be noted");
        }
    }

    pub(super) async fn stripe_customer(&self, client: ClientId) -> Result<Option<String>, DbError> {
        let found: Option<Option<String>> = query_scalar("SELECT stripe_customer FROM clients WHERE id = $1")
            .bind(client)
            .fetch_optional(self.0.db.reader())
            .await?;
        Ok(found.flatten())
    }

    /// Nothing was confirmed, so nothing was charged, whatever the failure.
    async fn stopped_before_intent(&self, row: &TopUpRow, failure: &StripeFailure) -> TopUpOutcome {
        match failure {
            StripeFailure::Unknown { .. } => {
                let _ = self.fail(row, FailureReason::Abandoned).await;
                TopUpOutcome::Unavailable
            }
            StripeFailure::Declined(_) => self.fail(row, FailureReason::Declined).await,
            StripeFailure::Refused(refusal) if refusal.kind == RefusalKind::InvalidPaymentMethod => {
                self.fail(row, FailureReason::InvalidPaymentMethod).await
            }
            StripeFailure::Refused(refusal) => {
                tracing::error!(
                    top_up.id = %row.id, stripe.code = refusal.code, stripe.message = refusal.message,
                    stripe.request = refusal.request_id, "Stripe refuses the gateway's request; no card was charged"
                );
                self.fail(row, FailureReason::Refused).await
            }
        }
    }

    /// Ends an attempt that cannot have charged. If even that cannot be stored, the reconciler ends it.
    pub(super) async fn fail(&self, row: &TopUpRow, reason: FailureReason) -> TopUpOutcome {
        let gives_key_back = matches!(
            reason,
            FailureReason::Abandoned
                | FailureReason::TooManyAttempts
                | FailureReason::CardHasWallet
                | FailureReason::CardNotConfirmed
                | FailureReason::ClientFrozen
        );
        if let Err(error) = store::set_failed(&self.0.db, row.id, reason.code(), gives_key_back).await {
            tracing::error!(%error, top_up.id = %row.id, "a failed top-up could not be marked; the reconciler will");
        }
        TopUpOutcome::Failed(reason)
    }

    pub(super) fn barred(&self, barred: Barred) -> TopUpOutcome {
        self.0.shield.refused(barred);
        TopUpOutcome::Barred(barred)
    }

    pub(super) fn unavailable(&self, error: &DbError) -> TopUpOutcome {
        sparingly!(error, %error, "the database failed before a card was charged");
        TopUpOutcome::Unavailable
    }
}

/// Which call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Customer,
    Intent,
}

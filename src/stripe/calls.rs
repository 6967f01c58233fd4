//! The calls that top-ups make, typed. Each repeats itself while the outcome is unknown, until its deadline.

use std::collections::HashMap;
use std::sync::Arc;

use stripe_client_core::{IdempotencyKey, RequestStrategy, StripeRequest};
use stripe_core::customer::CreateCustomer;
use stripe_core::payment_intent::{
    CancelPaymentIntent, ConfirmPaymentIntent, CreatePaymentIntent,
    CreatePaymentIntentAutomaticPaymentMethods as AutomaticMethods,
    CreatePaymentIntentAutomaticPaymentMethodsAllowRedirects as AllowRedirects, ListPaymentIntent,
    RetrievePaymentIntent,
};
use stripe_payment::payment_method::RetrievePaymentMethod;
use stripe_shared::{PaymentIntent, PaymentIntentSetupFutureUsage};
use stripe_types::{RangeBoundsTs, RangeQueryTs};
use tokio::time::Instant;

use super::client::{ResponseMeta, StripeSetupError, Transport};
use super::facts::{
    PaymentIntentFacts, PaymentMethodFacts, is_stripe_id, payment_intent_facts, payment_method_facts,
};
use super::failure::{StripeFailure, UnknownReason};
use super::recovery::Recovery;
use super::retry::{Attempted, RetryPolicy, with_retries};
use crate::config::StripeConfig;
use crate::domain::{ClientPublicId, PaymentMethodId, TopUpId};

/// The metadata key under which a PaymentIntent or customer names our top-up; found again by it after any crash.
pub const TOP_UP_METADATA_KEY: &str = "prepaid402_top_up";
/// The metadata key under which it names the client's public id.
pub const CLIENT_METADATA_KEY: &str = "prepaid402_client";

/// PaymentIntents on one page: 50 stay well below the largest answer that is read.
pub(super) const PAGE_SIZE: i64 = 50;
/// Pages read at most: 10,000 PaymentIntents.
pub(super) const MAX_PAGES: usize = 200;

/// Stripe's API. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct Stripe(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    transport: Transport,
    policy: RetryPolicy,
}

/// The calls by name, for logs: a path would show ids, among them `pm_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    RetrievePaymentMethod,
    CreateCustomer,
    CreatePaymentIntent,
    ConfirmPaymentIntent,
    CancelPaymentIntent,
    RetrievePaymentIntent,
    ListPaymentIntents,
    ListEvents,
    ListRefunds,
    ListDisputes,
    ListFraudWarnings,
    RetrieveObject,
    CreateRefund,
    ListBalance,
    RetrieveBalance,
    CheckCard,
    CancelCardCheck,
    ListCardChecks,
    MayCheckCards,
}

impl Endpoint {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RetrievePaymentMethod => "GET /v1/payment_methods/:id",
            Self::CreateCustomer => "POST /v1/customers",
            Self::CreatePaymentIntent => "POST /v1/payment_intents",
            Self::ConfirmPaymentIntent => "POST /v1/payment_intents/:id/confirm",
            Self::CancelPaymentIntent => "POST /v1/payment_intents/:id/cancel",
            Self::RetrievePaymentIntent => "GET /v1/payment_intents/:id",
            Self::ListPaymentIntents => "GET /v1/payment_intents",
            Self::ListEvents => "GET /v1/events",
            Self::ListRefunds => "GET /v1/refunds",
            Self::ListDisputes => "GET /v1/disputes",
            Self::ListFraudWarnings => "GET /v1/radar/early_fraud_warnings",
            Self::RetrieveObject => "GET /v1/(charges|refunds|disputes|radar/early_fraud_warnings)/:id",
            Self::CreateRefund => "POST /v1/refunds",
            Self::ListBalance => "GET /v1/balance_transactions",
            Self::RetrieveBalance => "GET /v1/balance_transactions/:id",
            Self::CheckCard => "POST /v1/setup_intents",
            Self::ListCardChecks => "GET /v1/setup_intents",
            Self::MayCheckCards | Self::CancelCardCheck => "POST /v1/setup_intents/:id/cancel",
        }
    }
}

/// A customer to create. Holds no personal data: who the payer is, Stripe knows from the card.
#[derive(Debug, Clone)]
pub struct NewCustomer<'a> {
    /// 1 to 255 characters, the same for every attempt of this creation.
    pub idempotency_key: &'a str,
    /// The top-up it is created for, in the metadata.
    pub top_up_id: TopUpId,
    /// The client, in the metadata, if it exists already.
    pub client: Option<ClientPublicId>,
}

/// A PaymentIntent to create, unconfirmed and without a PaymentMethod: nothing is charged by it.
#[derive(Debug, Clone)]
pub struct NewPaymentIntent<'a> {
    /// 1 to 255 characters, the same for every attempt of this creation.
    pub idempotency_key: &'a str,
    /// In Stripe's minor units.
    pub amount_minor: i64,
    /// Lower-case ISO 4217 code.
    pub currency: &'a str,
    /// `cus_…`.
    pub customer: &'a str,
    /// In the metadata.
    pub top_up_id: TopUpId,
    /// In the metadata, if it is known.
    pub client: Option<ClientPublicId>,
    /// In the metadata: what the credit is made from again when the row is lost.
    pub recovery: Option<Recovery>,
    /// 2 to 22 characters on the card statement.
    pub statement_descriptor_suffix: Option<&'a str>,
    /// For people at Stripe's dashboard.
    pub description: Option<&'a str>,
}

/// A result of one call with what its answer said beside the body.
pub(super) type Answered<T> = (T, ResponseMeta);

impl Stripe {
    /// A client for this account. Connects to nobody yet.
    ///
    /// # Errors
    /// A setting that no request can be built from.
    pub fn new(config: &StripeConfig) -> Result<Self, StripeSetupError> {
        Self::with_policy(config, RetryPolicy::default())
    }

    pub(super) fn with_policy(config: &StripeConfig, policy: RetryPolicy) -> Result<Self, StripeSetupError> {
        Ok(Self(Arc::new(Inner { transport: Transport::new(config)?, policy })))
    }

    /// Looks a PaymentMethod up. The id returned is the one to bind to, not the one asked for.
    ///
    /// # Errors
    /// A [`RefusalKind::InvalidPaymentMethod`](super::RefusalKind) when it does not exist.
    pub async fn retrieve_payment_method(
        &self,
        pm: &PaymentMethodId,
        deadline: Instant,
    ) -> Result<PaymentMethodFacts, StripeFailure> {
        let request = RetrievePaymentMethod::new(pm.expose());
        let (method, meta) = self.call(Endpoint::RetrievePaymentMethod, None, &request, deadline).await?;
        payment_method_facts(method).ok_or_else(|| unreadable(&meta))
    }

    /// Creates a customer and returns its id, `cus_…`.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn create_customer(
        &self,
        new: NewCustomer<'_>,
        deadline: Instant,
    ) -> Result<String, StripeFailure> {
        let request = CreateCustomer::new().metadata(metadata(new.top_up_id, new.client));
        let (customer, meta) =
            self.call(Endpoint::CreateCustomer, Some(new.idempotency_key), &request, deadline).await?;
        let id = customer.id.as_str();
        if is_stripe_id("cus_", id) { Ok(id.to_owned()) } else { Err(unreadable(&meta)) }
    }

    /// Creates a PaymentIntent, which charges nothing until it is confirmed.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn create_payment_intent(
        &self,
        new: NewPaymentIntent<'_>,
        deadline: Instant,
    ) -> Result<PaymentIntentFacts, StripeFailure> {
        let Ok(currency) = new.currency.parse::<stripe_types::Currency>();
        let mut methods = AutomaticMethods::new(true);
        methods.allow_redirects = Some(AllowRedirects::Never);
        let mut metadata = metadata(new.top_up_id, new.client);
        if let Some(recovery) = new.recovery {
            recovery.write(&mut metadata);
        }
        let mut request = CreatePaymentIntent::new(new.amount_minor, currency)
            .customer(new.customer)
            .automatic_payment_methods(methods)
            .metadata(metadata);
        if let Some(suffix) = new.statement_descriptor_suffix {
            request = request.statement_descriptor_suffix(suffix);
        }
        if let Some(description) = new.description {
            request = request.description(description);
        }
        let answer =
            self.call(Endpoint::CreatePaymentIntent, Some(new.idempotency_key), &request, deadline).await?;
        facts_about(answer, None)
    }

    /// Charges the card. Fails with [`DeclineKind::AuthenticationRequired`](super::DeclineKind) where a person would have
    /// to act, and keeps the card on the customer for later.
    ///
    /// Never sends `off_session`: Stripe refuses it together with `setup_future_usage`.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn confirm_payment_intent(
        &self,
        pi: &str,
        idempotency_key: &str,
        pm: &PaymentMethodId,
        deadline: Instant,
    ) -> Result<PaymentIntentFacts, StripeFailure> {
        let request = ConfirmPaymentIntent::new(checked_intent_id(pi)?)
            .payment_method(pm.expose())
            .error_on_requires_action(true)
            .setup_future_usage(PaymentIntentSetupFutureUsage::OffSession);
        let answer =
            self.call(Endpoint::ConfirmPaymentIntent, Some(idempotency_key), &request, deadline).await?;
        facts_about(answer, Some(pi))
    }

    /// Makes sure that a PaymentIntent will never be paid.
    ///
    /// # Errors
    /// A refusal with code `payment_intent_unexpected_state` when it is paid or canceled already.
    pub async fn cancel_payment_intent(
        &self,
        pi: &str,
        idempotency_key: &str,
        deadline: Instant,
    ) -> Result<PaymentIntentFacts, StripeFailure> {
        let request = CancelPaymentIntent::new(checked_intent_id(pi)?);
        let answer =
            self.call(Endpoint::CancelPaymentIntent, Some(idempotency_key), &request, deadline).await?;
        facts_about(answer, Some(pi))
    }

    /// Looks a PaymentIntent up.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn retrieve_payment_intent(
        &self,
        pi: &str,
        deadline: Instant,
    ) -> Result<PaymentIntentFacts, StripeFailure> {
        let request = RetrievePaymentIntent::new(checked_intent_id(pi)?);
        let answer = self.call(Endpoint::RetrievePaymentIntent, None, &request, deadline).await?;
        facts_about(answer, Some(pi))
    }

    /// All PaymentIntents of the account created from one second to another, both included, newest first. For matching by
    /// metadata when an idempotency key is too old to be sent again.
    ///
    /// # Errors
    /// A list that cannot be read to its end, or is longer than 10,000, is an error and never a shorter list: "not in the
    /// list" must mean "not at Stripe".
    pub async fn list_payment_intents_created_between(
        &self,
        from_unix: i64,
        to_unix: i64,
        deadline: Instant,
    ) -> Result<Vec<PaymentIntentFacts>, StripeFailure> {
        let created = RangeBoundsTs { gte: Some(from_unix), lte: Some(to_unix), ..RangeBoundsTs::default() };
        let first = ListPaymentIntent::new().created(RangeQueryTs::Bounds(created)).limit(PAGE_SIZE);
        let mut request = first.clone();
        let mut found = Vec::new();
        for _ in 0..MAX_PAGES {
            let (page, meta) = self.page(Endpoint::ListPaymentIntents, &request, deadline).await?;
            for intent in page.data {
                found.push(payment_intent_facts(intent, &meta).ok_or_else(|| unreadable(&meta))?);
            }
            if !page.has_more {
                return Ok(found);
            }
            let last = found.last().ok_or_else(|| unreadable(&meta))?;
            request = first.clone().starting_after(last.id.as_str());
        }
        Err(StripeFailure::Unknown { reason: UnknownReason::TooMany, request_id: None })
    }

    /// Asks for a page of a list. However long the whole list may take: a Stripe that does not give one page within `policy.page` does not
    /// give it.
    pub(super) async fn page<R>(
        &self,
        endpoint: Endpoint,
        request: &R,
        deadline: Instant,
    ) -> Result<Answered<R::Output>, StripeFailure>
    where
        R: StripeRequest,
        R::Output: miniserde::Deserialize,
    {
        let by = Instant::now().checked_add(self.0.policy.page).map_or(deadline, |by| by.min(deadline));
        self.call(endpoint, None, request, by).await
    }

    /// Sends one typed request, again and again under the same key while its outcome is unknown.
    pub(super) async fn call<R>(
        &self,
        endpoint: Endpoint,
        idempotency_key: Option<&str>,
        request: &R,
        deadline: Instant,
    ) -> Result<Answered<R::Output>, StripeFailure>
    where
        R: StripeRequest,
        R::Output: miniserde::Deserialize,
    {
        let strategy = match idempotency_key {
            Some(key) => RequestStrategy::Idempotent(
                IdempotencyKey::new(key)
                    .map_err(|_| StripeFailure::not_sent("an idempotency key has 1 to 255 characters"))?,
            ),
            None => RequestStrategy::Once,
        };
        with_retries(endpoint, self.0.policy, deadline, || {
            let request = request.customize().request_strategy(strategy.clone());
            async move {
                let attempt = self.0.transport.one_attempt(endpoint, deadline);
                let result = request.send(&attempt).await;
                let meta = attempt.meta.into_inner();
                let result = match (result, &meta) {
                    (Ok(output), Some(meta)) => Ok((output, meta.clone())),
                    (Ok(_), None) => Err(StripeFailure::Unknown {
                        reason: UnknownReason::ConnectionLost,
                        request_id: None,
                    }),
                    // async-stripe's parser knows neither the status nor the request id.
                    (
                        Err(StripeFailure::Unknown { reason: UnknownReason::Unreadable(_), .. }),
                        Some(meta),
                    ) => Err(unreadable(meta)),
                    (Err(failure), _) => Err(failure),
                };
                Attempted { result, meta, transport_error: attempt.transport_error.into_inner() }
            }
        })
        .await
    }
}

fn metadata(top_up: TopUpId, client: Option<ClientPublicId>) -> HashMap<String, String> {
    let mut metadata = HashMap::from([(TOP_UP_METADATA_KEY.to_owned(), top_up.to_string())]);
    if let Some(client) = client {
        metadata.insert(CLIENT_METADATA_KEY.to_owned(), client.to_string());
    }
    metadata
}

/// An id that may stand in a path.
pub(super) fn checked_intent_id(pi: &str) -> Result<&str, StripeFailure> {
    if is_stripe_id("pi_", pi) {
        Ok(pi)
    } else {
        Err(StripeFailure::not_sent("a PaymentIntent id has the form pi_…"))
    }
}

fn facts_about(
    (intent, meta): Answered<PaymentIntent>,
    expected: Option<&str>,
) -> Result<PaymentIntentFacts, StripeFailure> {
    let facts = payment_intent_facts(intent, &meta).ok_or_else(|| unreadable(&meta))?;
    if expected.is_some_and(|expected| expected != facts.id) {
        return Err(StripeFailure::Unknown {
            reason: UnknownReason::OtherObject,
            request_id: meta.request_id,
        });
    }
    Ok(facts)
}

pub(super) fn unreadable(meta: &ResponseMeta) -> StripeFailure {
    StripeFailure::Unknown {
        reason: UnknownReason::Unreadable(meta.status),
        request_id: meta.request_id.clone(),
    }
}

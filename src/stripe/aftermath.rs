//! What becomes of a charge: refunds, disputes, early fraud warnings, fees.
//!
//! Read with structures of our own that ask for the few fields we use: async-stripe's typed objects refuse real disputes that
//! lack a field it takes for required, and an answer that cannot be read is money that is not booked.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;

use miniserde::Deserialize;
use stripe_client_core::{RequestBuilder, StripeMethod, StripeRequest};
use tokio::time::Instant;

use super::calls::{Endpoint, Stripe, TOP_UP_METADATA_KEY, checked_intent_id, unreadable};
use super::facts::is_stripe_id;
use super::failure::{StripeFailure, UnknownReason};
use super::recovery::REQUEST_KEY;
use crate::domain::SecretHash;

/// The metadata key under which a refund names ours.
pub const REFUND_METADATA_KEY: &str = "prepaid402_refund";

const PAGE_SIZE: u32 = 100;
/// Pages of one charge's refunds or disputes at most.
const MAX_PAGES: usize = 50;

/// A charge and everything that has become of it, as Stripe described it in several answers.
#[derive(Debug, Clone)]
pub struct ChargeAftermath {
    /// `pi_…`.
    pub payment_intent: String,
    /// From the metadata.
    pub top_up_id: Option<String>,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Whether real money moves.
    pub livemode: bool,
    /// What was collected, in minor units.
    pub amount_received: i64,
    /// `ch_…`; `None`: nothing was ever charged.
    pub charge: Option<StripeCharge>,
    /// Oldest first.
    pub refunds: Vec<StripeRefund>,
    /// Oldest first.
    pub disputes: Vec<StripeDispute>,
    /// Early fraud warnings.
    pub warnings: Vec<StripeWarning>,
}

impl ChargeAftermath {
    /// Whether all that was collected has gone back to the payer: by refunds that have not failed, and by disputes that are
    /// lost. A refund can still fail: whoever relies on this looks again when it does.
    #[must_use]
    pub fn is_given_back(&self) -> bool {
        let refunds = self.refunds.iter().filter(|refund| !refund.has_failed()).map(|refund| refund.amount);
        let lost = self.disputes.iter().filter(|dispute| dispute.status == "lost");
        let back = refunds.chain(lost.map(|dispute| dispute.amount)).fold(0_i64, i64::saturating_add);
        self.amount_received > 0 && back >= self.amount_received
    }
}

/// A charge, <https://docs.stripe.com/api/charges/object>.
#[derive(Debug, Clone, Deserialize)]
pub struct StripeCharge {
    /// `ch_…`.
    pub id: String,
    /// `succeeded`, `pending` or `failed`.
    pub status: String,
    /// Once it is known.
    pub balance_transaction: Option<StripeMovement>,
    /// What was charged.
    pub payment_method_details: Option<MethodDetails>,
}

impl StripeCharge {
    /// The card's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.payment_method_details.as_ref()?.card.as_ref()?.fingerprint.as_deref()
    }
}

/// Part of [`StripeCharge`].
#[derive(Debug, Clone, Deserialize)]
pub struct MethodDetails {
    /// If it was a card.
    pub card: Option<CardDetails>,
}

/// Part of [`MethodDetails`].
#[derive(Debug, Clone, Deserialize)]
pub struct CardDetails {
    /// The same for everybody who knows the card number.
    pub fingerprint: Option<String>,
}

/// A balance transaction, <https://docs.stripe.com/api/balance_transactions/object>. Its amounts are in the settlement
/// currency.
#[derive(Debug, Clone, Deserialize)]
pub struct StripeMovement {
    /// `txn_…`.
    pub id: String,
    /// In minor units, below zero when it leaves.
    pub amount: i64,
    /// In minor units.
    pub fee: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Unix seconds.
    pub created: i64,
}

/// A refund, <https://docs.stripe.com/api/refunds/object>.
#[derive(Debug, Clone, Deserialize)]
pub struct StripeRefund {
    /// `re_…`.
    pub id: String,
    /// In minor units.
    pub amount: i64,
    /// `pending`, `requires_action`, `succeeded`, `failed` or `canceled`.
    pub status: Option<String>,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// `fraudulent` is what we say of those that answer an early fraud warning; Stripe's word, or somebody else's, otherwise.
    pub reason: Option<String>,
    /// Set by us, and by others.
    pub metadata: Option<HashMap<String, String>>,
    /// Unix seconds.
    pub created: i64,
}

impl StripeRefund {
    /// Ours, from the metadata.
    #[must_use]
    pub fn ours(&self) -> Option<&str> {
        self.metadata.as_ref()?.get(REFUND_METADATA_KEY).map(String::as_str)
    }

    /// Whether its money came back, or never left.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.status.as_deref(), Some("failed" | "canceled"))
    }

    /// The hash of the key under which it was asked for, from the metadata, if that is one.
    #[must_use]
    pub fn request_key(&self) -> Option<SecretHash> {
        SecretHash::from_hex(self.metadata.as_ref()?.get(REQUEST_KEY)?)
    }
}

/// A dispute, <https://docs.stripe.com/api/disputes/object>.
#[derive(Debug, Clone, Deserialize)]
pub struct StripeDispute {
    /// Stripe's id.
    pub id: String,
    /// In minor units of the charge's currency.
    pub amount: i64,
    /// Stripe's word.
    pub status: String,
    /// Stripe's word.
    pub reason: String,
    /// Unix seconds.
    pub created: i64,
    /// What it has moved; at most two, says Stripe. An inquiry moves nothing.
    pub balance_transactions: Vec<StripeMovement>,
    /// When evidence is due.
    pub evidence_details: Option<EvidenceDetails>,
}

/// Part of [`StripeDispute`].
#[derive(Debug, Clone, Deserialize)]
pub struct EvidenceDetails {
    /// Unix seconds.
    pub due_by: Option<i64>,
}

/// An early fraud warning, <https://docs.stripe.com/api/radar/early_fraud_warnings/object>.
#[derive(Debug, Clone, Deserialize)]
pub struct StripeWarning {
    /// `issfr_…`.
    pub id: String,
    /// Whether a refund could still keep a dispute away.
    pub actionable: bool,
    /// Stripe's word.
    pub fraud_type: String,
    /// Unix seconds.
    pub created: i64,
}

#[derive(Debug, Deserialize)]
struct Intent {
    id: String,
    currency: String,
    livemode: bool,
    amount_received: i64,
    metadata: HashMap<String, String>,
    latest_charge: Option<StripeCharge>,
}

#[derive(Debug, Deserialize)]
struct Page<T> {
    data: Vec<T>,
    has_more: bool,
}

/// The PaymentIntent that another object is about.
#[derive(Debug, Deserialize)]
struct OfIntent {
    payment_intent: Option<String>,
}

/// What has an id to go on from.
trait Listed {
    fn id(&self) -> &str;
}

impl Listed for StripeRefund {
    fn id(&self) -> &str {
        &self.id
    }
}
impl Listed for StripeDispute {
    fn id(&self) -> &str {
        &self.id
    }
}
impl Listed for StripeWarning {
    fn id(&self) -> &str {
        &self.id
    }
}

/// A request whose answer is read with a structure of ours.
pub(super) struct Plain<T> {
    method: StripeMethod,
    path: String,
    query: Option<String>,
    body: Option<String>,
    answer: PhantomData<fn() -> T>,
}

impl<T> Plain<T> {
    pub(super) fn get(path: impl Into<String>, query: &[(&str, &str)]) -> Self {
        let query = (!query.is_empty()).then(|| form(query));
        Self { method: StripeMethod::Get, path: path.into(), query, body: None, answer: PhantomData }
    }

    pub(super) fn post(path: impl Into<String>, body: &[(&str, &str)]) -> Self {
        let body = (!body.is_empty()).then(|| form(body));
        Self { method: StripeMethod::Post, path: path.into(), query: None, body, answer: PhantomData }
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    let fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
    RequestBuilder::new(StripeMethod::Get, "").query(&fields).query.unwrap_or_default()
}

impl<T> StripeRequest for Plain<T> {
    type Output = T;

    fn build(&self) -> RequestBuilder {
        RequestBuilder {
            query: self.query.clone(),
            body: self.body.clone(),
            path: self.path.clone(),
            method: self.method,
        }
    }
}

/// A refund to ask for.
#[derive(Debug, Clone)]
pub struct NewStripeRefund<'a> {
    /// 1 to 255 characters, the same for every attempt.
    pub idempotency_key: &'a str,
    /// `pi_…`.
    pub payment_intent: &'a str,
    /// In minor units.
    pub amount_minor: i64,
    /// Ours, in the metadata.
    pub refund_id: &'a str,
    /// The top-up, in the metadata.
    pub top_up_id: &'a str,
    /// The hash of the key under which it was asked for, in the metadata: an older copy of the database that is put back must
    /// still refund once under that key.
    pub request_key: Option<SecretHash>,
    /// The card's holder has said, or a warning has, that it was not them.
    pub is_fraudulent: bool,
}

impl Stripe {
    /// Everything that has become of a PaymentIntent's charge.
    ///
    /// # Errors
    /// A list that cannot be read to its end is an error and never a shorter list.
    pub async fn charge_aftermath(
        &self,
        pi: &str,
        deadline: Instant,
    ) -> Result<ChargeAftermath, StripeFailure> {
        let path = format!("/payment_intents/{}", checked_intent_id(pi)?);
        let request: Plain<Intent> = Plain::get(path, &[("expand[0]", "latest_charge.balance_transaction")]);
        let (intent, meta) = self.call(Endpoint::RetrievePaymentIntent, None, &request, deadline).await?;
        if intent.id != pi || intent.latest_charge.as_ref().is_some_and(|charge| !is_charge(&charge.id)) {
            return Err(unreadable(&meta));
        }
        // After the charge, so that what has become of it is never older than it. Nothing becomes of a charge that was not made.
        let (mut refunds, mut disputes, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        if intent.latest_charge.as_ref().is_some_and(|charge| charge.status != "failed") {
            refunds = self.all_of(Endpoint::ListRefunds, "/refunds", pi, deadline).await?;
            disputes = self.all_of(Endpoint::ListDisputes, "/disputes", pi, deadline).await?;
            let path = "/radar/early_fraud_warnings";
            warnings = self.all_of(Endpoint::ListFraudWarnings, path, pi, deadline).await?;
        }
        refunds.sort_by(|a: &StripeRefund, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        disputes.sort_by(|a: &StripeDispute, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(ChargeAftermath {
            payment_intent: intent.id,
            top_up_id: intent.metadata.get(TOP_UP_METADATA_KEY).cloned(),
            currency: intent.currency,
            livemode: intent.livemode,
            amount_received: intent.amount_received,
            charge: intent.latest_charge,
            refunds,
            disputes,
            warnings,
        })
    }

    /// The PaymentIntent that an object is about: a charge, refund, dispute or early fraud warning. `None`: none, or the id has
    /// no form that we know.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn intent_of(&self, object: &str, deadline: Instant) -> Result<Option<String>, StripeFailure> {
        let known = [
            ("ch_", "/charges/"),
            ("py_", "/charges/"),
            ("re_", "/refunds/"),
            ("pyr_", "/refunds/"),
            ("dp_", "/disputes/"),
            ("du_", "/disputes/"),
            ("issfr_", "/radar/early_fraud_warnings/"),
        ];
        if is_stripe_id("pi_", object) {
            return Ok(Some(object.to_owned()));
        }
        let Some((_, path)) = known.iter().find(|(prefix, _)| is_stripe_id(prefix, object)) else {
            return Ok(None);
        };
        let request: Plain<OfIntent> = Plain::get(format!("{path}{object}"), &[]);
        let (of, _) = self.call(Endpoint::RetrieveObject, None, &request, deadline).await?;
        Ok(of.payment_intent.filter(|intent| is_stripe_id("pi_", intent)))
    }

    /// Asks for a refund.
    ///
    /// # Errors
    /// See [`StripeFailure`]; unknown may have refunded.
    pub async fn create_refund(
        &self,
        new: NewStripeRefund<'_>,
        deadline: Instant,
    ) -> Result<StripeRefund, StripeFailure> {
        let amount = new.amount_minor.to_string();
        let (refund, top_up) =
            (format!("metadata[{REFUND_METADATA_KEY}]"), format!("metadata[{TOP_UP_METADATA_KEY}]"));
        let mut body = vec![
            ("payment_intent", checked_intent_id(new.payment_intent)?),
            ("amount", amount.as_str()),
            (refund.as_str(), new.refund_id),
            (top_up.as_str(), new.top_up_id),
        ];
        let request_key = new.request_key.map(|hash| (format!("metadata[{REQUEST_KEY}]"), hash.hex()));
        if let Some((name, digits)) = &request_key {
            body.push((name, digits));
        }
        if new.is_fraudulent {
            body.push(("reason", "fraudulent"));
        }
        let request: Plain<StripeRefund> = Plain::post("/refunds", &body);
        let (refund, _) =
            self.call(Endpoint::CreateRefund, Some(new.idempotency_key), &request, deadline).await?;
        Ok(refund)
    }

    async fn all_of<T: Listed + miniserde::Deserialize>(
        &self,
        endpoint: Endpoint,
        path: &str,
        pi: &str,
        deadline: Instant,
    ) -> Result<Vec<T>, StripeFailure> {
        let limit = PAGE_SIZE.to_string();
        let mut found: Vec<T> = Vec::new();
        for _ in 0..MAX_PAGES {
            let mut query = vec![("payment_intent", pi), ("limit", limit.as_str())];
            if let Some(last) = found.last() {
                query.push(("starting_after", last.id()));
            }
            let request: Plain<Page<T>> = Plain::get(path, &query);
            let (page, meta) = self.call(endpoint, None, &request, deadline).await?;
            let is_empty = page.data.is_empty();
            found.extend(page.data);
            match (page.has_more, is_empty) {
                (false, _) => return Ok(found),
                (true, true) => return Err(unreadable(&meta)),
                (true, false) => {}
            }
        }
        Err(StripeFailure::Unknown { reason: UnknownReason::TooMany, request_id: None })
    }
}

fn is_charge(id: &str) -> bool {
    is_stripe_id("ch_", id) || is_stripe_id("py_", id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_charge_is_given_back_when_all_of_it_is_and_nothing_has_failed() {
        let is_given_back = |received, refunds: &[(i64, &str)], disputes: &[(i64, &str)]| {
            let refund = |(amount, status): &(i64, &str)| {
                let json = format!(r#"{{"id":"re_1","amount":{amount},"status":"{status}","created":1}}"#);
                miniserde::json::from_str::<StripeRefund>(&json).unwrap()
            };
            let dispute = |(amount, status): &(i64, &str)| {
                let json = format!(
                    r#"{{"id":"dp_1","amount":{amount},"status":"{status}","reason":"","created":1,"balance_transactions":[]}}"#
                );
                miniserde::json::from_str::<StripeDispute>(&json).unwrap()
            };
            let seen = ChargeAftermath {
                payment_intent: "pi_1".to_owned(),
                top_up_id: None,
                currency: "usd".to_owned(),
                livemode: false,
                amount_received: received,
                charge: None,
                refunds: refunds.iter().map(refund).collect(),
                disputes: disputes.iter().map(dispute).collect(),
                warnings: Vec::new(),
            };
            seen.is_given_back()
        };
        for (refunds, disputes) in [
            (&[(500, "succeeded")][..], &[][..]),
            (&[(500, "pending")], &[]),
            (&[(500, "failed"), (100, "succeeded"), (400, "requires_action")], &[]),
            (&[(100, "succeeded")], &[(400, "lost")]),
        ] {
            assert!(is_given_back(500, refunds, disputes), "{refunds:?} {disputes:?}");
        }
        for (refunds, disputes) in [
            (&[][..], &[][..]),
            (&[(499, "succeeded")], &[]),
            (&[(500, "failed")], &[]),
            (&[(500, "canceled")], &[]),
            (&[], &[(500, "needs_response"), (500, "won")]),
        ] {
            assert!(!is_given_back(500, refunds, disputes), "{refunds:?} {disputes:?}");
        }
        assert!(!is_given_back(0, &[], &[]), "nothing was charged");
    }
}

//! What a PaymentIntent's metadata says about the top-up that it is for, so that a charge whose row is lost (an older copy of
//! the database was put back) becomes credit of the same client again. None of it is a secret: the client key derives from the
//! key's id *and* the key secret.

use std::collections::HashMap;

use stripe_core::payment_intent::ListPaymentIntent;
use stripe_shared::PaymentIntent;
use stripe_types::{RangeBoundsTs, RangeQueryTs};
use tokio::time::Instant;

use super::calls::{
    CLIENT_METADATA_KEY, Endpoint, MAX_PAGES, PAGE_SIZE, Stripe, TOP_UP_METADATA_KEY, unreadable,
};
use super::client::ResponseMeta;
use super::facts::{PaymentIntentFacts, payment_intent_facts};
use super::failure::{StripeFailure, UnknownReason};
use crate::domain::{ClientPublicId, InstallationId, KeyId, Micros, SecretHash};

pub(super) const INSTALLATION: &str = "prepaid402_installation";
const KEY: &str = "prepaid402_key";
const KEY_SECRET: &str = "prepaid402_key_secret";
const BONUS: &str = "prepaid402_bonus_micros";
/// Also in a refund's metadata: the hash of the operator's key.
pub(super) const REQUEST_KEY: &str = "prepaid402_request_key";

/// What is not in a PaymentIntent otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Whose charge: several gateways may use one Stripe account.
    pub installation: InstallationId,
    /// The client key that the payer was given.
    pub key: KeyId,
    /// Version of the key secret that it derives from.
    pub key_secret: i64,
    /// Credited on top of what is charged.
    pub bonus: Micros,
    /// Hash of payer and `Idempotency-Key`, so that the same key still charges once.
    pub request_key: Option<SecretHash>,
}

impl Recovery {
    pub(super) fn write(&self, metadata: &mut HashMap<String, String>) {
        let mut set = |name: &str, value: String| metadata.insert(name.to_owned(), value);
        set(INSTALLATION, self.installation.to_string());
        set(KEY, self.key.to_string());
        set(KEY_SECRET, self.key_secret.to_string());
        set(BONUS, self.bonus.get().to_string());
        if let Some(hash) = &self.request_key {
            set(REQUEST_KEY, hash.hex());
        }
    }

    /// `None` when it is not complete: it is not a charge of this program, or one of an older version.
    fn read(metadata: &HashMap<String, String>) -> Option<Self> {
        let text = |name: &str| metadata.get(name).map(String::as_str);
        let request_key = match text(REQUEST_KEY) {
            Some(digits) => Some(SecretHash::from_hex(digits)?),
            None => None,
        };
        Some(Self {
            installation: InstallationId::parse(text(INSTALLATION)?)?,
            key: KeyId::parse(text(KEY)?)?,
            key_secret: text(KEY_SECRET)?.parse().ok()?,
            bonus: Micros::new(text(BONUS)?.parse().ok()?)?,
            request_key,
        })
    }
}

/// A PaymentIntent with what is needed to credit it without its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverablePayment {
    /// As everywhere.
    pub facts: PaymentIntentFacts,
    /// The client's public id.
    pub client: ClientPublicId,
    /// The rest of the metadata.
    pub recovery: Recovery,
}

/// What a list of PaymentIntents holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoverablePayments {
    /// Those of the gateway that was asked for.
    pub ours: Vec<RecoverablePayment>,
    /// How many are for top-ups of others: another gateway's, or of a version that did not say whose they are.
    pub foreign: usize,
}

impl Stripe {
    /// All PaymentIntents of one gateway that were created from one second to another, both included, newest first.
    ///
    /// # Errors
    /// A list that cannot be read to its end, or is longer than 10,000 ([`UnknownReason::TooMany`]), is an error and never a
    /// shorter list.
    pub async fn list_recoverable(
        &self,
        installation: InstallationId,
        from_unix: i64,
        to_unix: i64,
        deadline: Instant,
    ) -> Result<RecoverablePayments, StripeFailure> {
        let created = RangeBoundsTs { gte: Some(from_unix), lte: Some(to_unix), ..RangeBoundsTs::default() };
        let first = ListPaymentIntent::new().created(RangeQueryTs::Bounds(created)).limit(PAGE_SIZE);
        let mut request = first.clone();
        let mut found = RecoverablePayments::default();
        for _ in 0..MAX_PAGES {
            let (page, meta) = self.page(Endpoint::ListPaymentIntents, &request, deadline).await?;
            let last = page.data.last().map(|intent| intent.id.as_str().to_owned());
            for intent in page.data {
                let is_for_a_top_up = intent.metadata.contains_key(TOP_UP_METADATA_KEY);
                match recoverable(intent, installation, &meta)? {
                    Some(payment) => found.ours.push(payment),
                    None if is_for_a_top_up => found.foreign = found.foreign.saturating_add(1),
                    None => {}
                }
            }
            if !page.has_more {
                return Ok(found);
            }
            request = first.clone().starting_after(last.ok_or_else(|| unreadable(&meta))?);
        }
        Err(StripeFailure::Unknown { reason: UnknownReason::TooMany, request_id: None })
    }
}

/// `None`: it is not a charge of this gateway.
fn recoverable(
    intent: PaymentIntent,
    installation: InstallationId,
    meta: &ResponseMeta,
) -> Result<Option<RecoverablePayment>, StripeFailure> {
    let client = intent.metadata.get(CLIENT_METADATA_KEY).and_then(|id| ClientPublicId::parse(id));
    let recovery = Recovery::read(&intent.metadata).filter(|recovery| recovery.installation == installation);
    let (Some(client), Some(recovery)) = (client, recovery) else {
        return Ok(None);
    };
    let facts = payment_intent_facts(intent, meta).ok_or_else(|| unreadable(meta))?;
    Ok(Some(RecoverablePayment { facts, client, recovery }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery() -> Recovery {
        Recovery {
            installation: InstallationId::new(),
            key: KeyId::new(),
            key_secret: 3,
            bonus: Micros::new(1_000_000).expect("valid"),
            request_key: Some(SecretHash::of("x")),
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        for given in [recovery(), Recovery { request_key: None, bonus: Micros::ZERO, ..recovery() }] {
            let mut metadata = HashMap::new();
            given.write(&mut metadata);
            assert_eq!(Recovery::read(&metadata), Some(given));
            // Stripe's limits.
            assert!(metadata.iter().all(|(name, value)| name.len() <= 40 && value.len() <= 500));
        }
    }

    #[test]
    fn what_is_not_complete_is_nobodys() {
        let mut whole = HashMap::new();
        recovery().write(&mut whole);
        for name in [INSTALLATION, KEY, KEY_SECRET, BONUS] {
            let mut without = whole.clone();
            without.remove(name);
            assert_eq!(Recovery::read(&without), None, "{name}");
        }
        for (name, value) in [
            (INSTALLATION, "x"),
            (KEY, ""),
            (KEY_SECRET, "1.5"),
            (BONUS, "-1"),
            (BONUS, "99999999999999999999"),
            (REQUEST_KEY, "00"),
            (REQUEST_KEY, "é"),
        ] {
            let mut other = whole.clone();
            other.insert(name.to_owned(), value.to_owned());
            assert_eq!(Recovery::read(&other), None, "{name}={value}");
        }
    }
}

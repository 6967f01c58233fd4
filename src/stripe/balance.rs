//! What has moved on the Stripe account: its balance transactions, each with the charge, refund or dispute it is about.

use std::collections::HashMap;

use miniserde::Deserialize;
use tokio::time::Instant;

use super::aftermath::{Plain, REFUND_METADATA_KEY};
use super::calls::{CLIENT_METADATA_KEY, Endpoint, Stripe, TOP_UP_METADATA_KEY, unreadable};
use super::facts::is_stripe_id;
use super::failure::{StripeFailure, UnknownReason};
use super::recovery::INSTALLATION;
use crate::domain::InstallationId;

/// Balance transactions on one page: with their sources, 50 stay below the largest answer that is read.
const PAGE_SIZE: &str = "50";
/// Pages read at most: 100,000 balance transactions.
const MAX_PAGES: usize = 2_000;

/// A balance transaction, <https://docs.stripe.com/api/balance_transactions/object>. Amounts are in the settlement currency.
#[derive(Debug, Clone, Deserialize)]
pub struct BalanceTransaction {
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
    /// `charge`, `refund`, `refund_failure`, `dispute`, `dispute_reversal`, `payout`, …
    pub reporting_category: String,
    /// What it is about. Fees of the account and the like are about nothing.
    pub source: Option<MovementSource>,
}

/// A charge, refund, dispute, payout or anything else that moves money. Amounts are in the currency the payer saw.
#[derive(Debug, Clone, Deserialize)]
pub struct MovementSource {
    /// Stripe's id.
    pub id: String,
    /// In minor units.
    pub amount: Option<i64>,
    /// Lower-case ISO 4217 code.
    pub currency: Option<String>,
    /// `pi_…`.
    pub payment_intent: Option<String>,
    /// Stripe's word.
    pub status: Option<String>,
    /// A charge has its PaymentIntent's.
    pub metadata: Option<HashMap<String, String>>,
}

impl MovementSource {
    fn named(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key).map(String::as_str)
    }

    /// Our top-up, from the metadata.
    #[must_use]
    pub fn top_up(&self) -> Option<&str> {
        self.named(TOP_UP_METADATA_KEY)
    }

    /// The gateway that made the charge, from the metadata. `None`: it does not say.
    #[must_use]
    pub fn installation(&self) -> Option<InstallationId> {
        self.named(INSTALLATION).and_then(InstallationId::parse)
    }

    /// The client's public id, from the metadata.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.named(CLIENT_METADATA_KEY)
    }

    /// Our refund, from the metadata.
    #[must_use]
    pub fn refund(&self) -> Option<&str> {
        self.named(REFUND_METADATA_KEY)
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    data: Vec<BalanceTransaction>,
    has_more: bool,
}

impl Stripe {
    /// All balance transactions of the account from one second to another, both included, newest first. `read` hears how many are
    /// read, after each page.
    ///
    /// # Errors
    /// A list that cannot be read to its end is an error and never a shorter list: "not in the list" must mean "not at Stripe".
    pub async fn balance_transactions_between(
        &self,
        from_unix: i64,
        to_unix: i64,
        deadline: Instant,
        read: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<Vec<BalanceTransaction>, StripeFailure> {
        let (from, to) = (from_unix.to_string(), to_unix.to_string());
        let mut found: Vec<BalanceTransaction> = Vec::new();
        for _ in 0..MAX_PAGES {
            let mut query = vec![
                ("created[gte]", from.as_str()),
                ("created[lte]", to.as_str()),
                ("expand[0]", "data.source"),
                ("limit", PAGE_SIZE),
            ];
            if let Some(last) = found.last() {
                query.push(("starting_after", last.id.as_str()));
            }
            let request: Plain<Page> = Plain::get("/balance_transactions", &query);
            let (page, meta) = self.page(Endpoint::ListBalance, &request, deadline).await?;
            let is_empty = page.data.is_empty();
            found.extend(page.data);
            read(found.len());
            match (page.has_more, is_empty) {
                (false, _) => return Ok(found),
                (true, true) => return Err(unreadable(&meta)),
                (true, false) => {}
            }
        }
        Err(StripeFailure::Unknown { reason: UnknownReason::TooMany, request_id: None })
    }

    /// One balance transaction. `None`: Stripe has none of that id.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn balance_transaction(
        &self,
        id: &str,
        deadline: Instant,
    ) -> Result<Option<BalanceTransaction>, StripeFailure> {
        if !is_stripe_id("txn_", id) {
            return Ok(None);
        }
        let request = Plain::get(format!("/balance_transactions/{id}"), &[("expand[0]", "source")]);
        unless_missing(self.call(Endpoint::RetrieveBalance, None, &request, deadline).await)
    }

    /// One refund. `None`: Stripe has none of that id.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn refund(&self, id: &str, deadline: Instant) -> Result<Option<MovementSource>, StripeFailure> {
        if !is_stripe_id("re_", id) && !is_stripe_id("pyr_", id) {
            return Ok(None);
        }
        let request = Plain::get(format!("/refunds/{id}"), &[]);
        unless_missing(self.call(Endpoint::RetrieveObject, None, &request, deadline).await)
    }
}

/// What Stripe certainly does not have is no failure.
fn unless_missing<T, M>(answer: Result<(T, M), StripeFailure>) -> Result<Option<T>, StripeFailure> {
    match answer {
        Ok((found, _)) => Ok(Some(found)),
        Err(failure) if failure.is_missing() => Ok(None),
        Err(failure) => Err(failure),
    }
}

impl StripeFailure {
    /// Stripe has no object of that id.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(refusal)
            if refusal.status == Some(404) && refusal.code.as_deref() == Some("resource_missing"))
    }

    /// Stripe has one in the other mode of this account: "a similar object exists in test mode, but a live mode key was used".
    #[must_use]
    pub fn is_of_other_mode(&self) -> bool {
        self.is_missing()
            && matches!(self, Self::Refused(refusal) if refusal.message.contains("a similar object exists in"))
    }
}

//! What Stripe has: its lists, and what is asked for by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::books::{InWindow, REFUND, TOP_UP, TOP_UP_OF_INTENT, top_up};
use super::{GatherError, OBJECT_DEADLINE};
use crate::db::{Connection, query, query_scalar};
use crate::domain::{ClientPublicId, InstallationId, RefundId, TopUpId};
use crate::ledger::SourceKind;
use crate::reconciliation::facts::{Charged, DisputeMoved, Moved, RefundStatus, Refunded};
use crate::reconciliation::window::{Listener, Progress, Window};
use crate::stripe::{BalanceTransaction, MovementSource, PaymentIntentStatus, Stripe};
use crate::top_up::after;

/// What reading one list may take.
const LIST_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Of a long list, every so many-th balance transaction is told.
const TOLD_EVERY: usize = 1_000;

const STATE_OF_INTENT: &str = "SELECT id, state FROM top_ups WHERE payment_intent = $1";
const IS_TOP_UP: &str = "SELECT EXISTS (SELECT 1 FROM top_ups WHERE id = $1)";

/// What Stripe has, each thing once.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// By PaymentIntent.
    pub(super) charges: BTreeMap<String, Charged>,
    /// By Stripe's id.
    pub(super) refunds: BTreeMap<String, Refunded>,
    /// By balance transaction.
    pub(super) disputes: BTreeMap<String, DisputeMoved>,
    pub(super) not_charged: BTreeSet<String>,
    pub(super) unknown: BTreeSet<String>,
    /// Balance transactions that were read, ours or not.
    transactions: BTreeSet<String>,
    /// Of PaymentIntents that have been looked up: the top-up of ours that they are for, if they are ours.
    ours: BTreeMap<String, Option<String>>,
}

pub(super) struct Reading<'a> {
    pub(super) stripe: &'a Stripe,
    /// Ours.
    pub(super) installation: Option<InstallationId>,
    pub(super) side: Side,
    pub(super) foreign: u64,
}

impl Reading<'_> {
    pub(super) async fn lists(
        &mut self,
        window: Window,
        connection: &mut Connection,
        listener: Listener<'_>,
    ) -> Result<(), GatherError> {
        let (from, until) = (window.from(), window.until());
        let movements = |read: usize| {
            if read.is_multiple_of(TOLD_EVERY) {
                listener(Progress::Movements(read));
            }
        };
        let moved =
            self.stripe.balance_transactions_between(from, until, after(LIST_DEADLINE), &movements).await?;
        let intents =
            self.stripe.list_payment_intents_created_between(from, until, after(LIST_DEADLINE)).await?;
        listener(Progress::Movements(moved.len()));
        listener(Progress::Intents(intents.len()));
        for transaction in moved {
            self.transaction(transaction, connection).await?;
        }
        // A charge's balance transaction can come later than the charge.
        for intent in intents {
            if intent.status == PaymentIntentStatus::Succeeded {
                let named = self.named(intent.top_up_id.as_deref(), intent.installation, connection).await?;
                if let Some(top_up) = named {
                    self.charged_without_movement(
                        intent.id,
                        top_up,
                        intent.amount_received_minor,
                        intent.currency,
                    );
                }
            }
        }
        Ok(())
    }

    /// The top-up that the metadata of a charge name. `None`: none, or it is another gateway's. What is in our books is ours,
    /// and what does not say whose it is counts as ours: it must show.
    async fn named(
        &self,
        top_up: Option<&str>,
        installation: Option<InstallationId>,
        connection: &mut Connection,
    ) -> Result<Option<String>, GatherError> {
        let Some(top_up) = top_up.and_then(TopUpId::parse).map(|id| id.to_string()) else {
            return Ok(None);
        };
        let is_anothers = self.installation.zip(installation).is_some_and(|(ours, named)| ours != named);
        if is_anothers && !query_scalar(IS_TOP_UP).bind(top_up.clone()).fetch_one(connection).await? {
            return Ok(None);
        }
        Ok(Some(top_up))
    }

    fn charged_without_movement(
        &mut self,
        payment_intent: String,
        top_up: String,
        amount: i64,
        currency: String,
    ) {
        self.side.charges.entry(payment_intent.clone()).or_insert(Charged {
            payment_intent,
            charge: None,
            top_up,
            client: None,
            amount,
            currency,
            movement: None,
        });
    }

    /// The top-up of ours that a PaymentIntent is for: by our row, or by its metadata.
    async fn top_up_of(
        &mut self,
        intent: &str,
        connection: &mut Connection,
    ) -> Result<Option<String>, GatherError> {
        if let Some(known) = self.side.ours.get(intent) {
            return Ok(known.clone());
        }
        let row = query(STATE_OF_INTENT).bind(intent.to_owned()).fetch_optional(&mut *connection).await?;
        let (mut found, is_credited) = match &row {
            Some(row) => (Some(row.try_get::<String, _>(0)?), row.try_get::<&str, _>(1)? == "succeeded"),
            None => (None, false),
        };
        if !is_credited && !self.side.charges.contains_key(intent) {
            match self.stripe.retrieve_payment_intent(intent, after(OBJECT_DEADLINE)).await {
                Ok(there) => {
                    if found.is_none() {
                        found =
                            self.named(there.top_up_id.as_deref(), there.installation, connection).await?;
                    }
                    // What has become of a charge that nobody was credited for is only understood with that charge, whenever
                    // it was made.
                    if let (Some(top_up), PaymentIntentStatus::Succeeded) = (&found, there.status) {
                        self.charged_without_movement(
                            intent.to_owned(),
                            top_up.clone(),
                            there.amount_received_minor,
                            there.currency,
                        );
                    }
                }
                Err(failure) if failure.is_missing() => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        if found.is_none() {
            found = self.side.charges.get(intent).map(|charge| charge.top_up.clone());
        }
        self.side.ours.insert(intent.to_owned(), found.clone());
        Ok(found)
    }

    async fn transaction(
        &mut self,
        transaction: BalanceTransaction,
        connection: &mut Connection,
    ) -> Result<(), GatherError> {
        if !self.side.transactions.insert(transaction.id.clone()) {
            return Ok(());
        }
        let BalanceTransaction { id, amount, fee, currency, created, reporting_category, source } =
            transaction;
        // Payouts, fees of the account, transfers: nobody's charge.
        let known = ["charge", "refund", "refund_failure", "dispute", "dispute_reversal"];
        let Some(source) = source.filter(|_| known.contains(&reporting_category.as_str())) else {
            return Ok(());
        };
        let movement = Moved { id: id.clone(), fee, currency: currency.clone(), created };
        let Some(intent) = source.payment_intent.clone() else {
            self.foreign = self.foreign.saturating_add(1);
            return Ok(());
        };
        let top_up = match reporting_category.as_str() {
            // A charge has its PaymentIntent's metadata: nobody needs to be asked.
            "charge" => {
                let mut top_up = self.named(source.top_up(), source.installation(), connection).await?;
                if top_up.is_none() {
                    let of = query_scalar(TOP_UP_OF_INTENT).bind(intent.clone());
                    top_up = of.fetch_optional(&mut *connection).await?;
                }
                self.side.ours.insert(intent.clone(), top_up.clone());
                top_up
            }
            _ => self.top_up_of(&intent, connection).await?,
        };
        let Some(top_up) = top_up else {
            self.foreign = self.foreign.saturating_add(1);
            return Ok(());
        };
        let (of_source, of_currency) =
            (source.amount.unwrap_or(amount), source.currency.clone().unwrap_or_else(|| currency.clone()));
        match reporting_category.as_str() {
            "charge" => {
                let client = source.client().and_then(ClientPublicId::parse).map(|id| id.to_string());
                let charge = Some(source.id);
                let charged = Charged {
                    payment_intent: intent.clone(),
                    charge,
                    top_up,
                    client,
                    amount: of_source,
                    currency: of_currency,
                    movement: Some(movement),
                };
                self.side.charges.insert(intent, charged);
            }
            "refund" | "refund_failure" => self.refund(source, intent, of_source, of_currency),
            _ => {
                // In another currency than the dispute's, the movement is taken for the whole of it, as when it is booked.
                let amount = if currency == of_currency { amount.saturating_abs() } else { of_source };
                let moved = DisputeMoved {
                    dispute: source.id,
                    payment_intent: intent,
                    amount,
                    currency: of_currency,
                    is_reinstated: reporting_category == "dispute_reversal",
                    movement,
                };
                self.side.disputes.insert(id, moved);
            }
        }
        Ok(())
    }

    fn refund(&mut self, source: MovementSource, payment_intent: String, amount: i64, currency: String) {
        let status = match source.status.as_deref() {
            Some("succeeded") => RefundStatus::Succeeded,
            Some("failed" | "canceled") => RefundStatus::Failed,
            _ => RefundStatus::Pending,
        };
        let ours = source.refund().and_then(RefundId::parse).map(|id| id.to_string());
        let refunded = Refunded { id: source.id.clone(), payment_intent, ours, amount, currency, status };
        self.side.refunds.insert(source.id, refunded);
    }

    /// Asks Stripe by id for what its lists have not named.
    pub(super) async fn what_only_the_books_have(
        &mut self,
        books: &InWindow,
        connection: &mut Connection,
    ) -> Result<(), GatherError> {
        for source in books.posted.by_source.keys() {
            let (SourceKind::Fee | SourceKind::Dispute | SourceKind::Reinstatement | SourceKind::DisputeFee) =
                source.kind()
            else {
                continue;
            };
            let id = source.id().to_string();
            if self.side.transactions.contains(&id) {
                continue;
            }
            if let Some(found) = self.stripe.balance_transaction(&id, after(OBJECT_DEADLINE)).await? {
                self.transaction(found, connection).await?;
            }
        }
        for id in &books.refunds {
            let row = query(REFUND).bind(id.clone()).fetch_optional(&mut *connection).await?;
            let Some(stripe_refund) =
                row.map(|row| row.try_get::<Option<String>, _>(3)).transpose()?.flatten()
            else {
                continue;
            };
            if self.side.refunds.contains_key(&stripe_refund) {
                continue;
            }
            let found = self.stripe.refund(&stripe_refund, after(OBJECT_DEADLINE)).await?;
            if let Some(source) = found
                && let (Some(intent), Some(amount), Some(currency)) =
                    (source.payment_intent.clone(), source.amount, source.currency.clone())
            {
                self.refund(source, intent, amount, currency);
            }
        }
        // A charge may be a second one: the first is the row's, whenever that was made.
        let charged = self.side.charges.values().map(|charge| charge.top_up.clone());
        let top_ups: BTreeSet<String> = books.top_ups.iter().cloned().chain(charged).collect();
        for id in top_ups {
            let row = query(TOP_UP).bind(id.clone()).fetch_optional(&mut *connection).await?;
            let Some(intent) = row.as_ref().map(top_up).transpose()?.and_then(|row| row.payment_intent)
            else {
                continue;
            };
            if self.side.charges.contains_key(&intent) {
                continue;
            }
            match self.stripe.retrieve_payment_intent(&intent, after(OBJECT_DEADLINE)).await {
                Ok(there) if there.status == PaymentIntentStatus::Succeeded => {
                    let named = there.top_up_id.as_deref().and_then(TopUpId::parse);
                    let top_up = named.map_or_else(|| id.clone(), |named| named.to_string());
                    self.charged_without_movement(
                        intent,
                        top_up,
                        there.amount_received_minor,
                        there.currency,
                    );
                }
                Ok(_) => drop(self.side.not_charged.insert(intent)),
                Err(failure) if failure.is_missing() => drop(self.side.unknown.insert(intent)),
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }
}

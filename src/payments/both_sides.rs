//! Reads what Stripe has and what the books say about a window of time, for [`compare`](super::comparison::compare).
//!
//! The two clocks and the way between the two differ, so an edge of the window cuts them at different places. Therefore whatever
//! only one side has in the window is looked up at the other by its id, whenever it was.
//!
//! Several gateways may charge through one Stripe account. Whose a charge is, its metadata say, and a refund or a dispute is
//! whose its charge is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::comparison::{
    BooksSide, Charged, DisputeMoved, Facts, Moved, Posted, RefundRow, RefundStatus, Refunded, StripeSide,
    TopUpRow, charges_nobody_was_credited_for,
};
use super::window::{Listener, Progress, Window, second};
use crate::config::DatabaseConfig;
use crate::db::{Connection, DbError, Row, connect_read_only, query, query_scalar, require_current};
use crate::domain::{ClientPublicId, InstallationId, RefundId, TopUpId};
use crate::ledger::account::{Account, Rail};
use crate::ledger::source::EntrySource;
use crate::ledger::{Source, SourceKind};
use crate::stripe::{BalanceTransaction, MovementSource, PaymentIntentStatus, Stripe, StripeFailure};
use crate::top_up::account::account_since;
use crate::top_up::{after, installation};

/// What reading one list, or looking up one object, may take.
const LIST_DEADLINE: Duration = Duration::from_secs(15 * 60);
const OBJECT_DEADLINE: Duration = Duration::from_secs(30);
/// Of a long list, every so many-th balance transaction is told.
const TOLD_EVERY: usize = 1_000;

/// What was read.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// To compare.
    pub facts: Facts,
    /// Charges, refunds and disputes of other products, and of other gateways, on the same Stripe account.
    pub foreign: u64,
    /// What was compared: the window that was asked for, less what is in a former account.
    pub window: Window,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The database's word.
    #[error("the database cannot be read: {0}")]
    Db(#[from] DbError),
    /// Stripe's word.
    #[error("Stripe cannot be read: {0}")]
    Stripe(#[from] StripeFailure),
    /// Nothing of the window is this account's.
    #[error(
        "the window ends before {since}, when this Stripe account was accepted (`prepaid402 accept-account`): what was charged by then \
         is in the former account, which cannot be read with this key"
    )]
    FormerAccount {
        /// When that was.
        since: String,
    },
}

impl From<sqlx::Error> for GatherError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Only what moves money at Stripe touches one of these; usage and holds do not.
const AT_STRIPE: [Account; 4] = [
    Account::Clearing(Rail::Stripe),
    Account::Fees(Rail::Stripe),
    Account::RefundPending,
    Account::Dispute(Rail::Stripe),
];
const ENTRIES_BETWEEN: &str = "\
SELECT source, debit, credit, amount, currency, client FROM entries
WHERE at >= $1 AND at < $2 AND (debit IN ($3, $4, $5, $6) OR credit IN ($3, $4, $5, $6))";
const ENTRIES_OF: &str = "\
SELECT source, debit, credit, amount, currency, client FROM entries
WHERE source IN ($1, $2, $3) AND (debit IN ($4, $5, $6, $7) OR credit IN ($4, $5, $6, $7))";
const TOP_UPS_BETWEEN: &str = "\
SELECT id FROM top_ups WHERE state = 'succeeded'
AND ((created_at >= $1 AND created_at < $2) OR (updated_at >= $1 AND updated_at < $2))";
const REFUNDS_BETWEEN: &str = "\
SELECT id FROM refunds
WHERE (created_at >= $1 AND created_at < $2) OR (updated_at >= $1 AND updated_at < $2)";
const TOP_UP_OF_INTENT: &str = "SELECT id FROM top_ups WHERE payment_intent = $1";
const STATE_OF_INTENT: &str = "SELECT id, state FROM top_ups WHERE payment_intent = $1";
const IS_TOP_UP: &str = "SELECT EXISTS (SELECT 1 FROM top_ups WHERE id = $1)";
const REFUND_OF_STRIPE: &str = "SELECT id FROM refunds WHERE stripe_refund = $1";
const TOP_UP: &str = "\
SELECT t.client, c.public_id, t.currency, t.amount, t.state, t.payment_intent, t.charge
FROM top_ups AS t LEFT JOIN clients AS c ON c.id = t.client WHERE t.id = $1";
const REFUND: &str = "SELECT top_up, amount, state, stripe_refund FROM refunds WHERE id = $1";

/// Reads both sides. Nothing is open in the database while Stripe is asked.
///
/// # Errors
/// When one side cannot be read completely.
pub async fn gather(
    database: &DatabaseConfig,
    stripe: &Stripe,
    window: Window,
    listener: Listener<'_>,
) -> Result<Gathered, GatherError> {
    let mut connection = connect_read_only(database).await?;
    require_current(&mut connection).await?;
    let installation = installation::known(&mut connection).await?;
    // What was charged in a former account cannot be compared with this one.
    let since = account_since(&mut connection).await?.filter(|since| *since > window.from());
    let window = match since {
        Some(since) => {
            let left =
                window.since(since).ok_or_else(|| GatherError::FormerAccount { since: second(since) })?;
            listener(Progress::LeftOut(since));
            left
        }
        None => window,
    };
    let mut books = InWindow::read(&mut connection, window).await?;
    let mut reading = Reading { stripe, installation, side: Side::default(), foreign: 0 };
    reading.lists(window, &mut connection, listener).await?;
    reading.what_only_the_books_have(&books, &mut connection).await?;
    let (side, foreign) = (reading.side, reading.foreign);
    let mut facts = Facts {
        now: crate::db::now_micros().checked_div(1_000_000).unwrap_or_default(),
        books: books.completed(&mut connection, &side).await?,
        stripe: StripeSide {
            charges: side.charges.into_values().collect(),
            refunds: side.refunds.into_values().collect(),
            disputes: side.disputes.into_values().collect(),
            not_charged: side.not_charged,
            unknown: side.unknown,
            given_back: BTreeSet::new(),
        },
    };
    connection.close().await?;
    for intent in charges_nobody_was_credited_for(&facts) {
        // Whenever it was given back: the list of the window does not have to name it.
        if stripe.charge_aftermath(&intent, after(OBJECT_DEADLINE)).await?.is_given_back() {
            facts.stripe.given_back.insert(intent);
        }
    }
    Ok(Gathered { facts, foreign, window })
}

/// What the books have in the window.
#[derive(Debug, Default)]
struct InWindow {
    top_ups: BTreeSet<String>,
    refunds: BTreeSet<String>,
    posted: Entries,
}

impl InWindow {
    async fn read(connection: &mut Connection, window: Window) -> Result<Self, sqlx::Error> {
        let from = window.from().saturating_mul(1_000_000);
        let until = window.until().saturating_add(1).saturating_mul(1_000_000);
        let mut read = Self::default();
        connection.begin_snapshot().await?;
        let top_ups: Vec<String> =
            query_scalar(TOP_UPS_BETWEEN).bind(from).bind(until).fetch_all(&mut *connection).await?;
        let refunds: Vec<String> =
            query_scalar(REFUNDS_BETWEEN).bind(from).bind(until).fetch_all(&mut *connection).await?;
        let entries =
            AT_STRIPE.iter().fold(query(ENTRIES_BETWEEN).bind(from).bind(until), |query, account| {
                query.bind(account.number())
            });
        let entries = entries.fetch_all(&mut *connection).await?;
        connection.rollback().await?;
        for row in &entries {
            read.posted.add(row)?;
        }
        read.top_ups.extend(top_ups);
        read.refunds.extend(refunds);
        for source in read.posted.by_source.keys() {
            match source.kind() {
                SourceKind::TopUp => drop(read.top_ups.insert(source.id().to_string())),
                SourceKind::Refund | SourceKind::RefundPaid | SourceKind::RefundReturn => {
                    read.refunds.insert(source.id().to_string());
                }
                _ => {}
            }
        }
        Ok(read)
    }

    /// Everything here that something at Stripe is about, whenever it was written.
    async fn completed(
        &mut self,
        connection: &mut Connection,
        side: &Side,
    ) -> Result<BooksSide, sqlx::Error> {
        connection.begin_snapshot().await?;
        let mut top_ups = std::mem::take(&mut self.top_ups);
        let mut refunds = std::mem::take(&mut self.refunds);
        let mut sources: BTreeSet<Source> = self.posted.by_source.keys().cloned().collect();
        // What no source can be named after is in no entry.
        let named = |kind: SourceKind, id: &str| Source::named(kind, id).ok();
        let intents = side.charges.keys();
        let intents = intents.chain(side.refunds.values().map(|refund| &refund.payment_intent));
        for intent in intents.chain(side.disputes.values().map(|moved| &moved.payment_intent)) {
            let of: Vec<String> =
                query_scalar(TOP_UP_OF_INTENT).bind(intent.clone()).fetch_all(&mut *connection).await?;
            top_ups.extend(of);
        }
        for charge in side.charges.values() {
            top_ups.insert(charge.top_up.clone());
            sources.extend(charge.movement.iter().filter_map(|moved| named(SourceKind::Fee, &moved.id)));
        }
        for refund in side.refunds.values() {
            let of: Vec<String> =
                query_scalar(REFUND_OF_STRIPE).bind(refund.id.clone()).fetch_all(&mut *connection).await?;
            refunds.extend(of);
            refunds.extend(refund.ours.clone());
        }
        for moved in side.disputes.keys() {
            let kinds = [SourceKind::Dispute, SourceKind::Reinstatement, SourceKind::DisputeFee];
            sources.extend(kinds.into_iter().filter_map(|kind| named(kind, moved)));
        }
        let mut books =
            BooksSide { unknown: std::mem::take(&mut self.posted.unknown), ..BooksSide::default() };
        for id in refunds {
            let kinds = [SourceKind::Refund, SourceKind::RefundPaid, SourceKind::RefundReturn];
            sources.extend(kinds.into_iter().filter_map(|kind| named(kind, &id)));
            if let Some(row) = query(REFUND).bind(id.clone()).fetch_optional(&mut *connection).await? {
                let row = RefundRow {
                    top_up: row.try_get(0)?,
                    amount: row.try_get(1)?,
                    state: row.try_get(2)?,
                    stripe_refund: row.try_get(3)?,
                };
                top_ups.insert(row.top_up.clone());
                books.refunds.insert(id, row);
            }
        }
        for id in top_ups {
            sources.extend(named(SourceKind::TopUp, &id));
            if let Some(row) = query(TOP_UP).bind(id.clone()).fetch_optional(&mut *connection).await? {
                books.top_ups.insert(id, top_up(&row)?);
            }
        }
        let mut posted = Entries::default();
        for source in sources {
            let entries = source.entries().fold(query(ENTRIES_OF), |query, leg| query.bind(leg.to_string()));
            let entries = AT_STRIPE.iter().fold(entries, |query, account| query.bind(account.number()));
            for row in entries.fetch_all(&mut *connection).await? {
                posted.add(&row)?;
            }
        }
        books.posted = posted.by_source;
        connection.rollback().await?;
        Ok(books)
    }
}

fn top_up(row: &Row) -> Result<TopUpRow, sqlx::Error> {
    Ok(TopUpRow {
        client: row.try_get(0)?,
        client_public: row.try_get(1)?,
        currency: row.try_get(2)?,
        amount: row.try_get(3)?,
        state: row.try_get(4)?,
        payment_intent: row.try_get(5)?,
        charge: row.try_get(6)?,
    })
}

/// What commands move, all entries of one together.
#[derive(Debug, Default)]
struct Entries {
    by_source: BTreeMap<Source, Posted>,
    /// By the stored text, where that is no source that this program knows.
    unknown: BTreeMap<String, Posted>,
}

impl Entries {
    fn add(&mut self, row: &Row) -> Result<(), sqlx::Error> {
        let text: &str = row.try_get(0)?;
        let sums = match text.parse::<EntrySource>() {
            Ok(source) => self.by_source.entry(source.command().clone()).or_default(),
            Err(_) => self.unknown.entry(text.to_owned()).or_default(),
        };
        let (debit, credit): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        let amount = i128::from(row.try_get::<i64, _>(3)?);
        sums.currency = row.try_get(4)?;
        sums.client = row.try_get(5)?;
        for (account, amount) in [(debit, amount), (credit, amount.saturating_neg())] {
            let sum = match Account::from_number(account) {
                Some(Account::Clearing(Rail::Stripe)) => &mut sums.clearing,
                Some(Account::RefundPending) => &mut sums.pending,
                Some(Account::Fees(Rail::Stripe)) => &mut sums.fees,
                Some(Account::Dispute(Rail::Stripe)) => &mut sums.dispute,
                _ => continue,
            };
            *sum = sum.saturating_add(amount);
        }
        Ok(())
    }
}

/// What Stripe has, each thing once.
#[derive(Debug, Default)]
struct Side {
    /// By PaymentIntent.
    charges: BTreeMap<String, Charged>,
    /// By Stripe's id.
    refunds: BTreeMap<String, Refunded>,
    /// By balance transaction.
    disputes: BTreeMap<String, DisputeMoved>,
    not_charged: BTreeSet<String>,
    unknown: BTreeSet<String>,
    /// Balance transactions that were read, ours or not.
    transactions: BTreeSet<String>,
    /// Of PaymentIntents that have been looked up: the top-up of ours that they are for, if they are ours.
    ours: BTreeMap<String, Option<String>>,
}

struct Reading<'a> {
    stripe: &'a Stripe,
    /// Ours.
    installation: Option<InstallationId>,
    side: Side,
    foreign: u64,
}

impl Reading<'_> {
    async fn lists(
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
    async fn what_only_the_books_have(
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

//! What the books say.

use std::collections::{BTreeMap, BTreeSet};

use super::at_stripe::Side;
use crate::db::{Connection, Row, query, query_scalar};
use crate::ledger::account::{Account, Rail};
use crate::ledger::source::EntrySource;
use crate::ledger::{Source, SourceKind};
use crate::reconciliation::facts::{BooksSide, Posted, RefundRow, TopUpRow};
use crate::reconciliation::window::Window;

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

const REFUND_OF_STRIPE: &str = "SELECT id FROM refunds WHERE stripe_refund = $1";

pub(super) const TOP_UP_OF_INTENT: &str = "SELECT id FROM top_ups WHERE payment_intent = $1";

pub(super) const TOP_UP: &str = "\
SELECT t.client, c.public_id, t.currency, t.amount, t.state, t.payment_intent, t.charge
FROM top_ups AS t LEFT JOIN clients AS c ON c.id = t.client WHERE t.id = $1";
pub(super) const REFUND: &str = "SELECT top_up, amount, state, stripe_refund FROM refunds WHERE id = $1";

/// What the books have in the window.
#[derive(Debug, Default)]
pub(super) struct InWindow {
    pub(super) top_ups: BTreeSet<String>,
    pub(super) refunds: BTreeSet<String>,
    pub(super) posted: Entries,
}

impl InWindow {
    pub(super) async fn read(connection: &mut Connection, window: Window) -> Result<Self, sqlx::Error> {
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
    pub(super) async fn completed(
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

pub(super) fn top_up(row: &Row) -> Result<TopUpRow, sqlx::Error> {
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
pub(super) struct Entries {
    pub(super) by_source: BTreeMap<Source, Posted>,
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

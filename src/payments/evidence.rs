//! What answers a dispute: the payment, and what was delivered for it. Read only; holds no secret.
//!
//! Stripe takes evidence once. So everything is in one place: who paid what when, every request that was paid from the balance
//! between the payment and the dispute, what was given back, and who stopped the client from spending. `evidence/written.rs`
//! writes it down for people and programs.

mod written;

use std::collections::{HashMap, HashSet};

use super::refunds::{self, Refund};
use crate::db::{On, Row, query, query_scalar};
use crate::domain::TopUpId;
use crate::ledger::account::Account;
use crate::ledger::adjustments::{self, Adjustment};
use crate::ledger::source::{EntrySource, SourceId};
use crate::ledger::{Source, SourceKind, undelivered_entries};

/// Entries looked at with one statement.
const PAGE: i64 = 500;
/// Entries looked at before this gives up and says so.
const MAX_ENTRIES: usize = 1_000_000;

/// What answers one dispute.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Lower-case ISO 4217 code of all amounts.
    pub currency: String,
    /// The dispute.
    pub dispute: DisputeRow,
    /// The payment that is disputed.
    pub payment: Payment,
    /// Who paid.
    pub client: Client,
    /// Requests paid from the balance between the payment and the dispute, oldest first.
    pub requests: Vec<PaidRequest>,
    /// There are more entries than are looked at; the oldest requests are missing.
    pub is_cut: bool,
    /// Refunds of the payment, oldest first.
    pub refunds: Vec<Refund>,
    /// Who stopped the client from spending, and until when.
    pub freezes: Vec<Freeze>,
    /// What operators gave the client, oldest first: the newest thousand.
    pub adjustments: Vec<Adjustment>,
}

/// A dispute, as stored.
#[derive(Debug, Clone)]
pub struct DisputeRow {
    /// Stripe's id.
    pub id: String,
    /// In micros.
    pub amount: i64,
    /// Stripe's word.
    pub status: String,
    /// Stripe's word.
    pub reason: String,
    /// Unix seconds: evidence is taken until then.
    pub due_by: Option<i64>,
    /// Unix microseconds.
    pub created_at: i64,
}

/// The payment that is disputed.
#[derive(Debug, Clone)]
pub struct Payment {
    /// Ours.
    pub top_up: String,
    /// `ch_…`.
    pub charge: String,
    /// `pi_…`.
    pub payment_intent: Option<String>,
    /// Charged, in micros.
    pub amount: i64,
    /// Credited on top, in micros.
    pub bonus: i64,
    /// When it was begun, in Unix microseconds.
    pub created_at: i64,
    /// When it was credited, in Unix microseconds; `None`: it is not in the books.
    pub credited_at: Option<i64>,
    /// Paid and bonus credit right after it, in micros.
    pub balance_after: Option<i64>,
}

/// Who paid.
#[derive(Debug, Clone)]
pub struct Client {
    /// What people see.
    pub public_id: String,
    /// `active` or `frozen`.
    pub status: String,
    /// Since when, in Unix microseconds.
    pub created_at: i64,
    /// The first characters of its keys, which is all that is stored of them.
    pub key_prefixes: Vec<String>,
    /// Paid credit now, in micros.
    pub paid: i64,
    /// Bonus credit now, in micros.
    pub bonus: i64,
    /// What it owes now, in micros.
    pub debt: i64,
}

/// A request that was paid from the balance.
#[derive(Debug, Clone)]
pub struct PaidRequest {
    /// Its id, which the answer carried as `x-request-id`.
    pub id: String,
    /// Unix microseconds.
    pub at: i64,
    /// The name of what was bought.
    pub route: String,
    /// In micros.
    pub price: i64,
    /// What the API answered.
    pub upstream_status: Option<i64>,
    /// The first characters of the client key that paid; `None` for what was paid before schema 8.
    pub key: Option<String>,
    /// What became of the answer.
    pub outcome: Outcome,
    /// Paid and bonus credit right after it, in micros.
    pub balance_after: i64,
}

/// What became of the answer that a request paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was passed on to its end, or kept for the caller.
    Delivered,
    /// It was not, and the price was given back.
    Reversed,
    /// It is on its way, or whether it arrived is not written down yet, which takes seconds.
    Unconfirmed,
}

/// A cause for which a client may not spend.
#[derive(Debug, Clone)]
pub struct Freeze {
    /// `operator`, `dispute:ID` or `fraud_warning:ID`.
    pub cause: String,
    /// Unix microseconds.
    pub created_at: i64,
    /// Unix microseconds.
    pub lifted_at: Option<i64>,
    /// An operator's name, or what the dispute became.
    pub lifted_by: Option<String>,
}

const DISPUTE: &str = "\
SELECT d.id, d.amount, d.status, d.reason, d.due_by, d.created_at, d.charge, t.id, t.payment_intent, t.amount, t.bonus,
       t.currency, t.created_at, c.id, c.public_id, c.status, c.created_at, c.paid, c.bonus, c.debt, c.last_entry
FROM disputes AS d JOIN top_ups AS t ON t.id = d.top_up JOIN clients AS c ON c.id = d.client WHERE d.id = $1";
const KEYS: &str = "SELECT shown_prefix FROM client_keys WHERE client = $1 ORDER BY created_at, id";
const FREEZES: &str = "\
SELECT cause, created_at, lifted_at, lifted_by FROM freezes WHERE client = $1 ORDER BY created_at, cause";
/// The last leg of the top-up: what the client had after it.
const CREDITED: &str = "\
SELECT at, sequence, paid_after, bonus_after FROM entries WHERE source IN ($1, $2, $3)
ORDER BY sequence DESC LIMIT 1";
const UNDELIVERED: &str = "SELECT entries FROM undelivered";
/// From an entry back along its client's chain.
const ENTRIES: &str = "\
WITH RECURSIVE chain (id, step) AS (
    SELECT CAST($1 AS BIGINT), 1
    UNION ALL SELECT e.previous, chain.step + 1 FROM chain JOIN entries AS e ON e.id = chain.id
    WHERE e.previous IS NOT NULL AND chain.step < $2)
SELECT e.id, e.at, e.source, e.credit, e.amount, e.sequence, e.previous, e.paid_after, e.bonus_after, r.name, e.upstream_status, k.shown_prefix
FROM chain JOIN entries AS e ON e.id = chain.id LEFT JOIN routes AS r ON r.id = e.route
LEFT JOIN client_keys AS k ON k.number = e.key ORDER BY chain.step";

/// The freezes of a client, oldest first.
///
/// # Errors
/// What the database said.
pub async fn freezes_of(on: impl Into<On<'_>>, client: i64) -> Result<Vec<Freeze>, sqlx::Error> {
    let rows = query(FREEZES).bind(client).fetch_all(on).await?;
    let freeze = |row: &Row| {
        Ok(Freeze {
            cause: row.try_get(0)?,
            created_at: row.try_get(1)?,
            lifted_at: row.try_get(2)?,
            lifted_by: row.try_get(3)?,
        })
    };
    rows.iter().map(freeze).collect()
}

/// Gathers what answers a dispute. `None`: there is no such dispute.
///
/// # Errors
/// What the database said.
pub async fn gather(mut books: On<'_>, dispute: &str) -> Result<Option<Evidence>, sqlx::Error> {
    let Some(row) = query(DISPUTE).bind(dispute).fetch_optional(books.again()).await? else {
        return Ok(None);
    };
    let top_up: String = row.try_get(7)?;
    let id =
        TopUpId::parse(&top_up).ok_or_else(|| sqlx::Error::Decode("a top-up's id is malformed".into()))?;
    let client: i64 = row.try_get(13)?;
    let credited = Source::new(SourceKind::TopUp, id).entries();
    let credited = credited.fold(query(CREDITED), |query, source| query.bind(source.to_string()));
    let credited = credited.fetch_optional(books.again()).await?;
    let (credited_at, credited_sequence, balance_after) = match &credited {
        Some(row) => (
            Some(row.try_get(0)?),
            row.try_get::<Option<i64>, _>(1)?.unwrap_or(0),
            balance(row.try_get(2)?, row.try_get(3)?),
        ),
        None => (None, 0, None),
    };
    let created_at: i64 = row.try_get(5)?;
    let span = Span {
        newest: row.try_get(20)?,
        after: credited_sequence,
        // Stripe tells whole seconds; what happened within this one came before.
        until: created_at.saturating_add(1_000_000),
    };
    let (requests, is_cut) = requests(&mut books, span).await?;
    let mut adjusted = adjustments::of_client(books.again(), client, 1_000).await?;
    adjusted.reverse();
    Ok(Some(Evidence {
        currency: row.try_get(11)?,
        dispute: DisputeRow {
            id: row.try_get(0)?,
            amount: row.try_get(1)?,
            status: row.try_get(2)?,
            reason: row.try_get(3)?,
            due_by: row.try_get(4)?,
            created_at,
        },
        payment: Payment {
            top_up,
            charge: row.try_get(6)?,
            payment_intent: row.try_get(8)?,
            amount: row.try_get(9)?,
            bonus: row.try_get(10)?,
            created_at: row.try_get(12)?,
            credited_at,
            balance_after,
        },
        client: Client {
            public_id: row.try_get(14)?,
            status: row.try_get(15)?,
            created_at: row.try_get(16)?,
            key_prefixes: query_scalar(KEYS).bind(client).fetch_all(books.again()).await?,
            paid: row.try_get(17)?,
            bonus: row.try_get(18)?,
            debt: row.try_get(19)?,
        },
        requests,
        is_cut,
        refunds: refunds::of_top_up(books.again(), id).await?,
        freezes: freezes_of(books.again(), client).await?,
        adjustments: adjusted,
    }))
}

fn balance(paid: Option<i64>, bonus: Option<i64>) -> Option<i64> {
    paid.zip(bonus).map(|(paid, bonus)| paid.saturating_add(bonus))
}

/// Which entries of a client are looked at.
struct Span {
    newest: Option<i64>,
    /// The client's counter at the top-up.
    after: i64,
    /// Unix microseconds.
    until: i64,
}

async fn requests(books: &mut On<'_>, span: Span) -> Result<(Vec<PaidRequest>, bool), sqlx::Error> {
    let mut running = HashSet::new();
    for list in query_scalar::<String>(UNDELIVERED).fetch_all(books.again()).await? {
        running.extend(undelivered_entries(&list)?);
    }
    // Newest first: a reversal comes before what it reverses.
    let (mut reversed, mut found) = (HashSet::new(), Vec::<PaidRequest>::new());
    let mut places: HashMap<SourceId, usize> = HashMap::new();
    let (mut cursor, mut looked) = (span.newest, 0_usize);
    while let Some(newest) = cursor {
        let rows = query(ENTRIES).bind(newest).bind(PAGE).fetch_all(books.again()).await?;
        looked = looked.saturating_add(rows.len());
        cursor = None;
        for row in &rows {
            cursor = row.try_get(6)?;
            if row.try_get::<Option<i64>, _>(5)?.unwrap_or(0) <= span.after {
                cursor = None;
                break;
            }
            let Ok(source) = row.try_get::<&str, _>(2)?.parse::<EntrySource>() else { continue };
            let request = source.id();
            if source.kind() == SourceKind::Reversal {
                reversed.insert(request.clone());
            }
            let earned = row.try_get::<i64, _>(3)? == Account::Revenue.number();
            if source.kind() != SourceKind::Usage || !earned || row.try_get::<i64, _>(1)? > span.until {
                continue;
            }
            let amount: i64 = row.try_get(4)?;
            let is_noted = running.contains(&row.try_get::<i64, _>(0)?);
            if let Some(known) = places.get(request).and_then(|place| found.get_mut(*place)) {
                // An earlier leg of the same request; the balance is that of its last.
                known.price = known.price.saturating_add(amount);
                // One leg is noted for all of them: the first, which is read last.
                if is_noted && known.outcome == Outcome::Delivered {
                    known.outcome = Outcome::Unconfirmed;
                }
                continue;
            }
            let outcome = match reversed.contains(request) {
                true => Outcome::Reversed,
                false if is_noted => Outcome::Unconfirmed,
                false => Outcome::Delivered,
            };
            places.insert(request.clone(), found.len());
            found.push(PaidRequest {
                id: request.to_string(),
                at: row.try_get(1)?,
                route: row.try_get::<Option<String>, _>(9)?.unwrap_or_default(),
                price: amount,
                upstream_status: row.try_get(10)?,
                key: row.try_get(11)?,
                outcome,
                balance_after: balance(row.try_get(7)?, row.try_get(8)?).unwrap_or(0),
            });
        }
        if looked >= MAX_ENTRIES && cursor.is_some() {
            found.reverse();
            return Ok((found, true));
        }
    }
    found.reverse();
    Ok((found, false))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use crate::db::testing::TestDatabase;
    use crate::domain::{KeyId, Micros, RequestId, SecretHash};
    use crate::ledger::{Capture, Ledger, SucceededCharge};

    /// Only the first leg of a price that takes paid and bonus credit is noted, and the last is read first.
    #[tokio::test]
    async fn what_is_on_its_way_is_not_called_delivered_whatever_it_is_paid_with() {
        let micros = |amount| Micros::new(amount).unwrap();
        let database = TestDatabase::new().await;
        let (ledger, db, writer) = Ledger::open(&database.config, "node", 8).await.unwrap();
        let run = async |sql: String| {
            db.write(move |connection| Box::pin(connection.run(sql))).await.unwrap();
        };
        run("INSERT INTO routes VALUES (1, 'GET /'); INSERT INTO price_lists VALUES (1, 'd', '{}', 1)".into())
            .await;
        let (top_up, key, hash) = (TopUpId::new(), KeyId::new(), database.bytes(&[7; 32]));
        run(format!(
            "INSERT INTO top_ups (id, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, \
             created_at, updated_at) \
             VALUES ('{top_up}', '{key}', {hash}, 1, 'usd', 100, 50, 'confirming', 'pi_1', 1, 1)"
        ))
        .await;
        let charge = SucceededCharge {
            top_up,
            payment_intent: "pi_1".to_owned(),
            stripe_customer: None,
            payment_method: Some(SecretHash::of("pm_1")),
            key_shown_prefix: "pck_123456".to_owned(),
        };
        let client = ledger.record_top_up(charge, None).await.unwrap().0.client;
        let reservation = ledger.reserve(client, micros(120)).await.unwrap();
        let capture = Capture {
            client,
            source: Source::new(SourceKind::Usage, RequestId::new()),
            price: micros(120),
            route: 1,
            price_list: 1,
            upstream_status: 200,
            held: false,
            key: None,
        };
        ledger.capture(capture, reservation).await.unwrap();
        let legs = db.reader().ask::<i64>("SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%'".into());
        assert_eq!(legs.await, 2);
        let at = crate::db::now_micros();
        run(format!("INSERT INTO disputes VALUES ('dp_1', '{top_up}', {client}, 'ch_1', 100, 'lost', 'fraudulent', NULL, {at}, {at})"))
            .await;
        let outcomes = async || {
            let found = gather(db.reader().into(), "dp_1").await.unwrap().unwrap();
            found.requests.iter().map(|request| (request.price, request.outcome)).collect::<Vec<_>>()
        };
        assert_eq!(outcomes().await, [(120, Outcome::Unconfirmed)]);
        run("DELETE FROM undelivered".to_owned()).await;
        assert_eq!(outcomes().await, [(120, Outcome::Delivered)]);
        ledger.close();
        writer.await.unwrap();
    }
}

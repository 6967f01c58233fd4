//! New rows: those of new attempts, and those of charges whose rows are lost.

use crate::config::ShieldConfig;
use crate::db::{Connection, Db, DbError, now_micros, query, query_scalar};
use crate::domain::{Currency, KeyId, Micros, SecretHash, TopUpId};
use crate::ledger::ClientId;
use crate::shield::{self, Attempt, Barred, Limit};

/// A row to be made.
#[derive(Debug, Clone)]
pub(in crate::top_up) struct NewTopUp {
    pub(in crate::top_up) id: TopUpId,
    pub(in crate::top_up) client: Option<ClientId>,
    pub(in crate::top_up) key: KeyId,
    pub(in crate::top_up) key_secret: i64,
    pub(in crate::top_up) key_hash: SecretHash,
    pub(in crate::top_up) pm_hash: Option<SecretHash>,
    /// Whether a clientId was presented.
    pub(in crate::top_up) presents_key: bool,
    pub(in crate::top_up) request_key: Option<SecretHash>,
    /// Hash of the `Idempotency-Key` of a top-up by itself.
    pub(in crate::top_up) order: Option<SecretHash>,
    /// Not made if the client's credit covers this by now.
    pub(in crate::top_up) only_if_short_of: Option<Micros>,
    pub(in crate::top_up) amount: Micros,
    pub(in crate::top_up) bonus: Micros,
    pub(in crate::top_up) currency: Currency,
    /// Who works on it.
    pub(in crate::top_up) node: String,
}

/// A row to be made again for a charge that has succeeded, or will.
#[derive(Debug, Clone)]
pub(in crate::top_up) struct AdoptedTopUp {
    pub(in crate::top_up) id: TopUpId,
    pub(in crate::top_up) client: Option<ClientId>,
    pub(in crate::top_up) key: KeyId,
    pub(in crate::top_up) key_secret: i64,
    pub(in crate::top_up) key_hash: SecretHash,
    pub(in crate::top_up) pm_hash: Option<SecretHash>,
    pub(in crate::top_up) request_key: Option<SecretHash>,
    pub(in crate::top_up) amount: Micros,
    pub(in crate::top_up) bonus: Micros,
    pub(in crate::top_up) currency: Currency,
    pub(in crate::top_up) stripe_customer: Option<String>,
    pub(in crate::top_up) payment_intent: String,
    /// Unix microseconds.
    pub(in crate::top_up) created_at: i64,
}

const INSERT: &str = "\
INSERT INTO top_ups (id, client, key, key_secret, key_hash, pm_hash, currency, amount, bonus, state, request_key,
                     created_at, updated_at, node, repeat_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'created', $10, $11, $11, $12, $13)";
const INSERT_ADOPTED: &str = "\
INSERT INTO top_ups (id, client, key, key_secret, key_hash, pm_hash, currency, amount, bonus, state, request_key,
                     stripe_customer, payment_intent, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'confirming', $10, $11, $12, $13, $14)";

const IS_BOUND: &str = "\
SELECT EXISTS (SELECT 1 FROM payment_method_bindings AS b JOIN client_keys AS k ON k.id = b.key
               WHERE b.hash = $1 AND b.revoked_at IS NULL AND k.revoked_at IS NULL)";
const COVERS: &str = "\
SELECT EXISTS (SELECT 1 FROM clients WHERE id = $1 AND status = 'active' AND debt = 0 AND paid + bonus >= $2)";
const IS_ORDERED: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE client = $1 AND repeat_key = $2 AND state <> 'failed' AND id <> $3)";

const RECENT_CHARGES: &str = "\
SELECT created_at FROM top_ups WHERE pm_hash = $1 AND created_at > $2 AND state <> 'failed' AND id <> $3
ORDER BY created_at DESC LIMIT $4";

/// Charges that one card token may cause in a day without presenting a clientId.
const MAX_CHARGES_A_DAY: usize = 3;
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// What became of a row to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::top_up) enum Inserted {
    /// It is there.
    Made,
    /// An attempt that was recorded meanwhile has made it needless.
    Needless,
    /// There have been too many.
    Barred(Barred),
}

/// Makes the row, unless it is needless or barred. A unique violation means that the payer has an open attempt.
///
/// The row comes first and the look second, in one transaction: from the row on, no other attempt of this payer can begin, on
/// whichever node, and one that was recorded before is visible. The other way round, an attempt that another node records
/// between look and row would be overlooked, and the payer charged twice, or once too often.
pub(in crate::top_up) async fn insert(
    db: &Db,
    new: NewTopUp,
    limits: ShieldConfig,
    attempt: Attempt,
) -> Result<Inserted, DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            let (id, now) = (new.id.to_string(), now_micros());
            query(INSERT)
                .bind(&id)
                .bind(new.client)
                .bind(new.key.to_string())
                .bind(new.key_secret)
                .bind(new.key_hash.as_bytes())
                .bind(new.pm_hash.as_ref().map(SecretHash::as_bytes))
                .bind(new.currency.code())
                .bind(new.amount.get())
                .bind(new.bonus.get())
                .bind(new.request_key.as_ref().map(SecretHash::as_bytes))
                .bind(now)
                .bind(new.node)
                .bind(new.order.as_ref().map(SecretHash::as_bytes))
                .execute(&mut *connection)
                .await?;
            let is_ordered: bool = match (new.client, new.order) {
                // This wallet has ordered the same, whatever was presented for it.
                (Some(client), Some(order)) => {
                    query_scalar(IS_ORDERED)
                        .bind(client)
                        .bind(order.as_bytes())
                        .bind(&id)
                        .fetch_one(&mut *connection)
                        .await?
                }
                _ => false,
            };
            let needless: bool = match (new.client, new.pm_hash, new.only_if_short_of) {
                _ if is_ordered => true,
                (None, Some(hash), _) => {
                    query_scalar(IS_BOUND).bind(hash.as_bytes()).fetch_one(&mut *connection).await?
                }
                (Some(client), _, Some(price)) => {
                    query_scalar(COVERS).bind(client).bind(price.get()).fetch_one(&mut *connection).await?
                }
                _ => false,
            };
            let barred = match new.pm_hash.filter(|_| !new.presents_key) {
                Some(hash) if !needless => too_many_charges(connection, hash, &id, now).await?,
                _ => None,
            };
            let inserted = match barred {
                _ if needless => Inserted::Needless,
                Some(barred) => Inserted::Barred(barred),
                None => match shield::admit(connection, &limits, &attempt, now).await? {
                    Ok(()) => Inserted::Made,
                    Err(barred) => Inserted::Barred(barred),
                },
            };
            if inserted != Inserted::Made {
                query("DELETE FROM top_ups WHERE id = $1").bind(&id).execute(connection).await?;
            }
            Ok(inserted)
        })
    })
    .await
}

/// Whether a token has caused as many charges, finished or open, as it may in a day without a clientId.
async fn too_many_charges(
    connection: &mut Connection,
    pm_hash: SecretHash,
    id: &str,
    now: i64,
) -> Result<Option<Barred>, sqlx::Error> {
    let recent: Vec<i64> = query_scalar(RECENT_CHARGES)
        .bind(pm_hash.as_bytes().to_vec())
        .bind(now.saturating_sub(DAY_MICROS))
        .bind(id.to_owned())
        .bind(i64::try_from(MAX_CHARGES_A_DAY).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    // There is room when the oldest of the newest has grown old.
    let oldest = recent.last().filter(|_| recent.len() >= MAX_CHARGES_A_DAY);
    Ok(oldest.map(|oldest| Barred::TooMany {
        limit: Limit::Token,
        seconds: shield::seconds_until_older(*oldest, DAY_MICROS, now),
    }))
}

/// Makes a lost row again, in the state in which its charge is known and its outcome is not recorded. A unique violation means
/// that it is there, or that the payer has an open attempt.
pub(in crate::top_up) async fn insert_adopted(db: &Db, lost: AdoptedTopUp) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query(INSERT_ADOPTED)
                .bind(lost.id.to_string())
                .bind(lost.client)
                .bind(lost.key.to_string())
                .bind(lost.key_secret)
                .bind(lost.key_hash.as_bytes())
                .bind(lost.pm_hash.as_ref().map(SecretHash::as_bytes))
                .bind(lost.currency.code())
                .bind(lost.amount.get())
                .bind(lost.bonus.get())
                .bind(lost.request_key.as_ref().map(SecretHash::as_bytes))
                .bind(lost.stripe_customer)
                .bind(lost.payment_intent)
                .bind(lost.created_at)
                .bind(now_micros())
                .execute(connection)
                .await
                .map(drop)
        })
    })
    .await
}

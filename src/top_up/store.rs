//! The rows of `top_ups`, except for recording a success, which is the ledger's (`ledger::recording`).

use super::card_checks;
use crate::config::ShieldConfig;
use crate::db::{Connection, Db, DbError, On, Row, Sql, now_micros, query, query_scalar, sql_with_now};
use crate::domain::{ClientPublicId, Currency, KeyId, Micros, PaymentMethodId, SecretHash, TopUpId};
use crate::ledger::ClientId;
use crate::shield::{self, Attempt, Barred, Limit};

/// One attempt, as stored.
#[derive(Debug, Clone)]
pub struct TopUpRow {
    /// Ours; Stripe's idempotency keys derive from it.
    pub id: TopUpId,
    /// Whose credit; `None` until a new payer's first top-up is recorded.
    pub client: Option<ClientId>,
    /// The client key that answers carry.
    pub key: KeyId,
    /// Version of the key secret that the key derives from.
    pub key_secret: i64,
    /// SHA-256 of that key.
    pub key_hash: SecretHash,
    /// Charged.
    pub amount: Micros,
    /// Given on top.
    pub bonus: Micros,
    /// Of both.
    pub currency: Currency,
    /// Where it stands.
    pub state: State,
    /// Stable code, when failed.
    pub failure: Option<String>,
    /// Stripe's customer, once known.
    pub stripe_customer: Option<String>,
    /// Stripe's PaymentIntent, once known. Known before it is confirmed.
    pub payment_intent: Option<String>,
    /// Unix microseconds.
    pub created_at: i64,
    /// SHA-256 of the card token; `None` for Stripe's shared test names.
    pub pm_hash: Option<SecretHash>,
    /// SHA-256 of payer and `Idempotency-Key`, if there was one.
    pub request_key: Option<SecretHash>,
    /// What people see of the client, if there is one.
    pub client_public_id: Option<ClientPublicId>,
    /// Charged in a Stripe account that has been given up: nobody can look there any more.
    pub is_of_former_account: bool,
}

impl TopUpRow {
    /// What people see of the client that has, or will have, the credit.
    #[must_use]
    pub fn public_id(&self) -> ClientPublicId {
        self.client_public_id.unwrap_or_else(|| ClientPublicId::of_first_key(self.key))
    }
}

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The row exists; nothing has been confirmed at Stripe, so nothing can have been charged.
    Created,
    /// The PaymentIntent is known and a confirmation may have been sent.
    Confirming,
    /// Stripe is still working on it.
    Pending,
    /// Credited.
    Succeeded,
    /// Not charged, and it never will be.
    Failed,
}

impl State {
    /// The stored and shown word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Confirming => "confirming",
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Created, Self::Confirming, Self::Pending, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|state| state.word() == word)
    }

    /// Whether the outcome is still open.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A row to be made.
#[derive(Debug, Clone)]
pub(super) struct NewTopUp {
    pub(super) id: TopUpId,
    pub(super) client: Option<ClientId>,
    pub(super) key: KeyId,
    pub(super) key_secret: i64,
    pub(super) key_hash: SecretHash,
    pub(super) pm_hash: Option<SecretHash>,
    /// Whether a clientId was presented.
    pub(super) presents_key: bool,
    pub(super) request_key: Option<SecretHash>,
    /// Hash of the `Idempotency-Key` of a top-up by itself.
    pub(super) order: Option<SecretHash>,
    /// Not made if the client's credit covers this by now.
    pub(super) only_if_short_of: Option<Micros>,
    pub(super) amount: Micros,
    pub(super) bonus: Micros,
    pub(super) currency: Currency,
    /// Who works on it.
    pub(super) node: String,
}

/// A row to be made again for a charge that has succeeded, or will.
#[derive(Debug, Clone)]
pub(super) struct AdoptedTopUp {
    pub(super) id: TopUpId,
    pub(super) client: Option<ClientId>,
    pub(super) key: KeyId,
    pub(super) key_secret: i64,
    pub(super) key_hash: SecretHash,
    pub(super) pm_hash: Option<SecretHash>,
    pub(super) request_key: Option<SecretHash>,
    pub(super) amount: Micros,
    pub(super) bonus: Micros,
    pub(super) currency: Currency,
    pub(super) stripe_customer: Option<String>,
    pub(super) payment_intent: String,
    /// Unix microseconds.
    pub(super) created_at: i64,
}

/// All readings take the same columns, in this order.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, client, key, key_secret, key_hash, amount, bonus, currency, state, failure, ",
            "stripe_customer, payment_intent, created_at, pm_hash, request_key, ",
            "(SELECT c.public_id FROM clients AS c WHERE c.id = top_ups.client), former_account FROM top_ups ",
            $rest
        )
    };
}

const BY_ID: &str = select!("WHERE id = $1");
const BY_PAYMENT_INTENT: &str = select!("WHERE payment_intent = $1");
const BY_REQUEST_KEY: &str = select!("WHERE request_key = $1");
/// Those that no other node that lives is working on.
const OPEN: Sql = sql_with_now!(
    "SELECT id, client, key, key_secret, key_hash, amount, bonus, currency, state, failure, \
     stripe_customer, payment_intent, created_at, pm_hash, request_key, \
     (SELECT c.public_id FROM clients AS c WHERE c.id = top_ups.client), former_account FROM top_ups \
     WHERE state IN ('created', 'confirming', 'pending') AND (node IS NULL OR node = $2 OR NOT EXISTS \
     (SELECT 1 FROM nodes AS n WHERE n.id = top_ups.node AND n.lease_until > ",
    now,
    ")) ORDER BY updated_at, id LIMIT $1"
);
const OPEN_OF_PAYER: &str =
    select!("WHERE state IN ('created', 'confirming', 'pending') AND (client = $1 OR pm_hash = $2) LIMIT 1");
const INSERT: &str = "\
INSERT INTO top_ups (id, client, key, key_secret, key_hash, pm_hash, currency, amount, bonus, state, request_key,
                     created_at, updated_at, node, repeat_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'created', $10, $11, $11, $12, $13)";
const INSERT_ADOPTED: &str = "\
INSERT INTO top_ups (id, client, key, key_secret, key_hash, pm_hash, currency, amount, bonus, state, request_key,
                     stripe_customer, payment_intent, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'confirming', $10, $11, $12, $13, $14)";
const IS_KNOWN: &str = "SELECT EXISTS (SELECT 1 FROM top_ups WHERE id = $1 OR payment_intent = $2)";
/// Of a client that does not exist yet.
const IS_AWAITED: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE key = $1 AND client IS NULL AND state IN ('created', 'confirming', 'pending'))";
const WITHOUT_CHARGE: &str = "\
SELECT id, payment_intent FROM top_ups
WHERE state = 'succeeded' AND charge IS NULL AND payment_intent IS NOT NULL AND former_account = 0 AND id > $1 ORDER BY id LIMIT $2";
const IS_BOUND: &str = "\
SELECT EXISTS (SELECT 1 FROM payment_method_bindings AS b JOIN client_keys AS k ON k.id = b.key
               WHERE b.hash = $1 AND b.revoked_at IS NULL AND k.revoked_at IS NULL)";
const COVERS: &str = "\
SELECT EXISTS (SELECT 1 FROM clients WHERE id = $1 AND status = 'active' AND debt = 0 AND paid + bonus >= $2)";
const IS_ORDERED: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE client = $1 AND repeat_key = $2 AND state <> 'failed' AND id <> $3)";
const BY_ORDER: &str =
    select!("WHERE client = $1 AND repeat_key = $2 AND state <> 'failed' ORDER BY id LIMIT 1");
const IS_OPEN: &str =
    "SELECT EXISTS (SELECT 1 FROM top_ups WHERE id = $1 AND state IN ('created', 'confirming', 'pending'))";
const CUSTOMER_OF_FAILED: &str = "\
SELECT stripe_customer FROM top_ups
WHERE pm_hash = $1 AND stripe_customer = $2 AND client IS NULL AND state = 'failed' AND former_account = 0 LIMIT 1";
/// Only if it is the one that is expected; NULL is none.
const SET_CUSTOMER: &str = "\
UPDATE clients SET stripe_customer = $3 WHERE id = $1 AND COALESCE(stripe_customer, '') = COALESCE($2, '')";
const SET_FINGERPRINT: &str = "UPDATE top_ups SET fingerprint = $2, updated_at = $3 WHERE id = $1";
const SET_CONFIRMING: &str = "\
UPDATE top_ups SET state = 'confirming', stripe_customer = $2, payment_intent = $3, updated_at = $4
WHERE id = $1 AND state = 'created'";
const SET_PENDING: &str = "UPDATE top_ups SET state = 'pending', updated_at = $2 WHERE id = $1 AND state IN ('confirming', 'pending')";
const CLAIM: Sql = sql_with_now!(
    "UPDATE top_ups SET node = $2, updated_at = $3 WHERE id = $1 AND state IN ('created', 'confirming', 'pending') \
     AND (node IS NULL OR node = $2 OR NOT EXISTS \
     (SELECT 1 FROM nodes AS n WHERE n.id = top_ups.node AND n.lease_until > ",
    now,
    "))"
);
const LET_GO: &str = "UPDATE top_ups SET node = NULL WHERE id = $1 AND node = $2";
/// A decline that was noted before is what it failed of.
const SET_FAILED: &str = "\
UPDATE top_ups SET state = 'failed', failure = COALESCE(failure, $2), updated_at = $3,
                   request_key = CASE WHEN $4 AND failure IS NULL THEN NULL ELSE request_key END
WHERE id = $1 AND state IN ('created', 'confirming', 'pending')";
const NOTE_DECLINE: &str = "\
UPDATE top_ups SET failure = $2, updated_at = $3 WHERE id = $1 AND state IN ('created', 'confirming', 'pending')";
const RECENT_CHARGES: &str = "\
SELECT created_at FROM top_ups WHERE pm_hash = $1 AND created_at > $2 AND state <> 'failed' AND id <> $3
ORDER BY created_at DESC LIMIT $4";
const OLDEST_OPEN: &str =
    "SELECT COUNT(*), MIN(created_at) FROM top_ups WHERE state IN ('created', 'confirming', 'pending')";

fn row(row: &Row) -> Result<TopUpRow, sqlx::Error> {
    let malformed = || sqlx::Error::Decode("a top-up row is malformed".into());
    Ok(TopUpRow {
        id: TopUpId::parse(row.try_get(0)?).ok_or_else(malformed)?,
        client: row.try_get(1)?,
        key: KeyId::parse(row.try_get(2)?).ok_or_else(malformed)?,
        key_secret: row.try_get(3)?,
        key_hash: SecretHash::from_slice(row.try_get(4)?).ok_or_else(malformed)?,
        amount: Micros::new(row.try_get(5)?).ok_or_else(malformed)?,
        bonus: Micros::new(row.try_get(6)?).ok_or_else(malformed)?,
        currency: row.try_get::<&str, _>(7)?.parse().map_err(|_| malformed())?,
        state: State::parse(row.try_get(8)?).ok_or_else(malformed)?,
        failure: row.try_get(9)?,
        stripe_customer: row.try_get(10)?,
        payment_intent: row.try_get(11)?,
        created_at: row.try_get(12)?,
        pm_hash: row.try_get::<Option<&[u8]>, _>(13)?.and_then(SecretHash::from_slice),
        request_key: row.try_get::<Option<&[u8]>, _>(14)?.and_then(SecretHash::from_slice),
        client_public_id: row.try_get::<Option<&str>, _>(15)?.and_then(ClientPublicId::parse),
        is_of_former_account: row.try_get::<i64, _>(16)? != 0,
    })
}

/// Whether an insert or update hit one of the unique indexes that keep one attempt per payer.
pub(super) fn is_unique_violation(error: &DbError) -> bool {
    matches!(error, DbError::Sql(sqlx::Error::Database(database)) if database.is_unique_violation())
}

/// Charges that one card token may cause in a day without presenting a clientId.
const MAX_CHARGES_A_DAY: usize = 3;
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// What became of a row to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
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
pub(super) async fn insert(
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
pub(super) async fn insert_adopted(db: &Db, lost: AdoptedTopUp) -> Result<(), DbError> {
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

/// Whether there is a row for a charge, by its top-up or by its PaymentIntent.
pub(super) async fn is_known(db: &Db, id: TopUpId, payment_intent: String) -> Result<bool, DbError> {
    Ok(query_scalar(IS_KNOWN).bind(id.to_string()).bind(payment_intent).fetch_one(db.reader()).await?)
}

/// Whether the attempt that will make a key's client is open.
pub(super) async fn is_awaited(db: &Db, key: KeyId) -> Result<bool, DbError> {
    Ok(query_scalar(IS_AWAITED).bind(key.to_string()).fetch_one(db.reader()).await?)
}

/// See [`super::TopUps::without_charge`].
pub(super) async fn without_charge(
    db: &Db,
    after: Option<TopUpId>,
    limit: i64,
) -> Result<Vec<(TopUpId, String)>, DbError> {
    let malformed = || sqlx::Error::Decode("a top-up row is malformed".into());
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let rows = query(WITHOUT_CHARGE).bind(after).bind(limit).fetch_all(db.reader()).await?;
    let found = rows.iter().map(|row| {
        let id = TopUpId::parse(row.try_get(0)?).ok_or_else(malformed)?;
        Ok::<_, sqlx::Error>((id, row.try_get(1)?))
    });
    Ok(found.collect::<Result<_, _>>()?)
}

/// The client that people know by this id.
pub(super) async fn client_by_public_id(
    db: &Db,
    public_id: ClientPublicId,
) -> Result<Option<ClientId>, DbError> {
    let sql = "SELECT id FROM clients WHERE public_id = $1";
    Ok(query_scalar(sql).bind(public_id.to_string()).fetch_optional(db.reader()).await?)
}

/// The hash of a client key that has been issued.
pub(super) async fn hash_of_key(db: &Db, key: KeyId) -> Result<Option<SecretHash>, DbError> {
    let sql = "SELECT hash FROM client_keys WHERE id = $1";
    let found: Option<Vec<u8>> = query_scalar(sql).bind(key.to_string()).fetch_optional(db.reader()).await?;
    Ok(found.as_deref().and_then(SecretHash::from_slice))
}

/// The customer that a token belongs to, if an attempt of the same token that failed has made it.
pub(super) async fn customer_of_failed(
    db: &Db,
    card: &PaymentMethodId,
    customer: Option<String>,
) -> Result<Option<String>, DbError> {
    let Some(customer) = customer else {
        return Ok(None);
    };
    let found: Option<Option<String>> = query_scalar(CUSTOMER_OF_FAILED)
        .bind(card.hash().as_bytes().to_vec())
        .bind(customer)
        .fetch_optional(db.reader())
        .await?;
    Ok(found.flatten())
}

/// Notes the customer of a client, if it has the one that is expected.
pub(super) async fn set_customer(
    db: &Db,
    client: ClientId,
    was: Option<String>,
    is: Option<String>,
) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query(SET_CUSTOMER).bind(client).bind(was).bind(is).execute(connection).await.map(drop)
        })
    })
    .await
}

/// The card of an attempt, as Stripe has told it.
#[derive(Debug, Clone)]
pub(super) struct CardOfAttempt {
    pub(super) fingerprint: String,
    /// Whose attempt it is.
    pub(super) client: Option<ClientId>,
    pub(super) limits: ShieldConfig,
    /// The attempt would found a wallet: it is refused where the card may have paid for the same purchase.
    pub(super) pays_once: bool,
    /// The purchase's `Idempotency-Key`.
    pub(super) repeat: Option<super::Repeat>,
}

/// Why a card is not charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CardRefused {
    /// To keep stolen cards from being tried.
    Barred(Barred),
    /// It may have paid for the same purchase already.
    HasWallet,
}

/// Notes an attempt's card, and answers whether it may be tried. A unique violation means that the same card is being charged right
/// now. The row first and the looks second: from the row on, no other attempt with this card can begin.
pub(super) async fn set_card(
    db: &Db,
    id: TopUpId,
    card: CardOfAttempt,
) -> Result<Result<(), CardRefused>, DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            let now = now_micros();
            let CardOfAttempt { fingerprint, client, limits, pays_once, repeat } = card;
            query(SET_FINGERPRINT)
                .bind(id.to_string())
                .bind(fingerprint.clone())
                .bind(now)
                .execute(&mut *connection)
                .await?;
            let admitted = shield::admit_card(connection, &limits, id, client, &fingerprint, now).await?;
            if let Err(barred) = admitted {
                return Ok(Err(CardRefused::Barred(barred)));
            }
            let may_have_paid = pays_once
                && card_checks::may_have_paid(connection, id, &fingerprint, repeat.as_ref(), now).await?;
            Ok(if may_have_paid { Err(CardRefused::HasWallet) } else { Ok(()) })
        })
    })
    .await
}

/// Whether an attempt's outcome is open.
pub(super) async fn is_open_attempt(on: impl Into<On<'_>>, id: &str) -> Result<bool, sqlx::Error> {
    query_scalar(IS_OPEN).bind(id.to_owned()).fetch_one(on).await
}

/// Notes that a bank said no, while the attempt cannot be ended yet.
pub(super) async fn note_decline(db: &Db, id: TopUpId, failure: &'static str) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            let noted = query(NOTE_DECLINE).bind(id.to_string()).bind(failure).bind(now_micros());
            noted.execute(connection).await.map(drop)
        })
    })
    .await
}

/// Notes the PaymentIntent, before it may be confirmed. `false`: the row is not in the state that allows it.
pub(super) async fn set_confirming(
    db: &Db,
    id: TopUpId,
    customer: String,
    payment_intent: String,
) -> Result<bool, DbError> {
    db.write(move |connection| Box::pin(confirming(connection, id, customer, payment_intent))).await
}

/// The same, in a transaction that does more.
pub(super) async fn confirming(
    connection: &mut Connection,
    id: TopUpId,
    customer: String,
    payment_intent: String,
) -> Result<bool, sqlx::Error> {
    let done = query(SET_CONFIRMING)
        .bind(id.to_string())
        .bind(customer)
        .bind(payment_intent)
        .bind(now_micros())
        .execute(connection)
        .await?;
    Ok(done == 1)
}

/// Notes that Stripe is still working on it, and that it was looked at now.
pub(super) async fn set_pending(db: &Db, id: TopUpId) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query(SET_PENDING).bind(id.to_string()).bind(now_micros()).execute(connection).await.map(|_| ())
        })
    })
    .await
}

/// Takes an open attempt for a node, and notes that it is looked at now, so that others get their turn before it is looked at
/// again. `false`: it has ended, or another node that lives works on it.
pub(super) async fn claim(db: &Db, id: TopUpId, node: String) -> Result<bool, DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            let claimed = query(CLAIM).bind(id.to_string()).bind(node).bind(now_micros());
            claimed.execute(connection).await.map(|claimed| claimed == 1)
        })
    })
    .await
}

/// Whatever counts as of a former account under this PaymentIntent does not do so any more.
pub(super) async fn take_back(db: &Db, intent: String) -> Result<(), DbError> {
    const TAKE_BACK: &str =
        "UPDATE top_ups SET former_account = 0 WHERE payment_intent = $1 AND former_account = 1";
    db.write(move |connection| {
        Box::pin(async move { query(TAKE_BACK).bind(intent).execute(connection).await.map(|_| ()) })
    })
    .await
}

/// Lets other nodes work on an attempt.
pub(super) async fn let_go(db: &Db, id: TopUpId, node: String) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(
            async move { query(LET_GO).bind(id.to_string()).bind(node).execute(connection).await.map(drop) },
        )
    })
    .await
}

/// Ends an attempt that did not charge and never will. `gives_key_back`: it was given up rather than refused, so its
/// `Idempotency-Key` has no outcome to repeat and may be used for a new attempt.
pub(super) async fn set_failed(
    db: &Db,
    id: TopUpId,
    failure: &'static str,
    gives_key_back: bool,
) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query(SET_FAILED)
                .bind(id.to_string())
                .bind(failure)
                .bind(now_micros())
                .bind(gives_key_back)
                .execute(connection)
                .await
                .map(|_| ())
        })
    })
    .await
}

/// One attempt.
pub(super) async fn by_id(db: &Db, id: TopUpId) -> Result<Option<TopUpRow>, DbError> {
    let found = query(BY_ID).bind(id.to_string()).fetch_optional(db.reader()).await?;
    Ok(found.as_ref().map(row).transpose()?)
}

/// The attempt that a PaymentIntent charges for.
pub(super) async fn by_payment_intent(db: &Db, intent: String) -> Result<Option<TopUpRow>, DbError> {
    let found = query(BY_PAYMENT_INTENT).bind(intent).fetch_optional(db.reader()).await?;
    Ok(found.as_ref().map(row).transpose()?)
}

/// When the oldest attempt was made, in Unix microseconds.
pub(super) async fn oldest(db: &Db) -> Result<Option<i64>, DbError> {
    // Ids ascend in time.
    Ok(query_scalar("SELECT created_at FROM top_ups ORDER BY id LIMIT 1").fetch_optional(db.reader()).await?)
}

/// The attempt that an `Idempotency-Key` made.
pub(super) async fn by_request_key(db: &Db, key: SecretHash) -> Result<Option<TopUpRow>, DbError> {
    let found = query(BY_REQUEST_KEY).bind(key.as_bytes().to_vec()).fetch_optional(db.reader()).await?;
    Ok(found.as_ref().map(row).transpose()?)
}

/// See [`super::TopUps::find_order`].
pub(super) async fn by_order(
    db: &Db,
    client: ClientId,
    key: SecretHash,
) -> Result<Option<TopUpRow>, DbError> {
    let found =
        query(BY_ORDER).bind(client).bind(key.as_bytes().to_vec()).fetch_optional(db.reader()).await?;
    Ok(found.as_ref().map(row).transpose()?)
}

/// Open attempts that a node may work on, those that were looked at longest ago first.
pub(super) async fn open(db: &Db, limit: i64, node: &str) -> Result<Vec<TopUpRow>, DbError> {
    let rows = query(OPEN).bind(limit).bind(node).fetch_all(db.reader()).await?;
    Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
}

/// The open attempt of a client or a card token.
pub(super) async fn open_of_payer(
    db: &Db,
    client: Option<ClientId>,
    pm_hash: Option<SecretHash>,
) -> Result<Option<TopUpRow>, DbError> {
    let found = query(OPEN_OF_PAYER)
        .bind(client)
        .bind(pm_hash.map(|hash| hash.as_bytes().to_vec()))
        .fetch_optional(db.reader())
        .await?;
    Ok(found.as_ref().map(row).transpose()?)
}

/// How many attempts are open, and since when the oldest is.
pub(super) async fn oldest_open(db: &Db) -> Result<(i64, Option<i64>), DbError> {
    let found = query(OLDEST_OPEN).fetch_one(db.reader()).await?;
    Ok((found.try_get(0)?, found.try_get(1)?))
}

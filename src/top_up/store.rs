//! The rows of `top_ups`, except for recording a success, which is the ledger's (`ledger::recording`). Here they are read;
//! `store/making.rs` makes them, `store/progress.rs` notes how far their attempts have come.

mod making;
mod progress;

pub(super) use self::making::{AdoptedTopUp, Inserted, NewTopUp, insert, insert_adopted};
pub(super) use self::progress::{
    CardOfAttempt, CardRefused, claim, confirming, let_go, note_decline, set_card, set_confirming,
    set_customer, set_failed, set_pending, take_back,
};
use crate::db::{Db, DbError, On, Row, Sql, query, query_scalar, sql_with_now};
use crate::domain::{ClientPublicId, Currency, KeyId, Micros, PaymentMethodId, SecretHash, TopUpId};
use crate::ledger::ClientId;

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

const IS_KNOWN: &str = "SELECT EXISTS (SELECT 1 FROM top_ups WHERE id = $1 OR payment_intent = $2)";
/// Of a client that does not exist yet.
const IS_AWAITED: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE key = $1 AND client IS NULL AND state IN ('created', 'confirming', 'pending'))";
const WITHOUT_CHARGE: &str = "\
SELECT id, payment_intent FROM top_ups
WHERE state = 'succeeded' AND charge IS NULL AND payment_intent IS NOT NULL AND former_account = 0 AND id > $1 ORDER BY id LIMIT $2";

const BY_ORDER: &str =
    select!("WHERE client = $1 AND repeat_key = $2 AND state <> 'failed' ORDER BY id LIMIT 1");
const IS_OPEN: &str =
    "SELECT EXISTS (SELECT 1 FROM top_ups WHERE id = $1 AND state IN ('created', 'confirming', 'pending'))";
const CUSTOMER_OF_FAILED: &str = "\
SELECT stripe_customer FROM top_ups
WHERE pm_hash = $1 AND stripe_customer = $2 AND client IS NULL AND state = 'failed' AND former_account = 0 LIMIT 1";

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

/// Whether an attempt's outcome is open.
pub(super) async fn is_open_attempt(on: impl Into<On<'_>>, id: &str) -> Result<bool, sqlx::Error> {
    query_scalar(IS_OPEN).bind(id.to_owned()).fetch_one(on).await
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

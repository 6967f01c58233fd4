//! Recording a succeeded top-up: the rows that belong to the same transaction as its entries.
//!
//! A new payer's client, owner key and card binding come to life here and nowhere else, so a client exists exactly when
//! money has moved.

use super::core::{ClientId, TopUp};
use super::keys::Scope;
use super::source::{Source, SourceKind};
use crate::db::{Connection, Sql, query, query_scalar};
use crate::domain::{ClientPublicId, Currency, KeyId, Micros, SecretHash, TopUpId};

/// What Stripe said about a charge that succeeded.
#[derive(Debug, Clone)]
pub struct SucceededCharge {
    /// Our attempt.
    pub top_up: TopUpId,
    /// Stripe's PaymentIntent.
    pub payment_intent: String,
    /// Stripe's customer, if any.
    pub stripe_customer: Option<String>,
    /// The card token as Stripe returned it, hashed; repeating it reaches the client.
    pub payment_method: Option<SecretHash>,
    /// The client key's first characters, for people.
    pub key_shown_prefix: String,
}

/// Locked until the transaction ends: whoever records the same charge at the same time waits, and then finds it recorded.
const TOP_UP: Sql = Sql::each(
    "SELECT client, key, key_hash, currency, amount, bonus, payment_intent, key_secret FROM top_ups WHERE id = $1",
    "SELECT client, key, key_hash, currency, amount, bonus, payment_intent, key_secret FROM top_ups WHERE id = $1 FOR UPDATE",
);
const CLIENT_OF_FIRST_KEY: &str = "SELECT id FROM clients WHERE public_id = $1";
const NEW_CLIENT: &str = "\
INSERT INTO clients (public_id, currency, paid, bonus, debt, sequence, status, stripe_customer, created_at)
VALUES ($1, $2, 0, 0, 0, 0, 'active', $3, $4) RETURNING id";
const NEW_KEY: &str = "\
INSERT INTO client_keys (id, client, hash, shown_prefix, secret_version, scope, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)";
const BOUND: &str = "SELECT client FROM payment_method_bindings WHERE hash = $1";
const BIND: &str =
    "INSERT INTO payment_method_bindings (hash, client, key, created_at) VALUES ($1, $2, $3, $4)";
const SUCCEEDED: &str = "\
UPDATE top_ups SET state = 'succeeded', failure = NULL, client = $2, payment_intent = $3, updated_at = $4
WHERE id = $1";
const KEEP_CUSTOMER: &str =
    "UPDATE clients SET stripe_customer = $2 WHERE id = $1 AND stripe_customer IS NULL";

/// Prepares the rows around the entries of a top-up and answers the command that posts them. `None`: there is no such
/// top-up. Idempotent, because the command's source is.
pub(super) async fn prepare(
    connection: &mut Connection,
    charge: &SucceededCharge,
    at: i64,
) -> Result<Option<TopUp>, sqlx::Error> {
    let id = charge.top_up.to_string();
    let Some(row) = query(TOP_UP).bind(&id).fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let malformed = || sqlx::Error::Decode("a top-up row is malformed".into());
    let currency: Currency = row.try_get::<&str, _>(3)?.parse().map_err(|_| malformed())?;
    let amount = Micros::new(row.try_get(4)?).ok_or_else(malformed)?;
    let bonus = Micros::new(row.try_get(5)?).ok_or_else(malformed)?;
    let recorded_intent: Option<String> = row.try_get(6)?;
    if recorded_intent.as_deref().is_some_and(|recorded| recorded != charge.payment_intent) {
        return Err(sqlx::Error::Decode("a top-up was charged by another PaymentIntent".into()));
    }
    let key: String = row.try_get(1)?;
    let first_key = || KeyId::parse(&key).ok_or_else(malformed);
    let known = match row.try_get::<Option<ClientId>, _>(0)? {
        Some(client) => Some(client),
        None => client_of_first_key(connection, first_key()?).await?,
    };
    let client = match known {
        Some(client) => client,
        None => {
            let first_key = first_key()?;
            let client = new_client(connection, first_key, currency, charge, at).await?;
            let hash = row.try_get::<&[u8], _>(2)?;
            let issued = IssuedKey {
                id: first_key,
                hash: SecretHash::from_slice(hash).ok_or_else(malformed)?,
                shown_prefix: charge.key_shown_prefix.clone(),
                secret_version: row.try_get(7)?,
            };
            add_key(connection, client, &issued, Scope::Owner, at).await?;
            // Only the token that first paid leads back to the wallet: a token that tops up somebody's wallet later must not
            // give that wallet away.
            if let Some(hash) = charge.payment_method {
                bind(connection, hash, client, first_key, at).await?;
            }
            client
        }
    };
    if let Some(customer) = &charge.stripe_customer {
        query(KEEP_CUSTOMER).bind(client).bind(customer).execute(&mut *connection).await?;
    }
    query(SUCCEEDED)
        .bind(&id)
        .bind(client)
        .bind(&charge.payment_intent)
        .bind(at)
        .execute(&mut *connection)
        .await?;
    let source = Source::new(SourceKind::TopUp, charge.top_up);
    Ok(Some(TopUp { client, source, amount, bonus, currency }))
}

/// The client that another top-up under the same first key has made since this one's row was: after a loss of rows there may be
/// several such (`top_up::adopt`). Its key and binding are there already. Two nodes that both find nobody are told apart by the
/// unique public id: one fails, is tried again as a whole, and finds it. The client's row is locked with all others later, in
/// the order of their ids.
async fn client_of_first_key(
    connection: &mut Connection,
    first_key: KeyId,
) -> Result<Option<ClientId>, sqlx::Error> {
    let public_id = ClientPublicId::of_first_key(first_key).to_string();
    query_scalar(CLIENT_OF_FIRST_KEY).bind(public_id).fetch_optional(connection).await
}

async fn new_client(
    connection: &mut Connection,
    first_key: KeyId,
    currency: Currency,
    charge: &SucceededCharge,
    at: i64,
) -> Result<ClientId, sqlx::Error> {
    query_scalar(NEW_CLIENT)
        .bind(ClientPublicId::of_first_key(first_key).to_string())
        .bind(currency.code())
        .bind(&charge.stripe_customer)
        .bind(at)
        .fetch_one(connection)
        .await
}

/// A client key that is stored for the first time.
#[derive(Debug, Clone)]
pub(crate) struct IssuedKey {
    /// The public part that the key derives from.
    pub(crate) id: KeyId,
    /// SHA-256 of the key.
    pub(crate) hash: SecretHash,
    /// Its first characters, for people.
    pub(crate) shown_prefix: String,
    /// Version of the key secret that it derives from.
    pub(crate) secret_version: i64,
}

/// Gives a client a key.
pub(crate) async fn add_key(
    connection: &mut Connection,
    client: ClientId,
    key: &IssuedKey,
    scope: Scope,
    at: i64,
) -> Result<(), sqlx::Error> {
    let added = query(NEW_KEY)
        .bind(key.id.to_string())
        .bind(client)
        .bind(key.hash.as_bytes().to_vec())
        .bind(key.shown_prefix.clone())
        .bind(key.secret_version)
        .bind(scope.word())
        .bind(at);
    added.execute(connection).await.map(drop)
}

/// Whether a card token leads somewhere, or did: a binding is never moved, not even one that was revoked.
pub(crate) async fn is_bound(connection: &mut Connection, hash: SecretHash) -> Result<bool, sqlx::Error> {
    let bound: Option<ClientId> =
        query_scalar(BOUND).bind(hash.as_bytes().to_vec()).fetch_optional(connection).await?;
    Ok(bound.is_some())
}

/// Binds a card token to a client and one of its keys. A token that already leads somewhere is left.
pub(crate) async fn bind(
    connection: &mut Connection,
    hash: SecretHash,
    client: ClientId,
    key: KeyId,
    at: i64,
) -> Result<(), sqlx::Error> {
    if is_bound(&mut *connection, hash).await? {
        return Ok(());
    }
    let bound = query(BIND).bind(hash.as_bytes().to_vec()).bind(client).bind(key.to_string()).bind(at);
    bound.execute(connection).await.map(drop)
}

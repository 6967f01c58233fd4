//! What has happened, as `top_ups` and `charge_attempts` tell it.

use super::rules::{NewPayers, OfClient, Unpaid};
use crate::db::{Connection, On, Row, Sql, query, query_scalar};
use crate::domain::SecretHash;
use crate::ledger::ClientId;

/// A query with what stands for the card of an attempt `t`: its fingerprint or, before that is known, its token, or else itself.
macro_rules! sql_of_card {
    ($before:literal, $after:literal $(,)?) => {
        Sql::each(
            concat!($before, "COALESCE(t.fingerprint, lower(hex(t.pm_hash)), t.id)", $after),
            concat!($before, "COALESCE(t.fingerprint, encode(t.pm_hash, 'hex'), t.id)", $after),
        )
    };
}

/// Earlier attempts that are looked at: more than any sensible limit.
const MOST: i64 = 1_000;

/// A token that was declined, for this payer or for one who was nobody yet. What is still being ended is not looked at: the
/// same token again ends it.
const IS_DEAD: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE pm_hash = $1 AND (client IS NULL OR client = $2)
               AND state = 'failed' AND failure = 'card_declined')";
const HAS_PAID: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE pm_hash = $1 AND client = $2 AND state = 'succeeded')";
const CARD_HAS_PAID: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE fingerprint = $1 AND client = $2 AND state = 'succeeded')";
const CARD_WAS_DECLINED: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE fingerprint = $1 AND client = $2 AND failure = 'card_declined')";
/// The wallet of a charge of this card that Stripe has warned of, or that is disputed, as long as that freezes the wallet: winning
/// the dispute lifts its freeze, and so does an operator.
const SUSPECT: &str = "\
SELECT c.public_id FROM top_ups AS t JOIN clients AS c ON c.id = t.client
JOIN freezes AS f ON f.client = t.client AND f.lifted_at IS NULL
WHERE t.fingerprint = $1 AND t.state = 'succeeded'
AND (EXISTS (SELECT 1 FROM fraud_warnings AS w WHERE w.top_up = t.id AND f.cause = 'fraud_warning:' || w.id)
     OR EXISTS (SELECT 1 FROM disputes AS d WHERE d.top_up = t.id AND f.cause = 'dispute:' || d.id)) LIMIT 1";
/// What failed because of Stripe or us, before a bank was asked, counts for nothing; nor does a card that is not charged because it has
/// a wallet, or whose holder the bank has confirmed.
const UNPAID: Sql = sql_of_card!(
    "SELECT a.at, ",
    ", t.state <> 'failed' AND t.failure IS NULL, \
     COALESCE(t.pm_hash = $3, FALSE), COALESCE(t.failure IN ('card_declined', 'card_suspect'), FALSE) \
     FROM charge_attempts AS a JOIN top_ups AS t ON t.id = a.id \
     WHERE a.network = $1 AND a.at > $2 AND t.state <> 'succeeded' \
     AND NOT (t.state = 'failed' AND t.failure = 'payment_failed' AND t.payment_intent IS NULL) \
     AND NOT (t.state = 'failed' AND t.failure IN ('card_has_wallet', 'client_frozen')) \
     ORDER BY a.at DESC LIMIT $4",
);
/// A bank that asks for the cardholder has not said no.
const OF_CLIENT: Sql = sql_of_card!(
    "SELECT t.created_at, ",
    ", t.payment_intent IS NOT NULL AND COALESCE(t.failure <> 'authentication_required', TRUE), \
     COALESCE(t.failure = 'card_declined', FALSE), \
     COALESCE(t.failure = 'authentication_required' \
              OR (t.payment_intent IS NULL AND t.failure IN ('invalid_payment', 'too_many_attempts')), FALSE), \
     EXISTS (SELECT 1 FROM top_ups AS e WHERE e.client = t.client AND e.id < t.id AND e.state = 'succeeded' \
             AND (e.fingerprint = t.fingerprint OR e.pm_hash = t.pm_hash)) \
     FROM top_ups AS t WHERE t.client = $1 AND t.created_at > $2 AND t.id <> $3 ORDER BY t.id DESC LIMIT $4",
);
/// What was refused because the card is suspect is one while it is.
const REFUSALS_OF_CARD: &str = "\
SELECT created_at FROM top_ups WHERE fingerprint = $1 AND created_at > $2
AND (failure IN ('card_declined', 'authentication_required') OR ($4 AND failure = 'card_suspect'))
ORDER BY created_at DESC LIMIT $3";
const NEW_PAYERS: &str = "\
SELECT COUNT(CASE WHEN t.failure IN ('card_declined', 'card_suspect') THEN 1 END),
       COUNT(CASE WHEN (t.state IN ('succeeded', 'failed') OR t.failure IS NOT NULL)
                       AND COALESCE(t.failure NOT IN ('card_has_wallet', 'client_frozen'), TRUE) THEN 1 END),
       COUNT(CASE WHEN t.state NOT IN ('succeeded', 'failed') AND t.failure IS NULL THEN 1 END)
FROM charge_attempts AS a JOIN top_ups AS t ON t.id = a.id WHERE a.at > $1";
const PAUSED_UNTIL: &str = "SELECT paused_until FROM new_payers WHERE id = 1";
/// Whoever else wants to let a new payer through waits, and counts this one.
const LOCK: Sql = Sql::each(PAUSED_UNTIL, "SELECT paused_until FROM new_payers WHERE id = 1 FOR UPDATE");
const PAUSE: &str = "UPDATE new_payers SET paused_until = $1 WHERE id = 1";
const NOTE: &str = "INSERT INTO charge_attempts (id, at, network) VALUES ($1, $2, $3)";
/// One step.
const FORGET: &str = "\
DELETE FROM charge_attempts WHERE id IN (SELECT id FROM charge_attempts WHERE at < $1 ORDER BY at LIMIT 500)";

fn bytes(hash: Option<SecretHash>) -> Option<Vec<u8>> {
    hash.map(|hash| hash.as_bytes().to_vec())
}

pub(super) async fn is_dead(
    on: impl Into<On<'_>>,
    token: SecretHash,
    client: Option<ClientId>,
) -> Result<bool, sqlx::Error> {
    query_scalar(IS_DEAD).bind(bytes(Some(token))).bind(client).fetch_one(on).await
}

/// Whether a token has paid for a client.
pub(super) async fn has_paid(
    on: impl Into<On<'_>>,
    token: SecretHash,
    client: ClientId,
) -> Result<bool, sqlx::Error> {
    query_scalar(HAS_PAID).bind(bytes(Some(token))).bind(client).fetch_one(on).await
}

/// Whether a card, by its fingerprint, has paid for a client.
pub(super) async fn card_has_paid(
    on: impl Into<On<'_>>,
    fingerprint: &str,
    client: ClientId,
) -> Result<bool, sqlx::Error> {
    query_scalar(CARD_HAS_PAID).bind(fingerprint.to_owned()).bind(client).fetch_one(on).await
}

/// Attempts of a network's new payers since a time that did not become payments.
pub(super) async fn unpaid(
    on: impl Into<On<'_>>,
    network: &str,
    since: i64,
    token: Option<SecretHash>,
) -> Result<Vec<Unpaid>, sqlx::Error> {
    let read = |row: &Row| {
        Ok(Unpaid {
            at: row.try_get(0)?,
            card: row.try_get(1)?,
            is_running: row.try_get(2)?,
            is_same_token: row.try_get(3)?,
            is_declined: row.try_get(4)?,
        })
    };
    let found = query(UNPAID).bind(network.to_owned()).bind(since).bind(bytes(token)).bind(MOST);
    found.fetch_all(on).await?.iter().map(read).collect()
}

/// Attempts of a client since a time, but for one.
pub(super) async fn of_client(
    on: impl Into<On<'_>>,
    client: ClientId,
    since: i64,
    but: &str,
) -> Result<Vec<OfClient>, sqlx::Error> {
    let read = |row: &Row| {
        Ok(OfClient {
            at: row.try_get(0)?,
            card: row.try_get(1)?,
            is_tried: row.try_get(2)?,
            is_declined: row.try_get(3)?,
            is_in_vain: row.try_get(4)?,
            had_paid: row.try_get(5)?,
        })
    };
    let found = query(OF_CLIENT).bind(client).bind(since).bind(but.to_owned()).bind(MOST);
    found.fetch_all(on).await?.iter().map(read).collect()
}

/// Whether a card was ever declined for a client.
pub(super) async fn card_was_declined(
    on: impl Into<On<'_>>,
    fingerprint: &str,
    client: ClientId,
) -> Result<bool, sqlx::Error> {
    query_scalar(CARD_WAS_DECLINED).bind(fingerprint.to_owned()).bind(client).fetch_one(on).await
}

/// The wallet, as people know it, that makes a card suspect.
pub(super) async fn suspect(on: impl Into<On<'_>>, fingerprint: &str) -> Result<Option<String>, sqlx::Error> {
    query_scalar(SUSPECT).bind(fingerprint.to_owned()).fetch_optional(on).await
}

/// When a card was declined since a time, or asked for its holder, whoever presented it.
pub(super) async fn refusals_of_card(
    on: impl Into<On<'_>>,
    fingerprint: &str,
    since: i64,
    is_suspect: bool,
) -> Result<Vec<i64>, sqlx::Error> {
    let found = query_scalar(REFUSALS_OF_CARD).bind(fingerprint.to_owned()).bind(since).bind(MOST);
    found.bind(is_suspect).fetch_all(on).await
}

/// What new payers did since a time, wherever they came from.
pub(super) async fn new_payers(on: impl Into<On<'_>>, since: i64) -> Result<NewPayers, sqlx::Error> {
    let row = query(NEW_PAYERS).bind(since).fetch_one(on).await?;
    let count =
        |index: usize| Ok::<_, sqlx::Error>(u32::try_from(row.try_get::<i64, _>(index)?).unwrap_or(u32::MAX));
    Ok(NewPayers { declined: count(0)?, ended: count(1)?, running: count(2)? })
}

/// Until when new payers are paused, in Unix microseconds.
pub(super) async fn paused_until(on: impl Into<On<'_>>) -> Result<i64, sqlx::Error> {
    query_scalar(PAUSED_UNTIL).fetch_one(on).await
}

/// The same, and nobody else lets a new payer through until the transaction ends.
pub(super) async fn lock(connection: &mut Connection) -> Result<i64, sqlx::Error> {
    query_scalar(LOCK).fetch_one(connection).await
}

pub(super) async fn pause(connection: &mut Connection, until: i64) -> Result<(), sqlx::Error> {
    query(PAUSE).bind(until).execute(connection).await.map(drop)
}

/// Notes an attempt of a new payer.
pub(super) async fn note(
    connection: &mut Connection,
    id: &str,
    at: i64,
    network: &str,
) -> Result<(), sqlx::Error> {
    query(NOTE).bind(id.to_owned()).bind(at).bind(network.to_owned()).execute(connection).await.map(drop)
}

/// Removes some of what is older, and answers how many.
pub(super) async fn forget(connection: &mut Connection, before: i64) -> Result<u64, sqlx::Error> {
    query(FORGET).bind(before).execute(connection).await
}

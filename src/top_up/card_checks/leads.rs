//! The wallets that a card has founded, and which of them it leads to.

use super::Presented;
use crate::db::{On, Sql, query, query_scalar};
use crate::domain::{Micros, SecretHash};
use crate::ledger::ClientId;
use crate::top_up::Repeat;

/// Wallets of one card that are looked at: the newest ones.
const MOST_WALLETS: i64 = 200;

/// The wallets that a card has founded, frozen ones first, then the newest first. A wallet's founder is the token that its owner key was
/// made for: what tops it up later does not lead to it, nor does what was led to it. It is proven if the bank has confirmed the CVC then:
/// otherwise whoever knows the number could found a wallet, and wait for the cardholder's money in it.
const FOUNDED: &str = "\
SELECT c.id, c.status = 'frozen', c.debt, c.paid + c.bonus,
       EXISTS (SELECT 1 FROM client_keys AS k WHERE k.client = c.id AND k.revoked_at IS NOT NULL)
       OR EXISTS (SELECT 1 FROM payment_method_bindings AS b WHERE b.client = c.id AND b.revoked_at IS NOT NULL),
       f.proven > 0
FROM (SELECT t.client AS client, COUNT(CASE WHEN t.cvc_check = 'pass' THEN 1 END) AS proven
      FROM top_ups AS t
      JOIN payment_method_bindings AS o ON o.hash = t.pm_hash AND o.client = t.client
      JOIN client_keys AS w ON w.id = o.key AND w.scope = 'owner'
      WHERE t.fingerprint = $1 AND t.state = 'succeeded' GROUP BY t.client) AS f
JOIN clients AS c ON c.id = f.client
ORDER BY CASE c.status WHEN 'frozen' THEN 0 ELSE 1 END, c.id DESC LIMIT $2";

/// `$1`: the scopes, as a JSON list of hexadecimal texts.
const ASKED_UNDER: Sql = Sql::each(
    "SELECT k.scope FROM idempotency_keys AS k JOIN json_each($1) AS s ON k.scope = unhex(s.value) WHERE k.expires_at > $2 LIMIT 1",
    "SELECT k.scope FROM idempotency_keys AS k JOIN json_array_elements_text($1::json) AS s (value) \
     ON k.scope = decode(s.value, 'hex') WHERE k.expires_at > $2 LIMIT 1",
);
/// `$1`: the wallets, as a JSON list.
const ORDERED_UNDER: Sql = Sql::each(
    "SELECT t.client FROM top_ups AS t JOIN json_each($1) AS s ON t.client = s.value \
     WHERE t.repeat_key = $2 AND t.state <> 'failed' LIMIT 1",
    "SELECT t.client FROM top_ups AS t JOIN json_array_elements_text($1::json) AS s (value) ON t.client = s.value::bigint \
     WHERE t.repeat_key = $2 AND t.state <> 'failed' LIMIT 1",
);

/// A wallet that a card has founded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Founded {
    client: ClientId,
    /// By decision, not by a debt.
    is_frozen: bool,
    /// One of its keys was revoked, so no card opens it any more.
    is_closed: bool,
    debt: i64,
    credit: i64,
    /// The bank has confirmed the CVC when it was founded.
    is_proven: bool,
}

impl Founded {
    /// Whether the card may lead there for a request that needs so much. For a top-up, any credit will do; it repays a debt, too.
    fn suffices(&self, needed: Micros) -> bool {
        let covers = match needed.is_zero() {
            true => self.credit > 0 || self.debt > 0,
            false => self.debt == 0 && self.credit >= needed.get(),
        };
        !self.is_frozen && !self.is_closed && covers
    }
}

/// Where a card leads that the bank has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leads {
    Frozen,
    To(ClientId),
    Nowhere,
}

/// `user`: the wallet in which the request's `Idempotency-Key` was used. What it has paid for is repeated, whatever is left in it.
fn leads(wallets: &[Founded], needed: Micros, user: Option<ClientId>) -> Leads {
    let mut wallets = wallets.iter();
    if wallets.clone().any(|wallet| wallet.is_frozen) {
        return Leads::Frozen;
    }
    let found = match user {
        Some(user) => wallets.find(|wallet| wallet.client == user && !wallet.is_closed),
        None => wallets.find(|wallet| wallet.suffices(needed)),
    };
    found.map_or(Leads::Nowhere, |wallet| Leads::To(wallet.client))
}

/// Of these wallets, the one in which an `Idempotency-Key` was used.
pub(super) async fn user_of_key<'c>(
    on: impl Into<On<'c>>,
    wallets: &[Founded],
    repeat: &Repeat,
    now: i64,
) -> Result<Option<ClientId>, sqlx::Error> {
    let as_json =
        |list: Result<String, serde_json::Error>| list.map_err(|error| sqlx::Error::Encode(error.into()));
    match repeat {
        _ if wallets.is_empty() => Ok(None),
        Repeat::Order(key) => {
            let clients: Vec<ClientId> = wallets.iter().map(|wallet| wallet.client).collect();
            let clients = as_json(serde_json::to_string(&clients))?;
            query_scalar(ORDERED_UNDER).bind(clients).bind(key.as_bytes().to_vec()).fetch_optional(on).await
        }
        Repeat::Request(key) => {
            let scopes: Vec<SecretHash> = wallets.iter().map(|wallet| key.of_client(wallet.client)).collect();
            let texts: Vec<String> = scopes.iter().map(SecretHash::hex).collect();
            let texts = as_json(serde_json::to_string(&texts))?;
            let used: Option<Vec<u8>> =
                query_scalar(ASKED_UNDER).bind(texts).bind(now).fetch_optional(on).await?;
            let used = used.as_deref().and_then(SecretHash::from_slice);
            Ok(wallets
                .iter()
                .zip(scopes)
                .find(|(_, scope)| used == Some(*scope))
                .map(|(wallet, _)| wallet.client))
        }
    }
}

pub(super) async fn founded(on: impl Into<On<'_>>, fingerprint: &str) -> Result<Vec<Founded>, sqlx::Error> {
    let rows = query(FOUNDED).bind(fingerprint.to_owned()).bind(MOST_WALLETS).fetch_all(on).await?;
    let read = |row: &crate::db::Row| {
        Ok(Founded {
            client: row.try_get(0)?,
            is_frozen: row.try_get(1)?,
            debt: row.try_get(2)?,
            credit: row.try_get(3)?,
            is_closed: row.try_get(4)?,
            is_proven: row.try_get(5)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Which wallets of a card count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// When a bank is to be asked: any that it has founded. Whether one is proven, nobody is told by not being asked.
    Any,
    /// When it has confirmed the card.
    Proven,
}

/// Where a card leads now.
pub(super) async fn leads_now<'c>(
    on: impl Into<On<'c>>,
    card: &Presented,
    which: Which,
    now: i64,
) -> Result<Leads, sqlx::Error> {
    let mut on = on.into();
    let mut wallets = founded(on.again(), &card.fingerprint).await?;
    // A key that was used where the card does not lead is used all the same.
    let user = match &card.repeat {
        None => None,
        Some(repeat) => user_of_key(on, &wallets, repeat, now).await?,
    };
    wallets.retain(|wallet| which == Which::Any || wallet.is_proven);
    Ok(leads(&wallets, card.needed, user))
}

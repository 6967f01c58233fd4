//! Who a client key or a card token belongs to. Only hashes are compared.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::core::{ClientId, KeyNumber};
use super::shared_reads::SharedReads;
use crate::db::{Readers, Row, query, query_scalar};
use crate::domain::{KeyId, SecretHash, TopUpId};

/// Keys kept in memory.
const KEPT: usize = 65_536;
/// How long a remembered key is believed when other nodes may have revoked it.
const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// What a client key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything: the first key of a client.
    Owner,
    /// Spending, topping up and reading.
    Spend,
    /// Reading: neither the wallet nor a card pays anything for it.
    Read,
}

impl Scope {
    /// Whether requests may be paid with it, and credit bought.
    #[must_use]
    pub fn may_spend(self) -> bool {
        matches!(self, Self::Owner | Self::Spend)
    }

    /// As it is stored.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Spend => "spend",
            Self::Read => "read",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Owner, Self::Spend, Self::Read].into_iter().find(|scope| scope.word() == text)
    }
}

/// A client key that leads to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The public part that the key derives from.
    pub id: KeyId,
    /// Whose key.
    pub client: ClientId,
    /// What people see of the client.
    pub client_public_id: Arc<str>,
    /// What it may do.
    pub scope: Scope,
    /// SHA-256 of the key.
    pub hash: SecretHash,
    /// Version of the key secret that the key derives from.
    pub secret_version: i64,
    /// By which entries name it. `None` only in a database that was mended by hand: then it spends all the same.
    pub number: Option<KeyNumber>,
}

/// What a client key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLookup {
    /// A client.
    Known(KeyRecord),
    /// It was a key, and is not one any more.
    Revoked,
    /// It becomes the key of a new client when this top-up, whose outcome is not known yet, has succeeded.
    Promised(TopUpId),
    /// Nothing.
    Unknown,
}

/// Looks keys and card tokens up. Found keys are remembered; where other nodes may revoke them, not for long.
#[derive(Debug)]
pub struct Keys {
    store: Arc<Store>,
    keys: SharedReads<SecretHash, Result<KeyLookup, Arc<sqlx::Error>>>,
    card_tokens: SharedReads<SecretHash, Result<Option<KeyRecord>, Arc<sqlx::Error>>>,
}

/// Where they are looked up, and what was found lately.
#[derive(Debug)]
struct Store {
    reader: Readers,
    known: Cache<SecretHash, (KeyRecord, Instant)>,
    /// How often the database was asked.
    #[cfg(test)]
    asked: std::sync::atomic::AtomicUsize,
}

const BY_HASH: &str = "\
SELECT k.id, k.client, k.scope, k.revoked_at, c.public_id, k.hash, k.secret_version, k.number
FROM client_keys AS k JOIN clients AS c ON c.id = k.client WHERE k.hash = $1";
const PROMISED: &str = "\
SELECT id FROM top_ups WHERE key_hash = $1 AND client IS NULL AND state IN ('created', 'confirming', 'pending') LIMIT 1";
const BY_BINDING: &str = "\
SELECT k.id, k.client, k.scope, k.revoked_at, c.public_id, k.hash, k.secret_version, k.number
FROM payment_method_bindings AS b JOIN client_keys AS k ON k.id = b.key JOIN clients AS c ON c.id = b.client
WHERE b.hash = $1 AND b.revoked_at IS NULL";

fn record(row: &Row) -> Result<Option<KeyRecord>, sqlx::Error> {
    let malformed = || sqlx::Error::Decode("a client key row is malformed".into());
    if row.try_get::<Option<i64>, _>(3)?.is_some() {
        return Ok(None);
    }
    Ok(Some(KeyRecord {
        id: KeyId::parse(row.try_get(0)?).ok_or_else(malformed)?,
        client: row.try_get(1)?,
        client_public_id: row.try_get::<&str, _>(4)?.into(),
        scope: Scope::parse(row.try_get(2)?).ok_or_else(malformed)?,
        hash: SecretHash::from_slice(row.try_get(5)?).ok_or_else(malformed)?,
        secret_version: row.try_get(6)?,
        number: row.try_get(7)?,
    }))
}

impl Keys {
    /// Looks keys up through this pool, on the runtime that this is called on.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn new(reader: Readers) -> Self {
        let known = Cache::new(KEPT);
        let store = Store {
            reader,
            known,
            #[cfg(test)]
            asked: 0.into(),
        };
        Self {
            store: Arc::new(store),
            keys: SharedReads::on_this_runtime(),
            card_tokens: SharedReads::on_this_runtime(),
        }
    }

    /// The same as [`Keys::look_up`] for a key that was here lately, without the database.
    #[must_use]
    pub fn remembered(&self, hash: SecretHash) -> Option<KeyRecord> {
        self.store.remembered(hash)
    }

    /// Whether a key was here, however long ago.
    #[must_use]
    pub fn was_here(&self, hash: SecretHash) -> bool {
        self.store.known.peek(&hash).is_some()
    }

    /// What a client key leads to.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn look_up(&self, hash: SecretHash) -> Result<KeyLookup, Arc<sqlx::Error>> {
        if let Some(known) = self.remembered(hash) {
            return Ok(KeyLookup::Known(known));
        }
        let read = || {
            let store = Arc::clone(&self.store);
            async move { store.look_up(hash).await.map_err(Arc::new) }
        };
        self.keys.read(hash, read).await.unwrap_or_else(ended)
    }

    /// The key that a card token is bound to, unless it was revoked.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn bound_to(&self, payment_method: SecretHash) -> Result<Option<KeyRecord>, Arc<sqlx::Error>> {
        let read = || {
            let store = Arc::clone(&self.store);
            async move { store.bound_to(payment_method).await.map_err(Arc::new) }
        };
        self.card_tokens.read(payment_method, read).await.unwrap_or_else(ended)
    }
}

/// Nothing is read any more.
fn ended<T>() -> Result<T, Arc<sqlx::Error>> {
    Err(Arc::new(sqlx::Error::PoolClosed))
}

impl Store {
    fn remembered(&self, hash: SecretHash) -> Option<KeyRecord> {
        let (known, since) = self.known.get(&hash)?;
        (matches!(self.reader, Readers::Sqlite(_)) || since.elapsed() < TRUSTED_FOR).then_some(known)
    }

    async fn look_up(&self, hash: SecretHash) -> Result<KeyLookup, sqlx::Error> {
        // Whoever was read for before may have found it.
        if let Some(known) = self.remembered(hash) {
            return Ok(KeyLookup::Known(known));
        }
        if let Some(found) = self.look_up_issued(hash).await? {
            return Ok(found);
        }
        let promised: Option<String> =
            query_scalar(PROMISED).bind(hash.as_bytes().to_vec()).fetch_optional(&self.reader).await?;
        if let Some(top_up) = promised.as_deref().and_then(TopUpId::parse) {
            return Ok(KeyLookup::Promised(top_up));
        }
        // The promise may have been kept between the two looks: nobody is told to forget a key that has just come to life.
        Ok(self.look_up_issued(hash).await?.unwrap_or(KeyLookup::Unknown))
    }

    /// `None`: it is the key of no client.
    async fn look_up_issued(&self, hash: SecretHash) -> Result<Option<KeyLookup>, sqlx::Error> {
        #[cfg(test)]
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let row = query(BY_HASH).bind(hash.as_bytes().to_vec()).fetch_optional(&self.reader).await?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(Some(match record(&row)? {
            Some(key) => {
                self.known.insert(hash, (key.clone(), Instant::now()));
                KeyLookup::Known(key)
            }
            None => {
                self.known.remove(&hash);
                KeyLookup::Revoked
            }
        }))
    }

    async fn bound_to(&self, payment_method: SecretHash) -> Result<Option<KeyRecord>, sqlx::Error> {
        #[cfg(test)]
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let row =
            query(BY_BINDING).bind(payment_method.as_bytes().to_vec()).fetch_optional(&self.reader).await?;
        row.as_ref().map(record).transpose().map(Option::flatten)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::Ordering;

    use futures_util::future::join_all;

    use super::super::tests::books::{Books, charge_of};
    use super::*;

    /// So many requests come with the same wallet at once, when it was not here before.
    const AT_ONCE: usize = 500;

    async fn all_at_once<T>(keys: &Keys, ask: impl AsyncFn(&Keys) -> T) -> (Vec<T>, usize) {
        let before = keys.store.asked.load(Ordering::SeqCst);
        let told = join_all((0..AT_ONCE).map(|_| ask(keys))).await;
        (told, keys.store.asked.load(Ordering::SeqCst) - before)
    }

    #[tokio::test]
    async fn many_who_ask_for_the_same_at_once_ask_the_database_for_it_once_or_twice() {
        let books = Books::open().await;
        let top_up = books.charged(None, "usd", 1000, 0).await;
        let client = books.ledger.record_top_up(charge_of(top_up), None).await.unwrap().0.client;
        let keys = Keys::new(books.db.reader().clone());
        let card = SecretHash::of(&top_up.to_string());
        let (told, asked) = all_at_once(&keys, async |keys| keys.bound_to(card).await.unwrap()).await;
        let owner = told.first().cloned().flatten().unwrap();
        assert_eq!((owner.client, told.iter().all(|told| told.as_ref() == Some(&owner))), (client, true));
        assert_eq!(asked, 2, "card token");
        let (told, asked) = all_at_once(&keys, async |keys| keys.look_up(owner.hash).await.unwrap()).await;
        assert!(told.iter().all(|told| *told == KeyLookup::Known(owner.clone())));
        assert_eq!(asked, 1, "the second round remembers what the first has found");
        // Whoever does not exist is looked for twice in each of two rounds, and not remembered.
        for _ in 0..2 {
            let nobody = SecretHash::of("nobody");
            let (told, asked) = all_at_once(&keys, async |keys| keys.look_up(nobody).await.unwrap()).await;
            assert!(told.iter().all(|told| *told == KeyLookup::Unknown));
            assert_eq!(asked, 4, "unknown");
        }
        books.assert_clean().await;
    }
}

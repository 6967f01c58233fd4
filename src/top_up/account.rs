//! Which Stripe the books belong to: its mode and its account. Money that was charged in one of them must not be spent, refunded
//! or looked for in another one, only because somebody has put other keys in.
//!
//! The mode is stored, and the keys tell theirs. An account has no name here, since a restricted key may not read it: what
//! proves it is our newest PaymentIntent, which is read back. Who does not know it is another account, or another mode.
//!
//! ```text
//! no charge yet ─► Unused: whoever charges first decides
//! Stripe knows the newest PaymentIntent ─► Proven
//! Stripe does not know it ─► Other: does not start; nothing is charged, refunded or read
//! Stripe cannot be asked ─► Unproven: what is paid for is served, everything else waits for the proof
//! ```

use std::sync::{Arc, Mutex as Shared, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{after, store};
use crate::db::{Connection, Db, DbError, On, Sql, query, query_scalar, sql_with_now};
use crate::domain::{StripeMode, TopUpId};
use crate::stripe::{PaymentIntentFacts, Stripe, StripeFailure};

/// What one look at Stripe may take: at start, when nothing can be said without it, and while somebody waits.
pub(super) const FIRST_DEADLINE: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at a Stripe that could not be asked, and at one that has denied us.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_THE_OTHER_EVERY: Duration = Duration::from_secs(60);

const MODE: &str = "SELECT stripe_mode FROM installation";
const NEWEST: &str = "\
SELECT payment_intent FROM top_ups WHERE payment_intent IS NOT NULL AND former_account = 0 ORDER BY id DESC LIMIT 1";
pub(super) const NEWEST_FEW: &str = "\
SELECT payment_intent FROM top_ups WHERE payment_intent IS NOT NULL AND former_account = 0 ORDER BY id DESC LIMIT 10";
/// Whether anything in the books is of the stored mode.
const HAS_MONEY: &str = "\
SELECT EXISTS (SELECT 1 FROM clients) OR EXISTS (SELECT 1 FROM top_ups WHERE payment_intent IS NOT NULL)";
pub(super) const SET_MODE: &str = "UPDATE installation SET stripe_mode = $1";
/// Holds the row until the transaction ends, so that of two who would be the first the second one waits.
pub(super) const LOCK: &str = "UPDATE installation SET stripe_mode = stripe_mode WHERE one = 1";
const SINCE: &str = "SELECT account_since FROM installation";
pub(super) const OTHER_NODES_LIVE: Sql =
    sql_with_now!("SELECT EXISTS (SELECT 1 FROM nodes WHERE id <> $1 AND lease_until > ", now, ")");

/// Keys and books that do not belong together. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum WrongStripe {
    /// Another mode.
    #[error(
        "the database holds wallets of {books}, but the secret key is of {keys}: nobody may spend the one as the other. Use \
         another data directory or database with this key, or put the key back that belongs to this database"
    )]
    Mode {
        /// What the database says.
        books: StripeMode,
        /// What the keys say.
        keys: StripeMode,
    },
    /// Another account, or, where the database does not say its mode, another mode.
    #[error(
        "Stripe does not know {payment_intent}, the newest PaymentIntent of this database: the secret key is of another Stripe \
         account, or of another mode (live, test, simulated), than the one in which its wallets were paid for. Put the right key \
         in, or use another data directory or database with this one. If the business has moved to another Stripe account for \
         good, stop the server and run `prepaid402 accept-account{option}`"
    )]
    Account {
        /// `pi_…`.
        payment_intent: String,
        /// What the command needs beside, if anything.
        option: &'static str,
    },
    /// Nothing is known, and Stripe does not say.
    #[error(
        "the database was written by an earlier version and does not say whether its wallets hold real money or play money. Stripe \
         must say it once, by the newest PaymentIntent, and could not be asked ({0}): start again when it can be, with the key \
         that this database was used with. If that account cannot be used any more, put the key of the new one in, stop all nodes and run \
         `prepaid402 accept-account{option}`",
        option = NAME_THE_MODE
    )]
    Unproven(String),
    /// Another node runs with keys of another mode.
    #[error(
        "another node runs on this database with keys of {other}, and these are of {keys}: give all nodes the same keys, or use \
         another database"
    )]
    OtherNodes {
        /// Theirs.
        other: StripeMode,
        /// Ours.
        keys: StripeMode,
    },
    /// The database's word.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Where nothing proves the mode any more, a person says it.
const NAME_THE_MODE: &str =
    " --wallets-are MODE`, where MODE is what they were paid in: `live`, `test` or `simulated";

impl WrongStripe {
    /// Stripe does not know our newest charge; the database says this of its mode.
    fn account(payment_intent: String, books: Option<StripeMode>) -> Self {
        Self::Account { payment_intent, option: if books.is_some() { "" } else { NAME_THE_MODE } }
    }
}

impl From<sqlx::Error> for WrongStripe {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// How the keys and the books stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No charge has been made in this account yet: there is nothing to prove.
    Unused,
    /// Stripe knows our newest charge.
    Proven,
    /// Stripe could not be asked.
    Unproven,
    /// Stripe does not know our newest charge, or the database is of another mode.
    Other,
}

/// Knows whether the keys are those of the books. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Account(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    stripe: Stripe,
    /// Of the keys.
    mode: StripeMode,
    standing: Shared<Standing>,
    /// One look at a time; when the next one may be.
    looking: Mutex<Option<Instant>>,
}

impl Account {
    /// Compares keys and books at start. The installation's row must be there.
    ///
    /// # Errors
    /// [`WrongStripe`]: nothing may be sold then.
    pub async fn open(db: Db, stripe: Stripe, mode: StripeMode, node: &str) -> Result<Self, WrongStripe> {
        let books = check_mode(db.reader(), mode).await?;
        let standing = match query_scalar::<String>(NEWEST).fetch_optional(db.reader()).await? {
            None => {
                begin(&db, mode, node).await?;
                Standing::Unused
            }
            Some(newest) => {
                let deadline = if books.is_some() { DEADLINE } else { FIRST_DEADLINE };
                match stripe.retrieve_payment_intent(&newest, after(deadline)).await {
                    Ok(facts) if is_of(&facts, mode) => {
                        if books.is_none() {
                            set_mode(&db, mode).await?;
                        }
                        Standing::Proven
                    }
                    Ok(_) => return Err(WrongStripe::account(newest, books)),
                    Err(failure) if failure.is_missing() => return Err(WrongStripe::account(newest, books)),
                    Err(failure) if books.is_none() => return Err(WrongStripe::Unproven(why(&failure))),
                    Err(failure) => {
                        tracing::error!(
                            why = why(&failure),
                            "Stripe could not be asked whether the secret key is of this database's account: balances can be \
                             spent, but nothing is charged, refunded or read at Stripe before it has answered"
                        );
                        Standing::Unproven
                    }
                }
            }
        };
        let (standing, looking) = (Shared::new(standing), Mutex::new(None));
        Ok(Self(Arc::new(Inner { db, stripe, mode, standing, looking })))
    }

    /// As far as it is known.
    #[must_use]
    pub fn standing(&self) -> Standing {
        *self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether charges may be made, refunded and read with these keys. Asks, where that is not known yet.
    pub async fn is_ours(&self) -> bool {
        match self.standing() {
            Standing::Proven => true,
            _ => matches!(self.look().await, Standing::Proven | Standing::Unused),
        }
    }

    /// Looks again.
    async fn look(&self) -> Standing {
        let mut next = self.0.looking.lock().await;
        let before = self.standing();
        if before == Standing::Proven || next.is_some_and(|next| Instant::now() < next) {
            return before;
        }
        let now = match self.compare().await {
            Ok(now) => now,
            Err(error) => {
                tracing::error!(%error, "whether the secret key is of this database's account could not be looked at");
                // What nobody knows is no proof.
                if before == Standing::Unused { Standing::Unproven } else { before }
            }
        };
        *next = match now {
            Standing::Unused | Standing::Proven => None,
            Standing::Unproven => Some(after(ASK_EVERY)),
            Standing::Other => Some(after(ASK_THE_OTHER_EVERY)),
        };
        self.note(now);
        now
    }

    async fn compare(&self) -> Result<Standing, DbError> {
        let books = match check_mode(self.0.db.reader(), self.0.mode).await {
            Ok(books) => books,
            Err(WrongStripe::Db(error)) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "nothing is charged, refunded or read at Stripe");
                return Ok(Standing::Other);
            }
        };
        let newest: Option<String> = query_scalar(NEWEST).fetch_optional(self.0.db.reader()).await?;
        let Some(newest) = newest else {
            return Ok(Standing::Unused);
        };
        Ok(match self.0.stripe.retrieve_payment_intent(&newest, after(DEADLINE)).await {
            Ok(facts) if is_of(&facts, self.0.mode) => Standing::Proven,
            Err(failure) if !failure.is_missing() => Standing::Unproven,
            Ok(_) | Err(_) => {
                let error = WrongStripe::account(newest, books);
                tracing::error!(%error, "nothing is charged, refunded or read at Stripe");
                Standing::Other
            }
        })
    }

    /// Stripe has listed a charge of ours, by its metadata, that has a row now: as good a proof as to read it.
    pub(super) fn has_listed_ours(&self) {
        if self.standing() == Standing::Unused {
            self.note(Standing::Proven);
        }
    }

    fn note(&self, now: Standing) {
        let mut standing = self.0.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if *standing != now && now == Standing::Proven {
            tracing::info!("the secret key is of this database's Stripe account");
        }
        *standing = now;
    }

    /// Notes the PaymentIntent of an attempt, before it may be confirmed. The first one of all decides which account the database
    /// belongs to; of two nodes with different keys, one is first. `false`: it must not be confirmed.
    pub(super) async fn set_confirming(
        &self,
        id: TopUpId,
        customer: String,
        intent: String,
    ) -> Result<bool, DbError> {
        // A second time, when another node was first and its charge has proven that it has the same account.
        for _ in 0..2 {
            if self.standing() == Standing::Proven {
                return store::set_confirming(&self.0.db, id, customer, intent).await;
            }
            let first = self.0.looking.lock().await;
            if self.standing() == Standing::Unused {
                let (mode, customer, intent) = (self.0.mode, customer.clone(), intent.clone());
                let done = self.0.db.write(move |connection| {
                    Box::pin(async move {
                        if !is_first(connection, mode).await? {
                            return Ok(None);
                        }
                        store::confirming(connection, id, customer, intent).await.map(Some)
                    })
                });
                match done.await? {
                    Some(true) => self.note(Standing::Proven),
                    Some(false) => return Ok(false),
                    None => {}
                }
                if self.standing() == Standing::Proven {
                    return Ok(true);
                }
            }
            drop(first);
            self.look().await;
        }
        Ok(false)
    }
}

/// The stored mode, unless money of it is in the books and the keys are of another one. `None`: it is not known. Asks nobody but
/// the database.
///
/// # Errors
/// [`WrongStripe::Mode`] and the database's word.
pub async fn check_mode(on: impl Into<On<'_>>, keys: StripeMode) -> Result<Option<StripeMode>, WrongStripe> {
    let mut on = on.into();
    let books = stored_mode(on.again()).await?;
    match books {
        Some(books) if books != keys && query_scalar(HAS_MONEY).fetch_one(on).await? => {
            Err(WrongStripe::Mode { books, keys })
        }
        _ => Ok(books),
    }
}

async fn stored_mode(on: On<'_>) -> Result<Option<StripeMode>, sqlx::Error> {
    let stored: Option<Option<String>> = query_scalar(MODE).fetch_optional(on).await?;
    let malformed = || sqlx::Error::Decode("the mode of Stripe is malformed".into());
    stored.flatten().map(|word| StripeMode::parse(&word).ok_or_else(malformed)).transpose()
}

/// Whether keys and books belong together, for commands that only read. What Stripe does not answer is no contradiction.
///
/// # Errors
/// [`WrongStripe::Mode`], [`WrongStripe::Account`] and the database's word.
pub async fn check(
    connection: &mut Connection,
    stripe: &Stripe,
    keys: StripeMode,
) -> Result<(), WrongStripe> {
    let books = check_mode(&mut *connection, keys).await?;
    // One that got lost must not keep a person from seeing that.
    let newest: Vec<String> = query_scalar(NEWEST_FEW).fetch_all(connection).await?;
    for payment_intent in &newest {
        match stripe.retrieve_payment_intent(payment_intent, after(FIRST_DEADLINE)).await {
            Ok(facts) if !is_of(&facts, keys) => {}
            Err(failure) if failure.is_missing() => {}
            Ok(_) | Err(_) => return Ok(()),
        }
    }
    newest.into_iter().next().map_or(Ok(()), |newest| Err(WrongStripe::account(newest, books)))
}

/// The first whole Unix second in which the database charged in its account alone; `None`: it has never had another one.
pub(crate) async fn account_since(connection: &mut Connection) -> Result<Option<i64>, sqlx::Error> {
    let since: Option<Option<i64>> = query_scalar(SINCE).fetch_optional(connection).await?;
    Ok(since.flatten().map(|micros| micros.div_euclid(1_000_000).saturating_add(1)))
}

/// Stores the mode of a database that nothing is charged in yet.
async fn begin(db: &Db, keys: StripeMode, node: &str) -> Result<(), WrongStripe> {
    let (node, is_shared) = (node.to_owned(), db.is_shared());
    let other = db
        .write(move |connection| {
            Box::pin(async move {
                query(LOCK).execute(&mut *connection).await?;
                let stored = stored_mode(On::Connection(&mut *connection)).await?;
                if stored == Some(keys) {
                    return Ok(None);
                }
                // They have checked themselves against the mode that is stored, and may be about to charge in it.
                if stored.is_some()
                    && is_shared
                    && query_scalar(OTHER_NODES_LIVE).bind(node).fetch_one(&mut *connection).await?
                {
                    return Ok(stored);
                }
                query(SET_MODE).bind(keys.word()).execute(connection).await?;
                Ok(None)
            })
        })
        .await?;
    other.map_or(Ok(()), |other| Err(WrongStripe::OtherNodes { other, keys }))
}

async fn set_mode(db: &Db, mode: StripeMode) -> Result<(), DbError> {
    let stored = db.write(move |connection| {
        Box::pin(async move { query(SET_MODE).bind(mode.word()).execute(connection).await.map(drop) })
    });
    stored.await
}

/// Whether nobody has charged in this database's account before; nobody else does until the transaction ends.
async fn is_first(connection: &mut Connection, keys: StripeMode) -> Result<bool, sqlx::Error> {
    query(LOCK).execute(&mut *connection).await?;
    let same_mode = stored_mode(On::Connection(&mut *connection)).await? == Some(keys);
    Ok(same_mode && query_scalar::<String>(NEWEST).fetch_optional(connection).await?.is_none())
}

fn is_of(facts: &PaymentIntentFacts, mode: StripeMode) -> bool {
    facts.livemode == (mode == StripeMode::Live)
}

/// Without anything secret.
pub(super) fn why(failure: &StripeFailure) -> String {
    match failure {
        StripeFailure::Refused(refusal) => format!("refused: {refusal}"),
        other => other.to_string(),
    }
}

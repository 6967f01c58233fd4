//! Refunds that we ask for: the credit is taken first, then Stripe is asked, and what became of it is read back.
//!
//! ```text
//! row 'requested' and credit taken ─► POST /v1/refunds ─► charges.rs reads it back: 'pending', 'succeeded', 'failed'
//!                                                   └► refused: credit given back, 'failed'
//!                                                   └► unknown: stays 'requested'; asked again under the same key
//! ```

use std::sync::Arc;

use super::charges::{Aligned, Charges};
use super::parts::PaymentParts;
use crate::db::{DbError, On, Row, now_micros, query, query_scalar};
use crate::domain::{Currency, Micros, RefundId, SecretHash, TopUpId};
use crate::ledger::aftermath::{Change, NewRefund, RefundOrigin};
use crate::ledger::request_key::{made_under, stored_key};
use crate::ledger::{LedgerError, Refusal};
use crate::stripe::{NewStripeRefund, StripeFailure};

/// What asking for one refund may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
/// Refunds looked at in one step.
const MAX_A_STEP: i64 = 50;
/// Whoever asked has this long, before the step takes a refund up.
const TAKE_UP_AFTER: i64 = 45 * 1_000_000;
/// Between two looks at a refund that is on its way.
const LOOK_EVERY: i64 = 10 * 60 * 1_000_000;
/// Stripe keeps idempotency keys for at least 24 hours; later nothing is asked for again.
const KEY_LIFE: i64 = 23 * 60 * 60 * 1_000_000;

/// Asks for refunds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refunds(Arc<PaymentParts>);

/// A refund, as stored.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Refund {
    /// Ours.
    pub id: String,
    /// Of which charge.
    pub top_up: String,
    /// To the card, in micros.
    #[serde(skip)]
    pub amount: Micros,
    /// Of the amount.
    #[serde(skip)]
    pub currency: Currency,
    /// Bonus that was to be forfeited with it, in micros.
    #[serde(skip)]
    pub bonus: Micros,
    /// `operator`, `stripe` or `fraud_warning`.
    pub origin: String,
    /// `requested`, `pending`, `succeeded` or `failed`.
    pub state: String,
    /// `re_…`, once known.
    pub stripe_refund: Option<String>,
    /// For people.
    pub reason: Option<String>,
    /// The operator's name.
    pub operator: Option<String>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Unix microseconds.
    pub created_at: i64,
    /// See [`stored_key`].
    #[serde(skip)]
    request_key: Option<String>,
    /// 1: it was asked for without an amount. `None`: it was not asked for in this database.
    #[serde(skip)]
    whole: Option<i64>,
}

/// A refund that an operator asks for.
#[derive(Debug, Clone)]
pub struct RefundRequest {
    /// Of which charge.
    pub top_up: TopUpId,
    /// How much; `None`: all that is left of the charge.
    pub amount: Option<Micros>,
    /// For people.
    pub reason: Option<String>,
    /// Who asks.
    pub operator: String,
    /// The same key refunds once.
    pub request_key: String,
}

/// Why there is no refund.
#[derive(Debug, thiserror::Error)]
pub enum RefundError {
    /// There is no such top-up, or it was not charged.
    #[error("there is no such charged top-up")]
    NoSuchTopUp,
    /// The amount cannot be paid out: not a whole number of the currency's smallest coin.
    #[error("the amount is not a whole number of the currency's smallest coin")]
    NotPayable,
    /// It was charged in a Stripe account that has been given up. Nothing was done.
    #[error("it was charged in a former Stripe account, where it cannot be refunded from here")]
    FormerAccount,
    /// Whether the secret key is of the account that was charged is not known, or it is not. Nothing was done.
    #[error("it is not proven that the secret key is of the Stripe account that was charged")]
    UnprovenAccount,
    /// The ledger's word.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The database's word.
    #[error(transparent)]
    Db(#[from] DbError),
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT r.id, r.top_up, r.amount, c.currency, r.bonus, r.origin, r.state, r.stripe_refund, r.reason, ",
            "r.operator, r.failure, r.created_at, r.request_key, r.whole FROM refunds AS r JOIN clients AS c ON c.id = r.client ",
            $rest
        )
    };
}

const BY_ID: &str = select!("WHERE r.id = $1");
const BY_KEY: &str = select!("WHERE r.request_key = $1");
const OF_TOP_UP: &str = select!("WHERE r.top_up = $1 ORDER BY r.created_at, r.id");
const OPEN: &str = select!(
    "WHERE ((r.state = 'requested' AND r.updated_at < $1) OR (r.state = 'pending' AND r.updated_at < $2)) \
     AND NOT EXISTS (SELECT 1 FROM top_ups AS t WHERE t.id = r.top_up AND t.former_account = 1) ORDER BY r.updated_at, r.id LIMIT $3"
);
/// Whoever moves the time has the refund; other nodes let it be until it is due again.
const CLAIM: &str = "\
UPDATE refunds SET updated_at = $2 WHERE id = $1 AND state IN ('requested', 'pending') AND updated_at < $3";
const CHARGED: &str = "SELECT currency, former_account FROM top_ups WHERE id = $1 AND state = 'succeeded'";
const INTENT: &str = "SELECT payment_intent FROM top_ups WHERE id = $1";

fn refund(row: &Row) -> Result<Refund, sqlx::Error> {
    let malformed = || sqlx::Error::Decode("a refund's row is malformed".into());
    Ok(Refund {
        id: row.try_get(0)?,
        top_up: row.try_get(1)?,
        amount: Micros::new(row.try_get(2)?).ok_or_else(malformed)?,
        currency: row.try_get::<&str, _>(3)?.parse().map_err(|_| malformed())?,
        bonus: Micros::new(row.try_get(4)?).ok_or_else(malformed)?,
        origin: row.try_get(5)?,
        state: row.try_get(6)?,
        stripe_refund: row.try_get(7)?,
        reason: row.try_get(8)?,
        operator: row.try_get(9)?,
        failure: row.try_get(10)?,
        created_at: row.try_get(11)?,
        request_key: row.try_get(12)?,
        whole: row.try_get(13)?,
    })
}

/// The refunds of one top-up, oldest first, wherever they are read.
///
/// # Errors
/// When the database cannot be read.
pub(super) async fn of_top_up(on: impl Into<On<'_>>, id: TopUpId) -> Result<Vec<Refund>, sqlx::Error> {
    query(OF_TOP_UP).bind(id.to_string()).fetch_all(on).await?.iter().map(refund).collect()
}

impl Refunds {
    /// Made of the same parts as [`Charges`], which reads back what became of a refund.
    #[must_use]
    pub fn new(parts: Arc<PaymentParts>) -> Self {
        Self(parts)
    }

    /// Refunds to a card what its client has not spent. Idempotent by the request's key. What comes back may still be on its way,
    /// or have failed. Goes on when whoever asked has gone.
    ///
    /// # Errors
    /// [`RefundError`]. After [`LedgerError::Unavailable`] it is not known whether there is a refund: ask again with the same
    /// key.
    pub async fn request(&self, request: RefundRequest) -> Result<Refund, RefundError> {
        let refunds = self.clone();
        let work = self.0.tasks.spawn(async move { refunds.request_now(request).await });
        work.await.unwrap_or_else(|error| Err(LedgerError::Unavailable(error.to_string()).into()))
    }

    async fn request_now(&self, request: RefundRequest) -> Result<Refund, RefundError> {
        let charged = || query(CHARGED).bind(request.top_up.to_string()).fetch_optional(self.0.db.reader());
        let mut row = charged().await.map_err(DbError::from)?.ok_or(RefundError::NoSuchTopUp)?;
        let is_of_former = |row: &crate::db::Row| Ok::<_, DbError>(row.try_get::<i64, _>(1)? != 0);
        // What was refunded there under this key, stays so.
        if is_of_former(&row)? && self.by_key(&request.request_key).await?.is_none() {
            // It may be this account's again.
            let _ = self.align(&request.top_up.to_string()).await?;
            row = charged().await.map_err(DbError::from)?.ok_or(RefundError::NoSuchTopUp)?;
            if is_of_former(&row)? {
                return Err(RefundError::FormerAccount);
            }
        }
        if !is_of_former(&row)? && !self.0.account.is_ours().await {
            return Err(RefundError::UnprovenAccount);
        }
        let malformed = || DbError::from(sqlx::Error::Decode("a top-up row is malformed".into()));
        let currency: Currency =
            row.try_get::<&str, _>(0).map_err(DbError::from)?.parse().map_err(|_| malformed())?;
        if request.amount.is_some_and(|amount| currency.micros_to_minor(amount).is_none()) {
            return Err(RefundError::NotPayable);
        }
        // A repeated request must not be refused for what its first one has taken.
        let mut known = self.by_key(&request.request_key).await?;
        if known.is_none() {
            // Its first one may have been lost when an older copy of the database was put back. Stripe has it.
            if let Some(why) = self.align(&request.top_up.to_string()).await?.obstacle() {
                let why = format!("what has been refunded already is not known: {why}");
                return Err(LedgerError::Unavailable(why).into());
            }
            known = self.by_key(&request.request_key).await?;
        }
        if known.is_none() {
            let new = NewRefund {
                id: RefundId::new(),
                top_up: request.top_up,
                amount: request.amount,
                origin: RefundOrigin::Operator,
                reason: request.reason,
                operator: Some(request.operator),
                request_key: Some(stored_key(&request.request_key)),
            };
            let taken = self.0.ledger.request_refund(new).await;
            // Refused may mean that the same request has just taken it.
            if let Err(error) = taken
                && self.by_key(&request.request_key).await?.is_none()
            {
                return Err(error.into());
            }
        }
        let made = self.by_key(&request.request_key).await?.ok_or_else(malformed)?;
        let asks_for_all = i64::from(request.amount.is_none());
        let same = made.top_up == request.top_up.to_string()
            && request.amount.is_none_or(|amount| amount == made.amount)
            && made.whole.is_none_or(|whole| whole == asks_for_all);
        if !same {
            return Err(LedgerError::Refused(Refusal::SourceConflict).into());
        }
        if made.state == "requested" && !is_of_former(&row)? {
            self.ask_stripe(&made).await;
        }
        Ok(self.find(&made.id).await?.unwrap_or(made))
    }

    /// Refunds all that is left of a charge because of an early fraud warning; what was spent of it is owed.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) async fn because_of_warning(&self, top_up: TopUpId, warning: &str) -> Result<(), LedgerError> {
        let key = format!("fraud_warning:{warning}");
        let unavailable = |error: DbError| LedgerError::Unavailable(error.to_string());
        if self.by_key(&key).await.map_err(unavailable)?.is_some() {
            return Ok(());
        }
        let new = NewRefund {
            id: RefundId::new(),
            top_up,
            amount: None,
            origin: RefundOrigin::FraudWarning,
            reason: Some(format!("early fraud warning {warning}")),
            operator: None,
            request_key: Some(stored_key(&key)),
        };
        self.0.ledger.request_refund(new).await?;
        if let Some(made) = self.by_key(&key).await.map_err(unavailable)? {
            // Apart from this: it reads the charge back, which is what is being done.
            let refunds = self.clone();
            drop(self.0.tasks.spawn(async move { refunds.ask_stripe(&made).await }));
        }
        Ok(())
    }

    /// One refund.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find(&self, id: &str) -> Result<Option<Refund>, DbError> {
        let row = query(BY_ID).bind(id).fetch_optional(self.0.db.reader()).await?;
        Ok(row.as_ref().map(refund).transpose()?)
    }

    async fn by_key(&self, key: &str) -> Result<Option<Refund>, DbError> {
        let reader = self.0.db.reader();
        match made_under(reader, BY_KEY, &stored_key(key), refund).await? {
            Some(made) => Ok(Some(made)),
            // The key itself is what earlier versions stored.
            None => Ok(made_under(reader, BY_KEY, key, refund).await?),
        }
    }

    /// The refunds of one top-up, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn of_top_up(&self, id: TopUpId) -> Result<Vec<Refund>, DbError> {
        Ok(of_top_up(self.0.db.reader(), id).await?)
    }

    /// Looks once at every refund that has no end yet. Answers how many were looked at.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn step(&self) -> Result<usize, DbError> {
        let now = now_micros();
        let (take_up, look) = (now.saturating_sub(TAKE_UP_AFTER), now.saturating_sub(LOOK_EVERY));
        let rows =
            query(OPEN).bind(take_up).bind(look).bind(MAX_A_STEP).fetch_all(self.0.db.reader()).await?;
        let open = rows.iter().map(refund).collect::<Result<Vec<_>, _>>()?;
        for row in &open {
            let due = if row.state == "requested" { take_up } else { look };
            if !self.claim(&row.id, due).await? {
                continue;
            }
            let (refunds, row) = (self.clone(), row.clone());
            let work = self.0.tasks.spawn(async move {
                match row.state.as_str() {
                    "requested" => refunds.ask_stripe(&row).await,
                    _ => drop(refunds.read_back(&row).await),
                }
            });
            let _ = work.await;
        }
        Ok(open.len())
    }

    /// Takes a refund that nobody has looked at since `due`, in Unix microseconds. `false`: another node has it, or it has ended.
    async fn claim(&self, id: &str, due: i64) -> Result<bool, DbError> {
        let id = id.to_owned();
        let claimed = self.0.db.write(move |connection| {
            Box::pin(async move {
                query(CLAIM)
                    .bind(id)
                    .bind(now_micros())
                    .bind(due)
                    .execute(connection)
                    .await
                    .map(|rows| rows == 1)
            })
        });
        claimed.await
    }

    async fn intent(&self, top_up: &str) -> Result<Option<String>, DbError> {
        let found: Option<Option<String>> =
            query_scalar(INTENT).bind(top_up).fetch_optional(self.0.db.reader()).await?;
        Ok(found.flatten())
    }

    /// Books what Stripe has made of a charge.
    async fn align(&self, top_up: &str) -> Result<Aligned, DbError> {
        Ok(match self.intent(top_up).await? {
            Some(intent) => Charges::new(Arc::clone(&self.0)).align(&intent).await,
            None => Aligned::Nothing("there is no PaymentIntent"),
        })
    }

    /// What Stripe has made of the charge. `false`: it could not be read.
    async fn read_back(&self, row: &Refund) -> bool {
        matches!(self.align(&row.top_up).await, Ok(Aligned::Done))
    }

    /// Asks Stripe for a refund whose credit has been taken, always under the same key.
    async fn ask_stripe(&self, row: &Refund) {
        let Ok(Some(intent)) = self.intent(&row.top_up).await else {
            tracing::error!(refund.id = row.id, "a refund cannot be asked for; it is tried again");
            return;
        };
        let Some(amount_minor) = row.currency.micros_to_minor(row.amount) else {
            tracing::error!(refund.id = row.id, "a refund's amount cannot be paid out; a person must look");
            return;
        };
        let is_old = now_micros().saturating_sub(row.created_at) > KEY_LIFE;
        let failure = if is_old {
            "expired".to_owned()
        } else {
            let new = NewStripeRefund {
                idempotency_key: &format!("{}.refund", row.id),
                payment_intent: &intent,
                amount_minor,
                refund_id: &row.id,
                top_up_id: &row.top_up,
                // Not for one that was begun before keys were hashed: under Stripe's key nothing may change.
                request_key: row.request_key.as_deref().and_then(SecretHash::from_hex),
                is_fraudulent: row.origin == "fraud_warning",
            };
            match self.0.stripe.create_refund(new, crate::top_up::after(DEADLINE)).await {
                Ok(_) => {
                    self.read_back(row).await;
                    return;
                }
                Err(StripeFailure::Unknown { reason, request_id }) => {
                    tracing::warn!(
                        refund.id = row.id,
                        ?reason,
                        stripe.request = request_id,
                        "Stripe's answer about a refund is unknown; it is asked for again under the same key"
                    );
                    // Stripe remembers an error under the key, too, also when it has made the refund.
                    self.read_back(row).await;
                    return;
                }
                Err(StripeFailure::Refused(refusal)) => {
                    refusal.code.map_or_else(|| "refused".to_owned(), |code| code.to_string())
                }
                Err(StripeFailure::Declined(_)) => "declined".to_owned(),
            }
        };
        // Only what is certainly not at Stripe has failed.
        if !self.read_back(row).await {
            return;
        }
        match self.find(&row.id).await {
            Ok(Some(now)) if now.state == "requested" => {}
            _ => return,
        }
        let Some(refund) = RefundId::parse(&row.id) else { return };
        tracing::error!(refund.id = row.id, failure, "Stripe refuses a refund; its credit comes back");
        if let Err(error) = self.0.ledger.change(Change::FailRefund { refund, failure }).await {
            tracing::error!(%error, refund.id = row.id, "a refused refund could not be ended; it is tried again");
        }
    }
}

//! Another account of Stripe becomes the database's, because a person says so: `prepaid402 accept-account`.

use serde_json::Value;

use super::account::{
    FIRST_DEADLINE, LOCK, NEWEST_FEW, OTHER_NODES_LIVE, SET_MODE, WrongStripe, check_mode, why,
};
use super::after;
use crate::db::{Connection, DbError, Sql, query, query_scalar, sql_with_now};
use crate::domain::StripeMode;
use crate::stripe::Stripe;

const OPEN_TOP_UPS: &str =
    "SELECT COUNT(*) FROM top_ups WHERE state IN ('confirming', 'pending') AND former_account = 0";
const OPEN_REFUNDS: &str = "\
SELECT COUNT(*) FROM refunds AS r JOIN top_ups AS t ON t.id = r.top_up
WHERE r.state IN ('requested', 'pending') AND t.former_account = 0";
const CHARGES: &str = "SELECT COUNT(*) FROM top_ups WHERE state = 'succeeded' AND former_account = 0";
const OPEN_DISPUTES: &str = "\
SELECT COUNT(*) FROM disputes AS d JOIN top_ups AS t ON t.id = d.top_up
WHERE d.status NOT IN ('won', 'lost', 'warning_closed', 'prevented') AND t.former_account = 0";
/// The newest ones: they are kept for some weeks.
const EVENTS: &str = "SELECT id, body FROM stripe_events ORDER BY created DESC, id DESC LIMIT 1000";
const CUSTOMERS: &str = "SELECT COUNT(*) FROM clients WHERE stripe_customer IS NOT NULL";
/// Nothing of these was confirmed, so nothing was charged.
const END_CREATED: Sql = sql_with_now!(
    "UPDATE top_ups SET state = 'failed', failure = COALESCE(failure, 'payment_failed'), request_key = NULL, updated_at = ",
    now,
    " WHERE state = 'created'"
);
/// Their `Idempotency-Key`s stay: under the same key, nobody's card is charged again.
const END_OPEN: Sql = sql_with_now!(
    "UPDATE top_ups SET state = 'failed', failure = COALESCE(failure, 'former_stripe_account'), updated_at = ",
    now,
    " WHERE state IN ('confirming', 'pending')"
);
const FORGET_CUSTOMERS: &str = "UPDATE clients SET stripe_customer = NULL WHERE stripe_customer IS NOT NULL";
const END_EVENTS: Sql = sql_with_now!(
    "UPDATE stripe_events SET state = 'ignored', why = 'of a former Stripe account', ended_at = ",
    now,
    " WHERE state IN ('received', 'parked')"
);
const GIVE_UP: &str = "UPDATE top_ups SET former_account = 1 WHERE former_account = 0";
const SET_SINCE: Sql = sql_with_now!("UPDATE installation SET account_since = ", now, "");

/// Why no other account is accepted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    /// The keys, or the database.
    #[error(transparent)]
    WrongStripe(#[from] WrongStripe),
    /// An earlier version has written it.
    #[error(
        "the database does not say yet whether its wallets hold real money or play money: start the server once with a key of the \
         former account, which proves it. If that account cannot be used any more, say it with --wallets-are live, test or simulated: \
         what they were paid in. It must be the mode of this key, because nobody may spend the one as the other"
    )]
    UnknownMode,
    /// There is nothing to be said about it.
    #[error(
        "--wallets-are is only for a database that does not say its mode, and this one says that its wallets are of {0}: leave the \
         option out"
    )]
    KnownMode(StripeMode),
    /// What is said is not so.
    #[error(
        "the wallets are not of {named}: {evidence} is of the other mode, live or not, and nobody may spend the one as the other"
    )]
    OtherMode {
        /// What was said.
        named: StripeMode,
        /// What contradicts it, by its id.
        evidence: String,
    },
    /// Nothing to give up.
    #[error(
        "nothing has been charged in this database's account yet, so every account is right: just start the server"
    )]
    Unused,
    /// The same account.
    #[error(
        "the secret key is of the account that the database belongs to already: there is nothing to accept"
    )]
    SameAccount,
    /// Stripe does not say.
    #[error("Stripe could not be asked whose key this is ({0})")]
    NoAnswer(String),
    /// Nodes still run.
    #[error("a node still runs on this database: stop all of them, and try again 15 seconds later")]
    NodesLive,
    /// Their truth is in the former account.
    #[error(
        "{top_ups} top-ups and {refunds} refunds have no end yet, and only the former account knows what became of them: start the \
         server once more with its key and let them end. If that account cannot be used any more, add --give-up-open: those \
         top-ups then count as failed, although their cards may have been charged there, and those refunds stay open for ever"
    )]
    Open {
        /// Attempts to charge that may have been confirmed.
        top_ups: i64,
        /// Refunds on their way.
        refunds: i64,
    },
    /// The database's word.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for NotAccepted {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// What is given up with a former account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp {
    /// Charges that cannot be refunded from here any more.
    pub charges: i64,
    /// Wallets whose card must be tokenised anew.
    pub customers: i64,
    /// Disputes that have no end yet, and cannot be read any more.
    pub disputes: i64,
}

/// What is to be accepted.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance {
    /// Of the new account's key.
    pub keys: StripeMode,
    /// What the wallets were paid in, said by a person; only where nothing else says it.
    pub wallets_are: Option<StripeMode>,
    /// Also what has no end yet.
    pub gives_up_open: bool,
    /// Do it, and do not only look.
    pub confirmed: bool,
}

/// Makes the account of this key the database's: wallets keep their credit, and what belongs to the former account is forgotten or
/// never asked after again. No server may run. Without `confirmed` it only looks.
///
/// # Errors
/// [`NotAccepted`]; nothing was changed.
pub async fn accept(
    connection: &mut Connection,
    stripe: &Stripe,
    acceptance: Acceptance,
) -> Result<GivenUp, NotAccepted> {
    // Play money stays play money, whatever anybody accepts.
    let books = check_mode(&mut *connection, acceptance.keys).await?;
    let mode = match (books, acceptance.wallets_are) {
        (Some(books), None) => books,
        (Some(books), Some(_)) => return Err(NotAccepted::KnownMode(books)),
        (None, None) => return Err(NotAccepted::UnknownMode),
        (None, Some(named)) if named != acceptance.keys => {
            return Err(WrongStripe::Mode { books: named, keys: acceptance.keys }.into());
        }
        (None, Some(named)) => {
            if let Some(evidence) = event_of_other_mode(connection, named).await? {
                return Err(NotAccepted::OtherMode { named, evidence });
            }
            named
        }
    };
    // One stray charge in another account must not give up all the others.
    let newest: Vec<String> = query_scalar(NEWEST_FEW).fetch_all(&mut *connection).await?;
    if newest.is_empty() {
        return Err(NotAccepted::Unused);
    }
    for payment_intent in &newest {
        match stripe.retrieve_payment_intent(payment_intent, after(FIRST_DEADLINE)).await {
            Ok(_) => return Err(NotAccepted::SameAccount),
            Err(failure) if failure.is_of_other_mode() => {
                return Err(NotAccepted::OtherMode { named: mode, evidence: payment_intent.clone() });
            }
            Err(failure) if failure.is_missing() => {}
            Err(failure) => return Err(NotAccepted::NoAnswer(why(&failure))),
        }
    }
    connection.begin().await?;
    let accepted = accept_now(connection, mode, acceptance.gives_up_open).await;
    match &accepted {
        Ok(_) if acceptance.confirmed => connection.commit().await?,
        _ => connection.rollback().await?,
    }
    accepted
}

/// An event of the other mode, live or not: what Stripe has told of charges that were made here tells what they were worth.
async fn event_of_other_mode(
    connection: &mut Connection,
    named: StripeMode,
) -> Result<Option<String>, NotAccepted> {
    for row in query(EVENTS).fetch_all(connection).await? {
        let body: Value = serde_json::from_str(row.try_get(1)?).unwrap_or_default();
        if body["livemode"].as_bool().is_some_and(|is_live| is_live != (named == StripeMode::Live)) {
            return Ok(Some(row.try_get(0)?));
        }
    }
    Ok(None)
}

async fn accept_now(
    connection: &mut Connection,
    mode: StripeMode,
    gives_up_open: bool,
) -> Result<GivenUp, NotAccepted> {
    query(LOCK).execute(&mut *connection).await?;
    // On SQLite the caller has the file for itself, and a lease may be that of a process that was killed just now.
    let is_shared = matches!(connection, Connection::Postgres(_));
    if is_shared && query_scalar(OTHER_NODES_LIVE).bind("").fetch_one(&mut *connection).await? {
        return Err(NotAccepted::NodesLive);
    }
    let top_ups: i64 = query_scalar(OPEN_TOP_UPS).fetch_one(&mut *connection).await?;
    let refunds: i64 = query_scalar(OPEN_REFUNDS).fetch_one(&mut *connection).await?;
    if top_ups.max(refunds) > 0 && !gives_up_open {
        return Err(NotAccepted::Open { top_ups, refunds });
    }
    let given_up = GivenUp {
        charges: query_scalar(CHARGES).fetch_one(&mut *connection).await?,
        customers: query_scalar(CUSTOMERS).fetch_one(&mut *connection).await?,
        disputes: query_scalar(OPEN_DISPUTES).fetch_one(&mut *connection).await?,
    };
    for change in [END_CREATED, END_OPEN, FORGET_CUSTOMERS.into(), END_EVENTS, GIVE_UP.into()] {
        query(change).execute(&mut *connection).await?;
    }
    query(SET_MODE).bind(mode.word()).execute(&mut *connection).await?;
    query(SET_SINCE).execute(connection).await?;
    Ok(given_up)
}

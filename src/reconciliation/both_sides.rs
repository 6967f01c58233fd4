//! Reads what Stripe has and what the books say about a window of time, for [`compare`](super::comparison::compare).
//!
//! The two clocks and the way between the two differ, so an edge of the window cuts them at different places. Therefore whatever
//! only one side has in the window is looked up at the other by its id, whenever it was.
//!
//! Several gateways may charge through one Stripe account. Whose a charge is, its metadata say, and a refund or a dispute is
//! whose its charge is.

mod at_stripe;
mod books;

use std::collections::BTreeSet;
use std::time::Duration;

use self::at_stripe::{Reading, Side};
use self::books::InWindow;
use super::comparison::charges_nobody_was_credited_for;
use super::facts::{Facts, StripeSide};
use super::window::{Listener, Progress, Window, second};
use crate::config::DatabaseConfig;
use crate::db::{DbError, connect_read_only, require_current};
use crate::stripe::{Stripe, StripeFailure};
use crate::top_up::account::account_since;
use crate::top_up::{after, installation};

/// What looking up one object may take.
const OBJECT_DEADLINE: Duration = Duration::from_secs(30);

/// What was read.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// To compare.
    pub facts: Facts,
    /// Charges, refunds and disputes of other products, and of other gateways, on the same Stripe account.
    pub foreign: u64,
    /// What was compared: the window that was asked for, less what is in a former account.
    pub window: Window,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The database's word.
    #[error("the database cannot be read: {0}")]
    Db(#[from] DbError),
    /// Stripe's word.
    #[error("Stripe cannot be read: {0}")]
    Stripe(#[from] StripeFailure),
    /// Nothing of the window is this account's.
    #[error(
        "the window ends before {since}, when this Stripe account was accepted (`prepaid402 accept-account`): what was charged by then \
         is in the former account, which cannot be read with this key"
    )]
    FormerAccount {
        /// When that was.
        since: String,
    },
}

impl From<sqlx::Error> for GatherError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Reads both sides. Nothing is open in the database while Stripe is asked.
///
/// # Errors
/// When one side cannot be read completely.
pub async fn gather(
    database: &DatabaseConfig,
    stripe: &Stripe,
    window: Window,
    listener: Listener<'_>,
) -> Result<Gathered, GatherError> {
    let mut connection = connect_read_only(database).await?;
    require_current(&mut connection).await?;
    let installation = installation::known(&mut connection).await?;
    // What was charged in a former account cannot be compared with this one.
    let since = account_since(&mut connection).await?.filter(|since| *since > window.from());
    let window = match since {
        Some(since) => {
            let left =
                window.since(since).ok_or_else(|| GatherError::FormerAccount { since: second(since) })?;
            listener(Progress::LeftOut(since));
            left
        }
        None => window,
    };
    let mut books = InWindow::read(&mut connection, window).await?;
    let mut reading = Reading { stripe, installation, side: Side::default(), foreign: 0 };
    reading.lists(window, &mut connection, listener).await?;
    reading.what_only_the_books_have(&books, &mut connection).await?;
    let (side, foreign) = (reading.side, reading.foreign);
    let mut facts = Facts {
        now: crate::db::now_micros().checked_div(1_000_000).unwrap_or_default(),
        books: books.completed(&mut connection, &side).await?,
        stripe: StripeSide {
            charges: side.charges.into_values().collect(),
            refunds: side.refunds.into_values().collect(),
            disputes: side.disputes.into_values().collect(),
            not_charged: side.not_charged,
            unknown: side.unknown,
            given_back: BTreeSet::new(),
        },
    };
    connection.close().await?;
    for intent in charges_nobody_was_credited_for(&facts) {
        // Whenever it was given back: the list of the window does not have to name it.
        if stripe.charge_aftermath(&intent, after(OBJECT_DEADLINE)).await?.is_given_back() {
            facts.stripe.given_back.insert(intent);
        }
    }
    Ok(Gathered { facts, foreign, window })
}

//! How far attempts have come.

use crate::config::ShieldConfig;
use crate::db::{Connection, Db, DbError, Sql, now_micros, query, sql_with_now};
use crate::domain::TopUpId;
use crate::ledger::ClientId;
use crate::shield::{self, Barred};
use crate::top_up::{Repeat, card_checks};

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

/// Notes the customer of a client, if it has the one that is expected.
pub(in crate::top_up) async fn set_customer(
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
pub(in crate::top_up) struct CardOfAttempt {
    pub(in crate::top_up) fingerprint: String,
    /// Whose attempt it is.
    pub(in crate::top_up) client: Option<ClientId>,
    pub(in crate::top_up) limits: ShieldConfig,
    /// The attempt would found a wallet: it is refused where the card may have paid for the same purchase.
    pub(in crate::top_up) pays_once: bool,
    /// The purchase's `Idempotency-Key`.
    pub(in crate::top_up) repeat: Option<Repeat>,
}

/// Why a card is not charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::top_up) enum CardRefused {
    /// To keep stolen cards from being tried.
    Barred(Barred),
    /// It may have paid for the same purchase already.
    HasWallet,
}

/// Notes an attempt's card, and answers whether it may be tried. A unique violation means that the same card is being charged right
/// now. The row first and the looks second: from the row on, no other attempt with this card can begin.
pub(in crate::top_up) async fn set_card(
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

/// Notes that a bank said no, while the attempt cannot be ended yet.
pub(in crate::top_up) async fn note_decline(
    db: &Db,
    id: TopUpId,
    failure: &'static str,
) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            let noted = query(NOTE_DECLINE).bind(id.to_string()).bind(failure).bind(now_micros());
            noted.execute(connection).await.map(drop)
        })
    })
    .await
}

/// Notes the PaymentIntent, before it may be confirmed. `false`: the row is not in the state that allows it.
pub(in crate::top_up) async fn set_confirming(
    db: &Db,
    id: TopUpId,
    customer: String,
    payment_intent: String,
) -> Result<bool, DbError> {
    db.write(move |connection| Box::pin(confirming(connection, id, customer, payment_intent))).await
}

/// The same, in a transaction that does more.
pub(in crate::top_up) async fn confirming(
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
pub(in crate::top_up) async fn set_pending(db: &Db, id: TopUpId) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query(SET_PENDING).bind(id.to_string()).bind(now_micros()).execute(connection).await.map(|_| ())
        })
    })
    .await
}

/// Takes an open attempt for a node, and notes that it is looked at now, so that others get their turn before it is looked at
/// again. `false`: it has ended, or another node that lives works on it.
pub(in crate::top_up) async fn claim(db: &Db, id: TopUpId, node: String) -> Result<bool, DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            let claimed = query(CLAIM).bind(id.to_string()).bind(node).bind(now_micros());
            claimed.execute(connection).await.map(|claimed| claimed == 1)
        })
    })
    .await
}

/// Whatever counts as of a former account under this PaymentIntent does not do so any more.
pub(in crate::top_up) async fn take_back(db: &Db, intent: String) -> Result<(), DbError> {
    const TAKE_BACK: &str =
        "UPDATE top_ups SET former_account = 0 WHERE payment_intent = $1 AND former_account = 1";
    db.write(move |connection| {
        Box::pin(async move { query(TAKE_BACK).bind(intent).execute(connection).await.map(|_| ()) })
    })
    .await
}

/// Lets other nodes work on an attempt.
pub(in crate::top_up) async fn let_go(db: &Db, id: TopUpId, node: String) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(
            async move { query(LET_GO).bind(id.to_string()).bind(node).execute(connection).await.map(drop) },
        )
    })
    .await
}

/// Ends an attempt that did not charge and never will. `gives_key_back`: it was given up rather than refused, so its
/// `Idempotency-Key` has no outcome to repeat and may be used for a new attempt.
pub(in crate::top_up) async fn set_failed(
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

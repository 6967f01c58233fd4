//! Refunds: those that are asked for here, and what Stripe says of all of them.

use super::charge::{Charge, sum};
use super::facts::{RefundFacts, RefundOrigin, RefundStatus};
use super::freezes::lock_client;
use super::{Prepared, named};
use crate::db::{Connection, query, query_scalar};
use crate::domain::{Micros, RefundId, TopUpId};
use crate::ledger::account::Account;
use crate::ledger::core::{Clawback, ClientId, Command, PayOut, Refusal, Reinstate, Within};
use crate::ledger::request_key::asked_before;
use crate::ledger::reservations::Reservations;
use crate::ledger::source::{Source, SourceKind};
use crate::ledger::write_offs::with_take_backs;

/// A refund to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRefund {
    /// Ours.
    pub id: RefundId,
    /// Of which charge.
    pub top_up: TopUpId,
    /// How much; `None`: all that is left of the charge.
    pub amount: Option<Micros>,
    /// Who wants it.
    pub origin: RefundOrigin,
    /// For people.
    pub reason: Option<String>,
    /// The operator's name.
    pub operator: Option<String>,
    /// Of the request, the operator's or a warning's: the same key refunds once.
    pub request_key: Option<String>,
}

/// What is disputed and not won: taken, or about to be. An inquiry takes nothing.
const DISPUTED: &str = "\
SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM disputes
WHERE top_up = $1 AND status NOT IN ('won', 'warning_closed', 'prevented', 'warning_needs_response', 'warning_under_review')";
const REFUND_OF_STRIPE: &str = "SELECT id, state, amount FROM refunds WHERE stripe_refund = $1";
const REFUND_OF_OURS: &str =
    "SELECT id, state, amount FROM refunds WHERE id = $1 AND top_up = $2 AND stripe_refund IS NULL";
const REFUND_OF_REQUEST: &str = "SELECT id, top_up, amount FROM refunds WHERE request_key = $1 OR id = $2";
const KNOWS_REFUND: &str = "SELECT EXISTS (SELECT 1 FROM refunds WHERE id = $1)";
const KNOWS_REQUEST: &str = "SELECT EXISTS (SELECT 1 FROM refunds WHERE request_key = $1)";
const REFUND: &str = "SELECT top_up FROM refunds WHERE id = $1";
const NEW_REFUND: &str = "\
INSERT INTO refunds (id, top_up, client, amount, bonus, origin, state, stripe_refund, request_key, reason, operator,
                     created_at, updated_at, whole)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13)";
/// Never back: pending, then succeeded, then failed is the only order there is.
const SET_REFUND: &str = "\
UPDATE refunds SET stripe_refund = $2, state = $3, failure = COALESCE($4, failure), updated_at = $5
WHERE id = $1 AND state <> 'failed' AND NOT (state = 'succeeded' AND $3 = 'pending')";
/// Not once Stripe has made it: what becomes of it then is Stripe's to say.
const FAIL_REFUND: &str = "\
UPDATE refunds SET state = 'failed', failure = $2, updated_at = $3
WHERE id = $1 AND state = 'requested' AND stripe_refund IS NULL";

pub(super) async fn align_refund(
    connection: &mut Connection,
    charge: &Charge,
    refund: &RefundFacts,
    at: i64,
    commands: &mut Vec<Command>,
) -> Result<Result<(), Refusal>, sqlx::Error> {
    let mut found = query(REFUND_OF_STRIPE).bind(&refund.id).fetch_optional(&mut *connection).await?;
    if let (None, Some(ours)) = (&found, refund.ours) {
        let ours = query(REFUND_OF_OURS).bind(ours.to_string()).bind(charge.id.to_string());
        found = ours.fetch_optional(&mut *connection).await?;
        // Stripe was thought to have refused it, and its credit was given back. It is taken again, as if made elsewhere.
        if refund.status != RefundStatus::Failed
            && let Some(row) = &found
            && row.try_get::<&str, _>(1)? == "failed"
        {
            found = None;
        }
    }
    let id = match &found {
        Some(row) => {
            if row.try_get::<i64, _>(2)? != refund.amount.get() {
                return Ok(Err(Refusal::SourceConflict));
            }
            if row.try_get::<&str, _>(1)? == "failed" {
                return Ok(Ok(()));
            }
            row.try_get::<String, _>(0)?
        }
        None => {
            let Identity { id, origin, request_key } = identity(connection, refund).await?;
            let refunded = charge.refunded(connection).await?;
            let bonus = charge.forfeits(refunded, refund.amount);
            query(NEW_REFUND)
                .bind(&id)
                .bind(charge.id.to_string())
                .bind(charge.client)
                .bind(refund.amount.get())
                .bind(bonus.get())
                .bind(origin)
                .bind("pending")
                .bind(&refund.id)
                .bind(request_key)
                .bind(None::<String>)
                .bind(None::<String>)
                .bind(at)
                .bind(None::<i64>)
                .execute(&mut *connection)
                .await?;
            // One that has failed before it was known here has taken nothing.
            if refund.status != RefundStatus::Failed {
                commands.push(Command::Clawback(Clawback {
                    client: charge.client,
                    source: named(SourceKind::Refund, &id)?,
                    amount: refund.amount,
                    to: Account::RefundPending,
                    forfeits: bonus,
                    within: Within::Debt,
                }));
            }
            id
        }
    };
    let state = match refund.status {
        RefundStatus::Pending => "pending",
        RefundStatus::Succeeded => "succeeded",
        RefundStatus::Failed => "failed",
    };
    query(SET_REFUND)
        .bind(&id)
        .bind(&refund.id)
        .bind(state)
        .bind(refund.failure.as_deref())
        .bind(at)
        .execute(connection)
        .await?;
    let source = named(SourceKind::Refund, &id)?;
    match refund.status {
        RefundStatus::Pending => {}
        RefundStatus::Succeeded => {
            commands.push(Command::PayOut(PayOut { client: charge.client, refund: source }));
        }
        RefundStatus::Failed if found.is_some() => commands.push(returned(charge.client, source)),
        RefundStatus::Failed => {}
    }
    Ok(Ok(()))
}

/// Of the row of a refund that is not known here.
struct Identity {
    id: String,
    origin: &'static str,
    request_key: Option<String>,
}

/// A refund that was made elsewhere gets an id. One of ours, whose row an older copy of the database has lost, is what it was, so
/// that the key of its request still refunds once; unless another row has its id or its key by now.
async fn identity(connection: &mut Connection, refund: &RefundFacts) -> Result<Identity, sqlx::Error> {
    let elsewhere = || Identity { id: RefundId::new().to_string(), origin: "stripe", request_key: None };
    let Some(id) = refund.ours.map(|ours| ours.to_string()) else {
        return Ok(elsewhere());
    };
    if query_scalar(KNOWS_REFUND).bind(&id).fetch_one(&mut *connection).await? {
        return Ok(elsewhere());
    }
    let Some((origin, key)) = &refund.asked else {
        return Ok(Identity { id, ..elsewhere() });
    };
    let is_taken: bool = query_scalar(KNOWS_REQUEST).bind(key).fetch_one(connection).await?;
    Ok(Identity { id, origin: origin.word(), request_key: (!is_taken).then(|| key.clone()) })
}

/// The whole of a refund comes back.
fn returned(client: ClientId, of: Source) -> Command {
    let source = of.sibling(SourceKind::RefundReturn);
    Command::Reinstate(Reinstate { client, source, of, amount: None })
}

pub(super) async fn request_refund(
    connection: &mut Connection,
    new: &NewRefund,
    reservations: &Reservations,
    at: i64,
) -> Result<Prepared, sqlx::Error> {
    let Some(charge) = Charge::lock(connection, new.top_up).await? else {
        return Ok(Prepared::Refused(Refusal::NotCharged));
    };
    let (key, id) = (new.request_key.as_deref(), new.id.to_string());
    let before = asked_before(connection, REFUND_OF_REQUEST, (key, &id), charge.client, |row| {
        let amount: i64 = row.try_get(2)?;
        Ok(row.try_get::<&str, _>(1)? == charge.id.to_string()
            && new.amount.is_none_or(|wanted| wanted.get() == amount))
    });
    if let Some(before) = before.await? {
        return Ok(before);
    }
    let refunded = charge.refunded(connection).await?;
    let disputed =
        sum(query_scalar(DISPUTED).bind(charge.id.to_string()).fetch_one(&mut *connection).await?)?;
    let left = charge.amount.saturating_sub(refunded).saturating_sub(disputed);
    let amount = new.amount.unwrap_or(left);
    if amount.is_zero() || amount > left {
        return Ok(Prepared::Refused(Refusal::ExceedsCharge));
    }
    let forfeits = charge.forfeits(refunded, amount);
    query(NEW_REFUND)
        .bind(id)
        .bind(charge.id.to_string())
        .bind(charge.client)
        .bind(amount.get())
        .bind(forfeits.get())
        .bind(new.origin.word())
        .bind("requested")
        .bind(None::<String>)
        .bind(key)
        .bind(new.reason.as_deref())
        .bind(new.operator.as_deref())
        .bind(at)
        .bind(i64::from(new.amount.is_none()))
        .execute(connection)
        .await?;
    let within = match new.origin {
        RefundOrigin::Operator => Within::Credit { reserved: reservations.reserved(charge.client) },
        RefundOrigin::FraudWarning => Within::Debt,
    };
    let clawback = Clawback {
        client: charge.client,
        source: Source::new(SourceKind::Refund, new.id),
        amount,
        to: Account::RefundPending,
        forfeits,
        within,
    };
    Ok(Prepared::Commands(charge.client, vec![Command::Clawback(clawback)]))
}

pub(super) async fn fail_refund(
    connection: &mut Connection,
    refund: RefundId,
    failure: &str,
    at: i64,
) -> Result<Prepared, sqlx::Error> {
    let id = refund.to_string();
    let Some(row) = query(REFUND).bind(&id).fetch_optional(&mut *connection).await? else {
        return Ok(Prepared::Refused(Refusal::NothingToReverse));
    };
    let top_up: TopUpId = TopUpId::parse(row.try_get(0)?)
        .ok_or_else(|| sqlx::Error::Decode("a refund's row is malformed".into()))?;
    let Some(charge) = Charge::lock(connection, top_up).await? else {
        return Ok(Prepared::Refused(Refusal::NotCharged));
    };
    if query(FAIL_REFUND).bind(&id).bind(failure).bind(at).execute(&mut *connection).await? == 0 {
        return Ok(Prepared::Commands(charge.client, Vec::new()));
    }
    lock_client(connection, charge.client).await?;
    with_take_backs(
        connection,
        charge.client,
        vec![returned(charge.client, Source::new(SourceKind::Refund, refund))],
    )
    .await
}

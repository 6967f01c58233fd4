//! What becomes of a charge afterwards: refunds, disputes, fraud warnings, fees. The rows that belong to the same transaction
//! as their entries.
//!
//! Stripe's events come twice, late, or in any order. So nothing here adds up what events say: [`ChargeFacts`] is everything
//! that Stripe knows about one charge at one moment, each movement of money with a name of its own, and a movement that is in
//! the books already is found there. Facts only ever grow; one that was read earlier and arrives later changes nothing.

use super::account::{Account, Rail};
use super::adjustments::{NewAdjustment, adjust};
use super::core::{Clawback, ClientId, Command, Fee, PayOut, Refusal, Reinstate, Within};
use super::request_key::asked_before;
use super::reservations::Reservations;
use super::source::{Source, SourceKind};
use super::write_offs::with_take_backs;
use crate::db::{Connection, Sql, query, query_scalar};
use crate::domain::{Micros, RefundId, TopUpId};

/// A change about one charge, or about who may spend. Idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What Stripe says about a charge that became a top-up.
    Align(ChargeFacts),
    /// A refund that we are about to ask Stripe for.
    RequestRefund(NewRefund),
    /// A refund of ours that Stripe has refused: its credit comes back.
    FailRefund {
        /// Ours.
        refund: RefundId,
        /// Stripe's stable code, or ours.
        failure: String,
    },
    /// The operator gives credit, or writes debt off.
    Adjust(NewAdjustment),
    /// The operator stops a client from spending.
    Freeze {
        /// Whom.
        client: ClientId,
    },
    /// The operator lets a client spend again, whatever had frozen it.
    Unfreeze {
        /// Whom.
        client: ClientId,
        /// The operator's name.
        by: String,
    },
}

/// Everything that Stripe knows about one charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeFacts {
    /// Ours.
    pub top_up: TopUpId,
    /// `ch_…`.
    pub charge: String,
    /// The card's, for a row that does not know it: one that was made again.
    pub fingerprint: Option<String>,
    /// What Stripe keeps of it, once that is known and of the client's currency.
    pub fee: Option<Movement>,
    /// In the order of their making.
    pub refunds: Vec<RefundFacts>,
    /// In the order of their making.
    pub disputes: Vec<DisputeFacts>,
    /// Early fraud warnings.
    pub warnings: Vec<WarningFacts>,
}

/// A balance transaction, `txn_…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Stripe's id.
    pub id: String,
    /// How much.
    pub amount: Micros,
}

/// A refund as Stripe knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundFacts {
    /// `re_…`.
    pub id: String,
    /// Ours, from the metadata; `None` when it was made elsewhere.
    pub ours: Option<RefundId>,
    /// Who wanted it, and the key of the request as a row holds it, from the metadata. Only for a row that is lost.
    pub asked: Option<(RefundOrigin, String)>,
    /// How much.
    pub amount: Micros,
    /// Where it stands.
    pub status: RefundStatus,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Where a refund stands at Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundStatus {
    /// On its way.
    Pending,
    /// It has left. It may still come back.
    Succeeded,
    /// It came back, or never left.
    Failed,
}

/// A dispute as Stripe knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeFacts {
    /// Stripe's id.
    pub id: String,
    /// How much of the charge.
    pub amount: Micros,
    /// Stripe's word.
    pub status: String,
    /// Stripe's word.
    pub reason: String,
    /// Unix seconds: evidence is taken until then.
    pub due_by: Option<i64>,
    /// Unix seconds.
    pub created: i64,
    /// In the order of their making.
    pub movements: Vec<DisputeMovement>,
}

/// Money that a dispute has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeMovement {
    /// Stripe's id, `txn_…`.
    pub id: String,
    /// How much.
    pub amount: Micros,
    /// Whether it came back.
    pub is_reinstated: bool,
    /// What Stripe charged for it.
    pub fee: Micros,
    /// That fee came back.
    pub fee_is_returned: bool,
}

impl DisputeFacts {
    /// The seller has kept the money, or it was never taken: no reason to freeze the client any longer.
    fn is_won(&self) -> bool {
        matches!(self.status.as_str(), "won" | "warning_closed" | "prevented")
    }
}

/// An early fraud warning as Stripe knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarningFacts {
    /// `issfr_…`.
    pub id: String,
    /// Stripe's word.
    pub kind: String,
    /// Unix seconds.
    pub created: i64,
}

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

/// Who wanted a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundOrigin {
    /// A person, through this program: at most what the client has not spent.
    Operator,
    /// This program, because of an early fraud warning: what has been spent is owed.
    FraudWarning,
}

impl RefundOrigin {
    fn word(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::FraudWarning => "fraud_warning",
        }
    }
}

/// What a change makes of the books.
#[derive(Debug)]
pub(super) enum Prepared {
    /// These entries. The rows are written already.
    Commands(ClientId, Vec<Command>),
    /// Nothing; the rows must be rolled back.
    Refused(Refusal),
}

/// The top-up's row is locked until the transaction ends: changes about one charge come one after the other.
const TOP_UP: Sql = Sql::each(
    "SELECT client, amount, bonus FROM top_ups WHERE id = $1 AND state = 'succeeded'",
    "SELECT client, amount, bonus FROM top_ups WHERE id = $1 AND state = 'succeeded' FOR UPDATE",
);
const SET_CHARGE: &str = "\
UPDATE top_ups SET charge = COALESCE(charge, $2), fingerprint = COALESCE(fingerprint, $3)
WHERE id = $1 AND (charge IS NULL OR fingerprint IS NULL)";
/// Of what has not failed.
const REFUNDED: &str =
    "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM refunds WHERE top_up = $1 AND state <> 'failed'";
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
const DISPUTE_STATUS: &str = "SELECT status FROM disputes WHERE id = $1";
const NEW_DISPUTE: &str = "\
INSERT INTO disputes (id, top_up, client, charge, amount, status, reason, due_by, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const SET_DISPUTE: &str =
    "UPDATE disputes SET status = $2, amount = $3, reason = $4, due_by = $5, updated_at = $6 WHERE id = $1";
const KNOWS_WARNING: &str = "SELECT EXISTS (SELECT 1 FROM fraud_warnings WHERE id = $1)";
const NEW_WARNING: &str = "INSERT INTO fraud_warnings (id, top_up, client, charge, type, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
const FREEZE: &str = "\
INSERT INTO freezes (client, cause, created_at) VALUES ($1, $2, $3) ON CONFLICT (client, cause) DO NOTHING";
const FREEZE_AGAIN: &str = "\
INSERT INTO freezes (client, cause, created_at) VALUES ($1, $2, $3)
ON CONFLICT (client, cause) DO UPDATE SET created_at = excluded.created_at, lifted_at = NULL, lifted_by = NULL
WHERE freezes.lifted_at IS NOT NULL";
const LIFT: &str = "\
UPDATE freezes SET lifted_at = $3, lifted_by = $4 WHERE client = $1 AND cause = $2 AND lifted_at IS NULL";
const LIFT_ALL: &str =
    "UPDATE freezes SET lifted_at = $2, lifted_by = $3 WHERE client = $1 AND lifted_at IS NULL";
/// In a statement of its own, before `freezes` is touched: a statement that waits for a row goes on with what it has read of other
/// tables before the wait, so a status from freezes that another node is changing could be wrong for good.
const LOCK_CLIENT: Sql = Sql::each(
    "SELECT id FROM clients WHERE id = $1",
    "SELECT id FROM clients WHERE id = $1 FOR NO KEY UPDATE",
);
const SET_STATUS: &str = "\
UPDATE clients SET status = CASE WHEN EXISTS
    (SELECT 1 FROM freezes WHERE client = $1 AND lifted_at IS NULL) THEN 'frozen' ELSE 'active' END WHERE id = $1";

/// Writes the rows of a change and answers the commands that post its entries. `reservations` are those of this node.
pub(super) async fn prepare(
    connection: &mut Connection,
    change: &Change,
    reservations: &Reservations,
    at: i64,
) -> Result<Prepared, sqlx::Error> {
    match change {
        Change::Align(facts) => align(connection, facts, at).await,
        Change::RequestRefund(new) => request_refund(connection, new, reservations, at).await,
        Change::FailRefund { refund, failure } => fail_refund(connection, *refund, failure, at).await,
        Change::Adjust(new) => adjust(connection, new, at).await,
        Change::Freeze { client } => {
            lock_client(connection, *client).await?;
            query(FREEZE_AGAIN).bind(*client).bind("operator").bind(at).execute(&mut *connection).await?;
            set_status(connection, *client).await
        }
        Change::Unfreeze { client, by } => {
            lock_client(connection, *client).await?;
            query(LIFT_ALL).bind(*client).bind(at).bind(by).execute(&mut *connection).await?;
            set_status(connection, *client).await
        }
    }
}

/// After the top-up's row, if that is locked too.
pub(super) async fn lock_client(connection: &mut Connection, client: ClientId) -> Result<(), sqlx::Error> {
    query(LOCK_CLIENT).bind(client).fetch_optional(connection).await.map(drop)
}

async fn set_status(connection: &mut Connection, client: ClientId) -> Result<Prepared, sqlx::Error> {
    match query(SET_STATUS).bind(client).execute(connection).await? {
        1 => Ok(Prepared::Commands(client, Vec::new())),
        _ => Ok(Prepared::Refused(Refusal::UnknownClient)),
    }
}

/// The charge of a change.
struct Charge {
    id: TopUpId,
    client: ClientId,
    amount: Micros,
    bonus: Micros,
}

impl Charge {
    async fn lock(connection: &mut Connection, id: TopUpId) -> Result<Option<Self>, sqlx::Error> {
        let Some(row) = query(TOP_UP).bind(id.to_string()).fetch_optional(connection).await? else {
            return Ok(None);
        };
        let malformed = || sqlx::Error::Decode("a top-up row is malformed".into());
        Ok(Some(Self {
            id,
            client: row.try_get::<Option<ClientId>, _>(0)?.ok_or_else(malformed)?,
            amount: Micros::new(row.try_get(1)?).ok_or_else(malformed)?,
            bonus: Micros::new(row.try_get(2)?).ok_or_else(malformed)?,
        }))
    }

    async fn refunded(&self, connection: &mut Connection) -> Result<Micros, sqlx::Error> {
        sum(query_scalar(REFUNDED).bind(self.id.to_string()).fetch_one(connection).await?)
    }

    /// The bonus that is forfeited when another amount of the charge is refunded: what brings the forfeited whole to the share
    /// of what is refunded by then, rounded down, so that the parts of a full refund are exactly the bonus.
    fn forfeits(&self, refunded: Micros, amount: Micros) -> Micros {
        let share = |of: Micros| {
            let product = i128::from(self.bonus.get()).saturating_mul(i128::from(of.min(self.amount).get()));
            let share = product.checked_div(i128::from(self.amount.get())).unwrap_or(0);
            i64::try_from(share).ok().and_then(Micros::new).unwrap_or(Micros::ZERO)
        };
        let after = refunded.checked_add(amount).unwrap_or(Micros::MAX);
        share(after).saturating_sub(share(refunded))
    }
}

fn sum(value: i64) -> Result<Micros, sqlx::Error> {
    Micros::new(value).ok_or_else(|| sqlx::Error::Decode("a sum is out of range".into()))
}

async fn align(connection: &mut Connection, facts: &ChargeFacts, at: i64) -> Result<Prepared, sqlx::Error> {
    let Some(charge) = Charge::lock(connection, facts.top_up).await? else {
        return Ok(Prepared::Refused(Refusal::NotCharged));
    };
    let client = charge.client;
    lock_client(connection, client).await?;
    query(SET_CHARGE)
        .bind(charge.id.to_string())
        .bind(&facts.charge)
        .bind(facts.fingerprint.as_deref())
        .execute(&mut *connection)
        .await?;
    let mut commands = Vec::new();
    if let Some(fee) = &facts.fee {
        let source = named(SourceKind::Fee, &fee.id)?;
        push_fee(&mut commands, client, source, fee.amount, Account::Fees(Rail::Stripe), false);
    }
    for refund in &facts.refunds {
        if let Err(refusal) = align_refund(connection, &charge, refund, at, &mut commands).await? {
            return Ok(Prepared::Refused(refusal));
        }
    }
    for dispute in &facts.disputes {
        align_dispute(connection, &charge, &facts.charge, dispute, at, &mut commands).await?;
    }
    for warning in &facts.warnings {
        let known: bool = query_scalar(KNOWS_WARNING).bind(&warning.id).fetch_one(&mut *connection).await?;
        if !known {
            query(NEW_WARNING)
                .bind(&warning.id)
                .bind(charge.id.to_string())
                .bind(client)
                .bind(&facts.charge)
                .bind(&warning.kind)
                .bind(warning.created.saturating_mul(1_000_000))
                .execute(&mut *connection)
                .await?;
            freeze(connection, client, &format!("fraud_warning:{}", warning.id), at).await?;
        }
    }
    set_status(connection, client).await?;
    with_take_backs(connection, client, commands).await
}

/// The source of what Stripe names so. Nothing of the charge is booked while an id cannot stand in the books, so it is said which.
fn named(kind: SourceKind, id: &str) -> Result<Source, sqlx::Error> {
    Source::named(kind, id).map_err(|_| {
        tracing::error!("Stripe's id {id:?} ({}) cannot stand in the books", kind.prefix());
        sqlx::Error::Decode("an id of Stripe's cannot stand in the books".into())
    })
}

fn push_fee(
    commands: &mut Vec<Command>,
    client: ClientId,
    source: Source,
    amount: Micros,
    account: Account,
    is_returned: bool,
) {
    if !amount.is_zero() {
        commands.push(Command::Fee(Fee { client, source, amount, account, is_returned }));
    }
}

async fn freeze(
    connection: &mut Connection,
    client: ClientId,
    cause: &str,
    at: i64,
) -> Result<(), sqlx::Error> {
    query(FREEZE).bind(client).bind(cause).bind(at).execute(connection).await.map(drop)
}

async fn align_refund(
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

async fn align_dispute(
    connection: &mut Connection,
    charge: &Charge,
    stripe_charge: &str,
    dispute: &DisputeFacts,
    at: i64,
    commands: &mut Vec<Command>,
) -> Result<(), sqlx::Error> {
    let client = charge.client;
    let known: Option<String> =
        query_scalar(DISPUTE_STATUS).bind(&dispute.id).fetch_optional(&mut *connection).await?;
    match known {
        None => {
            query(NEW_DISPUTE)
                .bind(&dispute.id)
                .bind(charge.id.to_string())
                .bind(client)
                .bind(stripe_charge)
                .bind(dispute.amount.get())
                .bind(&dispute.status)
                .bind(&dispute.reason)
                .bind(dispute.due_by)
                .bind(dispute.created.saturating_mul(1_000_000))
                .bind(at)
                .execute(&mut *connection)
                .await?;
            freeze(connection, client, &dispute_cause(&dispute.id), at).await?;
        }
        // What was read before it went on, and arrives after.
        Some(known) if stage(&dispute.status) < stage(&known) => return movements(client, dispute, commands),
        Some(known) => {
            // An inquiry has become a dispute: that is news, also for whoever had let the client go because of an inquiry.
            if stage(&known) < DISPUTED_STAGE && stage(&dispute.status) >= DISPUTED_STAGE {
                query(FREEZE_AGAIN)
                    .bind(client)
                    .bind(dispute_cause(&dispute.id))
                    .bind(at)
                    .execute(&mut *connection)
                    .await?;
            }
            query(SET_DISPUTE)
                .bind(&dispute.id)
                .bind(&dispute.status)
                .bind(dispute.amount.get())
                .bind(&dispute.reason)
                .bind(dispute.due_by)
                .bind(at)
                .execute(&mut *connection)
                .await?;
        }
    }
    if dispute.is_won() {
        query(LIFT)
            .bind(client)
            .bind(dispute_cause(&dispute.id))
            .bind(at)
            .bind(&dispute.status)
            .execute(connection)
            .await?;
    }
    movements(client, dispute, commands)
}

/// From here on it is no inquiry any more.
const DISPUTED_STAGE: u8 = 2;

/// How far a dispute has come. It never goes back.
fn stage(status: &str) -> u8 {
    match status {
        "warning_needs_response" | "warning_under_review" => 0,
        "warning_closed" => 1,
        "won" | "lost" | "prevented" => 3,
        _ => DISPUTED_STAGE,
    }
}

/// What a dispute has taken and given back: as much as is known, however old the reading.
fn movements(
    client: ClientId,
    dispute: &DisputeFacts,
    commands: &mut Vec<Command>,
) -> Result<(), sqlx::Error> {
    let mut taken = None;
    for movement in &dispute.movements {
        match (movement.is_reinstated, &taken) {
            (false, _) => {
                let source = named(SourceKind::Dispute, &movement.id)?;
                commands.push(Command::Clawback(Clawback {
                    client,
                    source: source.clone(),
                    amount: movement.amount,
                    to: Account::Clearing(Rail::Stripe),
                    forfeits: Micros::ZERO,
                    within: Within::Debt,
                }));
                taken = Some(source);
            }
            (true, Some(of)) => commands.push(Command::Reinstate(Reinstate {
                client,
                source: named(SourceKind::Reinstatement, &movement.id)?,
                of: of.clone(),
                amount: Some(movement.amount),
            })),
            (true, None) => {
                return Err(sqlx::Error::Decode("a dispute gives back what it has not taken".into()));
            }
        }
        let source = named(SourceKind::DisputeFee, &movement.id)?;
        push_fee(
            commands,
            client,
            source,
            movement.fee,
            Account::Dispute(Rail::Stripe),
            movement.fee_is_returned,
        );
    }
    Ok(())
}

fn dispute_cause(id: &str) -> String {
    format!("dispute:{id}")
}

async fn request_refund(
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

async fn fail_refund(
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

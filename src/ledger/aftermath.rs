//! What becomes of a charge afterwards: refunds, disputes, fraud warnings, fees. The rows that belong to the same transaction
//! as their entries.
//!
//! Stripe's events come twice, late, or in any order. So nothing here adds up what events say: [`ChargeFacts`] is everything
//! that Stripe knows about one charge at one moment, each movement of money with a name of its own, and a movement that is in
//! the books already is found there. Facts only ever grow; one that was read earlier and arrives later changes nothing.
//!
//! `facts.rs` is what Stripe says, `charge.rs` the row that it is about; `refunds.rs`, `disputes.rs` and `warnings.rs` bring the books
//! in line with it, and `freezes.rs` says who may spend meanwhile.

mod charge;
mod disputes;
mod facts;
mod freezes;
mod refunds;
mod warnings;

use self::charge::Charge;
use self::disputes::align_dispute;
pub use self::facts::{
    ChargeFacts, DisputeFacts, DisputeMovement, Movement, RefundFacts, RefundOrigin, RefundStatus,
    WarningFacts,
};
pub(super) use self::freezes::lock_client;
use self::freezes::{FREEZE_AGAIN, LIFT_ALL, set_status};
pub use self::refunds::NewRefund;
use self::refunds::{align_refund, fail_refund, request_refund};
use self::warnings::align_warning;
use super::account::{Account, Rail};
use super::adjustments::{NewAdjustment, adjust};
use super::core::{ClientId, Command, Fee, Refusal};
use super::reservations::Reservations;
use super::source::{Source, SourceKind};
use super::write_offs::with_take_backs;
use crate::db::{Connection, query};
use crate::domain::{Micros, RefundId};

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

/// What a change makes of the books.
#[derive(Debug)]
pub(super) enum Prepared {
    /// These entries. The rows are written already.
    Commands(ClientId, Vec<Command>),
    /// Nothing; the rows must be rolled back.
    Refused(Refusal),
}

const SET_CHARGE: &str = "\
UPDATE top_ups SET charge = COALESCE(charge, $2), fingerprint = COALESCE(fingerprint, $3)
WHERE id = $1 AND (charge IS NULL OR fingerprint IS NULL)";

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
        align_warning(connection, &charge, &facts.charge, warning, at).await?;
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

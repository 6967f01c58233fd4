//! Disputes: how far they have come, and the money that they have moved.

use super::charge::Charge;
use super::facts::DisputeFacts;
use super::freezes::{FREEZE_AGAIN, LIFT, freeze};
use super::{named, push_fee};
use crate::db::{Connection, query, query_scalar};
use crate::domain::Micros;
use crate::ledger::account::{Account, Rail};
use crate::ledger::core::{Clawback, ClientId, Command, Reinstate, Within};
use crate::ledger::source::SourceKind;

const DISPUTE_STATUS: &str = "SELECT status FROM disputes WHERE id = $1";
const NEW_DISPUTE: &str = "\
INSERT INTO disputes (id, top_up, client, charge, amount, status, reason, due_by, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const SET_DISPUTE: &str =
    "UPDATE disputes SET status = $2, amount = $3, reason = $4, due_by = $5, updated_at = $6 WHERE id = $1";

pub(super) async fn align_dispute(
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

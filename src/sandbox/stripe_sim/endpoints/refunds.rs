//! Refunds: never more than was charged, less what disputes have taken.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::books::{Books, Record};
use super::super::cards::Behaviour;
use super::super::error::{ApiError, Refusal};
use super::super::expand::Expand;
use super::super::objects::{BalanceKind, BalanceTransaction, Charge, Refund, RefundStatus, Settles};
use super::super::params::Params;
use super::super::render;
use super::later::LATER_SECONDS;

/// `POST /v1/refunds`
pub(super) fn create(books: &mut Books, params: Params<'_>) -> Result<Value, Refusal> {
    params.only(
        &["charge", "payment_intent", "amount", "reason", "metadata", "expand"],
        &[
            "currency",
            "customer",
            "instructions_email",
            "origin",
            "refund_application_fee",
            "reverse_transfer",
        ],
    )?;
    let expand = Expand::read(params)?;
    let metadata = params.metadata()?;
    let reason =
        params.choice("reason", &["duplicate", "fraudulent", "requested_by_customer"])?.map(str::to_owned);
    let wanted = params.integer("amount")?;
    if wanted.is_some_and(|amount| amount < 1) {
        return Err(ApiError::parameter("amount", "This value must be greater than or equal to 1.")
            .coded("parameter_invalid_integer"));
    }
    let charge = charge(books, params)?;
    let refund = make(books, charge, wanted, reason, metadata)?;
    Ok(expand.apply(books, render::refund(&refund)))
}

/// Gives money of a paid charge back: `wanted`, or what is left.
pub(in super::super) fn make(
    books: &mut Books,
    mut charge: Charge,
    wanted: Option<i64>,
    reason: Option<String>,
    metadata: BTreeMap<String, String>,
) -> Result<Refund, Refusal> {
    let left = charge.refundable();
    if left == 0 && charge.amount_withdrawn > 0 {
        let message = format!("Charge {} has been charged back; cannot issue a refund.", charge.id);
        return Err(ApiError::state(message).coded("charge_disputed"));
    }
    if left == 0 {
        let message = format!("Charge {} has already been refunded.", charge.id);
        return Err(ApiError::state(message).coded("charge_already_refunded"));
    }
    let amount = wanted.unwrap_or(left);
    if amount > left {
        return Err(ApiError::state(format!(
            "Refund amount ({amount}) is greater than unrefunded amount on charge ({left}), in {}'s smallest unit.",
            charge.currency
        ))
        .at("amount"));
    }
    let (id, created) = (books.new_id("re_3", 23)?, books.now());
    let transaction = BalanceTransaction::new(
        books.new_id("txn_3", 23)?,
        created,
        BalanceKind::Refund,
        // Stripe keeps the fee of the charge.
        (amount.saturating_neg(), 0),
        &charge.currency,
        &id,
    );
    let behaviour = books.methods.get(&charge.payment_method).map(|method| method.card.behaviour);
    let (status, succeeds) = match behaviour {
        Some(Behaviour::RefundPends) => (RefundStatus::Pending, Some(true)),
        Some(Behaviour::RefundFails) => (RefundStatus::Succeeded, Some(false)),
        _ => (RefundStatus::Succeeded, None),
    };
    let refund = Refund {
        id,
        created,
        charge: charge.id.clone(),
        payment_intent: charge.payment_intent.clone(),
        amount,
        currency: charge.currency.clone(),
        reason,
        balance_transaction: transaction.id.clone(),
        metadata,
        status,
        settles: succeeds.map(|succeeds| Settles { at: created.saturating_add(LATER_SECONDS), succeeds }),
        failure_balance_transaction: None,
    };
    charge.amount_refunded = charge.amount_refunded.saturating_add(amount);
    books.put(Record::Charge(charge.clone()));
    books.put(Record::BalanceTransaction(transaction));
    books.put(Record::Refund(refund.clone()));
    books.emit("refund.created", &render::refund(&refund), None);
    let charge_value = render::charge(books, &charge);
    books.emit("charge.refunded", &charge_value, None);
    Ok(refund)
}

/// A bank's last word: a pending refund succeeds, or a refund that seemed to succeed comes back.
///
/// # Errors
/// When there is no such refund, or its state does not change that way.
pub(in super::super) fn finish(books: &mut Books, id: &str, succeeded: bool) -> Result<Value, Refusal> {
    let mut refund = books.refunds.get(id).cloned().ok_or_else(|| ApiError::missing("refund", id))?;
    let before = refund.status;
    match (before, succeeded) {
        (RefundStatus::Pending, _) | (RefundStatus::Succeeded, false) => {}
        (status, _) => {
            let message = format!("This refund is {}: there is nothing to finish.", status.word());
            return Err(ApiError::state(message));
        }
    }
    refund.settles = None;
    refund.status = if succeeded { RefundStatus::Succeeded } else { RefundStatus::Failed };
    if !succeeded {
        let transaction = BalanceTransaction::new(
            books.new_id("txn_3", 23)?,
            books.now(),
            BalanceKind::RefundFailure,
            (refund.amount, 0),
            &refund.currency,
            &refund.id,
        );
        refund.failure_balance_transaction = Some(transaction.id.clone());
        if let Some(mut charge) = books.charges.get(&refund.charge).cloned() {
            charge.amount_refunded = charge.amount_refunded.saturating_sub(refund.amount);
            books.put(Record::Charge(charge));
        }
        books.put(Record::BalanceTransaction(transaction));
    }
    books.put(Record::Refund(refund.clone()));
    let value = render::refund(&refund);
    books.emit("refund.updated", &value, Some(&json!({ "status": before.word() })));
    if !succeeded {
        books.emit("refund.failed", &value, None);
    }
    Ok(value)
}

/// The paid charge that is to be refunded.
fn charge(books: &mut Books, params: Params<'_>) -> Result<Charge, Refusal> {
    let id = match (params.text("charge")?, params.text("payment_intent")?) {
        (Some(id), None) => id.to_owned(),
        (None, Some(id)) => {
            let intent = books
                .intents
                .get(id)
                .ok_or_else(|| ApiError::missing_param("payment_intent", "payment_intent", id))?;
            intent.latest_charge.clone().ok_or_else(|| super::not_paid(id))?
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(
                "You may only specify one of these parameters: charge, payment_intent.",
            )
            .coded("parameters_exclusive"));
        }
        (None, None) => {
            return Err(ApiError::invalid(
                "One of the following params should be provided for this request: payment_intent or charge.",
            )
            .coded("parameter_missing"));
        }
    };
    super::paid(books, &id)
}

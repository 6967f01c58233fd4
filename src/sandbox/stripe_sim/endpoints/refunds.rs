//! Refunds: never more than was charged.

use serde_json::Value;

use super::super::books::{Books, Record};
use super::super::error::{ApiError, Refusal};
use super::super::expand::Expand;
use super::super::objects::{BalanceTransaction, Charge, ChargeState, Refund};
use super::super::params::Params;
use super::super::render;

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
    let mut charge = charge(books, params)?;
    let left = charge.amount.saturating_sub(charge.amount_refunded);
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
    let transaction = BalanceTransaction {
        id: books.new_id("txn_3", 23)?,
        created: books.now(),
        amount: amount.saturating_neg(),
        // Stripe keeps the fee of the charge.
        fee: 0,
        currency: charge.currency.clone(),
        source: books.new_id("re_3", 23)?,
    };
    let refund = Refund {
        id: transaction.source.clone(),
        created: transaction.created,
        charge: charge.id.clone(),
        payment_intent: charge.payment_intent.clone(),
        amount,
        currency: charge.currency.clone(),
        reason,
        balance_transaction: transaction.id.clone(),
        metadata,
    };
    charge.amount_refunded = charge.amount_refunded.saturating_add(amount);
    let value = render::refund(&refund);
    books.put(Record::Charge(charge));
    books.put(Record::BalanceTransaction(transaction));
    books.put(Record::Refund(refund));
    Ok(expand.apply(books, value))
}

/// The paid charge that is to be refunded.
fn charge(books: &Books, params: Params<'_>) -> Result<Charge, Refusal> {
    let id = match (params.text("charge")?, params.text("payment_intent")?) {
        (Some(id), None) => id,
        (None, Some(id)) => {
            let intent = books
                .intents
                .get(id)
                .ok_or_else(|| ApiError::missing_param("payment_intent", "payment_intent", id))?;
            intent.latest_charge.as_deref().ok_or_else(|| not_paid(id))?
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
    let charge = books.charges.get(id).ok_or_else(|| ApiError::missing_param("charge", "charge", id))?;
    if charge.state == ChargeState::Succeeded {
        Ok(charge.clone())
    } else {
        Err(not_paid(&charge.payment_intent))
    }
}

fn not_paid(intent: &str) -> Refusal {
    ApiError::state(format!("This PaymentIntent ({intent}) does not have a successful charge to refund."))
}

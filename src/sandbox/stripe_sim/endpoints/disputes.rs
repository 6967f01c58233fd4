//! Disputes: a cardholder objects, money is taken, and perhaps given back. Only `/_sim/` and test cards open them.

use serde_json::{Value, json};

use super::super::books::{Books, Record};
use super::super::error::{ApiError, Refusal};
use super::super::objects::{BalanceKind, BalanceTransaction, Dispute, DisputeStatus, Funds};
use super::super::render;

/// Stripe's fee for a dispute, in the smallest unit. It is not given back.
const FEE: i64 = 1_500;
/// How long evidence is taken.
const DUE_SECONDS: i64 = 9 * 24 * 60 * 60;
/// Stripe's reasons for disputes of cards.
const REASONS: [&str; 10] = [
    "credit_not_processed",
    "duplicate",
    "fraudulent",
    "general",
    "noncompliant",
    "product_not_received",
    "product_unacceptable",
    "subscription_canceled",
    "unrecognized",
    "customer_initiated",
];

/// How a dispute begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Opening {
    /// The money is taken at once, as always at Stripe.
    Withdrawn,
    /// The money is taken a moment later, by [`withdraw`].
    Announced,
    /// The bank only asks.
    Inquiry,
}

/// Opens a dispute about `amount` of a charge, or about what is left of it.
pub(in super::super) fn open(
    books: &mut Books,
    charge: &str,
    amount: Option<i64>,
    reason: &str,
    opening: Opening,
) -> Result<Value, Refusal> {
    if !REASONS.contains(&reason) {
        let message = format!("Invalid reason: must be one of {}", REASONS.join(", "));
        return Err(ApiError::parameter("reason", message));
    }
    let mut charge = super::paid(books, charge)?;
    let amount = amount.unwrap_or_else(|| charge.refundable());
    if !(1..=charge.amount).contains(&amount) {
        let message = format!("A dispute is about 1 to {} of this charge.", charge.amount);
        return Err(ApiError::parameter("amount", message));
    }
    let now = books.now();
    let inquiry = opening == Opening::Inquiry;
    let row = Dispute {
        id: books.new_id("dp_1", 23)?,
        created: now,
        charge: charge.id.clone(),
        payment_intent: charge.payment_intent.clone(),
        amount,
        currency: charge.currency.clone(),
        reason: reason.to_owned(),
        status: if inquiry { DisputeStatus::WarningNeedsResponse } else { DisputeStatus::NeedsResponse },
        inquiry,
        due_by: now.saturating_add(DUE_SECONDS),
        balance_transactions: Vec::new(),
        funds: Funds::Untouched,
    };
    charge.disputed = true;
    books.put(Record::Charge(charge));
    let value = keep(books, &row, "charge.dispute.created", None);
    match opening {
        Opening::Withdrawn => withdraw(books, &row.id),
        Opening::Announced | Opening::Inquiry => Ok(value),
    }
}

/// Takes the money. An inquiry becomes a chargeback by it.
pub(in super::super) fn withdraw(books: &mut Books, id: &str) -> Result<Value, Refusal> {
    let mut row = find(books, id)?;
    if row.funds != Funds::Untouched || row.status.is_closed() {
        return Err(ApiError::state("There is nothing to withdraw for this dispute."));
    }
    if row.inquiry {
        row.inquiry = false;
        row.status = DisputeStatus::NeedsResponse;
        let previous = json!({ "status": DisputeStatus::WarningNeedsResponse.word() });
        keep(books, &row, "charge.dispute.updated", Some(&previous));
    }
    move_funds(books, &mut row, Funds::Withdrawn)?;
    Ok(keep(books, &row, "charge.dispute.funds_withdrawn", None))
}

/// Gives the money back; the fee stays with Stripe.
pub(in super::super) fn reinstate(books: &mut Books, id: &str) -> Result<Value, Refusal> {
    let mut row = find(books, id)?;
    if row.funds != Funds::Withdrawn || row.status == DisputeStatus::Lost {
        return Err(ApiError::state("There is nothing to reinstate for this dispute."));
    }
    move_funds(books, &mut row, Funds::Reinstated)?;
    Ok(keep(books, &row, "charge.dispute.funds_reinstated", None))
}

/// Decides. A dispute that is won gives the money back, unless `reinstates` is false: then [`reinstate`] does. A dispute
/// that is lost has taken it.
pub(in super::super) fn close(
    books: &mut Books,
    id: &str,
    status: DisputeStatus,
    reinstates: bool,
) -> Result<Value, Refusal> {
    let row = find(books, id)?;
    if row.status.is_closed() {
        return Err(ApiError::state(format!("This dispute is {} already.", row.status.word())));
    }
    if row.inquiry != (status == DisputeStatus::WarningClosed) {
        return Err(ApiError::state(
            "An inquiry ends as warning_closed, a dispute as won or lost; withdraw makes an inquiry a dispute.",
        ));
    }
    if status == DisputeStatus::Lost && row.funds == Funds::Untouched {
        withdraw(books, id)?;
    }
    let mut row = find(books, id)?;
    if status == DisputeStatus::Lost && row.funds == Funds::Reinstated {
        return Err(ApiError::state("The funds of this dispute were reinstated: it cannot be lost."));
    }
    row.status = status;
    let value = keep(books, &row, "charge.dispute.closed", None);
    if status == DisputeStatus::Won && reinstates && row.funds == Funds::Withdrawn {
        return reinstate(books, id);
    }
    Ok(value)
}

fn find(books: &Books, id: &str) -> Result<Dispute, Refusal> {
    books.disputes.get(id).cloned().ok_or_else(|| ApiError::missing("dispute", id))
}

fn keep(books: &mut Books, row: &Dispute, event: &str, previous: Option<&Value>) -> Value {
    books.put(Record::Dispute(Box::new(row.clone())));
    let value = render::dispute(books, row);
    books.emit(event, &value, previous);
    value
}

fn move_funds(books: &mut Books, row: &mut Dispute, to: Funds) -> Result<(), Refusal> {
    let (kind, amount, fee) = match to {
        Funds::Withdrawn => (BalanceKind::Dispute, row.amount.saturating_neg(), FEE),
        _ => (BalanceKind::DisputeReversal, row.amount, 0),
    };
    let id = books.new_id("txn_1", 23)?;
    let transaction =
        BalanceTransaction::new(id.clone(), books.now(), kind, (amount, fee), &row.currency, &row.id);
    books.put(Record::BalanceTransaction(transaction));
    if let Some(mut charge) = books.charges.get(&row.charge).cloned() {
        charge.amount_withdrawn = charge.amount_withdrawn.saturating_sub(amount);
        books.put(Record::Charge(charge));
    }
    row.balance_transactions.push(id);
    row.funds = to;
    Ok(())
}

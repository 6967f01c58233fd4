//! Early fraud warnings: an issuer says that a charge may be fraud, before its cardholder disputes it.

use serde_json::Value;

use super::super::books::{Books, Record};
use super::super::error::{ApiError, Refusal};
use super::super::objects::FraudWarning;
use super::super::render;

/// Stripe's `fraud_type`s.
pub(in super::super) const TYPES: [&str; 7] = [
    "card_never_received",
    "fraudulent_card_application",
    "made_with_counterfeit_card",
    "made_with_lost_card",
    "made_with_stolen_card",
    "misc",
    "unauthorized_use_of_card",
];

/// Warns of a charge.
pub(in super::super) fn warn(books: &mut Books, charge: &str, kind: &str) -> Result<Value, Refusal> {
    if !TYPES.contains(&kind) {
        let message = format!("Invalid fraud_type: must be one of {}", TYPES.join(", "));
        return Err(ApiError::parameter("fraud_type", message));
    }
    let charge = super::paid(books, charge)?;
    let row = FraudWarning {
        id: books.new_id("issfr_1", 23)?,
        created: books.now(),
        charge: charge.id,
        payment_intent: charge.payment_intent,
        fraud_type: kind.to_owned(),
    };
    books.put(Record::FraudWarning(row.clone()));
    let value = render::fraud_warning(books, &row);
    books.emit("radar.early_fraud_warning.created", &value, None);
    Ok(value)
}

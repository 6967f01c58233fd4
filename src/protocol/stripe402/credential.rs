//! The strict decoder of the `payment` header: what two readers could understand differently is refused.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{DIALECT, VERSION};
use crate::domain::{ClientKey, PaymentMethodId, Units};
use crate::protocol::card_number::{hides_card_number, is_card_number};
use crate::protocol::credential::{Credential, Instrument};
use crate::protocol::strict_json::{self, Limits, StrictJsonError, Value};

/// Most bytes of a `payment` header, checked before anything is decoded.
pub const MAX_PAYMENT_BYTES: usize = 8 * 1024;

/// Several `payment` headers are refused; so many of them are searched for card numbers.
const MAX_LOOKED_AT: usize = 4;

/// Why a `payment` header is refused, in sentences for agents. Never repeats what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// More than [`MAX_PAYMENT_BYTES`].
    #[error("The payment header is longer than 8192 bytes.")]
    TooLong,
    /// Not standard base64 with padding, or not canonical.
    #[error("The payment header is not standard base64 with padding (RFC 4648, section 4).")]
    NotBase64,
    /// Not a JSON value that every reader understands the same way.
    #[error("The decoded payment header {0}.")]
    NotJson(StrictJsonError),
    /// JSON, but not an object.
    #[error("The decoded payment header is not a JSON object.")]
    NotObject,
    /// `stripe402Version` is absent.
    #[error("The payment header has no stripe402Version; set it to 1.")]
    MissingVersion,
    /// `stripe402Version` is not the integer 1.
    #[error("The stripe402Version of the payment header is not supported; set it to the number 1.")]
    WrongVersion,
    /// A member has another JSON type than the protocol says.
    #[error("The member {field} of the payment header has the wrong JSON type.")]
    WrongType {
        /// Name of the member, from the protocol.
        field: &'static str,
    },
    /// Neither a card nor a wallet.
    #[error("The payment header names neither a paymentMethodId nor a clientId; send at least one of them.")]
    Missing,
    /// Not Stripe's form of an id.
    #[error(
        "The paymentMethodId is not a Stripe PaymentMethod id (pm_...); create one with Stripe and the publishableKey."
    )]
    InvalidPaymentMethod,
    /// Empty, too long, or with characters that no key has.
    #[error("The clientId is not a client key; send the clientId of an earlier payment-response unchanged.")]
    InvalidClientId,
    /// Out of range.
    #[error("The {field} is out of range; it counts units of 1/10000 of the currency.")]
    InvalidAmount {
        /// Name of the member, from the protocol.
        field: &'static str,
    },
    /// A card number was sent; it was neither stored nor logged.
    #[error(
        "The payment header contains a card number. Never send one here: create a PaymentMethod with Stripe and send its id."
    )]
    RawCardData,
    /// Two headers, or several values joined by commas.
    #[error("Send exactly one payment header with one value.")]
    NotExactlyOne,
}

/// The one `payment` header of a request, or `None` when there is none.
///
/// # Errors
/// [`PayloadError::NotExactlyOne`] for a second header or a comma: two readers could pick different ones;
/// [`PayloadError::RawCardData`] if one of these holds a card number.
pub fn single_payment_header<'a>(
    mut values: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<&'a [u8]>, PayloadError> {
    let first = values.next();
    let second = values.next();
    if second.is_some() || first.is_some_and(|value| value.contains(&b',')) {
        // Whoever sends a card number must learn that, whatever else is wrong.
        let all = first.into_iter().chain(second).chain(values).take(MAX_LOOKED_AT);
        return Err(all.fold(PayloadError::NotExactlyOne, |error, value| card_or(value, error)));
    }
    Ok(first)
}

/// Decodes a `payment` header. Unknown members are ignored; everything else is checked.
///
/// # Errors
/// [`PayloadError`] names the first rule that the header breaks.
pub fn decode_payment(header: &[u8]) -> Result<Credential, PayloadError> {
    if header.len() > MAX_PAYMENT_BYTES {
        return Err(PayloadError::TooLong);
    }
    let json = STANDARD.decode(header).map_err(|_| card_or(header, PayloadError::NotBase64))?;
    let value = strict_json::parse(&json, Limits::bytes(MAX_PAYMENT_BYTES)).map_err(|reason| {
        // Sixteen digits are valid base64, so both forms are looked at.
        card_or(header, card_or(&json, PayloadError::NotJson(reason)))
    })?;
    let mut has_card = false;
    value.for_each_text(&mut |text| has_card |= hides_card_number(text));
    if has_card {
        return Err(PayloadError::RawCardData);
    }
    let Value::Object(members) = value else {
        return Err(PayloadError::NotObject);
    };
    credential(&members)
}

/// `otherwise`, unless the bytes contain a card number: then the sender must learn that, whatever else is wrong.
fn card_or(bytes: &[u8], otherwise: PayloadError) -> PayloadError {
    if hides_card_number(&String::from_utf8_lossy(bytes)) { PayloadError::RawCardData } else { otherwise }
}

fn credential(members: &BTreeMap<String, Value>) -> Result<Credential, PayloadError> {
    // Whoever sends a card number must learn that, whatever else is wrong.
    let sends_card =
        |field: &str| matches!(members.get(field), Some(Value::String(text)) if is_card_number(text));
    if sends_card("paymentMethodId") || sends_card("clientId") {
        return Err(PayloadError::RawCardData);
    }
    match members.get("stripe402Version") {
        None => return Err(PayloadError::MissingVersion),
        Some(Value::Integer(version)) if *version == i64::from(VERSION) => {}
        Some(_) => return Err(PayloadError::WrongVersion),
    }
    let payment_method = id(members, "paymentMethodId")?
        .map(|text| PaymentMethodId::parse(text).ok_or(PayloadError::InvalidPaymentMethod))
        .transpose()?;
    let client_key = id(members, "clientId")?
        .map(|text| ClientKey::parse(text).ok_or(PayloadError::InvalidClientId))
        .transpose()?;
    let top_up_amount = units(members, "topUpAmount", 1)?;
    let max_amount = units(members, "maxAmount", 0)?;
    if payment_method.is_none() && client_key.is_none() {
        return Err(PayloadError::Missing);
    }
    let new_wallet = flag(members, "newWallet")?;
    Ok(Credential {
        dialect: &DIALECT,
        client_key,
        instrument: payment_method.map(Instrument::Card),
        top_up_amount: top_up_amount.map(Units::to_micros),
        max_amount: max_amount.map(Units::to_micros),
        new_wallet,
        binding: None,
        left_out_unknown_client: false,
    })
}

/// A text member; `null` is what some serialisers write for an absent one.
fn id<'a>(
    members: &'a BTreeMap<String, Value>,
    field: &'static str,
) -> Result<Option<&'a str>, PayloadError> {
    match members.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(PayloadError::WrongType { field }),
    }
}

/// A flag; absent or `null` is `false`.
fn flag(members: &BTreeMap<String, Value>, field: &'static str) -> Result<bool, PayloadError> {
    match members.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(is_set)) => Ok(*is_set),
        Some(_) => Err(PayloadError::WrongType { field }),
    }
}

/// An amount; `null` is refused, because it could mean "nothing" as well as "the default".
fn units(
    members: &BTreeMap<String, Value>,
    field: &'static str,
    at_least: i64,
) -> Result<Option<Units>, PayloadError> {
    match members.get(field) {
        None => Ok(None),
        Some(Value::Integer(amount)) if *amount >= at_least => {
            Units::new(*amount).map(Some).ok_or(PayloadError::InvalidAmount { field })
        }
        Some(Value::Integer(_)) => Err(PayloadError::InvalidAmount { field }),
        Some(_) => Err(PayloadError::WrongType { field }),
    }
}

#[cfg(test)]
mod tests;

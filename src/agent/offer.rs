//! What a server offers in a 402: decoded from the header, checked, and free of anything an attacker could put there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::domain::{Currency, Units};
use crate::protocol::stripe402::{PaymentRequired, PaymentResponse, Requirement, TopUpOption, VERSION};

/// The longest payment header that is decoded, in bytes.
const MAX_HEADER: usize = 64 * 1024;
/// The longest text from a server that is shown to people, in characters.
const MAX_SHOWN: usize = 400;
/// The most packs an offer may list.
const MAX_PACKS: usize = 64;

/// A checked offer: amounts are in range, the key is publishable, the currency is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Price of this request, rounded up to a unit.
    pub price: Units,
    /// The smallest charge that lets this request through.
    pub min_top_up: Units,
    /// What the amounts are in.
    pub currency: Currency,
    /// Tokenises cards at Stripe.
    pub publishable_key: PublishableKey,
    /// The stable code of the answer; empty when the server gave none.
    pub code: String,
    /// A sentence from the server, safe to print.
    pub message: String,
    /// Whether the server is known to refuse a price above `maxAmount`, so that asking for the price first is not needed.
    pub honours_max_amount: bool,
}

/// Why an offer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Not base64 of the JSON that the protocol defines.
    #[error("the payment-required header cannot be decoded")]
    Undecodable,
    /// Another protocol version.
    #[error("the server speaks version {0} of the payment protocol; this program speaks version 1")]
    Version(u32),
    /// No way to pay that we know.
    #[error("the server offers no payment by card through Stripe")]
    NoStripe,
    /// Not in our table.
    #[error("the server asks for the currency {0:?}, which is not supported here")]
    Currency(String),
    /// The field is negative, too large, or contradicts another.
    #[error("the server's offer makes no sense: {0}")]
    Amount(&'static str),
    /// The key could be a secret one, or no key at all.
    #[error(
        "the server's offer does not hold a Stripe publishable key (pk_test_… or pk_live_…); it was not used"
    )]
    NotPublishable,
}

/// A Stripe publishable key: `pk_test_…` or `pk_live_…`. Public by design.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishableKey(String);

impl PublishableKey {
    /// Accepts only publishable keys, so that a secret key that a seller published by mistake is never used.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("pk_test_").or_else(|| text.strip_prefix("pk_live_"))?;
        let plausible = !rest.is_empty()
            && text.len() <= 255
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        plausible.then(|| Self(text.to_owned()))
    }

    /// Whether no real money can move with it.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.0.starts_with("pk_test_")
    }

    /// For the `Authorization` header at Stripe.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Offer {
    /// Decodes and checks the value of a `payment-required` header.
    ///
    /// # Errors
    /// [`OfferError`] says what is wrong with it.
    pub fn from_header(value: &[u8]) -> Result<Self, OfferError> {
        let wire: PaymentRequired = decode(value).ok_or(OfferError::Undecodable)?;
        if wire.stripe402_version != VERSION {
            return Err(OfferError::Version(wire.stripe402_version));
        }
        let requirement = wire.accepts.iter().find(|r| r.scheme == "stripe").ok_or(OfferError::NoStripe)?;
        check(requirement, &wire.top_up_options)?;
        let currency =
            requirement.currency.parse().map_err(|_| OfferError::Currency(shown(&requirement.currency)))?;
        let code = if wire.code.is_empty() { wire.error.unwrap_or_default() } else { wire.code };
        // Only servers with the additive fields know `maxAmount`; the public protocol has neither.
        let honours_max_amount = !wire.request_id.is_empty() && !wire.top_up_options.is_empty();
        Ok(Self {
            price: units(requirement.amount, "the price is out of range")?,
            min_top_up: units(requirement.min_top_up, "the smallest top-up is out of range")?,
            currency,
            publishable_key: PublishableKey::parse(&requirement.publishable_key)
                .ok_or(OfferError::NotPublishable)?,
            code: shown(&code),
            message: shown(&wire.message),
            honours_max_amount,
        })
    }
}

/// Decodes a `payment-response` header. `None` when it is not one: a paid answer is then treated as one without receipt.
#[must_use]
pub fn receipt_from_header(value: &[u8]) -> Option<PaymentResponse> {
    decode(value)
}

fn decode<T: serde::de::DeserializeOwned>(value: &[u8]) -> Option<T> {
    if value.len() > MAX_HEADER {
        return None;
    }
    let json = STANDARD.decode(value).ok()?;
    serde_json::from_slice(&json).ok()
}

fn units(amount: i64, wrong: &'static str) -> Result<Units, OfferError> {
    Units::new(amount).ok_or(OfferError::Amount(wrong))
}

fn check(requirement: &Requirement, packs: &[TopUpOption]) -> Result<(), OfferError> {
    if requirement.min_top_up <= 0 {
        return Err(OfferError::Amount("the smallest top-up is not above zero"));
    }
    if packs.len() > MAX_PACKS {
        return Err(OfferError::Amount("it lists too many packs"));
    }
    for pack in packs {
        units(pack.amount, "a pack's amount is out of range")?;
        units(pack.credits, "a pack's credits are out of range")?;
        if pack.amount < requirement.min_top_up {
            return Err(OfferError::Amount("a pack is smaller than the smallest top-up"));
        }
    }
    Ok(())
}

/// A server's text made safe for a terminal: control characters become spaces, what could be a credential is cut, and the
/// length is bounded.
#[must_use]
pub fn shown(text: &str) -> String {
    let plain: String = text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<String> = plain.split_whitespace().map(cut_credential).collect();
    words.join(" ")
}

/// Keys and payment methods keep a short prefix only, wherever in a word they stand.
fn cut_credential(word: &str) -> String {
    for mark in ["pck_", "pm_", "sk_live_", "sk_test_"] {
        if let Some((before, secret)) = word.split_once(mark)
            && secret.len() > 8
        {
            let kept: String = secret.chars().take(4).collect();
            return format!("{before}{mark}{kept}…");
        }
    }
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{header_of, offer_json};

    #[test]
    fn a_good_offer_is_read() {
        let offer = Offer::from_header(&header_of(&offer_json())).expect("valid");
        assert_eq!((offer.price.get(), offer.min_top_up.get()), (500, 50_000));
        assert_eq!(offer.currency, Currency::USD);
        assert!(offer.honours_max_amount);
        assert!(offer.publishable_key.is_test());
    }

    #[test]
    fn the_public_protocols_own_offer_is_read() {
        let json = serde_json::json!({
            "stripe402Version": 1, "resource": {"url": "/x"}, "error": "insufficient_credits",
            "accepts": [{"scheme": "stripe", "currency": "usd", "amount": 1, "minTopUp": 5000, "publishableKey": "pk_live_a"}]
        });
        let offer = Offer::from_header(&header_of(&json)).expect("valid");
        assert_eq!(offer.code, "insufficient_credits");
        assert!(!offer.honours_max_amount);
    }

    #[test]
    fn nonsense_is_refused() {
        let cases: [(&str, serde_json::Value, OfferError); 10] = [
            ("/stripe402Version", 2.into(), OfferError::Version(2)),
            ("/accepts/0/scheme", "paypal".into(), OfferError::NoStripe),
            ("/accepts/0/currency", "zzz".into(), OfferError::Currency("zzz".to_owned())),
            ("/accepts/0/amount", (-1).into(), OfferError::Amount("the price is out of range")),
            ("/accepts/0/amount", i64::MAX.into(), OfferError::Amount("the price is out of range")),
            ("/accepts/0/minTopUp", 0.into(), OfferError::Amount("the smallest top-up is not above zero")),
            (
                "/topUpOptions/0/amount",
                49_999.into(),
                OfferError::Amount("a pack is smaller than the smallest top-up"),
            ),
            ("/accepts/0/publishableKey", "sk_test_1".into(), OfferError::NotPublishable),
            ("/accepts/0/publishableKey", "pk_test_".into(), OfferError::NotPublishable),
            ("/accepts/0/amount", serde_json::json!(1.5), OfferError::Undecodable),
        ];
        for (pointer, value, expected) in cases {
            let mut json = offer_json();
            *json.pointer_mut(pointer).expect("field") = value.clone();
            assert_eq!(Offer::from_header(&header_of(&json)), Err(expected), "{pointer} {value}");
        }
        assert_eq!(Offer::from_header(b"not base64!"), Err(OfferError::Undecodable));
        assert_eq!(Offer::from_header(&vec![b'A'; MAX_HEADER + 1]), Err(OfferError::Undecodable));
    }

    #[test]
    fn shown_text_has_no_escapes_and_no_credentials() {
        assert_eq!(shown("a\u{1b}[31mred\r\nb"), "a [31mred b");
        let cut = shown("your clientId=pck_AbCdEfGhIjKlMnOp is wrong");
        assert_eq!(cut, "your clientId=pck_AbCd… is wrong");
        assert_eq!(shown(&"x".repeat(9_999)).len(), MAX_SHOWN);
    }
}

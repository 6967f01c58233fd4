//! The header encoding: standard base64, with padding, of compact JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{PaymentRequired, PaymentResponse};

/// Most bytes of a header that the paying side decodes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A header value: standard base64 of compact JSON.
///
/// # Panics
/// When the value cannot be JSON, such as a map whose keys are not texts. The wire types of this module always can.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> String {
    STANDARD.encode(serde_json::to_vec(value).expect("wire types are representable as JSON"))
}

/// What a server offers, for the paying side. `None` for more than 64 KiB, or what is not base64 of that shape.
#[must_use]
pub fn decode_payment_required(header: &[u8]) -> Option<PaymentRequired> {
    decode(header)
}

/// What became of a payment, for the paying side. `None` for more than 64 KiB, or what is not base64 of that shape.
#[must_use]
pub fn decode_payment_response(header: &[u8]) -> Option<PaymentResponse> {
    decode(header)
}

fn decode<T: DeserializeOwned>(header: &[u8]) -> Option<T> {
    if header.len() > MAX_ANSWER_BYTES {
        return None;
    }
    let json = STANDARD.decode(header).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::stripe402::{Requirement, Resource, Standing};

    fn offer(amount: i64, url: String) -> PaymentRequired {
        PaymentRequired {
            stripe402_version: 1,
            x402_version: 2,
            resource: Resource { url, description: None, mime_type: None },
            accepts: vec![Requirement {
                scheme: "stripe".into(),
                network: "stripe:usd".into(),
                currency: "usd".into(),
                amount,
                min_top_up: 50_000,
                publishable_key: "pk_test_1".into(),
                description: None,
                price: None,
                max_top_up: None,
            }],
            error: None,
            top_up_options: Vec::new(),
            message: String::new(),
            code: String::new(),
            retryable: true,
            who_acts: "agent".into(),
            request_id: String::new(),
            balance: None,
            standing: Standing::default(),
            saved_card: String::new(),
        }
    }

    #[test]
    fn the_reference_servers_headers_are_understood() {
        let json = r#"{"stripe402Version":1,"resource":{"url":"/api/joke"},"accepts":[{"scheme":"stripe","currency":"usd","amount":500,"minTopUp":50000,"publishableKey":"pk_test_1"}]}"#;
        let required = decode_payment_required(STANDARD.encode(json).as_bytes()).expect("valid");
        assert_eq!((required.accepts[0].amount, required.error), (500, None));
        let json = r#"{"success":true,"chargeId":"pi_1","creditsRemaining":49500,"clientId":"abc"}"#;
        let response = decode_payment_response(STANDARD.encode(json).as_bytes()).expect("valid");
        assert_eq!((response.credits_remaining, response.client_id.as_str()), (Some(49_500), "abc"));
    }

    #[test]
    fn what_is_not_an_answer_is_none() {
        let too_long = encode(&offer(1, "/".repeat(MAX_ANSWER_BYTES)));
        for header in ["", "e30", "e30=", "bnVsbA==", "!", too_long.as_str()] {
            assert_eq!(decode_payment_required(header.as_bytes()), None);
            assert_eq!(decode_payment_response(header.as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn answers_are_read_back(amount in any::<i64>(), url in any::<String>(), success in any::<bool>()) {
            let required = offer(amount, url.clone());
            prop_assert_eq!(decode_payment_required(encode(&required).as_bytes()), Some(required));
            let response = PaymentResponse { success, credits_remaining: Some(amount), client_id: url, ..Default::default() };
            prop_assert_eq!(decode_payment_response(encode(&response).as_bytes()), Some(response));
        }
    }
}

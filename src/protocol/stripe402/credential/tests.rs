use proptest::prelude::*;

use super::PayloadError as E;
use super::*;
use crate::protocol::stripe402::{PaymentPayload, PaymentResponse, encode};

fn decode(json: &str) -> Result<Credential, PayloadError> {
    decode_payment(STANDARD.encode(json).as_bytes())
}

#[test]
fn the_forms_of_a_payment_are_accepted() {
    let cases = [
        (r#"{"stripe402Version":1,"clientId":"abc"}"#, None, Some("abc"), None, None),
        (r#"{"stripe402Version":1,"paymentMethodId":"pm_1"}"#, Some("pm_1"), None, None, None),
        (
            r#"{"stripe402Version":1,"paymentMethodId":"pm_1","clientId":null}"#,
            Some("pm_1"),
            None,
            None,
            None,
        ),
        (
            r#" {"x":[{"y":null}],"stripe402Version":1,"clientId":"k","paymentMethodId":"pm_1","topUpAmount":1,"maxAmount":0} "#,
            Some("pm_1"),
            Some("k"),
            Some(1),
            Some(0),
        ),
    ];
    for (json, method, key, top_up, max) in cases {
        let credential = decode(json).expect(json);
        assert_eq!(credential.card().map(PaymentMethodId::expose), method, "{json}");
        assert_eq!(credential.client_key.as_ref().map(ClientKey::expose), key, "{json}");
        assert_eq!(credential.top_up_amount, top_up.and_then(Units::new).map(Units::to_micros), "{json}");
        assert_eq!(credential.max_amount, max.and_then(Units::new).map(Units::to_micros), "{json}");
    }
}

#[test]
fn every_rule_is_enforced() {
    let cases = [
        ("", E::NotJson(StrictJsonError::Syntax)),
        ("{", E::NotJson(StrictJsonError::Syntax)),
        ("{}{}", E::NotJson(StrictJsonError::TrailingBytes)),
        (
            r#"{"stripe402Version":1,"clientId":"a","clientId":"b"}"#,
            E::NotJson(StrictJsonError::DuplicateKey),
        ),
        (
            r#"{"stripe402Version":1,"clientId":"a","topUpAmount":1.5}"#,
            E::NotJson(StrictJsonError::NotInteger),
        ),
        (
            r#"{"stripe402Version":1,"clientId":"a","topUpAmount":1e5}"#,
            E::NotJson(StrictJsonError::NotInteger),
        ),
        ("null", E::NotObject),
        ("[]", E::NotObject),
        ("1", E::NotObject),
        (r#"{"clientId":"a"}"#, E::MissingVersion),
        (r#"{"stripe402Version":2,"clientId":"a"}"#, E::WrongVersion),
        (r#"{"stripe402Version":"1","clientId":"a"}"#, E::WrongVersion),
        (r#"{"stripe402Version":null,"clientId":"a"}"#, E::WrongVersion),
        (r#"{"stripe402Version":1}"#, E::Missing),
        (r#"{"stripe402Version":1,"clientId":null,"paymentMethodId":null}"#, E::Missing),
        (r#"{"stripe402Version":1,"topUpAmount":5}"#, E::Missing),
        (r#"{"stripe402Version":1,"clientId":1}"#, E::WrongType { field: "clientId" }),
        (r#"{"stripe402Version":1,"paymentMethodId":["pm_1"]}"#, E::WrongType { field: "paymentMethodId" }),
        (
            r#"{"stripe402Version":1,"clientId":"a","topUpAmount":null}"#,
            E::WrongType { field: "topUpAmount" },
        ),
        (r#"{"stripe402Version":1,"clientId":"a","topUpAmount":"5"}"#, E::WrongType { field: "topUpAmount" }),
        (r#"{"stripe402Version":1,"clientId":"a","maxAmount":true}"#, E::WrongType { field: "maxAmount" }),
        (
            r#"{"stripe402Version":1,"clientId":"a","topUpAmount":0}"#,
            E::InvalidAmount { field: "topUpAmount" },
        ),
        (
            r#"{"stripe402Version":1,"clientId":"a","topUpAmount":-1}"#,
            E::InvalidAmount { field: "topUpAmount" },
        ),
        (
            r#"{"stripe402Version":1,"clientId":"a","topUpAmount":9223372036854775807}"#,
            E::InvalidAmount { field: "topUpAmount" },
        ),
        (r#"{"stripe402Version":1,"clientId":"a","maxAmount":-1}"#, E::InvalidAmount { field: "maxAmount" }),
        (r#"{"stripe402Version":1,"clientId":""}"#, E::InvalidClientId),
        (r#"{"stripe402Version":1,"clientId":"a b"}"#, E::InvalidClientId),
        (r#"{"stripe402Version":1,"clientId":"a","paymentMethodId":""}"#, E::InvalidPaymentMethod),
        (r#"{"stripe402Version":1,"paymentMethodId":"pi_1"}"#, E::InvalidPaymentMethod),
        (r#"{"stripe402Version":1,"paymentMethodId":"4242424242424242"}"#, E::RawCardData),
        (r#"{"stripe402Version":1,"paymentMethodId":"pm_4242 4242 4242 4242"}"#, E::RawCardData),
        (r#"{"stripe402Version":1,"paymentMethodId":"pm_4242424242424242"}"#, E::RawCardData),
        (r#"{"stripe402Version":1,"clientId":"a","card":{"n":"4242-4242-4242-4242"}}"#, E::RawCardData),
        (r#"{"stripe402Version":1,"clientId":"a","card":[4242424242424242]}"#, E::RawCardData),
        (r#"{"4242424242424242":1}"#, E::RawCardData),
        (r#"{"paymentMethodId":"4242424242424242"}"#, E::RawCardData),
        (r#"{"paymentMethodId":"4242.4242.4242.4242"}"#, E::RawCardData),
        (r#"{"stripe402Version":2,"clientId":"4242.4242.4242.4242"}"#, E::RawCardData),
        (r#"{"stripe402Version":1,"paymentMethodId":7,"clientId":"4242.4242.4242.4242"}"#, E::RawCardData),
        ("card 4242424242424242", E::RawCardData),
    ];
    for (json, expected) in cases {
        assert_eq!(decode(json), Err(expected), "{json}");
    }
}

#[test]
fn only_one_spelling_of_base64_is_read() {
    let good = encode(&serde_json::json!({"stripe402Version": 1, "clientId": "a"}));
    assert!(decode_payment(good.as_bytes()).is_ok());
    let spellings = [
        format!(" {good}"),
        format!("{good}\n"),
        good.trim_end_matches('=').to_owned(),
        format!("{good}="),
        format!("{good}AAAA"),
        "e30".to_owned(),
        // `{}` with a trailing bit set.
        "e31=".to_owned(),
        "_-_-".to_owned(),
        "!!!!".to_owned(),
    ];
    for header in spellings.iter().filter(|header| **header != good) {
        assert_eq!(decode_payment(header.as_bytes()), Err(E::NotBase64), "{header:?}");
    }
    assert_eq!(decode_payment(b"4242424242424242"), Err(E::RawCardData));
    assert_eq!(decode_payment(b"4242 4242 4242 4242"), Err(E::RawCardData));
    assert_eq!(decode_payment(b"\xff"), Err(E::NotBase64));
}

#[test]
fn the_length_is_checked_before_decoding() {
    assert_eq!(decode_payment(&[b'!'; MAX_PAYMENT_BYTES + 1]), Err(E::TooLong));
    assert_eq!(decode_payment(&[b'!'; MAX_PAYMENT_BYTES]), Err(E::NotBase64));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
    assert_eq!(decode(&deep), Err(E::NotJson(StrictJsonError::TooDeep)));
}

#[test]
fn exactly_one_header_with_one_value() {
    let one = |values: &[&'static str]| {
        single_payment_header(values.iter().map(|v| v.as_bytes())).map(|found| found.map(<[u8]>::to_vec))
    };
    assert_eq!(one(&[]), Ok(None));
    assert_eq!(one(&["e30="]), Ok(Some(b"e30=".to_vec())));
    assert_eq!(one(&[""]), Ok(Some(Vec::new())));
    for values in [&["a", "a"][..], &["a", ""], &["a,b"], &["a,"], &[","]] {
        assert_eq!(one(values), Err(E::NotExactlyOne), "{values:?}");
    }
}

#[test]
fn messages_are_sentences() {
    let errors = [
        E::TooLong,
        E::NotBase64,
        E::NotJson(StrictJsonError::DuplicateKey),
        E::NotObject,
        E::MissingVersion,
        E::WrongVersion,
        E::WrongType { field: "clientId" },
        E::Missing,
        E::InvalidPaymentMethod,
        E::InvalidClientId,
        E::InvalidAmount { field: "maxAmount" },
        E::RawCardData,
        E::NotExactlyOne,
    ];
    for error in errors {
        let message = error.to_string();
        assert!(message.starts_with(char::is_uppercase) && message.ends_with('.'), "{message}");
    }
}

#[test]
fn secrets_do_not_show_in_debug() {
    let response = PaymentResponse { client_id: "pck_hidden".to_owned(), ..PaymentResponse::default() };
    let payload = PaymentPayload {
        stripe402_version: 1,
        payment_method_id: Some("pm_hidden".to_owned()),
        client_id: Some("pck_hidden".to_owned()),
        top_up_amount: Some(7),
        max_amount: None,
        new_wallet: None,
    };
    let credential = decode_payment(encode(&payload).as_bytes()).expect("valid");
    let shown = format!("{response:?}{payload:?}{credential:?}");
    assert!(!shown.contains("hidden") && shown.contains("Some(7)"), "{shown}");
}

proptest! {
    #[test]
    fn what_clients_encode_is_decoded(
        method in proptest::option::of("pm_[a-zA-Z]{1,24}"),
        key in "pck_[a-zA-Z]{43}",
        top_up in proptest::option::of(1_i64..1_000_000_000),
        max in proptest::option::of(0_i64..1_000_000_000),
    ) {
        let payload = PaymentPayload {
            stripe402_version: 1,
            payment_method_id: method.clone(),
            client_id: Some(key.clone()),
            top_up_amount: top_up,
            max_amount: max,
            new_wallet: None,
        };
        let credential = decode_payment(encode(&payload).as_bytes()).expect("valid");
        prop_assert_eq!(credential.card().map(|m| m.expose().to_owned()), method);
        prop_assert_eq!(credential.client_key.map(|k| k.expose().to_owned()), Some(key));
        prop_assert_eq!(credential.top_up_amount, top_up.and_then(Units::new).map(Units::to_micros));
        prop_assert_eq!(credential.max_amount, max.and_then(Units::new).map(Units::to_micros));
    }

    #[test]
    fn one_decoder_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let _ = decode_payment(&bytes);
        // Another spelling never decodes to the same payment by accident: base64 is canonical.
        let good = encode(&serde_json::json!({"stripe402Version": 1, "clientId": "abcd"}));
        let mut other = good.clone().into_bytes();
        let at = at.index(other.len());
        other[at] = with;
        if other != good.as_bytes() && STANDARD.decode(&other).is_ok() {
            prop_assert!(STANDARD.decode(&other) != STANDARD.decode(&good));
        }
    }
}

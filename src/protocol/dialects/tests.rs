#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;
use crate::domain::{ClientKey, Currency, KeyId, Micros};
use crate::pricing::{Listing, PriceRule, Quote, StatusSet};
use crate::program_text;
use crate::protocol::toys::TOY;
use crate::protocol::{Filling, Piece, Seal, Template, TopUp, Verifying, Written};

static BOTH: Dialects = Dialects::new(&[&stripe402::DIALECT, &TOY], &[&unspoken::X402, &unspoken::MPP]);
const NOW: i64 = 1_800_000_000;

fn seal_keys() -> SealKeys {
    SealKeys::new([7; 32], Vec::new())
}

fn quote(name: &str, price: i64) -> Quote {
    let (currency, price): (Currency, _) = ("usd".parse().unwrap(), Micros::new(price).unwrap());
    let charged = Arc::new(StatusSet::default_charged());
    Arc::new(Listing::new(name.to_owned(), PriceRule::Fixed(price), currency, charged)).list_quote()
}

fn offer(quote: &Quote) -> Offer {
    let (least, most) = (Micros::new(5_000_000).unwrap(), Micros::new(50_000_000).unwrap());
    Offer {
        description: Some("Weather".to_owned()),
        mime_type: None,
        currency: quote.currency(),
        price: quote.most(),
        quote: Some(quote.digest()),
        publishable_key: "pk_test_a".to_owned(),
        top_up: Some(TopUp { least, most, packs: Vec::new() }),
        balance: None,
        standing: None,
    }
}

fn refusal(payable: bool) -> Refusal {
    Refusal {
        code: "payment_required",
        message: "This request costs money.".to_owned(),
        retryable: false,
        who_acts: "agent",
        payable,
        is_first: true,
    }
}

fn written(dialects: &Dialects, quote: &Quote, payable: bool, now: i64) -> Written {
    let challenge = dialects.challenge(&offer(quote), &refusal(payable), &seal_keys());
    challenge.filled(&Filling::new("https://api.example/weather", "r1", now))
}

fn header<'a>(written: &'a Written, name: &str) -> Vec<&'a str> {
    written.headers.iter().filter(|(other, _)| *other == name).map(|(_, value)| value.as_str()).collect()
}

fn key() -> ClientKey {
    ClientKey::derive(&[3; 32], KeyId::new())
}

fn read(headers: &[(&str, &str)], meta: Option<&Value>) -> Result<Option<Credential>, NotRead> {
    BOTH.read(
        |name| {
            let of_name: Vec<&[u8]> = headers
                .iter()
                .filter(|(other, _)| *other == name)
                .map(|(_, value)| value.as_bytes())
                .collect();
            of_name.into_iter()
        },
        meta,
    )
}

fn stripe402_header(key: &ClientKey) -> String {
    STANDARD.encode(json!({ "stripe402Version": 1, "clientId": key.expose() }).to_string())
}

/// A challenge of the toy's, answered.
fn answered(quote: &Quote, now: i64, key: &ClientKey) -> String {
    let written = written(&BOTH, quote, true, now);
    format!("{}, wallet={}", header(&written, "www-authenticate")[0], key.expose())
}

#[test]
fn one_402_speaks_every_protocol_and_two_share_a_header() {
    let quote = quote("GET /weather", 500);
    let both = written(&BOTH, &quote, true, NOW);
    let envelope: Value = serde_json::from_str(&both.body).unwrap();
    let schemes: Vec<&str> =
        envelope["accepts"].as_array().unwrap().iter().map(|way| way["scheme"].as_str().unwrap()).collect();
    assert_eq!(schemes, ["stripe", "toy"]);
    let decoded = STANDARD.decode(header(&both, "payment-required")[0]).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&decoded).unwrap(), envelope);
    assert_eq!(header(&both, "www-authenticate").len(), 1);
    // Without the other, not a byte differs but its own.
    let alone = written(&SPOKEN, &quote, true, NOW);
    assert!(header(&alone, "www-authenticate").is_empty());
    let own = r#",{"amount":"500","scheme":"toy"}"#;
    assert!(both.body.contains(own), "{}", both.body);
    assert_eq!(both.body.replace(own, ""), alone.body);
}

#[test]
fn whoever_may_have_paid_is_asked_by_no_protocol() {
    let written = written(&BOTH, &quote("GET /weather", 500), false, NOW);
    let envelope: Value = serde_json::from_str(&written.body).unwrap();
    assert_eq!((&envelope["accepts"], &envelope["topUpOptions"]), (&json!([]), &json!([])));
    assert!(header(&written, "www-authenticate").is_empty());
}

#[test]
fn a_prepared_challenge_is_another_one_each_time() {
    let challenge = BOTH.challenge(&offer(&quote("GET /weather", 500)), &refusal(true), &seal_keys());
    let line = || {
        let written = challenge.filled(&Filling::new("https://api.example/weather", "r1", NOW));
        header(&written, "www-authenticate")[0].to_owned()
    };
    assert_ne!(line(), line());
}

#[test]
fn a_challenge_is_good_for_what_it_was_made_for_until_it_expires() {
    let (weather, key) = (quote("GET /weather", 500), key());
    let sent = answered(&weather, NOW, &key);
    let verify = |sent: &str, quote: &Quote, now: i64, seal_keys: &SealKeys| {
        let credential = read(&[("authorization", sent)], None).unwrap().unwrap();
        assert_eq!(credential.client_key, Some(key.clone()));
        (credential.dialect.verify)(&credential, quote, &Verifying { now, seal_keys })
    };
    let seal_keys = seal_keys();
    assert_eq!(verify(&sent, &weather, NOW + 300, &seal_keys), Ok(()));
    let why = |result: Result<(), Unreadable>| match result {
        Err(Unreadable::Invalid(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(verify(&sent, &weather, NOW + 301, &seal_keys)), "The challenge has expired.");
    for other in [quote("GET /weather", 501), quote("GET /news", 500)] {
        assert_eq!(why(verify(&sent, &other, NOW, &seal_keys)), "The challenge was for something else.");
    }
    // A key that has rotated is known as long as some node may have sealed with it.
    let rotated = SealKeys::new([8; 32], vec![[7; 32]]);
    assert_eq!(verify(&sent, &weather, NOW, &rotated), Ok(()));
    let another_key = SealKeys::new([8; 32], Vec::new());
    assert_eq!(why(verify(&sent, &weather, NOW, &another_key)), "The challenge is none of ours.");
    // Each part is sealed, and none can lend a character to the next.
    let later = sent.replace(&format!("expires={}", NOW + 300), &format!("expires={}", NOW + 3_000));
    let dear = answered(&quote("GET /weather", 501), NOW, &key);
    let quote_of = |sent: &str| sent.split(", ").next().unwrap().to_owned();
    let other_quote = sent.replace(&quote_of(&sent), &quote_of(&dear));
    let nonce_of = |sent: &str| sent.split(", ").find(|part| part.starts_with("nonce=")).unwrap().to_owned();
    let other_nonce = sent.replace(&nonce_of(&sent), &nonce_of(&dear));
    for forged in [later, other_quote, other_nonce] {
        assert_ne!(forged, sent);
        assert_eq!(why(verify(&forged, &weather, NOW, &seal_keys)), "The challenge is none of ours.");
    }
}

#[test]
fn a_credential_may_come_in_a_messages_meta() {
    let (quote, key) = (quote("GET /weather", 500), key());
    let meta = json!({ "toy/payment": answered(&quote, NOW, &key), "other": 1 });
    let credential = read(&[], Some(&meta)).unwrap().unwrap();
    assert_eq!((credential.dialect, credential.client_key), (&TOY, Some(key.clone())));
    assert_eq!(read(&[], Some(&json!({ "other": 1 }))), Ok(None));
    let header = stripe402_header(&key);
    assert_eq!(read(&[("payment", &header)], Some(&meta)), Err(NotRead::Several));
}

#[test]
fn one_credential_of_a_spoken_protocol_is_read_and_nothing_else() {
    let (quote, key) = (quote("GET /weather", 500), key());
    let (stripe402, toy) = (stripe402_header(&key), answered(&quote, NOW, &key));
    let dialect =
        |headers: &[(&str, &str)]| read(headers, None).map(|read| read.map(|read| read.dialect.name));
    for (headers, expected) in [
        (&[][..], Ok(None)),
        (&[("payment", stripe402.as_str())], Ok(Some("stripe402"))),
        (&[("authorization", toy.as_str())], Ok(Some("toy"))),
        // The seller's own.
        (&[("authorization", "Bearer abc")], Ok(None)),
        (&[("authorization", "Toys abc")], Ok(None)),
        (&[("authorization", "Digest a=\"b, Payment c\", d=e")], Ok(None)),
        (&[("authorization", "Digest payment=c")], Ok(None)),
        (&[("authorization", "Bearer abc, Payment c")], Err(NotRead::Unspoken("MPP"))),
        (&[("authorization", "Bearer abc,payment"), ("payment", &stripe402)], Err(NotRead::Several)),
        (&[("authorization", "Bearer abc"), ("payment", &stripe402)], Ok(Some("stripe402"))),
        (&[("authorization", &toy), ("payment", &stripe402)], Err(NotRead::Several)),
        (&[("x-payment", "abc")], Err(NotRead::Unspoken("x402"))),
        (&[("payment-signature", "")], Err(NotRead::Unspoken("x402"))),
        (&[("authorization", "payment abc")], Err(NotRead::Unspoken("MPP"))),
        (&[("authorization", "Payment")], Err(NotRead::Unspoken("MPP"))),
        (&[("payment-authorization", "abc")], Err(NotRead::Unspoken("MPP"))),
        (&[("payment", &stripe402), ("x-payment", "abc")], Err(NotRead::Several)),
    ] {
        assert_eq!(dialect(headers), expected, "{headers:?}");
    }
}

#[test]
fn what_any_known_protocol_claims_is_no_upstreams_to_see() {
    for (name, value, is_claimed) in [
        ("payment", "", true),
        ("x-payment", "abc", true),
        ("payment-signature", "abc", true),
        ("authorization", "PAYMENT abc", true),
        ("authorization", "Bearer abc", false),
        ("authorization", "Paymentabc", false),
        ("content-type", "text/plain", false),
    ] {
        assert_eq!(SPOKEN.claims(name, value.as_bytes()), is_claimed, "{name}: {value}");
    }
    assert!(BOTH.claims("authorization", b"toy abc"));
}

/// A protocol that claims one scheme of a header does not take the header from everybody else.
#[test]
fn a_header_that_is_shared_is_looked_at_by_its_value() {
    for name in ["authorization", "www-authenticate"] {
        assert!(!BOTH.owns(name), "{name}");
    }
    for name in ["payment", "payment-required", "payment-response", "toy-receipt"] {
        assert!(BOTH.owns(name), "{name}");
    }
    assert!(BOTH.answers("www-authenticate", b"Toy quote=a"));
    assert!(!BOTH.answers("www-authenticate", b"Basic realm=a"));
}

#[test]
fn a_seal_is_of_one_protocol() {
    let parts: [&[u8]; 2] = [b"a", b"b"];
    let seal = Seal::begin(&seal_keys(), "toy", &parts, Vec::new());
    let template = Template::new(vec![Piece::Mac(seal)]);
    let text = template.filled(&Filling::new("", "", NOW));
    let seal: [u8; 32] = URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap();
    assert!(Seal::is_of(&seal_keys(), "toy", &parts, &seal));
    assert!(!Seal::is_of(&seal_keys(), "other", &parts, &seal));
    assert!(!Seal::is_of(&seal_keys(), "toy", &[b"ab", b""], &seal));
}

/// Of the paying side, which speaks one protocol, and of texts in which these are other words.
const NO_CARRIERS: [&str; 5] = ["agent/", "cli/", "sandbox/", "http/admin/", "payments/evidence"];

#[test]
fn no_protocols_header_is_named_outside_its_module() {
    let claims = SPOKEN.all_claims().chain(SPOKEN.spoken.iter().flat_map(|dialect| dialect.answers));
    let names: Vec<&str> = claims.filter_map(Claim::whole_name).collect();
    assert!(names.len() > 5, "{names:?}");
    let mut found = Vec::new();
    for file in program_text::files() {
        let may_name = file.name.starts_with("protocol/")
            || NO_CARRIERS.iter().any(|folder| file.name.starts_with(folder));
        for (number, line) in file.lines().filter(|_| !may_name) {
            if names.iter().any(|name| line.contains(&format!("\"{name}\""))) {
                found.push(format!("{}:{number}: {}", file.name, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// They become header names without a look.
#[test]
fn what_protocols_claim_is_in_lower_case() {
    for claim in BOTH.all_claims().chain(BOTH.spoken.iter().flat_map(|dialect| dialect.answers)) {
        let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(claim.name.bytes().all(is_fit), "{}", claim.name);
    }
}

//! A protocol that only tests speak, with what stripe402 does not have: challenges that are sealed, expire and are one of a kind, and
//! credentials that come in a message's `_meta`. A protocol is one module and the line where it is registered.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::challenge::{Challenge, Line};
use super::credential::{Binding, Credential};
use super::dialect::{Claim, Dialect, Offered, Presented, Unreadable, Verifying, When};
use super::receipt::Receipt;
use super::template::{Piece, Seal, Template};
use crate::domain::ClientKey;
use crate::pricing::{Quote, QuoteDigest};

/// Registered beside stripe402.
pub(crate) static TOY: Dialect = Dialect {
    name: "toy",
    claims: &[Claim { name: "authorization", when: When::Scheme("Toy") }],
    meta: &["toy/payment"],
    answers: &[
        Claim { name: "www-authenticate", when: When::Scheme("Toy") },
        Claim { name: "toy-receipt", when: When::Always },
    ],
    read,
    verify,
    ways_to_pay: |offer| vec![json!({ "scheme": "toy", "amount": offer.price.get().to_string() })],
    challenge,
    receipt: |receipt| vec![("toy-receipt", wire(receipt).to_string())],
    members: |_, _| Map::new(),
    attempt: |_, _, _| None,
};

/// How long a challenge is good.
const SECONDS: u32 = 300;

/// `Toy quote=…, expires=…, nonce=…, seal=…`: sealed with what is known, then with what is not.
fn challenge(offered: &Offered<'_>) -> Challenge {
    // Whether anybody may be asked at all is not a protocol's to decide, and this one does not look.
    let Some(quote) = offered.offer.quote else { return Challenge::default() };
    let seal = Seal::begin(
        offered.seal_keys,
        TOY.name,
        &[quote.as_bytes()],
        vec![Piece::Expires(SECONDS), Piece::Nonce],
    );
    let text = |text: String| Piece::Text(text);
    let value = Template::new(vec![
        text(format!("Toy quote={}, expires=", URL_SAFE_NO_PAD.encode(quote.as_bytes()))),
        Piece::Expires(SECONDS),
        text(", nonce=".to_owned()),
        Piece::Nonce,
        text(", seal=".to_owned()),
        Piece::Mac(seal),
    ]);
    Challenge { lines: vec![Line { name: "www-authenticate", value }], envelope: None }
}

/// The challenge sent back, with the key of a wallet: `Toy quote=…, expires=…, nonce=…, seal=…, wallet=…`.
fn read(presented: &Presented<'_>) -> Result<Credential, Unreadable> {
    let unusable = || Unreadable::Invalid("It is no toy credential.".to_owned());
    let in_meta = presented.meta.and_then(|meta| meta.get("toy/payment")).and_then(Value::as_str);
    let text = match (presented.headers, in_meta) {
        ([(_, value)], None) => std::str::from_utf8(value).map_err(|_| unusable())?,
        ([], Some(text)) => text,
        _ => return Err(unusable()),
    };
    let binding = binding_of(text).ok_or_else(unusable)?;
    let client_key = member(text, "wallet").and_then(ClientKey::parse).ok_or_else(unusable)?;
    Ok(Credential {
        dialect: &TOY,
        client_key: Some(client_key),
        instrument: None,
        top_up_amount: None,
        max_amount: None,
        new_wallet: false,
        binding: Some(binding),
        left_out_unknown_client: false,
    })
}

fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split([' ', ',']).find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn binding_of(text: &str) -> Option<Binding> {
    let bytes = |name| URL_SAFE_NO_PAD.decode(member(text, name)?).ok();
    Some(Binding {
        quote: QuoteDigest::from_slice(&bytes("quote")?)?,
        expires: member(text, "expires")?.parse().ok()?,
        nonce: bytes("nonce")?.try_into().ok()?,
        seal: bytes("seal")?.try_into().ok()?,
    })
}

fn verify(credential: &Credential, quote: &Quote, verifying: &Verifying<'_>) -> Result<(), Unreadable> {
    let refuse = |why: &str| Err(Unreadable::Invalid(why.to_owned()));
    let Some(binding) = &credential.binding else { return refuse("It answers no challenge.") };
    let (expires, nonce) = (binding.expires.to_string(), URL_SAFE_NO_PAD.encode(binding.nonce));
    let parts = [binding.quote.as_bytes(), expires.as_bytes(), nonce.as_bytes()];
    if !Seal::is_of(verifying.seal_keys, TOY.name, &parts, &binding.seal) {
        return refuse("The challenge is none of ours.");
    }
    if binding.expires < verifying.now {
        return refuse("The challenge has expired.");
    }
    if binding.quote != quote.digest() {
        return refuse("The challenge was for something else.");
    }
    Ok(())
}

fn wire(receipt: &Receipt) -> Value {
    json!({ "paid": receipt.success, "charged": receipt.charged.map(|charged| charged.get()) })
}

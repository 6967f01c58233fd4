//! Stripe's signatures: `t=1700000000,v1=…`, where each `v1` is HMAC-SHA256 of `{t}.{body}` under one of the endpoint's
//! secrets. <https://docs.stripe.com/webhooks#verify-manually>

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

use crate::config::Secret;

/// A header is at most so long, and has at most so many parts: Stripe sends three.
const MAX_HEADER: usize = 4096;
const MAX_PARTS: usize = 32;
/// Bytes of a signature.
const MAC: usize = 32;

/// Why a request is not Stripe's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// None of the signatures is right.
    Signature,
    /// One is right, and so many seconds away from our clock: positive is in the past.
    Timestamp(i64),
}

/// A signature header, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignatureHeader {
    /// Unix seconds, as signed.
    pub(super) timestamp: i64,
    signatures: Vec<[u8; MAC]>,
}

impl SignatureHeader {
    /// Reads a header strictly. Schemes other than `v1` are passed over, as Stripe demands; without a `v1` it is none.
    pub(super) fn parse(header: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok().filter(|text| text.len() <= MAX_HEADER)?;
        let (mut timestamp, mut signatures) = (None, Vec::new());
        for (index, part) in text.split(',').enumerate() {
            let (scheme, value) = part.split_once('=').filter(|_| index < MAX_PARTS)?;
            match scheme {
                // Two times are no time. The plain form only: it is what was signed.
                "t" if timestamp.is_none() => timestamp = Some(plain_number(value)?),
                "t" => return None,
                "v1" => signatures.push(mac_from_hex(value)?),
                _ => {}
            }
        }
        let timestamp = timestamp?;
        (!signatures.is_empty()).then_some(Self { timestamp, signatures })
    }
}

/// A whole number as a computer writes it: digits, no sign, no zeros before it.
fn plain_number(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok().filter(|number| *number >= 0)?;
    (number.to_string() == text).then_some(number)
}

/// 64 small hexadecimal digits.
fn mac_from_hex(text: &str) -> Option<[u8; MAC]> {
    let digits = text.as_bytes();
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(byte.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    };
    if digits.len() != 2 * MAC {
        return None;
    }
    let mut mac = [0; MAC];
    for (byte, pair) in mac.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(*pair.first()?)? << 4) | digit(*pair.get(1)?)?;
    }
    Some(mac)
}

/// Whether one of the signatures is one of the secrets' over exactly these bytes, and not too far from `now` (Unix seconds) in
/// either direction. Every signature is compared with every secret's, in constant time.
pub(super) fn verify(
    header: &SignatureHeader,
    body: &[u8],
    secrets: &[Secret],
    tolerance: Duration,
    now: i64,
) -> Result<(), Refused> {
    let time = header.timestamp.to_string();
    let mut right = Choice::from(0);
    for secret in secrets {
        // HMAC takes keys of any length; that none is empty is checked with the configuration.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) else { continue };
        mac.update(time.as_bytes());
        mac.update(b".");
        mac.update(body);
        let expected = mac.finalize().into_bytes();
        for signature in &header.signatures {
            right |= expected.as_slice().ct_eq(signature);
        }
    }
    if !bool::from(right) {
        return Err(Refused::Signature);
    }
    let away = now.saturating_sub(header.timestamp);
    if away.unsigned_abs() > tolerance.as_secs() { Err(Refused::Timestamp(away)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fmt::Write as _;

    use super::*;

    const SECRET: &str = "whsec_0123456789abcdefghijklmnopqrstuv";
    const FIVE_MINUTES: Duration = Duration::from_secs(300);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn signed(secret: &str, time: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{time}.").as_bytes());
        mac.update(body);
        hex(&mac.finalize().into_bytes())
    }

    fn check(header: &str, body: &[u8], now: i64) -> Result<(), Refused> {
        let secrets = [Secret::new(SECRET.to_owned()), Secret::new(format!("{SECRET}2"))];
        let header = SignatureHeader::parse(header.as_bytes()).ok_or(Refused::Signature)?;
        verify(&header, body, &secrets, FIVE_MINUTES, now)
    }

    /// Computed with `printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_0123456789abcdefghijklmnopqrstuv`.
    const KNOWN: &str = "03ae817788064aafa0663c12dfcde0472680b0d6f9edc892cfc717414281d09d";

    #[test]
    fn a_known_signature_is_right() {
        assert_eq!(check(&format!("t=1700000000,v1={KNOWN}"), br#"{"id":"evt_1"}"#, 1_700_000_000), Ok(()));
    }

    #[test]
    fn any_secret_and_any_signature_may_fit() {
        let (wrong, body) = ("0".repeat(64), b"{}".as_slice());
        for secret in [SECRET.to_owned(), format!("{SECRET}2")] {
            let right = signed(&secret, "1000", body);
            for header in [
                format!("t=1000,v1={right}"),
                format!("t=1000,v1={wrong},v1={right},v0={wrong}"),
                format!("v0=x,v1={right},v1={wrong},t=1000"),
            ] {
                assert_eq!(check(&header, body, 1000), Ok(()), "{header}");
            }
        }
    }

    #[test]
    fn the_time_counts_in_both_directions_and_only_behind_a_signature() {
        let right = signed(SECRET, "1000", b"{}");
        let header = format!("t=1000,v1={right}");
        for (now, expected) in [
            (700, Ok(())),
            (1300, Ok(())),
            (699, Err(Refused::Timestamp(-301))),
            (1301, Err(Refused::Timestamp(301))),
        ] {
            assert_eq!(check(&header, b"{}", now), expected, "{now}");
        }
        assert_eq!(check(&format!("t=1,v1={right}"), b"{}", 1000), Err(Refused::Signature));
        let last = i64::MAX.to_string();
        let far = format!("t={last},v1={}", signed(SECRET, &last, b"{}"));
        assert!(matches!(check(&far, b"{}", -5), Err(Refused::Timestamp(_))));
    }

    #[test]
    fn headers_of_another_form_are_refused() {
        let right = signed(SECRET, "1000", b"{}");
        let upper = right.to_ascii_uppercase();
        let many = format!("{},v1={right}", vec!["v0=x"; 40].join(","));
        for header in [
            "".to_owned(),
            "t=1000".to_owned(),
            format!("v1={right}"),
            format!("t=1000;v1={right}"),
            format!("t=1000, v1={right}"),
            format!("t=1000,v1 ={right}"),
            format!("t=1000,t=1000,v1={right}"),
            format!("t=+1000,v1={right}"),
            format!("t=01000,v1={right}"),
            format!("t=-1000,v1={right}"),
            format!("t=1000.0,v1={right}"),
            format!("t=,v1={right}"),
            format!("T=1000,V1={right}"),
            format!("t=1000,v0={right}"),
            format!("t=1000,v1={upper}"),
            format!("t=1000,v1={right}0"),
            format!("t=1000,v1={}", &right[1..]),
            format!("t=1000,v1={right},"),
            format!("t=1000,v1={right},v1="),
            format!("t=99999999999999999999,v1={right}"),
            format!("t=1000,{many}"),
            format!("t=1000,v1={right},v0={}", "x".repeat(MAX_HEADER)),
        ] {
            assert_eq!(check(&header, b"{}", 1000), Err(Refused::Signature), "{header}");
        }
        assert_eq!(SignatureHeader::parse(b"t=1000,v1=\xff"), None);
    }

    #[test]
    fn nothing_signed_with_another_secret_or_none_is_right() {
        for secret in ["", "whsec_", &SECRET[6..], &SECRET[..37], "whsec_0123456789abcdefghijklmnopqrstuw"] {
            let header = format!("t=1000,v1={}", signed(secret, "1000", b"{}"));
            assert_eq!(check(&header, b"{}", 1000), Err(Refused::Signature), "{secret}");
        }
        let right = format!("t=1000,v1={}", signed(SECRET, "1000", b"{}"));
        assert_eq!(check(&right, b"{ }", 1000), Err(Refused::Signature), "the bytes, not what they mean");
        let header = SignatureHeader::parse(right.as_bytes()).unwrap();
        assert_eq!(verify(&header, b"{}", &[], FIVE_MINUTES, 1000), Err(Refused::Signature));
    }
}

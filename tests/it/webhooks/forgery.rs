//! Only what Stripe has signed, only as it was signed, and only for so long.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::support::dice::Dice;
use crate::support::number;
use crate::support::raw::{Raw, patiently, status_of};

const STORED: &str = "SELECT COUNT(*) FROM stripe_events";

/// A request that was right before it was changed.
struct Signed {
    secret: String,
    time: i64,
    body: Vec<u8>,
}

impl Signed {
    fn header(&self) -> String {
        signature(&self.secret, self.time, &self.body)
    }
}

/// Changes one thing that matters. Answers the header, the body, and what was done.
fn mutated(dice: &mut Dice, right: &Signed) -> (String, Vec<u8>, &'static str) {
    let (body, time) = (right.body.clone(), right.time);
    let mac_of = |body: &[u8]| mac(&right.secret, &time.to_string(), body);
    let place = |dice: &mut Dice, length: usize| usize::try_from(dice.below(length as u64)).unwrap();
    let other_digit = |dice: &mut Dice, old: u8| loop {
        let new = *dice.pick(b"0123456789abcdef");
        if new != old {
            break new;
        }
    };
    match dice.below(18) {
        0 => {
            let mut digits = mac_of(&body).into_bytes();
            let at = place(dice, digits.len());
            digits[at] = other_digit(dice, digits[at]);
            (format!("t={time},v1={}", String::from_utf8(digits).unwrap()), body, "a digit of the signature")
        }
        1 => {
            let mut changed = body.clone();
            let at = place(dice, changed.len());
            changed[at] ^= 1 << dice.below(8);
            (right.header(), changed, "a bit of the body")
        }
        2 => {
            let mut changed = body.clone();
            let at = place(dice, changed.len() + 1);
            changed.insert(at, *dice.pick(b" \n\t0\"{}"));
            (right.header(), changed, "a byte more in the body")
        }
        3 => {
            let mut changed = body.clone();
            changed.remove(place(dice, body.len()));
            (right.header(), changed, "a byte less in the body")
        }
        4 => {
            let away = i64::try_from(1 + dice.below(100_000)).unwrap() * if dice.one_in(2) { 1 } else { -1 };
            (format!("t={},v1={}", time + away, mac_of(&body)), body, "another time than was signed")
        }
        5 => {
            let old = time - 305 - i64::try_from(dice.below(10_000_000)).unwrap();
            (signature(&right.secret, old, &body), body, "signed too long ago")
        }
        6 => {
            let early = time + 305 + i64::try_from(dice.below(10_000_000)).unwrap();
            (signature(&right.secret, early, &body), body, "signed in the future")
        }
        7 => (signature("", time, &body), body, "signed with nothing"),
        8 => {
            let mut secret = right.secret.clone().into_bytes();
            let at = place(dice, secret.len());
            secret[at] ^= 1;
            (signature(std::str::from_utf8(&secret).unwrap(), time, &body), body, "another secret")
        }
        9 => (format!("t={time},v0={}", mac_of(&body)), body, "the scheme of tests"),
        10 => {
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            (right.header(), serde_json::to_vec_pretty(&value).unwrap(), "the same, written differently")
        }
        11 => {
            let digits = mac_of(&body);
            let upper = digits.to_ascii_uppercase();
            // A signature of digits alone looks the same.
            let digits = if upper == digits { "0".repeat(64) } else { upper };
            (format!("t={time},v1={digits}"), body, "capital digits")
        }
        12 => {
            let digits = mac_of(&body);
            let part = &digits[..2 * place(dice, 32)];
            (format!("t={time},v1={part}"), body, "a part of the signature")
        }
        13 => (format!("t={time},v1={}00", mac_of(&body)), body, "more than the signature"),
        14 => {
            let header = format!("t={time},t={},v1={}", time - 1, mac_of(&body));
            (header, body, "two times")
        }
        15 => (format!("t=0{time},v1={}", mac_of(&body)), body, "the time in another form"),
        16 => (format!("v1={}", mac_of(&body)), body, "no time"),
        _ => {
            // What was signed is `time.body`: moving the point makes other values of the same bytes.
            let digits = time.to_string();
            let (short, rest) = digits.split_at(digits.len() - 1);
            let mut longer = format!("{rest}.").into_bytes();
            longer.extend_from_slice(&body);
            (format!("t={short},v1={}", mac_of(&body)), longer, "the point between time and body moved")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_mutations_none_is_accepted_and_each_secret_of_a_rotation_is() {
    let mut dice = Dice::printed("forged webhooks");
    let world = world(&[SECRET, NEXT_SECRET], "").await;
    let gateway = world.gateway().await;
    let mut tried: BTreeMap<&str, usize> = BTreeMap::new();
    for n in 0..1_000 {
        let secret = if dice.one_in(2) { SECRET } else { NEXT_SECRET };
        let body = strange(&format!("evt_{n}")).to_string().into_bytes();
        let right = Signed { secret: secret.to_owned(), time: now(), body };
        let (header, body, what) = mutated(&mut dice, &right);
        let answer = post(&gateway, &header, &body).await;
        let code = answer.code();
        let expected = match what {
            "signed too long ago" | "signed in the future" => "webhook_timestamp_invalid",
            _ => "webhook_signature_invalid",
        };
        assert_eq!((answer.status, code.as_str()), (400, expected), "{what}: {header}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        *tried.entry(what).or_default() += 1;
    }
    println!("{tried:#?}");
    assert!(tried.len() == 18 && tried.values().all(|count| *count >= 10), "{tried:#?}");
    assert_eq!(number(&world.database, STORED).await, 0, "nothing is stored");
    let refused = metric(&gateway, "prepaid402_webhooks_total{outcome=\"BadSignature\"}").await
        + metric(&gateway, "prepaid402_webhooks_total{outcome=\"BadTimestamp\"}").await;
    assert_eq!(refused, 1_000);

    // Stripe signs with both secrets during a rotation, in any order, and beside signatures that say nothing to us.
    for n in 0..200 {
        let (body, time) = (strange(&format!("evt_right_{n}")).to_string(), now());
        let of = |secret: &str| mac(secret, &time.to_string(), body.as_bytes());
        let noise = "0".repeat(64);
        let header = match dice.below(5) {
            0 => format!("t={time},v1={}", of(SECRET)),
            1 => format!("t={time},v1={}", of(NEXT_SECRET)),
            2 => format!("t={time},v1={},v1={}", of(NEXT_SECRET), of(SECRET)),
            3 => format!("t={time},v1={noise},v1={},v0={noise}", of(NEXT_SECRET)),
            _ => format!("v1={},v1={noise},t={time}", of(SECRET)),
        };
        let answer = post(&gateway, &header, body.as_bytes()).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "{\"received\":true}"), "{header}");
    }
    // Just inside the tolerance.
    for away in [-290, 290] {
        let body = strange(&format!("evt_away_{}", away + 290)).to_string();
        let answer = post(&gateway, &signature(SECRET, now() + away, body.as_bytes()), body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{away}");
    }
    assert_eq!(number(&world.database, STORED).await, 202);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_rolled_away_signs_nothing_any_more() {
    let world = world(&[NEXT_SECRET], "").await;
    let gateway = world.gateway().await;
    let answer = deliver(&gateway, &strange("evt_1")).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "webhook_signature_invalid"));
    let body = strange("evt_1").to_string();
    let answer = post(&gateway, &signature(NEXT_SECRET, now(), body.as_bytes()), body.as_bytes()).await;
    assert_eq!(answer.status, 200);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_there_is_no_endpoint() {
    let world = plain_world().await;
    let gateway = world.gateway().await;
    let body = strange("evt_1").to_string();
    for secret in [SECRET, "", "whsec_"] {
        let answer = post(&gateway, &signature(secret, now(), body.as_bytes()), body.as_bytes()).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{secret}");
    }
    let nothing = world.client.post_json(&format!("{}/webhooks/nothing", gateway.url), &json!({})).await;
    assert_eq!((nothing.status, nothing.code().as_str()), (404, "not_found"));
    assert_eq!(number(&world.database, STORED).await, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_and_methods_are_nothing() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    for (method, path) in [
        ("GET", "/webhooks/stripe"),
        ("PUT", "/webhooks/stripe"),
        ("POST", "/webhooks"),
        ("POST", "/webhooks/Stripe"),
    ] {
        let answer = world.client.send(method, &format!("{}{path}", gateway.url), &[], None).await;
        assert_eq!(answer.status, 404, "{method} {path}");
    }
    let answer = world.client.post_json(&format!("{}/webhooks/stripe", gateway.url), &strange("evt_1")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "webhook_signature_invalid"),
        "without a signature"
    );
    let url = format!("{}/webhooks/stripe", gateway.url);
    let body = strange("evt_1").to_string();
    let right = signature(SECRET, now(), body.as_bytes());
    let twice = [("stripe-signature", right.as_str()), ("stripe-signature", right.as_str())];
    let answer = world.client.send("POST", &url, &twice, Some(("application/json", body.as_bytes()))).await;
    assert_eq!(answer.status, 400, "two signature headers");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_no_event_is_refused_and_shows() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let bodies = [
        "",
        "null",
        "[]",
        "{",
        "{}",
        "{\"id\":\"evt_1\"}",
        "{\"id\":\"ch_1\",\"type\":\"a.b\"}",
        "\u{0}",
        &deep,
    ];
    for body in bodies {
        let answer = post(&gateway, &signature(SECRET, now(), body.as_bytes()), body.as_bytes()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "webhook_malformed"), "{body:.40}");
    }
    let not_utf8 = b"{\"id\":\"evt_1\",\"type\":\"a.b\",\"x\":\"\xff\"}";
    let answer = post(&gateway, &signature(SECRET, now(), not_utf8), not_utf8).await;
    assert_eq!(answer.code(), "webhook_malformed");
    let malformed = metric(&gateway, "prepaid402_webhooks_total{outcome=\"Malformed\"}").await;
    assert_eq!(malformed, bodies.len() as u64 + 1);
    assert_eq!(number(&world.database, STORED).await, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_body_is_refused_and_one_that_fits_is_not() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let padded = |size: usize| {
        let mut event = strange("evt_1");
        let have = event.to_string().len() + ",\"more\":\"\"".len();
        event["more"] = json!("x".repeat(size - have));
        let body = event.to_string();
        assert_eq!(body.len(), size);
        body
    };
    let largest = padded(256 * 1024);
    let answer = post(&gateway, &signature(SECRET, now(), largest.as_bytes()), largest.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for size in [256 * 1024 + 1, 4 * 1024 * 1024] {
        let body = padded(size);
        let url = format!("{}/webhooks/stripe", gateway.url);
        let header = signature(SECRET, now(), body.as_bytes());
        let headers = [("stripe-signature", header.as_str())];
        let sent =
            world.client.try_send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
        // The connection may be closed before all of it was sent.
        if let Ok(answer) = sent {
            assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"), "{size}");
        }
    }
    assert_eq!(number(&world.database, STORED).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_ends_after_ten_seconds_and_keeps_nobody_out() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let body = strange("evt_slow").to_string();
    let header = signature(SECRET, now(), body.as_bytes());
    let head = format!(
        "POST /webhooks/stripe HTTP/1.1\r\nhost: a\r\nstripe-signature: {header}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut slow = Raw::connect(&gateway.url).await;
    slow.send(format!("{head}{}", &body[..10])).await;
    assert_eq!(deliver(&gateway, &strange("evt_1")).await.status, 200);
    let answer = patiently("the end of a slow body", slow.head()).await;
    assert_eq!(status_of(&answer), 408, "{answer}");
    assert_eq!(state(&world, "evt_slow").await, None);
    gateway.stop().await;
}

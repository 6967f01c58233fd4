//! Whole heads: how large they get, and what they tell programs that repeat requests by themselves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::config::{self, Config};
use crate::domain::{ClientKey, Currency, KeyId, Micros, SecretHash, TopUpId};
use crate::http::finish;
use crate::http::problem::Problem;
use crate::ledger::keys::{KeyRecord, Scope};
use crate::pricing::{Listing, Quote};
use crate::protocol::stripe402::{
    DIALECT, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PaymentRequired, decode_payment_required,
};
use crate::protocol::{SPOKEN, SealKeys};
use crate::shield::Limit;
use crate::top_up::amounts::Amounts;

/// What nginx reads a head into, where nobody has said otherwise; a part of it is nginx's own when it caches.
const PROXY_BUFFER: usize = 4096 - 300;

/// Letters that take one byte, two, two as JSON, and four; and the largest charge of currencies with two, no and three decimals.
const LARGEST: [(char, &str, &str); 4] =
    [('Ж', "usd", "999999"), ('a', "jpy", "99999999"), ('"', "kwd", "99999"), ('😀', "jpy", "99999999")];

/// The largest settings that are admitted.
fn largest(letter: char, currency: &str, most: &str) -> Config {
    let text = |letters: usize| letter.to_string().repeat(letters).replace('"', "\\\"");
    let mut toml = format!(
        "currency = \"{currency}\"\npublic_url = \"https://{host}.example\"\n[stripe]\npublishable_key = \"pk_test_{key}\"\n\
         [upstream]\nurl = \"http://127.0.0.1:3000\"\n[top_up]\nmaximum = \"{most}\"\nmax_balance = \"9000000000\"\n\
         [[routes]]\npath = \"/*\"\nprice = \"{most}\"\ndescription = \"{description}\"\nmime_type = \"a/{mime}\"\n",
        host = ["h".repeat(60), "h".repeat(60), "h".repeat(60), "h".repeat(50)].join("."),
        key = "k".repeat(240),
        description = text(500),
        mime = "m".repeat(98),
    );
    let most: u64 = most.parse().unwrap();
    for n in (0..20).rev() {
        let amount = most - n;
        toml.push_str(&format!(
            "[[top_up.options]]\namount = \"{amount}\"\nbonus = \"1000000000.5\"\nlabel = \"{}\"\n",
            text(100)
        ));
    }
    let env = BTreeMap::from([("STRIPE_SECRET_KEY".to_owned(), "sk_test_a".to_owned())]);
    config::load_from(Some(&toml), Path::new("."), &env)
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

fn offers(config: &Config) -> Offers {
    Offers {
        publishable_key: config.stripe.publishable_key.clone(),
        amounts: Amounts::new(config.top_up.clone(), config.currency),
        dialects: SPOKEN,
        seal_keys: SealKeys::new([7; 32], Vec::new()),
    }
}

fn quote(config: &Config) -> Quote {
    let route = &config.routes[0];
    let rule = route.charge.rule().expect("it is sold");
    let charged = Arc::new(route.charged_statuses.clone());
    Arc::new(Listing::new(route.rule().name(), rule, config.currency, charged)).list_quote()
}

fn resource<'a>(config: &'a Config, path: &'a str, quote: &'a Quote) -> Resource<'a> {
    let route = &config.routes[0];
    Resource {
        origin: &config.public_url,
        path,
        description: route.description.as_deref(),
        mime_type: route.mime_type.as_deref(),
        quote: Some(quote),
    }
}

/// Each refusal once.
fn refusals() -> Vec<Refusal> {
    use crate::top_up::{AmountProblem as A, FailureReason as F};
    let amounts = [
        A::BelowMinimum,
        A::AboveMaximum,
        A::NotChargeable,
        A::BalanceLimit,
        A::DebtAboveMaximum,
        A::WalletFull,
        A::Frozen,
    ];
    let failures = [
        F::Declined,
        F::AuthenticationRequired,
        F::InvalidPaymentMethod,
        F::OfOtherClient,
        F::TooManyAttempts,
        F::Refused,
        F::Abandoned,
    ];
    let others = [
        Refusal::PaymentRequired,
        Refusal::InsufficientCredits,
        Refusal::UnknownClient,
        Refusal::PriceAboveMax,
        Refusal::RawCardData,
        Refusal::KeyRevoked,
        Refusal::Scope,
        Refusal::TopUpInProgress,
        Refusal::CaptureFailed,
        Refusal::CaptureUnknown,
        Refusal::CaptureUnknownKept,
        Refusal::TooManyAttempts(Limit::Network, 86_400),
        Refusal::TooManyAttempts(Limit::Network, 30),
        Refusal::NewPayersPaused(600),
        Refusal::ReservationsInFlight,
        Refusal::TopUpPending(TopUpId::new()),
        Refusal::FormerStripeAccount,
        Refusal::IdempotencyInFlight,
        Refusal::IdempotencyMismatch,
        Refusal::IdempotencyAnswerLost,
        Refusal::IdempotencyOutcomeUnknown,
        Refusal::InvalidIdempotencyKey(
            "It has characters that are not visible ones, or none, or more than 255.",
        ),
        Refusal::UpstreamUnreachable,
        Refusal::Busy,
    ];
    let mapped = amounts.map(Refusal::from).into_iter().chain(failures.map(Refusal::from));
    mapped.chain(others).collect()
}

/// With everything that an answer can say of a wallet.
fn refused_with_all(refusal: Refusal, currency: Currency, (paid, debt): (Micros, Micros)) -> Refused {
    let record = KeyRecord {
        id: KeyId::new(),
        client: i64::MAX,
        client_public_id: Arc::from("0190aaaa-aaaa-7aaa-aaaa-aaaaaaaaaaaa"),
        scope: Scope::Owner,
        hash: SecretHash::of("a"),
        secret_version: 1,
        number: Some(1),
    };
    let key = ClientKey::derive(&[7; 32], record.id);
    Refused {
        wallet: Some(Wallet::new(record, Some(key))),
        state: Some(ClientState { paid, debt, ..ClientState::new(currency) }),
        charged: Some(CardCharge {
            top_up: TopUpId::new(),
            payment_intent: format!("pi_{}", "3".repeat(24)),
            amount: Micros::MAX,
            currency,
        }),
        ..Refused::because(refusal)
    }
}

/// Bytes of the head as it goes out, with what the server adds.
fn head_bytes(mut response: HttpResponse) -> usize {
    finish(&mut response, RequestId::new());
    let lines = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let added = [
        "HTTP/1.1 431 Request Header Fields Too Large\r\n",
        "content-length: 1000000\r\n",
        "date: Mon, 30 Nov 2026 00:00:00 GMT\r\n",
        "connection: close\r\n",
        "x-prepaid402-sandbox: SANDBOX\r\n",
        "\r\n",
    ];
    lines.sum::<usize>() + added.concat().len()
}

fn offer_of(response: &HttpResponse) -> PaymentRequired {
    decode_payment_required(response.headers().get(PAYMENT_REQUIRED).unwrap().as_bytes()).unwrap()
}

#[test]
fn no_head_is_larger_than_what_proxies_take_whatever_the_settings_and_the_path_are() {
    let long = format!("/{}", "%D0%96".repeat(680));
    let mut largest_head = 0;
    let smallest = Micros::parse_major("0.000001").unwrap();
    let wallets = [
        (Micros::ZERO, Micros::ZERO),
        (Micros::MAX, Micros::ZERO),
        (Micros::ZERO, smallest),
        (Micros::MAX, Micros::MAX),
    ];
    for (letter, currency, most) in LARGEST {
        let config = largest(letter, currency, most);
        let (offers, quote) = (offers(&config), quote(&config));
        for (path, refusal) in
            ["/", &long].iter().flat_map(|path| refusals().into_iter().map(move |r| (*path, r)))
        {
            let known = wallets.map(|wallet| refused_with_all(refusal.clone(), config.currency, wallet));
            for attempt in known.into_iter().chain([Refused::because(refusal.clone())]) {
                let sold = resource(&config, path, &quote);
                let response = refused(&offers, sold, (&DIALECT, &attempt), RequestId::new());
                if response.status() == 402 {
                    let offer = offer_of(&response);
                    assert!(
                        offer.accepts.iter().all(|way| way.publishable_key == config.stripe.publishable_key)
                    );
                }
                let bytes = head_bytes(response);
                assert!(bytes <= PROXY_BUFFER, "{bytes} bytes: {attempt:?} {letter} {currency}");
                largest_head = largest_head.max(bytes);
            }
        }
    }
    assert!(largest_head > 2_500, "the settings are large: {largest_head}");
}

#[test]
fn what_is_prepared_is_what_is_written() {
    let small = "[upstream]\nurl = \"http://127.0.0.1:3000\"\n[stripe]\npublishable_key = \"pk_test_a\"\n\
                 [[routes]]\npath = \"/*\"\nprice = \"0.05\"\ndescription = \"One\"\n";
    let env = BTreeMap::from([("STRIPE_SECRET_KEY".to_owned(), "sk_test_a".to_owned())]);
    let small = config::load_from(Some(small), Path::new("."), &env).unwrap().config;
    let long = format!("/{}", "a".repeat(4000));
    for config in [largest('Ж', "usd", "999999"), small] {
        let (offers, quote) = (offers(&config), quote(&config));
        let prepared = offers.challenge(resource(&config, "", &quote));
        for path in ["/", "/a%22b", &long] {
            let (sold, id) = (resource(&config, path, &quote), RequestId::new());
            let first = Refused::because(Refusal::PaymentRequired);
            let both =
                [challenge(&prepared, &sold.url(), id), refused(&offers, sold, (&DIALECT, &first), id)];
            let [first, second] = both.map(|response| {
                let named =
                    response.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.clone()));
                let mut headers: Vec<_> = named.collect();
                headers.sort_by(|(one, _), (other, _)| one.cmp(other));
                let body = actix_web::body::MessageBody::try_into_bytes(response.into_body());
                (headers, body.unwrap_or_else(|_| panic!("it is whole")))
            });
            assert_eq!(first, second);
            let header = &first.0.iter().find(|(name, _)| name == PAYMENT_REQUIRED).unwrap().1;
            let (offer, body) = (decode_payment_required(header.as_bytes()).unwrap(), first.1);
            let whole: PaymentRequired = serde_json::from_slice(&body).unwrap();
            assert_eq!(whole.resource.url, format!("{}{path}", config.public_url));
            // What is needed to pay.
            let ways = |offer: &PaymentRequired| {
                let way = &offer.accepts[0];
                (way.amount, way.min_top_up, way.max_top_up, way.publishable_key.clone(), way.price.clone())
            };
            assert_eq!(ways(&offer), ways(&whole));
            let packs = |offer: &PaymentRequired| -> Vec<_> {
                offer.top_up_options.iter().map(|pack| (pack.amount, pack.credits)).collect()
            };
            assert!(!packs(&offer).is_empty() && packs(&whole).starts_with(&packs(&offer)));
            assert_eq!((offer.x402_version, offer.saved_card), (2, whole.saved_card));
        }
    }
}

/// "creditsRemaining": 0 would tell its owner to pay once more.
#[test]
fn a_wallet_that_was_not_looked_at_is_not_called_empty() {
    let config = largest('a', "usd", "999999");
    let (offers, quote) = (offers(&config), quote(&config));
    let known = (Micros::parse_major("5").unwrap(), Micros::ZERO);
    for refusal in refusals() {
        for is_known in [false, true] {
            let mut attempt = refused_with_all(refusal.clone(), config.currency, known);
            attempt.state = attempt.state.filter(|_| is_known);
            let told = is_known.then_some(50_000);
            let sold = resource(&config, "/", &quote);
            let response = refused(&offers, sold, (&DIALECT, &attempt), RequestId::new());
            let header = STANDARD.decode(response.headers().get(PAYMENT_RESPONSE).unwrap()).unwrap();
            let note: Value = serde_json::from_slice(&header).unwrap();
            assert_eq!(
                note.get("creditsRemaining").map(|units| units.as_i64().unwrap()),
                told,
                "{refusal:?}"
            );
            assert!(note["clientId"].as_str().is_some_and(|id| !id.is_empty()), "{refusal:?}");
            let body = actix_web::body::MessageBody::try_into_bytes(response.into_body());
            let body: Value =
                serde_json::from_slice(&body.unwrap_or_else(|_| panic!("it is whole"))).unwrap();
            let in_body = body.get("creditsRemaining").map(|units| units.as_i64().unwrap());
            assert!(in_body.is_none() || in_body == told, "{refusal:?}: {body}");
        }
    }
}

/// Of each refusal: whether the same request, repeated within a minute, can succeed without another charge.
const HELPS: [&str; 12] = [
    "body_broken",
    "body_too_slow",
    "busy",
    "capture_unknown",
    "idempotency_in_flight",
    "reservations_in_flight",
    "too_many_attempts",
    "topup_in_progress",
    "topup_pending",
    "upstream_failed",
    "upstream_timeout",
    "upstream_unreachable",
];

#[test]
fn programs_are_told_to_repeat_only_what_can_succeed_soon() {
    let config = largest('a', "usd", "999999");
    let (offers, quote) = (offers(&config), quote(&config));
    let mut answers: Vec<(Answer, HttpResponse)> = refusals()
        .into_iter()
        .map(|refusal| {
            let answer = refusal.answer();
            let (sold, attempt) = (resource(&config, "/", &quote), Refused::because(refusal));
            (answer, refused(&offers, sold, (&DIALECT, &attempt), RequestId::new()))
        })
        .collect();
    let problems = [
        Problem::InvalidPath,
        Problem::InvalidRequest,
        Problem::UpgradeRefused,
        Problem::RouteNotConfigured,
        Problem::BodyTooLarge,
        Problem::BodyTooSlow,
        Problem::BodyBroken,
        Problem::Busy,
        Problem::UpstreamUnreachable,
        Problem::UpstreamTimeout,
        Problem::UpstreamFailed,
        Problem::AmbiguousCredentials,
        Problem::PaymentProtocolOff,
        Problem::SeveralPayments,
        Problem::Unauthorized,
        Problem::UnknownClient,
        Problem::NotFound,
        Problem::InvalidBillingRequest,
        Problem::IdempotencyMismatch,
        Problem::RawCardData,
        Problem::Unavailable,
        Problem::WebhookSignature,
        Problem::WebhookTimestamp,
        Problem::WebhookMalformed,
    ];
    let plain = |problem: Problem| (problem.answer(), problem::plain(problem, RequestId::new()));
    answers.extend(problems.map(plain));
    for (answer, response) in answers {
        let text = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let after: Option<u32> = text("retry-after").map(|seconds| seconds.parse().unwrap());
        let helps = HELPS.contains(&answer.code) && answer.retryable && after.is_none_or(|after| after <= 60);
        assert_eq!(text("x-should-retry").unwrap(), helps.to_string(), "{answer:?}");
        assert_eq!(after, answer.retry_after.map(|seconds| seconds.min(3_600)), "{answer:?}");
        if [429, 503].contains(&answer.status) {
            assert!(after.is_some(), "{answer:?}");
        }
        assert!(!helps || answer.status != 402, "a payment is never repeated unasked: {answer:?}");
    }
}

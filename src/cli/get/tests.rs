//! What the arguments mean, and what they never show.

use clap::Parser;
use serde_json::json;

use super::report::{sentence, short};
use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    get: GetArgs,
}

fn parse(extra: &[&str]) -> Result<GetArgs, clap::Error> {
    let mut all = vec!["get", "https://api.example.com/x"];
    all.extend(extra);
    Cli::try_parse_from(all).map(|cli| cli.get)
}

#[test]
fn no_secret_argument_shows_in_debug() {
    let args = parse(&[
        "-H",
        "Authorization: Bearer hush",
        "--card-number",
        "4242424242424242",
        "--card-exp",
        "12/34",
        "--card-cvc",
        "987",
    ]);
    let args = args.expect("arguments");
    let shown = format!("{args:?}");
    for secret in ["hush", "4242", "987"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(matches!(card(&args), Ok(CardSource::Test(_))));
}

#[test]
fn a_real_card_number_is_refused_and_not_repeated() {
    let args = parse(&["--card-number", "4111111111111111", "--card-exp", "12/34", "--card-cvc", "987"])
        .expect("arguments");
    let Err(Usage(message)) = card(&args) else { panic!("refused") };
    assert!(message.contains("--card-file") && !message.contains("4111"), "{message}");
}

#[test]
fn contradictions_are_usage_errors() {
    for wrong in [
        vec!["--card-number", "4242424242424242"],
        vec!["--payment-method", "pm_1", "--card-file", "f"],
        vec!["--timeout", "0"],
    ] {
        assert!(parse(&wrong).is_err(), "{wrong:?}");
    }
    let both = parse(&["-d", "@-", "--card-file", "-"]).expect("arguments");
    assert!(request(&both).is_err());
}

#[test]
fn a_request_is_built() {
    let plain = request(&parse(&[]).expect("arguments"));
    let Ok(plain) = plain else { panic!("valid") };
    assert_eq!((plain.method, plain.body.len()), (Method::GET, 0));
    let post = request(&parse(&["-d", "{}", "-H", "X-Trace: 1"]).expect("arguments"));
    let Ok(post) = post else { panic!("valid") };
    assert_eq!(post.method, Method::POST);
    assert_eq!(post.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()), Some("application/json"));
    assert_eq!(post.headers.get("x-trace").and_then(|v| v.to_str().ok()), Some("1"));
    for header in ["Payment: x", "Host: evil", "no colon", "a b: c", "X: a\r\nY: b"] {
        assert!(parse_header(header).is_err(), "{header}");
    }
}

#[test]
fn a_body_is_bounded() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("body");
    for (length, fits) in [(MAX_BODY, true), (MAX_BODY + 1, false)] {
        File::create(&path).and_then(|file| file.set_len(length)).expect("file");
        assert_eq!(body(&format!("@{}", path.display())).is_ok(), fits, "{length}");
    }
}

#[test]
fn a_key_is_shown_as_a_prefix_only() {
    let key = format!("pck_{}", "a".repeat(43));
    assert_eq!(short(&key), "pck_aaaaaa…");
    assert_eq!(short("short-foreign-key"), "…");
    assert_eq!(short(""), "");
}

#[test]
fn a_sentence_says_what_was_paid() {
    let summary = json!({"toppedUp": "5.00", "paid": "0.05", "balance": "4.95", "currency": "usd", "origin": "https://a:443"});
    assert_eq!(
        sentence(&summary),
        "charged 5.00 usd to the card; paid 0.05 usd; 4.95 usd left at https://a:443"
    );
}

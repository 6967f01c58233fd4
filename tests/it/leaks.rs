//! More canaries than `secrets.rs` has: card numbers in every format that people and programs write them in, what the admin
//! pages and the repeat keys know, and Stripe failing at every step. Nothing of it may be in a log at its loudest, an answer to
//! somebody else, a metric or the database.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::secrets::{Serving, find, serve, serve_with, shown};
use crate::support::program::{finish, program, until};
use crate::support::{DECLINED, GOOD, Pay, SECRET_KEY, World, is_on_sqlite};

/// Test numbers of six brands, in the groups that are printed on their cards.
const NUMBERS: [&[&str]; 6] = [
    &["4242", "4242", "4242", "4242"],
    &["5555", "5555", "5555", "4444"],
    &["3782", "822463", "10005"],
    &["6011", "1111", "1111", "1117"],
    &["3056", "930902", "5904"],
    &["6205", "5000", "0000", "0000", "004"],
];

/// The same digits in other scripts, by their zero.
const ZEROS: [char; 6] = ['０', '٠', '۰', '०', '𝟎', '₀'];

fn in_script(text: &str, zero: char) -> String {
    let digit = |c: char| match c.to_digit(10) {
        Some(digit) => char::from_u32(u32::from(zero) + digit).unwrap(),
        None => c,
    };
    text.chars().map(digit).collect()
}

/// Every format of one number.
fn formats(groups: &[&str]) -> Vec<String> {
    let plain = groups.concat();
    let separators = ["", " ", "-", ".", "/", "_", ",", ":", "  ", " - ", "\t"];
    let mut formats: Vec<String> = separators.iter().map(|separator| groups.join(separator)).collect();
    let unseen = ["\u{a0}", "\u{2009}", "\u{202f}", "\u{2013}", "\u{2011}", "\u{2212}", "\u{200b}", "\u{b7}"];
    formats.extend(unseen.iter().map(|separator| groups.join(separator)));
    formats.extend(
        ZEROS.iter().flat_map(|zero| [in_script(&plain, *zero), in_script(&groups.join(" "), *zero)]),
    );
    formats.push(plain.chars().map(String::from).collect::<Vec<_>>().join(" "));
    formats.push(format!("pm_{plain}"));
    formats.push(format!("pm_card_{}", groups.join("-")));
    for text in [plain.clone(), groups.join(" "), json!({ "number": plain }).to_string()] {
        formats.push(STANDARD.encode(&text));
        formats.push(STANDARD_NO_PAD.encode(&text));
        formats.push(URL_SAFE.encode(&text));
        formats.push(URL_SAFE_NO_PAD.encode(STANDARD.encode(&text)));
        formats.push(utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string());
        formats.push(text.bytes().map(|byte| format!("%{byte:02X}")).collect());
    }
    formats
}

/// What was in a log, an answer, a metric or the database: nothing of these.
async fn nowhere(world: &World, serving: Serving, canaries: &[(&str, String)]) {
    let metrics = world.client.get(&format!("{}/metrics", serving.admin)).await;
    assert_eq!(metrics.status, 200);
    find("the metrics", &metrics.body, canaries);
    drop(serving);
    let folder = world.folder.path();
    for place in ["stderr", "stdout"] {
        find(place, &std::fs::read(folder.join(place)).unwrap(), canaries);
    }
    let log = std::fs::read_to_string(folder.join("stderr")).unwrap();
    assert!(log.contains("TRACE") && !log.contains("panicked"), "{} bytes", log.len());
    for (place, bytes) in &world.stored().await {
        find(place, bytes, canaries);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_number_in_any_format_is_refused_in_a_payment_and_kept_nowhere() {
    if !is_on_sqlite("what is refused before the database is the same with any, and this takes a while") {
        return;
    }
    let world = World::new().await;
    let serving = serve(&world).await;
    let url = |path: &str| format!("{}{path}", serving.url);
    let mut tried = BTreeSet::new();
    for groups in NUMBERS {
        let plain = groups.concat();
        for format in formats(groups) {
            let quoted = serde_json::to_string(&format).unwrap();
            let escaped: String = plain.bytes().map(|digit| format!("\\u00{digit:02x}")).collect();
            let mut headers: Vec<String> = [
                format!("{{\"stripe402Version\":1,\"paymentMethodId\":{quoted}}}"),
                format!("{{\"stripe402Version\":1,\"clientId\":{quoted},\"topUpAmount\":50000}}"),
                format!("{{\"stripe402Version\":1,\"clientId\":\"pck_x\",\"card\":{{\"n\":[{quoted}]}}}}"),
                format!("{{\"stripe402Version\":1,\"clientId\":\"pck_x\",{quoted}:null}}"),
                format!("{{\"stripe402Version\":1,\"clientId\":\"pck_x\",\"n\":{plain}}}"),
                format!("{{\"stripe402Version\":1,\"paymentMethodId\":\"{escaped}\"}}"),
                quoted.clone(),
                format.clone(),
            ]
            .map(|json| STANDARD.encode(json))
            .to_vec();
            if format.is_ascii() {
                headers.push(format.clone());
            }
            for header in &headers {
                let answer = world.client.send("GET", &url("/api/joke"), &[("payment", header)], None).await;
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (400, "raw_card_data_rejected"),
                    "{format:?} as {header}: {}",
                    answer.text()
                );
            }
            for body in [
                format!("{{\"paymentMethodId\":{quoted}}}"),
                format!("{{\"paymentMethodId\":\"{escaped}\"}}"),
                format!("{{\"paymentMethodId\":{quoted}"),
                format!("{{\"paymentMethodId\":\"pm_1\",\"topUpAmount\":{plain}}}"),
            ] {
                // A body that is no JSON is searched as it is; an encoding inside it has no end there.
                if !body.ends_with('}') && format != plain {
                    continue;
                }
                let headers = [("idempotency-key", "k")];
                let sent = Some(("application/json", body.as_bytes()));
                let answer = world.client.send("POST", &url("/billing/top-ups"), &headers, sent).await;
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (400, "raw_card_data_rejected"),
                    "{body}: {}",
                    answer.text()
                );
            }
            // Where nobody pays: passed on or refused, but not written down.
            let in_url = utf8_percent_encode(&format, NON_ALPHANUMERIC).to_string();
            for path in [
                format!("/api/health?card={in_url}"),
                format!("/api/joke?card={in_url}"),
                format!("/{in_url}"),
                format!("/billing/top-ups/{in_url}"),
            ] {
                let headers = [("x-card", in_url.as_str()), ("cookie", &in_url), ("referer", &in_url)];
                world.client.send("GET", &url(&path), &headers, None).await;
            }
            if format.is_ascii() {
                let bearer = format!("Bearer {format}");
                let headers = [("authorization", bearer.as_str())];
                let answer = world.client.send("GET", &url("/billing/balance"), &headers, None).await;
                assert_eq!(answer.status, 400, "{bearer}: {}", answer.text());
            }
            tried.insert(in_url);
            tried.insert(format);
        }
        tried.insert(plain);
    }
    assert!(tried.len() > 200, "{} formats", tried.len());
    assert!(world.upstream.seen().iter().all(|seen| !seen.headers.contains_key("cookie")));
    let canaries: Vec<_> = tried.into_iter().map(|format| ("a card number", format)).collect();
    nowhere(&world, serving, &canaries).await;
}

const KEY_SECRET: &str = "kEy0sEcReT9cAnArY8wXz7QqLmP6vBn5";
const PASSWORD: &str = "canary-password-of-alice-7Q";
const REPEAT_KEY: &str = "canary-repeat-key-51x";

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one story: what goes in, and then everything that comes out")]
async fn nothing_of_the_admin_pages_repeat_keys_or_a_failing_stripe_leaks() {
    let mut world = World::new().await;
    world
        .routes
        .push_str("\n[[upstream.headers]]\nname = \"x-gateway-token\"\nvalue_env = \"UPSTREAM_TOKEN\"\n");
    let token = "canary-of-the-upstream-8w";
    let encoded = STANDARD.encode(KEY_SECRET);
    let key_secret = format!("1:{encoded}");
    let environment = [("PREPAID402_KEY_SECRET", key_secret.as_str()), ("UPSTREAM_TOKEN", token)];
    let serving = serve_with(&world, &environment).await;
    let url = |path: &str| format!("{}{path}", serving.url);
    let admin = |path: &str| format!("{}{path}", serving.admin);
    let mut answers = Vec::new();

    // It listens before its database is open.
    until("the gateway is ready", async || world.client.get(&admin("/readyz")).await.status == 200).await;

    // Somebody who may look at the admin pages, and somebody who may not.
    let mut create = program(
        world.folder.path(),
        &["admin", "create-user", "alice", "--password-stdin", "--config", "prepaid402.toml"],
    );
    create.envs(world.environment());
    let ran = finish(create, Some(PASSWORD)).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!format!("{}{}", ran.out, ran.err).contains(PASSWORD));
    let log_in = async |name: &str, password: &str, site: &str| {
        let form = format!("name={name}&password={password}");
        let headers = [("sec-fetch-site", site)];
        let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
        world.client.send("POST", &admin("/admin/login"), &headers, body).await
    };
    let entered = log_in("alice", PASSWORD, "same-origin").await;
    assert_eq!(entered.status, 303, "{}", entered.text());
    let cookie = entered.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let session = cookie.split_once('=').unwrap().1.to_owned();
    answers.push(log_in("alice", PASSWORD, "cross-site").await);
    answers.push(log_in("mallory", PASSWORD, "same-origin").await);
    answers.push(log_in("alice", &format!("{PASSWORD}x"), "same-origin").await);
    answers.push(log_in("alice", &format!("{PASSWORD}&name={}", "x".repeat(9_000)), "same-origin").await);
    // Typed into the wrong field: shown again to who typed it, and to nobody else.
    log_in(PASSWORD, "x", "same-origin").await;
    for path in ["/admin", "/admin/clients", "/admin/payments", "/admin/nothing", "/admin/clients?q=x"] {
        answers.push(world.client.send("GET", &admin(path), &[("cookie", &cookie)], None).await);
        let changed = format!("{cookie}x");
        answers.push(world.client.send("GET", &admin(path), &[("cookie", &changed)], None).await);
        // What is searched for is shown again to who searches.
        let in_path = admin(&format!("{path}/{session}?session={session}&password={PASSWORD}"));
        let answer = world.client.send("GET", &in_path, &[("cookie", &cookie)], None).await;
        answers.extend(Some(answer).filter(|_| !path.contains('?')));
    }
    assert!(answers.iter().any(|answer| answer.status == 200), "the session is alive");

    // Stripe fails once at each step of a payment; each of these is paid in the end, or refused.
    let mut cards = Vec::new();
    let mut clients = Vec::new();
    for step in
        ["payment_methods.retrieve", "customers.create", "payment_intents.create", "payment_intents.confirm"]
    {
        for action in ["fail_before", "fail_after"] {
            world.faults(json!([{ "on": step, "action": action, "times": 1 }])).await;
            let card = world.tokenise(GOOD).await;
            let header = Pay::card(&card).header();
            let headers = [("payment", header.as_str()), ("idempotency-key", REPEAT_KEY)];
            let answer = world.client.send("GET", &url("/up/status/200"), &headers, None).await;
            if let Some(receipt) = answer.try_receipt().filter(|receipt| !receipt.client_id.is_empty()) {
                clients.push(receipt.client_id);
            }
            cards.push(card);
            answers.push(answer);
            world.clear_faults().await;
        }
    }
    assert!(clients.len() > 3, "{clients:?}");
    let client = clients[0].clone();

    // Repeat keys: used, used again with another body, and malformed; with cards that are declined, and in billing.
    let declined = world.tokenise(DECLINED).await;
    for (path, pay) in [
        ("/up/status/200", Pay::client(&client)),
        ("/up/status/200?other", Pay::client(&client)),
        ("/up/status/500", Pay::client(&client)),
        ("/up/refuse", Pay::client(&client)),
        ("/up/cut/5", Pay::client(&client)),
        ("/up/status/200", Pay::client(&client).max(1)),
        ("/up/status/200", Pay::card(&declined)),
    ] {
        for method in ["GET", "POST"] {
            for key in [REPEAT_KEY.to_owned(), format!("{REPEAT_KEY} x"), REPEAT_KEY.repeat(20)] {
                let header = pay.header();
                let headers = [("payment", header.as_str()), ("idempotency-key", &key)];
                answers.extend(world.client.try_send(method, &url(path), &headers, None).await.ok());
            }
        }
    }
    for card in [&declined, &cards[1]] {
        for units in [50_000, 60_000, 1] {
            let bearer = format!("Bearer {client}");
            let headers = [("authorization", bearer.as_str()), ("idempotency-key", REPEAT_KEY)];
            let body = json!({ "paymentMethodId": card, "topUpAmount": units }).to_string();
            let body = Some(("application/json", body.as_bytes()));
            answers.push(world.client.send("POST", &url("/billing/top-ups"), &headers, body).await);
        }
    }
    // A webhook's secret has no place here, but somebody will send one.
    let webhook = concat!("wh", "sec_CanaryCanaryCanary");
    for path in ["/webhooks/stripe", "/up/status/200", "/billing/balance"] {
        let headers = [
            ("stripe-signature", webhook),
            ("authorization", webhook),
            ("payment", webhook),
            ("cookie", webhook),
        ];
        answers.push(
            world.client.send("POST", &url(path), &headers, Some(("text/plain", webhook.as_bytes()))).await,
        );
    }

    let mut canaries = vec![
        ("the admin's password", PASSWORD.to_owned()),
        ("the session", session),
        ("the key secret", encoded),
        ("the key secret itself", KEY_SECRET.to_owned()),
        ("a repeat key", REPEAT_KEY.to_owned()),
        ("Stripe's secret key", SECRET_KEY.to_owned()),
        ("the upstream's credential", token.to_owned()),
        ("a webhook's secret", webhook.to_owned()),
        ("a declined card token", declined),
    ];
    canaries.extend(cards.into_iter().map(|card| ("a card token", card)));
    canaries.extend(clients.iter().map(|client| ("a clientId", client.clone())));
    for answer in &answers {
        let mut text = shown(answer);
        for client in &clients {
            text = text.replace(&format!("\"clientId\":\"{client}\""), "");
        }
        find("an answer", text.as_bytes(), &canaries);
    }
    nowhere(&world, serving, &canaries).await;
}

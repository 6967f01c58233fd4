//! What our heads hold: no more than proxies take, and an envelope that clients of other protocols can read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::program::run;
use crate::support::raw::{Raw, header_of, status_of};
use crate::support::{DECLINED, GOOD, Pay, World, dice, process};

/// What nginx reads a head into, where nobody has said otherwise, less what it keeps of that for itself when it caches.
const PROXY_BUFFER: usize = 4096 - 300;

/// A route with a description of 500 Cyrillic letters, and eight options with labels.
fn large(world: &mut World) {
    let description = "Ж".repeat(500);
    world.routes = format!(
        "[[routes]]\nmethods = [\"GET\", \"POST\"]\npath = \"/up/*\"\nprice = \"0.05\"\ndescription = \"{description}\"\n"
    );
    world.packs = (1..=8)
        .map(|n| {
            let label = format!("Пакет номер {n}: {}", "ж".repeat(50));
            format!(
                "[[top_up.options]]\namount = \"{}.00\"\nbonus = \"{n}.00\"\nlabel = \"{label}\"\n",
                n * 5
            )
        })
        .collect();
}

/// The head of the answer to a request on a socket of its own.
async fn head(url: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut raw = Raw::connect(url).await;
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    raw.send(format!("{method} {target} HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 0\r\n{lines}\r\n"))
        .await;
    whole_head(&mut raw).await
}

/// As it is sent: base64 has capitals.
async fn whole_head(raw: &mut Raw) -> String {
    raw.until("\r\n\r\n").await;
    let text = raw.text();
    let end = text.find("\r\n\r\n").unwrap() + 4;
    text[..end].to_owned()
}

fn decoded(head: &str) -> Value {
    let header = header_of(head, "payment-required").unwrap_or_else(|| panic!("no offer in {head}"));
    serde_json::from_slice(&STANDARD.decode(header.trim()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_in_many_letters_fits_into_a_proxys_buffer_and_can_be_paid_from_the_header() {
    let mut world = World::new().await;
    large(&mut world);
    let gateway = world.gateway().await;
    let card = world.tokenise(DECLINED).await;
    let declined = Pay::card(&card).header();
    let unknown = Pay::client("pck_nobody").header();
    let long = format!("/up/{}", "a".repeat(4000));
    for (method, target, headers) in [
        ("GET", "/up/status/200", vec![]),
        ("HEAD", "/up/status/200", vec![]),
        ("POST", "/up/status/200", vec![]),
        ("GET", long.as_str(), vec![]),
        ("GET", "/up/status/200", vec![("payment", declined.as_str())]),
        ("GET", long.as_str(), vec![("payment", declined.as_str())]),
        ("GET", "/up/status/200", vec![("payment", unknown.as_str())]),
        ("GET", "/up/status/200", vec![("payment", "nonsense")]),
    ] {
        let head = head(&gateway.url, method, target, &headers).await;
        assert_eq!(status_of(&head), 402, "{head}");
        assert!(head.len() <= PROXY_BUFFER, "{} bytes: {method} {target} {headers:?}", head.len());
        let offer = decoded(&head);
        let way = &offer["accepts"][0];
        assert_eq!((&way["amount"], &way["minTopUp"]), (&json!(500), &json!(50_000)), "{offer}");
        assert_eq!(way["publishableKey"], "pk_test_it", "{offer}");
        assert!(way["description"].as_str().unwrap().starts_with("ЖЖЖ"), "{offer}");
        let packs = offer["topUpOptions"].as_array().unwrap();
        assert_eq!(packs.len(), 8, "{offer}");
        assert_eq!((&packs[1]["amount"], &packs[1]["credits"]), (&json!(100_000), &json!(120_000)));
        assert!(
            offer["resource"]["url"].as_str().unwrap().starts_with("https://api.example.com/"),
            "{offer}"
        );
    }
    // The body has all.
    let whole = gateway.get("/up/status/200").await.json();
    assert_eq!(whole["resource"]["description"].as_str().map(|text| text.chars().count()), Some(500));
    assert!(whole["topUpOptions"][7]["label"].as_str().unwrap().starts_with("Пакет номер 8"));
    assert!(whole["message"].as_str().unwrap().starts_with("This request costs money"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_fits_is_the_same_in_header_and_body() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let head = head(&gateway.url, "GET", "/api/weather", &[]).await;
    let mut header = decoded(&head);
    let mut body = gateway.get("/api/weather").await.json();
    for offer in [&mut header, &mut body] {
        offer["requestId"].take();
    }
    assert_eq!(header, body);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_says_whose_offer_a_header_cannot_hold() {
    let mut world = World::new().await;
    let folder = world.folder.path().to_owned();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 4402));
    let file = folder.join("prepaid402.toml");
    for (is_large, warns) in [(false, false), (true, true)] {
        if is_large {
            large(&mut world);
        }
        std::fs::write(&file, world.toml(any, ([127, 0, 0, 1], 4403).into())).unwrap();
        std::fs::write(folder.join(".env"), "STRIPE_SECRET_KEY=sk_test_it\n").unwrap();
        let ran = run(&folder, &["check-config", "--config", file.to_str().unwrap()]).await;
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        let told = ran.out.contains("warning: The offer of GET,POST /up/* is too long for a header");
        assert_eq!(told, warns, "{}", ran.out);
        assert_eq!(ran.out.contains("too long for a header"), warns, "{}", ran.out);
    }
}

/// What clients of x402 version 2 and of MPP ask of an envelope before they look for a way to pay.
fn assert_is_an_envelope(offer: &Value, url: &str) {
    assert_eq!((&offer["stripe402Version"], &offer["x402Version"]), (&json!(1), &json!(2)), "{offer}");
    assert_eq!(offer["resource"]["url"], url, "{offer}");
    for way in offer["accepts"].as_array().unwrap() {
        // As numbers, for the clients of stripe402; by scheme and network others know that it is not for them.
        assert!(way["amount"].is_i64() && way["minTopUp"].is_i64(), "{offer}");
        assert_eq!((&way["scheme"], &way["network"]), (&json!("stripe"), &json!("stripe:usd")), "{offer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_402_is_an_x402_envelope_with_an_absolute_url() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let wallet = gateway.pay("/api/weather", &Pay::card(&card)).await.receipt().client_id;
    let declined = world.tokenise(DECLINED).await;
    let payments = [
        Pay::client("pck_nobody").header(),
        Pay::card(&declined).header(),
        Pay::client(&wallet).max(1).header(),
        Pay::client(&wallet).with_card(&card).top_up(1).max(1).header(),
        "nonsense".to_owned(),
    ];
    let forged = [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "ftp"),
        ("forwarded", "host=evil.example"),
    ];
    for method in ["GET", "HEAD"] {
        let head = head(&gateway.url, method, "/api/weather?city=oslo", &forged).await;
        assert_eq!(status_of(&head), 402, "{head}");
        assert_is_an_envelope(&decoded(&head), "https://api.example.com/api/weather");
    }
    for payment in &payments {
        let head = head(&gateway.url, "GET", "/api/weather", &[("payment", payment)]).await;
        assert_eq!(status_of(&head), 402, "{head}");
        assert_is_an_envelope(&decoded(&head), "https://api.example.com/api/weather");
    }
    let body = json!({ "paymentMethodId": declined, "topUpAmount": 50_000 }).to_string();
    let key = [("idempotency-key", "one")];
    for _ in 0..2 {
        let url = format!("{}/billing/top-ups", gateway.url);
        let body = Some(("application/json", body.as_bytes()));
        let refused = world.client.send("POST", &url, &key, body).await;
        assert_eq!((refused.status, refused.code().as_str()), (402, "card_declined"));
        let offer = serde_json::to_value(refused.offer()).unwrap();
        assert_is_an_envelope(&offer, "https://api.example.com/billing/top-ups");
    }
    gateway.stop().await;
}

/// `public_url` is what the seller has set. Where nobody has, an offer names what was asked for, if that can be a host.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_public_url_is_set_the_callers_host_counts_and_no_other_header() {
    let world = World::new().await;
    for (trusted, scheme) in [("", "http"), ("trusted_proxies = [\"127.0.0.1\"]\n", "https")] {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let toml = world.toml(any, process::lasting_port(&mut dice::Dice::random()));
        let toml = toml.replace("public_url = \"https://api.example.com\"\n", trusted);
        let loaded =
            prepaid402::config::load_from(Some(&toml), world.folder.path(), &world.environment()).unwrap();
        let app = prepaid402::app::start(loaded.config, None).await.unwrap();
        let url = format!("http://{}", app.address);
        for (host, told) in [
            ("shop.example", format!("{scheme}://shop.example")),
            ("Shop.Example:8443", format!("{scheme}://shop.example:8443")),
            ("[2001:db8::1]:80", format!("{scheme}://[2001:db8::1]:80")),
            ("user@evil.example", "http://127.0.0.1:4402".to_owned()),
            ("evil.example/path", "http://127.0.0.1:4402".to_owned()),
            ("0x7f.1", "http://127.0.0.1:4402".to_owned()),
            ("", "http://127.0.0.1:4402".to_owned()),
        ] {
            let mut raw = Raw::connect(&url).await;
            raw.send(format!(
                "GET /api/weather HTTP/1.1\r\nhost: {host}\r\nx-forwarded-host: evil.example\r\nx-forwarded-proto: https\r\n\
                 forwarded: host=evil.example;proto=https\r\n\r\n"
            ))
            .await;
            let head = whole_head(&mut raw).await;
            if status_of(&head) == 400 {
                continue;
            }
            assert_eq!(decoded(&head)["resource"]["url"], format!("{told}/api/weather"), "{host}");
        }
        app.stop().await;
    }
}

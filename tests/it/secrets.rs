//! Canaries: what nobody may read is put into every input, and looked for in every output, with the log at its loudest.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::http::Answer;
use crate::support::raw::{Raw, eventually};
use crate::support::{DECLINED, GOOD, Pay, SECRET_KEY, World, free_listener};

const UPSTREAM_TOKEN: &str = "canary-upstream-token";
const COOKIE: &str = "canary-cookie-value";
/// A live-looking key in a caller's input: split, so that scanners of repositories are not alarmed.
const STRAY_KEY: &str = concat!("sk_", "live_51CanaryCanaryCanaryCanary");

pub struct Serving {
    child: Child,
    pub url: String,
    pub admin: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn serve(world: &World) -> Serving {
    serve_with(world, &[]).await
}

/// With the log at its loudest, in the files `stdout` and `stderr`.
pub async fn serve_with(world: &World, environment: &[(&str, &str)]) -> Serving {
    let (one, two) = (free_listener(), free_listener());
    let address = |listener: &std::net::TcpListener| listener.local_addr().unwrap();
    let (listen, admin): (SocketAddr, SocketAddr) = (address(&one), address(&two));
    drop((one, two));
    let folder = world.folder.path();
    std::fs::write(folder.join("prepaid402.toml"), world.toml(listen, admin)).unwrap();
    let file = |name: &str| std::fs::File::create(folder.join(name)).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_prepaid402"))
        .args(["serve", "--config", "prepaid402.toml"])
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .envs(world.environment())
        .env("UPSTREAM_TOKEN", UPSTREAM_TOKEN)
        .envs(environment.iter().copied())
        .env("PREPAID402_LOG__FILTER", "trace")
        .env("RUST_BACKTRACE", "full")
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .unwrap();
    eventually("the gateway listens", async || {
        tokio::net::TcpStream::connect(listen).await.is_ok()
            && tokio::net::TcpStream::connect(admin).await.is_ok()
    })
    .await;
    Serving { child, url: format!("http://{listen}"), admin: format!("http://{admin}") }
}

/// Everything that an answer shows to somebody who is not its owner: without `payment-response`.
pub fn shown(answer: &Answer) -> String {
    let mut text = answer.text();
    for (name, value) in &answer.headers {
        if name != "payment-response" {
            let value = String::from_utf8_lossy(value.as_bytes());
            text.push_str(&format!("\n{name}: {value}"));
            text.push_str(
                &STANDARD
                    .decode(value.as_bytes())
                    .map(|v| String::from_utf8_lossy(&v).into_owned())
                    .unwrap_or_default(),
            );
        }
    }
    text
}

pub fn find(place: &str, bytes: &[u8], canaries: &[(&str, String)]) {
    let all = AhoCorasick::new(canaries.iter().map(|(_, canary)| canary)).unwrap();
    if let Some(found) = all.find(bytes) {
        let name = canaries[found.pattern().as_usize()].0;
        let around = &bytes[found.start().saturating_sub(300)..(found.end() + 100).min(bytes.len())];
        panic!("{name} is in {place}: …{}…", String::from_utf8_lossy(around));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one story: what goes in, and then everything that comes out")]
async fn no_secret_is_in_a_log_an_answer_a_metric_or_the_database() {
    let mut world = World::new().await;
    world
        .routes
        .push_str("\n[[upstream.headers]]\nname = \"x-gateway-token\"\nvalue_env = \"UPSTREAM_TOKEN\"\n");
    let serving = serve(&world).await;
    let url = |path: &str| format!("{}{path}", serving.url);
    let (good, declined) = (world.tokenise(GOOD).await, world.tokenise(DECLINED).await);
    let mut answers = Vec::new();

    // Success, decline, and every failure of the upstream, with the owner's credentials.
    let pay = async |method: &str, path: &str, pay: &Pay| {
        let header = pay.header();
        let cookie = format!("session={COOKIE}");
        let headers = [("payment", header.as_str()), ("cookie", &cookie), ("authorization", STRAY_KEY)];
        world.client.try_send(method, &url(path), &headers, None).await
    };
    let first = pay("GET", "/api/status", &Pay::card(&good)).await.unwrap();
    assert_eq!(first.status, 404, "not sold");
    let first = pay("GET", "/up/status/200", &Pay::card(&good)).await.unwrap();
    assert_eq!(first.status, 200, "{}", first.text());
    let client = first.receipt().client_id;
    answers.push(first);
    for path in [
        "/up/status/200",
        "/up/status/500",
        "/up/refuse",
        "/up/hang",
        "/up/cut/5",
        "/up/cut-chunked/5",
        "/up/stall",
        "/api//x",
    ] {
        answers.extend(pay("GET", path, &Pay::client(&client)).await.ok());
    }
    for pay_with in
        [Pay::card(&declined), Pay::client(&client).with_card(&declined), Pay::client(&client).max(1)]
    {
        answers.extend(pay("GET", "/up/status/200", &pay_with).await.ok());
    }
    let canaries = [
        ("the clientId", client.clone()),
        ("its payment header", Pay::client(&client).header()),
        ("the card token", good.clone()),
        ("the declined card token", declined.clone()),
        ("Stripe's secret key", SECRET_KEY.to_owned()),
        ("a stray secret key", STRAY_KEY.to_owned()),
        ("a card number", GOOD.to_owned()),
        ("a spaced card number", "4242 4242 4242 4242".to_owned()),
        ("the upstream's credential", UPSTREAM_TOKEN.to_owned()),
        ("a cookie", COOKIE.to_owned()),
    ];

    // Malformed inputs that hold the canaries.
    for (_, canary) in &canaries {
        let encoded = STANDARD.encode(format!("{{\"stripe402Version\":1,\"clientId\":\"{canary}\""));
        let member = STANDARD.encode(format!("{{\"stripe402Version\":1,\"paymentMethodId\":\"{canary}\"}}"));
        for header in [canary, &encoded, &member, &format!("{canary},{canary}")] {
            answers
                .push(world.client.send("GET", &url("/up/status/200"), &[("payment", header)], None).await);
            let bearer = format!("Bearer {header}x");
            answers.push(
                world.client.send("GET", &url("/billing/balance"), &[("authorization", &bearer)], None).await,
            );
        }
        let in_url = canary.replace(' ', "%20");
        let paths = [
            format!("/billing/entries?cursor={in_url}"),
            format!("/billing/balance?clientId={in_url}"),
            format!("/billing/top-ups/{in_url}"),
            format!("/nowhere/{in_url}"),
            format!("/nowhere?key={in_url}"),
            format!("/api/weather?key={in_url}"),
            format!("/api/weather//{in_url}"),
        ];
        // No caller knows the other two, and they have no shape to be known by in a path.
        for path in paths.iter().filter(|_| !canary.starts_with("canary-")) {
            let authorization = format!("Bearer {client}");
            answers
                .push(world.client.send("GET", &url(path), &[("authorization", &authorization)], None).await);
            answers.push(world.client.send("GET", &url(path), &[], None).await);
        }
        for body in [
            json!({ "paymentMethodId": canary }).to_string(),
            format!("{{\"paymentMethodId\":\"{canary}\""),
            canary.clone(),
        ] {
            let headers = [("idempotency-key", canary.as_str())];
            let body = Some(("application/json", body.as_bytes()));
            answers.push(world.client.send("POST", &url("/billing/top-ups"), &headers, body).await);
        }
        let mut raw = Raw::connect(&serving.url).await;
        raw.send(format!(
            "GET /api/weather HTTP/1.1\r\nhost: a\r\npayment: {canary}\r\n bad fold {canary}\r\n\r\n"
        ))
        .await;
        raw.rest().await;
    }
    // Stripe says the ids back in its errors.
    let fault = json!([{ "on": "payment_intents.confirm", "action": "fail_before", "times": 1 }]);
    world.faults(fault).await;
    let fresh = world.tokenise(GOOD).await;
    answers.extend(pay("GET", "/up/status/200", &Pay::card(&fresh)).await.ok());
    answers.extend(pay("GET", "/up/status/200", &Pay::card("pm_1CanaryUnknownMethod")).await.ok());

    assert!(answers.len() > 100);
    for answer in &answers {
        // The reference's error shape names the presented clientId in the body, to its owner alone.
        let own = format!("\"clientId\":\"{client}\"");
        find("an answer", shown(answer).replace(&own, "").as_bytes(), &canaries);
    }
    let metrics = world.client.get(&format!("{}/metrics", serving.admin)).await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("prepaid402"), "{}", metrics.text());
    find("the metrics", &metrics.body, &canaries);
    drop(serving);

    let mut all = canaries.to_vec();
    all.extend([
        ("the fresh card token", fresh),
        ("an unknown card token", "pm_1CanaryUnknownMethod".to_owned()),
    ]);
    let folder = world.folder.path();
    for place in ["stderr", "stdout"] {
        find(place, &std::fs::read(folder.join(place)).unwrap(), &all);
    }
    let log = std::fs::read_to_string(folder.join("stderr")).unwrap();
    assert!(
        log.contains("TRACE") && log.contains("DEBUG"),
        "the log was at its loudest: {} bytes",
        log.len()
    );
    assert!(!log.contains("panicked"), "{log}");
    let stored = world.stored().await;
    for (place, bytes) in &stored {
        find(place, bytes, &all);
    }
    assert!(stored.len() >= 2, "the database and the key secret");
}

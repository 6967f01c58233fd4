//! Unmodified packages of others against our gateway: clients of other protocols, and SDKs that repeat requests by themselves.
//!
//! They are not installed by a build. To run these tests, install them outside the checkout and name the folder:
//!
//! ```text
//! npm install --no-save --ignore-scripts --legacy-peer-deps mppx@0.11.0 @x402/core@2.27.0 @x402/fetch@2.27.0 \
//!     @x402/evm@2.27.0 viem@2.57.20 openai@6.49.0 @anthropic-ai/sdk@1.14.0
//! python3 -m venv venv && venv/bin/pip install openai==3.57.0 anthropic==2.14.0
//! PREPAID402_PACKAGES=that/folder cargo test --test it other_clients
//! ```

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::postgres::skipped;
use crate::support::program::{clean, finish};
use crate::support::raw::eventually;
use crate::support::{DECLINED, GOOD, Pay, ROUTES, World};

/// The folder with what is installed there. `None`, said plainly, when it is not.
fn packages(part: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("PREPAID402_PACKAGES").map(PathBuf::from);
    let found = folder.filter(|folder| folder.join(part).exists());
    if found.is_none() {
        skipped(&format!("no {part} in the folder PREPAID402_PACKAGES, see tests/it/other_clients.rs"));
    }
    found
}

/// Runs a script beside the packages, where Node looks for them, and reads its line of JSON.
async fn node(packages: &Path, script: &str, arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(packages.join("node_modules"), folder.path().join("node_modules")).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(script);
    std::fs::copy(source, folder.path().join(script)).unwrap();
    let mut command = clean(folder.path(), "node");
    command.arg(script).args(arguments);
    report(command).await
}

async fn report(command: tokio::process::Command) -> Value {
    let ran = finish(command, None).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    serde_json::from_str(ran.out.lines().last().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_x402_and_mpp_read_our_402_and_take_from_it_what_is_theirs() {
    let Some(packages) = packages("node_modules/mppx") else { return };
    let world = World::new().await;
    let gateway = world.gateway().await;
    let declined = Pay::card(&world.tokenise(DECLINED).await).header();
    let report = node(&packages, "neighbours.mjs", &[&gateway.url, &declined]).await;
    // They cannot pay, and say so; that is not the same as an answer that they cannot read.
    let said = |client: &str| report[client].as_str().unwrap().to_owned();
    let x402 = said("x402Fetch");
    assert!(x402.contains("No network/scheme registered for x402 version: 2"), "{x402}");
    let mppx = said("mppxFetch");
    assert!(mppx.contains("No method found for challenges: . Available: stripe.charge"), "{mppx}");
    for answer in ["unpaid", "head", "refused"] {
        let read = &report[answer];
        assert_eq!((&read["x402"], &read["x402WithAWayOfItsOwn"]), (&json!(2), &json!("exact")), "{report}");
        assert_eq!(
            (&read["mppx"], &read["mppxWithAWayOfItsOwn"]),
            (&json!(0), &json!("api.example.com")),
            "{report}"
        );
    }
    gateway.stop().await;
}

/// Refusals, each with how often an SDK asks when it is refused so.
async fn refusals(world: &World, url: &str) -> Vec<(Value, u64)> {
    let ask = |path: &str, headers: Value| (path.to_owned(), headers);
    let first = world.tokenise(DECLINED).await;
    let (second, good) = (world.tokenise(DECLINED).await, world.tokenise(GOOD).await);
    let pay = async |pay: &Pay| {
        world.client.send("GET", &format!("{url}/api/weather"), &[("payment", &pay.header())], None).await
    };
    let wallet = pay(&Pay::card(&good)).await.receipt().client_id;
    assert_eq!(pay(&Pay::card(&first)).await.code(), "card_declined");
    let spends = Pay::client(&wallet).header();
    let keyed = [("payment", spends.as_str()), ("idempotency-key", "used")];
    let used = world.client.send("GET", &format!("{url}/api/weather?a=1"), &keyed, None).await;
    assert_eq!(used.status, 200);
    let running = [("payment", spends.clone()), ("idempotency-key", "running".to_owned())];
    let (client, target) = (world.client.clone(), format!("{url}/up/wait"));
    tokio::spawn(async move {
        let headers = running.each_ref().map(|(name, value)| (*name, value.as_str()));
        let _ = client.try_send("GET", &target, &headers, None).await;
    });
    eventually("the API works", async || world.upstream.seen().iter().any(|seen| seen.target == "/up/wait"))
        .await;
    let cases = [
        ("402 payment_required", ask("/api/weather", json!({})), 1),
        ("429 too_many_attempts", ask("/api/weather", json!({ "payment": Pay::card(&second).header() })), 1),
        ("404 route_not_configured", ask("/nothing", json!({})), 1),
        // The first one ends with 504, which may be repeated, and the next one with 409.
        (
            "409 idempotency_outcome_unknown",
            ask("/up/wait", json!({ "payment": spends, "idempotency-key": "post-{sdk}" })),
            2,
        ),
        (
            "409 idempotency_in_flight",
            ask("/up/wait", json!({ "payment": spends, "idempotency-key": "running" })),
            3,
        ),
        (
            "422 idempotency_mismatch",
            ask("/api/weather?a=2", json!({ "payment": spends, "idempotency-key": "used" })),
            1,
        ),
    ];
    let case = |(name, (path, headers), requests): (&str, (String, Value), u64)| {
        let method = if name.contains("outcome_unknown") { "post" } else { "get" };
        let case = json!({ "name": name, "method": method, "base": url, "path": path, "headers": headers });
        (case, requests)
    };
    cases.map(case).into()
}

/// What both languages' SDKs must do.
fn assert_obeyed(report: &Value, expected: &[(Value, u64)]) {
    for sdk in ["openai", "anthropic"] {
        for (case, requests) in expected {
            let did = &report[sdk][case["name"].as_str().unwrap()];
            assert_eq!(did["requests"], *requests, "{sdk} {}: {did}", case["name"]);
            let status = case["name"].as_str().unwrap().get(..3).unwrap();
            assert!(did["message"].as_str().is_some_and(|message| message.contains(status)), "{sdk}: {did}");
            assert!(did["slept"].as_i64().unwrap() <= 10, "{sdk} {}: {did}", case["name"]);
        }
    }
    if std::env::var_os("PREPAID402_SHOW").is_some() {
        println!("{report:#}");
    }
}

async fn world_for_sdks() -> World {
    let waits = "[[routes]]\npath = \"/up/wait\"\nprice = \"0.05\"\nresponse_timeout = \"60s\"\n";
    let mut world = World::with("", &format!("{ROUTES}\n{waits}")).await;
    world.shield = "[shield]\ncard_declines_a_day = 1\nnetwork_cards_a_day = 10000\n".to_owned();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_for_node_repeat_what_they_are_told_to_repeat_and_nothing_else() {
    let Some(packages) = packages("node_modules/openai") else { return };
    let world = world_for_sdks().await;
    let gateway = world.gateway().await;
    let refusals = refusals(&world, &gateway.url).await;
    let cases = json!(refusals.iter().map(|(case, _)| case).collect::<Vec<_>>()).to_string();
    assert_obeyed(&node(&packages, "sdks.mjs", &[&cases]).await, &refusals);
    world.upstream.release(10);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_for_python_repeat_what_they_are_told_to_repeat_and_nothing_else() {
    let Some(packages) = packages("venv/bin/python") else { return };
    let world = world_for_sdks().await;
    let gateway = world.gateway().await;
    let refusals = refusals(&world, &gateway.url).await;
    let cases = json!(refusals.iter().map(|(case, _)| case).collect::<Vec<_>>()).to_string();
    let mut command = clean(world.folder.path(), packages.join("venv/bin/python").to_str().unwrap());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/sdks.py")).arg(&cases);
    assert_obeyed(&report(command).await, &refusals);
    world.upstream.release(10);
    gateway.stop().await;
}

//! Prices, settings, the admin address, and the end.

use super::*;
use crate::support::program::{finish, program};
use crate::support::{empty_disk, fill_disk};

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_cannot_be_charged_is_refused() {
    let world = World::new().await;
    let paywall = Embedded::start(settings(&world, "")).await.unwrap();
    for (price, says) in [
        ("0", "above zero"),
        ("0.00", "above zero"),
        ("x", "price"),
        ("", "price"),
        ("-1", "price"),
        ("1e3", "price"),
        ("0.0000001", "price"),
        ("500.01", "top_up.maximum"),
        ("99999999999999999999", "price"),
    ] {
        let refused = paywall.price(price).expect_err(price).to_string();
        assert!(refused.contains(says), "{price}: {refused}");
    }
    for price in ["0.01", "0.000001", "5", "500.00"] {
        paywall.price(price).unwrap_or_else(|error| panic!("{price}: {error}"));
    }
    paywall.stop().await;
    paywall.stop().await; // twice is once
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_somebody_could_not_go_on_paying_is_refused() {
    let mut world = World::new().await;
    world.packs = "[top_up]\nminimum = \"5.00\"\nmaximum = \"5.00\"\nmax_balance = \"5.05\"\n".to_owned();
    let paywall = Embedded::start(settings(&world, "")).await.unwrap();
    paywall.price("0.05").unwrap();
    let refused = paywall.price("0.06").expect_err("4.99 and 5.00 are more than 5.05").to_string();
    assert!(refused.contains("top_up.max_balance to 5.06 USD"), "{refused}");
    paywall.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_gateway_is_refused_in_the_file() {
    let world = World::new().await;
    for (section, name) in [
        ("[[routes]]\npath = \"/a\"\nprice = \"0.05\"", "routes"),
        ("[upstream]\nurl = \"http://127.0.0.1:1\"", "upstream"),
        ("[upstream]\nidle_timeout = \"1s\"", "upstream"),
    ] {
        let problems = try_settings(&world, section).expect_err(section).to_string();
        assert!(problems.contains(name) && problems.contains("belongs to the gateway"), "{problems}");
        assert!(problems.contains("handler"), "it says what to do instead: {problems}");
    }
    let problems = try_settings(&world, "[nonsense]\na = 1").expect_err("unknown").to_string();
    assert!(problems.contains("nonsense"), "{problems}");
    try_settings(&world, "[idempotency]\nkeep = \"1h\"").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_takes_paid_without_a_price_is_a_mistake_that_is_told() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let answer = shop.get("/unwrapped", &Pay::client(&client)).await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("not wrapped with a price"), "{}", answer.text());
    assert_eq!((shop.handlers.calls(), shop.balance(&client).await), (0, PACK));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_address_has_health_and_metrics_and_the_shop_has_billing() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    assert_eq!(shop.get("/five", &Pay::client(&client)).await.status, 200);
    assert_eq!(shop.get("/status/500", &Pay::client(&client)).await.status, 500);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(world.client.get(&format!("{}{path}", shop.admin_url)).await.status, 200, "{path}");
        assert_eq!(
            world.client.get(&format!("{}{path}", shop.url)).await.status,
            404,
            "{path} is not public"
        );
    }
    let metrics = world.client.get(&format!("{}/metrics", shop.admin_url)).await.text();
    for outcome in ["Paid", "NotCharged"] {
        let line = metrics
            .lines()
            .find(|line| line.contains(&format!("\"{outcome}\"")) && line.contains("requests"));
        assert!(line.is_some_and(|line| line.ends_with(" 1")), "{outcome}: {line:?}\n{metrics}");
    }
    let admin = world.client.get(&format!("{}/admin", shop.admin_url)).await;
    assert!(admin.status < 500 && admin.status != 404, "{}", admin.status);
    // Billing: entries, and a second top-up.
    let bearer = format!("Bearer {client}");
    let entries = world
        .client
        .send("GET", &format!("{}/billing/entries", shop.url), &[("authorization", &bearer)], None)
        .await;
    assert_eq!(entries.status, 200, "{}", entries.text());
    assert!(entries.text().contains("GET /five"), "{}", entries.text());
    assert_eq!(world.client.get(&format!("{}/billing/balance", shop.url)).await.status, 401);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_can_be_written_no_handler_works_and_no_card_is_charged() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    assert_eq!(shop.get("/five", &Pay::client(&client)).await.status, 200);
    let away = world.folder.path().join("away.db");
    if world.database.is_shared() {
        fill_disk(&world.database).await;
        // The first one finds it out.
        assert_eq!(shop.get("/five", &Pay::client(&client)).await.code(), "capture_unknown");
    } else {
        std::fs::rename(world.file(), &away).unwrap();
    }
    let status = || async { world.client.get(&format!("{}/readyz", shop.admin_url)).await.status };
    eventually("it is not ready", || async { status().await == 503 }).await;
    let (calls, card) = (shop.handlers.calls(), world.tokenise(GOOD).await);
    for (method, pay, key) in [
        ("GET", Pay::client(&client), None),
        ("POST", Pay::client(&client), None),
        ("POST", Pay::client(&client), Some("k")),
        ("GET", Pay::card(&card), None),
        ("GET", Pay::client(&client).with_card(&card).top_up(500_000), None),
    ] {
        let answer = shop.send(method, "/five", &pay, key).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "busy"), "{method}: {}", answer.text());
    }
    assert_eq!(shop.handlers.calls(), calls, "no handler works");
    assert_eq!(world.succeeded_charges().await.len(), 1);
    if world.database.is_shared() {
        empty_disk(&world.database).await;
    } else {
        std::fs::rename(&away, world.file()).unwrap();
    }
    eventually("it is ready again", || async { status().await == 200 }).await;
    assert_eq!(
        shop.get("/five", &Pay::client(&client)).await.receipt().credits_remaining.unwrap(),
        PACK - 2 * PRICE
    );
    shop.close().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_stop_requests_are_refused_and_nothing_is_charged() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    assert_eq!(shop.get("/five", &Pay::client(&client)).await.status, 200);
    shop.paywall.stop().await;
    let card = world.tokenise(GOOD).await;
    for (method, pay, key) in [
        ("GET", Pay::client(&client), None),
        ("POST", Pay::client(&client), None),
        ("POST", Pay::client(&client), Some("k")),
        ("GET", Pay::card(&card), None),
    ] {
        let answer = shop.send(method, "/five", &pay, key).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "busy"), "{method}: {}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!((shop.handlers.calls(), captures(&world).await), (1, 1));
    assert_eq!(world.succeeded_charges().await.len(), 1);
    assert!(world.client.try_send("GET", &format!("{}/readyz", shop.admin_url), &[], None).await.is_err());
    shop.server.stop(true).await;
    world.assert_books_agree().await;
    // The books are closed: another may open them.
    let shop = Shop::open(&world).await;
    assert_eq!(shop.balance(&client).await, PACK - PRICE);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_applications_file_is_good_for_every_command_but_serve() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    assert_eq!(shop.get("/five", &Pay::client(&client)).await.status, 200);
    let file = world.folder.path().join("application.toml");
    std::fs::write(&file, toml(&world, "[idempotency]\nkeep = \"1h\"")).unwrap();
    let file = file.to_str().unwrap();
    let run = async |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = program(world.folder.path(), args);
        command.args(["--config", file]).envs(world.environment()).envs(variables.iter().copied());
        finish(command, None).await
    };
    let checked = run(&["check-config"], &[]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    for part in [
        "upstream       none",
        "serve needs upstream.url",
        "each wrapped with its price",
        "database belongs to",
    ] {
        assert!(checked.out.contains(part), "{part} in {}", checked.out);
    }
    assert!(!checked.out.contains(" 404"), "there is nothing to warn of: {}", checked.out);
    for args in [&["reconcile", "--since", "1h", "--until", "now"][..], &["verify"]] {
        let ran = run(args, &[]).await;
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    }
    if !world.database.is_shared() {
        let backed_up = run(&["backup", "--to", "copy.db"], &[]).await;
        assert_eq!(backed_up.code, 0, "{backed_up:?}");
    }
    for args in [&["serve"][..], &["check-config", "--for", "serve"]] {
        let refused = run(args, &[]).await;
        assert!(refused.code == 2 && refused.err.contains("upstream.url"), "{args:?}: {refused:?}");
    }
    let embedded = run(&["check-config", "--for", "embedded"], &[]).await;
    assert_eq!((embedded.code, &embedded.out), (0, &checked.out), "{embedded:?}");
    // What is half a gateway's is a gateway's that lacks something.
    let named = [("PREPAID402_UPSTREAM__URL", "http://127.0.0.1:8080")];
    let gateway = run(&["check-config"], &named).await;
    assert!(gateway.code == 0 && gateway.out.contains("upstream       http://127.0.0.1:8080"), "{gateway:?}");
    for half in ["[[routes]]\npath = \"/a\"\nprice = \"0.05\"", "[upstream]\nidle_timeout = \"1s\""] {
        std::fs::write(file, toml(&world, half)).unwrap();
        let checked = run(&["check-config"], &[]).await;
        assert!(checked.code == 2 && checked.err.contains("upstream.url"), "{checked:?}");
        let embedded = run(&["check-config", "--for", "embedded"], &[]).await;
        assert!(embedded.code == 2 && embedded.err.contains("belongs to the gateway"), "{embedded:?}");
    }
    shop.close().await;
}

/// An application has its own allocator: that of the program is a feature which it switches off.
#[test]
fn the_programs_allocator_is_a_default_feature() {
    let package: toml::Table = include_str!("../../../Cargo.toml").parse().unwrap();
    assert_eq!(package["features"]["default"], toml::Value::from(vec!["mimalloc"]));
    assert_eq!(package["dependencies"]["mimalloc"]["optional"].as_bool(), Some(true));
}

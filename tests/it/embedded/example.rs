//! `examples/embedded.rs`: short, and it works.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::support::postgres;
use crate::support::program::{Running, clean, finish, free_address, program, run};

/// Built by `cargo test`, beside this program.
fn example() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join("examples/embedded");
    assert!(path.exists(), "{} is built by `cargo test`", path.display());
    path
}

#[test]
fn the_example_has_at_most_forty_lines() {
    let text = include_str!("../../../examples/embedded.rs");
    assert!(text.lines().count() <= 40, "{}", text.lines().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_sells_two_handlers() {
    let home = tempfile::tempdir().unwrap();
    let (stripe, listen, admin) = (free_address(), free_address(), free_address());
    let mut simulator = program(home.path(), &["stripe-sim", "--listen", &stripe.to_string()]);
    simulator.env("STRIPE_SECRET_KEY", "sk_test_prepaid402_sandbox");
    let simulator = Running::start(simulator, &stripe.to_string()).await.unwrap();
    let mut command = clean(home.path(), example().to_str().unwrap());
    command.envs([
        ("STRIPE_SECRET_KEY", "sk_test_prepaid402_sandbox".to_owned()),
        ("STRIPE_PUBLISHABLE_KEY", "pk_test_prepaid402_sandbox".to_owned()),
        ("PREPAID402_STRIPE__API_BASE", format!("http://{stripe}")),
        ("PREPAID402_ADMIN_LISTEN", admin.to_string()),
        ("LISTEN", listen.to_string()),
    ]);
    if let Some(server) = postgres::server() {
        let url = postgres::new_database(&server).await;
        let mut migrate = program(home.path(), &["migrate"]);
        migrate.env("PREPAID402_DATABASE_URL", &url);
        let ready = finish(migrate, None).await;
        assert_eq!(ready.code, 0, "{ready:?}");
        command.env("PREPAID402_DATABASE_URL", url);
    }
    let shop = Running::start(command, "selling").await.unwrap();
    let client = crate::support::http::Client::new();
    let url = format!("http://{listen}");
    assert_eq!(client.get(&format!("{url}/health")).await.text(), "ok\n");
    let unpaid = client.get(&format!("{url}/joke")).await;
    assert_eq!(unpaid.status, 402);
    let requirement = unpaid.offer().accepts.remove(0);
    assert_eq!(requirement.amount, 100);
    // A card, tokenised with the key of the offer, directly at Stripe.
    let form = "type=card&card[number]=4242424242424242&card[exp_month]=12&card[exp_year]=2034&card[cvc]=123";
    let bearer = format!("Bearer {}", requirement.publishable_key);
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    let made = client
        .send("POST", &format!("http://{stripe}/v1/payment_methods"), &[("authorization", &bearer)], body)
        .await;
    let card = made.json()["id"].as_str().unwrap().to_owned();
    let payment = Pay::card(&card).header();
    let joke = client.send("GET", &format!("{url}/joke"), &[("payment", &payment)], None).await;
    assert_eq!(joke.status, 200, "{}", joke.text());
    assert!(joke.text().contains("You paid 0.01"), "{}", joke.text());
    let wallet = joke.receipt();
    assert_eq!(wallet.credits_remaining.unwrap(), 50_000 - 100);
    let payment = Pay::client(&wallet.client_id).header();
    let headers = [("payment", payment.as_str()), ("idempotency-key", "one")];
    for _ in 0..2 {
        let echo =
            client.send("POST", &format!("{url}/echo"), &headers, Some(("text/plain", b"hello"))).await;
        assert_eq!(echo.status, 200, "{}", echo.text());
        assert!(echo.text().ends_with(" says: hello\n"), "{}", echo.text());
        assert_eq!(echo.receipt().credits_remaining.unwrap(), 50_000 - 600);
    }
    let bearer = format!("Bearer {}", wallet.client_id);
    let balance =
        client.send("GET", &format!("{url}/billing/balance"), &[("authorization", &bearer)], None).await;
    assert_eq!(balance.json()["balance"], json!(50_000 - 600));
    assert_eq!(client.get(&format!("http://{admin}/readyz")).await.status, 200);
    assert_eq!(shop.terminate().await, 0, "a polite stop");
    simulator.kill().await;
    if postgres::server().is_none() {
        let verified = run(home.path(), &["verify", "--data-dir", "prepaid402-data"]).await;
        assert_eq!(verified.code, 0, "{verified:?}");
    }
}

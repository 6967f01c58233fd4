//! What programs that repeat requests by themselves are told: `x-should-retry` before their own rules, and how long to wait.

use serde_json::json;

use crate::support::http::Answer;
use crate::support::{DECLINED, Pay, World};

fn told(answer: &Answer) -> (u16, String, Option<&str>, Option<u64>) {
    let after = answer.header("retry-after").map(|seconds| seconds.parse().unwrap());
    (answer.status, answer.code(), answer.header("x-should-retry"), after)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_try_for_a_day_is_not_made_to_sleep_for_a_day() {
    let mut world = World::new().await;
    world.shield =
        "[shield]\ncard_declines_a_day = 1\nclient_declines_a_day = 1\nnetwork_cards_a_day = 1\n".to_owned();
    let gateway = world.gateway().await;
    let first = world.tokenise(DECLINED).await;
    let declined = gateway.pay("/api/weather", &Pay::card(&first)).await;
    assert_eq!(told(&declined), (402, "card_declined".to_owned(), Some("false"), None));
    let second = world.tokenise(DECLINED).await;
    let refused = gateway.pay("/api/weather", &Pay::card(&second)).await;
    let (status, code, should_retry, after) = told(&refused);
    assert_eq!((status, code.as_str(), should_retry), (429, "too_many_attempts", Some("false")));
    assert!(after.is_some_and(|seconds| seconds > 0 && seconds <= 3_600), "{after:?}");
    // At the other door, too.
    let url = format!("{}/billing/top-ups", gateway.url);
    let body = json!({ "paymentMethodId": second }).to_string();
    let body = Some(("application/json", body.as_bytes()));
    let refused = world.client.send("POST", &url, &[("idempotency-key", "a")], body).await;
    let (status, _, should_retry, after) = told(&refused);
    assert_eq!((status, should_retry), (429, Some("false")));
    assert!(after.is_some_and(|seconds| seconds > 0 && seconds <= 3_600), "{after:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_succeed_is_not_repeated_and_what_is_running_is() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let pay = Pay::client(&client).header();
    let send = async |method: &str, target: &str, key: &str| {
        let headers = [("payment", pay.as_str()), ("idempotency-key", key)];
        world.client.send(method, &format!("{}{target}", gateway.url), &headers, None).await
    };
    assert_eq!(send("GET", "/api/weather?a=1", "one").await.status, 200);
    let mismatch = send("GET", "/api/weather?a=2", "one").await;
    assert_eq!(told(&mismatch), (422, "idempotency_mismatch".to_owned(), Some("false"), None));
    let unsold = gateway.get("/nothing").await;
    assert_eq!(told(&unsold), (404, "route_not_configured".to_owned(), Some("false"), None));
    let unpaid = gateway.get("/api/weather").await;
    assert_eq!(told(&unpaid), (402, "payment_required".to_owned(), Some("false"), None));
    // Scripts of browsers read it.
    let exposed = unpaid.header("access-control-expose-headers").unwrap();
    assert!(exposed.split(", ").any(|name| name == "x-should-retry"), "{exposed}");
    // A charge whose outcome is not known yet.
    let card = world.tokenise("4000000000004020").await;
    let pending = gateway.pay("/api/weather", &Pay::card(&card)).await;
    assert_eq!(told(&pending), (503, "topup_pending".to_owned(), Some("true"), Some(5)));
    let billing = world.client.get(&format!("{}/billing/balance", gateway.url)).await;
    assert_eq!(told(&billing), (401, "unauthorized".to_owned(), Some("false"), None));
    gateway.stop().await;
}

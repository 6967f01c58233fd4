//! Stripe's events: what is accepted, and that whatever was accepted is applied once, with webhooks or without.

mod forgery;
mod inbox;
mod missing;
mod polling;

use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::http::Answer;
use crate::support::{Gateway, ROUTES, World, column, rows};

pub const SECRET: &str = "whsec_0123456789abcdefghijklmnopqrstuv";
pub const NEXT_SECRET: &str = "whsec_zyxwvutsrqponmlkjihgfedcba987654";

/// A world whose gateways accept webhooks signed with these secrets. `more` is TOML below `[webhooks]`.
pub async fn world(secrets: &[&str], more: &str) -> World {
    let mut world = World::new().await;
    let file = world.folder.path().join("webhook-secrets.txt");
    std::fs::write(&file, secrets.join("\n")).unwrap();
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, owner_only).unwrap();
    world.extra = format!("[webhooks]\nsecrets_file = {file:?}\n{more}\n");
    world
}

pub fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
        .unwrap()
}

/// 64 hexadecimal digits.
pub fn mac(secret: &str, time: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn signature(secret: &str, time: i64, body: &[u8]) -> String {
    format!("t={time},v1={}", mac(secret, &time.to_string(), body))
}

/// An event as Stripe would write it.
pub fn event(id: &str, kind: &str, object: &Value) -> Value {
    json!({
        "id": id, "object": "event", "api_version": "2026-03-25.dahlia", "created": now(), "livemode": false,
        "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null }, "type": kind,
        "data": { "object": object },
    })
}

/// An event about a charge of somebody else's.
pub fn strange(id: &str) -> Value {
    event(
        id,
        "payment_intent.succeeded",
        &json!({ "id": "pi_strange", "object": "payment_intent", "metadata": {} }),
    )
}

pub async fn post(gateway: &Gateway<'_>, signature: &str, body: &[u8]) -> Answer {
    post_to(gateway, &gateway.url, signature, body).await
}

pub async fn post_to(gateway: &Gateway<'_>, url: &str, signature: &str, body: &[u8]) -> Answer {
    let url = format!("{url}/webhooks/stripe");
    let headers = [("stripe-signature", signature)];
    gateway.world.client.send("POST", &url, &headers, Some(("application/json", body))).await
}

/// Signs and sends.
pub async fn deliver(gateway: &Gateway<'_>, event: &Value) -> Answer {
    let body = event.to_string();
    post(gateway, &signature(SECRET, now(), body.as_bytes()), body.as_bytes()).await
}

/// State and reason of an event; none when it is not stored.
pub async fn state(world: &World, id: &str) -> Option<(String, String)> {
    let found = rows(&world.database, "SELECT id, state, COALESCE(why, '') FROM stripe_events").await;
    let row = found.iter().find(|row| column::<String>(row, 0) == id)?;
    Some((column(row, 1), column(row, 2)))
}

/// Waits until an event has ended, and answers how.
pub async fn ended(world: &World, id: &str) -> (String, String) {
    let begun = Instant::now();
    loop {
        let now = state(world, id).await;
        match &now {
            Some((state, why)) if ["applied", "ignored"].contains(&state.as_str()) => {
                return (state.clone(), why.clone());
            }
            _ => assert!(begun.elapsed() < Duration::from_secs(60), "{id} has not ended: {now:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The value of a metric's line, such as `prepaid402_webhooks_total{outcome="Received"}`.
pub async fn metric(gateway: &Gateway<'_>, line: &str) -> u64 {
    let text = gateway.world.client.get(&format!("{}/metrics", gateway.admin_url)).await.text();
    let found = text.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(' '));
    found.map_or(0, |value| value.parse().unwrap())
}

pub fn applied() -> (String, String) {
    ("applied".to_owned(), String::new())
}

/// A world without any of it.
pub async fn plain_world() -> World {
    World::with("", ROUTES).await
}

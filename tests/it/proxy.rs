//! The proxy over real sockets: streams pass unbuffered, no spelling of a path is free, no header lies, nothing is smuggled.

mod answers;
mod doors;
mod framing;
mod headers;
mod hops;
mod paths;
mod streams;

use crate::support::{GOOD, Gateway, Pay, World};

/// A wallet with 5 dollars, unspent, and its `payment` header.
async fn payer(world: &World, gateway: &Gateway<'_>) -> (String, String) {
    let card = world.tokenise(GOOD).await;
    let body = format!("{{\"paymentMethodId\":\"{card}\"}}");
    let url = format!("{}/billing/top-ups", gateway.url);
    let headers = [("idempotency-key", "first")];
    let answer = world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let client = answer.receipt().client_id;
    let header = Pay::client(&client).header();
    (client, header)
}

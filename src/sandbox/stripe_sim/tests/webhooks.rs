//! Webhooks, as an endpoint sees them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use hmac::{Hmac, KeyInit as _, Mac as _};
use tokio::sync::mpsc;

use super::*;

const SECRET: &str = "whsec_0123456789abcdefghijklmn";
const OTHER: &str = "whsec_fedcba9876543210abcdefgh";

/// An endpoint that notes what it gets, and answers as told: first these statuses, then 200.
struct Endpoint {
    url: String,
    got: mpsc::UnboundedReceiver<(String, String)>,
    statuses: Arc<Mutex<Vec<u16>>>,
    server: actix_web::dev::ServerHandle,
}

impl Endpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener)
    }

    fn on(listener: TcpListener) -> Self {
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (send, got) = mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(Vec::<u16>::new()));
        let answers = Arc::clone(&statuses);
        let server = HttpServer::new(move || {
            let (send, answers) = (send.clone(), Arc::clone(&answers));
            App::new().route(
                "/hook",
                web::post().to(move |request: HttpRequest, body: String| {
                    let header =
                        request.headers().get("stripe-signature").unwrap().to_str().unwrap().to_owned();
                    let mut statuses = answers.lock().unwrap();
                    let status = if statuses.is_empty() { 200 } else { statuses.remove(0) };
                    let _ = send.send((header, body));
                    async move { HttpResponse::build(StatusCode::from_u16(status).unwrap()).finish() }
                }),
            )
        })
        .workers(1)
        .disable_signals()
        .shutdown_timeout(0)
        .listen(listener)
        .unwrap()
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { url, got, statuses, server: handle }
    }

    /// The next event, its signature checked, within ten seconds.
    async fn next(&mut self) -> Value {
        let (header, body) = self.raw().await;
        let (at, signatures) = header.split_once(',').unwrap();
        let at = at.strip_prefix("t=").unwrap();
        assert!((chrono::Utc::now().timestamp() - at.parse::<i64>().unwrap()).abs() < 60, "{header}");
        let expected = format!("v1={}", signed(SECRET, at, &body));
        assert!(signatures.split(',').any(|signature| signature == expected), "{header}");
        serde_json::from_str(&body).unwrap()
    }

    async fn raw(&mut self) -> (String, String) {
        tokio::time::timeout(Duration::from_secs(10), self.got.recv()).await.unwrap().unwrap()
    }

    async fn kinds(&mut self, count: usize) -> Vec<String> {
        let mut kinds = Vec::new();
        for _ in 0..count {
            kinds.push(self.next().await["type"].as_str().unwrap().to_owned());
        }
        kinds
    }
}

fn signed(secret: &str, at: &str, body: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.{body}").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn listen(stripe: &Stripe, endpoint: &Endpoint, types: &[&str]) -> String {
    let body = json!({ "url": endpoint.url, "secrets": [SECRET], "types": types });
    stripe.control("/_sim/webhook_endpoints", &body).await["id"].as_str().unwrap().to_owned()
}

/// Waits until nothing is pending or running.
async fn quiet(stripe: &Stripe) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let overview = stripe.get("/_sim/webhooks").await.json();
        let endpoints = overview["webhook_endpoints"].as_array().unwrap();
        let pending = endpoints.iter().any(|row| !row["pending"].as_array().unwrap().is_empty());
        if !pending && overview["running"] == 0 {
            return overview;
        }
        assert!(tokio::time::Instant::now() < deadline, "{overview}");
    }
}

#[tokio::test]
async fn events_are_delivered_signed_to_whoever_listens() {
    let stripe = Stripe::new().await;
    let (mut all, mut refunds) = (Endpoint::start().await, Endpoint::start().await);
    // Signatures carry the time of the machine, whatever the simulator's clock says.
    stripe.control("/_sim/clock", &json!({ "advance_seconds": 86_400 })).await;
    stripe.paid("pm_card_visa").await;
    listen(&stripe, &all, &[]).await;
    let some = listen(&stripe, &refunds, &["refund.*", "charge.refunded"]).await;
    let intent = stripe.paid("pm_card_visa").await;
    let event = all.next().await;
    assert_eq!((event["type"].as_str(), &event["pending_webhooks"]), (Some("charge.succeeded"), &json!(1)));
    assert_eq!(
        all.next().await["data"]["object"]["id"],
        json!(intent),
        "events from before are not delivered"
    );
    stripe.control("/_sim/refunds", &json!({ "payment_intent": intent })).await;
    assert_eq!(all.kinds(2).await, ["refund.created", "charge.refunded"]);
    assert_eq!(refunds.kinds(2).await, ["refund.created", "charge.refunded"]);
    quiet(&stripe).await;
    let listed = stripe.list("/v1/events?type=refund.created").await;
    assert_eq!(listed[0]["pending_webhooks"], 0);

    let reply = stripe.send("DELETE", &format!("/_sim/webhook_endpoints/{some}"), "", &[]).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(
        stripe.send("DELETE", &format!("/_sim/webhook_endpoints/{some}"), "", &[]).await.unwrap().status,
        404
    );
    let intent = stripe.paid("pm_card_visa").await;
    stripe.control("/_sim/refunds", &json!({ "payment_intent": intent })).await;
    assert_eq!(all.kinds(4).await.len(), 4);
    assert!(refunds.got.try_recv().is_err());
    assert_eq!(stripe.send("DELETE", "/_sim/webhook_endpoints", "", &[]).await.unwrap().status, 200);
    stripe.paid("pm_card_visa").await;
    quiet(&stripe).await;
    assert!(all.got.try_recv().is_err());
}

#[tokio::test]
async fn each_secret_signs() {
    let stripe = Stripe::new().await;
    let mut endpoint = Endpoint::start().await;
    let body = json!({ "url": endpoint.url, "secrets": [OTHER, SECRET] });
    stripe.control("/_sim/webhook_endpoints", &body).await;
    stripe.paid("pm_card_visa").await;
    let (header, body) = endpoint.raw().await;
    let at = header.strip_prefix("t=").unwrap().split(',').next().unwrap();
    assert_eq!(header, format!("t={at},v1={},v1={}", signed(OTHER, at, &body), signed(SECRET, at, &body)));
    let overview = stripe.get("/_sim/webhooks").await.body;
    assert!(!overview.contains("whsec_"), "{overview}");
    for (url, secrets) in [
        ("http://192.0.2.1/", json!([SECRET])),
        ("https://127.0.0.1/", json!([SECRET])),
        (&*endpoint.url, json!([])),
        (&*endpoint.url, json!([""])),
        (&*endpoint.url, json!(["whsec_"])),
        (&*endpoint.url, json!(["whsec_0123456789abcdefghijklm"])),
    ] {
        stripe.refused("/_sim/webhook_endpoints", &json!({ "url": url, "secrets": secrets })).await;
    }
}

#[tokio::test]
async fn what_is_not_taken_is_delivered_again() {
    let stripe = Stripe::new().await;
    let mut endpoint = Endpoint::start().await;
    endpoint.statuses.lock().unwrap().extend([500, 302, 200, 404]);
    listen(&stripe, &endpoint, &["charge.succeeded", "payment_intent.succeeded"]).await;
    stripe.paid("pm_card_visa").await;
    // One that fails does not keep the next one from being tried.
    let kinds = endpoint.kinds(5).await;
    assert_eq!(kinds[..2], ["charge.succeeded", "payment_intent.succeeded"]);
    let overview = quiet(&stripe).await;
    let deliveries = overview["deliveries"].as_array().unwrap();
    let accepted: Vec<&Value> = deliveries.iter().filter(|row| row["status"] == 200).collect();
    assert_eq!((deliveries.len(), accepted.len()), (5, 2), "{overview}");
    assert_ne!(accepted[0]["event"], accepted[1]["event"]);
    assert!(endpoint.got.try_recv().is_err());
}

#[tokio::test]
async fn held_events_are_delivered_in_any_order() {
    let stripe = Stripe::new().await;
    let mut endpoint = Endpoint::start().await;
    listen(&stripe, &endpoint, &[]).await;
    assert_eq!(
        stripe.control("/_sim/webhooks/hold", &json!({})).await,
        json!({ "held": true, "pending": 0 })
    );
    let intent = stripe.paid("pm_card_visa").await;
    stripe.control("/_sim/refunds", &json!({ "payment_intent": intent })).await;
    let events = stripe.list("/v1/events?limit=100").await;
    let id = |at: usize| events[at]["id"].as_str().unwrap().to_owned();
    assert_eq!((events.len(), &events[0]["pending_webhooks"]), (4, &json!(1)));
    assert!(endpoint.got.try_recv().is_err(), "held");

    // Newest first, one of them twice, one of them refused.
    endpoint.statuses.lock().unwrap().extend([200, 200, 500]);
    let order = [id(0), id(0), id(2)];
    let answer = stripe.control("/_sim/webhooks/deliver", &json!({ "events": order })).await;
    assert_eq!(answer["statuses"], json!([200, 200, 500]));
    for expected in &order {
        assert_eq!(endpoint.next().await["id"], json!(expected));
    }
    let twins = stripe.control("/_sim/webhooks/deliver", &json!({ "events": [id(1)], "twin": true })).await;
    let twin = endpoint.next().await;
    assert_eq!((&twin["data"], &twin["type"]), (&events[1]["data"], &events[1]["type"]));
    assert_ne!(twin["id"], events[1]["id"]);
    assert_eq!(twins["deliveries"][0]["twin_of"], events[1]["id"]);
    assert_eq!(twins["deliveries"][0]["event"], twin["id"]);
    let path = format!("/v1/events/{}", twin["id"].as_str().unwrap());
    assert_eq!(stripe.get(&path).await.json()["data"], events[1]["data"]);

    stripe.refused("/_sim/webhooks/deliver", &json!({ "events": [id(3), "evt_none"] })).await;
    assert!(endpoint.got.try_recv().is_err(), "all or none");
    // What was taken is not delivered again; the rest is.
    assert_eq!(stripe.control("/_sim/webhooks/release", &json!({})).await["pending"], 3);
    let mut rest = Vec::new();
    for _ in 0..3 {
        rest.push(endpoint.next().await["id"].as_str().unwrap().to_owned());
    }
    rest.sort();
    let mut expected = vec![id(1), id(2), id(3)];
    expected.sort();
    assert_eq!(rest, expected);
    quiet(&stripe).await;
    assert!(endpoint.got.try_recv().is_err());
}

#[tokio::test]
async fn all_pending_events_are_delivered_on_demand() {
    let stripe = Stripe::new().await;
    stripe.refused("/_sim/webhooks/deliver", &json!({})).await;
    let mut endpoint = Endpoint::start().await;
    listen(&stripe, &endpoint, &[]).await;
    stripe.control("/_sim/webhooks/hold", &json!({})).await;
    stripe.paid("pm_card_visa").await;
    assert_eq!(stripe.control("/_sim/webhooks/deliver", &json!({})).await["statuses"], json!([200, 200]));
    assert_eq!(endpoint.kinds(2).await, ["charge.succeeded", "payment_intent.succeeded"]);
    assert_eq!(stripe.control("/_sim/webhooks/deliver", &json!({})).await["statuses"], json!([]));
    endpoint.server.stop(false).await;
    stripe.paid("pm_card_visa").await;
    let answer = stripe.control("/_sim/webhooks/deliver", &json!({})).await;
    assert_eq!(answer["statuses"], json!([null, null]));
    assert!(answer["deliveries"][0]["error"].is_string());
}

#[tokio::test]
async fn endpoints_and_what_they_wait_for_survive() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books");
    let mut endpoint = Endpoint::start().await;
    let first = Stripe::with(options(Some(file.clone()))).await;
    listen(&first, &endpoint, &["payment_intent.succeeded"]).await;
    let taken = first.paid("pm_card_visa").await;
    assert_eq!(endpoint.next().await["data"]["object"]["id"], json!(taken));
    quiet(&first).await;
    first.control("/_sim/webhooks/hold", &json!({})).await;
    let waiting = first.paid("pm_card_visa").await;
    first.sim.stop().await;
    let again = Stripe::with(options(Some(file.clone()))).await;
    assert_eq!(endpoint.next().await["data"]["object"]["id"], json!(waiting));
    quiet(&again).await;
    assert!(endpoint.got.try_recv().is_err(), "what was taken is not delivered again");

    // The webhook of the start takes the place of the one before, and of no other.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", gone.local_addr().unwrap());
    drop(gone);
    let secrets = [SECRET.to_owned()];
    again.sim.deliver_webhooks_to(&url, &secrets).await.unwrap();
    let lost = again.paid("pm_card_visa").await;
    assert_eq!(endpoint.next().await["data"]["object"]["id"], json!(lost));
    again.sim.stop().await;
    let last = Stripe::with(options(Some(file))).await;
    let mut start = Endpoint::start().await;
    last.sim.deliver_webhooks_to(&start.url, &secrets).await.unwrap();
    assert_eq!(start.kinds(2).await.len(), 2, "with what the one before was waiting for");
    let overview = quiet(&last).await;
    assert_eq!(overview["webhook_endpoints"].as_array().unwrap().len(), 2);
    let wrong = last.sim.deliver_webhooks_to("http://example.com/", &secrets).await;
    assert!(matches!(wrong, Err(SimError::Webhook(_))), "{wrong:?}");
}

#[tokio::test]
async fn three_days_are_enough() {
    let stripe = Stripe::new().await;
    let mut endpoint = Endpoint::start().await;
    listen(&stripe, &endpoint, &[]).await;
    stripe.control("/_sim/webhooks/hold", &json!({})).await;
    stripe.paid("pm_card_visa").await;
    stripe.control("/_sim/clock", &json!({ "advance_seconds": 3 * 86_400 })).await;
    stripe.control("/_sim/webhooks/release", &json!({})).await;
    quiet(&stripe).await;
    assert!(endpoint.got.try_recv().is_err());
    assert_eq!(stripe.told().await.len(), 2, "they can still be read");
}

//! The simulator over a real socket, with Stripe's typed objects as the judge of what it answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod customers;
mod events;
mod faults;
mod lifecycle;
mod money;
mod setups;
mod typed;
mod webhooks;

use std::net::TcpListener;
use std::path::PathBuf;

use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::{RunningSim, SimError, SimOptions, start};
use crate::sandbox::{SANDBOX_PUBLISHABLE_KEY, SANDBOX_SECRET_KEY};

/// The parameters that the gateway sends.
const CONFIRM: &str = "amount=500&currency=usd&confirm=true&error_on_requires_action=true\
    &automatic_payment_methods[enabled]=true&automatic_payment_methods[allow_redirects]=never\
    &statement_descriptor_suffix=CREDITS&description=Credits&metadata[topup]=t_1\
    &expand[0]=latest_charge.balance_transaction";

struct Reply {
    status: u16,
    headers: hyper::HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Status, `type`, `code`, `decline_code`.
    fn error(&self) -> (u16, String, String, String) {
        let error = &self.json()["error"];
        let text = |name: &str| error[name].as_str().unwrap_or("").to_owned();
        (self.status, text("type"), text("code"), text("decline_code"))
    }
}

struct Stripe {
    sim: RunningSim,
    client: Client<HttpConnector, Full<bytes::Bytes>>,
}

fn options(data: Option<PathBuf>) -> SimOptions {
    SimOptions {
        data,
        secret_key: SANDBOX_SECRET_KEY.into(),
        publishable_key: SANDBOX_PUBLISHABLE_KEY.into(),
        publishable_key_tokenisation: true,
    }
}

impl Stripe {
    async fn new() -> Self {
        Self::with(options(None)).await
    }

    async fn with(options: SimOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sim = start(listener, options).await.unwrap();
        Self { sim, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.sim.base_url))
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(bytes::Bytes::copy_from_slice(body.as_bytes())))?;
        let response = self.client.request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8(body.to_vec())?,
        })
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, body, &[("authorization", &bearer(SANDBOX_SECRET_KEY))]).await.unwrap()
    }

    async fn keyed(&self, key: &str, path: &str, body: &str) -> Reply {
        let headers = [("authorization", &*bearer(SANDBOX_SECRET_KEY)), ("idempotency-key", key)];
        self.send("POST", path, body, &headers).await.unwrap()
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", &[("authorization", &bearer(SANDBOX_SECRET_KEY))]).await.unwrap()
    }

    async fn control(&self, path: &str, body: &Value) -> Value {
        let reply = self.send("POST", path, &body.to_string(), &[]).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    /// Refused control, with what it says.
    async fn refused(&self, path: &str, body: &Value) -> String {
        let reply = self.send("POST", path, &body.to_string(), &[]).await.unwrap();
        assert!((400..500).contains(&reply.status), "{path} {}", reply.body);
        reply.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    /// A PaymentIntent of 5.00 US dollars that this card has paid.
    async fn paid(&self, method: &str) -> String {
        let reply = self.post("/v1/payment_intents", &confirm(method)).await;
        assert_eq!(reply.json()["status"], "succeeded", "{}", reply.body);
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// The `data` of a list.
    async fn list(&self, path: &str) -> Vec<Value> {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{path} {}", reply.body);
        reply.json()["data"].as_array().unwrap().clone()
    }

    /// The types of the events so far, oldest first.
    async fn told(&self) -> Vec<String> {
        let mut events = self.list("/v1/events?limit=100").await;
        events.reverse();
        events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    async fn fault(&self, fault: Value) {
        self.control("/_sim/faults", &fault).await;
    }

    /// Totals in US dollars: charged, refunded, fees, net.
    async fn totals(&self) -> (i64, i64, i64, i64) {
        let totals = self.get("/_sim/books").await.json()["totals"]["usd"].clone();
        let number = |name: &str| totals[name].as_i64().unwrap_or(0);
        (number("charged"), number("refunded"), number("fees"), number("net"))
    }

    async fn card(&self, number: &str) -> String {
        self.typed_card(number, Some("123")).await
    }

    async fn typed_card(&self, number: &str, cvc: Option<&str>) -> String {
        let cvc = cvc.map_or(String::new(), |cvc| format!("&card[cvc]={cvc}"));
        let body = format!("type=card&card[number]={number}&card[exp_month]=12&card[exp_year]=2060{cvc}");
        let reply = self.post("/v1/payment_methods", &body).await;
        reply.json()["id"].as_str().unwrap_or_else(|| panic!("{}", reply.body)).to_owned()
    }

    async fn customer(&self) -> String {
        self.post("/v1/customers", "metadata[a]=b").await.json()["id"].as_str().unwrap().to_owned()
    }
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn confirm(method: &str) -> String {
    format!("{CONFIRM}&payment_method={method}")
}

#[tokio::test]
async fn live_keys_are_refused_at_the_start() {
    for (secret, publishable) in [
        ("sk_live_x", "pk_test_x"),
        ("rk_live_x", "pk_test_x"),
        ("sk_test_x", "pk_live_x"),
        ("", "pk_test_x"),
        ("pk_test_x", "pk_test_x"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options =
            SimOptions { secret_key: secret.into(), publishable_key: publishable.into(), ..options(None) };
        assert!(!format!("{options:?}").contains("sk_"), "{options:?}");
        assert!(matches!(start(listener, options).await, Err(SimError::Key(_))), "{secret} {publishable}");
    }
}

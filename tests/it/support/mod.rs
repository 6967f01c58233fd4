//! A gateway with everything around it: simulated Stripe with its own books, an upstream that can misbehave, a client.

pub mod dice;
pub mod http;
pub mod process;
pub mod program;
pub mod raw;
pub mod upstream;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use prepaid402::app::{self, RunningApp};
use prepaid402::protocol::stripe402::{
    PaymentPayload, PaymentRequired, PaymentResponse, decode_payment_required, decode_payment_response,
    encode,
};
use prepaid402::sandbox::stripe_sim::{self, RunningSim, SimOptions};
use serde_json::{Value, json};
use sqlx::Row as _;

use self::http::{Answer, Client};
use self::upstream::TestUpstream;

pub const SECRET_KEY: &str = "sk_test_it";
pub const PUBLISHABLE_KEY: &str = "pk_test_it";

/// Stripe's test cards, by what they do.
pub const GOOD: &str = "4242424242424242";
pub const DECLINED: &str = "4000000000000002";
pub const THREE_D_SECURE: &str = "4000002760003184";

/// What is sold in most tests. `/up/*` reaches the upstream's switches.
pub const ROUTES: &str = r#"
[[routes]]
path = "/api/health"
free = true

[[routes]]
path = "/api/joke"
price = "0.01"

[[routes]]
path = "/api/weather"
price = "0.05"
description = "Weather"
mime_type = "application/json"

[[routes]]
methods = ["GET", "POST", "PUT", "DELETE"]
path = "/up/*"
price = "0.05"
"#;

/// Cards that pay. Different numbers, because one card is charged for one payer at a time.
pub const GOOD_CARDS: [&str; 12] = [
    GOOD,
    "4000056655665556",
    "5555555555554444",
    "2223003122003222",
    "5200828282828210",
    "5105105105105100",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "6011000990139424",
    "3566002020360505",
    "6200000000000005",
];

/// Packs of most tests.
pub const PACKS: &str = r#"
[[top_up.options]]
amount = "5.00"
label = "5 dollars"

[[top_up.options]]
amount = "20.00"
bonus = "1.00"
label = "20 dollars and 1 on top"
"#;

/// Simulated Stripe and an upstream that outlive the gateway.
pub struct World {
    pub folder: tempfile::TempDir,
    pub sim: RunningSim,
    pub upstream: TestUpstream,
    pub client: Client,
    /// Changes to the configuration file: `(text to find, replacement)` is too clever; this is appended instead.
    pub routes: String,
    pub extra: String,
    /// Packs, or the whole `[top_up]` section.
    pub packs: String,
}

pub fn free_listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

impl World {
    pub async fn new() -> Self {
        Self::with("", ROUTES).await
    }

    /// `extra` is TOML for the top of the configuration file.
    pub async fn with(extra: &str, routes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SimOptions {
            data: None,
            secret_key: SECRET_KEY.into(),
            publishable_key: PUBLISHABLE_KEY.into(),
            publishable_key_tokenisation: true,
        };
        let sim = stripe_sim::start(free_listener(), options).await.unwrap();
        let upstream = TestUpstream::start().await;
        Self {
            folder,
            sim,
            upstream,
            client: Client::new(),
            routes: routes.into(),
            extra: extra.into(),
            packs: PACKS.into(),
        }
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("data/prepaid402.db")
    }

    pub fn toml(&self, listen: SocketAddr, admin: SocketAddr) -> String {
        format!(
            "listen = \"{listen}\"\nadmin_listen = \"{admin}\"\npublic_url = \"https://api.example.com\"\n\
             data_dir = {data:?}\n{extra}\n[stripe]\npublishable_key = \"{PUBLISHABLE_KEY}\"\napi_base = \"{stripe}\"\n\
             timeout = \"2s\"\n[upstream]\nurl = \"{upstream}\"\nresponse_timeout = \"2s\"\nidle_timeout = \"2s\"\n{packs}\n{routes}",
            data = self.folder.path().join("data"),
            extra = self.extra,
            stripe = self.sim.base_url,
            upstream = self.upstream.url,
            packs = self.packs,
            routes = self.routes,
        )
    }

    /// The gateway in this process.
    pub async fn gateway(&self) -> Gateway<'_> {
        self.try_gateway().await.unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The gateway, or why it does not start.
    pub async fn try_gateway(&self) -> Result<Gateway<'_>, app::StartError> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        // Two different port-0 addresses would look alike to the check that listeners differ.
        let admin = process::lasting_port(&mut dice::Dice::random());
        let env = BTreeMap::from([("STRIPE_SECRET_KEY".to_owned(), SECRET_KEY.to_owned())]);
        let loaded = prepaid402::config::load_from(Some(&self.toml(any, admin)), self.folder.path(), &env)
            .unwrap_or_else(|problems| panic!("{problems}"));
        let app = app::start(loaded.config, None).await?;
        let (url, admin_url) = (format!("http://{}", app.address), format!("http://{}", app.admin_address));
        Ok(Gateway { world: self, app, url, admin_url })
    }

    /// A card token, made directly at Stripe as a caller would.
    pub async fn tokenise(&self, number: &str) -> String {
        let form =
            format!("type=card&card[number]={number}&card[exp_month]=12&card[exp_year]=2034&card[cvc]=123");
        let answer = self
            .client
            .send(
                "POST",
                &format!("{}/v1/payment_methods", self.sim.base_url),
                &[("authorization", &format!("Bearer {PUBLISHABLE_KEY}"))],
                Some(("application/x-www-form-urlencoded", form.as_bytes())),
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Stripe's own books.
    pub async fn books(&self) -> Value {
        self.client.get(&format!("{}/_sim/books", self.sim.base_url)).await.json()
    }

    /// Charges that Stripe made, as (metadata top-up id, amount received in cents).
    pub async fn succeeded_charges(&self) -> Vec<(String, i64)> {
        let books = self.books().await;
        intents(&books)
            .iter()
            .filter(|intent| intent["status"] == "succeeded")
            .map(|intent| {
                let id = intent["metadata"]["prepaid402_top_up"].as_str().unwrap_or_default().to_owned();
                (id, intent["amount_received"].as_i64().unwrap())
            })
            .collect()
    }

    pub async fn faults(&self, faults: Value) {
        let answer = self.client.post_json(&format!("{}/_sim/faults", self.sim.base_url), &faults).await;
        assert!(answer.status < 300, "{}", answer.text());
    }

    pub async fn clear_faults(&self) {
        self.client.send("DELETE", &format!("{}/_sim/faults", self.sim.base_url), &[], None).await;
    }

    /// Our books: every rule, and equality with Stripe's.
    pub async fn assert_books_agree(&self) {
        let report = verify(&self.database()).await;
        assert!(report.is_clean(), "{:#?}", report.findings);
        let mut stripe = self.succeeded_charges().await;
        let mut ours = recorded_charges(&self.database()).await;
        stripe.sort();
        ours.sort();
        assert_eq!(ours, stripe, "our top-ups and Stripe's charges");
    }
}

pub fn intents(books: &Value) -> Vec<Value> {
    ["payment_intents", "paymentIntents", "intents"]
        .iter()
        .find_map(|name| books[*name].as_array().cloned())
        .unwrap_or_else(|| panic!("books without intents: {books}"))
}

pub async fn verify(database: &Path) -> prepaid402::ledger::verify::Verification {
    let mut connection = prepaid402::db::connect_read_only(database).await.unwrap();
    prepaid402::ledger::verify::verify(&mut connection, |_| {}).await.unwrap()
}

/// Top-ups in our ledger, as (id, cents).
pub async fn recorded_charges(database: &Path) -> Vec<(String, i64)> {
    let mut connection = prepaid402::db::connect_read_only(database).await.unwrap();
    sqlx::query("SELECT id, amount / 10000 FROM top_ups WHERE state = 'succeeded'")
        .fetch_all(&mut connection)
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

/// One number from our database.
pub async fn number(database: &Path, sql: &'static str) -> i64 {
    let mut connection = prepaid402::db::connect_read_only(database).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

/// A running gateway.
pub struct Gateway<'a> {
    pub world: &'a World,
    pub app: RunningApp,
    pub url: String,
    pub admin_url: String,
}

/// What a caller presents.
#[derive(Debug, Clone, Default)]
pub struct Pay {
    pub card: Option<String>,
    pub client: Option<String>,
    pub top_up: Option<i64>,
    pub max: Option<i64>,
}

impl Pay {
    pub fn card(card: &str) -> Self {
        Self { card: Some(card.to_owned()), ..Self::default() }
    }

    pub fn client(client: &str) -> Self {
        Self { client: Some(client.to_owned()), ..Self::default() }
    }

    pub fn with_card(mut self, card: &str) -> Self {
        self.card = Some(card.to_owned());
        self
    }

    pub fn top_up(mut self, units: i64) -> Self {
        self.top_up = Some(units);
        self
    }

    pub fn max(mut self, units: i64) -> Self {
        self.max = Some(units);
        self
    }

    pub fn header(&self) -> String {
        encode(&PaymentPayload {
            stripe402_version: 1,
            payment_method_id: self.card.clone(),
            client_id: self.client.clone(),
            top_up_amount: self.top_up,
            max_amount: self.max,
        })
    }
}

impl Gateway<'_> {
    pub async fn get(&self, path: &str) -> Answer {
        self.world.client.get(&format!("{}{path}", self.url)).await
    }

    pub async fn pay(&self, path: &str, pay: &Pay) -> Answer {
        let header = pay.header();
        self.world.client.send("GET", &format!("{}{path}", self.url), &[("payment", &header)], None).await
    }

    /// A first payment with a good card: the clientId.
    pub async fn new_client(&self, path: &str) -> String {
        let card = self.world.tokenise(GOOD).await;
        let answer = self.pay(path, &Pay::card(&card)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.receipt().client_id
    }

    pub async fn balance(&self, client: &str) -> i64 {
        let authorization = format!("Bearer {client}");
        let url = format!("{}/billing/balance", self.url);
        let answer = self.world.client.send("GET", &url, &[("authorization", &authorization)], None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["balance"].as_i64().unwrap()
    }

    pub async fn stop(self) {
        self.app.stop().await;
    }
}

impl Answer {
    pub fn offer(&self) -> PaymentRequired {
        let header = self.header("payment-required").unwrap_or_else(|| panic!("no offer in {self:?}"));
        decode_payment_required(header.as_bytes()).unwrap()
    }

    pub fn receipt(&self) -> PaymentResponse {
        self.try_receipt().unwrap_or_else(|| panic!("no payment-response in {self:?}"))
    }

    pub fn try_receipt(&self) -> Option<PaymentResponse> {
        decode_payment_response(self.header("payment-response")?.as_bytes())
    }

    /// The stable code, wherever this answer has it.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or(json!({}));
        body["code"].as_str().or(body["errorCode"].as_str()).unwrap_or_default().to_owned()
    }
}

//! A gateway with everything around it: simulated Stripe with its own books, an upstream that can misbehave, a client.

pub mod callers;
pub mod cut_proxy;
pub mod dice;
pub mod effort;
pub mod http;
pub mod log;
pub mod postgres;
pub mod process;
pub mod program;
pub mod raw;
pub mod upstream;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use prepaid402::app::{self, RunningApp};
use prepaid402::config::{DatabaseConfig, Secret};
use prepaid402::db;
use prepaid402::protocol::stripe402::{
    PaymentPayload, PaymentRequired, PaymentResponse, decode_payment_required, decode_payment_response,
    encode,
};
use prepaid402::sandbox::stripe_sim::{self, RunningSim, SimOptions};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _};

use self::http::{Answer, Broken, Client};
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
pub use prepaid402::agent::card::PAYING_TEST_NUMBERS as GOOD_CARDS;

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

/// Most tests have many payers at one address, some with cards that are declined. What the limits are for is in `shield`.
pub const WIDE_SHIELD: &str = r#"
[shield]
network_attempts_an_hour = 10000
network_cards_a_day = 10000
client_cards_a_day = 10000
client_declines_a_day = 10000
card_declines_a_day = 10000
new_payer_declines = 10000
new_payers_at_once = 10000
"#;

/// Simulated Stripe and an upstream that outlive the gateway.
pub struct World {
    pub folder: tempfile::TempDir,
    /// A file in the folder, or a database of its own on the PostgreSQL server that the tests run on.
    pub database: DatabaseConfig,
    pub sim: RunningSim,
    pub upstream: TestUpstream,
    pub client: Client,
    /// Changes to the configuration file: `(text to find, replacement)` is too clever; this is appended instead.
    pub routes: String,
    pub extra: String,
    /// Packs, or the whole `[top_up]` section.
    pub packs: String,
    /// Most tests have many payers with one card; `card_identity` is about the default.
    pub identity: &'static str,
    /// The `[shield]` section.
    pub shield: String,
    /// More environment.
    pub secrets: BTreeMap<String, String>,
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
        match postgres::server() {
            Some(server) => Self::on_postgres(&server, extra, routes).await,
            None => {
                let folder = tempfile::tempdir().unwrap();
                let database = DatabaseConfig::Sqlite(folder.path().join("data/prepaid402.db"));
                Self::on(folder, database, extra, routes).await
            }
        }
    }

    /// With a new database, which has its tables, on a PostgreSQL server.
    pub async fn on_postgres(server: &str, extra: &str, routes: &str) -> Self {
        let migrate = async |url: String| {
            let database = DatabaseConfig::Postgres(Secret::new(url));
            let mut connection = db::connect(&database).await.unwrap();
            db::migrate(&mut connection, &database).await.unwrap();
            connection.close().await.unwrap();
        };
        let url = postgres::new_migrated_database(server, migrate).await;
        let database = DatabaseConfig::Postgres(Secret::new(url));
        Self::on(tempfile::tempdir().unwrap(), database, extra, routes).await
    }

    async fn on(folder: tempfile::TempDir, database: DatabaseConfig, extra: &str, routes: &str) -> Self {
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
            database,
            sim,
            upstream,
            client: Client::new(),
            routes: routes.into(),
            extra: extra.into(),
            packs: PACKS.into(),
            identity: "key",
            shield: WIDE_SHIELD.into(),
            secrets: BTreeMap::new(),
        }
    }

    /// The database's file, for tests that are about SQLite.
    pub fn file(&self) -> PathBuf {
        match &self.database {
            DatabaseConfig::Sqlite(path) => path.clone(),
            DatabaseConfig::Postgres(_) => panic!("this test is about SQLite"),
        }
    }

    /// What a gateway is told besides its file: nothing that a file should hold, since an address can hold a password.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::from([("STRIPE_SECRET_KEY".to_owned(), SECRET_KEY.to_owned())]);
        if let DatabaseConfig::Postgres(url) = &self.database {
            environment.insert("PREPAID402_DATABASE_URL".to_owned(), url.expose().to_owned());
        }
        environment.extend(self.secrets.clone());
        environment
    }

    /// Everything that is kept, and where: files, and on PostgreSQL each column of each table.
    pub async fn stored(&self) -> Vec<(String, Vec<u8>)> {
        let files = std::fs::read_dir(self.folder.path().join("data")).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        let mut stored: Vec<_> =
            paths.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect();
        if let DatabaseConfig::Postgres(url) = &self.database {
            stored.extend(dump(url.expose()).await);
        }
        stored
    }

    /// As if so much time had passed since every gateway was killed that others may call it dead: only for when none runs.
    pub async fn lapse_leases(&self) {
        if self.database.is_shared() {
            change(&self.database, "UPDATE nodes SET lease_until = 1 WHERE lease_until > 1", &[]).await;
        }
    }

    pub fn toml(&self, listen: SocketAddr, admin: SocketAddr) -> String {
        format!(
            "listen = \"{listen}\"\nadmin_listen = \"{admin}\"\npublic_url = \"https://api.example.com\"\n\
             data_dir = {data:?}\nidentity = \"{identity}\"\n{extra}\n[stripe]\npublishable_key = \"{PUBLISHABLE_KEY}\"\napi_base = \"{stripe}\"\n\
             timeout = \"2s\"\n[upstream]\nurl = \"{upstream}\"\nresponse_timeout = \"2s\"\nidle_timeout = \"2s\"\n{packs}\n{shield}\n{routes}",
            data = self.folder.path().join("data"),
            identity = self.identity,
            extra = self.extra,
            stripe = self.sim.base_url,
            upstream = self.upstream.url,
            packs = self.packs,
            shield = self.shield,
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
        let toml = self.toml(any, admin);
        let loaded = prepaid402::config::load_from(Some(&toml), self.folder.path(), &self.environment())
            .unwrap_or_else(|problems| panic!("{problems}"));
        let app = app::start(loaded.config, None).await?;
        let (url, admin_url) = (format!("http://{}", app.address), format!("http://{}", app.admin_address));
        Ok(Gateway { world: self, app, url, admin_url })
    }

    /// A card token, made directly at Stripe as a caller would.
    pub async fn tokenise(&self, number: &str) -> String {
        self.tokenise_with(number, Some("123")).await
    }

    /// The same, by somebody who knows this of the CVC.
    pub async fn tokenise_with(&self, number: &str, cvc: Option<&str>) -> String {
        self.try_tokenise(number, cvc).await.unwrap_or_else(|answer| panic!("{}", answer.text()))
    }

    /// The same, or why Stripe makes none.
    pub async fn try_tokenise(&self, number: &str, cvc: Option<&str>) -> Result<String, Answer> {
        let cvc = cvc.map(|cvc| format!("&card[cvc]={cvc}")).unwrap_or_default();
        let form = format!("type=card&card[number]={number}&card[exp_month]=12&card[exp_year]=2034{cvc}");
        let (url, authorization) =
            (format!("{}/v1/payment_methods", self.sim.base_url), format!("Bearer {PUBLISHABLE_KEY}"));
        let headers = [("authorization", authorization.as_str())];
        let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
        let answer = match self.client.try_send("POST", &url, &headers, body).await {
            Ok(answer) => answer,
            // The connection was idle, and closed in the moment it was used again. A second token does no harm.
            Err(Broken) => self.client.send("POST", &url, &headers, body).await,
        };
        if answer.status != 200 {
            return Err(answer);
        }
        Ok(answer.json()["id"].as_str().unwrap().to_owned())
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

    /// How often Stripe was asked for what, but for the two lists that a gateway looks at by itself, at a moment of its own.
    pub async fn stripe_calls(&self) -> BTreeMap<String, i64> {
        let seen = self.client.get(&format!("{}/_sim/requests", self.sim.base_url)).await.json();
        let counts = seen["counts"].as_object().unwrap_or_else(|| panic!("{seen}"));
        let by_itself = ["events.list", "payment_intents.list"];
        counts
            .iter()
            .filter(|(name, _)| !by_itself.contains(&name.as_str()))
            .map(|(name, count)| (name.clone(), count.as_i64().unwrap()))
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
        let report = verify(&self.database).await;
        assert!(report.is_clean(), "{:#?}", report.findings);
        let mut stripe = self.succeeded_charges().await;
        let mut ours = recorded_charges(&self.database).await;
        stripe.sort();
        ours.sort();
        assert_eq!(ours, stripe, "our top-ups and Stripe's charges");
    }
}

/// The values of each column of each table of a PostgreSQL database, as bytes.
async fn dump(url: &str) -> Vec<(String, Vec<u8>)> {
    let mut connection = sqlx::postgres::PgConnection::connect(url).await.unwrap();
    let columns: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns \
         WHERE table_schema = 'public'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut dumped = Vec::new();
    for (table, column, data_type) in columns {
        let column = format!("\"{column}\"");
        let bytes =
            if data_type == "bytea" { column.clone() } else { format!("convert_to({column}::text, 'UTF8')") };
        let sql = format!("SELECT {bytes} FROM {table} WHERE {column} IS NOT NULL");
        let values: Vec<Vec<u8>> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        dumped.push((format!("{table}.{column}"), values.join(&b'\n')));
    }
    assert!(dumped.iter().any(|(place, bytes)| place == "clients.\"public_id\"" && !bytes.is_empty()));
    dumped
}

pub fn intents(books: &Value) -> Vec<Value> {
    ["payment_intents", "paymentIntents", "intents"]
        .iter()
        .find_map(|name| books[*name].as_array().cloned())
        .unwrap_or_else(|| panic!("books without intents: {books}"))
}

pub async fn verify(database: &DatabaseConfig) -> prepaid402::ledger::verify::Verification {
    let mut connection = db::connect_read_only(database).await.unwrap();
    prepaid402::ledger::verify::verify(&mut connection, |_| {}).await.unwrap()
}

/// All rows that a question has for an answer.
pub async fn rows(database: &DatabaseConfig, sql: impl Into<db::Sql>) -> Vec<db::Row> {
    let mut connection = db::connect_read_only(database).await.unwrap();
    let rows = db::query(sql).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    rows
}

/// A column of a row.
pub fn column<T: for<'r> db::Read<'r>>(row: &db::Row, index: usize) -> T {
    row.try_get(index).unwrap()
}

/// Top-ups in our ledger, as (id, cents).
pub async fn recorded_charges(database: &DatabaseConfig) -> Vec<(String, i64)> {
    let sql = "SELECT id, amount / 10000 FROM top_ups WHERE state = 'succeeded'";
    rows(database, sql).await.iter().map(|row| (column(row, 0), column(row, 1))).collect()
}

/// One number from our database.
pub async fn number(database: &DatabaseConfig, sql: &'static str) -> i64 {
    column(&rows(database, sql).await[0], 0)
}

/// Changes the database under the gateways' feet, and answers how many rows that changed.
pub async fn change(database: &DatabaseConfig, sql: &'static str, values: &[&str]) -> u64 {
    let mut connection = db::connect(database).await.unwrap();
    let query = values.iter().fold(db::query(sql), |query, value| query.bind((*value).to_owned()));
    let changed = query.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    changed
}

/// Keeps every other process from writing an entry, until [`let_write`].
pub async fn hold_writes(database: &DatabaseConfig) -> db::Connection {
    let mut connection = db::connect(database).await.unwrap();
    for sql in [
        db::Sql::each("BEGIN IMMEDIATE", "BEGIN"),
        db::Sql::each("SELECT 1", "LOCK TABLE entries IN EXCLUSIVE MODE"),
    ] {
        db::query(sql).execute(&mut connection).await.unwrap();
    }
    connection
}

/// Ends [`hold_writes`].
pub async fn let_write(mut held: db::Connection) {
    db::query("ROLLBACK").execute(&mut held).await.unwrap();
    held.close().await.unwrap();
}

/// From now on PostgreSQL says that its disk has no room for another entry.
pub async fn fill_disk(database: &DatabaseConfig) {
    for sql in [
        "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER disk_is_full BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION no_space()",
    ] {
        change(database, sql, &[]).await;
    }
}

/// Ends [`fill_disk`].
pub async fn empty_disk(database: &DatabaseConfig) {
    change(database, "DROP TRIGGER disk_is_full ON entries", &[]).await;
}

/// `false`, said plainly, when the tests run on PostgreSQL and this one is about SQLite, or about the one process that owns
/// a file.
pub fn is_on_sqlite(why: &str) -> bool {
    if postgres::server().is_some() {
        postgres::skipped(&format!("on PostgreSQL: {why}"));
        return false;
    }
    true
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
    pub new_wallet: Option<bool>,
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

    pub fn new_wallet(mut self) -> Self {
        self.new_wallet = Some(true);
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
            new_wallet: self.new_wallet,
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

//! The operator's doors: refunds, freezing, the evidence of a dispute; by HTTP and from the command line.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::program::{Ran, finish, program};
use crate::support::{GOOD, Gateway, Pay, World, column, number, rows};

pub const NAME: &str = "frida";
pub const PASSWORD: &str = "violet kettle orbit";

/// An operator in front of a running gateway.
pub struct Office<'a> {
    pub world: &'a World,
    pub gateway: Gateway<'a>,
    authorization: String,
}

/// A wallet with one top-up.
pub struct Wallet {
    pub key: String,
    pub top_up: String,
    pub intent: String,
    pub public_id: String,
}

pub fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

impl<'a> Office<'a> {
    pub async fn new(world: &'a World) -> Self {
        let office = Self::again(world).await;
        let mut connection = prepaid402::db::connect(&world.database).await.unwrap();
        prepaid402::http::admin::users::create_user(&mut connection, NAME, PASSWORD).await.unwrap();
        office
    }

    /// With a database that knows the operator.
    pub async fn again(world: &'a World) -> Self {
        Self { world, gateway: world.gateway().await, authorization: basic(NAME, PASSWORD) }
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let url = format!("{}/admin/api{path}", self.gateway.admin_url);
        let mut all = vec![("authorization", self.authorization.as_str())];
        all.extend(headers);
        let body = body.map(Value::to_string);
        let body = body.as_ref().map(|body| ("application/json", body.as_bytes()));
        self.world.client.send(method, &url, &all, body).await
    }

    pub async fn refund(&self, key: &str, body: &Value) -> Answer {
        self.ask("POST", "/refunds", &[("idempotency-key", key)], Some(body)).await
    }

    pub async fn refunds(&self, wallet: &Wallet) -> Vec<Value> {
        let answer = self.ask("GET", &format!("/refunds?topUp={}", wallet.top_up), &[], None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["refunds"].as_array().unwrap().clone()
    }

    /// Pays 20.00, gets 1.00 on top, and spends nothing.
    pub async fn wallet(&self) -> Wallet {
        self.wallet_of(GOOD).await
    }

    pub async fn wallet_of(&self, number: &str) -> Wallet {
        let card = self.world.tokenise(number).await;
        let body = json!({ "paymentMethodId": card, "topUpAmount": 200_000 }).to_string();
        let url = format!("{}/billing/top-ups", self.gateway.url);
        let headers = [("idempotency-key", card.as_str())];
        let body = Some(("application/json", body.as_bytes()));
        let answer = self.world.client.send("POST", &url, &headers, body).await;
        assert!(answer.status < 300, "{}", answer.text());
        let key = answer.receipt().client_id;
        let sql = "SELECT t.id, t.payment_intent, c.public_id FROM top_ups AS t JOIN clients AS c ON c.id = t.client \
                   ORDER BY t.id DESC LIMIT 1";
        let row = rows(&self.world.database, sql).await.remove(0);
        Wallet { key, top_up: column(&row, 0), intent: column(&row, 1), public_id: column(&row, 2) }
    }

    async fn spend(&self, wallet: &Wallet, path: &str, status: u16) {
        let answer = self.gateway.pay(path, &Pay::client(&wallet.key)).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }

    /// Refunds at Stripe, in cents.
    pub async fn at_stripe(&self) -> Vec<i64> {
        let books = self.world.books().await;
        books["refunds"].as_array().unwrap().iter().map(|row| row["amount"].as_i64().unwrap()).collect()
    }

    /// A dispute at Stripe, of which nobody has told us.
    async fn dispute(&self, wallet: &Wallet) -> String {
        let url = format!("{}/_sim/payment_intents/{}/dispute", self.world.sim.base_url, wallet.intent);
        let answer = self.world.client.post_json(&url, &json!({ "reason": "fraudulent" })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.world.books().await["disputes"][0]["id"].as_str().unwrap().to_owned()
    }

    /// The program with the server's address, the operator's name and password.
    pub async fn run(&self, args: &[&str]) -> Ran {
        let mut command = program(self.world.folder.path(), args);
        command.env("PREPAID402_ADMIN_URL", &self.gateway.admin_url);
        command.env("PREPAID402_ADMIN_USER", NAME).env("PREPAID402_ADMIN_PASSWORD", PASSWORD);
        command.envs(self.world.environment());
        finish(command, None).await
    }

    /// Where the database is, for commands that read it.
    fn location(&self) -> Vec<String> {
        match &self.world.database {
            prepaid402::config::DatabaseConfig::Sqlite(path) => {
                vec!["--database".to_owned(), PathBuf::from(path).display().to_string()]
            }
            prepaid402::config::DatabaseConfig::Postgres(url) => {
                vec!["--database".to_owned(), url.expose().to_owned()]
            }
        }
    }

    pub async fn done(self) {
        self.world.assert_books_agree().await;
        self.gateway.stop().await;
    }
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("retry-after").is_some(), matches!(status, 429 | 503), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_and_then_the_rest_go_back_and_the_bonus_is_forfeited() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let part = json!({ "topUp": wallet.top_up, "amount": "5.00", "reason": "asked by mail" });
    let first = office.refund("a", &part).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let made = first.json();
    for (field, expected) in [
        ("topUp", wallet.top_up.as_str()),
        ("amount", "5.00"),
        ("currency", "usd"),
        ("bonusForfeited", "0.25"),
        ("origin", "operator"),
        ("state", "succeeded"),
        ("operator", NAME),
        ("reason", "asked by mail"),
    ] {
        assert_eq!(made[field], expected, "{field} in {made}");
    }
    assert_eq!(office.gateway.balance(&wallet.key).await, 157_500);
    // The same again is the same; with other content it is refused.
    assert_eq!(office.refund("a", &part).await.json()["id"], made["id"]);
    let other = json!({ "topUp": wallet.top_up, "amount": "6.00" });
    assert_refused(&office.refund("a", &other).await, 422, "idempotency_mismatch");
    let all = json!({ "topUp": wallet.top_up });
    assert_refused(&office.refund("a", &all).await, 422, "idempotency_mismatch");
    let too_much = json!({ "topUp": wallet.top_up, "amount": "15.01" });
    assert_refused(&office.refund("b", &too_much).await, 409, "exceeds_charge");
    let rest = office.refund("c", &all).await;
    assert_eq!((rest.status, &rest.json()["amount"]), (200, &json!("15.00")), "{}", rest.text());
    assert_eq!(rest.json()["bonusForfeited"], "0.75");
    assert_eq!(office.gateway.balance(&wallet.key).await, 0);
    assert_refused(&office.refund("d", &json!({ "topUp": wallet.top_up })).await, 409, "exceeds_charge");
    assert_eq!(office.refunds(&wallet).await.len(), 2);
    assert_eq!(office.at_stripe().await, [500, 1_500]);
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clicks_are_one_refund() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let body = json!({ "topUp": wallet.top_up });
    let clicks = futures_util::future::join_all((0..20).map(|_| office.refund("click", &body))).await;
    let mut ids = Vec::new();
    for click in &clicks {
        match click.status {
            200 => ids.push(click.json()["id"].clone()),
            // Another one is asking at this moment; nothing else may be said.
            _ => assert_eq!((click.status, click.code().as_str()), (409, "idempotency_in_flight")),
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(office.at_stripe().await, [2_000]);
    assert_eq!(office.refunds(&wallet).await.len(), 1);
    assert_eq!(office.gateway.balance(&wallet.key).await, 0);
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spent_is_not_refunded() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    office.spend(&wallet, "/api/weather", 200).await;
    let all = json!({ "topUp": wallet.top_up });
    assert_refused(&office.refund("all", &all).await, 409, "insufficient_credits");
    assert_eq!(office.at_stripe().await, [0_i64; 0]);
    assert_eq!(office.refunds(&wallet).await.len(), 0);
    let left = json!({ "topUp": wallet.top_up, "amount": "19.95" });
    let made = office.refund("left", &left).await;
    assert_eq!(made.status, 200, "{}", made.text());
    assert_eq!(office.at_stripe().await, [1_995]);
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused_and_do_nothing() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let id = &wallet.top_up;
    let unknown = "0198c5a1-7a55-7cc3-a1d1-0d1c7f0a2b11";
    for (body, status, code) in [
        (json!({}), 400, "invalid_request"),
        (json!({ "topUp": id, "amount": 5 }), 400, "invalid_request"),
        (json!({ "topUp": id, "amount": "0" }), 400, "invalid_request"),
        (json!({ "topUp": id, "amount": null }), 400, "invalid_request"),
        (json!({ "topUp": id, "reason": null }), 400, "invalid_request"),
        (json!({ "topUp": id, "amount": "-1" }), 400, "invalid_request"),
        (json!({ "topUp": id, "amont": "1" }), 400, "invalid_request"),
        (json!({ "topUp": id, "reason": "x".repeat(501) }), 400, "invalid_request"),
        (json!({ "topUp": id, "reason": "card 4242424242424242" }), 400, "raw_card_data_rejected"),
        (json!({ "topUp": id, "amount": "0.001" }), 422, "amount_not_payable"),
        (json!({ "topUp": unknown }), 404, "not_charged"),
        (json!({ "topUp": "x" }), 404, "not_charged"),
    ] {
        assert_refused(&office.refund("k", &body).await, status, code);
    }
    let no_key = office.ask("POST", "/refunds", &[], Some(&json!({ "topUp": id }))).await;
    assert_refused(&no_key, 400, "invalid_request");
    for path in
        ["/refunds?topUp=x", "/refunds?topUp=0198c5a1-7a55-7cc3-a1d1-0d1c7f0a2b11", "/disputes/du_x", "/x"]
    {
        assert_refused(&office.ask("GET", path, &[], None).await, 404, "not_found");
    }
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM refunds").await, 0);
    assert_eq!(office.at_stripe().await, [0_i64; 0]);
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_passes_without_name_and_password() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let body = json!({ "topUp": wallet.top_up }).to_string();
    let post = async |headers: &[(&str, &str)]| {
        let mut all = vec![("idempotency-key", "k")];
        all.extend(headers);
        let url = format!("{}/admin/api/refunds", office.gateway.admin_url);
        world.client.send("POST", &url, &all, Some(("application/json", body.as_bytes()))).await
    };
    let right = office.authorization.as_str();
    let (wrong, unknown) = (basic(NAME, "another password"), basic("nobody", PASSWORD));
    for headers in [
        &[][..],
        &[("authorization", "Bearer x")],
        &[("authorization", "Basic !")],
        &[("authorization", wrong.as_str())],
        &[("authorization", unknown.as_str())],
        &[("cookie", "prepaid402-admin=x")],
        &[("authorization", right), ("authorization", right)],
    ] {
        let answer = post(headers).await;
        assert_refused(&answer, 401, "unauthorized");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Basic realm="));
    }
    // A browser sends a password that it remembers with requests of other sites.
    for header in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example"), ("origin", "null")] {
        assert_refused(&post(&[("authorization", right), header]).await, 403, "browser_refused");
    }
    // Guessing is slowed down; then the right password waits as well.
    let mut guesses = 0;
    while post(&[("authorization", wrong.as_str())]).await.status == 401 {
        guesses += 1;
        assert!(guesses < 20, "guessing must be slowed down");
    }
    assert_refused(&post(&[("authorization", right)]).await, 429, "too_many_attempts");
    assert_eq!(office.at_stripe().await, [0_i64; 0]);
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_client_spends_nothing_and_can_be_refunded() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let path = |what: &str| format!("/clients/{}/{what}", wallet.public_id);
    for _ in 0..2 {
        let frozen = office.ask("POST", &path("freeze"), &[], None).await;
        assert_eq!((frozen.status, &frozen.json()["status"]), (200, &json!("frozen")), "{}", frozen.text());
    }
    assert_eq!(office.gateway.pay("/api/joke", &Pay::client(&wallet.key)).await.code(), "client_frozen");
    let made = office.refund("k", &json!({ "topUp": wallet.top_up, "amount": "1.00" })).await;
    assert_eq!(made.status, 200, "{}", made.text());
    for _ in 0..2 {
        let active = office.ask("POST", &path("unfreeze"), &[], None).await;
        assert_eq!((active.status, &active.json()["status"]), (200, &json!("active")), "{}", active.text());
    }
    office.spend(&wallet, "/api/joke", 200).await;
    let lifted = rows(&world.database, "SELECT cause, lifted_by FROM freezes").await;
    assert_eq!(
        (column::<String>(&lifted[0], 0), column::<String>(&lifted[0], 1)),
        ("operator".into(), NAME.into())
    );
    assert_refused(&office.ask("POST", "/clients/x/freeze", &[], None).await, 404, "not_found");
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_asked_for_again_and_refunds_once() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    for (fault, at_once) in [
        // Stripe has made it, and says 500 once, or for ever under this key.
        (json!({ "action": "fail_after", "times": 1 }), 200),
        (json!({ "action": "fail_after", "times": 1, "saved": true }), 200),
        // It has not, as far as anybody can tell.
        (json!({ "action": "fail_before", "times": 50 }), 503),
    ] {
        let wallet = office.wallet().await;
        let before = office.at_stripe().await.len();
        let mut fault = fault;
        fault["on"] = json!("refunds.create");
        world.faults(json!([fault])).await;
        let body = json!({ "topUp": wallet.top_up });
        let key = format!("key-{}", wallet.top_up);
        let first = office.refund(&key, &body).await;
        assert_eq!(first.status, at_once, "{fault}: {}", first.text());
        if first.status == 503 {
            assert_refused(&first, 503, "refund_unknown");
            assert_eq!(first.json()["refund"]["state"], "requested");
            // Its credit is taken: it could be on its way.
            assert_eq!(office.gateway.balance(&wallet.key).await, 0);
        }
        world.clear_faults().await;
        let again = office.refund(&key, &body).await;
        assert_eq!((again.status, &again.json()["state"]), (200, &json!("succeeded")), "{fault}");
        assert_eq!(office.at_stripe().await.len(), before + 1, "{fault}");
        assert_eq!(office.refunds(&wallet).await.len(), 1, "{fault}");
    }
    office.done().await;
}

/// A configuration that says no more than where the admin pages are.
fn admin_listen_of(admin_url: &str) -> String {
    format!("admin_listen = \"{}\"\n", admin_url.strip_prefix("http://").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_the_running_server() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let ran = office.run(&["refund", &wallet.top_up, "--amount", "5.00", "--reason", "asked"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let key = ran.out.lines().next().unwrap().strip_prefix("key: ").unwrap().to_owned();
    assert!(ran.out.contains("5.00 USD of top-up") && ran.out.contains("has been refunded"), "{}", ran.out);
    assert!(ran.out.contains("0.25 USD of bonus was forfeited"), "{}", ran.out);
    let again = office.run(&["refund", &wallet.top_up, "--amount", "5.00", "--key", &key]).await;
    assert_eq!((again.code, office.at_stripe().await), (0, vec![500]), "{again:?}");
    let too_much = office.run(&["refund", &wallet.top_up, "--amount", "15.01"]).await;
    assert_eq!(too_much.code, 1, "{too_much:?}");
    assert!(too_much.err.contains("(exceeds_charge)"), "{}", too_much.err);
    world.faults(json!([{ "on": "refunds.create", "action": "fail_before", "times": 50 }])).await;
    let unknown = office.run(&["refund", &wallet.top_up, "--key", "once"]).await;
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(
        unknown.err.contains("(refund_unknown)") && unknown.err.contains("--key once"),
        "{}",
        unknown.err
    );
    world.clear_faults().await;
    let known = office.run(&["refund", &wallet.top_up, "--key", "once"]).await;
    assert_eq!((known.code, office.at_stripe().await), (0, vec![500, 1_500]), "{known:?}");
    let frozen = office.run(&["freeze", &wallet.public_id]).await;
    assert_eq!(frozen.out, format!("client {} is frozen\n", wallet.public_id), "{frozen:?}");
    let active = office.run(&["unfreeze", &wallet.public_id]).await;
    assert_eq!(active.out, format!("client {} is active\n", wallet.public_id), "{active:?}");
    for (args, code, part) in [
        (&["freeze", "a/b"][..], 1, "not_found"),
        (&["refund", "x"], 2, "top-up"),
        (&["refund", &wallet.top_up, "--amount", "0"], 2, "above zero"),
        (&["freeze", "x", "--admin-url", "http://192.0.2.1"], 2, "in the clear"),
        (&["freeze", "x", "--admin-url", "http://127.0.0.1:9"], 1, "cannot be reached"),
    ] {
        let ran = office.run(args).await;
        assert_eq!((ran.code, ran.err.contains(part)), (code, true), "{args:?}: {ran:?}");
    }
    // Without an address, the configuration's: a file's, and the environment's over it.
    let by_config = async |file: &str, args: &[&str], variables: &[(&str, &str)]| {
        std::fs::write(world.folder.path().join(file), admin_listen_of(&office.gateway.admin_url)).unwrap();
        let mut command = program(world.folder.path(), &["freeze", &wallet.public_id]);
        command.args(args).env("PREPAID402_ADMIN_USER", NAME).env("PREPAID402_ADMIN_PASSWORD", PASSWORD);
        command.envs(variables.iter().copied());
        let ran = finish(command, None).await;
        std::fs::remove_file(world.folder.path().join(file)).unwrap();
        ran
    };
    let admin = office.gateway.admin_url.strip_prefix("http://").unwrap();
    let port = admin.rsplit(':').next().unwrap();
    for (file, args, variables) in [
        ("prepaid402.toml", &[][..], &[][..]),
        ("other.toml", &["--config", "other.toml"], &[]),
        ("other.toml", &[], &[("PREPAID402_CONFIG", "other.toml")]),
        ("other.toml", &[], &[("PREPAID402_ADMIN_LISTEN", admin)]),
        ("other.toml", &[], &[("PREPAID402_ADMIN_LISTEN", &format!("0.0.0.0:{port}"))]),
        ("other.toml", &["--admin-url", &office.gateway.admin_url], &[("PREPAID402_CONFIG", "nowhere.toml")]),
    ] {
        let ran = by_config(file, args, variables).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?} {variables:?}: {ran:?}");
    }
    for (variables, part) in [
        (&[("PREPAID402_CONFIG", "nowhere.toml")][..], "nowhere.toml: cannot be read"),
        (&[("PREPAID402_ADMIN_LISTEN", "192.0.2.1:4403")], "admin_listen is 192.0.2.1:4403"),
        (&[("PREPAID402_ADMIN_LISTEN", "nowhere")], "admin_listen"),
    ] {
        let ran = by_config("other.toml", &[], variables).await;
        assert_eq!((ran.code, ran.err.contains(part)), (2, true), "{variables:?}: {ran:?}");
    }
    // Without the password there is nobody; with another one, too.
    let mut command = program(world.folder.path(), &["freeze", "x", "--user", NAME]);
    command.env("PREPAID402_ADMIN_URL", &office.gateway.admin_url);
    assert_eq!(finish(command, None).await.code, 2);
    let mut command = program(world.folder.path(), &["freeze", "x", "--user", NAME, "--password-stdin"]);
    command.env("PREPAID402_ADMIN_URL", &office.gateway.admin_url);
    let wrong = finish(command, Some("not the password\n")).await;
    assert_eq!((wrong.code, wrong.err.contains("(unauthorized)")), (1, true), "{wrong:?}");
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_is_answered_with_what_was_delivered() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    office.spend(&wallet, "/api/weather", 200).await;
    office.spend(&wallet, "/api/joke", 200).await;
    // Cut by the API after its price was taken: given back.
    let url = format!("{}/up/cut/10", office.gateway.url);
    let header = Pay::client(&wallet.key).header();
    let _ = world.client.try_send("GET", &url, &[("payment", &header)], None).await;
    crate::support::program::until("the cut answer is given back", async || {
        number(&world.database, "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'").await > 0
    })
    .await;
    // Somebody disputes it after the refund has looked for that, and before Stripe has answered; then Stripe refuses.
    world.faults(json!([{ "on": "refunds.create", "action": "hang", "execute": false }])).await;
    let body = json!({ "topUp": wallet.top_up, "amount": "1.00" });
    let (refused, id) = tokio::join!(office.refund("k", &body), async {
        let taken = "SELECT COUNT(*) FROM refunds WHERE state = 'requested'";
        crate::support::program::until("its credit is taken", async || {
            number(&world.database, taken).await == 1
        })
        .await;
        office.dispute(&wallet).await
    });
    assert_refused(&refused, 409, "refund_failed");
    let late = json!({ "topUp": wallet.top_up, "amount": "2.00" });
    assert_refused(&office.refund("l", &late).await, 409, "exceeds_charge");
    assert_eq!(office.at_stripe().await, [0_i64; 0]);
    let frozen = office.gateway.pay("/api/joke", &Pay::client(&wallet.key)).await;
    assert_eq!(frozen.code(), "client_frozen", "{}", frozen.text());

    let path = format!("/disputes/{id}");
    // That an answer was delivered is written down a moment later.
    crate::support::program::until("delivery is certain", async || {
        !office.ask("GET", &path, &[], None).await.text().contains("unconfirmed")
    })
    .await;
    let answer = office.ask("GET", &path, &[], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let found = answer.json();
    assert_eq!(found["dispute"]["id"], id.as_str());
    assert_eq!(found["dispute"]["amount"], "20.00");
    assert_eq!(found["payment"]["topUp"], wallet.top_up.as_str());
    assert_eq!(found["payment"]["paymentIntent"], wallet.intent.as_str());
    assert_eq!(found["payment"]["balanceAfter"], "21.00");
    assert_eq!(found["client"]["id"], wallet.public_id.as_str());
    assert_eq!(found["client"]["keyPrefixes"], json!([wallet.key.get(..10).unwrap()]));
    assert_eq!(found["requests"][0]["key"], wallet.key.get(..10).unwrap());
    let requests: Vec<_> = found["requests"].as_array().unwrap().iter().collect();
    let seen: Vec<_> = requests
        .iter()
        .map(|r| {
            (
                r["route"].as_str().unwrap().split(' ').next_back().unwrap(),
                r["price"].as_str().unwrap(),
                r["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("/api/weather", "0.05", "delivered"),
            ("/api/joke", "0.01", "delivered"),
            ("/up/*", "0.05", "reversed")
        ]
    );
    assert_eq!(found["refunds"][0]["state"], "failed");
    assert_eq!(found["freezes"][0]["cause"], format!("dispute:{id}"));

    let mut args = vec!["export".to_owned(), "dispute".to_owned(), id.clone()];
    args.extend(office.location());
    let with = |flag: &str| {
        let mut args = args.clone();
        if !flag.is_empty() {
            args.push(flag.to_owned());
        }
        args
    };
    let mut printed = Vec::new();
    for flag in ["", "--json", "--csv"] {
        let args = with(flag);
        let ran = office.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        assert!(!ran.out.contains(&wallet.key), "no secret");
        printed.push(ran.out);
    }
    let (text, csv) = (&printed[0], &printed[2]);
    assert_eq!(serde_json::from_str::<Value>(&printed[1]).unwrap(), found);
    assert_eq!(csv.lines().count(), 4, "{csv}");
    assert!(
        csv.contains(&format!(
            ",GET /api/weather,0.05,usd,200,delivered,20.95,{}\r\n",
            wallet.key.get(..10).unwrap()
        )),
        "{csv}"
    );
    assert!(text.ends_with(csv.as_str()) && text.contains("2, for 0.06 USD"), "{text}");
    let none = office.run(&["export", "dispute", "du_none", &args[3], &args[4]]).await;
    assert_eq!((none.code, none.err.contains("no dispute du_none")), (1, true), "{none:?}");
    office.done().await;
}

//! When the database takes no writes, is lost, or is not the one that it was: nobody pays and nobody is served for it.

mod file;
mod full;
mod lost;
mod restored;
mod tidy;

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::support::http::Answer;
use crate::support::process::{Process, Seat};
use crate::support::{GOOD, Pay, World, dice};

/// What a caller has left who paid for the first request.
const LEFT: i64 = 49_500;

/// A gateway as a process of its own, and a wallet.
struct Sale<'a> {
    world: &'a World,
    seat: Seat,
    process: Process,
    wallet: String,
}

impl<'a> Sale<'a> {
    async fn open(world: &'a World) -> Self {
        let seat = Seat::new(world, &mut dice::Dice::random());
        let mut process = seat.spawn_limited();
        process.ready().await;
        let mut sale = Self { world, seat, process, wallet: String::new() };
        sale.wallet = sale.new_wallet().await;
        sale
    }

    async fn new_wallet(&self) -> String {
        let card = self.world.tokenise(GOOD).await;
        let paid = self.pay("GET", "/api/weather", &Pay::card(&card), None).await;
        assert_eq!(paid.status, 200, "{}", paid.text());
        paid.receipt().client_id
    }

    async fn pay(&self, method: &str, path: &str, pay: &Pay, key: Option<&str>) -> Answer {
        let header = pay.header();
        let mut headers = vec![("payment", header.as_str())];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        self.world.client.send(method, &format!("{}{path}", self.process.url), &headers, None).await
    }

    async fn spend(&self) -> Answer {
        self.pay("GET", "/api/joke", &Pay::client(&self.wallet), None).await
    }

    async fn buy(&self, card: &str, key: &str) -> Answer {
        let bearer = format!("Bearer {}", self.wallet);
        let body = json!({ "paymentMethodId": card }).to_string();
        let headers = [
            ("authorization", bearer.as_str()),
            ("idempotency-key", key),
            ("content-type", "application/json"),
        ];
        let url = format!("{}/billing/top-ups", self.process.url);
        self.world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
    }

    async fn readyz(&self) -> Answer {
        self.world.client.get(&format!("{}/readyz", self.process.admin_url)).await
    }

    async fn until_ready(&self, status: u16) {
        let asking = async {
            while self.readyz().await.status != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), asking).await;
        waited.unwrap_or_else(|_| panic!("/readyz is never {status}:\n{}", self.process.log()));
    }

    /// Whoever would have to pay is refused at every door: the API is not asked, and no card is charged. Programs that repeat by
    /// themselves are told to only if it `may_end_by_itself`.
    async fn sells_nothing(&self, may_end_by_itself: bool) {
        let repeating = Some(if may_end_by_itself { "true" } else { "false" });
        let world = self.world;
        let (hits, charges) = (world.upstream.hits(), world.succeeded_charges().await.len());
        let card = world.tokenise(GOOD).await;
        let calls = world.stripe_calls().await;
        for (method, path, pay, key) in [
            ("GET", "/api/joke", Pay::client(&self.wallet), None),
            ("POST", "/up/status/200", Pay::client(&self.wallet), None),
            ("POST", "/up/status/200", Pay::client(&self.wallet), Some("another")),
            ("GET", "/api/joke", Pay::card(&card), None),
            ("GET", "/api/joke", Pay::client(&self.wallet).with_card(&card).top_up(500_000), None),
        ] {
            let answer = self.pay(method, path, &pay, key).await;
            let what = format!("{method} {path} {key:?}: {}\n{}", answer.text(), self.process.log());
            assert_eq!((answer.status, answer.code().as_str()), (503, "busy"), "{what}");
            assert!(answer.header("retry-after").is_some(), "{what}");
            assert_eq!(answer.header("x-should-retry"), repeating, "{what}");
            let told = answer.try_receipt().and_then(|note| note.credits_remaining);
            assert_eq!(told, None, "nobody has looked: {what}");
        }
        let bought = self.buy(&card, "in-vain").await;
        assert_eq!(bought.status, 503, "{}", bought.text());
        assert!(bought.header("retry-after").is_some(), "{}", bought.text());
        assert_eq!(bought.header("x-should-retry"), repeating, "{}", bought.text());
        assert_eq!(world.upstream.hits(), hits, "the API is not asked");
        assert_eq!(world.succeeded_charges().await.len(), charges, "no card is charged");
        assert_eq!(world.stripe_calls().await, calls, "Stripe is not asked");
    }

    /// What needs no write goes on.
    async fn shows_what_is_free(&self) {
        let client = &self.world.client;
        let free = client.get(&format!("{}/api/health", self.process.url)).await;
        assert_eq!(free.status, 200, "{}", free.text());
        let offered = client.get(&format!("{}/api/joke", self.process.url)).await;
        assert_eq!((offered.status, offered.code().as_str()), (402, "payment_required"));
        let healthy = client.get(&format!("{}/healthz", self.process.admin_url)).await;
        assert_eq!(healthy.status, 200);
    }
}

/// The names of what is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

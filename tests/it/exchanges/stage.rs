//! What stands around the exchanges of one file: Stripe, an upstream, and a door to knock at.

use std::time::{Duration, Instant};

use super::corpus::Theme;
use super::ledger::{Books, Moment};
use crate::embedded::Shop;
use crate::support::dice::Dice;
use crate::support::process::{Process, Seat};
use crate::support::raw::{closed_port, eventually};
use crate::support::{ROUTES, World, number, verify};

/// What happens in the background after an answer is there so soon, or never.
const SOON: Duration = Duration::from_secs(5);
/// What webhooks are signed with.
pub const WEBHOOK_SECRET: &str = "whsec_0123456789abcdefghijklmnopqrstuv";
/// Who may use the operator's door.
pub const OPERATOR: &str = "frida";
pub const PASSWORD: &str = "violet kettle orbit";

/// The world of a file.
pub async fn world_of(theme: &Theme) -> World {
    // The name that exchanges at the admin door say.
    let (mut top, mut tables) = ("admin_hosts = [\"admin\"]\n".to_owned(), String::new());
    for (_, lines) in theme.setting.blocks("configuration") {
        for line in lines {
            let part = if tables.is_empty() && !line.starts_with('[') { &mut top } else { &mut tables };
            part.push_str(line);
            part.push('\n');
        }
    }
    let routes = if theme.setting.has("only-these-routes") { "" } else { ROUTES };
    let mut world = World::with(&top, &format!("{routes}\n{tables}")).await;
    if tables.contains("[shield]") {
        world.shield = String::new();
    }
    if tables.contains("[[top_up.options]]") || tables.contains("[top_up]") {
        world.packs = String::new();
    }
    if theme.setting.has("without-upstream") {
        world.upstream.url = closed_port();
    }
    if !theme.setting.has("without-webhooks") {
        world.secrets.insert("STRIPE_WEBHOOK_SECRETS".into(), WEBHOOK_SECRET.into());
    }
    // What the gateway does by itself must not fall into an exchange.
    for name in ["PREPAID402_WEBHOOKS__POLL_EVERY", "PREPAID402_TOP_UP__RECONCILE_EVERY"] {
        world.secrets.insert(name.to_owned(), "1h".to_owned());
    }
    for variable in theme.setting.all("environment") {
        let (name, value) = variable.split_once('=').unwrap();
        let value = value.replace("{{upstream-url}}", &world.upstream.url);
        world.secrets.insert(name.to_owned(), value);
    }
    world
}

/// The door of a file.
pub enum Door<'w> {
    /// `prepaid402 serve`, and where it sits.
    Gateway(Box<Seat>, Box<Process>),
    /// The paywall inside an application.
    Embedded(Box<Shop<'w>>),
    /// Commands alone.
    None,
}

/// Waits until every start has had its first look at what Stripe tells. No other follows for an hour.
async fn looked_at_stripe(world: &World, starts: i64) {
    let url = format!("{}/_sim/requests", world.sim.base_url);
    eventually("the first look at Stripe", async || {
        let counts = &world.client.get(&url).await.json()["counts"];
        let is_seen = |name: &str| counts[name].as_i64().unwrap_or(0) >= starts;
        is_seen("events.list") && is_seen("payment_intents.list")
    })
    .await;
}

/// Everything that the exchanges of a file share.
pub struct Stage<'w> {
    pub world: &'w World,
    pub door: Door<'w>,
    /// `None` where nobody has books.
    books: Option<Books>,
    has_operator: bool,
    starts: i64,
}

impl<'w> Stage<'w> {
    pub async fn set(world: &'w World, theme: &Theme) -> Self {
        let door = match theme.setting.all("door").next() {
            None => {
                let seat = Box::new(Seat::new(world, &mut Dice::random()));
                let process = Box::new(seat.start().await);
                looked_at_stripe(world, 1).await;
                Door::Gateway(seat, process)
            }
            Some("embedded") => {
                let tables: Vec<_> =
                    theme.setting.blocks("settings").flat_map(|(_, lines)| lines.to_vec()).collect();
                let shop = Box::new(Shop::with(world, &tables.join("\n")).await);
                looked_at_stripe(world, 1).await;
                Door::Embedded(shop)
            }
            Some("none") => Door::None,
            Some(other) => panic!("no such door: {other}"),
        };
        let books = match door {
            Door::None => None,
            _ => Some(Books::open(&world.database).await),
        };
        Self { world, door, books, has_operator: false, starts: 1 }
    }

    pub fn url(&self) -> &str {
        match &self.door {
            Door::Gateway(_, process) => &process.url,
            Door::Embedded(shop) => &shop.url,
            Door::None => panic!("this file has no door"),
        }
    }

    pub fn admin_url(&self) -> &str {
        match &self.door {
            Door::Gateway(_, process) => &process.admin_url,
            Door::Embedded(shop) => &shop.admin_url,
            Door::None => panic!("this file has no door"),
        }
    }

    /// How often the upstream, or a handler, was asked.
    pub fn hits(&self) -> usize {
        match &self.door {
            Door::Embedded(shop) => shop.handlers.calls.load(std::sync::atomic::Ordering::SeqCst),
            Door::Gateway(..) | Door::None => self.world.upstream.hits(),
        }
    }

    /// Waits until a request has reached the upstream, a handler or Stripe.
    pub async fn reached(&self, hits: usize, at_stripe: bool) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let is_there = if at_stripe { self.held_at_stripe().await > 0 } else { self.hits() > hits };
            if is_there {
                return Ok(());
            }
            if begun.elapsed() > SOON {
                return Err("the request never reached the other side".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until something is charged.
    pub async fn charged_since(&mut self, then: &Moment) -> Result<(), String> {
        let books = self.books.as_mut().ok_or("there are no books")?;
        let begun = Instant::now();
        while !books.has_usage_since(then).await {
            if begun.elapsed() > SOON {
                return Err("nothing was charged".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Lets one that waits go on.
    pub fn release(&self) {
        match &self.door {
            Door::Embedded(shop) => shop.handlers.waiting.add_permits(1),
            Door::Gateway(..) | Door::None => self.world.upstream.release(1),
        }
    }

    /// Requests that the simulated Stripe does not answer yet.
    pub async fn held_at_stripe(&self) -> u64 {
        let url = format!("{}/_sim/requests", self.world.sim.base_url);
        self.world.client.get(&url).await.json()["held"].as_u64().unwrap()
    }

    pub async fn release_at_stripe(&self) {
        let url = format!("{}/_sim/release", self.world.sim.base_url);
        self.world.client.post_json(&url, &serde_json::json!({})).await;
    }

    /// The id of the youngest charge at Stripe.
    pub async fn newest_intent(&self) -> String {
        let intents = crate::support::intents(&self.world.books().await);
        intents.last().unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the books say of everything that was delivered that it was.
    pub async fn all_is_delivered(&self) {
        let open = "SELECT COUNT(*) FROM undelivered WHERE entries <> '[]'";
        eventually("everything is delivered", async || number(&self.world.database, open).await <= 0).await;
    }

    /// What is in the books now.
    pub async fn moment(&mut self) -> Moment {
        match &mut self.books {
            Some(books) => books.now().await,
            None => Moment::default(),
        }
    }

    /// What has moved since then. An answer that was cut short is given back a little later.
    pub async fn moved_since(&mut self, then: &Moment, is_cut: bool) -> Option<Vec<String>> {
        let books = self.books.as_mut()?;
        if is_cut && books.has_usage_since(then).await {
            let begun = Instant::now();
            while begun.elapsed() < SOON && !books.has_reversal_since(then).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Some(books.since(then).await)
    }

    pub async fn need_operator(&mut self) {
        if self.has_operator {
            return;
        }
        self.has_operator = true;
        let mut connection = prepaid402::db::connect(&self.world.database).await.unwrap();
        let made = prepaid402::http::admin::users::create_user(&mut connection, OPERATOR, PASSWORD);
        made.await.unwrap();
        connection.close().await.unwrap();
    }

    /// Ends the gateway as a service manager does, changes the database, and starts it again.
    pub async fn restart(&mut self, statements: &[&str]) {
        let Door::Gateway(seat, process) = std::mem::replace(&mut self.door, Door::None) else {
            panic!("only a gateway can be started again");
        };
        process.terminate().await;
        assert!(process.wait().await.success());
        for statement in statements {
            // A statement's text lives as long as the program, because most are written in it.
            let statement: &'static str = Box::leak((*statement).to_owned().into_boxed_str());
            let changed = crate::support::change(&self.world.database, statement, &[]).await;
            assert!(changed > 0, "nothing is changed by: {statement}");
        }
        let process = Box::new(seat.start().await);
        self.starts += 1;
        looked_at_stripe(self.world, self.starts).await;
        // Then it reads all charges back, and books what they have cost.
        let open = "SELECT (SELECT COUNT(*) FROM top_ups WHERE state = 'succeeded' AND former_account = 0) - \
                    (SELECT COUNT(*) FROM entries WHERE source LIKE 'fee:%')";
        eventually("all fees are booked", async || number(&self.world.database, open).await == 0).await;
        self.door = Door::Gateway(seat, process);
        self.books = Some(Books::open(&self.world.database).await);
    }

    /// A wallet with one smallest pack, unspent: its clientId.
    pub async fn wallet(&self) -> String {
        let card = self.world.tokenise(crate::support::GOOD).await;
        let body = format!("{{\"paymentMethodId\":\"{card}\"}}");
        let url = format!("{}/billing/top-ups", self.url());
        let headers = [("idempotency-key", card.as_str())];
        let body = Some(("application/json", body.as_bytes()));
        // Nobody's first payment is taken while the upstream is away, so one that is away is there for this moment.
        let _there = std::net::TcpListener::bind(self.world.upstream.url.trim_start_matches("http://"));
        let mut answer = self.world.client.send("POST", &url, &headers, body).await;
        // What the gateway met in the last second it believes.
        while answer.code() == "upstream_unreachable" {
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer = self.world.client.send("POST", &url, &headers, body).await;
        }
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.receipt().client_id
    }

    /// The id of a wallet that people see.
    pub async fn payer(&self, client: &str) -> String {
        let bearer = format!("Bearer {client}");
        let url = format!("{}/billing/balance", self.url());
        let answer = self.world.client.send("GET", &url, &[("authorization", &bearer)], None).await;
        answer.json()["client"].as_str().unwrap().to_owned()
    }

    /// Everything ends, and the books are right.
    pub async fn strike(self) {
        match self.door {
            Door::Gateway(_, process) => {
                process.terminate().await;
                let ended = process.wait().await;
                assert!(ended.success(), "the gateway ended with {ended}");
                // Stripe's books are compared in cents.
                if self.world.extra.contains("currency = ") {
                    let report = verify(&self.world.database).await;
                    assert!(report.is_clean(), "{:#?}", report.findings);
                } else {
                    self.world.assert_books_agree().await;
                }
            }
            Door::Embedded(shop) => shop.close().await,
            Door::None => {}
        }
    }
}

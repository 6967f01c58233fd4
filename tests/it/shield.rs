//! Thieves try stolen cards: few of them reach Stripe, and nobody who has paid notices. All with the limits that are the
//! default, unless a test says otherwise.

mod fair;
mod known_fraud;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prepaid402::config::DatabaseConfig;
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::effort::many;
use crate::support::http::{Answer, Client};
use crate::support::program::until;
use crate::support::{
    GOOD, GOOD_CARDS, Gateway, PUBLISHABLE_KEY, Pay, ROUTES, World, change, number, postgres,
};

/// Cards that are declined, each for another reason.
const STOLEN: [&str; 9] = [
    "4000000000000002",
    "4000000000009995",
    "4000000000009987",
    "4000000000009979",
    "4000000000000069",
    "4000000000000127",
    "4000000000000119",
    "4100000000000019",
    "4000000000000341",
];
const DEAR: &str = "\n[[routes]]\npath = \"/api/report\"\nprice = \"1.00\"\n";
/// Thieves at the same time.
const THIEVES: usize = 48;
const BEHIND_A_PROXY: &str = "trusted_proxies = [\"127.0.0.1\"]\n";

/// The limits that are the default.
async fn world(extra: &str) -> World {
    World { shield: String::new(), ..World::with(extra, &format!("{ROUTES}{DEAR}")).await }
}

fn attempts() -> usize {
    many(1_000, 10_000)
}

/// How often the simulated Stripe was asked for this.
async fn calls(world: &World, operation: &str) -> u64 {
    world.stripe_calls().await.get(operation).map_or(0, |count| u64::try_from(*count).unwrap())
}

async fn charge_attempts(world: &World) -> u64 {
    calls(world, "payment_intents.confirm").await
}

/// One of those who try.
#[derive(Clone)]
struct Thief {
    client: Client,
    url: String,
    stripe: String,
}

impl Thief {
    fn at(gateway: &Gateway<'_>) -> Self {
        let (client, stripe) = (gateway.world.client.clone(), gateway.world.sim.base_url.clone());
        Self { client, url: format!("{}/api/weather", gateway.url), stripe }
    }

    /// A token for a stolen card.
    async fn tokenise(&self, number: &str) -> String {
        let form =
            format!("type=card&card[number]={number}&card[exp_month]=12&card[exp_year]=2034&card[cvc]=123");
        let bearer = format!("Bearer {PUBLISHABLE_KEY}");
        let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
        let url = format!("{}/v1/payment_methods", self.stripe);
        let answer = self.client.send("POST", &url, &[("authorization", &bearer)], body).await;
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// With a new token.
    async fn try_card(&self, number: usize, from: Option<&str>, wallet: Option<&str>) -> Answer {
        let token = self.tokenise(STOLEN[number % STOLEN.len()]).await;
        self.try_token(&token, from, wallet).await
    }

    async fn try_token(&self, token: &str, from: Option<&str>, wallet: Option<&str>) -> Answer {
        let header = Pay { client: wallet.map(str::to_owned), ..Pay::card(token) }.header();
        let mut headers = vec![("payment", header.as_str())];
        headers.extend(from.map(|from| ("x-forwarded-for", from)));
        self.client.send("GET", &self.url, &headers, None).await
    }
}

/// Who tries the card of this number: the address that a proxy tells, or the thief does, and the wallet.
type Disguise = dyn Fn(usize) -> (Option<String>, Option<String>) + Send + Sync;

/// Answers of an attack, counted by status and code, and the bodies of declines.
#[derive(Debug, Default)]
struct Loot {
    answers: BTreeMap<String, usize>,
    declines: BTreeSet<String>,
}

impl Loot {
    fn note(&mut self, answer: &Answer) {
        let code = answer.code();
        if matches!(answer.status, 429 | 503) {
            assert!(answer.header("retry-after").is_some(), "{}", answer.text());
        }
        if code == "card_declined" {
            self.declines.insert(without_request_id(answer));
        }
        *self.answers.entry(format!("{} {code}", answer.status)).or_default() += 1;
    }

    fn total(&self) -> usize {
        self.answers.values().sum()
    }

    fn codes(&self) -> Vec<&str> {
        self.answers.keys().map(String::as_str).collect()
    }
}

/// The whole body and the offer; the one thing that is another in each answer is the id that x-request-id tells, too.
fn without_request_id(answer: &Answer) -> String {
    let id = answer.header("x-request-id").unwrap();
    let mut offer = serde_json::to_value(answer.offer()).unwrap();
    offer["requestId"] = Value::Null;
    format!("{}\n{offer}", answer.text().replace(id, "ID"))
}

/// [`THIEVES`] try so many cards, as fast as they can.
async fn attack(gateway: &Gateway<'_>, attempts: usize, disguise: Arc<Disguise>) -> Loot {
    let next = Arc::new(AtomicUsize::new(0));
    let thieves: Vec<_> = (0..THIEVES)
        .map(|_| {
            let (thief, next, disguise) = (Thief::at(gateway), Arc::clone(&next), Arc::clone(&disguise));
            tokio::spawn(async move {
                let mut answers: Vec<Answer> = Vec::new();
                let mut token = String::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= attempts {
                        return answers;
                    }
                    // A card that was not tried can be tried again, for a while.
                    let is_used = answers.last().is_none_or(|answer| answer.code() == "card_declined");
                    if is_used || answers.len().is_multiple_of(8) {
                        token = thief.tokenise(STOLEN[number % STOLEN.len()]).await;
                    }
                    let (from, wallet) = disguise(number);
                    answers.push(thief.try_token(&token, from.as_deref(), wallet.as_deref()).await);
                }
            })
        })
        .collect();
    let mut loot = Loot::default();
    for thief in thieves {
        for answer in thief.await.unwrap() {
            loot.note(&answer);
        }
    }
    assert_eq!(loot.total(), attempts);
    loot
}

/// Clients that have paid, with the cards that they paid with.
async fn good_clients(gateway: &Gateway<'_>, count: usize) -> Vec<(String, String)> {
    let mut clients = Vec::new();
    for n in 0..count {
        let card = gateway.world.tokenise(GOOD_CARDS[n % GOOD_CARDS.len()]).await;
        let first = gateway.pay("/api/report", &Pay::card(&card)).await;
        assert_eq!(first.status, 200, "{}", first.text());
        clients.push((first.receipt().client_id, card));
    }
    clients
}

/// Each pays five dollars again, and again, while somebody else does something. Every request must be served.
async fn while_they_top_up(
    gateway: &Gateway<'_>,
    clients: &[(String, String)],
    what: impl Future<Output = Loot>,
) -> Loot {
    let good = async {
        for round in 0..12 {
            for (client, card) in clients {
                let answer = gateway.pay("/api/report", &Pay::client(client).with_card(card)).await;
                assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
            }
        }
    };
    let (loot, ()) = tokio::join!(what, good);
    loot
}

/// After the attack: the books are right, and no card was charged that was not a good client's.
async fn assert_unharmed(world: &World, gateway: Gateway<'_>, clients: usize) {
    assert_eq!(
        world.succeeded_charges().await.len(),
        clients * 3,
        "12 requests of $1 after the first: two top-ups"
    );
    assert_eq!(
        number(&world.database, "SELECT COUNT(*) FROM clients").await,
        i64::try_from(clients).unwrap()
    );
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_address_at_most_five_cards_an_hour_are_tried() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let clients = good_clients(&gateway, 4).await;
    let before = charge_attempts(&world).await;
    let attack = attack(&gateway, attempts(), Arc::new(|_| (None, None)));
    let loot = while_they_top_up(&gateway, &clients, attack).await;
    let tried = charge_attempts(&world).await - before - 8;
    println!("{tried} charge attempts of {}: {:?}", loot.total(), loot.answers);
    assert!((1..=5).contains(&tried), "{tried}");
    let kinds = ["402 card_declined", "409 topup_in_progress", "429 too_many_attempts", "503 busy"];
    assert!(loot.codes().iter().all(|code| kinds.contains(code)), "{:?}", loot.answers);
    assert_eq!(loot.declines.len(), 1, "{:#?}", loot.declines);
    assert_unharmed(&world, gateway, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_the_thief_writes_down_changes_nothing() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let clients = good_clients(&gateway, 4).await;
    let before = charge_attempts(&world).await;
    let attack = attack(&gateway, attempts(), Arc::new(|number| (Some(address(number)), None)));
    let loot = while_they_top_up(&gateway, &clients, attack).await;
    let tried = charge_attempts(&world).await - before - 8;
    println!("{tried} charge attempts of {}: {:?}", loot.total(), loot.answers);
    assert!((1..=5).contains(&tried), "{tried}");
    assert_eq!(number(&world.database, "SELECT COUNT(DISTINCT network) FROM charge_attempts").await, 1);
    assert_unharmed(&world, gateway, 4).await;
}

/// One of 1,000 networks.
fn address(number: usize) -> String {
    let n = number % 1_000;
    format!("198.{}.{}.7", 18 + n / 250, n % 250)
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_thousand_addresses_new_payers_are_paused_at_twenty_declines() {
    let world = world(BEHIND_A_PROXY).await;
    let gateway = world.gateway().await;
    let clients = good_clients(&gateway, 4).await;
    let before = charge_attempts(&world).await;
    let attack = attack(&gateway, attempts(), Arc::new(|number| (Some(address(number)), None)));
    let loot = while_they_top_up(&gateway, &clients, attack).await;
    let tried = charge_attempts(&world).await - before - 8;
    println!("{tried} charge attempts of {}: {:?}", loot.total(), loot.answers);
    assert!((10..=30).contains(&tried), "{tried}");
    assert!(loot.answers["503 new_payers_paused"] > attempts() / 2, "{:?}", loot.answers);
    assert_eq!(loot.declines.len(), 1, "{:#?}", loot.declines);
    let metrics = world.client.get(&format!("{}/metrics", gateway.admin_url)).await.text();
    assert!(metrics.contains("prepaid402_new_payers_paused 1"), "{metrics}");

    // Whoever is new is told when to come again, and Stripe is not asked; whoever has paid has another card ready.
    let asked = calls(&world, "payment_methods.retrieve").await;
    let card = world.tokenise(GOOD).await;
    let refused = gateway.pay("/api/weather", &Pay::card(&card)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "new_payers_paused"), "{}", refused.text());
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=601).contains(&wait), "{wait}");
    assert_eq!(calls(&world, "payment_methods.retrieve").await, asked);
    let ready = Pay::client(&clients[0].0).with_card(&world.tokenise(GOOD_CARDS[7]).await);
    for _ in 0..5 {
        assert_eq!(gateway.pay("/api/report", &ready).await.status, 200);
    }
    let more = world.succeeded_charges().await.len();
    assert_eq!(more, 4 * 3 + 1);

    // Ten minutes later.
    pass(&world, 601).await;
    let answer = gateway.pay("/api/weather", &Pay::card(&card)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// As if so many seconds had passed for what the shield has seen.
async fn pass(world: &World, seconds: i64) {
    let micros = (seconds * 1_000_000).to_string();
    for sql in [
        "UPDATE charge_attempts SET at = at - CAST($1 AS BIGINT)",
        "UPDATE top_ups SET created_at = created_at - CAST($1 AS BIGINT)",
        "UPDATE new_payers SET paused_until = paused_until - CAST($1 AS BIGINT)",
    ] {
        change(&world.database, sql, &[&micros]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_tries_three_cards_and_a_fresh_one_however_many_wallets_a_thief_has() {
    const WALLETS: usize = 40;
    let world = world("").await;
    let gateway = world.gateway().await;
    let clients = good_clients(&gateway, 4).await;
    let wallets: Vec<String> =
        good_clients(&gateway, WALLETS).await.into_iter().map(|(key, _)| key).collect();
    for wallet in &wallets {
        for _ in 0..4 {
            assert_eq!(gateway.pay("/api/report", &Pay::client(wallet)).await.status, 200);
        }
    }
    let (before, asked) = (charge_attempts(&world).await, calls(&world, "payment_methods.retrieve").await);
    let keys = wallets.clone();
    let disguise = move |number: usize| (None, Some(keys[number % WALLETS].clone()));
    let attack = attack(&gateway, attempts(), Arc::new(disguise));
    let loot = while_they_top_up(&gateway, &clients, attack).await;
    let tried = charge_attempts(&world).await - before - 8;
    println!("{tried} charge attempts of {}: {:?}", loot.total(), loot.answers);
    let wallets_too = u64::try_from(WALLETS).unwrap();
    assert!(tried >= 9, "{tried}");
    assert!(
        tried <= 3 * wallets_too,
        "{tried}: each has paid with one card already, so three more are the fresh one, too"
    );
    // Besides, five of each are found to be a card too many, and some to be the card that another thief is trying.
    let elsewhere = u64::try_from(loot.answers.get("409 topup_in_progress").copied().unwrap_or(0)).unwrap();
    let looked_up = calls(&world, "payment_methods.retrieve").await - asked - 8 - elsewhere;
    assert!(looked_up <= 8 * wallets_too, "{looked_up}");
    let most: &str = "\
        SELECT COALESCE(MAX(n), 0) FROM (SELECT COUNT(DISTINCT fingerprint) AS n FROM top_ups
        WHERE payment_intent IS NOT NULL GROUP BY client) AS each";
    assert!(number(&world.database, most).await <= 4);
    let kinds = ["402 card_declined", "409 topup_in_progress", "429 too_many_attempts"];
    assert!(loot.codes().iter().all(|code| kinds.contains(code)), "{:?}", loot.answers);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decline_looks_the_same() {
    let mut world = world("").await;
    world.shield = "[shield]\nnetwork_cards_a_day = 100\nnetwork_attempts_an_hour = 100\n".to_owned();
    let gateway = world.gateway().await;
    let thief = Thief::at(&gateway);
    let mut declines = BTreeSet::new();
    for (number, card) in STOLEN.iter().enumerate() {
        let answer = thief.try_card(number, None, None).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, "card_declined"), "{card}");
        declines.insert(without_request_id(&answer));
        for word in ["insufficient", "lost", "stolen", "expired", "cvc", "generic", "fraud", "decline_code"] {
            assert!(!answer.text().to_lowercase().contains(word), "{word} in {}", answer.text());
        }
    }
    // A token that was declined is told so without another look at it.
    let card = world.tokenise(STOLEN[1]).await;
    declines.insert(without_request_id(&gateway.pay("/api/weather", &Pay::card(&card)).await));
    let before = calls(&world, "payment_methods.retrieve").await;
    for _ in 0..5 {
        declines.insert(without_request_id(&gateway.pay("/api/weather", &Pay::card(&card)).await));
    }
    assert_eq!(calls(&world, "payment_methods.retrieve").await, before);
    assert_eq!(declines.len(), 1, "{declines:#?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_pay_from_one_address_do_not_shut_each_other_out() {
    let world = world("").await;
    let gateway = world.gateway().await;
    // Two strangers' cards are declined meanwhile.
    let thief = Thief::at(&gateway);
    for number in 0..25 {
        if number == 5 || number == 15 {
            assert_eq!(thief.try_card(number, None, None).await.code(), "card_declined");
        }
        let card = world.tokenise(GOOD_CARDS[number % GOOD_CARDS.len()]).await;
        let answer = gateway.pay("/api/weather", &Pay::card(&card)).await;
        assert_eq!(answer.status, 200, "{number}: {}", answer.text());
    }
    assert_eq!(world.succeeded_charges().await.len(), 25);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_may_try_again_a_day_later_and_no_program_is_told_to_sleep_until_then() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let thief = Thief::at(&gateway);
    for number in 0..3 {
        assert_eq!(thief.try_card(number, None, None).await.code(), "card_declined");
    }
    let refused = thief.try_card(3, None, None).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many_attempts"));
    // A good card gets the same answer, so nobody learns anything of a card.
    let good = gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD).await)).await;
    assert_eq!(
        good.text().replace(good.header("x-request-id").unwrap(), ""),
        refused.text().replace(refused.header("x-request-id").unwrap(), "")
    );
    assert_eq!(
        (refused.header("retry-after"), refused.header("x-should-retry")),
        (Some("3600"), Some("false"))
    );
    // It survives a restart.
    gateway.stop().await;
    let gateway = world.gateway().await;
    let thief = Thief::at(&gateway);
    assert_eq!(thief.try_card(3, None, None).await.code(), "too_many_attempts");
    pass(&world, 86_401).await;
    let answer = gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD).await)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_was_declined_four_times_is_not_tried_but_by_whom_it_has_paid_for() {
    let world = world(BEHIND_A_PROXY).await;
    let gateway = world.gateway().await;
    let (client, _) = good_clients(&gateway, 1).await.remove(0);
    let thief = Thief::at(&gateway);
    for number in 0..4 {
        let tried = thief.try_card(0, Some(&address(number)), None).await;
        assert_eq!(tried.code(), "card_declined");
    }
    let before = charge_attempts(&world).await;
    let fifth = thief.try_card(0, Some(&address(4)), None).await;
    assert_eq!((fifth.status, fifth.code().as_str()), (429, "too_many_attempts"), "{}", fifth.text());
    assert_eq!(charge_attempts(&world).await, before);
    // Somebody has the client's card number, and it is declined for them: the wrong CVC.
    change(
        &world.database,
        "UPDATE top_ups SET fingerprint = (SELECT t.fingerprint FROM top_ups AS t WHERE t.state = 'succeeded') \
         WHERE state = 'failed' AND fingerprint IS NOT NULL",
        &[],
    )
    .await;
    let stranger = gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD_CARDS[0]).await)).await;
    assert_eq!(stranger.code(), "too_many_attempts", "{}", stranger.text());
    let again = world.tokenise(GOOD_CARDS[0]).await;
    for _ in 0..5 {
        let answer = gateway.pay("/api/report", &Pay::client(&client).with_card(&again)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(world.succeeded_charges().await.len(), 2);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_declines_stop_a_client_for_a_day_but_not_the_card_that_has_paid() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let (client, card) = good_clients(&gateway, 1).await.remove(0);
    for _ in 0..4 {
        assert_eq!(gateway.pay("/api/report", &Pay::client(&client)).await.status, 200);
    }
    let thief = Thief::at(&gateway);
    for _ in 0..3 {
        assert_eq!(thief.try_card(0, None, Some(&client)).await.code(), "card_declined");
    }
    let tried = charge_attempts(&world).await;
    let fourth = thief.try_card(0, None, Some(&client)).await;
    assert_eq!((fourth.status, fourth.code().as_str()), (429, "too_many_attempts"));
    assert_eq!(charge_attempts(&world).await, tried, "Stripe tells which card it is, and no bank is asked");
    let receipt = fourth.receipt();
    assert_eq!(receipt.client_id, client);
    let answer = gateway.pay("/api/report", &Pay::client(&client).with_card(&card)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    pass(&world, 86_401).await;
    assert_eq!(thief.try_card(1, None, Some(&client)).await.status, 200, "there is credit");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stripe_is_to_blame_for_counts_for_nothing() {
    let world = world("").await;
    let gateway = world.gateway().await;
    world.faults(json!([{ "on": "customers.create", "action": "fail_before", "times": 500 }])).await;
    let cards = [
        world.tokenise(GOOD_CARDS[0]).await,
        world.tokenise(GOOD_CARDS[1]).await,
        world.tokenise(GOOD_CARDS[2]).await,
    ];
    let pays = cards.each_ref().map(|card| Pay::card(card));
    let [one, two, three] = pays.each_ref().map(|pay| gateway.pay("/api/weather", pay));
    for answer in <[Answer; 3]>::from(tokio::join!(one, two, three)) {
        assert_eq!((answer.status, answer.code().as_str()), (503, "busy"), "{}", answer.text());
    }
    world.clear_faults().await;
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM charge_attempts").await, 3);
    let card = world.tokenise(GOOD).await;
    assert_eq!(gateway.pay("/api/weather", &Pay::card(&card)).await.status, 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_two_nodes_together() {
    if postgres::server().is_none() {
        // A file has one node; this program runs once more on PostgreSQL.
        return;
    }
    for round in 0..5 {
        let world = world(BEHIND_A_PROXY).await;
        let (one, other) = (world.gateway().await, world.gateway().await);
        let same = Arc::new(|_| (Some("203.0.113.7".to_owned()), None));
        let (first, second) = tokio::join!(attack(&one, 60, same.clone()), attack(&other, 60, same));
        let tried = charge_attempts(&world).await;
        println!("round {round}, one network: {tried}, {:?} {:?}", first.answers, second.answers);
        assert!((1..=3).contains(&tried), "{tried}");
        let many = Arc::new(|number| (Some(address(number)), None));
        let (first, second) = tokio::join!(attack(&one, 100, many.clone()), attack(&other, 100, many));
        let tried = charge_attempts(&world).await;
        println!("round {round}, many networks: {tried}, {:?} {:?}", first.answers, second.answers);
        assert!((11..=30).contains(&tried), "{tried}");
        one.stop().await;
        other.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_charged_three_times_a_day_at_two_nodes_together() {
    if postgres::server().is_none() {
        return;
    }
    for _ in 0..5 {
        let world = world("").await;
        let (one, other) = (world.gateway().await, world.gateway().await);
        let card = world.tokenise(GOOD).await;
        for charge in 1..=2 {
            for _ in 0..5 {
                assert_eq!(one.pay("/api/report", &Pay::card(&card)).await.status, 200);
            }
            assert_eq!(world.succeeded_charges().await.len(), charge);
        }
        // The wallet is empty: both nodes charge, spend, and charge again.
        let ask = |gateway: &Gateway<'_>| {
            let (client, url) = (world.client.clone(), format!("{}/api/report", gateway.url));
            let header = Pay::card(&card).header();
            tokio::spawn(async move { client.send("GET", &url, &[("payment", &header)], None).await.status })
        };
        let asked: Vec<_> = (0..12).map(|n| ask(if n % 2 == 0 { &one } else { &other })).collect();
        for answer in asked {
            let status = answer.await.unwrap();
            assert!(matches!(status, 200 | 409 | 429), "{status}");
        }
        assert_eq!(world.succeeded_charges().await.len(), 3);
        one.stop().await;
        other.stop().await;
        world.assert_books_agree().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_is_counting_at_this_moment_is_waited_for() {
    let Some(_) = postgres::server() else { return };
    let world = world(BEHIND_A_PROXY).await;
    let gateway = world.gateway().await;
    let thief = Thief::at(&gateway);
    for number in 0..3 {
        assert_eq!(thief.try_card(number, Some(&address(0)), None).await.code(), "card_declined");
    }
    // Another node, in the middle of letting the third attempt of another network through.
    let DatabaseConfig::Postgres(url) = &world.database else { panic!("on PostgreSQL") };
    let mut other = PgConnection::connect(url.expose()).await.unwrap();
    for sql in [
        "BEGIN",
        "SELECT paused_until FROM new_payers WHERE id = 1 FOR UPDATE",
        "UPDATE charge_attempts SET network = '203.0.113.0/24'",
    ] {
        sqlx::query(sql).execute(&mut other).await.unwrap();
    }
    let trying = tokio::spawn(async move { thief.try_card(3, Some("203.0.113.7"), None).await });
    let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("it waits, or is through", async || {
        trying.is_finished() || number(&world.database, waiting).await > 0
    })
    .await;
    sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    let answer = trying.await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (429, "too_many_attempts"), "{}", answer.text());
    assert_eq!(charge_attempts(&world).await, 3);
    gateway.stop().await;
}

//! Callers who go on asking whatever happens to the gateways, and their notes, which the books are held against: no cent is
//! lost, made or charged twice, and nothing is served unpaid.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prepaid402::domain::{ClientKey, PaymentMethodId};
use tokio::task::JoinHandle;

use super::dice::Dice;
use super::http::{Answer, Broken, Client};
use super::{GOOD_CARDS, Pay, World, column, number, rows};

/// Callers that ask one thing after the other, all at the same time.
pub const CALLERS: usize = 8;
/// Some routes empty a wallet fast, so that repeated cards are charged again.
pub const DEAR: &str = "\n[[routes]]\npath = \"/api/report\"\nprice = \"1.00\"\n";
pub const OPEN: &str = "SELECT COUNT(*) FROM top_ups WHERE state IN ('created', 'confirming', 'pending')";
/// Gateways of which something is left in the database, be it only that they have been there.
pub const LEFT: &str = "SELECT COUNT(*) FROM (SELECT id FROM nodes UNION SELECT node FROM undelivered UNION SELECT node FROM holds) AS n";
/// No test depends on it, but a hang must end.
const PATIENCE: Duration = Duration::from_secs(90);

/// A complete 200.
#[derive(Debug)]
pub struct Served {
    pub entry: i64,
    pub client: String,
    pub price: i64,
    pub life: usize,
}

#[derive(Debug, Default)]
pub struct Card {
    pub answers: BTreeSet<String>,
    pub unanswered: usize,
}

/// What the callers know, independently of the gateway.
#[derive(Debug, Default)]
pub struct Notes {
    pub served: Vec<Served>,
    pub cards: BTreeMap<String, Card>,
    pub clients: Vec<String>,
    /// Top-ups by `Idempotency-Key` without an answer: key, card, client.
    pub lost_orders: Vec<(String, String, String)>,
    pub statuses: BTreeMap<String, usize>,
    pub broken: usize,
}

/// One of those who ask until the gateway is dead.
struct Caller {
    world: Arc<World>,
    notes: Arc<Mutex<Notes>>,
    client: Client,
    url: String,
    life: usize,
    dice: Dice,
    stop: Arc<AtomicBool>,
}

impl Caller {
    async fn run(mut self, role: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let asked = match role {
                0 | 1 => {
                    let number = *self.dice.pick(&GOOD_CARDS);
                    let card = self.world.tokenise(number).await;
                    self.pay(Pay::card(&card)).await
                }
                2 => self.order().await,
                3 => {
                    let cards: Vec<String> = self.notes.lock().unwrap().cards.keys().cloned().collect();
                    if cards.is_empty() {
                        self.nothing_to_pay().await
                    } else {
                        let card = self.dice.pick(cards.as_slice()).clone();
                        self.pay(Pay::card(&card)).await
                    }
                }
                _ => match self.somebody() {
                    Some(client) => self.pay(Pay::client(&client)).await,
                    None => self.nothing_to_pay().await,
                },
            };
            if asked.is_err() {
                return;
            }
        }
    }

    fn somebody(&mut self) -> Option<String> {
        let notes = self.notes.lock().unwrap();
        (!notes.clients.is_empty()).then(|| self.dice.pick(&notes.clients).clone())
    }

    /// At the beginning nobody has a wallet yet.
    async fn nothing_to_pay(&self) -> Result<(), Broken> {
        self.client.try_send("GET", &format!("{}/api/health", self.url), &[], None).await.map(drop)
    }

    async fn pay(&mut self, pay: Pay) -> Result<(), Broken> {
        let (path, price) = *self.dice.pick(&[
            ("/api/weather", 500),
            ("/api/joke", 100),
            ("/api/report", 10_000),
            ("/up/bytes/40000", 500),
        ]);
        let header = pay.header();
        let url = format!("{}{path}", self.url);
        let asked = self.client.try_send("GET", &url, &[("payment", &header)], None).await;
        let mut notes = self.notes.lock().unwrap();
        let answer = match asked {
            Ok(answer) => answer,
            Err(Broken) => {
                notes.broken += 1;
                if let Some(card) = pay.card {
                    notes.cards.entry(card).or_default().unanswered += 1;
                }
                return Err(Broken);
            }
        };
        notes.note(&answer);
        let client = (answer.status == 200).then(|| answer.receipt().client_id);
        if let Some(card) = pay.card {
            notes.cards.entry(card).or_default().answers.extend(client.clone());
        }
        if let Some(client) = client {
            let entry = answer.receipt().entry_id.unwrap().parse().unwrap();
            notes.served.push(Served { entry, client: client.clone(), price, life: self.life });
            if !notes.clients.contains(&client) {
                notes.clients.push(client);
            }
        }
        Ok(())
    }

    /// `POST /billing/top-ups` for a client, with a card of its own or a fresh one; or a lost one again, under its key.
    async fn order(&mut self) -> Result<(), Broken> {
        let lost = self.notes.lock().unwrap().lost_orders.pop();
        let (key, card, client) = match lost {
            Some(lost) => lost,
            None => {
                let Some(client) = self.somebody() else { return self.nothing_to_pay().await };
                let number = *self.dice.pick(&GOOD_CARDS);
                (format!("order-{}", self.dice.next()), self.world.tokenise(number).await, client)
            }
        };
        let bearer = format!("Bearer {client}");
        let body = serde_json::json!({ "paymentMethodId": card, "topUpAmount": 50_000 }).to_string();
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", key.as_str())];
        let url = format!("{}/billing/top-ups", self.url);
        let body = Some(("application/json", body.as_bytes()));
        let asked = self.client.try_send("POST", &url, &headers, body).await;
        let mut notes = self.notes.lock().unwrap();
        let answer = asked.inspect_err(|_| {
            notes.broken += 1;
            notes.lost_orders.push((key.clone(), card.clone(), client.clone()));
        });
        let answer = answer?;
        notes.note(&answer);
        if matches!(answer.status, 200 | 201) {
            // Only a card that first paid leads to a wallet by itself: this one is not noted among those.
            assert_eq!(answer.receipt().client_id, client);
        }
        Ok(())
    }
}

/// A complete answer to somebody who can pay: served, or a documented reason why not, that is no lie.
pub fn assert_honest(answer: &Answer) {
    let (status, code) = (answer.status, answer.code());
    let documented = match status {
        200 | 201 => "",
        402 => "insufficient_credits",
        409 => "topup_in_progress capture_failed payment_method_of_other_client",
        429 => "too_many_attempts reservations_in_flight",
        503 => "topup_pending busy capture_unknown",
        _ => panic!("{status}: {}", answer.text()),
    };
    assert!(status < 300 || documented.split(' ').any(|known| known == code), "{status}: {}", answer.text());
    assert!(
        !matches!(status, 429 | 503) || answer.header("retry-after").is_some(),
        "{status} {code} without Retry-After"
    );
}

impl Notes {
    fn note(&mut self, answer: &Answer) {
        let what = format!("{} {}", answer.status, answer.code());
        assert_honest(answer);
        *self.statuses.entry(what).or_default() += 1;
    }
}

/// Everybody who asks one gateway.
pub struct Crowd {
    callers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Crowd {
    /// [`CALLERS`] begin to ask. `life` tells one life of a gateway from another, in the notes.
    pub fn gather(
        world: &Arc<World>,
        notes: &Arc<Mutex<Notes>>,
        url: &str,
        life: usize,
        dice: &mut Dice,
    ) -> Self {
        let (client, stop) = (Client::new(), Arc::new(AtomicBool::new(false)));
        let caller = |role: usize| {
            let caller = Caller {
                world: Arc::clone(world),
                notes: Arc::clone(notes),
                client: client.clone(),
                url: url.to_owned(),
                life,
                dice: dice.split(),
                stop: Arc::clone(&stop),
            };
            tokio::spawn(caller.run(role))
        };
        Self { callers: (0..CALLERS).map(caller).collect(), stop }
    }

    /// Waits until everybody has noticed that the gateway is gone.
    pub async fn dispersed(self) {
        for caller in self.callers {
            tokio::time::timeout(PATIENCE, caller).await.expect("every caller notices").unwrap();
        }
    }

    /// Whether everybody is still asking.
    pub fn is_whole(&self) -> bool {
        self.callers.iter().all(|caller| !caller.is_finished())
    }

    /// Lets everybody hear the answer to what they have asked, and no more.
    pub async fn leave(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.dispersed().await;
    }
}

/// Waits until nothing is open any more: no top-up, and nothing that a dead gateway has left.
pub async fn settled(world: &World, lives: i64, log: impl Fn() -> String) {
    let begun = Instant::now();
    loop {
        let (open, left) = (number(&world.database, OPEN).await, number(&world.database, LEFT).await);
        if (open, left) == (0, lives) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{open} top-ups stay open, {left} nodes:\n{}", log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A usage entry: whose, and for how many micros.
#[derive(Debug)]
struct Usage {
    client: i64,
    first_entry: i64,
    amount: i64,
}

/// What the ledger says, read without the gateway's own code.
#[derive(Debug, Default)]
struct Books {
    usage: HashMap<String, Usage>,
    reversed: HashMap<String, i64>,
    clients: HashMap<Vec<u8>, i64>,
    cards: HashMap<Vec<u8>, i64>,
    credits: HashMap<i64, i64>,
}

async fn read_books(world: &World) -> Books {
    let mut books = Books::default();
    let entries = "SELECT id, source, client, amount FROM entries ORDER BY id";
    for row in &rows(&world.database, entries).await {
        let (id, source, amount): (i64, String, i64) = (column(row, 0), column(row, 1), column(row, 3));
        let plain = source.split('/').next().unwrap();
        if let Some(request) = plain.strip_prefix("usage:") {
            let usage = books.usage.entry(request.to_owned()).or_insert_with(|| Usage {
                client: column(row, 2),
                first_entry: id,
                amount: 0,
            });
            usage.amount += amount;
        } else if let Some(request) = plain.strip_prefix("reversal:") {
            *books.reversed.entry(request.to_owned()).or_default() += amount;
        }
    }
    for row in &rows(&world.database, "SELECT hash, client FROM client_keys").await {
        books.clients.insert(column(row, 0), column(row, 1));
    }
    for row in &rows(&world.database, "SELECT hash, client FROM payment_method_bindings").await {
        books.cards.insert(column(row, 0), column(row, 1));
    }
    let credits = "SELECT client, CAST(SUM(amount + bonus) AS BIGINT) FROM top_ups WHERE state = 'succeeded' GROUP BY client";
    for row in &rows(&world.database, credits).await {
        books.credits.insert(column(row, 0), column(row, 1));
    }
    books
}

/// Waits until no capture stands that nobody has heard of: what could not be confirmed is given back.
pub async fn doubts_settled(world: &World, notes: &Mutex<Notes>) {
    let seen: HashSet<i64> = notes.lock().unwrap().served.iter().map(|served| served.entry).collect();
    let begun = Instant::now();
    loop {
        let books = read_books(world).await;
        let standing = books.usage.iter().filter(|(request, _)| !books.reversed.contains_key(*request));
        let unseen: Vec<_> = standing.filter(|(_, usage)| !seen.contains(&usage.first_entry)).collect();
        if unseen.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody has seen the answers to {unseen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// (a), (b), (c): charges, served requests, and captures that nobody saw.
///
/// `kills`: how many gateways ended in the middle of their work.
pub async fn check_books(world: &World, notes: &Notes, kills: usize) {
    world.assert_books_agree().await;
    let books = read_books(world).await;
    for (request, amount) in &books.reversed {
        assert_eq!(books.usage[request].amount, *amount, "a reversal gives back what was captured");
    }

    // (b) Every complete answer has its entry, of that client, at that price. Some were given back at a restart.
    let by_entry: HashMap<i64, (&String, &Usage)> =
        books.usage.iter().map(|(request, usage)| (usage.first_entry, (request, usage))).collect();
    let mut given_back: BTreeMap<usize, usize> = BTreeMap::new();
    let mut seen = HashSet::new();
    for served in &notes.served {
        let Some((request, usage)) = by_entry.get(&served.entry) else {
            panic!("served without an entry: {served:?}");
        };
        assert!(seen.insert(served.entry), "two answers for one entry: {served:?}");
        let client = ClientKey::parse(&served.client).unwrap();
        assert_eq!(books.clients[client.hash().as_bytes()], usage.client, "{served:?}");
        assert_eq!(usage.amount, served.price * 100, "{served:?}");
        if books.reversed.contains_key(*request) {
            *given_back.entry(served.life).or_default() += 1;
        }
    }
    // What is noted as undelivered at any commit is, for each caller who asks one thing after the other, at most the
    // capture of that commit and the one before it.
    let most = given_back.values().max().copied().unwrap_or(0);
    assert!(most <= 2 * CALLERS, "one kill gave back {most} delivered answers: {given_back:?}");

    // (c) Captured, not given back, and never seen: somebody paid for an answer that was lost.
    let unseen: Vec<_> = by_entry
        .iter()
        .filter(|(entry, (request, _))| !seen.contains(entry) && !books.reversed.contains_key(*request))
        .collect();
    println!(
        "{} captures; {} complete answers, of which {} were given back (at most {most} a kill); {} given back in all; \
         {} captures without an answer stand",
        by_entry.len(),
        seen.len(),
        given_back.values().sum::<usize>(),
        books.reversed.len(),
        unseen.len(),
    );
    // A capture leaves the note only with the second commit after the last piece of its answer was handed to the
    // connection, and the connection writes to the socket in the same poll; what is in the socket outlives the process.
    // So two commits, each with an fsync, would have to fit between two neighbouring instructions of one thread.
    assert!(unseen.is_empty(), "{unseen:?}");
    assert!(!seen.is_empty() && books.reversed.len() >= kills / 10, "the kills must hit something");
}

/// (d) A card token whose answer was lost reaches its wallet: one clientId, the exact balance, no further charge.
pub async fn check_cards(world: &World, url: &str, notes: &Notes) {
    const PRICE: i64 = 100;
    let books = read_books(world).await;
    let mut balance: HashMap<i64, i64> = books.credits.clone();
    for (request, usage) in &books.usage {
        if !books.reversed.contains_key(request) {
            *balance.get_mut(&usage.client).unwrap() -= usage.amount;
        }
    }
    let (mut lost, mut repeated, mut fresh, mut short) = (0, 0, 0, 0);
    let charges = world.succeeded_charges().await.len();
    let url = format!("{url}/api/joke");
    for (card, noted) in notes.cards.iter().filter(|(_, noted)| noted.unanswered > 0) {
        lost += 1;
        assert!(noted.answers.len() <= 1, "{card} reached several clients");
        let hash = PaymentMethodId::parse(card).unwrap().hash();
        let bound = books.cards.get(hash.as_bytes()).copied();
        let left = bound.map(|client| balance[&client]);
        if left.is_some_and(|left| left < PRICE * 100) {
            short += 1;
            continue;
        }
        let header = Pay::card(card).header();
        let answer = world.client.send("GET", &url, &[("payment", &header)], None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let receipt = answer.receipt();
        if let Some(known) = noted.answers.first() {
            assert_eq!(&receipt.client_id, known, "the same card token reaches the same client");
        }
        match (bound, left) {
            (Some(client), Some(left)) => {
                repeated += 1;
                assert_eq!(receipt.charge_id, None, "{card} was charged again");
                let key = ClientKey::parse(&receipt.client_id).unwrap();
                assert_eq!(books.clients[key.hash().as_bytes()], client);
                assert_eq!(receipt.credits_remaining.unwrap(), (left - PRICE * 100) / 100);
                *balance.get_mut(&client).unwrap() -= PRICE * 100;
            }
            // Never charged before, so this is its first charge.
            _ => {
                fresh += 1;
                assert!(receipt.charge_id.is_some());
                assert_eq!(receipt.credits_remaining.unwrap(), 50_000 - PRICE);
            }
        }
    }
    println!(
        "{lost} cards lost an answer: {repeated} repeated without a charge, {fresh} charged for the first time, {short} empty"
    );
    assert_eq!(world.succeeded_charges().await.len(), charges + fresh, "Stripe's own count");
    assert!(repeated > 0, "the kills must hit top-ups");
}

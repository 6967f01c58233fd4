//! Several gateways on one PostgreSQL: what is true of one must be true of all of them together, whichever of them dies, and
//! whatever becomes of the server or of the wire to it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use prepaid402::config::{DatabaseConfig, Secret};
use serde_json::json;

use crate::support::callers::{
    Crowd, DEAR, Notes, assert_honest, check_books, check_cards, doubts_settled, settled,
};
use crate::support::cut_proxy::{CutProxy, Towards};
use crate::support::dice::Dice;
use crate::support::effort::{many, rounds};
use crate::support::http::{Answer, Client};
use crate::support::postgres::Cluster;
use crate::support::process::{Process, Seat};
use crate::support::program::{Ran, finish, program, until};
use crate::support::raw::hang_up;
use crate::support::{GOOD, GOOD_CARDS, Pay, ROUTES, World, change, column, intents, number, rows, verify};

/// What every node is given: 32 bytes.
const KEY_SECRET: &str = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY_SECRET: &str = "1:AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const USAGE: &str = "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%' AND source NOT LIKE '%/%'";
const REVERSALS: &str = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";

/// A server that nobody crashes, one for all tests that run at the same time; the last one ends it.
fn shared_server() -> Option<Arc<Cluster>> {
    static SERVER: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut server = SERVER.lock().unwrap();
    if let Some(running) = server.upgrade() {
        return Some(running);
    }
    let started = Arc::new(Cluster::start()?);
    *server = Arc::downgrade(&started);
    Some(started)
}

/// Gateways with one database, each with files of its own, as on machines of their own.
struct Nodes {
    world: Arc<World>,
    seats: [Seat; 2],
}

impl Nodes {
    async fn new(server: &Cluster, extra: &str, dice: &mut Dice) -> Self {
        let world = World::on_postgres(&server.url(), extra, &format!("{ROUTES}{DEAR}")).await;
        let seats = [seat(&world, "a", dice), seat(&world, "b", dice)];
        Self { world: Arc::new(world), seats }
    }

    async fn start(&self) -> [Process; 2] {
        [self.seats[0].start().await, self.seats[1].start().await]
    }
}

fn seat(world: &World, name: &str, dice: &mut Dice) -> Seat {
    let mut seat = Seat::new(world, dice);
    let data = world.folder.path().join(name).display().to_string();
    seat.environment.insert("PREPAID402_DATA_DIR".into(), data);
    seat.environment.insert("PREPAID402_KEY_SECRET".into(), KEY_SECRET.into());
    // No upstream hangs here: whatever is slow, it is the machine.
    for name in ["RESPONSE_TIMEOUT", "IDLE_TIMEOUT"] {
        seat.environment.insert(format!("PREPAID402_UPSTREAM__{name}"), "60s".into());
    }
    seat
}

async fn get(client: &Client, process: &Process, path: &str, pay: &Pay) -> Answer {
    let url = format!("{}{path}", process.url);
    client.send("GET", &url, &[("payment", &pay.header())], None).await
}

async fn balance_answer(world: &World, process: &Process, client: &str) -> Answer {
    let bearer = format!("Bearer {client}");
    let url = format!("{}/billing/balance", process.url);
    world.client.send("GET", &url, &[("authorization", &bearer)], None).await
}

async fn balance(world: &World, process: &Process, client: &str) -> i64 {
    let answer = balance_answer(world, process, client).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["balance"].as_i64().unwrap()
}

/// `POST /billing/top-ups`, with credit for a hundred calls of `/api/weather`.
async fn top_up(client: &Client, process: &Process, card: &str, key: &str, wallet: Option<&str>) -> Answer {
    let bearer = wallet.map(|wallet| format!("Bearer {wallet}"));
    let mut headers = vec![("idempotency-key", key)];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    let body = json!({ "paymentMethodId": card, "topUpAmount": 50_000 }).to_string();
    let url = format!("{}/billing/top-ups", process.url);
    client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
}

async fn assert_clean(world: &World) {
    let report = verify(&world.database).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_parallel_spends_over_two_nodes_serve_exactly_a_hundred() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("spends over two nodes");
    let nodes = Nodes::new(&server, "[limits]\nmax_concurrent_per_client = 600\n", &mut dice).await;
    let (world, processes) = (&nodes.world, nodes.start().await);
    let clients = [Client::new(), Client::new()];
    let (mut wallet, mut seen) = (None::<String>, std::collections::BTreeMap::<String, usize>::new());
    let (mut rounds, begun) = (rounds(8), Instant::now());
    for round in rounds.by_ref() {
        let card = world.tokenise(GOOD).await;
        let node = dice.pick(&processes);
        let bought = top_up(&world.client, node, &card, &format!("round-{round}"), wallet.as_deref()).await;
        assert_eq!(bought.status, 201, "{}", bought.text());
        let payer = bought.receipt().client_id;
        assert!(wallet.as_ref().is_none_or(|wallet| *wallet == payer));
        let header = Pay::client(&payer).header();
        let callers = (0..500).map(|n| {
            let (client, url) = (clients[n % 2].clone(), format!("{}/api/weather", processes[n % 2].url));
            let header = header.clone();
            tokio::spawn(async move { client.send("GET", &url, &[("payment", &header)], None).await })
        });
        let callers: Vec<_> = callers.collect();
        let mut left = BTreeSet::new();
        for caller in callers {
            let answer = caller.await.unwrap();
            *seen.entry(format!("{} {}", answer.status, answer.code())).or_default() += 1;
            if answer.status == 200 {
                assert!(
                    left.insert(answer.receipt().credits_remaining.unwrap()),
                    "two answers name one balance"
                );
                continue;
            }
            let known =
                [(402, "insufficient_credits"), (429, "reservations_in_flight"), (409, "capture_failed")];
            assert!(known.contains(&(answer.status, answer.code().as_str())), "{}", answer.text());
        }
        assert_eq!(left, (0..100).map(|n| n * 500).collect(), "round {round}: exactly a hundred are served");
        for process in &processes {
            assert_eq!(balance(world, process, &payer).await, 0);
        }
        if round % 50 == 0 {
            assert_clean(world).await;
        }
        wallet = Some(payer);
    }
    println!("{} rounds of 500 spends in {:?}: {seen:?}", rounds.begun(), begun.elapsed());
    assert_eq!(number(&world.database, USAGE).await, i64::try_from(100 * rounds.begun()).unwrap());
    assert_eq!(number(&world.database, REVERSALS).await, 0);
    world.assert_books_agree().await;
}

/// Asks again and again, as the answers demand, until it is served. Also answers how often it asked.
async fn insist(mut ask: impl AsyncFnMut() -> Answer) -> (Answer, usize) {
    for times in 1..=20 {
        let answer = ask().await;
        assert_honest(&answer);
        match answer.status {
            200 | 201 => return (answer, times),
            409 | 429 | 503 => tokio::time::sleep(Duration::from_millis(100)).await,
            other => panic!("{other}: {}", answer.text()),
        }
    }
    panic!("asked in vain");
}

/// So many charges, and nothing beside them: no node cancels what another is working on, or begins it a second time.
async fn one_attempt_each(world: &World, rounds: usize) {
    let states: Vec<_> =
        intents(&world.books().await).iter().map(|intent| intent["status"].clone()).collect();
    assert!(states.iter().all(|state| state == "succeeded"), "{states:?}");
    assert_eq!(states.len(), rounds, "one charge a round");
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups").await, i64::try_from(rounds).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_parallel_first_payments_with_one_card_over_two_nodes_are_one_charge_and_one_wallet() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("first payments over two nodes");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, processes) = (&nodes.world, nodes.start().await);
    let (mut most, begun) = (0, Instant::now());
    for round in 1..=20 {
        let card = world.tokenise(GOOD).await;
        let (pay, client) = (Pay::card(&card), &world.client);
        let callers = (0..50)
            .map(async |n| insist(async || get(client, &processes[n % 2], "/api/weather", &pay).await).await);
        let mut wallets = BTreeSet::new();
        for (answer, times) in join_all(callers).await {
            wallets.insert(answer.receipt().client_id);
            most = most.max(times);
        }
        assert_eq!(wallets.len(), 1, "one card token is one wallet");
        one_attempt_each(world, round).await;
        for process in &processes {
            assert_eq!(balance(world, process, wallets.first().unwrap()).await, 50_000 - 50 * 500);
        }
    }
    println!("20 rounds of 50 first payments in {:?}: asked {most} times at most", begun.elapsed());
    assert!(most <= 5, "a few repetitions are enough");
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_wallet_that_asks_two_nodes_with_a_new_card_token_each_time_is_charged_once() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("new tokens over two nodes");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, processes) = (&nodes.world, nodes.start().await);
    let (mut most, begun, mut rounds) = (0, Instant::now(), rounds(6));
    for round in rounds.by_ref() {
        let first = Pay::card(&world.tokenise(GOOD).await);
        let wallet = get(&world.client, &processes[0], "/api/report", &first).await.receipt().client_id;
        for _ in 0..4 {
            let spent = get(&world.client, dice.pick(&processes), "/api/report", &Pay::client(&wallet)).await;
            assert_eq!(spent.status, 200, "{}", spent.text());
        }
        let mut payments = Vec::new();
        for n in 0..20 {
            let card = world.tokenise(GOOD_CARDS[n % GOOD_CARDS.len()]).await;
            payments.push(Pay::client(&wallet).with_card(&card));
        }
        let asked = payments.iter().enumerate().map(async |(n, pay)| {
            insist(async || get(&world.client, &processes[n % 2], "/api/weather", pay).await).await
        });
        let mut charging = 0;
        for (answer, times) in join_all(asked).await {
            assert_eq!(answer.receipt().client_id, wallet);
            charging += usize::from(answer.receipt().charge_id.is_some());
            most = most.max(times);
        }
        assert_eq!(charging, 1, "one answer names the charge");
        one_attempt_each(world, 2 * round + 2).await;
        for process in &processes {
            assert_eq!(balance(world, process, &wallet).await, 50_000 - 20 * 500);
        }
    }
    println!(
        "{} rounds of 20 new tokens in {:?}: asked {most} times at most",
        rounds.begun(),
        begun.elapsed()
    );
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_parallel_orders_with_one_idempotency_key_over_two_nodes_are_one_charge() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("orders over two nodes");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, processes) = (&nodes.world, nodes.start().await);
    let (mut most, mut wallet, begun) = (0, None::<String>, Instant::now());
    for round in rounds(6).map(|round| round + 1) {
        // By turns a new payer and the one before it, who had a hundred calls left.
        let known = (round % 2 == 0).then(|| wallet.clone()).flatten();
        let card = world.tokenise(GOOD).await;
        let (client, key, wallet_of) = (&world.client, format!("order-{round}"), known.as_deref());
        let callers = (0..50).map(async |n| {
            insist(async || top_up(client, &processes[n % 2], &card, &key, wallet_of).await).await
        });
        let (mut made, mut same) = (0, BTreeSet::new());
        for (answer, times) in join_all(callers).await {
            made += usize::from(answer.status == 201);
            same.insert((answer.receipt().client_id, answer.json()["id"].to_string()));
            most = most.max(times);
        }
        assert_eq!(same.len(), 1, "{same:?}");
        assert!(made <= 1, "made once, then repeated");
        one_attempt_each(world, round).await;
        let payer = same.first().unwrap().0.clone();
        assert!(known.as_ref().is_none_or(|known| *known == payer));
        let credit = if known.is_some() { 100_000 } else { 50_000 };
        for process in &processes {
            assert_eq!(balance(world, process, &payer).await, credit);
        }
        wallet = Some(payer);
    }
    println!("rounds of 50 orders in {:?}: asked {most} times at most", begun.elapsed());
    assert!(most <= 5, "a few repetitions are enough");
    world.assert_books_agree().await;
}

/// As if so much time had passed since the other nodes died that this one may call them dead.
async fn lapse_others(world: &World, living: &str) {
    let sql = "UPDATE nodes SET lease_until = 1 WHERE lease_until > 1 AND id <> $1";
    change(&world.database, sql, &[living]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_dash_nine_of_one_of_two_nodes_loses_nothing_and_the_other_goes_on() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("one of two");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, notes) = (&nodes.world, Arc::new(Mutex::new(Notes::default())));
    let survivor = nodes.seats[0].start().await;
    let living: String = column(&rows(&world.database, "SELECT id FROM nodes").await[0], 0);
    let crowd = Crowd::gather(world, &notes, &survivor.url, 0, &mut dice);
    let (mut rounds, begun) = (rounds(8), Instant::now());
    for cycle in rounds.by_ref().map(|round| round + 1) {
        let victim = nodes.seats[1].start().await;
        let others = Crowd::gather(world, &notes, &victim.url, cycle, &mut dice);
        // Not a wait for anything: the random moment of the kill.
        tokio::time::sleep(Duration::from_millis(5) + dice.micros(400_000)).await;
        victim.kill().await;
        others.dispersed().await;
        assert!(crowd.is_whole(), "the other node answers:\n{}", survivor.log());
        if dice.one_in(2) {
            lapse_others(world, &living).await;
        }
    }
    let (cycles, took) = (rounds.begun(), begun.elapsed());
    // And once the other way round: the one that has finished what the others left dies itself.
    let last = nodes.seats[1].start().await;
    let others = Crowd::gather(world, &notes, &last.url, usize::MAX, &mut dice);
    survivor.kill().await;
    crowd.dispersed().await;
    others.leave().await;
    settled(world, 1, || last.log()).await;
    println!("{cycles} kills of one of two nodes in {took:?}");
    let notes = Arc::into_inner(notes).unwrap().into_inner().unwrap();
    println!("answers: {:?}; broken: {}", notes.statuses, notes.broken);
    check_books(world, &notes, cycles).await;
    check_cards(world, &last.url, &notes).await;
    drop(last);
    world.assert_books_agree().await;
}

/// Waits until a node says that it can serve.
async fn is_ready(world: &World, process: &Process) {
    until("the node is ready again", async || ready_status(world, process).await == 200).await;
}

async fn ready_status(world: &World, process: &Process) -> u16 {
    world.client.get(&format!("{}/readyz", process.admin_url)).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_database_server_loses_nothing_and_the_nodes_come_back_by_themselves() {
    let Some(server) = Cluster::start() else { return };
    let mut dice = Dice::printed("crashes of the server");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, notes) = (&nodes.world, Arc::new(Mutex::new(Notes::default())));
    let mut processes = nodes.start().await;
    let crowds: Vec<_> = processes
        .iter()
        .enumerate()
        .map(|(life, process)| Crowd::gather(world, &notes, &process.url, life, &mut dice))
        .collect();
    let (mut rounds, begun) = (rounds(6), Instant::now());
    for _ in rounds.by_ref() {
        // Not waits for anything: the random moments of the crash and of the repair.
        tokio::time::sleep(Duration::from_millis(5) + dice.micros(400_000)).await;
        server.crash();
        tokio::time::sleep(dice.micros(100_000)).await;
        server.start_server();
        for process in &processes {
            is_ready(world, process).await;
        }
        let before = notes.lock().unwrap().served.len();
        until("somebody is served again", async || notes.lock().unwrap().served.len() > before).await;
    }
    let (cycles, took) = (rounds.begun(), begun.elapsed());
    for (crowd, process) in crowds.into_iter().zip(&mut processes) {
        assert!(process.is_running() && crowd.is_whole(), "the nodes stay up:\n{}", process.log());
        crowd.leave().await;
    }
    settled(world, 2, || processes[0].log()).await;
    doubts_settled(world, &notes).await;
    println!("{cycles} crashes of the server in {took:?}");
    let notes = Arc::into_inner(notes).unwrap().into_inner().unwrap();
    println!("answers: {:?}; broken: {}", notes.statuses, notes.broken);
    assert_eq!(notes.broken, 0, "every request is answered");
    check_books(world, &notes, 0).await;
    drop(processes);
    world.assert_books_agree().await;
}

/// A gateway whose only way to its database is a wire that can be cut, and one payer.
struct OnTheWire {
    nodes: Nodes,
    proxy: CutProxy,
    process: Process,
    wallet: String,
    /// What the payer must have left.
    balance: i64,
    outcomes: std::collections::BTreeMap<String, usize>,
}

impl OnTheWire {
    async fn new(server: &Cluster, dice: &mut Dice) -> Self {
        let mut nodes = Nodes::new(server, "", dice).await;
        let proxy = CutProxy::start(server.port()).await;
        let DatabaseConfig::Postgres(url) = &nodes.world.database else { unreachable!() };
        let url = url.expose().replace(&format!(":{}", server.port()), &format!(":{}", proxy.address.port()));
        nodes.seats[0].environment.insert("PREPAID402_DATABASE_URL".into(), url);
        let process = nodes.seats[0].start().await;
        let card = nodes.world.tokenise(GOOD).await;
        let bought = top_up(&nodes.world.client, &process, &card, "first", None).await;
        assert_eq!(bought.status, 201, "{}", bought.text());
        let wallet = bought.receipt().client_id;
        Self { nodes, proxy, process, wallet, balance: 50_000, outcomes: Default::default() }
    }

    async fn spend(&mut self) {
        let pay = Pay::client(&self.wallet);
        let answer = get(&self.nodes.world.client, &self.process, "/api/joke", &pay).await;
        self.note("spend", &answer);
        if answer.status == 200 {
            self.balance -= 100;
        }
    }

    /// By one key until it has happened: once.
    async fn order(&mut self, key: &str) {
        let card = self.nodes.world.tokenise(GOOD).await;
        let mut first = None;
        insist(async || {
            let world = &self.nodes.world;
            let answer = top_up(&world.client, &self.process, &card, key, Some(&self.wallet)).await;
            first.get_or_insert(answer.clone());
            answer
        })
        .await;
        self.note("order", &first.unwrap());
        self.balance += 50_000;
    }

    fn note(&mut self, what: &str, answer: &Answer) {
        assert_honest(answer);
        let outcome = format!("{what}: {} {}", answer.status, answer.code());
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    /// The payer has exactly what they should have. What could not be confirmed is given back soon.
    async fn balance_is_right(&self) {
        let (world, expected) = (&self.nodes.world, self.balance);
        until(&format!("the balance is {expected}"), async || {
            let answer = balance_answer(world, &self.process, &self.wallet).await;
            answer.status == 200 && answer.json()["balance"] == expected
        })
        .await;
    }

    /// Bytes of one exchange in both directions, when everything is prepared and nothing else is said.
    async fn measure(&mut self, orders: bool) -> [u64; 2] {
        let passed = |proxy: &CutProxy| [proxy.passed(Towards::Server), proxy.passed(Towards::Gateway)];
        let mut shortest = [u64::MAX; 2];
        for n in 0..8 {
            let before = passed(&self.proxy);
            if orders {
                self.order(&format!("measured-{n}")).await
            } else {
                self.spend().await
            }
            let after = passed(&self.proxy);
            shortest = [0, 1].map(|way| shortest[way].min(after[way] - before[way]));
        }
        shortest
    }

    /// Several spend at once when the wire is cut, and it stays so until everybody has an answer.
    async fn outage(&mut self, after: Option<(Towards, usize)>) -> usize {
        let pay = Pay::client(&self.wallet);
        self.proxy.arm_outage(after);
        let asked =
            (0..8).map(async |_| get(&self.nodes.world.client, &self.process, "/api/joke", &pay).await);
        let answers = join_all(asked).await;
        assert!(self.proxy.repair(), "eight exchanges are long enough for {after:?}");
        for answer in &answers {
            self.note("spend in an outage", answer);
            self.balance -= if answer.status == 200 { 100 } else { 0 };
        }
        answers.iter().filter(|answer| answer.code() == "capture_unknown").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wire_to_the_database_that_is_cut_at_any_byte_neither_loses_nor_doubles_anything() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("cut wire");
    let mut wire = OnTheWire::new(&server, &mut dice).await;
    let (each, begun) = (many(12, 50) as u64, Instant::now());
    let (mut cuts, mut late, mut unknown) = (0, 0, 0);
    for orders in [false, true] {
        let lengths = wire.measure(orders).await;
        println!("an exchange of {lengths:?} bytes");
        for (towards, length) in [Towards::Server, Towards::Gateway].into_iter().zip(lengths) {
            for n in 0..each {
                // One in each part of the exchange.
                let (from, to) = (length * n / each, length * (n + 1) / each);
                // A spend is answered with hardly more bytes than there are parts.
                let bytes = usize::try_from(1 + from + dice.below((to - from).max(1))).unwrap();
                wire.proxy.arm(towards, bytes, dice.one_in(2));
                if orders {
                    wire.order(&format!("{towards:?}-{n}")).await;
                } else {
                    wire.spend().await;
                }
                // Otherwise it would happen to something else.
                if wire.proxy.disarm() {
                    late += 1
                } else {
                    cuts += 1
                }
                wire.balance_is_right().await;
                // Every statement is prepared again on the new connections, so that the next exchange is as measured.
                for again in 0..2 {
                    wire.spend().await;
                    if orders {
                        wire.order(&format!("{towards:?}-{n}-{again}")).await;
                    }
                }
                wire.balance_is_right().await;
            }
            // Longer than anybody waits: whoever was asked meanwhile cannot know, and pays nothing.
            if !orders {
                for n in 0..many(1, 4) as u64 {
                    let bytes = usize::try_from(length + dice.below(length)).unwrap();
                    let by_bytes = (towards == Towards::Server) == (n % 2 == 0);
                    unknown += wire.outage(by_bytes.then_some((towards, bytes))).await;
                    wire.balance_is_right().await;
                    wire.spend().await;
                }
            }
        }
    }
    let given_back = number(&wire.nodes.world.database, REVERSALS).await;
    assert!(given_back > 0, "the outages must hide commits");
    println!(
        "{unknown} answers say that nobody knows whether they were charged; {given_back} had been, and were given back"
    );
    assert!(unknown > 0, "the outages must hit captures");
    println!("{cuts} cuts, {late} after the end, in {:?}: {:?}", begun.elapsed(), wire.outcomes);
    assert!(cuts >= 3 * late, "most cuts hit the exchange");
    settled(&wire.nodes.world, 1, || wire.process.log()).await;
    wire.balance_is_right().await;
    let world = &wire.nodes.world;
    // The books are read past the proxy.
    let standing = number(&world.database, USAGE).await - number(&world.database, REVERSALS).await;
    let served: usize =
        wire.outcomes.iter().filter(|(what, _)| what.ends_with(": 200 ")).map(|(_, times)| times).sum();
    assert_eq!(
        standing,
        i64::try_from(served).unwrap(),
        "what is charged was served, and the other way round"
    );
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_who_hang_up_leave_no_transaction_open_and_no_connection_poisoned() {
    // Of this test's database: other tests' gateways work on the same server.
    const IDLE: &str = "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'idle in transaction' \
                        AND application_name = 'prepaid402' AND datname = current_database()";
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("a thousand hang-ups");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, process) = (&nodes.world, nodes.seats[0].start().await);
    let card = world.tokenise(GOOD).await;
    let wallet = get(&world.client, &process, "/api/joke", &Pay::card(&card).top_up(1_000_000)).await;
    assert_eq!(wallet.status, 200, "{}", wallet.text());
    let pay = Pay::client(&wallet.receipt().client_id);
    let address = process.url.trim_start_matches("http://").to_owned();
    let request = format!("GET /api/joke HTTP/1.1\r\nhost: a\r\npayment: {}\r\n\r\n", pay.header());
    // On a busy machine most of a thousand are gone before the gateway has read them, so more may have to come.
    let mut callers = 0;
    while callers < 1_000 || number(&world.database, USAGE).await <= 100 {
        assert!(callers < 20_000, "they must come late enough to matter:\n{}", process.log());
        let crowd: Vec<_> =
            (0..50).map(|_| tokio::spawn(hang_up(address.clone(), request.clone(), dice.split()))).collect();
        for caller in crowd {
            caller.await.unwrap();
            callers += 1;
        }
    }
    until("no transaction is open", async || number(&world.database, IDLE).await == 0).await;
    let captured = number(&world.database, USAGE).await;
    for _ in 0..20 {
        // Some of those who hung up may still be served.
        let asked = (0..50).map(async |_| {
            loop {
                let answer = get(&world.client, &process, "/api/joke", &pay).await;
                if answer.code() != "reservations_in_flight" {
                    return answer;
                }
            }
        });
        for answer in join_all(asked).await {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    println!("{captured} captures of {callers} callers who hung up");
    // What the gateway does by itself may be between two statements of its own at any moment, but it does not stay there.
    until("no transaction is open afterwards", async || number(&world.database, IDLE).await == 0).await;
    process.terminate().await;
    assert!(process.wait().await.success());
    let kept = number(&world.database, USAGE).await - number(&world.database, REVERSALS).await;
    assert_eq!(number(&world.database, "SELECT paid FROM clients").await, 100_000_000 - kept * 10_000);
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_restarted_one_after_the_other_fail_nobody() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("rolling restart");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, notes) = (&nodes.world, Arc::new(Mutex::new(Notes::default())));
    let (mut life, mut rounds) = (0, rounds(2));
    let mut running = Vec::new();
    for seat in &nodes.seats {
        let process = seat.start().await;
        let crowd = Crowd::gather(world, &notes, &process.url, life, &mut dice);
        running.push((process, crowd));
        life += 1;
    }
    for _ in rounds.by_ref() {
        for seat in &nodes.seats {
            let (stopping, crowd) = running.remove(0);
            let before = notes.lock().unwrap().served.len();
            until("there is load", async || notes.lock().unwrap().served.len() > before + 20).await;
            stopping.terminate().await;
            crowd.dispersed().await;
            let log = stopping.log();
            assert!(stopping.wait().await.success(), "{log}");
            assert!(running[0].1.is_whole(), "the other node serves:\n{}", running[0].0.log());
            let process = seat.start().await;
            let crowd = Crowd::gather(world, &notes, &process.url, life, &mut dice);
            running.push((process, crowd));
            life += 1;
        }
    }
    let processes: Vec<_> = {
        let mut processes = Vec::new();
        for (process, crowd) in running {
            assert!(crowd.is_whole(), "{}", process.log());
            crowd.leave().await;
            processes.push(process);
        }
        processes
    };
    settled(world, 2, || processes[0].log()).await;
    let notes = Arc::into_inner(notes).unwrap().into_inner().unwrap();
    println!("{} rounds; answers: {:?}; refused or closed: {}", rounds.begun(), notes.statuses, notes.broken);
    assert_eq!(
        number(&world.database, USAGE).await,
        i64::try_from(notes.served.len()).unwrap(),
        "every capture was answered"
    );
    assert_eq!(number(&world.database, REVERSALS).await, 0);
    check_books(world, &notes, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_nobody_is_charged_and_nobody_is_told_to_pay() {
    let Some(server) = Cluster::start() else { return };
    let mut dice = Dice::printed("database away");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, [one, two]) = (&nodes.world, nodes.start().await);
    let card = world.tokenise(GOOD).await;
    let wallet = get(&world.client, &one, "/api/joke", &Pay::card(&card)).await.receipt().client_id;
    let (fresh, charges) = (world.tokenise(GOOD).await, world.succeeded_charges().await.len());
    let begun = Instant::now();
    server.crash();
    until("it says that it is not ready", async || ready_status(world, &one).await == 503).await;
    let noticed = begun.elapsed();
    assert_eq!(world.client.get(&format!("{}/healthz", one.admin_url)).await.status, 200);
    let hits = world.upstream.hits();
    // The second node has never heard of the wallet: without its database it knows nobody.
    let strangers = [
        (&two, Pay::client(&wallet)),
        (&two, Pay::card(&card)),
        (&two, Pay::card(&fresh)),
        (&two, Pay::client(&wallet).with_card(&fresh)),
        (&one, Pay::card(&card)),
        (&one, Pay::card(&fresh)),
    ];
    let asked =
        strangers.iter().map(async |(process, pay)| get(&world.client, process, "/api/joke", pay).await);
    for answer in join_all(asked).await {
        assert_eq!((answer.status, answer.code().as_str()), (503, "busy"), "{}", answer.text());
        assert!(answer.header("retry-after").is_some() && answer.header("payment-required").is_none());
    }
    assert_eq!(world.upstream.hits(), hits, "the API is not asked");
    let nodes = [&one, &two];
    let asked = nodes.map(async |process| {
        let balance = balance_answer(world, process, &wallet).await;
        let order = top_up(&world.client, process, &fresh, "away", Some(&wallet)).await;
        [balance, order]
    });
    for answer in join_all(asked).await.concat() {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
    for process in nodes {
        let offered = world.client.get(&format!("{}/api/joke", process.url)).await;
        assert_eq!(
            (offered.status, offered.code().as_str()),
            (402, "payment_required"),
            "who sends no payment"
        );
    }
    // The first one has the wallet's balance in memory, and asks the API before it finds that it cannot charge.
    let answer = get(&world.client, &one, "/api/joke", &Pay::client(&wallet)).await;
    println!("noticed after {noticed:?}; whoever is known is told {}", answer.code());
    assert!(["busy", "capture_unknown"].contains(&answer.code().as_str()), "{}", answer.text());
    assert_eq!(answer.status, 503);
    server.start_server();
    for process in [&one, &two] {
        is_ready(world, process).await;
    }
    assert_eq!(world.succeeded_charges().await.len(), charges, "no card was charged");
    for process in [&one, &two] {
        until("nothing was charged", async || balance(world, process, &wallet).await == 49_900).await;
    }
    assert_eq!(get(&world.client, &two, "/api/joke", &Pay::client(&wallet)).await.status, 200);
    assert_eq!(balance(world, &one, &wallet).await, 49_800);
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_done_every_other_knows_at_once() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("at once");
    let nodes = Nodes::new(&server, "", &mut dice).await;
    let (world, processes) = (&nodes.world, nodes.start().await);
    for round in 0..10 {
        let (here, there) = (&processes[round % 2], &processes[(round + 1) % 2]);
        let card = world.tokenise(GOOD).await;
        let bought = top_up(&world.client, here, &card, "first", None).await;
        assert_eq!(bought.status, 201, "{}", bought.text());
        let wallet = bought.receipt().client_id;
        for pay in [Pay::client(&wallet), Pay::card(&card), Pay::client(&wallet).with_card(&card)] {
            let spent = get(&world.client, there, "/api/weather", &pay).await;
            assert_eq!(spent.status, 200, "{}", spent.text());
            assert_eq!((spent.receipt().client_id, spent.receipt().charge_id), (wallet.clone(), None));
        }
        assert_eq!(balance(world, here, &wallet).await, 50_000 - 3 * 500);
        let mut left = 50_000 - 3 * 500;
        for _ in 0..20 {
            // Whichever spends, the other's balance is exact when the answer is there.
            let (spends, looks) = if dice.one_in(2) { (here, there) } else { (there, here) };
            let spent = get(&world.client, spends, "/api/weather", &Pay::client(&wallet)).await;
            left -= 500;
            assert_eq!(
                (spent.status, spent.receipt().credits_remaining.unwrap()),
                (200, left),
                "{}",
                spent.text()
            );
            assert_eq!(balance(world, looks, &wallet).await, left);
        }
        // Emptied here, filled there, spent here: no node believes its memory.
        while left >= 10_000 {
            assert_eq!(get(&world.client, here, "/api/report", &Pay::client(&wallet)).await.status, 200);
            left -= 10_000;
        }
        let refused = get(&world.client, here, "/api/report", &Pay::client(&wallet)).await;
        assert_eq!(refused.code(), "insufficient_credits", "{}", refused.text());
        assert_eq!(top_up(&world.client, there, &card, "second", Some(&wallet)).await.status, 201);
        let served = get(&world.client, here, "/api/report", &Pay::client(&wallet)).await;
        assert_eq!(served.status, 200, "{}", served.text());
    }
    world.assert_books_agree().await;
}

/// Starts a gateway that is expected to refuse: what it says.
async fn refusal_of(seat: &Seat) -> String {
    let process = seat.spawn();
    let log = seat.log.clone();
    assert_eq!(process.wait().await.code(), Some(1), "{}", std::fs::read_to_string(&log).unwrap());
    let said = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(log).unwrap();
    said
}

async fn migrate(world: &World) -> Ran {
    let mut command = program(world.folder.path(), &["migrate"]);
    command.envs(world.environment());
    finish(command, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_fit_is_refused_with_what_to_do() {
    let Some(server) = shared_server() else { return };
    let mut dice = Dice::printed("refusals");
    let mut nodes = Nodes::new(&server, "", &mut dice).await;

    // Without tables, until `migrate` has made them; twice is fine.
    let empty = crate::support::postgres::new_database(&server.url()).await;
    let mut world = World::on_postgres(&server.url(), "", ROUTES).await;
    world.database = DatabaseConfig::Postgres(Secret::new(empty));
    let early = seat(&world, "a", &mut dice);
    let said = refusal_of(&early).await;
    assert!(said.contains("run `prepaid402 migrate`"), "{said}");
    let first = migrate(&world).await;
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.out.contains("is ready"), "{first:?}");
    let second = migrate(&world).await;
    assert_eq!(second.code, 0, "{second:?}");
    assert!(second.out.contains("nothing was changed"), "{second:?}");
    early.start().await.kill().await;

    // A newer program has been there.
    let newer = "INSERT INTO prepaid402_migrations (version, description, success, checksum, execution_time) \
                 VALUES (999, 'from the future', TRUE, '', 0)";
    change(&world.database, newer, &[]).await;
    let said = refusal_of(&early).await;
    assert!(said.contains("schema 999") && said.contains("newer prepaid402"), "{said}");
    let refused = migrate(&world).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("newer prepaid402"), "{refused:?}");

    // A node with another key secret, in the environment or in a file of its own.
    let running = nodes.seats[0].start().await;
    let other = &mut nodes.seats[1];
    other.environment.insert("PREPAID402_KEY_SECRET".into(), OTHER_KEY_SECRET.into());
    let said = refusal_of(other).await;
    assert!(said.contains("every node the same PREPAID402_KEY_SECRET"), "{said}");
    other.environment.remove("PREPAID402_KEY_SECRET");
    let said = refusal_of(other).await;
    assert!(said.contains("every node the same PREPAID402_KEY_SECRET"), "{said}");
    other.environment.insert("PREPAID402_KEY_SECRET".into(), KEY_SECRET.into());
    other.start().await.kill().await;
    running.kill().await;

    // A server that would forget what it has committed.
    let DatabaseConfig::Postgres(url) = &nodes.world.database else { unreachable!() };
    let name = url.expose().rsplit('/').next().unwrap();
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    let forgetful = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    sql(&server, &forgetful).await;
    for seat in &nodes.seats {
        let said = refusal_of(seat).await;
        assert!(said.contains("synchronous_commit"), "{said}");
    }
    sql(&server, &format!("ALTER DATABASE {name} RESET synchronous_commit")).await;
    nodes.seats[0].start().await.kill().await;
}

/// A statement that no program of ours sends.
async fn sql(server: &Cluster, statement: &str) {
    use sqlx::Connection as _;
    let url = format!("{}/postgres", server.url());
    let mut connection = sqlx::postgres::PgConnection::connect(&url).await.unwrap();
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
}

//! Backups, and what an older copy of the database that is put back must not lose: the cents that Stripe has captured since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use prepaid402::config::{DatabaseConfig, Secret};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::operator::Office;
use crate::support::callers::{Crowd, DEAR, Notes, OPEN};
use crate::support::dice::Dice;
use crate::support::http::Answer;
use crate::support::process::{Process, Seat};
use crate::support::program::{Ran, run, until};
use crate::support::{
    GOOD_CARDS, Pay, ROUTES, SECRET_KEY, World, change, column, is_on_sqlite, number, recorded_charges, rows,
    verify,
};

async fn backup(world: &World, to: &Path) -> Ran {
    let file = world.file();
    let args = ["backup", "--database", file.to_str().unwrap(), "--to", to.to_str().unwrap()];
    run(world.folder.path(), &args).await
}

/// As the README says.
fn put_back(world: &World, copy: &Path) {
    let file = world.file();
    for ending in ["", "-wal", "-shm"] {
        let path = PathBuf::from(format!("{}{ending}", file.display()));
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    std::fs::copy(copy, &file).unwrap();
}

/// What must be the same of every top-up, and whose it is: the client's public id and the hash of its key.
async fn top_ups(database: &DatabaseConfig) -> BTreeMap<String, String> {
    let sql = "SELECT t.id, t.key, t.key_secret, t.key_hash, t.amount, t.bonus, t.currency, t.payment_intent, \
               c.public_id, k.hash, t.request_key, t.fingerprint FROM top_ups AS t JOIN clients AS c ON c.id = t.client \
               JOIN client_keys AS k ON k.client = c.id WHERE t.state = 'succeeded'";
    let found = rows(database, sql).await;
    let bytes = |row, index| column::<Option<Vec<u8>>>(row, index);
    let text = |row, index| column::<Option<String>>(row, index);
    let of = |row| {
        let numbers = [2, 4, 5].map(|index| column::<i64>(row, index));
        let texts = [1, 6, 7, 8, 11].map(|index| text(row, index));
        let hashes = [3, 9, 10].map(|index| bytes(row, index));
        format!("{numbers:?} {texts:?} {hashes:?}")
    };
    found.iter().map(|row| (column(row, 0), of(row))).collect()
}

async fn order(world: &World, url: &str, client: &str, card: &str, key: &str, units: i64) -> Answer {
    let bearer = format!("Bearer {client}");
    let body = json!({ "paymentMethodId": card, "topUpAmount": units }).to_string();
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
    let body = Some(("application/json", body.as_bytes()));
    world.client.send("POST", &format!("{url}/billing/top-ups"), &headers, body).await
}

async fn pay(world: &World, url: &str, pay: &Pay) -> Answer {
    world.client.send("GET", &format!("{url}/api/joke"), &[("payment", &pay.header())], None).await
}

async fn balance(world: &World, url: &str, client: &str) -> Answer {
    let authorization = format!("Bearer {client}");
    let headers = [("authorization", authorization.as_str())];
    world.client.send("GET", &format!("{url}/billing/balance"), &headers, None).await
}

/// Stripe's fee of each charge, which is booked when what has become of the charge is read.
const FEES: &str = "SELECT COUNT(*) FROM entries WHERE source LIKE 'fee:%'";

async fn all_credited(world: &World, process: &Process) {
    until("every captured cent is credited", async || {
        let (mut ours, mut stripe) =
            (recorded_charges(&world.database).await, world.succeeded_charges().await);
        ours.sort();
        stripe.sort();
        let fees = number(&world.database, FEES).await;
        ours == stripe && number(&world.database, OPEN).await == 0 && usize::try_from(fees) == Ok(ours.len())
    })
    .await;
    world.assert_books_agree().await;
    assert!(!process.log().contains("a person must look"), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(
    clippy::too_many_lines,
    reason = "one story: a backup under load, a disk that is lost, and the day after"
)]
async fn an_older_backup_put_back_loses_no_captured_cent() {
    if !is_on_sqlite("backups of a server are its own affair; adoption is tested on it below") {
        return;
    }
    let mut dice = Dice::printed("backup");
    let world = Arc::new(World::with("", &format!("{ROUTES}{DEAR}")).await);
    let seat = Seat::new(&world, &mut dice);
    let notes = Arc::new(Mutex::new(Notes::default()));
    let process = seat.start().await;
    let crowd = Crowd::gather(&world, &notes, &process.url, 0, &mut dice);
    let served = || notes.lock().unwrap().served.len();
    until("somebody pays", async || served() > 50).await;

    // Copies under load: each is whole, private, of one moment, and none replaces another.
    let copies: Vec<PathBuf> = (0..3).map(|n| world.folder.path().join(format!("copy-{n}.db"))).collect();
    for copy in &copies {
        let before = served();
        let ran = backup(&world, copy).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("clients") && ran.out.contains("newest entry"), "{}", ran.out);
        assert!(verify(&copy.clone().into()).await.is_clean());
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(copy).unwrap().permissions()) & 0o777,
            0o600
        );
        let again = backup(&world, copy).await;
        assert_eq!((again.code, again.out.as_str()), (1, ""), "{again:?}");
        assert!(again.err.contains("is there already"), "{}", again.err);
        until("the load goes on", async || served() > before).await;
    }
    let [first, .., last] = copies.as_slice() else { unreachable!() };
    assert!(number(&first.clone().into(), ENTRIES).await < number(&last.clone().into(), ENTRIES).await);
    let others: Vec<_> = std::fs::read_dir(world.folder.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("partial"))
        .collect();
    assert_eq!(others, Vec::<String>::new());

    // More top-ups and spending, of clients old and new, until the machine dies.
    let charges = world.succeeded_charges().await.len();
    until("clients are made after the backup", async || world.succeeded_charges().await.len() > charges + 20)
        .await;
    assert!(crowd.is_whole());
    process.kill().await;
    crowd.dispersed().await;
    let lost = top_ups(&world.database).await;
    let kept = top_ups(&first.clone().into()).await;
    assert!(kept.len() + 15 < lost.len(), "{} of {} are in the backup", kept.len(), lost.len());

    put_back(&world, first);
    let process = seat.start().await;
    all_credited(&world, &process).await;
    let found = top_ups(&world.database).await;
    for (id, as_it_was) in &lost {
        assert_eq!(found.get(id), Some(as_it_was), "{id}");
    }

    // The same clientIds work, and so do the card tokens that first paid.
    let notes = std::mem::take(&mut *notes.lock().unwrap());
    let mut spent = 0;
    for client in &notes.clients {
        let answer = balance(&world, &process.url, client).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        if answer.json()["balance"].as_i64().unwrap() >= 100 {
            let answer = pay(&world, &process.url, &Pay::client(client)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            spent += 1;
        }
    }
    assert!(spent > 10, "{spent}");
    let charges = world.succeeded_charges().await.len();
    let mut recognised = 0;
    for (card, noted) in &notes.cards {
        let Some(client) = noted.answers.first() else { continue };
        let left = balance(&world, &process.url, client).await.json()["balance"].as_i64().unwrap();
        if left >= 100 && recognised < 20 {
            let answer = pay(&world, &process.url, &Pay::card(card)).await;
            assert_eq!((answer.status, &answer.receipt().client_id), (200, client), "{}", answer.text());
            recognised += 1;
        }
    }
    assert!(recognised > 3, "{recognised}");
    assert_eq!(world.succeeded_charges().await.len(), charges, "nobody was charged again");

    // Once more from the start, and from the same backup again: nothing is credited twice.
    process.kill().await;
    let process = seat.start().await;
    all_credited(&world, &process).await;
    assert_eq!(top_ups(&world.database).await, found);
    process.kill().await;
    put_back(&world, first);
    let process = seat.start().await;
    all_credited(&world, &process).await;
    assert_eq!(top_ups(&world.database).await, found);
    process.kill().await;
    let file = world.file();
    let ran = run(world.folder.path(), &["verify", "--database", file.to_str().unwrap()]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

const COMPARED_UNTIL: &str = "SELECT compared_until FROM installation";
const ENTRIES: &str = "SELECT COUNT(*) FROM entries";

/// The copy of a gateway that has just ended as it should.
async fn copy_after(process: Process, world: &World) -> DatabaseConfig {
    process.terminate().await;
    assert!(process.wait().await.success());
    copy_of(world).await
}

/// A copy of the world's database as it is now, with no gateway running.
async fn copy_of(world: &World) -> DatabaseConfig {
    match &world.database {
        DatabaseConfig::Sqlite(_) => {
            let copy = world.folder.path().join("copy.db");
            let ran = backup(world, &copy).await;
            assert_eq!(ran.code, 0, "{ran:?}");
            DatabaseConfig::Sqlite(copy)
        }
        DatabaseConfig::Postgres(url) => {
            let (server, name) = url.expose().rsplit_once('/').unwrap();
            let mut connection =
                sqlx::postgres::PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
            // Connections that have just ended may still be counted.
            until("the database is copied", async || {
                let sql = format!("CREATE DATABASE {name}_copy TEMPLATE {name}");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.is_ok()
            })
            .await;
            connection.close().await.unwrap();
            DatabaseConfig::Postgres(Secret::new(format!("{}_copy", url.expose())))
        }
    }
}

/// Puts a copy back. No gateway may run.
fn back_to(world: &mut World, copy: &DatabaseConfig) {
    match (&world.database, copy) {
        (DatabaseConfig::Sqlite(_), DatabaseConfig::Sqlite(copy)) => put_back(world, copy),
        _ => world.database = copy.clone(),
    }
}

/// Stripe refuses one of its calls, as often as it is made, for longer than anybody waits.
async fn refuse(world: &World, on: &str) {
    let fault = json!({ "on": on, "action": "rate_limit", "times": 1_000_000, "retry_after_seconds": 3_600 });
    world.faults(json!([fault])).await;
}

/// Pays 20.00, gets 1.00 on top, and spends nothing. Answers the client key.
async fn wallet(world: &World, url: &str, card: &str) -> String {
    let body = json!({ "paymentMethodId": card, "topUpAmount": 200_000 }).to_string();
    let body = Some(("application/json", body.as_bytes()));
    let url = format!("{url}/billing/top-ups");
    let answer = world.client.send("POST", &url, &[("idempotency-key", card)], body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.receipt().client_id
}

/// The simulated Stripe, asked with the seller's key, as another program of the seller's would.
async fn stripe(world: &World, path: &str, form: &str, key: &str) -> Value {
    let bearer = format!("Bearer {SECRET_KEY}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
    let url = format!("{}/v1/{path}", world.sim.base_url);
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    let answer = world.client.send("POST", &url, &headers, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::too_many_lines, reason = "one table of charges that must, and must not, be credited")]
async fn only_charges_of_this_gateway_are_credited_again_and_what_was_refunded_of_them_is_not() {
    let mut dice = Dice::printed("adoption");
    let mut world = World::with("", ROUTES).await;
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let mut cards = GOOD_CARDS.iter().cycle();
    let mut card = async || world.tokenise(cards.next().unwrap()).await;
    let old = pay(&world, &process.url, &Pay::card(&card().await)).await.receipt().client_id;
    let copy = copy_after(process, &world).await;

    // What happens after the backup.
    let process = seat.start().await;
    let url = process.url.clone();
    // A new client, who is given a bonus later; and the old one, with another key of repetition each.
    let new = pay(&world, &url, &Pay::card(&card().await)).await.receipt().client_id;
    let (card_one, card_two) = (card().await, card().await);
    let first = order(&world, &url, &new, &card_one, "first", 200_000).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let second = order(&world, &url, &old, &card_two, "second", 50_000).await;
    assert_eq!(second.status, 201, "{}", second.text());
    // Somebody whose charge is given back at Stripe, and somebody who gets half of it.
    let refunded = pay(&world, &url, &Pay::card(&card().await)).await;
    let half = pay(&world, &url, &Pay::card(&card().await)).await;
    let (charge, other) = (refunded.receipt().charge_id.unwrap(), half.receipt().charge_id.unwrap());
    stripe(&world, "refunds", &format!("payment_intent={charge}"), "r1").await;
    stripe(&world, "refunds", &format!("payment_intent={other}&amount=250"), "r2").await;
    let known = top_ups(&world.database).await;
    let before = balance(&world, &url, &new).await.json();
    process.kill().await;

    // Charges of others on the same account: a shop's, one that only looks like ours, and another gateway's.
    let shop = card().await;
    let form = "amount=999&currency=usd&confirm=true&automatic_payment_methods[enabled]=true\
                &automatic_payment_methods[allow_redirects]=never&payment_method=";
    stripe(&world, "payment_intents", &format!("{form}{shop}"), "s1").await;
    let alike = format!(
        "{form}{}&metadata[prepaid402_top_up]={}&metadata[prepaid402_client]={}",
        card().await,
        prepaid402::domain::TopUpId::new(),
        prepaid402::domain::ClientPublicId::new()
    );
    stripe(&world, "payment_intents", &alike, "s2").await;
    let neighbour = {
        let mut neighbour = World::with("", ROUTES).await;
        std::mem::swap(&mut neighbour.sim, &mut world.sim);
        let seat = Seat::new(&neighbour, &mut dice);
        let process = seat.start().await;
        let card = neighbour.tokenise(GOOD_CARDS[0]).await;
        let client = pay(&neighbour, &process.url, &Pay::card(&card)).await.receipt().client_id;
        process.kill().await;
        std::mem::swap(&mut neighbour.sim, &mut world.sim);
        (neighbour, client)
    };

    back_to(&mut world, &copy);
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let url = process.url.clone();
    until("the charges are credited, and what has become of them is booked", async || {
        number(&world.database, FEES).await >= 6 && number(&world.database, OPEN).await == 0
    })
    .await;
    let found = top_ups(&world.database).await;
    assert_eq!(found.len(), 6, "{found:#?}");
    for (id, row) in &found {
        assert_eq!(known.get(id), Some(row));
    }
    assert!(verify(&world.database).await.is_clean());

    // Who was credited can go on; the bonus is there again, and the public id is the one that the seller's API knows.
    let after = balance(&world, &url, &new).await.json();
    assert_eq!(after["client"], before["client"]);
    assert_eq!(after["bonus"], 10_000);
    let spent = after["balance"].as_i64().unwrap() - before["balance"].as_i64().unwrap();
    assert_eq!(spent, 100, "what was spent since the backup is the seller's loss, and only that");
    assert_eq!(balance(&world, &url, &old).await.json()["paid"], 50_000 - 100 + 50_000);
    // What was given back is not there.
    for (answer, left) in [(&refunded, 0), (&half, 25_000)] {
        let answer = balance(&world, &url, &answer.receipt().client_id).await;
        assert_eq!((answer.status, &answer.json()["balance"]), (200, &json!(left)), "{}", answer.text());
    }
    // Whoever paid another gateway has no wallet, and nobody else's.
    assert_eq!(balance(&world, &url, &neighbour.1).await.status, 401);

    // The same Idempotency-Key still charges once.
    let charges = world.succeeded_charges().await.len();
    for (client, card, key, units, was) in
        [(&new, &card_one, "first", 200_000, &first), (&old, &card_two, "second", 50_000, &second)]
    {
        let again = order(&world, &url, client, card, key, units).await;
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(again.json()["id"], was.json()["id"]);
    }
    assert_eq!(world.succeeded_charges().await.len(), charges);

    // Another start, another pass: nothing more, also at the neighbour's, whose books are its own.
    process.kill().await;
    world.lapse_leases().await;
    // A pass is noted with a second's precision.
    change(&world.database, "UPDATE installation SET compared_until = compared_until - 10", &[]).await;
    let compared = number(&world.database, COMPARED_UNTIL).await;
    let process = seat.start().await;
    until("all is compared again", async || number(&world.database, COMPARED_UNTIL).await > compared).await;
    assert_eq!(top_ups(&world.database).await, found);
    assert!(!process.log().contains("a person must look"), "{}", process.log());
    process.kill().await;
    assert!(verify(&world.database).await.is_clean());
    let neighbours = top_ups(&neighbour.0.database).await;
    assert_eq!(neighbours.len(), 1, "{neighbours:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_client_who_paid_with_two_cards_is_one_client_although_the_first_charge_cannot_be_read_at_once()
 {
    let mut dice = Dice::printed("two cards");
    let mut world = World::with("", ROUTES).await;
    world.packs = "[top_up]\nreconcile_every = \"1s\"\nminimum = \"5.00\"\n".to_owned();
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let copy = copy_after(process, &world).await;

    let process = seat.start().await;
    let [first, second] = [world.tokenise(GOOD_CARDS[0]).await, world.tokenise(GOOD_CARDS[1]).await];
    let client = pay(&world, &process.url, &Pay::card(&first)).await.receipt().client_id;
    let ordered = order(&world, &process.url, &client, &second, "second", 50_000).await;
    assert_eq!(ordered.status, 201, "{}", ordered.text());
    process.kill().await;

    back_to(&mut world, &copy);
    for on in ["payment_intents.retrieve", "events.list"] {
        refuse(&world, on).await;
    }
    let process = Seat::new(&world, &mut dice).start().await;
    until("a charge is found and cannot be read, twice", async || {
        process.log().matches("what has become of a charge is not booked yet").count() >= 2
    })
    .await;
    assert_eq!(number(&world.database, OPEN).await, 1, "the second waits for the one that makes its client");
    world.clear_faults().await;
    all_credited(&world, &process).await;
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM clients").await, 1);
    assert_eq!(balance(&world, &process.url, &client).await.json()["balance"], 100_000);
    // The card that first paid, and no other, leads back to the wallet.
    let paid = pay(&world, &process.url, &Pay::card(&first)).await;
    assert_eq!((paid.status, paid.receipt().client_id), (200, client));
    let other = pay(&world, &process.url, &Pay::card(&second)).await;
    assert_ne!(other.try_receipt().map(|receipt| receipt.client_id), Some(paid.receipt().client_id));
    assert!(verify(&world.database).await.is_clean());
    process.kill().await;
}

/// What is told of every client, refund, dispute and freeze, in the order of their making at Stripe.
async fn aftermath(world: &World) -> Vec<String> {
    let mut told = Vec::new();
    for (what, sql) in [
        (
            "client",
            "SELECT public_id || ' ' || paid || ' ' || bonus || ' ' || debt || ' ' || status FROM clients",
        ),
        (
            "refund",
            "SELECT stripe_refund || ' ' || amount || ' ' || bonus || ' ' || state || ' ' || origin FROM refunds",
        ),
        ("dispute", "SELECT id || ' ' || amount || ' ' || status FROM disputes"),
        (
            "freeze",
            "SELECT cause || ' ' || CASE WHEN lifted_at IS NULL THEN 'stands' ELSE 'lifted' END FROM freezes",
        ),
        (
            "entry",
            "SELECT COUNT(*) || ' of ' || COALESCE(SUM(amount), 0) FROM entries WHERE source NOT LIKE 'refund%'",
        ),
        (
            "entry",
            "SELECT COUNT(*) || ' of ' || COALESCE(SUM(amount), 0) FROM entries WHERE source LIKE 'refund%'",
        ),
    ] {
        let found = rows(&world.database, sql).await;
        told.extend(found.iter().map(|row| format!("{what} {}", column::<String>(row, 0))));
    }
    told.sort();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_charges_that_were_refunded_or_disputed_end_as_if_they_had_never_been_lost() {
    let mut dice = Dice::printed("disturbed");
    let mut world = World::with("[webhooks]\npoll_every = \"5s\"\n", ROUTES).await;
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let copy = copy_after(process, &world).await;

    let process = seat.start().await;
    let mut intents = Vec::new();
    for card in GOOD_CARDS.iter().cycle().take(6) {
        let card = world.tokenise(card).await;
        let client = wallet(&world, &process.url, &card).await;
        intents.push(world.intent_of(&client).await.0);
    }
    let [part, all, open, won, lost, asked] = &intents[..] else { unreachable!() };
    for amount in [333, 667] {
        world.sim("/refunds", json!({ "payment_intent": part, "amount": amount })).await;
    }
    world.sim("/refunds", json!({ "payment_intent": all })).await;
    let about = |intent: &String| format!("/payment_intents/{intent}/dispute");
    world.sim(&about(open), json!({ "amount": 700 })).await;
    // Before any money moves.
    world.sim(&about(asked), json!({ "withdraw": false })).await;
    for (intent, ends) in [(won, "won"), (lost, "lost")] {
        let id = world.sim(&about(intent), json!({})).await["id"].as_str().unwrap().to_owned();
        if ends == "won" {
            world.sim(&format!("/disputes/{id}/reinstate"), json!({})).await;
        }
        world.sim(&format!("/disputes/{id}/close"), json!({ "status": ends })).await;
    }
    until("everything is booked", async || {
        let told = aftermath(&world).await.join("\n");
        let ends = |what: &str, times| told.matches(what).count() == times;
        number(&world.database, FEES).await == 6
            && ends("succeeded stripe", 3)
            && (ends(" lost", 1) && ends(" won", 1) && ends("stands", 3) && ends("lifted", 1))
    })
    .await;
    let before = aftermath(&world).await;
    process.kill().await;

    back_to(&mut world, &copy);
    // So that nobody but the one who looks for lost charges hears of them.
    refuse(&world, "events.list").await;
    let process = Seat::new(&world, &mut dice).start().await;
    until("it is as it was", async || aftermath(&world).await == before).await;
    assert!(!process.log().contains("a person must look"), "{}", process.log());
    world.assert_books_agree().await;
    world.assert_clearing_is_stripes().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_key_refunds_once_although_an_older_backup_was_put_back() {
    let mut world = World::with("[webhooks]\npoll_every = \"5s\"\n", ROUTES).await;
    let office = Office::new(&world).await;
    let wallet = office.wallet_of(GOOD_CARDS[0]).await;
    until("all is known of the charge", async || number(&world.database, FEES).await == 1).await;
    office.gateway.stop().await;
    let copy = copy_of(&world).await;

    let office = Office::again(&world).await;
    let part = json!({ "topUp": wallet.top_up, "amount": "5.00" });
    let first = office.refund("k", &part).await;
    assert_eq!(first.status, 200, "{}", first.text());
    office.gateway.stop().await;

    // Stripe's events do not come, so the request itself must find out.
    back_to(&mut world, &copy);
    refuse(&world, "events.list").await;
    let office = Office::again(&world).await;
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM refunds").await, 0);
    // When Stripe does not say what it has, nothing is begun.
    refuse(&world, "refunds.list").await;
    let unknown = office.refund("k", &part).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (503, "refund_unknown"), "{}", unknown.text());
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM refunds").await, 0);
    world.clear_faults().await;
    refuse(&world, "events.list").await;
    for _ in 0..2 {
        let again = office.refund("k", &part).await;
        assert_eq!(again.status, 200, "{}", again.text());
        for field in ["id", "amount", "bonusForfeited", "origin", "state"] {
            assert_eq!(again.json()[field], first.json()[field], "{field} in {}", again.text());
        }
    }
    assert_eq!(office.at_stripe().await, [500]);
    assert_eq!(office.gateway.balance(&wallet.key).await, 157_500);
    let other = json!({ "topUp": wallet.top_up, "amount": "6.00" });
    assert_eq!(office.refund("k", &other).await.code(), "idempotency_mismatch");
    let rest = office.refund("l", &json!({ "topUp": wallet.top_up })).await;
    assert_eq!((rest.status, &rest.json()["amount"]), (200, &json!("15.00")), "{}", rest.text());
    assert_eq!(office.at_stripe().await, [500, 1_500]);
    assert_eq!(office.refunds(&wallet).await.len(), 2);
    world.assert_books_agree().await;
    office.gateway.stop().await;
}

/// Top-ups that Stripe knows nothing of: made by hand, or under keys of another account.
const UNREADABLE: &str = "\
INSERT INTO top_ups (id, client, key, key_secret, key_hash, currency, amount, bonus, state, payment_intent, created_at, updated_at)
SELECT $1, client, key, key_secret, key_hash, currency, amount, bonus, state, $2, created_at, updated_at FROM top_ups
WHERE pm_hash IS NOT NULL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_had_not_booked_when_it_died_the_next_one_books() {
    let mut dice = Dice::printed("forgotten");
    let world = World::with("", ROUTES).await;
    let seat = Seat::new(&world, &mut dice);
    for on in ["events.list", "refunds.list"] {
        refuse(&world, on).await;
    }
    let process = seat.start().await;
    let card = world.tokenise(GOOD_CARDS[0]).await;
    let paid = pay(&world, &process.url, &Pay::card(&card)).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    process.kill().await;
    assert_eq!(number(&world.database, FEES).await, 0);
    // More than one pass looks at, and older.
    for n in 0..60 {
        let (id, intent) = (format!("00000000-0000-7000-8000-0000000000{n:02}"), format!("pi_none{n}"));
        assert_eq!(change(&world.database, UNREADABLE, &[&id, &intent]).await, 1);
    }
    world.clear_faults().await;
    refuse(&world, "events.list").await;
    let process = seat.start().await;
    until("the fee is booked", async || number(&world.database, FEES).await == 1).await;
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups WHERE charge IS NOT NULL").await, 1);
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_from_before_charges_said_whose_they_are_is_told_what_that_means_once() {
    const WORDS: &str = "make a backup now";
    let mut dice = Dice::printed("installation");
    let world = World::with("", ROUTES).await;
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let card = world.tokenise(GOOD_CARDS[0]).await;
    assert_eq!(pay(&world, &process.url, &Pay::card(&card)).await.status, 200);
    assert!(!process.log().contains(WORDS), "a new database has no gap: {}", process.log());
    process.kill().await;
    assert_eq!(change(&world.database, "DELETE FROM installation", &[]).await, 1);
    for _ in 0..2 {
        let process = seat.start().await;
        let log = process.log();
        assert_eq!(log.matches(WORDS).count(), 1, "{log}");
        assert!(log.contains("payments of that time in Stripe's dashboard"), "{log}");
        process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_copied_is_told_and_nothing_is_left() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("other.db"), "no database at all").unwrap();
    std::fs::write(home.path().join("empty.db"), "").unwrap();
    for (args, code, words) in [
        (&["--database", "postgres://u@127.0.0.1/d"][..], 2, "pg_dump"),
        (&["--database", "absent.db"], 2, "there is no database"),
        (&["--database", "other.db", "--to", "copy.db"], 1, "there is no backup"),
        (&["--database", "empty.db", "--to", "copy.db"], 1, "no database of prepaid402"),
        (&["--database", "empty.db", "--to", "no/such/folder/copy.db"], 1, "there is no backup"),
        (&["--database", "empty.db", "--to", "other.db"], 1, "is there already"),
    ] {
        let mut all = vec!["backup"];
        all.extend(args);
        let ran = run(home.path(), &all).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2, "no half copy is left");
}

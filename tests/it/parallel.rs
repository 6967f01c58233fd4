//! Many callers at the same moment: one charge where one is enough, no balance spent twice, no caller whose hang-up
//! changes what is true.

use std::collections::BTreeSet;

use crate::support::dice::Dice;
use crate::support::effort::rounds;
use crate::support::http::Answer;
use crate::support::raw::hang_up;
use crate::support::{GOOD, GOOD_CARDS, Gateway, Pay, ROUTES, World, number};

const DEAR: &str = "\n[[routes]]\npath = \"/api/report\"\nprice = \"1.00\"\n";
/// Captures that were not given back.
const STANDING: &str = "\
SELECT COUNT(*) FROM entries AS u WHERE u.source LIKE 'usage:%' AND NOT EXISTS
  (SELECT 1 FROM entries AS r WHERE r.source = 'reversal:' || substr(u.source, 7))";

/// All at once, each on a connection of its own.
async fn all_at_once(gateway: &Gateway<'_>, path: &str, payments: Vec<Pay>) -> Vec<Answer> {
    let url = format!("{}{path}", gateway.url);
    let tasks: Vec<_> = payments
        .into_iter()
        .map(|pay| {
            let (client, url, header) = (gateway.world.client.clone(), url.clone(), pay.header());
            tokio::spawn(async move { client.send("GET", &url, &[("payment", &header)], None).await })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_of_one_card_who_all_hang_up_are_one_charge_and_an_exact_balance() {
    let mut dice = Dice::printed("hang up");
    let world = World::new().await;
    let mut captures = Vec::new();
    for round in rounds(8).map(|round| round + 1) {
        let gateway = world.gateway().await;
        let before = number(&world.database, STANDING).await;
        let plastic = *dice.pick(&GOOD_CARDS);
        let card = world.tokenise(plastic).await;
        let request =
            format!("GET /api/weather HTTP/1.1\r\nhost: a\r\npayment: {}\r\n\r\n", Pay::card(&card).header());
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let address = gateway.url.trim_start_matches("http://").to_owned();
                tokio::spawn(hang_up(address, request.clone(), dice.split()))
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        let repeat = gateway.pay("/api/weather", &Pay::card(&card)).await;
        assert_eq!(repeat.status, 200, "{}", repeat.text());
        // Stopping waits for all money work, also that of callers who are gone.
        gateway.stop().await;
        let gateway = world.gateway().await;
        let standing = number(&world.database, STANDING).await - before;
        captures.push(standing);
        let last = gateway.pay("/api/weather", &Pay::card(&card)).await.receipt();
        assert_eq!(last.client_id, repeat.receipt().client_id);
        assert_eq!(last.credits_remaining.unwrap(), 50_000 - 500 * (standing + 1));
        assert_eq!(last.charge_id, None);
        assert_eq!(world.succeeded_charges().await.len(), round, "one charge each round");
        gateway.stop().await;
    }
    println!("captures a round: {captures:?}");
    assert!(captures.iter().any(|captures| *captures > 1), "the hang-ups must come late enough to matter");
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_parallel_spends_of_a_balance_for_a_hundred_serve_exactly_a_hundred() {
    // On PostgreSQL the same is asked of two nodes at once, in `nodes`.
    let mut rounds = rounds(5);
    let world = World::with("[limits]\nmax_concurrent_per_client = 600\n", ROUTES).await;
    let gateway = world.gateway().await;
    for repeat in rounds.by_ref() {
        let card = world.tokenise(GOOD).await;
        let body = format!("{{\"paymentMethodId\":\"{card}\",\"topUpAmount\":50000}}");
        let key = format!("repeat-{repeat}");
        let bought = world
            .client
            .send(
                "POST",
                &format!("{}/billing/top-ups", gateway.url),
                &[("idempotency-key", &key)],
                Some(("application/json", body.as_bytes())),
            )
            .await;
        assert_eq!(bought.status, 201, "{}", bought.text());
        let client = bought.receipt().client_id;
        let hits = world.upstream.hits();
        let answers = all_at_once(&gateway, "/api/weather", vec![Pay::client(&client); 500]).await;
        assert_eq!(count(&answers, 200), 100, "repeat {repeat}");
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            let known = [(402, "insufficient_credits"), (429, "reservations_in_flight")];
            assert!(known.contains(&(refused.status, refused.code().as_str())), "{}", refused.text());
        }
        let left: BTreeSet<i64> = answers
            .iter()
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.receipt().credits_remaining.unwrap())
            .collect();
        assert_eq!(left, (0..100).map(|n| n * 500).collect(), "every answer names a balance of its own");
        assert_eq!(gateway.balance(&client).await, 0);
        assert_eq!(world.upstream.hits() - hits, 100, "what cannot be paid does not reach the API");
    }
    gateway.stop().await;
    assert_eq!(number(&world.database, STANDING).await, i64::try_from(100 * rounds.begun()).unwrap());
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_makes_a_new_card_token_for_every_retry_is_charged_once() {
    let world = World::with("", &format!("{ROUTES}{DEAR}")).await;
    let gateway = world.gateway().await;
    for _ in rounds(4) {
        let client = gateway.new_client("/api/report").await;
        for _ in 0..4 {
            assert_eq!(gateway.pay("/api/report", &Pay::client(&client)).await.status, 200);
        }
        assert_eq!(gateway.balance(&client).await, 0);
        let before = world.succeeded_charges().await.len();
        let mut payments = Vec::new();
        for n in 0..50 {
            let card = world.tokenise(GOOD_CARDS[n % GOOD_CARDS.len()]).await;
            payments.push(Pay::client(&client).with_card(&card));
        }
        let answers = all_at_once(&gateway, "/api/weather", payments).await;
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.receipt().client_id, client);
        }
        let charging = answers.iter().filter(|answer| answer.receipt().charge_id.is_some()).count();
        assert_eq!(charging, 1, "one answer names the charge");
        assert_eq!(world.succeeded_charges().await.len() - before, 1);
        assert_eq!(gateway.balance(&client).await, 50_000 - 50 * 500);
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_tokens_of_one_card_never_share_a_wallet() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (mut together, mut alone) = (0, 0);
    for _ in rounds(5) {
        let before = world.succeeded_charges().await.len();
        let mut cards = Vec::new();
        for _ in 0..20 {
            cards.push(world.tokenise(GOOD).await);
        }
        let payments: Vec<_> = cards.iter().map(|card| Pay::card(card)).collect();
        let answers = all_at_once(&gateway, "/api/weather", payments).await;
        let mut clients = BTreeSet::new();
        for (card, answer) in cards.iter().zip(&answers) {
            if answer.status == 200 {
                let receipt = answer.receipt();
                assert!(clients.insert(receipt.client_id), "two tokens reached one wallet");
                assert_eq!(receipt.credits_remaining.unwrap(), 49_500);
                together += 1;
                continue;
            }
            assert_eq!((answer.status, answer.code().as_str()), (409, "topup_in_progress"));
            assert!(answer.try_receipt().is_none(), "nobody's clientId is given away");
            let later = gateway.pay("/api/weather", &Pay::card(card)).await;
            assert_eq!(later.status, 200, "{}", later.text());
            assert!(clients.insert(later.receipt().client_id));
            assert_eq!(later.receipt().credits_remaining.unwrap(), 49_500);
            alone += 1;
        }
        assert_eq!(clients.len(), 20);
        assert_eq!(world.succeeded_charges().await.len() - before, 20);
    }
    println!("{together} served at once, {alone} refused while the card was being charged, and served later");
    assert!(together > 0 && alone > 0, "both must happen");
    gateway.stop().await;
    world.assert_books_agree().await;
}

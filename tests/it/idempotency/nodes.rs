//! One key at several nodes.

use super::holds::has_one_node_only;
use super::*;
use crate::support::GOOD;
use crate::support::dice::Dice;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_repeated_at_another_node() {
    if has_one_node_only() {
        return;
    }
    let world = World::new().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let client = wallet(&here).await;
    for method in ["POST", "GET"] {
        let ask = Ask::new(method, "/up/headers", &Pay::client(&client), "k");
        let first = ask.at(&here).await;
        served(&first);
        replayed(&ask.at(&there).await, &first);
        replayed(&ask.at(&here).await, &first);
        refused(&ask.clone().to("/up/headers?x").at(&there).await, 422, "idempotency_mismatch");
    }
    assert_eq!((hits(&world, "k"), there.balance(&client).await), (2, PACK - 2 * PRICE));
    // Running elsewhere.
    let ask = Ask::post("/up/wait", &Pay::client(&client), "slow");
    let asked = ask.sent(&here);
    seen_by_the_api(&world, "slow", 1).await;
    refused(&ask.at(&there).await, 409, "idempotency_in_flight");
    world.upstream.release(1);
    let first = asked.await.unwrap().unwrap();
    replayed(&ask.at(&there).await, &first);
    // Too large: three times in all, wherever.
    let ask = Ask::get("/up/bytes/70000", &Pay::client(&client), "large").with(&[("accept", "text/html")]);
    served(&ask.at(&here).await);
    for gateway in [&there, &here, &there] {
        let other = ask.clone().without("accept").decided_at(gateway).await;
        refused(&other, 422, "idempotency_mismatch");
        assert_eq!(ask.decided_at(gateway).await.status, 200);
    }
    for gateway in [&there, &here] {
        refused(&ask.at(gateway).await, 409, "idempotency_answer_lost");
    }
    // A first payment, repeated elsewhere.
    let ask = Ask::post("/up/x", &Pay::card(&world.tokenise(GOOD).await), "first");
    let first = ask.at(&here).await;
    served(&first);
    replayed(&ask.at(&there).await, &first);
    replayed(&ask.by(&Pay::client(&first.receipt().client_id)).at(&there).await, &first);
    there.stop().await;
    closed(here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_race_with_one_key_charge_once_and_ask_the_api_once() {
    if has_one_node_only() {
        return;
    }
    let mut dice = Dice::printed("two nodes, one key");
    let world = World::new().await;
    let nodes = [world.gateway().await, world.gateway().await];
    let client = wallet(&nodes[0]).await;
    for round in 1..=30 {
        let key = format!("race-{round}");
        let method = *dice.pick(&["POST", "GET"]);
        let ask = Ask::new(method, "/up/x", &Pay::client(&client), &key);
        let asked: Vec<_> = (0..4).map(|n| ask.sent(&nodes[n % 2])).collect();
        let mut answers = Vec::new();
        for answer in asked {
            answers.push(answer.await.unwrap().unwrap());
        }
        let first = answers
            .iter()
            .find(|answer| answer.status == 200 && answer.header("idempotent-replayed").is_none());
        let first = first.unwrap_or_else(|| panic!("round {round}: {answers:?}"));
        served(first);
        for node in &nodes {
            replayed(&ask.at(node).await, first);
        }
        assert_eq!((hits(&world, &key), captures(&world).await), (1, round), "{method}");
    }
    assert_eq!(nodes[1].balance(&client).await, PACK - 30 * PRICE);
    let [one, two] = nodes;
    two.stop().await;
    closed(one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_race_with_one_fresh_card_and_one_key_charge_it_once() {
    if has_one_node_only() {
        return;
    }
    let world = World::new().await;
    let nodes = [world.gateway().await, world.gateway().await];
    for round in 1..=8 {
        let (card, key) = (world.tokenise(GOOD).await, format!("card-{round}"));
        let ask = Ask::post("/up/x", &Pay::card(&card), &key);
        for answer in (0..4).map(|n| ask.sent(&nodes[n % 2])).collect::<Vec<_>>() {
            let answer = answer.await.unwrap().unwrap();
            assert!([200, 409].contains(&answer.status), "{}", answer.text());
        }
        let again = ask.at(&nodes[round % 2]).await;
        assert_eq!(
            (again.status, again.header("idempotent-replayed")),
            (200, Some("true")),
            "{}",
            again.text()
        );
        assert_eq!((hits(&world, &key), world.succeeded_charges().await.len()), (1, round));
        assert_eq!(captures(&world).await, i64::try_from(round).unwrap());
    }
    let [one, two] = nodes;
    two.stop().await;
    closed(one).await;
}

//! Who is no thief is not shut out for long, and every refusal says what helps, and when: a bank that asks for its cardholder has
//! not said no, and whoever has paid gets one more card.

use serde_json::json;

use super::{BEHIND_A_PROXY, GOOD_CARDS, Thief, address, charge_attempts, good_clients, pass, world};
use crate::support::http::Answer;
use crate::support::{GOOD, Gateway, Pay, THREE_D_SECURE, World, change, number};

const DAY: i64 = 86_400;

/// No program is told to sleep for longer.
const LONGEST: i64 = 3_600;

fn wait(answer: &Answer) -> i64 {
    assert_eq!((answer.status, answer.code().as_str()), (429, "too_many_attempts"), "{}", answer.text());
    answer.header("retry-after").unwrap().parse().unwrap()
}

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap().to_owned()
}

/// As if each card that asked for its holder had been another one: there are not enough such test cards.
async fn each_is_another_card(world: &World) {
    let sql = "UPDATE top_ups SET fingerprint = id WHERE failure = 'authentication_required'";
    change(&world.database, sql, &[]).await;
}

/// A card that asks for its holder.
async fn ask_for_the_holder(gateway: &Gateway<'_>, client: Option<&str>) {
    let card = gateway.world.tokenise(THREE_D_SECURE).await;
    let pay = Pay { client: client.map(str::to_owned), ..Pay::card(&card) };
    let answer = gateway.pay("/api/report", &pay).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (402, "authentication_required"),
        "{}",
        answer.text()
    );
    each_is_another_card(gateway.world).await;
}

/// Buys credit in advance, with a new token.
async fn buy(gateway: &Gateway<'_>, number: &str, client: Option<&str>) -> Answer {
    let card = gateway.world.tokenise(number).await;
    let bearer = client.map(|client| format!("Bearer {client}"));
    let mut headers = vec![("idempotency-key", card.as_str())];
    headers.extend(bearer.iter().map(|bearer| ("authorization", bearer.as_str())));
    let body = json!({ "paymentMethodId": card }).to_string();
    let url = format!("{}/billing/top-ups", gateway.url);
    gateway.world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
}

/// A client without credit, and the token that paid for it.
async fn spent_client(gateway: &Gateway<'_>) -> (String, String) {
    let (client, card) = good_clients(gateway, 1).await.remove(0);
    spend(gateway, &client, 4).await;
    (client, card)
}

async fn spend(gateway: &Gateway<'_>, client: &str, dollars: usize) {
    for _ in 0..dollars {
        assert_eq!(gateway.pay("/api/report", &Pay::client(client)).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_that_ask_for_their_holder_shut_a_network_out_for_an_hour_at_most() {
    let world = world("").await;
    let gateway = world.gateway().await;
    for _ in 0..3 {
        ask_for_the_holder(&gateway, None).await;
    }
    // Somebody else of this network, at either door.
    let answer = gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD).await)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(buy(&gateway, GOOD_CARDS[1], None).await.status, 201);
    // They are attempts all the same: five an hour.
    for _ in 0..2 {
        ask_for_the_holder(&gateway, None).await;
    }
    for refused in [
        gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD).await)).await,
        buy(&gateway, GOOD_CARDS[1], None).await,
    ] {
        let wait = wait(&refused);
        assert!((3_500..=LONGEST).contains(&wait), "{wait}");
    }
    assert_eq!(charge_attempts(&world).await, 7);
    pass(&world, 3_601).await;
    let answer = gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD).await)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_reached_a_bank_shuts_nobody_out_for_a_day() {
    let world = world("").await;
    let gateway = world.gateway().await;
    for n in 0..3 {
        let answer = gateway.pay("/api/weather", &Pay::card(&format!("pm_1NoSuchToken00000000000{n}"))).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, "invalid_payment"), "{}", answer.text());
    }
    let answer = gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD).await)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_asks_for_its_holder_is_tried_four_times_a_day() {
    let world = world(BEHIND_A_PROXY).await;
    let gateway = world.gateway().await;
    let thief = Thief::at(&gateway);
    let card = |n: usize| {
        let (thief, from) = (thief.clone(), address(n));
        async move { thief.try_token(&thief.tokenise(THREE_D_SECURE).await, Some(&from), None).await }
    };
    for n in 0..4 {
        assert_eq!(card(n).await.code(), "authentication_required");
    }
    let refused = card(4).await;
    let wait = wait(&refused);
    assert_eq!(wait, LONGEST);
    assert!(message(&refused).contains("another card"), "{}", refused.text());
    assert_eq!(charge_attempts(&world).await, 4);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_that_ask_for_their_holder_do_not_pause_new_payers() {
    let world =
        World { shield: "[shield]\nnew_payer_declines = 4\n".to_owned(), ..world(BEHIND_A_PROXY).await };
    let gateway = world.gateway().await;
    let thief = Thief::at(&gateway);
    for n in 0..6 {
        let token = thief.tokenise(THREE_D_SECURE).await;
        let answer = thief.try_token(&token, Some(&address(n)), None).await;
        assert_eq!(answer.code(), "authentication_required", "{n}: {}", answer.text());
        each_is_another_card(&world).await;
    }
    let token = thief.tokenise(GOOD).await;
    let answer = thief.try_token(&token, Some(&address(9)), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_that_ask_for_their_holder_do_not_use_up_a_client() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let (client, card) = spent_client(&gateway).await;
    for _ in 0..4 {
        ask_for_the_holder(&gateway, Some(&client)).await;
    }
    // A new card, at either door.
    assert_eq!(buy(&gateway, GOOD_CARDS[3], Some(&client)).await.status, 201);
    spend(&gateway, &client, 5).await;
    let fresh = Pay::client(&client).with_card(&world.tokenise(GOOD_CARDS[4]).await);
    assert_eq!(gateway.pay("/api/report", &fresh).await.status, 200);
    spend(&gateway, &client, 4).await;
    // Attempts they are: five an hour, but for the token that has paid.
    ask_for_the_holder(&gateway, Some(&client)).await;
    let sixth = Pay::client(&client).with_card(&world.tokenise(THREE_D_SECURE).await);
    let refused = gateway.pay("/api/report", &sixth).await;
    assert!((3_500..=LONGEST).contains(&wait(&refused)), "{}", refused.text());
    assert!(!message(&refused).contains("clientId"), "{}", refused.text());
    let paid = gateway.pay("/api/report", &Pay::client(&client).with_card(&card)).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_three_declines_pays_with_one_new_card_a_day() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let (client, card) = spent_client(&gateway).await;
    pass(&world, 2 * DAY).await;
    let thief = Thief::at(&gateway);
    for number in 0..3 {
        assert_eq!(thief.try_card(number, None, Some(&client)).await.code(), "card_declined");
        pass(&world, 60).await;
    }
    // Not with one of those, and the answer says what helps to whom has sent a clientId.
    let tried = charge_attempts(&world).await;
    for refused in
        [thief.try_card(0, None, Some(&client)).await, buy(&gateway, super::STOLEN[1], Some(&client)).await]
    {
        let wait = wait(&refused);
        assert_eq!(wait, LONGEST, "the first decline is not a day old yet");
        assert!(!message(&refused).contains("clientId"), "{}", refused.text());
        assert!(message(&refused).contains("not declined for it"), "{}", refused.text());
    }
    assert_eq!(charge_attempts(&world).await, tried);
    let fresh = gateway
        .pay("/api/report", &Pay::client(&client).with_card(&world.tokenise(GOOD_CARDS[3]).await))
        .await;
    assert_eq!(fresh.status, 200, "{}", fresh.text());
    spend(&gateway, &client, 4).await;

    // One is one, although it has paid. What has paid pays on, with new tokens, too.
    let second = Pay::client(&client).with_card(&world.tokenise(GOOD_CARDS[4]).await);
    let refused = gateway.pay("/api/report", &second).await;
    assert_eq!(wait(&refused), LONGEST, "the card of today is not a day old yet");
    assert!(!message(&refused).contains("not declined for it"), "{}", refused.text());
    for paid in [card, world.tokenise(GOOD_CARDS[3]).await, world.tokenise(GOOD_CARDS[0]).await] {
        let answer = gateway.pay("/api/report", &Pay::client(&client).with_card(&paid)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        spend(&gateway, &client, 4).await;
    }

    // In the last hour the answer says when, and not too late.
    pass(&world, DAY - 1_000).await;
    let left = wait(&gateway.pay("/api/report", &second).await);
    assert!(left < LONGEST, "{left}");
    pass(&world, left - 30).await;
    assert!(wait(&gateway.pay("/api/report", &second).await) <= 31);
    pass(&world, 31).await;
    let answer = gateway.pay("/api/report", &second).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_wallet_tries_one_card_more_and_no_second_one() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let (client, _) = spent_client(&gateway).await;
    let before = charge_attempts(&world).await;
    let thief = Thief::at(&gateway);
    let mut answers = Vec::new();
    for number in 0..8 {
        answers.push(thief.try_card(number, None, Some(&client)).await.code());
    }
    // It has paid with a card today, so the third stolen one is the one more.
    let declined = answers.iter().filter(|code| *code == "card_declined").count();
    assert_eq!(declined, 3, "{answers:?}");
    assert!(answers[3..].iter().all(|code| code == "too_many_attempts"), "{answers:?}");
    assert_eq!(charge_attempts(&world).await - before, 3);
    // Over two days, with as many tries as it is given: four a day.
    for _ in 0..12 {
        pass(&world, 4 * 3_600).await;
        for number in 0..5 {
            thief.try_card(number, None, Some(&client)).await;
        }
    }
    let most = "SELECT MAX(n) FROM (SELECT COUNT(*) AS n FROM top_ups AS a JOIN top_ups AS b \
                ON b.created_at >= a.created_at AND b.created_at < a.created_at + 86400000000 \
                WHERE a.failure = 'card_declined' AND b.failure = 'card_declined' GROUP BY a.id) AS each";
    assert!(
        (3..=4).contains(&number(&world.database, most).await),
        "{}",
        number(&world.database, most).await
    );
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_network_is_told_what_helps_and_when() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let thief = Thief::at(&gateway);
    // Five attempts, three of them declined cards: the day is longer than the hour.
    for n in 0..2 {
        let answer = gateway.pay("/api/weather", &Pay::card(&format!("pm_1NoSuchToken00000000000{n}"))).await;
        assert_eq!(answer.code(), "invalid_payment", "{}", answer.text());
    }
    for number in 0..3 {
        assert_eq!(thief.try_card(number, None, None).await.code(), "card_declined");
    }
    let refused = gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD_CARDS[5]).await)).await;
    assert!(
        wait(&refused) == LONGEST,
        "after an hour it would be told to wait for a day: {}",
        refused.text()
    );
    assert!(message(&refused).contains("network"), "{}", refused.text());
    assert!(message(&refused).contains("If you were given a clientId, send it"), "{}", refused.text());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_presents_a_refused_card_is_told_what_helps() {
    let world = world(BEHIND_A_PROXY).await;
    let gateway = world.gateway().await;
    let (client, _) = spent_client(&gateway).await;
    let thief = Thief::at(&gateway);
    for n in 0..4 {
        assert_eq!(thief.try_card(0, Some(&address(n)), None).await.code(), "card_declined");
    }
    let of_new = thief.try_card(0, Some(&address(5)), None).await;
    let of_client = thief.try_card(0, Some(&address(6)), Some(&client)).await;
    for refused in [&of_new, &of_client] {
        assert_eq!(wait(refused), LONGEST, "{}", refused.text());
        assert!(message(refused).contains("another card"), "{}", refused.text());
    }
    assert!(message(&of_new).contains("clientId"), "it may have paid for a wallet: {}", of_new.text());
    assert!(!message(&of_client).contains("clientId"), "{}", of_client.text());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_charged_often_is_told_to_send_the_client_id() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let (client, token) = spent_client(&gateway).await;
    let both = Pay::client(&client).with_card(&token);
    for _ in 0..3 {
        assert_eq!(gateway.pay("/api/report", &both).await.status, 200);
        spend(&gateway, &client, 4).await;
    }
    // Of four charges one is nearly a day old; three are younger.
    let sql =
        "UPDATE top_ups SET created_at = created_at - 82800000000 WHERE id = (SELECT MIN(id) FROM top_ups)";
    change(&world.database, sql, &[]).await;
    let refused = gateway.pay("/api/report", &Pay::card(&token)).await;
    assert_eq!(wait(&refused), LONGEST, "{}", refused.text());
    assert!(message(&refused).contains("Send the wallet's clientId"), "{}", refused.text());
    assert_eq!(gateway.pay("/api/report", &both).await.status, 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

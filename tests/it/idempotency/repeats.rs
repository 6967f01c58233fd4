//! A repeated request: the same answer for nothing, at any time and to nobody else.

use super::*;
use crate::support::dice::Dice;
use crate::support::raw::{Raw, header_of, status_of};
use crate::support::{GOOD, GOOD_CARDS};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_post_gets_the_same_answer_and_is_charged_once() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    for (n, path) in
        ["/up/x?a=1&b=2", "/up/headers", "/up/status/201", "/up/status/204", "/up/status/206", "/up/bytes/0"]
            .into_iter()
            .enumerate()
    {
        let (n, key) = (i64::try_from(n).unwrap(), format!("same {n}").replace(' ', "-"));
        let ask = Ask::post(path, &Pay::client(&client), &key);
        let first = ask.at(&gateway).await;
        assert!(first.status < 400, "{path}: {}", first.text());
        assert_eq!(first.header("idempotent-replayed"), None);
        assert_eq!(first.receipt().idempotent_replay, None);
        let left = PACK - (n + 1) * PRICE;
        assert_eq!(first.receipt().credits_remaining.unwrap(), left);
        for _ in 0..3 {
            let again = ask.at(&gateway).await;
            replayed(&again, &first);
            assert_eq!(again.receipt().credits_remaining.unwrap(), left);
        }
        assert_eq!(hits(&world, &key), 1, "{path}: done once; the key is passed on to the API");
        assert_eq!(captures(&world).await, n + 1);
        assert_eq!(gateway.balance(&client).await, left);
    }
    closed(gateway).await;
}

/// Where a redirect is what is sold.
const CHARGES_REDIRECTS: &str = "\n[[routes]]\nmethods = [\"GET\", \"POST\"]\npath = \"/up/status/{status}\"\n\
                                 price = \"0.05\"\ncharged_statuses = [\"2xx\", \"3xx\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_kept_where_it_is_charged_and_frees_its_key_where_it_is_not() {
    let mut world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let asks = [
        Ask::post("/up/status/303", &Pay::client(&client), "moved"),
        Ask::get("/up/status/301", &Pay::client(&client), "moved"),
    ];
    for ask in &asks {
        let before = hits(&world, "moved");
        for n in 1..=2 {
            let answer = ask.at(&gateway).await;
            let note = answer.receipt();
            assert_eq!(answer.text(), format!("{{\"status\":{}}}", answer.status));
            assert_eq!((note.success, note.error_code.as_deref()), (false, Some("not_charged")));
            assert_eq!((note.idempotent_replay, note.credits_remaining.unwrap()), (None, PACK));
            assert_eq!((hits(&world, "moved"), remembered(&world).await), (before + n, 0));
        }
    }
    closed(gateway).await;
    world.routes.push_str(CHARGES_REDIRECTS);
    let gateway = world.gateway().await;
    for ask in &asks {
        let before = hits(&world, "moved");
        let first = ask.at(&gateway).await;
        assert_eq!(first.receipt().credits_charged, Some(PRICE));
        for _ in 0..2 {
            replayed(&ask.at(&gateway).await, &first);
        }
        assert_eq!(hits(&world, "moved"), before + 1);
    }
    assert_eq!(gateway.balance(&client).await, PACK - 2 * PRICE);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_head_put_and_delete_are_repeated_in_the_same_way() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    for (n, method) in ["GET", "HEAD", "PUT", "DELETE"].into_iter().enumerate() {
        // One key for all: the method tells them apart.
        let ask = Ask::new(method, "/up/status/200", &Pay::client(&client), "one");
        let first = ask.at(&gateway).await;
        served(&first);
        assert_eq!(hits(&world, "one"), n + 1);
        let again = ask.at(&gateway).await;
        replayed(&again, &first);
        assert_eq!(again.header("content-length"), first.header("content-length"), "{method}");
        assert_eq!(hits(&world, "one"), n + 1);
        assert_eq!(captures(&world).await, i64::try_from(n).unwrap() + 1);
    }
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_head_and_a_replayed_204_leave_the_connection_usable() {
    let world = World::with("", &format!("{}{CHARGES_REDIRECTS}", crate::support::ROUTES)).await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let mut raw = Raw::connect(&gateway.url).await;
    for _ in 0..2 {
        for (method, path, status) in
            [("HEAD", "/up/status/200", 200), ("POST", "/up/status/204", 204), ("GET", "/up/status/304", 304)]
        {
            raw.send(Ask::new(method, path, &Pay::client(&client), "raw").bytes()).await;
            let head = raw.head().await;
            assert_eq!(status_of(&head), status, "{method} {path}: {head}");
            if status == 204 {
                assert_eq!(header_of(&head, "content-length"), None, "{head}");
                assert_eq!(header_of(&head, "transfer-encoding"), None, "{head}");
            }
        }
    }
    assert!(raw.buffer.is_empty(), "{}", raw.text());
    drop(raw);
    assert_eq!((captures(&world).await, hits(&world, "raw")), (3, 3));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_at_once_one_is_charged_and_the_others_wait_or_get_its_answer() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/wait", &Pay::client(&client), "ten");
    let first = ask.sent(&gateway);
    seen_by_the_api(&world, "ten", 1).await;
    for other in (0..9).map(|_| ask.sent(&gateway)).collect::<Vec<_>>() {
        let answer = other.await.unwrap().unwrap();
        refused(&answer, 409, "idempotency_in_flight");
        assert!(answer.json()["retryable"].as_bool().unwrap(), "it will get the answer");
    }
    world.upstream.release(1);
    let first = first.await.unwrap().unwrap();
    served(&first);
    for again in (0..10).map(|_| ask.sent(&gateway)).collect::<Vec<_>>() {
        replayed(&again.await.unwrap().unwrap(), &first);
    }
    assert_eq!((hits(&world, "ten"), captures(&world).await), (1, 1));
    assert_eq!(gateway.balance(&client).await, PACK - PRICE);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_times_ten_at_random_moments_are_twenty_charges() {
    let mut dice = Dice::printed("ten with one key");
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    for round in 1..=20 {
        let key = format!("round-{round}");
        let method = *dice.pick(&["POST", "GET"]);
        let ask = Ask::new(method, "/up/x", &Pay::client(&client), &key);
        let asked: Vec<_> = (0..10)
            .map(|_| {
                let (ask, client, url, delay) =
                    (ask.clone(), world.client.clone(), gateway.url.clone(), dice.micros(12_000));
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await; // the random moment
                    ask.try_at(&client, &url).await.unwrap()
                })
            })
            .collect();
        let (mut firsts, mut others) = (Vec::new(), Vec::new());
        for answer in asked {
            let answer = answer.await.unwrap();
            if answer.status == 200 && answer.header("idempotent-replayed").is_none() {
                firsts.push(answer);
            } else {
                others.push(answer);
            }
        }
        assert_eq!((firsts.len(), others.len()), (1, 9), "round {round}");
        served(&firsts[0]);
        for other in others {
            match other.status {
                200 => replayed(&other, &firsts[0]),
                _ => refused(&other, 409, "idempotency_in_flight"),
            }
        }
        for _ in 0..3 {
            replayed(&ask.at(&gateway).await, &firsts[0]);
        }
        assert_eq!((hits(&world, &key), captures(&world).await), (1, round));
        assert_eq!(gateway.balance(&client).await, PACK - round * PRICE);
    }
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_first_payments_with_one_fresh_card_and_one_key_are_one_charge_of_each_kind() {
    let mut dice = Dice::printed("ten first payments");
    let world = World::new().await;
    let gateway = world.gateway().await;
    for round in 1..=8 {
        let plastic = *dice.pick(&GOOD_CARDS);
        let (card, key) = (world.tokenise(plastic).await, format!("first-{round}"));
        let ask = Ask::post("/up/x", &Pay::card(&card), &key);
        let asked: Vec<_> = (0..10).map(|_| ask.sent(&gateway)).collect();
        for answer in asked {
            let answer = answer.await.unwrap().unwrap();
            assert!([200, 409].contains(&answer.status), "{}", answer.text());
            if answer.status == 409 {
                let code = answer.code();
                assert!(["idempotency_in_flight", "topup_in_progress"].contains(&code.as_str()), "{code}");
            }
        }
        let again = ask.at(&gateway).await;
        assert_eq!(
            (again.status, again.header("idempotent-replayed")),
            (200, Some("true")),
            "{}",
            again.text()
        );
        assert_eq!(hits(&world, &key), 1);
        assert_eq!(world.succeeded_charges().await.len(), round);
        assert_eq!(captures(&world).await, i64::try_from(round).unwrap());
        assert_eq!(gateway.balance(&again.receipt().client_id).await, PACK - PRICE);
    }
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_request_under_the_same_key_is_refused_and_does_nothing() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    for (n, ask) in [
        Ask::post("/up/x?a=1", &Pay::client(&client), "changed"),
        Ask::get("/up/x?a=1", &Pay::client(&client), "changed"),
    ]
    .into_iter()
    .enumerate()
    {
        let first = ask.at(&gateway).await;
        served(&first);
        for other in [
            ask.clone().to("/up/x?a=2"),
            ask.clone().to("/up/x"),
            ask.clone().to("/up/x?"),
            ask.clone().to("/up/x?a=1&"),
            ask.clone().body("{\"n\":2}"),
            ask.clone().body("{\"n\":1} "),
        ] {
            let answer = other.at(&gateway).await;
            refused(&answer, 422, "idempotency_mismatch");
            assert!(!answer.json()["retryable"].as_bool().unwrap());
        }
        if ask.method == "POST" {
            refused(&ask.clone().body("").at(&gateway).await, 422, "idempotency_mismatch");
        }
        replayed(&ask.at(&gateway).await, &first);
        assert_eq!(hits(&world, "changed"), n + 1);
        assert_eq!(captures(&world).await, i64::try_from(n).unwrap() + 1);
    }
    // Query and body cannot be shifted into each other.
    let ask = Ask::post("/up/y?ab", &Pay::client(&client), "shifted").body("c");
    served(&ask.at(&gateway).await);
    refused(&ask.clone().to("/up/y?a").body("bc").at(&gateway).await, 422, "idempotency_mismatch");
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_request_is_refused_while_the_first_still_runs() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/wait", &Pay::client(&client), "running");
    let first = ask.sent(&gateway);
    seen_by_the_api(&world, "running", 1).await;
    let answer = ask.clone().body("other").at(&gateway).await;
    assert!([409, 422].contains(&answer.status), "{}", answer.text());
    world.upstream.release(1);
    let first = first.await.unwrap().unwrap();
    served(&first);
    replayed(&ask.at(&gateway).await, &first);
    assert_eq!((hits(&world, "running"), captures(&world).await), (1, 1));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_method_path_payer_or_key_is_another_request() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (one, other) = (wallet(&gateway).await, wallet(&gateway).await);
    let ask = Ask::post("/up/x", &Pay::client(&one), "k");
    let mut answers = Vec::new();
    for ask in [
        ask.clone(),
        ask.clone().key("K"),
        ask.clone().key("k2"),
        ask.clone().to("/up/x/y"),
        ask.clone().to("/up/X"),
        ask.clone().by(&Pay::client(&other)),
        Ask::get("/up/x", &Pay::client(&one), "k"),
        Ask::new("PUT", "/up/x", &Pay::client(&one), "k").body("{\"n\":1}"),
        Ask::post("/up/x", &Pay::card(&world.tokenise(GOOD).await), "k"),
        Ask::post("/up/x", &Pay::card(&world.tokenise(GOOD).await), "k"),
    ] {
        let answer = ask.at(&gateway).await;
        served(&answer);
        answers.push((ask, answer));
        assert_eq!(captures(&world).await, i64::try_from(answers.len()).unwrap());
        assert_eq!(world.upstream.hits(), answers.len());
    }
    // And each is repeated by itself.
    for (ask, answer) in &answers {
        replayed(&ask.at(&gateway).await, answer);
    }
    assert_eq!(world.upstream.hits(), answers.len());
    // Somebody else who knows the key sees nothing of the answer.
    let stranger = wallet(&gateway).await;
    let theirs = ask.clone().by(&Pay::client(&stranger)).at(&gateway).await;
    served(&theirs);
    for (_, answer) in &answers {
        assert_ne!(theirs.body, answer.body);
    }
    for nobody in [Pay::client("pck_nobody"), Pay::card("pm_1NobodyKnowsThis")] {
        let answer = ask.clone().by(&nobody).at(&gateway).await;
        assert_eq!(answer.status, 402, "{}", answer.text());
    }
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_spellings_of_a_path_are_charged_at_most_once_together() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/thing", &Pay::client(&client), "spelt");
    served(&ask.at(&gateway).await);
    for spelling in ["/up/%74hing", "/up/./thing", "/up//thing", "/up/a/../thing"] {
        let answer = ask.clone().to(spelling).at(&gateway).await;
        let is_new = answer.status == 200 && answer.header("idempotent-replayed").is_none();
        let is_same_at_the_api = world.upstream.seen().last().unwrap().target == "/up/thing";
        assert!(!is_new || !is_same_at_the_api, "{spelling} was done a second time");
    }
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_payment_whose_caller_hung_up_is_answered_when_it_is_repeated() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let ask = Ask::post("/up/wait", &Pay::card(&card), "lost");
    let mut caller = Raw::connect(&gateway.url).await;
    caller.send(ask.bytes()).await;
    seen_by_the_api(&world, "lost", 1).await;
    refused(&ask.at(&gateway).await, 409, "idempotency_in_flight");
    drop(caller);
    world.upstream.release(1);
    eventually("the answer is kept", async || captures(&world).await == 1).await;
    let again = ask.at(&gateway).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{}", again.text());
    let client = again.receipt().client_id;
    assert!(!client.is_empty());
    let third = ask.at(&gateway).await;
    assert_eq!((third.receipt().client_id, &third.body), (client.clone(), &again.body));
    // The wallet that it led to repeats the same request.
    let by_client = ask.clone().by(&Pay::client(&client)).at(&gateway).await;
    assert_eq!((by_client.status, &by_client.body), (200, &again.body));
    assert_eq!(by_client.header("idempotent-replayed"), Some("true"));
    refused(
        &ask.clone().by(&Pay::client(&client)).body("other").at(&gateway).await,
        422,
        "idempotency_mismatch",
    );
    assert_eq!(world.succeeded_charges().await.len(), 1);
    assert_eq!((captures(&world).await, hits(&world, "lost")), (1, 1));
    assert_eq!(gateway.balance(&client).await, PACK - PRICE);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_id_is_the_payer_whatever_is_presented_beside_it() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let ask = Ask::post("/up/x", &Pay::card(&card), "k");
    let first = ask.at(&gateway).await;
    served(&first);
    let client = first.receipt().client_id;
    for pay in [Pay::client(&client), Pay::client(&client).with_card(&card), Pay::client(&client).max(PRICE)]
    {
        replayed(&ask.clone().by(&pay).at(&gateway).await, &first);
    }
    // A wallet's own requests, repeated with the card beside it.
    let ask = Ask::post("/up/y", &Pay::client(&client), "k");
    let first = ask.at(&gateway).await;
    served(&first);
    replayed(&ask.clone().by(&Pay::client(&client).with_card(&card)).at(&gateway).await, &first);
    assert_eq!((captures(&world).await, world.succeeded_charges().await.len()), (2, 1));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_needs_no_credit() {
    let world = World::with("", &format!("{}{}", crate::support::ROUTES, holds::DEAR)).await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/dear", &Pay::client(&client), "last");
    let first = ask.at(&gateway).await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(gateway.balance(&client).await, 0);
    replayed(&ask.at(&gateway).await, &first);
    // Nor is a card charged for it.
    let card = world.tokenise(GOOD).await;
    replayed(&ask.by(&Pay::client(&client).with_card(&card)).at(&gateway).await, &first);
    assert_eq!(world.succeeded_charges().await.len(), 1);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_answers_expire() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let day = "SELECT CAST((MAX(expires_at) - MAX(created_at)) / 1000000 AS BIGINT) FROM idempotency_keys";
    for (n, ask) in [
        Ask::post("/up/x", &Pay::client(&client), "old"),
        Ask::get("/up/x", &Pay::client(&client), "old"),
        Ask::post("/up/bytes/70000", &Pay::client(&client), "old"),
    ]
    .into_iter()
    .enumerate()
    {
        let first = ask.at(&gateway).await;
        served(&first);
        assert_eq!(number(&world.database, day).await, 24 * 3600);
        expire(&world).await;
        let second = ask.at(&gateway).await;
        served(&second);
        if n < 2 {
            assert_ne!(second.body, first.body, "asked anew");
            replayed(&ask.at(&gateway).await, &second);
        }
        assert_eq!(hits(&world, "old"), 2 * (n + 1));
        assert_eq!(captures(&world).await, 2 * (i64::try_from(n).unwrap() + 1));
        // A changed request is a new one, too.
        expire(&world).await;
    }
    served(&Ask::post("/up/x?other", &Pay::client(&client), "old").at(&gateway).await);
    expire(&world).await;
    eventually("the worker removes what is expired", async || remembered(&world).await == 0).await;
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_remembered_over_a_restart() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let asks = [
        Ask::post("/up/headers", &Pay::client(&client), "kept"),
        Ask::get("/up/x", &Pay::client(&client), "kept"),
        Ask::post("/up/y", &Pay::card(&world.tokenise(GOOD).await), "kept"),
    ];
    let mut firsts = Vec::new();
    for ask in &asks {
        firsts.push(ask.at(&gateway).await);
    }
    // One that is running when the stop begins.
    let slow = Ask::post("/up/wait", &Pay::client(&client), "slow");
    let answer = slow.sent(&gateway);
    seen_by_the_api(&world, "slow", 1).await;
    world.upstream.release(1);
    closed(gateway).await;
    let slow_first = answer.await.unwrap().unwrap();
    let gateway = world.gateway().await;
    for (ask, first) in asks.iter().zip(&firsts) {
        replayed(&ask.at(&gateway).await, first);
    }
    replayed(&slow.at(&gateway).await, &slow_first);
    assert_eq!(standing(&world).await, 4);
    assert_eq!(gateway.balance(&client).await, PACK - 3 * PRICE);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_and_the_client_it_leads_to_are_one_payer_while_the_request_runs_too() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let client = gateway.pay("/up/x", &Pay::card(&card)).await.receipt().client_id;
    for (n, first, other) in
        [(1, Pay::card(&card), Pay::client(&client)), (2, Pay::client(&client), Pay::card(&card))]
    {
        let key = format!("both-{n}");
        let ask = Ask::post("/up/wait", &first, &key);
        let asked = ask.sent(&gateway);
        seen_by_the_api(&world, &key, 1).await;
        let by_other = ask.clone().by(&other);
        refused(&by_other.at(&gateway).await, 409, "idempotency_in_flight");
        world.upstream.release(1);
        let answer = asked.await.unwrap().unwrap();
        served(&answer);
        replayed(&by_other.at(&gateway).await, &answer);
    }
    for round in 0..10 {
        let key = format!("race-{round}");
        let asked: Vec<_> = [Pay::card(&card), Pay::client(&client), Pay::card(&card), Pay::client(&client)]
            .iter()
            .map(|pay| Ask::post("/up/x", pay, &key).sent(&gateway))
            .collect();
        for answer in asked {
            let answer = answer.await.unwrap().unwrap();
            assert!([200, 409].contains(&answer.status), "{}", answer.text());
        }
        assert_eq!(hits(&world, &key), 1, "round {round}");
    }
    assert_eq!(gateway.balance(&client).await, PACK - 13 * PRICE);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_does_not_expire_while_its_request_runs() {
    let slow = "\n[[routes]]\nmethods = [\"POST\"]\npath = \"/up/wait\"\nprice = \"0.05\"\nresponse_timeout = \"120s\"\n";
    let world = World::with("", &format!("{}{slow}", crate::support::ROUTES)).await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/wait", &Pay::client(&client), "long");
    let asked = ask.sent(&gateway);
    seen_by_the_api(&world, "long", 1).await;
    // Others, which the worker removes: then it has been there.
    served(&Ask::post("/up/x", &Pay::client(&client), "short").at(&gateway).await);
    expire(&world).await;
    refused(&ask.at(&gateway).await, 409, "idempotency_in_flight");
    eventually("the worker removes what is expired", async || remembered(&world).await == 1).await;
    refused(&ask.at(&gateway).await, 409, "idempotency_in_flight");
    world.upstream.release(2);
    let first = asked.await.unwrap().unwrap();
    served(&first);
    assert_eq!((hits(&world, "long"), captures(&world).await), (1, 2));
    // Now it has.
    served(&ask.at(&gateway).await);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_paid_is_repeated_after_a_rise_of_the_price() {
    let mut world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/x", &Pay::client(&client).max(PRICE), "k");
    let first = ask.at(&gateway).await;
    served(&first);
    closed(gateway).await;
    world.routes = "[[routes]]\nmethods = [\"POST\"]\npath = \"/up/*\"\nprice = \"0.06\"\n".into();
    let gateway = world.gateway().await;
    replayed(&ask.at(&gateway).await, &first);
    let answer = ask.clone().key("new").at(&gateway).await;
    assert_eq!((answer.status, answer.code().as_str()), (402, "price_above_max"));
    let answer = ask.clone().without_key().at(&gateway).await;
    assert_eq!((answer.status, answer.code().as_str()), (402, "price_above_max"));
    assert_eq!((hits(&world, "k"), gateway.balance(&client).await), (1, PACK - PRICE));
    closed(gateway).await;
}

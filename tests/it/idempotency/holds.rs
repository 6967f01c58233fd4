//! Several nodes: what an unsafe method costs is held in the database before the API is called.

use super::*;
use crate::support::dice::Dice;
use crate::support::postgres;
use crate::support::process::Seat;
use crate::support::raw::Raw;
use crate::support::{GOOD, ROUTES, change};

/// Routes that cost a whole pack.
pub(super) const DEAR: &str = r#"
[[routes]]
methods = ["GET", "POST", "PUT", "DELETE"]
path = "/up/dear"
price = "5.00"

[[routes]]
methods = ["GET", "POST", "PUT", "DELETE"]
path = "/up/wait/dear"
price = "5.00"
"#;

/// These are about PostgreSQL, on which this module is run again.
pub(super) fn has_one_node_only() -> bool {
    postgres::server().is_none()
}

async fn dear_world() -> World {
    World::with("", &format!("{ROUTES}{DEAR}")).await
}

async fn holds(world: &World) -> i64 {
    number(&world.database, "SELECT COUNT(*) FROM holds").await
}

fn cannot_pay_now(answer: &Answer) {
    let code = answer.code();
    let pair = (answer.status, code.as_str());
    let honest = [(402, "insufficient_credits"), (429, "reservations_in_flight")].contains(&pair);
    assert!(honest, "{pair:?}: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_works_nobody_else_can_spend_the_same_credit() {
    if has_one_node_only() {
        return;
    }
    let world = dear_world().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    for keyed in [true, false] {
        let client = wallet(&here).await;
        let ask = Ask::post("/up/wait/dear", &Pay::client(&client), "held");
        let ask = if keyed { ask } else { ask.without_key() };
        let hits = world.upstream.hits();
        let asked = ask.sent(&here);
        eventually("the API works", async || world.upstream.hits() == hits + 1).await;
        assert_eq!(holds(&world).await, 1);
        assert_eq!(
            number(&world.database, "SELECT CAST(SUM(amount) AS BIGINT) FROM holds").await,
            PACK * 100,
            "five dollars in micros"
        );
        for gateway in [&here, &there] {
            assert_eq!(gateway.balance(&client).await, 0, "it is not there to be spent");
            for method in ["POST", "GET", "DELETE"] {
                let other = Ask::new(method, "/up/dear", &Pay::client(&client), "other").at(gateway).await;
                cannot_pay_now(&other);
                // Less than everything is too much, too.
                let other = Ask::new(method, "/up/x", &Pay::client(&client), "other").at(gateway).await;
                cannot_pay_now(&other);
            }
        }
        assert_eq!(world.upstream.hits(), hits + 1);
        world.upstream.release(1);
        let answer = asked.await.unwrap().unwrap();
        assert_eq!(
            (answer.status, answer.receipt().credits_remaining.unwrap()),
            (200, 0),
            "{}",
            answer.text()
        );
        assert_eq!(holds(&world).await, 0, "settled");
        assert_eq!(there.balance(&client).await, 0);
    }
    there.stop().await;
    closed(here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_api_fails_the_credit_is_back_at_once() {
    if has_one_node_only() {
        return;
    }
    let routes = format!(
        "{ROUTES}\n[[routes]]\nmethods = [\"POST\"]\npath = \"/up/status/500\"\nprice = \"5.00\"\n\
                          [[routes]]\nmethods = [\"POST\"]\npath = \"/up/refuse\"\nprice = \"5.00\"\n\
                          [[routes]]\nmethods = [\"POST\"]\npath = \"/up/cut/9\"\nprice = \"5.00\"\n"
    );
    let world = World::with("", &routes).await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let client = wallet(&here).await;
    for path in ["/up/status/500", "/up/refuse"] {
        for keyed in [true, false] {
            for n in 0..3 {
                // A key of its own: the API may have worked before it hung up, so that one is not free again.
                let ask = Ask::post(path, &Pay::client(&client), &format!("fails-{n}"));
                let ask = if keyed { ask } else { ask.without_key() };
                let answer = ask.at(&here).await;
                assert!(answer.status >= 500, "{}", answer.text());
                assert_eq!((holds(&world).await, there.balance(&client).await), (0, PACK), "{path}");
                assert_eq!(answer.receipt().credits_remaining.unwrap(), PACK);
            }
        }
    }
    let cut = Ask::post("/up/cut/9", &Pay::client(&client), "cut");
    assert_eq!(cut.at(&here).await.status, 502);
    assert_eq!((holds(&world).await, there.balance(&client).await), (0, PACK));
    served(&Ask::post("/up/x", &Pay::client(&client), "fails").at(&there).await);
    there.stop().await;
    closed(here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_hanging_up_a_hold_is_settled_or_released() {
    if has_one_node_only() {
        return;
    }
    let mut dice = Dice::printed("hang up with a hold");
    let world = dear_world().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let mut spent = 0;
    for round in 0..20 {
        let client = wallet(&here).await;
        let path = *dice.pick(&["/up/dear", "/up/wait/dear", "/up/status/500"]);
        let ask = Ask::post(path, &Pay::client(&client), "gone");
        let ask = if dice.one_in(2) { ask } else { ask.without_key() };
        let mut caller = Raw::connect(&here.url).await;
        let hits = world.upstream.hits();
        caller.send(ask.bytes()).await;
        if path == "/up/wait/dear" {
            eventually("the API works", async || world.upstream.hits() > hits).await;
            assert_eq!(holds(&world).await, 1);
            drop(caller);
            world.upstream.release(1);
        } else {
            tokio::time::sleep(dice.micros(8_000)).await; // the random moment
            drop(caller);
        }
        // The one pack is spent once: by the POST, if it still came to that, or by somebody who comes after it.
        let rest = Ask::get("/up/dear", &Pay::client(&client), "rest").without_key();
        let last = std::sync::atomic::AtomicU16::new(0);
        eventually(&format!("round {round}, {path}: nothing is set aside for good"), async || {
            let status = rest.at(&there).await.status;
            last.store(status, std::sync::atomic::Ordering::SeqCst);
            status == 200 || (status == 402 && holds(&world).await == 0 && there.balance(&client).await == 0)
        })
        .await;
        assert!(
            last.into_inner() == 200 || path != "/up/status/500",
            "round {round}: what failed was charged"
        );
        assert_eq!(there.balance(&client).await, 0, "round {round}");
        spent += 1;
        assert_eq!(captures(&world).await, spent, "round {round}");
    }
    there.stop().await;
    closed(here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_releases_what_a_killed_one_held() {
    if has_one_node_only() {
        return;
    }
    let mut dice = Dice::printed("killed with a hold");
    let world = dear_world().await;
    let there = world.gateway().await;
    let seat = Seat::new(&world, &mut dice);
    for keyed in [true, false] {
        let here = seat.start().await;
        let client = wallet(&there).await;
        let ask = Ask::post("/up/wait/dear", &Pay::client(&client), "killed");
        let ask = if keyed { ask } else { ask.without_key() };
        let hits = world.upstream.hits();
        let (asking, url, caller) = (ask.clone(), here.url.clone(), world.client.clone());
        let asked = tokio::spawn(async move { asking.try_at(&caller, &url).await });
        eventually("the API works", async || world.upstream.hits() == hits + 1).await;
        assert_eq!(holds(&world).await, 1);
        here.kill().await;
        assert!(asked.await.unwrap().is_err());
        world.upstream.release(1);
        cannot_pay_now(&Ask::post("/up/dear", &Pay::client(&client), "early").at(&there).await);
        let lapse = "UPDATE nodes SET lease_until = 1 WHERE id IN (SELECT node FROM holds)";
        assert_eq!(change(&world.database, lapse, &[]).await, 1);
        eventually("the hold is released", async || holds(&world).await == 0).await;
        assert_eq!(there.balance(&client).await, PACK);
        if keyed {
            refused(&ask.at(&there).await, 409, "idempotency_outcome_unknown");
        }
        let spent = Ask::post("/up/dear", &Pay::client(&client), "later").at(&there).await;
        assert_eq!(spent.status, 200, "{}", spent.text());
    }
    there.stop().await;
    world.assert_books_agree().await;
    assert_eq!(holds(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_race_for_the_last_credit_ask_the_api_only_as_often_as_is_paid() {
    if has_one_node_only() {
        return;
    }
    let mut dice = Dice::printed("last credit");
    let world = dear_world().await;
    let nodes = [world.gateway().await, world.gateway().await, world.gateway().await];
    for round in 0..12 {
        let client = wallet(&nodes[0]).await;
        let hits = world.upstream.hits();
        let keyed = dice.one_in(2);
        let asked: Vec<_> = (0..9)
            .map(|n| {
                let method = *dice.pick(&["POST", "PUT", "DELETE"]);
                let ask = Ask::new(method, "/up/dear", &Pay::client(&client), &format!("race-{round}-{n}"));
                let ask = if keyed { ask } else { ask.without_key() };
                ask.sent(&nodes[n % 3])
            })
            .collect();
        let mut paid = 0;
        for answer in asked {
            let answer = answer.await.unwrap().unwrap();
            if answer.status == 200 {
                paid += 1;
            } else {
                cannot_pay_now(&answer);
            }
        }
        // Others who were refused while it was held may come again.
        assert_eq!(paid, 1, "round {round}");
        assert_eq!(world.upstream.hits() - hits, 1, "round {round}");
        assert_eq!(nodes[1].balance(&client).await, 0);
    }
    let [one, two, three] = nodes;
    two.stop().await;
    three.stop().await;
    closed(one).await;
}

/// What a node remembers of a wallet lets it read for it, and change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_remembers_pays_for_no_unsafe_request() {
    if has_one_node_only() {
        return;
    }
    let world = dear_world().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let client = wallet(&here).await;
    // Both know the key and the balance now.
    let before = here.balance(&client).await;
    assert_eq!(there.balance(&client).await, before);
    assert_eq!(there.pay("/up/dear", &Pay::client(&client)).await.status, 200);
    let hits = world.upstream.hits();
    for method in ["POST", "PUT", "DELETE"] {
        let answer =
            Ask::new(method, "/up/dear", &Pay::client(&client), "unused").without_key().at(&here).await;
        cannot_pay_now(&answer);
    }
    assert_eq!(world.upstream.hits(), hits, "nothing was done that nobody pays for");
    there.stop().await;
    closed(here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_payment_of_an_unsafe_method_holds_its_price_of_the_new_credit() {
    if has_one_node_only() {
        return;
    }
    let world = dear_world().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let card = world.tokenise(GOOD).await;
    let ask = Ask::post("/up/wait/dear", &Pay::card(&card), "new");
    let asked = ask.sent(&here);
    seen_by_the_api(&world, "new", 1).await;
    assert_eq!(holds(&world).await, 1);
    let other = Ask::get("/up/dear", &Pay::card(&card), "other").at(&there).await;
    let code = other.code();
    assert!(other.status != 200 || world.succeeded_charges().await.len() == 2, "{} {code}", other.status);
    world.upstream.release(1);
    assert_eq!(asked.await.unwrap().unwrap().status, 200);
    assert_eq!(hits(&world, "new"), 1);
    there.stop().await;
    closed(here).await;
}

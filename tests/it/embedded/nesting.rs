//! Two prices, one inside the other: refused, because no caller could know what is charged.

use super::*;
use crate::support::log;

#[tokio::test(flavor = "multi_thread")]
async fn a_price_inside_a_price_is_refused_and_nobody_is_charged() {
    log::listen();
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut card_owners = Vec::new();
    for (path, route, prices) in [
        ("/nested/dear/a", "/nested/dear/{thing}", ["0.01", "0.05"]),
        ("/twice", "/twice", ["0.05", "0.01"]),
        ("/same", "/same", ["0.05", "0.05"]),
    ] {
        for method in ["GET", "POST"] {
            // The first to pay finds out; its card may have been charged, and the credit is its own.
            let card = world.tokenise(GOOD).await;
            let first = shop.send(method, path, &Pay::card(&card), None).await;
            assert_eq!((first.status, first.code().as_str()), (500, "nested_prices"), "{}", first.text());
            let note = first.receipt();
            assert!(!note.success && note.charge_id.is_some());
            assert_eq!((note.credits_charged, note.credits_remaining.unwrap()), (Some(0), PACK));
            assert_eq!(first.json()["requestId"].as_str(), first.header("x-request-id"));
            card_owners.push(note.client_id);
            let told = log::lines_with(&format!("{method} {route} "));
            let [line] = told.as_slice() else { panic!("once: {told:?}") };
            for part in ["ERROR", prices[0], prices[1], "Wrap"] {
                assert!(line.contains(part), "{part} in {line}");
            }
            // From then on nobody is even offered it.
            let unpaid = world.client.send(method, &format!("{}{path}", shop.url), &[], None).await;
            assert_eq!((unpaid.status, unpaid.code().as_str()), (500, "nested_prices"));
            for (pay, key) in [
                (Pay::client(&client), None),
                (Pay::client(&client).max(100), None),
                (Pay::client(&client), Some("k")),
                (Pay::client(&client), Some("k")),
                (Pay::card(&world.tokenise(GOOD).await), None),
            ] {
                let answer = shop.send(method, path, &pay, key).await;
                assert_eq!((answer.status, answer.code().as_str()), (500, "nested_prices"), "{path} {key:?}");
            }
            assert_eq!(log::lines_with(&format!("{method} {route} ")).len(), 1);
        }
    }
    assert_eq!((shop.handlers.calls(), captures(&world).await), (0, 0));
    assert_eq!(world.succeeded_charges().await.len(), 1 + card_owners.len());
    // What is beside it in the same scope has one price, and is sold.
    let plain = shop.get("/nested/plain", &Pay::client(&client)).await;
    assert_eq!((plain.status, plain.receipt().credits_charged), (200, Some(100)));
    assert_eq!((shop.balance(&client).await, captures(&world).await), (PACK - 100, 1));
    for owner in card_owners {
        assert_eq!(shop.balance(&owner).await, PACK);
    }
    shop.close().await;
}

/// An application that sells the same thing by two paywalls with books of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_of_another_paywall_is_a_price_too() {
    let (world, other) = (World::new().await, World::new().await);
    let shop = Shop::open(&world).await;
    let second = Embedded::start(settings(&other, "")).await.unwrap();
    let (outer, inner) = (shop.paywall.price("0.02").unwrap(), second.price("0.03").unwrap());
    let server = HttpServer::new(move || {
        let (outer, inner) = (outer.clone(), inner.clone());
        App::new()
            .service(web::resource("/both").wrap(inner).wrap(outer).route(web::get().to(async || "sold")))
    });
    let listener = crate::support::free_listener();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
    let handle = server.handle();
    tokio::spawn(server);
    let client = shop.wallet().await;
    let payment = Pay::client(&client).header();
    for _ in 0..2 {
        let answer =
            world.client.send("GET", &format!("{url}/both"), &[("payment", payment.as_str())], None).await;
        assert_eq!((answer.status, answer.code().as_str()), (500, "nested_prices"), "{}", answer.text());
    }
    assert_eq!((captures(&world).await, captures(&other).await), (0, 0));
    assert_eq!(shop.balance(&client).await, PACK);
    handle.stop(true).await;
    second.stop().await;
    shop.close().await;
}

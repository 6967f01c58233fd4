//! Requests that are not charged, or whose charge is given back: the key is free again where that is safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::support::ROUTES;
use crate::support::raw::{ByHand, Raw, closed_port, scripted};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nfine";
/// Answers of more than so many bytes are not kept.
const SMALL_LIMIT: &str = "[idempotency]\nmax_answer_bytes = 100";

/// An API that answers each path badly at first and well after that, and its count of requests.
async fn recovering(bad: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let url = scripted(
        move |_| {
            if counting.fetch_add(1, Ordering::SeqCst) == 0 { bad.clone() } else { OK.to_vec() }
        },
    )
    .await;
    (url, count)
}

fn long_then_cut() -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(400)).into_bytes()
}

fn long_pieces_then_cut() -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n190\r\n{}\r\n", "x".repeat(400))
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_charged_leaves_its_key_free_unless_it_may_have_been_done() {
    for (what, bad, status) in [
        ("500", b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno".to_vec(), 500),
        ("404", b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno".to_vec(), 404),
        ("closed before answering", Vec::new(), 502),
        ("not HTTP", b"garbage\r\n\r\n".to_vec(), 502),
        ("cut while being read", b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nxx".to_vec(), 502),
        ("cut in pieces", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxx\r\n".to_vec(), 502),
    ] {
        for method in ["POST", "GET"] {
            let (url, count) = recovering(bad.clone()).await;
            let mut world = World::with(SMALL_LIMIT, ROUTES).await;
            world.upstream.url = url;
            let gateway = world.gateway().await;
            let client = wallet(&gateway).await;
            let ask = Ask::new(method, "/up/x", &Pay::client(&client), "k");
            let failed = ask.at(&gateway).await;
            assert_eq!(failed.status, status, "{what}: {}", failed.text());
            let receipt = failed.receipt();
            assert_eq!((receipt.success, receipt.credits_remaining.unwrap()), (false, PACK), "{what}");
            assert_eq!(gateway.balance(&client).await, PACK, "{what}");
            if method == "POST" && status == 502 {
                // The API may have done its work: it is not done again.
                for _ in 0..2 {
                    refused(&ask.at(&gateway).await, 409, "idempotency_outcome_unknown");
                }
                refused(&ask.clone().body("other").at(&gateway).await, 422, "idempotency_mismatch");
                assert_eq!((count.load(Ordering::SeqCst), captures(&world).await), (1, 0), "{what}");
                served(&ask.key("another").at(&gateway).await);
                closed(gateway).await;
                continue;
            }
            let first = ask.at(&gateway).await;
            served(&first);
            replayed(&ask.at(&gateway).await, &first);
            assert_eq!((count.load(Ordering::SeqCst), captures(&world).await), (2, 1), "{what} {method}");
            assert_eq!(gateway.balance(&client).await, PACK - PRICE);
            closed(gateway).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_request_may_follow_one_that_was_not_charged() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/status/500", &Pay::client(&client), "k");
    for body in ["one", "two", "one"] {
        assert_eq!(ask.clone().body(body).at(&gateway).await.status, 500);
    }
    assert_eq!((hits(&world, "k"), remembered(&world).await), (3, 0));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_payment_whose_request_fails_is_not_charged_again_and_leaves_its_key_free() {
    let (url, count) = recovering(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let mut world = World::new().await;
    world.upstream.url = url;
    let gateway = world.gateway().await;
    let card = world.tokenise(crate::support::GOOD).await;
    let ask = Ask::post("/up/x", &Pay::card(&card), "k");
    let failed = ask.at(&gateway).await;
    assert_eq!(failed.status, 500);
    let client = failed.receipt().client_id;
    assert_eq!(gateway.balance(&client).await, PACK);
    let first = ask.at(&gateway).await;
    served(&first);
    replayed(&ask.at(&gateway).await, &first);
    replayed(&ask.clone().by(&Pay::client(&client)).at(&gateway).await, &first);
    assert_eq!((count.load(Ordering::SeqCst), world.succeeded_charges().await.len()), (2, 1));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_leaves_the_key_free_and_a_timeout_only_that_of_what_reads() {
    let mut world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    gateway.stop().await;
    let working = std::mem::replace(&mut world.upstream.url, closed_port());
    let gateway = world.gateway().await;
    let asks = ["POST", "GET"].map(|method| Ask::new(method, "/up/x", &Pay::client(&client), "k"));
    for ask in &asks {
        let answer = ask.at(&gateway).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unreachable"));
    }
    closed(gateway).await;
    let by_hand = ByHand::start().await;
    world.upstream.url.clone_from(&by_hand.url);
    let gateway = world.gateway().await;
    for ask in &asks {
        let asked = ask.sent(&gateway);
        let mut slow = by_hand.accept().await;
        slow.head().await;
        let answer = asked.await.unwrap().unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
    }
    assert_eq!(gateway.balance(&client).await, PACK);
    closed(gateway).await;
    world.upstream.url = working;
    let gateway = world.gateway().await;
    refused(&asks[0].at(&gateway).await, 409, "idempotency_outcome_unknown");
    let first = asks[1].at(&gateway).await;
    served(&first);
    replayed(&asks[1].at(&gateway).await, &first);
    assert_eq!((hits(&world, "k"), captures(&world).await), (1, 1));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_could_not_pay_leaves_its_key_free() {
    let world = World::with("", &format!("{ROUTES}{}", holds::DEAR)).await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    served(&Ask::get("/up/x", &Pay::client(&client), "spend").at(&gateway).await);
    for method in ["POST", "GET"] {
        let ask = Ask::new(method, "/up/dear", &Pay::client(&client), "k");
        for _ in 0..2 {
            let answer = ask.at(&gateway).await;
            assert_eq!((answer.status, answer.code().as_str()), (402, "insufficient_credits"));
            answer.offer();
        }
        let too_dear = ask.clone().by(&Pay::client(&client).max(PRICE)).at(&gateway).await;
        assert_eq!((too_dear.status, too_dear.code().as_str()), (402, "price_above_max"));
        let declined = world.tokenise(crate::support::DECLINED).await;
        let refused = ask.clone().by(&Pay::client(&client).with_card(&declined)).at(&gateway).await;
        assert_eq!((refused.status, refused.code().as_str()), (402, "card_declined"), "{}", refused.text());
        assert_eq!(hits(&world, "k"), 0);
    }
    // The same key pays when the credit is there.
    let card = world.tokenise(crate::support::GOOD).await;
    let ask = Ask::post("/up/dear", &Pay::client(&client).with_card(&card), "k");
    let first = ask.at(&gateway).await;
    assert_eq!((first.status, first.receipt().credits_charged), (200, Some(PACK)), "{}", first.text());
    replayed_after_top_up(&ask.at(&gateway).await, &first);
    assert_eq!((hits(&world, "k"), captures(&world).await), (1, 2));
    assert_eq!(world.succeeded_charges().await.len(), 2);
    closed(gateway).await;
}

fn replayed_after_top_up(again: &Answer, first: &Answer) {
    assert!(first.receipt().charge_id.is_some());
    replayed(again, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_that_breaks_off_is_given_back_and_only_what_reads_is_asked_again() {
    for bad in [long_then_cut(), long_pieces_then_cut()] {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            if method == "HEAD" {
                continue; // has no body that could break off
            }
            let (url, count) = recovering(bad.clone()).await;
            let mut world = World::with(SMALL_LIMIT, ROUTES).await;
            world.upstream.url = url;
            let gateway = world.gateway().await;
            let client = wallet(&gateway).await;
            let ask = Ask::new(method, "/up/x", &Pay::client(&client), "k");
            assert!(ask.try_at(&world.client, &gateway.url).await.is_err(), "it breaks off");
            balance_becomes(&gateway, &client, PACK).await;
            assert_eq!((captures(&world).await, standing(&world).await), (1, 0));
            if method == "GET" {
                let first = ask.at(&gateway).await;
                served(&first);
                replayed(&ask.at(&gateway).await, &first);
                assert_eq!((count.load(Ordering::SeqCst), standing(&world).await), (2, 1));
                assert_eq!(gateway.balance(&client).await, PACK - PRICE);
            } else {
                for _ in 0..2 {
                    let answer = ask.at(&gateway).await;
                    refused(&answer, 409, "idempotency_outcome_unknown");
                    assert!(!answer.json()["retryable"].as_bool().unwrap());
                }
                refused(&ask.clone().body("other").at(&gateway).await, 422, "idempotency_mismatch");
                assert_eq!((count.load(Ordering::SeqCst), standing(&world).await), (1, 0));
                assert_eq!(gateway.balance(&client).await, PACK);
            }
            closed(gateway).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_repeat_that_breaks_off_gives_nothing_back() {
    let mut world = World::with(SMALL_LIMIT, ROUTES).await;
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let url = scripted(move |_| match counting.fetch_add(1, Ordering::SeqCst) {
        0 => format!("HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{}", "x".repeat(400)).into_bytes(),
        1 => long_then_cut(),
        2 => b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno".to_vec(),
        _ => OK.to_vec(),
    })
    .await;
    world.upstream.url = url;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::get("/up/x", &Pay::client(&client), "k");
    served(&ask.at(&gateway).await);
    // Refused until the first answer is known to be delivered; then it is asked for, and breaks off.
    while let Ok(answer) = ask.try_at(&world.client, &gateway.url).await {
        refused(&answer, 409, "idempotency_in_flight");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let failed = ask.at(&gateway).await;
    assert_eq!(failed.status, 500, "{}", failed.text());
    let note = failed.receipt();
    assert!(!note.success, "this answer is none");
    assert_eq!((note.error_code.as_deref(), note.credits_charged), (Some("not_charged"), Some(0)));
    for _ in 0..3 {
        let again = ask.at(&gateway).await;
        assert!([200, 409].contains(&again.status));
        assert_eq!(gateway.balance(&client).await, PACK - PRICE);
    }
    let asked = count.load(Ordering::SeqCst);
    assert!(asked <= 1 + 2 * 3, "within bounds, {asked}");
    assert_eq!((captures(&world).await, standing(&world).await), (1, 1));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_in_a_large_answer_stays_charged_and_may_fetch_it_again() {
    let mut world = World::with(SMALL_LIMIT, ROUTES).await;
    let by_hand = ByHand::start().await;
    let working = std::mem::replace(&mut world.upstream.url, by_hand.url.clone());
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let asks = ["GET", "POST"].map(|method| Ask::new(method, "/up/bytes/400", &Pay::client(&client), "k"));
    for ask in &asks {
        let mut caller = Raw::connect(&gateway.url).await;
        caller.send(ask.bytes()).await;
        let mut serving = by_hand.accept().await;
        serving.head().await;
        serving
            .send(format!("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n{}", "x".repeat(400)))
            .await;
        caller.until("xxxx").await;
        drop(caller);
        // The upstream's connection is given up.
        while tokio::io::AsyncWriteExt::write_all(&mut serving.socket, &[b'x'; 100_000]).await.is_ok() {}
    }
    assert_eq!(gateway.balance(&client).await, PACK - 2 * PRICE);
    closed(gateway).await;
    world.upstream.url = working;
    let gateway = world.gateway().await;
    assert_eq!(asks[0].decided_at(&gateway).await.body.len(), 400);
    refused(&asks[1].decided_at(&gateway).await, 409, "idempotency_answer_lost");
    assert_eq!(gateway.balance(&client).await, PACK - 2 * PRICE);
    assert_eq!(hits(&world, "k"), 1);
    closed(gateway).await;
}

//! Bodies in both directions: piece by piece, any size, bounded.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::payer;
use crate::support::raw::{ByHand, Raw, eventually, header_of, status_of};
use crate::support::{ROUTES, World};

const MIB: usize = 1024 * 1024;
const LARGE: usize = 64 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn pieces_arrive_one_by_one() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!("GET /up/stream/5 HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n\r\n")).await;
    // The head comes although no piece has been made yet.
    let head = raw.head().await;
    assert_eq!(header_of(&head, "content-type"), Some("text/event-stream"), "{head}");
    for piece in 0..5 {
        assert!(!raw.text().contains(&format!("data: {piece}")), "before it was made?");
        world.upstream.release(1);
        // The next piece is not made before this one has been read: buffering would hang here.
        raw.until(&format!("data: {piece}\n\n")).await;
    }
    raw.until("0\r\n\r\n").await;
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_begins_before_it_ends_and_waits_for_a_slow_reader() {
    let mut world = World::new().await;
    let upstream = ByHand::start().await;
    world.upstream.url.clone_from(&upstream.url);
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let mut caller = Raw::connect(&gateway.url).await;
    caller.send(format!("GET /up/x HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n\r\n")).await;
    let mut serving = upstream.accept().await;
    serving.head().await;
    serving.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\nfirst")).await;
    let head = caller.head().await;
    assert_eq!(header_of(&head, "content-length"), Some(LARGE.to_string().as_str()));
    caller.until("first").await;

    // Nobody reads now: the upstream must be made to wait, because nothing in between keeps 64 MiB.
    let block = vec![b'y'; MIB];
    let mut written = 5;
    let mut stuck = None;
    while stuck.is_none() {
        assert!(written < LARGE / 2, "{written} bytes were taken although the caller read none of them");
        let mut sent = 0;
        while sent < MIB {
            match tokio::time::timeout(Duration::from_secs(1), serving.socket.write(&block[sent..])).await {
                Ok(n) => sent += n.unwrap(),
                Err(_) => {
                    stuck = Some(());
                    break;
                }
            }
        }
        written += sent;
    }
    let rest = tokio::spawn(async move {
        while written < LARGE {
            let n = MIB.min(LARGE - written);
            serving.socket.write_all(&block[..n]).await.unwrap();
            written += n;
        }
        serving
    });
    let mut received = caller.buffer.len();
    let mut piece = vec![0; MIB];
    while received < LARGE {
        let n = caller.socket.read(&mut piece).await.unwrap();
        assert!(n > 0, "closed after {received} bytes");
        assert!(piece[..n].iter().all(|byte| *byte == b'y'));
        received += n;
    }
    assert_eq!(received, LARGE);
    rest.await.unwrap();
    assert_eq!(gateway.balance(&client).await, 50_000 - 500);
    drop(caller);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_begins_to_reach_the_upstream_before_it_ends() {
    let routes = format!("{ROUTES}max_body_bytes = {LARGE}\nresponse_timeout = \"60s\"\n");
    for chunked in [false, true] {
        let mut world = World::with("", &routes).await;
        let upstream = ByHand::start().await;
        world.upstream.url.clone_from(&upstream.url);
        let gateway = world.gateway().await;
        let (client, payment) = payer(&world, &gateway).await;
        let mut caller = Raw::connect(&gateway.url).await;
        let framing =
            if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {LARGE}") };
        let first = if chunked { "5\r\nfirst\r\n" } else { "first" };
        caller
            .send(format!("POST /up/x HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{framing}\r\n\r\n{first}"))
            .await;
        let mut serving = upstream.accept().await;
        let head = serving.head().await;
        // Framed by us, once.
        assert_eq!(header_of(&head, "content-length").is_some(), !chunked, "{head}");
        assert_eq!(header_of(&head, "transfer-encoding").is_some(), chunked, "{head}");
        serving.until("first").await;

        // The upstream reads nothing now: the caller must be made to wait.
        let taken = AtomicUsize::new(5);
        let block = vec![b'z'; MIB];
        let chunk = [format!("{MIB:x}\r\n").into_bytes(), block.clone(), b"\r\n".to_vec()].concat();
        let message: &[u8] = if chunked { &chunk } else { &block };
        let mut part = 0;
        loop {
            assert!(taken.load(Ordering::Relaxed) < LARGE / 2, "taken although the upstream read nothing");
            let write = caller.socket.write(&message[part..]);
            match tokio::time::timeout(Duration::from_secs(1), write).await {
                Ok(n) => {
                    let n = n.unwrap();
                    part = (part + n) % message.len();
                    taken.fetch_add(n, Ordering::Relaxed);
                }
                Err(_) => break,
            }
        }
        // Then everything arrives.
        let whole_blocks = (LARGE - 5) / MIB;
        let tail = LARGE - 5 - whole_blocks * MIB;
        let already = taken.load(Ordering::Relaxed) - 5;
        let mut all = message.repeat(whole_blocks);
        if chunked {
            all.extend(format!("{tail:x}\r\n{}\r\n0\r\n\r\n", "z".repeat(tail)).bytes());
        } else {
            all.extend(vec![b'z'; tail]);
        }
        let reader = tokio::spawn(async move {
            let mut seen = serving.buffer.iter().filter(|byte| **byte == b'z').count();
            let mut piece = vec![0; MIB];
            while seen < LARGE - 5 {
                let n = serving.socket.read(&mut piece).await.unwrap();
                assert!(n > 0, "closed after {seen} bytes");
                seen += piece[..n].iter().filter(|byte| **byte == b'z').count();
            }
            serving.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
            serving
        });
        caller.socket.write_all(&all[already..]).await.unwrap();
        let head = caller.head().await;
        assert_eq!(status_of(&head), 200, "{head}");
        caller.until("done").await;
        reader.await.unwrap();
        assert_eq!(gateway.balance(&client).await, 50_000 - 500);
        drop(caller);
        gateway.stop().await;
        world.assert_books_agree().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_reach_the_upstream_intact() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    let body: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for method in ["POST", "PUT", "DELETE"] {
        let url = format!("{}/up/echo?q=a%20b&x=%2F", gateway.url);
        let sent = Some(("application/octet-stream", body.as_slice()));
        let answer = world.client.send(method, &url, &[("payment", &payment)], sent).await;
        assert_eq!(answer.status, 200);
        let seen = world.upstream.seen().pop().unwrap();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, "/up/echo?q=a%20b&x=%2F"));
        assert!(seen.body == body, "{method}");
    }
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!(
        "POST /up/echo HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\ntransfer-encoding: chunked\r\n\r\n"
    ))
    .await;
    for piece in body.chunks(33_333) {
        raw.send(format!("{:x};ext=1\r\n", piece.len())).await;
        raw.send(piece).await;
        raw.send("\r\n").await;
    }
    raw.send("0\r\nx-trailer: 1\r\n\r\n").await;
    assert_eq!(status_of(&raw.head().await), 200);
    let seen = world.upstream.seen().pop().unwrap();
    assert!(seen.body == body, "chunked");
    assert!(!seen.headers.contains_key("x-trailer"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_and_costs_nothing() {
    let world = World::with("", &format!("{ROUTES}max_body_bytes = 1000\n")).await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let url = format!("{}/up/echo", gateway.url);
    let post = async |n: usize| {
        world.client.send("POST", &url, &[("payment", &payment)], Some(("text/plain", &vec![b'x'; n]))).await
    };
    assert_eq!(post(1000).await.status, 200, "exactly the limit");
    let over = post(1001).await;
    assert_eq!((over.status, over.code().as_str()), (413, "body_too_large"));
    assert_eq!(world.upstream.hits(), 1, "refused by its announcement alone");
    // Without a length it shows only on the way.
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    for chunks in [2, 20] {
        let mut raw = Raw::connect(&gateway.url).await;
        let head = "POST /up/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n";
        raw.send(format!("{head}payment: {payment}\r\n\r\n{}0\r\n\r\n", chunk.repeat(chunks))).await;
        assert_eq!(status_of(&raw.head().await), 413);
    }
    assert_eq!(world.upstream.hits(), 1, "the upstream never saw a whole one");
    assert_eq!(gateway.balance(&client).await, 50_000 - 500);
    // Free and unpaid requests are bounded as well.
    let unpaid = world.client.send("POST", &url, &[], Some(("text/plain", &[b'x'; 1001]))).await;
    assert_eq!(unpaid.status, 402);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_caller_cuts_is_never_ended_cleanly_at_the_upstream_and_costs_nothing() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    for (framing, part) in [("content-length: 100", "half"), ("transfer-encoding: chunked", "4\r\nhalf\r\n")]
    {
        let mut raw = Raw::connect(&gateway.url).await;
        raw.send(format!(
            "POST /up/echo HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{framing}\r\n\r\n{part}"
        ))
        .await;
        let _ = raw.socket.shutdown().await;
        drop(raw);
    }
    // Two reservations come and go; the balance never moves.
    eventually("the balance is whole", async || gateway.balance(&client).await == 50_000).await;
    gateway.stop().await;
    assert_eq!(world.upstream.hits(), 0, "no whole request arrived");
    world.assert_books_agree().await;
}

/// Sends four bytes of a body, one each 200 ms: the pace is the subject here, not a wait for something.
async fn slow_upload(url: &str, path: &str, payment: &str) -> String {
    let mut raw = Raw::connect(url).await;
    raw.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\ncontent-length: 4\r\n\r\n"))
        .await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        raw.send("x").await;
    }
    raw.head().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_answer_counts_from_the_end_of_the_upload() {
    let quick = "[[routes]]\nmethods = [\"POST\"]\npath = \"/quick/*\"\nprice = \"0.05\"\nresponse_timeout = \"400ms\"\n";
    let world = World::with("", &format!("{ROUTES}{quick}")).await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    let head = slow_upload(&gateway.url, "/quick/answer", &payment).await;
    assert_eq!(status_of(&head), 200, "{head}");
    gateway.stop().await;
}

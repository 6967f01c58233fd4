//! The upstream fails in every way it can: nobody pays for what was not delivered, everybody is told, and no part is taken for
//! the whole.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::support::http::{Answer, Broken};
use crate::support::raw::{ByHand, Raw, eventually, header_of, patiently, scripted, status_of};
use crate::support::{GOOD, Gateway, Pay, ROUTES, World, log, number};

const PRICE: i64 = 500;
const REVERSALS: &str = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";

/// Several wallets' worth of money without a Stripe call a test: one client.
async fn client_with_credit(world: &World, gateway: &Gateway<'_>) -> (String, i64) {
    let card = world.tokenise(GOOD).await;
    let url = format!("{}/billing/top-ups", gateway.url);
    let body = format!("{{\"paymentMethodId\":\"{card}\"}}");
    let headers = [("idempotency-key", "first")];
    let answer = world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let receipt = answer.receipt();
    (receipt.client_id, receipt.credits_remaining.unwrap())
}

fn says_not_charged(answer: &Answer, client: &str, remaining: i64, code: &str) {
    let note = answer.receipt();
    assert!(!note.success, "{note:?}");
    assert_eq!(note.credits_charged, Some(0));
    assert_eq!(note.credits_remaining.unwrap(), remaining);
    assert_eq!(note.client_id, client);
    assert_eq!(note.error_code.as_deref(), Some(code));
    assert_eq!(note.entry_id, None);
}

async fn try_pay(gateway: &Gateway<'_>, path: &str, client: &str) -> Result<Answer, Broken> {
    let header = Pay::client(client).header();
    let url = format!("{}{path}", gateway.url);
    gateway.world.client.try_send("GET", &url, &[("payment", &header)], None).await
}

async fn balance_returns(gateway: &Gateway<'_>, client: &str, to: i64) {
    eventually("the cut answer is given back", async || gateway.balance(client).await == to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_gives_no_answer_costs_nothing_and_says_so() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, credit) = client_with_credit(&world, &gateway).await;
    for (path, status, code) in
        [("/up/refuse", 502, "upstream_failed"), ("/up/hang", 504, "upstream_timeout")]
    {
        let answer = gateway.pay(path, &Pay::client(&client)).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
        let body = answer.json();
        assert_eq!(body["requestCharged"], false, "{body}");
        assert_eq!(body["creditsRemaining"], credit, "{body}");
        assert_eq!(body["retryable"], true, "{body}");
        says_not_charged(&answer, &client, credit, code);
        assert_eq!(gateway.balance(&client).await, credit);
    }
    gateway.stop().await;
    world.assert_books_agree().await;
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credit_of_a_first_request_survives_every_kind_of_failure() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for path in ["/up/status/500", "/up/status/404", "/up/status/503", "/up/refuse", "/up/hang"] {
        let card = world.tokenise(GOOD).await;
        let answer = gateway.pay(path, &Pay::card(&card)).await;
        let note = answer.receipt();
        assert!(note.charge_id.is_some(), "{path}: this request charged the card");
        assert_eq!((note.success, note.credits_remaining.unwrap()), (false, 50_000), "{path}");
        assert_eq!(gateway.balance(&note.client_id).await, 50_000, "{path}");
        let used = gateway.pay("/api/weather", &Pay::client(&note.client_id)).await;
        assert_eq!(
            used.receipt().credits_remaining.unwrap(),
            50_000 - PRICE,
            "{path}: the clientId is usable"
        );
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_request_whose_answer_is_cut_has_its_client_id_in_the_head_and_its_whole_credit_back() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!("GET /up/cut/10 HTTP/1.1\r\nhost: a\r\npayment: {}\r\n\r\n", Pay::card(&card).header()))
        .await;
    while !raw.text().contains("\r\n\r\n") {
        assert!(raw.more().await);
    }
    let head = raw.text();
    raw.rest().await;
    // Base64 must keep its case.
    let encoded = head.lines().find_map(|line| line.strip_prefix("payment-response: ")).unwrap();
    let note = prepaid402::protocol::stripe402::decode_payment_response(encoded.as_bytes()).unwrap();
    assert!(note.charge_id.is_some());
    balance_returns(&gateway, &note.client_id, 50_000).await;
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&note.client_id)).await.status, 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_2xx_is_charged_and_nothing_else() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, mut left) = client_with_credit(&world, &gateway).await;
    for status in [200, 201, 202, 204, 206, 299] {
        let answer = gateway.pay(&format!("/up/status/{status}"), &Pay::client(&client)).await;
        left -= PRICE;
        assert_eq!(answer.status, status);
        let receipt = answer.receipt();
        assert_eq!((receipt.success, receipt.credits_charged), (true, Some(PRICE)), "{status}");
        assert_eq!(receipt.credits_remaining.unwrap(), left, "{status}");
    }
    for status in [
        300, 301, 302, 303, 304, 307, 308, 399, 400, 401, 402, 403, 404, 409, 429, 499, 500, 502, 503, 504,
        599,
    ] {
        let answer = gateway.pay(&format!("/up/status/{status}"), &Pay::client(&client)).await;
        assert_eq!(answer.status, status);
        let body = if status == 304 { String::new() } else { format!("{{\"status\":{status}}}") };
        assert_eq!(answer.text(), body, "the body passes through");
        assert_eq!(
            answer.header("payment-required"),
            None,
            "{status}: the upstream's 402 is no offer of ours"
        );
        says_not_charged(&answer, &client, left, "not_charged");
        assert_eq!(gateway.balance(&client).await, left, "{status}");
    }
    gateway.stop().await;
    world.assert_books_agree().await;
    let charged = "SELECT COUNT(*) FROM entries WHERE upstream_status NOT BETWEEN 200 AND 299";
    assert_eq!(number(&world.database, charged).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_a_redirect_pays_once_and_the_seller_is_told_once_for_each_route() {
    log::listen();
    let routes = r#"
[[routes]]
path = "/up/status/{moved}"
price = "0.05"
[[routes]]
path = "/up/status/307"
price = "0.02"
charged_statuses = ["2xx", "404"]
[[routes]]
path = "/up/status/308"
price = "0.02"
charged_statuses = ["2xx", "3xx"]
[[routes]]
path = "/free/status/{moved}"
free = true
"#;
    let world = World::with("", &format!("{ROUTES}{routes}")).await;
    let gateway = world.gateway().await;
    let (client, credit) = client_with_credit(&world, &gateway).await;
    // What `curl -L` and every SDK do after a trailing slash.
    for (path, status) in [("/up/status/301", 301), ("/up/there", 200)] {
        assert_eq!(gateway.pay(path, &Pay::client(&client)).await.status, status);
    }
    let mut left = credit - PRICE;
    assert_eq!(gateway.balance(&client).await, left, "one price");
    for status in [301, 302, 304, 307, 307, 404] {
        let path = format!("/up/status/{status}");
        assert_eq!(gateway.pay(&path, &Pay::client(&client)).await.status, status);
        let path = format!("/free/status/{status}");
        assert_eq!(gateway.pay(&path, &Pay::client(&client)).await.status, status);
    }
    assert_eq!(gateway.balance(&client).await, left, "nothing of it is charged");
    let charged = gateway.pay("/up/status/308", &Pay::client(&client)).await;
    left -= 200;
    assert_eq!((charged.status, charged.receipt().credits_remaining.unwrap()), (308, left));
    for (route, status, remedy) in [
        ("GET /up/status/{moved}", 301, r#"charged_statuses = ["2xx", "3xx"]"#),
        ("GET /up/status/307", 307, r#"charged_statuses = ["2xx", "3xx", "404"]"#),
    ] {
        let told = log::lines_with(route);
        let [line] = told.as_slice() else { panic!("once: {told:?}") };
        for part in ["WARN", &status.to_string(), remedy] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    for quiet in ["GET /up/status/308", "/free/status"] {
        assert_eq!(log::lines_with(quiet), [""; 0], "{quiet}");
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_charges_the_answers_it_names() {
    let routes = format!(
        "{ROUTES}\n[[routes]]\npath = \"/up/status/{{n}}\"\nprice = \"0.02\"\ncharged_statuses = [\"2xx\", \"404\"]\n"
    );
    let world = World::with("", &routes).await;
    let gateway = world.gateway().await;
    let (client, mut left) = client_with_credit(&world, &gateway).await;
    for (status, charged) in
        [(200, true), (204, true), (404, true), (302, false), (304, false), (400, false), (500, false)]
    {
        let answer = gateway.pay(&format!("/up/status/{status}"), &Pay::client(&client)).await;
        assert_eq!(answer.status, status);
        if charged {
            left -= 200;
            assert_eq!(answer.receipt().credits_charged, Some(200), "{status}");
            assert_eq!(answer.receipt().credits_remaining.unwrap(), left);
        } else {
            says_not_charged(&answer, &client, left, "not_charged");
        }
    }
    assert_eq!(gateway.balance(&client).await, left);
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// The upstream's whole answer in bytes, and how many of them are the head.
fn wire(kind: &str) -> (&'static str, usize) {
    let text = match kind {
        "length" => "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello, world",
        _ => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello,\r\n6\r\n world\r\n0\r\n\r\n",
    };
    (text, text.find("\r\n\r\n").unwrap() + 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_at_any_byte_is_paid_only_when_whole() {
    let mut world = World::new().await;
    world.upstream.url = scripted(|target| {
        let mut parts = target.trim_start_matches("/up/").split('/');
        let (text, _) = wire(parts.next().unwrap());
        let end: usize = parts.next().unwrap().parse().unwrap();
        text.as_bytes()[..end].to_vec()
    })
    .await;
    let gateway = world.gateway().await;
    let mut cuts = 0;
    for kind in ["length", "chunked"] {
        let (client, credit) = client_with_credit(&world, &gateway).await;
        let (text, head) = wire(kind);
        for cut in 0..text.len() {
            match try_pay(&gateway, &format!("/up/{kind}/{cut}"), &client).await {
                Ok(answer) => {
                    assert!(cut < head, "{kind} cut at {cut} came as a whole: {}", answer.text());
                    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_failed"));
                    says_not_charged(&answer, &client, credit, "upstream_failed");
                }
                Err(Broken) => {
                    assert!(cut >= head, "{kind} cut at {cut}: no answer at all");
                    cuts += 1;
                }
            }
            balance_returns(&gateway, &client, credit).await;
        }
        let whole = try_pay(&gateway, &format!("/up/{kind}/{}", text.len()), &client).await.unwrap();
        assert_eq!(whole.text(), "hello, world");
        assert_eq!(gateway.balance(&client).await, credit - PRICE);
    }
    gateway.stop().await;
    world.assert_books_agree().await;
    assert_eq!(number(&world.database, REVERSALS).await, cuts, "each cut is given back once");
    assert!(cuts > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_or_stalled_body_closes_the_callers_connection_without_an_end() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, credit) = client_with_credit(&world, &gateway).await;
    let header = Pay::client(&client).header();
    for (path, part) in [("/up/cut/1", 1), ("/up/cut/999", 999), ("/up/cut-chunked/77", 77), ("/up/stall", 4)]
    {
        let mut raw = Raw::connect(&gateway.url).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\npayment: {header}\r\n\r\n")).await;
        let head = raw.head().await;
        assert_eq!(status_of(&head), 200, "{path}: {head}");
        let body = raw.rest().await;
        if let Some(length) = header_of(&head, "content-length") {
            assert_eq!(length, "1000");
            assert_eq!(body.len(), part, "{path}: fewer bytes than promised");
        } else {
            assert_eq!(header_of(&head, "transfer-encoding"), Some("chunked"), "{head}");
            assert_eq!(body.matches('x').count(), part);
            assert!(!body.ends_with("0\r\n\r\n"), "{path}: no clean end");
        }
        balance_returns(&gateway, &client, credit).await;
    }
    gateway.stop().await;
    world.assert_books_agree().await;
    assert_eq!(number(&world.database, REVERSALS).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_in_the_middle_stays_charged_and_frees_the_upstream() {
    let mut world = World::new().await;
    let upstream = ByHand::start().await;
    let echo = std::mem::replace(&mut world.upstream.url, upstream.url.clone());
    let gateway = world.gateway().await;
    let (client, credit) = client_with_credit(&world, &gateway).await;
    let mut caller = Raw::connect(&gateway.url).await;
    let header = Pay::client(&client).header();
    caller.send(format!("GET /up/x HTTP/1.1\r\nhost: a\r\npayment: {header}\r\n\r\n")).await;
    let mut serving = upstream.accept().await;
    serving.head().await;
    serving.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    caller.until("first").await;
    drop(caller);
    patiently("the upstream's connection closes", async {
        while serving.socket.write_all(b"4\r\nmore\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(gateway.balance(&client).await, credit - PRICE);
    gateway.stop().await;
    world.assert_books_agree().await;
    assert_eq!(number(&world.database, REVERSALS).await, 0, "the caller's own doing is not given back");
    // And it stays so after a restart: nothing is noted as undelivered.
    world.upstream.url = echo;
    let gateway = world.gateway().await;
    assert_eq!(gateway.balance(&client).await, credit - PRICE);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_before_the_head_pays_exactly_when_the_upstream_answers() {
    let mut world = World::new().await;
    let upstream = ByHand::start().await;
    world.upstream.url.clone_from(&upstream.url);
    let gateway = world.gateway().await;
    let (client, mut left) = client_with_credit(&world, &gateway).await;
    let header = Pay::client(&client).header();
    for (answer, charged) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
        ("HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno", false),
        ("", false),
    ] {
        let mut caller = Raw::connect(&gateway.url).await;
        caller.send(format!("GET /up/x HTTP/1.1\r\nhost: a\r\npayment: {header}\r\n\r\n")).await;
        let mut serving = upstream.accept().await;
        serving.head().await;
        drop(caller);
        serving.send(answer).await;
        drop(serving);
        if charged {
            left -= PRICE;
        }
        balance_returns(&gateway, &client, left).await;
    }
    gateway.stop().await;
    world.assert_books_agree().await;
    let expected = "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%'";
    assert_eq!(number(&world.database, expected).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_costs_what_get_costs_and_tells_the_same_length() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, credit) = client_with_credit(&world, &gateway).await;
    let header = Pay::client(&client).header();
    let url = format!("{}/up/status/200", gateway.url);
    let get = world.client.send("GET", &url, &[("payment", &header)], None).await;
    assert_eq!(get.receipt().credits_charged, Some(PRICE));
    let unpaid = world.client.send("HEAD", &url, &[], None).await;
    assert_eq!(unpaid.status, 402);
    assert_eq!(unpaid.offer().accepts[0].amount, PRICE);
    let head = world.client.send("HEAD", &url, &[("payment", &header)], None).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
    assert_eq!(head.receipt().credits_charged, Some(PRICE));
    assert_eq!(gateway.balance(&client).await, credit - 2 * PRICE);
    assert_eq!(world.upstream.seen().last().unwrap().method, "HEAD");
    gateway.stop().await;
    world.assert_books_agree().await;
    assert_eq!(number(&world.database, REVERSALS).await, 0, "an answer without a body was delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_are_delivered_and_leave_the_connection_usable() {
    let sold =
        "\n[[routes]]\npath = \"/up/status/304\"\nprice = \"0.05\"\ncharged_statuses = [\"2xx\", \"3xx\"]\n";
    let world = World::with("", &format!("{ROUTES}{sold}")).await;
    let gateway = world.gateway().await;
    let (client, credit) = client_with_credit(&world, &gateway).await;
    let header = Pay::client(&client).header();
    let mut raw = Raw::connect(&gateway.url).await;
    for (method, path, status) in [
        ("GET", "/up/status/204", 204),
        ("GET", "/up/status/304", 304),
        ("HEAD", "/up/status/200", 200),
        ("HEAD", "/up/cut/5", 200),
        ("GET", "/up/status/204", 204),
    ] {
        raw.send(format!("{method} {path} HTTP/1.1\r\nhost: a\r\npayment: {header}\r\n\r\n")).await;
        let head = raw.head().await;
        assert_eq!(status_of(&head), status, "{method} {path}: {head}");
        if status == 204 {
            assert_eq!(header_of(&head, "transfer-encoding"), None, "RFC 9112, section 6.1: {head}");
            assert_eq!(header_of(&head, "content-length"), None, "RFC 9110, section 8.6: {head}");
        }
    }
    assert!(raw.buffer.is_empty(), "no bytes after the heads: {:?}", raw.text());
    drop(raw);
    assert_eq!(gateway.balance(&client).await, credit - 5 * PRICE);
    gateway.stop().await;
    world.assert_books_agree().await;
    assert_eq!(number(&world.database, REVERSALS).await, 0);
    // Nothing was noted as undelivered either.
    let gateway = world.gateway().await;
    assert_eq!(gateway.balance(&client).await, credit - 5 * PRICE);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_switches_protocols_is_a_failed_upstream() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, credit) = client_with_credit(&world, &gateway).await;
    let header = Pay::client(&client).header();
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!("GET /up/status/101 HTTP/1.1\r\nhost: a\r\npayment: {header}\r\n\r\n")).await;
    let head = raw.head().await;
    assert_eq!(status_of(&head), 502, "nobody asked for another protocol: {head}");
    assert_eq!(gateway.balance(&client).await, credit);
    gateway.stop().await;
    world.assert_books_agree().await;
}

//! `prepaid402 get` as a child process against a live gateway: what it pays, what it refuses, what it remembers.

use std::path::Path;
use std::sync::{Arc, Mutex};

use prepaid402::protocol::stripe402::{decode_payment, encode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::program::{
    PROGRAM, Ran, Running, clean, finish, free_address, program, run, serve, until,
};
use crate::support::{DECLINED, GOOD, Gateway, Pay, World};

/// The arguments of a purchase with a test card at the world's simulated Stripe.
fn with_card<'a>(world: &'a World, url: &'a str, number: &'a str) -> Vec<&'a str> {
    let card = ["--card-number", number, "--card-exp", "12/34", "--card-cvc", "123"];
    let mut args = vec!["get", url, "--stripe-base", &world.sim.base_url];
    args.extend(card);
    args
}

async fn buy(world: &World, url: &str, number: &str, more: &[&str]) -> Ran {
    let mut args = with_card(world, url, number);
    args.extend(more);
    run(world.folder.path(), &args).await
}

async fn untouched(world: &World, why: &str) {
    let heard = world.stripe_calls().await;
    assert!(heard.is_empty(), "{why}: Stripe heard {heard:?}");
}

/// Public requests that the gateway answered so far.
async fn answered(gateway: &Gateway<'_>) -> u64 {
    let text = gateway.world.client.get(&format!("{}/metrics", gateway.admin_url)).await.text();
    let counters = text.lines().filter(|line| !line.starts_with('#') && line.contains("requests_total"));
    counters.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn wallet(world: &World) -> String {
    std::fs::read_to_string(world.folder.path().join(".config/prepaid402/wallet.json")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_pays_and_the_second_spends_in_one_request() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let url = format!("{}/api/weather", gateway.url);
    let first = buy(&world, &url, GOOD, &[]).await;
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(serde_json::from_str::<Value>(&first.out).unwrap()["target"], "/api/weather");
    let left = |balance| format!("{balance} usd left at {}\n", gateway.url);
    assert_eq!(first.err, format!("charged 5.00 usd to the card; paid 0.05 usd; {}", left("4.95")));
    assert_eq!(answered(&gateway).await, 2, "the 402, and the payment");

    let second = run(world.folder.path(), &["get", &url]).await;
    assert_eq!((second.code, second.err.as_str()), (0, &*format!("paid 0.05 usd; {}", left("4.90"))));
    assert_eq!(answered(&gateway).await, 3, "no 402 in between");
    let third = run(world.folder.path(), &["get", &url, "--json"]).await;
    let summary: Value = serde_json::from_str(&third.err).unwrap();
    assert_eq!(
        (&summary["outcome"], &summary["creditsRemaining"]),
        (&"served".into(), &48_500.into()),
        "{summary}"
    );
    assert_eq!(world.upstream.hits(), 3);
    assert_eq!(world.succeeded_charges().await.len(), 1);
    let key = serde_json::from_str::<Value>(&wallet(&world)).unwrap().to_string();
    let key = key.split("pck_").nth(1).unwrap().split('"').next().unwrap().to_owned();
    for ran in [&first, &second, &third] {
        assert!(!format!("{}{}", ran.out, ran.err).contains(&key), "the key is never shown whole");
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_wrong_arguments_stop_it_before_stripe_hears_anything() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let url = format!("{}/api/weather", gateway.url);
    let open = world.folder.path().join("card.txt");
    std::fs::write(&open, "number=4242424242424242\nexp=12/34\ncvc=123\n").unwrap();
    let stripe = world.sim.base_url.as_str();
    let good = ["--card-exp", "12/34", "--card-cvc", "123"];
    for (more, code, part) in [
        (vec!["--max-price", "0.04", "--card-number", GOOD], 3, "--max-price 0.05 allows it"),
        (vec!["--max-top-up", "4.99", "--card-number", GOOD], 3, "--max-top-up 5.00 allows it"),
        (vec!["--card-number", "4111111111111111"], 2, "only Stripe's test card numbers"),
        (vec!["--card-number", "4242"], 2, "12 to 19 digits"),
    ] {
        let mut args = vec!["get", &url, "--stripe-base", stripe];
        args.extend(more.iter().chain(&good));
        let ran = run(world.folder.path(), &args).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{more:?}: {ran:?}");
        assert!(ran.err.contains(part) && !ran.err.contains("4111"), "{part} in {}", ran.err);
        untouched(&world, part).await;
    }
    for (args, code, part) in [
        (vec!["get", &url], 3, "--card-file FILE or --payment-method pm_… pays it"),
        (
            vec!["get", &url, "--stripe-base", "https://stripe.example", "--card-file", "card.txt"],
            2,
            "only an address of this machine",
        ),
    ] {
        let ran = run(world.folder.path(), &args).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    let with_file = ["get", &url, "--stripe-base", stripe, "--card-file", "card.txt"];
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |mode| std::fs::set_permissions(&open, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let ran = run(world.folder.path(), &with_file).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("card.txt can be read by others; run: chmod 600 card.txt"), "{}", ran.err);
        untouched(&world, "an open card file").await;
        assert_eq!(world.upstream.hits(), 0);
        mode(0o600);
    }
    assert_eq!(run(world.folder.path(), &with_file).await.code, 0);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_wallet_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    let gateway = world.gateway().await;
    let url = format!("{}/api/weather", gateway.url);
    assert_eq!(buy(&world, &url, GOOD, &[]).await.code, 0);
    let folder = world.folder.path().join(".config/prepaid402");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("wallet.json"))), (0o700, 0o600));
    let file = folder.join("wallet.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let ran = run(world.folder.path(), &["get", &url]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(ran.err.contains("can be read by others") && ran.err.contains("chmod 600"), "{}", ran.err);
    assert_eq!(world.upstream.hits(), 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_card_say_why_and_charge_nothing() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let url = format!("{}/api/weather", gateway.url);
    let declined = buy(&world, &url, DECLINED, &[]).await;
    assert_eq!((declined.code, declined.out.as_str()), (4, ""), "{declined:?}");
    assert!(declined.err.contains("nothing was charged (card_declined)"), "{}", declined.err);

    let settings = serde_json::json!({ "publishable_key_tokenisation": false });
    let answer = world.client.post_json(&format!("{}/_sim/settings", world.sim.base_url), &settings).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let off = buy(&world, &url, GOOD, &[]).await;
    assert_eq!((off.code, off.out.as_str()), (4, ""), "{off:?}");
    let setting =
        "Enable card data collection with a publishable key without using Stripe's pre-built UI elements";
    assert!(off.err.contains(setting) && off.err.contains("--payment-method"), "{}", off.err);
    assert!(off.err.trim_end().ends_with("Nothing was charged"), "{}", off.err);
    assert_eq!(world.succeeded_charges().await.len(), 0);
    assert_eq!(world.upstream.hits(), 0);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_answers_costs_the_top_up_but_not_the_request() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let first = buy(&world, &format!("{}/up/hang", gateway.url), GOOD, &[]).await;
    assert_eq!(first.code, 1, "{first:?}");
    assert!(first.err.contains("charged 5.00 usd to the card"), "{}", first.err);
    assert!(first.err.contains("5.00 usd left") && !first.err.contains("paid 0.05"), "{}", first.err);
    let second = run(world.folder.path(), &["get", &format!("{}/api/weather", gateway.url)]).await;
    assert_eq!(second.code, 0, "{second:?}");
    assert!(second.err.starts_with("paid 0.05 usd; 4.95 usd left"), "{}", second.err);
    assert_eq!(world.succeeded_charges().await.len(), 1);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_both_sides_died_over_is_resumed_and_charged_once() {
    let world = World::new().await;
    let (listen, admin) = (free_address(), free_address());
    let url = format!("http://{listen}/api/weather");
    let server = serve(&world, listen, admin).await;
    // Stripe charges, and its answer does not come.
    world
        .faults(serde_json::json!({ "on": "payment_intents.confirm", "action": "hang", "execute": true }))
        .await;
    let child = program(world.folder.path(), &with_card(&world, &url, GOOD));
    let paying = Running::watched(child);
    let requests = format!("{}/_sim/requests", world.sim.base_url);
    until("Stripe holds the answer", async || world.client.get(&requests).await.json()["held"] == 1).await;
    server.kill().await;
    paying.says("repeating the same payment").await;
    paying.kill().await;
    world.client.send("POST", &format!("{}/_sim/release", world.sim.base_url), &[], None).await;
    world.clear_faults().await;
    assert!(wallet(&world).contains("pm_"), "the payment method waits in the wallet");
    assert_eq!(world.succeeded_charges().await.len(), 1, "the card was charged, and nobody knows");

    let server = serve(&world, listen, admin).await;
    let resumed = run(world.folder.path(), &with_card(&world, &url, GOOD)).await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    assert!(resumed.err.starts_with("resuming the card payment"), "{}", resumed.err);
    assert!(resumed.err.contains("paid 0.05 usd; 4.95 usd left"), "{}", resumed.err);
    assert!(!wallet(&world).contains("pm_"), "settled");
    assert_eq!(world.succeeded_charges().await.len(), 1, "one charge in total");
    let counts = world.stripe_calls().await;
    assert_eq!(counts["payment_methods.create"], 1, "the same payment method: {counts:?}");
    let next = run(world.folder.path(), &["get", &url]).await;
    assert!(next.err.starts_with("paid 0.05 usd; 4.90 usd left"), "{next:?}");
    assert_eq!(server.terminate().await, 0);
    world.assert_books_agree().await;
}

/// A server that answers what it is told: `unpaid` without a payment, `paid` with one. It keeps the payments it saw.
async fn scripted(unpaid: String, paid: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/thing", listener.local_addr().unwrap());
    let (payments, paid) = (Arc::new(Mutex::new(Vec::new())), paid.to_owned());
    let seen = Arc::clone(&payments);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && socket.read_buf(&mut request).await.is_ok_and(|n| n > 0)
            {
            }
            let head = String::from_utf8(request).unwrap();
            let payment = head.lines().find_map(|line| line.strip_prefix("payment: "));
            let answer = if payment.is_some() { &paid } else { &unpaid };
            seen.lock().unwrap().extend(payment.map(str::to_owned));
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (url, payments)
}

/// The gateway's own offer with another key, as a whole answer.
async fn offer_with(world: &World, publishable_key: &str) -> String {
    let gateway = world.gateway().await;
    let mut offer = gateway.get("/api/weather").await.offer();
    gateway.stop().await;
    offer.accepts[0].publishable_key = publishable_key.to_owned();
    format!(
        "HTTP/1.1 402 Payment Required\r\npayment-required: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        encode(&offer)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_key_never_meets_a_simulator() {
    let world = World::new().await;
    let (url, payments) = scripted(offer_with(&world, "pk_live_real").await, "").await;
    let ran = buy(&world, &url, GOOD, &[]).await;
    assert_eq!((ran.code, ran.out.as_str()), (4, ""), "{ran:?}");
    assert!(ran.err.contains("this server's key is a live one; nothing was sent"), "{}", ran.err);
    untouched(&world, "a live key").await;
    assert_eq!(payments.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_5_and_the_same_card_token_is_sent_again() {
    let world = World::new().await;
    let pending = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 600\r\ncontent-length: 25\r\n\
                   connection: close\r\n\r\n{\"code\":\"topup_pending\"} ";
    let unpaid = offer_with(&world, crate::support::PUBLISHABLE_KEY).await;
    let (url, payments) = scripted(unpaid, pending).await;
    for _ in 0..2 {
        let ran = buy(&world, &url, GOOD, &[]).await;
        assert_eq!((ran.code, ran.out.as_str()), (5, ""), "{ran:?}");
        assert!(ran.err.contains("Run the same command again after 600 seconds"), "{}", ran.err);
    }
    let sent: Vec<_> = {
        let payments = payments.lock().unwrap();
        payments
            .iter()
            .map(|text| {
                decode_payment(text.as_bytes()).unwrap().card().map(|method| method.expose().to_owned())
            })
            .collect()
    };
    assert_eq!(sent.len(), 2);
    assert!(sent[0].is_some() && sent[0] == sent[1], "the same token: {sent:?}");
    assert_eq!(world.stripe_calls().await["payment_methods.create"], 1);
    // Given up, it still counts: a second pack needs the flag.
    let ran = buy(&world, &url, GOOD, &["--forget-pending"]).await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("--max-top-up 10.00 allows it"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_from_standard_input_and_a_body_buy_through_post() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let url = format!("{}/up/ask", gateway.url);
    let args = [
        "get",
        &url,
        "-d",
        "{\"q\":1}",
        "--stripe-base",
        &world.sim.base_url,
        "--card-file",
        "-",
        "-o",
        "out.json",
    ];
    let card = "{\"number\":\"4242424242424242\",\"exp\":\"12/34\",\"cvc\":\"123\"}";
    let ran = finish(program(world.folder.path(), &args), Some(card)).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{ran:?}");
    let body = std::fs::read_to_string(world.folder.path().join("out.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["bodyLength"], 7);
    let seen = world.upstream.seen();
    assert_eq!(
        (seen.len(), seen[0].method.as_str(), seen[0].body.as_slice()),
        (1, "POST", &b"{\"q\":1}"[..])
    );
    assert!(!seen[0].headers.contains_key("payment"), "the upstream never sees a payment");
    // A refused request leaves what was in the file.
    let refused = ["get", &url, "-d", "{}", "--max-price", "0.01", "-o", "out.json"];
    assert_eq!(run(world.folder.path(), &refused).await.code, 3);
    assert_eq!(std::fs::read_to_string(world.folder.path().join("out.json")).unwrap(), body);
    let elsewhere = Pay::card("pm_1nobody");
    assert_eq!(gateway.pay("/api/weather", &elsewhere).await.status, 402);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_writes_to_what_is_no_file_and_ends_a_line_on_a_terminal() {
    let world = World::with("", "[[routes]]\npath = \"/free/*\"\nfree = true").await;
    let gateway = world.gateway().await;
    let url = format!("{}/free/thing", gateway.url);
    let ran = run(world.folder.path(), &["get", &url, "-o", "/dev/null"]).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""), "{ran:?}");
    let ran = run(world.folder.path(), &["get", &url, "-o", "/dev/stdout"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out.contains("/free/thing") && !ran.out.ends_with('\n'),
        "a program gets the body as it is: {ran:?}"
    );
    // A file keeps nothing of what was in it before.
    let kept = world.folder.path().join("kept");
    std::fs::write(&kept, "x".repeat(100_000)).unwrap();
    let ran = run(world.folder.path(), &["get", &url, "-o", "kept"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!std::fs::read_to_string(&kept).unwrap().contains("xx"));
    for (path, code) in [("/free/thing", 0), ("/free/cut/100", 1)] {
        let mut command = clean(world.folder.path(), "script");
        command.args(["-qec", &format!("{PROGRAM} get {}{path}", gateway.url), "/dev/null"]);
        let shown = finish(command, None).await;
        assert_eq!(shown.code, code, "{path}: {shown:?}");
        let first = shown.out.split("\r\n").next().unwrap();
        assert!(
            shown.out.ends_with("\r\n") && !first.contains("broke off"),
            "a prompt or a sentence has a line of its own: {shown:?}"
        );
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_code_tells_that_stripe_was_not_reached_from_a_refused_card() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let url = format!("{}/api/weather", gateway.url);
    let closed = format!("http://{}", free_address());
    let card = ["--card-number", GOOD, "--card-exp", "12/34", "--card-cvc", "123"];
    let mut args = vec!["get", &url, "--stripe-base", &closed];
    args.extend(card);
    let ran = run(world.folder.path(), &args).await;
    assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{ran:?}");
    assert!(
        ran.err.contains("Stripe could not be asked") && ran.err.contains("nothing was charged"),
        "{}",
        ran.err
    );
    // An answer that is not Stripe's says as little about the card.
    world.faults(serde_json::json!({ "on": "payment_methods.create", "action": "fail_before" })).await;
    let ran = buy(&world, &url, GOOD, &[]).await;
    assert_eq!(ran.code, 6, "{ran:?}");
    world.clear_faults().await;
    assert_eq!(buy(&world, &url, DECLINED, &[]).await.code, 4);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_has_one_lock_file_however_many_sellers_are_paid() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let port = gateway.url.rsplit(':').next().unwrap();
    let locks = || {
        let folder = std::fs::read_dir(world.folder.path().join(".config/prepaid402")).unwrap();
        let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != "wallet.json").collect();
        names.sort();
        names
    };
    assert_eq!(buy(&world, &format!("http://127.0.0.1:{port}/api/weather"), GOOD, &[]).await.code, 0);
    // What an earlier version left, or a run that was killed.
    let left = world.folder.path().join(".config/prepaid402/wallet.json.0123456789abcdef.lock");
    std::fs::write(left, "").unwrap();
    assert_eq!(buy(&world, &format!("http://localhost:{port}/api/weather"), GOOD, &[]).await.code, 0);
    assert_eq!(locks(), ["wallet.json.lock"]);
    gateway.stop().await;
}

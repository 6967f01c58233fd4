//! Whose doing it is that an answer breaks off. Only what the upstream broke is given back, always and at once; a caller who is
//! slow, gone or broken pays, also when the upstream gives up on such a caller.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::dice::Dice;
use crate::support::process::Seat;
use crate::support::raw::{ByHand, Raw, eventually, patiently, status_of};
use crate::support::{GOOD, Gateway, Pay, World, number};

const PRICE: i64 = 500;
const CREDIT: i64 = 50_000;
const REVERSALS: &str = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";
/// Longer than a caller may pause (`proxy/pace.rs`). Pauses are the subject here, not waits for something.
const PAUSE: Duration = Duration::from_millis(2_500);
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// A world whose upstream the test holds by the hand.
struct Scene {
    world: World,
    upstream: ByHand,
}

impl Scene {
    async fn new() -> Self {
        let mut world = World::new().await;
        let upstream = ByHand::start().await;
        world.upstream.url.clone_from(&upstream.url);
        Self { world, upstream }
    }
}

/// A gateway in front of that upstream, and a wallet.
struct Stage<'a> {
    gateway: Gateway<'a>,
    upstream: &'a ByHand,
    client: String,
    payment: String,
}

impl<'a> Stage<'a> {
    async fn of(Scene { world, upstream }: &'a Scene) -> Self {
        let gateway = world.gateway().await;
        let card = world.tokenise(GOOD).await;
        let url = format!("{}/billing/top-ups", gateway.url);
        let body = format!("{{\"paymentMethodId\":\"{card}\"}}");
        let body = Some(("application/json", body.as_bytes()));
        let answer = world.client.send("POST", &url, &[("idempotency-key", "first")], body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let client = answer.receipt().client_id;
        let payment = Pay::client(&client).header();
        Self { gateway, upstream, client, payment }
    }

    /// A connection that has sent the head of a paid request; `rest` are more header lines, the empty one, and body.
    async fn ask(&self, method: &str, rest: &str) -> Raw {
        let mut caller = Raw::connect(&self.gateway.url).await;
        let payment = &self.payment;
        caller.send(format!("{method} /up/x HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{rest}")).await;
        caller
    }

    /// A paid request, and the upstream's side of it, which has read its head.
    async fn served(&self, method: &str, rest: &str) -> (Raw, Raw) {
        let caller = self.ask(method, rest).await;
        let mut serving = self.upstream.accept().await;
        serving.head().await;
        (caller, serving)
    }

    /// The same once the upstream has begun an answer in chunks, of which the caller has got the first.
    async fn begun(&self, method: &str, rest: &str, first: &str) -> (Raw, Raw) {
        let (mut caller, mut serving) = self.served(method, rest).await;
        serving.send(format!("{CHUNKED}{}", chunk(first))).await;
        caller.until(first).await;
        (caller, serving)
    }

    async fn given_back(&self) {
        eventually("the broken answer is given back", async || {
            self.gateway.balance(&self.client).await == CREDIT
        })
        .await;
    }

    /// Stops the gateway, which ends everything that could still be given back. So much was.
    async fn stop(self, given_back: i64) {
        let world = self.gateway.world;
        self.gateway.stop().await;
        world.assert_books_agree().await;
        assert_eq!(number(&world.database, REVERSALS).await, given_back);
    }

    /// The same, and starts it again: nothing was given back.
    async fn stays_charged(self, times: i64) {
        let (client, world) = (self.client.clone(), self.gateway.world);
        self.stop(0).await;
        let gateway = world.gateway().await;
        assert_eq!(gateway.balance(&client).await, CREDIT - times * PRICE);
        gateway.stop().await;
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// The upstream is told that nobody wants any more: its connection closes.
async fn closes(serving: &mut Raw) {
    patiently("the upstream's connection closes", async { while serving.more().await {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_breaks_his_own_upload_pays_for_what_came() {
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    let mut asked = 0;
    for (method, rest, more) in [
        // 49 of 50 pieces, and then the ten bytes that the caller owes never come.
        ("GET", "content-length: 10\r\n\r\n", ""),
        ("POST", "content-length: 10\r\n\r\nhalf", ""),
        ("POST", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", ""),
        ("POST", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "this is no chunk\r\n"),
    ] {
        for is_reset in [false, true] {
            let (mut caller, mut serving) = stage.served(method, rest).await;
            serving.send(CHUNKED).await;
            for piece in 0..49 {
                serving.send(chunk(&format!("piece {piece};"))).await;
            }
            caller.until("piece 48;").await;
            caller.send(more).await;
            if is_reset {
                caller.socket.set_zero_linger().unwrap();
            }
            drop(caller);
            closes(&mut serving).await;
            asked += 1;
        }
    }
    stage.stays_charged(asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_sends_more_than_is_allowed_pays_for_what_came() {
    let mut scene = Scene::new().await;
    scene.world.routes.push_str("max_body_bytes = 10\n");
    let stage = Stage::of(&scene).await;
    let (mut caller, mut serving) =
        stage.begun("POST", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "all but the end").await;
    caller.send(chunk("more than ten bytes")).await;
    closes(&mut serving).await;
    drop(caller);
    stage.stays_charged(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_gives_up_waiting_for_the_callers_body_has_not_broken_its_answer() {
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    for rest in ["content-length: 10\r\n\r\n", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let (mut caller, serving) = stage.begun("POST", rest, "nearly all").await;
        tokio::time::sleep(PAUSE).await;
        drop(serving);
        caller.rest().await;
    }
    stage.stays_charged(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_here_is_delivered_although_the_upstream_takes_no_more_of_the_request() {
    // What the systems and the gateway hold while the caller reads nothing.
    const LARGE: usize = 300_000;
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    for method in ["GET", "POST"] {
        let (mut caller, mut serving) = stage.served(method, "content-length: 300000\r\n\r\nx").await;
        serving.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
        serving.send("y".repeat(LARGE)).await;
        // It has gone out. Then the upstream closes with a body unread, as many servers do; the system resets the connection.
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(serving);
        for _ in 0..5 {
            caller.send("x").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(status_of(&caller.head().await), 200);
        while caller.buffer.len() < LARGE {
            assert!(caller.more().await, "{method}: only {} bytes came", caller.buffer.len());
        }
    }
    stage.stays_charged(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_in_is_not_the_upstreams_fault() {
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    // Nobody waits for the body of a GET: one that is announced and does not come is there to break something.
    let (mut caller, serving) = stage.begun("GET", "content-length: 300000\r\n\r\nx", "nearly all").await;
    drop(serving);
    caller.rest().await;
    // An upstream with a limit for the whole body, and a byte now and then so that there is never a pause.
    let (mut caller, mut serving) =
        stage.begun("POST", "content-length: 300000\r\n\r\nx", "nearly all").await;
    for n in 0..11 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        caller.send("x").await;
        serving.send(chunk(&format!("still {n}"))).await;
    }
    drop(serving);
    caller.rest().await;
    stage.stays_charged(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_upstream_takes_slowly_is_not_cut_once_it_answers() {
    let mut scene = Scene::new().await;
    scene.world.extra.push_str("[limits]\nbody_timeout = \"1s\"\n");
    let stage = Stage::of(&scene).await;
    const LARGE: usize = 8 * 1024 * 1024;
    let (mut caller, mut serving) =
        stage.begun("POST", &format!("content-length: {LARGE}\r\n\r\n"), "begun").await;
    let sender = tokio::spawn(async move {
        write_all(&mut caller, LARGE, Duration::from_secs(60)).await;
        caller
    });
    // Longer than the caller may take; the upstream reads nothing meanwhile.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    while serving.buffer.len() < LARGE {
        assert!(serving.more().await, "cut after {} bytes", serving.buffer.len());
    }
    serving.send(format!("{}0\r\n\r\n", chunk("done"))).await;
    let mut caller = sender.await.unwrap();
    caller.until("done\r\n0\r\n\r\n").await;
    drop(caller);
    stage.stays_charged(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_long_ago_does_not_excuse_an_upstream_that_has_gone_on() {
    // More than all buffers together hold has come since.
    const LARGE: usize = 64 * 1024 * 1024;
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    let (mut caller, mut serving) = stage.served("GET", "\r\n").await;
    serving.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
    let writer =
        tokio::spawn(async move { write_all(&mut serving, LARGE / 2, Duration::from_secs(60)).await });
    assert_eq!(status_of(&caller.head().await), 200);
    tokio::time::sleep(PAUSE).await;
    let mut piece = vec![0; 1024 * 1024];
    while let Ok(1..) = patiently("the next bytes", caller.socket.read(&mut piece)).await {}
    assert_eq!(writer.await.unwrap(), LARGE / 2);
    stage.given_back().await;
    stage.stop(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_while_a_caller_keeps_sending_gives_the_charge_back() {
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    // Both directions run at once, as with speech that is written down while it is spoken.
    let (mut caller, mut serving) = stage.served("POST", "transfer-encoding: chunked\r\n\r\n").await;
    serving.send(CHUNKED).await;
    for word in ["one", "two", "three"] {
        caller.send(chunk(word)).await;
        serving.until(word).await;
        serving.send(chunk(&format!("heard {word}"))).await;
        caller.until(&format!("heard {word}")).await;
    }
    drop(serving);
    caller.rest().await;
    stage.given_back().await;
    // The body had come, however slowly, before the upstream broke.
    let (mut caller, mut serving) = stage.served("POST", "content-length: 4\r\n\r\nha").await;
    tokio::time::sleep(PAUSE).await;
    caller.send("lf").await;
    serving.until("half").await;
    serving.send(format!("{CHUNKED}{}", chunk("some"))).await;
    caller.until("some").await;
    drop(serving);
    caller.rest().await;
    stage.given_back().await;
    stage.stop(2).await;
}

/// Writes `total` bytes, at most `patience` for a piece. What was written.
async fn write_all(serving: &mut Raw, total: usize, patience: Duration) -> usize {
    let block = vec![b'y'; 64 * 1024];
    let mut written = 0;
    while written < total {
        let piece = &block[..block.len().min(total - written)];
        match tokio::time::timeout(patience, serving.socket.write(piece)).await {
            Ok(Ok(n)) => written += n,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_gives_up_on_a_slow_reader_has_not_broken_its_answer() {
    const LARGE: usize = 40 * 1024 * 1024;
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    let (mut caller, mut serving) = stage.served("GET", "\r\n").await;
    serving.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
    let writer = tokio::spawn(async move { write_all(&mut serving, LARGE, PAUSE).await });
    assert_eq!(status_of(&caller.head().await), 200);
    while caller.buffer.len() < LARGE / 2 {
        assert!(caller.more().await);
    }
    // Nobody reads until the upstream has given up; then the caller takes what is left.
    let written = writer.await.unwrap();
    assert!(written < LARGE, "the upstream was made to wait");
    let got = caller.rest().await.len();
    assert!(got < LARGE, "{got}: no part is taken for the whole");
    drop(caller);
    stage.stays_charged(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_reads_steadily_gets_back_what_the_upstream_broke() {
    const LARGE: usize = 8 * 1024 * 1024;
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    let (mut caller, mut serving) = stage.served("GET", "\r\n").await;
    serving.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
    let writer =
        tokio::spawn(async move { write_all(&mut serving, LARGE / 2, Duration::from_secs(60)).await });
    assert_eq!(status_of(&caller.head().await), 200);
    // Slower than the upstream all the time, and never still.
    let mut piece = vec![0; 64 * 1024];
    while let Ok(1..) = patiently("the next bytes", caller.socket.read(&mut piece)).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(writer.await.unwrap(), LARGE / 2);
    stage.given_back().await;
    stage.stop(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_delivered_and_falls_silent_stays_charged() {
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    let mut charged = 0;
    for (media_type, first, is_charged) in [
        ("text/event-stream", "data: 1\n\n", true),
        ("Text/Event-Stream; charset=utf-8", "data: 1\n\n", true),
        ("application/x-ndjson", "{}\n", true),
        ("text/event-stream", "", false),
        ("application/json", "{\"half\":", false),
    ] {
        let (mut caller, mut serving) = stage.served("GET", "\r\n").await;
        let head = CHUNKED.replacen("\r\n", &format!("\r\ncontent-type: {media_type}\r\n"), 1);
        let first = if first.is_empty() { String::new() } else { chunk(first) };
        serving.send(format!("{head}{first}")).await;
        // Until the gateway's time-out, two seconds in these tests.
        let rest = caller.rest().await;
        assert!(!rest.contains("\r\n0\r\n\r\n"), "no clean end: {rest}");
        charged += i64::from(is_charged);
        let left = CREDIT - charged * PRICE;
        eventually("it is settled", async || stage.gateway.balance(&stage.client).await == left).await;
    }
    stage.stop(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_closes_is_noticed_while_the_answer_is_silent() {
    let scene = Scene::new().await;
    let stage = Stage::of(&scene).await;
    let (mut caller, mut serving) = stage.begun("GET", "\r\n", "first").await;
    // FIN alone: the other half of the connection stays open.
    caller.socket.shutdown().await.unwrap();
    closes(&mut serving).await;
    stage.stays_charged(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_breaks_is_given_back_always_and_a_client_with_many_is_named() {
    const CUTS: i64 = 103;
    let world = World::new().await;
    let mut dice = Dice::random();
    let gateway = Seat::new(&world, &mut dice).start().await;
    let card = world.tokenise(GOOD).await;
    let send = async |path: &str, payment: &str| {
        let url = format!("{}{path}", gateway.url);
        world.client.try_send("GET", &url, &[("payment", payment)], None).await
    };
    let first = send("/api/weather", &Pay::card(&card).top_up(200_000).header()).await.unwrap();
    assert_eq!(first.status, 200, "{}", first.text());
    let (client, left) = (first.receipt().client_id, first.receipt().credits_remaining.unwrap());
    let payment = Pay::client(&client).header();
    let balance = async || {
        let (url, bearer) = (format!("{}/billing/balance", gateway.url), format!("Bearer {client}"));
        let answer = world.client.send("GET", &url, &[("authorization", &bearer)], None).await;
        answer.json()["balance"].as_i64().unwrap()
    };
    let metric = async |name: &str| {
        let metrics = world.client.get(&format!("{}/metrics", gateway.admin_url)).await.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("prepaid402_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse::<i64>().unwrap()
    };
    for cut in 1..=CUTS {
        assert!(send("/up/cut/1", &payment).await.is_err());
        if cut == 100 {
            eventually("a hundred are given back", async || balance().await == left).await;
            assert!(!gateway.log().contains("more than 100 answers"), "not yet");
        }
    }
    eventually("all are given back", async || balance().await == left).await;
    assert_eq!(metric("broken_answer_alarms_total").await, 1);
    eventually("all are counted", async || metric("broken_answers_given_back_total").await == CUTS).await;
    let name = name_of_client(&world).await;
    let log = gateway.log();
    let alarms: Vec<_> = log.lines().filter(|line| line.contains("more than 100 answers")).collect();
    assert_eq!(alarms.len(), 1, "once an hour: {log}");
    assert!(alarms[0].contains(&name) && alarms[0].contains("ERROR"), "{name}: {}", alarms[0]);
    gateway.terminate().await;
    assert!(gateway.wait().await.success());
    world.assert_books_agree().await;
    assert_eq!(number(&world.database, REVERSALS).await, CUTS);
}

/// The public id of the only client.
async fn name_of_client(world: &World) -> String {
    let rows = crate::support::rows(&world.database, "SELECT public_id FROM clients").await;
    assert_eq!(rows.len(), 1);
    crate::support::column(&rows[0], 0)
}

//! Whether a crowd that does not pay slows down those who do: a payer's latency while nobody else is there, and beside 2,000 slow
//! uploads to a free route, 300 connections with a made-up clientId, an `Idempotency-Key` and a body that does not come, and 5,000
//! unpaid requests a second.
//!
//! `cargo bench --bench crowd [-- SECONDS [UNPAID_A_SECOND]]`. A `prepaid402 serve` of its own, with its default limits; all callers
//! come from one network, and share the machine's cores with it. Both kinds of requests are sent when they are due, whether or not
//! those before were answered, and the payer's time counts from then on. The p99 must stay under five times its quiet value, and
//! no payer may be told to come again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prepaid402::protocol::stripe402::{PaymentPayload, encode};
use prepaid402::sandbox::stripe_sim::{self, SimOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const SLOW_UPLOADS: usize = 2_000;
const KEYED: usize = 300;
const UNPAID_A_SECOND: u64 = 5_000;
/// Connections that the unpaid requests are spread over, without waiting for answers.
const UNPAID_CONNECTIONS: u64 = 50;
const PAYER_EVERY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);
/// One of the crowd that was refused or closed comes again after this.
const AGAIN: Duration = Duration::from_secs(5);

type Problem = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Problem> {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let seconds = Duration::from_secs(arguments.first().copied().unwrap_or(10));
    let unpaid = arguments.get(1).copied().unwrap_or(UNPAID_A_SECOND);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(run(seconds, unpaid))
}

async fn run(seconds: Duration, unpaid: u64) -> Result<(), Problem> {
    let folder = tempfile::tempdir()?;
    let stage = Stage::start(folder.path()).await?;
    let payment = stage.wallet().await?;
    // What is new is looked up and connected once.
    payer(stage.address, payment.clone(), seconds / 5).await?;
    let quiet = payer(stage.address, payment.clone(), seconds).await?;
    let crowd = Crowd::gather(stage.address, unpaid);
    crowd.is_in().await;
    let answered = crowd.unpaid.load(Ordering::Relaxed);
    let begun = Instant::now();
    let loaded = payer(stage.address, payment, seconds).await?;
    let answered = crowd.unpaid.load(Ordering::Relaxed).saturating_sub(answered);
    let rate = u128::from(answered).saturating_mul(1_000) / begun.elapsed().as_millis().max(1);
    println!("{:<10} {:>9} {:>9} {:>9}  answers", "payer", "requests", "p50", "p99");
    quiet.print("quiet");
    loaded.print("crowd");
    let tenths = loaded.p(99).saturating_mul(10) / quiet.p(99).max(1);
    println!("p99 is {}.{} times its quiet value", tenths / 10, tenths % 10);
    println!("the crowd: {unpaid} unpaid requests a second sent, {rate} answered; {}", crowd.told());
    crowd.stop();
    let is_kept = tenths < 50 && loaded.is_served() && quiet.is_served();
    println!("{}", if is_kept { "kept" } else { "NOT KEPT" });
    Ok(())
}

/// A gateway as a process, a simulated Stripe, and an API.
struct Stage {
    address: SocketAddr,
    stripe: SocketAddr,
    _gateway: Child,
    _sim: stripe_sim::RunningSim,
}

fn free_address() -> Result<SocketAddr, Problem> {
    Ok(StdListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Stage {
    async fn start(folder: &Path) -> Result<Self, Problem> {
        let options = SimOptions {
            data: None,
            secret_key: "sk_test_bench".into(),
            publishable_key: "pk_test_bench".into(),
            publishable_key_tokenisation: true,
        };
        let sim = stripe_sim::start(StdListener::bind((Ipv4Addr::LOCALHOST, 0))?, options).await?;
        let (address, admin) = (free_address()?, free_address()?);
        let toml = format!(
            "listen = \"{address}\"\nadmin_listen = \"{admin}\"\nidentity = \"key\"\ndata_dir = {data:?}\n[stripe]\n\
             publishable_key = \"pk_test_bench\"\napi_base = \"{stripe}\"\n[upstream]\nurl = \"http://{api}\"\n\
             [[routes]]\npath = \"/paid\"\nprice = \"0.001\"\nmethods = [\"GET\", \"POST\"]\n\
             [[routes]]\npath = \"/free\"\nfree = true\nmethods = [\"POST\"]\n",
            data = folder.join("data"),
            stripe = sim.base_url,
            api = api()?,
        );
        let config = folder.join("prepaid402.toml");
        std::fs::write(&config, toml)?;
        let gateway = Command::new(env!("CARGO_BIN_EXE_prepaid402"))
            .args(["serve", "--config"])
            .arg(&config)
            .current_dir(folder)
            .env_clear()
            .env("STRIPE_SECRET_KEY", "sk_test_bench")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log"))?)
            .kill_on_drop(true)
            .spawn()?;
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if begun.elapsed() > PATIENCE {
                return Err(std::fs::read_to_string(folder.join("log"))?.into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let stripe = sim.base_url.trim_start_matches("http://").parse()?;
        Ok(Self { address, stripe, _gateway: gateway, _sim: sim })
    }

    /// The `payment` header of a wallet with 500.00.
    async fn wallet(&self) -> Result<String, Problem> {
        let form =
            "type=card&card[number]=4242424242424242&card[exp_month]=12&card[exp_year]=2034&card[cvc]=123";
        let card = post(
            self.stripe,
            "/v1/payment_methods",
            "authorization: Bearer pk_test_bench\r\ncontent-type: application/x-www-form-urlencoded\r\n",
            form,
        )
        .await?;
        let order =
            serde_json::json!({ "paymentMethodId": card["id"], "topUpAmount": 5_000_000 }).to_string();
        let lines = "idempotency-key: bench\r\ncontent-type: application/json\r\n";
        let bought = post(self.address, "/billing/top-ups", lines, &order).await?;
        let client = bought["clientId"].as_str().ok_or_else(|| format!("no wallet: {bought}"))?;
        Ok(payment_of(client))
    }
}

fn payment_of(client: &str) -> String {
    encode(&PaymentPayload {
        stripe402_version: 1,
        payment_method_id: None,
        client_id: Some(client.to_owned()),
        top_up_amount: None,
        max_amount: None,
        new_wallet: None,
    })
}

async fn post(to: SocketAddr, path: &str, lines: &str, body: &str) -> Result<serde_json::Value, Problem> {
    let mut socket = TcpStream::connect(to).await?;
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}content-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let json = body.find('{').zip(body.rfind('}')).and_then(|(from, to)| body.get(from..=to));
    Ok(serde_json::from_str(json.ok_or("an answer without JSON")?)?)
}

/// An API on a thread of its own: answers each request whose body is here.
fn api() -> Result<SocketAddr, Problem> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = Connection::default();
                    while connection.message(&mut socket).await.is_some() {
                        if socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
    });
    Ok(address)
}

/// Messages one after the other.
#[derive(Default)]
struct Connection {
    buffer: Vec<u8>,
}

impl Connection {
    /// The first line of the next message, when all of it is here. `None`: the other side has closed.
    async fn message(&mut self, socket: &mut TcpStream) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(self.buffer.get(..end)?).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                let whole = end.saturating_add(4).saturating_add(length);
                if self.buffer.len() >= whole {
                    self.buffer.drain(..whole);
                    return head.lines().next().map(str::to_owned);
                }
            }
            match socket.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

fn status_of(first_line: Option<&str>) -> u16 {
    first_line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
}

/// What a payer has seen.
#[derive(Default)]
struct Seen {
    micros: Vec<u128>,
    statuses: BTreeMap<u16, usize>,
}

impl Seen {
    fn p(&self, percent: usize) -> u128 {
        let place = self.micros.len().saturating_mul(percent) / 100;
        self.micros.get(place.min(self.micros.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    fn is_served(&self) -> bool {
        self.statuses.keys().all(|status| *status == 200) && !self.statuses.is_empty()
    }

    fn print(&self, name: &str) {
        let millis = |micros: u128| format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10);
        let (count, median, tail) = (self.micros.len(), millis(self.p(50)), millis(self.p(99)));
        println!("{name:<10} {count:>9} {median:>9} {tail:>9}  {:?}", self.statuses);
    }
}

/// Pays at fixed times, on connections that are kept, from a thread of its own. Every fourth request has a body, every fourth an
/// `Idempotency-Key` as well.
async fn payer(to: SocketAddr, payment: String, time: Duration) -> Result<Seen, Problem> {
    let (done, told) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        let seen = runtime.block_on(tokio::task::LocalSet::new().run_until(pay(to, payment, time)));
        let _ = done.send(seen);
    });
    Ok(told.await?)
}

async fn pay(to: SocketAddr, payment: String, time: Duration) -> Seen {
    let idle = Arc::new(Mutex::new(Vec::<(TcpStream, Connection)>::new()));
    let (begun, mut due, mut running) = (Instant::now(), Instant::now(), Vec::new());
    let nonce = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
    while begun.elapsed() < time {
        tokio::time::sleep_until(due.into()).await;
        let number = running.len();
        let request = match number % 4 {
            0 => format!(
                "POST /paid HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\ncontent-length: 4\r\n\r\nbody"
            ),
            1 => format!(
                "POST /paid HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\nidempotency-key: {nonce}-{number}\r\n\
                 content-length: 4\r\n\r\nbody"
            ),
            _ => format!("GET /paid HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n\r\n"),
        };
        let idle = Arc::clone(&idle);
        running.push(tokio::task::spawn_local(async move {
            let kept = idle.lock().ok().and_then(|mut idle| idle.pop());
            let (mut socket, mut connection) = match kept {
                Some(kept) => kept,
                None => (TcpStream::connect(to).await.ok()?, Connection::default()),
            };
            let _ = socket.set_nodelay(true);
            socket.write_all(request.as_bytes()).await.ok()?;
            let answer = tokio::time::timeout(PATIENCE, connection.message(&mut socket)).await.ok()??;
            let micros = due.elapsed().as_micros();
            if let Ok(mut idle) = idle.lock() {
                idle.push((socket, connection));
            }
            Some((status_of(Some(&answer)), micros))
        }));
        due += PAYER_EVERY;
    }
    let mut seen = Seen::default();
    for request in running {
        let (status, micros) = request.await.ok().flatten().unwrap_or((0, PATIENCE.as_micros()));
        seen.micros.push(micros);
        *seen.statuses.entry(status).or_default() += 1;
    }
    seen.micros.sort_unstable();
    seen
}

/// Those who do not pay.
struct Crowd {
    unpaid: Arc<AtomicU64>,
    statuses: Arc<Mutex<BTreeMap<(&'static str, u16), u64>>>,
    begun: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Crowd {
    /// From a runtime of its own.
    fn gather(to: SocketAddr, unpaid: u64) -> Self {
        let crowd = Self {
            unpaid: Arc::default(),
            statuses: Arc::default(),
            begun: Arc::default(),
            stop: Arc::default(),
        };
        for _ in 0..SLOW_UPLOADS {
            let request = "POST /free HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc".to_owned();
            crowd.hold("slow uploads", to, request);
        }
        let payment = payment_of(&format!("pck_{}", "A".repeat(43)));
        for number in 0..KEYED {
            let request = format!(
                "POST /paid HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\nidempotency-key: {number}\r\ncontent-length: 1000\r\n\r\n"
            );
            crowd.hold("keyed", to, request);
        }
        let every =
            Duration::from_nanos(1_000_000_000_u64.saturating_mul(UNPAID_CONNECTIONS) / unpaid.max(1));
        for _ in 0..UNPAID_CONNECTIONS.min(unpaid) {
            let (counted, stop) = (Arc::clone(&crowd.unpaid), Arc::clone(&crowd.stop));
            tokio::spawn(async move {
                let socket = TcpStream::connect(to).await.ok()?;
                let (mut reader, mut writer) = socket.into_split();
                tokio::spawn(async move {
                    let mut buffer = Vec::with_capacity(64 * 1024);
                    loop {
                        // Between two answers stands one first line.
                        let keep = buffer.len().saturating_sub(8);
                        buffer.drain(..keep);
                        let old = buffer.windows(9).filter(|nine| *nine == b"HTTP/1.1 ").count();
                        if !matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
                            return;
                        }
                        let new = buffer.windows(9).filter(|nine| *nine == b"HTTP/1.1 ").count();
                        counted.fetch_add(new.saturating_sub(old) as u64, Ordering::Relaxed);
                    }
                });
                let mut due = tokio::time::Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    writer.write_all(b"GET /paid HTTP/1.1\r\nhost: a\r\n\r\n").await.ok()?;
                    due += every;
                    tokio::time::sleep_until(due).await;
                }
                Some(())
            });
        }
        crowd
    }

    /// Sends a request that never becomes whole, now and then a byte of it, and comes again when it was answered or closed.
    fn hold(&self, name: &'static str, to: SocketAddr, request: String) {
        let (statuses, begun, stop) =
            (Arc::clone(&self.statuses), Arc::clone(&self.begun), Arc::clone(&self.stop));
        tokio::spawn(async move {
            let mut is_first = true;
            while !stop.load(Ordering::Relaxed) {
                let status = async {
                    let mut socket = TcpStream::connect(to).await.ok()?;
                    socket.write_all(request.as_bytes()).await.ok()?;
                    if std::mem::take(&mut is_first) {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                    let mut connection = Connection::default();
                    loop {
                        tokio::select! {
                            answer = connection.message(&mut socket) => return Some(status_of(answer.as_deref())),
                            () = tokio::time::sleep(Duration::from_secs(5)) => {}
                        }
                        socket.write_all(b"x").await.ok()?;
                    }
                }
                .await;
                if let Ok(mut statuses) = statuses.lock() {
                    *statuses.entry((name, status.unwrap_or(0))).or_default() += 1;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// Waits until all of it has begun.
    async fn is_in(&self) {
        let begun = Instant::now();
        while self.begun.load(Ordering::Relaxed) < (SLOW_UPLOADS + KEYED) as u64 && begun.elapsed() < PATIENCE
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{} of {} have begun", self.begun.load(Ordering::Relaxed), SLOW_UPLOADS + KEYED);
    }

    fn told(&self) -> String {
        let statuses = self.statuses.lock().map(|statuses| statuses.clone()).unwrap_or_default();
        let told =
            statuses.iter().map(|((name, status), count)| format!("{name} answered {status}: {count}"));
        told.collect::<Vec<_>>().join(", ")
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

//! `prepaid402 bench` as a child: what it measures, what it refuses, and that nothing of it stays behind. Speeds are never
//! asserted.

use std::net::SocketAddr;
use std::path::Path;

use prepaid402::protocol::stripe402::{PAYMENT_REQUIRED, encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::program::{Ran, Running, SandboxProgram, finish, program, run, until};
use crate::support::{intents, recorded_charges};

/// Short and small.
const BRIEFLY: [&str; 9] =
    ["bench", "--json", "--seconds", "1", "--warm-up", "0", "--connections", "4", "--wallets"];

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn bench(home: &Path, wallets: &str, extra: &[&str]) -> Ran {
    let mut command = program(home, &BRIEFLY);
    command.arg(wallets).args(extra);
    finish(command, None).await
}

fn url(sandbox: &SandboxProgram) -> [String; 8] {
    [
        "--url".to_owned(),
        sandbox.text("url"),
        "--stripe-base".to_owned(),
        sandbox.text("stripeBase"),
        "--free".to_owned(),
        "/api/health".to_owned(),
        "--paid".to_owned(),
        "/api/weather".to_owned(),
    ]
}

async fn bench_sandbox(home: &Path, sandbox: &SandboxProgram, wallets: &str) -> Value {
    let url = url(sandbox);
    let ran = bench(home, wallets, &url.each_ref().map(String::as_str)).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

/// All three phases gave a rate.
fn assert_measured(server: &Value) {
    let phases = server["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["free", "unpaid", "paid"]);
    for phase in phases {
        assert!(phase["requests"].as_u64().unwrap() > 0, "{phase}");
        assert!(phase["requestsPerSecond"].is_u64(), "{phase}");
        assert_eq!((&phase["failures"], &phase["unexpectedStatuses"]), (&json!(0), &json!({})), "{phase}");
        let latency = |name| phase["latencyMicros"][name].as_u64().unwrap();
        assert!(0 < latency("p50") && latency("p50") <= latency("p99"), "{phase}");
        assert!(latency("p99") <= latency("max"), "{phase}");
    }
    for ratio in ["paidToFree", "unpaidToFree", "paidToUnpaid"] {
        assert!(server["ratios"][ratio].is_f64(), "{ratio} in {server}");
        let spread = |name| server["ratiosByRound"][ratio][name].as_f64().unwrap();
        assert!(
            spread("min") <= spread("median") && spread("median") <= spread("max"),
            "{ratio} in {server}"
        );
    }
    assert!(
        server["rounds"].as_u64().unwrap() > 0 && server["sliceMillis"].as_u64().unwrap() > 0,
        "{server}"
    );
}

/// The books of a sandbox are right, and Stripe has charged what they say.
async fn assert_books_agree(home: &Path, sandbox: &SandboxProgram) -> Value {
    let verified = run(home, &["verify", "--data-dir", "data", "--json"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let mut ours =
        recorded_charges(&prepaid402::config::DatabaseConfig::from(home.join("data/prepaid402.db"))).await;
    let books = sandbox.books().await;
    let succeeded = intents(&books).into_iter().filter(|intent| intent["status"] == "succeeded");
    let mut stripes: Vec<_> = succeeded
        .map(|intent| {
            let id = intent["metadata"]["prepaid402_top_up"].as_str().unwrap().to_owned();
            (id, intent["amount_received"].as_i64().unwrap())
        })
        .collect();
    ours.sort();
    stripes.sort();
    assert_eq!(ours, stripes);
    serde_json::from_str(&verified.out).unwrap()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// How many programs work in this folder.
#[cfg(target_os = "linux")]
fn working_in(folder: &Path) -> usize {
    let folders = std::fs::read_dir("/proc").unwrap().flatten();
    // Many are not ours to look at, or have ended meanwhile.
    folders
        .filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok())
        .filter(|at| at.starts_with(folder) && at != folder)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_measured_and_its_books_stay_right() {
    let home = home();
    let sandbox = SandboxProgram::start(home.path(), &["--json"]).await;
    let report = bench_sandbox(home.path(), &sandbox, "3").await;
    let server = &report["servers"][0];
    assert_measured(server);
    assert_eq!((&report["worked"], &server["booksAreRight"]), (&json!(true), &Value::Null));
    assert_eq!((&report["connections"], &report["fsync"]["writes"]), (&json!(4), &json!(200)));
    assert_eq!(names_in(home.path()), ["data"], "nothing of its own is left");

    let books = assert_books_agree(home.path(), &sandbox).await;
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(number(&books["clients"]) >= 3, "{books}");
    assert_eq!(books["clients"], books["topUps"], "one charge a wallet");
    assert!(
        number(&books["entries"]) >= number(&server["phases"][2]["requests"]),
        "every paid answer is booked"
    );
    assert_eq!(sandbox.program.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_that_run_dry_are_replaced_and_this_is_told() {
    let home = home();
    std::fs::write(
        home.path().join("dear.toml"),
        "[top_up]\nminimum = \"5.00\"\nmaximum = \"5.00\"\n[[routes]]\npath = \"/api/health\"\nfree = true\n\
         [[routes]]\npath = \"/api/weather\"\nprice = \"1.00\"\n",
    )
    .unwrap();
    let sandbox = SandboxProgram::start(home.path(), &["--json", "--config", "dear.toml"]).await;
    let report = bench_sandbox(home.path(), &sandbox, "2").await;
    assert_measured(&report["servers"][0]);
    let wallets = &report["servers"][0]["wallets"];
    assert_eq!((&wallets["inUse"], &wallets["requestsEach"]), (&json!(2), &json!(4)));
    assert!(wallets["replaced"].as_u64().unwrap() > 0 && wallets["problem"].is_null(), "{wallets}");
    let books = assert_books_agree(home.path(), &sandbox).await;
    assert_eq!(books["openTopUps"], 0);
    assert_eq!(sandbox.program.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_it_starts_its_own_and_leaves_nothing() {
    let home = home();
    let mut command = program(home.path(), &BRIEFLY);
    // The settings of a real gateway are not those of the one that is measured.
    command.arg("2").env("PREPAID402_LISTEN", "nowhere").env("STRIPE_SECRET_KEY", "sk_live_x");
    let ran = finish(command, None).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["servers"].as_array().unwrap().len(), 2);
    for (n, name) in ["proxied, sqlite", "embedded, sqlite"].into_iter().enumerate() {
        assert_eq!(report["servers"][n]["name"], name);
        assert_eq!(report["servers"][n]["booksAreRight"], true);
        assert_measured(&report["servers"][n]);
    }
    assert_eq!(names_in(home.path()), [""; 0]);
    #[cfg(target_os = "linux")]
    assert_eq!(working_in(home.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_a_table() {
    let home = home();
    let arguments: Vec<_> = BRIEFLY.into_iter().filter(|word| *word != "--json").chain(["1"]).collect();
    let ran = run(home.path(), &arguments).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for part in [
        "fsync of 4096 bytes",
        "requests/s",
        "p99.9",
        "paid / free",
        "median round",
        "lowest–highest",
        "the books are right",
        "compare ratios",
    ] {
        assert!(ran.out.contains(part), "{part} in\n{}", ran.out);
    }
    for part in ["warm-up of free", "warm-up of unpaid", "warm-up of paid", "free, unpaid and paid in "] {
        assert!(ran.err.contains(&format!("measuring: proxied, sqlite, {part}")), "{part} in {}", ran.err);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_everything_it_has_started() {
    let home = home();
    let running = Running::watched(program(home.path(), &["bench", "--seconds", "60"]));
    running.says("proxied, sqlite, free").await;
    assert_eq!(working_in(home.path()), 2, "the gateway and the simulated Stripe");
    assert_eq!(running.terminate().await, 1);
    until("they are gone", async || working_in(home.path()) == 0).await;
    assert_eq!(names_in(home.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_refused_before_anything_is_sent() {
    let home = home();
    let paths = ["--free", "/a", "--paid", "/b"];
    for (args, code, part) in [
        (&["--url", "http://example.com"][..], 2, "--i-run-this-server"),
        (&["--url", "http://192.0.2.1:4402"], 2, "--i-run-this-server"),
        (&["--url", "https://127.0.0.1:1"], 2, "http://"),
        (&["--url", "http://127.0.0.1:1/api"], 2, "without a path"),
        (&["--url", "http://127.0.0.1:1", "--stripe-base", "http://192.0.2.1"], 2, "--stripe-base"),
        (&["--url", "http://127.0.0.1:1", "--postgres", "postgres://127.0.0.1/x"], 2, "--postgres"),
        (&["--url", "http://127.0.0.1:1"], 1, "nothing answers at http://127.0.0.1:1"),
    ] {
        let ran = bench(home.path(), "1", &[args, &paths].concat()).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    for (args, part) in [
        (&["--url", "http://127.0.0.1:1"][..], "--paid"),
        (&["--free", "/a"], "--url"),
        (&["--data-dir", "missing"], "missing"),
        (&["--connections", "5000"], "1024"),
        (&["--seconds", "100000"], "300"),
    ] {
        let ran = run(home.path(), &[&["bench"], args].concat()).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    assert_eq!(names_in(home.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_must_be_what_they_are_said_to_be() {
    let home = home();
    let sandbox = SandboxProgram::start(home.path(), &["--json"]).await;
    let (url, stripe) = (sandbox.text("url"), sandbox.text("stripeBase"));
    for (free, paid, code, part) in [
        ("/nothing", "/api/weather", 1, "nothing is free at /nothing: the server answered 404"),
        ("/api/weather", "/api/weather", 1, "/api/weather is not free"),
        ("/api/health", "/nothing", 1, "nothing is sold at /nothing: the server answered 404"),
        ("/api/health", "/api/health", 1, "/api/health is not sold"),
        ("api/health", "/api/weather", 2, "--free must be a path"),
    ] {
        let args = ["--url", &url, "--stripe-base", &stripe, "--free", free, "--paid", paid];
        let ran = bench(home.path(), "1", &args).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{free} {paid}: {ran:?}");
        assert!(ran.err.contains(part) && ran.err.lines().count() == 1, "{part} in {}", ran.err);
    }
    assert!(intents(&sandbox.books().await).is_empty(), "nothing was charged");
    assert_eq!(sandbox.program.terminate().await, 0);
}

/// A server with this Stripe key that serves its free path once, and then fails.
async fn failing_server(publishable_key: &str) -> SocketAddr {
    let offer = encode(&json!({
        "stripe402Version": 1, "resource": {"url": "/paid"},
        "accepts": [{
            "scheme": "stripe", "currency": "usd", "amount": 100, "minTopUp": 50_000, "publishableKey": publishable_key
        }]
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (served, offer) = (served.clone(), offer.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut head).await {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let status = match head.starts_with(b"GET /paid") {
                        true => format!("402 Payment Required\r\n{PAYMENT_REQUIRED}: {offer}"),
                        false if served.swap(true, std::sync::atomic::Ordering::SeqCst) => {
                            "500 No".to_owned()
                        }
                        false => "200 OK".to_owned(),
                    };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                    head.clear();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phase_with_other_answers_has_no_rate_and_a_live_key_is_refused() {
    let home = home();
    let args = |address: SocketAddr| {
        ["--url", &format!("http://{address}"), "--free", "/free", "--paid", "/paid"].map(str::to_owned)
    };
    let failing = args(failing_server("pk_test_x").await);
    let ran = bench(home.path(), "1", &failing.each_ref().map(String::as_str)).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let server = &report["servers"][0];
    assert_eq!((&report["worked"], &server["ratios"]["paidToFree"]), (&json!(false), &Value::Null));
    let phases = server["phases"].as_array().unwrap();
    assert_eq!((phases.len(), &phases[0]["requestsPerSecond"]), (1, &Value::Null), "{server}");
    assert!(phases[0]["unexpectedStatuses"]["500"].as_u64().unwrap() > 0, "{server}");

    let live = args(failing_server("pk_live_x").await);
    let ran = bench(home.path(), "1", &live.each_ref().map(String::as_str)).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(ran.err.contains("real money") && ran.err.lines().count() == 1, "{}", ran.err);
}

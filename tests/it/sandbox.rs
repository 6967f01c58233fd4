//! `prepaid402 sandbox` as its first user meets it: the real program, its output taken literally, its signals.

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::http::Client;
use crate::support::program::{SandboxProgram, clean, finish, program, run, sandbox_args, until};
use crate::support::upstream::TestUpstream;
use crate::support::{Pay, intents, number, recorded_charges};

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Stripe's charges as the simulator tells them over HTTP.
fn charges(books: &Value) -> Vec<(String, i64)> {
    let mut charges: Vec<_> = intents(books)
        .iter()
        .filter(|intent| intent["status"] == "succeeded")
        .map(|intent| {
            let id = intent["metadata"]["prepaid402_top_up"].as_str().unwrap().to_owned();
            (id, intent["amount_received"].as_i64().unwrap())
        })
        .collect();
    charges.sort();
    charges
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sells_keeps_exact_books_and_keeps_them_across_a_restart() {
    let home = home();
    let sandbox = SandboxProgram::start(home.path(), &["--json"]).await;
    assert_eq!(sandbox.ready["sandbox"], true);
    assert_eq!(sandbox.text("url"), format!("http://{}", sandbox.addresses[0]));
    assert_eq!(sandbox.text("stripeBase"), format!("http://{}", sandbox.addresses[2]));

    let refused = sandbox.get("/api/weather").await;
    assert_eq!((refused.status, refused.header("x-prepaid402-sandbox")), (402, Some("SANDBOX")));
    let offer = refused.offer();
    assert_eq!(offer.accepts[0].publishable_key, sandbox.text("publishableKey"));
    let card = sandbox.tokenise(&offer.accepts[0].publishable_key).await;
    let first = sandbox.pay("/api/weather", &Pay::card(&card).top_up(500_000)).await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.json()["city"], "Berlin");
    let receipt = first.receipt();
    assert_eq!(
        receipt.credits_remaining.unwrap(),
        550_000 - 500,
        "50 dollars and 5 on top, less one request"
    );
    let client = Pay::client(&receipt.client_id);
    for n in 1..=500 {
        let now = sandbox.pay("/api/weather", &client).await.receipt();
        assert_eq!(now.credits_remaining.unwrap(), 549_500 - 500 * n);
    }

    // What Stripe keeps of the charge comes by a webhook, as does what is refunded at its dashboard.
    let database = home.path().join("data/prepaid402.db").into();
    let fees = "SELECT COUNT(*) FROM entries WHERE source LIKE 'fee:%'";
    until("the fee is booked", async || number(&database, fees).await > 0).await;
    let webhooks = format!("{}/_sim/webhooks", sandbox.text("stripeBase"));
    until("Stripe has heard that it has come", async || {
        let told = Client::new().get(&webhooks).await.json()["deliveries"].clone();
        let told = told.as_array().unwrap();
        !told.is_empty() && told.iter().any(|delivery| delivery["status"] == 200)
    })
    .await;

    let verified = run(home.path(), &["verify", "--data-dir", "data"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(verified.out.contains("1 client, 1 top-up (0 of them open)"), "{}", verified.out);
    assert!(verified.out.ends_with("the books are right\n"), "{}", verified.out);
    let verified = run(home.path(), &["verify", "--data-dir", "data", "--json"]).await;
    let report: Value = serde_json::from_str(&verified.out).unwrap();
    assert_eq!((&report["clean"], &report["entries"]), (&json!(true), &json!(504)));
    let mut ours = recorded_charges(&home.path().join("data/prepaid402.db").into()).await;
    ours.sort();
    assert_eq!(ours, charges(&sandbox.books().await));
    assert_eq!(ours.len(), 1);

    let addresses = sandbox.addresses;
    assert_eq!(sandbox.program.terminate().await, 0, "SIGTERM is an ordinary end");
    let again = SandboxProgram::at(addresses, home.path(), &["--json"], |_| {}).await.ok().unwrap();
    let now = again.pay("/api/weather", &client).await;
    assert_eq!((now.status, now.receipt().credits_remaining.unwrap()), (200, 549_500 - 500 * 501));
    assert_eq!(charges(&again.books().await), ours, "the simulated Stripe remembers, too");
    let card = again.pay("/api/weather", &Pay::card(&card)).await.receipt();
    assert_eq!(card.client_id, receipt.client_id, "so does the card");
    assert_eq!(again.program.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_ends_with_one_clear_line() {
    let home = home();
    let sandbox = SandboxProgram::start(home.path(), &["--json"]).await;
    let [listen, admin, stripe] = sandbox.addresses;
    let free = || "127.0.0.1:0".parse().unwrap();
    let other = tempfile::tempdir().unwrap();
    let elsewhere = other.path().to_str().unwrap();
    for (addresses, data, expected) in [
        (sandbox.addresses, "data", format!("already listens on {listen}")),
        (sandbox.addresses, elsewhere, format!("already listens on {listen}")),
        ([free(), admin, free()], elsewhere, format!("already listens on {admin}")),
        ([free(), free(), stripe], elsewhere, format!("already listens on {stripe}")),
        ([free(), free(), free()], "data", "in use by another".to_owned()),
    ] {
        let mut second = program(home.path(), &[]);
        second.args(sandbox_args(addresses, data));
        let ran = finish(second, None).await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(ran.err.starts_with("the sandbox does not start: "), "{}", ran.err);
        assert!(ran.err.contains(&expected), "{expected} in {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
    assert_eq!(sandbox.get("/api/health").await.status, 200, "the first one is untouched");
    assert_eq!(sandbox.program.terminate().await, 0);
}

/// The printed line that contains `mark`.
fn line(text: &str, mark: &str) -> String {
    text.lines().find(|line| line.contains(mark)).unwrap_or_else(|| panic!("{mark} in {text}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_commands_work_literally_from_any_directory() {
    let home = home();
    let sandbox = SandboxProgram::start(home.path(), &[]).await;
    let shown = sandbox.program.out.clone();
    assert!(shown.starts_with("SANDBOX: nothing here is real money.\n"), "{shown}");
    let elsewhere = tempfile::tempdir().unwrap();
    let shell = async |command: &str| {
        let mut sh = clean(elsewhere.path(), "sh");
        sh.args(["-c", command]);
        finish(sh, None).await
    };
    let curl = shell(&line(&shown, "curl -i ")).await;
    assert_eq!(curl.code, 0, "{curl:?}");
    assert!(curl.out.starts_with("HTTP/1.1 402 Payment Required\r\n"), "{}", curl.out);

    let get = line(&shown, " get http");
    let first = shell(&get).await;
    assert_eq!(first.code, 0, "{first:?}");
    let weather: Value = serde_json::from_str(&first.out).unwrap();
    assert_eq!(weather["city"], "Berlin");
    assert!(
        first.err.starts_with("charged 5.00 usd to the card; paid 0.05 usd; 4.95 usd left"),
        "{}",
        first.err
    );
    let second = shell(&get).await;
    assert_eq!(second.code, 0, "{second:?}");
    assert!(second.err.starts_with("paid 0.05 usd; 4.90 usd left"), "{}", second.err);
    assert!(!elsewhere.path().join(".config").exists(), "play money stays out of the wallet at home");

    let verify = shell(&line(&shown, " verify ")).await;
    assert_eq!(verify.code, 0, "{verify:?}");
    assert_eq!(charges(&sandbox.books().await).len(), 1);

    let login = line(&shown, "password: ");
    let password = login.rsplit(' ').next().unwrap();
    let form = format!("name=sandbox&password={password}");
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    let origin = format!("http://{}", sandbox.addresses[1]);
    let url = format!("{origin}/admin/login");
    let answer = sandbox.client.send("POST", &url, &[("origin", &origin)], body).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/admin")), "{}", answer.text());
    assert_eq!(sandbox.program.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_start_after_deleting_the_data_forgets_the_play_wallet() {
    let home = home();
    let sandbox = SandboxProgram::start(home.path(), &[]).await;
    let get = line(&sandbox.program.out, " get http");
    let shell = async |command: &str| {
        let mut sh = clean(home.path(), "sh");
        sh.args(["-c", command]);
        finish(sh, None).await
    };
    assert_eq!(shell(&get).await.code, 0);
    let addresses = sandbox.addresses;
    assert_eq!(sandbox.program.terminate().await, 0);
    std::fs::remove_dir_all(home.path().join("data")).unwrap();
    let again = SandboxProgram::at(addresses, home.path(), &[], |_| {}).await.ok().unwrap();
    let ran = shell(&line(&again.program.out, " get http")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.starts_with("charged 5.00 usd"), "{}", ran.err);
    assert_eq!(again.program.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn port_0_takes_free_ports_and_says_which() {
    let home = home();
    let any = "127.0.0.1:0".parse().unwrap();
    let sandbox = SandboxProgram::at([any; 3], home.path(), &["--json"], |_| {}).await.ok().unwrap();
    let answer = sandbox.client.get(&format!("{}/api/weather", sandbox.text("url"))).await;
    assert_eq!(answer.status, 402);
    let admin = sandbox.client.get(&format!("{}/admin/login", sandbox.text("adminUrl"))).await;
    assert!(admin.text().contains(&sandbox.text("url")), "the pages name the real address");
    assert_eq!(sandbox.program.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_environment_never_reach_it() {
    let home = home();
    let set = |command: &mut tokio::process::Command| {
        command
            .env("STRIPE_SECRET_KEY", "sk_live_realmoney")
            .env("STRIPE_PUBLISHABLE_KEY", "pk_live_realmoney");
        command.env("PREPAID402_STRIPE__PUBLISHABLE_KEY", "pk_live_realmoney");
        command.env("PREPAID402_STRIPE__API_BASE", "https://api.stripe.com");
        command.env("PREPAID402_LISTEN", "0.0.0.0:1");
    };
    let sandbox = SandboxProgram::with(home.path(), &["--json"], set).await;
    let offer = sandbox.get("/api/weather").await.offer();
    assert_eq!(offer.accepts[0].publishable_key, sandbox.text("publishableKey"));
    let card = sandbox.tokenise(&offer.accepts[0].publishable_key).await;
    assert_eq!(sandbox.pay("/api/weather", &Pay::card(&card)).await.status, 200, "charged at the simulator");
    assert_eq!(charges(&sandbox.books().await).len(), 1);
    assert!(!format!("{}{}", sandbox.program.out, sandbox.program.err()).contains("realmoney"));
    assert_eq!(sandbox.program.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_are_refused() {
    let home = home();
    for flag in ["--listen", "--admin-listen", "--stripe-listen"] {
        for address in ["0.0.0.0:4499", "192.0.2.1:4499", "[::]:4499"] {
            let ran = run(home.path(), &["sandbox", flag, address]).await;
            assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{flag} {address}: {ran:?}");
            assert!(ran.err.contains("loopback only"), "{}", ran.err);
            assert_eq!(ran.err.lines().count(), 1);
        }
    }
    let same = ["sandbox", "--listen", "127.0.0.1:4499", "--admin-listen", "127.0.0.1:4499"];
    let ran = run(home.path(), &same).await;
    assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{ran:?}");
    assert!(ran.err.contains("need a port of their own"), "{}", ran.err);
    assert!(!home.path().join("sandbox-data/prepaid402.db").exists(), "and nothing was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sells_the_users_own_api_whole() {
    let home = home();
    let upstream = TestUpstream::start().await;
    let sandbox = SandboxProgram::start(home.path(), &["--upstream", &upstream.url]).await;
    assert!(line(&sandbox.program.out, "curl -i ").ends_with(&format!("{}/", sandbox.addresses[0])));
    for path in ["/", "/anything", "/deep/er?x=1"] {
        let answer = sandbox.get(path).await;
        assert_eq!((answer.status, answer.offer().accepts[0].amount), (402, 100), "{path}");
    }
    let asked = upstream.hits();
    assert_eq!(asked, 1, "only whether it has the path that is suggested");
    let card = sandbox.tokenise(&sandbox.get("/x").await.offer().accepts[0].publishable_key).await;
    let answer = sandbox.pay("/deep/er?x=1", &Pay::card(&card)).await;
    assert_eq!((answer.status, answer.receipt().credits_remaining.unwrap()), (200, 50_000 - 100));
    assert_eq!(upstream.seen()[asked].target, "/deep/er?x=1");
    assert_eq!(sandbox.program.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_routes_and_packs_from_a_file_but_neither_keys_nor_addresses() {
    let home = home();
    let upstream = TestUpstream::start().await;
    let toml = format!(
        "listen = \"127.0.0.1:1\"\n[stripe]\npublishable_key = \"pk_test_theirs\"\n\
         [upstream]\nurl = \"{}\"\n[[top_up.options]]\namount = \"7.00\"\n\
         [[routes]]\npath = \"/free\"\nfree = true\n[[routes]]\npath = \"/mine/{{id}}\"\nprice = \"0.02\"\n\
         [[routes]]\npath = \"/report\"\nprice = \"0.25\"\n",
        upstream.url
    );
    std::fs::write(home.path().join("own.toml"), toml).unwrap();
    let sandbox = SandboxProgram::start(home.path(), &["--config", "own.toml"]).await;
    let answer = sandbox.get("/mine/5").await;
    let requirement = &answer.offer().accepts[0];
    assert_eq!((answer.status, requirement.amount, requirement.min_top_up), (402, 200, 70_000));
    assert_eq!(requirement.publishable_key, "pk_test_prepaid402_sandbox");
    assert_eq!(sandbox.get("/api/weather").await.status, 404, "the demo is gone");
    let asked = upstream.hits();
    assert_eq!((sandbox.get("/free").await.status, upstream.hits()), (200, asked + 1));
    // Dearer than `get` pays by default, so the printed command says so.
    let mut sh = clean(home.path(), "sh");
    sh.args(["-c", &line(&sandbox.program.out, " get http")]);
    let ran = finish(sh, None).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(upstream.seen().last().unwrap().target, "/report");
    assert_eq!(sandbox.program.terminate().await, 0);

    std::fs::write(home.path().join("bad.toml"), "[[routes]]\npath = \"/x\"\nprise = \"1\"\n").unwrap();
    let ran = run(home.path(), &["sandbox", "--listen", "127.0.0.1:0", "--config", "bad.toml"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("prise"), "{}", ran.err);
}

/// An API that has no `/`, as most have not.
async fn api_with(paths: &'static [(&'static str, &'static str)]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && socket.read_buf(&mut request).await.is_ok_and(|n| n > 0)
            {
            }
            let path = String::from_utf8(request).unwrap();
            let path = path.split(' ').nth(1).unwrap();
            let answer =
                paths.iter().find(|(known, _)| *known == path).map_or("404 Not Found", |(_, answer)| answer);
            let _ = socket
                .write_all(
                    format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes(),
                )
                .await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn it_suggests_a_path_that_the_api_has() {
    for (paths, suggested) in [
        (&[("/", "200 OK")][..], "/"),
        (&[("/openapi.json", "200 OK")], "/openapi.json"),
        (&[("/", "307 Temporary Redirect\r\nlocation: /docs"), ("/docs", "200 OK")], "/docs"),
        (&[("/", "302 Found\r\nlocation: https://elsewhere.example/")], "/PATH"),
        (&[], "/PATH"),
    ] {
        let home = home();
        let api = api_with(paths).await;
        let sandbox = SandboxProgram::start(home.path(), &["--upstream", &api]).await;
        let ask = line(&sandbox.program.out, "curl -i ");
        assert!(ask.ends_with(&format!("{}{suggested}", sandbox.addresses[0])), "{paths:?}: {ask}");
        let says = sandbox.program.out.contains("/PATH stands for a path of your API");
        assert_eq!(says, suggested == "/PATH", "{}", sandbox.program.out);
        assert_eq!(sandbox.program.terminate().await, 0);
    }
}

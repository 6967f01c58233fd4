//! Who is answered at the admin listener: no web site that has a name of its own point at it, and the operator also when somebody has
//! guessed passwords.

use std::time::Duration;

use serde_json::json;

use crate::embedded::Shop;
use crate::operator::{NAME, Office, PASSWORD, basic};
use crate::support::program::{finish, program};
use crate::support::raw::{Raw, header_of, patiently, status_of};
use crate::support::{ROUTES, World, is_on_sqlite, number};

/// `method` and target, and the lines below.
async fn asked(admin_url: &str, line: &str, headers: &str) -> (String, String) {
    let mut caller = Raw::connect(admin_url).await;
    caller.send(format!("{line} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")).await;
    let head = caller.head().await;
    (head, caller.rest().await)
}

async fn status(admin_url: &str, path: &str, headers: &str) -> u16 {
    status_of(&asked(admin_url, &format!("GET {path}"), headers).await.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_site_that_points_its_name_at_the_admin_listener_is_not_answered() {
    if !is_on_sqlite("the database has nothing to do with it") {
        return;
    }
    let world = World::with(
        "admin_hosts = [\"Admin.internal\", \"gateway\"]\nadmin_public_url = \"https://admin.example.com\"",
        ROUTES,
    )
    .await;
    let office = Office::new(&world).await;
    let url = office.gateway.admin_url.as_str();
    let port = url.rsplit(':').next().unwrap();
    for (host, is_answered) in [
        ("127.0.0.1", true),
        ("192.0.2.7:4403", true),
        ("[::1]:4403", true),
        ("[2001:db8::1]", true),
        ("localhost", true),
        ("LocalHost:4403", true),
        ("localhost.", true),
        ("admin.internal", true),
        ("ADMIN.INTERNAL:8080", true),
        ("gateway:4403", true),
        ("admin.example.com", true),
        ("evil.example", false),
        (&format!("evil.example:{port}"), false),
        ("localhost.evil.example", false),
        ("evil.localhost.example", false),
        ("127.0.0.1.evil.example", false),
        ("admin.internal.evil.example", false),
        ("sub.admin.example.com", false),
        ("example.com", false),
        ("2130706433", false),
        ("0x7f.1", false),
        ("127.1", false),
        ("", false),
        ("user@localhost", false),
        ("localhost:x", false),
        ("[::1", false),
        ("localhost, evil.example", false),
        ("api.example.com", false),
    ] {
        for (path, answered) in [
            ("/admin/login", 200),
            ("/admin", 303),
            ("/admin/api/refunds?topUp=x", 401),
            ("/admin/style.css", 200),
            ("/%61dmin/login", 200),
            ("/", 303),
        ] {
            let expected = if is_answered { answered } else { 421 };
            assert_eq!(status(url, path, &format!("host: {host}\r\n")).await, expected, "{host} {path}");
        }
    }
    // The sentence says which setting, in the form that the door has.
    let (head, body) = asked(url, "POST /admin/login", "host: evil.example\r\ncontent-length: 0\r\n").await;
    assert_eq!((status_of(&head), header_of(&head, "content-type")), (421, Some("text/html; charset=utf-8")));
    assert!(body.contains("admin_hosts"), "{body}");
    let (head, body) =
        asked(url, "POST /admin/api/refunds", "host: evil.example\r\ncontent-length: 0\r\n").await;
    assert_eq!(header_of(&head, "content-type"), Some("application/problem+json"));
    assert!(body.contains("\"unknown_host\"") && body.contains("admin_hosts"), "{body}");
    // Two hosts are refused by the name that is not known, and so is one in the request's first line.
    assert_ne!(status(url, "/admin/login", "host: localhost\r\nhost: evil.example\r\n").await, 200);
    assert_eq!(status(url, "http://evil.example/admin/login", "host: localhost\r\n").await, 421);
    // Nothing is done either: a form of a page under such a name, as a browser sends it.
    let form = format!("name={NAME}&password=violet+kettle+orbit");
    let form = format!(
        "host: evil.example\r\norigin: http://evil.example\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{form}",
        form.len()
    );
    let mut caller = Raw::connect(url).await;
    caller.send(format!("POST /admin/login HTTP/1.1\r\n{form}")).await;
    assert_eq!(status_of(&caller.head().await), 421);
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM admin_sessions").await, 0);
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_scrapers_are_answered_by_whatever_name_they_know() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        for headers in [
            "host: prepaid402.default.svc\r\n",
            "host: prepaid402:4403\r\nuser-agent: Prometheus/3.0.0\r\naccept: */*\r\naccept-encoding: gzip\r\n",
        ] {
            assert_eq!(status(&gateway.admin_url, path, headers).await, 200, "{path} {headers}");
        }
        // A page of a web site that has its name point here.
        for headers in [
            "origin: http://evil.example\r\n",
            "sec-fetch-site: same-origin\r\n",
            "accept-language: de\r\n",
            "referer: http://evil.example/\r\n",
            "cookie: a=b\r\n",
        ] {
            let headers = format!("host: evil.example\r\n{headers}");
            assert_eq!(status(&gateway.admin_url, path, &headers).await, 421, "{path} {headers}");
        }
        // Where the name is known, people may look as well.
        let browser = "host: localhost\r\naccept-language: de\r\nsec-fetch-site: none\r\n";
        assert_eq!(status(&gateway.admin_url, path, browser).await, 200, "{path}");
        let encoded = format!("/%{:x}{}", path.as_bytes()[1], &path[2..]);
        let by_page = "host: evil.example\r\naccept-language: de\r\n";
        assert_eq!(status(&gateway.admin_url, &encoded, by_page).await, 421, "{encoded}");
    }
    gateway.stop().await;
    let shop = Shop::with(&world, "").await;
    assert_eq!(status(&shop.admin_url, "/admin/login", "host: evil.example\r\n").await, 421);
    assert_eq!(status(&shop.admin_url, "/readyz", "host: evil.example\r\n").await, 200);
    shop.close().await;
}

/// As cron does it with yesterday's password.
async fn guess(office: &Office<'_>, times: u32) {
    for _ in 0..times {
        let url = format!("{}/admin/api/refunds?topUp=x", office.gateway.admin_url);
        let wrong = basic(NAME, "yesterday's password");
        let headers = [("authorization", wrong.as_str())];
        let answer = office.world.client.send("GET", &url, &headers, None).await;
        assert!(matches!(answer.status, 401 | 429), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_from_the_operators_own_address_do_not_lock_refunds() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let part = |amount: &str| json!({ "topUp": wallet.top_up, "amount": amount });
    // Before anybody was right, and after.
    for key in ["a", "b", "c"] {
        guess(&office, 3).await;
        let answer = office.refund(key, &part("1.00")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // However many they are: the command waits as long as it is told to, which is not long.
    guess(&office, 40).await;
    let refund = ["refund", &wallet.top_up, "--amount", "1.00"];
    let ran = tokio::time::timeout(Duration::from_secs(30), office.run(&refund)).await.unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(office.at_stripe().await, [100; 4]);
    office.done().await;
}

/// Somebody at the same address who goes on guessing may take every turn; a password that cannot be guessed needs none.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_nobody_can_guess_is_never_slowed_down() {
    if !is_on_sqlite("the command is told where a file is") {
        return;
    }
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let database = world.file().display().to_string();
    let admin = async |words: &[&str]| {
        let all = [&["admin"][..], words, &["--generate-password", "--database", &database]].concat();
        let ran = finish(program(world.folder.path(), &all), None).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out.lines().find_map(|line| line.strip_prefix("password: ")).unwrap().to_owned()
    };
    let refund = async |password: &str| {
        let mut command = program(world.folder.path(), &["refund", &wallet.top_up, "--amount", "1.00"]);
        command.env("PREPAID402_ADMIN_URL", &office.gateway.admin_url);
        command.env("PREPAID402_ADMIN_USER", "ci").env("PREPAID402_ADMIN_PASSWORD", password);
        finish(command, None).await
    };
    let first = admin(&["create-user", "ci"]).await;
    let url = format!("{}/admin/api/refunds?topUp=x", office.gateway.admin_url);
    let wrong = basic("ci", "wrong");
    let headers = [("authorization", wrong.as_str())];
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(world.client.send("GET", &url, &headers, None).await.status);
    }
    assert!(statuses[0] == 401 && statuses.contains(&429), "{statuses:?}");
    let ran = refund(&first).await;
    assert_eq!((ran.code, ran.err.contains("waiting")), (0, false), "{ran:?}");
    // A new one ends it, and one of its form is no password of others.
    let second = admin(&["set-password", "ci"]).await;
    assert_ne!(first, second);
    for wrong in [first, format!("{second}x")] {
        let ran = refund(&wrong).await;
        assert_eq!(ran.code, 1, "{ran:?}");
    }
    assert_eq!(refund(&second).await.code, 0);
    assert_eq!(office.at_stripe().await, [100, 100]);
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_has_to_wait_too_long_says_so() {
    if !is_on_sqlite("the database has nothing to do with it") {
        return;
    }
    // A server that never lets anybody in.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let mut serving = Raw { socket, buffer: Vec::new() };
            serving.head().await;
            let body = "{\"code\":\"too_many_attempts\",\"message\":\"Too many attempts.\"}";
            let head = format!(
                "HTTP/1.1 429 Too Many Requests\r\nretry-after: 600\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            serving.send(format!("{head}{body}")).await;
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(folder.path(), &["freeze", "x"]);
    command
        .env("PREPAID402_ADMIN_URL", &url)
        .env("PREPAID402_ADMIN_USER", NAME)
        .env("PREPAID402_ADMIN_PASSWORD", "a password");
    let ran = patiently("the command gives up", finish(command, None)).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("too_many_attempts"), "{ran:?}");
}

/// Behind a proxy, whoever guesses has an address of their own.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_others_who_guess_are_others() {
    if !is_on_sqlite("the database has nothing to do with it") {
        return;
    }
    let world = World::with("trusted_proxies = [\"127.0.0.1\"]", ROUTES).await;
    let office = Office::new(&world).await;
    let ask = async |authorization: &str, from: &str| {
        let url = format!("{}/admin/api/refunds?topUp=x", office.gateway.admin_url);
        let headers = [("authorization", authorization), ("x-forwarded-for", from)];
        world.client.send("GET", &url, &headers, None).await.status
    };
    let mut statuses = Vec::new();
    for n in 0..40 {
        statuses.push(ask(&basic(&format!("nobody{n}"), "wrong"), "203.0.113.9").await);
    }
    assert!(statuses.contains(&429), "whoever guesses is slowed down: {statuses:?}");
    assert_eq!(ask(&basic(NAME, PASSWORD), "203.0.113.10").await, 404);
    office.done().await;
}

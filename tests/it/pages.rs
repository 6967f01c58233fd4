//! The admin pages in a real browser: what they say, and that they fit a screen and a phone. The pictures are kept in
//! `target/screenshots/`, because only people can judge them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::http::Client;
use crate::support::program::{SandboxProgram, clean, finish, is_installed};
use crate::support::{DECLINED, GOOD, Gateway, Pay, World, is_on_sqlite};

const PASSWORD: &str = "violet kettle orbit";

/// Wide as a laptop, narrow as a phone.
const SIZES: [(u32, u32); 2] = [(1280, 900), (400, 800)];

/// Some payments, some spending, a refusal.
async fn busy_day(world: &World, gateway: &Gateway<'_>) -> String {
    let mut last = String::new();
    for (card, amount) in [
        (GOOD, 50_000),
        ("5555555555554444", 200_000),
        ("378282246310005", 1_250_000),
        ("4000056655665556", 50_000),
    ] {
        let token = world.tokenise(card).await;
        let first = gateway.pay("/api/weather", &Pay::card(&token).top_up(amount)).await;
        assert_eq!(first.status, 200, "{}", first.text());
        last = first.receipt().client_id;
        for n in 0..12 {
            let path = if n % 3 == 0 { "/api/joke" } else { "/up/status/200" };
            assert_eq!(gateway.pay(path, &Pay::client(&last)).await.status, 200);
        }
    }
    let declined = world.tokenise(DECLINED).await;
    assert_eq!(gateway.pay("/api/weather", &Pay::card(&declined)).await.status, 402);
    last
}

async fn add_user(world: &World) {
    let mut connection = prepaid402::db::connect(&world.database).await.unwrap();
    prepaid402::http::admin::users::create_user(&mut connection, "frida", PASSWORD).await.unwrap();
}

/// The session's cookie.
async fn sign_in(client: &Client, admin_url: &str, name: &str, password: &str) -> String {
    let form = format!("name={name}&password={}", password.replace(' ', "+"));
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    let answer =
        client.send("POST", &format!("{admin_url}/admin/login"), &[("origin", admin_url)], body).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

async fn fetch(client: &Client, admin_url: &str, path: &str, cookie: &str) -> String {
    let url = format!("{admin_url}{path}");
    let answer = client.send("GET", &url, &[("cookie", cookie)], None).await;
    assert_eq!(answer.status, 200, "{path}");
    answer.text()
}

/// The first client's page, as the list links it.
fn first_client(list: &str) -> String {
    let from = list.find("href=\"/admin/clients/").unwrap() + "href=\"".len();
    list[from..].split('"').next().unwrap().to_owned()
}

/// What a screen reader and a keyboard need of every page.
fn check_semantics(name: &str, html: &str) {
    for (part, times) in [("<h1", 1), ("<main id=\"main\">", 1), ("<html lang=\"en\">", 1), ("<title>", 1)] {
        assert_eq!(html.matches(part).count(), times, "{part} in {name}");
    }
    assert!(html.contains("name=\"viewport\"") && html.contains("href=\"#main\""), "{name}");
    assert!(!html.contains("<script") && !html.contains(" style=") && !html.contains("onclick"), "{name}");
    assert_eq!(
        html.matches("<th ").count(),
        html.matches("<th scope=").count(),
        "{name}: every heading has a scope"
    );
    for id in html.split(" for=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(html.contains(&format!("id=\"{id}\"")), "{name}: the label of {id} has its field");
    }
    for id in html.split("aria-labelledby=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(html.contains(&format!("id=\"{id}\"")), "{name}: the section of {id} has its heading");
    }
}

/// A page that shows every captured page in a frame of each width, and asks the browser what sticks out.
fn measuring_page(names: &[&str]) -> String {
    let mut page = "<!doctype html><title>?</title><body>".to_owned();
    for name in names {
        for (width, height) in SIZES {
            page += &format!(
                "<iframe src=\"/{name}\" title=\"{name}-{width}\" width={width} height={height}></iframe>"
            );
        }
    }
    page + "<script>addEventListener('load', () => {
        const verdicts = [...document.querySelectorAll('iframe')].map((frame) => {
            const page = frame.contentDocument, edge = page.documentElement.clientWidth;
            const out = [...page.querySelectorAll('body *')].filter((e) => !e.closest('.scroll') && !e.matches('.skip')
                && e.getBoundingClientRect().right > edge + 1).map((e) => e.tagName + '.' + e.className);
            if (page.documentElement.scrollWidth > edge) out.push('page');
            for (const box of page.querySelectorAll('.scroll'))
                if (edge < 500 && box.scrollWidth > box.clientWidth) out.push('table');
            return frame.title + (out.length ? ' overflows: ' + out.join(' ') : ' fits');
        });
        document.body.textContent = 'VERDICT ' + verdicts.join(', ') + ' END';
    })</script>"
}

/// Serves the captured pages and the style sheet that they link.
async fn serve_pages(pages: BTreeMap<String, String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let pages = Arc::new(pages);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer(socket, Arc::clone(&pages)));
        }
    });
    url
}

async fn answer(mut socket: TcpStream, pages: Arc<BTreeMap<String, String>>) {
    let mut request = vec![0; 16 * 1024];
    let Ok(length) = socket.read(&mut request).await else { return };
    let head = String::from_utf8_lossy(&request[..length]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let media_type = if path.ends_with(".css") { "text/css" } else { "text/html; charset=utf-8" };
    let body = pages.get(path).map_or("", String::as_str);
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
}

async fn chromium(home: &Path, args: &[String]) -> String {
    let profile = tempfile::tempdir_in(home).unwrap();
    let mut command = clean(home, "chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).args(args);
    let ran = finish(command, None).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.out
}

fn screenshots() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_says_what_it_should_and_fits_screen_and_phone() {
    if !is_installed("chromium").await {
        return;
    }
    let world = World::new().await;
    let gateway = world.gateway().await;
    busy_day(&world, &gateway).await;
    add_user(&world).await;
    let cookie = sign_in(&world.client, &gateway.admin_url, "frida", PASSWORD).await;
    let list = fetch(&world.client, &gateway.admin_url, "/admin/clients", &cookie).await;
    let client = first_client(&list);
    let mut pages = BTreeMap::new();
    for (name, path, cookie, expected) in [
        ("login", "/admin/login", "", vec!["type=\"password\"", "autocomplete=\"current-password\""]),
        ("overview", "/admin", &*cookie, vec!["Newest payments", "Newest ledger entries", "153.04"]),
        ("clients", "/admin/clients", &cookie, vec!["Active", "cus_", "124.51 USD"]),
        ("client", &client, &cookie, vec!["Spendable", "Begins with", "Ledger entries"]),
        ("payments", "/admin/payments", &cookie, vec!["125.00 USD", "Failed", "card declined", "pi_"]),
    ] {
        let html = fetch(&world.client, &gateway.admin_url, path, cookie).await;
        check_semantics(name, &html);
        for part in expected {
            assert!(html.contains(part), "{part} in {name}");
        }
        pages.insert(format!("/{name}"), html);
    }
    let style = fetch(&world.client, &gateway.admin_url, "/admin/style.css", "").await;
    look(pages, style).await;
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_sandbox_says_what_it_is_and_what_will_appear_where() {
    if !is_on_sqlite("the sandbox keeps its books in a file of its own") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let sandbox = SandboxProgram::start(home.path(), &["--json"]).await;
    let (admin, user) = (sandbox.text("adminUrl"), sandbox.text("adminUser"));
    let cookie = sign_in(&sandbox.client, &admin, &user, &sandbox.text("adminPassword")).await;
    let mut pages = BTreeMap::new();
    for (name, path, expected) in [
        ("new-overview", "/admin", "No card has been charged yet."),
        ("new-clients", "/admin/clients", "There are no clients yet."),
        ("new-payments", "/admin/payments", "No payment yet."),
    ] {
        let html = fetch(&sandbox.client, &admin, path, &cookie).await;
        check_semantics(name, &html);
        assert!(html.contains("<strong>SANDBOX</strong>") && html.contains(expected), "{html}");
        pages.insert(format!("/{name}"), html);
    }
    let style = fetch(&sandbox.client, &admin, "/admin/style.css", "").await;
    assert_eq!(sandbox.program.terminate().await, 0);
    if is_installed("chromium").await {
        look(pages, style).await;
    }
}

/// Measures the captured pages in the browser, and takes their pictures.
async fn look(mut pages: BTreeMap<String, String>, style: String) {
    let names: Vec<String> = pages.keys().map(|path| path[1..].to_owned()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    pages.insert("/measure".to_owned(), measuring_page(&names));
    pages.insert("/admin/style.css".to_owned(), style);
    let url = serve_pages(pages).await;
    let home = tempfile::tempdir().unwrap();

    let dom = chromium(home.path(), &["--dump-dom".to_owned(), format!("{url}/measure")]).await;
    let verdict = dom.split("VERDICT ").nth(1).and_then(|rest| rest.split(" END").next()).unwrap();
    assert_eq!(verdict.matches(" fits").count(), names.len() * SIZES.len(), "{verdict}");
    for name in names {
        for (width, height) in SIZES {
            let file = screenshots().join(format!("{name}-{width}.png"));
            let size = format!("--window-size={width},{height}");
            let picture = format!("--screenshot={}", file.display());
            chromium(home.path(), &[size, picture, format!("{url}/{name}")]).await;
            assert!(std::fs::metadata(&file).unwrap().len() > 5_000, "{name} is a picture");
        }
    }
}

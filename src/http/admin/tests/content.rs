//! What the pages say.

use actix_web::http::StatusCode;

use super::*;
use crate::domain::TopUpId;

/// What others may put into names, codes and ids.
const CORPUS: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' autofocus onfocus=alert(1) x='",
    "</title><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7919 * 7907 }}",
    "<svg/onload=alert(1)>",
    "&lt;script&gt;",
];

async fn run(office: &mut Office, sql: &'static str, texts: &[&str]) {
    let mut query = query(both(sql));
    for text in texts {
        query = query.bind((*text).to_owned());
    }
    query.execute(&mut office.writer).await.expect("written");
}

/// One client with an entry and a top-up, whose every text is `text`.
async fn furnish(office: &mut Office, text: &str) {
    run(
        office,
        "INSERT INTO clients (id, public_id, currency, paid, bonus, debt, sequence, last_entry, status, stripe_customer, created_at) \
         VALUES (1, $1, $1, 4950000, 1000000, 0, 1, 1, 'active', $1, 1700000000000000)",
        &[text],
    )
    .await;
    run(
        office,
        "INSERT INTO client_keys (id, client, hash, shown_prefix, secret_version, scope, created_at, revoked_at) \
         VALUES ('k', 1, zeroblob(32), $1, 1, 'owner', 1, 1700000000000000)",
        &[text],
    )
    .await;
    run(office, "INSERT INTO routes (id, name) VALUES (1, $1)", &[text]).await;
    run(
        office,
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, paid_after, bonus_after, \
         debt_after, route, upstream_status) \
         VALUES (1, 1700000000000000, $1, 1, 8, 50000, $1, 1, 1, 4950000, 1000000, 0, 1, 200)",
        &[text],
    )
    .await;
    let id = TopUpId::new().to_string();
    run(
        office,
        "INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, failure, payment_intent, created_at, \
         updated_at) VALUES ($2, 1, 'k', zeroblob(32), 1, $1, 5000000, 1000000, 'succeeded', $1, $1, 1700000000000000, 1)",
        &[text, &id],
    )
    .await;
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[actix_web::test]
async fn nothing_from_others_becomes_markup() {
    for text in CORPUS {
        let mut office = Office::new().await;
        furnish(&mut office, text).await;
        let door = door(office.state(true, false)).await;
        let cookie = enter(&door).await;
        let mut shown = 0;
        for path in [
            "/admin".to_owned(),
            "/admin/clients".to_owned(),
            format!("/admin/clients?q={}", encoded(text)),
            format!("/admin/clients?q={}x", encoded(text)),
            format!("/admin/clients/{}", encoded(text)),
            format!("/admin/clients/{}?before=1", encoded(text)),
            "/admin/payments".to_owned(),
            format!("/admin/payments?state={}", encoded(text)),
            format!("/admin/{}", encoded(text)),
        ] {
            let answer = door(get(&path, &cookie)).await;
            for marker in [
                "<script",
                "<img",
                "<svg",
                "onerror=alert(1)>",
                "' autofocus",
                "href=\"javascript",
                "62615533",
            ] {
                assert!(!answer.body.contains(marker), "{path} has {marker}\n{}", answer.body);
            }
            // Shown as text, wherever it is shown: every `&` is one of ours.
            shown += usize::from(answer.body.contains("alert(1)") || answer.body.contains("&#38;lt;"));
        }
        assert!(shown >= 4 || text.starts_with("{{"), "{text} was shown on {shown} pages");
        let answer = door(login(text, "x")).await;
        assert!(!answer.body.contains("<script") && !answer.body.contains("<img"), "{}", answer.body);
    }
}

#[actix_web::test]
async fn finance_people_read_words_and_decimals() {
    let mut office = Office::new().await;
    furnish(&mut office, "usd").await;
    run(&mut office, "UPDATE routes SET name = 'GET /api/weather'", &[]).await;
    run(&mut office, "UPDATE top_ups SET payment_intent = 'pi_123', failure = NULL", &[]).await;
    run(
        &mut office,
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, previous, paid_after, \
         bonus_after, debt_after, route) \
         VALUES (2, 1700000001000000, 'usage:2', 1, 8, 50000, 'usd', 1, 2, 1, 4900000, 1000000, 0, 1)",
        &[],
    )
    .await;
    run(&mut office, "UPDATE clients SET last_entry = 2, sequence = 2, paid = 4900000", &[]).await;
    let door = door(office.state(false, false)).await;
    let cookie = enter(&door).await;
    let client = door(get("/admin/clients/usd", &cookie)).await.body;
    for words in [
        "Spendable</dt><dd class=\"big\">5.90 USD",
        "Paid credit</dt><dd class=\"big\">4.90 USD",
        "Bonus credit</dt><dd class=\"big\">1.00 USD",
        "Debt</dt><dd class=\"big\">0.00 USD",
        "Usage GET /api/weather",
        "\">\u{2212}0.05 USD</td>",
        "data-label=\"Debit\">Paid credit</td>",
        "data-label=\"Credit\">Revenue</td>",
        "<code>pi_123</code>",
        "<time datetime=\"2023-11-14T22:13:21.000Z\">2023-11-14 22:13:21</time>",
        "Revoked",
        "badge good\">Succeeded",
    ] {
        assert!(client.contains(words), "{words}\n{client}");
    }
    assert!(!client.contains("SANDBOX"));
    let clients = door(get("/admin/clients", &cookie)).await.body;
    assert!(clients.contains("href=\"/admin/clients/usd\"") && clients.contains("4.90 USD"), "{clients}");
    let overview = door(get("/admin", &cookie)).await.body;
    for words in ["Paid credit</dt>", "4.90 USD", "Revenue, last 24 hours", "Newest payments", "pi_123"] {
        assert!(overview.contains(words), "{words}\n{overview}");
    }
}

#[actix_web::test]
async fn what_is_frozen_or_in_debt_says_so() {
    let mut office = Office::new().await;
    furnish(&mut office, "usd").await;
    let door = door(office.state(false, false)).await;
    let cookie = enter(&door).await;
    run(&mut office, "UPDATE clients SET paid = 0, bonus = 0, debt = 2500000", &[]).await;
    let page = door(get("/admin/clients/usd", &cookie)).await.body;
    assert!(page.contains("In debt") && page.contains("This client owes 2.50 USD"), "{page}");
    run(&mut office, "UPDATE clients SET paid = 1000000, debt = 0, status = 'frozen'", &[]).await;
    let page = door(get("/admin/clients/usd", &cookie)).await.body;
    assert!(page.contains("badge bad\">Frozen"), "{page}");
    assert!(page.contains("Spendable</dt><dd class=\"big\">0.00 USD"), "{page}");
}

#[actix_web::test]
async fn lists_are_paged_to_their_end() {
    let mut office = Office::new().await;
    run(
        &mut office,
        "INSERT INTO clients (id, public_id, currency, paid, bonus, debt, sequence, last_entry, status, created_at) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120) \
         SELECT i, 'client-' || substr(CAST(1000 + i AS TEXT), 2), 'usd', 0, 0, 0, 0, CASE i WHEN 1 THEN 120 END, 'active', i FROM n",
        &[],
    )
    .await;
    run(
        &mut office,
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, previous) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120) \
         SELECT i, i, 'usage:' || substr(CAST(1000 + i AS TEXT), 2), 1, 8, 1, 'usd', 1, NULLIF(i - 1, 0) FROM n",
        &[],
    )
    .await;
    for number in 0..120_i64 {
        let id = TopUpId::new().to_string();
        query(both(
            "INSERT INTO top_ups (id, key, key_hash, key_secret, currency, amount, bonus, state, created_at, updated_at) \
             VALUES ($1, 'k', zeroblob(32), 1, 'usd', 1, 0, 'failed', $2, $2)",
        ))
        .bind(id)
        .bind(number)
        .execute(&mut office.writer)
        .await
        .expect("a top-up");
    }
    let door = door(office.state(false, false)).await;
    let cookie = enter(&door).await;
    for (start, row) in [
        ("/admin/clients", "<td data-label=\"Client\"><a class=\"id\""),
        ("/admin/clients?q=client-", "<td data-label=\"Client\"><a class=\"id\""),
        ("/admin/clients/client-001", "usage:"),
        ("/admin/payments", "Top-up <code>"),
        ("/admin/payments?state=failed", "Top-up <code>"),
    ] {
        let (mut path, mut rows, mut pages) = (start.to_owned(), 0, 0);
        loop {
            let page = door(get(&path, &cookie)).await;
            assert_eq!(page.status, StatusCode::OK, "{path}");
            rows += page.body.matches(row).count();
            pages += 1;
            match page.body.split_once("<a rel=\"next\" href=\"") {
                Some((_, rest)) => path = rest.split('"').next().expect("an address").replace("&amp;", "&"),
                None => break,
            }
        }
        assert_eq!((rows, pages), (120, 3), "{start}");
    }
}

#[actix_web::test]
async fn secrets_do_not_stay_in_addresses() {
    let office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let cookie = enter(&door).await;
    let key = "pck_AbCdEfGHIJKLMNOPQRSTUVWXYZ0123456789abcdefg";
    let answer = door(get(&format!("/admin/clients?q={key}"), &cookie)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), "/admin/clients?q=pck%5FAbCdEf");
    let shortened = door(get(answer.header("location"), &cookie)).await;
    assert!(shortened.body.contains("No client matches <strong>pck_AbCdEf</strong>"), "{}", shortened.body);
    let card = door(get("/admin/clients?q=pm_1SecretCard", &cookie)).await;
    assert!(
        card.body.contains("cannot be searched for") && !card.body.contains("SecretCard"),
        "{}",
        card.body
    );
}

#[actix_web::test]
async fn empty_pages_explain_themselves() {
    let office = Office::new().await;
    let door = door(office.state(true, false)).await;
    let cookie = enter(&door).await;
    for (path, words) in [
        ("/admin", "No card has been charged yet."),
        ("/admin", "The ledger is empty."),
        ("/admin/clients", "There are no clients yet."),
        ("/admin/clients?before=1", "There are no older clients."),
        ("/admin/clients?q=%25", "No client matches <strong>%</strong>"),
        ("/admin/payments", "No payment yet."),
        ("/admin/payments?state=failed", "No payment has failed."),
        ("/admin/payments?state=unfinished", "Nothing is unfinished"),
        ("/admin/login", "prepaid402 admin create-user NAME"),
        ("/admin/clients/nobody", "There is nothing at this address."),
    ] {
        let answer = door(get(path, &cookie)).await;
        assert!(answer.body.contains(words), "{path}\n{}", answer.body);
        assert!(answer.body.contains("<strong>SANDBOX</strong>"), "{path}");
        assert!(!answer.body.contains("style=") && !answer.body.contains("<script"), "{path}");
    }
}

#[actix_web::test]
async fn a_proxy_in_front_that_is_not_heard_is_told_to_whoever_logs_in() {
    let office = Office::new().await;
    let state = office.state(false, false);
    let request = TestRequest::get().peer_addr(([10, 0, 0, 7], 4000).into());
    let request = request.insert_header(("x-forwarded-for", "203.0.113.9")).to_http_request();
    let door = door(state.clone()).await;
    let cookie = enter(&door).await;
    assert!(!door(get("/admin", &cookie)).await.body.contains("trusted_proxies"));
    state.callers.watch(&request);
    assert!(door(get("/admin", &cookie)).await.body.contains("10.0.0.7 sends X-Forwarded-For"));
}

//! Who gets in, for how long, and who does not.

use actix_web::http::StatusCode;

use super::*;
use crate::http::admin::{HASHES, login};

const PAGES: [&str; 5] = ["/admin", "/admin/", "/admin/clients", "/admin/clients/x", "/admin/payments"];

#[actix_web::test]
async fn nothing_is_shown_without_logging_in() {
    let office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let forged = format!("prepaid402-admin={}", "A".repeat(43));
    for path in PAGES.into_iter().chain(["/admin/logout", "/admin/nothing", "/admin/clients/x/y"]) {
        for cookie in ["", "prepaid402-admin=", "prepaid402-admin=short", "other=1", &forged] {
            let answer = door(get(path, cookie)).await;
            assert_eq!(
                (answer.status, answer.header("location"), answer.body.as_str()),
                (StatusCode::SEE_OTHER, "/admin/login", ""),
                "{path} {cookie}"
            );
        }
    }
    let answer = door(get("/", "")).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/admin"));
    assert_eq!(door(get("/elsewhere", "")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(door(get("/administrator", "")).await.status, StatusCode::NOT_FOUND);
}

#[actix_web::test]
async fn the_right_password_opens_every_page() {
    let mut office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let cookie = enter(&door).await;
    assert_eq!(cookie.len(), "prepaid402-admin=".len() + 43);
    for path in PAGES {
        let expected = if path.ends_with("/x") { StatusCode::NOT_FOUND } else { StatusCode::OK };
        assert_eq!(door(get(path, &cookie)).await.status, expected, "{path}");
    }
    // The database does not hold what the cookie holds.
    let token = cookie.split_once('=').expect("a cookie").1;
    let stored: Vec<u8> = query_scalar("SELECT hash FROM admin_sessions")
        .fetch_one(&mut office.writer)
        .await
        .expect("a session");
    assert_eq!(stored, crate::domain::SecretHash::of(token).as_bytes());
}

#[actix_web::test]
async fn wrong_name_and_wrong_password_are_one_answer() {
    let office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let mut answers = Vec::new();
    for (name, password) in
        [(NAME, "not the password"), ("nobody", PASSWORD), ("' OR 1=1 --", "x"), ("Alice", PASSWORD)]
    {
        let answer = door(login(name, password)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name}");
        assert!(answer.headers.get("set-cookie").is_none());
        assert!(!answer.body.contains(password) || password == "x");
        let shown = format!("value=\"{}\"", name.replace('\'', "&#39;"));
        assert!(answer.body.contains(&shown), "{}", answer.body);
        answers.push(answer.body.replace(&shown, ""));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "the answers differ by the name only");
    // Too long or incomplete: the same words, and no hash is computed.
    let long = "x".repeat(1_025);
    for fields in [vec![("name", NAME), ("password", long.as_str())], vec![("name", NAME)], vec![]] {
        let answer = door(post("/admin/login", "", &fields)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(answer.body.contains("The name or the password is not right."));
    }
}

#[actix_web::test]
async fn guessing_is_slowed_down_also_for_names_that_do_not_exist() {
    for name in [NAME, "nobody"] {
        let office = Office::new().await;
        let door = door(office.state(false, false)).await;
        for _ in 0..10 {
            assert_eq!(door(login(name, "a wrong password")).await.status, StatusCode::FORBIDDEN);
        }
        let answer = door(login(name, PASSWORD)).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "also with the right password");
        assert_eq!(answer.header("retry-after"), "1");
        office.pass(1_000_000);
        let after = door(login(name, PASSWORD)).await.status;
        assert_eq!(after == StatusCode::SEE_OTHER, name == NAME, "nobody is locked out");
    }
}

#[actix_web::test]
async fn parallel_guesses_are_all_counted() {
    let office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let guesses = (0..30).map(|_| door(login(NAME, "a wrong password")));
    let answers = futures_util::future::join_all(guesses).await;
    let hashed = answers.iter().filter(|answer| answer.status == StatusCode::FORBIDDEN).count();
    assert_eq!(hashed, 10);
    assert!(answers.iter().all(|answer| answer.status.is_client_error()));
}

#[actix_web::test]
async fn sessions_end_when_idle_and_after_eight_hours() {
    let mut office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let idle = enter(&door).await;
    office.pass(15 * MINUTE - 1);
    assert_eq!(door(get("/admin", &idle)).await.status, StatusCode::OK);
    office.pass(15 * MINUTE - 1);
    assert_eq!(door(get("/admin", &idle)).await.status, StatusCode::OK, "use keeps it alive");
    office.pass(15 * MINUTE);
    let answer = door(get("/admin", &idle)).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/admin/login"));
    assert!(answer.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(office.sessions().await, 0);

    let busy = enter(&door).await;
    for _ in 0..47 {
        office.pass(10 * MINUTE);
        assert_eq!(door(get("/admin", &busy)).await.status, StatusCode::OK);
    }
    office.pass(10 * MINUTE);
    assert_eq!(door(get("/admin", &busy)).await.status, StatusCode::SEE_OTHER);
}

#[actix_web::test]
async fn login_makes_a_new_token_and_ends_the_old_one() {
    let mut office = Office::new().await;
    let door = door(office.state(false, false)).await;
    // A token that somebody planted is not taken over.
    let planted = format!("prepaid402-admin={}", "A".repeat(43));
    let fields = [("name", NAME), ("password", PASSWORD)];
    let first = door(post("/admin/login", &planted, &fields)).await.cookie();
    assert_ne!(first, planted);
    let second = door(post("/admin/login", &first, &fields)).await.cookie();
    assert_ne!(first, second);
    assert_eq!(door(get("/admin", &planted)).await.status, StatusCode::SEE_OTHER);
    assert_eq!(door(get("/admin", &first)).await.status, StatusCode::SEE_OTHER);
    assert_eq!(door(get("/admin", &second)).await.status, StatusCode::OK);
    assert_eq!(office.sessions().await, 1);
}

#[actix_web::test]
async fn a_user_has_five_sessions_at_most() {
    let mut office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let mut cookies = Vec::new();
    for _ in 0..7 {
        office.pass(1_000_000);
        cookies.push(enter(&door).await);
    }
    assert_eq!(office.sessions().await, 5);
    for (index, cookie) in cookies.iter().enumerate() {
        let live = door(get("/admin", cookie)).await.status == StatusCode::OK;
        assert_eq!(live, index >= 2, "{index}");
    }
}

#[actix_web::test]
async fn logging_out_ends_the_session_on_the_server() {
    let mut office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let (here, there) = (enter(&door).await, enter(&door).await);
    let token = door(get("/admin", &here)).await.csrf_token();
    let answer = door(post("/admin/logout", &here, &[("csrf_token", &token)])).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/admin/login"));
    assert_eq!(answer.header("clear-site-data"), "\"cookies\", \"storage\"");
    assert!(answer.header("set-cookie").starts_with("prepaid402-admin=; "));
    // The cookie and the form again.
    assert_eq!(door(get("/admin", &here)).await.status, StatusCode::SEE_OTHER);
    assert_eq!(
        door(post("/admin/logout", &here, &[("csrf_token", &token)])).await.header("clear-site-data"),
        ""
    );
    assert_eq!(door(get("/admin", &there)).await.status, StatusCode::OK);

    let elsewhere = enter(&door).await;
    let token = door(get("/admin", &elsewhere)).await.csrf_token();
    door(post("/admin/logout", &elsewhere, &[("csrf_token", &token), ("everywhere", "1")])).await;
    assert_eq!(door(get("/admin", &there)).await.status, StatusCode::SEE_OTHER);
    assert_eq!(office.sessions().await, 0);
}

#[actix_web::test]
async fn a_new_password_and_a_removal_end_sessions() {
    let mut office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let cookie = enter(&door).await;
    users::set_password(&mut office.writer, NAME, "another long password").await.expect("set");
    assert_eq!(door(get("/admin", &cookie)).await.status, StatusCode::SEE_OTHER);
    assert_eq!(door(login(NAME, PASSWORD)).await.status, StatusCode::FORBIDDEN);
    let cookie = door(login(NAME, "another long password")).await.cookie();
    assert_eq!(door(get("/admin", &cookie)).await.status, StatusCode::OK);
    users::remove_user(&mut office.writer, NAME).await.expect("removed");
    assert_eq!(door(get("/admin", &cookie)).await.status, StatusCode::SEE_OTHER);
    assert_eq!(door(login(NAME, "another long password")).await.status, StatusCode::FORBIDDEN);
}

#[actix_web::test]
async fn a_login_that_overlaps_a_new_password_begins_no_session() {
    let mut office = Office::new().await;
    let user = query("SELECT id, password_hash FROM admin_users")
        .fetch_one(&mut office.writer)
        .await
        .expect("a user");
    let (id, old): (i64, String) = (user.try_get(0).expect("an id"), user.try_get(1).expect("a hash"));
    users::set_password(&mut office.writer, NAME, "another long password").await.expect("set");
    let begun = super::super::sessions::begin(&office.db, id, old, None, 1).await.expect("answers");
    assert!(begun.is_none());
    assert_eq!(office.sessions().await, 0);
}

#[actix_web::test]
async fn changes_need_our_own_page_and_its_token() {
    let office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let (cookie, other) = (enter(&door).await, enter(&door).await);
    let token = door(get("/admin", &cookie)).await.csrf_token();
    let foreign = door(get("/admin", &other)).await.csrf_token();
    let refused = [
        // The browser's word on where it comes from.
        (vec![("sec-fetch-site", "cross-site")], token.as_str()),
        (vec![("sec-fetch-site", "same-site")], &token),
        (vec![("sec-fetch-site", "none")], &token),
        (vec![("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], &token),
        (
            vec![("sec-fetch-site", "cross-site"), ("origin", "http://admin.test"), ("host", "admin.test")],
            &token,
        ),
        (vec![("origin", "http://evil.test"), ("host", "admin.test")], &token),
        (vec![("origin", "http://admin.test:81"), ("host", "admin.test")], &token),
        (vec![("origin", "http://admin.test.evil.test"), ("host", "admin.test")], &token),
        (vec![("origin", "null"), ("host", "admin.test")], &token),
        (vec![("origin", "http://admin.test")], &token),
        (vec![("host", "admin.test")], &token),
        (vec![], &token),
        // The token.
        (vec![("sec-fetch-site", "same-origin")], ""),
        (vec![("sec-fetch-site", "same-origin")], &foreign),
        (vec![("sec-fetch-site", "same-origin")], &token[1..]),
    ];
    for (headers, given) in refused {
        let mut request = bare_post("/admin/logout", &cookie, &[("csrf_token", given)]);
        for header in &headers {
            request = request.append_header(*header);
        }
        let answer = door(request).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{headers:?} {given}");
        assert!(answer.body.contains("Nothing was changed."));
        assert_eq!(door(get("/admin", &cookie)).await.status, StatusCode::OK, "{headers:?} {given}");
    }
    let no_form = door(post("/admin/logout", &cookie, &[])).await;
    assert_eq!(no_form.status, StatusCode::FORBIDDEN);
    let huge = "x".repeat(9_000);
    let too_large = door(post("/admin/logout", &cookie, &[("csrf_token", &token), ("x", &huge)])).await;
    assert_eq!(too_large.status, StatusCode::FORBIDDEN);
    // Not by GET, with whatever is in the address.
    let by_get = door(get(&format!("/admin/logout?csrf_token={token}"), &cookie)).await;
    assert!(by_get.status.is_client_error());
    assert_eq!(door(get("/admin", &cookie)).await.status, StatusCode::OK);

    let by_origin = bare_post("/admin/logout", &cookie, &[("csrf_token", &token)])
        .insert_header(("origin", "http://admin.test:8403"))
        .insert_header(("host", "admin.test:8403"));
    assert_eq!(door(by_origin).await.status, StatusCode::SEE_OTHER);
}

#[actix_web::test]
async fn nobody_is_logged_in_by_another_site() {
    let mut office = Office::new().await;
    let door = door(office.state(false, false)).await;
    let fields = [("name", NAME), ("password", PASSWORD)];
    for site in [Some("cross-site"), Some("none"), None] {
        let mut request = bare_post("/admin/login", "", &fields);
        if let Some(site) = site {
            request = request.insert_header(("sec-fetch-site", site));
        }
        let answer = door(request).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(answer.headers.get("set-cookie").is_none());
    }
    assert_eq!(
        door(get("/admin/login?name=alice&password=violet+kettle+orbit", "")).await.status,
        StatusCode::OK
    );
    assert_eq!(office.sessions().await, 0);
}

#[actix_web::test]
async fn cookies_have_every_protection() {
    let office = Office::new().await;
    for (https, name) in [(false, "prepaid402-admin="), (true, "__Host-prepaid402-admin=")] {
        let door = door(office.state(false, https)).await;
        let answer = door(login(NAME, PASSWORD)).await;
        let cookie = answer.header("set-cookie");
        assert!(cookie.starts_with(name), "{cookie}");
        let mut attributes: Vec<&str> = cookie.split("; ").skip(1).collect();
        attributes.sort_unstable();
        let mut expected = vec!["HttpOnly", "Path=/", "SameSite=Strict"];
        expected.extend(https.then_some("Secure"));
        assert_eq!(attributes, expected);
        assert_eq!(door(get("/admin", &answer.cookie())).await.status, StatusCode::OK);
    }
}

#[actix_web::test]
async fn every_answer_has_every_header() {
    let office = Office::new().await;
    for https in [false, true] {
        let door = door(office.state(false, https)).await;
        let cookie = enter(&door).await;
        let token = door(get("/admin", &cookie)).await.csrf_token();
        let mut answers = Vec::new();
        for path in PAGES.into_iter().chain([
            "/",
            "/admin/login",
            "/admin/style.css",
            "/admin/logout",
            "/admin/nothing",
            "/elsewhere",
            "/admin/clients?before=x",
            "/admin/payments?state=x",
            "/admin/payments?before=x",
        ]) {
            answers.push((path, door(get(path, &cookie)).await));
            answers.push((path, door(get(path, "")).await));
            answers.push((path, door(get(path, &cookie).method(Method::DELETE)).await));
        }
        answers.push(("wrong login", door(login("nobody", "x")).await));
        answers.push(("forged login", door(bare_post("/admin/login", "", &[])).await));
        answers.push(("forged logout", door(bare_post("/admin/logout", &cookie, &[])).await));
        answers.push(("logout", door(post("/admin/logout", &cookie, &[("csrf_token", &token)])).await));
        for (what, answer) in answers {
            let status = answer.status;
            for (name, value) in [
                (
                    "content-security-policy",
                    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; \
                     form-action 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'",
                ),
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "no-referrer"),
                ("cross-origin-opener-policy", "same-origin"),
                ("cross-origin-resource-policy", "same-origin"),
                ("cross-origin-embedder-policy", "require-corp"),
                ("permissions-policy", "geolocation=(), camera=(), microphone=(), payment=()"),
                ("cache-control", "no-store"),
                ("x-robots-tag", "noindex, nofollow"),
                ("strict-transport-security", if https { "max-age=63072000; includeSubDomains" } else { "" }),
                ("server", ""),
                ("x-powered-by", ""),
            ] {
                assert_eq!(answer.header(name), value, "{what} {status} {name}");
            }
            if !answer.body.is_empty() {
                let css = what.ends_with(".css") && status == StatusCode::OK;
                let expected = if css { "text/css; charset=UTF-8" } else { "text/html; charset=UTF-8" };
                assert_eq!(answer.header("content-type"), expected, "{what} {status}");
            }
        }
    }
}

/// Otherwise a program that asks much at once is taken for one that guesses.
#[actix_web::test]
async fn a_right_password_keeps_its_turn_until_the_throttle_has_heard_of_it() {
    let office = Office::new().await;
    let state = office.state(false, false);
    let turn = login::turn(&state).await.expect("a turn");
    let checked = login::check(&state, turn, NAME.to_owned(), PASSWORD.to_owned()).await.expect("an answer");
    assert!(matches!(&checked, login::Checked::Right { .. }));
    assert_eq!(state.hashes.available_permits(), HASHES - 1);
    drop(checked);
    assert_eq!(state.hashes.available_permits(), HASHES);
    let turn = login::turn(&state).await.expect("a turn");
    let checked = login::check(&state, turn, NAME.to_owned(), "another".to_owned()).await;
    assert!(matches!(checked, Ok(login::Checked::Wrong)));
    assert_eq!(state.hashes.available_permits(), HASHES);
}

//! What does not start, and what it says then: a table, through `check-config` and `serve`.

use std::path::Path;

use crate::support::program::{finish, program, run};
use crate::support::{World, number};

/// Split, so that scanners of repositories are not alarmed.
const SECRET: &str = concat!("rk_", "live_canarycanarycanary");
const PUBLISHABLE: &str = concat!("pk_", "live_canarycanarycanary");
const HTTPS: &str = "public_url = \"https://api.example.com\"\n";
const SALE: &str =
    "[upstream]\nurl = \"http://127.0.0.1:8080\"\n[[routes]]\npath = \"/a\"\nprice = \"0.05\"\n";

/// Both commands refuse, with exit code 2, these words, no key, and nothing made.
async fn refused(home: &Path, file: &str, env: &[(&str, &str)], words: &str) {
    std::fs::write(home.join("prepaid402.toml"), file).unwrap();
    for command in ["check-config", "serve"] {
        let mut child = program(home, &[command]);
        child.envs(env.iter().copied());
        let ran = finish(child, None).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{command} {env:?} {file}\n{ran:?}");
        assert!(ran.err.contains(words), "{command} should say {words:?}:\n{}", ran.err);
        assert!(!ran.err.contains("canary"), "{}", ran.err);
    }
    assert_eq!(std::fs::read_dir(home).unwrap().count(), 1, "no data directory was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_lose_money_does_not_start() {
    let home = tempfile::tempdir().unwrap();
    let live = [("STRIPE_SECRET_KEY", SECRET), ("STRIPE_PUBLISHABLE_KEY", PUBLISHABLE)];
    let test = [("STRIPE_SECRET_KEY", "sk_test_canary"), ("STRIPE_PUBLISHABLE_KEY", "pk_test_canary")];
    let remote = "admin_listen = \"0.0.0.0:4403\"\nadmin_allow_remote = true\n";
    for (top, env, words) in [
        (HTTPS, &[live[0], test[1]][..], "take both from the same mode"),
        (HTTPS, &[test[0], live[1]], "take both from the same mode"),
        (
            HTTPS,
            &[live[0], ("STRIPE_PUBLISHABLE_KEY", SECRET)],
            "holds a secret key, which would be published",
        ),
        (HTTPS, &[test[0], ("STRIPE_PUBLISHABLE_KEY", "rk_test_canary")], "holds a secret key"),
        (HTTPS, &[("STRIPE_SECRET_KEY", "whsec_canary"), test[1]], "holds a webhook's secret"),
        (HTTPS, &[("STRIPE_SECRET_KEY", "  "), test[1]], "STRIPE_SECRET_KEY: is required"),
        (HTTPS, &[("STRIPE_SECRET_KEY", concat!("rk_", "live_canary")), live[1]], "copy it whole"),
        ("", &live, "public_url: must begin with https://"),
        ("public_url = \"http://api.example.com\"\n", &live, "public_url: must begin with https://"),
        (
            &format!("{HTTPS}stripe.api_base = \"http://127.0.0.1:4404\"\n"),
            &live,
            "stripe.api_base: must be https://api.stripe.com with live keys",
        ),
        (&format!("{HTTPS}{remote}"), &live, "admin_public_url: must be set"),
        (
            &format!("{HTTPS}trusted_proxies = [\"10.0.0.0/8\", \"::/0\"]\n"),
            &live,
            "trusted_proxies: must not hold the whole internet with live keys",
        ),
        (
            &format!("{HTTPS}trusted_proxies = [\"0.0.0.0/1\", \"10.0.0.0/8\", \"128.0.0.0/1\"]\n"),
            &live,
            "trusted_proxies: must not hold the whole internet with live keys",
        ),
        (
            &format!("{HTTPS}trusted_proxies = [\"2000::/4\", \"3000::/4\"]\n"),
            &live,
            "trusted_proxies: must not hold the whole internet with live keys",
        ),
        (
            &format!("{HTTPS}trusted_proxies = [\"::ffff:0.0.0.0/97\", \"::ffff:128.0.0.0/97\"]\n"),
            &live,
            "trusted_proxies: must not hold the whole internet with live keys",
        ),
        (
            &format!("{HTTPS}database_url = \"postgres://u@127.0.0.1/d\"\n"),
            &live,
            "PREPAID402_KEY_SECRET: is required with live keys and PostgreSQL",
        ),
        (HTTPS, &[test[0], test[1], ("PREPAID402_KEY_SECRET", "1:Y2FuYXJ5")], "each of 32 bytes"),
        (
            HTTPS,
            &[test[0], test[1], ("PREPAID402_KEY_SECRET", "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")],
            "openssl rand -base64 32",
        ),
    ] {
        refused(home.path(), &format!("{top}{SALE}"), env, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_keys_are_taken_and_never_shown() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("prepaid402.toml"), format!("{HTTPS}{SALE}")).unwrap();
    let mut child = program(home.path(), &["check-config"]);
    child.env("STRIPE_SECRET_KEY", SECRET).env("STRIPE_PUBLISHABLE_KEY", PUBLISHABLE);
    let ran = finish(child, None).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.contains("live: cards are charged"), "{}", ran.out);
    assert!(!ran.out.contains(SECRET) && !ran.out.contains("warning"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_default_login() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM admin_users").await, 0);
    let url = format!("{}/admin/login", gateway.admin_url);
    for (name, password) in [("admin", "admin"), ("admin", "password"), ("root", ""), ("", "")] {
        let form = format!("name={name}&password={password}");
        let headers = [("sec-fetch-site", "same-origin")];
        let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
        let answer = world.client.send("POST", &url, &headers, body).await;
        assert_eq!(answer.status, 403, "{name}: {}", answer.text());
        assert!(answer.header("set-cookie").is_none());
    }
    gateway.stop().await;
    // Nor one that a weak password would make.
    if let prepaid402::config::DatabaseConfig::Sqlite(file) = &world.database {
        let file = file.to_str().unwrap();
        for weak in ["", "admin", "password", "12345678"] {
            let mut child = program(
                world.folder.path(),
                &["admin", "create-user", "alice", "--password-stdin", "--database", file],
            );
            child.env_remove("PREPAID402_DATABASE_URL");
            let ran = finish(child, Some(weak)).await;
            assert_ne!(ran.code, 0, "{weak:?}: {ran:?}");
        }
        let ran = run(world.folder.path(), &["admin", "list-users", "--database", file]).await;
        assert!(!ran.out.contains("alice"), "{}", ran.out);
    }
}

//! Stripe's keys, and what is refused before real money moves: a table of boot refusals.

use super::super::sandbox::sandbox_from;
use super::*;

const LIVE_SECRET: &str = concat!("rk_", "live_hiddenhiddenhidden");
const LIVE_PUBLISHABLE: &str = concat!("pk_", "live_hiddenhiddenhidden");
const HTTPS: &str = "public_url = 'https://api.example.com'\n";
const ROUTE: &str = "[[routes]]\npath = '/'\nfree = true\n";
const AT_PUBLISHABLE: &str = "STRIPE_PUBLISHABLE_KEY (sets stripe.publishable_key)";

fn keys<'a>(secret: &'a str, publishable: &'a str) -> [(&'a str, &'a str); 2] {
    [("STRIPE_SECRET_KEY", secret), ("STRIPE_PUBLISHABLE_KEY", publishable)]
}

#[test]
fn live_keys_are_taken_where_everything_is_ready_for_them() {
    let file = format!("{HTTPS}{ROUTE}");
    let Loaded { config, warnings } = load_with(&file, &keys(LIVE_SECRET, LIVE_PUBLISHABLE)).unwrap();
    assert!(config.stripe.is_live() && warnings.is_empty(), "{warnings:?}");
    let all_powerful = concat!("sk_", "live_hiddenhiddenhidden");
    let Loaded { config, warnings } = load_with(&file, &keys(all_powerful, LIVE_PUBLISHABLE)).unwrap();
    assert!(config.stripe.is_live());
    assert!(warnings.len() == 1 && warnings[0].contains("restricted key"), "{warnings:?}");
    assert!(!warnings[0].contains("hidden"));
    let test = load_with(&file, &keys("rk_test_abc", "pk_test_abc")).unwrap();
    assert!(!test.config.stripe.is_live() && test.warnings.is_empty(), "{:?}", test.warnings);

    let remote = "admin_listen = '0.0.0.0:4403'\nadmin_allow_remote = true\nadmin_public_url = 'https://admin.example.com'\n";
    let loaded = load_with(&format!("{HTTPS}{remote}{ROUTE}"), &keys(LIVE_SECRET, LIVE_PUBLISHABLE)).unwrap();
    assert_eq!(loaded.config.admin_public_url.as_deref(), Some("https://admin.example.com"));

    let shared = format!("{HTTPS}database_url = 'postgres://u@127.0.0.1/d'\n{ROUTE}");
    let mut given = keys(LIVE_SECRET, LIVE_PUBLISHABLE).to_vec();
    given.push(("PREPAID402_KEY_SECRET", "1:hidden"));
    assert_eq!(load_with(&shared, &given).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn keys_of_the_wrong_kind_are_refused_and_never_echoed() {
    let file = format!("{HTTPS}{ROUTE}");
    let live = (LIVE_SECRET, LIVE_PUBLISHABLE);
    for (secret, publishable, path, words) in [
        // Of different modes, either way round.
        ("sk_test_hidden", live.1, AT_PUBLISHABLE, "is a live key, but the secret key is a test key"),
        (live.0, "pk_test_hidden", AT_PUBLISHABLE, "is a test key, but the secret key is a live key"),
        // A secret where everybody would read it.
        ("sk_test_abc", "sk_test_hidden", AT_PUBLISHABLE, "holds a secret key, which would be published"),
        ("sk_test_abc", "rk_test_hidden", AT_PUBLISHABLE, "holds a secret key, which would be published"),
        (live.0, live.0, AT_PUBLISHABLE, "holds a secret key, which would be published"),
        (live.0, concat!("sk_", "live_hiddenhiddenhidden"), AT_PUBLISHABLE, "holds a secret key"),
        // Something else.
        ("pk_test_hidden", "pk_test_abc", "STRIPE_SECRET_KEY", "holds a publishable key"),
        (live.1, live.1, "STRIPE_SECRET_KEY", "holds a publishable key"),
        ("whsec_hidden", "pk_test_abc", "STRIPE_SECRET_KEY", "holds a webhook's secret"),
        ("hidden", "pk_test_abc", "STRIPE_SECRET_KEY", "is not a Stripe secret key"),
        ("sk_test_", "pk_test_abc", "STRIPE_SECRET_KEY", "is not a Stripe secret key"),
        ("sk_test_a b", "pk_test_abc", "STRIPE_SECRET_KEY", "is not a Stripe secret key"),
        ("sk_test_abc", "hidden", AT_PUBLISHABLE, "is not a Stripe publishable key"),
        ("sk_test_abc", "pk_test_", AT_PUBLISHABLE, "is not a Stripe publishable key"),
        // A part of one.
        (concat!("sk_", "live_hidden"), live.1, "STRIPE_SECRET_KEY", "copy it whole"),
        (live.0, concat!("pk_", "live_hidden"), AT_PUBLISHABLE, "copy it whole"),
    ] {
        let problems = load_with(&file, &keys(secret, publishable)).unwrap_err().0;
        assert_eq!(problems.len(), 1, "{secret} {publishable}: {problems:#?}");
        assert_eq!(problems[0].path, path, "{problems:#?}");
        assert!(problems[0].what.contains(words), "{problems:#?} should say {words:?}");
        assert!(!problems[0].what.contains("hidden"), "{problems:#?}");
    }
    // Nothing at all.
    for empty in ["", "  "] {
        let problems = load_with(&file, &keys(empty, "pk_test_abc")).unwrap_err().0;
        assert_eq!((problems.len(), problems[0].path.as_str()), (1, "STRIPE_SECRET_KEY"), "{problems:#?}");
        assert!(problems[0].what.contains("is required"));
    }
}

#[test]
fn live_keys_are_refused_where_money_could_go_wrong() {
    let remote = "admin_listen = '0.0.0.0:4403'\nadmin_allow_remote = true\n";
    let shared = "database_url = 'postgres://u@127.0.0.1/d'\n";
    for (file, path, words) in [
        (String::new(), "public_url", "must begin with https://"),
        ("public_url = 'http://api.example.com'\n".to_owned(), "public_url", "must begin with https://"),
        ("public_url = 'http://localhost:4402'\n".to_owned(), "public_url", "must begin with https://"),
        (
            format!("{HTTPS}stripe.api_base = 'http://127.0.0.1:4404'\n"),
            "stripe.api_base",
            "must be https://api.stripe.com with live keys",
        ),
        (format!("{HTTPS}{remote}"), "admin_public_url", "put a proxy that speaks TLS in front"),
        (
            format!("{HTTPS}{remote}admin_public_url = 'http://admin.example.com'\n"),
            "admin_public_url",
            "must begin with https://",
        ),
        (format!("{HTTPS}{shared}"), "PREPAID402_KEY_SECRET", "openssl rand -base64 32"),
    ] {
        refused_with(&format!("{file}{ROUTE}"), &keys(LIVE_SECRET, LIVE_PUBLISHABLE), path, words);
    }
    // All of them at once, each told.
    let file =
        format!("public_url = 'http://a.example'\n{remote}{shared}stripe.api_base = 'http://127.0.0.1:1'\n");
    let problems = load_with(&file, &keys(LIVE_SECRET, LIVE_PUBLISHABLE)).unwrap_err().0;
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        ["stripe.api_base", "public_url", "admin_public_url", "PREPAID402_KEY_SECRET"],
        "{problems:#?}"
    );
    // The same is no problem with test keys.
    let test = load_with(&file, &[]).unwrap();
    assert!(
        test.warnings.iter().any(|warning| warning.starts_with("PREPAID402_KEY_SECRET is not set")),
        "{:?}",
        test.warnings
    );
}

#[test]
fn the_sandbox_takes_no_live_key() {
    let options = SandboxOptions {
        data_dir: "sandbox-data".into(),
        listen: "127.0.0.1:5402".parse().unwrap(),
        admin_listen: "127.0.0.1:5403".parse().unwrap(),
        stripe_base: "https://api.stripe.com".to_owned(),
        secret_key: LIVE_SECRET.to_owned(),
        publishable_key: LIVE_PUBLISHABLE.to_owned(),
        webhook_secret: "whsec_0123456789abcdefghijklmnopqrstuv".to_owned(),
        upstream: None,
        demo_upstream: "http://127.0.0.1:5405".to_owned(),
        config_file: None,
    };
    let problems = sandbox_from(&options, None, &BTreeMap::new()).unwrap_err();
    assert!(problems.to_string().contains("the sandbox never takes live keys"), "{problems}");
    assert!(!problems.to_string().contains("hidden"), "{problems}");
}

#[test]
fn the_address_of_the_admin_pages_is_a_plain_https_origin() {
    for (url, words) in [
        ("admin.example.com", "web address"),
        ("http://admin.example.com", "must begin with https://"),
        ("https://admin.example.com/admin", "must end after host and port"),
    ] {
        refused(&format!("admin_public_url = '{url}'\n{ROUTE}"), "admin_public_url", words);
    }
}

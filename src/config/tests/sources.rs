//! Where settings come from: file, environment, secret files, the sandbox.

use std::path::PathBuf;

use super::super::load::dot_env;
use super::super::sandbox::sandbox_from;
use super::*;

#[test]
fn the_environment_wins_over_the_file() {
    let file = "listen = '127.0.0.1:1'\ntrusted_proxies = ['10.0.0.1']\n[limits]\nmax_body_bytes = 1\n[log]\njson = false";
    let variables = [
        ("PREPAID402_LISTEN", "127.0.0.1:2"),
        ("PREPAID402_LIMITS__MAX_BODY_BYTES", "2"),
        ("PREPAID402_LOG__JSON", "true"),
        ("PREPAID402_TRUSTED_PROXIES", "10.0.0.2, 10.1.0.0/16"),
        ("PREPAID402_DATA_DIR", "  "),
        ("PREPAID402_KEY_SECRET", "hidden"),
        ("PREPAID402_CONFIG", "elsewhere.toml"),
        ("SOMETHING_ELSE", "1"),
    ];
    let config = load_with(file, &variables).unwrap().config;
    assert_eq!(config.listen.port(), 2);
    assert_eq!((config.limits.max_body_bytes, config.log.json), (2, true));
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.data_dir, Path::new("./prepaid402-data"));
}

#[test]
fn unknown_variables_are_refused_with_the_closest_name() {
    for (name, words) in [
        ("PREPAID402_LISTN", "did you mean PREPAID402_LISTEN?"),
        ("PREPAID402_STRIPE__API_BAS", "did you mean PREPAID402_STRIPE__API_BASE?"),
        ("PREPAID402_STRIPE__SECRETS_FILE", "did you mean PREPAID402_STRIPE__SECRET_KEY_FILE?"),
        ("PREPAID402_UPSTREAM__TIMEOUT", "or PREPAID402_UPSTREAM__RESPONSE_TIMEOUT or"),
        ("PREPAID402_STRIPE_API_BASE", "did you mean PREPAID402_STRIPE__API_BASE?"),
        ("PREPAID402_STRIPE__SECRET_KEY", "did you mean STRIPE_SECRET_KEY?"),
        ("PREPAID402_KEY_SECRETS", "did you mean PREPAID402_KEY_SECRET?"),
        ("PREPAID402_WHATEVER_ELSE", "PREPAID402_SECTION__KEY"),
    ] {
        refused_with("", &[(name, "hidden")], name, words);
    }
    let at = "PREPAID402_LIMITS__MAX_BODY_BYTES (sets limits.max_body_bytes)";
    refused_with("", &[("PREPAID402_LIMITS__MAX_BODY_BYTES", "10MB")], at, "whole number");
    let at = "PREPAID402_LOG__JSON (sets log.json)";
    refused_with("", &[("PREPAID402_LOG__JSON", "yes")], at, "true nor false");
}

#[test]
fn unknown_keys_are_refused_with_the_closest_key() {
    for (file, path, words) in [
        ("curency = 'usd'", "curency", "did you mean currency?"),
        ("api_base = 'x'", "api_base", "did you mean stripe.api_base?"),
        // The key's own section first.
        ("[stripe]\nsecrets_file = 'x'", "stripe.secrets_file", "did you mean stripe.secret_key_file?"),
        (
            "[upstream]\ntimeout = '1s'",
            "upstream.timeout",
            "upstream.connect_timeout or upstream.response_timeout or upstream.idle_timeout?",
        ),
        ("[limits]\npoll_every = '1s'", "limits.poll_every", "did you mean webhooks.poll_every?"),
        ("[stripe]\napi_bas = 'x'", "stripe.api_bas", "did you mean stripe.api_base?"),
        ("[strip]\ntimeout = '1s'", "strip", "did you mean stripe?"),
        ("zzzzzzzzzzzz = 1", "zzzzzzzzzzzz", "default.toml"),
        ("sandbox = true", "sandbox", "there is no such key"),
    ] {
        refused(file, path, words);
    }
}

#[test]
fn broken_toml_is_told_by_line_and_never_echoed() {
    let problems = load_with("listen = '127.0.0.1:1'\nkey = sk_test_hidden\n", &[]).unwrap_err();
    let text = problems.to_string();
    assert!(text.contains("line 2 is not valid TOML"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
    // Alone: of what the file says nothing is known, so nothing is missing either.
    let none = BTreeMap::new();
    let broken = Some("listen = ");
    for problems in [
        load_from(broken, Path::new("."), &none).unwrap_err(),
        super::super::embedded_from(broken, Path::new("."), &none).unwrap_err(),
        sandbox_from(&options(), broken, &none).unwrap_err(),
    ] {
        assert_eq!(problems.0.len(), 1, "{problems}");
        assert_eq!(problems.0[0].path, "the configuration file");
    }
}

#[test]
fn a_secret_in_the_file_is_refused_and_never_echoed() {
    for (file, path) in [
        ("stripe.secret_key = 'sk_test_hidden'", "stripe.secret_key"),
        ("stripe.secret_key = 'hidden'", "stripe.secret_key"),
        ("stripe.publishable_key = 'sk_test_hidden'", "stripe.publishable_key"),
        ("stripe.api_version = 'sk_test_hidden'", "stripe.api_version"),
        ("[[upstream.headers]]\nname = 'x-a'\nvalue = 'hidden'", "upstream.headers[0].value"),
        ("[[routes]]\npath = '/'\nfree = true\ndescription = 'sk_live_hidden'", "routes[0].description"),
        ("database_url = 'postgres://u:hidden@h/d'", "database_url"),
        ("upstream.url = 'http://u:hidden@h'", "upstream.url"),
    ] {
        // The file's own value counts here, so the variables that would override it are left out.
        let env = env(&[("STRIPE_SECRET_KEY", "sk_test_abc")]);
        let problems = load_from(Some(file), Path::new("."), &env).unwrap_err();
        assert!(problems.0.iter().any(|problem| problem.path == path), "{path} in\n{problems}");
        assert!(!problems.to_string().contains("hidden"), "{problems}");
    }
}

#[test]
fn header_rules() {
    for (lines, key, words) in [
        ("name = 'x-a'\nvalue = 'hidden'", "value", "value_env = \"UPSTREAM_TOKEN\""),
        ("name = 'x-a'\nvalue_env = 'TOKEN'\nvalue_file = 'f'", "value_env", "keep one"),
        ("name = 'x-a'", "value_env", "is required"),
        ("name = 'x-a'\nvalue_env = 'NOT_SET'", "value_env", "\"NOT_SET\" is not set"),
        ("name = 'x-a'\nvalue_env = 'TWO_LINES'", "value_env", "cannot be sent"),
        ("name = 'x-a'\nvalue_file = 'no-such-file'", "value_file", "cannot read"),
        ("value_env = 'TOKEN'", "name", "is required"),
        ("name = 'x a'\nvalue_env = 'TOKEN'", "name", "not a header name"),
        ("name = 'Host'\nvalue_env = 'TOKEN'", "name", "belongs to"),
        ("name = 'Payment'\nvalue_env = 'TOKEN'", "name", "belongs to"),
        ("name = 'content-length'\nvalue_env = 'TOKEN'", "name", "belongs to"),
        ("name = 'Transfer-Encoding'\nvalue_env = 'TOKEN'", "name", "belongs to"),
        ("name = 'X-FIRST'\nvalue_env = 'TOKEN'", "name", "set twice"),
    ] {
        let file = format!(
            "[[upstream.headers]]\nname = 'x-first'\nvalue_env = 'TOKEN'\n[[upstream.headers]]\n{lines}"
        );
        let variables = [("TOKEN", "hidden"), ("TWO_LINES", "hidden\nhidden")];
        refused_with(&file, &variables, &format!("upstream.headers[1].{key}"), words);
    }
}

#[cfg(unix)]
#[test]
fn secrets_are_read_from_private_files_beside_the_configuration() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("good", " sk_test_fromfile\n", 0o640);
    write("open", "sk_test_hidden", 0o644);
    write("empty", " \n", 0o600);
    write("other", "pk_test_hidden", 0o600);
    write("large", &"x".repeat(20_000), 0o600);
    let env = env(&REQUIRED[1..]);
    let load = |name: &str| load_from(Some(&format!("stripe.secret_key_file = '{name}'")), dir.path(), &env);
    assert_eq!(load("good").unwrap().config.stripe.secret_key.expose(), "sk_test_fromfile");
    for (name, words) in [
        ("open", "chmod 600"),
        ("empty", "is empty"),
        ("large", "larger than"),
        ("absent", "cannot read"),
        (".", "is not a file"),
        ("other", "holds a publishable key"),
    ] {
        let problems = load(name).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{problems}");
        let problem = problems.0[0].to_string();
        assert!(problem.starts_with("stripe.secret_key_file: ") && problem.contains(words), "{problem}");
        assert!(!problem.contains("hidden"), "{problem}");
    }
    let header = "[[upstream.headers]]\nname = 'x-token'\nvalue_file = 'good'";
    let config = load_from(Some(header), dir.path(), &self::env(REQUIRED)).unwrap().config;
    assert_eq!(
        config.upstream.as_ref().unwrap().headers,
        [("x-token".to_owned(), Secret::new("sk_test_fromfile".to_owned()))]
    );
    refused("stripe.secret_key_file = 'good'", "stripe.secret_key_file", "keep one");
}

#[test]
fn dot_env_is_read_without_echoing_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".env");
    let mut report = problem::Report::default();
    assert!(dot_env(&path, &mut report).is_empty() && report.problems.is_empty());

    std::fs::write(&path, "# words\nA=1\nexport B=\"two words\"\nSTRIPE_SECRET_KEY=\n").unwrap();
    let read = dot_env(&path, &mut report);
    assert_eq!(read, env(&[("A", "1"), ("B", "two words"), ("STRIPE_SECRET_KEY", "")]));
    assert!(report.problems.is_empty());

    std::fs::write(&path, "A=1\nB=hidden words\n").unwrap();
    dot_env(&path, &mut report);
    assert_eq!(report.problems.len(), 1);
    assert_eq!(report.problems[0].path, ".env");
    assert!(!report.problems[0].what.contains("hidden"), "{:?}", report.problems);
}

fn options() -> SandboxOptions {
    SandboxOptions {
        data_dir: PathBuf::from("sandbox-data"),
        listen: "127.0.0.1:5402".parse().unwrap(),
        admin_listen: "127.0.0.1:5403".parse().unwrap(),
        stripe_base: "http://127.0.0.1:5404".to_owned(),
        secret_key: "sk_test_hidden".to_owned(),
        publishable_key: "pk_test_sandbox".to_owned(),
        webhook_secret: "whsec_0123456789abcdefghijklmnopqrstuv".to_owned(),
        upstream: None,
        demo_upstream: "http://127.0.0.1:5405".to_owned(),
        config_file: None,
    }
}

fn prices(config: &Config) -> Vec<(String, Option<String>)> {
    let price = |route: &RouteConfig| route.charge.rule().map(|rule| rule.most().to_major_string());
    config.routes.iter().map(|route| (route.pattern.clone(), price(route))).collect()
}

#[test]
fn the_sandbox_sells_the_demo() {
    // Settings of a real gateway in the shell change nothing.
    let shell = env(&[
        ("STRIPE_SECRET_KEY", "sk_live_x"),
        ("PREPAID402_LISTEN", "0.0.0.0:80"),
        ("PREPAID402_LOG__FILTER", "debug"),
    ]);
    let Loaded { config, warnings } = sandbox_from(&options(), None, &shell).unwrap();
    assert!(config.sandbox && warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.public_url, "http://127.0.0.1:5402");
    assert_eq!(config.database.shown(), "sandbox-data/prepaid402.db");
    assert_eq!(config.stripe.api_base, "http://127.0.0.1:5404");
    assert_eq!(config.stripe.secret_key.expose(), "sk_test_hidden");
    assert_eq!(config.upstream.as_ref().unwrap().url, "http://127.0.0.1:5405");
    assert_eq!(config.log.filter, "debug");
    let expected = [("/api/health", None), ("/api/joke", Some("0.01")), ("/api/weather", Some("0.05"))];
    assert_eq!(prices(&config), expected.map(|(path, price)| (path.to_owned(), price.map(str::to_owned))));
    let packs: Vec<_> =
        config.top_up.options.iter().map(|p| (p.amount.to_string(), p.bonus.to_string())).collect();
    let expected = [("5.00", "0.00"), ("20.00", "1.00"), ("50.00", "5.00")];
    assert_eq!(packs, expected.map(|(amount, bonus)| (amount.to_owned(), bonus.to_owned())));
    assert!(!format!("{:?}", options()).contains("hidden"));
}

#[test]
fn the_sandbox_sells_a_users_whole_api() {
    let own = SandboxOptions { upstream: Some("http://127.0.0.1:8080".to_owned()), ..options() };
    let config = sandbox_from(&own, None, &BTreeMap::new()).unwrap().config;
    assert_eq!(config.upstream.as_ref().unwrap().url, "http://127.0.0.1:8080");
    assert_eq!(prices(&config), [("/*".to_owned(), Some("0.01".to_owned()))]);
    let methods: Vec<&str> = config.routes[0].methods.iter().map(String::as_str).collect();
    assert_eq!(methods, ["DELETE", "GET", "PATCH", "POST", "PUT"]);
}

#[test]
fn the_sandbox_uses_a_file_for_what_is_sold_only() {
    let file = r#"
        listen = "0.0.0.0:80"
        public_url = "https://api.example.com"
        data_dir = "/var/lib/real"
        database_url = "sqlite:/var/lib/real.db"
        [stripe]
        secret_key_file = "real-key"
        publishable_key = "pk_live_real"
        [upstream]
        url = "http://127.0.0.1:8080"
        [top_up]
        minimum = "9.00"
        [[routes]]
        path = "/mine"
        price = "0.07"
    "#;
    let config = sandbox_from(&options(), Some(file), &BTreeMap::new()).unwrap().config;
    assert_eq!(prices(&config), [("/mine".to_owned(), Some("0.07".to_owned()))]);
    assert_eq!(config.top_up.minimum.to_major_string(), "9.00");
    assert_eq!(config.upstream.as_ref().unwrap().url, "http://127.0.0.1:8080");
    assert_eq!(config.public_url, "http://127.0.0.1:5402");
    assert_eq!(config.database.shown(), "sandbox-data/prepaid402.db");
    assert_eq!(config.stripe.publishable_key, "pk_test_sandbox");
    let flag = SandboxOptions { upstream: Some("http://127.0.0.1:9090".to_owned()), ..options() };
    assert_eq!(
        sandbox_from(&flag, Some(file), &BTreeMap::new()).unwrap().config.upstream.as_ref().unwrap().url,
        "http://127.0.0.1:9090"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_the_only_problem() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent.toml");
    let large = dir.path().join("large.toml");
    std::fs::write(&large, " ".repeat(1024 * 1024 + 1)).unwrap();
    for (path, words) in [(absent, "cannot be read"), (large, "is larger than")] {
        let problems = load(&LoadSource { config_file: Some(path.clone()) }).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{problems}");
        assert_eq!(problems.0[0].path, path.display().to_string());
        assert!(problems.0[0].what.contains(words), "{problems}");
    }
}

#[test]
fn variables_of_other_commands_and_of_kubernetes_are_no_settings() {
    for name in [
        "PREPAID402_ADMIN_PASSWORD",
        "PREPAID402_ADMIN_URL",
        "PREPAID402_ADMIN_USER",
        "PREPAID402_BENCH_POSTGRES",
        "PREPAID402_PAYMENT_METHOD",
        "PREPAID402_PORT",
        "PREPAID402_PORT_4402_TCP_ADDR",
        "PREPAID402_SERVICE_HOST",
        "PREPAID402_SERVICE_PORT_HTTP",
    ] {
        if let Err(problems) = load_with("", &[(name, "whatever")]) {
            panic!("{name}: {problems}");
        }
    }
}

#[test]
fn the_gateways_own_secret_is_never_sent_to_the_upstream() {
    let file = "[[upstream.headers]]\nname = 'x-token'\nvalue_env = 'STRIPE_SECRET_KEY'";
    refused(file, "upstream.headers[0].value_env", "the gateway's own secret");
}

//! Addresses, keys, limits and routes: each rule with the file that breaks it.

use super::*;

#[test]
fn top_level_rules() {
    for (file, path, words) in [
        ("listen = 'localhost:80'", "listen", "address and port"),
        ("listen = 4402", "listen", "a text in quotes"),
        ("listen = '127.0.0.1:4403'", "admin_listen", "same as listen"),
        ("listen = '0.0.0.0:4403'\npublic_url = 'https://a.example'", "admin_listen", "same as listen"),
        ("admin_listen = '0.0.0.0:4403'", "admin_listen", "admin_allow_remote = true"),
        ("admin_listen = '192.0.2.1:4403'", "admin_listen", "admin_allow_remote = true"),
        ("admin_allow_remote = 'yes'", "admin_allow_remote", "true or false"),
        ("public_url = 'https://a.example/'", "public_url", "write \"https://a.example\""),
        ("public_url = 'https://a.example/v1'", "public_url", "write \"https://a.example\""),
        ("public_url = 'a.example'", "public_url", "web address"),
        ("public_url = 'ftp://a.example'", "public_url", "http:// or https://"),
        ("data_dir = ''", "data_dir", "is empty"),
        ("database_url = 'postgres://u:p@h/d'", "database_url", "password"),
        ("database_url = 'postgres://u@h/d?password=p'", "database_url", "password"),
        ("database_url = 'postgres://u@h'", "database_url", "postgres://gateway@"),
        ("database_url = 'sqlite::memory:'", "database_url", "lose every balance"),
        ("database_url = 'sqlite:'", "database_url", "sqlite:PATH"),
        ("database_url = 'data.db'", "database_url", "sqlite:PATH"),
        ("database_url = 'sqlite:a.db?mode=ro'", "database_url", "plain path"),
        ("admin_hosts = 'admin.internal'", "admin_hosts", "a list of texts"),
        ("admin_hosts = ['admin.internal', 'admin:4403']", "admin_hosts[1]", "no port"),
        ("admin_hosts = ['*.internal']", "admin_hosts[0]", "no *"),
        ("admin_hosts = ['https://admin.internal']", "admin_hosts[0]", "is not a name"),
        ("currency = 'USD'", "currency", "write \"usd\""),
        ("currency = 'btc'", "currency", "not a currency"),
        ("trusted_proxies = ['10.0.0.0/33']", "trusted_proxies[0]", "not a network"),
        ("trusted_proxies = '10.0.0.0/8'", "trusted_proxies", "a list of texts"),
        ("trusted_proxies = [8]", "trusted_proxies", "not a text"),
        ("log.filter = 'prepaid402=loud'", "log.filter", "not a log filter"),
        ("log = 'info'", "log", "write [log]"),
        ("routes = 5", "routes", "write [[routes]]"),
        ("routes = [5]", "routes[0]", "write [[routes]]"),
    ] {
        refused(file, path, words);
    }
}

#[test]
fn limits_have_bounds() {
    for (line, key, words) in [
        ("max_body_bytes = 1073741825", "max_body_bytes", "between 0 and 1073741824"),
        ("max_body_bytes = -1", "max_body_bytes", "between"),
        ("max_body_bytes = '10MB'", "max_body_bytes", "whole number"),
        ("body_timeout = '11m'", "body_timeout", "between \"10ms\" and \"10m\""),
        ("body_timeout = 30", "body_timeout", "write body_timeout = \"30s\""),
        ("body_timeout = 'a while'", "body_timeout", "not a time"),
        ("max_connections = 9", "max_connections", "between 10 and"),
        ("max_concurrent_requests = 0", "max_concurrent_requests", "between 1 and"),
        ("max_concurrent_per_client = 0", "max_concurrent_per_client", "between 1 and"),
        ("max_concurrent_per_client = 2000", "max_concurrent_per_client", "max_concurrent_requests, 1024"),
        ("shutdown_timeout = '1h'", "shutdown_timeout", "between \"0s\""),
    ] {
        refused(&format!("[limits]\n{line}"), &format!("limits.{key}"), words);
    }
}

#[test]
fn stripe_rules() {
    for (line, key, words) in [
        ("api_base = 'https://stripe.example'", "api_base", "must be https://api.stripe.com"),
        ("api_base = 'http://api.stripe.com'", "api_base", "must be https://api.stripe.com"),
        ("api_base = 'https://api.stripe.com.evil.example'", "api_base", "must be https://api.stripe.com"),
        ("api_base = 'http://127.0.0.1:4242/v1'", "api_base", "must not have a path"),
        ("api_version = '2026 03'", "api_version", "not a version"),
        ("timeout = '1ms'", "timeout", "between \"100ms\" and \"2m\""),
        ("statement_descriptor_suffix = 'A'", "statement_descriptor_suffix", "2 to 22"),
        ("statement_descriptor_suffix = 'ABCDEFGHIJKLMNOPQRSTUVW'", "statement_descriptor_suffix", "2 to 22"),
        ("statement_descriptor_suffix = 'A*B'", "statement_descriptor_suffix", "must not contain"),
        ("statement_descriptor_suffix = 'ÄÖ'", "statement_descriptor_suffix", "plain Latin"),
        ("statement_descriptor_suffix = '402'", "statement_descriptor_suffix", "one letter"),
    ] {
        refused(&format!("[stripe]\n{line}"), &format!("stripe.{key}"), words);
    }
    let simulated = loaded("stripe.api_base = 'http://127.0.0.1:4242/'\n[[routes]]\npath = '/'\nfree = true");
    assert_eq!(simulated.config.stripe.api_base, "http://127.0.0.1:4242");
    assert!(
        simulated.warnings.iter().any(|warning| warning.contains("simulator")),
        "{:?}",
        simulated.warnings
    );
}

#[test]
fn upstream_rules() {
    for (url, words) in [
        ("ftp://a.example", "http:// or https://"),
        ("http://u:hidden@a.example", "user name or password"),
        ("http://a.example?x=1", "query"),
        ("http://a.example#x", "fragment"),
        ("http://169.254.169.254", "metadata"),
        ("http://169.254.0.1/latest", "metadata"),
        ("http://[fe80::1]", "metadata"),
        ("http://[febf::1]:80", "metadata"),
        ("http://[::ffff:169.254.169.254]", "metadata"),
        ("http://[fd00:ec2::254]", "metadata"),
        ("http://metadata.google.internal", "metadata"),
        ("http://2852039166", "does not name a host"),
        ("http://127.0.0.1:4402", "own listen address"),
        ("http://localhost:4402", "own listen address"),
    ] {
        let variable = [("PREPAID402_UPSTREAM__URL", url)];
        refused_with("", &variable, "PREPAID402_UPSTREAM__URL (sets upstream.url)", words);
    }
    for (url, kept) in [
        ("https://api.example.com/", "https://api.example.com"),
        ("http://10.0.0.7:9000/v1/", "http://10.0.0.7:9000/v1"),
        ("http://[fec0::1]", "http://[fec0::1]"),
    ] {
        let config = load_with("", &[("PREPAID402_UPSTREAM__URL", url)]).unwrap().config;
        assert_eq!(config.upstream.as_ref().unwrap().url, kept);
    }
    for key in ["connect_timeout", "response_timeout", "idle_timeout"] {
        refused(&format!("upstream.{key} = '0s'"), &format!("upstream.{key}"), "between");
    }
}

#[test]
fn route_rules() {
    let long = "x".repeat(501);
    for (route, key, words) in [
        ("price = '1'".to_owned(), "path", "is required"),
        ("path = 'a'\nfree = true".to_owned(), "path", "start with /"),
        ("path = '/a?b'\nfree = true".to_owned(), "path", "query"),
        ("path = '/a b'\nfree = true".to_owned(), "path", "blanks"),
        (format!("path = '/{long}{long}'\nfree = true"), "path", "512"),
        ("path = '/a'".to_owned(), "price", "or free = true"),
        ("path = '/a'\nprice = '1'\nfree = true".to_owned(), "price", "keep one"),
        ("path = '/a'\nfree = false".to_owned(), "free", "must be true"),
        ("path = '/a'\nprice = '0.00'".to_owned(), "price", "write free = true"),
        ("path = '/a'\nprice = 0.05".to_owned(), "price", "not in quotes"),
        ("path = '/a'\nprice = '5 cents'".to_owned(), "price", "not a decimal number"),
        ("path = '/a'\nprice = '-1'".to_owned(), "price", "below zero"),
        ("path = '/a'\nprice = '0.0000001'".to_owned(), "price", "finer"),
        ("path = '/a'\nprice = '500.01'".to_owned(), "price", "above top_up.maximum"),
        ("path = '/a'\nfree = true\nmethods = []".to_owned(), "methods", "empty"),
        ("path = '/a'\nfree = true\nmethods = 'GET'".to_owned(), "methods", "a list of texts"),
        ("path = '/a'\nfree = true\nmethods = ['get']".to_owned(), "methods", "write \"GET\""),
        ("path = '/a'\nfree = true\nmethods = ['OPTIONS']".to_owned(), "methods", "never priced"),
        ("path = '/a'\nfree = true\nmethods = ['TRACE']".to_owned(), "methods", "never passed on"),
        ("path = '/a'\nfree = true\nmethods = ['G T']".to_owned(), "methods", "not an HTTP method"),
        (format!("path = '/a'\nfree = true\ndescription = '{long}'"), "description", "500"),
        ("path = '/a'\nfree = true\nmime_type = 'json'".to_owned(), "mime_type", "application/json"),
        ("path = '/a'\nfree = true\ncharged_statuses = []".to_owned(), "charged_statuses", "empty"),
        ("path = '/a'\nfree = true\ncharged_statuses = ['1xx']".to_owned(), "charged_statuses", "200 to 599"),
        ("path = '/a'\nfree = true\ncharged_statuses = '2xx'".to_owned(), "charged_statuses", "is a list"),
        ("path = '/a'\nfree = true\nresponse_timeout = '2h'".to_owned(), "response_timeout", "between"),
        ("path = '/a'\nfree = true\nidle_timeout = '2h'".to_owned(), "idle_timeout", "between"),
        (
            "path = '/a'\nfree = true\nidle_timeout = 60".to_owned(),
            "idle_timeout",
            "write idle_timeout = \"60s\"",
        ),
        ("path = '/a'\nfree = true\nidle_timeout = 'never'".to_owned(), "idle_timeout", "not a time"),
        ("path = '/a'\nfree = true\nbody_timeout = '0s'".to_owned(), "body_timeout", "between"),
        ("path = '/a'\nfree = true\nmethods = ['PURGE']".to_owned(), "methods", "is not one of GET, HEAD"),
        ("path = '/items/:id'\nprice = '1'".to_owned(), "path", "write \"/items/{id}\""),
        ("path = '/a/**'\nprice = '1'".to_owned(), "path", "write \"/a/*\""),
        ("path = '/a/b*'\nprice = '1'".to_owned(), "path", "not its whole last segment"),
        ("path = '/a//b'\nprice = '1'".to_owned(), "path", "can never match"),
        (
            "path = '/first'\nprice = '1'".to_owned(),
            "path",
            "GET /first is also matched by routes[0], /first",
        ),
        (
            "path = '/a'\nfree = true\ntimeout = '1s'".to_owned(),
            "timeout",
            "response_timeout or idle_timeout or body_timeout",
        ),
        (
            "path = '/a'\nfree = true\nconnect_timeout = '1s'".to_owned(),
            "connect_timeout",
            "upstream.connect_timeout",
        ),
        ("path = '/a'\nfree = true\nmax_body_bytes = -5".to_owned(), "max_body_bytes", "between"),
        ("path = '/a'\nfree = true\npricee = '1'".to_owned(), "pricee", "did you mean price?"),
    ] {
        let file = format!("[[routes]]\npath = '/first'\nprice = '0.01'\n[[routes]]\n{route}");
        refused(&file, &format!("routes[1].{key}"), words);
    }
}

#[test]
fn a_route_is_read_whole() {
    let config = loaded(
        r#"
        [[routes]]
        methods = ["GET", "POST"]
        path = "/api/{city}/*"
        price = "0.000125"
        description = "Weather"
        mime_type = "application/json; charset=utf-8"
        charged_statuses = ["2xx", "304", 404]
        response_timeout = "1500ms"
        idle_timeout = "0"
        body_timeout = "30m"
        max_body_bytes = 0
        [[routes]]
        path = "/health"
        free = true
        "#,
    )
    .config;
    let [sold, free] = config.routes.as_slice() else { panic!("two routes") };
    assert_eq!(sold.methods.iter().map(String::as_str).collect::<Vec<_>>(), ["GET", "POST"]);
    assert_eq!(sold.pattern, "/api/{city}/*");
    assert_eq!(sold.charge, RouteCharge::fixed(Micros::new(125).unwrap()));
    assert_eq!(sold.description.as_deref(), Some("Weather"));
    assert_eq!(sold.mime_type.as_deref(), Some("application/json; charset=utf-8"));
    assert_eq!(sold.charged_statuses, StatusSet::new((200..300).chain([304, 404])));
    assert_eq!(sold.response_timeout, Some(Duration::from_millis(1_500)));
    assert_eq!(
        (sold.idle_timeout, sold.body_timeout),
        (Some(IdleLimit::Endless), Some(Duration::from_secs(1_800)))
    );
    assert_eq!(sold.max_body_bytes, Some(0));
    assert_eq!((free.idle_timeout, free.body_timeout), (None, None));
    for (idle, expected) in [
        ("0", IdleLimit::Endless),
        ("\"0s\"", IdleLimit::Endless),
        ("\" 0ms \"", IdleLimit::Endless),
        ("\"90s\"", IdleLimit::UpTo(Duration::from_secs(90))),
    ] {
        let config = loaded(&format!("[[routes]]\npath = '/a'\nfree = true\nidle_timeout = {idle}")).config;
        assert_eq!(config.routes[0].idle_timeout, Some(expected), "{idle}");
    }
    assert_eq!(free.charge, RouteCharge::Free);
    assert_eq!(free.methods.iter().map(String::as_str).collect::<Vec<_>>(), ["GET"]);
    assert_eq!(free.charged_statuses, StatusSet::default_charged());
}

#[test]
fn what_works_but_deserves_a_look_is_a_warning() {
    for (file, words) in [
        ("public_url = 'http://api.example.com'", "plain http"),
        ("admin_listen = '0.0.0.0:4403'\nadmin_allow_remote = true", "other machines"),
        ("listen = '0.0.0.0:4402'", "cannot follow"),
        ("trusted_proxies = ['0.0.0.0/0']", "whole internet"),
    ] {
        let warnings = loaded(&format!("{file}\n[[routes]]\npath = '/'\nfree = true")).warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(words), "{warnings:?}");
    }
    // Two free ports asked of the system do not collide.
    let quiet = "listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\n[[routes]]\npath = '/'\nfree = true";
    assert_eq!(loaded(quiet).warnings, Vec::<String>::new());
}

#[test]
fn the_shield_has_bounds_and_stays_up_where_real_cards_are_charged() {
    for (file, path, words) in [
        ("[shield]\nnetwork_attempts_an_hour = 0", "shield.network_attempts_an_hour", "between 1 and"),
        ("[shield]\ncard_declines_a_day = 1000000", "shield.card_declines_a_day", "between 1 and"),
        (
            "[shield]\nnew_payer_decline_percent = 101",
            "shield.new_payer_decline_percent",
            "between 1 and 100",
        ),
        ("[shield]\nnew_payer_window = '1s'", "shield.new_payer_window", "between"),
        ("[shield]\nenabled = 'no'", "shield.enabled", "true or false"),
    ] {
        refused(file, path, words);
    }
    assert!(!loaded("[shield]\nenabled = false").config.shield.enabled);
    let live = [("STRIPE_SECRET_KEY", "sk_live_x"), ("STRIPE_PUBLISHABLE_KEY", "pk_live_x")];
    let problems = load_with("[shield]\nenabled = false", &live).map(|_| ()).unwrap_err().0;
    let stays_up = |problem: &Problem| {
        problem.path == "shield.enabled" && problem.what.contains("must be true with live keys")
    };
    assert!(problems.iter().any(stays_up), "{problems:#?}");
}

/// A webhook secret of a form that Stripe's have.
const WHSEC: &str = "whsec_0123456789abcdefghijklmnopqrstuv";
const OTHER_WHSEC: &str = "whsec_zyxwvutsrqponmlkjihgfedcba987654";

#[test]
fn webhook_secrets_come_from_one_place() {
    let none = loaded("").config.webhooks;
    assert!(none.secrets.is_empty());
    let seconds = std::time::Duration::from_secs;
    assert_eq!((none.tolerance, none.poll_every), (seconds(300), seconds(60)));
    let both = format!("{WHSEC} , {OTHER_WHSEC}");
    for name in ["STRIPE_WEBHOOK_SECRETS", "STRIPE_WEBHOOK_SECRET"] {
        let webhooks = load_with("", &[(name, &both)]).unwrap().config.webhooks;
        let secrets: Vec<&str> = webhooks.secrets.iter().map(Secret::expose).collect();
        assert_eq!(secrets, [WHSEC, OTHER_WHSEC]);
        assert!(!format!("{webhooks:?}").contains("whsec_"));
    }
    let two = [("STRIPE_WEBHOOK_SECRETS", WHSEC), ("STRIPE_WEBHOOK_SECRET", WHSEC)];
    refused_with("", &two, "STRIPE_WEBHOOK_SECRET", "keep one");
    let file = "webhooks.secrets_file = 'x'";
    refused_with(file, &[("STRIPE_WEBHOOK_SECRETS", WHSEC)], "webhooks.secrets_file", "keep one");
    refused(file, "webhooks.secrets_file", "cannot read");
    refused("webhooks.secrets_file = ''", "webhooks.secrets_file", "is empty");
}

#[test]
fn a_webhook_secret_that_anybody_could_sign_with_is_refused() {
    let doubled = format!("{WHSEC},{WHSEC}");
    let with_gap = format!("{WHSEC},,{OTHER_WHSEC}");
    let with_blank = format!("{WHSEC} x");
    let long = format!("whsec_{}", "a".repeat(251));
    let many = (0..9).map(|n| format!("{WHSEC}{n}")).collect::<Vec<_>>().join(",");
    for (value, words) in [
        ("", "set and empty"),
        ("  ", "set and empty"),
        ("whsec_", "too short"),
        ("whsec_01234567890123456789abc", "too short"),
        ("0123456789abcdefghijklmnopqrstuv", "does not start with whsec_"),
        ("sk_test_0123456789abcdefghijklmnopqrstuv", "does not start with whsec_"),
        (&doubled, "secret 2 is there twice"),
        (&with_gap, "secret 2 is empty"),
        (&with_blank, "has characters"),
        (&long, "has characters"),
        (&many, "more than 8"),
    ] {
        refused_with("", &[("STRIPE_WEBHOOK_SECRETS", value)], "STRIPE_WEBHOOK_SECRETS", words);
        let problems = load_with("", &[("STRIPE_WEBHOOK_SECRETS", value)]).unwrap_err().to_string();
        assert!(value.trim().len() < 8 || !problems.contains(&value[6..]), "{problems}");
    }
    let exactly = "whsec_01234567890123456789abcd";
    assert_eq!(
        load_with("", &[("STRIPE_WEBHOOK_SECRETS", exactly)]).unwrap().config.webhooks.secrets.len(),
        1
    );
}

#[test]
fn webhook_times_have_bounds_and_secrets_do_not_belong_in_the_file() {
    for (line, key, words) in [
        ("tolerance = '9s'", "tolerance", "between \"10s\" and \"10m\""),
        ("tolerance = '11m'", "tolerance", "between"),
        ("poll_every = '4s'", "poll_every", "between \"5s\""),
        ("poll_every = '61m'", "poll_every", "between"),
        ("secret = 'anything'", "secret", "STRIPE_WEBHOOK_SECRETS"),
        ("secrets = 'anything'", "secrets", "STRIPE_WEBHOOK_SECRETS"),
        (&format!("secret = '{WHSEC}'"), "secret", "STRIPE_WEBHOOK_SECRETS"),
    ] {
        refused(&format!("[webhooks]\n{line}"), &format!("webhooks.{key}"), words);
    }
    for path in ["/webhooks", "/webhooks/stripe"] {
        refused(&format!("[[routes]]\npath = '{path}'\nfree = true"), "routes[0].path", "the gateway's own");
    }
}

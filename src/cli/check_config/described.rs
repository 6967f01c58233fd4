//! The whole configuration in words, without secrets.

use std::fmt::Write as _;

use crate::config::{Config, Identity, IdleLimit, RouteConfig, duration_text};
use crate::domain::Currency;
use crate::pricing::{Price, RouteCharge};

/// The whole configuration in words, without secrets.
pub(super) fn describe(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_settings(&mut text, config);
    let _ = write_sale(&mut text, config);
    text
}

fn write_settings(text: &mut String, config: &Config) -> std::fmt::Result {
    writeln!(text, "listen         {}", config.listen)?;
    writeln!(text, "admin pages    {}", config.admin_listen)?;
    if let Some(url) = &config.admin_public_url {
        writeln!(text, "  reached as       {url}")?;
    }
    for host in &config.admin_hosts {
        writeln!(text, "  also as          {host}")?;
    }
    writeln!(text, "public URL     {}", config.public_url)?;
    writeln!(text, "database       {}", config.database.shown())?;
    let identity = match config.identity {
        Identity::Card => {
            "card: a new token of the card that has founded a wallet leads there, once its bank has confirmed it"
        }
        Identity::Key => "key: each new card token pays into a wallet of its own",
    };
    writeln!(text, "identity       {identity}")?;
    let mode = if config.stripe.is_live() { "live: cards are charged" } else { "test: no card is charged" };
    writeln!(text, "stripe         {}  ({mode})", config.stripe.api_base)?;
    writeln!(text, "  secret key       set, not shown")?;
    writeln!(text, "  publishable key  {}", config.stripe.publishable_key)?;
    if let Some(suffix) = &config.stripe.statement_descriptor_suffix {
        writeln!(text, "  statement suffix {suffix}")?;
    }
    match &config.upstream {
        Some(upstream) => {
            writeln!(text, "upstream       {}", upstream.url)?;
            writeln!(
                text,
                "  times            {} to connect, {} to the head of an answer, {} between its pieces",
                duration_text(upstream.connect_timeout),
                duration_text(upstream.response_timeout),
                duration_text(upstream.idle_timeout)
            )?;
            for (name, _) in &upstream.headers {
                writeln!(text, "  header           {name}: set, not shown")?;
            }
        }
        None => writeln!(
            text,
            "upstream       none: for an application with the paywall inside (serve needs upstream.url; --for serve checks that)"
        )?,
    }
    write_webhooks(text, config)?;
    for network in &config.trusted_proxies {
        writeln!(text, "trusted proxy  {}/{}", network.address, network.prefix)?;
    }
    if !config.shield.enabled {
        writeln!(text, "shield         OFF: anybody can try stolen cards here")?;
    }
    let limits = &config.limits;
    writeln!(
        text,
        "limits         body {} bytes and at most {} behind, {} requests at once, {} of one client",
        limits.max_body_bytes,
        duration_text(limits.body_timeout),
        limits.max_concurrent_requests,
        limits.max_concurrent_per_client
    )
}

fn write_webhooks(text: &mut String, config: &Config) -> std::fmt::Result {
    let webhooks = &config.webhooks;
    let every = webhooks.poll_every.as_secs();
    match webhooks.secrets.len() {
        0 => writeln!(text, "webhooks       off: no STRIPE_WEBHOOK_SECRETS")?,
        secrets => writeln!(
            text,
            "webhooks       POST {}/webhooks/stripe, {secrets} secret{}, not shown, {} s tolerance",
            config.public_url,
            if secrets == 1 { "" } else { "s" },
            webhooks.tolerance.as_secs(),
        )?,
    }
    writeln!(text, "  events           asked for every {every} s")
}

fn write_sale(text: &mut String, config: &Config) -> std::fmt::Result {
    let currency = config.currency;
    let top_up = &config.top_up;
    writeln!(
        text,
        "\ntop-ups: {} to {} {currency}, balance at most {} {currency}",
        currency.decimal(top_up.minimum),
        currency.decimal(top_up.maximum),
        currency.decimal(top_up.max_balance)
    )?;
    for pack in &top_up.options {
        let (amount, bonus) = (currency.decimal(pack.amount), currency.decimal(pack.bonus));
        writeln!(text, "  charge {amount} {currency}, bonus {bonus}  ({})", pack.label)?;
    }
    let a_day = currency.decimal(config.max_adjustments_a_day);
    writeln!(text, "  operators give at most {a_day} {currency} a day")?;
    if config.upstream.is_none() {
        return writeln!(text, "\nroutes: the application's own, each wrapped with its price");
    }
    writeln!(text, "\nroutes: {}", config.routes.len())?;
    for route in &config.routes {
        writeln!(text, "  {}", route_line(route, currency))?;
    }
    let is_sold = |route: &&RouteConfig| route.charge != RouteCharge::Free;
    if let Some(route) =
        config.routes.iter().filter(is_sold).find(|route| !route.charged_statuses.has_redirects())
    {
        writeln!(
            text,
            "Redirects and \"not modified\" (3xx) cost nothing on routes that are not charged on 3xx. To charge them there, \
             add 3xx in the route: {}",
            route.charged_statuses.with_redirects().setting()
        )?;
    }
    Ok(())
}

/// What a route has of its own instead of the gateway's limits and times.
fn own_limits(route: &RouteConfig) -> String {
    let idle = route.idle_timeout.map(|idle| match idle {
        IdleLimit::UpTo(limit) => format!("{} between an answer's pieces", duration_text(limit)),
        IdleLimit::Endless => "any time between an answer's pieces".to_owned(),
    });
    let own = [
        route.response_timeout.map(|limit| format!("{} to the head of an answer", duration_text(limit))),
        idle,
        route.body_timeout.map(|limit| format!("{} for a body", duration_text(limit))),
        route.max_body_bytes.map(|bytes| format!("body {bytes} bytes")),
    ];
    own.iter().flatten().fold(String::new(), |text, own| format!("{text}; {own}"))
}

fn route_line(route: &RouteConfig, currency: Currency) -> String {
    let methods: Vec<&str> = route.methods.iter().map(String::as_str).collect();
    let methods = methods.join(",");
    let own = own_limits(route);
    match route.charge {
        RouteCharge::Free => format!("{methods} {}  free{own}", route.pattern),
        RouteCharge::Priced(rule) => {
            let units = rule.most().to_units_ceil();
            let word = if units.get() == 1 { "unit" } else { "units" };
            let up_to = if matches!(rule.list_price(), Price::UpTo { .. }) { "up to " } else { "" };
            format!(
                "{methods} {}  {up_to}{} {currency} ({units} {word}), charged on {}{own}",
                route.pattern,
                currency.decimal(rule.most()),
                route.charged_statuses
            )
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::config;

    const FILE: &str = r#"
        [upstream]
        url = "http://127.0.0.1:8080"
        [[upstream.headers]]
        name = "x-gateway-token"
        value_env = "TOKEN"
        [[routes]]
        path = "/api/weather"
        price = "0.05"
        charged_statuses = ["2xx", "304"]
        [[routes]]
        path = "/api/health"
        free = true
    "#;

    fn env() -> BTreeMap<String, String> {
        [
            ("STRIPE_SECRET_KEY", "sk_test_hidden1"),
            ("STRIPE_PUBLISHABLE_KEY", "pk_test_shown"),
            ("TOKEN", "hidden2"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn it_says_what_is_sold_and_hides_secrets() {
        let config = config::load_from(Some(FILE), Path::new("."), &env()).unwrap().config;
        let text = describe(&config);
        for part in [
            "GET /api/weather  0.05 usd (500 units), charged on 2xx, 304\n",
            "GET /api/health  free\n",
            "charge 5.00 usd, bonus 0.00  (5.00 USD)\n",
            "pk_test_shown",
            "x-gateway-token: set, not shown\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("hidden"), "{text}");
    }

    #[test]
    fn it_says_what_becomes_of_redirects_where_they_are_not_charged() {
        let text =
            |file: &str| describe(&config::load_from(Some(file), Path::new("."), &env()).unwrap().config);
        let words = "(3xx) cost nothing on routes that are not charged on 3xx";
        let by_default = text(&FILE.replace("charged_statuses = [\"2xx\", \"304\"]", ""));
        assert!(by_default.contains("(500 units), charged on 2xx\n"), "{by_default}");
        for (text, setting) in [
            (by_default, "charged_statuses = [\"2xx\", \"3xx\"]\n"),
            (text(FILE), "charged_statuses = [\"2xx\", \"3xx\"]\n"),
            (text(&FILE.replace("304", "404")), "charged_statuses = [\"2xx\", \"3xx\", \"404\"]\n"),
        ] {
            assert_eq!(text.matches(words).count(), 1, "{text}");
            assert!(text.ends_with(setting), "{setting} in\n{text}");
        }
        // Where all are charged, and where nothing is sold, there is nothing to say.
        assert!(!text(&FILE.replace("304", "3xx")).contains(words));
        let free = FILE.replace("price = \"0.05\"", "free = true");
        assert!(!text(&free).contains(words));
    }
}

//! `prepaid402 check-config`: what the configuration means, before it is used.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use tokio::time::Instant;

use super::database::require_file;
use super::operator_door::from_here;
use crate::agent::http::{Http, Outgoing, Target};
use crate::config::{
    self, Config, ConfigProblems, DatabaseConfig, Identity, IdleLimit, LoadSource, Loaded, Problem,
    RouteConfig, Secret, duration_text,
};
use crate::db::{self, DbError};
use crate::domain::Currency;
use crate::engine::{StartError, check_settings};
use crate::http::health;
use crate::key_secret::KeySecret;
use crate::paywall::offer::Offers;
use crate::pricing::route_table::RouteTable;
use crate::pricing::{Price, RouteCharge};
use crate::stripe::Stripe;
use crate::top_up::{NO_CARD_CHECKS, WrongStripe};
use crate::trust::Trust;

/// Exit code for a configuration that cannot be used.
const WRONG_CONFIGURATION: u8 = 2;
/// For a server that may not run.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_ANSWER: usize = 64 * 1024;

/// Check the configuration and print what it means, without starting anything.
///
/// Shows each route with its price, the top-up options and everything that deserves a look. Secrets are never shown.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  prepaid402 check-config --config prepaid402.toml\n  prepaid402 check-config --for serve\n\n\
    Without --config, the file named by PREPAID402_CONFIG is read, or ./prepaid402.toml if it exists.\n\
    Exit code 0: the configuration can be used. 2: it cannot, or it does not fit the database; every problem is listed."
)]
pub struct CheckConfigArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the configuration must do for; without it, one that names neither routes nor an upstream is an application's
    #[arg(long = "for", value_name = "WHAT")]
    pub door: Option<Door>,
}

/// What sells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Door {
    /// The gateway, which needs an upstream and routes
    Serve,
    /// An application with the paywall inside, which has neither
    Embedded,
}

/// Runs the command.
pub async fn run(args: CheckConfigArgs) -> ExitCode {
    let loaded = match args.door {
        None => load_or_report(args.config),
        Some(Door::Serve) => load_to_serve(args.config),
        Some(Door::Embedded) => {
            checked_or_report(config::load_embedded(&LoadSource { config_file: args.config }))
        }
    };
    match loaded {
        Ok(loaded) => {
            print!("{}", describe(&loaded.config));
            for line in overlap_lines(&loaded.config).into_iter().chain(method_lines(&loaded.config)) {
                println!("{line}");
            }
            let running = running_server_says(&loaded.config).await;
            let hint = running.or_else(|| unheard_proxy(&loaded.config));
            for warning in &loaded.warnings {
                println!("warning: {warning}");
            }
            if let Some(hint) = hint {
                println!("proxy: {hint}");
            }
            if let Some(line) = card_checks(&loaded.config).await {
                println!("{line}");
            }
            match look_at_books(&loaded.config).await {
                Ok(line) => {
                    println!("{line}");
                    ExitCode::SUCCESS
                }
                Err(problem) => {
                    eprint!("{}", problem_text(&ConfigProblems(vec![problem])));
                    ExitCode::from(WRONG_CONFIGURATION)
                }
            }
        }
        Err(code) => code,
    }
}

/// Whether the settings alone tell that all callers will look like one: this program speaks plain HTTP, so behind an https address
/// stands a proxy.
fn unheard_proxy(config: &Config) -> Option<String> {
    let is_unheard = config.trusted_proxies.is_empty() && config.public_url.starts_with("https://");
    let proxy = match config.listen.ip().to_canonical() {
        address if address.is_loopback() => format!("trusted_proxies = [\"{address}\"]"),
        _ => "its addresses, such as trusted_proxies = [\"10.0.0.7\"]".to_owned(),
    };
    is_unheard.then(|| {
        format!(
            "public_url is https, so a proxy stands in front, and trusted_proxies is empty: all callers count as one, and a single \
             bad card can shut out every new payer. Have the proxy send X-Forwarded-For, and write {proxy}"
        )
    })
}

/// What the server that runs with these settings, if one does, has found of a proxy in front.
async fn running_server_says(config: &Config) -> Option<String> {
    let address = from_here(config.admin_listen);
    let outgoing = Outgoing {
        target: Target::parse(&format!("http://{address}/readyz"), true).ok()?,
        method: Method::GET,
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    let mut answer = Http::new(PATIENCE, &Trust::default()).send(&outgoing, None).await.ok()?;
    let mut body = Vec::new();
    while let Some(Ok(piece)) = answer.next().await {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ANSWER {
            return None;
        }
    }
    let body = String::from_utf8(body).ok()?;
    let finding = body.strip_prefix("ready\n")?.lines().find_map(|line| line.strip_prefix(health::PROXY))?;
    Some(format!("the server that runs says: {finding}"))
}

/// Whether the Stripe key lets cards be checked, where `identity = "card"` wants that. `None`: it does.
async fn card_checks(config: &Config) -> Option<String> {
    if config.identity != Identity::Card || !config.stripe.may_lack_rights() {
        return None;
    }
    let by = Instant::now().checked_add(PATIENCE)?;
    match Stripe::new(&config.stripe).ok()?.may_check_cards(by).await {
        Ok(true) => None,
        Ok(false) => Some(format!("warning: {NO_CARD_CHECKS}")),
        Err(_) => {
            Some("identity: Stripe could not be asked whether the key may write SetupIntents".to_owned())
        }
    }
}

/// What the settings mean for the database that is there, or why they do not fit it. Makes none, and asks nobody else.
async fn look_at_books(config: &Config) -> Result<String, Problem> {
    if let DatabaseConfig::Sqlite(path) = &config.database {
        if let Err(lost) = db::refuse_lost(path, &config.data_dir) {
            return Err(Problem { path: "data_dir".to_owned(), what: lost.to_string() });
        }
        if require_file(&config.database).is_err() {
            return Ok("\nthere is no database yet: the first start makes it".to_owned());
        }
    }
    match check_books(config).await {
        Ok(line) => Ok(line),
        Err(error @ StartError::Currency(..)) => {
            Err(Problem { path: "currency".to_owned(), what: error.to_string() })
        }
        Err(error @ StartError::WrongStripe(WrongStripe::Mode { .. })) => {
            Err(Problem { path: "STRIPE_SECRET_KEY".to_owned(), what: error.to_string() })
        }
        Err(error) => Ok(format!("warning: the database could not be looked at: {error}")),
    }
}

async fn check_books(config: &Config) -> Result<String, StartError> {
    let mut connection = db::connect_read_only(&config.database).await?;
    let found = db::version(&mut connection).await.map_err(DbError::from)?;
    let line = match found {
        db::SCHEMA_VERSION => match check_settings(&mut connection, config).await? {
            Some(mode) => format!("\nthe database belongs to {mode}"),
            None => "\nthe database does not say yet to which Stripe it belongs: the next start asks Stripe"
                .to_owned(),
        },
        found => format!(
            "\nthe database has schema {found}, not {}; whether these settings fit it, the next start tells",
            db::SCHEMA_VERSION
        ),
    };
    connection.close().await.map_err(DbError::from)?;
    Ok(line)
}

/// Loads the configuration of a gateway, or of an application with the paywall inside, or prints every problem on stderr. Warnings
/// are left to the caller.
///
/// # Errors
/// Exit code 2, after the problems were printed.
pub fn load_or_report(config_file: Option<PathBuf>) -> Result<Loaded, ExitCode> {
    checked_or_report(config::load_for_any_door(&LoadSource { config_file }))
}

/// The same for the gateway, which needs an upstream.
///
/// # Errors
/// Exit code 2, after the problems were printed.
pub fn load_to_serve(config_file: Option<PathBuf>) -> Result<Loaded, ExitCode> {
    checked_or_report(config::load(&LoadSource { config_file }))
}

fn checked_or_report(loaded: Result<Loaded, ConfigProblems>) -> Result<Loaded, ExitCode> {
    let mut loaded = loaded.and_then(check_key_secret).map_err(|problems| {
        eprint!("{}", problem_text(&problems));
        ExitCode::from(WRONG_CONFIGURATION)
    })?;
    loaded.warnings.extend(Offers::shortened(&loaded.config));
    Ok(loaded)
}

/// The problems as people read them: a count, then one line each.
#[must_use]
pub fn problem_text(problems: &ConfigProblems) -> String {
    let count = problems.0.len();
    let mut text = match count {
        1 => "The configuration has 1 problem:\n".to_owned(),
        _ => format!("The configuration has {count} problems:\n"),
    };
    for problem in &problems.0 {
        text.push_str("  ");
        text.push_str(&problem.to_string());
        text.push('\n');
    }
    text
}

/// `None`: the routes contradict each other, which was reported while loading.
fn route_table(config: &Config) -> Option<RouteTable<()>> {
    RouteTable::new(config.routes.iter().map(|route| (route.rule(), ()))).ok()
}

/// A line for each free pattern that overlaps a priced one.
fn overlap_lines(config: &Config) -> Vec<String> {
    route_table(config)
        .map(|table| table.overlaps().iter().map(|overlap| format!("overlap: {overlap}")).collect())
        .unwrap_or_default()
}

/// A line for each `POST` that costs less than another method of its path.
fn method_lines(config: &Config) -> Vec<String> {
    let line = |(cheap, dear, path): (String, String, String)| {
        format!(
            "method: {cheap} and {dear} both serve {path}, and POST costs less. If your API takes the method from a parameter or \
             form field such as _method, the dearer one is had for the price of POST: switch that off there, or price both alike"
        )
    };
    route_table(config).map(|table| table.cheaper_posts().into_iter().map(line).collect()).unwrap_or_default()
}

/// A key secret that the server could not use.
fn check_key_secret(loaded: Loaded) -> Result<Loaded, ConfigProblems> {
    let given = loaded.config.key_secret.as_ref().map(Secret::expose);
    match given.map(KeySecret::check).transpose() {
        Ok(_) => Ok(loaded),
        Err(error) => Err(ConfigProblems(vec![Problem {
            path: "PREPAID402_KEY_SECRET".to_owned(),
            what: error.to_string(),
        }])),
    }
}

/// The whole configuration in words, without secrets.
fn describe(config: &Config) -> String {
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

    #[test]
    fn problems_are_counted_and_listed() {
        let problems = config::load_from(None, Path::new("."), &BTreeMap::new()).unwrap_err();
        let text = problem_text(&problems);
        assert!(text.starts_with("The configuration has 3 problems:\n  "), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}

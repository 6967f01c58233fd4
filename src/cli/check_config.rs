//! `prepaid402 check-config`: what the configuration means, before it is used. `check_config/described.rs` puts it into words.

mod described;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use tokio::time::Instant;

use self::described::describe;
use super::database::require_file;
use super::operator_door::from_here;
use crate::agent::http::{Http, Outgoing, Target};
use crate::config::{
    self, Config, ConfigProblems, DatabaseConfig, Identity, LoadSource, Loaded, Problem, Secret,
};
use crate::db::{self, DbError};
use crate::engine::{StartError, check_settings};
use crate::http::health;
use crate::key_secret::KeySecret;
use crate::paywall::offer::Offers;
use crate::pricing::route_table::RouteTable;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn problems_are_counted_and_listed() {
        let problems = config::load_from(None, Path::new("."), &BTreeMap::new()).unwrap_err();
        let text = problem_text(&problems);
        assert!(text.starts_with("The configuration has 3 problems:\n  "), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}

//! The merged table → checked settings, with every problem at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Table;
use tracing_subscriber::EnvFilter;

use super::parse::{WebAddress, host_of};
use super::problem::{Report, shown};
use super::secrets::SecretSources;
use super::section::Section;
use super::{
    Config, IdempotencyConfig, Identity, IpNetwork, LimitsConfig, LogConfig, database, live, networks,
    routes, shield, stripe, top_up, upstream, webhooks,
};
use crate::domain::Currency;

/// The largest body that may be configured, in bytes (1 GiB).
pub(super) const MAX_BODY: u32 = 1 << 30;
const MAX_TRUSTED_PROXIES: usize = 256;

pub(super) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Reads the table. `None` when there is a problem; all of them are in the report.
pub(super) fn config(
    table: &Table,
    secrets: SecretSources<'_>,
    sandbox: bool,
    report: &mut Report,
) -> Option<Config> {
    let root = Section::root(table);
    // Everything is read before the first `?`, so that one problem does not hide another.
    let listen = socket_address(&root, "listen", report);
    let admin_listen = admin_listen(&root, listen, report);
    let admin_public_url = admin_public_url(&root, report);
    let admin_hosts = admin_hosts(&root, report);
    let public_url = public_url(&root, listen, report);
    let data_dir = root.text("data_dir", report).map(PathBuf::from);
    let database = database::read(&root, data_dir.as_ref(), report);
    let currency = currency(&root, report);
    let identity = identity(&root, report);
    let stripe = stripe::read(&root.section("stripe"), secrets, report);
    // Without the section, not even the defaults: an application sells its own handlers.
    let upstream =
        root.has("upstream").then(|| upstream::read(&root.section("upstream"), secrets, listen, report));
    let top_up = top_up::read(&root.section("top_up"), currency, report);
    let routes = routes::read(&root, top_up.as_ref().zip(currency), report);
    let max_adjustments_a_day = root.section("adjustments").amount("max_a_day", report);
    let limits = limits(&root.section("limits"), report);
    let idempotency = idempotency(&root.section("idempotency"), report);
    let is_live = stripe::publishes_live_key(&root.section("stripe"));
    let shield = shield::read(&root.section("shield"), is_live, report);
    let webhooks = webhooks::read(&root.section("webhooks"), secrets, report);
    let trusted_proxies = trusted_proxies(&root, report);
    let log = log(&root.section("log"), report);
    if let Some(stripe) = stripe.as_ref().filter(|stripe| !sandbox && stripe.api_base != stripe::STRIPE_API) {
        report.warn(format!("stripe.api_base is {}, a simulator: no card is charged.", stripe.api_base));
    }
    let settings = live::Settings {
        stripe: stripe.as_ref(),
        public_url: public_url.as_deref(),
        admin_listen,
        admin_public_url: admin_public_url.as_ref().and_then(Option::as_deref),
        database: database.as_ref(),
        has_key_secret: secrets.variable("PREPAID402_KEY_SECRET").is_some(),
        sandbox,
        trusts_everybody: trusted_proxies.as_deref().is_some_and(networks::hold_the_internet),
    };
    // A wrong one has been told.
    if admin_public_url.is_some() {
        live::check(settings, report);
    }
    Some(Config {
        listen: listen?,
        admin_listen: admin_listen?,
        admin_public_url: admin_public_url?,
        admin_hosts: admin_hosts?,
        public_url: public_url?,
        public_url_is_set: report.has_public_url,
        data_dir: data_dir?,
        database: database?,
        currency: currency?,
        stripe: stripe?,
        upstream: match upstream {
            None => None,
            Some(upstream) => Some(upstream?),
        },
        routes,
        identity: identity?,
        top_up: top_up?,
        limits: limits?,
        idempotency: idempotency?,
        shield: shield?,
        max_adjustments_a_day: max_adjustments_a_day?,
        webhooks: webhooks?,
        trusted_proxies: trusted_proxies?,
        log: log?,
        key_secret: None,
        sandbox,
    })
}

fn identity(root: &Section<'_>, report: &mut Report) -> Option<Identity> {
    match root.text("identity", report)? {
        "card" => Some(Identity::Card),
        "key" => Some(Identity::Key),
        other => {
            let what = format!("{} is neither \"card\" nor \"key\"", shown(other));
            report.problem("identity", what);
            None
        }
    }
}

fn socket_address(root: &Section<'_>, key: &str, report: &mut Report) -> Option<SocketAddr> {
    let text = root.text(key, report)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let what = format!("{} is not an address and port such as \"127.0.0.1:4402\"", shown(text));
        report.problem(key, what);
    }
    parsed
}

fn admin_listen(root: &Section<'_>, listen: Option<SocketAddr>, report: &mut Report) -> Option<SocketAddr> {
    let allow_remote = root.boolean("admin_allow_remote", report);
    let address = socket_address(root, "admin_listen", report)?;
    let any = |address: SocketAddr| address.ip().is_unspecified();
    // Port 0 asks the system for a free port, so two of them never collide.
    let same = listen.is_some_and(|listen| {
        address.port() != 0
            && listen.port() == address.port()
            && (listen.ip() == address.ip() || any(listen) || any(address))
    });
    if same {
        report.problem("admin_listen", "is the same as listen: the admin pages need a port of their own");
    }
    if !address.ip().to_canonical().is_loopback() {
        match allow_remote {
            Some(true) => report.warn(format!(
                "The admin pages listen on {address}, reachable from other machines: protect that address."
            )),
            Some(false) => report.problem(
                "admin_listen",
                "can be reached from other machines: write \"127.0.0.1:4403\", or admin_allow_remote = true if you mean it",
            ),
            None => {}
        }
    }
    Some(address)
}

/// Where the admin pages are, whatever else is wrong.
pub(super) fn admin_address(root: &Section<'_>, report: &mut Report) -> Option<(SocketAddr, Option<String>)> {
    Some((socket_address(root, "admin_listen", report)?, admin_public_url(root, report)?))
}

/// The outer `Option` is "usable", the inner "given".
fn admin_public_url(root: &Section<'_>, report: &mut Report) -> Option<Option<String>> {
    if !root.has("admin_public_url") {
        return Some(None);
    }
    let text = root.text("admin_public_url", report)?;
    let what = match WebAddress::parse(text) {
        Ok(address) if !address.path.is_empty() => {
            format!("must end after host and port: write \"{}\"", address.origin)
        }
        Ok(address) if address.scheme != "https" => {
            "must begin with https://: it is what a proxy that speaks TLS makes of the admin pages".to_owned()
        }
        Ok(address) => return Some(Some(address.origin)),
        Err(what) => what.to_string(),
    };
    report.problem("admin_public_url", what);
    None
}

fn admin_hosts(root: &Section<'_>, report: &mut Report) -> Option<Vec<String>> {
    let texts = root.texts("admin_hosts", report)?;
    let mut hosts = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        // A port would never be compared, and a pattern would let in whoever finds a name in it.
        match host_of(text) {
            Some(host) if text.eq_ignore_ascii_case(&host) => hosts.push(host),
            _ => {
                let what = format!(
                    "{} is not a name such as \"admin.internal\": no port, no path, no *",
                    shown(text)
                );
                report.problem(&format!("admin_hosts[{index}]"), what);
            }
        }
    }
    Some(hosts)
}

fn public_url(root: &Section<'_>, listen: Option<SocketAddr>, report: &mut Report) -> Option<String> {
    let text = root.text("public_url", report)?;
    let address = match WebAddress::parse(text) {
        Ok(address) => address,
        Err(what) => {
            report.problem("public_url", what);
            return None;
        }
    };
    if !address.path.is_empty() {
        report.problem("public_url", format!("must end after host and port: write \"{}\"", address.origin));
        return None;
    }
    if address.scheme == "http" && !address.is_loopback() {
        report.warn(format!(
            "public_url is {}: over plain http anybody on the way can read and spend a client's key. Use https.",
            address.origin
        ));
    }
    if address.is_loopback() && listen.is_some_and(|listen| !listen.ip().to_canonical().is_loopback()) {
        report.warn(format!(
            "public_url is {}, but listen is reachable from other machines, which cannot follow that address.",
            address.origin
        ));
    }
    Some(address.origin)
}

fn currency(root: &Section<'_>, report: &mut Report) -> Option<Currency> {
    let text = root.text("currency", report)?;
    let lower = text.to_ascii_lowercase();
    match (text.parse::<Currency>(), lower.parse::<Currency>()) {
        (Ok(currency), _) => Some(currency),
        (Err(_), Ok(meant)) => {
            report.problem("currency", format!("must be in small letters: write \"{meant}\""));
            None
        }
        (Err(error), Err(_)) => {
            report.problem("currency", format!("{} {error}", shown(text)));
            None
        }
    }
}

fn limits(section: &Section<'_>, report: &mut Report) -> Option<LimitsConfig> {
    let max_body_bytes = section.integer("max_body_bytes", 0..=MAX_BODY, report);
    let body_timeout = section.duration("body_timeout", millis(10)..=millis(600_000), report);
    let connections = section.integer("max_connections", 10..=1_000_000, report);
    let requests = section.integer("max_concurrent_requests", 1..=100_000, report);
    let per_client = section.integer("max_concurrent_per_client", 1..=100_000, report);
    let shutdown_timeout = section.duration("shutdown_timeout", millis(0)..=millis(600_000), report);
    let (requests, per_client) = (requests?, per_client?);
    if per_client > requests {
        let what = format!("must not be above limits.max_concurrent_requests, {requests}");
        report.problem(&section.path("max_concurrent_per_client"), what);
    }
    Some(LimitsConfig {
        max_body_bytes: max_body_bytes?.into(),
        body_timeout: body_timeout?,
        max_connections: usize::try_from(connections?).ok()?,
        max_concurrent_requests: usize::try_from(requests).ok()?,
        max_concurrent_per_client: per_client,
        shutdown_timeout: shutdown_timeout?,
    })
}

fn idempotency(section: &Section<'_>, report: &mut Report) -> Option<IdempotencyConfig> {
    let keep = section.duration("keep", millis(60_000)..=millis(7 * 24 * 3_600_000), report);
    let max_body_bytes = section.integer("max_body_bytes", 0..=16 << 20, report);
    let max_answer_bytes = section.integer("max_answer_bytes", 0..=1 << 20, report);
    Some(IdempotencyConfig {
        keep: keep?,
        max_body_bytes: max_body_bytes?.into(),
        max_answer_bytes: usize::try_from(max_answer_bytes?).ok()?,
    })
}

fn trusted_proxies(root: &Section<'_>, report: &mut Report) -> Option<Vec<IpNetwork>> {
    let texts = root.texts("trusted_proxies", report)?;
    if texts.len() > MAX_TRUSTED_PROXIES {
        report.problem("trusted_proxies", format!("there are more than {MAX_TRUSTED_PROXIES}"));
        return None;
    }
    let mut networks = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        match text.parse::<IpNetwork>() {
            Ok(network) => networks.push(network),
            Err(error) => {
                report.problem(&format!("trusted_proxies[{index}]"), format!("{} {error}", shown(text)))
            }
        }
    }
    if networks::hold_the_internet(&networks) {
        report.warn("trusted_proxies holds the whole internet, or half of it: anybody can choose the address they come from.");
    }
    Some(networks)
}

fn log(section: &Section<'_>, report: &mut Report) -> Option<LogConfig> {
    let json = section.boolean("json", report);
    let filter = section.text("filter", report)?;
    if filter.len() > 1_000 || EnvFilter::builder().parse(filter).is_err() {
        let what =
            format!("{} is not a log filter such as \"info\" or \"info,prepaid402=debug\"", shown(filter));
        report.problem(&section.path("filter"), what);
        return None;
    }
    Some(LogConfig { filter: filter.to_owned(), json: json? })
}

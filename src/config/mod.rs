//! Validated settings.
//!
//! `load.rs` finds the texts, `layers.rs` puts defaults (`default.toml`, which is the manual), file and environment over each
//! other, `validate.rs` and one file per section turn the result into these types and report every problem at once. `toml` reads
//! the text; the reader is our own, because derived ones stop at the first problem and cannot say which variable has set a key.

mod database;
mod keys;
mod layers;
mod live;
mod load;
mod networks;
mod parse;
mod problem;
mod routes;
mod sandbox;
mod secrets;
mod section;
mod shield;
mod stripe;
mod top_up;
mod upstream;
mod validate;
mod webhooks;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use self::database::DatabaseConfig;
pub use self::layers::DEFAULT_TOML;
pub use self::load::{
    LoadSource, Loaded, embedded_from, load, load_admin_address, load_database, load_embedded,
    load_for_any_door, load_from, variables,
};
pub use self::parse::NotANetwork;
pub(crate) use self::parse::{duration_text, host_of, origin_of};
pub use self::problem::{ConfigProblems, Problem};
pub use self::sandbox::{SandboxOptions, sandbox};
pub(crate) use self::top_up::label;
use crate::domain::{Currency, Micros, StripeMode};
use crate::pricing::route_table::RouteRule;
use crate::pricing::{RouteCharge, StatusSet};
use crate::trust::Trust;

/// Everything that the gateway needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where callers connect.
    pub listen: SocketAddr,
    /// Where the seller's own pages, metrics and admin API listen; loopback unless stated otherwise.
    pub admin_listen: SocketAddr,
    /// The origin of the admin pages, when they are reached through a proxy that speaks HTTPS.
    pub admin_public_url: Option<String>,
    /// Names that the admin listener answers to, besides its addresses, `localhost` and the one of `admin_public_url`. In lower case.
    pub admin_hosts: Vec<String>,
    /// The origin callers see, `https://api.example.com`, without a trailing slash.
    pub public_url: String,
    /// Whether somebody has set it. Offers say what the caller has asked, otherwise.
    pub public_url_is_set: bool,
    /// Holds the database, the key secret and the lock.
    pub data_dir: PathBuf,
    /// Where the books are (default: `prepaid402.db` in the data directory).
    pub database: DatabaseConfig,
    /// The one currency of this gateway.
    pub currency: Currency,
    /// Stripe account and API.
    pub stripe: StripeConfig,
    /// The API that is sold.
    pub upstream: Option<UpstreamConfig>,
    /// What is sold at what price, in the order of the file.
    pub routes: Vec<RouteConfig>,
    /// What leads to a wallet besides its keys and the very token that has founded it.
    pub identity: Identity,
    /// How much may be charged.
    pub top_up: TopUpConfig,
    /// Sizes and times.
    pub limits: LimitsConfig,
    /// What is remembered of requests with an `Idempotency-Key`.
    pub idempotency: IdempotencyConfig,
    /// What keeps stolen cards from being tried here.
    pub shield: ShieldConfig,
    /// The most credit that operators may give in a day.
    pub max_adjustments_a_day: Micros,
    /// How Stripe tells what became of a charge.
    pub webhooks: WebhooksConfig,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNetwork>,
    /// Log filter, as understood by `tracing_subscriber::EnvFilter`, and whether lines are JSON.
    pub log: LogConfig,
    /// `PREPAID402_KEY_SECRET`, when the environment holds the key secret instead of a file in the data directory.
    pub key_secret: Option<Secret>,
    /// Says SANDBOX wherever it shows; set by `prepaid402 sandbox` only, never from the file.
    pub sandbox: bool,
}

/// What leads to a wallet besides its keys and the very token that has founded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A new token of the card that has founded it, once the bank has confirmed the card again.
    Card,
    /// Nothing.
    Key,
}

/// Stripe account and API.
#[derive(Debug, Clone)]
pub struct StripeConfig {
    /// `sk_…` or `rk_…`, of the same mode as the publishable key.
    pub secret_key: Secret,
    /// `pk_…`, published in every 402.
    pub publishable_key: String,
    /// `https://api.stripe.com`, or a loopback simulator. No trailing slash.
    pub api_base: String,
    /// The `Stripe-Version` header; `None` is the version that our types were made for.
    pub api_version: Option<String>,
    /// One attempt of one call.
    pub timeout: Duration,
    /// Suffix on the card statement, 2 to 22 characters.
    pub statement_descriptor_suffix: Option<String>,
}

impl StripeConfig {
    /// Whether real money moves.
    #[must_use]
    pub fn is_live(&self) -> bool {
        stripe::is_live(self.secret_key.expose())
    }

    /// Whether the key may lack rights that the program needs: a secret key has all of Stripe's.
    #[must_use]
    pub fn may_lack_rights(&self) -> bool {
        self.secret_key.expose().starts_with("rk_") || self.api_base != stripe::STRIPE_API
    }

    /// Whose money it is. A simulator is told by its address, because it takes test keys.
    #[must_use]
    pub fn mode(&self) -> StripeMode {
        match self.is_live() {
            true => StripeMode::Live,
            false if self.api_base == stripe::STRIPE_API => StripeMode::Test,
            false => StripeMode::Simulated,
        }
    }
}

/// The API that is sold.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// `http` or `https` origin and optional base path; no user info, query or fragment; no trailing slash.
    pub url: String,
    /// Certificate authorities that vouch for it, besides the public ones.
    pub trust: Trust,
    /// Set on every request to the upstream, so that only the gateway can call it. Values are secrets.
    pub headers: Vec<(String, Secret)>,
    /// Establishing a connection.
    pub connect_timeout: Duration,
    /// From the request sent to the response head received.
    pub response_timeout: Duration,
    /// Between two pieces of a response body.
    pub idle_timeout: Duration,
    /// Whether the caller's `Host` is passed on; otherwise the upstream's own name is sent.
    pub preserve_host: bool,
}

/// One route: what is sold, at what price.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// Upper-case HTTP methods. `GET` implies `HEAD` at the same price.
    pub methods: BTreeSet<String>,
    /// Starts with `/`; segments are literals, `{name}`, or a final `*` for any rest.
    pub pattern: String,
    /// Price, or free by an explicit word.
    pub charge: RouteCharge,
    /// For people, in the 402.
    pub description: Option<String>,
    /// Media type, in the 402.
    pub mime_type: Option<String>,
    /// Which answers of the upstream are charged.
    pub charged_statuses: StatusSet,
    /// Overrides [`UpstreamConfig::response_timeout`].
    pub response_timeout: Option<Duration>,
    /// Overrides [`UpstreamConfig::idle_timeout`].
    pub idle_timeout: Option<IdleLimit>,
    /// Overrides [`LimitsConfig::body_timeout`].
    pub body_timeout: Option<Duration>,
    /// Overrides [`LimitsConfig::max_body_bytes`].
    pub max_body_bytes: Option<u64>,
}

impl RouteConfig {
    /// What the route table goes by.
    #[must_use]
    pub fn rule(&self) -> RouteRule {
        let Self { methods, pattern, charge, .. } = self;
        RouteRule { methods: methods.clone(), pattern: pattern.clone(), charge: *charge }
    }
}

/// How long somebody is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleLimit {
    /// For so long.
    UpTo(Duration),
    /// As long as the connection is there.
    Endless,
}

/// How much may be charged.
#[derive(Debug, Clone)]
pub struct TopUpConfig {
    /// The smallest charge.
    pub minimum: Micros,
    /// The largest charge.
    pub maximum: Micros,
    /// The most a client may hold; a top-up beyond it is refused.
    pub max_balance: Micros,
    /// Packs in ascending order of amount; the first amount equals `minimum`.
    pub options: Vec<TopUpPack>,
    /// Whether a charge with an early fraud warning is refunded at once.
    pub refund_on_fraud_warning: bool,
    /// How often open top-ups and refunds are asked after.
    pub reconcile_every: Duration,
    /// How often the books are compared with Stripe.
    pub compare_every: Duration,
}

/// A pack on offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUpPack {
    /// Charged to the card.
    pub amount: Micros,
    /// Credited on top of `amount`.
    pub bonus: Micros,
    /// For people.
    pub label: String,
}

/// Sizes and times.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// Request body passed to the upstream.
    pub max_body_bytes: u64,
    /// How far behind a caller may be with a request body: so long without a byte, while what comes buys time again.
    pub body_timeout: Duration,
    /// Connections of callers; of one network a part only.
    pub max_connections: usize,
    /// Requests being served at the same time, of each kind; more are answered 503 `busy`. Of one client or network a part only.
    pub max_concurrent_requests: usize,
    /// The same for one client: 429 `reservations_in_flight` beyond it.
    pub max_concurrent_per_client: u32,
    /// How long running requests may take to finish at shutdown.
    pub shutdown_timeout: Duration,
}

/// What is remembered of requests with an `Idempotency-Key`.
#[derive(Debug, Clone)]
pub struct IdempotencyConfig {
    /// How long.
    pub keep: Duration,
    /// Request body with an `Idempotency-Key`; it is read whole before the upstream is called.
    pub max_body_bytes: u64,
    /// Larger answers are not kept.
    pub max_answer_bytes: usize,
}

/// What keeps stolen cards from being tried here. `shield` says what is counted.
#[derive(Debug, Clone, Copy)]
pub struct ShieldConfig {
    /// Whether there are limits at all.
    pub enabled: bool,
    /// Attempts of new payers from one network in an hour.
    pub network_attempts_an_hour: u32,
    /// Cards that new payers of one network try in 24 hours.
    pub network_cards_a_day: u32,
    /// Cards that one client tries in 24 hours.
    pub client_cards_a_day: u32,
    /// Declines that one client meets in 24 hours.
    pub client_declines_a_day: u32,
    /// Declines that one card meets in 24 hours, whoever presents it.
    pub card_declines_a_day: u32,
    /// Declines of new payers within [`Self::new_payer_window`], from anywhere, that pause new payers; and attempts from
    /// which on their share counts.
    pub new_payer_declines: u32,
    /// The share of declines, in percent, above which new payers are paused.
    pub new_payer_decline_percent: u32,
    /// What is looked at, and how long the pause is.
    pub new_payer_window: Duration,
    /// Attempts of new payers that run at the same time, at all nodes together.
    pub new_payers_at_once: u32,
}

/// How Stripe tells what became of a charge.
#[derive(Debug, Clone)]
pub struct WebhooksConfig {
    /// The endpoint's signing secrets, any of which may sign: several while one is exchanged. None: there is no endpoint.
    pub secrets: Vec<Secret>,
    /// How far a signature's time may be from ours, in either direction. Whole seconds.
    pub tolerance: Duration,
    /// Time between two looks at Stripe's list of events, whether webhooks come or not.
    pub poll_every: Duration,
}

/// How it logs.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `tracing_subscriber` filter, such as `info` or `prepaid402=debug`.
    pub filter: String,
    /// One JSON object a line.
    pub json: bool,
}

/// A network of addresses, `10.0.0.0/8` or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNetwork {
    /// First address.
    pub address: IpAddr,
    /// Number of leading bits that count.
    pub prefix: u8,
}

/// A text that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests;

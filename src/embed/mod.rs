//! The paywall inside an actix application: no proxy, the same protocol, the same ledger.
//!
//! Wrap a resource with its price, and its handlers are called only for requests whose price is set aside. What they answer is
//! charged before its first byte goes out; an answer of 3xx, 4xx or 5xx is not charged ([`Price::charge_redirects`] charges 3xx).
//! A handler may take [`Paid`] to learn who pays. A handler that has begun is not broken off by its caller: when that hangs up
//! meanwhile, its answer is charged all the same. Time limits of the application's own belong inside the price (wrapped before it).
//!
//! What panics inside the price, or breaks off in the middle, is not charged or given back. With `panic = "abort"` the process
//! ends instead, and the next start gives back what was not delivered. A price inside another is refused: `500 nested_prices`.
//!
//! Settings are those of `prepaid402.toml` and the environment, without `[upstream]` and `[[routes]]`; every command but `serve`
//! takes the same file. The admin pages, health checks and metrics listen on `admin_listen`.
//!
//! ```
//! use actix_web::{App, test, web};
//! use prepaid402::embed::{Embedded, Paid};
//! # use prepaid402::sandbox::stripe_sim::{self, SimOptions};
//!
//! async fn joke(paid: Paid) -> String {
//!     format!("{} paid {} for this joke", paid.client(), paid.price_text())
//! }
//!
//! # #[actix_web::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let options = SimOptions {
//! #     data: None, secret_key: "sk_test_doc".into(), publishable_key: "pk_test_doc".into(), publishable_key_tokenisation: true,
//! # };
//! # let sim = stripe_sim::start(listener, options).await?;
//! # let toml = format!(
//! #     "data_dir = {:?}\nadmin_listen = \"127.0.0.1:0\"\n[stripe]\npublishable_key = \"pk_test_doc\"\napi_base = \"{}\"",
//! #     folder.path(), sim.base_url,
//! # );
//! # let env = [("STRIPE_SECRET_KEY".to_owned(), "sk_test_doc".to_owned())].into();
//! # let settings = prepaid402::config::embedded_from(Some(&toml), folder.path(), &env)?;
//! // From prepaid402.toml and the environment: `Embedded::from_environment().await?`
//! let paywall = Embedded::start(settings).await?;
//! let app = App::new()
//!     .service(web::resource("/joke").wrap(paywall.price("0.01")?).get(joke))
//!     .configure(paywall.billing());
//! let app = test::init_service(app).await;
//!
//! let unpaid = test::call_service(&app, test::TestRequest::get().uri("/joke").to_request()).await;
//! assert_eq!(unpaid.status(), 402);
//! assert!(unpaid.headers().contains_key("payment-required"));
//! # drop(app);
//! # paywall.stop().await;
//! # Ok(())
//! # }
//! ```

mod body;
mod caught;
mod departures;
mod middleware;
mod nesting;
mod notes;
mod paid;
mod upload;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::web;
use tokio::task::JoinHandle;

pub use self::middleware::{Price, PricedService};
pub use self::paid::{NotPaid, Paid};
use crate::app::{admin_server, listen};
use crate::config::{ConfigProblems, IdempotencyConfig, LimitsConfig, LoadSource, Loaded, Secret};
use crate::domain::{Micros, MoneyError};
use crate::engine::{Engine, Parts, StartError};
use crate::http;
use crate::http::redirect_told::RedirectTold;
use crate::pricing::{Listing, PriceRule, StatusSet};

/// Why an embedded paywall does not start.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The settings are not right.
    #[error("{0}")]
    Config(#[from] ConfigProblems),
    /// Nothing starts.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A price that cannot be charged.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// Not an amount.
    #[error("the price {0}")]
    Amount(#[from] MoneyError),
    /// Nothing, or more than one top-up may be.
    #[error("the price must be above zero and at most top_up.maximum, {0}")]
    Range(String),
    /// Whoever has a little less than the price could not go on.
    #[error(
        "a top-up beside that price is more than a client may hold: set top_up.max_balance to {0} or more"
    )]
    Balance(String),
}

/// A paywall inside this process. Cheap to clone: every worker of the server has one.
#[derive(Debug, Clone)]
pub struct Embedded(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    parts: Parts,
    limits: LimitsConfig,
    idempotency: IdempotencyConfig,
    admin_address: SocketAddr,
    /// What is sold, by name; of each name, at different prices. There are as many names as handlers have methods.
    known: Mutex<HashMap<String, Vec<Arc<Sold>>>>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    engine: Engine,
    admin: ServerHandle,
    server: JoinHandle<std::io::Result<()>>,
}

impl Embedded {
    /// Starts with the settings of `prepaid402.toml` (or the file that `PREPAID402_CONFIG` names) and the environment.
    ///
    /// # Errors
    /// [`EmbedError`]; every message says what to change.
    pub async fn from_environment() -> Result<Self, EmbedError> {
        Self::start(crate::config::load_embedded(&LoadSource::default())?).await
    }

    /// Starts with these settings: opens the database, finishes what an earlier run left, asks Stripe about open top-ups, and
    /// listens on `admin_listen`. Must be called inside a tokio runtime that lives as long as the server.
    ///
    /// # Errors
    /// [`EmbedError`]; every message says what to change.
    pub async fn start(settings: Loaded) -> Result<Self, EmbedError> {
        let Loaded { config, warnings } = settings;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let admin = listen(config.admin_listen)?;
        let key_secret = config.key_secret.as_ref().map(Secret::expose);
        let engine = Engine::start(&config, key_secret, None).await?;
        let (admin_address, server) = match admin_server(admin, &config, &engine.parts) {
            Ok(started) => started,
            Err(error) => {
                engine.stop().await;
                return Err(error.into());
            }
        };
        let running = Running { admin: server.handle(), server: tokio::spawn(server), engine };
        Ok(Self(Arc::new(Inner {
            parts: running.engine.parts.clone(),
            limits: config.limits,
            idempotency: config.idempotency,
            admin_address,
            known: Mutex::default(),
            running: Mutex::new(Some(running)),
        })))
    }

    /// Middleware that sells what it wraps at this price for each request: a decimal of the currency's major unit, `"0.05"`.
    /// HEAD costs what GET costs; OPTIONS is answered without being priced. What is wrapped must not hold another price.
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn price(&self, price: &str) -> Result<Price, PriceError> {
        let price = Micros::parse_major(price)?;
        let (amounts, currency) = (&self.0.parts.offers.amounts, self.0.parts.offers.currency());
        let limits = amounts.limits();
        if price.is_zero() || price > limits.maximum {
            return Err(PriceError::Range(currency.text(limits.maximum)));
        }
        let needed = limits.room_for(price, currency);
        if limits.max_balance < needed {
            return Err(PriceError::Balance(currency.text(needed)));
        }
        Ok(Price::new(Arc::clone(&self.0), price))
    }

    /// The clients' own pages under `/billing`: balance, entries, credit in advance. For `App::configure`.
    pub fn billing(&self) -> impl FnOnce(&mut web::ServiceConfig) + Clone + use<> {
        let (billing, condition) = (self.0.parts.billing(), self.0.parts.db.condition().clone());
        move |config: &mut web::ServiceConfig| {
            let scope = web::scope("/billing")
                .wrap(from_fn(http::in_vain::told(condition)))
                .wrap(from_fn(http::target::guard))
                .app_data(billing)
                .configure(http::billing::configure);
            config.service(scope);
        }
    }

    /// Where Stripe tells what became of charges: `POST /webhooks/stripe`. For `App::configure`. Without it, or without
    /// `STRIPE_WEBHOOK_SECRETS`, Stripe is asked now and then.
    pub fn webhooks(&self) -> impl FnOnce(&mut web::ServiceConfig) + Clone + use<> {
        let webhooks = self.0.parts.webhooks.clone();
        move |config: &mut web::ServiceConfig| {
            let scope = web::scope("/webhooks").app_data(webhooks).configure(http::webhooks::configure);
            config.service(scope);
        }
    }

    /// Where the admin pages, `/healthz`, `/readyz` and `/metrics` are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.0.admin_address
    }

    /// Finishes what runs and closes the books. Call it when the server has stopped; later requests are refused.
    pub async fn stop(&self) {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(running) = running else { return };
        running.engine.begin_stop();
        running.admin.stop(true).await;
        let _ = running.server.await;
        running.engine.stop().await;
    }
}

/// A handler, by method and pattern, and its price.
#[derive(Debug)]
pub(crate) struct Sold {
    pub(crate) listing: Arc<Listing>,
    redirect_told: RedirectTold,
}

impl Sold {
    fn is(&self, rule: PriceRule, charged: &Arc<StatusSet>) -> bool {
        let own = self.listing.charged();
        self.listing.rule() == rule && (Arc::ptr_eq(own, charged) || own == charged)
    }

    /// See [`RedirectTold`].
    fn tell_of_redirect(&self, status: u16) {
        if !self.redirect_told.is_due(&self.listing, status) {
            return;
        }
        tracing::warn!(
            "A handler answered {status} on the priced route {}, where answers with 3xx are passed on and not charged. If what \
             you sell is behind a redirect, such as a signed download, make its price with .charge_redirects()",
            self.listing.name(),
        );
    }
}

impl Inner {
    /// What is sold under this name: the same each time, so that its numbers and what was said of it are known.
    fn sold(&self, name: String, rule: PriceRule, charged: &Arc<StatusSet>) -> Arc<Sold> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sold) = known.get(&name).into_iter().flatten().find(|sold| sold.is(rule, charged)) {
            return Arc::clone(sold);
        }
        let currency = self.parts.offers.currency();
        let listing = Arc::new(Listing::new(name.clone(), rule, currency, Arc::clone(charged)));
        let sold = Arc::new(Sold { listing, redirect_told: RedirectTold::default() });
        known.entry(name).or_default().push(Arc::clone(&sold));
        sold
    }
}

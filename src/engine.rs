//! Everything behind the doors: ledger, top-ups, paywall and the loops that finish what was left. The gateway (`app.rs`) and
//! the embedded paywall (`embed`) open their doors on top of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::web;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{Config, DatabaseConfig};
use crate::crowd::Crowd;
use crate::db::{Connection, DatabaseWatch, Db, DbError, FileError, On, OwnFile, own, query_scalar};
use crate::domain::{Currency, InstallationId, Micros, NodeId, StripeMode};
use crate::http::Reversals;
use crate::http::admin::AdminState;
use crate::http::admin::api::Desk;
use crate::http::billing::Billing;
use crate::http::callers::Callers;
use crate::http::health::Operations;
use crate::http::metrics::Metrics;
use crate::http::origin::Origin;
use crate::http::webhooks::Webhooks;
use crate::key_secret::{KeySecret, KeySecretError};
use crate::ledger::Ledger;
use crate::ledger::keys::Keys;
use crate::money_work::MoneyWork;
use crate::payments::charges::Charges;
use crate::payments::refunds::Refunds;
use crate::payments::{Applier, Inbox, PaymentParts, Poller};
use crate::paywall::offer::Offers;
use crate::paywall::{Paywall, PaywallParts};
use crate::protocol::SPOKEN;
use crate::proxy::reachability::Reachability;
use crate::proxy::upstream::UpstreamSetupError;
use crate::reconciliation::Watch;
use crate::stripe::{Stripe, StripeSetupError};
use crate::top_up::account::check_mode;
use crate::top_up::{Account, TopUpParts, TopUps, WrongStripe, installation};
use crate::worker;

/// How long money work may go on after the last connection has ended.
const MONEY_WORK_GRACE: Duration = Duration::from_secs(60);

/// Why nothing starts. Every message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database file cannot be this process's.
    #[error(transparent)]
    DatabaseFile(#[from] FileError),
    /// The data directory cannot be used.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, std::io::Error),
    /// An address cannot be listened on.
    #[error("{}", cannot_listen(*.0, .1))]
    Listen(SocketAddr, std::io::Error),
    /// The database cannot be used.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The key secret cannot be used.
    #[error(transparent)]
    KeySecret(#[from] KeySecretError),
    /// Stripe's settings cannot be used.
    #[error(transparent)]
    Stripe(#[from] StripeSetupError),
    /// There is nothing to be a gateway to.
    #[error("upstream.url is not set: a gateway needs the address of the API behind it")]
    NoUpstream,
    /// The upstream's settings cannot be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamSetupError),
    /// The database holds money of another currency.
    #[error(
        "the database holds wallets or open top-ups in {0}, but the configuration says {1}; keep the currency, or use another data directory"
    )]
    Currency(String, &'static str),
    /// The keys are not those of the database.
    #[error(transparent)]
    WrongStripe(#[from] WrongStripe),
    /// The routes contradict each other.
    #[error("the routes contradict each other:\n{0}")]
    Routes(String),
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("another program already listens on {address}; stop it, or choose another address")
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}

/// What the doors use. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) db: Db,
    pub(crate) ledger: Ledger,
    pub(crate) keys: Arc<Keys>,
    pub(crate) paywall: Paywall,
    pub(crate) offers: Offers,
    pub(crate) refunds: Refunds,
    pub(crate) reversals: Reversals,
    pub(crate) tasks: MoneyWork,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) inbox: Inbox,
    pub(crate) books: Watch,
    pub(crate) webhooks: web::Data<Webhooks>,
    pub(crate) crowd: Arc<Crowd>,
    /// How far behind a caller may be with a body.
    pub(crate) body_timeout: Duration,
    pub(crate) closing: Arc<AtomicBool>,
    pub(crate) origin: Origin,
    pub(crate) callers: Callers,
    /// The most credit that operators may give in a day.
    pub(crate) max_adjustments_a_day: Micros,
}

/// Everything behind the doors, running.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) parts: Parts,
    writer: JoinHandle<()>,
    loops: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    /// Held until the end, where one process owns the database.
    _own: Option<OwnFile>,
}

impl Engine {
    /// Opens the database, finishes what an earlier run left, and starts the loops.
    /// `upstream`: the API behind a gateway.
    pub(crate) async fn start(
        config: &Config,
        key_secret: Option<&str>,
        upstream: Option<Reachability>,
    ) -> Result<Self, StartError> {
        make_private_directory(&config.data_dir)?;
        let own = match &config.database {
            DatabaseConfig::Sqlite(path) => Some(own(path, &config.data_dir)?),
            DatabaseConfig::Postgres(_) => None,
        };
        let key_secret = KeySecret::find(key_secret, &config.data_dir)?;
        let stripe = Stripe::new(&config.stripe)?;
        let node = NodeId::new().to_string();
        let (ledger, db, writer) =
            Ledger::open(&config.database, &node, config.limits.max_concurrent_per_client).await?;
        let checked = check_books(&db, config, key_secret, &stripe, &node).await;
        let Known { installation, account, key_secret } = match checked {
            Ok(known) => known,
            Err(error) => {
                // Closed before anybody else opens them.
                ledger.close();
                let _ = writer.await;
                return Err(error);
            }
        };
        if let Some(own) = &own {
            own.is_used();
        }
        let watch = DatabaseWatch::new(db.clone(), own.as_ref()).await;
        let keys = Arc::new(Keys::new(db.reader().clone()));
        let tasks = MoneyWork::on_this_runtime();
        let seal_keys = key_secret.seal_keys();
        let top_ups = TopUps::new(
            TopUpParts {
                db: db.clone(),
                ledger: ledger.clone(),
                keys: Arc::clone(&keys),
                key_secret,
                stripe: stripe.clone(),
                installation,
                account: account.clone(),
                tasks: tasks.clone(),
            },
            config,
        );
        let payments = Arc::new(PaymentParts {
            db: db.clone(),
            ledger: ledger.clone(),
            stripe: stripe.clone(),
            account: account.clone(),
            top_ups: top_ups.clone(),
            tasks: tasks.clone(),
            refund_on_fraud_warning: config.top_up.refund_on_fraud_warning,
        });
        let refunds = Refunds::new(Arc::clone(&payments));
        let charges = Charges::new(payments);
        let paywall = Paywall::new(PaywallParts {
            db: db.clone(),
            ledger: ledger.clone(),
            keys: Arc::clone(&keys),
            top_ups: top_ups.clone(),
            tasks: tasks.clone(),
            keep_keys: config.idempotency.keep,
            upstream,
        });
        let offers = Offers {
            publishable_key: config.stripe.publishable_key.clone(),
            amounts: top_ups.amounts().clone(),
            dialects: SPOKEN,
            seal_keys,
        };
        let metrics = Arc::new(Metrics::new());
        let inbox = Inbox::new(db.clone(), tasks.clone());
        let applier = Applier::new(top_ups.clone(), charges.clone());
        let books = Watch::new(config.database.clone(), stripe.clone());
        let poller = Poller::new(db.clone(), stripe, top_ups.clone(), inbox.clone());
        let poll_every = config.webhooks.poll_every;
        let (reconcile_every, compare_every) = (config.top_up.reconcile_every, config.top_up.compare_every);
        if config.webhooks.secrets.is_empty() {
            tracing::info!(
                "webhooks are off: no STRIPE_WEBHOOK_SECRETS; Stripe's events are asked for every {} s instead",
                poll_every.as_secs()
            );
        }
        let crowd = Crowd::new(&config.limits, &config.idempotency);
        let callers = Callers::new(&config.trusted_proxies);
        let webhooks = Webhooks {
            config: config.webhooks.clone(),
            is_live: config.stripe.is_live(),
            inbox: inbox.clone(),
            metrics: Arc::clone(&metrics),
            crowd: Arc::clone(&crowd),
            callers: callers.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        let loops = vec![
            tokio::spawn(worker::reconcile(top_ups.clone(), reconcile_every, stopped.clone())),
            tokio::spawn(worker::look_after_refunds(
                refunds.clone(),
                account.clone(),
                reconcile_every,
                stopped.clone(),
            )),
            tokio::spawn(worker::apply_events(inbox.clone(), applier, account.clone(), stopped.clone())),
            tokio::spawn(worker::compare(books.clone(), account.clone(), compare_every, stopped.clone())),
            tokio::spawn(worker::poll_events(poller, account.clone(), poll_every, stopped.clone())),
            tokio::spawn(worker::adopt(top_ups.clone(), charges, stopped.clone())),
            tokio::spawn(worker::renew(ledger.clone())),
            tokio::spawn(worker::ask_for_permissions(top_ups.clone(), account.clone(), stopped)),
            tokio::spawn(worker::tidy(db.clone(), top_ups.clone(), inbox.clone())),
            tokio::spawn(worker::sweep(ledger.clone(), top_ups)),
            tokio::spawn(worker::watch_database(watch)),
        ];
        let parts = Parts {
            reversals: Reversals::new(ledger.clone(), tasks.clone()),
            crowd,
            body_timeout: config.limits.body_timeout,
            metrics,
            books,
            inbox,
            webhooks: web::Data::new(webhooks),
            closing: Arc::new(AtomicBool::new(false)),
            origin: Origin::new(config, callers.clone()),
            callers,
            max_adjustments_a_day: config.max_adjustments_a_day,
            db,
            ledger,
            keys,
            paywall,
            offers,
            refunds,
            tasks,
        };
        Ok(Self { parts, writer, loops, stop, _own: own })
    }

    /// Ends only when the ledger's writer has ended by itself, which nothing but a fault does.
    pub(crate) async fn broken(&mut self) {
        let _ = (&mut self.writer).await;
    }

    /// From now on, an answer that the process itself cuts counts as undelivered.
    pub(crate) fn begin_stop(&self) {
        self.parts.closing.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
    }

    /// Finishes money work and closes the books, after the last door is shut.
    pub(crate) async fn stop(self) {
        self.begin_stop();
        if !self.parts.tasks.finish(MONEY_WORK_GRACE).await {
            tracing::warn!("money work is still running; the reconciler takes it up at the next start");
        }
        // Their steps are work of others, so ending the loops ends none of it. The lease is renewed up to here.
        for running in self.loops {
            running.abort();
            let _ = running.await;
        }
        let readers = self.parts.db.reader();
        if tokio::time::timeout(Duration::from_secs(5), readers.close()).await.is_err() {
            tracing::warn!("something is still being read; a copy of the database needs its -wal file, too");
        }
        self.parts.ledger.close();
        if tokio::time::timeout(Duration::from_secs(10), self.writer).await.is_err() {
            tracing::warn!("the ledger's writer did not end in time; nothing is lost");
        }
    }
}

impl Parts {
    pub(crate) fn billing(&self) -> web::Data<Billing> {
        web::Data::new(Billing {
            db: self.db.clone(),
            ledger: self.ledger.clone(),
            keys: Arc::clone(&self.keys),
            paywall: self.paywall.clone(),
            offers: self.offers.clone(),
            crowd: Arc::clone(&self.crowd),
            body_timeout: self.body_timeout,
            origin: self.origin.clone(),
            callers: self.callers.clone(),
        })
    }

    pub(crate) fn operations(&self) -> web::Data<Operations> {
        web::Data::new(Operations {
            db: self.db.clone(),
            ledger: self.ledger.clone(),
            top_ups: self.paywall.top_ups().clone(),
            inbox: self.inbox.clone(),
            books: self.books.clone(),
            reversals: self.reversals.clone(),
            callers: self.callers.clone(),
            upstream: self.paywall.upstream().cloned(),
            metrics: Arc::clone(&self.metrics),
            closing: Arc::clone(&self.closing),
        })
    }

    /// What an operator may do.
    pub(crate) fn desk(&self) -> web::Data<Desk> {
        let (ledger, refunds) = (self.ledger.clone(), self.refunds.clone());
        let (db, tasks) = (self.db.clone(), self.tasks.clone());
        web::Data::new(Desk::new(db, ledger, refunds, tasks, self.max_adjustments_a_day))
    }

    pub(crate) fn admin(&self, config: &Config) -> web::Data<AdminState> {
        let state = AdminState::new(
            self.db.clone(),
            config.sandbox,
            !config.admin_listen.ip().is_loopback(),
            config.public_url.clone(),
        );
        web::Data::new(state.reached_by(config, self.callers.clone()))
    }
}

/// Makes a directory that only its owner can enter.
///
/// # Errors
/// [`StartError::File`].
pub fn make_private_directory(path: &Path) -> Result<(), StartError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| StartError::File(path.to_owned(), error))
}

/// What the books know of themselves.
struct Known {
    installation: InstallationId,
    account: Account,
    key_secret: KeySecret,
}

/// Whether these settings fit the books, and whose books they are. A key secret is made where there is none: not before there are
/// tables, because a key secret without a database is what is left of a lost one.
async fn check_books(
    db: &Db,
    config: &Config,
    key_secret: Option<KeySecret>,
    stripe: &Stripe,
    node: &str,
) -> Result<Known, StartError> {
    refuse_other_currency(db.reader(), config.currency).await?;
    let installation = installation::id(db).await?;
    let account = Account::open(db.clone(), stripe.clone(), config.stripe.mode(), node).await?;
    let key_secret = match key_secret {
        Some(key_secret) => key_secret,
        None => KeySecret::make(db, &config.data_dir).await?,
    };
    key_secret.agree_with_the_database(db).await?;
    Ok(Known { installation, account, key_secret })
}

/// Whether these settings fit the books, as far as the database alone can tell; where nothing may be written. Answers whose money
/// the wallets hold, if it says so.
pub(crate) async fn check_settings(
    connection: &mut Connection,
    config: &Config,
) -> Result<Option<StripeMode>, StartError> {
    refuse_other_currency(&mut *connection, config.currency).await?;
    Ok(check_mode(connection, config.stripe.mode()).await?)
}

/// A wallet's balance means nothing in another currency, so changing the configuration's is refused.
async fn refuse_other_currency(on: impl Into<On<'_>>, currency: Currency) -> Result<(), StartError> {
    let other: Option<String> = query_scalar(
        "SELECT currency FROM clients WHERE currency <> $1 UNION ALL \
         SELECT currency FROM top_ups WHERE currency <> $1 AND state IN ('created', 'confirming', 'pending') LIMIT 1",
    )
    .bind(currency.code())
    .fetch_optional(on)
    .await
    .map_err(DbError::from)?;
    other.map_or(Ok(()), |other| Err(StartError::Currency(other, currency.code())))
}

//! The composition root: configuration in, two listening servers out. Tests come in by the same door.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App as ActixApp, HttpServer, web};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::{Config, DatabaseConfig, RouteCharge};
use crate::db::{Db, DbError, now_micros, query, query_scalar};
use crate::domain::{Currency, NodeId};
use crate::http::admin::AdminState;
use crate::http::billing::Billing;
use crate::http::gateway::Gateway;
use crate::http::health::Operations;
use crate::http::metrics::Metrics;
use crate::http::{self, Reversals};
use crate::key_secret::{KeySecret, KeySecretError};
use crate::ledger::Ledger;
use crate::ledger::keys::Keys;
use crate::money_work::MoneyWork;
use crate::paywall::{Paywall, PaywallParts};
use crate::paywall::offer::Offers;
use crate::proxy::route_table::RouteTable;
use crate::proxy::upstream::{Upstream, UpstreamSetupError};
use crate::stripe::{Stripe, StripeSetupError};
use crate::top_up::{TopUpParts, TopUps};
use crate::worker;

/// How long money work may go on after the last connection has ended.
const MONEY_WORK_GRACE: Duration = Duration::from_secs(60);
/// Idle connections are kept this long, so that agents that call now and then do not connect anew.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Open connections on the public listener, per worker.
const MAX_CONNECTIONS: usize = 4096;

/// Why the gateway does not start. Every message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process owns the database.
    #[error("another prepaid402 process is using {}; stop it, or choose another data directory", .0.display())]
    InUse(PathBuf),
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
    /// The upstream's settings cannot be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamSetupError),
    /// The database holds money of another currency.
    #[error(
        "the database holds wallets or open top-ups in {0}, but the configuration says {1}; keep the currency, or use another data directory"
    )]
    Currency(String, &'static str),
    /// The routes contradict each other.
    #[error("the routes contradict each other:\n{0}")]
    Routes(String),
}

/// A gateway that is listening.
#[derive(Debug)]
pub struct RunningApp {
    /// Where callers connect.
    pub address: SocketAddr,
    /// Where the seller looks.
    pub admin_address: SocketAddr,
    servers: Vec<ServerHandle>,
    running: Vec<JoinHandle<std::io::Result<()>>>,
    loops: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
    tasks: MoneyWork,
    closing: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    /// Held until the end, where one process owns the database.
    _lock: Option<File>,
}

/// Starts everything. `key_secret` is the environment's, if it has one.
///
/// # Errors
/// [`StartError`].
pub async fn start(config: Config, key_secret: Option<&str>) -> Result<RunningApp, StartError> {
    let routes = RouteTable::new(&config.routes).map_err(|problems| {
        StartError::Routes(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    make_private_directory(&config.data_dir)?;
    let lock = match &config.database {
        DatabaseConfig::Sqlite(path) => {
            Some(own(path)?)
        }
        DatabaseConfig::Postgres(_) => None,
    };
    let public = listen(config.listen)?;
    let admin = listen(config.admin_listen)?;
    let key_secret = KeySecret::load(key_secret, &config.data_dir)?;
    let stripe = Stripe::new(&config.stripe)?;
    let upstream = Upstream::new(&config.upstream)?;

    let node = NodeId::new().to_string();
    let (ledger, db, writer) =
        Ledger::open(&config.database, &node, config.limits.max_concurrent_per_client).await?;
    refuse_other_currency(&db, config.currency).await?;
    key_secret.agree_with_other_nodes(&db).await?;
    let keys = Arc::new(Keys::new(db.reader().clone()));
    let tasks = MoneyWork::on_this_runtime();
    let top_ups = TopUps::new(
        TopUpParts {
            db: db.clone(),
            ledger: ledger.clone(),
            keys: Arc::clone(&keys),
            key_secret,
            stripe,
            tasks: tasks.clone(),
        },
        &config,
    );
    let closing = Arc::new(AtomicBool::new(false));
    let metrics = Arc::new(Metrics::new());
    let (route_numbers, price_list) = register_prices(&db, &routes).await?;
    let gateway = web::Data::new(Gateway {
        routes,
        route_numbers,
        price_list,
        upstream,
        paywall: Paywall::new(PaywallParts {
            db: db.clone(),
            ledger: ledger.clone(),
            keys: Arc::clone(&keys),
            top_ups: top_ups.clone(),
            tasks: tasks.clone(),
            keep_keys: config.idempotency.keep,
        }),
        offers: Offers {
            publishable_key: config.stripe.publishable_key.clone(),
            currency: config.currency,
            top_ups: top_ups.clone(),
        },
        reversals: Reversals::new(ledger.clone(), tasks.clone()),
        tasks: tasks.clone(),
        limits: config.limits.clone(),
        idempotency: config.idempotency.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        public_url: config.public_url.clone(),
        permits: Arc::new(Semaphore::new(config.limits.max_concurrent_requests)),
        closing: Arc::clone(&closing),
        metrics: Arc::clone(&metrics),
        sandbox: config.sandbox,
    });
    let billing = web::Data::new(Billing { db: db.clone(), ledger: ledger.clone(), keys });
    let operations = web::Data::new(Operations {
        db: db.clone(),
        ledger: ledger.clone(),
        top_ups: top_ups.clone(),
        metrics,
        closing: Arc::clone(&closing),
    });
    let beating = (ledger.clone(), db.clone());
    let admin_state = web::Data::new(AdminState::new(
        db,
        config.sandbox,
        !config.admin_listen.ip().is_loopback(),
        config.public_url.clone(),
    ));

    let address = public.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;
    let admin_address = admin.local_addr().map_err(|error| StartError::Listen(config.admin_listen, error))?;
    let grace = config.limits.shutdown_timeout.as_secs();
    let public_server = HttpServer::new(move || {
        ActixApp::new().app_data(gateway.clone()).app_data(billing.clone()).configure(http::public)
    })
    .max_connections(MAX_CONNECTIONS)
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(grace)
    .disable_signals()
    .listen(public)
    .map_err(|error| StartError::Listen(address, error))?
    .run();
    let admin_server = HttpServer::new(move || {
        ActixApp::new()
            .app_data(operations.clone())
            .app_data(admin_state.clone())
            .configure(http::operations)
            .configure(http::admin::configure)
    })
    .workers(1)
    .shutdown_timeout(grace)
    .disable_signals()
    .listen(admin)
    .map_err(|error| StartError::Listen(admin_address, error))?
    .run();

    let (stop, stopped) = watch::channel(false);
    Ok(RunningApp {
        address,
        admin_address,
        servers: vec![public_server.handle(), admin_server.handle()],
        running: vec![tokio::spawn(public_server), tokio::spawn(admin_server)],
        loops: vec![
            tokio::spawn(worker::reconcile(top_ups, stopped)),
            tokio::spawn(worker::keep_alive(beating.0, beating.1)),
        ],
        writer,
        tasks,
        closing,
        stop,
        _lock: lock,
    })
}

impl RunningApp {
    /// Ends only when the ledger's writer has ended by itself, which nothing but a fault does: the process should end too,
    /// so that the next start settles what was open.
    pub async fn broken(&mut self) {
        let _ = (&mut self.writer).await;
    }

    /// Stops accepting, lets running requests finish within the configured time, finishes money work, closes the books.
    pub async fn stop(self) {
        self.closing.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        for server in &self.servers {
            server.stop(true).await;
        }
        for server in self.running {
            let _ = server.await;
        }
        if !self.tasks.finish(MONEY_WORK_GRACE).await {
            tracing::warn!("money work is still running; the reconciler takes it up at the next start");
        }
        // Their steps are work of others, so ending the loops ends none of it. The lease is renewed up to here.
        for running in self.loops {
            running.abort();
            let _ = running.await;
        }
        // Every handle of the ledger is gone now, so the writer writes what is left and closes the database.
        if tokio::time::timeout(Duration::from_secs(10), self.writer).await.is_err() {
            tracing::warn!("the ledger's writer did not end in time; nothing is lost");
        }
    }
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("another program already listens on {address}; stop it, or choose another address")
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Listen(address, error))
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

/// Makes the database file readable by its owner alone, before SQLite would make it as the umask says. The data directory
/// may have existed before, with wider permissions; SQLite gives the files beside the database the same ones.
fn make_private_file(path: &Path) -> Result<(), StartError> {
    let mut options = File::options();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StartError::File(path.to_owned(), error))
        }
        _ => Ok(()),
    }
}

/// One process owns the database: a lock that the operating system drops with the process.
fn lock(database: &Path) -> Result<File, StartError> {
    let path = database.with_extension("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| StartError::File(path.clone(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(database.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(StartError::File(path, error)),
    }
}

/// Takes a database file for this process alone, made if it is missing, until the lock is dropped.
///
/// # Errors
/// [`StartError::InUse`] and [`StartError::File`].
pub fn own(database: &Path) -> Result<File, StartError> {
    let lock = lock(database)?;
    make_private_file(database)?;
    Ok(lock)
}

/// A wallet's balance means nothing in another currency, so changing the configuration's is refused.
async fn refuse_other_currency(db: &Db, currency: Currency) -> Result<(), StartError> {
    let other: Option<String> = query_scalar(
        "SELECT currency FROM clients WHERE currency <> $1 UNION ALL \
         SELECT currency FROM top_ups WHERE currency <> $1 AND state IN ('created', 'confirming', 'pending') LIMIT 1",
    )
    .bind(currency.code())
    .fetch_optional(db.reader())
    .await
    .map_err(DbError::from)?;
    other.map_or(Ok(()), |other| Err(StartError::Currency(other, currency.code())))
}

/// Gives routes their numbers and the prices their version, so that entries can name both.
async fn register_prices(db: &Db, routes: &RouteTable) -> Result<(Vec<i64>, i64), DbError> {
    let priced: Vec<(usize, String, i64)> = routes
        .routes()
        .iter()
        .map(|route| {
            let price = match route.config.charge {
                RouteCharge::Free => 0,
                RouteCharge::Fixed(price) => price.get(),
            };
            (route.index, route.name.clone(), price)
        })
        .collect();
    let prices: serde_json::Map<String, serde_json::Value> =
        priced.iter().map(|(_, name, price)| (name.clone(), (*price).into())).collect();
    let prices = serde_json::Value::Object(prices).to_string();
    let digest = format!("{:x}", HexDigest(Sha256::digest(prices.as_bytes()).into()));
    db.write(move |connection| {
        Box::pin(async move {
            let mut numbers = vec![0; priced.len()];
            for (index, name, _) in priced {
                // Another node may make the same one at the same moment.
                query("INSERT INTO routes (name) VALUES ($1) ON CONFLICT (name) DO NOTHING")
                    .bind(&name)
                    .execute(&mut *connection)
                    .await?;
                let number = query_scalar("SELECT id FROM routes WHERE name = $1")
                    .bind(&name)
                    .fetch_one(&mut *connection)
                    .await?;
                if let Some(slot) = numbers.get_mut(index) {
                    *slot = number;
                }
            }
            query("INSERT INTO price_lists (digest, prices, created_at) VALUES ($1, $2, $3) ON CONFLICT (digest) DO NOTHING")
                .bind(&digest)
                .bind(&prices)
                .bind(now_micros())
                .execute(&mut *connection)
                .await?;
            let list = query_scalar("SELECT id FROM price_lists WHERE digest = $1")
                .bind(&digest)
                .fetch_one(&mut *connection)
                .await?;
            Ok((numbers, list))
        })
    })
    .await
}

struct HexDigest([u8; 32]);

impl std::fmt::LowerHex for HexDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

//! The gateway: configuration in, two listening servers out. Tests come in by the same door.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix_web::dev::Service as _;
use actix_web::dev::{Server, ServerHandle};
use actix_web::{App as ActixApp, HttpServer, web};
use tokio::task::JoinHandle;

use crate::config::{Config, RouteCharge};
use crate::db::DbError;
use crate::domain::Micros;
use crate::engine::{Engine, Parts};
use crate::http;
use crate::http::gateway::Gateway;
use crate::http::request_log;
use crate::ledger::prices;
use crate::paywall::offer::Sale;
use crate::proxy::own_token::OwnToken;
use crate::proxy::route_table::RouteTable;
use crate::proxy::upstream::Upstream;

pub use crate::engine::{StartError, make_private_directory, own};

/// Idle connections are kept this long, so that agents that call now and then do not connect anew.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Open connections on the public listener, per worker.
const MAX_CONNECTIONS: usize = 4096;

/// Bytes that the system takes for one caller before they can be sent (TCP_NOTSENT_LOWAT).
#[cfg(any(target_os = "linux", target_os = "android"))]
const MAX_UNSENT: u32 = 32 * 1024;

/// A gateway that is listening.
#[derive(Debug)]
pub struct RunningApp {
    /// Where callers connect.
    pub address: SocketAddr,
    /// Where the seller looks.
    pub admin_address: SocketAddr,
    servers: Vec<ServerHandle>,
    running: Vec<JoinHandle<std::io::Result<()>>>,
    engine: Engine,
}

/// The listening servers.
struct Doors {
    address: SocketAddr,
    admin_address: SocketAddr,
    servers: Vec<ServerHandle>,
    running: Vec<JoinHandle<std::io::Result<()>>>,
}

/// Starts everything. `key_secret` is the environment's, if it has one.
///
/// # Errors
/// [`StartError`].
pub async fn start(config: Config, key_secret: Option<&str>) -> Result<RunningApp, StartError> {
    let routes = RouteTable::new(&config.routes).map_err(|problems| {
        StartError::Routes(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let public = listen(config.listen)?;
    let admin = listen(config.admin_listen)?;
    let upstream = Upstream::new(&config.upstream)?;
    let engine = Engine::start(&config, key_secret, Some(upstream.reachability().clone())).await?;
    // Whatever fails from here on, the books must be closed before anybody else opens them.
    match open_doors(&config, &engine.parts, routes, upstream, public, admin).await {
        Ok(Doors { address, admin_address, servers, running }) => {
            Ok(RunningApp { address, admin_address, servers, running, engine })
        }
        Err(error) => {
            engine.stop().await;
            Err(error)
        }
    }
}

async fn open_doors(
    config: &Config,
    parts: &Parts,
    routes: RouteTable,
    upstream: Upstream,
    public: TcpListener,
    admin: TcpListener,
) -> Result<Doors, StartError> {
    let (route_numbers, price_list) = register_prices(parts, &routes).await?;
    let challenges = config.routes.iter().map(|route| {
        let price = match route.charge {
            RouteCharge::Free => Micros::ZERO,
            RouteCharge::Fixed(price) => price,
        };
        let (description, mime_type) = (route.description.as_deref(), route.mime_type.as_deref());
        parts.offers.challenge(Sale { path: "", description, mime_type, price })
    });
    let challenges = challenges.collect();
    let told_of_redirect = config.routes.iter().map(|_| AtomicBool::new(false)).collect();
    let gateway = web::Data::new(Gateway {
        routes,
        route_numbers,
        price_list,
        upstream,
        own_token: OwnToken::default(),
        paywall: parts.paywall.clone(),
        offers: parts.offers.clone(),
        challenges,
        told_of_redirect,
        reversals: parts.reversals.clone(),
        tasks: parts.tasks.clone(),
        limits: config.limits.clone(),
        idempotency: config.idempotency.clone(),
        trusted_proxies: Arc::clone(&parts.trusted_proxies),
        public_url: config.public_url.clone(),
        permits: Arc::clone(&parts.permits),
        keyed_bodies: Arc::clone(&parts.keyed_bodies),
        closing: Arc::clone(&parts.closing),
        metrics: Arc::clone(&parts.metrics),
        sandbox: config.sandbox,
    });
    let (billing, webhooks) = (parts.billing(), parts.webhooks.clone());
    let address = public.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;
    let grace = config.limits.shutdown_timeout.as_secs();
    let public_server = HttpServer::new(move || {
        ActixApp::new()
            .wrap_fn(|request, service| request_log::told(service.call(request)))
            .app_data(gateway.clone())
            .app_data(billing.clone())
            .app_data(webhooks.clone())
            .configure(http::public)
    })
    .max_connections(MAX_CONNECTIONS)
    // A caller who closes is gone, also one who closes its half alone: hardly any client does that and waits, and what is free
    // must not go on for nobody. Paid work goes on, and is charged when it is done.
    .h1_allow_half_closed(false)
    .on_connect(|connection, _| hand_over_no_more_than_needed(connection))
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(grace)
    .disable_signals()
    .listen(public)
    .map_err(|error| StartError::Listen(address, error))?
    .run();
    let (admin_address, admin_server) = admin_server(admin, config, parts)?;
    Ok(Doors {
        address,
        admin_address,
        servers: vec![public_server.handle(), admin_server.handle()],
        running: vec![tokio::spawn(public_server), tokio::spawn(admin_server)],
    })
}

/// Keeps what waits for the network in this process short, so that a caller who reads slowly is told from one who has stopped.
/// By default, the system takes megabytes before it says that a caller does not keep up.
fn hand_over_no_more_than_needed(connection: &dyn std::any::Any) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(socket) = connection.downcast_ref::<actix_web::rt::net::TcpStream>()
        && let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(MAX_UNSENT)
    {
        tracing::debug!(%error, "the system does not know TCP_NOTSENT_LOWAT");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = connection;
}

/// The seller's own pages, health checks and metrics.
pub(crate) fn admin_server(
    listener: TcpListener,
    config: &Config,
    parts: &Parts,
) -> Result<(SocketAddr, Server), StartError> {
    let address = listener.local_addr().map_err(|error| StartError::Listen(config.admin_listen, error))?;
    let (operations, admin, desk) = (parts.operations(), parts.admin(config), parts.desk());
    let server = HttpServer::new(move || {
        ActixApp::new()
            .wrap_fn(|request, service| request_log::told_with_id(service.call(request)))
            .app_data(operations.clone())
            .app_data(admin.clone())
            .app_data(desk.clone())
            .configure(http::operations)
            .configure(http::admin::configure)
    })
    .workers(1)
    .shutdown_timeout(config.limits.shutdown_timeout.as_secs())
    .disable_signals()
    .listen(listener)
    .map_err(|error| StartError::Listen(address, error))?
    .run();
    Ok((address, server))
}

impl RunningApp {
    /// Ends only when the ledger's writer has ended by itself, which nothing but a fault does: the process should end too,
    /// so that the next start settles what was open.
    pub async fn broken(&mut self) {
        self.engine.broken().await;
    }

    /// Stops accepting, lets running requests finish within the configured time, finishes money work, closes the books.
    pub async fn stop(self) {
        self.engine.begin_stop();
        for server in &self.servers {
            server.stop(true).await;
        }
        for server in self.running {
            let _ = server.await;
        }
        self.engine.stop().await;
    }
}

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Listen(address, error))
}

/// Gives routes their numbers, by their position in the configuration, and the prices their version, so that entries can name
/// both.
async fn register_prices(parts: &Parts, routes: &RouteTable) -> Result<(Vec<i64>, i64), DbError> {
    let priced = routes.routes().iter().map(|route| {
        let price = match route.config.charge {
            RouteCharge::Free => 0,
            RouteCharge::Fixed(price) => price.get(),
        };
        (route.name.clone(), price)
    });
    let registered = prices::register(&parts.db, priced.collect()).await?;
    let mut numbers = vec![0; routes.routes().len()];
    for (route, number) in routes.routes().iter().zip(registered.routes) {
        if let Some(slot) = numbers.get_mut(route.index) {
            *slot = number;
        }
    }
    Ok((numbers, registered.list))
}

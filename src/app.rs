//! The gateway: configuration in, two listening servers out. Tests come in by the same door.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::KeepAlive;
use actix_web::dev::{Extensions, Server, ServerHandle, Service as _};
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::{App as ActixApp, web};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::crowd::door::{Door, notice_who_has_gone};
use crate::engine::{Engine, Parts};
use crate::http;
use crate::http::callers::Callers;
use crate::http::gateway::Gateway;
use crate::http::gateway_route;
use crate::http::request_log;
use crate::http::server::Settings;
use crate::open_files;
use crate::pricing::route_table::RouteProblem;
use crate::proxy::own_token::OwnToken;
use crate::proxy::upstream::Upstream;

pub use crate::engine::{StartError, make_private_directory};

/// Idle connections are kept this long, so that agents that call now and then do not connect anew.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Connections to the admin listener.
const MAX_ADMIN_CONNECTIONS: usize = 512;

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
    let public = listen(config.listen)?;
    let admin = listen(config.admin_listen)?;
    let upstream = Upstream::new(config.upstream.as_ref().ok_or(StartError::NoUpstream)?)?;
    let engine = Engine::start(&config, key_secret, Some(upstream.reachability().clone())).await?;
    // Whatever fails from here on, the books must be closed before anybody else opens them.
    match open_doors(&config, &engine.parts, upstream, public, admin).await {
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
    upstream: Upstream,
    public: TcpListener,
    admin: TcpListener,
) -> Result<Doors, StartError> {
    let routes =
        gateway_route::route_table(config, &parts.offers, upstream.idle_timeout).map_err(contradictions)?;
    gateway_route::book(&parts.db, &routes).await?;
    let gateway = web::Data::new(Gateway {
        routes,
        upstream,
        own_token: OwnToken::default(),
        paywall: parts.paywall.clone(),
        offers: parts.offers.clone(),
        reversals: parts.reversals.clone(),
        tasks: parts.tasks.clone(),
        idempotency: config.idempotency.clone(),
        callers: parts.callers.clone(),
        public_url: config.public_url.clone(),
        crowd: Arc::clone(&parts.crowd),
        origin: parts.origin.clone(),
        closing: Arc::clone(&parts.closing),
        condition: parts.db.condition().clone(),
        metrics: Arc::clone(&parts.metrics),
        sandbox: config.sandbox,
    });
    let (billing, webhooks) = (parts.billing(), parts.webhooks.clone());
    let condition = parts.db.condition().clone();
    let address = public.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;
    let max_connections = open_files::connections(&config.limits);
    let door = CountedDoor::new(max_connections, parts);
    let settings = Settings {
        workers: None,
        // Of each worker, for connections of trusted proxies; the others are counted all together.
        max_connections: Some(max_connections),
        keep_alive: KEEP_ALIVE.into(),
        // A caller who closes is gone, also one who closes its half alone: hardly any client does that and waits, and what is free
        // must not go on for nobody. Paid work goes on, and is charged when it is done.
        half_closed: false,
        shutdown: config.limits.shutdown_timeout.as_secs(),
        on_connect: Arc::new(move |socket, data| {
            hand_over_no_more_than_needed(socket);
            door.let_in(socket, data);
        }),
    };
    let public_server = http::server::serve(public, settings, move || {
        ActixApp::new()
            .wrap_fn(|request, service| request_log::told(service.call(request)))
            .app_data(gateway.clone())
            .app_data(billing.clone())
            .app_data(webhooks.clone())
            .configure(http::public(condition.clone()))
    })
    .map_err(|error| StartError::Listen(address, error))?;
    let (admin_address, admin_server) = admin_server(admin, config, parts)?;
    Ok(Doors {
        address,
        admin_address,
        servers: vec![public_server.handle(), admin_server.handle()],
        running: vec![tokio::spawn(public_server), tokio::spawn(admin_server)],
    })
}

/// Lets connections in. Behind a trusted proxy everybody may be, so its connections are not counted.
struct CountedDoor {
    door: Door,
    callers: Callers,
}

impl CountedDoor {
    fn new(connections: usize, parts: &Parts) -> Self {
        Self { door: Door::new(connections), callers: parts.callers.clone() }
    }

    fn let_in(&self, socket: &TcpStream, data: &mut Extensions) {
        let peer = socket.peer_addr().ok().map(|peer| peer.ip().to_canonical());
        if !peer.is_some_and(|peer| self.callers.trust(peer)) {
            self.door.let_in(peer, socket, data);
        }
    }
}

/// Keeps what waits for the network in this process short, so that a caller who reads slowly is told from one who has stopped.
/// By default, the system takes megabytes before it says that a caller does not keep up.
fn hand_over_no_more_than_needed(socket: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(MAX_UNSENT) {
        tracing::debug!(%error, "the system does not know TCP_NOTSENT_LOWAT");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket;
}

/// The seller's own pages, health checks and metrics.
pub(crate) fn admin_server(
    listener: TcpListener,
    config: &Config,
    parts: &Parts,
) -> Result<(SocketAddr, Server), StartError> {
    let address = listener.local_addr().map_err(|error| StartError::Listen(config.admin_listen, error))?;
    let (operations, admin, desk) = (parts.operations(), parts.admin(config), parts.desk());
    let condition = parts.db.condition().clone();
    let door = CountedDoor::new(MAX_ADMIN_CONNECTIONS, parts);
    let settings = Settings {
        workers: Some(1),
        max_connections: Some(MAX_ADMIN_CONNECTIONS),
        keep_alive: KeepAlive::default(),
        half_closed: true,
        shutdown: config.limits.shutdown_timeout.as_secs(),
        on_connect: Arc::new(move |socket, data| door.let_in(socket, data)),
    };
    let server = http::server::serve(listener, settings, move || {
        ActixApp::new()
            .wrap(from_fn(http::in_vain::told(condition.clone())))
            .wrap_fn(|request, service| request_log::told_with_id(service.call(request)))
            .wrap(from_fn(http::target::guard))
            .wrap(from_fn(http::admin::require_known_host))
            .app_data(operations.clone())
            .app_data(admin.clone())
            .app_data(desk.clone())
            .configure(http::operations)
            .configure(http::admin::configure)
    })
    .map_err(|error| StartError::Listen(address, error))?;
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
    let listener = TcpListener::bind(address).map_err(|error| StartError::Listen(address, error))?;
    notice_who_has_gone(&listener);
    Ok(listener)
}

fn contradictions(problems: Vec<RouteProblem>) -> StartError {
    StartError::Routes(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

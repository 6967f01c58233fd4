//! How this program is an HTTP client, in one place, for Stripe, the upstream and the agent: HTTP/1.1 without redirects and without
//! decoding, over TLS where the address says https. Only the simulator has its own, because it shares no code with the gateway.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::peer_alive;
use crate::trust::Trust;

/// A client whose requests are in memory.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Where one client differs from the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connections<'a> {
    /// Whose certificates are believed.
    pub(crate) trust: &'a Trust,
    /// For TCP alone. `None`: the time of the whole request is all there is.
    pub(crate) connect_timeout: Option<Duration>,
    /// Whether the system asks after peers that are silent.
    pub(crate) asks_the_silent: bool,
    /// Unused ones that are kept open for each host.
    pub(crate) most_idle: usize,
    /// How long they are kept.
    pub(crate) idle_timeout: Duration,
}

impl Connections<'_> {
    /// Makes connections.
    pub(crate) fn connector(&self) -> HttpsConnector<HttpConnector> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(self.connect_timeout);
        if self.asks_the_silent {
            tcp.set_keepalive(Some(peer_alive::SILENT));
            tcp.set_keepalive_interval(Some(peer_alive::EVERY));
            tcp.set_keepalive_retries(Some(peer_alive::TIMES));
        }
        let tls = self.trust.client_config();
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp)
    }

    /// Keeps connections.
    pub(crate) fn pool(&self) -> Builder {
        let mut pool = Client::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new());
        pool.pool_idle_timeout(self.idle_timeout).pool_max_idle_per_host(self.most_idle);
        pool
    }

    /// Both.
    pub(crate) fn client(&self) -> HttpClient {
        self.pool().build(self.connector())
    }
}

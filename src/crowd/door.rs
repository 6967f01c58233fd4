//! Connections: none of a network's are let in beyond its part, and whoever has gone without a word is found.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use socket2::SockRef;

use super::{Holder, PAYERS, Place, Places};
use crate::peer_alive;

/// One that takes nothing for so long although something is sent has gone, too.
#[cfg(any(target_os = "linux", target_os = "android"))]
const TAKES_NOTHING: Duration = Duration::from_secs(300);

/// Callers that vanish are found by the system; accepted connections inherit this.
pub(crate) fn notice_who_has_gone(listener: &TcpListener) {
    peer_alive::ask(SockRef::from(listener));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = SockRef::from(listener).set_tcp_user_timeout(Some(TAKES_NOTHING)) {
        tracing::debug!(%error, "the system does not look after connections that take nothing");
    }
}

/// The places of a listener's connections. Whose they are is not known yet, so a network comes to most of them, and never to all.
#[derive(Debug)]
pub(crate) struct Door {
    places: Arc<Places>,
    has_told: AtomicBool,
}

/// What a connection holds until it ends.
struct LetIn {
    _place: Place,
}

impl Door {
    pub(crate) fn new(connections: usize) -> Self {
        Self { places: Places::new(connections, PAYERS), has_told: AtomicBool::new(false) }
    }

    /// Closes a connection when those of its network are too many. `data` lives as long as the connection.
    pub(crate) fn let_in(&self, peer: Option<IpAddr>, socket: &TcpStream, data: &mut Extensions) {
        match self.places.take(Holder::network(peer)) {
            Some(place) => drop(data.insert(LetIn { _place: place })),
            None => {
                if !self.has_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "connections are closed because one network has too many of them. If it is a proxy's, name it in \
                         trusted_proxies; limits.max_connections says how many there may be. This is said once"
                    );
                }
                // The server reads it as a caller who has closed, and ends it before anything is read.
                let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::net::TcpStream;

    use super::*;

    #[test]
    fn accepted_connections_are_looked_after() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        notice_who_has_gone(&listener);
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(
            (socket.tcp_keepalive_time().unwrap(), socket.tcp_user_timeout().unwrap()),
            (peer_alive::SILENT, Some(TAKES_NOTHING))
        );
    }
}

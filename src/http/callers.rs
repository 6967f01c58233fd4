//! Where requests come from, as far as it can be believed, and proxies in front that nobody believes: then all callers look like
//! one, and the limits against stolen cards let the first bad card shut out every new payer.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use actix_web::HttpRequest;
use actix_web::http::header::{FORWARDED, HeaderName, X_FORWARDED_FOR};

use crate::config::IpNetwork;
use crate::proxy::client_address::client_address;
use crate::shield::is_internal;

/// In these, proxies say for whom they ask: the names as people write them. Only the first is believed.
static FORWARDING: [(HeaderName, &str); 5] = [
    (X_FORWARDED_FOR, "X-Forwarded-For"),
    (FORWARDED, "Forwarded"),
    (HeaderName::from_static("x-real-ip"), "X-Real-IP"),
    (HeaderName::from_static("cf-connecting-ip"), "CF-Connecting-IP"),
    (HeaderName::from_static("true-client-ip"), "True-Client-IP"),
];

/// Networks of proxies that are told apart in the log.
const NETWORKS: usize = 16;

/// Where requests come from. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Callers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Peers whose `X-Forwarded-For` is believed.
    trusted: Vec<IpNetwork>,
    /// Requests of proxies that are not heard.
    unheard: AtomicU64,
    /// Their networks, as far as they were told to the log; 0: free.
    told: [AtomicU64; NETWORKS],
    /// What was told first.
    first: OnceLock<String>,
}

impl Callers {
    /// Believes these proxies.
    pub(crate) fn new(trusted: &[IpNetwork]) -> Self {
        Self(Arc::new(Inner {
            trusted: trusted.to_vec(),
            unheard: AtomicU64::new(0),
            told: [const { AtomicU64::new(0) }; NETWORKS],
            first: OnceLock::new(),
        }))
    }

    /// Where a request comes from, as far as it can be believed. `None` where there is no connection, as in tests of an
    /// application's own.
    pub(crate) fn address(&self, request: &HttpRequest) -> Option<IpAddr> {
        let forwarded = request.headers().get_all(X_FORWARDED_FOR);
        let forwarded = forwarded.filter_map(|value| value.to_str().ok());
        Some(client_address(request.peer_addr()?.ip(), forwarded, &self.0.trusted))
    }

    /// Whether a peer is a proxy that is believed.
    pub(crate) fn trust(&self, peer: IpAddr) -> bool {
        self.0.trusted.iter().any(|network| network.contains(peer))
    }

    /// Looks whether a request comes through a proxy that is not heard; for each request, whatever becomes of it. Peers on the
    /// internet are not suspected: anybody there can write such a header.
    pub(crate) fn watch(&self, request: &HttpRequest) {
        let Some(peer) = request.peer_addr().map(|peer| peer.ip().to_canonical()) else { return };
        let is_trusted = self.trust(peer);
        if !is_trusted && !is_internal(peer) {
            return;
        }
        let headers = request.headers();
        if is_trusted && headers.contains_key(X_FORWARDED_FOR) {
            return;
        }
        let Some((_, said)) = FORWARDING.iter().find(|(name, _)| headers.contains_key(name)) else { return };
        self.0.unheard.fetch_add(1, Ordering::Relaxed);
        if self.0.is_new(peer) {
            let sentence = self.0.sentence(peer, said, is_trusted);
            tracing::warn!("{sentence}");
            let _ = self.0.first.set(sentence);
        }
    }

    /// How many requests came through proxies that are not heard.
    pub(crate) fn unheard(&self) -> u64 {
        self.0.unheard.load(Ordering::Relaxed)
    }

    /// What there is to say of the first of them.
    pub(crate) fn finding(&self) -> Option<&str> {
        self.0.first.get().map(String::as_str)
    }
}

impl Inner {
    /// Whether nothing was told yet of this peer's network. Without a lock: behind such a proxy every request asks.
    fn is_new(&self, peer: IpAddr) -> bool {
        let network = match peer {
            IpAddr::V4(peer) => u64::from(peer.to_bits() >> 8) | (1 << 32),
            IpAddr::V6(peer) => u64::try_from(peer.to_bits() >> 64).unwrap_or(0) | (1 << 63),
        };
        for place in &self.told {
            match place.compare_exchange(0, network, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(known) if known == network => return false,
                Err(_) => {}
            }
        }
        false
    }

    fn sentence(&self, peer: IpAddr, said: &str, is_trusted: bool) -> String {
        let why = "so whoever comes through it counts as one caller, and a single bad card can shut out every new payer.";
        if is_trusted {
            return format!(
                "{peer} is in trusted_proxies, but sends {said} and no X-Forwarded-For, which alone is believed, {why} Have it send \
                 X-Forwarded-For"
            );
        }
        let known =
            self.trusted.iter().map(|network| format!("\"{}/{}\", ", network.address, network.prefix));
        format!(
            "{peer} sends {said} and is an address of an internal network which is not in trusted_proxies, {why} If it is your reverse \
             proxy, write trusted_proxies = [{}\"{peer}\"]",
            known.collect::<String>()
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::SocketAddr;

    use actix_web::test::TestRequest;

    use super::*;

    fn request(peer: &str, headers: &[(&str, &str)]) -> HttpRequest {
        let peer = SocketAddr::new(peer.parse().unwrap(), 4000);
        let request = TestRequest::get().peer_addr(peer);
        headers.iter().fold(request, |request, header| request.append_header(*header)).to_http_request()
    }

    fn callers(trusted: &[&str]) -> Callers {
        let trusted: Vec<IpNetwork> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        Callers::new(&trusted)
    }

    #[test]
    fn a_proxy_on_an_internal_network_is_told_once_and_with_the_line_to_write() {
        let callers = callers(&["192.0.2.0/24"]);
        for (peer, headers, unheard) in [
            ("203.0.113.9", &[("x-forwarded-for", "198.51.100.1")][..], 0),
            ("10.0.0.7", &[], 0),
            ("10.0.0.7", &[("x-forwarded-proto", "https")], 0),
            ("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")], 0),
            ("::ffff:10.0.0.7", &[("x-forwarded-for", "198.51.100.1")], 1),
            ("10.0.0.8", &[("true-client-ip", "198.51.100.1")], 2),
            ("fd00::1", &[("forwarded", "for=198.51.100.1")], 3),
        ] {
            callers.watch(&request(peer, headers));
            assert_eq!(callers.unheard(), unheard, "{peer} {headers:?}");
        }
        let said = callers.finding().unwrap();
        assert!(said.ends_with("write trusted_proxies = [\"192.0.2.0/24\", \"10.0.0.7\"]"), "{said}");
        let is_told = |peer: &str| !callers.0.is_new(peer.parse().unwrap());
        assert!(is_told("10.0.0.99") && is_told("fd00::2"), "once a network");
        assert!((0..50).filter(|n| callers.0.is_new(IpAddr::from([10, 1, *n, 1]))).count() < NETWORKS);
    }

    #[test]
    fn a_trusted_proxy_that_says_it_in_other_words_is_not_heard() {
        let callers = callers(&["10.0.0.7"]);
        callers.watch(&request(
            "10.0.0.7",
            &[("x-real-ip", "198.51.100.1"), ("x-forwarded-for", "198.51.100.1")],
        ));
        assert_eq!((callers.unheard(), callers.finding()), (0, None));
        callers.watch(&request("10.0.0.7", &[("x-real-ip", "198.51.100.1")]));
        let said = callers.finding().unwrap();
        assert!(said.contains("sends X-Real-IP and no X-Forwarded-For") && !said.contains("write"), "{said}");
    }
}

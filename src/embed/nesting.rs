//! Prices inside prices. Nobody could say what such a request costs: the outer price is offered before the inner one is known.
//! So it is refused and not charged, and the log says what to change.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::dev::ServiceRequest;
use actix_web::http::Method;

use crate::domain::RequestId;

/// Left in a request by the price that sells it.
#[derive(Debug, Clone)]
pub(super) struct Priced {
    pub(super) request: RequestId,
    pub(super) price: Arc<str>,
    pub(super) nesting: Arc<Nesting>,
}

/// What one price has learned of prices inside it.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    /// So that a price without any takes no lock.
    any: AtomicBool,
    routes: Mutex<HashSet<String>>,
}

impl Nesting {
    /// Whether this request is known to meet another price further in.
    pub(super) fn is_known(&self, request: &ServiceRequest) -> bool {
        self.any.load(Ordering::Relaxed)
            && route_of(request).is_some_and(|route| self.routes().contains(&route))
    }

    fn routes(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Priced {
    /// The request has met another price, further in.
    pub(super) fn meets(&self, inner: &str, request: &ServiceRequest) {
        let known = route_of(request);
        let was_met = self.nesting.any.swap(true, Ordering::Relaxed);
        // One without a name is told of if it is the first: each would be new.
        let is_new = known.as_ref().map_or(!was_met, |route| self.nesting.routes().insert(route.clone()));
        if is_new {
            tracing::error!(
                "{} has two prices, one inside the other: {} and, inside it, {inner}. Its requests are refused (500 nested_prices) and \
                 not charged. Wrap what you sell with one price: take it off the scope, or off what is inside it",
                known.as_deref().unwrap_or("A handler without a name"),
                self.price,
            );
        }
    }
}

/// What is remembered: never what callers make up.
fn route_of(request: &ServiceRequest) -> Option<String> {
    const METHODS: [Method; 6] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let method = METHODS.iter().find(|method| *method == request.method())?;
    Some(format!("{method} {}", request.match_pattern()?))
}

//! A route as the gateway keeps it: what it sells, and how its requests are passed on.

use std::sync::Arc;
use std::time::Duration;

use super::redirect_told::RedirectTold;
use crate::config::{Config, IdleLimit, LimitsConfig, RouteConfig};
use crate::db::{Db, DbError};
use crate::domain::Currency;
use crate::ledger::price_lists;
use crate::paywall::offer::{Offers, Resource};
use crate::pricing::route_table::{RouteProblem, RouteTable};
use crate::pricing::{Listing, Quote, RouteCharge};
use crate::protocol::Challenge;

/// What a route of the table leads to.
#[derive(Debug)]
pub(crate) struct GatewayRoute {
    /// For people, in the 402.
    description: Option<String>,
    /// Media type, in the 402.
    mime_type: Option<String>,
    /// From the request sent to the response head received, where it is not as for other routes.
    pub(crate) response_timeout: Option<Duration>,
    /// How long an answer may be silent.
    pub(crate) idle: IdleLimit,
    /// How far behind a caller may be with a body.
    pub(crate) body_timeout: Duration,
    /// The longest body.
    pub(crate) max_body: u64,
    /// `None`: free.
    pub(crate) sold: Option<Arc<Sold>>,
}

/// What is sold on a route.
#[derive(Debug)]
pub(crate) struct Sold {
    pub(crate) listing: Arc<Listing>,
    /// What whoever presents nothing is answered.
    pub(crate) challenge: Challenge,
    redirect_told: RedirectTold,
}

impl Sold {
    /// See [`RedirectTold`].
    pub(crate) fn tell_of_redirect(&self, status: u16) {
        if !self.redirect_told.is_due(&self.listing, status) {
            return;
        }
        tracing::warn!(
            "The API answered {status} on the priced route {}, where answers with 3xx are passed on and not charged. If what \
             you sell is behind a redirect, such as a signed download, write in the route: {}",
            self.listing.name(),
            self.listing.charged().with_redirects().setting(),
        );
    }
}

impl GatewayRoute {
    fn new(
        config: &RouteConfig,
        limits: &LimitsConfig,
        idle: Duration,
        (offers, currency): (&Offers, Currency),
    ) -> Self {
        let (description, mime_type) = (config.description.clone(), config.mime_type.clone());
        let sold = config.charge.rule().map(|rule| {
            let charged = Arc::new(config.charged_statuses.clone());
            let listing = Arc::new(Listing::new(config.rule().name(), rule, currency, charged));
            let quote = listing.list_quote();
            let (description, mime_type) = (description.as_deref(), mime_type.as_deref());
            let resource = Resource { origin: "", path: "", description, mime_type, quote: Some(&quote) };
            let challenge = offers.challenge(resource);
            Arc::new(Sold { listing, challenge, redirect_told: RedirectTold::default() })
        });
        Self {
            description,
            mime_type,
            response_timeout: config.response_timeout,
            idle: config.idle_timeout.unwrap_or(IdleLimit::UpTo(idle)),
            body_timeout: config.body_timeout.unwrap_or(limits.body_timeout),
            max_body: config.max_body_bytes.unwrap_or(limits.max_body_bytes),
            sold,
        }
    }

    /// What an offer says of it.
    pub(crate) fn resource<'a>(&'a self, origin: &'a str, path: &'a str, quote: &'a Quote) -> Resource<'a> {
        let (description, mime_type) = (self.description.as_deref(), self.mime_type.as_deref());
        Resource { origin, path, description, mime_type, quote: Some(quote) }
    }
}

/// The route table of a gateway. `idle`: how long an answer of the upstream may be silent where its route does not say.
///
/// # Errors
/// Every [`RouteProblem`] at once.
pub(crate) fn route_table(
    config: &Config,
    offers: &Offers,
    idle: Duration,
) -> Result<RouteTable<GatewayRoute>, Vec<RouteProblem>> {
    let route = |route: &RouteConfig| {
        (route.rule(), GatewayRoute::new(route, &config.limits, idle, (offers, config.currency)))
    };
    RouteTable::new(config.routes.iter().map(route))
}

/// Gives routes their numbers and the prices their version, so that entries can name both.
///
/// # Errors
/// When the database cannot be written to.
pub(crate) async fn book(db: &Db, routes: &RouteTable<GatewayRoute>) -> Result<(), DbError> {
    let priced = routes.routes().iter().map(|route| (route.name.clone(), route.rule.charge));
    let booked = price_lists::register(db, priced.collect::<Vec<(String, RouteCharge)>>()).await?;
    for (route, booking) in routes.routes().iter().zip(booked) {
        if let Some(sold) = &route.leads_to.sold {
            sold.listing.book(booking);
        }
    }
    Ok(())
}

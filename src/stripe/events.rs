//! `GET /v1/events`: what has happened at Stripe, for when its webhooks do not come.
//!
//! Events are kept as JSON: async-stripe's types refuse real ones that are older or newer than the types, such as disputes.

use serde::Serialize;
use stripe_client_core::{RequestBuilder, StripeMethod, StripeRequest};
use tokio::time::Instant;

use super::calls::{Endpoint, Stripe, unreadable};
use super::facts::is_stripe_id;
use super::failure::StripeFailure;

/// Events on one page: 50 of the largest stay below the largest answer that is read.
const PAGE_SIZE: u32 = 50;

/// One page of the list, newest first.
#[derive(Debug, Clone)]
pub struct EventsPage {
    /// Each event as Stripe wrote it, secrets included.
    pub events: Vec<serde_json::Value>,
    /// The last event's id, when older ones follow.
    pub next: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListEvents<'a> {
    created: Since,
    limit: u32,
    types: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_after: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Since {
    gte: i64,
}

/// What is read of the answer.
#[derive(miniserde::Deserialize)]
pub(super) struct RawPage {
    data: Vec<miniserde::json::Value>,
    has_more: bool,
}

impl StripeRequest for ListEvents<'_> {
    type Output = RawPage;

    fn build(&self) -> RequestBuilder {
        RequestBuilder::new(StripeMethod::Get, "/events").query(self)
    }
}

impl Stripe {
    /// Events of these types (at most 20) since a second, that second included: the newest, or those `after` an event of the page
    /// before. Stripe keeps them for 30 days.
    ///
    /// # Errors
    /// See [`StripeFailure`]. A page that cannot be read whole is an error and never a shorter page.
    pub async fn list_events_since(
        &self,
        from_unix: i64,
        types: &[&str],
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<EventsPage, StripeFailure> {
        if after.is_some_and(|id| !is_stripe_id("evt_", id)) {
            return Err(StripeFailure::not_sent("an event's id has the form evt_…"));
        }
        let request =
            ListEvents { created: Since { gte: from_unix }, limit: PAGE_SIZE, types, starting_after: after };
        let (page, meta) = self.call(Endpoint::ListEvents, None, &request, deadline).await?;
        let events: Vec<serde_json::Value> = page
            .data
            .iter()
            .map(|event| serde_json::from_str(&miniserde::json::to_string(event)))
            .collect::<Result<_, _>>()
            .map_err(|_| unreadable(&meta))?;
        let next = match (page.has_more, events.last()) {
            (false, _) => None,
            (true, last) => {
                let id = last.and_then(|event| event["id"].as_str()).filter(|id| is_stripe_id("evt_", id));
                Some(id.ok_or_else(|| unreadable(&meta))?.to_owned())
            }
        };
        Ok(EventsPage { events, next })
    }
}

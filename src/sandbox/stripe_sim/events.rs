//! Events: what happened, told to whoever asks (`/v1/events`) or listens (webhooks).

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::API_VERSION;

/// Events that are kept; the oldest go first.
const MAX_EVENTS: usize = 100_000;
/// Bytes of events that are kept.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// Stripe shows the events of thirty days.
pub(super) const LIFETIME_SECONDS: i64 = 30 * 24 * 60 * 60;

/// The request that an event comes from; without an id it came from a person or a bank.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Cause {
    pub(super) request: Option<String>,
    pub(super) key: Option<String>,
}

/// Something that happened to an object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) id: String,
    /// Counted from 1, without gaps.
    pub(super) number: u64,
    /// Unix seconds.
    pub(super) created: i64,
    /// Stripe's `type`.
    pub(super) kind: String,
    /// The object as it was then, in JSON: a text takes a fraction of the memory of a tree.
    pub(super) object: String,
    /// `previous_attributes`, in JSON.
    pub(super) previous: Option<String>,
    pub(super) cause: Cause,
    /// The same fact as an event before: delivered on demand only.
    pub(super) twin: bool,
}

impl Event {
    /// Stripe's object. `pending` is the number of endpoints that have not taken it yet.
    pub(super) fn render(&self, pending: usize) -> Value {
        let tree = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let mut data = json!({ "object": tree(&self.object) });
        if let Some(previous) = &self.previous {
            data["previous_attributes"] = tree(previous);
        }
        json!({
            "id": self.id,
            "object": "event",
            "api_version": API_VERSION,
            "created": self.created,
            "data": data,
            "livemode": false,
            "pending_webhooks": pending,
            "request": { "id": self.cause.request, "idempotency_key": self.cause.key },
            "type": self.kind,
        })
    }

    fn bytes(&self) -> usize {
        self.object.len().saturating_add(self.previous.as_ref().map_or(0, String::len))
    }
}

/// Whether an event of that kind is among those named: `charge.refunded`, `charge.*` or `*`.
pub(super) fn named(names: &[String], kind: &str) -> bool {
    names.iter().any(|name| match name.strip_suffix('*') {
        Some(start) => kind.starts_with(start),
        None => name == kind,
    })
}

/// The events that are kept.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    rows: VecDeque<Event>,
    numbers: HashMap<String, u64>,
    bytes: usize,
}

impl EventLog {
    /// The number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.rows.back().map_or(1, |event| event.number.saturating_add(1))
    }

    /// Keeps an event, and returns the ids of those that had to go for it.
    pub(super) fn push(&mut self, event: Event) -> Vec<String> {
        self.push_within(event, MAX_EVENTS, MAX_BYTES)
    }

    fn push_within(&mut self, event: Event, rows: usize, bytes: usize) -> Vec<String> {
        self.bytes = self.bytes.saturating_add(event.bytes());
        self.numbers.insert(event.id.clone(), event.number);
        self.rows.push_back(event);
        let mut gone = Vec::new();
        while self.rows.len() > rows || (self.bytes > bytes && self.rows.len() > 1) {
            let Some(event) = self.rows.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(event.bytes());
            self.numbers.remove(&event.id);
            gone.push(event.id);
        }
        gone
    }

    /// The event with that id.
    pub(super) fn get(&self, id: &str) -> Option<&Event> {
        let number = self.numbers.get(id)?;
        let at = number.checked_sub(self.rows.front()?.number)?;
        self.rows.get(usize::try_from(at).ok()?)
    }

    /// Oldest first.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = &Event> {
        self.rows.iter()
    }

    /// Newest first, the order of Stripe's lists.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Event> {
        self.rows.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn event(number: u64, size: usize) -> Event {
        Event {
            id: format!("evt_{number}"),
            number,
            created: 0,
            kind: "charge.refunded".into(),
            object: " ".repeat(size),
            previous: None,
            cause: Cause::default(),
            twin: false,
        }
    }

    #[test]
    fn the_oldest_events_go_when_there_are_too_many() {
        let mut log = EventLog::default();
        for number in 1..=100 {
            assert!(log.push_within(event(number, 1), 100, 1_000).is_empty());
        }
        assert_eq!(log.push_within(event(log.next(), 1), 100, 1_000), ["evt_1"]);
        assert_eq!(log.oldest_first().count(), 100);
        assert!(log.get("evt_1").is_none());
        for number in [2, 50, 101] {
            assert_eq!(log.get(&format!("evt_{number}")).unwrap().number, number);
        }
        let gone = log.push_within(event(log.next(), 950), 100, 1_000);
        assert_eq!((gone.len(), log.bytes, log.newest_first().count()), (50, 1_000, 51));
        // One is kept, however large it is.
        let gone = log.push_within(event(log.next(), 2_000), 100, 1_000);
        assert_eq!((gone.len(), log.bytes, log.next()), (51, 2_000, 104));
    }

    #[test]
    fn names_may_end_in_a_star() {
        for (name, kind, expected) in [
            ("charge.refunded", "charge.refunded", true),
            ("charge.refund", "charge.refunded", false),
            ("charge.*", "charge.dispute.created", true),
            ("charge.*", "refund.created", false),
            ("*", "refund.created", true),
        ] {
            assert_eq!(named(&[name.to_owned()], kind), expected, "{name} {kind}");
        }
        assert!(!named(&[], "refund.created"));
    }
}

//! One of Stripe's events, as far as it is read: what it is called, and what it is about.
//!
//! Not async-stripe's types: they refuse real events that are older or newer than they are. What follows is read from the
//! object itself, at Stripe.

use serde_json::Value;

use crate::stripe::{redact_json, without_secrets};

/// Types that are looked at, and asked for: Stripe takes at most 20 of them in one question.
pub const HANDLED_TYPES: [&str; 19] = [
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payment_intent.processing",
    "payment_intent.requires_action",
    "payment_intent.canceled",
    "charge.succeeded",
    "charge.updated",
    "charge.refunded",
    "charge.refund.updated",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "radar.early_fraud_warning.created",
    "radar.early_fraud_warning.updated",
];

/// Longest names that are stored, in bytes. Stripe's own are far shorter.
const MAX_ID: usize = 255;
const MAX_TYPE: usize = 100;

/// An event. Its body holds nothing that could be used to pay.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `evt_…`.
    pub id: String,
    /// Such as `charge.refunded`.
    pub kind: String,
    /// The id of what it is about; empty when it names none that may be stored.
    pub object: String,
    /// Unix seconds, by Stripe's clock.
    pub created: i64,
    /// Whether it is about real money, when it says so.
    pub livemode: Option<bool>,
    /// The connected account it is about: somebody else's, where there is one.
    pub account: Option<String>,
    /// The whole event, less secrets.
    pub body: Value,
}

impl Event {
    /// Reads an event. `None` when it has no usable id or type. `otherwise` is when it was created, if it does not say.
    #[must_use]
    pub fn read(mut json: Value, otherwise: i64) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let id = text(&json["id"]).filter(|id| is_event_id(id))?;
        let kind = text(&json["type"]).filter(|kind| is_type(kind))?;
        let created = json["created"].as_i64().filter(|created| *created >= 0).unwrap_or(otherwise);
        let livemode = json["livemode"].as_bool();
        let account = text(&json["account"]).filter(|account| !account.is_empty());
        let object = text(&json["data"]["object"]["id"])
            .filter(|id| id.len() <= MAX_ID && id.bytes().all(|b| b.is_ascii_graphic()))
            .filter(|id| without_secrets(id) == *id)
            .unwrap_or_default();
        redact_json(&mut json);
        Some(Self { id, kind, object, created, livemode, account, body: json })
    }

    /// Whether anything here could follow from an event of this type. By families, so that a type that Stripe adds to one is
    /// looked at, too.
    #[must_use]
    pub fn is_handled(&self) -> bool {
        ["payment_intent.", "charge.", "refund.", "radar.early_fraud_warning."]
            .iter()
            .any(|family| self.kind.starts_with(family))
    }
}

fn is_event_id(id: &str) -> bool {
    id.len() <= MAX_ID
        && id.strip_prefix("evt_").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
}

fn is_type(kind: &str) -> bool {
    (1..=MAX_TYPE).contains(&kind.len())
        && kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_needed_is_read_whatever_else_there_is() {
        let event = Event::read(
            json!({
                "id": "evt_1", "object": "event", "type": "charge.dispute.created", "created": 17, "livemode": false,
                "api_version": "2031-01-01.future", "data": { "object": { "id": "du_1", "new": [[[{}]]] } }, "more": 1.5,
            }),
            99,
        )
        .unwrap();
        assert_eq!((event.id.as_str(), event.kind.as_str()), ("evt_1", "charge.dispute.created"));
        assert_eq!((event.object.as_str(), event.created, event.livemode), ("du_1", 17, Some(false)));
        assert!(event.is_handled() && event.account.is_none());

        // A thin event: its time is a text, and its object is elsewhere.
        let thin = json!({"id": "evt_2", "type": "v1.billing.meter.no_meter_found", "created": "2031-01-01T00:00:00Z"});
        let thin = Event::read(thin, 99).unwrap();
        assert_eq!((thin.created, thin.object.as_str(), thin.livemode), (99, "", None));
        assert!(!thin.is_handled());
    }

    #[test]
    fn what_has_no_name_is_no_event() {
        for json in [
            json!(null),
            json!([]),
            json!("evt_1"),
            json!({}),
            json!({"id": "evt_1"}),
            json!({"id": "evt_", "type": "refund.created"}),
            json!({"id": "ch_1", "type": "refund.created"}),
            json!({"id": "evt_1\n", "type": "refund.created"}),
            json!({"id": format!("evt_{}", "1".repeat(252)), "type": "refund.created"}),
            json!({"id": "evt_1", "type": ""}),
            json!({"id": "evt_1", "type": "Refund created"}),
            json!({"id": "evt_1", "type": "a".repeat(101)}),
            json!({"id": 1, "type": "refund.created"}),
        ] {
            assert_eq!(Event::read(json.clone(), 1), None, "{json}");
        }
    }

    #[test]
    fn an_object_that_is_a_credential_is_not_named() {
        let attached = json!({
            "id": "evt_1", "type": "payment_method.attached", "data": { "object": { "id": "pm_1AbC" } },
        });
        let event = Event::read(attached, 1).unwrap();
        assert_eq!(event.object, "");
        assert!(!event.body.to_string().contains("pm_1"), "{}", event.body);
    }
}

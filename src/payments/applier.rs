//! What follows from an event.

use serde_json::Value;

use super::charges::{Aligned, Charges};
use crate::stripe::{REFUND_METADATA_KEY, TOP_UP_METADATA_KEY};
use crate::top_up::{IntentSettled, IntentUnknown, Standing, TopUps};

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Our books say what Stripe's say.
    Done,
    /// Nothing follows from it, and why.
    Ignored(&'static str),
    /// Stripe says for certain that there is no such object.
    Missing {
        /// Whether it is proven that Stripe was asked with a key of the account and mode that the books belong to.
        is_proven: bool,
    },
    /// Not now, and why: it is tried again until one of the other two is true. No secret may be in the words.
    Park(String),
}

/// Applies events: looks their objects up at Stripe and records what is new. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Applier {
    top_ups: TopUps,
    charges: Charges,
}

impl Applier {
    /// Puts the parts together.
    #[must_use]
    pub fn new(top_ups: TopUps, charges: Charges) -> Self {
        Self { top_ups, charges }
    }

    /// Applies one event. May be called again, for the same event or for others about the same object, in any order and at
    /// the same time on other nodes.
    pub async fn apply(&self, kind: &str, object: &str, body: &Value) -> Applied {
        match kind.split('.').next().unwrap_or_default() {
            "payment_intent" => self.payment_intent(kind, object, body).await,
            "charge" | "refund" | "radar" => {
                let aligned = match Named::by(body).intent {
                    Some(intent) => self.charges.align(intent).await,
                    None => self.charges.align_object(object).await,
                };
                match aligned {
                    Aligned::Done => Applied::Done,
                    Aligned::Nothing(why) => Applied::Ignored(why),
                    Aligned::Missing => self.missing(),
                    Aligned::NotYet(why) => Applied::Park(why),
                }
            }
            _ => Applied::Ignored("a type that is not handled"),
        }
    }

    async fn payment_intent(&self, kind: &str, intent: &str, body: &Value) -> Applied {
        if !intent.starts_with("pi_") {
            return Applied::Ignored("not about a PaymentIntent");
        }
        match self.top_ups.settle_intent(intent, Named::by(body).top_up).await {
            Ok(IntentSettled::NotOurs) => Applied::Ignored("not ours"),
            Ok(IntentSettled::Ended) => Applied::Done,
            // It has money: that it is not recorded yet must show.
            Ok(IntentSettled::Open(top_up)) if kind == "payment_intent.succeeded" => {
                Applied::Park(format!("top-up {top_up} could not be recorded yet"))
            }
            // The reconciler asks after it until it has ended.
            Ok(IntentSettled::Open(_)) => Applied::Done,
            Ok(IntentSettled::Astray(top_up)) => {
                Applied::Park(format!("{intent} has taken money that top-up {top_up} does not know of"))
            }
            Err(IntentUnknown::Stripe(failure)) if failure.is_missing() => self.missing(),
            Err(error) => Applied::Park(error.to_string()),
        }
    }

    fn missing(&self) -> Applied {
        Applied::Missing { is_proven: self.top_ups.account().standing() == Standing::Proven }
    }
}

/// What the object of an event says it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named<'a> {
    /// `pi_…`.
    pub(super) intent: Option<&'a str>,
    /// `ch_…`.
    pub(super) charge: Option<&'a str>,
    /// Ours, from the metadata.
    pub(super) top_up: Option<&'a str>,
    /// Ours, from the metadata.
    pub(super) refund: Option<&'a str>,
}

impl<'a> Named<'a> {
    pub(super) fn by(body: &'a Value) -> Self {
        let object = &body["data"]["object"];
        // Expanded or not.
        let id = |field: &str| object[field].as_str().or_else(|| object[field]["id"].as_str());
        Self {
            intent: id("payment_intent").filter(|id| id.starts_with("pi_")),
            charge: id("charge"),
            top_up: object["metadata"][TOP_UP_METADATA_KEY].as_str(),
            refund: object["metadata"][REFUND_METADATA_KEY].as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_charge_names_its_intent_in_two_ways() {
        let about = |intent: Value| json!({ "data": { "object": { "payment_intent": intent } } });
        assert_eq!(Named::by(&about(json!("pi_1"))).intent, Some("pi_1"));
        assert_eq!(Named::by(&about(json!({ "id": "pi_1" }))).intent, Some("pi_1"));
        for none in [json!(null), json!("ch_1"), json!({}), json!(7)] {
            assert_eq!(Named::by(&about(none)).intent, None);
        }
    }
}

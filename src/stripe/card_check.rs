//! Whether a bank confirms a card again, without a charge: a SetupIntent, <https://docs.stripe.com/api/setup_intents>.
//!
//! It has no customer, so the token is attached to nobody by it and can still be charged for any wallet. What counts is the
//! check of the card's CVC in *its own* latest attempt: what a PaymentMethod says of itself may be of another day.

use std::collections::HashMap;

use miniserde::Deserialize;
use tokio::time::Instant;

use super::aftermath::Plain;
use super::calls::{Endpoint, Stripe, checked_intent_id, unreadable};
use super::facts::is_stripe_id;
use super::failure::StripeFailure;
use super::recovery::INSTALLATION;
use crate::domain::{InstallationId, PaymentMethodId};

/// The metadata key under which a SetupIntent names our check.
pub const CARD_CHECK_METADATA_KEY: &str = "prepaid402_card_check";

/// An id that no SetupIntent has.
const NOBODY: &str = "seti_prepaid402ProbeOfPermissions";

/// A check to ask for.
#[derive(Debug, Clone)]
pub struct NewCardCheck<'a> {
    /// Ours, in the metadata; Stripe's idempotency key derives from it.
    pub id: &'a str,
    /// In the metadata.
    pub installation: InstallationId,
    /// The card.
    pub payment_method: &'a PaymentMethodId,
}

/// What the bank has said of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardCheck {
    /// It is good, and whoever presents it knows its CVC.
    Passed {
        /// `seti_…`.
        setup_intent: String,
    },
    /// The CVC is wrong.
    Failed {
        /// `seti_…`.
        setup_intent: String,
    },
    /// Neither: there was no CVC, or the bank did not look at it.
    Unsaid {
        /// `seti_…`.
        setup_intent: String,
    },
    /// The bank wants the person. To be cancelled.
    RequiresAction {
        /// `seti_…`.
        setup_intent: String,
    },
}

#[derive(Deserialize)]
struct Setup {
    id: String,
    status: String,
    latest_attempt: Option<Attempt>,
    metadata: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Setups {
    data: Vec<Setup>,
}

#[derive(Deserialize)]
struct Attempt {
    setup_intent: String,
    status: String,
    payment_method_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    card: Option<Card>,
}

#[derive(Deserialize)]
struct Card {
    checks: Option<Checks>,
}

#[derive(Deserialize)]
struct Checks {
    cvc_check: Option<String>,
}

#[derive(Deserialize)]
struct Charged {
    id: String,
    latest_charge: Option<Charge>,
}

#[derive(Deserialize)]
struct Charge {
    payment_method_details: Option<Details>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

impl Setup {
    /// `None`: it is not an answer to what was asked.
    fn said(self) -> Option<CardCheck> {
        if !is_stripe_id("seti_", &self.id) {
            return None;
        }
        let setup_intent = self.id;
        let cvc = match self.latest_attempt {
            Some(attempt) if attempt.setup_intent != setup_intent => return None,
            // What another attempt than the one that succeeded has said is nothing.
            Some(attempt) if attempt.status == "succeeded" => {
                let card = attempt.payment_method_details.and_then(|details| details.card);
                card.and_then(|card| card.checks).and_then(|checks| checks.cvc_check)
            }
            _ => None,
        };
        match (self.status.as_str(), cvc.as_deref()) {
            ("succeeded", Some("pass")) => Some(CardCheck::Passed { setup_intent }),
            ("succeeded", Some("fail")) => Some(CardCheck::Failed { setup_intent }),
            ("succeeded" | "canceled" | "requires_payment_method", _) => {
                Some(CardCheck::Unsaid { setup_intent })
            }
            ("requires_action" | "requires_confirmation", _) => {
                Some(CardCheck::RequiresAction { setup_intent })
            }
            _ => None,
        }
    }
}

impl Stripe {
    /// Has the bank look at a card. Nothing is charged. Under the same id, the same check is answered again.
    ///
    /// # Errors
    /// [`StripeFailure::Declined`]: the bank refuses the card, or its CVC. [`StripeFailure::Refused`] with
    /// status 403: the key may not do this.
    pub async fn check_card(
        &self,
        new: NewCardCheck<'_>,
        deadline: Instant,
    ) -> Result<CardCheck, StripeFailure> {
        let installation = new.installation.to_string();
        let (ours, gateway) =
            (format!("metadata[{CARD_CHECK_METADATA_KEY}]"), format!("metadata[{INSTALLATION}]"));
        let body = [
            ("confirm", "true"),
            ("usage", "on_session"),
            ("payment_method_types[0]", "card"),
            ("payment_method", new.payment_method.expose()),
            (ours.as_str(), new.id),
            (gateway.as_str(), installation.as_str()),
            ("expand[0]", "latest_attempt"),
        ];
        let request: Plain<Setup> = Plain::post("/setup_intents", &body);
        let key = format!("{}.check", new.id);
        let (setup, meta) = self.call(Endpoint::CheckCard, Some(&key), &request, deadline).await?;
        setup.said().ok_or_else(|| unreadable(&meta))
    }

    /// The check that was asked for under this id, where its answer was lost. `None`: Stripe knows none, as yet.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn find_card_check(
        &self,
        id: &str,
        payment_method: &PaymentMethodId,
        deadline: Instant,
    ) -> Result<Option<CardCheck>, StripeFailure> {
        let query = [
            ("payment_method", payment_method.expose()),
            ("limit", "100"),
            ("expand[0]", "data.latest_attempt"),
        ];
        let request: Plain<Setups> = Plain::get("/setup_intents", &query);
        let (found, meta) = self.page(Endpoint::ListCardChecks, &request, deadline).await?;
        let is_it = |setup: &Setup| {
            let named = setup.metadata.as_ref().and_then(|metadata| metadata.get(CARD_CHECK_METADATA_KEY));
            named.is_some_and(|named| named == id)
        };
        match found.data.into_iter().find(is_it) {
            None => Ok(None),
            Some(setup) => setup.said().map(Some).ok_or_else(|| unreadable(&meta)),
        }
    }

    /// What the bank said of the CVC when a PaymentIntent was charged: `pass`, `fail`, `unavailable` or `unchecked`. `None`: nothing.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn cvc_check_of_charge(
        &self,
        pi: &str,
        deadline: Instant,
    ) -> Result<Option<String>, StripeFailure> {
        let path = format!("/payment_intents/{}", checked_intent_id(pi)?);
        let request: Plain<Charged> = Plain::get(path, &[("expand[0]", "latest_charge")]);
        let (intent, meta) = self.call(Endpoint::RetrievePaymentIntent, None, &request, deadline).await?;
        if intent.id != pi {
            return Err(unreadable(&meta));
        }
        let details = intent.latest_charge.and_then(|charge| charge.payment_method_details);
        let said = details.and_then(|details| details.card).and_then(|card| card.checks);
        // A short word of Stripe's, to be stored.
        Ok(said.and_then(|checks| checks.cvc_check).filter(|word| word.len() <= 20))
    }

    /// Makes sure that nobody finishes a check. One that has ended is left.
    ///
    /// # Errors
    /// See [`StripeFailure`].
    pub async fn cancel_card_check(
        &self,
        id: &str,
        setup_intent: &str,
        deadline: Instant,
    ) -> Result<(), StripeFailure> {
        if !is_stripe_id("seti_", setup_intent) {
            return Err(StripeFailure::not_sent("a SetupIntent id has the form seti_…"));
        }
        let request: Plain<Named> = Plain::post(format!("/setup_intents/{setup_intent}/cancel"), &[]);
        let key = format!("{id}.check.cancel");
        let (setup, meta) = self.call(Endpoint::CancelCardCheck, Some(&key), &request, deadline).await?;
        if setup.id == setup_intent { Ok(()) } else { Err(unreadable(&meta)) }
    }

    /// Whether the key may have cards checked: asked by cancelling what does not exist, which changes nothing.
    ///
    /// # Errors
    /// Stripe could not be asked, or said something else.
    pub async fn may_check_cards(&self, deadline: Instant) -> Result<bool, StripeFailure> {
        let request: Plain<Named> = Plain::post(format!("/setup_intents/{NOBODY}/cancel"), &[]);
        let key = format!("prepaid402.permission.{}", crate::db::now_micros());
        match self.call(Endpoint::MayCheckCards, Some(&key), &request, deadline).await {
            // 401 says that the key is wrong, and nothing of what it may do.
            Err(StripeFailure::Refused(refusal)) if refusal.status == Some(403) => Ok(false),
            Err(failure) if failure.is_missing() => Ok(true),
            Ok(_) => Ok(true),
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn said(status: &str, attempt: &str) -> Option<CardCheck> {
        let json = format!(r#"{{"id":"seti_1","status":"{status}","latest_attempt":{attempt}}}"#);
        miniserde::json::from_str::<Setup>(&json).unwrap().said()
    }

    fn attempt(of: &str, status: &str, cvc: &str) -> String {
        format!(
            r#"{{"setup_intent":"{of}","status":"{status}","payment_method_details":{{"type":"card","card":{{"checks":{{"cvc_check":{cvc}}}}}}}}}"#
        )
    }

    #[test]
    fn a_card_has_passed_only_if_its_own_attempt_says_so() {
        let setup_intent = "seti_1".to_owned();
        let passed = Some(CardCheck::Passed { setup_intent: setup_intent.clone() });
        let failed = Some(CardCheck::Failed { setup_intent: setup_intent.clone() });
        let unsaid = Some(CardCheck::Unsaid { setup_intent: setup_intent.clone() });
        let asks = Some(CardCheck::RequiresAction { setup_intent });
        let own = |cvc| attempt("seti_1", "succeeded", cvc);
        for (status, attempt, expected) in [
            ("succeeded", own(r#""pass""#), &passed),
            ("succeeded", own(r#""fail""#), &failed),
            ("succeeded", own(r#""unavailable""#), &unsaid),
            ("succeeded", own(r#""unchecked""#), &unsaid),
            ("succeeded", own("null"), &unsaid),
            ("succeeded", r#"{"setup_intent":"seti_1","status":"succeeded"}"#.to_owned(), &unsaid),
            ("succeeded", attempt("seti_1", "failed", r#""pass""#), &unsaid),
            ("succeeded", "null".to_owned(), &unsaid),
            ("succeeded", attempt("seti_2", "succeeded", r#""pass""#), &None),
            ("requires_action", attempt("seti_1", "requires_action", r#""pass""#), &asks),
            ("requires_confirmation", "null".to_owned(), &asks),
            ("canceled", own(r#""pass""#), &unsaid),
            ("requires_payment_method", own(r#""pass""#), &unsaid),
            ("processing", own(r#""pass""#), &None),
            ("a new one", own(r#""pass""#), &None),
        ] {
            assert_eq!(said(status, &attempt), *expected, "{status} {attempt}");
        }
    }
}

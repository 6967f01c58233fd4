//! What the rest of the program reads of Stripe's objects: a few checked values, without the secrets among the others.

use stripe_shared::{PaymentIntent, PaymentMethod, PaymentMethodType};
use stripe_types::Expandable;

use super::calls::TOP_UP_METADATA_KEY;
use super::client::ResponseMeta;
use super::recovery::INSTALLATION;
use crate::domain::{InstallationId, PaymentMethodId};

/// A PaymentMethod as Stripe knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentMethodFacts {
    /// The id that Stripe **returned**; it may differ from the one asked for (`pm_card_visa` becomes a real id).
    pub id: PaymentMethodId,
    /// The same for everybody who holds this card number: a hint, never a credential.
    pub fingerprint: Option<String>,
    /// The customer it is attached to, `cus_…`.
    pub customer: Option<String>,
    /// Whether it is a card.
    pub is_card: bool,
}

/// A PaymentIntent as Stripe described it in one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentIntentFacts {
    /// `pi_…`.
    pub id: String,
    /// Where it stands.
    pub status: PaymentIntentStatus,
    /// What was asked for, in minor units.
    pub amount_minor: i64,
    /// What was collected, in minor units.
    pub amount_received_minor: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// `cus_…`.
    pub customer: Option<String>,
    /// The PaymentMethod it was confirmed with. `None` also for a legacy `card_…` or `src_…`.
    pub payment_method: Option<PaymentMethodId>,
    /// From the metadata that we set at its creation.
    pub top_up_id: Option<String>,
    /// The gateway that made it, from the metadata. `None`: it does not say.
    pub installation: Option<InstallationId>,
    /// Whether real money moves.
    pub livemode: bool,
    /// When it was created, in seconds since the Unix epoch, by Stripe's clock.
    pub created: i64,
    /// Whether Stripe answered from its record of an earlier request under the same key.
    pub replayed: bool,
    /// Stripe's name of the request that told us.
    pub request_id: Option<String>,
}

/// States of a PaymentIntent, <https://docs.stripe.com/payments/paymentintents/lifecycle>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentIntentStatus {
    /// New, or the last attempt failed.
    RequiresPaymentMethod,
    /// Ready to be confirmed.
    RequiresConfirmation,
    /// The payer's bank wants 3-D Secure.
    RequiresAction,
    /// Neither paid nor failed yet.
    Processing,
    /// Authorised, not collected.
    RequiresCapture,
    /// Paid.
    Succeeded,
    /// Will never be paid.
    Canceled,
    /// A state that this program does not know. Neither paid nor failed.
    Other(String),
}

impl From<stripe_shared::PaymentIntentStatus> for PaymentIntentStatus {
    fn from(status: stripe_shared::PaymentIntentStatus) -> Self {
        use stripe_shared::PaymentIntentStatus as Theirs;
        match status {
            Theirs::RequiresPaymentMethod => Self::RequiresPaymentMethod,
            Theirs::RequiresConfirmation => Self::RequiresConfirmation,
            Theirs::RequiresAction => Self::RequiresAction,
            Theirs::Processing => Self::Processing,
            Theirs::RequiresCapture => Self::RequiresCapture,
            Theirs::Succeeded => Self::Succeeded,
            Theirs::Canceled => Self::Canceled,
            other => Self::Other(other.as_str().to_owned()),
        }
    }
}

/// Whether the text has the form of one of Stripe's ids, so that it may stand in a path and in our database.
pub(super) fn is_stripe_id(prefix: &str, text: &str) -> bool {
    text.len() <= 255
        && text.strip_prefix(prefix).is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
}

/// `None` when Stripe's id has no form that we can work with.
pub(super) fn payment_intent_facts(intent: PaymentIntent, meta: &ResponseMeta) -> Option<PaymentIntentFacts> {
    if !is_stripe_id("pi_", intent.id.as_str()) {
        return None;
    }
    let payment_method = intent.payment_method.map(Expandable::into_id);
    Some(PaymentIntentFacts {
        id: intent.id.as_str().to_owned(),
        status: intent.status.into(),
        amount_minor: intent.amount,
        amount_received_minor: intent.amount_received,
        currency: intent.currency.to_string(),
        customer: intent.customer.map(|customer| customer.into_id().as_str().to_owned()),
        payment_method: payment_method.and_then(|id| PaymentMethodId::parse(id.as_str())),
        top_up_id: intent.metadata.get(TOP_UP_METADATA_KEY).cloned(),
        installation: intent.metadata.get(INSTALLATION).and_then(|id| InstallationId::parse(id)),
        livemode: intent.livemode,
        created: intent.created,
        replayed: meta.replayed,
        request_id: meta.request_id.clone(),
    })
}

/// `None` when Stripe's id has no form that we can work with.
pub(super) fn payment_method_facts(method: PaymentMethod) -> Option<PaymentMethodFacts> {
    Some(PaymentMethodFacts {
        id: PaymentMethodId::parse(method.id.as_str())?,
        fingerprint: method.card.and_then(|card| card.fingerprint),
        customer: method.customer.map(|customer| customer.into_id().as_str().to_owned()),
        is_card: method.type_ == PaymentMethodType::Card,
    })
}

//! What Stripe's operations do. Each function first reads and checks everything, then changes the books, so that a
//! refusal leaves no trace.

mod charging;
mod customers;
pub(super) mod disputes;
pub(super) mod fraud_warnings;
pub(super) mod later;
mod payment_intents;
mod payment_methods;
mod reads;
pub(super) mod refunds;
pub(super) mod setup_intents;

use serde_json::Value;

pub(super) use charging::{finish, settle};

use super::books::{Books, NoRandomness};
use super::endpoint::Endpoint;
use super::error::{ApiError, Refusal};
use super::form::Form;
use super::objects::{Charge, ChargeState};
use super::params::Params;

/// Which key a caller has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// The seller's server.
    Secret,
    /// Anybody.
    Publishable,
}

impl From<NoRandomness> for Refusal {
    fn from(error: NoRandomness) -> Self {
        ApiError::api(error.to_string())
    }
}

/// Executes one request. Whatever is refused without [`ApiError::saved`] has changed nothing.
pub(super) fn execute(
    books: &mut Books,
    endpoint: Endpoint,
    id: &str,
    form: &Form,
    caller: Caller,
) -> Result<Value, Refusal> {
    let params = Params::of(form);
    if books.full() {
        return Err(ApiError::api("The books of the simulated Stripe are full. Start it with a new file."));
    }
    match endpoint {
        Endpoint::CreateMethod => payment_methods::create(books, params, caller),
        Endpoint::RetrieveMethod => payment_methods::retrieve(books, id, params),
        Endpoint::AttachMethod => payment_methods::attach(books, id, params),
        Endpoint::DetachMethod => payment_methods::detach(books, id, params),
        Endpoint::CreateCustomer => customers::create(books, params),
        Endpoint::DeleteCustomer => customers::delete(books, id, params),
        Endpoint::UpdateCustomer => customers::update(books, id, params),
        Endpoint::SearchCustomers => customers::search(books, params),
        Endpoint::CreateIntent => payment_intents::create(books, params),
        Endpoint::ConfirmIntent => payment_intents::confirm(books, id, params),
        Endpoint::CancelIntent => payment_intents::cancel(books, id, params),
        Endpoint::CreateSetup => setup_intents::create(books, params),
        Endpoint::ConfirmSetup => setup_intents::confirm(books, id, params),
        Endpoint::CancelSetup => setup_intents::cancel(books, id, params),
        Endpoint::CreateRefund => refunds::create(books, params),
        Endpoint::RetrieveCustomer
        | Endpoint::RetrieveIntent
        | Endpoint::RetrieveSetup
        | Endpoint::RetrieveRefund
        | Endpoint::RetrieveCharge
        | Endpoint::RetrieveBalance
        | Endpoint::RetrieveDispute
        | Endpoint::RetrieveWarning
        | Endpoint::RetrieveEvent => reads::retrieve(books, endpoint, id, params),
        Endpoint::ListMethods
        | Endpoint::ListCustomers
        | Endpoint::ListCustomerMethods
        | Endpoint::ListIntents
        | Endpoint::ListSetups
        | Endpoint::ListAttempts
        | Endpoint::ListRefunds
        | Endpoint::ListCharges
        | Endpoint::ListBalance
        | Endpoint::ListDisputes
        | Endpoint::ListWarnings
        | Endpoint::ListEvents => reads::list(books, endpoint, id, params),
    }
}

/// The paid charge of a PaymentIntent. What waits for its balance transaction gets it first: nothing that happens to a
/// charge comes before its own money.
pub(super) fn paid_charge(books: &mut Books, intent: &str) -> Result<Charge, Refusal> {
    let row = books.intents.get(intent).ok_or_else(|| ApiError::missing("payment_intent", intent))?;
    let charge = row.latest_charge.clone().ok_or_else(|| not_paid(intent))?;
    paid(books, &charge)
}

/// The same, by the charge's id.
fn paid(books: &mut Books, id: &str) -> Result<Charge, Refusal> {
    let known = books.charges.get(id).ok_or_else(|| ApiError::missing_param("charge", "charge", id))?;
    if known.state != ChargeState::Succeeded {
        return Err(not_paid(&known.payment_intent));
    }
    settle(books, id)?;
    books.charges.get(id).cloned().ok_or_else(|| ApiError::missing_param("charge", "charge", id))
}

fn not_paid(intent: &str) -> Refusal {
    ApiError::state(format!("This PaymentIntent ({intent}) does not have a successful charge."))
}

/// Checks that a customer named in a parameter exists.
fn known_customer(books: &Books, params: Params<'_>) -> Result<Option<String>, Refusal> {
    let Some(id) = params.text("customer")? else { return Ok(None) };
    if books.customers.get(id).is_none_or(|row| row.deleted) {
        return Err(ApiError::missing_param("customer", "customer", id));
    }
    Ok(Some(id.to_owned()))
}

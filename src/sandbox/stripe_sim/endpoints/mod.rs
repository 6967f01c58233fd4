//! What Stripe's operations do. Each function first reads and checks everything, then changes the books, so that a
//! refusal leaves no trace.

mod charging;
mod customers;
mod payment_intents;
mod payment_methods;
mod reads;
mod refunds;

use serde_json::Value;

pub(super) use charging::finish;

use super::books::{Books, NoRandomness};
use super::endpoint::Endpoint;
use super::error::{ApiError, Refusal};
use super::form::Form;
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
        Endpoint::CreateIntent => payment_intents::create(books, params),
        Endpoint::ConfirmIntent => payment_intents::confirm(books, id, params),
        Endpoint::CancelIntent => payment_intents::cancel(books, id, params),
        Endpoint::CreateRefund => refunds::create(books, params),
        Endpoint::RetrieveCustomer
        | Endpoint::RetrieveIntent
        | Endpoint::RetrieveRefund
        | Endpoint::RetrieveCharge
        | Endpoint::RetrieveBalance => reads::retrieve(books, endpoint, id, params),
        Endpoint::ListMethods
        | Endpoint::ListCustomers
        | Endpoint::ListCustomerMethods
        | Endpoint::ListIntents
        | Endpoint::ListRefunds
        | Endpoint::ListCharges
        | Endpoint::ListBalance => reads::list(books, endpoint, id, params),
    }
}

/// Checks that a customer named in a parameter exists.
fn known_customer(books: &Books, params: Params<'_>) -> Result<Option<String>, Refusal> {
    let Some(id) = params.text("customer")? else { return Ok(None) };
    if books.customers.get(id).is_none() {
        return Err(ApiError::missing_param("customer", "customer", id));
    }
    Ok(Some(id.to_owned()))
}

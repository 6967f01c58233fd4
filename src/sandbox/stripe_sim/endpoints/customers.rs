//! Customers.

use serde_json::Value;

use super::super::books::{Books, Record};
use super::super::error::{ApiError, Refusal};
use super::super::expand::Expand;
use super::super::objects::{Customer, PaymentMethod};
use super::super::params::Params;
use super::super::render;
use super::payment_methods;

/// `POST /v1/customers`
pub(super) fn create(books: &mut Books, params: Params<'_>) -> Result<Value, Refusal> {
    const READ: [&str; 7] = ["name", "email", "phone", "description", "metadata", "payment_method", "expand"];
    // Kept by Stripe, without effect on a charge.
    const IGNORED: [&str; 8] = [
        "address",
        "shipping",
        "preferred_locales",
        "invoice_settings",
        "tax_exempt",
        "business_name",
        "individual_name",
        "validate",
    ];
    const REFUSED: [&str; 7] =
        ["balance", "cash_balance", "source", "tax", "tax_id_data", "test_clock", "invoice_prefix"];
    let read: Vec<&str> = READ.into_iter().chain(IGNORED).collect();
    params.only(&read, &REFUSED)?;
    let expand = Expand::read(params)?;
    let row = Customer {
        id: books.new_id("cus_", 14)?,
        created: books.now(),
        name: params.owned("name")?,
        email: params.owned("email")?,
        phone: params.owned("phone")?,
        description: params.owned("description")?,
        metadata: params.metadata()?,
        deleted: false,
    };
    let mut method = None;
    if let Some(id) = params.text("payment_method")? {
        let found = payment_methods::find(books, id)?
            .ok_or_else(|| ApiError::missing_param("payment_method", "PaymentMethod", id))?;
        if found.consumed || found.customer.is_some() {
            return Err(ApiError::state(
                "The payment method you provided cannot be attached to this customer.",
            ));
        }
        method = Some(found);
    }
    if let Some(mut method) = method {
        method.customer = Some(row.id.clone());
        books.put(Record::PaymentMethod(Box::new(method)));
    }
    let value = render::customer(&row);
    books.put(Record::Customer(row));
    Ok(expand.apply(books, value))
}

/// `DELETE /v1/customers/{id}`: its PaymentMethods are detached for good.
pub(super) fn delete(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    params.only(&[], &[])?;
    let found = books.customers.get(id).filter(|row| !row.deleted);
    let mut row = found.cloned().ok_or_else(|| ApiError::missing("customer", id))?;
    let of_it = |method: &&PaymentMethod| method.customer.as_deref() == Some(id);
    let methods: Vec<PaymentMethod> = books.methods.oldest_first().filter(of_it).cloned().collect();
    for mut method in methods {
        method.customer = None;
        method.consumed = true;
        books.put(Record::PaymentMethod(Box::new(method)));
    }
    row.deleted = true;
    let value = render::customer(&row);
    books.put(Record::Customer(row));
    Ok(value)
}

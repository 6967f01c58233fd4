//! Customers.

use serde_json::{Value, json};

use super::super::books::{Books, Record};
use super::super::error::{ApiError, Refusal};
use super::super::expand::Expand;
use super::super::objects::{Customer, PaymentMethod};
use super::super::params::{Params, Window};
use super::super::render;
use super::super::search::Query;
use super::payment_methods;

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

/// `POST /v1/customers`
pub(super) fn create(books: &mut Books, params: Params<'_>) -> Result<Value, Refusal> {
    const READ: [&str; 7] = ["name", "email", "phone", "description", "metadata", "payment_method", "expand"];
    const REFUSED: [&str; 7] =
        ["balance", "cash_balance", "source", "tax", "tax_id_data", "test_clock", "invoice_prefix"];
    let read: Vec<&str> = READ.into_iter().chain(IGNORED).collect();
    params.only(&read, &REFUSED)?;
    let expand = Expand::read(params)?;
    let now = books.now();
    let row = Customer {
        id: books.new_id("cus_", 14)?,
        created: now,
        changed: now,
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
        payment_methods::keep_for(books, &mut method, Some(row.id.clone()))?;
        books.put(Record::PaymentMethod(Box::new(method)));
    }
    let value = render::customer(&row);
    books.put(Record::Customer(row));
    Ok(expand.apply(books, value))
}

fn found(books: &Books, id: &str) -> Result<Customer, Refusal> {
    let row = books.customers.get(id).filter(|row| !row.deleted);
    row.cloned().ok_or_else(|| ApiError::missing("customer", id))
}

/// `POST /v1/customers/{id}`: what is not named stays as it is.
pub(super) fn update(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    const READ: [&str; 6] = ["name", "email", "phone", "description", "metadata", "expand"];
    const REFUSED: [&str; 5] = ["balance", "cash_balance", "default_source", "source", "tax"];
    let read: Vec<&str> = READ.into_iter().chain(IGNORED).collect();
    params.only(&read, &REFUSED)?;
    let expand = Expand::read(params)?;
    let mut row = found(books, id)?;
    row.name = params.change("name")?.unwrap_or(row.name);
    row.email = params.change("email")?.unwrap_or(row.email);
    row.phone = params.change("phone")?.unwrap_or(row.phone);
    row.description = params.change("description")?.unwrap_or(row.description);
    row.metadata = params.metadata_over(row.metadata)?;
    row.changed = books.now();
    let value = render::customer(&row);
    books.put(Record::Customer(row));
    Ok(expand.apply(books, value))
}

/// `GET /v1/customers/search`: out of an index that is behind the books.
pub(super) fn search(books: &mut Books, params: Params<'_>) -> Result<Value, Refusal> {
    params.only(&["query", "limit", "page", "expand"], &[])?;
    let expand = Expand::read(params)?;
    let query = Query::parse(params.required("query")?)?;
    let window = Window::read(params)?;
    let page = params.text("page")?;
    books.index.arrive(books.now());
    let mut rows = books.index.newest_first();
    // A page's name is the last customer of the page before.
    if page.is_some_and(|page| !rows.any(|row| row.id == page)) {
        return Err(ApiError::parameter("page", "Invalid page token."));
    }
    let (rows, has_more) =
        window.page(rows.filter(|row| query.matches(row)), |row| &row.id, |row| row.created)?;
    let next_page = rows.last().map(|row| row.id.clone()).filter(|_| has_more);
    let data: Vec<Value> = rows.into_iter().map(render::customer).collect();
    let value = json!({
        "object": "search_result",
        "url": "/v1/customers/search",
        "has_more": has_more,
        "data": data,
        "next_page": next_page,
    });
    Ok(expand.apply(books, value))
}

/// `DELETE /v1/customers/{id}`: its PaymentMethods are detached for good.
pub(super) fn delete(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    params.only(&[], &[])?;
    let mut row = found(books, id)?;
    let of_it = |method: &&PaymentMethod| method.customer.as_deref() == Some(id);
    let methods: Vec<PaymentMethod> = books.methods.oldest_first().filter(of_it).cloned().collect();
    for mut method in methods {
        method.customer = None;
        method.consumed = true;
        books.put(Record::PaymentMethod(Box::new(method)));
    }
    row.deleted = true;
    row.changed = books.now();
    let value = render::customer(&row);
    books.put(Record::Customer(row));
    Ok(value)
}

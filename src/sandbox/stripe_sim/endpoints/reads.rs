//! Retrieving and listing.

use serde_json::Value;

use super::super::books::Books;
use super::super::endpoint::Endpoint;
use super::super::error::{ApiError, Refusal};
use super::super::events::{Event, LIFETIME_SECONDS, named};
use super::super::expand::Expand;
use super::super::params::{Params, WINDOW, Window};
use super::super::render;
use super::super::setups::{setup_attempt, setup_intent};

/// Types of events in one question.
const MAX_TYPES: usize = 20;

/// One object by the id in the path.
pub(super) fn retrieve(
    books: &Books,
    endpoint: Endpoint,
    id: &str,
    params: Params<'_>,
) -> Result<Value, Refusal> {
    // An intent may be asked for with its client secret; with the secret key that changes nothing.
    params.only(&["expand", "client_secret"], &[])?;
    let expand = Expand::read(params)?;
    let (what, value) = match endpoint {
        Endpoint::RetrieveCustomer => ("customer", books.customers.get(id).map(render::customer)),
        Endpoint::RetrieveIntent => {
            ("payment_intent", books.intents.get(id).map(|row| render::payment_intent(books, row)))
        }
        Endpoint::RetrieveSetup => ("setupintent", books.setups.get(id).map(|row| setup_intent(books, row))),
        Endpoint::RetrieveRefund => ("refund", books.refunds.get(id).map(render::refund)),
        Endpoint::RetrieveCharge => ("charge", books.charges.get(id).map(|row| render::charge(books, row))),
        Endpoint::RetrieveDispute => {
            ("dispute", books.disputes.get(id).map(|row| render::dispute(books, row)))
        }
        Endpoint::RetrieveWarning => {
            ("early fraud warning", books.warnings.get(id).map(|row| render::fraud_warning(books, row)))
        }
        Endpoint::RetrieveEvent => {
            let row = books.events.get(id).filter(|row| shown(books, row));
            ("event", row.map(|row| event(books, row)))
        }
        _ => ("balance transaction", books.balance.get(id).map(render::balance_transaction)),
    };
    let value = value.ok_or_else(|| ApiError::missing(what, id))?;
    Ok(expand.apply(books, value))
}

/// A page of a list, newest first.
pub(super) fn list(
    books: &Books,
    endpoint: Endpoint,
    path_id: &str,
    params: Params<'_>,
) -> Result<Value, Refusal> {
    let filters: &[&str] = match endpoint {
        Endpoint::ListMethods => &["customer", "type"],
        Endpoint::ListCustomerMethods => &["type", "allow_redisplay"],
        Endpoint::ListCustomers => &["email"],
        Endpoint::ListIntents => &["customer"],
        Endpoint::ListSetups => &["customer", "payment_method"],
        Endpoint::ListAttempts => &["setup_intent"],
        Endpoint::ListCharges => &["customer", "payment_intent"],
        Endpoint::ListRefunds | Endpoint::ListDisputes | Endpoint::ListWarnings => {
            &["charge", "payment_intent"]
        }
        Endpoint::ListEvents => &["type", "types"],
        _ => &["source", "type", "currency"],
    };
    let read: Vec<&str> = WINDOW.into_iter().chain(filters.iter().copied()).collect();
    params.only(&read, &[])?;
    let window = Window::read(params)?;
    let expand = Expand::read(params)?;
    let (url, (data, has_more)) = match endpoint {
        Endpoint::ListCustomers => ("/v1/customers".to_owned(), customers(books, params, &window)?),
        Endpoint::ListIntents => ("/v1/payment_intents".to_owned(), intents(books, params, &window)?),
        Endpoint::ListSetups => ("/v1/setup_intents".to_owned(), setups(books, params, &window)?),
        Endpoint::ListAttempts => ("/v1/setup_attempts".to_owned(), attempts(books, params, &window)?),
        Endpoint::ListCharges => ("/v1/charges".to_owned(), charges(books, params, &window)?),
        Endpoint::ListRefunds => ("/v1/refunds".to_owned(), refunds(books, params, &window)?),
        Endpoint::ListBalance => ("/v1/balance_transactions".to_owned(), balance(books, params, &window)?),
        Endpoint::ListDisputes => ("/v1/disputes".to_owned(), disputes(books, params, &window)?),
        Endpoint::ListWarnings => {
            ("/v1/radar/early_fraud_warnings".to_owned(), warnings(books, params, &window)?)
        }
        Endpoint::ListEvents => ("/v1/events".to_owned(), events(books, params, &window)?),
        Endpoint::ListMethods => {
            ("/v1/payment_methods".to_owned(), methods(books, params.text("customer")?, params, &window)?)
        }
        _ => {
            if books.customers.get(path_id).is_none_or(|row| row.deleted) {
                return Err(ApiError::missing("customer", path_id));
            }
            let url = format!("/v1/customers/{path_id}/payment_methods");
            (url, methods(books, Some(path_id), params, &window)?)
        }
    };
    Ok(expand.apply(books, render::list(&url, data, has_more)))
}

type Page = Result<(Vec<Value>, bool), Refusal>;

fn same(filter: Option<&str>, value: Option<&str>) -> bool {
    filter.is_none() || filter == value
}

fn customers(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let email = params.text("email")?;
    let rows = books.customers.newest_first().filter(|row| !row.deleted && same(email, row.email.as_deref()));
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(render::customer).collect(), more))
}

/// Only attached PaymentMethods are listed.
fn methods(books: &Books, customer: Option<&str>, params: Params<'_>, window: &Window<'_>) -> Page {
    let kind = params.text("type")?;
    let rows = books.methods.newest_first().filter(|row| {
        row.customer.is_some()
            && same(customer, row.customer.as_deref())
            && kind.is_none_or(|kind| kind == "card")
    });
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(render::payment_method).collect(), more))
}

fn intents(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let customer = params.text("customer")?;
    let rows = books.intents.newest_first().filter(|row| same(customer, row.customer.as_deref()));
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(|row| render::payment_intent(books, row)).collect(), more))
}

fn setups(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let customer = params.text("customer")?;
    let method = params.text("payment_method")?;
    let rows = books
        .setups
        .newest_first()
        .filter(|row| same(customer, row.customer.as_deref()) && same(method, row.payment_method.as_deref()));
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(|row| setup_intent(books, row)).collect(), more))
}

/// Those of one SetupIntent only, as at Stripe.
fn attempts(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let setup = params.required("setup_intent")?;
    if books.setups.get(setup).is_none() {
        return Err(ApiError::missing_param("setup_intent", "setupintent", setup));
    }
    let rows = books.attempts.newest_first().filter(|row| row.setup_intent == setup);
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(|row| setup_attempt(books, row)).collect(), more))
}

fn charges(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let customer = params.text("customer")?;
    let intent = params.text("payment_intent")?;
    let rows = books
        .charges
        .newest_first()
        .filter(|row| same(customer, row.customer.as_deref()) && same(intent, Some(&row.payment_intent)));
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(|row| render::charge(books, row)).collect(), more))
}

fn refunds(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let charge = params.text("charge")?;
    let intent = params.text("payment_intent")?;
    let rows = books
        .refunds
        .newest_first()
        .filter(|row| same(charge, Some(&row.charge)) && same(intent, Some(&row.payment_intent)));
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(render::refund).collect(), more))
}

fn balance(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let source = params.text("source")?;
    let currency = params.text("currency")?;
    let kind = params.text("type")?;
    let rows = books.balance.newest_first().filter(|row| {
        same(source, Some(&row.source))
            && same(currency, Some(&row.currency))
            && same(kind, Some(row.kind().word()))
    });
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(render::balance_transaction).collect(), more))
}

fn disputes(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let charge = params.text("charge")?;
    let intent = params.text("payment_intent")?;
    let rows = books
        .disputes
        .newest_first()
        .filter(|row| same(charge, Some(&row.charge)) && same(intent, Some(&row.payment_intent)));
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(|row| render::dispute(books, row)).collect(), more))
}

fn warnings(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let charge = params.text("charge")?;
    let intent = params.text("payment_intent")?;
    let rows = books
        .warnings
        .newest_first()
        .filter(|row| same(charge, Some(&row.charge)) && same(intent, Some(&row.payment_intent)));
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(|row| render::fraud_warning(books, row)).collect(), more))
}

fn events(books: &Books, params: Params<'_>, window: &Window<'_>) -> Page {
    let mut names: Vec<String> = params.list("types")?.into_iter().map(str::to_owned).collect();
    if let Some(name) = params.text("type")? {
        if !names.is_empty() {
            let message = "You may only specify one of these parameters: type, types.";
            return Err(ApiError::invalid(message).coded("parameters_exclusive"));
        }
        names.push(name.to_owned());
    }
    if names.len() > MAX_TYPES {
        return Err(ApiError::parameter("types", format!("You can name at most {MAX_TYPES} types.")));
    }
    let rows = books
        .events
        .newest_first()
        .filter(|row| shown(books, row) && (names.is_empty() || named(&names, &row.kind)));
    let (rows, more) = window.page(rows, |row| &row.id, |row| row.created)?;
    Ok((rows.into_iter().map(|row| event(books, row)).collect(), more))
}

/// Events go out of sight before they are forgotten.
fn shown(books: &Books, event: &Event) -> bool {
    books.now().saturating_sub(event.created) < LIFETIME_SECONDS
}

fn event(books: &Books, event: &Event) -> Value {
    event.render(books.endpoints.iter().filter(|endpoint| endpoint.awaits(&event.id)).count())
}

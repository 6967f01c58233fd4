//! Cards and their tokens.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike as _};
use serde_json::Value;

use super::super::books::{Books, Record};
use super::super::cards::{self, TestCard};
use super::super::error::{ApiError, Refusal};
use super::super::expand::Expand;
use super::super::issuer::{self, TypedCvc};
use super::super::objects::{Billing, Card, PaymentMethod};
use super::super::params::Params;
use super::super::render;
use super::{Caller, charging, known_customer};

/// `POST /v1/payment_methods`
pub(super) fn create(books: &mut Books, params: Params<'_>, caller: Caller) -> Result<Value, Refusal> {
    const READ: [&str; 6] = ["type", "card", "billing_details", "metadata", "allow_redisplay", "expand"];
    params.only(&READ, &["customer", "payment_method"])?;
    params.choice("type", &["card"])?;
    params.required("type")?;
    let given = params.nested("card")?.ok_or_else(|| {
        ApiError::parameter("card", "Missing required param: card.").coded("parameter_missing")
    })?;
    let expand = Expand::read(params)?;
    given.only(&["number", "exp_month", "exp_year", "cvc", "token", "networks"], &[])?;
    let billing = billing(params)?;
    let metadata = params.metadata()?;
    let allow_redisplay =
        params.choice("allow_redisplay", &["always", "limited", "unspecified"])?.map(str::to_owned);
    let card = match given.text("token")? {
        Some(token) => from_test_card(
            books,
            cards::by_name(token)
                .filter(|_| token.starts_with("tok_"))
                .ok_or_else(|| ApiError::missing_param("card[token]", "token", token))?,
        ),
        None => {
            if caller == Caller::Publishable && !books.settings.publishable_key_tokenisation {
                return Err(ApiError::invalid(
                    "This integration surface is unsupported for publishable key tokenization. In the sandbox, switch \
                     it on through POST /_sim/settings; at Stripe, in the Dashboard's integration settings.",
                ));
            }
            from_number(books, given)?
        }
    };
    let row = PaymentMethod {
        id: books.new_id("pm_1", 23)?,
        created: books.now(),
        card,
        customer: None,
        consumed: false,
        billing,
        allow_redisplay,
        metadata,
    };
    let value = render::payment_method(&row);
    books.put(Record::PaymentMethod(Box::new(row)));
    Ok(expand.apply(books, value))
}

fn billing(params: Params<'_>) -> Result<Billing, Refusal> {
    let Some(given) = params.nested("billing_details")? else { return Ok(Billing::default()) };
    given.only(&["name", "email", "phone", "address", "tax_id"], &[])?;
    let mut address = BTreeMap::new();
    if let Some(lines) = given.nested("address")? {
        const LINES: [&str; 6] = ["city", "country", "line1", "line2", "postal_code", "state"];
        lines.only(&LINES, &[])?;
        for line in LINES {
            if let Some(text) = lines.text(line)? {
                address.insert(line.to_owned(), text.to_owned());
            }
        }
    }
    Ok(Billing {
        name: given.owned("name")?,
        email: given.owned("email")?,
        phone: given.owned("phone")?,
        address,
    })
}

/// A card typed in by somebody: checked as Stripe checks it, and refused unless it is a test card.
fn from_number(books: &Books, given: Params<'_>) -> Result<Card, Refusal> {
    let number: String = given.required("number")?.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    let month = given.required_integer("exp_month")?;
    let year = given.required_integer("exp_year")?;
    let cvc = given.text("cvc")?;
    if !(12..=19).contains(&number.len()) || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        let error = ApiError::card("invalid_number", "Your card number is not a valid card number.");
        return Err(error.at("number"));
    }
    if !cards::passes_luhn(&number) {
        return Err(ApiError::card("incorrect_number", "Your card number is incorrect.").at("number"));
    }
    let year = if (0..100).contains(&year) { year.saturating_add(2000) } else { year };
    check_expiry(books.now(), month, year)?;
    let Some(known) = cards::by_number(&number) else {
        return Err(ApiError::card(
            "card_declined",
            "Your card was declined. This is a simulated Stripe and takes test cards only, such as 4242 4242 4242 \
             4242. Never give it a real card.",
        )
        .declined(Some("test_mode_live_card"), None));
    };
    if cvc.is_some_and(|cvc| !known.takes_cvc(cvc)) {
        return Err(ApiError::card("invalid_cvc", "Your card's security code is invalid.").at("cvc"));
    }
    Ok(Card {
        exp_month: month,
        exp_year: year,
        cvc_given: cvc.is_some(),
        cvc: TypedCvc::new(cvc),
        ..from_test_card(books, known)
    })
}

fn check_expiry(now: i64, month: i64, year: i64) -> Result<(), Refusal> {
    let bad_month =
        || ApiError::card("invalid_expiry_month", "Your card's expiration month is invalid.").at("exp_month");
    let (this_year, this_month) = DateTime::from_timestamp(now, 0)
        .map_or((1970, 1), |at| (i64::from(at.year()), i64::from(at.month())));
    if !(1..=12).contains(&month) {
        return Err(bad_month());
    }
    if year < this_year || year > this_year.saturating_add(50) {
        let error = ApiError::card("invalid_expiry_year", "Your card's expiration year is invalid.");
        return Err(error.at("exp_year"));
    }
    if year == this_year && month < this_month { Err(bad_month()) } else { Ok(()) }
}

fn from_test_card(books: &Books, known: &TestCard) -> Card {
    let year = DateTime::from_timestamp(books.now(), 0).map_or(2040, |at| i64::from(at.year()));
    Card {
        brand: known.brand.to_owned(),
        funding: known.funding.to_owned(),
        country: known.country.to_owned(),
        last4: known.number.chars().skip(known.number.len().saturating_sub(4)).collect(),
        exp_month: 12,
        exp_year: year.saturating_add(3),
        cvc_given: true,
        cvc_used: false,
        cvc_check: None,
        set_up: false,
        cvc: TypedCvc::default(),
        fingerprint: books.fingerprint(known.number),
        behaviour: known.behaviour,
    }
}

/// The PaymentMethod of that id. A shared name such as `pm_card_visa` gives a new one, which is not in the books yet.
pub(super) fn find(books: &Books, id: &str) -> Result<Option<PaymentMethod>, Refusal> {
    if let Some(row) = books.methods.get(id) {
        return Ok(Some(row.clone()));
    }
    let Some(known) = cards::by_name(id).filter(|_| id.starts_with("pm_card_")) else { return Ok(None) };
    Ok(Some(PaymentMethod {
        id: books.new_id("pm_1", 23)?,
        created: books.now(),
        card: from_test_card(books, known),
        customer: None,
        consumed: false,
        billing: Billing::default(),
        allow_redisplay: None,
        metadata: BTreeMap::new(),
    }))
}

fn found(books: &Books, id: &str) -> Result<PaymentMethod, Refusal> {
    find(books, id)?.ok_or_else(|| ApiError::missing("PaymentMethod", id))
}

/// `GET /v1/payment_methods/{id}`
pub(super) fn retrieve(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    params.only(&["expand"], &[])?;
    let expand = Expand::read(params)?;
    let row = found(books, id)?;
    let value = render::payment_method(&row);
    if books.methods.get(&row.id).is_none() {
        books.put(Record::PaymentMethod(Box::new(row)));
    }
    Ok(expand.apply(books, value))
}

/// `POST /v1/payment_methods/{id}/attach`: asks the issuer, so cards that decline are refused here too.
pub(super) fn attach(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    params.only(&["customer", "expand"], &["customer_account"])?;
    let expand = Expand::read(params)?;
    params.required("customer")?;
    let customer = known_customer(books, params)?;
    let mut row = found(books, id)?;
    if row.customer.is_some() && row.customer != customer {
        return Err(ApiError::state(
            "The payment method you provided has already been attached to a customer.",
        ));
    }
    if row.consumed {
        return Err(charging::single_use());
    }
    keep_for(books, &mut row, customer)?;
    let value = render::payment_method(&row);
    books.put(Record::PaymentMethod(Box::new(row)));
    Ok(expand.apply(books, value))
}

/// Gives a PaymentMethod to a customer, if its issuer agrees.
pub(super) fn keep_for(
    books: &Books,
    row: &mut PaymentMethod,
    customer: Option<String>,
) -> Result<(), Refusal> {
    if let Some(decline) = issuer::decline_to_keep(books, &row.card) {
        return Err(ApiError::card(decline.code, decline.message)
            .declined(decline.decline_code, decline.advice_code)
            .with_method(render::payment_method(row)));
    }
    let check = issuer::cvc_check(books, &row.card);
    issuer::accepted(&mut row.card, check);
    row.customer = customer;
    Ok(())
}

/// `POST /v1/payment_methods/{id}/detach`: for good.
pub(super) fn detach(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    params.only(&["expand"], &[])?;
    let expand = Expand::read(params)?;
    let mut row = found(books, id)?;
    if row.customer.is_none() {
        return Err(ApiError::state(
            "The payment method you provided is not attached to a customer so detachment is impossible.",
        ));
    }
    row.customer = None;
    row.consumed = true;
    let value = render::payment_method(&row);
    books.put(Record::PaymentMethod(Box::new(row)));
    Ok(expand.apply(books, value))
}

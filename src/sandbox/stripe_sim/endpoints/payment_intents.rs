//! PaymentIntents: create, confirm, cancel.

use serde_json::Value;

use super::super::books::{Books, Record};
use super::super::currencies;
use super::super::error::{ApiError, Refusal};
use super::super::expand::Expand;
use super::super::objects::{IntentStatus, PaymentIntent, PaymentMethod};
use super::super::params::Params;
use super::super::render;
use super::charging::{self, Attempt};
use super::{known_customer, payment_methods};

/// Parameters that create and confirm share.
const SHARED: [&str; 16] = [
    "expand",
    "payment_method",
    "setup_future_usage",
    "off_session",
    "error_on_requires_action",
    "return_url",
    "receipt_email",
    // Read by Stripe, without effect on a card charge here.
    "allowed_payment_method_types",
    "amount_details",
    "excluded_payment_method_types",
    "mandate",
    "mandate_data",
    "payment_details",
    "payment_method_options",
    "radar_options",
    "use_stripe_sdk",
];
const CREATE: [&str; 14] = [
    "amount",
    "currency",
    "confirm",
    "customer",
    "description",
    "metadata",
    "payment_method_types",
    "automatic_payment_methods",
    "capture_method",
    "confirmation_method",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
    "shipping",
];
/// Stripe's, and they would change what happens to the money: refused rather than ignored.
const REFUSED: [&str; 10] = [
    "application_fee_amount",
    "confirmation_token",
    "customer_account",
    "hooks",
    "on_behalf_of",
    "payment_method_configuration",
    "payment_method_data",
    "shared_payment_granted_token",
    "transfer_data",
    "amount_to_confirm",
];
/// When the card will be used again.
pub(super) const FUTURE_USAGE: [&str; 2] = ["off_session", "on_session"];

/// `POST /v1/payment_intents`
pub(super) fn create(books: &mut Books, params: Params<'_>) -> Result<Value, Refusal> {
    let names: Vec<&str> = SHARED.into_iter().chain(CREATE).collect();
    params.only(&names, &REFUSED)?;
    let expand = Expand::read(params)?;
    let currency = currency(params)?;
    let amount = amount(params, &currency)?;
    let confirm = params.flag("confirm")?;
    let attempt = attempt(params, confirm)?;
    let method = method(books, params)?;
    let mut intent = new_intent(books, params, amount, currency)?;
    if let Some(method) = &method {
        charging::check_method(method, intent.customer.as_deref(), "PaymentIntent")?;
        intent.payment_method = Some(method.id.clone());
        intent.status = IntentStatus::RequiresConfirmation;
    }
    let value = match (confirm, method) {
        (false, method) => {
            if let Some(method) = method {
                books.put(Record::PaymentMethod(Box::new(method)));
            }
            books.put(Record::PaymentIntent(Box::new(intent.clone())));
            render::payment_intent(books, &intent)
        }
        (true, None) => return Err(without_method()),
        (true, Some(method)) => {
            check_confirmable(&intent, attempt)?;
            charging::charge(books, intent, method, attempt)?
        }
    };
    Ok(expand.apply(books, value))
}

fn currency(params: Params<'_>) -> Result<String, Refusal> {
    let code = params.required("currency")?.to_ascii_lowercase();
    if currencies::minimum(&code).is_none() {
        let message = format!("Invalid currency: {}", super::super::error::shortened(&code));
        return Err(ApiError::parameter("currency", message));
    }
    Ok(code)
}

fn amount(params: Params<'_>, currency: &str) -> Result<i64, Refusal> {
    let amount = params.required_integer("amount")?;
    let minimum = currencies::minimum(currency).unwrap_or(1);
    if amount < 1 {
        return Err(ApiError::parameter("amount", "This value must be greater than or equal to 1.")
            .coded("parameter_invalid_integer"));
    }
    if amount < minimum {
        let message = format!("Amount must be at least {minimum} of the smallest unit of {currency}.");
        return Err(ApiError::parameter("amount", message).coded("amount_too_small"));
    }
    if amount > currencies::MAX_AMOUNT {
        let message = format!("Amount must be no more than {} in the smallest unit.", currencies::MAX_AMOUNT);
        return Err(ApiError::parameter("amount", message).coded("amount_too_large"));
    }
    let step = currencies::step(currency);
    if amount.checked_rem(step) != Some(0) {
        let message = format!("Amounts in {currency} must be a multiple of {step}.");
        return Err(ApiError::parameter("amount", message).coded("parameter_invalid_integer"));
    }
    Ok(amount)
}

fn attempt(params: Params<'_>, confirm: bool) -> Result<Attempt, Refusal> {
    // Stripe also takes the words `one_off` and `recurring`.
    let off_session = params
        .choice("off_session", &["true", "false", "one_off", "recurring"])?
        .is_some_and(|word| word != "false");
    let attempt = Attempt { off_session, error_on_requires_action: params.flag("error_on_requires_action")? };
    for (set, name) in
        [(attempt.off_session, "off_session"), (attempt.error_on_requires_action, "error_on_requires_action")]
    {
        if set && !confirm {
            let message = format!("You can only set {name} when confirming the PaymentIntent.");
            return Err(ApiError::parameter(name, message));
        }
    }
    Ok(attempt)
}

/// The PaymentMethod that is named, if one is.
pub(super) fn method(books: &Books, params: Params<'_>) -> Result<Option<PaymentMethod>, Refusal> {
    let Some(id) = params.text("payment_method")? else { return Ok(None) };
    let missing = || ApiError::missing_param("payment_method", "PaymentMethod", id);
    payment_methods::find(books, id)?.ok_or_else(missing).map(Some)
}

fn without_method() -> Refusal {
    ApiError::state(
        "You cannot confirm this PaymentIntent because it's missing a payment method. Provide one with \
         `payment_method`.",
    )
    .coded("payment_intent_unexpected_state")
}

fn new_intent(
    books: &Books,
    params: Params<'_>,
    amount: i64,
    currency: String,
) -> Result<PaymentIntent, Refusal> {
    if params.text("statement_descriptor")?.is_some() {
        let message =
            "statement_descriptor is not supported for card charges. Use statement_descriptor_suffix.";
        return Err(ApiError::parameter("statement_descriptor", message));
    }
    let capture = ["automatic", "automatic_async", "manual"];
    let capture_method = params.choice("capture_method", &capture)?.unwrap_or("automatic_async");
    if capture_method == "manual" {
        let message = "The simulated Stripe captures at once; it does not do manual capture.";
        return Err(ApiError::parameter("capture_method", message));
    }
    let confirmation_method =
        params.choice("confirmation_method", &["automatic", "manual"])?.unwrap_or("automatic");
    let id = books.new_id("pi_3", 23)?;
    Ok(PaymentIntent {
        client_secret: books.new_id(&format!("{id}_secret_"), 25)?,
        id,
        created: books.now(),
        amount,
        amount_received: 0,
        currency,
        status: IntentStatus::RequiresPaymentMethod,
        customer: known_customer(books, params)?,
        payment_method: None,
        latest_charge: None,
        last_failure: None,
        setup_future_usage: params.choice("setup_future_usage", &FUTURE_USAGE)?.map(str::to_owned),
        automatic: automatic(params)?,
        capture_method: capture_method.to_owned(),
        confirmation_method: confirmation_method.to_owned(),
        description: params.owned("description")?,
        statement_descriptor_suffix: suffix(params)?,
        receipt_email: params.owned("receipt_email")?,
        transfer_group: params.owned("transfer_group")?,
        return_url: params.owned("return_url")?,
        off_session: false,
        canceled_at: None,
        cancellation_reason: None,
        metadata: params.metadata()?,
    })
}

/// Automatic payment methods, the default, or an explicit list that must contain cards.
pub(super) fn automatic(params: Params<'_>) -> Result<Option<String>, Refusal> {
    let types = params.list("payment_method_types")?;
    let automatic = params.nested("automatic_payment_methods")?;
    if let Some(given) = automatic {
        given.only(&["enabled", "allow_redirects"], &[])?;
        given.required("enabled")?;
        let redirects = given.choice("allow_redirects", &["always", "never"])?.unwrap_or("always");
        if given.flag("enabled")? {
            if !types.is_empty() {
                let message = "You may only specify one of these parameters: automatic_payment_methods, \
                               payment_method_types.";
                return Err(ApiError::invalid(message).coded("parameters_exclusive"));
            }
            return Ok(Some(redirects.to_owned()));
        }
    }
    if types.is_empty() && automatic.is_none() {
        return Ok(Some("always".to_owned()));
    }
    if !types.is_empty() && !types.contains(&"card") {
        let message = "The simulated Stripe charges cards only.";
        return Err(ApiError::parameter("payment_method_types", message));
    }
    Ok(None)
}

/// <https://docs.stripe.com/get-started/account/statement-descriptors>
fn suffix(params: Params<'_>) -> Result<Option<String>, Refusal> {
    let Some(suffix) = params.text("statement_descriptor_suffix")? else { return Ok(None) };
    let allowed = suffix.chars().count() <= 22
        && suffix.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !suffix.chars().any(|c| "<>\\'\"*".contains(c) || c.is_control());
    if !allowed {
        let message = "A statement descriptor suffix has at most 22 characters, one of them a letter, and none of \
                       < > \\ ' \" *";
        return Err(ApiError::parameter("statement_descriptor_suffix", message));
    }
    Ok(Some(suffix.to_owned()))
}

/// Combinations that Stripe refuses at the moment of confirmation.
fn check_confirmable(intent: &PaymentIntent, attempt: Attempt) -> Result<(), Refusal> {
    if attempt.off_session && intent.setup_future_usage.is_some() {
        return Err(ApiError::parameter(
            "off_session",
            "You cannot confirm with the off_session parameter when setup_future_usage is also set on the \
             PaymentIntent.",
        ));
    }
    let redirects = intent.automatic.as_deref() == Some("always");
    if redirects && intent.return_url.is_none() && !attempt.off_session {
        return Err(charging::without_return_url("PaymentIntent"));
    }
    Ok(())
}

/// `POST /v1/payment_intents/{id}/confirm`
pub(super) fn confirm(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    let names: Vec<&str> = SHARED
        .into_iter()
        .chain(["capture_method", "shipping", "payment_method_types", "client_secret"])
        .collect();
    params.only(&names, &REFUSED)?;
    let expand = Expand::read(params)?;
    let attempt = attempt(params, true)?;
    if params.text("capture_method")? == Some("manual") {
        let message = "The simulated Stripe captures at once; it does not do manual capture.";
        return Err(ApiError::parameter("capture_method", message));
    }
    let future_usage = params.choice("setup_future_usage", &FUTURE_USAGE)?.map(str::to_owned);
    let return_url = params.owned("return_url")?;
    let receipt_email = params.owned("receipt_email")?;
    let mut intent = books.intents.get(id).cloned().ok_or_else(|| ApiError::missing("payment_intent", id))?;
    let given = method(books, params)?;
    if !intent.status.is_open() {
        return Err(unexpected(books, &intent, "confirm"));
    }
    let stored = || intent.payment_method.as_deref().and_then(|id| books.methods.get(id)).cloned();
    let Some(method) = given.or_else(stored) else {
        return Err(without_method().with_intent(render::payment_intent(books, &intent)));
    };
    charging::check_method(&method, intent.customer.as_deref(), "PaymentIntent")?;
    intent.setup_future_usage = future_usage.or(intent.setup_future_usage);
    intent.return_url = return_url.or(intent.return_url);
    intent.receipt_email = receipt_email.or(intent.receipt_email);
    check_confirmable(&intent, attempt)?;
    let value = charging::charge(books, intent, method, attempt)?;
    Ok(expand.apply(books, value))
}

/// `POST /v1/payment_intents/{id}/cancel`
pub(super) fn cancel(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    const REASONS: [&str; 4] = ["abandoned", "duplicate", "fraudulent", "requested_by_customer"];
    params.only(&["cancellation_reason", "expand"], &[])?;
    let expand = Expand::read(params)?;
    let reason = params.choice("cancellation_reason", &REASONS)?.map(str::to_owned);
    let mut intent = books.intents.get(id).cloned().ok_or_else(|| ApiError::missing("payment_intent", id))?;
    if !intent.status.is_open() {
        return Err(unexpected(books, &intent, "cancel"));
    }
    intent.status = IntentStatus::Canceled;
    intent.canceled_at = Some(books.now());
    intent.cancellation_reason = reason;
    books.put(Record::PaymentIntent(Box::new(intent.clone())));
    let value = render::payment_intent(books, &intent);
    books.emit("payment_intent.canceled", &value, None);
    Ok(expand.apply(books, value))
}

fn unexpected(books: &Books, intent: &PaymentIntent, verb: &str) -> Refusal {
    charging::unexpected_status("PaymentIntent", verb, intent.status)
        .coded("payment_intent_unexpected_state")
        .with_intent(render::payment_intent(books, intent))
}

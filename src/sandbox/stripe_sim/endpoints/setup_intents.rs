//! SetupIntents: create, confirm, cancel, and the one place where an attempt gets its outcome.

use serde_json::Value;

use super::super::books::{Books, Record};
use super::super::cards::{Behaviour, Decline};
use super::super::error::{ApiError, Refusal};
use super::super::expand::Expand;
use super::super::issuer;
use super::super::objects::{Failure, IntentStatus, PaymentMethod};
use super::super::params::Params;
use super::super::render;
use super::super::setups::{AttemptStatus, SetupAttempt, SetupIntent, setup_intent};
use super::payment_intents::{FUTURE_USAGE, automatic, method};
use super::{charging, known_customer};

/// Parameters that create and confirm share.
const SHARED: [&str; 6] = [
    "expand",
    "payment_method",
    "return_url",
    // Read by Stripe, without effect on a card here.
    "mandate_data",
    "payment_method_options",
    "use_stripe_sdk",
];
const CREATE: [&str; 9] = [
    "confirm",
    "customer",
    "usage",
    "description",
    "metadata",
    "payment_method_types",
    "automatic_payment_methods",
    "allowed_payment_method_types",
    "excluded_payment_method_types",
];
/// Stripe's, and they would change what is set up: refused rather than ignored.
const REFUSED: [&str; 8] = [
    "attach_to_self",
    "confirmation_token",
    "customer_account",
    "flow_directions",
    "on_behalf_of",
    "payment_method_configuration",
    "payment_method_data",
    "single_use",
];
const AUTHENTICATION_FAILED: Decline = Decline {
    code: "setup_intent_authentication_failure",
    decline_code: None,
    advice_code: None,
    message: "The latest attempt to set up the payment method has failed because authentication failed.",
};

/// `POST /v1/setup_intents`
pub(super) fn create(books: &mut Books, params: Params<'_>) -> Result<Value, Refusal> {
    let names: Vec<&str> = SHARED.into_iter().chain(CREATE).collect();
    params.only(&names, &REFUSED)?;
    let expand = Expand::read(params)?;
    let confirm = params.flag("confirm")?;
    let method = method(books, params)?;
    let id = books.new_id("seti_1", 23)?;
    let mut setup = SetupIntent {
        client_secret: books.new_id(&format!("{id}_secret_"), 25)?,
        id,
        created: books.now(),
        status: IntentStatus::RequiresPaymentMethod,
        customer: known_customer(books, params)?,
        payment_method: None,
        latest_attempt: None,
        last_failure: None,
        usage: params.choice("usage", &FUTURE_USAGE)?.unwrap_or("off_session").to_owned(),
        automatic: automatic(params)?,
        description: params.owned("description")?,
        return_url: params.owned("return_url")?,
        cancellation_reason: None,
        metadata: params.metadata()?,
    };
    if !confirm && setup.return_url.is_some() {
        let message = "You can only set return_url when confirming the SetupIntent.";
        return Err(ApiError::parameter("return_url", message));
    }
    if let Some(method) = &method {
        charging::check_method(method, setup.customer.as_deref(), "SetupIntent")?;
        setup.payment_method = Some(method.id.clone());
        setup.status = IntentStatus::RequiresConfirmation;
    }
    let value = match (confirm, method) {
        (false, method) => {
            if let Some(method) = method {
                books.put(Record::PaymentMethod(Box::new(method)));
            }
            books.put(Record::SetupIntent(Box::new(setup.clone())));
            setup_intent(books, &setup)
        }
        (true, None) => return Err(without_method()),
        (true, Some(method)) => {
            check_confirmable(&setup)?;
            attempt(books, setup, method)?
        }
    };
    Ok(expand.apply(books, value))
}

fn without_method() -> Refusal {
    ApiError::state(
        "You cannot confirm this SetupIntent because it's missing a payment method. Update the SetupIntent with a \
         payment method and then confirm it again.",
    )
    .coded("setup_intent_unexpected_state")
}

fn check_confirmable(setup: &SetupIntent) -> Result<(), Refusal> {
    if setup.automatic.as_deref() == Some("always") && setup.return_url.is_none() {
        return Err(charging::without_return_url("SetupIntent"));
    }
    Ok(())
}

/// `POST /v1/setup_intents/{id}/confirm`
pub(super) fn confirm(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    let names: Vec<&str> = SHARED.into_iter().chain(["client_secret"]).collect();
    params.only(&names, &REFUSED)?;
    let expand = Expand::read(params)?;
    let return_url = params.owned("return_url")?;
    let mut setup = found(books, id)?;
    let given = method(books, params)?;
    check_open(books, &setup, "confirm")?;
    let stored = || setup.payment_method.as_deref().and_then(|id| books.methods.get(id)).cloned();
    let Some(method) = given.or_else(stored) else {
        return Err(without_method().with_setup(setup_intent(books, &setup)));
    };
    charging::check_method(&method, setup.customer.as_deref(), "SetupIntent")?;
    setup.return_url = return_url.or(setup.return_url);
    check_confirmable(&setup)?;
    let value = attempt(books, setup, method)?;
    Ok(expand.apply(books, value))
}

/// `POST /v1/setup_intents/{id}/cancel`
pub(super) fn cancel(books: &mut Books, id: &str, params: Params<'_>) -> Result<Value, Refusal> {
    params.only(&["cancellation_reason", "expand"], &[])?;
    let expand = Expand::read(params)?;
    let reason = params
        .choice("cancellation_reason", &["abandoned", "duplicate", "requested_by_customer"])?
        .map(str::to_owned);
    let mut setup = found(books, id)?;
    check_open(books, &setup, "cancel")?;
    abandon(books, &setup);
    setup.status = IntentStatus::Canceled;
    setup.cancellation_reason = reason;
    let value = keep(books, setup, "setup_intent.canceled");
    Ok(expand.apply(books, value))
}

fn found(books: &Books, id: &str) -> Result<SetupIntent, Refusal> {
    books.setups.get(id).cloned().ok_or_else(|| ApiError::missing("setupintent", id))
}

/// What can still be confirmed can still be canceled.
fn check_open(books: &Books, setup: &SetupIntent, verb: &str) -> Result<(), Refusal> {
    if setup.status.is_open() {
        return Ok(());
    }
    let refusal = charging::unexpected_status("SetupIntent", verb, setup.status);
    Err(refusal.coded("setup_intent_unexpected_state").with_setup(setup_intent(books, setup)))
}

/// Keeps a changed SetupIntent and says what happened to it.
fn keep(books: &mut Books, setup: SetupIntent, event: &str) -> Value {
    books.put(Record::SetupIntent(Box::new(setup.clone())));
    let value = setup_intent(books, &setup);
    books.emit(event, &value, None);
    value
}

/// An attempt that still waits is left.
fn abandon(books: &mut Books, setup: &SetupIntent) {
    let latest = setup.latest_attempt.as_deref().and_then(|id| books.attempts.get(id));
    if let Some(mut attempt) = latest.filter(|attempt| !attempt.status.is_over()).cloned() {
        attempt.status = AttemptStatus::Abandoned;
        books.put(Record::SetupAttempt(Box::new(attempt)));
    }
}

/// Asks the bank. Everything has been checked; from here on the result is remembered, whatever it is.
fn attempt(books: &mut Books, mut setup: SetupIntent, method: PaymentMethod) -> Result<Value, Refusal> {
    let mut attempt = SetupAttempt {
        id: books.new_id("setatt_1", 23)?,
        created: books.now(),
        setup_intent: setup.id.clone(),
        payment_method: method.id.clone(),
        customer: setup.customer.clone(),
        usage: setup.usage.clone(),
        status: AttemptStatus::Processing,
        failure: None,
        cvc_check: None,
        authenticated: None,
    };
    abandon(books, &setup);
    setup.payment_method = Some(method.id.clone());
    setup.latest_attempt = Some(attempt.id.clone());
    let behaviour = method.card.behaviour;
    // Unlike a charge, a setup asks the cardholder also when the payments will be off-session.
    let authenticates = behaviour.authenticates(false, false);
    if !authenticates && behaviour != Behaviour::Processing {
        return ask(books, setup, attempt, method);
    }
    books.put(Record::PaymentMethod(Box::new(method)));
    if authenticates {
        attempt.status = AttemptStatus::RequiresAction;
        setup.status = IntentStatus::RequiresAction;
        books.put(Record::SetupAttempt(Box::new(attempt)));
        return Ok(keep(books, setup, "setup_intent.requires_action"));
    }
    setup.status = IntentStatus::Processing;
    books.put(Record::SetupAttempt(Box::new(attempt)));
    books.put(Record::SetupIntent(Box::new(setup.clone())));
    Ok(setup_intent(books, &setup))
}

/// The bank's answer decides.
fn ask(
    books: &mut Books,
    setup: SetupIntent,
    mut attempt: SetupAttempt,
    method: PaymentMethod,
) -> Result<Value, Refusal> {
    attempt.cvc_check = issuer::cvc_check(books, &method.card);
    match issuer::decline_to_keep(books, &method.card) {
        Some(decline) => fail(books, setup, attempt, method, decline),
        None => Ok(succeed(books, setup, attempt, method)),
    }
}

/// The card is ready: it belongs to the customer, or to nobody yet. Unlike a charge this does not use it up.
fn succeed(
    books: &mut Books,
    mut setup: SetupIntent,
    mut attempt: SetupAttempt,
    mut method: PaymentMethod,
) -> Value {
    attempt.status = AttemptStatus::Succeeded;
    setup.status = IntentStatus::Succeeded;
    setup.last_failure = None;
    issuer::accepted(&mut method.card, attempt.cvc_check);
    method.card.set_up = true;
    method.customer = method.customer.or_else(|| setup.customer.clone());
    books.put(Record::PaymentMethod(Box::new(method)));
    books.put(Record::SetupAttempt(Box::new(attempt)));
    keep(books, setup, "setup_intent.succeeded")
}

/// The attempt failed: 402 with the SetupIntent, which waits for another PaymentMethod.
fn fail(
    books: &mut Books,
    mut setup: SetupIntent,
    mut attempt: SetupAttempt,
    method: PaymentMethod,
    decline: Decline,
) -> Result<Value, Refusal> {
    let failure = Failure::of(decline, &method.id);
    attempt.status = AttemptStatus::Failed;
    attempt.failure = Some(failure.clone());
    setup.status = IntentStatus::RequiresPaymentMethod;
    setup.payment_method = None;
    setup.last_failure = Some(failure);
    let method_value = render::payment_method(&method);
    books.put(Record::PaymentMethod(Box::new(method)));
    books.put(Record::SetupAttempt(Box::new(attempt)));
    let value = keep(books, setup, "setup_intent.setup_failed");
    Err(ApiError::card(decline.code, decline.message)
        .declined(decline.decline_code, decline.advice_code)
        .with_method(method_value)
        .with_setup(value))
}

/// Ends what waits: a slow outcome, or a cardholder's authentication. Not Stripe's; `/_sim/` offers it.
///
/// # Errors
/// When there is no such SetupIntent, or it does not wait.
pub(in super::super) fn finish(books: &mut Books, id: &str, succeeded: bool) -> Result<Value, Refusal> {
    let setup = found(books, id)?;
    let latest = setup.latest_attempt.as_deref().and_then(|id| books.attempts.get(id));
    let waiting = latest.filter(|attempt| !attempt.status.is_over()).cloned();
    let method = setup.payment_method.as_deref().and_then(|id| books.methods.get(id)).cloned();
    let (Some(mut attempt), Some(method)) = (waiting, method) else {
        let status = setup.status.word();
        return Err(ApiError::state(format!("This SetupIntent is {status}: there is nothing to finish.")));
    };
    let authenticates = attempt.status == AttemptStatus::RequiresAction;
    attempt.authenticated = authenticates.then_some(succeeded);
    let result = match (succeeded, authenticates) {
        (true, _) => ask(books, setup, attempt, method),
        (false, true) => fail(books, setup, attempt, method, AUTHENTICATION_FAILED),
        (false, false) => {
            let decline = Behaviour::GenericDecline.decline().unwrap_or(AUTHENTICATION_FAILED);
            fail(books, setup, attempt, method, decline)
        }
    };
    // The failure is the SetupIntent's new state, not this call's.
    match result {
        Err(error) if error.status != 402 => Err(error),
        _ => Ok(setup_intent(books, &found(books, id)?)),
    }
}

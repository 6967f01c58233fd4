//! Charging a card: the one place where a PaymentIntent gets its outcome.

use serde_json::{Value, json};

use super::super::books::{Books, NoRandomness, Record};
use super::super::cards::{Behaviour, Decline};
use super::super::error::{ApiError, Refusal};
use super::super::issuer::{self, CvcCheck};
use super::super::objects::{
    BalanceKind, BalanceTransaction, Charge, ChargeState, Failure, IntentStatus, PaymentIntent, PaymentMethod,
};
use super::super::render;
use super::later::LATER_SECONDS;
use super::{disputes, fraud_warnings};

/// How a confirmation is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// The customer is not there to authenticate.
    pub(super) off_session: bool,
    /// Fail rather than wait for the cardholder.
    pub(super) error_on_requires_action: bool,
}

const AUTHENTICATION: Decline = Decline {
    code: "authentication_required",
    decline_code: Some("authentication_required"),
    advice_code: None,
    message: "Your card was declined. This transaction requires authentication.",
};
const AUTHENTICATION_REFUSED: Decline = Decline {
    code: "authentication_required",
    decline_code: None,
    advice_code: None,
    message: "This payment required an authentication action to complete, but `error_on_requires_action` was set.",
};
const AUTHENTICATION_FAILED: Decline = Decline {
    code: "payment_intent_authentication_failure",
    decline_code: None,
    advice_code: None,
    message: "The provided PaymentMethod has failed authentication.",
};

/// The refusal of a PaymentMethod that was used up.
pub(super) fn single_use() -> Refusal {
    ApiError::state(
        "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, or was \
         detached from a Customer. It may not be used again. To use a PaymentMethod multiple times, you must attach it \
         to a Customer first.",
    )
    .at("payment_method")
}

/// Whether a PaymentMethod may be charged for that customer.
pub(super) fn check_method(
    method: &PaymentMethod,
    customer: Option<&str>,
    intent: &str,
) -> Result<(), Refusal> {
    if method.consumed {
        return Err(single_use());
    }
    match (method.customer.as_deref(), customer) {
        (None, _) => Ok(()),
        (Some(owner), Some(customer)) if owner == customer => Ok(()),
        (Some(_), None) => Err(ApiError::state(format!(
            "The PaymentMethod provided belongs to a Customer. Please include the Customer in the `customer` \
             parameter on the {intent}.",
        ))
        .at("payment_method")),
        (Some(_), Some(_)) => Err(ApiError::state(
            "The customer does not have this payment method. The payment method must be attached to the customer.",
        )
        .at("payment_method")),
    }
}

/// The refusal to confirm without a way back from a payment method's own page.
pub(super) fn without_return_url(intent: &str) -> Refusal {
    ApiError::invalid(format!(
        "This {intent} is configured to accept payment methods that may redirect your customer, so you must provide a \
         `return_url`. If you don't want that, set `automatic_payment_methods[enabled]` to `true` and \
         `automatic_payment_methods[allow_redirects]` to `never` when creating it.",
    ))
}

/// The refusal to confirm or cancel what is over, or under way.
pub(super) fn unexpected_status(intent: &str, verb: &str, status: IntentStatus) -> Refusal {
    ApiError::state(format!(
        "You cannot {verb} this {intent} because it has a status of {}. Only a {intent} with one of the following \
         statuses may be used: requires_payment_method, requires_confirmation, requires_action.",
        status.word()
    ))
}

/// Charges the card. Everything has been checked; from here on the result is remembered, whatever it is.
pub(super) fn charge(
    books: &mut Books,
    mut intent: PaymentIntent,
    method: PaymentMethod,
    attempt: Attempt,
) -> Result<Value, Refusal> {
    let behaviour = method.card.behaviour;
    intent.payment_method = Some(method.id.clone());
    intent.off_session = attempt.off_session;
    if behaviour.authenticates(attempt.off_session, method.card.set_up) {
        if attempt.off_session {
            return fail(books, intent, method, AUTHENTICATION, true);
        }
        if attempt.error_on_requires_action {
            return fail(books, intent, method, AUTHENTICATION_REFUSED, false);
        }
        intent.status = IntentStatus::RequiresAction;
        books.put(Record::PaymentMethod(Box::new(method)));
        return Ok(keep(books, intent, "payment_intent.requires_action"));
    }
    if let Some(decline) = issuer::decline(books, &method.card) {
        return fail(books, intent, method, decline, true);
    }
    if behaviour == Behaviour::Processing {
        let charge = new_charge(books, &intent, &method, ChargeState::Pending)?;
        intent.status = IntentStatus::Processing;
        intent.latest_charge = Some(charge.id.clone());
        let check = charge.cvc_check;
        books.put(Record::Charge(charge));
        settle_method(books, &intent, method, check);
        return Ok(keep(books, intent, "payment_intent.processing"));
    }
    succeed(books, intent, method)
}

/// Keeps a changed intent and says what happened to it.
fn keep(books: &mut Books, intent: PaymentIntent, event: &str) -> Value {
    books.put(Record::PaymentIntent(Box::new(intent.clone())));
    let value = render::payment_intent(books, &intent);
    books.emit(event, &value, None);
    value
}

fn new_charge(
    books: &Books,
    intent: &PaymentIntent,
    method: &PaymentMethod,
    state: ChargeState,
) -> Result<Charge, NoRandomness> {
    Ok(Charge {
        id: books.new_id("ch_3", 23)?,
        created: books.now(),
        payment_intent: intent.id.clone(),
        payment_method: method.id.clone(),
        customer: intent.customer.clone(),
        amount: intent.amount,
        amount_refunded: 0,
        currency: intent.currency.clone(),
        state,
        failure: None,
        balance_transaction: None,
        settles_at: None,
        disputed: false,
        amount_withdrawn: 0,
        cvc_check: issuer::cvc_check(books, &method.card),
    })
}

/// Stripe's fee: 2.9 % and 30 of the smallest unit, rounded half up, at most the amount.
fn fee(amount: i64) -> i64 {
    // An amount has eight digits at most, so nothing here can overflow.
    let proportion = (amount.saturating_mul(29).saturating_add(500)) / 1_000;
    proportion.saturating_add(30).min(amount)
}

/// Money moves. A pending charge of the intent is the one that becomes paid.
fn succeed(books: &mut Books, mut intent: PaymentIntent, method: PaymentMethod) -> Result<Value, Refusal> {
    let pending = intent.latest_charge.as_deref().and_then(|id| books.charges.get(id));
    let mut charge = match pending.filter(|charge| charge.state == ChargeState::Pending) {
        Some(charge) => charge.clone(),
        None => new_charge(books, &intent, &method, ChargeState::Succeeded)?,
    };
    charge.state = ChargeState::Succeeded;
    let transaction = if books.settings.late_balance_transactions {
        charge.settles_at = Some(books.now().saturating_add(LATER_SECONDS));
        None
    } else {
        Some(balance_of(books, &mut charge)?)
    };
    intent.status = IntentStatus::Succeeded;
    intent.amount_received = intent.amount;
    intent.latest_charge = Some(charge.id.clone());
    intent.last_failure = None;
    let behaviour = method.card.behaviour;
    books.put(Record::Charge(charge.clone()));
    if let Some(transaction) = transaction {
        books.put(Record::BalanceTransaction(transaction));
    }
    settle_method(books, &intent, method, charge.cvc_check);
    books.put(Record::PaymentIntent(Box::new(intent.clone())));
    let paid = render::charge(books, &charge);
    books.emit("charge.succeeded", &paid, None);
    let value = keep(books, intent, "payment_intent.succeeded");
    follow(books, &charge, behaviour)?;
    Ok(value)
}

/// The money of a paid charge, less Stripe's fee.
fn balance_of(books: &Books, charge: &mut Charge) -> Result<BalanceTransaction, NoRandomness> {
    let transaction = BalanceTransaction::new(
        books.new_id("txn_3", 23)?,
        books.now(),
        BalanceKind::Charge,
        (charge.amount, fee(charge.amount)),
        &charge.currency,
        &charge.id,
    );
    charge.balance_transaction = Some(transaction.id.clone());
    charge.settles_at = None;
    Ok(transaction)
}

/// What test cards bring about once they have paid.
fn follow(books: &mut Books, charge: &Charge, behaviour: Behaviour) -> Result<(), Refusal> {
    let (id, half) = (charge.id.as_str(), charge.amount / 2);
    match behaviour {
        Behaviour::DisputesFraud => {
            disputes::open(books, id, None, "fraudulent", disputes::Opening::Withdrawn)?
        }
        Behaviour::DisputesNotReceived => {
            disputes::open(books, id, None, "product_not_received", disputes::Opening::Withdrawn)?
        }
        Behaviour::DisputesInquiry => {
            disputes::open(books, id, None, "fraudulent", disputes::Opening::Inquiry)?
        }
        Behaviour::DisputesTwice => {
            if half > 0 {
                disputes::open(books, id, Some(half), "fraudulent", disputes::Opening::Withdrawn)?;
            }
            disputes::open(books, id, None, "fraudulent", disputes::Opening::Withdrawn)?
        }
        Behaviour::FraudWarning => fraud_warnings::warn(books, id, "misc")?,
        _ => Value::Null,
    };
    Ok(())
}

/// Brings the balance transaction of a paid charge that waits for it; without effect on any other charge.
pub(in super::super) fn settle(books: &mut Books, id: &str) -> Result<(), Refusal> {
    let Some(mut charge) = books.charges.get(id).filter(|charge| charge.settles_at.is_some()).cloned() else {
        return Ok(());
    };
    let transaction = balance_of(books, &mut charge)?;
    books.put(Record::BalanceTransaction(transaction));
    books.put(Record::Charge(charge.clone()));
    let value = render::charge(books, &charge);
    books.emit("charge.updated", &value, Some(&json!({ "balance_transaction": null })));
    Ok(())
}

/// After a charge a PaymentMethod belongs to the customer (`setup_future_usage`), or it is used up.
fn settle_method(
    books: &mut Books,
    intent: &PaymentIntent,
    mut method: PaymentMethod,
    check: Option<CvcCheck>,
) {
    issuer::accepted(&mut method.card, check);
    method.card.set_up |= intent.setup_future_usage.is_some();
    if method.customer.is_none() {
        match (&intent.setup_future_usage, &intent.customer) {
            (Some(_), Some(customer)) => method.customer = Some(customer.clone()),
            _ => method.consumed = true,
        }
    }
    books.put(Record::PaymentMethod(Box::new(method)));
}

/// The attempt failed: 402 with the PaymentIntent, which waits for another PaymentMethod.
fn fail(
    books: &mut Books,
    mut intent: PaymentIntent,
    method: PaymentMethod,
    decline: Decline,
    with_charge: bool,
) -> Result<Value, Refusal> {
    let mut failure = Failure::of(decline, &method.id);
    if with_charge {
        let pending = intent.latest_charge.as_deref().and_then(|id| books.charges.get(id));
        let mut charge = match pending.filter(|charge| charge.state == ChargeState::Pending) {
            Some(charge) => charge.clone(),
            None => new_charge(books, &intent, &method, ChargeState::Failed)?,
        };
        charge.state = ChargeState::Failed;
        failure.charge = Some(charge.id.clone());
        charge.failure = Some(failure.clone());
        intent.latest_charge = Some(charge.id.clone());
        books.put(Record::Charge(charge.clone()));
        let value = render::charge(books, &charge);
        books.emit("charge.failed", &value, None);
    }
    intent.status = IntentStatus::RequiresPaymentMethod;
    intent.payment_method = None;
    intent.last_failure = Some(failure.clone());
    let method_value = render::payment_method(&method);
    books.put(Record::PaymentMethod(Box::new(method)));
    let intent_value = keep(books, intent, "payment_intent.payment_failed");
    Err(ApiError::card(decline.code, decline.message)
        .declined(decline.decline_code, decline.advice_code)
        .with_charge(failure.charge.as_deref())
        .with_method(method_value)
        .with_intent(intent_value))
}

/// Ends what waits: a slow outcome, or a cardholder's authentication. Not Stripe's; `/_sim/` offers it.
///
/// # Errors
/// When there is no such PaymentIntent, or it does not wait.
pub(in super::super) fn finish(books: &mut Books, id: &str, succeeded: bool) -> Result<Value, Refusal> {
    let intent = books.intents.get(id).cloned().ok_or_else(|| ApiError::missing("payment_intent", id))?;
    let waiting = matches!(intent.status, IntentStatus::Processing | IntentStatus::RequiresAction);
    let method = intent.payment_method.as_deref().and_then(|id| books.methods.get(id)).cloned();
    let (true, Some(method)) = (waiting, method) else {
        let status = intent.status.word();
        return Err(ApiError::state(format!("This PaymentIntent is {status}: there is nothing to finish.")));
    };
    if succeeded {
        return succeed(books, intent, method);
    }
    let decline = match intent.status {
        IntentStatus::RequiresAction => AUTHENTICATION_FAILED,
        _ => Behaviour::GenericDecline.decline().unwrap_or(AUTHENTICATION_FAILED),
    };
    // The failure is the intent's new state, not this call's.
    match fail(books, intent, method, decline, true) {
        Err(error) if error.status != 402 => Err(error),
        _ => books
            .intents
            .get(id)
            .map(|intent| render::payment_intent(books, intent))
            .ok_or_else(|| ApiError::missing("payment_intent", id)),
    }
}

#[cfg(test)]
mod tests {
    use super::fee;

    #[test]
    fn fees_are_whole_and_never_more_than_the_amount() {
        for (amount, expected) in
            [(500, 45), (50, 31), (30, 30), (1_000, 59), (10_017, 320), (99_999_999, 2_900_030)]
        {
            assert_eq!(fee(amount), expected, "{amount}");
        }
    }
}

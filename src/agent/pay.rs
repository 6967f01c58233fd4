//! Paying by card. Two rules: the payment method is in the wallet before it is sent, and while its outcome is unknown it is
//! repeated and no other card is charged.

use std::time::Duration;

use hyper::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::domain::{ClientKey, PaymentMethodId, Units};
use crate::protocol::stripe402::{PAYMENT_REQUIRED, PaymentPayload, PaymentResponse, VERSION};

use super::budget::{self, CardPlan};
use super::card::{self, CardSource};
use super::http::{Answer, Outgoing, SendError};
use super::offer::{Offer, shown};
use super::verdict::{Verdict, judge};
use super::wallet::{Account, Pending};
use super::{Agent, AgentError, Paid};

/// How much of an error's body is read for its code, in bytes.
const MAX_PROBLEM: usize = 64 * 1024;

/// How often, and after what time, a payment whose outcome is unknown is repeated within one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts altogether, at least 1.
    pub attempts: u32,
    /// Before the second attempt, unless the server says `Retry-After`; doubled from then on.
    pub first_wait: Duration,
    /// The longest time between two attempts; a server that asks for more is left alone.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    /// Six attempts within about a minute.
    fn default() -> Self {
        Self { attempts: 6, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(30) }
    }
}

impl RetryPolicy {
    /// How long to wait after `attempt` (counted from 1). `None`: give up.
    fn wait(&self, attempt: u32, retry_after: Option<Duration>) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doubled =
            2u32.checked_pow(attempt.saturating_sub(1)).and_then(|n| self.first_wait.checked_mul(n));
        let own = doubled.unwrap_or(self.longest_wait).min(self.longest_wait);
        match retry_after {
            Some(asked) if asked > self.longest_wait => None,
            Some(asked) => Some(asked.max(own)),
            None => Some(own),
        }
    }
}

/// What came of one attempt.
struct Attempt {
    verdict: Verdict,
    answer: Option<Answer>,
    /// Nothing was sent at all.
    not_sent: bool,
    code: String,
    message: String,
    retry_after: Option<Duration>,
}

impl Agent {
    /// Repeats the request with a card until the outcome is known or patience ends.
    pub(super) async fn pay_by_card(
        &self,
        outgoing: &Outgoing,
        offer: &Offer,
        plan: CardPlan,
    ) -> Result<Paid, AgentError> {
        let mut unknown_before = plan.resume.is_some();
        let method = match plan.resume {
            Some(method) => {
                (self.say)("resuming the card payment whose outcome is unknown; no other card is charged");
                method
            }
            None => self.new_payment_method(offer).await?,
        };
        let payment = PaymentPayload {
            new_wallet: (self.new_wallet && plan.client.is_none()).then_some(true),
            ..payload(Some(&method), plan.client.as_ref(), Some(plan.top_up), self.max_units())
        };
        let pending = Pending {
            payment_method: method,
            top_up: plan.top_up,
            currency: offer.currency,
            maybe_spent: Units::ZERO,
        };
        let mut attempt_no = 0;
        loop {
            attempt_no += 1;
            self.record_attempt(outgoing, &pending, offer.price)?;
            let sent = self.http.send(outgoing, Some(&payment)).await;
            let attempt = read_attempt(sent, unknown_before).await;
            let (again, maybe_served) = match attempt.verdict {
                Verdict::Settled => {
                    return Ok(self.settle(outgoing, offer, &pending, attempt, unknown_before));
                }
                Verdict::ServedWithoutReceipt => return Ok(self.keep_pending(offer, attempt)),
                Verdict::NotCharged => return Err(self.give_up(outgoing, attempt)),
                Verdict::Unknown { again, maybe_served } => (again, maybe_served),
            };
            let account = self.undo_unless(maybe_served, outgoing, offer.price)?;
            // A card that is only being checked is not charged.
            unknown_before |= !attempt.not_sent && attempt.code != "card_check_pending";
            let may_repeat =
                budget::may_repeat(offer.price, &account, &pending_of(&account, &pending), &self.budget);
            match self.retry.wait(attempt_no, attempt.retry_after) {
                Some(wait) if again && may_repeat.is_ok() => {
                    (self.say)(&format!("{}; repeating the same payment", reason(&attempt)));
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(self.leave(outgoing, offer, unknown_before, &attempt)),
            }
        }
    }

    async fn new_payment_method(&self, offer: &Offer) -> Result<PaymentMethodId, AgentError> {
        let card = match &self.card {
            CardSource::PaymentMethod(method) => return Ok(method.clone()),
            CardSource::Test(card) => card.clone(),
            CardSource::File(path) => card::read_file(path, self.say)?,
            CardSource::Stdin => card::read_stdin()?,
            // `decide` asked whether there is one.
            CardSource::None => return Err(AgentError::Card(card::CardError::Form)),
        };
        Ok(self.stripe.tokenise(&offer.publishable_key, card).await?)
    }

    /// On disk before a byte is sent: after a crash the same payment method is repeated.
    fn record_attempt(
        &self,
        outgoing: &Outgoing,
        new: &Pending,
        price: Units,
    ) -> Result<Account, AgentError> {
        let recorded = self.wallet.update(outgoing.target.origin(), |account| {
            let pending = account.pending.get_or_insert_with(|| new.clone());
            pending.maybe_spent = sum(pending.maybe_spent, price);
        });
        Ok(recorded?)
    }

    /// An attempt that was certainly not served spent nothing.
    fn undo_unless(
        &self,
        maybe_served: bool,
        outgoing: &Outgoing,
        price: Units,
    ) -> Result<Account, AgentError> {
        let undone = self.wallet.update(outgoing.target.origin(), |account| {
            if let Some(pending) = account.pending.as_mut().filter(|_| !maybe_served) {
                let left = pending.maybe_spent.get().saturating_sub(price.get());
                pending.maybe_spent = Units::new(left).unwrap_or(Units::ZERO);
            }
        });
        Ok(undone?)
    }

    /// The money moved and the server says so. The answer is paid for: a wallet that cannot be written does not withhold it,
    /// and the payment stays recorded as pending, from which the next run learns the key.
    fn settle(
        &self,
        outgoing: &Outgoing,
        offer: &Offer,
        pending: &Pending,
        attempt: Attempt,
        unknown_before: bool,
    ) -> Paid {
        let receipt = attempt.answer.as_ref().and_then(|answer| answer.receipt.clone()).unwrap_or_default();
        let reported = receipt.top_up_amount.and_then(Units::new).unwrap_or(Units::ZERO);
        if reported > pending.top_up {
            (self.say)(&format!(
                "the server charged {} {}, more than the {} it was asked to charge",
                offer.currency.decimal(reported.to_micros()),
                offer.currency,
                offer.currency.decimal(pending.top_up.to_micros())
            ));
        }
        // A card that has a wallet there may be recognised, and not be charged. Only a server that names its entry is believed, and only
        // where no earlier attempt can have charged.
        let is_recognised = receipt.success
            && receipt.entry_id.is_some()
            && receipt.charge_id.is_none()
            && receipt.payment_id.is_none()
            && !unknown_before;
        let charged = if is_recognised { Units::ZERO } else { reported.max(pending.top_up) };
        if is_recognised {
            (self.say)("the server knows this card: its wallet has paid, and the card was not charged");
        }
        let written = self.wallet.update(outgoing.target.origin(), |account| {
            if let Some(key) = ClientKey::parse(&receipt.client_id) {
                account.remember_key(key);
                account.pending = None;
                account.add_charge(pending.currency, charged);
            }
            account.honours_max_amount = offer.honours_max_amount;
        });
        if let Err(error) = written {
            (self.say)(&format!("paid, but the key could not be remembered: {error}"));
        }
        Paid {
            answer: attempt.answer,
            offer: Some(offer.clone()),
            currency: Some(offer.currency),
            topped_up: (!is_recognised).then_some(charged),
        }
    }

    fn keep_pending(&self, offer: &Offer, attempt: Attempt) -> Paid {
        (self.say)(
            "served without a receipt; the payment is kept, and a later run repeats it to learn the key",
        );
        Paid {
            answer: attempt.answer,
            offer: Some(offer.clone()),
            currency: Some(offer.currency),
            topped_up: None,
        }
    }

    /// Refused for good: the payment method is forgotten.
    fn give_up(&self, outgoing: &Outgoing, attempt: Attempt) -> AgentError {
        if let Err(error) = self.wallet.update(outgoing.target.origin(), |account| account.pending = None) {
            return error.into();
        }
        if attempt.code == "card_has_wallet" {
            (self.say)(
                "this card has paid there before: use the wallet file that holds its key, or say --new-wallet",
            );
        }
        let status = attempt.answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        AgentError::Declined { status, code: attempt.code, message: attempt.message }
    }

    /// Out of patience. What never left this machine is forgotten; everything else waits in the wallet.
    fn leave(&self, outgoing: &Outgoing, offer: &Offer, unknown: bool, attempt: &Attempt) -> AgentError {
        if !unknown {
            return match self.wallet.update(outgoing.target.origin(), |account| account.pending = None) {
                Ok(_) => AgentError::NoAnswer { error: SendError::NotSent, may_have_spent: false },
                Err(error) => error.into(),
            };
        }
        AgentError::Unknown {
            why: reason(attempt),
            currency: offer.currency,
            retry_after: attempt.retry_after,
        }
    }
}

/// A payment for the wire.
pub(super) fn payload(
    method: Option<&PaymentMethodId>,
    client: Option<&ClientKey>,
    top_up: Option<Units>,
    max: Units,
) -> PaymentPayload {
    PaymentPayload {
        stripe402_version: VERSION,
        payment_method_id: method.map(|method| method.expose().to_owned()),
        client_id: client.map(|key| key.expose().to_owned()),
        top_up_amount: top_up.map(Units::get),
        max_amount: Some(max.get()),
        new_wallet: None,
    }
}

/// The recorded payment, which is there unless another program edited the wallet meanwhile.
fn pending_of(account: &Account, new: &Pending) -> Pending {
    account.pending.clone().unwrap_or_else(|| new.clone())
}

fn sum(a: Units, b: Units) -> Units {
    // Beyond the range nothing can be bought anyway; the larger amount errs for the holder.
    a.get().checked_add(b.get()).and_then(Units::new).unwrap_or(a.max(b))
}

fn reason(attempt: &Attempt) -> String {
    match (attempt.code.as_str(), attempt.message.as_str()) {
        ("", message) => message.to_owned(),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    }
}

async fn read_attempt(sent: Result<Answer, SendError>, unknown_before: bool) -> Attempt {
    let mut answer = match sent {
        Ok(answer) => answer,
        Err(error) => {
            let not_sent = error == SendError::NotSent;
            return Attempt {
                verdict: Verdict::Unknown { again: true, maybe_served: !not_sent },
                answer: None,
                not_sent,
                code: String::new(),
                message: error.to_string(),
                retry_after: None,
            };
        }
    };
    let (code, message) = problem(&mut answer).await;
    let verdict = judge(answer.status, answer.receipt.as_ref(), &code, unknown_before);
    let retry_after = retry_after(&answer.headers);
    let message =
        if message.is_empty() { format!("the server answered {}", answer.status.as_u16()) } else { message };
    Attempt { verdict, answer: Some(answer), not_sent: false, code, message, retry_after }
}

/// The fields of an error body that we know, ours and the public protocol's.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Problem {
    code: Option<String>,
    error_code: Option<String>,
    message: Option<String>,
    detail: Option<String>,
}

/// The stable code and the sentence of an error answer; both empty for any other.
pub(crate) async fn problem(answer: &mut Answer) -> (String, String) {
    if !answer.status.is_client_error() && !answer.status.is_server_error() {
        return (String::new(), String::new());
    }
    let body: Problem = serde_json::from_slice(&answer.peek(MAX_PROBLEM).await).unwrap_or_default();
    let offer =
        answer.headers.get(PAYMENT_REQUIRED).and_then(|value| Offer::from_header(value.as_bytes()).ok());
    let (offer_code, offer_message) = offer.map(|offer| (offer.code, offer.message)).unwrap_or_default();
    let receipt = answer.receipt.as_ref();
    let receipt_text =
        |field: fn(&PaymentResponse) -> &Option<String>| receipt.and_then(|r| field(r).clone());
    let code = receipt_text(|r| &r.error_code).or(body.code).or(body.error_code).unwrap_or(offer_code);
    let message = receipt_text(|r| &r.error).or(body.message).or(body.detail).unwrap_or(offer_message);
    (shown(&code), shown(&message))
}

/// `Retry-After` in seconds; the form with a date is not used by servers that speak this protocol.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_bounded() {
        let policy = RetryPolicy { attempts: 5, ..RetryPolicy::default() };
        let seconds = Duration::from_secs;
        for (attempt, retry_after, expected) in [
            (1, None, Some(1)),
            (2, None, Some(2)),
            (4, None, Some(8)),
            (5, None, None),
            (1, Some(7), Some(7)),
            (4, Some(0), Some(8)),
            (1, Some(30), Some(30)),
            (1, Some(31), None),
        ] {
            let wait = policy.wait(attempt, retry_after.map(seconds));
            assert_eq!(wait, expected.map(seconds), "attempt {attempt}, {retry_after:?}");
        }
    }
}

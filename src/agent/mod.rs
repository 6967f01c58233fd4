//! The paying client behind `prepaid402 get`.
//!
//! It sends a request; a 402 is answered from the balance at that server, or, within a budget, from a card:
//! [`http`] sends, [`offer`] reads what is asked for, [`budget`] decides, [`pay`] pays by card through [`tokenise`],
//! [`verdict`] reads the outcome, [`wallet`] remembers.
//!
//! What holds, whatever a server answers:
//! 1. Nothing is charged beyond the budget, and the total per server survives in the wallet.
//! 2. A payment method is on disk before it is sent; while its outcome is unknown, no other card is charged.
//! 3. Card data goes to Stripe and nowhere else; the address comes from the holder, never from an answer.
//! 4. A key or payment goes to the origin it belongs to; redirects are not followed.
//!
//! The seller, not this program, charges the card: the budget binds honest sellers and mistakes. Whoever holds a payment
//! method can charge it, so give agents a card that has a limit of its own.

pub mod budget;
pub mod card;
pub mod http;
pub mod offer;
pub mod pay;
pub mod tokenise;
pub mod verdict;
pub mod wallet;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use crate::domain::{ClientKey, Currency, Micros, Units, decimal_in};
use crate::protocol::stripe402::PAYMENT_REQUIRED;

use budget::{Budget, Decision, Refusal, decide};
use card::{CardError, CardSource};
use http::{Answer, Http, Outgoing, SendError};
use offer::{Offer, OfferError};
use pay::RetryPolicy;
use tokenise::{StripeBase, TokeniseError};
use wallet::{Account, Wallet, WalletError};

/// Recognised by servers: a repeated request with the same value is not executed twice.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How often one call may go round: key, lock, key of another run, card.
const MAX_ROUNDS: u32 = 5;

/// A client that pays within a budget.
#[derive(Debug)]
pub struct Agent {
    /// Sends.
    pub http: Http,
    /// Remembers.
    pub wallet: Wallet,
    /// Where cards are tokenised.
    pub stripe: StripeBase,
    /// What may be spent.
    pub budget: Budget,
    /// What pays for top-ups.
    pub card: CardSource,
    /// Pay into a new wallet, although the card has one there already.
    pub new_wallet: bool,
    /// How long an unknown outcome is waited for.
    pub retry: RetryPolicy,
    /// Tells the holder what is going on; the text holds no secrets.
    pub say: fn(&str),
}

/// An answer, and what it took.
#[derive(Debug)]
pub struct Paid {
    /// The server's last answer.
    answer: Option<Answer>,
    /// The last offer, when there was one.
    pub offer: Option<Offer>,
    /// What the amounts of the answer are in, when it is known.
    pub currency: Option<Currency>,
    /// What was charged to a card for it.
    pub topped_up: Option<Units>,
}

impl Paid {
    /// The answer; it was not taken before.
    ///
    /// # Errors
    /// [`SendError::Lost`] when there is none.
    pub fn take_answer(&mut self) -> Result<Answer, SendError> {
        self.answer.take().ok_or(SendError::Lost)
    }
}

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// We do not pay.
    #[error("not paid: {0}")]
    Refused(Refusal),
    /// The server asks for something that makes no sense.
    #[error("not paid: {0}")]
    Offer(#[from] OfferError),
    /// The server refuses the card.
    #[error("the card payment was refused, and nothing was charged{}: {message}", in_brackets(code))]
    Declined {
        /// HTTP status.
        status: u16,
        /// Stable code.
        code: String,
        /// The server's sentence.
        message: String,
    },
    /// The card may have been charged.
    #[error("the outcome of the card payment is unknown ({why}). Run the same command again{}: it repeats the same payment and does not pay twice", after(*retry_after))]
    Unknown {
        /// What happened last.
        why: String,
        /// Of the payment.
        currency: Currency,
        /// When the server wants to be asked again.
        retry_after: Option<std::time::Duration>,
    },
    /// No answer, and no card was involved.
    #[error("{error}{}", if *may_have_spent { "; the request may have been served and paid from the balance" } else { "; nothing was paid" })]
    NoAnswer {
        /// How it failed.
        error: SendError,
        /// Whether the request carried a key.
        may_have_spent: bool,
    },
    /// The wallet cannot be used.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The card cannot be read.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The card cannot be tokenised.
    #[error(transparent)]
    Tokenise(#[from] TokeniseError),
}

fn in_brackets(code: &str) -> String {
    if code.is_empty() { String::new() } else { format!(" ({code})") }
}

fn after(wait: Option<std::time::Duration>) -> String {
    wait.map_or_else(String::new, |wait| format!(" after {} seconds", wait.as_secs()))
}

impl Agent {
    /// Sends a request and pays for it when it must and may.
    ///
    /// # Errors
    /// [`AgentError`] tells whether money moved.
    pub async fn send(&self, mut outgoing: Outgoing) -> Result<Paid, AgentError> {
        if !outgoing.method.is_safe() && !outgoing.headers.contains_key(&IDEMPOTENCY_KEY) {
            let value = HeaderValue::from_str(&uuid::Uuid::new_v4().hyphenated().to_string());
            outgoing.headers.extend(value.ok().map(|value| (IDEMPOTENCY_KEY, value)));
        }
        let origin = outgoing.target.origin();
        let mut account = self.wallet.account(origin)?;
        // Without a 402 first, where the server itself refuses a price above our limit.
        let mut presented = account.client_key.clone().filter(|_| account.honours_max_amount);
        let mut answer = self.ask(&outgoing, presented.as_ref()).await?;
        let mut lock = None;
        let mut last_offer = None;
        for _ in 0..MAX_ROUNDS {
            self.remember(&outgoing, &account, &answer)?;
            let Some(offer) = read_offer(&answer)? else { break };
            if account.client_key.is_some() && offer.honours_max_amount != account.honours_max_amount {
                let honours = offer.honours_max_amount;
                account = self.wallet.update(origin, |account| account.honours_max_amount = honours)?;
            }
            match decide(&offer, &account, presented.as_ref(), &self.budget, self.card.exists()) {
                Decision::Refuse(refusal) => return Err(AgentError::Refused(refusal)),
                Decision::Spend(key) => {
                    answer = self.ask(&outgoing, Some(&key)).await?;
                    presented = Some(key);
                }
                Decision::Card(_) if lock.is_none() => {
                    lock = Some(self.wallet.lock_payments(origin).await?);
                    let fresh = self.wallet.account(origin)?;
                    // Another run paid meanwhile: what it bought is tried before a card.
                    if fresh != account {
                        account = fresh;
                        presented = None;
                    }
                }
                Decision::Card(plan) => return self.pay_by_card(&outgoing, &offer, plan).await,
            }
            last_offer = Some(offer);
        }
        // A client has one currency: without an offer it is the one in which its credit was bought.
        let known = account.charged.keys().next().and_then(|code| code.parse().ok());
        let currency = last_offer.as_ref().map(|offer| offer.currency).or(known);
        Ok(Paid { answer: Some(answer), offer: last_offer, currency, topped_up: None })
    }

    /// Gives up a payment whose outcome is unknown. Its amount stays in the total, as it may have been charged.
    ///
    /// # Errors
    /// [`WalletError`] when the wallet cannot be written.
    pub async fn forget_pending(&self, origin: &http::Origin) -> Result<(), WalletError> {
        let _lock = self.wallet.lock_payments(origin).await?;
        self.wallet.update(origin, |account| {
            if let Some(pending) = account.pending.take() {
                account.add_charge(pending.currency, pending.top_up);
            }
        })?;
        Ok(())
    }

    /// Sends the request, with a key or with nothing.
    async fn ask(&self, outgoing: &Outgoing, key: Option<&ClientKey>) -> Result<Answer, AgentError> {
        let payment = key.map(|key| pay::payload(None, Some(key), None, self.max_units()));
        let sent = self.http.send(outgoing, payment.as_ref()).await;
        sent.map_err(|error| AgentError::NoAnswer {
            error,
            may_have_spent: key.is_some() && error != SendError::NotSent,
        })
    }

    /// `maxAmount`: rounded down, so that the server is never stricter than we are, nor laxer.
    fn max_units(&self) -> Units {
        self.budget.max_price.to_units_floor()
    }

    /// Keeps the key of any receipt, and stops trusting a server that ignored `maxAmount`.
    fn remember(&self, outgoing: &Outgoing, account: &Account, answer: &Answer) -> Result<(), AgentError> {
        let Some(receipt) = &answer.receipt else { return Ok(()) };
        let key = ClientKey::parse(&receipt.client_id).filter(|key| account.client_key.as_ref() != Some(key));
        let charged = receipt.credits_charged.and_then(Units::new).unwrap_or(Units::ZERO);
        let too_much = charged > self.budget.max_price.to_units_ceil();
        if too_much {
            // A client has one currency: the one in which its credit was bought.
            let code = account.charged.keys().next().map_or("", String::as_str);
            let shown = |amount: Micros| {
                format!("{} {code}", decimal_in(amount.get().unsigned_abs(), code)).trim_end().to_owned()
            };
            let (charged, limit) = (shown(charged.to_micros()), shown(self.budget.max_price));
            (self.say)(&format!(
                "the server deducted {charged} for this request, more than the limit of {limit}"
            ));
        }
        if key.is_some() || too_much {
            self.wallet.update(outgoing.target.origin(), |account| {
                account.honours_max_amount &= !too_much;
                if let Some(key) = key {
                    account.remember_key(key);
                }
            })?;
        }
        Ok(())
    }
}

/// The offer of a 402. `None` when the answer is no 402, or one without the header, which only its sender understands.
fn read_offer(answer: &Answer) -> Result<Option<Offer>, OfferError> {
    if answer.status != StatusCode::PAYMENT_REQUIRED {
        return Ok(None);
    }
    answer.headers.get(PAYMENT_REQUIRED).map(|value| Offer::from_header(value.as_bytes())).transpose()
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

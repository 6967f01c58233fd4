//! Every reason why a priced request is not served, with its answer: one table.

use crate::domain::TopUpId;
use crate::ledger::ClientState;
use crate::protocol::{self, Unreadable};
use crate::shield::{Barred, Limit};
use crate::top_up::{AmountProblem, FailureReason};

/// Why a priced request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No payment was presented.
    PaymentRequired,
    /// The client's credit does not cover the price.
    InsufficientCredits,
    /// The presented clientId was never issued.
    UnknownClient,
    /// The bank said no.
    CardDeclined,
    /// The bank wants the person.
    AuthenticationRequired,
    /// The price is above the caller's `maxAmount`.
    PriceAboveMax,
    /// The top-up is smaller than what lets the request through.
    TopUpBelowMinimum,
    /// The `payment` header cannot be used; the text says why and never repeats it.
    InvalidPayment(String),
    /// A raw card number was sent to us.
    RawCardData,
    /// The charge did not go through, for a reason that is not the card's.
    PaymentFailed,
    /// The client is frozen.
    ClientFrozen,
    /// The client's debt, and the price, are more than one top-up may be.
    DebtAboveMaximum,
    /// The client holds so much that no top-up fits.
    WalletFull,
    /// The presented clientId was revoked.
    KeyRevoked,
    /// The presented clientId may not spend.
    Scope,
    /// The same card is being charged at this moment.
    TopUpInProgress,
    /// The upstream answered, but the credit was gone by then.
    CaptureFailed,
    /// The upstream answered, but whether the charge for it is in the books is not known.
    CaptureUnknown,
    /// The same, when the answer is stored with the charge: repeating the request finds out.
    CaptureUnknownKept,
    /// The card token leads to another client than the presented clientId.
    PaymentMethodOfOtherClient,
    /// The card has founded a wallet, and to charge it for another one may pay twice for one purchase.
    CardHasWallet,
    /// It is not known whether the bank confirms the card.
    CardCheckPending,
    /// Too many attempts to pay: whose, and for so many seconds.
    TooManyAttempts(Limit, u32),
    /// New payers are not let through, for so many seconds.
    NewPayersPaused(u32),
    /// The credit suffices, but running requests have reserved it.
    ReservationsInFlight,
    /// A charge's outcome is not known yet.
    TopUpPending(TopUpId),
    /// The seller has given the Stripe account up in which a charge of unknown outcome was begun.
    FormerStripeAccount,
    /// The request of this `Idempotency-Key` is running.
    IdempotencyInFlight,
    /// The `Idempotency-Key` was used for a request with another query or body, or with other headers that matter.
    IdempotencyMismatch,
    /// The request of this `Idempotency-Key` was charged, and its answer is not kept.
    IdempotencyAnswerLost,
    /// The request of this `Idempotency-Key` was interrupted; nothing is charged, but the upstream may have worked.
    IdempotencyOutcomeUnknown,
    /// The `Idempotency-Key` cannot be one.
    InvalidIdempotencyKey(&'static str),
    /// The API behind the gateway cannot be reached, so no card is charged for it.
    UpstreamUnreachable,
    /// Something of ours is overloaded or away; nothing was charged by this request.
    Busy,
}

/// Who can do something about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhoActs {
    /// The calling program.
    Agent,
    /// The person behind it.
    Human,
    /// Whoever runs the gateway.
    Seller,
}

impl WhoActs {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Human => "human",
            Self::Seller => "seller",
        }
    }
}

/// What a refusal looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Stable.
    pub code: &'static str,
    /// Whether repeating the same request can help.
    pub retryable: bool,
    /// Who can do something about it.
    pub who_acts: WhoActs,
    /// A sentence.
    pub message: &'static str,
    /// Seconds to wait, on 429 and 503.
    pub retry_after: Option<u32>,
}

/// What a program that repeats requests by itself is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeating {
    /// Whether the same request can succeed within a minute, without anybody having to do something, and without another charge.
    pub helps: bool,
    /// Seconds to wait.
    pub after: Option<u32>,
}

/// The longest that programs are told to wait: some sleep for as long as they are told.
const MAX_RETRY_AFTER: u32 = 3_600;
/// The longest that is worth waiting for inside a call.
const SOON: u32 = 60;

impl Answer {
    /// Whether to repeat the request, and when: the one decision for every refusal.
    #[must_use]
    pub fn repeating(&self) -> Repeating {
        // What the seller has to mend is not mended within a call; an API that is away may be back.
        let is_mended = self.who_acts != WhoActs::Seller || self.status >= 500;
        let is_soon = self.retry_after.is_none_or(|seconds| seconds <= SOON);
        Repeating {
            helps: self.retryable && is_mended && is_soon,
            after: self.retry_after.map(|seconds| seconds.min(MAX_RETRY_AFTER)),
        }
    }
}

const fn row(
    status: u16,
    code: &'static str,
    retryable: bool,
    who_acts: WhoActs,
    retry_after: Option<u32>,
    message: &'static str,
) -> Answer {
    Answer { status, code, retryable, who_acts, message, retry_after }
}

impl Refusal {
    /// The table of answers.
    #[must_use]
    pub fn answer(&self) -> Answer {
        use WhoActs::{Agent, Human, Seller};
        match self {
            Self::PaymentRequired => row(
                402,
                "payment_required",
                false,
                Agent,
                None,
                "This request costs money. Tokenise a card directly with Stripe using publishableKey, and repeat the request with a payment header that holds paymentMethodId; or send the clientId of a wallet with credit.",
            ),
            Self::InsufficientCredits => row(
                402,
                "insufficient_credits",
                false,
                Agent,
                None,
                "The credit does not cover the price. Repeat the request with the clientId and a paymentMethodId to top up.",
            ),
            Self::UnknownClient => row(
                402,
                "unknown_client",
                false,
                Agent,
                None,
                "This clientId was never issued here. Nothing was charged. Forget it, and pay without a clientId.",
            ),
            Self::CardDeclined => row(
                402,
                "card_declined",
                false,
                Human,
                None,
                "The card was declined. Nothing was charged. Use another card.",
            ),
            Self::AuthenticationRequired => row(
                402,
                "authentication_required",
                false,
                Human,
                None,
                "The bank wants the cardholder to confirm this payment (3-D Secure). Nothing was charged. Use a card that does not ask for it.",
            ),
            Self::PriceAboveMax => row(
                402,
                "price_above_max",
                false,
                Agent,
                None,
                "The price is above maxAmount. Nothing was charged. Raise maxAmount if the price is acceptable.",
            ),
            Self::TopUpBelowMinimum => row(
                402,
                "top_up_below_minimum",
                false,
                Agent,
                None,
                "topUpAmount is below minTopUp. Nothing was charged. Use minTopUp or more.",
            ),
            Self::InvalidPayment(_) => row(
                402,
                "invalid_payment",
                false,
                Agent,
                None,
                "The payment cannot be used. Nothing was charged.",
            ),
            Self::RawCardData => row(
                400,
                "raw_card_data_rejected",
                false,
                Agent,
                None,
                "A card number must never be sent here. Tokenise the card directly with Stripe, and send the pm_ id. Nothing was charged or stored.",
            ),
            Self::PaymentFailed => row(
                402,
                "payment_failed",
                true,
                Seller,
                None,
                "Stripe did not accept the seller's request. Nothing was charged.",
            ),
            Self::ClientFrozen => {
                row(403, "client_frozen", false, Human, None, "This wallet is frozen. Ask the seller.")
            }
            Self::DebtAboveMaximum => row(
                403,
                "debt_above_maximum",
                false,
                Agent,
                None,
                "The wallet's debt and the price are together more than one top-up may be. Nothing was charged. Repay the debt in parts, by POST /billing/top-ups with the clientId, as often as needed; then repeat the request.",
            ),
            Self::WalletFull => row(
                409,
                "wallet_full",
                false,
                Agent,
                None,
                "The wallet holds so much that no top-up fits in. Nothing was charged. Spend some of it first.",
            ),
            Self::KeyRevoked => {
                row(403, "key_revoked", false, Human, None, "This clientId has been revoked.")
            }
            Self::Scope => row(403, "scope", false, Agent, None, "This clientId may read, but not spend."),
            Self::TopUpInProgress => row(
                409,
                "topup_in_progress",
                true,
                Agent,
                None,
                "The same card or wallet is being charged at this moment. Repeat the request shortly.",
            ),
            Self::CaptureFailed => row(
                409,
                "capture_failed",
                false,
                Agent,
                None,
                "The API did its work, but the credit was gone before it could be charged. Nothing was charged or delivered.",
            ),
            Self::CaptureUnknown => row(
                503,
                "capture_unknown",
                false,
                Agent,
                Some(5),
                "The API did its work, but its charge could not be confirmed. Nothing was delivered, and nothing stays charged for it. Repeating the request makes the API work again.",
            ),
            Self::CaptureUnknownKept => row(
                503,
                "capture_unknown",
                true,
                Agent,
                Some(5),
                "The API did its work, but whether its charge is in the books is not known yet. Nothing was delivered. Repeat the request with the same Idempotency-Key: it is charged once at most, and if it was charged, you get its answer.",
            ),
            Self::PaymentMethodOfOtherClient => row(
                409,
                "payment_method_of_other_client",
                false,
                Agent,
                None,
                "This paymentMethodId belongs to another wallet. Nothing was charged. Send that wallet's clientId, or tokenise the card anew.",
            ),
            Self::CardHasWallet => row(
                409,
                "card_has_wallet",
                false,
                Agent,
                None,
                "This card has paid here before, and to charge it again could pay twice for the same thing. Nothing was charged. Send the clientId that you were given, or the paymentMethodId that has paid first; or send newWallet: true to pay into a new wallet.",
            ),
            Self::CardCheckPending => row(
                503,
                "card_check_pending",
                true,
                Agent,
                Some(5),
                "Whether the bank confirms the card is not known yet. Nothing was charged. Repeat the same request with the same paymentMethodId.",
            ),
            Self::TooManyAttempts(limit, seconds) => {
                row(429, "too_many_attempts", true, Agent, Some(*seconds), words(*limit))
            }
            Self::NewPayersPaused(seconds) => row(
                503,
                "new_payers_paused",
                true,
                Agent,
                Some(*seconds),
                "New payers are not accepted for some minutes. Nothing was charged, and the card was not tried. If you were given a clientId, send it; otherwise repeat the request later, not before the seconds in Retry-After have passed.",
            ),
            Self::ReservationsInFlight => row(
                429,
                "reservations_in_flight",
                true,
                Agent,
                Some(1),
                "Requests that are still running have reserved the credit, or too many run at once. Repeat the request when one of them has ended.",
            ),
            Self::TopUpPending(_) => row(
                503,
                "topup_pending",
                true,
                Agent,
                Some(5),
                "The outcome of a charge is not known yet. Do not pay again: repeat the same request, and the charge is found, credited once and spent.",
            ),
            Self::FormerStripeAccount => row(
                409,
                "former_stripe_account",
                false,
                Human,
                None,
                "The seller has moved to another Stripe account before the outcome of this charge was known. Ask the seller whether the card was charged; it is not credited here.",
            ),
            Self::IdempotencyInFlight => row(
                409,
                "idempotency_in_flight",
                true,
                Agent,
                Some(1),
                "The request with this Idempotency-Key is still running. Repeat it shortly to get its answer; it is charged once.",
            ),
            Self::IdempotencyMismatch => row(
                422,
                "idempotency_mismatch",
                false,
                Agent,
                None,
                "This Idempotency-Key was used for a request with another query, another body or other headers. Nothing was charged now. Use a new key for a new request.",
            ),
            Self::IdempotencyAnswerLost => row(
                409,
                "idempotency_answer_lost",
                false,
                Agent,
                None,
                "The request with this Idempotency-Key was served and charged, and its answer was too large to be kept. Nothing was charged now. Use a new key to have it served, and charged, once more.",
            ),
            Self::IdempotencyOutcomeUnknown => row(
                409,
                "idempotency_outcome_unknown",
                false,
                Human,
                None,
                "The request with this Idempotency-Key was interrupted. Nothing is charged for it, but the API may have done its work. Find out, and use a new key if it is to be done.",
            ),
            Self::InvalidIdempotencyKey(_) => row(
                400,
                "invalid_idempotency_key",
                false,
                Agent,
                None,
                "The Idempotency-Key cannot be used. Nothing was charged.",
            ),
            Self::UpstreamUnreachable => row(
                502,
                "upstream_unreachable",
                true,
                Seller,
                None,
                "The API behind the gateway cannot be reached, so the card was not charged. Repeat the request later.",
            ),
            Self::Busy => row(
                503,
                "busy",
                true,
                Agent,
                Some(2),
                "The gateway cannot serve this request at the moment. Nothing was charged for it. Repeat it shortly.",
            ),
        }
    }

    /// The sentence for this very refusal.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::InvalidPayment(why) => format!("{} {why}", self.answer().message),
            Self::InvalidIdempotencyKey(why) => format!("{} {why}", self.answer().message),
            other => other.answer().message.to_owned(),
        }
    }

    /// The sentence for whoever has shown whose wallet it is.
    #[must_use]
    pub fn message_for(&self, state: Option<&ClientState>) -> String {
        match (self, state) {
            (Self::InsufficientCredits, Some(state)) if !state.debt.is_zero() => "A debt has to be repaid before anything can be spent. Repeat the request with the clientId and a paymentMethodId: the top-up repays it first."
                .to_owned(),
            _ => self.message(),
        }
    }

    /// As protocols tell it, with what keeps the wallet from spending.
    #[must_use]
    pub fn told(&self, state: Option<&ClientState>) -> protocol::Refusal {
        let answer = self.answer();
        protocol::Refusal {
            code: answer.code,
            message: super::offer::with_standing(&self.message_for(state), state),
            retryable: answer.retryable,
            who_acts: answer.who_acts.word(),
            payable: answer.status == 402,
            is_first: *self == Self::PaymentRequired,
        }
    }
}

/// What helps whoever has made too many attempts. A clientId is asked for where none was sent, and only there.
const fn words(limit: Limit) -> &'static str {
    match limit {
        Limit::Network => {
            "Too many attempts to pay have failed from this network. Nothing was charged, and the card was not tried. If you were given a clientId, send it; otherwise repeat the request later, not before the seconds in Retry-After have passed."
        }
        Limit::Card { is_of_client: false } => {
            "This card was refused too often within a day. Nothing was charged, and it was not tried again. If it has paid for a wallet, send its clientId as well; otherwise use another card, or repeat the request later, not before the seconds in Retry-After have passed."
        }
        Limit::Card { is_of_client: true } => {
            "This card was refused too often within a day. Nothing was charged, and it was not tried again. Use another card, or repeat the request later, not before the seconds in Retry-After have passed."
        }
        Limit::Client { may_try_another: true } => {
            "Too many cards were tried for this wallet within a day, and this one was declined for it. Nothing was charged, and the card was not tried. Use a card that has paid for this wallet, or one that was not declined for it; or repeat the request later, not before the seconds in Retry-After have passed."
        }
        Limit::Client { may_try_another: false } => {
            "Too many cards were tried for this wallet within a day. Nothing was charged, and the card was not tried. Use a card that has paid for this wallet, or repeat the request later, not before the seconds in Retry-After have passed."
        }
        Limit::ClientAttempts => {
            "Too many attempts to pay for this wallet have led to nothing within an hour. Nothing was charged, and the card was not tried. Use a paymentMethodId that has paid for this wallet, or repeat the request later, not before the seconds in Retry-After have passed."
        }
        Limit::Token => {
            "This paymentMethodId was charged as often as it is in a day without a clientId. Nothing was charged now. Send the wallet's clientId with it, or repeat the request later, not before the seconds in Retry-After have passed."
        }
    }
}

/// Why nothing can be spent of what a wallet holds, in words. `None`: it can be spent.
#[must_use]
pub fn frozen_words(state: &ClientState) -> Option<String> {
    let text = |amount| state.currency.text(amount);
    let (holds, owes) = (text(state.credit()), text(state.debt));
    match (state.frozen, !state.debt.is_zero()) {
        (false, false) => None,
        (true, false) => {
            Some(format!("The wallet is frozen: it holds {holds}, of which nothing can be spent."))
        }
        (false, true) => Some(format!(
            "The wallet is frozen by a debt of {owes}, for a payment that was taken back after it had been spent: it holds {holds}, of which nothing can be spent until the debt is repaid."
        )),
        (true, true) => Some(format!(
            "The wallet is frozen, and it owes {owes}: it holds {holds}, of which nothing can be spent."
        )),
    }
}

impl From<FailureReason> for Refusal {
    fn from(reason: FailureReason) -> Self {
        match reason {
            // Nobody learns which card is known.
            FailureReason::Declined | FailureReason::SuspectCard => Self::CardDeclined,
            FailureReason::AuthenticationRequired => Self::AuthenticationRequired,
            FailureReason::OfOtherClient => Self::PaymentMethodOfOtherClient,
            FailureReason::CardHasWallet | FailureReason::CardNotConfirmed => Self::CardHasWallet,
            FailureReason::ClientFrozen => Self::ClientFrozen,
            FailureReason::InvalidPaymentMethod => Self::InvalidPayment(
                "The paymentMethodId is unknown to this seller's Stripe account, already used up, or no card. \
                 Tokenise the card again and send the new id."
                    .to_owned(),
            ),
            FailureReason::TooManyAttempts => {
                Self::TooManyAttempts(Limit::Card { is_of_client: true }, 3_600)
            }
            FailureReason::Refused | FailureReason::Abandoned => Self::PaymentFailed,
        }
    }
}

impl From<Barred> for Refusal {
    fn from(barred: Barred) -> Self {
        match barred {
            // What it was told before.
            Barred::DeadToken | Barred::SuspectCard => Self::CardDeclined,
            Barred::TooMany { limit, seconds } => Self::TooManyAttempts(limit, seconds),
            Barred::Paused { seconds } => Self::NewPayersPaused(seconds),
            Barred::Crowded => Self::Busy,
        }
    }
}

impl From<AmountProblem> for Refusal {
    fn from(problem: AmountProblem) -> Self {
        match problem {
            AmountProblem::BelowMinimum => Self::TopUpBelowMinimum,
            AmountProblem::AboveMaximum => Self::InvalidPayment(
                "topUpAmount is above the largest amount that is charged at once. Use maxTopUp or less."
                    .to_owned(),
            ),
            AmountProblem::NotChargeable => Self::InvalidPayment(
                "topUpAmount is not a whole number of the currency's smallest coin (100 units are one cent)."
                    .to_owned(),
            ),
            AmountProblem::BalanceLimit => Self::InvalidPayment(
                "The wallet would hold more than it may. Use maxTopUp or less.".to_owned(),
            ),
            AmountProblem::DebtAboveMaximum => Self::DebtAboveMaximum,
            AmountProblem::WalletFull => Self::WalletFull,
            AmountProblem::Frozen => Self::ClientFrozen,
        }
    }
}

impl From<Unreadable> for Refusal {
    fn from(why: Unreadable) -> Self {
        match why {
            Unreadable::RawCardData => Self::RawCardData,
            Unreadable::Invalid(sentence) => Self::InvalidPayment(sentence),
        }
    }
}

//! Why nothing is done, and the answers that say so.

use actix_web::HttpResponse;
use serde_json::Map;

use super::refunds::refund_json;
use crate::domain::RequestId;
use crate::http::admin::pages::UNKNOWN_HOST;
use crate::http::problem;
use crate::ledger::{LedgerError, Refusal};
use crate::payments::refunds::{Refund, RefundError};
use crate::paywall::{Answer, WhoActs};

/// Why nothing is done.
#[derive(Debug)]
pub(in crate::http::admin) enum Refused {
    Unauthorized,
    Browser,
    /// By a name that the listener does not answer to.
    UnknownHost,
    /// Seconds to wait.
    TooManyAttempts(i64),
    /// Nothing was done.
    Busy,
    NotFound,
    Invalid(&'static str),
    RawCardData,
    InFlight,
    Refund(RefundError),
    /// Stripe refused it, or it came back.
    RefundFailed(Box<Refund>),
    /// It is not known whether Stripe has made it.
    RefundUnknown(Box<Refund>),
    Ledger(LedgerError),
    /// Of an adjustment.
    Adjustment(LedgerError),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(%error, "the operator's request could not be answered");
        Self::Busy
    }
}

impl Refused {
    /// The table of answers.
    fn answer(&self) -> Answer {
        use WhoActs::{Agent, Human, Seller};
        let row = |status, code, retryable, who_acts, retry_after, message| Answer {
            status,
            code,
            retryable,
            who_acts,
            message,
            retry_after,
        };
        let refused = |status, code, message| row(status, code, false, Human, None, message);
        let unknown = row(
            503,
            "refund_unknown",
            true,
            Agent,
            Some(5),
            "It is not known yet whether there is a refund. Repeat the request with the same Idempotency-Key: it refunds once.",
        );
        match self {
            Self::Unauthorized => refused(
                401,
                "unauthorized",
                "Send name and password of an admin user as HTTP Basic authentication.",
            ),
            Self::Browser => refused(403, "browser_refused", "This door is for programs, not for browsers."),
            Self::UnknownHost => refused(421, "unknown_host", UNKNOWN_HOST),
            Self::TooManyAttempts(seconds) => row(
                429,
                "too_many_attempts",
                true,
                Human,
                Some(u32::try_from(*seconds).unwrap_or(60)),
                "Too many attempts with this name or from this address. Nothing was done.",
            ),
            Self::Busy | Self::Ledger(LedgerError::Unavailable(_) | LedgerError::Closed) => row(
                503,
                "busy",
                true,
                Seller,
                Some(5),
                "The gateway or its database is busy. Repeat the same request shortly: doing it twice does no harm.",
            ),
            Self::NotFound => refused(404, "not_found", "There is no such thing."),
            Self::Invalid(message) => refused(400, "invalid_request", message),
            Self::RawCardData => refused(
                400,
                "raw_card_data_rejected",
                "A card number must never be sent here. Nothing was done or stored.",
            ),
            Self::InFlight => row(
                409,
                "idempotency_in_flight",
                true,
                Agent,
                Some(1),
                "The same is being asked for at this moment. Repeat this to learn what became of it.",
            ),
            Self::RefundUnknown(_) => unknown,
            Self::RefundFailed(_) => refused(
                409,
                "refund_failed",
                "The refund has failed, and its credit is back in the wallet. A new attempt needs a new Idempotency-Key.",
            ),
            Self::Adjustment(LedgerError::Unavailable(_) | LedgerError::Closed) => row(
                503,
                "busy",
                true,
                Seller,
                Some(5),
                "It is not known yet whether the wallet was adjusted. Repeat the request with the same Idempotency-Key: it adjusts once.",
            ),
            Self::Adjustment(LedgerError::Refused(Refusal::SourceConflict)) => refused(
                422,
                "idempotency_mismatch",
                "This Idempotency-Key was used for another client, amount or reason. Nothing was adjusted now.",
            ),
            Self::Adjustment(LedgerError::Refused(refusal)) => refusal_answer(*refusal),
            Self::Refund(RefundError::NoSuchTopUp) => {
                refused(404, "not_charged", "There is no such top-up, or its card was not charged.")
            }
            Self::Refund(RefundError::FormerAccount) => refused(
                409,
                "former_stripe_account",
                "This was charged in a former Stripe account: refund it in that account's dashboard. Nothing was refunded here.",
            ),
            Self::Refund(RefundError::UnprovenAccount) => row(
                503,
                "stripe_account_unproven",
                true,
                Seller,
                Some(5),
                "It is not proven that the secret key is of the Stripe account that was charged, so nothing was refunded. The log says why.",
            ),
            Self::Refund(RefundError::NotPayable) => refused(
                422,
                "amount_not_payable",
                "The amount is not a whole number of the currency's smallest coin.",
            ),
            Self::Refund(RefundError::Ledger(LedgerError::Refused(refusal)))
            | Self::Ledger(LedgerError::Refused(refusal)) => refusal_answer(*refusal),
            Self::Refund(RefundError::Db(_) | RefundError::Ledger(_)) => unknown,
        }
    }
}

fn refusal_answer(refusal: Refusal) -> Answer {
    let row = |status, code, message| Answer {
        status,
        code,
        retryable: false,
        who_acts: WhoActs::Human,
        message,
        retry_after: None,
    };
    match refusal {
        Refusal::InsufficientCredits => row(
            409,
            "insufficient_credits",
            "The client has spent more than would be left: only what is unspent can be refunded.",
        ),
        Refusal::ReservationsInFlight => Answer {
            retryable: true,
            retry_after: Some(2),
            ..row(
                409,
                "reservations_in_flight",
                "Running requests of this client have set the credit aside. Repeat this when they have ended.",
            )
        },
        Refusal::ExceedsCharge => row(409, "exceeds_charge", "That is more than is left of the charge."),
        Refusal::ExceedsDebt => {
            row(409, "exceeds_debt", "That is more than the client owes. Nothing was written off.")
        }
        Refusal::DailyLimit => row(
            409,
            "daily_limit",
            "Operators have given as much credit in the last 24 hours as adjustments.max_a_day allows, or this would be more. Nothing was given.",
        ),
        Refusal::NotCharged => {
            row(404, "not_charged", "There is no such top-up, or its card was not charged.")
        }
        Refusal::SourceConflict => row(
            422,
            "idempotency_mismatch",
            "This Idempotency-Key was used for another top-up or amount, or for all that was left. Nothing was refunded now.",
        ),
        Refusal::ClientFrozen => row(
            409,
            "client_frozen",
            "The client is frozen or in debt, and has nothing that can be refunded.",
        ),
        Refusal::UnknownClient => row(404, "not_found", "There is no such client."),
        Refusal::CurrencyMismatch => {
            row(409, "currency_mismatch", "The amount is of another currency than the client's.")
        }
        Refusal::OutOfRange => row(409, "out_of_range", "A balance would leave the range of amounts."),
        Refusal::NothingToReverse | Refusal::NoHold | Refusal::ExceedsHold => {
            row(409, "nothing_to_reverse", "There is nothing that could be given back.")
        }
    }
}

/// The answer to what is not done.
pub(in crate::http::admin) fn refuse(refused: Refused) -> HttpResponse {
    let mut extra = Map::new();
    match &refused {
        Refused::RefundUnknown(made) | Refused::RefundFailed(made) => {
            extra.insert("refund".into(), refund_json(made));
        }
        Refused::Refund(RefundError::Ledger(error)) | Refused::Ledger(error) | Refused::Adjustment(error) => {
            tracing::warn!(%error, "an operator's request is refused");
        }
        Refused::Refund(error) => tracing::warn!(%error, "an operator's refund is refused"),
        _ => {}
    }
    problem::response(refused.answer(), None, RequestId::new(), extra)
}

//! What an answer to a card payment says about the money: pure, because "failed" must never be read into "unknown".

use hyper::StatusCode;

use crate::protocol::stripe402::PaymentResponse;

/// The code of an answer of the API that costs nothing.
const NOT_CHARGED: &str = "not_charged";

/// What is known about a card payment after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server took the money, or the balance paid, and says so.
    Settled,
    /// Served, yet without a receipt, so without a key: repeating the same payment method gives the key later.
    ServedWithoutReceipt,
    /// Refused, and nothing was charged.
    NotCharged,
    /// The money may have moved.
    Unknown {
        /// Whether repeating the same payment soon can help.
        again: bool,
        /// Whether the request may have been served, so that a part of the top-up may be spent.
        maybe_served: bool,
    },
}

/// Reads an answer. `unknown_before`: whether an earlier attempt with the same payment method has an unknown outcome, which
/// a refusal of *this* attempt for another reason does not settle.
#[must_use]
pub fn judge(
    status: StatusCode,
    receipt: Option<&PaymentResponse>,
    code: &str,
    unknown_before: bool,
) -> Verdict {
    if let Some(receipt) = receipt {
        let unfinished = matches!(code, "topup_pending" | "topup_in_progress");
        let charged = receipt.charge_id.is_some() || receipt.top_up_amount.is_some_and(|amount| amount > 0);
        // The API was asked, which happens only once the credit is there; its answer is free.
        let unsold = receipt.error_code.as_deref() == Some(NOT_CHARGED);
        if receipt.success || ((charged || unsold) && !unfinished && !receipt.client_id.is_empty()) {
            return Verdict::Settled;
        }
    }
    if status.is_success() || status.is_redirection() {
        return Verdict::ServedWithoutReceipt;
    }
    let refused = if unknown_before {
        Verdict::Unknown { again: false, maybe_served: false }
    } else {
        Verdict::NotCharged
    };
    match code {
        // The card itself was refused: that settles every earlier attempt, too.
        "card_declined" | "authentication_required" | "payment_failed" => Verdict::NotCharged,
        // The server says that it did not serve, and that asking again helps.
        "topup_pending"
        | "topup_in_progress"
        | "idempotency_in_flight"
        | "busy"
        | "reservations_in_flight"
        | "card_check_pending"
        | "rate_limited" => Verdict::Unknown { again: true, maybe_served: false },
        // Refused before a card is looked at.
        "payment_method_of_other_client"
        | "card_has_wallet"
        | "cap_reached"
        | "client_frozen"
        | "debt_above_maximum"
        | "wallet_full"
        | "key_revoked"
        | "scope"
        | "route_not_configured"
        | "idempotency_mismatch"
        | "too_many_attempts"
        | "new_payers_paused"
        | "price_above_max"
        | "top_up_below_minimum"
        | "invalid_payment"
        | "raw_card_data_rejected"
        | "unknown_client"
        // An attempt of this card that is open is looked at before this is said.
        | "upstream_unreachable" => refused,
        // The work was done and must not be ordered again unasked.
        "capture_unknown" => Verdict::Unknown { again: false, maybe_served: false },
        // A mere request for payment, in answer to a payment, does not say that the card was not charged.
        _ if status == StatusCode::PAYMENT_REQUIRED => Verdict::Unknown { again: false, maybe_served: false },
        _ if status.is_server_error() => Verdict::Unknown { again: true, maybe_served: true },
        _ if status == StatusCode::TOO_MANY_REQUESTS => Verdict::Unknown { again: true, maybe_served: false },
        _ => Verdict::Unknown { again: false, maybe_served: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(success: bool, charged: bool, client: &str) -> PaymentResponse {
        PaymentResponse {
            success,
            charge_id: charged.then(|| "pi_1".to_owned()),
            client_id: client.to_owned(),
            ..PaymentResponse::default()
        }
    }

    #[test]
    fn the_table_of_verdicts() {
        let served = receipt(true, true, "pck_a");
        let charged = receipt(false, true, "pck_a");
        let refused = receipt(false, false, "");
        // The API answered what is not sold: the balance had paid, or the card has, and nothing was taken for the request.
        let not_sold =
            PaymentResponse { error_code: Some("not_charged".to_owned()), ..receipt(false, false, "pck_a") };
        let again = Verdict::Unknown { again: true, maybe_served: false };
        let gone = Verdict::Unknown { again: true, maybe_served: true };
        let keep = Verdict::Unknown { again: false, maybe_served: false };
        let table = [
            (200, Some(&served), "", false, Verdict::Settled),
            (200, Some(&served), "", true, Verdict::Settled),
            (404, Some(&charged), "", false, Verdict::Settled),
            (302, Some(&not_sold), "", false, Verdict::Settled),
            (304, Some(&not_sold), "", true, Verdict::Settled),
            (404, Some(&not_sold), "not_charged", false, Verdict::Settled),
            (302, Some(&refused), "", false, Verdict::ServedWithoutReceipt),
            (302, None, "", false, Verdict::ServedWithoutReceipt),
            (502, Some(&charged), "upstream_failed", false, Verdict::Settled),
            (503, Some(&charged), "busy", false, Verdict::Settled),
            (503, Some(&charged), "topup_pending", false, again),
            (503, None, "topup_pending", false, again),
            (409, None, "topup_in_progress", true, again),
            (200, None, "", false, Verdict::ServedWithoutReceipt),
            (402, Some(&refused), "card_declined", false, Verdict::NotCharged),
            (402, Some(&refused), "card_declined", true, Verdict::NotCharged),
            (402, None, "price_above_max", false, Verdict::NotCharged),
            (402, None, "price_above_max", true, keep),
            (402, None, "", true, keep),
            (402, None, "", false, keep),
            (402, None, "payment_required", false, keep),
            (402, None, "invalid_payment", false, Verdict::NotCharged),
            (503, None, "capture_unknown", false, keep),
            (403, None, "client_frozen", false, Verdict::NotCharged),
            (403, None, "client_frozen", true, keep),
            (429, None, "", false, again),
            (500, None, "", false, gone),
            (504, None, "", true, gone),
            (400, None, "", false, Verdict::Unknown { again: false, maybe_served: true }),
        ];
        for (status, receipt, code, unknown_before, expected) in table {
            let status = StatusCode::from_u16(status).expect("status");
            let verdict = judge(status, receipt, code, unknown_before);
            assert_eq!(verdict, expected, "{status} {code} {receipt:?} {unknown_before}");
        }
    }
}

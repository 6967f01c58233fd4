//! Stripe's test cards, by number and by `pm_card_…` name, and what happens when they are charged.
//! <https://docs.stripe.com/testing>. Three numbers are the simulator's own: see
//! [`Behaviour::Processing`], [`Behaviour::CvcUnavailable`] and [`Behaviour::CvcUnchecked`].

use serde::{Deserialize, Serialize};

/// What a card does when it is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Behaviour {
    /// Pays.
    Succeeds,
    /// Refused by the issuer without a reason.
    GenericDecline,
    /// Refused: no money.
    InsufficientFunds,
    /// Refused: reported lost.
    LostCard,
    /// Refused: reported stolen.
    StolenCard,
    /// Refused: expired.
    ExpiredCard,
    /// Refused: wrong CVC.
    IncorrectCvc,
    /// Refused: a mistake on the network.
    ProcessingError,
    /// Refused by Stripe itself.
    Fraudulent,
    /// Can be attached to a customer; every charge is refused.
    DeclineAfterAttach,
    /// Asks the cardholder every time.
    Authenticate,
    /// Asks the cardholder every time, and no more off-session once the card is set up.
    AuthenticateUntilSetUp,
    /// Asks the cardholder unless the charge is off-session.
    AuthenticateOnSession,
    /// The charge's outcome comes later, through `POST /_sim/payment_intents/{id}/finish`. Stripe has no such card; the
    /// simulator's are 4000 0000 0000 4020 and `pm_card_processing`.
    Processing,
    /// Pays. Its refunds are pending first and succeed later.
    RefundPends,
    /// Pays. Its refunds succeed first and fail later.
    RefundFails,
    /// Pays, and is disputed as fraudulent at once.
    DisputesFraud,
    /// Pays, and is disputed as not received at once.
    DisputesNotReceived,
    /// Pays, and the bank inquires at once.
    DisputesInquiry,
    /// Pays, and both halves are disputed at once.
    DisputesTwice,
    /// Pays, and the issuer reports fraud at once.
    FraudWarning,
    /// Pays, although the issuer says that the CVC is wrong.
    CvcFails,
    /// Pays; its issuer does not check CVCs. Stripe has no such card; the simulator's are 4000 0000 0000 4038 and
    /// `pm_card_cvcUnavailable`.
    CvcUnavailable,
    /// Pays; its issuer has not checked the CVC. Stripe has no such card; the simulator's are 4000 0000 0000 4046 and
    /// `pm_card_cvcUnchecked`.
    CvcUnchecked,
}

/// The words of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decline {
    /// `code`.
    pub(super) code: &'static str,
    /// `decline_code`.
    pub(super) decline_code: Option<&'static str>,
    /// `advice_code`.
    pub(super) advice_code: Option<&'static str>,
    /// For people.
    pub(super) message: &'static str,
}

impl Behaviour {
    /// How a charge is refused, when it is refused outright.
    pub(super) fn decline(self) -> Option<Decline> {
        const DECLINED: &str = "Your card was declined.";
        let (code, decline_code, advice_code, message) = match self {
            Self::Succeeds
            | Self::Authenticate
            | Self::AuthenticateUntilSetUp
            | Self::AuthenticateOnSession
            | Self::Processing
            | Self::RefundPends
            | Self::RefundFails
            | Self::DisputesFraud
            | Self::DisputesNotReceived
            | Self::DisputesInquiry
            | Self::DisputesTwice
            | Self::FraudWarning
            | Self::CvcFails
            | Self::CvcUnavailable
            | Self::CvcUnchecked => return None,
            Self::GenericDecline | Self::DeclineAfterAttach => {
                ("card_declined", Some("generic_decline"), Some("try_again_later"), DECLINED)
            }
            Self::InsufficientFunds => (
                "card_declined",
                Some("insufficient_funds"),
                Some("try_again_later"),
                "Your card has insufficient funds.",
            ),
            Self::LostCard => ("card_declined", Some("lost_card"), Some("do_not_try_again"), DECLINED),
            Self::StolenCard => ("card_declined", Some("stolen_card"), Some("do_not_try_again"), DECLINED),
            Self::Fraudulent => ("card_declined", Some("fraudulent"), Some("do_not_try_again"), DECLINED),
            Self::ExpiredCard => ("expired_card", None, Some("do_not_try_again"), "Your card has expired."),
            Self::IncorrectCvc => {
                ("incorrect_cvc", None, Some("confirm_card_data"), "Your card's security code is incorrect.")
            }
            Self::ProcessingError => (
                "processing_error",
                None,
                Some("try_again_later"),
                "An error occurred while processing your card. Try again in a little bit.",
            ),
        };
        Some(Decline { code, decline_code, advice_code, message })
    }

    /// Whether the cardholder has to authenticate.
    pub(super) fn authenticates(self, off_session: bool, set_up: bool) -> bool {
        match self {
            Self::Authenticate => true,
            Self::AuthenticateUntilSetUp => !off_session || !set_up,
            Self::AuthenticateOnSession => !off_session,
            _ => false,
        }
    }
}

/// A test card.
#[derive(Debug)]
pub(super) struct TestCard {
    /// The number.
    pub(super) number: &'static str,
    /// `pm_card_` names without that prefix.
    names: &'static [&'static str],
    /// Stripe's brand.
    pub(super) brand: &'static str,
    /// `credit`, `debit` or `prepaid`.
    pub(super) funding: &'static str,
    /// Two letters.
    pub(super) country: &'static str,
    /// What a charge does.
    pub(super) behaviour: Behaviour,
}

impl TestCard {
    /// Whether that is the form of its CVC.
    pub(super) fn takes_cvc(&self, cvc: &str) -> bool {
        let lengths = if self.brand == "amex" { 3..=4 } else { 3..=3 };
        lengths.contains(&cvc.len()) && cvc.bytes().all(|byte| byte.is_ascii_digit())
    }
}

const fn card(
    number: &'static str,
    names: &'static [&'static str],
    brand: &'static str,
    funding: &'static str,
    country: &'static str,
) -> TestCard {
    TestCard { number, names, brand, funding, country, behaviour: Behaviour::Succeeds }
}

const fn special(number: &'static str, names: &'static [&'static str], behaviour: Behaviour) -> TestCard {
    TestCard { number, names, brand: "visa", funding: "credit", country: "US", behaviour }
}

/// All test cards.
pub(super) const CARDS: &[TestCard] = &[
    card("4242424242424242", &["visa", "us"], "visa", "credit", "US"),
    card("4000056655665556", &["visa_debit"], "visa", "debit", "US"),
    card("5555555555554444", &["mastercard"], "mastercard", "credit", "US"),
    card("2223003122003222", &["mastercard_series_2"], "mastercard", "credit", "US"),
    card("5200828282828210", &["mastercard_debit"], "mastercard", "debit", "US"),
    card("5105105105105100", &["mastercard_prepaid"], "mastercard", "prepaid", "US"),
    card("378282246310005", &["amex"], "amex", "credit", "US"),
    card("371449635398431", &["amex_2"], "amex", "credit", "US"),
    card("6011111111111117", &["discover"], "discover", "credit", "US"),
    card("6011000990139424", &["discover_2"], "discover", "credit", "US"),
    card("6011981111111113", &["discover_debit"], "discover", "debit", "US"),
    card("3056930009020004", &["diners"], "diners", "credit", "US"),
    card("36227206271667", &["diners_14digits"], "diners", "credit", "US"),
    card("3566002020360505", &["jcb"], "jcb", "credit", "JP"),
    card("6200000000000005", &["unionpay"], "unionpay", "credit", "CN"),
    card("4000000760000002", &["br"], "visa", "credit", "BR"),
    card("4000002760000016", &["de"], "visa", "credit", "DE"),
    card("4000008260000000", &["gb"], "visa", "credit", "GB"),
    card("4000002500000003", &["fr"], "visa", "credit", "FR"),
    // These pay; reviews are not simulated.
    special("4000000000000077", &["bypassPending"], Behaviour::Succeeds),
    special("4000000000003055", &["threeDSecureOptional"], Behaviour::Succeeds),
    special("4000000000004954", &["riskLevelHighest"], Behaviour::Succeeds),
    special("4000000000009235", &["riskLevelElevated"], Behaviour::Succeeds),
    // These pay, and more follows.
    special("4000000000007726", &["pendingRefund"], Behaviour::RefundPends),
    special("4000000000005126", &["refundFail"], Behaviour::RefundFails),
    special("4000000000000259", &["createDispute"], Behaviour::DisputesFraud),
    special("4000000000002685", &["createDisputeProductNotReceived"], Behaviour::DisputesNotReceived),
    special("4000000000001976", &["createDisputeInquiry"], Behaviour::DisputesInquiry),
    special("4000000404000079", &["createMultipleDisputes"], Behaviour::DisputesTwice),
    special("4000000000005423", &["createIssuerFraudRecord"], Behaviour::FraudWarning),
    special("4000000000000002", &["visa_chargeDeclined", "chargeDeclined"], Behaviour::GenericDecline),
    special(
        "4000000000009995",
        &["visa_chargeDeclinedInsufficientFunds", "chargeDeclinedInsufficientFunds"],
        Behaviour::InsufficientFunds,
    ),
    special(
        "4000000000009987",
        &["visa_chargeDeclinedLostCard", "chargeDeclinedLostCard"],
        Behaviour::LostCard,
    ),
    special(
        "4000000000009979",
        &["visa_chargeDeclinedStolenCard", "chargeDeclinedStolenCard"],
        Behaviour::StolenCard,
    ),
    special("4000000000000069", &["chargeDeclinedExpiredCard"], Behaviour::ExpiredCard),
    special("4000000000000127", &["chargeDeclinedIncorrectCvc"], Behaviour::IncorrectCvc),
    special("4000000000000119", &["chargeDeclinedProcessingError"], Behaviour::ProcessingError),
    special("4100000000000019", &["radarBlock", "chargeDeclinedFraudulent"], Behaviour::Fraudulent),
    special("4000000000000341", &["chargeCustomerFail"], Behaviour::DeclineAfterAttach),
    special("4000002760003184", &["authenticationRequired"], Behaviour::Authenticate),
    special("4000002500003155", &["authenticationRequiredOnSetup"], Behaviour::AuthenticateUntilSetUp),
    special("4000000000003220", &["threeDSecure2Required"], Behaviour::Authenticate),
    special("4000000000003063", &["threeDSecureRequired"], Behaviour::Authenticate),
    special(
        "4000003800000446",
        &["authenticationRequiredSetupForOffSession"],
        Behaviour::AuthenticateOnSession,
    ),
    special("4000000000004020", &["processing"], Behaviour::Processing),
    special("4000000000000101", &["cvcCheckFail"], Behaviour::CvcFails),
    special("4000000000004038", &["cvcUnavailable"], Behaviour::CvcUnavailable),
    special("4000000000004046", &["cvcUnchecked"], Behaviour::CvcUnchecked),
];

/// The test card with that number.
pub(super) fn by_number(number: &str) -> Option<&'static TestCard> {
    CARDS.iter().find(|card| card.number == number)
}

/// The test card that a shared name such as `pm_card_visa`, or a token such as `tok_visa`, stands for.
pub(super) fn by_name(name: &str) -> Option<&'static TestCard> {
    let short = name.strip_prefix("pm_card_").or_else(|| name.strip_prefix("tok_"))?;
    CARDS.iter().find(|card| card.names.contains(&short))
}

/// The check digit of card numbers (ISO/IEC 7812-1).
pub(super) fn passes_luhn(digits: &str) -> bool {
    let sum: u32 = digits
        .bytes()
        .rev()
        .map(|byte| u32::from(byte.wrapping_sub(b'0')))
        .enumerate()
        .map(|(index, digit)| match (index % 2, digit * 2) {
            (0, _) => digit,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_test_card_has_a_valid_number_and_names_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for card in CARDS {
            assert!(passes_luhn(card.number), "{}", card.number);
            assert!(seen.insert(card.number), "{} twice", card.number);
            for name in card.names {
                assert!(seen.insert(name), "{name} twice");
                assert_eq!(by_name(&format!("pm_card_{name}")).unwrap().number, card.number);
            }
        }
        assert!(!passes_luhn("4242424242424241"));
        assert!(by_name("visa").is_none());
        assert!(by_number("4111111111111111").is_none());
    }

    #[test]
    fn cards_mean_what_they_mean_at_stripe() {
        for (number, code, decline_code) in [
            ("4000000000000002", "card_declined", Some("generic_decline")),
            ("4000000000009995", "card_declined", Some("insufficient_funds")),
            ("4000000000009987", "card_declined", Some("lost_card")),
            ("4000000000009979", "card_declined", Some("stolen_card")),
            ("4000000000000069", "expired_card", None),
            ("4000000000000127", "incorrect_cvc", None),
            ("4000000000000119", "processing_error", None),
            ("4000000000000341", "card_declined", Some("generic_decline")),
        ] {
            let decline = by_number(number).unwrap().behaviour.decline().unwrap();
            assert_eq!((decline.code, decline.decline_code), (code, decline_code), "{number}");
        }
        for (number, on_session, off_session) in [
            ("4242424242424242", false, false),
            ("4000002760003184", true, true),
            ("4000002500003155", true, true),
            ("4000000000003220", true, true),
            ("4000003800000446", true, false),
        ] {
            let behaviour = by_number(number).unwrap().behaviour;
            assert_eq!(behaviour.decline(), None, "{number}");
            assert_eq!(behaviour.authenticates(false, false), on_session, "{number}");
            assert_eq!(behaviour.authenticates(true, false), off_session, "{number}");
            assert_eq!(behaviour.authenticates(false, true), on_session, "{number} set up");
            let still = off_session && number != "4000002500003155";
            assert_eq!(behaviour.authenticates(true, true), still, "{number} set up");
        }
    }
}

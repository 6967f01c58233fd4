//! The kinds of difference between the books and Stripe, each with its stable code and what to do about it.

use std::fmt;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub kind: Kind,
    /// What it is about: Stripe's id first.
    pub ids: Vec<String>,
    /// What Stripe has.
    pub stripe: String,
    /// What the books say.
    pub books: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, ids, stripe, books } = self;
        write!(f, "{} {}: Stripe {stripe}; books {books}. {}", kind.code(), ids.join(" "), kind.remedy())
    }
}

const ALIGN: &str =
    "The running server books it from Stripe's events; if it stays, see that it runs and can reach Stripe.";
const SETTLE: &str =
    "The running server settles it by itself; if it stays, see that it runs and can reach Stripe.";
const REFUND_IT: &str = "Nobody was credited: refund it at Stripe.";
const DAMAGE: &str = "No server writes this: run `prepaid402 verify` and compare with a backup.";
const STRIPE_HAS_NONE: &str =
    "See that the Stripe key is the one that was used; then correct the credit by hand.";
const PERSON: &str = "A person must decide which is right, and correct the other.";

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $code:literal, $remedy:expr;)*) => {
        /// What differs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// For scripts; never renamed.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code,)* }
            }

            /// For people.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$kind => $remedy,)* }
            }
        }
    };
}

kinds! {
    /// Charged at Stripe; no such top-up here.
    ChargeMissing = "charge_missing", "Unless another gateway of an older version uses this Stripe account, nobody was credited: refund it at Stripe.";
    /// Charged at Stripe; the top-up is failed here.
    ChargeOfFailed = "charge_of_failed", REFUND_IT;
    /// Charged at Stripe; the top-up is still open here.
    ChargeOfOpen = "charge_of_open", SETTLE;
    /// A second charge for the same top-up.
    ChargedTwice = "charged_twice", "Only one of them was credited: refund the other at Stripe.";
    /// The top-up names another PaymentIntent than the one that was charged for it.
    IntentDiffers = "intent_differs", DAMAGE;
    /// Other amounts.
    TopUpAmountDiffers = "topup_amount_differs", PERSON;
    /// Other currencies.
    TopUpCurrencyDiffers = "topup_currency_differs", PERSON;
    /// Recorded, but nothing was credited.
    TopUpWithoutEntries = "topup_without_entries", DAMAGE;
    /// Another amount was credited than recorded.
    TopUpEntriesDiffer = "topup_entries_differ", DAMAGE;
    /// Another client was credited.
    TopUpEntriesOfOther = "topup_entries_of_other_client", DAMAGE;
    /// Stripe's metadata names another client.
    ClientDiffers = "client_differs", PERSON;
    /// Stripe has another charge for the PaymentIntent.
    ChargeIdDiffers = "charge_id_differs", PERSON;
    /// Credited here; the PaymentIntent was not charged.
    TopUpNotCharged = "topup_not_charged", STRIPE_HAS_NONE;
    /// Credited here; Stripe has no such PaymentIntent.
    TopUpUnknownAtStripe = "topup_unknown_at_stripe", STRIPE_HAS_NONE;
    /// Credited here, although the top-up is not recorded as charged.
    EntriesOfUnsuccessful = "entries_of_unsuccessful_topup", DAMAGE;
    /// Credited here without a top-up.
    EntryWithoutTopUp = "entry_without_topup", DAMAGE;
    /// Stripe took a fee.
    FeeNotBooked = "fee_not_booked", ALIGN;
    /// Another fee.
    FeeDiffers = "fee_differs", PERSON;
    /// Stripe took no such fee.
    FeeUnknownAtStripe = "fee_unknown_at_stripe", PERSON;
    /// Refunded at Stripe.
    RefundUnknownHere = "refund_unknown_here", ALIGN;
    /// Refunded here only.
    RefundUnknownAtStripe = "refund_unknown_at_stripe", STRIPE_HAS_NONE;
    /// Asked for here, never at Stripe.
    RefundNotAsked = "refund_not_asked", SETTLE;
    /// Other amounts.
    RefundAmountDiffers = "refund_amount_differs", PERSON;
    /// Of another charge.
    RefundOfOtherTopUp = "refund_of_other_topup", PERSON;
    /// Stripe has it; here it is still on its way.
    RefundOpenHere = "refund_open_here", ALIGN;
    /// On its way at Stripe; here it has left.
    RefundPendingAtStripe = "refund_pending_at_stripe", "Look again when Stripe has decided.";
    /// It came back; here it has not.
    RefundFailedAtStripe = "refund_failed_at_stripe", ALIGN;
    /// It left; here it failed, and its credit came back.
    RefundFailedHere = "refund_failed_here", PERSON;
    /// Its credit was never taken.
    RefundWithoutEntries = "refund_without_entries", DAMAGE;
    /// Another amount of credit was taken.
    RefundEntriesDiffer = "refund_entries_differ", DAMAGE;
    /// It left; the books still hold it.
    RefundNotPaidOut = "refund_not_paid_out", DAMAGE;
    /// It failed; its credit has not come back.
    RefundNotReturned = "refund_not_returned", DAMAGE;
    /// Its credit came back, although it did not fail.
    RefundReturnedWrongly = "refund_returned_wrongly", DAMAGE;
    /// Entries without a refund.
    EntryWithoutRefund = "entry_without_refund", DAMAGE;
    /// A dispute took money.
    DisputeNotBooked = "dispute_not_booked", ALIGN;
    /// Another amount.
    DisputeAmountDiffers = "dispute_amount_differs", PERSON;
    /// Another client's credit was taken.
    DisputeOfOtherClient = "dispute_of_other_client", DAMAGE;
    /// No dispute took it.
    DisputeUnknownAtStripe = "dispute_unknown_at_stripe", STRIPE_HAS_NONE;
    /// A dispute gave money back.
    ReinstatementNotBooked = "reinstatement_not_booked", ALIGN;
    /// Another amount.
    ReinstatementAmountDiffers = "reinstatement_amount_differs", PERSON;
    /// No dispute gave it back.
    ReinstatementUnknownAtStripe = "reinstatement_unknown_at_stripe", STRIPE_HAS_NONE;
    /// Stripe charged for a dispute.
    DisputeFeeNotBooked = "dispute_fee_not_booked", ALIGN;
    /// Another fee.
    DisputeFeeDiffers = "dispute_fee_differs", PERSON;
    /// Stripe charged nothing.
    DisputeFeeUnknownAtStripe = "dispute_fee_unknown_at_stripe", PERSON;
    /// An entry moves the Stripe account's balance in the books, and nothing did at Stripe.
    ClearingDiffers = "clearing_differs", PERSON;
}

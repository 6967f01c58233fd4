//! The only code that knows async-stripe: typed calls with our own client underneath, and what their failures mean.
//!
//! - `client.rs` carries one attempt of one call: one pool of connections, one timeout around the request and its body,
//!   an idempotency key on every POST.
//! - `failure.rs` sorts failures into *unknown*, *declined* and *refused*. Only the last two may be told to a payer.
//! - `retry.rs` repeats an unknown attempt under the same key until a deadline.
//! - `facts.rs` holds what the rest of the program reads of Stripe's objects.
//! - `events.rs` has the list of events.
//! - `calls.rs` has the calls that charge, `aftermath.rs` those about what becomes of a charge, `balance.rs` those that read
//!   what has moved on the account.
//! - `card_check.rs` has a bank confirm a card without a charge.
//! - `recovery.rs` finds charges again whose rows are lost.
//!
//! Money is in Stripe's minor units, as `i64`, with the lower-case ISO 4217 code beside it.

mod aftermath;
mod balance;
mod calls;
mod card_check;
mod client;
mod events;
mod facts;
mod failure;
mod recovery;
mod redact;
mod retry;

pub use aftermath::{
    ChargeAftermath, NewStripeRefund, REFUND_METADATA_KEY, StripeCharge, StripeDispute, StripeMovement,
    StripeRefund, StripeWarning,
};
pub use balance::{BalanceTransaction, MovementSource};
pub use calls::{CLIENT_METADATA_KEY, NewCustomer, NewPaymentIntent, Stripe, TOP_UP_METADATA_KEY};
pub use card_check::{CARD_CHECK_METADATA_KEY, CardCheck, NewCardCheck};
pub use client::StripeSetupError;
pub use events::EventsPage;
pub use facts::{PaymentIntentFacts, PaymentIntentStatus, PaymentMethodFacts};
pub use failure::{Decline, DeclineKind, Refusal, RefusalKind, StripeFailure, UnknownReason};
pub use recovery::{RecoverablePayment, RecoverablePayments, Recovery};
pub use redact::{redact_json, without_secrets};

#[cfg(test)]
mod tests;

//! The only code that knows async-stripe: typed calls with our own client underneath, and what their failures mean.
//!
//! - `client.rs` carries one attempt of one call: one pool of connections, one timeout around the request and its body,
//!   an idempotency key on every POST.
//! - `failure.rs` sorts failures into *unknown*, *declined* and *refused*. Only the last two may be told to a payer.
//! - `retry.rs` repeats an unknown attempt under the same key until a deadline.
//! - `facts.rs` holds what the rest of the program reads of Stripe's objects.
//! - `calls.rs` has the calls themselves; `recovery.rs` the one that finds charges again whose rows are lost.
//!
//! Money is in Stripe's minor units, as `i64`, with the lower-case ISO 4217 code beside it.

mod calls;
mod client;
mod facts;
mod failure;
mod recovery;
mod redact;
mod retry;

pub use calls::{CLIENT_METADATA_KEY, NewCustomer, NewPaymentIntent, Stripe, TOP_UP_METADATA_KEY};
pub use client::StripeSetupError;
pub use facts::{PaymentIntentFacts, PaymentIntentStatus, PaymentMethodFacts};
pub use failure::{Decline, DeclineKind, Refusal, RefusalKind, StripeFailure, UnknownReason};
pub use recovery::{RecoverablePayment, Recovery};

#[cfg(test)]
mod tests;

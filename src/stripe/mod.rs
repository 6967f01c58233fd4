//! The only code that knows async-stripe.

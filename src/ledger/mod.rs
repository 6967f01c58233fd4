//! The only code that changes a balance.

pub mod account;
pub mod read;

//! Behaviour through the doors that users use: HTTP, the command line, and the state of the database.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod support;

mod billing;
mod paid_request;
mod proxy;
mod reference_defects;
mod secrets;
mod upstream_faults;

//! Behaviour through the doors that users use: HTTP, the command line, and the state of the database.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod support;

mod crash;
mod paid_request;
mod parallel;
mod unknown_outcomes;

//! Behaviour through the doors that users use: HTTP, the command line, and the state of the database.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod support;

mod adjustments;
mod aftermath;
mod again_on_postgres;
mod alone;
mod backup;
mod bench;
mod billing;
mod blame;
mod boot;
mod cli;
mod crash;
mod embedded;
mod exchanges;
mod first_payment;
mod get;
mod idempotency;
mod leaks;
mod node_client;
mod nodes;
mod operator;
mod pages;
mod paid_request;
mod parallel;
mod private_ca;
mod proxy;
mod reconcile;
mod reference_defects;
mod sandbox;
mod secrets;
mod shield;
mod stripe_account;
mod unknown_outcomes;
mod upstream_faults;
mod wallets;
mod webhooks;

//! Behaviour through the doors that users use: HTTP, the command line, and the state of the database.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod support;

mod adjustments;
mod admin_door;
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
mod crowd;
mod embedded;
mod exchanges;
mod first_payment;
mod forwarded;
mod get;
mod heads;
mod idempotency;
mod leaks;
mod node_client;
mod nodes;
mod operator;
mod other_clients;
mod pages;
mod paid_request;
mod parallel;
mod private_ca;
mod proxy;
mod reconcile;
mod reference_defects;
mod repeating;
mod sandbox;
mod secrets;
mod shield;
mod storage;
mod streams;
mod stripe_account;
mod unknown_outcomes;
mod upstream_faults;
mod wallets;
mod webhooks;

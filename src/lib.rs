//! **prepaid402** sells an API to agents with just a card: HTTP 402, Stripe top-ups, a prepaid credit balance.
//!
//! The folders follow the way of a paid request:
//! [`http`] → [`paywall`] → ([`protocol`], [`pricing`], [`top_up`], [`proxy`]) → ([`ledger`], [`stripe`]) → [`domain`].
//! [`embed`] puts the paywall into an actix application of one's own. [`agent`] is the paying side, [`sandbox`] is Stripe without Stripe (reached over HTTP only), [`worker`] drives the
//! reconciler's step, [`cli`] is the binary.
//!
//! # Invariants
//! 1. A balance changes only in [`ledger`], in one transaction with its entry.
//! 2. No transaction is open during a call to Stripe or the upstream, and none lives in a cancellable future.
//! 3. A top-up row is older than its charge.
//! 4. An unknown outcome is never guessed.
//! 5. One recording path for a top-up's outcome, idempotent.
//! 6. Entries are append-only.
//! 7. No floats.
//! 8. No byte of a charged answer before its capture is committed.
//! 9. Fail closed; never say "failed" when the truth is "unknown".
//! 10. No secret, card number, `pm_…` or clientId in a log, an error, a metric or a URL.
//! 11. Nobody is answered from a batch that did not commit.

pub mod domain;

pub mod config;
pub mod protocol;

pub mod db;
mod http_client;
pub mod key_secret;
pub mod ledger;
pub mod money_work;
pub mod payments;
pub(crate) mod peer_alive;
pub mod pricing;
pub mod reconciliation;
pub mod shield;
pub mod stripe;
pub mod top_up;
pub mod trust;

pub mod proxy;

pub mod paywall;

pub mod http;
pub mod worker;

pub mod agent;
pub mod sandbox;

pub mod app;
pub mod cli;
mod crowd;
pub mod embed;
mod engine;
mod files;
mod open_files;
#[cfg(test)]
mod program_text;
mod sparing_log;

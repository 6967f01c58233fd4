//! What charges and refunds are looked after with.

use crate::db::Db;
use crate::ledger::Ledger;
use crate::money_work::MoneyWork;
use crate::stripe::Stripe;
use crate::top_up::{Account, TopUps};

/// Aligning a charge may ask for a refund, and a refund aligns its charge. So neither has the other: both are made of these.
#[derive(Debug)]
pub struct PaymentParts {
    /// For reading, and for claims.
    pub db: Db,
    /// Books what was read.
    pub ledger: Ledger,
    /// Is asked.
    pub stripe: Stripe,
    /// Which Stripe account the books belong to.
    pub account: Account,
    /// What was charged.
    pub top_ups: TopUps,
    /// Where it runs, so that it goes on when whoever asked has gone.
    pub tasks: MoneyWork,
    /// Whether a charge is refunded because of an early fraud warning.
    pub refund_on_fraud_warning: bool,
}

//! Whatever is true of money on SQLite is true on PostgreSQL. The name puts this first: it takes longest, beside the others.

use crate::support::postgres::run_again_on_postgres;

/// Modules of this test program that are about money and what is stored of it. What doors do with answers and bodies, whoever stores
/// the rest, is not tried twice.
const MONEY: [&str; 20] = [
    "adjustments::",
    "aftermath::",
    "backup::",
    "billing::",
    "card_identity::",
    "crash::",
    "exchanges::",
    "idempotency::",
    "operator::",
    "pages::",
    "paid_request::",
    "parallel::",
    "reconcile::",
    "secrets::",
    "shield::",
    "storage::",
    "stripe_account::",
    "unknown_outcomes::",
    "wallets::",
    "webhooks::",
];

#[test]
fn everything_about_money_holds_on_postgresql_too() {
    run_again_on_postgres(&MONEY, &[]);
}

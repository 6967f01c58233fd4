//! Whatever is true of money on SQLite is true on PostgreSQL. The name puts this first: it takes longest, beside the others.

use crate::support::postgres::run_again_on_postgres;

/// Modules of this test program that are about money.
const MONEY: [&str; 27] = [
    "adjustments::",
    "aftermath::",
    "alone::",
    "backup::",
    "billing::",
    "blame::",
    "card_identity::",
    "crash::",
    "embedded::",
    "exchanges::",
    "first_payment::",
    "idempotency::",
    "operator::",
    "leaks::",
    "pages::",
    "paid_request::",
    "parallel::",
    "reconcile::",
    "reference_defects::",
    "secrets::",
    "shield::",
    "storage::",
    "stripe_account::",
    "unknown_outcomes::",
    "upstream_faults::",
    "wallets::",
    "webhooks::",
];

#[test]
fn everything_about_money_holds_on_postgresql_too() {
    run_again_on_postgres(&MONEY, &[]);
}

//! Whatever is true of money on SQLite is true on PostgreSQL. The name puts this first: it takes longest, beside the others.

use crate::support::postgres::run_again_on_postgres;

/// Modules of this test program that are about money.
const MONEY: [&str; 13] = [
    "backup::",
    "billing::",
    "crash::",
    "embedded::",
    "idempotency::",
    "leaks::",
    "pages::",
    "paid_request::",
    "parallel::",
    "reference_defects::",
    "secrets::",
    "unknown_outcomes::",
    "upstream_faults::",
];

#[test]
fn everything_about_money_holds_on_postgresql_too() {
    run_again_on_postgres(&MONEY, &[]);
}

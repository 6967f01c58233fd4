//! Reading the books: balances, entries, top-ups. Shared by the billing API, the admin pages and `verify`.
//!
//! Only SELECT, and every question is bounded: lists by a limit of at most [`MAX_ROWS`] and a cursor, searches by a
//! number of candidates, sums by a range of ids. What a function bounds, its own documentation says. Texts are compared as
//! bytes, as SQLite does (on PostgreSQL: `COLLATE "C"`); prefixes are ranges, so there are no wildcards to escape.

mod clients;
mod entries;
mod overview;
#[cfg(test)]
mod tests;
mod top_ups;
mod troubles;

use super::account::Account;
use crate::db::Row;

pub use clients::{
    ClientRow, KeyRow, SEARCH_CANDIDATES, client_by_id, client_by_public_id, client_keys, list_clients,
};
pub use entries::{EntryRow, client_entries, payer_entries, recent_entries};
pub use overview::{Balances, Overview, REVENUE_ENTRIES, Sum, UnfinishedTopUps, overview};
pub use top_ups::{
    TopUpFilter, TopUpPage, TopUpRow, client_top_ups, list_top_ups, recent_top_ups, top_up_by_id,
};
pub use troubles::{PaymentTrouble, client_troubles};

/// No list gives more rows than this, whatever is asked for.
pub const MAX_ROWS: u32 = 500;

fn bounded(limit: u32) -> i64 {
    i64::from(limit.min(MAX_ROWS))
}

/// The first text behind every text that starts with `prefix`, in the order of bytes.
fn prefix_end(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}

/// An account column. An unknown number means that a newer program wrote the row.
fn account(row: &Row, column: &'static str) -> Result<Account, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    Account::from_number(number).ok_or_else(|| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: format!("there is no account {number}").into(),
    })
}

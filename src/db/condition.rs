//! Whether the database takes writes, and whether it is still the one that this process opened.
//!
//! A full disk, a server that only reads, a file that was deleted: what an API does then cannot be charged, and what a card
//! pays cannot be written down. Whatever writes says here what it met, and the paywall looks here before the API or Stripe is
//! asked for anything; that look is one load. `watch.rs` finds out when it is over.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// In every node there is one of it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Condition(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: AtomicU8,
    why: Mutex<String>,
    /// Whether the writes that are refused stay so until a person does something, as far as that is known.
    lasts: AtomicBool,
    /// Writes are refused since a moment.
    worsened: Notify,
    /// The id of the newest entry that this process knows to be committed; 0: none.
    newest_entry: AtomicI64,
}

const FINE: u8 = 0;
const REFUSES: u8 = 1;
const ANOTHER: u8 = 2;

/// What stands in the way of writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Writes fail, as long as they do.
    Refuses(String),
    /// It is not the one that was opened: nothing must be written.
    Another(String),
}

impl Condition {
    /// Nothing is known to stand in the way of writing.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) == FINE
    }

    /// The database is not the one that this process opened.
    pub(crate) fn is_another(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) == ANOTHER
    }

    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let why = || self.why().clone();
        match self.0.state.load(Ordering::Relaxed) {
            FINE => None,
            REFUSES => Some(Trouble::Refuses(why())),
            _ => Some(Trouble::Another(why())),
        }
    }

    /// What stands in the way of writing is nothing that ends by itself within a minute.
    pub(crate) fn waits_for_a_person(&self) -> bool {
        match self.0.state.load(Ordering::Relaxed) {
            FINE => false,
            REFUSES => self.0.lasts.load(Ordering::Relaxed),
            _ => true,
        }
    }

    fn why(&self) -> std::sync::MutexGuard<'_, String> {
        self.0.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a write has met.
    pub(crate) fn note(&self, error: &sqlx::Error) {
        if says_no_writes(error) {
            self.refuses(error);
            if lasts(error) {
                self.0.lasts.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Writes fail, for whatever reason.
    pub(crate) fn refuses(&self, why: &dyn std::fmt::Display) {
        let state = &self.0.state;
        if state.load(Ordering::Relaxed) != FINE {
            return;
        }
        *self.why() = why.to_string();
        self.0.lasts.store(false, Ordering::Relaxed);
        if state.compare_exchange(FINE, REFUSES, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::error!(
                %why,
                "the database does not take writes: until it does, nothing is sold, the API is not asked for what is to be paid, \
                 and no card is charged"
            );
            self.0.worsened.notify_one();
        }
    }

    /// A write has worked. `false`: something else stands in the way.
    pub(crate) fn takes_writes(&self) -> bool {
        let state = &self.0.state;
        let over = state.compare_exchange(REFUSES, FINE, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if over {
            tracing::warn!("the database takes writes again: what costs something is served again");
        }
        over || self.is_fine()
    }

    /// See [`Trouble::Another`].
    pub(crate) fn became_another(&self, why: &str) {
        *self.why() = why.to_owned();
        if self.0.state.swap(ANOTHER, Ordering::Relaxed) != ANOTHER {
            tracing::error!("{why}. Nothing is sold, and no card is charged, until then");
        }
    }

    /// What was taken away is back, the very same.
    pub(crate) fn is_back(&self) {
        let state = &self.0.state;
        if state.compare_exchange(ANOTHER, FINE, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!("the database file is back, the very same: what costs something is served again");
        }
    }

    /// Until writes begin to fail.
    pub(crate) async fn worsened(&self) {
        self.0.worsened.notified().await;
    }

    /// An entry is committed.
    pub(crate) fn has_entry(&self, id: i64) {
        self.0.newest_entry.fetch_max(id, Ordering::Relaxed);
    }

    /// See [`Self::has_entry`].
    pub(super) fn newest_entry(&self) -> i64 {
        self.0.newest_entry.load(Ordering::Relaxed)
    }
}

/// Whether the database says that it takes no writes at all, rather than not this one: no room, read-only, broken, gone, or
/// about to go.
pub(crate) fn says_no_writes(error: &sqlx::Error) -> bool {
    let Some(code) = error.as_database_error().and_then(sqlx::error::DatabaseError::code) else {
        return false;
    };
    match code.len() {
        // <https://www.postgresql.org/docs/current/errcodes-appendix.html>: insufficient resources, system errors, corrupted;
        // read_only_sql_transaction, the server shuts down or starts; insufficient_privilege, undefined_table,
        // invalid_catalog_name: somebody is restoring something.
        5 => {
            ["53", "57P", "58", "XX"].iter().any(|class| code.starts_with(class))
                || ["25006", "42501", "42P01", "3D000"].contains(&code.as_ref())
        }
        // <https://sqlite.org/rescode.html>, the primary codes: BUSY (for as long as we wait), NOMEM, READONLY, IOERR, CORRUPT,
        // FULL, CANTOPEN, NOTADB.
        _ => code.parse::<u32>().is_ok_and(|code| [5, 7, 8, 10, 11, 13, 14, 26].contains(&(code & 0xff))),
    }
}

/// Whether what [`says_no_writes`] stays so until a person does something: no room, no rights, a broken file or disk. A server that
/// ends or starts, is about to take over, or is short of memory or connections, comes back.
fn lasts(error: &sqlx::Error) -> bool {
    let Some(code) = error.as_database_error().and_then(sqlx::error::DatabaseError::code) else {
        return false;
    };
    match code.len() {
        5 => ["53100", "58030", "42501", "XX001", "XX002"].contains(&code.as_ref()),
        _ => code.parse::<u32>().is_ok_and(|code| [8, 10, 11, 13, 26].contains(&(code & 0xff))),
    }
}

/// Whether a failed statement was refused for lack of something that will not be there in a moment (room, rights, tables): nothing
/// was written, and trying again at once is in vain.
pub(crate) fn is_in_vain(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| {
        let is_of = |class: &str| code.starts_with(class);
        code.len() == 5 && ["53", "58", "42501", "42P01", "3D000"].into_iter().any(is_of)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_fail_are_over_when_one_works_and_another_database_stays_another() {
        let condition = Condition::default();
        assert!(condition.is_fine() && condition.trouble().is_none());
        condition.note(&sqlx::Error::RowNotFound);
        assert!(condition.is_fine(), "that says nothing about writes");
        condition.refuses(&"full");
        condition.refuses(&"fuller");
        assert!(!condition.waits_for_a_person(), "it may end by itself");
        assert_eq!(condition.trouble(), Some(Trouble::Refuses("full".to_owned())));
        assert!(condition.takes_writes() && condition.is_fine());
        condition.became_another("replaced");
        condition.refuses(&"full");
        assert!(!condition.takes_writes() && condition.is_another() && condition.waits_for_a_person());
        assert_eq!(condition.trouble(), Some(Trouble::Another("replaced".to_owned())));
        condition.is_back();
        assert!(condition.is_fine() && !condition.waits_for_a_person());
    }
}

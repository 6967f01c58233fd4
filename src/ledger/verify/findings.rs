//! What is found.

use crate::ledger::account::Account;

/// Findings kept in full; the rest is only counted.
pub(super) const MAX_FINDINGS: usize = 100;

/// What `verify` found.
#[derive(Debug, Default)]
pub struct Verification {
    /// Entries read.
    pub entries: u64,
    /// Clients read.
    pub clients: u64,
    /// Top-ups read.
    pub top_ups: u64,
    /// Top-ups whose outcome is open: no fault, but not yet in the books.
    pub open_top_ups: u64,
    /// Holds of requests that run: no fault.
    pub open_holds: u64,
    /// What is wrong, the first hundred.
    pub findings: Vec<String>,
    /// How much is wrong.
    pub found: u64,
    /// Trial balance: per currency and account, debits minus credits in micros.
    pub trial_balance: Vec<(String, Account, i128)>,
}

impl Verification {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }

    pub(super) fn find(&mut self, what: String) {
        self.found = self.found.saturating_add(1);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(what);
        }
    }
}

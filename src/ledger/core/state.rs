//! A wallet, and what one movement makes of it.

use super::EntryId;
use super::entries::Leg;
use super::outcome::Refusal;
use crate::domain::{Currency, Micros};
use crate::ledger::account::Account;

/// A client's balances, as posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientState {
    /// Fixed by the client's first top-up.
    pub currency: Currency,
    /// Credit that was paid for.
    pub paid: Micros,
    /// Credit that was given on top.
    pub bonus: Micros,
    /// What the client owes after money was taken back that it had spent.
    pub debt: Micros,
    /// Entries so far.
    pub sequence: i64,
    /// The newest entry.
    pub last_entry: Option<EntryId>,
    /// An operator or a dispute stopped this client from spending.
    pub frozen: bool,
}

impl ClientState {
    /// A client without any entry.
    #[must_use]
    pub fn new(currency: Currency) -> Self {
        Self {
            currency,
            paid: Micros::ZERO,
            bonus: Micros::ZERO,
            debt: Micros::ZERO,
            sequence: 0,
            last_entry: None,
            frozen: false,
        }
    }

    /// What can be spent, reservations aside: nothing while there is debt, whatever the bonus.
    #[must_use]
    pub fn spendable(&self) -> Micros {
        if self.is_frozen() { Micros::ZERO } else { self.credit() }
    }

    /// Paid and bonus credit together.
    #[must_use]
    pub fn credit(&self) -> Micros {
        self.paid.checked_add(self.bonus).unwrap_or(Micros::MAX)
    }

    /// Frozen by decision or by debt.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen || !self.debt.is_zero()
    }
}

/// The client's balances after one movement. Liabilities grow by credits, the asset `ClientDebt` by debits.
pub(super) fn moved(mut state: ClientState, leg: Leg) -> Result<ClientState, Refusal> {
    let grow = |balance: Micros| balance.checked_add(leg.amount).ok_or(Refusal::OutOfRange);
    let shrink = |balance: Micros| balance.checked_sub(leg.amount).ok_or(Refusal::InsufficientCredits);
    match leg.debit {
        Account::ClientPaid => state.paid = shrink(state.paid)?,
        Account::ClientBonus => state.bonus = shrink(state.bonus)?,
        Account::ClientDebt => state.debt = grow(state.debt)?,
        _ => {}
    }
    match leg.credit {
        Account::ClientPaid => state.paid = grow(state.paid)?,
        Account::ClientBonus => state.bonus = grow(state.bonus)?,
        Account::ClientDebt => state.debt = shrink(state.debt)?,
        _ => {}
    }
    Ok(state)
}

//! What a card may be charged for a wallet: one decision for what is offered and for what callers send. Pure.
//!
//! Everything chargeable between two ends is accepted, and nothing else. That needs bonuses that do not shrink from pack to pack,
//! which the configuration makes sure of: so what the wallet would hold afterwards grows with the amount.

use crate::config::TopUpConfig;
use crate::domain::{Currency, Micros};
use crate::ledger::ClientState;

/// The rules, from the settings.
#[derive(Debug, Clone)]
pub struct Amounts {
    currency: Currency,
    limits: TopUpConfig,
}

/// What is accepted: both ends, and everything chargeable between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The smallest, which is also what is charged when no amount is named.
    pub least: Micros,
    /// The largest.
    pub most: Micros,
}

/// Why an amount cannot be charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmountProblem {
    /// Below what lets the request through.
    BelowMinimum,
    /// Above what may be charged at once.
    AboveMaximum,
    /// Not a whole number of the currency's smallest coin.
    NotChargeable,
    /// The balance would grow beyond what a client may hold.
    BalanceLimit,
    /// No amount would do: the debt and the price are together more than one top-up may be.
    DebtAboveMaximum,
    /// No amount would do: the wallet holds too much.
    WalletFull,
    /// No amount would do: the wallet is frozen by decision.
    Frozen,
}

impl Amounts {
    /// The rules for these settings, which have been checked.
    #[must_use]
    pub fn new(limits: TopUpConfig, currency: Currency) -> Self {
        Self { currency, limits }
    }

    /// The settings.
    #[must_use]
    pub fn limits(&self) -> &TopUpConfig {
        &self.limits
    }

    /// Of every amount.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// What is accepted from a wallet for a request at this price; without a price, for credit alone. `state`: `None` for who has no
    /// wallet yet.
    ///
    /// # Errors
    /// Why there is no such amount.
    pub fn range(&self, price: Micros, state: Option<&ClientState>) -> Result<Range, AmountProblem> {
        if state.is_some_and(|state| state.frozen) {
            return Err(AmountProblem::Frozen);
        }
        let debt = state.map_or(Micros::ZERO, |state| state.debt);
        let least = self.least(price, state).filter(|least| *least <= self.limits.maximum);
        let Some(least) = least else {
            return Err(match debt.is_zero() {
                true => AmountProblem::AboveMaximum,
                false => AmountProblem::DebtAboveMaximum,
            });
        };
        let fits = self.fits(state);
        // Whoever wants to pay a debt is not kept from it by what the wallet holds: nothing of that can be spent before.
        let most = if debt.is_zero() { fits } else { fits.max(Some(least)) };
        match most.filter(|most| *most >= least) {
            Some(most) => Ok(Range { least, most }),
            None => Err(AmountProblem::WalletFull),
        }
    }

    /// The amount to charge: what was asked for, or else the smallest.
    ///
    /// # Errors
    /// [`AmountProblem`]; nothing may be sent to Stripe then.
    pub fn choose(
        &self,
        asked: Option<Micros>,
        price: Micros,
        state: Option<&ClientState>,
    ) -> Result<Micros, AmountProblem> {
        let range = self.range(price, state)?;
        let amount = asked.unwrap_or(range.least);
        if amount < range.least {
            return Err(AmountProblem::BelowMinimum);
        }
        if amount > self.limits.maximum {
            return Err(AmountProblem::AboveMaximum);
        }
        if self.currency.micros_to_minor(amount).is_none() {
            return Err(AmountProblem::NotChargeable);
        }
        if amount > range.most {
            return Err(AmountProblem::BalanceLimit);
        }
        Ok(amount)
    }

    /// Bonus of the largest pack that the amount reaches.
    #[must_use]
    pub fn bonus_for(&self, amount: Micros) -> Micros {
        self.limits.bonus_for(amount)
    }

    /// The smallest charge that lets a request at this price through. Credit alone has no price, and a debt is then paid in parts as
    /// large as one likes.
    fn least(&self, price: Micros, state: Option<&ClientState>) -> Option<Micros> {
        if price.is_zero() {
            return Some(self.limits.minimum);
        }
        let (credit, debt) = state.map_or((Micros::ZERO, Micros::ZERO), |s| (s.credit(), s.debt));
        let owed = price.checked_add(debt)?.saturating_sub(credit);
        // Debt must be repaid in full before anything can be spent, bonus credit or not.
        let chargeable = self.currency.round_up_to_chargeable(owed.max(debt))?;
        Some(self.limits.minimum.max(chargeable))
    }

    /// The largest charge after which the wallet holds no more than it may.
    fn fits(&self, state: Option<&ClientState>) -> Option<Micros> {
        let (credit, debt) = state.map_or((Micros::ZERO, Micros::ZERO), |s| (s.credit(), s.debt));
        let step = self.currency.charge_step();
        let mut end = self.limits.maximum;
        for pack in self.limits.options.iter().rev() {
            // From this pack up to the next: one bonus.
            let room =
                self.limits.max_balance.checked_sub(credit).and_then(|room| room.checked_sub(pack.bonus));
            let most = room.map(|room| room.checked_add(debt).unwrap_or(Micros::MAX).min(end));
            if let Some(most) =
                most.and_then(|most| self.round_down(most)).filter(|most| *most >= pack.amount)
            {
                return Some(most);
            }
            end = pack.amount.saturating_sub(step);
        }
        None
    }

    fn round_down(&self, amount: Micros) -> Option<Micros> {
        let over = amount.get().checked_rem(self.currency.charge_step().get())?;
        amount.get().checked_sub(over).and_then(Micros::new)
    }
}

#[cfg(test)]
mod tests;

//! Credit that comes and goes without a request: top-ups, what is taken back and comes back again, fees, and what operators give.

use super::batch::Batch;
use super::commands::{Adjust, Clawback, Fee, Gift, PayOut, Reinstate, TopUp, Within};
use super::entries::{About, Entry, Leg};
use super::outcome::{Outcome, Refusal};
use crate::domain::Micros;
use crate::ledger::account::{Account, Rail};
use crate::ledger::source::SourceKind;

impl Batch {
    pub(super) fn top_up(&mut self, top_up: &TopUp) -> Result<Outcome, Refusal> {
        if self.find(&top_up.source).is_some_and(|first| first.currency != top_up.currency) {
            return Err(Refusal::SourceConflict);
        }
        let totals = [(Account::Clearing(Rail::Stripe), top_up.amount), (Account::Promotion, top_up.bonus)];
        if let Some(outcome) = self.repeat(&top_up.source, top_up.client, &totals) {
            return outcome;
        }
        let state = self.client(top_up.client)?;
        if state.currency != top_up.currency {
            return Err(Refusal::CurrencyMismatch);
        }
        let repaid = state.debt.min(top_up.amount);
        let credited = top_up.amount.checked_sub(repaid).ok_or(Refusal::OutOfRange)?;
        let legs = [
            Leg { debit: Account::Clearing(Rail::Stripe), credit: Account::ClientDebt, amount: repaid },
            Leg { debit: Account::Clearing(Rail::Stripe), credit: Account::ClientPaid, amount: credited },
            Leg { debit: Account::Promotion, credit: Account::ClientBonus, amount: top_up.bonus },
        ];
        self.post(top_up.client, &top_up.source, &legs, About::default())
    }

    pub(super) fn clawback(&mut self, clawback: &Clawback) -> Result<Outcome, Refusal> {
        let forfeited = moved_by(&self.legs_of(&clawback.source), Account::Promotion)?;
        if forfeited > clawback.forfeits {
            return Err(Refusal::SourceConflict);
        }
        let totals = [(clawback.to, clawback.amount), (Account::Promotion, forfeited)];
        if let Some(outcome) = self.repeat(&clawback.source, clawback.client, &totals) {
            return outcome;
        }
        let state = self.client(clawback.client)?;
        if clawback.amount.is_zero() {
            // Without money there is nothing that bonus could go with.
            return Err(Refusal::OutOfRange);
        }
        let forfeited = clawback.forfeits.min(state.bonus);
        if let Within::Credit { reserved } = clawback.within {
            if !state.debt.is_zero() || clawback.amount > state.paid {
                return Err(Refusal::InsufficientCredits);
            }
            let taken = clawback.amount.checked_add(forfeited).ok_or(Refusal::OutOfRange)?;
            if state.credit().saturating_sub(taken) < reserved {
                return Err(Refusal::ReservationsInFlight);
            }
        }
        let from_paid = state.paid.min(clawback.amount);
        let owed = clawback.amount.checked_sub(from_paid).ok_or(Refusal::OutOfRange)?;
        let legs = [
            Leg { debit: Account::ClientPaid, credit: clawback.to, amount: from_paid },
            Leg { debit: Account::ClientDebt, credit: clawback.to, amount: owed },
            Leg { debit: Account::ClientBonus, credit: Account::Promotion, amount: forfeited },
        ];
        self.post(clawback.client, &clawback.source, &legs, About::default())
    }

    pub(super) fn pay_out(&mut self, pay_out: &PayOut) -> Result<Outcome, Refusal> {
        let taken = self.legs_of(&pay_out.refund);
        if taken.iter().any(|leg| leg.client != pay_out.client) {
            return Err(Refusal::SourceConflict);
        }
        let amount = moved_by(&taken, Account::RefundPending)?;
        if amount.is_zero() {
            return Err(Refusal::NothingToReverse);
        }
        let source = pay_out.refund.sibling(SourceKind::RefundPaid);
        if let Some(outcome) = self.repeat(&source, pay_out.client, &[(Account::RefundPending, amount)]) {
            return outcome;
        }
        if self.find(&pay_out.refund.sibling(SourceKind::RefundReturn)).is_some() {
            return Err(Refusal::SourceConflict);
        }
        let leg = Leg { debit: Account::RefundPending, credit: Account::Clearing(Rail::Stripe), amount };
        self.post(pay_out.client, &source, &[leg], About::default())
    }

    /// Debt is repaid first, whatever it came from, and the rest is paid credit again; so is the bonus that was forfeited.
    pub(super) fn reinstate(&mut self, reinstate: &Reinstate) -> Result<Outcome, Refusal> {
        let taken = self.legs_of(&reinstate.of);
        let to = taken.first().ok_or(Refusal::NothingToReverse)?.credit;
        if taken.iter().any(|leg| leg.client != reinstate.client) {
            return Err(Refusal::SourceConflict);
        }
        let total = moved_by(&taken, to)?;
        let amount = reinstate.amount.unwrap_or(total);
        let forfeited = match reinstate.amount {
            None => moved_by(&taken, Account::Promotion)?,
            Some(_) => Micros::ZERO,
        };
        // A refund that had left for the card comes back to where it had come from.
        let has_left = to == Account::RefundPending
            && self.find(&reinstate.of.sibling(SourceKind::RefundPaid)).is_some();
        let from = match self.find(&reinstate.source).map(|first| first.debit) {
            // Asked for again: it may have left only after a part had come back.
            Some(before) if before == to => to,
            _ if has_left => Account::Clearing(Rail::Stripe),
            _ => to,
        };
        let totals = [(from, amount), (Account::Promotion, forfeited)];
        if let Some(outcome) = self.repeat(&reinstate.source, reinstate.client, &totals) {
            return outcome;
        }
        if amount > total {
            return Err(Refusal::SourceConflict);
        }
        let repaid = self.client(reinstate.client)?.debt.min(amount);
        let credited = amount.checked_sub(repaid).ok_or(Refusal::OutOfRange)?;
        let legs = [
            Leg { debit: from, credit: Account::ClientDebt, amount: repaid },
            Leg { debit: from, credit: Account::ClientPaid, amount: credited },
            Leg { debit: Account::Promotion, credit: Account::ClientBonus, amount: forfeited },
        ];
        self.post(reinstate.client, &reinstate.source, &legs, About::default())
    }

    pub(super) fn fee(&mut self, fee: &Fee) -> Result<Outcome, Refusal> {
        let totals = [(fee.account, fee.amount)];
        if let Some(outcome) = self.repeat(&fee.source, fee.client, &totals) {
            return outcome;
        }
        let (debit, credit) = match fee.is_returned {
            false => (fee.account, Account::Clearing(Rail::Stripe)),
            true => (Account::Clearing(Rail::Stripe), fee.account),
        };
        self.post(fee.client, &fee.source, &[Leg { debit, credit, amount: fee.amount }], About::default())
    }

    pub(super) fn adjust(&mut self, adjust: &Adjust) -> Result<Outcome, Refusal> {
        let to = match adjust.gift {
            Gift::Credit => Account::ClientBonus,
            Gift::Forgiveness => Account::ClientDebt,
        };
        let totals = [(Account::Adjustment, adjust.amount)];
        if let Some(outcome) = self.repeat(&adjust.source, adjust.client, &totals) {
            return match self.find(&adjust.source).is_some_and(|first| first.credit == to) {
                true => outcome,
                false => Err(Refusal::SourceConflict),
            };
        }
        if adjust.gift == Gift::Forgiveness && adjust.amount > self.client(adjust.client)?.debt {
            return Err(Refusal::ExceedsDebt);
        }
        let leg = Leg { debit: Account::Adjustment, credit: to, amount: adjust.amount };
        self.post(adjust.client, &adjust.source, &[leg], About::default())
    }
}

/// What these entries move into or out of an account.
fn moved_by(legs: &[Entry], account: Account) -> Result<Micros, Refusal> {
    legs.iter()
        .filter(|leg| leg.debit == account || leg.credit == account)
        .try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount))
        .ok_or(Refusal::OutOfRange)
}

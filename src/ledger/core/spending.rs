//! What requests do to credit: capture, hold, release, settle, and give back.

use super::ClientId;
use super::batch::Batch;
use super::commands::{Capture, Hold, Release, Reverse, Settle};
use super::entries::{About, Entry, Leg, Part};
use super::outcome::{Outcome, Refusal};
use crate::domain::Micros;
use crate::ledger::account::Account;
use crate::ledger::source::{Source, SourceKind};

impl Batch {
    pub(super) fn capture(&mut self, capture: &Capture) -> Result<Outcome, Refusal> {
        if let Some(outcome) =
            self.repeat(&capture.source, capture.client, &[(Account::Revenue, capture.price)])
        {
            return outcome;
        }
        if capture.held {
            let settled = |_| (Account::Holds, Account::Revenue);
            let hold = capture.source.sibling(SourceKind::Hold);
            let legs = self.held_legs(capture.client, &hold, capture.price, settled)?;
            return self.post(capture.client, &capture.source, &legs, capture.about());
        }
        let legs = self.spending_legs(capture.client, capture.price, Account::Revenue)?;
        self.post(capture.client, &capture.source, &legs, capture.about())
    }

    pub(super) fn hold(&mut self, hold: &Hold) -> Result<Outcome, Refusal> {
        if let Some(outcome) = self.repeat(&hold.source, hold.client, &[(Account::Holds, hold.amount)]) {
            return outcome;
        }
        let legs = self.spending_legs(hold.client, hold.amount, Account::Holds)?;
        self.post(hold.client, &hold.source, &legs, About { key: hold.key, ..About::default() })
    }

    pub(super) fn release(&mut self, release: &Release) -> Result<Outcome, Refusal> {
        let held = self.legs_of(&release.hold);
        if held.iter().any(|leg| leg.credit != Account::Holds) {
            return Err(Refusal::NoHold);
        }
        let total = held
            .iter()
            .try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount))
            .ok_or(Refusal::OutOfRange)?;
        if self.find(&release.hold.sibling(SourceKind::Usage)).is_some() {
            // What went back by then was the rest of what was charged.
            return Err(Refusal::NoHold);
        }
        let source = release.hold.sibling(SourceKind::Release);
        if let Some(outcome) = self.repeat(&source, release.client, &[(Account::Holds, total)]) {
            return outcome;
        }
        let legs =
            self.held_legs(release.client, &release.hold, total, |taken_from| (Account::Holds, taken_from))?;
        self.post(release.client, &source, &legs, About::default())
    }

    pub(super) fn settle(&mut self, settle: &Settle) -> Result<Outcome, Refusal> {
        if !settle.charges() {
            return self.release(&settle.release());
        }
        let usage = settle.usage();
        if let Some(outcome) = self.repeat(&usage, settle.client, &[(Account::Revenue, settle.amount)]) {
            // Charged without a hold, it was another request.
            let is_of_hold = self.find(&usage).is_some_and(|first| first.debit == Account::Holds);
            return if is_of_hold { outcome } else { Err(Refusal::SourceConflict) };
        }
        let release = settle.hold.sibling(SourceKind::Release);
        let held = self.legs_of(&settle.hold);
        if held.is_empty()
            || held.iter().any(|leg| leg.credit != Account::Holds)
            || self.find(&release).is_some()
        {
            return Err(Refusal::NoHold);
        }
        if held.iter().any(|leg| leg.client != settle.client) {
            return Err(Refusal::SourceConflict);
        }
        // The hold's legs are in the order in which credit is spent, and so is what is charged of them.
        let mut left = settle.amount;
        let (mut charged, mut back) = (Vec::with_capacity(held.len()), Vec::with_capacity(held.len()));
        for leg in &held {
            let charge = left.min(leg.amount);
            let rest = leg.amount.checked_sub(charge).ok_or(Refusal::OutOfRange)?;
            left = left.checked_sub(charge).ok_or(Refusal::OutOfRange)?;
            charged.push(Leg { debit: Account::Holds, credit: Account::Revenue, amount: charge });
            back.push(Leg { debit: Account::Holds, credit: leg.debit, amount: rest });
        }
        if !left.is_zero() {
            return Err(Refusal::ExceedsHold);
        }
        let parts = [
            Part { source: &usage, legs: &charged, about: settle.about() },
            Part { source: &release, legs: &back, about: About::default() },
        ];
        self.post_parts(settle.client, &parts)
    }

    /// Paid credit first, then bonus.
    fn spending_legs(&self, client: ClientId, amount: Micros, to: Account) -> Result<[Leg; 2], Refusal> {
        let state = self.client(client)?;
        if state.is_frozen() {
            return Err(Refusal::ClientFrozen);
        }
        let from_paid = state.paid.min(amount);
        let from_bonus = amount.checked_sub(from_paid).ok_or(Refusal::OutOfRange)?;
        if from_bonus > state.bonus {
            return Err(Refusal::InsufficientCredits);
        }
        Ok([
            Leg { debit: Account::ClientPaid, credit: to, amount: from_paid },
            Leg { debit: Account::ClientBonus, credit: to, amount: from_bonus },
        ])
    }

    /// What ends a hold: one leg for each of the hold's. The debit and credit follow from the account it was taken from. A
    /// hold ends once: settled by a capture or released. That the client has been frozen since does not matter.
    fn held_legs(
        &self,
        client: ClientId,
        hold: &Source,
        amount: Micros,
        accounts: impl Fn(Account) -> (Account, Account),
    ) -> Result<Vec<Leg>, Refusal> {
        let held = self.legs_of(hold);
        let has_ended = |by| self.find(&hold.sibling(by)).is_some();
        if held.is_empty() || has_ended(SourceKind::Release) || has_ended(SourceKind::Usage) {
            return Err(Refusal::NoHold);
        }
        let total = held.iter().try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount));
        if total != Some(amount) || held.iter().any(|leg| leg.client != client) {
            return Err(Refusal::SourceConflict);
        }
        let leg = |leg: &Entry| {
            let (debit, credit) = accounts(leg.debit);
            Leg { debit, credit, amount: leg.amount }
        };
        Ok(held.iter().map(leg).collect())
    }

    pub(super) fn reverse(&mut self, reverse: &Reverse) -> Result<Outcome, Refusal> {
        let captured = self.legs_of(&reverse.capture);
        let Some(first) = captured.first() else {
            return Err(Refusal::NothingToReverse);
        };
        if captured.iter().any(|leg| leg.credit != Account::Revenue) {
            return Err(Refusal::NothingToReverse);
        }
        let client = first.client;
        let source = reverse.capture.sibling(SourceKind::Reversal);
        let total = captured
            .iter()
            .try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount))
            .ok_or(Refusal::OutOfRange)?;
        if let Some(outcome) = self.repeat(&source, client, &[(Account::Revenue, total)]) {
            return outcome;
        }
        // What was captured from a hold goes back to where the hold had taken it from.
        let held = self.legs_of(&reverse.capture.sibling(SourceKind::Hold));
        let taken_from = |nth: usize, leg: &Entry| match leg.debit {
            Account::Holds => held.get(nth).map(|hold| hold.debit).ok_or(Refusal::NothingToReverse),
            debit => Ok(debit),
        };
        let legs = captured
            .iter()
            .enumerate()
            .map(|(nth, leg)| {
                Ok(Leg { debit: leg.credit, credit: taken_from(nth, leg)?, amount: leg.amount })
            })
            .collect::<Result<Vec<Leg>, Refusal>>()?;
        self.post(client, &source, &legs, About::default())
    }
}

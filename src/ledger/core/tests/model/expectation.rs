//! The model: what must become of a command, by the design.

use std::collections::HashMap;

use super::*;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wallet {
    pub(super) paid: i64,
    pub(super) bonus: i64,
    pub(super) debt: i64,
}

/// What was done under a source, with what is needed to undo it.
#[derive(Debug, Clone, PartialEq)]
struct Done {
    command: Command,
    client: ClientId,
    paid: i64,
    bonus: i64,
    /// What it takes of other accounts, as debits minus credits.
    others: Vec<(Account, i64)>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) wallets: BTreeMap<ClientId, Wallet>,
    done: BTreeMap<Source, Done>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Added,
    Repeated,
    Refused(Refusal),
}

/// Two commands that ask for the same money to move.
fn same_content(a: &Command, b: &Command) -> bool {
    match (a, b) {
        (Command::Settle(a), Command::Settle(b)) => (a.client, a.amount) == (b.client, b.amount),
        // For the whole of it, a hold ends either way; without a hold, it was another request.
        (Command::Capture(a), Command::Settle(b)) => a.held && (a.client, a.price) == (b.client, b.amount),
        (Command::Settle(a), Command::Capture(b)) => (a.client, a.amount) == (b.client, b.price),
        // Where the money was spent is not part of it: the price and the client are.
        (Command::Capture(a), Command::Capture(b)) => (a.client, a.price) == (b.client, b.price),
        // What was set aside when it was asked for is not part of it, nor is bonus that had been spent.
        (Command::Clawback(a), Command::Clawback(b)) => {
            (a.client, a.amount, a.to) == (b.client, b.amount, b.to)
        }
        (Command::Fee(a), Command::Fee(b)) => {
            (a.client, a.amount, a.account) == (b.client, b.amount, b.account)
        }
        (a, b) => a == b,
    }
}

impl Model {
    pub(super) fn currency_of(client: ClientId) -> Currency {
        if client == 3 { eur() } else { Currency::USD }
    }

    pub(super) fn expect(&mut self, command: &Command) -> Expected {
        if let Command::Settle(s) = command
            && s.amount.is_zero()
        {
            return self.expect(&Command::Release(Release { client: s.client, hold: s.hold.clone() }));
        }
        let source = command.source();
        if let Command::Release(r) = command
            && (self.done.get(&r.hold).is_some_and(|done| !matches!(done.command, Command::Hold(_)))
                // Charged, from the hold or beside it: nothing is to be released, whatever was before.
                || self.done.contains_key(&r.hold.sibling(SourceKind::Usage)))
        {
            return Expected::Refused(Refusal::NoHold);
        }
        if let Command::Reverse(r) = command
            && !matches!(
                self.done.get(&r.capture),
                Some(Done { command: Command::Capture(_) | Command::Settle(_), .. })
            )
        {
            return Expected::Refused(Refusal::NothingToReverse);
        }
        if let Some(refused) = self.refused_before_all(command) {
            return Expected::Refused(refused);
        }
        if let Some(done) = self.done.get(&source) {
            let same = same_content(&done.command, command);
            return if same { Expected::Repeated } else { Expected::Refused(Refusal::SourceConflict) };
        }
        if let Some(ended) = self.ends_a_hold(command) {
            return ended;
        }
        let client = match command {
            Command::Capture(c) => c.client,
            Command::TopUp(t) => t.client,
            Command::Clawback(c) => c.client,
            Command::Hold(h) => h.client,
            Command::Release(r) => r.client,
            Command::Settle(s) => s.client,
            Command::Reverse(r) => self.done[&r.capture].client,
            Command::PayOut(p) => p.client,
            Command::Reinstate(r) => r.client,
            Command::Fee(f) => f.client,
            Command::Adjust(a) => a.client,
        };
        let Some(before) = self.wallets.get(&client).copied() else {
            return Expected::Refused(Refusal::UnknownClient);
        };
        if matches!(command, Command::Clawback(c) if c.amount.is_zero()) {
            return Expected::Refused(Refusal::OutOfRange);
        }
        match self.after(command, client, before) {
            Err(refusal) => Expected::Refused(refusal),
            Ok(after) if after == before && self.others(command, before).is_empty() => {
                Expected::Refused(Refusal::OutOfRange)
            }
            Ok(after) if [after.paid, after.bonus, after.debt].iter().any(|balance| *balance > MAX) => {
                Expected::Refused(Refusal::OutOfRange)
            }
            Ok(after) => {
                let (paid, bonus) = (before.paid - after.paid, before.bonus - after.bonus);
                let others = self.others(command, before);
                self.done.insert(source, Done { command: command.clone(), client, paid, bonus, others });
                self.wallets.insert(client, after);
                Expected::Added
            }
        }
    }

    /// What becomes of a command that needs a hold, unless that is a matter of balances. `None`: it is.
    fn ends_a_hold(&mut self, command: &Command) -> Option<Expected> {
        let (client, hold, amount) = match command {
            Command::Capture(c) if c.held => (c.client, c.source.sibling(SourceKind::Hold), Some(c.price)),
            Command::Release(r) => (r.client, r.hold.clone(), None),
            Command::Settle(s) => (s.client, s.hold.clone(), None),
            _ => return None,
        };
        let ends = [SourceKind::Usage, SourceKind::Release];
        let over = ends.into_iter().any(|end| self.done.contains_key(&hold.sibling(end)));
        let Some(Done { command: Command::Hold(held), paid, bonus, .. }) = self.done.get(&hold).cloned()
        else {
            return Some(Expected::Refused(Refusal::NoHold));
        };
        if over {
            return Some(Expected::Refused(Refusal::NoHold));
        }
        if held.client != client || amount.is_some_and(|amount| amount != held.amount) {
            return Some(Expected::Refused(Refusal::SourceConflict));
        }
        if matches!(command, Command::Release(_)) {
            return None;
        }
        if let Command::Settle(s) = command {
            return Some(self.settle(s, held.amount.get(), (paid, bonus)));
        }
        // The wallet has paid already, whatever has become of it since; what was taken from where is still the hold's.
        let others = vec![(Account::Revenue, -held.amount.get()), (Account::Holds, held.amount.get())];
        self.done.insert(command.source(), Done { command: command.clone(), client, paid, bonus, others });
        Some(Expected::Added)
    }

    /// What a request came to is charged to the paid credit that was set aside, then to the bonus; what is left of each is back.
    fn settle(&mut self, settle: &Settle, held: i64, (paid, bonus): (i64, i64)) -> Expected {
        let amount = settle.amount.get();
        if amount > held {
            return Expected::Refused(Refusal::ExceedsHold);
        }
        let (from_paid, from_bonus) = (amount.min(paid), (amount - paid).max(0));
        let wallet = self.wallets.get_mut(&settle.client).unwrap();
        let after = Wallet {
            paid: wallet.paid + paid - from_paid,
            bonus: wallet.bonus + bonus - from_bonus,
            debt: wallet.debt,
        };
        if after.paid > MAX || after.bonus > MAX {
            return Expected::Refused(Refusal::OutOfRange);
        }
        *wallet = after;
        let others = vec![(Account::Revenue, -amount), (Account::Holds, held)];
        let command = Command::Settle(settle.clone());
        let done = Done { command, client: settle.client, paid: from_paid, bonus: from_bonus, others };
        self.done.insert(settle.usage(), done);
        Expected::Added
    }

    /// A clawback that is in the books: what it asked for, and the bonus that it forfeited.
    fn clawed(&self, source: &Source) -> Option<(&Clawback, i64)> {
        match self.done.get(source) {
            Some(Done { command: Command::Clawback(clawback), bonus, .. }) => Some((clawback, *bonus)),
            _ => None,
        }
    }

    /// What cannot be, whether it was asked for before or not.
    fn refused_before_all(&self, command: &Command) -> Option<Refusal> {
        match command {
            // Less than it forfeited is another refund.
            Command::Clawback(c) => self
                .clawed(&c.source)
                .filter(|(_, bonus)| c.forfeits.get() < *bonus)
                .map(|_| Refusal::SourceConflict),
            Command::PayOut(p) => match self.clawed(&p.refund) {
                Some((of, _)) if of.client != p.client => Some(Refusal::SourceConflict),
                Some((of, _)) if of.to != Account::RefundPending => Some(Refusal::NothingToReverse),
                Some(_) if self.done.contains_key(&p.refund.sibling(SourceKind::RefundReturn)) => {
                    let left = self.done.contains_key(&p.refund.sibling(SourceKind::RefundPaid));
                    (!left).then_some(Refusal::SourceConflict)
                }
                Some(_) => None,
                None => Some(Refusal::NothingToReverse),
            },
            Command::Reinstate(r) => match self.clawed(&r.of) {
                Some((of, _)) if of.client != r.client => Some(Refusal::SourceConflict),
                Some((of, _)) if r.amount.is_some_and(|amount| amount > of.amount) => {
                    Some(Refusal::SourceConflict)
                }
                Some(_) => None,
                None => Some(Refusal::NothingToReverse),
            },
            _ => None,
        }
    }

    /// What a command that is accepted moves outside of the wallets: debits minus credits.
    fn others(&self, command: &Command, before: Wallet) -> Vec<(Account, i64)> {
        let of = |source: &Source| match &self.done[source].command {
            Command::Capture(c) => c.price.get(),
            Command::Settle(s) => s.amount.get(),
            Command::Hold(h) => h.amount.get(),
            other => panic!("{other:?}"),
        };
        let mut others = match command {
            // What ends a hold has been dealt with.
            Command::Settle(_) => unreachable!("{command:?}"),
            Command::Capture(c) => vec![(Account::Revenue, -c.price.get())],
            Command::Hold(h) => vec![(Account::Holds, -h.amount.get())],
            Command::Release(r) => vec![(Account::Holds, of(&r.hold))],
            Command::Reverse(r) => vec![(Account::Revenue, of(&r.capture))],
            Command::TopUp(t) => {
                vec![(Account::Clearing(Rail::Stripe), t.amount.get()), (Account::Promotion, t.bonus.get())]
            }
            Command::Clawback(c) => {
                vec![(c.to, -c.amount.get()), (Account::Promotion, -c.forfeits.get().min(before.bonus))]
            }
            Command::PayOut(p) => {
                let amount = self.clawed(&p.refund).unwrap().0.amount.get();
                vec![(Account::RefundPending, amount), (Account::Clearing(Rail::Stripe), -amount)]
            }
            Command::Reinstate(r) => {
                let (of, forfeited) = self.clawed(&r.of).unwrap();
                let has_left = of.to == Account::RefundPending
                    && self.done.contains_key(&r.of.sibling(SourceKind::RefundPaid));
                let from = if has_left { Account::Clearing(Rail::Stripe) } else { of.to };
                let amount = r.amount.unwrap_or(of.amount).get();
                vec![(from, amount), (Account::Promotion, if r.amount.is_none() { forfeited } else { 0 })]
            }
            Command::Fee(f) => {
                let amount = if f.is_returned { -f.amount.get() } else { f.amount.get() };
                vec![(f.account, amount), (Account::Clearing(Rail::Stripe), -amount)]
            }
            Command::Adjust(a) => vec![(Account::Adjustment, a.amount.get())],
        };
        others.retain(|(_, amount)| *amount != 0);
        others
    }

    fn after(&self, command: &Command, client: ClientId, before: Wallet) -> Result<Wallet, Refusal> {
        let mut after = before;
        match command {
            Command::Capture(Capture { price: amount, .. }) | Command::Hold(Hold { amount, .. }) => {
                if client == 4 || before.debt > 0 {
                    return Err(Refusal::ClientFrozen);
                }
                if amount.get() > before.paid + before.bonus {
                    return Err(Refusal::InsufficientCredits);
                }
                after.paid = (before.paid - amount.get()).max(0);
                after.bonus -= (amount.get() - before.paid).max(0);
            }
            Command::Release(r) => {
                after.paid += self.done[&r.hold].paid;
                after.bonus += self.done[&r.hold].bonus;
            }
            Command::TopUp(t) if t.currency != Self::currency_of(client) => {
                return Err(Refusal::CurrencyMismatch);
            }
            Command::TopUp(t) => {
                after.debt = (before.debt - t.amount.get()).max(0);
                after.paid += (t.amount.get() - before.debt).max(0);
                after.bonus += t.bonus.get();
            }
            Command::Reverse(r) => {
                after.paid += self.done[&r.capture].paid;
                after.bonus += self.done[&r.capture].bonus;
            }
            Command::Clawback(c) => {
                let (amount, forfeited) = (c.amount.get(), c.forfeits.get().min(before.bonus));
                if let Within::Credit { reserved } = c.within {
                    if before.debt > 0 || amount > before.paid {
                        return Err(Refusal::InsufficientCredits);
                    }
                    if before.paid + before.bonus - amount - forfeited < reserved.get() {
                        return Err(Refusal::ReservationsInFlight);
                    }
                }
                after.bonus -= forfeited;
                after.paid = (before.paid - amount).max(0);
                after.debt += (amount - before.paid).max(0);
            }
            Command::Reinstate(r) => {
                let (of, forfeited) = self.clawed(&r.of).unwrap();
                let amount = r.amount.unwrap_or(of.amount).get();
                after.debt = (before.debt - amount).max(0);
                after.paid += (amount - before.debt).max(0);
                after.bonus += if r.amount.is_none() { forfeited } else { 0 };
            }
            Command::Settle(_) => unreachable!("{command:?}"),
            Command::PayOut(_) | Command::Fee(_) => {}
            Command::Adjust(a) if a.gift == Gift::Credit => after.bonus += a.amount.get(),
            Command::Adjust(a) if a.amount.get() > before.debt => return Err(Refusal::ExceedsDebt),
            Command::Adjust(a) => after.debt -= a.amount.get(),
        }
        Ok(after)
    }
}

impl Model {
    /// Debits minus credits of every account outside the wallets, from what was done.
    pub(super) fn other_accounts(&self) -> HashMap<(&'static str, Account), i128> {
        let mut sums: HashMap<(&'static str, Account), i128> = HashMap::new();
        for done in self.done.values() {
            let currency = if done.client == 3 { "eur" } else { "usd" };
            let mut add = |account, amount: i128| *sums.entry((currency, account)).or_default() += amount;
            for (account, amount) in &done.others {
                add(*account, i128::from(*amount));
            }
        }
        sums.retain(|_, sum| *sum != 0);
        sums
    }
}

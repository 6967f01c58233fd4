//! The books under test.

use std::collections::{HashMap, HashSet};

use super::expectation::Wallet;
use super::*;

/// What the shell would keep in the database.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) clients: HashMap<ClientId, ClientState>,
    pub(super) entries: Vec<Entry>,
}

impl Books {
    pub(super) fn open() -> (Self, Model) {
        let (mut books, mut model) = (Self::default(), Model::default());
        for id in CLIENTS.into_iter().filter(|id| *id != 9) {
            let new = ClientState::new(Model::currency_of(id));
            books.clients.insert(id, ClientState { frozen: id == 4, ..new });
            model.wallets.insert(id, Wallet::default());
        }
        (books, model)
    }

    /// As the shell does: of what is recorded, a batch knows what its commands recall, and nothing else.
    pub(super) fn begin(&self, steps: &[Step]) -> Batch {
        let mut batch = Batch::starting_at(self.entries.last().map_or(1, |entry| entry.id + 1));
        batch.clients = self.clients.clone();
        let commands = steps.iter().map_while(|step| match step {
            Step::Do(command) => Some(command),
            Step::NextBatch => None,
        });
        let recalled: HashSet<EntrySource> =
            commands.flat_map(|command| command.recalls(true)).flat_map(|source| source.entries()).collect();
        let recorded = self.entries.iter().filter(|entry| recalled.contains(&entry.source));
        batch.recorded = recorded.map(|entry| (entry.source.clone(), entry.clone())).collect();
        batch
    }

    pub(super) fn commit(&mut self, batch: Batch) {
        for (id, state) in &batch.clients {
            assert_eq!(batch.changed.contains(id), self.clients[id] != *state, "client {id}");
        }
        self.clients = batch.clients;
        self.entries.extend(batch.entries);
    }

    /// Everything that `verify` would say about the database, from the entries alone.
    pub(super) fn check(&self, model: &Model) {
        let mut told: HashMap<ClientId, (Wallet, i64, Option<EntryId>)> = HashMap::new();
        let mut trial: HashMap<(&str, Account), i128> = HashMap::new();
        let mut sources = HashSet::new();
        for (position, entry) in (1..).zip(&self.entries) {
            assert_eq!(entry.id, position, "ids have no gaps");
            assert!(sources.insert(&entry.source), "{} twice", entry.source);
            assert!(entry.amount > Micros::ZERO && entry.debit != entry.credit);
            assert_eq!(entry.currency, Model::currency_of(entry.client));
            let amount = entry.amount.get();
            *trial.entry((entry.currency.code(), entry.debit)).or_default() += i128::from(amount);
            *trial.entry((entry.currency.code(), entry.credit)).or_default() -= i128::from(amount);
            let (wallet, sequence, last) = told.entry(entry.client).or_default();
            for (account, signed) in [(entry.debit, -amount), (entry.credit, amount)] {
                match account {
                    Account::ClientPaid => wallet.paid += signed,
                    Account::ClientBonus => wallet.bonus += signed,
                    Account::ClientDebt => wallet.debt -= signed,
                    _ => {}
                }
            }
            assert!(wallet.paid >= 0 && wallet.bonus >= 0 && wallet.debt >= 0);
            assert_eq!(entry.previous, *last);
            (*sequence, *last) = (*sequence + 1, Some(entry.id));
            assert_eq!(entry.sequence, *sequence);
            let after = (entry.paid_after.get(), entry.bonus_after.get(), entry.debt_after.get());
            assert_eq!(after, (wallet.paid, wallet.bonus, wallet.debt));
        }
        for currency in [Currency::USD, eur()] {
            let of_currency = trial.iter().filter(|((of, _), _)| *of == currency.code());
            assert_eq!(of_currency.map(|(_, sum)| sum).sum::<i128>(), 0);
            for (account, sign) in
                [(Account::ClientPaid, -1), (Account::ClientBonus, -1), (Account::ClientDebt, 1)]
            {
                let owed: i128 = self
                    .clients
                    .values()
                    .filter(|state| state.currency == currency)
                    .map(|state| match account {
                        Account::ClientPaid => i128::from(state.paid.get()),
                        Account::ClientBonus => i128::from(state.bonus.get()),
                        _ => i128::from(state.debt.get()),
                    })
                    .sum();
                assert_eq!(trial.get(&(currency.code(), account)).copied().unwrap_or(0), sign * owed);
            }
        }
        trial.retain(|(_, account), sum| {
            let of_a_wallet =
                matches!(account, Account::ClientPaid | Account::ClientBonus | Account::ClientDebt);
            !of_a_wallet && *sum != 0
        });
        assert_eq!(trial, model.other_accounts());
        for (id, state) in &self.clients {
            let (wallet, sequence, last) = told.get(id).copied().unwrap_or_default();
            assert_eq!((state.sequence, state.last_entry), (sequence, last));
            let stored = Wallet { paid: state.paid.get(), bonus: state.bonus.get(), debt: state.debt.get() };
            assert_eq!(stored, wallet, "client {id}: stored and summed");
            assert_eq!(stored, model.wallets[id], "client {id}: stored and modelled");
        }
    }
}

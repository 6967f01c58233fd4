//! What a command moves becomes lines of the books.

use super::batch::Batch;
use super::outcome::{Outcome, Refusal};
use super::state::moved;
use super::{ClientId, EntryId, KeyNumber};
use crate::domain::{Currency, Micros};
use crate::ledger::account::Account;
use crate::ledger::source::{EntrySource, Source};

/// One line of the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Ascending.
    pub id: EntryId,
    /// Unique.
    pub source: EntrySource,
    /// The account that is debited.
    pub debit: Account,
    /// The account that is credited.
    pub credit: Account,
    /// More than nothing.
    pub amount: Micros,
    /// Of the amount.
    pub currency: Currency,
    /// Whose balance it changes.
    pub client: ClientId,
    /// The client's counter after it.
    pub sequence: i64,
    /// The client's entry before it.
    pub previous: Option<EntryId>,
    /// Balances after it.
    pub paid_after: Micros,
    /// Balances after it.
    pub bonus_after: Micros,
    /// Balances after it.
    pub debt_after: Micros,
    /// For usage: the route.
    pub route: Option<i64>,
    /// For usage: the price list.
    pub price_list: Option<i64>,
    /// For usage: what the upstream answered.
    pub upstream_status: Option<u16>,
    /// For usage and holds: the client key that spent. `None` where nobody did, and before schema 8.
    pub key: Option<KeyNumber>,
}

/// What an entry says beside what it moves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct About {
    pub(super) route: Option<i64>,
    pub(super) price_list: Option<i64>,
    pub(super) upstream_status: Option<u16>,
    pub(super) key: Option<KeyNumber>,
}

impl About {
    pub(super) fn a_charge(
        route: i64,
        price_list: i64,
        upstream_status: u16,
        key: Option<KeyNumber>,
    ) -> Self {
        Self { route: Some(route), price_list: Some(price_list), upstream_status: Some(upstream_status), key }
    }
}

/// What is posted under one source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) source: &'a Source,
    pub(super) legs: &'a [Leg],
    pub(super) about: About,
}

/// One movement between accounts, before it becomes an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leg {
    pub(super) debit: Account,
    pub(super) credit: Account,
    pub(super) amount: Micros,
}

impl Batch {
    pub(super) fn post(
        &mut self,
        client: ClientId,
        source: &Source,
        legs: &[Leg],
        about: About,
    ) -> Result<Outcome, Refusal> {
        self.post_parts(client, &[Part { source, legs, about }])
    }

    /// Appends the legs that are more than nothing, or changes nothing at all.
    pub(super) fn post_parts(&mut self, client: ClientId, parts: &[Part<'_>]) -> Result<Outcome, Refusal> {
        let mut state = self.client(client)?;
        let mut entries = Vec::with_capacity(parts.iter().map(|part| part.legs.len()).sum());
        for Part { source, legs, about } in parts {
            for (nth, leg) in legs.iter().filter(|leg| !leg.amount.is_zero()).enumerate() {
                state = moved(state, *leg)?;
                state.sequence = state.sequence.checked_add(1).ok_or(Refusal::OutOfRange)?;
                let id = self.ids.nth(entries.len()).ok_or(Refusal::OutOfRange)?;
                entries.push(Entry {
                    id,
                    source: source.entry(nth),
                    debit: leg.debit,
                    credit: leg.credit,
                    amount: leg.amount,
                    currency: state.currency,
                    client,
                    sequence: state.sequence,
                    previous: state.last_entry,
                    paid_after: state.paid,
                    bonus_after: state.bonus,
                    debt_after: state.debt,
                    route: about.route,
                    price_list: about.price_list,
                    upstream_status: about.upstream_status,
                    key: about.key,
                });
                state.last_entry = Some(id);
            }
        }
        let Some(first) = entries.first() else {
            // An amount of nothing is no change, so there is nothing to find again under its source.
            return Err(Refusal::OutOfRange);
        };
        let entry = first.id;
        self.ids.advance(entries.len());
        for added in entries {
            self.posted.insert(added.source.clone(), self.entries.len());
            self.entries.push(added);
        }
        self.clients.insert(client, state);
        self.changed.insert(client);
        Ok(Outcome::Posted { entry, client, state, repeated: false })
    }
}

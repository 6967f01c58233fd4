//! Posted balances as the writer last committed them, and what running requests have reserved of them.
//!
//! In memory, one node, gone in a crash. A reservation ends in *capture* (the writer settles it) or *release* (dropping it).
//! The writer publishes every state it commits; a state read from the database never replaces a newer one, because the
//! client's sequence decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::core::{ClientId, ClientState};
use crate::domain::Micros;

/// Shards of the map; a power of two.
const SHARDS: usize = 16;
/// Idle clients kept per shard; beyond it, clients without reservations are forgotten and read again when they return.
const KEPT_PER_SHARD: usize = 16_384;

/// What is known about one client.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// `None` while somebody is reading it from the database.
    state: Option<ClientState>,
    reserved: Micros,
    /// Running requests.
    running: u32,
    /// How often the writer has published the state.
    published: u64,
}

/// Balances and reservations of the clients that were here lately.
#[derive(Debug)]
pub struct Reservations {
    shards: Vec<Mutex<HashMap<ClientId, Known>>>,
    max_running: u32,
}

/// Why nothing could be reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReserved {
    /// Not in memory: read it, then [`Reservations::learn`].
    Unknown,
    /// The posted balance does not cover it; topping up helps.
    Insufficient(ClientState),
    /// The posted balance covers it, but other running requests have reserved it; waiting helps.
    InFlight(ClientState),
    /// The client already runs as many requests as it may.
    TooMany(ClientState),
    /// The client is frozen or in debt.
    Frozen(ClientState),
}

/// An amount set aside for one running request. Dropping it releases it.
#[derive(Debug)]
pub struct Reservation {
    owner: Arc<Reservations>,
    client: ClientId,
    amount: Micros,
    open: bool,
}

impl Reservation {
    /// Whose credit.
    #[must_use]
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// How much.
    #[must_use]
    pub fn amount(&self) -> Micros {
        self.amount
    }

    /// Gives the amount to a hold that has just been committed. The request still counts as running.
    pub(super) fn convert(mut self, state: ClientState) -> Self {
        self.owner.publish_and_convert(self.client, state, self.amount);
        self.amount = Micros::ZERO;
        self
    }

    /// Ends the reservation together with the capture that used it: one step, so that nobody sees it counted twice.
    pub(super) fn settle(mut self, state: ClientState) {
        self.open = false;
        self.owner.publish_and_release(self.client, state, Some(self.amount));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.open {
            self.owner.release(self.client, self.amount);
        }
    }
}

impl Reservations {
    /// Nothing known. `max_running` bounds the running requests of one client.
    #[must_use]
    pub fn new(max_running: u32) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect();
        Arc::new(Self { shards, max_running })
    }

    fn shard(&self, client: ClientId) -> MutexGuard<'_, HashMap<ClientId, Known>> {
        let index = usize::try_from(client.rem_euclid(16)).unwrap_or(0);
        // Nothing inside can panic half-way, so a poisoned shard is as good as any.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets an amount aside.
    ///
    /// # Errors
    /// [`NotReserved`] says what would help.
    pub fn reserve(self: &Arc<Self>, client: ClientId, amount: Micros) -> Result<Reservation, NotReserved> {
        let mut shard = self.shard(client);
        let known = shard.get_mut(&client).ok_or(NotReserved::Unknown)?;
        let state = known.state.ok_or(NotReserved::Unknown)?;
        if state.is_frozen() {
            return Err(NotReserved::Frozen(state));
        }
        let spendable = state.spendable();
        if spendable < amount {
            return Err(NotReserved::Insufficient(state));
        }
        if known.running >= self.max_running {
            return Err(NotReserved::TooMany(state));
        }
        let reserved = known.reserved.checked_add(amount).filter(|sum| *sum <= spendable);
        let Some(reserved) = reserved else {
            return Err(NotReserved::InFlight(state));
        };
        known.reserved = reserved;
        known.running = known.running.saturating_add(1);
        Ok(Reservation { owner: Arc::clone(self), client, amount, open: true })
    }

    /// The posted state, if known.
    #[must_use]
    pub fn state(&self, client: ClientId) -> Option<ClientState> {
        self.shard(client).get(&client).and_then(|known| known.state)
    }

    /// To be called before a client is read from the database: from here on, what the writer publishes is kept, so that
    /// the read cannot bring back an older state. What it answers is for [`Reservations::learn`].
    pub fn expect(&self, client: ClientId) -> u64 {
        let mut shard = self.shard(client);
        if shard.len() >= KEPT_PER_SHARD {
            shard.retain(|_, known| known.running > 0 || known.state.is_none());
        }
        shard.entry(client).or_default().published
    }

    /// Takes over a state that was read from the database after [`Reservations::expect`]. Freezing makes no entry, so a state
    /// that the writer has published meanwhile is newer than one that was read with the same sequence.
    pub fn learn(&self, client: ClientId, read: ClientState, expected: u64) {
        if let Some(known) = self.shard(client).get_mut(&client) {
            let is_same = known.state.is_some_and(|state| state.sequence == read.sequence);
            if !is_same || known.published == expected {
                keep_newer(known, read);
            }
        }
    }

    /// Takes over a state that the writer has committed.
    pub(super) fn publish(&self, client: ClientId, committed: ClientState) {
        self.publish_and_release(client, committed, None);
    }

    /// Takes over a committed state and sets an amount aside in the same step: for the request that paid for it.
    pub(super) fn publish_and_reserve(
        self: &Arc<Self>,
        client: ClientId,
        committed: ClientState,
        amount: Micros,
    ) -> Result<Reservation, NotReserved> {
        let mut shard = self.shard(client);
        let known = shard.entry(client).or_default();
        publish(known, committed);
        let state = known.state.unwrap_or(committed);
        if state.is_frozen() {
            return Err(NotReserved::Frozen(state));
        }
        let reserved = known.reserved.checked_add(amount).filter(|sum| *sum <= state.spendable());
        let Some(reserved) = reserved else {
            return Err(NotReserved::InFlight(state));
        };
        known.reserved = reserved;
        known.running = known.running.saturating_add(1);
        Ok(Reservation { owner: Arc::clone(self), client, amount, open: true })
    }

    /// Sets aside what the writer is about to take from a client with these balances, frozen or not, unless running requests
    /// have set it aside before.
    pub(super) fn set_aside(
        self: &Arc<Self>,
        client: ClientId,
        committed: ClientState,
        amount: Micros,
    ) -> Option<Reservation> {
        let mut shard = self.shard(client);
        let known = shard.entry(client).or_default();
        keep_newer(known, committed);
        known.reserved = known.reserved.checked_add(amount).filter(|sum| *sum <= committed.credit())?;
        known.running = known.running.saturating_add(1);
        Some(Reservation { owner: Arc::clone(self), client, amount, open: true })
    }

    fn publish_and_release(&self, client: ClientId, committed: ClientState, release: Option<Micros>) {
        let mut shard = self.shard(client);
        if let Some(known) = shard.get_mut(&client) {
            publish(known, committed);
            if let Some(amount) = release {
                let_go(known, amount);
            }
        }
    }

    fn publish_and_convert(&self, client: ClientId, committed: ClientState, amount: Micros) {
        if let Some(known) = self.shard(client).get_mut(&client) {
            publish(known, committed);
            known.reserved = known.reserved.saturating_sub(amount);
        }
    }

    fn release(&self, client: ClientId, amount: Micros) {
        if let Some(known) = self.shard(client).get_mut(&client) {
            let_go(known, amount);
        }
    }

    /// What running requests of one client have set aside.
    #[must_use]
    pub fn reserved(&self, client: ClientId) -> Micros {
        self.shard(client).get(&client).map_or(Micros::ZERO, |known| known.reserved)
    }

    /// Sum of all reservations; nothing is running when it is nothing.
    #[must_use]
    pub fn total_reserved(&self) -> Micros {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
            .flat_map(|shard| shard.values().map(|known| known.reserved).collect::<Vec<_>>())
            .fold(Micros::ZERO, |sum, reserved| sum.checked_add(reserved).unwrap_or(Micros::MAX))
    }
}

fn publish(known: &mut Known, committed: ClientState) {
    known.published = known.published.wrapping_add(1);
    keep_newer(known, committed);
}

fn keep_newer(known: &mut Known, state: ClientState) {
    if known.state.is_none_or(|old| old.sequence <= state.sequence) {
        known.state = Some(state);
    }
}

fn let_go(known: &mut Known, amount: Micros) {
    known.reserved = known.reserved.saturating_sub(amount);
    known.running = known.running.saturating_sub(1);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::domain::Currency;

    fn micros(n: i64) -> Micros {
        Micros::new(n).unwrap()
    }

    fn state(paid: i64, sequence: i64) -> ClientState {
        ClientState { paid: micros(paid), sequence, ..ClientState::new(Currency::USD) }
    }

    #[test]
    fn reservations_never_exceed_the_balance_and_say_what_would_help() {
        let all = Reservations::new(3);
        assert_eq!(all.reserve(1, micros(1)).unwrap_err(), NotReserved::Unknown);
        all.learn(1, state(100, 1), all.expect(1));
        let first = all.reserve(1, micros(60)).unwrap();
        assert!(matches!(all.reserve(1, micros(60)), Err(NotReserved::InFlight(_))));
        assert!(matches!(all.reserve(1, micros(101)), Err(NotReserved::Insufficient(_))));
        let second = all.reserve(1, micros(40)).unwrap();
        drop(first);
        let _third = all.reserve(1, micros(60)).unwrap();
        assert_eq!(all.total_reserved(), micros(100));
        second.settle(state(60, 2));
        assert_eq!(all.total_reserved(), micros(60));
        assert!(matches!(all.reserve(1, micros(1)), Err(NotReserved::InFlight(_))));
    }

    #[test]
    fn one_client_runs_only_so_many_requests() {
        let all = Reservations::new(1);
        all.learn(7, state(100, 1), all.expect(7));
        let _running = all.reserve(7, micros(1)).unwrap();
        assert!(matches!(all.reserve(7, micros(1)), Err(NotReserved::TooMany(_))));
    }

    #[test]
    fn a_late_read_does_not_bring_back_an_older_balance() {
        let all = Reservations::new(9);
        let expected = all.expect(1);
        all.publish(1, state(40, 8));
        all.learn(1, state(90, 7), expected);
        assert_eq!(all.state(1).unwrap().paid, micros(40));
    }

    #[test]
    fn debt_freezes() {
        let all = Reservations::new(9);
        all.learn(1, ClientState { debt: micros(5), ..state(100, 1) }, all.expect(1));
        assert!(matches!(all.reserve(1, micros(1)), Err(NotReserved::Frozen(_))));
    }
    /// Freezing has no entry, and so the same sequence before and after.
    #[test]
    fn a_late_read_neither_thaws_nor_freezes() {
        for frozen in [false, true] {
            let all = Reservations::new(9);
            let expected = all.expect(1);
            all.publish(1, ClientState { frozen, ..state(40, 8) });
            all.learn(1, ClientState { frozen: !frozen, ..state(40, 8) }, expected);
            assert_eq!(all.reserve(1, micros(1)).is_err(), frozen);
            // What is read from now on counts: another node may have decided it.
            all.learn(1, ClientState { frozen: !frozen, ..state(40, 8) }, all.expect(1));
            assert_eq!(all.reserve(1, micros(1)).is_err(), !frozen);
        }
    }

    #[test]
    fn what_is_set_aside_for_a_refund_is_nobodys_reservation() {
        let all = Reservations::new(9);
        assert!(all.set_aside(1, state(100, 1), micros(101)).is_none());
        let running = all.reserve(1, micros(30)).unwrap();
        assert!(all.set_aside(1, state(100, 1), micros(71)).is_none());
        assert_eq!(all.total_reserved(), micros(30));
        let refund = all.set_aside(1, state(100, 1), micros(70)).unwrap();
        assert!(matches!(all.reserve(1, micros(1)), Err(NotReserved::InFlight(_))));
        refund.settle(state(30, 2));
        assert!(matches!(all.reserve(1, micros(1)), Err(NotReserved::InFlight(_))));
        drop(running);
        // Whoever is frozen gets a refund all the same.
        let frozen = ClientState { frozen: true, ..state(30, 3) };
        drop(all.set_aside(1, frozen, micros(30)).unwrap());
        assert_eq!(all.total_reserved(), Micros::ZERO);
    }
}

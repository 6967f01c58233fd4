//! At most one charge in the air per payer in this process; the others wait for it and share what became of it.
//!
//! The durable guard is the database's unique indexes. This registry only spares waiting callers a refusal.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Landed;
use crate::domain::{SecretHash, TopUpId};
use crate::ledger::ClientId;

/// What must not be charged twice at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FlightKey {
    Client(ClientId),
    PaymentMethod(SecretHash),
}

#[derive(Debug, Default)]
struct State {
    flying: HashMap<FlightKey, watch::Receiver<Option<Landed>>>,
    /// Attempts that somebody in this process is working on.
    claimed: HashSet<TopUpId>,
}

/// The registry. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights(Arc<Mutex<State>>);

/// What a caller becomes.
#[derive(Debug)]
pub(super) enum Seat {
    /// The one who charges.
    Pilot(Flight),
    /// One who waits.
    Passenger(watch::Receiver<Option<Landed>>),
}

/// The right to charge; dropping it without landing tells the passengers that nothing is known.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Flights,
    keys: Vec<FlightKey>,
    landed: watch::Sender<Option<Landed>>,
}

/// The right to work on one attempt.
#[derive(Debug)]
pub(super) struct Claim {
    flights: Flights,
    id: TopUpId,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn board(&self, keys: Vec<FlightKey>) -> Seat {
        let mut state = self.lock();
        if let Some(flight) = keys.iter().find_map(|key| state.flying.get(key)) {
            return Seat::Passenger(flight.clone());
        }
        let (landed, receiver) = watch::channel(None);
        for key in &keys {
            state.flying.insert(*key, receiver.clone());
        }
        Seat::Pilot(Flight { flights: self.clone(), keys, landed })
    }

    /// The flight of one of these payers, if one is in the air, for somebody who does not want to charge.
    pub(super) fn in_the_air(&self, keys: &[FlightKey]) -> Option<watch::Receiver<Option<Landed>>> {
        let state = self.lock();
        keys.iter().find_map(|key| state.flying.get(key).cloned())
    }

    /// `None`: somebody else in this process works on it.
    pub(super) fn claim(&self, id: TopUpId) -> Option<Claim> {
        let claimed = self.lock().claimed.insert(id);
        claimed.then(|| Claim { flights: self.clone(), id })
    }
}

impl Flight {
    pub(super) fn land(self, landed: Landed) {
        self.landed.send_replace(Some(landed));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.flights.lock();
        for key in &self.keys {
            state.flying.remove(key);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.flights.lock().claimed.remove(&self.id);
    }
}

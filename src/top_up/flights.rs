//! At most one charge in the air per payer in this process; the others wait for it and share what became of it.
//!
//! The durable guard is the database's unique indexes. This registry only spares waiting callers a refusal.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
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
    flying: HashMap<FlightKey, Flying>,
    /// Attempts that somebody in this process is working on.
    claimed: HashSet<TopUpId>,
}

/// A charge in the air.
#[derive(Debug, Clone)]
struct Flying {
    landing: watch::Receiver<Option<Landed>>,
    /// Whose card; `None` for Stripe's shared test names.
    card: Option<SecretHash>,
    /// Those who have boarded.
    passengers: Arc<AtomicUsize>,
}

/// Those who wait for one charge at most; more are sent away to come again.
const MAX_PASSENGERS: usize = 512;

/// The registry. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights(Arc<Mutex<State>>);

/// What a caller becomes.
#[derive(Debug)]
pub(super) enum Seat {
    /// The one who charges.
    Pilot(Flight),
    /// One who waits. The outcome is theirs too only if the same card is charged.
    Passenger { landing: watch::Receiver<Option<Landed>>, same_card: bool },
    /// Too many wait already.
    Full,
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

    pub(super) fn board(&self, keys: Vec<FlightKey>, card: Option<SecretHash>) -> Seat {
        let mut state = self.lock();
        if let Some(flight) = keys.iter().find_map(|key| state.flying.get(key)) {
            if flight.passengers.fetch_add(1, Ordering::Relaxed) >= MAX_PASSENGERS {
                return Seat::Full;
            }
            let same_card = card.is_some() && card == flight.card;
            return Seat::Passenger { landing: flight.landing.clone(), same_card };
        }
        let (landed, landing) = watch::channel(None);
        let flying = Flying { landing, card, passengers: Arc::default() };
        for key in &keys {
            state.flying.insert(*key, flying.clone());
        }
        Seat::Pilot(Flight { flights: self.clone(), keys, landed })
    }

    /// The flight of one of these payers, if one is in the air, for somebody who does not want to charge.
    pub(super) fn in_the_air(&self, keys: &[FlightKey]) -> Option<watch::Receiver<Option<Landed>>> {
        let state = self.lock();
        keys.iter().find_map(|key| state.flying.get(key).map(|flying| flying.landing.clone()))
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

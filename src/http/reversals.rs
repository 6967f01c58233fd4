//! Giving captured requests back when the upstream cut its answer, at most so many times an hour for one client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::RequestId;
use crate::ledger::{ClientId, EntryId, Ledger, LedgerError};
use crate::money_work::MoneyWork;

/// Reversals for one client in an hour. Beyond it something is odd, and a person should look.
const MAX_AN_HOUR: u32 = 100;
const HOUR: Duration = Duration::from_secs(3600);
/// Between two tries while the database is away.
const AGAIN: Duration = Duration::from_secs(1);
/// Clients remembered at once.
const MAX_CLIENTS: usize = 10_000;

/// Gives requests back. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Reversals {
    ledger: Ledger,
    tasks: MoneyWork,
    recent: Arc<Mutex<HashMap<ClientId, (Instant, u32)>>>,
}

impl Reversals {
    pub(crate) fn new(ledger: Ledger, tasks: MoneyWork) -> Self {
        Self { ledger, tasks, recent: Arc::default() }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn allowed(&self, client: ClientId) -> bool {
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= MAX_CLIENTS {
            recent.retain(|_, (since, _)| now.duration_since(*since) < HOUR);
            if recent.len() >= MAX_CLIENTS {
                recent.clear();
            }
        }
        let (since, count) = recent.entry(client).or_insert((now, 0));
        if now.duration_since(*since) >= HOUR {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= MAX_AN_HOUR
    }

    /// Starts the reversal; it goes on when everybody has gone. The capture stays noted as undelivered until it is done,
    /// so that a crash in between gives it back too.
    pub(crate) fn give_back(&self, request: RequestId, client: ClientId, entry: EntryId) {
        if !self.allowed(client) {
            tracing::error!(request.id = %request, client.id = client, "too many answers to this client were cut; no further reversal this hour");
            self.ledger.delivered(entry);
            return;
        }
        let ledger = self.ledger.clone();
        self.tasks.spawn(async move {
            while let Err(LedgerError::Unavailable(error)) = ledger.give_back(request, client).await {
                tracing::error!(error, request.id = %request, "a cut answer could not be given back yet");
                tokio::time::sleep(AGAIN).await;
            }
            ledger.delivered(entry);
            tracing::info!(request.id = %request, "a cut answer was given back");
        });
    }
}

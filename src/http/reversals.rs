//! Giving captured requests back when the API broke its answer: always, and at once. A client for whom that happens very often
//! is named to the operator.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::RequestId;
use crate::ledger::{ClientId, EntryId, Ledger, LedgerError};
use crate::money_work::MoneyWork;
use crate::sparing_log::sparingly;

/// Reversals for one client in an hour. Beyond it something is odd, and a person should look.
const MANY_AN_HOUR: u32 = 100;
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
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    given_back: AtomicU64,
    alarms: AtomicU64,
}

impl Reversals {
    pub(crate) fn new(ledger: Ledger, tasks: MoneyWork) -> Self {
        Self { ledger, tasks, recent: Arc::default(), counts: Arc::default() }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Broken answers given back since the start, and how often a client had more than [`MANY_AN_HOUR`].
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.counts.given_back.load(Ordering::Relaxed), self.counts.alarms.load(Ordering::Relaxed))
    }

    /// How many this client has had in the running hour, this one included.
    fn count(&self, client: ClientId) -> u32 {
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
        *count
    }

    /// Starts the reversal; it goes on when everybody has gone. The capture stays noted as undelivered until it is done,
    /// so that a crash in between gives it back too. `name`: the client's public id.
    pub(crate) fn give_back(&self, request: RequestId, client: ClientId, name: &str, entry: EntryId) {
        // Once an hour for one client.
        if self.count(client) == MANY_AN_HOUR.saturating_add(1) {
            self.counts.alarms.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                client = name,
                "more than {MANY_AN_HOUR} answers to this client were broken off by the API within an hour, and all are given back; \
                 see whether the API is at fault, or the client makes it break (prepaid402 freeze {name})"
            );
        }
        let (ledger, counts) = (self.ledger.clone(), Arc::clone(&self.counts));
        self.tasks.spawn(async move {
            while let Err(LedgerError::Unavailable(error)) = ledger.give_back(request, client).await {
                sparingly!(error, error, request.id = %request, "a broken answer could not be given back yet");
                tokio::time::sleep(AGAIN).await;
            }
            ledger.delivered(entry);
            counts.given_back.fetch_add(1, Ordering::Relaxed);
            tracing::info!(request.id = %request, "a broken answer was given back");
        });
    }
}

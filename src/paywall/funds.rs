//! What pays for a running request until it is captured or let go: a reservation in this node's memory, or a hold that every
//! node sees.
//!
//! With several nodes, memory alone cannot promise that the credit is still there when the upstream has answered. For a
//! request that only reads, that costs the upstream some work; one that changes something must not be done unpaid, so it
//! takes a hold before the upstream is called.

use crate::domain::RequestId;
use crate::ledger::{ClientId, Ledger, Reservation};
use crate::money_work::MoneyWork;

/// See the module.
#[derive(Debug)]
pub(super) enum Funds {
    /// In memory; released when dropped.
    Reserved(Reservation),
    /// Durable. The reservation has no amount any more, and counts the request as running.
    Held(Reservation, HoldGuard),
}

/// A durable hold that ends with this: settled by a capture, or released.
#[derive(Debug)]
pub(super) struct HoldGuard {
    ledger: Ledger,
    tasks: MoneyWork,
    request: RequestId,
    client: ClientId,
    is_open: bool,
}

impl HoldGuard {
    /// From before the hold is asked for: if nobody knows whether it was taken, it is released.
    pub(super) fn new(ledger: Ledger, tasks: MoneyWork, request: RequestId, client: ClientId) -> Self {
        Self { ledger, tasks, request, client, is_open: true }
    }

    /// The hold was not taken, or a capture has ended it.
    pub(super) fn ended(mut self) {
        self.is_open = false;
    }

    /// Releases the hold now.
    pub(super) async fn release(mut self) {
        self.ledger.make_certain(self.request, self.client).await;
        // Not before: if this is dropped in the middle, it goes on in the background.
        self.is_open = false;
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        // A hold that is neither settled nor released would keep the client's credit until this node ends.
        if self.is_open {
            let (ledger, request, client) = (self.ledger.clone(), self.request, self.client);
            self.tasks.spawn(async move { ledger.make_certain(request, client).await });
        }
    }
}

//! Who holds what is scarce: nobody who has not paid, or is slow, holds what payers need.
//!
//! | who | counted by | for what |
//! |---|---|---|
//! | payers: the clientId or card token leads to a wallet | wallet | priced requests |
//! | newcomers: what they present leads to no wallet yet | network | priced requests |
//! | everybody else | network | free routes, webhooks, look-ups, connections |
//!
//! Each kind has places of its own, and within a kind nobody comes to more than a part ([`Places`]). A request holds one place at
//! a time, for what it is doing: its body comes, the API works, its answer is passed on. So an upload that trickles holds no
//! place that a request waits for whose body is here. It is let in or refused once, before anything is read of its body; later changes
//! of place are only counted.

pub(crate) mod door;
mod places;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use self::places::{Place, Places};
use crate::config::{IdempotencyConfig, LimitsConfig};
use crate::ledger::ClientId;
use crate::shield::Network;

/// Payers come to four fifths alone: what they do is paid for.
const PAYERS: u32 = 4;
/// Everybody else to a half.
const OTHERS: u32 = 1;
/// Answers that are passed on, for each request that may run: they wait for slow readers, and cost a connection each.
const ANSWERS: usize = 4;
/// Bytes of payers' bodies with an `Idempotency-Key` in memory; of newcomers' and of webhooks' a quarter.
const KEYED_BYTES: usize = 256 * 1024 * 1024;
const OTHER_BYTES: usize = KEYED_BYTES / 4;
/// Credentials that wait to be looked up in the database, how many are looked up at once (fewer than there are readers, so that payers
/// need not wait for them), and how long one waits.
const LOOK_UPS: usize = 2_048;
const LOOK_UPS_AT_ONCE: usize = 2;
const LOOK_UP_WAIT: Duration = Duration::from_secs(3);

/// Whom a request is counted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A wallet.
    Client(ClientId),
    /// A network.
    Network(Network),
}

impl Holder {
    /// The caller's network.
    pub(crate) fn network(caller: Option<IpAddr>) -> Self {
        Self::Network(Network::of(caller))
    }
}

/// What one kind of caller may hold.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Requests whose body is still coming.
    uploads: Arc<Places>,
    /// Requests that wait for the API.
    running: Arc<Places>,
    /// Answers that are passed on.
    answers: Arc<Places>,
}

impl Kind {
    fn new(requests: usize, weight: u32) -> Arc<Self> {
        Arc::new(Self {
            uploads: Places::new(requests, weight),
            running: Places::new(requests, weight),
            answers: Places::new(requests.saturating_mul(ANSWERS), weight),
        })
    }

    /// Lets a request in. `None`: there is no place for this holder.
    pub(crate) fn enter(self: &Arc<Self>, holder: Holder, has_body: bool) -> Option<Standing> {
        if !self.answers.has_room(holder) {
            return None;
        }
        let place = match has_body {
            false => self.running.take(holder)?,
            true if self.running.has_room(holder) => self.uploads.take(holder)?,
            true => return None,
        };
        Some(Standing { kind: Arc::clone(self), holder, place, is_upload: has_body })
    }
}

/// The place of a request.
#[derive(Debug)]
pub(crate) struct Standing {
    kind: Arc<Kind>,
    holder: Holder,
    place: Place,
    is_upload: bool,
}

impl Standing {
    /// Does what the request is there for. `body_is_here`: ends when nothing more of the body is waited for. The work is the
    /// caller's to keep: a future that is handed on by value takes its room once in each that hands it on.
    pub(crate) async fn during<T>(
        mut self,
        body_is_here: impl Future<Output = ()>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> (T, Self) {
        if !self.is_upload {
            return (work.await, self);
        }
        let done = tokio::select! {
            biased;
            () = body_is_here => None,
            done = &mut work => Some(done),
        };
        let done = match done {
            Some(done) => done,
            None => {
                self.place = self.kind.running.take_anyway(self.holder);
                work.await
            }
        };
        (done, self)
    }

    /// The answer has begun: from now on its reader is waited for.
    pub(crate) fn answered(mut self) -> Self {
        self.place = self.kind.answers.take_anyway(self.holder);
        self
    }
}

/// Everything that is scarce at the doors but connections ([`door::Door`]). One for the whole process.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// Priced requests of wallets.
    pub(crate) payers: Arc<Kind>,
    /// Priced requests of those who have no wallet yet.
    pub(crate) newcomers: Arc<Kind>,
    /// Requests to free routes.
    pub(crate) free: Arc<Kind>,
    /// Bytes of bodies that are read whole, of wallets.
    payers_bytes: Arc<Places>,
    /// The same of those who have no wallet yet.
    newcomers_bytes: Arc<Places>,
    /// Bytes of webhooks.
    pub(crate) webhooks_bytes: Arc<Places>,
    /// Credentials that were never here, and are looked up.
    look_ups: Arc<Places>,
    looking: Arc<Semaphore>,
}

/// Held while a credential is looked up. Nothing, if it was here before.
#[derive(Debug)]
pub(crate) struct LookUp {
    _held: Option<(Place, OwnedSemaphorePermit)>,
}

impl Crowd {
    pub(crate) fn new(limits: &LimitsConfig, idempotency: &IdempotencyConfig) -> Arc<Self> {
        let requests = limits.max_concurrent_requests;
        // Whoever is alone can send one body at least.
        let one = usize::try_from(idempotency.max_body_bytes).unwrap_or(usize::MAX).saturating_mul(4);
        Arc::new(Self {
            payers: Kind::new(requests, PAYERS),
            newcomers: Kind::new(requests, OTHERS),
            free: Kind::new(requests, OTHERS),
            payers_bytes: Places::new(KEYED_BYTES.max(one), OTHERS),
            newcomers_bytes: Places::new(OTHER_BYTES.max(one), OTHERS),
            webhooks_bytes: Places::new(OTHER_BYTES, OTHERS),
            look_ups: Places::new(LOOK_UPS, OTHERS),
            looking: Arc::new(Semaphore::new(LOOK_UPS_AT_ONCE)),
        })
    }

    /// The kind of whoever asks for something priced, and whom it is counted with. `client`: the wallet, if there is one.
    pub(crate) fn who(&self, client: Option<ClientId>, caller: Option<IpAddr>) -> (&Arc<Kind>, Holder) {
        match client {
            Some(client) => (&self.payers, Holder::Client(client)),
            None => (&self.newcomers, Holder::network(caller)),
        }
    }

    /// Lets a credential be looked up in the database. What was never here costs most, and may be made up: it waits for its turn, and
    /// no network has all turns to itself. Whoever was here does not wait. `None`: not now.
    pub(crate) async fn look_up(&self, caller: Option<IpAddr>, was_here: bool) -> Option<LookUp> {
        if was_here {
            return Some(LookUp { _held: None });
        }
        let place = self.look_ups.take(Holder::network(caller))?;
        let turn = Arc::clone(&self.looking).acquire_owned();
        let turn = tokio::time::timeout(LOOK_UP_WAIT, turn).await.ok()?.ok()?;
        Some(LookUp { _held: Some((place, turn)) })
    }

    /// Room for a body that is read whole, before its first byte.
    pub(crate) fn bytes(&self, client: Option<ClientId>, caller: Option<IpAddr>) -> Place {
        match client {
            Some(client) => self.payers_bytes.none(Holder::Client(client)),
            None => self.newcomers_bytes.none(Holder::network(caller)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use futures_util::poll;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_request_holds_one_place_for_what_it_is_doing() {
        let kind = Kind::new(2, PAYERS);
        let (one, other) = (Holder::Client(1), Holder::Client(2));
        let others =
            |kind: &Arc<Kind>| (0..3).map_while(|_| kind.enter(other, false)).collect::<Vec<_>>().len();
        let (body_comes, body) = oneshot::channel::<()>();
        let (api_answers, answer) = oneshot::channel::<()>();
        let upload = kind.enter(one, true).unwrap();
        let work = std::pin::pin!(async { answer.await.unwrap() });
        let during = upload.during(async { body.await.unwrap() }, work);
        let mut during = Box::pin(during);
        assert!(poll!(during.as_mut()).is_pending());
        assert_eq!(others(&kind), 2, "an upload takes none of their places");
        body_comes.send(()).unwrap();
        assert!(poll!(during.as_mut()).is_pending());
        assert_eq!(others(&kind), 1, "it runs");
        api_answers.send(()).unwrap();
        let ((), standing) = during.await;
        let standing = standing.answered();
        assert_eq!(others(&kind), 2, "it is read");
        drop(standing);
    }

    #[tokio::test]
    async fn who_was_here_is_looked_up_whatever_the_others_of_its_network_do() {
        let limits = LimitsConfig {
            max_body_bytes: 1,
            body_timeout: Duration::ZERO,
            max_connections: 1,
            max_concurrent_requests: 1,
            max_concurrent_per_client: 1,
            shutdown_timeout: Duration::ZERO,
        };
        let idempotency = IdempotencyConfig { keep: Duration::ZERO, max_body_bytes: 1, max_answer_bytes: 1 };
        let crowd = Crowd::new(&limits, &idempotency);
        let (here, elsewhere) = (Some(IpAddr::from([203, 0, 113, 7])), Some(IpAddr::from([198, 51, 100, 7])));
        let mut looking = Vec::new();
        for _ in 0..LOOK_UPS_AT_ONCE {
            looking.push(crowd.look_up(here, false).await.unwrap());
        }
        let mut waiting = Vec::new();
        loop {
            let mut look_up = Box::pin(crowd.look_up(here, false));
            match poll!(look_up.as_mut()) {
                std::task::Poll::Pending => waiting.push(look_up),
                std::task::Poll::Ready(look_up) => break assert!(look_up.is_none()),
            }
        }
        assert_eq!(waiting.len() + looking.len(), LOOK_UPS / 2);
        assert!(crowd.look_up(here, true).await.is_some());
        let mut other = Box::pin(crowd.look_up(elsewhere, false));
        assert!(poll!(other.as_mut()).is_pending(), "it waits for its turn");
        drop((waiting, looking));
        assert!(other.await.is_some());
    }
}

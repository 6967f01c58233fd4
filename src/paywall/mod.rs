//! Decides and settles a paid request: credential → open (reserve, or hold) → … upstream … → capture, or let go.
//!
//! ```text
//! open ─► admitted ─► the upstream works ─► capture ─► the answer may go out
//!    │                                  └► let_go: nothing is charged
//!    ├─► replayed: this Idempotency-Key was charged, here is its answer
//!    └─► again: it was charged, and its answer is fetched from the upstream once more
//! ```
//! The gateway and the actix middleware are two faces of this.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::unwrap_used
    )
)]

mod after_charge;
mod funds;
pub mod offer;
pub mod refusal;
mod repeats;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use self::funds::{Funds, HoldGuard};
use self::repeats::Claim;
use crate::db::{Db, DbError};
use crate::domain::{ClientKey, Currency, Micros, RequestId, TopUpId};
use crate::ledger::answers::{self, KeyState, NewKey};
use crate::ledger::keys::{KeyLookup, KeyRecord, Keys};
use crate::ledger::price_lists;
use crate::ledger::{
    Capture, ClientId, ClientState, KeptHeader, Ledger, LedgerError, NotReserved, Posted, Reservation,
    ReserveError, Source, SourceKind, StoredAnswer,
};
use crate::money_work::MoneyWork;
use crate::pricing::{Booking, Price, Quote, RouteCharge};
use crate::protocol::{Credential, Instrument};
use crate::proxy::reachability::Reachability;
use crate::sparing_log::sparingly;
use crate::top_up::{Payer, Recorded, Repeat, TopUpRequest, TopUps};

pub use self::after_charge::AfterCharge;
pub use self::refusal::{Answer, Refusal, Repeating, WhoActs};
pub use crate::ledger::repeat_key::{RepeatKey, is_key};

/// How often one request looks at the balance again after waiting for somebody else's charge.
const ROUNDS: usize = 8;

/// Admits and captures. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Paywall {
    db: Db,
    ledger: Ledger,
    keys: Arc<Keys>,
    top_ups: TopUps,
    tasks: MoneyWork,
    /// How long an `Idempotency-Key` is kept, in microseconds.
    keep_keys: i64,
    upstream: Option<Reachability>,
}

/// What [`Paywall`] is made of.
#[derive(Debug)]
pub struct PaywallParts {
    /// Where idempotency keys are.
    pub db: Db,
    /// Who charges requests.
    pub ledger: Ledger,
    /// Who is who.
    pub keys: Arc<Keys>,
    /// Who charges cards.
    pub top_ups: TopUps,
    /// Where money work runs.
    pub tasks: MoneyWork,
    /// How long an `Idempotency-Key` is kept.
    pub keep_keys: std::time::Duration,
    /// The API behind a gateway; `None` where handlers are sold.
    pub upstream: Option<Reachability>,
}

/// A request that costs something.
#[derive(Debug)]
pub struct Purchase {
    /// The request.
    pub request: RequestId,
    /// What it costs and how that is booked.
    pub quote: Quote,
    /// What the caller presented.
    pub credential: Credential,
    /// Why that is not good for the quote, if it is not. Said of what would be charged: what was charged before is repeated.
    pub unverified: Option<Refusal>,
    /// The wallet that this has led to a moment ago, if anybody has looked; it is looked up otherwise.
    pub wallet: Option<Wallet>,
    /// GET and HEAD: to do it without being paid costs nothing but work.
    pub is_safe: bool,
    /// Its `Idempotency-Key`, if it has one.
    pub repeat: Option<RepeatKey>,
    /// Where it comes from, if that is known.
    pub caller: Option<IpAddr>,
}

impl Purchase {
    /// The price is above what the caller agrees to.
    fn is_too_dear(&self) -> bool {
        is_too_dear(self.quote.most(), &self.credential)
    }
}

fn is_too_dear(price: Micros, credential: &Credential) -> bool {
    credential.max_amount.is_some_and(|max| price > max)
}

/// What becomes of a purchase before the upstream is called.
#[derive(Debug)]
pub enum Opened {
    /// Its price is set aside: call the upstream, then [`Paywall::capture`] or [`Paywall::let_go`].
    Admitted(Box<Admitted>),
    /// It was charged before, and this is its answer.
    Replayed(Box<Replayed>),
    /// It was charged before, and its answer was not kept: call the upstream once more, and charge nothing.
    Again(Repayer),
}

impl Opened {
    /// Who pays, or has paid.
    #[must_use]
    pub fn wallet(&self) -> &Wallet {
        match self {
            Self::Admitted(admitted) => &admitted.wallet,
            Self::Replayed(replayed) => &replayed.payer.wallet,
            Self::Again(payer) => &payer.wallet,
        }
    }

    fn wallet_mut(&mut self) -> &mut Wallet {
        match self {
            Self::Admitted(admitted) => &mut admitted.wallet,
            Self::Replayed(replayed) => &mut replayed.payer.wallet,
            Self::Again(payer) => &mut payer.wallet,
        }
    }
}

/// An answer that was charged before.
#[derive(Debug)]
pub struct Replayed {
    /// The status.
    pub status: u16,
    /// End-to-end headers.
    pub headers: Vec<KeptHeader>,
    /// All of it.
    pub body: Bytes,
    /// Who paid.
    pub payer: Repayer,
}

/// Whoever repeats a request that was charged before.
#[derive(Debug)]
pub struct Repayer {
    /// Who paid.
    pub wallet: Wallet,
    /// The posted balances now, if they could be read.
    pub state: Option<ClientState>,
}

/// The answer of a request with an `Idempotency-Key`, to be stored with its capture.
#[derive(Debug)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// End-to-end headers.
    pub headers: Vec<KeptHeader>,
    /// `None`: too large to be kept.
    pub body: Option<Bytes>,
}

/// What this request charged to a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardCharge {
    /// Our id.
    pub top_up: TopUpId,
    /// Stripe's.
    pub payment_intent: String,
    /// How much.
    pub amount: Micros,
    /// Of the amount.
    pub currency: Currency,
}

impl From<&Recorded> for CardCharge {
    fn from(recorded: &Recorded) -> Self {
        Self {
            top_up: recorded.top_up,
            payment_intent: recorded.payment_intent.clone(),
            amount: recorded.amount,
            currency: recorded.posted.state.currency,
        }
    }
}

/// A request that may go to the upstream: its price is set aside.
///
/// Dropping it lets everything go in the background.
#[derive(Debug)]
pub struct Admitted {
    request: RequestId,
    funds: Funds,
    quote: Quote,
    booking: Booking,
    claim: Option<Claim>,
    /// Who pays.
    pub wallet: Wallet,
    /// What this request charged to a card.
    pub charged: Option<CardCharge>,
}

impl Admitted {
    /// Whether its answer is to be stored.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.claim.is_some()
    }

    /// The API is called now. Should this be dropped, its work may be done, and a key does not do it again.
    pub fn work_begins(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.work_begins();
        }
    }
}

/// An admitted request that ended without a charge.
#[derive(Debug)]
pub struct Uncharged {
    /// Who asked.
    pub wallet: Wallet,
    /// The balances that can be spent now, if they are known.
    pub state: Option<ClientState>,
    /// What was charged to a card all the same, and is credit now.
    pub charged: Option<CardCharge>,
}

/// A client and the key that answers carry.
#[derive(Debug, Clone)]
pub struct Wallet {
    /// The key's record.
    pub record: KeyRecord,
    /// The wire's `clientId`; `None` when the secret that it derives from is gone.
    pub key: Option<ClientKey>,
    /// Found by the card alone: the clientId beside it was unknown. Whoever sent it is told to take the one of this wallet.
    pub is_instead_of_unknown: bool,
}

impl Wallet {
    /// A client, by this key.
    #[must_use]
    pub fn new(record: KeyRecord, key: Option<ClientKey>) -> Self {
        Self { record, key, is_instead_of_unknown: false }
    }
}

/// A request that is not served.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Who asked, if that is known.
    pub wallet: Option<Wallet>,
    /// The posted balances, if that is known.
    pub state: Option<ClientState>,
    /// What this request charged to a card all the same.
    pub charged: Option<CardCharge>,
    /// For a pending charge of a new payer: the key that names the wallet once it is credited.
    pub promised: Option<ClientKey>,
    /// The clientId beside the card was unknown, and the card was taken as if alone.
    pub left_out_unknown_client: bool,
}

impl Refused {
    fn new(refusal: Refusal) -> Self {
        Self {
            refusal,
            wallet: None,
            state: None,
            charged: None,
            promised: None,
            left_out_unknown_client: false,
        }
    }

    /// For whoever presents this: told when the clientId beside the card was left out.
    #[must_use]
    pub fn to(mut self, credential: &Credential) -> Self {
        if credential.left_out_unknown_client {
            self.left_out_unknown_client = true;
            if let Some(wallet) = &mut self.wallet {
                wallet.is_instead_of_unknown = true;
            }
        }
        self
    }

    /// Refused before anybody was recognised.
    #[must_use]
    pub fn because(refusal: Refusal) -> Self {
        Self::new(refusal)
    }
}

impl Paywall {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: PaywallParts) -> Self {
        let PaywallParts { db, ledger, keys, top_ups, tasks, keep_keys, upstream } = parts;
        let keep_keys = i64::try_from(keep_keys.as_micros()).unwrap_or(i64::MAX / 4);
        Self { db, ledger, keys, top_ups, tasks, keep_keys, upstream }
    }

    /// Sets the price aside, charging a card first if that is needed and asked for; or finds that the request was charged
    /// before.
    ///
    /// # Errors
    /// [`Refused`]; nothing is set aside then.
    pub async fn open(&self, purchase: &Purchase) -> Result<Opened, Refused> {
        match self.open_at_once(purchase) {
            Some(admitted) => Ok(Opened::Admitted(Box::new(admitted))),
            // What has to wait for something is rarer, and much larger.
            None => {
                let opened = Box::pin(self.open_slowly(purchase)).await;
                match opened {
                    Ok(mut opened) => {
                        opened.wallet_mut().is_instead_of_unknown =
                            purchase.credential.left_out_unknown_client;
                        Ok(opened)
                    }
                    Err(refused) => Err(refused.to(&purchase.credential)),
                }
            }
        }
    }

    /// What nearly every paid request is: a wallet that was here lately, with enough credit. Waits for nothing, so nothing
    /// can cancel it. `None` decides nothing: ask [`Paywall::open`].
    #[must_use]
    pub fn open_at_once(&self, purchase: &Purchase) -> Option<Admitted> {
        if purchase.repeat.is_some() || purchase.unverified.is_some() {
            return None;
        }
        if self.takes_a_hold(purchase) || purchase.is_too_dear() {
            return None;
        }
        if !self.db.condition().is_fine() {
            return None;
        }
        purchase.credential.client_key.as_ref()?;
        let known = purchase.wallet.clone().or_else(|| self.recognise_at_once(&purchase.credential));
        let wallet = known.filter(|wallet| wallet.record.scope.may_spend())?;
        let booking = purchase.quote.booking()?;
        let reservation = self.ledger.reserve_at_once(wallet.record.client, purchase.quote.most()).ok()?;
        Some(Admitted {
            request: purchase.request,
            funds: Funds::Reserved(reservation),
            quote: purchase.quote.clone(),
            booking,
            claim: None,
            wallet,
            charged: None,
        })
    }

    /// Where nodes share the database, memory may promise what another node has spent: enough for what only reads. What is measured
    /// is delivered before its price is known, so its most must be sure.
    fn takes_a_hold(&self, purchase: &Purchase) -> bool {
        let is_measured = matches!(purchase.quote.price(), Price::UpTo { .. });
        is_measured || (self.ledger.is_shared() && !purchase.is_safe)
    }

    async fn open_slowly(&self, purchase: &Purchase) -> Result<Opened, Refused> {
        let is_too_dear = purchase.is_too_dear();
        if is_too_dear && purchase.repeat.is_none() {
            // Whoever it is, for the offer: what it names must be what this wallet may be charged.
            let wallet = self.recognise(&purchase.credential).await.ok().flatten();
            return Err(self.too_dear(wallet).await);
        }
        if let (Some(why), None) = (&purchase.unverified, &purchase.repeat) {
            return Err(Refused::new(why.clone()));
        }
        let mut known = purchase.wallet.clone();
        for _ in 0..ROUNDS {
            let wallet = match known.take() {
                Some(wallet) => Some(wallet),
                None => self.recognise(&purchase.credential).await?,
            };
            if let Some(wallet) = wallet.as_ref().filter(|wallet| !wallet.record.scope.may_spend()) {
                return Err(Refused { wallet: Some(wallet.clone()), ..Refused::new(Refusal::Scope) });
            }
            if let Some(key) = &purchase.repeat {
                if let Some(opened) = self.repeated(purchase, key, wallet.as_ref()).await? {
                    return Ok(opened);
                }
                // Only now: what was charged before the challenge expired, or the price rose, is repeated for nothing.
                if let Some(why) = &purchase.unverified {
                    return Err(Refused { wallet, ..Refused::new(why.clone()) });
                }
                if is_too_dear {
                    return Err(self.too_dear(wallet).await);
                }
            }
            // What is charged could not be written down, so the API is not to work for it. What was charged before is repeated.
            if !self.db.condition().is_fine() {
                return Err(Refused { wallet, ..Refused::new(Refusal::Busy) });
            }
            let state = match &wallet {
                None => None,
                Some(wallet) => {
                    match self.reserve(wallet, purchase.quote.most(), &purchase.credential).await? {
                        Ok(reservation) => {
                            match self.secure(purchase, reservation, wallet.clone(), None).await? {
                                Some(admitted) => return Ok(Opened::Admitted(Box::new(admitted))),
                                None => continue,
                            }
                        }
                        Err(state) => Some(state),
                    }
                }
            };
            match self.top_up(purchase, wallet, state).await? {
                Some(admitted) => return Ok(Opened::Admitted(Box::new(admitted))),
                // Somebody else's charge for the same payer has ended, or somebody else has the same key: look again.
                None => continue,
            }
        }
        // Every round met another charge of the same payer, or another node that spent the same credit.
        let pays = purchase.credential.can_charge();
        Err(Refused::new(if pays { Refusal::TopUpInProgress } else { Refusal::ReservationsInFlight }))
    }

    /// The price is above what the caller agrees to.
    async fn too_dear(&self, wallet: Option<Wallet>) -> Refused {
        let state = match &wallet {
            Some(wallet) => self.ledger.state(wallet.record.client).await.ok().flatten(),
            None => None,
        };
        Refused { wallet, state, ..Refused::new(Refusal::PriceAboveMax) }
    }

    /// Takes the key of a request and, where that is needed, turns its reservation into a hold. `None`: somebody else was
    /// faster; look again.
    async fn secure(
        &self,
        purchase: &Purchase,
        reservation: Reservation,
        wallet: Wallet,
        charged: Option<CardCharge>,
    ) -> Result<Option<Admitted>, Refused> {
        let refused = |refusal, state| Refused {
            wallet: Some(wallet.clone()),
            state,
            charged: charged.clone(),
            ..Refused::new(refusal)
        };
        // Only now that it can be paid: each name is written down for good.
        let booking = match self.book(&purchase.quote).await {
            Ok(booking) => booking,
            Err(error) => {
                sparingly!(error, %error, request.id = %purchase.request, "a route could not be given its number");
                return Err(refused(Refusal::Busy, None));
            }
        };
        let claim = match &purchase.repeat {
            None => None,
            Some(key) => match self.claim(purchase, key, &wallet).await {
                Ok(Some(claim)) => Some(claim),
                // Whoever has the key was charged for it or will be; what this request charged to a card stays credit.
                Ok(None) if charged.is_some() => return Err(refused(Refusal::IdempotencyInFlight, None)),
                Ok(None) => return Ok(None),
                Err(refusal) => return Err(refused(refusal, None)),
            },
        };
        let funds = if self.takes_a_hold(purchase) {
            let client = wallet.record.client;
            let guard = HoldGuard::new(self.ledger.clone(), self.tasks.clone(), purchase.request, client);
            match self.ledger.hold(purchase.request, reservation, wallet.record.number).await {
                Ok((_, running)) => Funds::Held(running, guard),
                Err(LedgerError::Refused(refusal)) => {
                    guard.ended();
                    tracing::debug!(%refusal, request.id = %purchase.request, "another node has spent the credit");
                    if let Some(claim) = claim {
                        claim.let_go().await;
                    }
                    return match charged {
                        // A card is charged once for one request at most.
                        Some(_) => Err(refused(Refusal::ReservationsInFlight, None)),
                        None => Ok(None),
                    };
                }
                // The guard releases it, if it was taken.
                Err(error) => {
                    sparingly!(error, %error, request.id = %purchase.request, "a hold could not be taken for certain");
                    return Err(refused(Refusal::Busy, None));
                }
            }
        } else {
            Funds::Reserved(reservation)
        };
        let (request, quote) = (purchase.request, purchase.quote.clone());
        Ok(Some(Admitted { request, funds, quote, booking, claim, wallet, charged }))
    }

    /// By what the entry will name what is sold: numbers that the ledger gives at the first sale, where that was not done before.
    async fn book(&self, quote: &Quote) -> Result<Booking, DbError> {
        if let Some(booking) = quote.booking() {
            return Ok(booking);
        }
        let listing = quote.listing();
        let sold = (listing.name().to_owned(), RouteCharge::Priced(listing.rule()));
        let booked = price_lists::register(&self.db, vec![sold]).await?;
        let booked = booked.first().copied().ok_or(DbError::from(sqlx::Error::RowNotFound))?;
        Ok(listing.book(booked))
    }

    async fn claim(
        &self,
        purchase: &Purchase,
        key: &RepeatKey,
        wallet: &Wallet,
    ) -> Result<Option<Claim>, Refusal> {
        let Some(scope) = repeats::scope_of(key, &purchase.credential, Some(wallet.record.client)) else {
            return Err(unidentified());
        };
        let new =
            NewKey { scope, fingerprint: key.fingerprint(), request: purchase.request, keep: self.keep_keys };
        let (request, is_safe) = (purchase.request, purchase.is_safe);
        let ours = || Claim::new(self.db.clone(), self.tasks.clone(), scope, key.headers(), request, is_safe);
        match answers::claim(&self.db, self.ledger.node().to_owned(), new).await {
            Ok(true) => Ok(Some(ours())),
            Ok(false) => Ok(None),
            Err(error) => {
                sparingly!(error, %error, "an idempotency key could not be claimed for certain");
                // It may be ours all the same: dropping this frees it.
                drop(ours());
                Err(Refusal::Busy)
            }
        }
    }

    /// What a key that was here before leads to. `None`: the request is to be served and charged.
    async fn repeated(
        &self,
        purchase: &Purchase,
        key: &RepeatKey,
        wallet: Option<&Wallet>,
    ) -> Result<Option<Opened>, Refused> {
        let state = match wallet {
            Some(wallet) => self.ledger.state(wallet.record.client).await.ok().flatten(),
            None => None,
        };
        let refused = |refusal| Refused { wallet: wallet.cloned(), state, ..Refused::new(refusal) };
        let away = |error: DbError| {
            sparingly!(error, %error, "an idempotency key could not be looked up");
            refused(Refusal::Busy)
        };
        let client = wallet.map(|wallet| wallet.record.client);
        let Some(scope) = repeats::scope_of(key, &purchase.credential, client) else {
            return Err(refused(unidentified()));
        };
        let Some(row) = answers::find(&self.db, scope).await.map_err(away)? else {
            return Ok(None);
        };
        if row.fingerprint != key.fingerprint() {
            return Err(refused(Refusal::IdempotencyMismatch));
        }
        // A charge has made a wallet of its payer; one that is not found now will be in a moment.
        let repayer = wallet.map(|wallet| Repayer { wallet: wallet.clone(), state });
        match row.state {
            KeyState::Running | KeyState::Delivering => Err(refused(Refusal::IdempotencyInFlight)),
            KeyState::Kept { status, headers, body } => {
                let Some(payer) = repayer else { return Err(refused(Refusal::Busy)) };
                Ok(Some(Opened::Replayed(Box::new(Replayed { status, headers, body, payer }))))
            }
            // Nobody pays for what the API answers to other headers. Rows of the version before know none.
            KeyState::TooLarge { request_headers: Some(first), .. }
                if purchase.is_safe && key.headers() != Some(first) =>
            {
                Err(refused(Refusal::IdempotencyMismatch))
            }
            KeyState::TooLarge { .. } if purchase.is_safe => {
                let Some(payer) = repayer else { return Err(refused(Refusal::Busy)) };
                let counted =
                    answers::count_repeat(&self.db, row.scope, row.request, repeats::MAX_REPEATS).await;
                if counted.map_err(away)? {
                    Ok(Some(Opened::Again(payer)))
                } else {
                    Err(refused(Refusal::IdempotencyAnswerLost))
                }
            }
            KeyState::TooLarge { .. } => Err(refused(Refusal::IdempotencyAnswerLost)),
            KeyState::Interrupted => Err(refused(Refusal::IdempotencyOutcomeUnknown)),
            // Nothing is charged for it, and doing it once more changes nothing: as if it had never been. Whoever is not
            // the one to free the key looks again later.
            KeyState::Orphaned if purchase.is_safe => {
                let ours = answers::take_over(&self.db, row.scope, row.request).await.map_err(away)?;
                if ours { Ok(None) } else { Err(refused(Refusal::IdempotencyInFlight)) }
            }
            KeyState::GivenBack if purchase.is_safe => {
                let ours = answers::free_given_back(&self.db, row.scope, row.request).await.map_err(away)?;
                if ours { Ok(None) } else { Err(refused(Refusal::IdempotencyInFlight)) }
            }
            KeyState::Orphaned => {
                // Its node can then not charge it any more, should it come back.
                let noted =
                    answers::interrupt_orphan(&self.db, row.scope, row.request).await.map_err(away)?;
                Err(refused(if noted {
                    Refusal::IdempotencyOutcomeUnknown
                } else {
                    Refusal::IdempotencyInFlight
                }))
            }
            KeyState::GivenBack => Err(refused(Refusal::IdempotencyOutcomeUnknown)),
        }
    }

    /// The wallet of a clientId that was here lately, without the database.
    #[must_use]
    pub fn recognise_at_once(&self, credential: &Credential) -> Option<Wallet> {
        let key = credential.client_key.as_ref()?;
        let record = self.keys.remembered(key.hash())?;
        Some(Wallet::new(record, Some(key.clone())))
    }

    /// Whether the clientId was here as somebody's, however long ago.
    #[must_use]
    pub fn was_here(&self, credential: &Credential) -> bool {
        credential.client_key.as_ref().is_some_and(|key| self.keys.was_here(key.hash()))
    }

    /// Who asks, before anything is read of a body that may never come. `is_repeat`: the request has an `Idempotency-Key`.
    ///
    /// # Errors
    /// As [`Paywall::recognise_or_card`], but a price that is too high for the caller is said first where [`Paywall::open`] would.
    pub async fn recognise_first(
        &self,
        credential: &mut Credential,
        price: Micros,
        is_repeat: bool,
    ) -> Result<Option<Wallet>, Refused> {
        let found = self.recognise_or_card(credential).await;
        match found {
            Err(_) if !is_repeat && is_too_dear(price, credential) => Err(self.too_dear(None).await),
            found => found,
        }
    }

    /// The wallet that a credential names. A clientId that was never issued, or was promised for a charge that has failed, is left out
    /// where a card was sent beside it: clients keep such ids, and would come to nothing with them for ever.
    ///
    /// # Errors
    /// As [`Paywall::recognise`].
    pub async fn recognise_or_card(&self, credential: &mut Credential) -> Result<Option<Wallet>, Refused> {
        match self.recognise(credential).await {
            Err(refused)
                if refused.refusal == Refusal::UnknownClient && credential.leave_out_unknown_client() =>
            {
                self.recognise(credential).await.map_err(|refused| refused.to(credential))
            }
            found => found,
        }
    }

    /// The wallet that a credential names. A clientId alone names it when present.
    ///
    /// # Errors
    /// [`Refused`] when the clientId names none, or the database is away.
    pub async fn recognise(&self, credential: &Credential) -> Result<Option<Wallet>, Refused> {
        if let Some(key) = &credential.client_key {
            return match self.keys.look_up(key.hash()).await {
                Ok(KeyLookup::Known(record)) => Ok(Some(Wallet::new(record, Some(key.clone())))),
                Ok(KeyLookup::Revoked) => Err(Refused::new(Refusal::KeyRevoked)),
                Ok(KeyLookup::Promised(top_up)) => {
                    let mut refused = Refused::new(Refusal::TopUpPending(top_up));
                    refused.promised = Some(key.clone());
                    Err(refused)
                }
                Ok(KeyLookup::Unknown) => Err(Refused::new(Refusal::UnknownClient)),
                Err(error) => Err(away(&error)),
            };
        }
        let Some(card) = credential.card().filter(|card| !card.is_shared_test_name()) else {
            return Ok(None);
        };
        let bound = self.keys.bound_to(card.hash()).await.map_err(|error| away(&error))?;
        Ok(bound.map(|record| Wallet {
            is_instead_of_unknown: credential.left_out_unknown_client,
            ..self.wallet_of(&record)
        }))
    }

    /// `Ok(Err(state))`: topping up would help, and a card was presented.
    async fn reserve(
        &self,
        wallet: &Wallet,
        price: Micros,
        credential: &Credential,
    ) -> Result<Result<Reservation, ClientState>, Refused> {
        let refused = |refusal, state| Refused {
            wallet: Some(wallet.clone()),
            state: Some(state),
            ..Refused::new(refusal)
        };
        let pays = credential.can_charge();
        match self.ledger.reserve(wallet.record.client, price).await {
            Ok(reservation) => Ok(Ok(reservation)),
            Err(ReserveError::NotReserved(why)) => match why {
                NotReserved::Insufficient(state) if pays => Ok(Err(state)),
                NotReserved::Insufficient(state) => Err(refused(self.short_of(price, &state), state)),
                NotReserved::InFlight(state) | NotReserved::TooMany(state) => {
                    Err(refused(Refusal::ReservationsInFlight, state))
                }
                // Debt is repaid by a top-up; a decision to freeze is not.
                NotReserved::Frozen(state) if pays && !state.frozen => Ok(Err(state)),
                NotReserved::Frozen(state) if !state.frozen => {
                    Err(refused(self.short_of(price, &state), state))
                }
                NotReserved::Frozen(state) => Err(refused(Refusal::ClientFrozen, state)),
                NotReserved::Unknown => Err(Refused::new(Refusal::UnknownClient)),
            },
            Err(ReserveError::Db(error)) => {
                sparingly!(error, %error, "a balance could not be read");
                Err(Refused::new(Refusal::Busy))
            }
        }
    }

    /// What a wallet is told whose credit does not cover the price: that a top-up helps, if there is one that does.
    fn short_of(&self, price: Micros, state: &ClientState) -> Refusal {
        let range = self.top_ups.amounts().range(price, Some(state));
        range.map_or_else(Refusal::from, |_| Refusal::InsufficientCredits)
    }

    /// Charges the card. `None`: somebody else's charge ended meanwhile.
    async fn top_up(
        &self,
        purchase: &Purchase,
        wallet: Option<Wallet>,
        state: Option<ClientState>,
    ) -> Result<Option<Admitted>, Refused> {
        let (price, credential) = (purchase.quote.most(), &purchase.credential);
        let refused = |refusal| Refused { wallet: wallet.clone(), state, ..Refused::new(refusal) };
        let card = match &credential.instrument {
            None => return Err(refused(Refusal::PaymentRequired)),
            Some(Instrument::Card(card)) => card,
        };
        let payer = self.payer(credential, wallet.as_ref()).await?;
        let amount = self.top_ups.amounts().choose(credential.top_up_amount, price, state.as_ref());
        let amount = amount.map_err(|problem| refused(problem.into()))?;
        let request = TopUpRequest {
            payer,
            payment_method: card.clone(),
            amount,
            reserve: Some(price),
            request_key: None,
            repeat: purchase.repeat.clone().map(Repeat::Request),
            new_wallet: credential.new_wallet,
            caller: purchase.caller,
            upstream: self.upstream.clone(),
        };
        match self.top_ups.charge(request).await.into() {
            AfterCharge::Recorded(recorded) => self.admit_with(purchase, *recorded, wallet).await,
            AfterCharge::LookAgain => Ok(None),
            AfterCharge::Pending(id) => {
                let promised = self.promised(id).await;
                Err(Refused { promised, ..refused(Refusal::TopUpPending(id)) })
            }
            AfterCharge::Refused(refusal) => Err(refused(refusal)),
        }
    }

    /// Whose credit the charge becomes. A card token that leads to somebody else is refused before Stripe is asked.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn payer(&self, credential: &Credential, wallet: Option<&Wallet>) -> Result<Payer, Refused> {
        let Some(wallet) = wallet else {
            return Ok(Payer::New);
        };
        if credential.client_key.is_none() {
            return Ok(Payer::Recognised(wallet.record.clone()));
        }
        if let Some(card) = credential.card().filter(|card| !card.is_shared_test_name()) {
            let bound = self.keys.bound_to(card.hash()).await.map_err(|error| away(&error))?;
            if bound.is_some_and(|bound| bound.client != wallet.record.client) {
                let refusal = Refusal::PaymentMethodOfOtherClient;
                return Err(Refused { wallet: Some(wallet.clone()), ..Refused::new(refusal) });
            }
        }
        Ok(Payer::Client(wallet.record.clone()))
    }

    async fn admit_with(
        &self,
        purchase: &Purchase,
        recorded: Recorded,
        wallet: Option<Wallet>,
    ) -> Result<Option<Admitted>, Refused> {
        let charged = Some(CardCharge::from(&recorded));
        let wallet = wallet.unwrap_or_else(|| self.wallet_of(&recorded.key));
        match recorded.reservation {
            Some(Ok(reservation)) => self.secure(purchase, reservation, wallet, charged).await,
            // Requests that ran all along have reserved the new credit too; the card was charged all the same.
            Some(Err(_)) | None => Err(Refused {
                wallet: Some(wallet),
                state: Some(recorded.posted.state),
                charged,
                ..Refused::new(Refusal::ReservationsInFlight)
            }),
        }
    }

    /// A client, by the key that answers carry.
    #[must_use]
    pub fn wallet_of(&self, record: &KeyRecord) -> Wallet {
        Wallet::new(record.clone(), self.top_ups.key_again(record))
    }

    /// The key that a pending charge promises.
    pub async fn promised(&self, id: TopUpId) -> Option<ClientKey> {
        let row = self.top_ups.find(id).await.ok()??;
        if row.client.is_some() {
            // The row names an existing client's key, and whoever asks has shown no more than a card token.
            return None;
        }
        self.top_ups.promised_key(&row)
    }

    /// Charges an admitted request, durably. Only when this has answered may a byte be delivered. `upstream_status`: what the API
    /// answered, or the handler. `answered` is stored in the same transaction, when the request has an `Idempotency-Key`.
    ///
    /// # Errors
    /// [`Refused`]; nothing was charged for the request, and nothing may be delivered.
    pub async fn capture(
        &self,
        admitted: Admitted,
        upstream_status: u16,
        answered: Option<Answered>,
    ) -> Result<Captured, Refused> {
        let Admitted { request, funds, quote, booking, claim, wallet, charged } = admitted;
        let Price::Exact(price) = quote.price() else {
            // Nobody is charged what it could have come to.
            tracing::error!(request.id = %request, "a price that is measured was captured unmeasured; nothing is charged");
            return Err(Refused { wallet: Some(wallet), charged, ..Refused::new(Refusal::CaptureFailed) });
        };
        let (reservation, hold) = match funds {
            Funds::Reserved(reservation) => (reservation, None),
            Funds::Held(running, hold) => (running, Some(hold)),
        };
        let store = match (&claim, answered) {
            (Some(claim), Some(answered)) => Some(StoredAnswer {
                scope: claim.scope,
                request,
                status: answered.status,
                headers: answered.headers,
                body: answered.body,
                request_headers: claim.headers,
            }),
            _ => None,
        };
        let is_kept = store.as_ref().is_some_and(|store| store.body.is_some());
        let capture = Capture {
            client: wallet.record.client,
            source: Source::new(SourceKind::Usage, request),
            price,
            route: booking.route.get(),
            price_list: booking.list.get(),
            upstream_status,
            held: hold.is_some(),
            key: wallet.record.number,
        };
        match self.ledger.capture_and_store(capture, reservation, store).await {
            Ok(posted) => {
                if let Some(hold) = hold {
                    hold.ended();
                }
                if let Some(claim) = claim {
                    claim.keep();
                }
                Ok(Captured { posted, wallet, charged, price })
            }
            Err(error) => {
                let uncaptured = Uncaptured { request, hold, claim, is_kept, wallet, charged };
                Err(Box::pin(self.give_up(uncaptured, &error)).await)
            }
        }
    }

    /// Ends a request that the upstream has worked for and that was not captured for certain.
    async fn give_up(&self, uncaptured: Uncaptured, error: &LedgerError) -> Refused {
        let Uncaptured { request, hold, claim, is_kept, wallet, charged } = uncaptured;
        let refusal = match (error, is_kept) {
            (LedgerError::Refused(_), _) => Refusal::CaptureFailed,
            (LedgerError::Unavailable(_) | LedgerError::Closed, true) => Refusal::CaptureUnknownKept,
            (LedgerError::Unavailable(_) | LedgerError::Closed, false) => Refusal::CaptureUnknown,
        };
        sparingly!(error, %error, request.id = %request, "a request was not captured, so it is not delivered");
        let end = self.clone().end_uncaptured(request, wallet.record.client, hold, claim, is_kept);
        match refusal {
            Refusal::CaptureFailed => end.await,
            // Not before the outcome is certain, which may take long.
            _ => drop(self.tasks.spawn(end)),
        }
        let state = self.ledger.state(wallet.record.client).await.ok().flatten();
        Refused { wallet: Some(wallet), state, charged, ..Refused::new(refusal) }
    }

    /// Lets everything go before the balance is told, so that the caller can spend it again at once: nothing is charged.
    /// `may_be_done`: the upstream may have done its work, although no answer of it can be delivered.
    pub async fn let_go(&self, admitted: Admitted, may_be_done: bool) -> Uncharged {
        let Admitted { funds, claim, wallet, charged, .. } = admitted;
        match funds {
            Funds::Reserved(reservation) => drop(reservation),
            Funds::Held(running, hold) => {
                hold.release().await;
                drop(running);
            }
        }
        match claim {
            Some(claim) if may_be_done => claim.interrupted().await,
            Some(claim) => claim.let_go().await,
            None => {}
        }
        let state = self.ledger.state(wallet.record.client).await.ok().flatten();
        Uncharged { wallet, state, charged }
    }

    /// What is left of a request that the upstream has worked for and that was not captured for certain.
    async fn end_uncaptured(
        self,
        request: RequestId,
        client: ClientId,
        hold: Option<HoldGuard>,
        claim: Option<Claim>,
        is_kept: bool,
    ) {
        let mut is_charged = false;
        if is_kept {
            // The charge stands if it and the answer are stored, because the answer can then be fetched.
            self.ledger.make_certain(request, client).await;
            while let Err(error) = self.ledger.is_charged(request).await.map(|found| is_charged = found) {
                sparingly!(warn, %error, request.id = %request, "it cannot be looked up yet whether a request was charged");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        } else {
            self.ledger.settle(request, client).await;
        }
        if let Some(hold) = hold {
            hold.release().await;
        }
        match claim {
            Some(claim) if is_charged => claim.keep(),
            Some(claim) => claim.interrupted().await,
            None => {}
        }
    }

    /// The API behind the gateway, if there is one.
    #[must_use]
    pub fn upstream(&self) -> Option<&Reachability> {
        self.upstream.as_ref()
    }

    /// The ledger, for delivery notes and balances.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The top-ups, for the billing API.
    #[must_use]
    pub fn top_ups(&self) -> &TopUps {
        &self.top_ups
    }
}

/// What is left of a request when its capture was refused, or has an unknown outcome.
struct Uncaptured {
    request: RequestId,
    hold: Option<HoldGuard>,
    claim: Option<Claim>,
    is_kept: bool,
    wallet: Wallet,
    charged: Option<CardCharge>,
}

/// Nobody could be given an answer that belongs to whoever knows the name of a test card.
fn unidentified() -> Refusal {
    Refusal::InvalidPayment(
        "An Idempotency-Key needs a clientId, or a paymentMethodId of the caller's own: Stripe's shared test names identify nobody."
            .to_owned(),
    )
}

fn away(error: &sqlx::Error) -> Refused {
    sparingly!(error, %error, "the database could not be read");
    Refused::new(Refusal::Busy)
}

/// A request that is paid for, on disk.
#[derive(Debug)]
pub struct Captured {
    /// The entry and the balances.
    pub posted: Posted,
    /// Who paid.
    pub wallet: Wallet,
    /// What this request charged to a card.
    pub charged: Option<CardCharge>,
    /// What it cost.
    pub price: Micros,
}

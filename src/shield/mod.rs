//! Keeps stolen cards from being tried here: limits that hold before Stripe charges anything, for all nodes together.
//!
//! A payer is *new* until a charge has succeeded: a client exists exactly when money has moved. What is counted stands in the
//! database: attempts and their outcomes in `top_ups`, where new payers come from in `charge_attempts`, for a day. A decline
//! is a bank's "no". That a bank asks for its cardholder (3-D Secure) is an attempt, and no decline.
//!
//! | who | limit | counted | otherwise |
//! |---|---|---|---|
//! | a token | 1 decline | of this token, for this payer or a new one | `card_declined`, without asking Stripe |
//! | a suspect card | founds no wallet | see below | `card_declined`, and it counts as declined |
//! | a network's new payers | 5 attempts an hour, 3 declined cards a day | attempts that failed; those that run, too, but they only say "ask again shortly" | `too_many_attempts`; `busy` |
//! | all new payers | 20 declines in 10 minutes, or more declines than half of 20 attempts or more | attempts that began in these 10 minutes | paused for 10 minutes: `new_payers_paused` |
//! | all new payers | 10 at once | attempts whose outcome is open | `busy` |
//! | a client | 5 attempts an hour | those that a bank answered by asking for its cardholder, and those that ended when Stripe was asked what the token is | `too_many_attempts` |
//! | a client | 3 declines and 3 cards a day, and one fresh card | its own that a bank has seen, also those that paid; known once Stripe has told the fingerprint | `too_many_attempts` |
//! | a card's checks | 3 that failed in 30 days, 10 that passed in a day, or 10 of which the bank said nothing in a day | SetupIntents for a card that has a wallet (`top_up::known_card`) | no check: as if the card had no wallet |
//! | a card | 4 declines a day | whoever presented it, by its fingerprint; also when its holder was asked for | `too_many_attempts` |
//!
//! What succeeds is never held against a network, so that payers behind one address do not shut each other out; nor is what
//! Stripe or we were to blame for. A client's limits count nothing but its own attempts, and a card that has paid for it before is
//! let through unless that very token was declined. So nobody who has paid is refused for what others do. A *fresh* card was never
//! declined for the client; one a day is tried beyond the limits, whatever becomes of it, so that three declines do not keep a good
//! card away and a stolen wallet tries one card more.
//!
//! A card is *suspect* as long as a wallet is frozen for a charge of it: for an early fraud warning, or for a dispute, an inquiry
//! included, because the wallet is frozen for that, too, and a closed one lifts its own freeze. Whoever lifts the freeze clears the
//! card. It is refused before anything is made at Stripe, with a decline's answer and a decline's numbers, so that nobody
//! learns which card is known. A wallet that is there goes by its own freezes.
//!
//! No answer depends on whether the card would have worked.
//!
//! The limits hold exactly, whoever races whom: each is looked at in the transaction that makes the attempt's row, after the
//! row. Attempts of one client, token or card wait for each other at the unique indexes of `top_ups`; those of new payers at
//! the one row of `new_payers`. `Shield::glance` spares the database a transaction when the answer is clear already.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::unwrap_used
    )
)]

mod network;
mod proxy_watch;
mod rules;
mod store;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

pub(crate) use self::network::{Network, is_internal};
use self::proxy_watch::ProxyWatch;
pub(crate) use self::rules::seconds_until_older;
use self::rules::{DAY, HOUR};
use crate::config::{Config, ShieldConfig};
use crate::db::{Connection, Db, DbError, now_micros};
use crate::domain::{SecretHash, TopUpId};
use crate::ledger::ClientId;

/// Whose attempts are too many: it decides what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// New payers of one network.
    Network,
    /// One card, whoever presents it.
    Card {
        /// Whether it is presented for a wallet.
        is_of_client: bool,
    },
    /// A client's cards and declines of a day.
    Client {
        /// Whether one that was never declined for it would be tried.
        may_try_another: bool,
    },
    /// A client's attempts of an hour that led to nothing.
    ClientAttempts,
    /// Charges that a token has caused without a clientId.
    Token,
}

/// Why an attempt to pay is not made. It says nothing about whether the card is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// This very token was declined before.
    DeadToken,
    /// A charge of this card is disputed, or was warned of, and nobody has cleared it.
    SuspectCard,
    /// Too many attempts, for so many seconds.
    TooMany {
        /// Whose.
        limit: Limit,
        /// Until there is room.
        seconds: u32,
    },
    /// New payers are paused, for so many seconds.
    Paused {
        /// Until they are let through.
        seconds: u32,
    },
    /// Too many attempts run at this moment.
    Crowded,
}

/// An attempt to pay that has not been made yet.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    id: String,
    /// `None`: a new payer.
    client: Option<ClientId>,
    /// `None` for Stripe's shared test names.
    token: Option<SecretHash>,
    network: String,
}

impl Attempt {
    pub(crate) fn new(
        id: TopUpId,
        client: Option<ClientId>,
        token: Option<SecretHash>,
        caller: Option<IpAddr>,
    ) -> Self {
        Self { id: id.to_string(), client, token, network: Network::of(caller).to_string() }
    }
}

/// The limits, and what this node knows of a pause. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shield(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    limits: ShieldConfig,
    proxy_watch: ProxyWatch,
    /// The end of the pause that was logged last, in Unix microseconds; 0: none, or its end was logged as well.
    paused_until: AtomicI64,
    barred: AtomicU64,
}

impl Shield {
    pub(crate) fn new(db: Db, config: &Config) -> Self {
        Self(Arc::new(Inner {
            db,
            limits: config.shield,
            proxy_watch: ProxyWatch::default(),
            paused_until: AtomicI64::new(0),
            barred: AtomicU64::new(0),
        }))
    }

    pub(crate) fn limits(&self) -> ShieldConfig {
        self.0.limits
    }

    /// How many attempts were refused.
    pub(crate) fn barred(&self) -> u64 {
        self.0.barred.load(Ordering::Relaxed)
    }

    /// Whether new payers are paused, as far as this node knows.
    pub(crate) fn is_paused(&self) -> bool {
        self.0.paused_until.load(Ordering::Relaxed) > now_micros()
    }

    /// Notes where a payer comes from, and warns when everybody seems to come from one place.
    pub(crate) fn notice(&self, caller: Option<IpAddr>, client: Option<ClientId>, token: Option<SecretHash>) {
        let Some(caller) = caller else { return };
        let beginning = |token: SecretHash| token.as_bytes().first_chunk().copied().map(u64::from_be_bytes);
        let payer = match client {
            Some(client) => u64::try_from(client).ok(),
            None => token.and_then(beginning),
        };
        if payer.is_some_and(|payer| self.0.proxy_watch.is_suspicious(caller, payer, Instant::now())) {
            tracing::error!(
                address = %caller,
                "nearly all payers come from one internal address, so they share one network's limits, and one thief shuts out every \
                 new payer: have your reverse proxy send X-Forwarded-For, and write its addresses into trusted_proxies"
            );
        }
    }

    /// Whether an attempt is barred for certain, by a look that changes nothing.
    pub(crate) async fn glance(&self, attempt: &Attempt) -> Result<Result<(), Barred>, DbError> {
        let (db, limits) = (self.0.db.reader(), &self.0.limits);
        if !limits.enabled {
            return Ok(Ok(()));
        }
        let now = now_micros();
        if let Some(token) = attempt.token
            && store::is_dead(db, token, attempt.client).await?
        {
            return Ok(Err(Barred::DeadToken));
        }
        if let Some(client) = attempt.client {
            if let Some(token) = attempt.token
                && store::has_paid(db, token, client).await?
            {
                return Ok(Ok(()));
            }
            let earlier = store::of_client(db, client, now.saturating_sub(HOUR), &attempt.id).await?;
            return Ok(rules::client(limits, now, &earlier));
        }
        let until = store::paused_until(db).await?;
        if until > now {
            return Ok(Err(paused(until, now)));
        }
        let unpaid = store::unpaid(db, &attempt.network, now.saturating_sub(DAY), attempt.token).await?;
        Ok(rules::network(limits, now, &unpaid))
    }

    /// Counts a refusal, and logs a pause that this node had not noticed.
    pub(crate) fn refused(&self, barred: Barred) {
        self.0.barred.fetch_add(1, Ordering::Relaxed);
        if let Barred::Paused { seconds } = barred {
            let now = now_micros();
            self.note_pause(now.saturating_add(i64::from(seconds).saturating_mul(1_000_000)), now);
        }
    }

    /// Logs the beginning and the end of a pause, once each.
    fn note_pause(&self, until: i64, now: i64) {
        let known = self.0.paused_until.load(Ordering::Relaxed);
        let is_free = known <= now;
        let next = if until > now { until } else { 0 };
        let is_new = next != 0 && is_free;
        let is_over = next == 0 && is_free && known != 0;
        if !is_new && !is_over {
            return;
        }
        if self.0.paused_until.compare_exchange(known, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            // Somebody else has noticed at the same time.
            return;
        }
        if is_new {
            tracing::error!(
                seconds = seconds_until_older(until, 0, now),
                "too many cards of new payers are declined: somebody may be trying stolen cards. New payers are paused; clients that \
                 have paid before are served"
            );
        } else {
            tracing::info!("new payers are let through again");
        }
    }

    /// Pauses new payers when it is time, so that the seller hears of it even if nobody tries any more; and tells the end.
    pub(crate) async fn watch(&self) -> Result<(), DbError> {
        let limits = self.0.limits;
        if !limits.enabled {
            return Ok(());
        }
        let now = now_micros();
        let mut until = store::paused_until(self.0.db.reader()).await?;
        if until <= now {
            let since = now.saturating_sub(window(&limits));
            if rules::is_to_pause(&limits, store::new_payers(self.0.db.reader(), since).await?) {
                let pausing = self.0.db.write(move |connection| {
                    Box::pin(async move {
                        let until = store::lock(&mut *connection).await?;
                        if until > now { Ok(until) } else { pause(connection, &limits, now).await }
                    })
                });
                until = pausing.await?;
            }
        }
        self.note_pause(until, now);
        Ok(())
    }

    /// Removes some of what no limit counts any more, and answers how many.
    pub(crate) async fn forget(&self) -> Result<u64, DbError> {
        let window = window(&self.0.limits).max(DAY);
        let before = now_micros().saturating_sub(window);
        self.0.db.write(move |connection| Box::pin(store::forget(connection, before))).await
    }
}

fn window(limits: &ShieldConfig) -> i64 {
    i64::try_from(limits.new_payer_window.as_micros()).unwrap_or(DAY)
}

fn paused(until: i64, now: i64) -> Barred {
    Barred::Paused { seconds: seconds_until_older(until, 0, now) }
}

/// Pauses new payers, and answers until when.
async fn pause(connection: &mut Connection, limits: &ShieldConfig, now: i64) -> Result<i64, sqlx::Error> {
    let until = now.saturating_add(window(limits));
    store::pause(connection, until).await?;
    Ok(until)
}

/// Whether an attempt may be made, whose row in `top_ups` has been made in the same transaction. It is noted if it may.
pub(crate) async fn admit(
    connection: &mut Connection,
    limits: &ShieldConfig,
    attempt: &Attempt,
    now: i64,
) -> Result<Result<(), Barred>, sqlx::Error> {
    if !limits.enabled {
        return Ok(Ok(()));
    }
    if let Some(token) = attempt.token
        && store::is_dead(&mut *connection, token, attempt.client).await?
    {
        return Ok(Err(Barred::DeadToken));
    }
    match attempt.client {
        Some(client) => {
            if let Some(token) = attempt.token
                && store::has_paid(&mut *connection, token, client).await?
            {
                return Ok(Ok(()));
            }
            let earlier = store::of_client(connection, client, now.saturating_sub(HOUR), &attempt.id).await?;
            Ok(rules::client(limits, now, &earlier))
        }
        None => admit_new(connection, limits, attempt, now).await,
    }
}

/// One after the other, on whichever node: what is counted here cannot change before the attempt is noted.
async fn admit_new(
    connection: &mut Connection,
    limits: &ShieldConfig,
    attempt: &Attempt,
    now: i64,
) -> Result<Result<(), Barred>, sqlx::Error> {
    let until = store::lock(&mut *connection).await?;
    if until > now {
        return Ok(Err(paused(until, now)));
    }
    // A pause is as long as the window, so what caused it does not cause the next.
    let seen = store::new_payers(&mut *connection, now.saturating_sub(window(limits))).await?;
    if rules::is_to_pause(limits, seen) {
        let until = pause(connection, limits, now).await?;
        return Ok(Err(paused(until, now)));
    }
    let unpaid =
        store::unpaid(&mut *connection, &attempt.network, now.saturating_sub(DAY), attempt.token).await?;
    if let Err(barred) = rules::network(limits, now, &unpaid) {
        return Ok(Err(barred));
    }
    if seen.running >= limits.new_payers_at_once {
        return Ok(Err(Barred::Crowded));
    }
    store::note(connection, &attempt.id, now, &attempt.network).await?;
    Ok(Ok(()))
}

/// Whether a bank may be asked about a card: not if it was refused too often.
pub(crate) async fn may_check_card(
    connection: &mut Connection,
    limits: &ShieldConfig,
    fingerprint: &str,
    now: i64,
) -> Result<Result<(), Barred>, sqlx::Error> {
    if !limits.enabled {
        return Ok(Ok(()));
    }
    let refusals = store::refusals_of_card(connection, fingerprint, now.saturating_sub(DAY), false).await?;
    Ok(rules::card(limits, now, false, &refusals))
}

/// Whether an attempt may go on, now that Stripe has told which card it is. Its row has the fingerprint already.
pub(crate) async fn admit_card(
    connection: &mut Connection,
    limits: &ShieldConfig,
    id: TopUpId,
    client: Option<ClientId>,
    fingerprint: &str,
    now: i64,
) -> Result<Result<(), Barred>, sqlx::Error> {
    if !limits.enabled {
        return Ok(Ok(()));
    }
    let since = now.saturating_sub(DAY);
    if let Some(client) = client {
        if store::card_has_paid(&mut *connection, fingerprint, client).await? {
            return Ok(Ok(()));
        }
        let earlier = store::of_client(&mut *connection, client, since, &id.to_string()).await?;
        let was_declined = store::card_was_declined(&mut *connection, fingerprint, client).await?;
        if let Err(barred) = rules::card_of_client(limits, now, fingerprint, was_declined, &earlier) {
            return Ok(Err(barred));
        }
    }
    let suspect = match client {
        Some(_) => None,
        None => store::suspect(&mut *connection, fingerprint).await?,
    };
    let refusals = store::refusals_of_card(connection, fingerprint, since, suspect.is_some()).await?;
    let admitted = rules::card(limits, now, client.is_some(), &refusals);
    match suspect {
        Some(wallet) if admitted.is_ok() => {
            tracing::warn!(
                top_up.id = %id, client = wallet,
                "a new payer presents a card with a fraud warning, or with a dispute that is not won: it is refused like a decline. \
                 Unfreezing the client that it has paid for clears it"
            );
            Ok(Err(Barred::SuspectCard))
        }
        _ => Ok(admitted),
    }
}

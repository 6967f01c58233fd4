//! Decides and settles a paid request: credential → admit (reserve) → … upstream … → capture, or release by dropping.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::unwrap_used
    )
)]

pub mod offer;
pub mod refusal;

use std::sync::Arc;

use crate::domain::{ClientKey, Micros, RequestId, TopUpId};
use crate::ledger::keys::{KeyLookup, KeyRecord, Keys};
use crate::ledger::{
    Capture, ClientState, Ledger, LedgerError, NotReserved, Posted, Reservation, ReserveError, usage_source,
};
use crate::protocol::stripe402::Credential;
use crate::top_up::{Landed, Payer, Recorded, TopUpOutcome, TopUpRequest, TopUps};

pub use self::refusal::{Answer, Refusal, WhoActs};

/// How often one request looks at the balance again after waiting for somebody else's charge.
const ROUNDS: usize = 8;

/// Admits and captures. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Paywall {
    ledger: Ledger,
    keys: Arc<Keys>,
    top_ups: TopUps,
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
}

impl From<&Recorded> for CardCharge {
    fn from(recorded: &Recorded) -> Self {
        Self {
            top_up: recorded.top_up,
            payment_intent: recorded.payment_intent.clone(),
            amount: recorded.amount,
        }
    }
}

/// A request that may go to the upstream: its price is set aside.
#[derive(Debug)]
pub struct Admitted {
    /// Released when dropped.
    pub reservation: Reservation,
    /// Who pays.
    pub wallet: Wallet,
    /// What this request charged to a card.
    pub charged: Option<CardCharge>,
}

/// A client and the key that answers carry.
#[derive(Debug, Clone)]
pub struct Wallet {
    /// The key's record.
    pub record: KeyRecord,
    /// The wire's `clientId`; `None` when the secret that it derives from is gone.
    pub key: Option<ClientKey>,
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
}

impl Refused {
    fn new(refusal: Refusal) -> Self {
        Self { refusal, wallet: None, state: None, charged: None, promised: None }
    }

    /// No payment was presented.
    #[must_use]
    pub fn challenge() -> Self {
        Self::new(Refusal::PaymentRequired)
    }

    /// Refused before anybody was recognised.
    #[must_use]
    pub fn because(refusal: Refusal) -> Self {
        Self::new(refusal)
    }
}

/// What a request costs, for its capture.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// The request.
    pub request: RequestId,
    /// The route's number.
    pub route: i64,
    /// The price list's number.
    pub price_list: i64,
    /// What the upstream answered.
    pub upstream_status: u16,
}

impl Paywall {
    /// Puts the parts together.
    #[must_use]
    pub fn new(ledger: Ledger, keys: Arc<Keys>, top_ups: TopUps) -> Self {
        Self { ledger, keys, top_ups }
    }

    /// Sets the price aside, charging a card first if that is needed and asked for.
    ///
    /// # Errors
    /// [`Refused`]; nothing is set aside then.
    pub async fn admit(&self, price: Micros, credential: &Credential) -> Result<Admitted, Refused> {
        if credential.max_amount.is_some_and(|max| price.to_units_ceil() > max) {
            return Err(Refused::new(Refusal::PriceAboveMax));
        }
        for _ in 0..ROUNDS {
            let wallet = self.recognise(credential).await?;
            let state = match &wallet {
                None => None,
                Some(wallet) => match self.reserve(wallet, price, credential).await? {
                    Ok(reservation) => {
                        return Ok(Admitted { reservation, wallet: wallet.clone(), charged: None });
                    }
                    Err(state) => Some(state),
                },
            };
            match self.top_up(price, credential, wallet, state).await? {
                Some(admitted) => return Ok(admitted),
                // Somebody else's charge for the same payer has ended: look again.
                None => continue,
            }
        }
        // Every round met another charge of the same payer.
        Err(Refused::new(Refusal::TopUpInProgress))
    }

    /// The wallet that a credential names. A clientId alone names it when present.
    ///
    /// # Errors
    /// [`Refused`] when the clientId names none, or the database is away.
    pub async fn recognise(&self, credential: &Credential) -> Result<Option<Wallet>, Refused> {
        if let Some(key) = &credential.client_key {
            return match self.keys.look_up(key.hash()).await {
                Ok(KeyLookup::Known(record)) => Ok(Some(Wallet { record, key: Some(key.clone()) })),
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
        let Some(card) = credential.payment_method.as_ref().filter(|card| !card.is_shared_test_name()) else {
            return Ok(None);
        };
        let bound = self.keys.bound_to(card.hash()).await.map_err(|error| away(&error))?;
        Ok(bound.map(|record| Wallet { key: self.top_ups.key_again(&record), record }))
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
        if !wallet.record.scope.may_spend() {
            return Err(Refused { wallet: Some(wallet.clone()), ..Refused::new(Refusal::Scope) });
        }
        let pays = credential.payment_method.is_some();
        match self.ledger.reserve(wallet.record.client, price).await {
            Ok(reservation) => Ok(Ok(reservation)),
            Err(ReserveError::NotReserved(why)) => match why {
                NotReserved::Insufficient(state) if pays => Ok(Err(state)),
                NotReserved::Insufficient(state) => Err(refused(Refusal::InsufficientCredits, state)),
                NotReserved::InFlight(state) | NotReserved::TooMany(state) => {
                    Err(refused(Refusal::ReservationsInFlight, state))
                }
                // Debt is repaid by a top-up; a decision to freeze is not.
                NotReserved::Frozen(state) if pays && !state.frozen => Ok(Err(state)),
                NotReserved::Frozen(state) if !state.frozen => {
                    Err(refused(Refusal::InsufficientCredits, state))
                }
                NotReserved::Frozen(state) => Err(refused(Refusal::ClientFrozen, state)),
                NotReserved::Unknown => Err(Refused::new(Refusal::UnknownClient)),
            },
            Err(ReserveError::Db(error)) => {
                tracing::error!(%error, "a balance could not be read");
                Err(Refused::new(Refusal::Busy))
            }
        }
    }

    /// Charges the card. `None`: somebody else's charge ended meanwhile.
    async fn top_up(
        &self,
        price: Micros,
        credential: &Credential,
        wallet: Option<Wallet>,
        state: Option<ClientState>,
    ) -> Result<Option<Admitted>, Refused> {
        let refused = |refusal| Refused { wallet: wallet.clone(), state, ..Refused::new(refusal) };
        let Some(card) = &credential.payment_method else {
            return Err(refused(Refusal::PaymentRequired));
        };
        let payer = self.payer(credential, wallet.as_ref()).await?;
        let amount = match credential.top_up_amount {
            Some(units) => units.to_micros(),
            None => self.top_ups.minimum_for(price, state.as_ref()),
        };
        if let Err(problem) = self.top_ups.check_amount(amount, price, state.as_ref()) {
            return Err(refused(problem.into()));
        }
        let request = TopUpRequest {
            payer,
            payment_method: card.clone(),
            amount,
            reserve: Some(price),
            request_key: None,
        };
        match self.top_ups.charge(request).await {
            TopUpOutcome::Recorded(recorded) => self.admit_with(*recorded, wallet).map(Some),
            TopUpOutcome::Shared(Landed::Credited | Landed::Nothing) => Ok(None),
            TopUpOutcome::Shared(Landed::Failed(reason)) | TopUpOutcome::Failed(reason) => {
                Err(refused(reason.into()))
            }
            TopUpOutcome::Shared(Landed::Pending(id)) | TopUpOutcome::Pending(id) => {
                let promised = self.promised(id).await;
                Err(Refused { promised, ..refused(Refusal::TopUpPending(id)) })
            }
            TopUpOutcome::InProgress => Err(refused(Refusal::TopUpInProgress)),
            TopUpOutcome::TooManyCharges => Err(refused(Refusal::TooManyAttempts)),
            TopUpOutcome::Shared(Landed::Unavailable) | TopUpOutcome::Unavailable => {
                Err(refused(Refusal::Busy))
            }
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
        if let Some(card) = credential.payment_method.as_ref().filter(|card| !card.is_shared_test_name()) {
            let bound = self.keys.bound_to(card.hash()).await.map_err(|error| away(&error))?;
            if bound.is_some_and(|bound| bound.client != wallet.record.client) {
                let refusal = Refusal::PaymentMethodOfOtherClient;
                return Err(Refused { wallet: Some(wallet.clone()), ..Refused::new(refusal) });
            }
        }
        Ok(Payer::Client(wallet.record.clone()))
    }

    #[expect(clippy::result_large_err, reason = "a refusal is moved once, to the answer")]
    fn admit_with(&self, recorded: Recorded, wallet: Option<Wallet>) -> Result<Admitted, Refused> {
        let charged = Some(CardCharge::from(&recorded));
        let wallet = wallet.unwrap_or_else(|| Wallet {
            key: self.top_ups.key_again(&recorded.key),
            record: recorded.key.clone(),
        });
        match recorded.reservation {
            Some(Ok(reservation)) => Ok(Admitted { reservation, wallet, charged }),
            // Requests that ran all along have reserved the new credit too; the card was charged all the same.
            Some(Err(_)) | None => Err(Refused {
                wallet: Some(wallet),
                state: Some(recorded.posted.state),
                charged,
                ..Refused::new(Refusal::ReservationsInFlight)
            }),
        }
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

    /// Charges an admitted request, durably. Only when this has answered may a byte be delivered.
    ///
    /// # Errors
    /// [`Refused`]; nothing was charged for the request, and nothing may be delivered.
    pub async fn capture(&self, admitted: Admitted, usage: Usage) -> Result<Captured, Refused> {
        let Admitted { reservation, wallet, charged } = admitted;
        let price = reservation.amount();
        let capture = Capture {
            client: wallet.record.client,
            source: usage_source(usage.request),
            price,
            route: usage.route,
            price_list: usage.price_list,
            upstream_status: usage.upstream_status,
            held: false,
        };
        match self.ledger.capture(capture, reservation).await {
            Ok(posted) => Ok(Captured { posted, wallet, charged, price }),
            Err(error) => {
                let refusal = match &error {
                    LedgerError::Refused(_) => Refusal::CaptureFailed,
                    LedgerError::Unavailable(_) | LedgerError::Closed => Refusal::CaptureUnknown,
                };
                tracing::error!(%error, request.id = %usage.request, "a request was not captured, so it is not delivered");
                let state = self.ledger.state(wallet.record.client).await.ok().flatten();
                Err(Refused { wallet: Some(wallet), state, charged, ..Refused::new(refusal) })
            }
        }
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

fn away(error: &sqlx::Error) -> Refused {
    tracing::error!(%error, "the database could not be read");
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

//! From a card charge to credit, without ever charging twice or forgetting a charge.
//!
//! ```text
//! row 'created' ─► PaymentMethod read ─► (card known: `known_card.rs`) ─► customer ─► PaymentIntent made ─► row 'confirming' ─► confirm ─► recorded 'succeeded'
//!                                                                                         └► cancelled ─► 'failed'
//!                                                                                         └► unknown: stays open; the
//!                                                                                            reconciler asks Stripe
//! ```
//! Why two steps at Stripe: once the PaymentIntent's id is stored, the truth is one consistent read away, without the 24
//! hours that an idempotency key lives. What may have been charged is never called failed. One function settles an intent
//! (`settle.rs`), whoever learned its state first.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::unwrap_used
    )
)]

pub mod accept;
pub mod account;
mod adopt;
pub mod amounts;
mod attempt;
mod card_checks;
mod flights;
pub mod installation;
mod intent;
mod known_card;
mod reconcile;
mod settle;
pub mod store;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use self::account::{Account, Standing, WrongStripe};
pub use self::adopt::{AdoptError, Adoption, Align};
pub use self::amounts::{AmountProblem, Amounts};
use self::flights::Flights;
pub use self::intent::{IntentSettled, IntentUnknown};
use self::known_card::CardIdentity;
pub use self::known_card::NO_CARD_CHECKS;
use self::store::TopUpRow;
use crate::config::Config;
use crate::db::{Db, DbError};
use crate::domain::{ClientKey, Currency, InstallationId, Micros, PaymentMethodId, SecretHash, TopUpId};
use crate::key_secret::KeySecret;
use crate::ledger::keys::{KeyRecord, Keys};
use crate::ledger::repeat_key::RepeatKey;
use crate::ledger::{ClientId, Ledger, NotReserved, Posted, Reservation};
use crate::money_work::MoneyWork;
use crate::proxy::reachability::Reachability;
use crate::shield::{Barred, Shield};
use crate::stripe::Stripe;

/// How long one request may spend on a charge before it answers "pending".
const DEADLINE: Duration = Duration::from_secs(40);

/// Charges cards and records what became of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopUps(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    ledger: Ledger,
    keys: Arc<Keys>,
    key_secret: KeySecret,
    stripe: Stripe,
    /// In the metadata of every charge.
    installation: InstallationId,
    account: Account,
    /// Whether the keys are live keys: what is charged in the other mode is not this gateway's.
    is_live: bool,
    currency: Currency,
    amounts: Amounts,
    statement_descriptor_suffix: Option<String>,
    shield: Shield,
    card_identity: CardIdentity,
    flights: Flights,
    /// Money work runs here, where no caller can cancel it; shutdown waits for it.
    tasks: MoneyWork,
}

/// Whose credit a charge becomes.
#[derive(Debug, Clone)]
pub enum Payer {
    /// A client that presented its key.
    Client(KeyRecord),
    /// A client that was recognised by its card token alone.
    Recognised(KeyRecord),
    /// Nobody yet: the first success makes a client.
    New,
}

impl Payer {
    fn key(&self) -> Option<&KeyRecord> {
        match self {
            Self::Client(key) | Self::Recognised(key) => Some(key),
            Self::New => None,
        }
    }
}

/// A charge that is asked for. The amount was chosen by [`Amounts::choose`].
#[derive(Debug, Clone)]
pub struct TopUpRequest {
    /// Whose credit.
    pub payer: Payer,
    /// The card.
    pub payment_method: PaymentMethodId,
    /// What is charged.
    pub amount: Micros,
    /// Set aside for the request that pays, in the same step as the credit.
    pub reserve: Option<Micros>,
    /// Hash of payer and `Idempotency-Key`: the same key never charges twice.
    pub request_key: Option<SecretHash>,
    /// The same key, to look whether another token of the card has used it.
    pub repeat: Option<Repeat>,
    /// Somebody new asks for a wallet of their own, whatever the card has founded before.
    pub new_wallet: bool,
    /// Where the request comes from, if that is known.
    pub caller: Option<IpAddr>,
    /// The API that the credit is for, if it is behind a gateway: while it cannot be reached, no card is charged.
    pub upstream: Option<Reachability>,
}

/// An `Idempotency-Key`, and what it is for.
#[derive(Debug, Clone)]
pub enum Repeat {
    /// A priced request.
    Request(RepeatKey),
    /// A top-up by itself: the hash of the key alone.
    Order(SecretHash),
}

impl Repeat {
    fn order(&self) -> Option<SecretHash> {
        match self {
            Self::Request(_) => None,
            Self::Order(key) => Some(*key),
        }
    }
}

/// What became of a charge.
#[derive(Debug)]
pub enum TopUpOutcome {
    /// Charged and credited, by this request.
    Recorded(Box<Recorded>),
    /// Nothing was charged: the bank has confirmed the card, and its token leads to the wallet that the card has founded.
    Recognised,
    /// Nothing was charged: it is not known whether the bank confirms the card.
    Unchecked,
    /// Somebody else's charge for the same payer ended while this one waited: look at the balance again.
    Shared(Landed),
    /// Not charged, and it never will be.
    Failed(FailureReason),
    /// It may have been charged; the reconciler finds out.
    Pending(TopUpId),
    /// The same card is being charged for somebody at this moment.
    InProgress,
    /// Not tried, to keep stolen cards from being tried here.
    Barred(Barred),
    /// The API cannot be reached; nothing was charged.
    UpstreamUnreachable,
    /// Stripe or the database cannot be used; nothing was charged.
    Unavailable,
}

/// A charge that has become credit.
#[derive(Debug)]
pub struct Recorded {
    /// Our id.
    pub top_up: TopUpId,
    /// Stripe's.
    pub payment_intent: String,
    /// Charged.
    pub amount: Micros,
    /// The entry and the balances.
    pub posted: Posted,
    /// What was set aside.
    pub reservation: Option<Result<Reservation, NotReserved>>,
    /// The key that names the wallet.
    pub key: KeyRecord,
}

/// What those who waited for a charge learn of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// There is credit now.
    Credited,
    /// Not charged.
    Failed(FailureReason),
    /// Not known yet.
    Pending(TopUpId),
    /// It is not known whether the bank confirms the card; nothing was charged.
    Unchecked,
    /// Not even begun.
    Nothing,
    /// Stripe or the database cannot be used; nothing was charged.
    Unavailable,
}

/// Why a card was not charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// The bank said no. One answer for every reason, so that cards cannot be tested here.
    Declined,
    /// The bank wants the person.
    AuthenticationRequired,
    /// The PaymentMethod cannot be used: unknown, spent, or no card.
    InvalidPaymentMethod,
    /// The PaymentMethod belongs to another customer at Stripe: it has topped up another wallet.
    OfOtherClient,
    /// Too many attempts with this card, or with cards of this client; found when Stripe had told which card it is.
    TooManyAttempts,
    /// A charge of this card is disputed, or was warned of, and it would have founded a wallet. Told like a decline.
    SuspectCard,
    /// The card has founded a wallet, and to charge it for another one may pay twice for one purchase.
    CardHasWallet,
    /// The same, when the bank was asked first and has said neither. Told like it; but the shield counts it as an attempt.
    CardNotConfirmed,
    /// A wallet that the card has founded is frozen.
    ClientFrozen,
    /// Stripe refused for a reason that is the seller's to mend.
    Refused,
    /// It was given up before anything was charged.
    Abandoned,
}

impl FailureReason {
    /// The stable code that is stored and answered.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Declined => "card_declined",
            Self::AuthenticationRequired => "authentication_required",
            Self::InvalidPaymentMethod => "invalid_payment",
            Self::OfOtherClient => "payment_method_of_other_client",
            Self::TooManyAttempts => "too_many_attempts",
            Self::SuspectCard => "card_suspect",
            Self::CardHasWallet => "card_has_wallet",
            Self::CardNotConfirmed => "card_not_confirmed",
            Self::ClientFrozen => "client_frozen",
            Self::Refused | Self::Abandoned => "payment_failed",
        }
    }
}

/// What [`TopUps`] is made of.
#[derive(Debug)]
pub struct TopUpParts {
    /// Where the rows are.
    pub db: Db,
    /// Where credit is recorded.
    pub ledger: Ledger,
    /// Who is who.
    pub keys: Arc<Keys>,
    /// What new keys derive from.
    pub key_secret: KeySecret,
    /// Who charges.
    pub stripe: Stripe,
    /// Which gateway this is, see [`installation`].
    pub installation: InstallationId,
    /// Whether the keys are those of the books.
    pub account: Account,
    /// Where money work runs.
    pub tasks: MoneyWork,
}

impl TopUps {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: TopUpParts, config: &Config) -> Self {
        Self(Arc::new(Inner {
            shield: Shield::new(parts.db.clone(), config),
            db: parts.db,
            ledger: parts.ledger,
            keys: parts.keys,
            key_secret: parts.key_secret,
            stripe: parts.stripe,
            installation: parts.installation,
            account: parts.account,
            is_live: config.stripe.is_live(),
            currency: config.currency,
            amounts: Amounts::new(config.top_up.clone(), config.currency),
            statement_descriptor_suffix: config.stripe.statement_descriptor_suffix.clone(),
            card_identity: CardIdentity::new(config),
            flights: Flights::default(),
            tasks: parts.tasks,
        }))
    }

    /// What keeps stolen cards from being tried.
    pub(crate) fn shield(&self) -> &Shield {
        &self.0.shield
    }

    /// Whether the keys are those of the books.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.0.account
    }

    /// What may be charged.
    #[must_use]
    pub fn amounts(&self) -> &Amounts {
        &self.0.amounts
    }

    /// The key of a record, given again. `None` when the key secret it derives from is gone.
    #[must_use]
    pub fn key_again(&self, record: &KeyRecord) -> Option<ClientKey> {
        self.0.key_secret.again(record.id, record.secret_version).filter(|key| key.hash() == record.hash)
    }

    /// The key that an attempt promises. `None` when the key secret it derives from is gone.
    #[must_use]
    pub fn promised_key(&self, row: &TopUpRow) -> Option<ClientKey> {
        self.0.key_secret.again(row.key, row.key_secret).filter(|key| key.hash() == row.key_hash)
    }

    /// One attempt.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find(&self, id: TopUpId) -> Result<Option<TopUpRow>, DbError> {
        store::by_id(&self.0.db, id).await
    }

    /// Whether a PaymentIntent was made in a Stripe account that has been given up.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn is_of_former_account(&self, intent: &str) -> Result<bool, DbError> {
        let row = store::by_payment_intent(&self.0.db, intent.to_owned()).await?;
        Ok(row.is_some_and(|row| row.is_of_former_account))
    }

    /// Stripe knows a PaymentIntent that counts as one of a former account: it is of this database's account after all.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub(crate) async fn take_back(&self, intent: &str) -> Result<(), DbError> {
        tracing::warn!(
            payment_intent = intent,
            "Stripe knows a charge of a former account; it counts as this one's again"
        );
        store::take_back(&self.0.db, intent.to_owned()).await
    }

    /// The attempt that an `Idempotency-Key` made.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_by_request_key(&self, key: SecretHash) -> Result<Option<TopUpRow>, DbError> {
        store::by_request_key(&self.0.db, key).await
    }

    /// Succeeded attempts whose charge nobody has read yet, with their PaymentIntents: so many of them, in the order of their ids,
    /// those after a certain one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn without_charge(
        &self,
        after: Option<TopUpId>,
        limit: i64,
    ) -> Result<Vec<(TopUpId, String)>, DbError> {
        store::without_charge(&self.0.db, after, limit).await
    }

    /// The top-up that a wallet has ordered under an `Idempotency-Key`, whoever presented it: by the hash of the key alone.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_order(&self, client: ClientId, key: SecretHash) -> Result<Option<TopUpRow>, DbError> {
        store::by_order(&self.0.db, client, key).await
    }

    /// When the oldest attempt was made, in Unix microseconds.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn oldest_attempt(&self) -> Result<Option<i64>, DbError> {
        store::oldest(&self.0.db).await
    }

    /// How many attempts are open, and since when (Unix microseconds) the oldest is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_attempts(&self) -> Result<(i64, Option<i64>), DbError> {
        store::oldest_open(&self.0.db).await
    }

    /// Charges the card once, or waits for whoever is charging for the same payer. Goes on when the caller has gone.
    pub async fn charge(&self, request: TopUpRequest) -> TopUpOutcome {
        let top_ups = self.clone();
        let id = TopUpId::new();
        let work = self.0.tasks.spawn(async move { top_ups.charge_or_wait(id, request).await });
        work.await.unwrap_or_else(|error| {
            // A panic inside: whatever was begun is found by the reconciler. Nothing is guessed here.
            tracing::error!(%error, top_up.id = %id, "a top-up ended unexpectedly");
            TopUpOutcome::Pending(id)
        })
    }
}

/// That long from now.
#[expect(clippy::arithmetic_side_effects, reason = "a constant of seconds does not overflow a clock")]
pub(crate) fn after(time: Duration) -> Instant {
    Instant::now() + time
}

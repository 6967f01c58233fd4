//! A simulated Stripe: stateful, with books of its own, reached over HTTP like the real one.
//!
//! It serves the part of Stripe's API that a card gateway uses, with Stripe's encodings, errors, test cards and
//! idempotency keys, and it can be told to fail in the ways that Stripe and networks fail. What it cannot do it refuses,
//! rather than pretend. It uses none of the gateway's code, so that its books can contradict ours. It is our own, because
//! stripe-mock, which Stripe offers, remembers nothing and cannot be told how to fail.
//!
//! # What differs from Stripe on purpose
//! - Only test cards are taken. The number is never stored; a fingerprint and the last four digits are.
//! - A charge is final at once: the balance transaction is there in the answer, unless the setting
//!   `late_balance_transactions` says otherwise, and a refund succeeds, unless its card is one that makes refunds pend or fail.
//! - What comes later comes after a minute on the simulator's clock, or when told to: see below.
//! - Card 4000 0000 0000 4020 (`pm_card_processing`) stays `processing` until told otherwise.
//! - The bank of 4000 0000 0000 4038 (`pm_card_cvcUnavailable`) does not check CVCs, and that of 4000 0000 0000 4046
//!   (`pm_card_cvcUnchecked`) has not; 4000 0000 0000 0101 (`pm_card_cvcCheckFail`) is Stripe's card whose check fails.
//! - A CVC is gone once the card's bank has taken the card: by a charge, a SetupIntent or an attachment. Checks after that are
//!   null. A card's name such as `pm_card_visa` counts as typed in with its right CVC.
//! - A change of a customer reaches the search after a minute; what is found is the customer as it was then.
//! - Cards that are disputed or reported at Stripe are disputed or reported before their charge is answered.
//! - Events are those about money that moves or may move, and about SetupIntents that were confirmed or canceled;
//!   `payment_intent.created` and the like are not made.
//!
//! # The sandbox's own URLs
//! | URL | |
//! |---|---|
//! | `GET /_sim/health` | up, and what it is |
//! | `GET /_sim/books` | totals by currency, every PaymentIntent and refund |
//! | `GET /_sim/requests` | counts by operation, the last requests, how many are held |
//! | `POST /_sim/faults`, `GET`, `DELETE` | instructions: see `faults.rs` |
//! | `POST /_sim/release` | lets held requests go on |
//! | `POST /_sim/clock` | `{"advance_seconds": 86400}` |
//! | `POST /_sim/settings` | `{"publishable_key_tokenisation": false, "late_balance_transactions": true}`, either or both |
//! | `POST /_sim/permissions` | `{"withheld": ["rak_setup_intent_write"]}`: the secret key is a restricted key without these, until told otherwise or stopped |
//! | `POST /_sim/cvc` | `{"number": "4242424242424242", "cvc": "737", "declines": false}`: another CVC of that card fails its check from now on, or with `"declines": true` is declined. Without `cvc` every CVC is right again. Kept in memory only |
//! | `POST /_sim/search/catch-up` | the search knows every customer as it is now |
//! | `POST /_sim/payment_intents/{id}/finish` | `{"outcome": "succeeded"}` or `"failed"`, for `processing` and `requires_action` |
//! | `POST /_sim/setup_intents/{id}/finish` | the same for SetupIntents |
//! | `POST /_sim/payment_intents/{id}/settle` | brings a late balance transaction, and its `charge.updated` |
//! | `POST /_sim/payment_intents/{id}/dispute` | `{"amount", "reason", "inquiry", "withdraw"}`, all optional; `"withdraw": false` leaves the funds for now |
//! | `POST /_sim/payment_intents/{id}/fraud_warning` | `{"fraud_type"}`, optional: an early fraud warning |
//! | `POST /_sim/disputes/{id}/withdraw` | takes the funds; an inquiry becomes a dispute by it |
//! | `POST /_sim/disputes/{id}/reinstate` | gives them back |
//! | `POST /_sim/disputes/{id}/close` | `{"status": "won"}`, `"lost"` or `"warning_closed"`; won reinstates unless `"reinstate": false` |
//! | `POST /_sim/refunds` | `{"payment_intent", "amount"}`: a refund from the dashboard, without metadata; the amount is optional |
//! | `POST /_sim/refunds/{id}/finish` | `{"outcome": "succeeded"}` or `"failed"` |
//! | `POST /_sim/webhook_endpoints` | `{"url", "secrets": ["whsec_…"], "types"}`; without types, all. `GET` lists, `DELETE` removes all, `DELETE …/{id}` one |
//! | `GET /_sim/webhooks` | whether events are held, what is pending, the last deliveries |
//! | `POST /_sim/webhooks/hold` | keeps events back, once running deliveries have ended |
//! | `POST /_sim/webhooks/deliver` | `{"events": ["evt_…"], "twin": false}`: exactly these, in this order; answers with the statuses. Without `events`: all that are pending |
//! | `POST /_sim/webhooks/release` | lets them go again |

mod answer;
mod books;
mod cards;
mod control;
mod currencies;
mod endpoint;
mod endpoints;
mod error;
mod events;
mod expand;
mod faults;
mod form;
mod idempotency;
mod issuer;
mod journal;
mod objects;
mod params;
mod render;
mod request_log;
mod search;
mod server;
mod setups;
mod webhooks;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use actix_web::dev::ServerHandle;

pub use books::NoRandomness;
pub use journal::JournalError;
pub use webhooks::WebhookError;

use books::{Books, Settings};
use journal::Journal;
use server::Sim;

/// How a simulated Stripe is set up.
#[derive(Clone)]
pub struct SimOptions {
    /// Where the books are kept; `None` keeps them in memory only.
    pub data: Option<PathBuf>,
    /// The key of the seller's server: `sk_test_…` or `rk_test_…`.
    pub secret_key: String,
    /// The key that anybody may have: `pk_test_…`.
    pub publishable_key: String,
    /// Whether the publishable key may turn a card number into a PaymentMethod. At Stripe this is off unless switched
    /// on. Books that exist remember what was last set.
    pub publishable_key_tokenisation: bool,
}

impl fmt::Debug for SimOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimOptions")
            .field("data", &self.data)
            .field("publishable_key", &self.publishable_key)
            .field("publishable_key_tokenisation", &self.publishable_key_tokenisation)
            .finish_non_exhaustive()
    }
}

/// Why a simulated Stripe does not start.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A live key, or no key at all.
    #[error("the simulated Stripe takes test keys only: {0}")]
    Key(&'static str),
    /// The books.
    #[error(transparent)]
    Books(#[from] JournalError),
    /// The system gives no randomness.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The socket.
    #[error("the simulated Stripe cannot listen: {0}")]
    Listen(#[from] io::Error),
    /// The webhook.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The books were opened, and can no longer be written.
    #[error("the books can no longer be written")]
    Unwritable,
}

/// A simulated Stripe that runs until it is stopped.
#[derive(Debug)]
pub struct RunningSim {
    /// Where it answers, such as `http://127.0.0.1:4404`, without a slash at the end.
    pub base_url: String,
    handle: ServerHandle,
    sim: Arc<Sim>,
    server: tokio::task::JoinHandle<io::Result<()>>,
}

impl RunningSim {
    /// Delivers events to a webhook on this machine from now on, signed with each of the secrets. It takes the place of the
    /// webhook that was given here before, also before a restart; those of `/_sim/webhook_endpoints` are left alone.
    ///
    /// # Errors
    /// [`SimError::Webhook`] for a URL that is not on this machine and for what is no secret; [`SimError::Unwritable`] when the
    /// books cannot be written.
    pub async fn deliver_webhooks_to(&self, url: &str, secrets: &[String]) -> Result<(), SimError> {
        let (_, line) = webhooks::register(&self.sim, url, secrets.to_vec(), Vec::new(), true)?;
        self.sim.commit(line).await.map_err(|_| SimError::Unwritable)
    }

    /// Stops at once, without waiting for requests that are being answered, and gives the file up.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        // The server's own result is only about its sockets, which are gone either way.
        let _ = self.server.await;
        self.sim.close().await;
    }
}

fn check_keys(options: &SimOptions) -> Result<(), SimError> {
    let plain =
        |key: &str| key.len() <= 255 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let secret = &options.secret_key;
    if !(secret.starts_with("sk_test_") || secret.starts_with("rk_test_")) || !plain(secret) {
        return Err(SimError::Key("the secret key must start with sk_test_ or rk_test_"));
    }
    if !options.publishable_key.starts_with("pk_test_") || !plain(&options.publishable_key) {
        return Err(SimError::Key("the publishable key must start with pk_test_"));
    }
    Ok(())
}

/// Starts a simulated Stripe on a socket that is already bound. Must be called inside a tokio runtime.
///
/// # Errors
/// [`SimError`] when a key is not a test key, the books cannot be opened, or the socket cannot be used.
pub async fn start(listener: TcpListener, options: SimOptions) -> Result<RunningSim, SimError> {
    check_keys(&options)?;
    let base_url = format!("http://{}", listener.local_addr()?);
    let tokenisation = options.publishable_key_tokenisation;
    let data = options.data.clone();
    // Reading a long journal blocks.
    let opened = tokio::task::spawn_blocking(move || -> Result<(Books, Journal), SimError> {
        let mut books = Books::new(Settings::new(tokenisation))?;
        let journal = match &data {
            Some(path) => Journal::open(path, &mut books)?,
            None => Journal::none(),
        };
        Ok((books, journal))
    });
    let (books, journal) = opened.await.map_err(io::Error::other)??;
    let sim = Arc::new(Sim::new(options.secret_key, options.publishable_key, books, journal));
    let server = server::listen(listener, Arc::clone(&sim))?;
    sim.begin();
    let handle = server.handle();
    Ok(RunningSim { base_url, handle, sim, server: tokio::spawn(server) })
}

//! Repeats an attempt whose outcome is unknown, under the same idempotency key, until a deadline.
//!
//! Not async-stripe's strategies: they cannot repeat a given key, and without one they send a POST twice.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::calls::Endpoint;
use super::client::ResponseMeta;
use super::failure::{RefusalKind, StripeFailure, UnknownReason};
use crate::domain::ids::random_bytes;

/// Waits between attempts: exponential, with jitter so that callers who failed together do not return together.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryPolicy {
    /// The wait after the first failure, before jitter.
    pub(super) first: Duration,
    /// No wait is longer, before `Retry-After`.
    pub(super) longest: Duration,
    /// What one page of a list may take.
    pub(super) page: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(4),
            page: Duration::from_secs(40),
        }
    }
}

/// Stripe has answered, and what it says cannot be read. Under its key it says the same again; so once more, in case something on
/// the way has damaged it, and no more.
const MAX_UNREADABLE: u32 = 2;

/// One attempt, and what its answer said beside the result.
pub(super) struct Attempted<T> {
    pub(super) result: Result<T, StripeFailure>,
    /// `None` when no answer came.
    pub(super) meta: Option<ResponseMeta>,
    /// What the connection said, for the log.
    pub(super) transport_error: Option<String>,
}

impl RetryPolicy {
    /// How long to wait after the `failures`-th failure, or `None` to stop. `jitter` is uniformly random.
    pub(super) fn wait(&self, failures: u32, meta: Option<&ResponseMeta>, jitter: u8) -> Option<Duration> {
        if let Some(meta) = meta {
            // A recorded answer is recorded for a day: asking again under this key yields it again.
            if meta.should_retry == Some(false) || meta.replayed {
                return None;
            }
        }
        let doublings = failures.saturating_sub(1).min(16);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        // Between half and all of it.
        let half = full / 2;
        let wait = half + half.saturating_mul(u32::from(jitter)) / u32::from(u8::MAX);
        Some(wait.max(meta.and_then(|meta| meta.retry_after).unwrap_or_default()))
    }
}

/// Calls `attempt` until it succeeds, fails definitively, or the deadline comes; then returns the last failure.
///
/// Each attempt must bound its own time by the same deadline.
pub(super) async fn with_retries<T, F, A>(
    endpoint: Endpoint,
    policy: RetryPolicy,
    deadline: Instant,
    mut attempt: A,
) -> Result<T, StripeFailure>
where
    A: FnMut() -> F,
    F: Future<Output = Attempted<T>>,
{
    let (mut failures, mut unreadable): (u32, u32) = (0, 0);
    // The last failure after which Stripe may have acted.
    let mut may_have_acted: Option<StripeFailure> = None;
    loop {
        if Instant::now() >= deadline {
            let nothing_yet = StripeFailure::Unknown { reason: UnknownReason::Timeout, request_id: None };
            return Err(may_have_acted.unwrap_or(nothing_yet));
        }
        let attempted = attempt().await;
        let failure = match attempted.result {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        failures = failures.saturating_add(1);
        log(endpoint, failures, &failure, attempted.transport_error.as_deref());
        match &failure {
            StripeFailure::Unknown { reason: UnknownReason::Unreadable(200..300), .. } => {
                unreadable = unreadable.saturating_add(1);
                if unreadable >= MAX_UNREADABLE {
                    return Err(failure);
                }
            }
            StripeFailure::Unknown { .. } => {}
            // Decided before Stripe looks up the key, so it does not say what an earlier attempt did.
            StripeFailure::Refused(refusal)
                if matches!(refusal.kind, RefusalKind::Authentication | RefusalKind::IdempotencyMismatch) =>
            {
                return Err(may_have_acted.unwrap_or(failure));
            }
            StripeFailure::Declined(_) | StripeFailure::Refused(_) => return Err(failure),
        }
        let [jitter] = random_bytes();
        let next = policy
            .wait(failures, attempted.meta.as_ref(), jitter)
            .and_then(|wait| Instant::now().checked_add(wait))
            .filter(|next| *next < deadline);
        let Some(next) = next else {
            return Err(failure);
        };
        may_have_acted = Some(failure);
        tokio::time::sleep_until(next).await;
    }
}

/// One event per failed attempt. Never a key, a PaymentMethod or a path.
fn log(endpoint: Endpoint, attempt: u32, failure: &StripeFailure, transport_error: Option<&str>) {
    let (class, request_id) = (failure.class(), failure.request_id().unwrap_or("-"));
    // To be refused is the answer that is asked for.
    let is_expected = endpoint == Endpoint::MayCheckCards;
    let endpoint = endpoint.name();
    match failure {
        StripeFailure::Refused(_) if is_expected => {}
        StripeFailure::Unknown { reason, .. } => tracing::warn!(
            endpoint,
            attempt,
            class,
            request_id,
            %reason,
            error = transport_error.unwrap_or("-"),
            "a call to Stripe failed"
        ),
        StripeFailure::Declined(decline) => tracing::warn!(
            endpoint,
            attempt,
            class,
            request_id,
            code = decline.stripe_code.as_deref().unwrap_or("-"),
            decline_code = decline.decline_code.as_deref().unwrap_or("-"),
            "a call to Stripe failed"
        ),
        StripeFailure::Refused(refusal) => tracing::warn!(
            endpoint,
            attempt,
            class,
            request_id,
            kind = ?refusal.kind,
            code = refusal.code.as_deref().unwrap_or("-"),
            message = refusal.message,
            "a call to Stripe failed"
        ),
    }
}

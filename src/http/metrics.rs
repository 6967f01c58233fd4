//! What the gateway counts, in Prometheus' text form. No label comes from outside.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::paywall::{Refusal, Refused};

/// How a public request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// Charged and served.
    Paid,
    /// Served again under an `Idempotency-Key` that was charged before.
    Repeated,
    /// Served free.
    Free,
    /// Answered 402 because nothing was presented.
    Challenged,
    /// A payment was presented and refused.
    PaymentRefused,
    /// The upstream's answer was passed on without a charge.
    NotCharged,
    /// The upstream gave no answer.
    UpstreamFailed,
    /// Refused for its form or because nothing is sold there.
    Refused,
    /// Too much at once.
    Busy,
    /// A browser's question.
    Preflight,
}

impl Outcome {
    /// Of a priced request that is refused.
    pub(crate) fn of_refused(refused: &Refused) -> Self {
        match refused.refusal {
            Refusal::Busy => Self::Busy,
            _ => Self::PaymentRefused,
        }
    }
}

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WebhookOutcome {
    /// Stored, to be applied.
    Received,
    /// Stored, and nothing follows from its type.
    Ignored,
    /// Stored before.
    Duplicate,
    /// Of Stripe's other mode: not stored.
    OtherMode,
    /// About a connected account: not stored.
    OtherAccount,
    /// Refused: not signed with a secret of ours.
    BadSignature,
    /// Refused: signed too long ago, or in the future.
    BadTimestamp,
    /// Refused: no event.
    Malformed,
    /// Refused: too large, too slow, or cut off.
    BadBody,
    /// Not stored: too many at once.
    Busy,
    /// Not stored: the database is away.
    Unavailable,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    outcome: WebhookOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    outcome: Outcome,
    status: u16,
}

/// The counters. One per process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    open_top_ups: Gauge,
    oldest_open_seconds: Gauge,
    reserved: Gauge,
    ledger_batches: Counter,
    ledger_commands: Counter,
    ledger_replays: Counter,
    ledger_retries: Counter,
    reversed_at_start: Gauge,
    reversed_for_others: Gauge,
    new_payers_paused: Gauge,
    barred_attempts: Counter,
    untrusted_forwards: Counter,
    webhooks: Family<WebhookLabels, Counter>,
    events_fetched: Counter,
    event_polls_failed: Counter,
    parked_events: Gauge,
    oldest_parked_seconds: Gauge,
    unknown_objects: Gauge,
    stripe_account: Gauge,
    book_differences: Gauge,
    database_writable: Gauge,
    broken_answers_given_back: Counter,
    upstream_reachable: Gauge,
    broken_answer_alarms: Counter,
}

/// Values that are read when the metrics are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Readings {
    /// Top-ups whose outcome is open.
    pub open_top_ups: i64,
    /// Age of the oldest of them, in seconds.
    pub oldest_open_seconds: i64,
    /// Micros set aside by running requests.
    pub reserved_micros: i64,
    /// Ledger transactions.
    pub batches: u64,
    /// Ledger commands.
    pub commands: u64,
    /// Ledger batches replayed one by one.
    pub replays: u64,
    /// Ledger batches looked up and tried again.
    pub retries: u64,
    /// Captures given back at start.
    pub reversed_at_start: u64,
    /// Captures given back for other nodes.
    pub reversed_for_others: u64,
    /// Whether new payers are paused because many cards are declined.
    pub new_payers_paused: bool,
    /// Requests of proxies in front that are not believed.
    pub untrusted_forwards: u64,
    /// Attempts to pay that were refused because there were too many.
    pub barred_attempts: u64,
    /// Stripe's events that were fetched, because no webhook had brought them.
    pub events_fetched: u64,
    /// Looks at Stripe's list of events that failed.
    pub event_polls_failed: u64,
    /// Stripe's events that could not be applied yet.
    pub parked_events: i64,
    /// Age of the oldest of them, in seconds.
    pub oldest_parked_seconds: i64,
    /// Of the parked events, those about objects of the books that Stripe does not know.
    pub unknown_objects: i64,
    /// 1: the secret key is of the account of the books, or nothing is charged yet; 0: not proven, -1: it is not.
    pub stripe_account: i64,
    /// 1: the last connection to the upstream worked, 0: it failed, -1: not known.
    pub upstream_reachable: i64,
    /// Answers that the API broke off, given back.
    pub broken_answers_given_back: u64,
    /// How often one client had more of them in an hour than is usual.
    pub broken_answer_alarms: u64,
    /// Differences between the books and Stripe; -1: not known.
    pub book_differences: i64,
    /// 1: the database takes writes; 0: it does not, or is not the one that was opened, and nothing is sold.
    pub database_writable: i64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("prepaid402");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Public requests by how they ended", requests.clone());
        let seconds = Histogram::new([
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ]);
        registry.register("request_seconds", "Time to the head of the answer", seconds.clone());
        let webhooks = Family::<WebhookLabels, Counter>::default();
        registry.register("webhooks", "Webhooks by what became of them", webhooks.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::<i64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let open_top_ups = gauge("open_top_ups", "Top-ups whose outcome is not known yet");
        let oldest_open_seconds = gauge("oldest_open_top_up_seconds", "Age of the oldest of them");
        let reserved = gauge("reserved_micros", "Set aside by running requests, in micros");
        let reversed_at_start = gauge(
            "captures_reversed_at_start",
            "Captures given back at start because their answers may not have been delivered",
        );
        let reversed_for_others = gauge(
            "captures_reversed_for_other_nodes",
            "Captures given back because another node died before their answers were delivered for certain",
        );
        let new_payers_paused =
            gauge("new_payers_paused", "1 while new payers are refused because many cards are declined");
        let parked_events = gauge("parked_events", "Stripe's events that could not be applied yet");
        let oldest_parked_seconds = gauge("oldest_parked_event_seconds", "Age of the oldest of them");
        let unknown_objects = gauge(
            "unknown_objects",
            "Parked events about charges, refunds or disputes of the books that Stripe does not know",
        );
        let stripe_account = gauge(
            "stripe_account",
            "1 when the secret key is of the account that the books belong to, 0 while that is not known, -1 when it is of another",
        );
        let book_differences = gauge(
            "book_differences",
            "Differences between the books and Stripe in the last two days; -1 while it is not known",
        );
        let database_writable = gauge(
            "database_writable",
            "1 while the database takes writes, 0 while it does not, or is not the one that was opened, and nothing is sold",
        );
        let upstream_reachable = gauge(
            "upstream_reachable",
            "1 when the last connection to the upstream worked, 0 when it failed, -1 while it is not known",
        );
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::<u64, AtomicU64>::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let ledger_batches = counter("ledger_batches", "Ledger transactions committed");
        let ledger_commands = counter("ledger_commands", "Ledger commands in them");
        let ledger_replays = counter("ledger_replays", "Ledger batches replayed one by one after a failure");
        let ledger_retries = counter(
            "ledger_retries",
            "Ledger batches looked up and tried again: conflicts between nodes, or a database server that went away",
        );
        let barred_attempts = counter(
            "barred_attempts",
            "Attempts to pay that were not made, to keep stolen cards from being tried",
        );
        let untrusted_forwards = counter(
            "untrusted_forwards",
            "Requests with X-Forwarded-For or the like from an internal address that is not in trusted_proxies: all callers behind it count as one",
        );
        let events_fetched =
            counter("events_fetched", "Stripe's events that no webhook had brought when they were fetched");
        let event_polls_failed =
            counter("event_polls_failed", "Looks at Stripe's list of events that failed");
        let broken_answers_given_back =
            counter("broken_answers_given_back", "Charged answers that the API broke off, given back");
        let broken_answer_alarms = counter(
            "broken_answer_alarms",
            "How often one client had more than 100 of them within an hour; the log names it",
        );
        Self {
            new_payers_paused,
            barred_attempts,
            untrusted_forwards,
            registry,
            requests,
            seconds,
            open_top_ups,
            oldest_open_seconds,
            reserved,
            ledger_batches,
            ledger_commands,
            ledger_replays,
            ledger_retries,
            reversed_at_start,
            reversed_for_others,
            webhooks,
            events_fetched,
            event_polls_failed,
            parked_events,
            oldest_parked_seconds,
            unknown_objects,
            stripe_account,
            book_differences,
            database_writable,
            broken_answers_given_back,
            broken_answer_alarms,
            upstream_reachable,
        }
    }

    /// Counts one public answer.
    pub fn answered(&self, outcome: Outcome, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { outcome, status }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts one webhook.
    pub fn webhook(&self, outcome: WebhookOutcome) {
        self.webhooks.get_or_create(&WebhookLabels { outcome }).inc();
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn render(&self, readings: Readings) -> String {
        self.open_top_ups.set(readings.open_top_ups);
        self.oldest_open_seconds.set(readings.oldest_open_seconds);
        self.reserved.set(readings.reserved_micros);
        self.reversed_at_start.set(readings.reversed_at_start.try_into().unwrap_or(i64::MAX));
        self.reversed_for_others.set(readings.reversed_for_others.try_into().unwrap_or(i64::MAX));
        self.new_payers_paused.set(readings.new_payers_paused.into());
        self.parked_events.set(readings.parked_events);
        self.oldest_parked_seconds.set(readings.oldest_parked_seconds);
        self.unknown_objects.set(readings.unknown_objects);
        self.stripe_account.set(readings.stripe_account);
        self.book_differences.set(readings.book_differences);
        self.database_writable.set(readings.database_writable);
        self.upstream_reachable.set(readings.upstream_reachable);
        for (counter, now) in [
            (&self.ledger_batches, readings.batches),
            (&self.ledger_commands, readings.commands),
            (&self.ledger_replays, readings.replays),
            (&self.ledger_retries, readings.retries),
            (&self.barred_attempts, readings.barred_attempts),
            (&self.untrusted_forwards, readings.untrusted_forwards),
            (&self.events_fetched, readings.events_fetched),
            (&self.event_polls_failed, readings.event_polls_failed),
            (&self.broken_answers_given_back, readings.broken_answers_given_back),
            (&self.broken_answer_alarms, readings.broken_answer_alarms),
        ] {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

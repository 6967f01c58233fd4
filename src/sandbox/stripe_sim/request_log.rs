//! Which requests came, so that a test can say "exactly one, with this key". No secrets, no bodies.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::endpoint::Endpoint;
use super::faults::Action;

/// Requests that are remembered.
const REMEMBERED: usize = 1_000;

/// One request.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Entry {
    number: u64,
    method: String,
    /// A PaymentMethod's id is left out: it can be a credential.
    path: String,
    operation: Option<&'static str>,
    idempotency_key: Option<String>,
    stripe_version: Option<String>,
    /// `None` while it is being answered, and when the caller went away before.
    status: Option<u16>,
    replayed: bool,
    fault: Option<Action>,
}

/// The last requests, and counts of all.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    next: u64,
    counts: BTreeMap<&'static str, u64>,
    last: VecDeque<Entry>,
}

impl RequestLog {
    /// Notes a request that arrived, and returns its number.
    pub(super) fn arrived(
        &mut self,
        method: &str,
        path: &str,
        endpoint: Option<Endpoint>,
        idempotency_key: Option<&str>,
        stripe_version: Option<&str>,
    ) -> u64 {
        self.next = self.next.saturating_add(1);
        let operation = endpoint.map(Endpoint::name);
        let count = self.counts.entry(operation.unwrap_or("unknown")).or_default();
        *count = count.saturating_add(1);
        if self.last.len() >= REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(Entry {
            number: self.next,
            method: method.to_owned(),
            path: without_methods(path),
            operation,
            idempotency_key: idempotency_key.map(|key| key.chars().take(255).collect()),
            stripe_version: stripe_version.map(|version| version.chars().take(64).collect()),
            status: None,
            replayed: false,
            fault: None,
        });
        self.next
    }

    /// Notes how it was answered.
    pub(super) fn answered(&mut self, number: u64, status: u16, replayed: bool) {
        if let Some(entry) = self.find(number) {
            entry.status = Some(status);
            entry.replayed = replayed;
        }
    }

    /// Notes what happened to it.
    pub(super) fn faulted(&mut self, number: u64, action: Action) {
        if let Some(entry) = self.find(number) {
            entry.fault = Some(action);
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut Entry> {
        let first = self.last.front()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        self.last.get_mut(index)
    }

    /// How many requests of each operation there were.
    pub(super) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// The last requests, oldest first.
    pub(super) fn last(&self) -> &VecDeque<Entry> {
        &self.last
    }
}

fn without_methods(path: &str) -> String {
    let parts: Vec<&str> =
        path.split('/')
            .map(|part| {
                if part.starts_with("pm_") && !part.starts_with("pm_card_") {
                    "{payment_method}"
                } else {
                    part
                }
            })
            .collect();
    parts.join("/").chars().take(255).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_last_requests_are_kept_without_payment_methods() {
        let mut log = RequestLog::default();
        let mut number = 0;
        for _ in 0..=REMEMBERED {
            number =
                log.arrived("GET", "/v1/payment_methods/pm_1abc", Some(Endpoint::RetrieveMethod), None, None);
        }
        log.answered(number, 200, true);
        log.answered(1, 500, false);
        assert_eq!(log.last().len(), REMEMBERED);
        let last = log.last().back().unwrap();
        assert_eq!(
            (last.path.as_str(), last.status, last.replayed),
            ("/v1/payment_methods/{payment_method}", Some(200), true)
        );
        assert_eq!(log.counts()["payment_methods.retrieve"], 1_001);
        assert!(log.last().iter().all(|entry| entry.status != Some(500)));
    }
}

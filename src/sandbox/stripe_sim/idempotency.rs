//! Idempotency keys, as Stripe treats them. <https://docs.stripe.com/api/idempotent_requests>
//!
//! A key remembers the status and body of the first request whose execution began, declines and server errors included.
//! What is refused before execution (wrong parameters, unknown ids, a key in use) is not remembered.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::books::Books;
use super::objects::SavedAnswer;

/// Keys may be forgotten after 24 hours; the simulator forgets them exactly then.
pub(super) const LIFETIME_SECONDS: i64 = 24 * 60 * 60;
/// The longest key.
pub(super) const MAX_KEY: usize = 255;

/// Keys whose first request has not been answered yet.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<HashSet<String>>>);

/// Holds a key until its request is answered, or its caller has gone.
#[derive(Debug)]
pub(super) struct KeyInUse {
    key: String,
    in_flight: InFlight,
}

impl Drop for KeyInUse {
    fn drop(&mut self) {
        self.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// What a key says about a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Unknown: execute, and hold this until the answer is out.
    Execute(KeyInUse),
    /// Known: this was the answer.
    Replay(SavedAnswer),
    /// Known for another request.
    Mismatch,
    /// The first request is still being executed.
    InUse,
}

impl InFlight {
    /// Takes a key without looking at what it remembers: a request that is held by a fault is still being executed.
    pub(super) fn hold(&self, key: &str) -> Option<KeyInUse> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = keys.insert(key.to_owned());
        taken.then(|| KeyInUse { key: key.to_owned(), in_flight: self.clone() })
    }

    /// Looks a key up. `request` is the MAC of the request's method, path and parameters.
    pub(super) fn begin(&self, books: &Books, key: &str, request: &str) -> Verdict {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains(key) {
            return Verdict::InUse;
        }
        match books.saved(key) {
            Some(answer) if answer.request == request => Verdict::Replay(answer.clone()),
            Some(_) => Verdict::Mismatch,
            None => {
                keys.insert(key.to_owned());
                Verdict::Execute(KeyInUse { key: key.to_owned(), in_flight: self.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::books::{Record, Settings};
    use super::*;

    fn books() -> Books {
        Books::new(Settings::new(true)).unwrap()
    }

    fn save(books: &mut Books, key: &str, request: &str) {
        let created = books.now();
        books.put(Record::Saved(SavedAnswer {
            key: key.into(),
            created,
            request: request.into(),
            request_id: "req_1".into(),
            status: 402,
            body: "{}".into(),
        }));
    }

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Execute(_) => "execute",
            Verdict::Replay(_) => "replay",
            Verdict::Mismatch => "mismatch",
            Verdict::InUse => "in use",
        }
    }

    #[test]
    fn a_key_answers_its_own_request_for_a_day() {
        let mut books = books();
        let in_flight = InFlight::default();
        save(&mut books, "k", "same");
        for (advance, key, request, expected) in [
            (0, "k", "same", "replay"),
            (0, "k", "other", "mismatch"),
            (0, "new", "same", "execute"),
            (LIFETIME_SECONDS - 10, "k", "same", "replay"),
            (10, "k", "other", "execute"),
        ] {
            books.advance(advance);
            assert_eq!(word(&in_flight.begin(&books, key, request)), expected, "{advance} {key} {request}");
        }
    }

    #[test]
    fn a_key_is_in_use_until_its_request_is_answered_or_dropped() {
        let books = books();
        let in_flight = InFlight::default();
        let first = in_flight.begin(&books, "k", "same");
        assert_eq!(word(&first), "execute");
        assert_eq!(word(&in_flight.begin(&books, "k", "same")), "in use");
        assert_eq!(word(&in_flight.begin(&books, "k", "other")), "in use");
        drop(first);
        assert_eq!(word(&in_flight.begin(&books, "k", "same")), "execute");
    }
}

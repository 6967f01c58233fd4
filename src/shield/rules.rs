//! The limits, as ordinary functions of what has happened.

use std::collections::HashMap;

use super::Barred;
use crate::config::ShieldConfig;

pub(super) const HOUR: i64 = 3_600 * 1_000_000;
pub(super) const DAY: i64 = 24 * HOUR;

/// An attempt of a new payer that did not become a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unpaid {
    /// Unix microseconds.
    pub(super) at: i64,
    /// The fingerprint, or what else tells the card from others.
    pub(super) card: String,
    /// Whether its outcome is open.
    pub(super) is_running: bool,
    /// Whether it was made with the very token that is presented now.
    pub(super) is_same_token: bool,
}

/// An attempt of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfClient {
    /// Unix microseconds.
    pub(super) at: i64,
    /// The fingerprint, or what else tells the card from others.
    pub(super) card: String,
    /// Whether a bank may have been asked.
    pub(super) is_tried: bool,
    /// Whether the bank said no.
    pub(super) is_declined: bool,
    /// Whether it ended when Stripe was asked what the token is.
    pub(super) is_looked_up_in_vain: bool,
}

/// What new payers did within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NewPayers {
    pub(super) declined: u32,
    pub(super) ended: u32,
    pub(super) running: u32,
}

/// Of so many or more times, the one that has to grow old until there are fewer.
fn over(limit: u32, times: impl Iterator<Item = i64>) -> Option<i64> {
    let mut times: Vec<i64> = times.collect();
    times.sort_unstable();
    let oldest = times.len().checked_sub(usize::try_from(limit).unwrap_or(usize::MAX))?;
    times.get(oldest).copied()
}

/// Seconds, rounded up, until something that happened `at` is older than `age`.
pub(crate) fn seconds_until_older(at: i64, age: i64, now: i64) -> u32 {
    let left = at.saturating_add(age).saturating_sub(now).max(0);
    u32::try_from(left.div_euclid(1_000_000)).unwrap_or(u32::MAX).saturating_add(1)
}

fn too_many(at: i64, age: i64, now: i64) -> Barred {
    Barred::TooMany { seconds: seconds_until_older(at, age, now) }
}

/// When each of the cards was last tried.
fn cards<'a>(tries: impl Iterator<Item = (&'a str, i64)>) -> HashMap<&'a str, i64> {
    let mut cards = HashMap::new();
    for (card, at) in tries {
        let last = cards.entry(card).or_insert(at);
        *last = at.max(*last);
    }
    cards
}

/// Whether a network of new payers may make one more attempt. What runs counts, since it may fail; but only what has failed
/// is a reason to send somebody away for long.
pub(super) fn network(limits: &ShieldConfig, now: i64, unpaid: &[Unpaid]) -> Result<(), Barred> {
    let known = unpaid.iter().find(|attempt| attempt.is_same_token).map(|attempt| attempt.card.as_str());
    let over_with = |counts: &dyn Fn(&&Unpaid) -> bool| {
        let hour = unpaid.iter().filter(counts).filter(|attempt| attempt.at > now.saturating_sub(HOUR));
        let attempts = over(limits.network_attempts_an_hour, hour.map(|attempt| attempt.at));
        let others = unpaid.iter().filter(counts).filter(|attempt| Some(attempt.card.as_str()) != known);
        let others = cards(others.map(|attempt| (attempt.card.as_str(), attempt.at)));
        let cards = over(limits.network_cards_a_day, others.into_values());
        attempts.map(|at| too_many(at, HOUR, now)).or_else(|| cards.map(|at| too_many(at, DAY, now)))
    };
    if let Some(barred) = over_with(&|attempt| !attempt.is_running) {
        return Err(barred);
    }
    if over_with(&|_| true).is_some() {
        return Err(Barred::Crowded);
    }
    Ok(())
}

/// Whether a client may present another token, before it is known what card that is.
pub(super) fn client(limits: &ShieldConfig, now: i64, attempts: &[OfClient]) -> Result<(), Barred> {
    let declines = attempts.iter().filter(|attempt| attempt.is_declined);
    if let Some(at) = over(limits.client_declines_a_day, declines.map(|attempt| attempt.at)) {
        return Err(too_many(at, DAY, now));
    }
    let vain = attempts
        .iter()
        .filter(|attempt| attempt.is_looked_up_in_vain && attempt.at > now.saturating_sub(HOUR));
    // The same number as for a network: Stripe's patience with questions is the seller's, too.
    match over(limits.network_attempts_an_hour, vain.map(|attempt| attempt.at)) {
        Some(at) => Err(too_many(at, HOUR, now)),
        None => Ok(()),
    }
}

/// Whether a client may try this card.
pub(super) fn card_of_client(
    limits: &ShieldConfig,
    now: i64,
    card: &str,
    attempts: &[OfClient],
) -> Result<(), Barred> {
    let others = attempts.iter().filter(|attempt| attempt.is_tried && attempt.card != card);
    let others = cards(others.map(|attempt| (attempt.card.as_str(), attempt.at)));
    match over(limits.client_cards_a_day, others.into_values()) {
        Some(at) => Err(too_many(at, DAY, now)),
        None => Ok(()),
    }
}

/// Whether a card that was declined at these times may be tried.
pub(super) fn card(limits: &ShieldConfig, now: i64, declines: &[i64]) -> Result<(), Barred> {
    match over(limits.card_declines_a_day, declines.iter().copied()) {
        Some(at) => Err(too_many(at, DAY, now)),
        None => Ok(()),
    }
}

/// Whether new payers look like somebody who tries stolen cards.
pub(super) fn is_to_pause(limits: &ShieldConfig, seen: NewPayers) -> bool {
    let share = |part: u32| u64::from(part).saturating_mul(100);
    let of_all = u64::from(seen.ended).saturating_mul(u64::from(limits.new_payer_decline_percent));
    seen.declined >= limits.new_payer_declines
        || (seen.ended >= limits.new_payer_declines && share(seen.declined) > of_all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use super::*;

    const NOW: i64 = 100 * DAY;
    const MINUTE: i64 = 60 * 1_000_000;

    fn limits() -> ShieldConfig {
        let file = "[upstream]\nurl = \"http://127.0.0.1:1\"\n[[routes]]\npath = \"/a\"\nprice = \"0.01\"";
        let env = [("STRIPE_SECRET_KEY", "sk_test_1"), ("STRIPE_PUBLISHABLE_KEY", "pk_test_1")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let loaded = crate::config::load_from(Some(file), std::path::Path::new("."), &env).unwrap();
        loaded.config.shield
    }

    fn unpaid(minutes_ago: i64, card: &str) -> Unpaid {
        Unpaid {
            at: NOW - minutes_ago * MINUTE,
            card: card.to_owned(),
            is_running: false,
            is_same_token: false,
        }
    }

    fn seconds(judged: Result<(), Barred>) -> u32 {
        match judged {
            Err(Barred::TooMany { seconds }) => seconds,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_network_has_five_attempts_an_hour() {
        let same_card: Vec<_> = (0..5).map(|n| unpaid(10 + n, "a")).collect();
        assert_eq!(network(&limits(), NOW, &same_card[..4]), Ok(()));
        assert_eq!(
            seconds(network(&limits(), NOW, &same_card)),
            46 * 60 + 1,
            "until the oldest of five is an hour old"
        );
        let older: Vec<_> = (0..5).map(|n| unpaid(56 + n, "a")).collect();
        assert_eq!(network(&limits(), NOW, &older), Ok(()), "one of them is an hour old");
    }

    #[test]
    fn a_network_has_three_cards_a_day_and_a_known_token_is_none_of_the_others() {
        let cards = ["a", "b", "c"].map(|card| unpaid(120, card));
        assert_eq!(network(&limits(), NOW, &cards[..2]), Ok(()));
        assert_eq!(seconds(network(&limits(), NOW, &cards)), 22 * 3_600 + 1);
        let mut again = cards.clone();
        again[1].is_same_token = true;
        assert_eq!(network(&limits(), NOW, &again), Ok(()), "no fourth card");
        let twice = [unpaid(120, "a"), unpaid(300, "a"), unpaid(400, "b"), unpaid(500, "c")];
        assert_eq!(
            seconds(network(&limits(), NOW, &twice)),
            24 * 3_600 - 500 * 60 + 1,
            "the last try of each counts"
        );
    }

    #[test]
    fn what_runs_is_no_reason_to_send_somebody_away_for_long() {
        let mut cards = ["a", "b", "c"].map(|card| unpaid(0, card));
        cards[2].is_running = true;
        assert_eq!(network(&limits(), NOW, &cards), Err(Barred::Crowded));
    }

    fn tried(minutes_ago: i64, card: &str) -> OfClient {
        OfClient {
            at: NOW - minutes_ago * MINUTE,
            card: card.to_owned(),
            is_tried: true,
            is_declined: false,
            is_looked_up_in_vain: false,
        }
    }

    #[test]
    fn a_client_has_three_cards_and_three_declines_a_day() {
        let cards = ["a", "b", "c"].map(|card| tried(60, card));
        assert_eq!(client(&limits(), NOW, &cards), Ok(()));
        assert_eq!(card_of_client(&limits(), NOW, "b", &cards), Ok(()));
        assert_eq!(card_of_client(&limits(), NOW, "d", &cards[..2]), Ok(()));
        assert_eq!(seconds(card_of_client(&limits(), NOW, "d", &cards)), 23 * 3_600 + 1);
        let mut declined = ["a", "a", "b"].map(|card| tried(60, card));
        for attempt in &mut declined {
            assert_eq!(client(&limits(), NOW, std::slice::from_ref(attempt)), Ok(()));
            attempt.is_declined = true;
        }
        assert_eq!(seconds(client(&limits(), NOW, &declined)), 23 * 3_600 + 1);
        let mut untried = cards.clone();
        untried[0].is_tried = false;
        assert_eq!(card_of_client(&limits(), NOW, "d", &untried), Ok(()), "no bank has seen that one");
    }

    #[test]
    fn a_client_does_not_use_up_stripes_patience() {
        let vain = OfClient { is_tried: false, is_looked_up_in_vain: true, ..tried(10, "a") };
        assert_eq!(client(&limits(), NOW, &vec![vain.clone(); 4]), Ok(()));
        assert_eq!(seconds(client(&limits(), NOW, &vec![vain; 5])), 50 * 60 + 1);
    }

    #[test]
    fn a_card_has_four_declines_a_day() {
        let declines = [1, 2, 3, 4].map(|hours| NOW - hours * HOUR);
        assert_eq!(card(&limits(), NOW, &declines[..3]), Ok(()));
        assert_eq!(seconds(card(&limits(), NOW, &declines)), 20 * 3_600 + 1);
    }

    #[test]
    fn new_payers_are_paused_at_twenty_declines_or_when_most_are() {
        for (declined, ended, expected) in [
            (0, 0, false),
            (10, 19, false),
            (19, 19, false),
            (10, 20, false),
            (11, 20, true),
            (19, 38, false),
            (20, 20, true),
            (20, 1_000_000, true),
            (19, u32::MAX, false),
        ] {
            let seen = NewPayers { declined, ended, running: 0 };
            assert_eq!(is_to_pause(&limits(), seen), expected, "{seen:?}");
        }
    }
}

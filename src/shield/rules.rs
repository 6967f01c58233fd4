//! The limits, as ordinary functions of what has happened.

use std::collections::{HashMap, HashSet};

use super::{Barred, Limit};
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
    /// Whether a bank said no, or it was answered as if one had. A bank that asks for the cardholder has not.
    pub(super) is_declined: bool,
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
    /// Whether a bank may have been asked, and has not asked for the cardholder.
    pub(super) is_tried: bool,
    /// Whether the bank said no.
    pub(super) is_declined: bool,
    /// Whether the bank asked for the cardholder, or it ended when Stripe was asked what the token is.
    pub(super) is_in_vain: bool,
    /// Whether the card had paid for this client before.
    pub(super) had_paid: bool,
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

fn too_many(limit: Limit, until: i64, now: i64) -> Barred {
    Barred::TooMany { limit, seconds: seconds_until_older(until, 0, now) }
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
    let over_until = |with_running: bool| {
        let counted = || unpaid.iter().filter(move |attempt| with_running || !attempt.is_running);
        let hour = counted().filter(|attempt| attempt.at > now.saturating_sub(HOUR));
        let attempts = over(limits.network_attempts_an_hour, hour.map(|attempt| attempt.at));
        let others = counted().filter(|attempt| attempt.is_declined || attempt.is_running);
        let others = others.filter(|attempt| Some(attempt.card.as_str()) != known);
        let others = cards(others.map(|attempt| (attempt.card.as_str(), attempt.at)));
        let cards = over(limits.network_cards_a_day, others.into_values());
        // Whoever comes again when one of them has passed must not be sent away for the other.
        attempts.map(|at| at.saturating_add(HOUR)).max(cards.map(|at| at.saturating_add(DAY)))
    };
    if let Some(until) = over_until(false) {
        return Err(too_many(Limit::Network, until, now));
    }
    if over_until(true).is_some() {
        return Err(Barred::Crowded);
    }
    Ok(())
}

/// Whether a client may present another token, before it is known what card that is.
pub(super) fn client(limits: &ShieldConfig, now: i64, attempts: &[OfClient]) -> Result<(), Barred> {
    let vain = attempts.iter().filter(|attempt| attempt.is_in_vain && attempt.at > now.saturating_sub(HOUR));
    // The same number as for a network: Stripe's patience with questions is the seller's, too.
    match over(limits.network_attempts_an_hour, vain.map(|attempt| attempt.at)) {
        Some(at) => Err(too_many(Limit::ClientAttempts, at.saturating_add(HOUR), now)),
        None => Ok(()),
    }
}

/// Whether a client may try a card that has not paid for it before. Beyond its own limits there is one *fresh* card a day: one
/// that was never declined for it. That the fresh card pays does not make room for another one, or a stolen wallet would try cards
/// for as long as some of them are good.
pub(super) fn card_of_client(
    limits: &ShieldConfig,
    now: i64,
    card: &str,
    was_declined: bool,
    attempts: &[OfClient],
) -> Result<(), Barred> {
    let is_allowed_at = |then: i64| {
        let recent = || attempts.iter().filter(move |attempt| attempt.at > then.saturating_sub(DAY));
        !Numbers::of(recent()).are_used_up(limits, card) || !(was_declined || is_beyond(limits, recent()))
    };
    if is_allowed_at(now) {
        return Ok(());
    }
    // As attempts grow old one after the other, what is allowed stays allowed.
    let later = attempts.iter().map(|attempt| attempt.at.saturating_add(DAY)).filter(|then| *then > now);
    let until = later.filter(|then| is_allowed_at(*then)).min().unwrap_or(now.saturating_add(DAY));
    let recent = attempts.iter().filter(|attempt| attempt.at > now.saturating_sub(DAY));
    Err(too_many(Limit::Client { may_try_another: !is_beyond(limits, recent) }, until, now))
}

/// What a client's own limits count.
#[derive(Debug, Default)]
struct Numbers<'a> {
    declines: u32,
    cards: HashSet<&'a str>,
}

impl<'a> Numbers<'a> {
    fn of(attempts: impl Iterator<Item = &'a OfClient>) -> Self {
        let mut numbers = Self::default();
        for attempt in attempts {
            numbers.count(attempt);
        }
        numbers
    }

    fn count(&mut self, attempt: &'a OfClient) {
        if attempt.is_declined {
            self.declines = self.declines.saturating_add(1);
        }
        if attempt.is_tried {
            self.cards.insert(&attempt.card);
        }
    }

    /// Whether there is no room for this card.
    fn are_used_up(&self, limits: &ShieldConfig, card: &str) -> bool {
        let others = self.cards.len().saturating_sub(usize::from(self.cards.contains(card)));
        self.declines >= limits.client_declines_a_day
            || u32::try_from(others).unwrap_or(u32::MAX) >= limits.client_cards_a_day
    }
}

/// Whether one of these attempts was made with the fresh card that is allowed beyond the limits.
fn is_beyond<'a>(limits: &ShieldConfig, attempts: impl Iterator<Item = &'a OfClient>) -> bool {
    let mut attempts: Vec<_> = attempts.collect();
    attempts.sort_by_key(|attempt| attempt.at);
    let mut before = Numbers::default();
    attempts.into_iter().any(|attempt| {
        let is_beyond = attempt.is_tried && !attempt.had_paid && before.are_used_up(limits, &attempt.card);
        before.count(attempt);
        is_beyond
    })
}

/// Whether a card that was declined at these times, or asked for its holder, may be tried.
pub(super) fn card(
    limits: &ShieldConfig,
    now: i64,
    is_of_client: bool,
    refused: &[i64],
) -> Result<(), Barred> {
    match over(limits.card_declines_a_day, refused.iter().copied()) {
        Some(at) => Err(too_many(Limit::Card { is_of_client }, at.saturating_add(DAY), now)),
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
            is_declined: true,
            is_same_token: false,
        }
    }

    fn seconds(judged: Result<(), Barred>) -> u32 {
        match judged {
            Err(Barred::TooMany { seconds, .. }) => seconds,
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
    fn only_declines_are_cards_of_a_day_and_the_longer_wait_is_told() {
        let mut asked = ["a", "b", "c", "d"].map(|card| unpaid(10, card));
        for attempt in &mut asked {
            attempt.is_declined = false;
        }
        assert_eq!(network(&limits(), NOW, &asked), Ok(()), "four attempts");
        let fifth: Vec<_> = asked.iter().cloned().chain([unpaid(20, "e")]).collect();
        assert_eq!(seconds(network(&limits(), NOW, &fifth)), 40 * 60 + 1, "an hour's limit");
        let declined: Vec<_> =
            asked.iter().cloned().chain(["e", "f", "g"].map(|card| unpaid(20, card))).collect();
        assert_eq!(seconds(network(&limits(), NOW, &declined)), 24 * 3_600 - 20 * 60 + 1, "a day's");
    }

    #[test]
    fn what_runs_is_no_reason_to_send_somebody_away_for_long() {
        let mut cards = ["a", "b", "c"].map(|card| unpaid(0, card));
        (cards[2].is_running, cards[2].is_declined) = (true, false);
        assert_eq!(network(&limits(), NOW, &cards), Err(Barred::Crowded));
    }

    fn tried(minutes_ago: i64, card: &str) -> OfClient {
        OfClient {
            at: NOW - minutes_ago * MINUTE,
            card: card.to_owned(),
            is_tried: true,
            is_declined: false,
            is_in_vain: false,
            had_paid: false,
        }
    }

    fn declined(minutes_ago: i64, card: &str) -> OfClient {
        OfClient { is_declined: true, ..tried(minutes_ago, card) }
    }

    /// Seconds to wait, and whether another card may be tried now.
    fn wait(judged: Result<(), Barred>) -> (u32, bool) {
        match judged {
            Err(Barred::TooMany { seconds, limit: Limit::Client { may_try_another } }) => {
                (seconds, may_try_another)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_has_three_cards_and_one_fresh_one_a_day() {
        let cards = ["a", "b", "c"].map(|card| tried(60, card));
        let judge = |card: &str, attempts: &[OfClient]| card_of_client(&limits(), NOW, card, false, attempts);
        assert_eq!(client(&limits(), NOW, &cards), Ok(()));
        assert_eq!(judge("b", &cards), Ok(()));
        assert_eq!(judge("d", &cards[..2]), Ok(()));
        assert_eq!(judge("d", &cards), Ok(()), "the fresh one");
        let fourth = [&cards[..], &[tried(50, "d")]].concat();
        assert_eq!(wait(judge("e", &fourth)), (23 * 3_600 + 1, false));
        let paid = [&cards[..], &[OfClient { had_paid: true, ..tried(50, "d") }]].concat();
        assert_eq!(judge("e", &paid), Ok(()), "what had paid before is not the fresh one");
        let untried = OfClient { is_tried: false, is_in_vain: true, ..tried(50, "d") };
        assert_eq!(
            judge("e", &[&cards[..], &[untried]].concat()),
            Ok(()),
            "no bank has said anything of that one"
        );
    }

    #[test]
    fn a_client_has_three_declines_and_one_fresh_card_a_day() {
        let declines: Vec<_> = (0..3).map(|n| declined(60 - n, "a")).collect();
        assert_eq!(client(&limits(), NOW, &declines), Ok(()), "Stripe may be asked which card it is");
        assert_eq!(card_of_client(&limits(), NOW, "a", true, &declines[..2]), Ok(()));
        assert_eq!(wait(card_of_client(&limits(), NOW, "a", true, &declines)), (23 * 3_600 + 1, true));
        assert_eq!(card_of_client(&limits(), NOW, "b", false, &declines), Ok(()));
        // Whatever became of it, there is no other until the first decline is a day old.
        for fresh in [tried(30, "b"), declined(30, "b")] {
            let all = [&declines[..], &[fresh]].concat();
            assert_eq!(wait(card_of_client(&limits(), NOW, "c", false, &all)), (23 * 3_600 + 1, false));
            let then = NOW + 23 * HOUR;
            assert_eq!(card_of_client(&limits(), then, "c", false, &all), Ok(()));
        }
        let all = [&declines[..], &[declined(30, "b")]].concat();
        assert_eq!(
            wait(card_of_client(&limits(), NOW, "b", true, &all)),
            (23 * 3_600 + 60 + 1, false),
            "a declined one waits until there are two"
        );
    }

    #[test]
    fn a_client_does_not_use_up_stripes_patience() {
        let vain = OfClient { is_tried: false, is_in_vain: true, ..tried(10, "a") };
        assert_eq!(client(&limits(), NOW, &vec![vain.clone(); 4]), Ok(()));
        assert_eq!(seconds(client(&limits(), NOW, &vec![vain; 5])), 50 * 60 + 1);
    }

    #[test]
    fn a_card_has_four_declines_a_day() {
        let declines = [1, 2, 3, 4].map(|hours| NOW - hours * HOUR);
        assert_eq!(card(&limits(), NOW, false, &declines[..3]), Ok(()));
        assert_eq!(seconds(card(&limits(), NOW, false, &declines)), 20 * 3_600 + 1);
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

//! Slows down guessing of passwords, before a hash is computed.
//!
//! Attempts are counted per account and per address in two tables of a fixed size: names and addresses are hashed into
//! slots with a key that changes at every start, so memory is bounded, nothing is ever evicted, and nobody can push a
//! counter out by trying other names. Two that share a slot share its delay. Nobody is locked out for good: the longest
//! delay is a minute, and a slot forgets after a quarter of an hour. An account is guessed at most 30 times in ten minutes.
//!
//! Whoever has given the right password from an address is counted apart for half a day, so that others who guess, at the same
//! name from elsewhere or at other names, do not keep an operator out. Nor do wrong passwords from the operator's own address (a
//! script with yesterday's): the first ten cost nothing, then the delay is ten seconds at most, which the commands wait for. That is one guess in ten
//! seconds for whoever shares an address and knows the name, who can take each of the operator's turns. Passwords that are made here
//! (`password::generate`) are not counted at all.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SECOND: i64 = 1_000_000;
const MAX_DELAY: i64 = 60 * SECOND;
/// For a name and an address that belong together.
const MAX_KNOWN_DELAY: i64 = 10 * SECOND;
const FORGET: i64 = 15 * 60 * SECOND;
const SLOTS: usize = 2048;
/// Wrong passwords for one account without a delay.
const FREE_PER_ACCOUNT: u32 = 10;
/// The same for one address, from which several people may come.
const FREE_PER_ADDRESS: u32 = 30;
/// How long a name and an address that belong together are remembered.
const KNOWN: i64 = 12 * 60 * 60 * SECOND;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    attempts: u32,
    last: i64,
}

impl Slot {
    /// Microseconds to wait.
    fn wait(&mut self, free: u32, max_delay: i64, now: i64) -> i64 {
        // A clock that was set back must not lengthen a delay.
        self.last = self.last.min(now);
        let elapsed = now.saturating_sub(self.last);
        if elapsed > FORGET {
            self.attempts = 0;
        }
        let delay = match self.attempts.checked_sub(free) {
            None => 0,
            Some(over) => SECOND.saturating_mul(1 << over.min(10)).min(max_delay),
        };
        delay.saturating_sub(elapsed).max(0)
    }

    fn count(&mut self, now: i64) {
        self.attempts = self.attempts.saturating_add(1);
        self.last = now;
    }
}

/// A name and an address from which its password came.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    /// Both, hashed: whoever comes later to the same place of the table takes it.
    hash: u64,
    /// When the right password came; 0: never.
    right_at: i64,
    slot: Slot,
}

#[derive(Debug)]
struct Tables {
    accounts: Vec<Slot>,
    addresses: Vec<Slot>,
    pairs: Vec<Pair>,
}

impl Tables {
    /// What is counted for a name and an address that are known to belong together.
    fn known(&mut self, hash: u64, now: i64) -> Option<&mut Slot> {
        let pair = place(&mut self.pairs, hash);
        let is_known = pair.hash == hash && pair.right_at != 0 && now.saturating_sub(pair.right_at) < KNOWN;
        is_known.then_some(&mut pair.slot)
    }
}

/// Counts login attempts.
#[derive(Debug)]
pub(super) struct LoginThrottle {
    hasher: RandomState,
    tables: Mutex<Tables>,
}

impl LoginThrottle {
    pub(super) fn new() -> Self {
        let empty = || vec![Slot::default(); SLOTS];
        let pairs = vec![Pair::default(); SLOTS];
        Self {
            hasher: RandomState::new(),
            tables: Mutex::new(Tables { accounts: empty(), addresses: empty(), pairs }),
        }
    }

    /// Counts an attempt as failed until [`Self::succeeded`] says otherwise, so that parallel attempts are counted too.
    /// When it comes too early, nothing is counted and the seconds to wait are given.
    pub(super) fn attempt(&self, name: &str, address: Option<IpAddr>, now: i64) -> Result<(), i64> {
        let (account, address, pair) = self.places(name, address);
        let mut tables = self.lock();
        if let Some(known) = tables.known(pair, now) {
            return waited(known.wait(FREE_PER_ACCOUNT, MAX_KNOWN_DELAY, now)).map(|()| known.count(now));
        }
        let wait = place(&mut tables.accounts, account)
            .wait(FREE_PER_ACCOUNT, MAX_DELAY, now)
            .max(place(&mut tables.addresses, address).wait(FREE_PER_ADDRESS, MAX_DELAY, now));
        waited(wait)?;
        place(&mut tables.accounts, account).count(now);
        place(&mut tables.addresses, address).count(now);
        Ok(())
    }

    /// Forgets the account's attempts. The address only gets this one attempt back: whoever knows one password must not
    /// guess others for free.
    pub(super) fn succeeded(&self, name: &str, address: Option<IpAddr>, now: i64) {
        let (account, address, pair) = self.places(name, address);
        let mut tables = self.lock();
        if tables.known(pair, now).is_none() {
            *place(&mut tables.accounts, account) = Slot::default();
            let address = place(&mut tables.addresses, address);
            address.attempts = address.attempts.saturating_sub(1);
        }
        *place(&mut tables.pairs, pair) = Pair { hash: pair, right_at: now, slot: Slot::default() };
    }

    fn places(&self, name: &str, address: Option<IpAddr>) -> (u64, u64, u64) {
        let address = address.map(network);
        (self.hasher.hash_one(name), self.hasher.hash_one(address), self.hasher.hash_one((name, address)))
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Counters stay meaningful whatever happened to another thread.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Microseconds to wait, as whole seconds.
fn waited(wait: i64) -> Result<(), i64> {
    if wait > 0 { Err(wait.saturating_add(SECOND - 1).div_euclid(SECOND)) } else { Ok(()) }
}

fn place<T>(table: &mut [T], hash: u64) -> &mut T {
    let index = usize::try_from(hash % (SLOTS as u64)).unwrap_or(0);
    &mut table[index]
}

/// One subscriber has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn an_account_is_guessed_at_most_30_times_in_ten_minutes() {
        let throttle = LoginThrottle::new();
        let mut hashed = 0;
        for second in 0..600_i64 {
            for network in 0..20 {
                let from = address(&format!("10.0.{network}.1"));
                hashed += i32::from(throttle.attempt("alice", from, second * SECOND).is_ok());
            }
        }
        assert!((20..=30).contains(&hashed), "{hashed}");
    }

    #[test]
    fn an_address_is_slowed_down_whatever_names_it_tries() {
        let throttle = LoginThrottle::new();
        let allowed = |from: &str| {
            (0..200)
                .filter(|n| throttle.attempt(&format!("{from}{n}"), address(from), SECOND).is_ok())
                .count()
        };
        assert_eq!(allowed("192.0.2.1"), 30);
        assert_eq!(allowed("2001:db8::1"), 30);
        assert_eq!(allowed("2001:db8::ffff:2"), 0, "the same /64");
        assert_eq!(allowed("::ffff:192.0.2.1"), 0, "the same address");
    }

    #[test]
    fn success_and_time_forget() {
        let throttle = LoginThrottle::new();
        let from = address("192.0.2.9");
        for _ in 0..10 {
            assert_eq!(throttle.attempt("bob", from, 0), Ok(()));
        }
        assert_eq!(throttle.attempt("bob", from, 0), Err(1));
        assert_eq!(throttle.attempt("bob", from, SECOND), Ok(()));
        assert_eq!(throttle.attempt("bob", from, SECOND), Err(2));
        // The clock is set back: the delay is no longer than it was.
        assert_eq!(throttle.attempt("bob", from, -3_600 * SECOND), Err(2));
        throttle.succeeded("bob", from, SECOND);
        assert_eq!(throttle.attempt("bob", from, SECOND), Ok(()));
        for _ in 0..9 {
            assert_eq!(throttle.attempt("bob", from, SECOND), Ok(()));
        }
        assert!(throttle.attempt("bob", from, SECOND).is_err());
        assert_eq!(throttle.attempt("bob", from, 2 * FORGET), Ok(()));
        assert_eq!(throttle.attempt("bob", from, 2 * FORGET), Ok(()));
    }

    #[test]
    fn others_who_guess_do_not_keep_out_whoever_had_the_right_password() {
        let throttle = LoginThrottle::new();
        let (home, elsewhere) = (address("192.0.2.9"), address("192.0.2.10"));
        assert_eq!(throttle.attempt("bob", home, SECOND), Ok(()));
        throttle.succeeded("bob", home, SECOND);
        let mut now = SECOND;
        for n in 0..1_000 {
            now += SECOND / 10;
            let _ = throttle.attempt("bob", elsewhere, now);
            let _ = throttle.attempt(&format!("bob{n}"), home, now);
            assert_eq!(throttle.attempt("bob", home, now), Ok(()), "{n}");
            throttle.succeeded("bob", home, now);
        }
        assert!(throttle.attempt("bob", elsewhere, now).is_err());
        assert!(throttle.attempt("carol", home, now).is_err());
        // It is no licence to guess either, and it ends.
        let allowed =
            (0..600).filter(|second| throttle.attempt("bob", home, now + second * SECOND).is_ok()).count();
        assert!((60..=80).contains(&allowed), "{allowed}");
        // However many there were, the right one waits ten seconds at most.
        let tired = now + 600 * SECOND;
        assert!(throttle.attempt("bob", home, tired).err().is_none_or(|seconds| seconds <= 10));
        let later = now + KNOWN + 601 * SECOND;
        for _ in 0..10 {
            assert_eq!(throttle.attempt("bob", elsewhere, later), Ok(()));
        }
        assert!(throttle.attempt("bob", home, later).is_err(), "one of many again");
    }
}

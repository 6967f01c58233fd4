//! Slows down guessing of passwords, before a hash is computed.
//!
//! Attempts are counted per account and per address in two tables of a fixed size: names and addresses are hashed into
//! slots with a key that changes at every start, so memory is bounded, nothing is ever evicted, and nobody can push a
//! counter out by trying other names. Two that share a slot share its delay. Nobody is locked out for good: the longest
//! delay is a minute, and a slot forgets after a quarter of an hour. An account is guessed at most 20 times in ten minutes.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SECOND: i64 = 1_000_000;
const MAX_DELAY: i64 = 60 * SECOND;
const FORGET: i64 = 15 * 60 * SECOND;
const SLOTS: usize = 2048;
/// Wrong passwords for one account without a delay.
const FREE_PER_ACCOUNT: u32 = 3;
/// The same for one address, from which several people may come.
const FREE_PER_ADDRESS: u32 = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    attempts: u32,
    last: i64,
}

impl Slot {
    /// Microseconds to wait.
    fn wait(&mut self, free: u32, now: i64) -> i64 {
        // A clock that was set back must not lengthen a delay.
        self.last = self.last.min(now);
        let elapsed = now.saturating_sub(self.last);
        if elapsed > FORGET {
            self.attempts = 0;
        }
        let delay = match self.attempts.checked_sub(free) {
            None => 0,
            Some(over) => SECOND.saturating_mul(1 << over.min(10)).min(MAX_DELAY),
        };
        delay.saturating_sub(elapsed).max(0)
    }

    fn count(&mut self, now: i64) {
        self.attempts = self.attempts.saturating_add(1);
        self.last = now;
    }
}

#[derive(Debug)]
struct Tables {
    accounts: Vec<Slot>,
    addresses: Vec<Slot>,
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
        Self {
            hasher: RandomState::new(),
            tables: Mutex::new(Tables { accounts: empty(), addresses: empty() }),
        }
    }

    /// Counts an attempt as failed until [`Self::succeeded`] says otherwise, so that parallel attempts are counted too.
    /// When it comes too early, nothing is counted and the seconds to wait are given.
    pub(super) fn attempt(&self, name: &str, address: Option<IpAddr>, now: i64) -> Result<(), i64> {
        let (account, address) = self.slots(name, address);
        let mut tables = self.lock();
        let wait = slot(&mut tables.accounts, account)
            .wait(FREE_PER_ACCOUNT, now)
            .max(slot(&mut tables.addresses, address).wait(FREE_PER_ADDRESS, now));
        if wait > 0 {
            return Err(wait.saturating_add(SECOND - 1).div_euclid(SECOND));
        }
        slot(&mut tables.accounts, account).count(now);
        slot(&mut tables.addresses, address).count(now);
        Ok(())
    }

    /// Forgets the account's attempts. The address only gets this one attempt back: whoever knows one password must not
    /// guess others for free.
    pub(super) fn succeeded(&self, name: &str, address: Option<IpAddr>) {
        let (account, address) = self.slots(name, address);
        let mut tables = self.lock();
        *slot(&mut tables.accounts, account) = Slot::default();
        let address = slot(&mut tables.addresses, address);
        address.attempts = address.attempts.saturating_sub(1);
    }

    fn slots(&self, name: &str, address: Option<IpAddr>) -> (u64, u64) {
        (self.hasher.hash_one(name), self.hasher.hash_one(address.map(network)))
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Counters stay meaningful whatever happened to another thread.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot(table: &mut [Slot], hash: u64) -> &mut Slot {
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
    fn an_account_is_guessed_at_most_20_times_in_ten_minutes() {
        let throttle = LoginThrottle::new();
        let mut hashed = 0;
        for second in 0..600_i64 {
            for network in 0..20 {
                let from = address(&format!("10.0.{network}.1"));
                hashed += i32::from(throttle.attempt("alice", from, second * SECOND).is_ok());
            }
        }
        assert!((10..=20).contains(&hashed), "{hashed}");
    }

    #[test]
    fn an_address_is_slowed_down_whatever_names_it_tries() {
        let throttle = LoginThrottle::new();
        let allowed = |from: &str| {
            (0..200)
                .filter(|n| throttle.attempt(&format!("{from}{n}"), address(from), SECOND).is_ok())
                .count()
        };
        assert_eq!(allowed("192.0.2.1"), 10);
        assert_eq!(allowed("2001:db8::1"), 10);
        assert_eq!(allowed("2001:db8::ffff:2"), 0, "the same /64");
        assert_eq!(allowed("::ffff:192.0.2.1"), 0, "the same address");
    }

    #[test]
    fn success_and_time_forget() {
        let throttle = LoginThrottle::new();
        let from = address("192.0.2.9");
        for _ in 0..3 {
            assert_eq!(throttle.attempt("bob", from, 0), Ok(()));
        }
        assert_eq!(throttle.attempt("bob", from, 0), Err(1));
        assert_eq!(throttle.attempt("bob", from, SECOND), Ok(()));
        assert_eq!(throttle.attempt("bob", from, SECOND), Err(2));
        // The clock is set back: the delay is no longer than it was.
        assert_eq!(throttle.attempt("bob", from, -3_600 * SECOND), Err(2));
        throttle.succeeded("bob", from);
        assert_eq!(throttle.attempt("bob", from, SECOND), Ok(()));
        for _ in 0..2 {
            assert_eq!(throttle.attempt("bob", from, SECOND), Ok(()));
        }
        assert!(throttle.attempt("bob", from, SECOND).is_err());
        assert_eq!(throttle.attempt("bob", from, 2 * FORGET), Ok(()));
        assert_eq!(throttle.attempt("bob", from, 2 * FORGET), Ok(()));
    }
}

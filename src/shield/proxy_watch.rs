//! Notices that a proxy stands in front whose `X-Forwarded-For` nobody believes: then all callers look like one network, and
//! the first thief shuts out every new payer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::network::is_internal;

/// So many payers behind one internal address are a proxy's.
const PAYERS: usize = 50;
/// With more payers from elsewhere than this, callers do reach the gateway by themselves.
const ELSEWHERE: usize = 5;
/// Internal addresses that are kept apart. A proxy that comes from more is not found; memory is bounded.
const ADDRESSES: usize = 16;
const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Debug, Default)]
struct Hour {
    begun: Option<Instant>,
    behind: HashMap<IpAddr, HashSet<u64>>,
    elsewhere: HashSet<u64>,
    has_warned: bool,
}

/// What one hour has seen.
#[derive(Debug, Default)]
pub(super) struct ProxyWatch(Mutex<Hour>);

impl ProxyWatch {
    /// Notes a payer, and answers whether it is time to warn: once an hour at most.
    pub(super) fn is_suspicious(&self, caller: IpAddr, payer: u64, now: Instant) -> bool {
        let mut hour = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hour = &mut *hour;
        if hour.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= HOUR) {
            *hour = Hour { begun: Some(now), ..Hour::default() };
        }
        if hour.has_warned {
            return false;
        }
        if !is_internal(caller) {
            if hour.elsewhere.len() <= ELSEWHERE {
                hour.elsewhere.insert(payer);
            }
            return false;
        }
        if hour.behind.len() >= ADDRESSES && !hour.behind.contains_key(&caller) {
            return false;
        }
        let behind = hour.behind.entry(caller).or_default();
        behind.insert(payer);
        let is_proxy = behind.len() >= PAYERS && hour.elsewhere.len() <= ELSEWHERE;
        if is_proxy {
            *hour = Hour { begun: hour.begun, has_warned: true, ..Hour::default() };
        } else if let Some(behind) = hour.behind.get_mut(&caller).filter(|behind| behind.len() >= PAYERS) {
            // Enough to know; no more is kept.
            behind.remove(&payer);
        }
        is_proxy
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn fifty_payers_behind_one_internal_address_are_told_once_an_hour() {
        let (watch, now) = (ProxyWatch::default(), Instant::now());
        let told = |from: u64, now| {
            (from..from + 60).filter(|payer| watch.is_suspicious(address("10.0.0.1"), *payer, now)).count()
        };
        assert_eq!(
            (0..500).filter(|_| watch.is_suspicious(address("10.0.0.1"), 7, now)).count(),
            0,
            "one payer"
        );
        assert_eq!(told(100, now), 1);
        assert_eq!(told(200, now), 0);
        assert_eq!(told(300, now + HOUR), 1);
    }

    #[test]
    fn payers_from_everywhere_are_no_reason() {
        let (watch, now) = (ProxyWatch::default(), Instant::now());
        for payer in 0..200u64 {
            let public = address(&format!("203.0.113.{payer}"));
            assert!(!watch.is_suspicious(public, payer, now));
            assert!(!watch.is_suspicious(address("10.0.0.1"), 1_000 + payer, now));
        }
        let hour = watch.0.lock().unwrap();
        assert!(hour.behind[&address("10.0.0.1")].len() <= PAYERS && hour.elsewhere.len() <= ELSEWHERE + 1);
    }

    #[test]
    fn memory_is_bounded() {
        let (watch, now) = (ProxyWatch::default(), Instant::now());
        for payer in 0..10_000u64 {
            let [.., c, d] = payer.to_be_bytes();
            assert!(!watch.is_suspicious(IpAddr::from([10, 0, c, d]), payer, now));
        }
        assert!(watch.0.lock().unwrap().behind.len() <= ADDRESSES);
    }
}

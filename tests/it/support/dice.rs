//! Random choices that a printed seed brings back.

use std::time::Duration;

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The seed is `SEED` in the environment, or new; it is printed either way.
    pub fn printed(what: &str) -> Self {
        let seed = match std::env::var("SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => Self::random().next(),
        };
        println!("{what}: SEED={seed}");
        Self(seed)
    }

    /// For choices that no result depends on.
    pub fn random() -> Self {
        Self(u64::from_le_bytes(prepaid402::domain::ids::random_bytes()))
    }

    /// Dice of its own for somebody who runs in parallel.
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut dice = self.0;
        dice = (dice ^ (dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        dice = (dice ^ (dice >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        dice ^ (dice >> 31)
    }

    /// From nothing to one less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    pub fn micros(&mut self, below: u64) -> Duration {
        Duration::from_micros(self.below(below))
    }
}

//! A number of places of which nobody takes more than a part.
//!
//! Whoever asks for a place gets it while fewer are held by that holder than `weight` times what is free. One holder alone comes
//! to `weight / (weight + 1)` of all; the more there are, the less each comes to, and something is always left for one who
//! holds nothing yet. Nobody waits, nothing is locked.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counters in a row. Holders that meet in one row are told apart by the other one; how they are spread is secret.
const COLUMNS: usize = 2_048;

/// See the module.
pub(crate) struct Places {
    capacity: u32,
    weight: u32,
    taken: AtomicU32,
    rows: [Box<[AtomicU32]>; 2],
    secret: RandomState,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places")
            .field("capacity", &self.capacity)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

/// Whoever holds places, as these places know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder([usize; 2]);

impl Places {
    /// `weight`: see the module.
    pub(crate) fn new(capacity: usize, weight: u32) -> Arc<Self> {
        let row = || (0..COLUMNS).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self {
            capacity: u32::try_from(capacity).unwrap_or(u32::MAX / 2),
            weight,
            taken: AtomicU32::new(0),
            rows: [row(), row()],
            secret: RandomState::new(),
        })
    }

    fn holder(&self, holder: impl Hash) -> Holder {
        let hash = self.secret.hash_one(holder);
        let column = |bits: u64| usize::try_from(bits % COLUMNS as u64).unwrap_or_default();
        Holder([column(hash), column(hash >> 32)])
    }

    fn counters(&self, holder: Holder) -> impl Iterator<Item = &AtomicU32> {
        self.rows.iter().zip(holder.0).filter_map(|(row, column)| row.get(column))
    }

    /// Whether `more` may be held beside what is held and taken.
    fn is_fair(&self, held: u32, taken: u32, more: u32) -> bool {
        let (held, more) = (u64::from(held), u64::from(more));
        let free = u64::from(self.capacity.saturating_sub(taken));
        more <= free && held.saturating_add(more) <= free.saturating_mul(u64::from(self.weight))
    }

    fn add(&self, holder: Holder, more: u32) -> (u32, u32) {
        let taken = self.taken.fetch_add(more, Ordering::Relaxed);
        let held = self.counters(holder).map(|counter| counter.fetch_add(more, Ordering::Relaxed));
        (held.fold(u32::MAX, u32::min), taken)
    }

    fn give_back(&self, holder: Holder, places: u32) {
        for counter in self.counters(holder) {
            counter.fetch_sub(places, Ordering::Relaxed);
        }
        self.taken.fetch_sub(places, Ordering::Relaxed);
    }

    /// Whether this holder would get a place now.
    pub(crate) fn has_room(&self, holder: impl Hash) -> bool {
        let held = self.counters(self.holder(holder)).map(|counter| counter.load(Ordering::Relaxed));
        self.is_fair(held.fold(u32::MAX, u32::min), self.taken.load(Ordering::Relaxed), 1)
    }

    /// A place, if there is one for this holder.
    pub(crate) fn take(self: &Arc<Self>, holder: impl Hash) -> Option<Place> {
        let mut place = self.none(holder);
        place.more(1).then_some(place)
    }

    /// A place in any case: for whoever was let in already, elsewhere.
    pub(crate) fn take_anyway(self: &Arc<Self>, holder: impl Hash) -> Place {
        let mut place = self.none(holder);
        self.add(place.holder, 1);
        place.count = 1;
        place
    }

    /// Nothing yet.
    pub(crate) fn none(self: &Arc<Self>, holder: impl Hash) -> Place {
        Place { holder: self.holder(holder), places: Arc::clone(self), count: 0 }
    }
}

/// What is held, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    holder: Holder,
    count: u32,
}

impl Place {
    /// Takes so many more, or none of them.
    pub(crate) fn more(&mut self, count: u32) -> bool {
        let (held, taken) = self.places.add(self.holder, count);
        if self.places.is_fair(held, taken, count) {
            self.count = self.count.saturating_add(count);
            return true;
        }
        self.places.give_back(self.holder, count);
        false
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.count > 0 {
            self.places.give_back(self.holder, self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of so many holders comes to when all ask in turn for as long as anybody gets something.
    fn shares(capacity: usize, weight: u32, holders: usize) -> Vec<usize> {
        let places = Places::new(capacity, weight);
        let mut held: Vec<Vec<Place>> = (0..holders).map(|_| Vec::new()).collect();
        loop {
            let before: usize = held.iter().map(Vec::len).sum();
            for (holder, held) in held.iter_mut().enumerate() {
                held.extend(places.take(holder));
            }
            if held.iter().map(Vec::len).sum::<usize>() == before {
                break;
            }
        }
        assert!(places.take(holders).is_some() || holders >= capacity, "one more finds a place");
        let shares = held.iter().map(Vec::len).collect();
        drop(held);
        assert_eq!(places.taken.load(Ordering::Relaxed), 0, "all come back");
        assert!(
            places.rows.iter().flat_map(|row| row.iter()).all(|counter| counter.load(Ordering::Relaxed) == 0)
        );
        shares
    }

    #[test]
    fn nobody_takes_more_than_a_part_and_something_is_always_left() {
        assert_eq!(shares(1, 1, 1), [1]);
        assert_eq!(shares(2, 1, 1), [1]);
        assert_eq!(shares(8, 1, 1), [4]);
        assert_eq!(shares(1024, 4, 1), [820]);
        assert_eq!(shares(1024, 1, 3), [256; 3]);
        for (weight, holders) in [(1, 10), (4, 4), (4, 100)] {
            let shares = shares(1024, weight, holders);
            let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
            assert!(least > Some(0) && most <= least.map(|least| least + 1), "{weight} {shares:?}");
        }
    }

    #[test]
    fn bytes_are_taken_all_or_not_at_all() {
        let places = Places::new(1_000, 1);
        let mut one = places.none("one");
        assert!(one.more(400) && !one.more(250) && one.more(100));
        assert!(!one.more(1));
        let mut other = places.none("other");
        assert!(other.more(250) && !other.more(250));
        drop(one);
        assert!(other.more(250));
        assert!(!places.none("third").more(501));
        assert!(places.none("third").more(500));
    }

    #[test]
    fn what_is_taken_anyway_counts() {
        let places = Places::new(2, 1);
        let held: Vec<_> = (0..3).map(|_| places.take_anyway("one")).collect();
        assert!(!places.has_room("other") && places.take("other").is_none());
        drop(held);
        assert!(places.has_room("other"));
    }
}

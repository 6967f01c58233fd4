//! Latencies in a fixed amount of memory, as integers: exact below 256 µs, and within 1/128 of the value above.

use hdrhistogram::Histogram as Counts;

/// About 71 minutes in microseconds; longer ones count as that.
const LARGEST: u64 = (1 << 32) - 1;
/// Decimal digits of a value that are told apart.
const DIGITS: u8 = 2;

/// Counted values, in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Counts<u64>,
    largest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Counts::new_with_max(LARGEST, DIGITS).expect("such bounds exist"), largest: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub(super) fn record(&mut self, micros: u64) {
        let value = micros.min(LARGEST);
        self.counts.saturating_record(value);
        self.largest = self.largest.max(value);
    }

    /// Counts everything that the other one has counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts).expect("both have the same bounds");
        self.largest = self.largest.max(other.largest);
    }

    /// The value that this share of all values, in ten-thousandths, does not exceed. Never below the true one, and 0 when
    /// nothing was counted.
    pub(super) fn percentile(&self, ten_thousandths: u64) -> u64 {
        // Counted here, because the library's own ranks are floats, and one off now and then.
        let rank = u128::from(self.counts.len()) * u128::from(ten_thousandths);
        let rank = rank.div_ceil(10_000).max(1);
        let mut seen = 0_u128;
        let value = self.counts.iter_recorded().find(|value| {
            seen += u128::from(value.count_since_last_iteration());
            seen >= rank
        });
        value.map_or(self.largest, |value| value.value_iterated_to().min(self.largest))
    }

    /// The largest value.
    pub(super) fn max(&self) -> u64 {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_counted_is_zero_and_too_much_is_the_largest() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.percentile(9_900), histogram.max()), (0, 0));
        histogram.record(u64::MAX);
        assert_eq!((histogram.percentile(1), histogram.max()), (LARGEST, LARGEST));
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(prop_oneof![0..100_u64, 0..100_000_u64, 0..LARGEST], 1..500),
            split in 0..500_usize,
        ) {
            // In two halves, because that is how connections are counted.
            let (mut histogram, mut other) = (Histogram::default(), Histogram::default());
            for (n, value) in values.iter().enumerate() {
                if n < split { histogram.record(*value) } else { other.record(*value) }
            }
            histogram.add(&other);
            values.sort_unstable();
            prop_assert_eq!(histogram.max(), *values.last().expect("one at least"));
            for share in [1, 5_000, 9_000, 9_900, 9_990, 10_000] {
                let rank = (values.len() * share).div_ceil(10_000).max(1);
                let (exact, counted) = (values[rank - 1], histogram.percentile(share as u64));
                prop_assert!(counted >= exact && counted <= exact + exact / 128, "{share}: {counted} for {exact}");
            }
        }
    }
}

//! Latencies in a fixed amount of memory, as integers: exact below 64 µs, and within 1/32 of the value above.

/// Values below this have a bucket each.
const EXACT: u64 = 64;
/// Buckets of each doubling above.
const STEPS: u64 = 32;
/// About 71 minutes in microseconds; longer ones count as that.
const LARGEST: u64 = (1 << 32) - 1;
/// 64 exact ones, and 32 for each of the 26 doublings from 2^6 to 2^32.
const BUCKETS: usize = 64 + 32 * 26;

/// Counted values, in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    largest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0, largest: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub(super) fn record(&mut self, micros: u64) {
        let value = micros.min(LARGEST);
        if let Some(count) = self.counts.get_mut(bucket_of(value)) {
            *count += 1;
        }
        self.total += 1;
        self.largest = self.largest.max(value);
    }

    /// Counts everything that the other one has counted.
    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.largest = self.largest.max(other.largest);
    }

    /// The value that this share of all values, in ten-thousandths, does not exceed. Never below the true one, and 0 when
    /// nothing was counted.
    pub(super) fn percentile(&self, ten_thousandths: u64) -> u64 {
        let rank = u128::from(self.total) * u128::from(ten_thousandths);
        let rank = rank.div_ceil(10_000).max(1);
        let mut seen = 0_u128;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return upper_end(bucket).min(self.largest);
            }
        }
        self.largest
    }

    /// The largest value.
    pub(super) fn max(&self) -> u64 {
        self.largest
    }
}

fn bucket_of(value: u64) -> usize {
    let bucket = if value < EXACT {
        value
    } else {
        // Shifted so far that 32 to 63 remain: the leading bit, and five more.
        let shift = u64::from(value.ilog2()) - 5;
        EXACT + (shift - 1) * STEPS + (value >> shift) - STEPS
    };
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn upper_end(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).unwrap_or(u64::MAX);
    let Some(above) = bucket.checked_sub(EXACT) else { return bucket };
    let (shift, step) = (above / STEPS + 1, above % STEPS + STEPS);
    ((step + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_bucket_ends_where_the_next_begins() {
        for bucket in 0..BUCKETS {
            let end = upper_end(bucket);
            assert_eq!(bucket_of(end), bucket, "{end}");
            if end < LARGEST {
                assert_eq!(bucket_of(end + 1), bucket + 1, "{end}");
            }
        }
        assert_eq!(upper_end(BUCKETS - 1), LARGEST);
    }

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
                prop_assert!(counted >= exact && counted <= exact + exact / 32, "{share}: {counted} for {exact}");
            }
        }
    }
}

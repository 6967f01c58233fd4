//! The ratio of two phases' rates: of the whole rates, and how much it varied from round to round.

/// The ratio of two phases' rates, over the rounds in which both were measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ratio {
    /// Of all answers to all answers. It is the ratio of the rates that are printed, and gives every measured second the same
    /// weight, so that one disturbed slice moves it.
    pub(super) of_rates: f64,
    /// The same for each round by itself; `None` if there is a round without an answer to divide by.
    pub(super) by_round: Option<Spread>,
}

/// How much a ratio varied.
///
/// Within a round the phases are seconds apart, so that a machine that is slow for minutes hardly shows here. The median
/// ignores single disturbed rounds. Where it is far from the ratio of the rates, or the ends are far apart, a difference
/// between two runs means little.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spread {
    /// As many rounds were above as below.
    pub(super) median: f64,
    /// The lowest round.
    pub(super) min: f64,
    /// The highest round.
    pub(super) max: f64,
}

impl Ratio {
    /// From the answers in each round. Slices are equally long, so that answers compare as rates do. `None` if there is nothing
    /// to divide by.
    pub(super) fn of(over: &[u64], under: &[u64]) -> Option<Self> {
        let rounds = || over.iter().copied().zip(under.iter().copied());
        let sums = rounds().fold((0, 0), |(over, under), round| (over + round.0, under + round.1));
        Some(Self {
            of_rates: quotient(sums)?,
            by_round: rounds().map(quotient).collect::<Option<_>>().and_then(Spread::of),
        })
    }
}

impl Spread {
    fn of(mut ratios: Vec<f64>) -> Option<Self> {
        ratios.sort_by(f64::total_cmp);
        let middle = ratios.len() / 2;
        let upper = *ratios.get(middle)?;
        let median = if ratios.len().is_multiple_of(2) { (ratios[middle - 1] + upper) / 2.0 } else { upper };
        Some(Self { median, min: *ratios.first()?, max: *ratios.last()? })
    }
}

fn quotient((over, under): (u64, u64)) -> Option<f64> {
    (under > 0).then(|| over as f64 / under as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In thousandths.
    fn ratio(over: &[u64], under: &[u64]) -> Option<(u64, Option<[u64; 3]>)> {
        let thousandths = |ratio: f64| (ratio * 1000.0).round() as u64;
        let ratio = Ratio::of(over, under)?;
        let by_round = ratio.by_round.map(|spread| [spread.min, spread.median, spread.max].map(thousandths));
        Some((thousandths(ratio.of_rates), by_round))
    }

    #[test]
    fn a_machine_that_changes_between_rounds_does_not_change_a_ratio() {
        assert_eq!(ratio(&[50, 25, 35], &[100, 50, 70]), Some((500, Some([500, 500, 500]))));
    }

    #[test]
    fn one_disturbed_round_moves_the_ratio_of_rates_but_not_the_median() {
        let disturbed = ratio(&[50, 10, 52, 48, 50], &[100, 100, 100, 100, 100]);
        assert_eq!(disturbed, Some((420, Some([100, 500, 520]))));
        // Of an even number of rounds it is between the two in the middle.
        assert_eq!(ratio(&[90, 10, 50, 40], &[100; 4]), Some((475, Some([100, 450, 900]))));
    }

    #[test]
    fn only_rounds_that_both_have_are_compared() {
        assert_eq!(ratio(&[50, 60], &[100, 100, 900]), Some((550, Some([500, 550, 600]))));
        assert_eq!(ratio(&[50], &[]), None);
        assert_eq!(ratio(&[50, 50], &[0, 0]), None);
        assert_eq!(ratio(&[50, 50], &[100, 0]), Some((1_000, None)), "no ratio of one round");
        assert_eq!(ratio(&[0, 50], &[100, 100]), Some((250, Some([0, 250, 500]))));
    }
}

//! What `prepaid402 bench` prints: tables for people, or one JSON object.
#![allow(clippy::float_arithmetic, reason = "rates and ratios are printed; money is not computed here")]

mod ratio;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::fsync;
use super::histogram::Histogram;
use super::load::Measured;
use super::purse::Spent;
use ratio::{Ratio, Spread};

/// The percentiles that are shown, in ten-thousandths.
const SHARES: [(&str, u64); 4] = [("p50", 5_000), ("p90", 9_000), ("p99", 9_900), ("p99.9", 9_990)];
/// The ratios that are shown: of the first phase's rate to the second's.
const RATIOS: [(&str, &str, &str); 3] =
    [("paidToFree", "paid", "free"), ("unpaidToFree", "unpaid", "free"), ("paidToUnpaid", "paid", "unpaid")];

/// A whole run.
#[derive(Debug)]
pub(super) struct Report {
    /// Connections of every phase.
    pub(super) connections: usize,
    /// Measured time of every phase, in all rounds together.
    pub(super) window: Duration,
    /// Time before the first round.
    pub(super) warm_up: Duration,
    /// Where the disk was measured.
    pub(super) folder: PathBuf,
    /// What the disk took.
    pub(super) fsync: Histogram,
    /// One server after the other.
    pub(super) servers: Vec<ServerReport>,
}

/// What one server did.
#[derive(Debug)]
pub(super) struct ServerReport {
    /// Its kind.
    pub(super) name: String,
    /// Where it is.
    pub(super) url: String,
    /// How long each slice of each phase was measured.
    pub(super) slice: Duration,
    /// Those that were measured, and the one that failed.
    pub(super) phases: Vec<Phase>,
    /// The wallets of the paid phase.
    pub(super) spent: Spent,
    /// Whether the books were right afterwards, where the bench can look at them.
    pub(super) books: Option<Result<(), String>>,
}

/// One phase.
#[derive(Debug)]
pub(super) struct Phase {
    /// `free`, `unpaid` or `paid`.
    pub(super) name: &'static str,
    /// The status that was expected.
    pub(super) expected: u16,
    /// What came in all slices together.
    pub(super) measured: Measured,
    /// The answers in each of them.
    pub(super) rounds: Vec<u64>,
}

impl Report {
    /// Whether every phase of every server gave a rate, and the books are right.
    pub(super) fn worked(&self) -> bool {
        self.servers.iter().all(ServerReport::worked)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "{} connections, {} s of warm-up and {} s measured a phase, in slices that alternate",
            self.connections,
            self.warm_up.as_secs(),
            self.window.as_secs()
        )?;
        writeln!(
            text,
            "fsync of {} bytes in {}, {} times: p50 {} µs, p99 {} µs, max {} µs",
            fsync::BYTES,
            self.folder.display(),
            fsync::WRITES,
            grouped(self.fsync.percentile(5_000)),
            grouped(self.fsync.percentile(9_900)),
            grouped(self.fsync.max())
        )?;
        for server in &self.servers {
            server.write(text)?;
        }
        writeln!(text)?;
        writeln!(
            text,
            "{:<20} {:>14} {:>14} {:>14}",
            "ratios", "paid / free", "unpaid / free", "paid / unpaid"
        )?;
        for server in &self.servers {
            server.write_ratios(text)?;
        }
        writeln!(
            text,
            "The client shares this machine's cores with the server: compare ratios, not absolute figures.\n\
             Where rounds are far apart the machine was restless: measure longer."
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "worked": self.worked(),
            "connections": self.connections,
            "seconds": self.window.as_secs(),
            "warmUpSeconds": self.warm_up.as_secs(),
            "fsync": {
                "folder": self.folder.display().to_string(),
                "writes": fsync::WRITES,
                "bytes": fsync::BYTES,
                "p50Micros": self.fsync.percentile(5_000),
                "p99Micros": self.fsync.percentile(9_900),
                "maxMicros": self.fsync.max(),
            },
            "servers": self.servers.iter().map(|server| server.json()).collect::<Vec<_>>(),
        })
    }
}

impl ServerReport {
    fn worked(&self) -> bool {
        let complete =
            RATIOS.iter().all(|(_, over, under)| self.phase(over).and(self.phase(under)).is_some());
        complete && self.spent.problem.is_none() && !matches!(self.books, Some(Err(_)))
    }

    /// A phase that gave a rate.
    fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name && phase.rate_is_true())
    }

    fn ratio(&self, over: &str, under: &str) -> Option<Ratio> {
        Ratio::of(&self.phase(over)?.rounds, &self.phase(under)?.rounds)
    }

    /// How many rounds there were, the last of which may have been broken off.
    fn rounds(&self) -> usize {
        self.phases.iter().map(|phase| phase.rounds.len()).max().unwrap_or(0)
    }

    /// A line of ratios, and how they varied.
    fn write_ratios(&self, text: &mut String) -> std::fmt::Result {
        let ratios = RATIOS.map(|(_, over, under)| self.ratio(over, under));
        let spread = |show: fn(&Spread) -> String| {
            ratios.each_ref().map(|ratio| ratio.as_ref().and_then(|ratio| ratio.by_round.as_ref()).map(show))
        };
        for (label, cells) in [
            (
                self.name.as_str(),
                ratios.each_ref().map(|ratio| ratio.as_ref().map(|ratio| format!("{:.3}", ratio.of_rates))),
            ),
            ("  median round", spread(|spread| format!("{:.3}", spread.median))),
            ("  lowest–highest", spread(|spread| format!("{:.3}–{:.3}", spread.min, spread.max))),
        ] {
            write!(text, "{label:<20}")?;
            for cell in cells {
                write!(text, " {:>14}", cell.as_deref().unwrap_or("-"))?;
            }
            writeln!(text)?;
        }
        Ok(())
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let (rounds, slice) = (self.rounds(), self.slice.as_millis());
        writeln!(
            text,
            "\n{} ({}), {rounds} rounds of {slice} ms a phase, latencies in µs",
            self.name, self.url
        )?;
        write!(text, "  {:<8} {:>12}", "phase", "requests/s")?;
        for (share, _) in SHARES {
            write!(text, " {share:>9}")?;
        }
        writeln!(text, " {:>9}", "max")?;
        for phase in &self.phases {
            phase.write(text, self.slice)?;
        }
        if self.spent.wallets > 0 {
            write!(
                text,
                "  paid from {} wallets of {} requests each",
                self.spent.wallets,
                grouped(self.spent.requests_each)
            )?;
            if self.spent.replaced > 0 {
                write!(
                    text,
                    "; {} ran dry and were replaced, {} of the new ones bought while the load ran",
                    self.spent.replaced, self.spent.bought_during
                )?;
            }
            writeln!(text)?;
        }
        if let Some(problem) = &self.spent.problem {
            writeln!(text, "  wallets could not be replaced: {problem}")?;
        }
        match &self.books {
            Some(Ok(())) => writeln!(text, "  the books are right"),
            Some(Err(found)) => writeln!(text, "  THE BOOKS ARE WRONG: {found}"),
            None => Ok(()),
        }
    }

    fn json(&self) -> Value {
        let rounded = |ratio: f64| (ratio * 1000.0).round() / 1000.0;
        let (mut ratios, mut by_round) = (Map::new(), Map::new());
        for (name, over, under) in RATIOS {
            let ratio = self.ratio(over, under);
            ratios.insert(name.to_owned(), json!(ratio.as_ref().map(|ratio| rounded(ratio.of_rates))));
            let spread = ratio.and_then(|ratio| ratio.by_round).map(|Spread { median, min, max }| {
                json!({"median": rounded(median), "min": rounded(min), "max": rounded(max)})
            });
            by_round.insert(name.to_owned(), json!(spread));
        }
        json!({
            "name": self.name,
            "url": self.url,
            "rounds": self.rounds(),
            "sliceMillis": u64::try_from(self.slice.as_millis()).unwrap_or(u64::MAX),
            "phases": self.phases.iter().map(|phase| phase.json(self.slice)).collect::<Vec<_>>(),
            "wallets": {
                "inUse": self.spent.wallets,
                "requestsEach": self.spent.requests_each,
                "replaced": self.spent.replaced,
                "boughtDuring": self.spent.bought_during,
                "problem": self.spent.problem,
            },
            "booksAreRight": self.books.as_ref().map(Result::is_ok),
            "ratios": ratios,
            "ratiosByRound": by_round,
        })
    }
}

impl Phase {
    /// A rate of requests among which some failed would compare with nothing.
    fn rate_is_true(&self) -> bool {
        self.measured.failures() == 0 && self.measured.answers > 0
    }

    /// Over all slices together.
    fn rate(&self, slice: Duration) -> f64 {
        self.measured.answers as f64 / (slice.as_secs_f64() * self.rounds.len() as f64)
    }

    fn write(&self, text: &mut String, slice: Duration) -> std::fmt::Result {
        if self.rate_is_true() {
            write!(text, "  {:<8} {:>12}", self.name, grouped(self.rate(slice).round() as u64))?;
            for (_, share) in SHARES {
                write!(text, " {:>9}", grouped(self.measured.latencies.percentile(share)))?;
            }
            writeln!(text, " {:>9}", grouped(self.measured.latencies.max()))?;
        } else {
            writeln!(text, "  {:<8} no rate: {}", self.name, self.failures())?;
        }
        if self.measured.reopened > 0 {
            writeln!(
                text,
                "           {} connections were closed in order and opened again",
                self.measured.reopened
            )?;
        }
        if !self.measured.waited.is_zero() {
            writeln!(
                text,
                "           connections waited {} ms in total for wallets with credit: this rate is that of the top-ups",
                grouped(u64::try_from(self.measured.waited.as_millis()).unwrap_or(u64::MAX))
            )?;
        }
        Ok(())
    }

    /// Everything that was not as expected, counted.
    fn failures(&self) -> String {
        let statuses = self.measured.unexpected.iter().map(|(status, count)| {
            format!("{} answers with status {status} instead of {}", grouped(*count), self.expected)
        });
        let broken =
            self.measured.broken.iter().map(|(reason, count)| format!("{} times: {reason}", grouped(*count)));
        let all: Vec<String> = statuses.chain(broken).collect();
        if all.is_empty() { "no answer came in the measured time".to_owned() } else { all.join("; ") }
    }

    fn json(&self, slice: Duration) -> Value {
        let latencies = &self.measured.latencies;
        let mut percentiles: Map<String, Value> = SHARES
            .iter()
            .map(|(name, share)| ((*name).to_owned(), json!(latencies.percentile(*share))))
            .collect();
        percentiles.insert("max".to_owned(), json!(latencies.max()));
        let unexpected: Map<String, Value> = self
            .measured
            .unexpected
            .iter()
            .map(|(status, count)| (status.to_string(), json!(count)))
            .collect();
        json!({
            "phase": self.name,
            "expectedStatus": self.expected,
            "requests": self.measured.answers,
            "requestsPerSecond": self.rate_is_true().then(|| self.rate(slice).round() as u64),
            "latencyMicros": percentiles,
            "failures": self.measured.failures(),
            "unexpectedStatuses": unexpected,
            "brokenConnections": self.measured.broken,
            "reopenedConnections": self.measured.reopened,
            "waitedForCreditMillis": u64::try_from(self.measured.waited.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// 12345 as 12,345.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With so many answers in each of two slices of a second.
    fn phase(name: &'static str, rounds: [u64; 2]) -> Phase {
        let mut measured = Measured { answers: rounds.iter().sum(), ..Measured::default() };
        measured.latencies.record(1_234);
        Phase { name, expected: 200, measured, rounds: rounds.into() }
    }

    fn report(phases: Vec<Phase>) -> Report {
        let server = ServerReport {
            name: "proxied, sqlite".to_owned(),
            url: "http://127.0.0.1:1".to_owned(),
            slice: Duration::from_secs(1),
            phases,
            spent: Spent::default(),
            books: Some(Ok(())),
        };
        Report {
            connections: 4,
            window: Duration::from_secs(2),
            warm_up: Duration::ZERO,
            folder: PathBuf::from("."),
            fsync: Histogram::default(),
            servers: vec![server],
        }
    }

    #[test]
    fn ratios_are_of_rates() {
        let report = report(vec![
            phase("free", [30_000, 10_000]),
            phase("unpaid", [60_000, 20_000]),
            phase("paid", [6_000, 4_000]),
        ]);
        assert!(report.worked());
        let (json, text) = (report.json(), report.text());
        assert_eq!(
            json["servers"][0]["ratios"],
            json!({"paidToFree": 0.25, "unpaidToFree": 2.0, "paidToUnpaid": 0.125})
        );
        assert_eq!(
            json["servers"][0]["ratiosByRound"],
            json!({
                "paidToFree": {"median": 0.3, "min": 0.2, "max": 0.4},
                "unpaidToFree": {"median": 2.0, "min": 2.0, "max": 2.0},
                "paidToUnpaid": {"median": 0.15, "min": 0.1, "max": 0.2},
            })
        );
        assert_eq!(json["servers"][0]["phases"][0]["requestsPerSecond"], 20_000);
        assert_eq!(
            (&json["servers"][0]["rounds"], &json["servers"][0]["sliceMillis"]),
            (&json!(2), &json!(1_000))
        );
        for part in ["20,000", "1,234", "2 rounds of 1000 ms", "the books are right"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in [
            ["proxied,", "sqlite", "0.250", "2.000", "0.125"].as_slice(),
            &["median", "round", "0.300", "2.000", "0.150"],
            &["lowest–highest", "0.200–0.400", "2.000–2.000", "0.100–0.200"],
        ] {
            assert!(rows.iter().any(|words| words == row), "{row:?} in\n{text}");
        }
    }

    #[test]
    fn a_phase_with_failures_has_no_rate_and_says_why() {
        let mut paid = phase("paid", [10_000, 0]);
        paid.measured.unexpected.insert(429, 1_500);
        paid.measured.broken.insert("a connection was closed before an answer".to_owned(), 2);
        let report = report(vec![phase("free", [20_000, 20_000]), phase("unpaid", [40_000, 40_000]), paid]);
        assert!(!report.worked());
        let (json, text) = (report.json(), report.text());
        assert_eq!(json["servers"][0]["phases"][2]["requestsPerSecond"], Value::Null);
        assert_eq!(json["servers"][0]["phases"][2]["failures"], 1_502);
        assert_eq!(json["servers"][0]["ratios"]["paidToFree"], Value::Null);
        assert_eq!(json["servers"][0]["ratiosByRound"]["paidToFree"], Value::Null);
        assert_eq!(json["servers"][0]["ratios"]["unpaidToFree"], 2.0);
        assert!(
            text.contains("1,500 answers with status 429 instead of 200; 2 times: a connection was"),
            "{text}"
        );
    }

    #[test]
    fn wrong_books_and_missing_phases_are_failures() {
        let mut wrong = report(vec![phase("free", [1, 1]), phase("unpaid", [1, 1]), phase("paid", [1, 1])]);
        wrong.servers[0].books = Some(Err("WRONG".to_owned()));
        assert!(!wrong.worked() && wrong.text().contains("THE BOOKS ARE WRONG"));
        assert!(!report(vec![phase("free", [1, 1]), phase("unpaid", [0, 0])]).worked());
        assert_eq!(
            [grouped(0), grouped(999), grouped(1_000), grouped(1_234_567)].join(" "),
            "0 999 1,000 1,234,567"
        );
    }
}

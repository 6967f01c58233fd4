//! `prepaid402 reconcile`: compare the books with what Stripe has.

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, Utc};

use super::check_config::load_or_report;
use crate::config::Config;
use crate::db::{connect_read_only, require_current};
use crate::reconciliation::both_sides::{GatherError, Gathered, gather};
use crate::reconciliation::comparison::{Comparison, compare};
use crate::reconciliation::window::{Progress, Window, second};
use crate::stripe::Stripe;
use crate::top_up::account;

/// Neither side can be read, or it is not said which window.
const CANNOT: u8 = 2;

/// Compare the books with what Stripe has; changes nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  prepaid402 reconcile --since 24h\n  prepaid402 reconcile --since 2026-11-01 --until 2026-12-01 --json\n\nA moment is a date (its first second, UTC), a time such as 2026-11-01T12:00:00Z, now, or how long ago: 90m, 24h, 7d.\nThe result is on standard output; what is compared, and how far it is, on standard error. It gives up when Stripe does not\nanswer for a minute.\nWorks while the server runs. Each difference is one line: a code, the ids, both sides, and what to do.\nExit code 0: no difference. 1: differences. 2: wrong usage, or one side cannot be read."
)]
pub struct ReconcileArgs {
    /// From this moment on
    #[arg(long, value_name = "MOMENT")]
    pub since: Moment,
    /// Up to this one; what runs right now is on its way between the two sides
    #[arg(long, value_name = "MOMENT", default_value = "10m")]
    pub until: Moment,
    /// Configuration file [default: prepaid402.toml in this directory]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A moment as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Unix seconds.
    At(i64),
    /// Seconds before now.
    Ago(i64),
}

impl std::str::FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str =
            "is no moment: write 2026-11-01, 2026-11-01T12:00:00Z, now, or how long ago, such as 24h";
        if text == "now" {
            return Ok(Self::Ago(0));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(time.timestamp()));
        }
        if let Ok(date) = text.parse::<NaiveDate>() {
            let midnight = date.and_hms_opt(0, 0, 0).ok_or(WRONG)?;
            return Ok(Self::At(midnight.and_utc().timestamp()));
        }
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(WRONG)?;
        let seconds: i64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => return Err(WRONG),
        };
        let number = u32::from_str(number).map_err(|_| WRONG)?;
        Ok(Self::Ago(i64::from(number).saturating_mul(seconds)))
    }
}

impl Moment {
    fn unix(self, now: i64) -> i64 {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.saturating_sub(ago),
        }
    }
}

/// Prints what it found.
pub async fn run(args: ReconcileArgs) -> ExitCode {
    let now = Utc::now().timestamp();
    // The last second of a window that ends with a date is the one before it.
    let until = match args.until {
        Moment::At(at) => at.saturating_sub(1),
        ago @ Moment::Ago(_) => ago.unix(now),
    };
    let Some(window) = Window::new(args.since.unix(now), until) else {
        eprintln!("--since is not before --until (without --until: ten minutes ago)");
        return ExitCode::from(CANNOT);
    };
    let loaded = match load_or_report(args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    eprintln!("comparing from {window}");
    match read(&loaded.config, window).await {
        Ok(gathered) => {
            let comparison = compare(&gathered.facts);
            if args.json {
                println!("{}", json(&gathered, &comparison));
            } else {
                print_report(&gathered, &comparison);
            }
            if comparison.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("nothing can be compared: {error}");
            ExitCode::from(CANNOT)
        }
    }
}

async fn read(config: &Config, window: Window) -> Result<Gathered, Box<dyn std::error::Error>> {
    let stripe = Stripe::new(&config.stripe)?;
    // Another account has none of it, and every line would be a difference.
    let mut connection = connect_read_only(&config.database).await?;
    require_current(&mut connection).await?;
    account::check(&mut connection, &stripe, config.stripe.mode()).await?;
    connection.close().await?;
    gather(&config.database, &stripe, window, &tell).await.map_err(|error: GatherError| error.into())
}

/// Beside the result, for whoever waits for it.
fn tell(progress: Progress) {
    match progress {
        Progress::LeftOut(since) => {
            eprintln!("what was charged before {} in a former Stripe account is left out", second(since));
        }
        Progress::Movements(read) => eprintln!("read {read} balance transactions of Stripe's"),
        Progress::Intents(read) => {
            eprintln!(
                "read {read} PaymentIntents of Stripe's; looking up what only one side has in this window"
            );
        }
    }
}

fn print_report(gathered: &Gathered, comparison: &Comparison) {
    let stripe = &gathered.facts.stripe;
    println!(
        "compared {} charges, {} refunds and {} movements of disputes; {} of other products and gateways were left out",
        stripe.charges.len(),
        stripe.refunds.len(),
        stripe.disputes.len(),
        gathered.foreign
    );
    if comparison.fees_not_booked_yet > 0 {
        println!(
            "fee_not_booked_yet: {}; the server books them within a day",
            comparison.fees_not_booked_yet
        );
    }
    for difference in &comparison.differences {
        println!("DIFFERENT: {difference}");
    }
    if comparison.differences.is_empty() {
        println!("the books and Stripe agree");
    }
}

fn json(gathered: &Gathered, comparison: &Comparison) -> serde_json::Value {
    let stripe = &gathered.facts.stripe;
    let differences: Vec<_> = comparison
        .differences
        .iter()
        .map(|found| {
            serde_json::json!({
                "code": found.kind.code(),
                "ids": found.ids,
                "stripe": found.stripe,
                "books": found.books,
                "remedy": found.kind.remedy(),
            })
        })
        .collect();
    serde_json::json!({
        "agrees": comparison.differences.is_empty(),
        "from": second(gathered.window.from()),
        "until": second(gathered.window.until()),
        "charges": stripe.charges.len(),
        "refunds": stripe.refunds.len(),
        "disputeMovements": stripe.disputes.len(),
        "otherProducts": gathered.foreign,
        "feesNotBookedYet": comparison.fees_not_booked_yet,
        "differences": differences,
    })
}

#[cfg(test)]
mod tests {
    use super::Moment;

    #[test]
    fn moments_are_dates_times_or_how_long_ago() {
        for (text, expected) in [
            ("now", Moment::Ago(0)),
            ("24h", Moment::Ago(86_400)),
            ("7d", Moment::Ago(604_800)),
            ("90m", Moment::Ago(5_400)),
            ("1970-01-02", Moment::At(86_400)),
            ("1970-01-01T01:00:00+01:00", Moment::At(0)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "h", "24", "-1h", "24ä", "yesterday", "2026-13-01"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}

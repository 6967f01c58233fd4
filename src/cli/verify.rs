//! `prepaid402 verify`: recompute every balance from the ledger's entries.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use super::database::DatabaseLocation;
use crate::config::DatabaseConfig;
use crate::db::DbError;
use crate::domain::decimal_in;
use crate::ledger::verify::{Verification, verify};

/// Recompute every balance from the ledger's entries; changes nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  prepaid402 verify\n  prepaid402 verify --data-dir /var/lib/prepaid402\n  PGPASSWORD=… prepaid402 verify --database postgres://gateway@db.example.com/prepaid402\n\nWorks while the server runs. Exit code 0: the books are right. 1: something is wrong, and standard output says what. 2: there is no database."
)]
pub struct VerifyArgs {
    /// Where the database is
    #[command(flatten)]
    pub location: DatabaseLocation,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Prints what it found.
pub async fn run(args: VerifyArgs) -> ExitCode {
    let database = match args.location.find_used() {
        Ok(database) => database,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    match check(&database).await {
        Ok(report) => {
            if args.json {
                println!("{}", json(&report));
            } else {
                print_report(&report);
            }
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{} cannot be verified: {error}", database.shown());
            match error {
                // Nothing is wrong with the books; they were not read.
                DbError::SchemaTooOld { .. } | DbError::SchemaTooNew { .. } => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn check(database: &DatabaseConfig) -> Result<Verification, DbError> {
    let mut connection = crate::db::connect_read_only(database).await?;
    crate::db::require_current(&mut connection).await?;
    let shows = std::io::stderr().is_terminal();
    let report = verify(&mut connection, |entries| {
        if shows {
            eprint!("\r{entries} entries read");
            let _ = std::io::stderr().flush();
        }
    })
    .await?;
    if shows && report.entries >= 50_000 {
        eprintln!();
    }
    Ok(report)
}

/// An amount that may be below zero.
fn signed(micros: i128, currency: &str) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    match u64::try_from(micros.unsigned_abs()) {
        Ok(size) => format!("{sign}{}", decimal_in(size, currency)),
        Err(_) => format!("{micros} micros"),
    }
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn print_report(report: &Verification) {
    println!(
        "{}, {}, {} ({} of them open), {} running",
        counted(report.entries, "entry", "entries"),
        counted(report.clients, "client", "clients"),
        counted(report.top_ups, "top-up", "top-ups"),
        report.open_top_ups,
        counted(report.open_holds, "hold", "holds")
    );
    for (currency, account, sum) in &report.trial_balance {
        println!("  {currency} {:<16} {:>18}", account.name(), signed(*sum, currency));
    }
    for finding in &report.findings {
        println!("WRONG: {finding}");
    }
    let more = report.found.saturating_sub(report.findings.len().try_into().unwrap_or(u64::MAX));
    if more > 0 {
        println!("WRONG: and {more} more");
    }
    if report.is_clean() {
        println!("the books are right");
    }
}

fn json(report: &Verification) -> serde_json::Value {
    let balances: Vec<_> = report
        .trial_balance
        .iter()
        .map(|(currency, account, sum)| {
            serde_json::json!({ "currency": currency, "account": account.name(), "micros": sum.to_string() })
        })
        .collect();
    serde_json::json!({
        "clean": report.is_clean(),
        "entries": report.entries,
        "clients": report.clients,
        "topUps": report.top_ups,
        "openTopUps": report.open_top_ups,
        "openHolds": report.open_holds,
        "trialBalance": balances,
        "findings": report.findings,
        "found": report.found,
    })
}

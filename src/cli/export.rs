//! `prepaid402 export`: what leaves the books for others to read.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::database::DatabaseLocation;
use crate::config::DatabaseConfig;
use crate::db::{self, DbError};
use crate::payments::evidence::{Evidence, gather};

/// Gather what answers a dispute; changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  prepaid402 export dispute du_1SQbGoJabgBRoGNQ4RHXfTHW
  prepaid402 export dispute du_1SQbGoJabgBRoGNQ4RHXfTHW --csv")]
pub struct ExportArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The payment, every request paid from the balance between it and the dispute, refunds and freezes.
    ///
    /// Text for the evidence form, then the requests as CSV. Holds no secret.
    #[command(after_help = "\
Examples:
  prepaid402 export dispute du_1SQbGoJabgBRoGNQ4RHXfTHW
  prepaid402 export dispute du_1SQbGoJabgBRoGNQ4RHXfTHW --json --data-dir /var/lib/prepaid402

Works while the server runs. Exit code 0: here it is. 1: there is no such dispute, or the database cannot be read. 2: there is no database.")]
    Dispute {
        /// Stripe's id of the dispute
        id: String,
        /// Print one JSON object
        #[arg(long, conflicts_with = "csv")]
        json: bool,
        /// Print the requests only
        #[arg(long)]
        csv: bool,
        #[command(flatten)]
        location: DatabaseLocation,
    },
}

/// Prints it.
pub async fn run(args: ExportArgs) -> ExitCode {
    let What::Dispute { id, json, csv, location } = args.what;
    let database = match location.find_used() {
        Ok(database) => database,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    match read(&database, &id).await {
        Ok(Some(found)) if json => println!("{}", found.json()),
        Ok(Some(found)) if csv => print!("{}", found.csv()),
        Ok(Some(found)) => print!("{}\n{}", found.text(), found.csv()),
        Ok(None) => {
            eprintln!("there is no dispute {id} in {}", database.shown());
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("{} cannot be read: {error}", database.shown());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn read(database: &DatabaseConfig, id: &str) -> Result<Option<Evidence>, DbError> {
    let mut connection = db::connect_read_only(database).await?;
    db::require_current(&mut connection).await?;
    Ok(gather((&mut connection).into(), id).await?)
}

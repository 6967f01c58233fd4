//! `prepaid402 accept-account`: the business has moved to another Stripe account, and its wallets go on.

use std::path::PathBuf;
use std::process::ExitCode;

use super::check_config::load_or_report;
use super::database::require_file;
use crate::config::{Config, DatabaseConfig};
use crate::db;
use crate::stripe::Stripe;
use crate::top_up::account::{self, GivenUp};

/// Make the Stripe account of the configured key the database's, after a move to another account.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  prepaid402 accept-account --config prepaid402.toml\n  prepaid402 accept-account --config prepaid402.toml --confirm\n\nWithout --confirm it only says what would be given up. The server must be stopped; with PostgreSQL, all nodes. Wallets keep\ntheir credit. Their cards are tokenised anew by the callers. What was charged in the former account can only be refunded\nthere, and its disputes are not booked any more: let running ones end first. The mode never changes: test wallets stay test\nwallets.\nExit code 0: done. 1: nothing was changed, and standard error says why. 2: wrong usage or configuration."
)]
pub struct AcceptAccountArgs {
    /// Configuration file, with the keys of the new account [default: prepaid402.toml in this directory]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Do it
    #[arg(long)]
    confirm: bool,
    /// Also when top-ups or refunds have no end yet, which only the former account knows
    #[arg(long)]
    give_up_open: bool,
}

/// Prints what it did.
pub async fn run(args: AcceptAccountArgs) -> ExitCode {
    let loaded = match load_or_report(args.config.clone()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match accept(&loaded.config, &args).await {
        Ok(GivenUp { charges, customers }) if args.confirm => {
            println!(
                "accepted: the database belongs to the Stripe account of this key from now on. {charges} charges stay in the former \
                 account, and {customers} wallets need a card that is tokenised anew for their next top-up. Every wallet keeps its credit"
            );
            ExitCode::SUCCESS
        }
        Ok(GivenUp { charges, customers }) => {
            eprintln!(
                "nothing was changed. With --confirm, {charges} charges stay in the former account, where alone they can be refunded, \
                 and {customers} wallets need a card that is tokenised anew for their next top-up; every wallet keeps its credit"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("nothing was changed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn accept(config: &Config, args: &AcceptAccountArgs) -> Result<GivenUp, Box<dyn std::error::Error>> {
    require_file(&config.database)?;
    let _lock = match &config.database {
        DatabaseConfig::Sqlite(path) => Some(db::own(path, &config.data_dir)?),
        DatabaseConfig::Postgres(_) => None,
    };
    let stripe = Stripe::new(&config.stripe)?;
    let mut connection = db::connect(&config.database).await?;
    db::require_current(&mut connection).await?;
    let mode = config.stripe.mode();
    let accepted = account::accept(&mut connection, &stripe, mode, args.give_up_open, args.confirm).await;
    connection.close().await?;
    Ok(accepted?)
}

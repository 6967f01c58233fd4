//! `prepaid402 accept-account`: the business has moved to another Stripe account, and its wallets go on.

use std::path::PathBuf;
use std::process::ExitCode;

use super::check_config::load_or_report;
use super::database::require_file;
use crate::config::{Config, DatabaseConfig};
use crate::db;
use crate::domain::StripeMode;
use crate::stripe::Stripe;
use crate::top_up::accept::{self, Acceptance, GivenUp};

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
    /// What the wallets were paid in: live, test or simulated. Only for a database of an earlier version that does not say it, when
    /// the former account cannot prove it any more
    #[arg(long, value_name = "MODE", value_parser = mode)]
    wallets_are: Option<StripeMode>,
}

fn mode(word: &str) -> Result<StripeMode, &'static str> {
    StripeMode::parse(word).ok_or("it is one of live, test, simulated")
}

/// Prints what it did.
pub async fn run(args: AcceptAccountArgs) -> ExitCode {
    let loaded = match load_or_report(args.config.clone()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match accept(&loaded.config, &args).await {
        Ok(given_up) if args.confirm => {
            println!(
                "accepted: the database goes with the Stripe account of this key from now on, and the first charge binds it to that \
                 account for good. {}",
                sentence(given_up)
            );
            ExitCode::SUCCESS
        }
        Ok(given_up) => {
            eprintln!("nothing was changed. With --confirm, {}", sentence(given_up));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("nothing was changed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn sentence(GivenUp { charges, customers, disputes }: GivenUp) -> String {
    let disputes = match disputes {
        0 => String::new(),
        _ => format!(
            " {disputes} disputes have no end yet: what becomes of them cannot be read any more, so what they have taken from the \
             wallets stays taken also when they are won, and their clients stay frozen until an operator lifts it. Follow them in the \
             former account's dashboard."
        ),
    };
    format!(
        "{charges} charges stay in the former account, where alone they can be refunded, and {customers} wallets need a card that is \
         tokenised anew for their next top-up.{disputes} Every wallet keeps its credit"
    )
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
    let acceptance = Acceptance {
        keys: config.stripe.mode(),
        wallets_are: args.wallets_are,
        gives_up_open: args.give_up_open,
        confirmed: args.confirm,
    };
    let accepted = accept::accept(&mut connection, &stripe, acceptance).await;
    connection.close().await?;
    Ok(accepted?)
}

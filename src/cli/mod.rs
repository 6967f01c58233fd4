//! The command line: one file per subcommand.

pub mod accept_account;
pub mod adjust;
pub mod admin;
pub mod backup;
pub mod bench;
pub mod check_config;
pub mod database;
pub mod export;
pub mod freeze;
pub mod get;
pub mod migrate;
mod once;
mod operator_door;
pub mod reconcile;
pub mod refund;
pub mod sandbox;
pub mod serve;
pub mod stripe_sim;
pub mod verify;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Sells an API to agents with just a card.
///
/// An unpaid request is answered 402 with a price and a Stripe publishable key. The caller tokenises a card directly with
/// Stripe, repeats the request, and from then on spends a prepaid balance.
#[derive(Debug, Parser)]
#[command(
    name = "prepaid402",
    version,
    after_help = "Try it without an account:\n  prepaid402 sandbox\n\nThen with your own API and Stripe test keys:\n  prepaid402 check-config --config prepaid402.toml\n  prepaid402 serve --config prepaid402.toml\n\nExit codes: 0 it worked, 1 it did not, 2 wrong usage or configuration (`get` has more; see its help)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try everything at once: gateway, demo API and simulated Stripe, without an account or a network
    Sandbox(sandbox::SandboxArgs),
    /// Run the gateway in front of your API
    Serve(serve::ServeArgs),
    /// Show what the configuration means: each route's price, and free patterns that overlap priced ones
    CheckConfig(check_config::CheckConfigArgs),
    /// Print every setting with its meaning and default
    Defaults,
    /// Call an API as an agent would: pay on 402, remember the wallet, stay within limits
    Get(get::GetArgs),
    /// Recompute every balance from the ledger's entries; changes nothing
    Verify(verify::VerifyArgs),
    /// Compare the books with what Stripe has; changes nothing
    Reconcile(reconcile::ReconcileArgs),
    /// Copy the database while the server runs
    Backup(backup::BackupArgs),
    /// Bring a database's tables up to date
    Migrate(migrate::MigrateArgs),
    /// Go on with another Stripe account: wallets keep their credit
    AcceptAccount(accept_account::AcceptAccountArgs),
    /// People who may look at the admin pages
    Admin(admin::AdminArgs),
    /// Give a client credit, or write off what it owes
    Adjust(adjust::AdjustArgs),
    /// Refund what a client has not spent to the card that paid
    Refund(refund::RefundArgs),
    /// Stop a client from spending
    Freeze(freeze::FreezeArgs),
    /// Let a client spend again
    Unfreeze(freeze::UnfreezeArgs),
    /// Gather what answers a dispute; changes nothing
    Export(export::ExportArgs),
    /// Measure a server: paid, unpaid and free requests a second as ratios
    Bench(bench::BenchArgs),
    /// Run the server that `bench` measures as "embedded"
    #[command(hide = true)]
    BenchEmbedded(bench::embedded::BenchEmbeddedArgs),
    /// Run the simulated Stripe alone
    StripeSim(stripe_sim::StripeSimArgs),
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the asynchronous runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match cli.command {
            Command::Sandbox(args) => sandbox::run(args).await,
            Command::Serve(args) => serve::run(args).await,
            Command::CheckConfig(args) => check_config::run(args).await,
            Command::Defaults => {
                // Whoever reads it may have closed the pipe.
                let _ = std::io::stdout().write_all(crate::config::DEFAULT_TOML.as_bytes());
                ExitCode::SUCCESS
            }
            Command::Get(args) => get::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Reconcile(args) => reconcile::run(args).await,
            Command::Backup(args) => backup::run(args).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::AcceptAccount(args) => accept_account::run(args).await,
            Command::Admin(args) => admin::run(args).await,
            Command::Adjust(args) => adjust::run(args).await,
            Command::Refund(args) => refund::run(args).await,
            Command::Freeze(args) => freeze::freeze(args).await,
            Command::Unfreeze(args) => freeze::unfreeze(args).await,
            Command::Export(args) => export::run(args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::BenchEmbedded(args) => bench::embedded::run(args).await,
            Command::StripeSim(args) => stripe_sim::run(args).await,
        }
    })
}

/// Sends log events to standard error, in colour only on a terminal.
fn start_logging(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        // It would say that a line could not be written (the disk is full), by writing to the same place, and panic.
        .log_internal_errors(false);
    // A second subscriber in one process is refused; the first one stays.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}

/// Waits for the first SIGINT or SIGTERM. A second one ends the process at once; nothing is lost by that.
async fn wait_for_signal(mut signals: StopSignals) {
    signals.wait().await;
    tokio::spawn(async move {
        signals.wait().await;
        eprintln!("stopped at once; the next start settles what was open");
        std::process::exit(130);
    });
}

/// From now on SIGHUP, which by itself would end the process, is told of and does nothing: settings are read at the start only.
#[cfg(unix)]
fn outlive_hangups() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::warn!("SIGHUP does nothing: restart to change the configuration");
        }
    });
}

#[cfg(not(unix))]
fn outlive_hangups() {}

/// SIGINT and, where there is one, SIGTERM.
pub(super) struct StopSignals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    #[cfg(unix)]
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    #[cfg(unix)]
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn wait(&mut self) {
        // Without a way to be told to stop, serving on is what was asked for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

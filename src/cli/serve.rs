//! `prepaid402 serve`: the gateway in front of an API.

use std::path::PathBuf;
use std::process::ExitCode;

use super::check_config::load_to_serve;
use crate::{app, open_files};

/// Run the gateway in front of your API.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  prepaid402 serve\n  prepaid402 serve --config /etc/prepaid402.toml\n\nSecrets come from the environment (.env is read too) or from files that the configuration names.\nSIGTERM stops accepting, lets running requests finish, and closes the books. SIGHUP does nothing: restart it for a new configuration."
)]
pub struct ServeArgs {
    /// Configuration file [default: prepaid402.toml in this directory]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(args: ServeArgs) -> ExitCode {
    super::outlive_hangups();
    let loaded = match load_to_serve(args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    super::start_logging(&loaded.config.log.filter, loaded.config.log.json);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    open_files::allow_as_many_as_possible();
    let public_url = loaded.config.public_url.clone();
    let key_secret = loaded.config.key_secret.clone();
    let mut running =
        match app::start(loaded.config, key_secret.as_ref().map(crate::config::Secret::expose)).await {
            Ok(running) => running,
            Err(error) => {
                eprintln!("prepaid402 does not start: {error}");
                return ExitCode::FAILURE;
            }
        };
    // Before that line, so that a signal right after it is not lost.
    let signals = match super::StopSignals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("prepaid402 cannot wait for signals: {error}");
            running.stop().await;
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(
        "selling on http://{} as {public_url}; admin pages on http://{}/admin",
        running.address,
        running.admin_address
    );
    tokio::select! {
        () = super::wait_for_signal(signals) => {}
        () = running.broken() => {
            tracing::error!("the ledger's writer has ended; the process ends, and the next start settles what is open");
            return ExitCode::FAILURE;
        }
    }
    tracing::info!("stopping: running requests may finish");
    running.stop().await;
    ExitCode::SUCCESS
}

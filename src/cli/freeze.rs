//! `prepaid402 freeze` and `unfreeze`: who may spend.

use std::process::ExitCode;

use super::operator_door::{FAILED, OperatorDoor, segment};
use crate::domain::Micros;

/// Stop a client from spending.
///
/// Requests that run already are still charged. What is sent next is answered 403 client_frozen, until `unfreeze`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  prepaid402 freeze 0198c5a1-7a55-7cc3-a1d1-0d1c7f0a2b11 --user alice

Exit code 0: the client is frozen. 1: it was refused, or the server cannot be reached. 2: wrong usage, or no password. Doing it twice does no harm.")]
pub struct FreezeArgs {
    /// The client, as the admin pages show it
    #[arg(value_name = "CLIENT")]
    client: String,
    #[command(flatten)]
    door: OperatorDoor,
}

/// Let a client spend again, whatever had frozen it: an operator, a dispute or a fraud warning.
///
/// A client that owes something stays unable to spend until a top-up has repaid it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  prepaid402 unfreeze 0198c5a1-7a55-7cc3-a1d1-0d1c7f0a2b11 --user alice

Exit code 0: the client is not frozen any more. 1: it was refused, or the server cannot be reached. 2: wrong usage, or no password. Doing it twice does no harm.")]
pub struct UnfreezeArgs {
    /// The client, as the admin pages show it
    #[arg(value_name = "CLIENT")]
    client: String,
    #[command(flatten)]
    door: OperatorDoor,
}

/// Runs `prepaid402 freeze`.
pub async fn freeze(args: FreezeArgs) -> ExitCode {
    ask("freeze", &args.client, args.door).await
}

/// Runs `prepaid402 unfreeze`.
pub async fn unfreeze(args: UnfreezeArgs) -> ExitCode {
    ask("unfreeze", &args.client, args.door).await
}

async fn ask(what: &str, client: &str, door: OperatorDoor) -> ExitCode {
    let path = format!("/admin/api/clients/{}/{what}", segment(client));
    let asked = match door.open().await {
        Ok(door) => door.post(&path, None, None).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(said) if said.status.is_success() => {
            let debt = match Micros::parse_major(said.text("debt")) {
                Ok(nothing) if nothing.is_zero() => String::new(),
                _ => format!("; it owes {} and cannot spend until that is repaid", said.money("debt")),
            };
            println!("client {} is {}{debt}", said.text("client"), said.text("status"));
            ExitCode::SUCCESS
        }
        Ok(said) => {
            eprintln!("prepaid402 {what}: {}", said.refusal());
            ExitCode::from(FAILED)
        }
        Err(error) => {
            eprintln!("prepaid402 {what}: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

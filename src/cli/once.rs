//! Commands that ask the running server for what must be done once, however often they are run: under a key, which is printed before
//! anything is asked for, so that it is there however this ends.

use std::process::ExitCode;

use serde_json::Value;

use super::operator_door::{FAILED, OperatorDoor, Said, USAGE};
use crate::domain::Micros;
use crate::paywall::is_key;

/// The key of a request. Flattened into the arguments of the commands.
#[derive(Debug, clap::Args)]
pub(super) struct Once {
    /// The same key does it once; without it, a new one is made and printed
    #[arg(long, value_name = "KEY", value_parser = key)]
    key: Option<String>,
    #[command(flatten)]
    door: OperatorDoor,
}

fn key(text: &str) -> Result<String, &'static str> {
    is_key(text).then(|| text.to_owned()).ok_or("a key has 1 to 255 visible characters")
}

/// An amount above zero, in the currency's major unit.
pub(super) fn amount(text: &str) -> Result<Micros, String> {
    let amount = Micros::parse_major(text).map_err(|error| error.to_string())?;
    if amount.is_zero() { Err("it must be above zero".to_owned()) } else { Ok(amount) }
}

/// What is asked for.
pub(super) struct Request<'a> {
    /// The command's name.
    pub(super) command: &'a str,
    pub(super) path: &'a str,
    pub(super) body: Value,
    /// What the same key does: "it refunds once".
    pub(super) once: &'a str,
    /// What is not known when no answer came: "whether there is a refund".
    pub(super) unknown: &'a str,
}

impl Once {
    /// Asks, and says what happened; `sentence` says it when it is done.
    pub(super) async fn ask(self, request: Request<'_>, sentence: impl Fn(&Said) -> String) -> ExitCode {
        let Request { command, path, body, once, unknown } = request;
        let door = match self.door.open().await {
            Ok(door) => door,
            Err(error) => {
                eprintln!("prepaid402 {command}: {error}");
                return ExitCode::from(error.exit_code());
            }
        };
        let key = self.key.unwrap_or_else(|| {
            let key = uuid::Uuid::now_v7().to_string();
            println!("key: {key}");
            key
        });
        let again = format!("run the command again with --key {key}: {once}");
        match door.post(path, Some(&key), Some(&body)).await {
            Ok(said) if said.status.is_success() => {
                println!("{}", sentence(&said));
                ExitCode::SUCCESS
            }
            Ok(said) => {
                let is_usage = matches!(said.text("code"), "invalid_request" | "raw_card_data_rejected");
                let retry = if said.body["retryable"] == true { format!("\n{again}") } else { String::new() };
                eprintln!("prepaid402 {command}: {}{retry}", said.refusal());
                ExitCode::from(if is_usage { USAGE } else { FAILED })
            }
            Err(error) => {
                eprintln!("prepaid402 {command}: {error}");
                if error.is_unknown() {
                    eprintln!("It is not known {unknown}: {again}");
                }
                ExitCode::from(error.exit_code())
            }
        }
    }
}

//! `prepaid402 adjust`: credit as a gift, or debt written off.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::operator_door::{FAILED, OperatorDoor, Said, USAGE, segment};
use super::refund::{amount, key};
use crate::domain::Micros;

/// Give a client credit, or write off what it owes.
///
/// The running server does it; this only asks. Credit that is given is bonus: it can be spent, and never refunded to a card. How much
/// operators may give in 24 hours is a setting, adjustments.max_a_day. The same key adjusts once: when the outcome is not known, run
/// the command again with the key that it has printed.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["credit", "write_off_debt"]),
    after_help = "\
Examples:
  prepaid402 adjust 0198c5a1-7a55-7cc3-a1d1-0d1c7f0a2b11 --user alice --credit 5.00 --reason 'for the outage on Monday'
  prepaid402 adjust 0198c5a1-7a55-7cc3-a1d1-0d1c7f0a2b11 --user alice --write-off-debt --reason 'settled by bank transfer'

Exit code 0: it is done. 1: it was refused, or its outcome is not known; standard error says which. 2: wrong usage, or no password."
)]
pub struct AdjustArgs {
    /// The client, as the admin pages show it
    #[arg(value_name = "CLIENT")]
    client: String,
    /// Credit to give, in the currency's major unit
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    credit: Option<Micros>,
    /// Debt to write off; without an amount, all of it
    #[arg(long, value_name = "AMOUNT", num_args = 0..=1, default_missing_value = "all", value_parser = amount_or_all)]
    write_off_debt: Option<Debt>,
    /// Why, for people; it is stored
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The same key adjusts once; without it, a new one is made and printed
    #[arg(long, value_name = "KEY", value_parser = key)]
    key: Option<String>,
    #[command(flatten)]
    door: OperatorDoor,
}

/// How much debt.
#[derive(Debug, Clone, Copy)]
enum Debt {
    All,
    Part(Micros),
}

fn amount_or_all(text: &str) -> Result<Debt, String> {
    if text == "all" { Ok(Debt::All) } else { amount(text).map(Debt::Part) }
}

/// Asks for the adjustment and says what happened.
pub async fn run(args: AdjustArgs) -> ExitCode {
    let door = match args.door.open().await {
        Ok(door) => door,
        Err(error) => {
            eprintln!("prepaid402 adjust: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    let key = args.key.unwrap_or_else(|| {
        let key = uuid::Uuid::now_v7().to_string();
        // Before anything is asked for, so that it is there however this ends.
        println!("key: {key}");
        key
    });
    let again = format!("run the command again with --key {key}: it adjusts once");
    let mut body = json!({ "reason": args.reason });
    if let Some(amount) = args.credit {
        body["credit"] = Value::from(amount.to_major_string());
    }
    if let Some(debt) = args.write_off_debt {
        body["writeOffDebt"] = match debt {
            Debt::All => "all".into(),
            Debt::Part(amount) => amount.to_major_string().into(),
        };
    }
    let path = format!("/admin/api/clients/{}/adjustments", segment(&args.client));
    match door.post(&path, Some(&key), Some(&body)).await {
        Ok(said) if said.status.is_success() => {
            println!("{}", sentence(&said));
            ExitCode::SUCCESS
        }
        Ok(said) => {
            let is_usage = matches!(said.text("code"), "invalid_request" | "raw_card_data_rejected");
            let retry = if said.body["retryable"] == true { format!("\n{again}") } else { String::new() };
            eprintln!("prepaid402 adjust: {}{retry}", said.refusal());
            ExitCode::from(if is_usage { USAGE } else { FAILED })
        }
        Err(error) => {
            eprintln!("prepaid402 adjust: {error}");
            if error.is_unknown() {
                eprintln!("It is not known whether the wallet was adjusted: {again}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn sentence(said: &Said) -> String {
    let (id, client) = (said.text("id"), said.text("client"));
    let (amount, holds, owes) = (said.money("amount"), said.money("balance"), said.money("debt"));
    let done = match said.text("kind") {
        "credit" => format!("{amount} given to client {client}"),
        _ => format!("{amount} of the debt of client {client} written off"),
    };
    let frozen = if said.body["frozen"] == true { "; it is frozen and can spend nothing" } else { "" };
    format!("{done} (adjustment {id}); it holds {holds} and owes {owes}{frozen}")
}

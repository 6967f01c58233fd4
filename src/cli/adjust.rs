//! `prepaid402 adjust`: credit as a gift, or debt written off.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::once::{Once, Request, amount};
use super::operator_door::{Said, segment};
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
    #[command(flatten)]
    once: Once,
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
    let request = Request {
        command: "adjust",
        path: &path,
        body,
        once: "it adjusts once",
        unknown: "whether the wallet was adjusted",
    };
    args.once.ask(request, sentence).await
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

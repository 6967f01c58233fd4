//! `prepaid402 refund`: back to the card that paid.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::once::{Once, Request, amount};
use super::operator_door::Said;
use crate::domain::{Micros, TopUpId};

/// Refund what a client has not spent of a top-up to the card that paid.
///
/// The running server does it; this only asks. The credit is taken from the wallet first, then Stripe is asked. A share of the
/// top-up's bonus is forfeited with it. The same key refunds once: when the outcome is not known, run the command again with the
/// key that it has printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  prepaid402 refund 0198c5a1-7a55-7cc3-a1d1-0d1c7f0a2b11 --user alice
  prepaid402 refund 0198c5a1-7a55-7cc3-a1d1-0d1c7f0a2b11 --user alice --amount 5.00 --reason 'asked by mail'

Exit code 0: the refund is made or on its way. 1: it was refused or has failed, or its outcome is not known; standard error says which. 2: wrong usage, or no password.")]
pub struct RefundArgs {
    /// The top-up, as the admin pages show it
    #[arg(value_name = "TOP_UP", value_parser = top_up)]
    top_up: TopUpId,
    /// How much, in the currency's major unit; without it, all that is left of the charge
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    amount: Option<Micros>,
    /// For people; Stripe is not told
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    once: Once,
}

fn top_up(text: &str) -> Result<TopUpId, &'static str> {
    TopUpId::parse(text).ok_or("not the id of a top-up; the admin pages show it below each payment")
}

/// Asks for the refund and says what happened.
pub async fn run(args: RefundArgs) -> ExitCode {
    let mut body = json!({ "topUp": args.top_up.to_string() });
    if let Some(amount) = args.amount {
        body["amount"] = Value::from(amount.to_major_string());
    }
    if let Some(reason) = args.reason {
        body["reason"] = Value::from(reason);
    }
    let request = Request {
        command: "refund",
        path: "/admin/api/refunds",
        body,
        once: "it refunds once",
        unknown: "whether there is a refund",
    };
    args.once.ask(request, sentence).await
}

fn sentence(said: &Said) -> String {
    let money = |field| said.money(field);
    let stripe = said.text("stripeRefund");
    let (id, top_up) = (said.text("id"), said.text("topUp"));
    let state = match said.text("state") {
        "succeeded" => "has been refunded to the card",
        _ => "is on its way to the card",
    };
    let bonus = match Micros::parse_major(said.text("bonusForfeited")) {
        Ok(bonus) if !bonus.is_zero() => {
            format!("\n{} of bonus was forfeited with it", money("bonusForfeited"))
        }
        _ => String::new(),
    };
    format!("{} of top-up {top_up} {state} (refund {id}, Stripe's {stripe}){bonus}", money("amount"))
}

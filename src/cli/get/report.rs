//! What `prepaid402 get` prints and exits with: the answer on standard output, what it cost on standard error.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::{Value, json};

use crate::agent::budget::Refusal;
use crate::agent::http::{Answer, Origin, SendError};
use crate::agent::offer::shown;
use crate::agent::tokenise::TokeniseError;
use crate::agent::{AgentError, Paid};
use crate::domain::{ClientKey, Micros, Units, decimal_in};
use crate::protocol::stripe402::PAYMENT_RESPONSE;

/// Not 2xx, or no answer.
const EXIT_FAILED: u8 = 1;
/// Wrong usage.
pub(super) const EXIT_USAGE: u8 = 2;
/// A limit of ours, or nothing to pay with.
const EXIT_REFUSED: u8 = 3;
/// The card was refused.
const EXIT_DECLINED: u8 = 4;
/// The card may have been charged.
const EXIT_UNKNOWN: u8 = 5;
/// Somebody could not be reached, which says nothing about the card; nothing was charged.
const EXIT_UNREACHED: u8 = 6;

/// Writes the answer, then says what it cost.
pub(super) async fn deliver(
    mut paid: Paid,
    origin: &Origin,
    output: Option<File>,
    include: bool,
    json: bool,
) -> ExitCode {
    let Ok(mut answer) = paid.take_answer() else {
        return finish(json, EXIT_FAILED, &failure("no_answer", "there is no answer"));
    };
    let written = write_answer(&mut answer, output, include).await;
    let code = match written {
        Ok(()) if answer.status.is_success() => 0,
        _ => EXIT_FAILED,
    };
    let mut summary = summary(&paid, &answer, origin);
    if let Err(message) = &written {
        summary["outcome"] = "cut_off".into();
        summary["message"] = message.as_str().into();
    }
    if !json && paid.topped_up.is_none() && answer.receipt.is_none() && written.is_ok() {
        // Free of charge: nothing to say, except why the exit code is not 0.
        if answer.status == StatusCode::PAYMENT_REQUIRED {
            eprintln!("not paid: the server asks for a payment, but not in a form that this program knows");
        } else if code != 0 {
            eprintln!("the server answered {}", answer.status.as_u16());
        }
        return ExitCode::from(code);
    }
    finish(json, code, &summary)
}

async fn write_answer(answer: &mut Answer, output: Option<File>, include: bool) -> Result<(), String> {
    let failed = |error: io::Error| format!("the answer cannot be written: {error}");
    if include {
        write_head(answer).map_err(failed)?;
    }
    let to_terminal = output.as_ref().map_or_else(|| io::stdout().is_terminal(), File::is_terminal);
    let mut last = b'\n';
    let mut out: Box<dyn Write> = match output {
        Some(file) => {
            // Devices and pipes have no length.
            if file.metadata().map_err(failed)?.is_file() {
                file.set_len(0).map_err(failed)?;
            }
            Box::new(file)
        }
        None => Box::new(io::stdout()),
    };
    let mut ended = Ok(());
    while let Some(piece) = answer.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                let how = if error == SendError::TimedOut { "stalled" } else { "broke off" };
                ended = Err(format!("the answer {how} before its end"));
                break;
            }
        };
        out.write_all(&piece).and_then(|()| out.flush()).map_err(failed)?;
        last = piece.last().copied().unwrap_or(last);
    }
    // For people only, who read on in the next line; a program gets the body as it is.
    if to_terminal && last != b'\n' {
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(failed)?;
    }
    ended
}

/// Status line and headers, as curl prints them. The receipt is shown decoded, with its key cut to a prefix.
fn write_head(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "HTTP/1.1 {}", answer.status)?;
    for (name, value) in &answer.headers {
        let text = match (&answer.receipt, name.as_str() == PAYMENT_RESPONSE) {
            (Some(receipt), true) => {
                let mut receipt = receipt.clone();
                receipt.client_id = short(&receipt.client_id);
                serde_json::to_string(&receipt).unwrap_or_default()
            }
            (None, true) => "(cannot be decoded)".to_owned(),
            (_, false) => printable(value),
        };
        writeln!(out, "{name}: {text}")?;
    }
    writeln!(out)
}

fn printable(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).chars().filter(|c| !c.is_control()).collect()
}

/// The part of a key that people may see.
pub(super) fn short(key: &str) -> String {
    match ClientKey::parse(key) {
        // A short foreign key is not shown at all.
        Some(key) if key.expose().len() >= 32 => format!("{}…", key.shown_prefix()),
        Some(_) => "…".to_owned(),
        None => String::new(),
    }
}

fn summary(paid: &Paid, answer: &Answer, origin: &Origin) -> Value {
    let outcome = if answer.status.is_success() { "served" } else { "answered" };
    let mut summary =
        json!({"outcome": outcome, "status": answer.status.as_u16(), "origin": origin.as_str()});
    if let Some(currency) = paid.currency {
        summary["currency"] = currency.code().into();
    }
    let decimal = |units: Units| match paid.currency {
        Some(currency) => currency.decimal(units.to_micros()),
        None => units.to_micros().to_major_string(),
    };
    if let Some(amount) = paid.topped_up {
        summary["toppedUp"] = decimal(amount).into();
    }
    if let Some(receipt) = &answer.receipt {
        let major = |units: Option<i64>| units.and_then(Units::new).map(decimal);
        let asked = paid.offer.as_ref().filter(|_| receipt.success).map(|offer| offer.price.get());
        summary["paid"] = major(receipt.credits_charged.or(asked)).into();
        summary["balance"] = major(receipt.credits_remaining).into();
        summary["creditsRemaining"] = receipt.credits_remaining.into();
        summary["frozen"] = receipt.standing.frozen.into();
        summary["spendable"] = major(receipt.standing.spendable.filter(|units| *units > 0)).into();
        summary["debt"] = major(receipt.standing.debt).into();
        summary["client"] = short(&receipt.client_id).into();
        let text = |text: &Option<String>| text.as_deref().map(shown);
        summary["chargeId"] = text(&receipt.charge_id).into();
        summary["paymentId"] = text(&receipt.payment_id).into();
        summary["entryId"] = text(&receipt.entry_id).into();
        summary["code"] = text(&receipt.error_code).into();
        summary["message"] = text(&receipt.error).into();
    }
    if let Some(fields) = summary.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    summary
}

pub(super) fn failure(outcome: &str, message: &str) -> Value {
    json!({"outcome": outcome, "message": message})
}

/// Says why there is no answer.
pub(super) fn refuse(json: bool, origin: &Origin, error: &AgentError) -> ExitCode {
    let (code, outcome) = match error {
        AgentError::Declined { code, .. } if code == "upstream_unreachable" => {
            (EXIT_UNREACHED, "unreachable")
        }
        AgentError::Refused(Refusal::Server { .. }) | AgentError::Declined { .. } => {
            (EXIT_DECLINED, "declined")
        }
        AgentError::Refused(_) => (EXIT_REFUSED, "refused"),
        AgentError::Unknown { .. } => (EXIT_UNKNOWN, "unknown"),
        AgentError::Tokenise(
            TokeniseError::Unreachable(_) | TokeniseError::Unavailable(_) | TokeniseError::Unreadable(_),
        ) => (EXIT_UNREACHED, "not_tokenised"),
        AgentError::Tokenise(_) => (EXIT_DECLINED, "not_tokenised"),
        AgentError::Card(_) => (EXIT_USAGE, "usage"),
        AgentError::Wallet(_) => (EXIT_FAILED, "wallet"),
        AgentError::Offer(_) => (EXIT_FAILED, "bad_offer"),
        AgentError::NoAnswer { .. } => (EXIT_FAILED, "no_answer"),
    };
    let mut summary = failure(outcome, &error.to_string());
    summary["origin"] = origin.as_str().into();
    match error {
        AgentError::Refused(refusal) => {
            if let Some(flag) = refusal.flag() {
                summary["flag"] = flag.into();
            }
        }
        AgentError::Declined { status, code, .. } => {
            summary["status"] = (*status).into();
            summary["code"] = code.as_str().into();
        }
        AgentError::Unknown { retry_after: Some(wait), .. } => summary["retryAfter"] = wait.as_secs().into(),
        _ => {}
    }
    finish(json, code, &summary)
}

/// One line on standard error: JSON, or a sentence.
pub(super) fn finish(json: bool, code: u8, summary: &Value) -> ExitCode {
    if json {
        let mut summary = summary.clone();
        summary["exitCode"] = code.into();
        eprintln!("{summary}");
    } else {
        eprintln!("{}", sentence(summary));
    }
    ExitCode::from(code)
}

pub(super) fn sentence(summary: &Value) -> String {
    let text = |name: &str| summary[name].as_str().unwrap_or_default();
    let currency = text("currency");
    // As people write it; a program reads the summary itself.
    let money = |name: &str| match Micros::parse_major(text(name)) {
        Ok(amount) => format!("{} {currency}", decimal_in(amount.get().unsigned_abs(), currency)),
        Err(_) => format!("{} {currency}", text(name)),
    };
    let mut parts = Vec::new();
    if !text("toppedUp").is_empty() {
        parts.push(format!("charged {} to the card", money("toppedUp")));
    }
    if !text("paid").is_empty() {
        parts.push(format!("paid {}", money("paid")));
    }
    if !text("balance").is_empty() && summary["frozen"] == true {
        let spendable = if text("spendable").is_empty() { "nothing".to_owned() } else { money("spendable") };
        parts.push(format!(
            "{} at {}, frozen: {spendable} of it can be spent",
            money("balance"),
            text("origin")
        ));
    } else if !text("balance").is_empty() {
        parts.push(format!("{} left at {}", money("balance"), text("origin")));
    }
    if !text("message").is_empty() {
        parts.push(text("message").to_owned());
    }
    parts.join("; ")
}

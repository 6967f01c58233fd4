//! `prepaid402 get`: the paying client.

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::agent::budget::{Budget, Refusal};
use crate::agent::card::{Card, CardSource};
use crate::agent::http::{Answer, Http, Origin, Outgoing, SendError, Target};
use crate::agent::offer::shown;
use crate::agent::pay::RetryPolicy;
use crate::agent::tokenise::StripeBase;
use crate::agent::wallet::Wallet;
use crate::agent::{Agent, AgentError, Paid};
use crate::domain::{ClientKey, Micros, PaymentMethodId, Units};
use crate::protocol::stripe402::{PAYMENT, PAYMENT_RESPONSE};

/// The largest request body, in bytes: it is kept in memory, because an unpaid request is sent again.
const MAX_BODY: u64 = 10 * 1024 * 1024;

/// Not 2xx, or no answer.
const EXIT_FAILED: u8 = 1;
/// Wrong usage.
const EXIT_USAGE: u8 = 2;
/// A limit of ours, or nothing to pay with.
const EXIT_REFUSED: u8 = 3;
/// The card was refused.
const EXIT_DECLINED: u8 = 4;
/// The card may have been charged.
const EXIT_UNKNOWN: u8 = 5;

const AFTER_HELP: &str = "\
Examples:
  prepaid402 get https://api.example.com/weather --card-file card.txt
  prepaid402 get https://api.example.com/weather              (spends the balance)
  prepaid402 get https://api.example.com/ask -d '{\"q\":\"…\"}' --max-price 0.50 --max-top-up 20

A card file holds three lines, and only its owner may read it (chmod 600):
  number=4242 4242 4242 4242
  exp=12/34
  cvc=123

Limits are in major units of the currency that the server asks for: 0.10 is ten cents, or a tenth of a yen. Without flags
a request may cost 0.10, and one smallest pack is bought per server, ever, if it costs no more than 20.00 US dollars (in other
currencies: 40 times Stripe's smallest charge). The seller charges the card, not this program: the limits bind honest
sellers and mistakes, so use a card that has a limit of its own.

Exit codes: 0 served (2xx); 1 the server answered otherwise or not at all; 2 wrong usage; 3 not paid: above a limit, or
nothing to pay with; 4 the card was refused; 5 the outcome of a card payment is unknown: run the command again, it
repeats the same payment.";

/// Requests a URL and pays for it from a prepaid balance, topping it up by card within limits.
///
/// A server that answers 402 with a stripe402 offer is paid from the balance held there. When that is used up, the card is
/// turned into a payment method directly at Stripe, and the server gets only that. The key of the balance is kept in a
/// wallet file for the next time.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct GetArgs {
    /// What to request: https://…, or http:// on this machine.
    pub url: Text,
    /// HTTP method; GET by default, POST with --data.
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    pub method: Option<String>,
    /// Request body: text, @FILE, or @- for standard input. At most 10 MiB. Sent as application/json unless -H says otherwise.
    #[arg(short = 'd', long, value_name = "BODY")]
    pub data: Option<Text>,
    /// A request header, 'Name: value'. Can be repeated.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub headers: Vec<Text>,
    /// A payment method (pm_…) made elsewhere, for example with Stripe Elements.
    #[arg(long, value_name = "PM", env = "PREPAID402_PAYMENT_METHOD", hide_env_values = true, conflicts_with_all = ["card_file", "card_number"])]
    pub payment_method: Option<Text>,
    /// The file with the card, or - for standard input. Read only when a top-up is needed.
    #[arg(long, value_name = "FILE", conflicts_with = "card_number")]
    pub card_file: Option<PathBuf>,
    /// One of Stripe's test card numbers; a real one is refused here, because other programs can read a command line.
    #[arg(long, value_name = "N", requires_all = ["card_exp", "card_cvc"])]
    pub card_number: Option<Text>,
    /// Expiry of the test card.
    #[arg(long, value_name = "MM/YY", requires = "card_number")]
    pub card_exp: Option<Text>,
    /// CVC of the test card.
    #[arg(long, value_name = "CVC", requires = "card_number")]
    pub card_cvc: Option<Text>,
    /// The most that this request may cost, in major units of the currency.
    #[arg(long, value_name = "AMOUNT", default_value = "0.10")]
    pub max_price: String,
    /// The most that may be charged to cards at this server in total: what the wallet remembers of all earlier runs, and this
    /// one. Without it, one smallest pack.
    #[arg(long, value_name = "AMOUNT")]
    pub max_top_up: Option<String>,
    /// The wallet file. Default: prepaid402/wallet.json in $XDG_CONFIG_HOME or ~/.config.
    #[arg(long, value_name = "FILE")]
    pub wallet: Option<PathBuf>,
    /// A simulated Stripe on this machine, such as http://127.0.0.1:12111; test keys only.
    #[arg(long, value_name = "URL")]
    pub stripe_base: Option<String>,
    /// Allow http:// to other machines, although the key of the balance then travels in the clear.
    #[arg(long)]
    pub allow_insecure_http: bool,
    /// Give up a payment at this server whose outcome is unknown, when the seller says that it was not charged. It still counts
    /// for --max-top-up.
    #[arg(long)]
    pub forget_pending: bool,
    /// Print status and headers of the answer, too.
    #[arg(short = 'i', long)]
    pub include: bool,
    /// Print one line of JSON about the payment on standard error instead of sentences.
    #[arg(long)]
    pub json: bool,
    /// Write the answer's body to a file.
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How long to wait for the head of an answer, and between two pieces of its body.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// An argument that may hold a secret: `Debug` does not show it.
#[derive(Clone)]
pub struct Text(String);

impl FromStr for Text {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text(redacted)")
    }
}

/// Wrong usage, as a sentence.
struct Usage(String);

impl<E: std::error::Error> From<E> for Usage {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Runs the command.
pub async fn run(args: GetArgs) -> ExitCode {
    let json = args.json;
    let prepared = prepare(&args);
    let (agent, outgoing, output) = match prepared {
        Ok(prepared) => prepared,
        Err(Usage(message)) => return finish(json, EXIT_USAGE, &failure("usage", &message)),
    };
    let origin = outgoing.target.origin().clone();
    if args.forget_pending
        && let Err(error) = agent.forget_pending(&origin).await
    {
        return refuse(json, &origin, &error.into());
    }
    match agent.send(outgoing).await {
        Ok(paid) => deliver(paid, &origin, output, args.include, json).await,
        Err(error) => refuse(json, &origin, &error),
    }
}

fn prepare(args: &GetArgs) -> Result<(Agent, Outgoing, Option<File>), Usage> {
    let outgoing = request(args)?;
    let wallet = match &args.wallet {
        Some(path) => path.clone(),
        None => Wallet::default_path()?,
    };
    let amount =
        |flag, text: &str| Micros::parse_major(text).map_err(|error| Usage(format!("{flag} {error}")));
    let budget = Budget {
        max_price: amount("--max-price", &args.max_price)?,
        max_top_up: args.max_top_up.as_deref().map(|text| amount("--max-top-up", text)).transpose()?,
    };
    let agent = Agent {
        http: Http::new(Duration::from_secs(args.timeout)),
        wallet: Wallet::new(wallet),
        stripe: StripeBase::new(args.stripe_base.as_deref())?,
        budget,
        card: card(args)?,
        retry: RetryPolicy::default(),
        say: if args.json { |_| {} } else { |text| eprintln!("{text}") },
    };
    // Opened before anything is paid, and emptied only when there is an answer to write.
    let open = |path| File::options().write(true).create(true).truncate(false).open(path);
    let output = args.output.as_ref().map(open).transpose();
    let output = output.map_err(|error| Usage(format!("the output file cannot be written: {error}")))?;
    Ok((agent, outgoing, output))
}

fn request(args: &GetArgs) -> Result<Outgoing, Usage> {
    let target = Target::parse(&args.url.0, args.allow_insecure_http)?;
    let stdin_twice = args.data.as_ref().is_some_and(|data| data.0 == "@-")
        && args.card_file.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if stdin_twice {
        return Err(Usage("the body and the card cannot both come from standard input".to_owned()));
    }
    let body = args.data.as_ref().map(|data| body(&data.0)).transpose()?;
    let method = match &args.method {
        Some(name) => {
            Method::from_bytes(name.as_bytes()).map_err(|_| Usage("-X must be an HTTP method".to_owned()))?
        }
        None if body.is_some() => Method::POST,
        None => Method::GET,
    };
    if method == Method::CONNECT {
        return Err(Usage("-X CONNECT cannot be sold".to_owned()));
    }
    let mut headers = HeaderMap::new();
    for header in &args.headers {
        let (name, value) = parse_header(&header.0)?;
        headers.append(name, value);
    }
    if !headers.contains_key(ACCEPT) {
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    }
    if body.is_some() && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(Outgoing { target, method, headers, body: body.unwrap_or_default() })
}

/// Reads a body: the text itself, `@FILE` or `@-`.
fn body(text: &str) -> Result<Bytes, Usage> {
    let Some(path) = text.strip_prefix('@') else { return Ok(Bytes::copy_from_slice(text.as_bytes())) };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a body that is too large from one that just fits.
    let limit = MAX_BODY.saturating_add(1);
    let read = if path == "-" {
        io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Usage(format!("the body {path} cannot be read: {error}")))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_BODY) {
        Ok(Bytes::from(bytes))
    } else {
        Err(Usage("the body is larger than 10 MiB".to_owned()))
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), Usage> {
    // The text may hold a secret, so it is not quoted.
    let wrong = || Usage("-H must look like 'Name: value'".to_owned());
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
    let ours = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        PAYMENT,
    ];
    if ours.contains(&name.as_str()) {
        return Err(Usage(format!("the header {name} is set by this program")));
    }
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn card(args: &GetArgs) -> Result<CardSource, Usage> {
    if let Some(method) = &args.payment_method {
        let parsed = PaymentMethodId::parse(&method.0);
        return parsed.map(CardSource::PaymentMethod).ok_or_else(|| {
            Usage("--payment-method must be the id of a Stripe PaymentMethod, pm_…".to_owned())
        });
    }
    if let Some(path) = &args.card_file {
        let stdin = path.as_os_str() == "-";
        return Ok(if stdin { CardSource::Stdin } else { CardSource::File(path.clone()) });
    }
    if let (Some(number), Some(exp), Some(cvc)) = (&args.card_number, &args.card_exp, &args.card_cvc) {
        return Ok(CardSource::Test(Card::from_command_line(&number.0, &exp.0, &cvc.0)?));
    }
    Ok(CardSource::None)
}

/// Writes the answer, then says what it cost.
async fn deliver(
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
    let mut out: Box<dyn Write> = match output {
        Some(file) => {
            file.set_len(0).map_err(failed)?;
            Box::new(file)
        }
        None => Box::new(io::stdout()),
    };
    while let Some(piece) = answer.next().await {
        let piece = piece.map_err(|error: SendError| match error {
            SendError::TimedOut => "the answer stalled before its end".to_owned(),
            _ => "the answer broke off before its end".to_owned(),
        })?;
        out.write_all(&piece).and_then(|()| out.flush()).map_err(failed)?;
    }
    Ok(())
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
fn short(key: &str) -> String {
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
    let currency = paid.offer.as_ref().map(|offer| offer.currency);
    if let Some(currency) = currency {
        summary["currency"] = currency.code().into();
    }
    if let Some(amount) = paid.topped_up {
        summary["toppedUp"] = amount.to_micros().to_major_string().into();
    }
    if let Some(receipt) = &answer.receipt {
        let major =
            |units: Option<i64>| units.and_then(Units::new).map(|units| units.to_micros().to_major_string());
        let asked = paid.offer.as_ref().filter(|_| receipt.success).map(|offer| offer.price.get());
        summary["paid"] = major(receipt.credits_charged.or(asked)).into();
        summary["balance"] = major(Some(receipt.credits_remaining)).into();
        summary["creditsRemaining"] = receipt.credits_remaining.into();
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

fn failure(outcome: &str, message: &str) -> Value {
    json!({"outcome": outcome, "message": message})
}

/// Says why there is no answer.
fn refuse(json: bool, origin: &Origin, error: &AgentError) -> ExitCode {
    let (code, outcome) = match error {
        AgentError::Refused(Refusal::Server { .. }) | AgentError::Declined { .. } => {
            (EXIT_DECLINED, "declined")
        }
        AgentError::Refused(_) => (EXIT_REFUSED, "refused"),
        AgentError::Unknown { .. } => (EXIT_UNKNOWN, "unknown"),
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
fn finish(json: bool, code: u8, summary: &Value) -> ExitCode {
    if json {
        let mut summary = summary.clone();
        summary["exitCode"] = code.into();
        eprintln!("{summary}");
    } else {
        eprintln!("{}", sentence(summary));
    }
    ExitCode::from(code)
}

fn sentence(summary: &Value) -> String {
    let text = |name: &str| summary[name].as_str().unwrap_or_default();
    let currency = text("currency");
    let mut parts = Vec::new();
    if !text("toppedUp").is_empty() {
        parts.push(format!("charged {} {currency} to the card", text("toppedUp")));
    }
    if !text("paid").is_empty() {
        parts.push(format!("paid {} {currency}", text("paid")));
    }
    if !text("balance").is_empty() {
        parts.push(format!("{} {currency} left at {}", text("balance"), text("origin")));
    }
    if !text("message").is_empty() {
        parts.push(text("message").to_owned());
    }
    // The currency is unknown when nothing was offered.
    parts.join("; ").replace("  ", " ")
}

#[cfg(test)]
mod tests;

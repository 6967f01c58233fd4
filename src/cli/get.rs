//! `prepaid402 get`: the paying client.

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::agent::Agent;
use crate::agent::budget::Budget;
use crate::agent::card::{Card, CardSource};
use crate::agent::http::{Http, Outgoing, Target};
use crate::agent::pay::RetryPolicy;
use crate::agent::tokenise::StripeBase;
use crate::agent::wallet::Wallet;
use crate::domain::{Micros, PaymentMethodId};
use crate::protocol::stripe402::PAYMENT;
use crate::trust::{CA_FILE_VARIABLE, Trust};

use report::{EXIT_USAGE, deliver, failure, finish, refuse};

mod report;

/// The largest request body, in bytes: it is kept in memory, because an unpaid request is sent again.
const MAX_BODY: u64 = 10 * 1024 * 1024;

/// What one request may cost without `--max-price`, in major units.
pub(super) const DEFAULT_MAX_PRICE: &str = "0.10";

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
nothing to pay with; 4 the card, or the payment, was refused; 5 the outcome of a card payment is unknown: run the command
again, it repeats the same payment; 6 Stripe or the API could not be reached, and nothing was charged: try again later.";

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
    #[arg(long, value_name = "AMOUNT", default_value = DEFAULT_MAX_PRICE)]
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
    /// PEM file with a private authority that vouches for the seller; the public ones always do. Stripe is never met with it.
    #[arg(long, value_name = "FILE", env = CA_FILE_VARIABLE)]
    pub ca_file: Option<PathBuf>,
    /// Allow http:// to other machines, although the key of the balance then travels in the clear.
    #[arg(long)]
    pub allow_insecure_http: bool,
    /// Give up a payment at this server whose outcome is unknown, when the seller says that it was not charged. It still counts
    /// for --max-top-up.
    #[arg(long)]
    pub forget_pending: bool,
    /// Pay into a new wallet, although the card has one at this server already.
    #[arg(long)]
    pub new_wallet: bool,
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
    let patience = Duration::from_secs(args.timeout);
    let trust = args.ca_file.as_deref().map(Trust::from_file).transpose();
    let trust =
        trust.map_err(|what| Usage(format!("--ca-file ({CA_FILE_VARIABLE}): {what}")))?.unwrap_or_default();
    let agent = Agent {
        http: Http::new(patience, &trust),
        wallet: Wallet::new(wallet),
        stripe: StripeBase::new(args.stripe_base.as_deref(), patience)?,
        budget,
        card: card(args)?,
        new_wallet: args.new_wallet,
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

#[cfg(test)]
mod tests;

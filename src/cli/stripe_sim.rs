//! `prepaid402 stripe-sim`: the simulated Stripe alone.

use std::convert::Infallible;
use std::fmt;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use crate::config::{self, ConfigProblems};
use crate::sandbox::stripe_sim::{self, RunningSim, SimError, SimOptions};
use crate::sandbox::{SANDBOX_PUBLISHABLE_KEY, SANDBOX_SECRET_KEY};

/// A key from the command line. Not shown by Debug.
#[derive(Clone)]
pub struct Key(String);

impl FromStr for Key {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

const EXAMPLES: &str = "\
Examples:
  prepaid402 stripe-sim --data /tmp/stripe.books
  curl -u pk_test_prepaid402_sandbox: http://127.0.0.1:4404/v1/payment_methods \\
    -d type=card -d 'card[number]=4242424242424242' -d 'card[exp_month]=12' -d 'card[exp_year]=2040' -d 'card[cvc]=123'
  curl http://127.0.0.1:4404/_sim/books
  STRIPE_WEBHOOK_SECRETS=whsec_0123456789abcdefghijklmn prepaid402 stripe-sim --webhook-url http://127.0.0.1:4402/webhooks/stripe
  curl http://127.0.0.1:4404/_sim/payment_intents/pi_…/dispute -X POST";

/// Run a simulated Stripe: no account, no network, no real money.
///
/// It keeps its own books and survives a restart, so a gateway can be killed and compared with it afterwards. It takes
/// Stripe's test cards only.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StripeSimArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4404")]
    listen: SocketAddr,
    /// The file with the books; created when it is not there. Without it they are lost at the end.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The secret key to accept: sk_test_… or rk_test_….
    #[arg(long, value_name = "KEY", default_value = SANDBOX_SECRET_KEY)]
    secret_key: Key,
    /// The publishable key to accept: pk_test_….
    #[arg(long, value_name = "KEY", default_value = SANDBOX_PUBLISHABLE_KEY)]
    publishable_key: Key,
    /// Refuse to turn card numbers into PaymentMethods with the publishable key, as a Stripe account does by default.
    #[arg(long)]
    no_publishable_key_tokenisation: bool,
    /// Deliver events to this URL on this machine, signed as Stripe signs them.
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// The environment variable (.env is read too) with the secret that signs them: whsec_…; several, separated by commas, all
    /// sign.
    #[arg(long, value_name = "NAME", default_value = "STRIPE_WEBHOOK_SECRETS", requires = "webhook_url")]
    webhook_secret_env: String,
    /// Listen on an address that other machines reach. Anybody there can use /_sim/.
    #[arg(long)]
    allow_remote: bool,
    /// Print one line of JSON when ready.
    #[arg(long)]
    json: bool,
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(args: StripeSimArgs) -> ExitCode {
    if !args.listen.ip().is_loopback() && !args.allow_remote {
        eprintln!(
            "error: {} is not a loopback address. The simulated Stripe has no protection; --allow-remote insists.",
            args.listen
        );
        return ExitCode::from(2);
    }
    let listener = match TcpListener::bind(args.listen) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("error: cannot listen on {}: {error}", args.listen);
            return ExitCode::from(1);
        }
    };
    let options = SimOptions {
        data: args.data.clone(),
        secret_key: args.secret_key.0.clone(),
        publishable_key: args.publishable_key.0.clone(),
        publishable_key_tokenisation: !args.no_publishable_key_tokenisation,
    };
    // Asked for before the ready line, so that a signal right after it is not lost.
    let mut stopped = match super::StopSignals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: cannot wait for signals: {error}");
            return ExitCode::from(1);
        }
    };
    let sim = match stripe_sim::start(listener, options).await {
        Ok(sim) => sim,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(if matches!(error, SimError::Key(_)) { 2 } else { 1 });
        }
    };
    if let Some(url) = &args.webhook_url {
        let secrets = match webhook_secrets(&args.webhook_secret_env) {
            Ok(secrets) => secrets,
            Err(problems) => {
                eprintln!("error: {problems}");
                sim.stop().await;
                return ExitCode::from(2);
            }
        };
        if let Err(error) = sim.deliver_webhooks_to(url, &secrets).await {
            eprintln!("error: {error} (--webhook-url, and {} in the environment)", args.webhook_secret_env);
            sim.stop().await;
            return ExitCode::from(2);
        }
    }
    // A closed standard output is no reason to stop serving.
    let _ = announce(&args, &sim);
    stopped.wait().await;
    sim.stop().await;
    ExitCode::SUCCESS
}

/// From the environment or `.env`, because the command line is shown to every user of the machine.
fn webhook_secrets(name: &str) -> Result<Vec<String>, ConfigProblems> {
    let variables = config::variables()?;
    let value = variables.get(name).map_or("", String::as_str);
    Ok(value.split(',').map(str::trim).filter(|secret| !secret.is_empty()).map(str::to_owned).collect())
}

fn announce(args: &StripeSimArgs, sim: &RunningSim) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let url = &sim.base_url;
    if args.json {
        let ready = serde_json::json!({
            "url": url, "secretKey": args.secret_key.0, "publishableKey": args.publishable_key.0,
        });
        writeln!(out, "{ready}")?;
    } else {
        writeln!(out, "SANDBOX: a simulated Stripe. No real card, no real money.")?;
        writeln!(out, "  URL              {url}")?;
        writeln!(out, "  secret key       {}", args.secret_key.0)?;
        writeln!(out, "  publishable key  {}", args.publishable_key.0)?;
        writeln!(out, "  books            {url}/_sim/books")?;
        match &args.data {
            Some(path) => writeln!(out, "  kept in          {}", path.display())?,
            None => writeln!(out, "  kept in          memory only; --data FILE keeps them")?,
        }
        if let Some(url) = &args.webhook_url {
            writeln!(out, "  events go to     {url}")?;
        }
        writeln!(out, "  a card that pays 4242 4242 4242 4242; one that is declined 4000 0000 0000 0002")?;
    }
    out.flush()
}

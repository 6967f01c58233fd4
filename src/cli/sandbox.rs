//! `prepaid402 sandbox`: gateway, demo API and simulated Stripe in one process, without an account or a network.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use uuid::Uuid;

use crate::app::{self, RunningApp, StartError};
use crate::config::{DatabaseConfig, SandboxOptions};
use crate::domain::Micros;
use crate::domain::ids::random_bytes;
use crate::http::admin::users;
use crate::sandbox::stripe_sim::{RunningSim, SimOptions};
use crate::sandbox::{SANDBOX_PUBLISHABLE_KEY, SANDBOX_SECRET_KEY, demo_api, stripe_sim};
use suggestion::{Suggestion, suggest};

mod suggestion;

/// The person who may look at the sandbox's admin pages.
const ADMIN: &str = "sandbox";

/// Try everything at once, without an account or a network.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  prepaid402 sandbox\n  prepaid402 sandbox --upstream http://127.0.0.1:3000\n  prepaid402 sandbox --config prepaid402.toml --json\n\nNothing here is real money: Stripe is simulated on --stripe-listen, and only Stripe's test cards work."
)]
pub struct SandboxArgs {
    /// Where callers connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4402")]
    pub listen: SocketAddr,
    /// Where the admin pages are
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4403")]
    pub admin_listen: SocketAddr,
    /// Where the simulated Stripe listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4404")]
    pub stripe_listen: SocketAddr,
    /// Keeps the books of the gateway and of the simulated Stripe
    #[arg(long, value_name = "DIR", default_value = "sandbox-data")]
    pub data_dir: PathBuf,
    /// Sell your own API instead of the demo API (every path at 0.01, unless --config says otherwise)
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// Take routes, top-ups and limits from this file; keys and addresses stay the sandbox's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON line with URLs, keys and the admin login when ready
    #[arg(long)]
    pub json: bool,
}

/// Everything that runs.
struct Sandbox {
    app: RunningApp,
    sim: RunningSim,
    admin_password: String,
    /// For the first try.
    suggestion: Suggestion,
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(args: SandboxArgs) -> ExitCode {
    let filter =
        std::env::var("PREPAID402_LOG__FILTER").unwrap_or_else(|_| "warn,prepaid402=info".to_owned());
    super::start_logging(&filter, false);
    crate::open_files::allow_as_many_as_possible();
    let sandbox = match start(&args).await {
        Ok(sandbox) => sandbox,
        Err(Stopped::Configuration(problems)) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
        Err(Stopped::Start(problem)) => {
            eprintln!("the sandbox does not start: {problem}");
            return ExitCode::FAILURE;
        }
    };
    // Before the ready line, so that a signal right after it is not lost.
    let signals = match super::StopSignals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("the sandbox cannot wait for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    if args.json {
        println!("{}", ready_json(&args, &sandbox));
    } else {
        print!("{}", ready_text(&args, &sandbox));
    }
    super::wait_for_signal(signals).await;
    sandbox.app.stop().await;
    sandbox.sim.stop().await;
    ExitCode::SUCCESS
}

enum Stopped {
    Configuration(String),
    Start(String),
}

fn failed(error: impl std::fmt::Display) -> Stopped {
    Stopped::Start(error.to_string())
}

fn bind(address: SocketAddr) -> Result<TcpListener, Stopped> {
    TcpListener::bind(address).map_err(|error| failed(StartError::Listen(address, error)))
}

async fn start(args: &SandboxArgs) -> Result<Sandbox, Stopped> {
    for address in [args.listen, args.admin_listen, args.stripe_listen] {
        if !address.ip().is_loopback() {
            return Err(Stopped::Configuration(format!(
                "the sandbox listens on loopback only, and {address} is not; for others to connect, run `prepaid402 serve`"
            )));
        }
    }
    app::make_private_directory(&args.data_dir).map_err(failed)?;
    // Looked at before anything is started, so that a second sandbox ends with one clear line; and port 0 becomes a port.
    if args.listen == args.admin_listen && args.listen.port() != 0 {
        return Err(Stopped::Configuration(format!(
            "--listen and --admin-listen are both {}: the admin pages need a port of their own",
            args.listen
        )));
    }
    let probes = (bind(args.listen)?, bind(args.admin_listen)?);
    let listen = probes.0.local_addr().map_err(failed)?;
    let admin_listen = probes.1.local_addr().map_err(failed)?;
    drop(probes);
    let sim_options = SimOptions {
        data: Some(args.data_dir.join("stripe-sim.db")),
        secret_key: SANDBOX_SECRET_KEY.to_owned(),
        publishable_key: SANDBOX_PUBLISHABLE_KEY.to_owned(),
        publishable_key_tokenisation: true,
    };
    let sim = stripe_sim::start(bind(args.stripe_listen)?, sim_options).await.map_err(failed)?;
    let demo_listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let demo_address = demo_listener.local_addr().map_err(failed)?;
    demo_api::start(demo_listener).await.map_err(failed)?;

    // Of this run alone, as the admin password is.
    let webhook_secret = format!("whsec_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let options = SandboxOptions {
        data_dir: args.data_dir.clone(),
        listen,
        admin_listen,
        stripe_base: sim.base_url.clone(),
        secret_key: SANDBOX_SECRET_KEY.to_owned(),
        publishable_key: SANDBOX_PUBLISHABLE_KEY.to_owned(),
        webhook_secret: webhook_secret.clone(),
        upstream: args.upstream.clone(),
        demo_upstream: format!("http://{demo_address}"),
        config_file: args.config.clone(),
    };
    let loaded =
        crate::config::sandbox(&options).map_err(|problems| Stopped::Configuration(problems.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let database = loaded.config.database.clone();
    let suggestion = suggest(&loaded.config, args.upstream.is_none() && args.config.is_none()).await;
    let app = app::start(loaded.config, None).await.map_err(failed)?;
    sim.deliver_webhooks_to(&webhook_url(&app), &[webhook_secret]).await.map_err(failed)?;
    let admin_password = admin_login(&database).await.map_err(failed)?;
    Ok(Sandbox { app, sim, admin_password, suggestion })
}

/// Where the simulated Stripe tells what becomes of charges.
fn webhook_url(app: &RunningApp) -> String {
    format!("http://{}/webhooks/stripe", app.address)
}

/// A login for this run: the password is new at every start and never stored in the clear.
async fn admin_login(database: &DatabaseConfig) -> Result<String, Box<dyn std::error::Error>> {
    let password = URL_SAFE_NO_PAD.encode(random_bytes::<15>());
    let mut connection = crate::db::connect(database).await?;
    let exists = users::list_users(&mut connection).await?.iter().any(|user| user.name == ADMIN);
    if exists {
        users::set_password(&mut connection, ADMIN, &password).await?;
    } else {
        users::create_user(&mut connection, ADMIN, &password).await?;
    }
    Ok(password)
}

/// How this program was called, so that the printed commands work in another terminal and another directory.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from);
    if let Some(name) = called.filter(|name| name.components().count() == 1 && !name.starts_with(".")) {
        return quoted(&name);
    }
    quoted(&std::env::current_exe().unwrap_or_else(|_| PathBuf::from("prepaid402")))
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    if path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)) {
        path
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

fn ready_json(args: &SandboxArgs, sandbox: &Sandbox) -> serde_json::Value {
    json!({
        "sandbox": true,
        "url": format!("http://{}", sandbox.app.address),
        "adminUrl": format!("http://{}", sandbox.app.admin_address),
        "adminUser": ADMIN,
        "adminPassword": sandbox.admin_password,
        "stripeBase": sandbox.sim.base_url,
        "webhookUrl": webhook_url(&sandbox.app),
        "publishableKey": SANDBOX_PUBLISHABLE_KEY,
        "secretKey": SANDBOX_SECRET_KEY,
        "dataDir": args.data_dir.display().to_string(),
        "pid": std::process::id(),
    })
}

fn ready_text(args: &SandboxArgs, sandbox: &Sandbox) -> String {
    let (url, stripe) = (format!("http://{}", sandbox.app.address), &sandbox.sim.base_url);
    let Suggestion { path, price, is_open } = &sandbox.suggestion;
    let max_price = match Micros::parse_major(super::get::DEFAULT_MAX_PRICE) {
        Ok(most) if *price <= most => String::new(),
        _ => format!(" --max-price {}", price.to_major_string()),
    };
    let fill_in = if *is_open { format!("\n\n{path} stands for a path of your API.") } else { String::new() };
    let program = program();
    let data_dir = std::path::absolute(&args.data_dir).unwrap_or_else(|_| args.data_dir.clone());
    // Its own wallet: play money stays apart from the wallet in the home directory, and goes when the data goes.
    let wallet = quoted(&data_dir.join("wallet.json"));
    format!(
        "SANDBOX: nothing here is real money.\n\
         \n\
         1. Ask without paying. The answer is 402 with the price:\n\
         \n\
         curl -i {url}{path}{fill_in}\n\
         \n\
         2. Pay with Stripe's test card. Run it again, and it spends the balance:\n\
         \n\
         {program} get {url}{path} --stripe-base {stripe} --card-number 4242424242424242 --card-exp 12/34 --card-cvc 123 --wallet {wallet}{max_price}\n\
         \n\
         3. See the money, and check the books:\n\
         \n\
         http://{admin}/admin   user: {ADMIN}   password: {password}\n\
         {program} verify --data-dir {data}\n\
         \n\
         The simulated Stripe is at {stripe}; its own books: {stripe}/_sim/books\n\
         Everything is kept in {data}; delete it to start anew. Ctrl-C stops.\n",
        admin = sandbox.app.admin_address,
        password = sandbox.admin_password,
        data = quoted(&data_dir),
    )
}

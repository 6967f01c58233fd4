//! `prepaid402 bench`: what paying costs, as ratios of rates on the same server.

mod children;
pub mod embedded;
mod fsync;
mod histogram;
mod load;
mod purse;
mod report;
mod response;
mod rounds;
mod servers;
mod target;
mod upstream;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::agent::tokenise::StripeBase;
use crate::config::Secret;
use crate::domain::ids::random_bytes;

use histogram::Histogram;
use report::{Report, ServerReport};
use rounds::{Driven, drive};
use servers::{ServerKind, Stage};
use target::Base;

/// Wrong usage.
const EXIT_USAGE: u8 = 2;
/// The PostgreSQL database, when it is not on the command line, where other programs can read it.
const POSTGRES_VARIABLE: &str = "PREPAID402_BENCH_POSTGRES";

const AFTER_HELP: &str = "\
Examples:
  prepaid402 bench
  prepaid402 bench --connections 256 --seconds 20 --data-dir /var/lib/prepaid402 --json
  prepaid402 bench --postgres postgres://me@127.0.0.1/empty_database
  prepaid402 bench --url http://127.0.0.1:4402 --free /api/health --paid /api/weather --stripe-base http://127.0.0.1:4404

Without --url it starts everything itself as programs of its own: a simulated Stripe, an API with one fixed answer and the
gateway in front of it (proxied), then the same answer from an application with the paywall inside (embedded), in a temporary
folder in --data-dir that it removes afterwards. With --url it drives a server that runs already (here: `prepaid402 sandbox`),
and buys wallets there with Stripe's test cards. Test keys only.

Each phase is a closed loop: every connection asks again as soon as it is answered. `free` asks for what costs nothing,
`unpaid` for the price alone, and `paid` spends from wallets, durably. After their warm-ups the phases are measured in rounds:
each has half a second (more if the server is slow), in changing order, until all have their --seconds. A machine that becomes
slower or faster meanwhile does so for all three. A phase in which anything else came than the expected status gives no rate.

The ratios are those of the rates over all rounds; beside them are the median, the lowest and the highest round. Where these
are far apart, measure longer, or on a quieter machine.

Absolute figures depend on the machine and its disk, and the client shares its cores with the server: compare the ratios.

Exit codes: 0 it worked; 1 it did not, or a phase has no rate; 2 wrong usage.";

/// Measure a server: paid, unpaid and free requests a second as ratios, latencies, and the disk's fsync time.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct BenchArgs {
    /// Drive a server that runs already, of this machine, such as http://127.0.0.1:4402
    #[arg(long, value_name = "URL", requires_all = ["paid", "free"], conflicts_with = "postgres")]
    pub url: Option<String>,
    /// A path of that server with a price
    #[arg(long, value_name = "PATH", requires = "url")]
    pub paid: Option<String>,
    /// A path of that server that costs nothing
    #[arg(long, value_name = "PATH", requires = "url")]
    pub free: Option<String>,
    /// The simulated Stripe of that server [default: Stripe itself]
    #[arg(long, value_name = "URL", requires = "url")]
    pub stripe_base: Option<String>,
    /// Allow --url to be another machine: you run that server and may put it out of service
    #[arg(long, requires = "url")]
    pub i_run_this_server: bool,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Measured seconds of each phase, in slices that alternate with those of the others
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=300))]
    pub seconds: u16,
    /// Seconds of load before that, in each phase (0.2 at least)
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=60))]
    pub warm_up: u16,
    /// Wallets that the paid requests are spread over
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub wallets: u16,
    /// Where fsync is measured and the temporary folder is made: on the disk that matters
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub data_dir: PathBuf,
    /// Measure on this empty PostgreSQL database, too, which keeps what is written [or PREPAID402_BENCH_POSTGRES]
    #[arg(long, value_name = "URL")]
    pub postgres: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum Problem {
    /// Something else must be asked for.
    #[error("{0}")]
    Usage(String),
    /// It did not work.
    #[error("{0}")]
    Failed(String),
}

/// A name that nothing else in a folder has.
fn random_name() -> String {
    format!("prepaid402-bench-{}", URL_SAFE_NO_PAD.encode(random_bytes::<9>()))
}

/// Runs the command. A signal ends it as an error does: programs and files that it made are gone afterwards.
pub async fn run(args: BenchArgs) -> ExitCode {
    let done = match super::StopSignals::listen() {
        Ok(signals) => tokio::select! {
            done = measure(&args) => done,
            () = super::wait_for_signal(signals) => Err(Problem::Failed("stopped by a signal".to_owned())),
        },
        Err(error) => Err(Problem::Failed(format!("signals cannot be waited for: {error}"))),
    };
    match done {
        Ok(report) => {
            if args.json {
                println!("{}", report.json());
            } else {
                print!("{}", report.text());
            }
            if report.worked() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            eprintln!("{problem}");
            match problem {
                Problem::Usage(_) => ExitCode::from(EXIT_USAGE),
                Problem::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

async fn measure(args: &BenchArgs) -> Result<Report, Problem> {
    let settings = Settings::from(args);
    if !args.data_dir.is_dir() {
        let folder = args.data_dir.display();
        return Err(Problem::Usage(format!("--data-dir {folder} is not a folder that exists")));
    }
    let servers = match &args.url {
        Some(url) => vec![drive_running(args, url, &settings).await?],
        None => drive_own(args, &settings).await?,
    };
    settings.say("fsync");
    Ok(Report {
        connections: settings.connections,
        window: settings.window,
        warm_up: settings.warm_up,
        folder: args.data_dir.clone(),
        fsync: fsync_time(&args.data_dir).await?,
        servers,
    })
}

/// After the load, when nothing else writes.
async fn fsync_time(folder: &Path) -> Result<Histogram, Problem> {
    let own = folder.to_owned();
    let measured = tokio::task::spawn_blocking(move || fsync::measure(&own)).await;
    let failed =
        |why: String| Problem::Failed(format!("fsync in {} cannot be measured: {why}", folder.display()));
    measured.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}

/// A server that somebody else started.
async fn drive_running(args: &BenchArgs, url: &str, settings: &Settings) -> Result<ServerReport, Problem> {
    let path = |flag, path: &Option<String>| {
        let path = path.clone().unwrap_or_default();
        target::check_path(flag, &path).map(|()| path)
    };
    let (free, paid) = (path("--free", &args.free)?, path("--paid", &args.paid)?);
    let stripe = stripe(args.stripe_base.as_deref())?;
    let base = Base::find(url, args.i_run_this_server).await?;
    drive(Driven { name: "running server", base: &base, free: &free, paid: &paid, stripe }, settings).await
}

/// Servers of our own, one after the other.
async fn drive_own(args: &BenchArgs, settings: &Settings) -> Result<Vec<ServerReport>, Problem> {
    let variable = || std::env::var(POSTGRES_VARIABLE).ok().filter(|url| !url.trim().is_empty());
    let postgres = args.postgres.clone().or_else(variable).map(Secret::new);
    let stage = Stage::open(&args.data_dir).await?;
    let mut kinds = Vec::from(ServerKind::on(None));
    if let Some(url) = &postgres {
        // Before anything is measured: a database that cannot be used should not cost minutes.
        servers::prepare_database(&stage, url).await?;
        kinds.extend(ServerKind::on(Some(url)));
    }
    let mut reports = Vec::new();
    for kind in kinds {
        let server = kind.start(&stage).await?;
        let base = Base::find(&server.base_url, false).await?;
        let stripe = stripe(Some(&stage.stripe_base))?;
        let driven =
            Driven { name: kind.name(), base: &base, free: server.free_path, paid: server.paid_path, stripe };
        let mut report = drive(driven, settings).await?;
        report.books = Some(server.verify().await?);
        reports.push(report);
    }
    Ok(reports)
}

fn stripe(base: Option<&str>) -> Result<StripeBase, Problem> {
    StripeBase::new(base, target::PATIENCE).map_err(|error| Problem::Usage(error.to_string()))
}

/// How hard and how long.
#[derive(Debug, Clone, Copy)]
struct Settings {
    connections: usize,
    warm_up: Duration,
    window: Duration,
    wallets: usize,
    quiet: bool,
}

impl From<&BenchArgs> for Settings {
    fn from(args: &BenchArgs) -> Self {
        Self {
            connections: usize::from(args.connections),
            warm_up: Duration::from_secs(args.warm_up.into()),
            window: Duration::from_secs(args.seconds.into()),
            wallets: usize::from(args.wallets),
            quiet: args.json,
        }
    }
}

impl Settings {
    /// Tells what is going on, where it does not disturb the report.
    fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("measuring: {what}");
        }
    }
}

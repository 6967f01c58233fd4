//! Servers that the bench starts itself, one kind after the other, each with new books.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::time::{Instant, sleep, timeout};

use super::Problem;
use super::children::{Call, Folder, Servant};
use super::target::client;
use super::upstream::{self, Upstream};
use crate::agent::http::{Http, Outgoing, Target};
use crate::config::Secret;
use crate::sandbox::{SANDBOX_PUBLISHABLE_KEY, SANDBOX_SECRET_KEY};

/// Names the database of a gateway, over its configuration file.
const DATABASE_URL: &str = "PREPAID402_DATABASE_URL";
/// How long a program may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often a gateway is started anew because its port was taken meanwhile.
const ATTEMPTS: u32 = 5;

pub(super) const FREE_PATH: &str = "/free";
pub(super) const PAID_PATH: &str = "/paid";

/// Where the paywall is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// In front of the API.
    Proxied,
    /// Inside of it, as middleware.
    Embedded,
}

/// A kind of server to measure.
#[derive(Debug)]
pub(super) struct ServerKind {
    pub(super) shape: Shape,
    /// Its books are in this PostgreSQL database; otherwise in SQLite.
    pub(super) postgres: Option<Secret>,
}

/// A server that runs. It ends when this value goes.
#[derive(Debug)]
pub(super) struct Started {
    /// Where it is.
    pub(super) base_url: String,
    /// A path that costs nothing.
    pub(super) free_path: &'static str,
    /// A path with a price.
    pub(super) paid_path: &'static str,
    /// The call that recomputes its balances.
    verify: Call,
    _server: Servant,
}

/// What all servers of a run share. The fields end in this order: programs before the folder that they work in.
#[derive(Debug)]
pub(super) struct Stage {
    upstream: Upstream,
    /// Where cards are tokenised and charged.
    pub(super) stripe_base: String,
    _stripe: Servant,
    /// A closed pipe would be an error of the simulated Stripe's.
    _stripe_says: BufReader<ChildStdout>,
    folder: Folder,
}

impl Stage {
    /// Makes a temporary folder, and starts the API that is sold and the simulated Stripe.
    pub(super) async fn open(inside: &Path) -> Result<Self, Problem> {
        let folder = Folder::new(inside).map_err(|error| {
            Problem::Failed(format!("no folder can be made in {}: {error}", inside.display()))
        })?;
        let upstream = upstream::start().await;
        let upstream =
            upstream.map_err(|error| Problem::Failed(format!("the upstream cannot listen: {error}")))?;
        let call = Call::new(folder.path(), &["stripe-sim", "--listen", "127.0.0.1:0", "--json"]);
        let mut stripe = call.start()?;
        let (stripe_base, says) = stripe_address(&mut stripe).await?;
        Ok(Self { upstream, stripe_base, _stripe: stripe, _stripe_says: says, folder })
    }
}

/// Waits for the simulated Stripe's ready line.
async fn stripe_address(stripe: &mut Servant) -> Result<(String, BufReader<ChildStdout>), Problem> {
    let silent =
        |stripe: &Servant| Problem::Failed(format!("the simulated Stripe is not ready; {}", stripe.said()));
    let out = stripe.child.stdout.take().ok_or_else(|| silent(stripe))?;
    let mut says = BufReader::new(out);
    let mut line = String::new();
    let read = timeout(PATIENCE, says.read_line(&mut line)).await;
    read.map_err(|_| silent(stripe))?.map_err(|_| silent(stripe))?;
    let ready: Value = serde_json::from_str(&line).map_err(|_| silent(stripe))?;
    let url = ready["url"].as_str().ok_or_else(|| silent(stripe))?;
    Ok((url.to_owned(), says))
}

impl ServerKind {
    /// Both shapes, on one database.
    pub(super) fn on(postgres: Option<&Secret>) -> [Self; 2] {
        [Shape::Proxied, Shape::Embedded].map(|shape| Self { shape, postgres: postgres.cloned() })
    }

    /// What the report calls it.
    pub(super) fn name(&self) -> &'static str {
        match (self.shape, self.postgres.is_some()) {
            (Shape::Proxied, false) => "proxied, sqlite",
            (Shape::Proxied, true) => "proxied, postgres",
            (Shape::Embedded, false) => "embedded, sqlite",
            (Shape::Embedded, true) => "embedded, postgres",
        }
    }

    /// Starts it and waits until it is ready.
    pub(super) async fn start(&self, stage: &Stage) -> Result<Started, Problem> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.try_start(stage).await? {
                Ok(started) => return Ok(started),
                // Somebody took the port between our looking and its listening.
                Err(why) if why.contains("already listens") && attempt < ATTEMPTS => {}
                Err(why) => {
                    return Err(Problem::Failed(format!(
                        "the server ({}) does not start; {why}",
                        self.name()
                    )));
                }
            }
        }
    }

    async fn try_start(&self, stage: &Stage) -> Result<Result<Started, String>, Problem> {
        let (listen, admin) = free_addresses()?;
        let name = self.name().replace(", ", "-");
        let file = format!("{name}.toml");
        // One database, one key secret; SQLite's file is another one for each server.
        let data = if self.postgres.is_some() { "data-postgres".to_owned() } else { format!("data-{name}") };
        let text = configuration(stage, self.shape, &data, listen, admin);
        std::fs::write(stage.folder.path().join(&file), text)
            .map_err(|error| Problem::Failed(format!("the configuration cannot be written: {error}")))?;
        let address = listen.to_string();
        let arguments = match self.shape {
            Shape::Proxied => vec!["serve", "--config", &file],
            Shape::Embedded => vec!["bench-embedded", "--config", &file, "--listen", &address],
        };
        let on_database = |call: Call| match &self.postgres {
            Some(url) => call.with(DATABASE_URL, url.clone()),
            None => call,
        };
        let secret = Secret::new(SANDBOX_SECRET_KEY.to_owned());
        let serve = Call::new(stage.folder.path(), &arguments).with("STRIPE_SECRET_KEY", secret);
        let mut server = on_database(serve).start()?;
        if let Err(why) = wait_until_ready(&mut server, admin).await {
            return Ok(Err(why));
        }
        let verify = match &self.postgres {
            Some(_) => on_database(Call::new(stage.folder.path(), &["verify"])),
            None => Call::new(stage.folder.path(), &["verify", "--data-dir", &data]),
        };
        Ok(Ok(Started {
            base_url: format!("http://{listen}"),
            free_path: FREE_PATH,
            paid_path: PAID_PATH,
            verify,
            _server: server,
        }))
    }
}

impl Started {
    /// Recomputes every balance while the server runs: whether the books are right, or what was found.
    pub(super) async fn verify(&self) -> Result<Result<(), String>, Problem> {
        let ran = self.verify.run().await?;
        Ok(if ran.worked { Ok(()) } else { Err(ran.said) })
    }
}

/// Makes our tables in a PostgreSQL database, and refuses one that has them: somebody's money may be in it.
pub(super) async fn prepare_database(stage: &Stage, url: &Secret) -> Result<(), Problem> {
    let call = |arguments| Call::new(stage.folder.path(), arguments).with(DATABASE_URL, url.clone());
    // A report means that there are books to report about, right or wrong.
    if report_of(&call(&["verify", "--json"]).run().await?.out).is_some() {
        return Err(Problem::Failed(
            "the PostgreSQL database already has tables of prepaid402, and the bench would write test wallets into them; give it an empty database, or drive your own test server with --url"
                .to_owned(),
        ));
    }
    let migrated = call(&["migrate"]).run().await?;
    if !migrated.worked {
        return Err(Problem::Failed(format!(
            "`prepaid402 migrate` could not prepare the PostgreSQL database, so nothing was measured: {}",
            migrated.said
        )));
    }
    // Looked at again, because the first look is only worth something if `verify` can see this database.
    let report = report_of(&call(&["verify", "--json"]).run().await?.out).unwrap_or_default();
    if report["entries"] == 0 && report["clients"] == 0 {
        return Ok(());
    }
    Err(Problem::Failed(
        "after `prepaid402 migrate`, `prepaid402 verify` does not find new and empty books in the PostgreSQL database, so nothing was measured"
            .to_owned(),
    ))
}

/// What `verify --json` reports; `None` when it found nothing to report about.
fn report_of(out: &str) -> Option<Value> {
    serde_json::from_str(out).ok().filter(|report: &Value| report["clean"].is_boolean())
}

/// Two addresses of this machine that are free at this moment.
fn free_addresses() -> Result<(SocketAddr, SocketAddr), Problem> {
    let none = |error: std::io::Error| Problem::Failed(format!("there is no free port: {error}"));
    // Both held at once, so that they differ.
    let first = TcpListener::bind(("127.0.0.1", 0)).map_err(none)?;
    let second = TcpListener::bind(("127.0.0.1", 0)).map_err(none)?;
    Ok((first.local_addr().map_err(none)?, second.local_addr().map_err(none)?))
}

/// Prices and packs are such that no wallet runs dry in the middle of a phase. Nothing in it needs escaping.
fn configuration(stage: &Stage, shape: Shape, data: &str, listen: SocketAddr, admin: SocketAddr) -> String {
    let (stripe, upstream) = (&stage.stripe_base, stage.upstream.address);
    let sold = match shape {
        Shape::Embedded => String::new(),
        Shape::Proxied => format!(
            r#"
[upstream]
url = "http://{upstream}"

[[routes]]
path = "{FREE_PATH}"
free = true

[[routes]]
path = "{PAID_PATH}"
price = "0.01"
"#
        ),
    };
    format!(
        r#"listen = "{listen}"
admin_listen = "{admin}"
public_url = "http://{listen}"
data_dir = "{data}"

[stripe]
publishable_key = "{SANDBOX_PUBLISHABLE_KEY}"
api_base = "{stripe}"

[top_up]
maximum = "500000.00"
max_balance = "500000.00"

[shield]
network_attempts_an_hour = 1000
network_cards_a_day = 1000

[log]
filter = "warn"
{sold}"#
    )
}

/// Asks the server's admin listener until it says that it is ready; otherwise why it is not.
async fn wait_until_ready(server: &mut Servant, admin: SocketAddr) -> Result<(), String> {
    let http = client();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(why) = server.ended() {
            return Err(why);
        }
        if is_ready(&http, admin).await {
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
    Err(format!("it was not ready in time; {}", server.said()))
}

async fn is_ready(http: &Http, admin: SocketAddr) -> bool {
    let Ok(target) = Target::parse(&format!("http://{admin}/readyz"), false) else { return false };
    let outgoing =
        Outgoing { target, method: Method::GET, headers: HeaderMap::new(), body: bytes::Bytes::new() };
    http.send(&outgoing, None).await.is_ok_and(|answer| answer.status == StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_about_books_is_told_from_its_absence() {
        for (out, expected) in [
            ("{\"clean\":true,\"entries\":0,\"clients\":0}\n", true),
            ("{\"clean\":false,\"entries\":7,\"findings\":[\"x\"]}\n", true),
            ("", false),
            ("{\"error\":\"no database\"}", false),
            ("the books are right", false),
        ] {
            assert_eq!(report_of(out).is_some(), expected, "{out}");
        }
    }
}

//! The real program as a child process, in a clean environment and a directory of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{Pay, World, free_listener};
use crate::support::http::{Answer, Client};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_prepaid402");

/// Generous: no test depends on it, but a hang must end.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a finished program left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// The program in `home`, with nothing of this process's environment but `PATH`.
pub fn program(home: &Path, args: &[&str]) -> Command {
    let mut command = clean(home, PROGRAM);
    command.args(args);
    command
}

/// Any command in `home`, in the same clean environment.
pub fn clean(home: &Path, name: &str) -> Command {
    let mut command = Command::new(name);
    command.env_clear().env("HOME", home).current_dir(home);
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub async fn run(home: &Path, args: &[&str]) -> Ran {
    finish(program(home, args), None).await
}

/// Runs to the end, with `input` on standard input.
pub async fn finish(mut command: Command, input: Option<&str>) -> Ran {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that refuses its arguments does not read.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A program that runs on, such as a server.
pub struct Running {
    child: Child,
    /// Standard output up to the line that says it is ready.
    pub out: String,
    err: Arc<Mutex<String>>,
}

/// A program that ended before it was ready.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub err: String,
}

impl Running {
    /// Waits for a line on standard output that contains `ready`.
    pub async fn start(mut command: Command, ready: &str) -> Result<Self, Ended> {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let stderr = child.stderr.take().unwrap();
        let err = Arc::new(Mutex::new(String::new()));
        let collecting = Arc::clone(&err);
        let collector = tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr);
            let mut line = String::new();
            while let Ok(1..) = stderr.read_line(&mut line).await {
                collecting.lock().unwrap().push_str(&std::mem::take(&mut line));
            }
        });
        let mut out = String::new();
        loop {
            let from = out.len();
            let read = tokio::time::timeout(PATIENCE, lines.read_line(&mut out)).await.unwrap().unwrap();
            if read == 0 {
                let code = child.wait().await.unwrap().code().unwrap_or(-1);
                collector.await.unwrap();
                return Err(Ended { code, err: err.lock().unwrap().clone() });
            }
            if out[from..].contains(ready) {
                break;
            }
        }
        // Read on, so that the program never waits for us.
        tokio::spawn(async move {
            let mut rest = Vec::new();
            let _ = lines.read_to_end(&mut rest).await;
        });
        Ok(Self { child, out, err })
    }

    /// A program of which standard error tells how far it is; see [`Self::says`].
    pub fn watched(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let err = Arc::new(Mutex::new(String::new()));
        let collecting = Arc::clone(&err);
        tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr);
            let mut line = String::new();
            while let Ok(1..) = stderr.read_line(&mut line).await {
                collecting.lock().unwrap().push_str(&std::mem::take(&mut line));
            }
        });
        Self { child, out: String::new(), err }
    }

    /// Waits until standard error contains `text`.
    pub async fn says(&self, text: &str) {
        until(&format!("standard error says {text:?}"), async || self.err().contains(text)).await;
    }

    pub fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends a signal by its name, such as `HUP`.
    pub async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().await.unwrap();
        assert!(sent.success());
    }

    /// SIGTERM, and the exit code.
    pub async fn terminate(mut self) -> i32 {
        self.signal("TERM").await;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        status.code().unwrap_or(-1)
    }
}

/// Looks again until it is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// An address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    free_listener().local_addr().unwrap()
}

/// `prepaid402 sandbox`, with its ready line if it was asked for JSON.
pub struct SandboxProgram {
    pub program: Running,
    pub ready: Value,
    pub addresses: [SocketAddr; 3],
    pub client: Client,
}

/// The arguments that every sandbox of a test has.
pub fn sandbox_args(addresses: [SocketAddr; 3], data: &str) -> Vec<String> {
    let [listen, admin, stripe] = addresses.map(|address| address.to_string());
    ["sandbox", "--listen", &listen, "--admin-listen", &admin, "--stripe-listen", &stripe, "--data-dir", data]
        .map(str::to_owned)
        .to_vec()
}

impl SandboxProgram {
    pub async fn start(home: &Path, extra: &[&str]) -> Self {
        Self::with(home, extra, |_| {}).await
    }

    pub async fn with(home: &Path, extra: &[&str], change: impl Fn(&mut Command)) -> Self {
        // Another test can take a free port between our looking and the program's listening; then look again.
        for _ in 0..5 {
            let listeners = [free_listener(), free_listener(), free_listener()];
            let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
            drop(listeners);
            match Self::at(addresses, home, extra, &change).await {
                Ok(sandbox) => return sandbox,
                Err(ended) if ended.code == 1 && ended.err.contains("already listens") => {}
                Err(ended) => panic!("{ended:?}"),
            }
        }
        panic!("no free ports");
    }

    pub async fn at(
        addresses: [SocketAddr; 3],
        home: &Path,
        extra: &[&str],
        change: impl Fn(&mut Command),
    ) -> Result<Self, Ended> {
        let mut command = program(home, &[]);
        command.args(sandbox_args(addresses, "data")).args(extra);
        change(&mut command);
        let json = extra.contains(&"--json");
        let running = Running::start(command, if json { "}" } else { "Ctrl-C" }).await?;
        let ready = if json { serde_json::from_str(&running.out).unwrap() } else { Value::Null };
        Ok(Self { program: running, ready, addresses, client: Client::new() })
    }

    pub fn text(&self, field: &str) -> String {
        self.ready[field].as_str().unwrap_or_else(|| panic!("{field} in {}", self.ready)).to_owned()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.client.get(&format!("http://{}{path}", self.addresses[0])).await
    }

    pub async fn pay(&self, path: &str, pay: &Pay) -> Answer {
        let url = format!("http://{}{path}", self.addresses[0]);
        self.client.send("GET", &url, &[("payment", &pay.header())], None).await
    }

    /// A card token made with the key of an offer, directly at the simulated Stripe.
    pub async fn tokenise(&self, publishable_key: &str) -> String {
        let form =
            "type=card&card[number]=4242424242424242&card[exp_month]=12&card[exp_year]=2034&card[cvc]=123";
        let url = format!("http://{}/v1/payment_methods", self.addresses[2]);
        let bearer = format!("Bearer {publishable_key}");
        let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
        let answer = self.client.send("POST", &url, &[("authorization", &bearer)], body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn books(&self) -> Value {
        self.client.get(&format!("http://{}/_sim/books", self.addresses[2])).await.json()
    }
}

/// `prepaid402 serve` with the world's configuration, so that it can be killed.
pub async fn serve(world: &World, listen: SocketAddr, admin: SocketAddr) -> Running {
    let file = world.folder.path().join("serve.toml");
    std::fs::write(&file, world.toml(listen, admin)).unwrap();
    let mut command = program(world.folder.path(), &["serve", "--config", file.to_str().unwrap()]);
    command.envs(world.environment());
    let server = Running::watched(command);
    server.says("selling on").await;
    server
}

/// `false`, said plainly, when a program that a test needs is not there; under CI it must be.
pub async fn is_installed(name: &str) -> bool {
    let found =
        Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    let found = found.is_ok_and(|status| status.success());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{name} is not installed");
        super::postgres::skipped(&format!("{name} is not installed"));
    }
    found
}

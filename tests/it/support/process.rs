//! The real binary as a child process, so that it can be killed.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::World;
use super::dice::Dice;
use super::http::Client;
use super::program::PROGRAM;

/// Where a gateway listens, the same after every restart.
#[derive(Debug, Clone)]
pub struct Seat {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub config: PathBuf,
    pub log: PathBuf,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
}

/// A `prepaid402 serve` that runs.
#[derive(Debug)]
pub struct Process {
    pub url: String,
    pub admin_url: String,
    child: Child,
    log: PathBuf,
}

/// A port that no outgoing connection of this machine takes while its server is down.
pub fn lasting_port(dice: &mut Dice) -> SocketAddr {
    loop {
        let port = u16::try_from(12_000 + dice.below(18_000)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

impl Seat {
    pub fn new(world: &World, dice: &mut Dice) -> Self {
        let listen = lasting_port(dice);
        let admin = loop {
            let address = lasting_port(dice);
            if address != listen {
                break address;
            }
        };
        let config = world.folder.path().join(format!("{}.toml", listen.port()));
        std::fs::write(&config, world.toml(listen, admin)).unwrap();
        let log = world.folder.path().join(format!("{}.log", listen.port()));
        Self { listen, admin, config, log, environment: world.environment() }
    }

    /// Starts the binary, without waiting for anything.
    pub fn spawn(&self) -> Process {
        self.spawn_by(Command::new(PROGRAM))
    }

    /// The same, as a process that a limit on the size of its files does not kill: it only meets an error.
    pub fn spawn_limited(&self) -> Process {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", PROGRAM]);
        self.spawn_by(shell)
    }

    fn spawn_by(&self, mut program: Command) -> Process {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let child = program
            .args(["serve", "--config"])
            .arg(&self.config)
            .current_dir(self.config.parent().unwrap())
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Process {
            url: format!("http://{}", self.listen),
            admin_url: format!("http://{}", self.admin),
            child,
            log: self.log.clone(),
        }
    }

    /// Starts the binary and waits until it is ready.
    pub async fn start(&self) -> Process {
        let mut process = self.spawn();
        process.ready().await;
        process
    }
}

impl Process {
    pub async fn ready(&mut self) {
        let client = Client::new();
        let begun = Instant::now();
        loop {
            let asked = client.try_send("GET", &format!("{}/readyz", self.admin_url), &[], None).await;
            if asked.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the gateway ended with {status}:\n{}", self.log());
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "never ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// What it wrote to standard error, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to stop, as a service manager does.
    pub async fn terminate(&self) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]).status().await.unwrap();
        assert!(sent.success());
    }

    pub async fn wait(mut self) -> ExitStatus {
        tokio::time::timeout(Duration::from_secs(90), self.child.wait()).await.unwrap().unwrap()
    }
}

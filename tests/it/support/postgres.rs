//! A private PostgreSQL server for tests, from the binaries that this machine has. Shared with the library's own tests.
//!
//! Tests run on SQLite. One test of each test program runs the others once more, in a process of their own, with
//! `PREPAID402_TEST_POSTGRES` naming a server: then every database that a test asks for is a new one on that server.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::OnceCell;

/// Names the server that tests use instead of SQLite.
pub const VARIABLE: &str = "PREPAID402_TEST_POSTGRES";

/// The server that tests use, if it is not SQLite.
pub fn server() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// A new, empty database on the server that tests use: its URL.
pub async fn new_database(server: &str) -> String {
    copy_of(server, "template1").await
}

/// The same with everything that `migrate` makes in it, which is done once for each server: the rest are copies.
pub async fn new_migrated_database(server: &str, migrate: impl AsyncFnOnce(String)) -> String {
    static TEMPLATES: Mutex<BTreeMap<String, Arc<OnceCell<String>>>> = Mutex::new(BTreeMap::new());
    let cell = Arc::clone(TEMPLATES.lock().unwrap().entry(server.to_owned()).or_default());
    let template = cell
        .get_or_init(async || {
            let url = new_database(server).await;
            migrate(url.clone()).await;
            let name = url.rsplit('/').next().unwrap().to_owned();
            // Nobody may be connected to what is copied, not even the server's own cleaning.
            on(server, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
            name
        })
        .await;
    copy_of(server, template).await
}

/// A new database like this one, to which nobody is connected: its URL.
pub async fn copy_of(server: &str, template: &str) -> String {
    let name = new_name();
    // The other way of copying makes everybody wait for a checkpoint.
    on(server, format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY WAL_LOG")).await;
    format!("{server}/{name}")
}

fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a statement on the server, outside the databases of tests.
pub async fn on(server: &str, sql: String) {
    let mut connection = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// A server of this test's own.
#[derive(Debug)]
pub struct Cluster {
    binaries: PathBuf,
    folder: Option<tempfile::TempDir>,
    port: u16,
    user: Option<(u32, u32)>,
}

/// The folder of the newest server's programs.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        version.and_then(|version| version.parse::<u32>().ok()).unwrap_or(0)
    });
    found.pop()
}

/// The server refuses to run as root; then its files belong to the user that its package has made, or to nobody.
fn user() -> Option<(u32, u32)> {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !root {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |name: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (found, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
            (found == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
        })
    };
    of("postgres").or_else(|| of("nobody"))
}

impl Cluster {
    /// Starts one. `None`, said plainly, when there are no programs for it; under CI there must be.
    pub fn start() -> Option<Self> {
        let Some(binaries) = binaries() else {
            assert!(std::env::var_os("CI").is_none(), "PostgreSQL is not installed");
            skipped("PostgreSQL is not installed (its programs are looked for in /usr/lib/postgresql/*/bin)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let user = user();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Self { binaries, folder: Some(folder), port, user };
        let data = cluster.data();
        cluster.run(
            "initdb",
            &["-D", &data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        );
        // Durable as in production, apart from flushing to the disk of a machine that does not crash during a test.
        cluster.start_server();
        Some(cluster)
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    fn data(&self) -> String {
        self.folder().join("data").to_str().unwrap().to_owned()
    }

    /// `postgres://…` without a database's name.
    pub fn url(&self) -> String {
        format!("postgres://tester@127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.current_dir(self.folder()).env_clear().env("LC_ALL", "C");
        if let Some((uid, gid)) = self.user {
            std::os::unix::process::CommandExt::uid(&mut command, uid);
            std::os::unix::process::CommandExt::gid(&mut command, gid);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let done = self.command(program).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Starts the server and waits until it answers.
    pub fn start_server(&self) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 -c shared_buffers=64MB \
             -c max_wal_size=1GB",
            self.port
        );
        let log = self.folder().join("log").to_str().unwrap().to_owned();
        let began = Instant::now();
        while !self
            .command("pg_ctl")
            .args(["-D", &self.data(), "-l", &log, "-w", "-t", "60", "-o", &options, "start"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            // After a crash, the old server's last process may still hold the port.
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(60), "the server does not start:\n{said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the server as a crash of it would: no checkpoint, every connection cut.
    pub fn crash(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stopping = ["-D", &self.data(), "-m", "immediate", "-w", "stop"].map(str::to_owned);
        let _ = self.command("pg_ctl").args(stopping).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// One of the server's own programs, such as `pg_dump`.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(binaries().unwrap().join(name));
    command.env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Says on the terminal, past the test runner's capture, that something was not tested.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Runs tests of this very program once more, on PostgreSQL, in a process of their own. `filters` are beginnings of names.
pub fn run_again_on_postgres(filters: &[&str], but: &[&str]) {
    if server().is_some() {
        // This is that process.
        return;
    }
    let Some(cluster) = Cluster::start() else { return };
    let mut command = Command::new(std::env::current_exe().unwrap());
    // The one thread that waits here makes room for two: tests mostly wait themselves, for flushes and for the network.
    command.args(filters).args(["--test-threads", "2"]).env(VARIABLE, cluster.url());
    for name in but {
        command.args(["--skip", name]);
    }
    if std::env::var_os("SOAK").is_some() {
        command.arg("--show-output");
    }
    let done = command.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "on PostgreSQL:\n{out}\n{err}");
    for seed in out.lines().filter(|line| line.contains("SEED=")) {
        let _ = writeln!(std::io::stderr(), "on PostgreSQL: {seed}");
    }
    let summary = out.lines().find(|line| line.starts_with("test result")).unwrap_or_default();
    assert!(!summary.contains(" 0 passed"), "nothing was tested on PostgreSQL: {summary}");
    let _ = writeln!(std::io::stderr(), "on PostgreSQL: {summary}");
}

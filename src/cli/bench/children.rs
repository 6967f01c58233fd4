//! Programs that the bench starts, and the folder they work in. Both are gone when the bench ends, however it ends.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::{Problem, random_name};
use crate::config::Secret;

/// How long a killed program may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a program that ends by itself may take.
const LONGEST_RUN: Duration = Duration::from_secs(300);
/// How much of what a program said is shown when it fails, in characters.
const MAX_SHOWN: usize = 600;

/// A temporary folder, private, removed with everything in it.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes one inside of a folder that exists.
    pub(super) fn new(inside: &Path) -> io::Result<Self> {
        let path = std::path::absolute(inside)?.join(random_name());
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// How this program is called as a child.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The words after its name.
    arguments: Vec<OsString>,
    /// Its working directory.
    folder: PathBuf,
    /// Settings of ours that it gets; no other one that is in our environment.
    environment: Vec<(&'static str, Secret)>,
}

impl Call {
    /// A call with these arguments.
    pub(super) fn new(folder: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(OsString::from).collect();
        Self { arguments, folder: folder.to_owned(), environment: Vec::new() }
    }

    /// The same with a variable.
    pub(super) fn with(mut self, name: &'static str, value: Secret) -> Self {
        self.environment.push((name, value));
        self
    }

    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(&self.arguments).current_dir(&self.folder).stdin(Stdio::null()).kill_on_drop(true);
        // The settings of a real gateway, which this shell may hold, must not reach the one that is measured.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("PREPAID402_") || name.starts_with("STRIPE_"))
            {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value.expose())));
        Ok(command)
    }

    fn name(&self) -> String {
        let word = self.arguments.first().map(|word| word.to_string_lossy().into_owned());
        format!("prepaid402 {}", word.unwrap_or_default())
    }

    /// What a program said, short enough to be shown, without the secrets that it was given.
    fn shown(&self, said: &str) -> String {
        let mut said = said.trim().to_owned();
        for (_, secret) in &self.environment {
            said = said.replace(secret.expose(), "…");
        }
        let length = said.chars().count();
        said.chars().skip(length.saturating_sub(MAX_SHOWN)).collect()
    }

    /// Starts a program that runs on. What it says on standard error is kept for when it fails.
    pub(super) fn start(self) -> Result<Servant, Problem> {
        let name = self.name();
        let failed = |error: io::Error| Problem::Failed(format!("{name} could not be started: {error}"));
        let said = self.folder.join(random_name());
        let mut command = self.command().map_err(failed)?;
        command.stdout(Stdio::piped()).stderr(File::create(&said).map_err(failed)?);
        Ok(Servant { child: command.spawn().map_err(failed)?, said, call: self })
    }

    /// Runs a program to its end.
    pub(super) async fn run(&self) -> Result<Ran, Problem> {
        let name = self.name();
        let failed = |why: String| Problem::Failed(format!("{name} could not be run: {why}"));
        let mut command = self.command().map_err(|error| failed(error.to_string()))?;
        let ran = tokio::time::timeout(LONGEST_RUN, command.output()).await;
        let ran = ran.map_err(|_| failed("it does not end".to_owned()))?;
        let output = ran.map_err(|error| failed(error.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // What it found wrong may be on either.
        let said = self.shown(&text(&[output.stderr, output.stdout.clone()].concat()));
        Ok(Ran { worked: output.status.success(), out: text(&output.stdout), said })
    }
}

/// What a program left behind.
#[derive(Debug)]
pub(super) struct Ran {
    /// Whether it ended with 0.
    pub(super) worked: bool,
    /// Its standard output.
    pub(super) out: String,
    /// The end of what it said on either output, to be shown.
    pub(super) said: String,
}

/// A program that runs on until it is stopped or this value goes.
#[derive(Debug)]
pub(super) struct Servant {
    /// The program. Its standard output is a pipe.
    pub(super) child: Child,
    said: PathBuf,
    call: Call,
}

impl Servant {
    /// Whether it has ended by itself; then why.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(_)) | Err(_) => Some(self.said()),
        }
    }

    /// The end of what it said on standard error.
    pub(super) fn said(&self) -> String {
        let said = std::fs::read(&self.said).unwrap_or_default();
        format!("{} said: {}", self.call.name(), self.call.shown(&String::from_utf8_lossy(&said)))
    }
}

impl Drop for Servant {
    fn drop(&mut self) {
        // Waited for, so that it writes nothing more into the folder, which goes next.
        let _ = self.child.start_kill();
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

//! The SQLite database as a file: whose it is, whether it is the one that was here before, and whether it is still there.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

use crate::files::{beside, folder, identity};

/// Why a file cannot be this process's database. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Another process owns it.
    #[error("another prepaid402 process is using {}; stop it, or choose another data directory", .0.display())]
    InUse(PathBuf),
    /// There was a database, and now there is none.
    #[error(
        "the database {} is missing or empty, but it was here before: {} {} still there. Put a backup back as {} (the README says how). \
         To begin anew on purpose, with wallets that nobody can spend any more, move what is left of it out of {} first, or choose \
         another data directory",
        .path.display(), listed(.traces), if .traces.len() == 1 { "is" } else { "are" }, .path.display(), folder(.path).display()
    )]
    Lost {
        /// Where it was.
        path: PathBuf,
        /// What is left of it.
        traces: Vec<PathBuf>,
    },
    /// SQLite keeps what is not in the file yet beside the name that it was opened by.
    #[error(
        "{} has {} names (hard links): a database that is opened by two names is destroyed; remove the others, which `find DIRECTORY \
         -samefile {}` lists, and make copies with `prepaid402 backup`",
        .0.display(), .1, .0.display()
    )]
    Linked(PathBuf, u64),
    /// It cannot be opened or made.
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, std::io::Error),
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Whether there is something in a file.
fn holds_something(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

/// What is written into the lock's file once the database has its tables.
const USED: &str =
    "This directory has held a database of prepaid402. While it is missing, nothing starts here.\n";

/// Refuses a database that is missing or empty although there was one. Before the first start nothing is left of any.
///
/// # Errors
/// [`FileError::Lost`].
pub fn refuse_lost(path: &Path, data_dir: &Path) -> Result<(), FileError> {
    if holds_something(path) {
        return Ok(());
    }
    let log = Some(beside(path, "-wal")).filter(|log| holds_something(log));
    refuse_traces(path, data_dir, log)
}

/// The same for one that is there and has no tables.
pub(super) fn refuse_without_tables(path: &Path) -> Result<(), FileError> {
    refuse_traces(path, folder(path), None)
}

fn refuse_traces(path: &Path, data_dir: &Path, log: Option<PathBuf>) -> Result<(), FileError> {
    let mut traces = vec![folder(path).join("key-secret"), path.with_extension("lock")];
    let elsewhere = data_dir.join("key-secret");
    if !traces.contains(&elsewhere) {
        traces.push(elsewhere);
    }
    traces.retain(|trace| holds_something(trace));
    traces.extend(log);
    let copies = file_name(path).map(|name| format!("{name}.before-schema-"));
    for file in std::fs::read_dir(folder(path)).into_iter().flatten().flatten() {
        let is_copy = |copies: &String| file.file_name().to_string_lossy().starts_with(copies);
        if copies.as_ref().is_some_and(is_copy) {
            traces.push(file.path());
        }
    }
    match traces.is_empty() {
        true => Ok(()),
        false => Err(FileError::Lost { path: path.to_owned(), traces }),
    }
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// A database file that belongs to this process until this is dropped, which must not be before its connections are closed: a
/// process that closes a file gives up the locks that SQLite has on it.
#[derive(Debug)]
pub struct OwnFile {
    path: PathBuf,
    identity: (u64, u64),
    lock: File,
    _file: File,
}

/// Takes a database file for this process alone, made if it is missing.
///
/// # Errors
/// [`FileError`].
pub fn own(path: &Path, data_dir: &Path) -> Result<OwnFile, FileError> {
    refuse_lost(path, data_dir)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| FileError::Io(path, error)
    };
    let beside = path.with_extension("lock");
    let mut options = File::options();
    let lock = options.create(true).truncate(false).write(true).open(&beside).map_err(failed(&beside))?;
    take(&lock, path, &beside)?;
    make_private(path).map_err(failed(path))?;
    // Before it is opened: to close it again would give up locks that this process may have on it.
    refuse_links(path, &std::fs::metadata(path).map_err(failed(path))?)?;
    let file = File::open(path).map_err(failed(path))?;
    // Whatever name it is opened by. Elsewhere this lock and SQLite's own would exclude each other.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    take(&file, path, path)?;
    let identity = identity(&file.metadata().map_err(failed(path))?);
    Ok(OwnFile { path: path.to_owned(), identity, lock, _file: file })
}

/// A lock that the operating system drops with the process.
fn take(file: &File, database: &Path, at: &Path) -> Result<(), FileError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(FileError::InUse(database.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(FileError::Io(at.to_owned(), error)),
    }
}

/// Makes the file readable by its owner alone, before SQLite would make it as the umask says. The data directory may have
/// existed before, with wider permissions; SQLite gives the files beside the database the same ones.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = File::options();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn refuse_links(path: &Path, file: &Metadata) -> Result<(), FileError> {
    match std::os::unix::fs::MetadataExt::nlink(file) {
        0 | 1 => Ok(()),
        links => Err(FileError::Linked(path.to_owned(), links)),
    }
}

#[cfg(not(unix))]
fn refuse_links(_path: &Path, _file: &Metadata) -> Result<(), FileError> {
    Ok(())
}

/// What has become of the files of a database that is open.
#[derive(Debug)]
pub(super) struct FileWatch {
    path: PathBuf,
    identity: (u64, u64),
    /// It only grows.
    longest: u64,
    /// SQLite's log, once it has been seen, and how often in a row it was not there since.
    log: Option<((u64, u64), u32)>,
}

/// A connection that is opened anew may find no other one, and begins another log: once is no alarm.
const MISSING_LOOKS: u32 = 2;

impl OwnFile {
    /// Notes that the database has its tables: should it be missing at a later start, it was lost.
    pub(crate) fn is_used(&self) {
        use std::io::Write as _;
        let is_noted = self.lock.metadata().is_ok_and(|lock| lock.len() > 0);
        if !is_noted && let Err(error) = (&self.lock).write_all(USED.as_bytes()) {
            tracing::warn!(%error, "it could not be noted that this directory holds a database");
        }
    }
}

impl FileWatch {
    pub(super) fn new(own: &OwnFile) -> Self {
        // Nobody else's while the file is open.
        Self { path: own.path.clone(), identity: own.identity, longest: 0, log: None }
    }

    /// Why the file is not what was opened, if it is not. `counts_log`: SQLite's log has to be there.
    pub(super) fn look(&mut self, counts_log: bool) -> Option<String> {
        let path = self.path.display();
        let advice = "Stop this process, and put a backup back, or the very file";
        let now = match std::fs::metadata(&self.path) {
            Ok(now) => now,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Some(format!(
                    "the database {path} was deleted or moved under the running gateway. {advice}"
                ));
            }
            // Nothing is known.
            Err(_) => return None,
        };
        if identity(&now) != self.identity {
            return Some(format!("the database {path} was replaced under the running gateway. {advice}"));
        }
        if now.len() < self.longest {
            return Some(format!("the database {path} was overwritten under the running gateway. {advice}"));
        }
        self.longest = now.len();
        let log = std::fs::metadata(beside(&self.path, "-wal")).ok().map(|log| identity(&log));
        self.log = match (log, self.log) {
            (Some(now), Some((ours, missing))) if missing >= MISSING_LOOKS && now != ours => {
                Some((ours, missing))
            }
            (Some(now), _) => Some((now, 0)),
            (None, Some((ours, missing))) if counts_log => Some((ours, missing.saturating_add(1))),
            (None, before) => before,
        };
        self.log.filter(|(_, missing)| *missing >= MISSING_LOOKS).map(|_| {
            format!(
                "{path}-wal, which holds the newest entries, was deleted under the running gateway. Stop this process in order \
                 (SIGTERM), which saves them, and start it again"
            )
        })
    }
}

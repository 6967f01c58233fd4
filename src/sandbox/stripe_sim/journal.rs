//! The file that the books are rebuilt from: one line of JSON per request that changed something.
//!
//! A line is on disk (fsync) before its request is answered. One thread writes; while it waits for the disk the next
//! lines collect, so that many requests share one fsync. A torn last line belongs to a request that nobody was answered,
//! and is cut off at the next start.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use tokio::sync::{oneshot, watch};

use super::books::{Books, Record};

/// A journal with this many records more than needed is written anew at the start.
const SLACK: usize = 1_000;

/// Why the books cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("the books {path} cannot be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another simulator has the file open.
    #[error("the books {0} are in use by another simulated Stripe")]
    InUse(PathBuf),
    /// A line is not what this program writes.
    #[error("line {line} of the books {path} is not readable: is it another file, or from a newer version?")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

/// The journal can no longer be written; nothing may be answered that depends on it.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the books can no longer be written")]
pub(super) struct JournalFailed;

/// Where the books' changes go.
#[derive(Debug)]
pub(super) struct Journal {
    /// `None` when the books live in memory only.
    lines: Mutex<Option<mpsc::Sender<Line>>>,
    enqueued: AtomicU64,
    /// The last line on disk; `None` after a failure.
    durable: watch::Receiver<Option<u64>>,
    finished: Mutex<Option<oneshot::Receiver<()>>>,
}

#[derive(Debug)]
struct Line {
    number: u64,
    text: Vec<u8>,
}

impl Journal {
    /// A journal that forgets: for books that live in memory only.
    pub(super) fn none() -> Self {
        let (_, durable) = watch::channel(Some(u64::MAX));
        Self { lines: Mutex::new(None), enqueued: AtomicU64::new(0), durable, finished: Mutex::new(None) }
    }

    /// Opens the file, rebuilds the books from it and starts the writing thread.
    pub(super) fn open(path: &Path, books: &mut Books) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { path: path.to_owned(), source };
        let mut file = open_private(path, false).map_err(failed)?;
        lock(&file, path)?;
        let replayed = replay(&mut file, path, books)?;
        let live = books.snapshot();
        if replayed == 0 || replayed > live.len().saturating_mul(2).saturating_add(SLACK) {
            file = rewrite(path, &live)?;
        }
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let (lines, receiver) = mpsc::channel();
        let (progress, durable) = watch::channel(Some(0));
        let (done, finished) = oneshot::channel();
        std::thread::Builder::new()
            .name("stripe-sim-journal".into())
            .spawn(move || {
                write_lines(file, &receiver, &progress);
                let _ = done.send(());
            })
            .map_err(failed)?;
        Ok(Self {
            lines: Mutex::new(Some(lines)),
            enqueued: AtomicU64::new(0),
            durable,
            finished: Mutex::new(Some(finished)),
        })
    }

    /// Hands the changes of one request to the writing thread, and returns what to wait for. Call it while holding the
    /// books, so that lines are in the order of the changes.
    pub(super) fn enqueue(&self, records: &[Record]) -> u64 {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(lines), false) = (lines.as_ref(), records.is_empty()) else {
            return self.enqueued.load(Ordering::Acquire);
        };
        let number = self.enqueued.load(Ordering::Acquire).saturating_add(1);
        let mut text = serde_json::to_vec(records).unwrap_or_default();
        text.push(b'\n');
        self.enqueued.store(number, Ordering::Release);
        // When the thread has ended it has said so in `durable`, and nobody is answered.
        let _ = lines.send(Line { number, text });
        number
    }

    /// Waits until that line is on disk.
    pub(super) async fn durable(&self, number: u64) -> Result<(), JournalFailed> {
        let mut progress = self.durable.clone();
        let reached = |state: &Option<u64>| state.is_none_or(|durable| durable >= number);
        match progress.wait_for(reached).await {
            Ok(state) if state.is_some() => Ok(()),
            // A memory-only journal has no sender, and its first value was enough.
            _ => Err(JournalFailed),
        }
    }

    /// Ends the writing thread and gives the file up.
    pub(super) async fn close(&self) {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(finished) = finished {
            let _ = finished.await;
        }
    }
}

fn open_private(path: &Path, truncate: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(truncate);
    // PaymentMethod ids and the account's secret are in it.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn lock(file: &File, path: &Path) -> Result<(), JournalError> {
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => JournalError::InUse(path.to_owned()),
        std::fs::TryLockError::Error(source) => JournalError::Io { path: path.to_owned(), source },
    })
}

/// Rebuilds the books, cuts a torn last line off, and returns how many records there were.
fn replay(file: &mut File, path: &Path, books: &mut Books) -> Result<usize, JournalError> {
    let failed = |source| JournalError::Io { path: path.to_owned(), source };
    let mut reader = BufReader::new(&*file);
    let (mut count, mut good, mut number) = (0, 0u64, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        number += 1;
        let records: Vec<Record> = serde_json::from_slice(&line)
            .map_err(|_| JournalError::Corrupt { path: path.to_owned(), line: number })?;
        count += records.len();
        records.into_iter().for_each(|record| books.apply(record));
        good = good.saturating_add(u64::try_from(read).unwrap_or(0));
    }
    // A file that does not even have one whole line of ours is somebody else's: it is not ours to cut.
    if number == 0 && !line.is_empty() && !line.starts_with(b"[") {
        return Err(JournalError::Corrupt { path: path.to_owned(), line: 1 });
    }
    file.set_len(good).map_err(failed)?;
    Ok(count)
}

/// Writes a journal with just these records beside the old one and puts it in its place.
fn rewrite(path: &Path, records: &[Record]) -> Result<File, JournalError> {
    let failed = |source| JournalError::Io { path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let file = open_private(&new, true).map_err(failed)?;
    lock(&file, path)?;
    let mut writer = io::BufWriter::new(&file);
    for record in records {
        serde_json::to_writer(&mut writer, &[record]).map_err(|error| failed(error.into()))?;
        writer.write_all(b"\n").map_err(failed)?;
    }
    writer.flush().map_err(failed)?;
    drop(writer);
    file.sync_all().map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)?;
    // The new name is durable once its directory is.
    #[cfg(unix)]
    {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    Ok(file)
}

fn write_lines(mut file: File, lines: &mpsc::Receiver<Line>, progress: &watch::Sender<Option<u64>>) {
    while let Ok(first) = lines.recv() {
        let mut last = first.number;
        let mut text = first.text;
        for line in lines.try_iter() {
            last = line.number;
            text.extend_from_slice(&line.text);
        }
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            tracing::error!(%error, "the simulated Stripe can no longer write its books");
            progress.send_replace(None);
            return;
        }
        progress.send_replace(Some(last));
    }
}

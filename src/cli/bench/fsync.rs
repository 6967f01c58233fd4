//! How long the disk takes to keep what it is given: the floor under every durable write.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::histogram::Histogram;
use super::random_name;

/// How often.
pub(super) const WRITES: u32 = 200;
/// How much at once, in bytes.
pub(super) const BYTES: usize = 4096;

/// Appends and syncs [`WRITES`] times in a file of its own in this folder, which is removed afterwards. Blocks.
pub(super) fn measure(folder: &Path) -> io::Result<Histogram> {
    let scratch = Scratch(folder.join(random_name()));
    let mut options = OpenOptions::new();
    options.create_new(true).append(true);
    let mut file = options.open(&scratch.0)?;
    let mut times = Histogram::default();
    for _ in 0..WRITES {
        let begun = Instant::now();
        append(&mut file)?;
        times.record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

fn append(file: &mut File) -> io::Result<()> {
    file.write_all(&[0x40; BYTES])?;
    file.sync_data()
}

/// A file that goes with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Not there when it could not be made; and nothing else can be done about it.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let times = measure(folder.path()).expect("measured");
        assert!(times.percentile(5_000) <= times.max());
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
        assert!(measure(&folder.path().join("missing")).is_err());
    }
}

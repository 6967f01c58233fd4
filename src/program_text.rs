//! The program's own texts, for tests that hold them against rules which the compiler does not know.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file of the program.
pub(crate) struct File {
    /// Below `src`, such as `ledger/core.rs`.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl File {
    /// The lines that are neither comments nor of its tests, counted from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let lines = self.text[..end].lines().enumerate().map(|(number, line)| (number + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The folder right below `src`, or the file's own name.
    fn room(&self) -> &str {
        self.name.split('/').next().unwrap().trim_end_matches(".rs")
    }

    fn is_of_tests(&self) -> bool {
        let mut parts = self.name.split('/');
        parts.any(|part| ["tests", "tests.rs", "testing.rs", "toys.rs", "program_text.rs"].contains(&part))
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.push(File { name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

fn all_files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    assert!(files.len() > 200, "{} files", files.len());
    files
}

/// The files of the program, without those of tests.
pub(crate) fn files() -> Vec<File> {
    all_files().into_iter().filter(|file| !file.is_of_tests()).collect()
}

const MAX_LINES: usize = 500;

/// Longer, and why.
const LONG: [(&str, &str); 6] = [
    ("paywall/mod.rs", "the steps of a sale, which both doors write once more; they become one"),
    ("http/gateway.rs", "the same steps at the gateway"),
    ("embed/middleware.rs", "the same steps in an application"),
    ("http/billing.rs", "half of the same steps"),
    ("paywall/refusal.rs", "a table"),
    ("pricing/route_table/tests.rs", "tables"),
];

#[test]
fn no_file_is_long_without_a_reason() {
    let mut long: BTreeSet<String> = BTreeSet::new();
    for file in all_files() {
        if file.text.lines().count() > MAX_LINES {
            long.insert(file.name);
        }
    }
    let excused: BTreeSet<String> = LONG.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(long, excused, "split it by concern, or say why not; or it is short now");
}

/// Which rooms each room knows.
fn known_rooms() -> BTreeMap<String, BTreeSet<String>> {
    let files = files();
    let rooms: BTreeSet<String> = files.iter().map(|file| file.room().to_owned()).collect();
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in &files {
        for (_, line) in file.lines() {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let word = rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap();
                if rooms.contains(word) && word != file.room() {
                    known.entry(file.room().to_owned()).or_default().insert(word.to_owned());
                }
            }
        }
    }
    assert!(known["http"].contains("paywall") && known["paywall"].contains("ledger"), "{known:?}");
    known
}

/// What a room knows knows nothing of it in turn, over however many corners.
#[test]
fn there_is_no_circle_between_folders() {
    let mut known = known_rooms();
    while let Some(lowest) = known
        .iter()
        .find(|(_, others)| others.iter().all(|other| !known.contains_key(other)))
        .map(|(room, _)| room.clone())
    {
        known.remove(&lowest);
    }
    assert!(known.is_empty(), "each of these leads back to itself: {known:#?}");
}

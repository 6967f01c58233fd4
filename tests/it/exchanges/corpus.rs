//! The files: what they say, and how what was recorded gets into them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::text::MARKS;

/// One file.
#[derive(Debug)]
pub struct Theme {
    pub name: String,
    pub path: PathBuf,
    lines: Vec<String>,
    pub setting: Setting,
    pub exchanges: Vec<Exchange>,
}

/// What stands before the first request: of a whole file, of one exchange or of one step.
#[derive(Debug, Default, Clone)]
pub struct Setting {
    /// `@word rest`
    pub directives: Vec<(String, String)>,
    /// `--- title`, and its lines.
    pub blocks: Vec<(String, Vec<String>)>,
}

/// Words that mean something before a step, and titles; whatever else stands there is a mistake.
const WORDS: [&str; 7] = [
    "door",
    "environment",
    "without-upstream",
    "without-webhooks",
    "only-these-routes",
    "varies",
    "upstream",
];
const TITLES: [&str; 5] = ["configuration", "settings", "environment", "file ", "upstream answers"];

#[derive(Debug)]
pub struct Exchange {
    pub name: String,
    pub setting: Setting,
    pub steps: Vec<Step>,
}

/// One request, or one command, and what came of it.
#[derive(Debug)]
pub struct Step {
    /// What stands behind `>>>`.
    pub on: String,
    pub directives: Vec<(String, String)>,
    pub request: Vec<String>,
    /// `None`: nothing is recorded yet.
    pub recorded: Option<Vec<String>>,
    /// The lines of the file that what is recorded replaces.
    span: (usize, usize),
}

impl Setting {
    pub fn has(&self, word: &str) -> bool {
        has(&self.directives, word)
    }

    pub fn all<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        all(&self.directives, word)
    }

    pub fn blocks<'a>(&'a self, title: &'a str) -> impl Iterator<Item = (&'a str, &'a [String])> {
        let matching = self.blocks.iter().filter(move |(found, _)| found.starts_with(title));
        matching.map(|(title, lines)| (title.as_str(), lines.as_slice()))
    }
}

impl Step {
    pub fn has(&self, word: &str) -> bool {
        has(&self.directives, word)
    }

    pub fn all<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        all(&self.directives, word)
    }
}

fn has(directives: &[(String, String)], word: &str) -> bool {
    directives.iter().any(|(found, _)| found == word)
}

fn all<'a>(directives: &'a [(String, String)], word: &'a str) -> impl Iterator<Item = &'a str> {
    directives.iter().filter(move |(found, _)| found == word).map(|(_, rest)| rest.as_str())
}

/// The folder with all of them.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchanges")
}

/// Every file, by name. A file that would not be read is an error.
pub fn read_all() -> Vec<Theme> {
    let files = std::fs::read_dir(folder()).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let themes: Vec<Theme> = paths.iter().map(|path| read(path)).collect();
    let names: BTreeSet<_> = themes.iter().map(|theme| theme.name.as_str()).collect();
    assert_eq!(names.len(), themes.len(), "two files of one name: {names:?}");
    themes
}

fn read(path: &Path) -> Theme {
    let is_ours = path.extension().is_some_and(|ending| ending == "http" || ending == "cli");
    assert!(is_ours, "{}: nothing reads a file that ends so", path.display());
    let text = std::fs::read_to_string(path).unwrap();
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    parse(name, path.to_owned(), &text).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()))
}

fn parse(name: String, path: PathBuf, text: &str) -> Result<Theme, String> {
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut at = 0;
    let setting = read_setting(&lines, &mut at)?;
    let mut exchanges: Vec<Exchange> = Vec::new();
    while let Some(line) = lines.get(at) {
        let place = format!("line {}", at + 1);
        let name =
            line.strip_prefix("### ").ok_or(format!("{place}: an exchange begins with ### and its name"))?;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("{place}: a name is of small letters, digits and -: {name:?}"));
        }
        if exchanges.iter().any(|exchange| exchange.name == name) {
            return Err(format!("{place}: a second {name}"));
        }
        at += 1;
        let setting = read_setting(&lines, &mut at)?;
        let mut steps = Vec::new();
        while lines.get(at).is_some_and(|line| line.starts_with(">>>")) {
            steps.push(read_step(&lines, &mut at));
        }
        if steps.is_empty() {
            return Err(format!("{place}: {name} asks for nothing"));
        }
        exchanges.push(Exchange { name: name.to_owned(), setting, steps });
    }
    if exchanges.is_empty() {
        return Err("no exchange".to_owned());
    }
    Ok(Theme { name, path, lines, setting, exchanges })
}

fn directive(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix('@')?;
    let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((word.to_owned(), rest.trim().to_owned()))
}

/// Lines that belong to what began before them.
fn until_mark(lines: &[String], at: &mut usize) -> Vec<String> {
    let begin = *at;
    while lines.get(*at).is_some_and(|line| !MARKS.iter().any(|mark| line.starts_with(mark))) {
        *at += 1;
    }
    trimmed(&lines[begin..*at])
}

fn trimmed(lines: &[String]) -> Vec<String> {
    let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    lines[..end].to_vec()
}

fn read_setting(lines: &[String], at: &mut usize) -> Result<Setting, String> {
    let mut setting = Setting::default();
    while let Some(line) = lines.get(*at) {
        if line.starts_with("### ") || line.starts_with(">>>") {
            break;
        }
        *at += 1;
        if let Some(found) = directive(line) {
            if !WORDS.contains(&found.0.as_str()) {
                return Err(format!("line {}: no directive is called @{}", *at, found.0));
            }
            setting.directives.push(found);
        } else if let Some(title) = line.strip_prefix("--- ") {
            if !TITLES.iter().any(|begin| title.starts_with(begin)) {
                return Err(format!("line {}: no section is called {title}", *at));
            }
            let title = title.to_owned();
            setting.blocks.push((title, until_mark(lines, at)));
        } else if !(line.is_empty() || line == "#" || line.starts_with("# ")) {
            return Err(format!(
                "line {}: neither a comment (# …), a directive (@…) nor a section (--- …): {line}",
                *at
            ));
        }
    }
    Ok(setting)
}

fn read_step(lines: &[String], at: &mut usize) -> Step {
    let on = lines[*at].trim_start_matches(">>>").trim().to_owned();
    *at += 1;
    let mut directives = Vec::new();
    while let Some(found) = lines.get(*at).and_then(|line| directive(line)) {
        directives.push(found);
        *at += 1;
    }
    let request = until_mark(lines, at);
    let begin = *at;
    let mut recorded = None;
    if lines.get(*at).is_some_and(|line| line == "<<<") {
        *at += 1;
        let from = *at;
        // What is recorded has sections of its own.
        while lines.get(*at).is_some_and(|line| !line.starts_with("### ") && !line.starts_with(">>>")) {
            *at += 1;
        }
        recorded = Some(trimmed(&lines[from..*at]));
    }
    Step { on, directives, request, recorded, span: (begin, *at) }
}

impl Theme {
    /// The file with what was recorded: `now` has the lines of each step of each exchange, or none where that is to stay.
    pub fn rewritten(&self, now: &[Option<Vec<Vec<String>>>]) -> String {
        let mut lines = Vec::new();
        let mut from = 0;
        for (exchange, recorded) in self.exchanges.iter().zip(now) {
            for (n, step) in exchange.steps.iter().enumerate() {
                let (begin, end) = step.span;
                let Some(recorded) = recorded.as_ref().and_then(|steps| steps.get(n)) else { continue };
                lines.extend(trimmed(&self.lines[from..begin]));
                lines.push("<<<".to_owned());
                lines.extend(recorded.iter().cloned());
                lines.push(String::new());
                from = end;
            }
        }
        lines.extend_from_slice(&self.lines[from..]);
        let mut text = trimmed(&lines).join("\n");
        text.push('\n');
        text
    }
}

#[test]
fn a_file_is_read_and_what_is_recorded_replaces_what_was() {
    let text = "# About it.\n@door embedded\n--- configuration\n[a]\nb = 1\n\n### one\n# Why.\n@upstream\n\n>>>\n@half-close\n\
                GET / HTTP/1.1\n\nbody\n<<<\nold\n--- ledger: nothing\n\n>>> on the same connection\nGET /b HTTP/1.1\n### two\n>>>\nx\n";
    let theme = parse("t".into(), PathBuf::new(), text).unwrap();
    assert_eq!(theme.setting.all("door").collect::<Vec<_>>(), ["embedded"]);
    assert_eq!(
        theme.setting.blocks,
        [("configuration".to_owned(), vec!["[a]".to_owned(), "b = 1".to_owned()])]
    );
    let [one, two] = theme.exchanges.as_slice() else { panic!("{theme:#?}") };
    assert!(one.setting.has("upstream") && two.steps[0].recorded.is_none());
    assert_eq!(one.steps[0].request, ["GET / HTTP/1.1", "", "body"]);
    assert!(one.steps[0].has("half-close") && one.steps[1].on == "on the same connection");
    assert_eq!(one.steps[0].recorded.as_deref().unwrap(), ["old", "--- ledger: nothing"]);
    let new = |text: &str| vec![text.to_owned()];
    let now = theme.rewritten(&[Some(vec![new("new"), new("newer")]), None]);
    let expected = text
        .replace("old\n--- ledger: nothing\n", "new\n")
        .replace("GET /b HTTP/1.1\n### two", "GET /b HTTP/1.1\n<<<\nnewer\n\n### two");
    assert_eq!(now, expected);
    assert_eq!(parse("t".into(), PathBuf::new(), &now).unwrap().rewritten(&[None, None]), now);
    for wrong in [
        "",
        "### a\n",
        "### a\n>>>\nx\n### a\n>>>\nx\n",
        "loose\n",
        "### A\n>>>\nx\n",
        "@typo\n### a\n>>>\nx\n",
        "### a\n--- typo\n>>>\nx\n",
    ] {
        assert!(parse("t".into(), PathBuf::new(), wrong).is_err(), "{wrong}");
    }
}

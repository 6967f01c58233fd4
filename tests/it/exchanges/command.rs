//! Commands of the program, as a shell would start them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::program::{Ran, finish, program};

/// `prepaid402 …`, in a folder of its own.
pub async fn run(home: &Path, line: &str, environment: &BTreeMap<String, String>) -> Result<Ran, String> {
    let words = words(line)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ["prepaid402", args @ ..] = words.as_slice() else {
        return Err(format!("only prepaid402 is run here: {line}"));
    };
    let mut command = program(home, args);
    command.envs(environment);
    Ok(finish(command, None).await)
}

/// Words between spaces; '…' is one word.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').ok_or_else(|| format!("no end of ' in {line}"))?,
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

#[test]
fn words_are_told_apart() {
    assert_eq!(words("a 'b c'  d").unwrap(), ["a", "b c", "d"]);
    assert!(words("a 'b").is_err());
}

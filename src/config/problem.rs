//! What is wrong with a configuration: every problem at once, each with the key's path and what to write instead.

use std::collections::BTreeMap;
use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `routes[2].price`, or the environment variable.
    pub path: String,
    /// What is wrong and what to write instead. Never holds a secret.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// Why a configuration is refused: one line per problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblems(pub Vec<Problem>);

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

/// Collects problems and warnings while the settings are read.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// Key path → the environment variable that set it, so that people look in the right place.
    pub(super) origins: BTreeMap<String, String>,
    /// Whether the file or the environment sets `public_url`.
    pub(super) has_public_url: bool,
}

impl Report {
    /// Notes a problem of the key at `path`.
    pub(super) fn problem(&mut self, path: &str, what: impl Into<String>) {
        let path = match self.origins.get(path) {
            Some(variable) => format!("{variable} (sets {path})"),
            None => path.to_owned(),
        };
        self.problems.push(Problem { path, what: what.into() });
    }

    /// Notes something that works but deserves a look.
    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}

/// Whether a text holds a secret of Stripe's, wherever it was written by mistake.
pub(super) fn holds_stripe_secret(text: &str) -> bool {
    ["sk_test_", "sk_live_", "rk_test_", "rk_live_", "whsec_"].iter().any(|mark| text.contains(mark))
}

/// A value as it may be shown in a problem: short, in quotes, without control characters, never a secret.
pub(super) fn shown(text: &str) -> String {
    if holds_stripe_secret(text) {
        return "(a secret, not shown)".to_owned();
    }
    let short: String = text.chars().take(60).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", short.escape_debug())
}

/// The candidate closest to `name`, when one is close enough to be what was meant.
pub(super) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Number of characters to insert, delete or replace, over the first 100 characters: the work grows with the length of both.
fn edit_distance(left: &str, right: &str) -> usize {
    let first = |text: &str| text.chars().take(100).collect::<String>();
    strsim::levenshtein(&first(left), &first(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_suggested_or_none() {
        let names = ["listen", "admin_listen", "currency"];
        for (typed, meant) in [
            ("lisen", Some("listen")),
            ("currenzy", Some("currency")),
            ("postgres_pool_size", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, names), meant, "{typed}");
        }
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (left, right, distance) in
            [("", "", 0), ("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0)]
        {
            assert_eq!(edit_distance(left, right), distance, "{left} {right}");
        }
    }

    #[test]
    fn secrets_and_long_values_are_not_shown() {
        assert!(!shown("x sk_test_abc").contains("abc"));
        assert!(shown(&"é".repeat(500)).chars().count() < 70);
        assert_eq!(shown("a\nb"), "\"a\\nb\"");
    }
}

//! One pattern: how it is written, what it matches, exactly and in the folded reading, and how specific it is.

use std::cmp::Ordering;

use super::{canonicalise, fold, spelling};
use crate::pricing::path::is_dot_or_blank;

/// A segment of a pattern, ordered from most to least specific.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Exactly this text, and its folded form.
    Literal { text: String, folded: String },
    /// One segment that is not empty.
    Parameter,
    /// Any rest; only at the end.
    Rest,
}

impl Part {
    fn rank(&self) -> u8 {
        match self {
            Self::Literal { .. } => 0,
            Self::Parameter => 1,
            Self::Rest => 2,
        }
    }
}

/// A pattern. Two are equal when they match the same paths: the names of parameters do not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
}

/// The segments of a canonical or folded path. The empty text is the folded `/` and has none.
pub(super) fn segments(path: &str) -> Vec<&str> {
    path.split('/').skip(1).collect()
}

/// The folded path up to an encoded `?` or `#`, as an upstream sees it that decodes before it looks for the query.
pub(super) fn before_query(folded: &str) -> Option<&str> {
    let end = folded.find(['?', '#'])?;
    folded.get(..end).map(|before| before.trim_end_matches(|c| c == '/' || is_dot_or_blank(c)))
}

/// The folded path up to a `&`, as a rewriting rule such as `index.php?path=$1` passes it on.
pub(super) fn before_parameter(folded: &str) -> Option<&str> {
    let end = folded.find('&')?;
    folded.get(..end).map(|before| before.trim_end_matches(|c| c == '/' || is_dot_or_blank(c)))
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with the path, as it goes on after the path's name, without the final full stop.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Self::parse_as_written(text).map_err(|what| match spelling::of_others(text) {
            Some(meant) if Self::parse_as_written(&meant).is_ok() => format!("{what}: write \"{meant}\""),
            _ => what,
        })
    }

    fn parse_as_written(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err("must start with /".to_owned());
        };
        let written: Vec<&str> = rest.split('/').collect();
        let mut parts = Vec::with_capacity(written.len());
        let mut plain = String::with_capacity(text.len());
        for (at, segment) in written.iter().enumerate() {
            let part = match *segment {
                "*" if at + 1 == written.len() => Part::Rest,
                _ if segment.contains('*') => {
                    return Err(format!("{text:?} has a '*' that is not its whole last segment"));
                }
                _ if segment.contains(['{', '}']) => parameter(segment).ok_or_else(|| {
                    format!("{text:?} has braces that are not a whole segment such as {{name}}")
                })?,
                // No API has such a path; many frameworks write parameters so.
                _ if spelling::is_parameter_of_others(segment) => {
                    return Err(format!("{text:?} has {segment:?}, which is no parameter here"));
                }
                literal => Part::Literal { text: literal.to_owned(), folded: fold(literal) },
            };
            plain.push('/');
            plain.push_str(if matches!(part, Part::Literal { .. }) { segment } else { "x" });
            parts.push(part);
        }
        match canonicalise(&plain) {
            Ok(path) if path.as_str() == plain => Ok(Self { parts }),
            Ok(_) => Err(format!("{text:?} has unnecessary or lower-case percent escapes")),
            Err(reason) => {
                Err(format!("{text:?} can never match: {reason}").trim_end_matches('.').to_owned())
            }
        }
    }

    pub(super) fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal { .. }))
    }

    /// `Less` is more specific: the first segment that differs in kind decides. A trailing slash does not count, because
    /// lenient upstreams take both forms for one.
    pub(super) fn specificity(&self, other: &Self) -> Ordering {
        let ranks =
            |pattern: &'_ Self| pattern.without_trailing_slash().iter().map(Part::rank).collect::<Vec<u8>>();
        ranks(self).cmp(&ranks(other))
    }

    /// Whether the segments of a canonical path match exactly.
    pub(super) fn matches(&self, path: &[&str]) -> bool {
        let mut segments = path.iter();
        for part in &self.parts {
            match (part, segments.next()) {
                (Part::Rest, rest) => return rest.is_some(),
                (Part::Literal { text, .. }, Some(segment)) if text == segment => {}
                (Part::Parameter, Some(segment)) if !segment.is_empty() => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// Whether an upstream that ignores case, encoding and a trailing slash could take the path for one of this pattern.
    /// So `/api/*` also counts for `/api`.
    pub(super) fn matches_folded(&self, folded: &[&str]) -> bool {
        self.matches_leniently(folded, false)
    }

    /// Like [`Self::matches_folded`], also for an upstream that takes an extension for a choice of format, as Rails does: with
    /// `/joke` it serves `/joke.json` and `/joke.v1.json`.
    pub(super) fn matches_with_extension(&self, folded: &[&str]) -> bool {
        self.matches_leniently(folded, true)
    }

    fn matches_leniently(&self, folded: &[&str], may_have_extension: bool) -> bool {
        let mut segments = folded.iter();
        for part in self.without_trailing_slash() {
            let segment = segments.next();
            let is_last = segments.as_slice().is_empty();
            let is_same = |literal: &str, segment: &str| {
                segment.strip_prefix(literal).is_some_and(|rest| {
                    rest.is_empty() || (may_have_extension && is_last && rest.starts_with('.'))
                })
            };
            match (part, segment) {
                (Part::Rest, _) => return true,
                (Part::Literal { folded, .. }, Some(segment)) if is_same(folded, segment) => {}
                (Part::Parameter, Some(_)) => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// A path, as this pattern spells it, that both match in the folded reading.
    pub(super) fn common_path(&self, other: &Self) -> Option<String> {
        let (mut mine, mut theirs) =
            (self.without_trailing_slash().iter(), other.without_trailing_slash().iter());
        let mut path = String::new();
        loop {
            let segment = match (mine.next(), theirs.next()) {
                (None | Some(Part::Rest), None | Some(Part::Rest)) => break,
                (Some(Part::Rest), Some(part)) => {
                    extend(&mut path, std::iter::once(part).chain(theirs));
                    break;
                }
                (Some(part), Some(Part::Rest)) => {
                    extend(&mut path, std::iter::once(part).chain(mine));
                    break;
                }
                (None, Some(_)) | (Some(_), None) => return None,
                (Some(Part::Literal { text, folded }), Some(Part::Literal { folded: other, .. })) => {
                    if folded != other {
                        return None;
                    }
                    text
                }
                (Some(Part::Literal { text, .. }), Some(_)) | (Some(_), Some(Part::Literal { text, .. })) => {
                    text
                }
                (Some(_), Some(_)) => "x",
            };
            path.push('/');
            path.push_str(segment);
        }
        if path.is_empty() {
            path.push('/');
        }
        Some(path)
    }

    fn without_trailing_slash(&self) -> &[Part] {
        match self.parts.split_last() {
            Some((Part::Literal { text, .. }, rest)) if text.is_empty() => rest,
            _ => &self.parts,
        }
    }
}

fn extend<'a>(path: &mut String, parts: impl Iterator<Item = &'a Part>) {
    for part in parts {
        path.push('/');
        path.push_str(match part {
            Part::Literal { text, .. } => text,
            Part::Parameter => "x",
            Part::Rest => "",
        });
    }
}

fn parameter(segment: &str) -> Option<Part> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then_some(Part::Parameter)
}

//! Reading one table of the merged settings: each reader reports what is wrong and goes on, so that all problems show at once.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::{Table, Value};

use super::IdleLimit;
use super::parse::{duration, duration_text};
use super::problem::{Report, shown};
use crate::domain::Micros;

/// A table and its path.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    table: Option<&'a Table>,
    path: String,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a Table) -> Self {
        Self { table: Some(table), path: String::new() }
    }

    /// The path of a key here, or of this table itself for an empty key.
    pub(super) fn path(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }

    /// The value of a key, of any type.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.table.and_then(|table| table.get(key))
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A section such as `[stripe]`; empty when it is missing.
    pub(super) fn section(&self, key: &str) -> Section<'a> {
        Section { table: self.get(key).and_then(Value::as_table), path: self.path(key) }
    }

    /// The elements of a list of tables. Elements of another shape were reported by the key check.
    pub(super) fn elements(&self, key: &str) -> Vec<Section<'a>> {
        let elements = self.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let path = self.path(key);
        elements
            .iter()
            .enumerate()
            .filter_map(|(index, value)| {
                value.as_table().map(|table| Section { table: Some(table), path: format!("{path}[{index}]") })
            })
            .collect()
    }

    /// A text, without surrounding blanks.
    pub(super) fn text(&self, key: &str, report: &mut Report) -> Option<&'a str> {
        match self.get(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text.trim()),
            Value::String(_) => {
                report.problem(&self.path(key), "is empty: write a value or remove the line");
                None
            }
            other => {
                report.problem(&self.path(key), wrong_type(key, other, "a text in quotes"));
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str, report: &mut Report) -> Option<bool> {
        match self.get(key)? {
            Value::Boolean(value) => Some(*value),
            other => {
                report.problem(&self.path(key), wrong_type(key, other, "true or false, without quotes"));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn integer(&self, key: &str, bounds: RangeInclusive<u32>, report: &mut Report) -> Option<u32> {
        let number = match self.get(key)? {
            Value::Integer(number) => u32::try_from(*number).ok(),
            other => {
                report.problem(&self.path(key), wrong_type(key, other, "a whole number, without quotes"));
                return None;
            }
        };
        let checked = number.filter(|number| bounds.contains(number));
        if checked.is_none() {
            let what = format!("must be between {} and {}", bounds.start(), bounds.end());
            report.problem(&self.path(key), what);
        }
        checked
    }

    /// A time within bounds.
    pub(super) fn duration(
        &self,
        key: &str,
        bounds: RangeInclusive<Duration>,
        report: &mut Report,
    ) -> Option<Duration> {
        if let Some(Value::Integer(number)) = self.get(key) {
            report.problem(&self.path(key), format!("needs a unit: write {key} = \"{number}s\" for seconds"));
            return None;
        }
        let text = self.text(key, report)?;
        let Some(value) = duration(text) else {
            let what = format!("{} is not a time: write \"500ms\", \"30s\" or \"5m\"", shown(text));
            report.problem(&self.path(key), what);
            return None;
        };
        if bounds.contains(&value) {
            return Some(value);
        }
        let (low, high) = (duration_text(*bounds.start()), duration_text(*bounds.end()));
        report.problem(&self.path(key), format!("must be between \"{low}\" and \"{high}\""));
        None
    }

    /// A time within bounds, or 0 for none, with or without a unit.
    pub(super) fn duration_or_none(
        &self,
        key: &str,
        bounds: RangeInclusive<Duration>,
        report: &mut Report,
    ) -> Option<IdleLimit> {
        let is_none = match self.get(key)? {
            Value::Integer(0) => true,
            Value::String(text) => text.trim() == "0" || duration(text.trim()) == Some(Duration::ZERO),
            _ => false,
        };
        if is_none {
            return Some(IdleLimit::Endless);
        }
        self.duration(key, bounds, report).map(IdleLimit::UpTo)
    }

    /// An amount of money.
    pub(super) fn amount(&self, key: &str, report: &mut Report) -> Option<Micros> {
        if let Some(Value::Integer(_) | Value::Float(_)) = self.get(key) {
            let what =
                format!("is not in quotes: amounts are exact texts, write {key} = \"0.05\" for five cents");
            report.problem(&self.path(key), what);
            return None;
        }
        let text = self.text(key, report)?;
        match Micros::parse_major(text) {
            Ok(amount) => Some(amount),
            Err(error) => {
                report.problem(&self.path(key), format!("{} {error}", shown(text)));
                None
            }
        }
    }

    /// A list of texts. `None` when the key is missing or the list is not one.
    pub(super) fn texts(&self, key: &str, report: &mut Report) -> Option<Vec<&'a str>> {
        let elements = match self.get(key)? {
            Value::Array(elements) => elements,
            other => {
                report.problem(&self.path(key), wrong_type(key, other, "a list of texts, [\"…\", \"…\"]"));
                return None;
            }
        };
        let texts: Option<Vec<&str>> =
            elements.iter().map(|element| element.as_str().map(str::trim)).collect();
        if texts.is_none() {
            report.problem(&self.path(key), "holds something that is not a text in quotes");
        }
        texts
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&self, key: &str, what: &str, report: &mut Report) {
        report.problem(&self.path(key), format!("is required: {what}"));
    }
}

fn wrong_type(key: &str, value: &Value, wanted: &str) -> String {
    let found = match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a point",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    };
    format!("is {found}: {key} is {wanted}")
}

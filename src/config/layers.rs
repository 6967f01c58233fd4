//! Defaults, then the file, then the environment: one table.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::keys::{Kind, SETTINGS, check_keys, meant, variable_of};
use super::problem::{ConfigProblems, Problem, Report, closest};

/// The defaults and, in its comments, the manual.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Variables with our prefix that are no settings.
const OTHER_VARIABLES: &[&str] = &[
    "PREPAID402_ADMIN_PASSWORD",
    "PREPAID402_ADMIN_URL",
    "PREPAID402_ADMIN_USER",
    "PREPAID402_BENCH_POSTGRES",
    "PREPAID402_CONFIG",
    "PREPAID402_KEY_SECRET",
    "PREPAID402_PAYMENT_METHOD",
];

/// Kubernetes sets these in every container when a Service is named `prepaid402`; they are no settings of ours.
fn is_from_kubernetes(variable: &str) -> bool {
    variable == "PREPAID402_PORT"
        || variable.starts_with("PREPAID402_PORT_")
        || variable.starts_with("PREPAID402_SERVICE_")
}

/// Puts the layers over each other. What cannot be used is reported and left out.
///
/// # Errors
/// A file that is no TOML, and nothing else: of what it says nothing is known, so the rest would be told of what it does not say.
pub(super) fn merge(
    file_text: Option<&str>,
    env: &BTreeMap<String, String>,
    report: &mut Report,
) -> Result<Table, ConfigProblems> {
    // The embedded file is fixed at build time, and a test reads it; a failure here would show as a problem all the same.
    let mut merged = parse(DEFAULT_TOML, "the built-in defaults")?;
    if let Some(text) = file_text {
        let file = parse(text, "the configuration file")?;
        check_keys(&file, report);
        overlay(&mut merged, &file);
        report.has_public_url = file.contains_key("public_url");
        // An own list of options brings its own minimum: the first one.
        let own = file.get("top_up").and_then(Value::as_table);
        let first = own.and_then(|own| own.get("options")?.as_array()?.first()?.as_table());
        if first.is_some()
            && own.is_some_and(|own| !own.contains_key("minimum"))
            && let Some(top_up) = merged.get_mut("top_up").and_then(Value::as_table_mut)
        {
            top_up.remove("minimum");
        }
    }
    apply_environment(&mut merged, env, report);
    report.has_public_url |= report.origins.contains_key("public_url");
    Ok(merged)
}

/// Parses TOML. The parser's own report would print the line, which may hold a secret: only its number is told.
fn parse(text: &str, name: &str) -> Result<Table, ConfigProblems> {
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
        let line = before.matches('\n').count() + 1;
        let what = format!("line {line} is not valid TOML: {}", error.message().replace('\n', ", "));
        ConfigProblems(vec![Problem { path: name.to_owned(), what }])
    })
}

/// Sections are merged key by key; everything else is replaced. A section that is no table was reported before.
pub(super) fn overlay(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => overlay(inner, over),
            (Some(Value::Table(_)), _) => {}
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Sets the value at a path of at most one section.
pub(super) fn set(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, key)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                inner.insert(key.to_owned(), value);
            }
        }
    }
}

fn apply_environment(merged: &mut Table, env: &BTreeMap<String, String>, report: &mut Report) {
    let settings: Vec<(String, &str, Kind)> =
        SETTINGS.iter().map(|(path, kind)| (variable_of(path), *path, *kind)).collect();
    let ours = env.range("PREPAID402_".to_owned()..).take_while(|(name, _)| name.starts_with("PREPAID402_"));
    for (name, text) in ours {
        if is_from_kubernetes(name) || OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let Some((_, path, kind)) = settings.iter().find(|(variable, ..)| variable == name) else {
            report.problem(name, unknown_variable(name, &settings));
            continue;
        };
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        report.origins.insert((*path).to_owned(), name.clone());
        match convert(text, *kind) {
            Ok(value) => set(merged, path, value),
            Err(what) => report.problem(path, what),
        }
    }
    if let Some(key) = env.get("STRIPE_PUBLISHABLE_KEY").map(|key| key.trim()).filter(|key| !key.is_empty()) {
        report.origins.insert("stripe.publishable_key".to_owned(), "STRIPE_PUBLISHABLE_KEY".to_owned());
        set(merged, "stripe.publishable_key", Value::String(key.to_owned()));
    }
}

fn convert(text: &str, kind: Kind) -> Result<Value, &'static str> {
    match kind {
        Kind::Text => Ok(Value::String(text.to_owned())),
        Kind::Integer => text.parse().map(Value::Integer).map_err(|_| "is not a whole number"),
        Kind::Boolean => text.parse().map(Value::Boolean).map_err(|_| "is neither true nor false"),
        Kind::List => {
            Ok(Value::Array(text.split(',').map(|part| Value::String(part.trim().to_owned())).collect()))
        }
    }
}

fn unknown_variable(name: &str, settings: &[(String, &str, Kind)]) -> String {
    if name == "PREPAID402_STRIPE__SECRET_KEY" || name == "PREPAID402_STRIPE_SECRET_KEY" {
        return "there is no such variable; did you mean STRIPE_SECRET_KEY?".to_owned();
    }
    // The prefix is no evidence: only what follows it is compared.
    let rest = name.strip_prefix("PREPAID402_").unwrap_or(name);
    let of_section = rest.split_once("__").and_then(|(section, key)| {
        let own = format!("PREPAID402_{section}__");
        let has_section = settings.iter().any(|(variable, ..)| variable.starts_with(&own));
        has_section.then(|| meant(&section.to_lowercase(), &key.to_lowercase())).flatten()
    });
    let has_variable = |path: &&str| settings.iter().any(|(_, known, _)| known == path);
    let variables = of_section.iter().flat_map(|meant| meant.split(" or ")).filter(has_variable);
    let variables: Vec<String> = variables.map(variable_of).collect();
    if !variables.is_empty() {
        return format!("there is no such variable; did you mean {}?", variables.join(" or "));
    }
    let known =
        settings.iter().map(|(variable, ..)| variable.as_str()).chain(OTHER_VARIABLES.iter().copied());
    let rests = known.map(|variable| variable.strip_prefix("PREPAID402_").unwrap_or(variable));
    match closest(rest, rests) {
        Some(meant) => format!("there is no such variable; did you mean PREPAID402_{meant}?"),
        None => "there is no such variable; a setting's variable is PREPAID402_SECTION__KEY".to_owned(),
    }
}

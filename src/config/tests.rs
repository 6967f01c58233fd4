//! Tables of files and their problems.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use super::keys::{ARRAYS, SETTINGS, variable_of};
use super::*;

mod database;
mod live;
mod money;
mod sources;
mod values;

/// A variable list as an environment.
fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What is required and has no default.
const REQUIRED: &[(&str, &str)] = &[
    ("STRIPE_SECRET_KEY", "sk_test_abc"),
    ("STRIPE_PUBLISHABLE_KEY", "pk_test_abc"),
    ("PREPAID402_UPSTREAM__URL", "http://127.0.0.1:8080"),
];

/// Loads a file with the required variables set, and `more` over them.
fn load_with(file: &str, more: &[(&str, &str)]) -> Result<Loaded, ConfigProblems> {
    let mut env = env(REQUIRED);
    env.extend(self::env(more));
    load_from(Some(file), Path::new("."), &env)
}

fn loaded(file: &str) -> Loaded {
    load_with(file, &[]).unwrap_or_else(|problems| panic!("{file}\n{problems}"))
}

/// Exactly one problem, at the path, with the words.
#[track_caller]
fn refused(file: &str, path: &str, words: &str) {
    refused_with(file, &[], path, words);
}

#[track_caller]
fn refused_with(file: &str, more: &[(&str, &str)], path: &str, words: &str) {
    let problems = load_with(file, more).map(|_| ()).expect_err(file).0;
    assert_eq!(problems.len(), 1, "{file}\n{problems:#?}");
    assert_eq!(problems[0].path, path, "{problems:#?}");
    assert!(problems[0].what.contains(words), "{problems:#?} should say {words:?}");
}

/// `default.toml` with every commented setting switched on.
fn manual_with_everything() -> toml::Table {
    let text: String = DEFAULT_TOML
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => setting,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    text.parse().unwrap()
}

#[test]
fn the_manual_names_every_key_and_no_other() {
    let table = manual_with_everything();
    let mut report = problem::Report::default();
    keys::check_keys(&table, &mut report);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let root = section::Section::root(&table);
    for (path, _) in SETTINGS {
        let known = match path.split_once('.') {
            Some((section, key)) => root.section(section).has(key),
            None => root.has(path),
        };
        assert!(known, "{path} is not in default.toml");
    }
    for (array, fields) in ARRAYS {
        let elements = match array.split_once('.') {
            Some((section, key)) => root.section(section).elements(key),
            None => root.elements(array),
        };
        for field in *fields {
            assert!(
                elements.iter().any(|element| element.has(field)),
                "{array}.{field} is not in default.toml"
            );
        }
    }
}

#[test]
fn every_setting_of_the_manual_has_an_explanation_above_it() {
    let lines: Vec<&str> = DEFAULT_TOML.lines().collect();
    for (path, _) in SETTINGS {
        let key = path.rsplit('.').next().unwrap();
        let starts = [format!("{key} = "), format!("#{key} = ")];
        let at = lines
            .iter()
            .position(|line| starts.iter().any(|start| line.starts_with(start.as_str())))
            .unwrap();
        let above = lines[at - 1];
        let explained = above.starts_with("# ") || above == "[log]";
        assert!(explained, "{path}: {above}");
    }
}

#[test]
fn the_defaults_are_these() {
    let Loaded { config, warnings } = loaded("");
    let seconds = std::time::Duration::from_secs;
    assert_eq!(config.listen.to_string(), "127.0.0.1:4402");
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:4403");
    assert_eq!(config.public_url, "http://127.0.0.1:4402");
    assert_eq!(config.data_dir, Path::new("./prepaid402-data"));
    assert_eq!(config.database.shown(), "./prepaid402-data/prepaid402.db");
    assert_eq!(config.currency, Currency::USD);
    assert_eq!(config.stripe.api_base, "https://api.stripe.com");
    assert_eq!((config.stripe.api_version, config.stripe.timeout), (None, seconds(20)));
    assert_eq!(config.stripe.statement_descriptor_suffix, None);
    let upstream = config.upstream.as_ref().unwrap();
    assert_eq!(
        (upstream.connect_timeout, upstream.response_timeout, upstream.idle_timeout, upstream.preserve_host),
        (seconds(5), seconds(60), seconds(60), false)
    );
    let top_up = &config.top_up;
    assert_eq!(
        [top_up.minimum, top_up.maximum, top_up.max_balance].map(Micros::to_major_string),
        ["5.00", "500.00", "5000.00"]
    );
    let pack = TopUpPack { amount: top_up.minimum, bonus: Micros::ZERO, label: "5.00 USD".to_owned() };
    assert_eq!(top_up.options, [pack]);
    let limits = &config.limits;
    assert_eq!(
        (limits.max_body_bytes, limits.max_concurrent_requests, limits.max_concurrent_per_client),
        (10 * 1024 * 1024, 1024, 256)
    );
    assert_eq!((limits.body_timeout, limits.shutdown_timeout), (seconds(60), seconds(30)));
    assert_eq!((config.log.filter.as_str(), config.log.json, config.sandbox), ("info", false, false));
    assert!(config.trusted_proxies.is_empty() && config.routes.is_empty());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("no [[routes]]"), "{warnings:?}");
}

#[test]
fn every_problem_is_told_at_once() {
    let file = r#"
        lisen = "x"
        currency = "xyz"
        [stripe]
        timeout = "soon"
        [[routes]]
        path = "/a"
        price = "0.01"
        [[routes]]
        path = "b"
        price = "0"
    "#;
    let problems = load_from(Some(file), Path::new("."), &BTreeMap::new()).unwrap_err();
    let paths: Vec<&str> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "lisen",
            "currency",
            "STRIPE_SECRET_KEY",
            "stripe.publishable_key",
            "stripe.timeout",
            "upstream.url",
            "routes[1].path",
            "routes[1].price",
        ],
        "{problems}"
    );
    assert_eq!(problems.to_string().lines().count(), paths.len());
}

#[test]
fn the_example_environment_holds_known_names_only() {
    let example = include_str!("../../.env.example");
    let mut names = 0;
    for line in example.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap();
        assert_eq!(value, "", "{name} must be empty, so that a copy changes nothing");
        let ours = name.starts_with("PREPAID402_");
        let known = if ours {
            SETTINGS.iter().any(|(path, _)| variable_of(path) == name)
                || ["PREPAID402_CONFIG", "PREPAID402_KEY_SECRET"].contains(&name)
        } else {
            ["STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY", "UPSTREAM_TOKEN"].contains(&name)
        };
        assert!(known, "{name}");
        names += 1;
    }
    assert!(names >= 4);
}

//! Where settings come from: the file, the environment, and `.env` in the working directory.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::problem::{ConfigProblems, Problem, Report};
use super::secrets::SecretSources;
use super::section::Section;
use super::{Config, DatabaseConfig, Secret, database, layers, validate};
use crate::files::folder;

/// The file that is used when none is named and it exists.
const DEFAULT_FILE: &str = "prepaid402.toml";
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Sections that make a file a gateway's, and what an application has instead.
const GATEWAYS: [(&str, &str); 2] = [
    ("routes", "belongs to the gateway: here, each handler is wrapped with its price"),
    ("upstream", "belongs to the gateway: here, the handlers are the API"),
];

/// What the command line says about where settings are.
#[derive(Debug, Clone, Default)]
pub struct LoadSource {
    /// `--config FILE`; without it the variable `PREPAID402_CONFIG`, then `./prepaid402.toml` if it exists.
    pub config_file: Option<PathBuf>,
}

/// Checked settings, and what deserves a look.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Sentences for people. Nothing in them is secret.
    pub warnings: Vec<String>,
}

/// Reads the file, `.env` and the environment, and checks everything.
///
/// # Errors
/// Every problem at once, each with the key's path and what to write instead.
pub fn load(source: &LoadSource) -> Result<Loaded, ConfigProblems> {
    load_with(source, load_from)
}

/// Reads the same for an application that has the paywall inside: without routes or an upstream, which it does not need. What
/// the file says about `listen` is the application's own affair.
///
/// # Errors
/// Every problem at once, each with the key's path and what to write instead.
pub fn load_embedded(source: &LoadSource) -> Result<Loaded, ConfigProblems> {
    load_with(source, embedded_from)
}

/// Reads the same for commands that serve nothing, whichever door has the settings: what names neither routes nor an upstream is
/// an application's, with the paywall inside.
///
/// # Errors
/// Every problem at once, each with the key's path and what to write instead.
pub fn load_for_any_door(source: &LoadSource) -> Result<Loaded, ConfigProblems> {
    load_with(source, any_door_from)
}

fn any_door_from(
    file_text: Option<&str>,
    file_dir: &Path,
    env: &BTreeMap<String, String>,
) -> Result<Loaded, ConfigProblems> {
    let written = file_text.unwrap_or_default().parse::<toml::Table>();
    let has_door =
        written.map_or(true, |written| GATEWAYS.iter().any(|(section, _)| written.contains_key(*section)));
    let names_upstream = env.get("PREPAID402_UPSTREAM__URL").is_some_and(|url| !url.trim().is_empty());
    match has_door || names_upstream {
        true => load_from(file_text, file_dir, env),
        false => embedded_from(file_text, file_dir, env),
    }
}

/// Finds the texts, and gives them to what makes settings of them.
fn load_with(
    source: &LoadSource,
    from: impl FnOnce(Option<&str>, &Path, &BTreeMap<String, String>) -> Result<Loaded, ConfigProblems>,
) -> Result<Loaded, ConfigProblems> {
    let mut report = Report::default();
    let env = environment(&mut report);
    let path = configuration_file(source, &env);
    let text = path.as_deref().and_then(|path| read_file(path, &mut report));
    if !report.problems.is_empty() {
        // Without what cannot be read everything else would look missing: that is what there is to tell.
        return Err(ConfigProblems(report.problems));
    }
    from(text.as_deref(), folder_of(path.as_deref()), &env)
}

/// The same from given texts.
///
/// # Errors
/// Every problem at once, each with the key's path and what to write instead.
pub fn embedded_from(
    file_text: Option<&str>,
    file_dir: &Path,
    env: &BTreeMap<String, String>,
) -> Result<Loaded, ConfigProblems> {
    let mut report = Report::default();
    let mut table = layers::merge(file_text, env, &mut report)?;
    for (section, why) in GATEWAYS {
        let written = file_text.and_then(|text| text.parse::<toml::Table>().ok());
        if written.is_some_and(|written| written.contains_key(section)) {
            report.problem(section, why);
        }
    }
    table.remove("upstream");
    table.remove("routes");
    layers::set(&mut table, "routes", toml::Value::Array(Vec::new()));
    loaded(&table, file_dir, env, report)
}

/// Where the database is, for commands that need nothing else: from the environment and the file, as [`load`] finds them.
///
/// # Errors
/// What is wrong with the file or the address.
pub fn load_database(source: &LoadSource) -> Result<DatabaseConfig, ConfigProblems> {
    load_a_part(source, |root, env, report| {
        let data_dir = root.text("data_dir", report).map(PathBuf::from);
        let database = database::read(root, data_dir.as_ref(), report)?;
        Some(database.with_password(password(env)))
    })
}

/// Where the admin pages are, for commands that ask the running server: where they listen, and the address of a proxy in front.
///
/// # Errors
/// What is wrong with the file or the addresses.
pub fn load_admin_address(source: &LoadSource) -> Result<(SocketAddr, Option<String>), ConfigProblems> {
    load_a_part(source, |root, _, report| validate::admin_address(root, report))
}

/// What needs no more than a part of the settings.
fn load_a_part<T>(
    source: &LoadSource,
    read: impl FnOnce(&Section<'_>, &BTreeMap<String, String>, &mut Report) -> Option<T>,
) -> Result<T, ConfigProblems> {
    let mut report = Report::default();
    let env = environment(&mut report);
    let path = configuration_file(source, &env);
    let text = path.as_deref().and_then(|path| read_file(path, &mut report));
    if !report.problems.is_empty() {
        return Err(ConfigProblems(report.problems));
    }
    let table = layers::merge(text.as_deref(), &env, &mut report)?;
    match read(&Section::root(&table), &env, &mut report) {
        Some(part) if report.problems.is_empty() => Ok(part),
        _ => Err(ConfigProblems(report.problems)),
    }
}

/// The password of a database whose address holds none.
fn password(env: &BTreeMap<String, String>) -> Option<&str> {
    env.get("PGPASSWORD").map(String::as_str)
}

/// `--config`, then the environment's, then the one in the working directory.
fn configuration_file(source: &LoadSource, env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let named = source.config_file.clone().or_else(|| {
        env.get("PREPAID402_CONFIG")
            .map(|name| name.trim())
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
    });
    named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()))
}

/// The same from given texts: touches neither the process nor the working directory, only secret files that are named.
/// `file_dir` is what their names are relative to.
///
/// # Errors
/// Every problem at once, each with the key's path and what to write instead.
pub fn load_from(
    file_text: Option<&str>,
    file_dir: &Path,
    env: &BTreeMap<String, String>,
) -> Result<Loaded, ConfigProblems> {
    let mut report = Report::default();
    let table = layers::merge(file_text, env, &mut report)?;
    loaded(&table, file_dir, env, report)
}

fn loaded(
    table: &toml::Table,
    file_dir: &Path,
    env: &BTreeMap<String, String>,
    report: Report,
) -> Result<Loaded, ConfigProblems> {
    let mut loaded = finish(table, SecretSources { env, dir: file_dir }, false, report)?;
    let key_secret = env.get("PREPAID402_KEY_SECRET").filter(|secret| !secret.trim().is_empty());
    loaded.config.key_secret = key_secret.cloned().map(Secret::new);
    loaded.config.database = loaded.config.database.with_password(password(env));
    Ok(loaded)
}

/// Checks a merged table.
pub(super) fn finish(
    table: &toml::Table,
    secrets: SecretSources<'_>,
    sandbox: bool,
    mut report: Report,
) -> Result<Loaded, ConfigProblems> {
    match validate::config(table, secrets, sandbox, &mut report) {
        Some(config) if report.problems.is_empty() => Ok(Loaded { config, warnings: report.warnings }),
        _ => Err(ConfigProblems(report.problems)),
    }
}

/// The folder that a file's own file names are relative to.
pub(super) fn folder_of(path: Option<&Path>) -> &Path {
    path.map_or(Path::new("."), folder)
}

/// Reads a configuration file, up to 1 MiB.
pub(super) fn read_file(path: &Path, report: &mut Report) -> Option<String> {
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    let what = match read {
        Ok(_) if text.len() as u64 <= MAX_FILE_BYTES => return Some(text),
        Ok(_) => format!("is larger than {MAX_FILE_BYTES} bytes"),
        Err(error) => format!("cannot be read: {error}"),
    };
    report.problem(&path.display().to_string(), what);
    None
}

/// `.env` and, over it, the process environment, for commands that need no configuration.
///
/// # Errors
/// What is wrong with `.env`; its content is never told.
pub fn variables() -> Result<BTreeMap<String, String>, ConfigProblems> {
    let mut report = Report::default();
    let env = environment(&mut report);
    if report.problems.is_empty() { Ok(env) } else { Err(ConfigProblems(report.problems)) }
}

/// `.env` and, over it, the process environment. The process environment is never changed.
pub(super) fn environment(report: &mut Report) -> BTreeMap<String, String> {
    let mut env = dot_env(Path::new(".env"), report);
    for (name, value) in std::env::vars_os() {
        // Names and values that are no text cannot be ours; `vars()` would panic on them.
        if let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) {
            env.insert(name, value);
        }
    }
    env
}

/// The variables of a `.env` file; none when there is no such file. Lines are never echoed: they hold secrets.
pub(super) fn dot_env(path: &Path, report: &mut Report) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let entries = match dotenvy::from_path_iter(path) {
        Ok(entries) => entries,
        Err(error) if error.not_found() => return env,
        Err(_) => {
            report.problems.push(Problem { path: ".env".to_owned(), what: "cannot be read".to_owned() });
            return env;
        }
    };
    for (index, entry) in entries.enumerate() {
        match entry {
            // As every reader of .env does: the first of two lines wins.
            Ok((name, value)) => {
                env.entry(name).or_insert(value);
            }
            Err(_) => {
                let what =
                    format!("entry {} is not NAME=value; put a value with blanks in quotes", index + 1);
                report.problems.push(Problem { path: ".env".to_owned(), what });
                break;
            }
        }
    }
    env
}

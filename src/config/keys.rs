//! The keys that exist. Unknown ones are refused, with the closest known key suggested.

use toml::{Table, Value};

use super::problem::{Report, closest, holds_stripe_secret};

/// How a setting is written, so that an environment variable can stand for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A TOML string.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// An array of strings; separated by commas in the environment.
    List,
}

/// Settings that an environment variable may override, by path.
pub(super) const SETTINGS: &[(&str, Kind)] = &[
    ("listen", Kind::Text),
    ("admin_listen", Kind::Text),
    ("admin_allow_remote", Kind::Boolean),
    ("admin_public_url", Kind::Text),
    ("admin_hosts", Kind::List),
    ("public_url", Kind::Text),
    ("data_dir", Kind::Text),
    ("database_url", Kind::Text),
    ("currency", Kind::Text),
    ("identity", Kind::Text),
    ("trusted_proxies", Kind::List),
    ("stripe.secret_key_file", Kind::Text),
    ("stripe.publishable_key", Kind::Text),
    ("stripe.api_base", Kind::Text),
    ("stripe.api_version", Kind::Text),
    ("stripe.timeout", Kind::Text),
    ("stripe.statement_descriptor_suffix", Kind::Text),
    ("upstream.url", Kind::Text),
    ("upstream.ca_file", Kind::Text),
    ("upstream.connect_timeout", Kind::Text),
    ("upstream.response_timeout", Kind::Text),
    ("upstream.idle_timeout", Kind::Text),
    ("upstream.preserve_host", Kind::Boolean),
    ("top_up.minimum", Kind::Text),
    ("top_up.maximum", Kind::Text),
    ("top_up.max_balance", Kind::Text),
    ("top_up.refund_on_fraud_warning", Kind::Boolean),
    ("top_up.reconcile_every", Kind::Text),
    ("top_up.compare_every", Kind::Text),
    ("adjustments.max_a_day", Kind::Text),
    ("limits.max_body_bytes", Kind::Integer),
    ("limits.body_timeout", Kind::Text),
    ("limits.max_connections", Kind::Integer),
    ("limits.max_concurrent_requests", Kind::Integer),
    ("limits.max_concurrent_per_client", Kind::Integer),
    ("limits.shutdown_timeout", Kind::Text),
    ("idempotency.keep", Kind::Text),
    ("idempotency.max_body_bytes", Kind::Integer),
    ("idempotency.max_answer_bytes", Kind::Integer),
    ("shield.enabled", Kind::Boolean),
    ("shield.network_attempts_an_hour", Kind::Integer),
    ("shield.network_cards_a_day", Kind::Integer),
    ("shield.client_cards_a_day", Kind::Integer),
    ("shield.client_declines_a_day", Kind::Integer),
    ("shield.card_declines_a_day", Kind::Integer),
    ("shield.new_payer_declines", Kind::Integer),
    ("shield.new_payer_decline_percent", Kind::Integer),
    ("shield.new_payer_window", Kind::Text),
    ("shield.new_payers_at_once", Kind::Integer),
    ("webhooks.secrets_file", Kind::Text),
    ("webhooks.tolerance", Kind::Text),
    ("webhooks.poll_every", Kind::Text),
    ("log.filter", Kind::Text),
    ("log.json", Kind::Boolean),
];

/// Arrays of tables and the keys of one element.
pub(super) const ARRAYS: &[(&str, &[&str])] = &[
    ("upstream.headers", &["name", "value_env", "value_file"]),
    ("top_up.options", &["amount", "bonus", "label"]),
    (
        "routes",
        &[
            "methods",
            "path",
            "price",
            "free",
            "description",
            "mime_type",
            "charged_statuses",
            "response_timeout",
            "idle_timeout",
            "body_timeout",
            "max_body_bytes",
        ],
    ),
];

/// Sections of the file.
const SECTIONS: &[&str] =
    &["stripe", "upstream", "top_up", "adjustments", "limits", "idempotency", "shield", "webhooks", "log"];

/// What to do about a secret in the file.
const SECRET_IN_FILE: &str = "a secret does not belong in this file, which people read and commit: put it in the environment \
                              variable STRIPE_SECRET_KEY (the .env file will do), or name a file with stripe.secret_key_file";

/// What to do about a webhook secret in the file.
const WEBHOOK_SECRET_IN_FILE: &str = "a secret does not belong in this file, which people read and commit: put it in the environment \
                                      variable STRIPE_WEBHOOK_SECRETS (the .env file will do), or name a file with webhooks.secrets_file";

/// What to do about a database password in the file.
const PASSWORD_IN_FILE: &str = "holds a password, which does not belong in this file: leave the password out and set the environment \
                                variable PGPASSWORD, or set the whole address as PREPAID402_DATABASE_URL";

/// What to do about a plain header value.
const HEADER_VALUE: &str = "a secret does not belong in this file: write value_env = \"UPSTREAM_TOKEN\" and set that environment \
                            variable, or value_file = \"upstream-token.txt\"";

/// The environment variable that overrides a setting: `stripe.api_base` → `PREPAID402_STRIPE__API_BASE`.
pub(super) fn variable_of(path: &str) -> String {
    format!("PREPAID402_{}", path.replace('.', "__").to_uppercase())
}

/// Refuses every key of a file that does not exist, and secrets written into it. Values are never echoed.
pub(super) fn check_keys(file: &Table, report: &mut Report) {
    check_table(file, "", report);
    check_secrets(&Value::Table(file.clone()), "", report);
}

fn check_table(table: &Table, section: &str, report: &mut Report) {
    for (key, value) in table {
        let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        if let Some((_, fields)) = ARRAYS.iter().find(|(array, _)| *array == path) {
            check_elements(value, &path, fields, report);
        } else if section.is_empty() && SECTIONS.contains(&key.as_str()) {
            match value.as_table() {
                Some(inner) => check_table(inner, key, report),
                None => report.problem(&path, format!("is a section: write [{key}] on a line of its own")),
            }
        } else if path == "stripe.secret_key" {
            report.problem(&path, SECRET_IN_FILE);
        } else if ["webhooks.secret", "webhooks.secrets"].contains(&path.as_str()) {
            // What stands there may look like no secret of Stripe's, and be one all the same.
            if !value.as_str().is_some_and(|text| text.contains("whsec_")) {
                report.problem(&path, WEBHOOK_SECRET_IN_FILE);
            }
        } else if !SETTINGS.iter().any(|(known, _)| *known == path) {
            report.problem(&path, unknown(&path));
        }
    }
}

fn unknown(path: &str) -> String {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    match meant(section, key) {
        Some(meant) => format!("there is no such key; did you mean {meant}?"),
        None => "there is no such key; every key is explained in src/config/default.toml".to_owned(),
    }
}

/// The full paths of every key, list and section.
fn known() -> impl Iterator<Item = &'static str> {
    let arrays = ARRAYS.iter().map(|(array, _)| *array);
    SETTINGS.iter().map(|(known, _)| *known).chain(arrays).chain(SECTIONS.iter().copied())
}

/// What was probably meant by a key that is not in this section (`""`: the top). Its own section is looked through first.
pub(super) fn meant(section: &str, key: &str) -> Option<String> {
    let own = known().filter_map(|path| match (section, path.rsplit_once('.')) {
        ("", None) => Some(path),
        (section, Some((its, key))) if its == section => Some(key),
        _ => None,
    });
    let own: Vec<&str> = own.collect();
    let dot = if section.is_empty() { "" } else { "." };
    let here = among(key, &own)
        .map(|found| found.iter().map(|key| format!("{section}{dot}{key}")).collect::<Vec<_>>().join(" or "));
    here.or_else(|| elsewhere(key)).or_else(|| {
        let path = format!("{section}{dot}{key}");
        closest(&path, known()).map(str::to_owned)
    })
}

/// The key of a section that is close to what was written, or those that say more: `body_timeout` for `timeout`.
fn among<'a>(key: &str, own: &[&'a str]) -> Option<Vec<&'a str>> {
    if let Some(found) = closest(key, own.iter().copied()) {
        return Some(vec![found]);
    }
    let says_more =
        |known: &&&str| known.ends_with(&format!("_{key}")) || known.starts_with(&format!("{key}_"));
    let found: Vec<&str> = own.iter().filter(says_more).copied().collect();
    (1..=4).contains(&found.len()).then_some(found)
}

/// A key in the wrong section is as common as a misspelt one.
fn elsewhere(key: &str) -> Option<String> {
    known().find(|path| path.rsplit('.').next() == Some(key)).map(str::to_owned)
}

fn check_elements(value: &Value, path: &str, fields: &[&str], report: &mut Report) {
    let Some(elements) = value.as_array() else {
        return report.problem(path, format!("is a list: write [[{path}]] with two brackets"));
    };
    for (index, element) in elements.iter().enumerate() {
        let element_path = format!("{path}[{index}]");
        let Some(table) = element.as_table() else {
            report.problem(&element_path, format!("is not a table: write [[{path}]] and its keys below"));
            continue;
        };
        for key in table.keys().filter(|key| !fields.contains(&key.as_str())) {
            let key_path = format!("{element_path}.{key}");
            let meant = || among(key, fields).map(|found| found.join(" or ")).or_else(|| elsewhere(key));
            match (path, meant()) {
                ("upstream.headers", _) if key == "value" => report.problem(&key_path, HEADER_VALUE),
                (_, Some(meant)) => {
                    report.problem(&key_path, format!("there is no such key; did you mean {meant}?"));
                }
                (_, None) => {
                    report
                        .problem(&key_path, format!("there is no such key; known are {}", fields.join(", ")));
                }
            }
        }
    }
}

/// Finds Stripe secrets anywhere in the file. The publishable key's slot has its own sentence, see `stripe.rs`.
fn check_secrets(value: &Value, path: &str, report: &mut Report) {
    match value {
        Value::String(text) if text.contains("whsec_") => report.problem(path, WEBHOOK_SECRET_IN_FILE),
        Value::String(text)
            if holds_stripe_secret(text)
                && path != "stripe.publishable_key"
                && path != "stripe.secret_key" =>
        {
            report.problem(path, SECRET_IN_FILE);
        }
        Value::String(text) if path == "database_url" && super::database::holds_password(text) => {
            report.problem(path, PASSWORD_IN_FILE);
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                check_secrets(element, &format!("{path}[{index}]"), report);
            }
        }
        Value::Table(table) => {
            for (key, inner) in table {
                let dot = if path.is_empty() { "" } else { "." };
                check_secrets(inner, &format!("{path}{dot}{key}"), report);
            }
        }
        _ => {}
    }
}

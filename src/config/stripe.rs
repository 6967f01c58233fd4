//! `[stripe]`: keys and where Stripe is.

use super::problem::Report;
use super::secrets::SecretSources;
use super::section::Section;
use super::{Secret, StripeConfig, parse, validate};

/// Characters that a live key has at least after its prefix. Stripe's have more; a part of one is a mistake of copying.
const MIN_LIVE_KEY: usize = 16;
const SECRET_PREFIXES: [&str; 4] = ["sk_test_", "rk_test_", "sk_live_", "rk_live_"];
const PUBLISHABLE_PREFIXES: [&str; 2] = ["pk_test_", "pk_live_"];

/// Stripe itself.
pub(super) const STRIPE_API: &str = "https://api.stripe.com";

pub(super) fn read(
    section: &Section<'_>,
    secrets: SecretSources<'_>,
    report: &mut Report,
) -> Option<StripeConfig> {
    let secret_key = secret_key(section, secrets, report);
    let publishable_key = section.text("publishable_key", report);
    if publishable_key.is_none() && !section.has("publishable_key") {
        let what = "set the environment variable STRIPE_PUBLISHABLE_KEY, or write publishable_key = \"pk_live_…\" (or pk_test_…) under [stripe]";
        section.missing("publishable_key", what, report);
    }
    let keys = check_keys(section, secret_key, publishable_key, report);
    let api_base = api_base(section, report);
    let api_version = api_version(section, report);
    let timeout = section.duration("timeout", validate::millis(100)..=validate::millis(120_000), report);
    let suffix = statement_suffix(section, report);
    let (secret_key, publishable_key) = keys?;
    Some(StripeConfig {
        secret_key,
        publishable_key,
        api_base: api_base?,
        api_version: api_version?,
        timeout: timeout?,
        statement_descriptor_suffix: suffix?,
    })
}

fn secret_key(section: &Section<'_>, secrets: SecretSources<'_>, report: &mut Report) -> Option<Secret> {
    let from_env = secrets.variable("STRIPE_SECRET_KEY");
    let file = section.text("secret_key_file", report);
    match (from_env, file) {
        (Some(_), Some(_)) => {
            report.problem(
                "stripe.secret_key_file",
                "the environment variable STRIPE_SECRET_KEY is set as well: keep one of the two",
            );
            None
        }
        (Some(key), None) => Some(key),
        (None, Some(file)) => match secrets.file(file, report) {
            Ok(key) => Some(key),
            Err(what) => {
                report.problem("stripe.secret_key_file", what);
                None
            }
        },
        (None, None) if section.has("secret_key_file") => None,
        (None, None) => {
            report.problem(
                "STRIPE_SECRET_KEY",
                "is required: set this environment variable to your rk_live_… key (or rk_test_…, sk_test_…), or name a file \
                 with stripe.secret_key_file",
            );
            None
        }
    }
}

/// Both keys, when each is a key of its kind and both are of the same mode.
fn check_keys(
    section: &Section<'_>,
    secret_key: Option<Secret>,
    publishable_key: Option<&str>,
    report: &mut Report,
) -> Option<(Secret, String)> {
    let secret_path =
        if section.has("secret_key_file") { "stripe.secret_key_file" } else { "STRIPE_SECRET_KEY" };
    let wrong = secret_key.as_ref().and_then(|key| wrong_secret(key.expose()));
    if let Some(what) = wrong {
        report.problem(secret_path, what);
    }
    let secret_key = secret_key.filter(|_| wrong.is_none());
    let wrong = publishable_key.and_then(wrong_publishable);
    if let Some(what) = wrong {
        report.problem("stripe.publishable_key", what);
    }
    let (secret_key, publishable_key) = (secret_key?, publishable_key.filter(|_| wrong.is_none())?);
    let modes = [is_live(secret_key.expose()), is_live(publishable_key)].map(mode);
    if modes[0] != modes[1] {
        let [secret, publishable] = modes;
        let what = format!(
            "is a {publishable} key, but the secret key is a {secret} key: a card tokenised with the one cannot be charged \
             with the other; take both from the same mode of Stripe's dashboard"
        );
        report.problem("stripe.publishable_key", what);
        return None;
    }
    if let (Some(ours), Some(published)) = (account_of(secret_key.expose()), account_of(publishable_key))
        && ours != published
    {
        report.warn(
            "The two keys look like keys of two Stripe accounts: a card tokenised with the publishable key could not be charged \
             with the secret one. Take both from the same account's dashboard.",
        );
    }
    if secret_key.expose().starts_with("sk_live_") {
        report.warn(
            "The secret key is sk_live_…, which may do anything in your Stripe account. A restricted key, rk_live_…, is \
             better; the README lists what it must be allowed to do.",
        );
    }
    Some((secret_key, publishable_key.to_owned()))
}

fn wrong_secret(key: &str) -> Option<&'static str> {
    if PUBLISHABLE_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        Some(
            "holds a publishable key: it belongs into STRIPE_PUBLISHABLE_KEY, and here goes the secret key, which starts with sk_ or rk_",
        )
    } else if key.starts_with("whsec_") {
        Some("holds a webhook's secret: here goes the secret key, which starts with sk_ or rk_")
    } else if !is_key(key, &SECRET_PREFIXES) {
        Some("is not a Stripe secret key: it starts with sk_live_, rk_live_, sk_test_ or rk_test_")
    } else if is_cut(key) {
        Some("is shorter than Stripe's live keys are: copy it whole")
    } else {
        None
    }
}

/// Whether the publishable key is a live one.
pub(super) fn publishes_live_key(section: &Section<'_>) -> bool {
    section.get("publishable_key").and_then(toml::Value::as_str).is_some_and(|key| is_live(key.trim()))
}

fn wrong_publishable(key: &str) -> Option<&'static str> {
    if key.starts_with("sk_") || key.starts_with("rk_") {
        Some(
            "holds a secret key, which would be published to every caller: put the pk_… key here, and replace the secret key \
             in Stripe's dashboard if this file was shared",
        )
    } else if !is_key(key, &PUBLISHABLE_PREFIXES) {
        Some("is not a Stripe publishable key: it starts with pk_live_ or pk_test_")
    } else if is_cut(key) {
        Some("is shorter than Stripe's live keys are: copy it whole")
    } else {
        None
    }
}

/// Whether real money moves with this key.
pub(super) fn is_live(key: &str) -> bool {
    ["sk_live_", "rk_live_", "pk_live_"].iter().any(|prefix| key.starts_with(prefix))
}

/// What Stripe's longer keys say of their account: after the mode they begin with "5" and the id of the account, which begins with
/// "1". Stripe does not promise that, so nothing more than a warning follows from it.
fn account_of(key: &str) -> Option<&str> {
    let rest = key.splitn(3, '_').nth(2)?;
    (rest.len() >= 60 && rest.starts_with("51")).then(|| rest.get(..16)).flatten()
}

fn mode(live: bool) -> &'static str {
    if live { "live" } else { "test" }
}

fn is_cut(key: &str) -> bool {
    is_live(key) && key.len() < "sk_live_".len() + MIN_LIVE_KEY
}

/// One of the prefixes, then up to 240 letters, digits and underscores: nothing that could break a header.
fn is_key(key: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().filter_map(|prefix| key.strip_prefix(prefix)).any(|rest| {
        (1..=240).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

fn api_base(section: &Section<'_>, report: &mut Report) -> Option<String> {
    let text = section.text("api_base", report)?;
    let path = section.path("api_base");
    let address = match parse::WebAddress::parse(text) {
        Ok(address) => address,
        Err(what) => {
            report.problem(&path, what);
            return None;
        }
    };
    if !matches!(address.path.as_str(), "" | "/") {
        report.problem(&path, format!("must not have a path: write \"{}\"", address.origin));
        return None;
    }
    if address.origin != STRIPE_API && !address.is_loopback() {
        report.problem(
            &path,
            format!("must be {STRIPE_API} or a simulator on this machine, such as http://127.0.0.1:4242"),
        );
        return None;
    }
    Some(address.origin)
}

/// The outer `Option` is "usable", the inner "given".
fn api_version(section: &Section<'_>, report: &mut Report) -> Option<Option<String>> {
    if !section.has("api_version") {
        return Some(None);
    }
    let text = section.text("api_version", report)?;
    let plain = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._;=".contains(&b));
    if plain {
        return Some(Some(text.to_owned()));
    }
    report.problem(&section.path("api_version"), "is not a version such as \"2026-03-25.dahlia\"");
    None
}

/// Rules: <https://docs.stripe.com/get-started/account/statement-descriptors>.
fn statement_suffix(section: &Section<'_>, report: &mut Report) -> Option<Option<String>> {
    if !section.has("statement_descriptor_suffix") {
        return Some(None);
    }
    let text = section.text("statement_descriptor_suffix", report)?;
    let what = if !(2..=22).contains(&text.chars().count()) {
        "must have 2 to 22 characters"
    } else if text.contains(['<', '>', '\\', '\'', '"', '*']) {
        "must not contain any of < > \\ ' \" *"
    } else if !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        "must be written in plain Latin letters, digits and signs"
    } else if !text.bytes().any(|b| b.is_ascii_alphabetic()) {
        "must contain at least one letter"
    } else {
        return Some(Some(text.to_owned()));
    };
    report.problem(&section.path("statement_descriptor_suffix"), what);
    None
}

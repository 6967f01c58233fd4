//! `[webhooks]`: how Stripe tells what became of a charge.

use std::collections::BTreeSet;
use std::time::Duration;

use super::problem::Report;
use super::secrets::SecretSources;
use super::section::Section;
use super::{Secret, WebhooksConfig, validate};

/// The variable that holds the endpoint's secrets.
pub(super) const SECRETS: &str = "STRIPE_WEBHOOK_SECRETS";
/// Another name for it.
pub(super) const SECRET: &str = "STRIPE_WEBHOOK_SECRET";
/// What the file says instead.
const FILE: &str = "webhooks.secrets_file";

/// What Stripe's signing secrets begin with.
const PREFIX: &str = "whsec_";
/// Characters behind it at least: fewer could be guessed.
const MIN_REST: usize = 24;
/// And at most.
const MAX_REST: usize = 250;
/// More are not needed to change one for another.
const MAX_SECRETS: usize = 8;

pub(super) fn read(
    section: &Section<'_>,
    sources: SecretSources<'_>,
    report: &mut Report,
) -> Option<WebhooksConfig> {
    let secrets = secrets(section, sources, report);
    let tolerance =
        section.duration("tolerance", validate::millis(10_000)..=validate::millis(600_000), report);
    let poll_every =
        section.duration("poll_every", validate::millis(5_000)..=validate::millis(3_600_000), report);
    Some(WebhooksConfig { secrets: secrets?, tolerance: whole_seconds(tolerance?), poll_every: poll_every? })
}

/// Stripe's timestamps are whole seconds.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

/// The secrets from the one place that has them; none when no place has. `None`: there is a problem, and it is reported.
///
/// Unlike other variables, one that is set to nothing is a problem here: with an empty secret anybody could sign.
fn secrets(section: &Section<'_>, sources: SecretSources<'_>, report: &mut Report) -> Option<Vec<Secret>> {
    let file = section.text("secrets_file", report);
    if file.is_none() && section.has("secrets_file") {
        return None;
    }
    let named: Vec<&str> =
        [SECRETS, SECRET].into_iter().filter(|name| sources.env.contains_key(*name)).collect();
    let (place, text) = match (named.as_slice(), file) {
        ([], None) => return Some(Vec::new()),
        ([name], None) => ((*name).to_owned(), sources.env.get(*name).cloned().unwrap_or_default()),
        ([], Some(file)) => match sources.file(file, report) {
            Ok(secrets) => (FILE.to_owned(), secrets.expose().to_owned()),
            Err(what) => {
                report.problem(FILE, what);
                return None;
            }
        },
        (several, file) => {
            let places: Vec<&str> = several.iter().copied().chain(file.map(|_| FILE)).collect();
            let what = "says the same as others do: keep one of STRIPE_WEBHOOK_SECRETS, STRIPE_WEBHOOK_SECRET and \
                        webhooks.secrets_file";
            report.problem(places.last().copied().unwrap_or(SECRETS), what);
            return None;
        }
    };
    list(&place, &text, report)
}

/// The secrets of a text, separated by commas or lines. Nothing of them is ever told.
fn list(place: &str, text: &str, report: &mut Report) -> Option<Vec<Secret>> {
    const HOW: &str = "write the whsec_… secret that Stripe shows for the endpoint";
    if text.trim().is_empty() {
        let what = format!("is set and empty: {HOW}, or remove it to go without webhooks");
        report.problem(place, what);
        return None;
    }
    let parts: Vec<&str> = text.split([',', '\n']).map(str::trim).collect();
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let number = index.saturating_add(1);
        if part.is_empty() {
            problems.push(format!("secret {number} is empty: remove the comma or line that is too many"));
        } else if !part.starts_with(PREFIX) {
            problems.push(format!("secret {number} does not start with {PREFIX}: {HOW}"));
        } else if part.len() < PREFIX.len() + MIN_REST {
            problems.push(format!(
                "secret {number} is too short, at least {MIN_REST} characters follow {PREFIX}: {HOW}, whole"
            ));
        } else if part.len() > PREFIX.len() + MAX_REST || !part.bytes().all(|b| b.is_ascii_graphic()) {
            problems.push(format!("secret {number} has characters that no secret of Stripe's has: {HOW}"));
        } else if !seen.insert(*part) {
            problems.push(format!("secret {number} is there twice: remove one of the two"));
        }
    }
    if parts.len() > MAX_SECRETS {
        problems.push(format!("there are more than {MAX_SECRETS}: keep those that Stripe still signs with"));
    }
    if problems.is_empty() {
        return Some(parts.into_iter().map(|part| Secret::new(part.to_owned())).collect());
    }
    for what in problems {
        report.problem(place, what);
    }
    None
}

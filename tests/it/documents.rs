//! The pages for users, held against the code: what callers see by name is explained by name, and every link leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prepaid402::http::metrics::{Metrics, Outcome, Readings, WebhookOutcome};
use prepaid402::protocol::stripe402::{
    PaymentPayload, PaymentRequired, PaymentResponse, Requirement, Resource, Standing, TopUpOption,
};
use prepaid402::reconciliation::difference::Kind;
use serde_json::{Value, json};

use crate::exchanges::recorded_steps;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README and everything in `docs`.
fn pages() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(root().join("docs")).unwrap();
    let files = folder
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"));
    let pages: Vec<_> = files.chain([root().join("README.md")]).collect();
    assert!(pages.len() > 6, "{pages:?}");
    pages
}

/// The cells of the first table after this line.
fn table_after(page: &str, line: &str) -> Vec<Vec<String>> {
    let mut lines =
        page.lines().skip_while(|found| *found != line).skip_while(|found| !found.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> =
        lines.by_ref().take_while(|found| found.starts_with('|')).map(cells).collect();
    assert!(rows.len() > 2, "no table after {line:?}");
    // Without its head and the line below that.
    rows.into_iter().skip(2).collect()
}

/// What a text has between backticks.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn all<T>(value: T) -> Option<T> {
    Some(value)
}

/// What the page says of the type of a JSON value.
fn word_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "true",
        Value::Number(_) => "integer",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
        Value::Null => panic!("every field must have a value"),
    }
}

/// Every field that the wire's shapes can have, where the page explains them. Without `..`, so that a new field is missed here first.
fn shapes() -> Vec<(&'static str, Value)> {
    let text = || "x".to_owned();
    let standing = Standing { spendable: all(0), frozen: all(true), debt: all(0) };
    let resource = Resource { url: text(), description: all(text()), mime_type: all(text()) };
    let requirement = Requirement {
        scheme: text(),
        network: text(),
        currency: text(),
        amount: 1,
        min_top_up: 1,
        publishable_key: text(),
        description: all(text()),
        price: all(text()),
        max_top_up: all(1),
    };
    let option = TopUpOption { amount: 1, credits: 1, label: text() };
    let offer = PaymentRequired {
        stripe402_version: 1,
        x402_version: 2,
        resource: resource.clone(),
        accepts: vec![requirement.clone()],
        error: all(text()),
        top_up_options: vec![option.clone()],
        message: text(),
        code: text(),
        retryable: true,
        who_acts: text(),
        request_id: text(),
        balance: all(1),
        standing,
        saved_card: text(),
    };
    let payment = PaymentPayload {
        stripe402_version: 1,
        payment_method_id: all(text()),
        client_id: all(text()),
        top_up_amount: all(1),
        max_amount: all(1),
        new_wallet: all(true),
    };
    let response = PaymentResponse {
        success: true,
        charge_id: all(text()),
        credits_remaining: all(1),
        client_id: text(),
        error: all(text()),
        error_code: all(text()),
        credits_charged: all(1),
        payment_id: all(text()),
        entry_id: all(text()),
        top_up_amount: all(1),
        idempotent_replay: all(true),
        notice: all(text()),
        standing,
    };
    vec![
        ("## The offer", json!(offer)),
        ("`resource`:", json!(resource)),
        ("Each of `accepts`:", json!(requirement)),
        ("Each of `topUpOptions`:", json!(option)),
        ("## The payment header", json!(payment)),
        ("## The payment-response header", json!(response)),
    ]
}

#[test]
fn every_field_of_the_wire_is_explained_with_its_type_and_no_other_is() {
    let page = read("docs/callers.md");
    for (heading, shape) in shapes() {
        let fields = shape.as_object().unwrap();
        let expected: BTreeMap<String, &str> =
            fields.iter().map(|(name, value)| (name.clone(), word_of(value))).collect();
        let mut explained = BTreeMap::new();
        for row in table_after(&page, heading) {
            let name = named(&row[0]).next().unwrap().to_owned();
            let word = row[1].split([' ', ',']).next().unwrap().to_owned();
            assert!(row[2].len() > 3, "{heading}: {name} has no meaning");
            assert!(explained.insert(name, word).is_none(), "{heading}: {} is there twice", row[0]);
        }
        let explained: BTreeMap<String, &str> =
            explained.iter().map(|(name, word)| (name.clone(), word.as_str())).collect();
        assert_eq!(explained, expected, "{heading}");
    }
}

/// What may be answered with a code: whether repeating helps, and who acts.
type Rows = BTreeMap<(bool, String, String), (BTreeSet<String>, BTreeSet<String>)>;

/// A row of the code's own tables, or of the page's. `is_admin`: at the door for operators.
fn add(rows: &mut Rows, is_admin: bool, (code, status): (&str, &str), repeats: &[&str], who: &[&str]) {
    let row = rows.entry((is_admin, code.to_owned(), status.to_owned())).or_default();
    row.0.extend(repeats.iter().map(|word| (*word).to_owned()));
    row.1.extend(who.iter().map(|word| word.to_lowercase()));
}

/// Reads the tables of answers in the source: `row(402, "code", false, Agent, …)`; at the door for operators also `row(409, "code",
/// "message")` and `refused(…)`, which say "false, Human" unless something else is put over it.
fn add_answers_of(rows: &mut Rows, path: &str, is_admin: bool) {
    let source: String = read(path).split("#[cfg(test)]").next().unwrap().split_whitespace().collect();
    assert!(!source.contains("code:\""), "{path}: an answer that is in no table");
    if is_admin {
        for short in [
            "letrefused=|status,code,message|row(status,code,false,Human,None,message);",
            "Answer{status,code,retryable:false,who_acts:WhoActs::Human,message,retry_after:None,}",
        ] {
            assert!(source.contains(short), "{path}: {short} means something else now");
        }
    }
    let mut found = 0;
    for call in ["row(", "refused("] {
        for (at, _) in source.match_indices(call) {
            let Some((status, rest)) = source[at + call.len()..].split_once(",\"") else { continue };
            if status.len() != 3 || !status.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let (code, rest) = rest.split_once('"').unwrap();
            let said: Vec<&str> = rest.trim_start_matches(',').splitn(3, ',').collect();
            let (repeats, who) = match said.as_slice() {
                [repeats @ ("true" | "false"), who, ..] if call == "row(" => (*repeats, *who),
                _ if is_admin => {
                    // `Answer { retryable: true, ..row(…) }`
                    let over =
                        source[..at].strip_suffix("..").and_then(|before| before.rsplit_once("Answer{"));
                    let repeats = over.is_some_and(|(_, over)| over.contains("retryable:true,"));
                    (if repeats { "true" } else { "false" }, "human")
                }
                _ => panic!("{path}: {code} does not say whether repeating helps"),
            };
            add(rows, is_admin, (code, status), &[repeats], &[who]);
            found += 1;
        }
    }
    assert!(found > 20, "{path} has its table");
}

/// The codes that `docs/callers.md` explains.
pub fn explained_codes() -> BTreeSet<String> {
    let rows = table_after(&read("docs/callers.md"), "## Error codes");
    rows.iter().map(|row| named(&row[0]).next().unwrap().to_owned()).collect()
}

#[test]
fn every_code_is_explained_with_its_status_whether_repeating_helps_and_who_acts_and_no_other_is() {
    let mut answered = Rows::new();
    add_answers_of(&mut answered, "src/paywall/refusal.rs", false);
    add_answers_of(&mut answered, "src/http/problem.rs", false);
    add_answers_of(&mut answered, "src/http/admin/api/refused.rs", true);
    let mut explained = Rows::new();
    let mut not_refusals = Vec::new();
    for row in table_after(&read("docs/callers.md"), "## Error codes") {
        let [code, status, door, who, repeats, meaning] = row.as_slice() else { panic!("{row:?}") };
        let code = named(code).next().unwrap();
        assert!(meaning.len() > 10 && !door.is_empty(), "{row:?}");
        if !status.bytes().all(|byte| byte.is_ascii_digit()) {
            not_refusals.push(code.to_owned());
            continue;
        }
        let words = |cell: &'_ str| cell.split(", ").map(str::to_owned).collect::<Vec<_>>();
        let (repeats, who) = (words(repeats), words(who));
        let (repeats, who): (Vec<&str>, Vec<&str>) =
            (repeats.iter().map(String::as_str).collect(), who.iter().map(String::as_str).collect());
        let key = (door == "admin", code.to_owned(), status.clone());
        assert!(!explained.contains_key(&key), "{row:?} is there twice");
        add(&mut explained, door == "admin", (code, status), &repeats, &who);
    }
    assert_eq!(explained, answered);
    assert_eq!(not_refusals, ["not_charged"]);
}

#[test]
fn every_member_of_our_own_answers_is_named() {
    // What operators are answered is explained for sellers.
    let (callers, sellers) = (read("docs/callers.md"), read("docs/sellers.md"));
    let explained: BTreeSet<&str> = named(&callers).chain(named(&sellers)).collect();
    // Refusals, and what `/billing` answers: no bodies of an API's.
    let ours = |(theme, text): &(String, String)| theme == "billing" || text.contains("\"code\":");
    let mut seen = BTreeSet::new();
    for (_, text) in recorded_steps().iter().filter(|step| ours(step)) {
        let parts: Vec<&str> = text.split('"').collect();
        // A text with a colon after it.
        let names = parts.windows(2).skip(1).step_by(2).filter(|pair| pair[1].trim_start().starts_with(':'));
        seen.extend(names.map(|pair| pair[0].to_owned()));
    }
    assert!(seen.len() > 60, "{seen:?}");
    let missing: Vec<_> = seen.iter().filter(|name| !explained.contains(name.as_str())).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn every_metric_is_explained_and_no_other_is() {
    let metrics = Metrics::new();
    metrics.answered(Outcome::Paid, 200, Duration::ZERO);
    metrics.webhook(WebhookOutcome::Received);
    let text = metrics.render(Readings::default());
    let counted: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .collect();
    let rows = table_after(&read("docs/operations.md"), "## Metrics");
    let explained: BTreeSet<String> = rows.iter().flat_map(|row| named(&row[0])).map(str::to_owned).collect();
    assert_eq!(explained, counted);
    for page in pages() {
        let text = read(&page);
        for name in named(&text).filter(|name| name.starts_with("prepaid402_")) {
            let is_counted = counted.contains(name) || counted.contains(&format!("{name}_total"));
            assert!(is_counted, "{}: {name}", page.display());
        }
    }
}

#[test]
fn every_difference_that_reconcile_finds_is_explained_and_no_other_is() {
    let rows = table_after(&read("docs/operations.md"), "## Reconcile");
    let explained: Vec<&str> = rows.iter().flat_map(|row| named(&row[0])).collect();
    let found: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.code()).collect();
    assert_eq!(explained.len(), found.len(), "none twice");
    assert_eq!(explained.into_iter().collect::<BTreeSet<_>>(), found);
}

#[test]
fn every_setting_that_a_page_names_exists() {
    let defaults = read("src/config/default.toml");
    let mut known = BTreeSet::new();
    let mut section = "";
    for line in defaults.lines() {
        let line = line.trim_start_matches('#');
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            known.insert(format!("{section}.{key}"));
        }
    }
    let sections: BTreeSet<&str> =
        known.iter().filter_map(|key| key.split_once('.')).map(|(s, _)| s).collect();
    let mut seen = 0;
    for page in pages() {
        let text = read(&page);
        for name in named(&text) {
            let setting = name.split(" = ").next().unwrap();
            let Some((section, key)) = setting.split_once('.') else { continue };
            let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            if is_key && sections.contains(section) && !section.is_empty() {
                assert!(known.contains(setting), "{}: {setting}", page.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

/// As hosts of repositories make it from a heading.
fn anchor_of(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// A page without what is quoted in blocks.
fn prose(page: &Path) -> String {
    let text = read(page);
    let mut is_quoted = false;
    let mut is_prose = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_quoted ^= is_fence;
        !is_quoted && !is_fence
    };
    text.lines().filter(&mut is_prose).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for page in pages().into_iter().chain(["ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name))) {
        let text = prose(&page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (path, anchor) =
                link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link}", page.display());
            if let Some(anchor) = anchor {
                let headings = prose(&target);
                let mut headings = headings.lines().filter_map(|line| line.strip_prefix('#'));
                let is_there = headings.any(|heading| anchor_of(heading.trim_start_matches('#')) == anchor);
                assert!(is_there, "{}: {link}", page.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

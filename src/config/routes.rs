//! `[[routes]]`: what is sold at what price.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Value;

use super::problem::{Report, shown};
use super::section::Section;
use super::validate::{MAX_BODY, millis};
use super::{IdleLimit, RouteConfig, TopUpConfig, parse};
use crate::domain::Currency;
use crate::pricing::route_table::{METHODS, Written, check_path, equal_routes};
use crate::pricing::{PriceRule, RouteCharge, StatusSet};

const MAX_ROUTES: usize = 1_000;
const MAX_PATTERN: usize = 512;
const MAX_DESCRIPTION_CHARS: usize = 500;
const TIMES: RangeInclusive<Duration> = millis(10)..=millis(3_600_000);

pub(super) fn read(
    root: &Section<'_>,
    top_up: Option<(&TopUpConfig, Currency)>,
    report: &mut Report,
) -> Vec<RouteConfig> {
    let elements = root.elements("routes");
    if elements.len() > MAX_ROUTES {
        report.problem(
            "routes",
            format!("there are more than {MAX_ROUTES} routes: use {{name}} and * in paths"),
        );
        return Vec::new();
    }
    if elements.is_empty() && !root.has("routes") {
        report.warn("There are no [[routes]]: every path is answered 404, nothing is sold.");
    }
    let read: Vec<Read> = elements.iter().map(|element| route(element, top_up, report)).collect();
    // Of all that can be compared: what is wrong with a price does not hide what is wrong with a path.
    let written: Vec<Written<'_>> = read
        .iter()
        .enumerate()
        .filter_map(|(index, read)| Written::new(index, read.methods.as_ref()?, read.pattern.as_ref()?).ok())
        .collect();
    for problem in equal_routes(&written) {
        report.problem(&format!("routes[{}].path", problem.index), problem.message);
    }
    let routes: Vec<RouteConfig> = read.into_iter().filter_map(Read::whole).collect();
    let prices = routes.iter().filter_map(|route| route.charge.rule()).map(PriceRule::most);
    if let (Some(dearest), Some((top_up, currency))) = (prices.max(), top_up) {
        super::top_up::check_dearest(top_up, dearest, currency, report);
    }
    routes
}

/// A route, as far as it can be read.
struct Read {
    methods: Option<BTreeSet<String>>,
    pattern: Option<String>,
    charge: Option<RouteCharge>,
    charged_statuses: Option<StatusSet>,
    description: Option<String>,
    mime_type: Option<String>,
    response_timeout: Option<Duration>,
    idle_timeout: Option<IdleLimit>,
    body_timeout: Option<Duration>,
    max_body_bytes: Option<u64>,
}

impl Read {
    /// `None`: something is wrong with it, which was told.
    fn whole(self) -> Option<RouteConfig> {
        Some(RouteConfig {
            methods: self.methods?,
            pattern: self.pattern?,
            charge: self.charge?,
            description: self.description,
            mime_type: self.mime_type,
            charged_statuses: self.charged_statuses?,
            response_timeout: self.response_timeout,
            idle_timeout: self.idle_timeout,
            body_timeout: self.body_timeout,
            max_body_bytes: self.max_body_bytes,
        })
    }
}

fn route(element: &Section<'_>, top_up: Option<(&TopUpConfig, Currency)>, report: &mut Report) -> Read {
    Read {
        methods: methods(element, report),
        pattern: pattern(element, report),
        charge: charge(element, top_up, report),
        description: description(element, report),
        mime_type: mime_type(element, report),
        charged_statuses: charged_statuses(element, report),
        response_timeout: element.duration("response_timeout", TIMES, report),
        idle_timeout: element.duration_or_none("idle_timeout", TIMES, report),
        body_timeout: element.duration("body_timeout", TIMES, report),
        max_body_bytes: element.integer("max_body_bytes", 0..=MAX_BODY, report).map(u64::from),
    }
}

fn methods(element: &Section<'_>, report: &mut Report) -> Option<BTreeSet<String>> {
    if !element.has("methods") {
        return Some(BTreeSet::from(["GET".to_owned()]));
    }
    let path = element.path("methods");
    let texts = element.texts("methods", report)?;
    if texts.is_empty() {
        report.problem(&path, "is empty: write methods = [\"GET\"]");
        return None;
    }
    let before = report.problems.len();
    for text in &texts {
        let upper = text.to_ascii_uppercase();
        let token =
            (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
        if !token {
            report.problem(&path, format!("{} is not an HTTP method", shown(text)));
        } else if upper != *text {
            report.problem(&path, format!("{} must be in capitals: write \"{upper}\"", shown(text)));
        } else if upper == "OPTIONS" {
            report.problem(&path, "OPTIONS is answered by the gateway and never priced: remove it");
        } else if upper == "CONNECT" || upper == "TRACE" {
            report.problem(&path, format!("{upper} is never passed on: remove it"));
        } else if !METHODS.contains(text) {
            report.problem(&path, format!("{} is not one of {}", shown(text), METHODS.join(", ")));
        }
    }
    (report.problems.len() == before).then(|| texts.into_iter().map(str::to_owned).collect())
}

/// What is the gateway's own, and what the route table would refuse.
fn pattern(element: &Section<'_>, report: &mut Report) -> Option<String> {
    if !element.has("path") {
        element.missing("path", "write path = \"/api/weather\"", report);
    }
    let text = element.text("path", report)?;
    let what = if !text.starts_with('/') {
        "must start with /"
    } else if text.len() > MAX_PATTERN {
        "is longer than 512 bytes"
    } else if text.contains(['?', '#']) {
        "must be a path without ? or #: a query never changes the price"
    } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        "must not contain blanks"
    } else if text == "/billing" || text.starts_with("/billing/") {
        "is the gateway's own: clients see their balance under /billing"
    } else if text == "/webhooks" || text.starts_with("/webhooks/") {
        "is the gateway's own: Stripe calls /webhooks/stripe"
    } else {
        return match check_path(text) {
            Ok(()) => Some(text.to_owned()),
            Err(what) => {
                report.problem(&element.path("path"), what);
                None
            }
        };
    };
    report.problem(&element.path("path"), what);
    None
}

fn charge(
    element: &Section<'_>,
    top_up: Option<(&TopUpConfig, Currency)>,
    report: &mut Report,
) -> Option<RouteCharge> {
    match (element.has("price"), element.has("free")) {
        (false, false) => {
            element.missing("price", "write price = \"0.05\", or free = true if it costs nothing", report);
            None
        }
        (true, true) => {
            report.problem(&element.path("price"), "free is set as well: keep one of the two");
            None
        }
        (false, true) => {
            let free = element.boolean("free", report)?;
            if !free {
                report.problem(&element.path("free"), "must be true, or be replaced by price = \"0.05\"");
            }
            free.then_some(RouteCharge::Free)
        }
        (true, false) => {
            let price = element.amount("price", report)?;
            if price.is_zero() {
                report.problem(&element.path("price"), "is zero: write free = true if it costs nothing");
                return None;
            }
            if let Some((top_up, currency)) = top_up.filter(|(top_up, _)| price > top_up.maximum) {
                let what = format!(
                    "is above top_up.maximum, {}: nobody could pay it with one top-up",
                    currency.decimal(top_up.maximum)
                );
                report.problem(&element.path("price"), what);
                return None;
            }
            Some(RouteCharge::fixed(price))
        }
    }
}

fn description(element: &Section<'_>, report: &mut Report) -> Option<String> {
    let text = element.text("description", report)?;
    if text.chars().count() > MAX_DESCRIPTION_CHARS || text.chars().any(char::is_control) {
        let what = format!("must be one line of at most {MAX_DESCRIPTION_CHARS} characters");
        report.problem(&element.path("description"), what);
        return None;
    }
    Some(text.to_owned())
}

fn mime_type(element: &Section<'_>, report: &mut Report) -> Option<String> {
    let text = element.text("mime_type", report)?;
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let named = essence.trim().split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    if named && text.len() <= 100 && parameters.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Some(text.to_owned());
    }
    report.problem(
        &element.path("mime_type"),
        format!("{} is not a type such as \"application/json\"", shown(text)),
    );
    None
}

fn charged_statuses(element: &Section<'_>, report: &mut Report) -> Option<StatusSet> {
    let path = element.path("charged_statuses");
    let elements = match element.get("charged_statuses") {
        None => return Some(StatusSet::default_charged()),
        Some(Value::Array(elements)) if !elements.is_empty() => elements,
        Some(Value::Array(_)) => {
            report.problem(&path, "is empty: write free = true if nothing is charged");
            return None;
        }
        Some(_) => {
            report.problem(&path, "is a list: write charged_statuses = [\"2xx\", \"304\"]");
            return None;
        }
    };
    let mut codes = BTreeSet::new();
    for element in elements {
        let text = match element {
            Value::String(text) => text.trim().to_owned(),
            Value::Integer(code) => code.to_string(),
            _ => String::new(),
        };
        match parse::statuses(&text) {
            Some(range) => codes.extend(range),
            None => {
                let what =
                    format!("{} is not a code from 200 to 599 or a class such as \"2xx\"", shown(&text));
                report.problem(&path, what);
                return None;
            }
        }
    }
    Some(StatusSet::new(codes))
}

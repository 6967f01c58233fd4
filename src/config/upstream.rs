//! `[upstream]`: the API that is sold, and the headers that prove the gateway to it.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HeaderName, HeaderValue};

use super::problem::{Report, shown};
use super::secrets::SecretSources;
use super::section::Section;
use super::validate::millis;
use super::{Secret, UpstreamConfig, parse::WebAddress};
use crate::protocol::SPOKEN;
use crate::trust::{CA_FILE_VARIABLE, Trust};

/// Headers that belong to the connection, or to us, and are never set from the file.
const RESERVED_HEADERS: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-length",
];

/// More than anybody needs, and little enough for any upstream's header limit.
const MAX_HEADERS: usize = 32;

pub(super) fn read(
    section: &Section<'_>,
    secrets: SecretSources<'_>,
    listen: Option<SocketAddr>,
    report: &mut Report,
) -> Option<UpstreamConfig> {
    let url = url(section, listen, report);
    let trust = trust(section, secrets, url.as_deref(), report);
    let headers = headers(section, secrets, report);
    let connect_timeout = section.duration("connect_timeout", millis(10)..=millis(300_000), report);
    let response_timeout = section.duration("response_timeout", millis(10)..=millis(3_600_000), report);
    let idle_timeout = section.duration("idle_timeout", millis(10)..=millis(3_600_000), report);
    let preserve_host = section.boolean("preserve_host", report);
    Some(UpstreamConfig {
        url: url?,
        trust,
        headers,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        idle_timeout: idle_timeout?,
        preserve_host: preserve_host?,
    })
}

fn url(section: &Section<'_>, listen: Option<SocketAddr>, report: &mut Report) -> Option<String> {
    if !section.has("url") {
        section.missing(
            "url",
            "write url = \"http://127.0.0.1:8080\" under [upstream], the API to sell",
            report,
        );
    }
    let text = section.text("url", report)?;
    match check_url(text, listen) {
        Ok(url) => Some(url),
        Err(what) => {
            report.problem(&section.path("url"), what);
            None
        }
    }
}

/// The roots that a setting and the environment name. Without TLS nobody is asked to vouch.
fn trust(section: &Section<'_>, secrets: SecretSources<'_>, url: Option<&str>, report: &mut Report) -> Trust {
    let file = section.text("ca_file", report).map(|name| (section.path("ca_file"), name.to_owned()));
    let variable = secrets.env.get(CA_FILE_VARIABLE).map(|name| name.trim()).filter(|name| !name.is_empty());
    let variable = variable.filter(|_| url.is_none_or(|url| url.starts_with("https:")));
    let variable = variable.map(|name| (CA_FILE_VARIABLE.to_owned(), name.to_owned()));
    let mut trust = Trust::default();
    for (path, name) in file.into_iter().chain(variable) {
        match Trust::from_file(&secrets.dir.join(name)) {
            Ok(more) => trust = trust.and(&more),
            Err(what) => report.problem(&path, what),
        }
    }
    trust
}

/// The address without a trailing slash, or a sentence.
fn check_url(text: &str, listen: Option<SocketAddr>) -> Result<String, &'static str> {
    let address = WebAddress::parse(text)?;
    if is_metadata(&address) {
        return Err(
            "is a link-local or cloud metadata address, which must never be sold: name your API's own address",
        );
    }
    let own_host = match (address.ip(), listen) {
        (Some(ip), Some(listen)) => {
            ip == listen.ip()
                || ip.is_unspecified()
                || (listen.ip().is_unspecified() && address.is_loopback())
        }
        (None, Some(listen)) => {
            address.is_loopback() && (listen.ip().is_loopback() || listen.ip().is_unspecified())
        }
        (_, None) => false,
    };
    if own_host && listen.is_some_and(|listen| listen.port() == address.port) {
        return Err("is this gateway's own listen address: name the address of the API behind it");
    }
    Ok(format!("{}{}", address.origin, address.path.trim_end_matches('/')))
}

/// Addresses where clouds hand out credentials to whoever asks from inside.
fn is_metadata(address: &WebAddress) -> bool {
    if matches!(address.host.trim_end_matches('.'), "metadata.google.internal" | "metadata") {
        return true;
    }
    match address.ip().map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => ip.is_link_local() || ip.octets() == [100, 100, 100, 200],
        Some(IpAddr::V6(ip)) => {
            ip.segments()[0] & 0xffc0 == 0xfe80 || ip.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        }
        None => false,
    }
}

fn headers(section: &Section<'_>, secrets: SecretSources<'_>, report: &mut Report) -> Vec<(String, Secret)> {
    let elements = section.elements("headers");
    if elements.len() > MAX_HEADERS {
        report.problem(&section.path("headers"), format!("there are more than {MAX_HEADERS} headers"));
        return Vec::new();
    }
    let mut headers: Vec<(String, Secret)> = Vec::new();
    for element in &elements {
        let name = header_name(element, report);
        let value = header_value(element, secrets, report);
        let (Some(name), Some(value)) = (name, value) else { continue };
        if headers.iter().any(|(known, _)| *known == name) {
            report.problem(&element.path("name"), format!("{} is set twice", shown(&name)));
        } else {
            headers.push((name, value));
        }
    }
    headers
}

fn header_name(element: &Section<'_>, report: &mut Report) -> Option<String> {
    if !element.has("name") {
        element.missing("name", "write name = \"x-gateway-token\"", report);
    }
    let text = element.text("name", report)?;
    let name = match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) if text.len() <= 100 => name.as_str().to_owned(),
        _ => {
            let what = format!("{} is not a header name: letters, digits and dashes only", shown(text));
            report.problem(&element.path("name"), what);
            return None;
        }
    };
    if RESERVED_HEADERS.contains(&name.as_str()) || SPOKEN.owns(&name) {
        let what = format!(
            "{name} belongs to the connection or to the payment: choose a name such as \"x-gateway-token\""
        );
        report.problem(&element.path("name"), what);
        return None;
    }
    Some(name)
}

fn header_value(element: &Section<'_>, secrets: SecretSources<'_>, report: &mut Report) -> Option<Secret> {
    let (key, found) = match (element.has("value_env"), element.has("value_file")) {
        (true, true) => {
            report.problem(&element.path("value_env"), "value_file is set as well: keep one of the two");
            return None;
        }
        // A plain `value` was refused by the key check, with what to write instead.
        (false, false) if element.has("value") => return None,
        (false, false) => {
            element.missing(
                "value_env",
                "write value_env = \"UPSTREAM_TOKEN\" and set that variable",
                report,
            );
            return None;
        }
        (true, false) => {
            let variable = element.text("value_env", report)?;
            if ["STRIPE_SECRET_KEY", "PREPAID402_KEY_SECRET"].contains(&variable) {
                let what = format!(
                    "{variable} is the gateway's own secret and must not be sent to the upstream: name another variable"
                );
                report.problem(&element.path("value_env"), what);
                return None;
            }
            let missing = || format!("the environment variable {} is not set", shown(variable));
            ("value_env", secrets.variable(variable).ok_or_else(missing))
        }
        (false, true) => ("value_file", secrets.file(element.text("value_file", report)?, report)),
    };
    let usable = found.and_then(|secret| {
        let fits = secret.expose().len() <= 8_192 && HeaderValue::from_str(secret.expose()).is_ok();
        if fits {
            Ok(secret)
        } else {
            Err("its value cannot be sent in a header: one line of plain text".to_owned())
        }
    });
    usable.map_err(|what| report.problem(&element.path(key), what)).ok()
}

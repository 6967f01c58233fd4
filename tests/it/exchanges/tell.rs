//! What happened, as lines of a file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::names::{Named, Names};
use super::play::{Observed, Shown};
use super::text::{escaped, json_lines, lines as text_lines, shortened};
use super::wire::{Answer, Framing, Silence, Then};
use crate::support::upstream::Seen;

/// The lines to record for one step. `varying` headers are named without their value.
pub fn lines(observed: &Observed, names: &mut Names, varying: &[&str], whole_upstream: bool) -> Vec<String> {
    let mut lines = Vec::new();
    match &observed.shown {
        Shown::Command(ran) => {
            lines.push(format!("exit code {}", ran.code));
            for (title, text) in [("standard output", &ran.out), ("standard error", &ran.err)] {
                if !text.is_empty() {
                    lines.push(format!("--- {title}"));
                    lines.extend(text_lines(names.masked(text).text.as_bytes()));
                }
            }
        }
        Shown::HungUp => lines.push("--- the caller hung up".to_owned()),
        Shown::Answers { interim, answer, then } => {
            for answer in interim {
                lines.extend(answer_lines(answer, names, varying).0);
                lines.push("--- and then".to_owned());
            }
            match answer {
                Ok(answer) => {
                    let (answer, framing) = answer_lines(answer, names, varying);
                    lines.extend(answer);
                    lines.push(match then {
                        Some(then) => format!("--- {framing}; {}", what_then(then, names)),
                        None => format!("--- {framing}"),
                    });
                }
                Err(silence) => lines.push(format!("--- no answer; {}", what_silence(silence, names))),
            }
        }
    }
    if let Some(seen) = &observed.seen {
        if seen.is_empty() {
            lines.push("--- upstream saw nothing".to_owned());
        }
        for seen in seen {
            lines.extend(upstream_lines(seen, names, whole_upstream));
        }
    }
    if let Some(handled) = observed.handled {
        lines.push(format!("--- handlers were called {handled}×"));
    }
    match observed.ledger.as_deref() {
        None => {}
        Some([]) => lines.push("--- ledger: nothing".to_owned()),
        Some(moved) => {
            lines.push("--- ledger".to_owned());
            lines.extend(moved.iter().map(|line| names.masked(line).text));
        }
    }
    lines.iter().map(|line| shortened(line)).collect()
}

/// Head and body of an answer, and how its body is framed.
fn answer_lines(answer: &Answer, names: &mut Names, varying: &[&str]) -> (Vec<String>, String) {
    // The ids of the head come before those of the body.
    let body_text = std::str::from_utf8(&answer.body).ok();
    let mut headers: Vec<&(String, Vec<u8>)> = answer.headers.iter().collect();
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    let mut head = vec![escaped(answer.status_line.as_bytes())];
    let mut length_at = None;
    for (name, value) in headers {
        if name == "content-length" {
            length_at = Some(head.len());
        }
        if varying.contains(&name.as_str()) {
            head.push(format!("{name}: <varies>"));
        } else {
            head.extend(header_lines(name, value, &answer.body, names));
        }
    }
    let mut lines = Vec::new();
    let mut is_json = false;
    let mut varies = false;
    if !answer.body.is_empty() {
        let Named { text, varies: body_varies } = match body_text {
            Some(text) => names.masked(text),
            None => Named { text: String::new(), varies: false },
        };
        varies = body_varies;
        lines.push(String::new());
        match body_text {
            None => lines.extend(text_lines(&answer.body)),
            Some(plain) => match json_lines(plain, &text) {
                Some(json) => {
                    is_json = true;
                    lines.extend(json);
                }
                None => lines.extend(text_lines(text.as_bytes())),
            },
        }
    }
    if let (Some(at), true, Framing::Length(length)) = (length_at, varies, answer.framing) {
        // It was read by its length, so the length is right.
        head[at] = format!("content-length: {}", if length == answer.body.len() { "<n>" } else { "<wrong>" });
    }
    head.extend(lines);
    let framing = match answer.framing {
        Framing::Bodiless => "no body".to_owned(),
        Framing::Length(_) => "content-length".to_owned(),
        Framing::Chunked => "chunked".to_owned(),
        Framing::UntilClose => "until close".to_owned(),
        Framing::Cut(Some(length)) => format!("cut short of content-length {length}"),
        Framing::Cut(None) => "cut short, chunked".to_owned(),
        Framing::Unreadable => "chunks that cannot be read".to_owned(),
    };
    (head, if is_json { format!("{framing}, JSON") } else { framing })
}

fn header_lines(name: &str, value: &[u8], body: &[u8], names: &mut Names) -> Vec<String> {
    let encodes = ["payment-required", "payment-response"].contains(&name);
    let decoded = encodes.then(|| STANDARD.decode(value).ok()).flatten();
    if let Some(plain) = decoded.filter(|plain| STANDARD.encode(plain).as_bytes() == value) {
        if !body.is_empty() && plain == body {
            return vec![format!("{name}: base64 of the body")];
        }
        if let Ok(plain) = String::from_utf8(plain) {
            let masked = names.masked(&plain).text;
            if let Some(lines) = json_lines(&plain, &masked) {
                let mut all = vec![format!("{name}: base64")];
                all.extend(lines.into_iter().map(|line| format!("  {line}")));
                return all;
            }
        }
    }
    let shown = match std::str::from_utf8(value) {
        Ok(text) => escaped(names.masked(text).text.as_bytes()),
        Err(_) => escaped(value),
    };
    vec![format!("{name}: {shown}").trim_end().to_owned()]
}

fn what_then(then: &Then, names: &mut Names) -> String {
    match then {
        Then::StaysOpen => "the connection stays open".to_owned(),
        Then::Closes => "the connection closes".to_owned(),
        Then::ClosesUnannounced => "the connection closes unannounced".to_owned(),
        Then::HalfClosed => "the caller closes its side, and the connection ends".to_owned(),
        Then::Hangs => "the connection hangs".to_owned(),
        Then::Leftover(bytes) => format!("left over on the connection: {}", shown(bytes, names)),
    }
}

fn what_silence(silence: &Silence, names: &mut Names) -> String {
    let (what, bytes) = match silence {
        Silence::Closed(bytes) => ("the connection closes", bytes),
        Silence::Hangs(bytes) => ("the connection hangs", bytes),
    };
    if bytes.is_empty() { what.to_owned() } else { format!("{what} after {}", shown(bytes, names)) }
}

fn shown(bytes: &[u8], names: &mut Names) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => escaped(names.masked(text).text.as_bytes()),
        Err(_) => escaped(bytes),
    }
}

fn upstream_lines(seen: &Seen, names: &mut Names, is_whole: bool) -> Vec<String> {
    let target = names.masked(&seen.target).text;
    if !is_whole {
        let body = if seen.body.is_empty() { String::new() } else { format!(", {} bytes", seen.body.len()) };
        return vec![format!("--- upstream saw {} {target}{body}", seen.method)];
    }
    let mut lines = vec!["--- upstream saw".to_owned(), format!("{} {target}", seen.method)];
    for (name, value) in &seen.headers {
        let value = escaped(names.masked(value).text.as_bytes());
        lines.push(format!("{name}: {value}").trim_end().to_owned());
    }
    if !seen.body.is_empty() {
        lines.push(String::new());
        lines.extend(text_lines(&seen.body));
    }
    lines
}

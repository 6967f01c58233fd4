//! From the lines of a file to the bytes of a message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::text::unescaped;
use crate::support::upstream::{Script, ThenUpstream};

/// A request.
#[derive(Debug, Clone)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub is_head: bool,
    pub is_http10: bool,
}

/// The bytes of a request. `sign` makes the signature of a webhook with this body, so many seconds from now.
pub fn request(lines: &[String], sign: impl Fn(Signed<'_>) -> String) -> Result<Message, String> {
    let (head, body) = parts(lines)?;
    let first = head.first().cloned().unwrap_or_default();
    let mut bytes = Vec::new();
    for line in head {
        let mut line = line.replace("{{length}}", &body.len().to_string());
        while let Some((before, rest)) = line.clone().split_once("{{signature") {
            let (away, after) = rest.split_once("}}").ok_or("no }} after {{signature")?;
            let away = away.trim();
            let seconds =
                if away.is_empty() { 0 } else { away.parse().map_err(|_| format!("no seconds: {away}"))? };
            line = format!("{before}{}{after}", sign(Signed { body: &body, seconds_away: seconds }));
        }
        bytes.extend(head_line(&line)?);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend(body);
    Ok(Message { bytes, is_head: first.starts_with("HEAD "), is_http10: first.ends_with("HTTP/1.0") })
}

/// What a webhook's signature is about.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub body: &'a [u8],
    pub seconds_away: i64,
}

/// An answer of the upstream. The title says what it does then.
pub fn upstream(title: &str, lines: &[String]) -> Result<Script, String> {
    let then = match title {
        "upstream answers" | "upstream answers, then goes on" => ThenUpstream::GoesOn,
        "upstream answers, then closes" => ThenUpstream::Closes,
        "upstream answers, then hangs" => ThenUpstream::Hangs,
        other => return Err(format!("nobody knows what this upstream does: {other}")),
    };
    let (head, body) = parts(lines)?;
    let mut bytes = Vec::new();
    for line in head {
        bytes.extend(head_line(&line.replace("{{length}}", &body.len().to_string()))?);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend(body);
    Ok(Script { bytes, then })
}

/// The lines of the head, and the bytes of the body: what stands below the first empty line.
fn parts(lines: &[String]) -> Result<(Vec<String>, Vec<u8>), String> {
    let end = lines.iter().position(String::is_empty).unwrap_or(lines.len());
    let body = lines.get(end + 1..).unwrap_or_default().join("\n");
    Ok((lines[..end].to_vec(), unescaped(&body)?))
}

/// `name: base64 {…}` is sent as base64 of what stands there.
fn head_line(line: &str) -> Result<Vec<u8>, String> {
    match line.split_once(": base64 ") {
        Some((name, plain)) => Ok(format!("{name}: {}", STANDARD.encode(unescaped(plain)?)).into_bytes()),
        None => unescaped(line),
    }
}

#[test]
fn a_request_is_sent_as_it_is_written() {
    let lines = [
        "POST /x\\x00 HTTP/1.0",
        "payment: base64 {\"a\":1}",
        "content-length: {{length}}",
        "",
        "1\\r",
        "2\\n",
    ];
    let sent = request(&lines.map(str::to_owned), |_| String::new()).unwrap();
    let expected = b"POST /x\x00 HTTP/1.0\r\npayment: eyJhIjoxfQ==\r\ncontent-length: 5\r\n\r\n1\r\n2\n";
    assert_eq!(sent.bytes, expected);
    assert!(sent.is_http10 && !sent.is_head);
}

//! Bytes as text that people read and compare: every byte can be got back from it.

/// Longest line of JSON before it is broken into members.
const WIDTH: usize = 100;

/// What begins a section of a corpus file, so that no other line may begin with it.
pub const MARKS: [&str; 5] = ["### ", ">>>", "<<<", "--- ", "@"];

/// Bytes as lines. A line break is a line break; the last one, and whatever else would be lost on the way, is an escape.
pub fn lines(bytes: &[u8]) -> Vec<String> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let (bytes, is_ended) = match bytes.strip_suffix(b"\n") {
        Some(rest) => (rest, true),
        None => (bytes, false),
    };
    let mut lines: Vec<String> = bytes.split(|byte| *byte == b'\n').map(escaped_line).collect();
    if let (true, Some(last)) = (is_ended, lines.last_mut()) {
        last.push_str("\\n");
    }
    lines
}

fn escaped_line(bytes: &[u8]) -> String {
    let mut line = escaped(bytes);
    if let Some(rest) = line.strip_suffix(' ') {
        line = format!("{rest}\\x20");
    }
    if MARKS.iter().any(|mark| line.starts_with(mark) || line == mark.trim_end()) {
        line = format!("\\x{:02x}{}", line.as_bytes()[0], &line[1..]);
    }
    line
}

/// Bytes in one line.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\r' => text.push_str("\\r"),
                '\n' => text.push_str("\\n"),
                control if control.is_ascii_control() => text.push_str(&format!("\\x{:02x}", control as u32)),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The bytes that a text with escapes stands for.
pub fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let (byte, length) = match rest.as_bytes().first() {
            Some(b'\\') => (b'\\', 1),
            Some(b'r') => (b'\r', 1),
            Some(b'n') => (b'\n', 1),
            Some(b't') => (b'\t', 1),
            Some(b'x') => {
                let digits =
                    rest.get(1..3).ok_or_else(|| format!("two digits must follow \\x in {text:?}"))?;
                (u8::from_str_radix(digits, 16).map_err(|_| format!("no digits: \\x{digits}"))?, 3)
            }
            _ => return Err(format!("\\ is written \\\\: {text:?}")),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// JSON over several lines, when it is JSON that is written without any space outside of its texts: then exactly one text
/// looks so, and nothing is lost. `None` otherwise. `masked` is what is shown of it.
pub fn json_lines(text: &str, masked: &str) -> Option<Vec<String>> {
    if !text.starts_with(['{', '[']) || serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return None;
    }
    tokens(text)?;
    let tokens = tokens(masked)?;
    let mut lines = Vec::new();
    let mut at = 0;
    value(&tokens, &mut at, 0, String::new(), &mut lines);
    end_list(&mut lines);
    Some(lines)
}

/// Texts, numbers, words and signs. `None`: there is space between them.
fn tokens(text: &str) -> Option<Vec<&str>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            b'"' => {
                let mut is_escaped = false;
                let end = rest.bytes().skip(1).position(|byte| {
                    let is_end = byte == b'"' && !is_escaped;
                    is_escaped = byte == b'\\' && !is_escaped;
                    is_end
                })?;
                end + 2
            }
            space if space.is_ascii_whitespace() => return None,
            _ => rest.find(['{', '}', '[', ']', ',', ':', ' ', '\n', '\r', '\t']).unwrap_or(rest.len()),
        };
        tokens.push(&rest[..length]);
        rest = &rest[length..];
    }
    Some(tokens)
}

/// Where the value that begins at `from` ends.
fn end_of(tokens: &[&str], from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match *token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

fn value(tokens: &[&str], at: &mut usize, depth: usize, name: String, lines: &mut Vec<String>) {
    let end = end_of(tokens, *at);
    let indent = "  ".repeat(depth);
    let whole = tokens[*at..end].concat();
    let is_small = whole.chars().count() + name.len() + indent.len() <= WIDTH && depth > 0;
    if end - *at <= 2 || is_small {
        lines.push(format!("{indent}{name}{whole},"));
        *at = end;
        return;
    }
    lines.push(format!("{indent}{name}{}", tokens[*at]));
    let is_object = tokens[*at] == "{";
    *at += 1;
    while *at < end - 1 {
        if tokens[*at] == "," {
            *at += 1;
        }
        let mut name = String::new();
        if is_object {
            name = format!("{}: ", tokens[*at]);
            *at += 2;
        }
        value(tokens, at, depth + 1, name, lines);
    }
    end_list(lines);
    lines.push(format!("{indent}{},", tokens[*at]));
    *at = end;
}

/// No comma after the last of a list.
fn end_list(lines: &mut [String]) {
    if let Some(last) = lines.last_mut() {
        last.truncate(last.strip_suffix(',').unwrap_or(last).len());
    }
}

/// The line with long runs of one letter told as `{{times N x}}`.
pub fn shortened(line: &str) -> String {
    const LONG: usize = 200;
    let mut short = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let count = rest.chars().take_while(|next| *next == first).count();
        let (run, after) = rest.split_at(count * first.len_utf8());
        if count >= LONG {
            short.push_str(&format!("{{{{times {count} {first}}}}}"));
        } else {
            short.push_str(run);
        }
        rest = after;
    }
    short
}

/// A line-by-line comparison, with some lines around each difference.
pub fn difference(recorded: &[String], now: &[String]) -> String {
    let (n, m) = (recorded.len(), now.len());
    let mut common = vec![vec![0_usize; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            common[i][j] = if recorded[i] == now[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::new();
    while i < n || j < m {
        if i < n && j < m && recorded[i] == now[j] {
            all.push((' ', &recorded[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < n && (j == m || common[i + 1][j] >= common[i][j + 1]) {
            all.push(('-', &recorded[i]));
            i += 1;
        } else {
            all.push(('+', &now[j]));
            j += 1;
        }
    }
    let is_near = |at: usize| {
        let around = at.saturating_sub(2)..(at + 3).min(all.len());
        around.into_iter().any(|near| all[near].0 != ' ')
    };
    let shown = all.iter().enumerate().filter(|(at, _)| is_near(*at));
    shown.map(|(_, (sign, line))| format!("    {sign} {line}\n")).collect()
}

#[test]
fn whatever_bytes_there_are_can_be_got_back() {
    let samples: [&[u8]; 12] = [
        b"",
        b"a",
        b"a\n",
        b"\n",
        b"\n\n",
        b"a\nb\n\n",
        b"  a \n b",
        b"--- a\n>>>\n### x\n@y",
        b"a\\nb",
        b"\r\n",
        b"\x00\xff\xc3\xa9\xc3",
        b"---",
    ];
    for bytes in samples {
        let lines = lines(bytes);
        assert_eq!(unescaped(&lines.join("\n")).unwrap(), bytes, "{lines:?}");
        for line in lines {
            assert!(!MARKS.iter().any(|mark| line.starts_with(mark)) && !line.ends_with(' '), "{line:?}");
        }
    }
}

#[test]
fn long_runs_of_a_letter_are_short() {
    let (long, short) = ("x".repeat(200), "y".repeat(199));
    assert_eq!(shortened(&format!("é{long}{short}é")), format!("é{{{{times 200 x}}}}{short}é"));
}

#[test]
fn json_is_broken_into_lines_only_if_that_loses_nothing() {
    let long = "x".repeat(90);
    let text = format!(r#"{{"a":[1,{{"b":"{long}"}}],"c":{{}},"d":"\"}}, ","e":null}}"#);
    let lines = json_lines(&text, &text).unwrap();
    let expected = [
        "{".to_owned(),
        "  \"a\": [".to_owned(),
        "    1,".to_owned(),
        "    {".to_owned(),
        format!("      \"b\": \"{long}\""),
        "    }".to_owned(),
        "  ],".to_owned(),
        "  \"c\": {},".to_owned(),
        r#"  "d": "\"}, ","#.to_owned(),
        "  \"e\": null".to_owned(),
        "}".to_owned(),
    ];
    assert_eq!(lines, expected);
    assert_eq!(json_lines("[]", "[]").unwrap(), ["[]"]);
    for other in [r#"{"a": 1}"#, "{\"a\":1}\n", "1", "{", ""] {
        assert_eq!(json_lines(other, other), None, "{other}");
    }
    let masked = json_lines("{\"a\":17,\"b\":[1,2]}", "{\"a\":<entry-1>,\"b\":[1,2]}").unwrap();
    assert_eq!(masked, ["{", "  \"a\": <entry-1>,", "  \"b\": [1,2]", "}"]);
}

//! What differs from run to run, and the names it has in the files.
//!
//! In a request `{{…}}` stands for something that is made for the exchange. In what is recorded, the same thing is called the
//! same, and what the gateway has made up is numbered in the order in which it appears: `<id-1>` twice is one id.

use std::collections::HashMap;

use chrono::{DateTime, FixedOffset, TimeDelta};

/// The names of one exchange.
#[derive(Debug, Default)]
pub struct Names {
    /// Whole words that are known: clientIds, card tokens.
    words: HashMap<String, String>,
    /// Texts that are known: addresses, folders. The longest first.
    texts: Vec<(String, String)>,
    counts: HashMap<&'static str, usize>,
}

/// A text with names in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    pub text: String,
    /// Whether what stands there may be of another length next time.
    pub varies: bool,
}

/// What Stripe's ids begin with, and how long they are.
const OF_STRIPE: [(&str, usize, &str); 9] = [
    ("pm_1", 27, "pm"),
    ("pi_3", 27, "pi"),
    ("ch_3", 27, "ch"),
    ("re_3", 27, "re"),
    ("txn_", 28, "txn"),
    ("dp_1", 27, "dp"),
    ("evt_3", 28, "evt"),
    ("issfr_1", 30, "issfr"),
    ("cus_", 18, "cus"),
];

/// Before a number that is the id of an entry.
const OF_ENTRIES: [&str; 3] = ["\"entryId\":\"", "\"nextCursor\":", "\"id\":\""];

impl Names {
    pub fn word(&mut self, word: &str, name: impl Into<String>) {
        self.words.insert(word.to_owned(), name.into());
    }

    pub fn text(&mut self, text: impl Into<String>, name: &str) {
        self.texts.push((text.into(), name.to_owned()));
        self.texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    fn numbered(&mut self, word: &str, kind: &'static str) -> String {
        if let Some(name) = self.words.get(word) {
            return name.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("<{kind}-{count}>");
        self.words.insert(word.to_owned(), name.clone());
        name
    }

    /// The text with everything that differs from run to run replaced.
    pub fn masked(&mut self, text: &str) -> Named {
        let mut named = Named { text: String::new(), varies: false };
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let is_inside_word = text[..at].bytes().next_back().is_some_and(is_of_word);
            let found = if is_inside_word { None } else { self.found(&text[..at], rest) };
            let (length, name, varies) = found.unwrap_or_else(|| {
                let plain = rest.chars().next().map_or(1, char::len_utf8);
                (plain, rest[..plain].to_owned(), false)
            });
            named.text.push_str(&name);
            named.varies |= varies;
            at += length;
        }
        named
    }

    /// What begins here: its length, its name, and whether its length differs from run to run.
    fn found(&mut self, before: &str, rest: &str) -> Option<(usize, String, bool)> {
        if let Some((text, name)) = self.texts.iter().find(|(text, _)| rest.starts_with(text.as_str())) {
            return Some((text.len(), name.clone(), true));
        }
        if let Some(length) = time(rest) {
            return Some((length, "<time>".to_owned(), true));
        }
        let end = rest.bytes().position(|byte| !is_of_word(byte)).unwrap_or(rest.len());
        let word = &rest[..end];
        if word.is_empty() {
            return None;
        }
        if let Some(name) = self.words.get(word) {
            return Some((end, name.clone(), false));
        }
        if is_uuid(word) {
            return Some((end, self.numbered(word, "id"), false));
        }
        if word.len() == 47 && word.starts_with("pck_") {
            return Some((end, self.numbered(word, "client"), false));
        }
        if word.len() == 10 && word.starts_with("pck_") && rest[end..].starts_with('…') {
            return Some((end, "<beginning of a clientId>".to_owned(), false));
        }
        let of_stripe =
            OF_STRIPE.iter().find(|(begin, length, _)| word.len() == *length && word.starts_with(begin));
        if let Some((_, _, kind)) = of_stripe {
            return Some((end, self.numbered(word, kind), false));
        }
        let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && OF_ENTRIES.iter().any(|begin| before.ends_with(begin)) {
            // Apart from other words that happen to be this number.
            let name = self.numbered(&format!("entry {word}"), "entry");
            return Some((end, name, true));
        }
        None
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_uuid(word: &str) -> bool {
    word.len() == 36
        && word.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The length of a time, as RFC 3339 or HTTP write it, that is about now. Others are the same in every run.
fn time(text: &str) -> Option<usize> {
    const HTTP: &str = "aaa, 00 aaa 0000 00:00:00 GMT";
    let now = chrono::Utc::now();
    let is_now = |then: DateTime<FixedOffset>| now.signed_duration_since(then).abs() < TimeDelta::hours(12);
    if fits(text, HTTP) {
        let then = DateTime::parse_from_rfc2822(&text[..HTTP.len()]).ok()?;
        return is_now(then).then_some(HTTP.len());
    }
    if !fits(text, "0000-00-00T00:00:00") {
        return None;
    }
    let is_of_time = |byte: u8| byte.is_ascii_digit() || b"-+:.TZ".contains(&byte);
    let length = text.bytes().position(|byte| !is_of_time(byte)).unwrap_or(text.len());
    let then = DateTime::parse_from_rfc3339(&text[..length]).ok()?;
    is_now(then).then_some(length)
}

/// Whether it begins like this: `0` is any digit, `a` any letter.
fn fits(text: &str, shape: &str) -> bool {
    let is_so = |(shape, byte): (u8, u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        b'a' => byte.is_ascii_alphabetic(),
        other => other == byte,
    };
    text.len() >= shape.len() && shape.bytes().zip(text.bytes()).all(is_so)
}

#[test]
fn what_differs_from_run_to_run_has_a_name_and_nothing_else_has() {
    let mut names = Names::default();
    names.text("127.0.0.1:4711", "<gateway>");
    names.text("127.0.0.1:47", "<short>");
    let key = format!("pck_{}", "a".repeat(43));
    names.word(&key, "{{client:a}}");
    let id = "01936fd1-3c51-7000-8000-0123456789ab";
    let other = "01936fd1-3c51-7000-8000-0123456789ac";
    let mut masked = |text: &str| {
        let named = names.masked(text);
        (named.text, named.varies)
    };
    assert_eq!(masked("http://127.0.0.1:4711/x"), ("http://<gateway>/x".to_owned(), true));
    assert_eq!(masked(&format!("a {id} {other}/{id}")), ("a <id-1> <id-2>/<id-1>".to_owned(), false));
    assert_eq!(masked(&format!("x{id} {id}x")), (format!("x{id} {id}x"), false), "a part of a word is none");
    assert_eq!(masked(&format!("\"{key}\"")), ("\"{{client:a}}\"".to_owned(), false));
    assert_eq!(masked(&key.replace('a', "b")), ("<client-1>".to_owned(), false));
    assert_eq!(
        masked("pm_1NobodyKnowsThis pm_card_visa"),
        ("pm_1NobodyKnowsThis pm_card_visa".to_owned(), false)
    );
    assert_eq!(masked(&format!("pi_3{}.", "x".repeat(23))), ("<pi-1>.".to_owned(), false));
    assert_eq!(
        masked("{\"entryId\":\"17\",\"n\":17}"),
        ("{\"entryId\":\"<entry-1>\",\"n\":17}".to_owned(), true)
    );
    let now = chrono::Utc::now();
    let (offset, zulu) = (now.to_rfc3339(), now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    assert_eq!(masked(&format!("{offset}, {zulu}")), ("<time>, <time>".to_owned(), true));
    let http = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    assert_eq!(masked(&http), ("<time>".to_owned(), true));
    let others = "Mon, 01 Jan 2024 00:00:00 GMT 2024-01-01T00:00:00Z";
    assert_eq!(masked(others), (others.to_owned(), false));
    assert_eq!(masked("é 2026-01-02"), ("é 2026-01-02".to_owned(), false));
}

//! Recognises card numbers that were sent by mistake, so that they are refused and never stored or logged (PCI DSS).
//!
//! A match needs all of: 13 to 19 digits, the first of them 2 to 6 (the card schemes' ranges), the Luhn check digit, an end
//! on both sides that is neither letter, digit nor `_`, and no grouping or the grouping of a card (fours, or 4-6-5 and
//! 4-6-4). Hence UUIDs (8-4-4-4-12), Stripe's ids, client keys and dates do not match. Digits, blanks and dashes of every
//! script count as what they are. Our own, because libraries check whether a text is a card number, and do not look for one in
//! whatever a caller wrote.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Fewest digits of a card number in a running text; a shorter one is too common among other numbers.
const MIN_DIGITS: usize = 13;
/// Fewest digits of a card number in a field that holds nothing else.
const MIN_DIGITS_ALONE: usize = 12;
/// Most digits of a card number, ISO/IEC 7812.
const MAX_DIGITS: usize = 19;
/// How often one encoding may be around another.
const LAYERS: usize = 3;

/// The zero of every script that counts in tens (Unicode, general category Nd), and what looks like digits in print.
const ZEROS: [u32; 46] = [
    0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66, 0x0de6,
    0x0e50, 0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0,
    0x1c40, 0x1c50, 0x2080, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x11066,
    0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1fbf0,
];

/// Whether the text contains a card number, written in one piece or in groups with single blanks, dashes or dots.
#[must_use]
pub fn contains_card_number(text: &str) -> bool {
    let text = folded(text);
    let bytes = text.as_bytes();
    let mut position = 0;
    while position < bytes.len() {
        let (digits, end) = digits_from(bytes, position);
        if digits >= MIN_DIGITS && any_window_is_card(bytes, &groups_at(bytes, position)) {
            return true;
        }
        position = end.max(position + 1);
    }
    false
}

/// Whether a field that should hold an id holds nothing but a card number: 12 to 19 digits with any separators, behind a
/// prefix such as `pm_` or not.
#[must_use]
pub fn is_card_number(field: &str) -> bool {
    is_nothing_but_a_card_number(field, MIN_DIGITS_ALONE)
}

/// Whether a text of a payment contains a card number, or is one in an encoding: with any separators, base64 of either
/// alphabet, percent-encoded, or one of these around another.
#[must_use]
pub fn hides_card_number(text: &str) -> bool {
    hides(text, LAYERS)
}

fn hides(text: &str, layers: usize) -> bool {
    if contains_card_number(text) || is_nothing_but_a_card_number(text, MIN_DIGITS) {
        return true;
    }
    let text = text.trim();
    if layers == 0 || text.len() < MIN_DIGITS {
        return false;
    }
    let inner = |bytes: Vec<u8>| String::from_utf8(bytes).is_ok_and(|inner| hides(&inner, layers - 1));
    let percent = text.contains('%') && inner(percent_encoding::percent_decode_str(text).collect());
    percent
        || [&STANDARD, &URL_SAFE]
            .into_iter()
            .any(|alphabet| base64_of(alphabet).decode(text).is_ok_and(inner))
}

/// With padding or without it.
fn base64_of(alphabet: &Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(alphabet, config)
}

fn is_nothing_but_a_card_number(field: &str, at_least: usize) -> bool {
    let field = folded(field);
    let Some(start) = field.find(|c: char| c.is_ascii_digit()) else { return false };
    let (prefix, rest) = field.split_at(start);
    let is_prefix = prefix.ends_with('_') && prefix.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
    if !is_prefix && prefix.contains(char::is_alphanumeric)
        || rest.contains(|c: char| c.is_alphanumeric() && !c.is_ascii_digit())
    {
        return false;
    }
    let digits: Vec<u8> = rest.bytes().filter(u8::is_ascii_digit).collect();
    digits.len() >= at_least && looks_issued(&digits)
}

/// The text with ASCII digits for those of any script, a blank for any blank, a dash for any dash, and nothing for what cannot
/// be seen.
fn folded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let fold = |c: char| match c {
        _ if c.is_ascii() => Some(c),
        '\u{ad}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2060}'..='\u{2064}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' => None,
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}' => Some('-'),
        '\u{b7}' | '\u{2022}' | '\u{2024}' | '\u{2027}' | '\u{30fb}' | '\u{ff0e}' => Some('.'),
        '\u{b9}' => Some('1'),
        '\u{b2}' => Some('2'),
        '\u{b3}' => Some('3'),
        '\u{2070}' => Some('0'),
        '\u{2074}'..='\u{2079}' => char::from_digit(u32::from(c) - 0x2070, 10),
        '\u{24ea}' => Some('0'),
        '\u{2460}'..='\u{2468}' => char::from_digit(u32::from(c) - 0x245f, 10),
        _ if c.is_whitespace() => Some(' '),
        _ => digit_of_another_script(c).or(Some(c)),
    };
    Cow::Owned(text.chars().filter_map(fold).collect())
}

fn digit_of_another_script(c: char) -> Option<char> {
    let code = u32::from(c);
    let zero = ZEROS.iter().rev().find(|zero| **zero <= code)?;
    char::from_digit(code - zero, 10).filter(|_| code - zero < 10)
}

/// How many digits start at `position`, in groups that one blank, dash or dot joins, and where they end. Looked at before any
/// group is written down: ids and keys are full of digits, and hardly ever of enough.
fn digits_from(bytes: &[u8], position: usize) -> (usize, usize) {
    let (mut digits, mut at) = (0, position);
    loop {
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        digits += at - start;
        let is_joined = matches!(bytes.get(at), Some(b' ' | b'-' | b'.'))
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if at == start || !is_joined {
            return (digits, at);
        }
        at += 1;
    }
}

/// The digit groups that start at `position`, where a digit is.
fn groups_at(bytes: &[u8], position: usize) -> Vec<Range<usize>> {
    let (_, end) = digits_from(bytes, position);
    let mut start = position;
    let groups = bytes[position..end].split(|byte| !byte.is_ascii_digit()).map(|group| {
        let range = start..start + group.len();
        start = range.end + 1;
        range
    });
    groups.collect()
}

fn any_window_is_card(bytes: &[u8], groups: &[Range<usize>]) -> bool {
    (0..groups.len()).any(|first| {
        let mut digits = Vec::with_capacity(MAX_DIGITS);
        let mut lengths = Vec::new();
        for group in &groups[first..] {
            digits.extend_from_slice(&bytes[group.clone()]);
            lengths.push(group.len());
            if digits.len() > MAX_DIGITS {
                return false;
            }
            let ends_free =
                is_free(bytes, groups[first].start.checked_sub(1)) && is_free(bytes, Some(group.end));
            if digits.len() >= MIN_DIGITS && ends_free && is_card_grouping(&lengths) && looks_issued(&digits)
            {
                return true;
            }
        }
        false
    })
}

/// Whether nothing at this place makes the digits beside it part of a word. A byte beyond ASCII belongs to a letter.
fn is_free(bytes: &[u8], position: Option<usize>) -> bool {
    position
        .and_then(|at| bytes.get(at))
        .is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_' && b.is_ascii())
}

fn is_card_grouping(lengths: &[usize]) -> bool {
    match lengths {
        [_] | [4, 6, 4 | 5] => true,
        [fours @ .., last] => fours.iter().all(|length| *length == 4) && *last <= 4,
        [] => false,
    }
}

fn looks_issued(digits: &[u8]) -> bool {
    digits.len() <= MAX_DIGITS && matches!(digits.first(), Some(b'2'..=b'6')) && passes_luhn(digits)
}

/// The check digit of ISO/IEC 7812: every second digit from the right is doubled.
fn passes_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (u32::from(digit - b'0'), place % 2) {
            (value, 0) => value,
            (value, _) if value > 4 => 2 * value - 9,
            (value, _) => 2 * value,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ids::random_bytes;
    use crate::domain::{ClientKey, KeyId};

    #[test]
    fn card_numbers_are_found_wherever_they_stand() {
        for text in [
            "4242424242424242",
            "4242 4242 4242 4242",
            "4242-4242-4242-4242",
            "card=4242424242424242&exp=12/27",
            "{\"number\":\"5555555555554444\"}",
            "my card is 4000 0025 0000 3155, thanks",
            "4242 4242 4242 4242 12 27 123",
            "12 4242 4242 4242 4242",
            "3782 822463 10005",
            "378282246310005",
            "3056 930902 5904",
            "2223003122003222",
            "4222222222222",
            "6205500000000000004",
            "/4242424242424242/",
            "4242.4242.4242.4242",
            "４２４２４２４２４２４２４２４２",
            "card ٤٢٤٢ ٤٢٤٢ ٤٢٤٢ ٤٢٤٢!",
            "4242\u{a0}4242\u{2009}4242\u{202f}4242",
            "4242–4242—4242‑4242",
            "4242\u{200b}4242\u{feff}42424242",
            "𝟒𝟐𝟒𝟐 𝟜𝟚𝟜𝟚 𝟰𝟮𝟰𝟮 𝟺𝟸𝟺𝟸",
            "⁴²⁴² ④②④② ₄₂₄₂ ४२४२",
        ] {
            assert!(contains_card_number(text), "{text}");
        }
    }

    #[test]
    fn other_numbers_are_left_alone() {
        for text in [
            "",
            "4242424242424241",
            "424242424242",
            "42424242424242424242",
            "pm_4242424242424242",
            "x4242424242424242",
            "4242424242424242x",
            "é4242424242424242",
            "1700000000000",
            "1234567812345670",
            "42424242-4242-4242-4242-424242424242",
            "2026-05-06 2026-05-07",
            "4242  4242  4242  4242",
            "424242424242 4242",
        ] {
            assert!(!contains_card_number(text), "{text}");
        }
    }

    #[test]
    fn an_id_field_that_holds_a_card_number_is_recognised() {
        for field in [
            "4242424242424242",
            "pm_4242424242424242",
            "pm_4242 4242 4242 4242",
            "pm_card_4242.4242.4242.4242",
        ] {
            assert!(is_card_number(field), "{field}");
        }
        for field in ["", "pm_", "pm_1NGPjR2eZvKYlo2C", "pm_card_visa", "pm_1a4242424242424242", "pck_4242"] {
            assert!(!is_card_number(field), "{field}");
        }
    }

    #[test]
    fn encodings_hide_nothing() {
        for text in [
            "4242  4242  4242  4242",
            "4242/4242/4242/4242",
            "pm_4242_4242_4242_4242",
            "4242,4242,4242,4242",
            "4242\t4242\n4242\r4242",
            "NDI0MjQyNDI0MjQyNDI0Mg==",
            "NDI0MjQyNDI0MjQyNDI0Mg",
            " NDI0MiA0MjQyIDQyNDIgNDI0Mg== ",
            "TkRJME1qUXlOREkwTWpReU5ESTBNZz09",
            "4242%204242%204242%204242",
            "%34%32%34%32%34%32%34%32%34%32%34%32%34%32%34%32",
            "%EF%BC%94%EF%BC%92%EF%BC%94%EF%BC%92424242424242",
            "eyJjYXJkIjoiNDI0MjQyNDI0MjQyNDI0MiJ9",
            "4 2 4 2 4 2 4 2 4 2 4 2 4 2 4 2",
        ] {
            assert!(hides_card_number(text), "{text}");
        }
        for text in ["", "pm_1NGPjR2eZvKYlo2C", "424242424242", "pck_4242", "100%", "1700000000000", "🂡🂡🂡"]
        {
            assert!(!hides_card_number(text), "{text}");
        }
    }

    /// A number that passes, with a computed check digit.
    fn card_numbers() -> impl Strategy<Value = String> {
        ("[2-6]", "[0-9]{11,17}").prop_map(|(first, rest)| {
            let body = format!("{first}{rest}");
            let check = ('0'..='9').find(|digit| passes_luhn(format!("{body}{digit}").as_bytes()));
            format!("{body}{}", check.expect("one of ten digits completes it"))
        })
    }

    fn in_fours(number: &str, separator: &str) -> String {
        let groups: Vec<String> =
            number.as_bytes().chunks(4).map(|group| String::from_utf8_lossy(group).into_owned()).collect();
        groups.join(separator)
    }

    proptest! {
        #[test]
        fn every_valid_number_is_found_in_every_format(
            number in card_numbers(), separator in "[ -]?", before in "([^0-9A-Za-z_\u{80}-\u{10ffff}][ ,])?", after in "([,.;:\"'/].*)?",
        ) {
            let text = format!("{before}{}{after}", in_fours(&number, &separator));
            prop_assert!(contains_card_number(&text), "{}", text);
            let id_with_card = format!("pm_{number}");
            prop_assert!(is_card_number(&id_with_card));
        }

        #[test]
        fn one_wrong_digit_is_no_card_number(number in card_numbers(), at in 1_usize..12, by in 1_u8..10) {
            let mut digits = number.into_bytes();
            digits[at] = b'0' + (digits[at] - b'0' + by) % 10;
            prop_assert!(!contains_card_number(&String::from_utf8_lossy(&digits)));
        }

        #[test]
        fn ids_are_no_card_numbers(number in any::<u128>(), id in "(pm|pi|cus|req)_[0-9]{14,24}") {
            prop_assert!(!contains_card_number(&uuid::Uuid::from_u128(number).to_string()));
            prop_assert!(!contains_card_number(&id));
            let all_digits = format!("{:036}", number % 10_u128.pow(32));
            let grouped = format!("{}-{}-{}-{}-{}", &all_digits[..8], &all_digits[8..12], &all_digits[12..16], &all_digits[16..20], &all_digits[20..32]);
            prop_assert!(!contains_card_number(&grouped), "{}", grouped);
            let key = ClientKey::derive(&random_bytes(), KeyId::new());
            prop_assert!(!hides_card_number(key.expose()));
        }

        #[test]
        fn any_text_is_answered(text in any::<String>()) {
            let _ = (contains_card_number(&text), is_card_number(&text), hides_card_number(&text));
        }
    }
}

//! Removes what looks like a secret or a card number from Stripe's error texts and events before anybody keeps them.

use serde_json::Value;

/// Longest text kept, in characters.
const MAX_CHARS: usize = 300;
/// Prefixes of Stripe's secrets and of ours. `pm_` is one here, because repeating it reaches a wallet.
const SECRET_PREFIXES: [&str; 11] =
    ["sk_", "rk_", "pk_", "pm_", "pck_", "whsec_", "tok_", "btok_", "card_", "src_", "ek_"];
/// A run of this many digits may be a card number (ISO/IEC 7812 allows 8 to 19; Stripe's amounts have at most 8).
const MAX_DIGITS: usize = 11;
/// What stands in its place.
const REDACTED: &str = "[redacted]";

/// The text without secrets and control characters, at most 300 characters long.
pub(super) fn redact(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().take(4 * MAX_CHARS) {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '*') {
            word.push(c);
            continue;
        }
        flush(&mut word, &mut out);
        out.push(if c.is_control() { ' ' } else { c });
    }
    flush(&mut word, &mut out);
    without_long_numbers(&out).chars().take(MAX_CHARS).collect()
}

/// A JSON value of Stripe's without what could be used to pay: `pm_…`, client secrets, card numbers. Other ids stay as they are.
pub fn redact_json(value: &mut Value) {
    match value {
        Value::String(text) => *text = without_secrets(text),
        Value::Array(values) => values.iter_mut().for_each(redact_json),
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if name == "client_secret" && !member.is_null() {
                    *member = Value::String(REDACTED.to_owned());
                } else {
                    redact_json(member);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text of any length without words that are secrets or card numbers.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let end = |word: &mut String, out: &mut String| {
        if word.len() > MAX_DIGITS && word.bytes().all(|b| b.is_ascii_digit()) {
            out.push_str(REDACTED);
            word.clear();
        } else {
            flush(word, out);
        }
    };
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '*') {
            word.push(c);
        } else {
            end(&mut word, &mut out);
            out.push(c);
        }
    }
    end(&mut word, &mut out);
    out
}

/// Moves a finished word over, unless it looks like a secret.
fn flush(word: &mut String, out: &mut String) {
    let lower = word.to_ascii_lowercase();
    // `_secret_` is in the middle of a PaymentIntent's client secret.
    let secret = SECRET_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) || lower.contains("_secret_");
    // Codes such as `card_declined` start like an id, but ids have digits or capitals.
    let code = word.starts_with("card_") && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if secret && !code {
        out.push_str(REDACTED);
    } else {
        out.push_str(word);
    }
    word.clear();
}

/// Replaces runs of 12 digits or more, also when spaces or dashes group them.
fn without_long_numbers(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() || (!run.is_empty() && matches!(c, ' ' | '-')) {
            run.push(c);
        } else {
            flush_run(&mut run, &mut out);
            out.push(c);
        }
    }
    flush_run(&mut run, &mut out);
    out
}

fn flush_run(run: &mut String, out: &mut String) {
    if run.bytes().filter(u8::is_ascii_digit).count() > MAX_DIGITS {
        out.push_str(REDACTED);
        // Keep the separator that followed the number.
        out.push_str(&run[run.trim_end_matches([' ', '-']).len()..]);
    } else {
        out.push_str(run);
    }
    run.clear();
}

/// A short identifier from outside, such as an error code or a request id: visible ASCII, at most 128 characters.
pub(super) fn short_ascii(text: &str) -> Option<String> {
    let plausible = !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic());
    plausible.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{redact, redact_json, short_ascii};

    #[test]
    fn secrets_do_not_survive() {
        for (text, expected) in [
            ("Invalid API Key provided: sk_test_****1234", "Invalid API Key provided: [redacted]"),
            ("Invalid API Key provided: rk_live_51abc.", "Invalid API Key provided: [redacted]."),
            ("No such PaymentMethod: 'pm_1AbC'; a similar", "No such PaymentMethod: '[redacted]'; a similar"),
            ("pm_card_visa", "[redacted]"),
            ("sk_test_abc", "[redacted]"),
            ("key pck_abcDEF012 leaked", "key [redacted] leaked"),
            ("pi_1_secret_xyz", "[redacted]"),
            ("card 4242 4242 4242 4242 is bad", "card [redacted] is bad"),
            ("card 4242-4242-4242-4242", "card [redacted]"),
            ("card 4242424242424242.", "card [redacted]."),
            ("No such payment_intent: 'pi_1Ab'", "No such payment_intent: 'pi_1Ab'"),
            ("code card_declined, amount 99999999", "code card_declined, amount 99999999"),
            ("line\nbreak", "line break"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn events_are_kept_without_what_could_be_used_to_pay() {
        let mut event = serde_json::json!({
            "id": "evt_1Ab", "created": 1_700_000_000_123_i64,
            "data": { "object": {
                "id": "pi_3Nx", "client_secret": "anything", "payment_method": "pm_1AbC", "latest_charge": "ch_000000000001",
                "metadata": { "note": "4242424242424242 pm_2 whsec_x", "prepaid402_top_up": "0190-1234" },
                "last_payment_error": { "code": "card_declined", "payment_method": { "id": "pm_1AbC" } },
                "sources": ["src_1", "tok_1", "pi_3Nx_secret_y"],
            } },
        });
        redact_json(&mut event);
        let expected = serde_json::json!({
            "id": "evt_1Ab", "created": 1_700_000_000_123_i64,
            "data": { "object": {
                "id": "pi_3Nx", "client_secret": "[redacted]", "payment_method": "[redacted]", "latest_charge": "ch_000000000001",
                "metadata": { "note": "[redacted] [redacted] [redacted]", "prepaid402_top_up": "0190-1234" },
                "last_payment_error": { "code": "card_declined", "payment_method": { "id": "[redacted]" } },
                "sources": ["[redacted]", "[redacted]", "[redacted]"],
            } },
        });
        assert_eq!(event, expected);
    }

    #[test]
    fn length_is_bounded() {
        assert_eq!(redact(&"é".repeat(5_000)).chars().count(), 300);
        assert_eq!(short_ascii(&"a".repeat(129)), None);
        assert_eq!(short_ascii("req_1\r\nx"), None);
        assert_eq!(short_ascii("req_1").as_deref(), Some("req_1"));
    }
}

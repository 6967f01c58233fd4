//! The path as the most lenient upstream would understand it, for comparing alone: it decides which dearer route objects.
//!
//! What counts is what servers, frameworks and file systems do to a name before they look it up: they decode it, ignore case, read
//! `+` as a blank, trim blanks and dots, cut off `::$DATA`, and bring Unicode into one form: NFKC, without accents and other marks
//! (many databases' order, Windows), without characters that are not seen, and with ASCII for what Windows takes for it
//! (`best_fit.rs`). It ends there: letters of other alphabets that only look alike, `-` for `_`, and short names such as `SECRET~1`
//! are taken for what they are, because no server exchanges them by itself.

use icu_properties::props::{
    Alphabetic, DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup, NoncharacterCodePoint,
};
use icu_properties::{CodePointMapData, CodePointSetData};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::canonical_combining_class;

use super::best_fit::{FRACTION_SLASH, best_fit};
use super::{CanonicalPath, PathError, decoded_bytes, is_dot_or_blank, is_dots_before_query};

/// The stream of a file's bytes on Windows: `secret::$DATA` is `secret`.
const STREAM: &str = "::$";
/// Stands for a `/` that only Unicode's compatibility forms make (`／`, `℀`), where it is taken for a letter.
const NO_SEPARATOR: char = '\u{FFFC}';
/// What separates segments, once a text is in one form: Windows in Japan and Korea writes `\` for the last two.
const SEPARATORS: [char; 4] = ['/', '\\', '¥', '₩'];
/// Most times that a name is decoded and brought into one form again.
const MOST_ROUNDS: usize = 4;

/// Fully decoded, in one form, without a trailing slash. Its segments are the path's.
#[must_use]
pub fn folded(path: &CanonicalPath) -> String {
    fold(path.as_str())
}

/// [`folded`] for a text that is known to be canonical: a path, or one segment.
pub(in crate::pricing) fn fold(canonical: &str) -> String {
    let decoded = decoded_bytes(canonical);
    let text = String::from_utf8_lossy(&decoded);
    let mut folded = String::with_capacity(text.len());
    for (place, segment) in text.split('/').enumerate() {
        if place > 0 {
            folded.push('/');
        }
        push_segment(
            &in_one_form(segment).replace(['/', '\\'], NO_SEPARATOR.encode_utf8(&mut [0; 4])),
            &mut folded,
        );
    }
    if folded.ends_with('/') {
        folded.pop();
    }
    folded
}

/// The path of a server that brings it into one form before it splits it: `／` is a separator then, `％２Ｆ` is decoded, and
/// what follows `；` is a parameter. `None`: there is nothing of that in it.
pub(in crate::pricing) fn split_afterwards(path: &CanonicalPath) -> Option<String> {
    let decoded = decoded_bytes(path.as_str());
    if decoded.is_ascii() {
        return None;
    }
    let decoded = String::from_utf8_lossy(&decoded);
    let mut text = in_one_form(&decoded);
    let is_cut = text.contains(['%', ';', '?', '#'])
        || text.matches(SEPARATORS).count() > decoded.matches('/').count();
    if !is_cut {
        return None;
    }
    for _ in 1..MOST_ROUNDS {
        let next = in_one_form(&String::from_utf8_lossy(&decoded_bytes(&text)));
        if next == text {
            break;
        }
        text = next;
    }
    let mut folded = String::with_capacity(text.len());
    for segment in text.split(SEPARATORS) {
        folded.push('/');
        push_segment(segment.split(';').next().unwrap_or_default(), &mut folded);
        if folded.ends_with('/') {
            folded.pop();
        }
    }
    Some(folded)
}

/// Refuses a segment that is one of only dots and blanks, or none at all, once it is in one form: `．．`, or a soft hyphen.
pub(super) fn check(decoded: &str) -> Result<(), PathError> {
    for segment in decoded.split('/').filter(|segment| !segment.is_ascii()) {
        let is_nothing = |part: &str| part.chars().all(is_dot_or_blank) || is_dots_before_query(part);
        let text = in_one_form(segment);
        // A price in yen is a name.
        let mut parts = text.split(SEPARATORS).filter(|part| !part.is_empty());
        if text.split(['/', '\\']).any(is_nothing) || parts.any(is_nothing) {
            return Err(PathError::DotSegment);
        }
    }
    Ok(())
}

fn push_segment(segment: &str, into: &mut String) {
    let name = segment.find(STREAM).and_then(|end| segment.get(..end)).unwrap_or(segment);
    let name = name.trim_matches(is_dot_or_blank);
    into.extend(name.chars().map(|c| if c == '+' { ' ' } else { c }));
}

/// Without case, and what is not ASCII in its compatibility form or as the ASCII that it is taken for, without what is not seen.
/// Marks follow their letters in that form, so that they can be left out one by one.
fn in_one_form(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut without_case = String::with_capacity(text.len());
    // Before anything is taken apart: the slash of `½` is none.
    for c in seen(text.chars().map(best_fit).nfkd()) {
        fold_char(c, &mut without_case);
    }
    seen(without_case.nfkd()).collect()
}

/// What is seen of a text whose characters are taken apart, in ASCII where it is taken for that.
fn seen(text: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    let mut before = '\0';
    text.filter_map(move |c| {
        let c = match c {
            FRACTION_SLASH => NO_SEPARATOR,
            c => best_fit(c),
        };
        let is_seen = is_letter_of_its_own(c, before);
        if is_seen {
            before = c;
        }
        is_seen.then_some(c)
    })
}

/// A mark is one in its own script, where it is a vowel; anywhere else it is an ornament.
fn is_letter_of_its_own(c: char, before: char) -> bool {
    if c.is_ascii() {
        return true;
    }
    if canonical_combining_class(c) != 0 || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c) {
        return false;
    }
    match CodePointMapData::<GeneralCategory>::new().get(c) {
        GeneralCategory::Format => false,
        kind if GeneralCategoryGroup::Mark.contains(kind) => {
            !before.is_ascii() && CodePointSetData::new::<Alphabetic>().contains(c)
        }
        _ => !CodePointSetData::new::<NoncharacterCodePoint>().contains(c),
    }
}

/// By lower-, upper- and lower-casing, so that `ſ` is `s`, the Kelvin sign is `k` and `ẞ` is what `ß` is. Upper case alone would
/// leave `ẞ` as it is and make `SS` of `ß`, so lower case comes first.
fn fold_char(c: char, into: &mut String) {
    if c.is_ascii() {
        into.push(c.to_ascii_lowercase());
    } else {
        into.extend(c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase));
    }
}

#[cfg(test)]
mod tests {
    use super::super::canonicalise;
    use super::*;

    #[test]
    fn a_name_in_one_form_stays_as_it_is() {
        // The planes that have characters; the others are not assigned, or private.
        for c in (char::MIN..='\u{323af}').chain('\u{e0000}'..='\u{e01ef}') {
            let once = in_one_form(c.encode_utf8(&mut [0; 4]));
            assert_eq!(in_one_form(&once), once, "{c:?}");
        }
    }

    #[test]
    fn what_a_server_could_make_of_a_name_is_one_name() {
        for name in [
            "secret",
            "SECRET",
            "%20secret",
            "+secret",
            "%20+secret+%20.",
            "se%C2%ADcret",
            "%EF%BB%BFsecret",
            "secret%E2%80%8B",
            "s%E2%81%A0ecret%EF%B8%8F",
            "secret%E2%80%8F",
            "%EF%BD%93%EF%BD%85%EF%BD%83%EF%BD%92%EF%BD%85%EF%BD%94",
            "%F0%9D%93%BCecret",
            "%E2%93%A2ecret",
            "s%C3%A9cret",
            "se%CC%81cret",
            "secret%E3%80%80",
            "%C2%A0secret",
            "secret%EF%BC%8E",
            "secret::$DATA",
            "secret::$INDEX_ALLOCATION",
            "secret%F3%A0%81%81",
            "%E2%A0%80secret",
            "secret%E2%A0%80.",
            "%E1%9A%80secret",
            "s%EF%BF%B9ecret",
            "sec%EF%BF%BAre%EF%BF%BBt",
            "s%D8%80ecret",
            "secret%EF%BF%BE",
            "s%E2%83%9Decret",
            "s%D2%88ecret",
            "s%E0%A5%81ecret",
            "%E0%A4%83secret",
            ".secret",
            "..+.secret",
            "secret%E3%80%82",
            "secret%EF%BD%A1",
            "%E2%80%A4secret%E2%80%A4",
            "%D9%94secret%DB%94",
            "s%CE%B5cr%CE%95%CF%84",
            "secret%E2%88%B6%E2%88%B6$DATA",
        ] {
            let path = canonicalise(&format!("/open/{name}")).expect(name);
            assert_eq!(folded(&path), "/open/secret", "{name}");
        }
        for name in
            ["secre", "secret1", "sec%20ret", "sec-ret", "sec_ret", "sec.ret", "%D1%95ecret", "SECRET~1"]
        {
            let path = canonicalise(&format!("/open/{name}")).expect(name);
            assert_ne!(folded(&path), "/open/secret", "{name}");
        }
    }

    #[test]
    fn names_of_any_alphabet_stay_different() {
        let names = [
            "के",
            "का",
            "क",
            "कि",
            "ภาษา",
            "ภาษี",
            "ひらがな",
            "日本語",
            "ελιά",
            "жар",
            "½",
            "12",
            "5¥",
            "emoji 👍🏽",
        ];
        let folded: std::collections::BTreeSet<String> = names.iter().map(|name| in_one_form(name)).collect();
        assert_eq!(folded.len(), names.len(), "{folded:?}");
        for name in names {
            assert_eq!(check(&format!("/open/{name}")), Ok(()), "{name}");
        }
    }

    #[test]
    fn who_splits_afterwards_sees_other_segments() {
        for (path, expected) in [
            ("/open/secret", None),
            ("/open%EF%BC%8Fsecret", Some("/open/secret")),
            ("/open%EF%BC%BCsecret", Some("/open/secret")),
            ("/open%EF%BC%852Fsecret", Some("/open/secret")),
            ("/open%EF%BC%85%EF%BC%92%EF%BC%A6secret", Some("/open/secret")),
            ("/open/secret%EF%BC%9Bx=1", Some("/open/secret")),
            ("/open/secret%CD%BEx", Some("/open/secret")),
            ("/open/secret%EF%BC%9Fx", Some("/open/secret?x")),
            ("/open/%E2%84%80", Some("/open/a/c")),
            ("/open/%C3%A9", None),
            ("/open%E2%81%84secret", Some("/open/secret")),
            ("/open%E2%88%95secret", Some("/open/secret")),
            ("/open%E2%88%96secret", Some("/open/secret")),
            ("/open%C2%A5secret", Some("/open/secret")),
            ("/open%EF%BF%A6secret", Some("/open/secret")),
            ("/open%D9%AA2Fsecret", Some("/open/secret")),
            ("/open/100%C2%A5", Some("/open/100")),
            ("/open/%C2%BD", None),
        ] {
            let seen = split_afterwards(&canonicalise(path).expect(path));
            assert_eq!(seen.as_deref(), expected, "{path}");
        }
    }
}

use proptest::prelude::*;

use super::PathError as E;
use super::*;

#[test]
fn one_spelling() {
    for (raw, expected) in [
        ("/", "/"),
        ("/api/weather", "/api/weather"),
        ("/api/weather/", "/api/weather/"),
        ("/api/%77eather", "/api/weather"),
        ("/%7euser/%2D%5f%2e.x", "/~user/-_..x"),
        ("/a%20b%c3%a9", "/a%20b%C3%A9"),
        ("/a%21!$&'()*+,=:@", "/a%21!$&'()*+,=:@"),
        ("/API", "/API"),
        ("/..a/a..b/.well-known", "/..a/a..b/.well-known"),
        ("/a%3fb%23/%3F", "/a%3Fb%23/%3F"),
        ("/100%25", "/100%25"),
        ("/100%25/x%25zz%25up", "/100%25/x%25zz%25up"),
        ("/a+b/c++", "/a+b/c++"),
        ("/%7b%7D", "/%7B%7D"),
    ] {
        assert_eq!(canonicalise(raw).expect(raw).as_str(), expected, "{raw}");
    }
}

#[test]
fn what_servers_disagree_about_is_refused() {
    for (raw, expected) in [
        ("", E::NotAbsolute),
        ("*", E::NotAbsolute),
        ("api", E::NotAbsolute),
        ("http://host/api", E::NotAbsolute),
        ("/%", E::InvalidEscape),
        ("/%2", E::InvalidEscape),
        ("/%zz", E::InvalidEscape),
        ("/%+1", E::InvalidEscape),
        ("/%u0041", E::InvalidEscape),
        ("/a%00", E::AmbiguousEscape),
        ("/a%0d%0a", E::AmbiguousEscape),
        ("/a%7f", E::AmbiguousEscape),
        ("/a%c2%80", E::AmbiguousEscape),
        ("/a%2fb", E::AmbiguousEscape),
        ("/a%2Fb", E::AmbiguousEscape),
        ("/a%5cb", E::AmbiguousEscape),
        ("/a%3bx", E::AmbiguousEscape),
        ("/a\\b", E::ForbiddenCharacter),
        ("/a;x=1", E::ForbiddenCharacter),
        ("/a#b", E::ForbiddenCharacter),
        ("/a?b", E::ForbiddenCharacter),
        ("/a b", E::ForbiddenCharacter),
        ("/a\tb", E::ForbiddenCharacter),
        ("/a\0", E::ForbiddenCharacter),
        ("/é", E::ForbiddenCharacter),
        ("/{a}", E::ForbiddenCharacter),
        ("/a|b", E::ForbiddenCharacter),
        ("/a\"", E::ForbiddenCharacter),
        ("/%c0%af", E::NotUtf8),
        ("/%c0%ae%c0%ae", E::NotUtf8),
        ("/%ff", E::NotUtf8),
        ("/%c3", E::NotUtf8),
        ("/%ed%a0%80", E::NotUtf8),
        ("//", E::EmptySegment),
        ("//a", E::EmptySegment),
        ("/a//b", E::EmptySegment),
        ("/a//", E::EmptySegment),
        ("/.", E::DotSegment),
        ("/..", E::DotSegment),
        ("/a/./b", E::DotSegment),
        ("/a/../b", E::DotSegment),
        ("/a/%2e%2E/b", E::DotSegment),
        ("/a/.%2e", E::DotSegment),
        ("/a/%2e/", E::DotSegment),
        ("/a%252f", E::DoubleEscape),
        ("/%2541", E::DoubleEscape),
        ("/%25%34%31", E::DoubleEscape),
        ("/%252541", E::DoubleEscape),
        ("/%25u0041", E::DoubleEscape),
        ("/..%3fx", E::DotSegment),
        ("/a/.%23", E::DotSegment),
        ("/...", E::DotSegment),
        ("/..%20", E::DotSegment),
        ("/..+/b", E::DotSegment),
        ("/..%2B/b", E::DotSegment),
        ("/a/%20", E::DotSegment),
        ("/a/%C2%A0.", E::DotSegment),
        ("/+", E::DotSegment),
        ("/a/%EF%BC%8E%EF%BC%8E/b", E::DotSegment),
        ("/a/.%C2%AD./b", E::DotSegment),
        ("/a/%E2%80%A5", E::DotSegment),
        ("/a/%C2%AD/b", E::DotSegment),
        ("/a/%E2%80%8B", E::DotSegment),
        ("/a/x%EF%BC%8F..%EF%BC%8Fb", E::DotSegment),
        ("/a/x%EF%BC%BC%EF%BC%8E%EF%BC%8E", E::DotSegment),
        ("/a/%E2%A0%80", E::DotSegment),
        ("/a/%EF%BF%B9.", E::DotSegment),
        ("/a/%E3%80%82%E3%80%82", E::DotSegment),
        ("/a/x%E2%88%95..", E::DotSegment),
        ("/a/x%C2%A5..%C2%A5b", E::DotSegment),
    ] {
        assert_eq!(canonicalise(raw), Err(expected), "{raw:?}");
    }
    assert!(canonicalise(&format!("/{}", "a".repeat(MAX_PATH_BYTES - 1))).is_ok());
    assert_eq!(canonicalise(&format!("/{}", "a".repeat(MAX_PATH_BYTES))), Err(E::TooLong));
}

#[test]
fn folding_is_the_most_lenient_reading() {
    for (raw, expected) in [
        ("/", ""),
        ("/API/Weather/", "/api/weather"),
        ("/a%21%20b", "/a! b"),
        ("/%C3%89", "/e"),
        ("/%E2%84%AAelvin", "/kelvin"),
        ("/%C5%BFecret", "/secret"),
        ("/api/joke.", "/api/joke"),
        ("/api/joke%20", "/api/joke"),
        ("/api/joke%E3%80%80", "/api/joke"),
        ("/api/joke+./", "/api/joke"),
        ("/Api./joke..", "/api/joke"),
        ("/.a+b.c", "/a b.c"),
        ("/.well-known/x", "/well-known/x"),
        ("/What%3F/50%25", "/what?/50%"),
        ("/STRA%C3%9FE", "/strasse"),
        ("/STRA%E1%BA%9EE", "/strasse"),
    ] {
        assert_eq!(folded(&canonicalise(raw).expect(raw)), expected, "{raw}");
    }
}

/// Paths that are often acceptable, and sometimes nearly.
fn paths() -> impl Strategy<Value = String> {
    prop_oneof![
        "(/[a-zA-Z0-9._~!$&'()*+,=:@%-]{0,6}){1,4}",
        "(/([a-z]|%[0-9a-fA-F]{2}|%[cC]3%[89abAB][0-9a-fA-F]){1,4}){1,3}/?",
        any::<String>().prop_map(|rest| format!("/{rest}")),
    ]
}

proptest! {
    #[test]
    fn canonical_is_final_and_plain(raw in paths()) {
        if let Ok(path) = canonicalise(&raw) {
            prop_assert_eq!(canonicalise(path.as_str()), Ok(path.clone()));
            prop_assert!(path.as_str().starts_with('/') && path.as_str().is_ascii());
            prop_assert!(!path.as_str().contains("//") && !path.as_str().contains(['\\', ';', '?', '#', ' ']));
            prop_assert!(path.as_str().split('/').all(|segment| segment != "." && segment != ".."));
            // An upstream that decodes sees as many segments as we do.
            let decoded = String::from_utf8(decoded_bytes(path.as_str())).expect("UTF-8");
            prop_assert_eq!(decoded.matches('/').count(), path.as_str().matches('/').count());
            // One that decodes twice sees the same.
            prop_assert_eq!(decoded_bytes(&decoded), decoded.as_bytes());
        }
    }

    /// However a name is written, it is compared as it would be without that.
    #[test]
    fn what_is_not_seen_does_not_change_what_is_compared(
        name in "[a-z][a-z0-9_-]{0,6}[a-z]",
        unseen in prop::collection::vec((0usize..9, prop::sample::select(vec!["\u{AD}", "\u{200B}", "\u{FEFF}", "\u{FE0F}", "\u{301}", "\u{20DD}", "\u{FFFA}", "\u{93E}"])), 0..4),
        wide in any::<bool>(),
        before in prop::sample::select(vec!["", "+", "%20", "%C2%A0", "%E3%80%80", "%E2%A0%80", "."]),
        after in prop::sample::select(vec!["", "+", "%20.", "..", "%EF%BC%8E", "%E3%80%82", "%E2%A0%80", "::$DATA"]),
    ) {
        let plain = canonicalise(&format!("/open/{name}")).expect("plain");
        let mut letters: Vec<String> = name
            .chars()
            .map(|c| if wide && c.is_ascii_alphanumeric() { char::from_u32(u32::from(c) + 0xFEE0).expect("wide").to_string() } else { c.to_string() })
            .collect();
        for (at, mark) in unseen {
            let at = 1 + at % letters.len();
            letters.insert(at, mark.to_owned());
        }
        let written: String = letters
            .concat()
            .bytes()
            .map(|byte| if is_unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        let path = canonicalise(&format!("/open/{before}{written}{after}")).expect("written");
        prop_assert_eq!(folded(&path), folded(&plain));
    }

    #[test]
    fn encoding_does_not_change_what_is_meant(segment in "[a-zA-Z0-9_~-]{1,8}", mask in any::<u8>()) {
        let encoded: String = segment
            .bytes()
            .enumerate()
            .map(|(at, byte)| if mask >> at & 1 == 1 { format!("%{byte:02x}") } else { char::from(byte).to_string() })
            .collect();
        prop_assert_eq!(canonicalise(&format!("/{encoded}")), canonicalise(&format!("/{segment}")));
    }
}

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[test]
fn durations_have_a_number_and_a_unit() {
    for (text, millis) in [
        ("500ms", Some(500)),
        ("30s", Some(30_000)),
        ("5m", Some(300_000)),
        ("1h", Some(3_600_000)),
        ("0s", Some(0)),
        ("30", None),
        ("s", None),
        ("", None),
        ("-1s", None),
        ("1.5s", None),
        ("30 s", None),
        ("30S", None),
        ("9999999999s", None),
        ("3é", None),
    ] {
        assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
    }
}

#[test]
fn statuses_are_codes_or_classes() {
    for (text, range) in [
        ("2xx", Some(200..300)),
        ("5xx", Some(500..600)),
        ("304", Some(304..305)),
        ("599", Some(599..600)),
        ("1xx", None),
        ("199", None),
        ("600", None),
        ("2XX", None),
        ("+20", None),
        ("", None),
    ] {
        assert_eq!(statuses(text), range, "{text}");
    }
}

#[test]
fn networks_contain_their_addresses_only() {
    for (network, address, inside) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.0.0.0/8", "::ffff:10.1.1.1", true),
        ("192.0.2.7", "192.0.2.7", true),
        ("192.0.2.7", "192.0.2.8", false),
        ("0.0.0.0/0", "203.0.113.9", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("2001:db8::/32", "2001:db8:1::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::/0", "2001:db8::1", true),
        ("::ffff:10.0.0.0/104", "10.9.9.9", true),
    ] {
        let network: IpNetwork = network.parse().unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), inside, "{network:?} {address}");
    }
    for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "example.com", "10.0.0.0/8/8"] {
        assert_eq!(text.parse::<IpNetwork>(), Err(NotANetwork), "{text}");
    }
}

#[test]
fn web_addresses_are_taken_apart() {
    for (text, origin, host, port, path, loopback) in [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "127.0.0.1", 8080, "", true),
        ("HTTPS://API.Example.com/v1", "https://api.example.com", "api.example.com", 443, "/v1", false),
        ("http://[::1]:90/", "http://[::1]:90", "::1", 90, "/", true),
        ("http://[::ffff:127.0.0.1]", "http://[::ffff:127.0.0.1]", "::ffff:127.0.0.1", 80, "", true),
        ("http://api_1.internal.", "http://api_1.internal.", "api_1.internal.", 80, "", false),
        ("http://localhost:1", "http://localhost:1", "localhost", 1, "", true),
    ] {
        let address = WebAddress::parse(text).unwrap();
        assert_eq!(
            (address.origin.as_str(), address.host.as_str(), address.port, address.path.as_str()),
            (origin, host, port, path)
        );
        assert_eq!(address.is_loopback(), loopback, "{text}");
    }
    for text in [
        "",
        "example.com",
        "ftp://example.com",
        "http://",
        "http:///path",
        "http://user:pw@example.com",
        "http://example.com?x=1",
        "http://example.com#x",
        "http://example.com:0",
        "http://example.com:65536",
        "http://example.com:",
        "http://exa mple.com",
        "http://2852039166",
        "http://0x7f.0.0.1",
        "http://127.0.0.0x1",
        "http://127.1",
        "http://[::1",
        "http://[::1]x",
        "http://[fe80::1%25eth0]",
        "http://a..b",
        "http://example.com\\@evil.com",
    ] {
        assert!(WebAddress::parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_fail(text in ".{0,80}") {
        let _ = duration(&text);
        let _ = statuses(&text);
        let _ = text.parse::<IpNetwork>();
        if let Ok(address) = WebAddress::parse(&text) {
            prop_assert!(address.host.is_ascii() && !address.host.is_empty());
        }
    }

    #[test]
    fn durations_are_read_as_they_are_written(millis in 0u64..999_999_999) {
        let written = Duration::from_millis(millis);
        prop_assert_eq!(duration(&duration_text(written)), Some(written));
    }
}

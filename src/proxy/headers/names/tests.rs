use super::*;

/// Otherwise the search by halves would miss some.
#[test]
fn lists_are_ascending_and_no_prefix_begins_another() {
    let mut lists: Vec<&[&str]> = vec![&OURS, &COMMON];
    let mut prefixes: Vec<&[&str]> = vec![&OUR_PREFIXES];
    for kind in &TAKEN_FOR_MORE {
        lists.push(kind.names);
        prefixes.push(kind.prefixes);
    }
    for list in lists.iter().chain(&prefixes) {
        assert!(list.is_sorted_by(|one, next| one < next), "{list:?}");
        for name in *list {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
        }
    }
    for list in prefixes {
        for (one, next) in list.iter().zip(list.iter().skip(1)) {
            assert!(!next.starts_with(one), "{one} begins {next}");
        }
    }
    for name in TAKEN_FOR_MORE.iter().flat_map(|kind| kind.names.iter().chain(kind.prefixes)) {
        assert_eq!(stem(name), *name, "it would never be found");
    }
}

#[test]
fn every_name_and_everything_with_a_prefix_is_found() {
    for kind in &TAKEN_FOR_MORE {
        for name in kind.names {
            assert!(!is_the_callers(name) && !is_the_callers(&format!("x-http-{name}")), "{name}");
        }
        for prefix in kind.prefixes {
            for rest in ["", "a", "name", "zz-z"] {
                assert!(!is_the_callers(&format!("{prefix}{rest}")), "{prefix}{rest}");
                assert!(!is_the_callers(&format!("x-{prefix}{rest}")), "x-{prefix}{rest}");
            }
        }
    }
    for name in OURS.iter().chain(&OUR_PREFIXES) {
        assert!(!is_the_callers(name), "{name}");
    }
}

#[test]
fn what_is_looked_at_first_would_pass_all_the_same() {
    for name in COMMON {
        assert!(is_plain(name) && !is_ours(name) && !is_taken_for_more(stem(name)), "{name}");
    }
}

#[test]
fn x_and_http_in_front_change_nothing() {
    for (name, expected) in [
        ("x-script-name", "script-name"),
        ("http-x-x-http-script-name", "script-name"),
        ("x-http2-a", "http2-a"),
        ("https", "https"),
        ("x-", ""),
        ("xx-a", "xx-a"),
    ] {
        assert_eq!(stem(name), expected);
    }
}

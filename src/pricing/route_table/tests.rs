use proptest::prelude::*;

use super::*;
use crate::domain::Micros;
use crate::pricing::PriceRule;
use crate::pricing::path::folded;
use crate::pricing::toys::BY_THE_PIECE;

fn route(methods: &str, pattern: &str, micros: i64) -> (RouteRule, ()) {
    let charge = match micros {
        0 => RouteCharge::Free,
        price => RouteCharge::fixed(Micros::new(price).expect("in range")),
    };
    (rule(methods, pattern, charge), ())
}

fn rule(methods: &str, pattern: &str, charge: RouteCharge) -> RouteRule {
    RouteRule {
        methods: methods.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect(),
        pattern: pattern.to_owned(),
        charge,
    }
}

fn table(routes: &[(&str, &str, i64)]) -> RouteTable<()> {
    RouteTable::new(routes.iter().map(|(m, p, price)| route(m, p, *price))).expect("usable routes")
}

/// The name of the route, or `-` and what it looks like.
fn found(table: &RouteTable<()>, method: &str, path: &str) -> String {
    match table.find(method, &canonicalise(path).expect(path)) {
        Found::Route(route) => route.name.clone(),
        Found::NotConfigured { looks_like } => {
            format!("- {}", looks_like.unwrap_or("")).trim_end().to_owned()
        }
    }
}

#[test]
fn the_most_specific_pattern_wins() {
    let table = table(&[
        ("GET", "/*", 10),
        ("GET", "/api/*", 20),
        ("GET", "/api/{x}", 30),
        ("GET", "/api/{x}/c", 40),
        ("GET", "/api/a", 50),
        ("GET", "/api/a/{y}", 60),
        ("GET", "/api/", 70),
        ("GET", "/", 80),
    ]);
    for (path, expected) in [
        ("/", "GET /"),
        ("/api/", "GET /api/"),
        ("/api/a", "GET /api/a"),
        ("/api/b", "GET /api/{x}"),
        ("/api/b/c", "GET /api/{x}/c"),
        ("/api/a/c", "GET /api/a/{y}"),
        ("/api/b/d", "GET /api/*"),
        ("/api/b/c/d", "GET /api/*"),
        ("/other", "GET /*"),
        ("/other/", "GET /*"),
        // A dearer route could be meant: in another case, with or without a slash.
        ("/api", "- GET /api/"),
        ("/API/a", "- GET /api/a"),
        ("/api/A", "- GET /api/a"),
        ("/api/a/", "- GET /api/a"),
        ("/Api/zz/zz", "- GET /api/*"),
        ("/api/b/C/", "- GET /api/{x}/c"),
    ] {
        assert_eq!(found(&table, "GET", path), expected, "{path}");
    }
}

#[test]
fn what_patterns_match() {
    for (pattern, path, expected) in [
        ("/api/*", "/api/", true),
        ("/api/*", "/api/x/y", true),
        ("/api/*", "/api", false),
        ("/api/*", "/apix", false),
        ("/*", "/", true),
        ("/*", "/x/y/", true),
        ("/{a}", "/", false),
        ("/{a}", "/x", true),
        ("/{a}", "/x/", false),
        ("/{a}/", "/x/", true),
        ("/{a}/b", "/x/b", true),
        ("/{a}/b", "/x/c", false),
        ("/a%20b", "/a%20b", true),
        ("/a", "/%61", true),
    ] {
        let table = table(&[("GET", pattern, 1)]);
        let is_route = matches!(table.find("GET", &canonicalise(path).expect(path)), Found::Route(_));
        assert_eq!(is_route, expected, "{pattern} {path}");
    }
}

#[test]
fn methods_are_exact_and_head_follows_get() {
    let table = table(&[("GET,POST", "/x", 5), ("POST", "/y", 5), ("DELETE", "/z/{id}", 5)]);
    for (method, path, expected) in [
        ("GET", "/x", "GET,POST /x"),
        ("HEAD", "/x", "GET,POST /x"),
        ("POST", "/x", "GET,POST /x"),
        ("get", "/x", "- GET,POST /x"),
        ("PUT", "/x", "- GET,POST /x"),
        ("HEAD", "/y", "- POST /y"),
        ("TRACE", "/y", "- POST /y"),
        ("GET", "/z/1", "- DELETE /z/{id}"),
        ("GET", "/nothing", "-"),
    ] {
        assert_eq!(found(&table, method, path), expected, "{method} {path}");
    }
}

#[test]
fn a_free_route_is_no_detour_to_a_priced_one() {
    let table = table(&[
        ("GET,HEAD,POST", "/*", 0),
        ("POST", "/api/weather", 50),
        ("GET", "/items/{id}/Report", 50),
        ("GET", "/caf%C3%A9", 50),
        ("GET", "/below/*", 50),
        ("GET", "/health", 0),
        ("GET", "/priced", 50),
        ("POST", "/priced", 0),
        ("GET", "/users/{id}", 0),
        ("POST", "/users/{id}", 50),
        ("GET", "/slash/{x}/", 50),
        ("GET", "/slash/{x}", 0),
    ]);
    for (method, path, expected) in [
        ("POST", "/api/weather", "POST /api/weather"),
        ("GET", "/api/weather", "- POST /api/weather"),
        ("GET", "/api/weather/", "- POST /api/weather"),
        ("POST", "/API/Weather", "- POST /api/weather"),
        ("POST", "/api/w%65ather", "POST /api/weather"),
        ("GET", "/api/other", "GET,HEAD,POST /*"),
        ("GET", "/items/1/Report", "GET /items/{id}/Report"),
        ("GET", "/items/1/report", "- GET /items/{id}/Report"),
        ("GET", "/ITEMS/1/rep%4frt/", "- GET /items/{id}/Report"),
        ("GET", "/CAF%C3%89", "- GET /caf%C3%A9"),
        ("GET", "/below", "- GET /below/*"),
        ("GET", "/Below/x", "- GET /below/*"),
        ("POST", "/below/x", "- GET /below/*"),
        ("GET", "/health", "GET /health"),
        ("GET", "/Health", "GET,HEAD,POST /*"),
        ("POST", "/priced", "POST /priced"),
        ("GET", "/priced", "GET /priced"),
        ("POST", "/Priced", "- GET /priced"),
        ("GET", "/users/1", "GET /users/{id}"),
        ("POST", "/users/1", "POST /users/{id}"),
        ("POST", "/Users/1", "- POST /users/{id}"),
        ("GET", "/slash/1/", "GET /slash/{x}/"),
        ("GET", "/slash/1", "- GET /slash/{x}/"),
    ] {
        assert_eq!(found(&table, method, path), expected, "{method} {path}");
    }
}

#[test]
fn a_free_route_never_serves_what_looks_priced() {
    let table = table(&[
        ("GET,POST,PUT", "/api/*", 0),
        ("GET", "/api/joke", 500),
        ("POST", "/api/{id}/run", 900),
        ("GET", "/api/joke.txt", 0),
    ]);
    for (method, path, expected) in [
        ("GET", "/api/JOKE", "- GET /api/joke"),
        ("GET", "/api/joke/", "- GET /api/joke"),
        ("PUT", "/api/joke", "- GET /api/joke"),
        ("GET", "/api/joke.json", "- GET /api/joke"),
        ("GET", "/api/JOKE%2Ejson/", "- GET /api/joke"),
        ("HEAD", "/api/joke.v1.json", "- GET /api/joke"),
        ("POST", "/api/joke.tar.v1.gz", "- GET /api/joke"),
        ("GET", "/api/joke.", "- GET /api/joke"),
        ("GET", "/api/joke%20", "- GET /api/joke"),
        ("GET", "/api/joke%3Fx=1", "- GET /api/joke"),
        ("GET", "/api/joke%23x", "- GET /api/joke"),
        ("GET", "/api/joke.json%3Fx/y.z", "- GET /api/joke"),
        ("GET", "/api/Joke%20/%3Fx", "- GET /api/joke"),
        ("POST", "/api/7/run%3F/%23", "- POST /api/{id}/run"),
        ("GET", "/api/jokes%3F", "GET,POST,PUT /api/*"),
        ("GET", "/api/jo%E2%84%AAe", "- GET /api/joke"),
        ("GET", "/api/7/run", "- POST /api/{id}/run"),
        ("GET", "/api/7/RUN/", "- POST /api/{id}/run"),
        ("POST", "/api/7/run.xml", "- POST /api/{id}/run"),
        ("GET", "/api/%6aoke", "GET /api/joke"),
        // The seller named it.
        ("GET", "/api/joke.txt", "GET /api/joke.txt"),
        // An extension ends a path only.
        ("GET", "/api/7.run/run7", "GET,POST,PUT /api/*"),
        ("GET", "/api/joke.d/x", "GET,POST,PUT /api/*"),
        ("GET", "/api/", "GET,POST,PUT /api/*"),
        ("GET", "/api/jokes", "GET,POST,PUT /api/*"),
        ("GET", "/api/jokes.json", "GET,POST,PUT /api/*"),
        ("GET", "/api/7.json", "GET,POST,PUT /api/*"),
        ("GET", "/api/x/joke", "GET,POST,PUT /api/*"),
        ("GET", "/api/%E6%97%A5", "GET,POST,PUT /api/*"),
    ] {
        assert_eq!(found(&table, method, path), expected, "{method} {path}");
    }
}

#[test]
fn an_encoded_query_mark_is_sold_but_no_detour() {
    let table = table(&[
        ("GET", "/search/{q}", 50),
        ("GET", "/api/{list}", 50),
        ("GET", "/api/jokes/{id}", 0),
        ("GET", "/v1/*", 50),
        ("GET", "/v1/terms/{q}", 0),
        ("GET", "/faq/why%3F", 0),
    ]);
    for (path, expected) in [
        ("/search/what%3f", "GET /search/{q}"),
        ("/search/100%25", "GET /search/{q}"),
        // Cut at its `?`, this is the priced list.
        ("/api/jokes/%3Fx", "- GET /api/{list}"),
        ("/api/jokes/a%3Fx", "GET /api/jokes/{id}"),
        // Carved out of the priced rest, with the mark and without.
        ("/v1/terms/what%3F", "GET /v1/terms/{q}"),
        ("/v1/terms/%3F", "- GET /v1/*"),
        ("/faq/why%3F", "GET /faq/why%3F"),
    ] {
        assert_eq!(found(&table, "GET", path), expected, "{path}");
    }
}

#[test]
fn an_extension_the_seller_carved_out_stays() {
    let table = table(&[
        ("GET", "/*", 50),
        ("GET", "/{lang}/terms.html", 0),
        ("GET", "/docs/{page}", 0),
        ("GET", "/x/{y}", 5),
    ]);
    for (path, expected) in [
        ("/en/terms.html", "GET /{lang}/terms.html"),
        ("/en/terms", "GET /*"),
        ("/docs/a.html", "GET /docs/{page}"),
        ("/x/a.json", "GET /x/{y}"),
    ] {
        assert_eq!(found(&table, "GET", path), expected, "{path}");
    }
}

#[test]
fn a_free_pattern_within_a_priced_one_is_free() {
    let table = table(&[("GET", "/api/*", 50), ("GET", "/api/docs/*", 0), ("GET", "/API/*", 0)]);
    assert_eq!(found(&table, "GET", "/api/docs/x"), "GET /api/docs/*");
    assert_eq!(found(&table, "GET", "/api/x"), "GET /api/*");
    // Equally specific, but for the case: the priced one objects.
    assert_eq!(found(&table, "GET", "/API/x"), "- GET /api/*");
}

#[test]
fn routes_that_cannot_be_used_are_reported_at_once() {
    let bad = [
        route("", "/a", 1),
        route("OPTIONS,TRACE", "/b", 1),
        route("GET", "c", 1),
        route("GET", "/a/*/b", 1),
        route("GET", "/a*", 1),
        route("GET", "/a{b}", 1),
        route("GET", "/{}", 1),
        route("GET", "/{a b}", 1),
        route("GET", "/a//b", 1),
        route("GET", "/a/../b", 1),
        route("GET", "/%61", 1),
        route("GET", "/%c3%a9", 1),
        route("GET", "/a;b", 1),
        route("GET", "/a?b", 1),
        route("GET", "", 1),
    ];
    let problems = RouteTable::new(bad).expect_err("unusable");
    let indexes: Vec<usize> = problems.iter().map(|problem| problem.index).collect();
    assert_eq!(indexes, [0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    assert_eq!(problems[0].to_string(), "routes[0]: it lists no method");
}

#[test]
fn equal_routes_are_reported() {
    for (left, right, is_problem) in [
        (("GET", "/a"), ("GET", "/a"), true),
        (("GET,POST", "/a"), ("POST", "/a"), true),
        (("GET", "/a"), ("HEAD", "/a"), true),
        (("GET", "/{x}/b"), ("GET", "/{y}/b"), true),
        (("GET", "/a"), ("POST", "/a"), false),
        (("GET", "/a"), ("GET", "/a/"), false),
        (("GET", "/a"), ("GET", "/A"), false),
        (("GET", "/a/*"), ("GET", "/a/{x}"), false),
    ] {
        let routes = [route(left.0, left.1, 1), route(right.0, right.1, 2)];
        let answer = RouteTable::new(routes);
        assert_eq!(answer.is_err(), is_problem, "{left:?} {right:?}");
        if let Err(problems) = answer {
            assert_eq!((problems.len(), problems[0].index), (1, 1));
        }
    }
}

#[test]
fn a_post_that_costs_less_than_another_method_of_its_path_is_named() {
    for (routes, expected) in [
        (&[("POST", "/x", 0), ("DELETE", "/x", 5)][..], Some(("POST /x", "DELETE /x", "/x"))),
        (&[("GET,POST", "/x/{a}", 5), ("PUT,GET", "/y", 9)], None),
        (
            &[("GET,POST", "/x/{a}", 5), ("PATCH,PUT", "/x/{b}", 9)],
            Some(("GET,POST /x/{a}", "PATCH,PUT /x/{b}", "/x/x")),
        ),
        (&[("POST", "/x/{a}", 5), ("DELETE", "/x/*", 9)], Some(("POST /x/{a}", "DELETE /x/*", "/x/x"))),
        // The gateway itself refuses the cheaper one there.
        (&[("POST", "/x/*", 5), ("DELETE", "/x/{a}", 9)], None),
        (&[("POST", "/x", 5), ("DELETE", "/x", 5)], None),
        (&[("POST", "/x", 5), ("DELETE", "/x", 0)], None),
        (&[("POST", "/x", 0), ("GET", "/x", 5)], None),
        (&[("GET", "/x", 0), ("DELETE", "/x", 5)], None),
    ] {
        let found = table(routes).cheaper_posts();
        let found = found.first().map(|(cheap, dear, path)| (cheap.as_str(), dear.as_str(), path.as_str()));
        assert_eq!(found, expected, "{routes:?}");
    }
}

#[test]
fn what_a_price_can_be_at_most_decides_which_pattern_is_dearer() {
    let fixed = |price| RouteCharge::Priced(PriceRule::Fixed(Micros::new(price).expect("in range")));
    let by_body = RouteCharge::Priced(BY_THE_PIECE);
    // The body's price is 1,000 at most, and often less than a fixed 900.
    for (rest, named, expected) in [
        (fixed(900), by_body, "- POST /api/pieces"),
        (fixed(1_000), by_body, "GET,POST /*"),
        (RouteCharge::Free, by_body, "- POST /api/pieces"),
        (by_body, fixed(900), "GET,POST /*"),
        (by_body, fixed(1_001), "- POST /api/pieces"),
    ] {
        let routes = [rule("GET,POST", "/*", rest), rule("POST", "/api/pieces", named)];
        let table = RouteTable::new(routes.map(|rule| (rule, ()))).expect("usable routes");
        assert_eq!(found(&table, "GET", "/api/pieces"), expected, "{rest:?} {named:?}");
    }
}

#[test]
fn overlaps_are_named_with_an_example() {
    for (free, priced, example) in [
        ("/*", "/api/weather", Some(("/api/weather", false))),
        ("/*", "/api/{x}/*", Some(("/api/x/", false))),
        ("/api/{x}", "/{y}/Secret", Some(("/api/Secret", true))),
        ("/api/docs/*", "/api/*", Some(("/api/docs/", true))),
        ("/API", "/api/", Some(("/api", false))),
        ("/a/{x}", "/b/{x}", None),
        ("/a/{x}", "/a/{x}/b", None),
        ("/a/*", "/b", None),
        ("/a", "/*", Some(("/a", true))),
    ] {
        let table = table(&[("GET", free, 0), ("POST", priced, 5)]);
        let listed: Vec<(String, bool)> =
            table.overlaps().into_iter().map(|overlap| (overlap.example, overlap.free_serves_it)).collect();
        let expected: Vec<(String, bool)> =
            example.iter().map(|(path, free)| ((*path).to_owned(), *free)).collect();
        assert_eq!(listed, expected, "{free} {priced}");
    }
    let table_of_two = table(&[("GET", "/*", 0), ("GET", "/a", 5)]);
    assert_eq!(
        table_of_two.overlaps()[0].to_string(),
        "GET /* (free) and GET /a (priced) both match /a: the free route does not serve it"
    );
    let by_method = table(&[("GET", "/a/{x}", 0), ("POST", "/a/{y}", 5)]);
    assert_eq!(by_method.overlaps(), []);
}

#[test]
fn what_some_server_makes_of_a_priced_path_is_not_free() {
    let table = table(&[
        ("GET", "/open/{name}", 0),
        ("GET", "/open/secret", 50),
        ("GET", "/open/b%C3%BCcher", 50),
        ("GET", "/{page}", 0),
    ]);
    for name in [
        "%20secret",
        "+secret",
        "%C2%A0secret",
        "s%C2%ADecret",
        "secret%E2%80%8B",
        "%EF%BB%BFsecret",
        "%EF%BD%93ecret",
        "s%C3%A9cret",
        "secret%EF%BC%8E",
        "secret%EF%BC%9Bv=1",
        "secret%EF%BC%9Fv=1",
        "secret%EF%BC%8F",
        "secret::$DATA",
        "secret&v=1",
        "secret%26v=1",
        "secret%EF%BC%86v=1",
    ] {
        if let Ok(path) = canonicalise(&format!("/open/{name}")) {
            let found = table.find("GET", &path);
            assert!(
                matches!(found, Found::NotConfigured { looks_like: Some("GET /open/secret") }),
                "{name}: {found:?}"
            );
        }
    }
    for other in ["B%C3%9CCHER", "bu%CC%88cher", "bucher"] {
        assert_eq!(found(&table, "GET", &format!("/open/{other}")), "- GET /open/b%C3%BCcher", "{other}");
    }
    for elsewhere in ["/open%EF%BC%8Fsecret", "/open%EF%BC%BCsecret", "/open%EF%BC%852fsecret"] {
        assert_eq!(found(&table, "GET", elsewhere), "- GET /open/secret", "{elsewhere}");
    }
    for (path, route) in [
        ("/open/secret", "GET /open/secret"),
        ("/open/b%C3%BCcher", "GET /open/b%C3%BCcher"),
        ("/open/secrets", "GET /open/{name}"),
        ("/open/the%20secret", "GET /open/{name}"),
        ("/open/the+secret", "GET /open/{name}"),
        ("/open/sec_ret", "GET /open/{name}"),
        ("/open/rock&roll", "GET /open/{name}"),
        ("/open/%E5%92%8C%EF%BC%8F%E6%B4%8B", "GET /open/{name}"),
        ("/open/%D1%95ecret", "GET /open/{name}"),
        ("/caf%C3%A9", "GET /{page}"),
    ] {
        assert_eq!(found(&table, "GET", path), route, "{path}");
    }
}

/// The most lenient upstream there is, written without our code: decodes, ignores case and trailing slashes.
fn lenient(path: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
    decoded.to_lowercase().trim_end_matches('/').to_owned()
}

fn mutate(path: &str, changes: &[u8], slash: bool) -> String {
    let mut mutated: String = path
        .chars()
        .enumerate()
        .map(|(at, c)| match changes.get(at % changes.len().max(1)).copied().unwrap_or(0) {
            1 if c != '%' => c.to_ascii_uppercase().to_string(),
            2 if c != '%' => c.to_ascii_lowercase().to_string(),
            3 if c != '/' && c != '%' => format!("%{:02x}", u32::from(c)),
            4 if c != '/' && c != '%' => format!("%{:02X}", u32::from(c.to_ascii_uppercase())),
            _ => c.to_string(),
        })
        .collect();
    if slash {
        mutated = match mutated.strip_suffix('/') {
            Some(stripped) if !stripped.is_empty() => stripped.to_owned(),
            _ => format!("{mutated}/"),
        };
    }
    mutated
}

fn price(charge: RouteCharge) -> i64 {
    match charge {
        RouteCharge::Free => 0,
        RouteCharge::Priced(rule) => rule.most().get(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_spelling_of_a_priced_path_is_cheaper(
        paths in prop::collection::btree_set("(/(api|[a-cA-C]{1,2}|x!|~1)){1,3}/?", 1..4),
        detour in prop::sample::select(vec!["/*", "/api/*", "/{a}", "/api/{b}", "/{a}/*", "/{a}/{b}/", "/{a}/{b}/{c}", "/A/*"]),
        detour_price in prop::sample::select(vec![0_i64, 5]),
        method in prop::sample::select(vec!["GET", "HEAD", "POST"]),
        changes in prop::collection::vec(0_u8..5, 1..12),
        slash in any::<bool>(),
    ) {
        // Two paths that the upstream takes for one are the seller's business: keep the first.
        let mut seen = std::collections::BTreeSet::new();
        let priced: Vec<&String> = paths.iter().filter(|path| seen.insert(lenient(path))).collect();
        let mut routes: Vec<(&str, &str, i64)> = priced.iter().map(|path| ("POST", path.as_str(), 50)).collect();
        routes.push(("GET,POST", detour, detour_price));
        let table = table(&routes);
        for path in priced {
            let raw = mutate(path, &changes, slash);
            let canonical = canonicalise(&raw).expect("mutations keep it canonicalisable");
            prop_assert_eq!(lenient(&raw), lenient(path));
            prop_assert_eq!(folded(&canonical), lenient(path));
            if let Found::Route(found) = table.find(method, &canonical) {
                prop_assert!(price(found.rule.charge) == 50, "{} {} reached {}", method, raw, found.name);
                prop_assert_eq!(canonical.as_str(), path.as_str());
            }
        }
    }

    #[test]
    fn no_ending_of_a_priced_path_is_cheaper(
        path in "(/[a-cA-C]{1,2}){1,3}",
        ending in "(/|\\.|%20|\\+|%2E|(\\.[a-z0-9]{1,4}){1,4}/?){0,2}((%3F|%23)[a-c/.]{0,4})?",
        detour in prop::sample::select(vec!["/*", "/{a}/*", "/{a}", "/{a}/{b}", "/{a}/{b}/{c}"]),
        detour_price in prop::sample::select(vec![0_i64, 5]),
        method in prop::sample::select(vec!["GET", "HEAD", "POST"]),
    ) {
        let table = table(&[("POST", &path, 50), ("GET,POST", detour, detour_price)]);
        let Ok(canonical) = canonicalise(&format!("{path}{ending}")) else { return Ok(()) };
        // A segment of its own, or a blank within, is another name; the blank at an end is not.
        let decoded = percent_encoding::percent_decode_str(&ending).decode_utf8_lossy().replace('+', " ");
        let decoded = decoded.split(['?', '#']).next().unwrap_or_default();
        let ends = decoded.trim_end_matches(['/', '.', ' ']);
        prop_assume!(ends.is_empty() || (ends.starts_with('.') && !ends.contains(['/', ' '])));
        if let Found::Route(found) = table.find(method, &canonical) {
            prop_assert!(price(found.rule.charge) == 50, "{} {} reached {}", method, canonical.as_str(), found.name);
        }
    }

    /// Blanks and what is not seen, anywhere in a segment; full-width letters and separators.
    #[test]
    fn no_disguise_of_a_priced_path_is_cheaper(
        path in "(/[a-c]{2,3}){1,3}",
        before in prop::sample::select(vec!["", "+", "%20", "%C2%AD", "%EF%BB%BF+", "%C2%A0", "%E2%A0%80", "."]),
        within in prop::sample::select(vec!["", "%C2%AD", "%E2%80%8D", "%CC%81", "%EF%B8%8F", "%EF%BF%B9", "%E2%83%9D"]),
        after in prop::sample::select(vec!["", "+", "%20", "%E2%80%8B", "::$DATA", "%EF%BC%8E", "&x=1", "%26x"]),
        separator in prop::sample::select(vec!["/", "%EF%BC%8F", "%E2%81%84", "%E2%88%95", "%E2%88%96", "%C2%A5"]),
        detour in prop::sample::select(vec!["/*", "/{a}/*", "/{a}", "/{a}/{b}", "/{a}/{b}/{c}"]),
        detour_price in prop::sample::select(vec![0_i64, 5]),
        method in prop::sample::select(vec!["GET", "HEAD", "POST"]),
    ) {
        let table = table(&[("POST", &path, 50), ("GET,POST", detour, detour_price)]);
        let disguised = path.split('/').skip(1).map(|segment| {
            let (first, rest) = segment.split_at(1);
            format!("{before}{first}{within}{rest}")
        });
        let raw = format!("/{}{after}", disguised.collect::<Vec<_>>().join(separator));
        if let Found::Route(found) = table.find(method, &canonicalise(&raw).expect("can be read in one way")) {
            prop_assert!(price(found.rule.charge) == 50, "{} {} reached {}", method, raw, found.name);
        }
    }

    #[test]
    fn a_path_is_served_by_a_pattern_that_matches_it(
        patterns in prop::collection::vec("(/(a|b|A|[{]x[}])){0,3}(/|/[*])", 1..6),
        path in "(/[abAB]){0,3}/?",
        costs in prop::collection::vec(0_i64..3, 6),
    ) {
        prop_assume!(path.starts_with('/'));
        let routes = patterns.iter().zip(&costs).map(|(pattern, cost)| route("GET", pattern, *cost));
        if let Ok(table) = RouteTable::new(routes) {
            let path = canonicalise(&path).expect("valid");
            if let Found::Route(found) = table.find("GET", &path) {
                let matching = table.patterns.iter().enumerate().filter(|(_, p)| p.matches(&segments(path.as_str())));
                let best = matching.min_by(|a, b| a.1.specificity(b.1)).map(|(index, _)| index);
                prop_assert_eq!(best, Some(found.index));
            }
            for overlap in table.overlaps() {
                prop_assert!(canonicalise(&overlap.example).is_ok(), "{}", overlap);
            }
        }
    }
}

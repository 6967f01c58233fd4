//! The headers of a request whose answer may be fetched once more without a charge: they choose what the API answers, so they must
//! be those that were paid for. Left out is what a second try changes although it asks for the same.

use actix_web::http::header::{HeaderMap, HeaderName};

use crate::domain::SecretHash;
use crate::protocol::SPOKEN;
use crate::proxy::headers::is_hop_by_hop;

/// In ascending order, because it is searched by halves. Traces, who asks with which program, how often it was tried, where it came
/// through; the payment, and the body's length, which is compared as a body.
const MAY_DIFFER: [&str; 49] = [
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "b3",
    "baggage",
    "cdn-loop",
    "cf-connecting-ip",
    "cf-ray",
    "client-ip",
    "content-length",
    "correlation-context",
    "correlation-id",
    "expect",
    "fastly-client-ip",
    "fly-client-ip",
    "host",
    "newrelic",
    "request-context",
    "request-id",
    "retry-attempt",
    "retry-count",
    "sentry-trace",
    "sw8",
    "trace-id",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "user-agent",
    "via",
    "x-amz-cf-id",
    "x-attempt",
    "x-azure-clientip",
    "x-azure-ref",
    "x-azure-socketip",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-goog-api-client",
    "x-newrelic-transaction",
    "x-original-forwarded-for",
    "x-queue-start",
    "x-real-ip",
    "x-request-start",
    "x-retry-attempt",
    "x-retry-count",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "x-stainless-timeout",
    "x-stripe-client-telemetry",
];

const MAY_DIFFER_BEGINNINGS: [&str; 9] = [
    "elastic-apm-",
    "forwarded",
    "ot-",
    "uberctx-",
    "x-b3-",
    "x-datadog-",
    "x-forwarded-",
    "x-instana-",
    "x-prepaid402-",
];

/// Of traces.
const MAY_DIFFER_ENDS: [&str; 3] = ["-correlation-id", "-request-id", "-trace-id"];

fn may_differ(name: &str) -> bool {
    SPOKEN.owns(name)
        || MAY_DIFFER.binary_search(&name).is_ok()
        || is_hop_by_hop(name)
        || MAY_DIFFER_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || MAY_DIFFER_ENDS.iter().any(|end| name.ends_with(end))
}

/// A digest of the headers that matter, of those that reach the API or the handler, and of `host`, if that reaches it, too. The
/// order of different names does not matter, and the order of one name's values does. Names are in lower case.
pub(crate) fn digest<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    host: Option<&'a [u8]>,
) -> SecretHash {
    let mut headers: Vec<(&str, &[u8])> = headers.filter(|(name, _)| !may_differ(name)).collect();
    headers.sort_by_key(|(name, _)| *name);
    let host = host.map(|host| without_port(host).to_ascii_lowercase());
    let mut parts: Vec<&[u8]> = Vec::with_capacity(headers.len().saturating_add(1).saturating_mul(2));
    parts.extend(host.as_deref().into_iter().flat_map(|host| [&b"host"[..], host]));
    parts.extend(headers.iter().flat_map(|(name, value)| [name.as_bytes(), *value]));
    SecretHash::of_parts(&parts)
}

/// The same of what a handler inside this process sees: everything.
pub(crate) fn digest_of_all(headers: &HeaderMap) -> SecretHash {
    let all = headers.iter().map(|(name, value): (&HeaderName, _)| (name.as_str(), value.as_bytes()));
    digest(all, headers.get("host").map(|host| host.as_bytes()))
}

/// Nodes of one gateway may be told apart by their ports.
fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if host.iter().skip(colon).skip(1).all(u8::is_ascii_digit) => {
            host.get(..colon).unwrap_or(host)
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(headers: &[(&str, &str)]) -> SecretHash {
        digest(headers.iter().map(|(name, value)| (*name, value.as_bytes())), None)
    }

    #[test]
    fn the_list_is_ascending() {
        assert!(MAY_DIFFER.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn names_are_in_any_order_and_values_of_one_name_in_theirs() {
        let first = of(&[("accept", "a"), ("x-part", "1"), ("x-part", "2"), ("b", "c")]);
        assert_eq!(of(&[("x-part", "1"), ("b", "c"), ("x-part", "2"), ("accept", "a")]), first);
        for other in [
            &[("accept", "a"), ("x-part", "2"), ("x-part", "1"), ("b", "c")][..],
            &[("accept", "a"), ("x-part", "1, 2"), ("b", "c")],
            &[("accept", "a"), ("x-part", "1"), ("b", "c")],
            &[("accept", "A"), ("x-part", "1"), ("x-part", "2"), ("b", "c")],
            &[("accept", "a"), ("x-part", "1"), ("x-part", "2"), ("b", "c"), ("d", "")],
            &[("accept", "a"), ("x-part", "1"), ("x-part", "2"), ("bc", "")],
        ] {
            assert_ne!(of(other), first, "{other:?}");
        }
    }

    #[test]
    fn what_a_second_try_changes_does_not_count() {
        let names = "user-agent traceparent tracestate baggage b3 x-b3-traceid x-b3-sampled x-amzn-trace-id sentry-trace \
            x-datadog-parent-id x-request-id request-id x-ms-client-request-id x-correlation-id x-stainless-retry-count \
            x-stainless-timeout x-stainless-read-timeout amz-sdk-request x-forwarded-for x-forwarded-host forwarded \
            cf-connecting-ip x-real-ip via connection keep-alive te content-length payment host uber-trace-id \
            elastic-apm-traceparent x-instana-t ot-tracer-traceid x-prepaid402-price";
        for name in names.split_whitespace() {
            assert_eq!(of(&[("accept", "a"), (name, "1")]), of(&[("accept", "a")]), "{name}");
        }
        let names = "accept accept-encoding accept-language content-type range origin referer cookie authorization x-api-key \
            x-trace x-stainless-lang cache-control x-original-url x-lookup-ip idempotency-key x-user-agent";
        for name in names.split_whitespace() {
            assert_ne!(of(&[("accept-version", "a"), (name, "1")]), of(&[("accept-version", "a")]), "{name}");
        }
    }

    #[test]
    fn a_host_counts_without_its_port() {
        let at = |host: &str| digest(std::iter::empty(), Some(host.as_bytes()));
        assert_eq!(at("API.example:8080"), at("api.example"));
        assert_eq!(at("[::1]:80"), at("[::1]"));
        assert_ne!(at("[::1]"), at("[::2]"));
        assert_ne!(at("api.example"), at("other.example"));
        assert_ne!(at("api.example"), of(&[]));
    }

    proptest! {
        #[test]
        fn one_value_more_or_another_is_another_digest(
            mut headers in prop::collection::vec(("[a-z]{1,6}", "[ -~]{0,6}"), 1..6),
            which in any::<prop::sample::Index>(),
            other in "[ -~]{7}",
        ) {
            let digest_of = |headers: &[(String, String)]| {
                digest(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())), None)
            };
            let at = which.index(headers.len());
            prop_assume!(!may_differ(&headers[at].0));
            let first = digest_of(&headers);
            let removed = headers.remove(at);
            prop_assert_ne!(digest_of(&headers), first);
            headers.push((removed.0, other));
            prop_assert_ne!(digest_of(&headers), first);
        }
    }
}

//! Request smuggling: whatever two servers could frame differently is refused, and the connection ends.

use super::payer;
use crate::support::raw::{Raw, status_of};
use crate::support::{ROUTES, World};

/// What a smuggler wants the upstream to see as a request of its own.
const HIDDEN: &str = "GET /up/smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

/// Fields and body of a POST; `{hidden}` is [`HIDDEN`], `{n}` its length.
const REFUSED: &[(&str, &str)] = &[
    ("CL.TE", "content-length: {n5}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
    ("TE.CL", "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{n16}\r\n{hidden}\r\n0\r\n\r\n"),
    ("CL.TE, short", "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n"),
    ("two lengths", "content-length: 0\r\ncontent-length: {n}\r\n\r\n{hidden}"),
    ("two equal lengths", "content-length: {n}\r\ncontent-length: {n}\r\n\r\n{hidden}"),
    ("length list", "content-length: 0, {n}\r\n\r\n{hidden}"),
    ("length with sign", "content-length: +{n}\r\n\r\n{hidden}"),
    ("negative length", "content-length: -1\r\n\r\n{hidden}"),
    ("hexadecimal length", "content-length: 0x5\r\n\r\nhello"),
    ("length with a space inside", "content-length: 1 0\r\n\r\nhellohello"),
    ("huge length", "content-length: 99999999999999999999999\r\n\r\n{hidden}"),
    ("space before the colon", "content-length : {n}\r\n\r\n{hidden}"),
    ("TE with a space before the colon", "transfer-encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
    ("obs-fold", "x-a: 1\r\n content-length: {n}\r\n\r\n{hidden}"),
    ("obs-fold in TE", "transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n{hidden}"),
    ("unknown TE", "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
    ("chunked not last", "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
    ("chunked twice", "transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n{hidden}"),
    ("two TE", "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n{hidden}"),
    ("TE with vertical tab", "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n{hidden}"),
    ("two hosts", "host: b\r\ncontent-length: 0\r\n\r\n"),
    ("NUL in a value", "x-a: \0\r\ncontent-length: 0\r\n\r\n"),
    ("CR in a value", "x-a: b\rc\r\ncontent-length: 0\r\n\r\n"),
];

/// Read in one way by everybody who reads them at all: refused, or framed as one request.
const REFUSED_OR_WHOLE: &[(&str, &str)] = &[
    ("bare LF", "content-length: 5\n\nhello"),
    ("bare LF before a field", "x-a: b\ncontent-length: 5\r\n\r\nhello"),
    ("chunk extension", "transfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"),
    ("trailer", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\ncontent-length: 50\r\n\r\n"),
    ("upper case", "TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("leading zeros", "content-length: 0005\r\n\r\nhello"),
    ("chunk with leading zeros", "transfer-encoding: chunked\r\n\r\n0005\r\nhello\r\n0\r\n\r\n"),
    ("chunk with sign", "transfer-encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
    ("chunk with 0x", "transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    ("chunk ended by LF", "transfer-encoding: chunked\r\n\r\n5\nhello\n0\n\n"),
    ("chunk longer than said", "transfer-encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n"),
    ("overflowing chunk", "transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
];

fn filled(text: &str) -> String {
    text.replace("{hidden}", HIDDEN)
        .replace("{n16}", &format!("{:x}", HIDDEN.len()))
        .replace("{n5}", &(HIDDEN.len() + 5).to_string())
        .replace("{n}", &HIDDEN.len().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_framing_is_refused_and_nothing_is_smuggled() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    for (name, rest) in REFUSED {
        for payment in [format!("payment: {payment}\r\n"), String::new()] {
            let mut raw = Raw::connect(&gateway.url).await;
            let head = format!("POST /up/echo HTTP/1.1\r\nhost: a\r\n{payment}");
            raw.send(format!("{head}{}", filled(rest))).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut raw.socket).await;
            let answer = raw.rest().await;
            assert_eq!(status_of(&answer), 400, "{name}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: what follows is not read: {answer}");
            assert_eq!(world.upstream.hits(), 0, "{name} reached the upstream");
        }
    }
    assert_eq!(gateway.balance(&client).await, 50_000);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_framing_is_refused_or_is_one_request() {
    // What never comes whole is not waited for long.
    let world = World::with("[limits]\nbody_timeout = \"1s\"\n", ROUTES).await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let mut charged = 0;
    for (name, rest) in REFUSED_OR_WHOLE {
        let before = world.upstream.hits();
        let mut raw = Raw::connect(&gateway.url).await;
        let head =
            format!("POST /up/echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\npayment: {payment}\r\n");
        raw.send(format!("{head}{rest}")).await;
        let answer = raw.rest().await;
        let seen = world.upstream.seen().split_off(before);
        if status_of(&answer) == 200 {
            charged += 1;
            assert_eq!(seen.len(), 1, "{name}");
            assert_eq!(
                (seen[0].target.as_str(), seen[0].body.as_slice()),
                ("/up/echo", b"hello".as_slice()),
                "{name}"
            );
        } else {
            assert!([0, 400, 408].contains(&status_of(&answer)), "{name}: {answer}");
            assert!(seen.is_empty(), "{name}: {seen:?}");
        }
    }
    assert!(charged >= 3);
    assert_eq!(gateway.balance(&client).await, 50_000 - 500 * charged);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_priced_one_by_one() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let paid = format!("GET /api/joke HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n\r\n");
    let last = "GET /api/joke HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!("{paid}GET /api/weather HTTP/1.1\r\nhost: a\r\n\r\n{paid}{last}")).await;
    let answer = raw.rest().await;
    let statuses: Vec<_> = answer.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].to_owned()).collect();
    assert_eq!(statuses, ["200", "402", "200", "402"]);
    assert_eq!(world.upstream.hits(), 2);
    assert_eq!(gateway.balance(&client).await, 50_000 - 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

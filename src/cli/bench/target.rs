//! What may be driven, and what it answers before the load begins.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use tokio::net::TcpStream;

use super::Problem;
use crate::agent::http::{Answer, Http, Outgoing, Target};
use crate::agent::offer::Offer;
use crate::agent::pay::problem;
use crate::protocol::stripe402::{PAYMENT, PAYMENT_REQUIRED, PaymentRequired, decode_payment_required};
use crate::trust::Trust;

/// How long single requests are waited for; a charge can take long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Where a server is, checked and reached once.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// As given, without a slash at the end.
    pub(super) url: String,
    /// Where it was reached.
    pub(super) address: SocketAddr,
    authority: String,
    own: bool,
}

impl Base {
    /// Checks the address of a server and connects to it once. Only servers of this machine, unless the caller runs the
    /// other one (`own`).
    pub(super) async fn find(url: &str, own: bool) -> Result<Self, Problem> {
        let wrong = |what: &str| Problem::Usage(format!("--url {what}"));
        let form = "must be the address of a server without a path, such as http://127.0.0.1:4402";
        let uri: Uri = url.parse().map_err(|_| wrong(form))?;
        if uri.scheme_str() == Some("https") {
            return Err(wrong(
                "must begin with http://: the bench measures the server itself, behind what terminates TLS",
            ));
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.filter(|_| uri.scheme_str() == Some("http")).ok_or_else(|| wrong(form))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong(form));
        }
        if !own && !Target::parse(url, true).is_ok_and(|target| target.is_loopback()) {
            return Err(wrong(
                "is not an address of this machine, and a load test can put a server out of service; if it is yours to test, say --i-run-this-server",
            ));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(80);
        let addresses = tokio::net::lookup_host((host, port)).await;
        let addresses =
            addresses.map_err(|error| Problem::Failed(format!("{url} cannot be found: {error}")))?;
        // Where "localhost" leads is the machine's business, but never off it.
        let addresses = addresses.filter(|address| own || address.ip().is_loopback());
        for address in addresses {
            if TcpStream::connect(address).await.is_ok() {
                let url = url.trim_end_matches('/').to_owned();
                return Ok(Self { url, address, authority: authority.as_str().to_owned(), own });
            }
        }
        Err(Problem::Failed(format!("nothing answers at {url}; start the server first")))
    }

    /// A GET as bytes, with a `payment` header or without.
    pub(super) fn render(&self, path: &str, payment: Option<&str>) -> Bytes {
        let payment = payment.map_or_else(String::new, |payment| format!("{PAYMENT}: {payment}\r\n"));
        let authority = &self.authority;
        let version = env!("CARGO_PKG_VERSION");
        Bytes::from(format!(
            "GET {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: prepaid402-bench/{version}\r\naccept: */*\r\n{payment}\r\n"
        ))
    }

    /// The same GET for a single request.
    pub(super) fn outgoing(&self, path: &str) -> Result<Outgoing, Problem> {
        let target = Target::parse(&format!("{}{path}", self.url), self.own);
        let target = target.map_err(|error| Problem::Usage(error.to_string()))?;
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("*/*"))]);
        Ok(Outgoing { target, method: Method::GET, headers, body: Bytes::new() })
    }
}

/// Checks a path from the command line.
pub(super) fn check_path(flag: &str, path: &str) -> Result<(), Problem> {
    let plain = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if plain {
        Ok(())
    } else {
        Err(Problem::Usage(format!("{flag} must be a path such as /api/weather, with blanks as %20")))
    }
}

/// A client for single requests.
pub(super) fn client() -> Http {
    Http::new(PATIENCE, &Trust::default())
}

/// Reads an answer's body to its end, so that its connection can be used again.
pub(super) async fn drain(answer: &mut Answer) {
    while let Some(Ok(_)) = answer.next().await {}
}

/// Asks for the free path once: the status that the load must get, too.
pub(super) async fn probe_free(http: &Http, base: &Base, path: &str) -> Result<u16, Problem> {
    let answer = ask(http, base, path).await?;
    match answer.status {
        status if status.is_success() => Ok(status.as_u16()),
        StatusCode::PAYMENT_REQUIRED => Err(Problem::Failed(format!(
            "{path} is not free: the server answered 402; --free must be a path that costs nothing"
        ))),
        status => Err(Problem::Failed(format!(
            "nothing is free at {path}: the server answered {}; --free must be a path that is served without a payment",
            status.as_u16()
        ))),
    }
}

/// What a server asks for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The checked offer.
    pub(super) offer: Offer,
    /// The offer as it came, for its packs.
    pub(super) wire: PaymentRequired,
}

/// Asks for the paid path once, without paying.
pub(super) async fn probe_paid(http: &Http, base: &Base, path: &str) -> Result<Asked, Problem> {
    let answer = ask(http, base, path).await?;
    if answer.status != StatusCode::PAYMENT_REQUIRED {
        let status = answer.status.as_u16();
        return Err(Problem::Failed(if answer.status.is_success() {
            format!(
                "{path} is not sold: the server answered {status} without a payment; --paid must be a path with a price"
            )
        } else {
            format!(
                "nothing is sold at {path}: the server answered {status}; --paid must be a path with a price"
            )
        }));
    }
    let no_offer = || Problem::Failed(format!("the 402 for {path} holds no offer that can be paid"));
    let header = answer.headers.get(PAYMENT_REQUIRED).ok_or_else(no_offer)?;
    let offer = Offer::from_header(header.as_bytes()).map_err(|error| Problem::Failed(error.to_string()))?;
    let wire = decode_payment_required(header.as_bytes()).ok_or_else(no_offer)?;
    refuse_live(&offer)?;
    Ok(Asked { offer, wire })
}

/// Test cards only, and no real money.
fn refuse_live(offer: &Offer) -> Result<(), Problem> {
    if offer.publishable_key.is_test() {
        return Ok(());
    }
    Err(Problem::Failed(
        "this server sells for real money (its Stripe key is a live one), and the bench pays with test cards only; nothing was charged"
            .to_owned(),
    ))
}

async fn ask(http: &Http, base: &Base, path: &str) -> Result<Answer, Problem> {
    let sent = http.send(&base.outgoing(path)?, None).await;
    let mut answer = sent.map_err(|error| Problem::Failed(format!("{}{path}: {error}", base.url)))?;
    drain(&mut answer).await;
    Ok(answer)
}

/// The code and the sentence of a refusal, as one text.
pub(super) async fn reason(answer: &mut Answer) -> (String, String) {
    let status = answer.status.as_u16();
    let (code, message) = problem(answer).await;
    let text = if code.is_empty() { format!("status {status}") } else { format!("{status} {code}") };
    (code, if message.is_empty() { text } else { format!("{text}: {message}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(key: &str) -> Offer {
        let wire = serde_json::json!({
            "stripe402Version": 1, "resource": {"url": "/x"},
            "accepts": [{"scheme": "stripe", "currency": "usd", "amount": 1, "minTopUp": 5000, "publishableKey": key}]
        });
        let header = crate::protocol::stripe402::encode(&wire);
        Offer::from_header(header.as_bytes()).expect("an offer")
    }

    #[test]
    fn real_money_is_refused_in_one_sentence() {
        assert!(refuse_live(&offer("pk_test_a")).is_ok());
        let Err(Problem::Failed(sentence)) = refuse_live(&offer("pk_live_a")) else { panic!("accepted") };
        assert!(sentence.contains("real money") && sentence.lines().count() == 1, "{sentence}");
    }

    #[tokio::test]
    async fn only_servers_of_this_machine_are_found() {
        for (url, part) in [
            ("https://127.0.0.1:1", "http://"),
            ("127.0.0.1:1", "without a path"),
            ("http://127.0.0.1:1/api", "without a path"),
            ("http://127.0.0.1:1/?x", "without a path"),
            ("http://me@127.0.0.1:1", "without a path"),
            ("http://192.0.2.1", "--i-run-this-server"),
            ("http://[2001:db8::1]:80", "--i-run-this-server"),
            ("http://127.0.0.1.example.com", "--i-run-this-server"),
        ] {
            let Err(Problem::Usage(sentence)) = Base::find(url, false).await else { panic!("{url}") };
            assert!(sentence.contains(part), "{url}: {sentence}");
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let base = Base::find(&format!("http://{address}/"), false).await.expect("found");
        assert_eq!((base.url.clone(), base.address), (format!("http://{address}"), address));
        let request = base.render("/a?b=c", Some("e30="));
        let text = String::from_utf8(request.to_vec()).expect("text");
        assert!(text.starts_with(&format!("GET /a?b=c HTTP/1.1\r\nhost: {address}\r\n")), "{text}");
        assert!(text.ends_with("\r\npayment: e30=\r\n\r\n"), "{text}");
        drop(listener);
        assert!(matches!(Base::find(&format!("http://{address}"), false).await, Err(Problem::Failed(_))));
    }

    #[test]
    fn paths_are_plain() {
        for path in ["/", "/a/b?c=%20"] {
            assert!(check_path("--free", path).is_ok(), "{path}");
        }
        for path in ["", "a", "http://x/a", "/a b", "/a\r\nx: y", "/ä", "/a#b"] {
            assert!(matches!(check_path("--free", path), Err(Problem::Usage(_))), "{path}");
        }
    }
}

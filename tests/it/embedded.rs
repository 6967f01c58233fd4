//! The paywall inside an actix application: real sockets, and handlers that do whatever handlers do.

mod answers;
mod blame;
mod example;
mod faulty;
mod limits;
mod nesting;
mod panics;
mod payments;
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::body::{BodyStream, SizedStream};
use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, error, web};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use prepaid402::config::{self, Loaded};
use prepaid402::embed::{Embedded, Paid};
use tokio::sync::Semaphore;

use crate::support::http::Answer;
use crate::support::raw::eventually;
use crate::support::{GOOD, PUBLISHABLE_KEY, Pay, World, dice, number, process};

/// Price of everything at `/five`, in units; `/one` costs a fifth of it.
const PRICE: i64 = 500;
/// What one pack buys.
const PACK: i64 = 50_000;

/// What handlers know and tests change.
#[derive(Debug)]
pub struct Handlers {
    pub calls: AtomicUsize,
    pub waiting: Semaphore,
    /// Calls of `waits` that were dropped in the middle.
    dropped: AtomicUsize,
    /// Calls of `waits` that have come to their end.
    answered: AtomicUsize,
}

/// Counts a call that is dropped in the middle.
struct Dropped<'a>(&'a Handlers);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Handlers {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// An application that sells its handlers.
pub struct Shop<'a> {
    world: &'a World,
    paywall: Embedded,
    pub handlers: Arc<Handlers>,
    pub url: String,
    pub admin_url: String,
    server: ServerHandle,
}

fn settings(world: &World, extra: &str) -> Loaded {
    try_settings(world, extra).unwrap_or_else(|problems| panic!("{problems}"))
}

fn try_settings(world: &World, extra: &str) -> Result<Loaded, config::ConfigProblems> {
    config::embedded_from(Some(&toml(world, extra)), world.folder.path(), &world.environment())
}

/// The application's file.
fn toml(world: &World, extra: &str) -> String {
    let admin: SocketAddr = process::lasting_port(&mut dice::Dice::random());
    format!(
        "admin_listen = \"{admin}\"\nadmin_hosts = [\"admin\"]\nidentity = \"{}\"\ndata_dir = {:?}\n[stripe]\npublishable_key = \"{PUBLISHABLE_KEY}\"\napi_base = \"{}\"\n\
         timeout = \"2s\"\n{}\n{}\n{extra}",
        world.identity,
        world.folder.path().join("data"),
        world.sim.base_url,
        world.packs,
        world.shield,
    )
}

async fn told(paid: Paid, body: String, handlers: web::Data<Handlers>) -> HttpResponse {
    let call = handlers.calls.fetch_add(1, Ordering::SeqCst) + 1;
    HttpResponse::Ok().insert_header(("x-kept", "yes")).json(serde_json::json!({
        "call": call,
        "client": paid.client(),
        "price": paid.price().to_string(),
        "currency": paid.currency(),
        "receipt": paid.receipt(),
        "isRepeat": paid.is_repeat(),
        "body": body,
    }))
}

async fn status(path: web::Path<u16>, handlers: web::Data<Handlers>) -> HttpResponse {
    handlers.calls.fetch_add(1, Ordering::SeqCst);
    HttpResponse::build(StatusCode::from_u16(*path).unwrap()).finish()
}

/// Errors of a handler: actix makes the answer.
async fn fails(
    path: web::Path<String>,
    handlers: web::Data<Handlers>,
) -> Result<HttpResponse, actix_web::Error> {
    handlers.calls.fetch_add(1, Ordering::SeqCst);
    match path.as_str() {
        "bad-request" => Err(error::ErrorBadRequest("a bad request")),
        "internal" => Err(error::ErrorInternalServerError("an internal error")),
        "moved" => Err(error::InternalError::new("moved", StatusCode::TEMPORARY_REDIRECT).into()),
        "panic" => panic!("this handler panics on purpose"),
        _ => Err(error::ErrorImATeapot("a teapot")),
    }
}

async fn waits(handlers: web::Data<Handlers>) -> HttpResponse {
    handlers.calls.fetch_add(1, Ordering::SeqCst);
    let dropped = Dropped(&handlers);
    handlers.waiting.acquire().await.unwrap().forget();
    std::mem::forget(dropped);
    handlers.answered.fetch_add(1, Ordering::SeqCst);
    HttpResponse::Ok().body("waited")
}

type Piece = Result<Bytes, Box<dyn std::error::Error>>;

fn pieces(sizes: &[usize], broken: bool) -> impl stream::Stream<Item = Piece> + use<> {
    let mut pieces: Vec<Piece> = sizes.iter().map(|size| Ok(Bytes::from(vec![b'x'; *size]))).collect();
    if broken {
        pieces.push(Err("the handler's stream breaks".into()));
    }
    stream::iter(pieces)
}

/// Bodies: whole, in pieces, breaking off, shorter than announced.
async fn body(path: web::Path<(String, usize)>, handlers: web::Data<Handlers>) -> HttpResponse {
    handlers.calls.fetch_add(1, Ordering::SeqCst);
    let (kind, size) = path.into_inner();
    let mut builder = HttpResponse::Ok();
    match kind.as_str() {
        "whole" => builder.body(vec![b'x'; size]),
        "pieces" => builder.body(BodyStream::new(pieces(&[size / 2, size - size / 2], false))),
        "breaks" => builder.body(BodyStream::new(pieces(&[size], true))),
        "breaks-sized" => builder.body(SizedStream::new(size as u64 + 100, pieces(&[size], true))),
        "short" => builder.body(SizedStream::new(size as u64 + 100, pieces(&[size], false))),
        "long" => builder.body(SizedStream::new(size as u64, pieces(&[size - 1, 6], false))),
        "empty-between" => builder.body(BodyStream::new(pieces(&[size, 0, size], false))),
        "empty-between-sized" => {
            builder.body(SizedStream::new(2 * size as u64, pieces(&[size, 0, size], false)))
        }
        "not-modified" => HttpResponse::NotModified().body(vec![b'x'; size]),
        "no-content" => HttpResponse::NoContent().body(BodyStream::new(pieces(&[size], false))),
        faulty => builder.body(faulty::Faulty::new(faulty, size)),
    }
}

/// Two events, each when a test lets it out.
async fn events(handlers: web::Data<Handlers>) -> HttpResponse {
    handlers.calls.fetch_add(1, Ordering::SeqCst);
    let stream = stream::unfold((0, handlers), |(n, handlers)| async move {
        if n == 2 {
            return None;
        }
        handlers.waiting.acquire().await.unwrap().forget();
        Some((Piece::Ok(format!("data: {n}\n\n").into()), (n + 1, handlers)))
    });
    HttpResponse::Ok().content_type("text/event-stream").body(BodyStream::new(Box::pin(stream)))
}

/// Says something, then what the caller sends; breaks off with the caller's body, or when a test has had enough of waiting.
async fn echoes(mut payload: web::Payload, handlers: web::Data<Handlers>) -> HttpResponse {
    handlers.calls.fetch_add(1, Ordering::SeqCst);
    let stream = async_stream(move |pieces| async move {
        pieces.send(Ok("nearly all;".into())).await.unwrap();
        loop {
            let piece = tokio::select! {
                piece = payload.next() => piece,
                _ = handlers.waiting.acquire() => Some(Err(error::PayloadError::Overflow)),
            };
            let Some(piece) = piece else { return };
            let is_end = piece.is_err();
            if pieces.send(piece.map_err(Into::into)).await.is_err() || is_end {
                return;
            }
        }
    });
    HttpResponse::Ok().body(BodyStream::new(stream))
}

/// Sixty-four MiB, more than systems keep for a connection; gives up on a caller who does not take one within `patience` milliseconds.
async fn impatient(patience: web::Path<u64>, handlers: web::Data<Handlers>) -> HttpResponse {
    handlers.calls.fetch_add(1, Ordering::SeqCst);
    let patience = std::time::Duration::from_millis(*patience);
    let stream = async_stream(move |pieces| async move {
        for _ in 0..1024 {
            let block = Ok(Bytes::from(vec![b'y'; 64 * 1024]));
            match tokio::time::timeout(patience, pieces.reserve()).await {
                Ok(Ok(place)) => place.send(block),
                Ok(Err(_)) => return,
                Err(_) => break,
            }
        }
        handlers.dropped.fetch_add(1, Ordering::SeqCst);
        let _ = pieces.send(Err("nobody reads this".into())).await;
    });
    HttpResponse::Ok().body(BodyStream::new(stream))
}

/// What a task on this worker sends.
fn async_stream<F: Future<Output = ()> + 'static>(
    work: impl FnOnce(tokio::sync::mpsc::Sender<Piece>) -> F,
) -> impl stream::Stream<Item = Piece> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    actix_web::rt::spawn(work(sender));
    Box::pin(stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }))
}

impl<'a> Shop<'a> {
    async fn open(world: &'a World) -> Self {
        Self::with(world, "").await
    }

    pub async fn with(world: &'a World, extra: &str) -> Self {
        let paywall = Embedded::start(settings(world, extra)).await.unwrap_or_else(|error| panic!("{error}"));
        let handlers = Arc::new(Handlers {
            calls: AtomicUsize::new(0),
            waiting: Semaphore::new(0),
            dropped: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
        });
        let (five, one) = (paywall.price("0.05").unwrap(), paywall.price("0.01").unwrap());
        let five = five.description("Five cents").mime_type("application/json");
        let (dear, fine) = (paywall.price("5.00").unwrap(), paywall.price("0.000125").unwrap());
        let (billing, data) = (paywall.billing(), web::Data::from(Arc::clone(&handlers)));
        let server = HttpServer::new(move || {
            let five = || five.clone();
            App::new()
                .app_data(data.clone())
                .service(web::resource("/five").wrap(five()).route(web::route().to(told)))
                .service(web::resource("/one/{thing}").wrap(one.clone()).route(web::route().to(told)))
                .service(web::resource("/dear").wrap(dear.clone()).route(web::route().to(waits)))
                .service(web::resource("/fine").wrap(fine.clone()).route(web::route().to(told)))
                .service(web::resource("/get-only").wrap(five()).get(told))
                .service(web::resource("/status/{status}").wrap(five()).route(web::route().to(status)))
                .service(web::resource("/fails/{how}").wrap(five()).route(web::route().to(fails)))
                .service(web::resource("/moves/{status}").wrap(five()).route(web::route().to(status)))
                .service(web::resource("/moves-by-error/{how}").wrap(five()).route(web::route().to(fails)))
                .service(
                    web::resource("/charges-redirects/{status}")
                        .wrap(five().charge_redirects())
                        .route(web::route().to(status)),
                )
                .service(web::resource("/waits").wrap(five()).route(web::route().to(waits)))
                .service(web::resource("/body/{kind}/{size}").wrap(five()).route(web::route().to(body)))
                .service(web::resource("/echoes").wrap(five()).route(web::route().to(echoes)))
                .service(web::resource("/impatient/{patience}").wrap(five()).route(web::get().to(impatient)))
                .service(web::resource("/tags").wrap(five()).get(async |request: HttpRequest| {
                    let tags = request.headers().get("if-none-match");
                    tags.map_or(String::new(), |tags| tags.to_str().unwrap().to_owned())
                }))
                .service(web::resource("/events").wrap(five()).route(web::route().to(events)))
                .service(web::resource("/named").wrap(five()).route(web::route().to(async || {
                    HttpResponse::Ok().insert_header(("x-name", &b"caf\xe9 \xff"[..])).body("ok")
                })))
                .service(web::resource("/extracts").wrap(five()).route(web::route().to(faulty::never_called)))
                .service(
                    web::resource("/inside")
                        .wrap(from_fn(faulty::mischief))
                        .wrap(five())
                        .route(web::route().to(told)),
                )
                .service(
                    web::resource("/outside")
                        .wrap(five())
                        .wrap(from_fn(faulty::mischief))
                        .route(web::route().to(told)),
                )
                .service(
                    web::resource("/slow/inside")
                        .wrap(from_fn(faulty::mischief))
                        .wrap(five())
                        .route(web::route().to(waits)),
                )
                .service(
                    web::resource("/slow/outside")
                        .wrap(five())
                        .wrap(from_fn(faulty::mischief))
                        .route(web::route().to(waits)),
                )
                .service(
                    web::scope("/nested")
                        .wrap(one.clone())
                        .service(web::resource("/dear/{thing}").wrap(five()).route(web::route().to(told)))
                        .service(web::resource("/plain").route(web::route().to(told))),
                )
                .service(web::resource("/twice").wrap(one.clone()).wrap(five()).route(web::route().to(told)))
                .service(web::resource("/same").wrap(five()).wrap(five()).route(web::route().to(told)))
                .service(web::resource("/unwrapped").route(web::get().to(told)))
                .route("/free", web::get().to(async || "free"))
                .configure(billing.clone())
        })
        .workers(2)
        .disable_signals()
        .shutdown_timeout(5);
        let listener = crate::support::free_listener();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = server.listen(listener).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        let admin_url = format!("http://{}", paywall.admin_address());
        Self { world, paywall, handlers, url, admin_url, server: handle }
    }

    pub async fn send(&self, method: &str, path: &str, pay: &Pay, key: Option<&str>) -> Answer {
        self.try_send(method, path, pay, key)
            .await
            .unwrap_or_else(|broken| panic!("{method} {path}: {broken:?}"))
    }

    async fn try_send(
        &self,
        method: &str,
        path: &str,
        pay: &Pay,
        key: Option<&str>,
    ) -> Result<Answer, crate::support::http::Broken> {
        let header = pay.header();
        let mut headers = vec![("payment", header.as_str())];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let body = (method == "POST").then_some(("text/plain", &b"hello"[..]));
        self.world.client.try_send(method, &format!("{}{path}", self.url), &headers, body).await
    }

    async fn get(&self, path: &str, pay: &Pay) -> Answer {
        self.send("GET", path, pay, None).await
    }

    /// A wallet with one pack, unspent, bought at the shop's own `/billing`.
    pub async fn wallet(&self) -> String {
        let card = self.world.tokenise(GOOD).await;
        let body = format!("{{\"paymentMethodId\":\"{card}\"}}");
        let url = format!("{}/billing/top-ups", self.url);
        let headers = [("idempotency-key", card.as_str())];
        let body = Some(("application/json", body.as_bytes()));
        let answer = self.world.client.send("POST", &url, &headers, body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.receipt().client_id
    }

    async fn balance(&self, client: &str) -> i64 {
        let bearer = format!("Bearer {client}");
        let url = format!("{}/billing/balance", self.url);
        let answer = self.world.client.send("GET", &url, &[("authorization", &bearer)], None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["balance"].as_i64().unwrap()
    }

    async fn balance_becomes(&self, client: &str, units: i64) {
        eventually(&format!("a balance of {units}"), async || self.balance(client).await == units).await;
    }

    /// Everything of a wallet that holds one pack can be spent: nothing is reserved or held.
    async fn all_is_free(&self, client: &str) {
        self.balance_becomes(client, PACK).await;
        self.handlers.waiting.add_permits(1);
        eventually("all of it can be spent", async || {
            self.send("POST", "/dear", &Pay::client(client), None).await.status == 200
        })
        .await;
        assert_eq!(self.balance(client).await, 0);
    }

    /// The server first, then the paywall, as an application does.
    pub async fn close(self) {
        self.server.stop(true).await;
        self.paywall.stop().await;
        self.world.assert_books_agree().await;
        for left in [
            "SELECT COUNT(*) FROM holds",
            "SELECT COUNT(*) FROM idempotency_keys WHERE state = 'running'",
            "SELECT COUNT(*) FROM undelivered WHERE entries <> '[]'",
        ] {
            assert_eq!(number(&self.world.database, left).await, 0, "{left}");
        }
    }
}

async fn captures(world: &World) -> i64 {
    let sql = "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%' AND source NOT LIKE '%/%'";
    number(&world.database, sql).await
}

/// A note that this request costs nothing, with a usable clientId.
fn says_not_charged(answer: &Answer, client: &str, left: i64) {
    let note = answer.receipt();
    assert!(!note.success, "{} {}", answer.status, answer.text());
    assert_eq!((note.client_id.as_str(), note.credits_remaining.unwrap()), (client, left));
    assert_eq!((note.error_code.as_deref(), note.credits_charged), (Some("not_charged"), Some(0)));
}

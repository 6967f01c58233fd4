//! A small API to sell, for demonstrations and tests: what stands behind the gateway in the sandbox.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The longest name of a city, in bytes.
const MAX_CITY: usize = 64;

const JOKES: &[(&str, &str)] = &[
    (
        "Why did the agent bring a card to the API?",
        "It had heard that the first request is on the house, and the 402 is not.",
    ),
    ("What does a ledger say when it is asked to forget?", "I can only add that you asked."),
    ("Why was the idempotency key so calm?", "Whatever happened, it had seen it before."),
    ("How many decimals does it take to lose a cent?", "One, if it floats."),
    ("Why do proxies make good neighbours?", "They pass everything on and keep nothing."),
    ("What did the cache say to the balance?", "I remember you differently."),
    ("Why did the retry cross the network?", "Nobody could tell whether it already had."),
    ("What is a timeout's favourite answer?", "It depends."),
];

const SKIES: [&str; 6] = ["clear", "partly cloudy", "overcast", "light rain", "rain", "fog"];

/// The demo API cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("the demo API cannot listen: {0}")]
pub struct DemoError(#[from] io::Error);

/// A demo API that runs until it is stopped.
#[derive(Debug)]
pub struct RunningDemo {
    /// Where it answers, such as `http://127.0.0.1:4403`, without a slash at the end.
    pub base_url: String,
    handle: ServerHandle,
    server: tokio::task::JoinHandle<io::Result<()>>,
}

impl RunningDemo {
    /// Stops at once.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        // Its result is only about sockets, which are gone either way.
        let _ = self.server.await;
    }
}

/// Starts the demo API on a socket that is already bound. Must be called inside a tokio runtime.
///
/// # Errors
/// [`DemoError`] when the socket cannot be used.
pub async fn start(listener: TcpListener) -> Result<RunningDemo, DemoError> {
    let base_url = format!("http://{}", listener.local_addr()?);
    let jokes_told = web::Data::new(AtomicUsize::new(0));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(jokes_told.clone())
            .route("/api/health", web::get().to(health))
            .route("/api/joke", web::get().to(joke))
            .route("/api/weather", web::get().to(weather))
            .default_service(web::to(not_found))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(0)
    .listen(listener)?
    .run();
    let handle = server.handle();
    Ok(RunningDemo { base_url, handle, server: tokio::spawn(server) })
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok", "sandbox": true }))
}

async fn joke(told: web::Data<AtomicUsize>) -> HttpResponse {
    let number = told.fetch_add(1, Ordering::Relaxed) % JOKES.len();
    let (setup, punchline) = JOKES[number];
    HttpResponse::Ok()
        .json(json!({ "sandbox": true, "number": number + 1, "setup": setup, "punchline": punchline }))
}

#[derive(Deserialize)]
struct Place {
    city: Option<String>,
}

async fn weather(place: web::Query<Place>) -> HttpResponse {
    let city = place.into_inner().city.unwrap_or_else(|| "Berlin".to_owned());
    if city.is_empty() || city.len() > MAX_CITY {
        return HttpResponse::BadRequest()
            .json(json!({ "sandbox": true, "error": "city must have from 1 to 64 bytes" }));
    }
    HttpResponse::Ok().json(forecast(&city))
}

/// Always the same for the same city, whatever its case.
fn forecast(city: &str) -> Value {
    let hash: [u8; 32] = Sha256::digest(city.to_lowercase().as_bytes()).into();
    let sky = SKIES[usize::from(hash[0]) % SKIES.len()];
    json!({
        "sandbox": true,
        "city": city,
        "sky": sky,
        "temperature_celsius": i64::from(hash[1] % 40) - 8,
        "humidity_percent": 30 + i64::from(hash[2] % 70),
        "wind_kmh": i64::from(hash[3] % 60),
        "note": "invented, and the same every time",
    })
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound().json(json!({ "sandbox": true, "error": "there is nothing here" }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    use super::*;

    #[tokio::test]
    async fn it_answers_with_json_and_jokes_take_turns() {
        let demo = start(TcpListener::bind("127.0.0.1:0").unwrap()).await.unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
        let get = async |path: &str| {
            let answer = client.get(format!("{}{path}", demo.base_url).parse().unwrap()).await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice::<Value>(&body).unwrap())
        };
        for (path, status) in [
            ("/api/health", 200),
            ("/api/joke", 200),
            ("/api/weather", 200),
            ("/api/weather?city=Oslo", 200),
            ("/api/weather?city=", 400),
            ("/api/none", 404),
            ("/", 404),
        ] {
            let (found, body) = get(path).await;
            assert_eq!((found, &body["sandbox"]), (status, &json!(true)), "{path}");
        }
        assert_ne!(get("/api/joke").await.1["setup"], get("/api/joke").await.1["setup"]);
        demo.stop().await;
    }

    #[test]
    fn a_city_has_its_weather() {
        assert_eq!(forecast("Oslo")["sky"], forecast("oSLO")["sky"]);
        assert_eq!(forecast("Oslo"), forecast("Oslo"));
        assert_ne!(forecast("Oslo"), forecast("Lima"));
        assert_eq!(forecast("Lima")["sandbox"], true);
    }
}

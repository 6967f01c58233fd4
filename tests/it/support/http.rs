//! A plain HTTP client that hides nothing.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Client(Legacy<HttpConnector, Full<Bytes>>);

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

/// The connection broke before the answer was complete.
#[derive(Debug)]
pub struct Broken;

impl Client {
    pub fn new() -> Self {
        let mut builder = Legacy::builder(TokioExecutor::new());
        // Servers close a connection that was idle for five seconds: a request must not meet that on its way.
        builder.pool_max_idle_per_host(64).pool_idle_timeout(std::time::Duration::from_secs(2));
        Self(builder.build_http())
    }

    pub async fn get(&self, url: &str) -> Answer {
        self.send("GET", url, &[], None).await
    }

    pub async fn post_json(&self, url: &str, body: &Value) -> Answer {
        self.send("POST", url, &[], Some(("application/json", body.to_string().as_bytes()))).await
    }

    pub async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Answer {
        self.try_send(method, url, headers, body)
            .await
            .unwrap_or_else(|Broken| panic!("{method} {url} broke"))
    }

    pub async fn try_send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Result<Answer, Broken> {
        let answer = self.send_once(method, url, headers, body).await?;
        // A connection that was opened in advance and had no request for five seconds is closed with this. When a request is
        // on its way at that moment it was not heard, and is repeated: RFC 9110, section 15.5.9.
        if answer.status == 408 && answer.body.is_empty() {
            return self.send_once(method, url, headers, body).await;
        }
        Ok(answer)
    }

    async fn send_once(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Result<Answer, Broken> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some((media_type, _)) = body {
            request = request.header("content-type", media_type);
        }
        let body = body.map_or_else(Bytes::new, |(_, body)| Bytes::copy_from_slice(body));
        let request = request.body(Full::new(body)).unwrap();
        // Generous: a test never depends on it, but a hang must end.
        let exchange = async {
            let response = self.0.request(request).await.map_err(|_| Broken)?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        tokio::time::timeout(Duration::from_secs(90), exchange).await.unwrap_or(Err(Broken))
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }
}

//! The way from the command line to the running server's admin listener: only the server writes.

use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::admin::password_from;
use crate::agent::http::{Http, Outgoing, SendError, Target, TargetError};
use crate::config::{ConfigProblems, LoadSource, load_admin_address};
use crate::domain::{Micros, decimal_in};
use crate::trust::Trust;

/// The thing asked for was not done, or it is not known whether it was.
pub(super) const FAILED: u8 = 1;
/// Wrong usage.
pub(super) const USAGE: u8 = 2;
/// The server may ask Stripe twice, half a minute each.
const PATIENCE: Duration = Duration::from_secs(90);
/// Answers are small.
const MAX_ANSWER: usize = 1024 * 1024;
const PASSWORD: &str = "PREPAID402_ADMIN_PASSWORD";
/// How long a command waits, in seconds, because somebody has given wrong passwords: the server counts them before it looks at one.
const MAX_WAIT: u64 = 60;
/// How often, since whoever goes on guessing may be faster.
const WAITS: u32 = 20;

/// Where the server is, and who asks. The password is in PREPAID402_ADMIN_PASSWORD, or is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct OperatorDoor {
    /// The server's admin listener; without it, as the configuration says
    #[arg(long, value_name = "URL", env = "PREPAID402_ADMIN_URL")]
    admin_url: Option<String>,
    /// The configuration file whose admin_listen it is; as for `serve` without it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A user of the admin pages
    #[arg(long, value_name = "NAME", env = "PREPAID402_ADMIN_USER")]
    user: String,
    /// Read the password from standard input; a line end at its end does not belong to it
    #[arg(long)]
    password_stdin: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    #[error("the address of the admin listener is not known: {0}")]
    Config(#[from] ConfigProblems),
    #[error(
        "admin_listen is {0}, and plain http:// to an address that others can reach would send the password in the clear: write \
         admin_public_url, or use --admin-url with https:// or an SSH tunnel"
    )]
    Listen(SocketAddr),
    #[error(
        "--admin-url: it must look like http://127.0.0.1:4403; from another machine, use https:// or an SSH tunnel"
    )]
    Url,
    #[error(
        "--admin-url: plain http:// to another machine would send the password in the clear; use https:// or an SSH tunnel"
    )]
    Insecure,
    #[error("the password is not there: set PREPAID402_ADMIN_PASSWORD, or use --password-stdin")]
    NoPassword,
    #[error("the password cannot be used: {0}")]
    Password(String),
    #[error("{0} cannot be used in a request")]
    Word(&'static str),
    #[error("{0}: {1}")]
    NotSent(String, SendError),
    /// The request may have arrived.
    #[error("{0}: {1}")]
    Lost(String, SendError),
    #[error("{0} is not the admin listener of this program: it answered {1}")]
    Foreign(String, StatusCode),
}

impl DoorError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Listen(_)
            | Self::Url
            | Self::Insecure
            | Self::NoPassword
            | Self::Password(_)
            | Self::Word(_) => USAGE,
            Self::NotSent(..) | Self::Lost(..) | Self::Foreign(..) => FAILED,
        }
    }

    /// Whether the server may have done what was asked for.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Lost(..))
    }
}

/// What the server answered.
pub(super) struct Said {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Said {
    /// A text of the answer, or nothing.
    pub(super) fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_default()
    }

    /// An amount of the answer with its currency, as people write it.
    pub(super) fn money(&self, field: &str) -> String {
        let (amount, currency) = (self.text(field), self.text("currency"));
        let amount = match Micros::parse_major(amount) {
            Ok(known) => decimal_in(known.get().unsigned_abs(), currency),
            Err(_) => amount.to_owned(),
        };
        format!("{amount} {}", currency.to_ascii_uppercase())
    }

    /// Why it was refused, in the server's words.
    pub(super) fn refusal(&self) -> String {
        format!("{} ({})", self.text("message"), self.text("code"))
    }
}

/// A door with a password, so that nothing has to be asked for later.
pub(super) struct OpenDoor {
    url: String,
    authorization: HeaderValue,
}

impl OperatorDoor {
    /// Checks the address and gets the password, before anything is sent.
    pub(super) async fn open(self) -> Result<OpenDoor, DoorError> {
        let url = match self.admin_url.filter(|url| !url.is_empty()) {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => configured(self.config)?,
        };
        target(&url)?;
        let from_stdin = self.password_stdin;
        let reading = tokio::task::spawn_blocking(move || read_password(from_stdin));
        let password = reading.await.map_err(|error| DoorError::Password(error.to_string()))??;
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:{password}", self.user)));
        let mut authorization = HeaderValue::from_str(&basic).map_err(|_| DoorError::Word("--user"))?;
        authorization.set_sensitive(true);
        Ok(OpenDoor { url, authorization })
    }
}

/// The admin listener's address by the configuration.
fn configured(config_file: Option<PathBuf>) -> Result<String, DoorError> {
    let (listen, public) = load_admin_address(&LoadSource { config_file })?;
    let address = from_here(listen);
    match public {
        Some(public) if !address.ip().to_canonical().is_loopback() => Ok(public),
        None if !address.ip().to_canonical().is_loopback() => Err(DoorError::Listen(listen)),
        _ => Ok(format!("http://{address}")),
    }
}

/// Where something that listens is reached from this machine.
pub(super) fn from_here(mut listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listen
}

fn target(url: &str) -> Result<Target, DoorError> {
    Target::parse(url, false).map_err(|error| match error {
        TargetError::Insecure => DoorError::Insecure,
        TargetError::Form | TargetError::UserInfo => DoorError::Url,
    })
}

fn read_password(from_stdin: bool) -> Result<String, DoorError> {
    if from_stdin {
        return password_from(std::io::stdin().lock())
            .map_err(|error| DoorError::Password(error.to_string()));
    }
    match std::env::var(PASSWORD) {
        Ok(password) if !password.is_empty() => Ok(password),
        _ if std::io::stdin().is_terminal() => {
            rpassword::prompt_password("Password: ").map_err(|error| DoorError::Password(error.to_string()))
        }
        _ => Err(DoorError::NoPassword),
    }
}

/// One segment of a path.
pub(super) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

impl OpenDoor {
    /// Sends one POST and reads its answer. When wrong passwords were given, it is sent again as soon as it is heard.
    pub(super) async fn post(
        &self,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Said, DoorError> {
        let mut waits = WAITS;
        loop {
            let (said, wait) = self.post_once(path, key, body).await?;
            let is_to_wait =
                said.status == StatusCode::TOO_MANY_REQUESTS && said.text("code") == "too_many_attempts";
            match wait.filter(|seconds| is_to_wait && waits > 0 && *seconds <= MAX_WAIT) {
                Some(seconds) => {
                    eprintln!(
                        "wrong passwords were given with this name or from this address: waiting {seconds} s"
                    );
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    waits = waits.saturating_sub(1);
                }
                None => return Ok(said),
            }
        }
    }

    /// The answer, and after how many seconds it says to come again.
    async fn post_once(
        &self,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(Said, Option<u64>), DoorError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        if let Some(key) = key {
            let key = HeaderValue::from_str(key).map_err(|_| DoorError::Word("--key"))?;
            headers.insert(HeaderName::from_static("idempotency-key"), key);
        }
        if body.is_some() {
            let json = HeaderValue::from_static("application/json");
            headers.insert(hyper::header::CONTENT_TYPE, json);
        }
        let outgoing = Outgoing {
            target: target(&format!("{}{path}", self.url))?,
            method: Method::POST,
            headers,
            body: body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())),
        };
        let broken = |error| match error {
            SendError::NotSent => DoorError::NotSent(self.url.clone(), error),
            SendError::Lost | SendError::TimedOut => DoorError::Lost(self.url.clone(), error),
        };
        let mut answer =
            Http::new(PATIENCE, &Trust::default()).send(&outgoing, None).await.map_err(broken)?;
        let wait = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut bytes = Vec::new();
        while let Some(piece) = answer.next().await {
            bytes.extend_from_slice(&piece.map_err(broken)?);
            if bytes.len() > MAX_ANSWER {
                return Err(DoorError::Foreign(self.url.clone(), answer.status));
            }
        }
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if !body.is_object() {
            return Err(DoorError::Foreign(self.url.clone(), answer.status));
        }
        Ok((Said { status: answer.status, body }, wait))
    }
}

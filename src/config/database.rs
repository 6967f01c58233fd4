//! Where the books are: a SQLite file, or a PostgreSQL server.

use std::path::PathBuf;
use std::str::FromStr as _;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::Secret;
use super::problem::Report;
use super::section::Section;

/// Where the books are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseConfig {
    /// A file of this process's own.
    Sqlite(PathBuf),
    /// A server that several nodes share: its URL, which usually holds a password.
    Postgres(Secret),
}

impl DatabaseConfig {
    /// From `sqlite:PATH` or `postgres://…`.
    ///
    /// # Errors
    /// A sentence that says what to write instead. The text is never repeated: such an address usually holds a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if is_postgres(text) {
            let usable = PgConnectOptions::from_str(text).is_ok_and(|url| url.get_database().is_some());
            return if usable {
                Ok(Self::Postgres(Secret::new(text.to_owned())))
            } else {
                Err("is not an address such as \"postgres://gateway@db.example.com/prepaid402\"")
            };
        }
        match text.strip_prefix("sqlite:") {
            Some(":memory:") => {
                Err("would lose every balance at the end of the process: write \"sqlite:PATH\"")
            }
            Some(path) if path.contains(['?', '#']) => Err("must be a plain path, without ? or #"),
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(PathBuf::from(path))),
            _ => Err(
                "must be \"sqlite:PATH\", such as \"sqlite:/var/lib/prepaid402/prepaid402.db\", or \"postgres://USER@HOST/DATABASE\"",
            ),
        }
    }

    /// For people: the path, or the server without user and password.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(url) => match PgConnectOptions::from_str(url.expose()) {
                Ok(url) => {
                    format!(
                        "postgres://{}:{}/{}",
                        url.get_host(),
                        url.get_port(),
                        url.get_database().unwrap_or_default()
                    )
                }
                Err(_) => "postgres".to_owned(),
            },
        }
    }

    /// The same with this password, if it is a server's address without one. Not from the process's environment alone: `.env`
    /// counts, too.
    #[must_use]
    pub(super) fn with_password(self, password: Option<&str>) -> Self {
        match (self, password.filter(|password| !password.is_empty())) {
            (Self::Postgres(url), Some(password)) if !holds_password(url.expose()) => {
                let escaped =
                    percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC);
                let separator = if url.expose().contains('?') { '&' } else { '?' };
                Self::Postgres(Secret::new(format!("{}{separator}password={escaped}", url.expose())))
            }
            (other, _) => other,
        }
    }

    /// Whether an address holds a password, which has no place where people read it.
    #[must_use]
    pub fn holds_password(text: &str) -> bool {
        holds_password(text)
    }

    /// Whether several processes may use it at the same time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

impl<P: Into<PathBuf>> From<P> for DatabaseConfig {
    fn from(path: P) -> Self {
        Self::Sqlite(path.into())
    }
}

fn is_postgres(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// Whether an address holds a password, which has no place in a file that people read and commit.
pub(super) fn holds_password(text: &str) -> bool {
    let authority =
        text.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or(""));
    let in_authority = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    let in_query = text.split_once('?').is_some_and(|(_, query)| {
        query.split('&').any(|pair| pair.to_ascii_lowercase().starts_with("password="))
    });
    is_postgres(text) && (in_authority || in_query)
}

/// Reads `database_url`; without it, `prepaid402.db` in the data directory.
pub(super) fn read(
    root: &Section<'_>,
    data_dir: Option<&PathBuf>,
    report: &mut Report,
) -> Option<DatabaseConfig> {
    if !root.has("database_url") {
        let path = data_dir?.join("prepaid402.db");
        if path.to_str().is_none() {
            report.problem("data_dir", "is not readable as text");
            return None;
        }
        return Some(DatabaseConfig::Sqlite(path));
    }
    let text = root.text("database_url", report)?;
    match DatabaseConfig::parse(text) {
        Ok(database) => {
            if let DatabaseConfig::Postgres(url) = &database {
                warn_of_plain_text(url, report);
            }
            Some(database)
        }
        Err(what) => {
            report.problem("database_url", what);
            None
        }
    }
}

fn warn_of_plain_text(url: &Secret, report: &mut Report) {
    let Ok(url) = PgConnectOptions::from_str(url.expose()) else { return };
    // An IPv6 address stands in brackets.
    let host = url.get_host().trim_start_matches('[').trim_end_matches(']');
    let local = host.starts_with('/')
        || host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    if !local && matches!(url.get_ssl_mode(), PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer) {
        report.warn(format!(
            "database_url does not insist on TLS to {host}: add ?sslmode=verify-full (or require), or anybody on the way can read balances."
        ));
    }
}

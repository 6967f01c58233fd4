//! Why a batch did not commit, as far as it decides what to do next.

/// What stands in the way.
#[derive(Debug)]
pub(super) enum Fault {
    /// One command's fault: the others can succeed without it.
    OfOneCommand(sqlx::Error),
    /// Another node's transaction was in the way; this one was rolled back for certain and can be tried again.
    Again(sqlx::Error),
    /// The database is away, full or locked. If that happened during COMMIT, nobody knows the outcome.
    Away(sqlx::Error),
}

impl Fault {
    /// A fault that we have found ourselves.
    pub(super) fn guilty(what: &str) -> Self {
        Self::OfOneCommand(sqlx::Error::Protocol(what.to_owned()))
    }

    /// Whether the connection cannot be used any more although it answers: the server takes no writes since a failover.
    pub(super) fn is_demoted(&self) -> bool {
        // read_only_sql_transaction
        self.error()
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .is_some_and(|code| code == "25006")
    }

    pub(super) fn error(&self) -> &sqlx::Error {
        let (Self::OfOneCommand(error) | Self::Again(error) | Self::Away(error)) = self;
        error
    }

    pub(super) fn into_error(self) -> sqlx::Error {
        match self {
            Self::OfOneCommand(error) | Self::Again(error) | Self::Away(error) => error,
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                // PostgreSQL's codes have five characters; SQLite's are numbers of one to four digits.
                let code = database.code().unwrap_or_default().into_owned();
                match code.as_str() {
                    // serialization_failure, deadlock_detected, lock_not_available, query_canceled (statement_timeout):
                    // <https://www.postgresql.org/docs/current/errcodes-appendix.html>
                    "40001" | "40P01" | "55P03" | "57014" => Self::Again(error),
                    // statement_completion_unknown
                    "40003" => Self::Away(error),
                    // Values that do not fit, and exceptions raised by triggers.
                    code if code.len() == 5 && (code.starts_with("22") || code.starts_with("P0")) => {
                        Self::OfOneCommand(error)
                    }
                    _ if database.kind() == sqlx::error::ErrorKind::Other => Self::Away(error),
                    _ => Self::OfOneCommand(error),
                }
            }
            sqlx::Error::Decode(_) | sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } => {
                Self::OfOneCommand(error)
            }
            _ => Self::Away(error),
        }
    }
}

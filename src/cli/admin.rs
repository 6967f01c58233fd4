//! `prepaid402 admin`: people who may look at the admin pages.
//!
//! These commands open the database file themselves, so they work whether the server runs or not. They move no money.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};

use super::database::{DatabaseLocation, LocationError};
use crate::config::DatabaseConfig;
use crate::db::{self, Connection, DbError, FileError};
use crate::files::folder;
use crate::http::admin::PasswordError;
use crate::http::admin::users::{self, AdminUserError};

/// The thing asked for did not work.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The longest password and a line end; one byte more is read to notice what is longer.
const MAX_PASSWORD_INPUT: u64 = 1026;

/// Add and remove people who may look at the admin pages.
///
/// There is no default user and no default password. The commands work whether the server runs or not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  prepaid402 admin create-user alice                      asks for the password
  prepaid402 admin create-user ci --generate-password     prints a password for a program
  prepaid402 admin list-users --data-dir /var/lib/prepaid402")]
pub struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Add a user. The password has at least 12 characters; no others are required of it.
    #[command(after_help = "Example:\n  prepaid402 admin create-user alice")]
    CreateUser {
        /// 1 to 64 letters, digits or . _ @ + -
        name: String,
        #[command(flatten)]
        password: PasswordSource,
        #[command(flatten)]
        database: DatabaseLocation,
    },
    /// Change a user's password and sign the user out everywhere.
    #[command(after_help = "Example:\n  prepaid402 admin set-password alice")]
    SetPassword {
        /// The user's name
        name: String,
        #[command(flatten)]
        password: PasswordSource,
        #[command(flatten)]
        database: DatabaseLocation,
    },
    /// Remove a user and sign the user out everywhere.
    #[command(after_help = "Example:\n  prepaid402 admin remove-user alice")]
    RemoveUser {
        /// The user's name
        name: String,
        #[command(flatten)]
        database: DatabaseLocation,
    },
    /// List the users: name, when added, number of sessions, separated by tabs.
    #[command(after_help = "Example:\n  prepaid402 admin list-users")]
    ListUsers {
        #[command(flatten)]
        database: DatabaseLocation,
    },
}

/// Where a password comes from; without an option it is asked for twice on the terminal.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct PasswordSource {
    /// Read the password from this file; a line end at its end does not belong to it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Read the password from standard input; a line end at its end does not belong to it
    #[arg(long)]
    password_stdin: bool,
    /// Make a password that nobody can guess, for a program, and print it; guesses of others never slow it down
    #[arg(long)]
    generate_password: bool,
}

/// Why a command ended without what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("{0}")]
    User(#[from] AdminUserError),
    #[error("{database}: {error}")]
    Database { database: String, error: DbError },
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error("{0}")]
    File(FileError),
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("the password could not be read: {0}")]
    Read(std::io::Error),
    #[error("the password could not be asked for: {0}; use --password-stdin or --password-file FILE")]
    Ask(std::io::Error),
    #[error("the password is not UTF-8 text")]
    NotText,
    #[error("the two passwords differ; nothing was changed")]
    Differ,
}

impl CommandError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::User(AdminUserError::Name | AdminUserError::Password(_))
            | Self::Location(_)
            | Self::Io { .. }
            | Self::NotText
            | Self::Ask(_) => USAGE,
            Self::User(_) | Self::File(_) | Self::Database { .. } | Self::Read(_) | Self::Differ => FAILED,
        }
    }
}

/// Runs `prepaid402 admin …`.
pub async fn run(args: AdminArgs) -> ExitCode {
    match execute(args.command).await {
        Ok(output) => {
            print!("{output}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("prepaid402 admin: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Does it, and gives what belongs on standard output.
async fn execute(command: AdminCommand) -> Result<String, CommandError> {
    match command {
        AdminCommand::CreateUser { name, password, database } => {
            let database = database.find()?;
            let given = password.read().await?;
            let mut connection = open_or_create(&database).await?;
            let made = match given {
                Some(given) => {
                    users::create_user(&mut connection, &name, &given).await.map(|()| String::new())?
                }
                None => shown(&users::create_program(&mut connection, &name).await?),
            };
            Ok(format!("{name} may now sign in ({})\n{made}", database.shown()))
        }
        AdminCommand::SetPassword { name, password, database } => {
            let mut connection = open(&database.find_used()?).await?;
            let made = match password.read().await? {
                Some(given) => {
                    users::set_password(&mut connection, &name, &given).await.map(|()| String::new())?
                }
                None => shown(&users::generate_password(&mut connection, &name).await?),
            };
            Ok(format!("{name} has a new password and was signed out everywhere\n{made}"))
        }
        AdminCommand::RemoveUser { name, database } => {
            let mut connection = open(&database.find_used()?).await?;
            users::remove_user(&mut connection, &name).await?;
            Ok(format!("{name} was removed and signed out everywhere\n"))
        }
        AdminCommand::ListUsers { database } => {
            let mut connection = open(&database.find_used()?).await?;
            let users = users::list_users(&mut connection).await.map_err(AdminUserError::Sql)?;
            Ok(users
                .into_iter()
                .map(|user| {
                    let created = DateTime::from_timestamp_micros(user.created_at)
                        .map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
                    format!("{}\t{}\t{}\n", user.name, created.unwrap_or_default(), user.sessions)
                })
                .collect())
        }
    }
}

async fn open(database: &DatabaseConfig) -> Result<Connection, CommandError> {
    let failed = |error| CommandError::Database { database: database.shown(), error };
    if let DatabaseConfig::Sqlite(path) = database {
        // Before SQLite makes something of an empty file.
        refuse_lost(path)?;
    }
    let mut connection = db::connect(database).await.map_err(failed)?;
    match (db::require_current(&mut connection).await, database) {
        // Before the server's first start, or after an update: only while no server runs on the file.
        (Err(DbError::SchemaTooOld { .. }), DatabaseConfig::Sqlite(path)) => {
            connection.close().await.map_err(DbError::from).map_err(failed)?;
            let own = db::own(path, folder(path)).map_err(CommandError::File)?;
            let mut connection = db::connect(database).await.map_err(failed)?;
            db::migrate(&mut connection, database).await.map_err(failed)?;
            connection.close().await.map_err(DbError::from).map_err(failed)?;
            // Only when nothing of this process has it open.
            drop(own);
            db::connect(database).await
        }
        (checked, _) => checked.map(|()| connection),
    }
    .map_err(failed)
}

fn refuse_lost(path: &Path) -> Result<(), CommandError> {
    db::refuse_lost(path, folder(path)).map_err(CommandError::File)
}

/// The first user may be added before the server's first start. What is made here, only its owner may read.
async fn open_or_create(database: &DatabaseConfig) -> Result<Connection, CommandError> {
    if let DatabaseConfig::Sqlite(path) = database
        && !path.exists()
    {
        refuse_lost(path)?;
        create(path).map_err(|error| CommandError::Io { path: path.clone(), error })?;
    }
    open(database).await
}

fn create(path: &Path) -> std::io::Result<()> {
    let mut directory = std::fs::DirBuilder::new();
    let mut file = File::options();
    directory.recursive(true);
    file.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        directory.mode(0o700);
        file.mode(0o600);
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        directory.create(parent)?;
    }
    match file.open(path) {
        // The server, starting at this moment, was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

fn shown(password: &str) -> String {
    format!("password: {password}\n")
}

impl PasswordSource {
    /// `None`: one is to be made.
    async fn read(self) -> Result<Option<String>, CommandError> {
        if self.generate_password {
            return Ok(None);
        }
        // Terminals and files block.
        let reading = tokio::task::spawn_blocking(move || match self.password_file {
            Some(path) => {
                let file = File::open(&path).map_err(|error| CommandError::Io { path, error })?;
                password_from(file)
            }
            None if self.password_stdin => password_from(std::io::stdin().lock()),
            None => ask(),
        });
        reading.await.map_err(|error| CommandError::Read(std::io::Error::other(error)))?.map(Some)
    }
}

/// The password in a file: everything but one line end.
pub(super) fn password_from(input: impl Read) -> Result<String, CommandError> {
    let mut bytes = Vec::new();
    input.take(MAX_PASSWORD_INPUT.saturating_add(1)).read_to_end(&mut bytes).map_err(CommandError::Read)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_PASSWORD_INPUT) {
        return Err(AdminUserError::Password(PasswordError::TooLong).into());
    }
    let text = String::from_utf8(bytes).map_err(|_| CommandError::NotText)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn ask() -> Result<String, CommandError> {
    let password =
        rpassword::prompt_password("Password (at least 12 characters): ").map_err(CommandError::Ask)?;
    let again = rpassword::prompt_password("Once more: ").map_err(CommandError::Ask)?;
    if password == again { Ok(password) } else { Err(CommandError::Differ) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: AdminArgs,
    }

    fn parse(words: &[&str]) -> Result<AdminCommand, clap::Error> {
        let words = std::iter::once("admin").chain(words.iter().copied());
        Program::try_parse_from(words).map(|program| program.args.command)
    }

    async fn do_it(words: &[&str]) -> Result<String, CommandError> {
        execute(parse(words).expect("the words are a command")).await
    }

    #[test]
    fn a_line_end_does_not_belong_to_the_password() {
        for (input, expected) in [
            ("violet kettle orbit", "violet kettle orbit"),
            ("violet kettle orbit\n", "violet kettle orbit"),
            ("violet kettle orbit\r\n", "violet kettle orbit"),
            (" violet kettle \n\n", " violet kettle \n"),
        ] {
            assert_eq!(password_from(input.as_bytes()).expect("a password"), expected);
        }
        let long = "x".repeat(2_000);
        assert!(matches!(
            password_from(long.as_bytes()),
            Err(CommandError::User(AdminUserError::Password(PasswordError::TooLong)))
        ));
        assert!(matches!(password_from(&[0xff, 0xfe][..]), Err(CommandError::NotText)));
    }

    #[test]
    fn contradicting_options_are_refused() {
        assert!(parse(&["create-user", "a", "--password-stdin", "--password-file", "x"]).is_err());
        assert!(parse(&["list-users", "--database", "x", "--data-dir", "y"]).is_err());
    }

    #[tokio::test]
    async fn users_come_and_go_without_a_server() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("new/data");
        let data = data.to_str().expect("UTF-8");
        let file = directory.path().join("password");
        std::fs::write(&file, "violet kettle orbit\n").expect("written");
        let file = file.to_str().expect("UTF-8");

        let missing = do_it(&["list-users", "--data-dir", data]).await.expect_err("no database");
        assert!(matches!(missing, CommandError::Location(LocationError::NoFile(_))));

        let create = ["create-user", "alice", "--password-file", file, "--data-dir", data];
        assert!(do_it(&create).await.expect("created").starts_with("alice may now sign in"));
        let again = do_it(&create).await.expect_err("exists");
        assert!(matches!(again, CommandError::User(AdminUserError::Exists)));
        let named = do_it(&["create-user", "a b", "--password-file", file, "--data-dir", data]).await;
        assert_eq!(named.expect_err("a bad name").exit_code(), USAGE);

        let listed = do_it(&["list-users", "--data-dir", data]).await.expect("listed");
        assert_eq!(listed.split('\t').next(), Some("alice"));
        do_it(&["set-password", "alice", "--password-file", file, "--data-dir", data]).await.expect("set");
        let unknown = do_it(&["set-password", "bob", "--password-file", file, "--data-dir", data]).await;
        assert!(matches!(unknown, Err(CommandError::User(AdminUserError::Unknown))));
        do_it(&["remove-user", "alice", "--data-dir", data]).await.expect("removed");
        assert_eq!(do_it(&["list-users", "--data-dir", data]).await.expect("listed"), "");
        assert!(do_it(&["remove-user", "alice", "--data-dir", data]).await.is_err());
    }
}

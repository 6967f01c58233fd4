//! `prepaid402 backup`: a copy of the database, as it is at one moment, while the server runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::database::DatabaseLocation;
use crate::config::DatabaseConfig;
use crate::db::{self, Connection, DbError, SCHEMA_VERSION, query, query_scalar};

/// Copy the database into one file while the server runs; refuses to overwrite.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  prepaid402 backup\n  prepaid402 backup --to /backups/monday.db\n  prepaid402 backup --data-dir /var/lib/prepaid402 --to /backups/monday.db\n\nThe copy is checked before it gets its name. It holds no key secret: keep a copy of the file key-secret (or of\nPREPAID402_KEY_SECRET) elsewhere. The README says how to put a backup back.\nA PostgreSQL database is backed up by PostgreSQL's own means (pg_dump, or continuous archiving).\nExit code 0: there is a good copy. 1: there is none, and standard error says why. 2: nothing here can be copied."
)]
pub struct BackupArgs {
    #[command(flatten)]
    location: DatabaseLocation,
    /// The copy [default: prepaid402-DATE-TIME.db in this directory]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Prints what the copy holds.
pub async fn run(args: BackupArgs) -> ExitCode {
    let database = match args.location.find_existing() {
        Ok(database) => database,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if database.is_shared() {
        eprintln!(
            "{} is a PostgreSQL database: back it up with pg_dump, or better with continuous archiving (point-in-time \
             recovery), so that little is lost; prepaid402 copies SQLite files only",
            database.shown()
        );
        return ExitCode::from(2);
    }
    let to = args.to.unwrap_or_else(|| {
        PathBuf::from(format!("prepaid402-{}.db", chrono::Utc::now().format("%Y%m%d-%H%M%S")))
    });
    match back_up(&database, &to).await {
        Ok(held) => {
            println!("{} was copied to {}", database.shown(), to.display());
            println!("  schema {}, {} bytes, checked", held.schema, held.bytes);
            println!("  {} clients, {} top-ups, {} entries", held.clients, held.top_ups, held.entries);
            match held.newest.and_then(chrono::DateTime::from_timestamp_micros) {
                Some(newest) => println!("  newest entry {}", newest.format("%Y-%m-%d %H:%M:%S UTC")),
                None => println!("  no entry yet"),
            }
            println!("The key secret is not in it: keep a copy of it elsewhere.");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("there is no backup: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What a copy holds.
struct Held {
    schema: i64,
    bytes: u64,
    clients: i64,
    top_ups: i64,
    entries: i64,
    /// Unix microseconds.
    newest: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error("{} is there already; name another file with --to", .0.display())]
    Exists(PathBuf),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, std::io::Error),
    #[error("the copy is not sound, so the database itself may be damaged: {0}")]
    Unsound(String),
    #[error("it is no database of prepaid402")]
    NotOurs,
    #[error(
        "the database has schema {0}, and this program knows {SCHEMA_VERSION}: use the prepaid402 that runs it"
    )]
    TooNew(i64),
}

impl From<sqlx::Error> for BackupError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// The copy gets its name when it is whole and checked: whatever has that name can be put back.
async fn back_up(database: &DatabaseConfig, to: &Path) -> Result<Held, BackupError> {
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut source = db::connect_read_only(database).await?;
    let copied = db::copy_into(&mut source, &partial).await;
    // A reader leaves nothing to do.
    let _ = source.close().await;
    copied?;
    let held = match check(&partial).await {
        Ok(held) => held,
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    };
    let named = name(&partial, to);
    let _ = std::fs::remove_file(&partial);
    named?;
    Ok(held)
}

/// Gives the copy its name, unless something has it by now, and makes the name last.
fn name(partial: &Path, to: &Path) -> Result<(), BackupError> {
    std::fs::hard_link(partial, to).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => BackupError::Exists(to.to_owned()),
        _ => BackupError::File(to.to_owned(), error),
    })?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| BackupError::File(folder.to_owned(), error))
}

/// Whether a copy can be read, and what is in it. `prepaid402 verify` looks closer.
async fn check(copy: &Path) -> Result<Held, BackupError> {
    let bytes = std::fs::metadata(copy).map_err(|error| BackupError::File(copy.to_owned(), error))?.len();
    let mut connection = db::connect_read_only(&DatabaseConfig::Sqlite(copy.to_owned())).await?;
    let held = look(&mut connection, bytes).await;
    let _ = connection.close().await;
    held
}

async fn look(connection: &mut Connection, bytes: u64) -> Result<Held, BackupError> {
    let found: Vec<String> = query("PRAGMA quick_check(1)")
        .fetch_all(&mut *connection)
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    if found != ["ok"] {
        return Err(BackupError::Unsound(found.join("; ")));
    }
    let schema = match db::version(connection).await? {
        0 => return Err(BackupError::NotOurs),
        newer if newer > SCHEMA_VERSION => return Err(BackupError::TooNew(newer)),
        schema => schema,
    };
    Ok(Held {
        schema,
        bytes,
        clients: query_scalar("SELECT COUNT(*) FROM clients").fetch_one(&mut *connection).await?,
        top_ups: query_scalar("SELECT COUNT(*) FROM top_ups").fetch_one(&mut *connection).await?,
        entries: query_scalar("SELECT COUNT(*) FROM entries").fetch_one(&mut *connection).await?,
        newest: query_scalar("SELECT MAX(at) FROM entries").fetch_one(connection).await?,
    })
}

//! `prepaid402 migrate`: bring the tables of a database up to date.

use std::process::ExitCode;

use super::database::DatabaseLocation;
use crate::config::DatabaseConfig;
use crate::db::{self, Migrated, SCHEMA_VERSION};
use crate::files::folder;

/// Bring the tables of a database up to date.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  PREPAID402_DATABASE_URL=postgres://gateway:…@db.example.com/prepaid402 prepaid402 migrate\n  prepaid402 migrate --config prepaid402.toml\n\nPostgreSQL: run it once before the first start, and before the first node of a new version; nodes of the version before\nwork on meanwhile. SQLite: `serve` makes a new database and does this by itself; here the server must be stopped. A file that holds something is copied\nbeside itself first."
)]
pub struct MigrateArgs {
    #[command(flatten)]
    location: DatabaseLocation,
}

/// Prints what it did.
pub async fn run(args: MigrateArgs) -> ExitCode {
    let database = match args.location.find_used() {
        Ok(database) => database,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    match migrate(&database).await {
        Ok(migrated) => {
            let shown = database.shown();
            if let Some(copy) = &migrated.backup {
                println!("{shown} was copied to {}", copy.display());
            }
            match migrated.from {
                SCHEMA_VERSION => {
                    println!("{shown} has schema {SCHEMA_VERSION} already; nothing was changed")
                }
                0 => println!("{shown} is ready, with schema {SCHEMA_VERSION}"),
                from => println!("{shown} was brought from schema {from} to {SCHEMA_VERSION}"),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{} is not migrated: {error}", database.shown());
            ExitCode::FAILURE
        }
    }
}

async fn migrate(database: &DatabaseConfig) -> Result<Migrated, Box<dyn std::error::Error>> {
    // A server that runs on the file must not have its tables changed under it.
    let _lock = match database {
        DatabaseConfig::Sqlite(path) => Some(db::own(path, folder(path))?),
        DatabaseConfig::Postgres(_) => None,
    };
    let mut connection = db::connect_for_migration(database).await?;
    let migrated = db::migrate(&mut connection, database).await?;
    connection.close().await?;
    Ok(migrated)
}

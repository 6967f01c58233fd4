//! Where the database is, for commands that look at it or change it beside the server.

use std::path::PathBuf;

use crate::config::{ConfigProblems, DatabaseConfig, LoadSource, load_database};

/// Where the database is. Without an option: as the server finds it, from the environment and prepaid402.toml.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub struct DatabaseLocation {
    /// A database file, or postgres://USER@HOST/DATABASE (its password from PGPASSWORD)
    #[arg(long, value_name = "FILE|URL")]
    pub database: Option<String>,
    /// The server's data directory, which holds prepaid402.db
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Take it from this configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Why it cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// The configuration is not right.
    #[error("{0}")]
    Config(#[from] ConfigProblems),
    /// `--database` is not right.
    #[error("--database {0}")]
    Database(&'static str),
    /// No file there.
    #[error(
        "there is no database at {}; say where it is with --data-dir DIR, --database FILE or --config FILE", .0.display()
    )]
    NoFile(PathBuf),
    /// Nothing in it.
    #[error("the database {} is empty (0 bytes): it was never used, or it was lost; the README says how to put a backup back", .0.display())]
    Empty(PathBuf),
}

impl DatabaseLocation {
    /// Finds it. That it exists is not looked at.
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn find(&self) -> Result<DatabaseConfig, LocationError> {
        if let Some(directory) = &self.data_dir {
            return Ok(DatabaseConfig::Sqlite(directory.join("prepaid402.db")));
        }
        match &self.database {
            Some(text) if text.contains("://") => {
                if DatabaseConfig::holds_password(text) {
                    return Err(LocationError::Database(
                        "holds a password, which every user of this machine can see: leave it out and set PGPASSWORD, or set PREPAID402_DATABASE_URL instead",
                    ));
                }
                DatabaseConfig::parse(text).map_err(LocationError::Database)
            }
            Some(path) => Ok(DatabaseConfig::Sqlite(path.trim_start_matches("sqlite:").into())),
            None => Ok(load_database(&LoadSource { config_file: self.config.clone() })?),
        }
    }

    /// Finds one that exists, as far as that can be told without opening it.
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn find_existing(&self) -> Result<DatabaseConfig, LocationError> {
        match self.find()? {
            DatabaseConfig::Sqlite(path) if !path.is_file() => Err(LocationError::NoFile(path)),
            found => Ok(found),
        }
    }

    /// The same, and there is something in it.
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn find_used(&self) -> Result<DatabaseConfig, LocationError> {
        let found = self.find()?;
        require_file(&found)?;
        Ok(found)
    }
}

/// Whether there is a file with something in it, where it is a file: SQLite would make an empty one.
///
/// # Errors
/// [`LocationError::NoFile`] and [`LocationError::Empty`].
pub fn require_file(database: &DatabaseConfig) -> Result<(), LocationError> {
    let DatabaseConfig::Sqlite(path) = database else { return Ok(()) };
    match std::fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() == 0 => Err(LocationError::Empty(path.clone())),
        Ok(file) if file.is_file() => Ok(()),
        _ => Err(LocationError::NoFile(path.clone())),
    }
}

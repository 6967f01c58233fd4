//! The key secret: what client keys derive from, so that a lost one can be given again although only its hash is stored.
//!
//! From `PREPAID402_KEY_SECRET` or a file with owner-only permissions, made at first start. Each line (or, in the
//! environment, each comma-separated part) is `VERSION:BASE64` of 32 bytes; new keys use the highest version. Losing the
//! secret breaks no balance: presented keys are compared by hash. Only the repetition of a `pm_…` needs it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::db::{Db, DbError, query, query_scalar};
use crate::domain::ids::random_bytes;
use crate::domain::{ClientKey, KeyId};
use crate::protocol::SealKeys;

/// All versions of the key secret.
#[derive(Clone)]
pub struct KeySecret {
    versions: BTreeMap<i64, [u8; 32]>,
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySecret({} versions, redacted)", self.versions.len())
    }
}

/// Why there is no key secret.
#[derive(Debug, thiserror::Error)]
pub enum KeySecretError {
    /// The text is not what it should be; it is never shown.
    #[error(
        "{0} must hold lines of VERSION:BASE64, each of 32 bytes, such as \"1:\" and the output of `openssl rand -base64 32`"
    )]
    Malformed(String),
    /// Others can read the file.
    #[error("{} can be read by others; run: chmod 600 {}", .0.display(), .0.display())]
    Readable(PathBuf),
    /// The database has been used with another secret.
    #[error(
        "version {0} of the key secret is not the one that this database has been used with: give every node the same PREPAID402_KEY_SECRET (or a copy of the key-secret file); if it is lost, give the new one a higher version"
    )]
    Other(i64),
    /// The same, where one process uses the database.
    #[error(
        "version {0} of the key secret is not the one that this database has been used with: the database, or the key secret, is another gateway's. Put the key-secret file (or PREPAID402_KEY_SECRET) back that belongs to this database, or the backup that belongs to this key secret; if the secret is lost, move the file key-secret away, and the next start makes another (or give the one in PREPAID402_KEY_SECRET a higher version)"
    )]
    OfAnotherDatabase(i64),
    /// The database cannot be asked.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The file cannot be read or made.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, std::io::Error),
}

impl KeySecret {
    /// From the environment's value if there is one, otherwise from `key-secret` in the data directory. `None`: there is neither.
    ///
    /// # Errors
    /// [`KeySecretError`].
    pub fn find(environment: Option<&str>, data_dir: &Path) -> Result<Option<Self>, KeySecretError> {
        if let Some(text) = environment {
            let parsed = Self::parse(text);
            let parsed = parsed.ok_or_else(|| KeySecretError::Malformed("PREPAID402_KEY_SECRET".into()));
            return parsed.map(Some);
        }
        let path = data_dir.join("key-secret");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                refuse_readable(&path)?;
                let parsed = Self::parse(&text);
                parsed.map(Some).ok_or_else(|| KeySecretError::Malformed(path.display().to_string()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KeySecretError::File(path, error)),
        }
    }

    /// Makes one in the data directory. If an earlier one is lost, which the database knows, this one has a higher version; nodes
    /// that share a database are to get theirs from whoever has it.
    ///
    /// # Errors
    /// [`KeySecretError`].
    pub async fn make(db: &Db, data_dir: &Path) -> Result<Self, KeySecretError> {
        let newest: Option<i64> = match db.is_shared() {
            true => None,
            false => query_scalar("SELECT MAX(version) FROM key_secret_versions")
                .fetch_one(db.reader())
                .await
                .map_err(DbError::from)?,
        };
        if newest.is_some() {
            tracing::warn!(
                "the key secret that this database was used with is missing, and another one is made: a clientId that was issued \
                 works, but cannot be given again"
            );
        }
        Self::create(&data_dir.join("key-secret"), newest.unwrap_or(0).saturating_add(1))
    }

    fn create(path: &Path, version: i64) -> Result<Self, KeySecretError> {
        let secret = random_bytes::<32>();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(path)
            .and_then(|mut file| {
                writeln!(file, "{version}:{}", STANDARD.encode(secret))?;
                file.sync_all()
            })
            .map_err(|error| KeySecretError::File(path.to_owned(), error))?;
        Ok(Self { versions: BTreeMap::from([(version, secret)]) })
    }

    /// Whether the environment's value could be used.
    ///
    /// # Errors
    /// [`KeySecretError::Malformed`].
    pub fn check(environment: &str) -> Result<(), KeySecretError> {
        Self::find(Some(environment), Path::new("")).map(drop)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut versions = BTreeMap::new();
        for part in text.split(['\n', ',']).map(str::trim).filter(|part| !part.is_empty()) {
            let (version, secret) = part.split_once(':')?;
            let secret: [u8; 32] = STANDARD.decode(secret.trim()).ok()?.try_into().ok()?;
            if !is_random(&secret) {
                return None;
            }
            // Of two secrets with one version, which one keys derive from would be a matter of chance.
            if versions.insert(version.trim().parse().ok()?, secret).is_some() {
                return None;
            }
        }
        (!versions.is_empty()).then_some(Self { versions })
    }

    /// Notes a digest of each version in the database. A version that differs from what another node, or an earlier run, has noted
    /// is refused: nodes with different secrets could not give each other's clients their keys again, and where there is one node,
    /// the database or the secret is another gateway's.
    ///
    /// # Errors
    /// [`KeySecretError::Other`], [`KeySecretError::OfAnotherDatabase`] and [`KeySecretError::Db`].
    pub async fn agree_with_the_database(&self, db: &Db) -> Result<(), KeySecretError> {
        let digests: Vec<(i64, Vec<u8>)> =
            self.versions.iter().map(|(version, secret)| (*version, digest(secret).to_vec())).collect();
        let other = db
            .write(move |connection| {
                Box::pin(async move {
                    // First a look at all of them: a secret that is refused leaves nothing behind that would refuse others.
                    for writes in [false, true] {
                        for (version, digest) in &digests {
                            if writes {
                                query("INSERT INTO key_secret_versions (version, digest) VALUES ($1, $2) ON CONFLICT (version) DO NOTHING")
                                    .bind(*version)
                                    .bind(digest)
                                    .execute(&mut *connection)
                                    .await?;
                            }
                            let known: Option<Vec<u8>> =
                                query_scalar("SELECT digest FROM key_secret_versions WHERE version = $1")
                                    .bind(*version)
                                    .fetch_optional(&mut *connection)
                                    .await?;
                            if known.is_some_and(|known| known != *digest) {
                                return Ok(Some(*version));
                            }
                        }
                    }
                    Ok(None)
                })
            })
            .await?;
        match other {
            None => Ok(()),
            Some(version) if db.is_shared() => Err(KeySecretError::Other(version)),
            Some(version) => Err(KeySecretError::OfAnotherDatabase(version)),
        }
    }

    /// A new key: its public part, the version it derives from, and the key.
    ///
    /// # Panics
    /// Never: there is at least one version.
    #[must_use]
    pub fn issue(&self) -> (KeyId, i64, ClientKey) {
        let (version, secret) = self.versions.last_key_value().expect("at least one version");
        let id = KeyId::new();
        (id, *version, ClientKey::derive(secret, id))
    }

    /// What challenges are sealed with: the newest version, and all that other nodes may still seal with. Whoever knows them learns
    /// nothing of client keys.
    ///
    /// # Panics
    /// Never: there is at least one version.
    #[must_use]
    pub fn seal_keys(&self) -> SealKeys {
        let mut derived: Vec<[u8; 32]> =
            self.versions.values().map(|secret| derived(secret, b"prepaid402 challenge seal")).collect();
        let newest = derived.pop().expect("at least one version");
        SealKeys::new(newest, derived)
    }

    /// The same key again, or `None` when that version is gone.
    #[must_use]
    pub fn again(&self, id: KeyId, version: i64) -> Option<ClientKey> {
        self.versions.get(&version).map(|secret| ClientKey::derive(secret, id))
    }
}

/// Whether 32 bytes could have come from a generator: these have some 30 different values, and never fewer than 16, while a
/// text that somebody made up, or nothing but zeros, has less.
fn is_random(secret: &[u8; 32]) -> bool {
    let mut seen = [false; 256];
    secret.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    seen.iter().filter(|seen| **seen).count() >= 16
}

/// Tells secrets apart and gives nothing away: 256 random bits cannot be found from a hash of them.
fn digest(secret: &[u8; 32]) -> [u8; 32] {
    derived(secret, b"prepaid402 key secret version")
}

fn derived(secret: &[u8; 32], what_for: &[u8]) -> [u8; 32] {
    use hmac::{KeyInit as _, Mac as _};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret).expect("any length is a key");
    mac.update(what_for);
    mac.finalize().into_bytes().into()
}

#[cfg(unix)]
fn refuse_readable(path: &Path) -> Result<(), KeySecretError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(path).map_err(|error| KeySecretError::File(path.to_owned(), error))?;
    if metadata.permissions().mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(KeySecretError::Readable(path.to_owned()))
    }
}

#[cfg(not(unix))]
fn refuse_readable(_path: &Path) -> Result<(), KeySecretError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::db::testing::TestDatabase;

    fn secret(versions: &[(i64, u8)]) -> KeySecret {
        KeySecret { versions: versions.iter().map(|(version, byte)| (*version, [*byte; 32])).collect() }
    }

    #[tokio::test]
    async fn nodes_share_every_version_of_the_secret_or_do_not_start() {
        let database = TestDatabase::new().await;
        let db = crate::db::run_writes_only(&database.config).await.unwrap();
        let agree = async |secret: KeySecret| match secret.agree_with_the_database(&db).await {
            Ok(()) => None,
            Err(KeySecretError::Other(version) | KeySecretError::OfAnotherDatabase(version)) => Some(version),
            Err(other) => panic!("{other}"),
        };
        for _ in 0..2 {
            assert_eq!(agree(secret(&[(1, 10)])).await, None);
        }
        assert_eq!(agree(secret(&[(1, 11)])).await, Some(1), "another secret for the same database");
        // One is added, and who does not have it yet still starts.
        assert_eq!(agree(secret(&[(1, 10), (2, 20)])).await, None);
        assert_eq!(agree(secret(&[(1, 10)])).await, None);
        assert_eq!(agree(secret(&[(2, 20)])).await, None, "an old version may be given up");
        assert_eq!(agree(secret(&[(1, 10), (2, 21)])).await, Some(2));
        // A secret that is refused does not refuse others by what else is in it.
        assert_eq!(agree(secret(&[(0, 9), (2, 21), (3, 66)])).await, Some(2));
        assert_eq!(agree(secret(&[(0, 8), (1, 10), (2, 20), (3, 30)])).await, None);
    }

    #[tokio::test]
    async fn what_the_database_notes_of_a_secret_is_not_the_secret() {
        let database = TestDatabase::new().await;
        let db = crate::db::run_writes_only(&database.config).await.unwrap();
        secret(&[(1, 10)]).agree_with_the_database(&db).await.unwrap();
        let noted: Vec<u8> =
            query_scalar("SELECT digest FROM key_secret_versions").fetch_one(db.reader()).await.unwrap();
        assert!(noted.len() == 32 && noted != [10; 32]);
        // Nor anything that a key is derived from or compared with.
        let (id, _, key) = secret(&[(1, 10)]).issue();
        assert_ne!(noted, key.hash().as_bytes());
        assert!(secret(&[(1, 10)]).again(id, 1) == Some(key));
    }

    #[tokio::test]
    async fn the_file_is_made_once_and_gives_the_same_keys() {
        let database = TestDatabase::new().await;
        let db = crate::db::run_writes_only(&database.config).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        assert!(KeySecret::find(None, folder.path()).unwrap().is_none());
        let first = KeySecret::make(&db, folder.path()).await.unwrap();
        first.agree_with_the_database(&db).await.unwrap();
        let (id, version, key) = first.issue();
        let second = KeySecret::find(None, folder.path()).unwrap().unwrap();
        assert!(second.again(id, version) == Some(key));
        // One that is lost is not taken for its successor.
        std::fs::remove_file(folder.path().join("key-secret")).unwrap();
        let third = KeySecret::make(&db, folder.path()).await.unwrap();
        let agreed = third.agree_with_the_database(&db).await;
        assert_eq!(agreed.is_ok(), !database.is_postgres(), "other nodes may have the old one");
        assert!(third.again(id, version) != first.again(id, version));
    }

    #[test]
    fn new_keys_use_the_highest_version_and_old_ones_stay_derivable() {
        let one = format!("1:{}", STANDARD.encode(random_bytes::<32>()));
        let both = format!("{one},2:{}", STANDARD.encode(random_bytes::<32>()));
        let old = KeySecret::find(Some(&one), Path::new("/nowhere")).unwrap().unwrap();
        let new = KeySecret::find(Some(&both), Path::new("/nowhere")).unwrap().unwrap();
        let (id, version, key) = old.issue();
        assert!(new.again(id, version) == Some(key));
        assert_eq!(new.issue().1, 2);
        assert!(old.again(id, 2).is_none());
    }

    #[test]
    fn malformed_and_readable_secrets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let good = STANDARD.encode(random_bytes::<32>());
        let (short, long) = (STANDARD.encode(random_bytes::<31>()), STANDARD.encode(random_bytes::<33>()));
        let (zeros, word) = (STANDARD.encode([0; 32]), STANDARD.encode(b"secretsecretsecretsecretsecretse"));
        for text in ["", "1:", "x", "1:AAAA", "a:AAAA", "1:change-me-in-production"]
            .map(str::to_owned)
            .into_iter()
            .chain([&short, &long, &zeros, &word].map(|secret| format!("1:{secret}")))
            .chain([good.clone(), format!("a:{good}"), format!("1:{good},1:{good}")])
        {
            let Err(KeySecretError::Malformed(_)) = KeySecret::find(Some(&text), folder.path()) else {
                panic!("{text}");
            };
            assert!(KeySecret::check(&text).is_err());
        }
        KeySecret::check(&format!("1:{good}")).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let file = folder.path().join("key-secret");
            KeySecret::create(&file, 1).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(KeySecret::find(None, folder.path()), Err(KeySecretError::Readable(_))));
        }
    }
}

//! The wallet file: which key, which charges and which unfinished payment belong to which server.
//!
//! A clientId is money and an unfinished `pm_…` is a credential, so the file has mode 0600, is replaced atomically, and a
//! file that others may read is refused. A lock file beside it, which is short for each change; and for the time of a card payment
//! another one per server, so that two runs never charge a card at once. Both are released by the system when a process dies.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::ids::random_bytes;
use crate::domain::{ClientKey, Currency, PaymentMethodId, SecretHash, Units};
use crate::files;

use super::http::Origin;

/// The only version of the file there is.
const VERSION: u32 = 1;
/// The largest wallet that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// How many replaced keys of a server are kept.
const MAX_FORMER: usize = 10;
/// How long one run waits for another that is paying at the same server.
const PAYMENT_LOCK_WAIT: Duration = Duration::from_secs(180);
/// How often it looks.
const PAYMENT_LOCK_POLL: Duration = Duration::from_millis(100);

/// What is known about one server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// The key that spends the balance there.
    pub client_key: Option<ClientKey>,
    /// Keys that were replaced; kept because they may still hold a balance.
    pub former_keys: Vec<ClientKey>,
    /// Total charged to cards there, by currency code. Never lowered.
    pub charged: BTreeMap<String, Units>,
    /// A card payment whose outcome is not known.
    pub pending: Option<Pending>,
    /// Whether the server refuses a price above `maxAmount`, so that the price need not be asked first.
    pub honours_max_amount: bool,
}

/// A card payment that was, or may have been, sent, and whose outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Repeated until the outcome is known; no other card is charged meanwhile.
    pub payment_method: PaymentMethodId,
    /// What the server was asked to charge.
    pub top_up: Units,
    /// Of `top_up`.
    pub currency: Currency,
    /// Prices of the attempts whose answer never came: what may be spent of the top-up already.
    pub maybe_spent: Units,
}

impl Account {
    /// Takes over a key that the server gave; a different earlier one is kept aside.
    pub fn remember_key(&mut self, key: ClientKey) {
        if self.client_key.as_ref() == Some(&key) {
            return;
        }
        self.former_keys.retain(|former| former != &key);
        if let Some(old) = self.client_key.replace(key) {
            self.former_keys.push(old);
            let excess = self.former_keys.len().saturating_sub(MAX_FORMER);
            self.former_keys.drain(..excess);
        }
    }

    /// Adds a charge to the total.
    pub fn add_charge(&mut self, currency: Currency, amount: Units) {
        let total = self.charged.entry(currency.code().to_owned()).or_default();
        let sum = total.get().checked_add(amount.get()).and_then(Units::new);
        // Beyond what can be represented every further top-up is refused anyway.
        *total = sum.unwrap_or(*total);
    }
}

/// Why the wallet cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// Neither `XDG_CONFIG_HOME` nor `HOME` is set.
    #[error("there is no home directory for the wallet; --wallet FILE says where to keep it")]
    NoHome,
    /// Reading, writing or locking failed.
    #[error("the wallet {path} cannot be used: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Whoever reads it can spend the balances.
    #[error("the wallet {0} can be read by others, who could spend its balances; run: chmod 600 {0}")]
    ReadableByOthers(String),
    /// Not a wallet, or one of a later version. Never overwritten.
    #[error(
        "the wallet {0} is damaged or of a later version; it was left as it is. --wallet FILE uses another one"
    )]
    Damaged(String),
    /// Another run is paying by card at the same server.
    #[error("another run is still paying by card at this server; run the command again when it has finished")]
    Busy,
}

/// The wallet file.
#[derive(Debug, Clone)]
pub struct Wallet {
    path: PathBuf,
}

/// Held while a card payment is being made at one server; released, and its file gone, when dropped.
#[derive(Debug)]
pub struct PaymentLock {
    _file: File,
    path: PathBuf,
}

impl Drop for PaymentLock {
    fn drop(&mut self) {
        // While it is held: whoever waits for this file sees afterwards that it is gone, and makes a new one.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Wallet {
    /// The wallet at `path`; created by the first change.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// `$XDG_CONFIG_HOME/prepaid402/wallet.json`, or `~/.config/prepaid402/wallet.json`.
    ///
    /// # Errors
    /// [`WalletError::NoHome`] when neither variable is set.
    pub fn default_path() -> Result<PathBuf, WalletError> {
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        Ok(base.ok_or(WalletError::NoHome)?.join("prepaid402").join("wallet.json"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is known about a server.
    ///
    /// # Errors
    /// [`WalletError`] when the file is there and cannot be used.
    pub fn account(&self, origin: &Origin) -> Result<Account, WalletError> {
        let mut book = self.read()?;
        book.origins.remove(origin.as_str()).map_or_else(|| Ok(Account::default()), |file| self.decode(file))
    }

    /// Changes what is known about a server, durably: when this returns, the change is on disk.
    ///
    /// # Errors
    /// [`WalletError`]; the file is then as it was.
    pub fn update(&self, origin: &Origin, change: impl FnOnce(&mut Account)) -> Result<Account, WalletError> {
        self.create_directory()?;
        let lock = self.open_lock(".lock")?;
        lock.lock().map_err(|source| self.io(source))?;
        let mut book = self.read()?;
        let known = book.origins.remove(origin.as_str());
        let before = known.map_or_else(|| Ok(Account::default()), |file| self.decode(file))?;
        let mut account = before.clone();
        change(&mut account);
        if account != before {
            book.origins.insert(origin.as_str().to_owned(), AccountFile::from(&account));
            self.replace(&book)?;
        }
        Ok(account)
    }

    /// Waits until no other run is paying by card at this server.
    ///
    /// # Errors
    /// [`WalletError::Busy`] after three minutes.
    pub async fn lock_payments(&self, origin: &Origin) -> Result<PaymentLock, WalletError> {
        self.create_directory()?;
        let hash = SecretHash::of(origin.as_str());
        let name: String = hash.as_bytes().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let suffix = format!(".{name}.lock");
        let path = self.beside(&suffix);
        let waiting = async {
            loop {
                let file = self.open_lock(&suffix)?;
                match file.try_lock() {
                    Ok(()) if is_still_at(&file, &path) => return Ok(file),
                    // Its holder has removed it since it was opened: it locks nothing any more.
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => tokio::time::sleep(PAYMENT_LOCK_POLL).await,
                    Err(TryLockError::Error(source)) => return Err(self.io(source)),
                }
            }
        };
        let waited = tokio::time::timeout(PAYMENT_LOCK_WAIT, waiting).await;
        let lock = PaymentLock { _file: waited.map_err(|_| WalletError::Busy)??, path };
        self.remove_left_locks(&lock);
        Ok(lock)
    }

    /// Removes locks of other servers that nobody holds: of runs that were killed.
    fn remove_left_locks(&self, ours: &PaymentLock) {
        let start = self.beside(".").file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_lock = |name: &str| {
            let middle = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(".lock"));
            middle.is_some_and(|middle| {
                middle.len() == 16 && middle.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
        };
        let Ok(folder) = std::fs::read_dir(self.directory()) else { return };
        for entry in folder.flatten() {
            let path = entry.path();
            if path == ours.path || !entry.file_name().to_str().is_some_and(is_lock) {
                continue;
            }
            // What cannot be opened, locked or removed stays, and harms nobody.
            if let Ok(file) = OpenOptions::new().write(true).open(&path)
                && file.try_lock().is_ok()
                && is_still_at(&file, &path)
            {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    fn read(&self) -> Result<BookFile, WalletError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BookFile::default()),
            Err(error) => return Err(self.io(error)),
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let metadata = file.metadata().map_err(|source| self.io(source))?;
            if metadata.permissions().mode() & 0o077 != 0 {
                return Err(WalletError::ReadableByOthers(self.path.display().to_string()));
            }
        }
        let mut bytes = Vec::new();
        let read = file.take(MAX_FILE).read_to_end(&mut bytes);
        read.map_err(|source| self.io(source))?;
        // The parser's error would quote the content.
        let book: BookFile = serde_json::from_slice(&bytes).map_err(|_| self.damaged())?;
        if book.version == VERSION { Ok(book) } else { Err(self.damaged()) }
    }

    fn decode(&self, file: AccountFile) -> Result<Account, WalletError> {
        Account::try_from(file).map_err(|Unreadable| self.damaged())
    }

    /// Write beside it, flush, rename, flush the directory: a crash leaves the old or the new wallet, never half of one.
    fn replace(&self, book: &BookFile) -> Result<(), WalletError> {
        let bytes = serde_json::to_vec_pretty(book).map_err(|_| self.damaged())?;
        let suffix: String = random_bytes::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let temporary = self.beside(&format!(".{suffix}.tmp"));
        let written = (|| {
            let mut file = private().create_new(true).open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)?;
            #[cfg(unix)]
            File::open(self.directory())?.sync_all()?;
            Ok(())
        })();
        written.map_err(|source| {
            // After a failed rename only; nothing else can be done about a file that cannot be removed.
            let _ = std::fs::remove_file(&temporary);
            self.io(source)
        })
    }

    fn directory(&self) -> &Path {
        files::folder(&self.path)
    }

    fn create_directory(&self) -> Result<(), WalletError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(self.directory()).map_err(|source| self.io(source))
    }

    fn open_lock(&self, suffix: &str) -> Result<File, WalletError> {
        private().create(true).truncate(false).open(self.beside(suffix)).map_err(|source| self.io(source))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        files::beside(&self.path, suffix)
    }

    fn io(&self, source: io::Error) -> WalletError {
        WalletError::Io { path: self.path.display().to_string(), source }
    }

    fn damaged(&self) -> WalletError {
        WalletError::Damaged(self.path.display().to_string())
    }
}

/// Whether the file is the one that has this name now.
fn is_still_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    files::identity(&opened) == files::identity(&named)
}

/// Options that create a file for the owner alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

// The shape on disk. No `Debug`: it holds the secrets as plain text.

#[derive(Serialize, Deserialize)]
struct BookFile {
    version: u32,
    origins: BTreeMap<String, AccountFile>,
}

impl Default for BookFile {
    fn default() -> Self {
        Self { version: VERSION, origins: BTreeMap::new() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccountFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former_client_ids: Vec<String>,
    #[serde(default)]
    charged_units: BTreeMap<String, i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<PendingFile>,
    #[serde(default)]
    honours_max_amount: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PendingFile {
    payment_method_id: String,
    top_up_units: i64,
    currency: String,
    maybe_spent_units: i64,
}

impl From<&Account> for AccountFile {
    fn from(account: &Account) -> Self {
        let exposed = |key: &ClientKey| key.expose().to_owned();
        Self {
            client_id: account.client_key.as_ref().map(exposed),
            former_client_ids: account.former_keys.iter().map(exposed).collect(),
            charged_units: account.charged.iter().map(|(code, units)| (code.clone(), units.get())).collect(),
            pending: account.pending.as_ref().map(|pending| PendingFile {
                payment_method_id: pending.payment_method.expose().to_owned(),
                top_up_units: pending.top_up.get(),
                currency: pending.currency.code().to_owned(),
                maybe_spent_units: pending.maybe_spent.get(),
            }),
            honours_max_amount: account.honours_max_amount,
        }
    }
}

/// A value in the file is not what it should be.
struct Unreadable;

impl TryFrom<AccountFile> for Account {
    type Error = Unreadable;

    fn try_from(file: AccountFile) -> Result<Self, Unreadable> {
        let key = |text: String| ClientKey::parse(&text).ok_or(Unreadable);
        let units = |number| Units::new(number).ok_or(Unreadable);
        let pending = file.pending.map(|pending| {
            Ok(Pending {
                payment_method: PaymentMethodId::parse(&pending.payment_method_id).ok_or(Unreadable)?,
                top_up: units(pending.top_up_units)?,
                currency: pending.currency.parse().map_err(|_| Unreadable)?,
                maybe_spent: units(pending.maybe_spent_units)?,
            })
        });
        let charged = file.charged_units.into_iter().map(|(code, number)| Ok((code, units(number)?)));
        Ok(Self {
            client_key: file.client_id.map(key).transpose()?,
            former_keys: file.former_client_ids.into_iter().map(key).collect::<Result<_, _>>()?,
            charged: charged.collect::<Result<_, _>>()?,
            pending: pending.transpose()?,
            honours_max_amount: file.honours_max_amount,
        })
    }
}

#[cfg(test)]
mod tests;

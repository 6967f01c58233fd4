//! Secrets come from the environment or from a file of their own, never from the configuration file.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Secret;
use super::problem::Report;
use crate::files::{self, Exposure, OTHERS, exposure};

/// A secret file is a line, not a disk image.
const MAX_SECRET_BYTES: u64 = 16 * 1024;

/// Where secrets are found: the environment, and the folder that file names are relative to.
#[derive(Debug, Clone, Copy)]
pub(super) struct SecretSources<'a> {
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) dir: &'a Path,
}

impl SecretSources<'_> {
    /// A variable's value, trimmed; nothing when it is not set or blank.
    pub(super) fn variable(&self, name: &str) -> Option<Secret> {
        let value = self.env.get(name)?.trim();
        (!value.is_empty()).then(|| Secret::new(value.to_owned()))
    }

    /// The trimmed content of a secret file.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file; its content is never told.
    pub(super) fn file(&self, name: &str, report: &mut Report) -> Result<Secret, String> {
        let path: PathBuf = self.dir.join(name);
        let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let file = files::open(&path)?;
        let metadata = file.metadata().map_err(cannot)?;
        let warning = match exposure(&path, &metadata, OTHERS) {
            Exposure::None => None,
            Exposure::Ours => {
                let path = path.display();
                return Err(format!(
                    "{path} can be used by every user of this machine: run chmod 600 {path}"
                ));
            }
            Exposure::NotOurs => Some(format!(
                "{} can be read by every user of this machine, which only its owner can change; usual in a container",
                path.display()
            )),
        };
        let mut text = String::new();
        file.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text).map_err(cannot)?;
        let secret = text.trim();
        if secret.is_empty() {
            return Err(format!("{} is empty: it must hold the secret and nothing else", path.display()));
        }
        if text.len() as u64 > MAX_SECRET_BYTES {
            return Err(format!("{} is larger than {MAX_SECRET_BYTES} bytes", path.display()));
        }
        warning.into_iter().for_each(|warning| report.warn(warning));
        Ok(Secret::new(secret.to_owned()))
    }
}

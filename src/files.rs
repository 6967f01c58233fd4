//! Facts about files: where they are, which one it is, and who can use one that holds a secret.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

/// The folder that a file is in.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file beside another one with such an end of its name: `prepaid402.db` and `-wal` make `prepaid402.db-wal`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Opens an ordinary file to read it.
///
/// # Errors
/// A sentence that names it.
pub(crate) fn open(path: &Path) -> Result<File, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    // Asked before opening: opening a named pipe would wait for somebody to write to it.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    File::open(path).map_err(cannot)
}

/// What tells one file from another, whatever they are called.
#[cfg(unix)]
pub(crate) fn identity(file: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

#[cfg(not(unix))]
pub(crate) fn identity(_file: &Metadata) -> (u64, u64) {
    (0, 0)
}

/// The bits of a file's mode that concern everybody but the owner and its group.
pub(crate) const OTHERS: u32 = 0o007;
/// Those that concern everybody but the owner.
pub(crate) const ALL_BUT_OWNER: u32 = 0o077;
const WRITING: u32 = 0o022;

/// Whether a file can be used by more people than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// It cannot.
    None,
    /// It can, and whoever runs this program can and should end that.
    Ours,
    /// It can be read, and somebody else decided so: the secrets that containers are given are files of root's with mode 0444.
    NotOurs,
}

/// Who can use the file at `path`; `others` are the bits of those who should not.
#[cfg(unix)]
pub(crate) fn exposure(path: &Path, metadata: &Metadata, others: u32) -> Exposure {
    use std::os::unix::fs::MetadataExt as _;
    // Of the file itself: Kubernetes makes links to it.
    let folder =
        std::fs::canonicalize(path).ok().and_then(|path| path.parent().and_then(|dir| dir.metadata().ok()));
    let owner_of_folder = folder.map(|folder| folder.uid());
    let read_only =
        rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    judge(
        metadata.mode() & others,
        metadata.uid(),
        owner_of_folder,
        read_only,
        rustix::process::geteuid().as_raw(),
    )
}

/// `shared` is what others may do, `us` is who runs this program.
#[cfg(unix)]
fn judge(shared: u32, owner: u32, owner_of_folder: Option<u32>, read_only: bool, us: u32) -> Exposure {
    let is_ours = owner == us || owner_of_folder.is_none_or(|owner| owner == us);
    match shared {
        0 => Exposure::None,
        // Whoever can write it can make us charge for somebody else.
        shared if shared & WRITING == 0 && (read_only || !is_ours) => Exposure::NotOurs,
        _ => Exposure::Ours,
    }
}

#[cfg(not(unix))]
pub(crate) fn exposure(_path: &Path, _metadata: &Metadata, _others: u32) -> Exposure {
    Exposure::None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_have_laid_open_is_accepted() {
        let (us, root, other) = (1000, 0, 2000);
        for (mode, owner, folder, read_only, expected) in [
            (0o100_600, us, Some(us), false, Exposure::None),
            (0o100_640, root, Some(root), false, Exposure::None),
            (0o100_444, root, Some(root), false, Exposure::NotOurs),
            (0o100_644, root, Some(other), false, Exposure::NotOurs),
            (0o100_444, us, Some(root), false, Exposure::Ours),
            (0o100_444, root, Some(us), false, Exposure::Ours),
            (0o100_444, root, None, false, Exposure::Ours),
            (0o100_444, us, Some(us), true, Exposure::NotOurs),
            (0o100_446, root, Some(root), false, Exposure::Ours),
            (0o100_666, root, Some(root), true, Exposure::Ours),
        ] {
            assert_eq!(
                judge(mode & OTHERS, owner, folder, read_only, us),
                expected,
                "{mode:o} {owner} {folder:?} {read_only}"
            );
        }
    }
}

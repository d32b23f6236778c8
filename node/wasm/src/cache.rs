//! Compiled code on disk, one file per artifact in a folder per engine.
//!
//! The folder is the owner's alone and nothing in it comes from outside:
//! loading compiled code is running it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Characters of a digest; SHA-512 in hex. Longer names would be no digest.
const DIGEST_CHARS: usize = 128;

/// How long what another engine left behind is kept: long enough to go back
/// to an older version of the program without compiling everything again.
const FOREIGN_CODE_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How old an unfinished file must be to be nobody's: compiling never takes
/// as long.
const UNFINISHED_KEPT: Duration = Duration::from_secs(3600);

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder cannot be made or read.
    #[error("open the folder for compiled code {path}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could put code there that this node would run.
    #[error(
        "the folder for compiled code {path} is not this user's alone: \
         make it so (chown, chmod 700) or name another one"
    )]
    Shared {
        /// The folder.
        path: PathBuf,
    },
}

/// The folder for one engine's code.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    bytes: AtomicU64,
}

impl Cache {
    /// Opens `root` for the engine with this fingerprint, tidies what earlier
    /// processes left, and counts what is there.
    pub(crate) fn open(root: &Path, fingerprint: &str) -> Result<Cache, CacheError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CacheError::Open { path, source }
        };
        let folder = root.join(fingerprint);
        for path in [root, &folder] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(failed(path))?;
            let metadata = fs::metadata(path).map_err(failed(path))?;
            let ours = metadata.uid() == rustix::process::geteuid().as_raw();
            if !ours || metadata.permissions().mode() & 0o022 != 0 {
                return Err(CacheError::Shared { path: path.into() });
            }
        }
        forget_foreign(root, &folder);
        let bytes = sweep(&folder).map_err(failed(&folder))?;
        Ok(Cache {
            folder,
            bytes: AtomicU64::new(bytes),
        })
    }

    /// Where the code of this artifact is or will be; `None` if the digest is
    /// none.
    pub(crate) fn path(&self, digest: &str) -> Option<PathBuf> {
        let proper = !digest.is_empty()
            && digest.len() <= DIGEST_CHARS
            && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        proper.then(|| self.folder.join(format!("{digest}.code")))
    }

    /// Whether code for this artifact is there.
    pub(crate) fn contains(&self, digest: &str) -> bool {
        self.path(digest).is_some_and(|path| path.is_file())
    }

    /// Counts a file that a compiler has just put there.
    pub(crate) fn added(&self, path: &Path) {
        if let Ok(metadata) = fs::metadata(path) {
            self.bytes.fetch_add(metadata.len(), Ordering::Relaxed);
        }
    }

    /// Removes an artifact's code, if it is there.
    pub(crate) fn remove(&self, digest: &str) {
        let Some(path) = self.path(digest) else {
            return;
        };
        let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if fs::remove_file(&path).is_ok() {
            // Saturating: another engine on the same folder counts on its own.
            let _ = self
                .bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |total| {
                    Some(total.saturating_sub(bytes))
                });
        }
    }

    /// Bytes of compiled code on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Removes the folders of engines that have not been used for a while.
fn forget_foreign(root: &Path, ours: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path != ours && path.is_dir() && older_than(&path, FOREIGN_CODE_KEPT) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Removes what crashed compilers left and counts the rest.
fn sweep(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "code")
        {
            bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
        } else if older_than(&path, UNFINISHED_KEPT) {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(bytes)
}

fn older_than(path: &Path, age: Duration) -> bool {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok())
        .is_some_and(|actual| actual > age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_that_others_can_write_is_refused() {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
        assert!(matches!(
            Cache::open(root.path(), "f"),
            Err(CacheError::Shared { .. })
        ));
    }

    #[test]
    fn digest_cannot_leave_the_folder() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::open(root.path(), "f").expect("a private folder");
        assert_eq!(cache.path("../../etc/passwd"), None);
        assert_eq!(cache.path(""), None);
        assert!(cache.path("00ff").is_some());
    }

    #[test]
    fn bytes_follow_what_comes_and_goes() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::open(root.path(), "f").expect("a private folder");
        let path = cache.path("00ff").expect("a digest");
        fs::write(&path, b"12345").expect("it is ours");
        cache.added(&path);
        assert_eq!(cache.bytes(), 5);
        let again = Cache::open(root.path(), "f").expect("a private folder");
        assert_eq!(again.bytes(), 5);
        cache.remove("00ff");
        assert_eq!(cache.bytes(), 0);
    }
}

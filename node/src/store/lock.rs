//! One process at a time in a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::OpenError;

/// Longest process id, in digits, that is believed.
const PID_BYTES: u64 = 10;

/// The lock of a data directory; the kernel lets go of it when the process
/// ends, however it ends.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
}

impl DirLock {
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("lock");
        let failed = |source| OpenError::Io {
            step: "lock",
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        // Not truncated: it may hold the id of the process that has it.
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    dir: dir.into(),
                    pid: pid(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // The id is for people; a full disk must not keep a node from starting.
        let _ = note(&mut file);
        Ok(DirLock { file })
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing alone would leave it held for as long as a child that is
        // just being started still has a copy of the file.
        let _ = self.file.unlock();
    }
}

fn note(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES + 1).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

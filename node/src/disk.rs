//! How this crate writes files that must be whole: under a temporary name,
//! flushed, then renamed, then the folder flushed, so that a crash leaves the
//! old file, the new one, or a temporary one to sweep; never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::task::spawn_blocking;

use crate::executor::{Body, BodyError};

/// Bytes of a streamed body that are gathered before a thread is borrowed to
/// write them. A slow client thus holds this much memory and no thread.
const SPOOL_BYTES: usize = 256 << 10;

/// Makes a folder, and those above it, that only the owner can look into.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Makes a private folder whose own name lasts, as what is kept in it must.
pub(crate) fn lasting_dir(path: &Path) -> io::Result<()> {
    let new = !path.try_exists()?;
    private_dir(path)?;
    if new { sync_dir(parent(path)) } else { Ok(()) }
}

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Flushes a folder, so that names made, renamed or removed in it last.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether an error means that the disk, or the owner's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A file under a temporary name; removed when dropped before it is kept.
#[derive(Debug)]
pub(crate) struct TempFile {
    file: File,
    path: Option<PathBuf>,
}

impl TempFile {
    /// Makes the file, for the owner alone. One left there by a crash is replaced.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(NOFOLLOW)
            .open(&path)?;
        Ok(TempFile {
            file,
            path: Some(path),
        })
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Flushes what was written.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Gives a flushed file its name, in place of one that has it. The folder
    /// must be flushed before anyone is told.
    pub(crate) fn rename(mut self, path: &Path) -> io::Result<()> {
        if let Some(from) = &self.path {
            fs::rename(from, path)?;
        }
        self.path = None;
        Ok(())
    }

    /// Flushes the file and gives it its name, for good.
    pub(crate) fn keep(self, path: &Path) -> io::Result<()> {
        self.sync()?;
        self.rename(path)?;
        sync_dir(parent(path))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // Best effort: what stays is swept at the next start.
            let _ = fs::remove_file(path);
        }
    }
}

/// Never write through a link that someone put there.
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// Why a streamed body was not written.
#[derive(Debug)]
pub(crate) enum SpoolError {
    /// It is longer than allowed.
    TooLarge,
    /// It broke off.
    Body(BodyError),
    /// The file could not be written.
    Io(io::Error),
}

/// What takes a streamed body, on a thread that may block.
pub(crate) trait Sink: Send + 'static {
    /// What the written body is.
    type Kept: Send + 'static;
    /// Takes the next bytes.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Ends a body that was taken whole. A sink dropped before has failed.
    fn finish(self) -> io::Result<Self::Kept>;
}

/// Streams at most `limit` bytes of `body` into `sink`, which is dropped when
/// the body fails or when this future is dropped.
pub(crate) async fn spool<S: Sink>(
    mut body: Body,
    limit: u64,
    mut sink: S,
) -> Result<S::Kept, SpoolError> {
    let mut left = limit;
    loop {
        let (chunks, ended) = gather(&mut body, &mut left).await?;
        let written = spawn_blocking(move || -> io::Result<Spooled<S>> {
            for chunk in &chunks {
                sink.take(chunk)?;
            }
            if ended {
                sink.finish().map(Spooled::Kept)
            } else {
                Ok(Spooled::More(sink))
            }
        });
        match written
            .await
            .map_err(|error| SpoolError::Io(io::Error::other(error)))?
        {
            Ok(Spooled::Kept(kept)) => return Ok(kept),
            Ok(Spooled::More(again)) => sink = again,
            Err(error) => return Err(SpoolError::Io(error)),
        }
    }
}

enum Spooled<S: Sink> {
    More(S),
    Kept(S::Kept),
}

/// Reads about [`SPOOL_BYTES`]; true when the body has ended.
async fn gather(body: &mut Body, left: &mut u64) -> Result<(Vec<Bytes>, bool), SpoolError> {
    let mut chunks = Vec::new();
    let mut gathered = 0;
    while gathered < SPOOL_BYTES {
        let Some(frame) = body.frame().await else {
            return Ok((chunks, true));
        };
        let Ok(data) = frame.map_err(SpoolError::Body)?.into_data() else {
            continue;
        };
        *left = left
            .checked_sub(data.len() as u64)
            .ok_or(SpoolError::TooLarge)?;
        gathered += data.len();
        // Each piece costs its handle too, or a client that sends single
        // bytes would hold many times what is counted.
        gathered += size_of::<Bytes>();
        chunks.push(data);
    }
    Ok((chunks, false))
}

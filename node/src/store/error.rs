//! Why a data directory cannot be used, or a read or write failed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::engine::FORMAT;
use crate::disk;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error(
        "the data directory {} is in use by {}: stop that process, or choose another directory",
        .dir.display(),
        match .pid { Some(pid) => format!("process {pid}"), None => "another process".to_owned() }
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Whose it is, if the lock file says so.
        pid: Option<u32>,
    },
    /// A later version of Weir wrote it.
    #[error(
        "{} was written by a newer Weir (format {found}, this one reads up to {FORMAT}): run that \
         version, or choose another data directory", .path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The format version found.
        found: u64,
    },
    /// It is not a database, or damaged.
    #[error(
        "{} is damaged: restore it from a copy, or move it away to start with an empty node",
        .path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        source: Box<redb::Error>,
    },
    /// A file or folder cannot be used.
    #[error("{step} {}", .path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Why a read or write failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No room on the disk; the store goes on by itself when there is.
    #[error("the disk of the data directory is full")]
    Full,
    /// The backlog of accepted calls is full.
    #[error("the backlog of asynchronous calls is full")]
    BacklogFull,
    /// A value is longer than it may be.
    #[error("{what} of {bytes} bytes is longer than the {limit} allowed")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// A record is not what was written.
    #[error("a record of {what} does not read: {reason}")]
    Unreadable {
        /// What it is a record of.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// The database or a file failed.
    #[error("the store failed")]
    Failed(#[source] Arc<redb::Error>),
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if disk::is_full(&error) => StoreError::Full,
            other => StoreError::Failed(Arc::new(other)),
        }
    }
}

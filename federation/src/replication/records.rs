//! What was heard of functions, on disk.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tracing::{debug, warn};
use weir_node::id::{Digest, FunctionName};

use crate::catalogue::{Entry, FUNCTIONS, sha256};
use crate::federated::AWAY;
use crate::member::{save, unix_millis, unix_time};
use crate::message;

/// Where a function's record is kept, in the folder of all.
pub(super) fn path(folder: &Path, name: &FunctionName) -> PathBuf {
    // Names are longer than some file systems take.
    folder.join(Digest::new(sha256(name.qualified().as_bytes())).hex())
}

/// Writes what is known of a function to disk, or forgets it there too.
pub(super) fn keep(path: &Path, entry: Option<Entry>) -> std::io::Result<()> {
    match entry {
        Some(entry) => save(path, &entry.sealed),
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
    }
}

/// Reads what an earlier run knew. What cannot be read is left out: others
/// know it too.
pub(crate) fn recover(folder: &Path) -> Vec<(FunctionName, Entry)> {
    if let Err(error) = std::fs::create_dir_all(folder) {
        warn!(folder = %folder.display(), %error, "functions of the federation are not kept");
        return Vec::new();
    }
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = files.take(FUNCTIONS).filter_map(|file| {
        let bytes = Bytes::from(std::fs::read(file.path()).ok()?);
        match message::open(&bytes).ok()? {
            (_, message::Message::Record(record)) if record.is_over(unix_time()) => {
                let _ = std::fs::remove_file(file.path());
                None
            }
            (writer, message::Message::Record(record)) => Entry::new(writer, *record, bytes),
            _ => None,
        }
    });
    entries.collect()
}

/// Where it is written when others were heard last.
pub(crate) fn contact(folder: &Path) -> PathBuf {
    folder.join("contact")
}

/// Puts aside what an earlier run knew, where that is too long ago to be told.
pub(crate) fn set_old_aside(folder: &Path) {
    let heard = std::fs::metadata(contact(folder)).and_then(|file| file.modified());
    let age = heard.ok().and_then(|at| at.elapsed().ok());
    if age.is_some_and(|age| age > AWAY) {
        warn!(
            "this node heard of nobody for more than seven days: its functions are its own until \
             somebody announces them anew (weir list --federation, weir announce)"
        );
        set_aside(folder);
        drop_asides(folder);
    }
}

/// What folders begin with that hold records which were put aside, and how many
/// of them stay: the oldest, since what came after them came from others.
const ASIDE: &str = "functions.aside-";
const ASIDES: usize = 4;

/// Puts the records of functions aside; nothing reads them but people. Quick
/// enough for where others wait.
pub(crate) fn set_aside(folder: &Path) {
    let functions = folder.join("functions");
    let aside = folder.join(format!("{ASIDE}{}", unix_millis()));
    if let Err(error) = std::fs::rename(&functions, aside) {
        warn!(%error, "old records of functions stay");
    }
    if let Err(error) = std::fs::create_dir_all(functions) {
        warn!(%error, "functions of the federation are not kept");
    }
}

pub(super) fn drop_asides(folder: &Path) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let asides = files.map(|file| file.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(ASIDE))
    });
    let mut asides: Vec<PathBuf> = asides.collect();
    asides.sort();
    for surplus in asides.iter().skip(ASIDES) {
        if let Err(error) = std::fs::remove_dir_all(surplus) {
            debug!(%error, "records that were put aside stay");
        }
    }
}

//! The address book on disk: JSON, the members' ids with their addresses and when
//! each was seen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libp2p_identity::PeerId;
use tracing::warn;
use weir_federation_core::failure::address_book::{AddressBook, Saved};

use crate::files::Files;

/// Reads the book; a damaged one is empty, with a warning.
pub(crate) fn read(path: &Path) -> AddressBook {
    let entries: BTreeMap<String, Saved> = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "the address book cannot be read and is begun anew");
            BTreeMap::new()
        }),
        Err(_) => BTreeMap::new(),
    };
    let entries = entries.into_iter();
    AddressBook::restored(entries.filter_map(|(peer, saved)| Some((peer.parse().ok()?, saved))))
}

/// Writes it, elsewhere than where it is asked to.
pub(crate) struct Writer {
    path: PathBuf,
    files: Files,
    /// Whether the last write failed.
    failed: Arc<AtomicBool>,
}

impl Writer {
    pub(crate) fn new(path: PathBuf, files: Files) -> Writer {
        Writer {
            path,
            files,
            failed: Arc::default(),
        }
    }

    /// Writes the book if it changed, or was not written the last time.
    pub(crate) fn save(&self, book: &mut AddressBook) {
        if self.failed.swap(false, Ordering::Relaxed) {
            book.not_saved();
        }
        let Some(entries) = book.unsaved() else {
            return;
        };
        let entries = entries.into_iter();
        let entries: BTreeMap<String, Saved> = entries.map(|(id, e)| (id.to_string(), e)).collect();
        let Ok(bytes) = serde_json::to_vec_pretty(&entries) else {
            return;
        };
        let (path, failed) = (self.path.clone(), Arc::clone(&self.failed));
        self.files.save(self.path.clone(), bytes, move |saved| {
            if let Err(error) = saved {
                warn!(path = %path.display(), %error, "the address book is not kept");
                failed.store(true, Ordering::Relaxed);
            }
        });
    }
}

/// Whom a multiaddress names last.
pub(crate) fn peer_in(address: &str) -> Option<PeerId> {
    let (_, id) = address.rsplit_once("/p2p/")?;
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_federation_core::samples::id;

    #[test]
    fn what_was_written_is_read_again_and_what_is_damaged_is_begun_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("addresses");
        let mut book = read(&path);
        assert!(book.is_empty());
        book.note(id(1), &["/ip4/192.0.2.1/tcp/4001"], true, 1_000);
        let writer = Writer::new(path.clone(), Files::new());
        writer.save(&mut book);
        writer.files.finish();
        let again = read(&path);
        assert_eq!(again.addresses(&id(1)), ["/ip4/192.0.2.1/tcp/4001"]);
        std::fs::write(&path, b"{").expect("written");
        assert!(read(&path).is_empty());
    }

    #[test]
    fn a_book_of_the_version_before_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("addresses");
        let text = format!(r#"{{"{}": {{"addresses": ["/a"], "seen": 7}}}}"#, id(1));
        std::fs::write(&path, text).expect("written");
        assert_eq!(read(&path).addresses(&id(1)), ["/a"]);
    }
}

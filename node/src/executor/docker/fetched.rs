//! Which images are in the engine because this node asked for them.
//!
//! Only those are ever removed; the record outlives the node's process.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use weir_docker::Image;

use crate::private;

/// Images by id, in a file.
pub(super) struct Fetched {
    path: PathBuf,
    images: Mutex<BTreeMap<String, Record>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// What functions call it.
    name: String,
    bytes: u64,
    /// Seconds since 1970; `None` while a function needs it.
    unneeded_since: Option<u64>,
}

impl Fetched {
    /// Reads the record. A damaged one is as good as none: its images stay.
    pub(super) fn open(path: PathBuf) -> io::Result<Fetched> {
        let images = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the record of images is damaged");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Fetched {
            path,
            images: Mutex::new(images),
        })
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.images.lock()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.images().len()
    }

    /// Notes an image that was fetched for a function.
    pub(super) fn add(&self, name: &str, image: &Image) {
        let mut images = self.images();
        images.insert(
            image.id.clone(),
            Record {
                name: name.to_owned(),
                bytes: image.bytes,
                unneeded_since: None,
            },
        );
        self.save(&images);
    }

    /// Forgets an image: it is gone, or somebody else's.
    pub(super) fn forget(&self, id: &str) {
        let mut images = self.images();
        images.remove(id);
        self.save(&images);
    }

    /// The images beyond the `keep` bytes of unneeded ones that may stay,
    /// those first that were needed longest ago.
    pub(super) fn surplus(
        &self,
        needed: &HashSet<String>,
        keep: u64,
        now: SystemTime,
    ) -> Vec<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut images = self.images();
        let mut changed = false;
        for record in images.values_mut() {
            let since = match needed.contains(&record.name) {
                true => None,
                false => record.unneeded_since.or(Some(now)),
            };
            changed |= since != record.unneeded_since;
            record.unneeded_since = since;
        }
        if changed {
            self.save(&images);
        }
        let mut unneeded: Vec<_> = images
            .iter()
            .filter_map(|(id, record)| Some((record.unneeded_since?, id, record.bytes)))
            .collect();
        unneeded.sort_unstable();
        let mut bytes: u64 = unneeded.iter().map(|(_, _, bytes)| bytes).sum();
        let mut surplus = Vec::new();
        for (_, id, size) in unneeded {
            if bytes <= keep {
                break;
            }
            bytes -= size;
            surplus.push(id.clone());
        }
        surplus
    }

    /// Should this fail, an image stays that could have gone.
    fn save(&self, images: &BTreeMap<String, Record>) {
        let written = serde_json::to_vec(images).map_err(io::Error::other);
        let written = written.and_then(|text| private::write(&self.path, &text));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "cannot record images");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_unneeded_go_first_and_the_needed_never() {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let path = folder.path().join("images.json");
        let fetched = Fetched::open(path.clone()).expect("no record yet");
        for name in ["a", "b", "c"] {
            let image = Image {
                id: format!("id-{name}"),
                bytes: 10,
                is_new: true,
            };
            fetched.add(name, &image);
        }
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let needed = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let all = needed(&["a", "b", "c"]);
        assert!(fetched.surplus(&all, 0, at(1)).is_empty());
        assert!(fetched.surplus(&needed(&["a", "c"]), 10, at(2)).is_empty());
        // What is on disk is what another life of the node goes on with.
        let fetched = Fetched::open(path).expect("a record");
        assert_eq!(fetched.surplus(&needed(&["c"]), 10, at(3)), ["id-b"]);
        assert_eq!(
            fetched.surplus(&needed(&[]), 0, at(4)),
            ["id-b", "id-a", "id-c"]
        );
        // A function that comes back needs its image again.
        assert_eq!(fetched.surplus(&needed(&["b"]), 0, at(5)), ["id-a", "id-c"]);
        fetched.forget("id-a");
        assert_eq!(fetched.count(), 2);
    }
}

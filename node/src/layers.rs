//! Layers of images that lie on this machine already, so that an image need
//! not be sent to it whole.

use std::fs::File;
use std::sync::Arc;

use crate::artifact::{Artifacts, Room};
use crate::executor::Executor;
use crate::function::ArtifactKind;
use crate::id::Digest;

/// Artifacts that are looked at for layers, the largest first, and how many of
/// them are looked into.
const LOOKED_AT: usize = 1024;
const LOOKED_INTO: usize = 64;

/// What an executor may write to look for layers, for each byte that is wanted.
const ROOM: u64 = 4;

/// A layer's run of bytes in an image archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The SHA-256 of those bytes, if the archive is what it says.
    pub digest: Digest,
    /// Where it begins.
    pub at: u64,
    /// How long it is.
    pub bytes: u64,
}

/// A file with layers in it.
pub struct Holder {
    /// Open, so that nobody can take it away.
    pub file: File,
    /// How long it is.
    pub bytes: u64,
    /// What lies where.
    pub layers: Vec<Layer>,
}

/// A layer that is wanted, and where its bytes can be read: nobody has checked
/// that they are the right ones.
#[derive(Clone)]
pub struct Found {
    /// What is wanted, with its place in the archive that is wanted.
    pub layer: Layer,
    /// The file that has it.
    pub file: Arc<File>,
    /// Where it begins there.
    pub from: u64,
    /// Held while the file takes place that is no artifact's.
    _room: Option<Arc<Room>>,
}

impl Found {
    /// A layer whose bytes begin at `from` in a file.
    pub fn new(layer: Layer, file: Arc<File>, from: u64) -> Found {
        let _room = None;
        Found {
            layer,
            file,
            from,
            _room,
        }
    }
}

/// What lies where in an image archive; nothing where this build runs no
/// images. Blocks.
pub(crate) fn layers(artifacts: &Artifacts, digest: &Digest) -> Option<Holder> {
    let kind = artifacts.kind(digest).ok()?;
    if kind != Some(ArtifactKind::ImageArchive) {
        return None;
    }
    let file = File::open(artifacts.path(digest)).ok()?;
    let bytes = artifacts.size(digest)?;
    let layers = in_archive(&file);
    Some(Holder {
        file,
        bytes,
        layers,
    })
}

#[cfg(feature = "docker")]
fn in_archive(file: &File) -> Vec<Layer> {
    let found = weir_docker::layers(file).unwrap_or_default();
    found.into_iter().map(Layer::from).collect()
}

#[cfg(not(feature = "docker"))]
fn in_archive(_file: &File) -> Vec<Layer> {
    Vec::new()
}

#[cfg(feature = "docker")]
impl From<weir_docker::Layer> for Layer {
    fn from(layer: weir_docker::Layer) -> Layer {
        Layer {
            digest: Digest::new(layer.digest),
            at: layer.at,
            bytes: layer.bytes,
        }
    }
}

/// Looks for layers in the artifacts that are here, which costs little; those
/// that are found are not `wanted` any more. Blocks.
pub(crate) fn find(artifacts: &Artifacts, wanted: &mut Vec<Layer>) -> Vec<Found> {
    let mut found = Vec::new();
    let Some(least) = wanted.iter().map(|layer| layer.bytes).min() else {
        return found;
    };
    let near = artifacts.largest(least, LOOKED_AT).into_iter();
    let holders = near.filter_map(|digest| layers(artifacts, &digest));
    for holder in holders.take(LOOKED_INTO) {
        take(wanted, &mut found, holder, None);
        if wanted.is_empty() {
            break;
        }
    }
    found
}

/// Has executors write the layers that they have, which takes a while; those
/// that are found are not `wanted` any more.
pub(crate) async fn export(
    artifacts: &Artifacts,
    executors: &[Arc<dyn Executor>],
    wanted: &mut Vec<Layer>,
) -> Vec<Found> {
    let mut found = Vec::new();
    let bytes = wanted.iter().map(|layer| layer.bytes);
    let room = bytes.fold(0, u64::saturating_add).saturating_mul(ROOM);
    let Some(mut held) = artifacts.room(room) else {
        return found;
    };
    let (mut left, mut holders) = (room, Vec::new());
    for executor in executors {
        let more = executor.layers(wanted.clone(), left).await;
        let bytes: u64 = more.iter().map(|holder| holder.bytes).sum();
        left = left.saturating_sub(bytes);
        holders.extend(more);
    }
    held.shrink(room - left);
    let held = Arc::new(held);
    for holder in holders {
        take(wanted, &mut found, holder, Some(&held));
    }
    found
}

/// Takes what is wanted of what a file has.
fn take(wanted: &mut Vec<Layer>, found: &mut Vec<Found>, holder: Holder, room: Option<&Arc<Room>>) {
    let file = Arc::new(holder.file);
    wanted.retain(|layer| {
        let same = |there: &&Layer| (there.digest, there.bytes) == (layer.digest, layer.bytes);
        let Some(there) = holder.layers.iter().find(same) else {
            return true;
        };
        found.push(Found {
            _room: room.cloned(),
            ..Found::new(*layer, Arc::clone(&file), there.at)
        });
        false
    });
}

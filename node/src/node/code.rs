//! Artifacts: code that lies here, whether a function has it or not.

use super::Node;
use crate::artifact::{Put, PutError};
use crate::executor::Body;
use crate::function::ArtifactKind;
use crate::id::Digest;
use crate::layers::{self, Layer};

impl Node {
    /// Bytes of code that it may still keep.
    pub fn code_room(&self) -> u64 {
        let artifacts = &self.inner.artifacts;
        let most = self.inner.config.artifacts.disk_bytes;
        most.saturating_sub(artifacts.stored_bytes())
    }

    /// The size in bytes of an artifact that the node has.
    pub fn artifact(&self, digest: &Digest) -> Option<u64> {
        self.inner.artifacts.size(digest)
    }

    /// Where the bytes of an artifact lie; `None` when it is not here.
    pub fn artifact_path(&self, digest: &Digest) -> Option<std::path::PathBuf> {
        let artifacts = &self.inner.artifacts;
        artifacts.has(digest).then(|| artifacts.path(digest))
    }

    /// What lies where in an image archive that is here.
    pub async fn layers(&self, digest: &Digest) -> Vec<Layer> {
        let (artifacts, digest) = (self.inner.artifacts.clone(), *digest);
        let read = tokio::task::spawn_blocking(move || layers::layers(&artifacts, &digest));
        let read = read.await.ok().flatten();
        read.map(|holder| holder.layers).unwrap_or_default()
    }

    /// Those of some layers that lie in other artifacts of this node, and the
    /// rest.
    pub async fn find_layers(&self, mut wanted: Vec<Layer>) -> (Vec<layers::Found>, Vec<Layer>) {
        let artifacts = self.inner.artifacts.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let found = layers::find(&artifacts, &mut wanted);
            (found, wanted)
        });
        looked.await.unwrap_or_default()
    }

    /// Those of some layers that executors have. Each is written to disk first,
    /// so that this takes a while: about as long as it takes to copy them twice.
    pub async fn export_layers(&self, mut wanted: Vec<Layer>) -> Vec<layers::Found> {
        let inner = &self.inner;
        layers::export(&inner.artifacts, &inner.executors, &mut wanted).await
    }

    /// What an artifact is, from its first bytes; `None` when the node does not
    /// have it, or it is nothing that Weir knows.
    pub async fn artifact_kind(&self, digest: &Digest) -> Option<ArtifactKind> {
        let (artifacts, digest) = (self.inner.artifacts.clone(), *digest);
        let read = tokio::task::spawn_blocking(move || artifacts.kind(&digest));
        read.await.ok()?.ok()?
    }

    /// Keeps an artifact though no function of this node has it, until
    /// [`Node::unpin_artifact`]; `false` when it is not here.
    pub fn pin_artifact(&self, digest: &Digest) -> bool {
        self.inner.artifacts.retain(digest)
    }

    /// Ends that.
    pub fn unpin_artifact(&self, digest: &Digest) {
        let now = std::time::SystemTime::now();
        self.inner.artifacts.release(digest, now);
    }

    /// Removes an artifact that nothing refers to, at once.
    pub async fn discard_artifact(&self, digest: Digest) {
        let inner = self.inner.clone();
        let discarding = move || {
            if inner.artifacts.discard(&digest) {
                for executor in &inner.executors {
                    executor.forget(&digest);
                }
            }
        };
        // What stays is swept in time.
        let _ = tokio::task::spawn_blocking(discarding).await;
    }

    /// Takes in an artifact; `true` when it was new.
    pub async fn put_artifact(
        &self,
        digest: Digest,
        length: Option<u64>,
        body: Body,
    ) -> Result<bool, PutError> {
        let put = self.inner.artifacts.put(digest, length, body).await?;
        Ok(match put {
            Put::Created => true,
            Put::Existed => false,
        })
    }
}

//! Who this node is: an Ed25519 key of its own, made at first start.
//!
//! The key's PeerId is the node's id wherever nodes are named, so that an id
//! can be proved and never has to be agreed on.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use libp2p_identity::Keypair;

use crate::private;

/// A key file holds 68 bytes; anything much longer is not one.
const KEY_BYTES: u64 = 1 << 10;

/// Why the key could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is there and cannot be read, or cannot be written.
    #[error("access the node's key at {path}")]
    File {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} does not hold a node key: restore it, or remove it to start as a new node")]
    Malformed {
        /// Where.
        path: PathBuf,
    },
}

/// Reads the node's key from `data_dir/identity`, or makes one there, readable
/// by the owner alone.
pub fn load_or_create(data_dir: &Path) -> Result<Keypair, IdentityError> {
    let path = data_dir.join("identity");
    let failed = |source| IdentityError::File {
        path: path.clone(),
        source,
    };
    match File::open(&path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(KEY_BYTES)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            Keypair::from_protobuf_encoding(&bytes)
                .map_err(|_| IdentityError::Malformed { path: path.clone() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(&path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn create(path: &Path) -> io::Result<Keypair> {
    let key = Keypair::generate_ed25519();
    let bytes = key.to_protobuf_encoding().map_err(io::Error::other)?;
    // A half-written key would be a lost identity.
    private::write(path, &bytes)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn identity_is_the_same_after_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = load_or_create(dir.path())
            .expect("made")
            .public()
            .to_peer_id();
        let second = load_or_create(dir.path())
            .expect("read")
            .public()
            .to_peer_id();
        assert_eq!(first, second);
        let mode = dir
            .path()
            .join("identity")
            .metadata()
            .expect("file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn something_else_in_the_key_file_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("identity"), "not a key").expect("written");
        assert!(matches!(
            load_or_create(dir.path()),
            Err(IdentityError::Malformed { .. })
        ));
    }
}

//! Secrets as files, for as long as an instance lives.
//!
//! Each instance gets a folder of its own with one read-only file per secret
//! that its function names. The folder lies under the data directory, for the
//! owner alone, and goes with its handle; what a crash left goes at the start.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk;
use crate::function::FunctionSpec;
use crate::id::{Namespace, SecretName};
use crate::store::{SecretValue, Store, StoreError};

/// Why an instance does not get its secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The function names one that does not exist.
    #[error(
        "secret {name} does not exist in namespace {namespace}: create it, or deploy without it"
    )]
    Missing {
        /// Which.
        name: SecretName,
        /// Where it was looked for.
        namespace: Namespace,
    },
    /// The store could not be read.
    #[error("read secret {name}")]
    Store {
        /// Which.
        name: SecretName,
        /// Why not.
        source: StoreError,
    },
    /// The files could not be written.
    #[error("write the secrets of an instance")]
    Io(#[source] io::Error),
}

/// Where instances find their secrets.
#[derive(Debug)]
pub struct SecretFolders {
    dir: PathBuf,
    /// Numbers the folders of this life of the node.
    next: AtomicU64,
}

/// The secrets of one instance; removed when dropped.
#[derive(Debug)]
pub struct SecretFolder {
    path: PathBuf,
}

impl SecretFolders {
    /// Uses the folder `dir`, removing whatever is in it. Blocks.
    pub fn open(dir: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk::private_dir(dir)?;
        Ok(SecretFolders {
            dir: dir.to_owned(),
            next: AtomicU64::new(0),
        })
    }

    /// Writes the secrets that `spec` names, as they are now; `None` when it
    /// names none.
    pub async fn materialise(
        &self,
        store: &Store,
        spec: &FunctionSpec,
    ) -> Result<Option<SecretFolder>, SecretError> {
        if spec.secrets.is_empty() {
            return Ok(None);
        }
        let namespace = &spec.name.namespace;
        let mut values = Vec::with_capacity(spec.secrets.len());
        for name in &spec.secrets {
            let value = store.secret(namespace, name).await;
            let value = value.map_err(|source| SecretError::Store {
                name: name.clone(),
                source,
            })?;
            let missing = || SecretError::Missing {
                name: name.clone(),
                namespace: namespace.clone(),
            };
            values.push((name.clone(), value.ok_or_else(missing)?));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(number.to_string());
        let written = tokio::task::spawn_blocking(move || write(path, &values)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map(Some).map_err(SecretError::Io)
    }
}

impl SecretFolder {
    /// The folder, which holds a file for each secret, named as the secret.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SecretFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove secrets");
        }
    }
}

fn write(path: PathBuf, values: &[(SecretName, SecretValue)]) -> io::Result<SecretFolder> {
    // Whatever user a container runs as reads it through its mount; on the
    // machine itself the folder above keeps all others out.
    fs::create_dir(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    // From here on, a failure removes what was written.
    let folder = SecretFolder { path };
    for (name, value) in values {
        let file = folder.path.join(name.as_str());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o400)
            .open(file);
        let mut file = file?;
        file.write_all(value.reveal())?;
        file.set_permissions(Permissions::from_mode(0o444))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AsyncConfig;
    use crate::function::{ArtifactKind, Protocol};
    use crate::id::Digest;

    fn spec(secrets: &[&str]) -> FunctionSpec {
        let name = "f.shop".parse().expect("name");
        let digest = Digest::of(b"code");
        let spec = FunctionSpec::new(name, digest, ArtifactKind::WasmModule, Protocol::Stdio);
        let secrets = secrets
            .iter()
            .map(|name| name.parse().expect("name"))
            .collect();
        FunctionSpec { secrets, ..spec }
    }

    #[tokio::test]
    async fn instance_finds_its_secrets_until_it_ends() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (store, _) = Store::open(dir.path(), (&AsyncConfig::default()).into()).expect("opens");
        let run = dir.path().join("run/secrets");
        fs::create_dir_all(run.join("7")).expect("left by a crash");
        let folders = SecretFolders::open(&run).expect("opens");
        let shop = "shop".parse().expect("name");
        let name = "api.key".parse().expect("name");
        store
            .put_secret(&shop, &name, &SecretValue::new("hunter2"))
            .await
            .expect("kept");

        let none = folders
            .materialise(&store, &spec(&[]))
            .await
            .expect("nothing to do");
        assert!(none.is_none());
        let folder = folders.materialise(&store, &spec(&["api.key"])).await;
        let folder = folder.expect("written").expect("some");
        let file = folder.path().join("api.key");
        assert_eq!(fs::read(&file).expect("read"), b"hunter2");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(folder.path()), mode(&file)), (0o755, 0o444));
        let above = folder.path().parent().expect("a folder above");
        assert_eq!(mode(above), 0o700);
        drop(folder);
        assert_eq!(fs::read_dir(&run).expect("folder").count(), 0);

        let missing = folders
            .materialise(&store, &spec(&["api.key", "pass"]))
            .await;
        let text = missing.expect_err("missing").to_string();
        assert!(
            text.contains("secret pass does not exist in namespace shop"),
            "{text}"
        );
        assert_eq!(fs::read_dir(&run).expect("folder").count(), 0);
    }
}

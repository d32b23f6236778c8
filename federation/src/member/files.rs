//! What a node keeps of its membership on disk.

use super::*;

/// Largest file of those here.
const FILE_BYTES: u64 = 8 << 20;

/// The bytes of a file; `None` where there is none.
pub(super) fn load(path: &Path) -> Result<Option<Vec<u8>>, MemberError> {
    let failed = |source| MemberError::File {
        path: path.to_owned(),
        source,
    };
    match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(FILE_BYTES)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

pub(super) fn load_list<T: serde::de::DeserializeOwned>(
    path: &Path,
) -> Result<BTreeMap<String, T>, MemberError> {
    Ok(load_json(path)?.unwrap_or_default())
}

/// What a file says; `None` where there is none.
pub(super) fn load_json<T: serde::de::DeserializeOwned>(
    path: &Path,
) -> Result<Option<T>, MemberError> {
    let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
    let said = load(path)?.map(read).transpose();
    said.map_err(|_| MemberError::Malformed {
        path: path.to_owned(),
    })
}

impl Member {
    /// Has a file written by and by. `what` is lost over a restart where that
    /// fails.
    pub(super) fn keep(&self, name: &str, bytes: Vec<u8>, what: &'static str) {
        let path = self.folder.join(name);
        self.files.save(path.clone(), bytes, move |saved| {
            if let Err(error) = saved {
                let path = path.display();
                tracing::error!(%path, %error, "{what} is not kept over a restart");
            }
        });
    }
}

/// Plain values as they are written down.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("plain values can be written")
}

//! Folders of code, which are mounted into runtimes.
//!
//! A source archive is a tar file whose first entry is named [`MARKER`], so
//! that its kind can be told from its first bytes. It holds regular files and
//! folders alone, and is unpacked once per archive.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

/// Name of the first entry of a source archive.
pub const MARKER: &str = ".weir-source";

/// Files and folders in one archive.
const ENTRIES: usize = 20_000;

/// Bytes of all files of one archive, unpacked.
const UNPACKED_BYTES: u64 = 512 << 20;

/// Why an archive is no folder of code.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not what it should be.
    #[error("the source archive {0}")]
    Unfit(String),
    /// The disk failed.
    #[error("unpack the source archive")]
    Io(#[from] io::Error),
}

/// Checks an archive without unpacking it. Blocks.
///
/// # Errors
/// When it is damaged, too large, or holds anything but files and folders
/// below its root.
pub fn check(archive: &Path) -> Result<(), SourceError> {
    walk(archive, |_, _| Ok(()))
}

/// Unpacks `archive` into the folder `target`, unless that was done before.
/// Blocks.
///
/// # Errors
/// As [`check`], or when the disk fails; then nothing is left.
pub fn unpack(archive: &Path, target: &Path) -> Result<(), SourceError> {
    if target.is_dir() {
        return Ok(());
    }
    let partial = target.with_extension("partial");
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => readable_folder(&partial)?,
    }
    let unpacked = walk(archive, |path, entry| {
        let place = partial.join(path);
        match entry {
            None => readable_folder(&place),
            Some(content) => {
                readable_folder(place.parent().unwrap_or(&partial))?;
                let mut file = File::create_new(&place)?;
                io::copy(content, &mut file)?;
                file.set_permissions(Permissions::from_mode(0o644))
            }
        }
    });
    match unpacked.and_then(|()| Ok(fs::rename(&partial, target)?)) {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = fs::remove_dir_all(&partial);
            Err(error)
        }
    }
}

/// Makes a folder that any user may read: a container's own user must, and on
/// the machine itself a folder above keeps all others out.
fn readable_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Visits each entry: a folder as `None`, a file as its content.
fn walk(
    archive: &Path,
    mut visit: impl FnMut(&Path, Option<&mut dyn io::Read>) -> io::Result<()>,
) -> Result<(), SourceError> {
    let unfit = |what: &str| SourceError::Unfit(what.to_owned());
    let damaged = |error: io::Error| SourceError::Unfit(format!("is damaged: {error}"));
    let mut archive = tar::Archive::new(File::open(archive)?);
    let mut bytes = 0_u64;
    for (number, entry) in archive.entries().map_err(damaged)?.enumerate() {
        let mut entry = entry.map_err(damaged)?;
        if number > ENTRIES {
            return Err(unfit(&format!("has more than {ENTRIES} entries")));
        }
        bytes = bytes.saturating_add(entry.size());
        if bytes > UNPACKED_BYTES {
            return Err(unfit(&format!("holds more than {UNPACKED_BYTES} bytes")));
        }
        let path = entry.path().map_err(damaged)?.into_owned();
        if number == 0 {
            if path == Path::new(MARKER) {
                continue;
            }
            return Err(unfit(&format!("does not begin with {MARKER}")));
        }
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !path.components().all(inside) {
            return Err(unfit(&format!("names {} outside itself", path.display())));
        }
        let path: PathBuf = path
            .components()
            .filter(|part| !matches!(part, Component::CurDir))
            .collect();
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            visit(&path, None)?;
        } else if kind.is_file() {
            visit(&path, Some(&mut entry))?;
        } else {
            return Err(unfit(&format!(
                "holds {}, which is neither a file nor a folder",
                path.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(folder: &Path, entries: &[(&str, tar::EntryType, &[u8])]) -> PathBuf {
        let path = folder.join("archive");
        let mut builder = tar::Builder::new(File::create(&path).expect("creates"));
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            let bytes = name.as_bytes();
            header.as_old_mut().name[..bytes.len()].copy_from_slice(bytes);
            header.set_cksum();
            builder.append(&header, *content).expect("appends");
        }
        builder.finish().expect("finishes");
        path
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn files_and_folders_are_unpacked_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let entries = [
            (MARKER, FILE, &b""[..]),
            ("main.py", FILE, b"print()"),
            ("./lib/a.py", FILE, b"a"),
        ];
        let archive = archive(folder.path(), &entries);
        let target = folder.path().join("source");
        unpack(&archive, &target).expect("unpacks");
        assert_eq!(fs::read(target.join("lib/a.py")).expect("reads"), b"a");
        fs::remove_file(&archive).expect("removes");
        unpack(&archive, &target).expect("is there already");
    }

    #[test]
    fn what_is_no_folder_of_code_is_refused_and_leaves_nothing() {
        let check = |entries: &[(&str, tar::EntryType, &[u8])], expected: &str| {
            let folder = tempfile::tempdir().expect("temporary folder");
            let archive = archive(folder.path(), entries);
            let target = folder.path().join("source");
            let error = unpack(&archive, &target).expect_err("is refused");
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
        };
        check(&[("main.py", FILE, b"")], "does not begin");
        check(&[(MARKER, FILE, b""), ("../x", FILE, b"")], "outside");
        check(&[(MARKER, FILE, b""), ("/x", FILE, b"")], "outside");
        let link = tar::EntryType::Symlink;
        check(&[(MARKER, FILE, b""), ("x", link, b"")], "neither");
    }
}

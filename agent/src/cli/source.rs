//! Source code on its way to a runtime: a folder becomes one archive.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use weir_node::function::ArtifactKind;

/// Folders inside each other, at most.
const DEPTH: usize = 32;

/// Names that no function needs, and that would change its digest.
const LEFT_OUT: [&str; 3] = [".git", "__pycache__", ".DS_Store"];

/// Packs a file, or all below a folder. The same files give the same bytes:
/// they are in order, and neither times nor owners are kept.
pub(super) fn pack(source: &Path) -> io::Result<NamedTempFile> {
    let file = NamedTempFile::new()?;
    let mut archive = tar::Builder::new(io::BufWriter::new(file));
    append(&mut archive, ArtifactKind::SOURCE_MARKER, 0, io::empty())?;
    if source.is_dir() {
        append_folder(&mut archive, source, &PathBuf::new(), DEPTH)?;
    } else {
        let name = source.file_name().unwrap_or_default();
        append_file(&mut archive, source, Path::new(name))?;
    }
    let mut writer = archive.into_inner()?;
    writer.flush()?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)
}

type Archive = tar::Builder<io::BufWriter<NamedTempFile>>;

fn append_folder(
    archive: &mut Archive,
    folder: &Path,
    inside: &Path,
    depth: usize,
) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other(format!(
            "{} lies more than {DEPTH} folders deep",
            folder.display()
        )));
    }
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let (path, inside) = (entry.path(), inside.join(&name));
        // What a link points to is packed, not the link.
        if fs::metadata(&path)?.is_dir() {
            append_folder(archive, &path, &inside, depth - 1)?;
        } else {
            append_file(archive, &path, &inside)?;
        }
    }
    Ok(())
}

fn append_file(archive: &mut Archive, path: &Path, inside: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    append(archive, inside, bytes, io::Read::take(file, bytes))
}

fn append(
    archive: &mut Archive,
    inside: impl AsRef<Path>,
    bytes: u64,
    content: impl io::Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes);
    header.set_mode(0o644);
    archive.append_data(&mut header, inside, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(source: &Path) -> Vec<u8> {
        fs::read(pack(source).expect("packs").path()).expect("reads")
    }

    #[test]
    fn same_files_give_the_same_archive() {
        let make = |order: [&str; 2]| {
            let folder = tempfile::tempdir().expect("temporary folder");
            for name in order {
                fs::write(folder.path().join(name), name).expect("writes");
            }
            fs::create_dir(folder.path().join("__pycache__")).expect("creates");
            packed(folder.path())
        };
        let first = make(["a.py", "b.py"]);
        assert_eq!(first, make(["b.py", "a.py"]));
        let kind = ArtifactKind::sniff(&first[..ArtifactKind::SNIFF_BYTES]);
        assert_eq!(kind, Some(ArtifactKind::SourceArchive));
    }

    #[test]
    fn a_single_file_keeps_its_name() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("main.py");
        fs::write(&file, "x = 1").expect("writes");
        let bytes = packed(&file);
        let mut archive = tar::Archive::new(&*bytes);
        let entries = archive.entries().expect("an archive");
        let names: Vec<_> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .path()
                    .expect("a path")
                    .into_owned()
            })
            .collect();
        assert_eq!(names, [Path::new(".weir-source"), Path::new("main.py")]);
    }
}

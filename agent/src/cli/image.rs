//! An image on its way to a node: whatever people keep images in becomes one
//! plain archive, whose layers nodes can share.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use tempfile::NamedTempFile;
use weir_node::function::ArtifactKind;

/// Bytes that an archive may have when it is unpacked: more than any image,
/// and few enough for a disk.
const UNPACKED_BYTES_MAX: u64 = 64 << 30;

/// Entries of an archive that are looked at.
const ENTRIES_MAX: usize = 4096;

/// Folders inside each other in an OCI layout, at most: `blobs/sha256`.
const LAYOUT_DEPTH_MAX: usize = 4;

/// What a compressed archive begins with, and how its kind is called.
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const OTHERS: [(&[u8], &str, &str); 2] = [
    (b"BZh", "bzip2", "bunzip2"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz", "unxz"),
];

/// A plain archive with an image.
pub(super) enum Archive {
    /// The file itself.
    Given(PathBuf),
    /// One that was made of it, gone when this is dropped.
    Made(NamedTempFile),
}

impl Archive {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        match self {
            Archive::Given(path) => path,
            Archive::Made(file) => file.path(),
        }
    }
}

/// The image in `path` as one plain archive: from an archive of `docker save`
/// or of OCI, as it is or packed with gzip or zstd, or a folder with an OCI
/// layout. Blocks.
///
/// # Errors
/// When it is none of those: what it is instead, or lacks.
pub(super) fn archive(path: &Path) -> anyhow::Result<Archive> {
    if path.is_dir() {
        if !path.join("oci-layout").is_file() || !path.join("index.json").is_file() {
            bail!(
                "{} is a folder without an OCI layout (oci-layout, index.json, blobs): name an \
                 archive of docker save, or use --src for source code",
                path.display()
            );
        }
        return pack(path).map(Archive::Made).context("pack the OCI layout");
    }
    let file = File::open(path)?;
    let mut head = Vec::new();
    let read = (&file).take(ArtifactKind::SNIFF_BYTES as u64);
    { read }.read_to_end(&mut head)?;
    (&file).rewind()?;
    let archive = if head.starts_with(GZIP) {
        let unpacked = unpack(MultiGzDecoder::new(BufReader::new(&file)));
        Archive::Made(unpacked.context("unpack it with gzip")?)
    } else if head.starts_with(ZSTD) {
        let unpacked = unpack(Zstd::new(BufReader::new(&file)));
        Archive::Made(unpacked.context("unpack it with zstd")?)
    } else {
        let packed = OTHERS.iter().find(|(magic, ..)| head.starts_with(magic));
        if let Some((_, name, program)) = packed {
            bail!("it is packed with {name}, which is not read: unpack it first ({program})");
        }
        Archive::Given(path.to_owned())
    };
    check(archive.path())?;
    Ok(archive)
}

/// Whether a file is an archive that holds an image.
fn check(path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    (&mut file)
        .take(ArtifactKind::SNIFF_BYTES as u64)
        .read_to_end(&mut head)?;
    match ArtifactKind::sniff(&head) {
        Some(ArtifactKind::ImageArchive) => {}
        Some(ArtifactKind::SourceArchive) => {
            bail!("it holds source code: use --src with the folder that it was made of")
        }
        Some(ArtifactKind::WasmModule | ArtifactKind::WasmComponent | ArtifactKind::WasmText) => {
            bail!("it is WebAssembly: use --wasm")
        }
        _ => bail!(
            "it is no image archive: neither a tar archive, as docker save writes it, nor one \
             that is packed with gzip or zstd"
        ),
    }
    file.rewind()?;
    let mut archive = tar::Archive::new(file);
    let mut layout = 0;
    for entry in archive.entries_with_seek()?.take(ENTRIES_MAX) {
        let entry = entry.context("it is a damaged tar archive")?;
        let name = entry.path()?;
        match name.strip_prefix("./").unwrap_or(&name).to_str() {
            Some("manifest.json") => return Ok(()),
            Some("oci-layout" | "index.json") => layout += 1,
            _ => {}
        }
    }
    if layout == 2 {
        return Ok(());
    }
    bail!(
        "it is a tar archive without an image: it has neither the manifest.json of docker save \
         nor an OCI layout (oci-layout, index.json). For the files of a container (docker \
         export), make an image first: docker import"
    )
}

fn unpack(mut from: impl Read) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    let bytes = io::copy(&mut (&mut from).take(UNPACKED_BYTES_MAX), &mut file)?;
    if bytes == UNPACKED_BYTES_MAX && from.read(&mut [0])? > 0 {
        return Err(io::Error::other(format!(
            "it holds more than {UNPACKED_BYTES_MAX} bytes"
        )));
    }
    file.flush()?;
    Ok(file)
}

/// What zstd packed: one frame after the other.
struct Zstd<R: io::BufRead> {
    state: ZstdState<R>,
}

enum ZstdState<R: io::BufRead> {
    Between(R),
    Inside(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
    Done,
}

impl<R: io::BufRead> Zstd<R> {
    fn new(from: R) -> Self {
        let state = ZstdState::Between(from);
        Zstd { state }
    }
}

impl<R: io::BufRead> Read for Zstd<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, ZstdState::Done) {
                ZstdState::Done => return Ok(0),
                ZstdState::Between(mut from) => {
                    if from.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new(from).map_err(io::Error::other)?;
                    self.state = ZstdState::Inside(Box::new(frame));
                }
                ZstdState::Inside(mut frame) => match frame.read(into)? {
                    0 if !into.is_empty() => self.state = ZstdState::Between(frame.into_inner()),
                    read => {
                        self.state = ZstdState::Inside(frame);
                        return Ok(read);
                    }
                },
            }
        }
    }
}

/// Packs a folder with an OCI layout. The same files give the same bytes.
fn pack(folder: &Path) -> io::Result<NamedTempFile> {
    let mut archive = tar::Builder::new(BufWriter::new(NamedTempFile::new()?));
    pack_folder(&mut archive, folder, Path::new(""), LAYOUT_DEPTH_MAX)?;
    let mut writer = archive.into_inner()?;
    writer.flush()?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)
}

fn pack_folder(
    archive: &mut tar::Builder<BufWriter<NamedTempFile>>,
    folder: &Path,
    inside: &Path,
    depth: usize,
) -> io::Result<()> {
    if depth == 0 {
        return Ok(());
    }
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, inside) = (entry.path(), inside.join(entry.file_name()));
        if fs::metadata(&path)?.is_dir() {
            pack_folder(archive, &path, &inside, depth - 1)?;
        } else {
            let file = File::open(&path)?;
            let mut header = tar::Header::new_ustar();
            header.set_size(file.metadata()?.len());
            header.set_mode(0o644);
            archive.append_data(&mut header, inside, file)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, *content)
                .expect("it is packed");
        }
        builder.into_inner().expect("it ends")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).expect("it is packed");
        packed.finish().expect("it ends")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        ruzstd::encoding::compress_to_vec(bytes, level)
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut file = NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("it is written");
        let archive = archive(file.path()).map_err(|error| format!("{error:#}"))?;
        Ok(fs::read(archive.path()).expect("it is read"))
    }

    #[test]
    fn archives_are_unpacked_and_layouts_packed() {
        let saved = tar(&[("manifest.json", b"[]"), ("layer.tar", &[7; 100_000])]);
        assert!(read(&saved) == Ok(saved.clone()), "it comes out whole");
        assert!(
            read(&gzip(&saved)) == Ok(saved.clone()),
            "it comes out whole"
        );
        assert!(
            read(&zstd(&saved)) == Ok(saved.clone()),
            "it comes out whole"
        );
        // As parallel packers write it: in several pieces.
        let (first, second) = saved.split_at(60_000);
        assert!(
            read(&[gzip(first), gzip(second)].concat()) == Ok(saved.clone()),
            "it comes out whole"
        );
        assert!(
            read(&[zstd(first), zstd(second)].concat()) == Ok(saved.clone()),
            "it comes out whole"
        );
        let layout = tar(&[("./oci-layout", b"{}"), ("./index.json", b"{}")]);
        assert!(read(&layout) == Ok(layout.clone()), "it comes out whole");

        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(archive(folder.path()).is_err());
        for name in ["oci-layout", "index.json"] {
            fs::write(folder.path().join(name), "{}").expect("it is written");
        }
        let packed = archive(folder.path()).expect("a layout");
        let packed = fs::read(packed.path()).expect("it is read");
        let wanted = tar(&[("index.json", b"{}"), ("oci-layout", b"{}")]);
        assert!(packed == wanted, "its files are in order");
    }

    #[test]
    fn what_is_no_image_is_said_to_be_so() {
        let saved = tar(&[("manifest.json", b"[]")]);
        for (bytes, told) in [
            (b"no archive at all".to_vec(), "no image archive"),
            (Vec::new(), "no image archive"),
            (b"\0asm\x01\0\0\0".to_vec(), "use --wasm"),
            (tar(&[("etc/passwd", b"x")]), "without an image"),
            (tar(&[("index.json", b"x")]), "without an image"),
            (tar(&[(".weir-source", b"")]), "use --src"),
            (gzip(b"no archive"), "no image archive"),
            (gzip(&saved)[..30].to_vec(), "unpack it with gzip"),
            (zstd(&saved)[..20].to_vec(), "unpack it with zstd"),
            (b"BZh91AY".to_vec(), "bunzip2"),
            (b"\xfd7zXZ\0".to_vec(), "unxz"),
        ] {
            let mistake = read(&bytes).expect_err(told);
            assert!(mistake.contains(told), "{told}: {mistake}");
        }
    }
}

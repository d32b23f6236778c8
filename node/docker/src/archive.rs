//! What lies where in an image archive.
//!
//! Archives of one image differ in their bytes with the engine and the hour,
//! while its layers do not: so it is layers by which two machines find out
//! what both have.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Files in one archive that are looked at.
const ENTRIES: usize = 4096;

/// Largest description of an image, or of what an archive holds.
const DESCRIPTION_BYTES: u64 = 1 << 20;

/// Images of one archive that are looked at; a function is one.
const IMAGES: usize = 4;

/// Layers that an image may have; engines allow 127.
const LAYERS: usize = 256;

/// A layer's run of bytes in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The SHA-256 by which images name it: of those bytes, if the archive is
    /// what it says.
    pub digest: [u8; 32],
    /// Where it begins.
    pub at: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Finds the layers of an archive as `docker save` writes it, in either of its
/// formats: in the order of their places, [`LAYERS`] at the most. What is
/// damaged has none. Only headers and descriptions are read. Blocks.
///
/// # Errors
/// When the file cannot be read.
pub fn layers(file: &File) -> io::Result<Vec<Layer>> {
    let files = index(file)?;
    let mut found = described(file, &files);
    // A blob that is pressed together has two digests: its own, and that of what
    // it holds, by which images name it.
    let blobs = files.iter().filter_map(|(name, (at, bytes))| {
        let digest = parse(name.strip_prefix("blobs/sha256/")?)?;
        let (at, bytes) = (*at, *bytes);
        Some(Layer { digest, at, bytes })
    });
    found.extend(blobs);
    found.sort_by_key(|layer| layer.at);
    found.dedup_by_key(|layer| layer.at);
    found.truncate(LAYERS);
    Ok(found)
}

/// What an engine is given for an archive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// The archive, which has a table of its images.
    AsItIs,
    /// Its first bytes, so many, and then these: a table, and the end.
    WithTable(u64, Vec<u8>),
}

/// Whether a file holds one image that an engine can load, and how. Engines
/// load what has the table of `docker save`; an OCI layout without it is given
/// one. Blocks.
///
/// # Errors
/// When it holds no image, or not one: a sentence that says so.
pub(crate) fn loadable(file: &File) -> Result<Load, String> {
    let unreadable = |error: io::Error| format!("read the image archive: {error}");
    let files = index(file).map_err(unreadable)?;
    if files.contains_key(TABLE) {
        return Ok(Load::AsItIs);
    }
    if !files.contains_key(LAYOUT_INDEX) {
        return Err(
            "the archive holds no image: it has neither the manifest.json of docker save nor an \
             OCI layout (index.json)"
                .to_owned(),
        );
    }
    let (config, layers) = layout_image(file, &files)?;
    let table = serde_json::json!([{ "Config": config, "RepoTags": null, "Layers": layers }]);
    let table = table.to_string();
    let mut more = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(table.len() as u64);
    header.set_mode(0o644);
    let appended = more.append_data(&mut header, TABLE, table.as_bytes());
    appended.map_err(unreadable)?;
    let end = end_of_entries(file).map_err(unreadable)?;
    Ok(Load::WithTable(end, more.into_inner().map_err(unreadable)?))
}

/// Whether a file holds an image that an engine can load. Blocks.
///
/// # Errors
/// When it does not: a sentence that says so.
pub fn check(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("read the image archive: {error}"))?;
    loadable(&file).map(drop)
}

/// The table of `docker save`, and where an OCI layout begins.
const TABLE: &str = "manifest.json";
const LAYOUT_INDEX: &str = "index.json";

/// Lists inside each other in an OCI layout, at most: the layout's own, that of
/// the platforms, and one more.
const LISTS: usize = 3;

/// A list of images, or one image, in an OCI layout.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Clone)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    architecture: String,
    os: String,
}

impl Platform {
    /// Whether this machine's engine runs it.
    fn is_ours(&self) -> bool {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.os == "linux" && self.architecture == architecture
    }
}

/// Configuration and layers of the image in an OCI layout, as paths in it.
fn layout_image(file: &File, files: &Index) -> Result<(String, Vec<String>), String> {
    let blob = |digest: &str| {
        let hex = digest
            .strip_prefix("sha256:")
            .filter(|hex| parse(hex).is_some());
        let name = hex.map(|hex| format!("blobs/sha256/{hex}"));
        name.filter(|name| files.contains_key(name))
            .ok_or_else(|| format!("the OCI layout lacks the blob {digest:.80}"))
    };
    let mut name = LAYOUT_INDEX.to_owned();
    for _ in 0..LISTS {
        let manifest: Manifest = description(file, files, &name)
            .ok_or_else(|| format!("{name} of the OCI layout cannot be read"))?;
        if let Some(config) = manifest.config {
            let layers = manifest.layers.iter().take(LAYERS);
            let layers = layers.map(|layer| blob(&layer.digest));
            return Ok((blob(&config.digest)?, layers.collect::<Result<_, _>>()?));
        }
        // Of one image there may be several platforms, and notes about each.
        let ours = |listed: &&Descriptor| listed.platform.as_ref().is_none_or(Platform::is_ours);
        let mut listed = manifest.manifests.iter().filter(ours);
        match (listed.next(), listed.count()) {
            (Some(one), 0) => name = blob(&one.digest)?,
            (None, _) => {
                return Err(format!(
                    "the OCI layout holds no image for linux on {}",
                    std::env::consts::ARCH
                ));
            }
            (Some(_), more) => {
                return Err(format!(
                    "the OCI layout holds {} images, and a function is one: copy one alone",
                    more + 1
                ));
            }
        }
    }
    Err("the OCI layout has too many lists inside each other".to_owned())
}

/// Where the last entry of an archive ends.
fn end_of_entries(mut file: &File) -> io::Result<u64> {
    const BLOCK: u64 = 512;
    file.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(file);
    let mut end = 0;
    for entry in archive.entries_with_seek()?.raw(true) {
        let entry = entry?;
        let after = entry.raw_file_position() + entry.size().next_multiple_of(BLOCK);
        end = end.max(after);
    }
    Ok(end)
}

/// Where each file of an archive begins, and how long it is.
type Index = HashMap<String, (u64, u64)>;

fn index(mut file: &File) -> io::Result<Index> {
    file.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(file);
    let mut files = Index::new();
    // Raw: names and other things that stand in entries of their own may be as
    // long as the archive, and no layer needs them.
    for entry in archive.entries_with_seek()?.raw(true).take(ENTRIES) {
        // What comes behind damage is not looked at.
        let Ok(entry) = entry else { break };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        if let Ok(Some(name)) = entry.path().map(|path| path.to_str().map(str::to_owned)) {
            // As `tar -C FOLDER .` writes them.
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            files.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(files)
}

/// An image in the table of an archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    layers: Vec<String>,
}

/// What an image says of itself.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The layers that the archive's own table names.
fn described(file: &File, files: &Index) -> Vec<Layer> {
    let images: Option<Vec<Listed>> = description(file, files, TABLE);
    let mut found = Vec::new();
    for image in images.into_iter().flatten().take(IMAGES) {
        let Some(config) = description::<Config>(file, files, &image.config) else {
            continue;
        };
        let digests = config.rootfs.diff_ids.iter().take(LAYERS);
        for (name, digest) in image.layers.iter().zip(digests) {
            if let (Some((at, bytes)), Some(digest)) = (files.get(name), digest_in(digest)) {
                let (at, bytes) = (*at, *bytes);
                found.push(Layer { digest, at, bytes });
            }
        }
    }
    found
}

fn description<T: DeserializeOwned>(mut file: &File, files: &Index, name: &str) -> Option<T> {
    let (at, bytes) = *files.get(name)?;
    if bytes > DESCRIPTION_BYTES {
        return None;
    }
    file.seek(SeekFrom::Start(at)).ok()?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The digest in `sha256:HEX`.
pub(crate) fn digest_in(text: &str) -> Option<[u8; 32]> {
    parse(text.strip_prefix("sha256:")?)
}

fn parse(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An archive with these files, and where each begins.
    fn archive(files: &[(&str, &[u8])]) -> File {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, *content)
                .expect("it is packed");
        }
        written(&builder.into_inner().expect("it ends"))
    }

    fn written(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("it is written");
        file
    }

    fn content(mut file: &File, layer: &Layer) -> Vec<u8> {
        file.seek(SeekFrom::Start(layer.at)).expect("it is there");
        let mut bytes = Vec::new();
        file.take(layer.bytes)
            .read_to_end(&mut bytes)
            .expect("it is read");
        bytes
    }

    fn hex(digit: char) -> String {
        std::iter::repeat_n(digit, 64).collect()
    }

    #[test]
    fn layers_are_found_by_the_table_of_an_archive() {
        let table = br#"[{"Config":"c.json","Layers":["x/layer.tar","y/layer.tar","gone"]}]"#;
        let ids = [hex('1'), hex('2'), hex('3')].map(|hex| format!("sha256:{hex}"));
        let config = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": ids}});
        let file = archive(&[
            ("y/layer.tar", b"upper"),
            ("c.json", config.to_string().as_bytes()),
            ("x/layer.tar", b"lower layer"),
            ("manifest.json", table),
        ]);
        let found = layers(&file).expect("it is read");
        let found: Vec<_> = found
            .iter()
            .map(|layer| (layer.digest[0], content(&file, layer)))
            .collect();
        let wanted = [(0x22, b"upper".to_vec()), (0x11, b"lower layer".to_vec())];
        assert_eq!(found, wanted);
    }

    #[test]
    fn layers_are_found_by_the_names_of_blobs() {
        let name = format!("blobs/sha256/{}", hex('a'));
        let file = archive(&[
            ("oci-layout", b"{}"),
            (&name, b"content"),
            ("blobs/sha256/short", b"x"),
        ]);
        let found = layers(&file).expect("it is read");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].digest, [0xaa; 32]);
        assert_eq!(content(&file, &found[0]), b"content");
    }

    #[test]
    fn a_blob_goes_by_the_digest_by_which_its_image_names_it() {
        let blob = format!("blobs/sha256/{}", hex('1'));
        let table = serde_json::json!([{"Config": "c", "Layers": [blob]}]).to_string();
        let ids = [format!("sha256:{}", hex('9'))];
        let config = serde_json::json!({"rootfs": {"diff_ids": ids}}).to_string();
        let file = archive(&[
            (&blob, b"pressed"),
            ("c", config.as_bytes()),
            ("manifest.json", table.as_bytes()),
        ]);
        let found = layers(&file).expect("it is read");
        assert_eq!((found.len(), found[0].digest), (1, [0x99; 32]));
    }

    #[test]
    fn a_layout_is_given_a_table_of_its_image() {
        let blob = |digit: char| format!("blobs/sha256/{}", hex(digit));
        let digest = |digit: char| format!("sha256:{}", hex(digit));
        let ours = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let platform =
            |architecture| serde_json::json!({"os": "linux", "architecture": architecture});
        let image = serde_json::json!({"config": {"digest": digest('c')},
            "layers": [{"digest": digest('d')}, {"digest": digest('e')}]});
        let list = serde_json::json!({"manifests": [
            {"digest": digest('f'), "platform": platform("s390x")},
            {"digest": digest('b'), "platform": platform(ours)},
            {"digest": digest('9'), "platform": {"os": "unknown", "architecture": "unknown"}}]});
        let index = serde_json::json!({"manifests": [{"digest": digest('a')}]});
        let files = [
            ("./oci-layout".to_owned(), "{}".to_owned()),
            ("./index.json".to_owned(), index.to_string()),
            (format!("./{}", blob('a')), list.to_string()),
            (blob('b'), image.to_string()),
            (blob('c'), "{}".to_owned()),
            (blob('d'), "lower".to_owned()),
            (blob('e'), "upper layer".to_owned()),
        ];
        let pack = |files: &[(String, String)]| {
            let files = files
                .iter()
                .map(|(name, text)| (name.as_str(), text.as_bytes()));
            archive(&files.collect::<Vec<_>>())
        };
        let whole = pack(&files);
        let Ok(Load::WithTable(end, more)) = loadable(&whole) else {
            panic!("it has no table of its own")
        };
        let mut bytes = Vec::new();
        let mut file = &whole;
        file.seek(SeekFrom::Start(0)).expect("it is there");
        file.take(end).read_to_end(&mut bytes).expect("it is read");
        bytes.extend(more);
        let made = written(&bytes);
        assert_eq!(loadable(&made), Ok(Load::AsItIs));
        let found = index_of(&made);
        let table: Vec<Listed> = description(&made, &found, TABLE).expect("a table");
        assert_eq!(table[0].config, blob('c'));
        assert_eq!(table[0].layers, [blob('d'), blob('e')]);
        assert!(found.contains_key(&blob('e')));

        let told = |files: &[(String, String)]| loadable(&pack(files)).expect_err("no image");
        assert!(
            told(&files[..6]).contains("lacks the blob"),
            "{}",
            told(&files[..6])
        );
        assert!(told(&files[..2]).contains("lacks the blob"));
        let foreign = serde_json::json!({"manifests": [
            {"digest": digest('a'), "platform": platform("s390x")}]});
        let foreign = [("index.json".to_owned(), foreign.to_string())];
        assert!(told(&foreign).contains("no image for linux"));
        let two =
            serde_json::json!({"manifests": [{"digest": digest('a')}, {"digest": digest('b')}]});
        assert!(told(&[("index.json".to_owned(), two.to_string())]).contains("2 images"));
        assert!(told(&[("etc/passwd".to_owned(), String::new())]).contains("no image"));
        // A list that holds itself.
        let itself = serde_json::json!({"manifests": [{"digest": digest('a')}]}).to_string();
        let itself = [
            ("index.json".to_owned(), itself.clone()),
            (blob('a'), itself),
        ];
        assert!(told(&itself).contains("inside each other"));
    }

    fn index_of(file: &File) -> Index {
        index(file).expect("it is read")
    }

    #[test]
    fn what_is_no_archive_or_damaged_has_no_layers() {
        let whole = archive(&[("manifest.json", b"[{}, 7, {\"Config\": \"manifest.json\"}]")]);
        assert_eq!(layers(&whole).expect("it is read"), []);
        // A long name in an entry of its own is not read.
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("{}/layer.tar", "x".repeat(4_000));
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder
            .append_data(&mut header, &long, &b"x"[..])
            .expect("it is packed");
        let packed = written(&builder.into_inner().expect("it ends"));
        let names = index(&packed).expect("it is read");
        assert!(!names.contains_key(&long), "it was read");
        for bytes in [&b""[..], b"no archive", &[0; 4096], &[0xff; 2048]] {
            assert_eq!(layers(&written(bytes)).expect("it is read"), []);
        }
    }
}

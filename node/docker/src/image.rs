//! Images: pulled from a registry, loaded from an archive, or imported.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bollard::Docker;
use bollard::body_full;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ImportImageOptions, ListImagesOptions, RemoveImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use crate::archive::{self, Layer, Load};
use crate::chain;
use crate::container::root_body;
use crate::death::remove;
use crate::engine::{Engine, Unavailable};

/// When an image is fetched from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// When the engine does not have it.
    #[default]
    Missing,
    /// At every deployment.
    Always,
    /// Not at all.
    Never,
}

/// Where the image of a function comes from.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// A registry, by reference.
    Registry {
        /// As `docker pull` takes it.
        reference: String,
        /// When to fetch it.
        pull: Pull,
    },
    /// A file as `docker save` writes it, or with an OCI layout, with one image.
    Archive(PathBuf),
}

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its size on the engine's disk.
    pub bytes: u64,
    /// Whether the engine had it only when it was asked for.
    pub is_new: bool,
}

/// An image of the engine as an archive.
#[derive(Debug)]
pub struct Export {
    /// The archive, which is gone with this handle.
    pub file: File,
    /// How long it is.
    pub bytes: u64,
    /// What lies where in it.
    pub layers: Vec<Layer>,
}

/// Images that are looked at for layers, and that are tried to be exported.
const INSPECTED: usize = 256;
const EXPORTS: usize = 4;

/// An image is exported when at least this part of it is wanted: one in so many
/// bytes.
const WORTH: u64 = 4;

/// Why there is no image to start.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The engine cannot be used now: later it may.
    #[error(transparent)]
    Engine(#[from] Unavailable),
    /// The image itself is at fault.
    #[error("{0}")]
    Image(String),
}

impl Engine {
    /// Has the engine get an image.
    pub async fn image(&self, source: &ImageSource) -> Result<Image, ImageError> {
        let docker = self.docker().await?;
        match source {
            ImageSource::Registry { reference, pull } => {
                let before = inspect(&docker, reference).await?;
                match (before, pull) {
                    (Some(image), Pull::Missing | Pull::Never) => Ok(describe(&image, false)),
                    (None, Pull::Never) => Err(ImageError::Image(format!(
                        "the engine has no image {reference}, and pulling it is not wanted \
                         (--pull never)"
                    ))),
                    (before, Pull::Always | Pull::Missing) => {
                        fetch(&docker, reference).await?;
                        let image = inspect(&docker, reference).await?.ok_or_else(|| {
                            ImageError::Image(format!("{reference} was pulled and is not there"))
                        })?;
                        let is_new = before.is_none_or(|before| before.id != image.id);
                        Ok(describe(&image, is_new))
                    }
                }
            }
            ImageSource::Archive(path) => load(&docker, path).await,
        }
    }

    /// Writes images that have some of these layers (by digest, with their
    /// lengths) to files without a name, each an archive whose layers are told
    /// with it: images of which at least a part in [`WORTH`] is wanted, and
    /// `room` bytes of them in all. `folder` says on which disk.
    pub async fn export(
        &self,
        wanted: &[([u8; 32], u64)],
        folder: &Path,
        mut room: u64,
    ) -> Result<Vec<Export>, Unavailable> {
        let docker = self.docker().await?;
        let mut wanted: HashMap<[u8; 32], u64> = wanted.iter().copied().collect();
        let mut images = Vec::new();
        let listed = docker.list_images(None::<ListImagesOptions>).await?;
        for image in listed.into_iter().take(INSPECTED) {
            // It may be gone by now.
            if let Ok(image) = docker.inspect_image(&image.id).await {
                images.push(image);
            }
        }
        let mut exports = Vec::new();
        for _ in 0..EXPORTS {
            let Some(id) = most_wanted(&images, &wanted, room) else {
                break;
            };
            images.retain(|image| image.id.as_ref() != Some(&id));
            let export = match save(&docker, &id, folder, room).await {
                Ok(export) => export,
                Err(error) => {
                    tracing::debug!(image = %id, %error, "cannot take layers out of an image");
                    continue;
                }
            };
            room = room.saturating_sub(export.bytes);
            for layer in &export.layers {
                wanted.remove(&layer.digest);
            }
            exports.push(export);
        }
        Ok(exports)
    }

    /// Removes an image unless something else uses it; `false` when it does.
    pub async fn remove_image(&self, id: &str) -> Result<bool, Unavailable> {
        let docker = self.docker().await?;
        let options = RemoveImageOptionsBuilder::default().build();
        match docker.remove_image(id, Some(options), None).await {
            Ok(_) => Ok(true),
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(true),
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 409, ..
            }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes sure that the engine can bound what a container of `image` writes
    /// to its root.
    pub async fn check_root(&self, image: &str, bytes: u64) -> Result<(), ImageError> {
        let docker = self.docker().await?;
        let body = root_body(self.node(), image, bytes);
        match docker.create_container(None, body).await {
            Ok(created) => {
                remove(&docker, &created.id).await;
                Ok(())
            }
            Err(bollard::errors::Error::DockerResponseServerError { message, .. }) => {
                Err(ImageError::Image(format!(
                    "this engine cannot bound what a container writes to its root, and so no \
                     function may ({message}): leave --read-write out and write to /tmp"
                )))
            }
            Err(error) => Err(Unavailable::from(error).into()),
        }
    }

    /// What an image says of the containers that are made of it; `None` when
    /// the engine does not have the image.
    pub(crate) async fn image_wishes(&self, id: &str) -> Result<Option<Wishes>, ImageError> {
        let docker = self.docker().await?;
        let found = inspect(&docker, id).await?;
        Ok(found.map(|image| {
            let config = image.config.unwrap_or_default();
            let exposed = config.exposed_ports.unwrap_or_default();
            Wishes {
                user: config.user.unwrap_or_default(),
                port: only_port(&exposed),
            }
        }))
    }
}

/// What an image says of the containers that are made of it.
pub(crate) struct Wishes {
    /// Whom they run as, empty for root.
    pub(crate) user: String,
    /// The TCP port that it exposes, if it is a single one.
    pub(crate) port: Option<u16>,
}

/// The one TCP port among ports as images write them: `3000/tcp`.
fn only_port(exposed: &[String]) -> Option<u16> {
    let mut ports = exposed
        .iter()
        .filter_map(|text| text.strip_suffix("/tcp").unwrap_or(text).parse().ok());
    match (ports.next(), ports.next()) {
        (Some(port), None) => Some(port),
        _ => None,
    }
}

/// The image with most of what is wanted that is worth it and has room.
fn most_wanted(
    images: &[ImageInspect],
    wanted: &HashMap<[u8; 32], u64>,
    room: u64,
) -> Option<String> {
    let worth = images.iter().filter_map(|image| {
        let layers = image.root_fs.as_ref()?.layers.as_ref()?;
        let layers = layers.iter().filter_map(|layer| archive::digest_in(layer));
        let gain: u64 = layers.filter_map(|layer| wanted.get(&layer)).sum();
        let bytes = u64::try_from(image.size?).ok()?;
        let worth = gain > 0 && bytes <= room && bytes <= gain.saturating_mul(WORTH);
        worth.then_some((gain, image.id.clone()?))
    });
    worth.max_by_key(|(gain, _)| *gain).map(|(_, id)| id)
}

async fn save(docker: &Docker, id: &str, folder: &Path, room: u64) -> io::Result<Export> {
    let folder = folder.to_owned();
    let made = tokio::task::spawn_blocking(move || nameless(&folder)).await?;
    let mut file = tokio::fs::File::from_std(made?);
    let mut saved = docker.export_image(id);
    let mut bytes = 0;
    while let Some(piece) = saved.next().await {
        let piece = piece.map_err(io::Error::other)?;
        bytes += piece.len() as u64;
        if bytes > room {
            return Err(io::Error::other("it is larger than it says"));
        }
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    let file = file.into_std().await;
    let read = tokio::task::spawn_blocking(move || {
        let layers = archive::layers(&file)?;
        Ok(Export {
            file,
            bytes,
            layers,
        })
    });
    read.await?
}

/// A file that nobody else can open, and that is gone when it is closed.
fn nameless(folder: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("{}.{number}.export", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

fn describe(image: &ImageInspect, is_new: bool) -> Image {
    Image {
        id: image.id.clone().unwrap_or_default(),
        bytes: image
            .size
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or(0),
        is_new,
    }
}

async fn inspect(docker: &Docker, reference: &str) -> Result<Option<ImageInspect>, ImageError> {
    match docker.inspect_image(reference).await {
        Ok(image) => Ok(Some(image)),
        Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(None),
        Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 400,
            message,
        }) => Err(ImageError::Image(message)),
        Err(error) => Err(Unavailable::from(error).into()),
    }
}

async fn fetch(docker: &Docker, reference: &str) -> Result<(), ImageError> {
    // Without a tag the engine would fetch all of them.
    let last = reference.rsplit('/').next().unwrap_or(reference);
    let tagged = last.contains(':') || last.contains('@');
    let options = CreateImageOptionsBuilder::default().from_image(reference);
    let options = match tagged {
        true => options,
        false => options.tag("latest"),
    };
    let mut progress = docker.create_image(Some(options.build()), None, None);
    while let Some(step) = progress.next().await {
        step.map_err(|error| ImageError::Image(format!("pull {reference}: {}", chain(&error))))?;
    }
    Ok(())
}

/// Loads an archive that holds one image.
async fn load(docker: &Docker, path: &Path) -> Result<Image, ImageError> {
    let broken = |error: &dyn std::error::Error| {
        ImageError::Image(format!("load the image archive: {}", chain(error)))
    };
    let before = docker.list_images(None::<ListImagesOptions>).await;
    let before = before.map_err(Unavailable::from)?;
    let owned = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || -> Result<_, String> {
        let told = |error: io::Error| format!("read the image archive: {error}");
        let mut file = File::open(owned).map_err(told)?;
        let load = archive::loadable(&file)?;
        file.rewind().map_err(told)?;
        Ok((file, load))
    });
    let looked = looked.await.map_err(|error| broken(&error))?;
    let (file, load) = looked.map_err(ImageError::Image)?;
    let (bytes, more) = match load {
        Load::AsItIs => (u64::MAX, Vec::new()),
        Load::WithTable(bytes, more) => (bytes, more),
    };
    let file = tokio::fs::File::from_std(file).take(bytes);
    let file = ReaderStream::new(file.chain(io::Cursor::new(more)));
    let mut loaded = docker.import_image_stream(ImportImageOptions::default(), file, None);
    let mut named = Vec::new();
    while let Some(step) = loaded.next().await {
        let step = step.map_err(|error| broken(&error))?;
        let said = step.stream.unwrap_or_default();
        // `Loaded image: NAME` or `Loaded image ID: sha256:...`
        if let Some((_, name)) = said
            .split_once("Loaded image: ")
            .or_else(|| said.split_once("Loaded image ID: "))
        {
            named.push(name.trim().to_owned());
        }
    }
    match named.as_slice() {
        [one] => {
            let image = inspect(docker, one).await?;
            let gone = || ImageError::Image("the loaded image is not there".to_owned());
            let image = image.ok_or_else(gone)?;
            let is_new = before
                .iter()
                .all(|known| Some(&known.id) != image.id.as_ref());
            Ok(describe(&image, is_new))
        }
        [] => Err(ImageError::Image(
            "the archive holds no image: make it with docker save".to_owned(),
        )),
        [..] => Err(ImageError::Image(format!(
            "the archive holds {} images, and a function is one: save one alone",
            named.len()
        ))),
    }
}

/// Makes an image of a root file system unless the engine has it.
pub(crate) async fn import_if_missing(
    docker: &Docker,
    name: &str,
    archive: impl FnOnce() -> io::Result<Bytes>,
) -> Result<(), ImageError> {
    if inspect(docker, name).await?.is_some() {
        return Ok(());
    }
    let archive = archive().map_err(|error| ImageError::Image(error.to_string()))?;
    let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(repository)
        .tag(tag)
        .build();
    let imported = docker.create_image(Some(options), Some(body_full(archive)), None);
    imported
        .try_for_each(|_| async { Ok(()) })
        .await
        .map_err(|error| Unavailable::from(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_exposed_port_is_known() {
        let check = |ports: &[&str], expected| {
            let ports: Vec<_> = ports.iter().map(|port| (*port).to_owned()).collect();
            assert_eq!(only_port(&ports), expected, "{ports:?}");
        };
        check(&["3000/tcp"], Some(3000));
        check(&["3000"], Some(3000));
        check(&["3000/tcp", "53/udp"], Some(3000));
        check(&["3000/tcp", "3001/tcp"], None);
        check(&["53/udp"], None);
        check(&["70000/tcp"], None);
        check(&[], None);
    }
}

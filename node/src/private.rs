//! Files for their owner alone: secrets of one line (tokens and passwords), keys
//! and what else a node keeps. What others of the machine may read is no secret,
//! and is not taken for one.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::disk::TempFile;

/// Largest file that is read, in bytes.
const BYTES: u64 = 4096;

/// Permissions that such a file must not have: any for others, and to write
/// for its group. The group may read it, as mounted secrets often have it.
const TOO_OPEN: u32 = 0o027;

/// Reads a secret of one line and at least `least` characters.
///
/// # Errors
/// When the file cannot be read, holds less, or is open to others.
pub fn read_line(path: &Path, least: usize) -> io::Result<String> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o777;
    if metadata.is_file() && mode & TOO_OPEN != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "others may read or change the file (its mode is {mode:o}): run chmod 600 on it, \
                 or mount it with mode 0400"
            ),
        ));
    }
    let mut text = String::new();
    file.take(BYTES).read_to_string(&mut text)?;
    let text = text.trim_end_matches(['\r', '\n']);
    let wrong = |message: String| Err(io::Error::new(io::ErrorKind::InvalidData, message));
    match text.chars().count() {
        0 => wrong("the file is empty: write a secret into it, or remove it".to_owned()),
        count if count < least => wrong(format!(
            "{count} characters are guessed too easily: write at least {least}, as \
             `head -c 32 /dev/urandom | base64` makes them"
        )),
        _ => Ok(text.to_owned()),
    }
}

/// Writes a file, whole or not at all, for its owner alone: under a temporary
/// name, flushed, renamed, and then its folder flushed. All small files that a
/// node keeps are written by it. It blocks for as long as the disk takes.
///
/// # Errors
/// When it, or its folder, cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = TempFile::create(path.with_extension("new"))?;
    file.write(bytes)?;
    file.keep(path)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_may_read_and_what_is_short_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        let check = |mode: u32, text: &str| {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
            read_line(&path, 4).map_err(|error| error.to_string())
        };
        assert_eq!(
            check(0o600, "long enough\r\n"),
            Ok("long enough".to_owned())
        );
        assert_eq!(check(0o440, "1234"), Ok("1234".to_owned()));
        for (mode, text, expected) in [
            (0o644, "long enough", "mode is 644"),
            (0o604, "long enough", "mode is 604"),
            (0o620, "long enough", "chmod 600"),
            (0o600, "\n", "empty"),
            (0o600, "123\n", "at least 4"),
        ] {
            let error = check(mode, text).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("kept");
        // What a crash left.
        fs::write(folder.path().join("kept.new"), "half of something longer").expect("written");
        for text in ["first", "two"] {
            write(&path, text.as_bytes()).expect("there is room");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
        }
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let files = fs::read_dir(folder.path()).expect("it is ours").count();
        assert_eq!(files, 1);
        let nowhere = folder.path().join("missing").join("file");
        assert!(write(&nowhere, b"").is_err());
    }
}

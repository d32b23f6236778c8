//! How commands find the token of a node on the same machine: the node leaves a
//! note in its user's runtime folder, by the port of its door.

use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weir_node::private;

/// Largest note that is read.
const NOTE_BYTES: u64 = 16 << 10;

/// What the note says.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    process: i32,
    token_file: PathBuf,
}

/// The note of a running node; dropping it removes it.
#[derive(Debug)]
pub struct Note(PathBuf);

impl Drop for Note {
    fn drop(&mut self) {
        // Another node may have the port by now.
        if read(&self.0).is_some_and(|note| note.process == own_process()) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn own_process() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The folder of notes: in `XDG_RUNTIME_DIR`, or where that would be. `None`
/// where this user has no such folder.
fn folder(environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let user = rustix::process::geteuid();
    let given = environment("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = match given.filter(|path| path.is_absolute()) {
        Some(given) => given,
        None if user.is_root() => "/run".into(),
        None => format!("/run/user/{}", user.as_raw()).into(),
    };
    base.is_dir().then(|| base.join("weir"))
}

fn path(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!("node-{port}.json"))
}

/// Leaves the note of the node whose door has `port`; `None` where there is no
/// place for it.
///
/// # Errors
/// When it cannot be written.
pub fn leave(
    port: u16,
    token_file: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> io::Result<Option<Note>> {
    let Some(folder) = folder(environment) else {
        return Ok(None);
    };
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let written = Written {
        process: own_process(),
        token_file: std::path::absolute(token_file)?,
    };
    let path = path(&folder, port);
    private::write(&path, &serde_json::to_vec(&written)?)?;
    Ok(Some(Note(path)))
}

/// Where the node of this user at `port` has its token, if one runs there.
pub fn find(port: u16, environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let note = read(&path(&folder(environment)?, port))?;
    let process = rustix::process::Pid::from_raw(note.process)?;
    // A note of a node that was killed says where another's token would go.
    rustix::process::test_kill_process(process).ok()?;
    Some(note.token_file)
}

/// The note at `path`, if this user wrote it.
fn read(path: &Path) -> Option<Written> {
    let file = fs::File::open(path).ok()?;
    let user = rustix::process::geteuid().as_raw();
    if file.metadata().ok()?.uid() != user {
        return None;
    }
    let mut text = String::new();
    file.take(NOTE_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_found_while_its_node_runs() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let runtime = dir.path().to_str().expect("text").to_owned();
        let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| runtime.clone());
        let token = dir.path().join("token");
        assert_eq!(find(8080, &environment), None);
        let note = leave(8080, &token, &environment).expect("written");
        assert_eq!(find(8080, &environment), Some(token.clone()));
        assert_eq!(find(8081, &environment), None);
        drop(note);
        assert_eq!(find(8080, &environment), None);
        // Nobody has the highest number there is.
        let gone = Written {
            process: i32::MAX,
            token_file: token,
        };
        let path = path(&dir.path().join("weir"), 8080);
        fs::write(path, serde_json::to_vec(&gone).expect("plain")).expect("written");
        assert_eq!(find(8080, &environment), None);
    }

    #[test]
    fn without_a_runtime_folder_there_is_no_note() {
        let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/nowhere".to_owned());
        let note = leave(1, Path::new("/token"), &environment).expect("no error");
        assert!(note.is_none());
    }
}

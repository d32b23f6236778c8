//! Files that a member keeps, written on a thread of their own: a slow disk must
//! hold up neither heartbeats nor the views by which calls are placed.
//!
//! What is asked for is done in turn. Of several writes of one file that wait
//! only the newest is done, which answers for all of them. The thread ends when
//! there is nothing left to write.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;
use weir_node::private;

/// Those who may wait for one file to be written; beyond it a write is refused.
const WAITING_MAX: usize = 4_096;

type Told = Box<dyn FnOnce(io::Result<()>) + Send>;
type Write = dyn Fn(&Path, &[u8]) -> io::Result<()> + Send + Sync;

struct Job {
    path: PathBuf,
    bytes: Vec<u8>,
    told: Vec<Told>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Whether there is a thread that works.
    works: bool,
}

struct Inner {
    state: Mutex<State>,
    /// There is nothing left to do.
    idle: Condvar,
    write: Box<Write>,
}

/// Writes files. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Files(Arc<Inner>);

impl Files {
    pub(crate) fn new() -> Files {
        Files::with(private::write)
    }

    /// Writes with `write`: tests have slow disks.
    pub(crate) fn with(
        write: impl Fn(&Path, &[u8]) -> io::Result<()> + Send + Sync + 'static,
    ) -> Files {
        Files(Arc::new(Inner {
            state: Mutex::default(),
            idle: Condvar::new(),
            write: Box::new(write),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Writes a file, whole or not at all, and tells what came of it. Returns at
    /// once; a write that was begun is done before the process ends by itself
    /// only if [`Files::finish`] is called.
    pub(crate) fn save(
        &self,
        path: PathBuf,
        bytes: Vec<u8>,
        told: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let told = Box::new(told);
        let mut state = self.state();
        match state.waiting.iter_mut().find(|job| job.path == path) {
            Some(job) if job.told.len() >= WAITING_MAX => {
                drop(state);
                let full = "too many wait for this file to be written";
                return told(Err(io::Error::other(full)));
            }
            Some(job) => {
                job.bytes = bytes;
                job.told.push(told);
            }
            None => state.waiting.push_back(Job {
                path,
                bytes,
                told: vec![told],
            }),
        }
        if state.works {
            return;
        }
        state.works = true;
        drop(state);
        let files = self.clone();
        let thread = std::thread::Builder::new().name("files".to_owned());
        if thread.spawn(move || files.work()).is_err() {
            // Better late than lost.
            self.work();
        }
    }

    /// The same, to wait for.
    pub(crate) fn saved(&self, path: PathBuf, bytes: Vec<u8>) -> Saved {
        let (tell, told) = oneshot::channel();
        self.save(path, bytes, |result| _ = tell.send(result));
        Saved(told)
    }

    /// The same, for threads that may wait.
    pub(crate) fn saving(&self, path: PathBuf, bytes: Vec<u8>) -> Saving {
        let (tell, told) = mpsc::channel();
        self.save(path, bytes, move |result| _ = tell.send(result));
        Saving(told)
    }

    /// Writes a file, and waits for that: for threads that may wait.
    pub(crate) fn save_now(&self, path: PathBuf, bytes: Vec<u8>) -> io::Result<()> {
        self.saving(path, bytes).wait()
    }

    fn work(&self) {
        loop {
            let mut state = self.state();
            let Some(job) = state.waiting.pop_front() else {
                state.works = false;
                self.0.idle.notify_all();
                return;
            };
            drop(state);
            let done = (self.0.write)(&job.path, &job.bytes);
            for told in job.told {
                let again = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
                told(done.as_ref().copied().map_err(again));
            }
        }
    }

    /// Waits until all that was asked for is done.
    pub(crate) fn finish(&self) {
        let mut state = self.state();
        while state.works {
            self.0.idle.wait(&mut state);
        }
    }
}

/// A write that is under way, for a thread that waits for it.
pub(crate) struct Saving(mpsc::Receiver<io::Result<()>>);

impl Saving {
    /// Waits for it.
    pub(crate) fn wait(self) -> io::Result<()> {
        let stopped = || Err(io::Error::other("it was not written"));
        self.0.recv().unwrap_or_else(|_| stopped())
    }
}

/// A write that is under way, for a task that waits for it.
pub(crate) struct Saved(oneshot::Receiver<io::Result<()>>);

impl Saved {
    /// Waits for it.
    pub(crate) async fn done(self) -> io::Result<()> {
        let stopped = || io::Error::other("it was not written");
        self.0.await.unwrap_or_else(|_| Err(stopped()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_holds_nobody_up_and_the_newest_content_wins() {
        let (begin, begun) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let gone = Mutex::new(gone);
        let files = Files::with(move |path, bytes| {
            let _ = begin.send((path.to_owned(), bytes.to_vec()));
            gone.lock().recv().map_err(io::Error::other)
        });
        let (tell, told) = mpsc::channel();
        let save = |name: &str, bytes: &[u8]| {
            let (name, tell) = (name.to_owned(), tell.clone());
            files.save(PathBuf::from(&name), bytes.to_vec(), move |done| {
                let _ = tell.send((name, done.is_ok()));
            });
        };
        save("one", b"1");
        assert_eq!(begun.recv(), Ok((PathBuf::from("one"), b"1".to_vec())));
        save("other", b"old");
        save("one", b"2");
        save("other", b"new");
        assert!(told.try_recv().is_err());
        for expected in [("other", b"new".to_vec()), ("one", b"2".to_vec())] {
            go.send(()).expect("it waits");
            assert_eq!(begun.recv(), Ok((PathBuf::from(expected.0), expected.1)));
        }
        // The disk is gone: whoever waits hears so.
        drop(go);
        files.finish();
        let ok = |name: &str| (name.to_owned(), true);
        let all: Vec<_> = told.try_iter().collect();
        let expected = [
            ok("one"),
            ok("other"),
            ok("other"),
            ("one".to_owned(), false),
        ];
        assert_eq!(all, expected);
    }
}

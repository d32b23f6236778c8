//! How a node's place in its federation ends: its tasks, threads and sockets.

use std::future::Future;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::Federated;

/// What ends tasks, and tells when they have ended.
pub(super) struct Stopping {
    stops: watch::Sender<bool>,
    /// Held by each task too; gone once nothing more is to begin.
    alive: Mutex<Option<mpsc::Sender<()>>>,
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
    /// The thread of the loop, until somebody waits for its end.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Stopping {
    pub(super) fn new() -> Stopping {
        let (alive, ended) = mpsc::channel(1);
        Stopping {
            stops: watch::Sender::new(false),
            alive: Mutex::new(Some(alive)),
            ended: tokio::sync::Mutex::new(ended),
            thread: Mutex::default(),
        }
    }

    /// Becomes true when everything is to end.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.stops.subscribe()
    }

    pub(super) fn keep(&self, thread: JoinHandle<()>) {
        *self.thread.lock() = Some(thread);
    }
}

impl Federated {
    /// Runs a task until it ends, or this node's place in its federation does:
    /// then it is dropped where it waits. After that nothing begins any more.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(alive) = self.stopping.alive.lock().clone() else {
            return;
        };
        let mut stops = self.stopping.watch();
        let task = Box::pin(task);
        tokio::spawn(async move {
            let _alive = alive;
            tokio::select! {
                () = task => {}
                _ = stops.wait_for(|stops| *stops) => {}
            }
        });
    }

    /// Ends this node's place in its federation: tasks, threads, links, sockets
    /// and connections for calls, without a farewell (that is
    /// [`Federated::leave`]). What it keeps is on disk when this returns, and its
    /// folder and addresses can be used again.
    pub async fn stop(&self) {
        let stopping = &self.stopping;
        stopping.stops.send_replace(true);
        drop(stopping.alive.lock().take());
        let mut ended = stopping.ended.lock().await;
        while ended.recv().await.is_some() {}
        self.overlay.stop().await;
        self.carriage.cut_all();
        self.acceptor.cut_all();
        let thread = stopping.thread.lock().take();
        let files = self.shared.member.files().clone();
        let finished = tokio::task::spawn_blocking(move || {
            let joined = thread.map(JoinHandle::join);
            files.finish();
            joined
        });
        if !matches!(finished.await, Ok(None | Some(Ok(())))) {
            tracing::error!("what looks after the federation ended by itself");
        }
    }
}

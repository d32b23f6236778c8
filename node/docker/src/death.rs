//! Ends of containers: how one ended, and that nothing is left of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bollard::Docker;
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use tokio::sync::watch;

use crate::chain;
use crate::engine::Engine;
use crate::sandbox::Folder;

/// How a container ended.
#[derive(Debug, Default)]
pub(crate) struct Death {
    out_of_memory: AtomicBool,
    /// Whether there is a reason: each call asks.
    is_over: AtomicBool,
    reason: watch::Sender<Option<String>>,
}

impl Death {
    /// The kernel killed something in it for want of memory; mostly all of it.
    pub(crate) fn ran_out_of_memory(&self) {
        self.out_of_memory.store(true, Ordering::Relaxed);
    }

    pub(crate) fn died(&self, reason: String) {
        let reason = match self.out_of_memory.load(Ordering::Relaxed) {
            true => "it used more memory than its limit and was killed".to_owned(),
            false => reason,
        };
        self.reason.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason);
                self.is_over.store(true, Ordering::Release);
            }
            first
        });
    }

    /// Whether it ended. Takes no lock.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Why it ended; `None` while it lives.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> String {
        let mut reason = self.reason.subscribe();
        let ended = reason.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(reason)) => reason.clone(),
            Ok(None) | Err(_) => "it ended".to_owned(),
        }
    }
}

/// A container that was created; removed when dropped, with its folder.
pub(crate) struct Scrap {
    engine: Engine,
    container: String,
    death: Arc<Death>,
    _folder: Folder,
}

impl Scrap {
    pub(crate) fn new(
        engine: Engine,
        container: String,
        death: Arc<Death>,
        folder: Folder,
    ) -> Scrap {
        Scrap {
            engine,
            container,
            death,
            _folder: folder,
        }
    }

    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn death(&self) -> &Arc<Death> {
        &self.death
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        let engine = self.engine.clone();
        let container = std::mem::take(&mut self.container);
        self.engine.spawn(async move {
            // Known until it is gone, so that no sweep takes it for another's.
            if let Ok(docker) = engine.docker().await {
                remove(&docker, &container).await;
            }
            engine.deaths().remove(&container);
        });
    }
}

/// Removes a container with all that is in it; logs why where that fails.
pub(crate) async fn remove(docker: &Docker, container: &str) {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    match docker.remove_container(container, Some(options)).await {
        Ok(()) => {}
        // Gone already, or on its way.
        Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 404 | 409,
            ..
        }) => {}
        Err(error) => {
            tracing::warn!(%container, error = %chain(&error), "a container cannot be removed");
        }
    }
}

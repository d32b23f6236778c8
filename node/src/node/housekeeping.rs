//! What is done when its time has come: by the scheduler, and with old results
//! and artifacts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::Inner;
use crate::panics;

/// How often results and artifacts are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Inner {
    pub(super) fn keep_house(self: Arc<Self>) {
        let (stop, runtime, tasks) = (self.stop.clone(), self.runtime.clone(), self.tasks.clone());
        // Calls wait on while the node drains, and its drain for them.
        let cut = self.cut.clone();
        let inner = self.clone();
        let expiring = async move {
            while panics::contain(expire(&inner)).await.is_err() {
                panics::rest("timers").await;
            }
        };
        runtime.spawn(async move {
            let _ = cut.run_until_cancelled(expiring).await;
        });
        let inner = self.clone();
        let watching = async move {
            while panics::contain(inner.clone().watch_usage()).await.is_err() {
                panics::rest("learning what functions need").await;
            }
        };
        let sweeping = async move {
            while panics::contain(sweep(&self)).await.is_err() {
                panics::rest("tidying up").await;
            }
        };
        tasks.spawn_on(
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = watching => {}
                    () = sweeping => {}
                }
            },
            &runtime,
        );
    }
}

/// Does what is due by time alone, when it is. Sleeps while nothing is.
async fn expire(inner: &Arc<Inner>) {
    loop {
        let earlier = inner.timers.earlier();
        let next = inner.expire();
        match next.and_then(|next| inner.clock.instant(next)) {
            Some(next) => tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = earlier => {}
            },
            None => earlier.await,
        }
    }
}

async fn sweep(inner: &Arc<Inner>) {
    loop {
        sweep_once(inner).await;
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

async fn sweep_once(inner: &Arc<Inner>) {
    match inner.store.expire(Timestamp::now()).await {
        Ok(0) => {}
        Ok(removed) => tracing::debug!(removed, "results expired"),
        Err(error) => tracing::warn!(%error, "old results cannot be removed"),
    }
    if let Ok(counts) = inner.store.counts().await {
        inner.backlog.set_results(counts.results);
    }
    let specs = inner.functions.iter();
    let specs: Vec<_> = specs.flat_map(|function| function.specs()).collect();
    for executor in &inner.executors {
        executor.tidy(specs.clone()).await;
    }
    let sweeping = inner.clone();
    let swept = tokio::task::spawn_blocking(move || {
        for digest in sweeping.artifacts.sweep(SystemTime::now()) {
            for executor in &sweeping.executors {
                executor.forget(&digest);
            }
            tracing::debug!(%digest, "artifact removed");
        }
        let compiled = sweeping
            .executors
            .iter()
            .map(|executor| executor.cached_bytes())
            .sum();
        sweeping.artifacts.set_compiled_bytes(compiled);
    });
    if let Err(error) = swept.await {
        tracing::error!(%error, "artifacts cannot be swept");
    }
}

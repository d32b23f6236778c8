//! The end of what a container wrote, which explains why it did not start.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Bytes of the last log lines that explain a failed start.
pub(super) const LAST_WORDS: usize = 4 << 10;

/// How long the end of what a container wrote is waited for once it has died.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(500);

/// The end of what a container wrote.
#[derive(Default)]
pub(super) struct LastWords {
    end: Mutex<VecDeque<u8>>,
    /// Whether more was written before than is kept.
    is_cut: AtomicBool,
    over: CancellationToken,
}

impl LastWords {
    pub(super) fn note(&self, piece: &[u8]) {
        let mut end = self.end.lock();
        let kept = &piece[piece.len().saturating_sub(LAST_WORDS)..];
        let surplus = (end.len() + kept.len()).saturating_sub(LAST_WORDS);
        if surplus > 0 || kept.len() < piece.len() {
            self.is_cut.store(true, Ordering::Relaxed);
        }
        end.drain(..surplus);
        end.extend(kept);
    }

    /// Nothing more will be written.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    pub(super) async fn ended(&self) {
        let _ = tokio::time::timeout(LAST_WORDS_WAIT, self.over.cancelled()).await;
    }

    /// The reason with the last lines, each from its beginning.
    pub(super) fn explain(&self, reason: &str) -> String {
        let mut end = self.end.lock();
        let text = String::from_utf8_lossy(end.make_contiguous());
        let is_cut = self.is_cut.load(Ordering::Relaxed);
        let lines = match text.split_once('\n') {
            Some((_, lines)) if is_cut && !lines.trim().is_empty() => lines,
            _ => &text,
        };
        match lines.trim() {
            "" => reason.to_owned(),
            words => format!("{reason}; it wrote: {words}"),
        }
    }
}

#[cfg(test)]
mod tests;

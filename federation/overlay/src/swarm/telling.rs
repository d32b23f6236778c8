//! Messages between linked members, gossiped or told on a stream of their own:
//! how many of one link are heard, and what becomes of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tracing::warn;
use weir_federation_core::failure::conduct::Conduct;

use super::driver::Driver;
use crate::host::{Event, Verdict};
use crate::streams::Purpose;

/// Messages that are told to a newly linked peer.
pub(super) const TOLD: usize = 4_096;

/// Longest time that telling them may take.
const TELLING: Duration = Duration::from_secs(30);

/// Longest topic in bytes.
const TOPIC_BYTES: usize = 256;

impl Driver {
    pub(super) fn tell(&mut self, peer: PeerId, messages: Vec<(String, Bytes)>) {
        let messages = Arc::new(messages);
        let streams = &mut self.swarm.behaviour_mut().streams;
        for opened in streams.open_all(peer, Purpose::Sync) {
            let messages = messages.clone();
            tokio::spawn(tokio::time::timeout(TELLING, async move {
                let mut stream = opened.await.ok()?.ok()?;
                for (topic, message) in &*messages {
                    let head = [topic.len() as u32, message.len() as u32];
                    let head = head.map(u32::to_be_bytes).concat();
                    let framed = [&head, topic.as_bytes(), message].concat();
                    stream.write_all(&framed).await.ok()?;
                }
                stream.close().await.ok()
            }));
        }
    }

    pub(super) fn listen_to(&mut self, peer: PeerId, mut stream: Stream) {
        let (told, longest) = (self.told.clone(), self.message_bytes);
        tokio::spawn(tokio::time::timeout(TELLING, async move {
            for _ in 0..TOLD {
                let mut head = [0; 8];
                stream.read_exact(&mut head).await.ok()?;
                let length = |at: usize| {
                    let bytes = head[at..at + 4].try_into().expect("4 of 8 bytes");
                    u32::from_be_bytes(bytes) as usize
                };
                let (topic, message) = (length(0), length(4));
                if topic > TOPIC_BYTES || message > longest {
                    return None;
                }
                let mut both = vec![0; topic + message];
                stream.read_exact(&mut both).await.ok()?;
                let message = Bytes::from(both.split_off(topic));
                let topic = String::from_utf8(both).ok()?;
                told.send((peer, topic, message)).await.ok()?;
            }
            Some(())
        }));
    }

    /// A message that a link told us is passed on when it is new: others may
    /// have missed it too.
    pub(super) fn hear_told(&mut self, peer: PeerId, topic: &str, message: Bytes) {
        // A topic of the teller's choice would be one more for each to keep.
        if self.hear(peer, &message) == Verdict::Accept && self.topics.contains(topic) {
            self.publish(topic, message);
        }
    }

    pub(super) fn hear(&mut self, link: PeerId, message: &[u8]) -> Verdict {
        let now = self.now();
        let conduct = self.conduct.entry(link);
        let conduct = conduct.or_insert_with(|| Conduct::new(now));
        if !conduct.may_bring(message.len(), now) {
            self.counters.hurried.fetch_add(1, Ordering::Relaxed);
            return Verdict::Ignore;
        }
        let bytes = message.len() as u64;
        self.counters
            .heard_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        let verdict = self.host.hear(message);
        if verdict == Verdict::Reject && conduct.lied() {
            warn!(peer = %link, "cut a link that passes on what no honest member says");
            let _ = self.swarm.disconnect_peer_id(link);
            self.host.happened(Event::Lied(link));
        }
        verdict
    }
}

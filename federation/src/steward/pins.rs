//! Code that is kept for the federation: by the writer of a function and as
//! many others as its deployer asked for, so that it outlives their nodes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use libp2p_identity::PeerId;
use tracing::debug;
use weir_node::Node;
use weir_node::executor::Body;
use weir_node::id::{Digest, FunctionName};
use weir_node::time::Time;

use super::AdoptError;
use super::exchange::{ARTIFACT, Exchange, HOLDERS, digest_in};
use crate::catalogue::{CodeRef, Entry, FUNCTIONS};
use crate::federated::Federated;
use crate::message::ENVELOPE_BYTES;

/// How long a deployment waits until others keep its code.
const SETTLING: Duration = Duration::from_secs(10);

/// Artifacts that are being fetched to be kept, at once.
const PINNINGS: usize = 16;

/// How long code is kept that others should keep.
const UNWANTED: Duration = Duration::from_secs(600);

/// The artifacts that a node keeps for the federation.
pub(super) struct Pins {
    node: Node,
    federated: Federated,
    exchange: Arc<Exchange>,
    /// When it was last one of those who should.
    kept: DashMap<Digest, Time>,
    /// One pinning at a time for each; others wait for it.
    pinning: DashMap<Digest, Arc<tokio::sync::Mutex<()>>>,
}

impl Pins {
    pub(super) fn new(node: Node, federated: Federated, exchange: Arc<Exchange>) -> Pins {
        Pins {
            node,
            federated,
            exchange,
            kept: DashMap::new(),
            pinning: DashMap::new(),
        }
    }

    /// Has others keep the code of a function that was deployed here; how many do
    /// when that is done, or has taken long enough.
    pub(super) async fn settle(&self, name: &FunctionName, code: CodeRef) -> usize {
        let Some(entry) = self.federated.entry(name) else {
            return 1;
        };
        let own = self.federated.shared.id;
        let wanted = entry
            .spec
            .as_ref()
            .map_or(1, |spec| usize::from(spec.copies));
        let mut candidates = self.federated.candidates();
        let began = tokio::time::Instant::now();
        let mut kept = 1;
        // Whoever cannot is passed over, as if it were not there.
        for _ in 0..HOLDERS {
            let keepers = candidates.keepers(&entry);
            let others = keepers.iter().copied().filter(|keeper| *keeper != own);
            let asked: Vec<PeerId> = others.collect();
            let left = SETTLING.saturating_sub(began.elapsed());
            let answers = asked.iter().map(|keeper| {
                let asked = self.ask_to_keep(*keeper, &entry, code);
                async move { matches!(tokio::time::timeout(left, asked).await, Ok(Ok(()))) }
            });
            let answers = futures_util::future::join_all(answers).await;
            kept = 1 + answers.iter().filter(|kept| **kept).count();
            let failed = asked.iter().zip(&answers).filter(|(_, kept)| !**kept);
            let failed: Vec<PeerId> = failed.map(|(keeper, _)| *keeper).collect();
            candidates.leave_out(&failed);
            if failed.is_empty() || left.is_zero() {
                break;
            }
        }
        if kept < wanted {
            debug!(function = %name, kept, wanted, "fewer members keep code than should");
        }
        kept
    }

    async fn ask_to_keep(
        &self,
        keeper: PeerId,
        entry: &Entry,
        code: CodeRef,
    ) -> Result<(), String> {
        let body = Full::new(entry.sealed.clone());
        let request = Request::post("https://weir/artifacts/keep")
            .version(http::Version::HTTP_2)
            .header(ARTIFACT, code.artifact().hex())
            .body(body.map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| error.to_string())?;
        let (response, _using) = self.federated.send(keeper, request).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }

    /// Keeps the code of a function for the federation, fetching it if need be.
    async fn pin(&self, name: &FunctionName, code: CodeRef) -> Result<(), AdoptError> {
        let digest = code.artifact();
        let now = self.federated.shared.clock.now();
        if let Some(mut wanted) = self.kept.get_mut(&digest) {
            *wanted = now;
            return Ok(());
        }
        let many = self.pinning.len() >= PINNINGS && !self.pinning.contains_key(&digest);
        if many || self.kept.len() >= FUNCTIONS {
            return Err(AdoptError::Code(
                "this node keeps too much already".to_owned(),
            ));
        }
        let turn = self.pinning.entry(digest).or_default().clone();
        let pinned = {
            let _turn = turn.lock().await;
            self.pin_now(name, code, now).await
        };
        drop(turn);
        self.pinning
            .remove_if(&digest, |_, turn| Arc::strong_count(turn) == 1);
        pinned
    }

    async fn pin_now(
        &self,
        name: &FunctionName,
        code: CodeRef,
        now: Time,
    ) -> Result<(), AdoptError> {
        let digest = code.artifact();
        if self.kept.contains_key(&digest) {
            return Ok(());
        }
        if !self.node.pin_artifact(&digest) {
            let gone = || AdoptError::Unfit(format!("{name}: it was removed"));
            let entry = self.federated.entry(name).ok_or_else(gone)?;
            self.exchange.fetch(name, &entry, code).await?;
            if !self.node.pin_artifact(&digest) {
                return Err(AdoptError::Code("it was removed at once".to_owned()));
            }
        }
        self.kept.insert(digest, now);
        Ok(())
    }

    /// Keeps what this node should keep, and lets go of the rest after a while.
    pub(super) fn tend(self: &Arc<Self>) {
        let now = self.federated.shared.clock.now();
        let mut begun = 0;
        for (name, code) in self.federated.kept_here() {
            if let Some(mut wanted) = self.kept.get_mut(&code.artifact()) {
                *wanted = now;
                continue;
            }
            // Beyond the bound it fails, and is tried again.
            let pins = Arc::clone(self);
            begun += 1;
            if begun > PINNINGS {
                break;
            }
            tokio::spawn(async move {
                if let Err(error) = pins.pin(&name, code).await {
                    debug!(function = %name, %error, "cannot keep code");
                }
            });
        }
        self.kept.retain(|digest, wanted| {
            let keeps = now.since(*wanted) < UNWANTED;
            if !keeps {
                self.node.unpin_artifact(digest);
            }
            keeps
        });
    }

    /// Keeps the code of a function whose record a member brings.
    pub(super) async fn serve(
        &self,
        asked: &http::request::Parts,
        body: Body,
    ) -> Result<(StatusCode, Bytes), StatusCode> {
        let digest = digest_in(asked)?;
        let body = gather(body).await.ok_or(StatusCode::PAYLOAD_TOO_LARGE)?;
        let name = self.federated.hear_brought(&body);
        let name = name.ok_or(StatusCode::BAD_REQUEST)?;
        let code = self.federated.entry(&name).and_then(|e| e.record.code);
        let code = code.filter(|code| code.artifact() == digest);
        // Another version is known here, or its writer is not believed.
        let code = code.ok_or(StatusCode::CONFLICT)?;
        match self.pin(&name, code).await {
            Ok(()) => Ok((StatusCode::OK, Bytes::new())),
            Err(error) => {
                debug!(function = %name, %error, "cannot keep code");
                Err(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}

/// A record as it was brought; `None` when it is too long, or broke off.
async fn gather(mut body: Body) -> Option<Bytes> {
    let mut gathered = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.ok()?.into_data() {
            gathered.extend_from_slice(&piece);
        }
        if gathered.len() > ENVELOPE_BYTES {
            return None;
        }
    }
    Some(gathered.into())
}

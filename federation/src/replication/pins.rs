//! Code that is kept for the federation: by the writer of a function and as
//! many others as its deployer asked for, so that it outlives their nodes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use libp2p_identity::PeerId;
use parking_lot::Mutex;
use tracing::debug;
use weir_federation_core::replication::Replication;
use weir_federation_core::replication::pins::Pinning;
use weir_federation_core::replication::settling::Settling;
use weir_node::Node;
use weir_node::executor::Body;
use weir_node::id::{Digest, FunctionName};
use weir_node::time::Time;

use super::AdoptError;
use super::exchange::{ARTIFACT, Exchange, digest_in};
use crate::catalogue::{CodeRef, Entry};
use crate::federated::Federated;
use crate::message::ENVELOPE_BYTES;

/// How long a deployment waits until others keep its code.
const SETTLING: Duration = Duration::from_secs(10);

/// The artifacts that a node keeps for the federation.
pub(super) struct Pins {
    node: Node,
    federated: Federated,
    exchange: Arc<Exchange>,
    rules: Arc<Mutex<Replication>>,
    /// One pinning at a time for each; others wait for it.
    pinning: DashMap<Digest, Arc<tokio::sync::Mutex<()>>>,
}

/// One pinning that has begun; says what became of it, be it cancelled.
struct Begun<'a> {
    pins: &'a Pins,
    digest: Digest,
    is_kept: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let now = self.pins.now();
        self.pins
            .rules
            .lock()
            .pinned(self.digest, self.is_kept, now);
    }
}

impl Pins {
    pub(super) fn new(
        node: Node,
        federated: Federated,
        exchange: Arc<Exchange>,
        rules: Arc<Mutex<Replication>>,
    ) -> Pins {
        Pins {
            node,
            federated,
            exchange,
            rules,
            pinning: DashMap::new(),
        }
    }

    /// Has others keep the code of a function that was deployed here; how many do
    /// when that is done, or has taken long enough.
    pub(super) async fn settle(&self, name: &FunctionName, code: CodeRef) -> usize {
        let Some(entry) = self.federated.entry(name) else {
            return 1;
        };
        let wanted = entry
            .spec
            .as_ref()
            .map_or(1, |spec| usize::from(spec.copies));
        let members = (*self.federated.members()).clone();
        let mut settling = Settling::new(self.federated.shared.id, members);
        let began = tokio::time::Instant::now();
        while let Some(asked) = settling.next(&entry) {
            let left = SETTLING.saturating_sub(began.elapsed());
            let answers = asked.iter().map(|keeper| {
                let asked = self.ask_to_keep(*keeper, &entry, code);
                async move { matches!(tokio::time::timeout(left, asked).await, Ok(Ok(()))) }
            });
            let answers = futures_util::future::join_all(answers).await;
            if settling.came(&answers) || left.is_zero() {
                break;
            }
        }
        let kept = settling.kept();
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
    pub(super) async fn pin(&self, name: &FunctionName, code: CodeRef) -> Result<(), AdoptError> {
        let digest = code.artifact();
        match self.rules.lock().pin(digest, self.now()) {
            Pinning::Kept => return Ok(()),
            Pinning::Full => {
                let text = "this node keeps too much already";
                return Err(AdoptError::Code(text.to_owned()));
            }
            Pinning::Begin | Pinning::UnderWay => {}
        }
        let turn = self.pinning.entry(digest).or_default().clone();
        let pinned = {
            let _turn = turn.lock().await;
            let mut begun = Begun {
                pins: self,
                digest,
                is_kept: self.rules.lock().is_pinned(&digest),
            };
            let pinned = match begun.is_kept {
                true => Ok(()),
                false => self.pin_now(name, code).await,
            };
            begun.is_kept = pinned.is_ok();
            pinned
        };
        drop(turn);
        self.pinning
            .remove_if(&digest, |_, turn| Arc::strong_count(turn) == 1);
        pinned
    }

    async fn pin_now(&self, name: &FunctionName, code: CodeRef) -> Result<(), AdoptError> {
        let digest = code.artifact();
        if !self.node.pin_artifact(&digest) {
            let gone = || AdoptError::Unfit(format!("{name}: it was removed"));
            let entry = self.federated.entry(name).ok_or_else(gone)?;
            self.exchange.fetch(name, &entry, code).await?;
            if !self.node.pin_artifact(&digest) {
                return Err(AdoptError::Code("it was removed at once".to_owned()));
            }
        }
        Ok(())
    }

    fn now(&self) -> Time {
        self.federated.shared.clock.now()
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

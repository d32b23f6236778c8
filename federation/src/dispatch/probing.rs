//! Peers that could not be reached are asked whether they are back, so that no
//! call has to find out, and none that is well stays out because nobody calls.

use std::sync::Weak;
use std::time::Duration;

use http::{Method, Request, Version};
use libp2p_identity::PeerId;
use weir_node::executor::Body;
use weir_overlay::Endpoint;

use super::Inner;
use super::offer::to_absolute;
use crate::peers::{ASKED_FOR, Fault, Met};
use crate::report::Load;
use crate::snapshot::Word;
use crate::wire::{self, CARRIAGE, LOOK, Look, Looked};

/// How often it is looked whether somebody is to be asked.
const PAUSE: Duration = Duration::from_millis(250);

/// Peers that are asked at once.
const AT_ONCE: usize = 16;

/// Asks them for as long as there is a node to do so.
pub(super) async fn ask_those_away(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(inner) = inner.upgrade() else { return };
        for (peer, addresses) in inner.federated.to_ask(AT_ONCE) {
            let asking = inner.clone();
            inner
                .federated
                .spawn(async move { asking.ask_whether_back(peer, &addresses).await });
        }
    }
}

/// A peer did not answer.
pub(super) struct Unanswered;

impl Inner {
    /// Asks a peer how loaded it is, over what carries calls; `None` where it
    /// does not say.
    pub(super) async fn ask_load(
        &self,
        peer: PeerId,
        addresses: &[Endpoint],
    ) -> Result<Option<Load>, Unanswered> {
        let mut request = Request::new(Body::default());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        wire::put_in(request.headers_mut(), LOOK, &Look::default());
        to_absolute(&mut request);
        let sent = self.federated.carriage.send(peer, addresses, request);
        match tokio::time::timeout(ASKED_FOR, sent).await {
            Ok(Ok((mut response, _, _))) => {
                let looked: Option<Looked> = wire::take_from(response.headers_mut(), CARRIAGE);
                let load = looked.and_then(|looked| looked.told.load);
                Ok(load.filter(|load| load.is_plausible()))
            }
            Ok(Err(_)) | Err(_) => Err(Unanswered),
        }
    }

    async fn ask_whether_back(&self, peer: PeerId, addresses: &[Endpoint]) {
        let met = match self.ask_load(peer, addresses).await {
            Ok(load) => {
                let under_way = 0;
                Met::Reached(load.map(|load| Word { load, under_way }))
            }
            Err(Unanswered) => Met::Failure(Fault::Unreachable),
        };
        self.federated.met(peer, met);
    }
}
